"""How a run follows its jobs on SLURM: with one squeue at a time, and never waiting for ever.

Snakemake's SLURM plugin (2.x) loses sight of jobs: of one that was preempted, of all when SLURM doesn't
answer for a while, and of one that SLURM has forgotten before it was asked again. `watch` gives its
executor the methods of a `Watch` instead. They rely on what snakemake promises to executors, and on the
plugin's `run_uuid`, the name of all jobs of a run.
"""

import asyncio
import shutil
import sys
import time
from typing import NamedTuple

from trove_steps.errors import TroveStepsError
from trove_steps.jobs.slurm import ask
from trove_steps.jobs.unfinished import unfinished

FAILED = {
    *("BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"),
}
# SLURM itself starts these again, unless it was told not to.
STARTED_AGAIN = {"BOOT_FAIL", "NODE_FAIL", "PREEMPTED"}
# With these, a job that waits waits for ever.
IN_VAIN = {
    *("BadConstraints", "InvalidAccount", "InvalidQOS", "PartitionNodeLimit", "PartitionTimeLimit"),
    *("JobHeldAdmin", "JobHeldUser", "launch_failed_requeued_held"),
}
SLOWEST_SECONDS = 60  # between two looks
AGAIN_SECONDS = 10  # until SLURM is asked again for what it must do
CANCEL_ATTEMPTS = 6
BEGAN = time.time()


class State(NamedTuple):
    """What squeue says of a job."""

    state: str
    nodes: str
    reason: str


class Watch:
    """Follows the jobs of one executor of the plugin, in the place of its own methods."""

    def __init__(self, executor):
        self.executor = executor
        self.settings, self.logger = executor.workflow.executor_settings, executor.logger
        self.silent = False  # SLURM did not answer when it was asked last
        self._check_as_before, self._submit = executor.check_active_jobs, executor.run_job
        self._cancel_as_before = executor.cancel_jobs
        for method in (self.check_active_jobs, self.sleep, self.run_job, self.cancel_jobs):
            setattr(executor, method.__name__, method)

    @property
    def elsewhere(self) -> bool:
        """Whether jobs are on other clusters, which squeue and scancel do not see: the plugin does."""
        return bool(getattr(self.executor, "_submitted_job_clusters", None))

    async def check_active_jobs(self, active_jobs):
        """Report the jobs that have ended; yield the others, which are asked for again after `sleep`."""
        if self.elsewhere:
            async for job in self._check_as_before(active_jobs):
                yield job
            return
        states = await asyncio.to_thread(self._ask) if active_jobs else {}
        going_on = 0
        for job in active_jobs:
            # Of a SLURM that doesn't answer nothing is learnt, and no job is lost.
            if states is None or not self._has_ended(job, states.get(job.external_jobid)):
                going_on += 1
                yield job
        executor, first = self.executor, self.settings.init_seconds_before_status_checks or 20
        slower = min(executor.next_seconds_between_status_checks + 10, max(first, SLOWEST_SECONDS))
        nothing_new = active_jobs and going_on == len(active_jobs)
        executor.next_seconds_between_status_checks = slower if nothing_new else first

    def _ask(self) -> dict[str, State] | None:
        """Return the jobs of this run that SLURM knows of, by number; None if it doesn't answer."""
        query = ("--noheader", "--array", "--states=all", f"--name={self.executor.run_uuid}")
        try:
            listed = ask("squeue", *query, "--format=%i|%T|%N|%r")
        except TroveStepsError as error:
            if not self.silent:
                self.logger.warning(f"SLURM does not answer ({error}); asking again until it does")
            self.silent = True
            return None
        self.silent = False
        rows = (line.strip().split("|") for line in listed.splitlines())
        return {row[0]: State(*row[1:]) for row in rows if len(row) == 4}

    def _has_ended(self, job, state: State | None) -> bool:
        if state is None or state.state == "COMPLETED":
            # SLURM has forgotten a job that ended long ago: whether it ended well, its outputs tell,
            # for which snakemake looks now.
            self.executor.report_job_success(job)
        elif state.state in FAILED and (
            state.state not in STARTED_AGAIN or self.settings.no_requeue
        ):
            self._report_failure(job, state)
        else:
            if state.state == "PENDING" and _is_in_vain(state.reason):
                self._warn_once(job, state.reason)
            return False
        return True

    def _report_failure(self, job, state: State) -> None:
        if state.state == "NODE_FAIL" and state.nodes:
            getattr(self.executor, "_failed_nodes", set()).add(state.nodes)  # left out from now on
        where = f" on {state.nodes}" if state.nodes else ""
        told = unfinished([job.job], BEGAN)
        message = f"SLURM ended job {job.external_jobid}{where}: {state.state}.\n"
        logs = [str(job.aux["slurm_logfile"])] if "slurm_logfile" in job.aux else []
        self.executor.report_job_error(job, msg=message + (told and told + "\n"), aux_logs=logs)

    def _warn_once(self, job, reason: str) -> None:
        if not job.aux.get("warned"):
            job.aux["warned"] = True
            self.logger.warning(
                f"SLURM job {job.external_jobid} ({job.job}) will not start as it is: {reason}. Look at "
                "its limits (scontrol show job), change the profile or cluster.max_minutes, and start "
                "again; or scancel it to let snakemake try again."
            )

    async def sleep(self) -> None:
        """Wait until the next look, but no longer than this run goes on."""
        until = time.monotonic() + self.executor.next_seconds_between_status_checks
        while self.executor.wait and time.monotonic() < until:
            await asyncio.sleep(0.5)

    def run_job(self, job) -> None:
        """Submit a job; if SLURM doesn't answer, wait: an attempt would be lost."""
        while self.executor.wait and _is_away():
            time.sleep(AGAIN_SECONDS)
        self._submit(job)

    def cancel_jobs(self, active_jobs) -> None:
        """Cancel all jobs of this run; `active_jobs` lacks those that are just asked for or submitted."""
        self.executor.wait = False
        submitting = getattr(self.executor, "_job_submission_executor", None)
        if submitting is not None:
            submitting.shutdown(wait=True, cancel_futures=True)
        if self.elsewhere:
            self._cancel_as_before(active_jobs)
            return
        command = ("scancel", f"--name={self.executor.run_uuid}")
        for _ in range(CANCEL_ATTEMPTS):
            try:
                ask(*command)
                return
            except TroveStepsError as error:
                self.logger.warning(f"{error}; trying again to cancel the jobs")
                time.sleep(AGAIN_SECONDS)
        self.logger.error(f"the jobs of this run may go on; to cancel them: {' '.join(command)}")


def watch(executor) -> bool:
    """Let a `Watch` follow the jobs of a running executor of the SLURM plugin.

    False if it is none, so that its own ways are left.
    """
    plugin = sys.modules.get("snakemake_executor_plugin_slurm")
    if plugin is None or not isinstance(executor, plugin.Executor):
        return False
    Watch(executor)
    return True


def _is_in_vain(reason: str) -> bool:
    return reason in IN_VAIN or reason.endswith(("PerJob", "PerJobLimit"))


def _is_away() -> bool:
    """Tell whether SLURM's controller does not answer; a cluster without scontrol is taken as it is."""
    try:
        return "UP" not in ask("scontrol", "ping")
    except TroveStepsError:
        return shutil.which("scontrol") is not None
