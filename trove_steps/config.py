"""The configuration: checked against its schema, with defaults filled in, errors in one line each."""

import copy
import difflib
import os
from pathlib import Path

import jsonschema
import yaml

from trove_steps.errors import TroveStepsError

SCHEMA_PATH = Path(__file__).parent.parent / "workflow" / "schemas" / "config.schema.yaml"


def load_config(raw: dict) -> dict:
    """Check a configuration and return it complete: defaults filled in, scalars made lists.

    `raw` is what the YAML file holds. Sections that are left out stay out (no `mining:` means that
    mining was not asked for). Raises TroveStepsError with one line per mistake.
    """
    schema = yaml.safe_load(SCHEMA_PATH.read_text(encoding="utf-8"))
    config = copy.deepcopy(dict(raw))
    for section in ("evaluation", "mining"):
        if section in config and config[section] is None:
            config[section] = {}
    _check(config, schema)
    _fill_defaults(config, schema, schema)
    _normalise(config)
    _check_pairs(config)
    return config


def section_defaults(section: str) -> dict:
    """Return a section of the configuration with nothing but its defaults."""
    schema = yaml.safe_load(SCHEMA_PATH.read_text(encoding="utf-8"))
    holder = {section: {}}
    _fill_defaults(holder, schema, schema)
    _normalise(holder)
    return holder[section]


def nearest(name: str, valid: list[str]) -> str:
    """Return "; did you mean 'x'?" or a list of what is valid, to end an error message with."""
    close = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; valid: {', '.join(sorted(valid))}" if valid else ""


def check_file(path: str, where: str) -> None:
    """Raise TroveStepsError unless `path` is a file that can be read; suggests the nearest name."""
    if os.path.isdir(path):
        raise TroveStepsError(f"{where}: '{path}' is a folder; name the file in it")
    if not os.path.exists(path):
        parent = os.path.dirname(path) or "."
        siblings = os.listdir(parent) if os.path.isdir(parent) else []
        close = difflib.get_close_matches(os.path.basename(path), siblings, n=1, cutoff=0.6)
        hint = f"; did you mean '{os.path.join(os.path.dirname(path), close[0])}'?" if close else ""
        origin = "" if os.path.isabs(path) else f" (relative to {os.getcwd()})"
        raise TroveStepsError(f"{where}: the file '{path}' does not exist{origin}{hint}")
    if not os.access(path, os.R_OK):
        raise TroveStepsError(f"{where}: the file '{path}' can't be read: check its permissions")


def _check(config: dict, schema: dict) -> None:
    for section in ("datasets", "models"):
        names = config.get(section)
        for name in names if isinstance(names, dict) else ():
            if not isinstance(name, str):
                raise TroveStepsError(f"{section}.{name}: a name is text; write '{name}' in quotes")
    validator = jsonschema.Draft202012Validator(schema)
    errors = sorted(validator.iter_errors(config), key=lambda error: [str(p) for p in error.path])
    lines = [line for error in errors for line in _explain(error)]
    if lines:
        raise TroveStepsError("\n".join(dict.fromkeys(lines)))


def _explain(error: jsonschema.ValidationError) -> list[str]:
    """Say what a schema error means to the person who wrote the configuration, one line per mistake."""
    where = _dotted(error.absolute_path)
    value, rule = error.instance, error.validator
    if rule == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        unknown = [name for name in value if name not in known]
        return [
            f"{_dotted([*error.absolute_path, n])}: unknown key{nearest(n, known)}" for n in unknown
        ]
    if rule == "required":
        missing = [name for name in error.validator_value if name not in value]
        return [
            f"{_dotted([*error.absolute_path, name])}: missing; it must be set" for name in missing
        ]
    if rule == "enum":
        choices = [str(choice) for choice in error.validator_value if choice is not None]
        return [f"{where}: {_shown(value)} is not a valid value{nearest(str(value), choices)}"]
    if rule == "type":
        wanted = error.validator_value
        wanted = " or ".join(wanted) if isinstance(wanted, list) else wanted
        return [f"{where}: {_shown(value)} is not of type {wanted}"]
    if rule == "anyOf":
        wanted = " or ".join(_describe(option) for option in error.validator_value)
        return [f"{where}: {_shown(value)} is not {wanted}"]
    if rule == "pattern" and "propertyNames" in error.absolute_schema_path:
        return [
            f"{_dotted([*error.absolute_path, value])}: a name holds only letters, digits, '.', '_', '-'"
        ]
    if rule == "minProperties":
        return [f"{where}: empty; name at least one"]
    return [f"{where}: {error.message}"]


