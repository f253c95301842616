"""Figures and tables for people."""

from collections.abc import Sequence

UNITS = ("B", "kB", "MB", "GB", "TB")


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return rows of text in columns; the first `left` columns are flush left, the others right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def size(count: float | None) -> str:
    """Spell a number of bytes with three digits: 8.04 MB; "?" for None."""
    if count is None:
        return "?"
    power = 0
    while count >= 999.5 and power < len(UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.0f} B" if power == 0 else f"{count:.3g} {UNITS[power]}"


def duration(seconds: float | None) -> str:
    """Spell seconds: 12 s, 3 min 20 s, 2 h 5 min, 3 d 4 h; "?" for None."""
    if seconds is None:
        return "?"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 1 or seconds == 0 else "< 1 s"
    for unit, name, smaller, smaller_name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if seconds >= unit:
            whole, rest = divmod(round(seconds / smaller), unit // smaller)
            return f"{whole} {name} {rest} {smaller_name}" if rest else f"{whole} {name}"
    raise AssertionError("unreachable")


def count(number: int | None) -> str:
    """Spell a whole number with separators; "?" for None."""
    return "?" if number is None else f"{number:,}"
