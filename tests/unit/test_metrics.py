"""Metrics against trec_eval on our run file, against an oracle, and against reference figures."""

import json
import math
from itertools import permutations, product
from math import fsum

import numpy as np
import pyarrow as pa
import pytest
import pytrec_eval
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trove_steps.compare import COMPARED
from trove_steps.errors import TroveStepsError
from trove_steps.evaluation import metrics as metrics_module
from trove_steps.evaluation.measures import main_metrics
from trove_steps.evaluation.metrics import DEFAULT_MEASURES, evaluate, metric_names
from trove_steps.ranking import Ranking, write_trec

from .rankings import make_qrels, make_ranking, read_qrels, read_run

ALL_MEASURES = (*DEFAULT_MEASURES, "success", "Rprec", "judged")
DOCS = ["d1", "d2", "d10", "D3", "é", "d4", "a"]

results_of_queries = st.dictionaries(
    st.sampled_from(["1", "2", "10", "q"]),
    st.dictionaries(
        st.sampled_from(DOCS),
        st.one_of(
            st.sampled_from([1.0, 0.5, 0.5 + 1e-12, 0.0, -0.0, -1.0]),
            st.floats(-10, 10),
        ),
        max_size=7,
    ),
    min_size=1,
)
labels_of_queries = st.dictionaries(
    st.sampled_from(["1", "2", "10", "q", "unsearched"]),
    st.dictionaries(st.sampled_from([*DOCS, "absent"]), st.integers(-2, 3), min_size=1),
    min_size=1,
)
thresholds = st.integers(1, 3)


def judged_queries(results, labels):
    return [query for query in results if query in labels]


def per_query(evaluation):
    return {row.pop("query_id"): row for row in evaluation.per_query.to_pylist()}


class TestAgainstTrecEval:
    @settings(max_examples=80, deadline=None)
    @given(results_of_queries, labels_of_queries, thresholds)
    def test_same_as_trec_eval_on_our_run_file(self, tmp_path_factory, results, labels, threshold):
        assume(judged_queries(results, labels))
        ranking = make_ranking(results, sorted(DOCS))
        names = ("ndcg_cut", "map_cut", "recall", "P", "success", "Rprec")
        ours = evaluate(ranking, make_qrels(labels), [1, 2, 3, 5, 10], threshold, names)
        path = tmp_path_factory.mktemp("run") / "run.trec"
        write_trec(path, ranking)
        with open(path, encoding="utf-8", newline="\n") as file:
            run = dict(pytrec_eval.parse_run(file))
        nonnegative = {  # trec_eval crashes where a label is below -1
            query: {doc: max(label, 0) for doc, label in docs.items()}
            for query, docs in labels.items()
        }
        evaluator = pytrec_eval.RelevanceEvaluator(nonnegative, set(ours.metrics), threshold)
        theirs = evaluator.evaluate(run) if run else {}
        ours = per_query(ours)
        assert list(ours) == judged_queries(results, labels)
        for query, values in ours.items():
            assert values == pytest.approx(theirs.get(query, dict.fromkeys(values, 0)), abs=1e-12)


def oracle(ranked, labels, name, threshold):
    """Compute a metric of one query by its textbook definition."""
    stem, _, cutoff = name.rpartition("_")
    relevant = [labels.get(doc, 0) >= threshold for doc in ranked]
    total = sum(label >= threshold for label in labels.values())
    if name == "Rprec":
        return sum(relevant[:total]) / total if total else 0.0
    k = int(cutoff)
    if stem == "P":
        return sum(relevant[:k]) / k
    if stem == "recall":
        return sum(relevant[:k]) / total if total else 0.0
    if stem == "success":
        return float(any(relevant[:k]))
    if stem == "mrr_cut":
        return next((1 / (i + 1) for i, hit in enumerate(relevant[:k]) if hit), 0.0)
    if stem == "judged":
        return sum(doc in labels for doc in ranked[:k]) / len(ranked[:k]) if ranked else 0.0
    if stem == "map_cut":
        hits = [sum(relevant[: i + 1]) / (i + 1) for i in range(min(k, len(ranked))) if relevant[i]]
        return sum(hits) / total if total else 0.0

    def dcg(gains):
        return sum(max(gain, 0) / math.log2(i + 2) for i, gain in enumerate(gains[:k]))

    ideal = dcg(sorted(labels.values(), reverse=True))
    return dcg([labels.get(doc, 0) for doc in ranked]) / ideal if ideal else 0.0


