"""What a person names: a manifest by its path, or as DATASET/MODEL what a cell of a configuration has of it.

`load` returns the plan; it is called only where a cell is named.
"""

from collections.abc import Callable
from pathlib import Path

from trove_steps.embeddings.collection import check_vectors
from trove_steps.embeddings.vectors import Vectors
from trove_steps.errors import TroveStepsError
from trove_steps.plan import Plan
from trove_steps.plan.parts import Cell
from trove_steps.search import as_searched

COLLECTION = "the manifest of a collection (cache/embeddings/…/corpus-….json)"
SEARCH = "the manifest of a search (cache/searches/…/top….json)"


def find_vectors(source: str | Path, role: str, load: Callable[[], Plan]):
    """Return the vectors of a manifest as stored, or of a cell as its searches compare them.

    role: of the cell, "corpus" or "queries". Raises TroveStepsError if there are none.
    """
    if role not in ("corpus", "queries"):
        raise TroveStepsError(f"role: {role!r} is neither 'corpus' nor 'queries'")
    if Path(source).suffix == ".json":
        return Vectors(Path(source))
    plan, cell = _find_cell(source, COLLECTION, load)
    manifest = plan.encoding_manifest(cell.corpus if role == "corpus" else cell.queries)
    check_vectors(manifest)
    return as_searched(Vectors(manifest), cell.search_recipe)


def find_search(source: str | Path, load: Callable[[], Plan]) -> tuple[Path, Path]:
    """Return a search's manifest, of a cell that of its deepest search, and the cache that it lies in.

    Raises TroveStepsError if there is none.
    """
    if Path(source).suffix == ".json":
        return Path(source), Path(source).parent.parent.parent
    plan, cell = _find_cell(source, SEARCH, load)
    manifest = plan.deepest_search(cell)
    if manifest is None:
        raise TroveStepsError(f"{source}: not searched yet: run the workflow first")
    return manifest, plan.cache


def _find_cell(source: str | Path, manifest: str, load: Callable[[], Plan]) -> tuple[Plan, Cell]:
    if Path(source).is_file() or Path(source).is_absolute():
        raise TroveStepsError(
            f"{source} is not {manifest}, and no DATASET/MODEL of a configuration"
        )
    plan = load()
    cell = plan.cells.get(tuple(str(source).split("/")))
    if cell is None:
        known = ", ".join("/".join(pair) for pair in plan.cells)
        raise TroveStepsError(f"{source}: neither {manifest} nor a cell; cells: {known}")
    return plan, cell
