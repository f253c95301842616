"""Step: compare the models of every data set, pair by pair.

Writes comparison.tsv (a row per data set, metric and pair of models) and, per data set,
comparison.parquet with the difference of each query.
"""

import argparse
import csv
import json
from dataclasses import asdict, fields
from pathlib import Path

from trove_steps.arguments import run_step
from trove_steps.evaluation.comparison import Comparison, compare
from trove_steps.evaluation.measures import main_metrics
from trove_steps.files import read_json, written_atomically
from trove_steps.progress import report
from trove_steps.results import drop_records, write_record
from trove_steps.wording import counted

TABLE = "comparison.tsv"
COMPARED = ("ndcg_cut", "recall", "mrr_cut")


def run(arguments) -> None:
    """Write the tables and their record."""
    import pyarrow.parquet as pq

    results, settings = arguments.record.parent.parent, dict(arguments.settings)
    chosen = settings.pop("measures", None)
    tables: dict[str, dict] = {}
    for evaluation in arguments.evaluations:
        dataset, model = read_json(evaluation)["cell"].split("/")
        table = pq.read_table(evaluation.parent.parent / "per_query.parquet")
        tables.setdefault(dataset, {})[model] = table
    drop_records(arguments.record)
    comparisons, files = [], [results / TABLE]
    for dataset, per_query in sorted(tables.items()):
        computed = next(iter(per_query.values())).column_names[1:]
        metrics = chosen or main_metrics(computed, COMPARED)
        found, differences = compare(dataset, per_query, metrics, **settings)
        comparisons += found
        files.append(results / dataset / "comparison.parquet")
        with written_atomically(files[-1]) as temporary:
            pq.write_table(differences, temporary)
    with written_atomically(files[0]) as temporary, open(temporary, "w", encoding="utf-8") as file:
        names = [field.name for field in fields(Comparison)]
        writer = csv.DictWriter(file, names, dialect="excel-tab", lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, comparisons))
    write_record(arguments.record, files, settings=arguments.settings)
    pairs = {(row.dataset, row.model_a, row.model_b) for row in comparisons}
    metrics = {row.metric for row in comparisons}
    report(
        f"compare: {counted(len(pairs), 'pair')} of models on {counted(len(tables), 'data set')} by "
        f"{counted(len(metrics), 'metric')}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trove_steps.compare", description=__doc__)
    parser.add_argument(
        "--evaluations", nargs="+", type=Path, required=True, metavar="FILE", help="their records"
    )
    parser.add_argument(
        "--settings",
        type=json.loads,
        default={},
        help="measures, samples, confidence, seed as JSON (evaluation.comparison)",
    )
    parser.add_argument("--record", type=Path, required=True, metavar="FILE", help="written last")
    run(parser.parse_args())


if __name__ == "__main__":
    run_step(main)