class TestAgainstOracle:
    @settings(max_examples=120, deadline=None)
    @given(results_of_queries, labels_of_queries, thresholds)
    def test_every_metric_by_its_definition(self, results, labels, threshold):
        assume(judged_queries(results, labels))
        evaluation = evaluate(
            make_ranking(results, sorted(DOCS)),
            make_qrels(labels),
            [1, 2, 4, 9],
            threshold,
            ALL_MEASURES,
        )
        for query, values in per_query(evaluation).items():
            ranked = sorted(
                results[query], key=lambda d: (results[query][d], d.encode()), reverse=True
            )
            for name, value in values.items():
                expected = oracle(ranked, labels[query], name, threshold)
                assert value == pytest.approx(expected, abs=1e-12), (query, name)
        rows = per_query(evaluation).values()
        for name, value in evaluation.metrics.items():
            assert value == fsum(row[name] for row in rows) / len(rows)

    @settings(max_examples=50, deadline=None)
    @given(results_of_queries, labels_of_queries, st.integers(1, 3))
    def test_blocks_change_nothing(self, results, labels, rows):
        assume(judged_queries(results, labels))
        ranking = make_ranking(results, sorted(DOCS))
        whole = evaluate(ranking, make_qrels(labels), [1, 3], measures=ALL_MEASURES)
        with pytest.MonkeyPatch.context() as patch:
            blocks = Ranking.blocks
            patch.setattr(Ranking, "blocks", lambda self: blocks(self, rows))
            assert evaluate(ranking, make_qrels(labels), [1, 3], measures=ALL_MEASURES) == whole

    @settings(max_examples=50, deadline=None)
    @given(results_of_queries, labels_of_queries, st.integers(1, 5))
    def test_deeper_results_change_nothing(self, results, labels, depth):
        assume(judged_queries(results, labels))
        ranking = make_ranking(results, sorted(DOCS))
        deep = evaluate(ranking, make_qrels(labels), [1, depth], measures=DEFAULT_MEASURES)
        cut = evaluate(ranking.head(depth), make_qrels(labels), [1, depth])
        assert deep.metrics == cut.metrics


def orders(found):
    """All orders of {document: score} that equal scores allow."""
    levels = sorted(set(found.values()), reverse=True)
    groups = [[doc for doc, score in found.items() if score == level] for level in levels]
    for parts in product(*(permutations(group) for group in groups)):
        yield [doc for part in parts for doc in part]


class TestTies:
    @settings(max_examples=80, deadline=None)
    @given(
        st.dictionaries(st.sampled_from(DOCS[:6]), st.sampled_from([2.0, 1.0, 0.0]), min_size=1),
        st.dictionaries(st.sampled_from([*DOCS, "absent"]), st.integers(-1, 3), min_size=1),
        thresholds,
    )
    def test_range_and_expectation_over_all_orders(self, found, labels, threshold):
        ranking = make_ranking({"q": found, "clear": {"a": 1.0}}, sorted(DOCS))
        qrels = make_qrels({"q": labels, "clear": {"a": 1}})
        evaluation = evaluate(ranking, qrels, [1, 2, 3, 5], threshold, ALL_MEASURES)
        rows = per_query(evaluation)
        for name, value in evaluation.metrics.items():
            values = [oracle(order, labels, name, threshold) for order in orders(found)]
            sure = rows["clear"][name]
            if max(values) - min(values) > 1e-12:
                assert evaluation.ties[name] == pytest.approx(
                    {
                        "expected": (np.mean(values) + sure) / 2,
                        "min": (min(values) + sure) / 2,
                        "max": (max(values) + sure) / 2,
                    },
                    abs=1e-12,
                )
            elif name in evaluation.ties:  # rounding told two equal values apart
                assert evaluation.ties[name]["min"] == pytest.approx(value, abs=1e-12)

    def test_a_constant_scorer(self):
        docs = {f"d{i}": 1.0 for i in range(10)}
        ties = evaluate(make_ranking({"q": docs}), make_qrels({"q": {"d9": 1}}), [1, 10]).ties
        assert ties["P_1"] == pytest.approx({"expected": 0.1, "min": 0.0, "max": 1.0})
        assert ties["mrr_cut_10"]["expected"] == pytest.approx(
            sum(1 / i for i in range(1, 11)) / 10
        )
        assert "recall_10" not in ties

    def test_no_ties_among_equals(self):
        same = {"a": 1.0, "b": 1.0, "c": 0.5}
        assert evaluate(make_ranking({"q": same}), make_qrels({"q": {"c": 1}}), [1, 3]).ties == {}
        both = make_qrels({"q": {"a": 1, "b": 1}})
        assert evaluate(make_ranking({"q": same}), both, [1, 3]).ties == {}

    def test_a_tie_across_the_cutoff(self):
        docs = {"c": 2.0, "b": 1.0, "a": 1.0}
        ties = evaluate(
            make_ranking({"q": docs}), make_qrels({"q": {"a": 1}}), [2], 1, ["recall"]
        ).ties
        assert ties == {"recall_2": {"expected": 0.5, "min": 0.0, "max": 1.0}}

    def test_figures_tell_what_ties_leave_open(self):
        docs = {"c": 2.0, "b": 1.0, "a": 1.0}
        figures = evaluate(
            make_ranking({"q": docs}), make_qrels({"q": {"a": 1, "c": 1}}), [1, 2], 1, ["recall"]
        ).figures
        assert {name: value for name, value in figures.items() if name.startswith("recall")} == {
            "recall_1": 0.5,
            "recall_2": 0.5,
            "recall_2_min": 0.5,
            "recall_2_max": 1.0,
            "recall_2_expected": 0.75,
        }


