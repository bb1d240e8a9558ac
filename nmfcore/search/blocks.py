"""Rows of pictures, a block of them at a time: their norm, and how they are written to a file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence

import numpy as np

from .._files import replacing
from .._typing import Array
from .stack import Stack

__all__ = ["AT_ONCE", "frobenius_norm", "write_rows"]

AT_ONCE = 1 << 24  # bytes of pictures that are read, written, coded or added up at a time


def write_rows(blocks: Sequence[Array | Stack], path: str | os.PathLike[str]) -> None:
    """Write blocks of rows as one ``.npy`` file, whole or not at all, without putting them together in memory.

    Parameters
    ----------
    blocks : sequence of array-like of shape (n_i, m), or Stack
        Rows; of one type, or of types that have a common one.
    path : path-like
        The file; an older one is replaced.
    """
    dtype = np.result_type(*(block.dtype for block in blocks))
    shape = (sum(len(block) for block in blocks), *blocks[0].shape[1:])
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with replacing(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            for part in _parts(block):
                file.write(np.ascontiguousarray(part, dtype=dtype).data)


def frobenius_norm(X: Array, mask: Array | None = None) -> float:
    """‖X‖_F, a block of rows at a time.

    Parameters
    ----------
    X : array-like of shape (n, m)
        Rows.
    mask : ndarray of shape (n, m), bool, or None
        True where an entry does not count. None, the default, counts all of them.

    Returns
    -------
    float
    """
    total, start = 0.0, 0
    for part in _parts(X):
        numbers = part.astype(np.float64)
        if mask is not None:
            numbers[mask[start : start + len(part)]] = 0
        start, numbers = start + len(part), numbers.ravel()
        total += float(numbers @ numbers)
    return math.sqrt(total)


def _parts(X: Array | Stack) -> Iterator[Array]:
    rows = max(1, AT_ONCE // max(1, 8 * X.shape[1]))
    return (X[start : start + rows] for start in range(0, len(X), rows))
