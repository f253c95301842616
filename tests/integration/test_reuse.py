"""What is encoded again when a corpus changes: counted in the records of the real workflow."""

import gzip
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import zstandard

from tests.conftest import WORDS, make_dataset, make_model, write_jsonl
from tests.integration.conftest import Workflow, make_config
from trove_steps.embeddings.vectors import Vectors
from trove_steps.keys import text_key

DOCUMENTS = 1000
PERCENT = DOCUMENTS // 100


def lines_of(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def changed_corpora(corpus: list[dict]) -> dict[str, tuple[str, bytes, int]]:
    """Return name → (file name, content, texts that nobody has encoded yet)."""
    chance = random.Random(3)

    def new(number: int, kind: str) -> dict:
        text = " ".join(chance.choices(WORDS, k=20))
        return {"_id": f"{kind}{number}", "title": kind, "text": text}

    more = [*corpus, *(new(n, "more") for n in range(PERCENT))]
    chance.shuffle(more)
    edited = [dict(row) for row in corpus]
    for row in chance.sample(edited, PERCENT):
        row["text"] += " edited"
    twice = [*corpus, *({**row, "_id": f"again-{row['_id']}"} for row in corpus[:100])]
    for copy in ("one", "two", "three"):
        twice.insert(50, {"_id": copy, "title": "", "text": "the same new text"})
    split = [new(n, "other") for n in range(30)] + corpus[: DOCUMENTS // 2]
    renamed = [
        {"_id": f"x{row['_id']}", "title": row["title"], "text": row["text"]} for row in split
    ]
    reordered = chance.sample(corpus, DOCUMENTS)
    deleted = [row for row in corpus if chance.random() < 0.7]
    return {
        "more": ("corpus.jsonl", lines_of(more), PERCENT),
        "edited": ("corpus.jsonl", lines_of(edited), PERCENT),
        "reordered": ("corpus.jsonl", lines_of(reordered), 0),
        "deleted": ("corpus.jsonl", lines_of(deleted), 0),
        "gzip": ("corpus.jsonl.gz", gzip.compress(lines_of(corpus)), 0),
        "zstd": ("corpus.jsonl.zst", zstandard.compress(lines_of(corpus)), 0),
        "twice": ("corpus.jsonl", lines_of(twice), 1),
        "sharing": (
            "corpus.jsonl",
            lines_of(renamed),
            30,
        ),  # another data set with half the documents
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reuse")
    make_dataset(folder / "data", documents=DOCUMENTS)
    make_model(folder / "model")
    return folder


def make_workflow(folder: Path) -> Workflow:
    return Workflow(folder, {**make_config(Path("model")), "nproc_per_node": 1})


def records(folder: Path) -> list[dict]:
    """Return the records of all finished encode jobs, oldest first."""
    paths = folder.glob("cache/embeddings/*/records.jsonl")
    found = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return sorted(found, key=lambda record: record["finished"])


def vectors_by_text(manifest: Path, corpus: list[dict]) -> dict[bytes, bytes]:
    vectors = Vectors(manifest)
    taken = vectors.take(np.arange(len(vectors)))
    texts = {row["_id"]: f"{row['title']} {row['text']}".strip() for row in corpus}
    return {
        text_key(texts[name]): vector.tobytes()
        for name, vector in zip(vectors.ids.to_pylist(), taken, strict=True)
    }


@pytest.fixture(scope="module")
def encoded(folder) -> tuple[Workflow, list[dict]]:
    """The corpus, and then all changed corpora as data sets of their own, in the same cache."""
    workflow = make_workflow(folder)
    workflow.run("--", "encode")
    lines = (folder / "data" / "corpus.jsonl").read_text().splitlines()
    corpus = [json.loads(line) for line in lines]
    for name, (file, content, _) in changed_corpora(corpus).items():
        (folder / name).mkdir()
        (folder / name / file).write_bytes(content)
        workflow.config["datasets"][name] = {
            "corpus_path": f"{name}/{file}",
            "query_path": "data/queries.jsonl",
        }
    printed = workflow.run("--", "encode")
    assert printed.count("encode corpus: ") == len(workflow.config["datasets"]) - 1
    return workflow, corpus


def test_the_record_of_a_first_run_is_complete(encoded):
    workflow, _ = encoded
    first = next(record for record in records(workflow.folder) if record["role"] == "corpus")
    assert (first["rows"], first["reused"], first["encoded"]) == (DOCUMENTS, 0, DOCUMENTS)
    assert first["distinct"] == DOCUMENTS
    assert first["padded_tokens"] > first["tokens"] > 10 * DOCUMENTS
    assert first["padding_share"] == round(1 - first["tokens"] / first["padded_tokens"], 4)
    assert 0 < first["truncated_texts"] < DOCUMENTS
    assert first["truncated_tokens"] > first["truncated_texts"]
    seconds = first["seconds"]
    phases = ("read", "look_up", "load", "encode", "tokenize", "forward", "write", "total")
    assert all(seconds[phase] >= 0 for phase in phases)
    assert seconds["tokenize"] + seconds["forward"] <= seconds["encode"] + 0.01 < seconds["total"]
    assert first["tokens_per_second"] == pytest.approx(
        first["tokens"] / seconds["encode"], rel=0.02
    )
    assert (first["device"], first["dtype"], first["world_size"]) == ("cpu", "float32", 1)
    assert first["encoder"]["threads"] >= 1
    assert first["encoder"]["is_pure"] is True
    assert first["dim"] == 32
    (rank,) = first["ranks"]
    assert (rank["texts"], rank["tokens"]) == (DOCUMENTS, first["tokens"])
    assert first["shards"] == rank["shards"] >= 1


@pytest.mark.parametrize(
    "name", ["more", "edited", "reordered", "deleted", "gzip", "zstd", "twice", "sharing"]
)
def test_only_new_texts_are_encoded(encoded, name):
    workflow, corpus = encoded
    file, _, new = changed_corpora(corpus)[name]
    link = next(
        path
        for path in (workflow.folder / "cache" / "in").iterdir()
        if path.resolve() == (workflow.folder / name / file).resolve()
    )
    manifest = next(
        path
        for path in workflow.folder.glob("cache/embeddings/*/corpus-*.json")
        if link.name in json.loads(path.read_text())["recipe"]["files"]
    )
    found = [r for r in records(workflow.folder) if r["manifest"] == manifest.name]
    assert [record["encoded"] for record in found] == [new]
    assert found[0]["reused"] == found[0]["rows"] - new
    assert found[0]["seconds"].get("forward", 0) == 0 or new
    if name == "twice":
        assert found[0]["distinct"] == DOCUMENTS + 1


@pytest.mark.slow
def test_rows_that_are_reused_are_the_same(encoded, tmp_path):
    """What grew in a shared cache equals what is computed from nothing."""
    workflow, corpus = encoded
    shutil.copytree(workflow.folder / "model", tmp_path / "model")
    shutil.copytree(workflow.folder / "data", tmp_path / "data")
    content = changed_corpora(corpus)["more"][1]
    (tmp_path / "data" / "corpus.jsonl").write_bytes(content)
    other = make_workflow(tmp_path)
    other.run("--", "encode")
    rows = [json.loads(line) for line in content.decode().splitlines()]
    (manifest,) = tmp_path.glob("cache/embeddings/*/corpus-*.json")
    grown = workflow.folder / manifest.relative_to(tmp_path)
    assert vectors_by_text(grown, rows) == vectors_by_text(manifest, rows)


def test_nothing_changed_means_nothing_to_do(encoded):
    workflow, _ = encoded
    jobs = len(records(workflow.folder))
    assert workflow.planned("--", "encode") == {}
    assert "Nothing to be done" in workflow.run("--", "encode")
    assert len(records(workflow.folder)) == jobs


@pytest.mark.slow
def test_a_query_that_is_also_a_document(folder, tmp_path):
    """With the same encoder, the two share one row."""
    shutil.copytree(folder / "model", tmp_path / "model")
    rows = [{"_id": str(n), "title": "", "text": word} for n, word in enumerate(WORDS)]
    write_jsonl(tmp_path / "data" / "corpus.jsonl", rows)
    write_jsonl(
        tmp_path / "data" / "queries.jsonl",
        [{"_id": "a", "text": WORDS[3]}, {"_id": "b", "text": "shock wave"}],
    )
    workflow = make_workflow(tmp_path)
    del workflow.config["datasets"]["tiny"]["qrel_path"]
    del workflow.config["evaluation"]
    workflow.config["models"]["bert"].update(
        query_max_len=32, passage_max_len=32, passage_format="{text}"
    )
    workflow.run("--", "encode")
    assert sum(record["encoded"] for record in records(tmp_path)) == len(WORDS) + 1
