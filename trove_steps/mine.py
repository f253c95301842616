"""Step: mine hard negatives, the best-ranked documents of each query that nobody has annotated.

Writes mined/mined_qrels.tsv (query-id, corpus-id, score) or mined/mined_qrels.jsonl, mined/funnel.parquet
(per query: candidates, annotated, kept, missing) and mined/counts.json. A query with fewer negatives than
asked for is counted, never padded.
"""

import time
from pathlib import Path

from trove_steps.arguments import run_step, step_parser
from trove_steps.distributed import Comm, communicator
from trove_steps.files import read_json, write_json, written_atomically
from trove_steps.judging import add_collections_argument, read_judgments
from trove_steps.mining import mine, write_grouped, write_tsv
from trove_steps.progress import report
from trove_steps.results import drop_records, write_record
from trove_steps.search import read_ranking

WRITERS = {"tsv": ("mined_qrels.tsv", write_tsv), "grouped": ("mined_qrels.jsonl", write_grouped)}


def run(arguments, comm: Comm) -> None:
    """Mine on rank 0; the other ranks have nothing to do."""
    if comm.rank != 0:
        return
    import pyarrow.parquet as pq

    started = time.perf_counter()
    ranking = read_ranking(arguments.search, arguments.encoding_cache_dir)
    qrels = read_judgments(arguments) if arguments.qrel_path else None
    mined = mine(ranking, qrels, arguments.search_topk, not arguments.keep_annotated)
    folder = arguments.record.parent.parent / "mined"
    folder.mkdir(parents=True, exist_ok=True)
    drop_records(arguments.record)
    for name, _ in WRITERS.values():
        (folder / name).unlink(missing_ok=True)
    name, write = WRITERS[arguments.output_qrel_format]
    files = [folder / name, folder / "funnel.parquet", folder / "counts.json"]
    write(files[0], mined)
    with written_atomically(files[1]) as temporary:
        pq.write_table(mined.funnel, temporary)
    write_json(files[2], mined.counts)
    write_record(
        arguments.record,
        files,
        cell=arguments.name,
        search=read_json(arguments.search)["recipe"],
        qrels=arguments.sha256,
        search_topk=arguments.search_topk,
        no_annot_in_mined_hn=not arguments.keep_annotated,
        output_qrel_format=arguments.output_qrel_format,
    )
    short = mined.counts["num_short_queries"]
    report(
        f"mine {arguments.name}: {mined.counts['num_kept']:,} negatives for "
        f"{mined.counts['num_mined_queries']:,} queries"
        + (f", {short:,} of them with fewer than {arguments.search_topk}" if short else "")
        + f" · {time.perf_counter() - started:.1f} s"
    )


def main() -> None:
    parser = step_parser("mine", __doc__)
    parser.add_argument(
        "--search", type=Path, required=True, metavar="FILE", help="manifest of the search"
    )
    parser.add_argument(
        "--qrel-path", nargs="*", type=Path, default=[], metavar="FILE", help="the judgments"
    )
    parser.add_argument(
        "--sha256", nargs="*", metavar="DIGEST", help="the SHA-256 that the judgments must have"
    )
    add_collections_argument(parser)
    parser.add_argument(
        "--encoding-cache-dir", type=Path, default=Path("cache"), help="where the search was made"
    )
    parser.add_argument("--search-topk", type=int, default=100, help="hard negatives per query")
    parser.add_argument(
        "--keep-annotated",
        action="store_true",
        help="do not leave out annotated documents (no_annot_in_mined_hn: false)",
    )
    parser.add_argument("--output-qrel-format", choices=list(WRITERS), default="tsv")
    parser.add_argument("--name", default="run", help="data set/model, for people")
    parser.add_argument(
        "--record",
        type=Path,
        required=True,
        metavar="FOLDER/.mine/NAME.json",
        help="written last; the results go to FOLDER/mined",
    )
    arguments = parser.parse_args()
    with communicator() as comm:
        run(arguments, comm)


if __name__ == "__main__":
    run_step(main)
