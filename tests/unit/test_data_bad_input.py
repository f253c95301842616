"""What is wrong with a corpus or query file is told with its place, never by a traceback."""

import bz2
import gzip
import hashlib
import lzma
import os

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from trove_steps.data import Reader, read_records
from trove_steps.errors import TroveStepsError

from .collections_on_disk import (
    COMPRESSIONS,
    FORMATS,
    ROWS,
    arrow,
    fuzz,
    json_lines,
    parquet,
    records,
    table_of,
    write,
)

GOOD = b'{"_id": "1", "text": "a"}\n'
LONG = json_lines((str(n), "t", f"text {n * 7919 % 1000}") for n in range(2000))
BAD = {
    "empty": (b"", r"data holds no records: the file is empty"),
    "64 KiB of blank lines": (b"\n" * (1 << 16) + GOOD, r"data begins with 64 KiB of white space"),
    "blank lines only": (b"\n\n \n", r"data holds no records"),
    "a BOM only": (b"\xef\xbb\xbf", r"data holds no records: the file is empty"),
    "header only, TSV": (b"_id\ttext\n", r"data holds no records"),
    "header only, CSV": (b"_id,title,text\r\n", r"data holds no records"),
    "no rows, Parquet": (parquet(table_of(ROWS).slice(0, 0)), r"data holds no records"),
    "no rows, Arrow": (arrow(table_of(ROWS).slice(0, 0)), r"data holds no records"),
    "broken JSON": (
        GOOD * 2 + b'{"_id": "3" "text": ""}\n' + GOOD,
        r"data:3: not valid JSON .*column 13",
    ),
    "single quotes": (GOOD + b"{'_id': '1', 'text': 'a'}\n", r"data:2: not valid JSON"),
    "two objects on a line": (GOOD + GOOD.strip() + GOOD, r"data:2: not valid JSON"),
    "object over several lines": (b'{\n "_id": "1",\n "text": "a"\n}\n', r"data:1: not valid JSON"),
    "a JSON array": (b"[" + GOOD + b"]", r"data is one JSON array.*jq -c"),
    "NaN as text": (GOOD + b'{"_id": "1", "text": NaN}\n', r"data:2: not valid JSON"),
    "cut off in mid-line": (GOOD * 3 + GOOD[:-9], r"data:4: not valid JSON.*cut off here"),
    "cut off in mid-character": (
        GOOD + b'{"_id": "1", "text": "\xc3',
        r"data:2: byte 0xc3.*not UTF-8",
    ),
    "cut off, CSV": (b'_id,text\n1,a\n2,"b', r"data:3: not valid CSV"),
    "cut off, TSV": (b"_id\ttitle\ttext\n1\tt\ta\n2\tt", r"data:3: 2 columns where 3 are expected"),
    "Latin-1": (
        GOOD + '{"_id": "2", "text": "Käse"}\n'.encode("latin1"),
        r"data:2: byte 0xe4 at position 24",
    ),
    "Latin-1, TSV": (
        "_id\ttext\n1\ta\n2\tKäse\n".encode("latin1"),
        r"data:3: byte 0xe4 at position 4",
    ),
    "Latin-1, CSV": (
        "_id,text\n1,a\n2,Käse\n".encode("latin1"),
        r"data:3: byte 0xe4 at position 4",
    ),
    "UTF-16": (GOOD.decode().encode("utf-16"), r"data is encoded in UTF-16: convert it"),
    "UTF-16 without BOM": (GOOD.decode().encode("utf-16-le"), r"data is encoded in UTF-16"),
    "UTF-32": (GOOD.decode().encode("utf-32"), r"data is encoded in UTF-(16|32)"),
    "NUL in JSON": (GOOD + b'{"_id": "2", "text": "a\0b"}\n', r"data:2: not valid JSON.*\\u0000"),
    "NULs at the end": (GOOD * 2 + bytes(100), r"data:3: not valid JSON"),
    "NULs at the end, TSV": (
        b"_id\ttext\n1\ta\n" + bytes(100),
        r"data:3: a NUL byte at position 1",
    ),
    "NUL in a TSV text": (b"_id\ttext\n1\ta\n2\ta\0b\n", r"data:3: .*NUL"),
    "NUL in a CSV text": (b"_id,text\n1,a\n2,a\0b\n", r"data:3: .*NUL"),
    "NULs only": (bytes(100), r"data:1: .*(NUL|neither JSON)"),
    "lone surrogate": (GOOD + b'{"_id": "2", "text": "\\ud800"}\n', r"data:2: .*half a character"),
    "lone surrogate in UTF-8": (
        GOOD + b'{"_id": "2", "text": "\xed\xa0\x80"}\n',
        r"data:2: byte 0xed",
    ),
    "a field is missing": (GOOD + b'{"_id": "2"}\n', r"data:2: the field 'text' is missing"),
    "the id is missing": (GOOD + b'{"text": "b"}\n', r"data:2: the field '_id' is missing"),
    "no id at all": (b'{"name": "2", "text": ""}', r"data:1: no id field: it has 'name', 'text'"),
    "no text at all": (
        b'{"_id": "2", "body": ""}',
        r"data:1: no field 'text': it has '_id', 'body'",
    ),
    "two ids": (b'{"_id": "2", "docid": "3", "text": ""}', r"data:1: 2 id fields, _id and docid"),
    "null text": (GOOD + b'{"_id": "2", "text": null}\n', r"data:2: 'text' is null"),
    "null id": (GOOD + b'{"_id": null, "text": "b"}\n', r"data:2: '_id' is null"),
    "text is a number": (GOOD + b'{"_id": "2", "text": 5}\n', r"data:2: 'text' is 5"),
    "text is a list": (GOOD + b'{"_id": "2", "text": ["a"]}\n', r"data:2: 'text' is \['a'\]"),
    "title is a list": (
        GOOD + b'{"_id": "2", "title": [], "text": ""}\n',
        r"data:2: 'title' is \[\]",
    ),
    "id is a fraction": (GOOD + b'{"_id": 1.5, "text": "b"}\n', r"data:2: '_id' is 1.5"),
    "id is true": (GOOD + b'{"_id": true, "text": "b"}\n', r"data:2: '_id' is True"),
    "id is empty": (GOOD + b'{"_id": "", "text": "b"}\n', r"data:2: the id is empty"),
    "id with a space": (
        GOOD + b'{"_id": "a b", "text": "b"}\n',
        r"data:2: the id 'a b' holds a space",
    ),
    "id with a line end": (
        GOOD + b'{"_id": "a\\n", "text": "b"}\n',
        r"data:2: the id 'a\\n' holds",
    ),
    "id with a wide space": (
        GOOD + '{"_id": "a\u3000", "text": "b"}\n'.encode(),
        r"data:2: the id 'a",
    ),
    "a list among objects": (GOOD + b'["2", "b"]\n', r"data:2: \['2', 'b'\] is not a JSON object"),
    "a number among objects": (GOOD + b"17\n", r"data:2: 17 is not a JSON object"),
    "too many columns": (b"_id\ttext\n1\ta\n2\ta\tb\n", r"data:3: 3 columns where 2 are expected"),
    "a line end in a TSV text": (
        b'_id\ttext\n1\t"a\nb"\n',
        r"data:3: 1 columns where 2 are expected",
    ),
    "no header": (b"1\tt\ta\n", r"data:1: no header with an id"),
    "a header without text": (b"_id\ttitle\n1\ta\n", r"data:1: no field 'text'"),
    "a header without id": (b"name\ttext\n1\ta\n", r"data:1: no id field"),
    "a header that names text twice": (b"_id\ttext\ttext\n1\ta\tb\n", r"data:1: .*'text'.* twice"),
    "a header that names the id twice": (b"id\tid\ttext\n1\t2\tb\n", r"data:1: .*id"),
    "quotes in mid-file, CSV": (b'_id,text\n1,a\n2,"b" c\n', r"data:3: not valid CSV"),
    "quotes never closed, CSV": (b'_id,text\n1,"a\n2,b\n3,c\n', r"data:2: not valid CSV"),
    "a header in other letters": (b"_ID,Text\n1,a\n", r"data:1: no id field: it has '_ID', 'Text'"),
    "two objects on the last line": (
        GOOD + GOOD.strip() * 2,
        r"data:2: not valid JSON \(unexpected content.*: one JSON object per line is expected",
    ),
    "packed twice": (gzip.compress(gzip.compress(GOOD)), r"data is compressed twice.*gzip"),
    "a plain text": (
        b"Once upon a time\n",
        r"data:1: neither JSON nor a tab or comma in 'Once upon",
    ),
    "gzip cut off": (gzip.compress(LONG)[:-400], r"data:\d+: the gzip data are damaged or cut off"),
    "gzip cut off in its trailer": (
        gzip.compress(GOOD)[:-3],
        r"data: the gzip data are damaged or cut",
    ),
    "gzip cut off in its header": (
        gzip.compress(GOOD)[:5],
        r"data: the gzip data are damaged or cut off",
    ),
    "gzip damaged": (
        gzip.compress(LONG)[:500] + b"!" * 9 + gzip.compress(LONG)[509:],
        r"the gzip data are",
    ),
    "gzip, wrong checksum": (
        gzip.compress(GOOD)[:-8] + bytes(8),
        r"data: the gzip data are damaged",
    ),
    "garbage after gzip": (
        gzip.compress(GOOD) + b"garbage",
        r"data: the gzip data are damaged or cut",
    ),
    "zstd cut off": (zstandard.compress(LONG)[:-40], r"the zstd data are damaged or cut off"),
    "zstd damaged": (
        zstandard.compress(LONG)[:90] + b"!" * 90,
        r"the zstd data are damaged or cut off",
    ),
    "bzip2 cut off": (bz2.compress(LONG)[:-40], r"the bzip2 data are damaged or cut off"),
    "xz cut off": (lzma.compress(LONG)[:-40], r"the xz data are damaged or cut off"),
    "Parquet cut off": (parquet(ROWS)[:-9], r"data: not a readable Parquet file.*cut off"),
    "Parquet, first bytes only": (b"PAR1", r"data: not a readable Parquet file"),
    "Arrow cut off": (arrow(ROWS)[:-300], r"data: not a readable Arrow file"),
    "Arrow stream cut off": (
        arrow(ROWS, pa.ipc.new_stream)[:-300],
        r"data: not a readable Arrow stream",
    ),
    "Parquet, null text": (
        parquet(pa.table({"_id": ["1", "2"], "text": ["a", None]})),
        r"data:2: 'text' is null",
    ),
    "Parquet, text in bytes": (
        parquet(pa.table({"_id": ["1"], "text": [b"\xff"]})),
        r"data:1: 'text' is b'\\xff', where a string is needed",
    ),
    "Parquet, no text": (
        parquet(pa.table({"_id": ["1"], "body": ["a"]})),
        r"data: no field 'text'",
    ),
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
    "a tar archive": (
        bytes(257) + b"ustar" + bytes(300),
        r"data is a tar archive: unpack it first",
    ),
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


def check_rows_or_error(path) -> None:
    try:
        rows = records(path, shown_as="data")
    except TroveStepsError as error:
        assert str(error).startswith("data")  # noqa: PT017 (either outcome is right)
        return
    assert rows
    for row_id, title, text in rows:
        assert type(row_id) is str
        assert row_id
        assert not any(c.isspace() for c in row_id)
        assert title is None or type(title) is str
        assert type(text) is str


@fuzz
@given(
    content=st.binary(max_size=300),
    start=st.sampled_from(["", "{", "[", "_id\ttext\n", "_id,text\n"]),
)
def test_random_bytes_give_rows_or_the_clear_error(tmp_path, content, start):
    check_rows_or_error(write(tmp_path, start.encode() + content))


@fuzz
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


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_no_room_to_unpack_a_file_of_columns_is_told_as_such(tmp_path, monkeypatch):
    path = write(tmp_path, gzip.compress(parquet(ROWS)))
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: open("/dev/full", "w+b"))  # noqa: SIM115
    with pytest.raises(TroveStepsError, match=r"data can't be unpacked .*\(No space left"):
        records(path, shown_as="data")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"_id": "\ud800", "text": ""}, r"data:1: the id '\\ud800' holds half of a surrogate pair"),
        (
            {"_id": "a", "text": "\udc00"},
            r"data:1: the text holds half of a surrogate pair.*loader",
        ),
        (
            {"_id": "a", "text": "", "title": "\ud800"},
            r"data:1: the text holds half of a surrogate",
        ),
    ],
)
def test_half_characters_of_a_loader(tmp_path, monkeypatch, record, message):
    monkeypatch.setattr("trove_steps.data.records.load_function", lambda *_: lambda path: [record])
    with pytest.raises(TroveStepsError, match=message):
        list(read_records(write(tmp_path, b"x"), shown_as="data", reader=Reader(loader="own:f")))


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_one_field_as_id_and_text(tmp_path, form):
    path = write(tmp_path, FORMATS[form](ROWS))
    assert [row[2] for row in records(path, reader=Reader(text="_id"))] == [row[0] for row in ROWS]


