"""Records of what lies in the results folder: written last, named by key, checked before they count.

The files beside a record have names for people (`metrics.json`), which say nothing about what they
were computed from. The record `.evaluate/{key}.json` does: it lists the files with sizes and digests,
and a step removes the records of its predecessors before it replaces their files.
"""

import os
from collections.abc import Callable
from pathlib import Path

from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json, write_json
from trove_steps.fingerprint import hash_file


def drop_records(record: Path) -> None:
    """Remove every record beside `record`: the files that they speak of are about to be replaced."""
    if record.parent.is_dir():
        for old in record.parent.glob("*.json"):
            old.unlink(missing_ok=True)


def write_record(record: Path, files: list[Path], **content) -> None:
    """Say that `files` are complete and what they were computed from."""
    base = record.parent.parent
    listed = {
        os.path.relpath(path, base): {"size": path.stat().st_size, "sha256": hash_file(path)}
        for path in files
    }
    write_json(record, {**content, "files": listed})


def is_complete(record: Path, digest_of: Callable[[Path], str] = hash_file) -> bool:
    """Tell whether a record is final and its files still are what it names.

    `digest_of` gives a file's SHA-256; one that remembers them makes this cheap.
    """
    try:
        content = read_json(record)
        base = record.parent.parent
        return content.get("final", True) and all(
            (base / name).stat().st_size == entry["size"]
            and digest_of(base / name) == entry["sha256"]
            for name, entry in content["files"].items()
        )
    except (TroveStepsError, OSError, KeyError, TypeError, AttributeError):
        return False
