"""What ranks need from each other, when one of them dies."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import PROJECT
from trove_steps.distributed import pick_device

ONE_DIES = """
import os, signal, time
import numpy as np
from trove_steps.arguments import run_step
from trove_steps.distributed import communicator

def main():
    with communicator() as comm:
        comm.barrier()
        if comm.rank == 1:
            time.sleep(0.5)  # the other one waits by then
            os.kill(os.getpid(), signal.SIGKILL)
        {waits}

run_step(main)
"""


@pytest.mark.parametrize(
    "waits", ["comm.barrier()", "comm.gather(np.zeros(3, np.float32))", "comm.broadcast(1)"]
)
def test_a_rank_that_waits_for_a_dead_one_ends_without_a_traceback(tmp_path, waits):
    script = tmp_path / "one_dies.py"
    script.write_text(ONE_DIES.format(waits=waits))
    command = [sys.executable, "-m", "trove_steps.torchrun", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=25,  # less than a rank waits for its launcher
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout, done.stdout
    assert "rank 1 was ended by SIGKILL" in done.stdout


STARTING = """
import os, pathlib, time
pathlib.Path(f"rank-{os.environ.get('RANK', '0')}").touch()
time.sleep(60)  # as if libraries were loaded
"""


@pytest.mark.parametrize("ranks", [1, 2])
def test_ctrl_c_while_ranks_start_gives_no_traceback(tmp_path, ranks):
    (tmp_path / "starting.py").write_text(STARTING)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "trove_steps.torchrun",
            f"--nproc-per-node={ranks}",
            "-m",
            "starting",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 120
    while len(list(tmp_path.glob("rank-*"))) < ranks and time.monotonic() < end:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert said == "ended by SIGINT; what was finished is kept: start again to go on\n"
    assert process.returncode == 130


@pytest.mark.parametrize(("rank", "device"), [(0, "cuda:0"), (1, "cuda:1"), (2, "cpu")])
def test_a_rank_takes_its_gpu_and_makes_it_the_current_one(monkeypatch, rank, device):
    """With two GPUs, which this machine need not have."""
    import torch

    chosen = []
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert pick_device() == device
    assert chosen == ([] if device == "cpu" else [rank])
