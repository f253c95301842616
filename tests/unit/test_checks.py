"""What a check of a data set finds, and what the commands show of it."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.conftest import make_dataset, make_model, write_jsonl
from tests.unit.rankings import make_qrels, make_ranking
from tests.unit.test_inputs import JUDGED, PLAIN, checked, resolved
from trove_steps.cli import main
from trove_steps.config.loading import load_config
from trove_steps.data.checks import check_data
from trove_steps.errors import TroveStepsError
from trove_steps.evaluation.metrics import evaluate
from trove_steps.fingerprint import Fingerprints
from trove_steps.inputs import Inputs, check_record
from trove_steps.keys import VERSION
from trove_steps.results import write_record


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "data")
    return tmp_path


def records(*pairs) -> list[dict]:
    return [{"_id": name, "text": text} for name, text in pairs]


PATHS = {"corpus_path": "c.jsonl", "query_path": "q.jsonl", "qrel_path": "r.tsv"}


def small(**options) -> dict:
    return checked(**{**PATHS, **options})


def warnings_of(corpus=(), queries=(), qrels: str = "", **options) -> dict:
    """Return kind → warning of a small data set that is right but for what is given."""
    write_jsonl(Path("c.jsonl"), [*records(("d1", "wing")), *corpus])
    write_jsonl(Path("q.jsonl"), [*records(("q1", "lift")), *queries])
    Path("r.tsv").write_text("q1\td1\t1\n" + qrels)
    return {warning["kind"]: warning for warning in small(**options)["warnings"]}


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
        ({"qrels": "q1\td1\t2\n"}, "relabelled_judgments", 1, []),
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


@pytest.mark.parametrize("labels", [(0, 0), (0, -1), (0.5, 0)])
def test_judgments_without_a_relevant_document(labels):
    write_jsonl(Path("c.jsonl"), records(("d1", "wing"), ("d2", "drag")))
    write_jsonl(Path("q.jsonl"), records(("q1", "lift")))
    Path("r.tsv").write_text("".join(f"q1\td{n}\t{v}\n" for n, v in enumerate(labels, 1)))
    found = {warning["kind"]: warning for warning in small()["warnings"]}
    assert found["no_relevant_documents"]["count"] == 2
    assert "none of the 2 judgments has a label of 1" in found["no_relevant_documents"]["message"]
    assert "qrel_path" in found["no_relevant_documents"]["message"]


def test_ids_that_lost_their_leading_zeros():
    found = warnings_of(corpus=records(("007", "seven")), qrels="q1\t7\t1\nq1\tgone\t1\n")
    assert "2 of 3 documents" in found["absent_documents"]["message"]
    assert "; 1 of them would with other leading zeros" in found["absent_documents"]["message"]
    Path("r.tsv").write_text("q1\t7\t1\n")
    with pytest.raises(TroveStepsError, match=r"^r.tsv: none of .* exists: .* leading zeros"):
        small()


def test_ids_in_quotes():
    found = warnings_of(corpus=records(("7", "seven")), qrels='q1\t"7"\t1\nq1\tgone\t1\n')
    assert "; 1 of them would without quotes" in found["absent_documents"]["message"]
    Path("r.tsv").write_text("'q1'\t7\t1\n")
    with pytest.raises(TroveStepsError, match=r"^r.tsv: none of .* exists: .* without quotes"):
        small()


def test_the_same_file_for_both_sides():
    """Mistyped more often than meant; who means it leaves identical ids out."""
    write_jsonl(Path("c.jsonl"), records(("d1", "wing"), ("d2", "drag")))
    Path("r.tsv").write_text("d1\td2\t1\nd2\td1\t1\n")
    Path("copy.jsonl").write_bytes(Path("c.jsonl").read_bytes())
    for name in ("c.jsonl", "copy.jsonl"):
        (warning,) = small(query_path=name)["warnings"]
        assert (warning["kind"], warning["count"]) == ("identical_ids", 2)
        assert warning["message"] == (
            f"query_path names a file of corpus_path, {name}: name that of the queries (or, if documents are "
            "to find similar ones, set exclude_identical_ids: true, so that none finds itself)"
        )
    assert small(query_path="c.jsonl", exclude_identical_ids=True)["warnings"] == []


GRADED = "q1\td2\t3\nq1\td3\t2\nq1\td4\t0\nq2\td4\t1\n"


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"min_score": 3}, 2),  # d1 and d3 of q1; q2 is not mined, d4 is not relevant
        ({"max_score": 3}, 1),
        ({"filter_fn": "docid != 'd1'"}, 1),
        ({"group_top_k": 1}, 2),
        ({"score_transform": 1}, None),
        ({"max_score": 4}, None),
        ({"min_score": 3, "mined": False}, None),
    ],
)
def test_mining_takes_judgments_that_a_filter_removed_for_none(options, count):
    found = warnings_of(
        records(("d2", "drag"), ("d3", "heat"), ("d4", "flow")), records(("q2", "hot")), GRADED,
        **{"mined": True, **options},
    )  # fmt: skip
    found = found.get("filtered_relevant")
    assert (found and found["count"]) == count
    if found:
        assert found["message"] == (
            f"filters remove {count:,} judgments with a label of 1 or more: mining takes their documents "
            "for unannotated, so that they may become negatives; mine with a data set without the filter"
        )


def test_what_another_collection_keeps_is_annotated():
    twice = [
        {**PATHS, "min_score": 3, "score_transform": 1},
        {**PATHS, "max_score": 3, "score_transform": 0},
    ]
    warnings_of(
        records(("d2", "drag"), ("d3", "heat"), ("d4", "flow")), records(("q2", "hot")), GRADED
    )
    data = resolved(mined=True, collections=twice)
    found = check_data(data.checked, Path("cache/in"))["warnings"]
    assert "filtered_relevant" not in [warning["kind"] for warning in found]


# --- labels ------------------------------------------------------------------------------------


def judged(content, name: str = "r.tsv", **options) -> list[dict]:
    """Return the warnings of a data set with 120 documents, which is evaluated, and these judgments."""
    write_jsonl(Path("c.jsonl"), records(*((f"d{n}", f"text {n}") for n in range(120))))
    write_jsonl(Path("q.jsonl"), records(("q1", "lift")))
    if isinstance(content, str):
        Path(name).write_text(content)
    else:
        pq.write_table(content, name)
    options = {**PATHS, "qrel_path": name, **options}
    return check_data(resolved(evaluated=True, **options).checked, Path("cache/in"))["warnings"]


COLUMNS = {"query-id": ["q1", "q1"], "corpus-id": ["d1", "d2"], "score": [1.0, 0.25]}


@pytest.mark.parametrize(
    ("content", "name", "line"),
    [
        ("query-id\tcorpus-id\tscore\nq1\td1\t1\n\nq1\td2\t0.25\n", "r.tsv", 4),
        ("q1 0 d1 1\nq1 0 d2 0.25\n", "r.trec", 2),
        ('{"qid": "q1", "docid": ["d1", "d2"], "score": [1, 0.25]}\n', "r.jsonl", 1),
        ('{"qid": "q1", "docid": "d1", "rel": 1}\n{"qid": "q1", "docid": "d2", "rel": 0.25}', "r.jsonl", 2),
        ('{"q1": {"d1": 1, "d2": 0.25}}', "r.json", 1),
        (pa.table(COLUMNS), "r.parquet", 2),
        ("q1\td1\t1\nq1\td2\t7112345\n", "qidpidtriples.tsv", 2),
    ],
)  # fmt: skip
def test_labels_that_metrics_cant_take_are_told_before_anything_is_encoded(content, name, line):
    with pytest.raises(TroveStepsError) as raised:
        judged(content, name)
    assert str(raised.value).startswith(f"{name}:{line}: 1 of 2 labels can't be gains")
    assert "'d2', " in str(raised.value)
    assert "score_transform" in str(raised.value)
    assert judged(content, name, score_transform="1 if score > 0.2 else 0") == []


def test_such_labels_are_a_warning_where_nothing_is_evaluated():
    found = warnings_of(corpus=records(("d2", "drag")), qrels="q1\td2\t0.5\n")
    assert found["labels_without_metrics"]["examples"] == [0.5]
    with pytest.raises(TroveStepsError, match="cannot be a gain"):
        gains({"q1": {"d1": 1, "d2": 0.5}})  # what the score step says of them


def gains(labels):
    return evaluate(make_ranking({"q1": {"d1": 1.0}}), make_qrels(labels))


def test_labels_of_another_document_in_the_same_line_do_not_confuse():
    """Ids that are parts of other columns: only whole columns count."""
    with pytest.raises(TroveStepsError, match=r"^r.tsv:3: "):
        judged("q1\td11\t1\nq1\td10\t1\nq1\td1\t1.5\n")


def test_many_different_labels():
    (warning,) = judged("".join(f"q1\td{n}\t{n}\n" for n in range(101)))
    assert (warning["kind"], warning["count"]) == ("many_labels", 101)
    assert judged("".join(f"q1\td{n}\t{n}\n" for n in range(100))) == []


# --- places ------------------------------------------------------------------------------------


def test_one_mistake_does_not_hide_another():
    Path("c.jsonl").write_text('{"_id": "d1"\n')
    Path("q.jsonl").write_text('{"_id": "q1", "text": "a"}\n{"_id": "q1", "text": "b"}\n')
    Path("r.tsv").write_text("q1\td1\t1\nq1\td2\n")
    with pytest.raises(TroveStepsError) as raised:
        small()
    places = [line.partition(": ")[0] for line in str(raised.value).splitlines()]
    assert places == ["c.jsonl:1", "q.jsonl:2", "r.tsv:2"]


def test_a_file_is_called_what_the_configuration_calls_it():
    """Two data sets with the same content have the same link in the cache."""
    resolved(**JUDGED)
    Path("other").mkdir()
    for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"):
        Path("other", name).write_bytes(Path("data", name).read_bytes())
    other = {option: path.replace("data/", "other/") for option, path in JUDGED.items()}
    found = checked(**other)
    paths = [
        file["path"] for side in ("corpus", "queries", "qrels") for file in found[side]["files"]
    ]
    assert paths == ["other/corpus.jsonl", "other/queries.jsonl", "other/qrels.tsv"]


def test_ids_that_both_sides_number_are_no_mistake():
    """Cranfield's query 1 and document 1 have nothing to do with each other."""
    assert warnings_of(corpus=records(("q1", "unrelated"))) == {}
    assert small()["shared_ids"] == {"same_text": 0, "other_text": 1}
    same = {"corpus": records(("q1", "lift"))}
    assert "exclude_identical_ids: true" in warnings_of(**same)["identical_ids"]["message"]
    assert warnings_of(**same, exclude_identical_ids=True) == {}


