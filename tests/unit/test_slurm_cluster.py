"""What a run finds out about a SLURM cluster before it submits, with stand-ins for SLURM's programs."""

import os
from types import SimpleNamespace

import pytest

from trove_steps.jobs.slurm_cluster import (
    _minutes,
    asks_for_cores,
    hazards,
    on_slurm,
    partition_limits,
)


@pytest.fixture(autouse=True)
def nothing_is_remembered(program):
    partition_limits.cache_clear()
    program("squeue", "")
    yield
    partition_limits.cache_clear()


def profile(**changes) -> SimpleNamespace:
    settings = {"status_command": "squeue", "no_requeue": True, "requeue": False}
    return SimpleNamespace(**{**settings, **changes})


# --- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "minutes"),
    [
        ("infinite", None),
        ("n/a", None),
        ("30:00", 30),
        ("0:30", 1),
        ("12:00:00", 720),
        ("1-00:00:00", 1440),
        ("7-12:30:00", 7 * 1440 + 750),
    ],
)
def test_limits_are_written_in_many_ways(time, minutes):
    assert _minutes(time) == minutes


def test_limits_of_partitions(program):
    program("sinfo", "printf 'main*|infinite|8000\\nmain*|infinite|64000+\\nshort|30:00|8000\\n'")
    main = None, 64_000
    assert partition_limits() == {"main": main, "": main, "short": (30, 8000)}


def test_a_cluster_that_does_not_tell_has_no_limits(program):
    program("sinfo", "exit 1")
    assert partition_limits() == {}


# --- hazards ---------------------------------------------------------------------------------------


def test_the_profile_is_safe():
    assert hazards(profile()) == []
    assert hazards(profile(no_requeue=False, requeue=True)) == []


def test_who_starts_a_job_again_must_be_said():
    (line,) = hazards(profile(no_requeue=False))
    assert "slurm-no-requeue" in line


def test_cores_of_the_login_node_are_no_limit_of_jobs():
    (line,) = hazards(profile(), 2)
    assert "--cores caps the CPUs of every job at 2" in line


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ("--profile slurm --configfile my.yaml -n", False),
        ("--cores 4", True),
        ("--cores=all", True),
        ("-c4", True),
        ("-c all", True),
        ("--configfile cores", False),
    ],
)
def test_who_asks_for_cores(command, asked):
    assert asks_for_cores(["snakemake", *command.split()]) is asked


def test_jobs_of_an_earlier_run_are_named(program):
    here = os.getcwd()
    program(
        "squeue",
        f"""printf '%s\\n' '11|rule_cell_wildcards_a|{here}' '12|rule_x|/elsewhere' '13||{here}' \\
            '14_3|rule_encode_corpus|{here}'""",
    )
    (line,) = hazards(profile())
    assert line.endswith("scancel 11 14_3")


def test_a_queue_that_can_not_be_read_is_no_hazard(program):
    program("squeue", "exit 1")
    assert hazards(profile()) == []


def test_other_executors_are_not_looked_at(program):
    program("squeue", "echo '11|rule_x|'$PWD")
    for settings in (None, SimpleNamespace(namespace="default")):
        assert not on_slurm(settings)
        assert hazards(settings, 2) == []
