"""Names of metrics: which there are, how they may be spelled, how deep a ranking and which labels they need.

Light, because the planner reads it.
"""

import re
from collections.abc import Iterable, Sequence

from trove_steps.errors import TroveStepsError

DEFAULT_MEASURES = ("ndcg_cut", "map_cut", "recall", "P", "mrr_cut")
K_VALUES = (1, 3, 5, 10, 100)
LARGEST_LABEL = 1_000_000  # trec_eval makes a table with one entry for every level up to it

# The measures that the field reports first, with the metrics by which it does.
USUAL = {
    "ndcg_cut": ("ndcg_cut_10",),
    "recall": ("recall_100",),
    "map_cut": ("map", "map_cut_100"),
    "mrr_cut": ("mrr_cut_10",),
}

_BY_TREC_EVAL = ("ndcg_cut", "map_cut", "recall", "P", "success", "Rprec")
BY_RANK_ALONE = ("mrr_cut", "judged")
_WITHOUT_CUTOFF = ("Rprec",)
_ALIASES = {
    "ndcg": "ndcg_cut",
    "map": "map_cut",
    "ap": "map_cut",
    "r": "recall",
    "p": "P",
    "precision": "P",
    "rr": "mrr_cut",
    "mrr": "mrr_cut",
    "hit": "success",
    "hit_rate": "success",
    "hitrate": "success",
    "rprec": "Rprec",
    "r_precision": "Rprec",
    "r-precision": "Rprec",
} | {name.lower(): name for name in (*_BY_TREC_EVAL, *BY_RANK_ALONE)}


def metric_names(measures: Sequence[str], k_values: Sequence[int]) -> list[str]:
    """Spell out measures and cut-offs, e.g. ``["P", "nDCG@20"], [1, 5]`` → P_1, P_5, ndcg_cut_20.

    Raises:
        TroveStepsError: a measure that does not exist or a cut-off that is not a positive number.
    """
    names = []
    for measure in measures:
        stem, separator, cutoff = split_name(measure)
        known = _ALIASES.get(stem.lower())
        if known is None or (known in _WITHOUT_CUTOFF and separator):
            choices = ", ".join((*_BY_TREC_EVAL, *BY_RANK_ALONE))
            raise TroveStepsError(f"unknown measure {measure!r}; there are {choices}")
        if known in _WITHOUT_CUTOFF:
            names.append(known)
            continue
        for k in [cutoff] if separator else sorted(set(k_values)):
            if int(k) != float(k) or int(k) < 1:
                raise TroveStepsError(f"cut-off {k} of {measure}: must be a whole number from 1")
            names.append(f"{known}_{int(k)}")
    if not names:
        raise TroveStepsError("no metric is asked for: give at least one measure and one cut-off")
    return list(dict.fromkeys(names))


def largest_cutoff(names: Sequence[str], k_values: Sequence[int]) -> int:
    """Return how deep a ranking metrics need; one without a cut-off (Rprec) takes ``k_values``' largest."""
    return max(int(split_name(name)[2] or max(k_values)) for name in names)


def split_name(name: str) -> tuple[str, str, str]:
    """Return measure, separator and cut-off of a name, the latter two empty where there is none."""
    found = re.fullmatch(r"(.+?)([@_.])(\d+)", name)
    return found.groups() if found else (name, "", "")


def main_metrics(computed: Iterable[str], measures: Sequence[str] = tuple(USUAL)) -> list[str]:
    """Return the metrics to show of those computed (other names are passed over): one per measure.

    It has the usual cut-off, else the largest. The first is the same whatever `measures` are.
    """
    names = {name: split_name(name) for name in computed}
    by_cutoff = sorted(names, key=lambda name: int(names[name][2] or 0))
    deepest = {_ALIASES.get(names[name][0].lower()): name for name in by_cutoff}
    order = dict.fromkeys([*USUAL, *_BY_TREC_EVAL, *BY_RANK_ALONE])
    found = {
        measure: next((name for name in USUAL.get(measure, ()) if name in names), deepest[measure])
        for measure in order
        if measure in deepest
    }
    return [name for n, (measure, name) in enumerate(found.items()) if not n or measure in measures]


def unfit_labels(labels):
    """Return where labels (numbers [n]) can't be gains (bool [n]): fractions, and what is too large."""
    import numpy as np

    return ~((labels == np.floor(labels)) & (labels <= LARGEST_LABEL))
