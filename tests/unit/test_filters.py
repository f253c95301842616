"""Filters of judgments, against plain Python that does the same one by one."""

import math
import operator
import time
from itertools import groupby

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trove_steps.data.expressions import check, evaluate
from trove_steps.data.filters import check_options, filtered
from trove_steps.errors import TroveStepsError

NAMES = ("query_id", "doc_id", "score")


def table(rows):
    columns = list(zip(*rows, strict=True)) if rows else [[], [], []]
    scores = pa.array(
        columns[2], pa.float64() if any(isinstance(s, float) for s in columns[2]) else pa.int64()
    )
    ids = [pa.array(list(column), pa.string()) for column in columns[:2]]
    return pa.table(dict(zip(NAMES, (*ids, scores), strict=True)))


def rows_of(judgments) -> list[tuple]:
    return [tuple(row.values()) for row in judgments.to_pylist()]


ROWS = [("q1", "a", 3), ("q2", "b_synth", 1), ("q1", "c_synth", 0), ("q1", "d", 3), ("q2", "e", 2)]


# --- expressions ---------------------------------------------------------------------------------

CONDITIONS = [
    "score >= 2",
    "score >= 2 and docid.endswith('_synth')",
    "not docid.endswith(('_synth', 'd')) or qid == 'q2'",
    "0 < score <= 2",
    "score in [1, 3]",
    "qid in ('q1', 'q9') and score not in {0}",
    "'synth' in docid",
    "'synth' not in docid",
    "rec['docid'].startswith('c') and rec['score'] == 0",
    "len(docid) > 1",
    "score % 2 == 1",
    "qid != 'q1'",
    "docid < 'c'",
    "abs(score - 2) <= 1",
    "(1 if score > 1 else 0) == 1",
    "max(score, 2) == 2",
    "-score < -1",
    "not not score",
    "score == 1 or score == 2 or score == 3",
    "True",
    "score // 2 == 1",
    "score / 2 == 1.5",
]  # fmt: skip


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_means_what_it_means_in_python(condition):
    names = {"abs": abs, "len": len, "max": max, "__builtins__": {}}
    expected = []
    for qid, docid, score in ROWS:
        record = {"qid": qid, "docid": docid, "score": score}
        expected.append(bool(eval(condition, names, {**record, "rec": record})))
    found = evaluate(condition, table(ROWS), "truth")
    assert found.dtype == bool
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("1 if score in [3, 2] else 0", [1, 0, 0, 1, 1]),
        ("score * 2 + 1", [7, 3, 1, 7, 5]),
        ("score / 2", [1.5, 0.5, 0, 1.5, 1]),
        ("floor(score / 2)", [1, 0, 0, 1, 1]),
        ("ceil(score / 2)", [2, 1, 0, 2, 1]),
        ("min(score, 2)", [2, 1, 0, 2, 2]),
        ("score > 2", [1, 0, 0, 1, 0]),
        ("3", [3] * 5),
    ],
)
def test_a_number_for_every_judgment(expression, expected):
    assert evaluate(expression, table(ROWS), "number").tolist() == expected


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("__import__('os').system('true')", "not allowed"),
        ("().__class__", "not allowed"),
        ("docid.__class__", "not allowed"),
        ("docid.upper() == 'A'", "not allowed"),
        ("open('x')", "not allowed"),
        ("[x for x in docid]", "not allowed"),
        ("lambda: 1", "not allowed"),
        ("score ** 9", "not allowed"),
        ("f'{score}'", "not allowed"),
        ("rec.items()", "rec"),
        ("score := 3", "no expression"),
        ("score; score", "no expression"),
        ("score >", "no expression"),
        ("qid == 7", "an id is a text"),
        ("qid in [7]", "an id is a text"),
        ("score == 'a'", "compared with a text"),
        ("score", "no condition"),
        ("docid", "no condition"),
        ("label >= 2", "the name 'label' is unknown"),
        ("score is 2", "write =="),
        ("docid.startswith(score)", "takes a text"),
        ("docid.startswith('a', 1)", "not allowed"),
        ("docid.startswith()", "not allowed"),
        ("docid + 'a' == 'a'", "no number"),
        ("~score == 1", "~"),
        ("(" * 300 + "score" + ")" * 300 + " > 1", ""),
        ("not " * 400 + "score", ""),
        ("score > " + "9" * 2500, "longer than"),
        ("", "no expression"),
        ("None", "not allowed"),
        ("score[0] > 1", "not allowed"),
        ("score > 1 > 'a'", "text"),
    ],
)
def test_what_an_expression_may_not_hold(expression, message):
    with pytest.raises(TroveStepsError) as raised:
        check(expression, "truth")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("operator_", ["/", "//", "%"])
