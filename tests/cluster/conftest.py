"""A real SLURM cluster: a small one that is started here, or the user's own (docs/cluster.md)."""

import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from tests.conftest import PROJECT, SHARED, make_dataset
from tests.integration.conftest import Workflow, make_config

SCRIPTS = SHARED / "slurm"
# Set to a folder on a file system that all nodes share, to test on the cluster that sbatch submits to.
OWN = os.environ.get("TROVE_STEPS_TEST_CLUSTER")
PROFILE = os.environ.get("TROVE_STEPS_TEST_PROFILE", str(PROJECT / "profiles" / "slurm"))
TESTBED = "/var/lib/slurm-testbed"
WAIT = 240

SLOW_CLASS = '''
import os, time
from pathlib import Path
import torch
from trove_steps.encoder import Tokens

HERE = Path(__file__).parent


class Letters:
    """Counts letters; sleeps while the file `slow` is there, takes 3 GB while `hungry` is."""

    pad_id = 0

    def __init__(self, folder, settings, max_len, device):
        self.max_len = max_len
        if (HERE / "hungry").exists():
            self.eaten = torch.ones(750_000_000)
            time.sleep(20)

    def tokenize(self, texts):
        ids = [[1 + ord(c) % 64 for c in text][: self.max_len] for text in texts]
        return Tokens(ids)

    def forward(self, ids, mask):
        if (HERE / "slow").exists() and len(ids) > 1 and ids.shape[1] > 2:
            time.sleep(0.03)
        return (torch.nn.functional.one_hot(ids, 65) * mask.unsqueeze(-1)).sum(1).float()
'''


@dataclass
class Cluster:
    """What tests ask of a cluster; `testbed` is false on the user's own, where nothing is broken."""

    testbed: bool
    folder: Path = Path()  # of the workflow under test

    def jobs(self, states: str = "PENDING,RUNNING") -> dict[str, str]:
        """Return the jobs of the workflow: id → comment, which names the rule."""
        listed = ask("squeue", "--noheader", "--me", f"--states={states}", "--format=%i %k %Z")
        lines = [line.split() for line in listed.splitlines()]
        return {job: comment for job, comment, folder in lines if folder == str(self.folder)}

    def running(self, rule: str, process: subprocess.Popen, count: int = 1) -> list[str]:
        """Wait until so many jobs of a rule run; return their ids."""
        deadline = time.time() + WAIT
        while time.time() < deadline:
            assert process.poll() is None, process.communicate()[0]
            found = [j for j, comment in self.jobs("RUNNING").items() if f"rule_{rule}_" in comment]
            if len(found) >= count:
                return found
            time.sleep(1)
        raise AssertionError(f"{rule} did not start: {self.jobs()}")

    def nodes_of(self, job: str) -> list[str]:
        listed = ask("squeue", "--noheader", "--jobs", job, "--format=%N").strip()
        return ask("scontrol", "show", "hostnames", listed).split()

    def breaking(self) -> None:
        if not self.testbed:
            pytest.skip("breaks nodes: only on the cluster of start-cluster.sh")

    def crash(self, node: str) -> None:
        subprocess.run([SCRIPTS / "stop-cluster.sh", "--crash", node], check=True)

    def start(self) -> None:
        """Start what is down."""
        start_testbed()


def ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def start_testbed() -> None:
    command = [SCRIPTS / "start-cluster.sh", "--nodes", "3", "--cpus", "4", "--gpus", "2"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.fixture(scope="session")
def cluster():
    if OWN:
        yield Cluster(testbed=False)
        return
    if not (SCRIPTS / "start-cluster.sh").exists():
        pytest.skip(f"no cluster: {SCRIPTS}/start-cluster.sh is missing (docs/cluster.md)")
    if os.getuid() != 0:
        pytest.skip("no cluster: start-cluster.sh must be run as root (docs/cluster.md)")
    os.environ["SLURM_CONF"] = f"{TESTBED}/etc/slurm.conf"
    was_up = Path(os.environ["SLURM_CONF"]).exists() and not subprocess.run(["sinfo"]).returncode
    start_testbed()
    yield Cluster(testbed=True)
    if not was_up:
        subprocess.run([SCRIPTS / "stop-cluster.sh", "--purge"], check=False, capture_output=True)


class ClusterWorkflow(Workflow):
    """The workflow with the SLURM profile, quick to ask for states."""

    started: ClassVar[list[subprocess.Popen]] = []

    def start(self, *arguments: str, **options) -> subprocess.Popen:
        self.started.append(super().start(*arguments, **options))
        return self.started[-1]

    def command(self, *arguments: str) -> list[str]:
        quick = ["--slurm-init-seconds-before-status-checks", "3"]
        return super().command("--workflow-profile", PROFILE, *quick, *arguments)

    def environment(self) -> dict:
        there = [str(self.folder), str(PROJECT)]
        return {**super().environment(), "PYTHONPATH": os.pathsep.join(there)}

    def log(self, step: str) -> str:
        return "\n".join(path.read_text() for path in (self.folder / "logs" / step).glob("*.log"))

    def shards(self) -> int:
        return len(list((self.folder / "cache").glob("embeddings/*/shards/*.arrow")))

    def wait_for_shards(self, count: int) -> None:
        deadline = time.time() + WAIT
        while self.shards() < count:
            assert time.time() < deadline, self.log("encode_corpus")
            time.sleep(0.5)


@pytest.fixture
def folder(cluster):
    """A folder that all nodes share; nothing runs in it any more after the test."""
    path = Path(tempfile.mkdtemp(prefix="trove-steps-", dir=OWN or None)).resolve()
    cluster.folder = path
    yield path
    for process in ClusterWorkflow.started:
        process.kill()
        process.wait()
    ClusterWorkflow.started.clear()
    for job in cluster.jobs():
        ask("scancel", job)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def workflow(cluster, folder, tiny_model) -> ClusterWorkflow:
    """A tiny data set and a tiny model, to be evaluated and mined on the cluster."""
    make_dataset(folder / "data", documents=300)
    shutil.copytree(tiny_model, folder / "model")
    made = ClusterWorkflow(folder, make_config(Path("model")))
    made.config["cluster"] = {"max_mem_mb": 7000}
    made.config["nproc_per_node"] = 1
    return made


@pytest.fixture
def slow(workflow) -> ClusterWorkflow:
    """A corpus that takes a minute while the file `slow` is there, in some 10 portions of 6 s."""
    (workflow.folder / "letters.py").write_text(SLOW_CLASS)
    make_dataset(workflow.folder / "data", documents=7000)
    model = workflow.config["models"]["bert"]
    workflow.config["models"]["bert"] = {
        "model_name_or_path": model["model_name_or_path"],
        "encoder_class": "letters:Letters",
        "passage_max_len": 128,
    }
    workflow.config["nproc_per_node"] = 1
    (workflow.folder / "slow").touch()
    return workflow
