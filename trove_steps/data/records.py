"""Reading the records of a corpus or of queries: id, title, text."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from functools import lru_cache
from itertools import count, islice
from pathlib import Path
from types import NoneType
from typing import Annotated, Any

import msgspec
import orjson

from trove_steps.data.ids import RECORD_ID_NAMES, bad_id, bad_id_message, plain_values, shortened
from trove_steps.data.opening import Portion, Source
from trove_steps.data.tables import (
    check_utf8,
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
MOST_NAMES = 64  # keys of JSON objects that a decoder is made for


@dataclass(frozen=True)
class Batch:
    """Consecutive records of one file: ids, titles (None where missing) and texts, all [n].

    lines: the line on which each record starts, counted from 1; in Parquet and Arrow files the row.
    integer_ids: how many ids were integers, which are taken as their decimal string.
    """

    ids: list[str]
    titles: list[str | None]
    texts: list[str]
    lines: Sequence[int]
    integer_ids: int = 0

    @property
    def first_line(self) -> int:
        """The line (or row) of the first record."""
        return self.lines[0]


@dataclass(frozen=True)
class Fields:
    """The names of the fields or columns that hold a record."""

    id: str
    title: str
    text: str


@dataclass(frozen=True)
class Reader:
    """How the files of a collection are read; the default finds out by itself.

    id, title, text: the names of fields or columns that hold them, None for the usual names.
    loader: a function of the user's own, module:function, that takes a path and returns the records
    as mappings; sha256: that of its file, if it must have a certain one.
    """

    id: str | None = None
    title: str | None = None
    text: str | None = None
    loader: str | None = None
    sha256: str | None = None


PLAIN = Reader()


def reader_of(given: dict) -> Reader:
    """Return the Reader that a JSON object describes; it may have other entries too."""
    return Reader(**{name: value for name, value in given.items() if name != "collections"})


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
        first = _parsed(source, source.head.partition(b"\n")[0], 1)
    return _from_json_lines(Portion(path, start, end), BATCH_ROWS, reader, list(first))


def records_of_lines(lines: list[bytes], name: str, reader: Reader) -> Batch:
    """Return the records of some lines of a JSON-lines file, none of them blank; the first decides what the
    fields are. `name` is what messages call the file. Raises TroveStepsError as `read_records`."""
    (batch,) = _from_json_lines(_InMemory(name, lines), len(lines), reader)
    return batch


@dataclass
class _InMemory:
    """Lines that were read, as a Source hands them out."""

    name: str
    content: list[bytes]
    line: int = 0
    ended_in_mid_line: bool = False

    def whole_lines(self) -> Iterator[tuple[int, list[bytes]]]:
        yield 1, self.content


def _batches(source: Source, batch_rows: int, reader: Reader) -> Iterator[Batch]:
    if source.format != "text":
        return _from_columns(source, batch_rows, reader)
    if source.head.lstrip()[:1] == b"[":
        raise TroveStepsError(
            f"{source.name} is one JSON array: write one object per line, for instance with jq -c '.[]'"
        )
    if _is_json(source):
        return _from_json_lines(source, batch_rows, reader)
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
            fields = _choose_fields(list(records[0]), f"{source.name}:{first}", reader)
        values = [plain_values(record.get(name) for record in records) for name in astuple(fields)]
        batch = _checked(source, fields, Batch(*values, numbers), records)
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


def _from_json_lines(
    source: "Source | Portion | _InMemory",
    batch_rows: int,
    reader: Reader,
    names: Sequence[str] = (),
) -> Iterator[Batch]:
    """Yield the records of lines of JSON; `names` are the keys of the first one, if it is known."""
    fields = _choose_fields(names, source.name, reader) if names else None
    others = frozenset(names)
    for first, block in source.whole_lines():
        for start in range(0, len(block), batch_rows):
            lines = block[start : start + batch_rows]
            if fields and (batch := _decoded(lines, first + start, _decoder(fields, others))):
                yield _with_good_ids(source, batch)
                continue
            # The first ones, or something unusual: read as any JSON.
            records, numbers = parse_lines(source, lines, first + start)
            if not records:
                continue
            check_objects(source, records, numbers)
            if fields is None:
                fields = _choose_fields(list(records[0]), f"{source.name}:{numbers[0]}", reader)
            if len(others) < MOST_NAMES:
                others = others.union(*records)
            values = [[record.get(name) for record in records] for name in astuple(fields)]
            yield _checked(source, fields, Batch(*values, numbers), records)


@lru_cache(MOST_NAMES)
def _decoder(fields: Fields, names: frozenset[str]) -> Callable | None:
    """Return a function from a line of JSON to an object with id, title and text.

    It takes half the time of a parser that makes a dict, and raises an error for anything that is not
    such a record or has a key beyond `names`: a value that it passed over, it would not look at. None if a
    field has two meanings or a name is none that a decoder can have.
    """
    meanings = asdict(fields)
    if len(set(meanings.values())) < len(meanings):
        return None
    small = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    types = [("id", str | small), ("text", str), ("title", str | None, None)]
    for number, name in enumerate(sorted(names.difference(meanings.values()))):
        types.append((f"other{number}", Any, None))
        meanings[f"other{number}"] = name
    try:
        record = msgspec.defstruct(
            "Record", types, rename=meanings, gc=False, forbid_unknown_fields=True
        )
    except ValueError:  # a quote or a backslash in a name
        return None
    return msgspec.json.Decoder(record).decode


def _decoded(lines: list[bytes], first: int, decode: Callable | None) -> Batch | None:
    """Return the records of these lines, None if any of them is not what `decode` takes."""
    if not decode:
        return None
    try:
        records = list(map(decode, lines))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return Batch(
        [record.id for record in records],
        [record.title for record in records],
        [record.text for record in records],
        range(first, first + len(records)),
    )


def parse_lines(source: Source, lines: list[bytes], first: int) -> tuple[list, Sequence[int]]:
    """Parse lines of JSON, leaving out blank ones; return the values and their line numbers."""
    try:
        return list(map(orjson.loads, lines)), range(first, first + len(lines))
    except orjson.JSONDecodeError:
        numbers = [number for number, line in enumerate(lines, first) if line.strip()]
        return [_parsed(source, lines[number - first], number) for number in numbers], numbers


def _parsed(source: Source, line: bytes, number: int):
    """Parse one line of JSON; what is wrong with it is said with its place."""
    line = line.rstrip(b"\n")
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        where = f"{source.name}:{number}"
        check_utf8(line, where)
        at_the_end = source.ended_in_mid_line and number == source.line
        if at_the_end and "end of data" in error.msg:
            advice = "the file seems to be cut off here: copy or download it again"
        elif "surrogate" in error.msg:
            advice = "an escape \\ud800 to \\udfff is half a character: remove it or give its pair"
        elif "control character" in error.msg:
            advice = "write it as an escape (\\n, \\t, \\u0000)"
        else:
            found = _language(line)
            advice = f"this looks like {found}; " if found else ""
            advice += "one JSON object per line is expected"
        raise TroveStepsError(
            f"{where}: not valid JSON ({error.msg}, column {error.colno}): {advice}"
        ) from None


def _language(line: bytes) -> str:
    """Return what a line that is no JSON seems to be written in, "" if that can't be told."""
    start = line.strip()
    known = {
        rb"version https://git-lfs": "a Git LFS pointer, not the file (git lfs pull fetches it)",
        rb"(<<<<<<<|>>>>>>>|=======)": "a merge conflict of Git",
        rb"(?i)<(!doctype|html|\?xml|[a-z]+>)": "HTML or XML",
        rb"\{\s*'": "a Python dict (json.dumps writes JSON)",
        rb"-{3}|[\w-]+:(\s|$)": "YAML",
        rb"[^{\t]*\t": "TSV",
        rb"[^{,]+,": "CSV",
    }
    return next((what for mark, what in known.items() if re.match(mark, start)), "")


