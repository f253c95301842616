"""What the schema finds wrong with a configuration, one line per mistake."""

import math

import jsonschema
import yaml

from trove_steps.config.schema import load_schema
from trove_steps.wording import dotted, nearest, shown

# JSON Schema takes 10.0 for an integer; as a number of documents it would be another key than 10.
_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


def schema_errors(config) -> list[jsonschema.ValidationError]:
    """Return what breaks the schema, in the order of the places."""
    found = _Validator(load_schema()).iter_errors(config)
    return sorted(found, key=lambda error: [str(part) for part in error.path])


def explain(error: jsonschema.ValidationError) -> list[str]:
    """Say what a schema error means to the person who wrote the configuration, one line per mistake."""
    where = dotted(error.absolute_path)
    value, rule = error.instance, error.validator
    if rule == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        unknown = [name if isinstance(name, str) else shown(name) for name in value]
        return [
            f"{dotted([*error.absolute_path, name])}: unknown key{nearest(name, known)}"
            for name in unknown
            if name not in known
        ]
    if rule == "required":
        missing = [name for name in error.validator_value if name not in value]
        return [
            f"{dotted([*error.absolute_path, name])}: missing; it must be set" for name in missing
        ]
    if rule == "enum":
        choices = [str(choice) for choice in error.validator_value if choice is not None]
        return [f"{where}: {shown(value)} is not a valid value{nearest(str(value), choices)}"]
    if rule == "anyOf" and value is None:
        return [f"{where}: empty; set it to {_describe(error.schema)}, or leave the key out"]
    if rule == "anyOf":
        kinds = ("type", "enum", "pattern")  # errors that say: it is another alternative
        inner = [part for part in error.context if part.path or part.validator not in kinds]
        return [line for part in inner for line in explain(part)] or [
            f"{where}: {shown(value)} is not {_describe(error.schema)}"
        ]
    if "propertyNames" in error.absolute_schema_path:
        return [
            f"{dotted([*error.absolute_path, value])}: a name begins with a letter or digit and holds "
            "at most 100 letters, digits, '.', '_', '-'"
        ]
    if rule == "uniqueItems":
        twice = next(item for item in value if value.count(item) > 1)
        return [f"{where}: {shown(twice)} stands there twice"]
    if rule in _LIMITS and isinstance(value, float) and "number" not in error.schema["type"]:
        return []  # not a whole number, which is said already
    if rule in _LIMITS:
        return [f"{where}: {_LIMITS[rule].format(shown(value), error.validator_value)}"]
    if value is None:
        return [f"{where}: empty; set it to {_describe(error.schema)}, or leave the key out"]
    if rule == "type":
        return [f"{where}: {shown(value)} is not {_types(error.schema)}"]
    return [f"{where}: {shown(value)} is not {_describe(error.schema)}"]


_LIMITS = {
    "minimum": "{} is less than {}",
    "maximum": "{} is more than {}",
    "minLength": "empty; it must be set",
    "minItems": "empty; name at least one",
    "minProperties": "empty; name at least one",
}
_TYPES = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "null",
    "number": "a number",
    "object": "a section",
    "string": "text",
}


def _describe(schema: dict) -> str:
    """Say in a few words what a schema allows."""
    if "anyOf" in schema:
        return " or ".join(_describe(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(shown(choice) for choice in schema["enum"])
    if "pattern" in schema:
        return schema["title"]
    return _types(schema)


def _types(schema: dict) -> str:
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    known = " or ".join(_TYPES[name] for name in types)
    return known + "".join(
        f" such as {_in_yaml(example)}" for example in schema.get("examples", [])
    )


def _in_yaml(value) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=math.inf).strip()
