"""What Snakemake says of a mistake in the configuration, as a user reads it."""

import argparse
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

# What the rules raise, at once or when a target is asked for: a message, and lines of code that are not the
# user's.
RULES = r"[^\"\n]*(?:/workflow/rules/\w+\.smk|/Snakefile)"
FROM_RULES = re.compile(
    rf"""WorkflowError in (?:rule \w+ in )?file "{RULES}", line \d+:
(?P<message>.+?)\n*(?:\n+  File "[^\n]+)*\n*""",
    re.DOTALL,
)
FROM_A_TARGET = re.compile(
    rf"""InputFunctionException in rule \w+ in file "{RULES}", line \d+:
Error:
  WorkflowError:
(?P<message>(?:    [^\n]*\n)+)Wildcards:\n.*""",
    re.DOTALL,
)
# A command that failed, whose log says why.
COMMAND = re.compile(
    rf"""RuleException:\nCalledProcessError in file "{RULES}", line \d+:\nCommand .* 2> logs/.*""",
    re.DOTALL,
)
# What Snakemake says of a file that it can't read as a configuration, and where its traceback then ends.
OF_A_FILE = re.compile(
    r"WorkflowError[^\n]*:\nConfig file |snakemake/common/configfile\.py\", line \d+, in"
)


def in_words(text: str, arguments: Sequence[str]) -> str:
    """Return an error of Snakemake's, in our words if it is of the configuration; `arguments` are those of
    its command line."""
    if OF_A_FILE.search(text):
        return _of_the_files(arguments) or text
    if found := FROM_RULES.fullmatch(text) or FROM_A_TARGET.fullmatch(text):
        return f"error: {textwrap.dedent(found['message']).strip()}"
    return text


def is_told_by_a_log(text: str) -> bool:
    """Whether an error says only that a command failed, whose log is shown beside it."""
    return COMMAND.fullmatch(text) is not None


def _of_the_files(arguments: Sequence[str]) -> str:
    """Say what is wrong with the files that were to be read, "" if nothing is."""
    from trove_steps.config.reading import check_names, read_configurations
    from trove_steps.errors import TroveStepsError

    # --config is another option.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--configfile", "--configfiles", nargs="+", type=Path, default=[])
    paths = parser.parse_known_args(arguments)[0].configfile
    try:
        check_names(paths)
        read_configurations(paths)
    except TroveStepsError as error:
        return f"error: {error}"
    return ""
