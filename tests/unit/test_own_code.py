"""What functions of the user's own may do wrong: each is told in one line, none ends a run without a word."""

from pathlib import Path

import numpy as np
import pytest

from trove_steps.data import load_qrels, read_records, reader_of
from trove_steps.data.filters import filtered
from trove_steps.data.judgments import judgment_columns
from trove_steps.errors import TroveStepsError
from trove_steps.formats import formatter

CODE = """
import json
import sys
import numpy as np

class Markup(str):
    "A string of a library, such as those of lxml and BeautifulSoup."

class Wordless(Exception):
    def __str__(self):
        raise ValueError

class Name:
    def __iter__(self):
        return iter([("q", "d", 1)])

def lines(path):
    raise ValueError("first\\n  second")

def leaves(path):
    sys.exit(0)

def wordless(path):
    raise Wordless

def deeper(path):
    return int("seven")

def elsewhere(path):
    return json.loads("{")

def nothing(path):
    return None

def texts(path):
    return "text"

def pairs(path):
    return [("q", "d")]

def numbers(path):
    return [1, 2]

def incomplete(path):
    return [{"qid": "q", "docid": "d"}]

def flat(path):
    return {"q": 1}

def no_argument():
    return []

def arrays(path):
    return [("q", "d", np.arange(2))]

def arrays_of_ids(path):
    return [("q", np.array(["d", "e"]), 1)]

def markup(path):
    yield {"_id": Markup("a"), "title": Markup("t"), "text": Markup("b")}

def no_records(path):
    return None

def one_object(path):
    return Name()

def first_truth(record):
    return np.arange(2)

def of_lists(records):
    return [{"qid": "q", "docid": ["d"], "score": 1}]

def bad_score(records):
    return [{**records[0], "score": "high"}]

def above(record):
    return record["score"] > 1

def half(text):
    return text + "\\ud800"

def left(text):
    sys.exit(0)

def split(text):
    raise ValueError("first\\nsecond")
"""


@pytest.fixture(autouse=True)
def code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nonsense.py").write_text(CODE)
    Path("leaving.py").write_text("import sys\nsys.exit(0)\n")
    Path("data").write_text("x\n")


def line_of(name: str) -> int:
    return CODE.split("\n").index(name) + 1


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ("lines", r"at .*/nonsense.py:\d+ \(ValueError: first second\): correct the function"),
        ("leaves", r"at .*/nonsense.py:\d+ \(SystemExit: 0\)"),
        ("wordless", r"at .*/nonsense.py:\d+ \(Wordless\)"),
        ("deeper", r"at .*/nonsense.py:\d+ \(ValueError: invalid literal"),
        ("elsewhere", r"at .*/nonsense.py:\d+ \(JSONDecodeError"),
        ("no_argument", r"failed \(TypeError: no_argument\(\) takes 0 positional"),
        ("nothing", "must return triplets .* it returned None"),
        ("texts", "must return triplets .* 't'"),
        ("pairs", r"must return triplets .* \('q', 'd'\)"),
        ("numbers", "must return triplets .* 1"),
        ("incomplete", "must return triplets .*{'qid': 'q', 'docid': 'd'}"),
        ("flat", "must return triplets .*{'q': 1}"),
        ("arrays", r"data, read by nonsense:arrays: the score array\(.*is not a number"),
        ("arrays_of_ids", r"data, read by nonsense:arrays_of_ids: the id array\("),
    ],
)
def test_mistakes_of_loaders(loader, message):
    with pytest.raises(TroveStepsError, match=message) as raised:
        load_qrels(["data"], loader=f"nonsense:{loader}")
    assert "\n" not in str(raised.value)
    assert f"nonsense:{loader}" in str(raised.value)


def test_the_place_is_in_the_users_own_file():
    """Not in a library, of which the function may have asked the impossible."""
    number = line_of('    return json.loads("{")')
    with pytest.raises(TroveStepsError, match=f"nonsense.py:{number} "):
        load_qrels(["data"], loader="nonsense:elsewhere")


def test_a_module_that_leaves_while_it_is_imported():
    with pytest.raises(TroveStepsError, match=r"leaving.py can't be imported .*SystemExit: 0"):
        load_qrels(["data"], loader="leaving:loader")


def test_any_iterable_of_triplets_will_do():
    assert load_qrels(["data"], loader="nonsense:one_object")[0].num_rows == 1


def test_strings_of_a_library_are_strings():
    (batch,) = read_records("data", reader=reader_of({"loader": "nonsense:markup"}))
    assert (batch.ids, batch.titles, batch.texts) == (["a"], ["t"], ["b"])
    assert {type(value) for value in (*batch.ids, *batch.titles, *batch.texts)} == {str}


@pytest.mark.parametrize("loader", ["no_records", "leaves"])
def test_mistakes_of_record_loaders(loader):
    with pytest.raises(TroveStepsError, match=f"nonsense:{loader} (failed|must return)") as raised:
        list(read_records("data", reader=reader_of({"loader": f"nonsense:{loader}"})))
    assert "trove_steps" not in str(raised.value)


TABLE = judgment_columns(["q", "q"], ["d", "e"], [1, 2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"filter_fn": "nonsense:first_truth"},
            r"must return true or false, not array\(\[0, 1\]\)",
        ),
        (
            {"group_filter_fn": "nonsense:of_lists"},
            "nonsense:of_lists must return a list of the rec",
        ),
        ({"group_filter_fn": "nonsense:bad_score"}, "nonsense:bad_score: the score 'high'"),
        ({"group_filter_fn": "nonsense:leaves"}, "SystemExit"),
    ],
)
def test_mistakes_of_filters(options, message):
    with pytest.raises(TroveStepsError, match=message):
        filtered(TABLE, options)


def test_a_condition_as_a_score_is_0_or_1_as_in_an_expression():
    """Trove makes an int of whatever score_transform returns."""
    found, _ = filtered(TABLE, {"score_transform": "nonsense:above"})
    assert found["score"].to_pylist() == [0, 1]
    assert np.array_equal(
        filtered(TABLE, {"score_transform": "score > 1"})[0]["score"], found["score"]
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("half", "format nonsense:half: returned half of a surrogate pair for the text 'a'"),
        ("left", "format nonsense:left: SystemExit: 0, for the text 'a'"),
        ("split", "format nonsense:split: ValueError: first second, for the text 'a'"),
    ],
)
def test_mistakes_of_formats(function, message):
    with pytest.raises(TroveStepsError, match=message):
        formatter(f"nonsense:{function}", "data")([None], ["a"])


def test_what_an_own_loader_reads_may_be_anything(monkeypatch):
    """Its file is searched for the place of a bad label in the plain way, which may not fit."""
    from trove_steps.data.qrels import place_of

    for content in (
        b"q\td\t1\nq\td\xe4\t1\n",
        b"q\td\t1\nqd\n",
        b'{"qid":"q","docid":"d","score":1}\n{}',
        b'{"qid":"q","docid":["d"],"score":[1]}\n"text"',
    ):
        Path("data").write_bytes(content)
        place_of("q", "d", ["data"], ["data"])
