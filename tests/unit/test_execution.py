"""What a run reads from snakemake's workflow object, with a stand-in for that."""

from types import SimpleNamespace

import pytest

from trove_steps.jobs import execution
from trove_steps.jobs.execution import Execution, asked_gpus, cpu_threads
from trove_steps.jobs.requests import Limits

SLURM = SimpleNamespace(status_command="squeue", no_requeue=True, requeue=False)


class Workflow(SimpleNamespace):
    """A run on this machine with 8 cores, unless told otherwise."""

    def __init__(self, **changes):
        super().__init__(
            local_exec=True,
            executor_settings=None,
            resource_settings=SimpleNamespace(
                cores=8, default_resources=None, overwrite_resources={}
            ),
            group_settings=SimpleNamespace(overwrite_groups={}),
            global_resources={"_cores": 8},
            scheduler=None,
        )
        vars(self).update(changes)

    def register_resource(self, name, value):
        self.global_resources[name] = SimpleNamespace(value=value)


@pytest.fixture
def on_cluster(monkeypatch) -> Workflow:
    """A run on SLURM, whose partitions gpu and short end jobs after 600 and 30 minutes."""
    partitions = {"gpu": (600, 64_000), "short": (30, 8000), "": (None, 16_000)}
    monkeypatch.setattr(execution, "partition_limits", lambda: partitions)
    return Workflow(local_exec=False, executor_settings=SLURM)


@pytest.fixture
def four_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


# --- this machine ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_gpu")
def test_without_gpus_a_step_takes_all_cores():
    here = Execution(Workflow(), "auto")
    assert (here.processes(), here.slots(), here.gpus(), here.threads()) == (1, 0, 0, 8)
    assert "gpu" not in here.workflow.global_resources


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("nproc", "processes", "gpus", "threads"), [("auto", 4, 4, 8), (1, 1, 1, 2), (6, 6, 4, 8)]
)
def test_with_gpus_a_step_takes_its_share(nproc, processes, gpus, threads):
    here = Execution(Workflow(), nproc)
    assert (here.processes(), here.gpus(), here.threads()) == (processes, gpus, threads)


@pytest.mark.usefixtures("four_gpus")
def test_steps_share_the_gpus_that_snakemake_was_given():
    given = Workflow(global_resources={"gpu": SimpleNamespace(value=2)})
    assert Execution(given, "auto").slots() == 2
    free = Execution(Workflow(), "auto")
    assert free.slots() == 4
    assert free.workflow.global_resources["gpu"].value == 4  # snakemake starts no more than fit


@pytest.mark.parametrize(
    ("cores", "processes", "gpus", "threads"),
    [
        (8, 1, 0, 8),
        (8, 4, 0, 8),
        (16, 1, 4, 4),
        (16, 4, 4, 16),
        (16, 9, 4, 16),
        (2, 1, 8, 1),
        (None, 1, 0, 1),
    ],
)
def test_threads_on_this_machine_stay_within_the_cores(cores, processes, gpus, threads):
    assert cpu_threads(cores, processes, gpus) == threads
    if cores and gpus and cores >= gpus:
        at_once = gpus // min(processes, gpus)
        assert at_once * threads <= cores


# --- a cluster -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(("nproc", "processes"), [("auto", 0), (3, 3)])
def test_the_login_nodes_devices_say_nothing_about_a_node(on_cluster, nproc, processes):
    there = Execution(on_cluster, nproc)
    assert (there.processes(), there.gpus(), there.threads()) == (processes, 0, 1)


def test_cores_of_the_login_node_cap_no_job(on_cluster):
    Execution(on_cluster, 1).uncap_jobs(["snakemake", "--cores", "8"])
    assert on_cluster.resource_settings.cores == on_cluster.global_resources["_cores"] == 8
    Execution(on_cluster, 1).uncap_jobs(["snakemake", "--profile", "slurm"])
    assert on_cluster.resource_settings.cores is on_cluster.global_resources["_cores"] is None


