"""The live view of a run: a bar per running step, a line per finished one; plain lines without a terminal.

The workflow's logger plugin (`snakemake_logger_plugin_trove_steps`) tells which jobs run; the steps tell
how far they are, through small files (`trove_steps.progress`).
"""

import contextlib
import json
import os
import shutil
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from trove_steps.progress import FOLDER

TICK = 0.3  # seconds between two looks at the files
PLAIN_SECONDS = 60.0  # between two lines about a step that goes on, without a terminal
BAR = 24


@dataclass
class Job:
    """A running job; `state` is what its step told last."""

    name: str
    outputs: set[str]
    started: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)
    state: dict = field(default_factory=dict)


class View:
    """Follows the jobs of one run, with bars if `screen` (default: whether standard error is a terminal)."""

    def __init__(self, screen: bool | None = None):
        self.screen = sys.stderr.isatty() if screen is None else screen
        self.jobs: dict[int, Job] = {}
        self.done = self.total = 0
        self.began = time.monotonic()
        self.folder: Path | None = None
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._live = self._console = None

    # --- what happens ---------------------------------------------------------------------------

    def start_job(self, number: int, name: str, outputs: list[str]) -> None:
        """A job begins; `outputs` are its files, by which the step that runs in it is known."""
        with self._lock:
            self.jobs[number] = Job(name, set(outputs))
        if self.folder is None:  # not before: --directory may move the run elsewhere
            self.folder = Path(os.path.abspath(".snakemake")) / f"progress-{os.getpid()}"
            os.environ[FOLDER] = str(self.folder)
        if self._thread is None:
            self._start()

    def end_job(self, number: int) -> None:
        """A job has ended, well or not."""
        self._look()
        with self._lock:
            self.jobs.pop(number, None)

    def progress(self, done: int, total: int) -> None:
        with self._lock:
            self.done, self.total = done, total

    def write(self, text: str, stream=None) -> None:
        """Show a text above the bars, or on a stream (default: standard error) without a terminal."""
        if self._console is None:
            print(text, file=stream or sys.stderr, flush=True)
            return
        from rich.text import Text

        self._console.print(Text.from_ansi(text), soft_wrap=True)

    def close(self) -> None:
        """Show the last lines, remove the bars and the files."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._look()
        if self._live is not None:
            self._live.stop()
            self._live = self._console = None
        os.environ.pop(FOLDER, None)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    # --- how it is shown ------------------------------------------------------------------------

    def _start(self) -> None:
        if self.screen:
            from rich.console import Console
            from rich.live import Live

            self._console = Console(stderr=True, highlight=False)
            self._live = Live(console=self._console, transient=True, auto_refresh=False)
            self._live.start()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(TICK):
            self._look()
            if self._live is not None:
                with self._lock:
                    lines = self.lines()
                self._live.update("\n".join(lines), refresh=True)
            else:
                self._say()

    def _look(self) -> None:
        """Read what the steps told, and show the lines of those that are done."""
        for path in sorted(self.folder.glob("*.json")) if self.folder else ():
            with contextlib.suppress(OSError, ValueError):
                told = json.loads(path.read_text(encoding="utf-8"))
                if "line" in told:
                    path.unlink()
                    self.write(told["line"], sys.stdout)
                    continue
                with self._lock:
                    for job in self.jobs.values():
                        if not job.outputs.isdisjoint(told["arguments"]):
                            job.state = told

    def lines(self) -> list[str]:
        """Return the lines of the live part: one per running job, one for the whole run."""
        now = time.monotonic()
        shown = [described(job, now) for job in self.jobs.values()]
        whole = f"{self.done} of {self.total} jobs done · " if self.total else ""
        return [*shown, f"{whole}{clock(now - self.began)}"]

    def _say(self) -> None:
        """Without a terminal: a line per minute about each step that goes on."""
        now = time.monotonic()
        with self._lock:
            due = [
                job for job in self.jobs.values() if now - job.told > PLAIN_SECONDS and job.state
            ]
            lines = [described(job, now, bar=False) for job in due]
            for job in due:
                job.told = now
        for line in lines:
            self.write(line, sys.stdout)


def described(job: Job, now: float, bar: bool = True) -> str:
    """Return the line of a running job: bar, share, rate and time left, as far as they are known."""
    state = job.state
    if not state.get("total"):
        return f"{job.name}: {clock(now - job.started)}"
    share = min(1.0, state["done"] / state["total"])
    drawn = f"{'━' * round(BAR * share)}{'─' * (BAR - round(BAR * share))} " if bar else ""
    amount = f"{short(state['done'])}/{short(state['total'])} {state['unit']}"
    parts = [f"{job.name}: {drawn}{share:4.0%}", amount]
    if state.get("note"):
        parts.append(state["note"])
    elif state["rate"]:
        parts.append(f"{short(state['rate'])}/s")
    if state["rate"]:
        parts.append(f"{clock((state['total'] - state['done']) / state['rate'])} left")
    return " · ".join(parts)


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
