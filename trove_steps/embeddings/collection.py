"""An encoded collection: a manifest, and a table of its texts that says where the vector of each one is."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from trove_steps.embeddings.paths import dropped_mark, manifest_path
from trove_steps.embeddings.shards import fixed_width, key_column
from trove_steps.embeddings.store import Places, Store
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_manifest, way_to, write_json, written_atomically
from trove_steps.keys import TEXT_KEY_BYTES
from trove_steps.manifest_table import reading

MANIFEST = {"encoder": str, "recipe": dict, "rows": int, "dim": int, "keys_sha256": str}
ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("key", pa.binary(TEXT_KEY_BYTES)),
        ("shard", pa.int32()),
        ("row", pa.int32()),
    ]
)


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
    path = manifest_path(store.cache_dir, store.encoder, role, texts)
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
            "keys_sha256": hashlib.sha256(np.ascontiguousarray(keys)).hexdigest(),
            **(namespaces or {}),
        },
    )
    return path


def _write_rows(manifest: Path, ids: pa.ChunkedArray, keys: np.ndarray, places: Places) -> None:
    used = np.unique(places.shards)
    number_of = np.zeros(len(places.names), np.int32)
    number_of[used] = np.arange(len(used))
    table = pa.table(
        {
            "id": ids,
            "key": key_column(keys),
            "shard": number_of[places.shards],
            "row": places.rows,
        }
    )
    batches = table.to_batches(max_chunksize=1 << 20)
    names = "\n".join(places.names[number] for number in used)
    schema = table.schema.with_metadata({"shards": names, "sha256": _rows_digest(batches, names)})
    with (
        written_atomically(rows_path(manifest)) as temporary,
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
        digest.update(fixed_width(batch.column("key"), np.uint8, TEXT_KEY_BYTES))
        for name in ("shard", "row"):
            digest.update(fixed_width(batch.column(name), np.int32, 1))
    return digest.hexdigest()


def rows_path(manifest: Path) -> Path:
    """Return the file of a collection's rows table."""
    return Path(manifest).with_suffix(".rows.arrow")


def read_rows(manifest: Path) -> tuple[dict, pa.Table, list[str]]:
    """Return a manifest, its rows table and the names of the shards that the table points to.

    Raises TroveStepsError and withdraws the manifest if the table is missing or damaged.
    """
    described = read_manifest(manifest, "a collection", MANIFEST)
    path = rows_path(manifest)
    with reading(path, manifest, "; no vector is computed anew for that"):
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        if len(table) != described["rows"]:
            raise pa.ArrowInvalid(f"{len(table)} rows instead of {described['rows']}")
        if table.schema != ROWS or any(column.null_count for column in table.columns):
            raise pa.ArrowInvalid("other columns than those that were written")
        names = table.schema.metadata[b"shards"].decode()
        if table.schema.metadata[b"sha256"].decode() != _rows_digest(table.to_batches(), names):
            raise pa.ArrowInvalid("its content is not what was written")
    return described, table, names.split("\n") if len(table) else []


def check_vectors(manifest: Path) -> None:
    """Raise TroveStepsError, which says what brings them, where a collection has no vectors."""
    mark = dropped_mark(manifest)
    if not manifest.exists():
        raise TroveStepsError(f"{manifest} is missing: {way_to(manifest)}")
    if mark.exists():
        raise TroveStepsError(
            f"the vectors of {manifest} were removed after the search (keep_embeddings: false); to have "
            f"them again, delete it and {mark}, set keep_embeddings: true and run `snakemake encode`"
        )


def keys_of(table: pa.Table) -> np.ndarray:
    """Return the keys uint8[n, 16] of a rows table."""
    chunks = table.column("key").chunks
    blocks = [fixed_width(chunk, np.uint8, TEXT_KEY_BYTES) for chunk in chunks]
    return np.concatenate(blocks) if blocks else np.empty((0, TEXT_KEY_BYTES), np.uint8)


def collection_keys(manifest: Path) -> np.ndarray:
    """Return the keys uint8[n, 16] of a collection, in file order.

    Raises TroveStepsError and withdraws the manifest if its rows table is missing or damaged.
    """
    return keys_of(read_rows(manifest)[1])


def last_use(manifest: Path) -> float:
    """Return when the vectors of a collection were last written or opened, in Unix time."""
    return rows_path(manifest).stat().st_mtime


def point_anew(store: Store, manifest: Path) -> None:
    """Write the rows table of a collection again if shards that it points to have been merged."""
    _, table, names = read_rows(manifest)
    if all(store.shard_path(name).exists() for name in names):
        return
    keys = keys_of(table)
    places = store.find(keys)
    if places.known.all():  # else readers find out, and withdraw the manifest
        used = last_use(manifest)
        _write_rows(manifest, table.column("id"), keys, places)
        os.utime(rows_path(manifest), (used, used))
