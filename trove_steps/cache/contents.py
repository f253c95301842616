"""What lies in a cache: its encoders with their collections, searches, and scores of cross-encoders."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trove_steps.embeddings.shards import DamagedShard, Shard
from trove_steps.embeddings.store import Store
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json
from trove_steps.keys import TEXT_KEY_BYTES


@dataclass
class Collection:
    """The encoded texts of some files: a manifest and its table of rows."""

    manifest: Path
    role: str
    texts: str
    content: dict  # of the manifest

    @property
    def rows_path(self) -> Path:
        return self.manifest.with_suffix(".rows.arrow")

    @property
    def rows(self) -> int:
        return self.content["rows"]

    @property
    def vector_bytes(self) -> int:
        """The size of its vectors and keys; rows that other collections share count too."""
        return self.rows * (TEXT_KEY_BYTES + 4 * self.content["dim"])


@dataclass
class EncoderFolder:
    """The vectors of one encoder."""

    directory: Path

    @property
    def key(self) -> str:
        return self.directory.name

    @cached_property
    def store(self) -> Store:
        return Store(self.directory.parent.parent, self.key)

    @cached_property
    def recipe(self) -> dict:
        """The unhashed recipe; empty if no job has finished yet."""
        return self.store.recipe() or {}

    @cached_property
    def collections(self) -> list[Collection]:
        found = []
        for path in self.store.manifests():
            role, _, texts = path.stem.partition("-")
            found.append(Collection(path, role, texts, read_json(path)))
        return found

    def shards(self) -> dict[str, tuple[int, int]]:
        """Return name → (rows, bytes) of every shard that can be opened."""
        found = {}
        for name in self.store.shard_names():
            path = self.store.shard_path(name)
            try:
                found[name] = len(Shard(path)), path.stat().st_size
            except (DamagedShard, FileNotFoundError):
                continue
        return found


class Cache:
    """A cache folder. Raises TroveStepsError if there is none."""

    def __init__(self, directory: Path):
        self.directory = Path(directory)
        if not self.directory.is_dir():
            raise TroveStepsError(
                f"there is no cache {self.directory}: name it with --encoding-cache-dir"
            )

    @cached_property
    def encoders(self) -> list[EncoderFolder]:
        folders = sorted((self.directory / "embeddings").glob("*"))
        return [EncoderFolder(folder) for folder in folders if folder.is_dir()]

    @cached_property
    def searches(self) -> list[Path]:
        """The folders of all searches."""
        return sorted(path for path in (self.directory / "searches").glob("*") if path.is_dir())

    @cached_property
    def cross_encoders(self) -> list[Path]:
        """The folders with the scores of all cross-encoders."""
        return sorted(path for path in (self.directory / "pair_scores").glob("*") if path.is_dir())

    def name_of(self, digest: str) -> str:
        """Return the path that a file or model had when it was last seen, "" if that is unknown."""
        link = self.directory / "in" / digest
        try:
            target = os.readlink(link)
        except OSError:
            return ""
        relative = os.path.relpath(target)
        return relative if not relative.startswith("..") else target


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 if it is gone. Links are not followed."""
    if path.is_dir() and not path.is_symlink():
        return sum(size_of(part) for part in path.iterdir())
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def last_write(paths: Iterable[Path]) -> float:
    """Return when one of these files was last written, in seconds since 1970."""
    return max((path.lstat().st_mtime for path in paths if os.path.lexists(path)), default=0.0)
