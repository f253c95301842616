"""A ranking: for every query the documents it retrieved, best first.

Also its two neighbours: the judgments that qrels hold about its rows, and its TREC run file.
"""

import gzip
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import quote_from_bytes

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trove_steps.files import written_atomically

ROWS_PER_BLOCK = 1 << 20
"""How many rows are worked on at once: bounds the memory of everything built on a ranking."""

_LARGEST_SCORE = 1e38
"""Scores are clipped to ± this in trec_scores, so that float32 has room to go below."""

# RE2 knows neither Unicode's nor Python's idea of white space in one class.
_WHITE_SPACE = r"[\s\x0b\x1c-\x1f\x{85}\p{Z}]"


@dataclass(frozen=True)
class Ranking:
    """The results of all searched queries, in one table by rows.

    The rows of query i are ``offsets[i]:offsets[i + 1]``, by score descending, exact ties by
    document id descending (as UTF-8 bytes).

    Attributes:
        query_ids: all Q searched queries, in file order; string array.
        doc_ids: all D documents of the corpus; string array.
        offsets: int64[Q + 1], not decreasing, from 0 to R.
        docs: int64[R], indices into ``doc_ids``; no document twice for one query.
        scores: float64[R], finite.
    """

    query_ids: pa.StringArray | pa.ChunkedArray
    doc_ids: pa.StringArray | pa.ChunkedArray
    offsets: np.ndarray
    docs: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Number of results of each query, int64[Q]."""
        return np.diff(self.offsets)

    @property
    def ranks(self) -> np.ndarray:
        """Rank of each row within its query, from 0, int64[R]."""
        return np.arange(len(self.docs)) - np.repeat(self.offsets[:-1], self.lengths)

    @property
    def row_queries(self) -> np.ndarray:
        """Query index of each row, int64[R]."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def head(self, depth: int) -> "Ranking":
        """Keep the best ``depth`` results of each query."""
        if not len(self) or self.lengths.max() <= depth:
            return self
        lengths = np.minimum(self.lengths, depth)
        rows = _ranges(self.offsets[:-1], lengths)
        return Ranking(
            self.query_ids, self.doc_ids, _offsets(lengths), self.docs[rows], self.scores[rows]
        )

    def select(self, queries: np.ndarray) -> "Ranking":
        """Keep some queries: a bool mask[Q], or int64 indices in the order that is wanted."""
        queries = np.asarray(queries)
        if queries.dtype == bool:
            queries = np.flatnonzero(queries)
        lengths = self.lengths[queries]
        rows = _ranges(self.offsets[queries], lengths)
        return Ranking(
            self.query_ids.take(pa.array(queries)),
            self.doc_ids,
            _offsets(lengths),
            self.docs[rows],
            self.scores[rows],
        )

    def filter(self, rows: np.ndarray) -> "Ranking":
        """Keep the rows where the mask bool[R] is true; every query stays, maybe without rows."""
        before = np.concatenate([[0], np.cumsum(rows)])
        return Ranking(
            self.query_ids,
            self.doc_ids,
            before[self.offsets],
            self.docs[rows],
            self.scores[rows],
        )

    def span(self, first: int, last: int) -> "Ranking":
        """View the queries ``first:last`` without copying rows."""
        start, stop = self.offsets[first], self.offsets[last]
        return Ranking(
            self.query_ids.slice(first, last - first),
            self.doc_ids,
            self.offsets[first : last + 1] - start,
            self.docs[start:stop],
            self.scores[start:stop],
        )

    def blocks(self, rows: int = ROWS_PER_BLOCK) -> Iterator[tuple[int, "Ranking"]]:
        """Walk through the queries in views of at most ``rows`` rows (but at least one query).

        Yields:
            The index of the view's first query, and the view.
        """
        first = 0
        while first < len(self):
            last = int(np.searchsorted(self.offsets, self.offsets[first] + rows, side="right")) - 1
            last = min(max(last, first + 1), first + rows, len(self))
            yield first, self.span(first, last)
            first = last


