"""How long texts are in tokens of a model, and how many are cut off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trove_steps.data.batches import reader_of
from trove_steps.data.records import read_records
from trove_steps.models.folder import transformer_folder
from trove_steps.models.settings import ModelSettings

if TYPE_CHECKING:
    from trove_steps.inputs import TextFiles

SAMPLE = 10_000
PERCENTILES = (50, 90, 99, 100)


@dataclass(frozen=True)
class Lengths:
    """Tokens of a text, special ones included: percentiles, the limit, and what is above it.

    texts: how many were looked at, evenly spread over the files.
    """

    texts: int
    percentiles: dict[str, int]
    max_len: int
    truncated_share: float

    def as_json(self) -> dict:
        return asdict(self)


def text_lengths(
    files: TextFiles,
    records: int,
    form: Callable[[list[str | None], list[str]], list[str]],
    max_len: int,
    settings: ModelSettings,
    folder: Path,
) -> Lengths:
    """Return the lengths of a collection for a model.

    records: how many there are, of which at most SAMPLE are looked at; form: a text format as a function
    of titles and texts.
    """
    import numpy as np

    texts = list(_sampled(files, form, -(-records // SAMPLE)))
    lengths = np.array(_count_tokens(folder, texts, settings))
    shares = np.percentile(lengths, PERCENTILES, method="higher")
    return Lengths(
        texts=len(texts),
        percentiles={f"p{p}": int(n) for p, n in zip(PERCENTILES, shares, strict=True)},
        max_len=max_len,
        truncated_share=float((lengths > max_len).mean()),
    )


def _sampled(files: TextFiles, form: Callable, step: int):
    place = 0
    columns = (files.links, files.paths, files.digests, files.readers)
    for link, path, digest, given in zip(*columns, strict=True):
        for batch in read_records(link, shown_as=path, digest=digest, reader=reader_of(given)):
            some = slice(-place % step, None, step)
            yield from form(batch.titles[some], batch.texts[some])
            place += len(batch.ids)


def _count_tokens(folder: Path, texts: list[str], settings: ModelSettings) -> list[int]:
    file = transformer_folder(folder) / "tokenizer.json"
    more = int(settings.append_eos)
    if file.exists():
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return [len(encoding.ids) + more for encoding in tokenizer.encode_batch(texts)]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        transformer_folder(folder),
        local_files_only=True,
        trust_remote_code=settings.trust_remote_code,
    )
    return [len(ids) + more for ids in tokenizer(texts, verbose=False)["input_ids"]]
