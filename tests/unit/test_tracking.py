"""Tracking with the real wandb package: what it writes and sends, and that it never hurts."""

import base64
import gzip
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from trove_steps import tracking
from trove_steps.tracking import TrackingOutcome, track_evaluation

KEY = "0123456789" * 4
RUN_ID = "5f" * 16
METRICS = {"ndcg_cut_10": 0.645083, "recall_100": 0.925, "num_judged": 300}
PER_QUERY = pa.table({"query_id": ["q1", "q2"], "ndcg_cut_10": [0.5, None]})
CONFIG = {"model": "minilm", "keys": {"search": "ab" * 16}}


@pytest.fixture(autouse=True)
def clean_environment(tmp_path, monkeypatch):
    """No setting and no key of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith("WANDB_") or name == "NETRC":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()


def track(tmp_path: Path, **changes) -> TrackingOutcome:
    arguments = {
        "settings": {"project": "p", "group": "g", "tags": ["t1", "t2"]},
        "run_id": RUN_ID,
        "name": "scifact/minilm",
        "config": CONFIG,
        "metrics": METRICS,
        "per_query": PER_QUERY,
        "directory": tmp_path / "results",
    }
    return track_evaluation(**(arguments | changes))


def read_records(path: Path) -> list:
    """Records of a .wandb file, a LevelDB log: blocks of 32 KiB after a header of 7 bytes.

    A chunk is crc (4 bytes), length (2), type (1: whole, 2: first, 3: middle, 4: last) and data.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    records, message, position = [], b"", 7
    while position < len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        message += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            records.append(Record.FromString(message))
            message = b""
    return records


def read_run(folder: Path) -> dict:
    """What an offline run holds, as `wandb sync` would send it."""
    (path,) = folder.glob("*.wandb")
    found = {"history": [], "summary": {}, "config": {}}
    for record in read_records(path):
        if record.HasField("run"):
            run = record.run
            found |= {name: getattr(run, name) for name in ("run_id", "project", "display_name")}
            found |= {"group": run.run_group, "tags": list(run.tags), "entity": run.entity}
            for item in run.config.update:
                found["config"][item.key] = json.loads(item.value_json)
        if record.HasField("history"):
            items = record.history.item
            row = {(i.key or i.nested_key[0]): json.loads(i.value_json) for i in items}
            found["history"].append(row)
        if record.HasField("summary"):
            for item in record.summary.update:
                found["summary"][item.key or item.nested_key[0]] = json.loads(item.value_json)
    return found


def offline_runs(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "results" / "wandb").glob("offline-run-*"))


class TestOffline:
    @pytest.fixture(autouse=True)
    def offline(self, monkeypatch):
        monkeypatch.setenv("WANDB_MODE", "offline")

    def test_what_is_written(self, tmp_path, capfd):
        outcome = track(tmp_path)
        (folder,) = offline_runs(tmp_path)
        assert outcome == TrackingOutcome(
            True, f"logged to wandb: offline; upload it with: wandb sync {folder}"
        )
        assert capfd.readouterr() == ("", "")
        run = read_run(folder)
        assert run["run_id"] == RUN_ID
        assert (run["project"], run["group"], run["tags"]) == ("p", "g", ["t1", "t2"])
        assert run["display_name"] == "scifact/minilm"
        assert run["config"]["model"] == "minilm"
        assert run["config"]["keys"] == {"search": "ab" * 16}
        assert {name: run["summary"][name] for name in METRICS} == METRICS
        logged = [row for row in run["history"] if "ndcg_cut_10" in row]
        assert len(logged) == 1
        assert {name: logged[0][name] for name in METRICS} == METRICS
        (table,) = folder.glob("files/media/table/*.json")
        assert json.loads(table.read_text()) == {
            "columns": ["query_id", "ndcg_cut_10"],
            "data": [["q1", 0.5], ["q2", None]],
        }

    def test_again_is_the_same_run_with_the_new_figures(self, tmp_path, monkeypatch):
        monkeypatch.setenv("WANDB_RUN_ID", "of-another-program")
        assert track(tmp_path, per_query=None).ok
        assert track(tmp_path, per_query=None, metrics={"ndcg_cut_10": 0.7}).ok
        first, second = map(read_run, offline_runs(tmp_path))
        assert first["run_id"] == second["run_id"] == RUN_ID
        assert first["summary"]["ndcg_cut_10"] == 0.645083
        assert second["summary"]["ndcg_cut_10"] == 0.7

    def test_defaults_and_a_table_too_large(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tracking, "MAX_TABLE_ROWS", 1000)
        rows = list(range(3000))
        table = pa.table({"query_id": [f"q{n}" for n in rows], "value": rows})
        outcome = track(tmp_path, settings={"mode": "online"}, per_query=table)
        assert outcome.ok
        assert outcome.message.endswith("its table has 1,000 of 3,000 queries, drawn at random")
        (folder,) = offline_runs(tmp_path)
        run = read_run(folder)
        assert (run["project"], run["group"], run["tags"]) == ("trove-steps", "", [])
        (path,) = folder.glob("files/media/table/*.json")
        shown = json.loads(path.read_text())["data"]
        values = [value for _, value in shown]
        assert shown == [[f"q{n}", n] for n in values]
        assert len(set(values)) == 1000
        assert values == sorted(values)
        assert 1300 < sum(values) / 1000 < 1700

    def test_a_directory_that_cannot_be_written(self, tmp_path):
        (tmp_path / "results").write_text("a file")
        outcome = track(tmp_path)
        assert not outcome.ok
        assert "results" in outcome.message

    def test_a_config_that_json_cannot_say(self, tmp_path):
        outcome = track(tmp_path, config={"path": object()})
        assert not outcome.ok
        assert "not JSON serializable" in outcome.message


