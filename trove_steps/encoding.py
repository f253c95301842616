"""Encoding a collection: only strings that the store does not hold yet go through the model.

Rank 0 reads the files, names every text by its key and writes the texts that have no vector yet to a
work file, longest first. All ranks then claim portions of it, encode them and add them to the store as
shards, each a portion of about CLAIM_SECONDS of work: that is what a kill can lose. When all is done,
rank 0 writes the rows table and the manifest.
"""

import contextlib
import json
import math
import os
import resource
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from trove_steps.arguments import shown_path
from trove_steps.claims import Claims, remove_claims, shared_portions
from trove_steps.data import check_unique_ids, format_text, read_records
from trove_steps.distributed import Comm, pick_device, share_cpu_threads
from trove_steps.errors import TroveStepsError
from trove_steps.files import write_json, written_atomically
from trove_steps.fingerprint import Fingerprints, check_unchanged
from trove_steps.keys import (
    TEXT_KEY_BYTES,
    encoder_recipe,
    recipe_key,
    text_key,
    texts_recipe,
)
from trove_steps.model_settings import ModelSettings, model_files
from trove_steps.progress import progress_bar, report
from trove_steps.store import Shard, Store, manifest_path, write_collection

CLAIM_SECONDS = 20.0
FIRST_CLAIM_CHARACTERS = 100_000
LISTING_SECONDS = (1, 4, 15, 60)
LEFTOVER_SECONDS = 24 * 3600  # age at which a temporary file is taken for one of a killed job


@dataclass(frozen=True)
class Job:
    """One collection to be encoded by one model.

    `role` is "corpus" or "queries"; `paths` are its files in order; `digests`, if given, are the
    SHA-256 that they must have. `expected_manifest` must be given where several jobs share the work.
    """

    role: str
    paths: list[Path]
    digests: list[str] | None
    model_folder: Path
    model_name: str
    settings: ModelSettings
    cache_dir: Path
    batch_size: int
    expected_manifest: Path | None = None
    jobs: int = 1  # that encode this collection together, each with its own processes
    helper_record: Path | None = None  # of a job that only helps: written in place of the manifest

    @property
    def encoder_role(self) -> str:
        return "passage" if self.role == "corpus" else "query"

    @property
    def template(self) -> str:
        return self.settings.passage_format if self.role == "corpus" else self.settings.query_format


@dataclass
class Record:
    """What an encode job did; seconds are of the rank that took longest for them."""

    rows: int = 0
    reused: int = 0
    encoded: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    truncated_texts: int = 0
    truncated_tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def line(self, role: str) -> str:
        """Return the one line that a person reads."""
        text = (
            f"encode {role}: {self.rows:,} texts, {self.reused:,} reused, {self.encoded:,} encoded"
        )
        if self.encoded:
            forward = self.seconds.get("total", 0.0) or 1e-9
            padding = 1 - self.tokens / max(1, self.padded_tokens)
            text += (
                f" · {self.tokens:,} tokens, {self.tokens / forward:,.0f} tokens/s, "
                f"{padding:.1%} padding, {self.truncated_texts:,} texts truncated"
            )
        return text + f" · {self.seconds.get('total', 0):.1f} s"


