"""Steps side by side on one machine: GPUs of their own, and jobs that share a corpus."""

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


def test_no_two_steps_share_a_gpu(letters: Workflow, monkeypatch):
    monkeypatch.setenv(
        "CUDA_VISIBLE_DEVICES", "0,1"
    )  # there is none, so the steps compute on the CPU
    monkeypatch.setenv("TMPDIR", str(letters.folder))
    letters.config["nproc_per_node"] = 1
    bert = letters.config["models"]["bert"]
    letters.config["models"]["cut"] = {**bert, "passage_max_len": 8, "query_max_len": 8}
    output = letters.run("encode", "--cores", "2", "--verbose")
    assert output.count("gpu=1") == 4
    assert "is shared with another step" not in output
    seen = [line.split() for line in (letters.folder / "seen.txt").read_text().splitlines()]
    spans = {device: [] for device in "01"}
    for device, began, ended in seen:
        spans[device].append((float(began), float(ended)))
    assert all(spans.values())  # both were used
    for taken in map(sorted, spans.values()):
        for (_, ended), (began, _) in itertools.pairwise(taken):
            assert ended <= began


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
