"""What a model's folder and the configuration say about encoding with it, and where each value came from.

Light enough to run while the Snakefile is parsed: nothing but small JSON files is read.
"""

import fnmatch
import json
from dataclasses import dataclass, field
from pathlib import Path

from trove_steps import own_code
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json
from trove_steps.formats import OTHERS
from trove_steps.keys import derived_recipe
from trove_steps.models import locate_model

POOLINGS = ("mean", "first_token", "last_token")  # Trove's; from a model's files also:
ST_POOLINGS = {
    "mean": "mean",
    "cls": "first_token",
    "lasttoken": "last_token",
    "max": "max",
    "weightedmean": "weighted_mean",
}
OLD_ST_POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
}
MODULES = (
    "Transformer",
    "Pooling",
    "Dense",
    "Normalize",
)  # of sentence-transformers, in this order
DESCRIPTION = "config_sentence_transformers.json"
PROMPTS = {  # format → names of the prompt that it begins with
    "query_format": ("query",),
    "passage_format": ("document", "passage", "corpus"),
}
QUERY_MAX_LEN, PASSAGE_MAX_LEN = 32, 128  # Trove's defaults
UNBOUNDED_LENGTH = 10**6  # tokenizers without a limit say 10**30

# Files beside the weights that decide about vectors.
DECIDING_FILES = [
    "config.json", "adapter_config.json", "modules.json", "sentence_*_config.json",
    DESCRIPTION, "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "*.spm",
    "*.codes", "*.tiktoken", "tekken.json",
]  # fmt: skip
# What transformers loads, in its order: the first that is there.
WEIGHT_FILES = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
]
ADAPTER_WEIGHT_FILES = ["adapter_model.safetensors", "adapter_model.bin"]
# Architectures that count positions from after the padding token's id.
OFFSET_POSITIONS = {
    "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer",
    "roberta-prelayernorm", "data2vec-text", "xmod", "ibert", "luke",
}  # fmt: skip


@dataclass(frozen=True)
class ModelSettings:
    """How texts become vectors; `sources` says of each value where it came from.

    `unused_prompts` are names of the model's prompts that neither format takes by itself.
    `pooling` is None when an own encoder class pools. `pad_to_multiple_of` is None for what suits the
    device. `encoder_class` is "default" or "module:Class".
    """

    pooling: str | None
    normalize: bool
    query_max_len: int
    passage_max_len: int
    torch_dtype: str = "float32"
    append_eos: bool = False
    padding_side: str = "right"
    truncation_side: str = "right"
    encoder_class: str = "default"
    truncate_dim: int | None = None
    quantization: str | None = None
    embedding_dtype: str = "float32"
    similarity: str = "dot"
    query_format: str = "{text}"
    passage_format: str = "{title} {text}"
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    pad_to_multiple_of: int | None = None
    load_in_8bit: bool = False
    load_in_4bit: bool = False
    bnb_4bit_quant_type: str = "nf4"
    use_bnb_nested_quant: bool = False
    sources: dict[str, str] = field(default_factory=dict, compare=False)
    unused_prompts: tuple[str, ...] = field(default=(), compare=False)

    def max_len(self, role: str) -> int:
        """Return the most tokens of a text of a role, "query" or "passage"; special tokens count."""
        return self.query_max_len if role == "query" else self.passage_max_len

    def encoder_recipe(self, role: str) -> dict:
        """Return what, beside the model's files, determines the vector of a string.

        Templates are no part of it (they are in the string), nor are the attention kernel and
        the padding, which change the last bits at most, nor what is derived from stored vectors.
        Options that are off leave no trace, so that a new option does not rename what exists.
        """
        recipe = {
            "pooling": self.pooling,
            "normalize": self.normalize,
            "max_len": self.max_len(role),
            "append_eos": self.append_eos,
            "torch_dtype": self.torch_dtype,
        }
        if self.truncation_side != "right":
            recipe["truncation_side"] = self.truncation_side
        if self.embedding_dtype != "float32":
            recipe["embedding_dtype"] = self.embedding_dtype
        if self.padding_side != "right":
            recipe["padding_side"] = self.padding_side
        if self.load_in_8bit:
            recipe["quantization"] = "bitsandbytes-8bit"
        if self.load_in_4bit:
            nested = "-nested" if self.use_bnb_nested_quant else ""
            recipe["quantization"] = f"bitsandbytes-4bit-{self.bnb_4bit_quant_type}{nested}"
        if ":" in self.encoder_class:
            digest = own_code.source_digest(self.encoder_class, "encoder_class")
            recipe["encoder_class"] = {"name": self.encoder_class, "sha256": digest}
        return recipe

    def derived_recipe(self) -> dict:
        """Return how the vectors that are searched are made of the stored ones."""
        return derived_recipe(self.truncate_dim, self.normalize, self.quantization)

    def described(self) -> dict[str, dict]:
        """Return option → {"value", "source"} of every option, for records and people."""
        return {
            option: {"value": getattr(self, option), "source": source}
            for option, source in self.sources.items()
        }

    def report(self) -> dict:
        """Return all that a person or a program may want to know of the settings."""
        return {"settings": self.described(), "unused_prompts": list(self.unused_prompts)}

    def described_lines(self) -> str:
        """Return the settings with their sources for people, one per line."""
        lines = [
            f"{option}: {_spelled(entry['value'])} ({entry['source']})"
            for option, entry in self.described().items()
        ]
        if self.unused_prompts:
            lines.append(
                f"prompts not used: {', '.join(self.unused_prompts)} ({DESCRIPTION}); to use one, write its "
                "text into query_format or passage_format"
            )
        return "\n".join(lines)


