"""Two models compared, their negatives rescored, merged and written for trainers: the real workflow."""

import csv
import json

import pytest

from tests.conftest import make_dataset
from tests.integration.conftest import Workflow, make_config
from tests.unit.test_cross_encoder import make_cross_encoder

FORMATS = ["triplet", "n-tuple", "labeled-pair", "labeled-list", "tevatron", "flagembedding"]


@pytest.mark.slow
def test_everything_at_once(tmp_path, tiny_model, other_model):
    make_dataset(tmp_path / "data")
    make_cross_encoder(tmp_path / "cross", tiny_model)
    config = make_config(tiny_model)
    config["models"]["other"] = {**config["models"]["bert"], "model_name_or_path": str(other_model)}
    config["evaluation"] = {"measures": ["nDCG@10", "RR@10", "Success@5", "Rprec", "Judged@10"]}
    config["mining"] = {
        "search_topk": 5,
        "range_max": 20,
        "num_negatives": 3,
        "cross_encoder": "cross",
        "merge_models": 1,
        "merge_mined_qrels": False,
        "training_formats": FORMATS,
    }
    config["nproc_per_node"] = 2
    workflow = Workflow(tmp_path, config)
    output = workflow.run()
    assert "rescore: " in output
    results = tmp_path / "results"
    assert set(workflow.metrics("tiny", "bert")) >= {
        "ndcg_cut_10",
        "success_5",
        "Rprec",
        "judged_10",
    }

    with open(results / "comparison.tsv", newline="") as file:
        rows = list(csv.DictReader(file, dialect="excel-tab"))
    assert [row["metric"] for row in rows] == ["ndcg_cut_10", "mrr_cut_10"]
    for row in rows:
        for side in ("a", "b"):
            ours = workflow.metrics("tiny", row[f"model_{side}"])[row["metric"]]
            assert float(row[f"mean_{side}"]) == pytest.approx(ours)
    assert (results / "tiny" / "comparison.parquet").exists()

    mined = results / "tiny" / "bert" / "mined"
    pair = json.loads((mined / "query_corpus_pair_0" / "file_pair_metadata.json").read_text())
    assert pair["query_file"] == "data/queries.jsonl"
    assert pair["corpus_realpath"] == str(tmp_path / "data" / "corpus.jsonl")
    funnel = json.loads((mined / "funnel.json").read_text())
    assert funnel["num_kept"] == 33
    assert funnel["num_kept"] + funnel["num_missing"] == 3 * funnel["num_mined_queries"]
    merged = json.loads((results / "tiny" / "mined" / "funnel.json").read_text())
    assert merged["num_models"] == 2
    assert 33 <= merged["num_kept"] <= 66
    assert (results / "tiny" / "mined" / "triplet.parquet").exists()
    assert workflow.planned() == {}

    config["mining"].update(absolute_margin=0.0, relative_margin=0.05)
    assert workflow.planned() == {"mine_negatives": 2, "merge_negatives": 1}
    config["mining"]["range_max"] = 25
    assert workflow.planned() == {"rescore": 2, "mine_negatives": 2, "merge_negatives": 1}
