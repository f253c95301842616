"""The command `trove-steps`: looks at what the workflow made."""

import argparse
import sys
from pathlib import Path

from trove_steps import __version__
from trove_steps.errors import TroveStepsError


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; return the exit status."""
    parser = argparse.ArgumentParser(prog="trove-steps", description=__doc__)
    parser.add_argument("--version", action="version", version=f"trove-steps {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_certify(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except TroveStepsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _add_certify(commands) -> None:
    parser = commands.add_parser("certify", help="check a search against brute force in float64")
    parser.add_argument("search", type=Path, help="its manifest, cache/searches/…/top….json")
    parser.add_argument("--queries", type=int, default=50, help="how many, chosen at random (50)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--encoding-cache-dir",
        type=Path,
        help="where the vectors are (default: the cache that the manifest lies in)",
    )
    parser.set_defaults(run=_certify)


def _certify(options: argparse.Namespace) -> int:
    from trove_steps.certify import certify

    cache = options.encoding_cache_dir or options.search.parent.parent.parent
    certificate = certify(options.search, cache, options.queries, options.seed)
    print(
        f"{certificate.queries} queries: largest score difference "
        f"{certificate.largest_difference:.3g}, smallest gap between neighbours "
        f"{certificate.smallest_gap:.3g}"
    )
    for failure in certificate.failures:
        print(f"not certified: {failure}")
    print("certified" if not certificate.failures else "NOT certified")
    return 1 if certificate.failures else 0


if __name__ == "__main__":
    sys.exit(main())
