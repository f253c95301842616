"""trove-steps cache gc: what of a cache configurations reach, and the removal of what none does."""

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trove_steps.cache.contents import Cache, EncoderFolder, last_write, size_of
from trove_steps.embeddings import compaction
from trove_steps.embeddings.collection import last_use
from trove_steps.embeddings.paths import dropped_mark
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json

ROLES = ("corpus", "queries")


@dataclass(frozen=True)
class Kept:
    """What must stay: collections as (encoder, role, texts), searches by key, digests of inputs, scores of
    pairs as (cross-encoder, key), real paths of files of data sets.

    `growing` are encoders with collections that are yet to be completed: all their shards stay, since
    they are what an interrupted run goes on from.
    """

    collections: frozenset[tuple[str, str, str]] = frozenset()
    searches: frozenset[str] = frozenset()
    inputs: frozenset[str] = frozenset()
    growing: frozenset[str] = frozenset()
    pair_scores: frozenset[tuple[str, str]] = frozenset()
    files: frozenset[str] = frozenset()

    def __or__(self, other: "Kept") -> "Kept":
        return Kept(*(getattr(self, name) | getattr(other, name) for name in vars(self)))


def reached_by(plan) -> Kept:
    """Return what the cells of a plan use, finished or not."""
    encodings = plan.encodings.values()
    return Kept(
        frozenset((e.encoder, e.role, e.texts) for e in encodings),
        frozenset(plan.searches),
        frozenset(
            [digest for e in encodings for digest in e.digests]
            + [digest for data in plan.datasets.values() for digest in data.digests]
            + [link.name for link in plan.model_links]
        ),
        frozenset(e.encoder for e in encodings if not plan.encoding_manifest(e).exists()),
        frozenset((plan.cross_encoder.key, key) for key in plan.rescores),
        frozenset(
            os.path.realpath(path)
            for data in plan.datasets.values()
            for files in (data.corpus, data.queries, data.qrels)
            for path in files.paths
        ),
    )


def reached_by_list(lines: Iterable[str]) -> Kept:
    """Return what a list of manifests keeps, a path a line; "#" begins a comment."""
    kept = Kept()
    for line in lines:
        path = Path(line.partition("#")[0].strip())
        if not path.name:
            continue
        content = read_json(path)
        if "pairs" in content:
            kept |= Kept(pair_scores=frozenset([(path.parent.name, path.stem)]))
        elif "arrow_sha256" in content:
            recipe = content["recipe"]
            sides = frozenset(
                (recipe[side]["encoder"], side, recipe[side]["texts"]) for side in ROLES
            )
            kept |= Kept(sides, frozenset([path.parent.name]))
        elif "keys_sha256" in content:
            identity = content["encoder"], content["role"], content["texts"]
            kept |= Kept(frozenset([identity]))
        else:
            raise TroveStepsError(
                f"{path}: not the manifest of a search, a collection or scores of pairs"
            )
    return kept


@dataclass(frozen=True)
class Garbage:
    """Something that nothing reaches: a file or folder, or rows of an encoder's shards."""

    path: Path
    what: str
    bytes: int
    last_use: float


def collect_garbage(cache: Cache, kept: Kept, older_than: float, dry_run: bool) -> list[Garbage]:
    """Remove what `kept` does not reach and nobody has used for `older_than` seconds; return it.

    Rows of shards go by compaction, which rewrites the shards that also hold rows that stay. Shards
    that a job has written or asked for since count as used.
    """
    horizon = time.time() - older_than
    found = [
        *_unreached_searches(cache, kept),
        *_unreached_pair_scores(cache, kept),
        *_unreached_inputs(cache, kept),
        *_unreached_copies(cache, kept),
    ]
    removed = [garbage for garbage in found if garbage.last_use <= horizon]
    if not dry_run:
        for garbage in removed:
            _remove(garbage.path)
    for folder in cache.encoders:
        removed += _collect_vectors(folder, kept, older_than, dry_run)
    return removed