def _describe(option: dict) -> str:
    """Name one alternative of an `anyOf` in a few words."""
    if "enum" in option:
        return " or ".join(_shown(choice) for choice in option["enum"])
    if option.get("type") == "array":
        return f"a list whose items are {_describe(option['items'])}"
    if "minimum" in option:
        return f"an {option['type']} of at least {option['minimum']}"
    if "pattern" in option:
        return "a text like '1,3,5,10,100'"
    return {"string": "text", "object": "block"}.get(option.get("type"), str(option.get("type")))


def _dotted(path) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text or "the configuration"


def _shown(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _fill_defaults(value, schema: dict, root: dict) -> None:
    schema = _resolve(schema, root)
    if not isinstance(value, dict):
        return
    properties = schema.get("properties", {})
    for name, subschema in properties.items():
        resolved = _resolve(subschema, root)
        if name not in value and "default" in resolved:
            value[name] = copy.deepcopy(resolved["default"])
        if name in value:
            _fill_defaults(value[name], resolved, root)
    extra = schema.get("additionalProperties")
    if isinstance(extra, dict):
        for name in value.keys() - properties.keys():
            # What a model's files say outranks a default: the model settings fill these in.
            if extra.get("$ref") != "#/$defs/model":
                _fill_defaults(value[name], extra, root)


def _resolve(schema: dict, root: dict) -> dict:
    if "$ref" not in schema:
        return schema
    target = root
    for part in schema["$ref"].removeprefix("#/").split("/"):
        target = target[part]
    return {**target, **{k: v for k, v in schema.items() if k != "$ref"}}


def _normalise(config: dict) -> None:
    """Give every option one shape: lists where one or many may be given, numbers for Trove's strings."""
    for dataset in config.get("datasets", {}).values():
        for option in ("corpus_path", "query_path", "qrel_path"):
            if isinstance(dataset.get(option), str):
                dataset[option] = [dataset[option]]
    evaluation = config.get("evaluation")
    if evaluation is not None:
        cutoffs = evaluation["ir_metrics_k_values"]
        if isinstance(cutoffs, str):
            cutoffs = [int(cutoff) for cutoff in cutoffs.split(",")]
        evaluation["ir_metrics_k_values"] = sorted(set(cutoffs))
        trackers = evaluation["report_to"]
        trackers = [trackers] if isinstance(trackers, str) else trackers
        evaluation["report_to"] = [tracker for tracker in trackers if tracker != "none"]
        depth = evaluation["search_topk"]
        if depth is not None and depth < max(cutoffs):
            raise TroveStepsError(
                f"evaluation.search_topk: {depth} is less than the largest cut-off "
                f"{max(cutoffs)} of evaluation.ir_metrics_k_values; raise it or leave it out"
            )
    for pair in config.get("pairs", []):
        for option in ("datasets", "models"):
            if isinstance(pair.get(option), str):
                pair[option] = [pair[option]]


def _check_pairs(config: dict) -> None:
    lines = []
    for position, pair in enumerate(config.get("pairs", [])):
        for option in ("datasets", "models"):
            known = list(config[option])
            for name in pair.get(option, []):
                if name not in known:
                    what = f"pairs[{position}].{option}: no {option[:-1]} is named '{name}'"
                    lines.append(what + nearest(name, known))
    if lines:
        raise TroveStepsError("\n".join(lines))
