"""The settings of a model: what the configuration gives, else its files say, else Trove's defaults.

Light enough to run while the Snakefile is parsed: nothing but small JSON files is read.
"""

from pathlib import Path

from trove_steps import own_code
from trove_steps.errors import TroveStepsError
from trove_steps.formats import OTHERS
from trove_steps.models.config import max_positions, transformer_config
from trove_steps.models.folder import read_model_json, transformer_folder
from trove_steps.models.sentence_transformers_files import (
    DESCRIPTION,
    PROMPTS,
    Modules,
    max_seq_length,
    read_modules,
    unused_prompts,
    vector_width,
)
from trove_steps.models.settings import OPTIONS, ModelSettings

POOLINGS = ("mean", "first_token", "last_token")  # Trove's; a model's files may say others
QUERY_MAX_LEN, PASSAGE_MAX_LEN = 32, 128  # Trove's defaults


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
        unused_prompts=unused_prompts(folder),
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


def _from_files(folder: Path, values: dict, where: str):
    """Yield (option, value, source) of what the sentence-transformers files of a model say."""
    if not (folder / "modules.json").exists():
        return
    modules = _modules_to_run(folder, values)
    if modules is not None:
        yield from _from_modules(folder, modules, values, where)
    length, source = max_seq_length(folder, transformer_folder(folder))
    if length:
        yield "query_max_len", length, source
        yield "passage_max_len", length, source
    described = read_model_json(folder / DESCRIPTION) or {}
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


def _dtype(folder: Path, value: str, source: str, where: str) -> tuple[str, str]:
    if value != "auto":
        return value, source
    config = transformer_config(folder)
    found = str(config.get("dtype") or config.get("torch_dtype") or "float32").split(".")[-1]
    if found not in ("float32", "float16", "bfloat16"):
        raise TroveStepsError(
            f"{where}.torch_dtype: auto means {found} for this model; set float32, float16 or bfloat16"
        )
    return found, "config.json"


def _length(folder: Path, option: str, length: int, source: str, where: str) -> tuple[int, str]:
    positions = max_positions(transformer_folder(folder))
    if positions is None or length <= positions:
        return length, source
    if source == "config":
        raise TroveStepsError(
            f"{where}.{option}: {length} is more than the {positions} positions of the model; set "
            f"{positions} or less"
        )
    return positions, "config.json (positions)"


def _check(folder: Path, settings: ModelSettings, where: str) -> None:
    if settings.load_in_8bit and settings.load_in_4bit:
        raise TroveStepsError(f"{where}: load_in_8bit and load_in_4bit exclude each other")
    if not settings.trust_remote_code:
        return
    elsewhere = [
        reference
        for entry in (transformer_config(folder).get("auto_map") or {}).values()
        for reference in (entry if isinstance(entry, list) else [entry])
        if reference and "--" in reference
    ]
    if elsewhere:
        raise TroveStepsError(
            f"{where}.trust_remote_code: the model's config.json takes its code from another "
            f"repository ({elsewhere[0]}), where it may change unseen; copy that code into the model's "
            "folder and name it in auto_map without the repository"
        )
