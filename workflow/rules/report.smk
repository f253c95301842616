# The report. Input: the records of all evaluations, minings, comparisons and checks. Output: a record, and the page under its
# key, which `snakemake --report report.zip` takes along; the same page lies in the results folder as report.html.


rule write_report:
    """Write one page that shows the results of all data sets and models."""
    input:
        unpack(get_report_inputs),
    output:
        record=RESULTS / ".report/{key}.json",
        page=report(
            RESULTS / ".report/{key}.html",
            caption="../report/report.rst",
            category="Results",
            labels={"page": "leaderboard, queries, mining, cost"},
        ),
    log:
        "logs/report/{key}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=get_report_memory,
        runtime=get_report_minutes,
    params:
        cache=CACHE,
    shell:
        "exec python -m trove_steps.report"
        " --evaluations {input.evaluations:q}"
        " --mining {input.mining:q}"
        " --comparison {input.comparison:q}"
        " --checks {input.checks:q}"
        " --encoding-cache-dir {params.cache:q}"
        " --logs logs"
        " --record {output.record:q}"
        " 2> {log:q}"


rule track_report:
    """Log the report to Weights & Biases, as an artifact of a run of its own."""
    input:
        record=get_report_record,
    output:
        record=RESULTS / ".track/{key}.json",
    log:
        "logs/track/report-{key}.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        settings=PLAN.wandb_settings,
        results=RESULTS,
    shell:
        "exec python -m trove_steps.track"
        " --report {input.record:q}"
        " --settings {params.settings:q}"
        " --directory {params.results:q}"
        " --record {output.record:q}"
        " 2> {log:q}"


rule report:
    """Write the report of what the configuration evaluates, and mines if it says so."""
    input:
        get_targets("report_targets"),
