"""`trove-steps show`: one thing, described."""

from trove_steps.commands import show_dataset, show_query

SUBCOMMANDS = (show_dataset, show_query)


def add(commands) -> None:
    parser = commands.add_parser("show", help="describe a data set or a query")
    subcommands = parser.add_subparsers(required=True, metavar="WHAT")
    for subcommand in SUBCOMMANDS:
        subcommand.add(subcommands)
