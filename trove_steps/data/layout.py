"""How a text file holds its judgments: its separator, its columns and whether it has a header."""

import csv
import math
import re
from dataclasses import dataclass

from trove_steps.data.ids import ROLES, shortened
from trove_steps.data.opening import Source
from trove_steps.data.tables import check_utf8
from trove_steps.errors import TroveStepsError

EXPECTED = "expected are the columns query-id, corpus-id and score, or TREC's four"
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Layout:
    """How a text file holds its judgments.

    mark: what separates columns; a space stands for any run of spaces and tabs.
    columns: the indices of query, document and score; width: the number of columns of every line.
    header: whether the first line that is not blank names the columns.
    quotes: whether double quotes enclose columns; in TSV they are part of an id, unless the header
    has them too.
    """

    mark: str
    columns: tuple[int, int, int]
    width: int
    header: bool
    quotes: bool

    def describe(self) -> str:
        """Return the layout in words."""
        kind = {"\t": "TSV", ",": "CSV", " ": "columns separated by spaces"}[self.mark]
        if not self.header and self.width == 4:
            return f"TREC qrels ({kind})"
        return f"{kind} {'with' if self.header else 'without'} header"

    def split(self, line: str, where: str) -> list[str]:
        """Split one line into its columns; `where` is its place, for the message."""
        line = line.rstrip("\r\n")
        if not self.quotes:
            return line.split() if self.mark == " " else line.split(self.mark)
        try:
            return next(csv.reader([line], delimiter=self.mark, strict=True), [])
        except csv.Error as error:
            raise TroveStepsError(f"{where}: not valid CSV ({error}): correct the quotes") from None


def find_layout(source: Source) -> Layout:
    """Find separator and columns by the first line that is not blank."""
    number, first = _first_line(source)
    where = f"{source.name}:{number}"
    check_utf8(first, where)
    line = first.decode()
    mark = _separator(line)
    if mark is None:
        raise TroveStepsError(f"{where}: {shortened(line.strip())} is not a judgment: {EXPECTED}")
    quotes = mark == "," or (mark == "\t" and _has_quoted_header(line))
    cells = Layout(mark, (0, 0, 0), 0, False, quotes).split(line, where)
    names = [cell.strip().lower() for cell in cells]
    found = {
        role: [i for i, name in enumerate(names) if name in known] for role, known in ROLES.items()
    }
    if all(len(columns) == 1 for columns in found.values()):
        return Layout(mark, tuple(c[0] for c in found.values()), len(cells), True, quotes)
    if any(found.values()):
        missing = [role for role, columns in found.items() if len(columns) != 1]
        raise TroveStepsError(
            f"{where}: the header {shortened(names)} should name the {missing[0]} column once, by one "
            f"of {', '.join(ROLES[missing[0]])}"
        )
    if len(cells) not in (3, 4):
        what = " (a run file, not judgments?)" if len(cells) == 6 else ""
        raise TroveStepsError(f"{where}: {len(cells)} columns{what}: {EXPECTED}")
    columns = (0, 1, 2) if len(cells) == 3 else (0, 2, 3)
    if not is_number(cells[-1]):
        raise TroveStepsError(
            f"{where}: the last column, {shortened(cells[-1])}, is no number, and the line is no known "
            f"header: {EXPECTED}"
        )
    return Layout(mark, columns, len(cells), False, quotes)


def _has_quoted_header(line: str) -> bool:
    known = {f'"{name}"' for names in ROLES.values() for name in names}
    return not known.isdisjoint(line.lower().split())


def _first_line(source: Source) -> tuple[int, bytes]:
    for number, line in enumerate(source.head.split(b"\n"), 1):
        if line.strip():
            return number, line
    raise TroveStepsError(
        f"{source.name} holds no judgments" + ("" if source.head else ": the file is empty")
    )


def _separator(line: str) -> str | None:
    words = line.split()
    if "\t" in line:
        tabbed = len(line.split("\t")) in (3, 4) or len(words) not in (3, 4)
        return "\t" if tabbed else " "
    if len(words) == 4 and is_number(words[3]) and not words[0].endswith(","):
        return " "
    if line.count(",") >= 2:
        return ","
    return " " if len(words) >= 3 else None


def is_number(text: str) -> bool:
    """Whether a text is a finite decimal number."""
    return bool(NUMBER.fullmatch(text.strip())) and math.isfinite(float(text))
