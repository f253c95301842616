"""Following jobs on SLURM: with the plugin's own executor, and stand-ins for SLURM's programs."""

import asyncio
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from trove_steps.jobs import slurm_watch
from trove_steps.jobs.slurm_watch import FAILED, Watch, watch

plugin = pytest.importorskip("snakemake_executor_plugin_slurm")


class Rule(SimpleNamespace):
    """A job of snakemake's with one step."""

    def is_group(self) -> bool:
        return False


@pytest.fixture
def executor(program, monkeypatch):
    """The plugin's executor, watched, as it is after submissions; `done` and `failed` tell its reports."""
    program("scontrol", "echo 'Slurmctld(primary) at here is UP'")
    monkeypatch.setattr(slurm_watch, "AGAIN_SECONDS", 0.05)
    made = object.__new__(plugin.Executor)
    settings = SimpleNamespace(no_requeue=True, init_seconds_before_status_checks=20)
    made.workflow = SimpleNamespace(
        executor_settings=settings,
        remote_execution_settings=SimpleNamespace(seconds_between_status_checks=10),
    )
    made.run_uuid, made.wait, made.logger = "trove-steps_1-2-3", True, logging.getLogger("watched")
    made._next_seconds_between_status_checks = None
    made._submitted_job_clusters, made._failed_nodes = set(), set()
    made._job_submission_executor = ThreadPoolExecutor(1)
    made.lock, made.done, made.failed = threading.Lock(), [], {}
    made.report_job_success = lambda job: made.done.append(job.external_jobid)
    made.report_job_error = lambda job, msg, aux_logs: made.failed.update({job.external_jobid: msg})
    made.submitted, made.run_job = [], lambda job: made.submitted.append(job)
    made.check_active_jobs = its_own_way
    assert watch(made)
    return made


async def its_own_way(active_jobs):
    """What the plugin would do: here, to ask for the first job only again."""
    yield active_jobs[0]


def job(number: str, **step) -> SimpleNamespace:
    rule = Rule(rule=SimpleNamespace(name="search"), output=[], log=[], **step)
    return SimpleNamespace(external_jobid=number, job=rule, aux={"slurm_logfile": f"{number}.log"})


def look(executor, *jobs) -> list[str]:
    """Return the jobs that are to be asked for again."""

    async def checked():
        return [job.external_jobid async for job in executor.check_active_jobs(list(jobs))]

    return asyncio.run(checked())


def squeue(program, *lines: str) -> None:
    program(
        "squeue",
        f'echo "$@" >>{os.environ["PATH"].split(":")[0]}/asked\n'
        + "".join(f"echo '{line}'\n" for line in lines),
    )


def asked() -> list[str]:
    with open(os.environ["PATH"].split(":")[0] + "/asked") as file:
        return file.read().splitlines()


def test_what_the_plugin_promises():
    """The methods that are replaced are there, so that a new release of the plugin shows up here."""
    for name in ("check_active_jobs", "sleep", "run_job", "cancel_jobs"):
        assert hasattr(plugin.Executor, name)
        assert name in vars(Watch)


def test_other_executors_are_left_alone():
    assert not watch(None)
    assert not watch(SimpleNamespace())


def test_jobs_that_end_are_reported_and_the_others_asked_for_again(executor, program):
    squeue(
        program, "1|COMPLETED|n1|None", "2|RUNNING|n1|None", "3|PENDING||Priority", "9|FAILED|n1|x"
    )
    assert look(executor, job("1"), job("2"), job("3")) == ["2", "3"]
    assert (executor.done, executor.failed) == (["1"], {})
    assert "--name=trove-steps_1-2-3" in asked()[0]


@pytest.mark.parametrize("state", sorted(FAILED))
def test_a_job_that_ends_badly_has_failed(executor, program, state):
    squeue(program, f"1|{state}|n7|None")
    assert look(executor, job("1")) == []
    assert executor.done == []
    assert state in executor.failed["1"]
    assert "n7" in executor.failed["1"]
    assert executor._failed_nodes == ({"n7"} if state == "NODE_FAIL" else set())


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED", "BOOT_FAIL"])
def test_a_job_that_slurm_starts_again_goes_on(executor, program, state):
    executor.workflow.executor_settings.no_requeue = False
    squeue(program, f"1|{state}|n7|None")
    assert look(executor, job("1")) == ["1"]
    assert (executor.done, executor.failed, executor._failed_nodes) == ([], {}, set())


def test_a_job_that_slurm_has_forgotten_has_ended(executor, program):
    """Whether it ended well, its outputs tell: snakemake looks for them after a success."""
    squeue(program, "2|RUNNING|n1|None")
    assert look(executor, job("1"), job("2")) == ["2"]
    assert executor.done == ["1"]


