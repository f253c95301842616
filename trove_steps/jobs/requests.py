"""What the jobs of a plan ask a cluster for: memory in MB and time in minutes.

A job that fails is given twice as much each time it is tried again, up to the limits of the configuration's
`cluster` section. On one machine snakemake takes no notice of them.
"""

import contextlib
import math
from dataclasses import dataclass
from functools import cache

from trove_steps.embeddings.paths import store_directory
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json
from trove_steps.jobs.resources import (
    BASE_MB,
    BYTES_PER_TEXT,
    DIMENSIONS,
    LEAST_MINUTES,
    PROCESS_MB,
    check_memory,
    encode_memory,
    encode_minutes,
    mb,
    rank_memory,
    read_records,
    request_minutes,
    search_memory,
    search_minutes,
    text_bytes,
    weight_bytes,
    workforce,
)

MOVED_PER_SECOND = 20e6  # bytes of vectors that are read and written
CHECKED_PER_SECOND = 10e6  # bytes of text that a check reads
BYTES_PER_PAIR = 1000  # of a query and a document, as a cross-encoder reads them
HELD_WHOLE = (".safetensors", ".faiss")  # files that are written from memory, others block by block
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


def again(amount: int, attempt: int, limit: int | None) -> int:
    """Return what to ask for at an attempt (1, 2, …): twice as much each time, within the limit."""
    wanted = amount * 2 ** (attempt - 1)
    return wanted if limit is None else min(wanted, limit)


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
        return self._time(minutes, attempt)

    def search_memory(self, cell, attempt: int) -> int:
        """Return the MB of a search."""
        block = self.plan.config["per_device_matmul_batch_size"]
        return self._memory(search_memory(sum(_sizes(cell)), self.processes, block), attempt)

    def search_minutes(self, cell, threads: int, gpus: int, attempt: int) -> int:
        """Return the minutes of a search with so many CPU threads and GPUs."""
        minutes = search_minutes(*_sizes(cell), workforce(threads, gpus))
        return self._time(minutes, attempt)

    def rank_memory(self, cell, attempt: int) -> int:
        """Return the MB that scoring or mining needs."""
        depth = self.plan.depths[cell.search]
        return self._memory(rank_memory(*_sizes(cell), depth), attempt)

    def rank_minutes(self, attempt: int) -> int:
        """Return the minutes that scoring or mining may take."""
        return self._time(LEAST_MINUTES, attempt)

    def report_memory(self, attempt: int) -> int:
        """Return the MB of the report, which holds one ranking at a time."""
        return max(self.rank_memory(cell, attempt) for cell in self.plan.cells.values())

    def report_minutes(self, attempt: int) -> int:
        """Return the minutes in which the report reads the texts of all data sets, for each model."""
        size = sum(_all_texts(cell.data) for cell in self.plan.cells.values())
        return self._time(request_minutes(size / CHECKED_PER_SECOND), attempt)

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
        return self._memory(math.ceil(BASE_MB + PROCESS_MB + mb(held)), attempt)

    def move_minutes(self, encoding, attempt: int) -> int:
        """Return the minutes in which vectors are brought in or written to a file."""
        return again(
            request_minutes(_moved(encoding) / MOVED_PER_SECOND), attempt, self.limits.minutes
        )

    def check_memory(self, data, attempt: int) -> int:
        """Return the MB of a check of a data set."""
        files = (data.corpus.links, data.queries.links, data.qrels.links)
        return self._memory(check_memory(*map(text_bytes, files)), attempt)

    def check_minutes(self, data, attempt: int) -> int:
        """Return the minutes in which the files of a data set are read."""
        return again(
            request_minutes(_all_texts(data) / CHECKED_PER_SECOND), attempt, self.limits.minutes
        )

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
        return self._time(minutes, attempt)

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

    def _time(self, minutes: int, attempt: int) -> int:
        return again(minutes, attempt, self.limits.minutes)


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
