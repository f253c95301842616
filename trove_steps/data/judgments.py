"""Judgments in JSON: one per line, grouped by query, nested, or implied by training data."""

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import orjson

from trove_steps.data.arrays import from_numpy, from_strings
from trove_steps.data.ids import (
    DOC_ID_NAMES,
    QUERY_ID_NAMES,
    RECORD_ID_NAMES,
    ROLES,
    SCORE_NAMES,
    bad_id,
    bad_id_message,
    plain_values,
    shortened,
)
from trove_steps.data.json_records import check_objects, parse_lines
from trove_steps.data.opening import Source
from trove_steps.errors import TroveStepsError

BATCH_LINES = 4096
POSITIVE_NAMES = (
    "positive_passages",
    "positive_ids",
    "positive_pids",
    "positives",
    "positive",
    "pos_ids",
    "pos",
)
NEGATIVE_NAMES = tuple(
    name.replace("positive", "negative").replace("pos", "neg") for name in POSITIVE_NAMES
)
# An id of a synthetic document: query, level of relevance, number.
LEVELLED_ID = re.compile(r"(.+)_l_(\d+)_d_\d+")
Triplets = tuple[list, list, list]


def json_judgments(source: Source):
    """Return (format in words, tables) of a JSON or JSON lines file."""
    what, read, tables = None, None, []
    for records, numbers, texts in _records(source):
        check_objects(source, records, numbers)
        if read is None:
            what, read = _reader(records[0], f"{source.name}:{numbers[0]}")
        tables.append(_table(source, records, numbers, read))
        if read is _nested:
            _check_keys(source, numbers, texts)
    return what, tables


def json_lines(source: Source, query: str, doc: str) -> list[int]:
    """Return the numbers of the lines that judge a pair."""
    read, found = None, []
    for records, numbers, _ in _records(source):
        check_objects(source, records, numbers)
        for record, number in zip(records, numbers, strict=True):
            read = read or _reader(record, source.name)[1]
            queries, docs, _ = read(record)
            pairs = zip(queries, docs, strict=True)
            if any((str(q), str(d)) == (query, doc) for q, d in pairs):
                found.append(number)
    return found


def _records(source: Source) -> Iterator[tuple[list[dict], Sequence[int], list[bytes]]]:
    """Yield (objects, their line numbers, what they were parsed from): one per line, or the file as one
    object."""
    if source.head.lstrip()[:1] == b"[":
        raise TroveStepsError(
            f"{source.name} is one JSON array: write one object per line, for instance with jq -c '.[]'"
        )
    if _is_one_object(source.head):
        content = b"\n".join(line for _, lines in source.lines() for line in lines)
        yield [_parsed_whole(source, content)], [1], [content]
        return
    for first, lines in source.lines():
        for start in range(0, len(lines), BATCH_LINES):
            part = lines[start : start + BATCH_LINES]
            records, numbers = parse_lines(source, part, first + start)
            if records:
                if len(numbers) < len(part):  # without the blank ones
                    part = [part[number - first - start] for number in numbers]
                yield records, numbers, part


def _is_one_object(head: bytes) -> bool:
    """Whether the file is one JSON object over several lines, as pretty printers write it."""
    lines = [line for line in head.split(b"\n") if line.strip()]
    if len(lines) < 2 or lines[1].lstrip()[:1] == b"{":
        return False
    try:
        orjson.loads(lines[0])
    except orjson.JSONDecodeError:
        return True
    return False


def _parsed_whole(source: Source, content: bytes):
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise TroveStepsError(
            f"{source.name}:{error.lineno}: not valid JSON ({error.msg}, column {error.colno}): correct "
            "it, or copy the file again if it is cut off"
        ) from None


def _reader(record: dict, where: str) -> tuple[str, Callable[[dict], Triplets]]:
    """Return (format in words, function from an object to its triplets) by the first object."""
    query = _name(record, QUERY_ID_NAMES)
    doc = _name(record, DOC_ID_NAMES)
    score = _name(record, SCORE_NAMES)
    positive, negative = _name(record, POSITIVE_NAMES), _name(record, NEGATIVE_NAMES)
    if query and doc and score:
        for role, known in ROLES.items():
            if len(names := [name for name in known if name in record]) > 1:
                raise TroveStepsError(
                    f"{where}: the fields {' and '.join(map(repr, names))} both name the {role}: keep one"
                )
        if isinstance(record[doc], list):
            return "JSON lines grouped by query", lambda r: _grouped(r, query, doc, score)
        return "JSON lines", lambda r: ([r[query]], [r[doc]], [r[score]])
    if query and (positive or negative):
        return (
            "training data with positives and negatives",
            lambda r: _training(r, query, positive, negative),
        )
    if LEVELLED_ID.fullmatch(str(record.get("_id"))) and "text" in record:
        return "synthetic corpus with levels in its ids", _levelled
    if record and all(isinstance(value, dict) for value in record.values()):
        return "nested JSON (query, document, score)", _nested
    raise TroveStepsError(f"{where}: not judgments: {_advice(record)}")


def _advice(record: dict) -> str:
    if "_id" in record and "text" in record:
        return "this is a corpus or query file; name the qrel file instead"
    if _name(record, POSITIVE_NAMES):
        return f"training data need a query id, by one of {', '.join(QUERY_ID_NAMES)}"
    fields = shortened(list(record))
    return (
        f"the fields {fields} are none of: query-id, corpus-id, score; query_id, positive_passages, "
        "negative_passages; or query → document → score"
    )


