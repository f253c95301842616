"""Exhaustive search side by side with its peers: time relative to the bare matrix product, memory.

    python benchmarks/search.py --quick
    python benchmarks/search.py --documents 1000000 --queries 1000 --depths 100 1000 --repeats 5
    python benchmarks/search.py --device cuda --peak-tflops 989 --dim 768

Every method finds the `depth` best of the same memory-mapped float32 vectors for the same queries;
rounds take the methods in turn, so that noise of the machine hits all alike, and the figures are
medians over the rounds. Ratios (× bare product, × FAISS at its best setting, × Trove's result heap at
its recommended batch) are medians of the ratios within a round; below 1 is faster. CPU seconds stay
comparable on a busy machine. Memory is the peak of anonymous pages beyond those before the call; the
time to fill an index is not counted, its memory is. Peers that are not installed are left out; Trove's
heap is then done after its description. `--store` also searches real shards, written in random order.
`--many-queries` measures memory alone, for a training set of 500,000 queries.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from trove_steps.embeddings.collection import write_collection
from trove_steps.embeddings.store import Store
from trove_steps.embeddings.vectors import Vectors, as_slice
from trove_steps.topk.search import search

SLICE = 100_000  # documents made at once
SHARD = 20_000  # rows of a shard
RECOMMENDED, DEFAULT = 40_960, 256  # documents of a batch in Trove
FASTER = 8192  # where its heap is often quicker still
PEERS = {
    "bare": "bare product",
    "FAISS": "FAISS",
    "Trove": f"Trove's heap, batch {RECOMMENDED:,}",
}


class MemoryMapped:
    """Vectors in an .npy file, as the search wants them."""

    def __init__(self, path: Path):
        self.array = np.load(path, mmap_mode="r")
        self.dim = self.array.shape[1]
        self.order = np.arange(len(self.array))
        self.ids = pa.array(self.order).cast(pa.string())

    def __len__(self) -> int:
        return len(self.array)

    def take(self, indices: np.ndarray) -> np.ndarray:
        return self.array[as_slice(indices)]


@dataclass(frozen=True)
class Data:
    """What is searched: `stored` are the documents again, in shards, if they are wanted there."""

    queries: MemoryMapped
    documents: MemoryMapped
    device: str
    stored: Vectors | None = None

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the queries on the device, and the documents where they are."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are read-only, and nobody writes to them
            queries = torch.from_numpy(np.ascontiguousarray(self.queries.array))
            return queries.to(self.device), torch.from_numpy(self.documents.array)

    def finish(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()


Method = Callable[[Data, int], Callable[[], object]]  # prepares, and returns what is timed


def make_vectors(path: Path, rows: int, dim: int, seed: int) -> MemoryMapped:
    """Unit vectors with a common mean and a falling spectrum in no basis of its own, as encoders give."""
    chance = np.random.default_rng(0)
    basis = np.linalg.qr(chance.standard_normal((dim, dim)))[0]
    spread = (basis / np.sqrt(10 + np.arange(dim))).T.astype(np.float32)
    mean = (chance.standard_normal(dim) @ spread / 2).astype(np.float32)
    array = np.lib.format.open_memmap(path, "w+", np.float32, (rows, dim))
    generator = np.random.default_rng(seed)
    for start in range(0, rows, SLICE):
        part = array[start : start + SLICE]
        part[:] = generator.standard_normal(part.shape, np.float32) @ spread + mean
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    array.flush()
    return MemoryMapped(path)


def store_vectors(cache: Path, vectors: MemoryMapped) -> Vectors:
    """Keep vectors in a store as an encoder would that takes the texts in another order."""
    chance = np.random.default_rng(4)
    store = Store(cache, "e" * 32)
    keys = np.frombuffer(chance.bytes(16 * len(vectors)), np.uint8).reshape(-1, 16)
    order = chance.permutation(len(vectors))
    for start in range(0, len(vectors), SHARD):
        part = order[start : start + SHARD]
        store.write(keys[part], vectors.array[part])
    ids = pa.chunked_array([vectors.ids])
    return Vectors(write_collection(store, "corpus", "7" * 32, ids, keys, store.find(keys), {}))


def bare_product(data: Data, depth: int):
    """The float32 product alone, in tiles that stay in a CPU's cache; nothing is selected."""
    queries, documents = data.tensors()
    size = 8192 if data.device == "cpu" else 131_072
    out = torch.empty(len(queries), size, device=data.device)

    def run():
        for start in range(0, len(documents), size):
            part = documents[start : start + size].to(data.device)
            torch.mm(queries, part.T, out=out[:, : len(part)])
        data.finish()

    return run


