"""The ids of a collection and the keys of its texts: all that is kept of a text while a corpus is read.

A large file of JSON lines is read in portions by several processes (`trove_steps.keyed_portions`), because
parsing and hashing hold the interpreter's lock. Each process takes every n-th portion and writes what it
found to a pipe; here the portions are put in order again. Whatever is unusual in a file, such a process
leaves alone: then the file is read in the plain way, which finds the words for it.
"""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from trove_steps.data import Reader, portion_bounds, read_records
from trove_steps.data.opening import changed
from trove_steps.fingerprint import Fingerprints, identity
from trove_steps.formats import formatter
from trove_steps.keys import TEXT_KEY_BYTES, text_keys
from trove_steps.own_code import is_name

PORTION_BYTES = 4 << 20
PIPE_BYTES = 1 << 20  # some portions' ids and keys: a process goes on while another's turn is
MOST_PROCESSES = 8  # the file's SHA-256, where it is needed, takes as long as the work of eight


@dataclass(frozen=True)
class Collected:
    """Consecutive records: ids (pa.StringArray [n]) and the keys of their texts, uint8[n, 16]."""

    ids: pa.StringArray
    keys: np.ndarray


class _Unusual(Exception):
    """A file that is to be read in the plain way."""


def keyed_records(
    path: Path,
    digest: str,
    fingerprints: Fingerprints,
    reader: Reader,
    form: str,
    dataset: str,
    shown_as: str | None = None,
) -> Iterator[Collected]:
    """Yield the ids and text keys of the records of a file, in order.

    digest: the SHA-256 (hex) that its bytes must have; fingerprints: what is remembered of it.
    form, dataset: as `formats.formatter` takes them.
    Raises TroveStepsError as `read_records`.
    """
    rows = 0
    try:
        for part in _in_portions(path, digest, fingerprints, reader, form, shown_as or str(path)):
            yield part
            rows += len(part.keys)
    except _Unusual:
        known = rows
        for part in _in_a_row(path, digest, reader, form, dataset, shown_as):
            skipped = min(known, len(part.keys))
            known -= skipped
            yield Collected(part.ids[skipped:], part.keys[skipped:])


def _in_a_row(path, digest, reader, form, dataset, shown_as) -> Iterator[Collected]:
    texts_of = formatter(form, dataset)
    for batch in read_records(path, shown_as=shown_as, digest=digest, reader=reader):
        keys = text_keys(texts_of(batch.titles, batch.texts))
        yield Collected(pa.array(batch.ids, pa.string()), _as_rows(keys))


def _in_portions(path, digest, fingerprints, reader, form, shown_as) -> Iterator[Collected]:
    # Functions of the user's own are called in this process only.
    bounds = [] if is_name(form) else portion_bounds(path, reader, PORTION_BYTES)
    portions = len(bounds) - 1
    processes = min(MOST_PROCESSES, portions, len(os.sched_getaffinity(0)))
    if processes < 2:
        raise _Unusual
    before = identity(path)
    with ThreadPoolExecutor(1) as thread, ExitStack() as stack:
        as_planned = thread.submit(fingerprints.holds, path, digest)
        given = json.dumps([str(path), bounds, vars(reader), form])
        pipes = [stack.enter_context(_reading(given, n, processes)) for n in range(processes)]
        unusual = False
        try:
            for number in range(portions):
                yield _received(pipes[number % processes])
        except _Unusual:
            unusual = True
        # While nothing about a file changes, all who read it read the same bytes.
        if not as_planned.result() or identity(path) != before:
            raise changed(shown_as)
        if unusual:
            raise _Unusual


@contextmanager
def _reading(given: str, number: int, processes: int):
    """Start a process that reads portions `number`, `number` + `processes`, …; give its output."""
    # Neither the working directory nor folders of the user's own modules: those could hide a library's.
    command = [
        sys.executable,
        "-P",
        "-m",
        "trove_steps.keyed_portions",
        str(number),
        str(processes),
    ]
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
    except OSError:  # this machine has no room for another process
        raise _Unusual from None
    with suppress(OSError):  # more than the system lets this user have
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    try:
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(given.encode())
        yield process.stdout
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def _received(pipe) -> Collected:
    """Return the records of a portion as `keyed_portions` writes them."""
    head = pipe.read(16)
    rows, size = np.frombuffer(head, np.int64) if len(head) == 16 else (0, 1)
    keys, names = pipe.read(TEXT_KEY_BYTES * rows), np.frombuffer(pipe.read(size), np.uint8)
    if len(names) < size:
        raise _Unusual
    ends = np.flatnonzero(names == ord("\n")) - np.arange(rows)
    offsets = np.concatenate(([0], ends)).astype(np.int32)
    buffers = pa.py_buffer(offsets), pa.py_buffer(names[names != ord("\n")])
    return Collected(pa.StringArray.from_buffers(rows, *buffers), _as_rows(keys))


def _as_rows(keys: bytes) -> np.ndarray:
    return np.frombuffer(keys, np.uint8).reshape(-1, TEXT_KEY_BYTES)