def outcome(path):
    try:
        return records(path, batch_rows=3, shown_as="data")
    except TroveStepsError as error:
        return str(error)


UNUSUAL = [
    b'{"_id": 1.0, "text": ""}',
    b'{"_id": 18446744073709551616, "text": ""}',
    b'{"_id": 18446744073709551615, "text": ""}',
    b'{"_id": -9223372036854775809, "text": ""}',
    b'{"_id": true, "text": ""}',
    b'{"_id": "1", "text": "a", "text": "b"}',
    b'{"_id": "1", "text": null, "text": "b"}',
    b'{"_id": "1", "text": "a", "more": "\xff"}',
    b'{"_id": "1", "text": "a", "titl\xe9": ""}',
    b'{"_id": "1", "text": "a", "more": NaN}',
    b'{"_id": "1", "text": "a", "more": 01}',
    b'{"_id": "1", "text": "a", "more": "\\ud800"}',
    b'{"_id": "1", "text": "a", "more": ' + b"[" * 2000 + b"]" * 2000 + b"}",
    b'{"\\u005fid": "1", "text": "\\ud83c\\udf89"}',
    b'{"_id": "1", "text": "a"} {"_id": "2", "text": "a"}',
    b'{"_id": "1", "title": ["a"], "text": "a"}',
    b'{"_id": "1", "TEXT": "a"}',
    b" ",
]


@fuzz
@given(
    lines=st.lists(
        st.sampled_from(UNUSUAL)
        | st.builds(
            lambda change: mutated(b'{"_id": "1", "title": "t", "text": "\xc3\xa9"}', change),
            CHANGES,
        ),
        max_size=6,
    )
)
def test_the_quick_parser_takes_no_line_that_the_careful_one_refuses(tmp_path, lines):
    # The careful one is what reads, and words, whatever the quick one does not take.
    content = GOOD + b"\n".join(lines)
    found = outcome(write(tmp_path, content))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("trove_steps.data.json_records._decoder", lambda *_: None)
        assert outcome(write(tmp_path, content)) == found
