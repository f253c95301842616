"""Files that the configuration names: whether they can be read, and which name was meant if not."""

import difflib
import os

from trove_steps.errors import TroveStepsError
from trove_steps.wording import shown


def check_file(path: str, where: str) -> None:
    """Raise TroveStepsError unless `path` is a file that can be read; suggests the nearest name."""
    name = shown(path)
    if os.path.isdir(path):
        raise TroveStepsError(f"{where}: {name} is a folder; name the file in it")
    if os.path.islink(path) and not os.path.exists(path):
        raise TroveStepsError(
            f"{where}: {name} is a link to {shown(os.readlink(path))}, which leads to no file: mend it"
        )
    if not os.path.exists(path):
        origin = "" if os.path.isabs(path) else f" (relative to {os.getcwd()})"
        raise TroveStepsError(
            f"{where}: the file {name} does not exist{origin}{_nearest_file(path)}"
        )
    if not os.path.isfile(path):
        raise TroveStepsError(
            f"{where}: {name} is a pipe or a device; it is read more than once, so write it to a file"
        )
    if not os.access(path, os.R_OK):
        raise TroveStepsError(f"{where}: the file {name} can't be read: check its permissions")


def _nearest_file(path: str) -> str:
    folder, name = os.path.split(path)
    try:
        siblings = os.listdir(folder or ".")
    except OSError:
        return ""
    close = difflib.get_close_matches(name, siblings, n=1, cutoff=0.6)
    return f"; did you mean {shown(os.path.join(folder, close[0]))}?" if close else ""
