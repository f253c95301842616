"""`trove-steps reproduce`: published figures beside ours."""

import argparse
import sys
from pathlib import Path


def add(commands) -> None:
    parser = commands.add_parser("reproduce", help="compare our metrics with published figures")
    parser.add_argument(
        "--configfile",
        type=Path,
        default=Path("config/config.yaml"),
        help="the configuration that was run (config/config.yaml)",
    )
    parser.add_argument(
        "--tolerance", type=float, default=0.0005, help="largest difference that is green (0.0005)"
    )
    parser.add_argument(
        "--as",
        dest="names",
        action="append",
        default=[],
        metavar="NAME=PUBLISHED",
        help="a model or data set of the configuration that is published under another name, for "
        "example mine=sentence-transformers/all-MiniLM-L6-v2 or train=scifact-train",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the table; return 1 if any figure differs by more than the tolerance, else 0."""
    import yaml

    from trove_steps.config import load_config
    from trove_steps.errors import TroveStepsError
    from trove_steps.reproduce import format_outcomes, reproduce

    try:
        raw = yaml.safe_load(options.configfile.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise TroveStepsError(f"{options.configfile} can't be read: {error}") from None
    outcomes = reproduce(load_config(raw), options.tolerance, options.names)
    print(format_outcomes(outcomes, colour=sys.stdout.isatty()))
    return 1 if any(outcome.agrees is False for outcome in outcomes) else 0
