"""`trove-steps doctor`: look at a part of an experiment before it is run."""

from trove_steps.commands import doctor_data, doctor_model

SUBCOMMANDS = (doctor_data, doctor_model)


def add(commands) -> None:
    parser = commands.add_parser("doctor", help="look at data or a model before they are used")
    subcommands = parser.add_subparsers(required=True, metavar="WHAT")
    for subcommand in SUBCOMMANDS:
        subcommand.add(subcommands)
