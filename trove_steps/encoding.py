"""Encoding a collection: only strings that the store does not hold yet go through the model.

Rank 0 reads the files, names every text by its key, looks the keys up, and reads the files once more to put
the texts that have no vector into a work file. All ranks then claim portions of it, longest texts first,
encode them and add them to the store as shards, each a portion of about CLAIM_SECONDS of work: that is what
a kill can lose. When all is done, rank 0 writes the rows table and the manifest.
"""

import json
import math
import resource
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from trove_steps.arguments import shown_path
from trove_steps.claims import Claims, finished, remove_claims, shared_portions
from trove_steps.data import Reader, named, read_records, reader_of
from trove_steps.distributed import Comm, pick_device, share_cpu_threads
from trove_steps.embeddings.collection import write_collection
from trove_steps.embeddings.paths import manifest_path
from trove_steps.embeddings.store import Places, Store
from trove_steps.errors import TroveStepsError
from trove_steps.files import write_json
from trove_steps.fingerprint import Fingerprints, check_unchanged
from trove_steps.formats import format_recipe, formatter
from trove_steps.keyed import keyed_records
from trove_steps.keys import TEXT_KEY_BYTES, encoder_recipe, recipe_key, texts_recipe
from trove_steps.lengths import Cut, measure_cut, write_cut, write_lengths
from trove_steps.model_settings import ModelSettings, model_files
from trove_steps.progress import SharedBar, report
from trove_steps.resources import text_bytes
from trove_steps.versions import versions
from trove_steps.work import Portion, Work, remove_leftovers, write_work

CLAIM_SECONDS = 20.0
NOT_PURE = (
    "warning: the last bits of {model}'s vectors depend on what is encoded with them on {device}: resuming "
    "or another number of processes may change them"
)
UNLIKE = (
    "warning: the processes ran on unlike devices ({devices}): which of them encoded a text decides the last "
    "bits of its vector"
)
LEAST_CLAIM_SECONDS = 0.5  # smaller portions would mostly fill up batches
LISTING_SECONDS = (1, 4, 15, 60)


@dataclass(frozen=True)
class Job:
    """One collection to be encoded by one model.

    `role` is "corpus" or "queries"; `paths` are its files in order; `digests`, if given, are the
    SHA-256 that they must have; `readers`, if given, say how each is read: fields of `Reader` and
    "collections", the numbers of the collections that it belongs to. `expected_manifest` must be given
    where several jobs share the work.
    """

    role: str
    paths: list[Path]
    digests: list[str] | None
    model_folder: Path
    model_name: str
    settings: ModelSettings
    cache_dir: Path
    batch_size: int | None
    expected_manifest: Path | None = None
    tokens_per_batch: int | None = None
    dataset: str = ""  # for a text format that is a function which takes it
    readers: list[dict] | None = None
    jobs: int = 1  # that encode this collection together, each with its own processes
    helper_record: Path | None = None  # of a job that only helps: written in place of the manifest

    @property
    def encoder_role(self) -> str:
        return "passage" if self.role == "corpus" else "query"

    @property
    def form(self) -> str:
        return self.settings.passage_format if self.role == "corpus" else self.settings.query_format

    @property
    def template(self) -> str | dict:
        """The text format as it stands in recipes."""
        return format_recipe(self.form, self.dataset)


