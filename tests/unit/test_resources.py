"""What a step takes on a cluster."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trove_steps.jobs import resources
from trove_steps.jobs.resources import (
    LEAST_MINUTES,
    check_memory,
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


def record(threads: int | None = 4, **changes) -> dict:
    """What a job did that encoded a gigabyte in an hour, with one process of four CPU threads."""
    base = {"rows": 100, "encoded": 100, "input_bytes": GB, "world_size": 1, "peak_memory_mb": 9000}
    device = {"device": "cpu" if threads else "cuda", "encoder": {"threads": threads}}
    return {**base, **device, "seconds": {"encode": 3600.0, "total": 3700.0}, **changes}


# A few queries: what a process needs at least, and the seconds that it takes to load a model.
TINY = record(
    rows=300,
    encoded=300,
    input_bytes=20_000,
    peak_memory_mb=900,
    seconds={"encode": 5.0, "total": 6.0},
)


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
    assert encode_memory(GB, GB, 1, [{}, record(peak_memory_mb=9, input_bytes=0)]) == plain


def test_what_a_process_needs_anyhow_does_not_grow_with_the_texts():
    base = resources.PROCESS_MB + 2500
    assert encode_memory(9 * GB, GB, 1, [record(peak_memory_mb=base)]) == encode_memory(
        9 * GB, GB, 1, []
    )
    one = encode_memory(9 * GB, GB, 1, [record(peak_memory_mb=30_000)])
    assert (
        encode_memory(9 * GB, GB, 4, [record(peak_memory_mb=30_000)]) < one + 3 * 1.3 * 30_000 + 9
    )


@pytest.mark.parametrize("size", [10**6, 10**8, 10**9, 10**11])
def test_a_few_queries_say_nothing_about_a_corpus(size):
    force, weights = workforce(4, 0), 90 * 10**6
    assert encode_memory(size, weights, 4, [TINY]) == encode_memory(size, weights, 4, [])
    assert encode_minutes(size, weights, force, [TINY]) == encode_minutes(size, weights, force, [])
    short = record(seconds={"encode": 59.0})
    assert encode_minutes(size, weights, force, [short]) == encode_minutes(size, weights, force, [])


@given(
    st.integers(0, 10**12),
    st.integers(1, 10**12),
    st.integers(0, 10**6),
    st.floats(0, 10**6),
    st.integers(1, 16),
)
def test_no_record_makes_a_request_absurd(size, recorded, peak, seconds, processes):
    """What a process took is asked for once for each, and what it grew by twenty times at most."""
    earlier = record(input_bytes=recorded, peak_memory_mb=peak, seconds={"encode": seconds})
    plain = encode_memory(size, GB, processes, [])
    asked = encode_memory(size, GB, processes, [earlier])
    assert plain <= asked <= plain + 1.3 * peak * (processes + 20) + resources.BASE_MB


def test_a_usual_corpus_asks_for_what_a_usual_node_has():
    """300,000 documents and a small model on four threads: a day at most, and 10 GB."""
    size, weights = 500 * 10**6, 90 * 10**6
    assert encode_minutes(size, weights, workforce(4, 0), [], 300_000 * 256) <= 24 * 60
    assert encode_memory(size, weights, 4, [TINY]) < 10_000


def test_minutes_follow_earlier_jobs():
    force = workforce(threads=4, gpus=0)
    # An hour for a gigabyte: three times that for safety.
    assert encode_minutes(GB, GB, force, [record()]) == 180
    assert encode_minutes(2 * GB, GB, force, [record()]) == 360
    # Half of the texts were in the store already.
    assert encode_minutes(GB, GB, force, [record(encoded=50)]) == 360
    # The slowest of them counts, and what says nothing doesn't.
    slow = record(seconds={"encode": 7200.0})
    nothing = [record(encoded=0), {}, record(seconds={}), record(seconds={"total": 9999.0})]
    assert encode_minutes(GB, GB, force, [record(), slow, *nothing]) == 360
    # Long ago it was slow.
    assert encode_minutes(GB, GB, force, [slow, *5 * [record()]]) == 180


@pytest.mark.parametrize(
    ("earlier", "threads", "gpus", "minutes"),
    [
        (record(), 8, 0, 90),
        (record(), 1, 0, 720),
        (record(world_size=4), 4, 0, 720),
        (record(threads=1, world_size=4), 8, 0, 90),
        (record(threads=None), 8, 1, 180),
        (record(threads=None), 8, 4, 45),
        (record(threads=None, world_size=4), 8, 2, 360),
    ],
)
def test_minutes_follow_what_computes(earlier, threads, gpus, minutes):
    """Twice as many threads or GPUs as an earlier job had take half of the time."""
    assert encode_minutes(GB, GB, workforce(threads, gpus), [earlier]) == minutes


def test_a_gpu_says_nothing_about_a_cpu():
    cpu, gpu = workforce(4, 0), workforce(4, 1)
    assert encode_minutes(GB, GB, cpu, [record(threads=None)]) == encode_minutes(GB, GB, cpu, [])
    assert encode_minutes(100 * GB, GB, gpu, [record()]) == encode_minutes(100 * GB, GB, gpu, [])


def test_minutes_without_a_record_follow_the_model_and_what_computes():
    cpu, gpu = workforce(8, 0), workforce(8, 2)
    assert encode_minutes(GB, 4 * GB, cpu, []) > 50 * encode_minutes(GB, 4 * GB, gpu, [])
    assert encode_minutes(100 * GB, GB, gpu, []) > encode_minutes(100 * GB, GB, workforce(8, 4), [])
    assert encode_minutes(10, 10, cpu, []) == LEAST_MINUTES
    assert workforce(1, 0, nodes=2).workers == 2
    # max_len leaves a tenth of the tokens.
    tokens = 10 * GB / resources.BYTES_PER_TOKEN
    whole = encode_minutes(10 * GB, GB, cpu, [])
    assert encode_minutes(10 * GB, GB, cpu, [], tokens / 10) == pytest.approx(whole / 10, abs=1)
    assert encode_minutes(10 * GB, GB, cpu, [], tokens * 10) == whole


def test_searching_and_ranking_grow_with_the_data():
    assert search_minutes(GB, 9 * GB, workforce(8, 0)) > search_minutes(GB, GB, workforce(8, 0))
    assert search_minutes(GB, GB, workforce(8, 1)) < search_minutes(GB, GB, workforce(8, 0))
    assert rank_memory(GB, GB, 1000) > rank_memory(GB, GB, 10)


def test_memory_of_a_search_is_bounded():
    """10 GB of text are 25 to 100 million documents, whose vectors would take 100 GB."""
    assert search_memory(10 * GB, 1) < 6000
    assert search_memory(10 * GB, 2) > search_memory(10 * GB, 1) > 2000
    assert search_memory(GB, 1, block=40_960) > search_memory(GB, 1) + 3 * 160


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


def test_every_figure_is_a_whole_number():
    """SLURM takes no fractions."""
    figures = [
        encode_memory(123, 45, 2, [record()]),
        encode_minutes(10**11, 10**9, workforce(3, 0), []),
        search_memory(123, 2),
        search_minutes(10**8, 10**11, workforce(3, 0)),
        rank_memory(123, 45, 7),
        check_memory(123, 45, 7),
    ]
    assert all(isinstance(figure, int) and figure > 0 for figure in figures)
