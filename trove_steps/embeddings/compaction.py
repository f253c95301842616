"""Merging shards: many small ones into few large ones, without dead rows.

What replaces a shard is on the disk before the shard is removed, so a kill at any moment loses nothing: at
worst a row stands twice until the next compaction. Jobs and readers may run meanwhile. Who misses a shard
looks its keys up again (`Store.find`, `Vectors`), and one process at a time removes shards
(`Store.maintenance`). On a network file system a reader on another machine may lose a file that it has
open; compact there when no job on another machine reads that encoder.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trove_steps.embeddings.collection import collection_keys, point_anew
from trove_steps.embeddings.shards import DamagedShard, Shard
from trove_steps.embeddings.sorted_keys import SortedKeys, first_of_each
from trove_steps.embeddings.store import Store
from trove_steps.embeddings.verification import problem_of
from trove_steps.errors import TroveStepsError
from trove_steps.keys import TEXT_KEY_BYTES

SHARD_BYTES = 256 << 20
IN_USE_SECONDS = 24 * 3600.0


@dataclass
class Figures:
    """What a compaction did, or would do: shards, rows and bytes before and after; of the rows that are
    gone, `removed` were dead and `duplicates` stood in another merged shard too."""

    shards_before: int = 0
    shards_after: int = 0
    rows_before: int = 0
    rows_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    removed: int = 0
    duplicates: int = 0


@dataclass(frozen=True)
class _Piece:
    """A shard and which of its rows are kept, bool[n]."""

    name: str
    size: int
    keep: np.ndarray


def compact(
    store: Store,
    live: dict[str, np.ndarray] | None = None,
    shard_bytes: int = SHARD_BYTES,
    dry_run: bool = False,
) -> Figures:
    """Merge shards of less than half of `shard_bytes` into shards of about that size.

    live: for each shard that it names, bool[n]: rows that are False are dropped (`live_rows`). Of rows with
    the same key that are merged into one shard, one stays. Shards whose content is not what their name
    says are set aside. Costs memory for one merged shard, and as much free disk. Raises TroveStepsError
    if another process compacts the store, or if it can't be written.
    """
    figures = Figures()
    if dry_run:
        for group in _groups(store, live or {}, shard_bytes, figures):
            _merge(store, group, figures, dry_run)
        return figures
    if not store.shard_names():
        return figures
    with store.maintenance():
        for group in _groups(store, live or {}, shard_bytes, figures):
            _merge(store, group, figures, dry_run)
        for manifest in store.manifests():
            with contextlib.suppress(
                TroveStepsError
            ):  # its rows table is damaged: it was withdrawn
                point_anew(store, manifest)
    return figures


def _groups(
    store: Store, live: dict[str, np.ndarray], shard_bytes: int, figures: Figures
) -> Iterator[list[_Piece]]:
    """Yield shards to be merged into one; count those that stay as they are."""
    open_groups: dict[tuple, list[_Piece]] = {}
    for name in _by_age(store):
        shard = store.open(name)
        if shard is None:
            continue
        size = shard.path.stat().st_size
        keep = live.get(name, np.ones(len(shard), bool))
        figures.shards_before += 1
        figures.rows_before += len(shard)
        figures.bytes_before += size
        if keep.all() and size >= shard_bytes / 2:
            _count_kept(figures, len(shard), size)
            continue
        group = open_groups.setdefault((shard.vectors.dtype, shard.dim), [])
        group.append(_Piece(name, size, keep))
        if sum(piece.size * piece.keep.mean() for piece in group) >= shard_bytes:
            yield open_groups.pop((shard.vectors.dtype, shard.dim))
    yield from open_groups.values()


def _by_age(store: Store) -> list[str]:
    """Return the shards' names, oldest first, so that those of one collection stay together."""
    ages = []
    for name in store.shard_names():
        try:
            ages.append((store.shard_path(name).stat().st_mtime_ns, name))
        except FileNotFoundError:
            continue
    return [name for _, name in sorted(ages)]


def _count_kept(figures: Figures, rows: int, size: int) -> None:
    figures.shards_after += 1
    figures.rows_after += rows
    figures.bytes_after += size


def _merge(store: Store, group: list[_Piece], figures: Figures, dry_run: bool) -> None:
    """Write the kept rows of some shards as one shard, then remove them."""
    if len(group) == 1 and group[0].keep.all():
        _count_kept(figures, len(group[0].keep), group[0].size)
        return
    kept_rows = sum(int(piece.keep.sum()) for piece in group)
    keys, vectors = np.empty((kept_rows, TEXT_KEY_BYTES), np.uint8), None
    merged, rows = [], 0
    for piece in group:  # one open at a time: there may be more than the system lets a process open
        shard = store.open(piece.name) if dry_run else _whole(store, piece.name)
        if shard is None:
            continue
        if vectors is None:
            vectors = np.empty((kept_rows, shard.dim), shard.vectors.dtype)
        stop = rows + int(piece.keep.sum())
        keys[rows:stop] = shard.keys[piece.keep]
        if not dry_run:
            vectors[rows:stop] = shard.vectors[piece.keep]
        merged.append(piece.name)
        figures.removed += len(shard) - (stop - rows)
        rows = stop
    first = first_of_each(keys[:rows])
    distinct = int(first.sum())
    figures.duplicates += rows - distinct
    made = None
    if distinct and dry_run:
        _count_kept(figures, distinct, distinct * (TEXT_KEY_BYTES + vectors[:1].nbytes))
    elif distinct:
        some = slice(rows) if distinct == rows else np.flatnonzero(first)
        made = store.write(keys[some], vectors[some])
        _count_kept(figures, distinct, store.shard_path(made).stat().st_size)
    for name in merged:
        if name != made and not dry_run:
            store.shard_path(name).unlink(missing_ok=True)


def _whole(store: Store, name: str) -> Shard | None:
    """Open a shard whose content is what its name says; another one is set aside.

    Without that, a merge would give damaged rows a sound name.
    """
    problem = problem_of(store, name)
    if problem:
        store.set_aside(name, DamagedShard(problem))
        return None
    return store.open(name)


def live_rows(
    store: Store, manifests: Iterable[Path], older_than: float = IN_USE_SECONDS
) -> dict[str, np.ndarray]:
    """Return, for each shard, bool[n]: which rows the collections of these manifests need.

    All rows of a shard that was written or asked for within the last `older_than` seconds count as needed:
    a job may be about to use them. Memory goes with the rows of the collections.
    """
    blocks = [collection_keys(manifest) for manifest in manifests]
    needed = SortedKeys(np.concatenate([np.empty((0, TEXT_KEY_BYTES), np.uint8), *blocks]))
    live = {}
    for shards in store.scan():
        for shard in shards:
            try:
                age = time.time() - shard.path.stat().st_mtime
            except FileNotFoundError:
                continue
            in_use = age < older_than
            live[shard.name] = (
                np.ones(len(shard), bool) if in_use else needed.places(shard.keys) >= 0
            )
    return live
