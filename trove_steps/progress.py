"""What a step tells: a bar while it works, one line when it is done.

Standard output is the user's screen, standard error the job's log file.
"""

import sys


def progress_bar(total: int, what: str, unit: str, shown: bool):
    """Return a tqdm bar: on the screen if there is one, else a line in the log every 10 seconds."""
    from tqdm import tqdm

    screen = sys.stdout.isatty()
    return tqdm(
        total=total,
        desc=what,
        unit=f" {unit}",
        unit_scale=True,
        disable=not shown,
        leave=False,
        dynamic_ncols=screen,
        mininterval=0.3 if screen else 10,
        file=sys.stdout if screen else sys.stderr,
    )


def report(line: str) -> None:
    """Say in one line what a step did, on the screen and in the log."""
    print(line, file=sys.stderr)
    print(line, flush=True)
