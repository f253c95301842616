# The demo's data: functions and classes of the Python standard library that is running, each a
# document (name and source) and a query (the first sentence of its docstring).


checkpoint prepare_demo:
    """Write the demo's corpus, queries and judgments, and a link to its model."""
    output:
        corpus="demo/corpus.jsonl",
        queries="demo/queries.jsonl",
        qrels="demo/qrels.tsv",
    log:
        "logs/prepare_demo.log",
    localrule: True
    conda:
        "../../environment.yml"
    shell:
        "python -m trove_steps.demo --output demo 2> {log:q}"
