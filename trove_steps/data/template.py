"""From a record to the string that goes to the tokenizer."""

import string
from collections.abc import Sequence
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
    return format_texts(template, [title], [text])[0]


def format_texts(template: str, titles: Sequence[str | None], texts: Sequence[str]) -> list[str]:
    """Return `format_text` of each title (None where missing) and text, [n]."""
    with_title, without_title = _compiled(template)
    if template == QUERY:
        return [text.strip() for text in texts]
    pairs = zip(titles, texts, strict=True)
    if template == PASSAGE:  # what nearly all models take
        return [
            (f"{title.strip()} {text.strip()}" if title else text).strip() for title, text in pairs
        ]
    stripped = [(title and title.strip(), text.strip()) for title, text in pairs]
    return [
        ((with_title if title else without_title) % {"title": title, "text": text}).strip()
        for title, text in stripped
    ]


@cache
def _compiled(template: str) -> tuple[str, str]:
    """Return the template in the form that the operator % takes: with a title and without."""
    pieces = _parse(template)
    return _percent(pieces), _percent(_drop_title(pieces))


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


def _percent(pieces: list[tuple[str, str | None]]) -> str:
    return "".join(
        literal.replace("%", "%%") + (f"%({name})s" if name else "") for literal, name in pieces
    )


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
