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

from dataclasses import dataclass
from math import inf, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..objective import UNPENALISED, Penalties, divergence, inner, kkt_frobenius, pull_of_zeros, trace_loss
from ._common import Orders, Report, Small, Solver

if TYPE_CHECKING:
    from ..rows.memory import Rows
    from ..rows.state import RowState

Array = NDArray[Any]

TINY = float(np.finfo(np.float64).eps)
# Share of ‖X‖² below which the loss of a mini-batch is measured directly, not as a difference of sums: of these seven
# (float32: five) digits are left above it.
CANCELS = {4: 1e-2, 8: 1e-8}


class MultiplicativeUpdate(Solver):
    """One update of W and one of H per pass over X.

    Parameters
    ----------
    penalties : Penalties
    beta : float
        Any real number.
    """

    losses = None  # all
    rule = "error every 10"

    def __init__(self, penalties: Penalties = UNPENALISED, beta: float = 2.0):
        self.penalties = penalties
        self.penalised = any(penalties)
        self.beta = float(beta)
        self.gamma = 1 / (2 - beta) if beta < 1 else 1 / (beta - 1) if beta > 2 else 1.0
        self.floor_W = beta < 1
        self.floor_H = beta <= 1

    @property
    def _floor(self) -> float:
        return TINY if self.floor_W else 0.0

    def start(self, data: Rows, Ht: Array) -> Small:
        """Prepare the shapes of the sums and the small factor."""
        m, k = Ht.shape
        stats = (data.backend.STATS + 2 * k,)
        if self.beta == 2:
            self.sums = {"XtW": (m, k), "WtW": (k, k), "stats": stats}
        else:
            denominator = (1, k) if self.beta == 1 else (m, k)
            self.sums = {"N": (m, k), "D": denominator, "stats": stats, "loss": (2,)}
        self.squares_X = data.opening().squares
        return Small(Ht, self._gram(data, Ht))

    def first_error(self, data: Rows, W: Array, Ht: Array) -> float | None:
        """√(2 D) of the start, which the stop rule refers to; for β ≠ 2 the first pass measures it."""
        return float(np.sqrt(2 * divergence(data, W, Ht, 2))) if self.beta == 2 else None

    def _gram(self, data: Rows, Ht: Array) -> Array:
        return data.backend.gram(Ht) if self.beta == 2 else np.zeros((0, 0))

    def fix(self, small: Small) -> Orders:
        """Say what the next pass works with."""
        # The loss of the pair after 10, 20, … passes is measured by the pass that follows, from the WH it forms anyway.
        return Orders(small.Ht, small.HHt, measure=self.beta != 2 and small.passes % 10 == 0)

    def visit(
        self, backend: Any, block: Any, rows: RowState, orders: Orders, after: RowState, sums: dict[str, Array]
    ) -> None:
        """Make the new rows of one block, and their sums."""
        self._update(backend, block, rows.arrays["W"], orders, after.arrays["W"], sums)

    def _update(self, backend: Any, block: Any, W: Array, orders: Orders, out: Array, sums: dict[str, Array]) -> None:
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
            self._add_loss(backend, sums, loss, W)

    def _add_loss(self, backend: Any, sums: dict[str, Array], loss: Any, W: Array) -> None:
        p = self.penalties
        sums["loss"][0] += loss
        if self.penalised:
            sums["loss"][1] += p.l1_W * W.sum(dtype=np.float64) + 0.5 * p.l2_W * backend.inner(W, W)

    @property
    def gather(self) -> Any:
        """Sums over columns from Xᵀ; not for the general β, whose denominators need every WH."""
        return self._gather if self.beta in (1, 2) else None

    @property
    def gathered(self) -> tuple[str, ...]:
        """Names of the sums that `gather` makes."""
        return ("XtW",) if self.beta == 2 else ("N",)

    def _gather(
        self, backend: Any, block: Any, after: RowState, orders: Orders, lo: int, hi: int, sums: dict[str, Array]
    ) -> None:
        W = after.arrays["W"]
        if self.beta == 2:
            backend.products(block, W, sums["XtW"][lo:hi])
            return
        part = backend.xp.empty((hi - lo, orders.width), W.dtype)
        backend.kl_numerators(block, orders.Ht[lo:hi], W, part)
        sums["N"][lo:hi] = part
        if lo == 0:
            sums["D"][0] += W.sum(axis=0, dtype=np.float64)

    def update_columns(self, small: Small, sums: dict[str, Array], data: Rows) -> tuple[Report, Small]:
        """Make the new Ht from the sums, and report."""
        return (self._update_frobenius if self.beta == 2 else self._update_beta)(small, sums, data)

    def _update_frobenius(self, small: Small, sums: dict[str, Array], data: Rows) -> tuple[Report, Small]:
        p, backend, Ht = self.penalties, data.backend, small.Ht
        XtW, WtW, stats_W = sums["XtW"], sums["WtW"], sums["stats"]
        (m, k), new = Ht.shape, np.empty_like(Ht)

        def scale(lo: int, hi: int, stats: Array, HHt: Array) -> None:
            backend.scale(Ht[lo:hi], WtW, XtW[lo:hi], p.l1_H, p.l2_H, new[lo:hi], HHt, stats)

        stats_H, HHt = data.map_rows(scale, m, 2.0 * m * k * k, (stats_W.shape, (k, k)))
        of_W, of_H = backend.read(stats_W, stats_H)
        loss = fit = trace_loss(self.squares_X, of_H[backend.CROSS], of_H[backend.SQUARE])
        if self.penalised:
            squares = backend.read(np.trace(WtW), np.trace(HHt))
            loss += p.value(of_W[backend.TOTAL], of_H[backend.TOTAL], *squares)
        kkt = kkt_frobenius(of_W[backend.KKT] + of_H[backend.KKT], self.squares_X)
        report = Report(loss=loss, kkt=kkt, error=float(np.sqrt(2 * fit)))
        return report, Small(new, HHt, small.passes + 1)

    def denominator(self, D: Array) -> Array:
        """Of the update of Ht, before penalties: for β = 1 the column sums of W, 1 where a column is zero."""
        return np.where(D == 0, 1.0, D) if self.beta == 1 else D

    def _update_beta(self, small: Small, sums: dict[str, Array], data: Rows) -> tuple[Report, Small]:
        p, backend, Ht, stats = self.penalties, data.backend, small.Ht, sums["stats"]
        (m, k), new, S = Ht.shape, np.empty_like(Ht), backend.STATS
        N, D = sums["N"], self.denominator(sums["D"])
        floor = TINY if self.floor_H else 0.0

        def multiply(lo: int, hi: int, part: Array) -> None:
            terms = D if self.beta == 1 else D[lo:hi]
            backend.multiply_given(Ht[lo:hi], N[lo:hi], terms, p.l1_H, p.l2_H, self.gamma, floor, new[lo:hi], part)

        (stats_H,) = data.map_rows(multiply, m, 40.0 * m * k, (stats.shape,))
        measured = (sums["loss"],) if small.passes % 10 == 0 else ()
        of_W, of_H, *losses = (np.array(numbers) for numbers in backend.read(stats, stats_H, *measured))
        pulls = sum(
            pull_of_zeros(of[S : S + k], of[S + k : S + 2 * k], rows) for of, rows in ((of_W, data.shape[0]), (of_H, m))
        )
        residual = of_W[backend.VIOLATION] + of_H[backend.VIOLATION] + pulls
        scale = of_W[backend.KKT] + of_H[backend.KKT]
        report = Report(kkt=float(residual / scale) if scale else 0.0)
        if losses:
            self._measured(report, backend, losses[0], Ht)
        return report, Small(new, small.HHt, small.passes + 1)

    def _measured(self, report: Report, backend: Any, loss: Array, Ht: Array) -> None:
        p, (fit, penalty_W), penalty_H = self.penalties, loss, 0.0
        if self.penalised:
            total, squares = backend.read(Ht.sum(dtype=np.float64), backend.inner(Ht, Ht))
            penalty_H = p.l1_H * total + 0.5 * p.l2_H * squares
        report.loss_before = float(fit + penalty_W + penalty_H)
        report.error_before = float(np.sqrt(2 * max(fit, 0.0)))

    def code(
        self, backend: Any, block: Any, orders: Orders, tol: float, max_iter: int, by_step: bool,
        out: Array, stats: Array,
    ) -> None:  # fmt: skip
        """Rows alone, each from √(its mean / k) until its own error √(2 D_β) falls by less than tol in 10 updates."""
        p = self.penalties
        backend.code(
            block, orders.Ht, self.beta, self.gamma, p.l1_W, p.l2_W, self._floor, tol, max_iter, by_step, out, stats
        )

    # ---- the two halves on their own, for mini-batches -----------------------------------------------------------

    def update_rows(self, data: Rows, W: Array, Ht: Array) -> Array:
        """One update of W alone, without the floor that `fit` puts under small values for β < 1.

        Parameters
        ----------
        data : Rows
        W : ndarray of shape (n, k)
        Ht : ndarray of shape (m, k)

        Returns
        -------
        W : ndarray of shape (n, k)
            New; the given one is not written.
        """
        p, backend = self.penalties, data.backend
        W, Ht = backend.asarray(W), backend.asarray(Ht)
        out, k = np.empty_like(W), W.shape[1]
        nothing = np.zeros((0, k))
        HHt = self._gram(data, Ht)
        stats = np.zeros((len(data.plan(k).lanes), backend.STATS + 2 * k))

        def update(lane: int, lo: int, hi: int, block: Any) -> None:
            if self.beta == 2:
                backend.multiply(block, W[lo:hi], Ht, HHt, p.l1_W, p.l2_W, out[lo:hi], nothing, nothing, stats[lane])
            else:
                backend.multiply_beta(
                    block, W[lo:hi], Ht, self.beta, self.gamma, p.l1_W, p.l2_W, 0.0, True, False,
                    out[lo:hi], nothing, nothing, stats[lane],
                )  # fmt: skip

        data.visit_all(update, k)
        return out

    def learn(self, data: Rows, W: Array, Ht: Array) -> tuple[Array, float, Array, Array]:
        """Update W once, then what the update of Ht needs: for β = 2 in a single look at X.

        Parameters
        ----------
        data : Rows
        W : ndarray of shape (n, k)
        Ht : ndarray of shape (m, k)

        Returns
        -------
        W : ndarray of shape (n, k)
            New; for β < 1 its smallest entries are zero.
        loss : float
            D_β of the new W and the given Ht.
        numerator, denominator : ndarray
            As `column_terms` has them.
        """
        if self.beta == 2:
            Ht = data.backend.asarray(Ht)
            small = self.start(data, Ht)
            rows = data.state(W=data.backend.asarray(W))
            after, sums = data.reduce(self.visit, rows, self.fix(small), self.sums, self.gather, self.gathered)
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
        """H·WᵀW, by the backend's own product: the threads that BLAS wakes for it slow down the passes after it."""
        return data.rows_like(Ht).products(WtW.astype(data.dtype)).astype(np.float64)

    def column_terms(self, data: Rows, W: Array, Ht: Array) -> tuple[Array, Array]:
        """Numerator and denominator of the update of Ht, float64, before penalties.

        Parameters
        ----------
        data : Rows
        W : ndarray of shape (n, k)
        Ht : ndarray of shape (m, k)

        Returns
        -------
        numerator : ndarray of shape (m, k)
        denominator : ndarray of shape (m, k), or (1, k) for β = 1
        """
        backend, (m, k) = data.backend, Ht.shape
        W, Ht = backend.asarray(W), backend.asarray(Ht)
        if self.beta == 2:
            return data.transposed_products(W), self._denominator(data, Ht, backend.gram(W))
        lanes = data.plan(k).lanes
        N = np.zeros((len(lanes), m, k))
        D = np.zeros((len(lanes), 1 if self.beta == 1 else m, k))
        stats = np.zeros((len(lanes), backend.STATS + 2 * k))

        def add(lane: int, lo: int, hi: int, block: Any) -> None:
            backend.multiply_beta(
                block, W[lo:hi], Ht, self.beta, self.gamma, 0.0, 0.0, 0.0, False, False,
                W[:0], N[lane], D[lane], stats[lane],
            )  # fmt: skip

        data.visit_all(add, k)
        return N.sum(axis=0), self.denominator(D.sum(axis=0))


