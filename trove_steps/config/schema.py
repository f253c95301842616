"""The schema of the configuration, and the defaults that it gives."""

import copy
from functools import cache
from pathlib import Path

import yaml

VARIANTS = ("truncate_dim", "quantization")  # options of which a list makes variants of a model
SCHEMA_PATH = Path(__file__).parents[2] / "workflow" / "schemas" / "config.schema.yaml"
# libyaml takes a tenth of the time that every snakemake and every step would spend on the schema.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def load_schema() -> dict:
    """Return the schema of the configuration; callers leave it as it is."""
    return yaml.load(SCHEMA_PATH.read_text(encoding="utf-8"), Loader=_Loader)


def completed(value, schema: dict, root: dict):
    """Return a copy of a value with the defaults of its schema; it need not be valid.

    A section that is written but empty (`mining:`) becomes one without entries. Parts that YAML
    aliases share are separate in the copy, so that a default of one section is not one of another.
    """
    # What a model's files say outranks a default: the model settings fill those in.
    with_defaults = schema.get("$ref") != "#/$defs/model"
    schema = _resolve(schema, root)
    if value is None and schema.get("type") == "object":
        value = {}
    if isinstance(value, list) and "items" in schema:
        return [completed(item, schema["items"], root) for item in value]
    if not isinstance(value, dict) or schema.get("type") != "object":
        return copy.deepcopy(value)
    properties, extra = schema.get("properties", {}), schema.get("additionalProperties") or {}
    missing = {
        name: copy.deepcopy(_resolve(option, root)["default"])
        for name, option in properties.items()
        if with_defaults and name not in value and "default" in _resolve(option, root)
    }
    return {
        name: completed(item, properties.get(name, extra), root)
        for name, item in {**value, **missing}.items()
    }


def _resolve(schema: dict, root: dict) -> dict:
    if "$ref" not in schema:
        return schema
    target = root
    for part in schema["$ref"].removeprefix("#/").split("/"):
        target = target[part]
    return {**target, **{k: v for k, v in schema.items() if k != "$ref"}}
