"""What is computed again after a change, and what is not: the real workflow, asked with `snakemake -n`."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import make_dataset, make_model
from tests.integration.conftest import Workflow, make_config

EVERYTHING = {
    "encode_corpus": 1,
    "encode_queries": 1,
    "search": 1,
    "score": 1,
    "mine_negatives": 1,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Workflow:
    """A workflow that has run once. Tests work on copies of it."""
    folder = tmp_path_factory.mktemp("finished")
    make_dataset(folder / "data")
    make_model(folder / "model")
    workflow = Workflow(folder, make_config(Path("model")))
    output = workflow.run()
    assert "ndcg_cut_10" in output
    return workflow


@pytest.fixture
def done(finished, tmp_path) -> Workflow:
    """A copy of a finished working directory (links and times included)."""
    folder = tmp_path / "copy"
    shutil.copytree(finished.folder, folder, symlinks=True)
    for link in (folder / "cache" / "in").iterdir():
        target = os.readlink(link).replace(str(finished.folder), str(folder))
        link.unlink()
        link.symlink_to(target)
    return Workflow(folder, json.loads(json.dumps(finished.config)))


def test_resources_that_a_profile_sets_for_a_step(done):
    shutil.rmtree(done.folder / "cache" / "embeddings")
    asked = ["encode_corpus:gres=gpu:2", "encode_corpus:mem_mb=2500 * attempt"]
    output = done.run("encode", "--set-resources", *asked)
    assert "encode corpus: 60 texts" in output


def test_first_run_makes_all_results(finished):
    results = finished.folder / "results"
    made = {path.name for path in (results / "tiny" / "bert").iterdir() if path.name[0] != "."}
    assert made == {"metrics.json", "per_query.parquet", "run.trec.gz", "mined"}
    metrics = finished.metrics("tiny", "bert")
    assert metrics["num_queries"] == 12
    assert metrics["num_judged"] == 11
    assert metrics["mrr_cut_1"] == metrics["P_1"]
    header, row = (results / "summary.tsv").read_text().splitlines()
    assert header.startswith("dataset\tmodel\tndcg_cut_1\t")
    assert row.startswith("tiny\tbert\t")
    mined = (results / "tiny" / "bert" / "mined" / "mined_qrels.tsv").read_text().splitlines()
    assert mined[0] == "query-id\tcorpus-id\tscore"
    assert len(mined) == 1 + 11 * 5


def test_second_run_has_nothing_to_do(done):
    assert done.planned() == {}
    assert "Nothing to be done" in done.run()


def test_files_of_results_that_are_gone_are_made_again(done):
    (done.folder / "results" / "tiny" / "bert" / "metrics.json").unlink()
    assert done.planned() == {"score": 1}
    done.run()
    assert done.metrics("tiny", "bert")["num_judged"] == 11


def test_a_run_that_was_killed_after_an_artefact_was_written_goes_on_behind_it(done):
    """Snakemake takes what a killed job left for incomplete; ours is whole once it has its name."""
    shutil.rmtree(done.folder / "cache" / "searches")
    shutil.rmtree(done.folder / "results")
    (manifest,) = done.folder.glob("cache/embeddings/*/corpus-*.json")
    name = str(manifest.relative_to(done.folder)).encode()
    marks = done.folder / ".snakemake" / "incomplete"
    marks.mkdir(exist_ok=True)
    (marks / base64.urlsafe_b64encode(name).decode()).touch()
    assert done.planned() == {"search": 1, "score": 1, "mine_negatives": 1}


def test_results_of_another_configuration_are_not_taken_for_ours(done):
    """Also without snakemake's memory, and going back and forth."""
    shutil.rmtree(done.folder / ".snakemake")
    first = done.metrics("tiny", "bert")
    done.config["models"]["bert"]["pooling"] = "first_token"
    done.run()
    second = done.metrics("tiny", "bert")
    assert second != first
    done.config["models"]["bert"]["pooling"] = "mean"
    shutil.rmtree(done.folder / ".snakemake")
    assert done.planned() == {"score": 1, "mine_negatives": 1}
    done.run()
    assert done.metrics("tiny", "bert") == first


def test_touching_the_corpus_costs_nothing(done):
    for path in (done.folder / "data").iterdir():
        path.touch()
    (done.folder / "model" / "model.safetensors").touch()
    assert done.planned() == {}


def test_renaming_files_or_the_dataset_encodes_and_searches_nothing(done):
    data = done.folder / "data"
    (data / "corpus.jsonl").rename(data / "documents.jsonl")
    done.config["datasets"]["tiny"]["corpus_path"] = "data/documents.jsonl"
    assert done.planned() == {}
    done.config["datasets"] = {"renamed": done.config["datasets"]["tiny"]}
    assert done.planned() == {"score": 1, "mine_negatives": 1}