def check_objects(source: Source, records: list, numbers: Sequence[int]) -> None:
    """Raise TroveStepsError at the first record that is not a JSON object."""
    if set(map(type, records)) == {dict}:
        return
    number, record = next(x for x in zip(numbers, records, strict=True) if type(x[1]) is not dict)
    raise TroveStepsError(
        f"{source.name}:{number}: {shortened(record)} is not a JSON object: one object per line is "
        "expected"
    )


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
            yield _checked(source, fields, Batch(*values, lines))


def _rows(source: Source) -> Iterator[tuple[Sequence[int], list[list[str]]]]:
    return (tsv_rows if delimiter(source) == "\t" else csv_rows)(source)


def _layout(row: list[str], where: str, reader: Reader) -> tuple[Fields | None, list[int | None]]:
    """Return the fields that a header names (None without header) and the columns of id, title, text."""
    names = [cell.strip().strip('"') for cell in row]
    known = ("text", *RECORD_ID_NAMES, *filter(None, (reader.id, reader.title, reader.text)))
    if reader != PLAIN or any(name.lower() in known for name in names):
        fields = _choose_fields(names, where, reader)
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
        fields = _choose_fields(names, source.name, reader)
        return [name for name in dict.fromkeys(astuple(fields)) if name in names]

    for row, batch in column_batches(source, choose, batch_rows):
        values = [
            batch.column(name).to_pylist()
            if name in batch.schema.names
            else [None] * batch.num_rows
            for name in astuple(fields)
        ]
        if batch.num_rows:
            yield _checked(source, fields, Batch(*values, range(row, row + batch.num_rows)))


