"""Around an encoder class of the user's: what it raises or returns wrongly becomes one line for a person."""

import sys
import traceback
from contextlib import contextmanager
from pathlib import Path

from trove_steps import own_code
from trove_steps.encoder import Tokens, is_out_of_memory
from trove_steps.errors import TroveStepsError
from trove_steps.models.settings import ModelSettings


class OwnEncoder:
    """See `trove_steps.encoder.EncoderClass`; `name` is "module:Class"."""

    def __init__(self, name: str, folder: Path, settings: ModelSettings, max_len: int, device: str):
        self.name, self.max_len = name, max_len
        made = own_code.load(name, "encoder_class")
        self.source = sys.modules[made.__module__].__file__
        lacking = [method for method in ("tokenize", "forward") if not hasattr(made, method)]
        if lacking:
            raise self._wrong(f"lacks the method {lacking[0]}")
        with self._told("__init__"):
            self.own = made(folder, settings, max_len, device)
        self.attention = getattr(self.own, "attention", None)
        self.side_by_side = getattr(self.own, "side_by_side", False) is True
        self.pad_id = getattr(self.own, "pad_id", None)
        if not isinstance(self.pad_id, int):
            raise self._wrong("lacks pad_id, the number of the token that fills up rows")

    def tokenize(self, texts: list[str]) -> Tokens:
        """Return the class's tokens, once they are as the protocol has them."""
        with self._told("tokenize"):
            tokens = self.own.tokenize(texts)
        if not isinstance(tokens, Tokens):
            raise self._wrong(
                f"tokenize returned {type(tokens).__name__}; return trove_steps.encoder.Tokens"
            )
        for what, rows in (
            ("rows of ids", tokens.ids),
            ("numbers in cut", tokens.cut or tokens.ids),
        ):
            if len(rows) != len(texts):
                raise self._wrong(f"tokenize returned {len(rows)} {what} for {len(texts)} texts")
        for text, row in zip(texts, tokens.ids, strict=True):
            if len(row) > self.max_len:
                raise self._wrong(
                    f"tokenize returned {len(row)} ids for the text {text[:60]!r}; max_len is "
                    f"{self.max_len}: cut them"
                )
        return tokens

    def forward(self, ids, mask):
        """Return the class's vectors, once they are one per row."""
        with self._told("forward"):
            vectors = self.own.forward(ids, mask)
        shape = tuple(getattr(vectors, "shape", ()))
        if len(shape) != 2 or shape[0] != len(ids):
            raise self._wrong(
                f"forward returned {f'the shape {shape}' if shape else type(vectors).__name__} for "
                f"{len(ids)} rows; return a tensor [rows, dim]"
            )
        return vectors

    def _wrong(self, what: str) -> TroveStepsError:
        return TroveStepsError(f"encoder_class {self.name}: {what}")

    @contextmanager
    def _told(self, method: str):
        try:
            yield
        except TroveStepsError:
            raise
        except Exception as error:
            if method == "forward" and is_out_of_memory(error):
                raise  # a smaller batch may fit
            frames = traceback.extract_tb(error.__traceback__)
            place = next((f for f in reversed(frames) if f.filename == self.source), frames[-1])
            reason = (str(error).strip().splitlines() or ["no message"])[0]
            raise self._wrong(
                f"{method} raised {type(error).__name__}: {reason} ({place.filename}, line {place.lineno})"
            ) from error
