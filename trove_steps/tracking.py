"""Logging one evaluation to Weights & Biases, without ever failing or holding up the evaluation.

wandb runs in a process of its own: whatever it prints, asks, waits for or crashes with stays
there, and a hard time limit holds.
"""

import contextlib
import json
import netrc
import os
import random
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

DEFAULT_PROJECT = "trove-steps"
# Seconds to wait for the server at the start of a run and for the upload at its end, unless
# wandb's own variables say otherwise.
INIT_TIMEOUT = 30.0
FINISH_TIMEOUT = 60.0
# Seconds for everything else that the process does, on a busy machine.
_OTHER_WORK = 60.0
# wandb's own limit for a table that is shown in the browser.
MAX_TABLE_ROWS = 10_000

# What wandb says when the server cannot be reached, and when it refuses.
_NO_ANSWER = re.compile(r"time.?out|timed out|deadline|connect|network|dial|no such host", re.I)
_NO_ACCESS = re.compile(r"api.?key|log ?in|credential|permission|\b40[13]\b", re.I)

_MODES = ("online", "offline", "disabled")


@dataclass(frozen=True)
class TrackingOutcome:
    """Whether the evaluation was logged as asked, and one line that says so or why not."""

    ok: bool
    message: str


def track_evaluation(
    *,
    settings: dict,
    run_id: str,
    name: str,
    config: dict,
    metrics: dict,
    per_query: "pa.Table | None",
    directory: Path,
    mined: list[dict] | None = None,
    page: Path | None = None,
) -> TrackingOutcome:
    """Log one evaluation as one W&B run; never raises, never asks, never prints.

    `settings` may hold `project` (default: $WANDB_PROJECT, else "trove-steps"), `entity`,
    `group`, `tags` and `mode` (online, offline or disabled). $WANDB_MODE goes before `mode`, and
    a true $WANDB_DISABLED before both.
    `run_id` is made from the content keys of the evaluation, so that doing the same evaluation
    again updates its run. `config` and `metrics` hold what JSON can say. The metrics are logged
    once and become the run's summary; `per_query` is added as a table, of more than 10,000 rows a
    sample, and so is `mined`, a sample of mined negatives, a mapping for each. `page` is a file to
    be kept as the artifact "report".
    wandb keeps its files in `directory`/wandb.

    The server has 30 s to accept the run and 60 s to take the upload ($WANDB_INIT_TIMEOUT and
    $WANDB_FINISH_TIMEOUT change that). The message of an outcome that is not ok says what to do;
    the caller shows it as a warning. No message holds an API key.
    """
    try:
        mode = _mode(settings)
        if mode == "disabled":
            return TrackingOutcome(True, "wandb is disabled: nothing was logged")
        rows = per_query.num_rows if per_query is not None else 0
        tables = {}
        if per_query is not None:
            per_query = _sampled(per_query)
            data = list(map(list, zip(*per_query.to_pydict().values(), strict=True)))
            tables["per_query"] = {"columns": per_query.column_names, "data": data}
        if mined:
            data = [list(row.values()) for row in mined]
            tables["mined_negatives"] = {"columns": list(mined[0]), "data": data}
        outcome = _run_apart(
            {
                "init": {
                    "project": settings.get("project")
                    or os.environ.get("WANDB_PROJECT")
                    or DEFAULT_PROJECT,
                    "entity": settings.get("entity"),
                    "group": settings.get("group"),
                    "tags": settings.get("tags"),
                    "mode": mode,
                    "id": run_id,
                    "name": name,
                    "config": config,
                    "dir": str(Path(directory).absolute()),
                },
                "metrics": metrics,
                "tables": tables,
                "page": str(Path(page).absolute()) if page else None,
            }
        )
    except Exception as error:
        return failure(error)
    if outcome.ok and rows > MAX_TABLE_ROWS:
        note = f"; its table has {MAX_TABLE_ROWS:,} of {rows:,} queries, drawn at random"
        return TrackingOutcome(True, outcome.message + note)
    return outcome


def _sampled(table: "pa.Table") -> "pa.Table":
    """Return the table, or as many of its rows as wandb shows, drawn at random, in their order."""
    if table.num_rows <= MAX_TABLE_ROWS:
        return table
    chosen = random.Random(0).sample(range(table.num_rows), MAX_TABLE_ROWS)
    return table.take(sorted(chosen))


def _mode(settings: dict) -> str:
    if os.environ.get("WANDB_DISABLED", "").strip().lower() not in ("", "0", "false", "no", "off"):
        return "disabled"
    source, mode = "WANDB_MODE", os.environ.get("WANDB_MODE", "").strip().lower()
    if not mode:
        source, mode = "evaluation.wandb.mode", settings.get("mode") or "online"
    if mode not in _MODES:
        raise ValueError(f"{source} is {mode!r}, but must be one of {', '.join(_MODES)}")
    return mode


def _seconds(variable: str, default: float) -> float:
    return float(os.environ.get(variable) or default)


