"""Steps side by side on one machine: GPUs of their own, and jobs that share a corpus."""

import collections
import itertools

import pytest

from tests.conftest import PROJECT, make_dataset
from tests.integration.conftest import Workflow

NOTING_CLASS = """
import atexit, os, time
import torch
from trove_steps.encoder import Tokens

began = time.time()


def note():
    with open("seen.txt", "a") as file:
        file.write(f"{os.environ['CUDA_VISIBLE_DEVICES']} {began} {time.time()}\\n")


class Letters:
    pad_id = 0

    def __init__(self, folder, settings, max_len, device):
        self.max_len = max_len
        atexit.register(note)
        time.sleep(1)

    def tokenize(self, texts):
        return Tokens([[1 + ord(c) % 64 for c in text][: self.max_len] for text in texts])

    def forward(self, ids, mask):
        return (torch.nn.functional.one_hot(ids, 65) * mask.unsqueeze(-1)).sum(1).float()
"""


@pytest.fixture
def letters(workflow, monkeypatch) -> Workflow:
    (workflow.folder / "letters.py").write_text(NOTING_CLASS)
    monkeypatch.setenv("PYTHONPATH", f"{workflow.folder}:{PROJECT}")
    model = workflow.config["models"]["bert"]["model_name_or_path"]
    workflow.config["models"] = {
        "bert": {"model_name_or_path": model, "encoder_class": "letters:Letters"}
    }
    return workflow


@pytest.fixture
def two_models(letters: Workflow, monkeypatch) -> Workflow:
    """Four encode steps of one process each; there is no GPU, so they compute on the CPU."""
    monkeypatch.setenv("TMPDIR", str(letters.folder))
    letters.config["nproc_per_node"] = 1
    bert = letters.config["models"]["bert"]
    letters.config["models"]["cut"] = {**bert, "passage_max_len": 8, "query_max_len": 8}
    return letters


def spans(workflow: Workflow) -> dict[str, list[tuple[float, float]]]:
    """Return GPU → when each of its steps began and ended, in order."""
    found = collections.defaultdict(list)
    for line in (workflow.folder / "seen.txt").read_text().splitlines():
        device, began, ended = line.split()
        found[device].append((float(began), float(ended)))
    return {device: sorted(taken) for device, taken in found.items()}


def overlaps(taken: list[tuple[float, float]]) -> int:
    return sum(began < ended for (_, ended), (began, _) in itertools.pairwise(taken))


def test_no_two_steps_share_a_gpu(two_models: Workflow, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    output = two_models.run("encode", "--cores", "2", "--verbose")
    assert output.count("gpu=1") == 4
    assert "is shared with another step" not in output
    seen = spans(two_models)
    assert set(seen) == {"0", "1"}
    assert not any(map(overlaps, seen.values()))


def test_steps_share_a_gpu_where_snakemake_is_told_so(two_models: Workflow, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    two_models.run("encode", "--cores", "2", "--resources", "gpu=2")
    seen = spans(two_models)
    assert set(seen) == {"0"}
    assert overlaps(seen["0"]) > 0
    logs = [path.read_text() for path in (two_models.folder / "logs").rglob("*.log")]
    assert any("warning: GPU 0 is shared with another step" in log for log in logs)


def test_a_step_takes_all_cores_where_there_is_no_gpu(letters: Workflow, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    output = letters.run("encode", "--cores", "2", "--dry-run")
    assert output.count("threads: 2") == 2
    assert "gpu=1" not in output


def test_jobs_that_share_a_corpus_give_the_same_results(workflow: Workflow, tmp_path):
    make_dataset(workflow.folder / "data", documents=300)
    workflow.config["encode"] = {"jobs": 3}
    output = workflow.run()
    assert "encode_help" in output
    assert workflow.planned() == {}
    (records,) = workflow.folder.glob("cache/embeddings/*/corpus-*.helped")
    assert sorted(path.name for path in records.iterdir()) == ["1.json", "2.json"]
    shared = {path: path.read_bytes() for path in workflow.folder.glob("cache/searches/*/*.arrow")}
    other = Workflow(tmp_path / "other", {**workflow.config, "encode": {}})
    other.folder.mkdir()
    (other.folder / "data").symlink_to(workflow.folder / "data")
    other.run()
    for path, content in shared.items():
        assert (other.folder / path.relative_to(workflow.folder)).read_bytes() == content
    assert workflow.metrics("tiny", "bert") == other.metrics("tiny", "bert")
    assert not list(workflow.folder.glob("cache/embeddings/*/*.claims"))