def _spelled(value) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


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


OPTIONS = [name for name, entry in ModelSettings.__dataclass_fields__.items() if entry.compare]


# --- files -------------------------------------------------------------------------------------


def relevant_files(folder: Path) -> list[str]:
    """Return the names, relative to the folder, of the files that determine the model's vectors.

    An adapter's base model is elsewhere: `model_files` has it too. Raises TroveStepsError if the
    folder holds no configuration or no weights.
    """
    folder = Path(folder)
    chosen: set[str] = set()
    transformer = ""
    for module in _read(folder / "modules.json") or []:
        path = module.get("path", "")
        if _kind(module) == "Transformer":
            transformer = path
        elif path and (folder / path).is_dir():
            chosen.update(f"{path}/{name}" for name in _module_files(folder / path, _kind(module)))
    for path in {"", transformer}:
        names = _names(folder / path)
        chosen.update(_joined(path, name) for name in names if _matches(name, DECIDING_FILES))
    chosen.update(_joined(transformer, name) for name in _weights(folder / transformer))
    chosen.update(_code(folder))
    return sorted(chosen)


def model_files(folder: Path) -> dict[str, Path]:
    """Return name → path of every file that determines the vectors; an adapter's base is `base/…`."""
    folder = Path(folder)
    files = {name: folder / name for name in relevant_files(folder)}
    base = base_folder(folder)
    if base is not None:
        files |= {f"base/{name}": base / name for name in relevant_files(base)}
    return files


def base_folder(folder: Path) -> Path | None:
    """Return the folder of the base model if `folder` holds a PEFT adapter, else None.

    The adapter's `base_model_name_or_path` is a path from the adapter's folder or from the working
    directory, or a name on the Hub.
    """
    folder = transformer_folder(folder)
    adapter = _read(folder / "adapter_config.json")
    if adapter is None or ((folder / "config.json").exists() and _standard_weights(folder)):
        return None
    name = adapter.get("base_model_name_or_path")
    if not name:
        raise TroveStepsError(
            f"{folder / 'adapter_config.json'}: has no base_model_name_or_path; write the folder or the "
            "Hub name of the model that the adapter was trained on"
        )
    if (folder / name).is_dir():
        return folder / name
    where = f"{folder / 'adapter_config.json'}: base"
    return locate_model(name, adapter.get("revision") or "main", where)


def transformer_folder(folder: Path) -> Path:
    """Return the folder that holds config.json and the weights: old layouts have it inside."""
    modules = _read(Path(folder) / "modules.json") or []
    inner = next((m.get("path", "") for m in modules if _kind(m) == "Transformer"), "")
    return Path(folder) / inner


def _weights(folder: Path) -> list[str]:
    names = _names(folder)
    standard = _standard_weights(folder)
    if "adapter_config.json" in names and not ("config.json" in names and standard):
        found = next((name for name in ADAPTER_WEIGHT_FILES if name in names), None)
        if found is None:
            raise TroveStepsError(
                f"{folder}: no weights: adapter_config.json has none of "
                f"{', '.join(ADAPTER_WEIGHT_FILES)} beside it"
            )
        return [found]
    quantized = fnmatch.filter(names, "*.gguf")
    if quantized and not standard:
        raise TroveStepsError(
            f"{folder}: its weights are in {quantized[0]}, and GGUF can't be read here; name the folder of "
            "the original weights, or load the file with transformers (gguf_file=…) and save_pretrained it"
        )
    if "config.json" not in names:
        raise TroveStepsError(f"{folder}: not a model: it has no config.json")
    if not standard:
        raise TroveStepsError(
            f"{folder}: no weights: none of {', '.join(WEIGHT_FILES)} is there"
            + (" (is the download complete?)" if fnmatch.filter(names, "*.safetensors*") else "")
        )
    return standard


