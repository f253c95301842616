"""The default encoder: a folder as transformers or sentence-transformers saves it.

Its tokenizer, its model, pooling, and Dense modules. Everything is read from local files.
"""

import inspect
from pathlib import Path
from threading import local

from trove_steps.encoder import Tokens
from trove_steps.encoders.cpu_layers import can_be_copied, copy_with_shared_weights
from trove_steps.encoders.model_loading import be_quiet, load_model, load_tokenizer
from trove_steps.encoders.pooling import load_dense, pool
from trove_steps.errors import TroveStepsError
from trove_steps.models.config import OFFSET_POSITIONS
from trove_steps.models.sentence_transformers_files import lower_cases, read_modules
from trove_steps.models.settings import ModelSettings


class TransformersEncoder:
    """See `trove_steps.encoder.EncoderClass`."""

    def __init__(self, folder: Path, settings: ModelSettings, max_len: int, device: str):
        be_quiet()
        self.settings, self.max_len = settings, max_len
        self.tokenizer = load_tokenizer(folder, settings)
        self.backend = self.tokenizer.backend_tokenizer if self.tokenizer.is_fast else None
        if self.backend is not None:
            # Some packages carry a truncation and padding of their own, shorter than the model's.
            self.backend.no_truncation()
            self.backend.no_padding()
            if lower_cases(folder):
                _lower_case(self.backend)
        self.prefix, self.suffix = self._special_ids(folder)
        self.room = max_len - len(self.prefix) - len(self.suffix)
        if self.room < 1:
            raise TroveStepsError(
                f"a max_len of {max_len} leaves no room for text: the tokenizer adds "
                f"{max_len - self.room} special tokens"
            )
        self.model = load_model(folder, settings, device)
        self.attention = getattr(self.model.config, "_attn_implementation", None)
        modules = read_modules(folder)
        paths = modules.dense if modules else ()
        self.dense = [load_dense(folder / path, device) for path in paths]
        self.pad_id = self._pad_id()
        self.of_thread = local()  # .model, its own copy
        self.side_by_side = device == "cpu" and can_be_copied(self.model)
        # With padding on the left, a text still begins at position 0. Models of OFFSET_POSITIONS find
        # that out by themselves.
        self.tells_positions = (
            settings.padding_side == "left"
            and "position_ids" in inspect.signature(self.model.forward).parameters
            and self.model.config.model_type not in OFFSET_POSITIONS
        )

    def tokenize(self, texts: list[str]) -> Tokens:
        """Return the token ids of texts: special tokens around content that is cut to fit max_len."""
        tokens = Tokens([])
        for content in self._content_ids(texts):
            over = len(content) - self.room
            if over > 0:
                left = self.settings.truncation_side == "left"
                content = content[over:] if left else content[: self.room]
            tokens.ids.append(self.prefix + content + self.suffix)
            tokens.cut.append(max(0, over))
        return tokens

    def forward(self, ids, mask):
        """Return the pooled vectors float32[rows, dim] of ids and mask, int64[rows, width]."""
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self.tells_positions:
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        try:
            pooled = self._model_of_thread()(**inputs)[0].float()
        except IndexError:  # of a CPU's look-up of a token that the model lacks
            raise TroveStepsError(
                f"the tokenizer gives a token of the number {int(ids.max())}, which the model lacks: are "
                "they of one model?"
            ) from None
        if pooled.ndim == 3:  # DPR has pooled already
            pooled = pool(pooled, mask, self.settings.pooling)
        for dense in self.dense:
            pooled = dense(pooled)
        return pooled

    def _model_of_thread(self):
        """Return this thread's copy of the model, which shares the weights.

        Some models change themselves while they run: rotary angles that depend on the length, caches.
        """
        if not self.side_by_side:
            return self.model
        if not hasattr(self.of_thread, "model"):
            self.of_thread.model = copy_with_shared_weights(self.model)
        return self.of_thread.model

    def _content_ids(self, texts: list[str]) -> list[list[int]]:
        if self.backend is not None:
            encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
            return [encoding.ids for encoding in encodings]
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]

    def _special_ids(self, folder: Path) -> tuple[list[int], list[int]]:
        """Return the ids that stand before and after every text."""
        found = {
            ids
            for sample in ("a", "Two words", "and some more of them")
            if (ids := self._around(sample)) is not None
        }
        if len(found) != 1:
            raise TroveStepsError(
                f"the tokenizer in {folder} does not put the same special tokens around every text; "
                "write an encoder_class of your own for it"
            )
        prefix, suffix = map(list, found.pop())
        eos = self.tokenizer.eos_token_id
        if self.settings.append_eos and eos is None:
            raise TroveStepsError(
                f"append_eos: the tokenizer in {folder} has no end-of-sequence token; set append_eos: "
                "false"
            )
        if self.settings.append_eos and suffix[-1:] != [eos]:
            suffix.append(eos)
        return prefix, suffix

    def _around(self, sample: str) -> tuple[tuple, tuple] | None:
        content = self._content_ids([sample])[0]
        whole = self.tokenizer(sample, add_special_tokens=True)["input_ids"]
        for start in range(len(whole) - len(content) + 1):
            if content and whole[start : start + len(content)] == content:
                return tuple(whole[:start]), tuple(whole[start + len(content) :])
        return None

    def _pad_id(self) -> int:
        """Return the padding token, else the end-of-sequence token, else 0: it is masked anyway."""
        known = self.model.get_input_embeddings().num_embeddings
        ids = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((number for number in ids if number is not None and number < known), 0)


def _lower_case(backend) -> None:
    from tokenizers.normalizers import Lowercase, Sequence

    own = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = Sequence([Lowercase(), *own])
