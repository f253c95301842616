"""The encoding loop of a rank: claim a portion, encode it, write its shard."""

import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

from trove_steps.distributed import Comm, pick_device, share_cpu_threads
from trove_steps.embeddings.store import Store
from trove_steps.encoders.lengths import write_lengths
from trove_steps.encoding.claims import Claims, finished
from trove_steps.encoding.job import Job
from trove_steps.encoding.portions import claimed_rows, shared_rows
from trove_steps.encoding.record import NOT_PURE, Record
from trove_steps.encoding.work import Portion, Work
from trove_steps.errors import TroveStepsError
from trove_steps.fingerprint import check_unchanged
from trove_steps.models.files import model_files
from trove_steps.progress import SharedBar, report


def encode_pending(
    job: Job,
    recipe: dict,
    store: Store,
    work: Work,
    comm: Comm,
    record: Record,
    claims: Claims | None,
) -> None:
    """Claim portions of the work until none is left; each becomes a shard."""
    from trove_steps.encoder import Encoder

    share_cpu_threads()
    loading = time.perf_counter()
    device = pick_device()
    shape = job.tokens_per_batch, job.batch_size
    encoder = Encoder(job.model_folder, job.settings, job.max_len, device, *shape, notice=report)
    if not encoder.is_pure:
        print(NOT_PURE.format(model=job.model_name, device=device), file=sys.stderr)
    if comm.rank == 0:
        for name, path in model_files(job.model_folder).items():
            check_unchanged(path, recipe["model_files"][name])
    record.device = device.partition(":")[0]
    started = time.perf_counter()
    record.seconds["load"] = started - loading
    bar = SharedBar(comm, work.costs().sum(dtype=np.int64), f"encode {job.role}", "characters")
    if claims:
        keys = work.keys()

        def missing(rows: np.ndarray) -> np.ndarray:
            return rows[~store.find(keys[rows]).known]

        rows = shared_rows(claims, keys, work.characters, missing)
        done = finished(claims, keys, work.costs()) if comm.rank == 0 else int

        def advance(_: Portion) -> None:
            bar.reach(done())
    else:
        rows = claimed_rows(work, comm)

        def advance(portion: Portion) -> None:
            bar.add(portion.characters)

    portions = work.portions(rows, encoder.dim * np.dtype(np.float32).itemsize)
    mine = _encode_portions(job, encoder, store, portions, advance, record)
    if comm.rank == 0:
        record.encoder = encoder.figures()
    comm.barrier()
    bar.close()
    record.seconds["encode"] = time.perf_counter() - started
    record.add_up(mine, comm)


def _encode_portions(
    job: Job,
    encoder,
    store: Store,
    portions: Iterator[Portion],
    advance: Callable[[Portion], None],
    record: Record,
) -> dict:
    """Encode the portions of this rank, tell `advance` of each; return what `Record.ranks` says of it."""
    texts = shards = 0
    started = time.perf_counter()
    for portion in portions:
        _encode_portion(encoder, store, portion, job, record)
        texts, shards = texts + len(portion), shards + 1
        advance(portion)
    return {
        "texts": texts,
        "tokens": record.tokens,
        "shards": shards,
        "seconds": round(time.perf_counter() - started, 3),
        "device": encoder.device_name(),
        "is_pure": encoder.is_pure,
        "tokens_per_batch": encoder.tokens_per_batch,
        "halvings": encoder.halvings,
    }


def _encode_portion(encoder, store: Store, part: Portion, job: Job, record: Record) -> None:
    encoded = encoder.encode(part.texts)
    with np.errstate(over="ignore"):  # what float16 can't hold becomes infinity, reported below
        vectors = encoded.vectors.astype(job.settings.embedding_dtype, copy=False)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise TroveStepsError(
            f"the vector of '{part.ids[int(bad[0])]}' (models.{job.model_name}) holds NaN or "
            f"infinity, as do {len(bad) - 1} more here: the model overflows"
            + ("" if job.settings.torch_dtype == "float32" else "; try torch_dtype: float32")
        )
    record.count(encoded)
    with record.timed("write"):
        write_lengths(store.directory, part.keys, encoded.lengths, encoded.cut)
        store.write(part.keys, vectors)
