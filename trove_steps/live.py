"""The live view of a run: a bar per running step, a line per finished one; plain lines without a terminal.

The workflow's logger plugin (`snakemake_logger_plugin_trove_steps`) tells which jobs run; the steps tell
how far they are, through small files (`trove_steps.progress`).
"""

import contextlib
import json
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from trove_steps.progress import FOLDER

TICK = 0.3  # seconds between two looks at the files
PLAIN_SECONDS = 60.0  # between two lines about a step that goes on, without a terminal
BAR = 24  # characters, where there is room
SHORTEST_BAR = 4
_open_views: list["View"] = []


def _unnamed(wildcards: dict[str, str]) -> str:
    return ""


_find_name: Callable[[dict[str, str]], str] = _unnamed


def name_jobs(find: Callable[[dict[str, str]], str]) -> None:
    """Let `find` say what people call that which a job's wildcards name by keys, "" if it does not know."""
    global _find_name
    _find_name = find


def name_of_job(rule: str, wildcards: dict[str, str]) -> str:
    """Return the rule and what it works on: data set and model, or else the beginning of a key."""
    place = [wildcards[name] for name in ("dataset", "model") if name in wildcards]
    key = next((v[:8] for n, v in wildcards.items() if n in ("encoder", "search")), "")
    return f"{rule} {'/'.join(place) or _find_name(wildcards) or key}".strip()


def close_views() -> None:
    """Remove the bars, before something else is printed. May be called by any thread, and again."""
    for view in list(_open_views):
        view.close()


@dataclass
class Job:
    """A running job; `state` is what its step told last, at `heard`, in the file `path`."""

    name: str
    outputs: set[str]
    started: float = field(default_factory=time.monotonic)
    shown: float = field(default_factory=time.monotonic)
    state: dict = field(default_factory=dict)
    heard: float = 0.0
    path: Path | None = None


