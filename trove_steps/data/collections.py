"""The judgments of a data set: one or several collections, each filtered by its own options, merged.

As in Trove, filters see every judgment of the files; of several labels that are left for one query and
document the last one counts, and of several collections that of the last.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trove_steps.data.batches import PLAIN, Reader, reader_of
from trove_steps.data.filters import filtered
from trove_steps.data.findings import collecting
from trove_steps.data.namespaces import Namespaces
from trove_steps.data.qrels import concatenated, each_pair_once, read_rows
from trove_steps.data.records import read_records
from trove_steps.errors import TroveStepsError


@dataclass(frozen=True)
class Files:
    """Files of judgments: their paths, what messages call them, and the SHA-256 they must have."""

    paths: Sequence[Path | str]
    shown_as: Sequence[str] | None = None
    digests: Sequence[str] | None = None

    def chosen(self, numbers: Sequence[int]) -> "Files":
        def some(values):
            return values and [values[number] for number in numbers]

        return Files(some(self.paths), some(self.shown_as), some(self.digests))

    def __str__(self) -> str:
        return ", ".join(map(str, self.shown_as or self.paths))


@dataclass
class Merged:
    """The judgments of a data set, and what became of them on the way.

    table: query_id, doc_id, score; each pair once. collections: per collection {"formats", "read",
    "steps", "repeated", "relabelled"}; the filters count pairs that are repeated too. overruled:
    judgments that a later collection replaces.
    """

    table: object
    collections: list[dict] = field(default_factory=list)
    overruled: int = 0


def merge_collections(
    collections: list[dict],
    files: Files,
    queries: Namespaces | None = None,
    documents: Namespaces | None = None,
    keep_apart: bool = False,
) -> Merged:
    """Read, filter and merge the judgments of collections.

    collections: per collection {"qrels": numbers of its files, "subset": those of query_subset_path,
    "options": its filters, and "subset_reader", if files of queries are not read in the plain way}.
    queries, documents: how ids are told apart, where that is needed.
    keep_apart: don't merge; an upper bound of what merging leaves, for a planner that knows no ids.
    """
    merged = Merged(None)
    tables = []
    for number, collection in enumerate(collections):
        if not collection["qrels"]:
            continue
        table, found = _one_collection(collection, files)
        merged.collections.append(found)
        sides = ((queries, "query_id", "query"), (documents, "doc_id", "document"))
        for column, (spaces, name, what) in enumerate(sides):
            if spaces is None:
                continue
            try:
                ids = spaces.resolve(table[name], number, what)
            except TroveStepsError as error:
                raise TroveStepsError(f"{files.chosen(collection['qrels'])}: {error}") from None
            table = table.set_column(column, name, ids)
        tables.append(table)
    table = concatenated(tables)
    if not table.num_rows:
        judged = files.chosen([n for entry in collections for n in entry["qrels"]])
        raise TroveStepsError(
            f"{judged}: no judgment is left after filtering: {'; '.join(_told(merged.collections))}"
        )
    if len(tables) > 1 and not keep_apart:
        table, merged.overruled, _ = each_pair_once(table)
    merged.table = table
    return merged


def _told(collections: list[dict]) -> list[str]:
    return [
        f"{step['filter']}: {step['before']:,} → {step['after']:,}"
        for collection in collections
        for step in collection["steps"]
    ]


def _one_collection(collection: dict, files: Files) -> tuple:
    options = collection["options"]
    chosen = files.chosen(collection["qrels"])
    loader = options.get("loader")
    own = {"loader": loader, "loader_sha256": options.get("sources", {}).get(loader)}
    table, formats = read_rows(
        chosen.paths, shown_as=chosen.shown_as, digests=chosen.digests, **own
    )
    subset = None
    if collection["subset"]:
        reader = reader_of(collection.get("subset_reader", {}))
        subset = query_subset(files.chosen(collection["subset"]), reader, own if loader else None)
    read = table.num_rows
    table, steps = filtered(table, options, subset)
    table, repeated, relabelled = each_pair_once(table)
    return table, {
        "formats": formats,
        "read": read,
        "steps": steps,
        "repeated": repeated,
        "relabelled": relabelled,
    }


def query_subset(files: Files, reader: Reader = PLAIN, own: dict | None = None):
    """Return the query ids that files of queries or of judgments hold, as a pa.Array of strings.

    Files in the usual formats are told apart by content. reader: how queries are read; own: the loader of
    judgments and its SHA-256, for files that are neither.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    chunks = []
    for number in range(len(files.paths)):
        chunks += _query_ids(files.chosen([number]), reader, own).chunks
    return pc.unique(pa.chunked_array(chunks, pa.string()))


def _query_ids(files: Files, reader: Reader, own: dict | None):
    (path,) = files.paths
    shown, digest = (values and values[0] for values in (files.shown_as, files.digests))

    def judged(own):
        rows, _ = read_rows([path], shown_as=files.shown_as, digests=files.digests, **own)
        return rows["query_id"]

    def recorded(reader):
        import pyarrow as pa

        from trove_steps.data.arrays import from_strings

        batches = read_records(path, shown_as=shown, digest=digest, reader=reader)
        return pa.chunked_array([from_strings(batch.ids) for batch in batches], pa.string())

    attempts = [(judged, {}), (recorded, reader)]
    attempts += [(recorded, PLAIN)] if reader.loader else []
    attempts += [(judged, own)] if own else []
    mistakes: list[str] = []
    for read, how in attempts:
        with collecting(mistakes):
            return read(how)
    raise TroveStepsError(
        f"query_subset_path: neither judgments nor queries: {'; '.join(mistakes)}"
    )
