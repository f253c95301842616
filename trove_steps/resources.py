"""What a job asks a cluster for: memory and time, from the size of its inputs and from earlier jobs.

The figures are upper estimates in MB and minutes. A job that fails is given twice as much each time it
is tried again, up to the limits of the configuration's `cluster` section. On one machine snakemake
takes no notice of them.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from trove_steps.embeddings.paths import store_directory
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json

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
HELD_WHOLE = (".safetensors", ".faiss")  # files that are written from memory, others block by block
MOVED_PER_SECOND = 20e6  # bytes of vectors that are read and written
CHECKED_PER_SECOND = 10e6  # bytes of text that a check reads
BYTES_PER_PAIR = 1000  # of a query and a document, as a cross-encoder reads them
DIMENSIONS = 1024
CPU_FLOPS = 30e9  # of one thread, in a forward pass; docs/encoders.md has six times that
GPU_FLOPS = 10e12  # of one device; a modern one does many times that
SEARCH_MB = 1200  # one rank's blocks, candidates and results (docs/search.md), whatever it searches
BYTES_PER_ROW = 12  # of an opened collection: where the vector of each text is
BLOCKS = 3  # of documents that a search holds
PAIRS_PER_SECOND = 20e6  # queries × documents that one thread scores, of DIMENSIONS
AUTO_PROCESSES = 4  # assumed for nproc_per_node: auto on a node that can't be looked at


# What a step may take of the time of a job that it shares with those before and after it; scoring runs
# beside rescoring.
SHARES = {
    "encode_queries": 1 / 8,
    "search": 3 / 8,
    "rescore": 3 / 8,
    "score": 3 / 8,
    "mine_negatives": 1 / 8,
}


@dataclass(frozen=True)
class Limits:
    """The most that a job may ask for; None is no limit."""

    minutes: int | None = None
    mem_mb: int | None = None

    def within(self, other: "Limits") -> "Limits":
        """Return the stricter ones of both."""
        return Limits(_least(self.minutes, other.minutes), _least(self.mem_mb, other.mem_mb))

    def of_shared_job(self, rule: str) -> "Limits":
        """Return the limits of a step in a job that it shares with others: their times are added up."""
        if self.minutes is None:
            return self
        return Limits(max(1, math.floor(self.minutes * SHARES.get(rule, 1))), self.mem_mb)


def _least(*amounts: int | None) -> int | None:
    return min((amount for amount in amounts if amount is not None), default=None)


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


def asked_gpus(asked: dict) -> int:
    """Return the GPUs on a node that a profile's set-resources ask for a step: its gres or gpu."""
    gres = str(asked.get("gres", ""))
    if gres.startswith("gpu"):
        count = gres.rpartition(":")[2]
        return int(count) if count.isdigit() else 1
    given = str(asked.get("gpu") or asked.get("pod_gpus") or 0)
    return int(given) if given.isdigit() else 1


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
    base = PROCESS_MB + 2.5 * _mb(weights)
    # The texts themselves are in no process' memory: those to be encoded lie in a file that all map.
    rows = texts / BYTES_PER_TEXT / 4
    estimate = BASE_MB + processes * base + _mb(rows * (NAMED_TEXT + processes * WAITING_TEXT))
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
        return _minutes(texts / (min(rates) * force.workers))
    tokens = min(texts / BYTES_PER_TOKEN, most_tokens)
    operations = 2 * (weights / 4) * tokens
    return _minutes(operations / (force.workers * force.flops))


def search_memory(texts: int, processes: int, block: int | None = None) -> int:
    """Return the MB that a search needs; `texts` are bytes, `block` a given number of documents at once.

    The vectors are mapped, so that they are in memory only as long as nobody else wants it.
    """
    rows = texts / BYTES_PER_TEXT * BYTES_PER_ROW
    blocks = BLOCKS * (block or 0) * DIMENSIONS * 4
    return math.ceil(BASE_MB + processes * (PROCESS_MB + SEARCH_MB + _mb(rows) + _mb(blocks)))


