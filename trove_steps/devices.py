"""How many processes a step runs: one per GPU of this machine, found without importing torch."""

import os
import subprocess
from functools import cache
from itertools import takewhile


@cache
def count_gpus() -> int:
    """Return the number of NVIDIA GPUs that this process may use.

    If CUDA_VISIBLE_DEVICES is set, it decides, as for CUDA: the list ends at the first -1.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        listed = (device.strip() for device in visible.split(","))
        return sum(1 for _ in takewhile(lambda device: device not in ("", "-1"), listed))
    try:
        listing = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())


def processes(nproc_per_node: int | str) -> int:
    """Return the number of processes of a step: as configured, or one per GPU, or one."""
    return max(1, count_gpus()) if nproc_per_node == "auto" else int(nproc_per_node)
