"""The words behind the numbers: titles and texts of some records, for people to read."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from trove_steps.data import read_records, reader_of
from trove_steps.data.json_records import records_of_lines
from trove_steps.data.namespaces import TAG_DIGITS
from trove_steps.errors import TroveStepsError
from trove_steps.keys import recipe_key
from trove_steps.line_index import line_index


def read_some(cache_dir: Path, recipe: dict, wanted: Mapping[int, str]) -> dict[int, str]:
    """Return row number → title and text, in one line, of some records of a collection.

    `recipe` is that of the collection's texts, which names its files by their SHA-256; the cache links to
    them. `wanted` gives the id of each row that is asked for, rows counted over all files. A row is missing
    from the answer where its file is gone or has changed.
    """
    found: dict[int, str] = {}
    rows, first = sorted(wanted), 0
    readers = recipe.get("readers") or [{}] * len(recipe["files"])
    try:
        for digest, given in zip(recipe["files"], readers, strict=True):
            if not rows:
                break
            names = {row - first: wanted[row] for row in rows}
            records, texts = _read_file(cache_dir, digest, given, names)
            found |= {first + number: text for number, text in texts.items()}
            first += records
            rows = [row for row in rows if row >= first]
    except (TroveStepsError, OSError):
        pass  # a file is gone or is damaged: what was read is what there is
    return found


def _read_file(
    cache_dir: Path, digest: str, given: dict, names: Mapping[int, str]
) -> tuple[int, dict[int, str]]:
    """Return the number of a file's records, and number → text of those of them that are in `names`."""
    reader = reader_of(given)
    index = None if reader.loader else line_index(cache_dir, digest)
    if index:
        numbers = [number for number in names if number < index.lines]
        with contextlib.suppress(TroveStepsError, IndexError):
            batch = records_of_lines(index.read([0, *numbers]), digest, reader)
            if all(
                _is_named(names[number], one, digest, given)
                for number, one in zip(numbers, batch.ids[1:], strict=True)
            ):
                lines = map(_line, batch.titles[1:], batch.texts[1:])
                return index.lines, dict(zip(numbers, lines, strict=True))
    return _read_through(Path(cache_dir) / "in" / digest, digest, given, names)


def _read_through(
    path: Path, digest: str, given: dict, names: Mapping[int, str]
) -> tuple[int, dict[int, str]]:
    """Do the same from the file's beginning to the last of the records."""
    found: dict[int, str] = {}
    numbers, first, place = list(names), 0, 0
    for batch in read_records(path, reader=reader_of(given)):
        end = first + len(batch.ids)
        while place < len(numbers) and numbers[place] < end:
            n = numbers[place] - first
            if _is_named(names[numbers[place]], batch.ids[n], digest, given):
                found[numbers[place]] = _line(batch.titles[n], batch.texts[n])
            place += 1
        first = end
        if place == len(numbers):
            break
    return first, found


def _is_named(name: str, own: str, digest: str, given: dict) -> bool:
    """Tell whether a name is that of a record with the id `own`, which may have got an ending that tells
    files of several collections apart: see `trove_steps.data.namespaces`."""
    ending = name.removeprefix(f"{own}_")
    if "collections" not in given or ending == name or len(ending) < TAG_DIGITS:
        return name == own
    files = digest, recipe_key({"file": digest, "reader": given})
    return name == own or any(file.startswith(ending) for file in files)


def snippet(text: str, length: int = 160) -> str:
    """Cut a text to `length` characters, at a space where there is one near."""
    if len(text) <= length:
        return text
    cut = text[: length - 1]
    space = cut.rfind(" ")
    return (cut[:space] if space > length // 2 else cut).rstrip() + "…"


def _line(title: str | None, text: str | None) -> str:
    return " ".join(f"{title or ''} {text or ''}".split())
