# Importing. Input: files of vectors that were computed elsewhere and, if there are any, the texts, for their
# ids. Output: a manifest like that of an encoded collection.


rule import_embeddings:
    """Bring vectors that were computed elsewhere into the cache."""
    input:
        unpack(get_import_inputs),
    output:
        manifest=CACHE / "embeddings/imported-{encoder}/{role}-{texts}.json",
    log:
        "logs/import_embeddings/{encoder}-{role}-{texts}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=get_import_memory,
        runtime=get_import_minutes,
    params:
        digests=get_import_digests("digests"),
        texts=get_import_digests("text_digests"),
        readers=get_import_reader_flags,
        cache=CACHE,
    shell:
        "exec python -m trove_steps.import_embeddings"
        " --role {wildcards.role}"
        " --embeddings {input.embeddings:q}"
        " --sha256 {params.digests}"
        " --texts {input.texts:q}"
        " --texts-sha256 {params.texts}"
        " {params.readers:q}"
        " --encoding-cache-dir {params.cache:q}"
        " --manifest {output.manifest:q}"
        " 2> {log:q}"
