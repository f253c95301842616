"""Writing shards and looking keys up in all of them."""

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trove_steps.embeddings.paths import store_directory
from trove_steps.embeddings.shards import (
    OPEN_SHARDS,
    DamagedShard,
    Shard,
    shard_batch,
    shard_name,
    write_shard,
)
from trove_steps.embeddings.sorted_keys import SortedKeys, unsorted
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json, write_json, written_atomically

KEYS_AT_ONCE = 1 << 19  # keys of shards that a look-up reads in one go


@dataclass(frozen=True)
class Places:
    """Where the vectors of keys are: `shards` int32[n] numbers one of `names`, -1 where there is none, and
    `rows` int32[n] its row. `first` bool[n] marks the first place of each distinct key of the question.
    `dim` is the width of the store's vectors, 0 if it has none."""

    names: list[str]
    shards: np.ndarray
    rows: np.ndarray
    first: np.ndarray
    dim: int

    @property
    def known(self) -> np.ndarray:
        """bool[n]: which keys have a vector."""
        return self.shards >= 0

    def used(self) -> list[str]:
        """Return the names of the shards that hold the vectors."""
        return [self.names[number] for number in np.unique(self.shards[self.known])]


class Store:
    """The vectors of one encoder."""

    def __init__(self, cache_dir: Path, encoder: str):
        self.encoder = encoder
        self.cache_dir = Path(cache_dir)
        self.directory = store_directory(cache_dir, encoder)
        self.shards_directory = self.directory / "shards"

    def shard_names(self) -> list[str]:
        """Return the names of all shards (their content hashes), sorted."""
        return sorted(path.stem for path in self.shards_directory.glob("*.arrow"))

    def shard_path(self, name: str) -> Path:
        """Return the file of a shard."""
        return self.shards_directory / f"{name}.arrow"

    def manifests(self) -> list[Path]:
        """Return the manifests of all collections, sorted."""
        found = (self.directory.glob(f"{role}-*.json") for role in ("corpus", "queries"))
        return sorted(path for paths in found for path in paths)

    def write(self, keys: np.ndarray, vectors: np.ndarray) -> str:
        """Keep vectors[n, dim] (float32 or float16) under keys uint8[n, 16]; return the shard's name.

        Raises TroveStepsError if the disk is full; what was written before stays usable.
        """
        batch = shard_batch(keys, vectors)
        name = shard_name(batch)
        path = self.shard_path(name)
        if path.exists():
            self.touch([name])
        # Seen again after it was touched: meanwhile it may have been merged into another and removed.
        if not path.exists():
            with written_atomically(path) as temporary:
                write_shard(str(temporary), batch)
        return name

    def touch(self, names: list[str]) -> None:
        """Note that these shards are in use now, so that nobody takes them for abandoned."""
        for name in names:
            with contextlib.suppress(OSError):
                os.utime(self.shard_path(name))

    def find(self, keys: np.ndarray) -> Places:
        """Look keys uint8[n, 16] up. A damaged shard is set aside with a warning.

        The keys of all shards pass by in blocks, so that memory (40 bytes a key) goes with the keys
        asked for, not with those of the store. A key that stands in several shards has one place,
        the first in the order of shard names. Raises TroveStepsError if a shard can't be read.
        """
        asked = SortedKeys(keys)
        found_in, rows = np.full(len(keys), -1, np.int32), np.full(len(keys), -1, np.int32)
        names: list[str] = []
        dim = 0
        for shards in self.scan():
            keys = [shard.keys for shard in shards]
            place = asked.places(keys[0] if len(keys) == 1 else np.concatenate(keys))
            hit = np.flatnonzero(place >= 0)[::-1]  # backwards: of equal keys, the first one stays
            hit = hit[found_in[place[hit]] < 0]
            starts = np.cumsum([0, *map(len, shards)])
            number = np.searchsorted(starts, hit, side="right") - 1
            found_in[place[hit]] = number + len(names)
            rows[place[hit]] = hit - starts[number]
            names += [shard.name for shard in shards]
            dim = shards[0].dim
        first, order = asked.fill_repeats(found_in, rows), asked.order
        del asked
        found_in = unsorted(order, found_in)
        rows = unsorted(order, rows)
        return Places(names, found_in, rows, unsorted(order, first), dim)

    def scan(self) -> Iterator[list[Shard]]:
        """Yield some shards at a time, in the order of their names, until every row was seen.

        While this reads, shards may be merged: what replaces them is listed before they vanish. So
        the folder is listed until nothing new appears.
        """
        seen: set[str] = set()
        while new := [name for name in self.shard_names() if name not in seen]:
            seen.update(new)
            held: list[Shard] = []
            for name in new:
                shard = self.open(name)
                if shard is None:
                    continue
                held.append(shard)
                # Each holds a file open: few at once.
                if len(held) == OPEN_SHARDS or sum(map(len, held)) >= KEYS_AT_ONCE:
                    yield held
                    held = []
            if held:
                yield held

    def open(self, name: str) -> Shard | None:
        """Open a shard; a damaged one is set aside. None if there is nothing (left) to open."""
        try:
            return Shard(self.shard_path(name))
        except DamagedShard as damage:
            self.set_aside(name, damage)
        except FileNotFoundError:
            pass  # another job has just merged it or set it aside
        except OSError as error:
            raise TroveStepsError(f"a shard of the store can't be read: {error}") from None
        return None

    def set_aside(self, name: str, damage: Exception) -> None:
        """Rename a damaged shard, so that its rows are encoded again, and say so."""
        path = self.shard_path(name)
        aside = path.with_suffix(".damaged")
        try:
            path.replace(aside)
        except FileNotFoundError:
            return  # another job did so
        except OSError as error:
            aside = f"unused, for it can't be renamed ({error.strerror})"
        print(
            f"warning: a damaged shard was set aside as {aside}; its texts are encoded again ({damage})",
            file=sys.stderr,
        )

    @contextlib.contextmanager
    def maintenance(self) -> Iterator[None]:
        """Hold the lock of those who remove shards, one at a time; a killed one loses it.

        Raises TroveStepsError if another process holds it or the folder can't be written.
        """
        path = self.directory / ".maintenance.lock"
        with contextlib.ExitStack() as held:
            try:
                file = held.enter_context(open(path, "ab"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TroveStepsError(
                    f"{self.directory}: another process compacts or clears it; wait until it has ended"
                ) from None
            except OSError as error:
                raise TroveStepsError(
                    f"{path} can't be written ({error}): check the permissions of {path.parent}"
                ) from None
            yield

    def recipe(self) -> dict | None:
        """Return what the encoder's key stands for, None if no job has finished yet."""
        path = self.directory / "recipe.json"
        return read_json(path) if path.exists() else None

    def write_recipe(self, recipe: dict) -> None:
        """Put the unhashed recipe beside the vectors, for people and for explaining a miss."""
        path = self.directory / "recipe.json"
        if not path.exists():
            write_json(path, recipe)


def encoders(cache_dir: Path) -> list["Store"]:
    """Return the stores of all encoders of a cache, by key."""
    found = (Path(cache_dir) / "embeddings").glob("*/")
    return [Store(cache_dir, path.name) for path in sorted(found)]
