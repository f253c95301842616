"""Reading relevance judgments: every format, repeated pairs, and what is wrong with bad files."""

import bz2
import gzip
import hashlib
import io
import itertools
import json
import lzma
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trove_steps.data import load_qrels, most_annotated, read_qrels
from trove_steps.errors import TroveStepsError

from .collections_on_disk import fuzz

JUDGED = [("q1", "d1", 1), ("q1", "007", 0), ("02", "d1", 3), ("02", "ü,3", -1), ("q1", '"x"', 2)]
COLUMNS = ("query_id", "doc_id", "score")


def lines(rows, mark="\t", header=None, end="\n") -> bytes:
    rows = [*([header] if header else []), *rows]
    return "".join(mark.join(map(str, row)) + end for row in rows).encode()


def json_lines(*objects) -> bytes:
    return b"".join(json.dumps(value, ensure_ascii=False).encode() + b"\n" for value in objects)


def table_of(rows) -> pa.Table:
    names = ("query-id", "corpus-id", "score")
    return pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def arrow(table: pa.Table, opened=pa.ipc.new_file) -> bytes:
    sink = io.BytesIO()
    with opened(sink, table.schema) as writer:
        writer.write_table(table, 2)
    return sink.getvalue()


def by_query(rows) -> dict[str, dict]:
    judged = {}
    for query, doc, score in rows:
        judged.setdefault(query, {})[doc] = score
    return judged


def quoted(rows, header=None) -> bytes:
    import csv

    sink = io.StringIO()
    csv.writer(sink).writerows([*([header] if header else []), *rows])
    return sink.getvalue().encode()


BEIR = ("query-id", "corpus-id", "score")
TREC = [(query, "Q0", doc, score) for query, doc, score in JUDGED]
FORMATS = {
    "TSV with header": lambda rows: lines(rows, header=BEIR),
    "TSV without header": lines,
    "TSV with header, CRLF": lambda rows: lines(rows, header=BEIR, end="\r\n"),
    "TSV with header, BOM": lambda rows: b"\xef\xbb\xbf" + lines(rows, header=BEIR),
    "TSV without header, no line end": lambda rows: lines(rows)[:-1],
    "TSV without header, blank lines": lambda rows: b"\n\r\n" + lines(rows, end="\n\n"),
    "CSV with header": lambda rows: quoted(rows, header=("qid", "docid", "score")),
    "CSV without header": quoted,
    "TREC qrels (TSV)": lambda rows: lines([(q, 0, d, s) for q, d, s in rows]),
    "TREC qrels (columns separated by spaces)": lambda rows: lines(
        [(q, "Q0", d, s) for q, d, s in rows], " "
    ),
    "columns separated by spaces without header": lambda rows: lines(rows, " "),
    "columns separated by spaces without header, many": lambda rows: lines(
        rows, "   ", end=" \n  "
    ),
    "JSON lines grouped by query": lambda rows: json_lines(
        *(
            {"qid": query, "docid": list(docs), "score": list(docs.values())}
            for query, docs in by_query(rows).items()
        )
    ),
    "JSON lines": lambda rows: json_lines(
        *({"query-id": q, "corpus-id": d, "score": s, "note": "a"} for q, d, s in rows)
    ),
    "nested JSON (query, document, score)": lambda rows: json.dumps(by_query(rows)).encode(),
    "nested JSON (query, document, score), indented": lambda rows: json.dumps(
        by_query(rows), indent=2
    ).encode(),
    "nested JSON (query, document, score), one query per line": lambda rows: json_lines(
        *({query: docs} for query, docs in by_query(rows).items())
    ),
    "Parquet": lambda rows: parquet(table_of(rows)),
    "Arrow file": lambda rows: arrow(table_of(rows)),
    "Arrow stream": lambda rows: arrow(table_of(rows), pa.ipc.new_stream),
}
COMPRESSIONS = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


def write(folder, content: bytes, name: str = "qrels"):
    path = folder / name
    path.write_bytes(content)
    return path


