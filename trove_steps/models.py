"""Where a model's files are: a local folder, or a snapshot in the Hub's cache."""

import os
from pathlib import Path

from trove_steps.errors import TroveStepsError

NOT_NEEDED = ["*.onnx", "onnx/*", "openvino/*", "*.h5", "*.msgpack", "*.ot", "*.gguf", "coreml/*"]


def locate_model(name_or_path: str, revision: str, where: str) -> Path:
    """Return the folder of a model; fetch it from the Hub if it is not there yet.

    A path that exists wins over a Hub name. With HF_HUB_OFFLINE=1 only the Hub's cache is looked at.
    `where` is the key of the configuration that messages name.
    """
    if os.path.isdir(name_or_path):
        return Path(name_or_path)
    if os.path.isfile(name_or_path):
        raise TroveStepsError(
            f"{where}.model_name_or_path: '{name_or_path}' is a file; name the folder that holds it"
        )
    if name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1:
        origin = "" if os.path.isabs(name_or_path) else f" (relative to {os.getcwd()})"
        raise TroveStepsError(
            f"{where}.model_name_or_path: the folder '{name_or_path}' does not exist{origin}"
        )
    return _snapshot(name_or_path, revision, where)


def _snapshot(name: str, revision: str, where: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    arguments = {"revision": revision, "ignore_patterns": NOT_NEEDED}
    try:
        return Path(snapshot_download(name, local_files_only=True, **arguments))
    except LocalEntryNotFoundError:
        pass
    except HFValidationError:
        raise TroveStepsError(
            f"{where}.model_name_or_path: '{name}' is neither a folder nor a name on the Hub"
        ) from None
    try:
        return Path(snapshot_download(name, **arguments))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TroveStepsError(
            f"{where}.model_name_or_path: '{name}' (revision {revision}) is no folder here, is not in "
            f"the Hub's cache and can't be fetched: {reason}. Name a local folder, or fetch the model "
            "on a machine that reaches the Hub"
        ) from None
