"""`trove-steps export-run`: a search as a TREC run file."""

import argparse
from pathlib import Path

from trove_steps.commands.planning import add_plan_options, load_plan


def add(commands) -> None:
    parser = commands.add_parser("export-run", help="write a search as a TREC run file")
    parser.add_argument("search", help="DATASET/MODEL, or its manifest, cache/searches/…/top….json")
    parser.add_argument("output", type=Path, help="the run file; compressed if it ends in .gz")
    parser.add_argument("--depth", type=int, help="documents per query (default: all found)")
    parser.add_argument("--tag", default="trove-steps", help="last column of the run (trove-steps)")
    parser.add_argument(
        "--encoding-cache-dir",
        type=Path,
        help="where the ids are (default: the cache that the manifest lies in)",
    )
    add_plan_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the file as trec_eval reads it: by query, then score, then document id, both descending."""
    from trove_steps.errors import TroveStepsError
    from trove_steps.named import find_search
    from trove_steps.ranking import write_trec
    from trove_steps.search import read_ranking

    if options.depth is not None and options.depth < 1:
        raise TroveStepsError(
            f"--depth: {options.depth} is not a number of documents; give at least 1"
        )
    output = options.output.absolute()
    search, cache = find_search(options.search, lambda: load_plan(options))
    ranking = read_ranking(search, options.encoding_cache_dir or cache)
    if options.depth:
        ranking = ranking.head(options.depth)
    write_trec(output, ranking, tag=options.tag)
    print(f"{options.output}: {len(ranking):,} queries, {len(ranking.docs):,} rows")
    return 0