# ---- extrapolation -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Ahead(Orders):
    """Orders of a pass that begins ahead of its pair; Ht and HHt are those of the point ahead."""

    theta: float = 0.0
    back: bool = False  # begin at the best pair, not at the last one
    pair: Array | None = None  # Ht of the pair


@dataclass(slots=True)
class Moving(Small):
    """The small factor of a pair (Ht), the point ahead of it (with its HHt), and the best pair known."""

    ahead: Any = None
    theta: float = 0.0
    nu: float = 1.0
    best: float = inf  # penalised objective: β = 2: of this pair; else: as last measured
    best_Ht: Any = None
    back: bool = False
    plain: bool = False  # no extrapolation before the next measurement


class ExtrapolatedUpdate(MultiplicativeUpdate):
    """One update of W and one of H per pass over X, from a point ahead of the pair; 1 ≤ β ≤ 2.

    Extrapolation is not monotone by itself, so what was accepted is compared. For β = 2 every pass tells the loss of
    its new pair: one that rose is discarded and the next pass is an ordinary one, which cannot rise. For β < 2 the
    loss of a pair is not among the sums of a pass that begins ahead of it: every tenth pass measures its incoming pair
    beside (one product and one logarithm more, X read once more: 4 % over ten passes, where beginning such a pass at
    the pair itself, as the plain update does, cost 12 % more passes on CBCL, and measuring every pass would cost 40 %).
    If the loss rose since the last measurement, the next pass begins at the pair that was best, and the ten passes
    after it are ordinary. It never did in the fits of the tests; the price is one buffer more.
    """

    def rows(self, W: Array) -> dict[str, Array]:
        """W, W one pass earlier, and for β < 2 the best measured W; the first pass reads W only."""
        rows = {"W": W, "before": np.empty_like(W)}
        return rows if self.beta == 2 else rows | {"W_best": np.empty_like(W)}

    def best(self, state: RowState, small: Any) -> tuple[float, Array, Array] | None:
        """Return the best measured pair; for β = 2 the last accepted one is."""
        return None if small.best_Ht is None else (small.best, state["W_best"], small.best_Ht)

    def start(self, data: Rows, Ht: Array) -> Moving:
        """Prepare the shapes of the sums and the small factor."""
        small = super().start(data, Ht)
        return Moving(Ht, small.HHt, ahead=Ht)

    def fix(self, small: Any) -> Ahead:
        """Say what the next pass works with."""
        measure = self.beta != 2 and small.passes % 10 == 0
        return Ahead(small.ahead, small.HHt, None, measure, small.theta, small.back, small.Ht)

    def visit(
        self, backend: Any, block: Any, rows: RowState, orders: Any, after: RowState, sums: dict[str, Array]
    ) -> None:
        """Make the new rows of one block, and their sums."""
        W = rows.arrays["W_best" if orders.back else "W"]
        beside = orders.measure and orders.theta > 0
        within = Orders(orders.Ht, orders.HHt, None, orders.measure and not beside)
        ahead = extrapolated(W, rows.arrays["before"], orders.theta)
        self._update(backend, block, ahead, within, after.arrays["W"], sums)
        if beside:
            self._add_loss(backend, sums, backend.divergence(block, W, orders.pair, self.beta), W)
        if self.beta != 2:
            after.arrays["W_best"][:] = W if orders.measure else rows.arrays["W_best"]

    def update_columns(self, small: Any, sums: dict[str, Array], data: Rows) -> tuple[Report, Moving]:
        """Make the new Ht from the sums, and report; or send the next pass back."""
        report, new = super().update_columns(Small(small.ahead, small.HHt, small.passes), sums, data)
        best, best_Ht, plain = small.best, small.best_Ht, small.plain
        if self.beta == 2:
            if small.theta > 0 and report.loss > best + self._rounding(self.squares_X, small.Ht):
                report.accepted = False
                return report, Moving(small.Ht, data.backend.gram(small.Ht), new.passes, ahead=small.Ht, best=best)
            best = report.loss
        elif small.passes % 10 == 0:
            self._measured(report, data.backend, np.array(data.backend.read(sums["loss"])[0]), small.Ht)
            if not plain and report.loss_before > best + self._rounding(best, small.Ht):
                back = Moving(best_Ht, small.HHt, new.passes, ahead=best_Ht, best=best, best_Ht=best_Ht)
                back.back = back.plain = True
                return Report(accepted=False), back
            best, best_Ht, plain = report.loss_before, small.Ht, False
        nu = 1.0 if plain else 0.5 * (1 + sqrt(1 + 4 * small.nu**2))
        theta = (nu - 1) / (0.5 * (1 + sqrt(1 + 4 * nu**2)))
        ahead = extrapolated(new.Ht, small.Ht, theta)
        HHt = self._gram(data, ahead) if theta > 0 else new.HHt
        return report, Moving(new.Ht, HHt, new.passes, ahead, theta, nu, best, best_Ht, plain=plain)

    def _rounding(self, scale: float, F: Array) -> float:
        return 4 * float(np.finfo(F.dtype).eps) * abs(scale)


def extrapolated(F: Array, before: Array, theta: float) -> Array:
    """F + θ·max(0, F − before), and at least ε, so that zeros can be left; F itself for θ = 0."""
    if theta == 0:
        return F
    ahead = F - before
    np.maximum(ahead, 0, out=ahead)
    ahead *= theta
    ahead += F
    return np.maximum(ahead, TINY if F.itemsize == 8 else 1e-10, out=ahead)