def search_minutes(queries: int, documents: int, force: Workforce) -> int:
    """Return the minutes that a search may take; `queries` and `documents` are bytes of text."""
    pairs = queries / BYTES_PER_TEXT * documents / BYTES_PER_TEXT / 4
    rate = PAIRS_PER_SECOND * (force.flops / CPU_FLOPS) * force.workers
    return _minutes(pairs / rate)


def rank_memory(queries: int, documents: int, depth: int) -> int:
    """Return the MB that scoring or mining one ranking needs."""
    found = queries / BYTES_PER_TEXT * depth * 20 * 6
    ids = documents / BYTES_PER_TEXT / 4 * 100
    return math.ceil(BASE_MB + PROCESS_MB + _mb(found) + _mb(ids))


def check_memory(documents: int, queries: int, judgments: int) -> int:
    """Return the MB that a check of a data set needs, from the bytes of its files."""
    rows = documents / BYTES_PER_TEXT / 4 + queries / BYTES_PER_TEXT
    return math.ceil(BASE_MB + _mb(rows * CHECKED_RECORD + judgments * CHECKED_JUDGMENTS))


def again(amount: int, attempt: int, limit: int | None) -> int:
    """Return what to ask for at an attempt (1, 2, …): twice as much each time, within the limit."""
    wanted = amount * 2 ** (attempt - 1)
    return wanted if limit is None else min(wanted, limit)


