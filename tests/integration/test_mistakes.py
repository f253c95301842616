"""Mistakes of the user's: one clear message, before anything runs, and no traceback."""

import json
import subprocess

import pytest

from tests.conftest import write_jsonl


def fails_with(workflow, message: str, *arguments: str) -> str:
    output = workflow.run(*arguments, expect=1)
    return complains(output, message)


def complains(output: str, message: str) -> str:
    assert message in output, output
    assert "Traceback" not in output, output
    assert '  File "' not in output, output
    return output


def test_unknown_key(workflow):
    workflow.config["evaluation"]["ir_metric_k_values"] = [10]
    fails_with(
        workflow,
        "evaluation.ir_metric_k_values: unknown key; did you mean 'ir_metrics_k_values'?",
    )


BAD_FILES = {
    "no YAML": (
        b"datasets:\n  d: {corpus_path: a\nmodels:\n",
        "error: bad.yaml:3: not valid YAML: ",
    ),
    "no UTF-8": (b"datasets: {} # \xfc\n", "error: the configuration bad.yaml is not UTF-8: "),
    "a tag": (
        b"datasets: {}\nx: !!bool maybe\n",
        "error: the configuration bad.yaml holds a value",
    ),
    "empty": (b"", "error: the configuration bad.yaml holds no sections"),
    "gone": (None, "error: the configuration bad.yaml can't be read (No such file or directory): "),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_configuration(workflow, name):
    content, message = BAD_FILES[name]
    if content is not None:
        (workflow.folder / "bad.yaml").write_bytes(content)
    program, _, _, *rest = workflow.command("--config", "output_dir=out")
    complains(ended([program, *rest, "--configfile", "bad.yaml"], workflow), message)


def test_a_task_behind_configfile(workflow):
    message = "--configfile takes all names behind it, and mine is no file"
    program, _, file, *rest = workflow.command()
    complains(ended([program, *rest, "--configfile", file, "mine"], workflow), f"error: {message}")


def test_configfile_twice(workflow):
    message = "error: --configfile is there twice, and snakemake would take the last one only"
    fails_with(workflow, message, "-n", "--configfile", "my.yaml")


def test_a_file_that_a_profile_names(workflow):
    """Which one it is, we can't know: Snakemake's words stay."""
    (workflow.folder / "profile").mkdir()
    (workflow.folder / "profile" / "config.yaml").write_text("configfile: bad.yaml\n")
    (workflow.folder / "bad.yaml").write_text("datasets:\n\tt: {}\n")
    program, _, _, *rest = workflow.command("--profile", "profile", "-n")
    output = ended([program, *rest], workflow)
    assert "Config file is not valid JSON or YAML" in output
    assert "config/config.yaml" not in output


def test_no_configuration(workflow):
    program, _, _, *rest = workflow.command("-n")
    output = ended([program, *rest], workflow)
    assert (
        "error: there is no config/config.yaml here: name a configuration with --configfile"
        in output
    )


def ended(command: list[str], workflow) -> str:
    process = subprocess.run(
        command, cwd=workflow.folder, env=workflow.environment(), capture_output=True, text=True
    )
    assert process.returncode == 1
    return process.stdout + process.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluat"], "error: nothing makes evaluat; did you mean 'evaluate'?"),
        (["results/tiny/bert/metrics.json"], "what lies in results/ is made by these tasks"),
        (["search"], "error: this is the name of a step, not of a task; valid: check, encode"),
        (["--config", "my.yaml"], "error: --config takes NAME=VALUE, and not 'my.yaml'; a file is"),
    ],
)
def test_what_was_asked_for(workflow, arguments, message):
    fails_with(workflow, message, "-n", *arguments)


