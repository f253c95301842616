"""Step: log one evaluation to the trackers of `report_to`, or the report of all.

Never fails an evaluation: without a key or a network it warns, and the next run tries again.
"""

import argparse
import json
import sys
from pathlib import Path

from trove_steps.arguments import run_step
from trove_steps.files import read_json
from trove_steps.keys import recipe_key
from trove_steps.progress import report
from trove_steps.results import drop_records, write_record
from trove_steps.tracking import TrackingOutcome, track_evaluation


def run(arguments) -> None:
    """Log to each tracker; write the record."""
    if arguments.report:
        outcomes = [_track_report(arguments)]
        name = "report"
    else:
        name = read_json(arguments.evaluation)["cell"]
        track = {"wandb": _track_evaluation, "tensorboard": _write_events}
        outcomes = [track[tracker](arguments) for tracker in arguments.trackers]
    for outcome in outcomes:
        report(f"{'' if outcome.ok else 'warning: '}{name}: {outcome.message}")
    drop_records(arguments.record)
    message = "; ".join(outcome.message for outcome in outcomes)
    final = all(outcome.ok for outcome in outcomes)
    write_record(arguments.record, [], final=final, message=message)


def _track_evaluation(arguments) -> TrackingOutcome:
    """Log metrics, per-query figures, mined negatives, configuration and keys to Weights & Biases."""
    import pyarrow.parquet as pq

    folder, evaluated = arguments.record.parent.parent, read_json(arguments.evaluation)
    dataset, model = evaluated["cell"].split("/")
    # A cut-off that is added later updates the same run; other vectors, texts or judgments make another.
    identity = {key: evaluated[key] for key in ("cell", "search", "qrels", "relevance_threshold")}
    group = arguments.settings.get("group")
    tags = [*arguments.settings.get("tags", []), dataset, model]
    return track_evaluation(
        settings={**arguments.settings, "tags": list(dict.fromkeys(tags))},
        run_id=recipe_key({"kind": "run", "group": group, **identity}),
        name=evaluated["cell"],
        config=_config(arguments, evaluated),
        metrics=read_json(folder / "metrics.json"),
        per_query=pq.read_table(folder / "per_query.parquet"),
        directory=arguments.directory,
        mined=_mined(arguments, evaluated),
    )


def _track_report(arguments) -> TrackingOutcome:
    """Log the page as an artifact; its run is named by what the page shows."""
    page = arguments.report.with_suffix(".html")
    return track_evaluation(
        settings=arguments.settings,
        run_id=recipe_key({"kind": "report run", "report": arguments.report.stem}),
        name="report",
        config={"report": arguments.report.stem},
        metrics={},
        per_query=None,
        directory=arguments.directory,
        page=page,
    )


def _write_events(arguments) -> TrackingOutcome:
    """Write metrics and configuration to DIRECTORY/tensorboard, for `tensorboard --logdir`."""
    folder, evaluated = arguments.record.parent.parent, read_json(arguments.evaluation)
    place = arguments.directory / "tensorboard" / evaluated["cell"]
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        return TrackingOutcome(
            False, f"not logged to tensorboard ({error}); install it with: pip install tensorboard"
        )
    for old in place.glob("events.*"):
        old.unlink()
    with SummaryWriter(str(place)) as writer:
        for name, value in read_json(folder / "metrics.json").items():
            writer.add_scalar(name, value, 0)
        config = json.dumps(_config(arguments, evaluated), indent=2, sort_keys=True)
        writer.add_text("configuration", f"```\n{config}\n```", 0)
    return TrackingOutcome(True, f"logged to tensorboard: {place}")


def _config(arguments, evaluated: dict) -> dict:
    """Return the options and recipes of an evaluation, and the keys that they have."""
    search = evaluated["search"]
    recipes, keys = {}, {"search": recipe_key(search), "evaluation": arguments.evaluation.stem}
    for side in ("queries", "corpus"):
        keys |= {f"{side} {kind}": search[side][kind] for kind in ("encoder", "texts")}
        folder = arguments.encoding_cache_dir / "embeddings" / search[side]["encoder"]
        recipes[side] = read_json(folder / "recipe.json")
    return {**evaluated, "encoders": recipes, "keys": keys}


def _mined(arguments, evaluated: dict) -> list[dict] | None:
    if not arguments.mining:
        return None
    from trove_steps.reporting.collect import Cell, mined_samples

    folder = arguments.record.parent.parent
    mining = read_json(arguments.mining[0])
    return mined_samples(
        Cell(evaluated, folder, arguments.encoding_cache_dir, Path("logs"), mining)
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trove_steps.track", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--evaluation", type=Path, metavar="FILE", help="record of the evaluation")
    what.add_argument("--report", type=Path, metavar="FILE", help="record of the report")
    parser.add_argument(
        "--mining", nargs="*", type=Path, default=[], metavar="FILE", help="record of the mining"
    )
    parser.add_argument(
        "--trackers", nargs="+", choices=["wandb", "tensorboard"], default=["wandb"]
    )
    parser.add_argument(
        "--settings", type=json.loads, default={}, help="project, entity, group, mode, tags as JSON"
    )
    parser.add_argument("--encoding-cache-dir", type=Path, default=Path("cache"))
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path("results"),
        help="trackers keep their files in DIRECTORY/wandb and DIRECTORY/tensorboard",
    )
    parser.add_argument("--record", type=Path, required=True, metavar="FILE", help="written last")
    run(parser.parse_args())
    sys.stdout.flush()


if __name__ == "__main__":
    run_step(main)
