"""The texts of an encode job: how ranks share them, and portions that take little memory."""

import heapq
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trove_steps.encoding import work as work_module
from trove_steps.encoding.portions import claimed_rows
from trove_steps.encoding.work import TEXT_BYTES, Portion, Work, write_work

VECTOR_BYTES = 16


class Counter:
    """The claims of ranks in one process."""

    def __init__(self, world: int):
        self.world, self.value = world, 0

    def claim(self, name: str, amount: int) -> int:
        self.value += amount
        return self.value - amount


def made(folder: Path, texts: list[str]) -> Work:
    keys = np.arange(16 * len(texts)).astype(np.uint8).reshape(-1, 16)
    path = folder / "work.arrow"
    half = len(texts) // 2
    ids = [f"d{number}" for number in range(len(texts))]
    parts = [
        Portion(ids[here], keys[here], texts[here]) for here in (slice(half), slice(half, None))
    ]
    write_work(path, iter(parts))
    return Work(path, max_len=4)


@given(
    lengths=st.lists(st.integers(0, 5000), min_size=1, max_size=80),
    most=st.integers(1, 20_000),
    unit=st.integers(1, 500),
)
def test_every_text_is_in_one_portion_that_fits(lengths, most, unit):
    texts = ["x" * length for length in lengths]
    limits = mock.patch.multiple(work_module, PORTION_BYTES=most, UNIT_CHARACTERS=unit)
    with tempfile.TemporaryDirectory() as folder, limits:
        work = made(Path(folder), texts)
        portions = list(work.portions(claimed_rows(work, Counter(1)), VECTOR_BYTES))
    found = {
        name: text for part in portions for name, text in zip(part.ids, part.texts, strict=True)
    }
    assert sum(map(len, portions)) == len(texts)
    assert found == {f"d{number}": text for number, text in enumerate(texts)}
    assert sum(part.characters for part in portions) == sum(min(max(n, 1), 16) for n in lengths)
    for part in portions:
        sizes = [len(text) + VECTOR_BYTES + TEXT_BYTES for text in part.texts]
        assert len(part) == 1 or sum(sizes[1:]) <= most
    longest_first = [len(text) for part in portions for text in part.texts]
    assert longest_first == sorted(lengths, reverse=True)


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


class Units:
    def __init__(self, units: int):
        self.units = units

    def rows(self, first: int, amount: int) -> int:
        assert first >= 0
        assert 0 < amount <= self.units - first
        return amount


def _share(speeds: list[float], units: int, rate: float) -> tuple[float, dict[int, int]]:
    """Return when the last rank finished, and how many units each did, at speed × rate per second."""
    clock, finished = 0.0, dict.fromkeys(range(len(speeds)), 0)
    counter, work = Counter(len(speeds)), Units(units)
    ranks = [claimed_rows(work, counter) for _ in speeds]
    waiting = [(0.0, rank) for rank in range(len(speeds))]
    with mock.patch("trove_steps.encoding.portions.time.perf_counter", side_effect=lambda: clock):
        while waiting:
            clock, rank = heapq.heappop(waiting)
            amount = next(ranks[rank], None)
            if amount is not None:
                finished[rank] += amount
                heapq.heappush(waiting, (clock + amount / speeds[rank] / rate, rank))
    return clock, finished
