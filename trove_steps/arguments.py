"""Command lines of the steps: options are those of the configuration, with the same descriptions."""

import argparse
import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from trove_steps.config.schema import VARIANTS, load_schema
from trove_steps.errors import TroveStepsError
from trove_steps.files import repairing
from trove_steps.torchrun import end_with_launcher, leave

OTHER_ROLE = {"corpus": "query_", "queries": "passage_"}
# After as many, Python looks for garbage in cycles. With its own 700, loading transformers takes 10% longer.
NEW_OBJECTS = 10_000


def model_options(role: str) -> dict[str, dict]:
    """Return the model options of the schema that concern a role, "corpus" or "queries"."""
    options = load_schema()["$defs"]["model"]["properties"]
    # A step has one model, for its own role; variants are the search's.
    other = (OTHER_ROLE[role], "query_model_")
    return {
        name: option
        for name, option in options.items()
        if not name.startswith(other) and name not in VARIANTS
    }


def model_flags(given: dict, role: str) -> list[str]:
    """Spell the model options that a configuration sets as command line flags of an encode step."""
    flags = []
    for name in model_options(role):
        if name in given and name not in ("model_name_or_path", "model_revision"):
            value = given[name]
            shown = str(value).lower() if isinstance(value, bool) else str(value)
            flags.append(f"{_flag(name)}={shown}")
    return flags


def add_model_arguments(parser: argparse.ArgumentParser, role: str) -> None:
    """Add the model options of a role to a parser; an option that is not given is None."""
    group = parser.add_argument_group("model")
    for name, option in model_options(role).items():
        if name == "model_revision":
            continue
        extra = {"required": True} if name == "model_name_or_path" else {}
        group.add_argument(
            _flag(name),
            type=_parser_of(option),
            choices=option.get("enum"),
            metavar=None if "enum" in option else name.rsplit("_", 1)[-1].upper(),
            help=option.get("description", "").replace("%", "%%"),
            **extra,
        )


def given_model_options(arguments: argparse.Namespace, role: str) -> dict:
    """Return the model options that a command line sets, as the configuration would hold them."""
    values = {name: getattr(arguments, name, None) for name in model_options(role)}
    return {name: value for name, value in values.items() if value is not None}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _parser_of(option: dict) -> Callable:
    if option.get("type") == "boolean" or {"type": "boolean"} in option.get("anyOf", []):
        return _boolean
    if option.get("type") == "integer" or option.get("$ref") == "#/$defs/length":
        return int
    return str


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "yes", "1"):
        return True
    if text.lower() in ("false", "no", "0"):
        return False
    raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")


def batch_size(text: str) -> int:
    """Parse the size of a batch; 0 leaves it to the step."""
    if text.isascii() and text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(
        f"'{text}' is not a batch size: give a whole number, 0 or more"
    )


def step_parser(module: str, description: str) -> argparse.ArgumentParser:
    """Return a parser for a step that is run by torchrun."""
    return argparse.ArgumentParser(
        prog=f"torchrun --standalone --nproc-per-node N -m trove_steps.{module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run_step(main: Callable[[], None]) -> None:
    """Run a step's main function and end the process: with the launcher, on a mistake with one message."""
    end_with_launcher()
    gc.set_threshold(NEW_OBJECTS)
    try:
        with repairing():
            main()
    except TroveStepsError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        # The other ranks may wait for this one: leave without a farewell, torchrun ends them.
        os._exit(1)
    except KeyboardInterrupt:  # a step without a launcher; temporary files are gone by now
        sys.exit(128 + signal.SIGINT)
    leave(0)


def shown_path(path: Path | str) -> str:
    """Return the path that a person knows: links of the cache are followed."""
    real = os.path.realpath(path)
    relative = os.path.relpath(real)
    return relative if not relative.startswith("..") else real
