"""The embedding store: one vector per distinct string and encoder, in immutable shards.

    {cache}/embeddings/{encoder}/
        recipe.json                     what the encoder's key stands for
        shards/{sha256}.arrow           key: fixed_size_binary(16), embedding: fixed_size_list<float>[dim]
        {role}-{texts}.json             manifest of a collection: small, deterministic, written last
        {role}-{texts}.rows.arrow       its texts in file order: id, key, shard, row
        records.jsonl                   what each encode job did
        settings.json                   the settings of the latest job and where each came from
        work/                           texts that a running job encodes

A shard is written under a temporary name, flushed and renamed to the hash of its content, so a shard
that exists is whole. Nothing but `Store.write` makes shards, and nothing changes one. A shard may vanish
when it has been merged into a larger one (`trove_steps.compaction`): who misses it looks its keys up again.
"""

import contextlib
import fcntl
import hashlib
import io
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa

from trove_steps.errors import TroveStepsError
from trove_steps.files import (
    read_json,
    read_manifest,
    withdraw,
    write_json,
    written_atomically,
)
from trove_steps.fingerprint import Fingerprints
from trove_steps.keys import TEXT_KEY_BYTES

MANIFEST = {"encoder": str, "recipe": dict, "rows": int, "dim": int, "keys_sha256": str}
ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("key", pa.binary(TEXT_KEY_BYTES)),
        ("shard", pa.int32()),
        ("row", pa.int32()),
    ]
)
OPEN_SHARDS = 128  # memory maps held at once by a reader; each costs a file descriptor
KEYS_AT_ONCE = 1 << 19  # keys of shards that a look-up reads in one go
COMPARED_AT_ONCE = 1 << 17  # and compares in one go
ORDERED_AT_ONCE = 1 << 22  # texts that a reader sorts in one go


def store_directory(cache_dir: Path, encoder: str) -> Path:
    """Return where the vectors of an encoder live."""
    return Path(cache_dir) / "embeddings" / encoder


def manifest_path(cache_dir: Path, encoder: str, role: str, texts: str) -> Path:
    """Return where the manifest of a collection lives; `role` is "corpus" or "queries"."""
    return store_directory(cache_dir, encoder) / f"{role}-{texts}.json"


def encoders(cache_dir: Path) -> list["Store"]:
    """Return the stores of all encoders of a cache, by key."""
    found = (Path(cache_dir) / "embeddings").glob("*/")
    return [Store(cache_dir, path.name) for path in sorted(found)]


def dropped_mark(manifest: Path) -> Path:
    """Return the file that exists while the vectors of a collection have been dropped on purpose."""
    return Path(manifest).with_suffix(".dropped")


class Shard:
    """A memory-mapped shard: `keys` is uint8[rows, 16], `vectors` is float32 or float16[rows, dim].

    Raises DamagedShard if the file is not a shard, OSError if the system can't give it.
    """

    def __init__(self, path: Path):
        self.path, self.name = path, path.stem
        try:
            batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
            keys, embeddings = batch.column("key"), batch.column("embedding")
            dtype = embeddings.type.value_type.to_pandas_dtype()
            self.dim = embeddings.type.list_size
            self.keys = _fixed_width(keys, np.uint8, TEXT_KEY_BYTES)
            self.vectors = _fixed_width(embeddings.values, dtype, 1).reshape(-1, self.dim)
            if len(self.keys) != len(self.vectors):
                raise pa.ArrowInvalid("keys and vectors differ in number")
        except Exception as error:
            # A flipped bit in the file's metadata can make Arrow raise nearly anything. Not damage is
            # what the system reports by number (no such file, no permission, too many open files).
            if isinstance(error, MemoryError) or getattr(error, "errno", None):
                raise
            raise DamagedShard(f"{path}: {error}") from error

    def __len__(self) -> int:
        return len(self.keys)


class DamagedShard(Exception):
    """A shard that can't be read as one."""


def _fixed_width(array: pa.Array, dtype, width: int) -> np.ndarray:
    """View an Arrow array of fixed-width values without nulls as numpy, without a copy."""
    data = array.buffers()[-1]
    values = np.frombuffer(data, dtype=dtype)
    start = array.offset * width
    values = values[start : start + len(array) * width]
    return values.reshape(-1, width) if width > 1 else values


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
        batch = pa.record_batch(
            {
                "key": _key_column(keys),
                "embedding": pa.FixedSizeListArray.from_arrays(
                    pa.array(np.ascontiguousarray(vectors).reshape(-1)), vectors.shape[1]
                ),
            }
        )
        content = _Hash()
        _write_batch(content, batch)
        name = content.digest.hexdigest()
        path = self.shard_path(name)
        if path.exists():
            self.touch([name])
        # Seen again after it was touched: meanwhile it may have been merged into another and removed.
        if not path.exists():
            with written_atomically(path) as temporary:
                _write_batch(str(temporary), batch)
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


class _Hash(io.RawIOBase):
    """A file that keeps nothing but the SHA-256 of what is written."""

    def __init__(self):
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.digest.update(data)
        return len(data)


