"""What a record is: id, title and text, and which fields hold them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import NoneType

from trove_steps.data.ids import RECORD_ID_NAMES, bad_id, bad_id_message, shortened
from trove_steps.data.opening import Source
from trove_steps.errors import TroveStepsError


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


def choose_fields(names: list[str], where: str, reader: Reader) -> Fields:
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


def checked(
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
    return with_good_ids(source, batch)


def with_good_ids(source: Source, batch: Batch) -> Batch:
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
