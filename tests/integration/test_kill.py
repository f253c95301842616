"""Real signals, deaths and damage on the real workflow: nothing stays running, nothing is lost."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.conftest import PROJECT, WORDS, make_dataset, make_model, write_jsonl
from tests.integration.conftest import Workflow, make_config
from trove_steps.compaction import compact, verify
from trove_steps.store import Shard, Vectors, encoders
from trove_steps.work import CHARACTERS_PER_TOKEN, UNIT_CHARACTERS

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
            time.sleep(0.02)

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


def count_shards(workflow: Workflow) -> int:
    return len(list(workflow.folder.glob("cache/embeddings/*/shards/*.arrow")))


def unlock(workflow: Workflow) -> None:
    locks = workflow.folder / ".snakemake" / "locks"
    if locks.is_dir() and any(locks.iterdir()):
        workflow.run("--unlock")


def encoded_corpus(workflow: Workflow) -> Vectors:
    (manifest,) = workflow.folder.glob("cache/embeddings/*/corpus-*.json")
    return Vectors(manifest)


def records(workflow: Workflow, role: str = "corpus") -> list[dict]:
    """Return what the finished encode jobs of a role wrote down, oldest first."""
    (path,) = (p.parent for p in workflow.folder.glob(f"cache/embeddings/*/{role}-*.rows.arrow"))
    lines = (path / "records.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [record for record in found if record["manifest"].startswith(role)]


def assert_same_vectors(first: Vectors, second: Vectors) -> None:
    assert first.ids.to_pylist() == second.ids.to_pylist()
    everything = np.arange(len(first))
    np.testing.assert_array_equal(first.take(everything), second.take(everything))


def artefacts(workflow: Workflow, *patterns: str) -> dict[str, bytes]:
    """Return the bytes of the rankings, metrics, runs and mined negatives, by path."""
    folder = workflow.folder
    patterns = patterns or (
        "cache/searches/*/top*.*",
        "results/*/*/metrics.json",
        "results/*/*/run.trec.gz",
        "results/*/*/mined/*",
    )
    paths = {pattern: list(folder.glob(pattern)) for pattern in patterns}
    assert all(paths.values()), paths
    return {str(p.relative_to(folder)): p.read_bytes() for found in paths.values() for p in found}


def assert_clear(output: str, *words: str) -> None:
    """Check that what failed was explained, and not by a traceback."""
    assert "Traceback" not in output, output
    for word in words:
        assert word in output, output


# --- kills ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory) -> Path:
    """Wide enough that a portion of the corpus below takes a noticeable part of a second."""
    return make_model(tmp_path_factory.mktemp("models") / "slow", width=128)


def long_workflow(folder: Path, model: Path, processes: int, documents: int = 4000) -> Workflow:
    """A corpus of some dozens of portions."""
    make_dataset(folder / "data")
    chance = random.Random(7)
    rows = [
        {"_id": f"d{n}", "title": "", "text": " ".join(chance.choices(WORDS, k=130))}
        for n in range(documents)
    ]
    assert documents * 64 * CHARACTERS_PER_TOKEN > documents / 100 * UNIT_CHARACTERS
    write_jsonl(folder / "data" / "corpus.jsonl", rows)
    config = make_config(model)
    config["models"]["bert"]["passage_max_len"] = 64
    config["nproc_per_node"] = processes
    return Workflow(folder, config)


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


def cases(functions, quick) -> list:
    """Return parameters of a test, those that are not `quick` marked as slow."""
    slow = pytest.mark.slow
    return [
        pytest.param(function, id=function.__name__, marks=() if function in quick else slow)
        for function in functions
    ]


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
    undisturbed = long_workflow(tmp_path / "undisturbed", slow_model, 1, documents=10_000)
    undisturbed.run()
    workflow = long_workflow(tmp_path / "killed", slow_model, 2, documents=10_000)
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


def rows_known(workflow: Workflow) -> int:
    """Return how many distinct rows the stores hold."""
    return sum(
        len({key.tobytes() for shards in store.scan() for shard in shards for key in shard.keys})
        for store in encoders(workflow.folder / "cache")
    )


# --- any number of processes, any neighbours --------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory, slow_model) -> Workflow:
    """A small workflow that one process per step has finished."""
    folder = tmp_path_factory.mktemp("alone")
    make_dataset(folder / "data", documents=200)
    workflow = Workflow(folder, {**make_config(slow_model), "nproc_per_node": 1})
    workflow.run()
    return workflow


@pytest.fixture
def copied(alone, tmp_path) -> Workflow:
    folder = tmp_path / "copy"
    shutil.copytree(alone.folder, folder, symlinks=True)
    return Workflow(folder, json.loads(json.dumps(alone.config)))


@pytest.mark.parametrize("processes", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_results_do_not_depend_on_the_number_of_processes(alone, tmp_path, processes):
    shutil.copytree(alone.folder / "data", tmp_path / "data")
    workflow = Workflow(tmp_path, {**alone.config, "nproc_per_node": processes})
    workflow.run()
    assert_same_vectors(encoded_corpus(workflow), encoded_corpus(alone))
    assert artefacts(workflow) == artefacts(alone)
    assert {record["world_size"] for record in records(workflow)} == {processes}


DELAYED = """
import os, time
import torch
from trove_steps.encoder import Tokens

