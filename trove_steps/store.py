"""The embedding store: one vector per distinct string and encoder, in immutable shards.

    {cache}/embeddings/{encoder}/
        recipe.json                     what the encoder's key stands for
        shards/{sha256}.arrow           key: fixed_size_binary(16), embedding: fixed_size_list<float>[dim]
        {role}-{texts}.json             manifest of a collection: small, deterministic, written last
        {role}-{texts}.rows.arrow       its texts in file order: id, key, shard, row

A shard is written under a temporary name, flushed and renamed to the hash of its content, so a shard
that exists is whole. Nothing but `Store.write` makes shards, and nothing changes one.
"""

import hashlib
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json, withdraw, write_json, written_atomically
from trove_steps.keys import TEXT_KEY_BYTES

OPEN_SHARDS = 128  # memory maps held at once by a reader; each costs a file descriptor


def store_directory(cache_dir: Path, encoder: str) -> Path:
    """Return where the vectors of an encoder live."""
    return Path(cache_dir) / "embeddings" / encoder


def manifest_path(cache_dir: Path, encoder: str, role: str, texts: str) -> Path:
    """Return where the manifest of a collection lives; `role` is "corpus" or "queries"."""
    return store_directory(cache_dir, encoder) / f"{role}-{texts}.json"


class Shard:
    """A memory-mapped shard: `keys` is uint8[rows, 16], `vectors` is float32 or float16[rows, dim].

    Raises DamagedShard if the file is not a shard, OSError if the system can't give it.
    """

    def __init__(self, path: Path):
        self.path = path
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


