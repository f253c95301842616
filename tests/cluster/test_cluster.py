"""Jobs on a real cluster: what is done to them, over several nodes, and several that share a corpus.

Nothing done to a job may make snakemake wait for ever or lose finished work. All is in one file, since one
worker must run it: there is one cluster.
"""

import itertools
import json
import os
import re
import signal
import subprocess
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.conftest import (
    DOCUMENTS,
    TESTBED,
    ClusterWorkflow,
    ask,
    slow_config,
    wait_until,
)
from tests.integration.conftest import BIN, Workflow
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


def results(workflow: Workflow) -> dict[str, bytes]:
    """Return name → bytes of everything that people read but paths, and of the rankings."""
    folder = workflow.folder
    files = [*(folder / "results").rglob("*"), *(folder / "cache" / "searches").rglob("*.arrow")]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.is_file()
        and ".gz" not in path.suffixes
        # A check tells the paths of the files, which here are links for one of the two.
        and path.name != "data.json"
        and path.parent.name != ".data"
    }


@pytest.fixture
def alone():
    """A function that starts a workflow with one process on this machine, beside what the cluster does;
    the results are in the future that it returns."""
    with ThreadPoolExecutor(1) as executor:

        def start(workflow: ClusterWorkflow) -> Future:
            folder = workflow.folder / "alone"
            folder.mkdir()
            for name in ("data", "model", "letters.py"):
                if (workflow.folder / name).exists():
                    (folder / name).symlink_to(workflow.folder / name)
            single = Workflow(folder, {**workflow.config, "nproc_per_node": 1, "encode": {}})
            return executor.submit(lambda: single.run("--cores", "1") and results(single))

        yield start


def with_gpus(profile: str) -> str:
    """Return the SLURM profile with its lines for GPUs in force, and two for each node."""
    lines = re.search(r"^# set-resources:\n(?:#   .*\n)+", profile, re.MULTILINE)[0]
    in_force = re.sub(r"gpu:\d+", "gpu:2", re.sub("^# ", "", lines, flags=re.MULTILINE))
    return profile.replace(lines, in_force)


def test_two_nodes_with_two_processes_each(cluster, workflow, alone):
    """On the cluster of the tests each process has a GPU: SLURM counts and assigns them, but nothing can
    be computed on them."""
    expected = alone(workflow)
    workflow.config["encode"] = {"nodes": 2}
    workflow.config["nproc_per_node"] = "auto" if cluster.testbed else 2
    if cluster.testbed:
        workflow.edit_profile(with_gpus)
    # One CPU thread for each process, as in the run with one process.
    output = workflow.run("--set-threads", "encode_corpus=2", "encode_queries=2", "search=2")
    job = re.search(r"SLURM jobid (\d+).*rule_encode_corpus", output)[1]
    log = workflow.log("encode_corpus")
    if cluster.testbed:
        print(ask("sinfo"))
        print(
            ask("sacct", "-j", job, "-o", "jobid,nnodes,ntasks,nodelist%20,alloctres%60,state"), log
        )
        steps = ask("sacct", "-nPj", job, "-o", "jobid,nnodes,ntasks,state").split()
        assert f"{job}.0|2|2|COMPLETED" in steps
        assert not any(line.startswith(f"{job}.1|") for line in steps)
        assert "gres/gpu=4" in ask("sacct", "-nXPj", job, "-o", "alloctres")
        assert "gres/gpu=4" in ask("sacct", "-nPj", f"{job}.0", "-o", "alloctres")
    launchers = re.findall(r"node (\d) of 2 \((\S+)\): ranks (\d)–(\d) of 4", log)
    assert sorted(number for number, *_ in launchers) == ["0", "1"]
    assert len({host for _, host, *_ in launchers}) == 2
    (records,) = workflow.folder.glob("cache/embeddings/*/corpus-*.json")
    written = (records.parent / "records.jsonl").read_text().splitlines()
    assert {json.loads(line)["world_size"] for line in written if "corpus-" in line} == {4}
    found = results(workflow)
    assert found == expected.result()
    assert any(name.endswith("metrics.json") for name in found)


def claims(workflow) -> dict[Path, str]:
    """Return the claims that are held → the job that holds each."""
    held = {}
    for path in sorted(workflow.folder.glob("cache/embeddings/*/*.claims/*/[0-9]*.[0-9]")):
        try:
            job, given_back = path.read_text().split()[3], not path.stat().st_mtime
        except FileNotFoundError:
            continue
        if not path.with_suffix(".done").exists() and not given_back:
            held[path.stem] = path, job  # the last heir's
    return dict(held.values())


