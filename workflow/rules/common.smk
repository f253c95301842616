# What the rules share. The plan (which artefacts, under which names) is made by trove_steps.plan.

import os
import sys
import time
from functools import cache

from snakemake.exceptions import WorkflowError

from trove_steps.devices import count_gpus, processes
from trove_steps.errors import TroveStepsError
from trove_steps.files import repairing
from trove_steps.live import close_views, name_jobs
from trove_steps.plan import Plan
from trove_steps.resources import Limits, Requests, asked_gpus, cpu_threads
from trove_steps.slurm_cluster import (
    asks_for_cores,
    hazards,
    on_slurm,
    partition_limits,
)
from trove_steps.slurm_watch import watch
from trove_steps.summarise import closing_words
from trove_steps.unfinished import unfinished
from trove_steps.yaml_keys import check_unique_keys

DEMO_FILES = {
    f"demo/{name}" for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv", "model")
}

try:
    check_unique_keys(workflow.overwrite_configfiles or ["config/config.yaml"])
    with repairing():
        PLAN = Plan(config, produced=DEMO_FILES)
except TroveStepsError as error:
    raise WorkflowError(f"{error}")

name_jobs(PLAN.name_of_job)
if workflow.remote_exec:  # here, on a node, all has been fetched that a job needs
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
BEGAN = time.time()
CACHE, RESULTS = PLAN.cache, PLAN.results
NODES = PLAN.config["encode"]["nodes"]


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


def uncap_jobs():
    """On SLURM, leave the CPUs of jobs alone: with --profile, `cores` of profiles/default are of this machine."""
    if on_slurm(workflow.executor_settings) and not asks_for_cores(sys.argv):
        workflow.resource_settings.cores = None
        workflow.global_resources["_cores"] = None


def get_targets(kind):
    """Return an input function for a method of the plan that lists targets."""

    def targets(wildcards):
        uncap_jobs()  # the first moment at which the executor is known
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
        checks = [ancient(record) for record in PLAN.checks_before(encoding)]
        return {
            "texts": texts,
            "model": ancient(encoding.model.link),
            "checks": checks,
        }

    return inputs


def get_data_inputs(wildcards):
    data = PLAN.datasets[wildcards.dataset]
    links = (*data.corpus.links, *data.queries.links, *data.qrels.links)
    return [ancient(link) for link in links]


def get_check_before(record):
    """Return an input function for the check before a result; `record` is a method of the plan."""

    def check(wildcards):
        cell = get_cell(wildcards)
        return PLAN.check_before(cell, getattr(PLAN, record)(cell))

    return check


def get_check_flags(wildcards):
    return PLAN.check_flags(wildcards.dataset)


def get_reader_flags(role):
    return lambda wildcards: PLAN.reader_flags(get_encoding(role, wildcards))


def get_digests(role):
    return lambda wildcards: get_encoding(role, wildcards).digests


def get_imported(wildcards):
    imported = f"imported-{wildcards.encoder}"
    return PLAN.encodings[wildcards.role, imported, wildcards.texts]


def get_import_inputs(wildcards):
    imported = get_imported(wildcards)
    files = {
        "embeddings": imported.links,
        "texts": imported.text_links,
        "checks": PLAN.checks_before(imported),
    }
    return {name: [ancient(link) for link in links] for name, links in files.items()}


def get_import_reader_flags(wildcards):
    return PLAN.reader_flags(get_imported(wildcards))


def get_import_digests(which):
    return lambda wildcards: getattr(get_imported(wildcards), which)


def get_model_flags(role):
    return lambda wildcards: PLAN.model_flags(get_encoding(role, wildcards))


def get_model_name(role):
    return lambda wildcards: get_encoding(role, wildcards).model.name


def get_source(wildcards):
    """Return where a model or a data set is fetched from."""
    return PLAN.sources[wildcards.model].flags()


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
    PLAN.restore_dropped(cell, int(wildcards.depth))
    return {
        "queries": ancient(PLAN.encoding_manifest(cell.queries)),
        "corpus": ancient(PLAN.encoding_manifest(cell.corpus)),
    }


def get_search_flags(wildcards):
    return PLAN.search_flags(wildcards.search)


def get_ranking(task):
    """Return an input function for a ranking and the manifests that hold the ids of its rows."""

    return lambda wildcards: ranking_of(get_cell(wildcards), task)


