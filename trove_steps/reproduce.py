"""Our figures beside published ones: values and sources stand in published.tsv."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json

PUBLISHED = Path(__file__).with_name("published.tsv")
DEFAULT_SPLITS = {"msmarco": "dev"}  # of a data set that is named without one; otherwise test


@dataclass(frozen=True)
class Figure:
    """One published figure."""

    model: str
    revision: str
    dataset: str
    split: str
    metric: str
    value: float
    setup: str
    source: str


@dataclass(frozen=True)
class Outcome:
    """A published figure beside ours (None where it was not computed) for one of our cells."""

    dataset: str
    model: str
    figure: Figure
    ours: float | None
    tolerance: float

    @property
    def agrees(self) -> bool | None:
        """Whether the difference is within the tolerance; None without a figure of ours."""
        return None if self.ours is None else abs(self.ours - self.figure.value) <= self.tolerance


def published() -> list[Figure]:
    """Return all published figures."""
    with open(PUBLISHED, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, dialect="excel-tab")
        return [Figure(**{**row, "value": float(row["value"])}) for row in rows]


def reproduce(config: dict, tolerance: float = 0.0005, names: Sequence[str] = ()) -> list[Outcome]:
    """Look up every published figure that belongs to a data set and model of the configuration.

    A model is known by the last part of its path or Hub name, or by its name in the configuration; a data
    set by its name, perhaps with its split (``scifact``, ``scifact-train``, ``beir-scifact``).

    Args:
        config: complete, as `load_config` returns it.
        tolerance: largest difference that counts as agreement.
        names: ``OURS=PUBLISHED``, for models and data sets with other names.

    Raises:
        TroveStepsError: a name of ``names`` that is unknown; nothing of the configuration is published.
    """
    figures = published()
    given = dict(_given(name, config, figures) for name in names)
    outcomes = [
        Outcome(dataset, model, figure, _ours(config, dataset, model, figure.metric), tolerance)
        for dataset in config["datasets"]
        for model in config["models"]
        for figure in figures
        if _is_model(model, config, figure, given) and _is_dataset(dataset, figure, given)
    ]
    if not outcomes:
        raise TroveStepsError(_nothing_known(config, figures, given))
    return outcomes


def _nothing_known(config: dict, figures: list[Figure], given: dict) -> str:
    """Say whether no model or no data set has figures, and which have."""
    matched = [f for f in figures if any(_is_model(m, config, f, given) for m in config["models"])]
    if not matched:
        what, ours, known = "models", config["models"], [figure.model for figure in figures]
    else:
        what, ours, known = "data sets", config["datasets"], map(_dataset_name, matched)
    of = ", ".join(dict.fromkeys(figure.model for figure in matched))
    return (
        f"no figure{f' of {of}' if of else ''} is published for the {what} here: {', '.join(ours)}; known: "
        f"{', '.join(dict.fromkeys(known))}. If one of these has another name here, say so with "
        f"--as {next(iter(ours))}=PUBLISHED"
    )


def _dataset_name(figure: Figure) -> str:
    """Return the shortest name by which a data set and split are known."""
    is_default = figure.split == DEFAULT_SPLITS.get(figure.dataset, "test")
    return figure.dataset if is_default else f"{figure.dataset}-{figure.split}"


def _given(name: str, config: dict, figures: list[Figure]) -> tuple[str, str]:
    ours, _, theirs = name.partition("=")
    if ours not in config["datasets"] and ours not in config["models"]:
        raise TroveStepsError(
            f"--as {name}: the configuration has neither model nor data set {ours!r}"
        )
    known = {f.model for f in figures} | {f.dataset for f in figures}
    known |= {f"{f.dataset}-{f.split}" for f in figures}
    if theirs not in known:
        raise TroveStepsError(f"--as {name}: nothing is published for {theirs!r}")
    return ours, theirs


def _is_model(name: str, config: dict, figure: Figure, given: dict) -> bool:
    if name in given:
        return given[name] == figure.model
    path = config["models"][name].get("model_name_or_path", "").rstrip("/")
    last = figure.model.rpartition("/")[2].lower()
    return last in (name.lower(), path.rpartition("/")[2].lower())


def _is_dataset(name: str, figure: Figure, given: dict) -> bool:
    name = given.get(name, name).lower().replace("_", "-").removeprefix("beir-")
    if name == f"{figure.dataset}-{figure.split}":
        return True
    return name == figure.dataset and figure.split == DEFAULT_SPLITS.get(name, "test")


def _ours(config: dict, dataset: str, model: str, metric: str) -> float | None:
    path = Path(config["output_dir"]) / dataset / model / "metrics.json"
    return read_json(path).get(metric) if path.exists() else None


def format_outcomes(outcomes: Sequence[Outcome], colour: bool = False) -> str:
    """Aligned text: a line per figure, green or red, and a legend of setups and sources."""
    lines = [("data set", "model", "metric", "published", "ours", "difference", "")]
    lines += [
        (
            outcome.dataset,
            outcome.model,
            outcome.figure.metric,
            f"{outcome.figure.value:.5f}",
            "not computed" if outcome.ours is None else f"{outcome.ours:.5f}",
            "" if outcome.ours is None else f"{outcome.ours - outcome.figure.value:+.5f}",
            {True: "green", False: "RED", None: ""}[outcome.agrees],
        )
        for outcome in outcomes
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for line, outcome in zip(lines, [None, *outcomes], strict=True):
        shown = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        code = {True: "32", False: "31"}.get(outcome.agrees if outcome else None)
        text.append(f"\033[{code}m{shown.rstrip()}\033[0m" if colour and code else shown.rstrip())
    return "\n".join([*text, "", *_legend(outcomes)])


def _legend(outcomes: Sequence[Outcome]) -> Iterator[str]:
    notes = ((o.figure.model, o.figure.setup, o.figure.source) for o in outcomes)
    for model, setup, source in dict.fromkeys(notes):
        yield f"{model}: {setup} ({source})"
