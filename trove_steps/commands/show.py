"""`trove-steps show`: one thing, described."""

from trove_steps.commands import show_query

SUBCOMMANDS = (show_query,)


def add(commands) -> None:
    parser = commands.add_parser("show", help="describe one thing")
    subcommands = parser.add_subparsers(required=True, metavar="WHAT")
    for subcommand in SUBCOMMANDS:
        subcommand.add(subcommands)
