"""`trove-steps certify`: check a search against brute force in float64."""

import argparse
from pathlib import Path

from trove_steps.commands.planning import add_plan_options, load_plan, positive


def add(commands) -> None:
    parser = commands.add_parser("certify", help="check a search against brute force in float64")
    parser.add_argument("search", help="DATASET/MODEL, or its manifest, cache/searches/…/top….json")
    parser.add_argument(
        "--queries", type=positive, default=50, metavar="N", help="how many, chosen at random (50)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--encoding-cache-dir",
        type=Path,
        help="where the vectors are (default: the cache that the manifest lies in)",
    )
    add_plan_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the certificate of a search; return 0 if every sampled query is certified, else 1."""
    from trove_steps.certify import certify
    from trove_steps.named import find_search

    search, cache = find_search(options.search, lambda: load_plan(options))
    cache = options.encoding_cache_dir or cache
    certificate = certify(search, cache, options.queries, options.seed)
    print(
        f"{certificate.queries} queries: largest score difference "
        f"{certificate.largest_difference:.3g}, smallest gap between neighbours "
        f"{certificate.smallest_gap:.3g}"
    )
    for failure in certificate.failures:
        print(f"not certified: {failure}")
    print("certified" if not certificate.failures else "NOT certified")
    return 1 if certificate.failures else 0