def test_cores_of_this_machine_stay():
    workflow = Workflow()
    Execution(workflow, 1).uncap_jobs(["snakemake"])
    assert workflow.resource_settings.cores == workflow.global_resources["_cores"] == 8


def test_what_a_profile_asks_for(on_cluster):
    on_cluster.resource_settings.default_resources = {"slurm_partition": "short", "gpu": 1}
    raw = SimpleNamespace(raw="gpu:2")  # as newer releases of snakemake keep it
    on_cluster.resource_settings.overwrite_resources = {
        "search": {"slurm_partition": "gpu", "gres": raw}
    }
    there = Execution(on_cluster, 1)
    assert there.asked("search") == {"slurm_partition": "gpu", "gres": "gpu:2", "gpu": 1}
    assert there.asked("score") == {"slurm_partition": "short", "gpu": 1}
    assert (there.asked_gpus("search"), there.asked_gpus("score")) == (2, 1)


@pytest.mark.parametrize(
    ("asked", "gpus"),
    [
        ({}, 0),
        ({"gres": "gpu:4"}, 4),
        ({"gres": "gpu:a100:2"}, 2),
        ({"gres": "gpu"}, 1),
        ({"gres": "lustre:1"}, 0),
        ({"gpu": 2}, 2),
        ({"gpu": "3"}, 3),
        ({"gpu": "attempt"}, 1),
        ({"pod_gpus": 1, "mem_mb": 9}, 1),
    ],
)
def test_gpus_that_a_profile_asks_for(asked, gpus):
    assert asked_gpus(asked) == gpus


def test_limits_are_those_of_the_partition_and_the_shared_job(on_cluster):
    settings = on_cluster.resource_settings
    settings.overwrite_resources = {"search": {"slurm_partition": "gpu"}}
    there = Execution(on_cluster, 1)
    assert there.limits("search", Limits()) == Limits(600, 64_000)
    assert there.limits("search", Limits(60, None)) == Limits(60, 64_000)
    assert there.limits("score", Limits(60, None)) == Limits(60, 16_000)  # the default partition
    settings.default_resources = {"slurm_partition": "unknown"}
    assert there.limits("score", Limits(60, 9)) == Limits(60, 9)
    on_cluster.group_settings.overwrite_groups = {"search": "cell"}
    assert there.limits("search", Limits()) == Limits(600, 64_000).of_shared_job("search")


def test_limits_of_other_executors_are_the_configured_ones():
    assert Execution(Workflow(), 1).limits("search", Limits(60, 9)) == Limits(60, 9)


def test_a_run_that_can_not_be_followed_says_so(on_cluster, monkeypatch):
    monkeypatch.setattr(execution, "hazards", lambda settings, cores: [f"{cores} cores"])
    monkeypatch.setattr(execution, "watch", lambda executor: executor == "an executor")
    lines = Execution(on_cluster, 1).follow_jobs()
    assert [line.split(":")[0] for line in lines] == [
        "8 cores",
        "this release of snakemake follows the jobs itself",
    ]
    on_cluster.scheduler = SimpleNamespace(_executor="an executor")
    assert Execution(on_cluster, 1).follow_jobs() == ["8 cores"]


def test_unfinished_steps_are_those_of_a_cluster(on_cluster, monkeypatch):
    monkeypatch.setattr(execution, "unfinished", lambda jobs, since: f"{jobs} since {since}")
    scheduler = SimpleNamespace(failed="jobs")
    assert Execution(Workflow(scheduler=scheduler), 1).unfinished(7) == ""
    on_cluster.scheduler = scheduler
    assert Execution(on_cluster, 1).unfinished(7) == "jobs since 7"
    on_cluster.scheduler = None  # it broke off before any was submitted
    assert Execution(on_cluster, 1).unfinished(7) == "() since 7"
