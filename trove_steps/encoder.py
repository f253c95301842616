"""Texts to vectors by a transformers model, each vector a function of its own text alone."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trove_steps.errors import TroveStepsError
from trove_steps.model_settings import ModelSettings


@dataclass
class Encoded:
    """Vectors float32[n, dim] and what they cost."""

    vectors: np.ndarray
    tokens: int = 0
    padded_tokens: int = 0
    truncated_texts: int = 0
    truncated_tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


class Encoder:
    """A model in memory. `dim` is the width of its vectors."""

    def __init__(self, folder: Path, settings: ModelSettings, max_len: int, device: str = "cpu"):
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.settings, self.max_len, self.device = settings, max_len, device
        options = {"local_files_only": True, "trust_remote_code": settings.trust_remote_code}
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            self.model = AutoModel.from_pretrained(
                folder,
                dtype=getattr(torch, settings.torch_dtype),
                attn_implementation=settings.attn_implementation,
                **options,
            )
        except (OSError, ValueError, ImportError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise TroveStepsError(f"the model in {folder} can't be loaded: {reason}") from error
        self.model.to(device).eval()
        self.dim = self.model.config.hidden_size
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if settings.append_eos and self.tokenizer.eos_token_id is None:
            raise TroveStepsError(
                f"append_eos: the tokenizer in {folder} has no end-of-sequence token; set append_eos: false"
            )

    def encode(self, texts: list[str], batch_size: int = 64) -> Encoded:
        """Return the vectors of texts, in their order."""
        started = time.perf_counter()
        ids, lengths = self._tokenize(texts)
        tokenized = time.perf_counter()
        result = Encoded(np.empty((len(texts), self.dim), np.float32))
        buckets: dict[int, list[int]] = {}
        step = self.settings.pad_to_multiple_of
        for number, row in enumerate(ids):
            width = min(-(-len(row) // step) * step, max(self.max_len, len(row)))
            buckets.setdefault(width, []).append(number)
        for width, numbers in sorted(buckets.items(), reverse=True):
            for start in range(0, len(numbers), batch_size):
                chosen = numbers[start : start + batch_size]
                rows = [ids[number] for number in chosen]
                result.vectors[chosen] = self._forward(rows, width)
                result.padded_tokens += width * len(rows)
        kept = [len(row) for row in ids]
        result.tokens = sum(kept)
        cut = [length - now for length, now in zip(lengths, kept, strict=True) if length > now]
        result.truncated_texts, result.truncated_tokens = len(cut), sum(cut)
        result.seconds = {
            "tokenize": tokenized - started,
            "forward": time.perf_counter() - tokenized,
        }
        return result

    def _tokenize(self, texts: list[str]) -> tuple[list[list[int]], list[int]]:
        eos = int(self.settings.append_eos)
        whole = self.tokenizer(
            texts, add_special_tokens=True, truncation=False, padding=False, verbose=False
        )["input_ids"]
        limit = self.max_len - eos
        long = [number for number, row in enumerate(whole) if len(row) > limit]
        lengths = [len(row) + eos for row in whole]
        if long:
            cut = self.tokenizer(
                [texts[number] for number in long],
                add_special_tokens=True,
                truncation=True,
                max_length=limit,
                padding=False,
            )["input_ids"]
            for number, row in zip(long, cut, strict=True):
                whole[number] = row
        if eos:
            whole = [[*row, self.tokenizer.eos_token_id] for row in whole]
        return whole, lengths

    def _forward(self, rows: list[list[int]], width: int) -> np.ndarray:
        import torch

        pad = self.tokenizer.pad_token_id or 0
        ids = torch.full((len(rows), width), pad, dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
            mask[number, : len(row)] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        with torch.inference_mode():
            states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            pooled = self._pool(states, mask)
            if self.settings.normalize:
                pooled = torch.nn.functional.normalize(pooled, dim=1, eps=1e-12)
        return pooled.cpu().numpy()

    def _pool(self, states, mask):
        if self.settings.pooling == "first_token":
            return states[:, 0]
        if self.settings.pooling == "last_token":
            import torch

            return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
        weights = mask.unsqueeze(-1).float()
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
