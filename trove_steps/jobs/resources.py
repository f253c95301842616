"""What a step takes on a cluster: memory and time, from the size of its inputs and from earlier jobs.

The figures are upper estimates in MB and minutes.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

BASE_MB = 1500  # two snakemakes, a launcher, and a margin for what they share with nobody
PROCESS_MB = 1000  # torch and transformers, activations of the batches that are computed at once
LEAST_MINUTES = 30
MARGIN = 3  # a job that is cut off costs more than one that asks for too much
UNPACKED = {".gz": 4, ".zst": 4, ".bz2": 5, ".xz": 5, ".parquet": 3}
BYTES_PER_TOKEN = 4
LEAST_SECONDS = 60  # of encoding, below which an earlier job says little about speed and memory
LEAST_SHARE = 1 / 20  # of the texts, likewise
RECORDS = 5  # the latest earlier jobs count
BYTES_PER_TEXT = 100  # of a short query; a document is taken for four times as long
CHECKED_RECORD = 90  # bytes of memory that a check keeps of a record: id, hashes of its text
CHECKED_JUDGMENTS = 6  # bytes of memory per byte of a file of judgments
NAMED_TEXT = 150  # bytes of memory that rank 0 of an encode job keeps of a text: id, key, place
WAITING_TEXT = 60  # and each rank, of a text that is to be encoded: its length, its place
DIMENSIONS = 1024
CPU_FLOPS = 30e9  # of one thread, in a forward pass; docs/encoders.md has six times that
GPU_FLOPS = 10e12  # of one device; a modern one does many times that
SEARCH_MB = 1200  # one rank's blocks, candidates and results (docs/search.md), whatever it searches
BYTES_PER_ROW = 12  # of an opened collection: where the vector of each text is
BLOCKS = 3  # of documents that a search holds
PAIRS_PER_SECOND = 20e6  # queries × documents that one thread scores, of DIMENSIONS


@dataclass(frozen=True)
class Workforce:
    """What computes: `workers` GPUs or CPU threads of a kind that does `flops` per second each."""

    workers: int
    flops: float

    @property
    def on_cpu(self) -> bool:
        return self.flops == CPU_FLOPS


def workforce(threads: int, gpus: int, nodes: int = 1) -> Workforce:
    """Return what encodes a corpus: all GPUs, or all CPU threads where there are none."""
    each = Workforce(gpus, GPU_FLOPS) if gpus else Workforce(threads, CPU_FLOPS)
    return Workforce(max(1, each.workers * nodes), each.flops)


def text_bytes(paths: Iterable[Path]) -> int:
    """Return about how many bytes of text some files hold, unpacked; a missing file counts nothing."""
    return sum(_size(path) * UNPACKED.get(Path(os.path.realpath(path)).suffix, 1) for path in paths)


def weight_bytes(folder: Path) -> int:
    """Return the size of a model's weights in its folder."""
    sizes = {
        suffix: sum(_size(path) for path in Path(folder).glob(f"*{suffix}"))
        for suffix in (".safetensors", ".bin")
    }
    return sizes[".safetensors"] or sizes[".bin"]


def encode_memory(texts: int, weights: int, processes: int, records: list[dict]) -> int:
    """Return the MB that an encode job needs on a node; `texts` and `weights` are in bytes."""
    base = PROCESS_MB + 2.5 * mb(weights)
    # The texts themselves are in no process' memory: those to be encoded lie in a file that all map.
    rows = texts / BYTES_PER_TEXT / 4
    estimate = BASE_MB + processes * base + mb(rows * (NAMED_TEXT + processes * WAITING_TEXT))
    # A text that is longer than any before needs more: an earlier figure can only raise the estimate.
    seen = [
        BASE_MB + 1.3 * (processes * peak + max(0.0, peak - base) * (growth - 1))
        for record in _comparable(records, texts)
        for peak, growth in [
            (record.get("peak_memory_mb", 0), max(1.0, texts / record["input_bytes"]))
        ]
    ]
    return math.ceil(max([estimate, *seen]))


