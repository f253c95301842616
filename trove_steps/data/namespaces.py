"""The same id in files of several collections: two different texts, told apart by their files.

Each collection is a namespace: within it ids are unique, between collections they need not be. An id
that several files hold is qualified as Trove qualifies ids: `{id}_{tag}`, where the tag is the beginning
of the file's SHA-256. Other ids stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trove_steps.data.id_tables import check_unique_ids, repeated_ids
from trove_steps.data.ids import shortened
from trove_steps.errors import TroveStepsError
from trove_steps.keys import recipe_key

TAG_DIGITS = 4


def named(ids, where: Sequence[tuple[str, int]], names: Sequence[str], readers, given):
    """Return (ids, what a manifest says of them): unique over all files, qualified where needed.

    ids: pa.ChunkedArray, all files after each other. where: (path, number of ids up to its end) per
    file. readers: a Reader per file. given: what the reader of each file was made from; only where that
    says "collections" are there namespaces.
    """
    import pyarrow as pa

    if not any("collections" in entry for entry in given or ()):
        check_unique_ids(ids, where, readers)
        return ids, {}
    ends = [end for _, end in where]
    parts = [ids.slice(start, end - start) for start, end in zip([0, *ends], ends, strict=False)]
    if len(set(names)) < len(names):  # the same file, read in two ways
        names = [recipe_key({"file": n, "reader": g}) for n, g in zip(names, given, strict=True)]
    collections = [entry["collections"] for entry in given]
    found, tags = qualified(parts, names, collections, [path for path, _ in where], readers)
    files = [
        {"rows": len(part), "tag": tag, "collections": numbers}
        for part, tag, numbers in zip(parts, tags, collections, strict=True)
    ]
    chunks = [chunk for part in found for chunk in part.chunks]
    return pa.chunked_array(chunks, pa.string()), {"files": files}


def qualified(
    ids: list, names: Sequence[str], collections: Sequence[Sequence[int]], where, readers
):
    """Return (ids of each file with those that clash qualified, tag of each file).

    ids: one pa.ChunkedArray of strings per file. names: the SHA-256 (hex) of each file, all different.
    collections: per file the numbers of the collections that it belongs to. where: the path of each
    file, readers: how each is read; both for messages. A tag is "" where nothing clashes. Raises
    TroveStepsError if an id occurs twice within a collection.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for collection in sorted({c for numbers in collections for c in numbers}):
        members = [i for i, numbers in enumerate(collections) if collection in numbers]
        ends, end = [], 0
        for i in members:
            end += len(ids[i])
            ends.append((where[i], end))
        check_unique_ids(_joined([ids[i] for i in members]), ends, [readers[i] for i in members])
    together = _joined(ids)
    clashing = {together[row].as_py() for row, _ in repeated_ids(together)}
    if not clashing:
        return ids, [""] * len(ids)
    tags = _tags(names, together)
    found = []
    for part, tag in zip(ids, tags, strict=True):
        part = part.cast(pa.large_string())
        longer = pc.binary_join_element_wise(
            part, pa.scalar(f"_{tag}", part.type), pa.scalar("", part.type)
        )
        clashes = pc.is_in(part, value_set=pa.array(sorted(clashing), part.type))
        found.append(pc.if_else(clashes, longer, part).cast(pa.string()))
    return found, tags


def _joined(ids: list):
    import pyarrow as pa

    chunks = [chunk for part in ids for chunk in pa.chunked_array(part).chunks]
    return pa.chunked_array(chunks, pa.string()).cast(pa.large_string())


def _tags(names: Sequence[str], ids) -> list[str]:
    """Return the shortest beginnings of the names that tell them apart, and that no id ends with."""
    import pyarrow.compute as pc

    for digits in range(TAG_DIGITS, len(names[0]) + 1):
        tags = [name[:digits] for name in names]
        if len(set(tags)) == len(tags) and not any(
            pc.any(pc.ends_with(ids, f"_{tag}")).as_py() for tag in tags
        ):
            return tags
    raise TroveStepsError("ids of several files are the same and can't be told apart: rename them")


@dataclass(frozen=True)
class Namespaces:
    """The ids of one side, queries or documents, of a data set with several collections.

    ids: pa.ChunkedArray of strings, [n], all files after each other, qualified.
    files: per file {"rows", "tag", "collections"}, as `encoding` writes them into its manifest.
    """

    ids: object
    files: list[dict]

    def local(self, name: str) -> str:
        """Return an id of the whole data set as its file has it."""
        tags = [
            file["tag"] for file in self.files if file["tag"] and name.endswith(f"_{file['tag']}")
        ]
        return name.removesuffix(f"_{tags[0]}") if tags else name

    def resolve(self, column, collection: int, what: str):
        """Return ids as files of a collection have them, as they are in the whole data set.

        An id that no file holds stays as it is. One that only another collection holds is an error.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        local, whole, start = [], [], 0
        for file in self.files:
            part = self.ids.slice(start, file["rows"])
            start += file["rows"]
            if collection in file["collections"]:
                whole += part.chunks
                ending = f"_{file['tag']}"
                short = pc.replace_substring_regex(part, f"{ending}$", "") if file["tag"] else part
                local += short.chunks
        local, whole = pa.chunked_array(local, pa.string()), pa.chunked_array(whole, pa.string())
        # All ids pass by a table of the few that are asked for: one of all would take ten times as much.
        asked = pc.is_in(local, value_set=pc.unique(column))
        places = pc.index_in(column, value_set=local.filter(asked))
        found = whole.filter(asked).take(places)
        lost = column.filter(pc.is_null(found))
        elsewhere = self.ids.filter(pc.is_in(self.ids, value_set=lost))
        if len(elsewhere):
            raise TroveStepsError(
                f"collections[{collection}]: its judgments name the {what} "
                f"{shortened(elsewhere[0].as_py())}, which only the files of another collection hold: add "
                f"that file to the {'corpus' if what == 'document' else 'query'}_path of this one"
            )
        return pc.coalesce(found, column)
