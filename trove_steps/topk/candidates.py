"""The documents that may still be among the best of each query, as intervals of their scores.

`trove_steps.topk.sweep` offers scores with a bound of their error; a document stays a candidate while
its interval reaches the k-th largest lower end.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

PAIR_BUDGET = 4_000_000  # candidates that a rank holds at once: 12 bytes each
BOLD_REACH = 256  # from here on a bold floor saves more than a query that it misses costs


def kernels():
    """The compiled kernels, or None where numba is missing."""
    try:
        from trove_steps.topk import kernels as compiled
    except ImportError:
        return None
    return compiled


def slices(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover range(count)."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def capacity(reach: int, chosen: str) -> int:
    """Candidates that a query has room for; a coarse pass leaves more of them open."""
    return 4 * reach + 1024 if chosen == "bfloat16" else 2 * reach + 256


class Candidates:
    """Per query, the documents that may still be among the best `reach`, as score intervals.

    Each is kept as [low, high], which holds its exact score. `floor` is the `reach`-th largest low
    seen: that many documents have an exact score of at least `floor`, so a document whose high is
    below it is out for good. A query with more live candidates than `limit` is `lost`.

    Where it is known how many documents a query will meet (`expected`, else 0), the floor is bold: a place
    before the `reach`-th of those seen (`kernels.selection._aim`). At the end it is compared with the
    `reach`-th of all; a query for which it was too high is `missed`.
    """

    expected = 0.0

    def __init__(self, queries: int, reach: int, place_dtype, capacity: int):
        self.reach, self.limit = reach, (reach + capacity) // 2
        self.seen = np.zeros(queries, np.int64)
        self.missed = np.zeros(queries, np.bool_)
        self.low = np.empty((queries, capacity), np.float32)
        self.high = np.empty((queries, capacity), np.float32)
        self.place = np.empty((queries, capacity), place_dtype)
        self.fill = np.zeros(queries, np.int64)
        first = min(reach, 64)
        self.full = np.full(queries, min(capacity, first + max(first // 2, 32)))
        self.floor = np.full(queries, -np.inf, np.float32)
        self.lost = np.zeros(queries, np.bool_)

    def offer(self, scores, first: int, error: np.ndarray, rows: slice) -> None:
        """Take in a tile: scores [m, c] of queries `rows` and places first, first + 1, ….

        scores: float32 or bfloat16. error: float32[m], at least |score - exact score|; infinite where
        nothing can be said.
        """
        import torch

        kernel = kernels().offer
        if scores.dtype == torch.bfloat16:  # numpy has no such numbers
            kernel, scores = kernels().offer_halves, scores.view(torch.int16)
        kernel(
            scores.numpy(), first, error, self.reach, self.limit,
            self.low[rows], self.high[rows], self.place[rows],
            self.fill[rows], self.full[rows], self.floor[rows], self.lost[rows],
            self.seen[rows], self.expected,
        )  # fmt: skip

    def offer_codes(
        self, products, unit, shift, error, queries, documents, float_error,
        first: int, budget: int, rows: slice,
    ) -> int:  # fmt: skip
        """The same with int32 products of codes; see `kernels.offer_codes`."""
        return kernels().offer_codes(
            products.numpy(), unit, shift, error, queries, documents, float_error, first, budget,
            self.reach, self.limit, self.low[rows], self.high[rows], self.place[rows],
            self.fill[rows], self.full[rows], self.floor[rows], self.lost[rows],
            self.seen[rows], self.expected,
        )  # fmt: skip

    def settle(self, rows: slice) -> None:
        """Drop what the final floor of these queries excludes."""
        fill, missed = self.fill[rows], self.missed[rows]
        kernels().settle(
            self.reach, self.low[rows], self.high[rows], self.place[rows], fill, self.floor[rows],
            missed,
        )  # fmt: skip
        self.lost[rows] |= ~missed & (fill > self.limit)
        missed &= ~self.lost[rows]

    def replace(self, rows: np.ndarray, others: Candidates) -> None:
        """Take over the candidates of other queries, which have no more room, as those of `rows`."""
        width = others.low.shape[1]
        for name in ("low", "high", "place"):
            getattr(self, name)[rows, :width] = getattr(others, name)
        for name in ("fill", "floor", "lost"):
            getattr(self, name)[rows] = getattr(others, name)

    def places(self, part: slice) -> np.ndarray:
        """int64[m, w], the live candidates of queries `part`, -1 at the end of shorter rows."""
        fill = np.where(self.lost[part], 0, self.fill[part])
        width = int(fill.max(initial=0))
        used = np.arange(width) < fill[:, None]
        return np.where(used, self.place[part, :width], -1).astype(np.int64, copy=False)

    def is_lost(self, part: slice) -> np.ndarray:
        """bool[m]: which of queries `part` have too many candidates."""
        return self.lost[part]


class TorchCandidates(Candidates):
    """The same in torch operations, on any device."""

    def __init__(self, queries: int, reach: int, place_dtype, capacity: int, device: str):
        import torch

        super().__init__(queries, reach, place_dtype, capacity)
        for name in ("low", "high", "place", "fill", "floor", "lost"):
            setattr(self, name, torch.from_numpy(getattr(self, name)).to(device))

    def offer(self, scores, first: int, error: np.ndarray, rows: slice) -> None:
        import torch

        error = torch.from_numpy(error).to(scores.device)
        lost, fill, floor = self.lost[rows], self.fill[rows], self.floor[rows]
        lost |= ~(error < torch.inf)
        hits = scores >= torch.where(lost, torch.inf, floor - error)[:, None]
        hits &= ~lost[:, None]
        count = hits.sum(1)
        roomy = fill + count <= self.low.shape[1]
        self._squeeze(torch.nonzero(~roomy).flatten(), scores, hits, first, error, rows)
        hits &= roomy[:, None]
        row, column = hits.nonzero(as_tuple=True)
        count *= roomy
        slot = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
        slot += fill[row]
        score, e = scores[row, column], error[row]
        self.low[rows][row, slot] = score - e
        self.high[rows][row, slot] = score + e
        self.place[rows][row, slot] = (column + first).to(self.place.dtype)
        fill += count

    def _squeeze(self, crowded, scores, hits, first, error, rows) -> None:
        """Merge tile and buffer of the queries whose buffer cannot take all hits."""
        import torch

        if not len(crowded):
            return
        low, high, place = self.low[rows], self.high[rows], self.place[rows]
        fill, floor, lost = self.fill[rows], self.floor[rows], self.lost[rows]
        capacity = low.shape[1]
        unused = torch.arange(capacity, device=low.device) >= fill[crowded, None]
        score = scores[crowded].masked_fill(~hits[crowded], -torch.inf)
        e = error[crowded, None]
        all_low = torch.cat([low[crowded].masked_fill(unused, -torch.inf), score - e], 1)
        all_high = torch.cat([high[crowded].masked_fill(unused, -torch.inf), score + e], 1)
        columns = torch.arange(first, first + scores.shape[1], device=low.device)
        columns = columns.to(place.dtype).expand(len(crowded), -1)
        all_place = torch.cat([place[crowded], columns], 1)
        kth = all_low.topk(self.reach, dim=1).values[:, -1]
        floor[crowded] = torch.maximum(floor[crowded], kth)
        live = (all_high >= floor[crowded, None]) & (all_high > -torch.inf)
        best = all_high.masked_fill(~live, -torch.inf).topk(min(capacity, live.shape[1]), dim=1)
        width = best.indices.shape[1]
        low[crowded, :width] = all_low.gather(1, best.indices)
        high[crowded, :width] = best.values
        place[crowded, :width] = all_place.gather(1, best.indices)
        fill[crowded] = live.sum(1)
        lost[crowded] |= live.sum(1) > self.limit

    def settle(self, rows: slice) -> None:
        import torch

        for some in slices(rows.stop - rows.start, 4096):
            part = slice(rows.start + some.start, rows.start + some.stop)
            low, high, fill = self.low[part], self.high[part], self.fill[part]
            unused = torch.arange(low.shape[1], device=low.device) >= fill[:, None]
            kth = low.masked_fill(unused, -torch.inf).topk(self.reach, dim=1).values[:, -1]
            live = (high >= torch.maximum(self.floor[part], kth)[:, None]) & ~unused
            order = live.to(torch.int8).argsort(dim=1, descending=True, stable=True)
            self.place[part] = self.place[part].gather(1, order)
            fill.copy_(live.sum(1))
            self.lost[part] |= fill > self.limit

    def places(self, part: slice) -> np.ndarray:
        import torch

        fill = self.fill[part].masked_fill(self.lost[part], 0)
        width = int(fill.max()) if len(fill) else 0
        used = torch.arange(width, device=fill.device) < fill[:, None]
        place = self.place[part, :width].to(torch.int64)
        return place.masked_fill(~used, -1).cpu().numpy()

    def is_lost(self, part: slice) -> np.ndarray:
        return self.lost[part].cpu().numpy()