def _name(record: dict, known: tuple[str, ...]) -> str | None:
    return next((name for name in known if name in record), None)


def _grouped(record: dict, query: str, doc: str, score: str) -> Triplets:
    docs, scores = record[doc], record[score]
    if not isinstance(docs, list) or not isinstance(scores, list) or len(docs) != len(scores):
        raise TroveStepsError(f"{doc!r} and {score!r} must be lists of the same length")
    return [record[query]] * len(docs), docs, scores


def _nested(record: dict) -> Triplets:
    queries, docs, scores = [], [], []
    for query, judged in record.items():
        if not isinstance(judged, dict):
            raise TroveStepsError(f"the value of {shortened(query)} is not an object of scores")
        queries += [query] * len(judged)
        docs += judged.keys()
        scores += judged.values()
    return queries, docs, scores


class _Twice(Exception):
    """A key of a JSON object and its two values."""


def _each_once(pairs: list[tuple[str, object]]) -> dict:
    """Return the mapping of an object's keys; raise _Twice if one is there twice."""
    found: dict = {}
    for key, value in pairs:
        if key in found:
            raise _Twice(key, found[key], value)
        found[key] = value
    return found


def _check_keys(source: Source, numbers: Sequence[int], texts: list[bytes]) -> None:
    """Raise TroveStepsError if a query or a document is there twice in an object: a parser keeps only the
    last one."""
    for number, text in zip(numbers, texts, strict=True):
        try:
            json.loads(text, object_pairs_hook=_each_once)
        except _Twice as twice:
            key, *values = map(shortened, twice.args)
            where = source.name if b"\n" in text.strip() else f"{source.name}:{number}"
            raise TroveStepsError(
                f"{where}: {key} is there twice, with {' and '.join(values)}: merge them, or remove one"
            ) from None


def _training(record: dict, query: str, positive: str | None, negative: str | None) -> Triplets:
    # Negatives first: a document that is in both lists counts as positive.
    negatives = _listed_ids(record.get(negative)) if negative else []
    positives = _listed_ids(record.get(positive)) if positive else []
    docs = negatives + positives
    return [record[query]] * len(docs), docs, [0] * len(negatives) + [1] * len(positives)


def _listed_ids(value) -> list:
    """Return the ids in a list of ids or of documents, or in several lists, by miner."""
    if value is None:
        return []
    if isinstance(value, dict) and not _name(value, RECORD_ID_NAMES):
        return [found for listed in value.values() for found in _listed_ids(listed)]
    found = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            name = _name(item, RECORD_ID_NAMES)
            if name is None:
                raise TroveStepsError(f"the document {shortened(list(item))} has no id")
            item = item[name]
        found.append(item)
    return found


def _levelled(record: dict) -> Triplets:
    match = LEVELLED_ID.fullmatch(str(record["_id"]))
    if not match:
        raise TroveStepsError(f"the id {shortened(record['_id'])} has no level (…_l_1_d_0)")
    return [match[1]], [record["_id"]], [int(match[2])]


def _table(source: Source, records: list, numbers: list[int], read: Callable[[dict], Triplets]):
    try:
        parts = [read(record) for record in records]
        return judgment_columns(
            *(list(chain.from_iterable(column)) for column in zip(*parts, strict=True))
        )
    except (TroveStepsError, KeyError):
        for number, record in zip(numbers, records, strict=True):
            try:
                judgment_columns(*read(record))
            except TroveStepsError as error:
                raise TroveStepsError(f"{source.name}:{number}: {error}") from None
            except KeyError as error:
                raise TroveStepsError(
                    f"{source.name}:{number}: the field {error} is missing"
                ) from None
        raise


def judgment_columns(queries: list, docs: list, scores: list):
    """Return the table of three lists; raise TroveStepsError, without a place, for a bad value."""
    import numpy as np
    import pyarrow as pa

    ids = [_strings(values) for values in (queries, docs)]
    kinds = set(map(type, scores))
    if not kinds <= {int, float}:
        scores = plain_values(scores)
        kinds = set(map(type, scores))
    if not kinds <= {int, float}:
        place = next(n for n, score in enumerate(scores) if type(score) not in (int, float))
        of = f"{shortened(queries[place])} and {shortened(docs[place])}"
        raise TroveStepsError(f"the score {shortened(scores[place])} is not a number (of {of})")
    try:
        values = np.array(scores, np.float64 if float in kinds else np.int64)
    except OverflowError:
        raise TroveStepsError("a score does not fit into 64 bits") from None
    if not np.isfinite(values).all():
        bad = next(score for score in scores if not math.isfinite(score))
        raise TroveStepsError(f"the score {bad} is not a finite number")
    names = ("query_id", "doc_id", "score")
    return pa.table(dict(zip(names, (*map(from_strings, ids), from_numpy(values)), strict=True)))


def _strings(ids: list) -> list[str]:
    kinds = set(map(type, ids))
    if not kinds <= {str, int}:
        ids = plain_values(ids)
        kinds = set(map(type, ids))
    if not kinds <= {str, int}:
        bad = next(value for value in ids if type(value) not in (str, int))
        raise TroveStepsError(f"the id {shortened(bad)} is neither a string nor an integer")
    if int in kinds:
        ids = list(map(str, ids))
    if (index := bad_id(ids)) is not None:
        raise TroveStepsError(bad_id_message(ids[index]))
    return ids
