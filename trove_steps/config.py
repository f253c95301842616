"""The configuration: checked against its schema, with defaults filled in, errors in one line each."""

import copy
import datetime
import difflib
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import jsonschema
import yaml

from trove_steps.dataset_options import (
    CACHE_OPTIONS,
    EMBEDDINGS_OPTIONS,
    PATH_OPTIONS,
    check_datasets,
)
from trove_steps.errors import TroveStepsError
from trove_steps.formats import OPTIONS, OTHERS, check_format
from trove_steps.measures import DEFAULT_MEASURES, largest_cutoff, metric_names
from trove_steps.selection import selection_of

VARIANTS = ("truncate_dim", "quantization")  # options of which a list makes variants of a model
SCHEMA_PATH = Path(__file__).parent.parent / "workflow" / "schemas" / "config.schema.yaml"


def load_config(raw: dict) -> dict:
    """Check a configuration and return it complete: defaults filled in, scalars made lists.

    `raw` is what the YAML file holds and is left as it is. A section that is left out stays out (no
    `mining:` means that mining was not asked for); one that is written but empty is there. Raises
    TroveStepsError with one line per mistake.
    """
    schema = load_schema()
    config = _completed(raw, schema, schema)
    _check(config, schema)
    _check_characters(config, [])
    _check_templates(config)
    _normalise(config)
    _check_pairs(config)
    _check_folders(config)
    _check_encode(config["encode"])
    return config


def section_defaults(section: str) -> dict:
    """Return a section of the configuration with nothing but its defaults."""
    schema = load_schema()
    holder = {section: _completed({}, schema["properties"][section], schema)}
    _normalise(holder)
    return holder[section]


@cache
def load_schema() -> dict:
    """Return the schema of the configuration; callers leave it as it is."""
    return yaml.safe_load(SCHEMA_PATH.read_text(encoding="utf-8"))


def nearest(name: str, valid: list[str]) -> str:
    """Return "; did you mean 'x'?" or a list of what is valid, to end an error message with."""
    close = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; valid: {', '.join(sorted(valid))}" if valid else ""


def check_file(path: str, where: str) -> None:
    """Raise TroveStepsError unless `path` is a file that can be read; suggests the nearest name."""
    shown = _shown(path)
    if os.path.isdir(path):
        raise TroveStepsError(f"{where}: {shown} is a folder; name the file in it")
    if not os.path.exists(path):
        origin = "" if os.path.isabs(path) else f" (relative to {os.getcwd()})"
        raise TroveStepsError(
            f"{where}: the file {shown} does not exist{origin}{_nearest_file(path)}"
        )
    if not os.path.isfile(path):
        raise TroveStepsError(
            f"{where}: {shown} is a pipe or a device; it is read more than once, so write it to a file"
        )
    if not os.access(path, os.R_OK):
        raise TroveStepsError(f"{where}: the file {shown} can't be read: check its permissions")


def _nearest_file(path: str) -> str:
    folder, name = os.path.split(path)
    try:
        siblings = os.listdir(folder or ".")
    except OSError:
        return ""
    close = difflib.get_close_matches(name, siblings, n=1, cutoff=0.6)
    return f"; did you mean {_shown(os.path.join(folder, close[0]))}?" if close else ""


def _check(config: dict, schema: dict) -> None:
    for section in ("datasets", "models"):
        names = config.get(section) if isinstance(config, dict) else None
        for name in names if isinstance(names, dict) else ():
            if not isinstance(name, str):
                shown = _shown(name)
                raise TroveStepsError(
                    f"{section}.{shown}: a name is text, but YAML reads this one as {shown}: put it in quotes"
                )
    errors = sorted(
        _Validator(schema).iter_errors(config), key=lambda error: [str(p) for p in error.path]
    )
    lines = [line for error in errors for line in _explain(error)]
    datasets = config.get("datasets") if isinstance(config, dict) else None
    found = check_datasets(datasets if isinstance(datasets, dict) else {}, bool(lines))
    if not any(error.validator == "type" for error in errors):
        found += _missing_models(config)
    lines = found + lines
    if lines:
        raise TroveStepsError("\n".join(dict.fromkeys(lines)))


