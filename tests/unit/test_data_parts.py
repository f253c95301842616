"""What the readers are made of: opening, tables, ids and text templates."""

import gzip
import hashlib
import os
import stat
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trove_steps.data import check_unique_ids, format_text, format_texts
from trove_steps.data.opening import Source
from trove_steps.data.tables import column_batches, csv_rows, tsv_rows
from trove_steps.errors import TroveStepsError

from .collections_on_disk import (
    COMPRESSIONS,
    FUZZ,
    ROWS,
    parquet,
    records,
    write,
)

# --- opening -------------------------------------------------------------------------------------


@settings(FUZZ, max_examples=60)
@given(
    content=st.binary(max_size=200).map(lambda data: data.replace(b"\r", b"\n")), last=st.booleans()
)
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


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's /proc")
@pytest.mark.parametrize("form", ["Parquet", "Arrow file", "Arrow stream"])
def test_one_large_batch_is_not_held_in_memory(tmp_path, form):
    """200 MB in a single row group or record batch, of which only slices are ever held."""
    table = pa.table({"_id": list(map(str, range(50_000))), "text": ["word " * 800] * 50_000})
    path = tmp_path / "large"
    if form == "Parquet":
        options = {"row_group_size": len(table), "use_dictionary": False, "compression": "none"}
        pq.write_table(table, path, **options)
    else:
        opened = pa.ipc.new_file if form == "Arrow file" else pa.ipc.new_stream
        with opened(path, table.schema) as writer:
            writer.write_table(table)
    script = (
        "import re, sys, pyarrow.parquet\n"
        "from trove_steps.data import read_records\n"
        "def own_memory():\n"
        "    return int(re.search(r'RssAnon:\\s*(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = own_memory()\n"
        "sizes = [(len(batch.ids), own_memory()) for batch in read_records(sys.argv[1])]\n"
        "print(sum(n for n, _ in sizes), max(size for _, size in sizes) - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, check=True
    )
    count, kilobytes = map(int, done.stdout.split())
    assert path.stat().st_size > 190 << 20
    assert count == 50_000
    assert kilobytes < 150 << 10  # 60 to 110 MB were seen; held whole it would be 200 and more


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
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
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
    with pytest.raises(
        TroveStepsError, match=r"record 2.*the id 'a' is already taken at .*record 1"
    ):
        check_unique_ids(chunked("a", "a"), [(str(tmp_path / "gone"), 2)])


# --- templates -----------------------------------------------------------------------------------


def trove_passage(title, text):
    return text.strip() if title is None else f"{title.strip()} {text.strip()}".strip()


@given(records=st.lists(st.tuples(st.none() | st.text(), st.text()), min_size=1))
def test_the_usual_templates_are_troves_rule(records):
    titles, texts = zip(*records, strict=True)
    passages = [trove_passage(title, text) for title, text in records]
    assert format_texts("{title} {text}", titles, texts) == passages
    assert format_texts("{text}", titles, texts) == [text.strip() for text in texts]


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
    assert format_texts(template, [" T ", "T"], [" x\n", "x"]) == [with_title] * 2
    assert format_texts(template, [None, "", " \t"], ["x"] * 3) == [without] * 3


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
