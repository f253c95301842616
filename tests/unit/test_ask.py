"""`trove-steps ask` and `show query`: what they print, what they say when something is not there."""

import argparse
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.conftest import PROJECT, make_dataset
from tests.unit.test_filled_cache import save
from trove_steps import load_embeddings, load_ranking
from trove_steps.ask import find_cell
from trove_steps.cli import main
from trove_steps.commands.planning import positive
from trove_steps.distributed import Comm
from trove_steps.embeddings.paths import dropped_mark
from trove_steps.encoding.job import Job
from trove_steps.encoding.run import run as run_encoding
from trove_steps.errors import TroveStepsError
from trove_steps.plan import Plan
from trove_steps.search import run as run_search

OPTIONS = ["--configfile", "my.yaml"]


def searched(config: dict) -> Plan:
    """Encode and search every cell of a configuration, as the steps do."""
    plan = Plan(config)
    for one in plan.encodings.values():
        settings = one.model.settings
        job = Job(
            one.role, list(one.links), list(one.digests), one.model.folder, one.model.name, settings,
            plan.cache, None, plan.encoding_manifest(one),
        )  # fmt: skip
        run_encoding(job, Comm())
    for cell in plan.cells.values():
        arguments = argparse.Namespace(
            query_embeddings=plan.encoding_manifest(cell.queries),
            corpus_embeddings=plan.encoding_manifest(cell.corpus),
            output=plan.search_manifest(cell, "evaluation"),
            similarity="dot", exclude_identical_ids=False, truncate_dim=None, normalize=False,
            quantization=None, depth=10, per_device_matmul_batch_size=None, candidate_pass="auto",
        )  # fmt: skip
        run_search(arguments, Comm())
    return plan


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory) -> Path:
    """A folder with my.yaml, whose cell is encoded and searched ten deep."""
    folder = tmp_path_factory.mktemp("ask")
    make_dataset(folder / "data")
    qrels = folder / "data" / "qrels.tsv"
    more = "".join(f"q1\td{n}\t1\n" for n in range(60) if f"q1\td{n}\t" not in qrels.read_text())
    qrels.write_text(qrels.read_text() + more)
    files = {"corpus": "corpus.jsonl", "query": "queries.jsonl", "qrel": "qrels.tsv"}
    config = {
        "datasets": {"tiny": {f"{role}_path": f"data/{name}" for role, name in files.items()}},
        "models": {"bert": {"model_name_or_path": str(tiny_model), "pooling": "mean"}},
        "evaluation": {"ir_metrics_k_values": [10]},
    }
    before = os.getcwd()
    os.chdir(folder)
    try:
        save(config)
        searched(config)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(folder, monkeypatch, capsys) -> Path:
    monkeypatch.chdir(folder)
    return folder


def records(name: str) -> dict[str, dict]:
    lines = Path("data", name).read_text().splitlines()
    return {record["_id"]: record for record in map(json.loads, lines)}


