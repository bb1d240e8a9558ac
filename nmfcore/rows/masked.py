"""X with missing entries as blocks of rows: the blocks of any other X on the CPU, each with its mask."""

from __future__ import annotations

import copy
import zlib
from abc import abstractmethod
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from .._typing import Array, Block, DType
from ..backends import masked as backend
from ..backends.masked import MaskedBlock
from .base import LOOK_WIDTH, Function, Gather, Rows, add_products
from .disk.stored import SAME
from .masks import Marked, Mask, Scattered, united
from .memory import BLOCK_BYTES, MemoryRows, as_rows
from .state import RowState
from .summary import Summary
from .sums import Named, Shapes
from .wrapped import WrappedRows

if TYPE_CHECKING:
    from ..backends.operations import Backend


# Up to this share of missing entries the products (WH)_ij are made one by one, from lists of columns; beyond, all of
# WH is formed and blended in. Measured, ns per entry of X in a pass of "cd" over 1,024 × 784 in float32, k = 15, one
# thread:
# 0.9 with nothing missing, 1.4 at 5 % with lists; at 20 % 2.3 with lists and 2.3 blended; at 50 % 3.7 and 2.3. Filling
# in is enough where much is missing, too: of MNIST[:3000] with k = 15, "hals" came within 1e-3 of its final error after
# 60 passes with 20 % missing, 150 to 200 with 50 %, and 200 with 80 %.
LISTED = 0.2
KEPT_BYTES = 256 << 20  # of lists that are kept between passes


class Observed(Rows):
    """An X with missing entries: what one pass over its blocks, which carry their masks, finds of what is observed.

    Attributes
    ----------
    observed : int
        Number of observed entries.
    empty_rows : int
        Number of rows of which nothing is observed.
    empty_columns : ndarray of bool, shape (m,)
        The columns of which nothing is observed.
    """

    observed = 0

    @property
    def entries(self) -> int:
        """Number of observed entries of X."""
        self.summary()
        return self.observed

    def summary(self) -> Summary:
        """Return minimum, finiteness, Σx and Σx² of what is observed, found by one pass (cached)."""
        if self._summary is None:
            n, m = self.shape
            shapes: Shapes = {"least": (1,), "seen": (6,), "columns": (m, 2)}
            _, sums = self.each_block(_look, {}, self.dtype, width=LOOK_WIDTH, sums=shapes, out={})
            nan, infinite, total, squares, observed, empty = sums["seen"].tolist()
            self._not_finite = nan > 0, infinite > 0
            self.observed, self.empty_rows = int(observed), int(empty)
            counts = sums["columns"][:, 1]
            self.empty_columns = counts == 0
            self._knows(sums["columns"][:, 0] / np.maximum(counts, 1), n * m - self.observed)
            least, mean = float(sums["least"][0]), total / observed if observed else 0.0
            self._summary = Summary(least, not (nan or infinite), total, squares, mean)
        return self._summary

    @abstractmethod
    def _knows(self, means: Array, missing: int) -> None:
        """Take note of the means of the columns, which products with X are made with, and of how much is missing."""

    def not_finite(self) -> tuple[bool, bool]:
        """Return whether NaN, and whether an infinite number, is observed."""
        self.summary()
        return self._not_finite

    def transposed_products(self, F: Array) -> Array:
        """Return Xᵀ·F of shape (m, k), float64, with the means of the columns for what is missing."""
        m, k = self.shape[1], F.shape[1]
        _, sums = self.each_block(add_products, {"F": F}, None, width=k, sums={"XtF": (m, k)}, out={})
        return sums["XtF"]


