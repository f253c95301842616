"""The table over all cells (dataset × model): one TSV file, and a short form for the terminal.

python -m trove_steps.summary --show results/summary.tsv
"""

import argparse
import csv
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from trove_steps.errors import TroveStepsError
from trove_steps.evaluation.measures import main_metrics
from trove_steps.files import written_atomically

Row = dict[str, str | int | float]

WIDTH = 100
MIN_NAMES_WIDTH = 40
_MEASURES = ("ndcg", "map", "recall", "P", "mrr")


def summarise(cells: Iterable[dict]) -> list[Row]:
    """One row per cell, sorted by dataset and model, all with the same columns in the same order.

    A cell holds `dataset`, `model` and `metrics` (name → value); its other entries with a number
    as value are counts. Columns: dataset, model, the metrics (nDCG, MAP, recall, precision, MRR,
    then others; each by rising cut-off), the counts by name. A metric that only some cells have
    is an empty string in the others.

    Raises TroveStepsError if two cells are of the same dataset and model.
    """
    flat: dict[tuple[str, str], Row] = {}
    metrics: set[str] = set()
    counts: set[str] = set()
    for cell in cells:
        place = cell["dataset"], cell["model"]
        if place in flat:
            raise TroveStepsError(f"two results for dataset {place[0]!r} and model {place[1]!r}")
        cell_counts = {
            name: value
            for name, value in cell.items()
            if isinstance(value, int | float) and name not in ("dataset", "model")
        }
        flat[place] = {**cell["metrics"], **cell_counts}
        metrics.update(cell["metrics"])
        counts.update(cell_counts)
    columns = [*sorted(metrics, key=metric_order), *sorted(counts - metrics)]
    return [
        {"dataset": dataset, "model": model}
        | {column: flat[dataset, model].get(column, "") for column in columns}
        for dataset, model in sorted(flat)
    ]


def write_summary(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as TSV with a header, atomically. Floats keep all their digits."""
    columns = list(rows[0]) if rows else ["dataset", "model"]
    with written_atomically(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, dialect="excel-tab", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_summary(path: Path) -> list[Row]:
    """Read what `write_summary` wrote: the same columns, order, numbers and strings.

    Raises TroveStepsError if the file is missing or is not such a table.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, dialect="excel-tab", restval=None, strict=True)
            if (reader.fieldnames or [])[:2] != ["dataset", "model"]:
                raise TroveStepsError(f"{path}:1: not a summary: no columns dataset and model")
            rows = []
            for row in reader:
                if None in row or None in row.values():
                    raise TroveStepsError(
                        f"{path}:{reader.line_num}: expected {len(reader.fieldnames)} columns"
                    )
                rows.append({name: _number(name, value) for name, value in row.items()})
    except FileNotFoundError:
        raise TroveStepsError(f"{path} is missing: run the workflow first") from None
    except (OSError, ValueError, csv.Error) as error:
        raise TroveStepsError(f"{path}: cannot be read: {error}") from error
    return rows


def format_table(rows: Sequence[Row], columns: Sequence[str] = ()) -> str:
    """Aligned text of at most 100 columns, with those of `columns` that the rows have: by default the main
    metrics, the bytes of a vector and the number of judged queries.

    Metrics have four decimals. Where a dataset has several models, `*` marks the best value of
    each metric (all of them, if tied as printed), unless it is 0. Long names are cut in the middle with `…`.
    If the names would get too little room, columns are left out from the right.
    """
    if not rows:
        return "no results"
    filled = {name for row in rows for name, value in row.items() if value != ""}
    columns = columns or [*main_metrics(filled), "bytes_per_vector", "num_judged"]
    shown = [name for name in columns if name in filled]
    if len({row.get("bytes_per_vector", "") for row in rows}) < 2:
        shown = [name for name in shown if name != "bytes_per_vector"]
    cells = [[_cell(row, name, rows) for name in shown] for row in rows]
    widths = [max(len(name) + 1, *(len(line[i]) for line in cells)) for i, name in enumerate(shown)]
    names = [[str(row["dataset"]), str(row["model"])] for row in rows]
    name_widths = [max(7, *(len(name[i]) for name in names)) for i in (0, 1)]
    while len(widths) > 1 and _room(widths) < min(sum(name_widths), MIN_NAMES_WIDTH):
        widths.pop()
    name_widths = _fit(name_widths, _room(widths))

    def line(labels: Sequence[str], values: Sequence[str]) -> str:
        left = [
            _cut(label, width).ljust(width)
            for label, width in zip(labels, name_widths, strict=True)
        ]
        right = [value.rjust(width) for value, width in zip(values, widths, strict=False)]
        return "  ".join(left + right).rstrip()

    heading = line(["dataset", "model"], [f"{name} " for name in shown])
    body = [line(label, values) for label, values in zip(names, cells, strict=True)]
    marked = any(value.endswith("*") for values in cells for value in values)
    legend = ["* the best of its dataset"] if marked else []
    return "\n".join([heading, *body, *legend, *_open_metrics(rows, shown)])


def _open_metrics(rows: Sequence[Row], columns: Sequence[str]) -> Iterator[str]:
    """Say which of the metrics shown depend, in four decimals, on the order of equal scores."""
    for row in rows:
        for name in columns:
            ends = [row.get(f"{name}_{end}", "") for end in ("min", "max", "expected")]
            if "" in ends:
                continue
            low, high, expected = (f"{float(end):.4f}" for end in ends)
            if low != high:
                yield (
                    f"{row['dataset']} {row['model']}: {name} is between {low} and {high}, expected "
                    f"{expected}, by the order of equal scores"
                )


def metric_order(name: str) -> tuple:
    """Sort key of a metric's name: by measure, then by cut-off; `map` before its cuts."""
    measure = name.split("_")[0]
    rank = _MEASURES.index(measure) if measure in _MEASURES else len(_MEASURES)
    cut = re.search(r"_(\d+)$", name)
    return (rank, name[: cut.start()] if cut else name, int(cut[1]) if cut else -1)


def _number(column: str, text: str) -> str | int | float:
    if column in ("dataset", "model") or text == "":
        return text
    return int(text) if re.fullmatch(r"-?\d+", text) else float(text)


def _cell(row: Row, name: str, rows: Sequence[Row]) -> str:
    value = row.get(name, "")
    if not isinstance(value, float):
        return f"{value} "
    rivals = [
        other[name]
        for other in rows
        if other["dataset"] == row["dataset"] and isinstance(other.get(name), float)
    ]
    shown = f"{value:.4f}"
    best = len(rivals) > 1 and shown == f"{max(rivals):.4f}" != "0.0000"
    return f"{shown}{'*' if best else ' '}"


def _room(widths: Sequence[int]) -> int:
    """What columns of these widths leave of a line for the two names."""
    return WIDTH - sum(widths) - 2 * (len(widths) + 1)


def _fit(widths: list[int], room: int) -> list[int]:
    """Two widths that take `room` columns at most; the shorter name keeps its own if it can."""
    if sum(widths) <= room:
        return widths
    half = room // 2
    if widths[0] <= half:
        return [widths[0], room - widths[0]]
    if widths[1] <= half:
        return [room - widths[1], widths[1]]
    return [half, room - half]


def _cut(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def main(arguments: list[str] | None = None) -> int:
    """Command line of `python -m trove_steps.summary`; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m trove_steps.summary", description="Print the table of all results."
    )
    parser.add_argument("--show", type=Path, required=True, metavar="FILE", help="a summary.tsv")
    options = parser.parse_args(arguments)
    try:
        print(format_table(read_summary(options.show)))
    except TroveStepsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
