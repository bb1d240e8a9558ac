"""The front door: what a caller's X is, where it lies and how it is computed on is decided here, and only here."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NoReturn, Protocol, TypeVar

import numpy as np
from scipy import sparse

from .._files import machine_memory
from .._typing import Array, DType, MaskLike, Matrix
from ..backends import cuda
from ..backends.operations import STORED_TYPES
from . import cluster
from .base import Rows
from .device import as_device_rows
from .disk import Source, StoredRows, source_of
from .masked import MaskedRows, Observed, masked_rows
from .masks import ColumnsOf, InMemory, as_mask, combined
from .memory import BLOCK_BYTES, MemoryRows, as_rows
from .weighted import WeightedRows, Weights

# Types of numbers that stay what they are; an X of any other type becomes float64, as in scikit-learn.
READ_AS_THEY_ARE = list(STORED_TYPES)

Checked = TypeVar("Checked", bound=Rows)


class Checks(Protocol):
    """What an estimator checks of an X before anything is computed, with the errors of scikit-learn."""

    whom: str  # what the error for negative values says that X was passed to
    spreads: bool  # whether a Dask array is computed on where it is if there is a cluster; else it is loaded
    devices: bool  # whether device="auto" may choose a GPU
    masks: bool  # whether X may have missing entries
    partial: bool  # whether X is a part of another, so that nothing of it may be observed
    who: str  # the estimator, in the error for an X that may not

    def by_columns(self, why_not: str) -> None:
        """Raise if X has to be read by columns, too, and cannot be: `why_not` is not empty."""

    def array(self, X: Matrix) -> Matrix:
        """Return an X in host memory as an array or a sparse matrix of two dimensions; raise if it is none."""

    def place(self, device: bool) -> None:
        """Raise if X cannot be computed on where it is; `device` is whether a GPU is to be used."""

    def not_finite(self, nan: bool, dtype: np.dtype) -> None:
        """Raise the error for an X with NaN, else for one with a value that is infinite or too large for the type."""

    def negative(self) -> NoReturn:
        """Raise the error for an X with negative values."""


def compute_type(given: np.dtype, dtype: DType = None) -> np.dtype:
    """Return the type that is computed in.

    Parameters
    ----------
    given : numpy.dtype
        Type of the numbers of X.
    dtype : numpy.float32, numpy.float64, their names, or None
        What the caller asks for. None is float32 for float32 and for types of at most 16 bits, else float64.

    Returns
    -------
    dtype : numpy.dtype
    """
    small = given.itemsize <= 2 or given == np.float32
    return np.dtype(dtype or (np.float32 if small else np.float64))


def stand_in(X: Matrix) -> np.ndarray:
    """Return an array of the shape and type of X that takes no memory, for checks that read no numbers."""
    shape = tuple(1 if math.isnan(length) else length for length in X.shape)  # of a Dask array one may be unknown
    return np.broadcast_to(np.zeros((), X.dtype), shape)


def is_lazy(X: Matrix) -> bool:
    """Return whether X is a Dask array, whose codes are a Dask array that is computed later."""
    return cluster.is_dask(X)


def open(
    X: Matrix,
    *,
    checks: Checks,
    dtype: DType = None,
    device: str | None = None,
    sparse_on_device: bool = True,
    n_jobs: int | None = None,
    memory: int | str | None = None,
    components: int | str | None = 0,
    fitted: bool = False,
    digested: bool = False,
    mask: MaskLike = None,
    missing_values: float | None = None,
    weights: Weights | None = None,
) -> Rows:
    """Return X as blocks of rows, checked, after one pass over it.

    Parameters
    ----------
    X : object
        An array of any order and strides, a data frame, a sparse matrix, a memory map; a path, an h5py dataset, a Zarr
        array or a `RowBlocks` stream; a Dask array; a CuPy array, or an array of another library on a device. Rows that
        are open already are returned as they are.
    checks : Checks
        What else is checked, and how errors are worded.
    dtype : numpy.float32, numpy.float64, their names, or None
        Compute type, see `compute_type`.
    device : None or str
        Where an X in host memory is computed on, see `nmfcore.backends.cuda.resolve`.
    sparse_on_device : bool, default=True
        Whether ``device="auto"`` may choose a GPU for a sparse X.
    n_jobs : int or None
        Threads, see `effective_threads`.
    memory : int, str or None
        Budget for an X on disk, see `StoredRows`.
    components : int, "auto" or None, default=0
        Number of columns of the factors that lie beside X on a device; "auto" and None stand for the columns of X.
    fitted : bool, default=False
        Whether the model has been fitted, maybe on another machine, see `nmfcore.backends.cuda.resolve`.
    digested : bool, default=False
        Whether the pass over an X on disk also makes the digest of its contents.
    mask : array-like, sparse matrix, path or store; bool; Mask; or None
        True where an entry of X, or a column, is left out, see `nmfcore.rows.masks.as_mask`.
    missing_values : NaN, 0 or None
        The number that stands for a missing entry of X.
    weights : Weights or None
        How much rows and columns count.

    Returns
    -------
    rows : Rows
        To be used as a context manager, which enters the device and releases what is kept on a cluster.

    Raises
    ------
    ValueError
        If X is not a matrix of finite, nonnegative numbers, if `device` is unknown, or if X lies on another device.
    NotImplementedError
        If the checks refuse a device.
    DeviceError
        If `device` names a GPU and it does not work.
    MemoryError
        If a Dask array has to be loaded and does not fit.
    """
    if isinstance(X, Rows):
        return X
    masks = [] if mask is None else [mask]
    if isinstance(X, np.ma.MaskedArray):
        masks += [X.mask] if np.ma.is_masked(X) else []
        X = X.data
    elif cluster.is_dask(X):
        X, masks = cluster.unmasked(X, masks)
    X, loaded_from = source_of(X), None
    if isinstance(X, Source):  # before it is read
        checks.by_columns(StoredRows.by_rows_only)
    if masks or missing_values is not None:
        return _open_masked(X, masks, missing_values, checks, dtype, device, n_jobs, memory, weights)
    if weights:
        return _open_weighted(X, weights, checks, dtype, device, n_jobs, memory, digested)
    if isinstance(X, Source):
        if cuda.resolve(device, np.zeros(0), fitted) is not None and device != "auto":
            checks.place(True)
            raise ValueError(
                f"device={device!r} takes X in memory or as a numpy.memmap, which is streamed to it, not {X.what}: "
                "open a .npy file with numpy.load(path, mmap_mode='r'), or leave device out."
            )
        return _stored(X, checks, dtype, n_jobs, memory, digested)
    number, kind = cuda.resolve(device, X, fitted), cuda.kind_of(X)
    if device == "auto" and kind is None and not (checks.devices and (sparse_on_device or not sparse.issparse(X))):
        number = None
    checks.place(number is not None)
    if cluster.is_dask(X):
        if checks.spreads and cluster.client_of() is not None:
            return _examined(_on_cluster(X, checks, dtype, n_jobs), checks)
        loaded_from = partial(cluster.as_given, X=X)
        X = cluster.load(X)
    if number is None:
        X = checks.array(X)
        rows = as_rows(X, compute_type(X.dtype, dtype), n_jobs)
        rows.given_dtype, rows.loaded_from = np.dtype(X.dtype), loaded_from
        return _examined(rows, checks)
    with cuda.context(number):
        checked = checks.array(X) if kind is None else _on_device(X, checks)
        made = as_device_rows(X if kind else checked, compute_type(checked.dtype, dtype), components)
        made.given_dtype, made.number, made.loaded_from = np.dtype(checked.dtype), number, loaded_from
        return _examined(made, checks)


def loaded(X: Matrix) -> Matrix:
    """Return an X on disk as an array in memory, and any other X as it is.

    Parameters
    ----------
    X : object
        As `open` takes it.

    Returns
    -------
    X : object

    Raises
    ------
    MemoryError
        If this machine has less memory than X takes.
    """
    X = source_of(X)
    if isinstance(X, Source):
        needed, memory = math.prod(X.shape) * X.dtype.itemsize, machine_memory()
        if memory is not None and needed > memory:
            raise MemoryError(
                f"{X.what} takes {needed / 1e9:,.1f} GB, and this machine has {memory / 1e9:,.1f} GB: give fewer rows."
            )
        return X.take(np.arange(X.shape[0]))
    return X


def _open_weighted(
    X: Matrix, weights: Weights, checks: Checks, dtype: DType, device: str | None, n_jobs: int | None,
    memory: int | str | None, digested: bool,
) -> Rows:  # fmt: skip
    """Return an X whose rows and columns have weights as rows; weights that are all 1 are dropped."""
    if cluster.is_dask(X):
        _refuse_weights_of_dask(weights)
    if device not in (None, "auto", "cpu") or cuda.kind_of(X) is not None:
        raise ValueError(
            "weights are for the CPU only: leave device out, and give X in host memory or on disk, or leave "
            f"{weights.names} out."
        )
    checks.place(False)
    if isinstance(X, Source):
        checks.array(stand_in(X))
    else:
        X = checks.array(X)
    of_rows, of_columns = weights.checked(X.shape)
    rows: MemoryRows
    if isinstance(X, Source):
        rows = _stored(X, checks, dtype, n_jobs, memory, digested)
    else:
        rows = as_rows(X, compute_type(X.dtype, dtype), n_jobs)
        rows.given_dtype = np.dtype(X.dtype)
        rows = _examined(rows, checks)
    return _weighted(rows, of_rows, of_columns)


def _refuse_weights_of_dask(weights: Weights) -> NoReturn:
    raise ValueError(
        f"X is a Dask array, for which {weights.names} cannot be used: load it with X.compute(), or store it as a "
        "Zarr array and give that."
    )


def _weighted(rows: MemoryRows | MaskedRows, of_rows: Array | None, of_columns: Array | None) -> Rows:
    """Return rows with weights of the rows and of the columns of the X of the caller."""
    if of_rows is None and of_columns is None:
        return rows
    mass = None
    if rows.chosen is not None:
        mass = float(len(rows.chosen) if of_columns is None else of_columns.sum())
        of_columns = None if of_columns is None else of_columns[rows.chosen]
    # With a mask of entries there are no weights, see `_open_masked`.
    return WeightedRows(rows, of_rows, of_columns, mass)  # type: ignore[arg-type]


def _open_masked(
    X: Matrix, masks: list[MaskLike], missing_values: float | None, checks: Checks, dtype: DType, device: str | None,
    n_jobs: int | None, memory: int | str | None, weights: Weights | None,
) -> Rows:  # fmt: skip
    """Return an X with missing entries as rows; an X of which nothing is missing as any other."""
    if not checks.masks:
        raise ValueError(
            f"{checks.who} takes no mask, no masked array and no missing values: fill in what is missing, or use NMF."
        )
    lazy = X if cluster.is_dask(X) else None
    if lazy is not None and weights:
        _refuse_weights_of_dask(weights)
    if device not in (None, "auto", "cpu") or cuda.kind_of(X if lazy is None else X._meta) is not None:
        raise ValueError(
            "a mask or missing_values is for the CPU only: leave device out, and give X in host memory or on disk."
        )
    checks.place(False)
    if lazy is not None:
        if checks.spreads and cluster.client_of() is not None:
            return _masked_on_cluster(X, masks, missing_values, checks, dtype, n_jobs)
        X, masks = cluster.load_with(X, masks)
    if isinstance(X, Source):
        checks.array(stand_in(X))
    else:
        X = checks.array(X)
    given = np.dtype(X.dtype)
    of_rows, of_columns = weights.checked(X.shape) if weights else (None, None)
    mask, columns = combined([as_mask(each, X.shape) for each in masks], X.shape)
    if columns is not None:
        X = _chosen(X, columns)
    rows: MemoryRows
    if isinstance(X, Source):
        rows = StoredRows(X, compute_type(given, dtype), n_jobs, memory, checks.whom)
    else:
        rows = as_rows(X, compute_type(given, dtype), n_jobs)
    rows.given_dtype = given
    made = masked_rows(rows, mask, missing_values)
    if isinstance(made, MaskedRows):
        _check_observed(made, checks)
        if made.observed == rows.shape[0] * rows.shape[1]:
            made = made.inner
            made.gathers = False
    made.chosen, made.given_dtype = columns, given
    made.loaded_from = None if lazy is None else partial(cluster.as_given, X=lazy)
    if weights and made.masked is not None:
        raise ValueError(
            f"{weights.names} cannot be used where single entries of X are missing: leave it out, or give a mask of "
            "whole columns."
        )
    return _weighted(_examined(made, checks), of_rows, of_columns)


def _masked_on_cluster(
    X: Matrix, masks: list[MaskLike], missing_values: float | None, checks: Checks, dtype: DType, n_jobs: int | None
) -> Rows:
    """Return a Dask array with missing entries as rows that stay on the workers, each block with its mask."""
    cluster.check(X)
    checks.array(stand_in(X))
    given = X if X.dtype in READ_AS_THEY_ARE else X.astype(np.float64)
    X, hidden, columns = cluster.hidden_in(given, masks, missing_values)
    rows = cluster.as_dask_rows(X, compute_type(X.dtype, dtype), n_jobs, hidden)
    try:
        if isinstance(rows, cluster.MaskedDaskRows):
            _check_observed(rows, checks)
            if rows.observed == rows.shape[0] * rows.shape[1]:
                rows = rows.shown()
        rows.given_dtype, rows.chosen = np.dtype(given.dtype), columns
    except BaseException:
        rows.__exit__(None, None, None)
        raise
    return _examined(rows, checks)


def _check_observed(rows: Observed, checks: Checks) -> None:
    """Raise ValueError if nothing of X is observed, unless it is a part of an X that has more rows."""
    rows.summary()
    if not rows.observed and not checks.partial:
        raise ValueError("nothing of X is observed: the mask, or missing_values, leaves out every entry.")


def _chosen(X: Matrix, columns: Array) -> Matrix:
    """Return some columns of X: of a large one in memory, and of one on disk, as they are read block by block."""
    if sparse.issparse(X):
        return X.tocsr()[:, columns]
    if isinstance(X, Source):
        return ColumnsOf(X, columns)
    X = np.asarray(X)
    if X.shape[0] * columns.sum() * X.itemsize <= BLOCK_BYTES:
        return X[:, columns]
    return ColumnsOf(InMemory(X), columns)


def _examined(rows: Checked, checks: Checks) -> Checked:
    """Return rows whose numbers are finite and nonnegative; raise if they are not."""
    try:
        summary = rows.summary()
        if not summary.finite:
            nan, infinite = rows.not_finite()
            given = rows.given_dtype if rows.given_dtype.itemsize > 2 else np.dtype(np.float64)
            checks.not_finite(nan, given if infinite else rows.dtype)
        if summary.minimum < 0:
            checks.negative()
    except BaseException:
        if not rows.local:
            rows.__exit__(None, None, None)
        raise
    return rows


def _stored(
    X: Source, checks: Checks, dtype: DType, n_jobs: int | None, memory: int | str | None, digested: bool
) -> StoredRows:
    """Return an X on disk as rows; errors for its numbers name the row and the column."""
    checks.array(stand_in(X))
    rows = StoredRows(X, compute_type(X.dtype, dtype), n_jobs, memory, checks.whom)
    rows.digested = digested
    rows.summary()
    return rows


def _on_cluster(X: Matrix, checks: Checks, dtype: DType, n_jobs: int | None) -> Rows:
    cluster.check(X)
    checks.array(stand_in(X))
    X = X if X.dtype in READ_AS_THEY_ARE else X.astype(np.float64)
    rows = cluster.as_dask_rows(X, compute_type(X.dtype, dtype), n_jobs)
    rows.given_dtype = np.dtype(X.dtype)
    return rows


def _on_device(X: Matrix, checks: Checks) -> Matrix:
    """Return an X on a device as CuPy's; a stand-in of its shape and type is checked."""
    X = cuda.adopt(X)
    if X.dtype.kind == "c":
        raise ValueError(f"Complex data not supported\n{X.dtype}\n")
    if X.dtype not in READ_AS_THEY_ARE:
        raise ValueError(f"X on a device has dtype {X.dtype}: give bool, integers, or floats of 16, 32 or 64 bits.")
    # The error for another number of dimensions quotes the numbers.
    checks.array(stand_in(X) if len(X.shape) == 2 else cuda.to_host(X))
    return X


