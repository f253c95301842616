"""Ids and text keys of a collection, read by one process or by several."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from itertools import pairwise

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trove_steps import fingerprint, keyed
from trove_steps.data import Reader, portion_bounds, read_portion
from trove_steps.errors import TroveStepsError
from trove_steps.fingerprint import Fingerprints

from .collections_on_disk import COMPRESSIONS, FORMATS, fuzz, json_lines, records, write

TEMPLATE = "passage: {title} {text}"
ROWS = [(f"d{n}", "Über" if n % 3 else "", "漢字 word " * (n % 40)) for n in range(3000)]


@pytest.fixture
def two_processes(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(keyed, "PORTION_BYTES", 1 << 15)


@pytest.fixture
def only_portions(two_processes, monkeypatch):
    def not_needed(*_):
        raise AssertionError("the file was read in the plain way")

    monkeypatch.setattr(keyed, "_in_a_row", not_needed)


def collected(path, reader=Reader(), form=TEMPLATE, digest=None):  # noqa: B008 (frozen)
    digest = digest or hashlib.sha256(path.read_bytes()).hexdigest()
    prints = Fingerprints(path.parent / "cache")
    parts = list(keyed.keyed_records(path, digest, prints, reader, form, "d", "shown"))
    ids = [name for part in parts for name in part.ids.to_pylist()]
    return ids, np.concatenate([part.keys for part in parts])


def expected(rows):
    """What the documentation says, by hashlib alone."""
    texts = [
        f"passage: {t.strip()} {x.strip()}" if t else f"passage: {x.strip()}" for _, t, x in rows
    ]
    keys = [hashlib.sha256(text.strip().encode()).digest()[:16] for text in texts]
    return [row[0] for row in rows], np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)


def same(found, wanted) -> bool:
    return found[0] == wanted[0] and np.array_equal(found[1], wanted[1])


def test_several_processes_give_ids_and_keys_in_order(tmp_path, only_portions):
    assert same(collected(write(tmp_path, json_lines(ROWS))), expected(ROWS))


def test_blank_lines_line_ends_and_no_last_line_end(tmp_path, only_portions):
    content = json_lines(ROWS).replace(b"\n", b"\r\n").replace(b"}\r\n{", b"}\n \r\n\n{", 700)
    assert same(collected(write(tmp_path, content.rstrip())), expected(ROWS))


def test_fields_and_integer_ids(tmp_path, only_portions):
    lines = [
        json.dumps({"n": n, "head": t, "body": x, "text": 5}) for n, (_, t, x) in enumerate(ROWS)
    ]
    path = write(tmp_path, "\n".join(lines).encode())
    found = collected(path, Reader(id="n", title="head", text="body"))
    assert same(found, expected([(str(n), *row[1:]) for n, row in enumerate(ROWS)]))


def test_other_keys_in_some_records_only(tmp_path, only_portions):
    others = [{}, {"metadata": {"Über": [1e300, None]}}, {"url": "é", 'quoted "name"': 2**70}]
    lines = [
        json.dumps({"_id": i, "title": t, "text": x, **others[n % 3]}, ensure_ascii=False)
        for n, (i, t, x) in enumerate(ROWS)
    ]
    found = collected(write(tmp_path, "\n".join(lines).encode()))
    assert same(found, expected(ROWS))


def test_a_record_that_is_longer_than_portions(tmp_path, only_portions):
    rows = [*ROWS[:500], ("long", "", "x" * 200_000), *ROWS[500:]]
    assert same(collected(write(tmp_path, json_lines(rows))), expected(rows))


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet", "arrow file", "json lines"])
def test_what_can_not_be_cut_is_read_by_one_process(tmp_path, two_processes, form):
    assert same(collected(write(tmp_path, FORMATS[form](ROWS))), expected(ROWS))
    packed = COMPRESSIONS["gzip"](FORMATS[form](ROWS))
    assert same(collected(write(tmp_path, packed)), expected(ROWS))


def test_a_byte_order_mark_is_no_part_of_the_first_record(tmp_path, two_processes):
    content = b"\xef\xbb\xbf" + json_lines(ROWS)
    assert same(collected(write(tmp_path, content)), expected(ROWS))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"_id": "x", "text": 5}', r"shown:2991: 'text' is 5, where a string"),
        (b'{"_id": "x"}', r"shown:2991: the field 'text' is missing"),
        (b'{"_id": "x y", "text": ""}', r"shown:2991: the id 'x y' holds a space"),
        (b'{"_id": "x", "text": "\xff"}', r"shown:2991: byte 0xff at position 23"),
        (b'{"_id": "x", "text": "", "other": "\xff"}', r"shown:2991: byte 0xff at position 36"),
        (b'{"_id": "x", "text": "", "\xff": 1}', r"shown:2991: byte 0xff at position 27"),
        (b"{", r"shown:2991: not valid JSON"),
        (b"[]", r"shown:2991: \[\] is not a JSON object"),
    ],
)
def test_an_error_is_told_with_its_line(tmp_path, two_processes, line, message):
    lines = json_lines(ROWS).splitlines()
    lines.insert(2990, line)
    with pytest.raises(TroveStepsError, match=message):
        collected(write(tmp_path, b"\n".join(lines)))


def test_a_title_field_that_no_record_has(tmp_path, two_processes):
    with pytest.raises(TroveStepsError, match="no record has the field 'head'"):
        collected(write(tmp_path, json_lines(ROWS)), Reader(title="head"))


def test_titles_that_few_records_have(tmp_path, two_processes):
    lines = [{"_id": i, "text": x, **({"head": t} if i == "d2000" else {})} for i, t, x in ROWS]
    path = write(tmp_path, "\n".join(map(json.dumps, lines)).encode())
    rows = [(i, t if i == "d2000" else "", x) for i, t, x in ROWS]
    assert same(collected(path, Reader(title="head")), expected(rows))


def test_a_file_that_changed(tmp_path, two_processes):
    path = write(tmp_path, json_lines(ROWS))
    with pytest.raises(TroveStepsError, match="shown changed while it was read, or since"):
        collected(path, digest="0" * 64)


def test_a_file_that_changed_after_it_was_planned_with(tmp_path, two_processes, monkeypatch):
    monkeypatch.setattr(fingerprint, "SETTLING_SECONDS", -1.0)
    content = json_lines(ROWS)
    path = write(tmp_path, content)
    digest = Fingerprints(tmp_path / "cache").file(path)
    assert same(collected(path, digest=digest), expected(ROWS))
    path.write_bytes(content.replace(b"word", b"ward", 1))
    with pytest.raises(TroveStepsError, match="shown changed while it was read, or since"):
        collected(path, digest=digest)


@pytest.mark.parametrize("last", [b"", b"{"], ids=["changed", "changed, then unusual"])
@pytest.mark.parametrize("remembered", [True, False])
def test_a_file_that_changes_and_changes_back(
    tmp_path, two_processes, monkeypatch, last, remembered
):
    content = json_lines(ROWS) + last
    path = write(tmp_path, content)
    prints = Fingerprints(tmp_path / "cache")
    monkeypatch.setattr(fingerprint, "SETTLING_SECONDS", -1.0 if remembered else 2.0)
    digest = prints.file(path)
    parts = keyed.keyed_records(path, digest, prints, Reader(), TEMPLATE, "d", "shown")
    next(parts)
    time.sleep(0.02)  # the clock of a file system ticks every 10 ms at worst
    path.write_bytes(content.replace(b"word", b"ward"))
    path.write_bytes(content)
    with pytest.raises(TroveStepsError, match="shown changed while it was read, or since"):
        list(parts)


def test_processes_end_when_nobody_reads_on(tmp_path, two_processes):
    path = write(tmp_path, json_lines(ROWS))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    prints = Fingerprints(tmp_path / "cache")
    parts = keyed.keyed_records(path, digest, prints, Reader(), TEMPLATE, "d")
    before = psutil.Process().children()
    next(parts)
    assert len(psutil.Process().children()) == len(before) + 2
    parts.close()
    assert psutil.Process().children() == before


def test_processes_end_with_the_one_that_is_killed(tmp_path):
    path = write(tmp_path, json_lines(ROWS * 200))
    script = f"""
        import os, time
        from pathlib import Path
        import psutil
        from trove_steps import keyed
        from trove_steps.data import Reader
        from trove_steps.fingerprint import Fingerprints
        os.sched_getaffinity = lambda _: {{0, 1}}
        keyed.PORTION_BYTES = 1 << 22
        prints = Fingerprints("cache")
        parts = keyed.keyed_records(Path({str(path)!r}), "", prints, Reader(), "{{text}}", "d")
        next(parts)
        print(*(child.pid for child in psutil.Process().children()), flush=True)
        time.sleep(600)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        pids = list(map(int, process.stdout.readline().split()))
        assert len(pids) == 2
        process.send_signal(signal.SIGKILL)
    children = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    end = time.monotonic() + 60
    while any(c.is_running() and c.status() != psutil.STATUS_ZOMBIE for c in children):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_process_that_fails_costs_time_only(tmp_path, two_processes, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert same(collected(write(tmp_path, json_lines(ROWS))), expected(ROWS))
    monkeypatch.setattr(sys, "executable", "/no/such/program")
    assert same(collected(write(tmp_path, json_lines(ROWS))), expected(ROWS))


def test_functions_of_the_users_own_are_called_in_this_process(
    tmp_path, two_processes, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_keyed.py").write_text("import os\ndef pid(text): return str(os.getpid())\n")
    _, keys = collected(write(tmp_path, json_lines(ROWS)), form="own_keyed:pid")
    key = hashlib.sha256(str(os.getpid()).encode()).digest()[:16]
    assert set(map(bytes, keys)) == {key}


@fuzz
@given(
    rows=st.lists(
        st.tuples(
            st.from_regex(r"[!-~é漢]{1,5}", fullmatch=True),
            st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
        ),
        min_size=1,
        max_size=6,
    ),
    blank=st.lists(st.sampled_from([b"\n", b" \n", b"\r\n"]), max_size=3),
    size=st.integers(1, 9) | st.integers(10, 200),
)
def test_portions_of_any_size_hold_each_record_once(tmp_path, rows, blank, size):
    lines = json_lines(rows).splitlines(keepends=True)
    content = lines[0] + b"".join(blank) + b"".join(lines[1:])
    path = write(tmp_path, content)
    bounds = portion_bounds(path, Reader(), size)
    found = [
        row
        for start, end in pairwise(bounds)
        for batch in read_portion(path, start, end, Reader())
        for row in zip(batch.ids, batch.titles, batch.texts, strict=True)
    ]
    assert found == records(path) == rows
