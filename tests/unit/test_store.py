"""The store: every row exactly once with its own vector, whatever the order of writes."""

import hashlib
import os
import stat
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trove_steps.embeddings import sorted_keys as sorted_keys_module
from trove_steps.embeddings import store as store_module
from trove_steps.embeddings import vectors as vectors_module
from trove_steps.embeddings.collection import write_collection
from trove_steps.embeddings.shards import DamagedShard, Shard
from trove_steps.embeddings.sorted_keys import SortedKeys, first_of_each, unsorted
from trove_steps.embeddings.store import Store
from trove_steps.embeddings.vectors import Vectors, as_slice, storage_order
from trove_steps.errors import TroveStepsError
from trove_steps.files import repairing
from trove_steps.keys import TEXT_KEY_BYTES, text_key

ENCODER, TEXTS = "e" * 32, "f" * 32
DIM = 3
IN_TEMPORARY_FOLDER = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def as_keys(texts) -> np.ndarray:
    joined = b"".join(map(text_key, texts))
    return np.frombuffer(joined, np.uint8).reshape(-1, TEXT_KEY_BYTES)


def vector_of(text: str) -> np.ndarray:
    """A vector that is a function of the text, as an encoder's are."""
    seed = int.from_bytes(text_key(text)[:8], "big")
    return np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)


def vectors_of(texts, dtype=np.float32) -> np.ndarray:
    return np.array([vector_of(text) for text in texts], dtype).reshape(-1, DIM)


def collect(store: Store, texts: list[str], role: str = "corpus", name: str = TEXTS) -> Vectors:
    """Write the collection of these texts, as an encode step does, and open it."""
    ids = pa.chunked_array([[f"d{n}" for n in range(len(texts))]], pa.string())
    keys = as_keys(texts)
    return Vectors(write_collection(store, role, name, ids, keys, store.find(keys), {"kind": role}))


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "cache", ENCODER)


def write(store: Store, texts, dtype=np.float32) -> str:
    return store.write(as_keys(texts), vectors_of(texts, dtype))


# --- writing and finding -----------------------------------------------------------------------

BATCHES = st.lists(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=6), max_size=8)


@IN_TEMPORARY_FOLDER
@given(BATCHES, st.lists(st.sampled_from("abcdefghijxyz"), max_size=20))
def test_any_writes_and_any_question(tmp_path_factory, batches, asked):
    """Batches overlap and repeat keys; each key found has its own vector, others are unknown."""
    store = Store(tmp_path_factory.mktemp("store"), ENCODER)
    for batch in batches:
        write(store, batch)
    written = {text for batch in batches for text in batch}
    places = store.find(as_keys(asked))
    for text, shard, row in zip(asked, places.shards, places.rows, strict=True):
        assert (shard >= 0) == (row >= 0) == (text in written)
        if text in written:
            found = Shard(store.shard_path(places.names[shard]))
            assert found.keys[row].tobytes() == text_key(text)
            np.testing.assert_array_equal(found.vectors[row], vector_of(text))
    known = [text for text in asked if text in written]
    if known:
        taken = collect(store, known).take(np.arange(len(known)))
        np.testing.assert_array_equal(taken, vectors_of(known))


@IN_TEMPORARY_FOLDER
@given(BATCHES, st.randoms())
def test_the_order_of_writes_does_not_matter(tmp_path_factory, batches, chance):
    first, second = (Store(tmp_path_factory.mktemp("store"), ENCODER) for _ in range(2))
    shuffled = chance.sample(batches, len(batches))
    for store, order in ((first, batches), (second, shuffled)):
        for batch in order:
            write(store, batch)
    asked = as_keys("abcdefghijxyz")
    one, other = first.find(asked), second.find(asked)
    assert one.names == other.names
    for column in ("shards", "rows", "first"):
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column))


