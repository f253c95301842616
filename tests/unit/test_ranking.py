"""Rankings, the judgments about them and their TREC run files."""

import gzip
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from trove_steps import ranking as ranking_module
from trove_steps.ranking import Judgments, Ranking, trec_ids, trec_scores, write_trec

from .rankings import make_ranking, rows_of

RESULTS = {
    "q1": {"a": 3.0, "b": 2.0, "c": 2.0, "d": -1.0},
    "q2": {},
    "q3": {"b": 0.5},
    "q4": {"d": 1.0, "a": 0.0, "c": 7.0},
}


@pytest.fixture
def small_blocks(monkeypatch):
    blocks = Ranking.blocks
    monkeypatch.setattr(Ranking, "blocks", lambda self, rows=2: blocks(self, rows))


class TestRanking:
    def test_head_cuts_every_query(self):
        assert rows_of(make_ranking(RESULTS).head(2)) == [
            ("q1", "a", 3.0),
            ("q1", "c", 2.0),
            ("q3", "b", 0.5),
            ("q4", "c", 7.0),
            ("q4", "d", 1.0),
        ]

    def test_head_of_all_copies_nothing(self):
        ranking = make_ranking(RESULTS)
        assert ranking.head(4) is ranking

    @pytest.mark.parametrize("queries", [[3, 1, 0], [False, True, False, True], []])
    def test_select(self, queries):
        ranking = make_ranking(RESULTS)
        chosen = ranking.select(np.array(queries, bool if True in queries else np.int64))
        indices = np.flatnonzero(queries) if True in queries else queries
        names = [list(RESULTS)[i] for i in indices]
        assert chosen.query_ids.to_pylist() == names
        assert rows_of(chosen) == rows_of(
            make_ranking({n: RESULTS[n] for n in names}, list("abcd"))
        )

    def test_ranks_and_row_queries(self):
        ranking = make_ranking(RESULTS)
        assert ranking.ranks.tolist() == [0, 1, 2, 3, 0, 0, 1, 2]
        assert ranking.row_queries.tolist() == [0, 0, 0, 0, 2, 3, 3, 3]

    @pytest.mark.parametrize("rows", [1, 2, 4, 5, 100])
    def test_blocks_cover_everything_once(self, rows):
        ranking = make_ranking(RESULTS)
        blocks = list(ranking.blocks(rows))
        assert [row for _, block in blocks for row in rows_of(block)] == rows_of(ranking)
        starts = [first for first, _ in blocks]
        assert starts == np.cumsum([0, *(len(block) for _, block in blocks)])[:-1].tolist()
        assert all(len(block.docs) <= rows or len(block) == 1 for _, block in blocks)

    def test_blocks_of_nothing(self):
        assert list(make_ranking({}).blocks()) == []
        assert len(make_ranking({}).head(3)) == 0

    def test_chunked_ids(self):
        plain = make_ranking(RESULTS)
        chunked = Ranking(
            pa.chunked_array([plain.query_ids.slice(0, 1), plain.query_ids.slice(1)]),
            pa.chunked_array([plain.doc_ids.slice(0, 3), plain.doc_ids.slice(3)]),
            plain.offsets,
            plain.docs,
            plain.scores,
        )
        assert rows_of(chunked.select(np.array([3, 0])).head(2)) == rows_of(
            plain.select(np.array([3, 0])).head(2)
        )


class TestJudgments:
    QRELS = pa.table(
        {
            "query_id": ["q4", "q1", "nobody", "q4", "q1", "q2"],
            "doc_id": ["c", "d", "a", "gone", "b", "a"],
            "score": [1, 0, 1, 2, 3, 1],
        }
    )

    def test_find(self):
        ranking = make_ranking(RESULTS)
        judgments = Judgments(ranking, self.QRELS)
        found = judgments.find(ranking, np.arange(4))
        labels = {
            row[:2]: judgments.labels[i]
            for row, i in zip(rows_of(ranking), found, strict=True)
            if i >= 0
        }
        assert labels == {("q1", "d"): 0, ("q1", "b"): 3, ("q4", "c"): 1}
        assert judgments.counts.tolist() == [2, 1, 0, 2]
        assert judgments.other_queries == 1
        assert (judgments.docs < 0).sum() == 1

    def test_find_in_a_selection(self):
        ranking = make_ranking(RESULTS)
        judgments = Judgments(ranking, self.QRELS)
        queries = np.array([3, 2, 0])
        view = ranking.select(queries)
        expected = judgments.find(ranking, np.arange(4))
        expected = np.concatenate([expected[5:8], expected[4:5], expected[0:4]])
        assert judgments.find(view, queries).tolist() == expected.tolist()

    def test_without_any(self):
        ranking = make_ranking(RESULTS)
        judgments = Judgments(ranking, self.QRELS.slice(0, 0))
        assert len(judgments) == 0
        assert set(judgments.find(ranking, np.arange(4)).tolist()) == {-1}


def assert_same_ranking(scores, rounded):
    assert rounded.dtype == np.float32
    assert np.isfinite(rounded).all()
    assert ((np.diff(scores) == 0) == (np.diff(rounded) == 0)).all()
    assert (np.diff(rounded) <= 0).all()