def triplets(table: pa.Table) -> list[tuple]:
    assert table.schema.names == list(COLUMNS)
    assert table.schema.types[:2] == [pa.string(), pa.string()]
    return list(zip(*(table[name].to_pylist() for name in COLUMNS), strict=True))


def read(folder, content: bytes, **options) -> list[tuple]:
    return triplets(read_qrels([write(folder, content)], **options))


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_told_by_content(tmp_path, form, compression):
    content = COMPRESSIONS[compression](FORMATS[form](JUDGED))
    digest = hashlib.sha256(content).hexdigest()
    path = write(tmp_path, content, "misleading.json.xz")
    table, info = load_qrels([path], digests=[digest], shown_as=["qrels"])
    assert sorted(triplets(table)) == sorted(JUDGED)
    assert table["score"].type == pa.int64()
    form = re.sub(", (CRLF|BOM|no|blank|many|indented|one).*", "", form)
    packed = compression.partition(",")[0]
    assert info.formats == [form if packed == "plain" else f"{form}, {packed}"]
    assert (info.rows, info.repeated, info.relabelled) == (len(JUDGED), 0, 0)
    with pytest.raises(TroveStepsError, match="qrels changed while it was read, or since"):
        load_qrels([path], digests=["0" * 64], shown_as=["qrels"])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize(
    "names", [BEIR, ("qid", "docid", "score"), ("query_id", "passage_id", "score")]
)
def test_a_header_may_name_the_columns_in_any_order(tmp_path, names, order):
    rows = [[row[i] for i in order] for row in JUDGED]
    assert read(tmp_path, lines(rows, header=[names[i] for i in order])) == JUDGED
    wide = [[*row, "x"] for row in rows]
    assert read(tmp_path, lines(wide, header=[*(names[i] for i in order), "comment"])) == JUDGED


def test_ids_stay_as_they_are_written(tmp_path):
    rows = [
        ("007", "1e5", 1),
        ("7", "0x1F", 1),
        ("NA", "null", 1),
        ('"7"', "true", 1),
        ("-", "1.0", 1),
    ]
    rows += [(str(n), "a" if n > 150 else "2024-01-01", 0) for n in range(200)]
    for form in ("TSV without header", "TSV with header", "Parquet"):
        assert read(tmp_path, FORMATS[form](rows)) == rows


def test_quotes_are_undone_in_tsv_only_if_the_header_has_them(tmp_path):
    content = b'"query-id"\t"corpus-id"\t"score"\n"q1"\t"d""1"\t1\nq2\td2\t2\n'
    assert read(tmp_path, content) == [("q1", 'd"1', 1), ("q2", "d2", 2)]
    assert read(tmp_path, content.partition(b"\n")[2]) == [('"q1"', '"d""1"', 1), ("q2", "d2", 2)]


def test_spaces_around_a_column_do_not_belong_to_it(tmp_path):
    assert read(tmp_path, b"query-id, corpus-id, score\nq1, d1, 1\n") == [("q1", "d1", 1)]
    assert read(tmp_path, b"q1 \td1\t +1 \n") == [("q1", "d1", 1)]


@pytest.mark.parametrize("form", FORMATS)
def test_scores_are_integers_or_fractions(tmp_path, form):
    rows = [("q1", "d1", 1.5), ("q1", "d2", 0.0), ("q2", "d1", -2.25e-3)]
    assert read(tmp_path, FORMATS[form](rows)) == rows
    whole = [(query, doc, float(int(score))) for query, doc, score in rows]
    table = read_qrels([write(tmp_path, FORMATS[form](whole))])
    assert table["score"].type == pa.int64()
    assert triplets(table) == whole


def test_the_header_is_the_first_line_that_is_not_blank(tmp_path):
    assert read(tmp_path, b"\n\r\n" + lines(JUDGED, header=BEIR)) == JUDGED


def test_a_long_gap_does_not_end_the_file(tmp_path):
    for gap in (b"\n", b" \n"):
        assert read(tmp_path, b"q d 1\n" + gap * (2 << 20) + b"q e  2\n") == [
            ("q", "d", 1),
            ("q", "e", 2),
        ]


