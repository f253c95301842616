"""why, plan, cache du | verify | gc | compact and export, on a cache that is filled without a model."""

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.unit.test_plan import raw  # noqa: F401 (a fixture)
from trove_steps import load_embeddings
from trove_steps.cli import main
from trove_steps.commands.plan import SIBLINGS, table
from trove_steps.embeddings.collection import write_collection
from trove_steps.embeddings.store import Store
from trove_steps.embeddings.vectors import Vectors
from trove_steps.files import read_json, write_json
from trove_steps.fingerprint import hash_file
from trove_steps.mine import recorded_options, step_arguments
from trove_steps.mining.pair_scores import write_pair_scores
from trove_steps.plan import Plan
from trove_steps.plan.estimate import CellCost, _texts, earlier_speed
from trove_steps.results import write_record

WIDTH = 8


def encode(plan: Plan, encoding, portions: int = 3) -> Path:
    """Fill the store with vectors that depend on the keys, as an encode step does, in several shards."""
    keys, ids = [], []
    for block, _, names in _texts(encoding):
        keys.append(block)
        ids += names
    keys = np.concatenate(keys)
    store = Store(plan.cache, encoding.encoder)
    for part in np.array_split(keys[~store.find(keys).known], portions):
        if len(part):
            store.write(part, part[:, :WIDTH].astype(np.float32) - 127)
    store.write_recipe(encoding.encoder_recipe)
    column = pa.chunked_array([ids], pa.string())
    return write_collection(
        store, encoding.role, encoding.texts, column, keys, store.find(keys), encoding.texts_recipe
    )


def search(plan: Plan, cell) -> Path:
    manifest = plan.search_manifest(cell, "evaluation")
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.with_suffix(".arrow").write_bytes(b"a ranking")
    digest = hash_file(manifest.with_suffix(".arrow"))
    described = {
        "recipe": cell.search_recipe,
        "arrow_sha256": digest,
        "bytes_per_vector": 4 * WIDTH,
    }
    write_json(manifest, described)
    return manifest


@pytest.fixture
def filled(raw) -> dict:  # noqa: F811
    """A configuration, written to my.yaml, whose cell is encoded and searched."""
    raw["mining"]["exclude_text_twins"] = False  # which would need deeper searches than evaluation
    save(raw)
    plan = Plan(raw)
    for cell in plan.cells.values():
        for encoding in (cell.corpus, cell.queries):
            encode(plan, encoding)
        search(plan, cell)
    return raw


def save(config: dict, name: str = "my.yaml") -> str:
    Path(name).write_text(json.dumps(config))
    return name


def run(capsys, *arguments: str, expect: int = 0) -> str:
    capsys.readouterr()
    code = main(list(arguments))
    printed = capsys.readouterr()
    assert code == expect, printed.err
    return printed.out + printed.err


def stages(capsys, target: str, config: str = "my.yaml") -> dict[str, dict]:
    printed = json.loads(run(capsys, "why", target, "--json", "--configfile", config))
    ((_, listed),) = printed.items()
    return {stage["step"]: stage for stage in listed}


# --- why -----------------------------------------------------------------------------------------


def test_why_names_the_option(filled, capsys):
    before = Plan(filled).encoding_manifest(Plan(filled).cells["tiny", "bert"].corpus)
    filled["models"]["bert"]["passage_max_len"] = 64
    save(filled)
    found = stages(capsys, "tiny/bert")
    corpus = found["encode corpus"]
    assert corpus["state"] == "needed"
    assert corpus["nearest"] == str(before)
    assert corpus["differences"] == [{"field": "passage_max_len", "old": "128", "new": "64"}]
    assert (corpus["rows_to_encode"], corpus["rows"]) == (60, 60)
    assert found["encode queries"]["state"] == "there"
    assert [d["field"] for d in found["search"]["differences"]] == ["corpus encoder: digest"]
    text = run(capsys, "why", "tiny/bert", "--configfile", "my.yaml")
    assert "passage_max_len 128 → 64" in text
    assert "60 of 60 rows to encode" in text


