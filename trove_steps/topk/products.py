"""Products of vectors in float32, bfloat16 or int8, and how far they may be from the exact scores.

docs/search.md derives the bounds.
"""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np

from trove_steps.topk import candidates


def can_widen() -> bool:
    """Whether torch gives products of bfloat16 matrices in float32 on a GPU: CUDA's from 2.8 on."""
    import torch

    return torch.version.cuda is not None and hasattr(torch.ops.aten.mm, "dtype_out")


class Factor:
    """One factor of a product: vectors in the precision of the product, and what rounding lost."""

    def __init__(self, tensor, chosen: str):
        if chosen == "bfloat16" and not tensor.is_cuda and candidates.kernels() is not None:
            self.tensor, self.norms, self.residues = _halved(tensor.numpy())
            return
        self.tensor, self.norms = tensor, _row_norms(tensor)
        self.residues = np.zeros_like(self.norms)
        if chosen == "bfloat16":
            self.tensor = tensor.bfloat16()
            self.residues = _row_norms(tensor - self.tensor.float())


def _halved(vectors: np.ndarray):
    """(bfloat16 tensor [m, d], norms float32[m], norms of what rounding lost float32[m])."""
    import torch

    halves = np.empty(vectors.shape, np.uint16)
    norms, residues = np.empty((2, len(vectors)), np.float32)
    candidates.kernels().halve(vectors.view(np.uint32), vectors, halves, norms, residues)
    return torch.from_numpy(halves.view(np.int16)).view(torch.bfloat16), norms, residues


def _row_norms(tensor) -> np.ndarray:
    """float32[m]; `Bound` accounts for their rounding."""
    import torch

    return torch.linalg.vector_norm(tensor, dim=1).cpu().numpy()


class Bound:
    """How far a product of tiles may be from the exact one; docs/search.md derives it."""

    TINY = 2.0**-126  # smallest normal float32: what flushing to zero may lose

    def __init__(self, queries: Factor, dim: int, chosen: str):
        self.dim, self.coarse = dim, chosen == "bfloat16"
        # 8 more roundings: the ends of the interval, the threshold and their comparison.
        self.gamma = self.norm_slack = _gamma(dim + 8, 2.0**-24)
        if self.coarse:
            # Tensor cores cut off low bits of sums instead of rounding, for which 2^-21 is generous.
            self.gamma = _gamma(dim + 8, 2.0**-21)
            if not _widens(queries.tensor):  # the result itself was rounded to bfloat16
                self.gamma += 2.0**-8 * (1 + self.gamma)
        self.norms, self.residues = self._above(queries.norms), self._above(queries.residues)

    def _above(self, norms):
        """At least the true norm of a vector whose norm was computed in float32."""
        norms = np.asarray(norms, np.float64)
        return norms * (1 + self.norm_slack) + np.sqrt(self.dim * self.TINY)

    def __call__(self, rows: slice, norm: float, residue: float) -> np.ndarray:
        """float32[m]: for queries `rows` and documents of at most this norm and residue."""
        norms, norm = self.norms[rows], self._above(norm)
        error = np.zeros(len(norms))
        if self.coarse:
            residues, residue = self.residues[rows], self._above(residue)
            error += residues * norm + (norms + residues) * residue
            norms, norm = norms + residues, norm + residue
        size = norms * norm
        error += self.gamma * size
        error += self.TINY * (2 * self.dim + 8 + np.sqrt(self.dim) * (norms + norm))
        largest = np.maximum(size, np.maximum(norms, norm))
        error[~(largest < 2.0**126)] = np.inf  # a value or a partial sum may overflow
        return error.astype(np.float32)


def _gamma(n: int, unit: float) -> float:
    """Higham's γ_n = n u / (1 - n u): the relative error of n roundings, in any order."""
    return n * unit / (1 - n * unit) if n * unit < 0.5 else np.inf


class Codes:
    """Vectors in int8: vectors = centre + step * codes + residue, with a step per dimension."""

    def __init__(self, vectors: np.ndarray, norms: np.ndarray):
        import torch

        codes = np.empty(vectors.shape, np.int8)
        size, residue = np.empty((2, len(vectors)), np.float32)
        smallest, largest = candidates.kernels().extremes(vectors)
        self.centre = (smallest + largest) / 2
        self.step = np.maximum(largest - self.centre, self.centre - smallest) / np.float32(127)
        candidates.kernels().encode(vectors, self.centre, self.step, codes, size, residue)
        self.tensor = torch.from_numpy(codes)
        # Norms and residues come from float32 arithmetic: d + 8 roundings of the norm, and each
        # element of a residue has roundings of the size of the vector and of the centre.
        dim = vectors.shape[1]
        more = 1 + (dim + 8) * 2.0**-23
        self.size = size.astype(np.float64) * more
        self.residue = residue.astype(np.float64) * more + np.sqrt(dim) * 2.0**-60
        self.residue += 2.0**-22 * (norms.astype(np.float64) * more + _norm(self.centre))


class CodedQueries:
    """Queries in the units of a block's codes: query * step = unit * codes + rest."""

    def __init__(self, vectors: np.ndarray, block: Codes):
        import torch

        codes = np.empty(vectors.shape, np.int8)
        self.unit, self.shift, self.rest, self.norm = np.empty((4, len(vectors)))
        candidates.kernels().encode_queries(
            vectors, block.centre, block.step, codes, self.unit, self.shift, self.rest, self.norm
        )
        self.tensor = torch.from_numpy(codes)
        # Roundings in float64 of the shift and of query * step, relative to their largest parts.
        largest = _norm(block.centre) + 127 * _norm(block.step)
        self.slack = self.norm * largest * (vectors.shape[1] + 8) * 2.0**-50

    def error(self, part: slice, size: float, residue: float) -> np.ndarray:
        """float64[m]: how far unit * product + shift may be from the exact score."""
        return (self.rest[part] * size + self.norm[part] * residue) * (1 + 1e-9) + self.slack[part]


def _norm(vector: np.ndarray) -> float:
    return float(np.linalg.norm(vector.astype(np.float64)))


def writable(array: np.ndarray) -> np.ndarray:
    """The same memory as an array that may be written, for torch and numba; nobody does."""
    if array.flags.writeable:
        return array
    return np.asarray(_Alias(array))


class _Alias:
    def __init__(self, array: np.ndarray):
        self.array = array  # the memory lives as long as this
        place, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (place, False)}


def _widens(factor) -> bool:
    """Whether products with this bfloat16 factor come in float32."""
    return factor.is_cuda and can_widen()


def multiply(left, right, out) -> None:
    """out = left @ right in the precision of the factors; out is float32 or has their type."""
    import torch

    if left.dtype == out.dtype:
        torch.mm(left, right, out=out)
    elif _widens(left):
        torch.mm(left, right, out_dtype=torch.float32, out=out)
    else:
        out.copy_(torch.mm(left, right))


@contextmanager
def one_thread_each():
    """Torch with one thread per caller, as our own threads share the work. Gives their number.

    Also full float32 products (no TF32), and bfloat16 products without partial sums in bfloat16:
    the bound does not hold for the faster approximations.
    """
    import torch

    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    products = torch.backends.cuda.matmul
    reduced = products.allow_bf16_reduced_precision_reduction
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    products.allow_bf16_reduced_precision_reduction = False
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        products.allow_bf16_reduced_precision_reduction = reduced
