"""Reading the records of a corpus or of queries, in whatever format."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple
from itertools import count, islice
from pathlib import Path

from trove_steps.data.batches import PLAIN, Batch, Fields, Reader, checked, choose_fields
from trove_steps.data.ids import RECORD_ID_NAMES, plain_values, shortened
from trove_steps.data.json_records import from_json_lines, parsed
from trove_steps.data.opening import Portion, Source
from trove_steps.data.tables import (
    check_widths,
    column_batches,
    csv_rows,
    delimiter,
    tsv_rows,
)
from trove_steps.errors import TroveStepsError
from trove_steps.own_code import called, load_function

BATCH_ROWS = 4096


JSON_NAME = re.compile(r"\.(json|jsonl|ndjson)(\.(gz|zst|bz2|xz))?$", re.IGNORECASE)


def read_records(
    path: Path | str,
    *,
    shown_as: str | None = None,
    digest: str | None = None,
    batch_rows: int = BATCH_ROWS,
    reader: Reader = PLAIN,
) -> Iterator[Batch]:
    """Yield the records of one file, in order, in batches of at most `batch_rows`.

    JSON lines, CSV, TSV, Parquet and Arrow are told apart by content, and so are gzip, zstd, bzip2
    and xz. Memory is bounded by the batch and the longest record, not by the file.

    shown_as: the path that messages name.
    digest: the SHA-256 (hex) that the bytes of the file must have; checked while they are read.

    Fields: an id (`_id`, `id`, `docid`, `query_id` or another usual name, but only one of them),
    `text`, and if present `title`; `reader` may name others. A TSV or CSV file
    without a header has two columns, id and text.
    An empty text is a record; a missing one or null is an error, as is a file without any record.
    """
    with Source(path, shown_as, digest) as source:
        empty = True
        if reader.loader:
            batches = _from_loader(source, path, reader, batch_rows)
        else:
            batches = _batches(source, batch_rows, reader)
        titled = reader.title is None
        for batch in batches:
            empty = False
            titled = titled or any(title is not None for title in batch.titles)
            yield batch
        if not titled and not empty:
            raise TroveStepsError(
                f"{source.name}: no record has the field {reader.title!r}, which the configuration names "
                "for titles: correct the name, or leave it out"
            )
        if empty:
            raise TroveStepsError(
                f"{source.name} holds no records" + ("" if source.head else ": the file is empty")
            )


def portion_bounds(path: Path | str, reader: Reader, size: int) -> list[int]:
    """Return where a file may be cut so that its portions of `size` bytes can be read on their own.

    Only plain JSON lines can; otherwise the list is empty.
    """
    with Source(path) as source:
        start = source.head
        plain = source.compression is None and source.format == "text" and not reader.loader
        if not plain or start[:1] != b"{" or b"\n" not in start:
            return []
    end = os.path.getsize(path)
    return [*range(0, end, size), end]


def read_portion(path: Path | str, start: int, end: int, reader: Reader) -> Iterator[Batch]:
    """Yield the records that begin in the bytes [start, end) of a file of plain JSON lines.

    Raises TroveStepsError as `read_records` does, but its lines are counted from `start`.
    """
    with Source(path) as source:
        first = parsed(source, source.head.partition(b"\n")[0], 1)
    return from_json_lines(Portion(path, start, end), BATCH_ROWS, reader, list(first))


def _batches(source: Source, batch_rows: int, reader: Reader) -> Iterator[Batch]:
    if source.format != "text":
        return _from_columns(source, batch_rows, reader)
    if source.head.lstrip()[:1] == b"[":
        raise TroveStepsError(
            f"{source.name} is one JSON array: write one object per line, for instance with jq -c '.[]'"
        )
    if _is_json(source):
        return from_json_lines(source, batch_rows, reader)
    return _from_rows(source, batch_rows, reader)


def _is_json(source: Source) -> bool:
    return source.head.lstrip()[:1] == b"{" or JSON_NAME.search(source.name) is not None


def describe_format(path: Path | str, shown_as: str, reader: Reader = PLAIN) -> str:
    """Return in words how `read_records` reads a file, such as "JSON lines, gzip"."""
    with Source(path, shown_as) as source:
        if reader.loader or source.format != "text":
            what = reader.loader or source.format
        elif _is_json(source):
            what = "JSON lines"
        else:
            what = "TSV" if delimiter(source) == "\t" else "CSV"
            rows = next(rows for _, rows in _rows(source) if rows)
            fields, _ = _layout(rows[0], source.name, reader)
            what += "" if fields else " without header"
        return f"{what}, {source.compression}" if source.compression else what


def _from_loader(source: Source, path, reader: Reader, batch_rows: int) -> Iterator[Batch]:
    """Read with a function of the user's own; it gets the real path, records are counted as lines."""
    function = load_function(reader.loader, reader.sha256)
    found = called(reader.loader, lambda: function(os.path.realpath(path)))
    if not isinstance(found, Iterable):
        raise TroveStepsError(
            f"{reader.loader} must return the records of {source.name}; it returned {shortened(found)}"
        )
    found = called(reader.loader, iter, found)
    fields = None
    for first in count(1, batch_rows):
        records = called(reader.loader, lambda: list(islice(found, batch_rows)))
        if not records:
            return
        numbers = range(first, first + len(records))
        if any(not isinstance(record, dict) for record in records):
            raise TroveStepsError(
                f"{reader.loader} must return mappings with _id, text and perhaps title, for {source.name}"
            )
        if fields is None:
            fields = choose_fields(list(records[0]), f"{source.name}:{first}", reader)
        values = [plain_values(record.get(name) for record in records) for name in astuple(fields)]
        batch = checked(source, fields, Batch(*values, numbers), records)
        _check_unicode(source, batch)
        yield batch


