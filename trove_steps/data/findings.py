"""What a check says: mistakes, which end a run, and warnings."""

import contextlib
from collections.abc import Iterator, Sequence

from trove_steps.errors import TroveStepsError

EXAMPLES = 3


def warning(kind: str, count: int, message: str, examples: Sequence = ()) -> dict:
    """Return a warning as it stands in data.json; message: one line for people."""
    return {"kind": kind, "count": count, "message": message, "examples": list(examples)}


def first_ids(ids, rows) -> list[str]:
    """Return the first ids (pa.ChunkedArray) of some rows (int64 [n])."""
    return [ids[int(row)].as_py() for row in rows[:EXAMPLES]]


def warning_line(warning: dict) -> str:
    """Return a warning in one line, with examples; what can't be seen of them is spelt out."""
    shown = map(str, warning["examples"])
    examples = ", ".join(text if text.isprintable() else repr(text) for text in shown)
    return warning["message"] + (f" (such as {examples})" if examples else "")


@contextlib.contextmanager
def collecting(mistakes: list[str]) -> Iterator[None]:
    """Go on behind a mistake: append its message to a list."""
    try:
        yield
    except TroveStepsError as error:
        mistakes.append(str(error))
