"""Multiplicative updates for every β-divergence.

    F ← F ⊙ [ ((X ⊙ WH^(β−2))·Hᵀ) / (WH^(β−1)·Hᵀ + l1 + l2·F) ]^γ,    WH as it is before the update

γ = 1/(2 − β) for β < 1, 1/(β − 1) for β > 2, else 1: monotone.
C. Févotte, J. Idier, "Algorithms for nonnegative matrix factorization with the β-divergence", Neural Computation
23(9), 2011. Floors under WH and under denominators are scikit-learn's.

`ExtrapolatedUpdate` takes the same step from a point ahead of the pair,

    F + θ·max(0, F − F before),    θ = (ν − 1)/ν',  ν' = ½(1 + √(1 + 4ν²))

L. T. K. Hien, V. Leplat, N. Gillis, "Block majorization minimization with extrapolation and application to β-NMF",
2024 (arXiv 2401.06646).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import TYPE_CHECKING

import numpy as np

from .._typing import Array
from ..objective import UNPENALISED, Penalties, divergence, inner, kkt_frobenius, pull_of_zeros, trace_loss
from ._common import Foreseen, Gather, Incoming, Orders, Report, Small, Solver, Sums
from ._fixed import Fixed
from .coordinate_descent import gather_XtW

if TYPE_CHECKING:
    from .._typing import Block, Numbers
    from ..backends.operations import Backend, Number
    from ..rows.base import Rows
    from ..rows.state import RowState

TINY = float(np.finfo(np.float64).eps)
# The loss of a mini-batch is a difference of sums. Below this share of ‖X‖² (by the bytes of the compute type) it is
# measured directly instead: above it, the difference keeps five digits in float32 and seven in float64.
CANCELS = {4: 1e-2, 8: 1e-8}


def gather_numerators(
    backend: Backend, block: Block, after: RowState, orders: Orders, lo: int, hi: int, sums: Sums
) -> None:
    """Write rows lo … hi of the numerators of β = 1 from a block of Xᵀ, and add the denominators once."""
    W = after.arrays["W"]
    part = backend.xp.empty((hi - lo, orders.width), W.dtype)
    backend.kl_numerators(block, orders.Ht[lo:hi], W, part)
    sums["N"][lo:hi] = part
    if lo == 0:
        sums["D"][0] += backend.column_sums(backend.weighted(block, W, by_column=True))


# By β; the denominators of other β need every number of WH.
GATHERS = {2.0: Gather(gather_XtW, ("XtW",)), 1.0: Gather(gather_numerators, ("N",))}


class MultiplicativeUpdate(Solver):
    """One update of W and one of H per pass over X.

    Parameters
    ----------
    penalties : Penalties
        Scaled with the shape of X. There are none by default.
    beta : float
        β of the loss, any real number. Defaults to 2, the squared Frobenius norm.
    """

    rule = "error every 10"

    def __init__(self, penalties: Penalties = UNPENALISED, beta: float = 2.0):
        self.penalties = penalties
        self.penalised = any(penalties)
        self.beta = float(beta)
        self.gamma = 1 / (2 - beta) if beta < 1 else 1 / (beta - 1) if beta > 2 else 1.0
        self.floor_W = beta < 1
        self.floor_H = beta <= 1
        self.gather = GATHERS.get(self.beta, Gather(None, ("N",)))
        self.measures_start = self.beta == 2  # for other β the first pass measures the start

    @property
    def _floor(self) -> float:
        return TINY if self.floor_W else 0.0

    def start(self, data: Rows, Ht: Array) -> Small:
        """Return the small factor with which a fit of `data` starts, and set `sums`."""
        m, k = Ht.shape
        stats = (data.backend.STATS + 2 * k,)
        if self.beta == 2:
            self.sums = {"XtW": (m, k), "WtW": (k, k), "stats": stats}
        else:
            denominator = (1, k) if self.beta == 1 else (m, k)
            self.sums = {"N": (m, k), "D": denominator, "stats": stats, "loss": (2,)}
        self.squares_X = data.summary().squares
        self.column_weights = data.column_weights
        return Small(Ht, self._gram(data, Ht))

    def _gram(self, data: Rows, Ht: Array) -> Array:
        return self.gram(data.backend, Ht) if self.beta == 2 else np.zeros((0, 0))

    def fix(self, small: Small) -> Orders:
        """Return the instructions of the next pass."""
        # The loss of the pair after 10, 20, … passes is measured by the pass that follows, from the WH it forms anyway.
        return Orders(small.Ht, small.HHt, measure=self.beta != 2 and small.passes % 10 == 0)

    def visit(
        self, backend: Backend, block: Block, rows: RowState, orders: Orders, after: RowState, sums: Sums
    ) -> None:
        """Update the rows of a block, and add their sums."""
        self._update(backend, block, rows.arrays["W"], orders, after.arrays["W"], sums)

    def _update(self, backend: Backend, block: Block, W: Array, orders: Orders, out: Array, sums: Sums) -> None:
        p = self.penalties
        if self.beta == 2:
            backend.multiply(
                block, W, orders.Ht, orders.HHt, p.l1_W, p.l2_W, out, sums["XtW"], sums["WtW"], sums["stats"]
            )
            return
        loss = backend.multiply_beta(
            block, W, orders.Ht, self.beta, self.gamma, p.l1_W, p.l2_W, self._floor, True, orders.measure,
            out, sums["N"], sums["D"], sums["stats"],
        )  # fmt: skip
        if orders.measure:
            self._add_loss(backend, block, sums, loss, W)

    def _add_loss(self, backend: Backend, block: Block, sums: Sums, loss: Number, W: Array) -> None:
        p = self.penalties
        sums["loss"][0] += loss
        if self.penalised:
            counted = backend.weighted(block, W)
            sums["loss"][1] += p.l1_W * counted.sum(dtype=np.float64) + 0.5 * p.l2_W * backend.inner(counted, W)

    def foresee(self, small: Small, sums: Sums, data: Rows) -> Foreseen | None:
        """Queue the update of the columns of H, which follows every pass."""
        if not data.backend.QUEUES or self.fixed is not None:
            return None
        new, wanted = self._updated(small, sums, data)
        return Foreseen(new, data.backend.send(*wanted))

    def repeats(self, small: Small) -> bool:
        """Return whether a pass queues operations of the backend only; for other β some measure the loss."""
        return self.beta == 2 and not self.penalised and self.fixed is None

    def settle(self, small: Small, sums: Sums, data: Rows, foreseen: Foreseen) -> tuple[Report, Small]:
        """Report a pass; it always goes as foreseen."""
        foreseen.holds = True
        return self._told(foreseen.numbers(), small, data), foreseen.following

    def update_columns(self, small: Small, sums: Sums, data: Rows) -> tuple[Report, Small]:
        """Update the columns of H, and report the pass."""
        new, wanted = self._updated(small, sums, data)
        return self._told(data.backend.read(*wanted), small, data), new

    def _updated(self, small: Small, sums: Sums, data: Rows) -> tuple[Small, list[Array]]:
        """Update the columns of H → the new small factor, and the arrays whose numbers a report is made of."""
        return (self._update_frobenius if self.beta == 2 else self._update_beta)(small, sums, data)

    def _told(self, numbers: Numbers, small: Small, data: Rows) -> Report:
        return (self._told_frobenius if self.beta == 2 else self._told_beta)(numbers, small, data)

    def _update_frobenius(self, small: Small, sums: Sums, data: Rows) -> tuple[Small, list[Array]]:
        p, backend, Ht = self.penalties, data.backend, small.Ht
        XtW, WtW, stats_W = sums["XtW"], sums["WtW"], sums["stats"]
        (m, k), new = Ht.shape, backend.empty(Ht.shape, Ht.dtype)

        def scale(lo: int, hi: int, stats: Array, HHt: Array) -> None:
            old, of_X, out = (Ht, XtW, new) if hi - lo == m else (Ht[lo:hi], XtW[lo:hi], new[lo:hi])
            backend.scale(old, WtW, of_X, p.l1_H, p.l2_H, out, HHt, stats, **self.weights_of(lo, hi))

        if self.fixed is None:
            stats_H, HHt = data.map_rows(scale, m, 2.0 * m * k * k, (stats_W.shape, (k, k)))
        else:
            new, stats_H, HHt = self._scale_free(data, self.fixed, Ht, XtW, WtW)
        traces = [np.trace(WtW), np.trace(HHt)] if self.penalised else []
        return Small(new, HHt, small.passes + 1), [stats_W, stats_H, *traces]

    def _told_frobenius(self, numbers: Numbers, small: Small, data: Rows) -> Report:
        backend, (of_W, of_H, *squares) = data.backend, numbers
        loss = fit = trace_loss(self.squares_X, of_H[backend.CROSS], of_H[backend.SQUARE])
        if self.penalised:
            loss += self.penalties.value(of_W[backend.TOTAL], of_H[backend.TOTAL], *squares)
        kkt = kkt_frobenius(of_W[backend.KKT] + of_H[backend.KKT], self.squares_X)
        return Report(loss=loss, kkt=kkt, error=float(np.sqrt(2 * fit)))

    def _scale_free(self, data: Rows, fixed: Fixed, Ht: Array, XtW: Array, WtW: Array) -> tuple[Array, Array, Array]:
        """Update the free columns of H for β = 2; return the new Ht, the numbers of the step, and its Gram."""
        p, backend, free = self.penalties, data.backend, fixed.free
        (A, N), D = fixed.columns(Ht, XtW), fixed.denominators(Ht, WtW)
        new, stats = self._multiply_columns(data, A, N, D, 1.0, 0.0)
        hess = np.diagonal(WtW)[free] + p.l2_H
        gradient = D + (p.l1_H - N)
        gradient += p.l2_H * A
        step = np.maximum(A - gradient / np.where(hess > 0, hess, 1.0), 0.0) - A
        stats[backend.KKT] = (hess * np.einsum("jt,jt->t", self.weighted(step), step)).sum()
        new = fixed.filled(Ht, new)
        counted = self.weighted(new)
        stats[backend.CROSS] = backend.inner(XtW, counted)
        stats[backend.TOTAL] = counted.sum(dtype=np.float64)
        HHt = self.gram(backend, new)
        stats[backend.SQUARE] = backend.inner(WtW, HHt)
        return new, stats, HHt

    def _multiply_columns(
        self, data: Rows, Ht: Array, N: Array, D: Array, gamma: float, floor: float
    ) -> tuple[Array, Array]:
        """Update columns of H, for given numerators and denominators; return them and the numbers of the step."""
        p, backend, (m, k) = self.penalties, data.backend, Ht.shape
        new = backend.xp.empty(Ht.shape, Ht.dtype)

        def multiply(lo: int, hi: int, part: Array) -> None:
            terms = D if len(D) == 1 < m else D[lo:hi]
            factors = Ht[lo:hi], N[lo:hi], terms, p.l1_H, p.l2_H
            backend.multiply_given(*factors, gamma, floor, new[lo:hi], part, **self.weights_of(lo, hi))

        if not k:
            return new, backend.xp.zeros(backend.STATS)
        (stats,) = data.map_rows(multiply, m, 40.0 * m * k, ((backend.STATS + 2 * k,),))
        return new, stats

    def denominator(self, D: Array) -> Array:
        """Return the denominator of the update of Ht: for β = 1 the column sums D of W, 1 where such a sum is zero."""
        return np.where(D, D, 1.0) if self.beta == 1 else D

    def _update_beta(self, small: Small, sums: Sums, data: Rows) -> tuple[Small, list[Array]]:
        Ht, stats, fixed = small.Ht, sums["stats"], self.fixed
        factors = Ht, sums["N"], self.denominator(sums["D"])
        F, N, D = factors if fixed is None else fixed.columns(*factors)
        new, stats_H = self._multiply_columns(data, F, N, D, self.gamma, TINY if self.floor_H else 0.0)
        if fixed is not None:
            new = fixed.filled(Ht, new)
        measured = (sums["loss"],) if small.passes % 10 == 0 else ()
        return Small(new, small.HHt, small.passes + 1), [stats, stats_H, *measured]

    def _told_beta(self, numbers: Numbers, small: Small, data: Rows) -> Report:
        backend, k, S = data.backend, small.Ht.shape[1], data.backend.STATS
        of_W, of_H, *losses = numbers
        free = k if self.fixed is None else self.fixed.width
        pulls = sum(
            pull_of_zeros(of[S : S + of_k], of[S + of_k : S + 2 * of_k], rows)
            for of, of_k, rows in zip((of_W, of_H), (k, free), data.counts, strict=True)
        )
        residual = of_W[backend.VIOLATION] + of_H[backend.VIOLATION] + pulls
        scale = of_W[backend.KKT] + of_H[backend.KKT]
        report = Report(kkt=float(residual / scale) if scale else 0.0)
        if losses:
            report.incoming = self._incoming(backend, losses[0], small.Ht)
        return report

    def _incoming(self, backend: Backend, loss: Sequence[float], Ht: Array) -> Incoming:
        p, (fit, penalty_W), penalty_H = self.penalties, loss, 0.0
        if self.penalised:
            counted = self.weighted(Ht)
            total, squares = backend.read(counted.sum(dtype=np.float64), backend.inner(counted, Ht))
            penalty_H = p.l1_H * total + 0.5 * p.l2_H * squares
        return Incoming(float(fit + penalty_W + penalty_H), float(np.sqrt(2 * max(fit, 0.0))))

    def code(
        self, backend: Backend, block: Block, orders: Orders, tol: float, max_iter: int, by_step: bool,
        out: Array, stats: Array,
    ) -> None:  # fmt: skip
        """Solve for each row from √(its mean / k), until its error √(2 D_β) falls by less than tol in 10 updates."""
        p = self.penalties
        backend.code(
            block, orders.Ht, self.beta, self.gamma, p.l1_W, p.l2_W, self._floor, tol, max_iter, by_step, out, stats
        )

    # ---- the halves of an update, for mini-batches ---------------------------------------------------------------

    def update_rows(self, data: Rows, W: Array, Ht: Array) -> Array:
        """Update W once. Unlike in a pass of a fit, small values are not made zero for β < 1.

        Parameters
        ----------
        data : Rows
            X of shape (n, m).
        W : ndarray of shape (n, k)
            The rows to update. Never written.
        Ht : ndarray of shape (m, k)
            Hᵀ.

        Returns
        -------
        W : ndarray of shape (n, k)
            The new rows.
        """
        Ht, k = data.backend.asarray(Ht), W.shape[1]
        stats: dict[str, tuple[int, ...]] = {"stats": (data.backend.STATS + 2 * k,)}
        arguments = (self, Ht, self._gram(data, Ht))
        after, _ = data.each_block(_update_rows, {"W": W}, arguments, width=k, sums=stats, out={"W": k})
        return after["W"]

    def learn(self, data: Rows, W: Array, Ht: Array) -> tuple[Array, float, Array, Array]:
        """Update W once, and return what the update of Ht is made of. For β = 2 this takes a single pass over X.

        Parameters
        ----------
        data : Rows
            X of shape (n, m).
        W : ndarray of shape (n, k)
            The rows to update. Never written.
        Ht : ndarray of shape (m, k)
            Hᵀ.

        Returns
        -------
        W : ndarray of shape (n, k)
            The new rows. For β < 1 entries below 2.2e-16 are zero.
        loss : float
            D_β of the new W and the given Ht.
        numerator, denominator : ndarray
            The terms of the update of Ht that `column_terms` returns for the new W.
        """
        if self.beta == 2:
            Ht = data.backend.asarray(Ht)
            small = self.start(data, Ht)
            rows = data.state(W=data.backend.asarray(W))
            after, sums = data.reduce(self.visit, rows, self.fix(small), self.sums, *self.gather)
            W, XtW, WtW = after["W"], sums["XtW"].copy(), sums["WtW"]
            loss = trace_loss(self.squares_X, inner(XtW, Ht), inner(WtW, small.HHt))
            if loss < CANCELS[data.dtype.itemsize] * self.squares_X:
                loss = divergence(data, W, Ht, 2)
            return W, loss, XtW, self._denominator(data, Ht, WtW)
        W = self.update_rows(data, W, Ht)
        if self.floor_W:
            W[W < TINY] = 0
        return W, divergence(data, W, Ht, self.beta), *self.column_terms(data, W, Ht)

    def _denominator(self, data: Rows, Ht: Array, WtW: Array) -> Array:
        """Return H·WᵀW. A product by BLAS would wake its threads, which slow down the passes that follow."""
        return data.rows_like(Ht).products(WtW.astype(data.dtype)).astype(np.float64)

    def column_terms(self, data: Rows, W: Array, Ht: Array) -> tuple[Array, Array]:
        """Return numerator and denominator of the update of Ht, in float64 and without penalties.

        Parameters
        ----------
        data : Rows
            X of shape (n, m).
        W : ndarray of shape (n, k)
            The rows of W that belong to X.
        Ht : ndarray of shape (m, k)
            Hᵀ.

        Returns
        -------
        numerator : ndarray of shape (m, k)
            (X ⊙ WH^(β−2))ᵀ·W.
        denominator : ndarray of shape (m, k), or (1, k) for β = 1
            (WH^(β−1))ᵀ·W; for β = 1 its rows are all the same.
        """
        backend, (m, k) = data.backend, Ht.shape
        W, Ht = backend.asarray(W), backend.asarray(Ht)
        if self.beta == 2:
            return data.transposed_products(W), self._denominator(data, Ht, backend.gram(W))
        shapes = {"N": (m, k), "D": (1 if self.beta == 1 else m, k), "stats": (backend.STATS + 2 * k,)}
        _, sums = data.each_block(_add_column_terms, {"W": W}, (self, Ht), width=k, sums=shapes, out={})
        return sums["N"], self.denominator(sums["D"])


def _update_rows(
    backend: Backend, block: Block, rows: RowState, arguments: tuple[MultiplicativeUpdate, Array, Array],
    after: RowState, sums: Sums,
) -> None:  # fmt: skip
    """Update the rows of W of a block once."""
    solver, Ht, HHt = arguments
    p, W, out, stats, no_sums = solver.penalties, rows["W"], after["W"], sums["stats"], np.zeros((0, Ht.shape[1]))
    if solver.beta == 2:
        backend.multiply(block, W, Ht, HHt, p.l1_W, p.l2_W, out, no_sums, no_sums, stats)
    else:
        backend.multiply_beta(
            block, W, Ht, solver.beta, solver.gamma, p.l1_W, p.l2_W, 0.0, True, False, out, no_sums, no_sums, stats
        )


def _add_column_terms(
    backend: Backend, block: Block, rows: RowState, arguments: tuple[MultiplicativeUpdate, Array],
    after: RowState, sums: Sums,
) -> None:  # fmt: skip
    """Add what the rows of a block contribute to the numerator and the denominator of the update of Ht."""
    solver, Ht = arguments
    backend.multiply_beta(
        block, rows["W"], Ht, solver.beta, solver.gamma, 0.0, 0.0, 0.0, False, False,
        rows["W"][:0], sums["N"], sums["D"], sums["stats"],
    )  # fmt: skip


# ---- extrapolation -------------------------------------------------------------------------------------------------

# One majoriser for both factors (A. Marmin, J. H. de M. Goulart, C. Févotte, arXiv 2106.15214) reads X once a pass. It
# was tried in place of these steps, extrapolated alike, β = 1, from one start: on the digits with k = 16 it reached
# 1.01 × the best loss after 756 passes (these: 791), and not 1.001 × in 1,000 passes (these: 976). `hals` takes fewer.


@dataclass(slots=True)
class Ahead(Orders):
    """Orders of a pass that begins ahead of its pair; Ht and HHt are those of the point ahead."""

    theta: float = 0.0  # how far ahead
    back: bool = False  # begin at the best pair, not at the last one
    pair: Array | None = None  # Ht of the pair


@dataclass(slots=True, kw_only=True)
class Moving(Small):
    """The small factor of a pair (Ht), the point ahead of it (with its HHt), and the best pair known."""

    ahead: Array
    theta: float = 0.0
    nu: float = 1.0
    best: float = inf  # penalised objective: for β = 2 that of this pair, else the one that was last measured
    best_Ht: Array | None = None  # for β < 2
    back: bool = False  # the next pass begins at the best pair
    plain: bool = False  # no extrapolation before the next measurement


class ExtrapolatedUpdate(MultiplicativeUpdate):
    """One update of W and one of H per pass over X, from a point ahead of the pair; 1 ≤ β ≤ 2.

    It is what the registry makes of "mu" with ``extrapolate=True``.

    Extrapolation by itself may raise the loss. For β = 2 every pass measures the loss of its new pair; a pass that has
    raised it is discarded, and the next one is an ordinary update, which cannot raise it. For β < 2 the loss of a pair
    is not among the sums of a pass that begins ahead of it, so every tenth pass measures the pair that it begins with,
    which makes ten passes 4 % slower. If the loss rose since the measurement before, the next pass begins at the best
    pair, and the ten passes after it are ordinary updates.
    """

    def foresee(self, small: Small, sums: Sums, data: Rows) -> None:
        """Return None: a pass may have to be rejected."""
        return None

    def rows(self, W: Array) -> dict[str, Array]:
        """Return W, the W of the pass before, and for β < 2 the best W measured. The first pass reads W only."""
        rows = {"W": W, "before": np.empty_like(W)}
        return rows if self.beta == 2 else rows | {"W_best": np.empty_like(W)}

    def best(self, state: RowState, small: Small) -> tuple[float, Array, Array] | None:
        """Return the best pair measured; None for β = 2, where it is the last one accepted."""
        assert isinstance(small, Moving)
        return None if small.best_Ht is None else (small.best, state["W_best"], small.best_Ht)

    def start(self, data: Rows, Ht: Array) -> Moving:
        """Return the small factor with which a fit of `data` starts, and set `sums`."""
        small = super().start(data, Ht)
        return Moving(Ht, small.HHt, ahead=Ht)

    def fix(self, small: Small) -> Ahead:
        """Return the instructions of the next pass."""
        assert isinstance(small, Moving)
        measure = self.beta != 2 and small.passes % 10 == 0
        return Ahead(small.ahead, small.HHt, None, measure, small.theta, small.back, small.Ht)

    def visit(
        self, backend: Backend, block: Block, rows: RowState, orders: Orders, after: RowState, sums: Sums
    ) -> None:
        """Update the rows of a block from the point ahead of them, and add their sums."""
        assert isinstance(orders, Ahead)
        W = rows.arrays["W_best" if orders.back else "W"]
        apart = orders.measure and orders.theta > 0  # the update forms WH of the point ahead, not of the pair
        update = Orders(orders.Ht, orders.HHt, None, orders.measure and not apart)
        ahead = extrapolated(W, rows.arrays["before"], orders.theta)
        self._update(backend, block, ahead, update, after.arrays["W"], sums)
        if apart:
            loss = backend.divergence(block, W, orders.pair, self.beta)  # type: ignore[arg-type]
            self._add_loss(backend, block, sums, loss, W)
        if self.beta != 2:
            after.arrays["W_best"][:] = W if orders.measure else rows.arrays["W_best"]

    def update_columns(self, small: Small, sums: Sums, data: Rows) -> tuple[Report, Moving]:
        """Update the columns of H and report the pass, or reject a pass that raised the loss."""
        assert isinstance(small, Moving)
        report, new = super().update_columns(Small(small.ahead, small.HHt, small.passes), sums, data)
        best, best_Ht, plain = small.best, small.best_Ht, small.plain
        if self.beta == 2:
            if small.theta > 0 and report.loss > best + self._rounding(self.squares_X, small.Ht):
                report.accepted = False
                return report, Moving(small.Ht, self._gram(data, small.Ht), new.passes, ahead=small.Ht, best=best)
            best = report.loss
        elif small.passes % 10 == 0:
            report.incoming = self._incoming(data.backend, data.backend.read(sums["loss"])[0], small.Ht)
            if not plain and report.incoming.loss > best + self._rounding(best, small.Ht):
                assert best_Ht is not None  # the pair was best at the measurement before
                back = Moving(best_Ht, small.HHt, new.passes, ahead=best_Ht, best=best, best_Ht=best_Ht)
                back.back = back.plain = True
                return Report(loss=report.incoming.loss, accepted=False), back  # the loss of the pair that is dropped
            best, best_Ht, plain = report.incoming.loss, small.Ht, False
        nu = 1.0 if plain else 0.5 * (1 + sqrt(1 + 4 * small.nu**2))
        theta = (nu - 1) / (0.5 * (1 + sqrt(1 + 4 * nu**2)))
        ahead = extrapolated(new.Ht, small.Ht, theta)
        if self.fixed is not None and theta > 0:
            self.fixed.restored(ahead, new.Ht)  # zeros, too
        HHt = self._gram(data, ahead) if theta > 0 else new.HHt
        return report, Moving(
            new.Ht, HHt, new.passes, ahead=ahead, theta=theta, nu=nu, best=best, best_Ht=best_Ht, plain=plain
        )

    def _rounding(self, scale: float, F: Array) -> float:
        return 4 * float(np.finfo(F.dtype).eps) * abs(scale)


def extrapolated(F: Array, before: Array, theta: float) -> Array:
    """Return max(ε, F + θ·max(0, F − before)), which entries at zero can leave; F itself for θ = 0."""
    if theta == 0:
        return F
    ahead = F - before
    np.maximum(ahead, 0, out=ahead)
    ahead *= theta
    ahead += F
    return np.maximum(ahead, TINY if F.itemsize == 8 else 1e-10, out=ahead)
