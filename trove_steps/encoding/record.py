"""What an encode job did: for records.jsonl, and for a person."""

import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from trove_steps.distributed import Comm
from trove_steps.encoder import Encoded
from trove_steps.encoders.lengths import Cut
from trove_steps.jobs.resources import text_bytes
from trove_steps.versions import versions

NOT_PURE = (
    "warning: the last bits of {model}'s vectors depend on what is encoded with them on {device}: resuming "
    "or another number of processes may change them"
)
UNLIKE = (
    "warning: the processes ran on unlike devices ({devices}): which of them encoded a text decides the last "
    "bits of its vector"
)
COUNTS = ("tokens", "padded_tokens", "truncated_texts", "truncated_tokens")
SIDE_BY_SIDE = ("load", "encode", "tokenize", "forward", "write")


@dataclass
class Record:
    """What an encode job did: one line of records.jsonl.

    rows: texts of the collection; distinct: different strings among them; encoded: strings that this job's
    model was given; reused: rows that need no vector of their own, because the store had one when the job
    began or an earlier row has the same string. padded_tokens: tokens that the model was given, padding
    included; padding_share is their part that no text has. tokens_per_second: over seconds["encode"].
    ranks: of each rank what it encoded, the seconds it was busy with that, its device, whether its vectors
    are pure, its tokens per batch and how often these were halved. encoder: `Encoder.figures` of rank 0.
    cut: what max_len cut off in the whole collection, not only in what was encoded.
    seconds: read (the files), look_up, load (the model), encode (from the first rank's start to the last
    one's end), tokenize, forward, write, total; what ranks spend side by side is of the slowest one.
    input_bytes: of the files, about, unpacked; peak_memory_mb: of rank 0; versions: of the packages.
    Several jobs on one corpus leave a line each, with `round` in common; what a job neither reused nor
    encoded the others did. What is known only when something was encoded is None or 0 otherwise.
    """

    role: str
    model: str
    rows: int = 0
    distinct: int = 0
    reused: int = 0
    encoded: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    padding_share: float | None = None
    truncated_texts: int = 0
    truncated_tokens: int = 0
    tokens_per_second: float | None = None
    shards: int = 0
    dim: int = 0
    device: str | None = None
    dtype: str = ""
    world_size: int = 1
    input_bytes: int = 0
    peak_memory_mb: int = 0
    ranks: list[dict] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    encoder: dict = field(default_factory=dict)
    cut: Cut | None = None
    round: str | None = None
    versions: dict[str, str] = field(default_factory=versions)

    def line(self) -> str:
        """Return the one line that a person reads."""
        repeated = self.rows - self.distinct
        text = (
            f"encode {self.role}: {self.rows:,} texts, {self.reused:,} reused"
            f"{f' ({repeated:,} repeated)' if repeated else ''}, {self.encoded:,} encoded"
        )
        if self.encoded:
            text += (
                f" · {self.tokens:,} tokens, {self.tokens_per_second:,.0f} tokens/s, "
                f"{self.padding_share:.1%} padding, {self.truncated_texts:,} texts truncated"
            )
            if self.truncated_texts:
                text += f" by {self.truncated_tokens:,} tokens"
        halved = [rank["tokens_per_batch"] for rank in self.ranks if rank["halvings"]]
        if halved:
            text += (
                f" · out of memory on {len(halved)} of {len(self.ranks)} devices: went on with "
                f"{min(halved):,} tokens per batch"
            )
        return text + f" · {self.seconds['total']:.1f} s"

    def warnings(self) -> list[str]:
        """Return lines for a person about what the bits of the vectors depend on."""
        impure = sorted({rank["device"] for rank in self.ranks if not rank["is_pure"]})
        devices = sorted({rank["device"] for rank in self.ranks})
        warnings = []
        if impure:
            warnings.append(NOT_PURE.format(model=self.model, device=", ".join(impure)))
        if len(devices) > 1:
            warnings.append(UNLIKE.format(devices=", ".join(devices)))
        return warnings

    def spend(self, phase: str, seconds: float) -> None:
        """Add to the seconds of a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time that something takes to the seconds of a phase."""
        started = time.perf_counter()
        yield
        self.spend(phase, time.perf_counter() - started)

    def count(self, encoded: Encoded) -> None:
        """Add what some texts cost."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(encoded, name))
        for phase, seconds in encoded.seconds.items():
            self.spend(phase, seconds)

    def add_up(self, mine: dict, comm: Comm) -> None:
        """Bring what all ranks did together on rank 0; `mine` is what `ranks` says of this one."""
        counts = np.array([[getattr(self, name) for name in COUNTS]], np.int64)
        seconds = np.array([[self.seconds.get(phase, 0.0) for phase in SIDE_BY_SIDE]])
        told = np.frombuffer(json.dumps(mine).encode(), np.uint8)
        all_counts, all_seconds, all_told = map(comm.gather, (counts, seconds, told))
        if comm.rank != 0:
            return
        for name, total in zip(COUNTS, np.concatenate(all_counts).sum(0), strict=True):
            setattr(self, name, int(total))
        for phase, longest in zip(SIDE_BY_SIDE, np.concatenate(all_seconds).max(0), strict=True):
            self.seconds[phase] = float(longest)
        self.ranks = [json.loads(bytes(told)) for told in all_told]
        self.shards = sum(rank["shards"] for rank in self.ranks)
        self.encoded = sum(rank["texts"] for rank in self.ranks)
        self.padding_share = round(1 - self.tokens / max(1, self.padded_tokens), 4)
        self.tokens_per_second = round(self.tokens / max(self.seconds["encode"], 1e-9), 1)

    def keep(self, paths: list[Path], manifest: Path) -> None:
        """Add this to the records beside the manifest; `paths` are the files of the collection."""
        self.input_bytes = text_bytes(paths)
        self.peak_memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        written = {
            **asdict(self),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "manifest": manifest.name,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        with open(manifest.parent / "records.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(written) + "\n")
