"""What a model's folder and the configuration say about encoding with it, and where each value came from.

Light enough to run while the Snakefile is parsed: nothing but JSON files is read.
"""

import fnmatch
import json
from dataclasses import dataclass, field
from pathlib import Path

from trove_steps.errors import TroveStepsError

POOLINGS = ("mean", "first_token", "last_token")
QUERY_MAX_LEN, PASSAGE_MAX_LEN = 32, 128  # Trove's defaults

# Files of the model's folder that decide about its vectors, besides the weights.
SETTINGS_FILES = [
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.*", "vocab.txt", "merges.txt", "*.model", "modules.json",
    "sentence_bert_config.json", "config_sentence_transformers.json", "adapter_config.json", "*.py",
]  # fmt: skip
TRAINING_STATE = ["training_args.bin", "optimizer*", "scheduler*", "rng_state*", "trainer_state*"]
ST_POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "first_token",
    "pooling_mode_lasttoken": "last_token",
}


@dataclass(frozen=True)
class ModelSettings:
    """How texts become vectors; `sources` says of each value where it came from."""

    pooling: str
    normalize: bool
    query_max_len: int
    passage_max_len: int
    torch_dtype: str = "float32"
    append_eos: bool = False
    similarity: str = "dot"
    query_format: str = "{text}"
    passage_format: str = "{title} {text}"
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    pad_to_multiple_of: int = 16
    sources: dict[str, str] = field(default_factory=dict, compare=False)

    def max_len(self, role: str) -> int:
        """Return the most tokens of a text of a role, "query" or "passage"."""
        return self.query_max_len if role == "query" else self.passage_max_len

    def encoder_recipe(self, role: str) -> dict:
        """Return what, beside the model's files, determines the vector of a string.

        Templates are no part of it (they are in the string), nor is the attention kernel.
        """
        return {
            "pooling": self.pooling,
            "normalize": self.normalize,
            "max_len": self.max_len(role),
            "torch_dtype": self.torch_dtype,
            "append_eos": self.append_eos,
        }


def relevant_files(folder: Path) -> list[str]:
    """Return the names, relative to the folder, of the files that determine the model's vectors.

    Raises TroveStepsError if the folder holds no configuration or no weights.
    """
    folder = Path(folder)
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    weights = fnmatch.filter(names, "*.safetensors") or [
        name for name in fnmatch.filter(names, "*.bin") if not _matches(name, TRAINING_STATE)
    ]
    if "config.json" not in names and "adapter_config.json" not in names:
        raise TroveStepsError(f"{folder}: not a model: it has no config.json")
    if not weights:
        raise TroveStepsError(f"{folder}: no weights: no *.safetensors and no *.bin file is there")
    indices = fnmatch.filter(names, "*.index.json")
    chosen = {*weights, *indices, *(name for name in names if _matches(name, SETTINGS_FILES))}
    for module in _read(folder / "modules.json") or []:
        inner = folder / module["path"]
        if module["path"] and inner.is_dir():
            chosen.update(f"{module['path']}/{p.name}" for p in inner.iterdir() if p.is_file())
    return sorted(chosen)


def resolve_settings(folder: Path, given: dict, name: str) -> ModelSettings:
    """Join what the configuration gives with what the model's sentence-transformers files say.

    `given` is the model's block of the configuration. What it does not set comes from the model's
    files, else from Trove's defaults. Pooling is never guessed. Raises TroveStepsError naming the key.
    """
    folder = Path(folder)
    values = {option: (value, "config") for option, value in given.items()}
    for option, value, source in _from_files(folder, name, "pooling" in given):
        values.setdefault(option, (value, source))
    if "pooling" not in values:
        raise TroveStepsError(
            f"models.{name}.pooling: must be set to one of {', '.join(POOLINGS)}, because {folder} has "
            "no sentence-transformers files (modules.json, 1_Pooling) that say it"
        )
    values["normalize"] = _as_bool(values.get("normalize", (False, "default")))
    last = values["pooling"][0] == "last_token"
    values.setdefault("append_eos", (last, "last_token pooling" if last else "default"))
    values.setdefault("query_max_len", (QUERY_MAX_LEN, "default"))
    values.setdefault("passage_max_len", (PASSAGE_MAX_LEN, "default"))
    known = {option: pair for option, pair in values.items() if option in _OPTIONS}
    settings = ModelSettings(
        **{option: value for option, (value, _) in known.items()},
        sources={option: known.get(option, (None, "default"))[1] for option in _OPTIONS},
    )
    _check_lengths(folder, settings, name)
    return settings


