"""Filters and transformations of judgments: the options of Trove's MaterializedQRelConfig.

They work in this order: query_subset_path; min_score and max_score, or filter_fn; one of the group
options; score_transform. Expressions and the plain options run on columns, functions of the user's own
on one record, {"qid", "docid", "score"}, at a time.
"""

from collections import Counter
from collections.abc import Callable, Iterator

from trove_steps.data.arrays import from_booleans, from_numpy, to_numpy
from trove_steps.data.expressions import check, evaluate
from trove_steps.data.ids import plain_values, shortened
from trove_steps.data.judgments import judgment_columns
from trove_steps.errors import TroveStepsError
from trove_steps.own_code import called, is_name, load_function

GROUP_OPTIONS = (
    "group_top_k",
    "group_bottom_k",
    "group_first_k",
    "group_random_k",
    "group_filter_fn",
)
OPTIONS = (
    "min_score",
    "max_score",
    "filter_fn",
    *GROUP_OPTIONS,
    "group_random_seed",
    "score_transform",
)
FUNCTION_OPTIONS = ("filter_fn", "group_filter_fn", "score_transform")
ROWS_AT_ONCE = 1 << 16


def check_options(options: dict, where: str) -> list[str]:
    """Return what is wrong with the filters of a collection, one line per mistake."""
    lines = []
    if "filter_fn" in options:
        lines += [
            f"{where}.{name}: filter_fn takes its place; leave one of the two out"
            for name in ("min_score", "max_score")
            if name in options
        ]
    groups = [name for name in GROUP_OPTIONS if name in options]
    if len(groups) > 1:
        lines.append(f"{where}: only one of {' and '.join(groups)} can be given")
    if "group_random_seed" in options and "group_random_k" not in options:
        lines.append(f"{where}.group_random_seed: does nothing without group_random_k")
    low, high = options.get("min_score"), options.get("max_score")
    if low is not None and high is not None and low >= high:
        lines.append(
            f"{where}: no score is at least min_score {low} and less than max_score {high}"
        )
    if "group_filter_fn" in options and not is_name(options["group_filter_fn"]):
        lines.append(f"{where}.group_filter_fn: a function, as module:function, is needed")
    for name, wanted in (("filter_fn", "truth"), ("score_transform", "number")):
        value = options.get(name)
        if value is None or is_name(value):
            continue
        try:
            check(_as_expression(value), wanted)
        except TroveStepsError as error:
            lines.append(f"{where}.{name}: {error}")
    return lines


def filtered(table, options: dict, subset=None) -> tuple:
    """Return (table, steps): the judgments that the options leave, and what each of them did.

    table: query_id, doc_id, score. options: as in the configuration, with
    "sources", if given, the SHA-256 of the files of module:function. subset: the ids of
    query_subset_path, or None. steps: {"filter", "before", "after"} in order. Raises TroveStepsError.
    """
    steps = []
    for what, apply in _filters(options, subset):
        before = table.num_rows
        table = apply(table)
        steps.append({"filter": what, "before": before, "after": table.num_rows})
    return table, steps


def _filters(options: dict, subset) -> Iterator[tuple[str, Callable]]:
    sources = options.get("sources", {})

    def function(name: str) -> Callable:
        found = load_function(name, sources.get(name))
        return lambda *arguments: called(name, found, *arguments)

    if subset is not None:
        yield "query_subset_path", lambda table: _of_queries(table, subset)
    if (low := options.get("min_score")) is not None:
        yield f"min_score {low}", lambda table: _masked(table, to_numpy(table["score"]) >= low)
    if (high := options.get("max_score")) is not None:
        yield f"max_score {high}", lambda table: _masked(table, to_numpy(table["score"]) < high)
    if given := options.get("filter_fn"):
        yield f"filter_fn {_in_one_line(given)}", lambda table: _chosen(table, given, function)
    for name in GROUP_OPTIONS[:-1]:
        if (most := options.get(name)) is not None:
            seed = options.get("group_random_seed", 0)
            yield f"{name} {most}", lambda table: _per_query(table, name, most, seed)  # noqa: B023
    if grouped := options.get("group_filter_fn"):
        yield f"group_filter_fn {grouped}", lambda table: _by_group(table, grouped, function)
    if (given_score := options.get("score_transform")) is not None:
        yield (
            f"score_transform {_in_one_line(given_score)}",
            lambda table: _rescored(table, given_score, function),
        )


