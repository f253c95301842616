"""The encode step as a command: its record, what it says of cut texts, and what it leaves unloaded."""

import gzip
import heapq
import json
import os
import subprocess
import sys
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import PROJECT, make_dataset
from trove_steps.encoding import _portions

WITHOUT_TORCH = """
import runpy, sys
sys.argv[1:] = {arguments!r}
runpy.run_module("trove_steps.encode_corpus", run_name="__main__")
loaded = {{"torch", "transformers"}} & set(sys.modules)
assert not loaded, loaded
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


def test_nothing_to_encode_loads_nothing(encoded):
    folder, arguments, _ = encoded
    script = WITHOUT_TORCH.format(arguments=arguments)
    said = run([sys.executable, "-c", script], folder)
    assert "20 reused, 0 encoded" in said
    assert "passage_max_len cut" in said, "of reused texts the share is known too"
    assert record_of(folder)["cut"] == record_of(folder, 0)["cut"]


@given(
    speeds=st.lists(st.sampled_from([1.0, 2.0, 5.0]), min_size=2, max_size=4),
    units=st.integers(200, 2000),
    seconds=st.floats(15, 60),
)
def test_ranks_of_unlike_speed_finish_together(speeds, units, seconds):
    """On a clock of our own: `seconds` of work for all ranks, each as fast as its speed says."""
    clock, finished = _share(speeds, units, units / sum(speeds) / seconds)
    assert sum(finished.values()) == units
    assert clock < 1.15 * seconds


class _Counter:
    """The claims of ranks in one process."""

    def __init__(self, world: int):
        self.world, self.value = world, 0

    def claim(self, name: str, amount: int) -> int:
        self.value += amount
        return self.value - amount


class _Units:
    def __init__(self, units: int):
        self.units = units

    def portion(self, first: int, amount: int) -> int:
        assert first >= 0
        assert 0 < amount <= self.units - first
        return amount


def _share(speeds: list[float], units: int, rate: float) -> tuple[float, dict[int, int]]:
    """Return when the last rank finished, and how many units each did, at speed × rate per second."""
    clock, finished = 0.0, dict.fromkeys(range(len(speeds)), 0)
    counter, work = _Counter(len(speeds)), _Units(units)
    ranks = [_portions(work, counter) for _ in speeds]
    waiting = [(0.0, rank) for rank in range(len(speeds))]
    with mock.patch("trove_steps.encoding.time.perf_counter", side_effect=lambda: clock):
        while waiting:
            clock, rank = heapq.heappop(waiting)
            amount = next(ranks[rank], None)
            if amount is not None:
                finished[rank] += amount
                heapq.heappush(waiting, (clock + amount / speeds[rank] / rate, rank))
    return clock, finished
