"""Digests of files, computed once and remembered, and content-named links to them.

Snakemake's rules read only the links `in/{digest}`: a file that was touched, moved or renamed has
the same link and causes no job; a file that was edited has another one.
"""

import contextlib
import hashlib
import os
import re
import time
import uuid
from pathlib import Path

import xxhash

from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json, write_json
from trove_steps.keys import KEY_DIGITS

# A file that changed this recently may change again within the same tick of the file system's
# clock, unseen by its times: its digest is not remembered.
SETTLING_SECONDS = 2.0
BLOCK_BYTES = 1 << 18


def hash_file(path: Path) -> str:
    """Return the SHA-256 (64 hex digits) of a file's bytes; TroveStepsError if it can't be read."""
    sha256 = hashlib.sha256()
    _read_into(path, sha256)
    return sha256.hexdigest()


def _read_into(path: Path, *hashes) -> None:
    """Update hashes with a file's bytes; TroveStepsError if it can't be read."""
    block = memoryview(bytearray(BLOCK_BYTES))
    try:
        with open(path, "rb", buffering=0) as file:
            while size := file.readinto(block):
                for each in hashes:
                    each.update(block[:size])
    except OSError as error:
        raise TroveStepsError(f"{path} can't be read ({error.strerror})") from None


class Fingerprints:
    """Digests of files, remembered by (real path, size, mtime, ctime, inode).

    The change time (ctime) can't be set by a program, so a file that was rewritten in place with its
    old size and mtime is still noticed. Each memory is a small file of its own, written by rename:
    any number of processes on any number of hosts may share the directory.
    """

    def __init__(self, cache_dir: Path):
        self.cache_dir = Path(cache_dir)

    def file(self, path: Path) -> str:
        """Return the SHA-256 of a file, from memory if nothing about the file has changed.

        Raises TroveStepsError if it can't be read, changes meanwhile, or is a damaged blob of the
        Hub's cache.
        """
        real = Path(os.path.realpath(path))
        before = identity(real)
        memo = self._memo(real)
        remembered = _memory(memo)
        if remembered.get("identity") == before and "sha256" in remembered:
            digest = remembered["sha256"]
        else:
            started = time.time()
            sha256, checksum = hashlib.sha256(), xxhash.xxh3_128()
            _read_into(real, sha256, checksum)
            digest = sha256.hexdigest()
            if identity(real) != before:
                raise TroveStepsError(
                    f"{path} changed while it was read: wait until it is complete, then start again"
                )
            if started - max(before["mtime_ns"], before["ctime_ns"]) / 1e9 > SETTLING_SECONDS:
                shown = os.fsencode(real).decode("utf-8", "backslashreplace")
                found = {"identity": before, "sha256": digest, "xxh3_128": checksum.hexdigest()}
                _remember(memo, {"path": shown, **found})
        _check_blob(path, real, digest)
        return digest

    def holds(self, path: Path, digest: str) -> bool:
        """Read all of a file and tell whether its bytes are those with this SHA-256.

        That bytes are the same a checksum of 128 bits tells as well, in a tenth of the time: it is
        compared first if `file` has remembered it beside that SHA-256. The file's times play no part.
        """
        real = Path(os.path.realpath(path))
        remembered = _memory(self._memo(real))
        if remembered.get("sha256") == digest and "xxh3_128" in remembered:
            checksum = xxhash.xxh3_128()
            _read_into(real, checksum)
            if checksum.hexdigest() == remembered["xxh3_128"]:
                return True
        return hash_file(real) == digest

    def _memo(self, real: Path) -> Path:
        return self.cache_dir / "fingerprints" / f"{_path_key(real)}.json"

    def intern(self, path: Path, digest: str) -> Path:
        """Return the link `in/{digest}` in the cache, made to point at `path`, whose digest that is.

        A link that leads there already is left alone, so a finished cache may be read-only; and so is one
        to another file with the same content, which another run may be about to read.
        """
        link = self.cache_dir / "in" / digest
        target = os.path.realpath(path)
        if os.path.islink(link) and (os.path.realpath(link) == target or self._leads_to(link)):
            return link
        temporary = link.with_name(f".{digest}.{uuid.uuid4().hex[:12]}")
        try:
            link.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(target, temporary)
            os.replace(temporary, link)
        except OSError as error:
            raise TroveStepsError(
                f"the cache {self.cache_dir} can't be written ({error}): check its permissions, or name "
                "another folder as encoding_cache_dir"
            ) from None
        return link

    def _leads_to(self, link: Path) -> bool:
        """Tell whether a link leads to a file that has the SHA-256 for which the link is named."""
        try:
            return link.is_file() and self.file(link) == link.name
        except TroveStepsError:
            return False


def check_unchanged(path: Path, expected: str, shown_as: str | None = None) -> None:
    """Hash a file's bytes and raise TroveStepsError unless their SHA-256 is the expected one."""
    if hash_file(path) != expected:
        raise TroveStepsError(
            f"{shown_as or os.path.realpath(path)} changed since this run was planned: start the "
            "workflow again, so that its results are named by what the file holds now"
        )


def _check_blob(path: Path, real: Path, digest: str) -> None:
    """Refuse a damaged download: the Hub's cache names a large file by its SHA-256."""
    promised = real.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", real.name)
    if promised and real.name != digest:
        raise TroveStepsError(
            f"{path} is damaged: the file that it links to, {real}, does not have the SHA-256 that it "
            "is named for; delete both and fetch the model again"
        )


def _path_key(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:KEY_DIGITS]


def identity(path: Path) -> dict:
    """Return what changes with a file: size, times, inode. No program can set the change time."""
    try:
        stat = os.stat(path)
    except OSError as error:
        raise TroveStepsError(f"{path} can't be read ({error.strerror})") from None
    return {
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
        "inode": stat.st_ino,
    }


def _memory(memo: Path) -> dict:
    """Return what was remembered; nothing if that is damaged or not there."""
    try:
        remembered = read_json(memo)
    except TroveStepsError:
        return {}
    return remembered if isinstance(remembered, dict) else {}


def _remember(memo: Path, record: dict) -> None:
    # A cache that can't be written costs time, not correctness.
    with contextlib.suppress(TroveStepsError):
        write_json(memo, record)