# JSON Schema takes 10.0 for an integer; as a number of documents it would be another key than 10.
_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


def _check_characters(value, path: list) -> None:
    """Refuse what neither a file name nor a tokenizer can take."""
    if isinstance(value, dict | list):
        for part, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_characters(item, [*path, part])
    elif isinstance(value, str):
        bad = next((c for c in value if c == "\0" or "\ud800" <= c <= "\udfff"), None)
        if bad is not None:
            raise TroveStepsError(
                f"{_dotted(path)}: {_shown(value)} holds the character U+{ord(bad):04X}, which no file "
                "name and no text can hold"
            )


def _check_templates(config: dict) -> None:
    for name, model in config["models"].items():
        for role, option in OPTIONS.items():
            where, given = f"models.{name}.{option}", model.get(option, "{text}")
            forms = given if isinstance(given, dict) else {"": given}
            for dataset, form in forms.items():
                if dataset not in ("", OTHERS, *config["datasets"]):
                    raise TroveStepsError(
                        f"{where}: no dataset is named {_shown(dataset)}"
                        + nearest(dataset, list(config["datasets"]))
                    )
                place = f"{where}.{dataset}" if dataset else where
                check_format(form, role, place)


def _explain(error: jsonschema.ValidationError) -> list[str]:
    """Say what a schema error means to the person who wrote the configuration, one line per mistake."""
    where = _dotted(error.absolute_path)
    value, rule = error.instance, error.validator
    if rule == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        unknown = [name if isinstance(name, str) else _shown(name) for name in value]
        return [
            f"{_dotted([*error.absolute_path, name])}: unknown key{nearest(name, known)}"
            for name in unknown
            if name not in known
        ]
    if rule == "required":
        missing = [name for name in error.validator_value if name not in value]
        return [
            f"{_dotted([*error.absolute_path, name])}: missing; it must be set" for name in missing
        ]
    if rule == "enum":
        choices = [str(choice) for choice in error.validator_value if choice is not None]
        return [f"{where}: {_shown(value)} is not a valid value{nearest(str(value), choices)}"]
    if rule == "anyOf" and value is None:
        return [f"{where}: empty; set it to {_describe(error.schema)}, or leave the key out"]
    if rule == "anyOf":
        kinds = ("type", "enum", "pattern")  # errors that say: it is another alternative
        inner = [part for part in error.context if part.path or part.validator not in kinds]
        return [line for part in inner for line in _explain(part)] or [
            f"{where}: {_shown(value)} is not {_describe(error.schema)}"
        ]
    if "propertyNames" in error.absolute_schema_path:
        return [
            f"{_dotted([*error.absolute_path, value])}: a name begins with a letter or digit and holds "
            "at most 100 letters, digits, '.', '_', '-'"
        ]
    if rule == "uniqueItems":
        twice = next(item for item in value if value.count(item) > 1)
        return [f"{where}: {_shown(twice)} stands there twice"]
    if rule in _LIMITS and isinstance(value, float) and "number" not in error.schema["type"]:
        return []  # not a whole number, which is said already
    if rule in _LIMITS:
        return [f"{where}: {_LIMITS[rule].format(_shown(value), error.validator_value)}"]
    if value is None:
        return [f"{where}: empty; set it to {_describe(error.schema)}, or leave the key out"]
    if rule == "type":
        return [f"{where}: {_shown(value)} is not {_types(error.schema)}"]
    return [f"{where}: {_shown(value)} is not {_describe(error.schema)}"]


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
        return " or ".join(_shown(choice) for choice in schema["enum"])
    if "pattern" in schema:
        return schema["title"]
    return _types(schema)


def _types(schema: dict) -> str:
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return " or ".join(_TYPES[name] for name in types)


def _dotted(path) -> str:
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if part.isprintable() else repr(part)
            text += f".{name}" if text else name
    return text or "the configuration"


