"""What one pass over X finds out before anything is computed from it."""

from __future__ import annotations

import math
import zlib
from typing import NamedTuple

import numpy as np
from scipy import sparse

from .._typing import Array, Matrix
from ..backends.operations import Backend
from .state import RowState

_LEAST, _MOST = 1e-280, 1e300  # between these a sum of squares in float64 can be trusted
_FARTHEST = 500  # 4^500 and 4^−500, and their product with any mean square, are numbers


class Summary(NamedTuple):
    """Sums over the whole of X, found by one pass before a fit."""

    minimum: float
    finite: bool
    total: float  # Σx
    squares: float  # Σx²
    mean: float

    @property
    def level(self) -> int:
        """The p for which the root mean square of X is about 4^p to 4^(p + 1); 0 if that is not known.

        For 4^q·X it is larger by q exactly. It is taken from the mean where Σx² has left the range of float64.
        """
        if _LEAST < self.squares < _MOST and 0 < self.total < math.inf:
            return math.frexp(self.squares * (self.mean / self.total))[1] // 4
        if 0 < self.total < math.inf:
            return math.frexp(self.mean)[1] // 2
        return _FARTHEST if self.total == math.inf else 0


OPENING_SUMS: dict[str, tuple[int, ...]] = {"least": (1,), "rest": (3,)}


def look_through(
    backend: Backend, block: object, rows: RowState, dtype: np.dtype, after: RowState, sums: dict[str, Array]
) -> None:
    """Add what a block holds to the sums of the opening: its smallest number, and [non-finite numbers, Σx, Σx²].

    Parameters
    ----------
    backend : Backend
    block : Block
    rows : RowState
        Not used.
    dtype : numpy.dtype
        Compute type.
    after : RowState
        Not used.
    sums : dict of str to ndarray
        Of the shapes `OPENING_SUMS`.
    """
    seen = backend.opening(block, dtype)
    sums["least"][:] = backend.xp.minimum(sums["least"], seen[:1])
    sums["rest"] += seen[1:]


def count_not_finite(
    backend: Backend, block: object, rows: RowState, arguments: None, after: RowState, sums: dict[str, Array]
) -> None:
    """Add 1 to the sum "nan" if a block holds NaN, and to "infinite" if it holds an infinite number.

    The parameters are those of `look_through`.
    """
    numbers = backend.numbers(block)
    if numbers.dtype.kind == "f":
        sums["nan"] += bool((numbers != numbers).any())
        sums["infinite"] += bool((abs(numbers) == math.inf).any())


def digest_of(X: Matrix) -> int:
    """CRC-32 of the stored numbers of an array or a CSR matrix, row by row, and of the places of a sparse one's."""
    crc, at_once = 0, 1 << 20  # bytes
    if sparse.issparse(X):
        for part in (X.indptr, X.indices, X.data):
            for first in range(0, len(part), at_once):
                numbers = part[first : first + at_once]
                crc = zlib.crc32(numbers if part is X.data else numbers.astype(np.int64), crc)
        return crc
    rows = max(1, at_once // max(1, X.shape[1] * X.dtype.itemsize))
    for first in range(0, len(X), rows):
        crc = zlib.crc32(np.ascontiguousarray(X[first : first + rows]), crc)
    return crc
