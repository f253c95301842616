"""Exact scores."""

from __future__ import annotations

import numpy as np

from trove_steps.topk.kernels.compiling import compile_kernel


@compile_kernel
def _width(dim):
    """The float64 numbers that `_tree_dot` needs as scratch: half the padded width, at least 8."""
    width = 16
    while width < dim:
        width *= 2
    return width // 2


@compile_kernel
def _tree_dot(q, d, sums):
    """The product of two vectors, added as `topk.rescore` does: halves of the padded width.

    Padding further, to 16, changes nothing: x + 0 = x. Loops run over slices, because the compiler
    makes vector code only of plain indices.
    """
    dim, half = q.shape[0], sums.shape[0]
    pairs = max(0, dim - half)
    q2, d2 = q[half:], d[half:]
    for j in range(pairs):
        sums[j] = np.float64(q[j]) * np.float64(d[j]) + np.float64(q2[j]) * np.float64(d2[j])
    q1, d1, rest = q[pairs:half], d[pairs:half], sums[pairs:]
    for j in range(q1.shape[0]):
        rest[j] = np.float64(q1[j]) * np.float64(d1[j])
    sums[dim:] = 0.0
    while half > 8:
        half //= 2
        upper = sums[half : 2 * half]
        for j in range(half):
            sums[j] += upper[j]
    even = (sums[0] + sums[4]) + (sums[2] + sums[6])
    return even + ((sums[1] + sums[5]) + (sums[3] + sums[7])) + 0.0


@compile_kernel
def rescore_pairs(queries, documents, query_of, document_of, out):
    """out[p] = exact score of queries[query_of[p]] and documents[document_of[p]]."""
    sums = np.empty(_width(queries.shape[1]), np.float64)
    for p in range(query_of.shape[0]):
        out[p] = _tree_dot(queries[query_of[p]], documents[document_of[p]], sums)


@compile_kernel
def rescore_all(queries, documents, out):
    """out[i, j] = exact score of queries[i] and documents[j]."""
    sums = np.empty(_width(queries.shape[1]), np.float64)
    for i in range(queries.shape[0]):
        for j in range(documents.shape[0]):
            out[i, j] = _tree_dot(queries[i], documents[j], sums)
