"""Exhaustive search side by side with its peers: time relative to the bare matrix product, memory.

    python benchmarks/search.py --quick
    python benchmarks/search.py --documents 1000000 --queries 1000 --depths 100 1000 --repeats 5

Every method finds the `depth` best of the same memory-mapped float32 vectors for the same queries;
rounds take the methods in turn, so that noise of the machine hits all alike, and the figures are
medians over the rounds. CPU seconds stay comparable on a busy machine. Memory is the peak of
anonymous pages beyond those before the call. Peers that are not installed are left out.
`--many-queries` measures memory alone, for a training set of 500,000 queries.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from trove_steps.topk import search

SLICE = 100_000  # documents made at once


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
        return self.array[indices]


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


def as_tensors(*arrays):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are read-only, and nobody writes to them
        return [torch.from_numpy(array) for array in arrays]


def bare_product(queries, documents, depth):
    """The float32 product alone, in tiles that stay in cache; nothing is selected."""
    q, d = as_tensors(queries, documents)
    out = torch.empty(len(q), 8192)
    for start in range(0, len(d), 8192):
        part = d[start : start + 8192]
        torch.mm(q, part.T, out=out[:, : len(part)])


def ours(candidate_pass):
    def run(queries, documents, depth):
        for tile in search(queries, documents, depth, candidate_pass=candidate_pass):
            assert len(tile.docs) == (len(tile.offsets) - 1) * min(depth, len(documents))

    return run


def running_topk(batch):
    """torch.topk of each batch, merged with the best so far: what Trove's fast result heap does."""

    def run(queries, documents, depth):
        q, d = as_tensors(queries, documents)
        best = torch.empty(len(q), 0)
        place = torch.empty(len(q), 0, dtype=torch.int64)
        for start in range(0, len(d), batch):
            part = d[start : start + batch]
            scores = torch.cat([best, q @ part.T], 1)
            places = torch.arange(start, start + len(part)).expand(len(q), -1)
            best, chosen = scores.topk(min(depth, scores.shape[1]), dim=1)
            place = torch.cat([place, places], 1).gather(1, chosen)

    return run


def semantic_search(queries, documents, depth):
    from sentence_transformers.util import semantic_search

    semantic_search(*as_tensors(queries, documents), top_k=depth)


def faiss_flat(threads):
    def run(queries, documents, depth):
        import faiss

        faiss.omp_set_num_threads(threads)
        faiss.knn(queries, documents, depth, metric=faiss.METRIC_INNER_PRODUCT)

    return run


def is_installed(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def methods(threads: int) -> dict:
    """Name → (function, whether it takes `Vectors`). The bare product comes first."""
    found = {
        "bare product": (bare_product, False),
        "trove-steps float32": (ours("float32"), True),
        "trove-steps int8": (ours("int8"), True),
        "trove-steps auto": (ours("auto"), True),
        "running topk, batch 8192": (running_topk(8192), False),
        "running topk, batch 256": (running_topk(256), False),
    }
    if is_installed("sentence_transformers"):
        found["sentence-transformers"] = (semantic_search, False)
    if is_installed("faiss"):
        for number in sorted({1, threads}):
            found[f"FAISS flat, {number} threads"] = (faiss_flat(number), False)
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


def measure(queries, documents, depth, repeats, chosen) -> list[dict]:
    """One row per method: median seconds, ratios to the bare product, GFLOP/s, peak memory."""
    seconds, processor = ({name: [] for name in chosen} for _ in range(2))
    memory = dict.fromkeys(chosen, 0.0)
    for _ in range(repeats):
        for name, (run, takes_vectors) in chosen.items():
            arguments = queries, documents
            if not takes_vectors:
                arguments = np.ascontiguousarray(queries.array), documents.array
            with PeakMemory() as peak:
                started, before = time.perf_counter(), time.process_time()
                run(*arguments, depth)
                processor[name].append(time.process_time() - before)
                seconds[name].append(time.perf_counter() - started)
            memory[name] = max(memory[name], peak.mib)

    def ratio(of: dict[str, list[float]], name: str) -> float:
        bare = of.get("bare product", [float("nan")] * repeats)
        return statistics.median(t / b for t, b in zip(of[name], bare, strict=True))

    operations = 2 * len(queries) * len(documents) * documents.dim
    return [
        {
            "method": name,
            "depth": depth,
            "seconds": statistics.median(times),
            "ratio": ratio(seconds, name),
            "cpu_ratio": ratio(processor, name),
            "gflops": operations / statistics.median(times) / 1e9,
            "memory_mib": memory[name],
        }
        for name, times in seconds.items()
    ]


def show(rows: list[dict]) -> None:
    print(
        f"{'method':28} {'depth':>6} {'seconds':>9} {'× bare':>7} {'CPU ×':>6} {'GFLOP/s':>8} {'MiB':>6}"
    )
    for row in rows:
        print(
            f"{row['method']:28} {row['depth']:6} {row['seconds']:9.3f} {row['ratio']:7.2f} "
            f"{row['cpu_ratio']:6.2f} "
            f"{row['gflops']:8.0f} {row['memory_mib']:6.0f}"
        )
    print(flush=True)


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
    parser.add_argument("--only", nargs="+", default=[""], help="methods whose name has this in it")
    parser.add_argument("--quick", action="store_true", help="50,000 documents, 500 queries")
    parser.add_argument("--many-queries", action="store_true", help="500,000 queries: memory alone")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.documents, arguments.queries = 50_000, 500
    torch.set_num_threads(arguments.threads)
    chosen = {
        name: method
        for name, method in methods(arguments.threads).items()
        if name == "bare product" or any(part in name for part in arguments.only)
    }
    if arguments.many_queries:
        arguments.queries, arguments.repeats = 500_000, 1
        chosen = {"trove-steps": (ours("auto"), True)}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        documents = make_vectors(
            Path(folder) / "documents.npy", arguments.documents, arguments.dim, 1
        )
        queries = make_vectors(Path(folder) / "queries.npy", arguments.queries, arguments.dim, 2)
        small = make_vectors(Path(folder) / "small.npy", 5000, arguments.dim, 3)
        for depth in arguments.depths:
            measure(small, small, depth, 1, chosen)  # compiles, and warms the libraries up
            rows += measure(queries, documents, depth, arguments.repeats, chosen)
            show([row for row in rows if row["depth"] == depth])
    if arguments.json:
        machine = {"torch": torch.__version__, "threads": arguments.threads}
        arguments.json.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
