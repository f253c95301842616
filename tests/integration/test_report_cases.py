"""The report and the trackers on data sets, models and mining of every kind."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.conftest import make_dataset, make_model
from tests.integration.conftest import Workflow, make_config
from tests.unit.test_cross_encoder import make_cross_encoder
from tests.unit.test_report import unpacked


def make_workflow(folder: Path, **mining) -> Workflow:
    make_dataset(folder / "data")
    make_model(folder / "model")
    config = {**make_config(Path("model")), "report": True}
    config["mining"].update(mining)
    config["evaluation"].update(report_to=["wandb"], wandb={"mode": "offline"})
    return Workflow(folder, config)


def files_of(folder: str) -> dict[str, str]:
    names = {"corpus_path": "corpus.jsonl", "query_path": "queries.jsonl", "qrel_path": "qrels.tsv"}
    return {option: f"{folder}{name}" for option, name in names.items()}


def content(workflow: Workflow) -> dict:
    return unpacked((workflow.folder / "results/report.html").read_text())


def audit(workflow: Workflow, cell: str) -> list[dict]:
    return pq.read_table(workflow.folder / "results" / cell / "mined/audit.parquet").to_pylist()


def tables(workflow: Workflow, name: str) -> list[dict]:
    """Return the tables of a name that were kept for wandb."""
    found = (workflow.folder / "results/wandb").glob(
        f"offline-run-*/files/media/table/{name}*.json"
    )
    return [json.loads(path.read_text()) for path in found]


def test_mining_that_keeps_nothing(tmp_path):
    """No cosine is below -2: the report says so, and the evaluation is logged all the same."""
    workflow = make_workflow(tmp_path, max_score=-2)
    output = workflow.run()
    assert "mine tiny/bert: 0 negatives" in output
    assert "tiny/bert: logged to wandb: " in output
    mined = content(workflow)["datasets"][0]["cells"]["bert"]["mining"]
    assert mined["funnel"]["kept"] == 0
    assert mined["funnel"]["score"] > 0
    assert mined["samples"] == []
    told = "tiny/bert: no negative was kept: of "
    assert output.count(f"warning: {told}") == 2  # when it was mined, and at the end
    (line,) = content(workflow)["datasets"][0]["cells"]["bert"]["warnings"]["missing"]
    assert line.startswith(told.removeprefix("tiny/"))
    assert "ranks" not in mined
    assert "margins" not in mined
    assert tables(workflow, "per_query")
    assert not tables(workflow, "mined_negatives")


def test_a_cross_encoder_measures_its_own_margins(tmp_path):
    workflow = make_workflow(tmp_path, cross_encoder="cross")
    make_cross_encoder(tmp_path / "cross", tmp_path / "model")
    workflow.run()
    rows = audit(workflow, "tiny/bert")
    gaps = [row["gap"] for row in rows if row["gap"] is not None]
    mined = content(workflow)["datasets"][0]["cells"]["bert"]["mining"]
    counts = mined["margins"]["counts"]
    assert sum(counts) == len(gaps) > 0
    assert mined["margins"]["ends"] == [min(gaps), max(gaps)]
    assert mined["margins"]["above"] == sum(gap < 0 for gap in gaps) / len(gaps)
    assert mined["judge"] == "the cross-encoder"
    known = {(row["query_id"], row["doc_id"]): row for row in rows}
    texts = content(workflow)["datasets"][0]["texts"]
    for sample in mined["samples"]:
        shown = sample["negative"]
        row = known[sample["query"], texts[str(shown["doc"])][0]]
        assert shown["rank"] == row["rank"]
        assert shown["score"] == pytest.approx(row["score"], abs=1e-4)
        assert shown["teacher_score"] == pytest.approx(row["teacher_score"], abs=1e-4)
    (table,) = tables(workflow, "mined_negatives")
    assert {"score", "teacher_score"} < set(table["columns"])


def test_collections_variants_vectors_from_elsewhere_and_files_apart(tmp_path):
    """Everything is shown, whatever the data set, the variant or the form of the mined files."""
    workflow = make_workflow(tmp_path, merge_mined_qrels=False, output_qrel_format="grouped")
    tiny = workflow.config["datasets"]["tiny"]
    for name in ("real", "synth"):
        make_dataset(tmp_path / name, documents=30, seed=len(name))
    parts = [files_of(f"{name}/") for name in ("real", "synth")]
    np.save(tmp_path / "corpus.npy", np.random.default_rng(0).normal(size=(60, 32)).astype("f4"))
    (tmp_path / "ids.txt").write_text("".join(f"d{n}\n" for n in range(60)))
    workflow.config["datasets"] = {
        "tiny": tiny,
        "both": {"collections": parts},
        "elsewhere": {**tiny, "corpus_embeddings": ["corpus.npy", "ids.txt"]},
    }
    workflow.config["models"]["bert"]["truncate_dim"] = [8]
    workflow.run()
    found = content(workflow)
    assert found["models"] == ["bert", "bert@8"]
    assert [dataset["name"] for dataset in found["datasets"]] == ["tiny", "both", "elsewhere"]
    for dataset in found["datasets"]:
        for model, cell in dataset["cells"].items():
            rows = audit(workflow, f"{dataset['name']}/{model}")
            assert rows
            assert sum(cell["mining"]["ranks"]["counts"]) == len(rows)
            pairs = {(row["query_id"], row["doc_id"]) for row in rows}
            shown = [
                (sample["query"], dataset["texts"][str(sample["negative"]["doc"])])
                for sample in cell["mining"]["samples"]
            ]
            assert len(shown) == min(20, len(rows))
            assert {(query, document) for query, (document, _) in shown} <= pairs
            assert all(text for _, (_, text) in shown)
            assert cell["cost"]["bytes"] == {"bert": 128, "bert@8": 32}[model]
            encoded = cell["cost"]["encode"]["corpus"]
            assert (encoded is None) == (dataset["name"] == "elsewhere")
    assert len(tables(workflow, "mined_negatives")) == 6
