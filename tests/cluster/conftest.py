"""A real SLURM cluster: a small one that is started here, or the user's own (docs/cluster.md)."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest

from tests.conftest import PROJECT, SHARED, make_dataset
from tests.integration.conftest import Workflow, make_config
from trove_steps.plan import Plan

SCRIPTS = SHARED / "slurm"
# Set to a folder on a file system that all nodes share, to test on the cluster that sbatch submits to.
OWN = os.environ.get("TROVE_STEPS_TEST_CLUSTER")
PROFILE = Path(os.environ.get("TROVE_STEPS_TEST_PROFILE", PROJECT / "profiles" / "slurm"))
QUICK = Path(__file__).parent / "quick.py"
TESTBED = "/var/lib/slurm-testbed"
WAIT = 240
DOCUMENTS = 7000
HUNGRY_MAX_LEN = 126  # the models differ in what their encoder class can see: passage_max_len

SLOW_CLASS = f'''
import time
from pathlib import Path
import torch
from trove_steps.encoder import Tokens

HERE = Path(__file__).parent


class Letters:
    """Counts letters; sleeps while the file `slow` is there, takes 3 GB if that is what max_len says."""

    pad_id = 0

    def __init__(self, folder, settings, max_len, device):
        self.max_len = max_len
        if max_len == {HUNGRY_MAX_LEN}:
            self.eaten = torch.ones(750_000_000)
            time.sleep(5)

    def tokenize(self, texts):
        ids = [[1 + ord(c) % 64 for c in text][: self.max_len] for text in texts]
        return Tokens(ids)

    def forward(self, ids, mask):
        if (HERE / "slow").exists() and len(ids) > 1 and ids.shape[1] > 2:
            time.sleep(0.05)
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

    def running(self, what: str, process: subprocess.Popen, count: int = 1) -> list[str]:
        """Wait until so many jobs run that have `what` (a rule, a key) in their comment; return their ids."""
        return self.jobs_like(what, process, count, "RUNNING")

    def jobs_like(self, what: str, process, count: int = 1, states="PENDING,RUNNING") -> list[str]:
        found: list[str] = []

        def enough() -> bool:
            assert process.poll() is None, process.communicate()[0]
            found[:] = [job for job, comment in self.jobs(states).items() if what in comment]
            return len(found) >= count

        wait_until(enough, lambda: f"{what} did not start: {self.jobs()}")
        return found

    def another(self, what: str, process: subprocess.Popen, job: str) -> str:
        """Wait until snakemake has submitted another job in place of `job`; return its id."""
        found: list[str] = []

        def submitted() -> bool:
            found[:] = [other for other in self.jobs_like(what, process, 0) if other != job]
            return bool(found)

        wait_until(submitted, lambda: f"no other job for {what}: {self.jobs()}")
        return found[0]

    def wait_for_none(self) -> None:
        wait_until(lambda: not self.jobs(), lambda: f"still there: {self.jobs()}")

    def nodes_of(self, job: str) -> list[str]:
        listed = ask("squeue", "--noheader", "--jobs", job, "--format=%N").strip()
        return ask("scontrol", "show", "hostnames", listed).split() if listed else []

    def asked(self, job: str) -> tuple[int, int]:
        """Return the minutes and the MB on a node that a job asked for."""
        told = ask("scontrol", "show", "job", job)
        days, hours, minutes = re.search(r"TimeLimit=(?:(\d+)-)?(\d+):(\d+)", told).groups()
        size, unit = re.search(r"MinMemoryNode=([\d.]+)([MG])", told).groups()
        hours = int(days or 0) * 24 + int(hours)
        return hours * 60 + int(minutes), round(float(size) * {"M": 1, "G": 1024}[unit])

    def breaking(self) -> None:
        if not self.testbed:
            pytest.skip(
                "breaks nodes or needs their partitions: only on the cluster of start-cluster.sh"
            )

    def crash(self, node: str) -> None:
        subprocess.run([SCRIPTS / "stop-cluster.sh", "--crash", node], check=True)

    def start(self) -> None:
        """Start what is down."""
        refused = start_testbed()
        assert not refused, refused


def planned(workflow: Workflow) -> Plan:
    with contextlib.chdir(workflow.folder):
        return Plan(workflow.config)


def ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def wait_until(condition, complaint, seconds: float = WAIT) -> None:
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, complaint()
        time.sleep(0.5)


def start_testbed() -> str:
    """Start what is down; return why it could not be started, or nothing."""
    options = ["--nodes", "3", "--cpus", "4", "--gpus", "2", "--network", "netns"]
    command = [SCRIPTS / "start-cluster.sh", *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended.stdout + ended.stderr if ended.returncode else ""


def refuse(reason: str) -> None:
    """Skip; where a cluster is required, as in CI, fail."""
    if os.environ.get("TROVE_STEPS_CLUSTER") == "required":
        pytest.fail(f"no cluster: {reason}")
    pytest.skip(f"no cluster: {reason} (docs/cluster.md)")


@pytest.fixture(scope="session")
def cluster():
    if OWN:
        yield Cluster(testbed=False)
        return
    if not (SCRIPTS / "start-cluster.sh").exists():
        pytest.skip(f"no cluster: {SCRIPTS}/start-cluster.sh is missing (docs/cluster.md)")
    if os.getuid() != 0:
        refuse("start-cluster.sh must be run as root")
    os.environ["SLURM_CONF"] = f"{TESTBED}/etc/slurm.conf"
    was_up = Path(os.environ["SLURM_CONF"]).exists() and not subprocess.run(["sinfo"]).returncode
    if refused := start_testbed():
        refuse(f"{SCRIPTS}/start-cluster.sh says {refused[-1000:]}")
    yield Cluster(testbed=True)
    if not was_up:
        subprocess.run([SCRIPTS / "stop-cluster.sh", "--purge"], check=False, capture_output=True)


class ClusterWorkflow(Workflow):
    """The workflow with the SLURM profile, in haste: see quick.py."""

    started: ClassVar[list[subprocess.Popen]] = []
    profile = PROFILE
    program: tuple[str, ...] = (sys.executable, str(QUICK))

    def start(self, *arguments: str, **options) -> subprocess.Popen:
        self.started.append(super().start(*arguments, **options))
        return self.started[-1]

    def command(self, *arguments: str) -> list[str]:
        _, *rest = super().command("--workflow-profile", str(self.profile), *arguments)
        return [*self.program, *rest]

    def environment(self) -> dict:
        there = [str(self.folder), str(PROJECT)]
        return {**super().environment(), "PYTHONPATH": os.pathsep.join(there)}

    def edit_profile(self, edit) -> None:
        """Go on with a copy of the profile whose text `edit` has changed."""
        text = (self.profile / "config.yaml").read_text()
        edited = edit(text)
        assert edited != text
        self.profile = self.folder / "profile"
        self.profile.mkdir(exist_ok=True)
        (self.profile / "config.yaml").write_text(edited)

    def manifest(self, model: str = "bert") -> str:
        """Return the path of the manifest of a model's passages."""
        plan = planned(self)
        (found,) = {
            str(plan.encoding_manifest(encoding))
            for encoding in plan.encodings.values()
            if (encoding.role, encoding.model.name) == ("corpus", model)
        }
        return found

    def encoder(self, model: str = "bert") -> str:
        """Return the key under which the vectors of a model's passages are stored."""
        return Path(self.manifest(model)).parent.name

    def log(self, step: str) -> str:
        return "\n".join(path.read_text() for path in (self.folder / "logs" / step).glob("*.log"))

    def shards(self, model: str = "bert") -> list[Path]:
        folder = self.folder / "cache" / "embeddings" / self.encoder(model) / "shards"
        return [path for path in folder.glob("*.arrow") if not path.name.startswith(".")]

    def stored(self, model: str = "bert") -> int:
        """Return the number of vectors of a model's passages in the store."""
        tables = map(pa.ipc.open_file, map(pa.memory_map, map(str, self.shards(model))))
        return sum(table.read_all().num_rows for table in tables)

    def wait_for_shards(self, count: int, model: str = "bert") -> None:
        wait_until(lambda: len(self.shards(model)) >= count, lambda: self.log("encode_corpus"))


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
def workflow(folder, tiny_model) -> ClusterWorkflow:
    """A tiny data set and a tiny model, to be evaluated and mined on the cluster."""
    make_dataset(folder / "data", documents=300)
    shutil.copytree(tiny_model, folder / "model")
    made = ClusterWorkflow(folder, make_config(Path("model")))
    made.config["nproc_per_node"] = 1
    return made


