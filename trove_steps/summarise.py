"""Step: collect the metrics of all data sets and models in summary.tsv."""

import argparse
from pathlib import Path

from trove_steps.arguments import run_step
from trove_steps.files import read_json
from trove_steps.results import drop_records, write_record
from trove_steps.summary import format_table, read_summary, summarise, write_summary

TABLE = "summary.tsv"


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
        cells.append({"dataset": dataset, "model": model, "metrics": metrics, **counts})
    table = arguments.record.parent.parent / TABLE
    drop_records(arguments.record)
    write_summary(table, summarise(cells))
    write_record(arguments.record, [table])


def closing_words(plan) -> str:
    """Return what the end of a run shows: the table of results and where to look."""
    lines = []
    table = plan.results / TABLE
    if "evaluation" in plan.tasks and table.exists():
        lines += ["", format_table(read_summary(table)), "", f"all metrics: {table}"]
        lines += [
            f"per data set and model: {plan.results}/DATASET/MODEL/ (metrics.json, run.trec.gz, …)"
        ]
    if "mining" in plan.tasks and any(plan.results.glob("*/*/mined")):
        lines += [f"hard negatives: {plan.results}/DATASET/MODEL/mined/"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trove_steps.summarise", description=__doc__)
    parser.add_argument(
        "--evaluations", nargs="+", type=Path, required=True, metavar="FILE", help="their records"
    )
    parser.add_argument("--record", type=Path, required=True, metavar="FILE", help="written last")
    run(parser.parse_args())


if __name__ == "__main__":
    run_step(main)
