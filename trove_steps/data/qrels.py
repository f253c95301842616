"""Reading relevance judgments: TSV and CSV with or without header, TREC, grouped and nested JSON,
and training files with positives and negatives, told apart by content."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from trove_steps.data.ids import (
    DOC_ID_NAMES,
    QUERY_ID_NAMES,
    bad_id,
    bad_id_message,
    shortened,
)
from trove_steps.data.opening import Source
from trove_steps.data.records import parsed_json
from trove_steps.data.tables import check_widths, csv_rows, decoded, delimiter, tsv_rows
from trove_steps.errors import TroveStepsError

SCORE_NAMES = ("score", "label", "relevance", "rel")
POSITIVES = ("positive_passages", "positives", "pos")
NEGATIVES = ("negative_passages", "negatives", "neg")


@dataclass(frozen=True)
class QrelsInfo:
    """How judgments were read: per file its format, and what was found twice.

    repeated: pairs that stand several times with the same label (counted once).
    overruled: pairs that stand with different labels (the last one counts).
    """

    formats: tuple[str, ...]
    repeated: int
    overruled: int


def read_qrels(
    paths: Sequence[Path | str],
    *,
    shown_as: Sequence[str] | None = None,
    digests: Sequence[str] | None = None,
):
    """Return pa.Table(query_id: string, doc_id: string, score: int64 or float64), no pair twice.

    Ids stay as they are written (leading zeros, quotes). `shown_as` are the paths that messages name,
    `digests` the SHA-256 that the files must have. Raises TroveStepsError with file:line.
    """
    return load_qrels(paths, shown_as=shown_as, digests=digests)[0]


def load_qrels(paths, *, shown_as=None, digests=None):
    """Return the judgments of `read_qrels` and a QrelsInfo."""
    import pyarrow as pa

    formats, parts = [], []
    for number, path in enumerate(paths):
        name = shown_as[number] if shown_as else None
        with Source(path, name, digests[number] if digests else None) as source:
            how, blocks = _reader(source)
            formats.append(how)
            found = [_table(*block, source) for block in blocks]
            if not sum(map(len, found)):
                raise TroveStepsError(f"{source.name} holds no judgments")
            parts += found
    table = pa.concat_tables(parts, promote_options="permissive").combine_chunks()
    table, repeated, overruled = _without_repeats(table)
    return table, QrelsInfo(tuple(formats), repeated, overruled)


def most_annotated(qrels) -> int:
    """Return the largest number of judged documents of a query; 0 without judgments."""
    import pyarrow.compute as pc

    if not len(qrels):
        return 0
    return pc.max(pc.value_counts(qrels["query_id"]).field("counts")).as_py()


def _reader(source: Source) -> tuple[str, Iterator]:
    """Return the name of the format and blocks of (query ids, doc ids, labels, line numbers)."""
    if source.format != "text":
        raise TroveStepsError(f"{source.name}: {source.format} files of judgments are not read yet")
    start = source.head.lstrip()[:1]
    if not start:
        raise TroveStepsError(f"{source.name} holds no judgments: the file is empty")
    if start == b"{":
        return _json_reader(source)
    first = source.head.lstrip(b"\r\n").partition(b"\n")[0]
    if b"\t" not in first and b"," not in first or len(first.split()) == 4:
        return "TREC qrels", _trec(source)
    return f"{'TSV' if delimiter(source) == chr(9) else 'CSV'} qrels", _rows(source)


def _trec(source: Source) -> Iterator:
    """`query iteration document label`, by white space."""
    for first, lines in source.lines():
        rows = [line.split() for line in decoded(lines, first, source.name)]
        numbers = [first + index for index, row in enumerate(rows) if row]
        rows = [row for row in rows if row]
        check_widths(rows, numbers, 4, source.name)
        if rows:
            queries, _, documents, labels = zip(*rows, strict=True)
            yield queries, documents, labels, numbers


def _rows(source: Source) -> Iterator:
    order = None
    for numbers, rows in (tsv_rows if delimiter(source) == "\t" else csv_rows)(source):
        if order is None:
            order, width, header = _order(source, rows[0], numbers[0])
            rows, numbers = rows[header:], numbers[header:]
        check_widths(rows, numbers, width, source.name)
        if rows:
            columns = list(zip(*rows, strict=True))
            yield (*(columns[place] for place in order), numbers)


def _order(source: Source, row: list[str], line: int) -> tuple[list[int], int, int]:
    """Return the places of query, document and label, the width, and how many rows the header takes."""
    names = [name.strip().lower() for name in row]
    found = [
        next((names.index(name) for name in choices if name in names), None)
        for choices in (QUERY_ID_NAMES, DOC_ID_NAMES, SCORE_NAMES)
    ]
    if None not in found:
        return found, len(row), 1
    if any(place is not None for place in found):
        missing = [
            what
            for what, place in zip(("query-id", "corpus-id", "score"), found, strict=True)
            if place is None
        ]
        raise TroveStepsError(
            f"{source.name}:{line}: the header {shortened(row)} lacks {' and '.join(missing)}"
        )
    if len(row) == 4:
        return [0, 2, 3], 4, 0
    if len(row) != 3:
        raise TroveStepsError(
            f"{source.name}:{line}: {len(row)} columns; judgments have three (query-id, corpus-id, "
            "score) or TREC's four (query, iteration, document, label)"
        )
    if _number(row[2]) is None:
        raise TroveStepsError(
            f"{source.name}:{line}: {shortened(row)} is neither a judgment nor a header with the names "
            "query-id, corpus-id and score"
        )
    return [0, 1, 2], 3, 0


def _json_reader(source: Source) -> tuple[str, Iterator]:
    first = source.head.lstrip().partition(b"\n")[0]
    try:
        record = orjson.loads(first)
    except orjson.JSONDecodeError:
        record = None
    if isinstance(record, dict) and any(name in record for name in POSITIVES):
        return "training file", _training(source)
    if isinstance(record, dict) and "docid" in record and "qid" in record:
        return "grouped JSONL qrels", _grouped(source)
    return "nested JSON qrels", _nested(source)


def _objects(source: Source) -> Iterator[tuple[int, dict]]:
    for first, lines in source.lines():
        for number, line in enumerate(lines, first):
            if line.strip():
                record = parsed_json(source, line, number)
                if not isinstance(record, dict):
                    raise TroveStepsError(
                        f"{source.name}:{number}: {shortened(record)} is not a JSON object"
                    )
                yield number, record


def _grouped(source: Source) -> Iterator:
    """One query per line: {"qid": …, "docid": […], "score": […]}."""
    for number, record in _objects(source):
        documents, labels = record.get("docid"), record.get("score")
        query = record.get("qid")
        if not (isinstance(documents, list) and isinstance(labels, list) and query is not None):
            raise TroveStepsError(f"{source.name}:{number}: qid, docid and score are expected")
        if len(documents) != len(labels):
            raise TroveStepsError(
                f"{source.name}:{number}: {len(documents)} documents but {len(labels)} labels"
            )
        if documents:
            yield [query] * len(documents), documents, labels, [number] * len(documents)


def _nested(source: Source) -> Iterator:
    """One object for all: {query: {document: label}}."""
    content = b""
    while block := source.read():
        content += block
    judgments = parsed_json(source, content, 1)
    for query, documents in judgments.items():
        if not isinstance(documents, dict):
            raise TroveStepsError(
                f"{source.name}: query {shortened(query)} has no object of documents and labels"
            )
        if documents:
            count = len(documents)
            yield [query] * count, list(documents), list(documents.values()), [1] * count


def _training(source: Source) -> Iterator:
    """One query per line with lists of positives (label 1) and negatives (label 0)."""
    for number, record in _objects(source):
        query = next((record[name] for name in (*QUERY_ID_NAMES, "_id", "id") if name in record), None)
        if query is None:
            raise TroveStepsError(f"{source.name}:{number}: no query_id")
        documents, labels = [], []
        for names, label in ((POSITIVES, 1), (NEGATIVES, 0)):
            for item in next((record[name] for name in names if name in record), None) or []:
                documents.append(_document_id(item, source, number))
                labels.append(label)
        if documents:
            yield [query] * len(documents), documents, labels, [number] * len(documents)


def _document_id(item, source: Source, number: int):
    if isinstance(item, str | int):
        return item
    if isinstance(item, dict):
        for name in (*DOC_ID_NAMES, "_id", "id"):
            if name in item:
                return item[name]
    raise TroveStepsError(f"{source.name}:{number}: {shortened(item)} is no document with a docid")


def _table(queries, documents, labels, numbers, source: Source):
    import pyarrow as pa

    columns = []
    for ids in (queries, documents):
        ids = [str(value) if type(value) is int else value for value in ids]
        for index, value in enumerate(ids if set(map(type, ids)) - {str} else ()):
            if type(value) is not str:
                raise TroveStepsError(
                    f"{source.name}:{numbers[index]}: the id {shortened(value)} is not a string"
                )
        wrong = bad_id(ids)
        if wrong is not None:
            raise TroveStepsError(f"{source.name}:{numbers[wrong]}: {bad_id_message(ids[wrong])}")
        columns.append(pa.array(ids, pa.string()))
    values = _labels(labels, numbers, source)
    return pa.table({"query_id": columns[0], "doc_id": columns[1], "score": pa.array(values)})


def _labels(labels, numbers, source: Source) -> list:
    try:
        return list(map(int, labels)) if set(map(type, labels)) <= {str} else _numbers(labels)
    except ValueError:
        pass
    values = [_number(label) for label in labels]
    if None in values:
        index = values.index(None)
        raise TroveStepsError(
            f"{source.name}:{numbers[index]}: the label {shortened(labels[index])} is not a number"
        )
    return [float(value) for value in values]


def _numbers(labels) -> list:
    if set(map(type, labels)) == {int}:
        return list(labels)
    raise ValueError


def _number(label) -> int | float | None:
    if isinstance(label, bool) or label is None:
        return None
    try:
        value = float(label)
    except (TypeError, ValueError):
        return None
    return value if value - value == 0 else None


def _without_repeats(table):
    """Keep of each (query, document) the last label; return also how many were dropped, and why."""
    import numpy as np
    import pyarrow.compute as pc

    codes = [pc.dictionary_encode(table[name]).combine_chunks().indices.to_numpy() for name in ("query_id", "doc_id")]
    pairs = codes[0].astype(np.int64) * (int(codes[1].max()) + 1) + codes[1]
    order = np.argsort(pairs, kind="stable")
    same = pairs[order[1:]] == pairs[order[:-1]]
    if not same.any():
        return table, 0, 0
    labels = table["score"].to_numpy()
    overruled = int((labels[order[1:]] != labels[order[:-1]])[same].sum())
    last = np.sort(order[np.append(~same, True)])
    return table.take(last), int(same.sum()) - overruled, overruled
