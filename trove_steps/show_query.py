"""What each model retrieved for one query, read from the cache, beside what was judged."""

from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json, way_to
from trove_steps.texts import read_some


def rankings(
    plan, query: str, dataset: str | None = None, model: str | None = None, top: int = 10
) -> list[dict]:
    """Return one ranking per cell whose query file has the id and whose search is done.

    Each has `dataset`, `model`, `text` of the query, `documents` (the first `top`), `missed` (the first `top`
    of the relevant ones after them, or not retrieved: rank None), `more_missed` (how many follow),
    `relevant`, `found` and `depth`. A document has `rank`, `id`, `score`, `label` (None: not judged),
    `relevant` and `text`.
    Raises TroveStepsError if there is no data set or model of that name, no search is done or none knows the
    query.
    """
    cells = list(plan.cells.values())
    for option, wanted in (("dataset", dataset), ("model", model)):
        names = dict.fromkeys(getattr(cell, option) for cell in cells)
        if wanted not in (None, *names):
            of = f" for {dataset}" if option == "model" and dataset else ""
            raise TroveStepsError(
                f"--{option} {wanted}: the configuration has {', '.join(names)}{of}"
            )
        cells = [cell for cell in cells if wanted in (None, getattr(cell, option))]
    searched = [(cell, path) for cell in cells if (path := plan.deepest_search(cell))]
    if not searched:
        wanted = [plan.search_manifest(cell, task) for cell in cells for task in cell.needs]
        remedy = way_to(wanted[0]) if wanted else "run the workflow with evaluation or mining"
        raise TroveStepsError(f"nothing has been searched yet: {remedy}")
    found = [one for cell, path in searched if (one := _ranking(plan, cell, path, query, top))]
    if not found:
        raise TroveStepsError(
            f"query {query}: no such id among the queries of "
            f"{', '.join(dict.fromkeys(cell.dataset for cell, _ in searched))}"
        )
    return found


def _ranking(plan, cell, manifest, query: str, top: int) -> dict | None:
    import pyarrow.compute as pc

    from trove_steps.search import open_search

    ranking = open_search(manifest, plan.cache)[0]
    number = pc.index(ranking.query_ids, query).as_py()
    if number < 0:
        return None
    view = ranking.span(number, number + 1)
    labels = _labels(plan, cell, query)
    threshold = cell.evaluation["relevance_threshold"]
    ids = ranking.doc_ids.take(view.docs).to_pylist()
    ranked = {
        one: (rank, int(doc), float(score))
        for rank, (one, doc, score) in enumerate(zip(ids, view.docs, view.scores, strict=True), 1)
    }
    missed = [one for one, label in labels.items() if label >= threshold and one not in ids[:top]]
    missed.sort(key=lambda one: ranked.get(one, (len(ids) + 1,))[0])
    missed, more = missed[:top], missed[top:]
    rows = {
        one: ranked[one][1] if one in ranked else pc.index(ranking.doc_ids, one).as_py()
        for one in [*ids[:top], *missed]
    }
    corpus, queries = (_recipe(plan, encoding) for encoding in (cell.corpus, cell.queries))
    wanted = {row: one for one, row in rows.items() if row >= 0}
    texts = read_some(plan.cache, corpus, wanted)

    def document(one: str) -> dict:
        rank, _, score = ranked.get(one, (None, None, None))
        label = labels.get(one)
        return {
            "rank": rank,
            "id": one,
            "score": score,
            "label": label,
            "relevant": label is not None and label >= threshold,
            "text": texts.get(rows[one], ""),
        }

    relevant = [one for one, label in labels.items() if label >= threshold]
    return {
        "dataset": cell.dataset,
        "model": cell.model,
        "text": read_some(plan.cache, queries, {number: query}).get(number, query),
        "documents": [document(one) for one in ids[:top]],
        "missed": [document(one) for one in missed],
        "more_missed": len(more),
        "relevant": len(relevant),
        "found": sum(one in ranked for one in relevant),
        "depth": len(ids),
    }


def _recipe(plan, encoding) -> dict:
    return read_json(plan.encoding_manifest(encoding))["recipe"]


def _labels(plan, cell, query: str) -> dict[str, float]:
    """Return document → label of a query."""
    import pyarrow.compute as pc

    from trove_steps.data.collections import Files
    from trove_steps.judging import judgments

    given = cell.data.qrels
    if not given.links:
        return {}
    files = Files(given.links, given.paths, given.digests)
    qrels = judgments(files, given.collections, cell.search_recipe, plan.cache)
    mine = qrels.filter(pc.equal(qrels["query_id"], query))
    return dict(zip(mine["doc_id"].to_pylist(), mine["score"].to_pylist(), strict=True))
