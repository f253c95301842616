"""Step: merge the hard negatives that several models mined for one data set.

Kept are the negatives that at least so many of the models mined. Their score is the sum over these models
of 1 / (60 + rank in the model's search), by which they are ordered (reciprocal rank fusion). Writes to
mined/ of the data set what the step mine writes to that of a model.
"""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from trove_steps.arguments import run_step, step_parser
from trove_steps.distributed import Comm, communicator
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json
from trove_steps.mining.inputs import add_candidate_arguments, read_inputs
from trove_steps.mining.mined import Mined
from trove_steps.mining.mined_folder import clear, write_findings
from trove_steps.mining.mined_qrels import write_negatives
from trove_steps.mining.training_files import FORMATS, write_training_files
from trove_steps.progress import report
from trove_steps.ranking import Ranking, positions
from trove_steps.reporting.shortfalls import nothing_mined
from trove_steps.results import drop_records, write_record

RANK_OFFSET = 60


def merge(
    ranking: Ranking, queries: pa.Array, audits: dict[str, pa.Table], least: int, wanted: int
) -> Mined:
    """Merge the negatives of several models.

    Args:
        ranking: any search of the data set; only its ids are used.
        queries: ids of the queries that were mined.
        audits: model → its audit, as `mining.Mined` has it.
        least: how many models must have mined a negative.
        wanted: how many negatives per query count as enough.

    Returns:
        All negatives that are left. Audit: ``query_id``, ``doc_id``, ``score``, ``models`` (how many
        mined it) and a column ``rank MODEL`` for each; funnel: ``query_id``, ``candidates`` (mined by any)
        = ``disagreed`` + ``kept``, and ``missing``.
    """
    stride = len(ranking.doc_ids)
    codes = {
        model: positions(audit["query_id"], ranking.query_ids) * stride
        + positions(audit["doc_id"], ranking.doc_ids)
        for model, audit in audits.items()
    }
    pairs = np.unique(np.concatenate([np.empty(0, np.int64), *codes.values()]))
    ranks = np.full((len(codes), len(pairs)), np.nan)
    for number, (model, code) in enumerate(codes.items()):
        ranks[number, np.searchsorted(pairs, code)] = audits[model]["rank"].to_numpy()
    votes, scores = (~np.isnan(ranks)).sum(0), np.nansum(1 / (RANK_OFFSET + ranks), axis=0)
    rows = positions(pa.chunked_array([queries.cast(pa.string())]), ranking.query_ids)
    place = np.full(len(ranking), -1)
    place[rows] = np.arange(len(rows))
    found_by_any = np.bincount(place[pairs // stride], minlength=len(rows))

    kept = np.flatnonzero(votes >= least)
    # The larger document id first where scores are equal, as everywhere.
    names = np.array(ranking.doc_ids.take(pa.array(pairs[kept] % stride)).to_pylist(), object)
    by_name = np.argsort(np.argsort([name.encode() for name in names], kind="stable"))
    kept = kept[np.lexsort((-by_name, -scores[kept], place[pairs[kept] // stride]))]
    lengths = np.bincount(place[pairs[kept] // stride], minlength=len(rows))
    negatives = Ranking(
        queries,
        ranking.doc_ids,
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        pairs[kept] % stride,
        scores[kept],
    )
    audit = {
        "query_id": queries.take(pa.array(negatives.row_queries)),
        "doc_id": ranking.doc_ids.take(pa.array(negatives.docs)),
        "score": negatives.scores,
        "models": votes[kept],
    }
    for number, model in enumerate(codes):
        column = pa.array(ranks[number, kept], from_pandas=True)
        audit[f"rank {model}"] = column.cast(pa.int64())
    funnel = {
        "candidates": found_by_any,
        "disagreed": found_by_any - lengths,
        "kept": lengths,
        "missing": np.maximum(wanted - lengths, 0),
    }
    counts = {
        "num_models": len(audits),
        "num_mined_queries": len(rows),
        "num_short_queries": int((funnel["missing"] > 0).sum()),
    } | {f"num_{name}": int(column.sum()) for name, column in funnel.items()}
    table = pa.table({"query_id": queries} | funnel)
    return Mined(negatives, pa.table(audit), table, counts, rows)


def run(arguments, comm: Comm) -> None:
    """Merge on rank 0; the other ranks have nothing to do."""
    if comm.rank != 0:
        return
    import pyarrow.parquet as pq

    started = time.perf_counter()
    folders = {_model(record): record.parent.parent / "mined" for record in arguments.mined}
    audits = {model: pq.read_table(folder / "audit.parquet") for model, folder in folders.items()}
    queries = pq.read_table(next(iter(folders.values())) / "funnel.parquet")["query_id"]
    inputs = read_inputs(arguments)
    mined = merge(
        inputs.ranking,
        queries.combine_chunks(),
        audits,
        arguments.least,
        arguments.num_negatives,
    )
    folder = arguments.record.parent.parent / "mined"
    drop_records(arguments.record)
    clear(folder)
    files = [write_negatives(folder, mined.negatives, arguments.output_qrel_format)]
    training, counts = write_training_files(
        folder, mined, inputs, arguments.training_formats, arguments.num_negatives
    )
    files += training + write_findings(folder, mined, counts)
    write_record(
        arguments.record,
        files,
        cell=arguments.name,
        models=sorted(folders),
        least=arguments.least,
        qrels=arguments.qrel_sha256,
    )
    if missing := nothing_mined(mined.counts | counts):
        report(f"warning: {arguments.name}: {missing}")
    report(
        f"merge {arguments.name}: {mined.counts['num_kept']:,} of {mined.counts['num_candidates']:,} "
        f"negatives that at least {arguments.least} of {len(folders)} models mined · "
        f"{time.perf_counter() - started:.1f} s"
    )


def _model(record: Path) -> str:
    cell = read_json(record)["cell"]
    if not (record.parent.parent / "mined" / "audit.parquet").exists():
        raise TroveStepsError(f"{cell}: mined/audit.parquet is missing: mine it first")
    return cell.rpartition("/")[2]


def main() -> None:
    parser = step_parser("merge_negatives", __doc__)
    add_candidate_arguments(parser)
    parser.add_argument(
        "--mined", nargs="+", type=Path, required=True, metavar="FILE", help="records of mining"
    )
    parser.add_argument("--least", type=int, default=1, help="how many models must agree")
    parser.add_argument(
        "--num-negatives", type=int, default=100, help="how many per query count as enough"
    )
    parser.add_argument("--output-qrel-format", choices=["tsv", "grouped"], default="tsv")
    parser.add_argument(
        "--training-format",
        action="append",
        choices=list(FORMATS),
        default=[],
        dest="training_formats",
        help="also write such a training file; may be given several times",
    )
    parser.add_argument("--name", default="run", help="data set, for people")
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
