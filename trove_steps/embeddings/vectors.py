"""The vectors of an encoded collection, read from the shards through memory maps."""

import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock

import numpy as np

from trove_steps.embeddings.collection import check_vectors, keys_of, read_rows, rows_path
from trove_steps.embeddings.shards import OPEN_SHARDS, DamagedShard, Shard
from trove_steps.embeddings.store import Store
from trove_steps.errors import TroveStepsError
from trove_steps.files import is_repairing, withdraw
from trove_steps.fingerprint import Fingerprints

ORDERED_AT_ONCE = 1 << 22  # texts that are brought into the order of storage in one go


class Vectors:
    """The vectors of a collection, in file order, read from the shards through memory maps.

    Attributes: `ids` (pa.ChunkedArray of strings), `dim`, `order` int32[n] (text numbers in the order of
    storage: reading in this order is sequential), `manifest`. `len()` is the number of texts. Open, it holds
    12 bytes a text. Threads may share it.
    """

    def __init__(self, manifest: Path):
        self._path = Path(manifest)
        self.manifest, table, names = read_rows(manifest)
        with contextlib.suppress(OSError):
            os.utime(rows_path(manifest))  # see last_use
        folder = self._path.absolute().parent
        self._store = Store(folder.parent.parent, folder.name)
        self._table = table
        self.ids = table.column("id")
        self.dim = self.manifest["dim"]
        shards, rows = table.column("shard").to_numpy(), table.column("row").to_numpy()
        self.order = storage_order(shards, rows)
        self._places = names, shards, rows  # replaced as a whole: threads may be reading
        self._open: OrderedDict[str, Shard] = OrderedDict()
        self._opening, self._looking_up = Lock(), Lock()

    def __len__(self) -> int:
        return len(self._table)

    def take(self, texts: np.ndarray) -> np.ndarray:
        """Return the vectors float32[m, dim] of the texts with these numbers (int64[m]).

        They can't be written to where they are the shard's own memory: texts that follow each other there.
        """
        return self._retried(lambda: self._take(texts))

    @property
    def value_bytes(self) -> int:
        """The bytes that a stored number takes: 4 (float32) or 2 (float16)."""
        if not len(self):
            return 4
        return self._retried(lambda: self._shard(self._places[0][0]).vectors.itemsize)

    def _retried(self, read: Callable):
        """Return what `read` returns; shards that were merged meanwhile are looked up again."""
        while True:
            places = self._places
            try:
                return read()
            except FileNotFoundError as missing:
                with self._looking_up:
                    if self._places is places:  # else another thread has done so
                        self._look_up_again(missing)

    def _take(self, texts: np.ndarray) -> np.ndarray:
        names, shards, rows = self._places
        shards, rows = shards[texts], rows[texts]
        if len(texts) and (shards == shards[0]).all():
            vectors = self._shard(names[shards[0]]).vectors[as_slice(rows)]
            return vectors.astype(np.float32, copy=False)
        vectors = np.empty((len(texts), self.dim), np.float32)
        by_shard = np.argsort(shards, kind="stable")
        for places in np.split(by_shard, np.flatnonzero(np.diff(shards[by_shard])) + 1):
            if len(places):
                shard = self._shard(names[shards[places[0]]])
                vectors[as_slice(places)] = shard.vectors[as_slice(rows[places])]
        return vectors

    def shard_paths(self) -> list[Path]:
        """Return the files that hold the vectors."""
        return [self._store.shard_path(name) for name in self._places[0]]

    def check_shards(self) -> None:
        """Compare the shards with their names, the SHA-256 of their bytes, if they are new or have changed.

        Raises TroveStepsError for a damaged one, sets it aside and withdraws the manifest.
        """
        fingerprints = Fingerprints(self._store.cache_dir)
        for name in self._places[0]:
            path = self._store.shard_path(name)
            if path.exists() and fingerprints.file(path) != name:  # else merged: looked up again
                damage = DamagedShard(f"{path}: its bytes are not those that were written")
                self._store.set_aside(name, damage)
                self._give_up(damage)

    def blocks(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (text numbers int32[m], vectors float32[m, dim]) over all texts in storage order."""
        for start in range(0, len(self), size):
            texts = self.order[start : start + size]
            yield texts, self.take(texts)

    def _shard(self, name: str) -> Shard:
        """Return an open shard; FileNotFoundError if it has vanished."""
        with self._opening:
            if name not in self._open:
                try:
                    self._open[name] = Shard(self._store.shard_path(name))
                except FileNotFoundError:
                    raise
                except (DamagedShard, OSError) as problem:
                    self._give_up(problem)
                if len(self._open) > OPEN_SHARDS:
                    self._open.popitem(last=False)
            self._open.move_to_end(name)
            return self._open[name]

    def _look_up_again(self, missing: FileNotFoundError) -> None:
        """Find the vectors in the shards that there are now: those named have been merged."""
        places = self._store.find(keys_of(self._table))
        if not places.known.all():
            self._give_up(missing)
        # `order` stays: it remains an order of all texts, only no longer the fastest to read in.
        self._places = places.names, places.shards, places.rows

    def _give_up(self, problem: Exception):
        if not is_repairing():  # a step has the corpus encoded again
            check_vectors(self._path)
        raise TroveStepsError(
            f"a shard of the store is missing, damaged or can't be read ({problem}): "
            f"{withdraw(self._path, problem)}; only the shard's texts are encoded anew"
        ) from None


def storage_order(shards: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return int32[n] (int64 from 2³¹ on): the numbers of texts by shard int32[n], then row int32[n].

    Some shards are sorted at a time, so that what the sort itself takes does not go with the texts.
    """
    order = np.empty(len(shards), np.int32 if len(shards) < 1 << 31 else np.int64)
    counts = np.zeros(shards.max(initial=-1) + 1, np.int64)
    for start in range(0, len(shards), ORDERED_AT_ONCE):
        part = np.bincount(shards[start : start + ORDERED_AT_ONCE])
        counts[: len(part)] += part
    ends = np.cumsum(counts)
    first = filled = 0
    while first < len(ends):
        stop = max(first + 1, int(np.searchsorted(ends, filled + ORDERED_AT_ONCE, side="right")))
        texts = np.flatnonzero((shards >= first) & (shards < stop))
        place = shards[texts].astype(np.int64) << 32 | rows[texts]
        order[filled : ends[stop - 1]] = texts[np.argsort(place, kind="stable")]
        first, filled = stop, ends[stop - 1]
    return order


def as_slice(numbers: np.ndarray) -> np.ndarray | slice:
    """Return a slice, which numpy copies at once, where numbers int[n], n > 0, follow each other."""
    first, last = int(numbers[0]), int(numbers[-1])
    follow = last - first == len(numbers) - 1 and (np.diff(numbers) == 1).all()
    return slice(first, last + 1) if follow else numbers
