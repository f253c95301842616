"""Encoded collections as one dense file, for other programs; and as arrays, for notebooks.

Formats: npy, safetensors and faiss hold the vectors and have the ids beside them, one a line, in
{file}.ids.txt; parquet and arrow hold both. arrow is the layout of Trove's own embedding caches.
Vectors are float32 and in file order. Memory is bounded by a block, but for safetensors and faiss.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from trove_steps.errors import TroveStepsError
from trove_steps.files import written_atomically

BLOCK_BYTES = 64 << 20
TROVE_BATCH_ROWS = 1000  # what Trove writes, and reads at most, at once


def as_arrays(vectors, path: Path | None = None) -> tuple[list[str], np.ndarray]:
    """Return ids and float32[n, dim], in memory or memory-mapped from `path`, a .npy file that is written."""
    ids = vectors.ids.to_pylist()
    if path is None:
        return ids, np.require(vectors.take(np.arange(len(vectors))), requirements="W")
    with written_atomically(Path(path)) as temporary:
        _write_npy(temporary, vectors)
    return ids, np.load(path, mmap_mode="r")


def export(vectors, path: Path, kind: str | None = None) -> list[Path]:
    """Write vectors (a Vectors, or what wraps one) to a file; return the files that were written.

    `kind` is one of FORMATS; by default the ending of the path says it.
    """
    path = Path(path)
    kind = kind or ENDINGS.get(path.suffix)
    if kind is None:
        raise TroveStepsError(
            f"{path}: its ending says no format; it should be one of {', '.join(ENDINGS)}"
        )
    files = [path] if kind in WITH_IDS else [path, path.with_name(f"{path.name}.ids.txt")]
    with written_atomically(path) as temporary:
        FORMATS[kind](temporary, vectors)
        for ids in files[1:]:  # there before the vectors are, and not without them
            _write_ids(ids, vectors)
    return files


def _blocks(vectors, rows: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number of the first text, vectors float32[m, dim]) in file order."""
    step = rows or max(1, BLOCK_BYTES // (4 * max(1, vectors.dim)))
    for start in range(0, len(vectors), step):
        yield start, vectors.take(np.arange(start, min(start + step, len(vectors))))


def _write_ids(path: Path, vectors) -> None:
    with written_atomically(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(f"{name}\n" for name in vectors.ids.to_pylist())


def _write_npy(path: Path, vectors) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(vectors), vectors.dim)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for _, block in _blocks(vectors):
            file.write(np.ascontiguousarray(block, "<f4").tobytes())


def _write_safetensors(path: Path, vectors) -> None:
    from safetensors.numpy import save_file

    save_file({"embeddings": vectors.take(np.arange(len(vectors)))}, path)


def _write_faiss(path: Path, vectors) -> None:
    try:
        import faiss
    except ImportError:
        raise TroveStepsError(
            "the format faiss needs the package faiss: pip install faiss-cpu"
        ) from None
    index = faiss.IndexFlatIP(vectors.dim)
    for _, block in _blocks(vectors):
        index.add(block)
    faiss.write_index(index, str(path))


def _write_parquet(path: Path, vectors) -> None:
    import pyarrow.parquet as pq

    schema = pa.schema([("id", pa.string()), ("embedding", pa.list_(pa.float32(), vectors.dim))])
    with pq.ParquetWriter(path, schema) as writer:
        for start, block in _blocks(vectors):
            lists = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), vectors.dim)
            ids = vectors.ids.slice(start, len(block)).combine_chunks()
            writer.write_table(pa.table([ids, lists], schema=schema))


def _write_arrow(path: Path, vectors) -> None:
    schema = pa.schema([("_id", pa.string()), ("value", pa.list_(pa.float32()))])
    with pa.ipc.new_file(str(path), schema) as writer:
        for start, block in _blocks(vectors, TROVE_BATCH_ROWS):
            offsets = pa.array(np.arange(len(block) + 1, dtype=np.int32) * vectors.dim)
            lists = pa.ListArray.from_arrays(offsets, pa.array(block.reshape(-1)))
            ids = vectors.ids.slice(start, len(block)).combine_chunks()
            writer.write_batch(pa.record_batch([ids, lists], schema=schema))


FORMATS: dict[str, Callable] = {
    "npy": _write_npy,
    "parquet": _write_parquet,
    "arrow": _write_arrow,
    "safetensors": _write_safetensors,
    "faiss": _write_faiss,
}
WITH_IDS = ("parquet", "arrow")
ENDINGS = {f".{kind}": kind for kind in FORMATS}
