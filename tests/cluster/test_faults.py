"""What is done to a job on a cluster: none of it may make snakemake wait for ever or lose finished work."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import PROFILE, TESTBED, ask

pytestmark = pytest.mark.cluster

TIMEOUT = 500


def finish(workflow, process) -> str:
    """Let a slow workflow run to its end; return what it printed."""
    (workflow.folder / "slow").unlink(missing_ok=True)
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, output
    assert workflow.metrics("tiny", "bert")["num_judged"] == 11
    return output


def reused(workflow) -> int:
    """Return how many vectors the last encode job found in the store."""
    found = re.findall(
        r"encode corpus: [\d,]+ texts, ([\d,]+) reused", workflow.log("encode_corpus")
    )
    return int(found[-1].replace(",", ""))


def test_a_cancelled_job_is_submitted_again_and_goes_on(cluster, slow):
    process = slow.start()
    (job,) = cluster.running("encode_corpus", process)
    slow.wait_for_shards(2)
    ask("scancel", job)
    (again,) = wait_for_another(cluster, process, job)
    output = finish(slow, process)
    assert again != job
    assert "Error in rule encode_corpus" in output
    assert "logs/slurm/rule_encode_corpus/" in output
    assert re.search(r"logs/encode_corpus/\S+\.log", output)
    assert "Trying to restart job" in output
    assert reused(slow) > 0


def wait_for_another(cluster, process, job: str) -> list[str]:
    deadline = time.time() + 240
    while time.time() < deadline:
        others = [other for other in cluster.running("encode_corpus", process) if other != job]
        if others:
            return others
        time.sleep(1)
    raise AssertionError("no other job was submitted")


def test_a_job_over_its_memory_gets_twice_as_much(cluster, slow):
    (slow.folder / "slow").unlink()
    (slow.folder / "hungry").touch()
    process = slow.start("--set-resources", "encode_corpus:mem_mb=2500 * 2 ** (attempt - 1)")
    output = finish(slow, process)
    assert "Trying to restart job" in output
    asked = set(re.findall(r"mem_mb=(2500|5000)\b", output))
    assert asked == {"2500", "5000"}


def test_a_job_over_its_time_gets_twice_as_much_and_goes_on(cluster, slow):
    process = slow.start("--set-resources", "encode_corpus:runtime=2 ** (attempt - 1)")
    (job,) = cluster.running("encode_corpus", process)
    wait_for_another(cluster, process, job)
    output = finish(slow, process)
    assert "Trying to restart job" in output
    assert {"runtime=1", "runtime=2"} <= set(re.findall(r"runtime=\d+", output))
    assert reused(slow) > 0


def test_a_node_that_goes_down(cluster, slow):
    cluster.breaking()
    process = slow.start()
    (job,) = cluster.running("encode_corpus", process)
    slow.wait_for_shards(2)
    (node,) = cluster.nodes_of(job)
    try:
        cluster.crash(node)
        (again,) = wait_for_another(cluster, process, job)
        assert cluster.nodes_of(again) != [node]
        finish(slow, process)
        assert reused(slow) > 0
    finally:
        cluster.start()


def test_the_controller_is_away_for_a_while(cluster, slow):
    cluster.breaking()
    process = slow.start()
    cluster.running("encode_corpus", process)
    slow.wait_for_shards(2)
    for daemon in ("slurmctld", "slurmdbd"):
        os.kill(int(Path(f"{TESTBED}/run/{daemon}.pid").read_text()), signal.SIGTERM)
    time.sleep(20)
    with pytest.raises(subprocess.CalledProcessError):
        cluster.jobs()
    cluster.start()
    output = finish(slow, process)
    assert "Trying to restart job" not in output


def test_ctrl_c_leaves_no_job_behind_and_a_rerun_goes_on(cluster, slow):
    process = slow.start()
    cluster.running("encode_corpus", process)
    slow.wait_for_shards(2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    deadline = time.time() + 60
    while cluster.jobs():
        assert time.time() < deadline, cluster.jobs()
        time.sleep(1)
    finish(slow, slow.start())
    assert reused(slow) > 0


def test_a_job_that_slurm_starts_again(cluster, slow):
    """On a partition where jobs are preempted, SLURM itself requeues."""
    cluster.breaking()
    profile = slow.folder / "profile" / "config.yaml"
    profile.parent.mkdir()
    text = (Path(PROFILE) / "config.yaml").read_text()
    assert text.count("slurm-no-requeue: true") == 1
    profile.write_text(text.replace("slurm-no-requeue: true", "slurm-requeue: true"))
    process = slow.start("--workflow-profile", str(profile.parent))
    (job,) = cluster.running("encode_corpus", process)
    slow.wait_for_shards(2)
    ask("scontrol", "requeue", job)
    output = finish(slow, process)
    assert "Trying to restart job" not in output
    assert reused(slow) > 0


def test_a_mistake_is_named_with_its_rule_and_its_log(cluster, workflow):
    """The last lines of the step's log are on the screen of the login node."""
    workflow.config["models"]["bert"]["encoder_class"] = "broken:Missing"
    (workflow.folder / "broken.py").write_text("")
    output = workflow.run("--retries", "0", "encode", expect=1)
    assert "Error in rule encode_corpus" in output
    assert "encoder_class broken:Missing" in output


def test_requeue_is_one_of_the_settings_that_are_checked(cluster, workflow):
    """A profile that would make snakemake wait for ever is named before anything is submitted."""
    started = workflow.start("--slurm-status-command", "sacct", "--slurm-status-attempts", "2")
    try:
        output = ""
        while "has been submitted" not in output:
            line = started.stdout.readline()
            assert line, output
            output += line
        assert "slurm-status-command is not squeue" in output
        assert "slurm-status-attempts is small" in output
    finally:
        started.send_signal(signal.SIGINT)
        try:
            started.communicate(timeout=100)
        except subprocess.TimeoutExpired:
            started.kill()
