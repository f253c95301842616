"""How a model's folder is laid out: its modules, its weights, the base model of an adapter."""

import fnmatch
import json
from pathlib import Path

from trove_steps.errors import TroveStepsError
from trove_steps.models.location import locate_model

# Modules of sentence-transformers, in this order.
MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
# What transformers loads, in its order: the first that is there.
WEIGHT_FILES = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
]
ADAPTER_WEIGHT_FILES = ["adapter_model.safetensors", "adapter_model.bin"]


def transformer_folder(folder: Path) -> Path:
    """Return the folder that holds config.json and the weights: old layouts have it inside."""
    modules = read_model_json(Path(folder) / "modules.json") or []
    inner = next((m.get("path", "") for m in modules if module_kind(m) == "Transformer"), "")
    return Path(folder) / inner


def base_folder(folder: Path) -> Path | None:
    """Return the folder of the base model if `folder` holds a PEFT adapter, else None.

    The adapter's `base_model_name_or_path` is a path from the adapter's folder or from the working
    directory, or a name on the Hub.
    """
    folder = transformer_folder(folder)
    adapter = read_model_json(folder / "adapter_config.json")
    if adapter is None or ((folder / "config.json").exists() and standard_weights(folder)):
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


def weight_files(folder: Path) -> list[str]:
    """Return the names of the weight files in a folder, those of an adapter if it holds one.

    Raises TroveStepsError if there are none, or no config.json.
    """
    names = file_names(folder)
    standard = standard_weights(folder)
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


def standard_weights(folder: Path) -> list[str]:
    """Return the weight files that transformers would load: a single file, or an index and its parts."""
    names = file_names(folder)
    found = next((name for name in WEIGHT_FILES if name in names), None)
    if found is None or not found.endswith(".index.json"):
        return [found] if found else []
    parts = sorted(set((read_model_json(folder / found) or {}).get("weight_map", {}).values()))
    missing = [part for part in parts if part not in names]
    if missing or not parts:
        raise TroveStepsError(
            f"{folder}: {found} names weight files that are not there: {', '.join(missing) or 'none'}; "
            "fetch the model again"
        )
    return [found, *parts]


def module_kind(module: dict) -> str:
    """Return the class of a module, with its module's name unless it is sentence-transformers' own."""
    kind = str(module.get("type", ""))
    return kind.rsplit(".", 1)[-1] if kind.startswith("sentence_transformers.") else kind


def file_names(folder: Path) -> list[str]:
    """Return the names of the files in a folder of a model, sorted."""
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise TroveStepsError(
            f"{folder}: can't be read as a model's folder ({error.strerror})"
        ) from None


def read_model_json(path: Path):
    """Read a JSON file of a model, None if it is not there; a damaged one is reported with what to do."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, UnicodeDecodeError) as error:
        raise TroveStepsError(f"{path}: not valid JSON ({error}); fetch the model again") from None
