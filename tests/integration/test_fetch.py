"""A model on the Hub is fetched by one job; nothing else needs a network. A local server is the Hub."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.integration.conftest import Workflow

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """Serves folders as repositories, "models/org/tiny" or "datasets/org/texts"; `asked` lists requests."""

    daemon_threads = True

    def __init__(self, repositories: dict[str, Path]):
        self.repositories = {
            name: {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}
            for name, folder in repositories.items()
        }
        self.commit = COMMIT
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Answers)


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        self.server.asked.append(self.path)
        path = self.path.partition("?")[0]
        for name, files in self.server.repositories.items():
            if path.startswith(f"/api/{name}/revision/"):
                siblings = [{"rfilename": file} for file in files]
                info = {"id": name.partition("/")[2], "sha": self.server.commit}
                return self.answer(json.dumps({**info, "siblings": siblings}).encode())
            if path.startswith(f"/api/{name}/tree/"):
                tree = [
                    {"type": "file", "path": file, "size": len(content), "oid": git_id(content)}
                    for file, content in files.items()
                ]
                return self.answer(json.dumps(tree).encode())
            address = f"/{name.removeprefix('models/')}/resolve/{self.server.commit}/"
            if path.startswith(address):
                content = files[path.removeprefix(address)]
                return self.answer(content, body, git_id(content))
        self.send_error(404)

    def answer(self, content: bytes, body=True, etag=None):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Repo-Commit", self.server.commit)
        if etag:
            self.send_header("ETag", f'"{etag}"')
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def hub(workflow, tiny_model, tmp_path, monkeypatch):
    texts = tmp_path / "texts"
    (texts / "corpus").mkdir(parents=True)
    lines = (workflow.folder / "data/corpus.jsonl").read_text().splitlines(keepends=True)
    (texts / "corpus/a.jsonl").write_text("".join(lines[:30]))
    (texts / "corpus/b.jsonl").write_text("".join(lines[30:]))
    server = Hub({"models/org/tiny": tiny_model, "datasets/org/texts": texts})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    del workflow.config["mining"]
    yield server
    server.shutdown()


@pytest.fixture
def model_on_the_hub(workflow, hub):
    workflow.config["models"]["bert"]["model_name_or_path"] = "org/tiny"


@pytest.fixture
def data_on_the_hub(workflow, hub):
    workflow.config["datasets"]["tiny"]["corpus_path"] = "hf://datasets/org/texts/corpus/*.jsonl"


def test_a_model_is_fetched_once_and_by_one_job(workflow: Workflow, hub, model_on_the_hub):
    plan = workflow.run("--dry-run")
    assert hub.asked == []  # planning fetches nothing
    assert "checkpoint fetch" in plan
    output = workflow.run()
    assert "ndcg_cut_10" in output
    assert any(path.endswith("model.safetensors") for path in hub.asked)
    hub.asked.clear()
    assert "Nothing to be done" in workflow.run()
    assert hub.asked == []


def test_a_model_that_the_hub_lacks(workflow: Workflow, hub, model_on_the_hub):
    workflow.config["models"]["bert"]["model_name_or_path"] = "org/none"
    output = workflow.run(expect=1)
    assert "Error in rule fetch" in output
    assert "models.bert.model_name_or_path: 'org/none' (revision main)" in output
    assert "Traceback" not in output


def test_a_data_set_is_fetched_once_and_by_one_job(workflow: Workflow, hub, data_on_the_hub):
    plan = workflow.run("--dry-run")
    assert hub.asked == []  # planning fetches nothing
    assert "checkpoint fetch" in plan
    workflow.run()
    found = json.loads((workflow.folder / "results/tiny/data.json").read_text())
    assert found["corpus"]["records"] == 60
    origin = {"hub": "org/texts", "revision": "main", "commit": COMMIT}
    assert [file["origin"] for file in found["corpus"]["files"]] == [origin] * 2
    hub.asked.clear()
    assert "Nothing to be done" in workflow.run()
    hub.commit = "d" * 40  # the branch has moved on
    assert "Nothing to be done" in workflow.run()
    assert hub.asked == []
    # What docs/data.md says of it: the next run fetches again.
    for record in (workflow.folder / "cache/fetched").glob("@org-texts-*.json"):
        record.unlink()
    workflow.run()
    (record,) = (workflow.folder / "cache/fetched").glob("@org-texts-*.json")
    assert json.loads(record.read_text())["origin"]["commit"] == "d" * 40


def test_a_data_set_that_the_hub_lacks(workflow: Workflow, hub, data_on_the_hub):
    workflow.config["datasets"]["tiny"]["corpus_path"] = "org/none"
    output = workflow.run(expect=1)
    assert "Error in rule fetch" in output
    assert "datasets.tiny.corpus_path: 'org/none' (revision main) is no file here" in output
    assert "Traceback" not in output


def test_a_file_that_could_not_be_fetched(workflow: Workflow, hub, data_on_the_hub):
    """Without it the corpus would be another one."""
    files = hub.repositories["datasets/org/texts"]
    listed = dict(files)
    del files["corpus/b.jsonl"]

    class Lists(dict):
        def items(self):
            return listed.items()

    hub.repositories["datasets/org/texts"] = Lists(files)
    output = workflow.run(expect=1)
    assert "Error in rule fetch" in output
    assert not (workflow.folder / "results/tiny/data.json").exists()
