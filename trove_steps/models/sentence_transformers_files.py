"""What the sentence-transformers files of a model say."""

import fnmatch
from dataclasses import dataclass
from pathlib import Path

from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json
from trove_steps.models.config import max_positions
from trove_steps.models.folder import (
    MODULES,
    file_names,
    module_kind,
    read_model_json,
    transformer_folder,
)

ST_POOLINGS = {  # mode of a Pooling module → our name
    "mean": "mean",
    "cls": "first_token",
    "lasttoken": "last_token",
    "max": "max",
    "weightedmean": "weighted_mean",
}
OLD_ST_POOLINGS = {  # option of an older Pooling module → its mode
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
}
DESCRIPTION = "config_sentence_transformers.json"
PROMPTS = {  # format → names of the prompt that it begins with
    "query_format": ("query",),
    "passage_format": ("document", "passage", "corpus"),
}
UNBOUNDED_LENGTH = 10**6  # tokenizers without a limit say 10**30


@dataclass(frozen=True)
class Modules:
    """A model's modules.json, as far as it can be run here.

    `transformer` and `dense` are folders relative to the model's ("" is the model's own folder);
    `pooling` is None if it is of a kind that can't be run, and `problem` says so.
    """

    transformer: str
    pooling: str | None
    pooling_file: str
    dense: tuple[str, ...]
    normalize: bool
    problem: str = ""


def read_modules(folder: Path) -> Modules | None:
    """Return what modules.json of a sentence-transformers folder says, None if there is none.

    Raises TroveStepsError for a module other than Transformer, Pooling, Dense, Normalize (and Dropout,
    which does nothing when encoding), or for an order that makes another vector.
    """
    listed = read_model_json(Path(folder) / "modules.json")
    if listed is None:
        return None
    kinds = [module_kind(module) for module in listed if module_kind(module) != "Dropout"]
    for kind in kinds:
        if kind not in MODULES:
            raise TroveStepsError(
                f"{Path(folder) / 'modules.json'}: a module of the type {kind} can't be run here, only "
                f"{', '.join(MODULES)} of sentence-transformers; write an encoder_class of your own for it"
            )
    in_order = sorted(kinds, key=MODULES.index)
    if kinds != in_order or kinds[:2] != ["Transformer", "Pooling"] or kinds.count("Pooling") > 1:
        raise TroveStepsError(
            f"{Path(folder) / 'modules.json'}: modules in the order {', '.join(kinds)} can't be run here, "
            "only one Transformer, one Pooling, then Dense, then Normalize"
        )
    paths = {kind: [m.get("path", "") for m in listed if module_kind(m) == kind] for kind in kinds}
    pooling_file = f"{paths['Pooling'][0]}/config.json"
    pooling, problem = _pooling(read_model_json(Path(folder) / pooling_file) or {})
    return Modules(
        transformer=paths["Transformer"][0],
        pooling=pooling,
        pooling_file=pooling_file,
        dense=tuple(paths.get("Dense", ())),
        normalize="Normalize" in kinds,
        problem=problem,
    )


def _pooling(config: dict) -> tuple[str | None, str]:
    """Return (Trove's name of a Pooling module's mode, "") or (None, what is wrong with it)."""
    modes = config.get("pooling_mode") or [
        mode for option, mode in OLD_ST_POOLINGS.items() if config.get(option)
    ]
    modes = [modes] if isinstance(modes, str) else modes or ["mean"]
    if len(modes) > 1 or modes[0] not in ST_POOLINGS:
        return None, f"asks for {' + '.join(modes)} pooling, which can't be run here"
    if config.get("include_prompt") is False:
        return None, "leaves the prompt's tokens out of the pooling, which can't be done here"
    return ST_POOLINGS[modes[0]], ""


def max_seq_length(folder: Path, transformer: Path) -> tuple[int | None, str]:
    """Return (most tokens of a text, file that says so) as sentence-transformers finds it."""
    for path in (folder, transformer):
        for name in fnmatch.filter(file_names(path), "sentence_*_config.json"):
            length = (read_model_json(path / name) or {}).get("max_seq_length")
            if length:
                return length, name
    length = (read_model_json(transformer / "tokenizer_config.json") or {}).get("model_max_length")
    if length and length < UNBOUNDED_LENGTH:
        return int(length), "tokenizer_config.json"
    return max_positions(transformer), "config.json"


def lower_cases(folder: Path) -> bool:
    """Return whether the model's sentence-transformers files ask for lower-cased text."""
    return any(
        (read_model_json(path / name) or {}).get("do_lower_case", False)
        for path in {Path(folder), transformer_folder(folder)}
        for name in fnmatch.filter(file_names(path), "sentence_*_config.json")
    )


def unused_prompts(folder: Path) -> tuple[str, ...]:
    """Return the names of a model's prompts that are meant for neither queries nor documents."""
    known = {name for names in PROMPTS.values() for name in names}
    prompts = (read_model_json(folder / DESCRIPTION) or {}).get("prompts") or {}
    return tuple(name for name, prompt in prompts.items() if prompt and name not in known)


def vector_width(folder: Path) -> int | None:
    """Return the dimensions of a model's vectors as its files say, None if they don't."""
    modules = read_modules(folder)
    for dense in reversed(modules.dense if modules else ()):
        return _entry(Path(folder) / dense / "config.json", "out_features")
    inner = transformer_folder(folder) / "config.json"
    return _entry(inner, "hidden_size") or _entry(inner, "d_model")


def _entry(path: Path, name: str) -> int | None:
    try:
        value = read_json(path).get(name)
    except TroveStepsError:
        return None
    return value if isinstance(value, int) else None
