"""How messages spell values, places in the configuration, and names that may have been meant."""

import datetime
import difflib


def nearest(name: str, valid: list[str]) -> str:
    """Return "; did you mean 'x'?" or a list of what is valid, to end an error message with."""
    close = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; valid: {', '.join(sorted(valid))}" if valid else ""


def counted(number: int, one: str, many: str = "") -> str:
    """Spell a number of things: 1 warning, 2,000 warnings; `many` is the plural where it isn't with s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def dotted(path) -> str:
    """Spell a place in the configuration: datasets.a.collections[0]."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if part.isprintable() else repr(part)
            text += f".{name}" if text else name
    return text or "the configuration"


def shown(value) -> str:
    """Spell a value on one line, in quotes if it is text, as YAML spells it if it is not."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value) if isinstance(value, datetime.date) else repr(value)
    return text if len(text) <= 200 else text[:197] + "..."
