"""An encode job from its files to the manifest, on every rank."""

import sys
import time
from pathlib import Path

import numpy as np

from trove_steps.distributed import Comm
from trove_steps.embeddings.collection import write_collection
from trove_steps.embeddings.store import Places, Store
from trove_steps.encoders.lengths import measure_cut, write_cut
from trove_steps.encoding.claims import Claims, remove_claims
from trove_steps.encoding.job import Job
from trove_steps.encoding.loop import encode_pending
from trove_steps.encoding.reading import Collection, read_collection, unknown_texts
from trove_steps.encoding.record import Record
from trove_steps.encoding.work import share_work
from trove_steps.files import write_json
from trove_steps.keys import recipe_key
from trove_steps.progress import report

LISTING_SECONDS = (1, 4, 15, 60)


def run(job: Job, comm: Comm) -> None:
    """Encode a collection and write its manifest. Every rank calls this."""
    started = time.perf_counter()
    recipe = job.encoder_recipe()
    store = Store(job.cache_dir, recipe_key(recipe))
    record = Record(job.role, job.model_name, dtype=job.settings.torch_dtype, world_size=comm.world)
    claims = Claims(job.expected_manifest, job.jobs) if job.jobs > 1 else None
    if comm.rank == 0:
        print(job.settings.described_lines(), file=sys.stderr)
        record.round = claims.round() if claims else None
        marked = claims.done() if claims else set()
        with record.timed("read"):
            collection = read_collection(job, store.encoder)
        places = _look_up(store, collection.keys, record)
        pending = places.first & ~places.known
        if marked:
            claims.reopen(marked.intersection(claims.block_of(collection.keys[pending]).tolist()))
        store.touch(places.used())
        record.rows, record.distinct = len(pending), int(places.first.sum())
        record.encoded = int(pending.sum())
        record.reused = record.rows - record.encoded
    if comm.broadcast(record.encoded):
        with record.timed("read"):
            texts = unknown_texts(job, collection, pending) if comm.rank == 0 else None
            work, path = share_work(store.directory, texts, job.max_len, comm)
        places = pending = texts = None  # found anew below; until then they would only take memory
        encode_pending(job, recipe, store, work, comm, record, claims)
        del work
        if comm.rank == 0:
            path.unlink(missing_ok=True)
            if not job.helper_record:
                places = _find_all(store, collection, record, comm.world > 1 or job.jobs > 1)
    if comm.rank != 0:
        return
    writing = time.perf_counter()
    store.write_recipe(recipe)
    write_json(store.directory / "settings.json", job.settings.report())
    if job.helper_record:
        record.seconds["total"] = time.perf_counter() - started
        report(f"{record.line()} (helping)")
        record.keep(job.paths, job.expected_manifest)
        write_json(job.helper_record, {"helped": job.expected_manifest.name})
        return
    texts_recipe = job.texts_recipe(collection.digests)
    manifest = write_collection(
        store,
        job.role,
        recipe_key(texts_recipe),
        collection.ids,
        collection.keys,
        places,
        texts_recipe,
        collection.namespaces,
    )
    record.cut = measure_cut(store.directory, collection.keys)
    write_cut(manifest, record.cut)
    record.spend("write", time.perf_counter() - writing)
    record.dim = places.dim
    record.seconds["total"] = time.perf_counter() - started
    _report(job, record, manifest)
    remove_claims(manifest)


def _find_all(store: Store, collection: Collection, record: Record, patient: bool) -> Places:
    """Look up where every vector is.

    On a network file system, what another node has just written may take a minute to appear.
    """
    for seconds in (*(LISTING_SECONDS if patient else ()), 0):
        places = _look_up(store, collection.keys, record)
        if places.known.all():
            break
        time.sleep(seconds)
    return places


def _look_up(store: Store, keys: np.ndarray, record: Record) -> Places:
    with record.timed("look_up"):
        return store.find(keys)


def _report(job: Job, record: Record, manifest: Path) -> None:
    report(record.line())
    cut = record.cut.warning(f"{job.role} of {job.model_name}", f"{job.encoder_role}_max_len")
    for warning in (*record.warnings(), *([cut] if cut else [])):
        report(warning)
    record.keep(job.paths, manifest)
