"""What lies in a cache: listed, checked against its hashes, and cleared of what nothing reaches."""

import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from trove_steps.embeddings import compaction, verification
from trove_steps.embeddings.collection import collection_keys, last_use
from trove_steps.embeddings.paths import dropped_mark
from trove_steps.embeddings.shards import DamagedShard, Shard
from trove_steps.embeddings.store import Store
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json
from trove_steps.fingerprint import hash_file
from trove_steps.keys import TEXT_KEY_BYTES, recipe_key

ROLES = ("corpus", "queries")


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


def _last_write(paths: Iterable[Path]) -> float:
    """Return when one of these files was last written, in seconds since 1970."""
    return max((path.lstat().st_mtime for path in paths if os.path.lexists(path)), default=0.0)


# --- du ------------------------------------------------------------------------------------------


def usage(cache: Cache, names: dict[tuple[str, str, str], list[str]]) -> dict:
    """Return what takes how much room, as JSON holds it.

    `names` says which data sets of a configuration a collection (role, encoder, texts) belongs to.
    Bytes of collections overlap where they share texts; those of encoders do not.
    """
    encoders, collections = [], []
    for folder in cache.encoders:
        shards = folder.shards()
        listed = []
        for collection in folder.collections:
            files = collection.content["recipe"].get("files", [])
            listed.append(
                {
                    "encoder": folder.key,
                    "role": collection.role,
                    "texts": collection.texts,
                    "files": [cache.name_of(digest) or digest for digest in files],
                    "datasets": names.get((collection.role, folder.key, collection.texts), []),
                    "rows": collection.rows,
                    "bytes": collection.vector_bytes + size_of(collection.rows_path),
                    "last_use": last_use(collection.manifest),
                }
            )
        paths = [folder.store.shard_path(name) for name in shards]
        encoders.append(
            {
                "encoder": folder.key,
                "model": _model_name(cache, folder.recipe),
                "recipe": folder.recipe,
                "shards": len(shards),
                "rows": sum(rows for rows, _ in shards.values()),
                "bytes": size_of(folder.directory),
                "last_use": max([_last_write(paths), *(entry["last_use"] for entry in listed)]),
            }
        )
        collections += listed
    parts = {
        path.name: size_of(path)
        for path in sorted(cache.directory.iterdir())
        if path.name != "embeddings"
    }
    total = size_of(cache.directory)
    return {"encoders": encoders, "collections": collections, "parts": parts, "bytes": total}


def _model_name(cache: Cache, recipe: dict) -> str:
    if "vectors" in recipe:
        return ", ".join(cache.name_of(digest) or digest for digest in recipe["vectors"])
    files = recipe.get("model_files", {})
    return cache.name_of(recipe_key({"kind": "model", "files": files})) if files else ""


def describe_encoder(recipe: dict) -> str:
    """Say a recipe in a few words: mean, normalize, 256 tokens, float32, …"""
    if "model_files" not in recipe:
        return "computed elsewhere" if recipe else "unknown"
    words = [str(recipe.get("pooling"))]
    if recipe.get("normalize"):
        words.append("normalize")
    words += [f"{recipe.get('max_len')} tokens", str(recipe.get("torch_dtype"))]
    said = {"kind", "version", "model_files", "pooling", "normalize", "max_len", "torch_dtype"}
    for name, value in recipe.items():
        if name not in said and value:
            shown = value["name"] if isinstance(value, dict) and "name" in value else value
            words.append(name if value is True else f"{name} {shown}")
    return ", ".join(words)


# --- verify --------------------------------------------------------------------------------------


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
    that the next run makes just these anew.
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
    remedy = "set aside; its texts are encoded again" if repair else "left alone"
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
            remedy = "removed, so that the next run makes it anew"
        except OSError as error:
            remedy = f"can't be removed ({error.strerror})"
    found.damages.append(Damage(path, problem, remedy))


# --- gc ------------------------------------------------------------------------------------------


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
            yield Garbage(folder, "search", size_of(folder), _last_write(folder.iterdir()))


def _unreached_pair_scores(cache: Cache, kept: Kept) -> Iterator[Garbage]:
    """Yield the scores that nothing reaches; a cross-encoder that nothing reaches goes as a whole."""
    reached = {cross_encoder for cross_encoder, _ in kept.pair_scores}
    for folder in cache.cross_encoders:
        if folder.name not in reached:
            used = _last_write(folder.rglob("*"))
            yield Garbage(folder, "scores of a cross-encoder", size_of(folder), used)
            continue
        for manifest in folder.glob("*.json"):
            key = folder.name, manifest.stem
            if manifest.name != "recipe.json" and key not in kept.pair_scores:
                for path in (manifest, manifest.with_suffix(".arrow")):
                    yield Garbage(path, "scores of pairs", size_of(path), _last_write([path]))


def _unreached_inputs(cache: Cache, kept: Kept) -> Iterator[Garbage]:
    for link in sorted((cache.directory / "in").glob("*")):
        if link.name not in kept.inputs and not link.exists():
            yield Garbage(link, "link to a file that is gone", 0, _last_write([link]))
    for index in sorted((cache.directory / "lines").glob("*.npy")):
        digest = index.name.partition("-")[0]
        if digest not in kept.inputs and not (cache.directory / "in" / digest).exists():
            used = _last_write([index])
            yield Garbage(index, "lines of a file that is gone", size_of(index), used)


def _unreached_copies(cache: Cache, kept: Kept) -> Iterator[Garbage]:
    """Yield the files made of data sets that were fetched, a folder each; what was fetched stays recorded,
    so that they can be made again as they were."""
    files = (cache.directory / "imported").rglob("*")
    folders = {path.parent for path in files if path.is_file() and path.suffix != ".lock"}
    used = {os.path.dirname(path) for path in kept.files}
    for folder in sorted(folders):
        if os.path.realpath(folder) not in used:
            last = _last_write(folder.iterdir())
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
        used = _last_write(shards)
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
