"""Reading corpora and queries: every format, what is wrong with bad input, and text templates."""

import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
import os
import stat
import subprocess
import sys

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trove_steps.data import check_unique_ids, format_text, read_records
from trove_steps.data.opening import Source
from trove_steps.data.tables import column_batches, csv_rows, tsv_rows
from trove_steps.errors import TroveStepsError

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
    return "".join(f"{i}\t{title}\t{text}\n" for i, title, text in [("_id", "title", "text"), *rows]).encode()


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
        pa.table([column.dictionary_encode() for column in table_of(rows).columns], ["_id", "title", "text"])
    ),
    "parquet, large strings": lambda rows: parquet(
        table_of(rows).cast(pa.schema([(name, pa.large_string()) for name in ("_id", "title", "text")])),
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


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_and_compression_is_told_by_content(tmp_path, form, compression):
    content = COMPRESSIONS[compression](FORMATS[form](ROWS))
    path = write(tmp_path, content, "misleading.csv.xz")
    assert records(path) == ROWS
    assert records(path, batch_rows=3) == ROWS
    assert records(path, digest=hashlib.sha256(content).hexdigest()) == ROWS


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("form", FORMATS)
def test_a_digest_that_differs_means_that_the_file_changed(tmp_path, form, compression):
    path = write(tmp_path, COMPRESSIONS[compression](FORMATS[form](ROWS)))
    with pytest.raises(TroveStepsError, match=r"shown\.x changed while it was read, or since"):
        records(path, digest="0" * 64, shown_as="shown.x")


def test_an_error_in_a_changed_file_is_told_as_the_change(tmp_path):
    path = write(tmp_path, json_lines(ROWS) + b"{")
    with pytest.raises(TroveStepsError, match="changed while it was read"):
        records(path, digest=hashlib.sha256(json_lines(ROWS)).hexdigest())


def test_a_reader_that_stops_early_does_not_check_the_digest(tmp_path):
    path = write(tmp_path, json_lines(ROWS))
    batches = read_records(path, digest="0" * 64, batch_rows=1)
    assert next(batches).ids == ["007"]
    batches.close()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b'\xef\xbb\xbf{"_id": "1", "text": "a"}\n', [("1", None, "a")], id="BOM"),
        pytest.param(b"\xef\xbb\xbf_id\ttext\n1\ta\n", [("1", None, "a")], id="BOM in TSV"),
        pytest.param(b"\xef\xbb\xbf_id,text\n1,a\n", [("1", None, "a")], id="BOM in CSV"),
        pytest.param(b'{"_id": "1", "text": "a"}\r\n\r\n', [("1", None, "a")], id="CRLF"),
        pytest.param(b"_id\ttext\r\n1\ta\r\n", [("1", None, "a")], id="CRLF in TSV"),
        pytest.param(b"_id,text\r\n1,a\r\n", [("1", None, "a")], id="CRLF in CSV"),
        pytest.param(b"1\ta\n2\tb\n", [("1", None, "a"), ("2", None, "b")], id="no header, TSV"),
        pytest.param(b'1,"a, b"\n', [("1", None, "a, b")], id="no header, CSV"),
        pytest.param(b"1\tid\n", [("1", None, "id")], id="a text that is a field's name"),
        pytest.param(b"\n\n1\ta\n", [("1", None, "a")], id="blank lines first"),
        pytest.param(b'_id,text\n1,"a\nb ""c"""\n', [("1", None, 'a\nb "c"')], id="line end in quotes"),
        pytest.param(b'_id\ttext\n1\t"a" b\n', [("1", None, '"a" b')], id="TSV quotes are text"),
        pytest.param(b'{"id": 5, "text": ""}', [("5", None, "")], id="integer id, empty text"),
        pytest.param(b'{"_id": "0", "title": null, "text": "a"}', [("0", None, "a")], id="null title"),
        pytest.param(
            b'{"_id": "0", "text": "a\\u0000b"}', [("0", None, "a\0b")], id="escaped NUL in a text"
        ),
        pytest.param(b'{"_id": "0", "text": "\\ud83c\\udf89"}', [("0", None, "🎉")], id="surrogate pair"),
    ],
)
def test_what_is_unusual_but_right_is_read(tmp_path, content, expected):
    assert records(write(tmp_path, content)) == expected


