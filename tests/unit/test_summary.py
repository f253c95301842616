"""The table of all cells: order, file and terminal form."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_plan import raw  # noqa: F401 (a fixture)
from trove_steps import summary
from trove_steps.errors import TroveStepsError
from trove_steps.evaluation.measures import DEFAULT_MEASURES, metric_names
from trove_steps.files import write_json
from trove_steps.plan import Plan
from trove_steps.summarise import TABLE, closing_words, shortfall_warnings

COLUMNS = ("ndcg_cut_10", "recall_100", "map", "mrr_cut_10", "bytes_per_vector", "num_judged")


def cell(dataset="scifact", model="minilm", counts=None, **metrics):
    return {"dataset": dataset, "model": model, "metrics": metrics, **(counts or {})}


class TestSummarise:
    def test_order_of_rows_and_columns(self):
        rows = summary.summarise(
            [
                cell("b", "x", P_10=0.1, P_5=0.2, mrr_cut_10=0.3, ndcg_cut_100=0.5),
                cell("a", "z", {"num_queries": 3}, ndcg_cut_10=0.4, map_cut_10=0.2, map=0.1),
                cell("a", "y", {"num_judged": 2}, recall_100=0.9, bpref=0.7),
            ]
        )
        assert [(row["dataset"], row["model"]) for row in rows] == [
            ("a", "y"),
            ("a", "z"),
            ("b", "x"),
        ]
        for row in rows:
            assert list(row) == [
                *("dataset", "model", "ndcg_cut_10", "ndcg_cut_100", "map", "map_cut_10"),
                *("recall_100", "P_5", "P_10", "mrr_cut_10", "bpref", "num_judged", "num_queries"),
            ]
        assert rows[0]["recall_100"] == 0.9
        assert rows[1]["recall_100"] == ""

    def test_the_same_cell_twice(self):
        with pytest.raises(TroveStepsError, match=r"two results .*'scifact'.*'minilm'"):
            summary.summarise([cell(), cell()])


numbers = st.one_of(st.integers(-(2**60), 2**60), st.floats(allow_nan=False))
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
tables = st.dictionaries(
    st.tuples(names, names), st.dictionaries(st.sampled_from(["P_1", "map", "x y"]), numbers)
)


class TestFile:
    @settings(deadline=None)
    @given(tables)
    def test_what_is_read_is_what_was_written(self, tmp_path_factory, table):
        path = tmp_path_factory.mktemp("summary") / "summary.tsv"
        rows = summary.summarise(cell(*place, **metrics) for place, metrics in table.items())
        summary.write_summary(path, rows)
        assert summary.read_summary(path) == rows
        assert [list(row) for row in summary.read_summary(path)] == [list(row) for row in rows]
        assert path.read_text(encoding="utf-8").count("\n") == len(rows) + 1

    def test_bytes(self, tmp_path):
        path = tmp_path / "results" / "summary.tsv"
        rows = summary.summarise([cell(counts={"num_judged": 300}, map=0.1, ndcg_cut_10=1 / 3)])
        summary.write_summary(path, rows)
        assert path.read_text() == (
            "dataset\tmodel\tndcg_cut_10\tmap\tnum_judged\n"
            "scifact\tminilm\t0.3333333333333333\t0.1\t300\n"
        )
        assert [file.name for file in path.parent.iterdir()] == ["summary.tsv"]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "summary.tsv:1: not a summary"),
            ("a\tb\n", "summary.tsv:1: not a summary"),
            ("dataset\tmodel\tmap\nx\ty\n", "summary.tsv:2: expected 3 columns"),
            ("dataset\tmodel\nx\ty\nx\ty\t1\n", "summary.tsv:3: expected 2 columns"),
            ("dataset\tmodel\tmap\nx\ty\tz\n", "could not convert"),
        ],
    )
    def test_damaged(self, tmp_path, content, message):
        path = tmp_path / "summary.tsv"
        path.write_text(content)
        with pytest.raises(TroveStepsError, match=message):
            summary.read_summary(path)


def row(dataset, model, **values):
    return {"dataset": dataset, "model": model, **values}


class TestTable:
    def test_one_model(self):
        rows = [row("scifact", "minilm", ndcg_cut_10=0.645083, num_judged=300, P_1=0.5)]
        assert summary.format_table(rows).splitlines() == [
            "dataset  model    ndcg_cut_10   num_judged",
            "scifact  minilm        0.6451          300",
        ]

    def test_without_the_usual_cutoffs_the_largest_is_shown(self):
        computed = metric_names(DEFAULT_MEASURES, [1, 5, 20])
        rows = summary.summarise([cell(counts={"num_judged": 3}, **dict.fromkeys(computed, 0.5))])
        shown = ["ndcg_cut_20", "recall_20", "map_cut_20", "mrr_cut_20", "num_judged"]
        assert summary.format_table(rows).splitlines()[0].split() == ["dataset", "model", *shown]

    def test_the_best_of_several_models_is_marked_in_each_dataset(self):
        rows = [
            row("a", "x", ndcg_cut_10=0.5, map=0.30001),
            row("a", "y", ndcg_cut_10=0.4, map=0.30002),
            row("a", "z", ndcg_cut_10="", map=0.1),
            row("b", "x", ndcg_cut_10=0.9, map=0.9),
        ]
        assert summary.format_table(rows).splitlines() == [
            "dataset  model    ndcg_cut_10      map",
            "a        x             0.5000*  0.3000*",
            "a        y             0.4000   0.3000*",
            "a        z                      0.1000",
            "b        x             0.9000   0.9000",
            "* the best of its dataset",
        ]

    def test_of_zeros_none_is_the_best(self):
        rows = [row("a", "x", map=0.0, P_1=0.0), row("a", "y", map=0.00001, P_1=0.1)]
        assert summary.format_table(rows, ["map", "P_1"]).splitlines()[1:] == [
            "a        x        0.0000   0.0000",
            "a        y        0.0000   0.1000*",
            "* the best of its dataset",
        ]

    def test_what_ties_leave_open_is_said(self):
        open_metric = {"map_min": 0.25, "map_max": 0.75, "map_expected": 0.5}
        closed = {"map_min": 0.5, "map_max": 0.50000001, "map_expected": 0.5}
        rows = [row("a", "x", map=0.5, **open_metric), row("a", "y", map=0.5, **closed)]
        assert summary.format_table(rows).splitlines()[3:] == [
            "* the best of its dataset",
            "a x: map is between 0.2500 and 0.7500, expected 0.5000, by the order of equal scores",
        ]

    def test_columns_that_are_asked_for(self):
        rows = [row("a", "x", P_1=0.25, map=0.5)]
        assert summary.format_table(rows, ["P_1", "P_7"]).split() == [
            *("dataset", "model", "P_1", "a", "x", "0.2500")
        ]

    def test_nothing(self):
        assert summary.format_table([]) == "no results"

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.text("ab", max_size=90), st.text("cd", max_size=90))))
    def test_it_fits_and_is_aligned(self, places):
        values = dict.fromkeys(COLUMNS, math.pi / 4)
        lines = summary.format_table([row(*place, **values) for place in places]).splitlines()
        assert all(len(line) <= 100 for line in lines)
        if places:
            assert (
                len({line.rstrip("* ").rfind("0.7854") for line in lines[1:] if "0.7854" in line})
                == 1
            )
            assert "recall_100" in lines[0]

    def test_long_names_keep_both_ends(self):
        name = "sentence-transformers--" + "x" * 100 + "--L12-v2"
        rows = [row("beir-scifact", name, **dict.fromkeys(COLUMNS, 0.5))]
        shown = summary.format_table(rows).splitlines()[1]
        assert "beir-scifact  sentence" in shown
        assert "…" in shown
        assert "-L12-v2 " in shown


class TestCommand:
    def test_show(self, tmp_path, capsys):
        path = tmp_path / "summary.tsv"
        rows = summary.summarise([cell(ndcg_cut_10=0.5)])
        summary.write_summary(path, rows)
        assert summary.main(["--show", str(path)]) == 0
        assert capsys.readouterr().out == summary.format_table(rows) + "\n"

    def test_missing(self, tmp_path, capsys):
        assert summary.main(["--show", str(tmp_path / "summary.tsv")]) == 1
        assert capsys.readouterr().err.startswith(f"error: {tmp_path}/summary.tsv is missing")


def test_the_end_of_a_run_says_what_came_out_empty(raw):  # noqa: F811
    """Judgments without a relevant document and a mining without negatives; one line each."""
    raw["evaluation"]["ir_metrics_relevance_threshold"] = 2
    plan = Plan(raw)
    (cell,) = plan.cells.values()
    folder = plan.cell_directory(cell)
    write_json(folder / "metrics.json", {"num_judged": 3, "num_without_relevant": 3})
    counts = {"num_mined_queries": 3, "num_candidates": 9, "num_annotated": 2, "num_score": 7}
    write_json(folder / "mined" / "funnel.json", {**counts, "num_kept": 0, "num_missing": 9})
    assert shortfall_warnings(plan) == []
    write_json(plan.score_record(cell), {})
    write_json(plan.mine_record(cell), {})
    relevant, mined = shortfall_warnings(plan)
    assert "any of the 3 judged queries: no label is 2 or more" in relevant
    assert mined.startswith(
        "warning: tiny/bert: no negative was kept: of 9 results looked at: annotated 2"
    )
    warned = [{"kind": "no_relevant_documents", "message": "none is"}]
    write_json(plan.results / "tiny" / "data.json", {"warnings": warned})
    write_json(plan.checks["tiny"], {})
    assert shortfall_warnings(plan) == ["warning: tiny: none is", mined]
    warned = [{"kind": "filtered_relevant", "message": "filters hide"}]
    write_json(plan.results / "tiny" / "data.json", {"warnings": warned})
    assert "warning: tiny: filters hide" in shortfall_warnings(plan)


def test_the_end_of_a_run_says_where_to_look(raw):  # noqa: F811
    """The report and the folders of trackers are named, once they are there."""
    raw["evaluation"]["report_to"] = ["tensorboard", "wandb"]
    plan = Plan(raw)
    table = plan.results / TABLE
    summary.write_summary(table, summary.summarise([cell("tiny", "bert", ndcg_cut_10=0.5)]))
    write_json(plan.summary_record, {})
    assert "report.html" not in closing_words(plan)
    write_json(plan.report_record, {})
    words = closing_words(plan).splitlines()
    assert "to look at: results/report.html" in words
    assert "tensorboard: results/tensorboard/" in words
    assert "wandb: results/wandb/" in words
    raw["evaluation"]["report_to"] = []
    assert "wandb" not in closing_words(Plan(raw))
