# Checking data. Input: the files of a data set. Output: a record of what was found, data.json in the
# folder of the data set. Encoding waits for it: what is wrong is known before it costs anything.


rule check_data:
    """Read all files of a data set once and look for mistakes."""
    input:
        get_data_inputs,
    output:
        record=RESULTS / "{dataset}/.data/{key}.json",
    log:
        "logs/check_data/{dataset}-{key}.log",
    benchmark:
        "logs/check_data/{dataset}-{key}.benchmark.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=get_check_memory,
        runtime=get_check_minutes,
    params:
        data=get_check_flags,
        cache=CACHE,
    shell:
        "exec python -m trove_steps.check_data"
        " {params.data:q}"
        " --encoding-cache-dir {params.cache:q}"
        " --name {wildcards.dataset:q}"
        " --record {output.record:q}"
        " 2> {log:q}"


rule check:
    """Check the files of every data set."""
    input:
        get_targets("check_targets"),