def mapped_lazily(
    X: Matrix, function: Callable[..., Array], width: int, dtype: np.dtype, mask: MaskLike = None
) -> Matrix:  # fmt: skip
    """Return function(rows) of a Dask array as a Dask array, to be computed block by block.

    Parameters
    ----------
    X : dask.array.Array of shape (n, m)
    function : callable
        Makes an array of `width` columns from some rows of X, on the worker that has them; from these and
        ``mask=`` of these, if there is a mask.
    width : int
    dtype : numpy.dtype
    mask : array-like, sparse matrix or Dask array of bool, default=None
        Of the shape of X, of which each block gets its rows, or of one entry for each column.

    Returns
    -------
    W : dask.array.Array of shape (n, width)
        Not computed yet.
    """
    lazy, columns = cluster.mask_in_blocks(mask, X)
    if X.numblocks[1] > 1:
        X = X.rechunk({1: -1})
    plain = type(X._meta) is np.ndarray or cuda.kind_of(X._meta) is not None
    meta = X._meta.astype(dtype) if plain else np.empty((0, 0), dtype)
    block = partial(_of_block, function=function, width=width, dtype=dtype, columns=columns)
    given = () if lazy is None else (lazy,)
    return X.map_blocks(block, *given, chunks=(X.chunks[0], (width,)), dtype=dtype, meta=meta)


def _of_block(
    block: Matrix, *given: Matrix, function: Callable[..., Array], width: int, dtype: np.dtype, columns: Array | None
) -> Array:
    if not block.shape[0]:
        return np.empty((0, width), dtype)
    masks = given if columns is None else (columns,)
    return function(block, mask=masks[0]) if masks else function(block)
