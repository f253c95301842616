"""Results that must not change unless a step's VERSION in trove_steps/keys.py is raised.

When a test here fails, either undo the change, or raise the step's VERSION and then write the new
values here: caches of the old version are then left alone.
"""

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from trove_steps import keys
from trove_steps.data import format_text
from trove_steps.evaluation.metrics import evaluate
from trove_steps.mining.rules import mine
from trove_steps.ranking import Ranking
from trove_steps.search import write_ranking
from trove_steps.topk.search import search

ENCODER = "5e07b172997b0b8796c44ffe58b0a8d5"
TEXTS = "0c18810852d634bfbffa73d763149219"
SEARCH = "402d56a29a9ef79cd1e1cefdc784eb25"
TEXT = "58a3778c18c41726cd53c2a4c77dcbed"
RANKING = "968d6966baf54aeda005e37d2007f398fcacbdd174a64646db01b39a6cb2bdb7"
MINED = "ba1cf7309a3566a5a9ed873bc42dd53489bc85c65e0f3e819ee5b9623b1f4c12"
METRICS = {
    "ndcg_cut_1": 0.0,
    "ndcg_cut_10": 0.022217344185482532,
    "map_cut_1": 0.0,
    "map_cut_10": 0.005184749774035488,
    "recall_1": 0.0,
    "recall_10": 0.023729326229326227,
    "P_1": 0.0,
    "P_10": 0.03333333333333333,
    "mrr_cut_1": 0.0,
    "mrr_cut_10": 0.0667063492063492,
}
VECTORS = [
    [-0.021863, -0.045093, 0.349325],
    [-0.073392, 0.047824, 0.055734],
    [0.073118, -0.179777, 0.514301],
]


class Memory:
    """Vectors in memory, from a generator whose stream numpy keeps for ever."""

    def __init__(self, seed: int, rows: int, prefix: str):
        values = np.random.RandomState(seed).randint(-8, 9, size=(rows, 24))
        self.vectors = (values / 7).astype(np.float32)
        self.dim = 24
        self.order = np.arange(rows)
        self.ids = pa.chunked_array([[f"{prefix}{number}" for number in range(rows)]])

    def __len__(self):
        return len(self.vectors)

    def take(self, rows):
        return self.vectors[rows]


@pytest.fixture(scope="module")
def ranking() -> Ranking:
    queries, documents = Memory(1, 30, "q"), Memory(2, 400, "d")
    (tile,) = search(queries, documents, 20)
    return Ranking(queries.ids, documents.ids, tile.offsets, tile.docs, tile.scores)


@pytest.fixture(scope="module")
def qrels() -> pa.Table:
    chance = np.random.RandomState(3)
    rows = [(f"q{q}", f"d{d}") for q in range(30) for d in chance.choice(400, 20, replace=False)]
    return pa.table(
        {
            "query_id": [query for query, _ in rows],
            "doc_id": [document for _, document in rows],
            "score": chance.randint(0, 3, len(rows)),
        }
    )


def test_keys():
    files = {"config.json": "0" * 64, "model.safetensors": "1" * 64}
    recipe = keys.encoder_recipe(files, {"pooling": "mean", "max_len": 128})
    texts = keys.texts_recipe("corpus", ["2" * 64], "{title} {text}")
    sides = {"encoder": "a", "texts": "b"}, {"encoder": "c", "texts": "d"}
    assert keys.VERSION["encoder"] == 1
    assert keys.recipe_key(recipe) == ENCODER
    assert keys.VERSION["texts"] == 1
    assert keys.recipe_key(texts) == TEXTS
    assert keys.VERSION["search"] == 2
    assert keys.recipe_key(keys.search_recipe(*sides, "dot", False)) == SEARCH
    assert keys.text_key("Straße").hex() == TEXT


def test_texts():
    assert format_text("{title} {text}", " A title ", " text\n") == "A title text"
    assert format_text("passage: {title} {text}", None, "text") == "passage: text"
    assert format_text("{text}", None, " query ") == "query"


def test_search(tmp_path, ranking):
    assert keys.VERSION["search"] == 2
    tiles = search(Memory(1, 30, "q"), Memory(2, 400, "d"), 20)
    write_ranking(tmp_path / "ranking.arrow", tiles, 30)
    table = pa.ipc.open_file(tmp_path / "ranking.arrow").read_all()
    digest = hashlib.sha256()
    for name in ("query", "document", "score"):
        digest.update(table[name].to_numpy().tobytes())
    assert digest.hexdigest() == RANKING


def test_scores(ranking, qrels):
    assert keys.VERSION["score"] == 2
    metrics = evaluate(ranking, qrels, [1, 10]).metrics
    assert metrics == pytest.approx(METRICS, abs=1e-12)


def test_mining(ranking, qrels):
    assert keys.VERSION["mine"] == 2
    audit = mine(ranking, qrels, 5).audit
    digest = hashlib.sha256()
    for name in ("query_id", "doc_id"):
        digest.update("\n".join(audit[name].to_pylist()).encode())
    assert len(audit) == 150
    assert digest.hexdigest() == MINED


def test_vectors(shared_data):
    """The vectors of a real model; 1e-5 is far more than kernels differ and far less than rules do."""
    from trove_steps.encoder import Encoder
    from trove_steps.models.settings_resolution import resolve_settings

    assert keys.VERSION["encoder"] == 1
    folder = shared_data / "models" / "paraphrase-MiniLM-L3-v2"
    settings = resolve_settings(folder, {}, "l3")
    texts = ["", "The wing of an aircraft", "lift and drag " * 200]
    vectors = Encoder(folder, settings, 64).encode(texts).vectors
    assert vectors[:, :3] == pytest.approx(np.array(VECTORS), abs=1e-5)