def _standard_weights(folder: Path) -> list[str]:
    """Return the weight files that transformers would load: a single file, or an index and its parts."""
    names = _names(folder)
    found = next((name for name in WEIGHT_FILES if name in names), None)
    if found is None or not found.endswith(".index.json"):
        return [found] if found else []
    parts = sorted(set((_read(folder / found) or {}).get("weight_map", {}).values()))
    missing = [part for part in parts if part not in names]
    if missing or not parts:
        raise TroveStepsError(
            f"{folder}: {found} names weight files that are not there: {', '.join(missing) or 'none'}; "
            "fetch the model again"
        )
    return [found, *parts]


def _code(folder: Path) -> set[str]:
    """Return the Python files in a folder and below; those of hidden folders are no part of a model."""
    paths = (path.relative_to(folder) for path in folder.rglob("*.py"))
    hidden = (".", "__pycache__")
    return {path.as_posix() for path in paths if not any(p.startswith(hidden) for p in path.parts)}


def _module_files(folder: Path, kind: str) -> list[str]:
    names = _names(folder)
    if kind not in MODULES:  # only a class of the user's own knows what it reads
        return names
    weights = [n for n in ("model.safetensors", "pytorch_model.bin") if n in names][:1]
    return weights + [name for name in names if name == "config.json"]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise TroveStepsError(
            f"{folder}: can't be read as a model's folder ({error.strerror})"
        ) from None


