"""The options of mining: which candidates become negatives, and how deep the search must go for them.

Light, because the planner reads it.
"""

from dataclasses import dataclass, fields
from math import isfinite
from typing import Literal

from trove_steps.errors import TroveStepsError

TWIN_SLACK = 16
"""How many twins of its positives a query can have before they cost it candidates."""

# Presets of mining.preset: options that hold where the configuration does not set them.
PRESETS = {"TopK-PercPos": {"relative_margin": 0.05}}


@dataclass(frozen=True)
class Selection:
    """Which of the candidates become negatives; the defaults are Trove's rules.

    Attributes:
        num_negatives: how many to keep per query; by default all ``search_topk``.
        range_min: skip that many of the best.
        range_max: how many candidates to look at; by default ``range_min + search_topk``.
        max_score: drop what scores higher.
        min_score: drop what scores lower.
        absolute_margin: drop what scores higher than the weakest positive minus this.
        relative_margin: drop what scores higher than the weakest positive p minus ``|p|`` times
            this; 0.05 is NV-Retriever's TopK-PercPos (95 %), arXiv 2407.15831.
        near_twin_cosine: drop documents whose vector has a larger cosine with a positive's.
        sampling: the ``top`` ones, or ``random`` ones.
        seed: of the sample, which depends on it and on the ids of query and document alone.
    """

    num_negatives: int | None = None
    range_min: int = 0
    range_max: int | None = None
    max_score: float | None = None
    min_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    near_twin_cosine: float | None = None
    sampling: Literal["top", "random"] = "top"
    seed: int = 0

    @property
    def has_margin(self) -> bool:
        return self.absolute_margin is not None or self.relative_margin is not None

    def candidates(self, search_topk: int) -> int:
        """Return how many documents per query are looked at."""
        return self.range_min + search_topk if self.range_max is None else self.range_max

    def wanted(self, search_topk: int) -> int:
        """Return how many negatives per query are asked for."""
        if self.num_negatives is not None:
            return self.num_negatives
        return min(search_topk, self.candidates(search_topk) - self.range_min)

    def check(self, search_topk: int) -> None:
        """Raise TroveStepsError where the options contradict each other."""
        if self.range_max is not None and self.range_max <= self.range_min:
            raise TroveStepsError(
                f"mining.range_max ({self.range_max}) must be larger than mining.range_min "
                f"({self.range_min}): what lies between them is looked at"
            )
        for name, value, least in (
            ("search_topk", search_topk, 1),
            ("num_negatives", self.wanted(search_topk), 1),
            ("range_min", self.range_min, 0),
        ):
            if value < least:
                raise TroveStepsError(f"mining.{name} must be at least {least}, not {value}")
        for name in ("max_score", "min_score", "absolute_margin", "relative_margin"):
            if not isfinite(getattr(self, name) or 0):
                raise TroveStepsError(
                    f"mining.{name} must be a finite number; leave it out for none"
                )
        for name in ("absolute_margin", "relative_margin"):
            if (getattr(self, name) or 0) < 0:
                raise TroveStepsError(f"mining.{name} must not be negative")
        if (self.relative_margin or 0) > 1:
            raise TroveStepsError(
                f"mining.relative_margin: {self.relative_margin:g} is no share of the weakest positive's "
                "score, from 0 to 1: 0.05 means 5 %"
            )
        if self.sampling not in ("top", "random"):
            raise TroveStepsError(f"mining.sampling must be top or random, not {self.sampling!r}")
        room = self.candidates(search_topk) - self.range_min
        if self.wanted(search_topk) > room:
            raise TroveStepsError(
                f"mining asks for {self.wanted(search_topk)} negatives per query but looks at only "
                f"{max(room, 0)} candidates (range_max {self.candidates(search_topk)} - range_min "
                f"{self.range_min}): raise search_topk or range_max, or lower num_negatives"
            )

    def depth(self, search_topk: int, annotated: int, twins: bool) -> int:
        """Return how deep to search so that enough candidates are left.

        Args:
            search_topk: see ``mining.mine``.
            annotated: most documents of a query that are dropped for being annotated.
            twins: twins of positives are dropped, exact or near.
        """
        return self.candidates(search_topk) + TWIN_SLACK * twins + annotated


