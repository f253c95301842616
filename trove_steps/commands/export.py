"""`trove-steps export`: encoded collections as dense files for other programs."""

import argparse
from pathlib import Path

from trove_steps.commands.planning import add_plan_options, load_plan

KINDS = ("npy", "parquet", "arrow", "safetensors", "faiss")


def add(commands) -> None:
    parser = commands.add_parser(
        "export", help="vectors as npy, parquet, arrow, safetensors or a FAISS flat index"
    )
    parser.add_argument(
        "source",
        help="the manifest of a collection, or DATASET/MODEL: what the searches of that cell compare",
    )
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--format", choices=KINDS, help="of the file (default: what its ending says)"
    )
    parser.add_argument(
        "--role", choices=["corpus", "queries"], default="corpus", help="of a cell (corpus)"
    )
    add_plan_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the file and say what was written."""
    from trove_steps import tables
    from trove_steps.embeddings.export import export
    from trove_steps.named import find_vectors

    output = options.output.absolute()
    vectors = find_vectors(options.source, options.role, lambda: load_plan(options))
    files = export(vectors, output, options.format)
    written = " and ".join(str(path) for path in files)
    size = tables.size(sum(path.stat().st_size for path in files))
    print(f"{len(vectors):,} vectors of {vectors.dim} dimensions: {written} ({size})")
    return 0
