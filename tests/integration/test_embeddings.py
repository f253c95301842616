"""What becomes of vectors in the real workflow: variants, published files, imported and dropped vectors."""

import json

import numpy as np
import pytest

from trove_steps import load_embeddings
from trove_steps.cli import main
from trove_steps.embeddings.store import Store


@pytest.mark.slow
def test_published_dropped_and_imported(workflow, monkeypatch, capsys):
    monkeypatch.chdir(workflow.folder)
    data = workflow.config["datasets"]["tiny"]
    data["corpus_cache"] = "out/{dataset}-{model}.npy"
    workflow.config["models"]["bert"] |= {"truncate_dim": [8], "quantization": ["binary"]}
    workflow.config["keep_embeddings"] = False
    workflow.run("--cores", "2")
    expected = workflow.metrics("tiny", "bert")
    summary = (workflow.folder / "results/summary.tsv").read_text().splitlines()
    place = summary[0].split("\t").index("bytes_per_vector")
    assert [line.split("\t")[place] for line in summary[1:]] == ["128", "32", "4"]

    # The vectors of the corpus are gone, those of the queries are not, and nothing is to be done.
    left = {
        p.name.split("-")[0]: p.parent for p in workflow.folder.glob("cache/embeddings/*/*-*.json")
    }
    assert Store(workflow.folder / "cache", left["corpus"].name).shard_names() == []
    assert Store(workflow.folder / "cache", left["queries"].name).shard_names() != []
    assert workflow.planned() == {}
    assert main(["cache", "verify", "--configfile", "my.yaml"]) == 0

    # Metrics need the ids only; a deeper search needs the vectors again.
    workflow.config["evaluation"]["ir_metrics_k_values"] = [1, 5]
    assert workflow.planned() == {"score": 3, "compare": 1}
    workflow.config["evaluation"]["ir_metrics_k_values"] = [1, 5, 10, 60]
    assert workflow.planned()["encode_corpus"] == 1

    # What was published can be searched as vectors from elsewhere, to the same result.
    vectors = np.load(workflow.folder / "out/tiny-bert.npy")
    assert vectors.shape == (60, 32)
    del data["corpus_cache"], workflow.config["keep_embeddings"]
    data["corpus_embeddings"] = ["out/tiny-bert.npy", "out/tiny-bert.npy.ids.txt"]
    workflow.config["evaluation"]["ir_metrics_k_values"] = [1, 5, 10]
    workflow.config["models"]["bert"]["truncate_dim"] = 32
    del workflow.config["models"]["bert"]["quantization"], workflow.config["mining"]
    jobs = workflow.planned()
    assert "encode_corpus" not in jobs
    workflow.run("--cores", "2")
    found = workflow.metrics("tiny", "bert")
    assert found == pytest.approx(expected)
    (manifest,) = workflow.folder.glob("cache/embeddings/imported-*/corpus-*.json")
    ids, loaded = load_embeddings(manifest, workflow.folder / "again.npy")
    np.testing.assert_array_equal(loaded, vectors)
    assert isinstance(loaded, np.memmap)
    assert ids == [f"d{n}" for n in range(60)]
    capsys.readouterr()
    assert main(["plan", "--json", "--configfile", "my.yaml"]) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert cell["steps"] == []
