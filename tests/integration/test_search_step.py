"""The search step as a program: the same bytes however it is run, and the run file made from it."""

import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.conftest import PROJECT
from trove_steps.cli import main
from trove_steps.embeddings.collection import write_collection
from trove_steps.embeddings.store import Store
from trove_steps.embeddings.vectors import Vectors
from trove_steps.keys import recipe_key, search_recipe
from trove_steps.search import read_ranking

DIM, DEPTH = 24, 20
DOCUMENTS, QUERIES = 3000, 70
ENCODER, TEXTS = "e" * 32, "7" * 32


def write_vectors(
    cache: Path, role: str, vectors: np.ndarray, shards: int, shuffled: bool, ids=None
) -> Path:
    """Keep vectors in a store that was filled in `shards` portions, in file order or in another.

    `ids` are chunks of ids: by default one chunk of the role's first letter with the row's number."""
    store = Store(cache, ENCODER)
    prefix = role[0].encode()
    keys = np.stack(
        [
            np.frombuffer(hashlib.sha256(prefix + b"%d" % row).digest()[:16], np.uint8)
            for row in range(len(vectors))
        ]
    )
    order = np.arange(len(vectors))
    if shuffled:
        np.random.default_rng(1).shuffle(order)
    for part in np.array_split(order, shards):
        store.write(keys[part], vectors[part])
    ids = pa.chunked_array(ids or [[f"{role[0]}{row}" for row in range(len(vectors))]])
    return write_collection(store, role, TEXTS, ids, keys, store.find(keys), {"kind": "texts"})


def make_cache(cache: Path, shards: int = 1, shuffled: bool = False) -> list[str]:
    """Return the flags of the search step; documents 100 to 119 are 20 equal vectors."""
    chance = np.random.default_rng(0)
    documents = chance.standard_normal((DOCUMENTS, DIM)).astype(np.float32)
    documents[100:120] = documents[100]
    queries = chance.standard_normal((QUERIES, DIM)).astype(np.float32)
    queries[0] = documents[100]
    return [
        *("--query-embeddings", str(write_vectors(cache, "queries", queries, 1, False))),
        *("--corpus-embeddings", str(write_vectors(cache, "corpus", documents, shards, shuffled))),
    ]


