"""Records in lines of JSON."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import lru_cache
from typing import Annotated, Any

import msgspec
import orjson

from trove_steps.data.batches import Batch, Fields, Reader, checked, choose_fields, with_good_ids
from trove_steps.data.ids import shortened
from trove_steps.data.opening import Portion, Source
from trove_steps.data.tables import check_utf8
from trove_steps.errors import TroveStepsError

MOST_NAMES = 64  # keys of JSON objects that a decoder is made for


def from_json_lines(
    source: "Source | Portion | _InMemory",
    batch_rows: int,
    reader: Reader,
    names: Sequence[str] = (),
) -> Iterator[Batch]:
    """Yield the records of lines of JSON; `names` are the keys of the first one, if it is known."""
    fields = choose_fields(names, source.name, reader) if names else None
    others = frozenset(names)
    for first, block in source.whole_lines():
        for start in range(0, len(block), batch_rows):
            lines = block[start : start + batch_rows]
            if fields and (batch := _decoded(lines, first + start, _decoder(fields, others))):
                yield with_good_ids(source, batch)
                continue
            # The first ones, or something unusual: read as any JSON.
            records, numbers = parse_lines(source, lines, first + start)
            if not records:
                continue
            check_objects(source, records, numbers)
            if fields is None:
                fields = choose_fields(list(records[0]), f"{source.name}:{numbers[0]}", reader)
            if len(others) < MOST_NAMES:
                others = others.union(*records)
            values = [[record.get(name) for record in records] for name in astuple(fields)]
            yield checked(source, fields, Batch(*values, numbers), records)


def records_of_lines(lines: list[bytes], name: str, reader: Reader) -> Batch:
    """Return the records of some lines of a JSON-lines file, none of them blank; the first decides what the
    fields are. `name` is what messages call the file. Raises TroveStepsError as `read_records`."""
    (batch,) = from_json_lines(_InMemory(name, lines), len(lines), reader)
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
        return [parsed(source, lines[number - first], number) for number in numbers], numbers


def parsed(source: Source, line: bytes, number: int):
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
