"""Dense-retrieval inference: encode, search, score and mine, for many models and data sets.

snakemake                              what config/config.yaml asks for
snakemake --configfile my.yaml         what my.yaml asks for, and nothing else
snakemake evaluate | mine | encode     one task; snakemake check reads the data only
"""

from snakemake.utils import min_version

min_version("9.16")

if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/resources.smk"
include: "workflow/rules/demo.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/encode.smk"
include: "workflow/rules/import.smk"
include: "workflow/rules/search.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/mine.smk"
include: "workflow/rules/embeddings.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        get_targets("default_targets"),


onstart:
    follow_jobs()


onsuccess:
    show_summary()


onerror:
    show_unfinished()