def test_why_names_the_file_of_the_model(filled, capsys):
    weights = Path("model/model.safetensors")
    old = hash_file(weights)
    weights.write_bytes(weights.read_bytes() + b"x")
    text = run(capsys, "why", "tiny/bert", "--configfile", "my.yaml")
    assert f"model.safetensors: digest {old[:8]}… → {hash_file(weights)[:8]}…" in text


def test_why_counts_edited_rows_and_names_the_file(filled, capsys):
    with open("data/corpus.jsonl", "a") as file:
        file.write('{"_id": "new", "title": "", "text": "something else"}\n')
    corpus = stages(capsys, "tiny/bert")["encode corpus"]
    assert (corpus["rows_to_encode"], corpus["rows"]) == (1, 61)
    (difference,) = corpus["differences"]
    assert difference["field"] == "files[1]: digest"
    assert difference["new"].endswith("(corpus.jsonl)")


def test_why_of_a_search_that_is_not_deep_enough(filled, capsys):
    filled["evaluation"]["ir_metrics_k_values"] = [1, 50]
    save(filled)
    found = stages(capsys, "tiny/bert")
    needed = [stage for stage in json.loads(
        run(capsys, "why", "tiny/bert", "--json", "--configfile", "my.yaml"))["tiny/bert"]
        if stage["step"] == "search" and stage["state"] == "needed"]  # fmt: skip
    assert [s["differences"] for s in needed] == [[{"field": "depth", "old": "10", "new": "50"}]]
    assert found["encode corpus"]["state"] == "there"


def test_why_of_files(filled, capsys):
    plan = Plan(filled)
    cell = plan.cells["tiny", "bert"]
    manifest = plan.encoding_manifest(cell.corpus)
    assert list(stages(capsys, str(manifest.with_suffix(".rows.arrow")))) == ["encode corpus"]
    assert "score" in stages(capsys, "results/tiny/bert/metrics.json")
    assert "mine" not in stages(capsys, "results/summary.tsv")
    message = run(capsys, "why", "tiny/brt", "--configfile", "my.yaml", expect=1)
    assert "did you mean 'tiny/bert'?" in message


def mined(config: dict) -> Path:
    """Leave the record that the mine step would."""
    plan = Plan(config)
    (cell,) = plan.cells.values()
    record = plan.mine_record(cell)
    flags = [*plan.mine_flags(), *plan.pair_score_flags(cell)]
    arguments = step_arguments().parse_args(["--search=x", f"--record={record}", *map(str, flags)])
    write_record(record, [], search=cell.search_recipe, qrels=list(cell.data.qrels.digests),
                 options=recorded_options(arguments))  # fmt: skip
    return record


MINING = {
    "num_negatives": 7,
    "search_topk": 30,
    "relative_margin": 0.05,
    "max_score": 1,
    "training_formats": ["triplet", "n-tuple"],
    "exclude_text_twins": False,
    "merge_mined_qrels": False,
}


@pytest.mark.parametrize("options", [{}, {"cross_encoder": "model"}])
def test_a_record_of_mining_has_the_options_of_its_recipe(filled, options):
    filled["mining"] = MINING | options
    record = read_json(mined(filled))
    assert record["options"] == Plan(filled).cells["tiny", "bert"].mining


@pytest.mark.parametrize(
    "change", [("num_negatives", 7, 5), ("relative_margin", 0.05, None), ("seed", None, 3)]
)
def test_why_names_the_one_option_of_mining_that_changed(filled, capsys, change):
    name, old, new = change
    filled["mining"] = MINING
    record = mined(filled)
    filled["mining"] = {**MINING, name: new}
    save(filled)
    mine = stages(capsys, "tiny/bert")["mine"]
    assert mine["nearest"] == str(record)
    shown = ["not set" if value is None else str(value) for value in (old, new)]
    assert mine["differences"] == [{"field": name, "old": shown[0], "new": shown[1]}]


