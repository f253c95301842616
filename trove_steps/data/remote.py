"""Data sets that are named, not files: on the Hugging Face Hub, or of the package ir_datasets.

They become local files first: files of the Hub's cache, Arrow files that `datasets` makes of them, or
JSON lines that are written into our cache. Run as a program, it does what needs a heavy import, so that
the planner doesn't: python -m trove_steps.data.remote datasets FOLDER [CONFIG [SPLIT]].
"""

import glob
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json, write_json, written_atomically
from trove_steps.keys import recipe_key

HUB_URI = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?")
HUB_NAME = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?::([\w.-]+))?(?::([\w.-]+))?")
FILE_ENDING = re.compile(r"\.(jsonl?|[ct]sv|txt|trec|parquet|arrow|gz|zst|bz2|xz)$")


def is_hub_name(path: str) -> bool:
    """Whether a path that is no file looks like ORG/NAME[:CONFIG[:SPLIT]]."""
    named = HUB_NAME.fullmatch(path)
    return bool(named) and not FILE_ENDING.search(path) and not os.path.isdir(path.split("/")[0])


def hub_files(path: str, revision: str, cache: Path) -> list[str]:
    """Return the local files of hf://datasets/… or of ORG/NAME[:CONFIG[:SPLIT]].

    revision: branch, tag or commit; one within the address wins. Without a network the Hub's cache is
    looked at, with HF_HUB_OFFLINE=1 nothing else is. Raises TroveStepsError.
    """
    uri = HUB_URI.fullmatch(path)
    if uri:
        name, own_revision, inside = uri.groups()
        revision = own_revision or revision
        if inside:
            return _files_inside(name, revision, inside)
        config = split = None
    elif path.startswith("hf://"):
        raise TroveStepsError(f"'{path}' is no address of the form hf://datasets/ORG/NAME/FILE")
    else:
        name, config, split = HUB_NAME.fullmatch(path).groups()
    return _prepared(_snapshot(name, revision), config, split, cache)


def _files_inside(name: str, revision: str, pattern: str) -> list[str]:
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = _matching(_snapshot(name, revision, pattern, local=True), pattern)
    except LocalEntryNotFoundError:
        found = []
    found = found or _matching(_snapshot(name, revision, pattern), pattern)
    if not found:
        raise TroveStepsError(f"no file '{pattern}' in the data set {name} (revision {revision})")
    return found


def _matching(folder: Path, pattern: str) -> list[str]:
    paths = glob.glob(pattern, root_dir=folder, recursive=True)
    return sorted(str(folder / path) for path in paths if (folder / path).is_file())


def _snapshot(name: str, revision: str, pattern: str | None = None, local: bool = False) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            name,
            repo_type="dataset",
            revision=revision,
            allow_patterns=pattern,
            local_files_only=local,
        )
    except LocalEntryNotFoundError as error:
        if local:
            raise
        raise _unreachable(name, revision, error) from None
    # The library raises what it likes: no network, no such name, no permission, a full disk.
    except Exception as error:
        raise _unreachable(name, revision, error) from None
    return Path(folder)


def _unreachable(name: str, revision: str, error: Exception) -> TroveStepsError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return TroveStepsError(
        f"'{name}' (revision {revision}) is no file here, is not in the Hub's cache and can't be "
        f"fetched: {reason}. Name local files, or fetch it on a machine that reaches the Hub"
    )


def _prepared(folder: Path, config: str | None, split: str | None, cache: Path) -> list[str]:
    """Return the Arrow files that `datasets` makes of a snapshot, made once and remembered.

    A snapshot is named by its commit, so it never changes.
    """
    wanted = [value for value in (config, split) if value]
    key = recipe_key({"kind": "hub", "folder": str(folder), "wanted": wanted})
    memo = cache / "fingerprints" / f"hub-{key}.json"
    if memo.exists():
        files = read_json(memo)["files"]
        if all(os.path.isfile(file) for file in files):
            return files
    files = json.loads(_in_a_process("datasets", str(folder), *wanted))
    write_json(memo, {"files": files})
    return files


