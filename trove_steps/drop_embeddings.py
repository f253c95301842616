"""Step: remove the vectors of a corpus that has been searched (keep_embeddings: false).

Rows that another collection of the cache needs stay, and so do shards that another job has asked for since
the corpus was encoded. The ids stay too: scoring and mining need no more. A mark beside the manifest says
that the vectors are gone, so that a new search encodes the corpus again.
"""

import argparse
import os
from pathlib import Path

import numpy as np

from trove_steps.arguments import run_step
from trove_steps.embeddings.collection import collection_keys
from trove_steps.embeddings.compaction import compact
from trove_steps.embeddings.paths import dropped_mark
from trove_steps.embeddings.sorted_keys import SortedKeys
from trove_steps.embeddings.store import Store
from trove_steps.keys import TEXT_KEY_BYTES
from trove_steps.progress import report
from trove_steps.results import write_record


def drop(manifest: Path) -> int:
    """Remove the vectors that only this collection needs; return how many."""
    store = Store(manifest.parent.parent.parent, manifest.parent.name)
    others = [
        collection_keys(path)
        for path in store.manifests()
        if path != manifest and not dropped_mark(path).exists()
    ]
    mine = SortedKeys(collection_keys(manifest))
    shared = SortedKeys(np.concatenate([np.empty((0, TEXT_KEY_BYTES), np.uint8), *others]))
    encoded = manifest.stat().st_mtime
    live, untouched = {}, True
    for shards in store.scan():
        for shard in shards:
            keys = np.asarray(shard.keys)
            dead = (mine.places(keys) >= 0) & (shared.places(keys) < 0)
            in_use = shard.path.stat().st_mtime > encoded
            untouched &= not in_use
            live[shard.name] = np.ones(len(keys), bool) if in_use else ~dead
    dropped_mark(manifest).touch()
    figures = compact(store, live=live)
    if untouched:  # what was merged must not look as if a job had just asked for it
        for name in set(store.shard_names()) - set(live):
            os.utime(store.shard_path(name), (encoded, encoded))
    return figures.removed


def run(arguments) -> None:
    """Drop the vectors and write the record."""
    removed = drop(arguments.embeddings)
    write_record(arguments.record, [], embeddings=arguments.embeddings.name)
    report(f"drop {arguments.embeddings.stem}: {removed:,} vectors removed")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m trove_steps.drop_embeddings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--embeddings", type=Path, required=True, metavar="FILE", help="manifest of the corpus"
    )
    parser.add_argument("--record", type=Path, required=True, metavar="FILE", help="written last")
    run(parser.parse_args())


if __name__ == "__main__":
    run_step(main)