def _run_apart(task: dict) -> TrackingOutcome:
    """Do the task in another process, and wait for no longer than its time-outs."""
    limit = (
        _seconds("WANDB_INIT_TIMEOUT", INIT_TIMEOUT)
        + _seconds("WANDB_FINISH_TIMEOUT", FINISH_TIMEOUT)
        + _OTHER_WORK
    )
    directory = Path(task["init"]["dir"])
    directory.mkdir(parents=True, exist_ok=True)
    # Files, not pipes: a pipe would be held open by wandb's own background process.
    with tempfile.TemporaryFile("w+") as question, tempfile.TemporaryFile("w+") as answer:
        json.dump({**task, "parent": os.getpid()}, question)
        question.seek(0)
        try:
            status = subprocess.run(
                [sys.executable, "-m", "trove_steps.tracking"],
                stdin=question,
                stdout=answer,
                stderr=subprocess.DEVNULL,
                timeout=limit,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"wandb was stopped after {limit:.0f} s") from None
        answer.seek(0)
        lines = answer.read().splitlines()
    try:
        return TrackingOutcome(**json.loads(lines[-1]))
    except (IndexError, ValueError, TypeError):
        raise RuntimeError(
            f"wandb ended with status {status}; {directory / 'wandb'} may hold its logs"
        ) from None


def main() -> None:
    """The other process: a task as JSON on stdin, its outcome as the last line of stdout."""
    task = json.load(sys.stdin)
    threading.Thread(target=_end_with, args=(task["parent"],), daemon=True).start()
    try:
        outcome = _log(task)
    except Exception as error:
        outcome = failure(error)
    print(json.dumps(asdict(outcome)), flush=True)


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, by whatever signal."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _log(task: dict) -> TrackingOutcome:
    import wandb

    # For the whole session, and before the first run: only so is wandb silent from the start.
    quiet = {"silent": True, "quiet": True, "console": "off"}
    wandb.setup(wandb.Settings(**quiet))
    run = wandb.init(
        **task["init"],
        job_type="report" if task["page"] else "evaluation",
        resume="allow",
        settings=wandb.Settings(
            **quiet,
            init_timeout=_seconds("WANDB_INIT_TIMEOUT", INIT_TIMEOUT),
            finish_timeout=_seconds("WANDB_FINISH_TIMEOUT", FINISH_TIMEOUT),
            finish_timeout_raises=True,
            # The evaluation is over: neither this process' code nor its load is of interest.
            disable_code=True,
            x_disable_stats=True,
        ),
    )
    sync = f"wandb sync {shlex.quote(run.settings.sync_dir)}"
    where = f"offline; upload it with: {sync}" if run.settings.mode == "offline" else run.url
    run.log(task["metrics"])
    run.summary.update(task["metrics"])
    # After the metrics and apart from them: a table takes more of the server than they do.
    errors = [_log_table(run, name, table) for name, table in task["tables"].items()]
    if task["page"]:
        errors.append(_log_page(run, task["page"]))
    problem = next((error for error in errors if error), None)
    try:
        run.finish()
    except TimeoutError:
        return TrackingOutcome(
            False, f"wandb: the upload did not end in time; finish it later with: {sync}"
        )
    if problem:
        return TrackingOutcome(False, f"logged to wandb without its {problem}: {where}")
    return TrackingOutcome(True, f"logged to wandb: {where}")


def _log_table(run, name: str, table: dict) -> str | None:
    """Log a table; return what went wrong, if anything."""
    import wandb

    try:
        run.log({name: wandb.Table(**table)})
    except Exception as error:
        return f"table {name} ({_without_secrets(' '.join(str(error).split()) or repr(error))})"
    return None


def _log_page(run, path: str) -> str | None:
    """Keep the report as an artifact; return what went wrong, if anything."""
    import wandb

    try:
        artifact = wandb.Artifact("report", type="report")
        artifact.add_file(path, name="report.html")
        run.log_artifact(artifact)
    except Exception as error:
        return f"report ({_without_secrets(' '.join(str(error).split()) or repr(error))})"
    return None


def failure(error: Exception, tracker: str = "wandb") -> TrackingOutcome:
    """One line on what went wrong and what to do, without credentials."""
    text = " ".join(str(error).split()) or type(error).__name__
    if tracker != "wandb":
        return TrackingOutcome(False, _without_secrets(f"not logged to {tracker}: {text}"))
    keep = "set WANDB_MODE=offline to keep the run on this machine"
    if isinstance(error, ImportError):
        text = f"the package cannot be imported ({text}); install it with: pip install wandb"
    elif _NO_ANSWER.search(text) or isinstance(error, TimeoutError):
        text = f"no answer from the server ({text}); check the network, or {keep}"
    elif _NO_ACCESS.search(text) and not isinstance(error, OSError):
        text = f"no valid API key ({text}); set WANDB_API_KEY, or {keep}"
    return TrackingOutcome(False, _without_secrets(f"not logged to wandb: {text}"))


def _without_secrets(text: str) -> str:
    if key := os.environ.get("WANDB_API_KEY"):
        text = text.replace(key, "<WANDB_API_KEY>")
    for key in _netrc_keys():
        text = text.replace(key, "<API key>")
    # A key from elsewhere is not known here, but has this shape; so have parts of paths, which stay.
    return re.sub(r"(?<![\w./-])[\w-]{40,}(?![\w./-])", "<API key>", text)


def _netrc_keys() -> set[str]:
    """Return the passwords of the .netrc file, where `wandb login` keeps its key."""
    paths = (os.environ.get("NETRC"), "~/.netrc", "~/_netrc")
    keys = set()
    for path in filter(None, paths):
        with contextlib.suppress(OSError, netrc.NetrcParseError, UnicodeDecodeError):
            hosts = netrc.netrc(os.path.expanduser(path)).hosts
            keys |= {password for _, _, password in hosts.values() if password}
    return keys


if __name__ == "__main__":
    main()
