"""The texts that an encode job has to encode, in a file that all its ranks map.

So the texts are never in memory: rank 0 writes those that lack a vector as it reads them, and each rank
reads those of its portion, longest first.
"""

import contextlib
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from trove_steps.distributed import Comm
from trove_steps.files import written_atomically
from trove_steps.keys import TEXT_KEY_BYTES

UNIT_CHARACTERS = 25_000  # the least that is claimed at once
PORTION_BYTES = 128 << 20  # of texts and vectors, about, that a rank holds at once
TEXT_BYTES = 300  # that Python takes for a text, its id and its tokens beyond what is in them
CHARACTERS_PER_TOKEN = 4  # what lies beyond max_len costs nothing
LEFTOVER_SECONDS = 24 * 3600  # age at which a temporary file is taken for one of a killed job

SCHEMA = pa.schema(
    [
        ("id", pa.large_string()),
        ("key", pa.binary(TEXT_KEY_BYTES)),
        ("text", pa.large_string()),
        ("characters", pa.int64()),
    ]
)


@dataclass
class Portion:
    """Texts to encode: ids, keys uint8[n, 16] and the strings; `characters` are those that count."""

    ids: list[str]
    keys: np.ndarray
    texts: list[str]
    characters: int = 0

    def __len__(self) -> int:
        return len(self.ids)


def write_work(path: Path, portions: Iterator[Portion]) -> None:
    """Write texts as they come."""
    with written_atomically(path) as temporary, pa.ipc.new_file(str(temporary), SCHEMA) as writer:
        for portion in portions:
            keys = list(map(bytes, portion.keys))
            characters = list(map(len, portion.texts))
            columns = [portion.ids, keys, portion.texts, characters]
            writer.write_batch(pa.record_batch(columns, schema=SCHEMA))


class Work:
    """The texts of a work file, longest first, cut into `units` of about UNIT_CHARACTERS.

    `max_len` is the most tokens of a text; `characters` int32[n] are the lengths. In memory are eight bytes
    of each text. The file may be unlinked once this is made.
    """

    def __init__(self, path: Path, max_len: int):
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self._columns = [table.column(name).chunks for name in ("id", "key", "text")]
        self._starts = np.cumsum([0, *map(len, self._columns[0])])
        characters = table.column("characters").to_numpy().astype(np.int32)
        number = np.int32 if len(characters) < 2**31 else np.int64
        self._order = np.argsort(-characters, kind="stable").astype(number)
        self.characters = characters[self._order]
        self._most_characters = CHARACTERS_PER_TOKEN * max_len
        self._bounds = _unit_bounds(self.costs())

    def __len__(self) -> int:
        return len(self._order)

    @property
    def units(self) -> int:
        return len(self._bounds) - 1

    def costs(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return what max_len lets through of texts by their place, about: int32[m] characters."""
        return np.clip(self.characters[rows], 1, self._most_characters)

    def rows(self, first: int, amount: int) -> np.ndarray:
        """Return the places int64[m] of the texts of `amount` units from `first` on, fewer at the end."""
        stop = min(first + amount, self.units)
        return np.arange(self._bounds[first], self._bounds[stop])

    def portions(self, claimed: Iterable[np.ndarray], vector_bytes: int) -> Iterator[Portion]:
        """Yield the texts at claimed places int64[m], in portions of about PORTION_BYTES.

        `vector_bytes` are those of a vector.
        """
        for rows in claimed:
            sizes = self.characters[rows].astype(np.int64) + vector_bytes + TEXT_BYTES
            filled = np.cumsum(sizes) // PORTION_BYTES
            for part in np.split(rows, np.flatnonzero(np.diff(filled)) + 1):
                yield self.take(part)

    def keys(self) -> np.ndarray:
        """Return the keys uint8[n, 16] of all texts."""
        column = b"".join(key for chunk in self._columns[1] for key in chunk.to_pylist())
        return np.frombuffer(column, np.uint8).reshape(-1, TEXT_KEY_BYTES)[self._order]

    def take(self, rows: np.ndarray) -> Portion:
        """Return texts by their place int64[m] in the order of their length."""
        numbers = self._order[rows]
        chunk = np.searchsorted(self._starts, numbers, side="right") - 1
        places = list(zip(chunk.tolist(), (numbers - self._starts[chunk]).tolist(), strict=True))
        ids, keys, texts = (
            [column[chunk][row].as_py() for chunk, row in places] for column in self._columns
        )
        keys = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, TEXT_KEY_BYTES)
        return Portion(ids, keys, texts, int(self.costs(rows).sum(dtype=np.int64)))


def _unit_bounds(costs: np.ndarray) -> np.ndarray:
    unit = np.cumsum(costs) // UNIT_CHARACTERS
    return np.concatenate([[0], np.flatnonzero(np.diff(unit)) + 1, [len(costs)]])


def share_work(
    directory: Path, portions: Iterator[Portion] | None, max_len: int, comm: Comm
) -> tuple[Work, Path]:
    """Put the texts to encode, which rank 0 has, into a file of a store that every rank maps; return both.

    On one node the file's name is removed as soon as all ranks hold it, so that no kill leaves it
    behind. Other nodes would lose a file on NFS with its name: rank 0 removes it when all is done.
    """
    if comm.rank == 0:
        remove_leftovers(directory)
        number = uuid.uuid4().int >> 65
    number = comm.broadcast(number if comm.rank == 0 else 0)
    path = directory / "work" / f"{number:016x}.arrow"
    if comm.rank == 0:
        write_work(path, portions)
    comm.barrier()
    work = Work(path, max_len)
    comm.barrier()
    if comm.rank == 0 and comm.one_node:
        path.unlink()
    return work, path


def remove_leftovers(directory: Path) -> None:
    """Remove what jobs that were killed while they wrote have left in a store, once it is surely unused."""
    for old in (
        *directory.glob("work/*"),
        *directory.glob("work/.*.tmp"),
        *directory.glob("shards/.*.tmp"),
    ):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - old.stat().st_mtime > LEFTOVER_SECONDS:
                old.unlink()
