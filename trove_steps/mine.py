"""Step: mine hard negatives, highly ranked documents of each query that nobody has annotated.

Writes to mined/: mined_qrels.tsv (query-id, corpus-id, score) or mined_qrels.jsonl, audit.parquet (a row
per negative: rank, score, gap to the weakest positive, twin, score of the cross-encoder), funnel.parquet
(per query, what became of its candidates), funnel.json (the sums) and training files. A query with fewer
negatives than asked for is counted, never padded.
"""

import argparse
import time
from dataclasses import fields
from pathlib import Path

from trove_steps.arguments import run_step, shown_path, step_parser
from trove_steps.distributed import Comm, communicator
from trove_steps.files import read_json
from trove_steps.mining.inputs import (
    MiningInputs,
    add_candidate_arguments,
    described,
    file_numbers,
    read_inputs,
)
from trove_steps.mining.mined import Mined
from trove_steps.mining.mined_folder import clear, write_findings
from trove_steps.mining.mined_qrels import write_by_file, write_negatives
from trove_steps.mining.rules import mine
from trove_steps.mining.selection import Selection, mining_recipe, selection_of
from trove_steps.mining.training_files import FORMATS, write_training_files
from trove_steps.progress import report
from trove_steps.reporting.shortfalls import nothing_mined
from trove_steps.results import drop_records, write_record
from trove_steps.wording import counted


def run(arguments, comm: Comm) -> None:
    """Mine on rank 0; the other ranks have nothing to do."""
    if comm.rank != 0:
        return
    started = time.perf_counter()
    inputs = read_inputs(arguments)
    selection = selection_of(vars(arguments))
    mined = mine(
        inputs.ranking,
        inputs.qrels,
        arguments.search_topk,
        not arguments.keep_annotated,
        selection,
        teacher=_teacher(arguments),
        **inputs.knowledge,
    )
    folder = arguments.record.parent.parent / "mined"
    drop_records(arguments.record)
    clear(folder)
    files = _write_qrels(folder, mined, inputs, arguments)
    training, counts = write_training_files(
        folder, mined, inputs, arguments.training_formats, selection.wanted(arguments.search_topk)
    )
    files += training + write_findings(folder, mined, counts)
    write_record(
        arguments.record,
        files,
        cell=arguments.name,
        search=read_json(arguments.search)["recipe"],
        qrels=arguments.qrel_sha256,
        options=recorded_options(arguments),
    )
    if missing := nothing_mined(mined.counts | counts):
        report(f"warning: {arguments.name}: {missing}")
    report(
        f"mine {arguments.name}: {yielded(mined, selection.wanted(arguments.search_topk))} · "
        f"{time.perf_counter() - started:.1f} s"
    )


def yielded(mined: Mined, wanted: int) -> str:
    """Say how many negatives there are, for how many queries, and how many of these got too few or none."""
    short, without = mined.counts["num_short_queries"], int((mined.negatives.lengths == 0).sum())
    return (
        f"{counted(mined.counts['num_kept'], 'negative')} for "
        f"{counted(mined.counts['num_mined_queries'], 'query', 'queries')}"
        + (f", {short:,} of them with fewer than {wanted}" if short else "")
        + (f" ({without:,} with none)" if without else "")
    )


def recorded_options(arguments) -> dict:
    """Return the options of the step as the planner's recipe has them (`Cell.mining`)."""
    options = {
        "no_annot_in_mined_hn": not arguments.keep_annotated,
        "exclude_text_twins": not arguments.keep_text_twins,
        "merge_mined_qrels": not arguments.split_by_file,
    }
    cross_encoder = arguments.pair_scores and arguments.pair_scores.parent.name
    return mining_recipe(vars(arguments) | options, cross_encoder)


def _write_qrels(folder: Path, mined: Mined, inputs: MiningInputs, arguments) -> list[Path]:
    if not arguments.split_by_file:
        return [write_negatives(folder, mined.negatives, arguments.output_qrel_format)]
    query_files, corpus_files = file_numbers(inputs.queries), file_numbers(inputs.documents)
    return write_by_file(
        folder,
        mined,
        [shown_path(path) for path in arguments.query_path],
        query_files[mined.queries],
        [shown_path(path) for path in arguments.corpus_path],
        corpus_files,
        arguments.output_qrel_format,
    )


def _teacher(arguments):
    if arguments.pair_scores is None:
        return None
    from trove_steps.mining.pair_scores import read_teacher

    return read_teacher(arguments.pair_scores)


def main() -> None:
    arguments = step_arguments().parse_args()
    with communicator() as comm:
        run(arguments, comm)


def step_arguments() -> argparse.ArgumentParser:
    """Return the parser of the step's command line."""
    parser = step_parser("mine", __doc__)
    add_candidate_arguments(parser)
    _add_selection(parser)
    parser.add_argument(
        "--pair-scores", type=Path, metavar="FILE", help="manifest of what the step rescore made"
    )
    parser.add_argument("--output-qrel-format", choices=["tsv", "grouped"], default="tsv")
    parser.add_argument(
        "--split-by-file",
        action="store_true",
        help="a file of negatives per pair of query and corpus file (merge_mined_qrels: false)",
    )
    parser.add_argument(
        "--training-format",
        action="append",
        choices=list(FORMATS),
        default=[],
        dest="training_formats",
        help="also write such a training file; may be given several times",
    )
    parser.add_argument("--name", default="run", help="data set/model, for people")
    parser.add_argument(
        "--record",
        type=Path,
        required=True,
        metavar="FOLDER/.mine/NAME.json",
        help="written last; the results go to FOLDER/mined",
    )
    return parser


def _add_selection(parser: argparse.ArgumentParser) -> None:
    kinds = {"num_negatives": int, "range_min": int, "range_max": int, "seed": int}
    for field in fields(Selection):
        if field.name != "near_twin_cosine":
            parser.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=str if field.name == "sampling" else kinds.get(field.name, float),
                choices=["top", "random"] if field.name == "sampling" else None,
                default=field.default,
                help=described(field.name),
            )


if __name__ == "__main__":
    run_step(main)
