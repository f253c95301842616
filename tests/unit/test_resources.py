"""What jobs ask a cluster for."""

import gzip
import json

import pytest

from trove_steps import resources
from trove_steps.resources import (
    LEAST_MINUTES,
    again,
    check_memory,
    cpu_threads,
    encode_memory,
    encode_minutes,
    rank_memory,
    read_records,
    search_memory,
    search_minutes,
    text_bytes,
    weight_bytes,
    workforce,
)

GB = 10**9


def record(**changes) -> dict:
    base = {"rows": 100, "encoded": 100, "input_bytes": GB, "world_size": 1, "peak_memory_mb": 9000}
    return {**base, "seconds": {"total": 3600.0}, **changes}


def test_each_attempt_gets_twice_as_much_up_to_the_limit():
    assert [again(1000, attempt, None) for attempt in (1, 2, 3)] == [1000, 2000, 4000]
    assert [again(1000, attempt, 3000) for attempt in (1, 2, 3)] == [1000, 2000, 3000]


@pytest.mark.parametrize("grow", ["texts", "weights", "processes"])
def test_encode_memory_grows_with(grow):
    small = {"texts": GB, "weights": GB, "processes": 1, "records": []}
    assert encode_memory(**{**small, grow: 4 * small[grow]}) > encode_memory(**small)


def test_encode_memory_holds_the_model_and_what_is_kept_of_each_text():
    assert encode_memory(2 * GB, 14 * GB, 1, []) > 14_000 + 1_000
    # 20 million documents of 1 kB, 73 bytes each as measured; the texts are in files.
    assert 73 * 20 < encode_memory(20 * GB, 0, 1, []) - encode_memory(0, 0, 1, []) < 20_000


def test_a_check_keeps_some_bytes_of_a_record_not_its_text():
    # 54 bytes for each of 20 million documents of 1 kB, as measured.
    assert 54 * 20 < check_memory(20 * GB, 0, 0) - check_memory(0, 0, 0) < 6_000
    assert check_memory(0, GB, 0) > check_memory(GB, 0, 0)
    assert check_memory(0, 0, GB) > 5_000


def test_an_earlier_peak_raises_the_estimate_and_never_lowers_it():
    plain = encode_memory(GB, GB, 1, [])
    assert encode_memory(GB, GB, 1, [record(peak_memory_mb=1)]) == plain
    high = encode_memory(GB, GB, 1, [record(peak_memory_mb=50_000)])
    assert high > 50_000
    assert encode_memory(3 * GB, GB, 1, [record(peak_memory_mb=50_000)]) > 2 * high
    assert encode_memory(GB, GB, 1, [{}, {"peak_memory_mb": 9, "input_bytes": 0}]) == plain


def test_minutes_follow_earlier_jobs():
    force = workforce(threads=4, gpus=0)
    # An hour for a gigabyte: three times that for safety.
    assert encode_minutes(GB, GB, force, [record()]) == 180
    assert encode_minutes(2 * GB, GB, force, [record()]) == 360
    assert encode_minutes(GB, GB, force, [record(world_size=4)]) == 720
    # Half of the texts were in the store already.
    assert encode_minutes(GB, GB, force, [record(encoded=50)]) == 360
    # The slowest of them counts, and what says nothing doesn't.
    slow = record(seconds={"total": 7200.0})
    nothing = [record(encoded=0), {}, record(seconds={})]
    assert encode_minutes(GB, GB, force, [record(), slow, *nothing]) == 360


def test_minutes_without_a_record_follow_the_model_and_what_computes():
    cpu, gpu = workforce(8, 0), workforce(8, 2)
    assert encode_minutes(GB, 4 * GB, cpu, []) > 100 * encode_minutes(GB, 4 * GB, gpu, [])
    assert encode_minutes(100 * GB, GB, gpu, []) > encode_minutes(100 * GB, GB, workforce(8, 4), [])
    assert encode_minutes(10, 10, cpu, []) == LEAST_MINUTES
    assert workforce(1, 0, nodes=2, jobs=3).workers == 6


def test_searching_and_ranking_grow_with_the_data():
    assert search_memory(GB, GB, 1000, 1) > search_memory(GB, GB, 10, 1)
    assert search_memory(GB, 9 * GB, 10, 1) > search_memory(GB, GB, 10, 1)
    assert search_minutes(GB, 9 * GB, workforce(8, 0)) > search_minutes(GB, GB, workforce(8, 0))
    assert search_minutes(GB, GB, workforce(8, 1)) < search_minutes(GB, GB, workforce(8, 0))
    assert rank_memory(GB, GB, 1000) > rank_memory(GB, GB, 10)


@pytest.mark.parametrize(
    ("asked", "gpus"),
    [
        ({}, 0),
        ({"gres": "gpu:4"}, 4),
        ({"gres": "gpu:a100:2"}, 2),
        ({"gres": "gpu"}, 1),
        ({"gres": "lustre:1"}, 0),
        ({"gpu": 2}, 2),
        ({"gpu": "3"}, 3),
        ({"gpu": "attempt"}, 1),
        ({"pod_gpus": 1, "mem_mb": 9}, 1),
    ],
)
def test_gpus_that_a_profile_asks_for(asked, gpus):
    assert resources.asked_gpus(asked) == gpus


def test_packed_texts_count_as_unpacked(tmp_path):
    (tmp_path / "a.jsonl").write_text("x" * 1000)
    with gzip.open(tmp_path / "b.jsonl.gz", "wb") as file:
        file.write(b"x" * 1000)
    packed = (tmp_path / "b.jsonl.gz").stat().st_size
    (tmp_path / "link").symlink_to(tmp_path / "b.jsonl.gz")
    assert text_bytes([tmp_path / "a.jsonl", tmp_path / "link"]) == 1000 + 4 * packed
    assert text_bytes([tmp_path / "gone"]) == 0


def test_weights_are_counted_once(tmp_path):
    (tmp_path / "model-1.safetensors").write_bytes(b"x" * 10)
    (tmp_path / "model-2.safetensors").write_bytes(b"x" * 10)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x" * 20)
    assert weight_bytes(tmp_path) == 20
    assert weight_bytes(tmp_path / "gone") == 0


def test_records_of_killed_jobs_are_left_out(tmp_path):
    assert read_records(tmp_path) == []
    (tmp_path / "records.jsonl").write_text(json.dumps(record()) + '\n{"rows": 1\n[]\n')
    assert read_records(tmp_path) == [record()]


@pytest.mark.parametrize(
    ("cores", "processes", "gpus", "threads"),
    [
        (8, 1, 0, 8),
        (8, 4, 0, 8),
        (16, 1, 4, 4),
        (16, 4, 4, 16),
        (16, 9, 4, 16),
        (2, 1, 8, 1),
        (None, 1, 0, 1),
    ],
)
def test_threads_on_this_machine_stay_within_the_cores(cores, processes, gpus, threads):
    assert cpu_threads(cores, processes, gpus) == threads
    if cores and gpus and cores >= gpus:
        at_once = gpus // min(processes, gpus)
        assert at_once * threads <= cores


def test_every_figure_is_a_whole_number():
    """SLURM takes no fractions."""
    figures = [
        encode_memory(123, 45, 2, [record()]),
        encode_minutes(10**11, 10**9, workforce(3, 0), []),
        search_memory(123, 45, 7, 2),
        search_minutes(10**8, 10**11, workforce(3, 0)),
        rank_memory(123, 45, 7),
        check_memory(123, 45, 7),
    ]
    assert all(isinstance(figure, int) and figure > 0 for figure in figures)
    assert resources.again(figures[0], 2, None) == 2 * figures[0]
