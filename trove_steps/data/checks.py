"""Looking at all files of a data set: what is in them, and what is probably a mistake."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import not_
from pathlib import Path

from trove_steps.data.arrays import from_numpy, from_strings, to_numpy
from trove_steps.data.collections import Files, merge_collections
from trove_steps.data.ids import repeated_rows, rows_of, shortened
from trove_steps.data.namespaces import Namespaces, named
from trove_steps.data.records import read_records, reader_of
from trove_steps.errors import TroveStepsError

EXAMPLES = 3
PLAIN_COLLECTION = {"subset": [], "options": {}}


@dataclass
class Side:
    """What a check keeps of the documents or the queries.

    ids: pa.ChunkedArray of strings, qualified where needed; namespaces: None without such.
    texts: int64 [n], equal for equal texts, as are `whole` for equal titles and texts.
    files: {"path", "records", "integer_ids", "empty", "without_title", "characters"} per file.
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
        described.append({"path": shown, "sha256": files.digests[number], **counts})
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

    description: as `inputs.Dataset.description`; links: the folder where files are named by their
    SHA-256. The result has "corpus", "queries" and "qrels" (files, counts, filters) and "warnings", a
    list of {"kind", "count", "message", "examples"}. Raises TroveStepsError for what can't be right.
    """
    corpus = read_side(_files(description["corpus"], links), description["corpus"]["readers"])
    queries = read_side(_files(description["queries"], links), description["queries"]["readers"])
    warnings = [
        *_about_texts("documents", corpus),
        *_about_texts("queries", queries),
        *_about_ids(corpus, queries, description["exclude_identical_ids"]),
    ]
    result = {
        "corpus": _counts(corpus),
        "queries": _counts(queries),
        "qrels": None,
    }
    if description["qrels"]["files"]:
        merged = _judgments(description["qrels"], links, corpus, queries)
        result["qrels"], more = _about_judgments(merged, description, links, corpus, queries)
        warnings += more
    return {**result, "warnings": warnings}


def _files(described: dict, links: Path) -> Files:
    from trove_steps.arguments import shown_path

    paths = [links / digest for digest in described["files"]]
    return Files(paths, [shown_path(path) for path in paths], described["files"])


def _judgments(described: dict, links: Path, corpus: Side, queries: Side):
    everything = list(range(len(described["files"])))
    collections = described["collections"] or [{**PLAIN_COLLECTION, "qrels": everything}]
    files = _files(described, links)
    return merge_collections(collections, files, queries.namespaces, corpus.namespaces)


def _counts(side: Side) -> dict:
    total = sum(file["records"] for file in side.files)
    qualified = sum(
        bool(file["tag"]) for file in (side.namespaces.files if side.namespaces else ())
    )
    return {"files": side.files, "records": total, "files_with_qualified_ids": qualified}


def _warning(kind: str, count: int, message: str, examples: Sequence = ()) -> dict:
    return {"kind": kind, "count": count, "message": message, "examples": list(examples)}


def _some(ids, rows) -> list[str]:
    """Return the first ids of some rows (numpy, int64)."""
    return [ids[int(row)].as_py() for row in rows[:EXAMPLES]]


def _about_texts(what: str, side: Side) -> list[dict]:
    import numpy as np

    warnings = []
    empty = np.flatnonzero(side.empty)
    if len(empty):
        warnings.append(
            _warning(
                f"empty_{what}",
                len(empty),
                f"{len(empty):,} {what} have no text: their vectors mean nothing",
                _some(side.ids, empty),
            )
        )
    rows = repeated_rows(side.whole)
    rows = rows[~side.empty[rows]]
    _, first = np.unique(side.whole[rows], return_index=True)
    repeated = np.delete(rows, first)
    if len(repeated):
        warnings.append(
            _warning(
                f"duplicate_{what}",
                len(repeated),
                f"{len(repeated):,} {what} repeat the text of an earlier one: they tie in every ranking",
                _some(side.ids, repeated),
            )
        )
    of_ints = [file["path"] for file in side.files if file["integer_ids"] == file["records"]]
    mixed = [file["path"] for file in side.files if 0 < file["integer_ids"] < file["records"]]
    of_texts = [file["path"] for file in side.files if not file["integer_ids"]]
    if mixed or (of_ints and of_texts):
        examples = (mixed + of_ints + of_texts)[:EXAMPLES]
        warnings.append(
            _warning(
                f"id_types_of_{what}",
                len(mixed) or len(of_ints),
                f'ids of {what} are integers in some places and texts in others; 7 and "7" are the '
                'same id here, "007" is another',
                examples,
            )
        )
    return warnings


def _about_ids(corpus: Side, queries: Side, excluded: bool) -> list[dict]:
    import numpy as np

    documents, common = rows_of(queries.ids, corpus.ids)
    if not len(documents) or excluded:
        return []
    order = np.argsort(common)
    documents, common = documents[order], common[order]
    same = queries.texts[common] == corpus.texts[documents]
    same |= queries.whole[common] == corpus.whole[documents]
    equal, other = int(same.sum()), int((~same).sum())
    if not equal:
        # Small numbers on both sides, which have nothing to do with each other, are usual.
        return []
    return [
        _warning(
            "identical_ids",
            equal,
            f"{equal:,} queries have the id and the text of a document, which they will find first: "
            "exclude_identical_ids: true leaves it out"
            + (f" (but {other:,} more share only the id with a document)" if other else ""),
            _some(queries.ids, common[same]),
        )
    ]


def _about_judgments(merged, description: dict, links: Path, corpus: Side, queries: Side):
    """Return (what is said of the judgments, warnings)."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    table = merged.table
    warnings = []
    sides = (("query_id", "queries", queries), ("doc_id", "documents", corpus))
    for column, what, side in sides:
        distinct = pc.unique(table[column])
        _, present = rows_of(distinct, side.ids)
        absent = distinct.take(from_numpy(np.setdiff1d(np.arange(len(distinct)), present)))
        if len(absent) == len(distinct):
            raise TroveStepsError(
                f"none of the {len(distinct):,} {what} that the judgments name exists: they name "
                f"{shortened(distinct[0].as_py())}, the files hold {shortened(side.ids[0].as_py())}; "
                "name the files that belong together"
            )
        if len(absent):
            warnings.append(
                _warning(
                    f"absent_{what}",
                    len(absent),
                    f"{len(absent):,} of {len(distinct):,} {what} that the judgments name do not exist"
                    + (": they count as relevant and not found" if what == "documents" else ""),
                    absent[:EXAMPLES].to_pylist(),
                )
            )
    judged = to_numpy(
        pc.is_in(queries.ids, value_set=pc.unique(table["query_id"])).cast(pa.uint8())
    )
    unjudged = np.flatnonzero(judged == 0)
    if len(unjudged):
        warnings.append(
            _warning(
                "queries_without_judgments",
                len(unjudged),
                f"{len(unjudged):,} of {len(judged):,} queries have no judgments: they are searched, "
                "but do not count in any metric",
                _some(queries.ids, unjudged),
            )
        )
    relabelled = sum(found["relabelled"] for found in merged.collections)
    if relabelled:
        warnings.append(
            _warning(
                "relabelled_judgments",
                relabelled,
                f"{relabelled:,} pairs of query and document have several labels: the last one counts",
            )
        )
    labels = pc.value_counts(table["score"])
    counted = sorted((entry["values"], entry["counts"]) for entry in labels.to_pylist())
    files = _files(description["qrels"], links)
    told = {
        "files": [
            {"path": path, "sha256": digest}
            for path, digest in zip(files.shown_as, files.digests, strict=True)
        ],
        "collections": merged.collections,
        "overruled": merged.overruled,
        "judgments": table.num_rows,
        "queries": int(judged.sum()),
        "labels": [[label, count] for label, count in counted[:20]],
        "more_labels": max(0, len(counted) - 20),
    }
    return told, warnings