def _choose_fields(names: list[str], where: str, reader: Reader) -> Fields:
    has = f"it has {', '.join(map(repr, names[:12])) or 'none'}"
    for name in (reader.id, reader.text):  # a title may be missing in some records
        if name is not None and name not in names:
            raise TroveStepsError(
                f"{where}: no field {name!r}, which the configuration names: {has}"
            )
    ids = [name for name in names if name in ((reader.id,) if reader.id else RECORD_ID_NAMES)]
    if not ids:
        raise TroveStepsError(
            f"{where}: no id field: {has}; name the id field _id, or say which it is with corpus_fields or "
            "query_fields: {id: NAME}"
        )
    if len(ids) > 1:
        raise TroveStepsError(
            f"{where}: {len(ids)} id fields, {' and '.join(ids)}: keep one of them, or say which it is with "
            "corpus_fields or query_fields: {id: NAME}"
        )
    text, title = reader.text or "text", reader.title or "title"
    for name in (text, title):
        if names.count(name) > 1:
            raise TroveStepsError(f"{where}: {name!r} is there twice: {has}; rename one of them")
    if text not in names:
        raise TroveStepsError(
            f"{where}: no field 'text': {has}; name the field of the text so, or say which it is with "
            "corpus_fields or query_fields: {text: NAME}"
        )
    return Fields(ids[0], title, text)


def _checked(
    source: Source, fields: Fields, batch: Batch, records: list[dict] | None = None
) -> Batch:
    """Return the batch with its ids as strings; raise at the first record that is no good."""
    if not set(map(type, batch.ids)) <= {str, int}:
        kinds = (str, int)
        _reject(source, batch, fields.id, batch.ids, kinds, "a string or an integer", records)
    if set(map(type, batch.texts)) != {str}:
        _reject(source, batch, fields.text, batch.texts, (str,), "a string", records)
    if not set(map(type, batch.titles)) <= {str, NoneType}:
        kinds = (str, NoneType)
        _reject(source, batch, fields.title, batch.titles, kinds, "a string or null", records)
    return _with_good_ids(source, batch)


def _with_good_ids(source: Source, batch: Batch) -> Batch:
    """Return the batch with its ids, strings or integers, as strings; raise at the first bad one."""
    ids = batch.ids
    if set(map(type, ids)) != {str}:
        ids = list(map(str, ids))
    if (index := bad_id(ids)) is not None:
        where = f"{source.name}:{batch.lines[index]}"
        raise TroveStepsError(f"{where}: {bad_id_message(ids[index])}")
    if ids is batch.ids:
        return batch
    return replace(batch, ids=ids, integer_ids=sum(type(value) is int for value in batch.ids))


def _reject(
    source: Source,
    batch: Batch,
    field: str,
    values: list,
    kinds: tuple[type, ...],
    expected: str,
    records: list[dict] | None,
) -> None:
    """Raise at the first value that has none of the expected types."""
    index = next(i for i, value in enumerate(values) if type(value) not in kinds)
    where = f"{source.name}:{batch.lines[index]}"
    if records and field not in records[index]:
        raise TroveStepsError(f"{where}: the field {field!r} is missing: every record needs it")
    found = "null" if values[index] is None else shortened(values[index])
    raise TroveStepsError(f"{where}: {field!r} is {found}, where {expected} is needed")
