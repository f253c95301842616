"""Vectors that were computed elsewhere, brought into the store, where searches find them like all others.

A collection's files are NumPy arrays (.npy, [n, dim]) and text files with their ids, one a line, or Parquet
and Arrow files with a column of ids and one of vectors. Files count in order. If no file holds ids, those
of the data set's texts are taken, in order; if both are there, they must be the same ids, in any order. The
collection has the order of the texts, so that a row of it is a record of the texts' files.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from trove_steps.arguments import shown_path
from trove_steps.data import read_records, reader_of
from trove_steps.data.ids import RECORD_ID_NAMES, bad_id, bad_id_message, shortened
from trove_steps.data.opening import Source
from trove_steps.data.tables import column_batches
from trove_steps.embeddings.collection import write_collection
from trove_steps.embeddings.store import Store
from trove_steps.errors import TroveStepsError
from trove_steps.fingerprint import check_unchanged
from trove_steps.keys import TEXT_KEY_BYTES, imported_recipe, recipe_key, text_keys
from trove_steps.progress import progress_bar

BLOCK_BYTES = 64 << 20
NPY = b"\x93NUMPY"
LAYOUT = "an .npy file with a file of ids, or a Parquet or Arrow file with a column of ids and one of vectors"


@dataclass(frozen=True)
class Files:
    """What a collection is made of: files of vectors and ids, files of texts, their SHA-256, and how each
    file of texts is read (see `trove_steps.encoding.job.Job`)."""

    vectors: list[Path]
    texts: list[Path]
    vector_digests: list[str]
    text_digests: list[str]
    readers: list[dict] | None = None


def import_vectors(cache_dir: Path, role: str, files: Files) -> Path:
    """Write vectors to the store and their manifest; return the manifest's path.

    Raises TroveStepsError, naming file and id, where number, width or ids do not fit, or a vector holds
    NaN or infinity.
    """
    for path, digest in zip(
        [*files.vectors, *files.texts], [*files.vector_digests, *files.text_digests], strict=True
    ):
        check_unchanged(path, digest, shown_path(path))
    recipe = imported_recipe(files.vector_digests, files.text_digests, files.readers)
    key = recipe_key(recipe)
    store = Store(cache_dir, f"imported-{key}")
    ids, texts_ids = _ids(files)
    keys = _keys(ids)
    done, dim = 0, None
    bar = progress_bar(len(ids), f"import {role}", "vectors", shown=True)
    for name, block in _blocks(files.vectors):
        dim = block.shape[1] if dim is None else dim
        part = slice(done, done + len(block))
        _check_block(name, block, dim, ids[part])
        store.write(keys[part], block)
        done += len(block)
        bar.update(len(block))
    bar.close()
    if done != len(ids):
        raise TroveStepsError(
            f"{_listed(files.vectors)}: {done:,} vectors for {len(ids):,} ids: each id needs one vector"
        )
    store.write_recipe(recipe)
    if texts_ids:
        ids, keys = texts_ids, _keys(texts_ids)
    column = pa.chunked_array([pa.array(ids, pa.string())])
    return write_collection(store, role, key, column, keys, store.find(keys), recipe)


def _listed(paths: list[Path]) -> str:
    return ", ".join(map(shown_path, paths))


def _keys(ids: list[str]) -> np.ndarray:
    return np.frombuffer(text_keys(ids), np.uint8).reshape(-1, TEXT_KEY_BYTES)


def _ids(files: Files) -> tuple[list[str], list[str]]:
    """Return the ids of all vectors and those of all texts, in order; the latter may be unknown."""
    own: list[str] = []
    for path in files.vectors:
        own += _ids_of(path)
    known = [
        i
        for path, given in zip(files.texts, files.readers or [{}] * len(files.texts), strict=True)
        for b in read_records(path, shown_as=shown_path(path), reader=reader_of(given))
        for i in b.ids
    ]
    if not (own or known):
        raise TroveStepsError(
            f"{_listed(files.vectors)}: no ids; a collection is {LAYOUT}, unless the data set's texts have "
            "the ids in the same order"
        )
    name = _listed(files.vectors if own else files.texts)
    ids = own or known
    if (place := bad_id(ids)) is not None:
        raise TroveStepsError(f"{name}: {bad_id_message(ids[place])}")
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(i for i in ids if i in seen or seen.add(i))
        raise TroveStepsError(f"{name}: the id {shortened(twice)} stands there twice")
    if own and known and set(own) != set(known):
        lacking, extra = sorted(set(known) - set(own)), sorted(set(own) - set(known))
        wrong = (
            f"{len(lacking):,} ids of {_listed(files.texts)} have no vector, {shortened(lacking[0])} for one"
            if lacking
            else f"{len(extra):,} ids are not in {_listed(files.texts)}, {shortened(extra[0])} for one"
        )
        raise TroveStepsError(f"{name}: {wrong}")
    return ids, known


def _is_npy(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(NPY)) == NPY


def _ids_of(path: Path) -> list[str]:
    if _is_npy(path):
        return []
    ids: list[str] = []
    with Source(path, shown_path(path)) as source:
        if source.format == "text":
            for _, lines in source.lines():
                ids += [line.decode().rstrip("\r") for line in lines if line.strip()]
            return ids
        for _, batch in column_batches(source, lambda names: [_id_column(source, names)], 65536):
            ids += map(str, batch.column(0).to_pylist())
    return ids


def _id_column(source: Source, names: list[str]) -> str:
    found = [name for name in names if name in RECORD_ID_NAMES]
    if len(found) != 1:
        raise TroveStepsError(
            f"{source.name}: {len(found)} columns of ids among {shortened(names)}: exactly one, such as _id, "
            "is needed"
        )
    return found[0]


def _blocks(paths: list[Path]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name of the file, vectors [m, dim], float32 or float16) in order."""
    for path in paths:
        name = shown_path(path)
        if _is_npy(path):
            yield from _npy_blocks(path, name)
            continue
        with Source(path, name) as source:
            if source.format != "text":
                yield from _column_blocks(source)