def test_a_division_by_zero_is_refused_unless_it_is_guarded(operator_):
    """numpy would give 0 for whole numbers, and a condition would hide infinity."""
    division = f"6 {operator_} score"
    for expression, wanted in ((division, "number"), (f"{division} > 0", "truth")):
        with pytest.raises(TroveStepsError, match="divides by zero for some judgments"):
            evaluate(expression, table(ROWS), wanted)
        check(expression, wanted)
    expected = [eval(division, {"score": row[2]}) if row[2] else 7 for row in ROWS]
    assert evaluate(f"{division} if score else 7", table(ROWS), "number").tolist() == expected
    for guarded in (f"score != 0 and {division} > 1", f"not (score == 0 or {division} <= 1)"):
        assert evaluate(guarded, table(ROWS), "truth").tolist() == [
            row[2] != 0 and eval(division, {"score": row[2]}) > 1 for row in ROWS
        ]


def test_a_division_by_zero_of_constants_is_not_called_too_large():
    with pytest.raises(TroveStepsError, match="no finite number: too large, or divided by zero"):
        check("1/0", "number")


@pytest.mark.parametrize(
    "expression", ["score or 1", "score and 2", "score > 1 and docid", "1 or qid"]
)
def test_and_and_or_join_conditions_only(expression):
    """In Python `score or 1` is 3 where the score is 3, not true."""
    for wanted in ("truth", "number"):
        with pytest.raises(TroveStepsError, match="is no condition: and, or join conditions"):
            check(expression, wanted)


@pytest.mark.parametrize(
    ("expression", "score"),
    [("floor(score)", 1e300), ("ceil(score)", -1e19), ("floor", 2.0**63), ("score * 4", 1 << 62),
     ("score + score", 1 << 62), ("score - 3 * score", 1 << 62)],
)  # fmt: skip
def test_what_does_not_fit_into_64_bits_is_refused(expression, score):
    with pytest.raises(TroveStepsError, match="does not fit into 64 bits"):
        filtered(table([("q", "d", score)]), {"score_transform": expression})
    with pytest.raises(TroveStepsError, match="no number"):
        filtered(table(ROWS), {"score_transform": 10**30})


@pytest.mark.parametrize(
    "expression",
    ["(score >= 1) + (score >= 2) + (score >= 3)", "(score > 1) - (score > 2)", "-(score > 1)",
     "2 * (score > 1)", "+(score > 1)", "score in [-1, +2, 3]", "True + True + score",
     "abs(score > 1)", "min(score > 1, score > 2)"],
)  # fmt: skip
def test_conditions_count_as_numbers_where_numbers_are_needed(expression):
    expected = [eval(expression, {"score": row[2]}) for row in ROWS]
    assert evaluate(expression, table(ROWS), "number").tolist() == expected


def test_a_sum_of_conditions_is_no_condition():
    with pytest.raises(TroveStepsError, match="it is no condition"):
        check("(score > 1) + (score > 2)", "truth")


@pytest.mark.parametrize("expression", ["-score", "abs(score)"])
def test_the_smallest_integer_has_no_positive_counterpart(expression):
    with pytest.raises(TroveStepsError, match="does not fit into 64 bits"):
        evaluate(expression, table([("q", "d", -(2**63))]), "number")


