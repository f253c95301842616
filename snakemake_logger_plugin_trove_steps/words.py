"""What Snakemake says of a mistake in the configuration or of a step that failed, as a user reads it."""

import argparse
import re
import signal
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RULES = r"[^\"\n]*(?:/workflow/rules/\w+\.smk|/Snakefile)"
TASKS = ("evaluate", "mine", "encode", "check", "report")

# What the rules raise, at once or when a target is asked for: a message, and lines of code that are not the
# user's.
FROM_RULES = re.compile(
    rf"""WorkflowError in (?:rule \w+ in )?file "{RULES}", line \d+:
(?P<message>.+?)(?:\n+  File "[^\n]+)*""",
    re.DOTALL,
)
FROM_A_TARGET = re.compile(
    rf"""InputFunctionException in rule \w+ in file "{RULES}", line \d+:
Error:
  (?:WorkflowError|TroveStepsError):
(?P<message>(?:    [^\n]*\n)+)Wildcards:\n.*""",
    re.DOTALL,
)
# A file that Snakemake can't read as a configuration; the second is where a traceback of its own then ends.
OF_A_FILE = re.compile(
    r"WorkflowError[^\n]*:\nConfig file |snakemake/common/configfile\.py\", line \d+, in"
)
NO_DEFAULT_FILE = re.compile(r"Workflow defines configfile (\S+) but it is not present")
OF_AN_OPTION = re.compile(r"Invalid config definition: (?:.*Unparsable value: (.+?)\))?", re.DOTALL)
NO_TARGET = re.compile(r"MissingRuleException:\nNo rule to produce (\S+) \(.*", re.DOTALL)
NO_TASK = re.compile(r"WorkflowError:\nTarget rules may not contain wildcards\..*", re.DOTALL)
COMMAND = re.compile(
    rf"""RuleException:\nCalledProcessError in file "{RULES}", line \d+:\nCommand .* 2> (?P<log>logs/\S+)' """
    r"(?:returned non-zero exit status (?P<status>\d+)|died with <Signals\.(?P<signal>\w+): \d+>)\.\n*",
    re.DOTALL,
)


@dataclass(frozen=True)
class FailedCommand:
    """A step's command that failed: its log, and its exit status or, negative, the signal that ended it."""

    log: Path
    status: int

    @property
    def ending(self) -> str:
        """How it ended, if its log does not say that."""
        from trove_steps.torchrun import how_it_ended

        if self.status < 0:
            return f", which {how_it_ended(self.status)}"
        if self.log.exists() and not self.log.stat().st_size:
            return f", which {how_it_ended(self.status)} and could say nothing: is the disk of its log full?"
        return ""


def failed_command(text: str) -> FailedCommand | None:
    """Return what an error says of a step's command that failed, None if it is another error."""
    if not (found := COMMAND.fullmatch(text)):
        return None
    name, log = found["signal"], found["log"].strip("'\"")
    return FailedCommand(Path(log), -signal.Signals[name] if name else int(found["status"]))


def in_words(text: str, arguments: Sequence[str]) -> str:
    """Return an error of Snakemake's, in our words if it is of the configuration or of what was asked for;
    `arguments` are those of its command line."""
    if OF_A_FILE.search(text):
        return _of_the_files(text, arguments) or text
    if found := NO_DEFAULT_FILE.search(text):
        return f"error: there is no {found[1]} here: name a configuration with --configfile"
    if found := FROM_RULES.fullmatch(text.rstrip()) or FROM_A_TARGET.fullmatch(text):
        return f"error: {textwrap.dedent(found['message']).strip()}"
    if found := OF_AN_OPTION.search(text):
        instead = f", and not {found[1]}" if found[1] else ""
        return f"error: --config takes NAME=VALUE{instead}; a file is named by --configfile"
    if found := NO_TARGET.fullmatch(text):
        return f"error: nothing makes {found[1]}{_nearest_task(found[1])}"
    if NO_TASK.fullmatch(text):
        return f"error: this is the name of a step, not of a task{_nearest_task('')}"
    return text


def _nearest_task(name: str) -> str:
    from trove_steps.wording import nearest

    made = "; what lies in results/ is made by these tasks" if name.startswith("results") else ""
    return f"{nearest(name, list(TASKS))}{made}"


def _of_the_files(text: str, arguments: Sequence[str]) -> str:
    """Say what is wrong with the files that were to be read, "" if that is not known."""
    from trove_steps.config.reading import check_names, read_configurations
    from trove_steps.errors import TroveStepsError

    # --config is another option.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--configfile", "--configfiles", nargs="+", type=Path, default=[])
    paths = parser.parse_known_args(arguments)[0].configfile
    if not paths and "/Snakefile" not in text:
        return ""  # a profile names them
    try:
        check_names(paths)
        read_configurations(paths)
    except TroveStepsError as error:
        return f"error: {error}"
    return ""
