"""What mining did: the funnel, ranks and margins of the negatives, and some of them to read."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trove_steps.reporting.cell import SNIPPET, Cell, document_texts
from trove_steps.reporting.queries import BINS, ends_of, histogram, judged
from trove_steps.texts import snippet

SAMPLES = 20  # negatives to read, of each cell


def mining(cell: Cell) -> dict:
    """Return the funnel, histograms of rank and margin, and some negatives to read.

    A margin is what mining measures: the score of the weakest positive minus that of the negative, both
    by the "judge", the search or a cross-encoder; unknown for a query without positives.
    """
    funnel = pq.read_table(cell.folder / "mined" / "funnel.parquet")
    audit = _audit(cell)
    names = [name for name in funnel.column_names if name != "query_id"]
    content = {
        "queries": funnel.num_rows,
        "funnel": {name: int(pc.sum(funnel[name]).as_py() or 0) for name in names},
        "judge": "the cross-encoder" if _by_teacher(audit) else "the search",
        "samples": _samples(cell, audit),
    }
    if audit.num_rows:
        ranks = audit["rank"].to_numpy()
        width = -(-int(ranks.max()) // BINS)
        content["ranks"] = {
            "width": width,
            "counts": np.bincount((ranks - 1) // width).tolist(),
        }
    gaps = audit["gap"].drop_null().to_numpy()
    if len(gaps):
        low, high = ends = ends_of(gaps)
        content["margins"] = {
            "ends": ends,
            "counts": histogram(gaps, low, high),
            "above": float((gaps < 0).mean()),
        }
    return content


def mined_samples(cell: Cell) -> list[dict]:
    """Return some mined negatives of a cell with their texts, drawn at random, as rows of a table."""
    audit = _audit(cell)
    samples = _samples(cell, audit)
    texts = document_texts([cell])
    columns = ["rank", "score", *(["teacher_score"] if _by_teacher(audit) else [])]
    return [
        {
            "query_id": sample["query"],
            "query": sample["text"],
            "document_id": texts[sample["negative"]["doc"]][0],
            "document": texts[sample["negative"]["doc"]][1],
            **{column: sample["negative"][column] for column in columns},
        }
        for sample in samples
    ]


def _audit(cell: Cell) -> pa.Table:
    return pq.read_table(cell.folder / "mined" / "audit.parquet")


def _by_teacher(audit: pa.Table) -> bool:
    return audit["teacher_score"].null_count < audit.num_rows


def _samples(cell: Cell, audit: pa.Table) -> list[dict]:
    """Return negatives drawn at random, each with its query and the relevant document ranked best."""
    chosen = np.random.default_rng(0).permutation(audit.num_rows)[:SAMPLES]
    rows = audit.take(pa.array(chosen))
    texts = cell.query_texts(rows["query_id"].to_pylist())
    queries = cell.query_numbers(rows["query_id"])
    places = cell.ranking.offsets[queries] + rows["rank"].to_numpy() - 1
    return [
        {
            "query": row["query_id"],
            "text": snippet(texts.get(row["query_id"], ""), SNIPPET),
            "negative": cell.show(int(doc), row["rank"], row["score"])
            | {"teacher_score": row["teacher_score"]},
            "positive": _positive(cell, int(query)),
        }
        for row, query, doc in zip(
            rows.to_pylist(), queries, cell.ranking.docs[places], strict=True
        )
    ]


def _positive(cell: Cell, query: int) -> dict | None:
    """Return the relevant document of a query to be read beside a negative, None without one."""
    best = judged(cell, query, 1)
    return best[0] if best and best[0]["label"] >= cell.threshold else None