SECONDS = float(os.environ["TEST_SECONDS_PER_TOKEN"]) * (5 if os.environ.get("RANK") == "1" else 1)

class Delayed:
    \"\"\"Takes a given time for a token, rank 1 five times as long.\"\"\"
    pad_id = 0
    def __init__(self, folder, settings, max_len, device):
        self.max_len = max_len
    def tokenize(self, texts):
        return Tokens([[1 + len(word) for word in text.split()][: self.max_len] for text in texts])
    def forward(self, ids, mask):
        time.sleep(SECONDS * ids.numel())
        return (ids * mask).float()[:, :1].expand(-1, 8) + torch.arange(8)
"""


@pytest.mark.slow
def test_a_slow_rank_gets_less_work(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setenv("TEST_SECONDS_PER_TOKEN", "3e-5")
    for attempt in ("first", "second"):
        record = encode_with_a_slow_rank(tmp_path / attempt, tiny_model)
        fast, slow = record["ranks"]
        speeds = [rank["tokens"] / rank["seconds"] for rank in (fast, slow)]
        ideal = record["tokens"] / sum(speeds)
        longest = max(rank["seconds"] for rank in (fast, slow))
        print(f"fast {fast}, slow {slow}, ideal {ideal:.1f} s, taken {longest:.1f} s")
        if longest < 1.15 * ideal:
            break  # a second attempt, for what else the machine was busy with
    assert 3.5 < speeds[0] / speeds[1] < 6.5
    assert 3.5 < fast["tokens"] / slow["tokens"] < 7
    assert longest < 1.15 * ideal


def encode_with_a_slow_rank(folder: Path, model: Path) -> dict:
    workflow = long_workflow(folder, model, processes=2, documents=10_000)
    (folder / "delayed.py").write_text(DELAYED)
    workflow.config["models"]["bert"].update(encoder_class="delayed:Delayed", normalize=False)
    workflow.run("--", "encode")
    (record,) = records(workflow)
    return record


NOT_A_NUMBER = """
import torch
from trove_steps.transformers_encoder import TransformersEncoder

class Overflows(TransformersEncoder):
    def forward(self, ids, mask):
        vectors = super().forward(ids, mask).clone()
        vectors[mask.sum(1) == 3, 0] = float("inf")
        return vectors
