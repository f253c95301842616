"""The subcommands of `trove-steps` on one command line."""

import argparse
import os
import signal
import sys

from trove_steps import __version__
from trove_steps.commands import (
    ask,
    cache,
    certify,
    doctor,
    export,
    export_run,
    plan,
    reproduce,
    show,
    why,
)
from trove_steps.errors import TroveStepsError

COMMANDS = (ask, cache, certify, doctor, export, export_run, plan, reproduce, show, why)


def run(arguments: list[str] | None) -> int:
    """Run a subcommand; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        status = options.run(options)
        sys.stdout.flush()
        return status
    except TroveStepsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read has seen enough (`| head`). What is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


class Parser(argparse.ArgumentParser):
    """Refuses what it does not know itself, so that the usage shown is that of the subcommand."""

    given = ()

    def parse_known_args(self, args=None, namespace=None):
        self.given = sys.argv[1:] if args is None else args
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown

    def error(self, message):
        if "are required" in message and any(a.startswith("--configfile") for a in self.given):
            message += " (--configfile takes all names behind it: write other arguments before it)"
        super().error(message)


def _parser() -> Parser:
    parser = Parser(prog="trove-steps", description="Looks at what the workflow made.")
    parser.add_argument("--version", action="version", version=f"trove-steps {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser
