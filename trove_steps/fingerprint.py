"""Digests of files, computed once and remembered, and content-named links to them.

Snakemake's rules read only the links `in/{digest}`: a file that was touched, moved or renamed has
the same link and causes no job; a file that was edited has another one.
"""

import contextlib
import hashlib
import os
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json, write_json
from trove_steps.keys import recipe_key

# A file that changed this recently may change again within the same tick of the file system's
# clock, unseen by its times: its digest is not remembered.
SETTLING_SECONDS = 2.0
BLOCK_BYTES = 1 << 20


def hash_file(path: Path) -> str:
    """Return the SHA-256 (64 hex digits) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Fingerprints:
    """Digests of files, remembered by (real path, size, mtime, ctime, inode).

    The change time (ctime) can't be set by a program, so a file that was rewritten in place with its
    old size and mtime is still noticed. Each memory is a small file of its own, written by rename:
    any number of processes on any number of hosts may share the directory.
    """

    def __init__(self, cache_dir: Path):
        self.cache_dir = Path(cache_dir)

    def file(self, path: Path) -> str:
        """Return the SHA-256 of a file, from memory if nothing about the file has changed."""
        real = Path(os.path.realpath(path))
        before = _identity(real)
        memo = self.cache_dir / "fingerprints" / f"{recipe_key({'path': str(real)})}.json"
        remembered = _recall(memo)
        if remembered and remembered["identity"] == before:
            return remembered["sha256"]
        started = time.time()
        digest = hash_file(real)
        if _identity(real) != before:
            raise TroveStepsError(
                f"{path} changed while it was read: wait until it is complete, then start again"
            )
        if started - max(before["mtime_ns"], before["ctime_ns"]) / 1e9 > SETTLING_SECONDS:
            _remember(memo, {"path": str(real), "identity": before, "sha256": digest})
        return digest

    def files(self, folder: Path, names: Iterable[str]) -> dict[str, str]:
        """Return name → SHA-256 for some files of a folder."""
        return {name: self.file(Path(folder) / name) for name in names}

    def intern(self, path: Path, digest: str) -> Path:
        """Return the link `in/{digest}` in the cache, made to point at `path`.

        A link that already leads to a file or folder of this digest is left alone.
        """
        link = self.cache_dir / "in" / digest
        target = os.path.realpath(path)
        if os.path.islink(link) and os.path.realpath(link) == target:
            return link
        link.parent.mkdir(parents=True, exist_ok=True)
        temporary = link.with_name(f".{digest}.{uuid.uuid4().hex[:12]}")
        os.symlink(target, temporary)
        os.replace(temporary, link)
        return link


def check_unchanged(path: Path, expected: str, shown_as: str | None = None) -> None:
    """Hash a file's bytes and raise TroveStepsError unless their SHA-256 is the expected one."""
    if hash_file(path) != expected:
        raise TroveStepsError(
            f"{shown_as or os.path.realpath(path)} changed since this run was planned: start the "
            "workflow again, so that its results are named by what the file holds now"
        )


def _identity(path: Path) -> dict:
    stat = os.stat(path)
    return {
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
        "inode": stat.st_ino,
    }


def _recall(memo: Path) -> dict | None:
    try:
        return read_json(memo)
    except (TroveStepsError, OSError):
        return None


def _remember(memo: Path, record: dict) -> None:
    # A cache that can't be written costs time, not correctness.
    with contextlib.suppress(OSError):
        write_json(memo, record)
