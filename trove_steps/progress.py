"""What a step tells: a bar while it works, one line when it is done.

Standard output is the user's screen, standard error the job's log file. Where a view watches
(`trove_steps.live`, which names a folder in $TROVE_STEPS_PROGRESS), bar and line go to small files in that
folder, and the view shows them.
"""

import contextlib
import json
import os
import socket
import sys
from itertools import count
from pathlib import Path

FOLDER = "TROVE_STEPS_PROGRESS"
TOLD_SECONDS = 0.5  # between two states that are told
_numbers = count()


def progress_bar(total: int, what: str, unit: str, shown: bool):
    """Return a tqdm bar: told to the view that watches, else on the screen if there is one, else a line
    in the log every 10 seconds."""
    from tqdm import tqdm

    screen = sys.stdout.isatty()
    options = {
        "total": total,
        "desc": what,
        "unit": f" {unit}",
        "disable": not shown,
        "unit_scale": True,
        "leave": False,
        "dynamic_ncols": screen,
        "mininterval": 0.3 if screen else 10,
        "file": sys.stdout if screen else sys.stderr,
    }
    if not os.environ.get(FOLDER):
        return tqdm(**options)

    class Told(tqdm):
        """A bar whose state is told instead of drawn."""

        def display(self, *_, **__) -> None:
            state = self.format_dict
            tell(
                what=what,
                unit=unit,
                done=state["n"],
                total=state["total"],
                rate=state["rate"] or state["n"] / max(state["elapsed"], 1e-9),
                note=state["postfix"] or "",
            )

        def close(self) -> None:
            if not self.disable:
                self.display()  # the view may have seen the last step long ago, or never
            self.disable = True

    return Told(**options | {"mininterval": TOLD_SECONDS})


class SharedBar:
    """A bar of what all ranks of a step have finished together; rank 0 shows it."""

    def __init__(self, comm, total: int, what: str, unit: str):
        self._comm, self._counter, self._total = comm, f"finished {unit}", int(total)
        self._bar = progress_bar(self._total, what, unit, comm.rank == 0)

    def add(self, amount: int) -> None:
        """Count what this rank has finished."""
        self.reach(self._comm.claim(self._counter, amount) + amount)

    def reach(self, done: int) -> None:
        """Show what all have finished."""
        self._bar.update(max(0, done - self._bar.n))

    def close(self) -> None:
        """Show that all is done, and remove the bar."""
        self.reach(self._total)
        self._bar.close()


def report(line: str) -> None:
    """Say in one line what a step did, on the screen and in the log."""
    print(line, file=sys.stderr)
    if not tell(line=line):
        print(line, flush=True)


def tell(**state) -> bool:
    """Write the state of this process for the view that watches; return whether one does."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return False
    with contextlib.suppress(OSError):
        Path(folder).mkdir(parents=True, exist_ok=True)
        # A line is final: each has a file of its own, so that the next one does not replace it.
        number = f"-{next(_numbers):06}" if "line" in state else ""
        path = Path(folder) / f"{socket.gethostname()}-{os.getpid()}{number}.json"
        temporary = path.with_suffix(".tmp")
        content = json.dumps({**state, "arguments": sys.argv}, default=float)  # numpy numbers too
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, path)
        return True
    return False
