"""The files of a data set: from the options of a configuration to local files, digests and readers.

The keys of a plain data set, files that are read in the plain way, hold digests only. What else
determines texts (fields, own loaders) or judgments (filters, collections) is listed here, once, and the
plan puts it into the keys.
"""

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from trove_steps.config.dataset_options import OF_JUDGMENTS, PATH_OPTIONS, collections_of
from trove_steps.data.filters import FUNCTION_OPTIONS, OPTIONS
from trove_steps.data.remote import RemoteData, remote_data
from trove_steps.errors import TroveStepsError
from trove_steps.files import write_json
from trove_steps.fingerprint import Fingerprints
from trove_steps.keys import VERSION, recipe_key
from trove_steps.own_code import is_name, source_digest
from trove_steps.paths import check_file

SIDES = {"corpus": "corpus_path", "queries": "query_path"}
FIELDS = {"corpus": "corpus_fields", "queries": "query_fields"}


@dataclass(frozen=True)
class TextFiles:
    """The files of a corpus or of queries, in order.

    paths: as people know them; digests: SHA-256; links: by content; readers: how each is read, {} in the
    plain way (see `trove_steps.encoding.job.Job`).
    """

    paths: tuple[str, ...]
    digests: tuple[str, ...]
    links: tuple[Path, ...]
    readers: tuple[dict, ...]


@dataclass(frozen=True)
class QrelFiles:
    """The files of judgments, and how they are filtered and merged.

    collections: as `merge_collections` takes them; None if nothing is to be done but reading.
    """

    paths: tuple[str, ...]
    digests: tuple[str, ...]
    links: tuple[Path, ...]
    collections: list[dict] | None

    @property
    def identity(self) -> list:
        """What stands for the judgments in a key."""
        if self.collections is None:
            return list(self.digests)
        files = {"files": list(self.digests), "version": VERSION["filters"]}
        return [files, *self.collections]


@dataclass(frozen=True)
class Dataset:
    """A data set of the configuration, resolved to files."""

    name: str
    corpus: TextFiles
    queries: TextFiles
    qrels: QrelFiles
    exclude_identical_ids: bool
    strict: bool
    evaluated: bool
    mined: bool
    provenance: dict = field(compare=False)

    @property
    def digests(self) -> tuple[str, ...]:
        """The SHA-256 of all its files."""
        return (*self.corpus.digests, *self.queries.digests, *self.qrels.digests)

    @cached_property
    def description(self) -> dict:
        """Return all that determines what a check of the data finds, as JSON."""
        sides = {
            side: {"files": list(files.digests), "readers": list(files.readers)}
            for side, files in (("corpus", self.corpus), ("queries", self.queries))
        }
        return {
            "kind": "data",
            **sides,
            "qrels": {"files": list(self.qrels.digests), "collections": self.qrels.collections},
            "exclude_identical_ids": self.exclude_identical_ids,
            "strict": self.strict,
            "evaluated": self.evaluated,
            # Only filters make a difference to mining; without them the key stays what it was.
            **({"mined": True} if self.mined and self.qrels.collections else {}),
        }

    @property
    def checked(self) -> dict:
        """Return `description` and what people want to know besides: where the files come from."""
        return {**self.description, "provenance": self.provenance}


def configured_paths(dataset: dict) -> Iterable[str]:
    """Yield the paths that a data set of the configuration names, as they are written."""
    for collection in collections_of(dataset):
        for option in PATH_OPTIONS:
            yield from collection.get(option, [])


def named_data(name: str, options: dict) -> list[RemoteData]:
    """Return what a data set of the configuration takes from the Hub or from ir_datasets."""
    found = []
    for where, collection in _places(name, options):
        if "ir_datasets" in collection:
            found.append(_of_ir_datasets(collection, where))
        for option in PATH_OPTIONS:
            for place, path in _listed(collection, option, where):
                found.append(remote_data(path, _revision(collection), place))
    return list(filter(None, found))


def _places(name: str, options: dict) -> Iterable[tuple[str, dict]]:
    """Yield (place for messages, options) of the collections of a data set."""
    where, listed = f"datasets.{name}", "collections" in options
    for number, collection in enumerate(collections_of(options)):
        yield f"{where}.collections[{number}]" if listed else where, collection


def _listed(collection: dict, option: str, where: str) -> Iterable[tuple[str, str]]:
    """Yield (place for messages, path) of the paths that an option lists."""
    paths = collection.get(option, [])
    for position, path in enumerate(paths):
        yield f"{where}.{option}[{position}]" if len(paths) > 1 else f"{where}.{option}", path


def _of_ir_datasets(collection: dict, where: str) -> RemoteData:
    return RemoteData("ir_datasets", collection["ir_datasets"], "", f"{where}.ir_datasets")


