"""How sure a mean over queries is, and a difference of two means: by resampling, with a fixed seed."""

from itertools import combinations
from statistics import NormalDist

import numpy as np

from trove_steps.evaluation.comparison import TIE, holm, randomisation_test

RESAMPLES = 2000
LEVEL = 0.05
# From so many queries on, means are normally distributed for all purposes, and resampling takes minutes.
MANY = 50_000
_BLOCK = 1 << 22  # random numbers made at once: bounds the memory


def intervals(values: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends float64[m] of 95% intervals of the means of values[queries, m].

    By bootstrap; of MANY queries from the standard error.
    """
    count = len(values)
    if count > MANY:
        reach = NormalDist().inv_cdf(1 - LEVEL / 2) * values.std(axis=0, ddof=1) / np.sqrt(count)
        return values.mean(axis=0) - reach, values.mean(axis=0) + reach
    chance = np.random.default_rng(seed)
    step = max(1, _BLOCK // max(1, count))
    means = [
        chance.multinomial(count, np.full(count, 1 / count), min(step, RESAMPLES - start))
        @ values
        / count
        for start in range(0, RESAMPLES, step)
    ]
    low, high = np.percentile(
        np.concatenate(means), [100 * LEVEL / 2, 100 - 100 * LEVEL / 2], axis=0
    )
    return low, high


def pair_p_values(values: dict[str, np.ndarray], seed: int = 0) -> dict[tuple[str, str], float]:
    """Return (model, model), by name → p-value, corrected by Holm's method for all pairs of models.

    `values`: model → float64[queries].
    """
    pairs = list(combinations(sorted(values), 2))
    differences = np.stack([values[b] - values[a] for a, b in pairs])
    p = holm(p_values(differences, seed))
    return dict(zip(pairs, map(float, p), strict=True))


def p_values(differences: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return two-sided p-values float64[m] that the means of differences[m, queries] are 0.

    Under that hypothesis the sign of each query's difference is chance: the test of
    `trove_steps.evaluation.comparison`, for MANY queries by the normal distribution.
    """
    differences = np.where(np.abs(differences) < TIE, 0, differences)
    if differences.shape[1] <= MANY:
        return randomisation_test(differences, RESAMPLES, seed)
    spread = np.sqrt((differences**2).sum(axis=1))
    places = np.abs(differences.sum(axis=1)) / np.where(spread > 0, spread, 1)
    return np.array([2 * NormalDist().cdf(-place) for place in places])
