"""Texts to vectors, each vector a function of its own text alone.

A batch holds texts of one bucket (a range of token counts) and always has the shape of its bucket,
filled up with copies where texts are lacking. So every kernel sees the same shapes for a text whatever
else is encoded, and with it, in whatever order: the bits of its vector depend on the text, the device
kind, the dtype and the shapes of batches. `Encoder.is_pure` tries it on the device.

On a CPU each thread computes a batch of its own, which is faster than to share each out and makes bits
independent of the number of threads.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from threading import Lock, Semaphore
from typing import Protocol

import numpy as np

from trove_steps.errors import TroveStepsError
from trove_steps.models.settings import ModelSettings

# Measured: a CPU is hardly faster with more than 256 tokens per batch, and small batches need little
# filling up; a GPU wants much more. Buckets of 4 lengths (8 on a GPU, whose kernels want multiples of
# 8) balance padding and filling.
TOKENS_PER_BATCH = {"cpu": 256, "cuda": 16384}
BUCKET_STEP = {"cpu": 4, "cuda": 8}
# Texts that are tokenized at once, and how many times that many while others are encoded.
TEXTS_PER_SLICE, SLICES_AHEAD = 64, 8
# Most batches that a CPU computes at once, and most tokens in them, padding included. Where there are more
# threads, several share a batch: Python can't start the parts of more of them fast enough, and each takes
# memory.
MOST_AT_ONCE, TOKENS_AT_ONCE = 16, 16384
PROBE = "A text is read as one token after another, each of them a number of the vocabulary."

logger = logging.getLogger(__name__)


@dataclass
class Tokens:
    """Token ids of texts, special tokens included; `cut` says of each how many tokens the limit cut off.

    An empty `cut` means that nothing was cut.
    """

    ids: list[list[int]]
    cut: list[int] = field(default_factory=list)


@dataclass
class Encoded:
    """Vectors float32[n, dim] and what they cost.

    `lengths` and `cut`, int32[n], say of each text how many tokens were read and how many cut off.
    `tokens` counts what was read, `padded_tokens` what the model was given: padding and filling
    included. `seconds` adds up to the whole: "tokenize" is the time spent waiting for tokens.
    """

    vectors: np.ndarray
    lengths: np.ndarray
    cut: np.ndarray
    tokens: int = 0
    padded_tokens: int = 0
    truncated_texts: int = 0
    truncated_tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def finite_rows(self) -> np.ndarray:
        """Return bool[n]: which vectors hold neither NaN nor infinity."""
        return np.isfinite(self.vectors).all(axis=1)


class EncoderClass(Protocol):
    """What `encoder_class: module:Class` must offer; the default is TransformersEncoder.

    Padding, batching and normalization are done around it. Only the module's own source file is in the
    encoder's key, not what it imports. An attribute `attention` may name the attention kernel, for
    records. docs/encoders.md has an example.
    """

    pad_id: int  # token id that fills up rows
    side_by_side: bool  # threads may call `forward` at the same time; False if missing

    def __init__(self, folder: Path, settings: ModelSettings, max_len: int, device: str):
        """Load the model."""

    def tokenize(self, texts: list[str]) -> Tokens:
        """Return the token ids of texts, at most max_len each."""

    def forward(self, ids, mask):
        """Return [rows, dim] for ids and mask, int64[rows, width] tensors on the device."""


class Encoder:
    """A model in memory. `dim` is the width of its vectors.

    `max_len` is the most tokens of a text, special tokens included. `tokens_per_batch` is the budget
    of one forward pass (default: what suits the device), `batch_size` the most texts in it. `notice` is
    called with a line for a person when memory does not hold a batch. `fills` is only turned off to
    measure what filling up batches costs. Raises TroveStepsError if the model can't be loaded.
    """

    fills = True

    def __init__(
        self,
        folder: Path,
        settings: ModelSettings,
        max_len: int,
        device: str = "cpu",
        tokens_per_batch: int | None = None,
        batch_size: int | None = None,
        notice: Callable[[str], None] = logger.warning,
    ):
        kind = device.split(":")[0]
        self.settings, self.max_len, self.device = settings, max_len, device
        self.tokens_per_batch = tokens_per_batch or TOKENS_PER_BATCH.get(kind, 4096)
        self.batch_size, self.notice = batch_size, notice
        self.halvings = 0  # of tokens_per_batch, for lack of memory
        self.step = settings.pad_to_multiple_of or BUCKET_STEP.get(kind, 16)
        encoder_class = _encoder_class(settings.encoder_class)
        self.model: EncoderClass = encoder_class(Path(folder), settings, max_len, device)
        self.at_once, self.pool = self._workers()
        self.turns, self.lone = Semaphore(self.at_once), Lock()
        self.dim = self.pool.submit(self._forward, [[self.model.pad_id] * 2], 2).result().shape[1]

    def tokenize(self, texts: list[str]) -> Tokens:
        """Return the token ids of texts, cut at max_len, and how much was cut."""
        return self.model.tokenize(texts)

    def encode(self, texts: list[str]) -> Encoded:
        """Return the vectors of texts, in their order. A text without any token gets the zero vector."""
        started = time.perf_counter()
        result = Encoded(
            vectors=np.zeros((len(texts), self.dim), np.float32),
            lengths=np.zeros(len(texts), np.int32),
            cut=np.zeros(len(texts), np.int32),
            seconds={"tokenize": 0.0},
        )
        for numbers, task in self._ahead(self._batches(texts, result)):
            parts, padded_tokens = task.result()
            result.vectors[numbers] = np.concatenate([part.cpu().numpy() for part in parts])
            result.padded_tokens += padded_tokens
        result.tokens = int(result.lengths.sum(dtype=np.int64))
        result.truncated_texts = int((result.cut > 0).sum())
        result.truncated_tokens = int(result.cut.sum(dtype=np.int64))
        result.seconds["forward"] = time.perf_counter() - started - result.seconds["tokenize"]
        return result

    def figures(self) -> dict:
        """Return what a record says of the encoder: how it ran, and each setting with its source."""
        import torch

        return {
            "device": self.device_name(),
            "threads": torch.get_num_threads() if self.device == "cpu" else None,
            "batches_at_once": self.at_once,
            "torch_dtype": self.settings.torch_dtype,
            "attention": getattr(self.model, "attention", None),
            "tokens_per_batch": self.tokens_per_batch,
            "batch_size": self.batch_size,
            "halvings": self.halvings,
            "pad_to_multiple_of": self.step,
            "is_pure": self.is_pure,
            **self.settings.report(),
        }

    def device_name(self) -> str:
        """Return what vectors are computed on, such as "cpu (AVX512)" or "NVIDIA H100 80GB HBM3"."""
        import torch

        if self.device == "cpu":
            return f"cpu ({torch.backends.cpu.get_cpu_capability()})"
        return torch.cuda.get_device_name(self.device)

    @cached_property
    def is_pure(self) -> bool:
        """Whether a text gets the same bits in two batches that have nothing else in common.

        Tried at the shortest and the longest texts that share a batch, with padding and without: up to
        eight forward passes. Models that route tokens between experts, for one, may fail.
        """
        known = list(self.tokenize([PROBE]).ids[0]) or [self.model.pad_id]
        return all(self._keeps_bits(width, full, known) for width, full in self._probed_buckets())

    def _probed_buckets(self) -> list[tuple[int, bool]]:
        shortest = max(1, len(self.tokenize([""]).ids[0]))
        buckets = sorted({self._bucket(length) for length in range(shortest, self.max_len + 1)})
        shared = [bucket for bucket in buckets if self._rows(bucket[0]) > 1]
        kinds = ([b for b in shared if not b[1]], [b for b in shared if b[1]])
        return list(dict.fromkeys(ends for kind in kinds for ends in (*kind[:1], *kind[-1:])))

    def _keeps_bits(self, width: int, full: bool, known: list[int]) -> bool:
        """Whether the last text of a batch has the same bits in a batch of nothing but itself."""
        chance = np.random.default_rng(width)
        lengths = chance.integers(max(1, width - self.step), width, self._rows(width))
        texts = [chance.choice(known, width if full else length).tolist() for length in lengths]
        # Fewer than `texts` if memory holds no more.
        among = self.pool.submit(self._first_vectors, texts, width).result()
        alone = self.pool.submit(self._first_vectors, [texts[len(among) - 1]], width).result()
        return bool((alone[0] == among[-1]).all())

    def _workers(self) -> tuple[int, ThreadPoolExecutor]:
        """Return how many batches are computed at once, and threads for them."""
        import torch

        if self.device != "cpu":  # has its own queue, which one thread keeps filled
            number = torch.device(self.device).index or 0
            return 1, ThreadPoolExecutor(1, "encode", torch.cuda.set_device, (number,))
        threads, longest = torch.get_num_threads(), max(self.tokens_per_batch, self.max_len)
        most = min(MOST_AT_ONCE, max(1, TOKENS_AT_ONCE // longest))
        if not self.model.side_by_side:
            most = 1
        each = -(-threads // most)
        at_once = threads // each
        return at_once, ThreadPoolExecutor(at_once, "encode", torch.set_num_threads, (each,))

    def _ahead(self, batches: Iterator[tuple[list[int], int, list]]) -> Iterator:
        """Yield (numbers of texts, task that returns what `_vectors` does), others being under way."""
        waiting: deque = deque()
        try:
            for numbers, width, ids in batches:
                waiting.append((numbers, self.pool.submit(self._vectors, ids, width)))
                if len(waiting) > 2 * self.at_once:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:  # after an error, nothing more of this
            for _, task in waiting:
                task.cancel()

    def _batches(
        self, texts: list[str], result: Encoded
    ) -> Iterator[tuple[list[int], int, list[list[int]]]]:
        """Yield (numbers of texts, width, their token ids)."""
        buckets: dict[tuple[int, bool], list[tuple[int, list[int]]]] = {}
        for first, tokens in self._slices(texts, result):
            for number, ids in enumerate(tokens.ids, first):
                if len(ids):
                    buckets.setdefault(self._bucket(len(ids)), []).append((number, ids))
            is_last = first + len(tokens.ids) == len(texts)
            # Long texts first: what does not fit into memory fails at once.
            for bucket in sorted(buckets, reverse=True):
                waiting, width = buckets[bucket], bucket[0]
                while waiting and (is_last or len(waiting) >= self._rows(width)):
                    batch = waiting[: self._rows(width)]
                    numbers, ids = zip(*batch, strict=True)
                    yield list(numbers), width, list(ids)
                    del waiting[: len(batch)]

    def _vectors(self, ids: list[list[int]], width: int) -> tuple[list, int]:
        """Return float32[rows, dim] tensors that cover token ids of one bucket, and the tokens computed.

        It is one tensor, unless memory held less than when the batch was put together.
        """
        parts, padded_tokens, done = [], 0, 0
        while done < len(ids):
            vectors = self._first_vectors(ids[done:], width)
            padded_tokens += len(vectors) * width
            parts.append(vectors[: len(ids) - done])
            done += len(vectors)
        return parts, padded_tokens

    def _first_vectors(self, ids: list[list[int]], width: int):
        """Return float32[rows, dim] of the first token ids, as many as a batch of their width holds.

        Rows that are lacking are filled up with copies. Where memory does not hold the batch, it is tried
        again while no other one is computed, and then the budget is halved until it does.
        """
        alone = self.at_once == 1
        while True:
            with self._turn(alone):
                rows = self._rows(width)
                batch = ids[:rows]
                if self.fills:
                    batch += batch[-1:] * (rows - len(batch))
                try:
                    return self._forward(batch, width)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    if alone:
                        self._halve(rows, width, error)
            alone = True

    @contextmanager
    def _turn(self, alone: bool) -> Iterator[None]:
        """Compute a batch beside others, or wait until there are none and keep them away."""
        if not alone:
            with self.turns:
                yield
            return
        with self.lone:
            for _ in range(self.at_once):
                self.turns.acquire()
            try:
                yield
            finally:
                self.turns.release(self.at_once)

    def _slices(self, texts: list[str], result: Encoded) -> Iterator[tuple[int, Tokens]]:
        """Yield (number of the first text, its slice's tokens), the next slices being made meanwhile."""
        starts = range(0, len(texts), TEXTS_PER_SLICE)
        with ThreadPoolExecutor(1) as worker:
            tasks = (
                worker.submit(self.tokenize, texts[first : first + TEXTS_PER_SLICE])
                for first in starts
            )
            coming = deque(islice(tasks, SLICES_AHEAD))
            for first in starts:
                began = time.perf_counter()
                tokens = coming.popleft().result()
                result.seconds["tokenize"] += time.perf_counter() - began
                coming.extend(islice(tasks, 1))
                here = slice(first, first + len(tokens.ids))
                result.lengths[here] = list(map(len, tokens.ids))
                result.cut[here] = tokens.cut or 0
                yield first, tokens

    def _bucket(self, length: int) -> tuple[int, bool]:
        """Return (width of the batch, whether its texts fill it) of a text of `length` tokens.

        Libraries take another attention kernel when nothing in a batch is padded. Hence all texts of
        a bucket have padding, or none has.
        """
        if self.step == 1 or length >= self.max_len:
            return length, True
        return min((length // self.step + 1) * self.step, self.max_len), False

    def _rows(self, width: int) -> int:
        rows = max(1, self.tokens_per_batch // width)
        return min(rows, self.batch_size or rows)

    def _halve(self, rows: int, width: int, error: Exception) -> None:
        if rows == 1:
            raise TroveStepsError(
                f"the memory of {self.device} does not hold one text of {width} tokens; lower the "
                "model's max_len, or set torch_dtype: bfloat16"
            ) from error
        self.tokens_per_batch = rows * width // 2
        self.halvings += 1
        if self.device != "cpu":
            import torch

            torch.cuda.empty_cache()
        self.notice(
            f"the memory of {self.device} does not hold {rows} texts of {width} tokens: going on with "
            f"{self.tokens_per_batch} tokens per batch; the last bits of vectors may differ from those of "
            "larger batches"
        )

    def _forward(self, rows: list[list[int]], width: int):
        """Return float32[rows, dim] on the device for token ids that are padded to `width`."""
        import torch

        lengths = np.array([len(row) for row in rows])[:, None]
        places = np.arange(width)
        left = self.settings.padding_side == "left"
        own = places >= width - lengths if left else places < lengths
        filled = np.full(own.shape, self.model.pad_id)
        filled[own] = list(chain.from_iterable(rows))
        ids, mask = torch.from_numpy(filled), torch.from_numpy(own.astype(np.int64))
        if self.device != "cpu":
            ids, mask = (
                tensor.pin_memory().to(self.device, non_blocking=True) for tensor in (ids, mask)
            )
        with torch.inference_mode():
            pooled = self.model.forward(ids, mask).float()
            if self.settings.normalize:
                pooled = torch.nn.functional.normalize(pooled, dim=1, eps=1e-12)
        return pooled


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether torch raised this because a device has not enough memory."""
    import torch

    # The allocator for CPUs raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def _encoder_class(name: str) -> Callable[..., EncoderClass]:
    if name == "default":
        from trove_steps.transformers_encoder import TransformersEncoder

        return TransformersEncoder
    from trove_steps.encoders.own_encoder import OwnEncoder

    return partial(OwnEncoder, name)