def _write_batch(sink, batch: pa.RecordBatch) -> None:
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _key_column(keys: np.ndarray) -> pa.Array:
    buffers = [None, pa.py_buffer(np.ascontiguousarray(keys))]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(TEXT_KEY_BYTES), len(keys), buffers)


class SortedKeys:
    """Keys uint8[n, 16], sorted, against which others are compared; keys may repeat. 20 bytes a key, 33
    while it is made. `order` int[n] says which key stands at each place; equal ones stay in order."""

    def __init__(self, keys: np.ndarray):
        high, low = _halves(keys)
        order = _sort(high, low)
        self.order = order.astype(np.int32) if len(order) < 1 << 31 else order
        del order
        self._high = high[self.order]
        del high
        self._low = low[self.order]

    def __len__(self) -> int:
        return len(self._high)

    def places(self, keys: np.ndarray) -> np.ndarray:
        """Return int64[m]: where keys uint8[m, 16] first stand in sorted order, -1 for those not there."""
        places = np.empty(len(keys), np.int64)
        for start in range(0, len(keys), COMPARED_AT_ONCE):
            high, low = _halves(keys[start : start + COMPARED_AT_ONCE])
            # Sorted questions stay in the processor's cache; that pays once the set does not fit there.
            order = np.argsort(high) if len(self) > 1 << 16 else np.arange(len(high))
            places[start + order] = self._first_places(high[order], low[order])
        return places

    def _first_places(self, high: np.ndarray, low: np.ndarray) -> np.ndarray:
        place = np.searchsorted(self._high, high)
        found = np.full(len(high), -1, np.int64)
        open_ones = np.flatnonzero(place < len(self))
        while len(open_ones):
            at = place[open_ones]
            same_high = self._high[at] == high[open_ones]
            match = same_high & (self._low[at] == low[open_ones])
            found[open_ones[match]] = at[match]
            open_ones = open_ones[same_high & ~match]
            place[open_ones] += 1
            open_ones = open_ones[place[open_ones] < len(self)]
        return found

    def fill_repeats(self, *columns: np.ndarray) -> np.ndarray:
        """Give equal keys equal values in columns[n], in sorted order, which have one at each key's first
        place; return bool[n], in sorted order, which places these are."""
        again = np.zeros(len(self), bool)
        again[1:] = self._high[1:] == self._high[:-1]
        again[1:] &= self._low[1:] == self._low[:-1]
        repeated = np.flatnonzero(again)
        if len(repeated):
            firsts = self._first_places(self._high[repeated], self._low[repeated])
            for column in columns:
                column[repeated] = column[firsts]
        return ~again


def unsorted(order: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Bring column[n], which is in the order of `SortedKeys.order`, into the order of the keys given."""
    result = np.empty_like(column)
    result[order] = column
    return result


def first_of_each(keys: np.ndarray) -> np.ndarray:
    """Return bool[n]: which of keys uint8[n, 16] stand at a place before all their equals."""
    in_order = SortedKeys(keys)
    return unsorted(in_order.order, in_order.fill_repeats())


def _sort(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Return int64[n]: the order by (high, low, position). High halves hardly ever tie but for equal keys,
    and a sort by one number is several times as fast as one by three."""
    order = np.argsort(high)
    in_order = high[order]
    tied = np.zeros(len(high), bool)
    tied[1:] = in_order[1:] == in_order[:-1]
    del in_order
    tied[:-1] |= tied[1:].copy()
    places = np.flatnonzero(tied)
    among = order[places]
    order[places] = among[np.lexsort((among, low[among], high[among]))]
    return order


def _halves(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pairs = np.ascontiguousarray(keys).view(">u8").reshape(-1, 2)
    return pairs[:, 0].astype(np.uint64), pairs[:, 1].astype(np.uint64)


def write_collection(
    store: Store,
    role: str,
    texts: str,
    ids: pa.ChunkedArray,
    keys: np.ndarray,
    places: Places,
    recipe: dict,
    namespaces: dict | None = None,
) -> Path:
    """Write the rows table of a collection and, last, its manifest; return the manifest's path.

    `ids` are strings, `keys` uint8[n, 16] in the same order, `places` where their vectors are;
    `namespaces` is what the manifest says of ids that several files hold (see `data.named`). The manifest
    says only what is fixed by the collection's texts and the encoder, so that making it again gives the
    same bytes. Raises TroveStepsError if the store does not hold all vectors.
    """
    path = store.directory / f"{role}-{texts}.json"
    lost = len(keys) - int(places.known.sum())
    if lost:
        raise TroveStepsError(
            f"{lost} of {len(keys)} vectors are not in the store {store.directory} after encoding: was "
            "it deleted or damaged meanwhile? Run again; what is there is kept"
        )
    _write_rows(path, ids, keys, places)
    write_json(
        path,
        {
            "encoder": store.encoder,
            "role": role,
            "texts": texts,
            "recipe": recipe,
            "rows": len(keys),
            "dim": places.dim,
            "keys_sha256": hashlib.sha256(keys.tobytes()).hexdigest(),
            **(namespaces or {}),
        },
    )
    return path


def _write_rows(manifest: Path, ids: pa.ChunkedArray, keys: np.ndarray, places: Places) -> None:
    used, shards = np.unique(places.shards, return_inverse=True)
    table = pa.table(
        {
            "id": ids,
            "key": _key_column(keys),
            "shard": shards.astype(np.int32),
            "row": places.rows,
        }
    )
    batches = table.to_batches(max_chunksize=1 << 20)
    names = "\n".join(places.names[number] for number in used)
    schema = table.schema.with_metadata({"shards": names, "sha256": _rows_digest(batches, names)})
    with (
        written_atomically(_rows_path(manifest)) as temporary,
        pa.ipc.new_file(str(temporary), schema) as writer,
    ):
        for batch in batches:
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))


