"""Negatives of several models in one list."""

import pyarrow as pa
import pytest

from tests.unit.rankings import make_ranking, rows_of
from trove_steps.merge_negatives import merge

RANKING = make_ranking({"x": {}, "y": {}, "z": {}}, ["a", "b", "c", "é"])


def audit(*rows):
    return pa.table(
        {
            "query_id": pa.array([row[0] for row in rows], pa.string()),
            "doc_id": pa.array([row[1] for row in rows], pa.string()),
            "rank": pa.array([row[2] for row in rows], pa.int64()),
        }
    )


AUDITS = {
    "one": audit(("x", "a", 1), ("x", "b", 2), ("z", "c", 1)),
    "two": audit(("x", "b", 1), ("x", "c", 5), ("z", "é", 1)),
}
QUERIES = pa.array(["x", "y", "z"])


def merged(least, queries=QUERIES):
    mined = merge(RANKING, queries, AUDITS, least, 2)
    return mined, [(query, doc) for query, doc, _ in rows_of(mined.negatives)]


def test_union():
    mined, pairs = merged(1)
    # Equal scores: the larger document id first.
    assert pairs == [("x", "b"), ("x", "a"), ("x", "c"), ("z", "é"), ("z", "c")]
    assert mined.negatives.scores[0] == pytest.approx(1 / 61 + 1 / 62)
    assert mined.audit.slice(0, 2).to_pylist()[1] == {
        "query_id": "x",
        "doc_id": "a",
        "score": 1 / 61,
        "models": 1,
        "rank one": 1,
        "rank two": None,
    }
    assert mined.counts == {
        "num_models": 2,
        "num_mined_queries": 3,
        "num_short_queries": 1,
        "num_candidates": 5,
        "num_disagreed": 0,
        "num_kept": 5,
        "num_missing": 2,
    }


def test_agreement():
    mined, pairs = merged(2)
    assert pairs == [("x", "b")]
    assert mined.funnel.to_pylist()[0] == {
        "query_id": "x",
        "candidates": 3,
        "disagreed": 2,
        "kept": 1,
        "missing": 1,
    }
    assert mined.counts["num_missing"] == 5


def test_only_the_mined_queries():
    mined, pairs = merged(1, pa.array(["z", "x"]))
    assert mined.queries.tolist() == [2, 0]
    assert pairs[:2] == [("z", "é"), ("z", "c")]


def test_no_negatives():
    nothing = merge(RANKING, QUERIES, {"one": audit()}, 1, 2)
    assert len(nothing.audit) == 0
    assert nothing.counts["num_missing"] == 6
