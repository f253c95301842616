"""Files of mined negatives: TSV or grouped JSON lines, in one file or one for each pair of input files."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trove_steps.errors import TroveStepsError
from trove_steps.files import write_json
from trove_steps.mining.mined import Mined
from trove_steps.ranking import Ranking, open_output, write_lines


def split_by_file(
    mined: Mined, query_files: np.ndarray, corpus_files: np.ndarray
) -> Iterator[tuple[int, int, Ranking]]:
    """Split negatives by query file and corpus file.

    Args:
        query_files: int[q], the file of each mined query.
        corpus_files: int[D], the file of each document.

    Yields:
        Query file, corpus file and their negatives, by file numbers; pairs without any are left
        out.
    """
    rows = mined.negatives
    row_query_files, row_corpus_files = query_files[rows.row_queries], corpus_files[rows.docs]
    for query_file in np.unique(row_query_files):
        for corpus_file in np.unique(row_corpus_files[row_query_files == query_file]):
            these = (row_query_files == query_file) & (row_corpus_files == corpus_file)
            yield int(query_file), int(corpus_file), rows.filter(these)


def write_by_file(
    folder: str | os.PathLike,
    mined: Mined,
    query_paths: Sequence[str],
    query_files: np.ndarray,
    corpus_paths: Sequence[str],
    corpus_files: np.ndarray,
    output_qrel_format: Literal["tsv", "grouped"] = "tsv",
) -> list[Path]:
    """Write ``query_corpus_pair_{i}/`` for each pair of files, as Trove does.

    Each holds the negatives and ``file_pair_metadata.json``, which names the two files.

    Returns:
        The files that were written.
    """
    written = []
    pairs = split_by_file(mined, query_files, corpus_files)
    for number, (query_file, corpus_file, rows) in enumerate(pairs):
        pair = Path(folder) / f"query_corpus_pair_{number}"
        written.append(write_negatives(pair, rows, output_qrel_format))
        written.append(pair / "file_pair_metadata.json")
        query_path, corpus_path = query_paths[query_file], corpus_paths[corpus_file]
        write_json(
            written[-1],
            {
                "query_file": query_path,
                "query_realpath": os.path.realpath(query_path),
                "corpus_file": corpus_path,
                "corpus_realpath": os.path.realpath(corpus_path),
            },
        )
    return written


def write_negatives(
    folder: str | os.PathLike, negatives: Ranking, output_qrel_format: Literal["tsv", "grouped"]
) -> Path:
    """Write ``mined_qrels.tsv`` or ``mined_qrels.jsonl`` into the folder; return its path."""
    name, write = {
        "tsv": ("mined_qrels.tsv", write_tsv),
        "grouped": ("mined_qrels.jsonl", write_grouped),
    }[output_qrel_format]
    path = Path(folder) / name
    write(path, negatives)
    return path


def write_tsv(path: str | os.PathLike, negatives: Ranking) -> None:
    """Write negatives as a qrels file: header, then query-id, corpus-id and score by tabs.

    Raises:
        TroveStepsError: an id with a tab or a line end, which the format cannot hold; a pair of
            ids that occurs twice, because two files use the same ids.
    """
    rows = _distinct(negatives)
    for ids in (rows.query_ids, rows.doc_ids):
        unfit = pc.match_substring_regex(ids, r"[\t\n\r]")
        if pc.any(unfit).as_py():
            raise TroveStepsError(
                f"id {ids.filter(unfit)[0].as_py()!r} holds a tab or a line end, which a TSV file "
                "cannot: set output_qrel_format: grouped"
            )
    with open_output(path) as file:
        file.write(b"query-id\tcorpus-id\tscore\n")
        for _, block in rows.blocks():
            write_lines(
                file,
                pc.binary_join_element_wise(
                    block.query_ids.take(pa.array(block.row_queries)),
                    block.doc_ids.take(pa.array(block.docs)),
                    pa.array([f"{score!r}\n" for score in _float32_values(block)], pa.string()),
                    "\t",
                ),
            )


def write_grouped(path: str | os.PathLike, negatives: Ranking) -> None:
    """Write negatives as JSON lines ``{"qid": …, "docid": […], "score": […]}``, one per query.

    A query without negatives has no line.

    Raises:
        TroveStepsError: a pair of ids that occurs twice, because two files use the same ids.
    """
    with open_output(path) as file:
        for _, block in _distinct(negatives).blocks():
            queries = block.query_ids.to_pylist()
            docs = block.doc_ids.take(pa.array(block.docs)).to_pylist()
            scores = _float32_values(block)
            for query, start, stop in zip(
                queries, block.offsets[:-1], block.offsets[1:], strict=True
            ):
                if start < stop:
                    group = {"qid": query, "docid": docs[start:stop], "score": scores[start:stop]}
                    file.write(json.dumps(group, ensure_ascii=False).encode() + b"\n")


def _float32_values(rows: Ranking) -> list[float]:
    return rows.scores.astype(np.float32).astype(np.float64).tolist()


def _distinct(rows: Ranking) -> Ranking:
    """Return the negatives, sure that no pair of ids occurs twice."""
    used = rows.doc_ids.take(pa.array(np.unique(rows.docs)))
    if pc.count_distinct(rows.query_ids).as_py() == len(rows) and pc.count_distinct(
        used
    ).as_py() == len(used):
        return rows
    pairs = pa.table(
        {
            "query": rows.query_ids.take(pa.array(rows.row_queries)),
            "document": rows.doc_ids.take(pa.array(rows.docs)),
        }
    )
    counts = pairs.group_by(["query", "document"]).aggregate([([], "count_all")])
    clash = counts.filter(pc.greater(counts["count_all"], 1))
    if len(clash):
        raise TroveStepsError(
            f"query {clash['query'][0].as_py()!r} and document {clash['document'][0].as_py()!r} "
            "would stand twice in one file of negatives, because two of the data set's files use "
            "the same ids: set merge_mined_qrels: false"
        )
    return rows
