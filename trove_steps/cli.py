"""The command `trove-steps`: looks at what the workflow made. Each subcommand is a module of `commands`."""

import argparse
import sys

from trove_steps import __version__
from trove_steps.commands import certify, export_run
from trove_steps.errors import TroveStepsError

COMMANDS = (certify, export_run)


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="trove-steps", description="Looks at what the workflow made."
    )
    parser.add_argument("--version", action="version", version=f"trove-steps {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except TroveStepsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
