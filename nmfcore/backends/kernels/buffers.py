"""Aligned buffers, and rows of factors padded to whole vectors."""

import numpy as np

from ._decorators import once
from ._pairs import max
from ._simd import (
    VECTOR_BYTES,
    out_of_line,
    pad_row,
    spill_row,
    unpad_row,
)

ALIGN = 16  # a multiple of every register tile's height: tiles and columns are padded to multiples of it


@once
def aligned(size, like):
    """Return an uninitialised flat buffer of like's type that begins on a cache line: a split load costs twice."""
    out_of_line()
    spare = 64 // like.itemsize
    buffer = np.empty(size + 2 * spare, like.dtype)
    first = (64 - buffer.ctypes.data % 64) % 64 // like.itemsize
    return buffer[first : first + size + spare]


@once
def clear(buffer, first, last):
    """Set buffer[first:last] to 0. Numba's own assignment to a slice takes longer to compile than all loops here."""
    out_of_line()
    for i in range(first, last):
        buffer[i] = 0


@once
def zeros(size, like):
    """Return a flat buffer of zeros that begins on a cache line."""
    buffer = aligned(size, like)
    clear(buffer, np.intp(0), size)
    return buffer


@once
def round_up(n, step):
    """Return the least multiple of step that is at least n."""
    return (n + step - 1) // step * step


@once
def lanes_of(like):
    """Return how many numbers of this type a vector holds."""
    return VECTOR_BYTES // like.itemsize


@once
def leading(m):
    """Return the row length of a tile of m columns: an odd number of lines, so that rows share no cache set."""
    ld = round_up(m, ALIGN)
    return ld + ALIGN if ld // ALIGN % 2 == 0 else ld


@once
def pad_rows(F, lo, rows, out, ld):
    """Copy rows lo … lo+rows of F to `out`, each with zeros up to row length ld."""
    out_of_line()
    for i in range(rows):
        pad_row(F, lo + i, out, i * ld, ld)


@once
def copy_rows(Fp, ld, rows, out, first):
    """Copy rows of length ld, zero beyond out's columns, to rows first … of `out`. Returns the sum of their numbers."""
    out_of_line()
    k = out.shape[1]
    # Masked stores are slow (20 cycles on Zen 4): a row that others follow is stored with its padding, which the next
    # row overwrites.
    followed = max(rows * k - ld + k, 0) // max(k, 1)
    for i in range(followed):
        spill_row(Fp, i * ld, out, first + i)
    for i in range(followed, rows):
        unpad_row(Fp, i * ld, out, first + i)
    total, padded = 0.0, Fp[: rows * ld]
    for i in range(padded.size):
        total += np.float64(padded[i])
    return total


@once
def pad_transposed(F, out, ld):
    """Copy Fᵀ to a flat k × ld buffer, with zeros beyond F's rows."""
    out_of_line()
    n, k = F.shape
    for t in range(k):
        to = out[t * ld : t * ld + ld]
        for i in range(n):
            to[i] = F[i, t]
        for i in range(n, ld):
            to[i] = 0
