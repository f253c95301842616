"""Steps over several nodes, and several jobs that share a corpus, on a real cluster."""

import json
import re

import pytest

from tests.cluster.conftest import ClusterWorkflow, ask
from tests.integration.conftest import Workflow

pytestmark = pytest.mark.cluster


def results(workflow: Workflow) -> dict[str, bytes]:
    """Return name → bytes of everything that people read but paths, and of the rankings."""
    folder = workflow.folder
    files = [*(folder / "results").rglob("*"), *(folder / "cache" / "searches").rglob("*.arrow")]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.is_file()
        and ".gz" not in path.suffixes
        # A check tells the paths of the files, which here are links for one of the two.
        and path.name != "data.json"
        and path.parent.name != ".data"
    }


def alone(workflow: ClusterWorkflow) -> dict[str, bytes]:
    """Return the results of one process on this machine."""
    folder = workflow.folder / "alone"
    folder.mkdir()
    for name in ("data", "model", "letters.py"):
        if (workflow.folder / name).exists():
            (folder / name).symlink_to(workflow.folder / name)
    config = {**workflow.config, "nproc_per_node": 1, "encode": {}}
    single = Workflow(folder, config)
    single.run("--cores", "1")
    return results(single)


def test_two_nodes_with_two_processes_each(cluster, workflow):
    workflow.config.update(encode={"nodes": 2}, nproc_per_node=2)
    # One CPU thread for each process, as in the run with one process.
    output = workflow.run("--set-threads", "encode_corpus=2", "encode_queries=2", "search=2")
    job = re.search(r"SLURM jobid (\d+).*rule_encode_corpus", output)[1]
    log = workflow.log("encode_corpus")
    print(ask("sinfo"), ask("sacct", "-j", job, "-o", "jobid,nnodes,ntasks,nodelist%20,state"), log)
    if cluster.testbed:
        steps = ask("sacct", "-nPj", job, "-o", "jobid,nnodes,ntasks,state").split()
        assert f"{job}.0|2|2|COMPLETED" in steps
        assert not any(line.startswith(f"{job}.1|") for line in steps)
    launchers = re.findall(r"node (\d) of 2 \((\S+)\): ranks (\d)–(\d) of 4", log)
    assert sorted(number for number, *_ in launchers) == ["0", "1"]
    assert len({host for _, host, *_ in launchers}) == 2
    (records,) = workflow.folder.glob("cache/embeddings/*/corpus-*.json")
    written = (records.parent / "records.jsonl").read_text().splitlines()
    assert {json.loads(line)["world_size"] for line in written if "corpus-" in line} == {4}
    found = results(workflow)
    assert found == alone(workflow)
    assert any(name.endswith("metrics.json") for name in found)


def test_jobs_share_a_corpus_and_one_of_them_is_lost(cluster, slow):
    slow.config["encode"] = {"jobs": 3}
    process = slow.start("--retries", "0")
    jobs = cluster.running("encode_help", process, 2)
    slow.wait_for_shards(3)
    ask("scancel", jobs[0])
    (slow.folder / "slow").unlink()
    output, _ = process.communicate(timeout=500)
    # Without retries the lost helper is an error at the end, but the corpus and all results are there.
    assert process.returncode == 1, output
    assert slow.metrics("tiny", "bert")["num_judged"] == 11
    log = slow.log("encode_corpus")
    assert "(helping)" in log
    assert "7,000 texts" in log
    assert not list(slow.folder.glob("cache/embeddings/*/*.claims"))
    (manifest,) = slow.folder.glob("cache/embeddings/*/corpus-*.json")
    records = (manifest.parent / "records.jsonl").read_text().splitlines()
    of_corpus = [record for record in map(json.loads, records) if record["role"] == "corpus"]
    *helpers, corpus = sorted(of_corpus, key=lambda record: record["cut"] is not None)
    assert 0 < corpus["encoded"] < corpus["distinct"]  # the helpers did the others
    assert {record["round"] for record in helpers} == {corpus["round"]}
    assert slow.planned() == {}
    found = results(slow)
    assert found == alone(slow)