class TestDefectsOfPytrecEval:
    """What pytrec_eval itself makes of the edges, and what is made of them here."""

    def theirs(self, qrel, run, measures=("recall.1", "P.1")):
        return pytrec_eval.RelevanceEvaluator(qrel, set(measures)).evaluate(run)

    def test_a_judged_query_without_results_is_left_out_there_and_0_here(self):
        labels = {"q": {"a": 1}, "r": {"a": 1}}
        assert set(self.theirs(labels, {"q": {"a": 1.0}})) == {"q"}
        evaluation = evaluate(make_ranking({"q": {"a": 1.0}, "r": {}}), make_qrels(labels), [1])
        assert evaluation.metrics["recall_1"] == 0.5

    def test_a_query_without_judgments_is_left_out_by_both(self):
        run = {"q": {"a": 1.0}, "r": {"a": 1.0}}
        assert set(self.theirs({"q": {"a": 1}}, run)) == {"q"}
        evaluation = evaluate(make_ranking(run), make_qrels({"q": {"a": 1}}), [1])
        assert evaluation.metrics["recall_1"] == 1
        assert evaluation.counts["num_without_judgments"] == 1

    def test_scores_that_differ_in_64_bits_only(self):
        """There they tie, and the larger id wins; here the search's order holds."""
        run = {"q": {"a": 1.0 + 1e-12, "b": 1.0}}
        assert self.theirs({"q": {"a": 1}}, run)["q"]["P_1"] == 0
        assert evaluate(make_ranking(run), make_qrels({"q": {"a": 1}}), [1]).metrics["P_1"] == 1

    def test_empty_qrels_are_no_results_there_and_an_error_here(self):
        assert self.theirs({}, {"q": {"a": 1.0}}) == {}
        with pytest.raises(TroveStepsError, match="nothing to evaluate"):
            evaluate(make_ranking({"q": {"a": 1.0}}), make_qrels({}))


