"""Vectors that are made of stored ones without a forward pass: cut to their first dimensions, or quantised.

`int8`: each vector has a scale of its own, its largest magnitude / 127; its values become whole numbers
of that scale, ties to even. Stored, it takes a byte per dimension and 4 for the scale. What is searched is
scale × number, for queries and documents alike. Nothing is calibrated on a corpus, so that the vector
remains a function of its own text.

`binary`: the signs, +1 for positive values and -1 for others; a bit per dimension. The dot product of two
is dim - 2 × Hamming distance, so the search is exact by Hamming distance.
"""

import numpy as np

from trove_steps.errors import TroveStepsError
from trove_steps.topk.search import rescore

MADE_AT_ONCE = 1 << 18  # numbers; what is held while they are made stays in the processor's cache


class Scaled:
    """Vectors scaled to length 1; a vector of zeros stays as it is."""

    def __init__(self, vectors):
        self._vectors = vectors
        self.dim, self.ids, self.order = vectors.dim, vectors.ids, vectors.order
        self.manifest = vectors.manifest

    def __len__(self) -> int:
        return len(self._vectors)

    def take(self, texts: np.ndarray) -> np.ndarray:
        """Return the vectors float32[m, dim] of the texts with these numbers (int64[m])."""
        made = np.empty((len(texts), self.dim), np.float32)
        step = max(1, MADE_AT_ONCE // max(1, self._vectors.dim))
        for start in range(0, len(texts), step):
            some = slice(start, start + step)
            made[some] = self._made(self._vectors.take(texts[some]))
        return made

    def _made(self, vectors: np.ndarray) -> np.ndarray:
        return scaled(vectors)


class Derived(Scaled):
    """Vectors as a recipe of keys.derived_recipe makes them of full ones.

    Raises TroveStepsError if they are to be cut to more dimensions than they have.
    """

    def __init__(self, vectors, recipe: dict):
        super().__init__(vectors)
        self._recipe = recipe
        cut = recipe.get("truncate_dim", vectors.dim)
        if cut > vectors.dim:
            raise TroveStepsError(
                f"truncate_dim: {cut} is more than the {vectors.dim} dimensions of the vectors; set "
                f"{vectors.dim} or less"
            )
        self.dim = cut

    def _made(self, vectors: np.ndarray) -> np.ndarray:
        if "truncate_dim" in self._recipe:
            vectors = np.ascontiguousarray(vectors[:, : self.dim])
            if self._recipe["normalize"]:
                vectors = scaled(vectors)
        quantization = self._recipe.get("quantization")
        if quantization == "int8":
            codes, scales = int8(vectors)
            return codes * scales[:, None]
        if quantization == "binary":
            return np.where(vectors > 0, np.float32(1), np.float32(-1))
        return vectors


def scaled(vectors: np.ndarray) -> np.ndarray:
    """Return float32[m, dim] with lengths of 1; a vector of zeros stays as it is.

    Lengths are summed as scores are, so that the bits are the same on every machine.
    """
    lengths = np.sqrt(rescore(vectors, vectors))[:, None]
    return (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)


def int8(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (codes int8[m, dim], scales float32[m]) of float32[m, dim]."""
    scales = (np.abs(vectors).max(axis=1, initial=0.0) / np.float32(127)).astype(np.float32)
    divisors = np.where(scales == 0, np.float32(1), scales)[:, None]
    return np.clip(np.rint(vectors / divisors), -127, 127).astype(np.int8), scales


def bytes_per_vector(dim: int, derived: dict, stored: int = 4) -> int:
    """Return the bytes that a vector takes; `dim` and `stored`, the size of a number, are the full one's."""
    dim = derived.get("truncate_dim", dim)
    quantization = derived.get("quantization")
    if quantization == "int8":
        return dim + 4
    if quantization == "binary":
        return -(-dim // 8)
    return dim * stored