def search(folder: Path, flags: list[str], world: int = 1, *more: str) -> Path:
    """Run the step by torchrun with `world` processes; return the manifest."""
    identity = {"encoder": ENCODER, "texts": TEXTS}
    rules = "cosine" if "cosine" in more else "dot", "--exclude-identical-ids" in more
    key = recipe_key(search_recipe(identity, identity, *rules))
    output = folder / f"searches/{key}/top{DEPTH}.json"
    command = [sys.executable, "-m", "trove_steps.torchrun", "--nproc-per-node", str(world)]
    command += ["-m", "trove_steps.search", *flags, "--depth", str(DEPTH), *more]
    subprocess.run(
        [*command, "--output", str(output)],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    return output


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """A search by one process in one go."""
    cache = tmp_path_factory.mktemp("alone")
    return search(cache, make_cache(cache))


def files(manifest: Path) -> list[bytes]:
    return [manifest.read_bytes(), manifest.with_suffix(".arrow").read_bytes()]


@pytest.mark.parametrize(
    ("world", "shards", "more"),
    [
        pytest.param(2, 7, ["--per-device-matmul-batch-size", "100"], id="2 ranks, 7 shards"),
        pytest.param(
            3, 1, ["--candidate-pass", "bfloat16"], id="3 ranks, bfloat16", marks=pytest.mark.slow
        ),
        pytest.param(
            4, 40, ["--candidate-pass", "float32"], id="4 ranks, 40 shards", marks=pytest.mark.slow
        ),
        pytest.param(1, 3, ["--candidate-pass", "int8"], id="int8", marks=pytest.mark.slow),
    ],
)
def test_bytes_do_not_depend_on_how_it_is_run(alone, tmp_path, world, shards, more):
    if "int8" in more:
        pytest.importorskip("numba")
    flags = make_cache(tmp_path, shards, shuffled=True)
    assert files(search(tmp_path, flags, world, *more)) == files(alone)


def test_the_manifest_says_how_large_a_stored_vector_is(alone):
    assert json.loads(alone.read_text())["bytes_per_vector"] == 4 * DIM


def test_the_run_file_is_that_of_the_search(alone, tmp_path, capsys):
    ranking = read_ranking(alone, alone.parent.parent.parent)
    plain, packed = tmp_path / "run.trec", tmp_path / "run.trec.gz"
    assert main(["export-run", str(alone), str(plain)]) == 0
    assert main(["export-run", str(alone), str(packed), "--depth", "3", "--tag", "mine"]) == 0
    assert "70 queries, 1,400 rows" in capsys.readouterr().out
    rows = [line.split(" ") for line in plain.read_text().splitlines()]
    assert [row[0] for row in rows] == [f"q{n}" for n in range(QUERIES) for _ in range(DEPTH)]
    # Ties of the 20 equal documents go by id as text, descending.
    assert [row[2] for row in rows[:DEPTH]] == sorted(
        (f"c{n}" for n in range(100, 120)), reverse=True
    )
    assert [row[2] for row in rows] == [ranking.doc_ids[int(doc)].as_py() for doc in ranking.docs]
    short = gzip.decompress(packed.read_bytes()).decode().splitlines()
    assert [line.split(" ")[:4] for line in short] == [row[:4] for row in rows if int(row[3]) <= 3]
    assert {line.split(" ")[5] for line in short} == {"mine"}


def test_pandas_as_the_documentation_has_it(tmp_path):
    """Also with ids that pandas would take for missing values, numbers or quotes."""
    chance = np.random.default_rng(6)
    doc_ids = ["NA", "null", "nan", "007", "1e5", 'a"b', '"', "#1", "True", "ä", "10", "9"]
    query_ids = ["nan", "1", '"q"', "N/A"]
    manifests = {
        role: write_vectors(
            tmp_path, role, chance.standard_normal((len(ids), 4)).astype("f4"), 1, False, [ids]
        )
        for role, ids in {"corpus": doc_ids, "queries": query_ids}.items()
    }
    manifest = search(
        tmp_path,
        [
            f"--query-embeddings={manifests['queries']}",
            f"--corpus-embeddings={manifests['corpus']}",
        ],
    )
    run_file = tmp_path / "run.trec.gz"
    assert main(["export-run", str(manifest), str(run_file)]) == 0
    page = (PROJECT / "docs/results.md").read_text()
    loaded, read = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    loaded = loaded.replace("scifact/minilm", str(manifest))  # a manifest needs no configuration
    read = read.replace("results/scifact/minilm/run.trec.gz", str(run_file))
    frames = []
    for code in (loaded, read):
        names: dict = {}
        exec(code, names)
        frames.append(names["run"])
    run, trec = frames
    assert list(run.columns) == ["query", "document", "rank", "score"]
    ranking = read_ranking(manifest, tmp_path)
    assert run["query"].tolist() == [name for name in query_ids for _ in doc_ids]
    assert run["document"].tolist() == [doc_ids[doc] for doc in ranking.docs]
    assert run["rank"].tolist() == [*range(1, len(doc_ids) + 1)] * len(query_ids)
    np.testing.assert_array_equal(run["score"], ranking.scores)
    for column in ("query", "document", "rank"):
        assert trec[column].tolist() == run[column].tolist()
    arrow = pd.read_feather(manifest.with_suffix(".arrow"))
    ids = pd.read_feather(manifests["corpus"].with_suffix(".rows.arrow"))["id"]
    assert ids[arrow["document"]].tolist() == run["document"].tolist()


def test_run_file_mistakes(alone, tmp_path, capsys):
    assert main(["export-run", str(alone), str(tmp_path / "x"), "--depth", "0"]) == 1
    assert "--depth: 0" in capsys.readouterr().err
    assert main(["export-run", str(tmp_path / "top5.json"), str(tmp_path / "x")]) == 1
    assert "is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("world", "rules"),
    [
        (2, ["--exclude-identical-ids"]),
        (1, ["--similarity", "cosine"]),
        (1, ["--similarity", "cosine", "--exclude-identical-ids"]),
    ],
    ids=["identical ids", "cosine", "both"],
)
def test_rules_against_brute_force(tmp_path, capsys, world, rules):
    """Queries that are documents too, under the same ids; ids lie in several chunks."""
    chance = np.random.default_rng(5)
    documents = chance.standard_normal((900, DIM)).astype(np.float32)
    documents *= chance.uniform(0.1, 10, (900, 1)).astype(np.float32)
    doc_ids = [f"c{row}" for row in range(900)]
    own = chance.permutation(900)[:40]  # the document that each query is
    queries = documents[own]
    query_ids = [doc_ids[row] for row in own]
    query_ids[3], query_ids[20] = "stranger", ""  # texts that stand in the corpus under another id
    flags = [
        "--query-embeddings",
        str(
            write_vectors(
                tmp_path, "queries", queries, 1, False, [query_ids[:30], [], query_ids[30:]]
            )
        ),
        "--corpus-embeddings",
        str(
            write_vectors(
                tmp_path, "corpus", documents, 3, True, [doc_ids[:1], doc_ids[1:500], doc_ids[500:]]
            )
        ),
    ]
    manifest = search(tmp_path, flags, world, *rules)
    scores = queries.astype(np.float64) @ documents.astype(np.float64).T
    if "cosine" in rules:
        scores /= np.linalg.norm(queries.astype(np.float64), axis=1)[:, None]
        scores /= np.linalg.norm(documents.astype(np.float64), axis=1)
    if "--exclude-identical-ids" in rules:
        for query, name in enumerate(query_ids):
            if name in doc_ids:
                scores[query, doc_ids.index(name)] = -np.inf
    order = np.argsort(-scores, axis=1)[:, :DEPTH]
    expected = np.take_along_axis(scores, order, axis=1)
    assert -np.diff(expected).max() > 1e-6  # so that lengths of 1 in float32 change no order
    ranking = read_ranking(manifest, tmp_path)
    np.testing.assert_array_equal(ranking.docs.reshape(40, DEPTH), order)
    np.testing.assert_allclose(ranking.scores.reshape(40, DEPTH), expected, rtol=1e-6)
    assert main(["certify", str(manifest)]) == 0
    assert capsys.readouterr().out.endswith("\ncertified\n")


