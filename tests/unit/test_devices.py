"""GPUs of one machine, shared by steps that know nothing of each other; a list stands in for GPUs."""

import os
import subprocess
import sys

import pytest

from trove_steps.jobs import devices
from trove_steps.torchrun import _assign_devices

HOLDER = (
    "import sys; from pathlib import Path; from trove_steps.jobs.devices import lease_gpus\n"
    "print(','.join(lease_gpus(int(sys.argv[1]), *map(Path, sys.argv[2:]))), flush=True)\n"
    "sys.stdin.read()\n"
)


class Step:
    """A process that holds GPUs until it is ended."""

    def __init__(self, wanted, *directory):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(wanted), *map(str, directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.gpus = self.process.stdout.readline().strip()

    def kill(self) -> str:
        self.process.kill()
        return self.process.communicate()[1]


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,GPU-ab,7")
    steps = []

    def start(wanted):
        steps.append(Step(wanted, tmp_path))
        return steps[-1]

    yield start
    for step in steps:
        step.kill()


def test_steps_get_gpus_of_their_own(start):
    assert [start(1).gpus, start(2).gpus, start(1).gpus] == ["0", "1,GPU-ab", "7"]


def test_a_killed_step_gives_its_gpus_back(start):
    first, _ = start(2), start(2)
    assert first.kill() == ""
    assert start(2).gpus == "0,1"


def test_gpus_are_shared_last_and_with_a_warning(start):
    start(3)
    step = start(2)
    assert step.gpus == "0,7"
    assert step.kill() == "warning: GPU 0 is shared with another step\n"
    assert start(1).gpus == "7"


def test_the_launcher_assigns_them(monkeypatch, tmp_path):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert _assign_devices("1") == 1
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert _assign_devices("auto") == 2
    assert _assign_devices("gpu") == "gpu"


def test_in_an_allocation_steps_share_the_gpus_of_that_one(start_in, monkeypatch):
    """Side by side in one allocation, each has its own; another job's GPU 0 is another one."""
    first, second, other = start_in("7"), start_in("7"), start_in("8")
    assert [first.gpus, second.gpus, other.gpus] == ["0", "1", "0"]


@pytest.fixture
def start_in(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    steps = []

    def start(job):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        steps.append(Step(1))
        return steps[-1]

    yield start
    for step in steps:
        step.kill()


def test_zero_processes_are_one_for_each_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert _assign_devices("0") == 2


def test_no_gpu_no_assignment(monkeypatch, tmp_path):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.lease_gpus(2, tmp_path) == []
    assert _assign_devices("3") == 3
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
