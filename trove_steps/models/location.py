"""Where a model's files are: a local folder, or a snapshot in the Hub's cache."""

import contextlib
import fnmatch
import glob
import os
from collections.abc import Iterator
from pathlib import Path

from trove_steps.errors import TroveStepsError
from trove_steps.wording import nearest

NOT_NEEDED = ["*.onnx", "onnx/*", "openvino/*", "*.h5", "*.msgpack", "*.ot", "*.gguf", "coreml/*"]

_may_fetch = False


class NotFetched(TroveStepsError):
    """A model or a data set that is on the Hub and not here, while nothing may be fetched."""


@contextlib.contextmanager
def fetching() -> Iterator[None]:
    """Let locate_model fetch from the Hub. Without it only the Hub's cache is looked at."""
    global _may_fetch
    before, _may_fetch = _may_fetch, True
    try:
        yield
    finally:
        _may_fetch = before


def locate_model(
    name_or_path: str, revision: str, where: str, option: str = "model_name_or_path"
) -> Path:
    """Return the folder of a model: a path, or a snapshot in the Hub's cache.

    A path that exists wins over a Hub name; a name in a folder that exists is one on the Hub only if the
    Hub's cache has it. Raises NotFetched for a model that is not in the Hub's
    cache, TroveStepsError for other mistakes and for such a model under HF_HUB_OFFLINE=1; within
    `fetching()`, fetches what is not there yet.
    `where` and `option` are the key of the configuration that messages name.
    """
    if os.path.isdir(name_or_path):
        return Path(name_or_path)
    if os.path.isfile(name_or_path):
        raise TroveStepsError(
            f"{where}.{option}: '{name_or_path}' is a file; name the folder that holds it"
        )
    if name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1:
        raise TroveStepsError(f"{where}.{option}: {_no_folder(name_or_path)}")
    return _snapshot(name_or_path, revision, f"{where}.{option}")


def _no_folder(path: str) -> str:
    origin = "" if os.path.isabs(path) else f" (relative to {os.getcwd()})"
    parent = glob.escape(os.path.dirname(path))
    beside = [found.rstrip("/") for found in glob.glob(f"{parent}/*/")] if parent else []
    return f"the folder '{path}' does not exist{origin}{nearest(path, beside)}"


def _snapshot(name: str, revision: str, where: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    arguments = {"revision": revision, "ignore_patterns": NOT_NEEDED}
    try:
        cached = Path(snapshot_download(name, local_files_only=True, **arguments))
        if _is_whole(cached):
            return cached
        state = "is in the Hub's cache only in part"  # and the Hub may give the rest
    except LocalEntryNotFoundError:
        if os.path.isdir(os.path.dirname(name)):
            raise TroveStepsError(
                f"{where}: {_no_folder(name)} (if it is a name on the Hub: hf download {name})"
            ) from None
        state = "is not in the Hub's cache"
    except HFValidationError:
        raise TroveStepsError(
            f"{where}: '{name}' is neither a folder nor a name on the Hub"
        ) from None
    if not (_may_fetch or constants.HF_HUB_OFFLINE):
        raise NotFetched(f"{where}: '{name}' (revision {revision}) is no folder here, and {state}")
    try:
        fetched = Path(snapshot_download(name, **arguments))
    # The libraries below raise what they like: no network, no such name, no permission, a full disk.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise TroveStepsError(
            f"{where}: '{name}' (revision {revision}) is no folder here, {state} and "
            f"can't be fetched: {reason}. Name a local folder, or fetch the model on a machine that "
            "reaches the Hub"
        ) from None
    if not _is_whole(fetched):
        raise TroveStepsError(
            f"{where}: '{name}' (revision {revision}) lacks weights, or files that "
            f"{fetched} links to: delete that folder and fetch the model again"
        )
    return fetched


def _is_whole(snapshot: Path) -> bool:
    """Tell whether a snapshot has weights and no link to a file that was never fetched or is gone."""
    names = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*")]
    needed = [n for n in names if not any(fnmatch.fnmatch(n, skipped) for skipped in NOT_NEEDED)]
    weights = [n for n in needed if n.endswith((".safetensors", ".bin"))]
    return bool(weights) and all((snapshot / name).exists() for name in needed)
