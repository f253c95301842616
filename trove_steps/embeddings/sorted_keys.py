"""Comparing many keys with many others in little memory."""

import numpy as np

COMPARED_AT_ONCE = 1 << 17  # keys that are compared with a sorted set in one go


class SortedKeys:
    """Keys uint8[n, 16], sorted, against which others are compared; keys may repeat. 20 bytes a key, 28
    while it is made. `order` int[n] says which key stands at each place; equal ones stay in order."""

    def __init__(self, keys: np.ndarray):
        self._high, order = _sort(keys)
        low = _pairs(keys)[:, 1][order]
        self.order = order.astype(np.int32) if len(order) < 1 << 31 else order
        del order
        self._low = low.astype(np.uint64)

    def __len__(self) -> int:
        return len(self._high)

    def places(self, keys: np.ndarray) -> np.ndarray:
        """Return int64[m]: where keys uint8[m, 16] first stand in sorted order, -1 for those not there."""
        places = np.empty(len(keys), np.int64)
        for start in range(0, len(keys), COMPARED_AT_ONCE):
            high, low = _halves(keys[start : start + COMPARED_AT_ONCE])
            # Sorted questions stay in the processor's cache; that pays once the set does not fit there.
            order = np.argsort(high) if len(self) > 1 << 16 else np.arange(len(high))
            places[start + order] = self._first_places(high[order], low[order])
        return places

    def _first_places(self, high: np.ndarray, low: np.ndarray) -> np.ndarray:
        place = np.searchsorted(self._high, high)
        found = np.full(len(high), -1, np.int64)
        open_ones = np.flatnonzero(place < len(self))
        while len(open_ones):
            at = place[open_ones]
            same_high = self._high[at] == high[open_ones]
            match = same_high & (self._low[at] == low[open_ones])
            found[open_ones[match]] = at[match]
            open_ones = open_ones[same_high & ~match]
            place[open_ones] += 1
            open_ones = open_ones[place[open_ones] < len(self)]
        return found

    def fill_repeats(self, *columns: np.ndarray) -> np.ndarray:
        """Give equal keys equal values in columns[n], in sorted order, which have one at each key's first
        place; return bool[n], in sorted order, which places these are."""
        again = np.zeros(len(self), bool)
        again[1:] = self._high[1:] == self._high[:-1]
        again[1:] &= self._low[1:] == self._low[:-1]
        repeated = np.flatnonzero(again)
        if len(repeated):
            firsts = self._first_places(self._high[repeated], self._low[repeated])
            for column in columns:
                column[repeated] = column[firsts]
        return ~again


def unsorted(order: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Bring column[n], which is in the order of `SortedKeys.order`, into the order of the keys given."""
    result = np.empty_like(column)
    result[order] = column
    return result


def first_of_each(keys: np.ndarray) -> np.ndarray:
    """Return bool[n]: which of keys uint8[n, 16] stand at a place before all their equals."""
    in_order = SortedKeys(keys)
    return unsorted(in_order.order, in_order.fill_repeats())


def _sort(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (the high halves uint64[n] in order, int64[n]: the order by high half, low half, position).

    High halves hardly ever tie but for equal keys, and a sort by one number is several times as fast as one
    by three.
    """
    pairs = _pairs(keys)
    high = pairs[:, 0].astype(np.uint64)
    order = np.argsort(high)
    high = high[order]
    tied = np.zeros(len(high), bool)
    tied[1:] = high[1:] == high[:-1]
    tied[:-1] |= tied[1:].copy()
    places = np.flatnonzero(tied)
    among = order[places]
    order[places] = among[np.lexsort((among, pairs[among, 1], pairs[among, 0]))]
    return high, order


def _halves(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pairs = _pairs(keys)
    return pairs[:, 0].astype(np.uint64), pairs[:, 1].astype(np.uint64)


def _pairs(keys: np.ndarray) -> np.ndarray:
    """View keys uint8[n, 16] as big-endian numbers [n, 2], which compare as they do."""
    return np.ascontiguousarray(keys).view(">u8").reshape(-1, 2)