@dataclass
class Record:
    """What an encode job did: one line of records.jsonl.

    rows: texts of the collection; distinct: different strings among them; encoded: strings that this job's
    model was given; reused: rows that need no vector of their own, because the store had one when the job
    began or an earlier row has the same string. padded_tokens: tokens that the model was given, padding
    included; padding_share is their part that no text has. tokens_per_second: over seconds["encode"].
    ranks: of each rank what it encoded, the seconds it was busy with that, its device, whether its vectors
    are pure, its tokens per batch and how often these were halved. encoder: `Encoder.figures` of rank 0.
    cut: what max_len cut off in the whole collection, not only in what was encoded.
    seconds: read (the files), look_up, load (the model), encode (from the first rank's start to the last
    one's end), tokenize, forward, write, total; what ranks spend side by side is of the slowest one.
    input_bytes: of the files, about, unpacked; peak_memory_mb: of rank 0; versions: of the packages.
    Several jobs on one corpus leave a line each, with `round` in common; what a job neither reused nor
    encoded the others did. What is known only when something was encoded is None or 0 otherwise.
    """

    role: str
    model: str
    rows: int = 0
    distinct: int = 0
    reused: int = 0
    encoded: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    padding_share: float | None = None
    truncated_texts: int = 0
    truncated_tokens: int = 0
    tokens_per_second: float | None = None
    shards: int = 0
    dim: int = 0
    device: str | None = None
    dtype: str = ""
    world_size: int = 1
    input_bytes: int = 0
    peak_memory_mb: int = 0
    ranks: list[dict] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    encoder: dict = field(default_factory=dict)
    cut: Cut | None = None
    round: str | None = None
    versions: dict[str, str] = field(default_factory=versions)

    def line(self) -> str:
        """Return the one line that a person reads."""
        text = (
            f"encode {self.role}: {self.rows:,} texts, {self.reused:,} reused, "
            f"{self.encoded:,} encoded"
        )
        if self.encoded:
            text += (
                f" · {self.tokens:,} tokens, {self.tokens_per_second:,.0f} tokens/s, "
                f"{self.padding_share:.1%} padding, {self.truncated_texts:,} texts truncated"
            )
            if self.truncated_texts:
                text += f" by {self.truncated_tokens:,} tokens"
        halved = [rank["tokens_per_batch"] for rank in self.ranks if rank["halvings"]]
        if halved:
            text += (
                f" · out of memory on {len(halved)} of {len(self.ranks)} devices: went on with "
                f"{min(halved):,} tokens per batch"
            )
        return text + f" · {self.seconds['total']:.1f} s"

    def warnings(self) -> list[str]:
        """Return lines for a person about what the bits of the vectors depend on."""
        impure = sorted({rank["device"] for rank in self.ranks if not rank["is_pure"]})
        devices = sorted({rank["device"] for rank in self.ranks})
        warnings = []
        if impure:
            warnings.append(NOT_PURE.format(model=self.model, device=", ".join(impure)))
        if len(devices) > 1:
            warnings.append(UNLIKE.format(devices=", ".join(devices)))
        return warnings

    def spend(self, phase: str, seconds: float) -> None:
        """Add to the seconds of a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds


def run(job: Job, comm: Comm) -> None:
    """Encode a collection and write its manifest. Every rank calls this."""
    started = time.perf_counter()
    recipe = _encoder_recipe(job)
    store = Store(job.cache_dir, recipe_key(recipe))
    record = Record(job.role, job.model_name, dtype=job.settings.torch_dtype, world_size=comm.world)
    claims = Claims(job.expected_manifest, job.jobs) if job.jobs > 1 else None
    if comm.rank == 0:
        print(job.settings.described_lines(), file=sys.stderr)
        record.round = claims.round() if claims else None
        marked = claims.done() if claims else set()
        collection = _read_collection(job, store, record)
        places = _look_up(store, collection.keys, record)
        pending = places.first & ~places.known
        if marked:
            claims.reopen(marked.intersection(claims.block_of(collection.keys[pending]).tolist()))
        store.touch(places.used())
        record.rows, record.distinct = len(pending), int(places.first.sum())
        record.encoded = int(pending.sum())
        record.reused = record.rows - record.encoded
    if comm.broadcast(record.encoded):
        portions = _unknown_texts(job, collection, pending) if comm.rank == 0 else None
        work, path = _share_work(job, store, portions, comm, record)
        _encode_pending(job, recipe, store, work, comm, record, claims)
        if comm.rank == 0:
            path.unlink(missing_ok=True)
            if not job.helper_record:
                places = _find_all(store, collection, record, comm.world > 1 or job.jobs > 1)
    if comm.rank != 0:
        return
    began = time.perf_counter()
    store.write_recipe(recipe)
    write_json(store.directory / "settings.json", job.settings.report())
    if job.helper_record:
        record.seconds["total"] = time.perf_counter() - started
        report(f"{record.line()} (helping)")
        _keep(job, record, job.expected_manifest)
        write_json(job.helper_record, {"helped": job.expected_manifest.name})
        return
    texts = texts_recipe(job.role, collection.digests, job.template, job.readers)
    manifest = write_collection(
        store,
        job.role,
        recipe_key(texts),
        collection.ids,
        collection.keys,
        places,
        texts,
        collection.namespaces,
    )
    record.cut = measure_cut(store.directory, collection.keys)
    write_cut(manifest, record.cut)
    record.spend("write", time.perf_counter() - began)
    record.dim = places.dim
    record.seconds["total"] = time.perf_counter() - started
    _report(job, record, manifest)
    remove_claims(manifest)


def _find_all(store: Store, collection: "_Collection", record: Record, patient: bool) -> Places:
    """Look up where every vector is.

    On a network file system, what another node has just written may take a minute to appear.
    """
    for seconds in (*(LISTING_SECONDS if patient else ()), 0):
        places = _look_up(store, collection.keys, record)
        if places.known.all():
            break
        time.sleep(seconds)
    return places


def _encoder_recipe(job: Job) -> dict:
    fingerprints = Fingerprints(job.cache_dir)
    paths = model_files(job.model_folder)
    files = {name: fingerprints.file(path) for name, path in paths.items()}
    return encoder_recipe(files, job.settings.encoder_recipe(job.encoder_role))


@dataclass
class _Collection:
    """What is remembered of the texts of a collection: ids, keys uint8[n, 16], digests of the files, what
    the manifest says of ids that several files hold."""

    ids: pa.ChunkedArray
    keys: np.ndarray
    digests: list[str]
    namespaces: dict


def _read_collection(job: Job, store: Store, record: Record) -> _Collection:
    """Read all files; nothing of the texts stays but their keys."""
    started = time.perf_counter()
    fingerprints = Fingerprints(job.cache_dir)
    digests = job.digests or [fingerprints.file(path) for path in job.paths]
    _check_expected(job, store, digests)
    ids, keys, sources = [], bytearray(), []
    for path, digest, reader in zip(job.paths, digests, _readers(job), strict=True):
        shown = shown_path(path)
        for part in keyed_records(path, digest, fingerprints, reader, job.form, job.dataset, shown):
            ids.append(part.ids)
            keys += memoryview(part.keys).cast("B")
        sources.append((shown, sum(map(len, ids))))
    all_ids, namespaces = named(
        pa.chunked_array(ids, pa.string()), sources, digests, _readers(job), job.readers
    )
    record.spend("read", time.perf_counter() - started)
    keys = np.frombuffer(keys, np.uint8).reshape(-1, TEXT_KEY_BYTES)
    return _Collection(all_ids, keys, digests, namespaces)


def _readers(job: Job) -> list[Reader]:
    return [reader_of(given) for given in job.readers or [{}] * len(job.paths)]


def _read_texts(job: Job, number: int, digest: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yield (ids, strings for the tokenizer) of file `number`, some thousands at a time."""
    path, form = job.paths[number], formatter(job.form, job.dataset)
    reader = _readers(job)[number]
    for batch in read_records(path, shown_as=shown_path(path), digest=digest, reader=reader):
        yield batch.ids, form(batch.titles, batch.texts)


