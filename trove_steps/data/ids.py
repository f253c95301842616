"""Identifiers of queries and documents: the names of their columns, and what an id may be.

An id is a string of one or more characters, none of them a space or a control character: the files
that hold rankings and judgments (TREC, TSV) separate columns by these. JSON integers are taken as
their decimal string.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from trove_steps.data.arrays import to_numpy
from trove_steps.errors import TroveStepsError

if TYPE_CHECKING:
    import numpy as np

QUERY_ID_NAMES = ("qid", "query_id", "query-id", "queryid", "topic_id")
DOC_ID_NAMES = (
    "docid",
    "doc_id",
    "doc-id",
    "passage_id",
    "passage-id",
    "corpus-id",
    "corpus_id",
    "pid",
)
SCORE_NAMES = ("score", "relevance", "rel", "label")
ROLES = {"query": QUERY_ID_NAMES, "document": DOC_ID_NAMES, "score": SCORE_NAMES}
RECORD_ID_NAMES = ("_id", "id", *QUERY_ID_NAMES, *DOC_ID_NAMES)

AT_ONCE = 1 << 16  # ids or hashes that are looked at together
ROWS_AT_ONCE = 1 << 20  # rows for which a table of other ids is built again

# White space of Unicode, control characters and halves of surrogate pairs, as UTF-8.
SEPARATOR = re.compile(
    rb"[\x00-\x20\x7f]|\xc2[\x80-\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]"
    rb"|\xe2\x81\x9f|\xe3\x80\x80|\xed[\xa0-\xbf][\x80-\xbf]"
)


def bad_id(ids: Sequence[str]) -> int | None:
    """Return the index of the first id that is empty or holds what no id may hold."""
    together = "".join(ids)
    plain = together.isascii() and together.isprintable() and " " not in together
    if all(ids) and (plain or not _separator(together)):
        return None
    return next(i for i, value in enumerate(ids) if not value or _separator(value))


def _separator(text: str) -> str | None:
    """Return the first character of a text that an id can't have."""
    found = SEPARATOR.search(text.encode("utf-8", "surrogatepass"))
    return found and found[0].decode("utf-8", "surrogatepass")


def bad_id_message(value: str) -> str:
    """Say what is wrong with an id that `bad_id` found."""
    if not value:
        return "the id is empty: give it a value"
    found = _separator(value)
    if "\ud800" <= found <= "\udfff":
        return (
            f"the id {shortened(value)} holds half of a surrogate pair: remove it or give its pair"
        )
    what = "a space" if found == " " else f"the character {found!r}"
    return (
        f"the id {shortened(value)} holds {what}, which separates the columns of run and qrel files: "
        "use ids without white space and control characters, in all files alike"
    )


def shortened(value: object, limit: int = 60) -> str:
    """Return the value as Python shows it, cut to about `limit` characters."""
    if isinstance(value, str | bytes | list):
        value = value[: limit + 1]
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def check_unique_ids(ids, where: Sequence[tuple[str, int]], readers: Sequence = ()) -> None:
    """Raise TroveStepsError, naming both places, if an id occurs twice in a collection.

    ids: pyarrow array or chunked array of strings, [n], all files after each other.
    where: (path, number of ids up to the end of this file) per file, in order. The paths are opened
    once more to find the lines, only if there is a duplicate. readers: how each is read, if not plainly.
    """
    repetitions = repeated_ids(ids)
    if not repetitions:
        return
    places = [_place(row, where, readers) for row in repetitions[0]]
    raise TroveStepsError(
        f"{places[0]}: the id {shortened(ids[repetitions[0][0]].as_py())} is already taken at {places[1]}: "
        "ids must be unique within one collection; "
        f"{len(repetitions):,} of {len(ids):,} are repetitions"
    )


def repeated_ids(ids) -> list[tuple[int, int]]:
    """Return (row, row of the first occurrence) of each id that occurred before, by row.

    ids: pyarrow array or chunked array of strings, [n]. Takes 20 bytes of memory per id.
    """
    import numpy as np
    import pyarrow as pa

    hashes = np.empty(len(ids), np.int64)
    end = 0
    for chunk in [ids] if isinstance(ids, pa.Array) else ids.chunks:
        for start in range(0, len(chunk), AT_ONCE):
            names = chunk.slice(start, AT_ONCE).to_pylist()
            hashes[end : end + len(names)] = np.fromiter(map(hash, names), np.int64, len(names))
            end += len(names)
    first: dict[str, int] = {}
    found = []
    for row in repeated_rows(hashes).tolist():  # different ids may share a hash
        name = ids[row].as_py()
        if first.setdefault(name, row) != row:
            found.append((row, first[name]))
    return found


def repeated_rows(values: np.ndarray) -> np.ndarray:
    """Return the rows, in order, of those values (int64 [n]) that occur more than once."""
    import numpy as np

    ordered = np.sort(values)
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if not len(again):
        return again
    found = []
    for start in range(0, len(values), AT_ONCE):
        block = values[start : start + AT_ONCE]
        nearest = again[np.minimum(np.searchsorted(again, block), len(again) - 1)]
        found.append(start + np.flatnonzero(nearest == block))
    return np.concatenate(found)


def rows_of(wanted, ids) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows of `ids` whose id is in `wanted`, its places there), int64, by row.

    Both are pyarrow arrays or chunked arrays of strings. Memory is that of a table of `wanted`, however
    many ids pass by.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    rows, places = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, len(ids), ROWS_AT_ONCE):
        found = pc.index_in(ids.slice(start, ROWS_AT_ONCE), value_set=wanted)
        found = to_numpy(pc.fill_null(found, pa.scalar(-1, pa.int32())))
        hits = np.flatnonzero(found >= 0)
        rows.append(start + hits)
        places.append(found[hits].astype(np.int64))
    return np.concatenate(rows), np.concatenate(places)


def _place(row: int, where: Sequence[tuple[str, int]], readers: Sequence) -> str:
    """Return path:line of a record; where the file can't be read any more, the record's number."""
    from trove_steps.data.records import PLAIN, read_records

    start = 0
    for file, (path, end) in enumerate(where):  # noqa: B007 (the file that holds the row)
        if row < end:
            break
        start = end
    number = row - start
    with suppress(TroveStepsError):
        for batch in read_records(path, reader=readers[file] if readers else PLAIN):
            if number < len(batch.ids):
                return f"{path}:{batch.lines[number]}"
            number -= len(batch.ids)
    return f"{path}, record {row - start + 1}"


def plain_values(values: Iterable) -> list:
    """Return values as Python has them: numbers and strings of numpy and other libraries are converted."""
    return list(map(_plain, values))


def _plain(value):
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    return str.__str__(value) if isinstance(value, str) else value
