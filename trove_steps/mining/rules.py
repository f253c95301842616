"""Hard negatives: highly ranked documents that nobody has annotated for the query.

The rules, in the order in which they are applied to the results of a query:

1. annotated documents are dropped (Trove's ``no_annot_in_mined_hn``);
2. text twins of a positive, and near twins, are dropped;
3. the best ``range_max`` of the rest are the candidates;
4. candidates too close to the weakest positive (margins), or beyond a score limit, are dropped;
5. the best ``range_min`` of what is left are skipped;
6. ``num_negatives`` of the others are kept: the best, or a sample.

3 to 6 are those of ``sentence_transformers.util.mine_hard_negatives``, with the same names. No rule
looks at other queries, at the depth of the search or at the number of processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trove_steps.errors import TroveStepsError
from trove_steps.mining.evidence import (
    Evidence,
    Teacher,
    Vectors,
    largest_cosine,
    same_text,
    weakest_positive,
)
from trove_steps.mining.mined import Mined
from trove_steps.mining.sampling import draw_lots
from trove_steps.mining.selection import TWIN_SLACK, Selection
from trove_steps.ranking import Judgments, Ranking, places_within

# What became of a result, in the order of the funnel.
_KEPT, _ANNOTATED, _TWIN, _DEEPER, _NO_POSITIVE, _MARGIN, _SCORE, _WINDOW, _UNUSED = range(9)
_FUNNEL = {
    "annotated": _ANNOTATED,
    "twins": _TWIN,
    "no_positive": _NO_POSITIVE,
    "margin": _MARGIN,
    "score": _SCORE,
    "window": _WINDOW,
    "unused": _UNUSED,
    "kept": _KEPT,
}


def needed_depth(
    search_topk: int,
    qrels: pa.Table | None,
    no_annot_in_mined_hn: bool = True,
    selection: Selection | None = None,
    twins: bool = False,
) -> int:
    """Return how deep to search so that enough candidates are left after the annotated.

    Args:
        twins: twins of positives are to be dropped, exact or near.
    """
    annotated = 0
    if qrels is not None and len(qrels) and no_annot_in_mined_hn:
        annotated = pc.max(pc.value_counts(qrels["query_id"]).field("counts")).as_py()
    return (selection or Selection()).depth(search_topk, annotated, twins)


def mine(
    ranking: Ranking,
    qrels: pa.Table | None,
    search_topk: int,
    no_annot_in_mined_hn: bool = True,
    selection: Selection | None = None,
    *,
    texts: np.ndarray | None = None,
    drop_text_twins: bool = True,
    query_vectors: Vectors | None = None,
    doc_vectors: Vectors | None = None,
    teacher: Teacher | None = None,
) -> Mined:
    """Pick results that may serve as negatives; the module says by which rules.

    With ``no_annot_in_mined_hn`` every annotated document is dropped, whatever its label, and a
    query without any annotation is left out as soon as there are annotations at all: nobody
    knows its positives. Without it, or without qrels, nothing is dropped for being annotated.

    Args:
        ranking: results at least ``needed_depth`` deep (where the corpus has so many).
        qrels: table of ``query_id``, ``doc_id``, ``score``, or None. Positives are the documents
            with a label of at least 1.
        search_topk: number of candidates, and by default of negatives, per query. Where there are
            fewer, the funnel says so.
        no_annot_in_mined_hn: see above.
        selection: further rules.
        texts: int[D], equal for documents with the same text.
        drop_text_twins: drop the text twins of positives; needs ``texts``. If false, the audit
            still says which negatives are twins.
        query_vectors: where margins find the scores of positives that were not retrieved (with
            ``doc_vectors``).
        doc_vectors: also needed for ``near_twin_cosine``.
        teacher: its scores replace the ranking's in rules 4 to 6.

    Raises:
        TroveStepsError: contradicting options; no searched query is annotated although there are
            annotations; margins without qrels.
    """
    selection = selection or Selection()
    selection.check(search_topk)
    if qrels is not None and not len(qrels):
        qrels = None
    drop_annotated = no_annot_in_mined_hn and qrels is not None
    judgments = None if qrels is None else Judgments(ranking, qrels)
    if drop_annotated and not len(judgments):
        raise TroveStepsError(
            f"none of the {len(ranking)} searched queries is annotated in the qrels, so there is "
            "nothing to mine: are they of the same data set?"
        )
    if judgments is None and (selection.has_margin or selection.near_twin_cosine is not None):
        raise TroveStepsError(
            "mining.absolute_margin, relative_margin and near_twin_cosine measure from positives: "
            "the data set needs a qrel_path"
        )
    drop_text_twins &= texts is not None
    twins = drop_text_twins or selection.near_twin_cosine is not None
    depth = needed_depth(search_topk, qrels, drop_annotated, selection, twins)
    evidence = Evidence(judgments, texts, drop_text_twins, query_vectors, doc_vectors, teacher)
    parts = []
    for first, block in ranking.blocks():
        queries = np.arange(first, first + len(block))
        if drop_annotated:
            queries = queries[judgments.counts[queries] > 0]
        view = block.select(queries - first).head(depth)
        parts.append(_mine_block(view, queries, evidence, selection, search_topk, drop_annotated))
    return _collect(ranking, parts, selection.wanted(search_topk))


@dataclass(frozen=True)
class _Part:
    """What was mined from some queries."""

    queries: np.ndarray  # int64[q], in the whole ranking
    negatives: Ranking
    columns: dict[str, np.ndarray]  # of the audit, one value per negative
    funnel: dict[str, np.ndarray]  # int64[q] each


def _mine_block(
    view: Ranking,
    queries: np.ndarray,
    evidence: Evidence,
    selection: Selection,
    search_topk: int,
    drop_annotated: bool,
) -> _Part:
    """Give every result of the view a fate, and keep the negatives."""
    fate = np.full(len(view.docs), _DEEPER, np.int8)
    if drop_annotated:
        fate[evidence.judgments.find(view, queries) >= 0] = _ANNOTATED
    positives = evidence.positives(queries)
    rows = np.flatnonzero(fate == _DEEPER)
    text_twins = np.full(len(view.docs), np.nan)
    if evidence.texts is not None:
        twins = same_text(view, rows, positives, evidence.texts)
        text_twins[rows] = twins
        if evidence.drop_text_twins:
            fate[rows[twins]] = _TWIN
            rows = rows[~twins]
    cosines = np.full(len(view.docs), np.nan)
    if selection.near_twin_cosine is not None:
        rows = _best(view, rows, selection.candidates(search_topk) + TWIN_SLACK)
        cosines[rows] = largest_cosine(view, rows, positives, evidence)
        twins = cosines[rows] > selection.near_twin_cosine
        fate[rows[twins]] = _TWIN
        rows = rows[~twins]
    rows = _best(view, rows, selection.candidates(search_topk))

    scores, teacher_scores = view.scores, np.full(len(view.docs), np.nan)
    if evidence.teacher is not None:
        teacher_scores[rows] = evidence.teacher(queries[view.row_queries[rows]], view.docs[rows])
        scores = teacher_scores
    weakest = weakest_positive(view, queries, positives, evidence, selection.has_margin)
    gaps = weakest[view.row_queries] - scores
    fate[rows] = _fates(scores[rows], weakest[view.row_queries[rows]], selection)
    rows = rows[fate[rows] == _KEPT]
    # The stable sort leaves the ranking's order alone unless a teacher has another one.
    rows = rows[np.lexsort((-scores[rows], view.row_queries[rows]))]
    _choose(view, rows, fate, selection, selection.wanted(search_topk))

    kept = rows[fate[rows] == _KEPT]
    negatives = Ranking(
        view.query_ids,
        view.doc_ids,
        np.searchsorted(view.row_queries[kept], np.arange(len(view) + 1)),
        view.docs[kept],
        scores[kept],
    )
    columns = {
        "rank": view.ranks[kept] + 1,
        "score": view.scores[kept],
        "gap": gaps[kept],
        "near_twin_cosine": cosines[kept],
        "teacher_score": teacher_scores[kept],
        "text_twin": text_twins[kept],
    }
    funnel = _funnel(view, fate, selection.candidates(search_topk), selection.wanted(search_topk))
    return _Part(queries, negatives, columns, funnel)


def _fates(scores: np.ndarray, weakest: np.ndarray, selection: Selection) -> np.ndarray:
    """Rule 4: what becomes of candidates that score so, given their weakest positives."""
    fate = np.full(len(scores), _KEPT, np.int8)
    if selection.max_score is not None:
        fate[scores > selection.max_score] = _SCORE
    if selection.min_score is not None:
        fate[scores < selection.min_score] = _SCORE
    if selection.absolute_margin is not None:
        fate[scores + selection.absolute_margin > weakest] = _MARGIN
    if selection.relative_margin is not None:
        # The magnitude: a factor 1 - margin would raise the limit of a negative score.
        fate[scores > weakest - np.abs(weakest) * selection.relative_margin] = _MARGIN
    if selection.has_margin:
        fate[np.isnan(weakest)] = _NO_POSITIVE
    return fate


def _choose(
    view: Ranking, rows: np.ndarray, fate: np.ndarray, selection: Selection, wanted: int
) -> None:
    """Rules 5 and 6, on the rows that are left, best first within their query."""
    place = places_within(view.row_queries[rows])
    fate[rows[place < selection.range_min]] = _WINDOW
    rows = rows[place >= selection.range_min]
    if selection.sampling == "random":
        lots = draw_lots(view, rows, selection.seed)
        rows = rows[np.lexsort((lots, view.row_queries[rows]))]
    fate[rows[places_within(view.row_queries[rows]) >= wanted]] = _UNUSED


def _best(view: Ranking, rows: np.ndarray, count: int) -> np.ndarray:
    """Keep the first ``count`` of each query's rows (ascending)."""
    return rows[places_within(view.row_queries[rows]) < count]


