"""Data through the real workflow: checked before anything is encoded, collections merged at the end."""

import gzip
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tests.conftest import write_jsonl


def test_bad_data_stop_the_run_before_anything_is_encoded(workflow):
    corpus = workflow.folder / "data/corpus.jsonl"
    corpus.write_text(corpus.read_text() + '{"_id": "broken\n')
    output = workflow.run("--cores", "2", expect=1)
    assert "data/corpus.jsonl:61: not valid JSON" in output
    assert "Traceback" not in output
    assert not list((workflow.folder / "cache").glob("embeddings/*/shards/*"))


def test_warnings_are_kept_and_strict_makes_them_fatal(workflow):
    tiny = workflow.config["datasets"]["tiny"]
    tiny["strict"] = True
    output = workflow.run("check", "--cores", "2", expect=1)
    assert "1 of 12 queries have no judgments" in output
    assert "strict is set" in output
    tiny["strict"] = False
    output = workflow.run("check", "--cores", "2")
    assert "warning: datasets.tiny: 1 of 12 queries have no judgments" in output
    found = json.loads((workflow.folder / "results/tiny/data.json").read_text())
    assert [warning["kind"] for warning in found["warnings"]] == ["queries_without_judgments"]


def test_checks_are_made_again_where_results_are_there(workflow):
    """strict takes effect afterwards, and data.json comes back; nothing else is done again."""
    workflow.run("--cores", "2")
    data = workflow.folder / "results/tiny/data.json"
    before = data.read_bytes()
    data.unlink()
    output = workflow.run("--cores", "2")
    assert data.read_bytes() == before
    assert "check_data" in output
    assert not any(
        f"{step}_" in output or f"\n{step} " in output for step in ("encode", "search", "score")
    )
    assert "Nothing to be done" in workflow.run("--cores", "2")
    workflow.config["datasets"]["tiny"]["strict"] = True
    output = workflow.run("--cores", "2", expect=1)
    assert "strict is set" in output


def test_labels_that_are_no_grades_stop_a_run_of_vectors_from_elsewhere(workflow):
    """Such a data set has no texts to check, but its judgments are read before anything is searched."""
    folder = workflow.folder
    for side, ids in (("corpus", ["d1", "d2"]), ("queries", ["q1"])):
        vectors = pa.array([[1.0, float(n)] for n in range(len(ids))], pa.list_(pa.float32()))
        pq.write_table(pa.table({"id": ids, "embedding": vectors}), folder / f"{side}.parquet")
    (folder / "mined.tsv").write_text("q1\td1\t1\nq1\td2\t0.731\n")
    workflow.config["datasets"] = {
        "vectors": {
            "corpus_embeddings": "corpus.parquet",
            "query_embeddings": "queries.parquet",
            "qrel_path": "mined.tsv",
        }
    }
    output = workflow.run("--cores", "2", expect=1)
    assert "mined.tsv:2: 1 of 2 labels can't be gains" in output
    assert "Traceback" not in output
    assert not list((folder / "cache").glob("searches/*"))


def test_two_collections_with_the_same_ids(workflow):
    folder = workflow.folder
    words = {"real": "wing", "synth": "shock"}
    for name, word in words.items():
        rows = [{"pid": f"d{n}", "body": f"{word} " * (n + 1)} for n in range(5)]
        write_jsonl(folder / f"{name}.jsonl", rows)
    (folder / "q.jsonl").write_text(
        '{"_id": "q1", "text": "wing"}\n{"_id": "q2", "text": "shock"}\n'
    )
    (folder / "real.tsv").write_text("q1\td0\t1\nq1\td1\t0\nq2\td1\t0\n")
    (folder / "synth.tsv").write_text("q2\td0\t2\nq2\td2\t1\n")
    shared = {"query_path": "q.jsonl", "corpus_fields": {"id": "pid", "text": "body"}}
    workflow.config["datasets"] = {
        "both": {
            "collections": [
                {"corpus_path": "real.jsonl", "qrel_path": "real.tsv", "min_score": 1, **shared},
                {
                    "corpus_path": "synth.jsonl",
                    "qrel_path": "synth.tsv",
                    "score_transform": 3,
                    **shared,
                },
            ]
        }
    }
    workflow.run("--cores", "2")
    counts = workflow.metrics("both", "bert")
    assert counts["num_judged"] == 2
    assert counts["num_judgments_not_in_corpus"] == 0
    with gzip.open(folder / "results/both/bert/run.trec.gz", "rt") as file:
        documents = {line.split()[2] for line in file}
    names = {name.split("_")[0] for name in documents}
    assert len(documents) == 10
    assert names == {f"d{n}" for n in range(5)}
    # Mining leaves out what is annotated after filtering: q1's d1 of real, labelled 0, is back.
    mined = pd.read_csv(folder / "results/both/bert/mined/mined_qrels.tsv", sep="\t")
    sizes = pd.read_parquet(folder / "results/both/bert/mined/funnel.parquet")
    assert sorted(sizes["annotated"]) == [1, 2]
    assert len(mined) == 10