def test_files_that_do_not_belong_together_end_the_run():
    with pytest.raises(
        TroveStepsError,
        match=r"^data/qrels.tsv: none of the 11 queries that the judgments name exists: .*q.jsonl holds",
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
    assert "TSV with header: 33 read\n" in page
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
    assert "data/corpus.jsonl: JSON lines, 60 records" in page
    assert "sha256 " in page
    assert main(["show", "dataset", "x", *configured[1:]]) == 1
    assert "no data set is named 'x'" in capsys.readouterr().err


def test_show_dataset_after_a_file_was_moved(configured, capsys):
    """The results are those of its content; what it is called now is asked of the configuration."""
    config = yaml.safe_load(Path("my.yaml").read_text())
    data = Inputs(Fingerprints(Path("cache"))).dataset("d", load_config(config)["datasets"]["d"])
    Path("results/d").mkdir(parents=True)
    table = Path("results/d/data.json")
    table.write_text(json.dumps(check_data(data.checked, Path("cache/in"))))
    write_record(check_record(Path("results"), data, VERSION["data"]), [table], dataset="d")
    Path("data/corpus.jsonl").rename("data/documents.jsonl")
    config["datasets"]["d"]["corpus_path"] = "data/documents.jsonl"
    Path("my.yaml").write_text(yaml.safe_dump(config))
    assert main(["show", "dataset", *configured]) == 0
    page = capsys.readouterr().out
    assert "data/documents.jsonl: JSON lines, 60 records" in page
    assert "data/corpus.jsonl" not in page


def test_examples_that_cant_be_seen_are_spelt_out(configured, capsys):
    judged = Path("data/qrels.tsv")
    judged.write_text(judged.read_text() + "q1\td1\u200b\t1\n")
    assert main(["doctor", "data", *configured]) == 0
    assert "(such as 'd1\\u200b')" in capsys.readouterr().out


def test_lengths_are_of_the_files_that_were_planned_with(configured, capsys, monkeypatch):
    from trove_steps.data.checks import check_data

    def checked_then_edited(*arguments):
        found = check_data(*arguments)
        with open("data/corpus.jsonl", "a") as file:
            file.write('{"_id": "more", "text": "wing"}\n')
        return found

    monkeypatch.setattr("trove_steps.data.checks.check_data", checked_then_edited)
    error = doctor(capsys)["lengths"]["m"]["corpus"]["error"]
    assert error.startswith("data/corpus.jsonl changed while it was read")


@pytest.mark.parametrize("command", [["doctor", "data"], ["show", "dataset"]])
def test_a_data_set_of_another_directory(configured, folder, monkeypatch, command, capsys):
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert main([*command, "d", "--configfile", "../my.yaml", "--directory", ".."]) == 0
    assert "documents: 60\n" in capsys.readouterr().out


def test_an_unknown_option_shows_the_usage_of_the_subcommand(capsys):
    with pytest.raises(SystemExit):
        main(["show", "dataset", "d", "--foo"])
    told = capsys.readouterr().err
    assert told.startswith("usage: trove-steps show dataset ")
    assert told.endswith("trove-steps show dataset: error: unrecognized arguments: --foo\n")


def test_a_name_behind_configfile_is_taken_for_a_file_as_snakemake_does(capsys):
    with pytest.raises(SystemExit):
        main(["show", "dataset", "--configfile", "my.yaml", "d"])
    told = capsys.readouterr().err
    assert "required: NAME (--configfile takes all names behind it: write other arguments" in told
    Path("my.yaml").touch()
    assert main(["ask", "--configfile", "my.yaml", "lift of a wing"]) == 1
    told = capsys.readouterr().err
    assert "--configfile takes all names behind it, and lift of a wing is no file" in told


def test_strict_in_doctor_data(configured, capsys):
    config = yaml.safe_load(Path("my.yaml").read_text())
    config["datasets"]["d"]["strict"] = True
    Path("my.yaml").write_text(yaml.safe_dump(config))
    assert main(["doctor", "data", *configured]) == 1  # a query has no judgments


def configure(**sections) -> None:
    config = yaml.safe_load(Path("my.yaml").read_text())
    Path("my.yaml").write_text(yaml.safe_dump({**config, **sections}))


def doctor(capsys) -> dict:
    assert main(["doctor", "data", "d", "--configfile", "my.yaml", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_vectors_without_texts(configured, capsys):
    vectors = {"corpus_embeddings": "c.npy", "query_embeddings": "q.npy"}
    configure(datasets={"d": {**vectors, "qrel_path": "data/qrels.tsv"}}, models={"m": {}})
    found = doctor(capsys)
    assert (found["corpus"]["records"], found["qrels"]["judgments"]) == (0, 33)
    assert found["lengths"] == {"m": {}}
    for command in (["doctor", "data"], ["show", "dataset"]):
        assert main([*command, *configured]) == 0
        assert "judgments: 33" in capsys.readouterr().out


def test_a_model_whose_vectors_come_from_elsewhere(configured, capsys):
    data = {**JUDGED, "corpus_embeddings": "c.npy", "query_embeddings": "q.npy"}
    configure(datasets={"d": data}, models={"m": {}})
    assert "has no model_name_or_path" in doctor(capsys)["lengths"]["m"]["corpus"]["error"]


def test_lengths_are_those_of_the_texts_that_will_be_encoded(configured, capsys):
    Path("own_format.py").write_text(
        "def twice(text, dataset):\n    return f'{text} {text} {dataset}'\n"
    )
    plain = doctor(capsys)["lengths"]["m"]["queries"]["percentiles"]
    model = {"model_name_or_path": "model", "pooling": "mean"}
    forms = {"query_format": {"d": "wing {text}"}, "passage_format": "own_format:twice"}
    configure(models={"m": {**model, **forms}})
    found = doctor(capsys)["lengths"]["m"]
    assert found["queries"]["percentiles"]["p100"] == plain["p100"] + 1
    texts = [
        json.loads(line)["text"] for line in Path("data/corpus.jsonl").read_text().splitlines()
    ]
    longest = max(2 * len(text.split()) for text in texts)
    assert found["corpus"]["percentiles"]["p100"] == longest + 1 + 2  # the name of the data set


def test_queries_have_the_lengths_of_their_own_model(configured, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "trove_steps.data.lengths._count_tokens",
        lambda folder, texts, settings: asked.append(folder.name) or [1] * len(texts),
    )
    make_model(Path("other"))
    model = {"model_name_or_path": "model", "query_model_name_or_path": "other", "pooling": "mean"}
    configure(models={"m": model})
    doctor(capsys)
    assert asked == ["model", "other"]


CHATTY = """
import json

print("imported")


def lines(path):
    for line in open(path):
        print(len(line))
        yield json.loads(line)
"""


@pytest.mark.parametrize("command", [["doctor", "data"], ["show", "dataset"]])
def test_what_own_code_prints_is_not_in_the_json(configured, capsys, command):
    Path("chatty.py").write_text(CHATTY)
    configure(datasets={"d": {**JUDGED, "record_loader": "chatty:lines"}})
    assert main([*command, *configured, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["corpus"]["records"] == 60
    assert "imported" in printed.err
