# Mining. Input: a ranking and, if there are any, the judgments. Output: a record of what lies in the
# folder `mined` of the data set and model, named by what it was made from.


rule mine_negatives:
    """Pick hard negatives from a ranking."""
    input:
        unpack(get_ranking("mining")),
        qrels=get_qrels,
    output:
        record=RESULTS / "{dataset}/{model}/.mine/{key}.json",
    log:
        "logs/mine/{dataset}/{model}-{key}.log",
    benchmark:
        "logs/mine/{dataset}/{model}-{key}.benchmark.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=get_rank_memory,
        runtime=get_rank_minutes,
    params:
        digests=get_qrel_digests,
        options=get_mine_flags,
        cache=CACHE,
    shell:
        "exec python -m trove_steps.torchrun --nproc-per-node 1"
        " -m trove_steps.mine"
        " --search {input.search:q}"
        " --qrel-path {input.qrels:q}"
        " --sha256 {params.digests}"
        " {params.options:q}"
        " --encoding-cache-dir {params.cache:q}"
        " --name {wildcards.dataset:q}/{wildcards.model:q}"
        " --record {output.record:q}"
        " 2> {log:q}"


rule mine:
    """Mine hard negatives with every model on every data set."""
    input:
        get_targets("mine_targets"),
