"""Variants of a model: cells of their own that share what is encoded."""

from pathlib import Path

import pytest

from tests.unit.test_plan import names_of, only_cell, raw  # noqa: F401 (a fixture)
from trove_steps.arguments import model_flags
from trove_steps.config.loading import load_config
from trove_steps.errors import TroveStepsError
from trove_steps.plan import Plan


def test_lists_make_variants_that_share_the_vectors(raw):  # noqa: F811
    alone = names_of(raw)
    raw["models"]["bert"] |= {"truncate_dim": [16, 8], "quantization": ["int8", "binary"]}
    plan = Plan(raw)
    names = ["bert", "bert@16", "bert@8", "bert@int8", "bert@binary"]
    assert [model for _, model in plan.cells] == names
    assert len(plan.encodings) == 2
    assert len(plan.searches) == 5
    cell = plan.cells["tiny", "bert"]
    assert alone["search"] == cell.search
    assert plan.search_flags(plan.cells["tiny", "bert@8"].search)[-2:] == ["--truncate-dim", "8"]
    assert "int8" in plan.search_flags(plan.cells["tiny", "bert@int8"].search)


def test_one_value_is_no_variant(raw):  # noqa: F811
    before = names_of(raw)
    raw["models"]["bert"] |= {"truncate_dim": 8, "normalize": False}
    after = names_of(raw)
    assert {name for name in before if before[name] != after[name]} == {"search", "score", "mine"}
    assert only_cell(raw).model == "bert"
    assert model_flags(load_config(raw)["models"]["bert"], "corpus") == [
        "--pooling=mean", "--normalize=false"
    ]  # fmt: skip


def test_float16_is_another_encoder(raw):  # noqa: F811
    before = names_of(raw)
    raw["models"]["bert"]["embedding_dtype"] = "float32"
    assert names_of(raw) == before
    raw["models"]["bert"]["embedding_dtype"] = "float16"
    assert all(before[name] != after for name, after in names_of(raw).items())


def test_a_model_of_which_only_vectors_are_there(raw):  # noqa: F811
    given = {"corpus_embeddings": "{model}.npy", "query_embeddings": ["q-{model}.npy", "ids.txt"]}
    for name in ("api.npy", "q-api.npy", "ids.txt"):
        Path(name).write_bytes(name.encode())
    raw["datasets"]["tiny"] |= given
    raw["models"] = {"api": {"similarity": "cosine", "truncate_dim": [8]}}
    plan = Plan(raw)
    assert len(plan.encodings) == 2
    assert {encoding.step for encoding in plan.encodings.values()} == {"import"}
    assert plan.search_flags(plan.cells["tiny", "api@8"].search)[:2] == ["--similarity", "cosine"]
    del raw["datasets"]["tiny"]["corpus_path"], raw["datasets"]["tiny"]["query_path"]
    assert len(Plan(raw).cells) == 2
    raw["datasets"]["other"] = {**raw["datasets"]["tiny"], "query_path": "data/queries.jsonl"}
    del raw["datasets"]["other"]["query_embeddings"]
    message = "models.api.model_name_or_path: missing; .* datasets.other has no query_embeddings"
    with pytest.raises(TroveStepsError, match=message):
        Plan(raw)


SIDES = ("corpus_embeddings", "query_embeddings")


def with_vectors(raw, option, models):  # noqa: F811
    Path("v.npy").write_bytes(b"v")
    raw["datasets"]["tiny"][option] = "v.npy"
    raw["models"] = models
    return raw


@pytest.mark.parametrize("option", SIDES)
@pytest.mark.parametrize(
    ("other", "changed"),
    [
        ("bert", {"pooling": "first_token"}),
        ("api", {"model_name_or_path": "other"}),
    ],
)
def test_vectors_are_those_of_one_model(raw, option, other, changed):  # noqa: F811
    bert = raw["models"]["bert"]
    with_vectors(raw, option, {"mine": bert, other: {**bert, **changed}})
    with pytest.raises(TroveStepsError) as raised:
        Plan(raw)
    assert str(raised.value) == (
        f"datasets.tiny.{option}: the same vectors would count as those of mine and of {other}: write "
        "{model} in the path, or leave them to one model by pairs"
    )
    raw["pairs"] = [{"datasets": "tiny", "models": "mine"}]
    assert len(Plan(raw).cells) == 1


def test_vectors_of_an_unnamed_model_are_not_those_of_a_named_one(raw):  # noqa: F811
    models = {"ext": {}, "bert": raw["models"]["bert"]}
    with_vectors(raw, "corpus_embeddings", models)
    raw["datasets"]["tiny"]["query_embeddings"] = "v.npy"
    with pytest.raises(TroveStepsError) as raised:
        Plan(raw)
    assert len(str(raised.value).splitlines()) == 2
    assert "those of ext and of bert" in str(raised.value)


@pytest.mark.parametrize("option", SIDES)
def test_what_one_model_means_may_share_vectors(raw, option):  # noqa: F811
    bert = raw["models"]["bert"]
    other_side = "query_max_len" if option == "corpus_embeddings" else "passage_max_len"
    models = {
        "bert": {**bert, "truncate_dim": [8, 4]},
        "cosine": {**bert, "similarity": "cosine"},
        "other": {**bert, other_side: 16},
    }
    assert len(Plan(with_vectors(raw, option, models)).cells) == 5


@pytest.mark.parametrize(
    ("chosen", "cells"), [("bert", 3), ("bert@8", 1), (["bert@4", "bert@8"], 2)]
)
def test_pairs_mean_a_model_with_its_variants(raw, chosen, cells):  # noqa: F811
    raw["models"]["bert"]["truncate_dim"] = [8, 4]
    raw["pairs"] = [{"models": chosen}]
    assert len(Plan(raw).cells) == cells


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("truncate_dim", [], "models.bert.truncate_dim: empty"),
        ("truncate_dim", [8, 8], "8 stands there twice"),
        ("quantization", ["int4"], "'int4' is not a valid value"),
    ],
)
def test_mistakes(raw, option, value, message):  # noqa: F811
    raw["models"]["bert"][option] = value
    with pytest.raises(TroveStepsError) as raised:
        Plan(raw)
    assert message in str(raised.value)
