"""Check a finished search against brute force that shares no code with it.

For some queries every document is scored again in float64. A query is certified if it has as many results as
it must; if their scores are those of docs/search.md to the last bit, and those of a plain sum up to rounding;
if they are in order; and if no document outside has its place before one inside.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trove_steps.embeddings.paths import manifest_path
from trove_steps.embeddings.vectors import Vectors
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_manifest
from trove_steps.fingerprint import hash_file
from trove_steps.search import MANIFEST, open_search

QUERIES_AT_ONCE = 256  # which read the documents once
BLOCK_DOCUMENTS, BLOCK_NUMBERS = 8192, 1 << 22  # the most documents of a block, and numbers in them
PAIR_NUMBERS = 1 << 20  # products of pairs held at once


@dataclass(frozen=True)
class Certificate:
    """What brute force says of a search.

    largest_difference: between a stored score and brute force, in units of the score.
    smallest_gap: between the scores of neighbours in a ranking that are not equal.
    failures: one line for each query that is not certified, and for each damaged file of vectors.
    """

    queries: int
    largest_difference: float
    smallest_gap: float
    failures: list[str]


def certify(manifest: Path, cache_dir: Path, queries: int, seed: int = 0) -> Certificate:
    """Check `queries` randomly chosen queries of a search (all if there are fewer)."""
    if seed < 0:
        raise TroveStepsError(f"--seed: {seed}; it must be a whole number, 0 or more")
    ranking, query_vectors, doc_vectors = open_search(manifest, cache_dir)
    described = read_manifest(manifest, "a search (top….json)", MANIFEST | {"depth": int})
    recipe = described["recipe"]
    if not len(query_vectors) or not len(doc_vectors):
        raise TroveStepsError(f"{manifest}: there is nothing to certify in an empty search")
    chance = np.random.default_rng(seed)
    count = min(queries, len(query_vectors))
    chosen = np.sort(chance.choice(len(query_vectors), count, replace=False))
    found: list[tuple[float, float, str]] = []
    for start in range(0, count, QUERIES_AT_ONCE):
        some = chosen[start : start + QUERIES_AT_ONCE]
        sample = Sample(ranking, some, query_vectors.take(some), recipe["exclude_identical_ids"])
        size = min(BLOCK_DOCUMENTS, max(1, BLOCK_NUMBERS // doc_vectors.dim))
        for first in range(0, len(doc_vectors), size):
            block = np.arange(first, min(first + size, len(doc_vectors)))
            sample.compare(first, doc_vectors.take(block))
        found += sample.verdicts(described["depth"])
    differences, gaps, failures = zip(*found, strict=True)
    return Certificate(
        queries=count,
        largest_difference=max(differences),
        smallest_gap=min(gaps),
        failures=[*filter(None, failures), *_damaged_shards(recipe, cache_dir)],
    )


def _damaged_shards(recipe: dict, cache_dir: Path) -> list[str]:
    """Return a line for each shard with searched vectors whose bytes are not those that were written."""
    names = {}
    for side in ("queries", "corpus"):
        of = recipe[side]
        vectors = Vectors(manifest_path(cache_dir, of["encoder"], side, of["texts"]))
        names |= dict.fromkeys(vectors.shard_paths())
    return [
        f"{path} is damaged: `trove-steps cache verify` sets it aside, and `snakemake encode` "
        "encodes its texts again"
        for path in names
        if path.exists() and hash_file(path) != path.stem
    ]


class Sample:
    """Some queries and their results, against which blocks of all documents are held.

    Of a block only that is kept which concerns the results, so that memory goes with these.
    """

    def __init__(self, ranking, chosen: np.ndarray, vectors: np.ndarray, exclude: bool):
        """`chosen` int64[q] are the numbers of the queries, `vectors` float32[q, dim] theirs. `exclude`: no
        query may have the document with its own id."""
        self.ids, self.doc_ids = ranking.query_ids.take(pa.array(chosen)), ranking.doc_ids
        self.vectors, self.exclude = vectors, exclude
        starts, ends = ranking.offsets[chosen], ranking.offsets[chosen + 1]
        self.ends = np.cumsum(ends - starts)  # of the results of each query, in what follows
        self.row = np.repeat(np.arange(len(chosen)), ends - starts)
        rows = [np.arange(start, end) for start, end in zip(starts, ends, strict=True)]
        self.docs, self.scores = (
            column[np.concatenate(rows)] for column in (ranking.docs, ranking.scores)
        )
        # The last result of each query; without a valid one, nothing outside is compared.
        self.last, self.last_doc = np.full(len(chosen), np.inf), np.full(len(chosen), -1)
        for query in np.flatnonzero(ends > starts):
            last = ends[query] - 1
            if 0 <= ranking.docs[last] < len(ranking.doc_ids):
                self.last[query], self.last_doc[query] = ranking.scores[last], ranking.docs[last]
        self.by_document = np.argsort(self.docs, kind="stable")
        # What each result should score: by a plain sum, how far that may be off, by the definition.
        self.plain, self.allowed, self.defined = np.full((3, len(self.docs)), np.nan)
        self.available = np.full(len(chosen), len(ranking.doc_ids))  # documents that it may have
        self.wrong = [""] * len(chosen)

    def compare(self, first: int, documents: np.ndarray) -> None:
        """Hold documents float32[n, dim], whose numbers are first, first + 1, …, against the results."""
        queries, wide = self.vectors.astype(np.float64), documents.astype(np.float64)
        scores = queries @ wide.T
        # The error of a sum of d float64 products in any order (Higham 2002, section 3.1), twice: that of
        # this sum and that of the stored one.
        allowed = np.abs(queries) @ np.abs(wide).T
        allowed *= 2 * (documents.shape[1] + 2) * np.finfo(np.float64).eps
        low, high = np.searchsorted(
            self.docs, [first, first + len(documents)], sorter=self.by_document
        )
        results = self.by_document[low:high]
        inside = row, column = self.row[results], self.docs[results] - first
        self.plain[results], self.allowed[results] = scores[inside], allowed[inside]
        self.defined[results] = _defined(self.vectors, documents, row, column)
        scores[inside] = -np.inf
        ids = self.doc_ids.slice(first, len(documents)).combine_chunks()
        if self.exclude:
            self._leave_out_twins(ids, scores)
        open_pairs = np.nonzero(scores + allowed >= self.last[:, None])
        self._look_outside(ids, documents, *open_pairs)

    def _leave_out_twins(self, ids: pa.Array, scores: np.ndarray) -> None:
        """Of scores [q, n], drop those of documents with the id of the query; `ids` are the documents'."""
        column = pc.index_in(self.ids, value_set=ids).fill_null(-1).to_numpy()
        (row,) = np.nonzero(column >= 0)
        for query in row[np.isneginf(scores[row, column[row]])]:
            self._blame(query, "the document with the query's own id is among the results")
        scores[row, column[row]] = -np.inf
        self.available[row] -= 1

    def _look_outside(self, ids: pa.Array, documents: np.ndarray, row, column) -> None:
        """Blame queries for documents outside their results with a place before the last of these.

        `row`, `column`: pairs of a query and a document of which rounding leaves that open.
        """
        scores = _defined(self.vectors, documents, row, column)
        for query in np.unique(row[scores > self.last[row]]):
            self._blame(query, "a document outside the results scores higher than one inside")
        tied = scores == self.last[row]
        for query in np.unique(row[tied]):
            others = ids.take(pa.array(column[tied & (row == query)]))
            if pc.any(pc.greater(others, self.doc_ids[int(self.last_doc[query])])).as_py():
                self._blame(query, "a document outside ties with the last one and has a larger id")

    def _blame(self, query: int, what: str) -> None:
        self.wrong[query] = self.wrong[query] or what

    def verdicts(self, depth: int) -> list[tuple[float, float, str]]:
        """Return (largest difference, smallest gap, what is wrong or "") of each query, after all blocks.

        `depth`: how many results a query must have, if there are as many documents.
        """
        starts = [0, *self.ends[:-1]]
        return [
            self._verdict(query, slice(start, end), min(depth, self.available[query]))
            for query, (start, end) in enumerate(zip(starts, self.ends, strict=True))
        ]

    def _verdict(self, query: int, rows: slice, expected: int) -> tuple[float, float, str]:
        docs, scores = self.docs[rows], self.scores[rows]
        differences = np.abs(scores - self.plain[rows])
        steps = -np.diff(scores)
        gap = float(steps[steps > 0].min()) if (steps > 0).any() else np.inf
        if len(docs) != expected:
            wrong = f"{len(docs)} results instead of {expected}"
        elif ((docs < 0) | (docs >= len(self.doc_ids))).any():
            wrong = "a result names a document that is not there"
        elif len(set(docs.tolist())) != len(docs):
            wrong = "a document stands twice"
        elif not (differences <= self.allowed[rows]).all():
            wrong = f"a score differs by {differences.max():.3g} from brute force"
        elif (scores != self.defined[rows]).any():
            wrong = "a score differs from its definition in the last bits"
        elif (steps < 0).any():
            wrong = "the scores do not descend"
        elif self._ties_are_out_of_order(docs, steps):
            wrong = "documents with equal scores are not ordered by id, descending"
        else:
            wrong = self.wrong[query]
        name = self.ids[query].as_py()
        return float(differences.max(initial=0)), gap, f"{name}: {wrong}" if wrong else ""

    def _ties_are_out_of_order(self, docs: np.ndarray, steps: np.ndarray) -> bool:
        for place in np.flatnonzero(steps == 0):
            first, second = (
                self.doc_ids[int(docs[p])].as_py().encode() for p in (place, place + 1)
            )
            if first < second:
                return True
        return False


def _defined(queries: np.ndarray, documents: np.ndarray, row, column) -> np.ndarray:
    """Return float64[m]: the scores of queries[row] and documents[column] as docs/search.md defines them.

    The products, which float64 holds exactly, and zeros up to a power of two; then the second half is added
    to the first until one number is left.
    """
    dim = queries.shape[1]
    width = 1 << (dim - 1).bit_length()
    scores = np.empty(len(row))
    size = max(1, PAIR_NUMBERS // width)
    for start in range(0, len(row), size):
        some = slice(start, start + size)
        terms = np.zeros((len(row[some]), width))
        terms[:, :dim] = queries[row[some]]
        terms[:, :dim] *= documents[column[some]]
        while terms.shape[1] > 1:
            first, second = np.hsplit(terms, 2)
            terms = first + second
        scores[some] = terms[:, 0] + 0.0  # not -0.0
    return scores
