"""Jobs that share a corpus: every text is encoded, whichever of them are killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trove_steps.encoding import claims as claims_module
from trove_steps.encoding.claims import Claims, finished, remove_claims
from trove_steps.encoding.portions import FIRST_CHARACTERS, shared_rows


def make_keys(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16), np.uint8)


class Store:
    """Which rows have a vector, and how often each was encoded."""

    def __init__(self, count: int):
        self.encoded = np.zeros(count, int)

    def missing(self, rows):
        return rows[self.encoded[rows] == 0]


def work(claims, keys, store, stop_after=None):
    """Encode; a job that is killed stops after some portions and says nothing."""
    sizes = np.full(len(keys), FIRST_CHARACTERS // 3)  # three texts in the first portion
    for count, rows in enumerate(shared_rows(claims, keys, sizes, store.missing, 0.01)):
        if stop_after is not None and count == stop_after:
            return "killed"
        store.encoded[rows] += 1
    return "done"


def test_one_job_encodes_every_text_once(tmp_path):
    keys, store = make_keys(500), Store(500)
    assert work(Claims(tmp_path / "corpus-a.json", 2), keys, store) == "done"
    assert (store.encoded == 1).all()


def test_what_other_jobs_finished_counts(tmp_path):
    keys, store = make_keys(2000), Store(2000)
    sizes = np.arange(2000)
    mine, other = (Claims(tmp_path / "corpus-a.json", 2) for _ in range(2))
    done = finished(mine, keys, sizes)
    assert done() == 0
    assert work(other, keys, store, stop_after=20) == "killed"
    marked = np.isin(mine.block_of(keys), list(mine.done()))
    assert 0 < done() == sizes[marked].sum() < sizes.sum()
    expire(tmp_path)
    assert work(mine, keys, store) == "done"
    assert done() == sizes.sum()


def test_jobs_at_once_encode_every_text_once(tmp_path):
    keys, store = make_keys(2000), Store(2000)
    jobs = [
        threading.Thread(target=work, args=(Claims(tmp_path / "corpus-a.json", 4), keys, store))
        for _ in range(4)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert (store.encoded == 1).all()


def test_blocks_do_not_depend_on_what_a_job_found_in_the_store(tmp_path):
    keys = make_keys(300)
    claims = Claims(tmp_path / "corpus-a.json", 8)
    some = np.arange(0, 300, 7)
    assert (claims.block_of(keys)[some] == claims.block_of(keys[some])).all()
    assert claims.blocks == 256
    assert len(set(claims.block_of(make_keys(10_000)))) == 256


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(0, 9))
def test_any_jobs_may_be_killed(tmp_path_factory, kills, seed):
    """What they left is taken over when their claims have expired; at most a portion is done twice."""
    folder = tmp_path_factory.mktemp("claims")
    keys, store = make_keys(200, seed), Store(200)
    for stop in kills:
        claims = Claims(folder / "corpus-a.json", 2)
        # A killed process can't give its claim back.
        claims.held = _without_farewell(claims)
        work(claims, keys, store, stop)
        expire(folder)
    assert work(Claims(folder / "corpus-a.json", 2), keys, store) == "done"
    assert (store.encoded == 1).all()


def _without_farewell(claims):
    @contextmanager
    def held(block):
        yield
        claims._create(claims._mark(block))

    return held


def expire(folder) -> None:
    old = time.time() - 2 * claims_module.EXPIRY_SECONDS
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (old, old))


def test_a_fresh_claim_is_respected_and_an_old_one_is_not(tmp_path):
    claims = Claims(tmp_path / "corpus-a.json", 2)
    assert claims.take(5) == "new"
    assert claims.take(5) is None
    expire(tmp_path)
    assert claims.take(5) == "inherited"
    assert claims.take(5) is None


def test_a_claim_is_kept_fresh_while_its_process_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(claims_module, "BEAT_SECONDS", 0.02)
    claims = Claims(tmp_path / "corpus-a.json", 2)
    assert claims.take(5) == "new"
    with claims.held(5):
        expire(tmp_path)
        time.sleep(0.3)
        assert claims.take(5) is None
    assert claims.is_done(5)


def test_a_claim_is_given_back_on_a_mistake(tmp_path):
    claims = Claims(tmp_path / "corpus-a.json", 2)
    claims.take(5)
    with pytest.raises(ValueError, match="NaN"), claims.held(5):
        raise ValueError("NaN")
    assert not claims.is_done(5)
    assert claims.take(5) == "inherited"  # at once, and what it encoded is looked for


HOLDER = """
import sys, time
from trove_steps.encoding.claims import Claims

