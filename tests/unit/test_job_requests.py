"""What the jobs of a plan ask a cluster for."""

from types import SimpleNamespace

import pytest

from trove_steps.files import write_json
from trove_steps.jobs import resources
from trove_steps.jobs.requests import SHARES, Limits, Requests, again


def test_each_attempt_gets_twice_as_much_up_to_the_limit():
    assert [again(1000, attempt, None) for attempt in (1, 2, 3)] == [1000, 2000, 4000]
    assert [again(1000, attempt, 3000) for attempt in (1, 2, 3)] == [1000, 2000, 3000]


@pytest.fixture
def asking(tmp_path):
    """A plan of one corpus of 40 MB, with a model of 4 MB that reads 10 tokens of each text."""
    (tmp_path / "corpus.jsonl").write_bytes(b"x" * 40_000_000)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"x" * 4_000_000)
    check = tmp_path / "results" / "d" / ".data" / "key.json"

    def requests(nproc, limits=None):
        config = {"encode": {"nodes": 2, "jobs": 1}, "nproc_per_node": nproc}
        plan = SimpleNamespace(
            config=config, cache=tmp_path, checks_before=lambda encoding: [check]
        )
        encoding = SimpleNamespace(
            links=(tmp_path / "corpus.jsonl",),
            model=SimpleNamespace(folder=tmp_path / "model"),
            encoder="e",
            role="corpus",
            encoder_recipe={"max_len": 10},
        )
        return Requests(plan, limits or Limits()), encoding

    requests.check = check
    return requests


def test_time_of_a_checked_corpus_follows_max_len(asking, monkeypatch):
    monkeypatch.setattr(resources, "LEAST_MINUTES", 0)
    monkeypatch.setattr(resources, "CPU_FLOPS", 1e6)
    requests, encoding = asking(1)
    before = requests.encode_minutes(encoding, 1, 0, 1)
    asking.check.parent.mkdir(parents=True)
    write_json(asking.check.parent.parent / "data.json", {"corpus": {"records": 100_000}})
    write_json(asking.check, {"files": {"data.json": {}}})
    after = requests.encode_minutes(encoding, 1, 0, 1)
    assert before == pytest.approx(10 * after, rel=0.01)  # 10 million tokens, of which 1 is read


def test_gpus_without_a_process_do_nothing(asking, monkeypatch):
    monkeypatch.setattr(resources, "LEAST_MINUTES", 0)
    monkeypatch.setattr(resources, "GPU_FLOPS", 1e6)
    two, encoding = asking(2)
    every, _ = asking("auto")
    minutes = two.encode_minutes(encoding, 1, 8, 1)
    assert minutes == two.encode_minutes(encoding, 1, 2, 1)
    assert minutes == pytest.approx(4 * every.encode_minutes(encoding, 1, 8, 1), abs=4)


def test_requests_stay_within_the_limits(asking):
    requests, encoding = asking(1, Limits(minutes=20, mem_mb=4000))
    assert [requests.encode_minutes(encoding, 1, 0, attempt) for attempt in (1, 2)] == [20, 20]
    assert [requests.encode_memory(encoding, attempt) for attempt in (1, 2)] == [2531, 4000]


def test_the_stricter_limit_counts():
    assert Limits(60, None).within(Limits(30, 8000)) == Limits(30, 8000)
    assert Limits(None, 4000).within(Limits(30, 8000)) == Limits(30, 4000)
    assert Limits().within(Limits()) == Limits()


@pytest.mark.parametrize("minutes", [8, 30, 1440])
def test_steps_of_one_job_stay_within_its_time_together(minutes):
    of = {rule: Limits(minutes, 9).of_shared_job(rule).minutes for rule in SHARES}
    beside = max(of.pop("score"), of.pop("rescore"))
    assert minutes * 3 / 4 < sum(of.values()) + beside <= minutes
    assert Limits(None, 9).of_shared_job("search") == Limits(None, 9)
    assert Limits(60, 9).of_shared_job("encode_corpus").minutes == 60


def test_moving_vectors_takes_their_size(tmp_path, asking):
    requests, corpus = asking(1)
    corpus.step = "encode"
    (tmp_path / "vectors.npy").write_bytes(b"x" * 5_000_000)
    brought = SimpleNamespace(step="import", links=[tmp_path / "vectors.npy"], text_links=[])
    base = resources.BASE_MB + resources.PROCESS_MB
    assert requests.move_memory(brought, "", 1) == base + 5
    # 100,000 documents with 1,024 float32 each
    assert requests.move_memory(corpus, "a.safetensors", 1) == base + 410
    assert requests.move_memory(corpus, "a.safetensors", 2) == 2 * (base + 410)
    assert requests.move_memory(corpus, "a.npy", 1) == base
    assert requests.move_minutes(corpus, 1) == resources.LEAST_MINUTES
    assert requests.least_memory(1) == base
