"""Masks: which entries of X are missing, wherever that is written down.

A mask has the shape of X, and is looked up for a few rows at a time; or it has one entry for each column, and chooses
the columns that are fitted.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType

import numpy as np
from scipy import sparse

from .._typing import Array, DType, MaskLike, Matrix
from ..backends import masked as backend
from .disk import Read, Source, source_of

_ADVICE = "give booleans, True where an entry is left out"


class Mask(ABC):
    """Which entries of X are missing."""

    @abstractmethod
    def hidden(self, lo: int, hi: int, numbers: Callable[[], Matrix]) -> Array:
        """Return the mask of rows lo … hi, bool and C-contiguous.

        Parameters
        ----------
        lo, hi : int
        numbers : callable
            Returns these rows of X.

        Returns
        -------
        hidden : ndarray of bool, shape (hi - lo, m)
        """

    @abstractmethod
    def take(self, rows: Array | slice) -> Mask:
        """Return the mask of some rows (increasing numbers, or a slice)."""

    @property
    @abstractmethod
    def T(self) -> Mask:
        """The mask of Xᵀ."""

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""
        return 0


class Given(Mask):
    """A mask in an array of bool, or in a memory map of one."""

    def __init__(self, mask: Array):
        self.mask = mask

    def hidden(self, lo: int, hi: int, numbers: Callable[[], Matrix]) -> Array:
        """Return the mask of rows lo … hi, where it lies if its rows lie together."""
        return np.ascontiguousarray(self.mask[lo:hi])

    def take(self, rows: Array | slice) -> Mask:
        """Return the mask of some rows."""
        return Given(self.mask[rows])

    @property
    def T(self) -> Mask:
        """The mask of Xᵀ."""
        return Given(self.mask.T)

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""
        return int(self.mask.nbytes)


class Scattered(Mask):
    """A mask in a CSR matrix of bool."""

    def __init__(self, mask: Matrix):
        self.mask = mask

    def hidden(self, lo: int, hi: int, numbers: Callable[[], Matrix]) -> Array:
        """Return the mask of rows lo … hi."""
        return self.mask[lo:hi].toarray()

    def take(self, rows: Array | slice) -> Mask:
        """Return the mask of some rows."""
        return Scattered(self.mask[rows])

    @property
    def T(self) -> Mask:
        """The mask of Xᵀ."""
        return Scattered(self.mask.T.tocsr())

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""
        return sum(int(part.nbytes) for part in (self.mask.data, self.mask.indices, self.mask.indptr))


class Stored(Mask):
    """A mask in a file or a store, of which a few rows are read at a time."""

    def __init__(self, source: Source):
        self.source, self._reading = source, threading.Lock()

    def hidden(self, lo: int, hi: int, numbers: Callable[[], Matrix]) -> Array:
        """Return the mask of rows lo … hi."""
        out = np.empty((hi - lo, self.source.shape[1]), self.source.dtype)
        with self._reading, self.source.opened() as read:
            self.source.read(read, lo, hi, out)
        return np.ascontiguousarray(out)

    def take(self, rows: Array | slice) -> Mask:
        """Return the mask of some rows."""
        return Given(self.source.take(np.arange(self.source.shape[0])[rows]))

    @property
    def T(self) -> Mask:
        """Raise: columns cannot be read."""
        msg = "the mask is not in memory and its columns cannot be solved for: give W and H for init='custom'."
        raise ValueError(msg)


class Marked(Mask):
    """A mask of which X itself tells: a number of X, NaN or 0, stands for what is missing."""

    def __init__(self, value: float):
        self.value = value

    def hidden(self, lo: int, hi: int, numbers: Callable[[], Matrix]) -> Array:
        """Return the mask of rows lo … hi."""
        X = numbers()
        X = X.toarray() if sparse.issparse(X) else X
        return np.ascontiguousarray(X != X if np.isnan(self.value) else self.value == X)

    def take(self, rows: Array | slice) -> Mask:
        """Return the mask of some rows."""
        return self

    @property
    def T(self) -> Mask:
        """The mask of Xᵀ."""
        return self


class Either(Mask):
    """What one mask or another hides."""

    def __init__(self, *masks: Mask):
        self.masks = masks

    def hidden(self, lo: int, hi: int, numbers: Callable[[], Matrix]) -> Array:
        """Return the mask of rows lo … hi."""
        first, *others = (mask.hidden(lo, hi, numbers) for mask in self.masks)
        for other in others:
            first = first | other
        return first

    def take(self, rows: Array | slice) -> Mask:
        """Return the mask of some rows."""
        return Either(*(mask.take(rows) for mask in self.masks))

    @property
    def T(self) -> Mask:
        """The mask of Xᵀ."""
        return Either(*(mask.T for mask in self.masks))

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""
        return sum(mask.nbytes for mask in self.masks)


class Hashed(Mask):
    r"""Entries that a hash of their place chooses, in no memory: the same for every block, thread and process.

    Entry (i, j) is hidden where :math:`h(s, i, j) < 2^{64} p`, with p the share, s the seed, and

    .. math:: h(s, i, j) = f(f(s + (i + 1) \gamma) + (j + 1) \gamma) \bmod 2^{64},

    f and γ those of SplitMix64 [1]_: h is output j of the generator of which the seed is output i of that of s.

    Parameters
    ----------
    seed : int
        Below 2^64.
    share : float
        Share of the entries to hide, at least 0 and at most 1.
    rows, columns : ndarray of int, shape (n,) and (m,)
        Numbers i and j of the rows and the columns. Rows of the same number have the same entries hidden, and columns
        of the same number are hidden together.

    References
    ----------
    .. [1] G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.rows.masks import Hashed
    >>> mask = Hashed(1, 0.25, np.arange(3), np.array([0, 0, 1, 2, 3, 4]))
    >>> mask.hidden(0, 3, None).astype(int)
    array([[0, 0, 0, 1, 0, 1],
           [0, 0, 1, 1, 0, 0],
           [0, 0, 0, 0, 1, 0]])
    """

    def __init__(self, seed: int, share: float, rows: Array, columns: Array):
        self.share = share
        self._of_rows = _mixed(np.uint64(seed) + (rows.astype(np.uint64) + np.uint64(1)) * GAMMA)
        self._of_columns = (columns.astype(np.uint64) + np.uint64(1)) * GAMMA

    def _like(self, of_rows: Array, of_columns: Array) -> Hashed:
        new = object.__new__(Hashed)
        new.share, new._of_rows, new._of_columns = self.share, of_rows, of_columns
        return new

    def hidden(self, lo: int, hi: int, numbers: Callable[[], Matrix]) -> Array:
        """Return the mask of rows lo … hi."""
        return backend.hashed(self._of_rows[lo:hi], self._of_columns, self.share)

    def take(self, rows: Array | slice) -> Mask:
        """Return the mask of some rows."""
        return self._like(self._of_rows[rows], self._of_columns)

    @property
    def T(self) -> Mask:
        """The mask of Xᵀ."""
        return self._like(self._of_columns, self._of_rows)  # the hash is one of their sum


GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mixed(z: Array) -> Array:
    """Return f(z) of SplitMix64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Complement(Mask):
    """What another mask shows."""

    def __init__(self, mask: Mask):
        self.mask = mask

    def hidden(self, lo: int, hi: int, numbers: Callable[[], Matrix]) -> Array:
        """Return the mask of rows lo … hi."""
        return ~self.mask.hidden(lo, hi, numbers)

    def take(self, rows: Array | slice) -> Mask:
        """Return the mask of some rows."""
        return Complement(self.mask.take(rows))

    @property
    def T(self) -> Mask:
        """The mask of Xᵀ."""
        return Complement(self.mask.T)


