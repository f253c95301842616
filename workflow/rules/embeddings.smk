# What becomes of vectors beside being searched. Publishing: a manifest in, a dense file at a path of the
# configuration out. Dropping: the results of all cells with a corpus in, its vectors gone.


rule publish:
    """Write vectors as one dense file to the path that the configuration names."""
    input:
        manifest=get_published_manifest,
    output:
        record=RESULTS / ".published/{place}/{key}.json",
    log:
        "logs/publish/{place}-{key}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=get_publish_memory,
        runtime=get_publish_minutes,
    params:
        path=get_published_path,
    shell:
        "exec python -m trove_steps.publish"
        " --embeddings {input.manifest:q}"
        " --output {params.path:q}"
        " --record {output.record:q}"
        " 2> {log:q}"


rule drop_embeddings:
    """Remove the vectors of a corpus when nothing of this run needs them any more."""
    input:
        get_drop_inputs,
    output:
        record=RESULTS / ".dropped/{key}.json",
    log:
        "logs/drop_embeddings/{key}.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        manifest=get_dropped_manifest,
    shell:
        "exec python -m trove_steps.drop_embeddings"
        " --embeddings {params.manifest:q}"
        " --record {output.record:q}"
        " 2> {log:q}"