class MaskedRows(Observed, WrappedRows):
    """X with missing entries as blocks of rows.

    Parameters
    ----------
    inner : MemoryRows
        X as it would be without a mask.
    mask : Mask or None
        None stands for a CSR matrix of which the stored numbers are observed, and no others.
    """

    by_rows_only = "entries of X are missing"

    def __init__(self, inner: MemoryRows, mask: Mask | None):
        super().__init__(inner, backend)
        self.mask = mask
        self.masked = "stored" if mask is None else "filled"
        self.means: Array | None = None
        self.lists: dict[tuple[int, int], tuple[Array, Array, Array]] | None = None
        self._keeps_lists = False
        if mask is None:
            inner.gathers = True

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
        """Apply a function to every block of rows with its mask, see `Rows.each_block`."""
        mask, means, lists = self.mask, self.means, self.lists
        fresh = lists is not None and not self._keeps_lists
        verify = verify and not self.in_memory
        extra: Shapes = {"seen": (2,)} if verify else {}

        def on_block(
            cpu: Backend, block: Block, rows: RowState, arguments: object, after: RowState, sums: Named
        ) -> None:  # the rows are those of this block, and know the number of the first
            given = MaskedBlock(block, mask, rows.first, means, {} if fresh else lists)
            if verify:
                sums["seen"] += backend.look(given, self.dtype, np.zeros((self.shape[1], 2)))[3:5]
            function(backend, given, rows, arguments, after, sums)  # type: ignore[arg-type]

        def on_columns(
            cpu: Backend, block: Block, after: RowState, arguments: object, lo: int, hi: int, sums: Named
        ) -> None:
            assert gather is not None
            gather(backend, MaskedBlock(block, None, lo), after, arguments, lo, hi, sums)  # type: ignore[arg-type]

        after, total = self.inner.each_block(
            on_block, rows, arguments, width=width, sums=sums | extra, out=out,
            gather=on_columns if gather is not None and mask is None else None, gathered=gathered,
        )  # fmt: skip
        if verify:
            self._verify(total["seen"])
        return after, total

    def _verify(self, seen: Array) -> None:
        """Raise if what is observed of an X outside of memory has changed since the opening pass."""
        summary = self.summary()
        for then, now in zip((summary.total, summary.squares), seen.tolist(), strict=True):
            if now != then and not abs(now - then) <= SAME * then:
                raise RuntimeError(
                    f"The contents of {self.X.what}, or of the mask, changed during the fit: what is read now is not "
                    "what was read at the beginning. Fit again, and leave them alone meanwhile."
                )

    # ---- what one pass finds

    def _knows(self, means: Array, missing: int) -> None:
        self.means = means
        if missing <= LISTED * self.shape[0] * self.shape[1]:
            self.lists, self._keeps_lists = {}, self.in_memory and 4 * missing <= KEPT_BYTES

    def digest(self) -> str:
        """Return a digest of the mask and of the observed numbers at their places."""
        found: dict[int, int] = {}
        _, _ = self.each_block(_digest, {}, found, width=LOOK_WIDTH, sums={"none": (1,)}, out={})
        return f"{zlib.crc32(repr(sorted(found.items())).encode()):08x}"

    # ---- X in other forms

    def scaled(self, power: int, dtype: DType = None) -> Rows:
        """Return the same X read as 4^power·X, see `Rows.scaled`."""
        if power == self.power and dtype is None:
            return self
        view = MaskedRows(self.inner.scaled(power, dtype), self.mask)
        view.chosen = self.chosen
        view.summary()  # the means are in the unit of the view
        return view

    def within(self, means: Array | None, listed: bool, power: int) -> MaskedRows:
        """Return the same X read as 4^power·X, as some rows of a larger X of which more is known.

        Parameters
        ----------
        means : ndarray of shape (m,), float64, or None
            What is filled in for products with X, in the unit of 4^power·X; None where that is not known yet.
        listed : bool
            Whether few entries are missing, see `LISTED`.
        power : int

        Returns
        -------
        rows : MaskedRows
        """
        view = MaskedRows(self.inner.scaled(power), self.mask)
        view.means = means
        if listed:
            n, m = self.shape
            view.lists, view._keeps_lists = {}, 4 * LISTED * n * m <= KEPT_BYTES
        return view

    def beside(self, n_jobs: int | None) -> MaskedRows:
        """Return the same X for a fit that runs beside others.

        What the opening pass has found is shared. The memory of passes is not, nor are the lists of what is hidden:
        another number of components cuts X, and so the lists, in another way, and all of them might outweigh X.

        Parameters
        ----------
        n_jobs : int or None
            Threads of the fit.

        Returns
        -------
        rows : MaskedRows
        """
        self.summary()
        new = copy.copy(self)
        new.inner = self.inner.beside(n_jobs)
        new.n_jobs, new._view, new.lists = n_jobs, None, None if self.lists is None else {}
        return new

    def take(self, rows: Array, n_jobs: int | None) -> Rows:
        """Return a copy of some rows (increasing numbers), in memory."""
        inner = self.inner.take(rows, n_jobs)
        return MaskedRows(inner, None if self.mask is None else self.mask.take(rows))

    @property
    def T(self) -> Rows:
        """Xᵀ as rows, with the mask of Xᵀ."""
        return MaskedRows(self.inner.T, None if self.mask is None else self.mask.T)


