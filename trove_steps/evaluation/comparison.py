"""Whether two models differ: paired tests on the values of each query.

The test flips the signs of the differences at random (Fisher's randomisation test): if the two models
were equal, either of their values could have come from either of them. All sign patterns are tried where
there are no more of them than samples. Confidence intervals are percentiles of bootstrap samples of the
queries. Holm's correction is for all pairs of models of a data set and metric.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa

from trove_steps.errors import TroveStepsError

TIE = 1e-12
"""Two values of one query that differ by less are equal."""

_NUMBERS_PER_BLOCK = 1 << 23


@dataclass(frozen=True)
class Comparison:
    """One pair of models on one data set by one metric.

    ``mean_a``, ``mean_b`` and ``difference`` = b − a are means over ``queries``; ``low`` and ``high`` bound
    the difference; ``p`` is two-sided and ``p_holm`` corrected; ``wins`` counts the queries for which b is
    better, ``losses`` those for which a is.
    """

    dataset: str
    metric: str
    model_a: str
    model_b: str
    queries: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    wins: int
    ties: int
    losses: int


def compare(
    dataset: str,
    per_query: dict[str, pa.Table],
    metrics: Sequence[str],
    samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[list[Comparison], pa.Table]:
    """Compare all pairs of models of a data set.

    Args:
        dataset: its name.
        per_query: model → its per-query table (``query_id`` and a column per metric).
        metrics: those to compare.
        samples: random sign patterns, and bootstrap samples.
        confidence: level of the intervals.
        seed: of both; the same for every pair, so that pairs see the same samples.

    Returns:
        The comparisons, by metric and pair, and the differences of each query: ``query_id``,
        ``metric``, ``model_a``, ``model_b``, ``a``, ``b``, ``difference``.

    Raises:
        TroveStepsError: the models were not evaluated on the same queries, or not by the metric.
    """
    models = sorted(per_query)
    query_ids = per_query[models[0]]["query_id"].combine_chunks()
    for model in models:
        table = per_query[model]
        if not table["query_id"].combine_chunks().equals(query_ids):
            raise TroveStepsError(
                f"{dataset}: {models[0]} and {model} were not evaluated on the same queries"
            )
        lacking = [metric for metric in metrics if metric not in table.column_names]
        if lacking:
            raise TroveStepsError(f"{dataset}/{model}: {lacking[0]} was not computed")
    pairs = list(combinations(models, 2))
    values = {
        (metric, model): per_query[model][metric].to_numpy()
        for metric in metrics
        for model in models
    }
    differences = np.stack(
        [values[metric, b] - values[metric, a] for metric in metrics for a, b in pairs]
    )
    differences[np.abs(differences) < TIE] = 0
    p = randomisation_test(differences, samples, seed)
    low, high = bootstrap_interval(differences, samples, confidence, seed)
    corrected = np.concatenate([holm(row) for row in p.reshape(len(metrics), -1)])
    cells = [(metric, a, b) for metric in metrics for a, b in pairs]
    comparisons = [
        Comparison(
            dataset=dataset,
            metric=metric,
            model_a=a,
            model_b=b,
            queries=len(query_ids),
            mean_a=float(values[metric, a].mean()),
            mean_b=float(values[metric, b].mean()),
            difference=float(differences[row].mean()),
            low=float(low[row]),
            high=float(high[row]),
            p=float(p[row]),
            p_holm=float(corrected[row]),
            wins=int((differences[row] > 0).sum()),
            ties=int((differences[row] == 0).sum()),
            losses=int((differences[row] < 0).sum()),
        )
        for row, (metric, a, b) in enumerate(cells)
    ]
    return comparisons, _table(query_ids, cells, values, differences)


def randomisation_test(differences: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Two-sided p-values float64[m] of differences float64[m, queries]."""
    m, queries = differences.shape
    everything = queries < 40 and 2**queries <= samples
    # Sums of the same numbers in another order may differ in their last bits: those count as equal.
    observed = np.abs(differences.sum(1)) - 1e-9 * np.abs(differences).sum(1)
    extreme = np.zeros(m, np.int64)
    for signs in _all_signs(queries) if everything else _random_signs(queries, samples, seed):
        extreme += (np.abs(differences @ signs) >= observed[:, None]).sum(1)
    if everything:
        return extreme / 2**queries
    return (extreme + 1) / (samples + 1)


def _random_signs(queries: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    chance = np.random.Generator(np.random.PCG64(seed))
    for count in _counts(queries, samples):
        bits = np.frombuffer(chance.bytes(-(-queries * count // 8)), np.uint8)
        signs = np.unpackbits(bits, count=queries * count).reshape(queries, count)
        yield signs * 2.0 - 1.0


def _all_signs(queries: int) -> Iterator[np.ndarray]:
    numbers = np.arange(2**queries)
    yield (numbers >> np.arange(queries)[:, None] & 1) * 2.0 - 1.0


def bootstrap_interval(
    differences: np.ndarray, samples: int, confidence: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile intervals of the means of differences float64[m, queries]: low and high, float64[m]."""
    chance = np.random.Generator(np.random.PCG64([seed, 1]))
    queries = differences.shape[1]
    means = []
    for count in _counts(queries, samples):
        chosen = chance.integers(0, queries, (count, queries), dtype=np.int32)
        means.append(np.stack([row[chosen].mean(1) for row in differences]))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means, axis=1), [tail, 1 - tail], axis=1)
    return low, high


def _counts(queries: int, samples: int) -> Iterator[int]:
    """Cut the samples into blocks that fit into memory."""
    block = max(1, _NUMBERS_PER_BLOCK // max(queries, 1))
    for start in range(0, samples, block):
        yield min(block, samples - start)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's correction of p-values float64[m] of one family."""
    order = np.argsort(p, kind="stable")
    steps = p[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected


def _table(query_ids: pa.Array, cells: list, values: dict, differences: np.ndarray) -> pa.Table:
    def repeated(position: int) -> pa.Array:
        names = pa.array([cell[position] for cell in cells])
        return names.take(pa.array(np.repeat(np.arange(len(cells)), len(query_ids))))

    return pa.table(
        {
            "query_id": pa.concat_arrays([query_ids] * len(cells)),
            "metric": repeated(0),
            "model_a": repeated(1),
            "model_b": repeated(2),
            "a": np.concatenate([values[metric, a] for metric, a, _ in cells]),
            "b": np.concatenate([values[metric, b] for metric, _, b in cells]),
            "difference": differences.reshape(-1),
        }
    )
