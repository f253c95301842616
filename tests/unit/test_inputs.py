"""From the options of a data set to files and keys, and from several collections to one set of judgments."""

import bz2
import glob
import gzip
import json
import lzma
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import make_dataset, make_model, write_jsonl
from trove_steps.config.loading import load_config
from trove_steps.data import format_text, load_qrels, read_records, reader_of
from trove_steps.data.checks import check_data
from trove_steps.data.collections import Files, merge_collections
from trove_steps.data.namespaces import Namespaces, named
from trove_steps.data.remote import fetch_data, globbed
from trove_steps.errors import TroveStepsError
from trove_steps.files import write_json
from trove_steps.fingerprint import Fingerprints
from trove_steps.inputs import Inputs, named_data
from trove_steps.plan import Plan

MODELS = {"m": {"model_name_or_path": "x"}}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "data")
    return tmp_path


def resolved(evaluated: bool = False, mined: bool = False, **options):
    """Resolve a data set; what it takes from elsewhere is fetched first, as snakemake does."""
    given = load_config({"datasets": {"d": options}, "models": MODELS})["datasets"]["d"]
    for data in named_data("d", given):
        if not data.is_here(Path("cache")):
            write_json(Path("cache/fetched", f"{data.name}.json"), fetch_data(data, Path("cache")))
    return Inputs(Fingerprints(Path("cache")), evaluated, mined).dataset("d", given)


def message_of(**options) -> str:
    with pytest.raises(TroveStepsError) as raised:
        resolved(**options)
    return str(raised.value)


def checked(**options) -> dict:
    return check_data(resolved(**options).checked, Path("cache/in"))


PLAIN = {"corpus_path": "data/corpus.jsonl", "query_path": "data/queries.jsonl"}
JUDGED = {**PLAIN, "qrel_path": "data/qrels.tsv"}


# --- sources --------------------------------------------------------------------------------------


def test_a_plain_data_set_has_digests_and_nothing_else():
    found = resolved(**JUDGED)
    assert found.corpus.readers == ({},)
    assert found.qrels.collections is None
    assert found.qrels.identity == list(found.qrels.digests)


def test_patterns_stand_for_files_in_the_order_of_their_names():
    for name in ("b", "a", "c"):
        write_jsonl(Path(f"parts/{name}.jsonl"), [{"_id": name, "text": name}])
    assert resolved(corpus_path="parts/*.jsonl", query_path="parts/[ab].jsonl").corpus.paths == (
        "parts/a.jsonl", "parts/b.jsonl", "parts/c.jsonl"
    )  # fmt: skip
    message = message_of(corpus_path="parts/*.tsv", query_path="parts/a.jsonl")
    assert message.startswith("datasets.d.corpus_path: no file matches 'parts/*.tsv'")
    Path("parts/[x].jsonl").write_text('{"_id": "x", "text": ""}')
    found = resolved(corpus_path="parts/[x].jsonl", query_path="parts/a.jsonl")
    assert found.corpus.paths == ("parts/[x].jsonl",)


PACKED = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}


def test_a_folder_in_beirs_layout(folder):
    Path("beir/qrels").mkdir(parents=True)
    Path("beir/corpus.jsonl.gz").write_bytes(gzip.compress(Path("data/corpus.jsonl").read_bytes()))
    Path("data/queries.jsonl").rename("beir/queries.jsonl")
    Path("data/qrels.tsv").rename("beir/qrels/test.tsv")
    found = resolved(beir="beir")
    assert found.corpus.paths == ("beir/corpus.jsonl.gz",)
    assert found.qrels.paths == ("beir/qrels/test.tsv",)
    assert message_of(beir="beir", split="dev") == (
        "datasets.d.beir: the file 'beir/qrels/dev.tsv' does not exist; there are the splits test"
    )
    assert "no folder 'nothing'" in message_of(beir="nothing")
    for left_over in (
        "corpus.jsonl.bak",
        "corpus.jsonl.gz.tmp",
        "queries.jsonl~",
        "qrels/test.tsv.orig",
    ):
        Path("beir", left_over).write_text("rubbish")
    assert resolved(beir="beir").description == found.description
    Path("beir/queries.jsonl").rename("beir/queries.jsonl.old")
    assert "the file 'beir/queries.jsonl' does not exist" in message_of(beir="beir")


@pytest.mark.parametrize("ending", list(PACKED))
def test_compressed_judgments_of_a_beir_folder(ending):
    Path("data/qrels").mkdir()
    judged = Path("data/qrels.tsv").read_bytes()
    Path(f"data/qrels/dev.tsv{ending}").write_bytes(PACKED[ending](judged))
    found = checked(beir="data", split="dev")["qrels"]
    assert found["judgments"] == judged.count(b"\n") - 1
    assert found["collections"][0]["formats"][0].startswith("TSV with header, ")


