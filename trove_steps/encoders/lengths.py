"""How long texts are in tokens, and what max_len cut off: kept beside the vectors of an encoder.

    {cache}/embeddings/{encoder}/lengths/{sha256}.npy     half a text key, tokens read and cut off
    {cache}/embeddings/{encoder}/lengths/{role}-{texts}.json  what was cut off in a collection

Nothing but reports depends on these files: without them, less is known.
"""

import hashlib
import io
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import numpy as np

from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json, write_json, written_atomically

WARN_SHARE = 0.05  # of texts that are cut: from here up a person should know
# Half of a text key is enough to tell texts apart in a report.
_ROW = np.dtype([("key", "<u8"), ("tokens", "<i4"), ("cut", "<i4")])


@dataclass(frozen=True)
class Cut:
    """What max_len cut off in a collection; `texts` and `tokens` count those whose length is known."""

    texts: int
    texts_cut: int
    tokens: int
    tokens_cut: int

    @property
    def texts_share(self) -> float:
        """Share of the texts that were cut."""
        return self.texts_cut / max(1, self.texts)

    @property
    def tokens_share(self) -> float:
        """Share of the tokens that were cut off."""
        return self.tokens_cut / max(1, self.tokens)

    def with_texts(self, rows: np.ndarray, times: np.ndarray) -> "Cut":
        """Return this with more texts, each of them so many times: int64[m]."""
        cut = rows["cut"].astype(np.int64)
        tokens = rows["tokens"] + cut
        more = (times.sum(), times[cut > 0].sum(), (times * tokens).sum(), (times * cut).sum())
        return Cut(*(old + int(new) for old, new in zip(astuple(self), more, strict=True)))

    def warning(self, what: str, max_len: str = "max_len") -> str | None:
        """Return a line for a person if many texts were cut, else None."""
        if self.texts_share <= WARN_SHARE:
            return None
        return (
            f"warning: {what}: {max_len} cut {self.texts_share:.1%} of the texts and "
            f"{self.tokens_share:.1%} of their tokens"
        )


def write_lengths(directory: Path, keys: np.ndarray, lengths: np.ndarray, cut: np.ndarray) -> None:
    """Keep the tokens read and cut off, integers[n], of the texts with the keys uint8[n, 16]."""
    rows = np.empty(len(keys), _ROW)
    rows["key"], rows["tokens"], rows["cut"] = _half(keys), lengths, cut
    sink = io.BytesIO()
    np.save(sink, rows)
    content = sink.getvalue()
    path = directory / "lengths" / f"{hashlib.sha256(content).hexdigest()}.npy"
    if not path.exists():
        with written_atomically(path) as temporary:
            temporary.write_bytes(content)


def measure_cut(directory: Path, keys: np.ndarray) -> Cut:
    """Return what was cut off in a collection of texts with the keys uint8[n, 16].

    A text that stands there twice counts twice. Files that can't be read are passed over. One is in memory
    at a time, whatever the store holds, and 9 bytes a text.
    """
    wanted = np.sort(_half(keys))
    counted = np.zeros(len(wanted), bool)
    total = Cut(0, 0, 0, 0)
    for path in sorted((directory / "lengths").glob("*.npy")):
        rows = _read(path)
        names, one = np.unique(rows["key"], return_index=True)
        first = np.searchsorted(wanted, names)
        times = np.searchsorted(wanted, names, side="right") - first
        new = np.flatnonzero(times)
        new = new[~counted[first[new]]]  # of several lengths of a text, the first counts
        counted[first[new]] = True
        total = total.with_texts(rows[one[new]], times[new])
    return total


def write_cut(manifest: Path, cut: Cut) -> None:
    """Keep what was cut off beside a collection's manifest."""
    write_json(_cut_path(manifest), asdict(cut))


def read_cut(manifest: Path) -> Cut | None:
    """Return what was cut off in a collection, None if that is not known."""
    try:
        return Cut(**read_json(_cut_path(manifest)))
    except (TroveStepsError, TypeError):
        return None


def _cut_path(manifest: Path) -> Path:
    return Path(manifest).parent / "lengths" / Path(manifest).name


def _half(keys: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(keys[:, :8]).view("<u8").reshape(-1)


def _read(path: Path) -> np.ndarray:
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        return np.empty(0, _ROW)
    return rows if rows.dtype == _ROW and rows.ndim == 1 else np.empty(0, _ROW)
