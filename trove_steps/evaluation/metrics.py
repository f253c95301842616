"""How good a ranking is, by trec_eval's own code."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from math import fsum

import numpy as np
import pyarrow as pa
import pytrec_eval

from trove_steps.errors import TroveStepsError
from trove_steps.evaluation.measures import (
    BY_RANK_ALONE,
    DEFAULT_MEASURES,
    K_VALUES,
    LARGEST_LABEL,
    metric_names,
    split_name,
    unfit_labels,
)
from trove_steps.evaluation.ties import TiedResults
from trove_steps.ranking import Judgments, Ranking

_SLACK = 1e-9  # rounding errors that checks forgive


@dataclass(frozen=True)
class Evaluation:
    """The figures of one ranking.

    Attributes:
        metrics: mean of each metric over the judged queries, names as in pytrec_eval.
        per_query: ``query_id`` and one float64 column per metric; judged queries in file order.
        counts: whole numbers about queries, results and judgments.
        ties: for each metric that depends on how documents with equal scores are ordered,
            ``{"expected": …, "min": …, "max": …}``, means over the judged queries as in
            ``metrics``. Empty if no tie matters. Documents that the search cut off are not seen,
            even if they tie with the last one.
    """

    metrics: dict[str, float]
    per_query: pa.Table
    counts: dict[str, int]
    ties: dict[str, dict[str, float]]

    @property
    def figures(self) -> dict[str, float | int]:
        """What metrics.json holds: metrics, counts, and what ties make of a metric: NAME_min, …"""
        open_ones = {
            f"{name}_{end}": value
            for name, ends in self.ties.items()
            for end, value in ends.items()
        }
        return {**self.metrics, **open_ones, **self.counts}


def evaluate(
    ranking: Ranking,
    qrels: pa.Table,
    k_values: Sequence[int] = K_VALUES,
    relevance_threshold: int = 1,
    measures: Sequence[str] = DEFAULT_MEASURES,
) -> Evaluation:
    """Score a ranking against judgments.

    Which queries count: every searched query with at least one judgment, whatever its label. One
    without results counts as 0 in everything; one without judgments is left out and counted.
    Judged documents that the corpus does not have are documents that were not found. A negative
    label means not relevant.

    All metrics but ``mrr_cut`` and ``judged`` come from trec_eval, which is given the order of
    the ranking and nothing that could change it.

    Args:
        ranking: results of all searched queries, at least as deep as the largest cut-off (where
            the corpus has so many documents).
        qrels: table of ``query_id``, ``doc_id``, ``score``; no pair twice.
        k_values: cut-offs of the measures that are given without one.
        relevance_threshold: the lowest label that is relevant to every metric but nDCG, whose gains
            are the labels themselves.
        measures: ``ndcg_cut``, ``map_cut``, ``recall``, ``P``, ``mrr_cut``, ``success`` (hit
            rate), ``judged`` (share of the top k that has a judgment), all with an optional cut-off
            (``ndcg_cut_20`` or ``nDCG@20``), and ``Rprec``.

    Raises:
        TroveStepsError: unknown measure, bad cut-off or threshold, labels that are not whole
            numbers, no searched query with a judgment.
    """
    names = metric_names(measures, k_values)
    if relevance_threshold != int(relevance_threshold) or relevance_threshold < 1:
        raise TroveStepsError(
            f"ir_metrics_relevance_threshold must be a whole number from 1, not "
            f"{relevance_threshold}: labels below 1 are never relevant"
        )
    judgments = Judgments(ranking, qrels)
    if not len(judgments):
        raise TroveStepsError(_nothing_judged(ranking, qrels))
    gains, longest = _gains(judgments, qrels), int(ranking.lengths.max())
    scorer = _Scorer(judgments, gains, int(relevance_threshold), names, longest)
    judged = judgments.counts > 0
    blocks, tied = [], []
    for first, block in ranking.blocks():
        queries = np.flatnonzero(judged[first : first + len(block)])
        view = block.select(queries)
        blocks.append(scorer.score(view, queries + first))
        tied.append(scorer.score_ties(view, queries + first, blocks[-1]))
    values, low, high, expected = (
        _joined(parts, names) for parts in (blocks, *zip(*tied, strict=True))
    )
    per_query = pa.table({"query_id": ranking.query_ids.filter(pa.array(judged))} | values)
    counts = {
        "num_queries": len(ranking),
        "num_judged": int(judged.sum()),
        "num_without_judgments": int((~judged).sum()),
        "num_without_results": int((judged & (ranking.lengths == 0)).sum()),
        "num_without_relevant": int((judged & (scorer.num_relevant == 0)).sum()),
        "num_judged_not_searched": judgments.other_queries,
        "num_judgments": len(judgments),
        "num_judgments_not_in_corpus": int((judgments.docs < 0).sum()),
        "num_results": len(ranking.docs),
    }
    ties = {
        name: {
            "expected": _mean(expected[name]),
            "min": _mean(low[name]),
            "max": _mean(high[name]),
        }
        for name in names
        if (low[name] < high[name]).any()
    }
    return Evaluation({name: _mean(values[name]) for name in names}, per_query, counts, ties)


def _joined(parts: Sequence[dict[str, np.ndarray]], names: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _mean(values: np.ndarray) -> float:
    """Mean without any rounding but the last, so that the order of queries cannot matter."""
    return fsum(values) / len(values)


def _gains(judgments: Judgments, qrels: pa.Table) -> np.ndarray:
    """Labels as int64[J], 0 for the negative ones, with which pytrec_eval may crash."""
    labels = qrels["score"].to_numpy()
    wrong = unfit_labels(labels)
    if wrong.any():
        row = {name: qrels[name][int(np.argmax(wrong))].as_py() for name in qrels.column_names}
        raise TroveStepsError(
            f"the label {row['score']} of query {row['query_id']!r} and document "
            f"{row['doc_id']!r} cannot be a gain: metrics need whole numbers up to "
            f"{LARGEST_LABEL}; use score_transform on the qrels"
        )
    return np.maximum(judgments.labels, 0).astype(np.int64)


def _nothing_judged(ranking: Ranking, qrels: pa.Table) -> str:
    if not len(qrels):
        return "the qrels hold no judgment: there is nothing to evaluate"
    ours = ", ".join(ranking.query_ids.slice(0, 3).to_pylist())
    theirs = ", ".join(qrels["query_id"].slice(0, 3).to_pylist())
    return (
        f"none of the {len(ranking)} searched queries ({ours}, …) is among the queries of the "
        f"qrels ({theirs}, …): are they of the same data set?"
    )


class _Scorer:
    """Computes the metrics ``names`` of some queries at a time.

    Args:
        judgments: J judgments of Q queries.
        gains: int64[J], not negative.
        threshold: lowest gain that is relevant.
        names: as ``metric_names`` gives them.
        longest: most results of a query.
    """

    def __init__(
        self,
        judgments: Judgments,
        gains: np.ndarray,
        threshold: int,
        names: list[str],
        longest: int,
    ) -> None:
        self.judgments, self.gains, self.threshold, self.names = judgments, gains, threshold, names
        # P_1 is always computed: it is what MRR is checked against.
        ours = [name for name in names if split_name(name)[0] in BY_RANK_ALONE]
        self.trec_names = list(dict.fromkeys([*(n for n in names if n not in ours), "P_1"]))
        queries = np.repeat(np.arange(len(judgments.counts)), judgments.counts)
        relevant = queries[gains >= threshold]
        self.num_relevant = np.bincount(relevant, minlength=len(judgments.counts))
        self.depth = max((int(split_name(name)[2] or 0) for name in names), default=1)
        if "Rprec" in names:
            self.depth = max(self.depth, int(self.num_relevant.max()))
        self.depth = min(self.depth, longest)
        self.row_of_rank = {str(rank): -float(rank) for rank in range(self.depth)}

    def score(self, view: Ranking, queries: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics float64[len(view)] of a view whose queries are ``queries`` of the judgments."""
        view = view.head(self.depth)
        return self.score_found(view, queries, self.judgments.find(view, queries))

    def score_found(
        self, view: Ranking, queries: np.ndarray, found: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Score the view's rows by rank alone, ``found[R]`` being the judgment of each or -1."""
        values = self._by_trec_eval(view, queries, found)
        first = _first_ranks(view, (found >= 0) & (self.gains[found] >= self.threshold))
        values["mrr_cut_1"] = _reciprocal_rank(first, 1)
        for name in self.names:
            stem, _, cutoff = split_name(name)
            if stem == "mrr_cut":
                values[name] = _reciprocal_rank(first, int(cutoff))
            elif stem == "judged":
                values[name] = _judged_share(view, found, int(cutoff))
        _check_invariants(values)
        return values

    def score_ties(
        self, view: Ranking, queries: np.ndarray, values: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Find out what the metrics could be if documents with equal scores changed places.

        Args:
            view: whole, not cut at the cut-offs: a group of equal scores may reach beyond.
            values: what ``score`` said.

        Returns:
            The lowest, highest and expected values, like ``values``.
        """
        outcomes = tuple({name: values[name].copy() for name in self.names} for _ in range(3))
        tied = np.flatnonzero(np.diff(_tie_groups(view)) == 0)
        tied = np.unique(view.row_queries[tied[view.ranks[tied] < self.depth]])
        if not len(tied):
            return outcomes
        view, queries = view.select(tied), queries[tied]
        found, groups = self.judgments.find(view, queries), _tie_groups(view)
        labels = np.where(found >= 0, self.gains[found], -1)
        top = view.head(self.depth)
        worst, best = (
            self.score_found(
                top, queries, found[np.lexsort((sign * labels, groups))][view.ranks < self.depth]
            )
            for sign in (1, -1)
        )
        for name in self.names:
            outcomes[0][name][tied], outcomes[1][name][tied] = worst[name], best[name]
        unsure = np.any([worst[name] < best[name] for name in self.names], axis=0)
        for place in np.flatnonzero(unsure):
            rows = slice(*view.offsets[place : place + 2])
            results = TiedResults(
                np.unique(groups[rows], return_counts=True)[1],
                np.maximum(labels[rows], 0),
                labels[rows] >= 0,
                self.gains[slice(*self.judgments.offsets[queries[place] : queries[place] + 2])],
                self.threshold,
            )
            for name in self.names:
                stem, _, cutoff = split_name(name)
                outcomes[2][name][tied[place]] = results.expected(stem, int(cutoff or 0))
        for name in self.names:
            for value in (values[name], outcomes[2][name]):
                if (value < outcomes[0][name] - _SLACK).any() or (
                    value > outcomes[1][name] + _SLACK
                ).any():
                    raise RuntimeError(f"internal error: {name} is outside its range over ties")
        return outcomes

    def _by_trec_eval(
        self, view: Ranking, queries: np.ndarray, found: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Let trec_eval score the queries of a view.

        It gets documents that are named by their rank, with the negated rank as score: what decides
        the order of its rows is then the ranking alone, never float32 or the names of documents.
        """
        names = [f"unranked {place}" for place in range(int(self.judgments.counts.max()))]
        rank_of = np.full(len(self.judgments), -1)
        rank_of[found[found >= 0]] = view.ranks[found >= 0]
        qrel, run = {}, {}
        for number, query in enumerate(queries):
            judged = slice(*self.judgments.offsets[query : query + 2])
            ranks = rank_of[judged].tolist()
            last = max(ranks)
            if last < 0:
                continue
            docs = [str(r) if r >= 0 else name for r, name in zip(ranks, names, strict=False)]
            qrel[str(number)] = dict(zip(docs, self.gains[judged].tolist(), strict=True))
            # What comes after the last judged document changes no metric.
            run[str(number)] = dict(islice(self.row_of_rank.items(), last + 1))
        # A query without judged results scores 0; pytrec_eval would leave it out if it had none.
        evaluator = pytrec_eval.RelevanceEvaluator(qrel, set(self.trec_names), self.threshold)
        scored = evaluator.evaluate(run)
        nothing = dict.fromkeys(self.trec_names, 0.0)
        rows = [scored.get(str(number), nothing) for number in range(len(view))]
        return {name: np.array([row[name] for row in rows], float) for name in self.trec_names}


def _tie_groups(view: Ranking) -> np.ndarray:
    """Number the groups of equal scores of all queries, ascending; int64[R]."""
    new = np.ones(len(view.docs), np.int64)
    new[1:] = np.diff(view.scores) != 0
    new[view.offsets[:-1][view.lengths > 0]] = 1
    return np.cumsum(new)


def _first_ranks(view: Ranking, rows: np.ndarray) -> np.ndarray:
    """Rank (from 1) of each query's first row in the mask, infinity without one; float64[Q]."""
    first = np.full(len(view), np.inf)
    queries, where = np.unique(view.row_queries[rows], return_index=True)
    first[queries] = view.ranks[rows][where] + 1
    return first


def _reciprocal_rank(first: np.ndarray, cutoff: int) -> np.ndarray:
    return np.where(first <= cutoff, 1 / first, 0.0)


def _judged_share(view: Ranking, found: np.ndarray, cutoff: int) -> np.ndarray:
    """Share of judged documents among the top k, or among all results if they are fewer."""
    judged = (found >= 0) & (view.ranks < cutoff)
    count = np.bincount(view.row_queries[judged], minlength=len(view))
    return count / np.maximum(np.minimum(view.lengths, cutoff), 1)


def _check_invariants(values: dict[str, np.ndarray]) -> None:
    """Raise RuntimeError where figures contradict each other: a defect, not a user's mistake."""
    families: dict[str, list[tuple[int, str]]] = {}
    for name, column in values.items():
        if not ((column >= 0) & (column <= 1 + _SLACK)).all():
            raise RuntimeError(f"internal error: {name} is not between 0 and 1")
        stem, _, cutoff = split_name(name)
        families.setdefault(stem, []).append((int(cutoff or 0), name))
    for name in ("mrr_cut_1", "success_1"):
        if name in values and not np.array_equal(values[name], values["P_1"]):
            raise RuntimeError(f"internal error: {name} differs from P_1")
    for stem in ("recall", "success", "mrr_cut"):
        ordered = [values[name] for _, name in sorted(families.get(stem, []))]
        for lower, higher in pairwise(ordered):
            if (higher < lower).any():
                raise RuntimeError(f"internal error: {stem} falls with a deeper cut-off")
