"""The judgments of a data set, as the steps and the tools for people read them."""

import argparse
from pathlib import Path

from trove_steps.arguments import shown_path
from trove_steps.data import read_qrels
from trove_steps.data.collections import Files
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


def collections_of(arguments: argparse.Namespace) -> list[dict] | None:
    """Return what --collections names, None without it."""
    return read_json(arguments.collections) if arguments.collections else None


def read_judgments(arguments: argparse.Namespace):
    """Return the judgments that a step was given, as `read_qrels` does.

    arguments: qrel_path, qrel_sha256, collections, search and encoding_cache_dir.
    """
    shown = [shown_path(path) for path in arguments.qrel_path]
    files = Files(arguments.qrel_path, shown, arguments.qrel_sha256)
    search = read_json(arguments.search)["recipe"]
    return judgments(files, collections_of(arguments), search, arguments.encoding_cache_dir)


def judgments(files: Files, collections: list[dict] | None, search: dict, cache_dir: Path):
    """Return the judgments of files, filtered and merged, as `read_qrels` does.

    collections: as `merge_collections` takes them; None: all there is. search: the recipe of a search of
    the data set; for several collections it leads to the ids.
    """
    if not collections:
        return read_qrels(files.paths, shown_as=files.shown_as, digests=files.digests)
    from trove_steps.data.collections import merge_collections
    from trove_steps.data.namespaces import Namespaces
    from trove_steps.embeddings.paths import manifest_path
    from trove_steps.embeddings.vectors import Vectors

    spaces = {}
    for side in ("queries", "corpus"):
        vectors = Vectors(
            manifest_path(cache_dir, search[side]["encoder"], side, search[side]["texts"])
        )
        if "files" in vectors.manifest:
            spaces[side] = Namespaces(vectors.ids, vectors.manifest["files"])
    return merge_collections(collections, files, spaces.get("queries"), spaces.get("corpus")).table