def cpu_threads(cores: int | None, processes: int, gpus: int) -> int:
    """Return the CPU threads of a step on this machine.

    Without GPUs a step takes all cores, so that no two run at once; with them, its GPUs' share.
    """
    if cores is None:
        return 1
    return cores if not gpus else max(1, cores * min(processes, gpus) // gpus)


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


def _minutes(seconds: float) -> int:
    return max(LEAST_MINUTES, math.ceil(round(MARGIN * seconds / 60, 6)))


def _mb(size: float) -> float:
    return size / 1e6


def _size(path: Path) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


class Requests:
    """What the jobs of a plan ask for, within limits. `attempt` counts from 1."""

    def __init__(self, plan, limits: Limits):
        self.plan, self.limits = plan, limits
        config = plan.config
        self.nodes = config["encode"]["nodes"]
        nproc = config["nproc_per_node"]
        self.processes = AUTO_PROCESSES if nproc == "auto" else nproc
        self.most_gpus = math.inf if nproc == "auto" else nproc
        self._records = cache(lambda encoder: read_records(store_directory(plan.cache, encoder)))

    def encode_memory(self, encoding, attempt: int) -> int:
        """Return the MB of an encode job on each of its nodes."""
        return self._memory(
            encode_memory(
                text_bytes(encoding.links),
                weight_bytes(encoding.model.folder),
                self.processes,
                self._records(encoding.encoder),
            ),
            attempt,
        )

    def encode_minutes(self, encoding, threads: int, gpus: int, attempt: int) -> int:
        """Return the minutes of an encode job with so many CPU threads and GPUs on each node."""
        shared = encoding.role == "corpus"
        minutes = encode_minutes(
            text_bytes(encoding.links),
            weight_bytes(encoding.model.folder),
            # Jobs that share a corpus may run one after the other: each may have to do all of it.
            workforce(threads, min(gpus, self.most_gpus), self.nodes if shared else 1),
            self._records(encoding.encoder),
            self._most_tokens(encoding),
        )
        return again(minutes, attempt, self.limits.minutes)

    def search_memory(self, cell, attempt: int) -> int:
        """Return the MB of a search."""
        block = self.plan.config["per_device_matmul_batch_size"]
        return self._memory(search_memory(sum(_sizes(cell)), self.processes, block), attempt)

    def search_minutes(self, cell, threads: int, gpus: int, attempt: int) -> int:
        """Return the minutes of a search with so many CPU threads and GPUs."""
        minutes = search_minutes(*_sizes(cell), workforce(threads, gpus))
        return again(minutes, attempt, self.limits.minutes)

    def rank_memory(self, cell, attempt: int) -> int:
        """Return the MB that scoring or mining needs."""
        depth = self.plan.depths[cell.search]
        return self._memory(rank_memory(*_sizes(cell), depth), attempt)

    def rank_minutes(self, attempt: int) -> int:
        """Return the minutes that scoring or mining may take."""
        return again(LEAST_MINUTES, attempt, self.limits.minutes)

    def report_memory(self, attempt: int) -> int:
        """Return the MB of the report, which holds one ranking at a time."""
        return max(self.rank_memory(cell, attempt) for cell in self.plan.cells.values())

    def report_minutes(self, attempt: int) -> int:
        """Return the minutes in which the report reads the texts of all data sets, for each model."""
        size = sum(_all_texts(cell.data) for cell in self.plan.cells.values())
        return again(_minutes(size / CHECKED_PER_SECOND), attempt, self.limits.minutes)

    def least_memory(self, attempt: int) -> int:
        """Return the MB of a step that holds tables of metrics only."""
        return self._memory(BASE_MB + PROCESS_MB, attempt)

    def merge_memory(self, cells, attempt: int) -> int:
        """Return the MB of merging what was mined from the rankings of one data set."""
        depth = sum(self.plan.depths[cell.search] for cell in cells)
        return self._memory(rank_memory(*_sizes(cells[0]), depth), attempt)

    def move_memory(self, encoding, path: str, attempt: int) -> int:
        """Return the MB of bringing vectors in, or of writing them to a file."""
        held = _moved(encoding) if encoding.step == "import" or path.endswith(HELD_WHOLE) else 0
        return self._memory(math.ceil(BASE_MB + PROCESS_MB + _mb(held)), attempt)

    def move_minutes(self, encoding, attempt: int) -> int:
        """Return the minutes in which vectors are brought in or written to a file."""
        return again(_minutes(_moved(encoding) / MOVED_PER_SECOND), attempt, self.limits.minutes)

    def check_memory(self, data, attempt: int) -> int:
        """Return the MB of a check of a data set."""
        files = (data.corpus.links, data.queries.links, data.qrels.links)
        return self._memory(check_memory(*map(text_bytes, files)), attempt)

    def check_minutes(self, data, attempt: int) -> int:
        """Return the minutes in which the files of a data set are read."""
        return again(_minutes(_all_texts(data) / CHECKED_PER_SECOND), attempt, self.limits.minutes)

    def rescore_memory(self, cell, attempt: int) -> int:
        """Return the MB of a job in which a cross-encoder scores candidates."""
        weights = weight_bytes(self.plan.cross_encoder.folder)
        texts = text_bytes(cell.data.queries.links + cell.data.corpus.links)
        return self._memory(encode_memory(texts, weights, self.processes, []), attempt)

    def rescore_minutes(self, cell, threads: int, gpus: int, attempt: int) -> int:
        """Return the minutes in which so many CPU threads or GPUs score the candidates of all queries."""
        pairs = text_bytes(cell.data.queries.links) / BYTES_PER_TEXT * cell.needs["mining"]
        weights = weight_bytes(self.plan.cross_encoder.folder)
        force = workforce(threads, gpus)
        minutes = encode_minutes(int(pairs * BYTES_PER_PAIR), weights, force, [])
        return again(minutes, attempt, self.limits.minutes)

    def _most_tokens(self, encoding) -> float:
        """Return how many tokens max_len leaves of the texts, once a check has counted these."""
        for record in self.plan.checks_before(encoding):
            with contextlib.suppress(TroveStepsError, OSError, KeyError, TypeError):
                (table,) = read_json(record)["files"]
                counted = read_json(record.parent.parent / table)[encoding.role]["records"]
                return counted * encoding.encoder_recipe["max_len"]
        return math.inf

    def _memory(self, amount: int, attempt: int) -> int:
        return again(amount, attempt, self.limits.mem_mb)


def _all_texts(data) -> int:
    return text_bytes(data.corpus.links + data.queries.links + data.qrels.links)


def _moved(encoding) -> float:
    """Return about how many bytes the vectors of a collection have, with the ids and texts beside them."""
    given = text_bytes(encoding.links)
    if encoding.step == "import":
        return given + text_bytes(encoding.text_links)
    rows = given / BYTES_PER_TEXT / (4 if encoding.role == "corpus" else 1)
    return rows * DIMENSIONS * 4


def _sizes(cell) -> tuple[int, int]:
    return text_bytes(cell.queries.links), text_bytes(cell.corpus.links)
