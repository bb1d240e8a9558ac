"""What one pass over X finds out before anything is computed from it."""

from __future__ import annotations

import math
import zlib
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

_LEAST, _MOST = 1e-280, 1e300  # between these a sum of squares in float64 can be trusted
_FARTHEST = 500  # 4^500 and 4^−500, and their product with any mean square, are numbers


class Opening(NamedTuple):
    """What one pass over X tells before anything is changed."""

    minimum: float
    finite: bool
    total: float  # Σx
    squares: float  # Σx²
    mean: float

    @property
    def level(self) -> int:
        """The p for which the root mean square of X is 4^p to 4^(p + 1), more or less; 0 if that cannot be told.

        Exactly q more for 4^q·X. Taken from the mean where Σx² has left the range of float64.
        """
        if _LEAST < self.squares < _MOST and 0 < self.total < math.inf:
            return math.frexp(self.squares * (self.mean / self.total))[1] // 4
        if 0 < self.total < math.inf:
            return math.frexp(self.mean)[1] // 2
        return _FARTHEST if self.total == math.inf else 0


def digest_of(X: Any) -> int:
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
