"""Step: fetch a model, with what it is an adapter to, or a data set from the network, and record what it is.

The only step that reaches a network: models go into the Hugging Face Hub's cache, data sets there or into the
encoding cache. On a cluster this runs on the login node, and HF_HOME must be on a file system that the nodes
share.
"""

import argparse
import os
from pathlib import Path

from trove_steps.arguments import run_step
from trove_steps.files import write_json
from trove_steps.models.location import fetching


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trove_steps.fetch", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model-name-or-path", metavar="NAME", help="a model on the Hub")
    what.add_argument(
        "--hub-data", metavar="NAME", help="hf://datasets/… or ORG/NAME[:CONFIG[:SPLIT]]"
    )
    what.add_argument("--ir-datasets", metavar="NAME", help="a data set of the package ir_datasets")
    parser.add_argument("--revision", default="main", help="branch, tag or commit on the Hub")
    parser.add_argument("--where", default="models", help="what names it, for messages")
    parser.add_argument(
        "--option", default="model_name_or_path", help="and the model's option, for messages"
    )
    parser.add_argument(
        "--encoding-cache-dir", type=Path, default=Path("cache"), help="where data sets are written"
    )
    parser.add_argument("--record", type=Path, required=True, metavar="FILE", help="written last")
    arguments = parser.parse_args()
    fetched = _model if arguments.model_name_or_path else _data
    write_json(arguments.record, fetched(arguments))


def _model(arguments: argparse.Namespace) -> dict:
    from trove_steps.models.files import model_files
    from trove_steps.models.location import locate_model

    name, revision = arguments.model_name_or_path, arguments.revision
    with fetching():
        folder = locate_model(name, revision, arguments.where, arguments.option)
        model_files(folder)
    return {"snapshot": os.path.basename(os.path.realpath(folder))}


def _data(arguments: argparse.Namespace) -> dict:
    from trove_steps.data.remote import RemoteData, fetch_data

    kind = "hub" if arguments.hub_data else "ir_datasets"
    address = arguments.hub_data or arguments.ir_datasets
    data = RemoteData(kind, address, arguments.revision, arguments.where)
    return fetch_data(data, arguments.encoding_cache_dir.absolute())


if __name__ == "__main__":
    run_step(main)