class Judgments:
    """What qrels say about the queries and documents of one ranking, sorted by both.

    The judgments of query i are ``offsets[i]:offsets[i + 1]``.

    Args:
        ranking: gives the queries and documents.
        qrels: table of ``query_id``, ``doc_id`` (strings) and ``score`` (int64 or float64), no
            pair twice.

    Attributes:
        offsets: int64[Q + 1].
        docs: int64[J], index of the document, -1 if the corpus has no such document.
        labels: int64[J] or float64[J].
        other_queries: number of judged queries that were not searched; nothing else is kept of
            them.
    """

    def __init__(self, ranking: Ranking, qrels: pa.Table) -> None:
        queries = positions(qrels["query_id"], ranking.query_ids)
        known = queries >= 0
        docs = positions(qrels["doc_id"], ranking.doc_ids)
        order = np.lexsort((docs[known], queries[known]))
        self.docs = docs[known][order]
        self.labels = qrels["score"].to_numpy()[known][order]
        self.offsets = _offsets(np.bincount(queries[known], minlength=len(ranking)))
        self.other_queries = len(pc.unique(qrels["query_id"].filter(pa.array(~known))))

    def __len__(self) -> int:
        """Return the number of judgments of searched queries."""
        return len(self.docs)

    @property
    def counts(self) -> np.ndarray:
        """Number of judgments of each query, int64[Q]."""
        return np.diff(self.offsets)

    def find(self, view: Ranking, queries: np.ndarray) -> np.ndarray:
        """Find the judgment of each row of a view of the ranking.

        Args:
            view: some of the queries, perhaps cut in depth.
            queries: int64[len(view)], where the view's queries are in the ranking.

        Returns:
            int64[R], an index into ``docs`` and ``labels``, -1 for a row without judgment.
        """
        places, rows = self.rows(queries)
        if not len(rows):
            return np.full(len(view.docs), -1)
        # Both sides by (place of the query in the view, document), so that one search does.
        stride = len(view.doc_ids) + 1
        judged = places * stride + self.docs[rows]
        wanted = view.row_queries * stride + view.docs
        nearest = np.minimum(np.searchsorted(judged, wanted), len(judged) - 1)
        return np.where(judged[nearest] == wanted, rows[nearest], -1)

    def rows(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """List the judgments of some queries: place in ``queries``, and judgment; int64 both."""
        counts = self.counts[queries]
        return np.repeat(np.arange(len(queries)), counts), _ranges(self.offsets[queries], counts)


def trec_scores(ranking: Ranking) -> np.ndarray:
    """Round the scores to float32 without changing the ranking that trec_eval reads from them.

    trec_eval compares float32 scores and breaks ties by the larger document id. Where two
    different float64 scores would become one float32, the lower one goes to the next float32
    below. Equal scores stay equal.

    Returns:
        float32[R].
    """
    rounded = np.empty(len(ranking.scores), np.float32)
    for first, block in ranking.blocks():
        start = ranking.offsets[first]
        rounded[start : start + len(block.docs)] = _distinct_float32(block)
    return rounded


def _distinct_float32(ranking: Ranking) -> np.ndarray:
    # Float32 numbers are counted through by integers. With c the number of lower steps so far
    # in its query, "at most the rounded score, and one below the row before if it was greater"
    # is: value + c is the running minimum of (rounded + c).
    scores = np.clip(ranking.scores, -_LARGEST_SCORE, _LARGEST_SCORE)
    wanted = _ordinals(scores.astype(np.float32))
    lower = np.ones(len(scores), np.int64)
    lower[1:] = ranking.scores[1:] < ranking.scores[:-1]
    steps = np.cumsum(lower)
    # Far enough apart that no query's minimum reaches into the next one's.
    apart = ranking.row_queries * (1 << 33)
    return _from_ordinals(np.minimum.accumulate(wanted + steps - apart) - steps + apart)


def _ordinals(values: np.ndarray) -> np.ndarray:
    """Number float32 values so that neighbours differ by 1; 0.0 and -0.0 are 0."""
    bits = values.view(np.int32).astype(np.int64)
    return np.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))


