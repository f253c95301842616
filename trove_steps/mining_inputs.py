"""What the steps mine and rescore share: options that choose candidates, and what they are chosen from."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from trove_steps.arguments import shown_path
from trove_steps.config import load_schema
from trove_steps.data import read_qrels, read_records
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json
from trove_steps.ranking import Ranking
from trove_steps.search import open_search
from trove_steps.store import manifest_path


def add_candidate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is needed to choose candidates: the search, the judgments, the files, some options."""
    parser.add_argument(
        "--search", type=Path, required=True, metavar="FILE", help="manifest of the search"
    )
    parser.add_argument(
        "--encoding-cache-dir", type=Path, default=Path("cache"), help="where the search was made"
    )
    for option, what in (
        ("qrel", "the judgments"),
        ("corpus", "the documents"),
        ("query", "the queries"),
    ):
        parser.add_argument(
            f"--{option}-path", nargs="*", type=Path, default=[], metavar="FILE", help=what
        )
        parser.add_argument(
            f"--{option}-sha256",
            nargs="*",
            metavar="DIGEST",
            help=f"the SHA-256 that the files of {what} must have",
        )
    parser.add_argument("--search-topk", type=int, default=100, help=described("search_topk"))
    parser.add_argument(
        "--keep-annotated",
        action="store_true",
        help="do not leave out annotated documents (no_annot_in_mined_hn: false)",
    )
    parser.add_argument(
        "--keep-text-twins",
        action="store_true",
        help="do not leave out documents with the text of a positive (exclude_text_twins: false)",
    )
    parser.add_argument("--near-twin-cosine", type=float, help=described("near_twin_cosine"))


def described(option: str) -> str:
    """Return what the schema of the configuration says about an option of mining."""
    options = load_schema()["$defs"]["mining"]["properties"]
    return options[option]["description"].replace("%", "%%")


@dataclass(frozen=True)
class MiningInputs:
    """A ranking and what is known about its queries and documents.

    Attributes:
        ranking: of the search.
        qrels: as `read_qrels` returns them, or None.
        knowledge: the keyword arguments of `mine` that hold evidence: texts and vectors.
    """

    ranking: Ranking
    qrels: pa.Table | None
    knowledge: dict


def read_inputs(arguments: argparse.Namespace) -> MiningInputs:
    """Open what the arguments of `add_candidate_arguments` name."""
    ranking, queries, documents = open_search(arguments.search, arguments.encoding_cache_dir)
    knowledge = {"query_vectors": queries, "doc_vectors": documents}
    qrels = None
    if arguments.qrel_path:
        qrels = read_qrels(
            arguments.qrel_path,
            shown_as=[shown_path(path) for path in arguments.qrel_path],
            digests=arguments.qrel_sha256,
        )
        knowledge["texts"] = _texts(arguments)
        drop = not (arguments.keep_text_twins or arguments.keep_annotated)
        knowledge["drop_text_twins"] = drop
    return MiningInputs(ranking, qrels, knowledge)


def _texts(arguments: argparse.Namespace) -> np.ndarray:
    """Return int64[D], equal for documents whose text, as it was encoded, is the same.

    These are 8 bytes of the text's SHA-256: two texts in 10 million share them with a chance of
    about one in 400,000.
    """
    corpus = read_json(arguments.search)["recipe"]["corpus"]
    manifest = manifest_path(
        arguments.encoding_cache_dir, corpus["encoder"], "corpus", corpus["texts"]
    )
    rows = pa.ipc.open_file(pa.memory_map(str(manifest.with_suffix(".rows.arrow")))).read_all()
    column = rows["key"].combine_chunks()
    column = column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)
    keys = np.frombuffer(column.buffers()[1], np.int64).reshape(-1, 2)
    return keys[column.offset : column.offset + len(column), 0]


@dataclass(frozen=True)
class Texts:
    """Titles (None where missing) and texts of some records, by row number in the collection."""

    titles: dict[int, str | None]
    texts: dict[int, str]

    def joined(self, row: int) -> str:
        """Return title and text as one string, as sentence-transformers' users join them."""
        return f"{(self.titles[row] or '').strip()} {self.texts[row].strip()}".strip()


def read_texts(
    paths: Sequence[Path], digests: Sequence[str] | None, rows: np.ndarray, total: int
) -> Texts:
    """Read the texts of some rows of a collection; the others are passed over.

    Args:
        paths: the files of the collection, in order.
        digests: the SHA-256 that they must have, or None.
        rows: int64[m], ascending row numbers.
        total: how many records the collection has.

    Raises:
        TroveStepsError: the files are missing, or do not hold ``total`` records.
    """
    if not paths:
        raise TroveStepsError(
            "texts are needed, but no files of them are given: add --corpus-path and --query-path"
        )
    titles, texts, start = {}, {}, 0
    for path, digest in zip(paths, digests or [None] * len(paths), strict=True):
        for batch in read_records(path, shown_as=shown_path(path), digest=digest):
            end = start + len(batch.ids)
            for row in rows[np.searchsorted(rows, start) : np.searchsorted(rows, end)].tolist():
                titles[row], texts[row] = batch.titles[row - start], batch.texts[row - start]
            start = end
    _check_total(start, total, paths)
    return Texts(titles, texts)


def file_numbers(paths: Sequence[Path], total: int) -> np.ndarray:
    """Return int64[total]: in which of the files each record of a collection is."""
    if len(paths) == 1:
        return np.zeros(total, np.int64)
    counts = [sum(len(batch.ids) for batch in read_records(path)) for path in paths]
    _check_total(sum(counts), total, paths)
    return np.repeat(np.arange(len(paths)), counts)


def _check_total(found: int, total: int, paths: Sequence[Path]) -> None:
    if found != total:
        shown = ", ".join(map(shown_path, paths))
        raise TroveStepsError(
            f"{shown}: {found:,} records, but {total:,} were searched: name the files that were encoded"
        )
