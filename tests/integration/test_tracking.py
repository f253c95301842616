"""report_to: [wandb] in the real workflow, offline."""


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
    workflow.config["evaluation"].update(report_to="wandb", wandb={"mode": "online"})
    del workflow.config["mining"]
    output = workflow.run()
    assert "warning: tiny/bert: not logged to wandb: " in output
    assert workflow.metrics("tiny", "bert")["num_judged"] == 11
    assert workflow.planned() == {"track": 1}
