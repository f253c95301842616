"""Reading the records of a corpus or of queries: id, title, text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from trove_steps.data.ids import RECORD_ID_NAMES, bad_id, bad_id_message, shortened
from trove_steps.data.opening import Source
from trove_steps.data.tables import (
    check_utf8,
    check_widths,
    column_batches,
    csv_rows,
    delimiter,
    tsv_rows,
)
from trove_steps.errors import TroveStepsError


@dataclass(frozen=True)
class Batch:
    """Consecutive records of one file: ids, titles (None where missing) and texts, all [n].

    first_line: the line of the first record, counted from 1 (in Parquet and Arrow files the row).
    lines: the line of each record, where some lines hold no record or a record has several lines.
    """

    ids: list[str]
    titles: list[str | None]
    texts: list[str]
    first_line: int
    lines: Sequence[int] | None = None

    def line(self, index: int) -> int:
        """Return the line (or row) on which a record of this batch starts."""
        return self.first_line + index if self.lines is None else self.lines[index]


@dataclass(frozen=True)
class Fields:
    """The names of the fields or columns that hold a record."""

    id: str
    title: str
    text: str


def read_records(
    path: Path | str,
    *,
    shown_as: str | None = None,
    digest: str | None = None,
    batch_rows: int = 4096,
) -> Iterator[Batch]:
    """Yield the records of one file, in order, in batches of at most `batch_rows`.

    JSON lines, CSV, TSV, Parquet and Arrow are told apart by content, and so are gzip, zstd, bzip2
    and xz. Memory is bounded by the batch and the longest record, not by the file.

    shown_as: the path that messages name.
    digest: the SHA-256 (hex) that the bytes of the file must have; checked while they are read.

    Fields: an id (`_id`, `id`, `docid`, `query_id` or another usual name, but only one of them),
    `text`, and if present `title`. A TSV or CSV file without a header has two columns, id and text.
    An empty text is a record; a missing one or null is an error, as is a file without any record.
    """
    with Source(path, shown_as, digest) as source:
        empty = True
        for batch in _batches(source, batch_rows):
            empty = False
            yield batch
        if empty:
            raise TroveStepsError(
                f"{source.name} holds no records" + ("" if source.head else ": the file is empty")
            )


def _batches(source: Source, batch_rows: int) -> Iterator[Batch]:
    if source.format != "text":
        return _from_columns(source, batch_rows)
    start = source.head.lstrip()[:1]
    if start == b"[":
        raise TroveStepsError(
            f"{source.name} is one JSON array: write one object per line, for instance with jq -c '.[]'"
        )
    if start == b"{" or source.name.lower().endswith((".jsonl", ".json", ".ndjson")):
        return _from_json_lines(source, batch_rows)
    return _from_rows(source, batch_rows)


def _from_json_lines(source: Source, batch_rows: int) -> Iterator[Batch]:
    fields = None
    for first, block in source.lines():
        for start in range(0, len(block), batch_rows):
            lines = block[start : start + batch_rows]
            try:
                records, numbers = list(map(orjson.loads, lines)), None
            except orjson.JSONDecodeError:
                records, numbers = _parsed(source, lines, first + start)
            if not records:
                continue
            batch = Batch([], [], [], numbers[0] if numbers else first + start, numbers)
            if set(map(type, records)) != {dict}:
                _reject_non_objects(source, records, batch)
            fields = fields or _choose_fields(source, list(records[0]), batch.line(0))
            yield _checked(
                source,
                fields,
                [record.get(fields.id) for record in records],
                [record.get(fields.title) for record in records],
                [record.get(fields.text) for record in records],
                batch,
                records,
            )


def _parsed(source: Source, lines: list[bytes], first: int) -> tuple[list, list[int]]:
    """Parse lines one by one, leaving out blank ones; return the records and their line numbers."""
    records, numbers = [], []
    for number, line in enumerate(lines, first):
        if line.strip():
            records.append(parsed_json(source, line, number))
            numbers.append(number)
    return records, numbers


def parsed_json(source: Source, line: bytes, number: int):
    """Parse one line of JSON; what is wrong with it is said with its place."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        where = f"{source.name}:{number}"
        check_utf8(line, where)
        if source.ended_in_mid_line and number == source.line:
            advice = "the file seems to be cut off here: copy or download it again"
        elif "surrogate" in error.msg:
            advice = "an escape \\ud800 to \\udfff is half a character: remove it or give its pair"
        elif "control character" in error.msg:
            advice = "write it as an escape (\\n, \\t, \\u0000)"
        else:
            advice = "one JSON object per line is expected"
        raise TroveStepsError(
            f"{where}: not valid JSON ({error.msg}, column {error.colno}): {advice}"
        ) from None


def _reject_non_objects(source: Source, records: list, batch: Batch) -> None:
    for index, record in enumerate(records):
        if type(record) is not dict:
            raise TroveStepsError(
                f"{source.name}:{batch.line(index)}: {shortened(record)} is not a JSON object: "
                'one {"_id": …, "text": …} per line is expected'
            )


