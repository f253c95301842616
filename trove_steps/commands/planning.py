"""What all subcommands that look at a configuration share: which one, and from which folder."""

import argparse
import contextlib
import os
import sys
from pathlib import Path

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
    for path in given[1:]:
        if not path.exists():
            raise TroveStepsError(
                f"--configfile takes all names behind it, and {path} is no file: write other arguments "
                "before it"
            )
    files = [path.absolute() for path in given]
    if options.directory:
        try:
            os.chdir(options.directory)
        except OSError as error:
            raise TroveStepsError(f"--directory {options.directory}: {error.strerror}") from None
    return read_configurations(files)


def read_configurations(paths: list[Path]) -> dict:
    """Return what YAML files hold, a later one over an earlier; of none, config/config.yaml."""
    found: dict = {}
    for path in paths or [Path("config/config.yaml")]:
        found = _merged(found, read_configuration(path))
    return found


def read_configuration(path: Path) -> dict:
    """Return what a YAML file holds; TroveStepsError if it can't be read or is no mapping."""
    import yaml

    from trove_steps.config.yaml_keys import check_unique_keys

    check_unique_keys([path])
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TroveStepsError(
            f"the configuration {path} can't be read ({error.strerror}): name it with --configfile"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TroveStepsError(f"the configuration {path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise TroveStepsError(f"the configuration {path} holds no sections")
    return content


def _merged(first, second):
    """Return `second` over `first`, section by section, as snakemake merges configurations."""
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return second
    return {**first, **{name: _merged(first.get(name), item) for name, item in second.items()}}
