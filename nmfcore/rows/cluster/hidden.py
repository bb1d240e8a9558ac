"""Masks of a Dask array: what a caller gives becomes a mask for each block of rows."""

from __future__ import annotations

import sys
import uuid
from math import isfinite
from typing import NamedTuple

import numpy as np
from scipy import sparse

from ..._typing import Array, MaskLike, Matrix
from ..disk import Source, source_of
from ..masks import Given, Mask, as_mask, check_mask, combined

_UNKNOWN = "has row chunks of unknown height, with which a mask cannot be aligned"


class Hidden(NamedTuple):
    """What is missing of a Dask array on a cluster."""

    mask: Mask | None = None  # lies here: its rows are sent to the blocks that they belong to
    lazy: tuple[Matrix, ...] = ()  # Dask arrays in the row chunks of X
    value: float | None = None  # NaN or 0: the number of X that stands for a missing entry

    def __bool__(self) -> bool:
        return self.mask is not None or bool(self.lazy) or self.value is not None


def is_dask(X: Matrix) -> bool:
    """Return whether X is a Dask array; Dask is not imported to find out.

    Parameters
    ----------
    X : object

    Returns
    -------
    bool
    """
    module = sys.modules.get("dask.array")
    return module is not None and isinstance(X, module.Array)


def is_sparse(X: Matrix) -> bool:
    """Return whether the blocks of a Dask array are declared to be sparse matrices."""
    return hasattr(X._meta, "tocsr")


def unmasked(X: Matrix, masks: list[MaskLike]) -> tuple[Matrix, list[MaskLike]]:
    """Return a Dask array of masked arrays as one of their numbers, with its mask among the others; any other as it is.

    Parameters
    ----------
    X : dask.array.Array of shape (n, m)
    masks : list of masks

    Returns
    -------
    X : dask.array.Array of shape (n, m)
    masks : list of masks
    """
    if not isinstance(X._meta, np.ma.MaskedArray):
        return X, masks
    import dask.array as da

    return da.ma.getdata(X), [*masks, da.ma.getmaskarray(X)]


def hidden_in(
    X: Matrix, masks: list[MaskLike], missing_values: float | None
) -> tuple[Matrix, Hidden, Array | None]:  # fmt: skip
    """Return what masks hide of a Dask array whose row chunks are known.

    Parameters
    ----------
    X : dask.array.Array of shape (n, m)
    masks : list of masks
        See `nmfcore.rows.masks.as_mask`; or Dask arrays.
    missing_values : NaN, 0 or None
        The number of X that stands for a missing entry.

    Returns
    -------
    X : dask.array.Array
        Without the columns that are left out.
    hidden : Hidden
    columns : ndarray of bool, shape (m,), or None
        The columns that are left; None if they all are, or if `hidden` hides the others.

    Raises
    ------
    ValueError
        If a mask has another shape or type, lies in a file, or has row chunks of unknown height.
    """
    pairs, lazy = [], []
    for given in masks:
        of_blocks, here = _as_given(given, X)
        if of_blocks is None:
            pairs.append(as_mask(here, X.shape))
        else:
            lazy.append(of_blocks)
    mask, columns = combined(pairs, X.shape)
    if columns is not None and lazy:
        mask, columns = Given(np.broadcast_to(~columns, X.shape)), None
    if columns is not None:
        X = X[:, np.flatnonzero(columns)]
    marked = missing_values == 0 or (missing_values is not None and X.dtype.kind == "f")
    return X, Hidden(mask, tuple(lazy), missing_values if marked else None), columns


def _as_given(mask: MaskLike, X: Matrix) -> tuple[Matrix | None, MaskLike]:
    """Return a mask as a Dask array in the row chunks of X; or, if it lies here or has one dimension, as it is."""
    if not is_dask(mask):
        mask = source_of(mask)
        if isinstance(mask, Source):
            raise ValueError(
                f"mask is {mask.what}, but X is a Dask array: give a mask in memory, or a Dask array, for example "
                "dask.array.from_zarr(…) or dask.array.from_array(numpy.load(path, mmap_mode='r'))."
            )
        return None, mask
    if mask.ndim == 1:
        check_mask(mask.shape, mask.dtype, X.shape)
        return None, np.asarray(mask)
    if not all(isfinite(height) for height in mask.chunks[0]):
        msg = f"mask {_UNKNOWN}: call mask.compute_chunk_sizes() first."
        raise ValueError(msg)
    check_mask(mask.shape, mask.dtype, X.shape)
    wanted = (X.chunks[0], (X.shape[1],))
    return (mask if mask.chunks == wanted else mask.rechunk(wanted)), None


def mask_in_blocks(mask: MaskLike, X: Matrix) -> tuple[Matrix | None, Array | None]:
    """Return a mask as a Dask array in the row chunks of X, or as one entry for each column.

    Parameters
    ----------
    mask : array-like, sparse matrix or Dask array of bool, or None
    X : dask.array.Array of shape (n, m)

    Returns
    -------
    lazy : dask.array.Array of shape (n, m), or None
    columns : ndarray of bool, shape (m,), or None
        True where a column is left out.

    Raises
    ------
    ValueError
        See `hidden_in`; or if the row chunks of X are of unknown height, and the mask has the shape of X.
    """
    if mask is None:
        return None, None
    known = all(isfinite(height) for height in X.chunks[0])
    if not known and len(getattr(mask, "shape", np.shape(mask))) != 1:
        msg = f"X {_UNKNOWN}: call X.compute_chunk_sizes() first."
        raise ValueError(msg)
    lazy, here = _as_given(mask, X)
    if lazy is not None:
        return lazy, None
    if not sparse.issparse(here):
        here = np.asarray(here)
    shape = X.shape if known else (0, X.shape[1])
    made, columns = as_mask(here, shape)
    if columns is not None:
        return None, ~columns
    assert made is not None
    import dask.array as da

    name, chunks, lo = f"nmfcore-mask-{uuid.uuid4().hex}", (X.chunks[0], (X.shape[1],)), 0
    blocks, here = {}, here.tocsr() if sparse.issparse(here) else here
    for number, height in enumerate(X.chunks[0]):
        blocks[name, number, 0] = here[lo : lo + height]
        lo += height
    return da.Array(blocks, name, chunks, meta=here[:0]), None


def cut(hidden: Hidden, firsts: list[int], heights: list[int]) -> list[Mask] | None:
    """Return the rows of a mask that lies here, for each of some blocks of X; None if there is none."""
    if hidden.mask is None:
        return None
    ranges = zip(firsts, heights, strict=True)
    return [hidden.mask.take(slice(lo, lo + height)) for lo, height in ranges]
