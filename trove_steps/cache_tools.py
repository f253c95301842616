"""What lies in a cache: listed, checked against its hashes, and cleared of what nothing reaches."""

import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json
from trove_steps.fingerprint import hash_file
from trove_steps.keys import TEXT_KEY_BYTES, recipe_key
from trove_steps.store import DamagedShard, Shard, Store

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

    def table(self) -> pa.Table:
        """Return the table of rows; TroveStepsError if it is damaged."""
        try:
            table = pa.ipc.open_file(pa.memory_map(str(self.rows_path))).read_all()
            if len(table) != self.rows:
                raise pa.ArrowInvalid(f"{len(table)} rows instead of {self.rows}")
            return table
        except (OSError, pa.ArrowException) as error:
            raise TroveStepsError(f"{self.rows_path} can't be read ({error})") from None

    def shard_names(self) -> list[str]:
        """Return the shards that hold its vectors, in the order of the table's numbers."""
        table = self.table()
        return table.schema.metadata[b"shards"].decode().split("\n") if len(table) else []


@dataclass
class EncoderFolder:
    """The vectors of one encoder."""

    directory: Path

    @property
    def key(self) -> str:
        return self.directory.name

    @cached_property
    def recipe(self) -> dict:
        """The unhashed recipe; empty if it is not there."""
        try:
            return read_json(self.directory / "recipe.json")
        except TroveStepsError:
            return {}

    @cached_property
    def store(self) -> Store:
        return Store(self.directory.parent.parent, self.key)

    @cached_property
    def collections(self) -> list[Collection]:
        found = []
        for role in ROLES:
            for path in sorted(self.directory.glob(f"{role}-*.json")):
                texts = path.stem.removeprefix(f"{role}-")
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


def last_use(paths: Iterable[Path]) -> float:
    """Return when one of these files was last written or used, in seconds since 1970."""
    return max((path.lstat().st_mtime for path in paths if os.path.lexists(path)), default=0.0)


# --- du ------------------------------------------------------------------------------------------


def usage(cache: Cache, names: dict[tuple[str, str, str], list[str]]) -> dict:
    """Return what takes how much room, as JSON holds it.

    `names` says which data sets of a configuration a collection (role, encoder, texts) belongs to.
    Bytes of collections overlap where they share texts; those of encoders do not.
    """
    used_by: dict[tuple[str, str], list[Path]] = {}
    for folder in cache.searches:
        for manifest in folder.glob("top*.json"):
            recipe = read_json(manifest).get("recipe", {})
            for side in ROLES:
                place = recipe.get(side, {})
                identity = place.get("encoder", ""), place.get("texts", "")
                used_by.setdefault(identity, []).append(manifest)
    encoders, collections = [], []
    for folder in cache.encoders:
        shards = folder.shards()
        listed = []
        for collection in folder.collections:
            reads = used_by.get((folder.key, collection.texts), [])
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
                    "last_use": last_use([collection.manifest, collection.rows_path, *reads]),
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
                "last_use": max([last_use(paths), *(entry["last_use"] for entry in listed)]),
            }
        )
        collections += listed
    parts = {name: size_of(cache.directory / name) for name in ("searches", "fingerprints", "in")}
    total = size_of(cache.directory)
    return {"encoders": encoders, "collections": collections, "parts": parts, "bytes": total}


def _model_name(cache: Cache, recipe: dict) -> str:
    files = recipe.get("model_files", {})
    return cache.name_of(recipe_key({"kind": "model", "files": files})) if files else ""


def describe_encoder(recipe: dict) -> str:
    """Say a recipe in a few words: mean, normalize, 256 tokens, float32, …"""
    if "model_files" not in recipe:
        return ", ".join(str(value) for value in recipe.values()) or "unknown"
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
        _verify_shards(folder, found, repair)
        for collection in folder.collections:
            found.collections += 1
            problem = _collection_problem(folder, collection)
            if problem:
                _remove_manifest(collection.manifest, problem, found, repair)
    for search in cache.searches:
        for manifest in sorted(search.glob("top*.json")):
            found.searches += 1
            problem = _search_problem(manifest, found)
            if problem:
                _remove_manifest(manifest, problem, found, repair)
    return found


def _verify_shards(folder: EncoderFolder, found: Verification, repair: bool) -> None:
    for name in folder.store.shard_names():
        path = folder.store.shard_path(name)
        try:
            size = path.stat().st_size
            sound = hash_file(path) == name
        except (OSError, TroveStepsError):
            if not path.exists():
                continue  # another job has just removed it
            raise
        found.shards += 1
        found.bytes += size
        if sound:
            continue
        remedy = "left alone"
        if repair:
            try:
                path.replace(path.with_suffix(".damaged"))
                remedy = f"set aside as {path.with_suffix('.damaged').name}"
            except OSError as error:
                remedy = f"can't be set aside ({error.strerror})"
        found.damages.append(Damage(path, "its bytes do not have the hash it is named for", remedy))


def _collection_problem(folder: EncoderFolder, collection: Collection) -> str:
    """Return what is wrong with a collection, "" if each of its rows is where its table says."""
    try:
        table = collection.table()
    except TroveStepsError as error:
        return str(error)
    keys = b"".join(
        chunk.buffers()[1].to_pybytes()[
            chunk.offset * TEXT_KEY_BYTES : (chunk.offset + len(chunk)) * TEXT_KEY_BYTES
        ]
        for chunk in table["key"].chunks
    )
    if hashlib.sha256(keys).hexdigest() != collection.content["keys_sha256"]:
        return "its keys do not have the hash that the manifest gives"
    expected = np.frombuffer(keys, np.uint8).reshape(-1, TEXT_KEY_BYTES)
    shards, rows = table["shard"].to_numpy(), table["row"].to_numpy()
    for number, name in enumerate(collection.shard_names()):
        mine = shards == number
        try:
            shard = Shard(folder.store.shard_path(name))
            if not np.array_equal(shard.keys[rows[mine]], expected[mine]):
                return f"rows of it stand elsewhere than in shard {name}"
        except (DamagedShard, OSError, IndexError):
            return f"its shard {name} is missing or damaged"
    return ""