# --- plan ----------------------------------------------------------------------------------------


def test_plan_counts_what_cells_share_once(raw, capsys):  # noqa: F811
    raw["models"]["twin"] = {**raw["models"]["bert"], "passage_format": "{text}"}
    raw["models"]["same"] = dict(raw["models"]["bert"])
    save(raw)
    printed = json.loads(run(capsys, "plan", "--json", "--configfile", "my.yaml"))
    cells = {cell["model"]: cell for cell in printed["cells"]}
    assert cells["bert"]["to_encode"] == 60 + 12
    assert cells["same"]["to_encode"] == 0
    assert cells["same"]["steps"] == ["score", "mine"]
    # Another template makes other strings, in the store of the same encoder.
    assert cells["twin"]["to_encode"] == 60
    assert printed["total"]["to_encode"] == 132
    assert printed["total"]["seconds"] is None  # no job has been recorded


def test_plan_knows_speeds_from_records(filled, capsys):
    plan = Plan(filled)
    directory = plan.encoding_manifest(plan.cells["tiny", "bert"].corpus).parent
    seconds = {"tokenize": 1.0, "forward": 8.0, "write": 1.0, "total": 14.0}
    record = {"tokens": 5000, "seconds": seconds, "finished": "2026"}
    (directory / "records.jsonl").write_text(json.dumps(record) + '\n{"cut o')
    speed = earlier_speed(plan.cache, plan.cells["tiny", "bert"].corpus)
    assert (speed.tokens_per_second, speed.overhead) == (500, 4)
    assert speed.seconds(1000) == 6
    assert "nothing" not in run(capsys, "plan", "--configfile", "my.yaml")


