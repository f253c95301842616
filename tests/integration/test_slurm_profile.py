"""profiles/slurm with stand-ins for SLURM's programs; tests/cluster has the real ones."""

import contextlib
import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import PROJECT, make_dataset
from tests.integration.conftest import Workflow, make_config

pytest.importorskip("snakemake_executor_plugin_slurm")
PROFILE = PROJECT / "profiles" / "slurm"
PROGRAMS = (
    "sbatch",
    "squeue",
    "scancel",
    "scontrol",
    "srun",
    "sinfo",
    "sacct",
    "sacctmgr",
    "sshare",
)


class SlurmWorkflow(Workflow):
    """A workflow on the cluster of the stand-ins, with a profile in its folder."""

    profile = PROFILE

    @property
    def state(self) -> Path:
        return self.folder / "slurm"

    def command(self, *arguments: str) -> list[str]:
        quick = ["--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "3"]
        return super().command("--workflow-profile", str(self.profile), *quick, *arguments)

    def environment(self) -> dict:
        given = super().environment()
        programs = f"{self.folder / 'programs'}{os.pathsep}{given['PATH']}"
        there = os.pathsep.join([str(self.folder), str(PROJECT)])
        own = {"FAKE_SLURM": str(self.state), "PATH": programs, "PYTHONPATH": there}
        return {**given, **own, "CUDA_VISIBLE_DEVICES": ""}

    def jobs(self) -> dict[str, dict]:
        """Return the jobs that were submitted: number → what the stand-in keeps."""
        return {path.stem: json.loads(path.read_text()) for path in self.state.glob("*.json")}

    def wait_for(self, rule: str, count: int = 1) -> str:
        """Wait until so many jobs of a rule or group were submitted; return the number of the last."""
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            found = [
                number
                for number, job in self.jobs().items()
                if job["comment"].startswith(f"rule_{rule}")
            ]
            if len(found) >= count:
                return max(found, key=int)
            time.sleep(0.2)
        raise AssertionError(f"no job of {rule}: {self.jobs()}")


@pytest.fixture
def workflow(tmp_path, tiny_model) -> SlurmWorkflow:
    make_dataset(tmp_path / "data")
    made = SlurmWorkflow(tmp_path, make_config(tiny_model))
    made.state.mkdir()
    (tmp_path / "programs").mkdir()
    for name in PROGRAMS:
        program = tmp_path / "programs" / name
        script = (Path(__file__).parent / "slurm_stand_in.py").read_text()
        program.write_text(script.replace("#!/usr/bin/env python3", f"#!{sys.executable}", 1))
        program.chmod(0o755)
    yield made
    for job in made.jobs().values():
        if "pid" in job:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job["pid"], signal.SIGKILL)


@pytest.fixture
def gpu_profile(workflow) -> SlurmWorkflow:
    """The profile with its lines for GPUs uncommented, as its text says."""
    text = (PROFILE / "config.yaml").read_text()
    block = re.search(r"(?m)^# set-resources:\n(#   .*\n)+", text)[0]
    workflow.profile = workflow.folder / "profile"
    workflow.profile.mkdir()
    wanted = text.replace(block, re.sub(r"(?m)^# ", "", block))
    (workflow.profile / "config.yaml").write_text(wanted)
    return workflow


def submitted(workflow: SlurmWorkflow, *arguments: str) -> dict:
    """Start a run whose jobs do not begin, wait for that of the cell and press Ctrl-C; return the job."""
    (workflow.state / "hold").touch()
    process = workflow.start(*arguments)
    try:
        number = workflow.wait_for("cell")
        job = workflow.jobs()[number]
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 1, output
    assert (workflow.state / "scancel").read_text() == f"--name={job['name']}\n"
    return job


