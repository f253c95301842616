"""Which files of a model determine its vectors."""

import fnmatch
from pathlib import Path

from trove_steps.models.folder import (
    MODULES,
    base_folder,
    file_names,
    module_kind,
    read_model_json,
    weight_files,
)
from trove_steps.models.sentence_transformers_files import DESCRIPTION

# Files beside the weights that decide about vectors.
DECIDING_FILES = [
    "config.json", "adapter_config.json", "modules.json", "sentence_*_config.json",
    DESCRIPTION, "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "*.spm",
    "*.codes", "*.tiktoken", "tekken.json",
]  # fmt: skip


def model_files(folder: Path) -> dict[str, Path]:
    """Return name → path of every file that determines the vectors; an adapter's base is `base/…`."""
    folder = Path(folder)
    files = {name: folder / name for name in relevant_files(folder)}
    base = base_folder(folder)
    if base is not None:
        files |= {f"base/{name}": base / name for name in relevant_files(base)}
    return files


def relevant_files(folder: Path) -> list[str]:
    """Return the names, relative to the folder, of the files that determine the model's vectors.

    An adapter's base model is elsewhere: `model_files` has it too. Raises TroveStepsError if the
    folder holds no configuration or no weights.
    """
    folder = Path(folder)
    chosen: set[str] = set()
    transformer = ""
    for module in read_model_json(folder / "modules.json") or []:
        path = module.get("path", "")
        if module_kind(module) == "Transformer":
            transformer = path
        elif path and (folder / path).is_dir():
            chosen.update(
                f"{path}/{name}" for name in _module_files(folder / path, module_kind(module))
            )
    for path in {"", transformer}:
        names = file_names(folder / path)
        chosen.update(_joined(path, name) for name in names if _matches(name, DECIDING_FILES))
    chosen.update(_joined(transformer, name) for name in weight_files(folder / transformer))
    chosen.update(_code(folder))
    return sorted(chosen)


def _module_files(folder: Path, kind: str) -> list[str]:
    names = file_names(folder)
    if kind not in MODULES:  # only a class of the user's own knows what it reads
        return names
    weights = [n for n in ("model.safetensors", "pytorch_model.bin") if n in names][:1]
    return weights + [name for name in names if name == "config.json"]


def _code(folder: Path) -> set[str]:
    """Return the Python files in a folder and below; those of hidden folders are no part of a model."""
    paths = (path.relative_to(folder) for path in folder.rglob("*.py"))
    hidden = (".", "__pycache__")
    return {path.as_posix() for path in paths if not any(p.startswith(hidden) for p in path.parts)}


def _joined(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
