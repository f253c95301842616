"""The report, the questions and the lines of a run, on the real workflow."""

import gzip
import json
import zipfile
from importlib import metadata
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import make_dataset, make_model
from tests.integration.browser import wait_for
from tests.integration.conftest import Workflow, make_config
from tests.unit.test_report import unpacked
from tests.unit.test_tracking import read_records
from tests.unit.test_tracking import read_run as read_tracked
from trove_steps.cli import main


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Workflow:
    """Two models on one data set, evaluated and mined; `output` is what the run printed."""
    folder = tmp_path_factory.mktemp("reported")
    make_dataset(folder / "data")
    make_model(folder / "model")
    config = {**make_config(Path("model")), "report": True}
    config["models"]["cls"] = {**config["models"]["bert"], "pooling": "first_token"}
    config["evaluation"].update(report_to=["wandb"], wandb={"mode": "offline", "group": "one"})
    workflow = Workflow(folder, config)
    workflow.output = workflow.run()
    return workflow


def page_of(workflow: Workflow) -> Path:
    return workflow.folder / "results" / "report.html"


def read_run(workflow: Workflow, model: str) -> dict[str, list[tuple[str, float]]]:
    """Return query → (document, score) by rank."""
    run: dict[str, list] = {}
    with gzip.open(workflow.folder / "results/tiny" / model / "run.trec.gz", "rt") as file:
        for line in file:
            query, _, document, _, score, _ = line.split()
            run.setdefault(query, []).append((document, float(score)))
    return run


def records_of(workflow: Workflow, encoder: str, role: str) -> list[dict]:
    path = workflow.folder / "cache/embeddings" / encoder / "records.jsonl"
    found = map(json.loads, path.read_text().splitlines())
    return [record for record in found if record["role"] == role]


def per_query(workflow: Workflow, model: str) -> dict[str, list]:
    path = workflow.folder / "results/tiny" / model / "per_query.parquet"
    return pq.read_table(path).to_pydict()


def test_the_page_holds_the_results(finished):
    data = unpacked(page_of(finished).read_text())
    (dataset,) = data["datasets"]
    lines = (finished.folder / "data/corpus.jsonl").read_text().splitlines()
    corpus = list(map(json.loads, lines))
    texts = {one["_id"]: f"{one['title']} {one['text']}" for one in corpus}
    for model in ("bert", "cls"):
        cell, figures = dataset["cells"][model], finished.metrics("tiny", model)
        assert cell["metrics"] == {k: v for k, v in figures.items() if k in cell["metrics"]}
        value = cell["metrics"]["ndcg_cut_10"]
        assert cell["low"]["ndcg_cut_10"] <= value <= cell["high"]["ndcg_cut_10"]
        run = read_run(finished, model)
        values = [query["value"] for query in cell["worst"]]
        assert values == sorted(values)
        for query in cell["worst"]:
            shown = [dataset["texts"][str(one["doc"])] for one in query["top"]]
            assert [one for one, _ in shown] == [one for one, _ in run[query["id"]][:5]]
            assert all(text and texts[one].startswith(text.rstrip("…")) for one, text in shown)
        counts = json.loads(
            next(
                (finished.folder / "results/tiny" / model / "mined").glob("funnel.json")
            ).read_text()
        )
        assert cell["mining"]["funnel"]["kept"] == counts["num_kept"]
        assert sum(cell["mining"]["ranks"]["counts"]) == counts["num_kept"]
        assert cell["cost"]["encode"]["corpus"]["encoded"] == 60
        assert cell["cost"]["bytes"] == 32 * 4
        (record,) = records_of(finished, cell["provenance"]["keys"]["corpus encoder"], "corpus")
        assert cell["cost"]["encode"]["corpus"]["rate"] == pytest.approx(
            record["tokens_per_second"], rel=0.05
        )
        assert cell["cost"]["encode"]["corpus"]["versions"]["torch"] == metadata.version("torch")
        assert cell["warnings"]["cut"]["corpus"] == [record["cut"]["texts_cut"], 60]
        other = {"bert": "cls", "cls": "bert"}[model]
        values = [per_query(finished, name)["ndcg_cut_10"] for name in (model, other)]
        wins = sum(a > b for a, b in zip(*values, strict=True))
        assert dataset["points"]["wins"][model][other] == wins
    assert [warning["kind"] for warning in dataset["check"]] == ["queries_without_judgments"]
    assert finished.folder.as_posix() not in json.dumps(data)


def test_lines_of_the_run(finished):
    for start in ("encode corpus: 60 texts", "mine tiny/bert:", "score tiny/cls:", "report: "):
        assert sum(line.startswith(start) for line in finished.output.splitlines()) >= 1, start
    assert "\x1b" not in finished.output
    assert "Select jobs" not in finished.output
    assert not list((finished.folder / ".snakemake").glob("progress-*"))


