"""Texts to vectors, each vector a function of its own text alone.

A batch holds texts of one bucket (a range of token counts) and always has the shape of its bucket,
filled up with copies where texts are lacking. So every kernel sees the same shapes for a text whatever
else is encoded, and with it, in whatever order: the bits of its vector depend on the text, the device
kind, the dtype, the thread count and the token budget. `Encoder.is_pure` tries it on the device.
"""

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np

from trove_steps import own_code
from trove_steps.errors import TroveStepsError
from trove_steps.model_settings import ModelSettings

# Measured: a CPU is as fast with 256 tokens per batch as with more, and small batches need little
# filling up; a GPU wants much more. Buckets of 4 lengths (16 on a GPU) balance padding and filling.
TOKENS_PER_BATCH = {"cpu": 256, "cuda": 16384}
BUCKET_STEP = {"cpu": 4, "cuda": 16}
TEXTS_PER_SLICE = 2048  # tokenized at once, while the slice before is encoded
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

    def __init__(self, folder: Path, settings: ModelSettings, max_len: int, device: str):
        """Load the model."""

    def tokenize(self, texts: list[str]) -> Tokens:
        """Return the token ids of texts, at most max_len each."""

    def forward(self, ids, mask):
        """Return [rows, dim] for ids and mask, int64[rows, width] tensors on the device."""