def _shown(value) -> str:
    """Spell a value on one line, in quotes if it is text, as YAML spells it if it is not."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value) if isinstance(value, datetime.date) else repr(value)
    return text if len(text) <= 200 else text[:197] + "..."


def _completed(value, schema: dict, root: dict):
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
        return [_completed(item, schema["items"], root) for item in value]
    if not isinstance(value, dict) or schema.get("type") != "object":
        return value
    properties, extra = schema.get("properties", {}), schema.get("additionalProperties") or {}
    missing = {
        name: copy.deepcopy(_resolve(option, root)["default"])
        for name, option in properties.items()
        if with_defaults and name not in value and "default" in _resolve(option, root)
    }
    return {
        name: _completed(item, properties.get(name, extra), root)
        for name, item in {**value, **missing}.items()
    }


def _resolve(schema: dict, root: dict) -> dict:
    if "$ref" not in schema:
        return schema
    target = root
    for part in schema["$ref"].removeprefix("#/").split("/"):
        target = target[part]
    return {**target, **{k: v for k, v in schema.items() if k != "$ref"}}


def _normalise(config: dict) -> None:
    """Give every option one shape: lists where one or many may be given, numbers for Trove's strings."""
    for option in ("encoding_cache_dir", "output_dir"):
        if option in config:
            config[option] = os.path.expanduser(config[option])
    for model in config.get("models", {}).values():
        for option in ("model_name_or_path", "query_model_name_or_path"):
            if option in model:
                model[option] = os.path.expanduser(model[option])
    for pair in config.get("pairs", []):
        for option in ("datasets", "models"):
            if isinstance(pair.get(option), str):
                pair[option] = [pair[option]]
    _expand_variants(config)
    for dataset in config.get("datasets", {}).values():
        for collection in (dataset, *dataset.get("collections", [])):
            for option in (*PATH_OPTIONS, *EMBEDDINGS_OPTIONS):
                if option in collection:
                    paths = collection[option]
                    paths = [paths] if isinstance(paths, str) else paths
                    collection[option] = [os.path.expanduser(path) for path in paths]
            for option in ("beir", *CACHE_OPTIONS):
                if option in collection:
                    collection[option] = os.path.expanduser(collection[option])
    evaluation = config.get("evaluation")
    if evaluation is not None:
        cutoffs = evaluation["ir_metrics_k_values"]
        if isinstance(cutoffs, str):
            cutoffs = [int(cutoff) for cutoff in cutoffs.split(",")]  # Trove's spelling
        evaluation["ir_metrics_k_values"] = sorted(set(cutoffs))
        trackers = evaluation["report_to"]
        trackers = [trackers] if isinstance(trackers, str) else trackers
        evaluation["report_to"] = [tracker for tracker in trackers if tracker != "none"]
        _normalise_measures(evaluation)
    mining = config.get("mining")
    if mining is not None:
        if mining["cross_encoder"] is not None:
            mining["cross_encoder"] = os.path.expanduser(mining["cross_encoder"])
        selection_of(mining).check(mining["search_topk"])


def _missing_models(config: dict) -> list[str]:
    """Say which models have nothing to encode with."""
    datasets, models = (config.get(section) or {} for section in ("datasets", "models"))
    if any(set(EMBEDDINGS_OPTIONS) <= set(dataset or {}) for dataset in datasets.values()):
        return []  # the plan sees which models go with which data sets
    return [
        f"models.{name}.model_name_or_path: missing; it must be set"
        for name, model in models.items()
        if isinstance(model, dict) and "model_name_or_path" not in model
    ]


def _expand_variants(config: dict) -> None:
    """Make a model of its own of every value in a list of truncate_dim or quantization: minilm@256.

    A pair that names the model means its variants too.
    """
    families: dict[str, dict] = {}
    for name, model in config.get("models", {}).items():
        lists = {
            option: model[option] for option in VARIANTS if isinstance(model.get(option), list)
        }
        plain = {option: value for option, value in model.items() if option not in lists}
        families[name] = {name: plain} | {
            f"{name}@{value}": {**plain, option: value}
            for option, values in lists.items()
            for value in values
        }
    if "models" in config:
        config["models"] = {n: model for family in families.values() for n, model in family.items()}
    for pair in config.get("pairs", []):
        if "models" in pair:
            pair["models"] = [v for name in pair["models"] for v in families.get(name, [name])]