def test_jobs_share_a_corpus_and_one_of_them_is_killed(cluster, slow, alone):
    expected = alone(slow)
    slow.config["encode"] = {"jobs": 3}
    process = slow.start("--retries", "0")
    helper = cluster.running("encode_help", process, 2)[0]
    (writer,) = cluster.running("encode_corpus", process)
    slow.wait_for_shards(3)
    wait_until(lambda: {helper, writer} <= {*claims(slow).values()}, lambda: f"{claims(slow)}")
    ask("scancel", "--signal=KILL", f"{helper}.0")  # no process of the step can say farewell
    wait_until(lambda: helper not in cluster.jobs(), lambda: f"{cluster.jobs()}")
    (left,) = (path for path, job in claims(slow).items() if job == helper)
    os.utime(left, (time.time() - 600,) * 2)  # in place of two minutes of waiting
    (slow.folder / "slow").unlink()
    output, _ = process.communicate(timeout=300)
    # Without retries the lost helper is an error at the end, but the corpus and all results are there.
    assert process.returncode == 1, output
    assert slow.metrics("tiny", "bert")["num_judged"] == 11
    log = slow.log("encode_corpus")
    assert "(helping)" in log
    assert f"{DOCUMENTS:,} texts" in log
    assert not list(slow.folder.glob("cache/embeddings/*/*.claims"))
    (manifest,) = slow.folder.glob("cache/embeddings/*/corpus-*.json")
    records = (manifest.parent / "records.jsonl").read_text().splitlines()
    of_corpus = [record for record in map(json.loads, records) if record["role"] == "corpus"]
    *helpers, corpus = sorted(of_corpus, key=lambda record: record["cut"] is not None)
    assert 0 < corpus["encoded"] < corpus["distinct"]  # the helpers did the others
    assert {record["round"] for record in helpers} == {corpus["round"]}
    assert slow.planned() == {}
    assert results(slow) == expected.result()


def test_the_job_that_writes_the_manifest_is_preempted(cluster, slow):
    """The others encode all of the corpus; SLURM starts the first one again, and it only writes."""
    cluster.breaking()
    slow.edit_profile(
        lambda text: text.replace("slurm-no-requeue: true", "slurm-requeue: true").replace(
            "slurm_partition: main", "slurm_partition: preempt"
        )
    )
    slow.config["encode"] = {"jobs": 3}
    process = slow.start("encode")
    cluster.running("encode_help", process, 2)
    (writer,) = cluster.running("encode_corpus", process)
    slow.wait_for_shards(3)
    wait_until(lambda: writer in claims(slow).values(), lambda: f"{claims(slow)}")
    (node,) = cluster.nodes_of(writer)
    exclusive = ["--partition=main", f"--nodelist={node}", "--exclusive", "--output=/dev/null"]
    other = ask("sbatch", "--parsable", *exclusive, "--wrap", "sleep 600").strip()
    try:
        wait_until(lambda: writer in cluster.jobs("PENDING"), lambda: f"{cluster.jobs()}")
        # Told to end, it gives its claim back: long before the claim has expired.
        wait_until(
            lambda: writer not in claims(slow).values(), lambda: f"{claims(slow)}", seconds=20
        )
        (slow.folder / "slow").unlink()
        helped = "cache/embeddings/*/corpus-*.helped/*.json"
        wait_until(
            lambda: len(list(slow.folder.glob(helped))) == 2, lambda: slow.log("encode_corpus")
        )
        assert slow.stored() == DOCUMENTS
        assert not list(slow.folder.glob("cache/embeddings/*/corpus-*.json"))
    finally:
        ask("scancel", other)
    # SLURM holds a job back for two minutes after it has requeued it.
    ask("scontrol", "update", f"jobid={writer}", "StartTime=now")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "Trying to restart job" not in output
    assert len(re.findall("has been submitted with SLURM jobid", output)) == 3
    assert f"{DOCUMENTS:,} texts, {DOCUMENTS:,} reused, 0 encoded" in slow.log("encode_corpus")
    print(ask("sacct", "-XDj", writer, "-o", "jobid,partition,nodelist,start,end,state"))
