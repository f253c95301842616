"""Candidates: which scores of the fast pass may be among the best k."""

from __future__ import annotations

import numpy as np

from trove_steps.topk.kernels.compiling import ANY_ORDER, compile_kernel

CHUNK = 64  # scores looked at together: most chunks have no hit and are left at once


@compile_kernel
def _kth_largest(values, n, k):
    """The k-th largest of values[:n] (k from 1), by quickselect; reorders `values`."""
    low, high, target = 0, n - 1, k - 1
    while low < high:
        # The median of three keeps sorted and constant input linear.
        a, b, c = values[low], values[(low + high) // 2], values[high]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if target <= j:
            high = j
        elif target >= i:
            low = i
        else:
            break
    return values[target]


@compile_kernel
def _prune(low, high, place, n, k, floor, scratch):
    """Raise the floor to the k-th largest `low` and drop what cannot reach it."""
    if n >= k:
        scratch[:n] = low[:n]
        floor = max(floor, _kth_largest(scratch, n, k))
    kept = 0
    for j in range(n):
        if high[j] >= floor:
            low[kept], high[kept], place[kept] = low[j], high[j], place[j]
            kept += 1
    return kept, floor


@compile_kernel
def _aim(k, seen, expected):
    """The place among the documents seen so far at which the floor is set: k, or a bold one before it.

    Of the best k of `expected` documents (0: not known) in any order that does not favour them, the first
    `seen` hold about `share`. Four times as many, eight deviations and 32 near copies may be among them
    before a query is missed.
    """
    if not expected > 0:
        return k
    share = k * (seen / expected)
    return min(k, np.int64(4 * share + 8 * np.sqrt(share) + 32))


@compile_kernel
def _reaches(values, least):
    reached = False
    for j in range(values.shape[0]):  # becomes vector code
        reached |= values[j] >= least
    return reached


@compile_kernel
def _find(values, least, places):
    """Write where `values` reach `least` into `places`, in order; return how many do."""
    found = 0
    for start in range(0, values.shape[0], CHUNK):
        chunk = values[start : start + CHUNK]
        if not _reaches(chunk, least):
            continue
        for j in range(chunk.shape[0]):  # without a branch, whose guess would fail at every hit
            places[found] = start + j
            found += chunk[j] >= least
    return found


@compile_kernel
def _reaches_halves(bits, least, most):
    reached = False
    for j in range(bits.shape[0]):
        reached |= (bits[j] >= least) | (bits[j] <= most)
    return reached


@compile_kernel
def _find_halves(bits, least, most, places):
    """The same for bfloat16 numbers as int16, with `least` and `most` from `_halves_bar`."""
    found = 0
    for start in range(0, bits.shape[0], CHUNK):
        chunk = bits[start : start + CHUNK]
        if not _reaches_halves(chunk, least, most):
            continue
        for j in range(chunk.shape[0]):
            places[found] = start + j
            found += (chunk[j] >= least) | (chunk[j] <= most)
    return found


@compile_kernel
def _halves_bar(bits):
    """(least, most): bfloat16 numbers >= a float32, given as uint32 bits, are >= least or <= most.

    As int16 numbers, positive bfloat16 rise with their value, negative ones are negative and fall.
    Besides, -0 may pass.
    """
    upper = np.int64(bits >> np.uint32(16))
    if upper < 0x8000:  # not negative: rounded up, unless it is zero, which -0 reaches too
        return np.int16(min(0x7FFF, upper + ((bits & np.uint32(0xFFFF)) != 0))), np.int16(-0x8000)
    return np.int16(0), np.int16(upper - 0x10000)


@compile_kernel
def _admit(scores, hits, first, e, k, limit, low, high, place, n, full, floor, scratch):
    """Append the documents first + hits whose scores reach the floor to the n candidates of a query.

    At `full` candidates the floor is raised, long before there is no more room: a stale floor lets
    more pass. Returns the new n, full and floor, and whether the query is lost.
    """
    capacity = low.shape[0]
    threshold = floor - e
    for h in range(hits.shape[0]):
        score = scores[h]
        if score < threshold:
            continue
        if n == full:
            crowded = n == capacity
            n, floor = _prune(low, high, place, n, k, floor, scratch)
            threshold = floor - e
            full = min(capacity, n + max(k // 2, 32))
            if crowded and n > limit:
                return n, full, floor, True
            if score < threshold:
                continue
        low[n], high[n], place[n] = score - e, score + e, first + hits[h]
        n += 1
    return n, full, floor, False


@compile_kernel
def offer(
    scores, first, error, k, limit, low, high, place, fill, full, floor, lost, seen, expected
):
    """Append every score that could reach the running k-th; see `candidates.Candidates`."""
    scratch = np.empty(low.shape[1], np.float32)
    hits = np.empty(scores.shape[1], np.int64)
    values = np.empty(scores.shape[1], np.float32)
    for i in range(scores.shape[0]):
        e = error[i]
        seen[i] += scores.shape[1]
        lost[i] |= not e < np.inf
        if lost[i]:
            continue
        found = _find(scores[i], floor[i] - e, hits)
        for h in range(found):
            values[h] = scores[i, hits[h]]
        fill[i], full[i], floor[i], lost[i] = _admit(
            values, hits[:found], first, e, _aim(k, seen[i], expected), limit,
            low[i], high[i], place[i], fill[i], full[i], floor[i], scratch,
        )  # fmt: skip


@compile_kernel
def offer_halves(
    bits, first, error, k, limit, low, high, place, fill, full, floor, lost, seen, expected
):
    """Like `offer` for bfloat16 scores, given as int16."""
    scratch = np.empty(low.shape[1], np.float32)
    hits = np.empty(bits.shape[1], np.int64)
    values, bar = np.empty(bits.shape[1], np.float32), np.empty(1, np.float32)
    words, bar_word = values.view(np.uint32), bar.view(np.uint32)
    for i in range(bits.shape[0]):
        e = error[i]
        seen[i] += bits.shape[1]
        lost[i] |= not e < np.inf
        if lost[i]:
            continue
        bar[0] = floor[i] - e
        least, most = _halves_bar(bar_word[0])
        found = _find_halves(bits[i], least, most, hits)
        for h in range(found):
            words[h] = np.uint32(np.uint16(bits[i, hits[h]])) << np.uint32(16)
        fill[i], full[i], floor[i], lost[i] = _admit(
            values, hits[:found], first, e, _aim(k, seen[i], expected), limit,
            low[i], high[i], place[i], fill[i], full[i], floor[i], scratch,
        )  # fmt: skip


@compile_kernel
def _bar(floor, unit, shift, error):
    """The least integer product whose score may reach the floor, or one less."""
    bar = np.floor((np.float64(floor) - shift - error) / unit)
    if not bar > -2147483648.0:  # no floor yet, or no bound
        return np.int32(-2147483648)
    return np.int32(min(2147483647.0, bar))


def _dot(q, d):
    """The float32 product of two vectors, added in any order: `products.Bound` holds."""
    total = np.float32(0)
    for j in range(q.shape[0]):
        total += q[j] * d[j]
    return total


dot = compile_kernel(_dot, ANY_ORDER)


@compile_kernel
def offer_codes(
    products, unit, shift, error, queries, documents, float_error, first, budget,
    k, limit, low, high, place, fill, full, floor, lost, seen, expected,
):  # fmt: skip
    """Like `offer` for integer products of codes; every hit is scored in float32 at once.

    The exact score is within error[i] of unit[i] * products[i, j] + shift[i], and within
    float_error[i] of the float32 product. Stops after the query with which there are more than
    `budget` hits in all; returns the number of queries done.
    """
    scratch = np.empty(low.shape[1], np.float32)
    hits = np.empty(products.shape[1], np.int64)
    values = np.empty(products.shape[1], np.float32)
    for i in range(products.shape[0]):
        seen[i] += products.shape[1]
        if lost[i]:
            continue
        e = float_error[i]
        found = _find(products[i], _bar(floor[i], unit[i], shift[i], error[i]), hits)
        for h in range(found):
            values[h] = dot(queries[i], documents[hits[h]])
        fill[i], full[i], floor[i], lost[i] = _admit(
            values, hits[:found], first, e, _aim(k, seen[i], expected), limit,
            low[i], high[i], place[i], fill[i], full[i], floor[i], scratch,
        )  # fmt: skip
        budget -= found
        if budget < 0:
            return i + 1
    return products.shape[0]


@compile_kernel
def settle(k, low, high, place, fill, floor, missed):
    """Prune every query once more, with the k-th of all that was offered.

    A query is missed if its floor was above that k-th: what was dropped may be among the best.
    """
    scratch = np.empty(low.shape[1], np.float32)
    for i in range(low.shape[0]):
        before = floor[i]
        floor[i] = -np.inf
        fill[i], floor[i] = _prune(low[i], high[i], place[i], fill[i], k, floor[i], scratch)
        missed[i] = floor[i] < before
