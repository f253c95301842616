"""Hard negatives: highly ranked documents that nobody has annotated for the query.

The rules, in the order in which they are applied to the results of a query:

1. annotated documents are dropped (Trove's ``no_annot_in_mined_hn``);
2. text twins of a positive, and near twins, are dropped;
3. the best ``range_max`` of the rest are the candidates;
4. candidates too close to the weakest positive (margins), or beyond a score limit, are dropped;
5. the best ``range_min`` of what is left are skipped;
6. ``num_negatives`` of the others are kept: the best, or a sample.

3 to 6 are those of ``sentence_transformers.util.mine_hard_negatives``, with the same names. No rule
looks at other queries, at the depth of the search or at the number of processes.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trove_steps.errors import TroveStepsError
from trove_steps.files import write_json
from trove_steps.ranking import Judgments, Ranking, open_output, write_lines
from trove_steps.selection import TWIN_SLACK, Selection

_PAIRS_PER_STEP = 1 << 16

# What became of a result, in the order of the funnel.
_KEPT, _ANNOTATED, _TWIN, _DEEPER, _NO_POSITIVE, _MARGIN, _SCORE, _WINDOW, _UNUSED = range(9)
_FUNNEL = {
    "annotated": _ANNOTATED,
    "twins": _TWIN,
    "no_positive": _NO_POSITIVE,
    "margin": _MARGIN,
    "score": _SCORE,
    "window": _WINDOW,
    "unused": _UNUSED,
    "kept": _KEPT,
}


class Vectors(Protocol):
    """Stored vectors in the order of a ranking's queries or documents."""

    def take(self, indices: np.ndarray) -> np.ndarray:
        """float32[m, dim] for int64[m]."""


class Teacher(Protocol):
    """A better judge of relevance than the ranking, such as a cross-encoder."""

    def __call__(self, queries: np.ndarray, docs: np.ndarray) -> np.ndarray:
        """Scores float64[m] of the pairs (int64[m], int64[m]), all finite."""


@dataclass(frozen=True)
class Mined:
    """The negatives of each query, best first.

    Attributes:
        negatives: the mined queries and, of their results, those that were kept. The scores are
            the teacher's if there is one.
        audit: a row per negative: ``query_id``, ``doc_id``, ``rank`` (from 1, in the search),
            ``score``, ``gap`` (score of the weakest positive minus the score that was compared
            with it), ``near_twin_cosine`` (largest cosine with a positive), ``teacher_score`` and
            ``text_twin`` (it has the text of a positive); null where unknown.
        funnel: a row per mined query: ``query_id``, ``candidates`` (results looked at) =
            ``annotated`` + ``twins`` + ``no_positive`` (margins without a positive to measure from)
            + ``margin`` + ``score`` + ``window`` + ``unused`` + ``kept``, and ``missing`` (asked
            for but not found).
        counts: sums of the funnel, ``num_queries`` searched, ``num_mined_queries`` and
            ``num_short_queries`` (those with ``missing`` > 0).
        queries: int64[q], where the mined queries are in the ranking.
    """

    negatives: Ranking
    audit: pa.Table
    funnel: pa.Table
    counts: dict[str, int]
    queries: np.ndarray

    @property
    def table(self) -> pa.Table:
        """``query-id``, ``corpus-id``, ``score`` (float32): a qrels table of negatives."""
        rows = self.negatives
        return pa.table(
            {
                "query-id": rows.query_ids.take(pa.array(rows.row_queries)),
                "corpus-id": rows.doc_ids.take(pa.array(rows.docs)),
                "score": rows.scores.astype(np.float32),
            }
        )


def needed_depth(
    search_topk: int,
    qrels: pa.Table | None,
    no_annot_in_mined_hn: bool = True,
    selection: Selection | None = None,
    twins: bool = False,
) -> int:
    """Return how deep to search so that enough candidates are left after the annotated.

    Args:
        twins: twins of positives are to be dropped, exact or near.
    """
    annotated = 0
    if qrels is not None and len(qrels) and no_annot_in_mined_hn:
        annotated = pc.max(pc.value_counts(qrels["query_id"]).field("counts")).as_py()
    return (selection or Selection()).depth(search_topk, annotated, twins)


