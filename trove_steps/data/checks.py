"""Looking at all files of a data set: what is in them, and what is probably a mistake."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import not_
from pathlib import Path

from trove_steps.data.arrays import from_strings
from trove_steps.data.batches import reader_of
from trove_steps.data.collections import Files, merge_collections
from trove_steps.data.findings import EXAMPLES, collecting, first_ids, warning
from trove_steps.data.id_tables import repeated_rows, rows_of
from trove_steps.data.judgment_checks import about_filtered, about_judgments
from trove_steps.data.namespaces import Namespaces, named
from trove_steps.data.records import describe_format, read_records
from trove_steps.errors import TroveStepsError

PLAIN_COLLECTION = {"subset": [], "options": {}}


@dataclass
class Side:
    """What a check keeps of the documents or the queries.

    ids: pa.ChunkedArray of strings, qualified where needed; namespaces: None without such.
    texts: int64 [n], equal for equal texts, as are `whole` for equal titles and texts.
    files: {"path", "sha256", "format", "records", "integer_ids", "empty", "without_title", "characters"}
    per file, and "reader" where it is not read in the plain way.
    """

    ids: object
    namespaces: Namespaces | None
    texts: object
    whole: object
    empty: object
    files: list[dict] = field(default_factory=list)


def read_side(files: Files, given: Sequence[dict]) -> Side:
    """Read all files of one side. Raises TroveStepsError, with file and line, for what is no record."""
    import numpy as np
    import pyarrow as pa

    readers = [reader_of(entry) for entry in given]
    ids, where, described = [], [], []
    texts, whole, empty = array("q"), array("q"), bytearray()
    for number, path in enumerate(files.paths):
        shown = files.shown_as[number] if files.shown_as else str(path)
        counts = dict.fromkeys(
            ("records", "integer_ids", "empty", "without_title", "characters"), 0
        )
        for batch in read_records(
            path, shown_as=shown, digest=files.digests[number], reader=readers[number]
        ):
            stripped = [text.strip() for text in batch.texts]
            joined = [
                f"{title or ''} {text}".strip()
                for title, text in zip(batch.titles, stripped, strict=True)
            ]
            blank = bytes(map(not_, joined))
            ids.append(from_strings(batch.ids))
            texts.extend(map(hash, stripped))
            whole.extend(map(hash, joined))
            empty += blank
            counts["records"] += len(blank)
            counts["integer_ids"] += batch.integer_ids
            counts["empty"] += sum(blank)
            counts["without_title"] += sum(not title for title in batch.titles)
            counts["characters"] += sum(map(len, joined))
        form = describe_format(path, shown, readers[number])
        read_by = {"reader": given[number]} if given[number] else {}
        described.append(
            {"path": shown, "sha256": files.digests[number], "format": form, **read_by, **counts}
        )
        where.append((shown, sum(map(len, ids))))
    found, spaces = named(
        pa.chunked_array(ids, pa.string()), where, files.digests, readers, list(given)
    )
    return Side(
        ids=found,
        namespaces=Namespaces(found, spaces["files"]) if spaces else None,
        texts=np.frombuffer(texts, np.int64),
        whole=np.frombuffer(whole, np.int64),
        empty=np.frombuffer(empty, bool),
        files=described,
    )


def check_data(description: dict, links: Path) -> dict:
    """Read a data set and return what was found, as JSON.

    description: as `inputs.Dataset.checked`; links: the folder where files are named by their
    SHA-256. The result has "corpus", "queries" and "qrels" (files, counts, filters), "shared_ids"
    (queries that have the id of a document, by whether the texts are the same) and "warnings", a list of
    {"kind", "count", "message", "examples"}. Raises TroveStepsError for what can't be right,
    one line per mistake.
    """
    mistakes: list[str] = []
    warnings: list[dict] = []
    sides: dict[str, Side | None] = {"corpus": None, "queries": None}
    for name, what in (("corpus", "documents"), ("queries", "queries")):
        if not description[name]["files"]:
            continue
        with collecting(mistakes):
            sides[name] = read_side(_files(description, name, links), description[name]["readers"])
            warnings += _about_texts(what, sides[name])
    judged = shared = None
    if all(sides.values()):
        shared, more = _about_ids(**sides, excluded=description["exclude_identical_ids"])
        warnings += more
    if description["qrels"]["files"]:
        with collecting(mistakes):
            judged, more = _judgments(description, links, **sides)
            warnings += more
    if mistakes:
        raise TroveStepsError("\n".join(mistakes))
    return {
        **{name: _counts(side, _origins(description, name)) for name, side in sides.items()},
        "shared_ids": shared,
        "qrels": judged,
        "warnings": warnings,
    }


def _files(description: dict, kind: str, links: Path) -> Files:
    """Return the files of "corpus", "queries" or "qrels", called as the configuration calls them."""
    from trove_steps.arguments import shown_path

    digests = description[kind]["files"]
    paths = [links / digest for digest in digests]
    known = description.get("provenance", {}).get(kind)
    shown = [file["path"] for file in known] if known else list(map(shown_path, paths))
    return Files(paths, shown, digests)


def _judgments(description: dict, links: Path, corpus: Side | None, queries: Side | None):
    """Return (what is said of the judgments, warnings)."""
    described = description["qrels"]
    everything = list(range(len(described["files"])))
    collections = described["collections"] or [{**PLAIN_COLLECTION, "qrels": everything}]
    files = _files(description, "qrels", links)
    spaces = (side and side.namespaces for side in (queries, corpus))
    merged = merge_collections(collections, files, *spaces)
    told, warnings = about_judgments(merged, files, description["evaluated"], corpus, queries)
    if description.get("mined"):
        warnings += about_filtered(collections, files)
    told["files"] = [
        {"path": path, "sha256": digest, **_place(collections, number), **origin}
        for number, (path, digest, origin) in enumerate(
            zip(files.shown_as, files.digests, _origins(description, "qrels"), strict=True)
        )
    ]
    return told, warnings


def _place(collections: list[dict], number: int) -> dict:
    """Return what a file of judgments is for: the number of its collection, and whether as a subset."""
    for place, collection in enumerate(collections):
        if number in collection["subset"]:
            return {"collection": place, "use": "query_subset_path"}
        if number in collection["qrels"]:
            return {"collection": place, "use": "qrel_path"}
    raise AssertionError(f"no collection has the file {number}")


def _origins(description: dict, kind: str) -> list[dict]:
    """Return {"origin": …} for each file that came from the Hub or ir_datasets, {} for the others."""
    known = description.get("provenance", {}).get(kind) or [{}] * len(description[kind]["files"])
    return [{name: file[name] for name in file if name != "path"} for file in known]


def _counts(side: Side | None, origins: list[dict]) -> dict:
    if side is None:  # of vectors from elsewhere, without texts
        return {"files": [], "records": 0, "files_with_qualified_ids": 0}
    total = sum(file["records"] for file in side.files)
    qualified = sum(
        bool(file["tag"]) for file in (side.namespaces.files if side.namespaces else ())
    )
    files = [{**file, **origin} for file, origin in zip(side.files, origins, strict=True)]
    return {"files": files, "records": total, "files_with_qualified_ids": qualified}


def _about_texts(what: str, side: Side) -> list[dict]:
    import numpy as np

    warnings = []
    empty = np.flatnonzero(side.empty)
    if len(empty):
        warnings.append(
            warning(
                f"empty_{what}",
                len(empty),
                f"{len(empty):,} {what} have no text: their vectors mean nothing",
                first_ids(side.ids, empty),
            )
        )
    rows = repeated_rows(side.whole)
    rows = rows[~side.empty[rows]]
    _, first = np.unique(side.whole[rows], return_index=True)
    repeated = np.delete(rows, first)
    if len(repeated):
        warnings.append(
            warning(
                f"duplicate_{what}",
                len(repeated),
                f"{len(repeated):,} {what} repeat the text of an earlier one: they tie in every ranking",
                first_ids(side.ids, repeated),
            )
        )
    of_ints = [file["path"] for file in side.files if file["integer_ids"] == file["records"]]
    mixed = [file["path"] for file in side.files if 0 < file["integer_ids"] < file["records"]]
    of_texts = [file["path"] for file in side.files if not file["integer_ids"]]
    if mixed or (of_ints and of_texts):
        examples = (mixed + of_ints + of_texts)[:EXAMPLES]
        warnings.append(
            warning(
                f"id_types_of_{what}",
                len(mixed) or len(of_ints),
                f'ids of {what} are integers in some places and texts in others; 7 and "7" are the '
                'same id here, "007" is another',
                examples,
            )
        )
    return warnings


def _about_ids(corpus: Side, queries: Side, excluded: bool) -> tuple[dict, list[dict]]:
    """Return (how many ids queries share with documents of the same and of another text, warnings)."""
    import numpy as np

    documents, common = rows_of(queries.ids, corpus.ids)
    order = np.argsort(common)
    documents, common = documents[order], common[order]
    same = queries.texts[common] == corpus.texts[documents]
    same |= queries.whole[common] == corpus.whole[documents]
    shared = {"same_text": int(same.sum()), "other_text": int((~same).sum())}
    # Small numbers on both sides, which have nothing to do with each other, are usual.
    if excluded or not shared["same_text"]:
        return shared, []
    digests = {file["sha256"] for file in corpus.files}
    twice = [file["path"] for file in queries.files if file["sha256"] in digests]
    if twice:
        message = (
            f"query_path names a file of corpus_path, {twice[0]}: name that of the queries (or, if "
            "documents are to find similar ones, set exclude_identical_ids: true, so that none finds itself)"
        )
    else:
        message = (
            f"{shared['same_text']:,} queries have the id and the text of a document, which they will find "
            "first: exclude_identical_ids: true leaves it out"
        )
        if shared["other_text"]:
            message += f" (but {shared['other_text']:,} more share only the id with a document)"
    examples = first_ids(queries.ids, common[same])
    return shared, [warning("identical_ids", shared["same_text"], message, examples)]