def encode_minutes(
    texts: int, weights: int, force: Workforce, records: list[dict], most_tokens: float = math.inf
) -> int:
    """Return the minutes that an encode job may take, from earlier jobs of the same encoder if any.

    `texts` and `weights` are in bytes; `most_tokens` is what max_len leaves of the texts.
    """
    rates = [
        _encoded_bytes(record) / record["seconds"]["encode"] / _workers(record)
        for record in _comparable(records, texts)
        if _ran_on_cpu(record) == force.on_cpu
    ]
    if rates:
        return request_minutes(texts / (min(rates) * force.workers))
    tokens = min(texts / BYTES_PER_TOKEN, most_tokens)
    operations = 2 * (weights / 4) * tokens
    return request_minutes(operations / (force.workers * force.flops))


def search_memory(texts: int, processes: int, block: int | None = None) -> int:
    """Return the MB that a search needs; `texts` are bytes, `block` a given number of documents at once.

    The vectors are mapped, so that they are in memory only as long as nobody else wants it.
    """
    rows = texts / BYTES_PER_TEXT * BYTES_PER_ROW
    blocks = BLOCKS * (block or 0) * DIMENSIONS * 4
    return math.ceil(BASE_MB + processes * (PROCESS_MB + SEARCH_MB + mb(rows) + mb(blocks)))


def search_minutes(queries: int, documents: int, force: Workforce) -> int:
    """Return the minutes that a search may take; `queries` and `documents` are bytes of text."""
    pairs = queries / BYTES_PER_TEXT * documents / BYTES_PER_TEXT / 4
    rate = PAIRS_PER_SECOND * (force.flops / CPU_FLOPS) * force.workers
    return request_minutes(pairs / rate)


def rank_memory(queries: int, documents: int, depth: int) -> int:
    """Return the MB that scoring or mining one ranking needs."""
    found = queries / BYTES_PER_TEXT * depth * 20 * 6
    ids = documents / BYTES_PER_TEXT / 4 * 100
    return math.ceil(BASE_MB + PROCESS_MB + mb(found) + mb(ids))


def check_memory(documents: int, queries: int, judgments: int) -> int:
    """Return the MB that a check of a data set needs, from the bytes of its files."""
    rows = documents / BYTES_PER_TEXT / 4 + queries / BYTES_PER_TEXT
    return math.ceil(BASE_MB + mb(rows * CHECKED_RECORD + judgments * CHECKED_JUDGMENTS))


def read_records(directory: Path) -> list[dict]:
    """Return what earlier encode jobs of one encoder did; lines that can't be read are left out."""
    records = []
    try:
        lines = (Path(directory) / "records.jsonl").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # the line of a job that was killed
        if isinstance(record, dict):
            records.append(record)
    return records


def _comparable(records: list[dict], texts: int) -> list[dict]:
    """Return the latest records of jobs that encoded enough to say something about `texts` bytes."""
    return [
        record
        for record in records
        if record.get("seconds", {}).get("encode", 0) >= LEAST_SECONDS
        and _encoded_bytes(record) >= max(1, texts * LEAST_SHARE)
    ][-RECORDS:]


def _encoded_bytes(record: dict) -> float:
    return record.get("input_bytes", 0) * record.get("encoded", 0) / max(1, record.get("rows", 0))


def _ran_on_cpu(record: dict) -> bool:
    return record.get("device", "cpu") == "cpu"


def _workers(record: dict) -> int:
    """Return the GPUs or CPU threads that an earlier job computed with."""
    threads = record.get("encoder", {}).get("threads") or 1
    return record.get("world_size", 1) * threads


def request_minutes(seconds: float) -> int:
    """Return the minutes to ask for where so many seconds are expected."""
    return max(LEAST_MINUTES, math.ceil(round(MARGIN * seconds / 60, 6)))


def mb(size: float) -> float:
    """Return a number of bytes in MB."""
    return size / 1e6


def _size(path: Path) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0
