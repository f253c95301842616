"""Why an artefact would be computed: which steps a cell still needs, and how their recipes differ from
those of what is there.

A recipe lies unhashed beside every artefact. The nearest artefact is the one whose recipe differs in
the fewest fields.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trove_steps.embeddings.paths import dropped_mark
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json
from trove_steps.keys import recipe_key
from trove_steps.plan import Cell, Encoding, Plan
from trove_steps.plan.estimate import Estimator
from trove_steps.plan.stages import Stage, cell_stages
from trove_steps.wording import nearest

DIGEST_SHOWN = 8
NOT_SET = "not set"  # options that are off leave no trace in a recipe


@dataclass(frozen=True)
class Difference:
    """One field of two recipes, as a person knows it; `old` and `new` are shown as they are."""

    field: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.field} {self.old} → {self.new}"


def find_target(plan: Plan, target: str) -> list[tuple[Cell, list[str]]]:
    """Return the cells, and the steps of each, that a target stands for: "dataset/model" or a file.

    Raises TroveStepsError if the configuration makes no such thing.
    """
    names = {f"{dataset}/{model}": cell for (dataset, model), cell in plan.cells.items()}
    if target in names:
        return [(names[target], [])]
    path = os.path.abspath(target)
    for cell in plan.cells.values():
        for stage in cell_stages(plan, cell):
            if _artefact(path) == _artefact(os.path.abspath(stage.path)):
                return [(cell, [stage.step])]
        folder = os.path.abspath(plan.cell_directory(cell))
        if path == folder or path.startswith(folder + os.sep):
            inside = os.path.relpath(path, folder).split(os.sep)[0]
            mined = inside in ("mined", ".mine")
            return [(cell, [] if path == folder else ["mine" if mined else "score"])]
    if os.path.dirname(path) == os.path.abspath(plan.results):  # summary.tsv and its like
        return [(cell, ["score"]) for cell in plan.cells.values() if cell.score]
    raise TroveStepsError(
        f"{target}: the configuration makes no such cell or file{nearest(target, list(names))}"
    )


def _artefact(path: str) -> str:
    """Return a path without what distinguishes a manifest from the file that it speaks of."""
    for ending in (".rows.arrow", ".arrow", ".json"):
        if path.endswith(ending):
            return path.removesuffix(ending)
    return path


def explain(plan: Plan, cell: Cell, steps: Iterable[str] = ()) -> list[Stage]:
    """Return the stages of a cell with the reasons of those that are needed.

    `steps` restricts the answer to some stages and what these need.
    """
    estimator = Estimator(plan)
    chosen = list(steps)
    stages = cell_stages(plan, cell)
    if chosen:
        place = max(i for i, stage in enumerate(stages) if stage.step in chosen)
        wanted = stages[place].state == "needed"
        others = {"score", "mine"} - set(chosen)
        stages = [
            stage
            for i, stage in enumerate(stages)
            if i <= place and stage.step not in others and (wanted or stage.step in chosen)
        ]
    for stage in stages:
        if stage.state != "needed":
            continue
        if stage.step.endswith(("corpus", "queries")):
            encoding = cell.corpus if stage.step.endswith("corpus") else cell.queries
            _explain_encoding(plan, estimator, encoding, stage)
        elif stage.step == "search":
            _explain_search(plan, cell, stage)
        elif stage.step == "rescore":
            stage.reason = (
                "the cross-encoder has not scored these candidates; pairs it knows are reused"
            )
        else:
            _explain_result(cell, stage)
    return stages


def _explain_encoding(plan: Plan, estimator: Estimator, encoding: Encoding, stage: Stage) -> None:
    need = estimator.need(encoding)
    stage.rows, stage.rows_to_encode = need.rows, need.to_encode
    if dropped_mark(stage.path).exists():
        stage.reason = "its vectors were dropped (keep_embeddings: false), and a search needs them"
        return
    embeddings = plan.cache / "embeddings"
    known = {path.parent.name: read_json(path) for path in embeddings.glob("*/recipe.json")}
    if encoding.encoder in known:
        stage.reason = "the store of this encoder has no collection of these texts"
    else:
        stage.reason = "no vectors of this encoder are in the cache"
    found = {
        path: {**_recipe(path), **known.get(path.parent.name, {})}
        for path in embeddings.glob(f"*/{encoding.role}-*.json")
    }
    new = {**encoding.texts_recipe, **encoding.encoder_recipe}
    stage.nearest, stage.differences = _nearest(found, new, encoding.role, plan.cache)


def _explain_search(plan: Plan, cell: Cell, stage: Stage) -> None:
    depth = stage.path.stem.removeprefix("top")
    same = sorted(stage.path.parent.glob("top*.json"))
    if same:
        stage.reason = "the rankings of these vectors do not go deep enough"
        stage.nearest = same[-1]
        stage.differences = [Difference("depth", same[-1].stem.removeprefix("top"), depth)]
        return
    stage.reason = "these vectors have not been searched"
    found = {path: _recipe(path) for path in stage.path.parent.parent.glob("*/top*.json")}
    stage.nearest, stage.differences = _nearest(found, cell.search_recipe, "", plan.cache)


def _explain_result(cell: Cell, stage: Stage) -> None:
    if stage.path.exists():
        stage.reason = "its files are gone or were changed"
        return
    options = cell.evaluation if stage.step == "score" else cell.mining
    new = {"search": cell.search, "qrels": cell.data.qrels.identity, **options}
    stage.reason = "there is no result of this recipe"
    found = {}
    for path in stage.path.parent.glob("*.json"):
        record = read_json(path)
        content = {name: value for name, value in record.items() if name in new}
        content["search"] = recipe_key(content.get("search", {}))
        found[path] = content | record.get("options", {})
    stage.nearest, stage.differences = _nearest(found, new, "", None)


def _recipe(manifest: Path) -> dict:
    return read_json(manifest).get("recipe", {})


def _nearest(found: dict[Path, dict], new: dict, role: str, cache: Path | None):
    """Return (path, differences) of the recipe of the same kind that differs least, (None, []) of none.

    Of equally near ones the latest counts.
    """
    ranked = [
        (len(differences), -path.stat().st_mtime, path, differences)
        for path, old in found.items()
        if old.get("kind") == new.get("kind")
        and (differences := list(differences_of(old, new, role, cache)))
    ]
    if not ranked:
        return None, []
    _, _, path, differences = min(ranked, key=lambda entry: entry[:2])
    return path, differences


def differences_of(old: dict, new: dict, role: str = "", cache: Path | None = None) -> Iterator:
    """Yield the Differences of two recipes, by field; `role` and `cache` serve to name things."""
    flat_old, flat_new = dict(_leaves(old)), dict(_leaves(new))
    for name in sorted({*flat_old, *flat_new}):
        before, after = flat_old.get(name, NOT_SET), flat_new.get(name, NOT_SET)
        if before != after:
            kind = ": digest" if _is_digest(before) or _is_digest(after) else ""
            named = _named(name, role) + kind
            yield Difference(named, _shown(before, cache), _shown(after, cache))


def _leaves(recipe, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(recipe, dict):
        for name, value in recipe.items():
            yield from _leaves(value, f"{path}/{name}" if path else name)
    elif isinstance(recipe, list) and any(_is_digest(value) for value in recipe):
        for number, value in enumerate(recipe, 1):
            yield f"{path}[{number}]", value
    else:
        yield path, recipe


def _named(name: str, role: str) -> str:
    """Return a field's name as the configuration has it."""
    prefix = {"corpus": "passage", "queries": "query"}.get(role)
    if prefix and name == "max_len":
        return f"{prefix}_max_len"
    if prefix and name == "template":
        return f"{prefix}_format"
    return name.removeprefix("model_files/").replace("/", " ")


def _shown(value, cache: Path | None) -> str:
    if not _is_digest(value):
        return str(value).lower() if isinstance(value, bool) else str(value)
    name = _name_of(value, cache)
    return f"{value[:DIGEST_SHOWN]}…" + (f" ({name})" if name else "")


def _is_digest(value) -> bool:
    return (
        isinstance(value, str)
        and len(value) in (32, 64)
        and not set(value) - set("0123456789abcdef")
    )


def _name_of(digest: str, cache: Path | None) -> str:
    """Return the file that had a digest when it was last seen, "" if none is remembered."""
    link = None if cache is None else Path(cache) / "in" / digest
    if link is None or not link.is_symlink():
        return ""
    return Path(os.readlink(link)).name