@pytest.mark.parametrize("form", ["TSV with header", "TREC qrels (columns separated by spaces)"])
def test_blocks_of_any_size_give_the_same(tmp_path, form, monkeypatch):
    monkeypatch.setattr("trove_steps.data.triplets.READ_AHEAD", 1000)
    rows = [(f"q{n}", f"d{n * 7919 % 1000}", n % 3) for n in range(3000)]
    assert read(tmp_path, FORMATS[form](rows)) == rows


def test_integer_ids_in_json_and_columns(tmp_path):
    assert read(tmp_path, b'{"qid": 7, "docid": [8, "9"], "score": [1, 2]}') == [
        ("7", "8", 1),
        ("7", "9", 2),
    ]
    table = pa.table({"query_id": pa.array([7], pa.uint16()), "pid": [-8], "label": [1.0]})
    assert read(tmp_path, parquet(table)) == [("7", "-8", 1)]
    encoded = pa.table(
        {"qid": pa.array(["7", "7"]).dictionary_encode(), "docid": ["a", "b"], "rel": [1, 2]}
    )
    assert read(tmp_path, arrow(encoded)) == [("7", "a", 1), ("7", "b", 2)]


@pytest.mark.parametrize(
    "record",
    [
        {
            "query_id": "q",
            "query": "text",
            "positive_passages": [{"docid": "a", "title": "", "text": "x"}],
            "negative_passages": [{"docid": "b", "text": "x"}, {"docid": "c", "text": "x"}],
        },
        {"qid": "q", "pos": ["a"], "neg": {"bm25": ["b", "c"], "other": ["c"]}},
        {"qid": "q", "pos": "a", "neg": ["b", "c"]},
        {"query_id": "q", "positives": ["a"], "negatives": [{"_id": "b"}, {"pid": "c"}]},
        {"query-id": "q", "positive_ids": ["a"], "negative_ids": ["b", "c"]},
        {"query_id": "q", "positive_pids": ["a"], "negative_pids": ["b", "c"]},
        {"query_id": "q", "pos_ids": ["a"], "neg_ids": ["b", "c"]},
    ],
)
def test_labels_from_training_files(tmp_path, record):
    path = write(tmp_path, json_lines(record, {**record, next(iter(record)): "r"}))
    table, info = load_qrels([path])
    expected = {("q", "a", 1), ("q", "b", 0), ("q", "c", 0)}
    assert set(triplets(table)) == expected | {("r", doc, label) for _, doc, label in expected}
    assert info.formats == ["training data with positives and negatives"]


def test_a_positive_that_is_listed_as_a_negative_too_stays_positive(tmp_path):
    record = {
        "query_id": "q",
        "positive_passages": [{"docid": "a"}],
        "negative_passages": [{"docid": "a"}],
    }
    assert read(tmp_path, json_lines(record)) == [("q", "a", 1)]


def test_training_data_without_negatives(tmp_path):
    content = json_lines({"qid": "q", "pos": ["a"]}, {"qid": "r", "pos": [], "neg": None})
    assert read(tmp_path, content) == [("q", "a", 1)]


def test_levels_in_the_ids_of_a_synthetic_corpus(tmp_path):
    content = json_lines(
        {"_id": "q1_l_3_d_0", "title": "t", "text": "x"},
        {"_id": "a_l_b_l_0_d_12", "title": None, "text": "x"},
    )
    assert read(tmp_path, content) == [("q1", "q1_l_3_d_0", 3), ("a_l_b", "a_l_b_l_0_d_12", 0)]


def test_of_repeated_pairs_the_last_label_counts_and_they_are_counted(tmp_path):
    rows = [
        ("q", "a", 1),
        ("q", "b", 0),
        ("q", "a", 1),
        ("p", "a", 2),
        ("q", "b", 3),
        ("q", "b", 1),
    ]
    table, info = load_qrels([write(tmp_path, lines(rows))])
    assert triplets(table) == [("q", "a", 1), ("q", "b", 1), ("p", "a", 2)]
    assert (info.rows, info.repeated, info.relabelled) == (6, 3, 1)