def masked_rows(rows: MemoryRows, mask: Mask | None, missing_values: float | None) -> MemoryRows | MaskedRows:
    """Return rows of which some entries are missing; the rows themselves if nothing tells of any.

    Parameters
    ----------
    rows : MemoryRows
        X as it would be with all of its entries.
    mask : Mask or None
        Which entries are left out.
    missing_values : NaN, 0 or None
        The number of X that stands for a missing entry.

    Returns
    -------
    rows : MemoryRows or MaskedRows
    """
    if missing_values == 0 and rows.sparse:
        return MaskedRows(_stored_only(rows, mask), None)
    if missing_values == 0 or (missing_values is not None and np.dtype(rows.X.dtype).kind == "f"):
        if rows.sparse:
            X = rows.X
            nan = sparse.csr_matrix((np.isnan(X.data), X.indices, X.indptr), shape=X.shape)
            mask = united(mask, Scattered(nan))
        else:
            mask = united(mask, Marked(float(missing_values)))
    return rows if mask is None else MaskedRows(rows, mask)


def _stored_only(rows: MemoryRows, mask: Mask | None) -> MemoryRows:
    """Return rows of a CSR matrix without stored zeros, and without the stored numbers that a mask hides."""
    X = rows.X
    hidden = X.data == 0
    if mask is not None:
        step = max(1, BLOCK_BYTES // max(1, X.shape[1]))
        for lo in range(0, X.shape[0], step):
            hi = min(lo + step, X.shape[0])
            first, last = X.indptr[lo], X.indptr[hi]
            of_rows = np.repeat(np.arange(hi - lo), np.diff(X.indptr[lo : hi + 1]))
            hides = mask.hidden(lo, hi, lambda lo=lo, hi=hi: X[lo:hi])  # type: ignore[misc]
            hidden[first:last] |= hides[of_rows, X.indices[first:last]]
    if not hidden.any():
        return rows
    X = type(X)((np.where(hidden, 0, X.data), X.indices.copy(), X.indptr.copy()), shape=X.shape)
    X.eliminate_zeros()
    return as_rows(X, rows.dtype, rows.n_jobs, rows.lane_work)


def _look(
    backend: ModuleType, block: MaskedBlock, rows: RowState, dtype: np.dtype, after: RowState, sums: Named
) -> None:
    seen = backend.look(block, dtype, sums["columns"])
    sums["least"][:] = np.minimum(sums["least"], seen[:1])
    sums["seen"] += seen[1:]


def _digest(
    backend: ModuleType, block: MaskedBlock, rows: RowState, found: dict[int, int], after: RowState, sums: Named
) -> None:
    crc = 0
    if block.mask is None:
        X = backend.matrix(block.block)
        for part in (X.indptr.astype(np.int64), X.indices.astype(np.int64), X.data):
            crc = zlib.crc32(np.ascontiguousarray(part), crc)
    else:
        for numbers, mask in backend.hidden(block):
            crc = zlib.crc32(np.packbits(mask), zlib.crc32(numbers, crc))
    found[block.first] = crc
