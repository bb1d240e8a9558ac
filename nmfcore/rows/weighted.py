"""X whose rows and columns have weights: the blocks of rows of any other X on the CPU, with their weights."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from numbers import Number
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils import check_array

from .._typing import Array, Block, DType
from ..backends import weighted as backend
from ..backends.weighted import WeightedBlock, times
from .base import LOOK_WIDTH, Function, Gather, Rows
from .memory import MemoryRows
from .state import RowState
from .summary import OPENING_SUMS, Summary
from .sums import Named, Shapes
from .wrapped import WrappedRows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..backends.operations import Backend

# The mean of weights may be this far from 1: products of a few of them, and of numbers of X, stay within float32.
_FAR = 1e6


class Weights:
    """Weights of the rows and of the columns of X, as a caller gave them.

    Parameters
    ----------
    of_rows : array-like of shape (n,), number or None
        `sample_weight`.
    of_columns : array-like of shape (m,) or None
        `feature_weight`.
    """

    def __init__(self, of_rows: ArrayLike | None = None, of_columns: ArrayLike | None = None):
        self.of_rows, self.of_columns = of_rows, of_columns

    def __bool__(self) -> bool:
        return self.of_rows is not None or self.of_columns is not None

    @property
    def names(self) -> str:
        """The names of those that are given, for errors."""
        given = {"sample_weight": self.of_rows, "feature_weight": self.of_columns}
        return " and ".join(name for name, value in given.items() if value is not None)

    def checked(self, shape: tuple[int, int]) -> tuple[Array | None, Array | None]:
        """Return the weights in float64; None for those that are all 1, or not given."""
        n, m = shape
        return (
            _checked(self.of_rows, "sample_weight", n, "rows"),
            _checked(self.of_columns, "feature_weight", m, "columns"),
        )


def _checked(given: ArrayLike | None, name: str, length: int, what: str) -> Array | None:
    if given is None:
        return None
    if isinstance(given, Number):
        given = np.full(length, given, np.float64)
    weights = check_array(given, ensure_2d=False, ensure_all_finite=False, dtype=np.float64, input_name=name)
    weights = np.array(weights, np.float64)  # a copy: the caller's may change during the fit
    if weights.shape != (length,):
        raise ValueError(f"{name} has shape {weights.shape}, but X has {length} {what}: give one number for each.")
    if not np.isfinite(weights).all():
        raise ValueError(f"{name} holds NaN or infinity: give a finite number ≥ 0 for each of the {what} of X.")
    if (weights < 0).any():
        raise ValueError(
            f"{name} holds negative values, the least of which is {weights.min():g}: give a number ≥ 0 for each of the "
            f"{what} of X, 0 for one that is not to count."
        )
    if not weights.any():
        raise ValueError(f"{name} is zero throughout, so that nothing of X would count: give a positive weight.")
    mean = weights.mean()
    if not 1 / _FAR <= mean <= _FAR:
        raise ValueError(
            f"{name} has a mean of {mean:.3g}, which is too far from 1 for sums in float32: divide the weights by "
            "their mean, which changes neither W nor H."
        )
    return None if (weights == 1).all() else weights


class WeightedRows(WrappedRows):
    """X whose rows and columns have weights, as blocks of rows.

    Parameters
    ----------
    inner : MemoryRows
        X as it would be without weights.
    of_rows : ndarray of shape (n,), float64, or None
        How much each row counts.
    of_columns : ndarray of shape (m,), float64, or None
        How much each column counts: of those that `inner` has.
    mass : float or None
        Sum of the weights of the columns of the X of the caller; None if `inner` has all of them.
    """

    by_rows_only = "rows or columns of X have weights"

    def __init__(self, inner: MemoryRows, of_rows: Array | None, of_columns: Array | None, mass: float | None = None):
        super().__init__(inner, backend)
        self.chosen, self.loaded_from = inner.chosen, inner.loaded_from
        self.row_weights, self.column_weights, self._mass = of_rows, of_columns, mass
        n, m = inner.shape
        self._of_rows = np.ones(n) if of_rows is None else of_rows
        self._of_columns = np.ones(m) if of_columns is None else of_columns

    @property
    def entries(self) -> int:
        """Number of stored numbers of X."""
        return self.inner.entries

    @property
    def unweighted(self) -> Rows:
        """The same X without weights."""
        return self.inner

    @property
    def rooted(self) -> Rows:
        """diag(√u)·X·diag(√v) as rows: its singular triplets are those of the X with repeated rows and columns."""
        return RootedRows(self.inner, self._of_rows, self._of_columns)

    def unrooted(self, U: Array, S: Array, Vt: Array) -> tuple[Array, Array]:
        """Return singular vectors of `rooted` as those of the X with repetitions are: U/√u and Vᵀ/√v.

        Where a weight is 0, they are those that belong to the rest: X·diag(v)·V/S, and Xᵀ·diag(u)·U/S.

        Parameters
        ----------
        U : ndarray of shape (n, k)
        S : ndarray of shape (k,)
        Vt : ndarray of shape (k, m)

        Returns
        -------
        U : ndarray of shape (n, k)
        Vt : ndarray of shape (k, m)
        """
        inverse = np.divide(1, S, out=np.zeros_like(S), where=S > 0)
        U, V = _over_root(U, self._of_rows), _over_root(Vt.T, self._of_columns)
        given_U, given_V = U, V
        if not self._of_rows.all():
            of_others = self.inner.products(times(given_V, self._of_columns))
            U = np.where(self._of_rows[:, None] > 0, U, of_others * inverse)
        if not self._of_columns.all():
            of_others = self.inner.transposed_products(times(given_U, self._of_rows)).astype(V.dtype)
            V = np.where(self._of_columns[:, None] > 0, V, of_others * inverse)
        return U, np.ascontiguousarray(V.T)

    @property
    def counts(self) -> tuple[float, float]:
        """Sums of the weights of the rows and of the columns."""
        return float(self._of_rows.sum()), float(self._of_columns.sum())

    @property
    def given_counts(self) -> tuple[float, float]:
        """The `counts` of the X of the caller, columns that a mask leaves out included."""
        of_rows, of_columns = self.counts
        return of_rows, of_columns if self._mass is None else self._mass

    # ---- the primitive

    def each_block(
        self,
        function: Function,
        rows: RowState | Mapping[str, Array],
        arguments: object,
        *,
        width: int,
        sums: Shapes,
        out: Mapping[str, int] | None = None,
        gather: Gather | None = None,
        gathered: tuple[str, ...] = (),
        verify: bool = False,
    ) -> tuple[RowState, Named]:
        """Apply a function to every block of rows with its weights, see `Rows.each_block`."""
        of_rows, of_columns = self._of_rows, self._of_columns

        def on_block(
            cpu: Backend, block: Block, rows: RowState, arguments: object, after: RowState, sums: Named
        ) -> None:  # the rows are those of this block, and know the number of the first
            given = WeightedBlock(block, of_rows[rows.first : rows.first + block.rows], of_columns)
            function(backend, given, rows, arguments, after, sums)  # type: ignore[arg-type]

        def on_columns(
            cpu: Backend, block: Block, after: RowState, arguments: object, lo: int, hi: int, sums: Named
        ) -> None:
            assert gather is not None
            given = WeightedBlock(block, of_columns[lo:hi], of_rows)
            gather(backend, given, after, arguments, lo, hi, sums)  # type: ignore[arg-type]

        return self.inner.each_block(
            on_block, rows, arguments, width=width, sums=sums, out=out,
            gather=None if gather is None else on_columns, gathered=gathered, verify=verify,
        )  # fmt: skip

    # ---- what one pass finds

    def summary(self) -> Summary:
        """Return Σ u_i v_j x_ij and Σ u_i v_j x_ij², found by one pass (cached); minimum and finiteness are unweighted.

        The mean is Σ u_i v_j x_ij / Σ u_i v_j.
        """
        if self._summary is None:
            _, sums = self.each_block(_look, {}, self.dtype, width=LOOK_WIDTH, sums=OPENING_SUMS, out={})
            _, total, squares = sums["rest"].tolist()
            opening = self.inner.summary()
            of_rows, of_columns = self.counts
            mean = total / of_rows / of_columns if of_rows and of_columns else 0.0  # a sample's may all be 0
            self._summary = Summary(opening.minimum, opening.finite, total, squares, mean)
        return self._summary

    def not_finite(self) -> tuple[bool, bool]:
        """Return whether X holds NaN, and whether it holds an infinite number."""
        return self.inner.not_finite()

    def digest(self) -> str:
        """Return a digest of all stored numbers at their places, and of the weights."""
        weights = zlib.crc32(self._of_columns.tobytes(), zlib.crc32(self._of_rows.tobytes()))
        return f"{self.inner.digest()} {weights:08x}"

    def gram_of_rows(self, W: Array) -> Array:
        """Return Wᵀ·diag(u)·W of a row-aligned W, from some rows after others."""
        step, total = max(1, (1 << 17) // W.shape[1]), np.zeros((W.shape[1],) * 2)
        for lo in range(0, len(W), step):
            part = np.ascontiguousarray(W[lo : lo + step])
            total += backend.gram(times(part, self._of_rows[lo : lo + step]), part)
        return total

    def sums_of_rows(self, W: Array) -> Array:
        """Return Σ u_i w_i."""
        return np.einsum("i,it->t", self._of_rows, W, dtype=np.float64)

    def gram_of_columns(self, Ht: Array) -> Array:
        """Return H·diag(v)·Hᵀ of Ht (m × k)."""
        return backend.gram(self.weighted_columns(Ht), Ht)

    def weighted_columns(self, F: Array) -> Array:
        """Return F (m × k) times the weights of the columns of X."""
        return times(F, self._of_columns)

    # ---- X in other forms

    def scaled(self, power: int, dtype: DType = None) -> Rows:
        """Return the same X read as 4^power·X, see `Rows.scaled`."""
        if power == self.power and dtype is None:
            return self
        return WeightedRows(self.inner.scaled(power, dtype), self.row_weights, self.column_weights, self._mass)

    def take(self, rows: Array, n_jobs: int | None) -> Rows:
        """Return a copy of some rows (increasing numbers), in memory, with their weights."""
        inner = self.inner.take(rows, n_jobs)
        of_rows = None if self.row_weights is None else self.row_weights[rows]
        return WeightedRows(inner, of_rows, self.column_weights, self._mass)

    @property
    def T(self) -> Rows:
        """Xᵀ as rows, whose weights are those of the columns of X."""
        return WeightedRows(self.inner.T, self.column_weights, self.row_weights)


class RootedRows(WeightedRows):
    """B = diag(√u)·X·diag(√v) as rows, for the singular triplets of a start: it is multiplied with, and no more.

    Parameters
    ----------
    inner : MemoryRows
        X.
    of_rows : ndarray of shape (n,), float64
        u.
    of_columns : ndarray of shape (m,), float64
        v.
    """

    def __init__(self, inner: MemoryRows, of_rows: Array, of_columns: Array):
        super().__init__(inner, np.sqrt(of_rows), np.sqrt(of_columns))

    def products(self, Ht: Array) -> Array:
        """Return B·Ht of shape (n, k), in the compute type."""
        XHt = super().products(Ht)
        return np.multiply(XHt, self._of_rows.astype(XHt.dtype)[:, None], out=XHt)

    def transposed_products(self, F: Array) -> Array:
        """Return Bᵀ·F of shape (m, k), float64."""
        return super().transposed_products(F) * self._of_columns[:, None]

    def gram(self) -> Array:
        """Return BᵀB of shape (m, m), float64."""
        return WeightedRows(self.inner, self._of_rows**2, None).gram() * np.outer(self._of_columns, self._of_columns)


def _over_root(F: Array, weights: Array) -> Array:
    """Return the rows of F over the roots of their weights, zeros where these are 0."""
    inverse = np.divide(1, np.sqrt(weights), out=np.zeros_like(weights), where=weights > 0)
    return times(F, inverse)


def _look(
    backend: ModuleType, block: WeightedBlock, rows: RowState, dtype: np.dtype, after: RowState, sums: Named
) -> None:
    """Add what a block holds to the sums of the opening."""
    sums["rest"] += backend.opening(block, dtype)[1:]
