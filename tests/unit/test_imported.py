"""Vectors that were computed elsewhere: every layout gives the same collection, every mistake is named."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import write_jsonl
from trove_steps import load_embeddings
from trove_steps.embeddings.imported import Files, import_vectors
from trove_steps.embeddings.vectors import Vectors
from trove_steps.errors import TroveStepsError
from trove_steps.fingerprint import hash_file

IDS = [f"d{n}" for n in range(7)]
VECTORS = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)


def bring(folder, *vectors, texts=()):
    files = Files(
        list(vectors), list(texts), list(map(hash_file, vectors)), list(map(hash_file, texts))
    )
    return import_vectors(folder / "cache", "corpus", files)


def npy(folder, array=VECTORS, name="v.npy"):
    np.save(folder / name, array)
    return folder / name


def id_file(folder, ids=IDS):
    (folder / "ids.txt").write_text("".join(f"{i}\n" for i in ids))
    return folder / "ids.txt"


def parquet(folder, ids=IDS, vectors=VECTORS, name="v.parquet", **columns):
    lists = pa.array([list(vector) for vector in vectors], pa.list_(pa.float32()))
    pq.write_table(pa.table({"_id": ids, "embedding": lists, **columns}), folder / name)
    return folder / name


def arrow(folder):
    table = pq.read_table(parquet(folder)).rename_columns(["_id", "value"])  # Trove's own names
    with pa.ipc.new_file(str(folder / "v.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return folder / "v.arrow"


def corpus(folder, ids=IDS):
    return write_jsonl(folder / "corpus.jsonl", ({"_id": i, "text": "x"} for i in ids))


LAYOUTS = {
    "npy and ids": lambda folder: bring(folder, npy(folder), id_file(folder)),
    "npy and texts": lambda folder: bring(folder, npy(folder), texts=[corpus(folder)]),
    "npy in parts": lambda folder: bring(
        folder,
        npy(folder, VECTORS[:3], "a.npy"),
        npy(folder, VECTORS[3:], "b.npy"),
        id_file(folder),
    ),
    "float64": lambda folder: bring(folder, npy(folder, VECTORS.astype(float)), id_file(folder)),
    "parquet": lambda folder: bring(folder, parquet(folder, title=["t"] * 7)),
    "parquet in another order than the texts": lambda folder: bring(
        folder, parquet(folder, IDS[::-1], VECTORS[::-1]), texts=[corpus(folder)]
    ),
    "arrow": lambda folder: bring(folder, arrow(folder)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, tmp_path):
    manifest = LAYOUTS[layout](tmp_path)
    ids, vectors = load_embeddings(manifest)
    assert ids == IDS
    np.testing.assert_array_equal(vectors, VECTORS)
    before = manifest.read_bytes()
    assert LAYOUTS[layout](tmp_path).read_bytes() == before
    assert Vectors(manifest).value_bytes == 4


def test_float16_stays_float16(tmp_path):
    manifest = bring(tmp_path, npy(tmp_path, VECTORS.astype(np.float16)), id_file(tmp_path))
    vectors = Vectors(manifest)
    assert vectors.value_bytes == 2
    np.testing.assert_array_equal(
        vectors.take(np.arange(7)), VECTORS.astype(np.float16).astype(np.float32)
    )


def with_nan():
    vectors = VECTORS.copy()
    vectors[4, 2] = np.nan
    return vectors


MISTAKES = {
    "no ids": (lambda f: bring(f, npy(f)), "v.npy: no ids"),
    "too few ids": (lambda f: bring(f, npy(f), id_file(f, IDS[:6])), "more vectors than ids"),
    "too many ids": (lambda f: bring(f, npy(f), id_file(f, [*IDS, "e"])), "7 vectors for 8 ids"),
    "NaN": (lambda f: bring(f, npy(f, with_nan()), id_file(f)), "the vector of 'd4' holds NaN"),
    "NaN in parquet": (lambda f: bring(f, parquet(f, vectors=with_nan())), "'d4' holds NaN"),
    "twice": (lambda f: bring(f, npy(f), id_file(f, [*IDS[:6], "d0"])), "'d0' stands there twice"),
    "a space": (lambda f: bring(f, npy(f), id_file(f, [*IDS[:6], "d 0"])), "'d 0' holds a space"),
    "other ids": (
        lambda f: bring(f, parquet(f), texts=[corpus(f, [*IDS[:6], "e"])]),
        "1 ids of .*corpus.jsonl have no vector, 'e' for one",
    ),
    "integers": (lambda f: bring(f, npy(f, np.ones((7, 5), int)), id_file(f)), "int64"),
    "one dimension": (lambda f: bring(f, npy(f, VECTORS[0]), id_file(f)), r"shape \(5,\)"),
    "unlike widths": (
        lambda f: bring(f, parquet(f, vectors=[*VECTORS[:6], VECTORS[6][:3]])),
        "vectors of unlike width",
    ),
    "parts of unlike widths": (
        lambda f: bring(f, npy(f, VECTORS[:3]), npy(f, VECTORS[3:, :4], "b.npy"), id_file(f)),
        "b.npy: vectors of 4 dimensions after some of 5",
    ),
    "two vector columns": (
        lambda f: bring(f, parquet(f, other=pa.array([[1.0]] * 7))),
        "2 columns of vectors",
    ),
    "changed": (
        lambda f: import_vectors(f, "corpus", Files([npy(f), id_file(f)], [], ["0" * 64] * 2, [])),
        "changed since this run was planned",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake, tmp_path):
    make, message = MISTAKES[mistake]
    with pytest.raises(TroveStepsError, match=message):
        make(tmp_path)
    assert not list(tmp_path.glob("cache/embeddings/*/corpus-*.json"))
