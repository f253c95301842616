"""Queries to look at: one by one in a plot, the worst ones, and how their documents score."""

import sys

import numpy as np
import pyarrow as pa

from trove_steps.evaluation.comparison import TIE
from trove_steps.reporting.cell import SNIPPET, Cell
from trove_steps.texts import snippet

WORST_QUERIES = 5
TOP_DOCUMENTS = 5
JUDGED_DOCUMENTS = 5
QUERY_SNIPPET = 110
BINS = 40


def points(cells: list[Cell], ids: list[str], values: dict, main: str, limit: int) -> dict:
    """Return the main metric of each query and model, of at most `limit` queries, evenly chosen.

    `values`: model → metric → float64[queries]. "wins": model → other model → on how many of all the
    queries the first is better.
    """
    chosen = np.unique(np.linspace(0, len(ids) - 1, min(limit, len(ids))).round().astype(int))
    shown = [ids[n] for n in chosen]
    texts = cells[0].query_texts(shown)
    columns = {model: found[main] for model, found in values.items() if main in found}
    return {
        "of": len(ids),
        "ids": shown,
        "texts": [snippet(texts.get(one, ""), QUERY_SNIPPET) for one in shown],
        "values": {
            model: np.round(column[chosen], 3).tolist() for model, column in columns.items()
        },
        "wins": {
            model: {name: int((column - other > TIE).sum()) for name, other in columns.items()}
            for model, column in columns.items()
        },
    }


def worst(cell: Cell, main: str) -> list[dict]:
    """Return the queries with the lowest main metric, what they retrieved and what was relevant."""
    if main not in cell.per_query.column_names:
        return []
    queries = cell.query_numbers(cell.per_query["query_id"])
    relevant = np.concatenate([[0], np.cumsum(cell.judgments.labels >= cell.threshold)])
    counts = np.diff(relevant[cell.judgments.offsets])[queries]
    scores = cell.per_query[main].to_numpy()
    order = [n for n in np.argsort(scores, kind="stable") if counts[n]][:WORST_QUERIES]
    ids = cell.per_query["query_id"].take(pa.array(order, pa.int64())).to_pylist()
    texts = cell.query_texts(ids)
    return [
        {"id": one, "text": snippet(texts.get(one, ""), 2 * SNIPPET), "value": float(scores[n])}
        | _beside(cell, int(queries[n]))
        for n, one in zip(order, ids, strict=True)
    ]


def _beside(cell: Cell, query: int) -> dict:
    """Return the top documents of a query and its judged ones, each with rank, score and label."""
    view = cell.ranking.span(query, query + 1)
    labels = cell.labels(query)
    top = [
        cell.show(int(doc), n + 1, view.scores[n], labels.get(int(doc)))
        for n, doc in enumerate(view.docs[:TOP_DOCUMENTS])
    ]
    return {
        "top": top,
        "judged": judged(cell, query, JUDGED_DOCUMENTS),
        "relevant": sum(label >= cell.threshold for label in labels.values()),
        "of": len(labels),
        "depth": len(view.docs),
    }


def judged(cell: Cell, query: int, count: int) -> list[dict]:
    """Return the first of a query's judged documents, by label, then rank; rank None: not retrieved."""
    view = cell.ranking.span(query, query + 1)
    labels = cell.labels(query)
    ranks = {doc: rank for rank, doc in enumerate(view.docs.tolist(), 1) if doc in labels}
    order = sorted(labels, key=lambda doc: (-labels[doc], ranks.get(doc, sys.maxsize), doc))
    return [
        cell.show(
            doc, ranks.get(doc), view.scores[ranks[doc] - 1] if doc in ranks else None, labels[doc]
        )
        for doc in order[:count]
    ]


def score_distribution(cell: Cell) -> dict:
    """Return histograms of the scores of retrieved documents: relevant, judged not relevant, unjudged."""
    view = cell.ranking.head(cell.record["depth"])
    chosen = np.unique(cell.judgments.rows(np.arange(len(view)))[0])
    view = view.select(chosen)
    if not len(view.scores):
        return {}
    at = cell.judgments.find(view, chosen)
    labels = np.where(at >= 0, cell.judgments.labels[at], np.nan)
    kinds = {
        "relevant": labels >= cell.threshold,
        "judged, not relevant": labels < cell.threshold,
        "not judged": np.isnan(labels),
    }
    low, high = ends = ends_of(view.scores)
    return {
        "ends": ends,
        "counts": {kind: histogram(view.scores[rows], low, high) for kind, rows in kinds.items()},
    }


def ends_of(values: np.ndarray) -> tuple[float, float]:
    """Return the ends of a histogram of values float64[n], n > 0."""
    low, high = float(values.min()), float(values.max())
    return low, high if high > low else low + 1.0


def histogram(values: np.ndarray, low: float, high: float) -> list[int]:
    """Count the values float64[n] in BINS equal parts of low … high, both ends inside."""
    return np.histogram(values, BINS, (low, high))[0].tolist()
