"""The live view: what steps tell and what is shown of it."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_plan import raw  # noqa: F401 (a fixture)
from trove_steps import live, progress
from trove_steps.distributed import Comm
from trove_steps.live import Job, View, clock, close_views, described, short
from trove_steps.plan import Plan


@pytest.fixture
def view(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["step", "--manifest", "out.json"])
    view = View(screen=False)
    yield view
    view.close()


def test_jobs_are_called_by_what_people_know(raw):  # noqa: F811
    """Keys are looked up in the plan; what it does not know keeps the beginning of its key."""
    raw["datasets"]["other"] = {**raw["datasets"]["tiny"], "qrel_path": "data/none.tsv"}
    Path("data/none.tsv").write_text("q1\td1\t1\n")
    plan = Plan(raw)
    live.name_jobs(plan.name_of_job)
    cell = plan.cells["tiny", "bert"]
    try:
        encoded = {"encoder": cell.corpus.encoder, "texts": cell.corpus.texts}
        assert live.name_of_job("encode_corpus", encoded) == "encode_corpus tiny/bert and 1 more"
        assert live.name_of_job("search", {"search": cell.search}) == "search tiny/bert and 1 more"
        assert live.name_of_job("score", {"dataset": "d", "model": "m"}) == "score d/m"
        assert live.name_of_job("search", {"search": "0123456789"}) == "search 01234567"
        assert live.name_of_job("all", {}) == "all"
    finally:
        live.name_jobs(live._unnamed)


def test_a_line_is_shown_once_and_stays_in_the_log(view, capsys):
    view.start_job(1, "search abc", ["out.json"])
    progress.report("search: done")
    view.end_job(1)
    view.close()
    shown = capsys.readouterr()
    assert shown.out == "search: done\n"
    assert "search: done" in shown.err
    assert not view.folder.exists()


def test_a_line_says_for_which_data_set_and_model(view, capsys):
    view.start_job(1, "search a/b and 2 more", ["out.json"])
    progress.report("search: done")
    progress.report("warning: corpus of b: cut")
    view._look()
    view.end_job(1)
    view.start_job(2, "score a/b", ["out.json"])
    progress.report("score a/b: 0.5")
    view.end_job(2)
    shown = capsys.readouterr().out.splitlines()
    assert shown == [
        "search: done · a/b and 2 more",
        "warning: corpus of b: cut",
        "score a/b: 0.5",
    ]


def test_a_bar_belongs_to_the_job_whose_output_it_makes(view):
    view.start_job(1, "encode_corpus abc", ["out.json"])
    view.start_job(2, "encode_corpus def", ["other.json"])
    bar = progress.progress_bar(np.int64(2000), "encode corpus", "texts", True)
    bar.mininterval = 0
    bar.update(np.int64(500))  # counts of numpy are what steps have
    bar.refresh()
    view._look()
    first, second, whole = view.lines(80)
    assert "25%" in first
    assert "500/2k texts" in first
    assert "left" in first
    assert second.startswith("encode_corpus def: 0:0")
    assert whole.startswith("0:0")


class Rank(Comm):
    """One of several ranks in this process: they count together."""

    def __init__(self, rank: int, counters: dict):
        self.rank, self._counters = rank, counters


def test_a_bar_shows_what_all_ranks_have_done(view, monkeypatch):
    monkeypatch.setattr(progress, "TOLD_SECONDS", 0)
    view.start_job(1, "encode_corpus abc", ["out.json"])
    counters = {}
    bars = [progress.SharedBar(Rank(n, counters), 80, "encode", "characters") for n in range(8)]
    for bar in reversed(bars):  # rank 0 is the last one to tell
        bar.add(5)
    view._look()
    assert "50% · 40/80 characters" in view.lines(80)[0]
    for bar in bars:
        bar.close()
    view._look()
    assert "100% · 80/80 characters" in view.lines(80)[0]


def test_without_a_view_lines_go_to_the_screen(monkeypatch, capsys):
    monkeypatch.delenv(progress.FOLDER, raising=False)
    progress.report("score: done")
    assert capsys.readouterr().out == "score: done\n"


def test_a_view_that_is_out_of_reach_does_no_harm(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(progress.FOLDER, str(tmp_path / "file" / "folder"))
    progress.report("score: done")
    assert capsys.readouterr().out == "score: done\n"


def test_a_damaged_file_is_left_out(view):
    view.start_job(1, "score a/b", ["out.json"])
    view.folder.mkdir(parents=True)
    (view.folder / "x.json").write_text("{")
    view._look()
    assert view.lines(80)[0].startswith("score a/b: 0:0")


def test_a_step_may_tell_before_its_job_is_known(view):
    """The records of snakemake come late: a step inherits the folder from the beginning."""
    progress.tell(what="encode corpus", unit="texts", done=5, total=10, rate=1.0, note="")
    view.start_job(1, "encode_corpus abc", ["out.json"])
    view._look()
    assert "50%" in view.lines(80)[0]


def test_a_state_is_read_once_and_goes_with_its_job(view, monkeypatch):
    view.start_job(1, "encode_corpus abc", ["out.json"])
    view.start_job(2, "encode_corpus def", ["other.json"])
    progress.tell(what="encode corpus", unit="texts", done=5, total=10, rate=1.0, note="")
    view._look()
    with monkeypatch.context() as patch:
        patch.setattr(live.json, "loads", lambda _: pytest.fail("read again"))
        view._look()
    view.end_job(2)
    assert len(list(view.folder.glob("*.json"))) == 1
    view.end_job(1)
    assert not list(view.folder.glob("*.json"))


def test_what_a_killed_run_left_is_removed(view):
    folder = Path(".snakemake").absolute()
    host = socket.gethostname()
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = [f"progress-{host}-{ended.pid}", f"progress-{host}-{os.getppid()}", "progress-other-1"]
    for name in left:
        (folder / name).mkdir(parents=True)
    view.start_job(1, "score a/b", ["out.json"])
    assert [(folder / name).exists() for name in left] == [False, True, True]


def test_a_line_is_shown_once_by_however_many_threads_look(view, capsys):
    view.start_job(1, "score abc", ["out.json"])
    for number in range(30):
        progress.tell(line=f"line {number}")
    looking = [threading.Thread(target=view._look) for _ in range(8)]
    for thread in looking:
        thread.start()
    for thread in looking:
        thread.join()
    assert capsys.readouterr().out.splitlines() == [f"line {number}" for number in range(30)]


def test_closing_twice_and_at_once(view, capsys):
    view.start_job(1, "score abc", ["out.json"])
    progress.tell(line="scored")
    closing = [threading.Thread(target=close_views) for _ in range(4)]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join()
    view.write("later")
    assert capsys.readouterr() == ("scored\n", "later\n")
    assert progress.FOLDER not in os.environ


def test_without_a_terminal_a_line_a_minute(view, capsys):
    view.start_job(1, "encode_corpus abc", ["out.json"])
    progress.tell(what="encode corpus", unit="texts", done=5, total=10, rate=1.0, note="")
    view._look()
    view._say()
    assert capsys.readouterr().out == ""
    view.jobs[1].shown -= 61
    view._say()
    view._say()
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"encode_corpus abc:  50% · 5/10 texts · 1/s · 0:0\d left", line)


def test_described():
    job = Job("search abc", set(), started=0.0)
    assert described(job, 75.0) == "search abc: 1:15"
    job.state = {"done": 3, "total": 4, "unit": "pairs", "rate": 0.125, "note": "12 GFLOP/s"}
    job.heard = 75.0
    assert described(job, 75.0, 100) == (
        f"search abc: {'━' * 18}{'─' * 6}  75% · 3/4 pairs · 12 GFLOP/s · 0:08 left"
    )
    assert described(job, 78.0).endswith("0:05 left"), "the time left goes on between two states"
    assert described(job, 99.0).endswith("0:00 left")


@settings(deadline=None)
@given(
    name=st.text(max_size=60),
    numbers=st.tuples(*[st.integers(0, 10**14)] * 3),
    width=st.integers(20, 200),
)
def test_a_bar_is_as_long_as_there_is_room(name, numbers, width):
    done, total, rate = numbers
    state = {"done": done, "total": total, "unit": "characters", "rate": rate, "note": ""}
    job = Job(name, set(), started=0.0, state=state)
    line, without = described(job, 1.0, width), described(job, 1.0)
    bar = line.count("━") + line.count("─") - without.count("━") - without.count("─")
    assert bar == 0 or 4 <= bar <= 24
    assert len(line) == (len(without) + bar + 1 if bar else len(without))
    assert not bar or len(line) < width


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0"), (999, "999"), (1000, "1k"), (5183, "5.18k"), (2.5e12, "2.5T"), (999_700, "1M")],
)
def test_short(number, shown):
    assert short(number) == shown


def test_clock():
    assert (clock(59.9), clock(3725)) == ("0:59", "1:02:05")


def test_what_is_told_is_whole(view):
    view.start_job(1, "score a/b", ["out.json"])
    progress.tell(done=1, total=2)
    (path,) = view.folder.glob("*.json")
    assert json.loads(path.read_text())["arguments"] == sys.argv
    assert time.time() - path.stat().st_mtime < 60
