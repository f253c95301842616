"""How many processes a step runs: one per GPU of this machine, found without importing torch."""

import os
import subprocess
from functools import cache


@cache
def count_gpus() -> int:
    """Return the number of NVIDIA GPUs that this process may use; CUDA_VISIBLE_DEVICES counts."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
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
