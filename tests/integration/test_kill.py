"""Real signals, deaths and a full disk on the real workflow: nothing stays running, nothing is lost."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable

import numpy as np
import psutil
import pytest

from tests.conftest import PROJECT
from tests.integration.conftest import Workflow
from tests.integration.runs import (
    artefacts,
    assert_clear,
    assert_same_vectors,
    cases,
    count_shards,
    encoded_corpus,
    long_workflow,
    records,
    rows_known,
    unlock,
)
from trove_steps.embeddings.compaction import compact
from trove_steps.embeddings.store import encoders
from trove_steps.embeddings.verification import verify

MARK = "TROVE_STEPS_TEST_RUN"
DEATH_SECONDS = 8  # within which every process of a killed run must have ended
START_SECONDS = 120


def processes_of(mark: str) -> list[psutil.Process]:
    """Return the living processes that inherited a run's mark, wherever they were re-parented."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


class MarkedRun:
    """A snakemake in a session of its own, whose processes can be found and killed."""

    def __init__(self, workflow: Workflow, command: list[str] | None = None):
        self.mark = uuid.uuid4().hex
        self.workflow = workflow
        self.printed = workflow.folder / f"printed-{self.mark}.txt"
        with open(self.printed, "w") as file:
            self.process = subprocess.Popen(
                command or workflow.command("--", "encode"),
                cwd=workflow.folder,
                env={**workflow.environment(), MARK: self.mark},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        return self.printed.read_text()

    def wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            assert self.process.poll() is None, f"ended before {what}:\n{self.output()}"
            assert time.monotonic() < deadline, f"{what} did not come:\n{self.output()}"
            time.sleep(0.1)  # looking at all processes takes a while

    def wait_for_shards(self, number: int = 1) -> None:
        """Return when the ranks of encode_corpus have added shards and are busy with the next."""
        self.wait_for("a worker", lambda: len(self.workers()) > 0)
        before = count_shards(self.workflow)
        self.wait_for("a shard", lambda: count_shards(self.workflow) >= before + number)

    def launcher(self) -> psutil.Process:
        return next(p for p in processes_of(self.mark) if "trove_steps.torchrun" in command_of(p))

    def workers(self) -> list[psutil.Process]:
        return [
            process
            for process in processes_of(self.mark)
            if "-m trove_steps.encode_corpus" in command_of(process)
            and "trove_steps.torchrun" not in command_of(process)
        ]

    def survivors(self) -> list[str]:
        """Wait for all processes of the run to end; return what is left of them after a while."""
        deadline = time.monotonic() + DEATH_SECONDS
        while (left := processes_of(self.mark)) and time.monotonic() < deadline:
            time.sleep(0.1)
        found = [command_of(process) for process in left]
        for process in left:
            process.kill()
        self.process.wait(timeout=60)
        return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, slow_model) -> Workflow:
    """One process, never killed."""
    workflow = long_workflow(tmp_path_factory.mktemp("undisturbed"), slow_model, processes=1)
    workflow.run("--", "encode")
    return workflow


@pytest.fixture(scope="module")
def battered(tmp_path_factory, slow_model) -> Workflow:
    """A working directory that all kills share: each run goes on where the killed one was."""
    return long_workflow(tmp_path_factory.mktemp("battered"), slow_model, processes=2)


def press_control_c(run: MarkedRun) -> None:
    os.killpg(
        run.process.pid, signal.SIGINT
    )  # as a terminal does; workers have groups of their own


def interrupt_snakemake_twice(run: MarkedRun) -> None:
    run.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    run.process.send_signal(signal.SIGINT)


def terminate_group(run: MarkedRun) -> None:
    os.killpg(run.process.pid, signal.SIGTERM)


def terminate_launcher(run: MarkedRun) -> None:
    run.launcher().terminate()


def kill_snakemake(run: MarkedRun) -> None:
    run.process.kill()


def kill_launcher(run: MarkedRun) -> None:
    run.launcher().kill()


def kill_worker(run: MarkedRun) -> None:
    run.workers()[-1].kill()


SAID = {
    press_control_c: "ended by SIGINT; what was finished is kept",
    interrupt_snakemake_twice: "",  # snakemake's own traceback
    terminate_group: "ended by SIGTERM; what was finished is kept",
    terminate_launcher: "ended by SIGTERM; what was finished is kept",
    kill_snakemake: "",
    kill_launcher: "Error in rule encode_corpus",
    kill_worker: "was ended by SIGKILL (did the memory run out?); what was finished is kept",
}


@pytest.mark.parametrize("kill", cases(SAID, quick=[press_control_c, kill_launcher, kill_worker]))
def test_no_process_survives(battered, kill):
    unlock(battered)
    run = MarkedRun(battered)
    run.wait_for_shards()
    assert len(run.workers()) == 2
    kill(run)
    assert run.survivors() == []
    assert run.process.returncode != 0
    if kill is not interrupt_snakemake_twice:
        assert_clear(run.output(), SAID[kill])
    assert not list(battered.folder.glob("cache/embeddings/*/corpus-*.json"))
    assert not list(battered.folder.glob("cache/embeddings/*/work/*"))