@pytest.mark.parametrize("expression", ["floor", "ceil"])
def test_integers_are_what_they_are_rounded_to(expression):
    rows = [("q", "d", 2**53 + 1), ("q", "e", 2**63 - 1), ("q", "f", -(2**63))]
    found, _ = filtered(table(rows), {"score_transform": expression})
    assert rows_of(found) == rows


def joined(*parts) -> st.SearchStrategy[str]:
    return st.tuples(*(st.just(p) if isinstance(p, str) else p for p in parts)).map("".join)


def conditions_of(numbers):
    atoms = joined(numbers, st.sampled_from([" < ", " == ", " >= ", " != "]), numbers)
    atoms |= st.sampled_from(["docid.endswith('_synth')", "qid == 'q1'", "score in [1, 3]"])
    return st.recursive(
        atoms,
        lambda inner: (
            joined("(", inner, st.sampled_from([" and ", " or "]), inner, ")")
            | joined("(not ", inner, ")")
        ),
        max_leaves=4,
    )


NUMBERS = st.recursive(
    st.sampled_from(["score", "score", "2", "-1", "0", "0.5"]),
    lambda inner: (
        joined("(", inner, st.sampled_from([" + ", " - ", " * ", " / ", " // ", " % "]), inner, ")")
        | joined(st.sampled_from(["abs(", "floor(", "ceil("]), inner, ")")
        | joined("min(", inner, ", ", inner, ")")
        | joined("(", inner, " if ", conditions_of(inner), " else ", inner, ")")
        | joined("(", conditions_of(inner), ")")
    ),
    max_leaves=6,
)


def in_python(expression: str, rows) -> list | None:
    """Evaluate row by row; None if Python raises."""
    names = {"abs": abs, "min": min, "floor": math.floor, "ceil": math.ceil, "__builtins__": {}}
    try:
        return [eval(expression, names, {"qid": q, "docid": d, "score": s}) for q, d, s in rows]
    except (ZeroDivisionError, OverflowError):
        return None


@settings(deadline=None, max_examples=400)
@example("score", "(score < score and score < (score / 0))")
@given(NUMBERS, conditions_of(NUMBERS))
def test_an_expression_gives_what_python_gives(number, condition):
    for expression, wanted in ((number, "number"), (condition, "truth")):
        expected = in_python(expression, ROWS)
        if expected is None:
            with pytest.raises(TroveStepsError):
                evaluate(expression, table(ROWS), wanted)
        else:
            expected = expected if wanted == "truth" else list(map(operator.pos, expected))
            assert evaluate(expression, table(ROWS), wanted).tolist() == pytest.approx(expected)


PIECES = st.sampled_from(
    ["score", "qid", "docid", "'a'", "1", "2.5", " and ", " or ", "not ", " in ", "==", "<", "(", ")", ",",
     "[", "]", ".endswith(", " if ", " else ", "+", "%", "//", "len(", "min(", "rec", "True", "None", "**"]
)  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=20))
def test_any_text_is_an_expression_or_the_clear_error(expression):
    for wanted in ("truth", "number"):
        try:
            assert len(evaluate(expression, table(ROWS), wanted)) == len(ROWS)
        except TroveStepsError as error:
            assert "allowed are" in str(error)  # noqa: PT017


# --- filters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"min_score": 1, "max_score": 3}, [ROWS[1], ROWS[4]]),
        ({"max_score": 1}, [ROWS[2]]),
        ({"filter_fn": "docid.endswith('_synth') and score == 0"}, [ROWS[2]]),
        ({"group_top_k": 1}, [ROWS[0], ROWS[4]]),
        ({"group_top_k": 2}, [ROWS[0], ROWS[1], ROWS[3], ROWS[4]]),
        ({"group_bottom_k": 1}, [ROWS[1], ROWS[2]]),
        ({"group_first_k": 1}, [ROWS[0], ROWS[1]]),
        ({"group_first_k": 9}, ROWS),
        ({"group_top_k": 1, "min_score": 3}, [ROWS[0]]),
        ({"score_transform": 0, "min_score": 3}, [("q1", "a", 0), ("q1", "d", 0)]),
        ({"score_transform": "score + 1", "group_top_k": 1}, [("q1", "a", 4), ("q2", "e", 3)]),
        ({"min_score": 99}, []),
        ({"min_score": 99, "group_top_k": 1, "score_transform": "score * 2"}, []),
    ],
)
def test_options(options, expected):
    found, steps = filtered(table(ROWS), options)
    assert rows_of(found) == expected
    assert steps[0]["before"] == len(ROWS)
    assert steps[-1]["after"] == len(expected)


