"""From a record to the string that goes to the tokenizer."""

import string
from collections.abc import Callable
from functools import cache

from trove_steps.errors import TroveStepsError

PASSAGE = "{title} {text}"
QUERY = "{text}"


def format_text(template: str, title: str | None, text: str) -> str:
    """Fill `{title}` and `{text}`, both stripped, into a template and strip the result.

    A missing or blank title takes one neighbouring space along, so that it leaves no gap. With the
    template `{title} {text}` this is Trove's `f"{title.strip()} {text.strip()}".strip()`.
    Literal braces are doubled, as in str.format.
    """
    return _compiled(template)(title, text)


@cache
def _compiled(template: str) -> Callable[[str | None, str], str]:
    pieces = _parse(template)
    with_title, without_title = _fill(pieces), _fill(_drop_title(pieces))

    def fill(title: str | None, text: str) -> str:
        title = title.strip() if title else ""
        text = text.strip()
        return (with_title(title, text) if title else without_title(title, text)).strip()

    return fill


def _drop_title(pieces: list[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    """Leave the title out, with the white space character behind it, or else the one before it."""
    kept, literal, takes_space = [], "", False
    for before, name in pieces:
        if takes_space and before[:1].isspace():
            before = before[1:]
        elif takes_space and literal[-1:].isspace():
            literal = literal[:-1]
        literal += before
        takes_space = name == "title"
        if not takes_space:
            kept.append((literal, name))
            literal = ""
    return [*kept, (literal, None)] if literal.strip() else kept


def _fill(pieces: list[tuple[str, str | None]]) -> Callable[[str, str], str]:
    """Return the parsed template as a function of (title, text)."""
    if pieces == [("", "text")]:
        return lambda title, text: text
    if pieces == [("", "title"), (" ", "text")]:
        return lambda title, text: f"{title} {text}"
    percent = "".join(
        literal.replace("%", "%%") + (f"%({name})s" if name else "") for literal, name in pieces
    )
    return lambda title, text: percent % {"title": title, "text": text}


def _parse(template: str) -> list[tuple[str, str | None]]:
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise TroveStepsError(
            f"text template {template!r}: {error}. Write a literal brace twice: {{{{ or }}}}"
        ) from None
    for _, name, spec, conversion in parsed:
        if name is not None and (name not in ("title", "text") or spec or conversion):
            raise TroveStepsError(
                f"text template {template!r}: only {{title}} and {{text}} can be filled in, "
                f"not {{{name}}}. Write a literal brace twice: {{{{ or }}}}"
            )
    if "text" not in (name for _, name, _, _ in parsed):
        raise TroveStepsError(
            f"text template {template!r} lacks {{text}}: all texts would be the same string"
        )
    return [(literal, name) for literal, name, _, _ in parsed]