ENDED_BY_A_SIGNAL = """
import os, signal

def records(path):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("quiet", [[], ["--quiet", "rules"]])
def test_a_step_that_could_not_say_why_it_ended(workflow, quiet):
    (workflow.folder / "own.py").write_text(ENDED_BY_A_SIGNAL)
    workflow.config["datasets"]["tiny"]["record_loader"] = "own:records"
    output = workflow.run("check", *quiet, expect=1)
    place = "a step" if quiet else "rule check_data (tiny)"
    assert f"Error in {place}, which was ended by SIGKILL (did the memory" in output


def test_missing_file(workflow):
    workflow.config["datasets"]["tiny"]["corpus_path"] = "data/corpus.json"
    fails_with(workflow, "did you mean 'data/corpus.jsonl'?")


def test_unknown_model_in_pairs(workflow):
    workflow.config["pairs"] = [{"models": "brt"}]
    fails_with(workflow, "pairs[0].models: no model is named 'brt'; did you mean 'bert'?")


def test_pairs_restrict_the_work(workflow, other_model):
    models = workflow.config["models"]
    models["other"] = {**models["bert"], "model_name_or_path": str(other_model)}
    workflow.config["pairs"] = [{"models": "other"}]
    assert workflow.planned()["encode_corpus"] == 1


def test_task_without_section(workflow):
    del workflow.config["mining"]
    fails_with(workflow, "mining: the configuration has no such section", "mine")


def test_model_without_pooling(workflow):
    del workflow.config["models"]["bert"]["pooling"]
    fails_with(workflow, "models.bert.pooling: must be set to one of mean, first_token, last_token")


def test_a_folder_that_is_no_model(workflow):
    workflow.config["models"]["bert"]["model_name_or_path"] = "data"
    fails_with(workflow, "config.json")


def test_a_broken_line_is_named_by_file_and_line(workflow):
    with open(workflow.folder / "data" / "corpus.jsonl", "a") as file:
        file.write('{"_id": "broken", "text": \n')
    output = fails_with(workflow, "    error: data/corpus.jsonl:61: not valid JSON")
    assert "Error in rule check_data (tiny); the end of logs/check_data/tiny-" in output
    assert "trove_steps.check_data" not in output  # the command is in Snakemake's log
    assert not (workflow.folder / "results" / "tiny" / "bert" / "metrics.json").exists()


def test_a_repeated_id_names_both_lines(workflow):
    corpus = workflow.folder / "data" / "corpus.jsonl"
    corpus.write_text(corpus.read_text() + '{"_id": "d0", "title": "", "text": "again"}\n')
    fails_with(workflow, "data/corpus.jsonl:61: the id 'd0' is already taken at")


def test_judgments_of_another_collection(workflow):
    (workflow.folder / "data" / "qrels.tsv").write_text("x1\td1\t1\n")
    fails_with(workflow, "none of the 1 queries that the judgments name exists")


def test_named_targets_and_lists_of_files(workflow):
    data = workflow.folder / "data"
    write_jsonl(data / "more.jsonl", [{"_id": "extra", "title": "shock", "text": "wave"}])
    workflow.config["datasets"]["tiny"]["corpus_path"] = ["data/corpus.jsonl", "data/more.jsonl"]
    workflow.run("encode")
    assert workflow.planned("encode") == {}
    assert workflow.planned("evaluate") == {"search": 1, "score": 1}
    assert workflow.planned("mine") == {"search": 1, "mine_negatives": 1}
    (manifest,) = (workflow.folder / "cache" / "embeddings").glob("*/corpus-*.json")
    assert json.loads(manifest.read_text())["rows"] == 61


def test_directory_and_absolute_paths(workflow, tmp_path):
    """Relative paths belong to the working directory, wherever snakemake is started."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    dataset = workflow.config["datasets"]["tiny"]
    dataset["query_path"] = str(workflow.folder / "data" / "queries.jsonl")
    workflow.config["encoding_cache_dir"] = str(tmp_path / "shared cache")
    command = workflow.command("--directory", str(workflow.folder), "encode")
    process = subprocess.run(
        command, cwd=elsewhere, env=workflow.environment(), capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert list((tmp_path / "shared cache" / "embeddings").glob("*/corpus-*.json"))
    assert not list(elsewhere.iterdir())
