"""Rows to be compared by their cosines: as they lie, with the square of each one's norm."""

from __future__ import annotations

import functools

import numpy as np
from scipy import sparse

from .._typing import Array, Matrix
from ..rows.memory import MemoryRows, as_rows, without_duplicates

__all__ = ["Points", "length", "safe_type"]


class Points:
    """Rows as they lie, the square of each one's norm, and the compute type that their products are safe in.

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n, m)
        Real numbers; CSR and CSC are read as they are, and rows whose squares would leave float64's range are copied.
    n_jobs : int or None
        Number of threads.
    what : str
        The name of X in errors.
    squares : ndarray of shape (n,), float64, or None
        Squares of the norms, where they are known. None, the default, computes them.

    Attributes
    ----------
    X : ndarray or CSR matrix of shape (n, m)
    squares : ndarray of shape (n,), float64
    dtype : dtype
        float32 or float64, see `safe_type`.

    Raises
    ------
    ValueError
        If X has another number of dimensions than two, no columns, or numbers that are not finite.
    TypeError
        If X holds no real numbers.
    """

    def __init__(self, X: Matrix, n_jobs: int | None, what: str, squares: Array | None = None):
        self.n_jobs, self.what = n_jobs, what
        self.X = _checked(X, what)
        self.shape: tuple[int, int] = self.X.shape
        self.data: MemoryRows = as_rows(self.X, np.float64, n_jobs)
        self.X = self.data.X
        if squares is None:
            squares = self._squares()
            if not np.isfinite(squares).all() or _extreme(squares, 1e-250, 1e250) or self._vanished(squares):
                self.X = _tamed(self.X, what)
                self.data = as_rows(self.X, np.float64, n_jobs)
                squares = self._squares()
        self.squares = squares
        self.dtype = safe_type(squares)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "data"}  # it holds a module

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__ |= state
        self.data = as_rows(self.X, np.float64, self.n_jobs)

    def _squares(self) -> Array:
        out = np.empty(self.shape[0])
        self.data.visit_all(lambda lane, lo, hi, block: self.data.backend.squares(block, out[lo:hi]), 8)
        return out

    def _vanished(self, squares: Array) -> bool:
        """Whether the square of a row is 0 but the row is not: only numbers below 1e-154 do that."""
        if self.X.dtype != np.float64 or squares.all():
            return False
        zero = self.X[np.flatnonzero(squares == 0)]
        return bool(zero.count_nonzero() if sparse.issparse(zero) else zero.any())

    @functools.cached_property
    def nonnegative(self) -> bool:
        """Whether no number is below zero."""
        numbers = self.X.data if sparse.issparse(self.X) else self.X
        return numbers.dtype.kind in "bu" or bool(numbers.min(initial=0) >= 0)

    def dense(self, lo: int, hi: int) -> Array:
        """Return rows in float64.

        Parameters
        ----------
        lo, hi : int
            The first row, and the one behind the last.

        Returns
        -------
        ndarray of shape (hi - lo, m), float64
        """
        part = self.X[lo:hi]
        return np.ascontiguousarray(part.toarray() if sparse.issparse(part) else part, dtype=np.float64)


def length(X: Matrix) -> int:
    """Return the number of rows of an array-like.

    Parameters
    ----------
    X : array-like or sparse matrix

    Returns
    -------
    int
    """
    return X.shape[0] if hasattr(X, "shape") else len(X)


def _checked(X: Matrix, what: str) -> Matrix:
    """X as rows of real numbers: an ndarray, or CSR without duplicate entries."""
    if sparse.issparse(X):
        X = without_duplicates(X.tocsr(), np.float64)
    else:
        X = np.asarray(X)
        if X.dtype == object:
            X = X.astype(np.float64)
    if X.ndim != 2:
        msg = f"{what} must have two dimensions, a row each, but has shape {X.shape}: reshape(1, -1) makes one row."
        raise ValueError(msg)
    if not X.shape[1]:
        msg = f"{what} has no columns (shape {X.shape}): rows of at least one number can be compared."
        raise ValueError(msg)
    if X.dtype.kind not in "biuf":
        msg = f"{what} must hold real numbers, but its type is {X.dtype}."
        raise TypeError(msg)
    return X


def safe_type(*squares: Array) -> np.dtype:
    """Return the type in which products of such rows are computed.

    Parameters
    ----------
    *squares : ndarray of shape (n,)
        Squares of the norms of rows.

    Returns
    -------
    dtype
        float32, unless products of their numbers could overflow or vanish in it.
    """
    return np.dtype(np.float64 if any(_extreme(each, 1e-30, 1e30) for each in squares) else np.float32)


def _extreme(squares: Array, least: float, most: float) -> bool:
    return bool(((squares > 0) & ((squares < least) | (squares > most))).any())


def _tamed(X: Matrix, what: str) -> Matrix:
    """X with each row divided by a power of two, so that no square overflows; raises if X is not finite.

    A copy, made only for rows whose squares leave float64's range.
    """
    numbers = X.data if sparse.issparse(X) else X
    if not np.isfinite(numbers).all():
        rows = np.flatnonzero(~np.isfinite(np.asarray(abs(X).sum(axis=1), dtype=np.float64)).ravel())
        msg = f"{what} must be finite, but row {rows[0] if len(rows) else '?'} holds NaN or infinity."
        raise ValueError(msg)
    largest = abs(X).max(axis=1)
    largest = np.asarray(largest.todense() if sparse.issparse(largest) else largest, dtype=np.float64).ravel()
    exponents = np.frexp(largest)[1]
    if sparse.issparse(X):
        X = X.astype(np.float64)
        X.data = np.ldexp(X.data, -np.repeat(exponents, np.diff(X.indptr)))
        return X
    return np.ldexp(X.astype(np.float64), -exponents[:, None])