def _in_one_line(given) -> str:
    return " ".join(str(given).split())


def _masked(table, keep):
    return table.filter(from_booleans(keep))


def _of_queries(table, subset):
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.is_in(table["query_id"], value_set=subset)
    return _masked(table, to_numpy(found.cast(pa.uint8())) == 1)


def _chosen(table, condition: str, function: Callable):
    import numpy as np

    if not is_name(condition):
        return _masked(table, evaluate(condition, table, "truth"))
    keep = function(condition)
    return _masked(table, np.fromiter((_truth(keep(r), condition) for r in _records(table)), bool))


def _truth(value, condition: str) -> bool:
    try:
        return bool(value)
    except Exception:  # an array has no truth
        raise TroveStepsError(
            f"filter_fn {condition} must return true or false, not {shortened(value)}"
        ) from None


def _records(table) -> Iterator[dict]:
    """Yield the judgments one by one, as Trove's functions expect them."""
    names = ["qid", "docid", "score"]
    for batch in table.rename_columns(names).to_batches(max_chunksize=ROWS_AT_ONCE):
        yield from batch.to_pylist()


def _per_query(table, option: str, most: int, seed: int):
    """Keep the first `most` judgments of every query by score, place in the file, or chance.

    Equal scores are taken in the order of the files.
    """
    import numpy as np

    from trove_steps.data.qrels import id_codes

    if not table.num_rows:
        return table
    queries = id_codes(table["query_id"])
    scores = to_numpy(table["score"])
    falling = ~scores if scores.dtype.kind == "i" else -scores  # -(-(2**63)) is itself
    by = {
        "group_top_k": lambda: np.lexsort((falling, queries)),
        "group_bottom_k": lambda: np.lexsort((scores, queries)),
        "group_first_k": lambda: np.argsort(queries, kind="stable"),
        # Unlike numpy's other methods, the bits of a bit generator are promised not to change.
        "group_random_k": lambda: np.lexsort(
            (np.random.PCG64(seed).random_raw(len(queries)), queries)
        ),
    }
    order = by[option]()
    ordered = queries[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    sizes = np.diff(np.append(starts, len(order)))
    within = np.arange(len(order)) - np.repeat(starts, sizes)
    keep = np.zeros(len(order), bool)
    keep[order[within < most]] = True
    return _masked(table, keep)


def _by_group(table, name: str, function: Callable):
    """Give the judgments of each query, as a list, to a function; keep those that it returns."""
    choose, where = function(name), f"group_filter_fn {name}"
    groups: dict[str, list[dict]] = {}
    for record in _records(table):
        groups.setdefault(record["qid"], []).append(record)
    kept = []
    for query, records in groups.items():
        given = Counter(record["docid"] for record in records)
        found = choose(records)
        if not isinstance(found, list) or not all(
            isinstance(r, dict)
            and r.get("qid") == query
            and isinstance(r.get("docid"), str)
            and r["docid"] in given
            and "score" in r
            for r in found
        ):
            raise TroveStepsError(
                f"{where} must return a list of the records that it got; for the query {query!r} it "
                "returned something else"
            )
        if repeated := Counter(record["docid"] for record in found) - given:
            raise TroveStepsError(
                f"{where} returned a record of the query {query!r} twice, of the document "
                f"{next(iter(repeated))!r}: each record can be kept once"
            )
        kept += found
    return _columns(kept, [record["score"] for record in kept], where)


def _rescored(table, transform, function: Callable):
    if is_name(transform):
        score_of = function(transform)
        records = list(_records(table))
        scores = plain_values(score_of(record) for record in records)
        # A condition gives 0 or 1, as in an expression.
        scores = [int(score) if isinstance(score, bool) else score for score in scores]
        return _columns(records, scores, f"score_transform {transform}")
    found = evaluate(_as_expression(transform), table, "number")
    return table.set_column(2, "score", from_numpy(found))


def _columns(records: list[dict], scores: list, where: str):
    """Return records with these scores as a table; where: the function that gave them."""
    ids = ([record[name] for record in records] for name in ("qid", "docid"))
    try:
        return judgment_columns(*ids, scores)
    except TroveStepsError as error:
        raise TroveStepsError(f"{where}: {error}") from None


def _as_expression(transform) -> str:
    """Return a score_transform that is no function as an expression."""
    return f"{transform}(score)" if transform in ("floor", "ceil") else str(transform)
