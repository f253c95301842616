"""The real workflow in a temporary folder."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.conftest import PROJECT, make_dataset, make_model
from tests.integration.browser import Browser, need
from tests.integration.disk import Disk

pytest.register_assert_rewrite("tests.integration.runs")

BIN = Path(sys.executable).parent
COMPUTING = (
    *("encode_corpus", "encode_queries", "search", "score", "compare"),
    *("rescore", "mine_negatives", "merge_negatives"),
)


@dataclass
class Workflow:
    """A working directory with a configuration; `run` and `planned` call snakemake in it."""

    folder: Path
    config: dict = field(default_factory=dict)

    def save(self) -> Path:
        path = self.folder / "my.yaml"
        path.write_text(yaml.safe_dump(self.config, sort_keys=False), encoding="utf-8")
        return path

    def command(self, *arguments: str) -> list[str]:
        return [
            str(BIN / "snakemake"),
            "--configfile",
            str(self.save()),
            "--snakefile",
            str(PROJECT / "Snakefile"),
            *arguments,
        ]

    def environment(self) -> dict:
        return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "200"}

    def start(self, *arguments: str, **options) -> subprocess.Popen:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **options,
        )

    def run(self, *arguments: str, expect: int = 0, timeout: float = 500) -> str:
        """Run snakemake; return all it printed. `expect` is its exit status, None for any."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=timeout)
        assert expect is None or process.returncode == expect, output
        return output

    def planned(self, *arguments: str) -> dict[str, int]:
        """Return rule → number of jobs that `snakemake -n` would run."""
        output = self.run("--dry-run", *arguments)
        table = output.partition("Job stats:")[2].partition("total")[0]
        jobs = dict(re.findall(r"^(\w+)\s+(\d+)\s*$", table, re.MULTILINE))
        return {rule: int(count) for rule, count in jobs.items() if rule in (*COMPUTING, "track")}

    def metrics(self, dataset: str, model: str) -> dict:
        return json.loads((self.folder / "results" / dataset / model / "metrics.json").read_text())


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium, as Debian packages it."""
    pytest.importorskip("selenium")
    need("chromium", "chromedriver")
    found = Browser()
    yield found
    found.driver.quit()


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory) -> Path:
    """Deep enough that `runs.long_workflow`'s corpus is not encoded before a test has killed seven runs."""
    return make_model(tmp_path_factory.mktemp("models") / "slow", width=128, layers=12)


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "workflow" / "cache", megabytes=2.2)
    yield disk
    disk.unmount()


@pytest.fixture
def workflow(tmp_path, tiny_model) -> Workflow:
    """One tiny data set and one tiny model, to be evaluated and mined."""
    make_dataset(tmp_path / "data")
    return Workflow(tmp_path, make_config(tiny_model))


def make_config(model: Path) -> dict:
    return {
        "datasets": {
            "tiny": {
                "corpus_path": "data/corpus.jsonl",
                "query_path": "data/queries.jsonl",
                "qrel_path": "data/qrels.tsv",
            }
        },
        "models": {
            "bert": {
                "model_name_or_path": str(model),
                "pooling": "mean",
                "normalize": True,
                "query_max_len": 16,
                "passage_max_len": 32,
            }
        },
        "evaluation": {"ir_metrics_k_values": [1, 5, 10]},
        "mining": {"search_topk": 5},
        "report": False,  # test_report and test_tracking turn it on
    }
