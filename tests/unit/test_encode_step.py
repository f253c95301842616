"""The encode step as a command: its record, what it says of cut texts, and what it leaves unloaded."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from importlib import metadata

import pytest

from tests.conftest import PROJECT, make_dataset
from trove_steps.encoding.record import Record
from trove_steps.progress import FOLDER
from trove_steps.reporting.cost import encoding

WITHOUT_TORCH = """
import atexit, os, runpy, sys

def check():
    loaded = {{"torch", "transformers"}} & set(sys.modules)
    if loaded:
        print("loaded:", *loaded, file=sys.stderr, flush=True)
        os._exit(1)

atexit.register(check)
sys.argv[1:] = {arguments!r}
runpy.run_module("trove_steps.encode_corpus", run_name="__main__")
"""
FORMATS = 'def passage(text, title, dataset):\n    return f"{dataset} {title} {text}".lower()\n'


@pytest.fixture(scope="module")
def encoded(tiny_model, tmp_path_factory):
    """A folder in which a corpus was encoded, the arguments, and what the step said."""
    folder = tmp_path_factory.mktemp("step")
    make_dataset(folder / "data", documents=20)
    (folder / "step_formats.py").write_text(FORMATS)
    arguments = [
        "--corpus-path", "data/corpus.jsonl", "--model-name-or-path", str(tiny_model),
        "--pooling", "mean", "--passage-max-len", "24", "--passage-format",
        "step_formats:passage", "--dataset-name", "wing", "--tokens-per-batch", "100",
        "--per-device-eval-batch-size", "3",
    ]  # fmt: skip
    step = [sys.executable, "-m", "trove_steps.encode_corpus", *arguments]
    return folder, arguments, run(step, folder)


def run(command, folder) -> str:
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def record_of(folder, last: int = -1) -> dict:
    (path,) = folder.glob("cache/embeddings/*/records.jsonl")
    return json.loads(path.read_text().splitlines()[last])


def test_record_counts_the_bytes_of_unpacked_files(tiny_model, tmp_path):
    """So that its speed is comparable with that of a job on plain files."""
    make_dataset(tmp_path / "data", documents=20)
    packed = tmp_path / "data" / "corpus.jsonl.gz"
    packed.write_bytes(gzip.compress((tmp_path / "data" / "corpus.jsonl").read_bytes()))
    options = ["--corpus-path", str(packed), "--model-name-or-path", str(tiny_model)]
    run([sys.executable, "-m", "trove_steps.encode_corpus", *options, "--pooling=mean"], tmp_path)
    assert record_of(tmp_path)["input_bytes"] == 4 * packed.stat().st_size


def test_record_says_how_and_what(encoded):
    folder, _, said = encoded
    record = record_of(folder, 0)
    assert record["encoder"]["is_pure"] is True
    assert record["encoder"]["tokens_per_batch"] == 100
    assert record["encoder"]["attention"] == "sdpa"
    assert record["encoder"]["settings"]["passage_max_len"] == {"value": 24, "source": "config"}
    share = record["cut"]["texts_cut"] / 20
    assert record["cut"]["texts"] == 20
    assert record["cut"]["texts_cut"] == record["truncated_texts"] > 1
    assert f"passage_max_len cut {share:.1%} of the texts" in said


def test_settings_are_beside_the_vectors_and_in_the_log(encoded):
    folder, _, _ = encoded
    (path,) = folder.glob("cache/embeddings/*/settings.json")
    settings = json.loads(path.read_text())
    assert settings["settings"] == record_of(folder, 0)["encoder"]["settings"]
    assert settings["settings"]["pooling"] == {"value": "mean", "source": "config"}
    assert settings["unused_prompts"] == []


def test_record_names_the_packages(encoded):
    installed = {name: metadata.version(name) for name in ("torch", "transformers", "numpy")}
    assert record_of(encoded[0], 0)["versions"].items() >= installed.items()


@pytest.mark.parametrize(
    ("distinct", "reused", "said"),
    [(20, 0, "20 texts, 0 reused, 20 enc"), (19, 1, "20 texts, 1 reused (1 repeated), 19 enc")],
)
def test_the_line_tells_repeated_texts(distinct, reused, said):
    """On an empty cache nothing else is reused."""
    record = Record(
        "corpus", "bert", rows=20, distinct=distinct, reused=reused, encoded=20 - reused,
        tokens_per_second=1.0, padding_share=0.0, seconds={"total": 1.0},
    )  # fmt: skip
    assert said in record.line()


def test_jobs_that_share_a_corpus_are_counted_together(encoded, tmp_path):
    """A helper leaves a line too; what it encoded was not reused."""
    folder, arguments, _ = encoded
    (path,) = folder.glob("cache/embeddings/*/corpus-*.json")
    manifest = tmp_path / path.relative_to(folder)
    step = [
        sys.executable, "-m", "trove_steps.encode_corpus", *arguments, "--jobs", "2",
        "--encoding-cache-dir", str(tmp_path / "cache"), "--manifest", str(manifest),
    ]  # fmt: skip
    run([*step, "--helper-record", str(tmp_path / "helped.json")], folder)
    assert "20 texts, 20 reused, 0 encoded" in run(step, folder)
    helper, main = map(json.loads, (manifest.parent / "records.jsonl").read_text().splitlines())
    assert helper["round"] == main["round"]
    assert (helper["encoded"], helper["reused"]) == (20, 0)
    assert (main["encoded"], main["reused"]) == (0, 20)
    told = encoding(manifest)
    assert (told["rows"], told["encoded"], told["reused"], told["jobs"]) == (20, 20, 0, 2)
    assert told["rate"] == pytest.approx(helper["tokens_per_second"], rel=0.01)
    assert told["versions"] == helper["versions"]


def test_nothing_to_encode_loads_nothing(encoded):
    folder, arguments, _ = encoded
    script = WITHOUT_TORCH.format(arguments=arguments)
    (path,) = folder.glob("cache/embeddings/*/settings.json")
    path.unlink()
    said = run([sys.executable, "-c", script], folder)
    assert path.exists(), "the settings of vectors that were made before are told all the same"
    assert "20 reused, 0 encoded" in said
    assert "passage_max_len cut" in said, "of reused texts the share is known too"
    assert record_of(folder)["cut"] == record_of(folder, 0)["cut"]


def test_the_bar_of_two_ranks_and_of_one_of_two_jobs_ends_at_the_whole(
    encoded, tiny_model, tmp_path, monkeypatch
):
    """Both ranks' texts are counted, in characters that max_len lets through."""
    _, arguments, _ = encoded
    make_dataset(tmp_path / "data", documents=300)
    (tmp_path / "step_formats.py").write_text(FORMATS)
    monkeypatch.setenv(FOLDER, str(tmp_path / "told"))
    launcher = ["trove_steps.torchrun", "--nproc-per-node", "2", "-m", "trove_steps.encode_corpus"]
    assert run([sys.executable, "-m", *launcher, *arguments], tmp_path) == ""
    (manifest,) = tmp_path.glob("cache/embeddings/*/corpus-*.json")
    shutil.rmtree(tmp_path / "cache")
    jobs = ["--jobs", "2", "--manifest", str(manifest.relative_to(tmp_path))]
    run([sys.executable, "-m", "trove_steps.encode_corpus", *arguments, *jobs], tmp_path)

    lines = (tmp_path / "data/corpus.jsonl").read_text().splitlines()
    texts = [passage(**json.loads(line)) for line in lines]
    states = [json.loads(path.read_text()) for path in (tmp_path / "told").glob("*.json")]
    bars = [state for state in states if "line" not in state]
    assert len(bars) == 2, "one for each job, whatever its ranks"
    for bar in bars:
        assert bar["unit"] == "characters"
        assert bar["done"] == bar["total"] == sum(min(len(text), 4 * 24) for text in texts)


