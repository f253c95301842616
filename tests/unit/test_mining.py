"""Mining rules against a plain oracle, Trove's own output and sentence-transformers."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trove_steps.errors import TroveStepsError
from trove_steps.mine import yielded
from trove_steps.mining.mined import Mined
from trove_steps.mining.mined_qrels import split_by_file, write_by_file, write_grouped, write_tsv
from trove_steps.mining.rules import mine, needed_depth
from trove_steps.mining.selection import Selection
from trove_steps.ranking import Ranking

from .rankings import make_qrels, make_ranking, read_qrels, read_run, rows_of

DOCS = [f"d{i}" for i in range(12)]


class Table:
    """Vectors in memory."""

    def __init__(self, values):
        self.values = np.asarray(values, np.float32)

    def take(self, indices):
        return self.values[indices]


def exhaustive(query_vectors, doc_vectors, query_ids=None, doc_ids=None):
    """Rank all documents by the dot product of float32 vectors."""
    query_ids = query_ids or [f"q{i}" for i in range(len(query_vectors))]
    doc_ids = doc_ids or [f"d{i}" for i in range(len(doc_vectors))]
    scores = query_vectors.astype(np.float64) @ doc_vectors.astype(np.float64).T
    return make_ranking(
        {
            q: dict(zip(doc_ids, row, strict=True))
            for q, row in zip(query_ids, scores.tolist(), strict=True)
        },
        doc_ids,
    )


def negatives_of(mined):
    found = {query: [] for query in mined.negatives.query_ids.to_pylist()}
    for query, doc, _ in rows_of(mined.negatives):
        found[query].append(doc)
    return found


RESULTS = {
    "q1": {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6, "e": 0.5},
    "q2": {"a": 0.5, "b": 0.9, "c": 0.5},
    "q3": {"e": 0.1},
    "q4": {"a": 0.3, "b": 0.2},
}
LABELS = {"q1": {"b": 1, "d": 0}, "q2": {"c": 2, "absent": 1}, "q3": {"e": 1}}


class TestTroveRules:
    def test_what_is_said_of_queries_with_few_or_none(self):
        found = {"a": {"d1": 2.0, "d2": 1.0}, "b": {"d1": 1.0}, "c": {}}
        few = mine(make_ranking(found), None, 2)
        assert (
            yielded(few, 2)
            == "3 negatives for 3 queries, 2 of them with fewer than 2 (1 with none)"
        )
        enough = mine(make_ranking({"a": {"d1": 2.0}}), None, 1)
        assert yielded(enough, 1) == "1 negative for 1 query"

    def test_annotated_documents_are_dropped_whatever_their_label(self):
        mined = mine(make_ranking(RESULTS), make_qrels(LABELS), 2)
        assert negatives_of(mined) == {"q1": ["a", "c"], "q2": ["b", "a"], "q3": []}

    def test_unannotated_queries_stay_without_qrels(self):
        expected = {"q1": ["a", "b"], "q2": ["b", "c"], "q3": ["e"], "q4": ["a", "b"]}
        for qrels in (None, make_qrels({})):
            assert negatives_of(mine(make_ranking(RESULTS), qrels, 2)) == expected
        assert negatives_of(mine(make_ranking(RESULTS), make_qrels(LABELS), 2, False)) == expected

    def test_ties_by_larger_document_id(self):
        mined = mine(make_ranking({"q": {"d1": 1.0, "d10": 1.0, "d2": 1.0}}), None, 2)
        assert negatives_of(mined) == {"q": ["d2", "d10"]}

    def test_funnel_adds_up_and_reports_shortage(self):
        mined = mine(make_ranking(RESULTS), make_qrels(LABELS), 3)
        assert mined.funnel.select(
            ["query_id", "candidates", "annotated", "kept", "missing"]
        ).to_pylist() == [
            {"query_id": "q1", "candidates": 5, "annotated": 2, "kept": 3, "missing": 0},
            {"query_id": "q2", "candidates": 3, "annotated": 1, "kept": 2, "missing": 1},
            {"query_id": "q3", "candidates": 1, "annotated": 1, "kept": 0, "missing": 3},
        ]
        assert mined.counts["num_queries"] == 4
        assert mined.counts["num_mined_queries"] == 3
        assert mined.counts["num_short_queries"] == 2
        assert mined.counts["num_missing"] == 4
        assert mined.counts["num_kept"] == 5

    def test_audit(self):
        audit = mine(make_ranking(RESULTS), make_qrels(LABELS), 2).audit.to_pylist()
        assert [(row["query_id"], row["doc_id"], row["rank"]) for row in audit] == [
            ("q1", "a", 1),
            ("q1", "c", 3),
            ("q2", "b", 1),
            ("q2", "a", 3),
        ]
        assert [row["gap"] for row in audit] == pytest.approx([-0.1, 0.1, -0.4, 0.0])
        assert audit[0]["teacher_score"] is None

    def test_qrels_of_another_data_set(self):
        with pytest.raises(TroveStepsError, match="none of the 4 searched queries is annotated"):
            mine(make_ranking(RESULTS), make_qrels({"x": {"a": 1}}), 2)

    @pytest.mark.parametrize("search_topk", [0, -3])
    def test_bad_search_topk(self, search_topk):
        with pytest.raises(TroveStepsError, match="search_topk must be at least 1"):
            mine(make_ranking(RESULTS), None, search_topk)

    def test_nothing_searched(self):
        mined = mine(make_ranking({}), None, 3)
        assert len(mined.negatives.docs) == len(mined.audit) == len(mined.funnel) == 0

    @pytest.mark.parametrize(("folder", "lowest"), [("mine", None), ("mine_min1", 1)])
    def test_same_file_as_trove(self, shared_data, tmp_path, folder, lowest):
        cranfield = shared_data / "cranfield"
        trove = cranfield / "reference" / "trove"
        ranking = read_run(trove / "run.top100.tsv.gz")
        qrels = read_qrels(cranfield / "qrels" / "test.tsv", lowest)
        assert needed_depth(15, qrels) <= 100
        mined = mine(ranking, qrels, 15)
        write_tsv(tmp_path / "mined_qrels.tsv", mined.negatives)
        expected = (trove / folder / "mined_qrels.tsv").read_bytes()
        assert (tmp_path / "mined_qrels.tsv").read_bytes() == expected
        assert mined.counts["num_missing"] == 0


class TestNeededDepth:
    def test_room_for_the_annotated(self):
        qrels = make_qrels(LABELS | {"q9": dict.fromkeys(DOCS, 0)})
        assert needed_depth(5, qrels) == 17
        assert needed_depth(5, qrels, no_annot_in_mined_hn=False) == 5
        assert needed_depth(5, None) == 5
        assert needed_depth(5, make_qrels({})) == 5
        assert needed_depth(5, qrels, selection=Selection(range_min=10)) == 27
        assert needed_depth(5, qrels, selection=Selection(range_max=40)) == 52

    def test_imports_nothing_heavy(self):
        code = (
            "import sys, trove_steps.mining.rules; "
            "heavy = {'torch', 'pandas', 'transformers', 'datasets', 'pytrec_eval'}; "
            "print(sorted(heavy & set(sys.modules)))"
        )
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert shown.stdout.strip() == "[]", shown.stderr


def oracle(found, labels, search_topk, selection, texts):
    """The rules for one query, one by one in plain Python; found: {document: score} of all."""
    positives = [doc for doc, label in labels.items() if label >= 1 and doc in found]
    ranked = sorted(found, key=lambda doc: (found[doc], doc.encode()), reverse=True)
    ranked = [doc for doc in ranked if doc not in labels]
    ranked = [doc for doc in ranked if texts[doc] not in {texts[p] for p in positives}]
    pool = ranked[: selection.candidates(search_topk)]
    weakest = min((found[p] for p in positives), default=None)

    def fits(doc):
        score = found[doc]
        if selection.max_score is not None and score > selection.max_score:
            return False
        if selection.min_score is not None and score < selection.min_score:
            return False
        if selection.has_margin and weakest is None:
            return False
        if selection.absolute_margin is not None and score + selection.absolute_margin > weakest:
            return False
        return selection.relative_margin is None or (
            score <= weakest - abs(weakest) * selection.relative_margin
        )

    left = [doc for doc in pool if fits(doc)][selection.range_min :]
    return left[: selection.wanted(search_topk)]


limits = st.one_of(st.none(), st.sampled_from([-2.0, 0.0, 1.0, 3.0]))
margins = st.one_of(st.none(), st.sampled_from([0.0, 0.05, 0.5, 1.0]))


class TestSelection:
    @settings(max_examples=120, deadline=None)
    @given(st.data())
    def test_rules_one_by_one(self, data):
        seed = data.draw(st.integers(0, 2**32 - 1))
        rng = np.random.default_rng(seed)
        # Whole numbers, so that ties and equalities with the limits are common and exact.
        queries = rng.integers(-2, 3, (3, 4)).astype(np.float32)
        documents = rng.integers(-2, 3, (12, 4)).astype(np.float32)
        texts = data.draw(st.lists(st.integers(0, 8), min_size=12, max_size=12))
        labels = data.draw(
            st.dictionaries(
                st.sampled_from(["q0", "q1", "q2"]),
                st.dictionaries(st.sampled_from([*DOCS, "absent"]), st.integers(-1, 2), min_size=1),
                min_size=1,
            )
        )
        search_topk = data.draw(st.integers(1, 6))
        range_min = data.draw(st.integers(0, 3))
        range_max = data.draw(st.one_of(st.none(), st.integers(range_min + 1, 12)))
        selection = Selection(
            range_min=range_min,
            range_max=range_max,
            max_score=data.draw(limits),
            min_score=data.draw(limits),
            absolute_margin=data.draw(margins),
            relative_margin=data.draw(margins),
        )
        room = selection.candidates(search_topk) - range_min
        selection = replace(
            selection, num_negatives=data.draw(st.one_of(st.none(), st.integers(1, room)))
        )
        ranking = exhaustive(queries, documents)
        mined = mine(
            ranking,
            make_qrels(labels),
            search_topk,
            selection=selection,
            texts=np.array(texts),
            query_vectors=Table(queries),
            doc_vectors=Table(documents),
        )
        expected = {}
        for place, query in enumerate(["q0", "q1", "q2"]):
            if query in labels:
                found = dict(zip(DOCS, (queries[place] @ documents.T).tolist(), strict=True))
                expected[query] = oracle(
                    found,
                    labels[query],
                    search_topk,
                    selection,
                    dict(zip(DOCS, texts, strict=True)),
                )
        assert negatives_of(mined) == expected
        self.check_funnel(mined, selection.wanted(search_topk))
        # However deep the search went, and in whatever blocks it is read.
        depth = needed_depth(search_topk, make_qrels(labels), True, selection, twins=True)
        with pytest.MonkeyPatch.context() as patch:
            blocks = Ranking.blocks
            patch.setattr(Ranking, "blocks", lambda self: blocks(self, 5))
            again = mine(
                ranking.head(depth),
                make_qrels(labels),
                search_topk,
                selection=selection,
                texts=np.array(texts),
                query_vectors=Table(queries),
                doc_vectors=Table(documents),
            )
        assert again.audit == mined.audit
        assert again.funnel == mined.funnel

    def check_funnel(self, mined: Mined, wanted):
        for row in mined.funnel.to_pylist():
            fates = sum(
                count
                for name, count in row.items()
                if name not in ("query_id", "candidates", "missing")
            )
            assert row["candidates"] == fates
            assert row["kept"] + row["missing"] == wanted
        assert np.isfinite(mined.negatives.scores).all()
        assert mined.counts["num_kept"] == len(mined.audit) == len(mined.negatives.docs)

    def test_margin_of_a_negative_score(self):
        """A factor of 0.5 on -1.0 would let -0.6 through."""
        ranking = make_ranking({"q": {"p": -1.0, "x": -0.6, "y": -1.4, "z": -1.6}})
        mined = mine(
            ranking, make_qrels({"q": {"p": 1}}), 3, selection=Selection(relative_margin=0.5)
        )
        assert negatives_of(mined) == {"q": ["z"]}
        assert mined.counts["num_margin"] == 2

    def test_margin_from_a_positive_that_was_not_retrieved(self):
        rng = np.random.default_rng(0)
        queries, documents = (rng.standard_normal((n, 8)).astype(np.float32) for n in (1, 50))
        ranking = exhaustive(queries, documents)
        last = int(ranking.docs[-1])
        arguments = {
            "qrels": make_qrels({"q0": {f"d{last}": 1}}),
            "search_topk": 10,
            "selection": Selection(absolute_margin=0.0),
        }
        mined = mine(
            ranking.head(11),
            query_vectors=Table(queries),
            doc_vectors=Table(documents),
            **arguments,
        )
        assert negatives_of(mined) == {"q0": []}
        assert mined.counts["num_margin"] == 10
        with pytest.raises(ValueError, match="query_vectors"):
            mine(ranking.head(11), **arguments)

    def test_margin_without_a_positive(self):
        ranking = make_ranking({"q": {"a": 2.0, "b": 1.0}})
        mined = mine(
            ranking, make_qrels({"q": {"a": 0}}), 1, selection=Selection(absolute_margin=0.0)
        )
        assert mined.counts["num_no_positive"] == 1
        assert mined.counts["num_kept"] == 0

    def test_margin_without_qrels(self):
        with pytest.raises(TroveStepsError, match="qrel_path"):
            mine(make_ranking(RESULTS), None, 1, selection=Selection(absolute_margin=0.1))

    def test_text_twins_of_positives_only(self):
        results = {"q": {"p": 5.0, "twin": 4.0, "n": 3.0, "twin of n": 2.0, "x": 1.0, "z": 0.5}}
        ranking = make_ranking(results)
        names = ranking.doc_ids.to_pylist()
        same = {"twin": "p", "twin of n": "n", "x": "zero"}
        texts = np.array([hash(same.get(name, name)) for name in names])
        qrels = make_qrels({"q": {"p": 1, "zero": 0}})
        mined = mine(ranking, qrels, 5, texts=texts)
        assert negatives_of(mined) == {"q": ["n", "twin of n", "x", "z"]}
        assert mined.counts["num_twins"] == 1

    def test_text_twins_that_are_kept_are_flagged(self):
        ranking = make_ranking({"q": {"p": 3.0, "twin": 2.0, "n": 1.0}})
        names = ranking.doc_ids.to_pylist()
        texts = np.array([name == "n" for name in names], np.int64)
        qrels = make_qrels({"q": {"p": 1}})
        kept = mine(ranking, qrels, 2, texts=texts, drop_text_twins=False)
        assert negatives_of(kept) == {"q": ["twin", "n"]}
        assert kept.audit["text_twin"].to_pylist() == [True, False]
        assert mine(ranking, qrels, 1, texts=texts).audit["text_twin"].to_pylist() == [False]
        assert mine(ranking, qrels, 1).audit["text_twin"].to_pylist() == [None]

    def test_more_twins_than_there_is_room_for(self):
        """The shortage is the same however deep the search went."""
        docs = {"p": 9.0} | {f"t{i}": 8.0 for i in range(30)} | {f"x{i}": 1.0 for i in range(30)}
        ranking = make_ranking({"q": docs})
        texts = np.array([name if name[0] == "x" else "p" for name in ranking.doc_ids.to_pylist()])
        qrels = make_qrels({"q": {"p": 1}})
        deep = mine(ranking, qrels, 20, texts=texts)
        assert deep.counts["num_missing"] == 14
        shallow = mine(ranking.head(needed_depth(20, qrels, twins=True)), qrels, 20, texts=texts)
        assert shallow.audit == deep.audit
        assert shallow.funnel == deep.funnel

    def test_near_twins(self):
        queries = np.array([[1.0, 0.0]], np.float32)
        documents = np.array([[2, 0], [3, 0.01], [1, 1], [0, 0], [-1, 0]], np.float32)
        ranking = exhaustive(queries, documents)
        arguments = {"doc_vectors": Table(documents), "query_vectors": Table(queries)}
        qrels = make_qrels({"q0": {"d0": 1}})
        mined = mine(ranking, qrels, 4, selection=Selection(near_twin_cosine=0.99), **arguments)
        assert negatives_of(mined) == {"q0": ["d2", "d3", "d4"]}
        cosines = mined.audit["near_twin_cosine"].to_pylist()
        assert cosines == pytest.approx([2**-0.5, 0, -1])
        everything = mine(ranking, qrels, 4, selection=Selection(near_twin_cosine=1.0), **arguments)
        assert everything.counts["num_twins"] == 0

    def test_random_sample(self):
        rng = np.random.default_rng(0)
        results = {
            f"q{q}": {f"d{d}": float(s) for d, s in enumerate(rng.standard_normal(40))}
            for q in range(400)
        }
        ranking = make_ranking(results)
        selection = Selection(num_negatives=5, range_max=20, sampling="random", seed=7)
        mined = mine(ranking, None, 20, selection=selection)
        assert set(mined.negatives.lengths) == {5}
        assert mined.counts["num_unused"] == 15 * 400
        # Every place of the window comes up as often as it should (20 standard deviations).
        ranks = np.bincount(mined.audit["rank"].to_numpy(), minlength=21)
        assert ranks[0] == 0
        assert (np.abs(ranks[1:] - 100) < 45).all()
        assert (
            np.diff(mined.negatives.scores)[np.diff(mined.negatives.row_queries) == 0] <= 0
        ).all()
        some = np.array([5, 399, 17])
        alone = mine(ranking.select(some), None, 20, selection=selection)
        assert negatives_of(alone) == {f"q{i}": negatives_of(mined)[f"q{i}"] for i in some}
        other = mine(ranking, None, 20, selection=replace(selection, seed=8))
        assert negatives_of(other) != negatives_of(mined)

    def test_two_queries_draw_independently(self):
        docs = {f"d{d}": 0.0 for d in range(30)}
        ranking = make_ranking({f"q{q}": docs for q in range(50)})
        selection = Selection(num_negatives=1, sampling="random")
        drawn = [
            docs[0] for docs in negatives_of(mine(ranking, None, 30, selection=selection)).values()
        ]
        assert len(set(drawn)) > 15

    def test_teacher(self):
        ranking = make_ranking(RESULTS)
        names = np.array(ranking.doc_ids.to_pylist())
        asked = []

        def teacher(queries, docs):
            asked.extend(zip(queries.tolist(), docs.tolist(), strict=True))
            return np.array([-ord(doc) / 100 for doc in names[docs]])

        mined = mine(
            ranking,
            make_qrels(LABELS),
            3,
            selection=Selection(num_negatives=2, relative_margin=0.0),
            teacher=teacher,
        )
        # The teacher says a > b > c > d > e; positives are b, c, e.
        assert negatives_of(mined) == {"q1": ["c", "e"], "q2": [], "q3": []}
        assert mined.negatives.scores.tolist() == mined.audit["teacher_score"].to_pylist()
        assert mined.audit["score"].to_pylist() == [0.7, 0.5]
        assert mined.audit["gap"].to_pylist() == pytest.approx([0.01, 0.03])
        assert len(asked) == len(set(asked))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_negatives": 0}, "num_negatives must be at least 1"),
            ({"range_min": -1}, "range_min must be at least 0"),
            (
                {"range_min": 10, "range_max": 5},
                r"range_max \(5\) must be larger than mining.range_min \(10",
            ),
            ({"num_negatives": 7}, "looks at only 5 candidates"),
            ({"relative_margin": -0.1}, "relative_margin must not be negative"),
            (
                {"relative_margin": 5},
                "relative_margin: 5 is no share of the .* score, from 0 to 1: 0.05 means 5 %",
            ),
            ({"sampling": "best"}, "top or random"),
        ],
    )
    def test_contradictions(self, options, message):
        with pytest.raises(TroveStepsError, match=message):
            mine(make_ranking(RESULTS), None, 5, selection=Selection(**options))


class Lookup:
    """An encoder whose texts are ids and whose vectors are known: what the miner below calls."""

    device = "cpu"

    def __init__(self, queries, documents):
        self.queries, self.documents = queries, documents

    def encode_query(self, texts, **_):
        return np.stack([self.queries[text] for text in texts])

    def encode_document(self, texts, **_):
        return np.stack([self.documents[text] for text in texts])

    def similarity(self, left, right):
        import torch

        return torch.as_tensor(left) @ torch.as_tensor(right).T

    def similarity_pairwise(self, left, right):
        import torch

        return (torch.as_tensor(left) * torch.as_tensor(right)).sum(1)


@pytest.fixture(scope="module")
def scifact(shared_data):
    """Vectors and judgments of a real collection: (queries, documents, qrels, ranking)."""
    folder = shared_data / "scifact"
    sides = []
    for side in ("query", "doc"):
        ids = (folder / "reference" / f"{side}_ids.txt").read_text().split()
        sides.append((ids, np.load(folder / "reference" / f"{side}_emb.npy").astype(np.float32)))
    (query_ids, queries), (doc_ids, documents) = sides
    ranking = exhaustive(queries, documents, query_ids, doc_ids).head(400)
    return (
        (query_ids, queries),
        (doc_ids, documents),
        read_qrels(folder / "qrels/test.tsv"),
        ranking,
    )


@pytest.mark.slow  # imports a trainer library
@pytest.mark.parametrize(
    "options",
    [
        {"num_negatives": 5},
        {"num_negatives": 4, "range_min": 10},
        {"num_negatives": 5, "range_max": 60, "max_score": 0.5, "min_score": 0.2},
        {"num_negatives": 5, "range_max": 200, "absolute_margin": 0.1},
        {"num_negatives": 3, "range_max": 200, "relative_margin": 0.05},
        {
            "num_negatives": 2,
            "range_min": 3,
            "range_max": 300,
            "relative_margin": 0.2,
            "max_score": 0.6,
        },
    ],
)
def test_same_as_sentence_transformers(scifact, options):
    datasets = pytest.importorskip("datasets")
    util = pytest.importorskip("sentence_transformers.util")
    (query_ids, queries), (doc_ids, documents), qrels, ranking = scifact
    rows = [row for row in qrels.to_pylist() if row["score"] >= 1]
    theirs = util.mine_hard_negatives(
        datasets.Dataset.from_dict(
            {"query": [r["query_id"] for r in rows], "positive": [r["doc_id"] for r in rows]}
        ),
        Lookup(
            dict(zip(query_ids, queries, strict=True)), dict(zip(doc_ids, documents, strict=True))
        ),
        corpus=doc_ids,
        output_format="labeled-pair",
        verbose=False,
        **options,
    )
    expected = {query: [] for query in query_ids}
    for row in theirs:
        if row["label"] == 0:
            expected[row["query"]].append(row["positive"])
    mined = mine(
        ranking,
        qrels,
        options["num_negatives"],
        selection=Selection(**options),
        query_vectors=Table(queries),
        doc_vectors=Table(documents),
    )
    ours = negatives_of(mined)
    assert sum(map(len, ours.values())) > 0.5 * 300 * options["num_negatives"]
    # They look at a few candidates more where another query has more positives: a query that is
    # short of negatives with us may have further ones there, after ours.
    full = [query for query, docs in ours.items() if len(docs) == options["num_negatives"]]
    assert {query: ours[query] for query in full} == {query: expected[query] for query in full}
    for query, docs in ours.items():
        assert docs == expected[query][: len(docs)]


class TestFiles:
    def mined(self, results=RESULTS, doc_ids=None):
        return mine(make_ranking(results, doc_ids), None, 2)

    def test_tsv(self, tmp_path):
        path = tmp_path / "mined_qrels.tsv"
        mined = self.mined({"q 1": {"a": 0.1, "é": 1e-7}, "q2": {}, "q3": {"b": 3.0}})
        write_tsv(path, mined.negatives)
        rounded = float(np.float32(0.1)), float(np.float32(1e-7))
        assert path.read_text(encoding="utf-8") == (
            "query-id\tcorpus-id\tscore\n"
            f"q 1\ta\t{rounded[0]!r}\nq 1\té\t{rounded[1]!r}\nq3\tb\t3.0\n"
        )

    def test_grouped(self, tmp_path):
        path = tmp_path / "mined_qrels.jsonl"
        write_grouped(path, self.mined({"q\t1": {"a": 0.5, "é": 0.25}, "q2": {}}).negatives)
        assert path.read_text(encoding="utf-8") == (
            '{"qid": "q\\t1", "docid": ["a", "é"], "score": [0.5, 0.25]}\n'
        )

    @pytest.mark.parametrize("bad", ["a\tb", "a\nb", "a\r"])
    def test_ids_that_tsv_cannot_hold(self, tmp_path, bad):
        with pytest.raises(TroveStepsError, match="grouped"):
            write_tsv(tmp_path / "x.tsv", self.mined({"q": {bad: 1.0}}).negatives)
        assert not list(tmp_path.iterdir())

    def test_by_file(self, tmp_path):
        mined = self.mined()
        query_files, corpus_files = np.array([0, 0, 1, 1]), np.array([1, 0, 0, 0, 1])
        parts = {
            (query, corpus): {row[:2] for row in rows_of(rows)}
            for query, corpus, rows in split_by_file(mined, query_files, corpus_files)
        }
        assert parts == {
            (0, 0): {("q1", "b"), ("q2", "b"), ("q2", "c")},
            (0, 1): {("q1", "a")},
            (1, 0): {("q4", "b")},
            (1, 1): {("q3", "e"), ("q4", "a")},
        }
        written = write_by_file(
            tmp_path, mined, ["qa", "qb"], query_files, ["ca", "cb"], corpus_files
        )
        assert len(written) == 8
        metadata = json.loads(
            (tmp_path / "query_corpus_pair_1" / "file_pair_metadata.json").read_text()
        )
        assert (metadata["query_file"], metadata["corpus_file"]) == ("qa", "cb")
        assert set(metadata) == {"query_file", "query_realpath", "corpus_file", "corpus_realpath"}
        lines = (tmp_path / "query_corpus_pair_1" / "mined_qrels.tsv").read_text().splitlines()
        assert [line.split("\t")[:2] for line in lines[1:]] == [["q1", "a"]]

    @pytest.mark.parametrize("write", [write_tsv, write_grouped])
    def test_a_clash_of_ids(self, tmp_path, write):
        ranking = Ranking(
            pa.array(["q"]),
            pa.array(["a", "b", "a"]),
            np.array([0, 3]),
            np.array([0, 1, 2]),
            np.array([3.0, 2.0, 1.0]),
        )
        with pytest.raises(TroveStepsError, match=r"'q' and document 'a'.*merge_mined_qrels"):
            write(tmp_path / "out", mine(ranking, None, 3).negatives)
        write(tmp_path / "out", mine(ranking, None, 2).negatives)  # the second "a" is not in it
