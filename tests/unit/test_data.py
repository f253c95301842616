"""Reading corpora and queries: every format and compression, told by content."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trove_steps.data import format_text, read_records
from trove_steps.data.records import describe_format
from trove_steps.errors import TroveStepsError

from .collections_on_disk import (
    COMPRESSIONS,
    FORMATS,
    ROWS,
    fuzz,
    json_lines,
    parquet,
    places,
    records,
    tsv_of,
    write,
)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_and_compression_is_told_by_content(tmp_path, form, compression):
    content = COMPRESSIONS[compression](FORMATS[form](ROWS))
    path = write(tmp_path, content, "misleading.csv.xz")
    assert records(path) == ROWS
    assert records(path, batch_rows=3) == ROWS
    assert records(path, digest=hashlib.sha256(content).hexdigest()) == ROWS


@pytest.mark.parametrize(
    ("content", "name", "told"),
    [
        (b"_id\ttext\n1\ta\n", "data", "TSV"),
        (b"\n1\ta\n2\tb\n", "data", "TSV without header"),
        (b'_id,text\n1,"a\nb"\n', "part.json.csv", "CSV"),
        (b"doc,content\n1,a\n", "data", "CSV without header"),
        (b'{"_id": "1", "text": "a"}\n', "data", "JSON lines"),
    ],
)
def test_the_format_is_said(tmp_path, content, name, told):
    path = write(tmp_path, content, name)
    assert records(path)
    assert describe_format(path, name) == told


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
        pytest.param(b"\n\n1\ta\n", [("1", None, "a")], id="blank lines first"),
        pytest.param(b"\r\n1\ta", [("1", None, "a")], id="a blank line first, no line end last"),
        pytest.param(
            b'_id,text\n1,"a\nb ""c"""\n', [("1", None, 'a\nb "c"')], id="line end in quotes"
        ),
        pytest.param(b'_id\ttext\n1\t"a" b\n', [("1", None, '"a" b')], id="TSV quotes are text"),
        pytest.param(b'{"id": 5, "text": ""}', [("5", None, "")], id="integer id, empty text"),
        pytest.param(
            b'{"_id": "0", "title": null, "text": "a"}', [("0", None, "a")], id="null title"
        ),
        pytest.param(
            b'{"_id": "0", "text": "a\\u0000b"}', [("0", None, "a\0b")], id="escaped NUL in a text"
        ),
        pytest.param(
            b'{"_id": "0", "text": "\\ud83c\\udf89"}', [("0", None, "🎉")], id="surrogate pair"
        ),
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


@fuzz
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
    form=st.sampled_from(
        ["json lines", "parquet", "arrow file", "arrow stream", "csv, unix line ends"]
    ),
    batch_rows=st.integers(1, 5),
)
def test_what_was_written_is_read(tmp_path, rows, form, batch_rows):
    if "csv" in form:
        # Python's csv module gives other line ends back; NUL is refused in text files.
        rows = [tuple(cell.replace("\r", "").replace("\0", "") for cell in row) for row in rows]
    assert records(write(tmp_path, FORMATS[form](rows)), batch_rows=batch_rows) == rows


@pytest.mark.parametrize(
    ("name", "documents", "queries", "empty"),
    [("scifact", 5183, 1109, 0), ("cranfield", 1400, 225, 2)],
)
def test_real_collections(shared_data, name, documents, queries, empty):
    corpus = records(shared_data / name / "corpus.jsonl")
    assert len(corpus) == documents
    reference = (shared_data / name / "reference" / "doc_ids.txt").read_text().split()
    assert [row[0] for row in corpus] == reference
    texts = [format_text("{title} {text}", title, text) for _, title, text in corpus]
    assert texts.count("") == empty
    assert len(records(shared_data / name / "queries.jsonl")) == queries
