"""Paired tests against scipy, permutations by hand and what must hold."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trove_steps.compare import run
from trove_steps.errors import TroveStepsError
from trove_steps.evaluation.comparison import bootstrap_interval, compare, holm, randomisation_test
from trove_steps.files import write_json
from trove_steps.wording import counted


def table(values, metric="ndcg_cut_10", first=0):
    names = [f"q{number}" for number in range(first, first + len(values))]
    return pa.table({"query_id": pa.array(names), metric: pa.array(values, pa.float64())})


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=2, max_size=12))
def test_few_queries_get_the_exact_p_value(values):
    stats = pytest.importorskip("scipy.stats")
    values = np.array(values) / 4
    exact = stats.permutation_test(
        (values,),
        lambda x, axis: x.mean(axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    )
    (p,) = randomisation_test(values[None], 10_000, 0)
    # scipy doubles the smaller tail, which for signs is the same as counting both.
    assert p == pytest.approx(exact.pvalue, abs=1e-12)


def test_many_queries_get_nearly_the_p_value_of_the_t_test():
    stats = pytest.importorskip("scipy.stats")
    chance = np.random.default_rng(0)
    for shift in (0.0, 0.02, 0.05):
        values = chance.normal(shift, 0.3, 400)
        (p,) = randomisation_test(values[None], 20_000, 1)
        assert p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.02)


def test_no_difference_and_all_the_difference():
    same = np.zeros((1, 50))
    assert randomisation_test(same, 999, 0) == 1
    assert randomisation_test(same + 0.1, 999, 0) == 1 / 1000
    assert np.array_equal(bootstrap_interval(same + 0.25, 999, 0.95, 0), [[0.25], [0.25]])


def test_false_alarms_are_as_rare_as_the_level_says():
    """200 comparisons of equals: about 10 have p < 0.05."""
    values = np.random.default_rng(3).normal(0, 1, (200, 60))
    p = randomisation_test(values, 2000, 0)
    assert 2 <= (p < 0.05).sum() <= 20
    low, high = bootstrap_interval(values, 2000, 0.95, 0)
    assert 178 <= ((low <= 0) & (high >= 0)).sum() <= 199


def test_blocks_of_samples(monkeypatch):
    """Samples that do not fit into memory at once are as random as those that do."""
    values = np.random.default_rng(0).normal(0.03, 0.3, (2, 300))
    p, (low, high) = randomisation_test(values, 5000, 0), bootstrap_interval(values, 5000, 0.9, 0)
    monkeypatch.setattr("trove_steps.evaluation.comparison._NUMBERS_PER_BLOCK", 300 * 64)
    assert randomisation_test(values, 5000, 0) == pytest.approx(p, abs=0.03)
    again = bootstrap_interval(values, 5000, 0.9, 0)
    assert again[0] == pytest.approx(low, abs=0.005)
    assert again[1] == pytest.approx(high, abs=0.005)


def test_holm():
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.5, 0.9])) == pytest.approx([1.0, 1.0])
    assert holm(np.array([0.2])) == pytest.approx([0.2])


def test_comparison():
    chance = np.random.default_rng(0)
    base = chance.random(100)
    better = np.minimum(base + 0.1 * (np.arange(100) % 2), 1)
    per_query = {"b": table(better), "a": table(base), "c": table(base)}
    rows, differences = compare("d", per_query, ["ndcg_cut_10"], samples=2000)
    assert [(row.model_a, row.model_b) for row in rows] == [("a", "b"), ("a", "c"), ("b", "c")]
    first, same, last = rows
    assert (first.wins, first.ties, first.losses) == (50, 50, 0)
    assert (last.wins, last.ties, last.losses) == (0, 50, 50)
    assert first.difference == pytest.approx(better.mean() - base.mean())
    assert first.low < first.difference < first.high
    assert first.low > 0
    assert (first.p, first.p_holm) == pytest.approx((1 / 2001, 3 / 2001))
    assert (same.difference, same.p, same.p_holm) == (0, 1, 1)
    assert len(differences) == 300
    row = differences.slice(1, 1).to_pylist()[0]
    assert row["difference"] == row["b"] - row["a"] == pytest.approx(0.1)
    assert compare("d", per_query, ["ndcg_cut_10"], samples=2000)[0] == rows
    other = compare("d", per_query, ["ndcg_cut_10"], samples=2000, seed=1)[0]
    assert other[0].low != first.low


def test_models_that_cannot_be_compared():
    with pytest.raises(TroveStepsError, match="a and b were not evaluated on the same queries"):
        compare("d", {"a": table([1.0]), "b": table([1.0], first=1)}, ["ndcg_cut_10"])
    with pytest.raises(TroveStepsError, match="d/a: P_1 was not computed"):
        compare("d", {"a": table([1.0]), "b": table([1.0])}, ["P_1"])


def test_pairs_are_counted_once_however_many_metrics(tmp_path, capsys):
    evaluations = []
    for number, model in enumerate("abcd"):
        record = tmp_path / "results" / "d" / model / ".evaluate" / "x.json"
        write_json(record, {"cell": f"d/{model}"})
        values = {name: [0.1 * number, 0.5] for name in ("ndcg_cut_10", "recall_100", "mrr_cut_10")}
        columns = {"query_id": ["q1", "q2"], **values}
        pq.write_table(pa.table(columns), record.parent.parent / "per_query.parquet")
        evaluations.append(record)
    record = tmp_path / "results" / ".comparison" / "x.json"
    run(SimpleNamespace(evaluations=evaluations, settings={}, record=record))
    printed = "".join(capsys.readouterr())
    assert "compare: 6 pairs of models on 1 data set by 3 metrics" in printed


def test_one_thing_is_spelled_in_the_singular():
    assert [counted(n, "warning") for n in (0, 1, 2000)] == [
        "0 warnings",
        "1 warning",
        "2,000 warnings",
    ]
    assert [counted(n, "query", "queries") for n in (1, 2)] == ["1 query", "2 queries"]