def test_runs_of_wandb(finished):
    runs = list((finished.folder / "results" / "wandb").glob("offline-run-*"))
    assert len(runs) == 3  # two evaluations and the report
    tables = [path.name for run in runs for path in run.glob("files/media/table/*.json")]
    assert sum(name.startswith("per_query") for name in tables) == 2
    assert sum(name.startswith("mined_negatives") for name in tables) == 2
    kept = [
        record.artifact
        for run in runs
        for path in run.glob("*.wandb")
        for record in read_records(path)
        if record.HasField("artifact") and record.artifact.type == "report"
    ]
    (artifact,) = kept
    assert [entry.path for entry in artifact.manifest.contents] == ["report.html"]
    groups = {read_tracked(run)["group"] for run in runs}
    assert groups == {"one"}


def test_asking_with_the_words_of_a_query_gives_its_ranking(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished.folder)
    run = read_run(finished, "bert")
    query = json.loads(Path("data/queries.jsonl").read_text().splitlines()[0])
    options = ["--configfile", "my.yaml", "--dataset", "tiny", "--model", "bert", "--top", "10"]
    assert main(["ask", query["text"], *options, "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["documents"]
    assert [one["id"] for one in answers] == [document for document, _ in run[query["_id"]][:10]]
    scores = [score for _, score in run[query["_id"]][:10]]
    assert [one["score"] for one in answers] == pytest.approx(scores, rel=1e-6)


def test_show_query_marks_what_was_judged(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished.folder)
    assert main(["show", "query", "q0", "--configfile", "my.yaml", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["model"] for one in found] == ["bert", "cls"]
    lines = [line.split("\t") for line in Path("data/qrels.tsv").read_text().splitlines()[1:]]
    labels = {document: int(label) for query, document, label in lines if query == "q0"}
    for one in found:
        everything = one["documents"] + one["missed"]
        assert [d["id"] for d in one["documents"]] == [
            d for d, _ in read_run(finished, one["model"])["q0"][:10]
        ]
        assert all(d["label"] == labels.get(d["id"]) for d in everything)
        relevant = {d for d, label in labels.items() if label > 0}
        assert {d["id"] for d in everything if d["relevant"]} == relevant
    assert main(["show", "query", "none", "--configfile", "my.yaml"]) == 1
    assert "query none: no such id" in capsys.readouterr().err


def test_a_page_that_is_gone_is_made_again_and_nothing_else(finished):
    assert "Nothing to be done" in finished.run()
    page_of(finished).unlink()
    output = finished.run("--dry-run")
    assert "write_report" in output
    assert "encode_corpus" not in output
    config = {**finished.config, "report": False}
    assert "Nothing to be done" in Workflow(finished.folder, config).run("--dry-run")
    finished.run()
    assert page_of(finished).exists()


def test_the_page_in_a_browser(finished, browser):
    """No error, no request; sorting and hovering work; colours follow the theme."""
    browser.open(page_of(finished))
    wait_for(lambda: len(browser.all_of(".chart svg")) >= 9)

    def models():
        return browser.texts(".leaderboard tbody td:first-child")

    data = unpacked(page_of(finished).read_text())
    cells = data["datasets"][0]["cells"]
    ranked = sorted(cells, key=lambda model: -cells[model]["metrics"]["ndcg_cut_10"])
    assert models() == ranked
    (heading,) = [b for b in browser.all_of(".leaderboard th button") if b.text.startswith("tiny")]
    heading.click()
    assert models() == ranked[::-1]
    assert browser.all_of(".leaderboard td.best")

    browser.hover(browser.all_of(".chart.square svg path[aria-label*='query']")[0])
    tip = wait_for(lambda: browser.all_of("#vg-tooltip-element.visible"))[0]
    assert any(text in tip.text for text in data["datasets"][0]["points"]["texts"])

    colours = []
    for looks in ({"theme": "light"}, {"theme": "dark"}, {"media": "print"}):
        browser.look_as(**looks)
        colours.append(browser.background())
    browser.look_as()
    assert colours == ["rgb(255, 255, 255)", "rgb(20, 23, 28)", "rgb(255, 255, 255)"]
    assert browser.complaints_and_requests() == ([], [])


def test_snakemakes_own_report_takes_the_page_along(finished):
    finished.run("--report", "report.zip")
    with zipfile.ZipFile(finished.folder / "report.zip") as archive:
        pages = [name for name in archive.namelist() if name.endswith(".html")]
        contents = [archive.read(name) for name in pages]
    assert page_of(finished).read_bytes() in contents
