"""Launching over the nodes of an allocation, with a stand-in for SLURM's programs."""

import os
import socket
import subprocess
import sys
from functools import partial

import pytest

from trove_steps import torchrun
from trove_steps.errors import TroveStepsError
from trove_steps.jobs import slurm


@pytest.fixture
def scontrol(program):
    return partial(program, "scontrol")


TWO = "echo 'JobId=77 JobName=x NumNodes=2 NumCPUs=8'"


def test_one_launcher_per_node(scontrol, monkeypatch):
    scontrol(TWO)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    # What an outer step of one node, and sbatch with GPUs, leave behind.
    for name in ("SLURM_NNODES", "SLURM_NTASKS_PER_GPU", "SRUN_CPUS_PER_TASK", "SBATCH_GPUS"):
        monkeypatch.setenv(name, "1")
    command, environment = slurm.spread(2, 8)
    assert command[0] == "srun"
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=8"} <= set(command)
    assert "--overlap" in command
    assert int(environment[slurm.PORT]) in slurm.PORTS
    left = {name for name in environment if name.startswith(("SLURM_", "SRUN_", "SBATCH_"))}
    assert left == {"SLURM_JOB_ID"}


@pytest.mark.parametrize(("job", "nodes"), [(None, 1), ("77", 1)])
def test_one_node_is_no_mistake(scontrol, monkeypatch, capsys, job, nodes):
    scontrol(f"echo NumNodes={nodes}")
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    assert slurm.spread(2, 8) is None
    assert "1 node(s), not 2" in capsys.readouterr().err


def test_fewer_nodes_than_asked_for_are_used(scontrol, monkeypatch, capsys):
    scontrol(TWO)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    command, _ = slurm.spread(3, None)
    assert "--nodes=2" in command
    assert "2 node(s), not 3" in capsys.readouterr().err


def test_slurm_that_does_not_answer(scontrol, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    scontrol("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(TroveStepsError, match="Unable to contact"):
        slurm.spread(2, None)
    scontrol("echo what")
    with pytest.raises(TroveStepsError, match="does not say how many nodes"):
        slurm.spread(2, None)


def test_a_port_that_is_taken_is_passed_over():
    port = slurm.free_port(77)
    with socket.socket() as taken:
        taken.bind(("", port))
        taken.listen()
        assert slurm.free_port(77) not in (port,)
    assert slurm.free_port(78) != slurm.free_port(77)


def test_nodes_meet_on_the_first(scontrol, monkeypatch, capsys):
    scontrol("printf 'localhost\\nlocalhost\\n'")
    for name, value in {
        "SLURM_STEP_NODELIST": "n[1-2]",
        "SLURM_NODEID": "1",
        slurm.PORT: "20001",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    assert slurm.meet(2) == [
        "--nnodes=2",
        "--node-rank=1",
        "--master-addr=localhost",
        "--master-port=20001",
    ]
    assert "ranks 2–3 of 4" in capsys.readouterr().err
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    slurm.meet(2)
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"  # the user knows better


def test_the_interface_is_that_of_the_route():
    assert slurm.interface_to("127.0.0.1") == "lo"
    assert slurm.interface_to("no-such-host.invalid") is None


# --- the launcher ----------------------------------------------------------------------------------


def test_the_launcher_starts_itself_on_every_node(scontrol, program):
    scontrol(TWO)
    program("srun", 'echo "$@"\nenv | grep -E "SLURM|RENDEZVOUS"')
    given = [
        "--nproc-per-node",
        "2",
        "--nodes",
        "2",
        "--threads",
        "3",
        "-m",
        "step",
        "--nodes",
        "9",
    ]
    ended = subprocess.run(
        [sys.executable, "-m", "trove_steps.torchrun", *given],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "SLURM_JOB_ID": "77", "SLURM_NNODES": "1"},
    )
    command, *environment = ended.stdout.splitlines()
    assert command.endswith("-m trove_steps.torchrun " + " ".join(given))
    assert "--cpus-per-task=3" in command
    assert not any(line.startswith("SLURM_NNODES") for line in environment)


def test_a_node_without_srun_is_told(scontrol, program, monkeypatch, capsys):
    scontrol(TWO)
    monkeypatch.setenv("PATH", os.environ["PATH"].split(":")[0])
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert torchrun.main(["--nodes", "2", "-m", "step"]) == 1
    assert "error: srun can't be started" in capsys.readouterr().err


def test_the_steps_own_options_are_left_to_it():
    from trove_steps.torchrun import _split

    options, rest = _split(["--nodes", "2", "--rdzv-id", "x", "-m", "step", "--nodes", "9", "-m"])
    assert (options.nodes, options.nproc_per_node, options.threads) == (2, "1", None)
    assert rest == ["--rdzv-id", "x", "-m", "step", "--nodes", "9", "-m"]