def _look_up(store: Store, keys: np.ndarray, record: Record) -> Places:
    started = time.perf_counter()
    places = store.find(keys)
    record.spend("look_up", time.perf_counter() - started)
    return places


def _unknown_texts(job: Job, collection: _Collection, pending: np.ndarray) -> Iterator[Portion]:
    """Read the files again; yield the texts that `pending` bool[n] marks."""
    first = 0
    for number, digest in enumerate(collection.digests):
        for ids, texts in _read_texts(job, number, digest):
            chosen = np.flatnonzero(pending[first : first + len(ids)])
            if len(chosen):
                keys = collection.keys[first + chosen]
                yield Portion([ids[n] for n in chosen], keys, [texts[n] for n in chosen])
            first += len(ids)


def _check_expected(job: Job, store: Store, digests: list[str]) -> None:
    texts = recipe_key(texts_recipe(job.role, digests, job.template, job.readers))
    computed = manifest_path(job.cache_dir, store.encoder, job.role, texts)
    if job.expected_manifest and Path(job.expected_manifest) != computed:
        raise TroveStepsError(
            f"these inputs belong to {computed}, not to {job.expected_manifest}: a file of the model or "
            "the data changed since this run was planned; start the workflow again"
        )


def _share_work(
    job: Job, store: Store, portions: Iterator[Portion] | None, comm: Comm, record: Record
) -> tuple[Work, Path]:
    """Put the texts to encode, which rank 0 has, into a file that every rank maps; return both.

    On one node the file's name is removed as soon as all ranks hold it, so that no kill leaves it
    behind. Other nodes would lose a file on NFS with its name: rank 0 removes it when all is done.
    """
    started = time.perf_counter()
    if comm.rank == 0:
        remove_leftovers(store.directory)
        number = uuid.uuid4().int >> 65
    number = comm.broadcast(number if comm.rank == 0 else 0)
    path = store.directory / "work" / f"{number:016x}.arrow"
    if comm.rank == 0:
        write_work(path, portions)
    comm.barrier()
    work = Work(path, job.settings.encoder_recipe(job.encoder_role)["max_len"])
    comm.barrier()
    if comm.rank == 0:
        if comm.one_node:
            path.unlink()
        record.spend("read", time.perf_counter() - started)
    return work, path