class Store:
    """The vectors of one encoder."""

    def __init__(self, cache_dir: Path, encoder: str):
        self.encoder = encoder
        self.directory = store_directory(cache_dir, encoder)
        self.shards_directory = self.directory / "shards"

    def shard_names(self) -> list[str]:
        """Return the names of all shards (their content hashes), sorted."""
        return sorted(path.stem for path in self.shards_directory.glob("*.arrow"))

    def shard_path(self, name: str) -> Path:
        """Return the file of a shard."""
        return self.shards_directory / f"{name}.arrow"

    def write(self, keys: np.ndarray, vectors: np.ndarray) -> str:
        """Keep vectors[n, dim] (float32 or float16) under keys uint8[n, 16]; return the shard's name.

        Raises TroveStepsError if the disk is full; what was written before stays usable.
        """
        table = pa.record_batch(
            {
                "key": pa.FixedSizeBinaryArray.from_buffers(
                    pa.binary(TEXT_KEY_BYTES), len(keys), [None, pa.py_buffer(keys.tobytes())]
                ),
                "embedding": pa.FixedSizeListArray.from_arrays(
                    pa.array(np.ascontiguousarray(vectors).reshape(-1)), vectors.shape[1]
                ),
            }
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_batch(table)
        content = sink.getvalue()
        name = hashlib.sha256(content).hexdigest()
        if not self.shard_path(name).exists():
            with written_atomically(self.shard_path(name)) as temporary:
                temporary.write_bytes(content)
        return name

    def index(self) -> "Index":
        """Read the keys of all shards. A damaged shard is set aside with a warning."""
        names, keys = [], []
        for name in self.shard_names():
            try:
                keys.append(np.array(Shard(self.shard_path(name)).keys))
                names.append(name)
            except DamagedShard as damage:
                self._set_aside(name, damage)
            except FileNotFoundError:
                continue  # another job has just set it aside
            except OSError as error:
                raise TroveStepsError(f"a shard of the store can't be read: {error}") from None
        return Index(names, keys)

    def _set_aside(self, name: str, damage: DamagedShard) -> None:
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

    def write_recipe(self, recipe: dict) -> None:
        """Put the unhashed recipe beside the vectors, for people and for explaining a miss."""
        path = self.directory / "recipe.json"
        if not path.exists():
            write_json(path, recipe)


class Index:
    """Where the vector of a text key is: 24 bytes of memory per row.

    Keys are kept as two sorted columns of 64 bits; a key that stands in several shards has one place,
    the first in the order of shard names, whatever the order in which they were written.
    """

    def __init__(self, names: list[str], keys: list[np.ndarray]):
        self.names = names
        sizes = [len(block) for block in keys]
        both = np.concatenate(keys) if keys else np.empty((0, TEXT_KEY_BYTES), np.uint8)
        high, low = _halves(both)
        del both, keys
        order = np.lexsort((low, high))
        self.high, self.low = high[order], low[order]
        shards = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        rows = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes] or [shards])
        self.shards, self.rows = shards[order], rows[order]

    def __len__(self) -> int:
        return len(self.high)

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (shard number int32[n], row int32[n]) of keys uint8[n, 16]; -1 where unknown."""
        high, low = _halves(keys)
        place = np.searchsorted(self.high, high, side="left")
        found = np.full(len(keys), -1, np.int64)
        open_ones = np.flatnonzero(place < len(self))
        while len(open_ones):
            at = place[open_ones]
            same_high = self.high[at] == high[open_ones]
            match = same_high & (self.low[at] == low[open_ones])
            found[open_ones[match]] = at[match]
            open_ones = open_ones[same_high & ~match]
            place[open_ones] += 1
            open_ones = open_ones[place[open_ones] < len(self)]
        known = found >= 0
        shard, row = np.full(len(keys), -1, np.int32), np.full(len(keys), -1, np.int32)
        shard[known], row[known] = self.shards[found[known]], self.rows[found[known]]
        return shard, row


def _halves(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pairs = np.ascontiguousarray(keys).view(">u8").reshape(-1, 2)
    return pairs[:, 0].astype(np.uint64), pairs[:, 1].astype(np.uint64)


def write_collection(store: Store, role: str, texts: str, collection: dict, recipe: dict) -> Path:
    """Write the rows table of a collection and, last, its manifest; return the manifest's path.

    `collection` holds `ids` (pa.ChunkedArray of strings), `keys` uint8[n, 16], `shards` and `rows`
    int32[n] and `names`, the shards' names. The manifest says only what is fixed by the collection's
    texts and the encoder, so that making it again gives the same bytes.
    """
    path = store.directory / f"{role}-{texts}.json"
    keys = collection["keys"]
    used, shards = np.unique(collection["shards"], return_inverse=True)
    names = [collection["names"][number] for number in used]
    table = pa.table(
        {
            "id": collection["ids"],
            "key": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(TEXT_KEY_BYTES), len(keys), [None, pa.py_buffer(keys.tobytes())]
            ),
            "shard": shards.astype(np.int32),
            "row": collection["rows"],
        }
    ).replace_schema_metadata({"shards": "\n".join(names)})
    with (
        written_atomically(path.with_suffix(".rows.arrow")) as temporary,
        pa.ipc.new_file(str(temporary), table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=1 << 20)
    write_json(
        path,
        {
            "encoder": store.encoder,
            "role": role,
            "texts": texts,
            "recipe": recipe,
            "rows": len(keys),
            "dim": collection["dim"],
            "keys_sha256": hashlib.sha256(keys.tobytes()).hexdigest(),
            **collection.get("namespaces", {}),
        },
    )
    return path


class Vectors:
    """The vectors of a collection, in file order, read from the shards through memory maps.

    Attributes: `ids` (pa.ChunkedArray of strings), `dim`, `order` int64[n] (text numbers in the order of
    storage: reading in this order is sequential), `manifest`. `len()` is the number of texts.
    """

    def __init__(self, manifest: Path):
        self.manifest = read_json(manifest)
        directory = Path(manifest).parent
        rows_path = Path(manifest).with_suffix(".rows.arrow")
        try:
            table = pa.ipc.open_file(pa.memory_map(str(rows_path))).read_all()
            if len(table) != self.manifest["rows"]:
                raise pa.ArrowInvalid(f"{len(table)} rows instead of {self.manifest['rows']}")
        except (OSError, pa.ArrowException) as error:
            raise TroveStepsError(
                f"{rows_path} can't be read ({error}): {withdraw(manifest, error)}; "
                "no vector is computed anew for that"
            ) from None
        self._path = Path(manifest)
        names = table.schema.metadata[b"shards"].decode().split("\n") if len(table) else []
        self._paths = [directory / "shards" / f"{name}.arrow" for name in names]
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self.ids = table.column("id")
        self.dim = self.manifest["dim"]
        self._shards = table.column("shard").to_numpy()
        self._rows = table.column("row").to_numpy()
        self.order = np.lexsort((self._rows, self._shards))

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, texts: np.ndarray) -> np.ndarray:
        """Return the vectors float32[m, dim] of the texts with these numbers (int64[m])."""
        vectors = np.empty((len(texts), self.dim), np.float32)
        shards, rows = self._shards[texts], self._rows[texts]
        by_shard = np.argsort(shards, kind="stable")
        for places in np.split(by_shard, np.flatnonzero(np.diff(shards[by_shard])) + 1):
            if len(places):
                shard = self._shard(int(shards[places[0]]))
                vectors[places] = shard.vectors[rows[places]]
        return vectors

    def blocks(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (text numbers int64[m], vectors float32[m, dim]) over all texts in storage order."""
        for start in range(0, len(self), size):
            texts = self.order[start : start + size]
            yield texts, self.take(texts)

    def _shard(self, number: int) -> Shard:
        if number not in self._open:
            path = self._paths[number]
            try:
                self._open[number] = Shard(path)
            except (DamagedShard, OSError) as problem:
                raise TroveStepsError(
                    f"a shard of the store is missing, damaged or can't be read ({problem}): "
                    f"{withdraw(self._path, problem)}; only the shard's texts are encoded anew"
                ) from None
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]
