"""The configuration: checked, with defaults filled in, every option in one shape."""

import os

from trove_steps.config.checks import (
    check_characters,
    check_encode,
    check_folders,
    check_pairs,
    check_schema,
    check_templates,
)
from trove_steps.config.dataset_options import CACHE_OPTIONS, EMBEDDINGS_OPTIONS, PATH_OPTIONS
from trove_steps.config.schema import VARIANTS, completed, load_schema
from trove_steps.errors import TroveStepsError
from trove_steps.evaluation.measures import DEFAULT_MEASURES, largest_cutoff, metric_names
from trove_steps.mining.selection import selection_of
from trove_steps.wording import nearest


def load_config(raw: dict) -> dict:
    """Check a configuration and return it complete: defaults filled in, scalars made lists.

    `raw` is what the YAML file holds and is left as it is. A section that is left out stays out (no
    `mining:` means that mining was not asked for); one that is written but empty is there. Raises
    TroveStepsError with one line per mistake.
    """
    schema = load_schema()
    config = completed(raw, schema, schema)
    check_schema(config)
    check_characters(config, [])
    check_templates(config)
    _normalise(config)
    check_pairs(config)
    check_folders(config)
    check_encode(config["encode"])
    return config


def section_defaults(section: str) -> dict:
    """Return a section of the configuration with nothing but its defaults."""
    schema = load_schema()
    holder = {section: completed({}, schema["properties"][section], schema)}
    _normalise(holder)
    return holder[section]


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
