"""`trove-steps why TARGET`: why a cell or a file would be computed."""

import argparse
import json

from trove_steps.commands.planning import add_plan_options, load_plan

STATES = {"there": "there", "needed": "will be computed", "unneeded": "absent, not needed"}


def add(commands) -> None:
    parser = commands.add_parser("why", help="why a cell or a file would be computed")
    parser.add_argument("target", help="DATASET/MODEL, or a file of the cache or of the results")
    add_plan_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the stages of the target and the reasons of those that would be computed."""
    from trove_steps.plan.explain import explain, find_target

    plan = load_plan(options)
    answers = [
        (f"{cell.dataset}/{cell.model}", explain(plan, cell, steps))
        for cell, steps in find_target(plan, options.target)
    ]
    if options.json:
        content = {cell: [stage.as_dict() for stage in stages] for cell, stages in answers}
        print(json.dumps(content, indent=2, ensure_ascii=False))
        return 0
    for cell, stages in answers:
        print(cell)
        for stage in stages:
            print("\n".join(described(stage)))
    return 0


def described(stage) -> list[str]:
    """Return the lines that say why a stage would be computed."""
    lines = [f"  {stage.step}: {STATES[stage.state]} ({stage.path})"]
    if stage.reason:
        lines.append(f"    {stage.reason}")
    if stage.nearest is not None:
        lines.append(f"    nearest: {stage.nearest}, which differs in")
        lines += [f"      {difference}" for difference in stage.differences]
    if stage.rows_to_encode is not None:
        lines.append(f"    {stage.rows_to_encode:,} of {stage.rows:,} rows to encode")
    return lines
