"""How kernels are compiled.

A kernel calls none of another file: the code that numba keeps on disk is renewed when its own file
changes, not when another does.
"""

from __future__ import annotations

from numba import njit

# Norms are only ever used with slack, so the order of their additions is free.
ANY_ORDER = {"reassoc", "nsz", "contract"}


def compile_kernel(function, fastmath=False):
    """Compile on first use, and keep the code on disk where some folder lets us."""
    try:
        return njit(nogil=True, cache=True, fastmath=fastmath)(function)
    except RuntimeError:  # no writable folder for the cache
        return njit(nogil=True, fastmath=fastmath)(function)
