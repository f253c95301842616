"""What is done to a job on a cluster: none of it may make snakemake wait for ever or lose finished work."""

import itertools
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cluster.conftest import DOCUMENTS, TESTBED, ask, slow_config, wait_until
from tests.integration.conftest import BIN
from trove_steps.encoding.portions import PORTION_SECONDS

pytestmark = pytest.mark.cluster

TIMEOUT = 300


def finish(workflow, process) -> str:
    """Let a slow workflow run to its end; return what it printed."""
    (workflow.folder / "slow").unlink(missing_ok=True)
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, output
    return output


def encoded(workflow, model: str = "bert") -> int:
    """Return how many texts the last encode job of a model did not find in the store."""
    (log,) = (workflow.folder / "logs" / "encode_corpus").glob(f"{workflow.encoder(model)}-*.log")
    found = re.findall(
        r"encode corpus: [\d,]+ texts, [\d,]+ reused.*, ([\d,]+) encoded", log.read_text()
    )
    return int(found[-1].replace(",", ""))


def test_jobs_that_are_cancelled_or_need_more_time_or_memory(cluster, slow):
    """Each is tried again, those at a limit with twice as much, and goes on from the store."""
    slow.config = slow_config()
    process = slow.start("encode")
    keys = {name: slow.encoder(name) for name in slow.config["models"]}
    jobs = {name: cluster.jobs_like(key, process)[0] for name, key in keys.items()}
    asked = {name: cluster.asked(job) for name, job in jobs.items()}
    ask("scontrol", "update", f"jobid={jobs['late']}", "TimeLimit=1")
    slow.wait_for_shards(1)
    ask("scancel", jobs["bert"])
    again, kept = {}, {}
    for name in ("bert", "hungry", "late"):
        again[name] = cluster.another(keys[name], process, jobs[name])
        kept[name] = slow.stored(name)  # before the new job has begun
        assert cluster.asked(again[name]) == tuple(2 * amount for amount in asked[name])
    output = finish(slow, process)
    assert len({*jobs.values(), *again.values()}) == 6
    assert output.count("Trying to restart job") == 3
    ends = {"bert": "CANCELLED", "late": "TIMEOUT", "hungry": "(FAILED|OUT_OF_MEMORY)"}
    for name, key in keys.items():
        assert re.search(rf"SLURM ended job {jobs[name]} on \S+: {ends[name]}", output)
        assert f"encode_corpus did not finish; the end of logs/encode_corpus/{key}-" in output
        assert f"logs/slurm/rule_encode_corpus/{key}" in output
    assert kept["hungry"] == 0 < min(kept["bert"], kept["late"])
    for name, count in kept.items():
        assert encoded(slow, name) == DOCUMENTS - count


def test_a_node_that_goes_down(cluster, slow):
    cluster.breaking()
    process = slow.start("encode")
    (job,) = cluster.running("encode_corpus", process)
    slow.wait_for_shards(1)
    (node,) = cluster.nodes_of(job)
    try:
        cluster.crash(node)
        kept = slow.stored()
        again = cluster.another("encode_corpus", process, job)
        wait_until(lambda: cluster.nodes_of(again), lambda: "the second job did not start")
        assert cluster.nodes_of(again) != [node]
        output = finish(slow, process)
        assert re.search(rf"SLURM ended job {job} on {node}: NODE_FAIL", output)
        assert encoded(slow) == DOCUMENTS - kept
    finally:
        cluster.start()


def test_a_preempted_job_is_submitted_again(cluster, slow):
    """As the profile is, without SLURM's own requeueing."""
    cluster.breaking()
    slow.edit_profile(
        lambda text: text.replace("slurm_partition: main", "slurm_partition: preempt")
    )
    process = slow.start("encode")
    (job,) = cluster.running("encode_corpus", process)
    slow.wait_for_shards(1)
    (node,) = cluster.nodes_of(job)
    exclusive = ["--partition=main", f"--nodelist={node}", "--exclusive", "--output=/dev/null"]
    other = ask("sbatch", "--parsable", *exclusive, "--wrap", "sleep 600").strip()
    try:
        again = cluster.another("encode_corpus", process, job)
        kept = slow.stored()
        output = finish(slow, process)
    finally:
        ask("scancel", other)
    assert again != job
    assert re.search(rf"SLURM ended job {job} on {node}: PREEMPTED", output)
    assert "encode_corpus did not finish; the end of logs/encode_corpus/" in output
    assert 0 < encoded(slow) <= DOCUMENTS - kept


