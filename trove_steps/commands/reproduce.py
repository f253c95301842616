"""`trove-steps reproduce`: published figures beside ours."""

import argparse
import sys

from trove_steps.commands.planning import add_plan_options, configuration


def add(commands) -> None:
    parser = commands.add_parser("reproduce", help="compare our metrics with published figures")
    add_plan_options(parser)
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
    from trove_steps.config.loading import load_config
    from trove_steps.reproduce import format_outcomes, reproduce

    outcomes = reproduce(load_config(configuration(options)), options.tolerance, options.names)
    print(format_outcomes(outcomes, colour=sys.stdout.isatty()))
    return 1 if any(outcome.agrees is False for outcome in outcomes) else 0
