"""What the report shows, read from the results folder and the cache as one value that JSON can hold."""

import csv
import json
import sys
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trove_steps import __version__
from trove_steps.data import read_qrels
from trove_steps.data.collections import Files
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json
from trove_steps.judging import judgments
from trove_steps.keys import recipe_key
from trove_steps.ranking import Judgments, Ranking
from trove_steps.reporting.statistics import holm, intervals, p_values
from trove_steps.search import open_search
from trove_steps.store import manifest_path
from trove_steps.summary import metric_order
from trove_steps.texts import read_some, snippet

MAIN_METRICS = ("ndcg_cut_10", "mrr_cut_10", "recall_100")
POINTS = 7_500  # queries in the scatter plots of all data sets together
WORST_QUERIES = 5
TOP_DOCUMENTS = 5
JUDGED_DOCUMENTS = 5
SAMPLES = 20  # mined negatives to read, of each cell
BINS = 40
SNIPPET = 160
QUERY_SNIPPET = 110
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "pyarrow",
    "pytrec-eval-terrier",
    "snakemake",
)


@dataclass
class Cell:
    """The finished evaluation of one data set with one model, and its mining if there is one."""

    record: dict
    folder: Path
    cache: Path
    logs: Path
    mining: dict | None = None
    wanted: dict[int, str] = field(default_factory=dict)  # documents whose text is shown

    @property
    def dataset(self) -> str:
        return self.record["cell"].split("/")[0]

    @property
    def model(self) -> str:
        return self.record["cell"].split("/")[1]

    @cached_property
    def figures(self) -> dict:
        return read_json(self.folder / "metrics.json")

    @property
    def metrics(self) -> dict[str, float]:
        return {k: v for k, v in self.figures.items() if k in self.per_query.column_names}

    @cached_property
    def per_query(self) -> pa.Table:
        return pq.read_table(self.folder / "per_query.parquet")

    @property
    def search_key(self) -> str:
        return recipe_key(self.record["search"])

    @cached_property
    def search_manifest(self) -> Path:
        """The deepest ranking of the cell's search."""
        folder = self.cache / "searches" / self.search_key
        found = sorted(folder.glob("top*.json"), key=lambda path: int(path.stem[3:]))
        if not found:
            raise TroveStepsError(f"{folder} holds no ranking: run the workflow again")
        return found[-1]

    @cached_property
    def opened(self) -> tuple:
        return open_search(self.search_manifest, self.cache)

    @property
    def ranking(self) -> Ranking:
        return self.opened[0]

    @cached_property
    def judgments(self) -> Judgments:
        paths = [self.cache / "in" / digest for digest in self.record["qrels"]]
        search, collections = self.record["search"], self.record["collections"]
        qrels = judgments(Files(paths), collections, search, self.cache)
        return Judgments(self.ranking, qrels)

    def manifest(self, side: str) -> Path:
        """Return the manifest of the "corpus" or the "queries"."""
        of = self.record["search"][side]
        return manifest_path(self.cache, of["encoder"], side, of["texts"])

    def texts(self, side: str) -> dict:
        """Return the recipe of the texts of the "corpus" or the "queries"."""
        return read_json(self.manifest(side))["recipe"]


