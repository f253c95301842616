"""What a metric would be if documents with equal scores stood in another order.

The expected value over all orders that equal scores allow, each as likely as any other, in closed
form (McSherry and Najork, "Computing information retrieval performance measures efficiently in the
presence of tied scores", ECIR 2008; for the use of the range: Yang et al., arXiv 2508.03306).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class TiedResults:
    """The results of one query, with the groups of equal scores that they fall into.

    Attributes:
        sizes: int64[G], number of results in each group, best first; together n.
        gains: int64[n], gain of each result; within a group in any order.
        judged: bool[n], whether the result has a judgment.
        all_gains: the gains of all judged documents, retrieved or not.
        threshold: lowest gain that is relevant.
    """

    sizes: np.ndarray
    gains: np.ndarray
    judged: np.ndarray
    all_gains: np.ndarray
    threshold: int

    def expected(self, measure: str, cutoff: int) -> float:
        """Return the expected value of a measure, named as in metrics (``Rprec``: any cut-off)."""
        if measure == "judged":
            return float(self._judged_means[:cutoff].mean())
        if measure == "ndcg_cut":
            ideal = _discounted(self._ideal_gains, cutoff)
            return _discounted(self._gain_means, cutoff) / ideal if ideal else 0.0
        if not self._num_relevant:
            return 0.0
        if measure == "P":
            return float(self._relevant_means[:cutoff].sum() / cutoff)
        if measure == "recall":
            return float(self._relevant_means[:cutoff].sum() / self._num_relevant)
        if measure == "Rprec":
            found = self._relevant_means[: self._num_relevant]
            return float(found.sum() / self._num_relevant)
        if measure == "map_cut":
            return float(self._precisions[:cutoff].sum() / self._num_relevant)
        first = self._first_relevant[:cutoff]
        if measure == "success":
            return float(first.sum())
        return float((first / np.arange(1, len(first) + 1)).sum())

    # What several cut-offs of a measure share is computed once.

    @cached_property
    def _relevant(self) -> np.ndarray:
        return self.gains >= self.threshold

    @cached_property
    def _num_relevant(self) -> int:
        return int((self.all_gains >= self.threshold).sum())

    @cached_property
    def _relevant_means(self) -> np.ndarray:
        return self._means(self._relevant)

    @cached_property
    def _gain_means(self) -> np.ndarray:
        return self._means(self.gains)

    @cached_property
    def _judged_means(self) -> np.ndarray:
        return self._means(self.judged)

    @cached_property
    def _ideal_gains(self) -> np.ndarray:
        return np.sort(self.all_gains)[::-1]

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum(self.sizes) - self.sizes

    def _means(self, values: np.ndarray) -> np.ndarray:
        """Expected value at each place, float64[n]: the mean of its group."""
        return np.repeat(
            np.add.reduceat(values.astype(float), self._starts) / self.sizes, self.sizes
        )

    @cached_property
    def _precisions(self) -> np.ndarray:
        """Expected precision at each place where it is relevant, else 0; float64[n].

        At the j-th place (from 0) of a group of m documents with r relevant ones, after c relevant
        ones: r/m (c + 1 + j (r - 1)/(m - 1)) divided by the place.
        """
        r = np.add.reduceat(self._relevant.astype(float), self._starts)
        before = np.repeat(np.cumsum(r) - r, self.sizes)
        others = np.repeat((r - 1) / np.maximum(self.sizes - 1, 1), self.sizes)
        places = np.arange(len(self._relevant))
        inside = places - np.repeat(self._starts, self.sizes)
        return self._relevant_means * (before + 1 + inside * others) / (places + 1)

    @cached_property
    def _first_relevant(self) -> np.ndarray:
        """Chance of each place to hold the first relevant document, float64[n].

        Only the first group with a relevant one matters: of its m documents r are relevant, and
        after j others the next is with the chance r/(m - j).
        """
        relevant = self._relevant
        chance = np.zeros(len(relevant))
        if not relevant.any():
            return chance
        group = np.searchsorted(np.cumsum(self.sizes), int(np.argmax(relevant)), side="right")
        start, size = int(self._starts[group]), int(self.sizes[group])
        hit = relevant[start : start + size].sum() / np.arange(size, 0, -1)
        hit = np.minimum(hit, 1.0)  # after the others are used up, nothing is left to chance
        chance[start : start + size] = hit * np.cumprod(np.append(1.0, 1.0 - hit[:-1]))
        return chance


def _discounted(gains: np.ndarray, cutoff: int) -> float:
    gains = gains[:cutoff]
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())
