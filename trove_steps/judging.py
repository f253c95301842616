"""The judgments of a step: the files of its command line, by collections if there are several."""

import argparse
from pathlib import Path

from trove_steps.arguments import shown_path
from trove_steps.data import read_qrels
from trove_steps.files import read_json


def add_collections_argument(parser: argparse.ArgumentParser) -> None:
    """Add --collections, which says how the files of --qrel-path are filtered and merged."""
    parser.add_argument(
        "--collections",
        type=Path,
        metavar="FILE",
        help='JSON: a list of {"qrels": numbers of files of --qrel-path, "subset": those that name a '
        'subset of the queries, "options": filters as in the configuration}',
    )


def read_judgments(arguments: argparse.Namespace):
    """Return the judgments that a step was given, as `read_qrels` does.

    arguments: qrel_path, qrel_sha256, collections, and for several collections search and
    encoding_cache_dir, which lead to the ids.
    """
    shown = [shown_path(path) for path in arguments.qrel_path]
    if not arguments.collections:
        return read_qrels(arguments.qrel_path, shown_as=shown, digests=arguments.qrel_sha256)
    from trove_steps.data.collections import Files, merge_collections
    from trove_steps.data.namespaces import Namespaces
    from trove_steps.store import Vectors, manifest_path

    recipe = read_json(arguments.search)["recipe"]
    spaces = {}
    for side in ("queries", "corpus"):
        named = recipe[side]
        vectors = Vectors(
            manifest_path(arguments.encoding_cache_dir, named["encoder"], side, named["texts"])
        )
        if "files" in vectors.manifest:
            spaces[side] = Namespaces(vectors.ids, vectors.manifest["files"])
    files = Files(arguments.qrel_path, shown, arguments.qrel_sha256)
    collections = read_json(arguments.collections)
    return merge_collections(collections, files, spaces.get("queries"), spaces.get("corpus")).table
