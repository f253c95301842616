"""Digests of files: remembered when that is safe, and never for bytes that have changed."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trove_steps import fingerprint
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json, write_json, written_atomically
from trove_steps.fingerprint import Fingerprints, check_unchanged


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def settled(monkeypatch):
    """Take files for settled at once, so that tests need not wait."""
    monkeypatch.setattr(fingerprint, "SETTLING_SECONDS", -1.0)


@pytest.fixture
def hashed(monkeypatch) -> list:
    """The files that were really read."""
    read = []

    def counting(path, *hashes):
        read.append(Path(path).name)
        read_into(path, *hashes)

    read_into = fingerprint._read_into
    monkeypatch.setattr(fingerprint, "_read_into", counting)
    return read


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def memos(cache: Path) -> list[Path]:
    return list((cache / "fingerprints").glob("*")) if (cache / "fingerprints").exists() else []


def test_a_file_is_read_once(tmp_path, settled, hashed):
    path = written(tmp_path / "a", b"corpus")
    for _ in range(3):
        assert Fingerprints(tmp_path / "cache").file(path) == sha256(b"corpus")
    assert hashed == ["a"]


def test_an_edit_in_place_with_old_size_and_mtime_is_noticed(tmp_path, settled):
    path = written(tmp_path / "a", b"weights 0")
    prints = Fingerprints(tmp_path / "cache")
    assert prints.file(path) == sha256(b"weights 0")
    before = path.stat()
    time.sleep(0.05)  # more than a tick of the file system's clock
    with open(path, "r+b") as file:
        file.seek(8)
        file.write(b"1")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    unchanged = ("st_size", "st_mtime_ns", "st_ino")
    assert [getattr(after, f) for f in unchanged] == [getattr(before, f) for f in unchanged]
    assert prints.file(path) == sha256(b"weights 1")


def test_a_file_replaced_by_rename_is_noticed(tmp_path, settled):
    path = written(tmp_path / "a", b"weights 0")
    prints = Fingerprints(tmp_path / "cache")
    prints.file(path)
    before = path.stat()
    other = written(tmp_path / "b", b"weights 1")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    assert prints.file(path) == sha256(b"weights 1")


def test_a_young_file_is_not_remembered(tmp_path, hashed, monkeypatch):
    """Two edits within one tick of the clock leave the same times behind."""
    path = written(tmp_path / "a", b"weights 0")
    prints = Fingerprints(tmp_path / "cache")
    changed = path.stat().st_ctime_ns / 1e9
    monkeypatch.setattr(fingerprint.time, "time", lambda: changed + 1.99)
    prints.file(path)
    assert memos(tmp_path / "cache") == []
    monkeypatch.setattr(fingerprint.time, "time", lambda: changed + 2.01)
    prints.file(path)
    assert len(memos(tmp_path / "cache")) == 1
    prints.file(path)
    assert hashed == ["a", "a"]


def test_links_and_their_targets_share_a_memory(tmp_path, settled, hashed):
    path = written(tmp_path / "a", b"corpus")
    (tmp_path / "link").symlink_to(path)
    prints = Fingerprints(tmp_path / "cache")
    assert prints.file(tmp_path / "link") == prints.file(path) == sha256(b"corpus")
    assert hashed == ["a"]


def test_a_link_that_turns_to_another_file_is_noticed(tmp_path, settled):
    first, second = written(tmp_path / "a", b"one"), written(tmp_path / "b", b"two")
    link = tmp_path / "link"
    link.symlink_to(first)
    prints = Fingerprints(tmp_path / "cache")
    assert prints.file(link) == sha256(b"one")
    link.unlink()
    link.symlink_to(second)
    assert prints.file(link) == sha256(b"two")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b"{}", b'{"identity": 7, "sha256": "x"}'],
)
def test_a_damaged_memory_is_ignored_and_written_anew(tmp_path, settled, content):
    path = written(tmp_path / "a", b"corpus")
    prints = Fingerprints(tmp_path / "cache")
    prints.file(path)
    (memo,) = memos(tmp_path / "cache")
    memo.write_bytes(content)
    assert prints.file(path) == sha256(b"corpus")
    assert read_json(memo)["sha256"] == sha256(b"corpus")


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, settled):
    path = written(tmp_path / "a", b"corpus")
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert Fingerprints(tmp_path / "cache").file(path) == sha256(b"corpus")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_memory_costs_time_only(tmp_path, settled):
    path = written(tmp_path / "a", b"corpus")
    prints = Fingerprints(tmp_path / "cache")
    prints.file(path)
    (tmp_path / "cache" / "fingerprints").chmod(0)
    try:
        assert prints.file(path) == sha256(b"corpus")
    finally:
        (tmp_path / "cache" / "fingerprints").chmod(0o755)


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path, monkeypatch):
    path = written(tmp_path / "a", b"corpus")

    def slowly(real, *hashes):
        read_into(real, *hashes)
        path.write_bytes(b"corpus and more")

    read_into = fingerprint._read_into
    monkeypatch.setattr(fingerprint, "_read_into", slowly)
    with pytest.raises(TroveStepsError, match="changed while it was read"):
        Fingerprints(tmp_path / "cache").file(path)


def other_bytes(content: bytes):
    """Bytes that are nearly, or all but, the same."""
    flip = st.integers(0, 8 * len(content) - 1).map(
        lambda bit: (int.from_bytes(content, "little") ^ 1 << bit).to_bytes(len(content), "little")
    )
    return st.one_of(flip, st.just(content + b"\0"), st.just(content[:-1]), st.binary())


@given(content=st.binary(min_size=1), remembered=st.booleans(), data=st.data())
def test_whether_a_file_holds_what_it_held(content, remembered, data):
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprint, "SETTLING_SECONDS", -1.0 if remembered else 2.0)
        path = written(Path(folder, "a"), content)
        prints = Fingerprints(Path(folder, "cache"))
        digest = prints.file(path)
        assert len(memos(Path(folder, "cache"))) == remembered
        assert prints.holds(path, digest)
        assert not prints.holds(path, sha256(content + b"more"))
        other = data.draw(other_bytes(content))
        path.write_bytes(other)
        assert prints.holds(path, digest) == (other == content)
        assert prints.holds(path, sha256(other))


def test_what_a_file_holds_is_read_whatever_its_times_are(tmp_path, settled, monkeypatch):
    path = written(tmp_path / "a", b"weights 0")
    prints = Fingerprints(tmp_path / "cache")
    digest = prints.file(path)
    path.write_bytes(b"weights 1")
    held = fingerprint.identity(path)
    (memo,) = memos(tmp_path / "cache")
    write_json(memo, {**read_json(memo), "identity": held})
    assert prints.file(path) == digest  # as if the file's times had not changed
    assert not prints.holds(path, digest)


@pytest.mark.parametrize("memory", [{}, {"sha256": 7}, {"xxh3_128": "0"}, {"xxh3_128": 7}])
def test_a_damaged_memory_of_what_a_file_held(tmp_path, settled, memory):
    path = written(tmp_path / "a", b"corpus")
    prints = Fingerprints(tmp_path / "cache")
    digest = prints.file(path)
    (memo,) = memos(tmp_path / "cache")
    write_json(memo, {"sha256": digest, **memory})
    assert prints.holds(path, digest)
    assert not prints.holds(path, sha256(b"other"))


@pytest.mark.parametrize("name", ["missing", "folder"])
def test_what_cannot_be_read_is_named(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(TroveStepsError, match=f"{name} can't be read"):
        Fingerprints(tmp_path / "cache").file(tmp_path / name)


def test_a_name_that_is_not_utf8(tmp_path, settled, hashed):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        path.write_bytes(b"corpus")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    for _ in range(2):
        assert Fingerprints(tmp_path / "cache").file(path) == sha256(b"corpus")
    assert len(hashed) == 1


def test_many_writers_at_once(tmp_path, settled):
    """Threads of several processes fingerprint and edit the same files; no digest is ever wrong."""
    program = (
        "import sys, pathlib\n"
        "from trove_steps import fingerprint\n"
        "fingerprint.SETTLING_SECONDS = -1.0\n"
        "for n in range(60):\n"
        "    path = pathlib.Path(sys.argv[1]) / str(n % 5)\n"
        "    print(fingerprint.Fingerprints(sys.argv[2]).file(path))\n"
    )
    contents = [f"file {n}".encode() for n in range(5)]
    for n, content in enumerate(contents):
        written(tmp_path / str(n), content)
    command = [sys.executable, "-c", program, str(tmp_path), str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    expected = [sha256(contents[n % 5]) for n in range(60)]
    for process in running:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert output.split() == expected
    assert len(memos(tmp_path / "cache")) == 5  # and no temporary file is left


# --- links by content ---------------------------------------------------------------------------


def test_intern_links_to_the_file(tmp_path):
    path = written(tmp_path / "a", b"corpus")
    prints = Fingerprints(tmp_path / "cache")
    link = prints.intern(path, "d" * 64)
    assert link == tmp_path / "cache" / "in" / ("d" * 64)
    assert link.read_bytes() == b"corpus"
    inode = link.lstat().st_ino
    prints.intern(path, "d" * 64)
    assert link.lstat().st_ino == inode  # left alone
    moved = path.rename(tmp_path / "b")
    prints.intern(moved, "d" * 64)
    assert link.read_bytes() == b"corpus"
    assert [entry.name for entry in link.parent.iterdir()] == ["d" * 64]


def test_a_link_to_a_copy_is_left_alone(tmp_path):
    """Another run may be about to read through it, and looking (-n) must not change what it reads."""
    first, second = tmp_path / "a", tmp_path / "b"
    for path in (first, second):
        path.write_text("the same")
    prints = Fingerprints(tmp_path / "cache")
    digest = prints.file(first)
    link = prints.intern(first, digest)
    prints.intern(second, digest)
    assert os.path.realpath(link) == str(first)
    first.write_text("no longer the same")
    prints.intern(second, digest)
    assert os.path.realpath(link) == str(second)


def test_intern_says_that_the_cache_cannot_be_written(tmp_path):
    path = written(tmp_path / "a", b"corpus")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(TroveStepsError, match="encoding_cache_dir"):
        Fingerprints(tmp_path / "cache").intern(path, "d" * 64)


def test_threads_intern_the_same_file(tmp_path):
    path, errors = written(tmp_path / "a", b"corpus"), []

    def link_often():
        try:
            for n in range(50):
                target = (
                    path if n % 2 else written(tmp_path / threading.current_thread().name, b"c")
                )
                link = Fingerprints(tmp_path / "cache").intern(target, "d" * 64)
                assert os.path.exists(link)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=link_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_check_unchanged(tmp_path):
    path = written(tmp_path / "a", b"corpus")
    check_unchanged(path, sha256(b"corpus"))
    path.write_bytes(b"Corpus")
    with pytest.raises(TroveStepsError, match=r"data/a\.jsonl changed since this run was planned"):
        check_unchanged(path, sha256(b"corpus"), shown_as="data/a.jsonl")


# --- the Hub's cache -----------------------------------------------------------------------------


def test_a_blob_that_lacks_the_bytes_it_is_named_for(tmp_path, settled):
    (tmp_path / "blobs").mkdir()
    blob = written(tmp_path / "blobs" / sha256(b"weights"), b"weights")
    (tmp_path / "model.safetensors").symlink_to(blob)
    prints = Fingerprints(tmp_path / "cache")
    assert prints.file(tmp_path / "model.safetensors") == sha256(b"weights")
    blob.write_bytes(b"weight")
    for _ in range(2):  # also when the digest is remembered
        with pytest.raises(
            TroveStepsError, match=r"model\.safetensors is damaged.*fetch the model"
        ):
            prints.file(tmp_path / "model.safetensors")


def test_small_blobs_are_named_by_git_and_not_checked(tmp_path):
    (tmp_path / "blobs").mkdir()
    blob = written(tmp_path / "blobs" / ("a" * 40), b"{}")
    assert Fingerprints(tmp_path / "cache").file(blob) == sha256(b"{}")


# --- files that are whole or absent ----------------------------------------------------------------


def write_and_fail(path: Path, error: Exception):
    with written_atomically(path) as temporary:
        temporary.write_bytes(b"half")
        raise error


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = written(tmp_path / "result.json", b"old")
    with pytest.raises(RuntimeError):
        write_and_fail(path, RuntimeError())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_makes_folders_and_the_same_bytes_for_the_same_value(tmp_path):
    first, second = tmp_path / "a" / "b" / "x.json", tmp_path / "y.json"
    write_json(first, {"b": 1, "a": "é"})
    write_json(second, {"a": "é", "b": 1})
    assert first.read_bytes() == second.read_bytes()
    assert read_json(first) == {"a": "é", "b": 1}


def test_a_full_disk_is_one_message(tmp_path):
    with pytest.raises(TroveStepsError, match=r"disk of .* is full"):
        write_and_fail(tmp_path / "x", OSError(28, "No space left on device"))
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_is_a_file_is_one_message(tmp_path):
    written(tmp_path / "cache", b"")
    with pytest.raises(TroveStepsError, match=r"x\.json can't be written"):
        write_json(tmp_path / "cache" / "in" / "x.json", {})


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"\0" * 40])
def test_a_damaged_json_file_says_what_to_do(tmp_path, content):
    path = written(tmp_path / "x.json", content)
    with pytest.raises(TroveStepsError, match=r"x\.json is damaged .*delete it and run again"):
        read_json(path)
    with pytest.raises(TroveStepsError, match="is missing"):
        read_json(tmp_path / "y.json")
    with pytest.raises(TroveStepsError, match="can't be read"):
        read_json(tmp_path)