def test_no_job_is_lost_while_slurm_does_not_answer(executor, program, caplog):
    program("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    for _ in range(3):
        assert look(executor, job("1"), job("2")) == ["1", "2"]
    assert (executor.done, executor.failed) == ([], {})
    assert caplog.text.count("Unable to contact") == 1
    squeue(program, "1|COMPLETED|n1|None")
    assert look(executor, job("1")) == []
    assert executor.done == ["1"]


def test_tasks_of_an_array_are_told_apart(executor, program):
    squeue(program, "5_1|COMPLETED|n1|None", "5_2|RUNNING|n1|None", "5_3|FAILED|n1|None")
    assert look(executor, job("5_1"), job("5_2"), job("5_3")) == ["5_2"]
    assert (executor.done, list(executor.failed)) == (["5_1"], ["5_3"])
    assert "--array" in asked()[0]


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("PartitionTimeLimit", True),
        ("QOSMaxWallDurationPerJobLimit", True),
        ("launch_failed_requeued_held", True),
        ("Priority", False),
        ("Resources", False),
        ("AssocMaxJobsLimit", False),
    ],
)
def test_a_job_that_will_never_start_is_named_once(executor, program, caplog, reason, told):
    squeue(program, f"1|PENDING||{reason}")
    waiting = job("1")
    for _ in range(2):
        assert look(executor, waiting) == ["1"]
    assert caplog.text.count(reason) == told


def test_polling_is_gentle(executor, program):
    squeue(program, "1|RUNNING|n1|None")
    waits = []
    for _ in range(7):
        look(executor, job("1"))
        waits.append(executor.next_seconds_between_status_checks)
    assert waits == [20, 30, 40, 50, 60, 60, 60]
    assert len(asked()) == 7
    look(executor, job("2"))  # has ended: what depends on it is short perhaps
    assert executor.next_seconds_between_status_checks == 20
    look(executor)
    assert len(asked()) == 8  # nothing to ask for


def test_the_end_of_a_run_does_not_wait_for_the_next_look(executor):
    executor.next_seconds_between_status_checks = 60
    threading.Timer(0.3, lambda: setattr(executor, "wait", False)).start()
    began = time.monotonic()
    asyncio.run(executor.sleep())
    assert time.monotonic() - began < 20


def test_a_failed_job_names_the_step_that_did_not_finish(executor, program, tmp_path):
    log = tmp_path / "search.log"
    log.write_text("one\nerror: the vectors are gone\n")
    squeue(program, "1|FAILED|n1|None")
    broken = job("1")
    broken.job.output, broken.job.log = [str(tmp_path / "none")], [str(log)]
    look(executor, broken)
    assert "search did not finish" in executor.failed["1"]
    assert "error: the vectors are gone" in executor.failed["1"]


def test_ctrl_c_cancels_all_jobs_of_the_run_by_its_name(executor, program, tmp_path):
    """Also one that is being submitted, and those that are just asked for, which snakemake doesn't list."""
    program(
        "scancel", f"cat {tmp_path}/submitted >{tmp_path}/cancelled; echo $@ >>{tmp_path}/cancelled"
    )
    begun = threading.Event()

    def submit():
        begun.set()
        time.sleep(0.5)
        (tmp_path / "submitted").write_text("in time\n")

    executor._job_submission_executor.submit(submit)
    never = executor._job_submission_executor.submit(lambda: None)
    begun.wait()
    executor.cancel_jobs([])
    assert (tmp_path / "cancelled").read_text() == "in time\n--name=trove-steps_1-2-3\n"
    assert never.cancelled()


def test_jobs_that_can_not_be_cancelled_are_named(executor, program, caplog):
    program("scancel", "echo 'Unable to contact slurm controller' >&2; exit 1")
    executor.cancel_jobs([])
    assert "scancel --name=trove-steps_1-2-3" in caplog.text


def test_a_submission_waits_until_slurm_answers(executor, program):
    program("scontrol", "echo 'Slurmctld(primary) at here is DOWN'")
    waiting = threading.Thread(target=executor.run_job, args=["job"])
    waiting.start()
    time.sleep(0.5)
    assert executor.submitted == []
    program(
        "scontrol", "echo 'Slurmctld(primary) at a is DOWN'; echo 'Slurmctld(backup) at b is UP'"
    )
    waiting.join(20)
    assert executor.submitted == ["job"]


def test_other_clusters_are_left_to_the_plugin(executor, program):
    executor._submitted_job_clusters = {"elsewhere"}
    squeue(program)
    assert look(executor, job("1"), job("2")) == ["1"]
    assert executor.done == []