ROWS = [("7", "A", "one text"), ("8", "B", "another")]


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv", "parquet"])
def test_names_of_fields(folder, form):
    names = ("pid", "heading", "contents", "text", "id")
    rows = [(*row, "no", "wrong") for row in ROWS]
    path = Path(f"own.{form}")
    if form == "jsonl":
        write_jsonl(path, [dict(zip(names, row, strict=True)) for row in rows])
    elif form == "parquet":
        columns = zip(*rows, strict=True)
        pq.write_table(pa.table(dict(zip(names, map(list, columns), strict=True))), path)
    else:
        mark = "," if form == "csv" else "\t"
        path.write_text("\n".join(mark.join(row) for row in [names, *rows]) + "\n")
    fields = {"id": "pid", "title": "heading", "text": "contents"}
    (batch,) = read_records(path, reader=reader_of(fields))
    assert list(zip(batch.ids, batch.titles, batch.texts, strict=True)) == ROWS
    for field in fields:
        with pytest.raises(TroveStepsError, match="'gone'"):
            list(read_records(path, reader=reader_of({**fields, field: "gone"})))


LOADERS = """
import gzip, json

def records(path):
    assert path.endswith(".txt")
    for number, line in enumerate(open(path)):
        yield {"_id": f"n{number}", "text": line.strip()}

def triplets(path):
    return [("q1", "d1", 1), ("q2", "d2", 0.5)]

def mappings(path):
    return [{"qid": "q1", "docid": ["d1", "d2"], "score": [1, 2]}, {"qid": "q2", "docid": "d1", "score": 3}]

def nested(path):
    return {"q1": {"d1": 1}}

def broken(path):
    raise OSError("the disk sank")

def no_ids(path):
    return [{"text": "a"}]

def texts(path):
    return ["a", "b"]

def bad_score(path):
    return [("q1", "d1", "high")]

def half_an_id(path):
    return [("q1", "d\\ud800", 1)]

def not_finite(path):
    return [("q1", "d1", float("nan"))]

def of_numpy(path):
    import numpy as np
    return [(np.str_("q1"), np.int64(7), np.float32(0.5))]

def records_of_numpy(path):
    import numpy as np
    return [{"_id": np.int64(7), "text": np.str_("seven"), "title": None}]

def half_a_character(path):
    return [{"_id": "a", "text": "good"}, {"_id": "b", "text": "bad \\udfff"}]

def half_a_record_id(path):
    return [{"_id": "a\\udfff", "text": "good"}]

def from_beside(path):
    import beside_own_loaders
    return beside_own_loaders.JUDGED
"""


def test_own_loaders(folder):
    Path("own_loaders.py").write_text(LOADERS)
    Path("lines.txt").write_text("first\nsecond\n")
    (batch,) = read_records("lines.txt", reader=reader_of({"loader": "own_loaders:records"}))
    assert (batch.ids, batch.texts) == (["n0", "n1"], ["first", "second"])

    def judged(loader):
        collection = {"qrels": [0], "subset": [], "options": {"loader": f"own_loaders:{loader}"}}
        merged = merge_collections([collection], Files(["lines.txt"]))
        assert merged.collections[0]["formats"] == [f"own_loaders:{loader}"]
        return [tuple(row.values()) for row in merged.table.to_pylist()]

    assert judged("triplets") == [("q1", "d1", 1.0), ("q2", "d2", 0.5)]
    assert judged("mappings") == [("q1", "d1", 1), ("q1", "d2", 2), ("q2", "d1", 3)]
    assert judged("nested") == [("q1", "d1", 1)]
    with pytest.raises(TroveStepsError, match=r"own_loaders:broken failed at .*the disk sank"):
        judged("broken")
    with pytest.raises(TroveStepsError, match=r"lines.txt, read by .*'high' is not a number"):
        judged("bad_score")
    with pytest.raises(TroveStepsError, match=r"lines.txt, read by .*score nan is not a finite"):
        judged("not_finite")
    with pytest.raises(TroveStepsError, match=r"lines.txt, read by .* half of a surrogate pair"):
        judged("half_an_id")
    assert judged("of_numpy") == [("q1", "7", 0.5)]
    (batch,) = read_records(
        "lines.txt", reader=reader_of({"loader": "own_loaders:records_of_numpy"})
    )
    assert (batch.ids, batch.texts, batch.integer_ids) == (["7"], ["seven"], 1)
    for loader, message in (
        ("no_ids", "no id field"),
        ("texts", "must return mappings"),
        ("half_a_character", "^lines.txt:2: the text holds half of a surrogate pair"),
        ("half_a_record_id", "^lines.txt:1: the id .* holds half of a surrogate pair"),
    ):
        with pytest.raises(TroveStepsError, match=message):
            list(read_records("lines.txt", reader=reader_of({"loader": f"own_loaders:{loader}"})))


