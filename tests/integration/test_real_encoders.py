"""The whole workflow with further real encoders on Cranfield, against sentence-transformers' own figures."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from tests.integration.conftest import Workflow


def paraphrase_minilm(shared_data: Path) -> Path:
    return shared_data / "models" / "paraphrase-MiniLM-L3-v2"


def packaged(package: str, folder: str):
    """Return a function that finds the model in an installed package."""

    def find(shared_data: Path) -> Path:
        spec = importlib.util.find_spec(package)
        if spec is None:
            pytest.skip(f"the package {package} is not installed")
        return Path(spec.origin).parent / folder

    return find


@pytest.mark.slow
@pytest.mark.timeout(3200)
@pytest.mark.parametrize(
    "find",
    [
        pytest.param(paraphrase_minilm, id="paraphrase-MiniLM-L3-v2"),
        pytest.param(packaged("sre_embedding_model", "model_weights"), id="sre-embedding-model"),
    ],
)
def test_figures_are_those_of_sentence_transformers(tmp_path, shared_data, find):
    """Pooling, normalization, length and similarity are left to the model's own files."""
    folder, cranfield = find(shared_data), shared_data / "cranfield"
    workflow = Workflow(
        tmp_path,
        {
            "datasets": {
                "cranfield": {
                    "corpus_path": str(cranfield / "corpus.jsonl"),
                    "query_path": str(cranfield / "queries.jsonl"),
                    "qrel_path": str(cranfield / "qrels" / "test.tsv"),
                }
            },
            "models": {"real": {"model_name_or_path": str(folder)}},
            "evaluation": {"ir_metrics_k_values": [10, 100]},
            "report": False,
        },
    )
    workflow.run(timeout=3000)
    metrics = workflow.metrics("cranfield", "real")
    assert metrics["num_judged"] == 225
    expected = reference(folder, cranfield)
    print(f"ndcg_cut_10 {metrics['ndcg_cut_10']:.5f}, sentence-transformers {expected}")
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, abs=0.0005), name


def reference(folder: Path, collection: Path) -> dict[str, float]:
    """Return what sentence-transformers and ir_measures make of a model and a collection."""
    import ir_measures
    from ir_measures import R, nDCG
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    documents, queries = (
        [json.loads(line) for line in (collection / name).read_text("utf-8").splitlines()]
        for name in ("corpus.jsonl", "queries.jsonl")
    )
    texts = [f"{row.get('title') or ''} {row['text']}".strip() for row in documents]
    scores = model.similarity(
        model.encode_query([row["text"] for row in queries]), model.encode_document(texts)
    ).numpy()
    run = [
        ir_measures.ScoredDoc(query["_id"], documents[number]["_id"], float(row[number]))
        for query, row in zip(queries, scores, strict=True)
        for number in np.argsort(-row)[:100]
    ]
    lines = (collection / "qrels" / "test.tsv").read_text("utf-8").splitlines()[1:]
    judged = (line.split("\t") for line in lines)
    qrels = [ir_measures.Qrel(query, document, int(score)) for query, document, score in judged]
    found = ir_measures.calc_aggregate([nDCG @ 10, R @ 100], qrels, run)
    return {"ndcg_cut_10": found[nDCG @ 10], "recall_100": found[R @ 100]}
