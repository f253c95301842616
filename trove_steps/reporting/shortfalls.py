"""Results that hold nothing of use, though every step went well: what is missing, why, and where to look.

Each function returns a line for people, or None where nothing is missing. The steps put it in their logs,
the end of a run and the report repeat it.
"""


def nothing_relevant(counts: dict, threshold: int) -> str | None:
    """Say that no judged query has a relevant document, so that all metrics but nDCG are 0.

    counts: of metrics.json; threshold: the lowest label that is relevant.
    """
    judged = counts["num_judged"]
    if not judged or counts["num_without_relevant"] < judged:
        return None
    return (
        f"no document is relevant to any of the {judged:,} judged queries: no label is {threshold} or "
        "more, so what counts relevant documents is 0 (nDCG's gains are the labels themselves); look at "
        "the labels of qrel_path and at evaluation.ir_metrics_relevance_threshold"
    )


def nothing_mined(counts: dict) -> str | None:
    """Say that no negative was kept, or that training files came out empty.

    counts: of funnel.json, of one model or merged.
    """
    if not counts["num_kept"]:
        return f"no negative was kept: {_fates(counts)}; see mined/funnel.parquet for each query"
    empty = [
        name.removeprefix("num_").removesuffix("_rows").replace("_", "-")
        for name, count in counts.items()
        if name.endswith("_rows") and not count
    ]
    if not empty:
        return None
    trainable = counts["num_training_queries"]
    why = (
        f"{trainable:,} queries have both positives and negatives, but none has as many negatives as "
        "asked for"
        if trainable
        else "no query has both a positive (a document of the corpus with a label of 1 or more) and a "
        "negative; look at the labels of qrel_path"
    )
    return f"training files without a row ({', '.join(empty)}): {why}"


def _fates(counts: dict) -> str:
    """Return what became of the results that were looked at, of all queries."""
    if not counts["num_candidates"]:
        queries = counts["num_mined_queries"]
        return f"{queries:,} queries were mined, and the search found nothing for them"
    aside = ("num_candidates", "num_kept", "num_missing", "num_models", "num_training_queries")
    fates = (
        f"{name.removeprefix('num_')} {count:,}"
        for name, count in counts.items()
        if count and name not in aside and not name.endswith(("_queries", "_rows"))
    )
    return f"of {counts['num_candidates']:,} results looked at: {', '.join(fates)}"
