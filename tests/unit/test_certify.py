"""`trove-steps certify` finds what is wrong with a search."""

import numpy as np
import pyarrow as pa
import pytest

from trove_steps import certify as module
from trove_steps.certify import certify
from trove_steps.cli import main
from trove_steps.keys import text_key
from trove_steps.ranking import Ranking
from trove_steps.store import Store, write_collection
from trove_steps.topk import rescore


class Memory:
    """Vectors in memory."""

    def __init__(self, vectors: np.ndarray, prefix: str):
        self.vectors = vectors.astype(np.float32)
        self.dim = vectors.shape[1]
        self.ids = pa.chunked_array([[f"{prefix}{n:03}" for n in range(len(vectors))]])

    def __len__(self):
        return len(self.vectors)

    def take(self, rows):
        return self.vectors[rows]


DEPTH = 10


def test_damaged_vectors_are_named(tmp_path):
    sides = {}
    for side in ("queries", "corpus"):
        store = Store(tmp_path, "e" * 32)
        keys = np.frombuffer(text_key(side), np.uint8).reshape(1, -1)
        store.write(keys, np.ones((1, 4), np.float32))
        ids = pa.chunked_array([["x"]])
        write_collection(store, side, "7" * 32, ids, keys, store.find(keys), {})
        sides[side] = {"encoder": "e" * 32, "texts": "7" * 32}
    assert module._damaged_shards(sides, tmp_path) == []
    damaged = store.shard_path(store.shard_names()[0])
    content = bytearray(damaged.read_bytes())
    content[content.index(np.float32(1).tobytes() * 4) + 2] ^= 1  # a bit of a number
    damaged.write_bytes(content)
    (line,) = module._damaged_shards(sides, tmp_path)
    assert line.startswith(f"{damaged} is damaged")


@pytest.fixture
def searched(monkeypatch):
    """A right search of 6 queries × 80 documents, and a way to spoil it before it is certified."""
    chance = np.random.default_rng(0)
    queries = Memory(chance.normal(size=(6, 16)), "q")
    vectors = chance.normal(size=(80, 16))
    vectors[7] = vectors[3]  # two documents that tie for every query
    documents = Memory(vectors, "d")
    exact = np.stack(
        [
            rescore(np.repeat(query[None], len(documents), 0), documents.vectors)
            for query in queries.vectors
        ]
    )
    numbers = np.arange(len(documents))
    order = np.stack([np.lexsort((-numbers, -row))[:DEPTH] for row in exact])
    scores = np.take_along_axis(exact, order, 1)

    def spoiled(spoil=None):
        docs, values = order.copy(), scores.copy()
        if spoil:
            spoil(docs, values)
        ranking = Ranking(
            query_ids=queries.ids,
            doc_ids=documents.ids,
            offsets=np.arange(0, docs.size + 1, DEPTH),
            docs=docs.reshape(-1),
            scores=values.reshape(-1),
        )
        monkeypatch.setattr(module, "open_search", lambda *_: (ranking, queries, documents))
        recipe = {"recipe": {"exclude_identical_ids": False}}
        monkeypatch.setattr(module, "read_manifest", lambda *_: recipe)
        monkeypatch.setattr(module, "_damaged_shards", lambda *_: [])
        return certify("search.json", "cache", queries=100)

    return spoiled


def test_a_right_search_is_certified(searched):
    certificate = searched()
    assert certificate.failures == []
    assert certificate.queries == 6
    assert 0 <= certificate.largest_difference < 1e-13
    assert certificate.smallest_gap > 0


def wrong_score(docs, scores):
    scores[2, 0] += 1e-6


def missing_document(docs, scores):
    docs[1, :-1], scores[1, :-1] = docs[1, 1:].copy(), scores[1, 1:].copy()
    docs[1, -1], scores[1, -1] = docs[1, -2], scores[1, -2]


def swapped(docs, scores):
    docs[4, [0, 1]], scores[4, [0, 1]] = docs[4, [1, 0]], scores[4, [1, 0]]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (wrong_score, "q002: a score differs"),
        (missing_document, "q001: a document stands twice"),
        (swapped, "q004: the scores do not descend"),
    ],
)
def test_what_is_wrong_is_named(searched, spoil, message):
    (failure,) = searched(spoil).failures
    assert failure.startswith(message)


def test_a_better_document_outside_is_found(searched):
    def left_out(docs, scores):
        docs[3, 0] = next(n for n in range(80) if n not in docs[3])

    (failure,) = searched(left_out).failures
    assert failure.startswith("q003: ")


@pytest.mark.parametrize("count", ["0", "-3", "x"])
def test_a_number_of_queries_is_checked(capsys, count):
    with pytest.raises(SystemExit):
        main(["certify", "search.json", "--queries", count])
    assert "is not a whole number from 1 on" in capsys.readouterr().err


def test_a_healthy_file_of_another_kind_stays(tmp_path, capsys):
    manifest = tmp_path / "corpus-x.json"
    manifest.write_text('{"recipe": {}, "rows": 1}')
    ranking = tmp_path / "top10.arrow"
    ranking.write_bytes(b"ARROW1\xff\x80")
    for path in (manifest, ranking, tmp_path):
        assert main(["certify", str(path)]) == 1
        assert "is not the manifest of a search" in capsys.readouterr().err
        assert path.exists()


def test_a_missing_search_is_one_line(tmp_path, capsys):
    assert main(["certify", str(tmp_path / "cache/searches/x/top10.json")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
