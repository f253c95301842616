"""The command `trove-steps`: looks at what the workflow made. Each subcommand is a module of `commands`."""

import signal
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; return the exit status."""
    try:
        from trove_steps.commands.run import run  # imports all the rest: Ctrl-C may come early

        return run(arguments)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
