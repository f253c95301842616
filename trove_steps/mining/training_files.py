"""Mined negatives as files that trainers read, with the texts themselves.

The four formats of sentence-transformers have the columns that its `mine_hard_negatives` gives and lie
in Parquet: `datasets.load_dataset("parquet", data_files=…)` is ready to train on. Texts are title and
text, joined by a space, without a model's prompts: trainers add those themselves.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from trove_steps.errors import TroveStepsError
from trove_steps.files import written_atomically
from trove_steps.mining.inputs import MiningInputs, Texts, read_texts
from trove_steps.mining.mined import Mined
from trove_steps.ranking import Judgments, Ranking, open_output

ROWS_PER_BATCH = 10_000


@dataclass(frozen=True)
class Example:
    """A query with its positives and negatives, as row numbers of the collections."""

    query_id: str
    query: int
    positives: list[int]
    negatives: list[int]


@dataclass(frozen=True)
class Collections:
    """Texts of the queries and documents that examples name, and the ids of all documents."""

    queries: Texts
    documents: Texts
    doc_ids: pa.Array | pa.ChunkedArray

    def passages(self, rows: list[int]) -> list[str]:
        return [self.documents.joined(row) for row in rows]


def write_training_files(
    folder: Path, mined: Mined, inputs: MiningInputs, formats: list[str], wanted: int
) -> tuple[list[Path], dict[str, int]]:
    """Write the files that ``formats`` names.

    A query without a positive in the corpus, or without a negative, is in none of them; one with
    fewer than ``wanted`` negatives is not in n-tuple, whose rows all have as many columns.

    Returns:
        The paths, and counts: per format ``num_FORMAT_rows``, and ``num_training_queries``.
    """
    if not formats:
        return [], {}
    if inputs.qrels is None:
        raise TroveStepsError("training files hold positives: name the judgments (--qrel-path)")
    examples = list(_examples(mined.negatives, mined.queries, inputs))
    queries = np.array([example.query for example in examples], np.int64)
    documents = [row for e in examples for row in (*e.positives, *e.negatives)]
    collections = Collections(
        read_texts(inputs.queries, queries),
        read_texts(inputs.documents, np.unique(np.array(documents, np.int64))),
        inputs.ranking.doc_ids,
    )
    paths, counts = [], {"num_training_queries": len(examples)}
    for name in sorted(formats):
        file, rows_of = FORMATS[name]
        path = folder / file
        rows = (row for example in examples for row in rows_of(example, collections, wanted))
        write = _write_parquet if file.endswith(".parquet") else _write_json_lines
        counts[f"num_{name.replace('-', '_')}_rows"] = write(path, rows, _schema(name, wanted))
        paths.append(path)
    return paths, counts


def _examples(negatives: Ranking, queries: np.ndarray, inputs: MiningInputs) -> Iterator[Example]:
    judgments = Judgments(inputs.ranking, inputs.qrels)
    query_ids = negatives.query_ids.to_pylist()
    for place in np.argsort(queries, kind="stable").tolist():
        judged = slice(*judgments.offsets[queries[place] : queries[place] + 2])
        docs, labels = judgments.docs[judged], judgments.labels[judged]
        positives = docs[(labels >= 1) & (docs >= 0)].tolist()
        rows = slice(*negatives.offsets[place : place + 2])
        # Where annotated documents are kept, positives are among the mined: not in training data.
        others = [doc for doc in negatives.docs[rows].tolist() if doc not in positives]
        if positives and others:
            yield Example(query_ids[place], int(queries[place]), positives, others)


def _triplets(example: Example, texts: Collections, wanted: int) -> Iterator[tuple]:
    query, negatives = texts.queries.joined(example.query), texts.passages(example.negatives)
    for positive in texts.passages(example.positives):
        for negative in negatives:
            yield query, positive, negative


def _tuples(example: Example, texts: Collections, wanted: int) -> Iterator[tuple]:
    negatives = texts.passages(example.negatives[:wanted])
    if len(negatives) == wanted:
        query = texts.queries.joined(example.query)
        for positive in texts.passages(example.positives):
            yield query, positive, *negatives


def _pairs(example: Example, texts: Collections, wanted: int) -> Iterator[tuple]:
    query = texts.queries.joined(example.query)
    for label, rows in ((1, example.positives), (0, example.negatives)):
        for passage in texts.passages(rows):
            yield query, passage, label


def _lists(example: Example, texts: Collections, wanted: int) -> Iterator[tuple]:
    query, negatives = texts.queries.joined(example.query), texts.passages(example.negatives)
    for positive in texts.passages(example.positives):
        yield query, [positive, *negatives], [1] + [0] * len(negatives)


def _tevatron(example: Example, texts: Collections, wanted: int) -> Iterator[dict]:
    def passages(rows: list[int]) -> list[dict]:
        ids = texts.doc_ids.take(pa.array(rows, pa.int64())).to_pylist()
        documents = texts.documents
        return [
            {"docid": doc_id, "title": documents.titles[row] or "", "text": documents.texts[row]}
            for doc_id, row in zip(ids, rows, strict=True)
        ]

    yield {
        "query_id": example.query_id,
        "query": texts.queries.joined(example.query),
        "positive_passages": passages(example.positives),
        "negative_passages": passages(example.negatives),
    }


def _flagembedding(example: Example, texts: Collections, wanted: int) -> Iterator[dict]:
    yield {
        "query": texts.queries.joined(example.query),
        "pos": texts.passages(example.positives),
        "neg": texts.passages(example.negatives),
    }


FORMATS = {
    "triplet": ("triplet.parquet", _triplets),
    "n-tuple": ("n-tuple.parquet", _tuples),
    "labeled-pair": ("labeled-pair.parquet", _pairs),
    "labeled-list": ("labeled-list.parquet", _lists),
    "tevatron": ("tevatron.jsonl", _tevatron),
    "flagembedding": ("flagembedding.jsonl", _flagembedding),
}


def _schema(name: str, wanted: int) -> pa.Schema | None:
    text, label = pa.string(), pa.int64()
    columns = {
        "triplet": {"query": text, "positive": text, "negative": text},
        "n-tuple": {"query": text, "positive": text}
        | {f"negative_{number}": text for number in range(1, wanted + 1)},
        "labeled-pair": {"query": text, "passage": text, "label": label},
        "labeled-list": {"query": text, "passages": pa.list_(text), "labels": pa.list_(label)},
    }
    return pa.schema(columns[name]) if name in columns else None


def _write_parquet(path: Path, rows: Iterator[tuple], schema: pa.Schema) -> int:
    import pyarrow.parquet as pq

    count = 0
    with (
        written_atomically(path) as temporary,
        pq.ParquetWriter(temporary, schema) as writer,
    ):
        for batch in _batches(rows):
            columns = [list(column) for column in zip(*batch, strict=True)]
            writer.write_table(pa.table(columns, schema=schema))
            count += len(batch)
    return count


def _write_json_lines(path: Path, rows: Iterator[dict], schema: None) -> int:
    count = 0
    with open_output(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            count += 1
    return count


def _batches(rows: Iterator[tuple]) -> Iterator[Sequence[tuple]]:
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == ROWS_PER_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
