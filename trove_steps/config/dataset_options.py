"""The options of data sets, as far as the schema can't check them."""

import math

from trove_steps.data.filters import OPTIONS as FILTERS
from trove_steps.data.filters import check_options

PATH_OPTIONS = ("corpus_path", "query_path", "qrel_path", "query_subset_path")
EMBEDDINGS_OPTIONS = ("corpus_embeddings", "query_embeddings")
CACHE_OPTIONS = ("corpus_cache", "query_cache")
OF_JUDGMENTS = ("loader", "query_subset_path", *FILTERS)
OF_DATASET = (  # the others are of a collection
    "collections",
    "exclude_identical_ids",
    "strict",
    *EMBEDDINGS_OPTIONS,
    *CACHE_OPTIONS,
)


def collections_of(dataset: dict) -> list[dict]:
    """Return the collections of a data set: those that it lists, or itself as the only one."""
    return dataset.get("collections") or [
        {name: value for name, value in dataset.items() if name not in OF_DATASET}
    ]


def check_datasets(datasets: dict, broken: bool) -> list[str]:
    """Return what is wrong with data sets, one line per mistake.

    broken: whether the schema has found mistakes already; then only what is missing is looked for.
    """
    lines = []
    for name, dataset in datasets.items():
        if not isinstance(name, str) or not name.isprintable():
            continue
        dataset = {} if dataset is None else dataset
        if not isinstance(dataset, dict) or "$ref" in dataset:
            continue
        where = f"datasets.{name}"
        listed = dataset.get("collections")
        if listed is None:
            lines += _missing(dataset, where)
            lines += [] if broken else _conflicts(dataset, where)
        elif not broken:
            lines += [
                f"{where}.{option}: stands beside collections; move it into each of them"
                for option in dataset
                if option not in OF_DATASET
            ]
            for number, collection in enumerate(listed):
                place = f"{where}.collections[{number}]"
                lines += _missing(collection, place) + _conflicts(collection, place)
    return lines


def _missing(collection: dict, where: str) -> list[str]:
    if "beir" in collection or "ir_datasets" in collection:
        return []
    sides = zip(("corpus_path", "query_path"), EMBEDDINGS_OPTIONS, strict=True)
    return [
        f"{where}.{texts}: missing; it must be set"
        for texts, vectors in sides
        if texts not in collection and vectors not in collection
    ]


def _conflicts(collection: dict, where: str) -> list[str]:
    lines = []
    if "beir" in collection and "ir_datasets" in collection:
        lines.append(f"{where}: only one of beir and ir_datasets can be given")
    if "split" in collection and "beir" not in collection:
        lines.append(f"{where}.split: does nothing without beir")
    if "split" in collection and "qrel_path" in collection:
        lines.append(f"{where}.split: does nothing beside qrel_path")
    if "title" in collection.get("query_fields", {}):
        lines.append(f"{where}.query_fields.title: queries have no title")
    if not {"qrel_path", "beir", "ir_datasets"} & collection.keys():
        lines += [
            f"{where}.{option}: does nothing without qrel_path"
            for option in OF_JUDGMENTS
            if option in collection
        ]
    unbounded = [
        option
        for option in ("min_score", "max_score", "score_transform")
        if isinstance(collection.get(option), float) and not math.isfinite(collection[option])
    ]
    lines += [f"{where}.{option}: must be a finite number" for option in unbounded]
    return lines + ([] if unbounded else check_options(collection, where))
