"""Data sets that are named, not files: on the Hugging Face Hub, or of the package ir_datasets.

The step `fetch` makes local files of one, once, and leaves a record that lists them, with the commit of the
Hub's data set. Everything else reads the record, so that neither planning nor a job needs a network, and what
a data set consists of stays the same until somebody deletes the record.
"""

import fnmatch
import glob
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json, written_atomically
from trove_steps.keys import recipe_key
from trove_steps.models.location import NotFetched
from trove_steps.progress import report

SCHEME = "hf://datasets/"
# A revision may be one of the Hub's own, whose names have slashes: refs/convert/parquet, refs/pr/1.
REVISION = r"refs/(?:convert/[\w-]+|pr/\d+)|[^/]+"
HUB_URI = re.compile(rf"hf://datasets/([^/@]+/[^/@]+)(?:@({REVISION}))?(?:/(.+))?")
HUB_NAME = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?::([\w.-]+))?(?::([\w.-]+))?")
OLD_HUB_NAME = re.compile(
    r"(\w[\w.-]+)(?::([\w.-]+))(?::([\w.-]+))?"
)  # without ORG; a colon says it
FILE_ENDING = re.compile(r"\.(jsonl?|[ct]sv|txt|trec|parquet|arrow|gz|zst|bz2|xz)$")
LOST = ".lost"  # ending of the record of files that are gone: they are fetched again as they were
SHARD = re.compile(r"(.*-)\d{5}-of-(\d{5})(.*)")


@dataclass(frozen=True)
class RemoteData:
    """Files on the Hub, hf://datasets/… or ORG/NAME[:CONFIG[:SPLIT]], or a data set of ir_datasets.

    kind: "hub" or "ir_datasets"; revision: branch, tag or commit, which one in the address overrides.
    where: the key of the configuration that messages name.
    """

    kind: str
    address: str
    revision: str
    where: str

    @property
    def name(self) -> str:
        """What its record is called."""
        recipe = {"kind": self.kind, "address": self.address, "revision": self.revision}
        words = re.sub(r"[^\w.@-]+", "-", self.address.removeprefix(SCHEME)).strip("-")
        return f"@{words[:80]}-{recipe_key(recipe)[:8]}"

    def flags(self) -> list[str]:
        """Return it as flags of the fetch step."""
        what = "--hub-data" if self.kind == "hub" else "--ir-datasets"
        revision = ["--revision", self.revision] if self.kind == "hub" else []
        return [what, self.address, *revision, "--where", self.where]

    def is_here(self, cache: Path) -> bool:
        """Tell whether it was fetched and its files are there still."""
        try:
            self.fetched(cache)
        except TroveStepsError:
            return False
        return True

    def fetched(self, cache: Path) -> dict:
        """Return what its record says: {"files": option or "" → paths, "origin"}.

        Raises NotFetched if there is no record, or a file that it lists is gone.
        """
        try:
            found = read_json(cache / "fetched" / f"{self.name}.json")
            paths = [path for paths in found["files"].values() for path in paths]
            if found["origin"] and all(map(os.path.isfile, paths)):
                return found
        except (TroveStepsError, KeyError, TypeError, AttributeError):
            pass
        raise NotFetched(
            f"{self.where}: '{self.address}' is no file here and was not fetched yet: `snakemake check` "
            "fetches it, on a machine that reaches the network"
        )


def remote_data(path: str, revision: str, where: str) -> RemoteData | None:
    """Return what a path of the configuration names on the Hub, None if it is a local path."""
    if path.startswith("hf://"):
        if not HUB_URI.fullmatch(_unquoted(path)):
            raise TroveStepsError(
                f"{where}: '{path}' is no address of the form hf://datasets/ORG/NAME/FILE"
            )
    elif os.path.exists(path) or not _is_hub_name(path):
        return None
    return RemoteData("hub", path, revision, where)


def _is_hub_name(path: str) -> bool:
    named = HUB_NAME.fullmatch(path) or OLD_HUB_NAME.fullmatch(path)
    return bool(named) and not FILE_ENDING.search(path) and not os.path.isdir(path.split("/")[0])


def _unquoted(address: str) -> str:
    """Return an address with its revision as the Hub calls it: ~parquet is refs/convert/parquet."""
    start, mark, rest = address.partition("@")
    revision, slash, inside = rest.partition("/")
    revision = re.sub("^~", "refs/convert/", unquote(revision))
    return f"{start}{mark}{revision}{slash}{inside}"