def test_what_the_kills_left_is_gone_on_with(battered, undisturbed):
    unlock(battered)
    known = rows_known(battered)
    battered.run("--", "encode")
    (record,) = records(battered)
    assert 0 < record["reused"] <= known  # which may have a query's rows as well
    assert record["reused"] + record["encoded"] == record["rows"] == 4000
    assert_same_vectors(encoded_corpus(battered), encoded_corpus(undisturbed))


def test_the_demo_goes_on_after_a_kill(tmp_path, slow_model, undisturbed):
    """`make demo` removes the lock of a killed run, and nothing is lost."""
    demo = long_workflow(tmp_path / "demo", slow_model, processes=3)
    for name in ("Snakefile", "workflow", "profiles", "environment.yml"):
        (demo.folder / name).symlink_to(PROJECT / name)
    (demo.folder / "config").mkdir()
    demo.save().rename(demo.folder / "config" / "config.yaml")
    command = [sys.executable, "-m", "trove_steps.rundemo"]

    killed = MarkedRun(demo, command)
    killed.wait_for("a worker", lambda: len(killed.workers()) > 0)
    second = MarkedRun(demo, command)
    assert second.process.wait(timeout=60) == 1
    assert "another `make demo` is running" in second.output()
    killed.wait_for_shards()
    kill_snakemake(killed)
    assert killed.survivors() == []
    assert "--unlock" in demo.run("--", "encode", expect=1)

    shards = count_shards(demo)
    resumed = MarkedRun(demo, command)
    assert resumed.process.wait(timeout=300) == 0, resumed.output()
    assert "removing its lock" in resumed.output()
    (record,) = records(demo)
    assert record["world_size"] == 3
    assert record["reused"] >= shards - 1  # every shard (one is of the queries) holds several texts
    assert record["reused"] + record["encoded"] == record["rows"] == 4000
    assert_same_vectors(encoded_corpus(demo), encoded_corpus(undisturbed))
    assert artefacts(demo)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_twenty_kills_at_random_moments(tmp_path, slow_model):
    """Ranks, torchrun, snakemake or all at once, with any number of processes, shards being merged as well:
    the vectors, rankings and metrics are those of a run that was left alone, bit for bit."""
    chance = random.Random(20)
    undisturbed = long_workflow(tmp_path / "undisturbed", slow_model, 1, documents=5000)
    undisturbed.run()
    workflow = long_workflow(tmp_path / "killed", slow_model, 2, documents=5000)
    finished, summary = 0, []
    for number in range(20):
        workflow.config["nproc_per_node"] = chance.choice([1, 2, 3])
        unlock(workflow)
        before = rows_known(workflow)
        run = MarkedRun(workflow)
        # Start-up takes most of a run's time: three of four kills wait until the ranks have begun.
        begun = time.monotonic() + (START_SECONDS if number % 4 else 0)
        while time.monotonic() < begun and run.process.poll() is None:
            if rows_known(workflow) > before:
                break
            time.sleep(0.1)
        deadline = time.monotonic() + chance.uniform(0, 12 if number % 4 == 0 else 3)
        while time.monotonic() < deadline and run.process.poll() is None:
            time.sleep(0.05)
        victims = processes_of(run.mark)
        chosen = victims if number % 5 == 4 else chance.sample(victims, min(1, len(victims)))
        names = [command_of(victim)[-200:] for victim in chosen]
        for victim in chosen:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        # A kill of an early victim may have missed the launcher: snakemake then ends the run itself.
        run.process.wait(timeout=300)
        assert run.survivors() == []
        finished += run.process.returncode == 0
        known = rows_known(workflow)
        assert known >= before
        summary.append(
            f"round {number + 1}: {workflow.config['nproc_per_node']} processes, killed "
            f"{len(names)}, {before:,} -> {known:,} rows, {count_shards(workflow)} shards"
        )
        if number % 4 == 3:
            for store in encoders(workflow.folder / "cache"):
                compact(store)
            assert rows_known(workflow) == known
    print(*summary, f"{finished} of 20 runs ended by themselves", sep="\n")
    unlock(workflow)
    workflow.config["nproc_per_node"] = 1
    workflow.run()
    assert finished < 20
    assert_same_vectors(encoded_corpus(workflow), encoded_corpus(undisturbed))
    assert artefacts(workflow) == artefacts(undisturbed)
    assert [found for store in encoders(workflow.folder / "cache") for found in verify(store)] == []


@pytest.mark.slow
def test_a_full_disk_keeps_what_was_finished(disk, tmp_path, slow_model, undisturbed):
    workflow = long_workflow(tmp_path / "workflow", slow_model, processes=2, documents=2000)
    output = workflow.run("--", "encode", expect=1)
    assert_clear(output, "is full: free some space and start again")
    assert count_shards(workflow) > 1
    disk.remount("size=64m")
    workflow.run("--", "encode")
    (record,) = records(workflow)
    assert record["reused"] > 0
    assert record["reused"] + record["encoded"] == 2000
    vectors, expected = encoded_corpus(workflow), encoded_corpus(undisturbed)
    some = np.arange(2000)  # the longer corpus begins with these
    np.testing.assert_array_equal(vectors.take(some), expected.take(some))
