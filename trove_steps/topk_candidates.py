"""The fast pass of the search: which documents may be among the best of a query.

Products of tiles in float32, bfloat16 or int8 give every score an interval that holds the exact
score; a document stays a candidate while its interval reaches the k-th largest lower end.
docs/search.md derives the bounds. `trove_steps.topk` scores and orders the candidates exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from threading import Lock, local

import numpy as np

from trove_steps.errors import TroveStepsError

TILE_DOCUMENTS = 4096  # of one task of a thread; they share one bound of their errors
# Queries and documents of one product. On a CPU its scores stay in the cache (8 MiB); the product of codes
# slows down where it leaves the inner cache; on a GPU it is 256 MiB.
PRODUCT = 1024, 2048
CODE_PRODUCT = 512, 512
GPU_PRODUCT = 2048, 32_768
PAIR_BUDGET = 4_000_000  # candidates that a rank holds at once: 12 bytes each
HITS_THAT_PAY = 0.02  # a product of two vectors costs as much as about 50 inside a product of tiles
QUERIES_THAT_PAY = 64  # making the codes of a document costs as much as about 50 float32 products
BOLD_REACH = 256  # from here on a bold floor saves more than a query that it misses costs
LARGEST_CODED_NORM = 1e15  # beyond it float32 arithmetic on codes could overflow


def kernels():
    """The compiled kernels, or None where numba is missing."""
    try:
        from trove_steps import topk_kernels
    except ImportError:
        return None
    return topk_kernels


def slices(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover range(count)."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def require_finite(vectors: np.ndarray, rows: np.ndarray, ids, what: str) -> None:
    """Raise an error that names the first of these rows with NaN or infinity in its vector."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise TroveStepsError(
            f"the vector of {what} {ids[int(rows[bad[0]])].as_py()!r} has NaN or infinity in it "
            f"({len(bad)} such {what} vectors in this block); the encoder or an imported file made "
            "it: check the model's dtype"
        )


def can_widen() -> bool:
    """Whether torch gives products of bfloat16 matrices in float32 on a GPU: CUDA's from 2.8 on."""
    import torch

    return torch.version.cuda is not None and hasattr(torch.ops.aten.mm, "dtype_out")


def capacity(reach: int, chosen: str) -> int:
    """Candidates that a query has room for; a coarse pass leaves more of them open."""
    return 4 * reach + 1024 if chosen == "bfloat16" else 2 * reach + 256