def _revision(collection: dict) -> str:
    return collection.get("dataset_revision", "main")


class Inputs:
    """Resolves data sets; files are looked at once, however many cells use them.

    evaluated: whether metrics are computed from the judgments; mined: whether negatives are mined that
    must not be annotated.
    """

    def __init__(self, fingerprints: Fingerprints, evaluated: bool = False, mined: bool = False):
        self.fingerprints = fingerprints
        self.cache = fingerprints.cache_dir
        self.evaluated = evaluated
        self.mined = mined
        self._interned: dict[tuple[str, ...], tuple] = {}
        self._origins: dict[str, dict] = {}  # of files that are not the user's own

    def dataset(self, name: str, options: dict) -> Dataset:
        """Resolve a data set. Raises TroveStepsError with one line per mistake."""
        where = f"datasets.{name}"
        collections, lines = [], []
        for place, collection in _places(name, options):
            try:
                collections.append(self._local(collection, place))
            except TroveStepsError as error:
                lines.append(str(error))
        if lines:
            raise TroveStepsError("\n".join(lines))
        sides = {side: self._texts(side, collections, where) for side in SIDES}
        if options["exclude_identical_ids"] and any(
            "collections" in reader for files in sides.values() for reader in files.readers
        ):
            raise TroveStepsError(
                f"{where}.exclude_identical_ids: does not go with collections that have different "
                "files of documents or queries, as the same id may then mean two texts"
            )
        files = {**sides, "qrels": self._qrels(collections)}
        return Dataset(
            name=name,
            **files,
            exclude_identical_ids=options["exclude_identical_ids"],
            strict=options["strict"],
            evaluated=self.evaluated and bool(files["qrels"].digests),
            mined=self.mined and bool(files["qrels"].digests),
            provenance={kind: self._provenance(listed.paths) for kind, listed in files.items()},
        )

    def intern_json(self, value) -> Path:
        """Return a file of the cache that holds a JSON value, named by its content."""
        path = self.cache / "data" / f"{recipe_key({'json': value})}.json"
        if not path.exists():
            write_json(path, value)
        return path

    def intern(self, paths: list[str]) -> tuple[tuple[str, ...], tuple[Path, ...]]:
        """Return the digests and the links of some files; each list is looked at once per plan."""
        found = self._interned.get(tuple(paths))
        if found is None:
            digests = tuple(map(self.fingerprints.file, paths))
            found = digests, tuple(map(self.fingerprints.intern, paths, digests))
            self._interned[tuple(paths)] = found
        return found

    def _provenance(self, paths: Iterable[str]) -> list[dict]:
        return [{"path": path, **self._origins.get(path, {})} for path in paths]

    # --- from what is written to files ---------------------------------------------------------

    def _local(self, collection: dict, where: str) -> dict:
        """Return a collection with every path option a list of files that can be read."""
        found, lines = dict(collection), []
        if "beir" in collection:
            found = {**_beir_paths(collection, where), **found}
            if "qrel_path" not in found:
                lines += [
                    f"{where}.{option}: does nothing, as {collection['beir']} has no folder qrels"
                    for option in OF_JUDGMENTS
                    if option in found
                ]
        if "ir_datasets" in collection:
            fetched = self._fetched(_of_ir_datasets(collection, where))
            found = {**fetched, **found}
        for option in PATH_OPTIONS:
            files = []
            for place, path in _listed(found, option, where):
                try:
                    files += self._files(path, place, _revision(collection))
                except TroveStepsError as error:
                    lines.append(str(error))
            if files:
                found[option] = files
        for option in ("record_loader", "loader", *FUNCTION_OPTIONS):
            if is_name(found.get(option)):
                try:
                    source_digest(found[option])
                except TroveStepsError as error:
                    lines.append(f"{where}.{option}: {error}")
        if lines:
            raise TroveStepsError("\n".join(lines))
        return found

    def _files(self, path: str, where: str, revision: str) -> list[str]:
        if data := remote_data(path, revision, where):
            return self._fetched(data)[""]
        if glob.has_magic(path) and not os.path.exists(path):
            paths = sorted(filter(os.path.isfile, glob.glob(path, recursive=True)))
            if not paths:
                raise TroveStepsError(f"{where}: no file matches '{path}' (in {os.getcwd()})")
        else:
            paths = [path]
        for file in paths:
            check_file(file, where)
        return paths

    def _fetched(self, data: RemoteData) -> dict[str, list[str]]:
        """Return the files of a named data set by option, as the record of its fetching lists them."""
        found = data.fetched(self.cache)
        for path in (path for paths in found["files"].values() for path in paths):
            self._origins[path] = {"origin": found["origin"]}
        return found["files"]

    # --- sides -----------------------------------------------------------------------------------

    def _texts(self, side: str, collections: list[dict], where: str) -> TextFiles:
        """Return the files of one side of all collections, each file once."""
        entries: list[dict] = []
        for number, collection in enumerate(collections):
            paths = collection.get(SIDES[side], [])
            _check_different(paths, self.intern(paths)[0], f"{where}.{SIDES[side]}")
            reader = _reader(side, collection)
            for path, digest, link in zip(paths, *self.intern(paths), strict=True):
                same = [
                    entry
                    for entry in entries
                    if (entry["digest"], entry["reader"]) == (digest, reader)
                    and number not in entry["collections"]
                ]
                if same:
                    same[0]["collections"].append(number)
                else:
                    entries.append(
                        {
                            "path": path,
                            "digest": digest,
                            "link": link,
                            "reader": reader,
                            "collections": [number],
                        }
                    )
        shared = all(len(entry["collections"]) == len(collections) for entry in entries)
        readers = (
            e["reader"] if shared else {**e["reader"], "collections": e["collections"]}
            for e in entries
        )
        columns = ((entry[name] for entry in entries) for name in ("path", "digest", "link"))
        return TextFiles(*map(tuple, columns), tuple(readers))

    def _qrels(self, collections: list[dict]) -> QrelFiles:
        paths: list[str] = []
        described = []
        for collection in collections:
            numbers = {}
            for name, option in (("qrels", "qrel_path"), ("subset", "query_subset_path")):
                given = collection.get(option, [])
                numbers[name] = list(range(len(paths), len(paths) + len(given)))
                paths += given
            entry = {**numbers, "options": _filters(collection)}
            reader = _reader("queries", collection)
            if reader and numbers["subset"]:
                entry["subset_reader"] = reader
            described.append(entry)
        plain = len(described) == 1 and not described[0]["options"] and not described[0]["subset"]
        if not any(entry["qrels"] for entry in described):
            paths = []
        return QrelFiles(
            tuple(paths), *self.intern(paths), None if plain or not paths else described
        )


