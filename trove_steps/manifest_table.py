"""Tables in Arrow files beside a manifest that says what they hold."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from trove_steps.errors import TroveStepsError
from trove_steps.files import withdraw
from trove_steps.fingerprint import hash_file


def read_table(manifest: Path, sha256: str, reassurance: str = "") -> pa.Table:
    """Return the table of a manifest, memory-mapped: the .arrow file of its name, which has this SHA-256.

    Raises TroveStepsError as `reading` does.
    """
    path = Path(manifest).with_suffix(".arrow")
    with reading(path, manifest, reassurance):
        if path.exists() and hash_file(path) != sha256:
            raise pa.ArrowInvalid("its bytes are not those that were written")
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


@contextmanager
def reading(path: Path, manifest: Path, reassurance: str = "") -> Iterator[None]:
    """Read a table that a manifest promises; if it is missing or damaged, withdraw the manifest.

    Raises TroveStepsError, which says what to do; `reassurance` is added to that.
    """
    try:
        yield
    except (MemoryError, TroveStepsError):
        raise
    # Arrow raises nearly anything for a flipped bit in a file's metadata.
    except Exception as error:
        raise TroveStepsError(
            f"{path} can't be read ({error}): {withdraw(manifest, error)}{reassurance}"
        ) from None
