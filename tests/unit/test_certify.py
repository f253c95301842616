"""`trove-steps certify` finds what is wrong with a search."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from trove_steps import certify as module
from trove_steps.certify import certify
from trove_steps.cli import main
from trove_steps.embeddings.collection import write_collection
from trove_steps.embeddings.store import Store
from trove_steps.keys import text_key
from trove_steps.ranking import Ranking
from trove_steps.topk.search import rescore


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


def best(queries: Memory, documents: Memory, depth: int, exclude: bool = False) -> list[list]:
    """Return [documents, scores] of each query, by brute force; with `exclude` not the one of its number."""
    numbers = np.arange(len(documents))
    found = []
    for query, vector in enumerate(queries.vectors):
        exact = rescore(np.repeat(vector[None], len(documents), 0), documents.vectors)
        order = np.lexsort((-numbers, -exact))
        order = order[order != query][:depth] if exclude else order[:depth]
        found.append([order, exact[order]])
    return found


@pytest.fixture
def certified(monkeypatch):
    """A way to certify results (lists of [documents, scores]) that need not be right."""

    def run(queries, documents, results, depth=DEPTH, exclude=False):
        lengths = [len(docs) for docs, _ in results]
        ranking = Ranking(
            query_ids=queries.ids,
            doc_ids=documents.ids,
            offsets=np.cumsum([0, *lengths]),
            docs=np.concatenate([docs for docs, _ in results]).astype(np.int64),
            scores=np.concatenate([scores for _, scores in results]).astype(np.float64),
        )
        monkeypatch.setattr(module, "open_search", lambda *_: (ranking, queries, documents))
        described = {"recipe": {"exclude_identical_ids": exclude}, "depth": depth}
        monkeypatch.setattr(module, "read_manifest", lambda *_: described)
        monkeypatch.setattr(module, "_damaged_shards", lambda *_: [])
        return certify("search.json", "cache", queries=100)

    return run


@pytest.fixture
def collection():
    """6 queries and 80 documents, of which 3 and 7 tie for every query."""
    chance = np.random.default_rng(0)
    vectors = chance.normal(size=(80, 16))
    vectors[7] = vectors[3]
    return Memory(chance.normal(size=(6, 16)), "q"), Memory(vectors, "d")


@pytest.fixture(params=[(256, 8192), (4, 7)], ids=["at once", "in blocks"])
def blocks(request, monkeypatch):
    monkeypatch.setattr(module, "QUERIES_AT_ONCE", request.param[0])
    monkeypatch.setattr(module, "BLOCK_DOCUMENTS", request.param[1])


@pytest.mark.parametrize("depth", [1, DEPTH, 80, 200])
def test_a_right_search_is_certified(certified, collection, blocks, depth):
    certificate = certified(*collection, best(*collection, depth), depth)
    assert certificate.failures == []
    assert certificate.queries == 6
    assert 0 <= certificate.largest_difference < 1e-13
    assert certificate.smallest_gap > 0


def wrong_score(docs, scores):
    return docs, scores + np.where(docs == docs[0], 1e-6, 0)


def last_bit(docs, scores):
    return docs, np.nextafter(scores, np.where(np.arange(len(docs)) == 4, np.inf, scores))


def no_number(docs, scores):
    return docs, np.where(docs == docs[4], np.nan, scores)


def twice(docs, scores):
    return docs[[*range(9), 8]], scores[[*range(9), 8]]


def swapped(docs, scores):
    return docs[[1, 0, *range(2, 10)]], scores[[1, 0, *range(2, 10)]]


def cut(docs, scores):
    return docs[:5], scores[:5]


def emptied(docs, scores):
    return docs[:0], scores[:0]


def lost_first(docs, scores):
    return docs[1:], scores[1:]


def strange_document(docs, scores):
    return np.where(docs == docs[-1], 80, docs), scores


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (wrong_score, "a score differs by 1e-06"),
        (last_bit, "a score differs from its definition in the last bits"),
        (no_number, "a score differs by nan"),
        (twice, "a document stands twice"),
        (swapped, "the scores do not descend"),
        (cut, "5 results instead of 10"),
        (emptied, "0 results instead of 10"),
        (lost_first, "9 results instead of 10"),
        (strange_document, "a result names a document that is not there"),
    ],
)
def test_what_is_wrong_is_named(certified, collection, blocks, spoil, message):
    results = best(*collection, DEPTH)
    results[2] = spoil(*results[2])
    (failure,) = certified(*collection, results).failures
    assert failure.startswith(f"q002: {message}")


def test_too_many_results(certified, collection):
    (*_, failure) = certified(*collection, best(*collection, DEPTH + 1)).failures
    assert failure == "q005: 11 results instead of 10"


@pytest.mark.parametrize("lost", [0, 4, 9])
def test_a_better_document_outside_is_found(certified, collection, blocks, lost):
    results = best(*collection, DEPTH)
    results[3] = [np.delete(column, lost) for column in best(*collection, DEPTH + 1)[3]]
    failures = certified(*collection, results).failures
    assert failures == ["q003: a document outside the results scores higher than one inside"]


def test_ties_go_by_id(certified, collection, blocks):
    queries, documents = collection
    queries.vectors[1] = documents.vectors[3]  # so that these two come first
    results = best(queries, documents, DEPTH)
    assert results[1][0][:2].tolist() == [7, 3]
    results[1][0][:2] = 3, 7
    (failure,) = certified(queries, documents, results).failures
    assert failure == "q001: documents with equal scores are not ordered by id, descending"


def test_a_tie_at_the_end_goes_by_id(certified, collection, blocks):
    queries, documents = collection
    queries.vectors[1] = documents.vectors[3]
    results = best(queries, documents, 1)
    assert certified(queries, documents, results, 1).failures == []
    results[1][0][0] = 3
    (failure,) = certified(queries, documents, results, 1).failures
    assert failure == "q001: a document outside ties with the last one and has a larger id"


def test_a_document_is_better_by_less_than_rounding(certified, blocks):
    """Their scores differ in the last bits, by less than two sums of 16 products may."""
    vectors = np.zeros((2, 16))
    vectors[:, 0], vectors[1, 1] = 1, 2.0**-50
    queries, documents = Memory(np.ones((1, 16)), "q"), Memory(vectors, "d")
    (right,) = best(queries, documents, 1)
    assert right[0] == 1
    assert certified(queries, documents, [right], 1).failures == []
    (failure,) = certified(queries, documents, [[[0], [1.0]]], 1).failures
    assert failure == "q000: a document outside the results scores higher than one inside"


@pytest.mark.parametrize("depth", [DEPTH, 80])
def test_documents_with_the_id_of_the_query(certified, collection, blocks, depth):
    _, documents = collection
    queries = Memory(documents.vectors[:6], "d")
    results = best(queries, documents, depth, exclude=True)
    assert certified(queries, documents, results, depth, exclude=True).failures == []
    assert len(certified(queries, documents, results, depth).failures) == 6
    results[4] = best(queries, documents, len(results[4][0]))[4]
    (failure,) = certified(queries, documents, results, depth, exclude=True).failures
    assert failure == "d004: the document with the query's own id is among the results"


def test_memory_does_not_go_with_the_documents(certified, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_DOCUMENTS", 500)
    chance = np.random.default_rng(1)
    queries, documents = (Memory(chance.normal(size=(n, 4)), "d") for n in (50, 40_000))
    results = best(queries, documents, DEPTH)
    certified(queries, documents, results)
    tracemalloc.start()
    assert certified(queries, documents, results).failures == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 2**20  # the scores of all documents take 15 MiB


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


def test_a_seed_is_checked(capsys):
    assert main(["certify", "search.json", "--seed=-1"]) == 1
    assert capsys.readouterr().err == "error: --seed: -1; it must be a whole number, 0 or more\n"