def selection_of(options: dict) -> Selection:
    """Return the selection that a mining section of the configuration asks for, preset included."""
    preset = PRESETS.get(options.get("preset"), {})
    given = {field.name: options.get(field.name) for field in fields(Selection)}
    return Selection(**preset | {name: value for name, value in given.items() if value is not None})


def changed_options(selection: Selection) -> dict:
    """Return the options of a selection that are not at their defaults; 1 and 1.0 are one number."""
    values = {
        field.name: (getattr(selection, field.name), field.default) for field in fields(selection)
    }
    changed = {name: value for name, (value, default) in values.items() if value != default}
    scores = ("max_score", "min_score", "absolute_margin", "relative_margin", "near_twin_cosine")
    return {name: float(value) if name in scores else value for name, value in changed.items()}


def drops_twins(options: dict, judged: bool) -> bool:
    """Tell whether twins of positives are dropped: documents with their text, or nearly so."""
    same_text = options["exclude_text_twins"] and options["no_annot_in_mined_hn"]
    return judged and (same_text or options["near_twin_cosine"] is not None)


def mining_recipe(options: dict, cross_encoder: str | None) -> dict:
    """List what of a mining section determines the negatives; options at their defaults are left out.

    Args:
        options: the section, complete.
        cross_encoder: key of the cross-encoder, or None.
    """
    recipe = {
        name: options[name]
        for name in ("search_topk", "no_annot_in_mined_hn", "output_qrel_format")
    }
    recipe |= changed_options(selection_of(options))
    for name, default in (
        ("merge_mined_qrels", True),
        ("exclude_text_twins", True),
        ("training_formats", []),
    ):
        if options[name] != default:
            recipe[name] = (
                sorted(options[name]) if isinstance(options[name], list) else options[name]
            )
    return recipe | ({"cross_encoder": cross_encoder} if cross_encoder else {})


def candidate_recipe(options: dict) -> dict:
    """List what of a mining section determines which documents a cross-encoder scores."""
    selection = selection_of(options)
    return {
        "candidates": selection.candidates(options["search_topk"]),
        "no_annot_in_mined_hn": options["no_annot_in_mined_hn"],
        "exclude_text_twins": options["exclude_text_twins"],
        "near_twin_cosine": changed_options(selection).get("near_twin_cosine"),
    }


def candidate_flags(options: dict) -> list[str]:
    """Spell the options of `candidate_recipe` as flags of the rescore step."""
    selection = selection_of(options)
    flags = [f"--search-topk={selection.candidates(options['search_topk'])}"]
    if selection.near_twin_cosine is not None:
        flags.append(f"--near-twin-cosine={float(selection.near_twin_cosine)}")
    return flags + _switches(options)


def mine_flags(options: dict) -> list[str]:
    """Spell a mining section as flags of the mine step."""
    flags = [f"--search-topk={options['search_topk']}"]
    flags += [
        f"--{name.replace('_', '-')}={value}"
        for name, value in changed_options(selection_of(options)).items()
    ]
    flags.append(f"--output-qrel-format={options['output_qrel_format']}")
    flags += [] if options["merge_mined_qrels"] else ["--split-by-file"]
    flags += [f"--training-format={name}" for name in sorted(options["training_formats"])]
    return flags + _switches(options)


def merge_flags(options: dict) -> list[str]:
    """Spell a mining section as flags of the step that merges the negatives of several models."""
    flags = [
        f"--num-negatives={selection_of(options).wanted(options['search_topk'])}",
        f"--output-qrel-format={options['output_qrel_format']}",
    ]
    if options["merge_models"] is not None:
        flags.append(f"--least={options['merge_models']}")
    return flags + [f"--training-format={name}" for name in sorted(options["training_formats"])]


def _switches(options: dict) -> list[str]:
    flags = [] if options["no_annot_in_mined_hn"] else ["--keep-annotated"]
    return flags if options["exclude_text_twins"] else [*flags, "--keep-text-twins"]
