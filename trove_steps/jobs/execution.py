"""Where the jobs of a run are executed, this machine or a cluster, and what they may take there.

All of it is read from snakemake's workflow object when it is asked for: while the Snakefile is parsed, the
executor is not known yet.
"""

from trove_steps.jobs.devices import count_gpus, processes
from trove_steps.jobs.requests import Limits
from trove_steps.jobs.slurm_cluster import asks_for_cores, hazards, on_slurm, partition_limits
from trove_steps.jobs.slurm_watch import watch
from trove_steps.jobs.unfinished import unfinished


class Execution:
    """How snakemake's `workflow` executes its jobs; `nproc_per_node` is a number of processes or "auto"."""

    def __init__(self, workflow, nproc_per_node: int | str):
        self.workflow, self.nproc_per_node = workflow, nproc_per_node

    @property
    def on_slurm(self) -> bool:
        return on_slurm(self.workflow.executor_settings)

    def uncap_jobs(self, command: list[str]) -> None:
        """On SLURM, leave the CPUs of jobs alone unless snakemake's command line has --cores.

        With --profile, `cores` of profiles/default are of this machine.
        """
        if self.on_slurm and not asks_for_cores(command):
            self.workflow.resource_settings.cores = None
            self.workflow.global_resources["_cores"] = None

    def processes(self) -> int:
        """Return the number of processes; on a cluster's node, auto is found out there, and 0 here.

        A word would not do: all steps of a group must have the same, also those without processes.
        """
        if self.workflow.local_exec:
            return processes(self.nproc_per_node)
        return 0 if self.nproc_per_node == "auto" else self.nproc_per_node

    def slots(self) -> int:
        """Return how many steps with one process each may use this machine's GPUs at once."""
        if not count_gpus():
            return 0
        if "gpu" not in self.workflow.global_resources:  # else steps would share devices
            self.workflow.register_resource("gpu", count_gpus())
        return self.workflow.global_resources["gpu"].value

    def gpus(self) -> int:
        """Return how many of this machine's GPUs a step takes; a cluster's profile says so itself."""
        return min(self.processes(), self.slots()) if self.workflow.local_exec else 0

    def threads(self) -> int:
        """Return the CPU threads of a step here; a cluster's profile says so itself."""
        if not self.workflow.local_exec:
            return 1
        return cpu_threads(self.workflow.resource_settings.cores, self.processes(), self.slots())

    def asked(self, step: str) -> dict:
        """Return what a cluster's profile asks for a step, as it is written there."""
        settings = self.workflow.resource_settings
        asked = {**(settings.default_resources or {}), **settings.overwrite_resources.get(step, {})}
        # Newer releases of Snakemake 9 have objects here, with what was written in `raw`.
        return {name: getattr(value, "raw", value) for name, value in asked.items()}

    def asked_gpus(self, step: str) -> int:
        """Return the GPUs on a node that a cluster's profile asks for a step."""
        return asked_gpus(self.asked(step))

    def limits(self, step: str, configured: Limits) -> Limits:
        """Return the limits of a step's jobs: as configured, of its partition, of the job it shares."""
        limits = configured
        if self.on_slurm:
            partition = str(self.asked(step).get("slurm_partition", ""))
            limits = limits.within(Limits(*partition_limits().get(partition, ())))
        if step in self.workflow.group_settings.overwrite_groups:
            limits = limits.of_shared_job(step)
        return limits

    def follow_jobs(self) -> list[str]:
        """Take over following jobs on SLURM before they are submitted; return what could go wrong."""
        lines = hazards(self.workflow.executor_settings, self.workflow.resource_settings.cores)
        executor = getattr(self.workflow.scheduler, "_executor", None)
        if self.on_slurm and not watch(executor):
            lines.append(
                "this release of snakemake follows the jobs itself: it may wait for ever for one that is "
                "preempted, or when SLURM does not answer for a while"
            )
        return lines

    def unfinished(self, since: float) -> str:
        """Return which steps of a cluster's jobs did not finish, with the ends of their logs; "" if none."""
        if self.workflow.local_exec:
            return ""
        return unfinished(getattr(self.workflow.scheduler, "failed", ()), since)


def asked_gpus(asked: dict) -> int:
    """Return the GPUs on a node that a profile's set-resources ask for a step: its gres or gpu."""
    gres = str(asked.get("gres", ""))
    if gres.startswith("gpu"):
        count = gres.rpartition(":")[2]
        return int(count) if count.isdigit() else 1
    given = str(asked.get("gpu") or asked.get("pod_gpus") or 0)
    return int(given) if given.isdigit() else 1


def cpu_threads(cores: int | None, processes: int, gpus: int) -> int:
    """Return the CPU threads of a step on this machine.

    Without GPUs a step takes all cores, so that no two run at once; with them, its GPUs' share.
    """
    if cores is None:
        return 1
    return cores if not gpus else max(1, cores * min(processes, gpus) // gpus)
