# What jobs take of this machine (threads, processes, gpu) and ask a cluster for (mem_mb, runtime).

from functools import cache

from trove_steps.jobs.requests import Limits, Requests


def get_processes(wildcards):
    return EXECUTION.processes()


def get_gpus(wildcards):
    return EXECUTION.gpus()


def get_threads(wildcards):
    return EXECUTION.threads()


def get_span():
    """Return the resources of a step that starts one launcher on each of several nodes."""
    nodes = PLAN.config["encode"]["nodes"]
    return (
        {"nodes": nodes, "tasks": nodes, "mpi": "srun"} if nodes > 1 else {"nodes": 1}
    )


@cache
def get_requests(step):
    """Return what computes the memory and time of a step's jobs, within the limits of its place."""
    cluster = PLAN.config["cluster"]
    configured = Limits(cluster["max_minutes"], cluster["max_mem_mb"])
    return Requests(PLAN, EXECUTION.limits(step, configured))


def get_encode_memory(role):
    step = f"encode_{role}"
    return lambda wildcards, attempt: get_requests(step).encode_memory(
        get_encoding(role, wildcards), attempt
    )


def get_encode_minutes(role):
    step = f"encode_{role}"
    return lambda wildcards, threads, attempt: get_requests(step).encode_minutes(
        get_encoding(role, wildcards), threads, EXECUTION.asked_gpus(step), attempt
    )


def get_search_memory(wildcards, attempt):
    cell = PLAN.searches[wildcards.search]
    return get_requests("search").search_memory(cell, attempt)


def get_search_minutes(wildcards, threads, attempt):
    cell, gpus = PLAN.searches[wildcards.search], EXECUTION.asked_gpus("search")
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
    return get_requests("check_data").check_memory(get_data(wildcards), attempt)


def get_check_minutes(wildcards, attempt):
    return get_requests("check_data").check_minutes(get_data(wildcards), attempt)


def get_rescore_memory(wildcards, attempt):
    cell = PLAN.rescores[wildcards.key]
    return get_requests("rescore").rescore_memory(cell, attempt)


def get_rescore_minutes(wildcards, threads, attempt):
    cell, gpus = PLAN.rescores[wildcards.key], EXECUTION.asked_gpus("rescore")
    return get_requests("rescore").rescore_minutes(cell, threads, gpus, attempt)
