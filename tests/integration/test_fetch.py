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
    """Serves the files of a folder as the repository org/tiny; `asked` lists the requests."""

    daemon_threads = True

    def __init__(self, folder: Path):
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Answers)


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        self.server.asked.append(self.path)
        files = self.server.files
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/org/tiny/revision/"):
            siblings = [{"rfilename": name} for name in files]
            self.answer(
                json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": siblings}).encode()
            )
        elif path.startswith("/api/models/org/tiny/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": git_id(content)}
                for name, content in files.items()
            ]
            self.answer(json.dumps(tree).encode())
        elif path.startswith("/org/tiny/resolve/"):
            content = files[path.rsplit("/", 1)[1]]
            self.answer(content, body, git_id(content))
        else:
            self.send_error(404)

    def answer(self, content: bytes, body=True, etag=None):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Repo-Commit", COMMIT)
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
    server = Hub(tiny_model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    workflow.config["models"]["bert"]["model_name_or_path"] = "org/tiny"
    del workflow.config["mining"]
    yield server
    server.shutdown()


def test_a_model_is_fetched_once_and_by_one_job(workflow: Workflow, hub, tmp_path):
    plan = workflow.run("--dry-run")
    assert hub.asked == []  # planning fetches nothing
    assert "checkpoint fetch" in plan
    output = workflow.run()
    assert "ndcg_cut_10" in output
    assert any(path.endswith("model.safetensors") for path in hub.asked)
    hub.asked.clear()
    assert "Nothing to be done" in workflow.run()
    assert hub.asked == []


def test_a_model_that_the_hub_lacks(workflow: Workflow, hub):
    workflow.config["models"]["bert"]["model_name_or_path"] = "org/none"
    output = workflow.run(expect=1)
    assert "Error in rule fetch" in output
    assert "models.bert.model_name_or_path: 'org/none' (revision main)" in output
    assert "Traceback" not in output