def _normalise_measures(evaluation: dict) -> None:
    """Spell measures out as metrics.json does, and check that the ranking is deep enough for them."""
    cutoffs, comparison = evaluation["ir_metrics_k_values"], evaluation["comparison"]
    where = "evaluation.ir_metrics_k_values"
    computed = metric_names(DEFAULT_MEASURES, cutoffs)
    if evaluation["measures"] is not None:
        where = "evaluation.measures"
        computed = evaluation["measures"] = _spelled(evaluation["measures"], cutoffs, where)
    depth, needed = evaluation["search_topk"], largest_cutoff(computed, cutoffs)
    if depth is not None and depth < needed:
        raise TroveStepsError(
            f"evaluation.search_topk: {depth} is less than the largest cut-off "
            f"{needed} of {where}; raise it or leave it out"
        )
    if comparison["measures"] is not None:
        where = "evaluation.comparison.measures"
        comparison["measures"] = _spelled(comparison["measures"], cutoffs, where)
        for name in comparison["measures"]:
            if name not in computed:
                raise TroveStepsError(f"{where}: {name} is not computed{nearest(name, computed)}")


def _spelled(measures: list[str], cutoffs: list[int], where: str) -> list[str]:
    try:
        return metric_names(measures, cutoffs)
    except TroveStepsError as error:
        raise TroveStepsError(f"{where}: {error}") from None


def _check_encode(encode: dict) -> None:
    if encode["nodes"] > 1 and encode["jobs"] > 1:
        raise TroveStepsError(
            "encode: jobs are on one node each, so nodes and jobs can't both be more than 1; jobs need "
            "not start together and so wait less"
        )


# Names of what lies beside the folders of data sets and models in the results.
_TAKEN = {
    "datasets": ("summary.tsv", "comparison.tsv", "report.html", "wandb", "tensorboard"),
    "models": ("data.json", "comparison.parquet"),
}


def _check_folders(config: dict) -> None:
    """Refuse names and folders by which results would overwrite each other."""
    for section, taken in _TAKEN.items():
        for name in config[section]:
            if name in taken:
                raise TroveStepsError(
                    f"{section}.{name}: the results folder has a file of that name: choose another name"
                )
    cache, results = (
        os.path.realpath(config[option]) for option in ("encoding_cache_dir", "output_dir")
    )
    if cache == results:
        raise TroveStepsError(
            f"output_dir: '{config['output_dir']}' is encoding_cache_dir too: results, which are for people, "
            "and the cache, which may be deleted, need a folder each"
        )


def check_unique_keys(paths: Iterable[Path]) -> None:
    """Raise TroveStepsError for a name that stands twice in a section of a YAML file.

    YAML's readers take the last one and say nothing. What can't be read is left to them.
    """
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                root = yaml.compose(file, yaml.SafeLoader)
        except (OSError, ValueError, yaml.YAMLError):
            continue
        try:
            _check_unique(root, path, [])
        except RecursionError:
            raise TroveStepsError(
                f"{path}: a section holds itself, by an alias *NAME inside of &NAME: write it out"
            ) from None


def _check_unique(node, path: Path, place: list[str]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _check_unique(item, path, [*place, number])
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
            continue
        line = key.start_mark.line + 1
        if key.value in lines:
            raise TroveStepsError(
                f"{_dotted([*place, key.value])}: stands twice in {path}, in lines {lines[key.value]} "
                f"and {line}: the first one would be ignored"
            )
        lines[key.value] = line
        _check_unique(value, path, [*place, key.value])


def _check_pairs(config: dict) -> None:
    lines = []
    for position, pair in enumerate(config.get("pairs", [])):
        for option in ("datasets", "models"):
            known = list(config[option])
            for name in pair.get(option, []):
                if name not in known:
                    what = f"pairs[{position}].{option}: no {option[:-1]} is named {_shown(name)}"
                    lines.append(what + nearest(name, known))
    if lines:
        raise TroveStepsError("\n".join(lines))
