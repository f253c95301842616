"""Which texts a rank encodes next: as many as take it about PORTION_SECONDS, as fast as it was so far."""

import math
import random
import time
from collections.abc import Callable, Iterator

import numpy as np

from trove_steps.distributed import Comm
from trove_steps.encoding.claims import Claims
from trove_steps.encoding.work import Work

PORTION_SECONDS = 20.0  # of work in a shard: what a kill can lose
LEAST_SECONDS = 0.5  # smaller portions would mostly fill up batches
POLL_SECONDS = 2.0
FIRST_CHARACTERS = 100_000


def claimed_rows(work: Work, comm: Comm) -> Iterator[np.ndarray]:
    """Yield the places int64[m] in the work of the texts that this rank claims from those of its job."""
    amount, units = 1, 0
    while (first := comm.claim("units", amount)) < work.units:
        began = time.perf_counter()
        amount = min(amount, work.units - first)
        yield work.rows(first, amount)
        units += amount
        # What this rank did of all that is claimed by now says how fast it is beside the others.
        claimed = min(comm.claim("units", 0), work.units)
        fair = (work.units - claimed) * units / claimed
        fair = fair if comm.world == 1 else fair / 2
        amount = _next_amount(amount, time.perf_counter() - began, fair)


def _next_amount(amount: int, seconds: float, fair: float) -> int:
    """Return how many units to claim next, after `amount` units took `seconds`: PORTION_SECONDS of work,
    and `fair` units at most, so that ranks of unlike speed finish together; but never crumbs."""
    rate = amount / max(seconds, 1e-3)
    wanted = min(rate * PORTION_SECONDS, 4 * amount, fair)
    return max(1, int(wanted), min(4 * amount, math.ceil(rate * LEAST_SECONDS)))


def shared_rows(
    claims: Claims,
    keys: np.ndarray,
    sizes: np.ndarray,
    missing: Callable[[np.ndarray], np.ndarray],
    poll_seconds: float = POLL_SECONDS,
) -> Iterator[np.ndarray]:
    """Yield the rows int64[m] of `keys` uint8[n, 16] that this process is to encode, by portions.

    Ends when every row is in the store, whoever encoded it: what a killed process leaves is taken over.
    `sizes` int64[n] are the texts' lengths in characters; `missing` returns those of some rows that are
    not in the store. A portion's vectors must be in the store before the next portion is asked for.
    """
    block_of_row = claims.block_of(keys)
    waiting = [int(block) for block in np.unique(block_of_row)]
    random.Random().shuffle(waiting)  # so that the jobs rarely ask for the same block
    pace = _Pace()
    while waiting:
        others = []
        for block in waiting:
            if claims.is_done(block):
                continue
            how = claims.take(block)
            if how is None:
                others.append(block)
                continue
            rows = np.flatnonzero(block_of_row == block)
            with claims.held(block):
                yield from pace.portions(missing(rows) if how == "inherited" else rows, sizes)
        if others and len(others) == len(waiting):
            time.sleep(poll_seconds)
        waiting = others


class _Pace:
    """Cuts rows into portions of about PORTION_SECONDS of work, as fast as they were done so far."""

    def __init__(self):
        self.characters = FIRST_CHARACTERS

    def portions(self, rows: np.ndarray, sizes: np.ndarray) -> Iterator[np.ndarray]:
        while len(rows):
            ends = np.cumsum(np.maximum(sizes[rows], 1))
            count = max(1, int(np.searchsorted(ends, self.characters, side="right")))
            began = time.perf_counter()
            yield rows[:count]
            seconds = max(time.perf_counter() - began, 1e-3)
            if count < len(rows):  # else it was as long as it could be, and says nothing
                wanted = int(ends[count - 1]) * PORTION_SECONDS / seconds
                self.characters = min(int(wanted), 4 * self.characters)
            rows = rows[count:]
