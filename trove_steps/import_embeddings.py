"""Step: bring vectors that were computed elsewhere into the cache, checked for number, width, ids and NaN."""

import argparse
import time
from pathlib import Path

from trove_steps.arguments import run_step
from trove_steps.embeddings.imported import Files, import_vectors
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json
from trove_steps.fingerprint import Fingerprints
from trove_steps.progress import report


def run(arguments) -> None:
    """Import, and compare the manifest's name with the one that was planned."""
    started = time.perf_counter()
    digest = Fingerprints(arguments.encoding_cache_dir).file
    files = Files(
        arguments.embeddings,
        arguments.texts,
        arguments.sha256 or list(map(digest, arguments.embeddings)),
        arguments.texts_sha256 or list(map(digest, arguments.texts)),
        read_json(arguments.readers) if arguments.readers else None,
    )
    manifest = import_vectors(arguments.encoding_cache_dir, arguments.role, files)
    if arguments.manifest and manifest != arguments.manifest:
        raise TroveStepsError(f"these files belong to {manifest}, not to {arguments.manifest}")
    content = read_json(manifest)
    report(
        f"import {arguments.role}: {content['rows']:,} vectors of {content['dim']} dimensions · "
        f"{time.perf_counter() - started:.1f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m trove_steps.import_embeddings", description=__doc__
    )
    parser.add_argument("--role", choices=["corpus", "queries"], required=True)
    parser.add_argument(
        "--embeddings", nargs="+", type=Path, required=True, metavar="FILE", help="vectors and ids"
    )
    parser.add_argument(
        "--texts",
        nargs="*",
        type=Path,
        default=[],
        metavar="FILE",
        help="the collection, for its ids",
    )
    for option, what in (("--sha256", "--embeddings"), ("--texts-sha256", "--texts")):
        parser.add_argument(
            option,
            nargs="*",
            metavar="DIGEST",
            help=f"the SHA-256 that the files of {what} must have",
        )
    parser.add_argument(
        "--readers",
        type=Path,
        metavar="FILE",
        help="JSON: per file of --texts how it is read, as for encode_corpus",
    )
    parser.add_argument("--encoding-cache-dir", type=Path, default=Path("cache"))
    parser.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="refuse unless this is the manifest of these files",
    )
    run(parser.parse_args())


if __name__ == "__main__":
    run_step(main)
