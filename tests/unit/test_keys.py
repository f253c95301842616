"""Keys: equal for what is equal, different for all that differs."""

import hashlib
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trove_steps.errors import TroveStepsError
from trove_steps.keys import (
    canonical_json,
    encoder_recipe,
    recipe_key,
    search_recipe,
    text_key,
    text_keys,
    texts_recipe,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
SCALARS = SCALARS.filter(lambda value: value not in (float("inf"), float("-inf")))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4)
)


def typed(value):
    """A value with the types of its parts, so that 1, 1.0 and True, or 0.0 and -0.0, differ."""
    if isinstance(value, dict):
        return {name: typed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    return type(value).__name__, repr(value)


@given(VALUES)
def test_canonical_json_is_json_of_the_same_value(value):
    assert typed(json.loads(canonical_json(value))) == typed(value)


@given(VALUES, VALUES)
def test_equal_values_and_only_they_have_equal_spellings(first, second):
    assert (canonical_json(first) == canonical_json(second)) == (typed(first) == typed(second))


@given(st.dictionaries(TEXT, VALUES, min_size=2, max_size=5), st.randoms())
def test_the_order_of_fields_is_irrelevant(recipe, chance):
    names = list(recipe)
    chance.shuffle(names)
    assert recipe_key({name: recipe[name] for name in names}) == recipe_key(recipe)


def test_the_order_of_items_matters():
    assert recipe_key({"files": ["a", "b"]}) != recipe_key({"files": ["b", "a"]})


def test_one_in_all_its_spellings_gives_distinct_keys():
    spellings = [1, "1", 1.0, True, [1], {"1": 1}, "true", None, "null"]
    assert len({recipe_key({"value": value}) for value in spellings}) == len(spellings)


@given(st.lists(TEXT, max_size=4), st.lists(TEXT, max_size=4))
def test_lists_do_not_collide_by_concatenation(first, second):
    same = recipe_key({"files": first}) == recipe_key({"files": second})
    assert same == (first == second)


def test_known_collisions_of_naive_joins():
    assert recipe_key({"a": "b,c"}) != recipe_key({"a": "b", "c": ""})
    assert recipe_key({"files": ["ab", "c"]}) != recipe_key({"files": ["a", "bc"]})
    assert recipe_key({"a": '","b":"'}) != recipe_key({"a": "", "b": ""})
    assert text_key("title text") != text_key("titletext ")


@given(TEXT)
def test_normal_forms_of_unicode_stay_distinct(text):
    forms = {unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC", "NFKD")} | {text}
    assert len({text_key(form) for form in forms}) == len(forms)
    assert len({recipe_key({"template": form}) for form in forms}) == len(forms)


def test_spelling_is_sorted_utf8_without_spaces():
    assert canonical_json({"b": [1, "é"], "a": None}) == '{"a":null,"b":[1,"é"]}'.encode()
    digest = hashlib.sha256(b'{"a":null}').hexdigest()
    assert recipe_key({"a": None}) == digest[:32]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_numbers_that_json_lacks_are_refused(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"value": value})


def test_names_that_json_would_change_are_refused():
    for recipe in ({1: "a"}, {"a": [{None: 1}]}, {"a": ({True: 1},)}):
        with pytest.raises(TypeError, match="names are strings"):
            canonical_json(recipe)


@given(TEXT)
def test_text_key_is_the_first_half_of_sha256(text):
    key = hashlib.sha256(text.encode()).digest()[:16]
    assert text_key(text) == key
    assert text_keys([text, "", text]) == key + text_key("") + key


def test_a_lone_surrogate_is_refused():
    with pytest.raises(TroveStepsError, match="surrogate pair at character 3"):
        text_key("abc\ud83d")
    with pytest.raises(TroveStepsError, match="half of a surrogate pair at character 1"):
        text_keys(["a", "b\udc00"])


def test_every_ingredient_changes_the_key():
    files, settings = {"model.safetensors": "aa"}, {"pooling": "mean", "max_len": 128}
    encoder = recipe_key(encoder_recipe(files, settings))
    side, other = {"encoder": encoder, "texts": "t"}, {"encoder": encoder, "texts": "u"}
    keys = [
        encoder,
        recipe_key(encoder_recipe({"model.safetensors": "ab"}, settings)),
        recipe_key(encoder_recipe({"other.safetensors": "aa"}, settings)),
        recipe_key(encoder_recipe(files, {**settings, "max_len": 256})),
        recipe_key(texts_recipe("corpus", ["aa", "bb"], "{text}")),
        recipe_key(texts_recipe("corpus", ["bb", "aa"], "{text}")),
        recipe_key(texts_recipe("queries", ["aa", "bb"], "{text}")),
        recipe_key(texts_recipe("corpus", ["aa", "bb"], "{title} {text}")),
        recipe_key(search_recipe(side, other, "dot", False)),
        recipe_key(search_recipe(other, side, "dot", False)),
        recipe_key(search_recipe(side, other, "cosine", False)),
        recipe_key(search_recipe(side, other, "dot", True)),
    ]
    assert len(set(keys)) == len(keys)
