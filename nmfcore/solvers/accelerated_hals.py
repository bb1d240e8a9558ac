"""Accelerated, extrapolated HALS: the coordinate descent of "cd" with far fewer passes over X.

Several sweeps share one product (N. Gillis, F. Glineur, "Accelerated multiplicative updates and hierarchical ALS
algorithms for nonnegative matrix factorization", Neural Computation 24(4), 2012), and both factors are extrapolated
with restarts (A. M. S. Ang, N. Gillis, "Accelerating nonnegative matrix factorization algorithms using extrapolation",
Neural Computation 31(2), 2019). A pass over X, from the accepted W with its predecessor V and the extrapolated Ĥ:

    Y = max(0, W + β(W − V)),    W⁺ = sweeps(Y; X·Ĥᵀ, ĤĤᵀ),    XᵀW⁺, W⁺ᵀW⁺, W⁺ᵀW

The loss at the feasible pair (W⁺, Ĥ) is free. What H needs of Z = W⁺ + β(W⁺ − W) is a combination of these sums and of
those of the pass before, so Z is never formed, and the sums of the accepted W itself are known: if a pass is rejected,
H takes a plain step from the accepted pair without another look at X, and the next pass cannot but descend from there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..objective import UNPENALISED, Penalties, inner, kkt_frobenius, penalty, trace_loss
from ._common import Orders, Report, Small
from .coordinate_descent import CoordinateDescent

if TYPE_CHECKING:
    from ..data import Rows, RowState

Array = NDArray[Any]

# Ang and Gillis' constants for HALS.
FIRST, GROW, CAP_GROW, SHRINK = 0.5, 1.01, 1.005, 1.5
SETTLED = 0.1  # a row is left alone once its step is below this share of its first one
# (from pass number, sweeps over W, over H). Which local minimum is reached is decided early, and few sweeps decide
# better; after that more get there sooner. Measured from 6 to 10 random starts: final error / that of "cd" after
# 1,000 iterations, median, and median passes to the end. MNIST[:10000] k=15: 1/3 0.9995, 2/2 1.0001, 3/3 1.0006,
# 6/6 1.0012, these stages 0.9995 in 83. CBCL k=49: 1/1 0.9989 in 597, 1/3 0.9989 in 299, 2/4 1.0002 in 177, 4/8 1.0006
# in 158, these 0.9994 in 134 with the best worst case (1.0004).
STAGES = ((0, 1, 3), (20, 4, 8))
# Share of ½‖X‖² by which rounding may raise the loss: of tiles' products in the compute type, added up in float64.
ROUNDING = {4: 1e-6, 8: 2e-13}
CODING = (30, 0.01)  # sweeps, and SETTLED, of a first pass that has W to find for a given H


@dataclass(slots=True)
class Momentum:
    """How far both factors are extrapolated."""

    weight: float = FIRST
    cap: float = 1.0
    accepted: float = FIRST  # the weight of the last accepted pass

    def grown(self) -> Momentum:
        """After an accepted pass."""
        return Momentum(min(self.cap, GROW * self.weight), min(1.0, CAP_GROW * self.cap), self.weight)

    def shrunk(self) -> Momentum:
        """After a rejected one."""
        return Momentum(self.weight / SHRINK, self.accepted, self.accepted)


@dataclass(slots=True, kw_only=True)
class Accelerated(Small):
    """The accepted Ht (that of `Small`), and what the next pass works with.

    Components may be rescaled between passes: `H`, `XtW` and `WtW` are in the scale that the orders of the next pass
    bring W into, `Ht` and `HHt` in that of the accepted W as it lies.
    """

    next_Ht: Array  # Ĥ, extrapolated
    next_HHt: Array
    H: Array  # the accepted Ht, in the new scale
    step_Ht: Array  # what the last step of H made, before it was extrapolated
    XtW: Array  # sums of the accepted W
    WtW: Array
    sum_W: Array  # column sums, under penalties only
    scale: Array  # 2k: of W, of its predecessor
    momentum: Momentum
    loss: float = np.inf  # the lowest accepted so far: within rounding that of the accepted pair
    begin: float = 0.0  # β of Y; 0 after a rejected pass
    revive: bool = False  # a component is dead: look for the row to revive it with
    revived: bool = False  # the next pass tries a revived one
    barren: bool = False  # under penalties such a try has raised the loss: zero is the answer


@dataclass(slots=True, kw_only=True)
class AcceleratedOrders(Orders):
    """Orders of a pass with momentum."""

    scale: Array
    begin: float
    sweeps: int
    settled: float
    revive: bool


class AcceleratedHALS(CoordinateDescent):
    """Several sweeps over the rows of W and the columns of H per pass over X, both extrapolated.

    Parameters
    ----------
    penalties : Penalties
    shuffle : numpy.random.RandomState or None
        Draws the order of the components anew for every step of either factor.
    trusted : bool
        Whether the H to begin with is good already: the first pass finds the W that belongs to it, and the local
        minimum counts as decided.
    """

    rule = "fall"

    def __init__(self, penalties: Penalties = UNPENALISED, shuffle: Any = None, trusted: bool = False):
        super().__init__(penalties, shuffle)
        self.trusted = trusted
        self.start_penalty = 0.0

    def first_error(self, data: Rows, W: Array, Ht: Array) -> None:
        """Return None: the rule refers to the loss of the start, which the first pass measures but for penalties."""
        self.start_penalty = penalty(self.penalties, W, Ht)

    def rows(self, W: Array) -> dict[str, Array]:
        """Return W and the buffer of its predecessor, which the first pass does not read."""
        return {"W": W, "before": np.empty_like(W)}

    def start(self, data: Rows, Ht: Array) -> Accelerated:
        """Prepare the shapes of the sums and the small factor."""
        super().start(data, Ht)
        k = Ht.shape[1]
        # The first pass measures the loss of the start as well: the Gram of the start below WtB.
        self.sums |= {"WtB": (2 * k, k)}
        if self.penalised:
            self.sums |= {"sum_W": (k,)}
        self.slack = ROUNDING[data.dtype.itemsize] * 0.5 * self.squares_X
        HHt = data.backend.gram(Ht)
        nothing = np.zeros(0)
        return Accelerated(
            Ht=Ht, HHt=HHt, next_Ht=Ht, next_HHt=HHt, H=Ht, step_Ht=Ht, XtW=nothing, WtW=nothing, sum_W=nothing,
            scale=np.ones(2 * k, Ht.dtype), momentum=Momentum(),
        )  # fmt: skip

    def fix(self, small: Small) -> Orders:
        """Say what the next pass works with."""
        assert isinstance(small, Accelerated)
        order = self._order(small.Ht.shape[1])
        coding = self.trusted and small.passes == 0
        sweeps, settled = CODING if coding else (self._sweeps(small.passes)[0], SETTLED)
        return AcceleratedOrders(
            small.next_Ht, small.next_HHt, order, scale=small.scale, begin=small.begin, revive=small.revive,
            sweeps=sweeps, settled=settled,
        )  # fmt: skip

    def _sweeps(self, passes: int) -> tuple[int, int]:
        """Sweeps over W and over H in the pass after so many."""
        if self.trusted:
            return STAGES[-1][1:]
        return next((W, H) for since, W, H in reversed(STAGES) if passes >= since)

    def visit(
        self, backend: Any, block: Any, rows: RowState, orders: Orders, after: RowState, sums: dict[str, Array]
    ) -> None:
        """Make the new rows of one block, and their sums."""
        assert isinstance(orders, AcceleratedOrders)
        p, W = self.penalties, after.arrays["W"]
        begin = backend.Beginning(rows.arrays["before"], orders.scale, orders.begin, sums["WtB"])
        backend.descend(
            block, rows.arrays["W"], orders.Ht, orders.HHt, p.l1_W, p.l2_W, orders.order, orders.sweeps, 0.0,
            W, sums["XtW"], sums["WtW"], sums["stats"], orders.settled, begin,
        )  # fmt: skip
        if self.penalised:
            sums["sum_W"] += W.sum(axis=0, dtype=np.float64)
        if orders.revive:
            value, residual = backend.worst_row(block, W, orders.Ht)
            if value > sums["worst"][0]:
                sums["worst"][0], sums["worst"][1:] = value, residual

    def update_columns(self, small: Small, sums: dict[str, Array], data: Rows) -> tuple[Report, Accelerated]:
        """Make the new Ht from the sums, and report; a pass that raised the loss is rejected."""
        assert isinstance(small, Accelerated)
        report = self._report(small, sums, data)
        if small.passes == 0 or report.loss <= small.loss + self.slack:
            new, XtZ, ZtZ = self._accept(small, sums, report)
        else:
            report.accepted = False
            new = replace(small, momentum=small.momentum.shrunk(), begin=0.0, revive=False, barren=small.revived)
            # From the accepted pair without momentum: H's plain step needs no look at X, and can only descend.
            XtZ, ZtZ = small.XtW, small.WtW
        new.passes = small.passes + 1
        if small.passes == 0 or not report.accepted:
            XtZ, ZtZ = self._balance(new, data.backend)
        step, stats_H = self._step(data, new.H, XtZ, ZtZ, self._sweeps(small.passes)[1])
        new.next_Ht = step
        if new.begin > 0:
            weight = step.dtype.type(new.momentum.weight)
            new.next_Ht = np.maximum(step + weight * (step - small.step_Ht), 0)
        new.step_Ht = step
        new.revived = False
        of_H, dead = data.backend.read(stats_H, (np.diagonal(new.WtW) == 0) | ~new.next_Ht.any(axis=0))
        report.kkt = kkt_frobenius(report.kkt + of_H[data.backend.KKT], self.squares_X)
        report.violation += of_H[data.backend.VIOLATION]
        if not new.barren and any(dead):
            self._revive(small, new, sums, report.accepted, np.flatnonzero(dead), data.backend)
        self.sums = {name: shape for name, shape in self.sums.items() if name != "worst"}
        self.sums["WtB"] = new.WtW.shape
        if new.revive:
            self.sums["worst"] = (1 + data.shape[1],)
        new.next_HHt = data.backend.gram(new.next_Ht)
        return report, new

    def _report(self, small: Accelerated, sums: dict[str, Array], data: Rows) -> Report:
        """Loss at (W⁺, Ĥ), which the sums of the pass give for nothing; W's share of violation and KKT residual."""
        p, backend = self.penalties, data.backend
        Ht, HHt, WtW = small.next_Ht, small.next_HHt, sums["WtW"]
        k = WtW.shape[0]
        wanted = [sums["stats"], backend.inner(sums["XtW"], Ht), backend.inner(WtW, HHt)]
        if small.passes == 0:
            wanted.append(backend.inner(sums["WtB"][k:], HHt))
        if self.penalised:
            wanted += [Ht.sum(dtype=np.float64), np.trace(WtW), np.trace(HHt)]
        stats, cross, square, *others = backend.read(*wanted)
        report = Report(loss=trace_loss(self.squares_X, cross, square))
        if small.passes == 0:
            report.start_loss = trace_loss(self.squares_X, stats[backend.CROSS], others[0])
        if self.penalised:
            report.loss += p.value(stats[backend.TOTAL], *others[-3:])
            report.start_loss += self.start_penalty
        report.kkt, report.violation = stats[backend.KKT], stats[backend.VIOLATION]
        return report

    def _accept(self, small: Accelerated, sums: dict[str, Array], report: Report) -> tuple[Accelerated, Array, Array]:
        """Return the new small state, and the sums of Z = W⁺ + β(W⁺ − W)."""
        XtW, WtW = sums["XtW"].copy(), sums["WtW"].copy()
        k = WtW.shape[0]
        ones = np.ones(k, small.scale.dtype)
        new = replace(
            small, Ht=small.next_Ht, HHt=small.next_HHt, H=small.next_Ht, XtW=XtW, WtW=WtW,
            loss=min(small.loss, report.loss), scale=np.concatenate([ones, small.scale[:k]]), revive=False,
        )  # fmt: skip
        if self.penalised:
            new.sum_W = sums["sum_W"].copy()
        if small.passes == 0:  # the step from the start tells nothing of the next one
            return new, XtW, WtW
        new.begin = beta = small.momentum.weight
        new.momentum = small.momentum.grown()
        WtB = sums["WtB"][:k]
        XtZ = (1 + beta) * XtW
        XtZ -= beta * small.XtW
        ZtZ = (1 + beta) ** 2 * WtW - beta * (1 + beta) * (WtB + WtB.T) + beta**2 * small.WtW
        return new, XtZ, ZtZ

    def _balance(self, new: Accelerated, backend: Any) -> tuple[Array, Array]:
        """Rescale the components of the accepted pair, W by d and H by 1/d; return the sums of W in the new scale."""
        p, k, host = self.penalties, new.WtW.shape[0], backend.to_numpy
        squares_W = host(np.diagonal(new.WtW))
        squares_H = host(np.einsum("jt,jt->t", new.H, new.H, dtype=np.float64))
        if self.penalised:
            new.sum_W, sum_H = host(new.sum_W), host(new.H.sum(axis=0, dtype=np.float64))
            d = balance(p.l1_W * new.sum_W, p.l2_W * squares_W, p.l1_H * sum_H, p.l2_H * squares_H)
            new.sum_W = new.sum_W * d
        else:
            alive = (squares_W > 0) & (squares_H > 0)
            ratio = np.divide(squares_H, squares_W, out=np.ones(k), where=alive)
            d = np.exp2(np.round(np.log2(ratio) / 4))  # a power of two rounds nothing
        new.scale = (new.scale * np.tile(d, 2)).astype(new.scale.dtype)
        d = backend.asarray(d)
        new.H = (new.H / d).astype(new.H.dtype)
        new.XtW, new.WtW = new.XtW * d, new.WtW * np.outer(d, d)
        return new.XtW, new.WtW

    def _step(self, data: Rows, Ht: Array, XtZ: Array, ZtZ: Array, sweeps: int) -> tuple[Array, Array]:
        """Sweeps over the columns of H, from Ht for given sums."""
        p, backend = self.penalties, data.backend
        m, k = Ht.shape
        order, new = self._order(k), backend.xp.empty((m, k), Ht.dtype)

        def sweep(lo: int, hi: int, stats: Array, HHt: Array) -> None:
            backend.sweep(Ht[lo:hi], ZtZ, XtZ[lo:hi], p.l1_H, p.l2_H, order, new[lo:hi], HHt, stats, sweeps, SETTLED)

        stats, _ = data.map_rows(sweep, m, 2.0 * sweeps * m * k * k, self.sums_H)
        return new, stats

    def _revive(
        self, small: Accelerated, new: Accelerated, sums: dict[str, Array], accepted: bool, dead: Array, backend: Any
    ) -> None:
        """Give a component that stands for nothing the residual of the worst row, found by the pass that looked.

        W·H does not change by it: the component's column of W is zero. One at a time, the lowest first.
        """
        if small.revive and accepted:
            worst = backend.to_numpy(sums["worst"])
            if worst[0] > 0 and worst[1:].any():
                p, t, k = self.penalties, dead[0], new.WtW.shape[0]
                h = worst[1:, None]
                # as if that row alone were to use it
                d = balance(*np.array([[p.l1_W], [p.l2_W], [p.l1_H * h.sum()], [p.l2_H * inner(h, h)]]))
                new.next_Ht = new.next_Ht.copy()
                new.step_Ht = new.step_Ht.copy()
                new.next_Ht[:, t] = new.step_Ht[:, t] = backend.asarray(worst[1:] / d)
                new.revived = True
                new.scale[[t, k + t]] = 0
                new.H = new.H.copy()
                new.H[:, t] = 0
                new.XtW[:, t] = new.WtW[t] = new.WtW[:, t] = 0
                dead = dead[1:]
            else:
                dead = dead[:0]  # X is met exactly: nothing to revive it with
        new.revive = dead.size > 0


def balance(linear_W: Array, square_W: Array, linear_H: Array, square_H: Array) -> Array:
    """Scales d > 0 that minimise linear_W·d + ½·square_W·d² + linear_H/d + ½·square_H/d², component by component.

    Convex in log d: a few Newton steps. 1 where only one side is penalised (no scale is best then).
    """
    u = np.zeros_like(linear_W)
    both = (linear_W + square_W > 0) & (linear_H + square_H > 0)
    for _ in range(50):
        d = np.exp(u)
        up, down = linear_W * d, linear_H / d
        up2, down2 = square_W * d * d, square_H / (d * d)
        slope, bend = up + up2 - down - down2, up + 2 * up2 + down + 2 * down2
        u -= np.clip(np.divide(slope, bend, out=np.zeros_like(u), where=both), -1, 1)
    return np.exp(np.where(both, u, 0))
