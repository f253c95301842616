"""What may be wrong with the judgments of a data set: whom they name, and whether labels can be gains."""

from trove_steps.data.arrays import from_numpy, to_numpy
from trove_steps.data.collections import Files, Merged, merge_collections
from trove_steps.data.filters import OPTIONS
from trove_steps.data.findings import EXAMPLES, collecting, first_ids, warning
from trove_steps.data.id_tables import rows_of
from trove_steps.data.ids import shortened
from trove_steps.data.qrels import place_of
from trove_steps.errors import TroveStepsError
from trove_steps.evaluation.measures import LARGEST_LABEL, unfit_labels

LABELS_SHOWN = 20
NO_RELEVANT = "no_relevant_documents"
FILTERED_RELEVANT = "filtered_relevant"
MANY_LABELS = 100  # different ones: grades are few


def about_judgments(merged: Merged, files: Files, evaluated: bool, corpus, queries):
    """Return (what is said of the judgments, warnings).

    files: those of the judgments. evaluated: whether metrics are computed from them. corpus, queries:
    the `Side` of each, None where its ids are not known. Raises TroveStepsError, one line per mistake.
    """
    import pyarrow.compute as pc

    table = merged.table
    mistakes, warnings = [], []
    sides = (("query_id", "queries", queries), ("doc_id", "documents", corpus))
    for column, what, side in sides:
        if side is not None:
            with collecting(mistakes):
                warnings += _absent(table, files, column, what, side)
    with collecting(mistakes):
        warnings += _unfit(table, files, evaluated, [side for *_, side in sides])
    if mistakes:
        raise TroveStepsError("\n".join(mistakes))
    judged = pc.unique(table["query_id"])
    if queries is not None:
        warnings += _unjudged(queries, judged)
        judged = judged.filter(pc.is_in(judged, value_set=queries.ids))
    relabelled = sum(found["relabelled"] for found in merged.collections)
    if relabelled:
        warnings.append(
            warning(
                "relabelled_judgments",
                relabelled,
                f"{relabelled:,} pairs of query and document have several labels: the last one counts",
            )
        )
    labels = pc.value_counts(table["score"])
    counted = sorted((entry["values"], entry["counts"]) for entry in labels.to_pylist())
    if len(counted) > MANY_LABELS and not len(_rows_of_unfit(table)):
        warnings.append(
            warning(
                "many_labels",
                len(counted),
                f"the judgments have {len(counted):,} different labels, where grades of relevance are few: "
                "are they ids, or scores of a ranking?",
                [label for label, _ in counted[-EXAMPLES:]],
            )
        )
    if counted and counted[-1][0] < 1:
        shown = ", ".join(f"{label}: {count:,}" for label, count in counted[-LABELS_SHOWN:])
        warnings.append(
            warning(
                NO_RELEVANT,
                table.num_rows,
                f"none of the {table.num_rows:,} judgments has a label of 1 or more ({shown}): no document "
                "is relevant, so there is nothing to find and no positive to train on; look at the labels "
                "in qrel_path and at what filters and score_transform make of them",
            )
        )
    told = {
        "collections": merged.collections,
        "overruled": merged.overruled,
        "judgments": table.num_rows,
        "queries": len(judged),
        "labels": [[label, count] for label, count in counted[:LABELS_SHOWN]],
        "more_labels": max(0, len(counted) - LABELS_SHOWN),
    }
    return told, warnings


def about_filtered(collections: list[dict], files: Files) -> list[dict]:
    """Warn of relevant documents that mining can't know of, since a filter removed their judgments.

    Only queries count that other judgments are left of: without any, a query is not mined.
    """
    import pyarrow.compute as pc

    unfiltered = [
        {**collection, "subset": [], "options": _unfiltered(collection["options"])}
        for collection in collections
    ]
    if unfiltered == collections:  # nothing to read again for
        return []
    kept, given = (
        merge_collections(some, files, keep_apart=True).table for some in (collections, unfiltered)
    )
    mined = pc.is_in(given["query_id"], value_set=pc.unique(kept["query_id"]))
    relevant = given.filter(pc.and_(mined, pc.greater_equal(given["score"], 1)))
    pair = ["query_id", "doc_id"]
    removed = relevant.select(pair).join(kept.select(pair), pair, join_type="left anti")
    count = removed.group_by(pair).aggregate([]).num_rows
    if not count:
        return []
    message = (
        f"filters remove {count:,} judgments with a label of 1 or more: mining takes their documents "
        "for unannotated, so that they may become negatives; mine with a data set without the filter"
    )
    return [warning(FILTERED_RELEVANT, count, message)]