def _encode_pending(
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
    max_len = job.settings.encoder_recipe(job.encoder_role)["max_len"]
    loading = time.perf_counter()
    device = pick_device()
    shape = job.tokens_per_batch, job.batch_size
    encoder = Encoder(job.model_folder, job.settings, max_len, device, *shape, notice=report)
    if not encoder.is_pure:
        print(NOT_PURE.format(model=job.model_name, device=device), file=sys.stderr)
    if comm.rank == 0:
        for name, path in model_files(job.model_folder).items():
            check_unchanged(path, recipe["model_files"][name])
    record.device = device.partition(":")[0]
    started = time.perf_counter()
    record.seconds["load"] = started - loading
    bar = SharedBar(comm, work.costs.sum(), f"encode {job.role}", "characters")
    if claims:
        keys = work.keys()
        portions = _portions_of_jobs(store, work, keys, claims)
        done = finished(claims, keys, work.costs) if comm.rank == 0 else int

        def advance(_: Portion) -> None:
            bar.reach(done())
    else:
        portions = _portions(work, comm)

        def advance(portion: Portion) -> None:
            bar.add(portion.characters)

    mine = _encode_portions(job, encoder, store, portions, advance, record)
    if comm.rank == 0:
        record.encoder = encoder.figures()
    comm.barrier()
    bar.close()
    record.seconds["encode"] = time.perf_counter() - started
    _add_up(record, mine, comm)


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


def _portions(work: Work, comm: Comm) -> Iterator[Portion]:
    """Yield the portions that this rank claims from those of this job."""
    amount, units = 1, 0
    while (first := comm.claim("units", amount)) < work.units:
        began = time.perf_counter()
        amount = min(amount, work.units - first)
        yield work.portion(first, amount)
        units += amount
        # What this rank did of all that is claimed by now says how fast it is beside the others.
        claimed = min(comm.claim("units", 0), work.units)
        fair = (work.units - claimed) * units / claimed
        fair = fair if comm.world == 1 else fair / 2
        amount = _next_amount(amount, time.perf_counter() - began, fair)


def _portions_of_jobs(
    store: Store, work: Work, keys: np.ndarray, claims: Claims
) -> Iterator[Portion]:
    """Yield the portions that this rank claims from those of all jobs."""

    def missing(rows: np.ndarray) -> np.ndarray:
        return rows[~store.find(keys[rows]).known]

    for rows in shared_portions(claims, keys, work.characters, missing):
        yield work.take(rows)


def _next_amount(amount: int, seconds: float, fair: float) -> int:
    """Return how many units to claim next, after `amount` units took `seconds`: CLAIM_SECONDS of work,
    and `fair` units at most, so that ranks of unlike speed finish together; but never crumbs."""
    rate = amount / max(seconds, 1e-3)
    wanted = min(rate * CLAIM_SECONDS, 4 * amount, fair)
    return max(1, int(wanted), min(4 * amount, math.ceil(rate * LEAST_CLAIM_SECONDS)))


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
    started = time.perf_counter()
    write_lengths(store.directory, part.keys, encoded.lengths, encoded.cut)
    store.write(part.keys, vectors)
    for name in COUNTS:
        setattr(record, name, getattr(record, name) + getattr(encoded, name))
    for phase, seconds in {**encoded.seconds, "write": time.perf_counter() - started}.items():
        record.spend(phase, seconds)


COUNTS = ("tokens", "padded_tokens", "truncated_texts", "truncated_tokens")
SIDE_BY_SIDE = ("load", "encode", "tokenize", "forward", "write")


def _add_up(record: Record, mine: dict, comm: Comm) -> None:
    """Bring what all ranks did together on rank 0; `mine` as `_encode_portions` returns it."""
    counts = np.array([[getattr(record, name) for name in COUNTS]], np.int64)
    seconds = np.array([[record.seconds.get(phase, 0.0) for phase in SIDE_BY_SIDE]])
    told = np.frombuffer(json.dumps(mine).encode(), np.uint8)
    all_counts, all_seconds, all_told = map(comm.gather, (counts, seconds, told))
    if comm.rank != 0:
        return
    for name, total in zip(COUNTS, np.concatenate(all_counts).sum(0), strict=True):
        setattr(record, name, int(total))
    for phase, longest in zip(SIDE_BY_SIDE, np.concatenate(all_seconds).max(0), strict=True):
        record.seconds[phase] = float(longest)
    record.ranks = [json.loads(bytes(told)) for told in all_told]
    record.shards = sum(rank["shards"] for rank in record.ranks)
    record.encoded = sum(rank["texts"] for rank in record.ranks)
    record.padding_share = round(1 - record.tokens / max(1, record.padded_tokens), 4)
    record.tokens_per_second = round(record.tokens / max(record.seconds["encode"], 1e-9), 1)


def _report(job: Job, record: Record, manifest: Path) -> None:
    report(record.line())
    cut = record.cut.warning(f"{job.role} of {job.model_name}", f"{job.encoder_role}_max_len")
    for warning in (*record.warnings(), *([cut] if cut else [])):
        report(warning)
    _keep(job, record, manifest)


def _keep(job: Job, record: Record, manifest: Path) -> None:
    """Add the record to those that lie beside the vectors."""
    record.input_bytes = text_bytes(job.paths)
    record.peak_memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    written = {
        **asdict(record),
        "seconds": {name: round(value, 3) for name, value in record.seconds.items()},
        "manifest": manifest.name,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    with open(manifest.parent / "records.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(written) + "\n")
