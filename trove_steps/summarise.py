"""Step: collect the metrics of all data sets and models in summary.tsv."""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

from trove_steps.arguments import run_step
from trove_steps.check_data import FILE
from trove_steps.data.judgment_checks import FILTERED_RELEVANT, NO_RELEVANT
from trove_steps.embeddings.paths import manifest_path
from trove_steps.encoders.lengths import Cut, read_cut
from trove_steps.evaluation.comparison_text import format_comparisons
from trove_steps.files import read_json
from trove_steps.report import PAGE
from trove_steps.reporting.shortfalls import nothing_mined, nothing_relevant
from trove_steps.results import drop_records, write_record
from trove_steps.summary import format_table, read_summary, summarise, write_summary

TABLE = "summary.tsv"
COMPARISONS = "comparison.tsv"
MOST_COMPARISONS = 15


def run(arguments) -> None:
    """Write the table and its record."""
    cells = []
    for evaluation in arguments.evaluations:
        record = read_json(evaluation)
        dataset, model = record["cell"].split("/")
        figures = read_json(evaluation.parent.parent / "metrics.json")
        counts = {name: value for name, value in figures.items() if name.startswith("num_")}
        if "bytes_per_vector" in record:
            counts["bytes_per_vector"] = record["bytes_per_vector"]
        metrics = {name: value for name, value in figures.items() if not name.startswith("num_")}
        shares = cut_shares(record["search"], arguments.encoding_cache_dir)
        cells.append({"dataset": dataset, "model": model, "metrics": metrics, **counts, **shares})
    table = arguments.record.parent.parent / TABLE
    drop_records(arguments.record)
    write_summary(table, summarise(cells))
    write_record(arguments.record, [table])


def cut_shares(search: dict, cache_dir: Path) -> dict[str, float]:
    """Return, for the sides of a search, the shares of texts and tokens that max_len cut off.

    `search` is the recipe of a ranking. What is not known is left out.
    """
    shares = {}
    for side in ("queries", "corpus"):
        known = cut_of(search[side], side, cache_dir)
        if known is not None:
            shares[f"{side}_texts_cut"] = known.texts_share
            shares[f"{side}_tokens_cut"] = known.tokens_share
    return shares


def cut_of(identity: dict, role: str, cache_dir: Path) -> Cut | None:
    """Return what was cut off in the collection {"encoder": key, "texts": key}, if it is known."""
    return read_cut(manifest_path(cache_dir, identity["encoder"], role, identity["texts"]))


def cut_warnings(plan) -> list[str]:
    """Return a line for every collection of a plan of which more than 5 % of the texts are cut."""
    lines = []
    for cell in plan.cells.values():
        for encoding in (cell.queries, cell.corpus):
            known = cut_of(encoding.identity, encoding.role, plan.cache)
            option = "query_max_len" if encoding.role == "queries" else "passage_max_len"
            what = f"{cell.dataset}/{cell.model}: {encoding.role}"
            lines.append(known.warning(what, option) if known else None)
    return [line for line in lines if line]


def shortfall_warnings(plan) -> list[str]:
    """Return a line for every data set in which nothing is relevant or filters hide from mining what is,
    and every mining that gave nothing."""
    told = [*_without_relevant(plan), *_checked(plan, FILTERED_RELEVANT), *_without_negatives(plan)]
    return [f"warning: {name}: {line}" for name, line in told if line]


def _without_relevant(plan) -> Iterator[tuple[str, str | None]]:
    """Yield (data set, what the check of its files or else one of its evaluations says)."""
    checked = dict(_checked(plan, NO_RELEVANT))
    yield from checked.items()
    threshold = plan.evaluation["ir_metrics_relevance_threshold"]
    scored = {cell.dataset: cell for cell in plan.cells.values() if cell.dataset not in checked}
    for dataset, cell in scored.items():  # one model will do: they have the same judgments
        if cell.score and plan.score_record(cell).exists():
            counts = read_json(plan.cell_directory(cell) / "metrics.json")
            yield dataset, nothing_relevant(counts, threshold)


def _checked(plan, kind: str) -> Iterator[tuple[str, str]]:
    """Yield (data set, message) of the warnings of one kind that checks of the files gave."""
    for dataset, record in plan.checks.items():
        found = read_json(plan.results / dataset / FILE)["warnings"] if record.exists() else []
        yield from ((dataset, told["message"]) for told in found if told["kind"] == kind)


def _without_negatives(plan) -> Iterator[tuple[str, str | None]]:
    """Yield (data set and model, what is said of its negatives), then the same of merged ones."""
    mined = {
        f"{cell.dataset}/{cell.model}": plan.mine_record(cell)
        for cell in plan.cells.values()
        if "mining" in plan.tasks
    }
    merged = {f"{dataset}, merged": record for dataset, record in plan.merge_records.items()}
    for name, record in (mined | merged).items():
        if record.exists():
            yield name, nothing_mined(read_json(record.parent.parent / "mined" / "funnel.json"))


def closing_words(plan) -> str:
    """Return what the end of a run shows: the table of results and where to look."""
    lines = []
    table = plan.results / TABLE
    if plan.missing:
        return ""
    if "evaluation" in plan.tasks and table.exists() and plan.summary_record.exists():
        lines += ["", format_table(read_summary(table)), *_comparisons(plan)]
        lines += ["", f"all metrics: {table}"]
        scored = [cell for cell in plan.cells.values() if cell.score]
        lines += [
            f"per data set and model: {_example(plan, scored[0])}/ (metrics.json, run.trec.gz, …)"
            f"{_of(len(scored))}"
        ]
        if plan.report_record.exists():
            lines += [f"to look at: {plan.results / PAGE}"]
        trackers = sorted(plan.evaluation["report_to"])
        lines += [f"{name}: {plan.results / name}/" for name in trackers]
    lines += [*cut_warnings(plan), *shortfall_warnings(plan)]
    mined = [cell for cell in plan.cells.values() if plan.mine_record(cell).exists()]
    if "mining" in plan.tasks and mined:
        lines += [f"hard negatives: {_example(plan, mined[0])}/mined/{_of(len(mined))}"]
    return "\n".join(lines)


def _example(plan, cell) -> str:
    return str(plan.cell_directory(cell))


def _of(count: int) -> str:
    return f" and {count - 1:,} more like it" if count > 1 else ""


def _comparisons(plan) -> list[str]:
    """Return the comparisons by the first metric, if they are few enough to be read."""
    path = plan.results / COMPARISONS
    if not plan.compared or not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, dialect="excel-tab"))
    shown = [row for row in rows if row["metric"] == rows[0]["metric"]]
    if len(shown) > MOST_COMPARISONS:
        return ["", f"comparisons of models: {path}"]
    return ["", format_comparisons(shown), f"all comparisons: {path}"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trove_steps.summarise", description=__doc__)
    parser.add_argument(
        "--evaluations", nargs="+", type=Path, required=True, metavar="FILE", help="their records"
    )
    parser.add_argument(
        "--encoding-cache-dir",
        type=Path,
        default=Path("cache"),
        help="where the searches were made",
    )
    parser.add_argument("--record", type=Path, required=True, metavar="FILE", help="written last")
    run(parser.parse_args())


if __name__ == "__main__":
    run_step(main)
