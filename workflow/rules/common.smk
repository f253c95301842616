# What the rules share: the plan, which trove_steps.plan makes of the configuration, and what it has of a job.

import os
import sys
import time

from snakemake.exceptions import WorkflowError

from trove_steps.config.reading import DEFAULT, check_once
from trove_steps.config.yaml_keys import check_unique_keys
from trove_steps.errors import TroveStepsError
from trove_steps.files import repairing
from trove_steps.jobs.execution import Execution
from trove_steps.live import close_views, name_jobs
from trove_steps.plan import Plan
from trove_steps.summarise import closing_words

DEMO_FILES = {
    f"demo/{name}" for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv", "model")
}

try:
    check_once(sys.argv)
    check_unique_keys(workflow.overwrite_configfiles or [DEFAULT])
    with repairing():
        PLAN = Plan(config, produced=DEMO_FILES)
except TroveStepsError as error:
    raise WorkflowError(f"{error}")

name_jobs(PLAN.name_of_job)
if workflow.remote_exec:  # here, on a node, all has been fetched that a job needs
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
BEGAN = time.time()
CACHE, RESULTS = PLAN.cache, PLAN.results
EXECUTION = Execution(workflow, PLAN.config["nproc_per_node"])


wildcard_constraints:
    encoder="[0-9a-f]{32}",
    texts="[0-9a-f]{32}",
    role="corpus|queries",
    search="[0-9a-f]{32}",
    key="[0-9a-f]{32}",
    place="[0-9a-f]{32}",
    number="[0-9]+",
    depth="[0-9]+",
    dataset="[^/]+",
    model="[^/]+",


def get_targets(kind):
    """Return an input function for a method of the plan that lists targets."""

    def targets(wildcards):
        EXECUTION.uncap_jobs(
            sys.argv
        )  # the first moment at which the executor is known
        if PLAN.missing:
            checkpoints.prepare_demo.get()  # returns once its files are there
        if PLAN.missing:
            raise WorkflowError(
                f"{', '.join(PLAN.missing)} does not exist, but other files of the demo do: "
                "delete the folder demo and start again"
            )
        for name in PLAN.unfetched:
            PLAN.fetch_record(name)
            checkpoints.fetch.get(model=name)
        try:
            return [ancient(path) for path in getattr(PLAN, kind)()]
        except TroveStepsError as error:
            raise WorkflowError(f"{error}")

    return targets


def get_cell(wildcards):
    return PLAN.cells[wildcards.dataset, wildcards.model]


def get_data(wildcards):
    return PLAN.datasets[wildcards.dataset]


def get_encoding(role, wildcards):
    return PLAN.encodings[role, wildcards.encoder, wildcards.texts]


def get_imported(wildcards):
    imported = f"imported-{wildcards.encoder}"
    return PLAN.encodings[wildcards.role, imported, wildcards.texts]


def follow_jobs():
    """Before jobs are submitted, say what could go wrong, and take over following them on SLURM."""
    for line in EXECUTION.follow_jobs():
        print(f"warning: {line}", file=sys.stderr)


def show_unfinished():
    """After an error on a cluster, name the steps that did not finish, and the ends of their logs."""
    told = EXECUTION.unfinished(BEGAN)
    if told:
        print(told, file=sys.stderr)


def show_summary():
    """Print the table of results and where to look."""
    close_views()
    print(closing_words(PLAN))
