"""Checking shards: a shard's name is the SHA-256 of its bytes, and its vectors are finite."""

import contextlib
import hashlib
from dataclasses import dataclass

import numpy as np

from trove_steps.embeddings.collection import collection_keys
from trove_steps.embeddings.paths import dropped_mark
from trove_steps.embeddings.shards import DamagedShard, Shard
from trove_steps.embeddings.store import Store
from trove_steps.errors import TroveStepsError


@dataclass(frozen=True)
class Damaged:
    """A shard that is not what it should be."""

    name: str
    problem: str


def verify(store: Store, set_aside: bool = True) -> list[Damaged]:
    """Compare the SHA-256 of every shard with its name, and look for NaN and infinity.

    Unless `set_aside` is False, damaged shards are set aside and the manifests of collections that
    need them are removed, so that `snakemake encode` encodes their rows again.
    """
    found = []
    for name in store.shard_names():
        problem = problem_of(store, name)
        if problem:
            found.append(Damaged(name, problem))
            if set_aside:
                store.set_aside(name, DamagedShard(problem))
    if found and set_aside:
        for manifest in store.manifests():
            if dropped_mark(manifest).exists():
                continue
            with contextlib.suppress(
                TroveStepsError
            ):  # its rows table is damaged: it was withdrawn
                if not store.find(collection_keys(manifest)).known.all():
                    manifest.unlink(missing_ok=True)
    return found


def problem_of(store: Store, name: str) -> str | None:
    """Return what is wrong with the content of a shard, None if nothing is or if it has vanished.

    Raises TroveStepsError if it can't be read.
    """
    path = store.shard_path(name)
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != name:
            return f"{path}: its content has the SHA-256 {digest}"
        if not np.isfinite(Shard(path).vectors).all():
            return f"{path}: it holds NaN or infinity"
    except FileNotFoundError:
        return None  # merged or set aside by another process
    except DamagedShard as damage:
        return str(damage)
    except OSError as error:
        raise TroveStepsError(f"a shard of the store can't be read: {error}") from None
    return None