def _search_problem(manifest: Path, found: Verification) -> str:
    content, path = read_json(manifest), manifest.with_suffix(".arrow")
    found.bytes += size_of(path)
    try:
        sound = hash_file(path) == content["arrow_sha256"]
    except TroveStepsError as error:
        return str(error)
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
    """What must stay: collections as (encoder, role, texts), searches by key, digests of inputs.

    `growing` are encoders with collections that are yet to be completed: all their shards stay, since
    they are what an interrupted run goes on from.
    """

    collections: frozenset[tuple[str, str, str]] = frozenset()
    searches: frozenset[str] = frozenset()
    inputs: frozenset[str] = frozenset()
    growing: frozenset[str] = frozenset()

    def __or__(self, other: "Kept") -> "Kept":
        return Kept(*(getattr(self, name) | getattr(other, name) for name in vars(self)))


def reached_by(plan) -> Kept:
    """Return what the cells of a plan use, finished or not."""
    encodings = plan.encodings.values()
    cells = plan.cells.values()
    return Kept(
        frozenset((e.encoder, e.role, e.texts) for e in encodings),
        frozenset(plan.searches),
        frozenset(
            [digest for e in encodings for digest in e.digests]
            + [digest for cell in cells for digest in cell.qrel_digests]
            + [model.link.name for model in plan.models.values()]
        ),
        frozenset(e.encoder for e in encodings if not plan.encoding_manifest(e).exists()),
    )


def reached_by_list(lines: Iterable[str]) -> Kept:
    """Return what a list of manifests keeps, a path a line; "#" begins a comment."""
    kept = Kept()
    for line in lines:
        path = Path(line.partition("#")[0].strip())
        if not path.name:
            continue
        content = read_json(path)
        if "arrow_sha256" in content:
            recipe = content["recipe"]
            sides = frozenset(
                (recipe[side]["encoder"], side, recipe[side]["texts"]) for side in ROLES
            )
            kept |= Kept(sides, frozenset([path.parent.name]))
        elif "keys_sha256" in content:
            identity = content["encoder"], content["role"], content["texts"]
            kept |= Kept(frozenset([identity]))
        else:
            raise TroveStepsError(f"{path}: neither the manifest of a search nor of a collection")
    return kept


@dataclass(frozen=True)
class Garbage:
    """A file or folder that nothing reaches."""

    path: Path
    what: str
    bytes: int
    last_use: float


def find_garbage(cache: Cache, kept: Kept, older_than: float) -> list[Garbage]:
    """Return what `kept` does not reach and nobody has used for `older_than` seconds, manifests first.

    A shard stays as long as one collection that stays has a row in it.
    """
    horizon = time.time() - older_than
    found = [*_unreached_searches(cache, kept), *_unreached_inputs(cache, kept)]
    old = [garbage for garbage in found if garbage.last_use <= horizon]
    for folder in cache.encoders:
        old += _unreached_vectors(folder, kept, horizon)
    return old


def _unreached_searches(cache: Cache, kept: Kept) -> Iterator[Garbage]:
    for folder in cache.searches:
        if folder.name not in kept.searches:
            yield Garbage(folder, "search", size_of(folder), last_use(folder.iterdir()))


def _unreached_inputs(cache: Cache, kept: Kept) -> Iterator[Garbage]:
    for link in sorted((cache.directory / "in").glob("*")):
        if link.name not in kept.inputs and not link.exists():
            yield Garbage(link, "link to a file that is gone", 0, last_use([link]))


def _unreached_vectors(folder: EncoderFolder, kept: Kept, horizon: float) -> Iterator[Garbage]:
    dropped, held = [], set()
    for collection in folder.collections:
        paths = [collection.manifest, collection.rows_path]
        used = last_use(paths)
        if (folder.key, collection.role, collection.texts) in kept.collections or used > horizon:
            held.update(collection.shard_names())
            continue
        for path in paths:
            dropped.append(Garbage(path, collection.role, size_of(path), used))
    if folder.key in kept.growing:
        yield from dropped
        return
    young = False
    for path in sorted((folder.directory / "shards").glob("*")):
        used = last_use([path])
        if used > horizon:
            young = True
        elif path.suffix != ".arrow":
            dropped.append(Garbage(path, "leftover", size_of(path), used))
        elif path.stem not in held:
            dropped.append(Garbage(path, "shard", size_of(path), used))
    if young:
        # A job that still writes here may count on any of the shards.
        dropped = [garbage for garbage in dropped if garbage.what != "shard"]
    elif not held:
        yield Garbage(
            folder.directory,
            "encoder",
            size_of(folder.directory),
            last_use(folder.directory.iterdir()),
        )
        return
    yield from dropped


def remove(garbage: Iterable[Garbage]) -> int:
    """Delete what was found; return the bytes. A manifest goes before what it promises."""
    freed = 0
    for item in garbage:
        try:
            if item.path.is_dir() and not item.path.is_symlink():
                for manifest in item.path.glob("*.json"):
                    manifest.unlink(missing_ok=True)
                shutil.rmtree(item.path)
            else:
                item.path.unlink(missing_ok=True)
        except OSError as error:
            raise TroveStepsError(
                f"{item.path} can't be removed ({error.strerror}): check its permissions"
            ) from None
        freed += item.bytes
    return freed