def test_the_smallest_integer_is_the_smallest_score():
    """Its negative is itself in 64 bits."""
    rows = [("q", "a", -(2**63)), ("q", "b", 0), ("q", "c", 2**63 - 1)]
    for option, kept in (("group_top_k", rows[2]), ("group_bottom_k", rows[0])):
        assert rows_of(filtered(table(rows), {option: 1})[0]) == [kept]


def test_a_filter_of_several_lines_is_told_in_one():
    _, steps = filtered(table(ROWS), {"filter_fn": "(score > 0\n  and score < 3)"})
    assert steps[0]["filter"] == "filter_fn (score > 0 and score < 3)"


def test_transforms_of_fractions():
    rows = [("q", "a", 1.9), ("q", "b", -0.5), ("q", "c", 2.0)]
    for name, expected in (
        ("floor", [1, -1, 2]),
        ("ceil", [2, 0, 2]),
        ("score * 2", [3.8, -1.0, 4.0]),
    ):
        found, _ = filtered(table(rows), {"score_transform": name})
        assert found["score"].to_pylist() == expected


def test_a_subset_of_the_queries():
    found, steps = filtered(table(ROWS), {"min_score": 1}, pa.array(["q2", "q7"]))
    assert rows_of(found) == [ROWS[1], ROWS[4]]
    assert steps == [
        {"filter": "query_subset_path", "before": 5, "after": 2},
        {"filter": "min_score 1", "before": 2, "after": 2},
    ]


SCORES = st.integers(-3, 3)
TRIPLETS = st.dictionaries(
    st.tuples(st.sampled_from(["q1", "q2", "ä"]), st.sampled_from("abcdefgh")), SCORES, min_size=1
).map(lambda found: [(*pair, score) for pair, score in found.items()])


@settings(deadline=None)
@given(TRIPLETS, st.integers(1, 4), st.sampled_from(["top", "bottom", "first", "random"]))
def test_groups_against_plain_python(rows, most, kind):
    found = rows_of(filtered(table(rows), {f"group_{kind}_k": most})[0])
    places = [rows.index(row) for row in found]
    assert places == sorted(places)  # in the order of the file
    by_query = operator.itemgetter(0)
    for query, group in groupby(sorted(rows, key=by_query), key=by_query):
        group = sorted(group, key=rows.index)
        kept = [row for row in found if row[0] == query]
        assert len(kept) == min(most, len(group))
        sign = {"top": -1, "bottom": 1}.get(kind)
        if sign:
            assert sorted(kept) == sorted(sorted(group, key=lambda row: sign * row[2])[:most])
        elif kind == "first":
            assert kept == group[:most]


def test_chance_is_the_same_in_every_run_and_another_with_another_seed():
    rows = [("q", f"d{n}", 1) for n in range(1000)]
    first = rows_of(filtered(table(rows), {"group_random_k": 5})[0])
    # Golden: another choice would be another data set under the same key.
    assert [row[1] for row in first] == GOLDEN
    assert rows_of(filtered(table(rows), {"group_random_k": 5})[0]) == first
    other = filtered(table(rows), {"group_random_k": 5, "group_random_seed": 1})[0]
    assert rows_of(other) != first


GOLDEN = ["d11", "d269", "d850", "d855", "d921"]