def _rows_digest(batches: Iterable[pa.RecordBatch], names: str) -> str:
    """Return the SHA-256 of what a rows table says: ids with their lengths, keys, shards and rows."""
    digest = hashlib.sha256(names.encode())
    for batch in batches:
        ids = batch.column("id")
        if len(ids):
            offsets = np.frombuffer(ids.buffers()[1], np.int32)[ids.offset :][: len(ids) + 1]
            digest.update(np.diff(offsets))
            if ids.buffers()[2] is not None:
                digest.update(memoryview(ids.buffers()[2])[offsets[0] : offsets[-1]])
        digest.update(_fixed_width(batch.column("key"), np.uint8, TEXT_KEY_BYTES))
        for name in ("shard", "row"):
            digest.update(_fixed_width(batch.column(name), np.int32, 1))
    return digest.hexdigest()


def _rows_path(manifest: Path) -> Path:
    return Path(manifest).with_suffix(".rows.arrow")


def _read_rows(manifest: Path) -> tuple[dict, pa.Table, list[str]]:
    """Return a manifest, its rows table and the names of the shards that the table points to.

    Raises TroveStepsError and withdraws the manifest if the table is missing or damaged.
    """
    described = read_manifest(manifest, "a collection", MANIFEST)
    path = _rows_path(manifest)
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        if len(table) != described["rows"]:
            raise pa.ArrowInvalid(f"{len(table)} rows instead of {described['rows']}")
        if table.schema != ROWS or any(column.null_count for column in table.columns):
            raise pa.ArrowInvalid("other columns than those that were written")
        names = table.schema.metadata[b"shards"].decode()
        if table.schema.metadata[b"sha256"].decode() != _rows_digest(table.to_batches(), names):
            raise pa.ArrowInvalid("its content is not what was written")
    # Arrow raises nearly anything for a flipped bit in a file's metadata.
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        raise TroveStepsError(
            f"{path} can't be read ({error}): {withdraw(manifest, error)}; "
            "no vector is computed anew for that"
        ) from None
    return described, table, names.split("\n") if len(table) else []


def _keys_of(table: pa.Table) -> np.ndarray:
    chunks = table.column("key").chunks
    blocks = [_fixed_width(chunk, np.uint8, TEXT_KEY_BYTES) for chunk in chunks]
    return np.concatenate(blocks) if blocks else np.empty((0, TEXT_KEY_BYTES), np.uint8)


def collection_keys(manifest: Path) -> np.ndarray:
    """Return the keys uint8[n, 16] of a collection, in file order.

    Raises TroveStepsError and withdraws the manifest if its rows table is missing or damaged.
    """
    return _keys_of(_read_rows(manifest)[1])


def last_use(manifest: Path) -> float:
    """Return when the vectors of a collection were last written or opened, in Unix time."""
    return _rows_path(manifest).stat().st_mtime


def point_anew(store: Store, manifest: Path) -> None:
    """Write the rows table of a collection again if shards that it points to have been merged."""
    _, table, names = _read_rows(manifest)
    if all(store.shard_path(name).exists() for name in names):
        return
    keys = _keys_of(table)
    places = store.find(keys)
    if places.known.all():  # else readers find out, and withdraw the manifest
        used = last_use(manifest)
        _write_rows(manifest, table.column("id"), keys, places)
        os.utime(_rows_path(manifest), (used, used))


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


class Vectors:
    """The vectors of a collection, in file order, read from the shards through memory maps.

    Attributes: `ids` (pa.ChunkedArray of strings), `dim`, `order` int32[n] (text numbers in the order of
    storage: reading in this order is sequential), `manifest`. `len()` is the number of texts. Open, it holds
    12 bytes a text. Threads may share it.
    """

    def __init__(self, manifest: Path):
        self._path = Path(manifest)
        self.manifest, table, names = _read_rows(manifest)
        with contextlib.suppress(OSError):
            os.utime(_rows_path(manifest))  # see last_use
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
        places = self._store.find(_keys_of(self._table))
        if not places.known.all():
            self._give_up(missing)
        # `order` stays: it remains an order of all texts, only no longer the fastest to read in.
        self._places = places.names, places.shards, places.rows

    def _give_up(self, problem: Exception):
        raise TroveStepsError(
            f"a shard of the store is missing, damaged or can't be read ({problem}): "
            f"{withdraw(self._path, problem)}; only the shard's texts are encoded anew"
        ) from None