def test_a_search_that_lost_rows_is_not_certified(alone, tmp_path, capsys):
    """Also where its files agree with each other."""
    cache = alone.parent.parent.parent
    copy = tmp_path / "searches/x" / alone.name
    copy.parent.mkdir(parents=True)
    table = pa.ipc.open_file(str(alone.with_suffix(".arrow"))).read_all()
    lost = np.ones(len(table), bool)
    lost[5 * DEPTH + 7 : 6 * DEPTH] = False  # of query 5
    with pa.ipc.new_file(str(copy.with_suffix(".arrow")), table.schema) as writer:
        writer.write_table(table.filter(pa.array(lost)))
    content = json.loads(alone.read_text())
    content["arrow_sha256"] = hashlib.sha256(copy.with_suffix(".arrow").read_bytes()).hexdigest()
    copy.write_text(json.dumps(content))
    more = ["--queries", str(QUERIES), "--encoding-cache-dir", str(cache)]
    assert main(["certify", str(alone), *more]) == 0
    assert main(["certify", str(copy), *more]) == 1
    out = capsys.readouterr().out
    assert out.endswith("not certified: q5: 7 results instead of 20\nNOT certified\n")


@pytest.mark.parametrize("world", [1, 2])
def test_vectors_that_changed_on_the_disk_are_not_searched(tmp_path, capfd, world):
    """Arrow opens such a shard without complaint."""
    flags = make_cache(tmp_path, shards=3)
    shard = Vectors(flags[3]).shard_paths()[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    shard.write_bytes(content)
    with pytest.raises(subprocess.CalledProcessError):
        search(tmp_path, flags, world)
    said = capfd.readouterr().err
    assert "its bytes are not those that were written" in said
    assert "Traceback" not in said
    assert not Path(flags[3]).exists()  # so that the next run encodes what is lost
    assert shard.with_suffix(".damaged").exists()
    assert not list(tmp_path.rglob("top*"))