def test_own_code_imports_what_lies_beside_it(folder, monkeypatch):
    Path("code").mkdir()
    Path("code/own_loaders_elsewhere.py").write_text(LOADERS)
    Path("code/beside_own_loaders.py").write_text("JUDGED = [('q1', 'd1', 1)]")
    Path("lines.txt").write_text("first\n")
    monkeypatch.setattr(sys, "path", [str(folder / "code"), *sys.path])
    table, _ = load_qrels(["lines.txt"], loader="own_loaders_elsewhere:from_beside")
    assert table.num_rows == 1


def test_own_code_hides_no_other_module(folder):
    """A file that is called like a module of Python's is read, and Python keeps its own."""
    Path("json.py").write_text(LOADERS)
    Path("lines.txt").write_text("first\n")
    table, _ = load_qrels(["lines.txt"], loader="json:triplets")
    assert table.num_rows == 2
    assert sys.modules["json"] is json


# --- the Hub and ir_datasets -----------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(folder, monkeypatch):
    """A data set in the Hub's cache, laid out as the Hub's client leaves it."""
    cache = folder / "hub"
    snapshot = cache / "datasets--org--tiny" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (cache / "datasets--org--tiny" / "refs").mkdir()
    (cache / "datasets--org--tiny" / "refs" / "main").write_text(COMMIT)
    for part in (0, 1):
        rows = {"_id": [f"d{part}"], "title": ["t"], "text": [f"part {part}"]}
        (snapshot / "corpus").mkdir(exist_ok=True)
        pq.write_table(pa.table(rows), snapshot / f"corpus/corpus-{part:05}-of-00002.parquet")
    (snapshot / "queries").mkdir()
    pq.write_table(pa.table({"_id": ["q0"], "text": ["part"]}), snapshot / "queries/q.parquet")
    (snapshot / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: corpus\n  data_files: [{split: corpus, path: corpus/*.parquet}]\n"
        "- config_name: queries\n  data_files: [{split: queries, path: queries/q.parquet}]\n---\n"
    )
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "datasets"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return snapshot


def test_files_on_the_hub_by_address(hub):
    found = resolved(
        corpus_path="hf://datasets/org/tiny/corpus/*.parquet",
        query_path=f"hf://datasets/org/tiny@{COMMIT}/queries/q.parquet",
    )
    assert [Path(path).name for path in found.corpus.paths] == [
        "corpus-00000-of-00002.parquet", "corpus-00001-of-00002.parquet"
    ]  # fmt: skip
    assert found.queries.paths == (str(hub / "queries/q.parquet"),)
    message = message_of(**{**PLAIN, "corpus_path": "hf://datasets/org/tiny/gone.jsonl"})
    assert "datasets.d.corpus_path: no file 'gone.jsonl' in the data set org/tiny" in message
    message = message_of(**{**PLAIN, "corpus_path": "hf://datasets/org/other/a.jsonl"})
    assert "'org/other' (revision main) is no file here and is not in the Hub's cache" in message
    assert "no address of the form" in message_of(**{**PLAIN, "corpus_path": "hf://models/x"})


def test_what_was_fetched_stays_what_it_is(hub, monkeypatch):
    """A branch that moves changes nothing until the record is deleted."""
    options = {**PLAIN, "corpus_path": "hf://datasets/org/tiny/corpus/*.parquet"}
    before = resolved(**options)
    commit = "f" * 40
    shutil.copytree(hub, hub.parent / commit)
    (hub.parent / commit / "corpus/corpus-00001-of-00002.parquet").write_bytes(b"PAR1 other")
    (hub.parents[1] / "refs/main").write_text(commit)
    assert resolved(**options).description == before.description
    assert before.provenance["corpus"][0]["origin"] == {
        "hub": "org/tiny", "revision": "main", "commit": COMMIT
    }  # fmt: skip
    (record,) = Path("cache/fetched").glob("@org-tiny-corpus-*.json")
    record.rename(record.with_suffix(".lost"))  # as the plan does where the files are gone
    assert resolved(**options).provenance == before.provenance
    for kept in Path("cache/fetched").glob("@org-tiny*"):
        kept.unlink()
    assert resolved(**options).provenance["corpus"][0]["origin"]["commit"] == commit


def test_a_plan_sets_the_record_of_lost_files_aside(hub):
    options = {**PLAIN, "corpus_path": "hf://datasets/org/tiny/corpus/*.parquet"}
    resolved(**options)
    make_model(Path("model"))
    models = {"m": {"model_name_or_path": "model", "pooling": "mean"}}
    plan = Plan({"datasets": {"d": options}, "models": models})
    (name,) = (name for name in plan.sources if name.startswith("@org-tiny"))
    assert name not in plan.unfetched
    assert plan.fetch_record(name).exists()
    (hub / "corpus/corpus-00001-of-00002.parquet").unlink()
    assert name in plan.unfetched
    assert not plan.fetch_record(name).exists()
    assert plan.fetch_record(name).with_suffix(".lost").exists()


def test_planning_fetches_nothing(hub):
    given = load_config(
        {"datasets": {"d": {**PLAIN, "corpus_path": "org/tiny:corpus"}}, "models": MODELS}
    )
    inputs = Inputs(Fingerprints(Path("cache")))
    with pytest.raises(
        TroveStepsError, match=r"^datasets.d.corpus_path: 'org/tiny:corpus' is no file here"
    ):
        inputs.dataset("d", given["datasets"]["d"])


def test_a_collection_that_is_here_in_part_is_an_error(hub):
    options = {**PLAIN, "corpus_path": "hf://datasets/org/tiny/corpus/*.parquet"}
    part = hub / "corpus/corpus-00001-of-00002.parquet"
    content = part.read_bytes()
    part.unlink()
    message = message_of(**options)
    assert (
        "corpus_path: the Hub's cache holds 1 of the 2 parts corpus/corpus-*-of-00002.parquet"
        in message
    )
    part.symlink_to("../../../blobs/gone")
    assert "is missing or leads nowhere: delete" in message_of(**options)
    part.unlink()
    part.write_bytes(content)
    resolved(**options)
    part.unlink()  # gone since: fetched again, or said to be missing, but never left out
    assert "holds 1 of the 2 parts" in message_of(**options)


@pytest.mark.parametrize(
    "revision", ["refs/convert/parquet", "~parquet", "refs%2Fconvert%2Fparquet"]
)
def test_revisions_of_the_hubs_own(hub, revision):
    (hub.parents[1] / "refs/refs/convert").mkdir(parents=True)
    (hub.parents[1] / "refs/refs/convert/parquet").write_text(COMMIT)
    found = resolved(
        **{**PLAIN, "query_path": f"hf://datasets/org/tiny@{revision}/queries/q.parquet"}
    )
    assert found.queries.paths == (str(hub / "queries/q.parquet"),)
    assert found.provenance["queries"][0]["origin"]["revision"] == "refs/convert/parquet"


NAMES = [
    "a.jsonl",
    "b.jsonl",
    ".hidden.jsonl",
    "x/a.jsonl",
    "x/y/a.jsonl",
    "x/y/b.tsv",
    "x/.z/a.jsonl",
]


@pytest.mark.parametrize(
    "pattern",
    ["a.jsonl", "*.jsonl", "**/*.jsonl", "x/*", "x/**", "**", "*/a.jsonl", "x/**/a.jsonl", "**/y/*",
     "[ab].jsonl", "[!a].jsonl", "?.jsonl", ".*", "x/.z/*", "gone", "**/**/a.jsonl"],
)  # fmt: skip
def test_patterns_of_names_on_the_hub_match_as_those_of_files(folder, pattern):
    for name in NAMES:
        Path("tree", name).parent.mkdir(parents=True, exist_ok=True)
        Path("tree", name).touch()
    found = glob.glob(pattern, root_dir="tree", recursive=True)
    assert globbed(NAMES, pattern) == sorted({f for f in found if Path("tree", f).is_file()})


def test_a_data_set_on_the_hub_by_name(hub, monkeypatch):
    found = resolved(corpus_path="org/tiny:corpus", query_path="org/tiny:queries:queries")
    ids = [i for path in found.corpus.paths for batch in read_records(path) for i in batch.ids]
    assert ids == ["d0", "d1"]
    monkeypatch.delattr("datasets.load_dataset")  # what was made is not made again
    again = resolved(corpus_path="org/tiny:corpus", query_path="org/tiny:queries:queries")
    assert again.description == found.description


def test_a_name_without_an_organisation_has_a_configuration(hub):
    (hub.parents[1]).rename(hub.parents[2] / "datasets--tiny")
    found = resolved(corpus_path="tiny:corpus", query_path="tiny:queries:queries")
    assert len(found.corpus.paths) == 1
    assert "does not exist" in message_of(**{**PLAIN, "corpus_path": "tiny"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("org/tiny", "holds the configurations corpus, queries: name one"),
        ("org/tiny:documents", "no configuration 'documents'; there are corpus, queries"),
    ],
)
def test_names_that_leave_something_open(hub, name, message):
    assert message in message_of(**{**PLAIN, "corpus_path": name})


def test_a_missing_file_is_no_name_on_the_hub():
    for path in ("data/corpus.json", "gone/corpus.jsonl", "data/corpus2"):
        assert "does not exist" in message_of(**{**PLAIN, "corpus_path": path})


STUB = """
from collections import namedtuple
Doc = namedtuple("Doc", "doc_id title text")
Page = namedtuple("Page", "doc_id url body")
Page.default_text = lambda self: self.body
Query = namedtuple("Query", "query_id text")
Qrel = namedtuple("Qrel", "query_id doc_id relevance iteration")
class Dataset:
    has_docs = has_queries = has_qrels = lambda self: True
    def docs_iter(self): return iter([Doc("d1", "", "wing"), Doc("d2", "T", "flow"), Page("d3", "u", "heat")])
    def queries_iter(self): return iter([Query("q1", "lift")])
    def has_qrels(self): return True
    def qrels_iter(self): return iter([Qrel("q1", "d2", 2, "0")])
def load(name):
    return {"toy/test": Dataset()}[name]
"""


def test_a_data_set_of_ir_datasets(folder, monkeypatch):
    """Against a stand-in with the package's interface; the real one fetches its data."""
    stub = types.ModuleType("ir_datasets")
    exec(STUB, vars(stub))
    monkeypatch.setitem(sys.modules, "ir_datasets", stub)
    found = checked(ir_datasets="toy/test")
    assert (found["corpus"]["records"], found["qrels"]["judgments"]) == (3, 1)
    assert found["qrels"]["files"][0]["origin"] == {"ir_datasets": "toy/test"}
    (corpus,) = resolved(ir_datasets="toy/test").corpus.paths
    (batch,) = read_records(corpus)
    assert batch.texts == ["wing", "flow", "heat"]
    assert batch.titles == [None, "T", None]
    Path(corpus).unlink()
    assert resolved(ir_datasets="toy/test").corpus.paths == (corpus,)
    assert message_of(ir_datasets="toy/gone") == (
        "datasets.d.ir_datasets: ir_datasets knows no data set 'toy/gone'"
    )
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    assert "pip install ir_datasets" in message_of(ir_datasets="toy/other")


def test_the_package_ir_datasets(folder):
    """A document's default text, which has the title in it, gets no title besides."""
    package = pytest.importorskip("ir_datasets")
    from ir_datasets.datasets.base import Dataset
    from ir_datasets.datasets.beir import BeirTitleDoc
    from ir_datasets.datasets.nfcorpus import NfCorpusDoc
    from ir_datasets.formats import BaseDocs, BaseQrels, BaseQueries, GenericQuery, TrecQrel

    documents = [NfCorpusDoc("d1", "u", "Flow", "heat"), BeirTitleDoc("d2", "lift", "Wing")]

    class Docs(BaseDocs):
        def docs_iter(self):
            return iter(documents)

        def docs_cls(self):
            return BeirTitleDoc

    class Queries(BaseQueries):
        def queries_iter(self):
            return iter([GenericQuery("q1", "drag")])

    class Qrels(BaseQrels):
        def qrels_iter(self):
            return iter([TrecQrel("q1", "d2", 2, "0")])

    if "trove-steps-test" not in list(package.registry):
        package.registry.register("trove-steps-test", Dataset(Docs(), Queries(), Qrels()))
    found = resolved(ir_datasets="trove-steps-test")
    (batch,) = read_records(found.corpus.paths[0])
    texts = [
        format_text("{title} {text}", title, text)
        for title, text in zip(batch.titles, batch.texts, strict=True)
    ]
    assert (
        texts == [document.default_text() for document in documents] == ["Flow heat", "Wing lift"]
    )
    assert checked(ir_datasets="trove-steps-test")["qrels"]["labels"] == [[2, 1]]


# --- collections -----------------------------------------------------------------------------------


def worked_example(**real) -> dict:
    """Trove's own example: real and synthetic data, with other ranges of labels."""
    texts = {"real": "ABCD", "synth": "ABCDE"}
    for name, letters in texts.items():
        rows = [{"_id": f"{name}_{letter}", "text": f"{name} {letter}"} for letter in letters]
        write_jsonl(Path(f"{name}_corpus.jsonl"), rows)
    write_jsonl(Path("q.jsonl"), [{"_id": q, "text": q} for q in ("foo", "bar", "qux")])
    Path("real.tsv").write_text(
        "query-id\tcorpus-id\tscore\nfoo\treal_A\t1\nfoo\treal_B\t0\nbar\treal_C\t1\nbar\treal_D\t0\n"
    )
    Path("synth.tsv").write_text(
        "foo\tsynth_A\t3\nfoo\tsynth_B\t1\nfoo\tsynth_C\t0\nqux\tsynth_D\t3\nqux\tsynth_E\t0\n"
    )
    return {
        "collections": [
            {
                "corpus_path": "real_corpus.jsonl",
                "query_path": "q.jsonl",
                "qrel_path": "real.tsv",
                **real,
            },
            {
                "corpus_path": "synth_corpus.jsonl",
                "query_path": "q.jsonl",
                "qrel_path": "synth.tsv",
            },
        ]
    }


def merged_of(options: dict) -> set:
    qrels = resolved(**options).qrels
    table = merge_collections(qrels.collections, Files(qrels.links, qrels.paths)).table
    return {tuple(row.values()) for row in table.to_pylist()}


SYNTHETIC = {
    ("foo", "synth_A", 3), ("foo", "synth_B", 1), ("foo", "synth_C", 0), ("qux", "synth_D", 3),
    ("qux", "synth_E", 0),
}  # fmt: skip


def test_troves_worked_example():
    plain = {("foo", "real_A", 1), ("foo", "real_B", 0), ("bar", "real_C", 1), ("bar", "real_D", 0)}
    assert merged_of(worked_example()) == SYNTHETIC | plain
    filtered = worked_example(min_score=1, score_transform=3)
    assert merged_of(filtered) == SYNTHETIC | {("foo", "real_A", 3), ("bar", "real_C", 3)}
    found = checked(**filtered)["qrels"]
    assert found["labels"] == [[0, 2], [1, 1], [3, 4]]
    assert found["collections"][0]["steps"] == [
        {"filter": "min_score 1", "before": 4, "after": 2},
        {"filter": "score_transform 3", "before": 2, "after": 2},
    ]


def test_of_several_labels_that_of_the_last_collection_counts():
    options = worked_example()
    Path("synth.tsv").write_text("foo\tsynth_A\t3\n")
    options["collections"][1]["corpus_path"] = ["real_corpus.jsonl", "synth_corpus.jsonl"]
    options["collections"].append(
        {**options["collections"][0], "score_transform": 2, "min_score": 1}
    )
    assert merged_of(options) == {
        ("foo", "real_A", 2), ("foo", "real_B", 0), ("bar", "real_C", 2), ("bar", "real_D", 0),
        ("foo", "synth_A", 3),
    }  # fmt: skip
    assert checked(**options)["qrels"]["overruled"] == 2


def test_a_subset_of_the_queries_by_either_kind_of_file():
    options = worked_example()
    write_jsonl(Path("train.jsonl"), [{"_id": "foo", "text": "foo"}])
    for subset in ("train.jsonl", "one.tsv"):
        Path("one.tsv").write_text("foo\tanything\t1\n")
        options["collections"][0]["query_subset_path"] = subset
        assert merged_of(options) == SYNTHETIC | {("foo", "real_A", 1), ("foo", "real_B", 0)}
    Path("train.jsonl").write_text("nonsense\n")
    options["collections"][0]["query_subset_path"] = "train.jsonl"
    with pytest.raises(TroveStepsError, match="query_subset_path: neither judgments nor queries"):
        merged_of(options)


def test_a_subset_is_read_as_the_configuration_says():
    real = [("foo", "real_A", 1), ("foo", "real_B", 0)]
    options = worked_example()
    write_jsonl(Path("q.jsonl"), [{"qkey": q, "text": q, "id": "x"} for q in ("foo", "bar", "qux")])
    write_jsonl(Path("train.jsonl"), [{"qkey": "foo", "text": "foo", "id": "x"}])
    fields = {"query_subset_path": "train.jsonl", "query_fields": {"id": "qkey"}}
    options["collections"][0].update(fields)
    assert merged_of(options) == SYNTHETIC | set(real)

    Path("own_lists.py").write_text(OWN_LISTS)
    Path("train.txt").write_text("only: foo\n")
    Path("real.txt").write_text(Path("real.tsv").read_text())
    for own in ({"record_loader": "own_lists:queries"}, {"loader": "own_lists:judged"}):
        options = worked_example(query_subset_path="train.txt", **own)
        assert merged_of(options) == SYNTHETIC | set(real)


OWN_LISTS = """
def queries(path):
    return [{"_id": line.split(": ")[1].strip(), "text": ""} for line in open(path)]

def judged(path):
    lines = [line.split() for line in open(path)]
    if lines[0][0] == "only:":
        return [(lines[0][1], "any", 1)]
    return [(query, doc, int(score)) for query, doc, score in lines[1:]]
"""


def test_filters_see_repeated_rows_as_in_trove():
    """Trove filters rows and then takes the last one of a pair."""
    Path("data/qrels.tsv").write_text("q1\td1\t1\nq1\td1\t0\nq1\td2\t2\nq1\td2\t1\n")
    found = merged_of({**JUDGED, "min_score": 1})
    assert found == {("q1", "d1", 1), ("q1", "d2", 1)}
    (told,) = checked(**JUDGED, min_score=1)["qrels"]["collections"]
    assert (told["read"], told["repeated"], told["relabelled"]) == (4, 1, 1)
    assert told["steps"] == [{"filter": "min_score 1", "before": 4, "after": 3}]


def test_filters_that_leave_nothing_say_so(folder):
    make_model(folder / "model")
    model = {"model_name_or_path": "model", "pooling": "mean"}
    raw = {"datasets": {"d": {**JUDGED, "min_score": 9}}, "models": {"m": model}, "mining": {}}
    with pytest.raises(TroveStepsError, match=r"^datasets.d: data/qrels.tsv: no judgment is left"):
        Plan(raw)
    with pytest.raises(TroveStepsError, match=r"no judgment is left .*: min_score 9: \d+ → 0"):
        checked(**JUDGED, min_score=9)


def test_the_same_file_twice_is_an_error():
    Path("data/copy.jsonl").write_bytes(Path("data/corpus.jsonl").read_bytes())
    for paths in (["data/corpus.jsonl", "data/copy.jsonl"], "data/c*.jsonl"):
        message = message_of(**{**PLAIN, "corpus_path": paths})
        assert message.startswith("datasets.d.corpus_path: 'data/co")
        assert "hold the same" in message


def test_the_same_id_in_two_collections_is_two_documents():
    options = worked_example()
    for name in ("real", "synth"):
        rows = [{"_id": f"d{n}", "text": f"{name} {n}"} for n in range(3)]
        write_jsonl(Path(f"{name}_corpus.jsonl"), [*rows, {"_id": f"{name}_only", "text": name}])
    Path("real.tsv").write_text("foo\td0\t1\nfoo\treal_only\t1\n")
    Path("synth.tsv").write_text("foo\td0\t2\nfoo\tsynth_only\t2\nfoo\tgone\t1\n")
    data = resolved(**options)
    tags = [digest[:4] for digest in data.corpus.digests]
    parts = [[i for batch in read_records(path) for i in batch.ids] for path in data.corpus.paths]
    ids, spaces = named(
        pa.chunked_array([pa.array(part) for part in parts]),
        [("real", 4), ("synth", 8)],
        data.corpus.digests,
        [reader_of({})] * 2,
        data.corpus.readers,
    )
    assert ids.to_pylist() == [
        *(f"d{n}_{tags[0]}" for n in range(3)), "real_only",
        *(f"d{n}_{tags[1]}" for n in range(3)), "synth_only",
    ]  # fmt: skip
    documents = Namespaces(ids, spaces["files"])
    files = Files(data.qrels.links)
    table = merge_collections(data.qrels.collections, files, documents=documents).table
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("foo", f"d0_{tags[0]}", 1), ("foo", "real_only", 1), ("foo", f"d0_{tags[1]}", 2),
        ("foo", "synth_only", 2), ("foo", "gone", 1),
    ]  # fmt: skip
    found = checked(**options)
    assert found["corpus"]["files_with_qualified_ids"] == 2
    assert found["qrels"]["judgments"] == 5

    Path("real.tsv").write_text("foo\tsynth_only\t1\n")
    with pytest.raises(
        TroveStepsError, match=r"collections\[0\]: .*'synth_only'.*another collection"
    ):
        checked(**options)
    message = message_of(**options, exclude_identical_ids=True)
    assert "exclude_identical_ids: does not go with collections" in message


IDS = st.lists(st.sampled_from(["a", "b", "c", "a_aaaa", "b_bbbb"]), unique=True, min_size=1)


@settings(deadline=None, max_examples=60)
@given(st.lists(IDS, min_size=2, max_size=3), st.data())
def test_judgments_reach_the_documents_of_their_own_collection(files, data):
    digests = [letter * 64 for letter in "abc"[: len(files)]]
    given_ = [{"collections": [number]} for number in range(len(files))]
    where, end = [], 0
    for ids in files:
        end += len(ids)
        where.append((f"file{len(where)}", end))
    chunks = [pa.array(ids, pa.string()) for ids in files]
    found, told = named(
        pa.chunked_array(chunks), where, digests, [reader_of({})] * len(files), given_
    )
    whole = found.to_pylist()
    assert len(set(whole)) == len(whole)
    spaces = Namespaces(found, told["files"])
    for number, ids in enumerate(files):
        start = where[number][1] - len(ids)
        asked = data.draw(st.lists(st.sampled_from(ids)))
        column = pa.chunked_array([pa.array(asked, pa.string())])
        places = [
            whole.index(name) for name in spaces.resolve(column, number, "document").to_pylist()
        ]
        assert places == [start + ids.index(name) for name in asked]


def test_an_id_that_ends_like_a_tag_makes_tags_longer():
    digests = ["abcd" + "0" * 60, "1234" + "0" * 60]
    ids = pa.chunked_array([["x", "x_abcd"], ["x"]])
    given = [{"collections": [0]}, {"collections": [1]}]
    found, _ = named(ids, [("a", 2), ("b", 3)], digests, [reader_of({})] * 2, given)
    assert found.to_pylist() == ["x_abcd0", "x_abcd", "x_12340"]


def test_the_same_id_twice_in_one_collection_is_an_error():
    options = worked_example()
    write_jsonl(Path("more.jsonl"), [{"_id": "real_A", "text": "other"}])
    options["collections"][0]["corpus_path"] = ["real_corpus.jsonl", "more.jsonl"]
    with pytest.raises(TroveStepsError, match=r"more.jsonl:1: the id 'real_A' is already taken at"):
        checked(**options)


# --- keys --------------------------------------------------------------------------------------------


@pytest.fixture
def keys(folder):
    make_model(folder / "model")
    model = {"model_name_or_path": "model", "pooling": "mean"}
    tasks = {"evaluation": {"ir_metrics_k_values": [1]}, "mining": {"search_topk": 5}}

    def names(**options):
        raw = {"datasets": {"d": options}, "models": {"m": model}, **tasks}
        (cell,) = Plan(raw).cells.values()
        return {"corpus": cell.corpus.texts, "queries": cell.queries.texts, "search": cell.search,
                "score": cell.score, "mine": cell.mine}  # fmt: skip

    return names


BELOW = {"search", "score", "mine"}


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"strict": True}, set()),
        ({"dataset_revision": "v2"}, set()),
        ({"min_score": 1}, {"score", "mine"}),
        ({"filter_fn": "score > 0"}, {"score", "mine"}),
        ({"score_transform": 1}, {"score", "mine"}),
        ({"query_subset_path": "data/queries.jsonl"}, {"score", "mine"}),
        ({"group_random_k": 1, "group_random_seed": 3}, {"score", "mine"}),
        ({"loader": "own:triplets"}, {"score", "mine"}),
        ({"record_loader": "own:records"}, {"corpus", "queries", *BELOW}),
        ({"corpus_fields": {"text": "title"}}, {"corpus", *BELOW}),
        ({"query_fields": {"text": "text"}}, {"queries", *BELOW}),
    ],
)
def test_an_option_changes_the_names_of_what_it_determines(keys, options, changed):
    Path("own.py").write_text(LOADERS)
    before, after = keys(**JUDGED), keys(**JUDGED, **options)
    assert {name for name in before if before[name] != after[name]} == changed


