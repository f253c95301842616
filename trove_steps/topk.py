"""Exact top-k search by dot product, reproducible to the byte and bounded in memory.

Two passes. *Candidates*: float32 products of tiles; every score becomes an interval that holds the
exact score, and a document is kept while its interval reaches the k-th largest lower end.
*Certificate*: the few kept are scored again by `rescore`, whose bits depend on nothing but the two
vectors, and ordered by score, then document id, both descending. A query that keeps too many (ties,
overflow) is searched again with `rescore` alone. docs/search.md derives the error bound.

Cosine similarity is the dot product of vectors that the caller has normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from trove_steps.errors import TroveStepsError

TILE_QUERIES, TILE_DOCUMENTS = 512, 4096  # one product: scores stay in cache (8 MiB)
PAIR_BUDGET = 4_000_000  # candidates held at once by a rank: 12 bytes each, 24 once scored
HITS_THAT_PAY = 0.05  # an exact score costs as much as about 20 float32 products
BLOCK_BYTES = 64 * 2**20  # document vectors of one block; two are held, one is being read


class Vectors(Protocol):
    """Rows of float32 vectors with ids, in text order; `trove_steps.store` has the real one."""

    dim: int
    ids: object  # pyarrow string array, plain or chunked
    order: np.ndarray  # int64[n], text indices in storage order

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray) -> np.ndarray:
        """float32[m, dim], the vectors of these text indices."""


class Comm(Protocol):
    """What the search needs from the other processes."""

    rank: int
    world: int

    def claim(self, name: str) -> int:
        """The next number 0, 1, 2 … of the counter `name`; never the same twice."""

    def gather(self, array: np.ndarray) -> list[np.ndarray] | None:
        """Collective: the arrays of all ranks on rank 0 (lengths may differ), None elsewhere."""


class SoloComm:
    """One process alone."""

    rank, world = 0, 1

    def __init__(self):
        self._next: dict[str, int] = {}

    def claim(self, name: str) -> int:
        number = self._next.get(name, 0)
        self._next[name] = number + 1
        return number

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        return [array]


@dataclass(frozen=True)
class TopK:
    """Results of the queries first, first + 1, …, first + len(offsets) - 2 (text indices).

    The rows of query `first + i` are offsets[i]:offsets[i + 1], best first.
    """

    first: int
    offsets: np.ndarray  # int64[m + 1]
    docs: np.ndarray  # int64[r], text indices of documents
    scores: np.ndarray  # float64[r]


def rescore(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """float64[m] dot products of float32[m, d] rows, with the same bits on every machine.

    The product of two float32 numbers is exact in float64. The products are added in a fixed binary
    tree, the second half of the (zero-padded) width onto the first until one is left, so neither
    vector units nor batch shape nor device can change the order of additions.
    """
    products = np.multiply(queries, documents, dtype=np.float64)
    return _add_halves(products)


def _add_halves(products):
    """Sum over the last axis as `rescore` defines it; numpy or torch; destroys its argument."""
    dim = products.shape[-1]
    width = 1 << (dim - 1).bit_length()
    while width > 1:
        half = width // 2
        products[..., : dim - half] += products[..., half:dim]
        width = dim = half
    return products[..., 0] + 0.0  # -0.0 would tell how much of the width was padding


def default_query_rows(depth: int) -> int:
    """Queries of one sweep over the corpus, so that their candidates fit the memory budget."""
    return max(1, min(16_384, PAIR_BUDGET // _capacity(depth)))


def default_block_rows(dim: int) -> int:
    """Documents of one block, the unit that a rank claims and reads."""
    return max(TILE_DOCUMENTS, BLOCK_BYTES // (4 * dim) // TILE_DOCUMENTS * TILE_DOCUMENTS)


def search(
    queries: Vectors,
    documents: Vectors,
    depth: int,
    *,
    block_rows: int | None = None,
    query_rows: int | None = None,
    device: str = "cpu",
    comm: Comm | None = None,
    exclude: np.ndarray | None = None,
    progress: Callable[[int], None] | None = None,
    candidate_pass: str = "auto",
) -> Iterator[TopK]:
    """The min(depth, len(documents)) best documents of every query, in tiles of queries in order.

    Order: float64 score of `rescore` descending, equal scores by document id (UTF-8 bytes)
    descending. The result depends on the vectors and ids alone: not on the number of ranks, the
    tile shapes, the device or the candidate pass. Every rank must drain the iterator; only rank 0
    gets results.

    `exclude`: int64[len(queries)], the document that a query must never get, -1 for none.
    `progress` is called with the (query, document) pairs that all ranks have begun so far.
    Raises TroveStepsError for vectors that do not match or are not finite.
    """
    if depth < 1:
        raise TroveStepsError(f"search depth is {depth}; it must be at least 1")
    if len(queries) and len(documents) and queries.dim != documents.dim:
        raise TroveStepsError(
            f"queries have {queries.dim} dimensions and documents {documents.dim}; "
            "encode both with one model"
        )
    comm = comm or SoloComm()
    depth = min(depth, max(1, len(documents)))
    # An excluded document may occupy one of the first places until it is dropped.
    reach = depth + (exclude is not None)
    block_rows = block_rows or default_block_rows(documents.dim)
    query_rows = query_rows or default_query_rows(reach)
    for first in range(0, len(queries), query_rows):
        rows = np.arange(first, min(first + query_rows, len(queries)))
        vectors = np.ascontiguousarray(queries.take(rows), dtype=np.float32)
        _require_finite(vectors, rows, queries.ids, "query")
        sweep = _Sweep(vectors, documents, reach, block_rows, device, candidate_pass == "int8")
        banned = None if exclude is None else np.asarray(exclude)[rows]
        numbers = _claims(comm, f"search.{first}", len(documents), block_rows)
        for begun in sweep.run(numbers):
            if progress is not None:
                progress(first * len(documents) + len(rows) * begun)
        # Merging in slices bounds what rank 0 holds, whatever the depth and the number of ranks.
        step = max(1, PAIR_BUDGET // (reach * comm.world))
        for part in _slices(len(rows), step):
            scores, docs = sweep.exact(part)
            if banned is not None:
                hit = docs == banned[part, None]
                scores[hit], docs[hit] = -np.inf, -1
            gathered = _gathered(comm, *_ordered(scores, docs, depth, documents.ids))
            if gathered is not None:
                yield _packed(first + part.start, *_ordered(*gathered, depth, documents.ids))


def _claims(comm: Comm, name: str, count: int, block_rows: int) -> Iterator[int]:
    """Block numbers that fall to this rank, until all blocks are taken."""
    blocks = -(-count // block_rows)
    while (number := comm.claim(name)) < blocks:
        yield number


def _require_finite(vectors: np.ndarray, rows: np.ndarray, ids, what: str) -> None:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise TroveStepsError(
            f"the vector of {what} {ids[int(rows[bad[0]])].as_py()!r} has NaN or infinity in it "
            f"({len(bad)} such {what} vectors in this block); the encoder or an imported file made "
            "it: check the model's dtype"
        )


def _kernels():
    """The compiled kernels, or None where numba is missing."""
    try:
        from trove_steps import topk_kernels
    except ImportError:
        return None
    return topk_kernels


def _capacity(reach: int) -> int:
    return 2 * reach + 256


class _Candidates:
    """Per query, the documents that may still be among the best `reach`, as score intervals.

    Each is kept as [low, high], which holds its exact score. `floor` is the `reach`-th largest low
    seen: that many documents have an exact score of at least `floor`, so a document whose high is
    below it is out for good. A query with more live candidates than `limit` is `lost`.
    """

    def __init__(self, queries: int, reach: int, place_dtype):
        capacity = _capacity(reach)
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
        _kernels().offer(
            scores.numpy(), first, error, self.reach, self.limit,
            self.low[rows], self.high[rows], self.place[rows],
            self.fill[rows], self.floor[rows], self.lost[rows],
        )  # fmt: skip

    def offer_codes(
        self, products, unit, shift, error, queries, documents, first: int, budget: int, rows: slice
    ) -> int:
        """The same with int32 products of codes; see `topk_kernels.offer_codes`."""
        return _kernels().offer_codes(
            products.numpy(), unit, shift, error, queries, documents, first, budget,
            self.reach, self.limit, self.low[rows], self.high[rows], self.place[rows],
            self.fill[rows], self.floor[rows], self.lost[rows],
        )  # fmt: skip

    def settle(self, rows: slice) -> None:
        """Drop what the final floor of these queries excludes."""
        fill = self.fill[rows]
        _kernels().settle(
            self.reach, self.low[rows], self.high[rows], self.place[rows], fill, self.floor[rows]
        )
        self.lost[rows] |= fill > self.limit

    def places(self, part: slice) -> np.ndarray:
        """int64[m, w], the live candidates of queries `part`, -1 at the end of shorter rows."""
        fill = np.where(self.lost[part], 0, self.fill[part])
        width = int(fill.max(initial=0))
        used = np.arange(width) < fill[:, None]
        return np.where(used, self.place[part, :width], -1).astype(np.int64, copy=False)


class _TorchCandidates(_Candidates):
    """The same in torch operations, on any device."""

    def __init__(self, queries: int, reach: int, place_dtype, device: str = "cpu"):
        import torch

        super().__init__(queries, reach, place_dtype)
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

        for some in _slices(rows.stop - rows.start, 4096):
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


def _slices(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


@dataclass
class _Lane:
    """The share of one thread: some queries, and every `stripes`-th tile of documents."""

    rows: slice
    stripe: int
    stripes: int
    candidates: _Candidates
    # Tiles to go before codes are tried again, and how often they did not pay in a row.
    pause: int = 0
    failures: int = 0


class _Block:
    """Document vectors at places first, first + 1, … of the storage order, with their norms."""

    codes: _Codes | None = None

    def __init__(self, documents: Vectors, first: int, stop: int, device: str):
        import torch

        self.first = first
        rows = documents.order[first:stop]
        self.vectors = np.ascontiguousarray(documents.take(rows), dtype=np.float32)
        self.tensor = torch.from_numpy(self.vectors).to(device)
        self.norms = torch.linalg.vector_norm(self.tensor, dim=1).cpu().numpy()
        if not np.isfinite(self.norms).all():  # infinite also where finite values are huge
            _require_finite(self.vectors, rows, documents.ids, "document")


class _Codes:
    """A block in int8: vectors = centre + step * codes + residue, per dimension."""

    LARGEST_NORM = 1e15  # beyond it float32 arithmetic on the codes could overflow

    def __init__(self, block: _Block):
        import torch

        vectors = block.vectors
        codes = np.empty(vectors.shape, np.int8)
        size, residue = np.empty((2, len(vectors)), np.float32)
        smallest, largest = _kernels().extremes(vectors)
        self.centre = (smallest + largest) / 2
        self.step = np.maximum(largest - self.centre, self.centre - smallest) / np.float32(127)
        _kernels().encode(vectors, self.centre, self.step, codes, size, residue)
        self.tensor = torch.from_numpy(codes)
        # Computed in float32: relative errors of d + 8 roundings, in x itself and in its norm.
        dim = vectors.shape[1]
        slack = (dim + 8) * 2.0**-23
        self.size = size.astype(np.float64) * (1 + slack)
        self.residue = residue.astype(np.float64) * (1 + slack) + np.sqrt(dim) * 2.0**-60
        self.residue += 2.0**-22 * (
            block.norms.astype(np.float64) * (1 + slack) + _norm(self.centre)
        )


class _CodedQueries:
    """Queries in the units of a block's codes: query * step = unit * codes + rest."""

    def __init__(self, vectors: np.ndarray, block: _Codes):
        import torch

        codes = np.empty(vectors.shape, np.int8)
        self.unit, self.shift, self.rest, self.norm = np.empty((4, len(vectors)))
        _kernels().encode_queries(
            vectors, block.centre, block.step, codes, self.unit, self.shift, self.rest, self.norm
        )
        self.tensor = torch.from_numpy(codes)
        # Roundings in float64 of the shift and of query * step, relative to their largest parts.
        largest = _norm(block.centre) + 127 * _norm(block.step)
        self.slack = self.norm * largest * (vectors.shape[1] + 8) * 2.0**-50 + 2.0**-500

    def error(self, part: slice, size: float, residue: float) -> np.ndarray:
        """float64[m]: how far unit * product + shift may be from the exact score."""
        return (self.rest[part] * size + self.norm[part] * residue) * (1 + 1e-9) + self.slack[part]


