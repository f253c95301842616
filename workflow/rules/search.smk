# Searching. Input: the manifests of a corpus and of queries. Output: a manifest of the ranking, which
# evaluation and mining share.


rule search:
    """Find the best documents of every query, exactly."""
    input:
        unpack(get_search_inputs),
    output:
        manifest=CACHE / "searches/{search}/top{depth}.json",
    log:
        "logs/search/{search}-top{depth}.log",
    benchmark:
        "logs/search/{search}-top{depth}.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: get_threads
    resources:
        processes=get_processes,
        block=PLAN.config["per_device_matmul_batch_size"] or 0,
        gpu=get_gpus,
        tasks_per_gpu=0,
        mem_mb=get_search_memory,
        runtime=get_search_minutes,
    params:
        rules=get_search_flags,
    shell:
        "exec python -m trove_steps.torchrun --nproc-per-node {resources.processes}"
        " --threads {threads}"
        " -m trove_steps.search"
        " --query-embeddings {input.queries:q}"
        " --corpus-embeddings {input.corpus:q}"
        " --depth {wildcards.depth}"
        " {params.rules:q}"
        " --per-device-matmul-batch-size {resources.block}"
        " --output {output.manifest:q}"
        " 2> {log:q}"