def mine(
    ranking: Ranking,
    qrels: pa.Table | None,
    search_topk: int,
    no_annot_in_mined_hn: bool = True,
    selection: Selection | None = None,
    *,
    texts: np.ndarray | None = None,
    drop_text_twins: bool = True,
    query_vectors: Vectors | None = None,
    doc_vectors: Vectors | None = None,
    teacher: Teacher | None = None,
) -> Mined:
    """Pick results that may serve as negatives; the module says by which rules.

    With ``no_annot_in_mined_hn`` every annotated document is dropped, whatever its label, and a
    query without any annotation is left out as soon as there are annotations at all: nobody
    knows its positives. Without it, or without qrels, nothing is dropped for being annotated.

    Args:
        ranking: results at least ``needed_depth`` deep (where the corpus has so many).
        qrels: table of ``query_id``, ``doc_id``, ``score``, or None. Positives are the documents
            with a label of at least 1.
        search_topk: number of candidates, and by default of negatives, per query. Where there are
            fewer, the funnel says so.
        no_annot_in_mined_hn: see above.
        selection: further rules.
        texts: int[D], equal for documents with the same text.
        drop_text_twins: drop the text twins of positives; needs ``texts``. If false, the audit
            still says which negatives are twins.
        query_vectors: where margins find the scores of positives that were not retrieved (with
            ``doc_vectors``).
        doc_vectors: also needed for ``near_twin_cosine``.
        teacher: its scores replace the ranking's in rules 4 to 6.

    Raises:
        TroveStepsError: contradicting options; no searched query is annotated although there are
            annotations; margins without qrels.
    """
    selection = selection or Selection()
    selection.check(search_topk)
    if qrels is not None and not len(qrels):
        qrels = None
    drop_annotated = no_annot_in_mined_hn and qrels is not None
    judgments = None if qrels is None else Judgments(ranking, qrels)
    if drop_annotated and not len(judgments):
        raise TroveStepsError(
            f"none of the {len(ranking)} searched queries is annotated in the qrels, so there is "
            "nothing to mine: are they of the same data set?"
        )
    if judgments is None and (selection.has_margin or selection.near_twin_cosine is not None):
        raise TroveStepsError(
            "mining.absolute_margin, relative_margin and near_twin_cosine measure from positives: "
            "the data set needs a qrel_path"
        )
    drop_text_twins &= texts is not None
    twins = drop_text_twins or selection.near_twin_cosine is not None
    depth = needed_depth(search_topk, qrels, drop_annotated, selection, twins)
    evidence = _Evidence(judgments, texts, drop_text_twins, query_vectors, doc_vectors, teacher)
    parts = []
    for first, block in ranking.blocks():
        queries = np.arange(first, first + len(block))
        if drop_annotated:
            queries = queries[judgments.counts[queries] > 0]
        view = block.select(queries - first).head(depth)
        parts.append(_mine_block(view, queries, evidence, selection, search_topk, drop_annotated))
    return _collect(ranking, parts, selection.wanted(search_topk))