def passage(_id, title, text) -> str:
    return f"wing {title} {text}".lower()


TROUBLED = """
import os, torch
from trove_steps.encoder import Tokens
class Troubled:
    pad_id = 0
    def __init__(self, folder, settings, max_len, device):
        self.max_len, self.second = max_len, os.environ["RANK"] == "1"
    def tokenize(self, texts):
        return Tokens([[1 + len(word) for word in text.split()][: self.max_len] for text in texts])
    def forward(self, ids, mask):
        if self.second and ids.numel() > 100:
            raise torch.OutOfMemoryError("no room")
        vectors = (ids * mask).float()[:, :1].expand(-1, 8) + torch.arange(8)
        return vectors + self.second * vectors.mean(0)
"""


def test_what_troubles_one_rank_is_told(tiny_model, tmp_path):
    make_dataset(tmp_path / "data", documents=200)
    (tmp_path / "troubled.py").write_text(TROUBLED)
    said = run(
        [
            *(sys.executable, "-m", "trove_steps.torchrun", "--nproc-per-node", "2"),
            *("-m", "trove_steps.encode_corpus", "--corpus-path", "data/corpus.jsonl"),
            *("--model-name-or-path", str(tiny_model), "--encoder-class", "troubled:Troubled"),
            *("--passage-max-len", "24"),
        ],
        tmp_path,
    )
    record = record_of(tmp_path)
    first, second = record["ranks"]
    assert (first["is_pure"], second["is_pure"]) == (True, False)
    assert (first["halvings"], second["halvings"]) == (0, 2)
    assert (first["tokens_per_batch"], second["tokens_per_batch"]) == (256, 64)
    assert first["device"] == second["device"] == record["encoder"]["device"]
    assert first["texts"] + second["texts"] == record["encoded"]
    assert "does not hold" in said
    assert "· out of memory on 1 of 2 devices: went on with 64 tokens per batch" in said
    assert "warning: the last bits of" in said
    assert "unlike devices" not in said


def test_unlike_devices_are_told():
    ranks = [{"device": name, "is_pure": True, "halvings": 0} for name in ("H100", "A100", "A100")]
    (warning,) = Record("corpus", "m", ranks=ranks).warnings()
    assert "unlike devices (A100, H100)" in warning
    assert Record("corpus", "m", ranks=ranks[1:]).warnings() == []