def ours(candidate_pass: str, shards: bool = False) -> Method:
    def prepare(data, depth):
        documents = data.stored if shards else data.documents

        def run():
            for tile in search(
                data.queries, documents, depth, device=data.device, candidate_pass=candidate_pass
            ):
                assert len(tile.docs) == (len(tile.offsets) - 1) * min(depth, len(documents))

        return run

    return prepare


def heap(batch: int) -> Method:
    """Trove's result heap: the best of each batch, merged with the best so far."""

    def prepare(data, depth):
        queries, documents = data.tensors()

        def run():
            best = torch.empty(len(queries), 0, device=data.device)
            place = torch.empty(len(queries), 0, dtype=torch.int64, device=data.device)
            for start in range(0, len(documents), batch):
                scores = queries @ documents[start : start + batch].to(data.device).T
                new, chosen = scores.topk(min(depth, scores.shape[1]), dim=1)
                best, place = torch.cat([best, new], 1), torch.cat([place, chosen + start], 1)
                best, chosen = best.topk(min(depth, best.shape[1]), dim=1)
                place = place.gather(1, chosen)
            data.finish()

        return run

    return prepare


def trove_heap(batch: int) -> Method:
    """The same by Trove itself."""

    def prepare(data, depth):
        from trove.containers.result_heapq_fast import FastResultHeapq

        queries, documents = data.tensors()
        query_ids, doc_ids = data.queries.ids.to_pylist(), data.documents.ids.to_pylist()

        def run():
            collector = FastResultHeapq(depth)
            for start in range(0, len(documents), batch):
                scores = queries @ documents[start : start + batch].to(data.device).T
                collector(scores, query_ids, doc_ids[start : start + batch], True)
            collector.update_topk_records()
            data.finish()

        return run

    return prepare


def semantic_search(data: Data, depth: int):
    from sentence_transformers.util import semantic_search

    queries, documents = data.tensors()
    return lambda: semantic_search(queries, documents.to(data.device), top_k=depth)


def faiss_function(threads: int) -> Method:
    def prepare(data, depth):
        import faiss

        queries, documents = np.ascontiguousarray(data.queries.array), data.documents.array

        def run():
            faiss.omp_set_num_threads(threads)
            faiss.knn(queries, documents, depth, metric=faiss.METRIC_INNER_PRODUCT)

        return run

    return prepare


def faiss_index(threads: int) -> Method:
    def prepare(data, depth):
        import faiss

        index = faiss.IndexFlatIP(data.documents.dim)
        index.add(data.documents.array)
        queries = np.ascontiguousarray(data.queries.array)

        def run():
            faiss.omp_set_num_threads(threads)
            index.search(queries, depth)

        return run

    return prepare


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def methods(threads: int, device: str, shards: bool) -> dict[str, Method]:
    """Return the methods by name, the bare product first."""
    passes = ("float32", *(("int8",) if device == "cpu" else ()), "bfloat16", "auto")
    found = {"bare product": bare_product}
    found |= {f"trove-steps {name}": ours(name) for name in passes}
    if shards:
        found |= {f"trove-steps {name}, shards": ours(name, True) for name in passes}
    batches = RECOMMENDED, FASTER, DEFAULT
    by_trove = trove_heap if is_installed("trove") else heap
    found |= {f"Trove's heap, batch {size:,}": by_trove(size) for size in batches}
    if is_installed("sentence_transformers"):
        found["sentence-transformers"] = semantic_search
    if is_installed("faiss") and device == "cpu":
        for number in sorted({1, threads}):
            found[f"FAISS knn, {number} threads"] = faiss_function(number)
            found[f"FAISS IndexFlatIP, {number} threads"] = faiss_index(number)
    return found


class PeakMemory:
    """The most anonymous memory of this process inside a `with`, in MiB beyond that before it."""

    def __enter__(self):
        self.before = self.most = self._now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self.mib = (self.most - self.before) / 1024

    def _watch(self):
        while not self._stop.wait(0.01):
            self.most = max(self.most, self._now())

    @staticmethod
    def _now() -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1])
        return 0


