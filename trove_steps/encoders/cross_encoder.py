"""Pairs of texts to scores, by a model that reads both at once.

As in `trove_steps.encoder`, batches have fixed shapes, so that the bits of a score depend on its own pair
and not on what else is scored.
"""

from pathlib import Path

import numpy as np

from trove_steps.errors import TroveStepsError

TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 16384}
BUCKET_STEP = 16


class CrossEncoder:
    """A sequence classifier with one output, read from a local folder.

    Its score is what sentence-transformers' CrossEncoder predicts: the output through the activation
    that the model's configuration names, by default a sigmoid.

    Args:
        folder: as transformers saves it.
        max_len: most tokens of a pair, special tokens included; the longer text is cut first.
        device: "cpu" or "cuda:N".

    Raises:
        TroveStepsError: the folder holds no such model.
    """

    def __init__(self, folder: Path, max_len: int, device: str = "cpu"):
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from trove_steps.encoders.model_loading import NO_VOCABULARY, be_quiet, knows_words

        be_quiet()
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
            )
        # What transformers raises for files that it can't read is anything.
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise TroveStepsError(
                f"mining.cross_encoder: {folder} can't be loaded as a classifier: {reason}"
            ) from None
        if not knows_words(self.tokenizer):
            raise TroveStepsError(f"mining.cross_encoder: {NO_VOCABULARY.format(folder)}")
        missing = sorted(name for name in loading["missing_keys"] if "position_ids" not in name)
        if missing or model.config.num_labels != 1:
            why = f"its files lack {missing[0]}" if missing else "it has several outputs"
            raise TroveStepsError(
                f"mining.cross_encoder: {folder} is no cross-encoder with one score: {why}"
            )
        self.device, self.max_len = device, min(max_len, self._positions(model.config))
        self.budget = TOKENS_PER_BATCH["cuda" if device.startswith("cuda") else "cpu"]
        self.model = model.eval().to(device)
        self.activation = torch.nn.Identity() if _is_raw(model.config) else torch.nn.Sigmoid()

    def score(self, queries: list[str], passages: list[str]) -> np.ndarray:
        """Return the scores float32[n] of pairs of texts."""
        pairs = self.tokenizer(
            queries, passages, truncation="longest_first", max_length=self.max_len
        )
        lengths = np.array([len(ids) for ids in pairs["input_ids"]], np.int64)
        widths = np.minimum(-(-lengths // BUCKET_STEP) * BUCKET_STEP, self.max_len)
        scores = np.empty(len(lengths), np.float32)
        for width in np.unique(widths).tolist():
            members, rows = np.flatnonzero(widths == width), max(1, self.budget // width)
            for start in range(0, len(members), rows):
                batch = members[start : start + rows]
                scores[batch] = self._forward(pairs, batch, width, rows)
        return scores

    def _forward(self, pairs, batch: np.ndarray, width: int, rows: int) -> np.ndarray:
        import torch

        filled = np.concatenate([batch, np.repeat(batch[:1], rows - len(batch))]).tolist()
        part = {name: [values[i] for i in filled] for name, values in pairs.items()}
        inputs = self.tokenizer.pad(
            part, padding="max_length", max_length=width, return_tensors="pt"
        )
        with torch.inference_mode():
            logits = self.model(**inputs.to(self.device)).logits[: len(batch), 0]
            return self.activation(logits.float()).cpu().numpy()

    def _positions(self, config) -> int:
        """Return how many tokens the model has positions for, as far as is known."""
        known = getattr(config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        # Models of RoBERTa's kind begin to count behind the padding token.
        roberta = config.model_type in ("roberta", "xlm-roberta", "camembert")
        return known - (config.pad_token_id + 1 if roberta else 0)


def _is_raw(config) -> bool:
    """Tell whether a model's configuration names the identity as the activation of its output."""
    ours = getattr(config, "sentence_transformers", None) or {}
    name = ours.get("activation_fn") or getattr(
        config, "sbert_ce_default_activation_function", None
    )
    return str(name or "").endswith("Identity")