_OPTIONS = [option for option in ModelSettings.__dataclass_fields__ if option != "sources"]


def _from_files(folder: Path, name: str, pooling_given: bool):
    """Yield (option, value, source) of what the sentence-transformers files of a model say."""
    modules = _read(folder / "modules.json")
    if modules is None:
        return
    for module in modules:
        kind = module["type"].rsplit(".", 1)[-1]
        if kind == "Pooling":
            source = f"{module['path']}/config.json"
            pooling = _st_pooling(_read(folder / source) or {})
            if pooling:
                yield "pooling", pooling, source
            elif not pooling_given:
                raise TroveStepsError(
                    f"models.{name}: {folder / source} asks for a pooling that is not one of "
                    f"{', '.join(POOLINGS)}; set models.{name}.pooling to override it"
                )
        elif kind not in ("Transformer", "Normalize"):
            raise TroveStepsError(
                f"models.{name}: {folder / 'modules.json'} names a module of the type {kind}, which "
                "can't be run yet; only Transformer, Pooling and Normalize can"
            )
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    yield "normalize", "Normalize" in kinds, "modules.json"
    length = (_read(folder / "sentence_bert_config.json") or {}).get("max_seq_length")
    if length:
        for option in ("query_max_len", "passage_max_len"):
            yield option, length, "sentence_bert_config.json"
    described = _read(folder / "config_sentence_transformers.json") or {}
    if described.get("similarity_fn_name") in ("dot", "cosine"):
        yield "similarity", described["similarity_fn_name"], "config_sentence_transformers.json"
    prompts = described.get("prompts") or {}
    for option, roles in (("query_format", ["query"]), ("passage_format", ["document", "passage"])):
        prompt = next((prompts[role] for role in roles if prompts.get(role)), "")
        if prompt:
            body = "{text}" if option == "query_format" else "{title} {text}"
            escaped = prompt.replace("{", "{{").replace("}", "}}")
            yield option, escaped + body, "config_sentence_transformers.json"


def _st_pooling(config: dict) -> str | None:
    mode = config.get("pooling_mode")
    if mode:
        return {"mean": "mean", "cls": "first_token", "lasttoken": "last_token"}.get(mode)
    chosen = [option for option, on in config.items() if option.startswith("pooling_mode_") and on]
    return ST_POOLINGS.get(chosen[0]) if len(chosen) == 1 else None


def _as_bool(pair: tuple) -> tuple[bool, str]:
    value, source = pair
    return ({"yes": True, "no": False}.get(value, value), source)


def _check_lengths(folder: Path, settings: ModelSettings, name: str) -> None:
    config = _read(folder / "config.json") or {}
    positions = config.get("max_position_embeddings")
    if not positions:
        return
    # RoBERTa and its like count positions from after the padding index.
    usable = positions - 2 if config.get("model_type") in _OFFSET_POSITIONS else positions
    for option in ("query_max_len", "passage_max_len"):
        length = getattr(settings, option)
        if length > usable:
            raise TroveStepsError(
                f"models.{name}.{option}: {length} is more than the {usable} positions of the model "
                f"({folder / 'config.json'})"
            )


_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer")


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _read(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, UnicodeDecodeError) as error:
        raise TroveStepsError(f"{path}: not valid JSON ({error}); fetch the model again") from None