def _unreached_searches(cache: Cache, kept: Kept) -> Iterator[Garbage]:
    for folder in cache.searches:
        if folder.name not in kept.searches:
            yield Garbage(folder, "search", size_of(folder), last_write(folder.iterdir()))


def _unreached_pair_scores(cache: Cache, kept: Kept) -> Iterator[Garbage]:
    """Yield the scores that nothing reaches; a cross-encoder that nothing reaches goes as a whole."""
    reached = {cross_encoder for cross_encoder, _ in kept.pair_scores}
    for folder in cache.cross_encoders:
        if folder.name not in reached:
            used = last_write(folder.rglob("*"))
            yield Garbage(folder, "scores of a cross-encoder", size_of(folder), used)
            continue
        for manifest in folder.glob("*.json"):
            key = folder.name, manifest.stem
            if manifest.name != "recipe.json" and key not in kept.pair_scores:
                for path in (manifest, manifest.with_suffix(".arrow")):
                    yield Garbage(path, "scores of pairs", size_of(path), last_write([path]))


def _unreached_inputs(cache: Cache, kept: Kept) -> Iterator[Garbage]:
    for link in sorted((cache.directory / "in").glob("*")):
        if link.name not in kept.inputs and not link.exists():
            yield Garbage(link, "link to a file that is gone", 0, last_write([link]))
    for index in sorted((cache.directory / "lines").glob("*.npy")):
        digest = index.name.partition("-")[0]
        if digest not in kept.inputs and not (cache.directory / "in" / digest).exists():
            used = last_write([index])
            yield Garbage(index, "lines of a file that is gone", size_of(index), used)


def _unreached_copies(cache: Cache, kept: Kept) -> Iterator[Garbage]:
    """Yield the files made of data sets that were fetched, a folder each; what was fetched stays recorded,
    so that they can be made again as they were."""
    files = (cache.directory / "imported").rglob("*")
    folders = {path.parent for path in files if path.is_file() and path.suffix != ".lock"}
    used = {os.path.dirname(path) for path in kept.files}
    for folder in sorted(folders):
        if os.path.realpath(folder) not in used:
            last = last_write(folder.iterdir())
            yield Garbage(folder, "copy of a data set", size_of(folder), last)


def _collect_vectors(
    folder: EncoderFolder, kept: Kept, older_than: float, dry_run: bool
) -> list[Garbage]:
    """Remove the collections of an encoder that nothing reaches, then the rows that none has."""
    removed, staying = [], []
    for collection in folder.collections:
        used = last_use(collection.manifest)
        reached = (folder.key, collection.role, collection.texts) in kept.collections
        if reached or time.time() - used < older_than:
            staying.append(collection.manifest)
            continue
        if not dry_run:
            _remove(dropped_mark(collection.manifest))
        for path in (collection.manifest, collection.rows_path):
            removed.append(Garbage(path, collection.role, size_of(path), used))
            if not dry_run:
                _remove(path)
    if folder.key in kept.growing:
        return removed
    live = compaction.live_rows(folder.store, staying, older_than)
    if not all(rows.all() for rows in live.values()):
        shards = [folder.store.shard_path(name) for name in live]
        used = last_write(shards)
        figures = compaction.compact(folder.store, live=live, dry_run=dry_run)
        freed = figures.bytes_before - figures.bytes_after
        removed.append(
            Garbage(folder.store.shards_directory, f"{figures.removed:,} rows", freed, used)
        )
    if not staying and not any(rows.any() for rows in live.values()) and not dry_run:
        _remove(folder.directory)
    return removed


def _remove(path: Path) -> None:
    """Delete a file or a folder, in which manifests go before what they promise."""
    try:
        if path.is_dir() and not path.is_symlink():
            for manifest in path.glob("*.json"):
                manifest.unlink(missing_ok=True)
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise TroveStepsError(
            f"{path} can't be removed ({error.strerror}): check its permissions"
        ) from None