def _choose_fields(source: Source, names: Sequence[str], line: int) -> Fields:
    """Find out which field is the id; there must be exactly one that may be."""
    candidates = [name for name in RECORD_ID_NAMES if name in names]
    where = f"{source.name}:{line}"
    if not candidates:
        raise TroveStepsError(
            f"{where}: no id: one of the fields {', '.join(RECORD_ID_NAMES[:3])} is expected, "
            f"found {', '.join(map(str, names)) or 'none'}"
        )
    if len(candidates) > 1:
        raise TroveStepsError(
            f"{where}: both {' and '.join(candidates[:2])} may be the id: rename or drop one of them"
        )
    return Fields(candidates[0], "title", "text")


def _checked(source: Source, fields: Fields, ids, titles, texts, batch: Batch, records) -> Batch:
    """Return the batch with these columns, after checking that they are what they should be."""
    kinds = set(map(type, ids))
    if kinds != {str}:
        ids = _as_strings(source, fields, ids, batch, records)
    _check_texts(source, fields.text, texts, batch, required=True)
    if set(map(type, titles)) - {str, type(None)}:
        _check_texts(source, fields.title, titles, batch, required=False)
    wrong = bad_id(ids)
    if wrong is not None:
        raise TroveStepsError(f"{source.name}:{batch.line(wrong)}: {bad_id_message(ids[wrong])}")
    return Batch(ids, titles, texts, batch.first_line, batch.lines)


def _as_strings(source: Source, fields: Fields, ids, batch: Batch, records) -> list[str]:
    for index, value in enumerate(ids):
        if type(value) not in (str, int):
            missing = value is None and records is not None and fields.id not in records[index]
            what = "is missing" if missing else f"is {shortened(value)}, not a string"
            raise TroveStepsError(
                f"{source.name}:{batch.line(index)}: the id (field {fields.id}) {what}: "
                "give every record an id, as a string"
            )
    return [str(value) for value in ids]


def _check_texts(source: Source, field: str, values, batch: Batch, required: bool) -> None:
    if set(map(type, values)) == {str}:
        return
    for index, value in enumerate(values):
        if type(value) is str or (value is None and not required):
            continue
        what = "is missing or null" if value is None else f"is {shortened(value)}, not a string"
        raise TroveStepsError(
            f"{source.name}:{batch.line(index)}: the field {field} {what}; an empty text is written \"\""
        )


def _from_rows(source: Source, batch_rows: int) -> Iterator[Batch]:
    mark = delimiter(source)
    if mark is None and source.head.strip():
        raise TroveStepsError(
            f"{source.name}:1: neither JSON nor a tab or comma in {shortened(_first_line(source))}: "
            "the formats are JSON lines, CSV, TSV, Parquet and Arrow"
        )
    fields, names = None, []
    for numbers, rows in (tsv_rows if mark == "\t" else csv_rows)(source):
        if fields is None:
            fields, names, header = _header(source, rows[0], numbers[0])
            rows, numbers = rows[header:], numbers[header:]
        check_widths(rows, numbers, len(names), source.name)
        for start in range(0, len(rows), batch_rows):
            part = rows[start : start + batch_rows]
            columns = dict(zip(names, zip(*part, strict=True), strict=True))
            batch = Batch([], [], [], numbers[start], numbers[start : start + batch_rows])
            titles = columns.get(fields.title, [None] * len(part))
            yield _checked(
                source,
                fields,
                list(columns[fields.id]),
                list(titles),
                list(columns[fields.text]),
                batch,
                None,
            )


def _header(source: Source, row: list[str], line: int) -> tuple[Fields, list[str], int]:
    """Return the fields, the names of all columns and how many rows the header takes."""
    names = [name.strip() for name in row]
    if "text" in names:
        return _choose_fields(source, names, line), names, 1
    if len(row) != 2:
        raise TroveStepsError(
            f"{source.name}:{line}: {len(row)} columns and no header with `text` among them: give the "
            "columns names (_id, title, text), or have two columns, id and text"
        )
    return Fields("id", "title", "text"), ["id", "text"], 0


def _from_columns(source: Source, batch_rows: int) -> Iterator[Batch]:
    fields = None

    def choose(names: list[str]) -> list[str]:
        nonlocal fields
        fields = _choose_fields(source, names, 1)
        if fields.text not in names:
            raise TroveStepsError(f"{source.name}: no column text; there are {', '.join(names)}")
        return [name for name in (fields.id, fields.title, fields.text) if name in names]

    for first, part in column_batches(source, choose, batch_rows):
        columns = {name: part.column(name).to_pylist() for name in part.schema.names}
        titles = columns.get(fields.title, [None] * part.num_rows)
        batch = Batch([], [], [], first)
        yield _checked(
            source, fields, columns[fields.id], titles, columns[fields.text], batch, None
        )


def _first_line(source: Source) -> str:
    return source.head.lstrip().partition(b"\n")[0].decode(errors="replace").strip()
