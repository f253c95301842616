"""Small rankings and qrels for tests."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa

from trove_steps.ranking import Ranking


def make_ranking(results, doc_ids=None):
    """Build a Ranking from {query: {document: score}}, sorted as the search sorts."""
    doc_ids = doc_ids or sorted({doc for docs in results.values() for doc in docs})
    place = {doc: i for i, doc in enumerate(doc_ids)}
    offsets, docs, scores = [0], [], []
    for found in results.values():
        for doc, score in sorted(
            found.items(), key=lambda item: (item[1], item[0].encode()), reverse=True
        ):
            docs.append(place[doc])
            scores.append(score)
        offsets.append(len(docs))
    return Ranking(
        pa.array(list(results), pa.string()),
        pa.array(doc_ids, pa.string()),
        np.array(offsets, np.int64),
        np.array(docs, np.int64),
        np.array(scores, np.float64),
    )


def rows_of(ranking):
    """Return [(query, document, score)] in order."""
    queries, docs = ranking.query_ids.to_pylist(), ranking.doc_ids.to_pylist()
    return [
        (queries[q], docs[d], s)
        for q, d, s in zip(ranking.row_queries, ranking.docs, ranking.scores, strict=True)
    ]


def make_qrels(labels):
    """Build a qrels table from {query: {document: label}}."""
    rows = [(q, d, label) for q, docs in labels.items() for d, label in docs.items()]
    return pa.table(
        {
            "query_id": pa.array([row[0] for row in rows], pa.string()),
            "doc_id": pa.array([row[1] for row in rows], pa.string()),
            "score": pa.array(
                [row[2] for row in rows],
                pa.float64() if any(isinstance(row[2], float) for row in rows) else pa.int64(),
            ),
        }
    )


def read_qrels(path: Path, lowest=None):
    """Read a BEIR qrels file; `lowest` is Trove's min_score."""
    labels = {}
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        query, doc, label = line.split("\t")
        if lowest is None or int(label) >= lowest:
            labels.setdefault(query, {})[doc] = int(label)
    return make_qrels(labels)


def read_run(path: Path, doc_ids=None):
    """Read a gzipped run, TREC's six columns or Trove's three."""
    results = {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            columns = line.split()
            query, doc, score = [
                columns[i] for i in ((0, 2, 4) if len(columns) == 6 else (0, 1, 2))
            ]
            results.setdefault(query, {})[doc] = float(score)
    return make_ranking(results, doc_ids)
