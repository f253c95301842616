"""Which step of a failed job is to blame, and what it said last.

Snakemake reports an error of every step of a grouped job, also of those that were done or never began.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

LAST_LINES = 10
# What an encode job says at its beginning of every setting that nobody has set.
NO_NEWS = re.compile(r"\w+: .* \(default\)")


def unfinished(jobs: Iterable, since: float) -> str:
    """Return a text that names the steps of snakemake's jobs which began but did not finish, with the
    ends of their logs; empty if there are none.

    `since` is when the run began (seconds since the epoch): an older log is of another run.
    """
    return "\n".join(_described(name, log) for job in jobs for name, log in _begun(job, since))


def _begun(job, since: float) -> Iterator[tuple[str, Path]]:
    steps = job.jobs if job.is_group() else [job]
    for step in sorted(steps, key=lambda step: step.rule.name):
        if all(Path(output).exists() for output in step.output):
            continue
        for log in map(Path, step.log):
            if log.exists() and log.stat().st_mtime >= since:
                yield step.rule.name, log


def _described(name: str, log: Path) -> str:
    return f"{name} did not finish; {end_of_log(log)}"


def end_of_log(log: Path) -> str:
    """Return the last lines of a step's log, and which it is."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    news = [line for line in lines if not NO_NEWS.fullmatch(line)][-LAST_LINES:]
    ended = "".join(f"\n    {line}" for line in news) or " nothing"
    return f"the end of {log}:{ended}"
