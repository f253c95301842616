"""Text formats: templates, functions of the user's, sections by data set, and their place in keys."""

import pytest

from tests.unit.test_models import FILES, write_model
from tests.unit.test_plan import dataset, only_cell, raw  # noqa: F401
from trove_steps.arguments import model_flags
from trove_steps.errors import TroveStepsError
from trove_steps.formats import format_recipe, formatter
from trove_steps.plan import Plan

SOURCE = """
def shout(text):
    return text.upper()

def ask(text, dataset):
    return f"{dataset}: {text}"

def headed(text, title=None):
    return f"# {title}\\n{text}"

def wrong(text):
    return 3

def broken(text):
    raise KeyError("no such thing")

def strange(text, colour):
    return text
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    name = f"own_formats_{abs(hash(tmp_path)) % 10**9}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    return name


def test_functions_get_what_they_take(own):
    assert formatter(f"{own}:shout", "d")(["Title", None], ["text", "b"]) == ["TEXT", "B"]
    assert formatter(f"{own}:ask", "scifact")([None], ["text"]) == ["scifact: text"]
    assert formatter(f"{own}:headed", "d")(["Title"], [" text"]) == ["# Title\n text"]
    assert formatter(f"{own}:headed", "d")([None], ["text"]) == ["# None\ntext"]
    assert formatter("query: {text}", "d")(["Title"], [" text "]) == ["query: text"]


@pytest.mark.parametrize(("name", "said"), [("wrong", "returned int"), ("broken", "no such thing")])
def test_function_that_fails_is_named(own, name, said):
    with pytest.raises(TroveStepsError, match=f"{own}:{name}.*{said}"):
        formatter(f"{own}:{name}", "d")([None], ["text"])


def test_recipe_holds_the_source_and_the_data_set_only_where_it_counts(own, tmp_path):
    assert format_recipe("{text}", "a") == "{text}"
    assert format_recipe(f"{own}:shout", "a") == format_recipe(f"{own}:shout", "b")
    assert format_recipe(f"{own}:ask", "a") != format_recipe(f"{own}:ask", "b")
    before = format_recipe(f"{own}:shout", "a")
    (tmp_path / f"{own}.py").write_text(SOURCE + "\n# edited\n")
    assert format_recipe(f"{own}:shout", "a") != before


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("{own}:absent", r"models\.bert\.query_format: .* no line 'def absent"),
        ("absent_module:f", r"models\.bert\.query_format: no module absent_module"),
        (
            "{own}:strange",
            "takes colour, text; its parameters must be text and, if needed, dataset",
        ),
        ("{own}:headed", "takes text, title"),
        ({"tinny": "{{text}}"}, "no dataset is named 'tinny'; did you mean 'tiny'"),
        ({"*": "{{txt}}"}, r"query_format\.\*: text template"),
        ({"tiny": 3}, "models.bert.query_format"),
    ],
)
def test_mistakes_are_told_at_once(raw, own, form, said):  # noqa: F811
    filled = form.format(own=own) if isinstance(form, str) else form
    if isinstance(filled, dict):
        filled = {k: v.format(own=own) if isinstance(v, str) else v for k, v in filled.items()}
    raw["models"]["bert"]["query_format"] = filled
    with pytest.raises(TroveStepsError, match=said):
        Plan(raw)


def test_formats_by_data_set(raw, tmp_path):  # noqa: F811
    raw["datasets"]["other"] = dataset("data")
    plain = Plan(raw).cells["tiny", "bert"]
    raw["models"]["bert"]["query_format"] = {"tiny": "tiny: {text}"}
    plan = Plan(raw)
    tiny, other = (plan.cells[name, "bert"] for name in ("tiny", "other"))
    assert (tiny.queries.form, other.queries.form) == ("tiny: {text}", "{text}")
    assert tiny.queries.encoder == other.queries.encoder, "a format is in the strings"
    assert tiny.queries.texts != plain.queries.texts
    assert other.queries.texts == plain.queries.texts
    assert tiny.corpus.texts == other.corpus.texts == plain.corpus.texts
    assert "--query-format=tiny: {text}" in plan.model_flags(tiny.queries)
    assert "--query-format={text}" in plan.model_flags(other.queries)
    raw["models"]["bert"]["query_format"]["*"] = "any: {text}"
    assert Plan(raw).cells["other", "bert"].queries.form == "any: {text}"


def test_function_of_a_data_set(raw, own):  # noqa: F811
    raw["datasets"]["other"] = dataset("data")
    raw["models"]["bert"]["query_format"] = f"{own}:ask"
    plan = Plan(raw)
    tiny, other = (plan.cells[name, "bert"].queries for name in ("tiny", "other"))
    assert tiny.texts != other.texts
    assert f"--query-format={own}:ask" in plan.model_flags(tiny)
    assert "--dataset-name=tiny" in plan.model_flags(tiny)
    raw["models"]["bert"]["query_format"] = f"{own}:shout"
    plan = Plan(raw)
    assert len(plan.encodings) == 2, "both data sets are the same strings"
    assert not any("dataset-name" in flag for flag in plan.model_flags(only(plan, "queries")))


def only(plan, role):
    (found,) = (encoding for (each, *_), encoding in plan.encodings.items() if each == role)
    return found


def test_queries_with_a_model_of_their_own(raw, tmp_path):  # noqa: F811
    before = only_cell(raw)
    write_model(tmp_path / "asker", FILES | {"model.safetensors": b"other weights"})
    raw["models"]["bert"]["query_model_name_or_path"] = "asker"
    plan = Plan(raw)
    (after,) = plan.cells.values()
    assert after.corpus.identity == before.corpus.identity
    assert after.queries.encoder != before.queries.encoder
    assert after.queries.model.folder.name == "asker"
    assert after.queries.model.link != after.corpus.model.link
    assert not any("query-model" in flag for flag in plan.model_flags(after.queries))
    assert model_flags(raw["models"]["bert"], "queries") == ["--pooling=mean"]
    raw["models"]["bert"]["query_model_name_or_path"] = "./absent"
    with pytest.raises(
        TroveStepsError, match=r"models\.bert\.query_model_name_or_path: the folder"
    ):
        Plan(raw)
