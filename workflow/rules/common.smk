# What the rules share. The plan (which artefacts, under which names) is made by trove_steps.plan.

import sys

from snakemake.exceptions import WorkflowError

from trove_steps.arguments import model_flags
from trove_steps.devices import count_gpus, processes
from trove_steps.errors import TroveStepsError
from trove_steps.plan import Plan
from trove_steps.resources import Requests, asked_gpus, cpu_threads
from trove_steps.slurm import hazards
from trove_steps.summarise import closing_words

DEMO_FILES = {
    f"demo/{name}" for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv", "model")
}

try:
    PLAN = Plan(config, produced=DEMO_FILES)
except TroveStepsError as error:
    raise WorkflowError(f"{error}")

CACHE, RESULTS = PLAN.cache, PLAN.results
NODES = PLAN.config["encode"]["nodes"]
REQUESTS = Requests(PLAN)


wildcard_constraints:
    encoder="[0-9a-f]{32}",
    texts="[0-9a-f]{32}",
    search="[0-9a-f]{32}",
    key="[0-9a-f]{32}",
    number="[0-9]+",
    depth="[0-9]+",
    dataset="[^/]+",
    model="[^/]+",


def get_targets(kind):
    """Return an input function for a method of the plan that lists targets."""

    def targets(wildcards):
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


def get_encoding(role, wildcards):
    return PLAN.encodings[role, wildcards.encoder, wildcards.texts]


def get_encode_inputs(role):
    def inputs(wildcards):
        encoding = get_encoding(role, wildcards)
        texts = [ancient(link) for link in encoding.links]
        return {"texts": texts, "model": ancient(encoding.model.link)}

    return inputs


def get_digests(role):
    return lambda wildcards: get_encoding(role, wildcards).digests


def get_model_flags(role):
    def flags(wildcards):
        return model_flags(
            PLAN.config["models"][get_encoding(role, wildcards).model.name], role
        )

    return flags


def get_source(wildcards):
    """Return where a model is fetched from."""
    given = PLAN.config["models"][wildcards.model]
    revision = given.get("model_revision", "main")
    return [
        "--model-name-or-path",
        given["model_name_or_path"],
        "--model-revision",
        revision,
    ]


def get_sharing(wildcards, output):
    """Say whether a job makes the manifest of a corpus or only helps, and how many jobs there are."""
    encoding = get_encoding("corpus", wildcards)
    flags = ["--manifest", PLAN.encoding_manifest(encoding)]
    jobs = PLAN.config["encode"]["jobs"]
    if jobs > 1:
        flags += ["--jobs", jobs]
    return (
        flags
        if "manifest" in output.keys()
        else [*flags, "--helper-record", output.record]
    )


def get_search_inputs(wildcards):
    cell = PLAN.searches[wildcards.search]
    return {
        "queries": ancient(PLAN.encoding_manifest(cell.queries)),
        "corpus": ancient(PLAN.encoding_manifest(cell.corpus)),
    }


def get_search_flags(wildcards):
    return PLAN.search_flags(wildcards.search)


def get_ranking(task):
    """Return an input function for a ranking and the manifests that hold the ids of its rows."""

    def inputs(wildcards):
        cell = get_cell(wildcards)
        return {
            "search": ancient(PLAN.search_manifest(cell, task)),
            "queries": ancient(PLAN.encoding_manifest(cell.queries)),
            "corpus": ancient(PLAN.encoding_manifest(cell.corpus)),
        }

    return inputs


def get_qrels(wildcards):
    return [ancient(link) for link in get_cell(wildcards).qrel_links]


def get_qrel_digests(wildcards):
    return get_cell(wildcards).qrel_digests


def get_score_flags(wildcards):
    return PLAN.score_flags(get_cell(wildcards))


def get_score_record(wildcards):
    return ancient(PLAN.score_record(get_cell(wildcards)))


def get_summary_inputs(wildcards):
    return [ancient(path) for path in PLAN.score_records()]


def get_mine_flags(wildcards):
    return PLAN.mine_flags(get_cell(wildcards))


def get_processes(wildcards):
    """Return the number of processes; on a cluster's node, "auto" is found out there."""
    wanted = PLAN.config["nproc_per_node"]
    return processes(wanted) if workflow.local_exec else wanted


def get_slots():
    """Return how many steps with one process each may use this machine's GPUs at once."""
    if count_gpus() and "gpu" not in workflow.global_resources:
        workflow.register_resource(
            "gpu", count_gpus()
        )  # else steps would share devices
    return workflow.global_resources["gpu"].value if count_gpus() else 0


def get_gpus(wildcards):
    """Return how many of this machine's GPUs a step takes; a cluster's profile says so itself."""
    if not workflow.local_exec:
        return 0
    return min(get_processes(wildcards), get_slots())


def get_threads(wildcards):
    """Return the CPU threads of a step here; a cluster's profile says so itself."""
    if not workflow.local_exec:
        return 1
    return cpu_threads(
        workflow.resource_settings.cores, get_processes(wildcards), get_slots()
    )


def get_asked_gpus(rule):
    """Return the GPUs on a node that a cluster's profile asks for a rule."""
    return asked_gpus(workflow.resource_settings.overwrite_resources.get(rule, {}))


def get_encode_memory(role):
    return lambda wildcards, attempt: REQUESTS.encode_memory(
        get_encoding(role, wildcards), attempt
    )


def get_encode_minutes(role):
    return lambda wildcards, threads, attempt: REQUESTS.encode_minutes(
        get_encoding(role, wildcards),
        threads,
        get_asked_gpus(f"encode_{role}"),
        attempt,
    )


def get_search_memory(wildcards, attempt):
    cell = PLAN.searches[wildcards.search]
    return REQUESTS.search_memory(cell, int(wildcards.depth), attempt)


def get_search_minutes(wildcards, threads, attempt):
    cell = PLAN.searches[wildcards.search]
    return REQUESTS.search_minutes(cell, threads, get_asked_gpus("search"), attempt)


def get_rank_memory(wildcards, attempt):
    return REQUESTS.rank_memory(get_cell(wildcards), attempt)


def get_rank_minutes(wildcards, attempt):
    return REQUESTS.rank_minutes(attempt)


def get_span():
    """Return the resources of a step that starts one launcher on each of several nodes."""
    return (
        {"nodes": NODES, "tasks": NODES, "mpi": "srun"} if NODES > 1 else {"nodes": 1}
    )


def show_hazards():
    """Before jobs are submitted, say which settings would make snakemake wait for ever."""
    for line in hazards(workflow.executor_settings, workflow.resource_settings.cores):
        print(f"warning: {line}", file=sys.stderr)


def show_summary():
    """Print the table of results and where to look."""
    print(closing_words(PLAN))
