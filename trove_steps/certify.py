"""Check a finished search against brute force that shares no code with it.

For some queries every document is scored again in float64. A query is certified if its stored scores are
those of brute force, no document outside its results scores higher than one inside, and its results are in
order, all up to the rounding of a float64 sum.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trove_steps.errors import TroveStepsError
from trove_steps.files import read_manifest
from trove_steps.fingerprint import hash_file
from trove_steps.search import MANIFEST, open_search
from trove_steps.store import Vectors, manifest_path

BLOCK_DOCUMENTS = 8192


@dataclass(frozen=True)
class Certificate:
    """What brute force says of a search.

    largest_difference: between a stored score and brute force, in units of the score.
    smallest_gap: between the scores of neighbours in a ranking that are not equal.
    failures: one line for each query that is not certified, and for each damaged file of vectors.
    """

    queries: int
    largest_difference: float
    smallest_gap: float
    failures: list[str]


def certify(manifest: Path, cache_dir: Path, queries: int, seed: int = 0) -> Certificate:
    """Check `queries` randomly chosen queries of a search (all if there are fewer)."""
    ranking, query_vectors, doc_vectors = open_search(manifest, cache_dir)
    described = read_manifest(manifest, "a search (top….json)", MANIFEST)
    if not len(query_vectors) or not len(doc_vectors):
        raise TroveStepsError(f"{manifest}: there is nothing to certify in an empty search")
    chance = np.random.default_rng(seed)
    count = min(queries, len(query_vectors))
    chosen = np.sort(chance.choice(len(query_vectors), count, replace=False))
    asked = query_vectors.take(chosen).astype(np.float64)
    scores = np.empty((count, len(doc_vectors)))
    bounds = np.empty_like(scores)
    for start in range(0, len(doc_vectors), BLOCK_DOCUMENTS):
        block = np.arange(start, min(start + BLOCK_DOCUMENTS, len(doc_vectors)))
        documents = doc_vectors.take(block).astype(np.float64)
        scores[:, block] = asked @ documents.T
        bounds[:, block] = np.abs(asked) @ np.abs(documents).T
    # The error of a sum of d float64 products in any order (Higham 2002, section 3.1), twice: ours, theirs.
    tolerance = bounds * (2 * (doc_vectors.dim + 2) * np.finfo(np.float64).eps)
    if described["recipe"]["exclude_identical_ids"]:
        _exclude(scores, chosen, query_vectors, doc_vectors)
    found = [
        _check(ranking, int(query), scores[row], tolerance[row]) for row, query in enumerate(chosen)
    ]
    differences, gaps, failures = zip(*found, strict=True)
    return Certificate(
        queries=count,
        largest_difference=max(differences),
        smallest_gap=min(gaps),
        failures=[
            *(failure for failure in failures if failure),
            *_damaged_shards(described["recipe"], cache_dir),
        ],
    )


def _damaged_shards(recipe: dict, cache_dir: Path) -> list[str]:
    """Return a line for each shard with searched vectors whose bytes are not those that were written."""
    names = {}
    for side in ("queries", "corpus"):
        of = recipe[side]
        vectors = Vectors(manifest_path(cache_dir, of["encoder"], side, of["texts"]))
        names |= dict.fromkeys(vectors.shard_paths())
    return [
        f"{path} is damaged: `trove-steps cache verify` sets it aside, so that its texts are encoded again"
        for path in names
        if path.exists() and hash_file(path) != path.stem
    ]


def _exclude(scores: np.ndarray, chosen: np.ndarray, query_vectors, doc_vectors) -> None:
    places = {name: number for number, name in enumerate(doc_vectors.ids.to_pylist())}
    for row, query in enumerate(chosen):
        place = places.get(query_vectors.ids[int(query)].as_py())
        if place is not None:
            scores[row, place] = -np.inf


def _check(ranking, query: int, scores: np.ndarray, tolerance: np.ndarray):
    """Return (largest difference, smallest gap, what is wrong or "") of one query."""
    rows = slice(ranking.offsets[query], ranking.offsets[query + 1])
    docs, stored = ranking.docs[rows], ranking.scores[rows]
    name = ranking.query_ids[query].as_py()
    differences = np.abs(stored - scores[docs])
    steps = -np.diff(stored)
    gap = float(steps[steps > 0].min()) if (steps > 0).any() else np.inf
    wrong = ""
    outside = np.ones(len(scores), bool)
    outside[docs] = False
    outside &= np.isfinite(scores)
    if len(set(docs.tolist())) != len(docs):
        wrong = "a document stands twice"
    elif (differences > tolerance[docs]).any():
        wrong = f"a score differs by {differences.max():.3g} from brute force"
    elif (steps < 0).any():
        wrong = "the scores do not descend"
    elif _ties_are_out_of_order(ranking.doc_ids, docs, steps):
        wrong = "documents with equal scores are not ordered by id, descending"
    elif len(docs) and (scores[outside] - tolerance[outside] > stored[-1]).any():
        wrong = "a document outside the results scores higher than one inside"
    return float(differences.max(initial=0)), gap, f"{name}: {wrong}" if wrong else ""


def _ties_are_out_of_order(doc_ids, docs: np.ndarray, steps: np.ndarray) -> bool:
    for place in np.flatnonzero(steps == 0):
        first, second = (doc_ids[int(docs[p])].as_py().encode() for p in (place, place + 1))
        if first < second:
            return True
    return False