def slow_config() -> dict:
    """Return a configuration of three models, of which `bert` alone is used unless a test says so."""
    config = make_config(Path("model"))
    config["models"] = {
        name: {
            "model_name_or_path": "model",
            "encoder_class": "letters:Letters",
            "passage_max_len": max_len,
        }
        for name, max_len in {"bert": 128, "late": 127, "hungry": HUNGRY_MAX_LEN}.items()
    }
    return {**config, "nproc_per_node": 1}


@pytest.fixture(scope="session")
def prepared(cluster, tiny_model):
    """A folder in which the data set is checked and its queries are encoded."""
    path = Path(tempfile.mkdtemp(prefix="trove-steps-", dir=OWN or None)).resolve()
    make_dataset(path / "data", documents=DOCUMENTS)
    shutil.copytree(tiny_model, path / "model")
    (path / "letters.py").write_text(SLOW_CLASS)
    here = Workflow(path, slow_config())
    here.environment = lambda: {**Workflow.environment(here), "PYTHONPATH": f"{path}:{PROJECT}"}
    plan = planned(here)
    queries = [
        str(plan.encoding_manifest(encoding))
        for encoding in plan.encodings.values()
        if encoding.role == "queries"
    ]
    here.run("--cores", "2", "check", *queries)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def slow(folder, prepared) -> ClusterWorkflow:
    """A corpus that takes some minutes while the file `slow` is there; all before it is done."""
    shutil.copytree(prepared, folder, symlinks=True, dirs_exist_ok=True)
    made = ClusterWorkflow(folder, slow_config())
    made.config["models"] = {"bert": made.config["models"]["bert"]}
    (folder / "slow").touch()
    return made