class Candidates:
    """Per query, the documents that may still be among the best `reach`, as score intervals.

    Each is kept as [low, high], which holds its exact score. `floor` is the `reach`-th largest low
    seen: that many documents have an exact score of at least `floor`, so a document whose high is
    below it is out for good. A query with more live candidates than `limit` is `lost`.

    Where it is known how many documents a query will meet (`expected`, else 0), the floor is bold: a place
    before the `reach`-th of those seen (`topk_kernels._aim`). At the end it is compared with the
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
        """The same with int32 products of codes; see `topk_kernels.offer_codes`."""
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
        self.missed[rows] = False

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


class Factor:
    """One factor of a product: vectors in the precision of the product, and what rounding lost."""

    def __init__(self, tensor, chosen: str):
        if chosen == "bfloat16" and not tensor.is_cuda and kernels() is not None:
            self.tensor, self.norms, self.residues = _halved(tensor.numpy())
            return
        self.tensor, self.norms = tensor, _row_norms(tensor)
        self.residues = np.zeros_like(self.norms)
        if chosen == "bfloat16":
            self.tensor = tensor.bfloat16()
            self.residues = _row_norms(tensor - self.tensor.float())


def _halved(vectors: np.ndarray):
    """(bfloat16 tensor [m, d], norms float32[m], norms of what rounding lost float32[m])."""
    import torch

    halves = np.empty(vectors.shape, np.uint16)
    norms, residues = np.empty((2, len(vectors)), np.float32)
    kernels().halve(vectors.view(np.uint32), vectors, halves, norms, residues)
    return torch.from_numpy(halves.view(np.int16)).view(torch.bfloat16), norms, residues


def _row_norms(tensor) -> np.ndarray:
    """float32[m]; `Bound` accounts for their rounding."""
    import torch

    return torch.linalg.vector_norm(tensor, dim=1).cpu().numpy()


class Bound:
    """How far a product of tiles may be from the exact one; docs/search.md derives it."""

    TINY = 2.0**-126  # smallest normal float32: what flushing to zero may lose

    def __init__(self, queries: Factor, dim: int, chosen: str):
        self.dim, self.coarse = dim, chosen == "bfloat16"
        # 8 more roundings: the ends of the interval, the threshold and their comparison.
        self.gamma = self.norm_slack = _gamma(dim + 8, 2.0**-24)
        if self.coarse:
            # Tensor cores cut off low bits of sums instead of rounding, for which 2^-21 is generous.
            self.gamma = _gamma(dim + 8, 2.0**-21)
            if not _widens(queries.tensor):  # the result itself was rounded to bfloat16
                self.gamma += 2.0**-8 * (1 + self.gamma)
        self.norms, self.residues = self._above(queries.norms), self._above(queries.residues)

    def _above(self, norms):
        """At least the true norm of a vector whose norm was computed in float32."""
        norms = np.asarray(norms, np.float64)
        return norms * (1 + self.norm_slack) + np.sqrt(self.dim * self.TINY)

    def __call__(self, rows: slice, norm: float, residue: float) -> np.ndarray:
        """float32[m]: for queries `rows` and documents of at most this norm and residue."""
        norms, norm = self.norms[rows], self._above(norm)
        error = np.zeros(len(norms))
        if self.coarse:
            residues, residue = self.residues[rows], self._above(residue)
            error += residues * norm + (norms + residues) * residue
            norms, norm = norms + residues, norm + residue
        size = norms * norm
        error += self.gamma * size
        error += self.TINY * (2 * self.dim + 8 + np.sqrt(self.dim) * (norms + norm))
        largest = np.maximum(size, np.maximum(norms, norm))
        error[~(largest < 2.0**126)] = np.inf  # a value or a partial sum may overflow
        return error.astype(np.float32)


def _gamma(n: int, unit: float) -> float:
    """Higham's γ_n = n u / (1 - n u): the relative error of n roundings, in any order."""
    return n * unit / (1 - n * unit) if n * unit < 0.5 else np.inf


class Codes:
    """Vectors in int8: vectors = centre + step * codes + residue, with a step per dimension."""

    def __init__(self, vectors: np.ndarray, norms: np.ndarray):
        import torch

        codes = np.empty(vectors.shape, np.int8)
        size, residue = np.empty((2, len(vectors)), np.float32)
        smallest, largest = kernels().extremes(vectors)
        self.centre = (smallest + largest) / 2
        self.step = np.maximum(largest - self.centre, self.centre - smallest) / np.float32(127)
        kernels().encode(vectors, self.centre, self.step, codes, size, residue)
        self.tensor = torch.from_numpy(codes)
        # Norms and residues come from float32 arithmetic: d + 8 roundings of the norm, and each
        # element of a residue has roundings of the size of the vector and of the centre.
        dim = vectors.shape[1]
        more = 1 + (dim + 8) * 2.0**-23
        self.size = size.astype(np.float64) * more
        self.residue = residue.astype(np.float64) * more + np.sqrt(dim) * 2.0**-60
        self.residue += 2.0**-22 * (norms.astype(np.float64) * more + _norm(self.centre))


class CodedQueries:
    """Queries in the units of a block's codes: query * step = unit * codes + rest."""

    def __init__(self, vectors: np.ndarray, block: Codes):
        import torch

        codes = np.empty(vectors.shape, np.int8)
        self.unit, self.shift, self.rest, self.norm = np.empty((4, len(vectors)))
        kernels().encode_queries(
            vectors, block.centre, block.step, codes, self.unit, self.shift, self.rest, self.norm
        )
        self.tensor = torch.from_numpy(codes)
        # Roundings in float64 of the shift and of query * step, relative to their largest parts.
        largest = _norm(block.centre) + 127 * _norm(block.step)
        self.slack = self.norm * largest * (vectors.shape[1] + 8) * 2.0**-50

    def error(self, part: slice, size: float, residue: float) -> np.ndarray:
        """float64[m]: how far unit * product + shift may be from the exact score."""
        return (self.rest[part] * size + self.norm[part] * residue) * (1 + 1e-9) + self.slack[part]


