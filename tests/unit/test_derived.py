"""Vectors that are made of stored ones: cut, quantised, and what they take."""

import hashlib
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trove_steps.embeddings.derived import Derived, Scaled, bytes_per_vector, int8, scaled
from trove_steps.errors import TroveStepsError
from trove_steps.keys import VERSION, derived_recipe
from trove_steps.topk.search import search

FLOATS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
VECTORS = arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 20)), elements=FLOATS)


class Memory:
    """Vectors in memory, as the store gives them."""

    manifest = None

    def __init__(self, vectors: np.ndarray, prefix: str = "d"):
        self.vectors = np.asarray(vectors, np.float32)
        self.dim = self.vectors.shape[1]
        self.order = np.arange(len(self.vectors))
        self.ids = pa.chunked_array([[f"{prefix}{n}" for n in range(len(self.vectors))]])

    def __len__(self):
        return len(self.vectors)

    def take(self, texts):
        return self.vectors[texts]


def derive(vectors: np.ndarray, **options) -> np.ndarray:
    recipe = derived_recipe(
        options.get("truncate_dim"), options.get("normalize", False), options.get("quantization")
    )
    return Derived(Memory(vectors), recipe).take(np.arange(len(vectors)))


@settings(deadline=None)
@given(VECTORS)
def test_int8_is_off_by_half_a_step_at_most(vectors):
    codes, scales = int8(vectors)
    assert codes.dtype == np.int8
    restored = codes.astype(np.float64) * scales[:, None].astype(np.float64)
    # Half a step, and what the rounding of the scale itself can add over 127 steps.
    allowed = scales.astype(np.float64)[:, None] * (0.5 + 127 * 2**-23) + 1e-30
    assert (np.abs(restored - vectors) <= allowed).all()


@settings(deadline=None)
@given(VECTORS, st.integers(1, 20))
def test_a_derived_vector_depends_on_its_own_text_only(vectors, cut):
    options = {
        "truncate_dim": min(cut, vectors.shape[1]),
        "normalize": True,
        "quantization": "int8",
    }
    together = derive(vectors, **options)
    alone = np.concatenate([derive(vectors[n : n + 1], **options) for n in range(len(vectors))])
    np.testing.assert_array_equal(together, alone)


def test_cut_vectors_have_length_1_again_where_the_model_normalizes():
    vectors = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    np.testing.assert_array_equal(derive(vectors, truncate_dim=4), vectors[:, :4])
    cut = derive(vectors, truncate_dim=4, normalize=True)
    expected = vectors[:, :4] / np.linalg.norm(vectors[:, :4], axis=1, keepdims=True)
    np.testing.assert_allclose(cut, expected, rtol=1e-6)
    np.testing.assert_array_equal(scaled(np.zeros((1, 3), np.float32)), np.zeros((1, 3)))


@pytest.mark.parametrize("kind", ["cosine", "cut", "int8", "binary"])
def test_vectors_are_made_in_little_more_memory_than_they_take(kind):
    memory = Memory(np.random.default_rng(2).standard_normal((3000, 1024)).astype(np.float32))
    options = {
        "cut": (512, True, None),
        "int8": (None, True, "int8"),
        "binary": (7, True, "binary"),
    }
    vectors = (
        Scaled(memory) if kind == "cosine" else Derived(memory, derived_recipe(*options[kind]))
    )
    tracemalloc.start()
    made = vectors.take(np.arange(len(memory))[::-1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < made.nbytes + 8 * 2**20
    np.testing.assert_array_equal(made[2999], vectors.take(np.array([0]))[0])


def test_binary_search_is_exact_by_hamming_distance():
    chance = np.random.default_rng(1)
    queries, documents = (chance.standard_normal((n, 24)).astype(np.float32) for n in (6, 300))
    recipe = derived_recipe(None, False, "binary")
    (tile,) = search(Derived(Memory(queries, "q"), recipe), Derived(Memory(documents), recipe), 20)
    signs = [np.packbits(vectors > 0, axis=1) for vectors in (queries, documents)]
    for query in range(6):
        distances = np.bitwise_count(signs[0][query] ^ signs[1]).sum(axis=1)
        rows = slice(tile.offsets[query], tile.offsets[query + 1])
        found = [24 - 2 * distances[document] for document in tile.docs[rows]]
        np.testing.assert_array_equal(tile.scores[rows], found)
        assert sorted(distances)[:20] == sorted(distances[tile.docs[rows]])


def test_more_dimensions_than_there_are():
    with pytest.raises(TroveStepsError, match="truncate_dim: 17 is more than the 16"):
        derive(np.zeros((1, 16), np.float32), truncate_dim=17)


@pytest.mark.parametrize(
    ("options", "stored", "expected"),
    [
        ((None, True, None), 4, 1536),
        ((None, True, None), 2, 768),
        ((100, True, None), 4, 400),
        ((None, True, "int8"), 4, 388),
        ((100, True, "int8"), 2, 104),
        ((None, True, "binary"), 4, 48),
        ((100, True, "binary"), 4, 13),
    ],
)
def test_bytes_per_vector(options, stored, expected):
    assert bytes_per_vector(384, derived_recipe(*options), stored) == expected


GOLDEN = {
    "cut": "640c59e37c7e5493",
    "int8": "fc54dc5d13773887",
    "binary": "7695e5936d209c4d",
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_derived_vectors_change_only_with_their_version(kind):
    """Raise VERSION["derived"] in trove_steps/keys.py before new values are written here."""
    assert VERSION["derived"] == 1
    whole = np.random.RandomState(4).randint(-50, 51, size=(20, 24))
    options = {"cut": (7, True, None), "int8": (None, True, "int8"), "binary": (7, True, "binary")}
    vectors = Derived(Memory((whole / 7).astype(np.float32)), derived_recipe(*options[kind]))
    content = np.ascontiguousarray(vectors.take(np.arange(20)), "<f4").tobytes()
    assert hashlib.sha256(content).hexdigest()[:16] == GOLDEN[kind]
