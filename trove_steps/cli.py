"""The command `trove-steps`: looks at what the workflow made. Each subcommand is a module of `commands`."""

import signal
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; return the exit status."""
    try:
        return _run(arguments)  # which imports all the rest: Ctrl-C may come early
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 128 + signal.SIGINT


def _run(arguments: list[str] | None) -> int:
    import os

    from trove_steps.errors import TroveStepsError

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


def _parser():
    import argparse

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
                message += (
                    " (--configfile takes all names behind it: write other arguments before it)"
                )
            super().error(message)

    parser = Parser(prog="trove-steps", description="Looks at what the workflow made.")
    parser.add_argument("--version", action="version", version=f"trove-steps {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (ask, cache, certify, doctor, export, export_run, plan, reproduce, show, why):
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
