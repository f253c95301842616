"""Time and memory of scoring: 100,000 queries × 1,000 results by default.

    python benchmarks/score.py [--queries 100000] [--depth 1000] [--ties]

Makes a random ranking on disk, then evaluates it in a process of its own, with nDCG, MAP, recall,
precision and MRR at 1, 10, 100 and the depth, and prints seconds and the peak of its resident memory
(pages of the mapped files included).
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

DOCUMENTS = 1_000_000
JUDGMENTS = 10
TARGET_SECONDS, TARGET_GB = 60, 3


def make(folder: Path, queries: int, depth: int, ties: bool) -> None:
    """Write docs.npy, scores.npy and judged.npy; a third of the judged documents are retrieved."""
    chance = np.random.default_rng(0)
    shape = (queries, depth)
    docs = np.lib.format.open_memmap(folder / "docs.npy", "w+", np.int64, shape)
    scores = np.lib.format.open_memmap(folder / "scores.npy", "w+", np.float64, shape)
    judged = np.empty((queries, JUDGMENTS), np.int64)
    stride = DOCUMENTS // depth
    for start in range(0, queries, 1000):
        end = min(start + 1000, queries)
        # One document of each stripe of the corpus, so that none is there twice.
        block = chance.integers(0, stride, (end - start, depth)) + np.arange(depth) * stride
        docs[start:end] = chance.permuted(block, axis=1)
        values = -np.sort(-chance.random((end - start, depth)), axis=1)
        scores[start:end] = np.round(values, 2) if ties else values
        judged[start:end] = chance.integers(0, DOCUMENTS, (end - start, JUDGMENTS))
        judged[start:end, ::3] = docs[start:end, :: depth // 4][
            :, : judged[start:end, ::3].shape[1]
        ]
    np.save(folder / "judged.npy", judged)


def measure(folder: Path, depth: int) -> None:
    """Evaluate what `make` wrote; print the figures as JSON."""
    import pyarrow as pa

    from trove_steps.evaluation.metrics import evaluate
    from trove_steps.ranking import Ranking

    docs = np.load(folder / "docs.npy", mmap_mode="r")
    scores = np.load(folder / "scores.npy", mmap_mode="r")
    judged = np.load(folder / "judged.npy")
    doc_ids = pa.array([f"doc{number}" for number in range(DOCUMENTS)])
    query_ids = pa.array([f"query{number}" for number in range(len(docs))])
    ranking = Ranking(
        query_ids,
        doc_ids,
        np.arange(len(docs) + 1, dtype=np.int64) * depth,
        docs.reshape(-1),
        scores.reshape(-1),
    )
    pairs = np.unique(np.repeat(np.arange(len(docs)), JUDGMENTS) * DOCUMENTS + judged.reshape(-1))
    qrels = pa.table(
        {
            "query_id": query_ids.take(pa.array(pairs // DOCUMENTS)),
            "doc_id": doc_ids.take(pa.array(pairs % DOCUMENTS)),
            "score": pairs % 3,
        }
    )
    started = time.perf_counter()
    evaluation = evaluate(ranking, qrels, sorted({1, 10, 100, depth}))
    figures = {
        "seconds": time.perf_counter() - started,
        "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "ndcg_cut_10": evaluation.metrics["ndcg_cut_10"],
        "ties": len(evaluation.ties),
    }
    print(json.dumps(figures))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--depth", type=int, default=1000)
    parser.add_argument("--ties", action="store_true", help="scores with two decimals")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.depth)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.queries, options.depth, options.ties)
        command = [sys.executable, __file__, "--measure", folder, "--depth", str(options.depth)]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures = json.loads(shown)
    print(
        f"{options.queries:,} queries × {options.depth:,} results: {figures['seconds']:.1f} s "
        f"(target {TARGET_SECONDS}), {figures['gb']:.2f} GB (target {TARGET_GB}); "
        f"nDCG@10 {figures['ndcg_cut_10']:.5f}, {figures['ties']} metrics with ties"
    )
    return int(figures["seconds"] > TARGET_SECONDS or figures["gb"] > TARGET_GB)


if __name__ == "__main__":
    sys.exit(main())
