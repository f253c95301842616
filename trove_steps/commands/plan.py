"""`trove-steps plan`: what the configuration will cost before it is run."""

import argparse
import json

from trove_steps.commands.planning import add_plan_options, load_plan

UNKNOWN = (
    "?: no earlier job with the same weights, nor with weights of the same size and the same max_len, "
    "says how fast the model is, or its files no width"
)
SIBLINGS = (
    "*: by the latest jobs of other models with weights of the same size and the same max_len"
)


def add(commands) -> None:
    parser = commands.add_parser(
        "plan", help="what will be computed: rows, tokens, bytes and time of every cell"
    )
    add_plan_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the costs of all cells."""
    from trove_steps.plan.estimate import CostTable, total_cost

    cells = CostTable(load_plan(options)).cells
    if options.json:
        listed = [{**vars(cell), "reused": cell.reused} for cell in cells]
        print(json.dumps({"cells": listed, "total": total_cost(cells)}, indent=2))
    else:
        print(table(cells))
    return 0


def table(cells: list) -> str:
    """Return the costs of cells as a table."""
    from trove_steps import tables
    from trove_steps.plan.estimate import total_cost

    def figures(get) -> list[str]:
        return [
            tables.count(get("to_encode")),
            tables.count(get("reused")),
            tables.count(get("tokens")),
            tables.size(get("bytes")),
            tables.duration(get("seconds")),
        ]

    header = ["dataset", "model", "steps", "to encode", "reused", "tokens ≈", "written ≈", "time ≈"]
    rows = [
        [cell.dataset, cell.model, short(cell.steps), *figures(cell.__getattribute__)]
        for cell in cells
    ]
    for row, cell in zip(rows, cells, strict=True):
        row[-1] += "*" if cell.by_siblings and cell.seconds is not None else ""
    if len(cells) > 1:
        rows.append(["total", "", "", *figures(total_cost(cells).__getitem__)])
    lines = [tables.aligned(header, rows, left=3)]
    if any("?" in row for row in rows):
        lines.append(UNKNOWN)
    if any(row[-1].endswith("*") for row in rows):
        lines.append(SIBLINGS)
    if not any(cell.steps for cell in cells):
        lines.append("nothing to do")
    return "\n".join(lines)


def short(steps: list[str]) -> str:
    """Return the names of steps, the two encode steps as one."""
    names = dict.fromkeys(step.split(" ")[0] for step in steps)
    return ", ".join(names) or "–"
