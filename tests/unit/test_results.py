"""Records of results: they count only while the files that they name are there."""

import json

import pytest

from trove_steps.fingerprint import hash_file
from trove_steps.results import drop_records, is_complete, write_record


@pytest.fixture
def cell(tmp_path):
    folder = tmp_path / "results" / "scifact" / "minilm"
    (folder / "mined").mkdir(parents=True)
    (folder / "metrics.json").write_text("{}")
    (folder / "mined" / "mined_qrels.tsv").write_text("q\td\t0\n")
    return folder


def record_of(cell, key="a" * 32, **content):
    record = cell / ".evaluate" / f"{key}.json"
    write_record(record, [cell / "metrics.json", cell / "mined" / "mined_qrels.tsv"], **content)
    return record


def test_a_record_lists_its_files(cell):
    content = json.loads(record_of(cell, search={"depth": 10}).read_text())
    assert content["search"] == {"depth": 10}
    assert content["files"]["metrics.json"] == {
        "size": 2,
        "sha256": hash_file(cell / "metrics.json"),
    }
    assert set(content["files"]) == {"metrics.json", "mined/mined_qrels.tsv"}


def test_a_record_of_whole_files_is_complete(cell):
    assert is_complete(record_of(cell))
    assert is_complete(record_of(cell, final=True))


def test_a_record_that_is_not_final_is_not_complete(cell):
    assert not is_complete(record_of(cell, final=False))


def test_a_record_whose_files_are_gone_or_changed_is_not_complete(cell):
    record = record_of(cell)
    (cell / "metrics.json").write_text('{"a": 1}')
    assert not is_complete(record)
    (cell / "metrics.json").write_text("[]")  # as long as before
    assert not is_complete(record)
    (cell / "metrics.json").write_text("{}")
    assert is_complete(record)
    (cell / "mined" / "mined_qrels.tsv").unlink()
    assert not is_complete(record)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "7", "{}", '{"files": []}', '{"files": {"metrics.json": 2}}']
)
def test_a_damaged_record_is_not_complete(cell, content):
    record = record_of(cell)
    record.write_text(content)
    assert not is_complete(record)


def test_a_missing_record_is_not_complete(cell):
    assert not is_complete(cell / ".evaluate" / "none.json")


def test_records_are_moved_with_the_folder(cell, tmp_path):
    record = record_of(cell).relative_to(tmp_path / "results")
    (tmp_path / "results").rename(tmp_path / "elsewhere")
    assert is_complete(tmp_path / "elsewhere" / record)


def test_drop_records_removes_those_beside(cell):
    first, second = record_of(cell), record_of(cell, "b" * 32)
    other = cell / ".mine" / f"{'c' * 32}.json"
    write_record(other, [cell / "metrics.json"])
    drop_records(cell / ".evaluate" / f"{'d' * 32}.json")
    assert not first.exists()
    assert not second.exists()
    assert other.exists()
    drop_records(cell / ".none" / "x.json")
