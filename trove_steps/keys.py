"""Names by content: what an artefact is called depends on what determines its bytes, and on nothing else.

A *recipe* is a JSON value that lists everything that determines an artefact. Its *key* is the first
32 hex digits of the SHA-256 of its canonical JSON. Batch sizes, devices, process counts, paths, times
and the names that a configuration gives to data sets and models never enter a recipe.
"""

import hashlib
import json
from collections.abc import Sequence

from trove_steps.errors import TroveStepsError

KEY_DIGITS = 32
TEXT_KEY_BYTES = 16

# Bump a step's number when its results change for the same inputs: snakemake does not see edits of a
# module that a shell command runs. tests/unit/test_golden.py fails when results change without it.
VERSION = {
    "encoder": 1,
    "derived": 1,
    "imported": 2,
    "publish": 1,
    "texts": 1,
    "search": 2,
    "score": 2,
    "mine": 2,
    "cross_encoder": 1,
    "rescore": 1,
    "merge": 1,
    "comparison": 2,
    "summary": 3,
    "report": 4,
    "track": 2,
    "filters": 3,
    "data": 4,
}


def canonical_json(value) -> bytes:
    """Return the one spelling of a JSON value: sorted keys, UTF-8, no spaces.

    Unicode is taken as it is (no normal form is applied), so that texts which look alike but differ in
    code points stay distinct. Raises TypeError for a mapping key that is not a string (JSON would turn
    1 and "1" into the same) and ValueError for NaN and infinities, which JSON does not have.
    """
    _check_mapping_keys(value)
    text = json.dumps(
        value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    return text.encode("utf-8")


def _check_mapping_keys(value) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise TypeError(f"a recipe's names are strings, not {name!r}")
            _check_mapping_keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_mapping_keys(item)


def recipe_key(recipe: dict) -> str:
    """Return the key of a recipe: 32 hex digits."""
    return hashlib.sha256(canonical_json(recipe)).hexdigest()[:KEY_DIGITS]


def text_key(text: str) -> bytes:
    """Return the 16 bytes that name a string in the embedding store.

    The string is exactly what goes to the tokenizer, after template, prompt and title join.
    """
    try:
        return hashlib.sha256(text.encode("utf-8")).digest()[:TEXT_KEY_BYTES]
    except UnicodeEncodeError as error:
        raise TroveStepsError(
            f"a text holds half of a surrogate pair at character {error.start}, which no encoder can "
            "read; repair the file that it comes from"
        ) from None


def text_keys(texts: Sequence[str]) -> bytes:
    """Return the keys of texts, one after the other, 16 bytes each."""
    sha256 = hashlib.sha256
    try:
        return b"".join([sha256(t.encode()).digest()[:TEXT_KEY_BYTES] for t in texts])
    except UnicodeEncodeError:
        return b"".join(map(text_key, texts))  # says what is wrong


def encoder_recipe(model_files: dict[str, str], settings: dict) -> dict:
    """List what determines the vector of a string: the model's files (name → SHA-256) and its settings."""
    return {
        "kind": "encoder",
        "version": VERSION["encoder"],
        "model_files": model_files,
        **settings,
    }


def cross_encoder_recipe(model_files: dict[str, str], max_len: int) -> dict:
    """List what determines the score of a pair of strings: the model's files and the most tokens."""
    return {
        "kind": "cross_encoder",
        "version": VERSION["cross_encoder"],
        "model_files": model_files,
        "max_len": max_len,
    }


def texts_recipe(
    role: str, digests: list[str], template: str | dict, readers: list[dict] | None = None
) -> dict:
    """List what determines a collection's strings: its files' SHA-256 in order, how each of them is
    read where that is not the plain way, and the text template."""
    recipe = {
        "kind": role,
        "version": VERSION["texts"],
        "files": digests,
        "template": template,
    }
    return {**recipe, "readers": readers} if readers and any(readers) else recipe


def imported_recipe(
    vector_digests: list[str], text_digests: list[str], readers: list[dict] | None = None
) -> dict:
    """List what determines vectors that were computed elsewhere: the SHA-256 of their files in order, and
    the files of texts, which have the ids, as `texts_recipe` lists them."""
    recipe = {
        "kind": "imported",
        "version": VERSION["imported"],
        "vectors": vector_digests,
        "files": text_digests,
    }
    return {**recipe, "readers": readers} if readers and any(readers) else recipe


def derived_recipe(truncate_dim: int | None, normalize: bool, quantization: str | None) -> dict:
    """List how the vectors that are searched are made of the stored ones; empty if they are the same."""
    recipe: dict = {}
    if truncate_dim is not None:
        recipe |= {"truncate_dim": truncate_dim, "normalize": normalize}
    if quantization is not None:
        recipe["quantization"] = quantization
    return {"version": VERSION["derived"], **recipe} if recipe else {}


def search_recipe(
    queries: dict[str, str],
    corpus: dict[str, str],
    similarity: str,
    exclude_identical_ids: bool,
    derived: dict | None = None,
) -> dict:
    """List what determines a ranking: two collections as {"encoder": key, "texts": key} and the rules.

    `derived` is a derived_recipe. The depth is no part: a deeper ranking of the same recipe begins with
    the shallower one.
    """
    return {
        **({"derived": derived} if derived else {}),
        "kind": "search",
        "version": VERSION["search"],
        "queries": queries,
        "corpus": corpus,
        "similarity": similarity,
        "exclude_identical_ids": exclude_identical_ids,
    }