def test_a_cell_is_one_job_with_a_cross_encoder_too(gpu_profile, tiny_model):
    """Its steps ask for the same: GPUs by the profile's lines, processes that are found out there."""
    gpu_profile.config["mining"].update(cross_encoder=str(tiny_model))
    gpu_profile.config["nproc_per_node"] = "auto"
    Workflow(gpu_profile.folder, gpu_profile.config).run("--cores", "1", "encode")
    job = submitted(gpu_profile)
    assert job["comment"].startswith("rule_cell")
    call = " ".join(job["call"])
    for asked in ("-p gpu", "--gres=gpu:1", "--cpus-per-task", "--no-requeue"):
        assert asked in call
    assert "--ntasks-per-gpu" not in call
    (minutes,) = re.findall(r"-t (\d+)", call)
    assert int(minutes) == 22 + 22 + 7  # of the partition's hour: three times 30 would not fit


def test_a_preempted_job_is_submitted_again_with_twice_as_much(workflow):
    (workflow.state / "hold").touch()
    process = workflow.start()
    try:
        workflow.wait_for("check_data")
        (workflow.state / "1.state").write_text("PREEMPTED")
        workflow.wait_for("check_data", 2)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=100)
    finally:
        process.kill()
    assert "SLURM ended job 1 on here: PREEMPTED" in output
    jobs = workflow.jobs()
    first, second = (re.findall(r"(?:--mem|-t) (\d+)", " ".join(jobs[n]["call"])) for n in "12")
    assert [int(amount) for amount in second] == [2 * int(amount) for amount in first]


def test_profile_does_as_workflow_profile_does(workflow, monkeypatch):
    """With --profile, profiles/default is joined: its `cores` say nothing about the nodes."""
    assert (PROJECT / "slurm").samefile(
        PROFILE
    )  # `--profile slurm` is looked for in the working directory
    plain = Workflow.command
    monkeypatch.setattr(
        SlurmWorkflow,
        "command",
        lambda self, *given: plain(self, "--profile", str(PROFILE), "--latency-wait", "3", *given),
    )
    (workflow.state / "hold").touch()
    process = workflow.start("check", "--set-threads", "check_data=640")
    try:
        number = workflow.wait_for("check_data")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=100)
    finally:
        process.kill()
    assert re.search(r"--cpus-per-task[= ]640", " ".join(workflow.jobs()[number]["call"]))
    assert "caps the CPUs" not in output


def test_ten_models_on_fifteen_data_sets(workflow, tiny_model):
    """The jobs of the docs, planned within seconds."""
    for number in range(15):
        make_dataset(workflow.folder / f"data{number}", documents=5, seed=number)
    for number in range(10):
        folder = shutil.copytree(tiny_model, workflow.folder / f"model{number}")
        (folder / "config.json").write_text(
            json.dumps({**json.loads((folder / "config.json").read_text()), "number": number})
        )
    (dataset,), (model,) = workflow.config["datasets"].values(), workflow.config["models"].values()
    workflow.config["datasets"] = {
        f"d{number}": {
            key: path.replace("data/", f"data{number}/") for key, path in dataset.items()
        }
        for number in range(15)
    }
    workflow.config["models"] = {
        f"m{number}": {**model, "model_name_or_path": f"model{number}"} for number in range(10)
    }
    workflow.config["report"] = True
    workflow.run("--dry-run")
    before = os.times()
    output = workflow.run("--dry-run")
    after = os.times()
    seconds = (after.children_user + after.children_system) - (
        before.children_user + before.children_system
    )
    groups = len(re.findall(r"^.*Group job cell", output, re.MULTILINE))
    rules = re.findall(
        r"^rule (check_data|encode_corpus|compare|write_report):", output, re.MULTILINE
    )
    assert groups == 150
    assert len(rules) == 15 + 150 + 1 + 1
    for text in ((PROFILE / "config.yaml").read_text(), (PROJECT / "docs/cluster.md").read_text()):
        assert re.search(rf"are\s(?:# )?{groups + len(rules)} jobs", text)
    assert seconds < 15  # 5 on a free machine