def run(job: Job, comm: Comm) -> None:
    """Encode a collection and write its manifest. Every rank calls this."""
    started = time.perf_counter()
    recipe = _encoder_recipe(job)
    store = Store(job.cache_dir, recipe_key(recipe))
    record = Record()
    work, collection = None, None
    claims = Claims(job.expected_manifest, job.jobs) if job.jobs > 1 else None
    if comm.rank == 0:
        marked = claims.done() if claims else set()
        collection = _read_collection(job, store, record)
        work = collection.pop("work")
        if marked and len(work):
            claims.reopen(marked.intersection(claims.block_of(_keys(work)).tolist()))
    pending = comm.broadcast(0 if work is None else len(work))
    if pending:
        work, path = _share_work(store, work, comm)
        _encode_pending(job, recipe, store, work, comm, record, claims)
        comm.barrier()
        if comm.rank == 0:
            path.unlink(missing_ok=True)
        _add_up(record, comm)
    if comm.rank != 0:
        return
    store.write_recipe(recipe)
    if job.helper_record:
        record.seconds["total"] = time.perf_counter() - started
        write_json(job.helper_record, {"helped": job.expected_manifest.name})
        report(f"{record.line(job.role)} (helping)")
        return
    index, lost = _find_all(store, collection, patient=comm.world > 1 or job.jobs > 1)
    if lost:
        raise TroveStepsError(
            f"{lost} of {len(collection['keys'])} vectors are not in the store {store.directory} after "
            "encoding: was it deleted or damaged meanwhile? Run again; what is there is kept"
        )
    collection["dim"] = _dimension(store, index)
    digests = collection.pop("digests")
    texts = texts_recipe(job.role, digests, job.template)
    manifest = write_collection(store, job.role, recipe_key(texts), collection, texts)
    record.seconds["total"] = time.perf_counter() - started
    _report(job, record, manifest)
    remove_claims(manifest)


def _find_all(store: Store, collection: dict, patient: bool):
    """Look up where every vector is; return the index and the number of vectors that are not there.

    On a network file system, what another node has just written may take a minute to appear.
    """
    for seconds in (*(LISTING_SECONDS if patient else ()), 0):
        index = store.index()
        collection["shards"], collection["rows"] = index.find(collection["keys"])
        collection["names"] = index.names
        lost = int((collection["shards"] < 0).sum())
        if not lost:
            break
        time.sleep(seconds)
    return index, lost


def _encoder_recipe(job: Job) -> dict:
    fingerprints = Fingerprints(job.cache_dir)
    paths = model_files(job.model_folder)
    files = {name: fingerprints.file(path) for name, path in paths.items()}
    return encoder_recipe(files, job.settings.encoder_recipe(job.encoder_role))


def _read_collection(job: Job, store: Store, record: Record) -> dict:
    """Read all files: ids, keys, and a table of the texts that the store does not hold."""
    started = time.perf_counter()
    fingerprints = Fingerprints(job.cache_dir)
    digests = job.digests or [fingerprints.file(path) for path in job.paths]
    _check_expected(job, store, digests)
    index = store.index()
    ids, keys, sources = [], [], []
    pending_ids, pending_keys, pending_texts = [], [], []
    for path, digest in zip(job.paths, digests, strict=True):
        for batch in read_records(path, shown_as=shown_path(path), digest=digest):
            texts = [
                format_text(job.template, title, text)
                for title, text in zip(batch.titles, batch.texts, strict=True)
            ]
            block = b"".join(map(text_key, texts))
            block = np.frombuffer(block, np.uint8).reshape(-1, TEXT_KEY_BYTES)
            ids.append(pa.array(batch.ids, pa.string()))
            keys.append(block)
            for number in np.flatnonzero(index.find(block)[0] < 0):
                pending_ids.append(batch.ids[number])
                pending_texts.append(texts[number])
                pending_keys.append(block[number])
        sources.append((shown_path(path), sum(map(len, ids))))
    all_ids = pa.chunked_array(ids, pa.string())
    check_unique_ids(all_ids, sources)
    record.rows = len(all_ids)
    record.seconds["read"] = time.perf_counter() - started
    work = _work_table(pending_ids, pending_keys, pending_texts)
    record.encoded = len(work)
    record.reused = record.rows - len(work)
    return {
        "ids": all_ids,
        "keys": np.concatenate(keys) if keys else np.empty((0, TEXT_KEY_BYTES), np.uint8),
        "digests": digests,
        "work": work,
    }