class TestEdges:
    def test_which_queries_count(self):
        ranking = make_ranking(
            {
                "good": {"a": 2.0, "b": 1.0},
                "unjudged": {"a": 1.0},
                "nothing found": {},
                "nothing relevant": {"a": 1.0},
            }
        )
        qrels = make_qrels(
            {
                "good": {"a": 1, "lost": 1},
                "nothing found": {"a": 1},
                "nothing relevant": {"a": 0, "b": -1},
                "unsearched": {"a": 1},
            }
        )
        evaluation = evaluate(ranking, qrels, [1, 10])
        assert evaluation.counts == {
            "num_queries": 4,
            "num_judged": 3,
            "num_without_judgments": 1,
            "num_without_results": 1,
            "num_without_relevant": 1,
            "num_judged_not_searched": 1,
            "num_judgments": 5,
            "num_judgments_not_in_corpus": 1,
            "num_results": 4,
        }
        assert evaluation.per_query["query_id"].to_pylist() == [
            "good",
            "nothing found",
            "nothing relevant",
        ]
        assert evaluation.metrics["P_1"] == 1 / 3
        assert evaluation.metrics["recall_10"] == 0.5 / 3  # the lost document counts

    def test_order_of_names_is_stable(self):
        evaluation = evaluate(make_ranking({"q": {"a": 1.0}}), make_qrels({"q": {"a": 1}}), [10, 1])
        assert list(evaluation.metrics) == [
            "ndcg_cut_1",
            "ndcg_cut_10",
            "map_cut_1",
            "map_cut_10",
            "recall_1",
            "recall_10",
            "P_1",
            "P_10",
            "mrr_cut_1",
            "mrr_cut_10",
        ]
        assert evaluation.per_query.column_names == ["query_id", *evaluation.metrics]

    def test_threshold_leaves_ndcg_alone(self):
        ranking = make_ranking({"q": {"a": 2.0, "b": 1.0}})
        qrels = make_qrels({"q": {"a": 1, "b": 2}})
        one, two = (evaluate(ranking, qrels, [1, 10], level).metrics for level in (1, 2))
        assert one["ndcg_cut_10"] == two["ndcg_cut_10"]
        assert (one["P_1"], two["P_1"]) == (1.0, 0.0)
        assert (one["mrr_cut_10"], two["mrr_cut_10"]) == (1.0, 0.5)

    def test_ties_by_larger_document_id_in_every_metric(self):
        ranking = make_ranking({"q": {"d1": 1.0, "d10": 1.0, "d2": 1.0}})
        metrics = evaluate(ranking, make_qrels({"q": {"d2": 1}}), [1]).metrics
        assert set(metrics.values()) == {1.0}

    def test_cutoff_beyond_everything(self):
        ranking = make_ranking({"q": {"a": 1.0}})
        metrics = evaluate(ranking, make_qrels({"q": {"a": 1}}), [10**9]).metrics
        assert metrics["recall_1000000000"] == 1.0
        assert metrics["P_1000000000"] == 1e-9

    def test_one_thousand_unretrieved_judgments(self):
        ranking = make_ranking({"q": {"a": 1.0}, "r": {"a": 1.0}})
        labels = {f"absent{i}": 1 for i in range(999)} | {"a": 1}
        metrics = evaluate(ranking, make_qrels({"q": labels, "r": {"b": 1}}), [1]).metrics
        assert metrics["recall_1"] == 0.0005

    @pytest.mark.parametrize("label", [0.5, math.nan, math.inf, 1e7])
    def test_labels_that_are_no_gains(self, label):
        qrels = make_qrels({"q": {"a": 1.0}, "r": {"b": label}})
        with pytest.raises(TroveStepsError, match=r"query 'r' and document 'b'.*score_transform"):
            evaluate(make_ranking({"q": {"a": 1.0}, "r": {}}), qrels)

    def test_whole_floats_are_fine(self):
        qrels = make_qrels({"q": {"a": 2.0, "b": -1.0}})
        assert evaluate(make_ranking({"q": {"a": 1.0}}), qrels, [1]).metrics["P_1"] == 1.0

    def test_no_judgments(self):
        with pytest.raises(TroveStepsError, match="no judgment"):
            evaluate(make_ranking({"q": {"a": 1.0}}), make_qrels({}))

    def test_qrels_of_another_data_set(self):
        with pytest.raises(TroveStepsError, match=r"none of the 1 searched queries \(q, …\)"):
            evaluate(make_ranking({"q": {"a": 1.0}}), make_qrels({"x": {"a": 1}}))

    @pytest.mark.parametrize("threshold", [0, -1, 1.5])
    def test_bad_threshold(self, threshold):
        with pytest.raises(TroveStepsError, match="relevance_threshold"):
            evaluate(make_ranking({"q": {"a": 1.0}}), make_qrels({"q": {"a": 1}}), [1], threshold)

    def test_contradicting_figures_are_an_internal_error(self, monkeypatch):
        monkeypatch.setattr(
            metrics_module, "_reciprocal_rank", lambda first, cutoff: np.zeros(len(first))
        )
        with pytest.raises(RuntimeError, match="mrr_cut_1 differs from P_1"):
            evaluate(make_ranking({"q": {"a": 1.0}}), make_qrels({"q": {"a": 1}}), [5])