def _funnel(view: Ranking, fate: np.ndarray, candidates: int, wanted: int) -> dict[str, np.ndarray]:
    def count(rows):
        return np.bincount(view.row_queries[rows], minlength=len(view))

    # What comes after the last of all the candidates that were asked for was not looked at.
    compared = (fate != _DEEPER) & (fate != _ANNOTATED) & (fate != _TWIN)
    last = np.full(len(view), -1)
    np.maximum.at(last, view.row_queries[compared], view.ranks[compared])
    last[count(compared) < candidates] = len(fate)
    seen = (fate != _DEEPER) & (view.ranks <= last[view.row_queries])
    columns = {name: count(seen & (fate == value)) for name, value in _FUNNEL.items()}
    return {"candidates": count(seen), **columns, "missing": wanted - columns["kept"]}


def _collect(ranking: Ranking, parts: Sequence[_Part], wanted: int) -> Mined:
    def joined(arrays, dtype=np.int64):
        return np.concatenate([np.empty(0, dtype), *arrays])

    queries = joined(part.queries for part in parts)
    query_ids = ranking.query_ids.take(pa.array(queries))
    docs = joined(part.negatives.docs for part in parts)
    lengths = joined(part.negatives.lengths for part in parts)
    negatives = Ranking(
        query_ids,
        ranking.doc_ids,
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        docs,
        joined((part.negatives.scores for part in parts), np.float64),
    )
    audit = pa.table(
        {
            "query_id": query_ids.take(pa.array(negatives.row_queries)),
            "doc_id": ranking.doc_ids.take(pa.array(docs)),
            "rank": joined(part.columns["rank"] for part in parts),
        }
        | {
            name: pa.array(joined((part.columns[name] for part in parts), float), from_pandas=True)
            for name in ("score", "gap", "near_twin_cosine", "teacher_score", "text_twin")
        }
    )
    flags = audit["text_twin"].cast(pa.bool_())
    audit = audit.set_column(audit.schema.get_field_index("text_twin"), "text_twin", flags)
    names = ["candidates", *_FUNNEL, "missing"]
    columns = {name: joined(part.funnel[name] for part in parts) for name in names}
    counts = {
        "num_queries": len(ranking),
        "num_mined_queries": len(queries),
        "num_short_queries": int((columns["missing"] > 0).sum()),
    } | {f"num_{name}": int(column.sum()) for name, column in columns.items()}
    return Mined(negatives, audit, pa.table({"query_id": query_ids} | columns), counts, queries)