@dataclass(frozen=True)
class _Evidence:
    """Everything that is known about queries and documents beside the ranking."""

    judgments: Judgments | None
    texts: np.ndarray | None
    drop_text_twins: bool
    query_vectors: Vectors | None
    doc_vectors: Vectors | None
    teacher: Teacher | None

    def positives(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positives that are in the corpus: place in ``queries``, and document, by place."""
        if self.judgments is None:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        places, rows = self.judgments.rows(queries)
        wanted = (self.judgments.labels[rows] >= 1) & (self.judgments.docs[rows] >= 0)
        return places[wanted], self.judgments.docs[rows[wanted]]

    def exact_scores(self, queries: np.ndarray, docs: np.ndarray) -> np.ndarray:
        """float64[m], by the same arithmetic as the search's."""
        from trove_steps.topk import rescore

        scores = np.empty(len(queries))
        for part in _steps(len(queries)):
            scores[part] = rescore(
                self.query_vectors.take(queries[part]), self.doc_vectors.take(docs[part])
            )
        return scores

    def cosines(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """float64[m], of the vectors of documents ``left`` and ``right``; 0 for a zero vector."""
        cosines = np.empty(len(left))
        for part in _steps(len(left)):
            a = self.doc_vectors.take(left[part]).astype(np.float64)
            b = self.doc_vectors.take(right[part]).astype(np.float64)
            norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            cosines[part] = (a * b).sum(1) / np.where(norms > 0, norms, 1)
        return cosines


def _steps(count: int) -> Iterator[slice]:
    for start in range(0, count, _PAIRS_PER_STEP):
        yield slice(start, min(start + _PAIRS_PER_STEP, count))


@dataclass(frozen=True)
class _Part:
    """What was mined from some queries."""

    queries: np.ndarray  # int64[q], in the whole ranking
    negatives: Ranking
    columns: dict[str, np.ndarray]  # of the audit, one value per negative
    funnel: dict[str, np.ndarray]  # int64[q] each


def _mine_block(
    view: Ranking,
    queries: np.ndarray,
    evidence: _Evidence,
    selection: Selection,
    search_topk: int,
    drop_annotated: bool,
) -> _Part:
    """Give every result of the view a fate, and keep the negatives."""
    fate = np.full(len(view.docs), _DEEPER, np.int8)
    if drop_annotated:
        fate[evidence.judgments.find(view, queries) >= 0] = _ANNOTATED
    positives = evidence.positives(queries)
    rows = np.flatnonzero(fate == _DEEPER)
    text_twins = np.full(len(view.docs), np.nan)
    if evidence.texts is not None:
        twins = _same_text(view, rows, positives, evidence.texts)
        text_twins[rows] = twins
        if evidence.drop_text_twins:
            fate[rows[twins]] = _TWIN
            rows = rows[~twins]
    cosines = np.full(len(view.docs), np.nan)
    if selection.near_twin_cosine is not None:
        rows = _best(view, rows, selection.candidates(search_topk) + TWIN_SLACK)
        cosines[rows] = _largest_cosine(view, rows, positives, evidence)
        twins = cosines[rows] > selection.near_twin_cosine
        fate[rows[twins]] = _TWIN
        rows = rows[~twins]
    rows = _best(view, rows, selection.candidates(search_topk))

    scores, teacher_scores = view.scores, np.full(len(view.docs), np.nan)
    if evidence.teacher is not None:
        teacher_scores[rows] = evidence.teacher(queries[view.row_queries[rows]], view.docs[rows])
        scores = teacher_scores
    weakest = _weakest_positive(view, queries, positives, evidence, selection.has_margin)
    gaps = weakest[view.row_queries] - scores
    fate[rows] = _fates(scores[rows], weakest[view.row_queries[rows]], selection)
    rows = rows[fate[rows] == _KEPT]
    # The stable sort leaves the ranking's order alone unless a teacher has another one.
    rows = rows[np.lexsort((-scores[rows], view.row_queries[rows]))]
    _choose(view, rows, fate, selection, selection.wanted(search_topk))

    kept = rows[fate[rows] == _KEPT]
    negatives = Ranking(
        view.query_ids,
        view.doc_ids,
        np.searchsorted(view.row_queries[kept], np.arange(len(view) + 1)),
        view.docs[kept],
        scores[kept],
    )
    columns = {
        "rank": view.ranks[kept] + 1,
        "score": view.scores[kept],
        "gap": gaps[kept],
        "near_twin_cosine": cosines[kept],
        "teacher_score": teacher_scores[kept],
        "text_twin": text_twins[kept],
    }
    funnel = _funnel(view, fate, selection.candidates(search_topk), selection.wanted(search_topk))
    return _Part(queries, negatives, columns, funnel)


def _fates(scores: np.ndarray, weakest: np.ndarray, selection: Selection) -> np.ndarray:
    """Rule 4: what becomes of candidates that score so, given their weakest positives."""
    fate = np.full(len(scores), _KEPT, np.int8)
    if selection.max_score is not None:
        fate[scores > selection.max_score] = _SCORE
    if selection.min_score is not None:
        fate[scores < selection.min_score] = _SCORE
    if selection.absolute_margin is not None:
        fate[scores + selection.absolute_margin > weakest] = _MARGIN
    if selection.relative_margin is not None:
        # The magnitude: a factor 1 - margin would raise the limit of a negative score.
        fate[scores > weakest - np.abs(weakest) * selection.relative_margin] = _MARGIN
    if selection.has_margin:
        fate[np.isnan(weakest)] = _NO_POSITIVE
    return fate


def _choose(
    view: Ranking, rows: np.ndarray, fate: np.ndarray, selection: Selection, wanted: int
) -> None:
    """Rules 5 and 6, on the rows that are left, best first within their query."""
    place = _places(view.row_queries[rows])
    fate[rows[place < selection.range_min]] = _WINDOW
    rows = rows[place >= selection.range_min]
    if selection.sampling == "random":
        lots = _lots(view, rows, selection.seed)
        rows = rows[np.lexsort((lots, view.row_queries[rows]))]
    fate[rows[_places(view.row_queries[rows]) >= wanted]] = _UNUSED


def _best(view: Ranking, rows: np.ndarray, count: int) -> np.ndarray:
    """Keep the first ``count`` of each query's rows (ascending)."""
    return rows[_places(view.row_queries[rows]) < count]


def _places(groups: np.ndarray) -> np.ndarray:
    """0, 1, 2 … within each run of equal values."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    return np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))


def _lots(view: Ranking, rows: np.ndarray, seed: int) -> np.ndarray:
    """Draw a uint64 per row from the seed and the two ids, whatever else is in the ranking."""
    queries, query_of = np.unique(view.row_queries[rows], return_inverse=True)
    docs, doc_of = np.unique(view.docs[rows], return_inverse=True)
    lots = _hashes(view.query_ids.take(pa.array(queries)), seed)[query_of]
    lots ^= _hashes(view.doc_ids.take(pa.array(docs)), seed + 1)[doc_of]
    # The finalizer of SplitMix64: without it two queries would order two documents alike too often.
    lots = (lots ^ (lots >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    lots = (lots ^ (lots >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return lots ^ (lots >> np.uint64(31))


def _hashes(ids: pa.Array | pa.ChunkedArray, seed: int) -> np.ndarray:
    salt = str(seed).encode()[:16]
    digests = (blake2b(i.encode(), digest_size=8, salt=salt).digest() for i in ids.to_pylist())
    return np.frombuffer(b"".join(digests), "<u8")


def _same_text(
    view: Ranking,
    rows: np.ndarray,
    positives: tuple[np.ndarray, np.ndarray],
    texts: np.ndarray,
) -> np.ndarray:
    """Tell of each row whether its document has the text of a positive of its query; bool[m]."""
    places, docs = positives
    known, number = np.unique(texts[docs], return_inverse=True)
    if not len(known):
        return np.zeros(len(rows), bool)
    wanted = texts[view.docs[rows]]
    nearest = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    pairs = view.row_queries[rows] * len(known) + nearest
    return (known[nearest] == wanted) & np.isin(pairs, places * len(known) + number)


def _largest_cosine(
    view: Ranking,
    rows: np.ndarray,
    positives: tuple[np.ndarray, np.ndarray],
    evidence: _Evidence,
) -> np.ndarray:
    """Largest cosine of each row's document with a positive of its query, NaN without one."""
    places, docs = positives
    counts = np.bincount(places, minlength=len(view))
    starts = np.cumsum(counts) - counts
    repeats = counts[view.row_queries[rows]]
    pair_rows = np.repeat(np.arange(len(rows)), repeats)
    partner = docs[_places(pair_rows) + np.repeat(starts[view.row_queries[rows]], repeats)]
    largest = np.full(len(rows), np.nan)
    np.fmax.at(largest, pair_rows, evidence.cosines(view.docs[rows][pair_rows], partner))
    return largest


def _weakest_positive(
    view: Ranking,
    queries: np.ndarray,
    positives: tuple[np.ndarray, np.ndarray],
    evidence: _Evidence,
    needed: bool,
) -> np.ndarray:
    """Lowest score of each query's positives, NaN where there is none or it is unknown; float64[Q].

    A positive that was not retrieved is scored from the stored vectors.
    """
    places, docs = positives
    if evidence.teacher is not None:
        scores = evidence.teacher(queries[places], docs)
    elif evidence.query_vectors is not None and evidence.doc_vectors is not None:
        scores = evidence.exact_scores(queries[places], docs)
    else:
        scores = _retrieved_scores(view, places, docs)
        if needed and np.isnan(scores).any():
            raise ValueError("margins need query_vectors and doc_vectors")
    weakest = np.full(len(view), np.inf)
    with np.errstate(invalid="ignore"):  # NaN spreads: then the weakest is unknown
        np.minimum.at(weakest, places, scores)
    return np.where(np.isinf(weakest), np.nan, weakest)


def _retrieved_scores(view: Ranking, places: np.ndarray, docs: np.ndarray) -> np.ndarray:
    """Score of each pair in the view, NaN if the document was not retrieved."""
    stride = len(view.doc_ids)
    pairs = view.row_queries * stride + view.docs
    order = np.argsort(pairs)
    wanted = places * stride + docs
    if not len(pairs):
        return np.full(len(wanted), np.nan)
    found = order[np.minimum(np.searchsorted(pairs, wanted, sorter=order), len(pairs) - 1)]
    return np.where(pairs[found] == wanted, view.scores[found], np.nan)


def _funnel(view: Ranking, fate: np.ndarray, candidates: int, wanted: int) -> dict[str, np.ndarray]:
    def count(rows):
        return np.bincount(view.row_queries[rows], minlength=len(view))

    # What comes after the last of all the candidates that were asked for was not looked at.
    compared = (fate != _DEEPER) & (fate != _ANNOTATED) & (fate != _TWIN)
    last = np.full(len(view), -1)
    np.maximum.at(last, view.row_queries[compared], view.ranks[compared])
    last[count(compared) < candidates] = len(fate)
    seen = (fate != _DEEPER) & (view.ranks <= last[view.row_queries])
    columns = {name: count(seen & (fate == value)) for name, value in _FUNNEL.items()}
    return {"candidates": count(seen), **columns, "missing": wanted - columns["kept"]}


def _collect(ranking: Ranking, parts: Sequence[_Part], wanted: int) -> Mined:
    def joined(arrays, dtype=np.int64):
        return np.concatenate([np.empty(0, dtype), *arrays])

    queries = joined(part.queries for part in parts)
    query_ids = ranking.query_ids.take(pa.array(queries))
    docs = joined(part.negatives.docs for part in parts)
    lengths = joined(part.negatives.lengths for part in parts)
    negatives = Ranking(
        query_ids,
        ranking.doc_ids,
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        docs,
        joined((part.negatives.scores for part in parts), np.float64),
    )
    audit = pa.table(
        {
            "query_id": query_ids.take(pa.array(negatives.row_queries)),
            "doc_id": ranking.doc_ids.take(pa.array(docs)),
            "rank": joined(part.columns["rank"] for part in parts),
        }
        | {
            name: pa.array(joined((part.columns[name] for part in parts), float), from_pandas=True)
            for name in ("score", "gap", "near_twin_cosine", "teacher_score", "text_twin")
        }
    )
    flags = audit["text_twin"].cast(pa.bool_())
    audit = audit.set_column(audit.schema.get_field_index("text_twin"), "text_twin", flags)
    names = ["candidates", *_FUNNEL, "missing"]
    columns = {name: joined(part.funnel[name] for part in parts) for name in names}
    counts = {
        "num_queries": len(ranking),
        "num_mined_queries": len(queries),
        "num_short_queries": int((columns["missing"] > 0).sum()),
    } | {f"num_{name}": int(column.sum()) for name, column in columns.items()}
    return Mined(negatives, audit, pa.table({"query_id": query_ids} | columns), counts, queries)


def split_by_file(
    mined: Mined, query_files: np.ndarray, corpus_files: np.ndarray
) -> Iterator[tuple[int, int, Ranking]]:
    """Split negatives by query file and corpus file.

    Args:
        query_files: int[q], the file of each mined query.
        corpus_files: int[D], the file of each document.

    Yields:
        Query file, corpus file and their negatives, by file numbers; pairs without any are left
        out.
    """
    rows = mined.negatives
    row_query_files, row_corpus_files = query_files[rows.row_queries], corpus_files[rows.docs]
    for query_file in np.unique(row_query_files):
        for corpus_file in np.unique(row_corpus_files[row_query_files == query_file]):
            these = (row_query_files == query_file) & (row_corpus_files == corpus_file)
            yield int(query_file), int(corpus_file), rows.filter(these)


def write_by_file(
    folder: str | os.PathLike,
    mined: Mined,
    query_paths: Sequence[str],
    query_files: np.ndarray,
    corpus_paths: Sequence[str],
    corpus_files: np.ndarray,
    output_qrel_format: Literal["tsv", "grouped"] = "tsv",
) -> list[Path]:
    """Write ``query_corpus_pair_{i}/`` for each pair of files, as Trove does.

    Each holds the negatives and ``file_pair_metadata.json``, which names the two files.

    Returns:
        The files that were written.
    """
    written = []
    pairs = split_by_file(mined, query_files, corpus_files)
    for number, (query_file, corpus_file, rows) in enumerate(pairs):
        pair = Path(folder) / f"query_corpus_pair_{number}"
        written.append(write_negatives(pair, rows, output_qrel_format))
        written.append(pair / "file_pair_metadata.json")
        query_path, corpus_path = query_paths[query_file], corpus_paths[corpus_file]
        write_json(
            written[-1],
            {
                "query_file": query_path,
                "query_realpath": os.path.realpath(query_path),
                "corpus_file": corpus_path,
                "corpus_realpath": os.path.realpath(corpus_path),
            },
        )
    return written


def write_negatives(
    folder: str | os.PathLike, negatives: Ranking, output_qrel_format: Literal["tsv", "grouped"]
) -> Path:
    """Write ``mined_qrels.tsv`` or ``mined_qrels.jsonl`` into the folder; return its path."""
    name, write = {
        "tsv": ("mined_qrels.tsv", write_tsv),
        "grouped": ("mined_qrels.jsonl", write_grouped),
    }[output_qrel_format]
    path = Path(folder) / name
    write(path, negatives)
    return path


def write_tsv(path: str | os.PathLike, mined: Mined | Ranking) -> None:
    """Write negatives as a qrels file: header, then query-id, corpus-id and score by tabs.

    Raises:
        TroveStepsError: an id with a tab or a line end, which the format cannot hold; a pair of
            ids that occurs twice, because two files use the same ids.
    """
    rows = _distinct(mined)
    for ids in (rows.query_ids, rows.doc_ids):
        unfit = pc.match_substring_regex(ids, r"[\t\n\r]")
        if pc.any(unfit).as_py():
            raise TroveStepsError(
                f"id {ids.filter(unfit)[0].as_py()!r} holds a tab or a line end, which a TSV file "
                "cannot: set output_qrel_format: grouped"
            )
    with open_output(path) as file:
        file.write(b"query-id\tcorpus-id\tscore\n")
        for _, block in rows.blocks():
            write_lines(
                file,
                pc.binary_join_element_wise(
                    block.query_ids.take(pa.array(block.row_queries)),
                    block.doc_ids.take(pa.array(block.docs)),
                    pa.array([f"{score!r}\n" for score in _float32_values(block)], pa.string()),
                    "\t",
                ),
            )


def write_grouped(path: str | os.PathLike, mined: Mined | Ranking) -> None:
    """Write negatives as JSON lines ``{"qid": …, "docid": […], "score": […]}``, one per query.

    A query without negatives has no line.

    Raises:
        TroveStepsError: a pair of ids that occurs twice, because two files use the same ids.
    """
    with open_output(path) as file:
        for _, block in _distinct(mined).blocks():
            queries = block.query_ids.to_pylist()
            docs = block.doc_ids.take(pa.array(block.docs)).to_pylist()
            scores = _float32_values(block)
            for query, start, stop in zip(
                queries, block.offsets[:-1], block.offsets[1:], strict=True
            ):
                if start < stop:
                    group = {"qid": query, "docid": docs[start:stop], "score": scores[start:stop]}
                    file.write(json.dumps(group, ensure_ascii=False).encode() + b"\n")


def _float32_values(rows: Ranking) -> list[float]:
    return rows.scores.astype(np.float32).astype(np.float64).tolist()


def _distinct(mined: Mined | Ranking) -> Ranking:
    """Return the negatives, sure that no pair of ids occurs twice."""
    rows = mined.negatives if isinstance(mined, Mined) else mined
    used = rows.doc_ids.take(pa.array(np.unique(rows.docs)))
    if pc.count_distinct(rows.query_ids).as_py() == len(rows) and pc.count_distinct(
        used
    ).as_py() == len(used):
        return rows
    pairs = pa.table(
        {
            "query": rows.query_ids.take(pa.array(rows.row_queries)),
            "document": rows.doc_ids.take(pa.array(rows.docs)),
        }
    )
    counts = pairs.group_by(["query", "document"]).aggregate([([], "count_all")])
    clash = counts.filter(pc.greater(counts["count_all"], 1))
    if len(clash):
        raise TroveStepsError(
            f"query {clash['query'][0].as_py()!r} and document {clash['document'][0].as_py()!r} "
            "would stand twice in one file of negatives, because two of the data set's files use "
            "the same ids: set merge_mined_qrels: false"
        )
    return rows
