"""Identifiers of queries and documents: the names of their columns, and what an id may be.

An id is a string of one or more characters, none of them a space or a control character: the files
that hold rankings and judgments (TREC, TSV) separate columns by these. JSON integers are taken as
their decimal string.
"""

import re
from collections.abc import Iterable, Sequence

QUERY_ID_NAMES = ("qid", "query_id", "query-id", "queryid", "topic_id")
DOC_ID_NAMES = (
    "docid",
    "doc_id",
    "doc-id",
    "passage_id",
    "passage-id",
    "corpus-id",
    "corpus_id",
    "pid",
)
SCORE_NAMES = ("score", "relevance", "rel", "label")
ROLES = {"query": QUERY_ID_NAMES, "document": DOC_ID_NAMES, "score": SCORE_NAMES}
RECORD_ID_NAMES = ("_id", "id", *QUERY_ID_NAMES, *DOC_ID_NAMES)

# White space of Unicode, control characters and halves of surrogate pairs, as UTF-8.
SEPARATOR = re.compile(
    rb"[\x00-\x20\x7f]|\xc2[\x80-\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]"
    rb"|\xe2\x81\x9f|\xe3\x80\x80|\xed[\xa0-\xbf][\x80-\xbf]"
)


def bad_id(ids: Sequence[str]) -> int | None:
    """Return the index of the first id that is empty or holds what no id may hold."""
    together = "".join(ids)
    plain = together.isascii() and together.isprintable() and " " not in together
    if all(ids) and (plain or not _separator(together)):
        return None
    return next(i for i, value in enumerate(ids) if not value or _separator(value))


def _separator(text: str) -> str | None:
    """Return the first character of a text that an id can't have."""
    found = SEPARATOR.search(text.encode("utf-8", "surrogatepass"))
    return found and found[0].decode("utf-8", "surrogatepass")


def bad_id_message(value: str) -> str:
    """Say what is wrong with an id that `bad_id` found."""
    if not value:
        return "the id is empty: give it a value"
    found = _separator(value)
    if "\ud800" <= found <= "\udfff":
        return (
            f"the id {shortened(value)} holds half of a surrogate pair: remove it or give its pair"
        )
    what = "a space" if found == " " else f"the character {found!r}"
    return (
        f"the id {shortened(value)} holds {what}, which separates the columns of run and qrel files: "
        "use ids without white space and control characters, in all files alike"
    )


def shortened(value: object, limit: int = 60) -> str:
    """Return the value as Python shows it, cut to about `limit` characters."""
    if isinstance(value, str | bytes | list):
        value = value[: limit + 1]
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def plain_values(values: Iterable) -> list:
    """Return values as Python has them: numbers and strings of numpy and other libraries are converted."""
    return list(map(_plain, values))


def _plain(value):
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    return str.__str__(value) if isinstance(value, str) else value
