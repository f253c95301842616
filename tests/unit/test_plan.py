"""The plan: which artefacts a configuration asks for, and under which names."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import PROJECT, make_dataset
from tests.unit.test_models import write_model
from trove_steps.errors import TroveStepsError
from trove_steps.plan import Plan, round_up
from trove_steps.results import write_record


@pytest.fixture
def raw(tmp_path, monkeypatch) -> dict:
    """A data set, a model of which only the files matter, and the working directory."""
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "data")
    write_model(tmp_path / "model")
    return {
        "datasets": {"tiny": dataset("data")},
        "models": {"bert": {"model_name_or_path": "model", "pooling": "mean"}},
        "evaluation": {"ir_metrics_k_values": [1, 10]},
        "mining": {"search_topk": 5},
    }


def dataset(folder: str) -> dict:
    return {
        "corpus_path": f"{folder}/corpus.jsonl",
        "query_path": f"{folder}/queries.jsonl",
        "qrel_path": f"{folder}/qrels.tsv",
    }


def only_cell(raw: dict):
    (cell,) = Plan(raw).cells.values()
    return cell


def names_of(raw: dict) -> dict[str, str]:
    cell = only_cell(raw)
    return {
        "corpus": f"{cell.corpus.encoder}/{cell.corpus.texts}",
        "queries": f"{cell.queries.encoder}/{cell.queries.texts}",
        "search": cell.search,
        "score": cell.score,
        "mine": cell.mine,
    }


# --- names ---------------------------------------------------------------------------------------

BELOW_SEARCH = {"search", "score", "mine"}
ALL = {"corpus", "queries", *BELOW_SEARCH}


@pytest.mark.parametrize(
    ("section", "option", "value", "changed"),
    [
        ("bert", "pooling", "first_token", ALL),
        ("bert", "normalize", True, ALL),
        ("bert", "torch_dtype", "bfloat16", ALL),
        ("bert", "passage_max_len", 64, ALL - {"queries"}),
        ("bert", "query_max_len", 64, ALL - {"corpus"}),
        ("bert", "passage_format", "passage: {text}", ALL - {"queries"}),
        ("bert", "query_format", "query: {text}", ALL - {"corpus"}),
        ("bert", "similarity", "cosine", BELOW_SEARCH),
        ("bert", "attn_implementation", "eager", set()),
        ("bert", "pad_to_multiple_of", 8, set()),
        ("tiny", "exclude_identical_ids", True, BELOW_SEARCH),
        ("evaluation", "ir_metrics_k_values", [1, 5, 10], {"score"}),
        ("evaluation", "ir_metrics_relevance_threshold", 2, {"score"}),
        ("evaluation", "report_to", ["wandb"], set()),
        ("mining", "search_topk", 6, {"mine"}),
        ("mining", "no_annot_in_mined_hn", False, {"mine"}),
        ("mining", "output_qrel_format", "grouped", {"mine"}),
        ("mining", "merge_mined_qrels", False, {"mine"}),
        ("mining", "exclude_text_twins", False, {"mine"}),
        ("mining", "absolute_margin", 0, {"mine"}),
        ("mining", "range_min", 1, {"mine"}),
        ("mining", "training_formats", ["triplet"], {"mine"}),
        ("mining", "seed", 1, {"mine"}),
        ("mining", "merge_models", 1, set()),
        ("evaluation", "measures", ["nDCG@10"], {"score"}),
        (None, "per_device_eval_batch_size", 3, set()),
        (None, "per_device_matmul_batch_size", 3, set()),
        (None, "nproc_per_node", 3, set()),
        (None, "output_dir", "elsewhere", set()),
        (None, "encoding_cache_dir", "elsewhere", set()),
    ],
)
def test_an_option_changes_the_names_of_what_it_determines(raw, section, option, value, changed):
    before = names_of(raw)
    blocks = {**raw, "bert": raw["models"]["bert"], "tiny": raw["datasets"]["tiny"], None: raw}
    blocks[section][option] = value
    after = names_of(raw)
    assert {name for name in before if before[name] != after[name]} == changed


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("data/corpus.jsonl", ALL - {"queries"}),
        ("data/queries.jsonl", ALL - {"corpus"}),
        ("data/qrels.tsv", {"score", "mine"}),
        ("model/model.safetensors", ALL),
        ("model/tokenizer.json", ALL),
        ("model/config.json", ALL),
        ("model/README.md", set()),
    ],
)
def test_an_edited_file_changes_the_names_of_what_it_determines(raw, file, changed):
    before = names_of(raw)
    edited = Path(file)
    if file.endswith("qrels.tsv"):
        edited.write_text(edited.read_text() + "q1\td1\t1\n")
    else:
        edited.write_bytes((edited.read_bytes() if edited.exists() else b"") + b"\n")
    after = names_of(raw)
    assert {name for name in before if before[name] != after[name]} == changed


def test_names_do_not_depend_on_paths_and_names(raw, tmp_path):
    before = names_of(raw)
    for path in Path("data").iterdir():
        path.touch()
    Path("data").rename("moved")
    Path("model").rename("bert-base")
    raw["datasets"] = {"other": dataset(str(tmp_path / "moved"))}
    raw["models"] = {"other": {**raw["models"]["bert"], "model_name_or_path": "bert-base"}}
    assert names_of(raw) == before


def test_a_split_corpus_has_its_order_in_its_name(raw):
    content = Path("data/corpus.jsonl").read_bytes().splitlines(keepends=True)
    Path("data/a.jsonl").write_bytes(b"".join(content[:30]))
    Path("data/b.jsonl").write_bytes(b"".join(content[30:]))
    names = []
    for files in (["data/a.jsonl", "data/b.jsonl"], ["data/b.jsonl", "data/a.jsonl"]):
        raw["datasets"]["tiny"]["corpus_path"] = files
        names.append(only_cell(raw).corpus.texts)
    assert names[0] != names[1]


def test_rules_read_links_named_by_content(raw):
    cell = only_cell(raw)
    (link,) = cell.corpus.links
    assert link == Path("cache/in") / cell.corpus.digests[0]
    assert os.path.realpath(link) == os.path.realpath("data/corpus.jsonl")
    assert os.path.realpath(cell.corpus.model.link) == os.path.realpath("model")


# --- what is shared and what is restricted -------------------------------------------------------


def several(raw: dict) -> dict:
    make_dataset(Path("more"), seed=1)
    (Path("more") / "corpus.jsonl").write_bytes(Path("data/corpus.jsonl").read_bytes())
    write_model(Path("big"), {**write_files(), "model.safetensors": b"other"})
    raw["datasets"]["more"] = dataset("more")
    raw["models"]["big"] = {"model_name_or_path": "big", "pooling": "mean"}
    return raw


def write_files() -> dict:
    return {path.name: path.read_bytes() for path in Path("model").iterdir()}


def test_all_models_on_all_datasets_share_what_is_equal(raw):
    plan = Plan(several(raw))
    assert list(plan.cells) == [
        ("tiny", "bert"), ("tiny", "big"), ("more", "bert"), ("more", "big")
    ]  # fmt: skip
    assert len(plan.searches) == 4
    assert sorted(role for role, _, _ in plan.encodings) == ["corpus"] * 2 + ["queries"] * 4
    # Six collections, two checks.
    assert len(plan.encode_targets()) == len(set(plan.encode_targets())) == 8


def test_two_names_of_one_model_share_everything_but_results(raw):
    raw["models"]["twin"] = dict(raw["models"]["bert"])
    plan = Plan(raw)
    assert len(plan.searches) == 1
    assert len(plan.encodings) == 2
    assert len(set(plan.evaluate_targets())) == 5  # two records, comparison, summary, check


@pytest.mark.parametrize(
    ("pairs", "cells"),
    [
        ([{}], 4),
        ([{"models": "big"}], 2),
        ([{"models": "big", "datasets": "tiny"}], 1),
        ([{"models": "big", "datasets": "tiny"}, {"models": ["bert"]}], 3),
        ([{"models": "big"}, {"models": "big"}], 2),
    ],
)
def test_pairs_restrict(raw, pairs, cells):
    assert len(Plan({**several(raw), "pairs": pairs}).cells) == cells


def test_files_that_no_pair_needs_are_not_looked_at(raw):
    raw["datasets"]["gone"] = dataset("gone")
    raw["models"]["gone"] = {"model_name_or_path": "./gone"}
    raw["pairs"] = [{"datasets": "tiny", "models": "bert"}]
    assert len(Plan(raw).cells) == 1


# --- depth of the search -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("need", "depth"),
    [(1, 1), (2, 2), (3, 5), (6, 10), (10, 10), (11, 20), (101, 200), (2001, 5000)],
)
def test_round_up(need, depth):
    assert round_up(need) == depth


def test_the_search_serves_the_larger_need(raw):
    (depth,) = Plan(raw).depths.values()
    assert depth == 50  # mining: 5, the 3 that are annotated, 16 for twins; evaluation: 10
    raw["mining"]["exclude_text_twins"] = False
    (depth,) = Plan(raw).depths.values()
    assert depth == 10
    raw["mining"]["search_topk"] = 50
    assert list(Plan(raw).depths.values()) == [100]
    raw["evaluation"]["search_topk"] = 1000
    assert list(Plan(raw).depths.values()) == [1000]


@pytest.mark.parametrize(
    ("options", "depth"),
    [
        ({"search_topk": 60, "num_negatives": 5}, 100),
        ({"range_min": 100}, 200),
        ({"range_max": 300}, 500),
        ({"range_max": 300, "no_annot_in_mined_hn": False}, 500),
        ({"exclude_text_twins": False, "near_twin_cosine": 0.9}, 50),
    ],
)
def test_mining_options_deepen_the_search(raw, options, depth):
    raw["mining"].update(options)
    assert only_cell(raw).needs["mining"] == depth


def test_measures_deepen_the_search(raw):
    raw["evaluation"]["measures"] = ["nDCG@20", "RR@150", "Rprec"]
    assert only_cell(raw).needs["evaluation"] == 150
    raw["evaluation"]["measures"] = ["Rprec"]
    assert only_cell(raw).needs["evaluation"] == 10


@pytest.mark.parametrize(
    ("option", "value"),
    [("absolute_margin", 0), ("preset", "TopK-PercPos"), ("training_formats", ["triplet"])],
)
def test_mining_that_needs_judgments(raw, option, value):
    del raw["datasets"]["tiny"]["qrel_path"]
    raw["mining"][option] = value
    with pytest.raises(
        TroveStepsError, match=rf"mining.{option} .*datasets.tiny needs a qrel_path"
    ):
        Plan(raw)


def test_a_preset_is_its_options(raw):
    raw["mining"]["preset"] = "TopK-PercPos"
    preset = names_of(raw)
    raw["mining"] = {"search_topk": 5, "relative_margin": 0.05}
    assert names_of(raw) == preset
    raw["mining"] |= {"preset": "TopK-PercPos", "relative_margin": 0}
    assert names_of(raw)["mine"] != preset["mine"]


def test_options_at_their_defaults_leave_names_alone(raw):
    before = names_of(raw)
    raw["mining"] |= {"range_min": 0, "sampling": "top", "seed": 0, "merge_mined_qrels": True}
    raw["evaluation"] |= {"comparison": {"samples": 500}, "measures": None}
    assert names_of(raw) == before


def test_a_cross_encoder_is_in_the_names_of_its_scores(raw):
    write_model(Path("cross"))
    before = names_of(raw)
    raw["mining"]["cross_encoder"] = "cross"
    plan, first = Plan(raw), only_cell(raw)
    assert {n for n, v in names_of(raw).items() if v != before[n]} == {"mine"}
    assert plan.rescore_manifest(first).parent.name == plan.cross_encoder.key
    for option, value in (("absolute_margin", 0.1), ("num_negatives", 3), ("sampling", "random")):
        raw["mining"][option] = value
        cell = only_cell(raw)
        assert cell.rescore == first.rescore  # no pair is scored for it
        assert cell.mine != first.mine
    raw["mining"]["search_topk"] = 6
    assert only_cell(raw).rescore != first.rescore
    assert Plan(raw).cross_encoder.key == plan.cross_encoder.key
    raw["mining"]["cross_encoder_max_len"] = 100
    assert Plan(raw).cross_encoder.key != plan.cross_encoder.key


def test_merged_negatives(raw):
    assert Plan(raw).merge_records == {}
    raw["mining"]["merge_models"] = 2
    with pytest.raises(TroveStepsError, match="2 models must agree, but tiny has only 1"):
        Plan(raw).mine_targets()
    raw = several(raw)
    plan = Plan(raw)
    assert list(plan.merge_records) == ["tiny", "more"]
    assert set(plan.merge_records.values()) < set(plan.mine_targets())
    raw["mining"]["absolute_margin"] = 0.1
    assert plan.merge_records["tiny"] != Plan(raw).merge_records["tiny"]
    raw["models"]["mined"] = raw["models"].pop("big")
    with pytest.raises(TroveStepsError, match=r"models.mined: .*another name"):
        Plan(raw).mine_targets()


def test_comparisons_are_of_data_sets_with_several_models(raw):
    assert Plan(raw).compared == []
    raw = several(raw)
    plan = Plan(raw)
    assert len(plan.compared) == 4
    assert plan.comparison_record in plan.evaluate_targets()
    raw["evaluation"]["comparison"] = {"samples": 500}
    assert Plan(raw).comparison_record != plan.comparison_record
    raw["pairs"] = [{"models": "big"}, {"models": "bert", "datasets": "tiny"}]
    assert {cell.dataset for cell in Plan(raw).compared} == {"tiny"}


def test_without_judgments_evaluation_needs_nothing(raw):
    raw["evaluation"]["search_topk"] = 1000
    del raw["datasets"]["tiny"]["qrel_path"]
    plan = Plan(raw)
    assert list(plan.depths.values()) == [5]
    assert only_cell(raw).score is None
    with pytest.raises(TroveStepsError, match="nothing to evaluate"):
        plan.evaluate_targets()


def test_the_shallowest_finished_search_that_is_deep_enough(raw):
    raw["mining"]["exclude_text_twins"] = False
    plan = Plan(raw)
    cell = only_cell(raw)
    assert plan.search_manifest(cell, "evaluation").name == "top10.json"
    folder = plan.search_manifest(cell, "evaluation").parent
    folder.mkdir(parents=True)
    for name in ("top9.json", "top200.json", "top50.json", "top20.arrow", "topless.json"):
        (folder / name).write_text("{}")
    assert plan.search_manifest(cell, "evaluation").name == "top50.json"
    assert plan.search_manifest(cell, "mining").name == "top50.json"


def test_annotated_documents_are_counted_once(raw):
    Plan(raw)
    (memo,) = Path("cache/fingerprints").glob("qrels-*.json")
    assert json.loads(memo.read_text()) == {"most_annotated": 3}
    for damage in ("", "[]", "{}"):
        memo.write_text(damage)
        assert only_cell(raw).needs["mining"] == 50
        assert json.loads(memo.read_text()) == {"most_annotated": 3}


# --- targets -------------------------------------------------------------------------------------


def test_the_report_is_named_by_all_that_it_shows(raw):
    raw["models"]["cls"] = {**raw["models"]["bert"], "pooling": "first_token"}
    plan = Plan(raw)
    inputs = plan.report_inputs()
    assert {task: len(records) for task, records in inputs.items()} == {
        "evaluations": 2, "mining": 2, "comparison": 1, "checks": 1,
    }  # fmt: skip
    changes = (
        ("evaluation", {"comparison": {"seed": 1}}),
        ("evaluation", {"ir_metrics_k_values": [1, 5]}),
        ("mining", {"search_topk": 6}),
    )
    names = {
        Plan({**raw, section: raw[section] | change}).report_record for section, change in changes
    }
    assert len(names | {plan.report_record}) == 4
    models = dict(reversed(raw["models"].items()))
    assert Plan({**raw, "models": models}).report_record == plan.report_record


def test_plain_snakemake_does_the_tasks_that_have_a_section(raw):
    plan = Plan(raw)
    tasks = list(dict.fromkeys(plan.evaluate_targets() + plan.mine_targets()))
    assert set(plan.checks.values()) < set(tasks)  # also where all results are there
    assert plan.default_targets() == [*tasks, plan.report_record]
    assert Plan({**raw, "report": False}).default_targets() == tasks
    del raw["mining"]
    alone = Plan(raw)
    assert alone.default_targets() == [*alone.evaluate_targets(), alone.report_record]
    assert alone.report_record != plan.report_record
    with pytest.raises(TroveStepsError, match="add `mining:`"):
        Plan(raw).mine_targets()
    del raw["evaluation"]
    neither = Plan(raw)
    assert neither.default_targets() == neither.encode_targets()


def test_a_record_whose_files_are_gone_is_dropped(raw):
    plan = Plan(raw)
    record, check = plan.mine_targets()
    mined = record.parent.parent / "mined_qrels.tsv"
    mined.parent.mkdir(parents=True)
    mined.write_text("x")
    write_record(record, [mined])
    assert plan.mine_targets() == [record, check]
    assert record.exists()
    mined.unlink()
    assert plan.mine_targets() == [record, check]
    assert not record.exists()


def test_files_that_rules_make_may_be_missing(raw):
    raw["datasets"]["tiny"]["corpus_path"] = "./demo/corpus.jsonl"
    plan = Plan(raw, produced={"demo/corpus.jsonl"})
    assert plan.missing == ["./demo/corpus.jsonl"]
    Path("demo").mkdir()
    Path("data/corpus.jsonl").rename("demo/corpus.jsonl")
    assert plan.missing == []
    assert len(plan.cells) == 1


def test_jobs_help_until_the_manifest_is_there(raw):
    assert Plan(raw).helper_records() == []
    raw["encode"] = {"jobs": 3}
    plan = Plan(raw)
    helpers = plan.helper_records()
    assert len(helpers) == 2
    assert set(helpers) < set(plan.encode_targets())
    assert set(helpers) < set(plan.default_targets())
    (manifest,) = (plan.encoding_manifest(e) for e in plan.encodings.values() if e.role == "corpus")
    assert {path.parent for path in helpers} == {manifest.with_suffix(".helped")}
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    assert plan.helper_records() == []


def test_nobody_helps_to_import_vectors(raw):
    raw["encode"] = {"jobs": 3}
    raw["datasets"]["tiny"]["corpus_embeddings"] = "data/corpus.npy"
    np.save("data/corpus.npy", np.eye(3, dtype=np.float32))
    plan = Plan(raw)
    assert {e.step for e in plan.encodings.values() if e.role == "corpus"} == {"import"}
    assert plan.helper_records() == []


# --- inputs and command lines ----------------------------------------------------------------------


def test_jobs_that_share_a_corpus_are_told_how_many_they_are(raw):
    plan = Plan(raw)
    corpus = only_cell(raw).corpus
    manifest = plan.encoding_manifest(corpus)
    assert plan.sharing_flags(corpus) == ["--manifest", manifest]
    raw["encode"] = {"jobs": 3}
    plan, shared = Plan(raw), ["--manifest", manifest, "--jobs", 3]
    assert plan.sharing_flags(corpus) == shared
    helper = str(plan.helper_records()[0])
    assert plan.sharing_flags(corpus, helper) == [*shared, "--helper-record", helper]


def test_an_encode_step_waits_for_the_checks(raw):
    plan, cell = Plan(raw), only_cell(raw)
    inputs = plan.encode_inputs(cell.corpus)
    assert [os.path.realpath(link) for link in inputs["texts"]] == [
        os.path.realpath("data/corpus.jsonl")
    ]
    assert os.path.realpath(inputs["model"]) == os.path.realpath("model")
    assert inputs["checks"] == plan.check_targets()


def test_steps_of_mining_read_the_ranking_judgments_and_texts(raw):
    plan, cell = Plan(raw), only_cell(raw)
    inputs = plan.mining_inputs(cell)
    read = {name: list(map(os.path.realpath, inputs[name])) for name in ("qrels", "corpus_files")}
    assert read == {
        "qrels": [os.path.realpath("data/qrels.tsv")],
        "corpus_files": [os.path.realpath("data/corpus.jsonl")],
    }
    ranking = plan.ranking_inputs(cell, "mining")
    assert ranking.items() <= inputs.items()
    assert ranking == {"search": plan.search_manifest(cell, "mining")} | plan.search_inputs(cell)


def test_mining_is_told_of_scores_that_a_cross_encoder_gave(raw):
    plan = Plan(raw)
    assert plan.pair_score_flags(only_cell(raw)) == []
    raw["mining"]["cross_encoder"] = "model"
    plan = Plan(raw)
    (cell,) = plan.cells.values()
    assert plan.pair_score_flags(cell) == ["--pair-scores", plan.rescore_manifest(cell)]


# --- mistakes ------------------------------------------------------------------------------------


def message_of(raw: dict) -> str:
    with pytest.raises(TroveStepsError) as raised:
        Plan(raw)
    return str(raised.value)


def test_missing_files_are_all_named(raw):
    raw["datasets"]["tiny"]["corpus_path"] = ["data/corpus.jsonl", "data/corpus2.jsonl"]
    raw["datasets"]["tiny"]["qrel_path"] = "data/qrel.tsv"
    first, second = message_of(raw).split("\n")
    assert first.startswith(
        "datasets.tiny.corpus_path[1]: the file 'data/corpus2.jsonl' does not exist"
    )
    assert first.endswith("did you mean 'data/corpus.jsonl'?")
    assert second.endswith("did you mean 'data/qrels.tsv'?")


def test_nodes_and_jobs_exclude_each_other(raw):
    raw["encode"] = {"jobs": 2, "nodes": 2}
    assert "nodes and jobs can't both be more than 1" in message_of(raw)


def test_a_missing_model(raw):
    raw["models"]["bert"]["model_name_or_path"] = "./modle"
    assert message_of(raw) == (
        "models.bert.model_name_or_path: the folder './modle' does not exist "
        f"(relative to {os.getcwd()}); did you mean './model'?"
    )


def test_a_folder_that_is_no_model(raw):
    """That is said first: not that pooling must be set, which would mend nothing."""
    raw["models"]["bert"] = {"model_name_or_path": "data"}
    assert message_of(raw) == (
        "models.bert.model_name_or_path: data: not a model: it has no config.json"
    )


def test_bad_judgments_are_found_before_anything_runs(raw):
    Path("data/qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\tmany\n")
    assert "data/qrels.tsv:2" in message_of(raw)


def test_a_cache_that_cannot_be_written(raw):
    Path("cache").write_text("a file")
    message = message_of(raw)
    assert "encoding_cache_dir" in message
    assert "\n" not in message


# --- speed ---------------------------------------------------------------------------------------

PROGRAM = """
import json, sys, time
from trove_steps import live, plan, summarise
from trove_steps.config import yaml_keys
from trove_steps.jobs import execution, requests
raw = json.loads(sys.argv[1])
plan = plan.Plan(raw)
plan.default_targets(), plan.encode_targets(), plan.depths
heavy = ("torch", "transformers", "datasets", "pandas", "wandb", "sentence_transformers", "numba")
print([name for name in heavy if name in sys.modules])
"""


def test_planning_imports_nothing_heavy(raw):
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(raw)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    assert ended.stdout == "[]\n"


def test_many_models_and_datasets_are_planned_fast(raw):
    """100 cells in well under a second: files are looked at once, not once per cell."""
    for n in range(9):
        raw["datasets"][f"d{n}"] = dataset("data")
        raw["models"][f"m{n}"] = {**raw["models"]["bert"], "passage_max_len": 10 + n}
    Plan(raw)
    started = time.process_time()
    plan = Plan(raw)
    # 100 evaluated, 100 mined, comparison, summary, report, 10 checks
    assert len(plan.default_targets()) == 213
    assert time.process_time() - started < 2


def test_a_collection_is_read_once_per_plan(raw, monkeypatch):
    from trove_steps import fingerprint

    read = []
    real = fingerprint._read_into
    monkeypatch.setattr(
        fingerprint, "_read_into", lambda path, *hashes: read.append(path) or real(path, *hashes)
    )
    for n in range(4):
        raw["models"][f"m{n}"] = {**raw["models"]["bert"], "passage_max_len": 10 + n}
    Plan(raw)  # all files are younger than two seconds, so nothing is remembered
    assert sum(path.name == "corpus.jsonl" for path in read) == 1


def test_a_cross_encoder_that_is_not_there(raw):
    Path("ckpt/teacher").mkdir(parents=True)
    raw["mining"]["cross_encoder"] = "ckpt/nope"
    assert message_of(raw).startswith("mining.cross_encoder: the folder 'ckpt/nope' does not exist")


@pytest.mark.parametrize("model", ["demo/model", "org/on-the-hub"])
def test_what_is_still_to_come_hides_no_mistake_elsewhere(raw, monkeypatch, model):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    produced = {"demo/model", "demo/corpus.jsonl"}
    raw["models"]["later"] = {"model_name_or_path": model}
    assert Plan(raw, produced=produced)
    raw["datasets"]["demo"] = {**raw["datasets"]["tiny"], "corpus_path": "demo/corpus.jsonl"}
    assert Plan(raw, produced=produced).missing
    raw["datasets"]["tiny"]["corpus_path"] = "data/corpse.jsonl"
    raw["models"]["bert"]["model_name_or_path"] = "./modle"
    with pytest.raises(TroveStepsError) as raised:
        Plan(raw, produced=produced)
    first, second = str(raised.value).splitlines()
    assert first.startswith(
        "datasets.tiny.corpus_path: the file 'data/corpse.jsonl' does not exist"
    )
    assert second.startswith("models.bert.model_name_or_path: the folder './modle' does not exist")
