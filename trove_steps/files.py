"""Writing files that are whole or absent, also after a kill or a power cut."""

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from trove_steps.errors import TroveStepsError


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to the disk and rename it to `path`.

    Readers see the old file or the new one, never a part. Raises TroveStepsError where the file can't be
    written: the disk is full, the folder is read-only, a parent is no folder.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TroveStepsError(
                f"the disk of {path.parent} is full: free some space and start again; "
                "what was finished is kept"
            ) from error
        raise TroveStepsError(
            f"{path} can't be written ({error}): check the permissions of {path.parent}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value) -> None:
    """Write a JSON file atomically, sorted and indented, the same bytes for the same value."""
    with written_atomically(path) as temporary:
        temporary.write_text(
            json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n",
            encoding="utf-8",
        )


def read_json(path: Path):
    """Read a JSON file that a step wrote; a damaged one is reported with what to do."""
    try:
        return _parsed(path)
    except ValueError as error:
        raise TroveStepsError(
            f"{path} is damaged ({error}): delete it and run again; only this file is made anew"
        ) from None


def _parsed(path: Path):
    """Return the content of a JSON file; ValueError if it is damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TroveStepsError(f"{path} is missing: {way_to(path)}") from None
    except OSError as error:
        raise TroveStepsError(f"{path} can't be read ({error}): check its permissions") from None


def way_to(path: Path) -> str:
    """Return what makes a missing file of the cache or the results.

    Snakemake misses nothing of the cache where all results are there, so that plain `snakemake` won't do.
    """
    kind = Path(path).absolute().parent.parent.name
    if kind == "embeddings":
        return "run `snakemake encode`"
    if kind in ("searches", "pair_scores"):
        return f"run `snakemake {path}`"
    return "run the step that makes it first"


_repairs = False


@contextlib.contextmanager
def repairing() -> Iterator[None]:
    """Let manifests whose promise is broken be removed: in the steps, not in tools that only look."""
    global _repairs
    before, _repairs = _repairs, True
    try:
        yield
    finally:
        _repairs = before


def is_repairing() -> bool:
    """Tell whether this is within `repairing()`."""
    return _repairs


def read_manifest(path: Path, what: str, fields: Mapping[str, type]) -> dict:
    """Read the manifest of a collection, a search or scores, which has these fields.

    Raises TroveStepsError if it is missing, the manifest of something else, or damaged; a damaged one is
    withdrawn.
    """
    if Path(path).suffix != ".json" or Path(path).is_dir():
        raise TroveStepsError(f"{path} is not the manifest of {what}: name its .json file")
    try:
        content = _parsed(path)
    except ValueError as error:
        raise TroveStepsError(f"{path} is damaged ({error}): {withdraw(path, error)}") from None
    if not isinstance(content, dict) or not all(
        isinstance(content.get(name), kind) for name, kind in fields.items()
    ):
        raise TroveStepsError(f"{path} is not the manifest of {what}: it lacks {', '.join(fields)}")
    return content


def withdraw(manifest: Path, problem: Exception) -> str:
    """Remove a manifest whose promise is broken, so that the next run keeps it; return what to do.

    Nothing is removed where the system only refused to read (no permission, too many open files), nor
    outside of `repairing()`.
    """
    if not _repairs:
        return f"`trove-steps cache verify` removes {manifest}; then {way_to(manifest)}"
    if getattr(problem, "errno", None) in (None, errno.ENOENT):
        with contextlib.suppress(OSError):
            Path(manifest).unlink(missing_ok=True)
            return "run again"
    return f"see to that, or delete {manifest}, and run again"