def test_a_document_of_ten_megabytes_is_read(tmp_path):
    rows = [("1", "t", "a"), ("2", "t", "b " * 5_000_000), ("3", "t", "c")]
    for form in ("json lines", "csv", "tsv", "parquet"):
        assert records(write(tmp_path, FORMATS[form](rows))) == rows


@pytest.mark.parametrize("name", ["_id", "id", "docid", "qid", "query_id", "query-id", "corpus-id"])
def test_usual_names_of_the_id(tmp_path, name):
    path = write(tmp_path, json.dumps({name: "1", "text": "a", "other": "b"}).encode())
    assert records(path) == [("1", None, "a")]


def test_the_line_of_each_record_is_known(tmp_path):
    blank = b'{"_id": "1", "text": ""}\n\n \n{"_id": "2", "text": ""}\n'
    assert places(write(tmp_path, blank)) == [1, 4]
    assert places(write(tmp_path, b"\n_id\ttext\n1\ta\n\n2\tb\n")) == [3, 5]
    assert places(write(tmp_path, b'_id,text\n1,"a\nb"\n2,c\n'), batch_rows=1) == [2, 4]
    assert places(write(tmp_path, parquet(ROWS)), batch_rows=3) == [1, 2, 3, 4]


def test_lines_are_counted_over_blocks(tmp_path):
    rows = [(str(n), "t", "word " * (n % 7 * 40)) for n in range(30_000)]
    content = json_lines(rows)
    assert len(content) > 3 << 20
    path = write(tmp_path, content + b"[]\n")
    with pytest.raises(TroveStepsError, match=r"data:30001: \[\] is not a JSON object"):
        records(path)
    path = write(tmp_path, content)
    assert records(path, batch_rows=1000) == rows
    assert places(path) == list(range(1, 30_001))
    assert records(write(tmp_path, tsv_of(rows))) == rows


def test_a_batch_is_never_larger_than_asked(tmp_path):
    rows = [(str(n), "", "a") for n in range(5000)]
    for form in FORMATS:
        path = write(tmp_path, FORMATS[form](rows))
        sizes = [len(batch.ids) for batch in read_records(path, batch_rows=64)]
        assert sum(sizes) == 5000, form
        assert max(sizes) <= 64, form


