"""Step: fetch a model from the Hugging Face Hub into the Hub's cache, with what it is an adapter to.

The only step that reaches a network. Everything else reads the Hub's cache, so on a cluster this runs on
the login node, and HF_HOME must be on a file system that the nodes share.
"""

import argparse
import os
from pathlib import Path

from trove_steps.arguments import run_step
from trove_steps.files import write_json
from trove_steps.models import fetching


def main() -> None:
    from trove_steps.model_settings import model_files
    from trove_steps.models import locate_model

    parser = argparse.ArgumentParser(prog="python -m trove_steps.fetch", description=__doc__)
    parser.add_argument("--model-name-or-path", required=True, metavar="NAME")
    parser.add_argument("--model-revision", default="main", metavar="REVISION")
    parser.add_argument("--where", default="models", help="the section that names it, for messages")
    parser.add_argument(
        "--option", default="model_name_or_path", help="and the option, for messages"
    )
    parser.add_argument("--record", type=Path, required=True, metavar="FILE", help="written last")
    arguments = parser.parse_args()
    with fetching():
        folder = locate_model(
            arguments.model_name_or_path,
            arguments.model_revision,
            arguments.where,
            arguments.option,
        )
        model_files(folder)
    write_json(arguments.record, {"snapshot": os.path.basename(os.path.realpath(folder))})


if __name__ == "__main__":
    run_step(main)