def combined(
    pairs: Sequence[tuple[Mask | None, Array | None]], shape: tuple[int, int]
) -> tuple[Mask | None, Array | None]:
    """Return what any of several masks hides, as a mask of entries, or else as the columns that are left.

    Parameters
    ----------
    pairs : sequence of (Mask or None, ndarray of bool or None)
        As `as_mask` returns them.
    shape : tuple of (int, int)
        Of X.

    Returns
    -------
    mask : Mask or None
    columns : ndarray of bool, shape (m,), or None
        None if `mask` is none, or if no column is left out.
    """
    entries = united(*(mask for mask, _ in pairs))
    chosen = [columns for _, columns in pairs if columns is not None]
    columns = np.logical_and.reduce(chosen) if chosen else None
    if columns is None or columns.all():
        return entries, None
    if entries is None:
        return None, columns
    return united(entries, Given(np.broadcast_to(~columns, shape))), None


def united(*masks: Mask | None) -> Mask | None:
    """Return the mask of what any of these hides; None if all are None."""
    given = [mask for mask in masks if mask is not None]
    return None if not given else given[0] if len(given) == 1 else Either(*given)


def check_mask(given: tuple[int, ...], dtype: DType, shape: tuple[int, int]) -> None:
    """Raise ValueError for a mask of a shape or a type that no mask of X has.

    Parameters
    ----------
    given : tuple of int
        Shape of the mask.
    dtype : numpy.dtype
        Type of its entries.
    shape : tuple of (int, int)
        Shape of X.
    """
    m, kind = shape[1], np.dtype(dtype)
    if given not in (shape, (m,)):
        raise ValueError(
            f"mask has shape {given}: for X of shape {shape} it must be {shape}, one entry for each of X, or "
            f"({m},), one for each column."
        )
    if kind.kind != "b":
        raise ValueError(f"mask holds {kind}: {_ADVICE}. For numbers that are not 0 where one is: mask != 0.")


