"""What is kept of a record while a corpus is read: some bytes, whatever the length of its text."""

import hashlib
import subprocess
import sys
import textwrap

import pytest

# 20 GB in less than 2 GB: 20 million documents of 1 kB, and 0.2 GB for the interpreter and its libraries.
MOST_PER_RECORD = 90
FEW, MANY = 600_000, 1_500_000  # more than what is held of a store at once

CHECKED = """
    from trove_steps.data.checks import check_data
    names = [folder / name for name in ("corpus", "queries", "qrels")]
    files = [{"files": [digest], "readers": [{}], "collections": []} for digest in digests]
    description = dict(zip(("corpus", "queries", "qrels"), files))
    found = check_data({**description, "exclude_identical_ids": False, "evaluated": True}, folder)
    assert (found["corpus"]["records"], found["warnings"]) == (records, [])
"""
NAMED = """
    import numpy as np
    import pyarrow as pa
    from trove_steps.data import Reader, named
    from trove_steps.encoding.job import Job
    from trove_steps.encoding.reading import read_collection
    from trove_steps.models.settings import ModelSettings
    from trove_steps.embeddings.collection import write_collection
    from trove_steps.embeddings.store import Store
    path = folder / digests[0]
    settings = ModelSettings(pooling="mean", normalize=True, query_max_len=8, passage_max_len=8)
    job = Job("corpus", [path], [digests[0]], folder, "m", settings, folder / "cache", None)
    store = Store(job.cache_dir, "0" * 32)
    collection = read_collection(job, store.encoder)
    assert not store.find(collection.keys).known.any()
"""
KEPT = (
    NAMED
    + """
    from trove_steps.encoders.lengths import measure_cut, write_lengths
    for first in range(0, records, 50_000):
        keys = collection.keys[first : first + 50_000]
        store.write(keys, np.zeros((len(keys), 4), np.float32))
        write_lengths(store.directory, keys, *np.ones((2, len(keys)), np.int32))
    places = store.find(collection.keys)
    write_collection(store, "corpus", "0" * 32, collection.ids, collection.keys, places, {})
    assert measure_cut(store.directory, collection.keys).texts_cut == records
"""
)


def peak_bytes(folder, script: str, records: int) -> int:
    """Return the most memory that a process had which ran a script over a collection in a folder."""
    contents = (
        "".join(f'{{"_id": "document-{n}", "text": "number {n}"}}\n' for n in range(records)),
        "".join(f'{{"_id": "q{n}", "text": "query {n}"}}\n' for n in range(100)),
        "".join(f"q{n}\tdocument-{n}\t1\n" for n in range(100)),
    )
    folder.mkdir()
    digests = []
    for content in contents:
        digests.append(hashlib.sha256(content.encode()).hexdigest())
        (folder / digests[-1]).write_text(content)
    program = "\n".join(
        (
            "import re, sys",
            "from pathlib import Path",
            "records, folder, digests = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]",
            textwrap.dedent(script),
            # Unlike ru_maxrss, this forgets the process from which this one was made.
            "print(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1])",
        )
    )
    command = [sys.executable, "-c", program, str(records), str(folder), *digests]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return 1024 * int(done.stdout)


@pytest.mark.parametrize("script", [CHECKED, NAMED, KEPT], ids=["checked", "named", "kept"])
def test_memory_goes_with_the_number_of_records(tmp_path, script):
    few, many = (peak_bytes(tmp_path / str(records), script, records) for records in (FEW, MANY))
    per_record = (many - few) / (MANY - FEW)
    print(f"{per_record:.0f} bytes a record")
    assert per_record < MOST_PER_RECORD
