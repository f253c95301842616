"""Reading relevance judgments (qrels): which documents are relevant to which queries, and how much.

Formats, by content: TSV and CSV with a header (query, document and score in any order) or without (in
that order), TREC's four columns, JSON lines (one judgment, or one query with lists of documents and
scores), nested JSON (query → document → score), training files with positives and negatives (Tevatron,
sentence-transformers, MS MARCO), synthetic corpora whose ids carry a level, Parquet and Arrow.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trove_steps.data.arrays import from_numpy, to_numpy
from trove_steps.data.ids import shortened
from trove_steps.data.judgments import json_judgments, json_lines, judgment_columns
from trove_steps.data.opening import Source
from trove_steps.data.triplets import (
    column_judgments,
    column_lines,
    text_judgments,
    text_lines,
)
from trove_steps.errors import TroveStepsError
from trove_steps.own_code import called, load_function


@dataclass(frozen=True)
class QrelsInfo:
    """What was found in qrel files.

    formats: per file, in order, in words.
    rows: judgments read; repeated: those left out because an equal one or a later one of the same
    query and document counts; relabelled: pairs whose judgments differ (the last one counts).
    """

    formats: list[str]
    rows: int
    repeated: int
    relabelled: int


def read_qrels(
    paths: Sequence[Path | str],
    *,
    shown_as: Sequence[str] | None = None,
    digests: Sequence[str] | None = None,
):
    """Return the judgments of one or several files as a pyarrow table.

    Columns: query_id (string), doc_id (string), score (int64, or double if any has a fraction).
    Each (query, document) occurs once, in the order of the first occurrence; of different labels the
    last one counts. See `load_qrels`.
    """
    return load_qrels(paths, shown_as=shown_as, digests=digests)[0]


def load_qrels(
    paths: Sequence[Path | str],
    *,
    shown_as: Sequence[str] | None = None,
    digests: Sequence[str] | None = None,
    loader: str | None = None,
    loader_sha256: str | None = None,
):
    """Return (table of `read_qrels`, QrelsInfo).

    shown_as: the paths that messages name; digests: the SHA-256 (hex) that the files must have.
    loader: a function of the user's own, module:function, that takes a path and returns triplets (query,
    document, score), mappings with qid, docid and score (also lists of docid and score), or a mapping
    query → document → score; loader_sha256: the SHA-256 that its file must have.
    Raises TroveStepsError with file and line for anything that is not a judgment.
    """
    rows, formats = read_rows(
        paths, shown_as=shown_as, digests=digests, loader=loader, loader_sha256=loader_sha256
    )
    table, repeated, relabelled = each_pair_once(rows)
    return table, QrelsInfo(formats, rows.num_rows, repeated, relabelled)


def read_rows(
    paths: Sequence[Path | str],
    *,
    shown_as: Sequence[str] | None = None,
    digests: Sequence[str] | None = None,
    loader: str | None = None,
    loader_sha256: str | None = None,
):
    """Return (table of every judgment of the files in order, formats); arguments of `load_qrels`."""
    tables, formats = [], []
    for number, path in enumerate(paths):
        name = shown_as[number] if shown_as else None
        with Source(path, name, digests[number] if digests else None) as source:
            if loader:
                what, parts = loader, _from_loader(source, path, loader, loader_sha256)
            else:
                what, parts = _read_one(source, path)
            if not any(part.num_rows for part in parts):
                raise TroveStepsError(
                    f"{source.name} holds no judgments"
                    + ("" if source.head.strip() else ": the file is empty")
                )
        formats.append(f"{what}, {source.compression}" if source.compression else what)
        tables += parts
    if not tables:
        raise TroveStepsError("no qrel file was given: name at least one (qrel_path)")
    return concatenated(tables), formats


def place_of(
    query: str, doc: str, paths: Sequence[Path | str], shown_as: Sequence[str]
) -> str | None:
    """Return path:line of the last judgment of a pair, as far as that is known; None if no file has it.

    Only for messages: the files are read once more, in the plain way. What an own loader reads may be
    anything else.
    """
    unreadable = (TroveStepsError, LookupError, UnicodeDecodeError)
    for path, shown in reversed(list(zip(paths, shown_as, strict=True))):
        with contextlib.suppress(*unreadable), Source(path, shown) as source:
            if source.format != "text":
                lines = column_lines(source, query, doc)
            elif source.head.lstrip()[:1] in (b"{", b"["):
                lines = json_lines(source, query, doc)
            else:
                lines = text_lines(source, query, doc)
            if lines:
                return f"{shown}:{lines[-1]}"
    return None


def most_annotated(qrels) -> int:
    """Return the largest number of judged documents of any query, 0 without judgments."""
    import pyarrow.compute as pc

    if not qrels.num_rows:
        return 0
    return pc.max(pc.value_counts(qrels["query_id"]).field("counts")).as_py()


def _read_one(source: Source, path: Path | str):
    if source.format != "text":
        return column_judgments(source)
    if source.head.lstrip()[:1] in (b"{", b"["):
        return json_judgments(source)
    return text_judgments(source, path)


def _from_loader(source: Source, path: Path | str, name: str, digest: str | None) -> list:
    """Read with a function of the user's own; it gets the real path."""
    function = load_function(name, digest)
    found = called(name, lambda: _listed(function(os.path.realpath(path))))
    columns = _triplets(found, name)
    try:
        return [judgment_columns(*columns)] if columns[0] else []
    except TroveStepsError as error:
        raise TroveStepsError(f"{source.name}, read by {name}: {error}") from None


