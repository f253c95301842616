"""What is said of results that hold nothing of use."""

import re

import pytest

from trove_steps.reporting.shortfalls import nothing_mined, nothing_relevant

MINED = {"num_kept": 4, "num_candidates": 9, "num_mined_queries": 2}


def test_nothing_relevant():
    assert nothing_relevant({"num_judged": 3, "num_without_relevant": 2}, 1) is None
    assert "3 judged" in nothing_relevant({"num_judged": 3, "num_without_relevant": 3}, 1)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"num_training_queries": 2, "num_triplet_rows": 8}, None),
        ({"num_training_queries": 0, "num_triplet_rows": 0}, r"\(triplet\): no query has both"),
        (
            {"num_training_queries": 2, "num_triplet_rows": 8, "num_n_tuple_rows": 0},
            r"\(n-tuple\): 2 queries have both",
        ),
        (
            {"num_kept": 0, "num_candidates": 0},
            "2 queries were mined, and the search found nothing",
        ),
        (
            {"num_kept": 0, "num_models": 2, "num_disagreed": 9, "num_short_queries": 2},
            "no negative was kept: of 9 results looked at: disagreed 9;",
        ),
    ],
)
def test_nothing_mined(counts, said):
    found = nothing_mined(MINED | counts)
    assert found is None if said is None else re.search(said, found)
