"""torchrun that ends with the process that started it, and without a traceback of its own.

    python -m trove_steps.torchrun --nproc-per-node 2 -m trove_steps.search ...

takes torchrun's arguments. Plain torchrun leaves its workers running when it, or the snakemake above
it, is killed with SIGKILL; this one watches its parent, and every worker watches it.
"""

import logging
import os
import signal
import sys
import threading
import time

LAUNCHER = "TROVE_STEPS_LAUNCHER"
POLL_SECONDS = 0.3
START_AGAIN = "what was finished is kept: start again to go on"


def end_with_parent(parent: int, end) -> None:
    """Call `end()` from a thread as soon as this process' parent is no longer `parent`."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        end()

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def end_with_launcher() -> None:
    """In a worker: end at once, and silently, on Ctrl-C and when the launcher is gone."""
    if LAUNCHER in os.environ:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # else every rank prints a traceback
        end_with_parent(int(os.environ[LAUNCHER]), lambda: os._exit(128 + signal.SIGTERM))


def main(arguments: list[str] | None = None) -> int:
    """Run torchrun in this process; return the exit status."""
    end_with_parent(os.getppid(), lambda: os.kill(os.getpid(), signal.SIGTERM))
    os.environ[LAUNCHER] = str(os.getpid())
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # What went wrong stands in the worker's own words; the agent's log adds only noise.
    logging.disable(logging.ERROR)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not any(argument.startswith(("--nnodes", "--standalone")) for argument in arguments):
        arguments.insert(0, "--standalone")
    try:
        run.main(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        print(f"rank {rank} {_how_it_ended(failure.exitcode)}", file=sys.stderr)
        return 1
    except SignalException as error:
        print(f"ended by {signal.Signals(error.sigval).name}; {START_AGAIN}", file=sys.stderr)
        return 128 + int(error.sigval)
    return 0


def _how_it_ended(status: int) -> str:
    """Say what an exit status means; a negative one is a signal's number."""
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name
    causes = {
        "SIGKILL": " (did the memory run out?)",
        # What reading a mapped file behind its end does; nothing in the process can prevent it.
        "SIGBUS": " (was an input or a file of the cache cut off while it was read, or is the disk full?)",
    }
    cause = causes.get(name, "")
    return f"was ended by {name}{cause}; {START_AGAIN}"


if __name__ == "__main__":
    sys.exit(main())
