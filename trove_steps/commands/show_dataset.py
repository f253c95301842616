"""`trove-steps show dataset`: files, digests, filters and counts, as the last run found them."""

import argparse
import json
from pathlib import Path

from trove_steps.commands.doctor_data import add_options, page, resolved
from trove_steps.commands.planning import own_code_aside


def add(commands) -> None:
    parser = commands.add_parser("dataset", help="files, digests, filters and counts of a data set")
    add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the data set's check; return 0."""
    with own_code_aside():
        found = _found(options)
    print(json.dumps(found, indent=2, ensure_ascii=False) if options.json else page(found))
    return 0


def _found(options: argparse.Namespace) -> dict:
    """Return data.json of the results if it is of these files, else read the data set."""
    from trove_steps.check_data import FILE
    from trove_steps.data.checks import check_data
    from trove_steps.files import read_json
    from trove_steps.inputs import check_record
    from trove_steps.keys import VERSION
    from trove_steps.results import is_complete

    config, data, links = resolved(options)
    results = Path(config["output_dir"])
    found = None
    if is_complete(check_record(results, data, VERSION["data"])):
        found = read_json(results / data.name / FILE)
    # Files that were moved or renamed since are still those that were checked.
    named = {kind: {"files": files} for kind, files in data.provenance.items()}
    if found is None or _paths(found) != _paths(named):
        found = check_data(data.checked, links)
    return found


def _paths(found: dict) -> list[str]:
    """Return what the files of a data set are called."""
    kinds = (found[kind] for kind in ("corpus", "queries", "qrels"))
    return [file["path"] for kind in kinds if kind for file in kind["files"]]
