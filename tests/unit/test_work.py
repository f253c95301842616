"""The texts of an encode job: each is in one portion, and no portion takes much memory."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trove_steps.encoding import work as work_module
from trove_steps.encoding.portions import claimed_rows
from trove_steps.encoding.work import TEXT_BYTES, Portion, Work, write_work

VECTOR_BYTES = 16


class Alone:
    """The claims of the only rank."""

    world = 1

    def __init__(self):
        self.value = 0

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
    with tempfile.TemporaryDirectory() as folder, patched(most, unit):
        work = made(Path(folder), texts)
        portions = list(work.portions(claimed_rows(work, Alone()), VECTOR_BYTES))
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


def patched(most: int, unit: int):
    from unittest import mock

    return mock.patch.multiple(work_module, PORTION_BYTES=most, UNIT_CHARACTERS=unit)
