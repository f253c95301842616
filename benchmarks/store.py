"""The embedding store beside its physical bounds: hashing, sequential writing, memory, start-up.

    python benchmarks/store.py --quick
    python benchmarks/store.py --rows 10000000 --folder /big/disk

Writing: shards as an encode job writes them, beside SHA-256 of the same bytes in memory, and beside a plain
file of the same bytes, written in a row and flushed once. Look-up: a store of --rows synthetic rows, asked
for all of them in random order and for a thousand; beside SHA-256 of as many short texts, which is
what naming them costs. Then the same after compaction. Each figure is taken in a process of its own, so that
its memory is its own; the bound is measured in the same run.
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from trove_steps.embeddings.compaction import compact
from trove_steps.embeddings.store import Store
from trove_steps.embeddings.verification import verify
from trove_steps.keys import text_key

ENCODER = "0" * 32


def make(store: Store, rows: int, shard_rows: int, dim: int) -> None:
    """Fill a store with random keys and vectors."""
    chance = np.random.default_rng(0)
    vectors = chance.standard_normal((shard_rows, dim)).astype(np.float32)
    for start in range(0, rows, shard_rows):
        some = min(shard_rows, rows - start)
        store.write(chance.integers(0, 256, (some, 16), np.uint8), vectors[:some])


def all_keys(rows: int, shard_rows: int, dim: int) -> np.ndarray:
    """Return the keys that `make` wrote, in random order."""
    chance = np.random.default_rng(0)
    chance.standard_normal((shard_rows, dim))
    keys = np.empty((rows, 16), np.uint8)
    for start in range(0, rows, shard_rows):
        some = min(shard_rows, rows - start)
        keys[start : start + some] = chance.integers(0, 256, (some, 16), np.uint8)
    return keys[np.random.default_rng(1).permutation(rows)]


def peak_bytes() -> int:
    """Return the most memory that this process had of its own; mapped files do not count."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class PeakMemory:
    """Watches the process' own memory from a thread, every 10 ms."""

    def __enter__(self):
        import threading

        self.before = self.peak = peak_bytes()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            self.peak = max(self.peak, peak_bytes())

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()
        self.peak = max(self.peak, peak_bytes())


def measure_write(options) -> dict:
    """Write shards; return seconds beside those of hashing and of writing in a row."""
    rows = options.written_rows
    shards = rows // options.shard_rows
    chance = np.random.default_rng(2)
    vectors = chance.standard_normal((options.shard_rows, 384)).astype(np.float32)
    keys = chance.integers(0, 256, (rows, 16), np.uint8)
    store = Store(options.folder / "written", ENCODER)
    began = time.perf_counter()
    for start in range(0, shards * options.shard_rows, options.shard_rows):
        store.write(keys[start : start + options.shard_rows], vectors)
    ours = time.perf_counter() - began
    content = [store.shard_path(name).read_bytes() for name in store.shard_names()]
    began = time.perf_counter()
    for block in content:
        hashlib.sha256(block).hexdigest()
    hashing = time.perf_counter() - began
    began = time.perf_counter()
    with open(options.folder / "plain", "wb", buffering=0) as file:
        for block in content:
            file.write(block)
        os.fsync(file.fileno())
    writing = time.perf_counter() - began
    return {
        "megabytes": round(sum(map(len, content)) / 1e6),
        "shards": shards,
        "store_write": ours,
        "sha256": hashing,
        "sequential_write": writing,
        "ratio_to_bound": ours / (hashing + writing),
    }


def measure_find(options) -> dict:
    """Look all keys up; return seconds and bytes per row."""
    store = Store(options.folder / "known", ENCODER)
    keys = all_keys(options.rows, options.shard_rows, options.dim)
    if options.asked:
        keys = keys[: options.asked].copy()
    with PeakMemory() as memory:
        began, busy = time.perf_counter(), time.process_time()
        places = store.find(keys)
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
    assert places.known.all()
    texts = [f"a text of some forty characters, {n}" for n in range(min(len(keys), 100_000))]
    began = time.process_time()
    for text in texts:
        text_key(text)
    naming = (time.process_time() - began) / len(texts) * len(keys)
    return {
        "asked": len(keys),
        "shards": len(places.names),
        "seconds": seconds,
        "cpu_seconds": busy,
        "bytes_per_row_known": (memory.peak - memory.before) / options.rows,
        "peak_megabytes": (memory.peak - memory.before) / 1e6,
        "naming_cpu_seconds": naming,
        "ratio_to_naming": busy / naming,
    }


def measure_compact(options) -> dict:
    """Merge all shards, then read and hash them all."""
    store = Store(options.folder / "known", ENCODER)
    with PeakMemory() as memory:
        began = time.perf_counter()
        figures = compact(store, shard_bytes=options.shard_bytes)
        seconds = time.perf_counter() - began
    began = time.perf_counter()
    assert verify(store) == []
    return {
        **{
            name: getattr(figures, name) for name in ("shards_before", "shards_after", "rows_after")
        },
        "megabytes": round(figures.bytes_after / 1e6),
        "seconds": seconds,
        "peak_megabytes": (memory.peak - memory.before) / 1e6,
        "verify_seconds": time.perf_counter() - began,
    }


MEASUREMENTS = {
    "write": measure_write,
    "find": measure_find,
    "compact": measure_compact,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows known")
    parser.add_argument(
        "--dim", type=int, default=16, help="of the rows known; look-up reads keys only"
    )
    parser.add_argument("--shard-rows", type=int, default=2000)
    parser.add_argument("--shard-bytes", type=int, default=256 << 20, help="of compacted shards")
    parser.add_argument("--written-rows", type=int, default=100_000, help="of width 384")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--quick", action="store_true", help="100,000 rows known, 20,000 written")
    parser.add_argument("--measure", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    parser.add_argument("--asked", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(MEASUREMENTS[options.measure](options)))
        return
    if options.quick:
        options.rows, options.written_rows = 100_000, 20_000
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        options.folder = Path(folder)
        run_all(options)


def run_all(options) -> None:
    """Run each measurement in a process of its own; print a line for each."""

    def run(title: str, measure: str, asked: int = 0) -> None:
        names = ("rows", "dim", "shard_rows", "shard_bytes", "written_rows", "folder")
        flags = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in names]
        command = [sys.executable, __file__, *flags, "--measure", measure, "--asked", str(asked)]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        values = json.loads(printed)
        shown = (
            f"{name} {value:,.2f}" if isinstance(value, float) else f"{name} {value:,}"
            for name, value in values.items()
        )
        print(f"{title}: {', '.join(shown)}", flush=True)

    run("write", "write")
    make(Store(options.folder / "known", ENCODER), options.rows, options.shard_rows, options.dim)
    print(f"store: {options.rows:,} rows in shards of {options.shard_rows:,}", flush=True)
    run("look-up of all", "find")
    run("look-up of some", "find", 1000)
    run("compact", "compact")
    run("look-up of all, compacted", "find")
    run("look-up of some, compacted", "find", 1000)


if __name__ == "__main__":
    main()
