"""Step: score a ranking against relevance judgments.

Writes metrics.json (names as pytrec_eval's: ndcg_cut_10, map_cut_100, recall_100, P_10, mrr_cut_10, and
counts; where equal scores leave a metric open, also its _min, _max and _expected), per_query.parquet and
run.trec.gz, which trec_eval scores to the same figures. Queries without judgments are counted and left
out; judged queries without results count as 0.
"""

import time
from pathlib import Path

from trove_steps.arguments import run_step, step_parser
from trove_steps.distributed import Comm, communicator
from trove_steps.evaluation.measures import DEFAULT_MEASURES, main_metrics
from trove_steps.evaluation.metrics import evaluate
from trove_steps.files import read_json, write_json, written_atomically
from trove_steps.judging import add_collections_argument, collections_of, read_judgments
from trove_steps.progress import report
from trove_steps.ranking import write_trec
from trove_steps.reporting.shortfalls import nothing_relevant
from trove_steps.results import drop_records, write_record
from trove_steps.search import read_ranking
from trove_steps.wording import counted


def run(arguments, comm: Comm) -> None:
    """Score on rank 0; the other ranks have nothing to do."""
    if comm.rank != 0:
        return
    import pyarrow.parquet as pq

    started = time.perf_counter()
    ranking = read_ranking(arguments.search, arguments.encoding_cache_dir).head(arguments.depth)
    qrels = read_judgments(arguments)
    evaluation = evaluate(
        ranking,
        qrels,
        arguments.ir_metrics_k_values,
        arguments.ir_metrics_relevance_threshold,
        arguments.measures,
    )
    search = read_json(arguments.search)
    folder = arguments.record.parent.parent
    folder.mkdir(parents=True, exist_ok=True)
    metrics, per_query, trec = (
        folder / name for name in ("metrics.json", "per_query.parquet", "run.trec.gz")
    )
    drop_records(arguments.record)
    write_json(metrics, evaluation.figures)
    with written_atomically(per_query) as temporary:
        pq.write_table(evaluation.per_query, temporary)
    write_trec(trec, ranking, tag=arguments.name.rpartition("/")[2])
    write_record(
        arguments.record,
        [metrics, per_query, trec],
        cell=arguments.name,
        search=search["recipe"],
        bytes_per_vector=search["bytes_per_vector"],
        qrels=arguments.qrel_sha256,
        collections=collections_of(arguments),
        depth=arguments.depth,
        k_values=arguments.ir_metrics_k_values,
        relevance_threshold=arguments.ir_metrics_relevance_threshold,
        measures=list(evaluation.metrics),
    )
    if missing := nothing_relevant(evaluation.counts, arguments.ir_metrics_relevance_threshold):
        report(f"warning: {arguments.name}: {missing}")
    shown = main_metrics(evaluation.metrics, ("ndcg_cut", "recall"))
    figures = ", ".join(f"{name} {evaluation.metrics[name]:.5f}" for name in shown)
    report(
        f"score {arguments.name}: {figures} over "
        f"{counted(evaluation.counts['num_judged'], 'query', 'queries')} · "
        f"{time.perf_counter() - started:.1f} s"
    )


def main() -> None:
    parser = step_parser("score", __doc__)
    parser.add_argument(
        "--search", type=Path, required=True, metavar="FILE", help="manifest of the search"
    )
    parser.add_argument(
        "--qrel-path", nargs="+", type=Path, required=True, metavar="FILE", help="the judgments"
    )
    parser.add_argument(
        "--qrel-sha256", nargs="+", metavar="DIGEST", help="the SHA-256 that they must have"
    )
    add_collections_argument(parser)
    parser.add_argument(
        "--encoding-cache-dir", type=Path, default=Path("cache"), help="where the search was made"
    )
    parser.add_argument("--ir-metrics-k-values", nargs="+", type=int, default=[1, 3, 5, 10, 100])
    parser.add_argument(
        "--measures",
        nargs="+",
        default=DEFAULT_MEASURES,
        metavar="NAME",
        help="such as nDCG@10, RR@10, Success@5, Rprec; one without a cut-off gets those above",
    )
    parser.add_argument(
        "--ir-metrics-relevance-threshold",
        type=int,
        default=1,
        help="labels from here up are relevant for all metrics but nDCG",
    )
    parser.add_argument("--depth", type=int, default=100, help="documents per query that count")
    parser.add_argument("--name", default="run", help="data set/model, for people")
    parser.add_argument(
        "--record",
        type=Path,
        required=True,
        metavar="FOLDER/.evaluate/NAME.json",
        help="written last; the results go to FOLDER",
    )
    arguments = parser.parse_args()
    with communicator() as comm:
        run(arguments, comm)


if __name__ == "__main__":
    run_step(main)
