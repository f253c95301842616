"""`trove-steps export`: encoded collections as dense files for other programs."""

import argparse
from pathlib import Path

from trove_steps.commands.planning import add_plan_options, load_plan
from trove_steps.errors import TroveStepsError

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

    output = options.output.absolute()
    vectors = _vectors(options)
    files = export(vectors, output, options.format)
    written = " and ".join(str(path) for path in files)
    size = tables.size(sum(path.stat().st_size for path in files))
    print(f"{len(vectors):,} vectors of {vectors.dim} dimensions: {written} ({size})")
    return 0


def _vectors(options: argparse.Namespace):
    """Return the vectors of a manifest as stored, or of a cell as they are searched."""
    from trove_steps.embeddings.vectors import Vectors
    from trove_steps.search import as_searched

    path = Path(options.source)
    if path.suffix == ".json":
        return Vectors(path)
    if path.is_file():
        raise TroveStepsError(
            f"{path} is not the manifest of a collection (cache/embeddings/…/corpus-….json), and no "
            "DATASET/MODEL of a configuration"
        )
    plan = load_plan(options)
    name = tuple(options.source.split("/"))
    if name not in plan.cells:
        known = ", ".join("/".join(pair) for pair in plan.cells)
        raise TroveStepsError(f"{options.source}: neither a manifest nor a cell; cells: {known}")
    cell = plan.cells[name]
    encoding = cell.corpus if options.role == "corpus" else cell.queries
    return as_searched(Vectors(plan.encoding_manifest(encoding)), cell.search_recipe)
