"""`trove-steps show query`: the ranking of a query by each model, judged documents marked."""

import argparse
import json

from trove_steps.commands.planning import add_plan_options, load_plan, positive


def add(commands) -> None:
    parser = commands.add_parser(
        "query", help="a query's ranking per model, judged documents marked"
    )
    parser.add_argument("id", help="the id of the query")
    parser.add_argument(
        "--dataset", help="a data set of the configuration (default: all that have it)"
    )
    parser.add_argument("--model", help="a model of the configuration (default: all)")
    parser.add_argument(
        "--top",
        type=positive,
        default=10,
        metavar="N",
        help="documents per model, and relevant ones after them (10)",
    )
    add_plan_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the rankings; the results are read, nothing is computed."""
    from trove_steps.show_query import rankings

    found = rankings(load_plan(options), options.id, options.dataset, options.model, options.top)
    if options.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print("\n".join(line for one in found for line in _described(one)))
    return 0


def _described(one: dict) -> list[str]:
    from trove_steps.texts import snippet

    lines = [f"{one['dataset']}/{one['model']}: {one['text']}"]
    everything = [*one["documents"], *one["missed"]]
    width = max((len(document["id"]) for document in everything), default=0)
    for document in everything:
        rank = "–" if document["rank"] is None else document["rank"]
        score = " " * 8 if document["score"] is None else f"{document['score']:8.4f}"
        lines.append(
            f"{rank:>5}  {score}  {_mark(document):<3} {document['id']:<{width}}  "
            f"{snippet(document['text'], 100)}"
        )
    if one["more_missed"]:
        lines.append(f"  … and {one['more_missed']:,} more relevant documents (--top shows more)")
    lines.append(
        f"  {one['relevant']} relevant (✓label), of them {one['found']} in the first {one['depth']}; "
        "✗ judged, not relevant; – not in the ranking"
    )
    return [*lines, ""]


def _mark(document: dict) -> str:
    if document["label"] is None:
        return ""
    return f"{'✓' if document['relevant'] else '✗'}{document['label']}"
