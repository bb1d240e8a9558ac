"""Coordinate descent for the Kullback-Leibler divergence, both factors extrapolated: "hals" with β = 1.

Rows of W given H, and columns of H given W, are solved for alone, by sweeps of one-dimensional steps that never raise
the loss (`nmfcore.backends.kernels.newton`; C.-J. Hsieh, I. Dhillon, "Fast coordinate descent methods with variable
selection for non-negative matrix factorization", KDD 2011). The ratios X / WH, of which gradients and second
derivatives are made, change with every coordinate, so that no sums over the rows of X serve a column of H: X is read by
rows for W and by columns for H, once each in a pass. A pass, from the accepted W with its predecessor V and the
extrapolated Ĥ:

    W⁺ = sweeps(max(0, W + β(W − V)); Ĥ),    H⁺ = sweeps(Ĥ; W⁺)

This extrapolation is that of A. M. S. Ang and N. Gillis ("Accelerating nonnegative matrix factorization algorithms
using extrapolation", Neural Computation 31(2), 2019), who apply it to the squared error; P. Carbonetto et al. (arXiv
2105.13440) accelerate the descent of this module. The loss of (W⁺, H⁺) is known as soon as H⁺ is. A pass that has
raised it is dropped, and the next one begins without momentum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .._typing import Array
from ..objective import UNPENALISED, Penalties, pull_of_zeros
from ._common import Gather, Orders, Report, Small, Solver, Sums
from .accelerated_hals import NOISE, Momentum
from .coordinate_descent import natural_order

if TYPE_CHECKING:
    from .._typing import Block
    from ..backends.operations import Backend
    from ..rows.base import Rows
    from ..rows.state import RowState

SWEEPS = 1  # over either factor in a pass
EPS = float(np.finfo(np.float64).eps)


@dataclass(slots=True, kw_only=True)
class Extrapolated(Small):
    """The accepted Ht (that of `Small`), and what the next pass begins with."""

    next_Ht: Array  # Ĥ
    momentum: Momentum
    loss: float = np.inf  # of the accepted pair
    begin: float = 0.0  # how far ahead of W the next pass begins
    rejected: int = 0  # number of passes rejected in a row


@dataclass(slots=True, kw_only=True)
class BothOrders(Orders):
    """Orders of a pass that solves for the columns of H, too."""

    totals: Array  # column sums of Ht, float64
    begin: float
    order_H: Array
    penalties: Penalties


def _gather_columns(
    backend: Backend, block: Block, after: RowState, orders: BothOrders, lo: int, hi: int, sums: Sums
) -> None:
    """Solve for rows lo … hi of Ht from a block of Xᵀ, with the new W."""
    W, p, k, S = after.arrays["W"], orders.penalties, orders.width, backend.STATS
    stats, losses, new = np.zeros(S + 2 * k), np.zeros(hi - lo), np.empty((hi - lo, k), W.dtype)
    Ht = orders.Ht[lo:hi]
    backend.descend_kl(  # type: ignore[attr-defined]
        block, Ht, (Ht, 0.0), W, sums["totals"], p.l1_H, p.l2_H, orders.order_H, SWEEPS, 0.0, new, stats, losses
    )
    sums["Ht"][lo:hi] = new
    sums["of_columns"][lo, :-1] = stats
    sums["of_columns"][lo:hi, -1] = losses


class KullbackLeiblerDescent(Solver):
    """A sweep over the rows of W, one over the columns of H, and their extrapolation, per pass over X; β = 1.

    It takes rows that are read by columns, too, see `nmfcore.rows.base.Rows.by_columns`.

    Parameters
    ----------
    penalties : Penalties
        Scaled with the shape of X. There are none by default.
    shuffle : numpy.random.RandomState or None
        Draws a new order of the components for every sweep. None keeps their natural order.
    """

    beta = 1.0
    rule = "fall"
    by_columns = True
    gather = Gather(_gather_columns, ("Ht", "of_columns"))

    def __init__(self, penalties: Penalties = UNPENALISED, shuffle: np.random.RandomState | None = None):
        self.penalties = penalties
        self.penalised = any(penalties)
        self.shuffle = shuffle

    def rows(self, W: Array) -> dict[str, Array]:
        """Return W and the W of the pass before, which the first pass does not read."""
        return {"W": W, "before": np.empty_like(W)}

    def start(self, data: Rows, Ht: Array) -> Extrapolated:
        """Return the small factor with which a fit of `data` starts, and set `sums`."""
        (m, k), S = Ht.shape, data.backend.STATS
        self.sums = {"Ht": (m, k), "of_columns": (m, S + 2 * k + 1), "stats": (S + 2 * k,), "totals": (k,)}
        self.total_X, self.squares_X = data.summary().total, data.summary().squares
        self.eps = float(np.finfo(data.dtype).eps)
        return Extrapolated(Ht=Ht, HHt=np.zeros((0, 0)), next_Ht=Ht, momentum=Momentum())

    def _order(self, components: Array) -> Array:
        """Return the order in which a sweep goes through components."""
        if self.shuffle is None:
            return components
        return np.asarray(self.shuffle.permutation(components), dtype=np.intp)

    def fix(self, small: Small) -> BothOrders:
        """Return the instructions of the next pass."""
        assert isinstance(small, Extrapolated)
        every = natural_order(small.Ht.shape[1])
        free = every if self.fixed is None else self.fixed.free
        return BothOrders(
            small.next_Ht, small.HHt, self._order(every), totals=small.next_Ht.sum(axis=0, dtype=np.float64),
            begin=small.begin, order_H=self._order(free), penalties=self.penalties,
        )  # fmt: skip

    def visit(
        self, backend: Backend, block: Block, rows: RowState, orders: Orders, after: RowState, sums: Sums
    ) -> None:
        """Solve for the rows of a block."""
        assert isinstance(orders, BothOrders)
        p, W = self.penalties, after.arrays["W"]
        backend.descend_kl(  # type: ignore[attr-defined]
            block, rows.arrays["W"], (rows.arrays["before"], orders.begin), orders.Ht, orders.totals, p.l1_W, p.l2_W,
            orders.order, SWEEPS, 0.0, W, sums["stats"], np.zeros(0),  # type: ignore[arg-type]
        )  # fmt: skip
        sums["totals"] += backend.column_sums(W)

    def update_columns(self, small: Small, sums: Sums, data: Rows) -> tuple[Report, Small]:
        """Take up the columns that the pass has solved for, and report it; one that raised the loss is rejected."""
        assert isinstance(small, Extrapolated)
        assert data.gathers  # else no column was solved for
        backend, new_Ht = data.backend, sums["Ht"].astype(small.Ht.dtype)
        of_W, of_H, loss = sums["stats"], sums["of_columns"][:, :-1].sum(axis=0), float(sums["of_columns"][:, -1].sum())
        # The rounding of WH where X is above zero, that of its sums where X is zero, and that of all sums.
        rounding = self.eps * (math.sqrt(2 * max(loss, 0.0) * self.total_X) + math.sqrt(self.squares_X))
        slack = NOISE * (rounding + EPS * self.total_X)
        if self.penalised:
            squares = float(of_W[backend.SQUARE]), float(backend.inner(new_Ht, new_Ht))
            loss += self.penalties.value(float(of_W[backend.TOTAL]), float(new_Ht.sum(dtype=np.float64)), *squares)
        violation, kkt = float(of_W[backend.VIOLATION] + of_H[backend.VIOLATION]), self._kkt(data, of_W, of_H)
        report = Report(loss=loss, violation=violation, kkt=kkt)
        if small.passes and loss > small.loss + slack:
            report.accepted = False
            rejected = small.rejected + 1
            report.exhausted = rejected > 2  # twice without momentum: what is left is rounding
            return report, replace(
                small, momentum=small.momentum.shrunk(), begin=0.0, next_Ht=small.Ht, rejected=rejected,
                passes=small.passes + 1,
            )  # fmt: skip
        new = replace(small, Ht=new_Ht, next_Ht=new_Ht, loss=loss, rejected=0, passes=small.passes + 1)
        if small.passes:
            weight = new_Ht.dtype.type(small.momentum.weight)
            new.begin, new.momentum = small.momentum.weight, small.momentum.grown()
            new.next_Ht = np.maximum(new_Ht + weight * (new_Ht - small.Ht), 0)
        return report, new

    @staticmethod
    def _kkt(data: Rows, of_W: Array, of_H: Array) -> float:
        """Return the KKT residual of `nmfcore.solvers.multiplicative`, of the gradients that the sweeps met."""
        backend, S = data.backend, data.backend.STATS
        k = (len(of_W) - S) // 2
        residual, scale = of_W[backend.CROSS] + of_H[backend.CROSS], of_W[backend.KKT] + of_H[backend.KKT]
        for half, rows in zip((of_W, of_H), data.counts, strict=True):
            residual += pull_of_zeros(half[S : S + k], half[S + k :], rows)
        return float(residual / scale) if scale else 0.0

    def code(
        self, backend: Backend, block: Block, orders: Orders, tol: float, max_iter: int, by_step: bool,
        out: Array, stats: Array,
    ) -> None:  # fmt: skip
        """Solve for each row from equal numbers, until its violation is at most tol × that of its first sweep."""
        assert isinstance(orders, BothOrders)
        p, none = self.penalties, out[:0]
        backend.descend_kl(  # type: ignore[attr-defined]
            block, none, (none, 0.0), orders.Ht, orders.totals, p.l1_W, p.l2_W, orders.order, max_iter, tol, out,  # type: ignore[arg-type]
            stats, np.zeros(0),
        )  # fmt: skip
