"""How sure a mean over queries is, and a difference of two means: by resampling, with a fixed seed."""

import numpy as np

RESAMPLES = 2000
LEVEL = 0.05
_BLOCK = 1 << 22  # random numbers made at once: bounds the memory


def intervals(values: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends float64[m] of 95% bootstrap intervals of the means of values[queries, m]."""
    count = len(values)
    chance = np.random.default_rng(seed)
    means = [
        chance.multinomial(count, np.full(count, 1 / count), size) @ values / count
        for size in _sizes(count)
    ]
    low, high = np.percentile(
        np.concatenate(means), [100 * LEVEL / 2, 100 - 100 * LEVEL / 2], axis=0
    )
    return low, high


def p_values(differences: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return two-sided p-values float64[m] that the means of differences[queries, m] are 0.

    A paired randomisation test: under the hypothesis the sign of each query's difference is chance.
    """
    count = len(differences)
    chance = np.random.default_rng(seed)
    observed = np.abs(differences.sum(axis=0)) * (1 - 1e-12)
    extreme = np.zeros(differences.shape[1])
    for size in _sizes(count):
        signs = chance.integers(0, 2, (size, count), np.int8) * 2.0 - 1.0
        extreme += (np.abs(signs @ differences) >= observed).sum(axis=0)
    return (extreme + 1) / (RESAMPLES + 1)


def holm(p: np.ndarray) -> np.ndarray:
    """Return p-values float64[n] corrected for making n comparisons at once, by Holm's method."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def _sizes(count: int):
    """Cut RESAMPLES into blocks of at most _BLOCK random numbers."""
    step = max(1, _BLOCK // max(1, count))
    for start in range(0, RESAMPLES, step):
        yield min(step, RESAMPLES - start)
