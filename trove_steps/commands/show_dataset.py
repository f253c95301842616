"""`trove-steps show dataset`: files, digests, filters and counts, as the last run found them."""

import argparse
import json
from pathlib import Path

from trove_steps.commands.doctor_data import add_options, page, resolved


def add(commands) -> None:
    parser = commands.add_parser("dataset", help="files, digests, filters and counts of a data set")
    add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print data.json of the results if it is of these files, else read the data set."""
    from trove_steps.check_data import FILE
    from trove_steps.data.checks import check_data
    from trove_steps.files import read_json
    from trove_steps.inputs import check_record
    from trove_steps.keys import VERSION
    from trove_steps.results import is_complete

    config, data, links = resolved(options)
    results = Path(config["output_dir"])
    if is_complete(check_record(results, data, VERSION["data"])):
        found = read_json(results / data.name / FILE)
    else:
        found = check_data(data.checked, links)
    print(json.dumps(found, indent=2, ensure_ascii=False) if options.json else page(found))
    return 0