def _check_unicode(source: Source, batch: Batch) -> None:
    """Raise TroveStepsError at the first text with half of a surrogate pair, which only a loader gives."""
    for number, title, text in zip(batch.lines, batch.titles, batch.texts, strict=True):
        try:
            f"{title} {text}".encode()
        except UnicodeEncodeError:
            raise TroveStepsError(
                f"{source.name}:{number}: the text holds half of a surrogate pair, which no encoder can "
                "read: decode the file with errors='replace' in the loader"
            ) from None


def _from_rows(source: Source, batch_rows: int, reader: Reader) -> Iterator[Batch]:
    mark = delimiter(source)
    if not source.head.strip():
        return
    if mark is None:
        first = source.head.lstrip().partition(b"\n")[0].decode(errors="replace").strip()
        raise TroveStepsError(
            f"{source.name}:1: neither JSON nor a tab or comma in {shortened(first)}: the formats are "
            "JSON lines, CSV, TSV, Parquet and Arrow"
        )
    fields = None
    for numbers, rows in _rows(source):
        if not rows:
            continue
        if fields is None:
            width = len(rows[0])
            fields, columns = _layout(rows[0], f"{source.name}:{numbers[0]}", reader)
            if fields:
                numbers, rows = numbers[1:], rows[1:]
            fields = fields or Fields("1", "none", "2")
        check_widths(rows, numbers, width, source.name)
        for start in range(0, len(rows), batch_rows):
            part, lines = rows[start : start + batch_rows], numbers[start : start + batch_rows]
            values = [
                [None] * len(part) if column is None else [row[column] for row in part]
                for column in columns
            ]
            yield checked(source, fields, Batch(*values, lines))


def _rows(source: Source) -> Iterator[tuple[Sequence[int], list[list[str]]]]:
    return (tsv_rows if delimiter(source) == "\t" else csv_rows)(source)


def _layout(row: list[str], where: str, reader: Reader) -> tuple[Fields | None, list[int | None]]:
    """Return the fields that a header names (None without header) and the columns of id, title, text."""
    names = [cell.strip().strip('"') for cell in row]
    known = ("text", *RECORD_ID_NAMES, *filter(None, (reader.id, reader.title, reader.text)))
    if reader != PLAIN or any(name.lower() in known for name in names):
        fields = choose_fields(names, where, reader)
        return fields, [names.index(x) if x in names else None for x in astuple(fields)]
    if len(row) == 2:
        return None, [0, None, 1]
    raise TroveStepsError(
        f"{where}: no header with an id (such as _id) and text among {shortened(names)}: add one; only "
        "a file with two columns, id and text, can go without"
    )


def _from_columns(source: Source, batch_rows: int, reader: Reader) -> Iterator[Batch]:
    fields = None

    def choose(names: list[str]) -> list[str]:
        nonlocal fields
        fields = choose_fields(names, source.name, reader)
        return [name for name in dict.fromkeys(astuple(fields)) if name in names]

    for row, batch in column_batches(source, choose, batch_rows):
        values = [
            batch.column(name).to_pylist()
            if name in batch.schema.names
            else [None] * batch.num_rows
            for name in astuple(fields)
        ]
        if batch.num_rows:
            yield checked(source, fields, Batch(*values, range(row, row + batch.num_rows)))
