# Inputs and parameters of the rules. An ancient input is there once its name is: its age says nothing.


def ancients(inputs):
    """Mark paths as ancient: one, some, or a name for each."""
    if isinstance(inputs, dict):
        return {name: ancients(paths) for name, paths in inputs.items()}
    if isinstance(inputs, (list, tuple)):
        return [ancient(path) for path in inputs]
    return ancient(inputs)


# --- data and embeddings -----------------------------------------------------------------------------


def get_source(wildcards):
    """Return where a model or a data set is fetched from."""
    return PLAN.sources[wildcards.model].flags()


def get_data_inputs(wildcards):
    data = get_data(wildcards)
    return ancients([*data.corpus.links, *data.queries.links, *data.qrels.links])


def get_check_flags(wildcards):
    return PLAN.check_flags(wildcards.dataset)


def get_check_before(record):
    """Return an input function for the check before a result; `record` is a method of the plan."""

    def check(wildcards):
        cell = get_cell(wildcards)
        return PLAN.check_before(cell, getattr(PLAN, record)(cell))

    return check


def get_encode_inputs(role):
    return lambda wildcards: ancients(PLAN.encode_inputs(get_encoding(role, wildcards)))


def get_digests(role):
    return lambda wildcards: get_encoding(role, wildcards).digests


def get_reader_flags(role):
    return lambda wildcards: PLAN.reader_flags(get_encoding(role, wildcards))


def get_model_flags(role):
    return lambda wildcards: PLAN.model_flags(get_encoding(role, wildcards))


def get_model_name(role):
    return lambda wildcards: get_encoding(role, wildcards).model.name


def get_sharing(wildcards, output):
    """Say whether a job makes the manifest of a corpus or only helps, and how many jobs there are."""
    encoding = get_encoding("corpus", wildcards)
    return PLAN.sharing_flags(encoding, helper_record=output.get("record"))


def get_import_inputs(wildcards):
    return ancients(PLAN.import_inputs(get_imported(wildcards)))


def get_import_digests(which):
    return lambda wildcards: getattr(get_imported(wildcards), which)


def get_import_reader_flags(wildcards):
    return PLAN.reader_flags(get_imported(wildcards))


def get_published_manifest(wildcards):
    encoding, _ = PLAN.publications[wildcards.key]
    return ancient(PLAN.encoding_manifest(encoding))


def get_published_path(wildcards):
    return PLAN.publications[wildcards.key][1]


def get_drop_inputs(wildcards):
    return ancients(PLAN.drops[wildcards.key][1])


def get_dropped_manifest(wildcards):
    return PLAN.encoding_manifest(PLAN.drops[wildcards.key][0])


# --- rankings ----------------------------------------------------------------------------------------


def get_search_inputs(wildcards):
    cell = PLAN.searches[wildcards.search]
    PLAN.restore_dropped(cell, int(wildcards.depth))
    return ancients(PLAN.search_inputs(cell))


def get_search_flags(wildcards):
    return PLAN.search_flags(wildcards.search)


def get_evaluation_inputs(wildcards):
    return ancients(PLAN.ranking_inputs(get_cell(wildcards), "evaluation"))


def get_qrels(wildcards):
    return ancients(get_cell(wildcards).data.qrels.links)


def get_qrel_digests(wildcards):
    return get_cell(wildcards).data.qrels.digests


def get_score_flags(wildcards):
    cell = get_cell(wildcards)
    return [*PLAN.qrel_flags(cell), *PLAN.score_flags(cell)]


def get_mining_inputs(wildcards):
    return ancients(PLAN.mining_inputs(get_cell(wildcards)))


def get_file_flags(wildcards):
    return PLAN.file_flags(get_cell(wildcards))


def get_pair_scores(wildcards):
    manifest = PLAN.rescore_manifest(get_cell(wildcards))
    return {"pair_scores": ancient(manifest)} if manifest else {}


def get_pair_score_flags(wildcards):
    return PLAN.pair_score_flags(get_cell(wildcards))


def get_rescore_inputs(wildcards):
    cell = PLAN.rescores[wildcards.key]
    inputs = PLAN.mining_inputs(cell) | {"model": PLAN.cross_encoder.link}
    check = PLAN.check_before(cell, PLAN.rescore_manifest(cell))
    return ancients(inputs) | {"check": check}


def get_rescore_file_flags(wildcards):
    return PLAN.file_flags(PLAN.rescores[wildcards.key])


def get_merge_inputs(wildcards):
    cells = PLAN.merged_cells(wildcards.dataset)
    mined = [PLAN.mine_record(cell) for cell in cells]
    return ancients(PLAN.mining_inputs(cells[0]) | {"mined": mined})


def get_merge_file_flags(wildcards):
    return PLAN.file_flags(PLAN.merged_cells(wildcards.dataset)[0])


# --- results -----------------------------------------------------------------------------------------


def get_track_inputs(wildcards):
    return ancients(PLAN.track_inputs(get_cell(wildcards)))


def get_summary_inputs(wildcards):
    return ancients(PLAN.score_records())


def get_comparison_inputs(wildcards):
    return ancients([PLAN.score_record(cell) for cell in PLAN.compared])


def get_report_inputs(wildcards):
    return ancients(PLAN.report_inputs())


def get_report_record(wildcards):
    return ancient(PLAN.report_record)