def fetch_data(data: RemoteData, cache: Path) -> dict:
    """Make local files of a named data set; return what its record says. Raises TroveStepsError."""
    try:
        return (_fetch_from_hub if data.kind == "hub" else _fetch_ir_dataset)(data, cache)
    except TroveStepsError as error:
        raise TroveStepsError(f"{data.where}: {error}") from None


# --- the Hub ---------------------------------------------------------------------------------------


def _fetch_from_hub(data: RemoteData, cache: Path) -> dict:
    uri = HUB_URI.fullmatch(_unquoted(data.address))
    if uri:
        name, own_revision, inside = uri.groups()
        config = split = None
    else:
        named = HUB_NAME.fullmatch(data.address) or OLD_HUB_NAME.fullmatch(data.address)
        name, config, split = named.groups()
        own_revision = inside = None
    revision = own_revision or data.revision
    folder, names = _snapshot(name, _commit_before(data, cache) or revision, inside)
    if inside:
        paths = [str(folder / file) for file in names]
    else:
        paths = prepare_hub_dataset(folder, config, split, cache / "imported" / "datasets")
    origin = {"hub": name, "revision": revision, "commit": folder.name}
    return {"files": {"": paths}, "origin": origin}


def _commit_before(data: RemoteData, cache: Path) -> str | None:
    """Return the commit that was fetched before the files were lost."""
    try:
        return read_json(cache / "fetched" / f"{data.name}{LOST}")["origin"]["commit"]
    except (TroveStepsError, KeyError, TypeError):
        return None


def _snapshot(name: str, revision: str, pattern: str | None) -> tuple[Path, list[str]]:
    """Return the folder of a snapshot in the Hub's cache and the files that match, all of them there.

    The Hub says which files there are. With HF_HUB_OFFLINE=1 only its cache is looked at, and of a
    set of numbered parts all must be there.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    try:
        if constants.HF_HUB_OFFLINE:
            options = {"repo_type": "dataset", "local_files_only": True}
            folder = Path(snapshot_download(name, revision=revision, **options))
            names = globbed([str(p.relative_to(folder)) for p in _files_in(folder)], pattern)
            if pattern is None or glob.has_magic(pattern):
                _check_parts(names)
        else:
            commit = HfApi().dataset_info(name, revision=revision).sha
            listed = HfApi().list_repo_files(name, revision=commit, repo_type="dataset")
            names = globbed(listed, pattern)
            wanted = [re.sub(r"([*?[])", r"[\1]", file) for file in names] if pattern else None
            options = {"repo_type": "dataset", "allow_patterns": wanted}
            folder = Path(snapshot_download(name, revision=commit, **options)) if names else Path()
    except TroveStepsError:
        raise
    # The library raises what it likes: no network, no such name, no permission, a full disk.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        where = "is not in the Hub's cache" if constants.HF_HUB_OFFLINE else "can't be fetched"
        raise TroveStepsError(
            f"'{name}' (revision {revision}) is no file here and {where}: {reason}. Name local files, "
            "fetch it on a machine that reaches the Hub, or, if it is in the Hub's cache already, set "
            "HF_HUB_OFFLINE=1"
        ) from None
    if not names:
        raise TroveStepsError(
            f"no file '{pattern or '*'}' in the data set {name} (revision {revision})"
        )
    if lost := next((file for file in names if not (folder / file).is_file()), None):
        raise TroveStepsError(
            f"{folder / lost} is missing or leads nowhere: delete {folder} and fetch it again"
        )
    return folder, names


def _files_in(folder: Path) -> Iterable[Path]:
    return (path for path in folder.rglob("*") if not path.is_dir())


def globbed(names: Iterable[str], pattern: str | None) -> list[str]:
    """Return the names that match a pattern as `glob` matches files: * stays within a folder, ** does not."""
    wanted = pattern.split("/") if pattern else ["**"]
    return sorted(name for name in names if _matches(name.split("/"), wanted))


def _matches(parts: list[str], pattern: list[str]) -> bool:
    if not (parts and pattern):
        return parts == pattern or pattern == ["**"]
    if parts[0].startswith(".") and not pattern[0].startswith("."):
        return pattern[0] == "**" and _matches(parts, pattern[1:])
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or _matches(parts[1:], pattern)
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _check_parts(names: list[str]) -> None:
    """Raise TroveStepsError unless all parts of files that are numbered 00000-of-00002 are there."""
    parts: dict[tuple[str, str, str], int] = {}
    for match in filter(None, map(SHARD.fullmatch, names)):
        parts[match.groups()] = parts.get(match.groups(), 0) + 1
    for (start, total, end), count in parts.items():
        if count != int(total):
            raise TroveStepsError(
                f"the Hub's cache holds {count} of the {int(total)} parts {start}*-of-{total}{end}: fetch "
                "the others on a machine that reaches the Hub"
            )
    report("HF_HUB_OFFLINE is set: the files are those of the Hub's cache, which may lack some")


def prepare_hub_dataset(
    folder: Path, config: str | None, split: str | None, cache: Path
) -> list[str]:
    """Return the Arrow files that `datasets` makes of a snapshot's configuration and split."""
    import datasets

    datasets.disable_progress_bars()
    try:
        names = datasets.get_dataset_config_names(str(folder))
        config = _chosen("configuration", config, names, f"{folder}", "CONFIG")
        loaded = datasets.load_dataset(str(folder), config, cache_dir=str(cache))
        split = _chosen("split", split, list(loaded), f"{folder}", "CONFIG:SPLIT")
    except TroveStepsError:
        raise
    except Exception as error:  # what is in the files may make the library raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise TroveStepsError(f"`datasets` can't read {folder}: {reason}") from None
    return [entry["filename"] for entry in loaded[split].cache_files]