def test_several_files_are_one_set_of_judgments(tmp_path):
    first = write(tmp_path, lines([("q", "a", 1), ("q", "b", 1)], header=BEIR), "first")
    second = write(
        tmp_path, json_lines({"qid": "q", "docid": ["b", "c"], "score": [0.5, 1]}), "second"
    )
    table, info = load_qrels([first, second])
    assert triplets(table) == [("q", "a", 1), ("q", "b", 0.5), ("q", "c", 1)]
    assert info.formats == ["TSV with header", "JSON lines grouped by query"]
    assert (info.rows, info.repeated, info.relabelled) == (4, 1, 1)
    assert triplets(read_qrels([second, first]))[0] == ("q", "b", 1)
    good = hashlib.sha256(first.read_bytes()).hexdigest()
    with pytest.raises(TroveStepsError, match="other/second changed"):
        load_qrels([first, second], shown_as=["a", "other/second"], digests=[good, good])
    with pytest.raises(TroveStepsError, match="no qrel file"):
        load_qrels([])


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from("pqr"), st.sampled_from(["a", "b", "c", "é"]), st.integers(-2, 3)
        ),
        min_size=1,
        max_size=30,
    )
)
def test_repeated_pairs_against_a_dictionary(tmp_path, rows):
    expected, relabelled = {}, set()
    for query, doc, score in rows:
        if expected.setdefault((query, doc), score) != score:
            relabelled.add((query, doc))
        expected[query, doc] = score
    first = {pair: [s for q, d, s in rows if (q, d) == pair] for pair in expected}
    table, info = load_qrels([write(tmp_path, lines(rows, header=BEIR))])
    assert triplets(table) == [(*pair, score) for pair, score in expected.items()]
    assert info.rows - info.repeated == len(expected)
    assert info.relabelled == sum(len(set(scores)) > 1 for scores in first.values())


def test_most_annotated(tmp_path):
    assert most_annotated(read_qrels([write(tmp_path, lines(JUDGED))])) == 3
    assert most_annotated(read_qrels([write(tmp_path, lines([("q", "d", 1)] * 4))])) == 1
    assert most_annotated(pa.table({"query_id": pa.array([], pa.string())})) == 0


