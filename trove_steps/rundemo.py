"""`make demo`: run the workflow on the demo, also after a run that was killed.

Snakemake leaves its lock behind when it is killed with SIGKILL, and refuses to start until it is
removed. A lock of our own, which the system drops with the process that holds it, tells whether
another demo is running here; if none is, the leftover is removed. Snakemake then takes the place of this
process, and its lock: Ctrl-C and other signals reach snakemake as they would without us.
"""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import yaml

LOCK = Path(".snakemake") / "demo.lock"
LEFTOVERS = Path(".snakemake") / "locks"


def main() -> int:
    """Run the demo in the working directory; return the exit status unless snakemake takes over."""
    LOCK.parent.mkdir(exist_ok=True)
    with open(LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("error: another `make demo` is running in this folder", file=sys.stderr)
            return 1
        if LEFTOVERS.is_dir() and any(LEFTOVERS.iterdir()):
            print("the last run was killed: removing its lock (snakemake --unlock)", flush=True)
            subprocess.run(["snakemake", "--unlock", "--quiet", "all"], check=True)
        if _is_done():
            print("nothing to do: all results are there already", flush=True)
            _show_results()
            return 0
        os.set_inheritable(lock.fileno(), True)
        os.execvp("snakemake", ["snakemake"])


def _is_done() -> bool:
    plan = subprocess.run(["snakemake", "--dry-run"], capture_output=True, text=True, check=False)
    return plan.returncode == 0 and "Nothing to be done" in plan.stdout + plan.stderr


def _show_results() -> None:
    from trove_steps.plan import Plan
    from trove_steps.summarise import closing_words

    print(closing_words(Plan(yaml.safe_load(Path("config/config.yaml").read_text()))))


if __name__ == "__main__":
    sys.exit(main())
