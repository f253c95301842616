"""Reading the files of a collection: once for ids and keys, once more for the texts that have no vector."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from trove_steps.arguments import shown_path
from trove_steps.data import named, read_records
from trove_steps.embeddings.paths import manifest_path
from trove_steps.encoding.job import Job
from trove_steps.encoding.work import Portion
from trove_steps.errors import TroveStepsError
from trove_steps.fingerprint import Fingerprints
from trove_steps.formats import formatter
from trove_steps.keyed import keyed_records
from trove_steps.keys import TEXT_KEY_BYTES, recipe_key


@dataclass
class Collection:
    """What is remembered of the texts of a collection: ids, keys uint8[n, 16], digests of the files, what
    the manifest says of ids that several files hold."""

    ids: pa.ChunkedArray
    keys: np.ndarray
    digests: list[str]
    namespaces: dict


def read_collection(job: Job, encoder: str) -> Collection:
    """Read all files; nothing of the texts stays but their keys."""
    fingerprints = Fingerprints(job.cache_dir)
    digests = job.digests or [fingerprints.file(path) for path in job.paths]
    _check_expected(job, encoder, digests)
    readers = job.each_reader()
    ids, keys, sources = [], bytearray(), []
    for path, digest, reader in zip(job.paths, digests, readers, strict=True):
        shown = shown_path(path)
        for part in keyed_records(path, digest, fingerprints, reader, job.form, job.dataset, shown):
            ids.append(part.ids)
            keys += memoryview(part.keys).cast("B")
        sources.append((shown, sum(map(len, ids))))
    all_ids, namespaces = named(
        pa.chunked_array(ids, pa.string()), sources, digests, readers, job.readers
    )
    keys = np.frombuffer(keys, np.uint8).reshape(-1, TEXT_KEY_BYTES)
    return Collection(all_ids, keys, digests, namespaces)


def _check_expected(job: Job, encoder: str, digests: list[str]) -> None:
    texts = recipe_key(job.texts_recipe(digests))
    computed = manifest_path(job.cache_dir, encoder, job.role, texts)
    if job.expected_manifest and Path(job.expected_manifest) != computed:
        raise TroveStepsError(
            f"these inputs belong to {computed}, not to {job.expected_manifest}: a file of the model or "
            "the data changed since this run was planned; start the workflow again"
        )


def unknown_texts(job: Job, collection: Collection, pending: np.ndarray) -> Iterator[Portion]:
    """Read the files again; yield the texts that `pending` bool[n] marks, as the tokenizer gets them."""
    form = formatter(job.form, job.dataset)
    first = 0
    for path, digest, reader in zip(job.paths, collection.digests, job.each_reader(), strict=True):
        for batch in read_records(path, shown_as=shown_path(path), digest=digest, reader=reader):
            chosen = np.flatnonzero(pending[first : first + len(batch.ids)])
            if len(chosen):
                texts = form(batch.titles, batch.texts)
                keys = collection.keys[first + chosen]
                yield Portion([batch.ids[n] for n in chosen], keys, [texts[n] for n in chosen])
            first += len(batch.ids)
