"""Finding records of a large JSON-lines file without reading what stands before them.

The cache keeps, by the SHA-256 of a file, where every STEP-th of its lines begins: 8 bytes for STEP lines.
It only saves time; a file that is small, compressed or of another format has no index, nor has one with
lines that do not begin with an object: blank ones are no records.
"""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trove_steps.data.opening import UTF8_BOM, Source
from trove_steps.errors import TroveStepsError
from trove_steps.files import written_atomically

STEP = 256
LEAST_BYTES = 4 << 20  # a smaller file is read as fast as its index
BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class LineIndex:
    """Where lines of a file begin: `starts` int64[m] of every STEP-th line, `lines` is their number."""

    path: Path
    starts: np.ndarray
    lines: int

    def read(self, numbers: Sequence[int]) -> list[bytes]:
        """Return some lines by their number from 0, in ascending order."""
        found, group, lines = [], -1, []
        with open(self.path, "rb") as file:
            for number in numbers:
                if number // STEP != group:
                    group = number // STEP
                    file.seek(self.starts[group])
                    end = self.starts[group + 1] if group + 1 < len(self.starts) else None
                    lines = file.read(-1 if end is None else end - file.tell()).split(b"\n")
                found.append(lines[number % STEP].removeprefix(UTF8_BOM))
        return found


def line_index(cache_dir: Path, digest: str) -> LineIndex | None:
    """Return the index of a file that the cache links to, made now if it is not there yet; None if it has
    none. Raises OSError and TroveStepsError as opening the file does."""
    path = Path(cache_dir) / "in" / digest
    if os.stat(path).st_size < LEAST_BYTES:
        return None
    kept = Path(cache_dir) / "lines" / f"{digest}-{STEP}.npy"
    try:
        lines, *starts = np.load(kept, allow_pickle=False).tolist()
    except (OSError, ValueError):
        lines, starts = _lines_of(path) if _is_json_lines(path) else (0, [])
        with (
            contextlib.suppress(
                TroveStepsError
            ),  # a cache that can only be read serves all the same
            written_atomically(kept) as temporary,
            open(temporary, "wb") as file,
        ):
            np.save(file, np.array([lines, *starts], np.int64))
    return LineIndex(path, np.array(starts, np.int64), lines) if lines else None


def _is_json_lines(path: Path) -> bool:
    with Source(path) as source:
        plain = source.compression is None and source.format == "text"
        return plain and source.head.startswith(b"{")


def _lines_of(path: Path) -> tuple[int, list[int]]:
    """Return the number of lines and where every STEP-th begins; (0, []) if one begins with anything but an
    object: blank lines are no records."""
    starts, lines, offset, end = [np.zeros(1, np.int64)], 0, 0, None
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            content = np.frombuffer(block, np.uint8)
            ends = np.flatnonzero(content == ord("\n"))
            begins = ends[ends < len(content) - 1] + 1
            first_begins = end == ord("\n")
            if (content[begins] != ord("{")).any() or (first_begins and content[0] != ord("{")):
                return 0, []
            chosen = np.arange(-(lines + 1) % STEP, len(ends), STEP)
            starts.append(offset + ends[chosen] + 1)
            lines, offset, end = lines + len(ends), offset + len(block), content[-1]
    lines += end != ord("\n")  # the last line may lack its end
    beginnings = np.concatenate(starts)
    return int(lines), beginnings[beginnings < offset].tolist()
