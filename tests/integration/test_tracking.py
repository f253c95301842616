"""report_to in the real workflow, offline."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.unit.test_tracking import read_run


def run_ids(workflow) -> list[str]:
    runs = (workflow.folder / "results" / "wandb").glob("offline-run-*")
    return [run.name.rsplit("-", 1)[1] for run in runs]


def test_evaluations_are_logged_and_updated(workflow, monkeypatch):
    workflow.config["report"] = True
    workflow.config["evaluation"].update(
        report_to=["wandb"], wandb={"project": "checks", "mode": "offline"}
    )
    del workflow.config["mining"]
    output = workflow.run()
    assert "\ntiny/bert: logged to wandb: " in output
    group = f"{workflow.folder.name}/results"
    for folder in (workflow.folder / "results/wandb").glob("offline-run-*"):
        run = read_run(folder)
        assert (run["project"], run["group"]) == ("checks", group)
        if run["display_name"] == "report":
            continue
        assert run["display_name"] == "tiny/bert"
        assert run["tags"] == ["tiny", "bert"]
        assert (run["config"]["dataset"], run["config"]["model"]) == ("tiny", "bert")
        metrics = workflow.metrics("tiny", "bert")
        assert {name: run["summary"][name] for name in metrics} == metrics
        (path,) = folder.glob("files/media/table/per_query*.json")
        table = json.loads(path.read_text())
        assert table["columns"][:2] == ["query_id", "query"]
        lines = (workflow.folder / "data/queries.jsonl").read_text().splitlines()
        texts = {query["_id"]: query["text"] for query in map(json.loads, lines)}
        assert {row[0]: row[1] for row in table["data"]}.items() <= texts.items()
    first = run_ids(workflow)
    assert len(first) == 2  # the evaluation and the report
    assert workflow.planned() == {}
    workflow.config["evaluation"]["ir_metrics_k_values"] = [1, 5]
    assert workflow.planned() == {"score": 1, "track": 1}
    workflow.run()
    second = run_ids(workflow)
    assert len(second) == 4
    assert len(set(second)) == 3  # the same evaluation, another report


def test_a_tracker_out_of_reach_is_a_warning_and_is_tried_again(workflow, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(workflow.folder))
    monkeypatch.setenv("NETRC", str(workflow.folder / "none"))
    trackers = ["wandb", "tensorboard"]
    workflow.config["evaluation"].update(report_to=trackers, wandb={"mode": "online"})
    del workflow.config["mining"]
    (workflow.folder / "results").mkdir()
    (workflow.folder / "results/tensorboard").write_text("a file")
    output = workflow.run()
    assert "warning: tiny/bert: not logged to wandb: " in output
    assert "warning: tiny/bert: not logged to tensorboard: " in output
    metrics = workflow.metrics("tiny", "bert")
    assert metrics["num_judged"] == 11
    assert workflow.planned() == {"track": 1}
    (workflow.folder / "results/tensorboard").unlink()
    for _ in range(2):  # again replaces what was there
        assert "tiny/bert: logged to tensorboard: results/tensorboard/tiny/bert" in workflow.run()
    events = EventAccumulator(str(workflow.folder / "results/tensorboard/tiny/bert")).Reload()
    assert set(events.Tags()["scalars"]) == set(metrics)
    for name, value in metrics.items():
        assert [event.value for event in events.Scalars(name)] == [pytest.approx(value, rel=1e-6)]
    (config,) = events.Tensors("configuration/text_summary")
    assert "relevance_threshold" in str(config.tensor_proto.string_val[0])