FUNCTIONS = """
def graded(rec):
    return rec["score"] == 3 and rec["docid"] != "d"

def ends(recs):
    recs = sorted(recs, key=lambda r: r["score"])
    return [recs[0], recs[-1]]

def binary(rec):
    return 1 if rec["score"] in (2, 3) else 0

def fails(rec):
    return rec["nothing"]

def wrong(recs):
    return [{"qid": "q1", "docid": "invented", "score": 1}]

def text(rec):
    return "high"

def twice(recs):
    return recs + recs[:1]

number = 7
"""


@pytest.fixture
def functions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_filters.py").write_text(FUNCTIONS)
    return tmp_path / "own_filters.py"


def test_functions_of_the_users_own(functions):
    def found(**options):
        return rows_of(filtered(table(ROWS), options)[0])

    assert found(filter_fn="own_filters:graded") == [ROWS[0]]
    assert found(group_filter_fn="own_filters:ends") == [
        ("q1", "c_synth", 0), ("q1", "d", 3), ("q2", "b_synth", 1), ("q2", "e", 2)
    ]  # fmt: skip
    assert [row[2] for row in found(score_transform="own_filters:binary")] == [1, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"filter_fn": "own_filters:fails"},
            r"own_filters:fails failed at .*own_filters.py:13 \(KeyError",
        ),
        ({"filter_fn": "own_filters:gone"}, "own_filters.py has no gone"),
        ({"filter_fn": "own_filters:number"}, "is no function"),
        ({"filter_fn": "no_such_file:f"}, "no module no_such_file"),
        ({"group_filter_fn": "own_filters:wrong"}, "must return a list of the records that it got"),
        ({"group_filter_fn": "own_filters:number"}, "is no function"),
        (
            {"group_filter_fn": "own_filters:twice"},
            "returned a record of the query 'q1' twice, of .* 'a'",
        ),
        ({"score_transform": "own_filters:text"}, "'high' is not a number"),
        (
            {"filter_fn": "own_filters:graded", "sources": {"own_filters:graded": "0" * 64}},
            "changed since this run was planned",
        ),
    ],
)
def test_mistakes_in_functions(functions, options, message):
    with pytest.raises(TroveStepsError, match=message):
        filtered(table(ROWS), options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filter_fn": "score > 1", "min_score": 1}, "d.min_score: filter_fn takes its place"),
        ({"group_top_k": 1, "group_first_k": 1}, "d: only one of group_top_k and group_first_k"),
        ({"group_random_seed": 1}, "d.group_random_seed: does nothing"),
        ({"min_score": 2, "max_score": 2}, "d: no score is at least"),
        ({"filter_fn": "score >"}, "d.filter_fn: 'score >': it is no expression"),
        ({"filter_fn": "score + 1"}, "d.filter_fn: 'score + 1': it is no condition"),
        ({"score_transform": "docid"}, "d.score_transform: 'docid': it is no number"),
        ({"group_filter_fn": "score > 1"}, "d.group_filter_fn: a function"),
    ],
)
def test_mistakes_in_options_are_told_before_anything_is_read(options, message):
    (line,) = check_options(options, "d")
    assert line.startswith(message)


@pytest.mark.slow
def test_ten_million_triplets_in_bounded_time():
    n = 10_000_000
    numbers = np.arange(n)
    ids = pa.array([f"d{i}_synth" if i % 3 else f"d{i}" for i in range(100_000)])
    queries = pa.array([f"q{i}" for i in range(100_000)])
    rows = pa.table(
        {
            "query_id": queries.take(pa.array(numbers // 100)),
            "doc_id": ids.take(pa.array(numbers * 7919 % 100_000)),
            "score": pa.array(numbers % 4),
        }
    )
    started = time.process_time()
    options = {
        "filter_fn": 'score >= 1 and docid.endswith("_synth")',
        "group_top_k": 20,
        "score_transform": "1 if score > 2 else 0",
    }
    found, steps = filtered(rows, options, queries.slice(0, 90_000))
    assert found.num_rows == 90_000 * 20
    assert time.process_time() - started < 20
    print(steps, time.process_time() - started)