def test_plan_takes_the_speed_of_another_checkpoint(filled, capsys):
    """The weights have the same size: it is the same architecture. Other sizes and lengths say nothing."""
    plan = Plan(filled)
    for encoding in plan.encodings.values():
        seconds = {"forward": 10.0, "total": 14.0}
        record = json.dumps({"tokens": 5000, "seconds": seconds, "finished": "2026"})
        (plan.encoding_manifest(encoding).parent / "records.jsonl").write_text(record)
    shutil.copytree("model", "newer")
    weights = Path("newer/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    filled["models"]["newer"] = {**filled["models"]["bert"], "model_name_or_path": "newer"}

    def speed(**options):
        filled["models"]["newer"] |= options
        return earlier_speed(plan.cache, Plan(filled).cells["tiny", "newer"].corpus)

    found = speed()
    assert (found.tokens_per_second, found.overhead, found.of_siblings) == (500, 4, True)
    assert not earlier_speed(plan.cache, plan.cells["tiny", "bert"].corpus).of_siblings
    save(filled)
    assert speed(passage_max_len=77) is None
    weights.write_bytes(bytes(content) + b"x")
    assert speed(passage_max_len=128) is None


def test_plan_marks_a_time_that_another_checkpoint_took():
    cost = CellCost("d", "m", ["encode corpus"], 10, 10, 100, 1000, 30.0, by_siblings=True)
    lines = table([cost]).splitlines()
    assert lines[1].endswith("30 s*")
    assert lines[2] == SIBLINGS
    assert "*" not in table([replace(cost, by_siblings=False)])


# --- cache ---------------------------------------------------------------------------------------


def test_du(filled, capsys):
    found = json.loads(run(capsys, "cache", "du", "--json", "--configfile", "my.yaml"))
    assert sorted(entry["rows"] for entry in found["encoders"]) == [12, 60]
    names = {(entry["role"], entry["rows"], *entry["datasets"]) for entry in found["collections"]}
    assert names == {("corpus", 60, "tiny"), ("queries", 12, "tiny")}
    assert found["bytes"] == sum(
        p.lstat().st_size for p in Path("cache").rglob("*") if p.is_symlink() or p.is_file()
    )
    filled["models"]["bert"]["truncate_dim"] = [4]
    text = run(capsys, "cache", "du", "--configfile", save(filled))
    assert [line.split()[1] for line in text.splitlines()[1:3]] == ["bert", "bert"]
    for path in Path("cache/embeddings").glob("*/recipe.json"):
        if Store(Path("cache"), path.parent.name).manifests()[0].name.startswith("queries"):
            path.unlink()  # as after an interruption
    text = run(capsys, "cache", "du", "--encoding-cache-dir", "cache")
    assert "  –      interrupted" in text
    assert "mean, 128 tokens, float32" in text
    assert "data/corpus.jsonl" in text


def test_verify_finds_one_flipped_bit_anywhere(filled, capsys):
    assert "all sound" in run(capsys, "cache", "verify", "--configfile", "my.yaml")
    shard = min(Path("cache/embeddings").glob("*/shards/*.arrow"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    text = run(capsys, "cache", "verify", "-n", "--configfile", "my.yaml", expect=1)
    assert shard.name in text
    assert shard.exists()
    text = run(capsys, "cache", "verify", "--configfile", "my.yaml", expect=1)
    assert not shard.exists()
    assert "of its vectors are not in the store; removed" in text  # and the manifest is withdrawn
    assert "all sound" in run(capsys, "cache", "verify", "--configfile", "my.yaml")
    assert stages(capsys, "tiny/bert")["encode corpus"]["state"] in ("needed", "unneeded", "there")


def test_verify_reads_rankings(filled, capsys):
    (ranking,) = Path("cache/searches").glob("*/top10.arrow")
    ranking.write_bytes(b"another")
    run(capsys, "cache", "verify", "--configfile", "my.yaml", expect=1)
    assert not ranking.with_suffix(".json").exists()


@pytest.mark.parametrize("content", ["", "{", "{}", "[]"])
def test_verify_goes_on_behind_a_damaged_manifest(filled, capsys, content):
    (manifest,) = Path("cache/searches").glob("*/top10.json")
    manifest.write_text(content)
    assert manifest.name in run(capsys, "cache", "verify", "--configfile", "my.yaml", expect=1)
    assert not manifest.exists()
    assert "all sound" in run(capsys, "cache", "verify", "--configfile", "my.yaml")


def grow_old() -> None:
    long_ago = time.time() - 30 * 86400
    for path in Path("cache").rglob("*"):
        os.utime(path, (long_ago, long_ago), follow_symlinks=False)


def remaining() -> set[Path]:
    return {p for name in ("embeddings", "searches") for p in Path("cache", name).rglob("*.*")}


def test_gc_spares_what_is_reached_kept_or_young(filled, capsys):
    other = {**filled, "models": {"bert": {**filled["models"]["bert"], "pooling": "first_token"}}}
    save(other, "other.yaml")
    gc = ["cache", "gc", "--configfile", "other.yaml"]
    before = remaining()
    run(capsys, *gc)  # all of it is younger than a day
    assert remaining() == before
    grow_old()
    run(capsys, *gc, "--older-than", "31d")
    run(capsys, "cache", "gc", "--configfile", "my.yaml")
    run(capsys, *gc, "--keep", "my.yaml")
    (manifest,) = Path("cache/searches").glob("*/*.json")
    Path("keep.txt").write_text(f"# a list\n{manifest}\n")
    run(capsys, *gc, "--keep", "keep.txt")
    text = run(capsys, *gc, "--dry-run")
    assert "nothing was removed" in text
    assert remaining() - before <= set(Path("cache").rglob(".maintenance.lock"))
    assert before <= remaining()
    freed = json.loads(run(capsys, *gc, "--json"))
    assert freed["bytes"] > 0
    assert remaining() == set()


def test_gc_keeps_each_row_that_another_collection_has(filled, capsys):
    """One data set goes, another one, with some of its documents, stays."""
    lines = Path("data/corpus.jsonl").read_text().splitlines(keepends=True)
    Path("less.jsonl").write_text("".join(lines[10:35]))
    filled["datasets"] = {"less": {**filled["datasets"]["tiny"], "corpus_path": "less.jsonl"}}
    save(filled, "less.yaml")
    plan = Plan(filled)
    manifest = encode(plan, plan.cells["less", "bert"].corpus)
    expected = load_embeddings(manifest)
    grow_old()
    run(capsys, "cache", "gc", "--configfile", "less.yaml")
    ids, vectors = load_embeddings(manifest)
    assert ids == expected[0]
    np.testing.assert_array_equal(vectors, expected[1])
    assert len(list(manifest.parent.glob("corpus-*.json"))) == 1
    found = json.loads(run(capsys, "cache", "du", "--json", "--configfile", "less.yaml"))
    assert 25 in [entry["rows"] for entry in found["encoders"]]


def test_gc_spares_the_shards_of_an_unfinished_collection(filled, capsys):
    manifest = Plan(filled).encoding_manifest(Plan(filled).cells["tiny", "bert"].corpus)
    manifest.unlink()
    shards = set(manifest.parent.glob("shards/*.arrow"))
    grow_old()
    run(capsys, "cache", "gc", "--configfile", "my.yaml")
    assert shards == set(manifest.parent.glob("shards/*.arrow"))


def test_gc_removes_what_belongs_to_files_that_are_gone(filled, capsys):
    """The place of lines is kept as long as the file is there or the configuration names it."""
    there = hash_file(Path("data/corpus.jsonl"))
    lines = Path("cache/lines")
    lines.mkdir()
    for digest in (there, "0" * 64):
        (lines / f"{digest}-256.npy").touch()
    Path("cache/in", "0" * 64).symlink_to("nowhere")
    grow_old()
    run(capsys, "cache", "gc", "--configfile", "my.yaml")
    assert [path.name for path in lines.iterdir()] == [f"{there}-256.npy"]
    assert not Path("cache/in", "0" * 64).is_symlink()


def test_compact(filled, capsys):
    plan = Plan(filled)
    manifest = plan.encoding_manifest(plan.cells["tiny", "bert"].corpus)
    expected = load_embeddings(manifest)[1]
    run(capsys, "cache", "compact", "-n", "--configfile", "my.yaml")
    assert len(list(manifest.parent.glob("shards/*.arrow"))) == 3
    run(capsys, "cache", "compact", "--configfile", "my.yaml")
    assert len(list(manifest.parent.glob("shards/*.arrow"))) == 1
    np.testing.assert_array_equal(load_embeddings(manifest)[1], expected)


@pytest.mark.parametrize("age", ["1", "d", "-1d", "1y"])
def test_an_age_that_is_none(age, capsys):
    with pytest.raises(SystemExit):
        main(["cache", "gc", f"--older-than={age}"])


# --- export --------------------------------------------------------------------------------------


def read_npy(path):
    return np.load(path), Path(f"{path}.ids.txt").read_text().splitlines()


def read_safetensors(path):
    from safetensors.numpy import load_file

    return load_file(path)["embeddings"], Path(f"{path}.ids.txt").read_text().splitlines()


def read_parquet(path):
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return np.array(table["embedding"].to_pylist(), np.float32), table["id"].to_pylist()


def read_arrow(path):
    table = pa.ipc.open_file(str(path)).read_all()
    assert table.schema.names == ["_id", "value"]
    return np.array(table["value"].to_pylist(), np.float32), table["_id"].to_pylist()


def read_faiss(path):
    faiss = pytest.importorskip("faiss")
    index = faiss.read_index(str(path))
    return index.reconstruct_n(0, index.ntotal), Path(f"{path}.ids.txt").read_text().splitlines()


READERS = {
    "npy": read_npy,
    "safetensors": read_safetensors,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "faiss": read_faiss,
}


@pytest.mark.parametrize("kind", READERS)
def test_every_format_holds_the_same(filled, kind, capsys):
    if kind == "faiss":
        pytest.importorskip("faiss")
    plan = Plan(filled)
    manifest = plan.encoding_manifest(plan.cells["tiny", "bert"].corpus)
    run(capsys, "export", str(manifest), "-o", f"out/v.{kind}")
    vectors, ids = READERS[kind](Path(f"out/v.{kind}"))
    expected = Vectors(manifest)
    assert ids == [f"d{n}" for n in range(60)]
    np.testing.assert_array_equal(vectors, expected.take(np.arange(60)))
    assert read_json(manifest)["rows"] == len(vectors)


def test_export_of_a_variant(filled, capsys):
    filled["models"]["bert"]["truncate_dim"] = [4]
    save(filled)
    run(
        capsys,
        "export",
        "tiny/bert@4",
        "--role",
        "queries",
        "-o",
        "q.npy",
        "--configfile",
        "my.yaml",
    )
    assert np.load("q.npy").shape == (12, 4)
    message = run(capsys, "export", "tiny/brt", "-o", "q.npy", "--configfile", "my.yaml", expect=1)
    assert "cells: tiny/bert" in message
    message = run(capsys, "export", "data/corpus.jsonl", "-o", "q.npy", expect=1)
    assert message.startswith("error: data/corpus.jsonl is not the manifest of a collection")


def test_an_export_that_fails_leaves_nothing(filled, capsys):
    (manifest,) = Path("cache/embeddings").glob("*/corpus-*.json")
    for shard in manifest.parent.glob("shards/*.arrow"):
        shard.unlink()
    run(capsys, "export", str(manifest), "-o", "out/v.npy", expect=1)
    assert not list(Path("out").glob("*"))


def test_copies_of_data_sets_that_were_fetched(filled, capsys):
    """Those of the Hub and of ir_datasets are counted, and go when no configuration reads them."""
    folders = [Path("cache/imported/datasets/a/0.0.0/f00"), Path("cache/imported") / ("b" * 32)]
    for folder in folders:
        folder.mkdir(parents=True)
        shutil.copy("data/corpus.jsonl", folder / "corpus.jsonl")
    (Path("cache/imported/datasets") / "a.lock").touch()
    size = (folders[0] / "corpus.jsonl").stat().st_size
    used = json.loads(run(capsys, "cache", "du", "--json", "--configfile", "my.yaml"))
    assert used["parts"]["imported"] == 2 * size
    filled["datasets"]["tiny"]["corpus_path"] = str(folders[0] / "corpus.jsonl")
    save(filled)
    collect = "cache", "gc", "--older-than", "0s", "--json", "--configfile", "my.yaml"
    found = json.loads(run(capsys, *collect))["items"]
    assert [item["path"] for item in found if item["what"] == "copy of a data set"] == [
        str(folders[1])
    ]
    assert [folder.exists() for folder in folders] == [True, False]


def test_scores_of_pairs_are_verified_and_cleared(filled, capsys):
    config = "--configfile", "my.yaml"
    folder = Path("cache/pair_scores") / ("c" * 32)
    manifest = folder / f"{'a' * 32}.json"
    write_pair_scores(manifest, np.array([0]), np.array([1]), np.array([0.5]), documents=60)
    run(capsys, "cache", "verify", *config)
    Path("keep.txt").write_text(f"{manifest}\n")
    run(capsys, "cache", "gc", *config, "--keep", "keep.txt", "--older-than", "0s")
    assert manifest.exists()
    with open(manifest.with_suffix(".arrow"), "r+b") as file:
        file.write(b"damaged")
    assert "does not have the hash" in run(capsys, "cache", "verify", *config, expect=1)
    assert not manifest.exists()
    run(capsys, "cache", "gc", *config, "--older-than", "0s")
    assert not folder.exists()