def _norm(vector: np.ndarray) -> float:
    return float(np.linalg.norm(vector.astype(np.float64)))


class Block:
    """Document vectors at places first, first + 1, … of the storage order, and the queries' codes."""

    def __init__(self, documents, first: int, stop: int, device: str, chosen: str, queries):
        self.first = first
        rows = documents.order[first:stop]
        self.vectors = writable(np.ascontiguousarray(documents.take(rows), dtype=np.float32))
        self.factor = Factor(_on_device(self.vectors, device), chosen)
        norms = self.factor.norms
        if not np.isfinite(norms).all():  # infinite also where finite values are huge
            require_finite(self.vectors, rows, documents.ids, "document")
        coded = chosen == "int8" and norms.max() < LARGEST_CODED_NORM
        self.codes = Codes(self.vectors, norms) if coded else None
        self.queries = CodedQueries(queries, self.codes) if coded else None


def writable(array: np.ndarray) -> np.ndarray:
    """The same memory as an array that may be written, for torch and numba; nobody does."""
    if array.flags.writeable:
        return array
    return np.asarray(_Alias(array))


class _Alias:
    def __init__(self, array: np.ndarray):
        self.array = array  # the memory lives as long as this
        place, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (place, False)}


def _on_device(vectors: np.ndarray, device: str):
    import torch

    tensor = torch.from_numpy(vectors)
    if device == "cpu":
        return tensor
    stream = torch.cuda.Stream(device)  # its own, so that the copy overlaps with products
    with torch.cuda.stream(stream):
        tensor = tensor.pin_memory().to(device, non_blocking=True)
    stream.synchronize()
    tensor.record_stream(torch.cuda.current_stream(device))
    return tensor


@dataclass
class Part:
    """Queries that meet documents in one product; only one thread at a time changes a share of them."""

    rows: slice
    shares: list[tuple[slice, Lock]]
    # Tiles of documents to go before codes are tried again, and how often in a row they did not pay.
    pause: int = 0
    failures: int = 0

    def in_turn(self) -> Iterator[slice]:
        """The shares, each while no other thread is at it; those that are free come first."""
        taken = []
        for rows, lock in self.shares:
            if not lock.acquire(blocking=False):
                taken.append((rows, lock))
                continue
            try:
                yield rows
            finally:
                lock.release()
        for rows, lock in taken:
            with lock:
                yield rows


