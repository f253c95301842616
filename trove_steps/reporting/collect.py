"""What the report shows, read from the results folder and the cache as one value that JSON can hold."""

import csv
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from trove_steps.evaluation.measures import main_metrics
from trove_steps.files import read_json
from trove_steps.reporting.cell import Cell, document_texts
from trove_steps.reporting.cost import cost, provenance, warnings
from trove_steps.reporting.mined import mining
from trove_steps.reporting.queries import points, score_distribution, worst
from trove_steps.reporting.statistics import intervals, pair_p_values
from trove_steps.summary import metric_order
from trove_steps.versions import versions

POINTS = 6_000  # queries in the scatter plots of all data sets together


def collect(
    evaluations: list[Path],
    minings: list[Path],
    comparisons: list[Path],
    checks: list[Path],
    cache: Path,
    logs: Path,
) -> dict:
    """Return the content of the report.

    `evaluations`, `minings`, `comparisons` and `checks` are the records of what was evaluated, mined,
    compared and checked; `logs` is the folder of the workflow's logs, whose benchmark files say how long
    each step took.
    """
    mined = {content["cell"]: content for content in map(read_json, minings)}
    checked = {read_json(path)["dataset"]: _checked(path) for path in checks}
    compared = _compared(comparisons)
    cells = []
    for path in evaluations:
        record = read_json(path)
        folder = path.parent.parent
        cells.append(Cell(record, folder, cache, logs, mined.get(record["cell"])))
    metrics = sorted({name for cell in cells for name in cell.metrics}, key=metric_order)
    main = main_metrics(metrics)[0]
    names = list(dict.fromkeys(cell.dataset for cell in cells))
    datasets = []
    for name in names:
        own = [cell for cell in cells if cell.dataset == name]
        content = _dataset(name, own, compared.get(name, {}), main, POINTS // len(names))
        datasets.append({**content, "check": checked.get(name)})
    return {
        "metrics": metrics,
        "main": main,
        "models": list(dict.fromkeys(cell.model for cell in cells)),
        "datasets": datasets,
        "packages": versions(),
    }


def _checked(record: Path) -> list[dict]:
    """Return what a check of a data set warned of."""
    return read_json(record.parent.parent / "data.json")["warnings"]


def _dataset(name: str, cells: list[Cell], compared: dict, main: str, limit: int) -> dict:
    ids, values = _aligned(cells)
    uncertain = _uncertainty(values, compared)
    content = {
        "name": name,
        "queries": len(ids),
        "documents": len(cells[0].ranking.doc_ids),
        "threshold": cells[0].threshold,
        "points": points(cells, ids, values, main, limit),
        "cells": {},
    }
    for cell in cells:
        content["cells"][cell.model] = {
            "metrics": cell.metrics,
            **uncertain[cell.model],
            "worst": worst(cell, main),
            "scores": score_distribution(cell),
            "mining": mining(cell) if cell.mining else None,
            "cost": cost(cell),
            "warnings": warnings(cell),
            "provenance": provenance(cell),
        }
        cell.forget()  # the rankings of all cells together may be more than memory holds
    content["texts"] = document_texts(cells)
    return content


def _aligned(cells: list[Cell]) -> tuple[list[str], dict[str, dict[str, np.ndarray]]]:
    """Return the queries that all cells judge, and model → metric → values float64[queries]."""
    common = cells[0].per_query["query_id"]
    for cell in cells[1:]:
        common = common.filter(pc.is_in(common, value_set=cell.per_query["query_id"]))
    values = {}
    for cell in cells:
        rows = pc.index_in(common, value_set=cell.per_query["query_id"].combine_chunks())
        table = cell.per_query.take(rows.combine_chunks())
        values[cell.model] = {
            name: table[name].to_numpy() for name in table.column_names if name != "query_id"
        }
    return common.to_pylist(), values


def _compared(records: list[Path]) -> dict[str, dict[str, dict[tuple[str, str], float]]]:
    """Return data set → metric → (model, model), by name → corrected p-value, from comparison.tsv."""
    found: dict[str, dict] = {}
    for record in records:
        path = record.parent.parent / "comparison.tsv"
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, dialect="excel-tab"):
                pairs = found.setdefault(row["dataset"], {}).setdefault(row["metric"], {})
                pairs[row["model_a"], row["model_b"]] = float(row["p_holm"])
    return found


def _uncertainty(values: dict, compared: dict) -> dict[str, dict]:
    """Return model → {"low", "high", "p"}: metric → end of the interval, p-value against the best.

    `values` as `_aligned` returns them, `compared` as `_compared` for the data set.
    """
    result = {model: {"low": {}, "high": {}, "p": {}} for model in values}
    for model, columns in values.items():
        names = list(columns)
        table = np.column_stack([columns[name] for name in names])
        if len(table):
            low, high = intervals(table)
            result[model]["low"] = dict(zip(names, low.round(5).tolist(), strict=True))
            result[model]["high"] = dict(zip(names, high.round(5).tolist(), strict=True))
    for name in {name for columns in values.values() for name in columns}:
        own = {model: columns[name] for model, columns in values.items() if name in columns}
        best = max(own, key=lambda model: own[model].mean())
        if len(own) > 1 and len(own[best]):
            pairs = compared.get(name) or pair_p_values(own)
            for model in own.keys() - {best}:
                p = pairs[min(best, model), max(best, model)]
                result[model]["p"][name] = float(f"{p:.3g}")
    return result
