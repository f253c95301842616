"""What mining knows of candidates and positives beside the ranking: texts, vectors, a teacher's scores."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from trove_steps.ranking import Judgments, Ranking, places_within

_PAIRS_PER_STEP = 1 << 16


class Vectors(Protocol):
    """Stored vectors in the order of a ranking's queries or documents."""

    def take(self, indices: np.ndarray) -> np.ndarray:
        """float32[m, dim] for int64[m]."""


class Teacher(Protocol):
    """A better judge of relevance than the ranking, such as a cross-encoder."""

    def __call__(self, queries: np.ndarray, docs: np.ndarray) -> np.ndarray:
        """Scores float64[m] of the pairs (int64[m], int64[m]), all finite."""


@dataclass(frozen=True)
class Evidence:
    """Everything that is known about queries and documents beside the ranking."""

    judgments: Judgments | None
    texts: np.ndarray | None
    drop_text_twins: bool
    query_vectors: Vectors | None
    doc_vectors: Vectors | None
    teacher: Teacher | None

    def positives(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positives that are in the corpus: place in ``queries``, and document, by place."""
        if self.judgments is None:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        places, rows = self.judgments.rows(queries)
        wanted = (self.judgments.labels[rows] >= 1) & (self.judgments.docs[rows] >= 0)
        return places[wanted], self.judgments.docs[rows[wanted]]

    def exact_scores(self, queries: np.ndarray, docs: np.ndarray) -> np.ndarray:
        """float64[m], by the same arithmetic as the search's."""
        from trove_steps.topk.search import rescore

        scores = np.empty(len(queries))
        for part in _steps(len(queries)):
            scores[part] = rescore(
                self.query_vectors.take(queries[part]), self.doc_vectors.take(docs[part])
            )
        return scores

    def cosines(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """float64[m], of the vectors of documents ``left`` and ``right``; 0 for a zero vector."""
        cosines = np.empty(len(left))
        for part in _steps(len(left)):
            a = self.doc_vectors.take(left[part]).astype(np.float64)
            b = self.doc_vectors.take(right[part]).astype(np.float64)
            norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            cosines[part] = (a * b).sum(1) / np.where(norms > 0, norms, 1)
        return cosines


def _steps(count: int) -> Iterator[slice]:
    for start in range(0, count, _PAIRS_PER_STEP):
        yield slice(start, min(start + _PAIRS_PER_STEP, count))


def same_text(
    view: Ranking,
    rows: np.ndarray,
    positives: tuple[np.ndarray, np.ndarray],
    texts: np.ndarray,
) -> np.ndarray:
    """Tell of each row whether its document has the text of a positive of its query; bool[m]."""
    places, docs = positives
    known, number = np.unique(texts[docs], return_inverse=True)
    if not len(known):
        return np.zeros(len(rows), bool)
    wanted = texts[view.docs[rows]]
    nearest = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    pairs = view.row_queries[rows] * len(known) + nearest
    return (known[nearest] == wanted) & np.isin(pairs, places * len(known) + number)


def largest_cosine(
    view: Ranking,
    rows: np.ndarray,
    positives: tuple[np.ndarray, np.ndarray],
    evidence: Evidence,
) -> np.ndarray:
    """Largest cosine of each row's document with a positive of its query, NaN without one."""
    places, docs = positives
    counts = np.bincount(places, minlength=len(view))
    starts = np.cumsum(counts) - counts
    repeats = counts[view.row_queries[rows]]
    pair_rows = np.repeat(np.arange(len(rows)), repeats)
    partner = docs[places_within(pair_rows) + np.repeat(starts[view.row_queries[rows]], repeats)]
    largest = np.full(len(rows), np.nan)
    np.fmax.at(largest, pair_rows, evidence.cosines(view.docs[rows][pair_rows], partner))
    return largest


def weakest_positive(
    view: Ranking,
    queries: np.ndarray,
    positives: tuple[np.ndarray, np.ndarray],
    evidence: Evidence,
    needed: bool,
) -> np.ndarray:
    """Lowest score of each query's positives, NaN where there is none or it is unknown; float64[Q].

    A positive that was not retrieved is scored from the stored vectors.
    """
    places, docs = positives
    if evidence.teacher is not None:
        scores = evidence.teacher(queries[places], docs)
    elif evidence.query_vectors is not None and evidence.doc_vectors is not None:
        scores = evidence.exact_scores(queries[places], docs)
    else:
        scores = _retrieved_scores(view, places, docs)
        if needed and np.isnan(scores).any():
            raise ValueError("margins need query_vectors and doc_vectors")
    weakest = np.full(len(view), np.inf)
    with np.errstate(invalid="ignore"):  # NaN spreads: then the weakest is unknown
        np.minimum.at(weakest, places, scores)
    return np.where(np.isinf(weakest), np.nan, weakest)


def _retrieved_scores(view: Ranking, places: np.ndarray, docs: np.ndarray) -> np.ndarray:
    """Score of each pair in the view, NaN if the document was not retrieved."""
    stride = len(view.doc_ids)
    pairs = view.row_queries * stride + view.docs
    order = np.argsort(pairs)
    wanted = places * stride + docs
    if not len(pairs):
        return np.full(len(wanted), np.nan)
    found = order[np.minimum(np.searchsorted(pairs, wanted, sorter=order), len(pairs) - 1)]
    return np.where(pairs[found] == wanted, view.scores[found], np.nan)
