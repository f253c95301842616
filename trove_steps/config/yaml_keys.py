"""Names that stand twice in a section of a YAML file."""

from collections.abc import Iterable
from pathlib import Path

import yaml

from trove_steps.errors import TroveStepsError
from trove_steps.wording import dotted


def check_unique_keys(paths: Iterable[Path]) -> None:
    """Raise TroveStepsError for a name that stands twice in a section of a YAML file.

    YAML's readers take the last one and say nothing. What can't be read is left to them.
    """
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                root = yaml.compose(file, yaml.SafeLoader)
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            continue
        try:
            _check_unique(root, path, [])
        except RecursionError:
            raise TroveStepsError(
                f"{path}: a section holds itself, by an alias *NAME inside of &NAME: write it out"
            ) from None


def _check_unique(node, path: Path, place: list[str]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _check_unique(item, path, [*place, number])
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
            continue
        line = key.start_mark.line + 1
        if key.value in lines:
            raise TroveStepsError(
                f"{dotted([*place, key.value])}: stands twice in {path}, in lines {lines[key.value]} "
                f"and {line}: the first one would be ignored"
            )
        lines[key.value] = line
        _check_unique(value, path, [*place, key.value])
