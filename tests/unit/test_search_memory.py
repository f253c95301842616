"""What a search holds in memory, measured in a process of its own: bounded, whatever it searches."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import PROJECT

pytest.importorskip("torch")

# A search whose results go to a file; prints the anonymous memory before it, in MiB.
SCRIPT = """
import sys, tempfile
from pathlib import Path
import numpy as np, pyarrow as pa, torch
from trove_steps.embeddings import derived
from trove_steps.search import write_ranking
from trove_steps.topk import candidates, search

documents, queries, dim, depth, similarity, chosen = sys.argv[1:7]
documents, queries, dim, depth = int(documents), int(queries), int(dim), int(depth)
if len(sys.argv) > 7:
    candidates.PAIR_BUDGET, search.BLOCK_BYTES = int(sys.argv[7]), int(sys.argv[8])
if chosen == "torch":
    candidates.kernels, chosen = lambda: None, "float32"
folder = tempfile.TemporaryDirectory()


class OnDisk:
    manifest = None

    def __init__(self, name, rows):
        path = Path(folder.name) / name
        array = np.lib.format.open_memmap(path, "w+", np.float32, (rows, dim))
        chance = np.random.default_rng(rows)
        for start in range(0, rows, 1000):
            part = array[start : start + 1000]
            part[:] = chance.standard_normal(part.shape, np.float32)
        array.flush()
        self.array, self.dim, self.order = np.load(path, mmap_mode="r"), dim, np.arange(rows)
        self.ids = pa.array(self.order).cast(pa.string())

    def __len__(self):
        return len(self.array)

    def take(self, texts):
        return self.array[texts]


def run(name, queries, documents):
    vectors = OnDisk(name + "q", queries), OnDisk(name + "d", documents)
    if similarity == "cosine":
        vectors = tuple(map(derived.Scaled, vectors))
    before = anonymous()
    tiles = search.search(*vectors, depth, candidate_pass=chosen)
    write_ranking(Path(folder.name) / (name + ".arrow"), tiles, queries)
    return before


def anonymous():
    (line,) = [x for x in open("/proc/self/status") if x.startswith("RssAnon")]
    return int(line.split()[1]) / 1024


run("warm", 100, 100)  # compiles
print(run("real", queries, documents))
"""


def peak(*arguments) -> float:
    """Return the most anonymous memory of a search in MiB, beyond that before it."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        most = 0.0
        # From outside, because copies of vectors hold the interpreter's lock.
        while process.poll() is None:
            most = max(most, anonymous(process.pid))
            time.sleep(0.002)
        assert process.returncode == 0
        return most - float(process.stdout.read())


def anonymous(process: int) -> float:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_wide_vectors(similarity):
    """Three blocks of 32 MiB, scores of a tile per thread, and the queries."""
    assert peak(8192, 600, 4096, 100, similarity, "float32") < 200


SMALL = (200_000, 1 << 20)  # candidates, and bytes of a block


@pytest.mark.parametrize("chosen", ["float32", "int8", "bfloat16"])
def test_many_documents(chosen):
    """They take 98 MiB; their scores would take 305."""
    if chosen == "int8":
        pytest.importorskip("numba")
    assert peak(400_000, 200, 64, 10, "dot", chosen, *SMALL) < 75


def test_many_queries():
    """Their results take 95 MiB, their candidates would take 260."""
    assert peak(2000, 50_000, 64, 100, "dot", "float32", *SMALL) < 90
