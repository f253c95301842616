"""The ids of whole collections: which of them stand twice, and where some of them are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from trove_steps.data.arrays import to_numpy
from trove_steps.data.batches import PLAIN
from trove_steps.data.ids import shortened
from trove_steps.data.records import read_records
from trove_steps.errors import TroveStepsError

if TYPE_CHECKING:
    import numpy as np

AT_ONCE = 1 << 16  # ids or hashes that are looked at together
ROWS_AT_ONCE = 1 << 20  # rows for which a table of other ids is built again


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
