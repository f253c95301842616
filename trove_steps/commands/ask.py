"""`trove-steps ask`: the best documents for a typed query, from the vectors of the cache."""

import argparse
import json
import sys

from trove_steps.commands.planning import add_plan_options, load_plan, positive
from trove_steps.errors import TroveStepsError


def add(commands) -> None:
    parser = commands.add_parser("ask", help="the best documents for a typed query")
    parser.add_argument(
        "text", nargs="*", help="the query; without it, one after another is asked for"
    )
    parser.add_argument("--dataset", help="a data set of the configuration (default: the only one)")
    parser.add_argument("--model", help="a model of the configuration (default: the only one)")
    parser.add_argument("--top", type=positive, default=10, metavar="N", help="how many (10)")
    add_plan_options(parser)
    parser.add_argument("--json", action="store_true", help="print a line of JSON per query")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the best documents of the query, or of each line that is typed."""
    from trove_steps.ask import Asker, find_cell

    plan = load_plan(options)
    dataset, _, model = (options.text or [""])[0].partition("/")
    if (dataset, model) in plan.cells:
        raise TroveStepsError(
            f"{options.text[0]} is no part of a query: name it by --dataset {dataset} --model {model}"
        )
    asker = Asker(plan, find_cell(plan, options.dataset, options.model))
    for query in [" ".join(options.text)] if options.text else _typed():
        answers = asker.ask(query, options.top)
        if options.json:
            line = {"query": query, "documents": [vars(answer) for answer in answers]}
            print(json.dumps(line, ensure_ascii=False), flush=True)
        else:
            print("\n".join(_described(answers)), flush=True)
    return 0


def _typed():
    """Yield the lines of standard input that are not empty; on a terminal, ask for them."""
    shown = sys.stdin.isatty()
    while True:
        if shown:
            print("query (Ctrl-D ends): ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _described(answers) -> list[str]:
    from trove_steps.texts import snippet

    width = max((len(answer.id) for answer in answers), default=0)
    return [
        f"{answer.rank:>4}  {answer.score:8.4f}  {answer.id:<{width}}  {snippet(answer.text, 120)}"
        for answer in answers
    ]
