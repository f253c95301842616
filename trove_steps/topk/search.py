"""Exact top-k search by dot product, reproducible to the byte and bounded in memory.

Two passes. *Candidates* (`trove_steps.topk.sweep`): fast products of tiles, from which only
the documents are kept that can be among the best. *Certificate*: these few are scored again by
`rescore`, whose bits depend on nothing but the two vectors, and ordered by score, then document id,
both descending. A query that keeps too many (ties, overflow) is searched again by `rescore` alone.

Cosine similarity is the dot product of vectors that the caller has normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from trove_steps.errors import TroveStepsError
from trove_steps.topk import candidates
from trove_steps.topk.candidates import BOLD_REACH, capacity, slices
from trove_steps.topk.passes import choose_pass
from trove_steps.topk.products import writable
from trove_steps.topk.sweep import TILE_DOCUMENTS, Sweep, require_finite

PAIR_BYTES = 12  # of a candidate: its interval and its place
SHARE_TO_READ_ALL = 0.25  # candidates per document from which on all documents of a block are read
LEAST_ROWS = 1024  # of such a block, however many threads share the memory
BLOCK_BYTES = 32 * 2**20  # document vectors of one block; two are held, one is being read


class Vectors(Protocol):
    """Rows of float32 vectors with ids, in text order; `trove_steps.embeddings.vectors` has the real one."""

    dim: int
    ids: object  # pyarrow string array, plain or chunked
    order: np.ndarray  # int32[n] or int64[n], text indices in storage order

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray) -> np.ndarray:
        """float32[m, dim], the vectors of these text indices. Threads may call it at the same time."""


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


def default_query_rows(reach: int, dim: int, chosen: str, device: str = "cpu") -> int:
    """Queries of one sweep over the corpus: they and their candidates fit the memory budget."""
    pairs = candidates.PAIR_BUDGET
    if device != "cpu":  # where a document that was copied must meet many queries to be worth it
        pairs = max(pairs, _device_share(device) // PAIR_BYTES)
    return max(1, min(pairs // capacity(reach, chosen), 4 * BLOCK_BYTES // (4 * dim)))


def default_block_rows(dim: int, device: str = "cpu") -> int:
    """Documents of one block, the unit that a rank claims and reads."""
    size = BLOCK_BYTES
    if device != "cpu":
        size = max(size, min(2**30, _device_share(device)))
    rows = size // (4 * dim)
    return max(1, rows // TILE_DOCUMENTS * TILE_DOCUMENTS or rows)


def _device_share(device: str) -> int:
    """Bytes of a GPU's memory that one kind of thing may take: a sixteenth of what is free."""
    import torch

    return torch.cuda.mem_get_info(device)[0] // 16


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

    `block_rows`: documents that a rank claims and reads at once. `query_rows`: queries of one sweep
    over the corpus. Of both, None or 0 takes what fits the memory budget. `exclude`:
    int64[len(queries)], the document that a query must never get, -1 for none. `progress`: called
    with the (query, document) pairs that all ranks have begun so far.
    `candidate_pass`: "float32", "bfloat16" or "int8", which differ in speed alone. "auto" takes the
    one that a short trial on this CPU predicts to be fastest, bfloat16 on a GPU whose products of it
    keep float32 sums, else float32; it goes on in float32 once bfloat16 lost most queries of a sweep.
    Raises TroveStepsError for vectors that do not match or are not finite.
    """
    if depth < 1:
        raise TroveStepsError(f"search depth is {depth}; it must be at least 1")
    for name, rows in (("block_rows", block_rows), ("query_rows", query_rows)):
        if rows is not None and rows < 0:
            raise TroveStepsError(
                f"{name} is {rows}; it must be at least 1 (0: what suits the memory)"
            )
    if len(queries) and len(documents) and queries.dim != documents.dim:
        raise TroveStepsError(
            f"queries have {queries.dim} dimensions and documents {documents.dim}; "
            "encode both with one model"
        )
    comm = comm or SoloComm()
    depth = min(depth, max(1, len(documents)))
    # An excluded document may occupy one of the first places until it is dropped.
    reach = depth + (exclude is not None)
    chosen = choose_pass(candidate_pass, device, queries, documents, reach)
    block_rows = block_rows or default_block_rows(documents.dim, device)
    query_rows = query_rows or default_query_rows(reach, documents.dim, chosen, device)
    # Scoring and merging in slices bounds what a rank holds, and what rank 0 holds of all ranks.
    part_rows = max(1, candidates.PAIR_BUDGET // (capacity(reach, chosen) * comm.world))
    bold = reach >= BOLD_REACH
    for rows in slices(len(queries), query_rows):
        numbers = np.arange(rows.start, rows.stop)
        vectors = np.ascontiguousarray(queries.take(numbers), dtype=np.float32)
        require_finite(vectors, numbers, queries.ids, "query")
        sweep = Sweep(vectors, documents, reach, block_rows, device, chosen, bold)
        for begun in sweep.run(_claims(comm, f"search.{rows.start}", len(documents), block_rows)):
            if progress is not None:
                progress(rows.start * len(documents) + len(vectors) * begun)
        for part in slices(len(vectors), part_rows):
            scores, docs = _scored(sweep, part)
            if exclude is not None:
                hit = docs == np.asarray(exclude)[rows][part, None]
                scores[hit], docs[hit] = -np.inf, -1
            gathered = _gathered(comm, *_ordered(scores, docs, depth, documents.ids))
            if gathered is not None:
                first = rows.start + part.start
                yield _packed(first, *_ordered(*gathered, depth, documents.ids))
        bold &= sweep.missed.mean() <= 0.5
        if candidate_pass == "auto" and sweep.chosen == "bfloat16" and sweep.lost().mean() > 0.5:
            chosen = "float32"


def _claims(comm: Comm, name: str, count: int, block_rows: int) -> Iterator[int]:
    """Block numbers that fall to this rank, until all blocks are taken."""
    blocks = -(-count // block_rows)
    while (number := comm.claim(name)) < blocks:
        yield number


def _scored(sweep: Sweep, part: slice) -> tuple[np.ndarray, np.ndarray]:
    """Exact scores float64[m, w] and documents int64[m, w] of queries `part`, in no order.

    They hold at least the best `sweep.reach` of this rank's documents; -inf and -1 fill up.
    """
    places, vectors, lost = sweep.places(part), sweep.vectors[part], sweep.lost(part)
    places[lost] = -1
    scores = _score_candidates(vectors, places, sweep.documents)
    docs = np.full(places.shape, -1, np.int64)
    docs[places >= 0] = sweep.documents.order[places[places >= 0]]
    if not lost.any():
        return scores, docs
    if sweep.chosen == "bfloat16":
        before = int(sweep.lost(slice(0, part.start)).sum())
        more_scores, more_docs = _scored(sweep.finer, slice(before, before + int(lost.sum())))
    else:
        more_scores, more_docs = _search_in_full(vectors[lost], sweep)
    extra = ((0, 0), (0, max(0, more_docs.shape[1] - docs.shape[1])))
    scores = np.pad(scores, extra, constant_values=-np.inf)
    docs = np.pad(docs, extra, constant_values=-1)
    scores[lost, : more_docs.shape[1]], docs[lost, : more_docs.shape[1]] = more_scores, more_docs
    return scores, docs


def _score_candidates(vectors: np.ndarray, places: np.ndarray, documents: Vectors) -> np.ndarray:
    """float64, shaped as `places`: exact scores, -inf where the place is -1.

    Each thread scores the candidates of some documents that are stored together, with one read.
    """
    import torch

    scores, flat = np.full(places.size, -np.inf), places.ravel()
    threads = torch.get_num_threads()
    rows = max(LEAST_ROWS, default_block_rows(documents.dim) // threads)
    blocks = -(-len(documents) // rows)
    block = flat // rows  # -1 stays -1
    # Numbers of 16 bits are sorted in linear time.
    by_block = np.argsort(block.astype(np.int16 if blocks < 2**15 else np.int64), kind="stable")
    cuts = np.searchsorted(block, np.arange(blocks + 1), sorter=by_block)

    def score(number: int) -> None:
        pairs = by_block[cuts[number] : cuts[number + 1]]
        pairs = pairs[np.argsort(flat[pairs])]  # a document comes to the processor once
        chosen, first = flat[pairs], number * rows
        stored = np.arange(first, min(first + rows, len(documents)))
        if len(pairs) < len(stored) * SHARE_TO_READ_ALL:
            stored, document_of = np.unique(chosen, return_inverse=True)
        else:
            document_of = chosen - first
        read = writable(documents.take(documents.order[stored]))
        scores[pairs] = score_pairs(vectors, read, pairs // places.shape[1], document_of)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(score, np.flatnonzero(np.diff(cuts)).tolist()))
    return scores.reshape(places.shape)


def _search_in_full(vectors: np.ndarray, sweep: Sweep) -> tuple[np.ndarray, np.ndarray]:
    """The best `sweep.reach` of the sweep's documents for each query, by exact scores alone."""
    import torch

    documents, reach, threads = sweep.documents, sweep.reach, torch.get_num_threads()

    def improve(best, part, docs, read):
        scores = score_all(vectors[part], read)
        scores = np.concatenate([best[0], scores], axis=1)
        docs = np.concatenate([best[1], np.broadcast_to(docs, (len(scores), len(docs)))], axis=1)
        return _ordered(scores, docs, reach, documents.ids)

    size = -(-len(vectors) // threads)
    size = max(1, min(size, candidates.PAIR_BUDGET // (reach + TILE_DOCUMENTS) // threads))
    parts = list(slices(len(vectors), size))
    found = []
    with ThreadPoolExecutor(threads) as pool:
        for group in slices(len(parts), threads):  # each reads the documents once
            some = parts[group]
            sizes = [part.stop - part.start for part in some]
            best = [(np.empty((m, 0)), np.empty((m, 0), np.int64)) for m in sizes]
            for number in sweep.blocks:
                first = number * sweep.block_rows
                for tile in slices(min(sweep.block_rows, len(documents) - first), TILE_DOCUMENTS):
                    docs = documents.order[first + tile.start : first + tile.stop]
                    read = writable(documents.take(docs))
                    repeated = [docs] * len(some), [read] * len(some)
                    best = list(pool.map(improve, best, some, *repeated))
            found += best
    return np.concatenate([s for s, _ in found]), np.concatenate([d for _, d in found])


def score_pairs(queries, documents, query_of, document_of) -> np.ndarray:
    """float64[p]: `rescore` of queries[query_of] and documents[document_of]."""
    out = np.empty(len(query_of))
    if (kernels := candidates.kernels()) is not None:
        kernels.rescore_pairs(queries, documents, query_of, document_of, out)
        return out
    for some in slices(len(out), 4096):
        out[some] = rescore(queries[query_of[some]], documents[document_of[some]])
    return out


def score_all(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """float64[m, n]: `rescore` of every query with every document."""
    out = np.empty((len(queries), len(documents)))
    if (kernels := candidates.kernels()) is not None:
        kernels.rescore_all(queries, documents, out)
        return out
    for row, query in zip(out, queries, strict=True):
        for some in slices(len(documents), 4096):
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
