"""Texts that are shown beside ids: never those of another record."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import write_jsonl
from trove_steps.fingerprint import hash_file
from trove_steps.imported import Files, import_vectors
from trove_steps.store import Vectors
from trove_steps.texts import read_some, snippet

RECORDS = [{"_id": f"d{n}", "title": f"t{n}", "text": f"words\tof {n}"} for n in range(1, 31)]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def linked(cache, *paths) -> list[str]:
    """Link files into the cache, as the planner does; return their SHA-256."""
    digests = [hash_file(path) for path in paths]
    (cache / "in").mkdir(parents=True, exist_ok=True)
    for path, digest in zip(paths, digests, strict=True):
        (cache / "in" / digest).unlink(missing_ok=True)
        (cache / "in" / digest).symlink_to(path)
    return digests


def recipe_of(cache, *paths, **more) -> dict:
    return {"kind": "corpus", "files": linked(cache, *paths), **more}


def test_a_record_whose_id_begins_alike_is_not_taken(cache, tmp_path):
    recipe = recipe_of(cache, write_jsonl(tmp_path / "c.jsonl", RECORDS))
    assert read_some(cache, recipe, {0: "d1", 9: "d10"}) == {
        0: "t1 words of 1",
        9: "t10 words of 10",
    }
    assert read_some(cache, recipe, {0: "d10", 9: "d1", 2: "d"}) == {}


def test_ids_of_several_collections(cache, tmp_path):
    """An id that files share has got the beginning of its file's SHA-256."""
    one = write_jsonl(tmp_path / "one.jsonl", RECORDS[:2])
    two = write_jsonl(tmp_path / "two.jsonl", [{"_id": "d1", "text": "another"}])
    recipe = recipe_of(cache, one, two, readers=[{"collections": [0]}, {"collections": [1]}])
    first, second = recipe["files"]
    wanted = {0: f"d1_{first[:4]}", 1: "d2", 2: f"d1_{second[:5]}"}
    assert read_some(cache, recipe, wanted) == {
        0: "t1 words of 1",
        1: "t2 words of 2",
        2: "another",
    }
    assert read_some(cache, recipe, {0: f"d1_{second[:4]}", 2: "d1_other"}) == {}
    assert read_some(cache, recipe_of(cache, one), {0: f"d1_{first[:4]}"}) == {}, "no collections"


def test_texts_of_vectors_from_elsewhere(cache, tmp_path):
    """Vectors may come in another order than the texts; numbers of records are those of the texts."""
    ids = [record["_id"] for record in RECORDS]
    shuffled = np.random.default_rng(0).permutation(len(ids))
    vectors = np.eye(30, dtype=np.float32)[shuffled]
    lists = pa.array(list(vectors), pa.list_(pa.float32()))
    pq.write_table(
        pa.table({"_id": [ids[n] for n in shuffled], "v": lists}), tmp_path / "v.parquet"
    )
    texts = write_jsonl(tmp_path / "c.jsonl", RECORDS)
    digests = linked(cache, tmp_path / "v.parquet", texts)
    files = Files([tmp_path / "v.parquet"], [texts], digests[:1], digests[1:])
    imported = Vectors(import_vectors(cache, "corpus", files))
    np.testing.assert_array_equal(imported.take(np.arange(30)), np.eye(30))
    found = read_some(cache, imported.manifest["recipe"], dict(enumerate(imported.ids.to_pylist())))
    assert found == {n: f"t{n + 1} words of {n + 1}" for n in range(30)}


def test_a_file_that_changed_gives_nothing_wrong(cache, tmp_path):
    path = write_jsonl(tmp_path / "c.jsonl", RECORDS)
    recipe = recipe_of(cache, path)
    assert len(read_some(cache, recipe, {3: "d4", 20: "d21"})) == 2
    write_jsonl(path, RECORDS[1:])
    assert read_some(cache, recipe, {3: "d4", 20: "d21"}) == {}
    path.unlink()
    assert read_some(cache, recipe, {3: "d4"}) == {}


def test_snippet():
    assert snippet("one two three", 9) == "one two…"
    assert snippet("one", 9) == "one"
    assert snippet("x" * 20, 9) == "x" * 8 + "…"