GOOD = b"q\td\t1\n"
OBJECT = b'{"qid": "q", "docid": ["a"], "score": [1]}\n'
LONG = lines((f"q{n}", f"d{n * 7919 % 1000}", n % 3) for n in range(20_000))
BAD = {
    "empty": (b"", r"data holds no judgments: the file is empty"),
    "blank lines only": (b"\n\r\n", r"data holds no judgments"),
    "header only, TSV": (b"query-id\tcorpus-id\tscore\n", r"data holds no judgments"),
    "header only, CSV": (b"query-id,corpus-id,score", r"data holds no judgments"),
    "no rows, Parquet": (parquet(table_of(JUDGED).slice(0, 0)), r"data holds no judgments"),
    "an empty object": (b"{}", r"data:1: not judgments"),
    "no documents": (b'{"qid": "q", "docid": [], "score": []}', r"data holds no judgments"),
    "too few columns": (GOOD + b"q\te\n" + GOOD, r"data:2: 2 columns where the first line has 3"),
    "too many columns": (
        GOOD + b"\n\nq\te\t1\t2\n",
        r"data:4: 4 columns where the first line has 3",
    ),
    "two columns": (b"q\td\n", r"data:1: 2 columns: expected are"),
    "a run file": (b"q Q0 d 1 0.5 name\n", r"data:1: 6 columns \(a run file, not judgments\?\)"),
    "cut off in mid-line": (GOOD * 3 + b"q\tx", r"data:4: 2 columns"),
    "TREC with a column too few": (
        b"q 0 d 1\nq 0 d\n",
        r"data:2: 3 columns where the first line has 4",
    ),
    "an unknown header": (b"a\tb\tc\n" + GOOD, r"data:1: the last column, 'c', is no number"),
    "a header half known": (b"query-id\tdoc\tscore\n", r"data:1: the header .* document column"),
    "a header that names a column twice": (
        b"qid\tquery-id\tdocid\tscore\n",
        r"data:1: the header .* query column once",
    ),
    "a header in mid-file": (
        GOOD + b"query-id\tcorpus-id\tscore\n",
        r"data:2: the score 'score' is not",
    ),
    "a score is a word": (
        GOOD * 2 + b"q\te\tyes\n",
        r"data:3: the score 'yes' is not a finite number",
    ),
    "a score in hexadecimal": (GOOD + b"q\te\t0x1F\n", r"data:2: the score '0x1F' is not a finite"),
    "two names of the score, JSON": (
        b'{"qid": "q", "docid": "d", "score": 13.5, "label": 1}\n',
        r"data:1: the fields 'score' and 'label' both name the score: keep one",
    ),
    "a score is empty": (GOOD + b"q\te\t\n", r"data:2: the score '' is not a finite number"),
    "a score beyond 64 bits": (
        b'{"q": {"a": 18446744073709551615}}',
        r"data:1: a score does not fit into 64 bits",
    ),
    "a score with an underscore": (
        GOOD + b"q\te\t1_0\n",
        r"data:2: the score '1_0' is not a finite",
    ),
    "a quoted header, quotes not closed": (
        b'"qid"\t"docid"\t"score"\nq\t"d\t1\n',
        r"data:2: not valid CSV",
    ),
    "a score is NaN": (GOOD + b"q\te\tnan\n", r"data:2: the score 'nan' is not a finite number"),
    "a score is infinite": (GOOD + b"q\te\t-inf\n", r"data:2: the score '-inf' is not a finite"),
    "an id is empty": (GOOD + b"\td\t1\n", r"data:2: the id is empty"),
    "an id with a space": (GOOD + b"q\td 1\t1\n", r"data:2: the id 'd 1' holds a space"),
    "an id with NUL": (
        GOOD + b"q\td\0\t1\n",
        r"data:2: the id 'd\\x00' holds the character '\\x00'",
    ),
    "Latin-1": (
        GOOD + "q\tdü\t1\n".encode("latin1"),
        r"data:2: byte 0xfc at position 4 of the line is not",
    ),
    "Latin-1 in the first line": (
        "q\tdü\t1\n".encode("latin1"),
        r"data:1: byte 0xfc at position 4",
    ),
    "Latin-1, TREC": ("q 0 d 1\nq 0 ü 1\n".encode("latin1"), r"data:2: byte 0xfc at position 5"),
    "UTF-16": (GOOD.decode().encode("utf-16"), r"data is encoded in UTF-16"),
    "quotes not closed, CSV": (b'q,d,1\n"q,d,1\n', r"data:2: not valid CSV"),
    "quotes not closed at once, CSV": (b'"q,d,1\n', r"data:1: not valid CSV"),
    "text": (b"Once upon a time\n", r"data:1: .*"),
    "one word": (b"judgments\n", r"data:1: 'judgments' is not a judgment: expected are"),
    "a corpus": (
        b'{"_id": "1", "title": "", "text": "a"}\n',
        r"data:1: .*this is a corpus or query file",
    ),
    "other JSON": (b'{"a": 1}\n', r"data:1: not judgments: the fields \['a'\]"),
    "a JSON array": (b"[" + OBJECT + b"]", r"data is one JSON array"),
    "broken JSON": (OBJECT + b'{"qid": "q"\n' + OBJECT, r"data:2: not valid JSON"),
    "broken JSON at once": (b'{"qid": q}\n' + OBJECT, r"data:1: not valid JSON"),
    "broken nested JSON": (b'{\n"q": {\n"a": 1,\n}\n}', r"data:3: not valid JSON"),
    "nested JSON cut off": (
        json.dumps(by_query(JUDGED), indent=1).encode()[:-9],
        r"data:\d+: not valid JSON",
    ),
    "first line of JSON lines cut off": (b'{"qid": "q",\n' + OBJECT, r"data:1: not valid JSON"),
    "JSON lines cut off": (OBJECT * 2 + OBJECT[:-9], r"data:3: not valid JSON.*cut off here"),
    "no list": (
        OBJECT + b'{"qid": "q", "docid": "a", "score": 1}',
        r"data:2: 'docid' and 'score' must be",
    ),
    "lists of two lengths": (
        OBJECT + b'{"qid": "q", "docid": ["a"], "score": []}',
        r"data:2: .* same length",
    ),
    "a field is missing": (
        OBJECT + b'{"qid": "q", "docid": ["a"]}',
        r"data:2: the field 'score' is missing",
    ),
    "a list among objects": (OBJECT + b"[1]\n", r"data:2: \[1\] is not a JSON object"),
    "a null score": (b'{"q": {"a": 1, "b": null}}', r"data:1: the score None is not a number"),
    "a boolean score": (b'{"q": {"a": true}}', r"data:1: the score True is not a number"),
    "a string score": (
        OBJECT + b'{"qid": "q", "docid": ["a"], "score": ["1"]}',
        r"data:2: the score '1' is not",
    ),
    "a huge score": (b'{"q": {"a": 1e999}}', r"data:1: not valid JSON \(number is infinity"),
    "a huge score, TSV": (
        GOOD + b"q\te\t1e999\n",
        r"data:2: the score '1e999' is not a finite number",
    ),
    "a line longer than what is read at once": (
        b"q\td\t1\nq\te" + b"0" * (20 << 20) + b"\t1\n",
        r"data: not readable as TSV without header",
    ),
    "an id is a fraction": (
        b'{"qid": 1.5, "docid": ["a"], "score": [1]}',
        r"data:1: the id 1.5 is neither",
    ),
    "an id is null": (
        b'{"qid": null, "docid": ["a"], "score": [1]}',
        r"data:1: the id None is neither",
    ),
    "an id with a space, JSON": (
        b'{"q": {"a": 1}}\n{"q": {"a b": 1}}\n',
        r"data:2: the id 'a b' holds a space",
    ),
    "an empty id, JSON": (b'{"": {"a": 1}}', r"data:1: the id is empty"),
    "nested JSON, mixed": (
        b'{"q": {"a": 1}}\n{"r": {"a": 1}, "s": 2}\n',
        r"data:2: the value of 's'",
    ),
    "nested JSON, a query twice": (
        b'{"q": {"a": 1}, "r": {"a": 1}, "q": {"b": 1}}',
        r"data:1: 'q' is there twice, with {'a': 1} and {'b': 1}: merge",
    ),
    "nested JSON, a document twice": (
        b'{"p": {"a": 1}}\n{"q": {"a": 1, "b": 0, "a": 0}}\n',
        r"data:2: 'a' is there twice, with 1 and 0: ",
    ),
    "nested JSON, a query twice, indented": (
        b'{\n"q": {"a": 1},\n"r":\n{"a": 1},\n"q":\n{"b": 1}\n}',
        r"data: 'q' is there twice, with",
    ),
    "training data without a query id": (
        b'{"query": "x", "positive": ["a"]}',
        r"data:1: not judgments: training data need a query id",
    ),
    "training data with texts": (
        b'{"query_id": "q", "positive": ["a text"]}',
        r"data:1: the id 'a text' holds a space",
    ),
    "a passage without an id": (
        b'{"query_id": "q", "positive_passages": [{"text": "a"}]}',
        r"data:1: the document \['text'\] has no id",
    ),
    "a level is missing": (
        b'{"_id": "q_l_1_d_0", "text": ""}\n{"_id": "q_1", "text": ""}\n',
        r"data:2: the id 'q_1' has no level",
    ),
    "Parquet without a score": (
        parquet(table_of(JUDGED).drop_columns("score")),
        r"data: the columns .* should hold the score once",
    ),
    "Parquet, null score": (
        parquet(pa.table({"qid": ["q", "q"], "docid": ["a", "b"], "score": [1, None]})),
        r"data:2: a value is null",
    ),
    "Parquet, null id": (
        parquet(pa.table({"qid": ["q", None], "docid": ["a", "b"], "score": [1, 2]})),
        r"data:2: a value is null",
    ),
    "Parquet, id with a space": (
        parquet(pa.table({"qid": ["q", "q"], "docid": ["a", "b c"], "score": [1, 2]})),
        r"data:2: the id 'b c' holds a space",
    ),
    "Parquet, score NaN": (
        parquet(pa.table({"qid": ["q"], "docid": ["a"], "score": [float("nan")]})),
        r"data:1: the score nan is not a finite number",
    ),
    "Parquet, score in words": (
        parquet(pa.table({"qid": ["q"], "docid": ["a"], "score": ["1"]})),
        r"data: the column 'score' holds string, not numbers",
    ),
    "Parquet, ids are fractions": (
        parquet(pa.table({"qid": [1.0], "docid": ["a"], "score": [1]})),
        r"data: the column 'qid' holds double, not strings or integers",
    ),
    "Parquet cut off": (parquet(table_of(JUDGED))[:-7], r"data: not a readable Parquet file"),
    "gzip cut off": (gzip.compress(LONG)[:-4000], r"data.*: the gzip data are damaged or cut off"),
    "gzip cut off in its trailer": (
        gzip.compress(GOOD)[:-3],
        r"data: the gzip data are damaged or cut off",
    ),
    "zstd cut off": (
        zstandard.compress(LONG)[:-4000],
        r"data.*: the zstd data are damaged or cut off",
    ),
    "gzip of JSON cut off": (
        gzip.compress(OBJECT * 50_000)[:-99],
        r"data:\d+: the gzip data are damaged",
    ),
    "a pickle": (b"\x80\x04\x95" + bytes(20), r"data is a Python pickle.*write it as JSON"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_with_its_place(tmp_path, case):
    content, message = BAD[case]
    path = write(tmp_path, content)
    with pytest.raises(TroveStepsError, match=message) as caught:
        read_qrels([path], shown_as=["data"])
    assert caught.value.__cause__ is None
    assert str(caught.value).startswith("data")


def test_an_error_far_into_a_large_file_has_its_line(tmp_path):
    with pytest.raises(TroveStepsError, match=r"data:20001: 1 columns where the first line has 3"):
        read_qrels([write(tmp_path, LONG + b"cut\n" + LONG)], shown_as=["data"])
    ids = [f"d{n}" for n in range(70_000)]
    ids[66_000] = "d d"
    bad = pa.table({"qid": ["q"] * 70_000, "docid": ids, "score": [1] * 70_000})
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, bad.schema) as writer:
        writer.write_table(bad)
    with pytest.raises(TroveStepsError, match=r"data:66001: the id 'd d' holds a space"):
        read_qrels([write(tmp_path, sink.getvalue())], shown_as=["data"])
    grouped, bad = OBJECT * 9000, b'{"qid": "q", "docid": ["a"], "score": ["x"]}\n'
    with pytest.raises(TroveStepsError, match=r"data:9001: the score 'x' is not a number"):
        read_qrels([write(tmp_path, grouped + bad + grouped)], shown_as=["data"])


def check_rows_or_error(folder, content: bytes) -> None:
    try:
        table, info = load_qrels([write(folder, content)], shown_as=["data"])
    except TroveStepsError as error:
        assert str(error).startswith("data")  # noqa: PT017
        return
    assert table.num_rows == info.rows - info.repeated > 0
    assert table["score"].type in (pa.int64(), pa.float64())
    assert not table["score"].null_count
    assert np.isfinite(table["score"].to_numpy()).all()
    pairs = list(zip(table["query_id"].to_pylist(), table["doc_id"].to_pylist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    for pair in pairs:
        for value in pair:
            assert value
            assert not any(c.isspace() or ord(c) < 32 for c in value)


STARTS = ["", "{", "[", '{"qid": ', "q\td\t1\n", "q,d,1\n", "q 0 d 1\n", "qid\tdocid\tscore\n"]


@fuzz
@given(content=st.binary(max_size=200), start=st.sampled_from(STARTS))
def test_random_bytes_give_judgments_or_the_clear_error(tmp_path, content, start):
    check_rows_or_error(tmp_path, start.encode() + content)


@fuzz
@given(
    content=st.text(st.sampled_from('qd01.-e \t\n\r,"[]{}:é\0'), max_size=60),
    start=st.sampled_from(STARTS),
)
def test_random_columns_give_judgments_or_the_clear_error(tmp_path, content, start):
    check_rows_or_error(tmp_path, (start + content).encode())


@fuzz
@given(
    form=st.sampled_from(sorted(FORMATS)),
    compression=st.sampled_from(sorted(COMPRESSIONS)),
    changes=st.lists(
        st.tuples(st.integers(0, 1 << 14), st.sampled_from("rrrdxc"), st.integers(0, 255)),
        min_size=1,
        max_size=4,
    ),
    inside=st.booleans(),
)
def test_damaged_files_give_judgments_or_the_clear_error(
    tmp_path, form, compression, changes, inside
):
    content = FORMATS[form](JUDGED)
    if not inside:
        content = COMPRESSIONS[compression](content)
    damaged = bytearray(content)
    for position, kind, byte in changes:
        at = position % (len(damaged) + 1)
        if kind == "r":
            damaged[at : at + 1] = bytes([byte])
        elif kind == "d":
            del damaged[at : at + byte]
        elif kind == "x":
            damaged[at:at] = damaged[at : at + byte]
        else:
            del damaged[at:]
    content = bytes(damaged)
    check_rows_or_error(tmp_path, COMPRESSIONS[compression](content) if inside else content)


@fuzz
@given(
    rows=st.dictionaries(
        st.tuples(
            st.from_regex(r"[!-~é漢]{1,5}", fullmatch=True),
            st.from_regex(r"[!-~é漢]{1,5}", fullmatch=True),
        ),
        st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False),
        min_size=1,
        max_size=9,
    ),
    form=st.sampled_from(["TSV with header", "CSV with header", "Arrow file", "JSON lines"]),
)
def test_what_was_written_is_read(tmp_path, rows, form):
    rows = [(*pair, score) for pair, score in rows.items()]
    if any(type(score) is float for *_, score in rows):
        rows = [(query, doc, float(score)) for query, doc, score in rows]
    assert read(tmp_path, FORMATS[form](rows)) == rows


def test_judgments_are_read_without_heavy_imports(tmp_path):
    """The planner reads judgments; pyarrow's own conversions would import pandas."""
    first = write(tmp_path, lines(JUDGED + JUDGED), "first")
    second = write(tmp_path, FORMATS["nested JSON (query, document, score)"](JUDGED), "second")
    third = write(tmp_path, FORMATS["Parquet"](JUDGED), "third")
    script = (
        "import sys\n"
        "from trove_steps.data import most_annotated, read_qrels\n"
        "print(most_annotated(read_qrels(sys.argv[1:])))\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'pandas', 'wandb'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, first, second, third],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "3\n[]\n"


@pytest.mark.slow
def test_ten_million_judgments_in_bounded_time(tmp_path):
    import time

    path = tmp_path / "qrels.tsv"
    with open(path, "wb") as file:
        file.write(b"query-id\tcorpus-id\tscore\n")
        for start in range(0, 10_000_000, 100_000):
            file.write(
                b"".join(
                    b"q%d\td%08d\t%d\n" % (n // 40, n * 7919 % 10**8, n % 4)
                    for n in range(start, start + 100_000)
                )
            )
    started = time.process_time()
    table = read_qrels([path])
    assert table.num_rows == 10_000_000
    assert time.process_time() - started < 20
    print(time.process_time() - started)


@pytest.mark.parametrize(("name", "judged", "most"), [("scifact", 339, 5), ("cranfield", 1837, 40)])
def test_real_judgments(shared_data, name, judged, most):
    table, info = load_qrels([shared_data / name / "qrels" / "test.tsv"])
    assert (table.num_rows, most_annotated(table)) == (judged, most)
    assert info.formats == ["TSV with header"]
    assert info.repeated == 0
