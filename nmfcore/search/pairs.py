"""Pairs of rows that are nearly the same: by the cosine of their codes, and then by their pixels.

Equal codes are not equal pictures: a code says how much of each part a picture has, and what no part shows is not in
it. A pair therefore counts if both the codes and the pixels are close.

Codes are compared by `cosine_topk`, a panel of rows with all rows from the panel on, so that each pair is met once and
no n × n matrix exists. Pixels are read for the pairs that are left. Memory is O(n + pairs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from .._typing import Array
from .cosine import cosine_topk

__all__ = ["CANDIDATES", "NearPairs", "Pixels", "near_pairs", "norms_of"]

PANEL = 8192  # rows that are compared with all rows after them at a time: 70,000 × 15 codes take nine calls
FIRST = 16  # pairs of a row that are asked for at first; nearly all rows have fewer
MORE = 4  # so many times as many are asked for where these are not all
CANDIDATES = 1024  # pairs of a row whose pixels are compared at most: those with the highest cosines
_AT_ONCE = 1 << 24  # bytes of pixels in float64, and of found pairs, that are held at a time

Pixels = Callable[[Array], Array]  # row numbers -> their pixels, an array of shape (rows, m)


class NearPairs(NamedTuple):
    """Pairs of rows that are nearly the same.

    Attributes
    ----------
    first, second : ndarray of shape (n_pairs,), int64
        Row numbers, first < second, in ascending order.
    scores : ndarray of shape (n_pairs,), float64
        Cosines of their codes.
    distances : ndarray of shape (n_pairs,), float64
        ‖x_i − x_j‖ / max(‖x_i‖, ‖x_j‖).
    crowded : int
        Rows that have so many others with codes as close that only the pixels of the `CANDIDATES` most similar ones
        were compared.
    dropped : int
        Pairs that were found beyond the largest number that was allowed: those with the lowest cosines.
    """

    first: Array
    second: Array
    scores: Array
    distances: Array
    crowded: int
    dropped: int


def near_pairs(
    codes: Array,
    pixels: Pixels,
    norms: Array,
    near: float,
    distance: float,
    max_pairs: int,
    *,
    flipped: tuple[Array, Pixels] | None = None,
    unit: float = 1.0,
) -> NearPairs:
    """Find all pairs of rows with close codes and close pixels.

    Parameters
    ----------
    codes : ndarray of shape (n, k), float32 or float64
        Codes; a row of zeros has no pairs.
    pixels : callable(rows) -> ndarray of shape (n_rows, m)
        The pictures that belong to them.
    norms : ndarray of shape (n,), float64
        Their norms, divided by `unit`; see `norms_of`.
    near : float
        Least cosine of the codes of a pair.
    distance : float
        Largest ‖x_i − x_j‖ / max(‖x_i‖, ‖x_j‖) of a pair.
    max_pairs : int
        How many pairs to keep at most.
    flipped : tuple of (codes, pixels) or None
        Codes and pixels of the mirror images. A pair is found then, too, if one of the two is close to the mirror image
        of the other.
    unit : float
        Pixels are divided by it before they are squared.

    Returns
    -------
    NearPairs

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.search.pairs import near_pairs, norms_of
    >>> X = np.array([[4.0, 0.0, 1.0], [4.0, 0.1, 1.0], [0.0, 3.0, 1.0]])
    >>> found = near_pairs(X[:, :2], X.__getitem__, norms_of(X.__getitem__, 3)[0], 0.99, 0.1, 10)
    >>> found.first.tolist(), found.second.tolist(), found.distances.round(3).tolist()
    ([0], [1], [0.024])
    """
    kept = _Kept(max_pairs)
    norms = np.where(codes.any(axis=1), norms, 0.0)
    crowded = set()
    for first, second, scores, full in _candidates(codes, codes, near, triangle=True):
        crowded.update(full)
        kept.add(*_close(first, second, scores, pixels, pixels, norms, distance, unit))
    if flipped is not None:
        # The code of a mirror image is that of a fit of its own, so both directions are asked.
        for first, second, scores, full in _candidates(flipped[0], codes, near, triangle=False):
            crowded.update(full)
            kept.add(*_close(first, second, scores, flipped[1], pixels, norms, distance, unit))
    return kept.pairs(len(crowded))


def norms_of(pixels: Pixels, n: int) -> tuple[Array, float]:
    """Return the norms of rows in a unit in which their squares neither overflow nor vanish.

    Parameters
    ----------
    pixels : callable(rows) -> ndarray of shape (n_rows, m)
        The rows.
    n : int
        How many there are.

    Returns
    -------
    norms : ndarray of shape (n,), float64
        ‖x_i‖ / unit.
    unit : float
        A power of two; 1 for whole numbers, and wherever squares are safe.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.search.pairs import norms_of
    >>> norms_of(np.array([[3.0, 4.0]]).__getitem__, 1)
    (array([5.]), 1.0)
    """
    largest = max((float(np.abs(rows).max(initial=0)) for rows in _blocks(pixels, n)), default=0.0)
    unit = 1.0 if largest == 0 or 1e-100 < largest < 1e100 else 2.0 ** np.frexp(largest)[1]
    norms = [np.linalg.norm(rows / unit, axis=1) for rows in _blocks(pixels, n)]
    return np.concatenate(norms) if norms else np.zeros(0), float(unit)


def _blocks(pixels: Pixels, n: int) -> Iterator[Array]:
    """Yield all rows in float64, some at a time."""
    start = 0
    while start < n:
        width = pixels(np.array([start])).shape[1]
        stop = min(n, start + max(1, _AT_ONCE // (8 * max(1, width))))
        yield pixels(np.arange(start, stop)).astype(np.float64)
        start = stop


def _candidates(
    queries: Array, codes: Array, near: float, triangle: bool
) -> Iterator[tuple[Array, Array, Array, list[int]]]:
    """Yield row numbers of pairs with close codes, their cosines, and rows that have more than are yielded.

    With `triangle`, only pairs whose second row comes after the first.
    """
    n = len(codes)
    for lo in range(0, n, PANEL):
        begin = lo if triangle else 0
        database = codes[begin:]
        asked, k = np.arange(lo, min(lo + PANEL, n)), FIRST
        while len(asked):
            k = min(k, len(database))
            last = k >= min(CANDIDATES, len(database))
            again = []
            step = max(1, _AT_ONCE // (16 * k))
            for start in range(0, len(asked), step):
                rows = asked[start : start + step]
                scores, found = cosine_topk(queries[rows], database, k, threshold=near, exclude=rows - begin)
                full = found[:, -1] >= 0
                if not last:  # rows that may have more are asked for more, all over
                    again.append(rows[full])
                    found[full] = -1
                place, column = np.nonzero(found >= 0)
                first, second = rows[place], found[place, column] + begin
                after = first < second if triangle else np.ones(len(first), bool)
                crowded = rows[full].tolist() if last and k < len(database) else []
                yield first[after], second[after], scores[place, column][after], crowded
            asked, k = np.concatenate(again) if again else np.zeros(0, np.int64), MORE * k


def _close(
    first: Array, second: Array, scores: Array, a: Pixels, b: Pixels, norms: Array, distance: float, unit: float
) -> tuple[Array, Array, Array, Array]:
    """Return the pairs whose pixels are close, and their distances."""
    most = np.maximum(norms[first], norms[second])
    # ‖x − y‖ is at least the difference of the norms, so that of most pairs that are not close no pixel is read.
    able = (np.minimum(norms[first], norms[second]) > 0) & (
        np.abs(norms[first] - norms[second]) <= distance * most * (1 + 1e-9)
    )
    first, second, scores, most = first[able], second[able], scores[able], most[able]
    distances = np.empty(len(first))
    start = 0
    while start < len(first):
        width = a(first[start : start + 1]).shape[1]
        stop = min(len(first), start + max(1, _AT_ONCE // (16 * width)))
        difference = a(first[start:stop]).astype(np.float64) - b(second[start:stop])
        distances[start:stop] = np.linalg.norm(difference / unit if unit != 1.0 else difference, axis=1)
        start = stop
    distances /= most
    near = distances <= distance
    return first[near], second[near], scores[near], distances[near]


class _Kept:
    """Pairs that were found so far, the most similar ones where they are too many."""

    def __init__(self, most: int):
        self.most, self.dropped = most, 0
        rows, numbers = np.zeros(0, np.int64), np.zeros(0)
        self._parts: list[tuple[Array, Array, Array, Array]] = [(rows, rows, numbers, numbers)]
        self._held = 0

    def add(self, first: Array, second: Array, scores: Array, distances: Array) -> None:
        self._parts.append((np.minimum(first, second), np.maximum(first, second), scores, distances))
        self._held += len(first)
        if self._held > 2 * self.most:
            self._reduce()

    def _reduce(self) -> tuple[Array, Array, Array, Array]:
        """Leave one of each pair, and drop the least similar ones."""
        first, second, scores, distances = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        order = np.lexsort((distances, -scores, second, first))  # of a pair met twice, the more similar comes first
        first, second, scores, distances = first[order], second[order], scores[order], distances[order]
        fresh = np.ones(len(first), bool)
        fresh[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        kept = np.flatnonzero(fresh)
        if len(kept) > self.most:
            self.dropped += len(kept) - self.most
            kept = np.sort(kept[np.argsort(-scores[kept], kind="stable")[: self.most]])
        pairs = first[kept], second[kept], scores[kept], distances[kept]
        self._parts, self._held = [pairs], len(kept)
        return pairs

    def pairs(self, crowded: int) -> NearPairs:
        return NearPairs(*self._reduce(), crowded, self.dropped)
