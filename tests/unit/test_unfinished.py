"""Which step of a failed job is named, and with what."""

import os
from types import SimpleNamespace

import pytest

from trove_steps.jobs.unfinished import LAST_LINES, unfinished


class Job(SimpleNamespace):
    def is_group(self) -> bool:
        return hasattr(self, "jobs")


@pytest.fixture
def step(tmp_path):
    """Make a step of which an output and a log (text, age in seconds) may be there."""

    def make(name: str, done: bool, log: str | None = None, written: float = 1000.0) -> Job:
        output, path = tmp_path / f"{name}.json", tmp_path / f"{name}.log"
        if done:
            output.touch()
        if log is not None:
            path.write_text(log)
            os.utime(path, (written, written))
        rule = SimpleNamespace(name=name)
        return Job(rule=rule, output=[str(output)], log=[str(path)])

    return make


def test_of_a_group_only_the_step_that_broke_off_is_named(step):
    steps = [
        step("encode_queries", True, "all went well\n"),
        step("search", False, "line\n" * 50 + "error: no memory\n"),
        step("score", False),  # never began
        step("mine", False, "error: of last week\n", written=10.0),
    ]
    told = unfinished([Job(jobs=steps)], since=500)
    assert told.startswith("search did not finish; the end of ")
    assert told.endswith("\n    line\n    error: no memory")
    assert len(told.splitlines()) == 1 + LAST_LINES


def test_a_step_that_said_nothing(step):
    assert unfinished([step("search", False, "")], 0).endswith("search.log: nothing")


def test_jobs_that_never_began_are_not_named(step):
    assert unfinished([step("search", False), step("score", True, "well")], 0) == ""
