"""What tests of kills and of damage ask of a workflow: its shards, vectors, records and results."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import WORDS, make_dataset, write_jsonl
from tests.integration.conftest import Workflow, make_config
from trove_steps.embeddings.store import encoders
from trove_steps.embeddings.vectors import Vectors
from trove_steps.encoding.work import CHARACTERS_PER_TOKEN, UNIT_CHARACTERS


def long_workflow(folder: Path, model: Path, processes: int, documents: int = 4000) -> Workflow:
    """A corpus of some dozens of portions."""
    make_dataset(folder / "data")
    chance = random.Random(7)
    rows = [
        {"_id": f"d{n}", "title": "", "text": " ".join(chance.choices(WORDS, k=130))}
        for n in range(documents)
    ]
    assert documents * 64 * CHARACTERS_PER_TOKEN > documents / 100 * UNIT_CHARACTERS
    write_jsonl(folder / "data" / "corpus.jsonl", rows)
    config = make_config(model)
    config["models"]["bert"]["passage_max_len"] = 64
    config["nproc_per_node"] = processes
    return Workflow(folder, config)


def count_shards(workflow: Workflow) -> int:
    return len(list(workflow.folder.glob("cache/embeddings/*/shards/*.arrow")))


def unlock(workflow: Workflow) -> None:
    locks = workflow.folder / ".snakemake" / "locks"
    if locks.is_dir() and any(locks.iterdir()):
        workflow.run("--unlock")


def encoded_corpus(workflow: Workflow) -> Vectors:
    (manifest,) = workflow.folder.glob("cache/embeddings/*/corpus-*.json")
    return Vectors(manifest)


def records(workflow: Workflow, role: str = "corpus") -> list[dict]:
    """Return what the finished encode jobs of a role wrote down, oldest first."""
    (path,) = (p.parent for p in workflow.folder.glob(f"cache/embeddings/*/{role}-*.rows.arrow"))
    lines = (path / "records.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [record for record in found if record["manifest"].startswith(role)]


def assert_same_vectors(first: Vectors, second: Vectors) -> None:
    assert first.ids.to_pylist() == second.ids.to_pylist()
    everything = np.arange(len(first))
    np.testing.assert_array_equal(first.take(everything), second.take(everything))


def artefacts(workflow: Workflow, *patterns: str) -> dict[str, bytes]:
    """Return the bytes of the rankings, metrics, runs and mined negatives, by path."""
    folder = workflow.folder
    patterns = patterns or (
        "cache/searches/*/top*.*",
        "results/*/*/metrics.json",
        "results/*/*/run.trec.gz",
        "results/*/*/mined/*",
    )
    paths = {pattern: list(folder.glob(pattern)) for pattern in patterns}
    assert all(paths.values()), paths
    return {str(p.relative_to(folder)): p.read_bytes() for found in paths.values() for p in found}


def assert_clear(output: str, *words: str) -> None:
    """Check that what failed was explained, and not by a traceback."""
    assert "Traceback" not in output, output
    for word in words:
        assert word in output, output


def rows_known(workflow: Workflow) -> int:
    """Return how many distinct rows the stores hold."""
    return sum(
        len({key.tobytes() for shards in store.scan() for shard in shards for key in shard.keys})
        for store in encoders(workflow.folder / "cache")
    )


def cases(functions, quick) -> list:
    """Return parameters of a test, those that are not `quick` marked as slow."""
    slow = pytest.mark.slow
    return [
        pytest.param(function, id=function.__name__, marks=() if function in quick else slow)
        for function in functions
    ]
