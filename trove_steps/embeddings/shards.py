"""One shard: keys and vectors in an Arrow file, named by the SHA-256 of its bytes."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa

from trove_steps.keys import TEXT_KEY_BYTES

OPEN_SHARDS = 128  # memory maps held at once by a reader; each costs a file descriptor


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
            self.keys = fixed_width(keys, np.uint8, TEXT_KEY_BYTES)
            self.vectors = fixed_width(embeddings.values, dtype, 1).reshape(-1, self.dim)
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


def shard_batch(keys: np.ndarray, vectors: np.ndarray) -> pa.RecordBatch:
    """Return what a shard of vectors[n, dim] (float32 or float16) under keys uint8[n, 16] holds."""
    values = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    embeddings = pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])
    return pa.record_batch({"key": key_column(keys), "embedding": embeddings})


def write_shard(sink, batch: pa.RecordBatch) -> None:
    """Write a shard to a path (str) or a binary file, always with the same bytes."""
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def shard_name(batch: pa.RecordBatch) -> str:
    """Return the SHA-256 of the file that `write_shard` makes, 64 hex digits."""
    content = _Hash()
    write_shard(content, batch)
    return content.digest.hexdigest()


class _Hash(io.RawIOBase):
    """A file that keeps nothing but the SHA-256 of what is written."""

    def __init__(self):
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.digest.update(data)
        return len(data)


def key_column(keys: np.ndarray) -> pa.Array:
    """Return keys uint8[n, 16] as an Arrow column, without a copy."""
    buffers = [None, pa.py_buffer(np.ascontiguousarray(keys))]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(TEXT_KEY_BYTES), len(keys), buffers)


def fixed_width(array: pa.Array, dtype, width: int) -> np.ndarray:
    """View an Arrow array of fixed-width values without nulls as numpy, without a copy."""
    data = array.buffers()[-1]
    values = np.frombuffer(data, dtype=dtype)
    start = array.offset * width
    values = values[start : start + len(array) * width]
    return values.reshape(-1, width) if width > 1 else values