def _chosen(what: str, given: str | None, names: list[str], folder: str, form: str) -> str:
    if given is None and len(names) > 1:
        raise TroveStepsError(
            f"{folder} holds the {what}s {', '.join(names)}: name one, as ORG/NAME:{form}"
        )
    if given is not None and given not in names:
        raise TroveStepsError(f"no {what} '{given}'; there are {', '.join(names)}")
    return given or names[0]


# --- ir_datasets -----------------------------------------------------------------------------------


def _fetch_ir_dataset(data: RemoteData, cache: Path) -> dict:
    """Write the documents, queries and judgments of a data set of ir_datasets as JSON lines."""
    name = data.address
    try:
        import ir_datasets
    except ImportError:
        raise TroveStepsError(
            f"'{name}' needs the package ir_datasets: pip install ir_datasets"
        ) from None
    try:
        dataset = ir_datasets.load(name)
    except KeyError:
        raise TroveStepsError(f"ir_datasets knows no data set '{name}'") from None
    folder = cache / "imported" / recipe_key({"kind": "ir_datasets", "name": name})
    files = {}
    try:
        if dataset.has_docs():
            records = map(_document, dataset.docs_iter())
            files["corpus_path"] = _written(folder / "corpus.jsonl", records)
        if dataset.has_queries():
            records = map(_query, dataset.queries_iter())
            files["query_path"] = _written(folder / "queries.jsonl", records)
        if dataset.has_qrels():
            records = map(_judgment, dataset.qrels_iter())
            files["qrel_path"] = _written(folder / "qrels.jsonl", records)
    except TroveStepsError:
        raise
    except Exception as error:  # no network, a licence that was not agreed to, a file that changed
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise TroveStepsError(f"ir_datasets can't give '{name}': {reason}") from None
    return {"files": files, "origin": {"ir_datasets": name}}


def _document(document) -> dict:
    if not hasattr(document, "text"):  # default_text() joins several fields, the title among them
        return {"_id": document.doc_id, "text": document.default_text()}
    title = getattr(document, "title", None)
    return {
        "_id": document.doc_id,
        **({"title": title} if title else {}),
        "text": document.text,
    }


def _query(query) -> dict:
    text = query.default_text() if hasattr(query, "default_text") else query.text
    return {"_id": query.query_id, "text": text}


def _judgment(judgment) -> dict:
    return {
        "query_id": judgment.query_id,
        "doc_id": judgment.doc_id,
        "score": judgment.relevance,
    }


def _written(path: Path, records: Iterable[dict]) -> list[str]:
    """Write records as JSON lines; return the path in a list."""
    import orjson

    with written_atomically(path) as temporary, open(temporary, "wb") as file:
        for record in records:
            file.write(orjson.dumps(record) + b"\n")
    return [str(path)]
