"""The search against float64 brute force, and its bytes against itself."""

import hashlib
import os
import subprocess
import sys
import threading
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trove_steps.errors import TroveStepsError
from trove_steps.topk import candidates, passes, products, search, sweep

torch = pytest.importorskip("torch")
SHARED = Path(os.environ.get("TROVE_SHARED", Path(__file__).parents[3] / "shared"))
# Ways to the same result: with compiled kernels or without, and the candidate pass. "int8 always"
# never gives up on codes, however little they pay. "bold": with floors so bold that many are wrong.
WAYS = ["torch float32", "torch bfloat16"]
if candidates.kernels() is not None:
    WAYS += ["numba float32", "numba bfloat16", "numba int8", "numba int8 always"]
    WAYS += ["numba bfloat16 bold", "numba int8 bold", "numba int8 always bold"]


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Options of the search for one of the WAYS."""
    return take_way(request.param, monkeypatch)


def take_way(name, monkeypatch):
    if name.startswith("torch"):
        monkeypatch.setattr(candidates, "kernels", lambda: None)
    if "int8" in name:
        monkeypatch.setattr(sweep, "QUERIES_THAT_PAY", 1)
    if "always" in name:
        monkeypatch.setattr(sweep, "HITS_THAT_PAY", 2)
    if "bold" in name:
        monkeypatch.setattr(search, "BOLD_REACH", 1)
        monkeypatch.setattr(search, "Sweep", TooBold)
    return {"candidate_pass": name.split()[1]}


class TooBold(sweep.Sweep):
    """Expects thirty times the documents that there are."""

    again = 0  # queries that were searched again

    def _expect(self, number):
        super()._expect(number)
        self.candidates.expected *= 30

    def _search_missed(self):
        super()._search_missed()
        TooBold.again += int(self.missed.sum())


class Table:
    """Vectors in memory."""

    def __init__(self, rows, ids=None, order=None):
        self.rows = np.asarray(rows, np.float32)
        self.dim = self.rows.shape[1]
        self.ids = pa.array(ids or [f"d{i}" for i in range(len(self.rows))], pa.string())
        self.order = np.arange(len(self.rows)) if order is None else np.asarray(order)

    def __len__(self):
        return len(self.rows)

    def take(self, indices):
        return self.rows[indices]


class ThreadComm:
    """One rank of a world of threads."""

    def __init__(self, rank, shared):
        self.rank, self.world, self.shared = rank, shared["world"], shared

    def claim(self, name):
        with self.shared["lock"]:
            self.shared["next"][name] += 1
            return self.shared["next"][name] - 1

    def gather(self, array):
        self.shared["slots"][self.rank] = array.copy()
        self.shared["barrier"].wait()
        slots = list(self.shared["slots"])
        self.shared["barrier"].wait()
        return slots if self.rank == 0 else None


def run(queries, documents, depth, world=1, **options):
    """(offsets, docs, scores) of all queries."""
    shared = {
        "world": world,
        "lock": threading.Lock(),
        "next": Counter(),
        "slots": [None] * world,
        "barrier": threading.Barrier(world, timeout=60),
    }
    results = [None] * world

    def work(rank):
        try:
            comm = ThreadComm(rank, shared)
            results[rank] = list(search.search(queries, documents, depth, comm=comm, **options))
        except BaseException as error:
            results[rank] = error
            shared["barrier"].abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    assert all(result == [] for result in results[1:])
    offsets, docs, scores, expected_first = [0], [], [], 0
    for tile in results[0]:
        assert tile.first == expected_first
        expected_first += len(tile.offsets) - 1
        offsets.extend(offsets[-1] + tile.offsets[1:])
        docs.append(tile.docs)
        scores.append(tile.scores)
    assert expected_first == len(queries)
    join = np.concatenate
    return np.array(offsets), join(docs or [np.empty(0, int)]), join(scores or [np.empty(0)])


def tree_sum(values):
    """Sum of a power of two of floats, halves added elementwise."""
    return values[0] if len(values) == 1 else tree_sum(
        [a + b for a, b in zip(values[: len(values) // 2], values[len(values) // 2 :], strict=True)]
    )  # fmt: skip


def oracle(queries, documents, depth, exclude=None):
    """The same by brute force: every score in float64, then a sort in plain Python."""
    width = 1 << (queries.dim - 1).bit_length()
    result = []
    for i, q in enumerate(queries.rows.astype(np.float64)):
        products = np.zeros((width, len(documents)))
        products[: queries.dim] = (documents.rows.astype(np.float64) * q).T
        scores = tree_sum(list(products)) + 0.0
        ids = [name.encode() for name in documents.ids.to_pylist()]
        best = sorted(range(len(documents)), key=lambda j: (scores[j], ids[j]), reverse=True)
        best = [j for j in best if exclude is None or j != exclude[i]][:depth]
        result.append([(j, scores[j]) for j in best])
    return result


def check(queries, documents, depth, exclude=None, **options):
    offsets, docs, scores = run(queries, documents, depth, exclude=exclude, **options)
    assert docs.dtype == np.int64
    assert scores.dtype == np.float64
    for i, best in enumerate(oracle(queries, documents, depth, exclude)):
        part = slice(offsets[i], offsets[i + 1])
        assert docs[part].tolist() == [j for j, _ in best]
        assert scores[part].tobytes() == np.array([s for _, s in best], np.float64).tobytes()


def digest(result):
    return hashlib.sha256(b"".join(array.tobytes() for array in result)).hexdigest()


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


HARD = {
    "random": lambda n, d: normal(1, n, d),
    "all equal": lambda n, d: np.ones((n, d)),
    "few distinct": lambda n, d: normal(2, 3, d)[np.arange(n) % 3],
    "one hot": lambda n, d: np.eye(d)[np.arange(n) % d],
    "denormal": lambda n, d: normal(3, n, d) * np.float32(1e-42),
    "denormal products": lambda n, d: normal(4, n, d) * np.float32(1e-22),
    "negative": lambda n, d: -np.abs(normal(5, n, d)),
    "zero": lambda n, d: np.zeros((n, d)),
    "minus zero": lambda n, d: -np.zeros((n, d), np.float32),
    "huge": lambda n, d: normal(6, n, d) * np.float32(1e30),
    "largest": lambda n, d: np.full((n, d), np.finfo(np.float32).max) * np.sign(normal(7, n, d)),
    "one huge": lambda n, d: normal(8, n, d) * np.where(np.arange(n) == n // 2, 1e25, 1)[:, None],
    "ascending": lambda n, d: np.ones((n, d)) * (1 + np.arange(n)[:, None] / 1024),
    "below float32": lambda n, d: np.ones((n, d)) + np.eye(d)[np.arange(n) % d] * 2.0**-23,
    "cancelling": lambda n, d: np.where(np.arange(d) % 2, -1, 1) * (1e4 + normal(9, n, d)),
}


def shuffled_ids(count):
    return [f"{j:x}" for j in np.random.default_rng(0).permutation(count)]


def test_rescore_is_within_half_an_ulp_per_addition_of_the_exact_sum():
    q, d = normal(1, 20, 37) * np.float32(1e-3), normal(2, 20, 37)
    for score, a, b in zip(search.rescore(q, d), q, d, strict=True):
        terms = [Fraction(float(x)) * Fraction(float(y)) for x, y in zip(a, b, strict=True)]
        bound = Fraction(6, 2**53) * sum(map(abs, terms))  # six levels of additions
        assert abs(Fraction(float(score)) - sum(terms)) <= bound * Fraction(1001, 1000)


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 8, 31, 64, 100, 384])
def test_rescore_has_one_order_of_additions(way, dim):
    q, d = normal(3, 6, dim), normal(4, 6, dim)
    padded = np.zeros((6, 512))
    padded[:, :dim] = q.astype(np.float64) * d.astype(np.float64)
    expected = np.array([tree_sum(row.tolist()) for row in padded])
    assert search.rescore(q, d).tobytes() == expected.tobytes()
    index = np.arange(6)
    assert search.score_pairs(q, d, index, index).tobytes() == expected.tobytes()
    assert search.rescore(q[2:3], d[2:3])[0] == expected[2]


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("depth", [7, 100])
def test_hard_values(way, kind, depth):
    documents = Table(HARD[kind](500, 24), shuffled_ids(500))
    queries = Table(np.concatenate([HARD[kind](3, 24), normal(10, 3, 24), -normal(11, 1, 24)]))
    check(queries, documents, depth, block_rows=128, **way)


@pytest.mark.parametrize("name", WAYS)
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 60),
    q=st.integers(0, 9),
    dim=st.integers(1, 9),
    depth=st.integers(1, 70),
    block_rows=st.integers(1, 40),
    query_rows=st.integers(1, 12),
    world=st.integers(1, 4),
    distinct=st.integers(1, 40),
    seed=st.integers(0, 9),
    data=st.data(),
)
def test_shapes(name, n, q, dim, depth, block_rows, query_rows, world, distinct, seed, data):
    rng = np.random.default_rng(seed)
    values = rng.integers(-2, 3, (distinct, dim)).astype(np.float32)
    documents = Table(
        values[rng.integers(0, distinct, n)],
        data.draw(st.lists(st.text(max_size=3), min_size=n, max_size=n, unique=True)),
        rng.permutation(n),
    )
    queries = Table(rng.integers(-2, 3, (q, dim)))
    exclude = rng.integers(-1, n, q) if n and seed % 2 else None
    with pytest.MonkeyPatch.context() as patch:
        way = take_way(name, patch)
        check(
            queries, documents, depth, exclude,
            block_rows=block_rows, query_rows=query_rows, world=world, **way,
        )  # fmt: skip


@pytest.mark.skipif("numba int8" not in WAYS, reason="floors are bold in compiled kernels only")
class TestBoldFloor:
    """A floor that is set before it is proven: what it saves, and that no query pays for it."""

    depth = 300

    def sweep(self, documents, queries, chosen, bold=True):
        made = sweep.Sweep(queries, documents, self.depth, 4096, "cpu", chosen, bold)
        for _ in made.run(iter(range(-(-len(documents) // 4096)))):
            pass
        return made

    def found(self, made):
        """The candidates that the final floor leaves, which contain the best."""
        places = made.places(slice(None))
        return [set(row[row >= 0].tolist()) for row in places]

    @pytest.mark.parametrize("chosen", ["float32", "bfloat16", "int8"])
    def test_order_at_random(self, chosen):
        documents, queries = Table(normal(1, 40_000, 32)), normal(2, 80, 32)
        made = self.sweep(documents, queries, chosen)
        plain = self.sweep(documents, queries, chosen, bold=False)
        assert not made.missed.any(), "eight deviations"
        assert self.found(made) == self.found(plain)

    @pytest.mark.parametrize("chosen", ["float32", "bfloat16", "int8"])
    def test_the_best_come_first(self, chosen):
        rows, queries = normal(3, 40_000, 32), normal(4, 80, 32)
        queries[40:] = -queries[:40]
        rows = rows[np.argsort(-(rows @ queries[0]))]
        made = self.sweep(Table(rows), queries, chosen)
        assert made.missed[0], "all of its best are in the first tile"
        assert not made.missed[40], "its best come last"
        assert not made.missed.all()
        lost = made.lost()
        assert lost.sum() < 10, "bfloat16 leaves some open"
        for best, found, is_lost in zip(
            self.exact(rows, queries), self.found(made), lost, strict=True
        ):
            assert is_lost or best <= found

    def exact(self, rows, queries):
        scores = search.score_all(queries, rows)
        return [set(best.tolist()) for best in np.argsort(-scores)[:, : self.depth]]

    def test_a_group_of_near_copies_is_not_missed(self):
        rows, queries = normal(5, 40_000, 32), normal(6, 80, 32)
        rows[:30] = queries[0] + normal(7, 30, 32) * np.float32(0.1)
        assert not self.sweep(Table(rows), queries, "float32").missed.any()

    def test_a_rank_with_few_documents(self):
        documents, queries = Table(normal(8, 5_000, 32)), Table(normal(9, 5, 32))
        expected = digest(run(queries, documents, self.depth))
        for world in (2, 3, 4):
            assert digest(run(queries, documents, self.depth, world, block_rows=200)) == expected

    def test_a_slow_rank_expects_few_documents(self):
        """It got one block while others got forty."""
        documents, queries = Table(normal(12, 40_000, 32)), normal(13, 80, 32)
        made = sweep.Sweep(queries, documents, self.depth, 512, "cpu", "float32", True)
        for _ in made.run(iter([40])):
            pass
        assert not made.missed.any()

    def test_hits_are_predicted(self, monkeypatch):
        """The formula of `expected_hits` beside what is counted."""
        documents, queries = Table(normal(10, 100_000, 8)), normal(11, 64, 8)
        for depth in (100, 300, 1000):
            monkeypatch.setattr(TestBoldFloor, "depth", depth)
            counted = self.hits(documents, queries, monkeypatch)
            predicted = passes.expected_hits(len(documents), depth)
            # A floor is raised from time to time, and less often than at every hit.
            assert predicted < counted < 2 * predicted
        plain = depth * (1 + np.log(len(documents) / depth))
        assert counted < 0.7 * plain

    def hits(self, documents, queries, monkeypatch):
        counted = np.zeros(len(queries), int)
        offer = candidates.Candidates.offer

        def counting(candidates, scores, first, error, rows):
            low = candidates.floor[rows] - error
            counted[rows] += (scores.numpy() >= low[:, None]).sum(1)
            offer(candidates, scores, first, error, rows)

        with monkeypatch.context() as patch:
            patch.setattr(candidates.Candidates, "offer", counting)
            patch.setattr(sweep, "PRODUCT", (1024, 128))
            bold = self.depth >= candidates.BOLD_REACH
            self.sweep(documents, queries, "float32", bold)
        return counted.mean()


@pytest.mark.parametrize("name", [name for name in WAYS if "bold" in name])
def test_floors_that_are_too_bold(name, monkeypatch):
    """Whatever is missed is found again: several ranks, excluded documents, orders that favour a query."""
    before = TooBold.again
    with monkeypatch.context() as patch:
        way = take_way(name, patch)
        search_too_boldly(way)
    assert TooBold.again > before + 10


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(100, 500),
    depth=st.integers(33, 200),
    block_rows=st.integers(10, 300),
    query_rows=st.integers(1, 12),
    world=st.integers(1, 3),
    distinct=st.integers(1, 500),
    order=st.sampled_from(["random", "best first", "best last"]),
    seed=st.integers(0, 9),
)
def search_too_boldly(way, n, depth, block_rows, query_rows, world, distinct, order, seed):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((distinct, 5)).astype(np.float32)
    rows, queries = values[rng.integers(0, distinct, n)], Table(normal(seed, 9, 5))
    if order != "random":
        scores = rows @ queries.rows[0]
        rows = rows[np.argsort(-scores if order == "best first" else scores)]
    exclude = rng.integers(-1, n, 9) if seed % 2 else None
    check(
        queries, Table(rows, shuffled_ids(n)), depth, exclude,
        block_rows=block_rows, query_rows=query_rows, world=world, **way,
    )  # fmt: skip


@pytest.mark.skipif("numba int8" not in WAYS, reason="floors are bold in compiled kernels only")
def test_a_bold_floor_that_failed_is_not_tried_again(monkeypatch):
    rows, queries = normal(3, 20_000, 16), normal(4, 6, 16)
    queries[:] = queries[0]
    rows = rows[np.argsort(-(rows @ queries[0]))]
    swept = []

    class Watched(sweep.Sweep):
        def _search_missed(self):
            super()._search_missed()
            swept.append((self.bold, int(self.missed.sum())))

    monkeypatch.setattr(search, "Sweep", Watched)
    run(Table(queries), Table(rows), 300, query_rows=2)
    assert swept == [(True, 2), (False, 0), (False, 0)]


@pytest.mark.parametrize("query", [-2, -1, 1, 2])
def test_vectors_of_one_dimension(way, query):
    chance = np.random.default_rng(0)
    documents = Table(chance.integers(0, 3, (53, 1)), shuffled_ids(53), chance.permutation(53))
    for _ in range(20):  # what torch's product of integers gives there depends on old memory
        check(Table(np.array([[query]])), documents, 1, block_rows=2, query_rows=1, **way)


def test_ids_are_compared_as_utf8_bytes():
    ids = ["", "a", "B", "ä", "z", "10", "9", "\uffff", "\U0001f600", "aa"]
    documents = Table(np.ones((10, 4)), ids)
    _, docs, _ = run(Table(np.ones((1, 4))), documents, 10)
    assert [ids[j] for j in docs] == sorted(ids, key=str.encode, reverse=True)
    _, docs, _ = run(Table(np.ones((1, 4))), documents, 3)
    assert [ids[j] for j in docs] == ["\U0001f600", "\uffff", "ä"]


def test_chunked_ids_give_the_same_order():
    documents = Table(np.ones((50, 4)), shuffled_ids(50))
    queries = Table(np.ones((2, 4)))
    expected = digest(run(queries, documents, 20))
    documents.ids = pa.chunked_array([documents.ids[:7], documents.ids[7:7], documents.ids[7:]])
    assert digest(run(queries, documents, 20)) == expected


@pytest.mark.parametrize("name", WAYS)
def test_bytes_do_not_depend_on_the_way(name, monkeypatch):
    rows = normal(1, 1800, 48)
    rows[1000:1350] = rows[5]  # more duplicates than fit the candidates of depth 20
    queries = Table(np.concatenate([normal(2, 120, 48), rows[5:6], rows[7:8]]))
    ids = shuffled_ids(1800)
    expected = digest(run(queries, Table(rows, ids), 20, block_rows=512))
    order = np.random.default_rng(3).permutation(1800)
    shapes = [
        {"block_rows": 64, "query_rows": 70},
        {"block_rows": 4096, "query_rows": 9},
        {"block_rows": 700, "world": 2},
        {"block_rows": 700, "world": 3, "query_rows": 40},
        {"block_rows": 3000, "world": 4},
    ]
    way = take_way(name, monkeypatch)
    for shape in shapes:
        assert digest(run(queries, Table(rows, ids, order), 20, **shape, **way)) == expected, shape
    monkeypatch.setattr(candidates, "PAIR_BUDGET", 200)
    monkeypatch.setattr(sweep, "TILE_DOCUMENTS", 37)
    monkeypatch.setattr(sweep, "PRODUCT", (5, 11))
    monkeypatch.setattr(sweep, "CODE_PRODUCT", (5, 11))
    assert digest(run(queries, Table(rows, ids), 20, world=2, **way)) == expected


@pytest.mark.parametrize("chosen", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", HARD)
def test_the_interval_of_a_product_holds_the_exact_score(kind, chosen):
    q, d = HARD[kind](40, 100).astype(np.float32), HARD[kind](300, 100).astype(np.float32)
    left, right = (products.Factor(torch.from_numpy(x), chosen) for x in (q, d))
    bound = products.Bound(left, 100, chosen)
    error = bound(slice(0, 40), right.norms.max(), right.residues.max())
    fast = torch.empty(40, 300)
    products.multiply(left.tensor, right.tensor.T, fast)
    known = np.isfinite(error)
    assert np.isfinite(fast.numpy()[known]).all()
    gap = np.abs(fast.numpy().astype(np.float64) - search.score_all(q, d))
    assert (gap[known] <= error[known, None]).all()
    if kind == "random":
        assert (
            error < left.norms * right.norms.max() * (2e-5 if chosen == "float32" else 0.02)
        ).all()


@pytest.mark.skipif("numba int8" not in WAYS, reason="int8 needs numba")
@pytest.mark.parametrize(
    "kind", [kind for kind in HARD if kind not in ("huge", "largest", "one huge")]
)
def test_the_interval_of_codes_holds_the_exact_score(kind):
    q, d = HARD[kind](40, 100).astype(np.float32), HARD[kind](300, 100).astype(np.float32)
    block = products.Codes(d, np.linalg.norm(d, axis=1).astype(np.float32))
    queries = products.CodedQueries(q, block)
    dots = torch._int_mm(queries.tensor, block.tensor.T).numpy()
    assert (dots == queries.tensor.numpy().astype(int) @ block.tensor.numpy().astype(int).T).all()
    scores = queries.unit[:, None] * dots + queries.shift[:, None]
    error = queries.error(slice(0, 40), block.size.max(), block.residue.max())
    assert (np.abs(scores - search.score_all(q, d)) <= error[:, None]).all()
    if kind == "random":
        assert (error < np.linalg.norm(q, axis=1) * np.linalg.norm(d, axis=1).max() * 0.03).all()


@pytest.mark.skipif(candidates.kernels() is None, reason="needs numba")
@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_halves_are_bfloat16(values):
    vectors = np.array([values], np.float32)
    halves, norms, residues = products._halved(vectors)
    nearest = torch.from_numpy(vectors).bfloat16()
    assert torch.equal(halves, nearest)
    wide = vectors.astype(np.float64)
    lost = wide - nearest.double().numpy()
    slack = 1 + 1e-6 * len(values)
    for computed, exact in ((norms, wide), (residues, lost)):
        norm = np.linalg.norm(exact)
        if 1e-15 < norm < 1e15:  # else squares leave the range of float32, which `Bound` knows
            assert norm / slack <= computed[0] * (1 + 1e-6) + 1e-18
            assert computed[0] <= norm * slack + 1e-18


@pytest.mark.skipif(candidates.kernels() is None, reason="needs numba")
@pytest.mark.parametrize(
    ("queries", "documents", "depth", "pair", "chosen"),
    [
        (1000, 1_000_000, 100, {"float32": 1, "bfloat16": 0.2, "int8": 0.4}, "bfloat16"),
        (1000, 1_000_000, 100, {"float32": 1, "bfloat16": 9, "int8": 0.4}, "int8"),
        (1000, 1_000_000, 1000, {"float32": 1, "bfloat16": 9, "int8": 0.4}, "float32"),
        (1000, 100_000, 100, {"float32": 1, "bfloat16": 9, "int8": 0.4}, "float32"),
        (10, 10_000_000, 100, {"float32": 1, "bfloat16": 0.2, "int8": 0.4}, "float32"),
        (1000, 1_000_000, 100, {"float32": 1, "bfloat16": 0.95, "int8": 0.9}, "float32"),
        (1000, 1_000_000, 100, {"float32": 1}, "float32"),
        (100, 1000, 10, {"float32": 1, "bfloat16": 0.01, "int8": 0.01}, "float32"),
    ],
)
def test_the_fastest_pass_is_chosen(queries, documents, depth, pair, chosen, monkeypatch):
    """`pair`: seconds of a score, in those of float32; making codes costs as much as 50 of them."""
    make = {"float32": 10, "bfloat16": 30, "int8": 60}
    tried = {
        name: passes.Trial(seconds, make[name], passes.HIT_PRODUCTS[name], passes.SURPLUS[name])
        for name, seconds in pair.items()
    }
    monkeypatch.setattr(passes, "trials", lambda dim: tried)
    sizes = (np.broadcast_to(np.float32(0), (count, 384)) for count in (queries, documents))
    tables = [Sized(rows) for rows in sizes]
    assert passes.choose_pass("auto", "cpu", *tables, depth) == chosen


class Sized:
    """The size of vectors, without them."""

    def __init__(self, rows):
        self.rows, self.dim = rows, rows.shape[1]

    def __len__(self):
        return len(self.rows)


def test_a_trial_of_this_processor():
    tried = passes.trials(64)
    assert "float32" in tried
    for trial in tried.values():
        assert 0 < trial.pair < trial.document
        assert trial.seconds(2, 2000, 10) > trial.seconds(2, 1000, 10) > trial.seconds(1, 1000, 10)


@pytest.mark.skipif(candidates.kernels() is None, reason="needs numba")
def test_the_bar_of_bfloat16_scores():
    """Every bfloat16 number passes that is at least the float32 threshold; besides, only -0."""
    from trove_steps.topk.kernels import selection

    halves = np.arange(2**16, dtype=np.uint16)
    values = (halves.astype(np.uint32) << 16).view(np.float32)
    numbers, halves, values = (
        x[~np.isnan(values)] for x in (halves.view(np.int16), halves, values)
    )
    edges = values[np.random.default_rng(1).integers(0, len(values), 60)]
    edges = np.concatenate([edges, np.nextafter(edges, np.inf), np.nextafter(edges, -np.inf)])
    places = np.empty(len(numbers), np.int64)
    for bar in [0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, *edges]:
        least, most = selection._halves_bar(np.float32(bar).view(np.uint32))
        found = selection._find_halves(numbers, least, most, places)
        extra = np.setdiff1d(places[:found], np.flatnonzero(values >= np.float32(bar)))
        assert set(halves[extra]) <= {0x8000}
        assert found - len(extra) == (values >= np.float32(bar)).sum()


THREADS = """
import os, threading
import numpy as np, torch
torch.set_num_threads(2)
from trove_steps.topk import candidates, passes, products, search, sweep
from tests.unit.test_topk import Table, normal
helpers = lambda: len(os.listdir("/proc/self/task")) - threading.active_count()
for dtype in (torch.float32, torch.bfloat16):  # the main thread's own team
    torch.mm(torch.ones(500, 500, dtype=dtype), torch.ones(500, 500, dtype=dtype))
