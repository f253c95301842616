"""What all subcommands that look at a configuration share: which one, and from which folder."""

import argparse
import contextlib
import os
import sys
from pathlib import Path

from trove_steps.config.reading import check_names, read_configurations
from trove_steps.errors import TroveStepsError


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """Add --configfile and --directory, as snakemake has them."""
    parser.add_argument(
        "--configfile",
        "--configfiles",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="the configuration (default: config/config.yaml); of several, a later one overrides",
    )
    parser.add_argument(
        "--directory",
        "-d",
        type=Path,
        metavar="DIR",
        help="the working directory of the workflow; paths of the configuration are relative to it",
    )


def positive(text: str) -> int:
    """Return the number that an option gives, for argparse: 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def own_code_aside() -> contextlib.AbstractContextManager:
    """Have what own code prints go to stderr: stdout is for what a command was asked for."""
    return contextlib.redirect_stdout(sys.stderr)


def load_plan(options: argparse.Namespace):
    """Return the plan of the configuration that the options name, and work in its directory."""
    from trove_steps.plan import Plan

    return Plan(configuration(options))


def configuration(options: argparse.Namespace) -> dict:
    """Return the configuration that the options name, unchecked, and work in its directory.

    As with snakemake, the configuration's own path is relative to where the command was started.
    """
    given = options.configfile or []
    check_names(given)
    files = [path.absolute() for path in given]
    if options.directory:
        try:
            os.chdir(options.directory)
        except OSError as error:
            raise TroveStepsError(f"--directory {options.directory}: {error.strerror}") from None
    return read_configurations(files)