class Encoder:
    """A model in memory. `dim` is the width of its vectors.

    `max_len` is the most tokens of a text, special tokens included. `tokens_per_batch` is the budget
    of one forward pass (default: what suits the device). Raises TroveStepsError if the model can't
    be loaded.
    """

    def __init__(
        self,
        folder: Path,
        settings: ModelSettings,
        max_len: int,
        device: str = "cpu",
        tokens_per_batch: int | None = None,
    ):
        kind = device.split(":")[0]
        self.settings, self.max_len, self.device = settings, max_len, device
        self.tokens_per_batch = tokens_per_batch or TOKENS_PER_BATCH.get(kind, 4096)
        self.step = settings.pad_to_multiple_of or BUCKET_STEP.get(kind, 16)
        encoder_class = _encoder_class(settings.encoder_class)
        self.model: EncoderClass = encoder_class(Path(folder), settings, max_len, device)
        self.dim = self._forward([[self.model.pad_id] * 2], 2).shape[1]

    def tokenize(self, texts: list[str]) -> Tokens:
        """Return the token ids of texts, cut at max_len, and how much was cut."""
        return self.model.tokenize(texts)

    def encode(self, texts: list[str], batch_size: int | None = None) -> Encoded:
        """Return the vectors of texts, in their order; `batch_size` caps the texts per forward pass.

        A text without any token gets the zero vector.
        """
        started = time.perf_counter()
        result = Encoded(
            vectors=np.zeros((len(texts), self.dim), np.float32),
            lengths=np.zeros(len(texts), np.int32),
            cut=np.zeros(len(texts), np.int32),
            seconds={"tokenize": 0.0},
        )
        previous = None
        for batch in chain(self._batches(texts, batch_size, result), [None]):
            if previous:  # fetched only now, so that a GPU already has the next batch to do
                numbers, vectors = previous
                result.vectors[numbers] = vectors[: len(numbers)].cpu().numpy()
            previous = batch
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
            "torch_dtype": self.settings.torch_dtype,
            "attention": getattr(self.model, "attention", None),
            "tokens_per_batch": self.tokens_per_batch,
            "pad_to_multiple_of": self.step,
            "is_pure": self.is_pure,
            **self.settings.report(),
        }

    def device_name(self) -> str:
        """Return what the vectors are computed on, such as "cpu" or "NVIDIA H100 80GB HBM3"."""
        import torch

        return self.device if self.device == "cpu" else torch.cuda.get_device_name(self.device)

    @cached_property
    def is_pure(self) -> bool:
        """Whether a text gets the same bits in two batches that have nothing else in common.

        Costs two forward passes. Models that route tokens between experts, for one, may fail.
        """
        known = self.tokenize([PROBE]).ids[0]
        size = min(24, self.max_len)
        chosen = np.random.default_rng(0).choice(known, (128, size)).tolist()
        width = self._bucket(size)[0]
        rows = min(self._rows(width, None), len(chosen))
        alone = self._forward(chosen[-1:] * rows, width)[0]
        among = self._forward(chosen[-rows:], width)[-1]
        return bool((alone == among).all())

    def _batches(self, texts: list[str], batch_size: int | None, result: Encoded) -> Iterator:
        """Yield (numbers of texts, their vectors on the device, perhaps with more rows behind)."""
        buckets: dict[tuple[int, bool], list[tuple[int, list[int]]]] = {}
        for first, tokens in self._slices(texts, result):
            for number, ids in enumerate(tokens.ids, first):
                if ids:
                    buckets.setdefault(self._bucket(len(ids)), []).append((number, ids))
            is_last = first + len(tokens.ids) == len(texts)
            # Long texts first: what does not fit into memory fails at once.
            for bucket in sorted(buckets, reverse=True):
                waiting, width = buckets[bucket], bucket[0]
                while waiting and (is_last or len(waiting) >= self._rows(width, batch_size)):
                    rows = self._rows(width, batch_size)
                    numbers, batch = zip(*waiting[:rows], strict=True)
                    filled = [*batch, *batch[-1:] * (rows - len(batch))]
                    try:
                        vectors = self._forward(filled, width)
                    except RuntimeError as error:
                        if not _is_out_of_memory(error):
                            raise
                        self._halve(rows, width, error)
                        continue
                    result.padded_tokens += rows * width
                    yield list(numbers), vectors
                    del waiting[:rows]

    def _slices(self, texts: list[str], result: Encoded) -> Iterator[tuple[int, Tokens]]:
        """Yield (number of the first text, its slice's tokens), the next slice being made meanwhile."""
        starts = range(0, len(texts), TEXTS_PER_SLICE)
        with ThreadPoolExecutor(1) as worker:

            def begin(first: int):
                return worker.submit(self.tokenize, texts[first : first + TEXTS_PER_SLICE])

            coming = [begin(first) for first in starts[:1]]
            for first in starts:
                began = time.perf_counter()
                tokens = coming.pop().result()
                result.seconds["tokenize"] += time.perf_counter() - began
                if first != starts[-1]:
                    coming.append(begin(first + TEXTS_PER_SLICE))
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

    def _rows(self, width: int, batch_size: int | None) -> int:
        rows = max(1, self.tokens_per_batch // width)
        return min(rows, batch_size or rows)

    def _halve(self, rows: int, width: int, error: Exception) -> None:
        if rows == 1:
            raise TroveStepsError(
                f"the memory of {self.device} does not hold one text of {width} tokens; lower the "
                "model's max_len, or set torch_dtype: bfloat16"
            ) from error
        self.tokens_per_batch = rows * width // 2
        if self.device != "cpu":
            import torch

            torch.cuda.empty_cache()
        logger.warning(
            "the memory of %s does not hold %d texts of %d tokens: going on with %d tokens per batch; "
            "the last bits of vectors may differ from those of larger batches",
            self.device, rows, width, self.tokens_per_batch,
        )  # fmt: skip

    def _forward(self, rows: list[list[int]], width: int):
        """Return float32[rows, dim] on the device for token ids that are padded to `width`."""
        import torch

        ids = torch.full((len(rows), width), self.model.pad_id, dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for number, row in enumerate(rows):
            start = width - len(row) if self.settings.padding_side == "left" else 0
            ids[number, start : start + len(row)] = torch.tensor(row)
            mask[number, start : start + len(row)] = 1
        if self.device != "cpu":
            ids, mask = (
                tensor.pin_memory().to(self.device, non_blocking=True) for tensor in (ids, mask)
            )
        with torch.inference_mode():
            pooled = self.model.forward(ids, mask).float()
            if self.settings.normalize:
                pooled = torch.nn.functional.normalize(pooled, dim=1, eps=1e-12)
        return pooled


def _is_out_of_memory(error: RuntimeError) -> bool:
    import torch

    # The allocator for CPUs raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def _encoder_class(name: str) -> type:
    if name == "default":
        from trove_steps.transformers_encoder import TransformersEncoder

        return TransformersEncoder
    return own_code.load(name, "encoder_class")
