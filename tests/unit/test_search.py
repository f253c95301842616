"""The file of a ranking: its bytes depend on the results only, not on the tiles that they came in."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trove_steps import search
from trove_steps.search import write_ranking


@dataclass
class Tile:
    first: int
    offsets: np.ndarray
    docs: np.ndarray
    scores: np.ndarray


def tiles_of(counts: np.ndarray, cuts: list[int]) -> list[Tile]:
    """Results with counts[i] rows for query i, in tiles that end at the cuts."""
    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    docs, scores = np.arange(bounds[-1]) * 7 % 101, np.linspace(1, 0, bounds[-1])
    ends = sorted({0, *cuts, len(counts)})
    return [
        Tile(
            a,
            bounds[a : b + 1] - bounds[a],
            docs[bounds[a] : bounds[b]],
            scores[bounds[a] : bounds[b]],
        )
        for a, b in pairwise(ends)
    ]


@pytest.mark.parametrize("queries", [1, 999, 1000, 1001, 2000, 2500])
def test_bytes_do_not_depend_on_tiles(tmp_path, queries):
    chance = np.random.default_rng(queries)
    counts = chance.integers(0, 4, queries)
    contents = set()
    for cut in ([], [1], [queries // 2], [1000], [999, 1001], range(0, queries, 3)):
        cuts = [c for c in cut if c < queries]
        path = tmp_path / "ranking.arrow"
        assert write_ranking(path, tiles_of(counts, cuts), queries) == counts.sum()
        contents.add(path.read_bytes())
    assert len(contents) == 1
    table = pa.ipc.open_file(str(path))
    assert table.num_record_batches == -(-queries // 1000)
    (whole,) = tiles_of(counts, [])
    read = table.read_all()
    np.testing.assert_array_equal(read["query"], np.repeat(np.arange(queries), counts))
    np.testing.assert_array_equal(read["document"], whole.docs)
    np.testing.assert_array_equal(read["score"], whole.scores)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=30), st.lists(st.integers(1, 30), max_size=5)
)
def test_batches_of_queries(monkeypatch, counts, cuts):
    monkeypatch.setattr(search, "QUERIES_PER_BATCH", 4)
    tiles = tiles_of(np.array(counts), [cut for cut in cuts if cut < len(counts)])
    batches = list(search._batches(tiles, len(counts)))
    assert len(batches) == -(-len(counts) // 4)
    for number, batch in enumerate(batches):
        expected = np.repeat(np.arange(len(counts)), counts)
        expected = expected[(expected >= 4 * number) & (expected < 4 * number + 4)]
        np.testing.assert_array_equal(batch["query"], expected)


def test_no_query_gives_an_empty_file(tmp_path):
    assert write_ranking(tmp_path / "x.arrow", [], 0) == 0
    assert pa.ipc.open_file(str(tmp_path / "x.arrow")).read_all().num_rows == 0
