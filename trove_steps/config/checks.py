"""What must hold of a configuration: its schema, and what no schema can say."""

import os
import re
from functools import reduce

from trove_steps.config.dataset_options import EMBEDDINGS_OPTIONS, check_datasets
from trove_steps.config.mistakes import explain, schema_errors
from trove_steps.config.schema import VARIANTS
from trove_steps.errors import TroveStepsError
from trove_steps.formats import OPTIONS, OTHERS, check_format
from trove_steps.wording import dotted, nearest, shown


def check_schema(config) -> None:
    """Raise TroveStepsError, with one line per mistake, for what breaks the schema or lacks an input."""
    _check_names(config)
    errors = schema_errors(config)
    if _read_values(config, errors):
        errors = schema_errors(config)
    lines = [line for error in errors for line in explain(error)]
    datasets = config.get("datasets") if isinstance(config, dict) else None
    found = check_datasets(datasets if isinstance(datasets, dict) else {}, bool(lines))
    if not any(error.validator == "type" for error in errors):
        found += _missing_models(config)
    lines = found + lines
    if lines:
        raise TroveStepsError("\n".join(dict.fromkeys(lines)))


def _read_values(config, errors) -> bool:
    """Replace texts by the numbers and truth values that they spell, where these are wanted; tell if any was.

    Snakemake hands on what stands inside of `--config mining={search_topk: 7}` as texts.
    """
    found = False
    errors = list(errors)
    for error in errors:
        errors += error.context  # of each alternative
        if error.validator != "type" or not isinstance(error.instance, str):
            continue
        *place, last = error.absolute_path or [None]
        value = _value(error.instance)
        if last is not None and not _TYPES.get(type(value), set()).isdisjoint(_types(error)):
            reduce(lambda section, name: section[name], place, config)[last] = value
            found = True
    return found


# What a value may be in the words of a schema.
_TYPES = {
    bool: {"boolean"},
    int: {"integer", "number"},
    float: {"number"},
    type(None): {"null"},
}
_WORDS = {"true": True, "false": False, "null": None}


def _value(text: str):
    """Return the value that a text spells plainly, or the text: no octal numbers, no hours."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if re.fullmatch(r"[-+]?(0|[1-9][0-9]{0,17})", text):
        return int(text)
    if re.fullmatch(r"[-+]?[0-9]+(?:\.[0-9]+|(?:\.[0-9]+)?[eE][-+]?[0-9]{1,2})", text):
        return float(text)
    return text


def _types(error) -> list[str]:
    wanted = error.validator_value
    return [wanted] if isinstance(wanted, str) else wanted


def _check_names(config) -> None:
    for section in ("datasets", "models"):
        names = config.get(section) if isinstance(config, dict) else None
        for name in names if isinstance(names, dict) else ():
            if not isinstance(name, str):
                read = shown(name)
                raise TroveStepsError(
                    f"{section}.{read}: a name is text, but YAML reads this one as {read}: put it in quotes"
                )


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


def check_characters(value, path: list) -> None:
    """Refuse what neither a file name nor a tokenizer can take."""
    if isinstance(value, dict | list):
        for part, item in value.items() if isinstance(value, dict) else enumerate(value):
            check_characters(item, [*path, part])
    elif isinstance(value, str):
        bad = next((c for c in value if c == "\0" or "\ud800" <= c <= "\udfff"), None)
        if bad is not None:
            raise TroveStepsError(
                f"{dotted(path)}: {shown(value)} holds the character U+{ord(bad):04X}, which no file "
                "name and no text can hold"
            )


def check_templates(config: dict) -> None:
    """Refuse text formats that can't work, and those for data sets that the configuration does not have."""
    for name, model in config["models"].items():
        for role, option in OPTIONS.items():
            where, given = f"models.{name}.{option}", model.get(option, "{text}")
            forms = given if isinstance(given, dict) else {"": given}
            for dataset, form in forms.items():
                if dataset not in ("", OTHERS, *config["datasets"]):
                    raise TroveStepsError(
                        f"{where}: no dataset is named {shown(dataset)}"
                        + nearest(dataset, list(config["datasets"]))
                    )
                place = f"{where}.{dataset}" if dataset else where
                check_format(form, role, place)


def check_pairs(config: dict) -> None:
    """Refuse pairs of data sets and models that the configuration does not have."""
    lines = []
    for position, pair in enumerate(config.get("pairs", [])):
        for option in ("datasets", "models"):
            known = list(config[option])
            for name in pair.get(option, []):
                if name not in known:
                    what = f"pairs[{position}].{option}: no {option[:-1]} is named {shown(name)}"
                    lines.append(what + nearest(name, known))
    if lines:
        raise TroveStepsError("\n".join(lines))


def check_embeddings(config: dict, pairs: list[tuple[str, str]]) -> None:
    """Refuse vectors from elsewhere that would count as those of several models.

    pairs: (data set, model) of all cells.
    """
    lines = []
    for name, dataset in config["datasets"].items():
        for option in EMBEDDINGS_OPTIONS:
            paths = dataset.get(option, [])
            if not paths or any("{model}" in path for path in paths):
                continue
            encoders = {}
            for model in (model for paired, model in pairs if paired == name):
                told = model.partition("@")[0]
                encoder = _encoder_of(config["models"][model], option) or {"vectors of": told}
                if encoder not in encoders.values():
                    encoders[told] = encoder
            if len(encoders) > 1:
                lines.append(
                    f"datasets.{name}.{option}: the same vectors would count as those of "
                    f"{' and of '.join(encoders)}: write {{model}} in the path, or leave them to one model "
                    "by pairs"
                )
    if lines:
        raise TroveStepsError("\n".join(lines))


def _encoder_of(model: dict, option: str) -> dict:
    """Return what of a model determines the vectors of one side; {} if only vectors of it are there."""
    if "model_name_or_path" not in model:
        return {}
    other = "query_" if option == "corpus_embeddings" else "passage_"
    return {
        name: value
        for name, value in model.items()
        if name not in (*VARIANTS, "similarity") and not name.startswith(other)
    }


# Names of what lies beside the folders of data sets and models in the results.
_TAKEN = {
    "datasets": ("summary.tsv", "comparison.tsv", "report.html", "wandb", "tensorboard"),
    "models": ("data.json", "comparison.parquet"),
}


def check_folders(config: dict) -> None:
    """Refuse names and folders by which results would overwrite each other."""
    for section, taken in _TAKEN.items():
        for name in config[section]:
            if name in taken:
                raise TroveStepsError(
                    f"{section}.{name}: the results folder has a file of that name: choose another name"
                )
    for option in ("encoding_cache_dir", "output_dir"):
        if os.path.isfile(config[option]):
            raise TroveStepsError(
                f"{option}: '{config[option]}' is a file, where a folder is needed: move it away"
            )
    if os.path.isfile("logs"):
        raise TroveStepsError("logs is a file, where the folder of logs is needed: move it away")
    cache, results = (
        os.path.realpath(config[option]) for option in ("encoding_cache_dir", "output_dir")
    )
    if cache == results:
        raise TroveStepsError(
            f"output_dir: '{config['output_dir']}' is encoding_cache_dir too: results, which are for people, "
            "and the cache, which may be deleted, need a folder each"
        )


def check_encode(encode: dict) -> None:
    """Refuse jobs that share a corpus and are on several nodes each."""
    if encode["nodes"] > 1 and encode["jobs"] > 1:
        raise TroveStepsError(
            "encode: jobs are on one node each, so nodes and jobs can't both be more than 1; jobs need "
            "not start together and so wait less"
        )
