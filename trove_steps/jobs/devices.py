"""How many processes a step runs, and on which GPUs, found without importing torch."""

import fcntl
import os
import socket
import subprocess
import sys
import tempfile
from functools import cache
from itertools import takewhile
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
MOST_SHARERS = 64


def visible_gpus() -> list[str]:
    """Return the NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES would list them.

    If that variable is set, it decides, as for CUDA: the list ends at the first -1.
    """
    visible = os.environ.get(VISIBLE)
    if visible is None:
        return [str(number) for number in range(_count_installed())]
    listed = (device.strip() for device in visible.split(","))
    return list(takewhile(lambda device: device not in ("", "-1"), listed))


@cache
def _count_installed() -> int:
    try:
        listing = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())


def count_gpus() -> int:
    """Return the number of NVIDIA GPUs that this process may use."""
    return len(visible_gpus())


def processes(nproc_per_node: int | str) -> int:
    """Return the number of processes of a step: as configured, or one per GPU, or one."""
    return max(1, count_gpus()) if nproc_per_node == "auto" else int(nproc_per_node)


def lease_gpus(wanted: int, directory: Path | None = None) -> list[str]:
    """Take up to `wanted` GPUs of this machine for this process and what it starts; return them.

    A GPU that another step holds is taken last, with a warning. It never waits: to start no more steps
    than fit is snakemake's part. The system gives the GPUs back when this process ends, however it ends.
    """
    if directory is None:
        # Numbers of GPUs count those of an allocation, and nodes may share a folder for temporary files.
        job = os.environ.get("SLURM_JOB_ID")
        place = f"-{job}-{socket.gethostname()}" if job else ""
        directory = Path(tempfile.gettempdir()) / f"trove-steps-{os.getuid()}{place}"
    directory.mkdir(mode=0o700, exist_ok=True)
    devices = visible_gpus()
    taken: list[str] = []
    for sharers in range(MOST_SHARERS):
        for device in devices:
            if len(taken) < wanted and device not in taken and _hold(directory, device, sharers):
                taken.append(device)
                if sharers:
                    print(f"warning: GPU {device} is shared with another step", file=sys.stderr)
    return sorted(taken, key=devices.index)


def _hold(directory: Path, device: str, sharers: int) -> bool:
    """Lock one of a GPU's places for as long as this process lives; False if it is taken."""
    place = os.open(directory / f"gpu-{device}.{sharers}", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(place)
        return False
    return True  # the descriptor stays open: closing it would give the place back