def _norm(vector: np.ndarray) -> float:
    return float(np.linalg.norm(vector.astype(np.float64)))


class _Sweep:
    """One tile of queries against the blocks that this rank claims."""

    def __init__(self, vectors, documents: Vectors, reach: int, block_rows, device, coded: bool):
        import torch

        self.vectors, self.documents = vectors, documents
        self.reach, self.block_rows, self.device = reach, block_rows, device
        self.tensor = torch.from_numpy(vectors).to(device)
        norms = torch.linalg.vector_norm(self.tensor, dim=1).cpu().numpy()
        self.bound = _Bound(norms, vectors.shape[1])
        self.coded = coded and norms.max(initial=0) < _Codes.LARGEST_NORM
        self.blocks: list[int] = []
        self.sheets: list[_Candidates] = []

    def run(self, numbers: Iterator[int]) -> Iterator[int]:
        """Fill the candidates from blocks `numbers`; yields how many documents are begun."""
        with (
            _one_thread_each() as threads,
            ThreadPoolExecutor(1) as reader,
            ThreadPoolExecutor(threads) as pool,
        ):
            lanes = self._lanes(threads if self.device == "cpu" else 1)
            pending = None
            for number in numbers:
                following = reader.submit(self._read, number)
                self.blocks.append(number)
                yield number * self.block_rows
                if pending is not None:
                    self._offer(pool, lanes, pending.result())
                pending = following
            if pending is not None:
                self._offer(pool, lanes, pending.result())
            list(pool.map(lambda lane: lane.candidates.settle(lane.rows), lanes))
            yield len(self.documents)

    def _read(self, number: int) -> _Block:
        first = number * self.block_rows
        stop = min(first + self.block_rows, len(self.documents))
        block = _Block(self.documents, first, stop, self.device)
        if self.coded and block.norms.max() < _Codes.LARGEST_NORM:
            block.codes = _Codes(block)
        return block

    def _lanes(self, threads: int) -> list[_Lane]:
        """Threads share the queries and, when these are few, the documents too."""
        count = len(self.vectors)
        groups = max(1, min(threads, count // 64))
        stripes = max(1, threads // groups)
        dtype = np.int32 if len(self.documents) < 2**31 else np.int64
        for _ in range(stripes):
            if self.device == "cpu" and _kernels() is not None:
                self.sheets.append(_Candidates(count, self.reach, dtype))
            else:
                self.sheets.append(_TorchCandidates(count, self.reach, dtype, self.device))
        return [
            _Lane(rows, stripe, stripes, sheet)
            for rows in _slices(count, -(-count // groups))
            for stripe, sheet in enumerate(self.sheets)
        ]

    def _offer(self, pool, lanes: list[_Lane], block: _Block) -> None:
        list(pool.map(lambda lane: self._offer_lane(lane, block), lanes))

    def _offer_lane(self, lane: _Lane, block: _Block) -> None:
        import torch

        scratch = torch.empty(TILE_QUERIES * TILE_DOCUMENTS, device=self.device)
        tiles = list(_slices(len(block.norms), TILE_DOCUMENTS))[lane.stripe :: lane.stripes]
        queries = None
        if block.codes is not None and tiles:
            queries = _CodedQueries(self.vectors[lane.rows], block.codes)
        for tile in tiles:
            for part in _slices(lane.rows.stop - lane.rows.start, TILE_QUERIES):
                done = 0
                if queries is not None:
                    done = self._offer_codes(lane, block, tile, queries, part, scratch)
                start = lane.rows.start + part.start + done
                rows = slice(start, lane.rows.start + part.stop)
                if start < rows.stop:
                    self._offer_products(lane.candidates, block, tile, rows, scratch)

    def _offer_products(self, candidates, block: _Block, tile: slice, rows: slice, scratch) -> None:
        """Float32 products of queries `rows` and a tile of documents."""
        import torch

        scores = _shaped(scratch, rows.stop - rows.start, tile.stop - tile.start)
        torch.mm(self.tensor[rows], block.tensor[tile].T, out=scores)
        error = self.bound(rows, float(block.norms[tile].max()))
        candidates.offer(scores, block.first + tile.start, error, rows)

    def _offer_codes(self, lane: _Lane, block, tile, queries: _CodedQueries, part, scratch) -> int:
        """Integer products of codes; returns how many queries of `part` were worth it.

        A hit costs an exact score, so codes pay only while few documents are hits: not at the
        start, and not where all scores are alike. Then float32 takes over, for ever more tiles.
        """
        import torch

        if lane.pause:
            lane.pause -= 1
            return 0
        count, columns = part.stop - part.start, tile.stop - tile.start
        products = _shaped(scratch.view(torch.int32), count, columns)
        torch._int_mm(queries.tensor[part], block.codes.tensor[tile].T, out=products)
        error = queries.error(
            part, float(block.codes.size[tile].max()), float(block.codes.residue[tile].max())
        )
        rows = slice(lane.rows.start + part.start, lane.rows.start + part.stop)
        done = lane.candidates.offer_codes(
            products,
            queries.unit[part],
            queries.shift[part],
            error,
            self.vectors[rows],
            block.vectors[tile],
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

    def exact(self, part: slice) -> tuple[np.ndarray, np.ndarray]:
        """Exact scores float64[m, w] and documents int64[m, w] of queries `part`, in no order.

        They hold at least the best `reach` of this rank's documents; -inf and -1 fill up.
        """
        lost = np.zeros(part.stop - part.start, bool)
        for sheet in self.sheets:
            lost |= np.asarray(_host(sheet.lost[part]))
        places = np.concatenate([sheet.places(part) for sheet in self.sheets], axis=1)
        places[lost] = -1
        scores = self._score_candidates(part, places)
        docs = np.where(places < 0, -1, self.documents.order[places])
        if not lost.any():
            return scores, docs
        full_scores, full_docs = self._search_in_full(self.vectors[part][lost])
        extra = ((0, 0), (0, max(0, full_docs.shape[1] - docs.shape[1])))
        scores = np.pad(scores, extra, constant_values=-np.inf)
        docs = np.pad(docs, extra, constant_values=-1)
        scores[lost, : full_docs.shape[1]], docs[lost, : full_docs.shape[1]] = (
            full_scores,
            full_docs,
        )
        return scores, docs

    def _score_candidates(self, part: slice, places: np.ndarray) -> np.ndarray:
        """float64, shaped as `places`: exact scores, -inf where the place is -1."""
        scores = np.full(places.size, -np.inf)
        # In storage order, so that every vector is read once and the reads go forward.
        pairs = np.argsort(places, axis=None, kind="stable")
        sorted_places = places.ravel()[pairs]
        start = int(np.searchsorted(sorted_places, 0))
        pairs, sorted_places = pairs[start:], sorted_places[start:]
        if not len(pairs):
            return scores.reshape(places.shape)
        is_new = np.diff(sorted_places, prepend=-1) > 0
        distinct, ordinal = sorted_places[is_new], np.cumsum(is_new) - 1
        query_of = pairs // places.shape[1]
        for some in _slices(len(distinct), default_block_rows(self.documents.dim)):
            vectors = self.documents.take(self.documents.order[distinct[some]])
            lo, hi = np.searchsorted(ordinal, [some.start, some.stop])
            scores[pairs[lo:hi]] = _score_pairs(
                self.vectors[part], vectors, query_of[lo:hi], ordinal[lo:hi] - some.start
            )
        return scores.reshape(places.shape)

    def _search_in_full(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best `reach` of this rank's documents for each query, by exact scores alone."""
        chunks = _slices(len(vectors), max(1, PAIR_BUDGET // (self.reach + TILE_DOCUMENTS)))
        best = [self._search_some_in_full(vectors[chunk]) for chunk in chunks]
        return tuple(np.concatenate(part) for part in zip(*best, strict=True))

    def _search_some_in_full(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ids, count = self.documents.ids, len(vectors)
        best = np.full((count, 0), -np.inf), np.full((count, 0), -1, np.int64)
        for number in self.blocks:
            first = number * self.block_rows
            stop = min(first + self.block_rows, len(self.documents))
            for tile in _slices(stop - first, TILE_DOCUMENTS):
                docs = self.documents.order[first + tile.start : first + tile.stop]
                scores = np.concatenate(
                    [best[0], _score_all(vectors, self.documents.take(docs))], axis=1
                )
                docs = np.concatenate([best[1], np.broadcast_to(docs, (count, len(docs)))], axis=1)
                best = _ordered(scores, docs, self.reach, ids)
        return best


class _Bound:
    """How far a float32 product may be from the exact one; docs/search.md derives it."""

    UNIT = 2.0**-24  # half the distance from 1 to the next float32
    TINY = 2.0**-126  # smallest normal float32: what flushing to zero may lose

    def __init__(self, query_norms: np.ndarray, dim: int):
        self.dim = dim
        # 8 more roundings: the ends of the interval, the threshold and their comparison.
        n = (dim + 8) * self.UNIT
        self.gamma = n / (1 - n) if n < 0.5 else np.inf
        self.query_norms = self._above(query_norms.astype(np.float64))

    def _above(self, norms):
        """At least the true norm of a vector whose norm was computed in float32."""
        return norms * (1 + self.gamma) + np.sqrt(self.dim * self.TINY)

    def __call__(self, rows: slice, largest: float) -> np.ndarray:
        """float32[m]: the error of queries `rows` against documents of at most this norm."""
        norms, largest = self.query_norms[rows], self._above(largest)
        size = norms * largest
        error = self.gamma * size
        error += self.TINY * (2 * self.dim + 8 + np.sqrt(self.dim) * (norms + largest))
        error[~(size < 2.0**126)] = np.inf  # a partial sum may overflow
        return error.astype(np.float32)


@contextmanager
def _one_thread_each():
    """Torch with one thread per caller, as our own threads share the work. Gives their number."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def _shaped(scratch, rows: int, columns: int):
    return scratch[: rows * columns].view(rows, columns)


def _host(array):
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


def _score_pairs(queries, documents, query_of, document_of) -> np.ndarray:
    """float64[p]: `rescore` of queries[query_of] and documents[document_of]."""
    out = np.empty(len(query_of))
    if (kernels := _kernels()) is not None:
        kernels.rescore_pairs(queries, documents, query_of, document_of, out)
        return out
    for some in _slices(len(out), 4096):
        out[some] = rescore(queries[query_of[some]], documents[document_of[some]])
    return out


def _score_all(queries, documents) -> np.ndarray:
    """float64[m, n]: `rescore` of every query with every document."""
    out = np.empty((len(queries), len(documents)))
    if (kernels := _kernels()) is not None:
        kernels.rescore_all(queries, documents, out)
        return out
    for row, query in zip(out, queries, strict=True):
        for some in _slices(len(documents), 4096):
            row[some] = rescore(query, documents[some])
    return out


def _ordered(scores, docs, depth: int, ids) -> tuple[np.ndarray, np.ndarray]:
    """The best `depth` of each row: score descending, equal scores by id descending."""
    if not scores.shape[1]:
        return scores, docs
    order = np.argsort(-scores, axis=1)
    scores = np.take_along_axis(scores, order, axis=1)
    docs = np.take_along_axis(docs, order, axis=1)
    last = scores[:, min(depth, scores.shape[1]) - 1, None]  # ties behind it do not matter
    equal = (scores[:, 1:] == scores[:, :-1]) & (scores[:, 1:] >= last) & (docs[:, 1:] >= 0)
    if equal.any():
        tied = np.zeros(scores.shape, bool)
        tied[:, 1:] |= equal
        tied[:, :-1] |= equal
        row, column = np.nonzero(tied)
        rank = _id_ranks(ids, docs[row, column])
        docs[row, column] = docs[row, column][np.lexsort((-rank, -scores[row, column], row))]
    return scores[:, :depth], docs[:, :depth]


def _id_ranks(ids, docs: np.ndarray) -> np.ndarray:
    """int64, shaped as docs: where each document's id stands among these, by UTF-8 bytes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    distinct, inverse = np.unique(docs, return_inverse=True)
    chunks = ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]
    ends = np.cumsum([len(chunk) for chunk in chunks])
    cuts = np.searchsorted(distinct, ends)
    pieces = []  # chunk by chunk: taking from a chunked array may copy all of it
    for chunk, end, stop, start in zip(chunks, ends, cuts, [0, *cuts[:-1]], strict=True):
        if start < stop:
            pieces.append(chunk.take(pa.array(distinct[start:stop] - (end - len(chunk)))))
    order = pc.sort_indices(pa.chunked_array(pieces)).to_numpy()
    rank = np.empty(len(distinct), np.int64)
    rank[order] = np.arange(len(distinct))
    return rank[inverse]


def _gathered(comm: Comm, scores: np.ndarray, docs: np.ndarray):
    """On rank 0 the rows of all ranks side by side, None elsewhere."""
    packed = comm.gather(np.concatenate([scores.view(np.int64).T, docs.T]))
    if packed is None:
        return None
    halves = [np.split(array.T, 2, axis=1) for array in packed]
    scores = np.concatenate([np.ascontiguousarray(s).view(np.float64) for s, _ in halves], axis=1)
    return scores, np.concatenate([d for _, d in halves], axis=1)


def _packed(first: int, scores: np.ndarray, docs: np.ndarray) -> TopK:
    used = docs >= 0
    offsets = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
    return TopK(first, offsets, docs[used], scores[used])