claims = Claims(sys.argv[1], 2)
assert claims.take(5) == "new"
with claims.held(5):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_ended_gives_its_claim_back_if_it_can(tmp_path, ending):
    manifest = tmp_path / "corpus-a.json"
    command = [sys.executable, "-c", HOLDER, str(manifest)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as holder:
        assert holder.stdout.readline() == b"held\n"
        holder.send_signal(ending)
        assert holder.wait(30) == -ending  # it still ends by that signal
    claims = Claims(manifest, 2)
    assert claims.take(5) == (None if ending == signal.SIGKILL else "inherited")
    assert not claims.is_done(5)


# In children, a SIGTERM comes while a claim is held, and a second one before the n-th line of Python that is
# executed because of the first, wherever that is.
TWICE = """
import os, signal, sys
from trove_steps.encoding.claims import Claims
manifest, lines = sys.argv[1], int(sys.argv[2])

def hold(block):
    claims = Claims(manifest, 2)
    claims.take(block)
    with claims.held(block):
        count = 0

        def trace(frame, event, argument):
            nonlocal count
            if event == "line":
                count += 1
                if count == block + 1:
                    signal.raise_signal(signal.SIGTERM)
            return trace

        sys.settrace(trace)
        signal.raise_signal(signal.SIGTERM)

for block in range(lines):
    child = os.fork()
    if not child:
        signal.alarm(10)  # instead of waiting for ever
        hold(block)
        os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_two_signals_at_once_give_a_claim_back_too(tmp_path):
    """SLURM signals every process of a job, and a launcher passes on to its worker what it got."""
    manifest, lines = tmp_path / "corpus-a.json", 40
    command = [sys.executable, "-c", TWICE, str(manifest), str(lines)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert ended.stdout.split() == [str(-signal.SIGTERM)] * lines
    claims = Claims(manifest, 2)
    assert {claims.take(block) for block in range(lines)} == {"inherited"}


def test_a_signal_that_is_ignored_leaves_a_claim_alone(tmp_path):
    claims = Claims(tmp_path / "corpus-a.json", 2)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        claims.take(5)
        with claims.held(5):
            signal.raise_signal(signal.SIGTERM)
            assert claims.take(5) is None
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert claims.is_done(5)


def test_only_one_of_many_gets_a_claim(tmp_path):
    """Also an expired one: every one of them may find it expired at the same moment."""
    claims = Claims(tmp_path / "corpus-a.json", 2)
    for expected in ["new"] + ["inherited"] * 20:
        results = []
        start = threading.Barrier(8)

        def take(results=results, start=start):
            start.wait()
            results.append(claims.take(1))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [result for result in results if result] == [expected]
        expire(tmp_path)


def test_marks_of_vectors_that_are_gone_are_forgotten(tmp_path):
    keys, store = make_keys(100), Store(100)
    claims = Claims(tmp_path / "corpus-a.json", 2)
    work(claims, keys, store)
    store.encoded[:50] = 0
    claims.reopen(claims.done() & set(claims.block_of(keys[:50]).tolist()))
    assert work(claims, keys[:50], store) == "done"
    assert (store.encoded[:50] == 1).all()


def test_with_the_manifest_there_is_nothing_left_to_do(tmp_path):
    keys, store = make_keys(100), Store(100)
    manifest = tmp_path / "corpus-a.json"
    Claims(manifest, 2).take(1)
    manifest.write_text("{}")
    assert work(Claims(manifest, 2), keys, store) == "done"
    assert (store.encoded == 0).all()
    remove_claims(manifest)
    assert list(tmp_path.iterdir()) == [manifest]
    remove_claims(manifest)