class View:
    """Follows the jobs of one run, with bars if `screen` (default: whether standard error is a terminal)."""

    def __init__(self, screen: bool | None = None):
        self.screen = sys.stderr.isatty() if screen is None else screen
        self.jobs: dict[int, Job] = {}
        self.done = self.total = 0
        self.began = time.monotonic()
        self.folder: Path | None = None
        self._read: dict[Path, int] = {}  # states that were read, with their times
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._live = self._console = None
        # Relative, because --directory may still move the run elsewhere; steps run where it runs.
        os.environ[FOLDER] = f".snakemake/progress-{socket.gethostname()}-{os.getpid()}"
        _open_views.append(self)

    # --- what happens ---------------------------------------------------------------------------

    def start_job(self, number: int, name: str, outputs: list[str]) -> None:
        """A job begins; `outputs` are its files, by which the step that runs in it is known."""
        with self._lock:
            self.jobs[number] = Job(name, set(outputs))
        if self._thread is None and not self._ended.is_set():
            self._start()

    def end_job(self, number: int) -> str:
        """A job has ended, well or not; return what it is called, "" if it never began."""
        self._look()
        with self._lock:
            job = self.jobs.pop(number, None)
            if job and job.path:
                self._read.pop(job.path, None)
                job.path.unlink(missing_ok=True)
        return job.name if job else ""

    def progress(self, done: int, total: int) -> None:
        with self._lock:
            self.done, self.total = done, total

    def write(self, text: str, stream=None) -> None:
        """Show a text on a stream (default: standard error); on a terminal, above the bars."""
        stream = stream or sys.stderr
        with self._lock:
            if self._console is None or not stream.isatty():
                print(text, file=stream, flush=True)
                return
            from rich.text import Text

            self._console.print(Text.from_ansi(text), soft_wrap=True)

    def close(self) -> None:
        """Show the last lines, remove the bars and the files."""
        self._ended.set()
        if thread := self._thread:
            thread.join()
        self._look()
        with self._lock:
            if self._live is not None:
                self._live.stop()
            self._live = self._console = None
            if self.folder is not None:
                shutil.rmtree(self.folder, ignore_errors=True)
            if self in _open_views:
                _open_views.remove(self)
                os.environ.pop(FOLDER, None)

    # --- how it is shown ------------------------------------------------------------------------

    def _start(self) -> None:
        self.folder = Path(os.path.abspath(os.environ[FOLDER]))
        _remove_leftovers(self.folder)
        if self.screen:
            from rich.console import Console
            from rich.live import Live

            self._console = Console(stderr=True, highlight=False)
            self._live = Live(
                console=self._console,
                transient=True,
                auto_refresh=False,
                redirect_stdout=False,  # it may be a file, and what is written there is no part of this
                redirect_stderr=False,
            )
            self._live.start()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(TICK):
            self._look()
            if self._live is None:
                self._say()
                continue
            from rich.text import Text

            with self._lock:
                lines = self.lines(self._console.width)
            shown = Text("\n".join(lines), no_wrap=True, overflow="ellipsis")
            self._live.update(shown, refresh=True)

    def _look(self) -> None:
        """Read what the steps told, and show the lines of those that are done."""
        with self._lock:
            for path in sorted(self.folder.glob("*.json")) if self.folder else ():
                with contextlib.suppress(OSError, ValueError):
                    self._take(path)

    def _take(self, path: Path) -> None:
        written = path.stat().st_mtime_ns
        if self._read.get(path) == written:
            return
        told = json.loads(path.read_text(encoding="utf-8"))
        if "line" in told:
            path.unlink()
            self.write(self._with_place(told), sys.stdout)
            return
        for job in self.jobs.values():
            if not job.outputs.isdisjoint(told["arguments"]):
                job.state, job.heard, job.path = told, time.monotonic(), path
                self._read[path] = written

    def _with_place(self, told: dict) -> str:
        """Return what a step said at its end, with the data set and model of its job if it names none."""
        line = told["line"]
        for job in self.jobs.values():
            place = job.name.partition(" ")[2]
            if "/" in place and not job.outputs.isdisjoint(told.get("arguments", ())):
                known = line.startswith("warning: ") or place in line
                return line if known else f"{line} · {place}"
        return line

    def lines(self, width: int) -> list[str]:
        """Return the lines of the live part: one per running job, one for the whole run."""
        now = time.monotonic()
        shown = [described(job, now, width) for job in self.jobs.values()]
        whole = f"{self.done} of {self.total} jobs done · " if self.total else ""
        return [*shown, f"{whole}{clock(now - self.began)}"]

    def _say(self) -> None:
        """Without a terminal: a line per minute about each step that goes on."""
        now = time.monotonic()
        with self._lock:
            due = [
                job for job in self.jobs.values() if now - job.shown > PLAIN_SECONDS and job.state
            ]
            lines = [described(job, now) for job in due]
            for job in due:
                job.shown = now
        for line in lines:
            self.write(line, sys.stdout)


def _remove_leftovers(folder: Path) -> None:
    """Remove the folders beside this one that runs on this machine left when they were killed."""
    for old in folder.parent.glob(f"{folder.name.rpartition('-')[0]}-*"):
        number = old.name.rpartition("-")[2]
        if not number.isdigit():
            continue
        try:
            os.kill(int(number), 0)  # asks only
        except ProcessLookupError:
            shutil.rmtree(old, ignore_errors=True)
        except OSError:
            pass  # somebody else's


def described(job: Job, now: float, width: int = 0) -> str:
    """Return the line of a running job: share, rate and time left, as far as they are known, and a bar as
    far as a line of `width` characters has room for one."""
    state = job.state
    if not state.get("total"):
        return f"{job.name}: {clock(now - job.started)}"
    share = min(1.0, state["done"] / state["total"])
    parts = [f"{share:4.0%}", f"{short(state['done'])}/{short(state['total'])} {state['unit']}"]
    if state.get("note"):
        parts.append(state["note"])
    elif state["rate"]:
        parts.append(f"{short(state['rate'])}/s")
    if state["rate"]:
        left = (state["total"] - state["done"]) / state["rate"] - (now - job.heard)
        parts.append(f"{clock(max(0.0, left))} left")
    figures = " · ".join(parts)
    room = min(BAR, width - len(f"{job.name}:  {figures}") - 1)
    if room < SHORTEST_BAR:
        return f"{job.name}: {figures}"
    filled = round(room * share)
    return f"{job.name}: {'━' * filled}{'─' * (room - filled)} {figures}"


def clock(seconds: float) -> str:
    """Return a duration as 1:02 or 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def short(number: float) -> str:
    """Return a number with three significant digits and k, M, G or T."""
    for unit in ("", "k", "M", "G"):
        if abs(number) < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"
