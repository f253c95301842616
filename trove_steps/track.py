"""Step: log one evaluation to the trackers of `report_to`, or the report of all.

Never fails an evaluation: without a key or a network it warns, and the next run tries again.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trove_steps.arguments import run_step
from trove_steps.files import read_json
from trove_steps.keys import recipe_key
from trove_steps.progress import report
from trove_steps.results import drop_records, write_record
from trove_steps.tracking import TrackingOutcome, failure, track_evaluation

if TYPE_CHECKING:
    from trove_steps.reporting.cell import Cell


def run(arguments) -> None:
    """Log to each tracker; write the record."""
    if arguments.report:
        outcomes = [_attempt("wandb", _track_report, arguments)]
        name = "report"
    else:
        name = read_json(arguments.evaluation)["cell"]
        track = {"wandb": _track_evaluation, "tensorboard": _write_events}
        outcomes = [_attempt(tracker, track[tracker], arguments) for tracker in arguments.trackers]
    for outcome in outcomes:
        report(f"{'' if outcome.ok else 'warning: '}{name}: {outcome.message}")
    drop_records(arguments.record)
    message = "; ".join(outcome.message for outcome in outcomes)
    final = all(outcome.ok for outcome in outcomes)
    write_record(arguments.record, [], final=final, message=message)


def _attempt(tracker: str, track: Callable, arguments) -> TrackingOutcome:
    """Log to one tracker, whatever goes wrong."""
    try:
        return track(arguments)
    except Exception as error:
        return failure(error, tracker)


def _settings(arguments) -> dict:
    """Return the settings of a run; runs of an experiment are grouped by the folder of its results."""
    given = arguments.settings
    folder = "/".join(arguments.directory.resolve().parts[-2:])
    return {**given, "group": given.get("group") or os.environ.get("WANDB_RUN_GROUP") or folder}


def _track_evaluation(arguments) -> TrackingOutcome:
    """Log metrics, per-query figures, mined negatives, configuration and keys to Weights & Biases."""
    cell = _cell(arguments)
    settings = _settings(arguments)
    tags = [*settings.get("tags", []), cell.dataset, cell.model]
    # A cut-off that is added later updates the same run; other vectors, texts or judgments make another.
    identity = {
        name: cell.record[name] for name in ("cell", "search", "qrels", "relevance_threshold")
    }
    return track_evaluation(
        settings={**settings, "tags": list(dict.fromkeys(tags))},
        run_id=recipe_key({"kind": "run", "group": settings["group"], **identity}),
        name=cell.record["cell"],
        config=_config(arguments, cell),
        metrics=cell.figures,
        per_query=_per_query(cell),
        directory=arguments.directory,
        mined=_mined(cell),
    )


def _track_report(arguments) -> TrackingOutcome:
    """Log the page as an artifact; its run is named by what the page shows."""
    page = arguments.report.with_suffix(".html")
    settings = _settings(arguments)
    identity = {"group": settings["group"], "report": arguments.report.stem}
    return track_evaluation(
        settings=settings,
        run_id=recipe_key({"kind": "report run", **identity}),
        name="report",
        config={"report": arguments.report.stem},
        metrics={},
        per_query=None,
        directory=arguments.directory,
        page=page,
    )


def _write_events(arguments) -> TrackingOutcome:
    """Write metrics and configuration to DIRECTORY/tensorboard, for `tensorboard --logdir`."""
    cell = _cell(arguments)
    place = arguments.directory / "tensorboard" / cell.record["cell"]
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        return TrackingOutcome(
            False, f"not logged to tensorboard ({error}); install it with: pip install tensorboard"
        )
    for old in place.glob("events.*"):
        old.unlink()
    with SummaryWriter(str(place)) as writer:
        for name, value in cell.figures.items():
            writer.add_scalar(name, value, 0)
        config = json.dumps(_config(arguments, cell), indent=2, sort_keys=True)
        writer.add_text("configuration", f"```\n{config}\n```", 0)
    return TrackingOutcome(True, f"logged to tensorboard: {place}")


def _cell(arguments) -> "Cell":
    from trove_steps.reporting.cell import Cell

    return Cell(
        record=read_json(arguments.evaluation),
        folder=arguments.record.parent.parent,
        cache=arguments.encoding_cache_dir,
        logs=Path("logs"),
        mining=read_json(arguments.mining[0]) if arguments.mining else None,
    )


def _config(arguments, cell: "Cell") -> dict:
    """Return data set, model, options and recipes of an evaluation, and the keys that they have."""
    search = cell.record["search"]
    recipes, keys = {}, {"search": recipe_key(search), "evaluation": arguments.evaluation.stem}
    for side in ("queries", "corpus"):
        keys |= {f"{side} {kind}": search[side][kind] for kind in ("encoder", "texts")}
        recipes[side] = read_json(cell.manifest(side).parent / "recipe.json")
    names = {"dataset": cell.dataset, "model": cell.model}
    return {**names, **cell.record, "encoders": recipes, "keys": keys}


def _per_query(cell: "Cell"):
    """Return the metrics of each query with its text."""
    import pyarrow as pa

    from trove_steps.reporting.cell import SNIPPET
    from trove_steps.texts import snippet

    ids = cell.per_query["query_id"].to_pylist()
    texts = cell.query_texts(ids)
    shown = [snippet(texts[one], SNIPPET) if one in texts else None for one in ids]
    return cell.per_query.add_column(1, "query", pa.array(shown, pa.string()))


def _mined(cell: "Cell") -> list[dict] | None:
    if not cell.mining:
        return None
    from trove_steps.reporting.mined import mined_samples

    return mined_samples(cell)


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
