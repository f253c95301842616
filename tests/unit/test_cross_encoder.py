"""Scores of pairs: the model against sentence-transformers, their store, their use by mining."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from tests.conftest import WORDS
from tests.unit.rankings import make_qrels, make_ranking
from trove_steps.encoders.cross_encoder import CrossEncoder
from trove_steps.errors import TroveStepsError
from trove_steps.files import repairing
from trove_steps.mining.inputs import MiningInputs
from trove_steps.mining.pair_scores import PairStore, pair_key, read_teacher, write_pair_scores
from trove_steps.mining.rules import mine
from trove_steps.mining.selection import Selection
from trove_steps.rescore import candidate_pairs


def make_cross_encoder(folder, base, outputs=1, seed=0, **extra):
    """Save a tiny sequence classifier with the tokenizer of a tiny model."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    config = BertConfig.from_pretrained(base, num_labels=outputs, initializer_range=0.2)
    config.update(extra)
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model):
    return make_cross_encoder(tmp_path_factory.mktemp("models") / "cross", tiny_model)


def test_a_folder_without_a_vocabulary_is_refused(tmp_path, tiny_model):
    folder = make_cross_encoder(tmp_path / "cross", tiny_model)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(TroveStepsError, match="has no vocabulary of a tokenizer"):
        CrossEncoder(folder, 32)


def pairs_of_texts(count, seed=0):
    chance = np.random.default_rng(seed)

    def text(most):
        return " ".join(chance.choice(WORDS, chance.integers(0, most)))

    return [text(8) for _ in range(count)], [text(60) for _ in range(count)]


def test_scores_are_functions_of_their_pairs(folder):
    model = CrossEncoder(folder, 64)
    queries, passages = pairs_of_texts(90)
    together = model.score(queries, passages)
    assert together.std() > 0
    order = np.random.default_rng(1).permutation(90)[:37]
    some = model.score([queries[i] for i in order], [passages[i] for i in order])
    assert np.array_equal(some, together[order])
    alone = model.score(queries[5:6], passages[5:6])
    assert alone[0] == together[5]


@pytest.mark.slow  # imports a trainer library
def test_same_as_sentence_transformers(tmp_path, tiny_model):
    library = pytest.importorskip("sentence_transformers")
    identity = {"activation_fn": "torch.nn.modules.linear.Identity"}
    queries, passages = pairs_of_texts(40)
    ours = []
    for name, extra in (("raw", {"sentence_transformers": identity}), ("default", {})):
        folder = make_cross_encoder(tmp_path / name, tiny_model, **extra)
        theirs = library.CrossEncoder(str(folder), max_length=48, device="cpu").predict(
            list(zip(queries, passages, strict=True))
        )
        ours.append(CrossEncoder(folder, 48).score(queries, passages))
        assert ours[-1] == pytest.approx(theirs, abs=1e-5)
    assert ours[1] == pytest.approx(1 / (1 + np.exp(-ours[0])), abs=1e-5)


def test_models_that_are_no_cross_encoders(tmp_path, tiny_model):
    with pytest.raises(TroveStepsError, match=r"no cross-encoder with one score: its files lack c"):
        CrossEncoder(tiny_model, 64)
    with pytest.raises(TroveStepsError, match="can't be loaded"):
        CrossEncoder(tmp_path, 64)
    three = make_cross_encoder(tmp_path / "three", tiny_model, outputs=3)
    with pytest.raises(TroveStepsError, match="several outputs"):
        CrossEncoder(three, 64)


def test_keys_of_pairs():
    keys = {pair_key("a", "b"), pair_key("b", "a"), pair_key("ab", ""), pair_key("", "ab")}
    assert len(keys) == 4
    assert all(len(key) == 16 for key in keys)


def test_store(tmp_path):
    store = PairStore(tmp_path, "c" * 32)
    keys = np.frombuffer(b"".join(pair_key("q", str(i)) for i in range(6)), np.uint8).reshape(6, 16)
    store.write(keys[:2], np.array([[0.5], [0.25]], np.float32))
    store.write(keys[3:5], np.array([[-1.0], [2.0]], np.float32))
    assert list(tmp_path.glob("pair_scores/*/shards/*.arrow"))
    scores = store.read(keys)
    assert np.array_equal(scores, [0.5, 0.25, np.nan, -1, 2, np.nan], equal_nan=True)
    damaged = store.shard_path(store.shard_names()[0])
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert np.isnan(store.read(keys)).sum() == 4
    assert not damaged.exists()
    assert np.isnan(PairStore(tmp_path, "d" * 32).read(keys)).all()
    assert len(store.read(keys[:0])) == 0


def test_teacher(tmp_path):
    path = tmp_path / "scores.json"
    queries, docs = np.array([0, 0, 2]), np.array([1, 5, 0])
    write_pair_scores(path, queries, docs, np.array([0.5, 0.25, -1]), documents=10)
    teacher = read_teacher(path)
    assert teacher(np.array([2, 0]), np.array([0, 5])).tolist() == [-1, 0.25]
    assert teacher(np.array([], int), np.array([], int)).tolist() == []
    with pytest.raises(TroveStepsError, match="has no score of the cross-encoder"):
        teacher(np.array([1]), np.array([1]))
    path.with_suffix(".arrow").unlink()
    with repairing(), pytest.raises(TroveStepsError, match="run again"):
        read_teacher(path)
    assert not path.exists()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"absolute_margin": 0.1},
        {"relative_margin": 0.3, "max_score": 0.8, "min_score": 0.1},
        {"num_negatives": 2, "sampling": "random"},
        {"range_min": 3, "range_max": 10, "num_negatives": 4},
    ],
)
def test_a_sweep_of_options_asks_for_no_further_pair(tmp_path, options):
    """What the rescore step scores is what mining asks for, whatever the options beside the window."""
    chance = np.random.default_rng(0)
    names = [f"d{i}" for i in range(40)]
    results = {f"q{q}": dict(zip(names, chance.random(40).tolist(), strict=True)) for q in range(9)}
    ranking = make_ranking(results, names).head(30)
    labels = {f"q{q}": {f"d{d}": d % 2 for d in chance.integers(0, 40, 4)} for q in range(8)}
    inputs = MiningInputs(ranking, make_qrels(labels), {"texts": np.arange(40) // 2})
    arguments = SimpleNamespace(search_topk=10, keep_annotated=False, near_twin_cosine=None)
    queries, docs = candidate_pairs(inputs, arguments)
    assert len(queries) > 80
    write_pair_scores(tmp_path / "s.json", queries, docs, chance.random(len(docs)), documents=40)
    mined = mine(
        inputs.ranking,
        inputs.qrels,
        10 if not options.get("range_min") else 7,
        selection=Selection(**options),
        teacher=read_teacher(tmp_path / "s.json"),
        **inputs.knowledge,
    )
    assert mined.counts["num_kept"] > 0
    assert mined.audit["teacher_score"].null_count == 0
    assert json.loads((tmp_path / "s.json").read_text())["pairs"] == len(docs)
