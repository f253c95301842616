"""torchrun that ends with the process that started it, and without a traceback of its own.

    python -m trove_steps.torchrun --nproc-per-node 2 -m trove_steps.search ...

takes torchrun's arguments. Plain torchrun leaves its workers running when it, or the snakemake above
it, is killed with SIGKILL; this one watches its parent, and every worker watches it. A step of one process
is started without torchrun. Three options are its own:

    --nproc-per-node auto   one process per GPU, or one where there is none; 0 is the same
    --nodes N               run on N nodes of the SLURM allocation around this process
    --threads N             CPU threads of this step on a node, for all its processes together
"""

import argparse
import atexit
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import NoReturn

from trove_steps.errors import TroveStepsError
from trove_steps.jobs import slurm
from trove_steps.jobs.devices import VISIBLE, lease_gpus, processes

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
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # see _end_on_ctrl_c
        end_with_parent(int(os.environ[LAUNCHER]), lambda: os._exit(128 + signal.SIGTERM))


def leave(status: int) -> NoReturn:
    """End this process without taking apart what torch and transformers loaded: up to a second.

    What was registered for the end is done, and what was said is out; open files are not closed.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main(arguments: list[str] | None = None) -> int:
    """Run torchrun in this process; return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options, rest = _split(given)
    # Models are folders here; whatever a library looks for on the Hub, it must not wait for a network.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        if options.nodes > 1 and not slurm.is_spread():
            spread = slurm.spread(options.nodes, options.threads)
            if spread:
                command, environment = spread
                command += [sys.executable, "-m", "trove_steps.torchrun", *given]
                _become(command, environment)
        processes_here = _assign_devices(options.nproc_per_node)
        flags = [f"--nproc-per-node={processes_here}"]
        if slurm.is_spread():
            flags += slurm.meet(processes_here)
        elif not any(argument.startswith(("--nnodes", "--standalone")) for argument in rest):
            flags.append("--standalone")
    except TroveStepsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.threads:
        os.environ["TROVE_STEPS_THREADS"] = str(options.threads)
    interrupted = _end_on_ctrl_c()
    end_with_parent(os.getppid(), lambda: os.kill(os.getpid(), signal.SIGTERM))
    os.environ[LAUNCHER] = str(os.getpid())
    if processes_here == 1 and rest[:1] == ["-m"] and not slurm.is_spread():
        return _run_alone(rest, interrupted)
    return _run_ranks([*flags, *rest], interrupted)


def _end_on_ctrl_c() -> list[int]:
    """Have SIGINT end this process as SIGTERM does; return a list that will hold it.

    A terminal sends it to all processes, torch's agent to all ranks, and one that is loading libraries would
    print a traceback. So it is blocked in this process, whose children inherit that, but for one thread.
    """
    received: list[int] = []
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def wait() -> None:
        received.append(signal.sigwait({signal.SIGINT}))
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="ctrl-c", daemon=True).start()
    return received


def _split(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Take our own options out of torchrun's arguments; what follows `-m` is the step's."""
    parser = argparse.ArgumentParser(
        prog="python -m trove_steps.torchrun",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--nproc-per-node", "--nproc_per_node", default="1")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--threads", type=int)
    program = arguments.index("-m") if "-m" in arguments else len(arguments)
    options, rest = parser.parse_known_args(arguments[:program])
    return options, rest + arguments[program:]


def _become(command: list[str], environment: dict[str, str]) -> NoReturn:
    """Go on as another program. Raises TroveStepsError if it can't be started."""
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        raise TroveStepsError(
            f"{command[0]} can't be started on {socket.gethostname()} ({error.strerror}); --nodes needs it"
        ) from None


def _assign_devices(wanted: str) -> int | str:
    """Return the number of processes; take their GPUs, of this machine or of the allocation around it."""
    if not (wanted == "auto" or wanted.isdigit()):
        return wanted  # torchrun knows more words
    number = processes("auto" if wanted == "0" else wanted)
    devices = lease_gpus(number)
    if devices:
        os.environ[VISIBLE] = ",".join(devices)
    return number


def _run_alone(program: list[str], interrupted: list[int]) -> int:
    """Run a step of one process, as torchrun would, without the seconds that it takes to load torch."""
    received: list[int] = []
    children: list[subprocess.Popen] = []

    def end(number: int, _frame) -> None:
        received.append(number)
        for child in children:
            child.terminate()

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    children.append(subprocess.Popen([sys.executable, *program]))
    if received:  # while it was started
        children[0].terminate()
    status = children[0].wait()
    if received:
        return _ended_by((interrupted or received)[0])
    if status:
        print(f"rank 0 {how_it_ended(status)}", file=sys.stderr)
    return 1 if status else 0


def _run_ranks(arguments: list[str], interrupted: list[int]) -> int:
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # What went wrong stands in the worker's own words; the agent's log adds only noise.
    logging.disable(logging.ERROR)
    try:
        run.main(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        where = f" on {socket.gethostname()}" if slurm.is_spread() else ""
        print(f"rank {rank}{where} {how_it_ended(failure.exitcode)}", file=sys.stderr)
        return 1
    except SignalException as error:
        return _ended_by((interrupted or [error.sigval])[0])
    return 0


def _ended_by(number: int) -> int:
    print(f"ended by {signal.Signals(number).name}; {START_AGAIN}", file=sys.stderr)
    return 128 + int(number)


def how_it_ended(status: int) -> str:
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
    leave(main())