# Keys drawn from few bytes, so that halves collide often.
COLLIDING = st.lists(
    st.tuples(st.sampled_from([0, 1, 127, 128, 255]), st.sampled_from([0, 1, 128, 255])),
    unique=True,
    max_size=20,
)


def key_of(high: int, low: int) -> bytes:
    return bytes([high] * 8 + [low] * 8)


@given(COLLIDING, COLLIDING, st.integers(0, 20))
def test_keys_that_share_a_half(known, asked, cut):
    """Also where the first 8 bytes are the same, and with bytes above the sign bit."""
    known, asked = (
        np.frombuffer(b"".join(key_of(*pair) for pair in pairs), np.uint8).reshape(-1, 16)
        for pairs in (known, [*asked, *asked[:cut]])
    )
    keys = SortedKeys(asked)
    places = keys.places(known)
    numbers = np.arange(len(asked))
    first = keys.fill_repeats(numbers)
    numbers = unsorted(keys.order, numbers)
    np.testing.assert_array_equal(unsorted(keys.order, first), first_of_each(asked))
    seen: set[bytes] = set()
    for key, is_first in zip(asked, first_of_each(asked), strict=True):
        assert is_first == (key.tobytes() not in seen)
        seen.add(key.tobytes())
    assert first.sum() == len({key.tobytes() for key in asked})
    in_order = asked[np.lexsort(asked.T[::-1])]
    for key, place in zip(known, places, strict=True):
        assert (place >= 0) == (key.tobytes() in {other.tobytes() for other in asked})
        if place >= 0:
            assert in_order[place].tobytes() == key.tobytes()
    for key, number in zip(asked, numbers, strict=True):  # each key at its first place
        assert in_order[number].tobytes() == key.tobytes()
        assert number == 0 or in_order[number - 1].tobytes() != key.tobytes()


def test_a_key_in_several_shards_has_the_first_place(store):
    names = sorted([write(store, ["a", "b"]), write(store, ["b", "c"]), write(store, ["c", "b"])])
    places = store.find(as_keys(["b"]))
    (shard,), (row,) = places.shards, places.rows
    assert places.names == names
    assert shard == 0
    assert Shard(store.shard_path(names[0])).keys[row].tobytes() == text_key("b")


def test_an_empty_store_knows_nothing(store):
    places = store.find(as_keys(["a", "b"]))
    assert places.shards.tolist() == places.rows.tolist() == [-1, -1]
    empty = collect(store, [])
    assert len(empty) == 0
    assert empty.take(np.arange(0)).shape == (0, 0)
    assert list(empty.blocks(5)) == []


def test_shards_are_named_by_their_content(store):
    name = write(store, ["a", "b"])
    assert hashlib.sha256(store.shard_path(name).read_bytes()).hexdigest() == name
    assert write(store, ["a", "b"]) == name
    assert write(store, ["b", "a"]) != name
    assert [path.stem for path in store.shards_directory.iterdir()] == store.shard_names()


def test_a_look_up_goes_through_the_shards_in_blocks(store, monkeypatch):
    """However many shards there are, few are open and few of their keys in memory."""
    monkeypatch.setattr(store_module, "OPEN_SHARDS", 4)
    monkeypatch.setattr(store_module, "KEYS_AT_ONCE", 7)
    monkeypatch.setattr(sorted_keys_module, "COMPARED_AT_ONCE", 3)
    texts = [str(n) for n in range(60)]
    for start in range(0, 60, 5):
        write(store, texts[start : start + 5])
    assert {len(shards) for shards in store.scan()} == {2}
    places = store.find(as_keys([*texts, "60", "0"]))
    assert places.known.tolist() == [True] * 60 + [False, True]
    assert places.first.tolist() == [True] * 61 + [False]
    np.testing.assert_array_equal(collect(store, texts).take(np.arange(60)), vectors_of(texts))


# --- reading -------------------------------------------------------------------------------------