def as_mask(mask: MaskLike, shape: tuple[int, int]) -> tuple[Mask | None, Array | None]:
    """Return a mask of a caller's as one of entries, or as the columns that it leaves.

    Parameters
    ----------
    mask : array-like, sparse matrix, memory map, path, h5py dataset or Zarr array; bool, or Mask, or None
        Of the shape of X, or of one entry for each column; True where X is left out. A Mask is taken as it is.
    shape : tuple of (int, int)
        Of X.

    Returns
    -------
    mask : Mask or None
    columns : ndarray of bool, shape (m,), or None
        The columns that are observed, if the mask has one entry for each column.

    Raises
    ------
    ValueError
        If the mask has another shape or type, or hides every column.
    """
    if mask is None or isinstance(mask, Mask):
        return mask, None
    mask = source_of(mask)
    if not (sparse.issparse(mask) or isinstance(mask, Source)):
        mask = np.asarray(mask)
    check_mask(mask.shape, mask.given if isinstance(mask, Source) else mask.dtype, shape)
    if isinstance(mask, Source):
        if mask.sequential:
            raise ValueError("mask is a stream of row blocks, which is read in order only: give an array or a file.")
        return Stored(mask), None
    if sparse.issparse(mask):
        return Scattered(mask.tocsr()), None
    if mask.ndim == 2:
        return Given(mask), None
    if mask.all():
        raise ValueError("mask hides every column of X: nothing is left to fit.")
    return None, ~mask


class ColumnsOf(Source):
    """Some columns of a source.

    Parameters
    ----------
    source : Source
    columns : ndarray of bool, shape (m,)
    """

    def __init__(self, source: Source, columns: Array):
        shape = (source.shape[0], int(columns.sum()))
        super().__init__(shape, source.given, source.what)
        self.source, self.numbers = source, np.flatnonzero(columns)
        self.sequential, self.row_by_row = source.sequential, source.row_by_row

    def opened(self, streams: int = 1) -> AbstractContextManager[Read]:
        """Open the source, see `Source.opened`."""
        return _Selecting(self, streams)


class _Selecting:
    """Gives a function that reads the rows of a source and keeps some columns of them."""

    def __init__(self, of: ColumnsOf, streams: int):
        self.of, self.opened = of, of.source.opened(streams)

    def __enter__(self) -> Read:
        read, source, columns = self.opened.__enter__(), self.of.source, self.of.numbers
        height = max(1, (4 << 20) // max(1, source.shape[1] * source.dtype.itemsize))

        def read_columns(lo: int, hi: int, out: Array) -> None:
            for a in range(lo, hi, height):
                b = min(a + height, hi)
                rows = np.empty((b - a, source.shape[1]), source.dtype)
                source.read(read, a, b, rows)
                out[a - lo : b - lo] = rows[:, columns]

        return read_columns

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self.opened.__exit__(kind, error, traceback)


class InMemory(Source):
    """An array in memory, or a memory map, that is read as a source: some of its columns are copied block by block."""

    row_by_row = True

    def __init__(self, X: Array):
        super().__init__(X.shape, X.dtype, "X")
        self.X = X

    def opened(self, streams: int = 1) -> AbstractContextManager[Read]:
        """Give a function that copies rows."""
        return _Copying(self.X)


class _Copying:
    def __init__(self, X: Array):
        self.X = X

    def __enter__(self) -> Read:
        def copy(lo: int, hi: int, out: Array) -> None:
            out[:] = self.X[lo:hi]

        return copy

    def __exit__(self, *error: object) -> None:
        pass


def whole_mask(mask: MaskLike, X: Matrix) -> MaskLike:
    """Return a mask of columns as one of the shape of X, which takes no memory; any other mask as it is."""
    if isinstance(mask, list | tuple):
        mask = np.asarray(mask)
    if getattr(mask, "ndim", 2) != 1:
        return mask
    X = source_of(X)
    n = X.shape[0] if hasattr(X, "shape") else len(X)
    return np.broadcast_to(np.asarray(mask), (n, len(mask)))
