"""What the steps mine and rescore share: options that choose candidates, and what they are chosen from."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from trove_steps.arguments import shown_path
from trove_steps.config.schema import load_schema
from trove_steps.data import read_records, reader_of
from trove_steps.embeddings.paths import manifest_path
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json
from trove_steps.judging import add_collections_argument, read_judgments
from trove_steps.ranking import Ranking
from trove_steps.search import open_search


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
    add_collections_argument(parser)
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
class SourceFiles:
    """The files of a collection that was encoded.

    Attributes:
        paths: in order; empty where none were named.
        records: how many records they hold together.
        digests: the SHA-256 that they must have, or None.
        readers: how each is read (see `trove_steps.encoding.job.Job`); empty: in the plain way.
    """

    paths: Sequence[Path]
    records: int
    digests: Sequence[str] | None = None
    readers: Sequence[dict] = ()

    def batches(self):
        """Yield (number of the file, batch of its records). Raises TroveStepsError as `read_records`,
        and if there are not as many records as were encoded."""
        found = 0
        for number, path in enumerate(self.paths):
            digest = self.digests[number] if self.digests else None
            reader = reader_of(self.readers[number] if self.readers else {})
            for batch in read_records(
                path, shown_as=shown_path(path), digest=digest, reader=reader
            ):
                found += len(batch.ids)
                yield number, batch
        if found != self.records:
            shown = ", ".join(map(shown_path, self.paths))
            raise TroveStepsError(
                f"{shown}: {found:,} records, but {self.records:,} were searched: name the files that "
                "were encoded"
            )


@dataclass(frozen=True)
class MiningInputs:
    """A ranking and what is known about its queries and documents.

    Attributes:
        ranking: of the search.
        qrels: as `read_qrels` returns them, or None.
        knowledge: the keyword arguments of `mine` that hold evidence: texts and vectors.
        queries, documents: the files that hold their texts.
    """

    ranking: Ranking
    qrels: pa.Table | None
    knowledge: dict
    queries: SourceFiles | None = None
    documents: SourceFiles | None = None


def read_inputs(arguments: argparse.Namespace) -> MiningInputs:
    """Open what the arguments of `add_candidate_arguments` name."""
    ranking, queries, documents = open_search(arguments.search, arguments.encoding_cache_dir)
    knowledge = {"query_vectors": queries, "doc_vectors": documents}
    qrels = None
    if arguments.qrel_path:
        qrels = read_judgments(arguments)
        knowledge["texts"] = _texts(arguments)
        drop = not (arguments.keep_text_twins or arguments.keep_annotated)
        knowledge["drop_text_twins"] = drop
    return MiningInputs(
        ranking,
        qrels,
        knowledge,
        queries=_files(arguments, "query", len(ranking)),
        documents=_files(arguments, "corpus", len(ranking.doc_ids)),
    )


def _manifest(arguments: argparse.Namespace, role: str) -> Path:
    names = read_json(arguments.search)["recipe"][role]
    return manifest_path(arguments.encoding_cache_dir, names["encoder"], role, names["texts"])


def _files(arguments: argparse.Namespace, option: str, records: int) -> SourceFiles:
    role = {"query": "queries"}.get(option, option)
    paths = getattr(arguments, f"{option}_path")
    readers = read_json(_manifest(arguments, role))["recipe"].get("readers", [])
    return SourceFiles(paths, records, getattr(arguments, f"{option}_sha256"), readers)


def _texts(arguments: argparse.Namespace) -> np.ndarray:
    """Return int64[D], equal for documents whose text, as it was encoded, is the same.

    These are 8 bytes of the text's SHA-256: two texts in 10 million share them with a chance of
    about one in 400,000.
    """
    manifest = _manifest(arguments, "corpus")
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


def read_texts(files: SourceFiles, rows: np.ndarray) -> Texts:
    """Read the texts of some rows of a collection, int64[m] ascending; the others are passed over.

    Raises TroveStepsError where no files are named, and as `SourceFiles.batches`.
    """
    _check_named(files)
    titles, texts, start = {}, {}, 0
    for _, batch in files.batches():
        end = start + len(batch.ids)
        for row in rows[np.searchsorted(rows, start) : np.searchsorted(rows, end)].tolist():
            titles[row], texts[row] = batch.titles[row - start], batch.texts[row - start]
        start = end
    return Texts(titles, texts)


def file_numbers(files: SourceFiles) -> np.ndarray:
    """Return int64[records]: in which of the files each record of a collection is.

    Raises TroveStepsError where no files are named, and as `SourceFiles.batches`.
    """
    _check_named(files)
    if len(files.paths) == 1:
        return np.zeros(files.records, np.int64)
    parts = [np.full(len(batch.ids), number) for number, batch in files.batches()]
    return np.concatenate([np.empty(0, np.int64), *parts])


def _check_named(files: SourceFiles) -> None:
    if not files.paths:
        raise TroveStepsError(
            "texts are needed, but no files of them are given: add corpus_path and query_path to the data "
            "set (--corpus-path, --query-path)"
        )
