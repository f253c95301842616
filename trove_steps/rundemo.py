"""`make demo`: run the workflow on the demo, also after a run that was killed.

Snakemake leaves its lock behind when it is killed with SIGKILL, and refuses to start until it is
removed. A lock of our own, which the system drops with the process that holds it, tells whether another
demo is running here; if none is, the leftover is removed.
"""

import fcntl
import subprocess
import sys
from pathlib import Path

LOCK = Path(".snakemake") / "demo.lock"
LEFTOVERS = Path(".snakemake") / "locks"


def main(arguments: list[str]) -> int:
    """Run snakemake with these arguments; return its exit status."""
    LOCK.parent.mkdir(exist_ok=True)
    with open(LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("error: another `make demo` is running in this folder", file=sys.stderr)
            return 1
        if LEFTOVERS.is_dir() and any(LEFTOVERS.iterdir()):
            print("   the last run was killed: removing its lock (snakemake --unlock)")
            subprocess.run(["snakemake", "--unlock", "--quiet", "all"], check=True)
        command = ["snakemake", "--quiet", "rules", "host", "reason", "progress", "--", *arguments]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