def _unfiltered(options: dict) -> dict:
    return {name: value for name, value in options.items() if name not in OPTIONS}


def _absent(table, files: Files, column: str, what: str, side) -> list[dict]:
    """Look for queries or documents that are judged and do not exist."""
    import numpy as np
    import pyarrow.compute as pc

    distinct = pc.unique(table[column])
    _, present = rows_of(distinct, side.ids)
    absent = distinct.take(from_numpy(np.setdiff1d(np.arange(len(distinct)), present)))
    hint = _about_zeros(absent, side.ids) or _about_quotes(absent, side.ids)
    if len(absent) == len(distinct):
        held = ", ".join(file["path"] for file in side.files)
        raise TroveStepsError(
            f"{files}: none of the {len(distinct):,} {what} that the judgments name exists: they name "
            f"{shortened(distinct[0].as_py())}, {held} holds {shortened(side.ids[0].as_py())}{hint}; "
            "name the files that belong together"
        )
    if not len(absent):
        return []
    message = f"{len(absent):,} of {len(distinct):,} {what} that the judgments name do not exist"
    if what == "documents":
        message += ": what is relevant among them counts as not found"
    return [warning(f"absent_{what}", len(absent), message + hint, absent[:EXAMPLES].to_pylist())]


def _about_zeros(absent, ids) -> str:
    """Say how many absent ids are there with leading zeros, which a table of numbers loses."""
    import pyarrow.compute as pc

    def bare(column):
        return pc.utf8_ltrim(column, "0")

    numbers = absent.filter(pc.utf8_is_decimal(absent))
    there = pc.sum(pc.is_in(bare(numbers), value_set=bare(ids))).as_py() if len(numbers) else 0
    if not there:
        return ""
    return (
        f'; {there:,} of them would with other leading zeros: 7 and "7" are the same id, "007" is '
        "another"
    )


def _about_quotes(absent, ids) -> str:
    """Say how many absent ids are there without quotes around them, which are part of an id in TSV."""
    import pyarrow.compute as pc

    quoted = absent.filter(pc.match_substring_regex(absent, "^[\"'].*[\"']$"))
    if not len(quoted):
        return ""
    # The few are looked for among the many, for which no table is made.
    there = pc.sum(pc.is_in(ids, value_set=pc.utf8_trim(quoted, characters="\"'"))).as_py()
    return f"; {there:,} of them would without quotes: write TSV without any" if there else ""


def _unfit(table, files: Files, evaluated: bool, sides: list) -> list[dict]:
    """Look for labels that metrics can't take: a mistake if there will be any."""
    rows = _rows_of_unfit(table)
    if not len(rows):
        return []
    query, doc, label = (table[name][int(rows[0])].as_py() for name in table.column_names)
    message = (
        f"{len(rows):,} of {table.num_rows:,} labels can't be gains, as that of query {shortened(query)} "
        f"and document {shortened(doc)}, {label}: metrics need whole numbers up to {LARGEST_LABEL:,}"
    )
    if evaluated:
        pair = (
            side.namespaces.local(name) if side is not None and side.namespaces else name
            for side, name in zip(sides, (query, doc), strict=True)
        )
        place = place_of(*pair, files.paths, files.shown_as)
        raise TroveStepsError(
            f"{place or files}: {message}; name other judgments, or make labels of these with "
            "score_transform"
        )
    examples = [table["score"][int(row)].as_py() for row in rows[:EXAMPLES]]
    return [warning("labels_without_metrics", len(rows), message, examples)]


def _rows_of_unfit(table):
    import numpy as np

    return np.flatnonzero(unfit_labels(to_numpy(table["score"])))


def _unjudged(queries, judged) -> list[dict]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    found = to_numpy(pc.is_in(queries.ids, value_set=judged).cast(pa.uint8()))
    unjudged = np.flatnonzero(found == 0)
    if not len(unjudged):
        return []
    return [
        warning(
            "queries_without_judgments",
            len(unjudged),
            f"{len(unjudged):,} of {len(found):,} queries have no judgments: they are searched, "
            "but do not count in any metric",
            first_ids(queries.ids, unjudged),
        )
    ]
