"""Coordinate descent: min ½‖X − WH‖² + penalties over one coordinate at a time, W then H (HALS).

    w_it ← max(0, w_it − ((WG)_it − (XHᵀ)_it + l1 + l2·w_it) / (G_tt + l2)),    G = HHᵀ

A. Cichocki, A.-H. Phan, "Fast local algorithms for large scale nonnegative matrix and tensor factorizations",
IEICE Trans. Fundamentals E92-A(3), 2009. The iterates, the order of updates and the violation are scikit-learn's.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from .._typing import Array
from ..objective import UNPENALISED, Penalties, kkt_frobenius, trace_loss
from ._common import Foreseen, Gather, Orders, Report, Small, Solver, Sums

if TYPE_CHECKING:
    from .._typing import Block, Numbers
    from ..backends.operations import Backend
    from ..rows.base import Rows
    from ..rows.state import RowState


@functools.cache
def natural_order(k: int) -> Array:
    """Return 0 … k − 1, the same array at each call."""
    return np.arange(k, dtype=np.intp)


def gather_XtW(backend: Backend, block: Block, after: RowState, orders: Orders, lo: int, hi: int, sums: Sums) -> None:
    """Write rows lo … hi of XᵀW, from a block of Xᵀ."""
    backend.products(block, after.arrays["W"], sums["XtW"][lo:hi])


class CoordinateDescent(Solver):
    """One sweep over the rows of W, one over the columns of H, per pass over X.

    Parameters
    ----------
    penalties : Penalties
        Scaled with the shape of X. There are none by default.
    shuffle : numpy.random.RandomState or None
        Draws a new order of the components for every sweep, as scikit-learn's ``shuffle=True``. None keeps their
        natural order.
    """

    beta = 2.0
    rule = "violation"
    gather = Gather(gather_XtW, ("XtW",))

    def __init__(self, penalties: Penalties = UNPENALISED, shuffle: np.random.RandomState | None = None):
        self.penalties = penalties
        self.penalised = any(penalties)
        self.shuffle = shuffle

    def _order(self, k: int) -> Array:
        if self.shuffle is None:
            return natural_order(k)
        return np.asarray(self.shuffle.permutation(k), dtype=np.intp)

    def start(self, data: Rows, Ht: Array) -> Small:
        """Return the small factor with which a fit of `data` starts, and set `sums`."""
        self.sums = {"XtW": Ht.shape, "WtW": (Ht.shape[1],) * 2, "stats": (data.backend.STATS,)}
        free = Ht.shape[1] if self.fixed is None else self.fixed.width
        self.sums_H = ((data.backend.STATS,), (free, free))
        self.squares_X = data.summary().squares
        self.column_weights = data.column_weights
        return Small(Ht, self.gram(data.backend, Ht))

    def fix(self, small: Small) -> Orders:
        """Return the instructions of the next pass."""
        return Orders(small.Ht, small.HHt, self._order(small.Ht.shape[1]))

    def visit(
        self, backend: Backend, block: Block, rows: RowState, orders: Orders, after: RowState, sums: Sums
    ) -> None:
        """Sweep once over the rows of a block, and add their sums."""
        p = self.penalties
        backend.descend(
            block, rows.arrays["W"], orders.Ht, orders.HHt, p.l1_W, p.l2_W, orders.order, 1, 0.0,  # type: ignore[arg-type]
            after.arrays["W"], sums["XtW"], sums["WtW"], sums["stats"],
        )  # fmt: skip

    def foresee(self, small: Small, sums: Sums, data: Rows) -> Foreseen | None:
        """Queue the sweep over the columns of H, which follows every pass."""
        if not data.backend.QUEUES or self.shuffle is not None or self.fixed is not None:
            return None
        new, wanted = self._swept(small, sums, data)
        return Foreseen(new, data.backend.send(*wanted))

    def repeats(self, small: Small) -> bool:
        """Return whether a pass queues operations of the backend only: not under penalties, whose value takes more."""
        return not self.penalised and self.shuffle is None and self.fixed is None

    def settle(self, small: Small, sums: Sums, data: Rows, foreseen: Foreseen) -> tuple[Report, Small]:
        """Report a pass; it always goes as foreseen."""
        foreseen.holds = True
        return self._told(foreseen.numbers(), data.backend), foreseen.following

    def update_columns(self, small: Small, sums: Sums, data: Rows) -> tuple[Report, Small]:
        """Sweep once over the columns of H, and report the pass."""
        new, wanted = self._swept(small, sums, data)
        return self._told(data.backend.read(*wanted), data.backend), new

    def _swept(self, small: Small, sums: Sums, data: Rows) -> tuple[Small, list[Array]]:
        """Sweep once over the columns of H → the new small factor, and the arrays whose numbers a report is made of."""
        WtW = sums["WtW"]
        new, stats_H, HHt = self._sweep_columns(data, small.Ht, sums["XtW"], WtW)
        traces = [np.trace(WtW), np.trace(HHt)] if self.penalised else []
        return Small(new, HHt), [sums["stats"], stats_H, *traces]

    def _told(self, numbers: Numbers, backend: Backend) -> Report:
        of_W, of_H, *squares = numbers
        loss = trace_loss(self.squares_X, of_H[backend.CROSS], of_H[backend.SQUARE])
        if self.penalised:
            loss += self.penalties.value(of_W[backend.TOTAL], of_H[backend.TOTAL], *squares)
        return Report(
            loss=loss,
            violation=of_W[backend.VIOLATION] + of_H[backend.VIOLATION],
            kkt=kkt_frobenius(of_W[backend.KKT] + of_H[backend.KKT], self.squares_X),
        )

    def _sweep_columns(
        self, data: Rows, Ht: Array, XtW: Array, WtW: Array, sweeps: int = 1, settled: float = 0.0, conjugate: int = 0
    ) -> tuple[Array, Array, Array]:
        """Sweep over the columns of H, for given sums; return the new Ht, the numbers of the sweeps, and its Gram."""
        p, backend, fixed = self.penalties, data.backend, self.fixed
        F, C, G = (Ht, XtW, WtW) if fixed is None else fixed.problem(Ht, XtW, WtW)
        m, k = F.shape
        order, new = self._order(k), backend.empty((m, k), Ht.dtype)

        def sweep(lo: int, hi: int, stats: Array, HHt: Array) -> None:
            old, of_C, out = (F, C, new) if hi - lo == m else (F[lo:hi], C[lo:hi], new[lo:hi])
            step = (old, G, of_C, p.l1_H, p.l2_H, order, out, HHt, stats, sweeps, settled, conjugate)
            if self.column_weights is None:
                backend.sweep(*step)
            else:
                backend.sweep(*step, **self.weights_of(lo, hi))

        if k:
            stats, HHt = data.map_rows(sweep, m, 2.0 * sweeps * m * k * k, self.sums_H)
        else:
            stats = backend.xp.zeros(backend.STATS)
        if fixed is not None:
            new = fixed.filled(Ht, new)
            HHt = fixed.complete(new, XtW, WtW, stats, self, backend)
        return new, stats, HHt

    def code(
        self, backend: Backend, block: Block, orders: Orders, tol: float, max_iter: int, by_step: bool,
        out: Array, stats: Array,
    ) -> None:  # fmt: skip
        """Solve for each row from zero, until its violation is at most tol × that of its first sweep."""
        p, k = self.penalties, orders.width
        no_sums = backend.xp.zeros((0, k))
        backend.descend(
            block, backend.xp.zeros_like(out), orders.Ht, orders.HHt, p.l1_W, p.l2_W, orders.order, max_iter, tol,  # type: ignore[arg-type]
            out, no_sums, no_sums, stats,
        )  # fmt: skip
