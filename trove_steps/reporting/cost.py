"""What the steps of a cell took, what to know about its texts, and where its results come from."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trove_steps.encoders.lengths import read_cut
from trove_steps.files import read_json
from trove_steps.jobs.resources import read_records
from trove_steps.reporting.cell import SIDES, Cell
from trove_steps.reporting.shortfalls import nothing_mined, nothing_relevant


def cost(cell: Cell) -> dict:
    """Return what each step took, and the size of a vector."""
    depth = cell.search_manifest.stem[3:]
    name = f"{cell.dataset}/{cell.model}"
    seconds = {
        "search": _benchmark(cell.logs / "search" / f"{cell.search_key}-top{depth}.benchmark.tsv"),
        "score": _newest(cell.logs / "score", f"{name}-*.benchmark.tsv"),
        "mine": _newest(cell.logs / "mine", f"{name}-*.benchmark.tsv"),
    }
    return {
        "encode": {side: encoding(cell.manifest(side)) for side in SIDES},
        "seconds": {step: value for step, value in seconds.items() if value is not None},
        "dim": cell.opened[2].dim,
        "bytes": cell.record["bytes_per_vector"],
    }


def encoding(manifest: Path) -> dict | None:
    """Return what the last jobs did that encoded something of a collection, None if nothing is known.

    Jobs that shared the collection (`encode.jobs`) count together: they wait for each other, so that the
    longest time is that of all. A job that found everything says nothing about speed.
    """
    jobs = [job for job in read_records(manifest.parent) if job.get("manifest") == manifest.name]
    if not jobs:
        return None
    told = next((job for job in reversed(jobs) if job.get("encoded")), jobs[-1])
    together = [job for job in jobs if job.get("round") and job["round"] == told.get("round")]
    together = together or [told]

    def of(name: str) -> list:
        return [job.get(name, 0) for job in together]

    def longest(phase: str) -> float:
        return max(job.get("seconds", {}).get(phase, 0) for job in together)

    seconds, tokens = longest("encode"), sum(of("tokens"))
    return {
        "rows": told.get("rows", 0),
        "reused": min(of("reused")),
        "encoded": sum(of("encoded")),
        "tokens": tokens,
        "rate": tokens / seconds if seconds else None,
        "seconds": longest("total"),
        "jobs": len(together),
        "versions": told.get("versions", {}) if told.get("encoded") else {},
    }


def _benchmark(path: Path) -> float | None:
    """Return the wall-clock seconds of a job from snakemake's benchmark file."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return float(next(csv.DictReader(file, dialect="excel-tab"))["s"])
    except (OSError, StopIteration, KeyError, ValueError):
        return None


def _newest(folder: Path, pattern: str) -> float | None:
    found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
    return _benchmark(found[-1]) if found else None


def warnings(cell: Cell) -> dict:
    """Count texts that were cut off, documents that repeat another's text, and ties at the top that hang
    on the order of ids."""
    rows = pa.ipc.open_file(
        pa.memory_map(str(cell.manifest("corpus").with_suffix(".rows.arrow")))
    ).read_all()
    distinct = pc.count_distinct(rows["key"]).as_py()
    view = cell.ranking.head(10)
    same = (np.diff(view.scores) == 0) & (np.diff(view.row_queries) == 0)
    cuts = {side: read_cut(cell.manifest(side)) for side in SIDES}
    return {
        "cut": {side: [cut.texts_cut, cut.texts] for side, cut in cuts.items() if cut},
        "counts": {k: v for k, v in cell.figures.items() if k.startswith("num_")},
        "documents": len(rows),
        "repeated": len(rows) - distinct,
        "tied_queries": len(np.unique(view.row_queries[1:][same])),
        "queries": len(view),
        "ties": _tie_ranges(cell),
        "missing": _missing(cell),
    }


def _missing(cell: Cell) -> list[str]:
    """Say what the cell's results lack, in a line each."""
    lines = [nothing_relevant(cell.figures, cell.threshold)]
    if cell.mining and (line := nothing_mined(read_json(cell.folder / "mined" / "funnel.json"))):
        lines.append(f"{cell.model}: {line}")
    return [line for line in lines if line]


def _tie_ranges(cell: Cell) -> dict[str, list[float]]:
    """Return metric → its lowest and highest value over all orders of documents with equal scores."""
    ends = {
        name: [cell.figures.get(f"{name}_{end}") for end in ("min", "max")] for name in cell.metrics
    }
    return {name: pair for name, pair in ends.items() if None not in pair}


def provenance(cell: Cell) -> dict:
    """Return keys and recipes of what the cell's results were made from."""
    search = cell.record["search"]
    recipes = {
        side: {
            "encoder": read_json(cell.manifest(side).parent / "recipe.json"),
            "texts": cell.texts(side),
        }
        for side in SIDES
    }
    keys = {f"{side} {kind}": search[side][kind] for side in SIDES for kind in ("encoder", "texts")}
    mining = {"mining": _options(cell.mining)} if cell.mining else {}
    return {
        "keys": keys | {"search": cell.search_key},
        "recipes": recipes | {"search": search, "evaluation": _options(cell.record)} | mining,
    }


def _options(record: dict) -> dict:
    return {k: v for k, v in record.items() if k not in ("files", "search", "cell")}