def ir_datasets_files(name: str, cache: Path) -> dict[str, list[str]]:
    """Return corpus_path, query_path and qrel_path of a data set of ir_datasets, written once."""
    folder = cache / "imported" / recipe_key({"kind": "ir_datasets", "name": name})
    record = folder / "files.json"
    if not record.exists() or not all(path.exists() for path in _written(record).values()):
        _in_a_process("ir_datasets", name, str(folder))
    return {option: [str(path)] for option, path in _written(record).items()}


def _written(record: Path) -> dict[str, Path]:
    files = {option: name for option, name in read_json(record).items() if option != "of"}
    return {option: record.parent / name for option, name in files.items()}


def _in_a_process(*arguments: str) -> str:
    command = [sys.executable, "-m", "trove_steps.data.remote", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or [f"status {ended.returncode}"]
        raise TroveStepsError(lines[-1].removeprefix("error: "))
    return ended.stdout.splitlines()[-1] if ended.stdout.strip() else ""


def prepare_hub_dataset(folder: str, *wanted: str) -> list[str]:
    """Return the Arrow files of a snapshot's configuration and split, through `datasets`."""
    import datasets

    datasets.disable_progress_bars()
    names = datasets.get_dataset_config_names(folder)
    config = next(iter(wanted), None)
    if config is None and len(names) > 1:
        raise TroveStepsError(
            f"{folder} holds the configurations {', '.join(names)}: name one, as ORG/NAME:CONFIG"
        )
    if config is not None and config not in names:
        raise TroveStepsError(f"no configuration '{config}'; there are {', '.join(names)}")
    loaded = datasets.load_dataset(folder, config)
    splits = list(loaded)
    split = wanted[1] if len(wanted) > 1 else None
    if split is None and len(splits) > 1:
        raise TroveStepsError(
            f"{folder} holds the splits {', '.join(splits)}: name one, as ORG/NAME:CONFIG:SPLIT"
        )
    if split is not None and split not in splits:
        raise TroveStepsError(f"no split '{split}'; there are {', '.join(splits)}")
    return [entry["filename"] for entry in loaded[split or splits[0]].cache_files]


def write_ir_dataset(name: str, folder: Path) -> None:
    """Write the documents, queries and judgments of a data set of ir_datasets as files."""
    try:
        import ir_datasets
    except ImportError:
        raise TroveStepsError(
            f"ir_datasets: {name} needs the package ir_datasets: pip install ir_datasets"
        ) from None
    try:
        dataset = ir_datasets.load(name)
    except KeyError:
        raise TroveStepsError(f"ir_datasets knows no data set '{name}'") from None
    files = {"corpus_path": "corpus.jsonl", "query_path": "queries.jsonl"}
    _write_lines(folder / "corpus.jsonl", map(_document, dataset.docs_iter()))
    queries = ({"_id": q.query_id, "text": _text(q)} for q in dataset.queries_iter())
    _write_lines(folder / "queries.jsonl", queries)
    if dataset.has_qrels():
        files["qrel_path"] = "qrels.jsonl"
        judgments = (
            {"query_id": j.query_id, "doc_id": j.doc_id, "score": j.relevance}
            for j in dataset.qrels_iter()
        )
        _write_lines(folder / "qrels.jsonl", judgments)
    write_json(folder / "files.json", {"of": name, **files})


def _document(document) -> dict:
    title = getattr(document, "title", None)
    text = document.text if hasattr(document, "text") else _text(document)
    return {"_id": document.doc_id, **({"title": title} if title else {}), "text": text}


def _text(record) -> str:
    return record.default_text() if hasattr(record, "default_text") else record.text


def _write_lines(path: Path, records: Iterable[dict]) -> None:
    import orjson

    with written_atomically(path) as temporary, open(temporary, "wb") as file:
        for record in records:
            file.write(orjson.dumps(record) + b"\n")


def main() -> int:
    kind, *arguments = sys.argv[1:]
    try:
        if kind == "datasets":
            print(json.dumps(prepare_hub_dataset(*arguments)))
        else:
            write_ir_dataset(arguments[0], Path(arguments[1]))
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        print(f"error: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
