"""trove-steps doctor model: what a person sees of a model before it is used."""

import json

import pytest

from trove_steps.cli import main


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
    options = ["--config", str(config), "--set", "query_max_len=7", "--role", "query", "--json"]
    assert main(["doctor", "model", "m", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["query_max_len"] == {"value": 7, "source": "config"}
    assert found["settings"]["passage_max_len"]["source"] == "default"
    assert found["is_pure"] is True
    assert found["tokens_per_second"] > 0
    assert found["vector_lengths"] == [1, 1, 1]
    assert [found["cosines"][n][n] for n in range(3)] == [1, 1, 1]
    assert main(["doctor", "model", "n", "--config", str(config)]) == 1
    assert "no model is named 'n'; valid: m" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "pooling: must be set"),
        (["--set", "pooling"], "write OPTION=VALUE"),
        (["--set", "poling=mean"], "did you mean 'pooling'"),
        (["--set", "pooling=mean", "--set", "passage_max_len=4000"], "128 positions"),
    ],
)
def test_mistakes(tiny_model, capsys, options, said):
    assert main(["doctor", "model", str(tiny_model), *options]) == 1
    assert said in capsys.readouterr().err
