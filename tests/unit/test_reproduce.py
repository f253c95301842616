"""Published figures beside ours."""

import json

import pytest

from trove_steps.cli import main
from trove_steps.errors import TroveStepsError
from trove_steps.reproduce import format_outcomes, published, reproduce

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def config(tmp_path, dataset="scifact", model="minilm", path="models/all-MiniLM-L6-v2", **metrics):
    folder = tmp_path / "results" / dataset / model
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return {
        "output_dir": str(tmp_path / "results"),
        "datasets": {dataset: {"corpus_path": "c", "query_path": "q"}},
        "models": {model: {"model_name_or_path": path}},
    }


def test_every_published_figure_is_a_share_with_a_source():
    figures = published()
    assert len(figures) > 25
    assert all(0 < figure.value < 1 and figure.source and figure.setup for figure in figures)
    places = [(f.model, f.dataset, f.split, f.metric) for f in figures]
    assert len(set(places)) == len(places)


def test_green_red_and_not_computed(tmp_path):
    given = config(tmp_path, ndcg_cut_10=0.6451, recall_100=0.93)
    outcomes = {outcome.figure.metric: outcome for outcome in reproduce(given)}
    assert outcomes["ndcg_cut_10"].agrees is True
    assert outcomes["recall_100"].agrees is False
    assert outcomes["map_cut_100"].agrees is None
    shown = format_outcomes(list(outcomes.values())).splitlines()
    assert shown[1].split() == [
        *("scifact", "minilm", "ndcg_cut_10", "0.64508", "0.64510", "+0.00002", "green")
    ]
    assert any(line.endswith("+0.00500    RED") for line in shown)
    assert "not computed" in "".join(shown)
    assert "\033[31m" in format_outcomes(list(outcomes.values()), colour=True)


@pytest.mark.parametrize(
    ("dataset", "value"),
    [("scifact", 0.64508), ("beir-scifact", 0.64508), ("SciFact_train", 0.6602)],
)
def test_names_of_data_sets_and_splits(tmp_path, dataset, value):
    outcomes = reproduce(config(tmp_path, dataset, path=MINILM))
    assert {o.figure.metric: o.figure.value for o in outcomes}["ndcg_cut_10"] == value


def test_other_names(tmp_path):
    given = config(tmp_path, dataset="mine", path="checkpoints/x")
    with pytest.raises(TroveStepsError, match="no figure is published"):
        reproduce(given)
    names = ["mine=scifact-train", f"minilm={MINILM}"]
    (outcome,) = reproduce(given, names=names)
    assert outcome.figure.value == 0.6602
    with pytest.raises(TroveStepsError, match="neither model nor data set 'yours'"):
        reproduce(given, names=["yours=scifact"])
    with pytest.raises(TroveStepsError, match="nothing is published for 'scifcat'"):
        reproduce(given, names=["mine=scifcat"])


def test_what_has_no_figures_is_named(tmp_path):
    given = config(tmp_path, dataset="mine", path="checkpoints/x", model="own")
    with pytest.raises(
        TroveStepsError, match=f"the models here: own.* known: .*{MINILM}, .*--as own="
    ):
        reproduce(given)
    only_vectors = {**given, "models": {"own": {}}}
    with pytest.raises(TroveStepsError, match="the models here: own"):
        reproduce(only_vectors)
    with pytest.raises(TroveStepsError, match=r"the data sets here: mine.*scifact-train") as told:
        reproduce(given, names=[f"own={MINILM}"])
    assert ", msmarco." in str(told.value)
    assert "intfloat" not in str(told.value)
    assert "--as mine=" in str(told.value)


def test_command(tmp_path, monkeypatch, capsys):
    given = config(tmp_path, ndcg_cut_10=0.6451)
    path = tmp_path / "my.yaml"
    path.write_text(json.dumps(given))
    assert main(["reproduce", "--configfile", str(path)]) == 0
    assert "green" in capsys.readouterr().out
    assert main(["reproduce", "--configfile", str(path), "--tolerance", "1e-6"]) == 1
    assert "RED" in capsys.readouterr().out
    path.write_text(json.dumps({**given, "output_dir": "results"}))
    assert main(["reproduce", "--configfile", str(path), "--directory", str(tmp_path)]) == 0
    assert "green" in capsys.readouterr().out
    assert main(["reproduce", "--configfile", str(tmp_path / "no.yaml")]) == 1
    assert "can't be read" in capsys.readouterr().err
