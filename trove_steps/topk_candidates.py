"""The fast pass of the search: which documents may be among the best of a query.

Products of tiles in float32, bfloat16 or int8 give every score an interval that holds the exact
score; a document stays a candidate while its interval reaches the k-th largest lower end.
docs/search.md derives the bounds. `trove_steps.topk` scores and orders the candidates exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from trove_steps.errors import TroveStepsError

TILE_QUERIES, TILE_DOCUMENTS = 512, 4096  # one product on a CPU: its scores stay in cache (8 MiB)
GPU_TILE_QUERIES, GPU_TILE_DOCUMENTS = 2048, 32_768  # and on a GPU (256 MiB)
PAIR_BUDGET = 4_000_000  # candidates that a rank holds at once: 12 bytes each
HITS_THAT_PAY = 0.1  # a product of two vectors costs as much as about 5 inside a product of tiles
QUERIES_THAT_PAY = 64  # making the codes of a document costs as much as about 50 float32 products
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
    """

    def __init__(self, queries: int, reach: int, place_dtype, capacity: int):
        self.reach, self.limit = reach, (reach + capacity) // 2
        self.low = np.empty((queries, capacity), np.float32)
        self.high = np.empty((queries, capacity), np.float32)
        self.place = np.empty((queries, capacity), place_dtype)
        self.fill = np.zeros(queries, np.int64)
        self.floor = np.full(queries, -np.inf, np.float32)
        self.lost = np.zeros(queries, np.bool_)

    def offer(self, scores, first: int, error: np.ndarray, rows: slice) -> None:
        """Take in a tile: float32 scores [m, c] of queries `rows` and places first, first + 1, ….

        error: float32[m], at least |score - exact score|; infinite where nothing can be said.
        """
        kernels().offer(
            scores.numpy(), first, error, self.reach, self.limit,
            self.low[rows], self.high[rows], self.place[rows],
            self.fill[rows], self.floor[rows], self.lost[rows],
        )  # fmt: skip

    def offer_codes(
        self, products, unit, shift, error, queries, documents, float_error,
        first: int, budget: int, rows: slice,
    ) -> int:  # fmt: skip
        """The same with int32 products of codes; see `topk_kernels.offer_codes`."""
        return kernels().offer_codes(
            products.numpy(), unit, shift, error, queries, documents, float_error, first, budget,
            self.reach, self.limit, self.low[rows], self.high[rows], self.place[rows],
            self.fill[rows], self.floor[rows], self.lost[rows],
        )  # fmt: skip

    def settle(self, rows: slice) -> None:
        """Drop what the final floor of these queries excludes."""
        fill = self.fill[rows]
        kernels().settle(
            self.reach, self.low[rows], self.high[rows], self.place[rows], fill, self.floor[rows]
        )
        self.lost[rows] |= fill > self.limit

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
    """Document vectors at places first, first + 1, … of the storage order."""

    def __init__(self, documents, first: int, stop: int, device: str, chosen: str):
        self.first = first
        rows = documents.order[first:stop]
        self.vectors = np.ascontiguousarray(documents.take(rows), dtype=np.float32)
        self.factor = Factor(_on_device(self.vectors, device), chosen)
        norms = self.factor.norms
        if not np.isfinite(norms).all():  # infinite also where finite values are huge
            require_finite(self.vectors, rows, documents.ids, "document")
        coded = chosen == "int8" and norms.max() < LARGEST_CODED_NORM
        self.codes = Codes(self.vectors, norms) if coded else None


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
class Lane:
    """The share of one thread: some queries, and every `stripes`-th tile of documents."""

    rows: slice
    stripe: int
    stripes: int
    candidates: Candidates
    # Tiles to go before codes are tried again, and how often in a row they did not pay.
    pause: int = 0
    failures: int = 0

    def pause_documents(self) -> int:
        """Over how many documents the pause lasts, at least."""
        parts = -(-(self.rows.stop - self.rows.start) // TILE_QUERIES)
        return self.pause // parts * self.stripes * TILE_DOCUMENTS


class Sweep:
    """One tile of queries against some blocks of documents.

    `vectors`: float32[m, d], the queries. `reach`: how many best documents must be found. `blocks`:
    the numbers of the blocks that were searched.
    """

    def __init__(self, vectors, documents, reach: int, block_rows: int, device: str, chosen: str):
        self.vectors, self.documents = vectors, documents
        self.reach, self.block_rows, self.device = reach, block_rows, device
        self.factor = Factor(_on_device(vectors, device), chosen)
        if chosen == "int8" and (
            len(vectors) < QUERIES_THAT_PAY or self.factor.norms.max() > LARGEST_CODED_NORM
        ):
            chosen = "float32"
        self.chosen = chosen
        self.bound = Bound(self.factor, vectors.shape[1], chosen)
        self.blocks: list[int] = []
        self.sheets: list[Candidates] = []
        self.lanes: list[Lane] = []

    def run(self, numbers: Iterator[int]) -> Iterator[int]:
        """Search the blocks `numbers`, reading ahead; yields how many documents are begun."""
        import torch

        with (
            one_thread_each() as threads,
            ThreadPoolExecutor(1) as reader,
            ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ):
            self._share_out(threads if self.device == "cpu" else 1)
            pending = None
            for number in numbers:
                following = reader.submit(self._read, number)
                self.blocks.append(number)
                yield number * self.block_rows
                if pending is not None:
                    self._offer(pool, pending.result())
                pending = following
            if pending is not None:
                self._offer(pool, pending.result())
            list(pool.map(lambda lane: lane.candidates.settle(lane.rows), self.lanes))
            yield len(self.documents)

    def places(self, part: slice) -> np.ndarray:
        """int64[m, w]: candidates of queries `part` as places in storage order, -1 fills up."""
        return np.concatenate([sheet.places(part) for sheet in self.sheets], axis=1)

    def lost(self, part: slice = slice(None)) -> np.ndarray:
        """bool[m]: which of queries `part` must be searched again: their `places` do not count."""
        return np.any([sheet.is_lost(part) for sheet in self.sheets], axis=0)

    @cached_property
    def finer(self) -> Sweep:
        """The lost queries against the same blocks in float32."""
        vectors = self.vectors[self.lost()]
        again = Sweep(vectors, self.documents, self.reach, self.block_rows, self.device, "float32")
        for _ in again.run(iter(self.blocks)):
            pass
        return again

    def _share_out(self, threads: int) -> None:
        """Threads share the queries and, when these are few, the documents too.

        Each stripe of the documents has candidates of its own, so that memory limits the stripes.
        """
        count, room = len(self.vectors), capacity(self.reach, self.chosen)
        groups = max(1, min(threads, count // 64))
        stripes = max(1, min(threads // groups, PAIR_BUDGET // (count * room)))
        groups = min(count, threads // stripes)
        dtype = np.int32 if len(self.documents) < 2**31 else np.int64
        shape = count, self.reach, dtype, room
        compiled = self.device == "cpu" and kernels() is not None
        self.sheets = [
            Candidates(*shape) if compiled else TorchCandidates(*shape, self.device)
            for _ in range(stripes)
        ]
        self.lanes = [
            Lane(rows, stripe, stripes, sheet)
            for rows in slices(count, -(-count // groups))
            for stripe, sheet in enumerate(self.sheets)
        ]

    def _read(self, number: int) -> Block:
        first = number * self.block_rows
        stop = min(first + self.block_rows, len(self.documents))
        chosen = self.chosen
        ahead = 2 * self.block_rows  # this block and the one before, which is being searched
        if chosen == "int8" and all(lane.pause_documents() > ahead for lane in self.lanes):
            chosen = "float32"  # no lane will want the codes
        return Block(self.documents, first, stop, self.device, chosen)

    def _offer(self, pool: Executor, block: Block) -> None:
        list(pool.map(lambda lane: self._offer_lane(lane, block), self.lanes))

    def _offer_lane(self, lane: Lane, block: Block) -> None:
        import torch

        tile_queries, tile_documents = TILE_QUERIES, TILE_DOCUMENTS
        if self.device != "cpu":
            tile_queries, tile_documents = GPU_TILE_QUERIES, GPU_TILE_DOCUMENTS
        scratch = torch.empty(tile_queries * tile_documents, device=self.device)
        tiles = list(slices(len(block.vectors), tile_documents))[lane.stripe :: lane.stripes]
        queries = None
        if block.codes is not None and tiles:
            queries = CodedQueries(self.vectors[lane.rows], block.codes)
        for tile in tiles:
            for part in slices(lane.rows.stop - lane.rows.start, tile_queries):
                done = 0
                if lane.pause:
                    lane.pause -= 1
                elif queries is not None:
                    done = self._offer_codes(lane, block, tile, queries, part, scratch)
                start = lane.rows.start + part.start + done
                rows = slice(start, lane.rows.start + part.stop)
                if start < rows.stop:
                    self._offer_products(lane.candidates, block, tile, rows, scratch)

    def _offer_products(
        self, candidates: Candidates, block: Block, tile: slice, rows: slice, scratch
    ) -> None:
        """Float32 or bfloat16 products of queries `rows` and a tile of documents."""
        scores = _shaped(scratch, rows.stop - rows.start, tile.stop - tile.start)
        multiply(self.factor.tensor[rows], block.factor.tensor[tile].T, scores)
        error = self.bound(rows, block.factor.norms[tile].max(), block.factor.residues[tile].max())
        candidates.offer(scores, block.first + tile.start, error, rows)

    def _offer_codes(
        self, lane: Lane, block: Block, tile: slice, queries: CodedQueries, part: slice, scratch
    ) -> int:
        """Integer products of codes; returns how many queries of `part` were worth it.

        A hit costs a product of its own, so codes pay only while few documents are hits: not at the
        start, and not where all scores are alike. Then float32 takes over, for ever more tiles.
        """
        import torch

        count, columns = part.stop - part.start, tile.stop - tile.start
        products = _shaped(scratch.view(torch.int32), count, columns)
        torch._int_mm(queries.tensor[part], block.codes.tensor[tile].T, out=products)
        error = queries.error(part, block.codes.size[tile].max(), block.codes.residue[tile].max())
        rows = slice(lane.rows.start + part.start, lane.rows.start + part.stop)
        done = lane.candidates.offer_codes(
            products,
            queries.unit[part],
            queries.shift[part],
            error,
            self.vectors[rows],
            block.vectors[tile],
            self.bound(rows, block.factor.norms[tile].max(), 0),
            block.first + tile.start,
            int(count * columns * HITS_THAT_PAY),
            rows,
        )
        if done < count:
            lane.pause = 1 << min(lane.failures, 8)
            lane.failures += 1
        else:
            lane.failures = 0
        return done


def _widens(factor) -> bool:
    """Whether products with this bfloat16 factor come in float32."""
    return factor.is_cuda and can_widen()


def _shaped(scratch, rows: int, columns: int):
    return scratch[: rows * columns].view(rows, columns)


def multiply(left, right, out) -> None:
    """out = left @ right in the precision of the factors; out is float32."""
    import torch

    if left.dtype == torch.float32:
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