class TestModes:
    @pytest.mark.parametrize(
        ("environment", "settings"),
        [
            ({"WANDB_DISABLED": "true"}, {"mode": "online"}),
            ({"WANDB_DISABLED": "true", "WANDB_MODE": "offline"}, {}),
            ({"WANDB_MODE": "disabled"}, {"mode": "offline"}),
            ({}, {"mode": "disabled"}),
        ],
    )
    def test_disabled_does_nothing(self, tmp_path, monkeypatch, environment, settings):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        outcome = track(tmp_path, settings=settings)
        assert outcome == TrackingOutcome(True, "wandb is disabled: nothing was logged")
        assert not (tmp_path / "results").exists()

    def test_the_setting_alone_and_a_false_variable(self, tmp_path, monkeypatch):
        monkeypatch.setenv("WANDB_DISABLED", "false")
        assert track(tmp_path, settings={"mode": "offline"}).ok
        assert len(offline_runs(tmp_path)) == 1

    def test_unknown(self, tmp_path, monkeypatch):
        monkeypatch.setenv("WANDB_MODE", "offlin")
        outcome = track(tmp_path)
        assert not outcome.ok
        assert "WANDB_MODE is 'offlin', but must be one of online, offline" in outcome.message


class Server(ThreadingHTTPServer):
    """As much of a W&B server as runs need; `silent` operations get no answer, `lacking` ones nothing."""

    daemon_threads = True

    def __init__(self, silent=(), status=200, lacking=()):
        super().__init__(("127.0.0.1", 0), Handler)
        self.silent, self.status, self.lacking = silent, status, lacking
        self.requests, self.over = [], threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()
        self.shutdown()
        self.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        pass  # wandb hangs up when it has what it wants

    def asked(self, word):
        return [body for path, _, body in self.requests if word in path + body]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        text = body.decode(errors="replace")
        self.server.requests.append((self.path, dict(self.headers), text))
        if any(word in self.path + text for word in self.server.silent):
            self.server.over.wait(60)
        answer = json.dumps(self.answer(text)).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_POST

    def answer(self, text):
        if self.path != "/graphql":
            return {}
        query = json.loads(text)
        asked, variables = query["query"], query.get("variables") or {}
        entity = {"id": "e", "name": "me"}
        upload = f"http://{self.headers['Host']}/upload"
        if any(name in asked for name in self.server.lacking):
            return {"data": {}}
        if "query ArtifactType(" in asked:
            return {"data": {"project": None}}
        if "mutation CreateArtifact " in asked:
            made = {"id": "a", "state": "PENDING", "artifactSequence": {"id": "s"}}
            return {"data": {"createArtifact": {"artifact": made}}}
        if "mutation CreateArtifactManifest" in asked:
            file = {"id": "f", "uploadUrl": f"{upload}/manifest", "uploadHeaders": []}
            made = {"id": "m", "file": file}
            return {"data": {"createArtifactManifest": {"artifactManifest": made}}}
        if "mutation CreateArtifactFiles" in asked:
            nodes = [
                {
                    "id": spec["name"],
                    "name": spec["name"],
                    "displayName": spec["name"],
                    "uploadUrl": f"{upload}/{spec['name']}",
                    "uploadHeaders": [],
                    "storagePath": spec["name"],
                    "artifact": {"id": "a"},
                }
                for spec in variables["input"]["artifactFiles"]
            ]
            edges = [{"node": node} for node in nodes]
            return {"data": {"createArtifactFiles": {"files": {"edges": edges}}}}
        if "mutation CommitArtifact" in asked:
            return {"data": {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}}}
        if "UpsertBucket" in asked:
            bucket = {
                "id": "b",
                "name": variables["name"],
                "displayName": variables["displayName"],
                "config": "{}",
                "project": {"id": "p", "name": variables["project"], "entity": entity},
                "historyLineCount": 0,
            }
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        if "RunResumeStatus" in asked:
            return {"data": {"model": {"id": "p", "name": "p", "entity": entity, "bucket": None}}}
        if "Viewer" in asked:
            viewer = {"id": "u", "username": "me", "entity": "me", "flags": "{}"}
            return {"data": {"viewer": {**viewer, "teams": {"edges": []}}}}
        if "CreateRunFiles" in asked:
            files = [{"name": name, "uploadUrl": f"{upload}/{name}"} for name in variables["files"]]
            return {"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}}
        return {"data": {}}

    def log_message(self, *_):
        pass


class TestOnline:
    @pytest.fixture(autouse=True)
    def online(self, monkeypatch):
        monkeypatch.setenv("WANDB_API_KEY", KEY)

    def test_what_is_sent(self, tmp_path, monkeypatch, capfd):
        with Server() as server:
            monkeypatch.setenv("WANDB_BASE_URL", server.url)
            outcome = track(tmp_path, per_query=None)
        assert outcome == TrackingOutcome(True, f"logged to wandb: {server.url}/me/p/runs/{RUN_ID}")
        assert capfd.readouterr() == ("", "")
        assert json.loads(server.asked("RunResumeStatus")[0])["variables"]["name"] == RUN_ID
        started = json.loads(server.asked("UpsertBucket")[0])["variables"]
        assert (started["name"], started["project"], started["groupName"]) == (RUN_ID, "p", "g")
        assert (started["displayName"], started["tags"]) == ("scifact/minilm", ["t1", "t2"])
        assert json.loads(started["config"])["keys"]["value"] == CONFIG["keys"]
        summary = json.loads(server.asked("/upload/wandb-summary.json")[-1])
        assert {name: summary[name] for name in METRICS} == METRICS
        rows = [json.loads(row) for row in self.streamed(server, "wandb-history.jsonl")]
        assert [row["ndcg_cut_10"] for row in rows if "ndcg_cut_10" in row] == [0.645083]
        self.check_key(tmp_path, server, outcome)

    def test_a_table_that_is_refused_costs_no_metrics(self, tmp_path, monkeypatch, capfd):
        with Server(lacking=["Artifact"]) as server:  # as one that knows nothing of them
            monkeypatch.setenv("WANDB_BASE_URL", server.url)
            outcome = track(tmp_path)
        assert not outcome.ok
        assert outcome.message.startswith("logged to wandb without its table per_query (")
        assert "\n" not in outcome.message
        assert capfd.readouterr() == ("", "")
        summary = json.loads(server.asked("/upload/wandb-summary.json")[-1])
        assert {name: summary[name] for name in METRICS} == METRICS

    def test_the_report_is_sent_as_an_artifact(self, tmp_path, monkeypatch, capfd):
        page = tmp_path / "name-by-content.html"
        page.write_text("<html>the page</html>")
        with Server() as server:
            monkeypatch.setenv("WANDB_BASE_URL", server.url)
            outcome = track(tmp_path, per_query=None, page=page)
        assert outcome.ok, outcome
        assert capfd.readouterr() == ("", "")
        assert server.asked("/upload/report.html") == ["<html>the page</html>"]
        (made,) = server.asked("mutation CreateArtifact ")
        made = json.loads(made)["variables"]["input"]
        assert (made["artifactCollectionName"], made["artifactTypeName"]) == ("report", "report")
        assert server.asked("CommitArtifact")
        self.check_key(tmp_path, server, outcome)

    def test_wandb_sync_sends_what_was_kept(self, tmp_path, monkeypatch):
        """The second time the same run gets the new figures."""
        monkeypatch.setenv("WANDB_MODE", "offline")
        for value in (0.645083, 0.7):
            outcome = track(tmp_path, metrics={"ndcg_cut_10": value})
            assert outcome.ok
        monkeypatch.delenv("WANDB_MODE")
        for folder, value in zip(offline_runs(tmp_path), (0.645083, 0.7), strict=True):
            with Server() as server:
                monkeypatch.setenv("WANDB_BASE_URL", server.url)
                command = [sys.executable, "-m", "wandb", "sync", str(folder)]
                done = subprocess.run(
                    command, cwd=tmp_path, capture_output=True, text=True, timeout=120
                )
            assert done.returncode == 0, done.stderr
            started = json.loads(server.asked("UpsertBucket")[0])["variables"]
            assert (started["name"], started["project"], started["groupName"]) == (RUN_ID, "p", "g")
            summary = json.loads(server.asked("/upload/wandb-summary.json")[-1])
            assert summary["ndcg_cut_10"] == value
            (table,) = server.asked("/upload/media/table/per_query")
            assert json.loads(table)["data"] == [["q1", 0.5], ["q2", None]]
            assert KEY not in done.stdout + done.stderr
            self.check_key(tmp_path, server, outcome)

    @pytest.mark.slow
    @pytest.mark.parametrize("silent", ["graphql", "file_stream"])
    def test_a_server_that_stops_answering(self, tmp_path, monkeypatch, capfd, silent):
        monkeypatch.setenv("WANDB_INIT_TIMEOUT", "5")
        monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "5")
        with Server(silent=[silent]) as server:
            monkeypatch.setenv("WANDB_BASE_URL", server.url)
            started = time.monotonic()
            outcome = track(tmp_path, per_query=None)
            assert time.monotonic() - started < 30
        assert server.asked(silent)
        assert not outcome.ok
        if silent == "graphql":
            assert "no answer from the server" in outcome.message
            assert "WANDB_MODE=offline" in outcome.message
        else:
            assert "the upload did not end in time; finish it later with: wandb sync" in (
                outcome.message
            )
            (folder,) = (tmp_path / "results" / "wandb").glob("run-*")
            assert str(folder) in outcome.message
            assert read_run(folder)["summary"]["ndcg_cut_10"] == 0.645083
        assert capfd.readouterr() == ("", "")
        self.check_key(tmp_path, server, outcome)

    def test_nobody_there(self, tmp_path, monkeypatch, capfd):
        monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
            started = time.monotonic()
            outcome = track(tmp_path)
            assert time.monotonic() - started < 30
        assert not outcome.ok
        assert outcome.message.startswith("not logged to wandb: no answer from the server (")
        assert "check the network, or set WANDB_MODE=offline" in outcome.message
        assert capfd.readouterr() == ("", "")
        self.check_key(tmp_path, None, outcome)

    def test_a_process_that_hangs_is_stopped(self, tmp_path, monkeypatch):
        monkeypatch.setenv("WANDB_INIT_TIMEOUT", "0.5")
        monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "0.5")
        monkeypatch.setattr(tracking, "_OTHER_WORK", 0)
        with Server(silent=["/"]) as server:
            monkeypatch.setenv("WANDB_BASE_URL", server.url)
            outcome = track(tmp_path)
        assert not outcome.ok
        assert "wandb was stopped after 1 s" in outcome.message

    @staticmethod
    def streamed(server, name):
        bodies = [json.loads(body) for body in server.asked("file_stream") if body[:1] == "{"]
        parts = [body["files"][name]["content"] for body in bodies if name in body.get("files", {})]
        return [row for part in parts for row in part]

    @staticmethod
    def check_key(tmp_path, server, outcome):
        """The API key goes to the server as the password, and nowhere else."""
        assert KEY not in outcome.message
        for path in tmp_path.rglob("*"):
            assert not path.is_file() or KEY.encode() not in path.read_bytes()
        if server:
            password = base64.b64encode(f"api:{KEY}".encode()).decode()
            for path, headers, body in server.requests:
                assert KEY not in path + body
                assert headers.get("Authorization", f"Basic {password}") == f"Basic {password}"


