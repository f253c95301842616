"""`trove-steps show`: what a data set was made of."""

from trove_steps.commands import show_dataset

SUBCOMMANDS = (show_dataset,)


def add(commands) -> None:
    parser = commands.add_parser("show", help="show what a data set consists of")
    subcommands = parser.add_subparsers(required=True, metavar="WHAT")
    for subcommand in SUBCOMMANDS:
        subcommand.add(subcommands)