class TestTrecScores:
    def test_rounds_to_the_nearest(self):
        scores = np.array([0.9, 0.1, -0.7])
        ranking = make_ranking({"q": dict(zip("abc", scores, strict=True))})
        assert trec_scores(ranking).tolist() == scores.astype(np.float32).tolist()

    def test_collisions_go_down_and_ties_stay(self):
        close = [1.0, 1.0 - 1e-12, 1.0 - 1e-12, 1.0 - 2e-12, 0.5]
        scores = trec_scores(make_ranking({"q": dict(zip("edcba", close, strict=True))}))
        below = np.nextafter(np.float32(1), np.float32(0))
        assert scores.tolist() == [
            1.0,
            below,
            below,
            np.nextafter(below, np.float32(0)),
            0.5,
        ]

    def test_a_chain_pushes_the_next_value(self):
        below = float(np.nextafter(np.float32(1), np.float32(0)))
        found = {"c": 1.0, "b": 1.0 - 1e-12, "a": below}
        scores = trec_scores(make_ranking({"q": found}))
        assert_same_ranking(np.array([1.0, 1.0 - 1e-12, below]), scores)
        assert scores[2] < np.float32(below)

    def test_queries_do_not_touch_each_other(self):
        one = {"a": 5.0, "b": 5.0 - 1e-12}
        both = trec_scores(make_ranking({"q": one, "r": {}, "s": one}))
        assert both.tolist() == trec_scores(make_ranking({"q": one})).tolist() * 2

    @settings(max_examples=120, deadline=None)
    @given(
        st.lists(
            st.lists(
                st.one_of(
                    st.floats(allow_nan=False, allow_infinity=False),
                    st.floats(0.99999999, 1.0),
                    st.floats(-1e-44, 1e-44),
                    st.sampled_from([0.0, -0.0, 1.0, 1e38, 3e38, 1e300, -1e300, 1e-300]),
                ),
                max_size=30,
            ),
            max_size=4,
        )
    )
    def test_order_and_ties_survive(self, queries):
        ranking = make_ranking(
            {
                f"q{i}": {f"d{j}": score for j, score in enumerate(scores)}
                for i, scores in enumerate(queries)
            }
        )
        rounded = trec_scores(ranking)
        for start, stop in zip(ranking.offsets[:-1], ranking.offsets[1:], strict=True):
            exact = np.clip(ranking.scores[start:stop], -1e38, 1e38)
            assert_same_ranking(ranking.scores[start:stop], rounded[start:stop])
            distance = np.abs(rounded[start:stop].astype(np.float64) - exact)
            assert (distance <= 64 * np.spacing(np.abs(exact).astype(np.float32) + 1e-30)).all()


class TestWriteTrec:
    def lines(self, path):
        return path.read_text(encoding="utf-8").splitlines()

    @pytest.mark.usefixtures("small_blocks")
    def test_file(self, tmp_path):
        path = tmp_path / "run.trec"
        write_trec(path, make_ranking(RESULTS), "my model")
        assert self.lines(path) == [
            "q1 Q0 a 1 3 my_model",
            "q1 Q0 c 2 2 my_model",
            "q1 Q0 b 3 2 my_model",
            "q1 Q0 d 4 -1 my_model",
            "q3 Q0 b 1 0.5 my_model",
            "q4 Q0 c 1 7 my_model",
            "q4 Q0 d 2 1 my_model",
            "q4 Q0 a 3 0 my_model",
        ]
        assert list(tmp_path.iterdir()) == [path]

    def test_gz_is_reproducible(self, tmp_path):
        first, second = tmp_path / "a.trec.gz", tmp_path / "b.trec.gz"
        write_trec(first, make_ranking(RESULTS))
        write_trec(second, make_ranking(RESULTS))
        write_trec(tmp_path / "plain", make_ranking(RESULTS))
        assert first.read_bytes() == second.read_bytes()
        assert gzip.decompress(first.read_bytes()) == (tmp_path / "plain").read_bytes()

    @settings(max_examples=80, deadline=None)
    @given(st.lists(st.floats(-1e30, 1e30), max_size=40))
    def test_printed_scores_parse_to_the_same_float32(self, tmp_path_factory, values):
        ranking = make_ranking({"q": {f"d{i}": value for i, value in enumerate(values)}})
        path = tmp_path_factory.mktemp("run") / "run.trec"
        write_trec(path, ranking)
        printed = np.array([line.split()[4] for line in self.lines(path)], np.float64)
        assert printed.astype(np.float32).tolist() == trec_scores(ranking).tolist()

    def test_pytrec_eval_parses_every_id(self, tmp_path):
        names = [
            "a b",
            "50%",
            "a%20b",
            "a\tb",
            "\u3000w",
            "n\u00a0",
            "z\u2028",
            "\x1c",
            "é",
            "\x85",
        ]
        path = tmp_path / "run.trec"
        write_trec(path, make_ranking({"q 1": dict.fromkeys(names, 1.0)}))
        with open(path, encoding="utf-8", newline="\n") as file:
            run = pytrec_eval.parse_run(file)
        assert list(run) == ["q%201"]
        assert {unquote(name) for name in run["q%201"]} == set(names)

    def test_ids_without_white_space_stay(self):
        ids = pa.array(["a b", "50%", "c"])
        assert trec_ids(ids).to_pylist() == ["a%20b", "50%25", "c"]
        assert trec_ids(ids.slice(1)) == ids.slice(1)

    def test_failure_leaves_nothing(self, tmp_path, monkeypatch):
        path = tmp_path / "run.trec"
        path.write_text("before")

        def fail(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(ranking_module, "write_lines", fail)
        with pytest.raises(KeyboardInterrupt):
            write_trec(path, make_ranking(RESULTS))
        assert path.read_text() == "before"
        assert list(tmp_path.iterdir()) == [path]