class TestKey:
    def test_none(self, tmp_path, capfd):
        outcome = track(tmp_path)
        assert not outcome.ok
        assert outcome.message.startswith("not logged to wandb: no valid API key (")
        assert outcome.message.endswith(
            "; set WANDB_API_KEY, or set WANDB_MODE=offline to keep the run on this machine"
        )
        assert capfd.readouterr() == ("", "")

    def test_none_on_a_terminal_asks_nothing(self, tmp_path):
        pty = pytest.importorskip("pty")
        ours, terminal = pty.openpty()
        code = (
            "import sys; from pathlib import Path; from trove_steps.tracking import *;"
            "print(track_evaluation(settings={}, run_id='r', name='n', config={}, metrics={},"
            " per_query=None, directory=Path(sys.argv[1])).ok)"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "results")],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            cwd=Path(tracking.__file__).parents[1],
            start_new_session=True,
        )
        try:
            assert process.wait(30) == 0
            assert os.read(ours, 4096) == b"False\r\n"
        finally:
            process.kill()
            os.close(ours)
            os.close(terminal)

    def test_a_malformed_one_is_not_repeated(self, tmp_path, monkeypatch):
        monkeypatch.setenv("WANDB_API_KEY", "my secret with spaces")
        outcome = track(tmp_path)
        assert not outcome.ok
        assert "no valid API key" in outcome.message
        assert "my secret" not in outcome.message

    def test_one_that_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        with Server(status=401) as server:
            monkeypatch.setenv("WANDB_BASE_URL", server.url)
            outcome = track(tmp_path)
        assert not outcome.ok
        assert outcome.message.startswith("not logged to wandb: no valid API key (")
        assert KEY not in outcome.message

    @pytest.mark.parametrize("kind", ["variable", "netrc", "unknown"])
    def test_no_message_holds_one(self, tmp_path, monkeypatch, kind):
        key = "local-" + "aB3_x9" * 7
        if kind == "variable":
            monkeypatch.setenv("WANDB_API_KEY", key)
        elif kind == "netrc":
            monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
            (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {key}\n")
        shown = tracking.failure(
            RuntimeError(f"{key}\n and user:{key}@host and {'0f' * 16}")
        ).message
        assert key not in shown
        assert key[6:] not in shown
        assert shown.endswith(f"and {'0f' * 16}")

    def test_a_short_one_of_the_environment(self, monkeypatch):
        monkeypatch.setenv("WANDB_API_KEY", "secret")
        shown = tracking.failure(RuntimeError(f"secret, {'0f' * 20}")).message
        assert shown == "not logged to wandb: <WANDB_API_KEY>, <API key>"

    def test_paths_stay_readable(self):
        path = f"/data/an-experiment-with-a-very-long-name-of-its-own/wandb/run-1-{'5f' * 16}"
        shown = tracking.failure(RuntimeError(f"{path}.wandb: damaged")).message
        assert shown == f"not logged to wandb: {path}.wandb: damaged"


def test_wandb_not_installed(tmp_path, monkeypatch):
    (tmp_path / "broken" / "wandb").mkdir(parents=True)
    (tmp_path / "broken" / "wandb" / "__init__.py").write_text("raise ImportError('no wandb')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    outcome = track(tmp_path)
    assert not outcome.ok
    assert "(no wandb); install it with: pip install wandb" in outcome.message


def test_the_process_ends_with_its_parent(tmp_path, monkeypatch):
    """Even kill -9 of the step leaves no process behind."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    code = (
        "import sys; from pathlib import Path; from trove_steps.tracking import *;"
        "track_evaluation(settings={}, run_id='r', name='n', config={}, metrics={},"
        " per_query=None, directory=Path(sys.argv[1]))"
    )
    with Server(silent=["graphql"]) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        step = psutil.Popen(
            [sys.executable, "-c", code, str(tmp_path / "results")],
            cwd=Path(tracking.__file__).parents[1],
        )
        try:
            wait_for(lambda: server.requests)
            family = step.children(recursive=True)
            assert any("trove_steps.tracking" in " ".join(child.cmdline()) for child in family)
        finally:
            step.kill()
        step.wait()
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_light_import():
    code = "import sys, trove_steps.tracking; sys.exit('wandb' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(tracking.__file__).parents[1])
