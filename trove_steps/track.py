"""Step: log one evaluation to the trackers of `report_to`.

Never fails an evaluation: without a key or a network it warns, and the next run tries again.
"""

import argparse
import json
import sys
from pathlib import Path

from trove_steps.arguments import run_step
from trove_steps.files import read_json
from trove_steps.keys import recipe_key
from trove_steps.results import drop_records, write_record
from trove_steps.tracking import track_evaluation

COUNTS = "num_"


def run(arguments) -> None:
    """Log metrics, per-query figures, configuration and keys; write the record."""
    import pyarrow.parquet as pq

    folder = arguments.record.parent.parent
    evaluated = read_json(arguments.evaluation)
    # A cut-off that is added later updates the same run; other vectors, texts or judgments make another.
    identity = {key: evaluated[key] for key in ("cell", "search", "qrels", "relevance_threshold")}
    outcome = track_evaluation(
        settings=arguments.settings,
        run_id=recipe_key({"kind": "run", "group": arguments.settings.get("group"), **identity}),
        name=evaluated["cell"],
        config={**evaluated, "encoders": _encoder_recipes(arguments.encoding_cache_dir, evaluated)},
        metrics=read_json(folder / "metrics.json"),
        per_query=pq.read_table(folder / "per_query.parquet"),
        directory=arguments.directory,
    )
    print(f"{'' if outcome.ok else 'warning: '}{evaluated['cell']}: {outcome.message}", flush=True)
    drop_records(arguments.record)
    write_record(arguments.record, [], final=outcome.ok, message=outcome.message)


def _encoder_recipes(cache_dir: Path, evaluated: dict) -> dict:
    recipes = {}
    for side in ("queries", "corpus"):
        encoder = evaluated["search"][side]["encoder"]
        recipes[side] = read_json(cache_dir / "embeddings" / encoder / "recipe.json")
    return recipes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trove_steps.track", description=__doc__)
    parser.add_argument(
        "--evaluation", type=Path, required=True, metavar="FILE", help="record of the evaluation"
    )
    parser.add_argument(
        "--settings", type=json.loads, default={}, help="project, entity, group, mode, tags as JSON"
    )
    parser.add_argument("--encoding-cache-dir", type=Path, default=Path("cache"))
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path("results"),
        help="wandb keeps its files in DIRECTORY/wandb",
    )
    parser.add_argument("--record", type=Path, required=True, metavar="FILE", help="written last")
    run(parser.parse_args())
    sys.stdout.flush()


if __name__ == "__main__":
    run_step(main)