def collect(evaluations: list[Path], minings: list[Path], cache: Path, logs: Path) -> dict:
    """Return the content of the report.

    `evaluations` and `minings` are the records of the cells; `logs` is the folder of the workflow's logs,
    whose benchmark files say how long each step took.
    """
    mined = {content["cell"]: content for content in map(read_json, minings)}
    cells = []
    for path in evaluations:
        record = read_json(path)
        folder = path.parent.parent
        cells.append(Cell(record, folder, cache, logs, mined.get(record["cell"])))
    metrics = sorted({name for cell in cells for name in cell.metrics}, key=metric_order)
    main = next((name for name in MAIN_METRICS if name in metrics), metrics[0])
    names = list(dict.fromkeys(cell.dataset for cell in cells))
    return {
        "version": __version__,
        "metrics": metrics,
        "main": main,
        "models": list(dict.fromkeys(cell.model for cell in cells)),
        "datasets": [
            _dataset(
                name, [cell for cell in cells if cell.dataset == name], main, POINTS // len(names)
            )
            for name in names
        ],
        "packages": {"python": sys.version.split()[0]} | {p: _version(p) for p in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _dataset(name: str, cells: list[Cell], main: str, points: int) -> dict:
    ids, values = _aligned(cells)
    content = {
        "name": name,
        "queries": len(ids),
        "documents": len(cells[0].ranking.doc_ids),
        "threshold": cells[0].record["relevance_threshold"],
        "counts": {k: v for k, v in cells[0].figures.items() if k.startswith("num_")},
        "points": _points(cells, ids, values, main, points),
        "cells": {},
    }
    uncertain = _uncertainty(cells, values, _compared(cells[0]))
    for cell in cells:
        content["cells"][cell.model] = {
            "metrics": cell.metrics,
            "ties": _tie_ranges(cell),
            **uncertain[cell.model],
            "worst": _worst(cell, main),
            "scores": _score_distribution(cell),
            "mining": _mining(cell) if cell.mining else None,
            "cost": _cost(cell),
            "warnings": _warnings(cell),
            "provenance": _provenance(cell),
        }
    content["texts"] = _document_texts(cells)
    return content


# --- leaderboard ------------------------------------------------------------------------------------


def _aligned(cells: list[Cell]) -> tuple[list[str], dict[str, dict[str, np.ndarray]]]:
    """Return the queries that all cells judge, and model → metric → values float64[queries]."""
    common = cells[0].per_query["query_id"]
    for cell in cells[1:]:
        common = common.filter(pc.is_in(common, value_set=cell.per_query["query_id"]))
    values = {}
    for cell in cells:
        rows = pc.index_in(common, value_set=cell.per_query["query_id"].combine_chunks())
        table = cell.per_query.take(rows.combine_chunks())
        values[cell.model] = {
            name: table[name].to_numpy() for name in table.column_names if name != "query_id"
        }
    return common.to_pylist(), values


def _compared(cell: Cell) -> dict[tuple, float]:
    """Return (metric, model, model) → corrected p-value from comparison.tsv, where there is one."""
    path = cell.folder.parent.parent / "comparison.tsv"
    if not path.exists():
        return {}
    with open(path, encoding="utf-8", newline="") as file:
        rows = [
            r for r in csv.DictReader(file, dialect="excel-tab") if r["dataset"] == cell.dataset
        ]
    return {
        (row["metric"], *sorted((row["model_a"], row["model_b"]))): float(row["p_holm"])
        for row in rows
    }


def _uncertainty(cells: list[Cell], values: dict, compared: dict) -> dict[str, dict]:
    """Return model → {"low", "high", "p"}: metric → end of the interval, p-value against the best."""
    result = {cell.model: {"low": {}, "high": {}, "p": {}} for cell in cells}
    for cell in cells:
        names = list(values[cell.model])
        table = np.column_stack([values[cell.model][name] for name in names])
        if len(table):
            low, high = intervals(table)
            result[cell.model]["low"] = dict(zip(names, map(float, low), strict=True))
            result[cell.model]["high"] = dict(zip(names, map(float, high), strict=True))
    for name in {name for columns in values.values() for name in columns}:
        models = [model for model in values if name in values[model]]
        best = max(models, key=lambda model: values[model][name].mean())
        others = [model for model in models if model != best]
        if others and len(values[best][name]):
            gaps = np.column_stack([values[best][name] - values[m][name] for m in others])
            for model, p in zip(others, holm(p_values(gaps)), strict=True):
                known = compared.get((name, *sorted((best, model))))
                result[model]["p"][name] = float(p) if known is None else known
    return result


def _tie_ranges(cell: Cell) -> dict[str, list[float]]:
    """Return metric → its lowest and highest value over all orders of documents with equal scores."""
    ends = {
        name: [cell.figures.get(f"{name}_{end}") for end in ("min", "max")] for name in cell.metrics
    }
    return {name: pair for name, pair in ends.items() if None not in pair}


# --- queries ----------------------------------------------------------------------------------------


def _points(cells: list[Cell], ids: list[str], values: dict, main: str, limit: int) -> dict:
    """Return the main metric of each query and model, of at most `limit` queries, evenly chosen."""
    chosen = np.unique(np.linspace(0, len(ids) - 1, min(limit, len(ids))).round().astype(int))
    shown = [ids[n] for n in chosen]
    texts = _query_texts(cells[0], shown)
    return {
        "of": len(ids),
        "ids": shown,
        "texts": [snippet(texts.get(one, ""), QUERY_SNIPPET) for one in shown],
        "values": {
            model: np.round(columns[main][chosen], 3).tolist()
            for model, columns in values.items()
            if main in columns
        },
    }


def _query_texts(cell: Cell, ids: list[str]) -> dict[str, str]:
    """Return query id → text."""
    rows = pc.index_in(
        pa.array(ids, pa.string()), value_set=cell.ranking.query_ids.combine_chunks()
    )
    wanted = {row: one for row, one in zip(rows.to_pylist(), ids, strict=True) if row is not None}
    found = read_some(cell.cache, cell.texts("queries"), wanted)
    return {wanted[row]: text for row, text in found.items()}


def _worst(cell: Cell, main: str) -> list[dict]:
    """Return the queries with the lowest main metric, what they retrieved and what was relevant."""
    if main not in cell.per_query.column_names:
        return []
    threshold = cell.record["relevance_threshold"]
    queries = pc.index_in(
        cell.per_query["query_id"], value_set=cell.ranking.query_ids.combine_chunks()
    ).to_numpy()
    has_relevant = np.array(
        [
            (cell.judgments.labels[slice(*cell.judgments.offsets[q : q + 2])] >= threshold).any()
            for q in queries
        ],
        bool,
    )
    scores = cell.per_query[main].to_numpy()
    order = [n for n in np.argsort(scores, kind="stable") if has_relevant[n]][:WORST_QUERIES]
    ids = cell.per_query["query_id"].take(pa.array(order, pa.int64())).to_pylist()
    texts = _query_texts(cell, ids)
    return [
        {"id": one, "text": snippet(texts.get(one, ""), 2 * SNIPPET), "value": float(scores[n])}
        | _beside(cell, int(queries[n]), threshold)
        for n, one in zip(order, ids, strict=True)
    ]


def _beside(cell: Cell, query: int, threshold: int) -> dict:
    """Return the top documents of a query and its judged ones, each with rank, score and label."""
    view = cell.ranking.span(query, query + 1)
    labels = dict(_labels(cell, query))
    ranks = {int(doc): rank for rank, doc in enumerate(view.docs, 1)}
    top = [
        _shown(cell, int(doc), n + 1, view.scores[n], labels)
        for n, doc in enumerate(view.docs[:TOP_DOCUMENTS])
    ]
    relevant = sum(label >= threshold for label in labels.values())
    order = sorted(labels, key=lambda doc: (-labels[doc], ranks.get(doc, sys.maxsize), doc))
    judged = [
        _shown(
            cell, doc, ranks.get(doc), view.scores[ranks[doc] - 1] if doc in ranks else None, labels
        )
        for doc in order[:JUDGED_DOCUMENTS]
    ]
    return {
        "top": top,
        "judged": judged,
        "relevant": relevant,
        "of": len(labels),
        "depth": len(view.docs),
    }


def _labels(cell: Cell, query: int) -> list[tuple[int, float]]:
    """Return (document, label) of the judgments of a query that name a document of the corpus."""
    of = slice(*cell.judgments.offsets[query : query + 2])
    pairs = zip(cell.judgments.docs[of].tolist(), cell.judgments.labels[of].tolist(), strict=True)
    return [(doc, label) for doc, label in pairs if doc >= 0]


def _shown(cell: Cell, doc: int, rank: int | None, score: float | None, labels: dict) -> dict:
    cell.wanted[doc] = cell.ranking.doc_ids[doc].as_py()
    return {
        "doc": doc,
        "rank": rank,
        "score": None if score is None else round(float(score), 4),
        "label": labels.get(doc),
    }


def _document_texts(cells: list[Cell]) -> dict[int, list[str]]:
    """Return document number → [id, beginning of its text], all models' documents in one pass."""
    wanted = {doc: one for cell in cells for doc, one in cell.wanted.items()}
    found = read_some(cells[0].cache, cells[0].texts("corpus"), wanted)
    return {doc: [one, snippet(found.get(doc, ""), SNIPPET)] for doc, one in wanted.items()}


def _score_distribution(cell: Cell) -> dict:
    """Return histograms of the scores of retrieved documents: relevant, judged not relevant, unjudged."""
    view = cell.ranking.head(cell.record["depth"])
    judged = np.unique(cell.judgments.rows(np.arange(len(view)))[0])
    view = view.select(judged)
    if not len(view.scores):
        return {}
    at = cell.judgments.find(view, judged)
    labels = np.where(at >= 0, cell.judgments.labels[at], np.nan)
    threshold = cell.record["relevance_threshold"]
    edges = np.linspace(view.scores.min(), view.scores.max() or 1.0, BINS + 1)
    kinds = {
        "relevant": labels >= threshold,
        "judged, not relevant": labels < threshold,
        "not judged": np.isnan(labels),
    }
    return {
        "edges": np.round(edges, 4).tolist(),
        "counts": {kind: _histogram(view.scores[rows], edges) for kind, rows in kinds.items()},
    }


def _histogram(values: np.ndarray, edges: np.ndarray) -> list[int]:
    places = np.searchsorted(edges, values, side="right") - 1
    return np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS).tolist()


# --- mining -----------------------------------------------------------------------------------------


def _mining(cell: Cell) -> dict:
    """Return the funnel, histograms of rank and margin, and some negatives to read."""
    folder = cell.folder / "mined"
    funnel = pq.read_table(folder / "funnel.parquet")
    names = [name for name in funnel.column_names if name != "query_id"]
    content = {
        "asked": cell.mining.get("search_topk"),
        "queries": funnel.num_rows,
        "funnel": {name: int(pc.sum(funnel[name]).as_py() or 0) for name in names},
    }
    mined = read_qrels(sorted(folder.rglob("mined_qrels.*")))
    queries = _numbers(mined["query_id"], cell.ranking.query_ids)
    docs = _numbers(mined["doc_id"], cell.ranking.doc_ids)
    scores = mined["score"].to_numpy().astype(float)
    known = (queries >= 0) & (docs >= 0)
    queries, docs, scores = queries[known], docs[known], scores[known]
    ranks, margins = _ranks_and_margins(cell, queries, docs, scores)
    if len(ranks):
        top = int(ranks.max())
        width = -(-top // BINS)
        content["ranks"] = {
            "width": width,
            "counts": np.bincount((ranks - 1) // width, minlength=-(-top // width)).tolist(),
        }
    finite = margins[np.isfinite(margins)]
    if len(finite):
        edges = np.linspace(
            finite.min(), finite.max() if np.ptp(finite) else finite.min() + 1, BINS + 1
        )
        content["margins"] = {
            "edges": np.round(edges, 4).tolist(),
            "counts": _histogram(finite, edges),
            "above": float((finite < 0).mean()),
        }
    chosen = np.random.default_rng(0).permutation(len(docs))[:SAMPLES]
    asked = cell.ranking.query_ids.take(pa.array(queries[chosen])).to_pylist()
    texts = _query_texts(cell, asked)
    content["samples"] = [
        {
            "query": one,
            "text": snippet(texts.get(one, ""), SNIPPET),
            "negative": _shown(cell, int(docs[n]), int(ranks[n]) or None, scores[n], {}),
            "positive": _positive(cell, int(queries[n])),
        }
        for n, one in zip(chosen, asked, strict=True)
    ]
    return content


def mined_samples(cell: Cell) -> list[dict]:
    """Return some mined negatives of a cell with their texts, drawn at random, as rows of a table."""
    samples = _mining(cell)["samples"]
    texts = _document_texts([cell])
    return [
        {
            "query_id": sample["query"],
            "query": sample["text"],
            "document_id": texts[sample["negative"]["doc"]][0],
            "document": texts[sample["negative"]["doc"]][1],
            "rank": sample["negative"]["rank"],
            "score": sample["negative"]["score"],
        }
        for sample in samples
    ]


def _numbers(ids: pa.ChunkedArray, among) -> np.ndarray:
    """Return the place of each id, -1 for one that is not there; int64."""
    found = pc.index_in(ids, value_set=pc.cast(among, ids.type).combine_chunks())
    return found.fill_null(-1).to_numpy().astype(np.int64)


def _ranks_and_margins(cell: Cell, queries, docs, scores) -> tuple[np.ndarray, np.ndarray]:
    """Return of each negative its rank (0 if not ranked) and its margin.

    The margin is the score of the query's best relevant document that was retrieved, minus the score of
    the negative; NaN where no relevant document was retrieved.
    """
    ranking = cell.ranking
    stride = len(ranking.doc_ids)
    keys = ranking.row_queries * stride + ranking.docs
    order = np.argsort(keys)
    at = np.searchsorted(keys, queries * stride + docs, sorter=order)
    at = order[np.minimum(at, len(order) - 1)]
    ranks = np.where(keys[at] == queries * stride + docs, ranking.ranks[at] + 1, 0)
    best = np.full(len(ranking), np.nan)
    if cell.record["qrels"]:
        found = cell.judgments.find(ranking, np.arange(len(ranking)))
        relevant = (found >= 0) & (
            cell.judgments.labels[found] >= cell.record["relevance_threshold"]
        )
        rows = np.flatnonzero(relevant)[::-1]
        best[ranking.row_queries[rows]] = ranking.scores[rows]
    return ranks, best[queries] - scores


def _positive(cell: Cell, query: int) -> dict | None:
    """Return the relevant document of a query that is ranked best, to be read beside a negative."""
    beside = _beside(cell, query, cell.record["relevance_threshold"])
    return beside["judged"][0] if beside["relevant"] else None


# --- cost, warnings, provenance ---------------------------------------------------------------------


def _cost(cell: Cell) -> dict:
    """Return what each step took, and the size of a vector."""
    vectors = cell.opened[2]
    sides = {side: _encode_record(cell.manifest(side)) for side in ("queries", "corpus")}
    depth = cell.search_manifest.stem[3:]
    name = f"{cell.dataset}/{cell.model}"
    seconds = {
        "search": _benchmark(cell.logs / "search" / f"{cell.search_key}-top{depth}.benchmark.tsv"),
        "score": _newest(cell.logs / "score", f"{name}-*.benchmark.tsv"),
        "mine": _newest(cell.logs / "mine", f"{name}-*.benchmark.tsv"),
    }
    return {
        "encode": sides,
        "seconds": {step: value for step, value in seconds.items() if value is not None},
        "dim": vectors.dim,
        "bytes": cell.record["bytes_per_vector"],
    }


def _encode_record(manifest: Path) -> dict | None:
    """Return what the encode jobs of a collection did together, from records.jsonl beside it."""
    path = manifest.parent / "records.jsonl"
    if not path.exists():
        return None
    lines = path.read_text(encoding="utf-8").splitlines()
    jobs = [job for line in lines if (job := json.loads(line)).get("manifest") == manifest.name]
    if not jobs:
        return None
    # A job that found everything says nothing about speed: the last one that encoded does.
    told = next((job for job in reversed(jobs) if job.get("encoded")), jobs[-1])
    seconds = told.get("seconds", {})
    total = seconds.get("total", 0)
    return {
        "rows": told["rows"],
        "reused": told["reused"],
        "encoded": told["encoded"],
        "tokens": told.get("tokens", 0),
        "rate": told.get("tokens", 0) / total if total else None,
        "seconds": total,
        "phases": seconds,
        "truncated": told.get("truncated_texts", 0),
        "truncated_tokens": told.get("truncated_tokens", 0),
        "padding": 1 - told["tokens"] / told["padded_tokens"]
        if told.get("padded_tokens")
        else None,
    }


def _benchmark(path: Path) -> float | None:
    """Return the wall-clock seconds of a job from snakemake's benchmark file."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return float(next(csv.DictReader(file, dialect="excel-tab"))["s"])
    except (OSError, StopIteration, KeyError, ValueError):
        return None


def _newest(folder: Path, pattern: str) -> float | None:
    found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
    return _benchmark(found[-1]) if found else None


def _warnings(cell: Cell) -> dict:
    """Count documents that repeat another's text, and ties at the top that hang on the order of ids."""
    rows = pa.ipc.open_file(
        pa.memory_map(str(cell.manifest("corpus").with_suffix(".rows.arrow")))
    ).read_all()
    distinct = pc.count_distinct(rows["key"]).as_py()
    view = cell.ranking.head(10)
    same = (np.diff(view.scores) == 0) & (np.diff(view.row_queries) == 0)
    return {
        "documents": len(rows),
        "repeated": len(rows) - distinct,
        "tied_queries": len(np.unique(view.row_queries[1:][same])),
        "queries": len(view),
    }


def _provenance(cell: Cell) -> dict:
    recipes = {}
    for side in ("queries", "corpus"):
        path = cell.manifest(side)
        recipes[side] = {
            "encoder": read_json(path.parent / "recipe.json"),
            "texts": read_json(path)["recipe"],
        }
    keys = {
        f"{side} {kind}": cell.record["search"][side][kind]
        for side in ("queries", "corpus")
        for kind in ("encoder", "texts")
    }
    evaluation = {k: v for k, v in cell.record.items() if k not in ("files", "search", "cell")}
    return {
        "keys": keys | {"search": cell.search_key},
        "recipes": recipes
        | {"search": cell.record["search"], "evaluation": evaluation}
        | ({"mining": _options(cell.mining)} if cell.mining else {}),
    }


def _options(record: dict) -> dict:
    return {k: v for k, v in record.items() if k not in ("files", "search", "cell")}