def test_vectors_come_in_the_order_asked_for(store):
    texts = [str(n) for n in range(50)]
    for start in (30, 0, 10, 20, 40):
        write(store, texts[start : start + 10])
    vectors = collect(store, [*texts, "7", "7"])
    assert len(vectors) == 52
    assert vectors.ids.to_pylist()[:2] == ["d0", "d1"]
    asked = np.array([51, 3, 3, 49, 7, 0])
    expected = vectors_of(["7", "3", "3", "49", "7", "0"])
    np.testing.assert_array_equal(vectors.take(asked), expected)
    assert vectors.take(asked).dtype == np.float32


def test_texts_that_follow_each_other_in_a_shard_are_not_copied(store):
    texts = [str(n) for n in range(50)]
    write(store, texts)
    vectors = collect(store, texts)
    run = vectors.take(vectors.order[5:20])
    np.testing.assert_array_equal(run, vectors_of([texts[n] for n in vectors.order[5:20]]))
    assert not run.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        run[:] = 0  # the store's own memory


@pytest.mark.parametrize("size", [1, 7, 52, 1000])
def test_blocks_hold_every_text_once(store, size):
    texts = [str(n) for n in range(40)]
    write(store, texts[20:])
    write(store, texts[:20])
    vectors = collect(store, [*texts, *texts[:12]])
    numbers = np.concatenate([block for block, _ in vectors.blocks(size)])
    assert sorted(numbers.tolist()) == list(range(52))
    assert numbers.tolist() == vectors.order.tolist()
    together = np.concatenate([values for _, values in vectors.blocks(size)])
    np.testing.assert_array_equal(together, vectors_of([(texts + texts)[n] for n in numbers]))


def test_order_is_sequential_in_the_shards(store):
    texts = [str(n) for n in range(30)]
    for start in (20, 0, 10):
        write(store, texts[start : start + 10])
    vectors = collect(store, texts[::-1])
    _, shards, rows = vectors._places
    places = [(shards[n], rows[n]) for n in vectors.order]
    assert places == sorted(places)


def test_float16_is_widened(store):
    write(store, ["a", "b"], np.float16)
    taken = collect(store, ["b"]).take(np.array([0]))
    assert taken.dtype == np.float32
    np.testing.assert_array_equal(taken, vectors_of(["b"], np.float16).astype(np.float32))


def test_few_shards_are_open_at_once(store, monkeypatch):
    monkeypatch.setattr(vectors_module, "OPEN_SHARDS", 4)
    texts = [str(n) for n in range(20)]
    for text in texts:
        write(store, [text])
    vectors = collect(store, texts)
    for n in (*range(20), 0, 19, 3):
        np.testing.assert_array_equal(vectors.take(np.array([n])), vectors_of([texts[n]]))
        assert len(vectors._open) <= 4


def test_a_collection_written_again_has_the_same_manifest(store):
    write(store, ["a", "b"])
    collect(store, ["a", "b"])
    manifest = store.directory / f"corpus-{TEXTS}.json"
    before = manifest.read_bytes()
    write(store, ["b", "c", "a"])  # the same rows stand elsewhere too
    collect(store, ["a", "b"])
    assert manifest.read_bytes() == before
    collect(store, ["b", "a"])
    assert manifest.read_bytes() != before


# --- damage --------------------------------------------------------------------------------------


def test_a_file_cut_anywhere_is_no_shard(store, tmp_path):
    content = store.shard_path(write(store, ["a", "b"])).read_bytes()
    cut = tmp_path / "cut.arrow"
    for length in range(0, len(content), 7):
        cut.write_bytes(content[:length])
        with pytest.raises(DamagedShard):
            Shard(cut)


def test_any_flipped_bit_is_found_or_leaves_a_shard_of_the_same_shape(store, tmp_path):
    content = store.shard_path(write(store, ["a", "b"])).read_bytes()
    flipped = tmp_path / "flipped.arrow"
    found = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        flipped.write_bytes(damaged)
        try:
            shard = Shard(flipped)
            assert shard.keys.shape == (2, TEXT_KEY_BYTES)
            assert shard.vectors.shape == (2, DIM)
        except DamagedShard:
            found += 1
    assert found > len(content) / 5


