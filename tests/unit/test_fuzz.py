"""Readers given values of any kind: rows, or the clear error, and nothing else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trove_steps.data import Reader, load_qrels, read_records
from trove_steps.errors import TroveStepsError

from .collections_on_disk import COMPRESSIONS, FORMATS, ROWS, fuzz, records, table_of, write
from .test_data_bad_input import CHANGES, mutated

SMALL = st.text(st.sampled_from("aé漢 \t\n\0\"'{}"), max_size=4)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | SMALL | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SMALL, inner, max_size=2),
    max_leaves=4,
)
NAMES = st.sampled_from(
    ["_id", "id", "text", "title", "qid", "query_id", "query", "docid", "score", "query-id", "corpus-id",
     "positive_passages", "negative_passages", "positives", "negatives", "a", ""]
)  # fmt: skip
OBJECTS = st.dictionaries(NAMES, ANYTHING, max_size=5)
READERS = st.builds(
    Reader,
    id=st.none() | NAMES,
    title=st.none() | NAMES,
    text=st.none() | NAMES,
)


def check_records(path, reader) -> None:
    try:
        rows = records(path, shown_as="data", reader=reader, batch_rows=2)
    except TroveStepsError as error:
        assert "data" in str(error)  # noqa: PT017 (either outcome is right)
        return
    assert rows
    for row_id, title, text in rows:
        assert (type(row_id), type(text)) == (str, str)
        assert row_id
        assert not any(c.isspace() for c in row_id)
        assert title is None or type(title) is str


def check_judgments(path, **loader) -> None:
    try:
        table, info = load_qrels([path], shown_as=["data"], **loader)
    except TroveStepsError as error:
        assert "data" in str(error) or "own:loader" in str(error)  # noqa: PT017
        return
    assert table.num_rows == info.rows - info.repeated > 0
    for name in table.column_names:
        assert not table[name].null_count


@fuzz
@given(lines=st.lists(OBJECTS, min_size=1, max_size=4), reader=READERS)
def test_objects_of_any_kind_as_records(tmp_path, lines, reader):
    path = write(tmp_path, "\n".join(map(json.dumps, lines)).encode())
    check_records(path, reader)


@fuzz
@given(
    form=st.sampled_from(sorted(FORMATS)),
    compression=st.sampled_from(sorted(COMPRESSIONS)),
    changes=CHANGES,
    reader=READERS,
)
def test_damaged_files_with_fields_of_any_name(tmp_path, form, compression, changes, reader):
    content = COMPRESSIONS[compression](mutated(FORMATS[form](ROWS), changes))
    check_records(write(tmp_path, content), reader)


@fuzz
@given(lines=st.lists(OBJECTS, min_size=1, max_size=4))
def test_objects_of_any_kind_as_judgments(tmp_path, lines):
    check_judgments(write(tmp_path, "\n".join(map(json.dumps, lines)).encode()))


@fuzz
@given(found=ANYTHING | st.lists(OBJECTS | ANYTHING, max_size=4), reader=READERS)
def test_loaders_of_records_that_return_anything(tmp_path, found, reader):
    reader = Reader(**{**vars(reader), "loader": "own:loader"})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("trove_steps.data.records.load_function", lambda *_: lambda path: found)
        check_records(write(tmp_path, b"x"), reader)


@fuzz
@given(
    found=ANYTHING
    | st.lists(OBJECTS | st.tuples(ANYTHING, ANYTHING, ANYTHING) | ANYTHING, max_size=4)
    | st.dictionaries(SMALL, st.dictionaries(SMALL, ANYTHING, max_size=2), max_size=2)
)
def test_loaders_of_judgments_that_return_anything(tmp_path, found):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("trove_steps.data.qrels.load_function", lambda *_: lambda path: found)
        check_judgments(write(tmp_path, b"x"), loader="own:loader")


@fuzz
@given(
    columns=st.lists(st.tuples(NAMES, st.lists(ANYTHING, min_size=3, max_size=3)), max_size=4),
    form=st.sampled_from(["parquet", "arrow file", "arrow stream"]),
)
def test_columns_of_any_type(tmp_path, columns, form):
    import pyarrow as pa

    try:
        table = pa.table([pa.array(values) for _, values in columns], [name for name, _ in columns])
        content = FORMATS[form](table)
    except (pa.ArrowException, TypeError, ValueError, UnicodeError, OverflowError):
        return  # no file can hold these
    path = write(tmp_path, content)
    check_records(path, Reader())
    check_judgments(path)


def test_tables_are_what_the_formats_write(tmp_path):
    assert list(read_records(write(tmp_path, FORMATS["parquet"](table_of(ROWS)))))