def flip_a_byte(path: Path) -> None:
    """Change one byte in place, keeping path, size and mtime."""
    before = path.stat()
    with open(path, "r+b") as file:
        file.seek(-5, os.SEEK_END)
        byte = file.read(1)
        file.seek(-5, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_size == before.st_size


def test_a_byte_of_a_weight_recomputes_that_model_only(done):
    shutil.copytree(done.folder / "model", done.folder / "second")
    config = done.config["models"]
    config["second"] = {**config["bert"], "model_name_or_path": "second", "pooling": "first_token"}
    done.run()
    assert done.planned() == {}
    flip_a_byte(done.folder / "model" / "model.safetensors")
    assert done.planned() == {**EVERYTHING, "compare": 1}
    done.run()
    assert done.planned() == {}


@pytest.mark.parametrize(
    ("option", "value", "jobs"),
    [
        ("passage_max_len", 16, {k: v for k, v in EVERYTHING.items() if k != "encode_queries"}),
        ("query_max_len", 8, {k: v for k, v in EVERYTHING.items() if k != "encode_corpus"}),
        ("pooling", "first_token", EVERYTHING),
        ("normalize", False, EVERYTHING),
        ("similarity", "cosine", {"search": 1, "score": 1, "mine_negatives": 1}),
    ],
)
def test_model_options(done, option, value, jobs):
    done.config["models"]["bert"][option] = value
    assert done.planned() == jobs


def test_run_options_change_nothing(done):
    done.config.update(
        per_device_eval_batch_size=3, per_device_matmul_batch_size=7, nproc_per_node=2
    )
    assert done.planned() == {}
    # Not "input": a check of the data is an input only of what is not there yet.
    every_trigger = ["mtime", "params", "software-env", "code"]
    assert done.planned("--rerun-triggers", *every_trigger) == {}


def test_editing_judgments_scores_and_mines_only(done):
    with open(done.folder / "data" / "qrels.tsv", "a") as file:
        file.write("q11\td1\t1\n")
    assert done.planned() == {"score": 1, "mine_negatives": 1}


def test_a_cutoff_within_the_depth_scores_only(done):
    done.config["evaluation"]["ir_metrics_k_values"] = [1, 3, 5, 10]
    assert done.planned() == {"score": 1}
    done.run()
    assert "ndcg_cut_3" in done.metrics("tiny", "bert")


def test_a_deeper_cutoff_searches_again(done):
    done.config["evaluation"]["ir_metrics_k_values"] = [1, 5, 10, 60]
    assert done.planned() == {"search": 1, "score": 1}


def test_a_deeper_search_serves_a_shallower_need(done):
    done.config["evaluation"]["ir_metrics_k_values"] = [1, 5, 60]
    done.run()
    done.config["evaluation"]["ir_metrics_k_values"] = [1, 5, 10]
    assert "search" not in done.planned()


def test_mining_options_mine_only(done):
    done.config["mining"].update(search_topk=4, output_qrel_format="grouped")
    assert done.planned() == {"mine_negatives": 1}
    done.run()
    mined = done.folder / "results" / "tiny" / "bert" / "mined"
    assert not (mined / "mined_qrels.tsv").exists()
    first = json.loads((mined / "mined_qrels.jsonl").read_text().splitlines()[0])
    assert first["qid"] == "q0"
    assert len(first["docid"]) == 4


@pytest.mark.parametrize(
    "options",
    [
        {"absolute_margin": 0.1, "max_score": 0.9, "min_score": -0.5, "num_negatives": 2},
        {"preset": "TopK-PercPos", "sampling": "random", "seed": 3, "range_min": 2},
        {"near_twin_cosine": 0.98, "merge_mined_qrels": False, "training_formats": ["triplet"]},
    ],
)
def test_a_sweep_of_mining_options_mines_only(done, options):
    done.config["mining"].update(options)
    assert done.planned() == {"mine_negatives": 1}


def test_two_datasets_share_a_corpus(done):
    data = done.folder / "data"
    shutil.copy(data / "corpus.jsonl", data / "same.jsonl")
    asked = [{"_id": "x", "text": "wing flow"}]
    (data / "more.jsonl").write_text("".join(json.dumps(query) + "\n" for query in asked))
    done.config["datasets"]["twin"] = {
        "corpus_path": "data/same.jsonl",
        "query_path": "data/more.jsonl",
    }
    jobs = {"encode_queries": 1, "search": 1, "mine_negatives": 1}
    assert done.planned() == jobs


def test_a_file_that_changed_after_planning_is_never_cached(done):
    """The step hashes the bytes that it reads: an edit after planning does not get the old name."""
    corpus = done.folder / "data" / "corpus.jsonl"
    corpus.write_text('{"_id": "1", "title": "", "text": "wing"}\n')
    plan = done.run("--dry-run", "--printshellcmds")
    line = next(line for line in plan.splitlines() if "trove_steps.encode_corpus" in line)
    command = line.partition("Shell command: ")[2] or line
    corpus.write_text('{"_id": "1", "title": "", "text": "jet"}\n')
    before = sorted((done.folder / "cache" / "embeddings").glob("*/corpus-*.json"))
    (done.folder / "logs" / "encode_corpus").mkdir(parents=True, exist_ok=True)
    ended = subprocess.run(
        ["bash", "-c", command], cwd=done.folder, env=done.environment(), check=False
    )
    assert ended.returncode == 1
    assert sorted((done.folder / "cache" / "embeddings").glob("*/corpus-*.json")) == before
    log = max((done.folder / "logs" / "encode_corpus").iterdir(), key=os.path.getmtime)
    assert "changed while it was read" in log.read_text()
    assert "Traceback" not in log.read_text()