def ranking_of(cell, task):
    return {
        "search": ancient(PLAN.search_manifest(cell, task)),
        "queries": ancient(PLAN.encoding_manifest(cell.queries)),
        "corpus": ancient(PLAN.encoding_manifest(cell.corpus)),
    }


def get_qrels(wildcards):
    return [ancient(link) for link in get_cell(wildcards).data.qrels.links]


def get_qrel_digests(wildcards):
    return get_cell(wildcards).data.qrels.digests


def get_score_flags(wildcards):
    cell = get_cell(wildcards)
    return [*PLAN.qrel_flags(cell), *PLAN.score_flags(cell)]


def get_track_inputs(wildcards):
    records = PLAN.track_inputs(get_cell(wildcards))
    return {name: ancient(path) for name, path in records.items()}


def get_summary_inputs(wildcards):
    return [ancient(path) for path in PLAN.score_records()]


def get_comparison_inputs(wildcards):
    return [ancient(PLAN.score_record(cell)) for cell in PLAN.compared]


def get_files(wildcards):
    """Return the links to all files of a data set: judgments, corpus, queries."""
    return files_of(get_cell(wildcards))


def files_of(cell):
    files = {
        "qrels": cell.data.qrels.links,
        "corpus_files": cell.data.corpus.links,
        "query_files": cell.data.queries.links,
    }
    return {name: [ancient(link) for link in links] for name, links in files.items()}


def get_file_flags(wildcards):
    return PLAN.file_flags(get_cell(wildcards))


def get_pair_scores(wildcards):
    manifest = PLAN.rescore_manifest(get_cell(wildcards))
    return {"pair_scores": ancient(manifest)} if manifest else {}


def get_pair_score_flags(wildcards):
    manifest = PLAN.rescore_manifest(get_cell(wildcards))
    return ["--pair-scores", manifest] if manifest else []


def get_rescore_inputs(wildcards):
    cell = PLAN.rescores[wildcards.key]
    inputs = ranking_of(cell, "mining") | files_of(cell)
    check = PLAN.check_before(cell, PLAN.rescore_manifest(cell))
    return inputs | {"model": ancient(PLAN.cross_encoder.link), "check": check}


def get_rescore_file_flags(wildcards):
    return PLAN.file_flags(PLAN.rescores[wildcards.key])


def get_merge_inputs(wildcards):
    cells = PLAN.merged_cells(wildcards.dataset)
    mined = [ancient(PLAN.mine_record(cell)) for cell in cells]
    return ranking_of(cells[0], "mining") | files_of(cells[0]) | {"mined": mined}


def get_merge_file_flags(wildcards):
    return PLAN.file_flags(PLAN.merged_cells(wildcards.dataset)[0])


def get_published_manifest(wildcards):
    encoding, _ = PLAN.publications[wildcards.key]
    return ancient(PLAN.encoding_manifest(encoding))


def get_published_path(wildcards):
    return PLAN.publications[wildcards.key][1]


def get_drop_inputs(wildcards):
    return [ancient(path) for path in PLAN.drops[wildcards.key][1]]


def get_dropped_manifest(wildcards):
    return PLAN.encoding_manifest(PLAN.drops[wildcards.key][0])


def get_report_record(wildcards):
    return ancient(PLAN.report_record)


def get_report_inputs(wildcards):
    return {
        task: [ancient(path) for path in paths]
        for task, paths in PLAN.report_inputs().items()
    }


def get_processes(wildcards):
    """Return the number of processes; on a cluster's node, auto is found out there, and 0 here.

    A word would not do: all steps of a group must have the same, also those without processes.
    """
    wanted = PLAN.config["nproc_per_node"]
    if workflow.local_exec:
        return processes(wanted)
    return 0 if wanted == "auto" else wanted


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


def get_asked(rule):
    """Return what a cluster's profile asks for a rule, as it is written there."""
    settings = workflow.resource_settings
    # Newer releases of Snakemake 9 have objects here, with what was written in `raw`.
    asked = {
        **(settings.default_resources or {}),
        **settings.overwrite_resources.get(rule, {}),
    }
    return {name: getattr(value, "raw", value) for name, value in asked.items()}