"""


def test_a_vector_that_is_no_number_names_the_document(tmp_path, tiny_model):
    workflow = Workflow(tmp_path, make_config(tiny_model))
    make_dataset(tmp_path / "data")
    rows = [{"_id": f"d{n}", "title": "", "text": "wing flow heat"} for n in range(5)]
    rows.append({"_id": "short-one", "title": "", "text": "wing"})
    write_jsonl(tmp_path / "data" / "corpus.jsonl", rows)
    (tmp_path / "overflows.py").write_text(NOT_A_NUMBER)
    workflow.config["models"]["bert"]["encoder_class"] = "overflows:Overflows"
    output = workflow.run("--", "encode", expect=1)
    assert_clear(output, "the vector of 'short-one'", "holds NaN or infinity, as do 0 more here")
    assert not list(tmp_path.glob("cache/embeddings/*/corpus-*.json"))
    for shard in tmp_path.glob("cache/embeddings/*/shards/*.arrow"):  # of the queries
        assert np.isfinite(Shard(shard).vectors).all()


@pytest.mark.slow
def test_two_workflows_share_a_cache_at_the_same_time(alone, tmp_path):
    """One has the corpus in another order, so that the two encode the same texts from unlike files."""
    both = []
    for name in ("first", "second"):
        shutil.copytree(alone.folder / "data", tmp_path / name / "data")
        config = {**alone.config, "encoding_cache_dir": str(tmp_path / "cache")}
        both.append(Workflow(tmp_path / name, config))
    corpus = both[1].folder / "data" / "corpus.jsonl"
    corpus.write_text("".join(reversed(corpus.read_text().splitlines(keepends=True))))
    for process in [workflow.start() for workflow in both]:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    results = ("results/*/*/metrics.json", "results/*/*/run.trec.gz", "results/*/*/mined/*.tsv")
    for workflow in both:
        assert artefacts(workflow, *results) == artefacts(alone, *results)
        assert workflow.planned() == {}


# --- damage --------------------------------------------------------------------------------------


def corpus_shard(workflow: Workflow) -> Path:
    (manifest,) = workflow.folder.glob("cache/embeddings/*/corpus-*.json")
    return next((manifest.parent / "shards").glob("*.arrow"))


def truncate(shard: Path) -> None:
    os.truncate(shard, shard.stat().st_size // 2)


def zero(shard: Path) -> None:
    shard.write_bytes(bytes(shard.stat().st_size))


def delete(shard: Path) -> None:
    shard.unlink()


@pytest.mark.parametrize("damage", cases([truncate, zero, delete], quick=[zero]))
def test_a_damaged_shard_is_repaired_by_the_next_run(alone, copied, damage):
    damage(corpus_shard(copied))
    shutil.rmtree(copied.folder / "cache" / "searches")
    shutil.rmtree(copied.folder / "results")
    output = copied.run(expect=1)
    assert_clear(output, "error: a shard of the store is missing, damaged", "run again")
    assert ("a damaged shard was set aside" in output) == (damage is not delete)
    copied.run()
    assert records(copied)[-1]["encoded"] == 200
    assert artefacts(copied) == artefacts(alone)


def test_a_flipped_bit_is_found_by_verify_and_its_rows_encoded_again(alone, copied):
    """A flipped bit of a vector leaves a shard that can be read: only its hash tells."""
    shard = corpus_shard(copied)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)
    (store,) = [
        store for store in encoders(copied.folder / "cache") if shard in store.directory.rglob("*")
    ]
    assert [damaged.name for damaged in verify(store)] == [shard.stem]
    shutil.rmtree(copied.folder / "cache" / "searches")
    shutil.rmtree(copied.folder / "results")
    copied.run()
    assert records(copied)[-1]["encoded"] > 0
    assert artefacts(copied) == artefacts(alone)


@pytest.mark.slow
def test_a_missing_rows_table_is_made_again(alone, copied):
    """Also where a finished ranking hides it from snakemake, as scores need its ids."""
    for rows in copied.folder.glob("cache/embeddings/*/*.rows.arrow"):
        rows.unlink()
    shutil.rmtree(copied.folder / "results")
    output = copied.run("--keep-going", expect=1)
    assert_clear(output, "rows.arrow can't be read", "run again")
    output = copied.run(
        "--keep-going", expect=1
    )  # the queries' table is there, the corpus' not yet
    assert_clear(output, "rows.arrow can't be read", "run again")
    copied.run()
    assert [record["encoded"] for record in records(copied)] == [200, 0]
    assert artefacts(copied) == artefacts(alone)


@pytest.mark.slow
def test_a_damaged_ranking_is_searched_again(alone, copied):
    (ranking,) = copied.folder.glob("cache/searches/*/top*.arrow")
    truncate(ranking)
    shutil.rmtree(copied.folder / "results")
    assert_clear(copied.run(expect=1), "can't be read", "run again")
    copied.run()
    assert artefacts(copied) == artefacts(alone)


# --- disks ---------------------------------------------------------------------------------------


class Disk:
    """A small file system of its own, in memory."""

    def __init__(self, folder: Path, megabytes: float):
        self.folder = folder
        folder.mkdir(parents=True)
        self._mount("-t", "tmpfs", "-o", f"size={int(megabytes * 1024)}k", "tmpfs")

    def _mount(self, *options: str) -> None:
        done = subprocess.run(
            ["mount", *options, str(self.folder)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"a file system can't be mounted here (root only): {done.stderr.strip()}")

    def remount(self, options: str) -> None:
        self._mount("-o", f"remount,{options}")

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "workflow" / "cache", megabytes=2.2)
    yield disk
    disk.unmount()


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


@pytest.mark.slow
def test_a_read_only_cache_can_be_read(disk, alone):
    folder = disk.folder.parent
    disk.remount("size=64m")
    shutil.copytree(alone.folder / "data", folder / "data")
    workflow = Workflow(folder, json.loads(json.dumps(alone.config)))
    workflow.run("--", "evaluate")
    disk.remount("ro")
    assert workflow.planned("--", "evaluate") == {}
    shutil.rmtree(folder / "results")
    workflow.run()
    assert artefacts(workflow) == artefacts(alone)
    workflow.config["models"]["bert"]["passage_max_len"] = 16
    assert workflow.planned()["encode_corpus"] == 1
    assert "Read-only file system" in workflow.run(expect=1)  # snakemake's own words
    (folder / "data" / "corpus.jsonl").write_text('{"_id": "1", "title": "", "text": "wing"}\n')
    assert_clear(workflow.run(expect=1), "can't be written")
