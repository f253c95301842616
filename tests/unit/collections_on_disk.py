"""Collections in every format and compression that the readers know, for their tests."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, settings

from trove_steps.data import read_records

ROWS = [
    ("007", "First, of all", "A text."),
    ("d-2", "", ""),
    ("ü/3", 'with "quotes"', "Zwei Wörter, 漢字 and 🎉; spaces  inside"),
    ("40", "Title", "x" * 3000),
]


def json_lines(rows) -> bytes:
    return b"".join(
        orjson.dumps({"_id": i, "title": title, "text": text}) + b"\n" for i, title, text in rows
    )


def table_of(rows) -> pa.Table:
    return pa.table(dict(zip(("_id", "title", "text"), zip(*rows, strict=True), strict=True)))


def csv_of(rows, **dialect) -> bytes:
    out = io.StringIO()
    csv.writer(out, **dialect).writerows([("_id", "title", "text"), *rows])
    return out.getvalue().encode()


def tsv_of(rows) -> bytes:
    return "".join(
        f"{i}\t{title}\t{text}\n" for i, title, text in [("_id", "title", "text"), *rows]
    ).encode()


def parquet(rows, **options) -> bytes:
    sink = io.BytesIO()
    pq.write_table(rows if isinstance(rows, pa.Table) else table_of(rows), sink, **options)
    return sink.getvalue()


def arrow(rows, opened=pa.ipc.new_file, **options) -> bytes:
    table = rows if isinstance(rows, pa.Table) else table_of(rows)
    sink = io.BytesIO()
    with opened(sink, table.schema, **options) as writer:
        writer.write_table(table, 3)
    return sink.getvalue()


FORMATS = {
    "json lines": json_lines,
    "json lines, spaced": lambda rows: b"\n".join(
        json.dumps({"text": text, "n": [1, None], "title": title, "_id": i}).encode()
        for i, title, text in rows
    ),
    "csv": csv_of,
    "csv, unix line ends": lambda rows: csv_of(rows, lineterminator="\n", quoting=csv.QUOTE_ALL),
    "tsv": tsv_of,
    "tsv, quoted": lambda rows: csv_of(rows, delimiter="\t"),
    "tsv, all quoted": lambda rows: csv_of(rows, delimiter="\t", quoting=csv.QUOTE_ALL),
    "parquet": parquet,
    "parquet, dictionaries": lambda rows: parquet(
        pa.table(
            [column.dictionary_encode() for column in table_of(rows).columns],
            ["_id", "title", "text"],
        )
    ),
    "parquet, large strings": lambda rows: parquet(
        table_of(rows).cast(
            pa.schema([(name, pa.large_string()) for name in ("_id", "title", "text")])
        ),
        compression="zstd",
    ),
    "arrow file": arrow,
    "arrow stream": lambda rows: arrow(rows, pa.ipc.new_stream),
}
COMPRESSIONS = {
    "plain": bytes,
    "gzip": gzip.compress,
    "gzip, two members": lambda data: gzip.compress(data[:50]) + gzip.compress(data[50:]),
    "zstd": zstandard.compress,
    # pzstd puts the size of each frame before it, in a frame that is to be skipped.
    "zstd, as pzstd writes it": lambda data: (
        b"\x50\x2a\x4d\x18\x04\0\0\0" + bytes(4) + zstandard.compress(data)
    ),
    "zstd, two frames": lambda data: zstandard.compress(data[:50]) + zstandard.compress(data[50:]),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


def write(folder, content: bytes, name: str = "data"):
    path = folder / name
    path.write_bytes(content)
    return path


def records(path, **options) -> list[tuple]:
    return [
        row
        for batch in read_records(path, **options)
        for row in zip(batch.ids, batch.titles, batch.texts, strict=True)
    ]


def places(path, **options) -> list[int]:
    return [line for batch in read_records(path, **options) for line in batch.lines]


FUZZ = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "150")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def fuzz(test):
    """Mark a test that looks for input which breaks a reader: `make fuzz` runs these for minutes."""
    return pytest.mark.fuzz(FUZZ(test))