GOOD = b'{"_id": "1", "text": "a"}\n'
LONG = json_lines((str(n), "t", f"text {n * 7919 % 1000}") for n in range(2000))
BAD = {
    "empty": (b"", r"data holds no records: the file is empty"),
    "blank lines only": (b"\n\n \n", r"data holds no records"),
    "a BOM only": (b"\xef\xbb\xbf", r"data holds no records: the file is empty"),
    "header only, TSV": (b"_id\ttext\n", r"data holds no records"),
    "header only, CSV": (b"_id,title,text\r\n", r"data holds no records"),
    "no rows, Parquet": (parquet(table_of(ROWS).slice(0, 0)), r"data holds no records"),
    "no rows, Arrow": (arrow(table_of(ROWS).slice(0, 0)), r"data holds no records"),
    "broken JSON": (GOOD * 2 + b'{"_id": "3" "text": ""}\n' + GOOD, r"data:3: not valid JSON .*column 13"),
    "single quotes": (GOOD + b"{'_id': '1', 'text': 'a'}\n", r"data:2: not valid JSON"),
    "two objects on a line": (GOOD + GOOD.strip() + GOOD, r"data:2: not valid JSON"),
    "object over several lines": (b'{\n "_id": "1",\n "text": "a"\n}\n', r"data:1: not valid JSON"),
    "a JSON array": (b"[" + GOOD + b"]", r"data is one JSON array.*jq -c"),
    "NaN as text": (GOOD + b'{"_id": "1", "text": NaN}\n', r"data:2: not valid JSON"),
    "cut off in mid-line": (GOOD * 3 + GOOD[:-9], r"data:4: not valid JSON.*cut off here"),
    "cut off in mid-character": (GOOD + b'{"_id": "1", "text": "\xc3', r"data:2: byte 0xc3.*not UTF-8"),
    "cut off, CSV": (b'_id,text\n1,a\n2,"b', r"data:3: not valid CSV"),
    "cut off, TSV": (b"_id\ttitle\ttext\n1\tt\ta\n2\tt", r"data:3: 2 columns where 3 are expected"),
    "Latin-1": (GOOD + '{"_id": "2", "text": "Käse"}\n'.encode("latin1"), r"data:2: byte 0xe4 at position 24"),
    "Latin-1, TSV": ("_id\ttext\n1\ta\n2\tKäse\n".encode("latin1"), r"data:3: byte 0xe4 at position 4"),
    "Latin-1, CSV": ("_id,text\n1,a\n2,Käse\n".encode("latin1"), r"data:3: byte 0xe4 at position 4"),
    "UTF-16": (GOOD.decode().encode("utf-16"), r"data is encoded in UTF-16: convert it"),
    "UTF-16 without BOM": (GOOD.decode().encode("utf-16-le"), r"data is encoded in UTF-16"),
    "UTF-32": (GOOD.decode().encode("utf-32"), r"data is encoded in UTF-(16|32)"),
    "NUL in JSON": (GOOD + b'{"_id": "2", "text": "a\0b"}\n', r"data:2: not valid JSON.*\\u0000"),
    "NULs at the end": (GOOD * 2 + bytes(100), r"data:3: not valid JSON"),
    "NULs at the end, TSV": (b"_id\ttext\n1\ta\n" + bytes(100), r"data:3: 1 columns where 2"),
    "NUL in a TSV text": (b"_id\ttext\n1\ta\n2\ta\0b\n", r"data:3: .*NUL"),
    "NUL in a CSV text": (b"_id,text\n1,a\n2,a\0b\n", r"data:3: .*NUL"),
    "NULs only": (bytes(100), r"data:1: .*(NUL|neither JSON)"),
    "lone surrogate": (GOOD + b'{"_id": "2", "text": "\\ud800"}\n', r"data:2: .*half a character"),
    "lone surrogate in UTF-8": (GOOD + b'{"_id": "2", "text": "\xed\xa0\x80"}\n', r"data:2: byte 0xed"),
    "a field is missing": (GOOD + b'{"_id": "2"}\n', r"data:2: the field 'text' is missing"),
    "the id is missing": (GOOD + b'{"text": "b"}\n', r"data:2: the field '_id' is missing"),
    "no id at all": (b'{"name": "2", "text": ""}', r"data:1: no id field: it has 'name', 'text'"),
    "no text at all": (b'{"_id": "2", "body": ""}', r"data:1: no field 'text': it has '_id', 'body'"),
    "two ids": (b'{"_id": "2", "docid": "3", "text": ""}', r"data:1: 2 id fields, _id and docid"),
    "null text": (GOOD + b'{"_id": "2", "text": null}\n', r"data:2: 'text' is null"),
    "null id": (GOOD + b'{"_id": null, "text": "b"}\n', r"data:2: '_id' is null"),
    "text is a number": (GOOD + b'{"_id": "2", "text": 5}\n', r"data:2: 'text' is 5"),
    "text is a list": (GOOD + b'{"_id": "2", "text": ["a"]}\n', r"data:2: 'text' is \['a'\]"),
    "title is a list": (GOOD + b'{"_id": "2", "title": [], "text": ""}\n', r"data:2: 'title' is \[\]"),
    "id is a fraction": (GOOD + b'{"_id": 1.5, "text": "b"}\n', r"data:2: '_id' is 1.5"),
    "id is true": (GOOD + b'{"_id": true, "text": "b"}\n', r"data:2: '_id' is True"),
    "id is empty": (GOOD + b'{"_id": "", "text": "b"}\n', r"data:2: the id is empty"),
    "id with a space": (GOOD + b'{"_id": "a b", "text": "b"}\n', r"data:2: the id 'a b' holds a space"),
    "id with a line end": (GOOD + b'{"_id": "a\\n", "text": "b"}\n', r"data:2: the id 'a\\n' holds"),
    "id with a wide space": (GOOD + '{"_id": "a\u3000", "text": "b"}\n'.encode(), r"data:2: the id 'a"),
    "a list among objects": (GOOD + b'["2", "b"]\n', r"data:2: \['2', 'b'\] is not a JSON object"),
    "a number among objects": (GOOD + b"17\n", r"data:2: 17 is not a JSON object"),
    "too many columns": (b"_id\ttext\n1\ta\n2\ta\tb\n", r"data:3: 3 columns where 2 are expected"),
    "a line end in a TSV text": (b'_id\ttext\n1\t"a\nb"\n', r"data:3: 1 columns where 2 are expected"),
    "no header": (b"1\tt\ta\n", r"data:1: no header with an id"),
    "a header without text": (b"_id\ttitle\n1\ta\n", r"data:1: no field 'text'"),
    "a header without id": (b"name\ttext\n1\ta\n", r"data:1: no id field"),
    "a header that names text twice": (b"_id\ttext\ttext\n1\ta\tb\n", r"data:1: .*'text'.* twice"),
    "a header that names the id twice": (b"id\tid\ttext\n1\t2\tb\n", r"data:1: .*id"),
    "quotes in mid-file, CSV": (b'_id,text\n1,a\n2,"b" c\n', r"data:3: not valid CSV"),
    "quotes never closed, CSV": (b'_id,text\n1,"a\n2,b\n3,c\n', r"data:2: not valid CSV"),
    "a plain text": (b"Once upon a time\n", r"data:1: neither JSON nor a tab or comma in 'Once upon"),
    "gzip cut off": (gzip.compress(LONG)[:-400], r"data:\d+: the gzip data are damaged or cut off"),
    "gzip cut off in its trailer": (gzip.compress(GOOD)[:-3], r"data: the gzip data are damaged or cut"),
    "gzip cut off in its header": (gzip.compress(GOOD)[:5], r"data: the gzip data are damaged or cut off"),
    "gzip damaged": (gzip.compress(LONG)[:500] + b"!" * 9 + gzip.compress(LONG)[509:], r"the gzip data are"),
    "gzip, wrong checksum": (gzip.compress(GOOD)[:-8] + bytes(8), r"data: the gzip data are damaged"),
    "garbage after gzip": (gzip.compress(GOOD) + b"garbage", r"data: the gzip data are damaged or cut"),
    "zstd cut off": (zstandard.compress(LONG)[:-40], r"the zstd data are damaged or cut off"),
    "zstd damaged": (zstandard.compress(LONG)[:90] + b"!" * 90, r"the zstd data are damaged or cut off"),
    "bzip2 cut off": (bz2.compress(LONG)[:-40], r"the bzip2 data are damaged or cut off"),
    "xz cut off": (lzma.compress(LONG)[:-40], r"the xz data are damaged or cut off"),
    "Parquet cut off": (parquet(ROWS)[:-9], r"data: not a readable Parquet file.*cut off"),
    "Parquet, first bytes only": (b"PAR1", r"data: not a readable Parquet file"),
    "Arrow cut off": (arrow(ROWS)[:-300], r"data: not a readable Arrow file"),
    "Arrow stream cut off": (arrow(ROWS, pa.ipc.new_stream)[:-300], r"data: not a readable Arrow stream"),
    "Parquet, null text": (
        parquet(pa.table({"_id": ["1", "2"], "text": ["a", None]})),
        r"data:2: 'text' is null",
    ),
    "Parquet, text in bytes": (
        parquet(pa.table({"_id": ["1"], "text": [b"\xff"]})),
        r"data:1: 'text' is b'\\xff', where a string is needed",
    ),
    "Parquet, no text": (parquet(pa.table({"_id": ["1"], "body": ["a"]})), r"data: no field 'text'"),
    "Parquet, ids are fractions": (
        parquet(pa.table({"_id": [1.0], "text": ["a"]})),
        r"data:1: '_id' is 1.0",
    ),
    "Parquet, text twice": (
        parquet(pa.Table.from_arrays([pa.array(["1"])] * 3, names=["_id", "text", "text"])),
        r"data: .*'text'.* twice",
    ),
    "Arrow, strings not UTF-8": (
        arrow(
            pa.table(
                {
                    "_id": ["1"],
                    "text": pa.Array.from_buffers(
                        pa.string(), 1, pa.array([b"\xff"], pa.binary()).buffers()
                    ),
                }
            )
        ),
        r"data: not a readable Arrow file.*UTF8",
    ),
    "a zip archive": (b"PK\x03\x04" + bytes(40), r"data is a zip archive: unpack it first"),
    "a tar archive": (bytes(257) + b"ustar" + bytes(300), r"data is a tar archive: unpack it first"),
    "a pickle": (b"\x80\x04\x95" + bytes(20), r"data is a Python pickle"),
    "lz4": (b"\x04\x22\x4d\x18" + bytes(20), r"data is compressed with lz4"),
    "gzip of a zip archive": (gzip.compress(b"PK\x03\x04"), r"data is a zip archive"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_with_its_place(tmp_path, case):
    content, message = BAD[case]
    path = write(tmp_path, content)
    with pytest.raises(TroveStepsError, match=message) as caught:
        records(path, shown_as="data")
    assert caught.value.__cause__ is None
    assert str(caught.value).startswith("data")


def test_messages_name_the_file_even_if_it_has_another_name(tmp_path):
    path = write(tmp_path, b"{", "0f3a")
    with pytest.raises(TroveStepsError, match=r"^corpora/a\.jsonl:1: not valid JSON"):
        records(path, shown_as="corpora/a.jsonl")


def test_what_is_no_file(tmp_path):
    with pytest.raises(TroveStepsError, match=r"nothing does not exist: check the path"):
        records(tmp_path / "nothing")
    with pytest.raises(TroveStepsError, match=r"is a directory: name the file itself"):
        records(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TroveStepsError, match=r"pipe is not a regular file"):
        records(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(TroveStepsError, match=r"loop can't be opened"):
        records(tmp_path / "loop")
    with pytest.raises(TroveStepsError, match=r"can't be opened"):
        records("nul\0byte")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path):
    path = write(tmp_path, GOOD)
    path.chmod(0)
    with pytest.raises(TroveStepsError, match=r"data: no permission to read it.*chmod"):
        records(path)


def test_permission_is_told_apart_from_other_mistakes(tmp_path, monkeypatch):
    """The same as above for root, who can't be refused: the system's answer is made up."""
    path = write(tmp_path, GOOD)

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(TroveStepsError, match=r"data: no permission to read it.*chmod"):
        records(path)


def test_a_file_that_shrinks_between_opening_and_reading(tmp_path):
    path = write(tmp_path, json_lines(ROWS * 1000))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    batches = read_records(path, digest=digest, batch_rows=1)
    next(batches)
    os.truncate(path, 200_001)
    with pytest.raises(TroveStepsError, match=r"changed while it was read"):
        list(batches)


def mutated(data, draw_positions):
    """Return the data with some bytes replaced, dropped or doubled."""
    content = bytearray(data)
    for position, kind, byte in draw_positions:
        at = position % (len(content) + 1)
        if kind == 0:
            content[at : at + 1] = bytes([byte])
        elif kind == 1:
            del content[at : at + byte]
        elif kind == 2:
            content[at:at] = content[at : at + byte]
        else:
            del content[at:]
    return bytes(content)


CHANGES = st.lists(
    st.tuples(st.integers(0, 1 << 16), st.sampled_from([0, 0, 0, 1, 2, 3]), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)
FUZZ = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "150")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def check_rows_or_error(path) -> None:
    try:
        rows = records(path, shown_as="data")
    except TroveStepsError as error:
        assert str(error).startswith("data")
        return
    assert rows
    for row_id, title, text in rows:
        assert type(row_id) is str
        assert row_id
        assert not any(c.isspace() for c in row_id)
        assert title is None or type(title) is str
        assert type(text) is str


@FUZZ
@given(content=st.binary(max_size=300), start=st.sampled_from(["", "{", "[", "_id\ttext\n", "_id,text\n"]))
def test_random_bytes_give_rows_or_the_clear_error(tmp_path, content, start):
    check_rows_or_error(write(tmp_path, start.encode() + content))


@FUZZ
@given(
    form=st.sampled_from(sorted(FORMATS)),
    compression=st.sampled_from(sorted(COMPRESSIONS)),
    changes=CHANGES,
    inside=st.booleans(),
)
def test_damaged_files_give_rows_or_the_clear_error(tmp_path, form, compression, changes, inside):
    content = FORMATS[form](ROWS)
    if inside:
        content = COMPRESSIONS[compression](mutated(content, changes))
    else:
        content = mutated(COMPRESSIONS[compression](content), changes)
    check_rows_or_error(write(tmp_path, content))


@FUZZ
@given(
    rows=st.lists(
        st.tuples(
            st.from_regex(r"[!-~é漢]{1,5}", fullmatch=True),
            st.text(st.characters(exclude_categories=["Cs"])),
            st.text(st.characters(exclude_categories=["Cs"])),
        ),
        min_size=1,
        max_size=8,
    ),
    form=st.sampled_from(["json lines", "parquet", "arrow file", "arrow stream", "csv, unix line ends"]),
    batch_rows=st.integers(1, 5),
)
def test_what_was_written_is_read(tmp_path, rows, form, batch_rows):
    if "csv" in form:
        # Python's csv module gives other line ends back; NUL is refused in text files.
        rows = [tuple(cell.replace("\r", "").replace("\0", "") for cell in row) for row in rows]
    assert records(write(tmp_path, FORMATS[form](rows)), batch_rows=batch_rows) == rows


# --- opening -------------------------------------------------------------------------------------


@settings(FUZZ, max_examples=60)
@given(content=st.binary(max_size=200).map(lambda data: data.replace(b"\r", b"\n")), last=st.booleans())
def test_lines_are_those_between_line_feeds(tmp_path, content, last):
    content = b"x" + content + (b"\n" if last else b"x")
    with Source(write(tmp_path, content)) as source:
        found = [(first, line) for first, lines in source.lines() for line in lines]
    assert [line for _, line in found] == content.split(b"\n")[: -1 if last else None]
    assert source.ended_in_mid_line is not last
    assert source.line == len(found)


def test_a_source_says_what_it_is(tmp_path):
    for name, compress in COMPRESSIONS.items():
        with Source(write(tmp_path, compress(parquet(ROWS)))) as source:
            assert source.format == "Parquet"
            assert (source.compression or "plain") == name.partition(",")[0]


def test_decompression_takes_memory_of_a_block_only(tmp_path):
    """A gzip of 300 MB of zeros, 300 kB, is read in a process that may hold little more."""
    path = write(tmp_path, gzip.compress(b"0" * 1023 + b"\n") * (300 << 10), "zeros.gz")
    script = (
        "import resource, sys\n"
        "from trove_steps.data.opening import Source\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with Source(sys.argv[1]) as source:\n"
        "    count = sum(len(lines) for _, lines in source.lines())\n"
        "print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, check=True
    )
    count, kilobytes = map(int, done.stdout.split())
    assert count == 300 << 10
    assert kilobytes < 60 << 10


def test_reading_leaves_the_file_as_it_was(tmp_path):
    path = write(tmp_path, parquet(ROWS))
    before = os.stat(path)
    records(path, digest=hashlib.sha256(path.read_bytes()).hexdigest())
    after = os.stat(path)
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)
    assert stat.S_IMODE(before.st_mode) == stat.S_IMODE(after.st_mode)


def test_readers_import_nothing_heavy():
    script = (
        "import sys, trove_steps.data\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'wandb', 'pyarrow', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- tables --------------------------------------------------------------------------------------


def test_tsv_keeps_quotes_unless_the_file_shows_that_its_writer_quotes(tmp_path):
    def rows(text: str) -> list[list[str]]:
        with Source(write(tmp_path, text.encode())) as source:
            return [row for _, block in tsv_rows(source) for row in block]

    assert rows('1\ta "b" c\n2\t"d"\n') == [["1", 'a "b" c'], ["2", '"d"']]
    assert rows('1\t"a ""b"""\n2\tc\n') == [["1", 'a "b"'], ["2", "c"]]
    assert rows('"i"\t"text"\n"1"\t"a"\n') == [["i", "text"], ["1", "a"]]
    assert rows('1\t"\n2\t5" disk\n') == [["1", '"'], ["2", '5" disk']]


def test_csv_rows_know_their_first_line(tmp_path):
    with Source(write(tmp_path, b'a,b\n\n1,"x\ny"\n2,z\n')) as source:
        assert [(list(n), r) for n, r in csv_rows(source)] == [
            ([1, 3, 5], [["a", "b"], ["1", "x\ny"], ["2", "z"]])
        ]


def test_only_the_chosen_columns_are_read(tmp_path):
    with Source(write(tmp_path, parquet(ROWS))) as source:
        batches = list(column_batches(source, lambda names: names[2:], 3))
    assert [(row, batch.schema.names, batch.num_rows) for row, batch in batches] == [
        (1, ["text"], 3),
        (4, ["text"], 1),
    ]


# --- ids -----------------------------------------------------------------------------------------


def chunked(*ids):
    return pa.chunked_array([pa.array(ids, pa.string())])


def test_unique_ids_pass(tmp_path):
    check_unique_ids(chunked("1", "01", "a"), [(str(tmp_path / "never read"), 3)])
    check_unique_ids(pa.chunked_array([], pa.string()), [])


def test_a_repeated_id_is_told_with_both_places(tmp_path):
    first = write(tmp_path, b'{"_id": "a", "text": ""}\n\n{"_id": "b", "text": ""}\n', "one")
    second = write(tmp_path, b"_id\ttext\nc\t\nb\t\nd\t\nb\t\n", "two")
    ids = pa.chunked_array([["a", "b"], ["c", "b", "d", "b"]])
    with pytest.raises(TroveStepsError) as caught:
        check_unique_ids(ids, [(str(first), 2), (str(second), 6)])
    message = str(caught.value)
    assert message.startswith(f"{second}:3: the id 'b' is already taken at {first}:3")
    assert "2 of 6" in message


def test_a_repeated_id_is_told_even_when_the_file_is_gone(tmp_path):
    with pytest.raises(TroveStepsError, match=r"record 2.*the id 'a' is already taken at .*record 1"):
        check_unique_ids(chunked("a", "a"), [(str(tmp_path / "gone"), 2)])


# --- templates -----------------------------------------------------------------------------------


def trove_passage(title, text):
    return text.strip() if title is None else f"{title.strip()} {text.strip()}".strip()


@given(title=st.none() | st.text(), text=st.text())
def test_the_usual_templates_are_troves_rule(title, text):
    assert format_text("{title} {text}", title, text) == trove_passage(title, text)
    assert format_text("{text}", title, text) == text.strip()


@pytest.mark.parametrize(
    ("template", "with_title", "without"),
    [
        ("passage: {title} {text}", "passage: T x", "passage: x"),
        ("query: {text}", "query: x", "query: x"),
        ("{text}", "x", "x"),
        ("{title}\n{text}", "T\nx", "x"),
        ("{text} {title}", "x T", "x"),
        ("{text} ({title})", "x (T)", "x ()"),
        ("{{title}} {title} {text}", "{title} T x", "{title} x"),
        ("{{{title}}} {text}", "{T} x", "{} x"),
        ("100% %s %(text)s {text}", "100% %s %(text)s x", "100% %s %(text)s x"),
        ("{text} {text}", "x x", "x x"),
        ("a {title} {title} {text}", "a T T x", "a x"),
    ],
)
def test_other_templates(template, with_title, without):
    assert format_text(template, " T ", " x\n") == with_title
    for title in (None, "", " \t"):
        assert format_text(template, title, "x") == without


def test_braces_of_a_text_are_not_filled():
    assert format_text("{title} {text}", "{text}", "%s {title} {{") == "{text} %s {title} {{"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{title}", "lacks {text}"),
        ("", "lacks {text}"),
        ("{{text}}", "lacks {text}"),
        ("{text} {id}", "not {id}"),
        ("{text} {}", "not {}"),
        ("{0} {text}", "not {0}"),
        ("{text.__class__}", "only {title} and {text}"),
        ("{text!r}", "only {title} and {text}"),
        ("{text:>9}", "only {title} and {text}"),
        ("{text", "Write a literal brace twice"),
        ("{text}}", "Write a literal brace twice"),
    ],
)
def test_bad_templates(template, message):
    with pytest.raises(TroveStepsError) as caught:
        format_text(template, None, "x")
    assert message in str(caught.value)


# --- real data -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "documents", "queries", "empty"), [("scifact", 5183, 1109, 0), ("cranfield", 1400, 225, 2)]
)
def test_real_collections(shared_data, name, documents, queries, empty):
    corpus = records(shared_data / name / "corpus.jsonl")
    assert len(corpus) == documents
    reference = (shared_data / name / "reference" / "doc_ids.txt").read_text().split()
    assert [row[0] for row in corpus] == reference
    texts = [format_text("{title} {text}", title, text) for _, title, text in corpus]
    assert texts.count("") == empty
    assert len(records(shared_data / name / "queries.jsonl")) == queries