def inputs_of(config: dict, fingerprints: Fingerprints) -> Inputs:
    """Return what resolves the data sets of a complete configuration."""
    mined = config.get("mining", {}).get("no_annot_in_mined_hn", False)
    return Inputs(fingerprints, evaluated="evaluation" in config, mined=mined)


def _check_different(paths: list[str], digests: tuple[str, ...], where: str) -> None:
    """Refuse files with the same content: all their ids would be there twice."""
    seen: dict[str, str] = {}
    for path, digest in zip(paths, digests, strict=True):
        if digest in seen:
            raise TroveStepsError(
                f"{where}: '{seen[digest]}' and '{path}' hold the same, so that every id would be there "
                "twice: leave one of them out"
            )
        seen[digest] = path


def _beir_paths(collection: dict, where: str) -> dict:
    """Return the paths of a folder in BEIR's layout; compressed files are found too."""
    folder = Path(collection["beir"])
    if not folder.is_dir():
        raise TroveStepsError(f"{where}.beir: no folder '{folder}' (relative to {os.getcwd()})")
    found = {}
    split = collection.get("split", "test")
    wanted = {
        "corpus_path": "corpus.jsonl",
        "query_path": "queries.jsonl",
        "qrel_path": f"qrels/{split}.tsv",
    }
    for option, name in wanted.items():
        if option in collection:
            continue
        if option == "qrel_path" and "split" not in collection and not (folder / "qrels").is_dir():
            continue
        endings = ("", ".gz", ".zst", ".bz2", ".xz")
        path = next(filter(Path.is_file, (folder / f"{name}{end}" for end in endings)), None)
        if path is None:
            splits = sorted({path.name.split(".")[0] for path in folder.glob("qrels/*.tsv*")})
            hint = (
                f"; there are the splits {', '.join(splits)}" if "qrels" in name and splits else ""
            )
            raise TroveStepsError(f"{where}.beir: the file '{folder / name}' does not exist{hint}")
        found[option] = [str(path)]
    return found


def _reader(side: str, collection: dict) -> dict:
    reader = dict(collection.get(FIELDS[side], {}))
    if loader := collection.get("record_loader"):
        reader |= {"loader": loader, "sha256": source_digest(loader)}
    return reader


def _filters(collection: dict) -> dict:
    options = {name: collection[name] for name in ("loader", *OPTIONS) if name in collection}
    if options.get("group_random_seed") == 0:
        del options["group_random_seed"]
    functions = [value for value in options.values() if is_name(value)]
    if functions:
        options["sources"] = {name: source_digest(name) for name in functions}
    return options


def check_record(directory: Path, dataset: Dataset, version: int) -> Path:
    """Return the record of a check of a data set's files, named by what it was made from."""
    key = recipe_key({**dataset.description, "version": version})
    return directory / dataset.name / ".data" / f"{key}.json"