def _npy_blocks(path: Path, name: str) -> Iterator[tuple[str, np.ndarray]]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise TroveStepsError(f"{name}: not a readable .npy file ({error})") from None
    if array.ndim != 2 or array.dtype.kind != "f":
        raise TroveStepsError(
            f"{name}: an array of {array.dtype} and shape {array.shape}, where floating-point numbers of "
            "shape (vectors, dimensions) are needed"
        )
    step = max(1, BLOCK_BYTES // max(1, 4 * array.shape[1]))
    for start in range(0, len(array), step):
        yield name, _as_stored(array[start : start + step])


def _column_blocks(source: Source) -> Iterator[tuple[str, np.ndarray]]:
    def every(names: list[str]) -> list[str]:
        return [name for name in names if name not in RECORD_ID_NAMES]

    held: list[np.ndarray] = []
    for row, batch in column_batches(source, every, 65536):
        lists = [column for column in batch.columns if _is_vector(column.type)]
        if len(lists) != 1:
            raise TroveStepsError(
                f"{source.name}: {len(lists)} columns of vectors among {shortened(batch.schema.names)}: "
                "exactly one list of floating-point numbers is needed"
            )
        lengths = np.unique(lists[0].value_lengths().to_numpy(zero_copy_only=False))
        if lists[0].null_count or len(lengths) > 1:
            raise TroveStepsError(
                f"{source.name}, near row {row}: vectors of unlike width, or none: all need the same"
            )
        values = lists[0].flatten().to_numpy(zero_copy_only=False)
        held.append(_as_stored(values.reshape(batch.num_rows, -1)))
        if sum(block.nbytes for block in held) >= BLOCK_BYTES:
            yield source.name, np.concatenate(held)
            held = []
    if held:
        yield source.name, np.concatenate(held)


def _is_vector(kind: pa.DataType) -> bool:
    lists = (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
    return lists and pa.types.is_floating(kind.value_type)


def _as_stored(values: np.ndarray) -> np.ndarray:
    """Return float16 as it is and everything else as float32."""
    return np.ascontiguousarray(values, np.float16 if values.dtype == np.float16 else np.float32)


def _check_block(name: str, block: np.ndarray, dim: int, ids: list[str]) -> None:
    if block.shape[1] != dim:
        raise TroveStepsError(f"{name}: vectors of {block.shape[1]} dimensions after some of {dim}")
    bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if len(bad) and bad[0] < len(ids):
        raise TroveStepsError(
            f"{name}: the vector of {shortened(ids[bad[0]])} holds NaN or infinity, as do "
            f"{len(bad) - 1} more near it"
        )
    if len(block) > len(ids):
        raise TroveStepsError(f"{name}: there are more vectors than ids: each id needs one vector")