products.Factor(torch.ones(500, 64), PASS)  # whatever compiled kernels start
kept = candidates.Candidates(4, 1, np.int32, 300)
scores = torch.zeros(4, 8, dtype=getattr(torch, PASS))
kept.offer(scores, 0, np.zeros(4, np.float32), slice(0, 4))
offer, before, seen = candidates.Candidates.offer, helpers(), []
candidates.Candidates.offer = lambda *arguments: seen.append(helpers()) or offer(*arguments)
list(search.search(Table(normal(1, 300, 64)), Table(normal(2, 3000, 64)), 5, candidate_pass=PASS))
print(max(seen) - before)
"""


@pytest.mark.skipif(candidates.kernels() is None, reason="needs numba")
@pytest.mark.parametrize("chosen", ["float32", "bfloat16"])
def test_each_lane_multiplies_with_its_own_thread_alone(chosen):
    """Products that start threads of their own would put four on two cores."""
    code = THREADS.replace("PASS", repr(chosen))
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) == 0


@pytest.mark.filterwarnings("error")
def test_read_only_vectors_are_taken_as_they_are(way):
    """A memory map gives such: torch would warn of them, numba compile everything once more."""
    queries, documents = (Table(normal(seed, 300, 16)) for seed in (1, 2))
    expected = digest(run(queries, documents, 5))
    for table in (queries, documents):
        table.take = lambda rows, take=table.take: np.frombuffer(
            take(rows).tobytes(), np.float32
        ).reshape(-1, 16)
    assert digest(run(queries, documents, 5, **way)) == expected


def test_codes_save_exact_scores(monkeypatch):
    """Where scores are spread, codes are used and leave few documents to be scored."""
    if "numba int8" not in WAYS:
        pytest.skip("int8 needs numba")
    done = []
    offer = candidates.Candidates.offer_codes
    monkeypatch.setattr(
        candidates.Candidates,
        "offer_codes",
        lambda *args: done.append(offer(*args)) or done[-1],
    )
    queries, documents = Table(normal(1, 200, 64)), Table(normal(2, 40_000, 64))
    found = run(queries, documents, 10, candidate_pass="int8")
    assert sum(done) > 200 * 40
    assert digest(found) == digest(run(queries, documents, 10, candidate_pass="float32"))


def test_the_bound_is_needed(monkeypatch):
    """Without the margin float32 loses documents here, so the other tests could fail."""
    documents = Table(np.where(np.arange(64) % 2, -1e5, 1e5) + normal(1, 3000, 64))
    queries = Table(1 + normal(2, 20, 64) / 10)
    check(queries, documents, 300)
    zero = lambda self, rows, *_: np.zeros(rows.stop - rows.start, np.float32)  # noqa: E731
    monkeypatch.setattr(products.Bound, "__call__", zero)
    with pytest.raises(AssertionError):
        check(queries, documents, 300)


def test_excluded_documents_never_appear(way):
    documents = Table(normal(1, 500, 16))
    queries = Table(documents.rows[:40])
    exclude = np.where(np.arange(40) % 3, np.arange(40), -1)
    check(queries, documents, 5, exclude, block_rows=100, **way)
    check(queries, documents, 500, exclude, **way)
    check(queries, documents, 1000, exclude, world=2, block_rows=50, **way)


@pytest.mark.parametrize("chosen", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [1, 2, 63, 100, 128, 5000])
@pytest.mark.parametrize("reach", [1, 100, 10_000])
@pytest.mark.parametrize("threads", [1, 2, 64])
def test_candidates_fit_the_budget(chosen, count, reach, threads):
    """Whatever is shared out; but a query has room for its candidates, however many they are."""
    count = min(count, search.default_query_rows(reach, 8, chosen))
    made = sweep.Sweep(normal(1, count, 8), [0] * 9, reach, 64, "cpu", chosen)
    made._share_out(threads)
    assert made.candidates.low.shape[0] * made.candidates.low.shape[1] <= candidates.PAIR_BUDGET
    covered = [row for part in made.parts for row in range(part.rows.start, part.rows.stop)]
    assert covered == list(range(count))
    for part in made.parts:
        shares = list(part.in_turn())
        assert threads <= len(shares) or len(shares) >= (part.rows.stop - part.rows.start) / 2
        covered = [row for share in shares for row in range(share.start, share.stop)]
        assert covered == list(range(part.rows.start, part.rows.stop))


@pytest.mark.parametrize(
    ("cuda", "capability", "widens", "expected"),
    [
        ("12.8", (9, 0), True, "bfloat16"),
        ("12.8", (8, 0), True, "bfloat16"),
        ("12.8", (7, 5), True, "float32"),
        ("12.8", (9, 0), False, "float32"),  # torch 2.6 and 2.7
        (None, (9, 4), True, "float32"),  # ROCm
    ],
)
def test_auto_on_a_gpu(monkeypatch, cuda, capability, widens, expected):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    if not widens:
        monkeypatch.setattr(torch.ops.aten, "mm", object())
    table = Table(normal(1, 4, 4))
    assert passes.choose_pass("auto", "cuda:0", table, table, 10) == expected


@pytest.mark.parametrize(
    ("spread", "expected"), [(1, ["bfloat16"] * 3), (1e-4, ["bfloat16"] + 3 * ["float32"])]
)
def test_bfloat16_gives_up_where_scores_are_too_close(monkeypatch, spread, expected):
    """But only where it was not asked for; its lost queries are searched in float32 once, together."""
    taken = []

    class Seen(sweep.Sweep):
        def __init__(self, *args):
            super().__init__(*args)
            taken.append(self.chosen)

    for module in (search, sweep):
        monkeypatch.setattr(module, "Sweep", Seen)
    monkeypatch.setattr(search, "choose_pass", lambda *_: "bfloat16")
    documents = Table(1 + spread * normal(1, 3000, 32))
    queries = Table(1 + spread * normal(2, 30, 32))
    check(queries, documents, 5, query_rows=10)
    assert taken == expected
    taken.clear()
    check(queries, documents, 5, query_rows=10, candidate_pass="bfloat16")
    assert taken.count("bfloat16") == 3


def test_progress_ends_at_all_pairs():
    seen = []
    run(Table(normal(1, 7, 4)), Table(normal(2, 50, 4)), 3,
        block_rows=8, query_rows=3, progress=seen.append)  # fmt: skip
    assert seen == sorted(seen)
    assert seen[-1] == 7 * 50


def test_errors_name_the_culprit():
    good, bad = normal(1, 5, 4), normal(2, 5, 4)
    bad[3, 1] = np.nan
    with pytest.raises(TroveStepsError, match="document 'd3' has NaN"):
        run(Table(good), Table(bad), 2)
    with pytest.raises(TroveStepsError, match="query 'd3' has NaN"):
        run(Table(bad), Table(good), 2)
    with pytest.raises(TroveStepsError, match="4 dimensions and documents 3"):
        run(Table(good), Table(good[:, :3]), 2)
    with pytest.raises(TroveStepsError, match="depth is 0"):
        run(Table(good), Table(good), 0)
    with pytest.raises(TroveStepsError, match="no candidate pass 'int4'"):
        run(Table(good), Table(good), 2, candidate_pass="int4")
    with pytest.raises(TroveStepsError, match="block_rows is -5; it must be at least 1"):
        run(Table(good), Table(good), 2, block_rows=-5)


@pytest.mark.parametrize("name", ["scifact", "cranfield"])
def test_real_vectors(name):
    folder = SHARED / "data" / name / "reference"
    if not folder.is_dir():
        pytest.skip(f"no reference vectors in {folder}: set TROVE_SHARED")
    ids = (folder / "doc_ids.txt").read_text().split("\n")
    vectors = np.load(folder / "doc_emb.npy")
    documents = Table(vectors, ids[: len(vectors)])
    queries = Table(np.load(folder / "query_emb.npy"))
    check(Table(queries.rows[::20]), documents, 100)
    assert digest(run(queries, documents, 100, world=2)) == digest(run(queries, documents, 100))