@pytest.mark.parametrize("damage", ["truncated", "zeroed", "empty"])
def test_a_damaged_shard_is_set_aside(store, capsys, damage):
    good, bad = write(store, ["a"]), write(store, ["b"])
    content = store.shard_path(bad).read_bytes()
    damaged = {"truncated": content[:-9], "zeroed": bytes(len(content)), "empty": b""}[damage]
    store.shard_path(bad).write_bytes(damaged)
    places = store.find(as_keys(["a", "b"]))
    assert places.names == [good]
    assert places.shards.tolist() == [0, -1]
    assert "a damaged shard was set aside" in capsys.readouterr().err
    assert store.shard_path(bad).with_suffix(".damaged").read_bytes() == damaged
    assert write(store, ["b"]) == bad  # encoded again, under its old name
    np.testing.assert_array_equal(collect(store, ["b"]).take(np.array([0])), vectors_of(["b"]))


def test_a_shard_that_another_job_has_just_set_aside(store, monkeypatch):
    good = write(store, ["a"])
    monkeypatch.setattr(Store, "shard_names", lambda self: ["0" * 64, good])
    assert store.find(as_keys(["a"])).names == [good]


def test_a_good_shard_is_never_set_aside_for_want_of_file_descriptors(store, monkeypatch):
    name = write(store, ["a"])

    def fail(path):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(pa, "memory_map", fail)
    with repairing(), pytest.raises(TroveStepsError, match="Too many open files"):
        store.find(as_keys(["a"]))
    assert store.shard_path(name).exists()


@pytest.mark.parametrize("damage", ["damaged", "missing"])
def test_a_bad_shard_of_a_collection_says_what_to_do(store, damage):
    path = store.shard_path(write(store, ["a"]))
    vectors = collect(store, ["a"])
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"ARROW1")
    with pytest.raises(TroveStepsError, match=r"missing, damaged .*cache verify"):
        vectors.take(np.array([0]))
    assert (store.directory / f"corpus-{TEXTS}.json").exists()  # tools that look change nothing
    told = pytest.raises(TroveStepsError, match=r"missing, damaged .*: run again; only the shard's")
    with repairing(), told:
        vectors.take(np.array([0]))
    assert not (store.directory / f"corpus-{TEXTS}.json").exists()  # so the next run repairs it


def test_a_manifest_outlives_a_want_of_file_descriptors(store, monkeypatch):
    write(store, ["a"])
    vectors = collect(store, ["a"])

    def fail(path):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(pa, "memory_map", fail)
    with repairing(), pytest.raises(TroveStepsError, match="Too many open files"):
        vectors.take(np.array([0]))
    assert (store.directory / f"corpus-{TEXTS}.json").exists()


@pytest.mark.parametrize("damage", ["gone", "cut", "of another collection"])
def test_a_damaged_rows_table_says_what_to_do(store, damage):
    write(store, ["a", "b"])
    collect(store, ["a", "b"])
    collect(store, ["a"], name="0" * 32)
    rows = store.directory / f"corpus-{TEXTS}.rows.arrow"
    content = rows.read_bytes()
    if damage == "gone":
        rows.unlink()
    elif damage == "cut":
        rows.write_bytes(content[: len(content) // 2])
    else:
        rows.write_bytes((store.directory / f"corpus-{'0' * 32}.rows.arrow").read_bytes())
    manifest = store.directory / f"corpus-{TEXTS}.json"
    with pytest.raises(TroveStepsError, match=r"rows\.arrow can't be read .*cache verify"):
        Vectors(manifest)
    assert manifest.exists()  # tools that look change nothing
    told = pytest.raises(TroveStepsError, match=r"rows\.arrow can't be read .*: run again")
    with repairing(), told:
        Vectors(manifest)
    assert not manifest.exists()


def test_every_flipped_byte_of_a_rows_table_is_found_or_harmless(store):
    write(store, ["a", "b", "c", "d"])
    collect(store, ["d", "b", "a", "c", "a"])
    manifest = store.directory / f"corpus-{TEXTS}.json"
    path, vectors = manifest.with_suffix(".rows.arrow"), Vectors(manifest)
    ids, expected, content = vectors.ids, vectors.take(np.arange(5)), path.read_bytes()
    found = 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x11]) + content[place + 1 :])
        try:
            flipped = Vectors(manifest)
        except TroveStepsError:
            found += 1
            continue
        assert flipped.ids.equals(ids)
        np.testing.assert_array_equal(flipped.take(np.arange(5)), expected)
    assert found > 200