def _from_ordinals(ordinals: np.ndarray) -> np.ndarray:
    bits = np.abs(ordinals).astype(np.int32).view(np.float32)
    return np.where(ordinals < 0, -bits, bits)


def write_trec(path: str | os.PathLike, ranking: Ranking, tag: str = "trove-steps") -> None:
    """Write the TREC run file ``query Q0 document rank score tag``, rank from 1.

    trec_eval orders it as the ranking is ordered: the scores are those of ``trec_scores``,
    printed so that they parse to the same float32. White space in ids, which the format
    cannot hold, is written as in URLs (``%20``), and so is then every ``%``.

    Args:
        path: compressed if it ends in ``.gz``; the same ranking always gives the same bytes.
        tag: name of the run, without white space.
    """
    query_ids, doc_ids = trec_ids(ranking.query_ids), trec_ids(ranking.doc_ids)
    tag = re.sub(r"\s+", "_", tag.strip()) or "-"
    # Compressing one block and making the next go on side by side.
    with open_output(path) as file, ThreadPoolExecutor(1) as writer:
        pending = []
        for first, block in ranking.blocks():
            lines = pc.binary_join_element_wise(
                query_ids.take(pa.array(block.row_queries + first)),
                "Q0",
                doc_ids.take(pa.array(block.docs)),
                pc.cast(pa.array(block.ranks + 1), pa.string()),
                pc.cast(pa.array(trec_scores(block)), pa.string()),
                f"{tag}\n",
                " ",
            )
            for write in pending:
                write.result()
            pending = [writer.submit(write_lines, file, lines)]
        for write in pending:
            write.result()


def trec_ids(ids: pa.StringArray | pa.ChunkedArray) -> pa.StringArray | pa.ChunkedArray:
    """Percent-encode white space and ``%``, if any of the ids holds white space."""
    if not pc.any(pc.match_substring_regex(ids, _WHITE_SPACE)).as_py():
        return ids
    unfit = pc.match_substring_regex(ids, f"{_WHITE_SPACE}|%")
    encoded = [
        re.sub(r"[\s%]", lambda found: quote_from_bytes(found[0].encode(), safe=""), one)
        for one in ids.filter(unfit).to_pylist()
    ]
    return pc.replace_with_mask(ids, unfit, pa.array(encoded, ids.type))


def write_lines(file: BinaryIO, lines: pa.StringArray | pa.ChunkedArray) -> None:
    """Write strings one after the other, without making a Python object of each."""
    for chunk in lines.chunks if isinstance(lines, pa.ChunkedArray) else [lines]:
        if not len(chunk):
            continue
        width = np.int64 if pa.types.is_large_string(chunk.type) else np.int32
        _, bounds, text = chunk.buffers()
        bounds = np.frombuffer(bounds, width)[chunk.offset : chunk.offset + len(chunk) + 1]
        file.write(memoryview(text)[bounds[0] : bounds[-1]])


@contextmanager
def open_output(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a binary file that appears under its name only when it is complete.

    A name that ends in ``.gz`` is compressed; the same content always gives the same bytes.
    """
    with written_atomically(path) as temporary, open(temporary, "wb") as raw:
        if str(path).endswith(".gz"):
            with gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as file:
                yield file
        else:
            yield raw


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate ``start, …, start + length - 1`` of all pairs, int64."""
    shifts = np.repeat(starts - _offsets(lengths)[:-1], lengths)
    shifts += np.arange(len(shifts))
    return shifts


def places_within(groups: np.ndarray) -> np.ndarray:
    """0, 1, 2 … within each run of equal values."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    return np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def positions(values: pa.ChunkedArray, among: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Index of each string in ``among``, -1 if it is not there; int64."""
    found = pc.index_in(values, value_set=pc.cast(among, values.type))
    return found.fill_null(-1).to_numpy().astype(np.int64)
