# Mining. Input: a ranking, the files of the data set and, if a cross-encoder is named, its scores.
# Output: a record of what lies in the folder `mined` of the data set and model, or, for the merged
# negatives of all models, of the data set; named by what it was made from.


rule mine_negatives:
    """Pick hard negatives from a ranking."""
    input:
        unpack(get_mining_inputs),
        unpack(get_pair_scores),
        check=get_check_before("mine_record"),
    output:
        record=RESULTS / "{dataset}/{model}/.mine/{key}.json",
    log:
        "logs/mine/{dataset}/{model}-{key}.log",
    benchmark:
        "logs/mine/{dataset}/{model}-{key}.benchmark.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=get_rank_memory("mine_negatives"),
        runtime=get_rank_minutes("mine_negatives"),
    params:
        files=get_file_flags,
        options=PLAN.mine_flags(),
        scores=get_pair_score_flags,
        cache=CACHE,
    shell:
        "exec python -m trove_steps.torchrun --nproc-per-node 1"
        " -m trove_steps.mine"
        " --search {input.search:q}"
        " {params.files:q}"
        " {params.options:q}"
        " {params.scores:q}"
        " --encoding-cache-dir {params.cache:q}"
        " --name {wildcards.dataset:q}/{wildcards.model:q}"
        " --record {output.record:q}"
        " 2> {log:q}"


rule rescore:
    """Let a cross-encoder score the candidates and the positives of every query."""
    input:
        unpack(get_rescore_inputs),
    output:
        manifest=CACHE / "pair_scores/{encoder}/{key}.json",
    log:
        "logs/rescore/{encoder}-{key}.log",
    benchmark:
        "logs/rescore/{encoder}-{key}.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: get_threads
    resources:
        processes=get_processes,
        gpu=get_gpus,
        tasks_per_gpu=0,
        mem_mb=get_rescore_memory,
        runtime=get_rescore_minutes,
    params:
        files=get_rescore_file_flags,
        options=PLAN.rescore_flags(),
        cache=CACHE,
    shell:
        "exec python -m trove_steps.torchrun --nproc-per-node {resources.processes}"
        " --threads {threads}"
        " -m trove_steps.rescore"
        " --search {input.search:q}"
        " {params.files:q}"
        " --cross-encoder {input.model:q}"
        " {params.options:q}"
        " --encoding-cache-dir {params.cache:q}"
        " --output {output.manifest:q}"
        " 2> {log:q}"


rule merge_negatives:
    """Merge the negatives that all models mined for a data set."""
    input:
        unpack(get_merge_inputs),
    output:
        record=RESULTS / "{dataset}/.mine/{key}.json",
    log:
        "logs/mine/{dataset}-{key}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=get_merge_memory,
        runtime=get_rank_minutes("merge_negatives"),
    params:
        files=get_merge_file_flags,
        options=PLAN.merge_flags(),
        cache=CACHE,
    shell:
        "exec python -m trove_steps.torchrun --nproc-per-node 1"
        " -m trove_steps.merge_negatives"
        " --search {input.search:q}"
        " --mined {input.mined:q}"
        " {params.files:q}"
        " {params.options:q}"
        " --encoding-cache-dir {params.cache:q}"
        " --name {wildcards.dataset:q}"
        " --record {output.record:q}"
        " 2> {log:q}"


rule mine:
    """Mine hard negatives with every model on every data set."""
    input:
        get_targets("mine_targets"),