def test_the_controller_is_away_for_a_while(cluster, slow):
    """As the profile is, with snakemake's own pace: its squeue is asked while nobody answers.

    The job goes on all the while, and stores what it has about every PORTION_SECONDS: a kill loses no more.
    """
    cluster.breaking()
    slow.program = (str(BIN / "snakemake"),)
    quick = ["--slurm-init-seconds-before-status-checks", "3"]
    process = slow.start("encode", *quick)
    cluster.running("encode_corpus", process)
    slow.wait_for_shards(2)
    for daemon in ("slurmctld", "slurmdbd"):
        os.kill(int(Path(f"{TESTBED}/run/{daemon}.pid").read_text()), signal.SIGTERM)
    try:
        read_until(process, "SLURM does not answer")
        with pytest.raises(subprocess.CalledProcessError):
            cluster.jobs()
    finally:
        cluster.start()
    slow.wait_for_shards(4)
    stored_at = sorted(path.stat().st_mtime for path in slow.shards())
    apart = [later - earlier for earlier, later in itertools.pairwise(stored_at)]
    print("seconds between what is stored:", [round(seconds, 1) for seconds in apart])
    assert max(apart) < 1.5 * PORTION_SECONDS
    output = finish(slow, process)
    assert "Trying to restart job" not in output
    assert encoded(slow) == DOCUMENTS


def read_until(process, text: str) -> str:
    """Read what a process prints until a line has `text` in it."""
    output = ""
    for line in process.stdout:
        output += line
        if text in line:
            return output
    raise AssertionError(output)


def interrupt(process) -> None:
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def test_a_killed_run_and_an_interrupted_one_go_on(cluster, slow):
    """kill -9 leaves the jobs running, Ctrl-C none; what was stored counts in either case."""
    process = slow.start()
    (job,) = cluster.running("encode_corpus", process)
    slow.wait_for_shards(1)
    process.kill()
    process.wait()
    slow.run("--unlock")
    process = slow.start()
    read_until(process, f"scancel {job}")  # what to do about the job of the killed run
    interrupt(process)
    assert list(cluster.jobs()) == [job]
    ask("scancel", job)
    cluster.wait_for_none()
    first, shards = slow.stored(), len(slow.shards())

    process = slow.start()
    cluster.running("encode_corpus", process)
    slow.wait_for_shards(shards + 1)
    interrupt(process)
    cluster.wait_for_none()
    second = slow.stored()
    assert 0 < first < second < DOCUMENTS

    finish(slow, slow.start())
    assert encoded(slow) == DOCUMENTS - second
    assert slow.metrics("tiny", "bert")["num_judged"] == 11


def test_a_mistake_is_named_with_its_rule_and_its_log(slow):
    """The last lines of the step's log are on the screen of the login node."""
    slow.config["models"]["bert"]["encoder_class"] = "broken:Missing"
    (slow.folder / "broken.py").write_text("")
    output = slow.run("--retries", "0", slow.manifest(), expect=1)
    assert "encode_corpus did not finish; the end of logs/encode_corpus/" in output
    assert "which 'broken:Missing' names" in output


def test_who_starts_a_lost_job_again_must_be_said(cluster, slow):
    """Before anything is submitted."""
    slow.edit_profile(lambda text: text.replace("slurm-no-requeue: true", ""))
    process = slow.start()
    output = read_until(process, "neither slurm-no-requeue nor slurm-requeue is set")
    process.kill()
    assert "has been submitted" not in output