def test_one_collection_is_the_data_set_itself(keys):
    assert keys(collections=[JUDGED]) == keys(**JUDGED)


def test_collections_of_the_same_texts_share_them(keys):
    twice = keys(collections=[JUDGED, {**JUDGED, "min_score": 1}])
    plain = keys(**JUDGED)
    assert {name for name in plain if plain[name] != twice[name]} == {"score", "mine"}


def test_an_edited_function_changes_the_names(keys):
    Path("own.py").write_text(LOADERS)
    before = keys(**JUDGED, loader="own:triplets")
    Path("own.py").write_text(LOADERS + "\n")
    after = keys(**JUDGED, loader="own:triplets")
    assert {name for name in before if before[name] != after[name]} == {"score", "mine"}


# --- mistakes in the configuration --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "d.corpus_path: missing; it must be set\ndatasets.d.query_path: missing; it must be set"),
        ({"collections": [{"beir": "data"}], "min_score": 1}, "d.min_score: stands beside collections"),
        ({"collections": []}, "datasets.d.collections: empty"),
        ({"collections": [PLAIN, {}]}, "datasets.d.collections[1].corpus_path: missing"),
        ({"collections": [{**JUDGED, "min_scor": 1}]}, ".min_scor: unknown key; did you mean 'min_score'?"),
        ({"beir": "a", "ir_datasets": "b"}, "datasets.d: only one of beir and ir_datasets"),
        ({**PLAIN, "split": "dev"}, "datasets.d.split: does nothing without beir"),
        ({"beir": "data", "qrel_path": "r", "split": "dev"}, "d.split: does nothing beside qrel_path"),
        ({"beir": "data", "min_score": 1}, "datasets.d.min_score: does nothing, as data has no folder qrels"),
        ({**PLAIN, "min_score": 1}, "datasets.d.min_score: does nothing without qrel_path"),
        ({**JUDGED, "min_score": "high"}, "datasets.d.min_score: 'high' is not a number"),
        ({**JUDGED, "min_score": float("nan")}, "datasets.d.min_score: must be a finite number"),
        ({**JUDGED, "group_top_k": 0}, "datasets.d.group_top_k: 0 is less than 1"),
        ({**JUDGED, "loader": "nonsense"}, "datasets.d.loader: 'nonsense' is not module:function"),
        ({**JUDGED, "loader": "no_module:f"}, "datasets.d.loader: no module no_module"),
        ({**JUDGED, "query_fields": {"title": "t"}}, "datasets.d.query_fields.title: queries have no title"),
        ({**JUDGED, "corpus_fields": {"body": "t"}}, "datasets.d.corpus_fields.body: unknown key"),
        ({**JUDGED, "filter_fn": "import os"}, "datasets.d.filter_fn: 'import os': it is no expression"),
    ],
)  # fmt: skip
def test_mistakes(options, message):
    assert message in message_of(**options)


def test_planning_filters_imports_nothing_heavy(keys):
    program = (
        "import json, sys; from trove_steps.plan import Plan; Plan(json.loads(sys.argv[1]))\n"
        "print({'torch', 'transformers', 'datasets', 'pandas', 'wandb', 'tokenizers'} & {*sys.modules})"
    )
    raw = {
        "datasets": {"d": {**JUDGED, "filter_fn": "qid in ['q1'] or score > 0", "group_top_k": 2}},
        "models": {"m": {"model_name_or_path": "model", "pooling": "mean"}},
        "mining": {"search_topk": 5},
    }
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(raw)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
