"""What a check of a data set finds, and what the commands show of it."""

import json
from pathlib import Path

import pytest
import yaml

from tests.conftest import make_dataset, make_model, write_jsonl
from tests.unit.test_inputs import JUDGED, PLAIN, checked
from trove_steps.cli import main
from trove_steps.errors import TroveStepsError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "data")
    return tmp_path


def records(*pairs) -> list[dict]:
    return [{"_id": name, "text": text} for name, text in pairs]


def warnings_of(corpus=(), queries=(), qrels: str = "", **options) -> dict:
    """Return kind → warning of a small data set that is right but for what is given."""
    write_jsonl(Path("c.jsonl"), [*records(("d1", "wing")), *corpus])
    write_jsonl(Path("q.jsonl"), [*records(("q1", "lift")), *queries])
    Path("r.tsv").write_text("q1\td1\t1\n" + qrels)
    paths = {"corpus_path": "c.jsonl", "query_path": "q.jsonl", "qrel_path": "r.tsv"}
    found = checked(**{**paths, **options})
    return {warning["kind"]: warning for warning in found["warnings"]}


def test_nothing_to_complain_about():
    assert warnings_of() == {}


@pytest.mark.parametrize(
    ("given", "kind", "count", "examples"),
    [
        ({"corpus": records(("d2", " "), ("d3", ""))}, "empty_documents", 2, ["d2", "d3"]),
        ({"queries": records(("q2", "")), "qrels": "q2\td1\t1\n"}, "empty_queries", 1, ["q2"]),
        ({"corpus": records(("d2", "wing "), ("d3", "wing"))}, "duplicate_documents", 2, ["d2", "d3"]),
        ({"queries": records(("q2", "lift")), "qrels": "q2\td1\t1\n"}, "duplicate_queries", 1, ["q2"]),
        ({"corpus": records((7, "seven"))}, "id_types_of_documents", 1, ["c.jsonl"]),
        ({"qrels": "q1\td9\t1\nq1\td8\t0\n"}, "absent_documents", 2, ["d9", "d8"]),
        ({"qrels": "q9\td1\t1\n"}, "absent_queries", 1, ["q9"]),
        ({"queries": records(("q2", "drag"))}, "queries_without_judgments", 1, ["q2"]),
        ({"qrels": "q1\td1\t0\n"}, "relabelled_judgments", 1, []),
        (
            {"corpus": records(("q1", "lift"), ("q2", "other")), "queries": records(("q2", "drag")),
             "qrels": "q2\td1\t1\n"},
            "identical_ids", 1, ["q1"],
        ),
    ],
)  # fmt: skip
def test_what_is_probably_a_mistake(given, kind, count, examples):
    found = warnings_of(**given)
    assert list(found) == [kind]
    assert (found[kind]["count"], found[kind]["examples"]) == (count, examples)
    assert "\n" not in found[kind]["message"]


def test_ids_that_both_sides_number_are_no_mistake():
    """Cranfield's query 1 and document 1 have nothing to do with each other."""
    assert warnings_of(corpus=records(("q1", "unrelated"))) == {}
    same = {"corpus": records(("q1", "lift"))}
    assert "exclude_identical_ids: true" in warnings_of(**same)["identical_ids"]["message"]
    assert warnings_of(**same, exclude_identical_ids=True) == {}


def test_files_that_do_not_belong_together_end_the_run():
    with pytest.raises(
        TroveStepsError, match="none of the 11 queries that the judgments name exists"
    ):
        checked(**{**JUDGED, "query_path": write("q.jsonl", records(("other", "x")))})
    with pytest.raises(TroveStepsError, match=r"none of the .* documents that the judgments name"):
        checked(**{**JUDGED, "corpus_path": write("c.jsonl", records(("other", "x")))})


def write(name: str, rows) -> str:
    return str(write_jsonl(Path(name), rows))


def test_an_id_twice_is_told_with_both_lines():
    write("c.jsonl", records(("d1", "a"), ("d2", "b"), ("d1", "c")))
    with pytest.raises(
        TroveStepsError, match=r"^c.jsonl:3: the id 'd1' is already taken at c.jsonl:1"
    ):
        checked(**{**PLAIN, "corpus_path": "c.jsonl"})


@pytest.mark.parametrize(
    ("line", "language"),
    [
        ("{'_id': 'd2', 'text': 'x'}", "a Python dict"),
        ("<html>", "HTML or XML"),
        ("version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        ("<<<<<<< HEAD", "a merge conflict"),
        ("d2\twing", "TSV"),
        ("d2,wing", "CSV"),
        ("_id: d2", "YAML"),
    ],
)
def test_the_language_of_a_line_that_is_no_json(line, language):
    Path("c.jsonl").write_text('{"_id": "d1", "text": "x"}\n' + line + "\n")
    with pytest.raises(
        TroveStepsError, match=rf"^c.jsonl:2: not valid JSON .*looks like {language}"
    ):
        checked(**{**PLAIN, "corpus_path": "c.jsonl"})


@pytest.fixture
def configured(folder):
    make_model(folder / "model")
    config = {
        "datasets": {"d": {**JUDGED, "min_score": 1}},
        "models": {"m": {"model_name_or_path": "model", "pooling": "mean", "passage_max_len": 16}},
    }
    Path("my.yaml").write_text(yaml.safe_dump(config))
    return ["d", "--configfile", "my.yaml"]


def test_doctor_data(configured, capsys):
    assert main(["doctor", "data", *configured]) == 0
    page = capsys.readouterr().out
    assert "documents: 60\n" in page
    assert "TSV with header: 33 read, 33 different" in page
    assert "min_score 1: 33 → " in page
    assert "are cut off at 16" in page
    assert main(["doctor", "data", *configured, "--json"]) == 0
    lengths = json.loads(capsys.readouterr().out)["lengths"]["m"]["corpus"]
    # The tokenizer's words are those of the texts: one token each, two special ones.
    rows = map(json.loads, Path("data/corpus.jsonl").read_text().splitlines())
    counts = [len(f"{row['title']} {row['text']}".split()) + 2 for row in rows]
    assert lengths["percentiles"]["p100"] == max(counts)
    assert lengths["truncated_share"] == sum(n > 16 for n in counts) / 60


def test_show_dataset(configured, capsys):
    assert main(["show", "dataset", *configured]) == 0
    page = capsys.readouterr().out
    assert "data/corpus.jsonl: 60 records" in page
    assert "sha256 " in page
    assert main(["show", "dataset", "x", *configured[1:]]) == 1
    assert "no data set is named 'x'" in capsys.readouterr().err


def test_strict_in_doctor_data(configured, capsys):
    config = yaml.safe_load(Path("my.yaml").read_text())
    config["datasets"]["d"]["strict"] = True
    Path("my.yaml").write_text(yaml.safe_dump(config))
    assert main(["doctor", "data", *configured]) == 1  # a query has no judgments
