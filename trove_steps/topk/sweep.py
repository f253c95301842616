"""The fast pass of the search: which documents may be among the best of a query.

Blocks of documents meet a tile of queries in products of tiles, which `trove_steps.topk.products` bounds;
`trove_steps.topk.candidates` keeps what can be among the best, and `trove_steps.topk.search` scores and
orders it exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from threading import Lock, local

import numpy as np

from trove_steps.errors import TroveStepsError
from trove_steps.topk import candidates
from trove_steps.topk.candidates import Candidates, TorchCandidates, capacity, slices
from trove_steps.topk.products import (
    Bound,
    CodedQueries,
    Codes,
    Factor,
    multiply,
    one_thread_each,
    writable,
)

TILE_DOCUMENTS = 4096  # of one task of a thread; they share one bound of their errors
# Queries and documents of one product. On a CPU its scores stay in the cache (8 MiB); the product of codes
# slows down where it leaves the inner cache; on a GPU it is 256 MiB.
PRODUCT = 1024, 2048
CODE_PRODUCT = 512, 512
GPU_PRODUCT = 2048, 32_768
HITS_THAT_PAY = 0.02  # a product of two vectors costs as much as about 50 inside a product of tiles
QUERIES_THAT_PAY = 64  # making the codes of a document costs as much as about 50 float32 products
LARGEST_CODED_NORM = 1e15  # beyond it float32 arithmetic on codes could overflow


def require_finite(vectors: np.ndarray, rows: np.ndarray, ids, what: str) -> None:
    """Raise an error that names the first of these rows with NaN or infinity in its vector."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise TroveStepsError(
            f"the vector of {what} {ids[int(rows[bad[0]])].as_py()!r} has NaN or infinity in it "
            f"({len(bad)} such {what} vectors in this block); the encoder or an imported file made "
            "it: check the model's dtype"
        )


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
    is proven, where there are kernels for it.
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
        self.bold = bold
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

    @property
    def missed(self) -> np.ndarray:
        """bool[m]: for which queries a bold floor was too high; they were searched again."""
        return self.candidates.missed

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
        compiled = on_cpu and candidates.kernels() is not None
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