class TestMetricNames:
    def test_spellings(self):
        wanted = ["nDCG@20", "map_cut_7", "RR@10", "P", "R-precision".replace("-", "_"), "hit.3"]
        assert metric_names(wanted, [5, 1, 5]) == [
            "ndcg_cut_20",
            "map_cut_7",
            "mrr_cut_10",
            "P_1",
            "P_5",
            "Rprec",
            "success_3",
        ]

    @pytest.mark.parametrize("name", ["bleu", "bleu@3", "Rprec_5", "", "@5"])
    def test_unknown(self, name):
        with pytest.raises(TroveStepsError, match="unknown measure"):
            metric_names([name], [1])

    @pytest.mark.parametrize("cutoff", [0, -1, 2.5])
    def test_bad_cutoff(self, cutoff):
        with pytest.raises(TroveStepsError, match="cut-off"):
            metric_names(["P"], [cutoff])

    @pytest.mark.parametrize(("measures", "cutoffs"), [([], [1]), (["P"], [])])
    def test_nothing_asked_for(self, measures, cutoffs):
        with pytest.raises(TroveStepsError, match="no metric"):
            metric_names(measures, cutoffs)


IR_MEASURES = {"R": "recall", "nDCG": "ndcg_cut", "AP": "map_cut", "RR": "mrr_cut", "P": "P"}


class TestReference:
    @pytest.mark.parametrize("name", ["scifact", "cranfield"])
    def test_ir_measures(self, shared_data, name):
        folder = shared_data / name
        ranking = read_run(folder / "reference" / "run.top100.trec.gz")
        ours = evaluate(ranking, read_qrels(folder / "qrels" / "test.tsv")).metrics
        reference = json.loads((folder / "reference" / "metrics.json").read_text())
        compared = 0
        for key, value in reference["metrics_top100_run"].items():
            stem, _, cutoff = key.partition("@")
            assert ours[f"{IR_MEASURES[stem]}_{cutoff or 100}"] == pytest.approx(value, abs=1e-12)
            compared += 1
        for key, value in reference["metrics_top1000_run"].items():
            stem, _, cutoff = key.partition("@")
            if cutoff and f"{IR_MEASURES[stem]}_{cutoff}" in ours:
                assert ours[f"{IR_MEASURES[stem]}_{cutoff}"] == pytest.approx(value, abs=1e-12)
                compared += 1
        assert compared >= 18

    def test_trove(self, shared_data):
        folder = shared_data / "cranfield"
        ranking = read_run(folder / "reference" / "trove" / "run.top100.tsv.gz")
        evaluation = evaluate(ranking, read_qrels(folder / "qrels" / "test.tsv"))
        reference = json.loads((folder / "reference" / "trove" / "metrics.json").read_text())
        assert evaluation.metrics == pytest.approx(reference, abs=1e-12)
        assert evaluation.counts["num_judgments_not_in_corpus"] > 0  # only 100 per query are here


def test_per_query_types():
    evaluation = evaluate(make_ranking({"q": {"a": 1.0}}), make_qrels({"q": {"a": 1}}), [1])
    assert {field.type for field in evaluation.per_query.schema} == {pa.string(), pa.float64()}


@pytest.mark.parametrize(
    ("measures", "cutoffs", "all_main", "compared"),
    [
        (DEFAULT_MEASURES, [1, 10, 100], "ndcg_cut_10 recall_100 map_cut_100 mrr_cut_10",
         "ndcg_cut_10 recall_100 mrr_cut_10"),
        (DEFAULT_MEASURES, [1, 5, 20], "ndcg_cut_20 recall_20 map_cut_20 mrr_cut_20",
         "ndcg_cut_20 recall_20 mrr_cut_20"),
        (["RR", "AP"], [3, 5], "map_cut_5 mrr_cut_5", "map_cut_5 mrr_cut_5"),
        (["Success@5", "P@1", "P@20"], [1], "P_20", "P_20"),
        (["Rprec"], [1], "Rprec", "Rprec"),
        (["judged"], [9], "judged_9", "judged_9"),
    ],
)  # fmt: skip
def test_main_metrics_have_the_usual_cutoff_else_the_largest(measures, cutoffs, all_main, compared):
    computed = metric_names(measures, cutoffs)
    others = ["num_judged", "bytes_per_vector", *(f"{name}_min" for name in computed)]
    assert main_metrics([*others, *computed]) == all_main.split()
    assert main_metrics(computed, COMPARED) == compared.split()
