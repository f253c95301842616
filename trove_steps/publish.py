"""Step: write an encoded collection as one dense file, where corpus_cache or query_cache asks for it."""

import argparse
from pathlib import Path

from trove_steps.arguments import run_step
from trove_steps.embeddings.export import export
from trove_steps.embeddings.vectors import Vectors
from trove_steps.files import read_json
from trove_steps.progress import report
from trove_steps.results import drop_records, write_record


def run(arguments) -> None:
    """Write the file and, last, the record of what it was made from."""
    vectors = Vectors(arguments.embeddings)
    drop_records(arguments.record)
    files = export(vectors, arguments.output.absolute())
    content = read_json(arguments.embeddings)
    identity = {name: content[name] for name in ("encoder", "role", "texts")}
    write_record(arguments.record, [path.absolute() for path in files], **identity)
    report(f"publish {arguments.output}: {len(vectors):,} vectors of {vectors.dim} dimensions")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trove_steps.publish", description=__doc__)
    parser.add_argument(
        "--embeddings", type=Path, required=True, metavar="FILE", help="manifest of the collection"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="its ending says the format"
    )
    parser.add_argument("--record", type=Path, required=True, metavar="FILE", help="written last")
    run(parser.parse_args())


if __name__ == "__main__":
    run_step(main)
