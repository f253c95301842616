"""profiles/kubernetes with a stand-in for kubectl that runs a Job's command on this machine."""

import json
import os
from pathlib import Path

import pytest

from tests.conftest import PROJECT, make_dataset
from tests.integration.conftest import Workflow, make_config
from tests.unit.test_cross_encoder import make_cross_encoder

KUBECTL = """#!/usr/bin/env python3
import json, os, subprocess, sys
from pathlib import Path

state = Path(os.environ["FAKE_KUBERNETES"])
namespace, command, *rest = sys.argv[2:]
assert sys.argv[1] == "--namespace" and namespace == "default"
if command == "create":
    job = json.load(sys.stdin)
    name, pod = job["metadata"]["name"], job["spec"]["template"]["spec"]
    (state / f"{name}.json").write_text(json.dumps(job))
    container = pod["containers"][0]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    environment["OMP_NUM_THREADS"] = "1"
    ended = subprocess.run(
        container["command"], cwd=container["workingDir"], env=environment,
        stdout=open(state / f"{name}.log", "w"), stderr=subprocess.STDOUT,
    )
    (state / f"{name}.rc").write_text(str(ended.returncode))
elif command == "get":
    ended = state / f"{rest[1]}.rc"
    if not (state / f"{rest[1]}.json").exists():
        sys.exit(f'Error from server (NotFound): jobs.batch "{rest[1]}" not found')
    done = ended.exists() and ended.read_text()
    print(json.dumps({"status": {"succeeded": 1} if done == "0" else {"failed": 1} if done else {}}))
elif command == "delete":
    (state / "deleted").write_text(" ".join(rest))
else:
    sys.exit("unknown command")
"""


@pytest.fixture
def kubernetes(tmp_path, monkeypatch):
    pytest.importorskip("snakemake_executor_plugin_cluster_generic")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "kubectl"
    program.write_text(KUBECTL)
    program.chmod(0o755)
    state = tmp_path / "state"
    state.mkdir()
    monkeypatch.setenv("FAKE_KUBERNETES", str(state))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return state


def test_the_profile_runs_a_workflow(kubernetes, tmp_path, tiny_model):
    """With a cross-encoder, so that all steps of a group run, and processes found out in the pods."""
    make_dataset(tmp_path / "data")
    workflow = Workflow(tmp_path, make_config(Path(tiny_model)))
    judge = make_cross_encoder(tmp_path / "judge", tiny_model)
    workflow.config["mining"]["cross_encoder"] = str(judge)
    workflow.config["nproc_per_node"] = "auto"
    profile = [
        "--workflow-profile",
        str(PROJECT / "profiles" / "kubernetes"),
        "--latency-wait",
        "2",
    ]
    output = workflow.run(*profile, "--max-status-checks-per-second", "5")
    assert "ndcg_cut_10" in output
    jobs = [json.loads(path.read_text()) for path in kubernetes.glob("*.json")]
    assert len(jobs) == 3  # the check of the data; the corpus; and all the rest of the cell
    for job in jobs:
        (container,) = job["spec"]["template"]["spec"]["containers"]
        asked = container["resources"]
        assert asked["requests"]["memory"] == asked["limits"]["memory"]
        assert 1000 < int(asked["limits"]["memory"].removesuffix("M")) < 20_000
        assert "nvidia.com/gpu" not in asked["limits"]
        assert job["spec"]["activeDeadlineSeconds"] >= 1800
        assert container["workingDir"] == str(tmp_path)
    cpus = sorted(
        job["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"]
        for job in jobs
    )
    assert cpus == ["1", "4", "5"]  # rescoring and scoring side by side
    assert workflow.planned() == {}


def test_states(kubernetes, capsys, monkeypatch):
    from trove_steps import pods

    def ask(*arguments) -> str:
        monkeypatch.setattr("sys.argv", ["pods", *arguments])
        assert pods.main() == 0
        return capsys.readouterr().out.strip()

    assert ask("status", "gone") == "failed"
    (kubernetes / "job.json").write_text("{}")
    assert ask("status", "job") == "running"
    (kubernetes / "job.rc").write_text("1")
    assert ask("status", "job") == "failed"
    (kubernetes / "job.rc").write_text("0")
    assert ask("status", "job") == "success"
    ask("cancel", "job", "other")
    assert (kubernetes / "deleted").read_text().endswith("job other")
