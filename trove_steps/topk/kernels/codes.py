"""Vectors as bfloat16 and as codes of 8 bits, with the norms that bound what this loses."""

from __future__ import annotations

import numpy as np

from trove_steps.topk.kernels.compiling import ANY_ORDER, compile_kernel


@compile_kernel
def _extremes(vectors, smallest, largest):
    for i in range(vectors.shape[0]):
        for j in range(vectors.shape[1]):
            x = vectors[i, j]
            smallest[j] = x if x < smallest[j] else smallest[j]
            largest[j] = x if x > largest[j] else largest[j]


def extremes(vectors):
    """(float32[d], float32[d]): the smallest and largest value of every dimension."""
    smallest, largest = vectors[0].copy(), vectors[0].copy()
    _extremes(vectors, smallest, largest)
    return smallest, largest


def _halve(bits, vectors, halves, size, residue):
    """halves = the upper 16 bits of float32 vectors, rounded to nearest even: bfloat16.

    `bits` are the vectors as uint32. size[i] = |vectors[i]|, residue[i] = |vectors[i] - halves[i]|.
    """
    rounded = np.empty(bits.shape[1], np.uint32)
    nearest = rounded.view(np.float32)
    for i in range(bits.shape[0]):
        squares, left = np.float32(0), np.float32(0)
        for j in range(bits.shape[1]):
            odd = (bits[i, j] >> np.uint32(16)) & np.uint32(1)
            rounded[j] = (bits[i, j] + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)
            halves[i, j] = np.uint16(rounded[j] >> np.uint32(16))
        for j in range(bits.shape[1]):
            r = vectors[i, j] - nearest[j]
            squares += vectors[i, j] * vectors[i, j]
            left += r * r
        size[i], residue[i] = np.sqrt(squares), np.sqrt(left)


halve = compile_kernel(_halve, ANY_ORDER)


def _encode(vectors, centre, step, codes, size, residue):
    """codes = round((vectors - centre) / step) in int8, with the norms of codes and residues.

    vectors = centre + step * codes + r. size[i] = |codes[i]|, residue[i] = |r[i]|.
    """
    inverse = np.empty_like(step)
    for j in range(step.shape[0]):
        inverse[j] = 1 / step[j] if step[j] > 1e-30 else np.float32(0)  # 1/x must stay finite
    for i in range(vectors.shape[0]):
        squares, left = np.float32(0), np.float32(0)
        for j in range(vectors.shape[1]):
            x = vectors[i, j] - centre[j]
            code = np.rint(x * inverse[j])
            code = min(max(code, np.float32(-127)), np.float32(127))
            r = x - code * step[j]
            codes[i, j] = np.int8(code)
            squares += code * code
            left += r * r
        size[i], residue[i] = np.sqrt(squares), np.sqrt(left)


encode = compile_kernel(_encode, ANY_ORDER)


@compile_kernel
def encode_queries(queries, centre, step, codes, unit, shift, rest, norm):
    """Write queries[i] * step as unit[i] * codes[i] + h[i]; queries are mixed, float64.

    shift[i] = queries[i] · centre, rest[i] = |h[i]|, norm[i] = |queries[i]|.
    """
    dim = queries.shape[1]
    for i in range(queries.shape[0]):
        largest, along, squares = 0.0, 0.0, 0.0
        for j in range(dim):
            x = np.float64(queries[i, j])
            largest = max(largest, abs(x * step[j]))
            along += x * centre[j]
            squares += x * x
        unit[i] = largest / 127 if largest > 0 else 1.0
        left = 0.0
        for j in range(dim):
            x = np.float64(queries[i, j]) * step[j]
            code = np.rint(x / unit[i])
            codes[i, j] = np.int8(code)
            h = x - code * unit[i]
            left += h * h
        shift[i], rest[i], norm[i] = along, np.sqrt(left), np.sqrt(squares)
