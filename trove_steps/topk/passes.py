"""Which candidate pass a search takes: "auto" tries them on the processor at hand and predicts.

All passes give the same results (`trove_steps.topk.sweep`), so this decides about time alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

import numpy as np

from trove_steps.errors import TroveStepsError
from trove_steps.topk.candidates import BOLD_REACH, Candidates, capacity, kernels, slices
from trove_steps.topk.products import (
    CodedQueries,
    Codes,
    Factor,
    can_widen,
    multiply,
    one_thread_each,
)
from trove_steps.topk.sweep import CODE_PRODUCT, PRODUCT, TILE_DOCUMENTS

PASSES = ("auto", "float32", "bfloat16", "int8")
LEAST_GAIN = 0.85  # what another pass is predicted to take of float32's time, to be taken
TRIAL_QUERIES = 512
# For predictions: what a hit costs, in scores of the float32 pass: a place among the candidates, and
# a product of two vectors where the pass is int8. Set after whole searches at depths of 10 to 1000.
HIT_PRODUCTS = {"float32": 20, "bfloat16": 60, "int8": 60}
SURPLUS = {"float32": 1.0, "bfloat16": 1.5, "int8": 3.0}  # of hits, for vectors of text encoders


def choose_pass(name: str, device: str, queries, documents, depth: int) -> str:
    """The candidate pass for "auto", else `name`, if it can run here."""
    if name not in PASSES:
        raise TroveStepsError(f"no candidate pass {name!r}: choose one of {', '.join(PASSES)}")
    if name == "int8" and not (device == "cpu" and kernels() is not None):
        raise TroveStepsError("the int8 candidate pass needs a CPU and numba: pip install numba")
    if name != "auto":
        return name
    if device != "cpu":
        return "bfloat16" if _multiplies_bfloat16(device) else "float32"
    small = len(queries) * len(documents) * documents.dim < 10**10  # less than a trial costs
    if kernels() is None or small:
        return "float32"
    seconds = {
        chosen: trial.seconds(len(queries), len(documents), depth)
        for chosen, trial in trials(documents.dim).items()
    }
    best = min(seconds, key=seconds.get)
    return best if seconds[best] < LEAST_GAIN * seconds["float32"] else "float32"


@dataclass(frozen=True)
class Trial:
    """What a pass costs on this processor, in seconds of one thread.

    pair: the score of a query and a document inside a tile, and looking at it. document: what is made
    of a document once for all queries. hit: a document that passes for a query. surplus: how many
    times as many pass as would by exact scores, which grows with the error of the pass.
    """

    pair: float
    document: float
    hit: float
    surplus: float

    def seconds(self, queries: int, documents: int, depth: int) -> float:
        """Predicted for a search."""
        hits = min(documents, expected_hits(documents, depth) * self.surplus)
        return documents * (self.document + queries * self.pair) + queries * hits * self.hit


def expected_hits(documents: int, depth: int) -> float:
    """How many documents in random order reach the floor when it is their turn.

    The integral over n of (place of the floor) / n; see `kernels.selection._aim`.
    """
    proven = depth * (1 + np.log(max(1, documents / depth)))
    if depth < BOLD_REACH:
        return proven
    most = ((np.sqrt(16 * (depth - 32) + 64) - 8) / 8) ** 2  # 4 most + 8 √most + 32 = depth
    least = 32 * depth / documents
    bold = 4 * most + 16 * np.sqrt(most) + 32 * (1 + np.log(max(1, most / least)))
    return min(proven, bold + depth * np.log(depth / most))


def _multiplies_bfloat16(device: str) -> bool:
    """Whether a GPU has bfloat16 products that are fast and keep float32 sums: Ampere or later."""
    import torch

    return can_widen() and torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def trials(dim: int) -> dict[str, Trial]:
    """The passes that this CPU can run right, float32 among them, tried on random vectors."""
    import torch

    shape = TRIAL_QUERIES + TILE_DOCUMENTS, dim
    vectors = np.random.default_rng(0).standard_normal(shape, np.float32) / np.float32(np.sqrt(dim))
    queries, documents = vectors[:TRIAL_QUERIES], vectors[TRIAL_QUERIES:]
    norms, error = np.ones(TILE_DOCUMENTS, np.float32), np.zeros(TRIAL_QUERIES, np.float32)
    candidates = Candidates(TRIAL_QUERIES, 1, np.int32, capacity(1, "float32"))
    candidates.floor[:] = 1e10  # no hits: what these cost is added for the real depth
    rows = slice(0, TRIAL_QUERIES)

    def with_products(chosen):
        left, right = (Factor(torch.from_numpy(x), chosen) for x in (queries, documents))
        scores = torch.empty(TRIAL_QUERIES, PRODUCT[1], dtype=left.tensor.dtype)

        def work():
            for some in slices(TILE_DOCUMENTS, PRODUCT[1]):
                multiply(left.tensor, right.tensor[some].T, scores)
                candidates.offer(scores, 0, error, rows)

        return work, lambda: Factor(torch.from_numpy(documents), chosen)

    def with_codes():
        block = Codes(documents, norms)
        coded = CodedQueries(queries, block)
        products = torch.empty(TRIAL_QUERIES, CODE_PRODUCT[1], dtype=torch.int32)

        def work():
            for some in slices(TILE_DOCUMENTS, CODE_PRODUCT[1]):
                torch._int_mm(coded.tensor, block.tensor[some].T, out=products)
                candidates.offer_codes(
                    products,
                    coded.unit,
                    coded.shift,
                    error,
                    queries,
                    documents[some],
                    error,
                    0,
                    0,
                    rows,
                )

        return work, lambda: (
            Factor(torch.from_numpy(documents), "float32"),
            Codes(documents, norms),
        )

    found = {}
    with one_thread_each():
        for chosen in ("float32", "bfloat16", "int8"):
            if chosen == "int8" and not _int8_is_right(dim):
                continue
            work, make = with_codes() if chosen == "int8" else with_products(chosen)
            pair = _shortest(work) / (TRIAL_QUERIES * TILE_DOCUMENTS)
            hit = HIT_PRODUCTS[chosen] * (found["float32"].pair if found else pair)
            found[chosen] = Trial(pair, _shortest(make) / TILE_DOCUMENTS, hit, SURPLUS[chosen])
    return found


def _shortest(work) -> float:
    """Processor seconds of the fastest of some runs; of one run where that takes long."""
    work()  # compiles
    times: list[float] = []
    while len(times) < 5 and sum(times) < 0.1:
        started = time.thread_time()
        work()
        times.append(time.thread_time() - started)
    return min(times)


@cache
def _int8_is_right(dim: int) -> bool:
    """Processors without VNNI may saturate sums of int8 products, which extreme codes show."""
    import torch

    codes = torch.full((64, dim), 127, dtype=torch.int8)
    codes[::2] = -127
    return bool(torch._int_mm(codes, codes.T).abs().eq(127 * 127 * dim).all())
