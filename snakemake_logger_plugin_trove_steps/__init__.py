"""Snakemake's output as a compact view: bars of the running steps, a line for each that is done.

The default profile chooses it (`logger: trove-steps`). Snakemake's ordinary output is given instead wherever
it was asked for or is the point: --dry-run, --quiet, --verbose, --printshellcmds, --debug-dag.
"""

import atexit
import contextlib
import logging
import sys
from pathlib import Path

from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_trove_steps.words import FailedCommand, failed_command, in_words

# What the view shows in its own way, or leaves out.
_SHOWN_OTHERWISE = {
    LogEvent.WORKFLOW_STARTED,
    LogEvent.JOB_INFO,
    LogEvent.JOB_STARTED,
    LogEvent.JOB_FINISHED,
    LogEvent.GROUP_INFO,
    LogEvent.SHELLCMD,
    LogEvent.PROGRESS,
    LogEvent.RESOURCES_INFO,
}
_CHATTER = (
    "Assuming unrestricted shared filesystem",
    "Building DAG of jobs",
    "Conda environments: ignored",
    "Select jobs to execute",
    "Using shell: ",
    "Using workflow specific profile",
    "host: ",
)


class LogHandler(LogHandlerBase):
    """Takes snakemake's log records; errors and whatever is not about jobs are shown as snakemake would."""

    def __post_init__(self) -> None:
        from snakemake.logging import ColorizingTextHandler

        settings = self.common_settings
        stream = sys.stdout if settings.stdout else sys.stderr
        self.ordinary = ColorizingTextHandler(nocolor=settings.nocolor, stream=stream)
        self.view = None
        self.failed: dict[Path, FailedCommand] = {}  # by their logs
        asked = ("dryrun", "quiet", "verbose", "printshellcmds", "debug_dag", "stdout")
        if not any(getattr(settings, name, None) for name in asked):
            from trove_steps.live import View, close_views

            self.view = View()
            atexit.register(close_views)

    def setFormatter(self, fmt) -> None:
        super().setFormatter(fmt)
        self.ordinary.setFormatter(fmt)

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR and isinstance(record.msg, str):
            # Snakemake calls this from a thread of its own, which must not end: nothing more would be shown.
            with contextlib.suppress(Exception, SystemExit):
                if failed := failed_command(record.msg):
                    self.failed[failed.log] = failed
                    if self.view:
                        return  # what follows tells which job it was
                    if Quietness.RULES in (self.common_settings.quiet or ()):  # nothing follows
                        record.msg = _of_a_failed_job("", [failed.log], failed)
                record.msg = in_words(record.msg, sys.argv[1:])
        if self.view is None:
            self.ordinary.emit(record)
            return
        try:
            self._follow(record)
        except Exception:
            self.handleError(record)

    def _follow(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_INFO:
            if record.rule_name != "all":
                from trove_steps.live import name_of_job

                wildcards = {n: str(v) for n, v in dict(record.wildcards or {}).items()}
                name = name_of_job(record.rule_name, wildcards)
                self.view.start_job(record.jobid, name, list(record.output or ()))
        elif event == LogEvent.JOB_FINISHED:
            self.view.end_job(record.job_id)
        elif event == LogEvent.PROGRESS:
            self.view.progress(record.done, record.total)
        elif event == LogEvent.RUN_INFO:
            self.view.progress(0, sum((getattr(record, "stats", None) or {}).values()) // 2)
        if event == LogEvent.JOB_ERROR:
            name = self.view.end_job(record.jobid)
            logs = [Path(log) for log in record.log or ()]
            failed = next((self.failed.pop(log) for log in logs if log in self.failed), None)
            # Of a job on a cluster or in a group, snakemake's own words tell more.
            if name and failed and not record.aux and not record.indent:
                text = _of_a_failed_job(name, logs, failed)
                self.view.write(self.ordinary.decorate(record, text))
                return
        if event not in _SHOWN_OTHERWISE and not str(record.msg).startswith(_CHATTER):
            text = self.format(record)
            if text and text != "None":
                self.view.write(self.ordinary.decorate(record, text))

    def close(self) -> None:
        if self.view is not None:
            self.view.close()
        super().close()

    @property
    def writes_to_stream(self) -> bool:
        return True

    @property
    def writes_to_file(self) -> bool:
        return False

    @property
    def has_filter(self) -> bool:
        return False

    @property
    def has_formatter(self) -> bool:
        return False

    @property
    def needs_rulegraph(self) -> bool:
        return False


def _of_a_failed_job(name: str, logs: list[Path], failed: FailedCommand) -> str:
    """Return which job failed, how its command ended, and what it said last; `name` may be "", not known."""
    from trove_steps.jobs.unfinished import end_of_log

    rule, _, what = name.partition(" ")
    ends = "\n".join(end_of_log(log) for log in logs if log.exists())
    which = f"rule {rule}{what and f' ({what})'}" if name else "a step"
    return f"Error in {which}{failed.ending}; {ends or 'it has no log'}"
