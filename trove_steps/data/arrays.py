"""Between numpy, Python and Arrow, without the import of pandas that pyarrow's own conversions begin
with, which would cost a planner more time than all it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def from_numpy(values: np.ndarray) -> pa.Array:
    """Return int64 or float64 values as an Arrow array over the same memory."""
    import pyarrow as pa

    kind = {"i": pa.int64(), "f": pa.float64()}[values.dtype.kind]
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def from_booleans(values: np.ndarray) -> pa.BooleanArray:
    """Return truth values (bool [n]) as an Arrow array."""
    import numpy as np
    import pyarrow as pa

    bits = np.packbits(values, bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(bits)])


def to_numpy(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return numbers without nulls as a numpy array of the same type."""
    import numpy as np
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks() if values.num_chunks else pa.nulls(0, values.type)
    return np.from_dlpack(values)


def from_strings(values: list[str]) -> pa.StringArray:
    """Return strings as an Arrow array; they may take 2 GiB together."""
    import numpy as np
    import pyarrow as pa

    encoded = [value.encode() for value in values]
    ends = np.zeros(len(values) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=ends[1:])
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.large_string(), len(values), buffers).cast(pa.string())
