# Evaluation. Input: a ranking and the judgments. Output: a record of what lies in the results folder
# of the data set and model (metrics.json, per_query.parquet, run.trec.gz), named by what it was made from.


rule score:
    """Compute the metrics of a ranking."""
    input:
        unpack(get_evaluation_inputs),
        qrels=get_qrels,
        check=get_check_before("score_record"),
    output:
        record=RESULTS / "{dataset}/{model}/.evaluate/{key}.json",
    log:
        "logs/score/{dataset}/{model}-{key}.log",
    benchmark:
        "logs/score/{dataset}/{model}-{key}.benchmark.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=get_rank_memory("score"),
        runtime=get_rank_minutes("score"),
    params:
        digests=get_qrel_digests,
        options=get_score_flags,
        cache=CACHE,
    shell:
        "exec python -m trove_steps.torchrun --nproc-per-node 1"
        " -m trove_steps.score"
        " --search {input.search:q}"
        " --qrel-path {input.qrels:q}"
        " --qrel-sha256 {params.digests}"
        " {params.options:q}"
        " --encoding-cache-dir {params.cache:q}"
        " --name {wildcards.dataset:q}/{wildcards.model:q}"
        " --record {output.record:q}"
        " 2> {log:q}"


rule track:
    """Log an evaluation to the trackers of report_to."""
    input:
        unpack(get_track_inputs),
    output:
        record=RESULTS / "{dataset}/{model}/.track/{key}.json",
    log:
        "logs/track/{dataset}/{model}-{key}.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        settings=PLAN.wandb_settings,
        trackers=PLAN.evaluation["report_to"],
        mining=lambda wildcards, input: input.get("mining", []),
        cache=CACHE,
        results=RESULTS,
    shell:
        "exec python -m trove_steps.track"
        " --evaluation {input.record:q}"
        " --mining {params.mining:q}"
        " --trackers {params.trackers:q}"
        " --settings {params.settings:q}"
        " --encoding-cache-dir {params.cache:q}"
        " --directory {params.results:q}"
        " --record {output.record:q}"
        " 2> {log:q}"


rule summary:
    """Collect the metrics of all data sets and models in one table."""
    input:
        get_summary_inputs,
    output:
        record=RESULTS / ".summary/{key}.json",
    log:
        "logs/summary/{key}.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        cache=CACHE,
    shell:
        "exec python -m trove_steps.summarise"
        " --evaluations {input:q}"
        " --encoding-cache-dir {params.cache:q}"
        " --record {output.record:q}"
        " 2> {log:q}"


rule compare:
    """Compare the models of every data set, pair by pair."""
    input:
        get_comparison_inputs,
    output:
        record=RESULTS / ".comparison/{key}.json",
    log:
        "logs/compare/{key}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=get_least_memory("compare"),
        runtime=get_rank_minutes("compare"),
    params:
        settings=PLAN.comparison_settings,
    shell:
        "exec python -m trove_steps.compare"
        " --evaluations {input:q}"
        " --settings {params.settings:q}"
        " --record {output.record:q}"
        " 2> {log:q}"


rule evaluate:
    """Evaluate every model on every data set."""
    input:
        get_targets("evaluate_targets"),
