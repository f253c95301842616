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


def end_with_parent(parent: int, end) -> None:
    """Call `end()` from a thread as soon as this process' parent is no longer `parent`."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        end()

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def end_with_launcher() -> None:
    """In a worker: end at once when the launcher that started it is gone."""
    if LAUNCHER in os.environ:
        end_with_parent(int(os.environ[LAUNCHER]), lambda: os._exit(128 + signal.SIGTERM))


def main(arguments: list[str] | None = None) -> int:
    """Run torchrun in this process; return the exit status."""
    end_with_parent(os.getppid(), lambda: os.kill(os.getpid(), signal.SIGTERM))
    os.environ[LAUNCHER] = str(os.getpid())
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # What went wrong stands in the worker's own words; the agent's log adds only noise.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not any(argument.startswith(("--nnodes", "--standalone")) for argument in arguments):
        arguments.insert(0, "--standalone")
    try:
        run.main(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        print(f"rank {rank} ended with status {failure.exitcode}", file=sys.stderr)
        return 1
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


if __name__ == "__main__":
    sys.exit(main())