def test_a_line_for_each_document(here, capsys):
    query, corpus = records("queries.jsonl")["q0"]["text"], records("corpus.jsonl")
    assert main(["ask", query, *OPTIONS, "--top", "3", "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["documents"]
    assert main(["ask", *query.split(), *OPTIONS, "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(answers) == 3
    for rank, (line, answer) in enumerate(zip(lines, answers, strict=True), start=1):
        document = corpus[answer["id"]]
        assert answer["text"] == f"{document['title']} {document['text']}"
        shown = line.split()
        assert shown[:3] == [str(rank), f"{answer['score']:.4f}", answer["id"]]
        assert answer["text"].startswith(" ".join(shown[3:]).rstrip("…"))


def test_a_name_is_no_query(here, capsys):
    assert main(["ask", "tiny/bert", "wing", *OPTIONS]) == 1
    assert "name it by --dataset tiny --model bert" in capsys.readouterr().err


def test_queries_of_standard_input(here, capsys, monkeypatch):
    """One answer per line; blank lines are passed over; nothing is asked for where nobody types."""
    lines = iter(["wing flow\n", "\n", " heat \n", ""])
    typed = SimpleNamespace(isatty=lambda: False, readline=lambda: next(lines))
    monkeypatch.setattr(sys, "stdin", typed)
    assert main(["ask", *OPTIONS, "--top", "2", "--json"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["query"] for one in printed] == ["wing flow", "heat"]
    assert [len(one["documents"]) for one in printed] == [2, 2]


def command(*arguments: str, **options) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"}
    program = [sys.executable, "-m", "trove_steps.cli", *arguments]
    return subprocess.Popen(program, env=environment, stderr=subprocess.PIPE, text=True, **options)


def test_ctrl_c_at_the_prompt(here):
    fd, screen = pty.openpty()
    process = command("ask", *OPTIONS, stdin=screen, stdout=screen)
    os.close(screen)
    assert read_until(fd, b"query (Ctrl-D ends): ")
    time.sleep(1)  # a signal just before input() begins to read would wait for a key
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.stderr.read().strip() == ""
    os.close(fd)


def read_until(fd: int, text: bytes) -> bool:
    seen = b""
    while text not in seen:
        block = os.read(fd, 4096)
        if not block:
            return False
        seen += block
    return True


def test_a_reader_that_leaves(here):
    """`| head -1`"""
    process = command("show", "query", "q1", *OPTIONS, stdout=subprocess.PIPE)
    process.stdout.close()
    assert process.wait(60) == 128 + signal.SIGPIPE
    assert process.stderr.read() == ""


def test_show_query_for_people(here, capsys):
    assert main(["show", "query", "q1", *OPTIONS, "--top", "4"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == f"tiny/bert: {records('queries.jsonl')['q1']['text']}"
    assert [line.split()[0] for line in lines[:4]] == ["1", "2", "3", "4"]
    assert len([line for line in lines if "✓" in line or "✗" in line]) <= 4 + 4 + 1
    relevant = int(lines[-2].split()[0])
    assert relevant > 50
    above = sum("✓" in line for line in lines[:4])
    assert f"… and {relevant - above - 4} more relevant documents" in lines[-3]
    assert main(["show", "query", "q1", *OPTIONS, "--top", "100", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["more_missed"] == 0
    assert len(found["documents"]) == found["depth"] == 10
    assert found["found"] + len(found["missed"]) == found["relevant"] == relevant


def test_a_query_by_one_model(here, capsys):
    assert main(["show", "query", "q1", *OPTIONS, "--json"]) == 0
    everything = capsys.readouterr().out
    chosen = ["--dataset", "tiny", "--model"]
    assert main(["show", "query", "q1", *OPTIONS, *chosen, "bert", "--json"]) == 0
    assert capsys.readouterr().out == everything
    assert main(["show", "query", "q1", *OPTIONS, *chosen, "brt"]) == 1
    assert "--model brt: the configuration has bert for tiny" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", ""])
@pytest.mark.parametrize("words", [["ask", "wing"], ["show", "query", "q1"]])
def test_top(here, capsys, words, text):
    with pytest.raises(SystemExit):
        main([*words, *OPTIONS, f"--top={text}"])
    assert f"--top: {text!r} is not a whole number from 1 on" in capsys.readouterr().err


def test_positive():
    assert positive("12") == 12


CELLS = {
    (name, model): SimpleNamespace(dataset=name, model=model)
    for name, model in [("a", "m"), ("a", "n"), ("b", "m")]
}
PLAN = SimpleNamespace(pairs=list(CELLS), cells=CELLS)


@pytest.mark.parametrize(
    ("dataset", "model", "message"),
    [
        (None, "m", "--dataset: which one? The configuration has a, b"),
        ("a", None, "--model: which one? The configuration has m, n"),
        ("c", "m", "--dataset c: the configuration has a, b"),
        ("a", "o", "--model o: the configuration has m, n"),
        ("b", "n", "pairs: the configuration does not run n on b"),
    ],
)
def test_cells_that_are_not_there(dataset, model, message):
    with pytest.raises(TroveStepsError) as error:
        find_cell(PLAN, dataset, model)
    assert str(error.value) == message


def test_find_cell():
    assert find_cell(PLAN, "b", "m") is CELLS["b", "m"]
    only = SimpleNamespace(pairs=[("a", "m")], cells={("a", "m"): CELLS["a", "m"]})
    assert find_cell(only, None, None) is CELLS["a", "m"]


def test_nothing_is_encoded_yet(here, capsys):
    config = json.loads(Path("my.yaml").read_text())
    save(config | {"encoding_cache_dir": "empty"}, "empty.yaml")
    assert main(["ask", "wing", "--configfile", "empty.yaml"]) == 1
    assert "is missing: run `snakemake encode`" in capsys.readouterr().err
    assert main(["show", "query", "q1", "--configfile", "empty.yaml"]) == 1
    assert "nothing has been searched yet" in capsys.readouterr().err


def test_vectors_that_were_dropped(here, capsys):
    plan = Plan(json.loads(Path("my.yaml").read_text()))
    manifest = plan.encoding_manifest(plan.cells["tiny", "bert"].corpus)
    mark = dropped_mark(manifest)
    mark.touch()
    try:
        assert main(["ask", "wing", *OPTIONS]) == 1
    finally:
        mark.unlink()
    error = capsys.readouterr().err
    assert f"the vectors of {manifest} were removed after the search" in error
    assert f"delete it and {mark}, set keep_embeddings: true and run `snakemake encode`" in error


def test_queries_from_elsewhere(here, capsys):
    import numpy as np

    config = json.loads(Path("my.yaml").read_text())
    np.save("q.npy", np.ones((12, 32), np.float32))
    config["datasets"]["tiny"]["query_embeddings"] = "q.npy"
    save(config, "imported.yaml")
    assert main(["ask", "wing", "--configfile", "imported.yaml"]) == 1
    assert "its queries were encoded elsewhere (query_embeddings)" in capsys.readouterr().err


# --- vectors and rankings by name ----------------------------------------------------------------


@pytest.mark.parametrize("role", ["corpus", "queries"])
def test_vectors_by_name(here, role):
    cell = Plan(json.loads(Path("my.yaml").read_text())).cells["tiny", "bert"]
    manifest = Plan(json.loads(Path("my.yaml").read_text())).encoding_manifest(getattr(cell, role))
    ids, vectors = load_embeddings("tiny/bert", role=role, configfile="my.yaml")
    expected_ids, expected = load_embeddings(manifest)
    assert ids == expected_ids == list(records(f"{role}.jsonl"))
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, expected)


def test_a_ranking_by_name(here):
    (manifest,) = Path("cache/searches").glob("*/top*.json")
    frame = load_ranking("tiny/bert", configfile=["my.yaml"])
    assert frame.equals(load_ranking(manifest))
    assert list(frame.columns) == ["query", "document", "rank", "score"]


def test_certify_and_export_run_by_name(here, capsys, tmp_path):
    assert main(["certify", "tiny/bert", *OPTIONS]) == 0
    assert capsys.readouterr().out.endswith("\ncertified\n")
    (manifest,) = Path("cache/searches").glob("*/top*.json")
    assert main(["export-run", str(manifest), str(tmp_path / "expected")]) == 0
    os.chdir(tmp_path)  # the run file is named from here, the search from --directory
    named = ["--configfile", str(here / "my.yaml"), "--directory", str(here)]
    assert main(["export-run", "tiny/bert", "run", *named]) == 0
    assert (tmp_path / "run").read_bytes() == (tmp_path / "expected").read_bytes()


def test_names_of_nothing(here, tmp_path):
    for load, known in ((load_embeddings, "embeddings"), (load_ranking, "searches")):
        with pytest.raises(TroveStepsError, match=f"cache/{known}.* nor a cell; cells: tiny/bert$"):
            load("tiny/other", configfile="my.yaml")
        with pytest.raises(TroveStepsError, match=r"^my\.yaml is not the manifest"):
            load("my.yaml", configfile="my.yaml")
        with pytest.raises(
            TroveStepsError, match=r"the configuration config/config\.yaml can't be"
        ):
            load("tiny/bert")
    with pytest.raises(TroveStepsError, match="role: 'passages' is neither 'corpus' nor"):
        load_embeddings("tiny/bert", role="passages", configfile="my.yaml")
    config = json.loads(Path("my.yaml").read_text()) | {"encoding_cache_dir": str(tmp_path)}
    (tmp_path / "new.yaml").write_text(json.dumps(config))
    with pytest.raises(TroveStepsError, match=r"corpus-.* is missing: run `snakemake encode`"):
        load_embeddings("tiny/bert", configfile=tmp_path / "new.yaml")
    with pytest.raises(TroveStepsError, match="tiny/bert: not searched yet"):
        load_ranking("tiny/bert", configfile=tmp_path / "new.yaml")