@cache
def get_requests(step):
    """Return what computes the memory and time of a step's jobs, within the limits of its place."""
    cluster = PLAN.config["cluster"]
    limits = Limits(cluster["max_minutes"], cluster["max_mem_mb"])
    if on_slurm(workflow.executor_settings):
        partition = str(get_asked(step).get("slurm_partition", ""))
        limits = limits.within(Limits(*partition_limits().get(partition, ())))
    if step in workflow.group_settings.overwrite_groups:
        limits = limits.of_shared_job(step)
    return Requests(PLAN, limits)


def get_encode_memory(role):
    step = f"encode_{role}"
    return lambda wildcards, attempt: get_requests(step).encode_memory(
        get_encoding(role, wildcards), attempt
    )


def get_encode_minutes(role):
    step = f"encode_{role}"
    return lambda wildcards, threads, attempt: get_requests(step).encode_minutes(
        get_encoding(role, wildcards), threads, asked_gpus(get_asked(step)), attempt
    )


def get_search_memory(wildcards, attempt):
    cell = PLAN.searches[wildcards.search]
    return get_requests("search").search_memory(cell, attempt)


def get_search_minutes(wildcards, threads, attempt):
    cell, gpus = PLAN.searches[wildcards.search], asked_gpus(get_asked("search"))
    return get_requests("search").search_minutes(cell, threads, gpus, attempt)


def get_rank_memory(rule):
    return lambda wildcards, attempt: get_requests(rule).rank_memory(
        get_cell(wildcards), attempt
    )


def get_rank_minutes(rule):
    return lambda wildcards, attempt: get_requests(rule).rank_minutes(attempt)


def get_least_memory(rule):
    return lambda wildcards, attempt: get_requests(rule).least_memory(attempt)


def get_merge_memory(wildcards, attempt):
    cells = PLAN.merged_cells(wildcards.dataset)
    return get_requests("merge_negatives").merge_memory(cells, attempt)


def get_import_memory(wildcards, attempt):
    imported = get_imported(wildcards)
    return get_requests("import_embeddings").move_memory(imported, "", attempt)


def get_import_minutes(wildcards, attempt):
    imported = get_imported(wildcards)
    return get_requests("import_embeddings").move_minutes(imported, attempt)


def get_publish_memory(wildcards, attempt):
    encoding, path = PLAN.publications[wildcards.key]
    return get_requests("publish").move_memory(encoding, str(path), attempt)


def get_publish_minutes(wildcards, attempt):
    encoding, _ = PLAN.publications[wildcards.key]
    return get_requests("publish").move_minutes(encoding, attempt)


def get_report_memory(wildcards, attempt):
    return get_requests("write_report").report_memory(attempt)


def get_report_minutes(wildcards, attempt):
    return get_requests("write_report").report_minutes(attempt)


def get_check_memory(wildcards, attempt):
    data = PLAN.datasets[wildcards.dataset]
    return get_requests("check_data").check_memory(data, attempt)


def get_check_minutes(wildcards, attempt):
    data = PLAN.datasets[wildcards.dataset]
    return get_requests("check_data").check_minutes(data, attempt)


def get_rescore_memory(wildcards, attempt):
    cell = PLAN.rescores[wildcards.key]
    return get_requests("rescore").rescore_memory(cell, attempt)


def get_rescore_minutes(wildcards, threads, attempt):
    cell, gpus = PLAN.rescores[wildcards.key], asked_gpus(get_asked("rescore"))
    return get_requests("rescore").rescore_minutes(cell, threads, gpus, attempt)


def get_span():
    """Return the resources of a step that starts one launcher on each of several nodes."""
    return (
        {"nodes": NODES, "tasks": NODES, "mpi": "srun"} if NODES > 1 else {"nodes": 1}
    )


def follow_jobs():
    """Before jobs are submitted, say what could go wrong, and take over following them on SLURM."""
    settings, cores = workflow.executor_settings, workflow.resource_settings.cores
    lines = hazards(settings, cores)
    executor = getattr(workflow.scheduler, "_executor", None)
    if on_slurm(settings) and not watch(executor):
        lines.append(
            "this release of snakemake follows the jobs itself: it may wait for ever for one that is "
            "preempted, or when SLURM does not answer for a while"
        )
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)


def show_unfinished():
    """After an error on a cluster, name the steps that did not finish, and the ends of their logs."""
    failed = getattr(workflow.scheduler, "failed", ())
    told = "" if workflow.local_exec else unfinished(failed, BEGAN)
    if told:
        print(told, file=sys.stderr)


def show_summary():
    """Print the table of results and where to look."""
    close_views()
    print(closing_words(PLAN))
