"""keep_embeddings: false, without a model: what goes, what stays, and what brings it back."""

import os
import re
import time
from pathlib import Path

import numpy as np
import pytest

from tests.unit.test_filled_cache import encode, run, save, search, stages
from tests.unit.test_plan import raw  # noqa: F401 (a fixture)
from trove_steps import load_embeddings
from trove_steps.drop_embeddings import drop
from trove_steps.embeddings.paths import dropped_mark
from trove_steps.embeddings.store import Store
from trove_steps.embeddings.vectors import Vectors
from trove_steps.errors import TroveStepsError
from trove_steps.plan import Plan


@pytest.fixture
def plan(raw) -> Plan:  # noqa: F811
    """A searched corpus, and another one with some of its documents, not searched yet."""
    lines = Path("data/corpus.jsonl").read_text().splitlines(keepends=True)
    Path("less.jsonl").write_text("".join(lines[10:35]))
    raw["datasets"]["less"] = {**raw["datasets"]["tiny"], "corpus_path": "less.jsonl"}
    raw["keep_embeddings"] = False
    raw["mining"]["exclude_text_twins"] = False  # which would need deeper searches than evaluation
    save(raw)
    plan = Plan(raw)
    for cell in plan.cells.values():
        encode(plan, cell.corpus)
        encode(plan, cell.queries)
    search(plan, plan.cells["tiny", "bert"])
    return plan


def rows_of(manifest: Path) -> int:
    store = Store(manifest.parent.parent.parent, manifest.parent.name)
    return sum(len(shard) for shards in store.scan() for shard in shards)


def test_rows_of_other_collections_stay(plan):
    manifest = plan.encoding_manifest(plan.cells["tiny", "bert"].corpus)
    other = plan.encoding_manifest(plan.cells["less", "bert"].corpus)
    expected = load_embeddings(other)[1]
    assert drop(manifest) == 60 - 25
    assert rows_of(manifest) == 25
    np.testing.assert_array_equal(load_embeddings(other)[1], expected)
    assert len(Vectors(manifest).ids) == 60
    assert drop(other) == 25  # a collection without vectors keeps none of another
    assert rows_of(other) == 0


def test_shards_that_another_job_has_asked_for_stay(plan):
    manifest = plan.encoding_manifest(plan.cells["tiny", "bert"].corpus)
    soon = time.time() + 5
    for shard in manifest.parent.glob("shards/*.arrow"):
        os.utime(shard, (soon, soon))
    assert drop(manifest) == 0
    assert rows_of(manifest) == 60


def test_a_search_brings_the_vectors_back(plan, raw, capsys):  # noqa: F811
    cell = plan.cells["tiny", "bert"]
    manifest = plan.encoding_manifest(cell.corpus)
    drop(manifest)
    plan.restore_dropped(cell, 10)  # there is such a search
    assert manifest.exists()
    assert stages(capsys, "tiny/bert")["encode corpus"]["state"] == "there"
    raw["evaluation"]["ir_metrics_k_values"] = [20]
    save(raw)
    found = stages(capsys, "tiny/bert")["encode corpus"]
    assert (found["state"], found["rows_to_encode"]) == ("needed", 35)
    plan.restore_dropped(cell, 20)
    assert not manifest.exists()
    assert not dropped_mark(manifest).exists()


def test_whoever_wants_dropped_vectors_hears_how_to_have_them_again(plan, capsys):
    manifest = plan.encoding_manifest(plan.cells["tiny", "bert"].corpus)
    drop(manifest)
    words = f"the vectors of {manifest} were removed after the search (keep_embeddings: false)"
    with pytest.raises(TroveStepsError, match=re.escape(words)):
        load_embeddings(manifest)
    config = ["--configfile", "my.yaml"]
    for source in ("tiny/bert", str(manifest)):
        told = run(capsys, "export", source, "-o", "out.npy", *config, expect=1)
        assert words in told
        assert "set keep_embeddings: true and run `snakemake encode`" in told
    assert manifest.exists()


def test_verify_leaves_dropped_collections_alone(plan, capsys):
    manifest = plan.encoding_manifest(plan.cells["tiny", "bert"].corpus)
    drop(manifest)
    assert "all sound" in run(capsys, "cache", "verify", "--configfile", "my.yaml")
    (shard,) = manifest.parent.glob("shards/*.arrow")
    shard.write_bytes(shard.read_bytes()[:-1])
    run(capsys, "cache", "verify", "--configfile", "my.yaml", expect=1)
    assert manifest.exists()
    assert not plan.encoding_manifest(plan.cells["less", "bert"].corpus).exists()


def test_vectors_go_after_the_last_result_that_needs_them(plan):
    assert len(plan.drops) == 2
    for encoding, ends in plan.drops.values():
        (cell,) = (cell for cell in plan.cells.values() if cell.corpus == encoding)
        assert ends == [plan.score_record(cell), plan.mine_record(cell)]


def test_all_variants_and_models_that_share_a_corpus_come_first(raw):  # noqa: F811
    raw["keep_embeddings"] = False
    raw["models"]["bert"]["truncate_dim"] = [4]
    raw["datasets"]["again"] = dict(raw["datasets"]["tiny"])
    ((_, ends),) = Plan(raw).drops.values()
    assert len(ends) == 8  # two data sets, two variants, two tasks


def test_one_file_is_not_asked_of_two_collections(raw):  # noqa: F811
    raw["datasets"]["tiny"]["corpus_cache"] = "out/{dataset}-{model}.npy"
    raw["models"]["bert"]["quantization"] = ["int8"]
    raw["models"]["other"] = {**raw["models"]["bert"], "passage_max_len": 9}
    paths = [path for _, path in Plan(raw).publications.values()]
    assert paths == ["out/tiny-bert.npy", "out/tiny-other.npy"]
    raw["datasets"]["tiny"]["corpus_cache"] = "out/all.npy"
    with pytest.raises(TroveStepsError, match=r"put \{model\} and \{dataset\} into the path"):
        _ = Plan(raw).publications