class Sweep:
    """One tile of queries against some blocks of documents.

    `vectors`: float32[m, d], the queries. `reach`: how many best documents must be found. `blocks`:
    the numbers of the blocks that were searched. `bold`: whether a query's floor may be ahead of what
    is proven, where there are kernels for it; `missed`: bool[m], for which it was too high.
    """

    def __init__(
        self,
        vectors,
        documents,
        reach: int,
        block_rows: int,
        device: str,
        chosen: str,
        bold: bool = False,
    ):
        self.vectors, self.documents = writable(vectors), documents
        self.reach, self.block_rows, self.device = reach, block_rows, device
        self.factor = Factor(_on_device(self.vectors, device), chosen)
        if chosen == "int8" and (
            len(vectors) < QUERIES_THAT_PAY
            or self.factor.norms.max() > LARGEST_CODED_NORM
            or vectors.shape[1] == 1  # torch's product of integers is wrong there
        ):
            chosen = "float32"
        self.chosen = chosen
        self.bold, self.missed = bold, np.zeros(len(vectors), np.bool_)
        self.bound = Bound(self.factor, vectors.shape[1], chosen)
        self.blocks: list[int] = []
        self.candidates: Candidates | None = None
        self.parts: list[Part] = []
        self._own = local()  # to each thread

    def run(self, numbers: Iterator[int]) -> Iterator[int]:
        """Search the blocks `numbers`; yields how many documents are begun.

        While the threads are at a block, the next one is read: two are held.
        """
        with one_thread_each() as threads, self._pool(threads) as pool:
            self._share_out(threads)
            before = []
            for number in numbers:
                self.blocks.append(number)
                if self.bold:
                    self._expect(number)
                yield number * self.block_rows
                block = self._read(number)
                tasks = [
                    pool.submit(self._offer, block, tile, turn)
                    for turn, tile in enumerate(slices(len(block.vectors), self.tile_documents))
                ]
                for task in before:
                    task.result()
                before = tasks
            for task in before:
                task.result()
            shares = [rows for part in self.parts for rows, _ in part.shares]
            list(pool.map(self.candidates.settle, shares))
        self._search_missed()
        yield len(self.documents)

    def places(self, part: slice) -> np.ndarray:
        """int64[m, w]: candidates of queries `part` as places in storage order, -1 fills up."""
        return self.candidates.places(part)

    def lost(self, part: slice = slice(None)) -> np.ndarray:
        """bool[m]: which of queries `part` must be searched again: their `places` do not count."""
        return self.candidates.is_lost(part)

    @cached_property
    def finer(self) -> Sweep:
        """The lost queries against the same blocks in float32."""
        return self._again(np.flatnonzero(self.lost()), "float32")

    def _expect(self, number: int) -> None:
        """Tell the candidates how many documents they will meet: of all, as large a share as until now.

        Ranks claim blocks in the order of their numbers.
        """
        share = len(self.blocks) / (number + 1)
        self.candidates.expected = share * len(self.documents)

    def _search_missed(self) -> None:
        """Search again, with the proven floor, for queries for which a bold one was too high."""
        self.missed = self.candidates.missed.copy()
        rows = np.flatnonzero(self.missed)
        if len(rows):
            chosen = self.chosen if len(rows) >= QUERIES_THAT_PAY else "float32"
            self.candidates.replace(rows, self._again(rows, chosen).candidates)

    def _again(self, rows: np.ndarray, chosen: str) -> Sweep:
        """A sweep of some of the queries over the same blocks."""
        again = Sweep(
            self.vectors[rows], self.documents, self.reach, self.block_rows, self.device, chosen
        )
        for _ in again.run(iter(self.blocks)):
            pass
        return again

    def _pool(self, threads: int) -> ThreadPoolExecutor:
        import torch

        workers = threads if self.device == "cpu" else 1
        return ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))

    def _share_out(self, threads: int) -> None:
        """Make room for the candidates, and shares of the queries: enough to keep threads apart."""
        count, on_cpu = len(self.vectors), self.device == "cpu"
        dtype = np.int32 if len(self.documents) < 2**31 else np.int64
        shape = count, self.reach, dtype, capacity(self.reach, self.chosen)
        compiled = on_cpu and kernels() is not None
        self.candidates = Candidates(*shape) if compiled else TorchCandidates(*shape, self.device)
        self.halves = compiled and self.chosen == "bfloat16"  # are offered as they are
        self.product = PRODUCT if on_cpu else GPU_PRODUCT
        self.tile_documents = TILE_DOCUMENTS if on_cpu else GPU_PRODUCT[1]
        size = CODE_PRODUCT[0] if self.chosen == "int8" else self.product[0]
        for rows in slices(count, size):
            share = -(-(rows.stop - rows.start) // (2 * threads)) if on_cpu else size
            shares = [
                (slice(rows.start + some.start, rows.start + some.stop), Lock())
                for some in slices(rows.stop - rows.start, share)
            ]
            self.parts.append(Part(rows, shares))

    def _read(self, number: int) -> Block:
        first = number * self.block_rows
        stop = min(first + self.block_rows, len(self.documents))
        chosen = self.chosen
        ahead = 2 * self.block_rows  # this block and the one before, which is being searched
        if chosen == "int8" and all(part.pause * TILE_DOCUMENTS > ahead for part in self.parts):
            chosen = "float32"  # no part will want the codes
        return Block(self.documents, first, stop, self.device, chosen, self.vectors)

    def _offer(self, block: Block, tile: slice, turn: int) -> None:
        """A tile of documents meets all queries, the first `turn` parts of them last."""
        factor = block.factor
        queries = slice(0, len(self.vectors))
        error = self.bound(queries, factor.norms[tile].max(), factor.residues[tile].max())
        turn %= len(self.parts)
        for part in self.parts[turn:] + self.parts[:turn]:
            rest = [(part.rows, tile)]
            if part.pause > 0:  # threads may race below it
                part.pause -= 1
            elif block.codes is not None:
                rest = self._offer_codes(block, tile, part, error)
            for rows, documents in rest:
                self._offer_products(block, documents, part, rows, error)

    def _offer_products(
        self, block: Block, tile: slice, part: Part, rows: slice, error: np.ndarray
    ) -> None:
        """Float32 or bfloat16 products of queries `rows` of a part and a tile of documents."""
        for some in slices(tile.stop - tile.start, self.product[1]):
            some = slice(tile.start + some.start, tile.start + some.stop)
            scores = self._room(rows.stop - rows.start, some.stop - some.start)
            multiply(self.factor.tensor[rows], block.factor.tensor[some].T, scores)
            for share in part.in_turn():
                mine = slice(max(share.start, rows.start), min(share.stop, rows.stop))
                if mine.start < mine.stop:
                    offered = scores[mine.start - rows.start : mine.stop - rows.start]
                    self.candidates.offer(offered, block.first + some.start, error[mine], mine)

    def _offer_codes(
        self, block: Block, tile: slice, part: Part, float_error: np.ndarray
    ) -> list[tuple[slice, slice]]:
        """Integer products of codes; returns the queries and documents that they did not pay for.

        A hit costs a product of its own, so codes pay only while few documents are hits: not at the
        start, and not where all scores are alike. Then float32 takes over, for ever more tiles.
        """
        import torch

        queries, rows = block.queries, part.rows
        error = queries.error(rows, block.codes.size[tile].max(), block.codes.residue[tile].max())
        for some in slices(tile.stop - tile.start, CODE_PRODUCT[1]):
            some = slice(tile.start + some.start, tile.start + some.stop)
            shape = rows.stop - rows.start, some.stop - some.start
            products = self._room(*shape).view(torch.int32)
            torch._int_mm(queries.tensor[rows], block.codes.tensor[some].T, out=products)
            rest = []
            for share in part.in_turn():
                mine = slice(share.start - rows.start, share.stop - rows.start)
                done = self.candidates.offer_codes(
                    products[mine],
                    queries.unit[share],
                    queries.shift[share],
                    error[mine],
                    self.vectors[share],
                    block.vectors[some],
                    float_error[share],
                    block.first + some.start,
                    int((share.stop - share.start) * shape[1] * HITS_THAT_PAY),
                    share,
                )
                if share.start + done < share.stop:
                    rest.append((slice(share.start + done, share.stop), some))
            if rest:
                part.pause = 1 << min(part.failures, 8)
                part.failures += 1
                return [*rest, (rows, slice(some.stop, tile.stop))]
        part.failures = 0
        return []

    def _room(self, rows: int, columns: int):
        """An uninitialised tensor [rows, columns] for products, in memory of this thread."""
        import torch

        if not hasattr(self._own, "scratch"):
            count = self.product[0] * self.product[1]
            dtype = torch.bfloat16 if self.halves else torch.float32
            self._own.scratch = torch.empty(count, dtype=dtype, device=self.device)
        return self._own.scratch[: rows * columns].view(rows, columns)


def _widens(factor) -> bool:
    """Whether products with this bfloat16 factor come in float32."""
    return factor.is_cuda and can_widen()


def multiply(left, right, out) -> None:
    """out = left @ right in the precision of the factors; out is float32 or has their type."""
    import torch

    if left.dtype == out.dtype:
        torch.mm(left, right, out=out)
    elif _widens(left):
        torch.mm(left, right, out_dtype=torch.float32, out=out)
    else:
        out.copy_(torch.mm(left, right))


@contextmanager
def one_thread_each():
    """Torch with one thread per caller, as our own threads share the work. Gives their number.

    Also full float32 products (no TF32), and bfloat16 products without partial sums in bfloat16:
    the bound does not hold for the faster approximations.
    """
    import torch

    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    products = torch.backends.cuda.matmul
    reduced = products.allow_bf16_reduced_precision_reduction
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    products.allow_bf16_reduced_precision_reduction = False
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        products.allow_bf16_reduced_precision_reduction = reduced
