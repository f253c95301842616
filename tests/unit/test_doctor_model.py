"""trove-steps doctor model: what a person sees of a model before it is used."""

import json
import shutil
import threading

import pytest

from tests.integration.test_fetch import Hub
from tests.unit.test_model_settings import add_modules, write
from trove_steps.cli import main


@pytest.fixture
def hub(tiny_model, tmp_path, monkeypatch):
    """A server on this machine that is the Hub, for this process."""
    from huggingface_hub import constants

    server = Hub({"models/org/tiny": tiny_model})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield server
    server.shutdown()


def test_page(tiny_model, capsys):
    assert main(["doctor", "model", str(tiny_model), "--set", "pooling=mean"]) == 0
    page = capsys.readouterr().out
    assert str(tiny_model) in page
    assert "32 dimensions" in page
    assert "attention: sdpa" in page
    assert [line.split() for line in page.splitlines() if line.startswith("pooling")] == [
        ["pooling", "mean", "config"]
    ]


def test_json_of_a_model_of_a_configuration(tiny_model, tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text(
        "datasets: {d: {corpus_path: c.jsonl, query_path: q.jsonl}}\n"
        f"models: {{m: {{model_name_or_path: {tiny_model}, pooling: mean, normalize: true}}}}\n"
    )
    options = ["--configfile", str(config), "--set", "query_max_len=7", "--role", "query", "--json"]
    assert main(["doctor", "model", "m", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["query_max_len"] == {"value": 7, "source": "config"}
    assert found["settings"]["passage_max_len"]["source"] == "default"
    assert found["is_pure"] is True
    assert found["tokens_per_second"] > 0
    assert found["vector_lengths"] == [1, 1, 1]
    assert [found["cosines"][n][n] for n in range(3)] == [1, 1, 1]
    assert main(["doctor", "model", "n", "--configfile", str(config)]) == 1
    assert "no model is named 'n'; valid: m" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "models.tiny.pooling: must be set"),
        (["--set", "pooling"], "write OPTION=VALUE"),
        (["--set", "pooling=["], "--set pooling=[: the value is not valid YAML"),
        (["--set", "pooling=foo"], "models.tiny.pooling: 'foo' is not a valid value"),
        (["--set", "poling=mean"], "did you mean 'pooling'"),
        (["--set", "pooling=mean", "--set", "passage_max_len=4000"], "128 positions"),
    ],
)
def test_mistakes(tiny_model, capsys, options, said):
    assert main(["doctor", "model", str(tiny_model), *options]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("q: {text}", "q: {text}"),
        ("query #1: {text} ", "query #1: {text} "),
        ("{text}", "{text}"),
        ("{{}} {text}", "{{}} {text}"),
        ('"q: {text}"', "q: {text}"),
        ("{'*': 'ask: {text}'}", "ask: {text}"),
    ],
)
def test_a_text_format_needs_no_quotes_of_yaml(tiny_model, capsys, given, value):
    options = ["--set", "pooling=mean", "--set", f"query_format={given}", "--json"]
    assert main(["doctor", "model", str(tiny_model), *options]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert settings["query_format"] == {"value": value, "source": "config"}


def test_a_commit_that_looks_like_a_number_is_text(tiny_model, capsys):
    options = ["--set", "pooling=mean", "--set", "model_revision=1234567"]
    assert main(["doctor", "model", str(tiny_model), *options]) == 0


def test_text_format_by_data_set(tiny_model, tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text(
        "datasets: {scifact: {corpus_path: c.jsonl, query_path: q.jsonl}}\n"
        f"models: {{m: {{model_name_or_path: {tiny_model}, pooling: mean, "
        "query_format: {scifact: 'claim: {text}', '*': 'ask: {text}'}}}\n"
    )
    assert main(["doctor", "model", "m", "--configfile", str(config), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["query_format"] == {"value": "ask: {text}", "source": "config"}


def test_a_model_of_the_configuration_of_a_directory(tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # which the command leaves
    shutil.copytree(tiny_model, tmp_path / "there" / "model")
    (tmp_path / "there" / "config").mkdir()
    (tmp_path / "there" / "config" / "config.yaml").write_text(
        "datasets: {d: {corpus_path: c.jsonl, query_path: q.jsonl}}\n"
        "models: {m: {model_name_or_path: model, pooling: mean, truncate_dim: [8, 16]}}\n"
    )
    for name in ("m@8", "m@16"):
        monkeypatch.chdir(tmp_path)
        assert main(["doctor", "model", name, "--directory", "there"]) == 0
        assert "mean" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "model", "m@8", "-d", "there", "--set", "pooling=foo"]) == 1
    assert "models.m-8.pooling: 'foo'" in capsys.readouterr().err


def test_prompts_that_are_not_used(tiny_model, tmp_path, capsys):
    shutil.copytree(tiny_model, tmp_path / "m")
    add_modules(tmp_path / "m")
    prompts = {"query": "q: ", "document": "", "clustering": "group: "}
    write(tmp_path / "m", "config_sentence_transformers.json", {"prompts": prompts})
    assert main(["doctor", "model", str(tmp_path / "m")]) == 0
    (line,) = [row for row in capsys.readouterr().out.splitlines() if "prompts not used" in row]
    assert line.endswith(": clustering")
    assert main(["doctor", "model", str(tiny_model), "--set", "pooling=mean"]) == 0
    assert "prompts not used" not in capsys.readouterr().out


def test_a_name_on_the_hub_is_fetched(tiny_model, hub, capsys):
    assert main(["doctor", "model", "org/tiny", "--set", "pooling=mean"]) == 0
    assert "32 dimensions" in capsys.readouterr().out
    assert hub.asked


def test_without_a_network_the_page_says_so(tmp_path, monkeypatch, capsys):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(["doctor", "model", "org/tiny", "--set", "pooling=mean"]) == 1
    said = capsys.readouterr().err
    assert "can't be fetched" in said
    assert "fetch the model on a machine that reaches the Hub" in said
