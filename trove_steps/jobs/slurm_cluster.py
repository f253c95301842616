"""What a run that submits to SLURM must know before it begins: limits of partitions, and hazards."""

import os
import re
from functools import cache

from trove_steps.errors import TroveStepsError
from trove_steps.jobs.slurm import ask


def on_slurm(settings) -> bool:
    """Tell whether an executor's settings are those of snakemake's SLURM plugin."""
    return hasattr(settings, "no_requeue") and hasattr(settings, "status_command")


@cache
def partition_limits() -> dict[str, tuple[int | None, int | None]]:
    """Return partition → the most minutes of a job (None: no limit) and MB of a node, as sinfo tells.

    The name "" is the default partition. Empty if SLURM does not answer.
    """
    try:
        listed = ask("sinfo", "--noheader", "--exact", "--format=%P|%l|%m")
    except TroveStepsError:
        return {}
    limits: dict[str, tuple[int | None, int | None]] = {}
    for line in listed.splitlines():
        name, time, memory = line.strip().split("|")
        node = int(memory.rstrip("+"))
        _, most = limits.get(name.rstrip("*"), (None, 0))
        limits[name.rstrip("*")] = _minutes(time), max(node, most or 0) or None
        if name.endswith("*"):
            limits[""] = limits[name.rstrip("*")]
    return limits


def _minutes(time: str) -> int | None:
    """Return the minutes of a limit such as 30:00, 12:00:00 or 7-00:00:00, None for infinite."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", time)
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + minutes + (seconds > 0)


def asks_for_cores(command: list[str]) -> bool:
    """Tell whether a command line of snakemake has --cores; else they are from a profile."""
    return any(re.fullmatch(r"-c(\d+|all)?|--cores(=.*)?", argument) for argument in command)


def hazards(settings, cores: int | None = None) -> list[str]:
    """Say what would make snakemake submit a job twice or give it too little; empty but for SLURM.

    `settings` are those of any executor; only those of the SLURM plugin (2.x) are looked at. `cores`
    are what caps the CPUs of jobs.
    """
    if not on_slurm(settings):
        return []
    lines = []
    if cores:
        lines.append(f"--cores caps the CPUs of every job at {cores}: leave it out on a cluster")
    if not settings.no_requeue and not settings.requeue:
        lines.append(
            "neither slurm-no-requeue nor slurm-requeue is set: whether a job that is preempted or whose "
            "node fails starts again depends on the cluster; set one of them"
        )
    left = _left_jobs()
    if left:
        lines.append(
            f"jobs of an earlier run in this folder are still in the queue: their work will be done a "
            f"second time. To avoid that, press Ctrl-C and: scancel {' '.join(left)}"
        )
    return lines


def _left_jobs() -> list[str]:
    """Return the numbers of snakemake's jobs in this folder; a run that begins has none yet."""
    try:
        listed = ask("squeue", "--noheader", "--me", "--format=%i|%k|%Z")
    except TroveStepsError:
        return []
    jobs = (line.strip().split("|", 2) for line in listed.splitlines())
    here = os.getcwd()
    return [
        job[0] for job in jobs if len(job) == 3 and job[1].startswith("rule_") and job[2] == here
    ]
