# What the rules share. The plan (which artefacts, under which names) is made by trove_steps.plan.

from snakemake.exceptions import WorkflowError

from trove_steps.arguments import model_flags
from trove_steps.devices import processes
from trove_steps.errors import TroveStepsError
from trove_steps.plan import Plan
from trove_steps.summarise import closing_words

DEMO_FILES = {
    f"demo/{name}" for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv", "model")
}

try:
    PLAN = Plan(config, produced=DEMO_FILES)
except TroveStepsError as error:
    raise WorkflowError(f"{error}")

CACHE, RESULTS = PLAN.cache, PLAN.results
PROCESSES = processes(PLAN.config["nproc_per_node"])


wildcard_constraints:
    encoder="[0-9a-f]{32}",
    texts="[0-9a-f]{32}",
    search="[0-9a-f]{32}",
    key="[0-9a-f]{32}",
    depth="[0-9]+",
    dataset="[^/]+",
    model="[^/]+",


def get_targets(kind):
    """Return an input function for a method of the plan that lists targets."""

    def targets(wildcards):
        if PLAN.missing:
            checkpoints.prepare_demo.get()  # returns once its files are there
        if PLAN.missing:
            raise WorkflowError(
                f"{', '.join(PLAN.missing)} does not exist, but other files of the demo do: "
                "delete the folder demo and start again"
            )
        try:
            return [ancient(path) for path in getattr(PLAN, kind)()]
        except TroveStepsError as error:
            raise WorkflowError(f"{error}")

    return targets


def get_cell(wildcards):
    return PLAN.cells[wildcards.dataset, wildcards.model]


def get_encoding(role, wildcards):
    return PLAN.encodings[role, wildcards.encoder, wildcards.texts]


def get_encode_inputs(role):
    def inputs(wildcards):
        encoding = get_encoding(role, wildcards)
        texts = [ancient(link) for link in encoding.links]
        return {"texts": texts, "model": ancient(encoding.model.link)}

    return inputs


def get_digests(role):
    return lambda wildcards: get_encoding(role, wildcards).digests


def get_model_flags(role):
    def flags(wildcards):
        return model_flags(
            PLAN.config["models"][get_encoding(role, wildcards).model.name], role
        )

    return flags


def get_search_inputs(wildcards):
    cell = PLAN.searches[wildcards.search]
    return {
        "queries": ancient(PLAN.encoding_manifest(cell.queries)),
        "corpus": ancient(PLAN.encoding_manifest(cell.corpus)),
    }


def get_search_flags(wildcards):
    return PLAN.search_flags(wildcards.search)


def get_ranking(task):
    """Return an input function for a ranking and the manifests that hold the ids of its rows."""

    def inputs(wildcards):
        cell = get_cell(wildcards)
        return {
            "search": ancient(PLAN.search_manifest(cell, task)),
            "queries": ancient(PLAN.encoding_manifest(cell.queries)),
            "corpus": ancient(PLAN.encoding_manifest(cell.corpus)),
        }

    return inputs


def get_qrels(wildcards):
    return [ancient(link) for link in get_cell(wildcards).qrel_links]


def get_qrel_digests(wildcards):
    return get_cell(wildcards).qrel_digests


def get_score_flags(wildcards):
    return PLAN.score_flags(get_cell(wildcards))


def get_track_inputs(wildcards):
    records = PLAN.track_inputs(get_cell(wildcards))
    return {name: ancient(path) for name, path in records.items()}


def get_summary_inputs(wildcards):
    return [ancient(path) for path in PLAN.score_records()]


def get_report_record(wildcards):
    return ancient(PLAN.report_record)


def get_report_inputs(wildcards):
    return {
        task: [ancient(path) for path in paths]
        for task, paths in PLAN.report_inputs().items()
    }


def get_mine_flags(wildcards):
    return PLAN.mine_flags(get_cell(wildcards))


def show_summary():
    """Print the table of results and where to look."""
    print(closing_words(PLAN))
