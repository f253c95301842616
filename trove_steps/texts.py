"""The words behind the numbers: titles and texts of some records, for people to read."""

from collections.abc import Mapping
from pathlib import Path

from trove_steps.data import read_records, reader_of
from trove_steps.data.namespaces import TAG_DIGITS
from trove_steps.errors import TroveStepsError
from trove_steps.keys import recipe_key


def read_some(cache_dir: Path, recipe: dict, wanted: Mapping[int, str]) -> dict[int, str]:
    """Return row number → title and text, in one line, of some records of a collection.

    `recipe` is that of the collection's texts, which names its files by their SHA-256; the cache links to
    them. `wanted` gives the id of each row that is asked for, rows counted over all files. The files are
    read up to the last of them. A row is missing from the answer where its file is gone or has changed.
    """
    rows = sorted(wanted)
    found: dict[int, str] = {}
    first = place = 0
    try:
        readers = recipe.get("readers") or [{}] * len(recipe["files"])
        for digest, given in zip(recipe["files"], readers, strict=True):
            path, reader = Path(cache_dir) / "in" / digest, reader_of(given)
            for batch in read_records(path, reader=reader):
                end = first + len(batch.ids)
                while place < len(rows) and rows[place] < end:
                    n = rows[place] - first
                    if _is_named(wanted[rows[place]], batch.ids[n], digest, given):
                        found[rows[place]] = _line(batch.titles[n], batch.texts[n])
                    place += 1
                first = end
                if place == len(rows):
                    return found
    except (TroveStepsError, OSError):
        pass  # a file is gone or is damaged: what was read is what there is
    return found


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
