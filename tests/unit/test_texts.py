"""Texts that are shown beside ids: never those of another record."""

import gzip
import json
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import write_jsonl
from trove_steps import line_index, texts
from trove_steps.embeddings.imported import Files, import_vectors
from trove_steps.embeddings.vectors import Vectors
from trove_steps.fingerprint import hash_file
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


@pytest.fixture(params=["read through", "indexed"])
def large(request, monkeypatch):
    """Files as small as these are indexed, too."""
    if request.param == "indexed":
        monkeypatch.setattr(line_index, "LEAST_BYTES", 0)
        monkeypatch.setattr(line_index, "STEP", 4)


pytestmark = pytest.mark.usefixtures("large")


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
    corpus = write_jsonl(tmp_path / "c.jsonl", RECORDS)
    digests = linked(cache, tmp_path / "v.parquet", corpus)
    files = Files([tmp_path / "v.parquet"], [corpus], digests[:1], digests[1:])
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


RECORD = st.fixed_dictionaries(
    {"text": st.text(max_size=20)}, optional={"title": st.text(max_size=5)}
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None
)
@given(
    files=st.lists(st.lists(RECORD, min_size=1, max_size=12), min_size=1, max_size=3),
    end=st.sampled_from(["\n", ""]),
    between=st.sampled_from(["\n", "\r\n", "\n\n", "\n \r\n", "\n" + 40 * " " + "\n", "\n "]),
    mark=st.sampled_from(["", "\ufeff"]),
    block=st.integers(1, 200),
    chosen=st.sets(st.integers(0, 35)),
)
def test_any_rows_of_any_files(large, tmp_path_factory, files, end, between, mark, block, chosen):
    """What is found is what stands there; nothing is missing unless lines are blank in an odd way."""
    folder = tmp_path_factory.mktemp("texts")
    paths, expected = [], {}
    for number, records in enumerate(files):
        named = [{"_id": f"{number}-{n}"} | record for n, record in enumerate(records)]
        paths.append(folder / f"{number}.jsonl")
        text = mark + between.join(json.dumps(record, ensure_ascii=False) for record in named) + end
        paths[-1].write_bytes(text.encode())
        for record in named:
            line = " ".join(f"{record.get('title') or ''} {record['text']}".split())
            expected[len(expected)] = record["_id"], line
    wanted = {row: expected[row][0] for row in chosen if row in expected}
    recipe = recipe_of(folder / "cache", *paths)
    for _ in range(2):  # the second time with what the first one kept
        with mock.patch.object(line_index, "BLOCK_BYTES", block):
            assert read_some(folder / "cache", recipe, wanted) == {
                row: expected[row][1] for row in wanted
            }


def test_only_the_lines_around_are_read(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(line_index, "LEAST_BYTES", 0)
    monkeypatch.setattr(line_index, "STEP", 256)
    recipe = recipe_of(cache, write_jsonl(tmp_path / "c.jsonl", RECORDS * 100))
    monkeypatch.setattr(texts, "read_records", None)  # which reads from the beginning
    assert read_some(cache, recipe, {2004: "d25", 7: "d8"}) == {
        2004: "t25 words of 25",
        7: "t8 words of 8",
    }
    (kept,) = (cache / "lines").iterdir()
    assert kept.stat().st_size < 256
    monkeypatch.setattr(line_index, "_lines_of", None)
    assert read_some(cache, recipe, {2999: "d30"}) == {2999: "t30 words of 30"}


@pytest.mark.parametrize("kind", ["gzip", "parquet", "tsv"])
def test_other_formats(cache, tmp_path, kind):
    path = tmp_path / kind
    if kind == "gzip":
        path.write_bytes(gzip.compress(write_jsonl(tmp_path / "c.jsonl", RECORDS).read_bytes()))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(RECORDS), path)
    else:
        rows = ["_id\ttitle\ttext", *(f"{r['_id']}\t{r['title']}\twords of it" for r in RECORDS)]
        path.write_text("\n".join(rows))
    found = read_some(cache, recipe_of(cache, path), {3: "d4", 20: "d21"})
    assert [text.split()[0] for text in found.values()] == ["t4", "t21"]


def test_a_cache_that_can_only_be_read(cache, tmp_path, monkeypatch):
    recipe = recipe_of(cache, write_jsonl(tmp_path / "c.jsonl", RECORDS))
    (cache / "lines").write_text("no folder")
    assert read_some(cache, recipe, {3: "d4"}) == {3: "t4 words of 4"}


def test_snippet():
    assert snippet("one two three", 9) == "one two…"
    assert snippet("one", 9) == "one"
    assert snippet("x" * 20, 9) == "x" * 8 + "…"
