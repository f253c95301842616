# Encoding. Input: the files of a collection and the folder of a model, by links named for their
# content. Output: a manifest of the collection's vectors; the vectors are in shards beside it, which
# snakemake does not know and so never deletes.


checkpoint fetch:
    """Fetch a model or a data set, on the machine where snakemake runs; nothing else needs a network."""
    output:
        record=CACHE / "fetched/{model}.json",
    log:
        "logs/fetch/{model}.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        source=get_source,
        cache=CACHE,
    shell:
        "exec python -m trove_steps.fetch"
        " {params.source:q}"
        " --encoding-cache-dir {params.cache:q}"
        " --record {output.record:q}"
        " 2> {log:q}"


rule encode_corpus:
    """Give every document a vector."""
    input:
        unpack(get_encode_inputs("corpus")),
    output:
        manifest=CACHE / "embeddings/{encoder}/corpus-{texts}.json",
    log:
        "logs/encode_corpus/{encoder}-{texts}.log",
    benchmark:
        "logs/encode_corpus/{encoder}-{texts}.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: get_threads
    resources:
        **get_span(),
        processes=get_processes,
        batch_size=PLAN.config["per_device_eval_batch_size"] or 0,
        tokens=PLAN.config["tokens_per_batch"] or 0,
        gpu=get_gpus,
        tasks_per_gpu=0,
        mem_mb=get_encode_memory("corpus"),
        runtime=get_encode_minutes("corpus"),
    params:
        digests=get_digests("corpus"),
        readers=get_reader_flags("corpus"),
        model=get_model_flags("corpus"),
        name=get_model_name("corpus"),
        cache=CACHE,
        sharing=get_sharing,
    shell:
        "exec python -m trove_steps.torchrun --nproc-per-node {resources.processes}"
        " --nodes {resources.nodes}"
        " --threads {threads}"
        " -m trove_steps.encode_corpus"
        " --corpus-path {input.texts:q}"
        " --sha256 {params.digests}"
        " {params.readers:q}"
        " --model-name-or-path {input.model:q}"
        " {params.model:q}"
        " --per-device-eval-batch-size {resources.batch_size}"
        " --tokens-per-batch {resources.tokens}"
        " --encoding-cache-dir {params.cache:q}"
        " --name {params.name:q}"
        " {params.sharing:q}"
        " 2> {log:q}"


use rule encode_corpus as encode_help with:
    """Help encode_corpus: encode portions of a corpus until all of it is in the store."""
    output:
        record=CACHE / "embeddings/{encoder}/corpus-{texts}.helped/{number}.json",
    log:
        "logs/encode_corpus/{encoder}-{texts}-helper{number}.log",
    benchmark:
        "logs/encode_corpus/{encoder}-{texts}-helper{number}.benchmark.tsv"


rule encode_queries:
    """Give every query a vector."""
    input:
        unpack(get_encode_inputs("queries")),
    output:
        manifest=CACHE / "embeddings/{encoder}/queries-{texts}.json",
    log:
        "logs/encode_queries/{encoder}-{texts}.log",
    benchmark:
        "logs/encode_queries/{encoder}-{texts}.benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: get_threads
    resources:
        processes=get_processes,
        batch_size=PLAN.config["per_device_eval_batch_size"] or 0,
        tokens=PLAN.config["tokens_per_batch"] or 0,
        gpu=get_gpus,
        tasks_per_gpu=0,
        mem_mb=get_encode_memory("queries"),
        runtime=get_encode_minutes("queries"),
    params:
        digests=get_digests("queries"),
        readers=get_reader_flags("queries"),
        model=get_model_flags("queries"),
        name=get_model_name("queries"),
        cache=CACHE,
    shell:
        "exec python -m trove_steps.torchrun --nproc-per-node {resources.processes}"
        " --threads {threads}"
        " -m trove_steps.encode_queries"
        " --query-path {input.texts:q}"
        " --sha256 {params.digests}"
        " {params.readers:q}"
        " --model-name-or-path {input.model:q}"
        " {params.model:q}"
        " --per-device-eval-batch-size {resources.batch_size}"
        " --tokens-per-batch {resources.tokens}"
        " --encoding-cache-dir {params.cache:q}"
        " --name {params.name:q}"
        " --manifest {output.manifest:q}"
        " 2> {log:q}"


rule encode:
    """Encode every corpus and every query file with every model."""
    input:
        get_targets("encode_targets"),
