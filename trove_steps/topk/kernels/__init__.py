"""Compiled inner loops of the search (numba). `trove_steps.topk.search` works without them, slower.

The kernels release the interpreter's lock, so that threads run them side by side. Whatever reaches
a result uses no fast-math: the same IEEE operations in the same order on every machine.
"""

from trove_steps.topk.kernels.codes import encode, encode_queries, extremes, halve
from trove_steps.topk.kernels.exact import rescore_all, rescore_pairs
from trove_steps.topk.kernels.selection import offer, offer_codes, offer_halves, settle

__all__ = [
    "encode",
    "encode_queries",
    "extremes",
    "halve",
    "offer",
    "offer_codes",
    "offer_halves",
    "rescore_all",
    "rescore_pairs",
    "settle",
]