def _joined(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _read(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, UnicodeDecodeError) as error:
        raise TroveStepsError(f"{path}: not valid JSON ({error}); fetch the model again") from None


# --- settings ------------------------------------------------------------------------------------


def resolve_settings(folder: Path, given: dict, name: str) -> ModelSettings:
    """Join what the configuration gives with what the model's sentence-transformers files say.

    `given` is the model's block of the configuration. What it does not set comes from the model's
    files, else from Trove's defaults. Pooling is never guessed. A length that is given must fit the
    model's positions; one from files or defaults is lowered to them. Raises TroveStepsError naming
    the key.
    """
    folder, where = Path(folder), f"models.{name}"
    values = {option: (value, "config") for option, value in given.items() if option in OPTIONS}
    for option in ("query_format", "passage_format"):
        form = values.get(option, ("", ""))[0]
        if isinstance(form, dict):  # by data set: a plan chooses; here stands what the others get
            del values[option]
            if OTHERS in form:
                values[option] = (form[OTHERS], "config")
    _apply_encoder_class(values, where)
    for option, value, source in _from_files(folder, values, where):
        values.setdefault(option, (value, source))
    own_class = ":" in values["encoder_class"][0]
    if "pooling" not in values and not own_class:
        raise TroveStepsError(
            f"{where}.pooling: must be set to one of {', '.join(POOLINGS)}, because {folder} has "
            "no sentence-transformers files (modules.json) that say it"
        )
    values.setdefault("pooling", (None, "encoder_class"))
    values.setdefault("normalize", (False, "default"))
    value, source = values["normalize"]
    values["normalize"] = ({"yes": True, "no": False}.get(value, value), source)
    last = values["pooling"][0] == "last_token"
    values.setdefault("append_eos", (last, "last_token pooling" if last else "default"))
    values["torch_dtype"] = _dtype(
        folder, *values.get("torch_dtype", ("float32", "default")), where
    )
    for option, default in (("query_max_len", QUERY_MAX_LEN), ("passage_max_len", PASSAGE_MAX_LEN)):
        values[option] = _length(folder, option, *values.get(option, (default, "default")), where)
    settings = ModelSettings(
        **{option: value for option, (value, _) in values.items()},
        sources={option: values.get(option, (None, "default"))[1] for option in OPTIONS},
        unused_prompts=_unused_prompts(folder),
    )
    _check(folder, settings, where)
    width = None if own_class or settings.truncate_dim is None else vector_width(folder)
    if width is not None and settings.truncate_dim > width:
        raise TroveStepsError(
            f"{where}.truncate_dim: {settings.truncate_dim} is more than the {width} dimensions of the "
            f"model's vectors; set {width} or less"
        )
    return settings


def imported_settings(given: dict) -> ModelSettings:
    """Return the settings of a model of which only vectors are there: how these are compared."""
    known = {o: given[o] for o in ("similarity", "truncate_dim", "quantization") if o in given}
    return ModelSettings(
        pooling=None,
        normalize=given.get("normalize") in (True, "yes"),
        query_max_len=QUERY_MAX_LEN,
        passage_max_len=PASSAGE_MAX_LEN,
        **known,
    )


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


def _apply_encoder_class(values: dict, where: str) -> None:
    """Put what an encoder class fixes into the values. `contriever` is mean pooling, not normalized."""
    choice, source = values.setdefault("encoder_class", ("default", "default"))
    if choice == "contriever":
        for option, fixed in (("pooling", "mean"), ("normalize", False)):
            chosen = values.get(option, (fixed, ""))[0]
            if chosen not in (fixed, "no"):
                raise TroveStepsError(
                    f"{where}.{option}: encoder_class contriever means {option}: "
                    f"{str(fixed).lower()}; leave {option} out, or set encoder_class: default"
                )
            values[option] = (fixed, "encoder_class")
        values.setdefault("similarity", ("dot", "encoder_class"))
        values["encoder_class"] = ("default", source)
    elif ":" in choice:
        own_code.source_file(choice, f"{where}.encoder_class")
    elif choice != "default":
        raise TroveStepsError(
            f"{where}.encoder_class: '{choice}' is none of default, contriever and module:Class"
        )


def read_modules(folder: Path) -> Modules | None:
    """Return what modules.json of a sentence-transformers folder says, None if there is none.

    Raises TroveStepsError for a module other than Transformer, Pooling, Dense, Normalize (and Dropout,
    which does nothing when encoding), or for an order that makes another vector.
    """
    listed = _read(Path(folder) / "modules.json")
    if listed is None:
        return None
    kinds = [_kind(module) for module in listed if _kind(module) != "Dropout"]
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
    paths = {kind: [m.get("path", "") for m in listed if _kind(m) == kind] for kind in kinds}
    pooling_file = f"{paths['Pooling'][0]}/config.json"
    pooling, problem = _st_pooling(_read(Path(folder) / pooling_file) or {})
    return Modules(
        transformer=paths["Transformer"][0],
        pooling=pooling,
        pooling_file=pooling_file,
        dense=tuple(paths.get("Dense", ())),
        normalize="Normalize" in kinds,
        problem=problem,
    )


def _from_files(folder: Path, values: dict, where: str):
    """Yield (option, value, source) of what the sentence-transformers files of a model say."""
    if not (folder / "modules.json").exists():
        return
    modules = _modules_to_run(folder, values)
    if modules is not None:
        yield from _from_modules(folder, modules, values, where)
    length, source = _st_length(folder, transformer_folder(folder))
    if length:
        yield "query_max_len", length, source
        yield "passage_max_len", length, source
    described = _read(folder / DESCRIPTION) or {}
    similarity = described.get("similarity_fn_name")
    if similarity in ("dot", "cosine"):
        yield "similarity", similarity, DESCRIPTION
    elif similarity is None:
        # Its own default is cosine, which is the dot product of vectors of length 1.
        said = modules is not None and modules.normalize
        one = values.get("normalize", (said,))[0] in (True, "yes")
        yield "similarity", "dot" if one else "cosine", "sentence-transformers' default"
    elif "similarity" not in values:
        raise TroveStepsError(
            f"{where}: {folder / DESCRIPTION} asks for {similarity} similarity, which is not available; "
            f"set {where}.similarity to dot or cosine to override it"
        )
    prompts = described.get("prompts") or {}
    for option, names in PROMPTS.items():
        prompt = next((prompts[name] for name in names if prompts.get(name)), "")
        if prompt:
            body = ModelSettings.__dataclass_fields__[option].default
            yield option, prompt.replace("{", "{{").replace("}", "}}") + body, DESCRIPTION


def _modules_to_run(folder: Path, values: dict) -> Modules | None:
    """Return the model's modules; None if only the class of the user's own can run them."""
    try:
        return read_modules(folder)
    except TroveStepsError:
        if ":" not in values["encoder_class"][0]:
            raise
        return None


def _from_modules(folder: Path, modules: Modules, values: dict, where: str):
    if modules.problem and "pooling" not in values:
        raise TroveStepsError(
            f"{where}: {folder / modules.pooling_file} {modules.problem}; set {where}.pooling to one of "
            f"{', '.join(POOLINGS)} to override it"
        )
    if modules.pooling:
        yield "pooling", modules.pooling, modules.pooling_file
        if modules.pooling == "last_token":
            # sentence-transformers takes what the tokenizer adds, no more.
            yield "append_eos", False, modules.pooling_file
    yield "normalize", modules.normalize, "modules.json"


def _unused_prompts(folder: Path) -> tuple[str, ...]:
    """Return the names of a model's prompts that are meant for neither queries nor documents."""
    known = {name for names in PROMPTS.values() for name in names}
    prompts = (_read(folder / DESCRIPTION) or {}).get("prompts") or {}
    return tuple(name for name, prompt in prompts.items() if prompt and name not in known)


def _st_pooling(config: dict) -> tuple[str | None, str]:
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


def _st_length(folder: Path, transformer: Path) -> tuple[int | None, str]:
    """Return (most tokens of a text, file that says so) as sentence-transformers finds it."""
    for path in (folder, transformer):
        for name in fnmatch.filter(_names(path), "sentence_*_config.json"):
            length = (_read(path / name) or {}).get("max_seq_length")
            if length:
                return length, name
    length = (_read(transformer / "tokenizer_config.json") or {}).get("model_max_length")
    if length and length < UNBOUNDED_LENGTH:
        return int(length), "tokenizer_config.json"
    return _positions(transformer), "config.json"


def lower_cases(folder: Path) -> bool:
    """Return whether the model's sentence-transformers files ask for lower-cased text."""
    return any(
        (_read(path / name) or {}).get("do_lower_case", False)
        for path in {Path(folder), transformer_folder(folder)}
        for name in fnmatch.filter(_names(path), "sentence_*_config.json")
    )


def _dtype(folder: Path, value: str, source: str, where: str) -> tuple[str, str]:
    if value != "auto":
        return value, source
    config = _config(folder)
    found = str(config.get("dtype") or config.get("torch_dtype") or "float32").split(".")[-1]
    if found not in ("float32", "float16", "bfloat16"):
        raise TroveStepsError(
            f"{where}.torch_dtype: auto means {found} for this model; set float32, float16 or bfloat16"
        )
    return found, "config.json"


def _length(folder: Path, option: str, length: int, source: str, where: str) -> tuple[int, str]:
    positions = _positions(transformer_folder(folder))
    if positions is None or length <= positions:
        return length, source
    if source == "config":
        raise TroveStepsError(
            f"{where}.{option}: {length} is more than the {positions} positions of the model; set "
            f"{positions} or less"
        )
    return positions, "config.json (positions)"


def _positions(folder: Path) -> int | None:
    """Return how many tokens the model has positions for, None if there is no such limit."""
    config = _config(folder)
    config = config.get("text_config") or config
    kind = config.get("model_type", "")
    positions = config.get("max_position_embeddings")
    if positions is None and kind.startswith("gpt"):
        positions = config.get("n_positions")
    if not positions or positions < 0:
        return None
    return positions - (config.get("pad_token_id", 1) + 1 if kind in OFFSET_POSITIONS else 0)


def _config(folder: Path) -> dict:
    inner = transformer_folder(folder)
    config = _read(inner / "config.json")
    if config is None and (inner / "adapter_config.json").exists():
        return _config(base_folder(folder))
    return config or {}


def _check(folder: Path, settings: ModelSettings, where: str) -> None:
    if settings.load_in_8bit and settings.load_in_4bit:
        raise TroveStepsError(f"{where}: load_in_8bit and load_in_4bit exclude each other")
    if not settings.trust_remote_code:
        return
    elsewhere = [
        reference
        for entry in (_config(folder).get("auto_map") or {}).values()
        for reference in (entry if isinstance(entry, list) else [entry])
        if reference and "--" in reference
    ]
    if elsewhere:
        raise TroveStepsError(
            f"{where}.trust_remote_code: the model's config.json takes its code from another "
            f"repository ({elsewhere[0]}), where it may change unseen; copy that code into the model's "
            "folder and name it in auto_map without the repository"
        )


def _kind(module: dict) -> str:
    """Return the class of a module, with its module's name unless it is sentence-transformers' own."""
    kind = str(module.get("type", ""))
    return kind.rsplit(".", 1)[-1] if kind.startswith("sentence_transformers.") else kind