def measure(data: Data, depth: int, repeats: int, chosen: dict[str, Method]) -> list[dict]:
    """One row per method: median seconds, ratios to the peers, GFLOP/s, peak memory."""
    seconds, processor = ({name: [] for name in chosen} for _ in range(2))
    memory = dict.fromkeys(chosen, 0.0)
    for _ in range(repeats):
        for name, prepare in chosen.items():
            with PeakMemory() as peak:
                run = prepare(data, depth)
                started, before = time.perf_counter(), time.process_time()
                run()
                processor[name].append(time.process_time() - before)
                seconds[name].append(time.perf_counter() - started)
                del run
            memory[name] = max(memory[name], peak.mib)
    operations = 2 * len(data.queries) * len(data.documents) * data.documents.dim
    return [
        {
            "method": name,
            "depth": depth,
            "seconds": statistics.median(times),
            "ratios": {peer: ratio(seconds, name, prefix) for peer, prefix in PEERS.items()},
            "cpu_ratio": ratio(processor, name, PEERS["bare"]),
            "gflops": operations / statistics.median(times) / 1e9,
            "memory_mib": memory[name],
        }
        for name, times in seconds.items()
    ]


def ratio(times: dict[str, list[float]], name: str, prefix: str) -> float:
    """Median over rounds of a method's time relative to the fastest one whose name begins so."""
    peers = [times[peer] for peer in times if peer.startswith(prefix)]
    if not peers:
        return float("nan")
    best = min(peers, key=statistics.median)
    return statistics.median(t / b for t, b in zip(times[name], best, strict=True))


def show(rows: list[dict], peak_tflops: float | None) -> None:
    peers = "".join(f"{'× ' + peer:>8}" for peer in PEERS)
    share = "  of peak" if peak_tflops else ""
    print(
        f"{'method':34}{'depth':>6}{'seconds':>9}{peers}{'CPU ×':>7}{'GFLOP/s':>9}{share}{'MiB':>7}"
    )
    for row in rows:
        ratios = "".join(f"{value:8.2f}" for value in row["ratios"].values())
        share = f"{row['gflops'] / peak_tflops / 1000:9.1%}" if peak_tflops else ""
        print(
            f"{row['method']:34}{row['depth']:6}{row['seconds']:9.3f}{ratios}"
            f"{row['cpu_ratio']:7.2f}{row['gflops']:9.0f}{share}{row['memory_mib']:7.0f}"
        )
    print(flush=True)


def machine(threads: int, device: str, peak_tflops: float | None) -> dict:
    """Say where and with what the figures were measured."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    libraries = ("numpy", "torch", "numba", "faiss-cpu", "sentence-transformers", "trove")
    found = {}
    for name in libraries:
        if is_installed(name.removesuffix("-cpu").replace("-", "_")):
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = "unknown"
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": os.getloadavg()[0],
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
        "gemm_gflops": product_rate(device),
        "peak_tflops": peak_tflops,
        "libraries": found,
    }


def product_rate(device: str, size: int = 2048) -> float:
    """GFLOP/s of a square float32 matrix product, the best of five."""
    left, right = torch.randn(2, size, size, device=device)
    times = []
    for _ in range(6):
        started = time.perf_counter()
        float((left @ right)[0, 0])  # waits for a GPU
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times[1:]) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--depths", type=int, nargs="+", default=[100])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 …")
    parser.add_argument("--peak-tflops", type=float, help="the chip's rate, for the share reached")
    parser.add_argument("--only", nargs="+", default=[""], help="methods whose name has this in it")
    parser.add_argument("--quick", action="store_true", help="50,000 documents, 500 queries")
    parser.add_argument("--store", action="store_true", help="search real shards, too")
    parser.add_argument("--many-queries", action="store_true", help="500,000 queries: memory alone")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.documents, arguments.queries = 50_000, 500
    torch.set_num_threads(arguments.threads)
    known = methods(arguments.threads, arguments.device, arguments.store)
    chosen = {
        name: method
        for name, method in known.items()
        if name == "bare product" or any(part in name for part in arguments.only)
    }
    if arguments.many_queries:
        arguments.queries, arguments.repeats = 500_000, 1
        chosen = {"trove-steps auto": ours("auto")}
    where = machine(arguments.threads, arguments.device, arguments.peak_tflops)
    print(json.dumps(where), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def make(what: str, count: int, seed: int) -> MemoryMapped:
            return make_vectors(folder / f"{what}.npy", count, arguments.dim, seed)

        def stored(vectors: MemoryMapped, cache: str) -> Vectors | None:
            return store_vectors(folder / cache, vectors) if arguments.store else None

        documents, small = make("documents", arguments.documents, 1), make("small", 5000, 3)
        queries = make("queries", arguments.queries, 2)
        warm = Data(small, small, arguments.device, stored(small, "small"))
        data = Data(queries, documents, arguments.device, stored(documents, "cache"))
        for depth in arguments.depths:
            measure(warm, depth, 1, chosen)  # compiles, and warms the libraries up
            rows += measure(data, depth, arguments.repeats, chosen)
            show([row for row in rows if row["depth"] == depth], arguments.peak_tflops)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": where, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
