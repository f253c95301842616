"""Merging, clearing and checking shards: no row is ever lost, whoever reads, writes or is killed."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.test_store import DIM, ENCODER, as_keys, collect, vectors_of, write
from trove_steps.embeddings import vectors as vectors_module
from trove_steps.embeddings.collection import collection_keys, last_use
from trove_steps.embeddings.compaction import compact, live_rows
from trove_steps.embeddings.store import Store, encoders
from trove_steps.embeddings.vectors import Vectors
from trove_steps.embeddings.verification import verify
from trove_steps.errors import TroveStepsError


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "cache", ENCODER)


def bytes_of(rows: int) -> int:
    """About the size of a shard of so many rows."""
    return rows * (16 + 4 * DIM) + 700


def rows_in(store: Store) -> list[bytes]:
    return [key.tobytes() for shards in store.scan() for shard in shards for key in shard.keys]


def assert_all_there(store: Store, texts) -> None:
    texts = list(texts)
    if texts:
        taken = collect(store, texts, name="9" * 32).take(np.arange(len(texts)))
        np.testing.assert_array_equal(taken, vectors_of(texts))


def test_many_small_shards_become_one(store):
    texts = [str(n) for n in range(40)]
    for text in texts:
        write(store, [text])
    figures = compact(store)
    assert (figures.shards_before, figures.shards_after) == (40, 1)
    assert (figures.rows_before, figures.rows_after, figures.duplicates) == (40, 40, 0)
    (path,) = store.shards_directory.iterdir()
    assert figures.bytes_after == path.stat().st_size < figures.bytes_before / 10
    assert_all_there(store, texts)
    assert compact(store).shards_before == 1
    assert store.shard_names() == [path.stem]  # once more changes nothing


def test_shards_have_about_the_size_asked_for(store):
    texts = [str(n) for n in range(100)]
    for text in texts:
        write(store, [text])
    size = store.shard_path(store.shard_names()[0]).stat().st_size
    compact(store, shard_bytes=10 * size)
    assert len(store.shard_names()) == 10
    large = write(store, [f"x{n}" for n in range(2000)])
    figures = compact(store, shard_bytes=store.shard_path(large).stat().st_size)
    assert figures.shards_after == 2
    assert large in store.shard_names()  # large enough: left alone
    assert_all_there(store, texts)


def test_rows_of_several_shards_are_kept_once(store):
    for texts in (["a", "b"], ["b", "c"], ["c", "a", "a"]):
        write(store, texts)
    figures = compact(store)
    assert (figures.rows_after, figures.duplicates) == (3, 4)
    assert sorted(rows_in(store)) == sorted(map(bytes, as_keys("abc")))
    assert_all_there(store, "abc")


def test_number_formats_stay_apart(store):
    for n in range(3):
        write(store, [f"wide{n}"])
        write(store, [f"narrow{n}"], np.float16)
    assert compact(store).shards_after == 2
    taken = collect(store, ["narrow1", "wide1"]).take(np.array([0, 1]))
    np.testing.assert_array_equal(taken[0], vectors_of(["narrow1"], np.float16)[0])
    np.testing.assert_array_equal(taken[1], vectors_of(["wide1"])[0])


def test_a_dry_run_says_what_would_be(store):
    for texts in ("ab", "bc", "cd"):
        write(store, texts)
    names = store.shard_names()
    live = {names[0]: np.array([True, False])}
    foreseen = compact(store, live, dry_run=True)
    assert store.shard_names() == names
    done = compact(store, live)
    assert foreseen.bytes_after < done.bytes_after  # the file's frame is not foreseen
    foreseen.bytes_after = done.bytes_after
    assert foreseen == done


def test_a_reader_goes_on_while_its_shards_are_merged(store, monkeypatch):
    monkeypatch.setattr(vectors_module, "OPEN_SHARDS", 2)
    texts = [str(n) for n in range(20)]
    for start in range(0, 20, 2):
        write(store, texts[start : start + 2])
    vectors = collect(store, texts)
    seen = []
    for number, (numbers, values) in enumerate(vectors.blocks(3)):
        np.testing.assert_array_equal(values, vectors_of([texts[n] for n in numbers]))
        seen += numbers.tolist()
        if number == 2:
            compact(store)
    assert sorted(seen) == list(range(20))
    assert vectors.manifest["rows"] == 20


def test_rows_tables_point_to_the_merged_shards(store, monkeypatch):
    for text in "abc":
        write(store, [text])
    manifest = store.directory / f"corpus-{'f' * 32}.json"
    collect(store, ["c", "a", "b", "a"])
    before = manifest.read_bytes()
    os.utime(manifest.with_suffix(".rows.arrow"), (1000, 1000))
    compact(store)
    assert manifest.read_bytes() == before
    assert last_use(manifest) == 1000  # a compaction is no use
    monkeypatch.setattr(Store, "find", None)  # so nothing needs to be looked up again
    vectors = Vectors(manifest)
    np.testing.assert_array_equal(vectors.take(np.arange(4)), vectors_of("caba"))
    assert last_use(manifest) > 1000


def test_a_look_up_while_shards_are_merged_misses_nothing(store, monkeypatch):
    """The folder was listed before the merged shard was there; what was listed has gone."""
    for text in "abcdef":
        write(store, [text])
    listed = Store.shard_names
    calls = []

    def names(self):
        found = listed(self)
        calls.append(found)
        if len(calls) == 1:
            with monkeypatch.context() as original:
                original.setattr(Store, "shard_names", listed)
                compact(store)
        return found

    monkeypatch.setattr(Store, "shard_names", names)
    assert store.find(as_keys("abcdef")).known.all()
    assert len(calls) >= 2


def test_a_job_that_meets_its_own_shard_while_it_is_merged(store, monkeypatch):
    """It sees the shard, so it would not write it; then the shard is merged with another and gone."""
    write(store, ["a"])
    write(store, ["b"])
    monkeypatch.setattr(Store, "touch", lambda self, names: compact(store) and None)
    write(store, ["b"])
    assert_all_there(store, "ab")


def test_damaged_rows_get_no_sound_name(store, capsys):
    good, bad = write(store, ["a"]), write(store, ["b"])
    path = store.shard_path(bad)
    content = bytearray(path.read_bytes())
    content[content.index(vectors_of(["b"]).tobytes()) + 1] ^= 1  # one bit of a vector
    path.write_bytes(content)
    assert [damaged.name for damaged in verify(store, set_aside=False)] == [bad]
    assert bad in store.shard_names()
    compact(store)
    assert store.find(as_keys("ab")).known.tolist() == [True, False]
    assert "set aside" in capsys.readouterr().err
    assert path.with_suffix(".damaged").exists()
    assert store.shard_names() == [good]
    assert verify(store) == []


def test_verify_finds_what_is_no_number(store):
    name = store.write(as_keys("ab"), np.array([[1, 2, np.nan], [1, 2, 3]], np.float32))
    (damaged,) = verify(store)
    assert damaged.name == name
    assert "NaN" in damaged.problem
    assert store.shard_names() == []


def test_only_rows_that_no_collection_needs_are_dropped(store):
    write(store, ["a", "b", "c"])
    write(store, ["d", "e"])
    write(store, ["b", "f"])
    kept = collect(store, ["b", "d"])
    manifests = store.manifests()
    assert len(manifests) == 1
    assert collection_keys(manifests[0]).tolist() == as_keys("bd").tolist()
    assert compact(store, live_rows(store, manifests), dry_run=True).removed == 0  # too young
    live = live_rows(store, manifests, older_than=0)
    young = write(store, ["g"])  # a job is busy meanwhile
    figures = compact(store, live)
    assert figures.removed == 4
    assert store.find(as_keys("abcdefg")).known.tolist() == [text in "bdg" for text in "abcdefg"]
    np.testing.assert_array_equal(kept.take(np.arange(2)), vectors_of("bd"))
    figures = compact(store, live_rows(store, [], older_than=0))
    assert figures.shards_after == 0
    assert young not in store.shard_names()


def test_one_at_a_time(store):
    write(store, ["a"])
    with store.maintenance(), pytest.raises(TroveStepsError, match="another process compacts"):
        compact(store)
    compact(store)


def test_a_store_that_is_not_there(store):
    assert compact(store).shards_before == 0
    assert verify(store) == []
    assert store.recipe() is None
    assert encoders(store.directory.parent.parent) == []
    write(store, ["a"])
    assert [other.encoder for other in encoders(store.directory.parent.parent)] == [ENCODER]


# --- any interleaving ----------------------------------------------------------------------------

TEXTS = [f"text {n}" for n in range(12)]
SOME = st.lists(st.sampled_from(TEXTS), min_size=1, max_size=5, unique=True)  # as jobs write


class Killed(BaseException):
    """As kill -9: what comes after does not happen, but for what the test cannot prevent."""


@contextlib.contextmanager
def killed_after(steps: int):
    """End the block at its nth step that changes the disk, before or after the step."""
    count = 0
    real = {"replace": os.replace, "unlink": Path.unlink, "fsync": os.fsync}

    def step(name):
        def call(*arguments, **options):
            nonlocal count
            count += 1
            if count > steps:
                raise Killed
            return real[name](*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", step("replace"))
        patch.setattr(os, "fsync", step("fsync"))
        patch.setattr(Path, "unlink", step("unlink"))
        with contextlib.suppress(Killed):
            yield


class AnyInterleaving(RuleBasedStateMachine):
    """Writes, kills, compactions, clearings and reads in any order: what was written is found, once or more
    in the shards but exactly once by who asks, and with its own vector."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="store-"))
        self.store = Store(self.folder / "cache", ENCODER)
        self.written: set[str] = set()
        self.maybe: set[str] = set()  # written by a job that was killed at that
        self.readers: list[tuple[list[str], Vectors]] = []
        self.collections: dict[str, list[str]] = {}

    @rule(texts=SOME)
    def write(self, texts):
        write(self.store, texts)
        self.written.update(texts)

    @rule(texts=SOME, steps=st.integers(0, 3))
    def write_and_be_killed(self, texts, steps):
        with killed_after(steps):
            write(self.store, texts)
            self.written.update(texts)
        self.maybe.update(texts)

    @rule(size=st.integers(1, 12))
    def compact(self, size):
        compact(self.store, shard_bytes=bytes_of(size))

    @rule(size=st.integers(1, 12), steps=st.integers(0, 12))
    def compact_and_be_killed(self, size, steps):
        with killed_after(steps):
            compact(self.store, shard_bytes=bytes_of(size))

    @precondition(lambda self: self.written)
    @rule(data=st.data())
    def open_reader(self, data):
        texts = data.draw(st.lists(st.sampled_from(sorted(self.written)), min_size=1, max_size=6))
        name = f"{len(self.readers):032x}"
        self.readers.append((texts, collect(self.store, texts, name=name)))

    @rule(steps=st.integers(0, 12))
    def clear(self, steps):
        with killed_after(steps):
            compact(self.store, live_rows(self.store, self.store.manifests(), older_than=0))
        needed = {text for texts, _ in self.readers for text in texts}
        self.maybe |= self.written - needed
        self.written &= needed

    @invariant()
    def every_row_is_found_with_its_own_vector(self):
        asked = sorted(self.written)
        places = self.store.find(as_keys(asked))
        assert places.known.all()
        found = self.store.find(as_keys(TEXTS))
        known = {text for text, is_known in zip(TEXTS, found.known, strict=True) if is_known}
        assert self.written <= known <= self.written | self.maybe
        for number, row, text in zip(found.shards, found.rows, TEXTS, strict=True):
            if number >= 0:
                shard = self.store.open(found.names[number])
                np.testing.assert_array_equal(shard.vectors[row], vectors_of([text])[0])

    @invariant()
    def readers_go_on(self):
        for texts, vectors in self.readers:
            np.testing.assert_array_equal(vectors.take(np.arange(len(texts))), vectors_of(texts))

    def teardown(self):
        """Compacted in the end, every row stands there exactly once."""
        compact(self.store)
        rows = rows_in(self.store)
        assert len(set(rows)) == len(rows)
        assert self.written <= {text for text in TEXTS if bytes(as_keys([text])[0]) in rows}
        assert verify(self.store) == []
        shutil.rmtree(self.folder)


TestAnyInterleaving = AnyInterleaving.TestCase
TestAnyInterleaving.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