def _listed(found):
    """Run what a loader returned to its end; a mapping and what is no iterable stay as they are."""
    return list(found) if isinstance(found, Iterable) and not isinstance(found, Mapping) else found


def _triplets(found, name: str) -> tuple[list, list, list]:
    """Return what a loader gave as columns: queries, documents, scores."""
    columns: tuple[list, list, list] = ([], [], [])
    item = found
    try:
        if isinstance(found, Mapping):
            found = [(q, d, score) for q, judged in found.items() for d, score in judged.items()]
        for item in found:
            query, doc, score = (
                (item["qid"], item["docid"], item["score"]) if isinstance(item, Mapping) else item
            )
            if not isinstance(doc, list):
                doc, score = [doc], [score]
            if len(doc) != len(score):
                raise TroveStepsError(f"{name}: docid and score of {query!r} differ in length")
            columns[0].extend([query] * len(doc))
            columns[1].extend(doc)
            columns[2].extend(score)
    except (TypeError, ValueError, LookupError, AttributeError):
        raise TroveStepsError(
            f"{name} must return triplets (query, document, score), mappings with qid, docid and score, or "
            f"a mapping query → document → score; it returned {shortened(item)}"
        ) from None
    return columns


def concatenated(tables: list):
    """Return the tables as one, its scores int64 if all of them are integers, else double."""
    import pyarrow as pa

    def with_scores(table, kind: pa.DataType, safe: bool):
        return table.set_column(2, "score", table["score"].cast(kind, safe=safe))

    try:
        return pa.concat_tables(with_scores(table, pa.int64(), True) for table in tables)
    except pa.ArrowInvalid:
        return pa.concat_tables(with_scores(table, pa.float64(), False) for table in tables)


def each_pair_once(table):
    """Return (table with each pair once, judgments left out, pairs with different labels)."""
    import numpy as np

    if not table.num_rows:
        return table, 0, 0
    codes = [id_codes(table[name]) for name in ("query_id", "doc_id")]
    pairs = codes[0].astype(np.int64) * (int(codes[1].max()) + 1) + codes[1]
    order = np.argsort(pairs, kind="stable")
    ordered = pairs[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    repeated = len(pairs) - len(starts)
    if not repeated:
        return table, 0, 0
    scores = to_numpy(table["score"])[order]
    differ = np.minimum.reduceat(scores, starts) != np.maximum.reduceat(scores, starts)
    firsts, lasts = order[starts], np.append(starts[1:], len(order)) - 1
    by_first = np.argsort(firsts)
    once = table.select(["query_id", "doc_id"]).take(from_numpy(firsts[by_first]))
    once = once.append_column("score", from_numpy(scores[lasts[by_first]]))
    return once, repeated, int(differ.sum())


def id_codes(ids):
    """Return an integer per id, equal for equal ids."""
    import pyarrow as pa
    import pyarrow.compute as pc

    # 64-bit offsets: the distinct ids may exceed 2 GiB.
    encoded = pc.dictionary_encode(ids.cast(pa.large_string())).combine_chunks()
    return to_numpy(encoded.indices)