@pytest.mark.parametrize("content", ["", '{"rows": 2', "[]", "{}", '{"rows": "2"}', "null"])
def test_a_manifest_that_is_none(store, content):
    write(store, ["a"])
    collect(store, ["a"])
    manifest = store.directory / f"corpus-{TEXTS}.json"
    manifest.write_text(content)
    with pytest.raises(TroveStepsError, match=r"damaged|is not the manifest of a collection"):
        Vectors(manifest)
    assert manifest.exists()


def test_a_full_disk_leaves_a_usable_store(store, monkeypatch):
    write(store, ["a"])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TroveStepsError, match=r"disk of .* is full"):
        write(store, ["b"])
    monkeypatch.undo()
    assert store.find(as_keys(["a", "b"])).shards.tolist() == [0, -1]
    assert len(list(store.shards_directory.iterdir())) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_store_is_read(store):
    write(store, ["a"])
    collect(store, ["a"])
    store.shards_directory.chmod(stat.S_IRUSR | stat.S_IXUSR)
    store.directory.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        vectors = Vectors(store.directory / f"corpus-{TEXTS}.json")
        np.testing.assert_array_equal(vectors.take(np.array([0])), vectors_of(["a"]))
        with pytest.raises(TroveStepsError, match="can't be written"):
            write(store, ["b"])
    finally:
        store.directory.chmod(0o755)
        store.shards_directory.chmod(0o755)


def test_the_recipe_stays_as_first_written(store):
    store.write_recipe({"pooling": "mean"})
    before = (store.directory / "recipe.json").stat().st_mtime_ns
    store.write_recipe({"pooling": "mean"})
    assert (store.directory / "recipe.json").stat().st_mtime_ns == before


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), max_size=60), st.integers(1, 70))
def test_the_order_of_storage(places, portion):
    shards, rows = np.array(places, np.int32).reshape(-1, 2).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors_module, "ORDERED_AT_ONCE", portion)
        order = storage_order(shards, rows)
    assert order.dtype == np.int32
    assert order.tolist() == sorted(range(len(places)), key=lambda text: (*places[text], text))


def test_memory_of_the_order_of_storage(monkeypatch):
    monkeypatch.setattr(vectors_module, "ORDERED_AT_ONCE", 1 << 14)
    chance = np.random.default_rng(0)
    shards, rows = chance.integers(0, 200, (2, 1 << 19)).astype(np.int32)
    tracemalloc.start()
    order = storage_order(shards, rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * order.nbytes


@given(
    st.one_of(
        st.lists(st.integers(0, 9), min_size=1, max_size=6),
        st.builds(
            lambda first, count: list(range(first, first + count)),
            st.integers(0, 9),
            st.integers(1, 9),
        ),
    )
)
def test_a_run_of_numbers_reads_the_same(numbers):
    run = as_slice(np.array(numbers, np.int32))
    np.testing.assert_array_equal(np.arange(20)[run], numbers)
    assert isinstance(run, slice) == (numbers == list(range(numbers[0], numbers[0] + len(numbers))))
