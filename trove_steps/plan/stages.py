"""The artefacts of a cell, and which of them a run would compute."""

from dataclasses import dataclass, field
from pathlib import Path

from trove_steps.embeddings.paths import dropped_mark
from trove_steps.plan import Cell, Plan
from trove_steps.results import is_complete


@dataclass
class Stage:
    """One artefact of a cell.

    `state` is "there", "needed" (it will be computed) or "unneeded" (absent, but nothing that will be
    computed asks for it). `nearest` is the existing artefact whose recipe is the most alike.
    """

    step: str
    path: Path
    state: str
    reason: str = ""
    nearest: Path | None = None
    differences: list = field(default_factory=list)
    rows: int | None = None
    rows_to_encode: int | None = None

    def as_dict(self) -> dict:
        """Return the stage as JSON holds it."""
        return {
            **vars(self),
            "path": str(self.path),
            "nearest": None if self.nearest is None else str(self.nearest),
            "differences": [vars(difference) for difference in self.differences],
        }


def cell_stages(plan: Plan, cell: Cell) -> list[Stage]:
    """Return the artefacts of a cell in the order in which they are computed, and which are needed."""
    last = []
    if cell.score and "evaluation" in plan.tasks:
        last.append(("score", plan.score_record(cell), "evaluation"))
    if cell.mine and "mining" in plan.tasks:
        last.append(("mine", plan.mine_record(cell), "mining"))
    ends = [
        Stage(step, path, "there" if is_complete(path, plan.fingerprints.file) else "needed")
        for step, path, _ in last
    ]
    searches: dict[Path, str] = {}
    for (_, _, task), end in zip(last, ends, strict=True):
        manifest = plan.search_manifest(cell, task)
        if searches.get(manifest) != "needed":
            searches[manifest] = _state(manifest, end.state == "needed")
    middle = [Stage("search", path, state) for path, state in searches.items()]
    rescored = plan.rescore_manifest(cell)
    if rescored and "mining" in plan.tasks:
        middle.append(Stage("rescore", rescored, _state(rescored, ends[-1].state == "needed")))
    wanted = not last or any(stage.state == "needed" for stage in (*middle, *ends))
    first = []
    for encoding in (cell.corpus, cell.queries):
        manifest = plan.encoding_manifest(encoding)
        state = _state(manifest, wanted)
        if dropped_mark(manifest).exists() and any(stage.state == "needed" for stage in middle):
            state = "needed"
        first.append(Stage(f"{encoding.step} {encoding.role}", manifest, state))
    return [*first, *middle, *ends]


def _state(path: Path, wanted: bool) -> str:
    if path.exists():
        return "there"
    return "needed" if wanted else "unneeded"
