"""trove-steps cache verify: everything in a cache compared with its hashes."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from trove_steps.cache.contents import Cache, Collection, EncoderFolder, size_of
from trove_steps.embeddings import verification
from trove_steps.embeddings.collection import collection_keys
from trove_steps.embeddings.paths import dropped_mark
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json, way_to
from trove_steps.fingerprint import hash_file


@dataclass
class Damage:
    """Something that is not what its name or its manifest says; `remedy` is what was done about it."""

    path: Path
    problem: str
    remedy: str


@dataclass
class Verification:
    """What was read and found."""

    shards: int = 0
    collections: int = 0
    searches: int = 0
    bytes: int = 0
    damages: list[Damage] = field(default_factory=list)


def verify(cache: Cache, repair: bool = True) -> Verification:
    """Read everything and compare it with its hashes.

    With `repair`, damaged shards are set aside and manifests whose promise is broken are removed, so
    that just these can be made anew.
    """
    found = Verification()
    for folder in cache.encoders:
        collections = folder.collections  # listed before those of damaged shards are removed
        _verify_shards(folder, found, repair)
        for collection in collections:
            found.collections += 1
            problem = _collection_problem(folder, collection)
            if problem:
                _remove_manifest(collection.manifest, problem, found, repair)
    for search in cache.searches:
        for manifest in sorted(search.glob("top*.json")):
            found.searches += 1
            problem = _arrow_problem(manifest, found)
            if problem:
                _remove_manifest(manifest, problem, found, repair)
    for folder in cache.cross_encoders:
        for manifest in sorted(folder.glob("*.json")):
            problem = manifest.name != "recipe.json" and _arrow_problem(manifest, found)
            if problem:
                _remove_manifest(manifest, problem, found, repair)
    return found


def _verify_shards(folder: EncoderFolder, found: Verification, repair: bool) -> None:
    for name in folder.store.shard_names():
        found.shards += 1
        found.bytes += size_of(folder.store.shard_path(name))
    remedy = "set aside; `snakemake encode` encodes its texts again" if repair else "left alone"
    for damaged in verification.verify(folder.store, set_aside=repair):
        path = folder.store.shard_path(damaged.name)
        found.damages.append(Damage(path, damaged.problem.removeprefix(f"{path}: "), remedy))


def _collection_problem(folder: EncoderFolder, collection: Collection) -> str:
    """Return what is wrong with a collection, "" if the store has a vector for each of its keys."""
    if not collection.manifest.exists():
        return "some of its vectors are not in the store"
    try:
        keys = collection_keys(collection.manifest)
    except TroveStepsError as error:
        return str(error)
    if hashlib.sha256(keys.tobytes()).hexdigest() != collection.content["keys_sha256"]:
        return "its keys do not have the hash that the manifest gives"
    if dropped_mark(collection.manifest).exists():
        return ""
    lost = len(keys) - int(folder.store.find(keys).known.sum())
    return f"{lost:,} of its {len(keys):,} vectors are not in the store" if lost else ""


def _arrow_problem(manifest: Path, found: Verification) -> str:
    path = manifest.with_suffix(".arrow")
    found.bytes += size_of(path)
    try:
        sound = hash_file(path) == read_json(manifest)["arrow_sha256"]
    except TroveStepsError as error:
        return str(error)
    except (KeyError, TypeError):
        return "it is no manifest of a ranking: it gives no hash"
    return "" if sound else f"{path.name} does not have the hash that the manifest gives"


def _remove_manifest(path: Path, problem: str, found: Verification, repair: bool) -> None:
    remedy = "left alone"
    if repair:
        try:
            path.unlink(missing_ok=True)
            remedy = f"removed; to have it again, {way_to(path)}"
        except OSError as error:
            remedy = f"can't be removed ({error.strerror})"
    found.damages.append(Damage(path, problem, remedy))