def _check_expected(job: Job, store: Store, digests: list[str]) -> None:
    texts = recipe_key(texts_recipe(job.role, digests, job.template))
    computed = manifest_path(job.cache_dir, store.encoder, job.role, texts)
    if job.expected_manifest and Path(job.expected_manifest) != computed:
        raise TroveStepsError(
            f"these inputs belong to {computed}, not to {job.expected_manifest}: a file of the model or "
            "the data changed since this run was planned; start the workflow again"
        )


def _work_table(ids: list[str], keys: list[np.ndarray], texts: list[str]) -> pa.Table:
    """Return the texts to encode, each string once, longest first: id, key, text, characters."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    order = np.arange(0)
    if texts:
        block = np.stack(keys)
        _, first = np.unique(block.view(f"V{TEXT_KEY_BYTES}").reshape(-1), return_index=True)
        order = first[np.lexsort((first, -lengths[first]))]
    chosen = [texts[number] for number in order]
    return pa.table(
        {
            "id": pa.array([ids[number] for number in order], pa.string()),
            "key": pa.array(
                [keys[number].tobytes() for number in order], pa.binary(TEXT_KEY_BYTES)
            ),
            "text": pa.array(chosen, pa.large_string()),
            "characters": pa.array(lengths[order], pa.int64()),
        }
    )


def _share_work(store: Store, work: pa.Table | None, comm: Comm) -> tuple[pa.Table, Path]:
    """Put the texts to encode into a file that every rank maps; return them as mapped, and the file.

    On one node the file's name is removed as soon as all ranks hold it, so that no kill leaves it
    behind. Other nodes would lose a file on NFS with its name: rank 0 removes it when all is done.
    """
    if comm.rank == 0:
        _remove_leftovers(store)
        number = uuid.uuid4().int >> 65
    number = comm.broadcast(number if comm.rank == 0 else 0)
    path = store.directory / "work" / f"{number:016x}.arrow"
    if comm.rank == 0:
        with (
            written_atomically(path) as temporary,
            pa.ipc.new_file(str(temporary), work.schema) as writer,
        ):
            writer.write_table(work.combine_chunks())
    comm.barrier()
    shared = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    comm.barrier()
    if comm.rank == 0 and comm.one_node:
        path.unlink()
    return shared, path


def _remove_leftovers(store: Store) -> None:
    """Remove what jobs that were killed while they wrote have left, once it is surely unused."""
    for old in (*store.directory.glob("work/*"), *store.directory.glob("shards/.*.tmp")):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - old.stat().st_mtime > LEFTOVER_SECONDS:
                old.unlink()


def _encode_pending(
    job: Job,
    recipe: dict,
    store: Store,
    work: pa.Table,
    comm: Comm,
    record: Record,
    claims: Claims | None,
) -> None:
    """Claim portions of the work until none is left; each becomes a shard."""
    from trove_steps.encoder import Encoder

    share_cpu_threads()
    max_len = job.settings.encoder_recipe(job.encoder_role)["max_len"]
    loading = time.perf_counter()
    encoder = Encoder(job.model_folder, job.settings, max_len, pick_device())
    if comm.rank == 0:
        for name, path in model_files(job.model_folder).items():
            check_unchanged(path, recipe["model_files"][name])
    record.seconds["load"] = time.perf_counter() - loading
    bar = progress_bar(len(work), f"encode {job.role}", "texts", comm.rank == 0)
    portions = _portions_of_jobs(store, work, claims) if claims else _portions(work, comm)
    for part in portions:
        _encode_portion(encoder, store, part, job, record)
        bar.update(len(part))
    bar.close()


def _portions(work: pa.Table, comm: Comm) -> Iterator[pa.Table]:
    """Yield the portions that this rank claims from those of this job."""
    units = _units(work["characters"].to_numpy())
    amount = 1
    while True:
        first = comm.claim("portions", amount)
        if first >= len(units) - 1:
            return
        start, end = units[first], units[min(first + amount, len(units) - 1)]
        began = time.perf_counter()
        yield work.slice(start, end - start)
        seconds = time.perf_counter() - began
        amount = _next_amount(amount, seconds, len(units) - 1 - first, comm.world)


def _portions_of_jobs(store: Store, work: pa.Table, claims: Claims) -> Iterator[pa.Table]:
    """Yield the portions that this rank claims from those of all jobs."""
    keys = _keys(work)

    def missing(rows: np.ndarray) -> np.ndarray:
        return rows[store.index().find(keys[rows])[0] < 0]

    for rows in shared_portions(claims, keys, work["characters"].to_numpy(), missing):
        yield work.take(rows)


def _keys(work: pa.Table) -> np.ndarray:
    """Return the keys uint8[n, 16] of the texts of a work table."""
    return np.frombuffer(b"".join(work["key"].to_pylist()), np.uint8).reshape(-1, TEXT_KEY_BYTES)


def _units(characters: np.ndarray) -> np.ndarray:
    """Cut the work into units of about FIRST_CLAIM_CHARACTERS characters; return their bounds."""
    portion = np.cumsum(np.maximum(characters, 1)) // FIRST_CLAIM_CHARACTERS
    return np.concatenate([[0], np.flatnonzero(np.diff(portion)) + 1, [len(characters)]])


def _next_amount(amount: int, seconds: float, left: int, world: int) -> int:
    """Return how many units to claim next: CLAIM_SECONDS of work, less towards the end, so that
    ranks of unlike speed finish together."""
    wanted = amount * CLAIM_SECONDS / max(seconds, 1e-3)
    fair = math.ceil(left / (2 * world))
    return max(1, min(int(wanted), 4 * amount, fair))


def _encode_portion(encoder, store: Store, part: pa.Table, job: Job, record: Record) -> None:
    encoded = encoder.encode(part["text"].to_pylist(), batch_size=job.batch_size)
    bad = np.flatnonzero(~np.isfinite(encoded.vectors).all(axis=1))
    if len(bad):
        raise TroveStepsError(
            f"the vector of '{part['id'][int(bad[0])].as_py()}' (models.{job.model_name}) holds NaN or "
            f"infinity, as do {len(bad) - 1} more here: the model overflows"
            + ("" if job.settings.torch_dtype == "float32" else "; try torch_dtype: float32")
        )
    started = time.perf_counter()
    store.write(_keys(part), encoded.vectors)
    for name in ("tokens", "padded_tokens", "truncated_texts", "truncated_tokens"):
        setattr(record, name, getattr(record, name) + getattr(encoded, name))
    spent = {**encoded.seconds, "write": time.perf_counter() - started}
    for phase, seconds in spent.items():
        record.seconds[phase] = record.seconds.get(phase, 0.0) + seconds


def _add_up(record: Record, comm: Comm) -> None:
    """Bring the counts of all ranks together on rank 0."""
    counts = ("tokens", "padded_tokens", "truncated_texts", "truncated_tokens")
    mine = np.array([[getattr(record, name) for name in counts]], np.int64)
    phases = ("load", "tokenize", "forward", "write")
    seconds = np.array([[record.seconds.get(phase, 0.0) for phase in phases]])
    all_counts, all_seconds = comm.gather(mine), comm.gather(seconds)
    if comm.rank == 0:
        for name, total in zip(counts, np.concatenate(all_counts).sum(0), strict=True):
            setattr(record, name, int(total))
        for phase, longest in zip(phases, np.concatenate(all_seconds).max(0), strict=True):
            record.seconds[phase] = float(longest)


def _dimension(store: Store, index) -> int:
    return Shard(store.shard_path(index.names[0])).dim if index.names else 0


def _report(job: Job, record: Record, manifest: Path) -> None:
    report(record.line(job.role))
    written = {
        **{k: v for k, v in vars(record).items() if k != "seconds"},
        "seconds": {name: round(value, 3) for name, value in record.seconds.items()},
        "manifest": manifest.name,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
        "input_bytes": sum(os.path.getsize(path) for path in job.paths),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    with open(manifest.parent / "records.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(written) + "\n")
