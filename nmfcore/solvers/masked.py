r"""Solvers for an X with missing entries: min ½ Σ_observed (X − WH)² + penalties, and the β-divergences alike.

`FilledDescent` replaces missing entries by those of WH (expectation-maximisation: D. Lee, H. Seung, 1999, is its limit
for counts; S. Zhang et al., "Learning from incomplete ratings using non-negative matrix factorization", SDM 2006). With
X' = X where observed, W₀H₀ elsewhere,

    Q(W, H | W₀, H₀) = ½‖X' − WH‖²  ≥  f(W, H),    with equality at (W₀, H₀),

so that what lowers Q lowers f, and the Gram matrix is one for all rows. A pass fills in twice: for the rows of W with
the pair that it begins with, and for the sums over the rows with the new rows. At the new pair Q is then f itself, and
is known from the sums. Both factors are extrapolated, as "hals" does; a pass that has raised f is dropped, and the next
one begins without momentum, which can only lower f.

`ObservedDescent` solves for each row, and each column, with the Gram matrix of its own observed entries. It takes k²
steps for each observed entry and reads X by columns, too, and is for a sparse X of which few entries are observed:
filling in would take thousands of passes there. `SummedDescent` is the same where X cannot be read by columns.

Filling in brings a row near its best only as fast as it has entries that are observed. So both end with a pass that
solves for the rows alone, H as it is (`_Descent.close`), after which W is what `transform` finds.

`MaskedMultiplicative` takes numerators and denominators of the multiplicative updates over observed entries.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from .._typing import Array
from ..objective import UNPENALISED, Penalties, kkt_frobenius, trace_loss
from ._common import Correction, Gather, Orders, Report, Small, Sums
from .accelerated_hals import ROUNDING, SLACK, Effort, Momentum
from .coordinate_descent import CoordinateDescent
from .multiplicative import MultiplicativeUpdate

if TYPE_CHECKING:
    from .._typing import Block, Numbers
    from ..backends.operations import Backend
    from ..rows.base import Rows
    from ..rows.state import RowState
    from ._common import Shapes

# (number of the first pass, effort for W, effort for H), see `accelerated_hals`.
STAGES = ((0, Effort(1), Effort(3)), (20, Effort(4, 0.01), Effort(8, 0.01)))
SETTLED = 0.01  # share of its first violation at which a row that is solved for alone rests
ALONE = 8  # sweeps over a row that is solved for alone, at most: its Gram matrix takes longer than all of them
# Sweeps of the last pass, and that share in it: the loss that it leaves goes with its square. Rows with hardly more
# entries than components need many sweeps, and other rows rest soon: of 12 planted X, 60 × 40 with 60 % missing and
# k = 4, 16 sweeps left the worst loss 1.1e-3 above that of exact rows, 100 sweeps 1.3e-5.
LAST, RESTED = 100, 0.03
LEVEL = 1e-6  # the loss is measured directly where the bound of the error of the trace form is a larger share of it
RARELY = 10  # most passes between two measurements
EXACT = 1e-15  # share of Σx² by which a loss from sums in float64 may be wrong
DOUBTFUL = 4  # the next pass measures if this one has moved the loss by fewer errors of the trace form
TRUE = 0.5  # share of the fall of the loss per pass that the error of the trace form may be between measurements


@dataclass(slots=True)
class Level:
    """How well the loss is known that the sums of a pass lead to.

    The rounding errors of the trace form ½(‖X'‖² − 2⟨X'ᵀW, H⟩ + ⟨WᵀW, HHᵀ⟩) differ from pass to pass, but hardly in
    size: in float32 they were up to 1e-8 of ½‖X‖² with k = 49, a tenth of their bound. A pass that measures the loss
    directly shows the error, and while the loss falls by more than that, the next few passes need not measure.
    """

    measured: float = np.inf  # the loss that was last measured directly
    since: int = 0  # number of accepted passes since then
    interval: int = 1  # every which accepted pass measures
    error: float = 0.0  # of the trace form, the largest one seen
    due: bool = False  # the next pass measures

    @property
    def exact(self) -> bool:
        """Whether the pass measures its loss, and the one before it did."""
        return self.due and self.since == 0 and self.measured < np.inf

    def after(self, loss: float, error: float, accepted: bool) -> Level:
        """Return the level after a pass with this loss, which its trace form has missed by this error if it was due."""
        if not self.due:
            return replace(self, since=self.since + accepted)
        error = max(abs(error), self.error)
        if not accepted:
            return replace(self, error=error)
        interval = self.interval
        if self.measured < np.inf:
            true = error * (self.since + 1) <= TRUE * (self.measured - loss)
            interval = min(2 * interval, RARELY) if true else 1
        return Level(loss, 0, interval, error)


@dataclass(slots=True, kw_only=True)
class MaskedSmall(Small):
    """The accepted Ht (that of `Small`), and what the next pass begins with."""

    next_Ht: Array  # Ĥ, extrapolated
    next_HHt: Array
    step_Ht: Array  # result of the last step of H, before the extrapolation
    XtW: Array  # sums of the accepted pair
    WtW: Array
    momentum: Momentum
    loss: float = np.inf  # of the accepted pair: no accepted one is above those before it
    level: Level = field(default_factory=Level)
    begin: float = 0.0  # how far ahead of W the next pass begins
    rejected: int = 0  # number of passes rejected in a row


@dataclass(slots=True, kw_only=True)
class MaskedOrders(Orders):
    """Orders of a pass with momentum."""

    begin: float
    effort: Effort


class _Descent(CoordinateDescent):
    """What both descents share.

    Parameters
    ----------
    penalties : Penalties
        Scaled with the shape of X. There are none by default.
    shuffle : numpy.random.RandomState or None
        Draws a new order of the components for every step of either factor. None keeps their natural order.
    accelerated : bool
        Whether both factors are extrapolated and swept several times in a pass, which "hals" asks for. Defaults to
        False.
    """

    gather = Gather(None, ())

    def __init__(
        self,
        penalties: Penalties = UNPENALISED,
        shuffle: np.random.RandomState | None = None,
        accelerated: bool = False,
    ):
        super().__init__(penalties, shuffle)
        self.accelerated = accelerated
        self.rule = "fall" if accelerated else "violation"  # type: ignore[misc]

    def rows(self, W: Array) -> dict[str, Array]:
        """Return W and the W of the pass before, which the first pass does not read."""
        return {"W": W, "before": np.empty_like(W)}

    def start(self, data: Rows, Ht: Array) -> MaskedSmall:
        """Return the small factor with which a fit of `data` starts, and set `sums`."""
        super().start(data, Ht)
        self.rounding = ROUNDING[data.dtype.itemsize] * 0.5 * self.squares_X
        HHt, unset = data.backend.gram(Ht), np.zeros(0)
        return MaskedSmall(
            Ht=Ht, HHt=HHt, next_Ht=Ht, next_HHt=HHt, step_Ht=Ht, XtW=unset, WtW=unset, momentum=Momentum()
        )

    def _effort(self, passes: int) -> tuple[Effort, Effort]:
        """Return the effort for W and for H of the pass after so many."""
        if not self.accelerated:
            return Effort(1), Effort(1)
        for_W, for_H = next(efforts for since, *efforts in reversed(STAGES) if passes >= since)
        return for_W, for_H

    def fix(self, small: Small) -> MaskedOrders:
        """Return the instructions of the next pass."""
        assert isinstance(small, MaskedSmall)
        return MaskedOrders(
            small.next_Ht, small.next_HHt, self._order(small.Ht.shape[1]), small.level.due,
            begin=small.begin, effort=self._effort(small.passes)[0],
        )  # fmt: skip

    def _penalty(self, backend: Backend, sums_W: tuple[float, float], Ht: Array, HHt: Array) -> float:
        """Return the penalties of a pair; sums_W are ΣW and ΣW²."""
        if not self.penalised:
            return 0.0
        total, squares = backend.read(Ht.sum(dtype=np.float64), np.trace(HHt))
        return self.penalties.value(sums_W[0], total, sums_W[1], squares)

    def _judged(self, small: MaskedSmall, report: Report, loss: float, error: float = 0.0) -> MaskedSmall | None:
        """Return the small factor after a pass that has raised the loss; None if it has not.

        Parameters
        ----------
        small : MaskedSmall
            What the pass began with.
        report : Report
            Of the pass. If rounding may have raised its loss, that of an accepted pass is corrected, or corrects those
            before it: the history does not rise.
        loss : float
            The loss by which the pass is judged.
        error : float
            What this loss and that of the accepted pair may be wrong by. Defaults to 0: no more than rounding moves it.
        """
        slack = max(min(self.rounding, SLACK * small.loss), error)
        if small.passes == 0 or loss <= small.loss + slack:
            if report.loss > small.loss:
                report.correction = Correction(report.loss - small.loss, 0)
            return None
        report.accepted = False
        rejected = small.rejected + 1
        report.exhausted = rejected > 2  # twice without momentum: what is left is rounding
        return replace(small, momentum=small.momentum.shrunk(), begin=0.0, rejected=rejected, passes=small.passes + 1)

    def _ahead(self, backend: Backend, new: MaskedSmall, step: Array, before: Array) -> None:
        """Set the Ĥ of the next pass, which is ahead of a step of H where the pass begins ahead of W."""
        new.step_Ht = new.next_Ht = step
        if new.begin > 0:
            weight = step.dtype.type(new.momentum.weight)
            new.next_Ht = np.maximum(step + weight * (step - before), 0)
        new.next_HHt = backend.gram(new.next_Ht)

    def code(
        self, backend: Backend, block: Block, orders: Orders, tol: float, max_iter: int, by_step: bool,
        out: Array, stats: Array,
    ) -> None:  # fmt: skip
        """Solve for each row from zero on its observed entries, until its violation is at most tol × the first."""
        p, zeros = self.penalties, np.zeros_like(out)
        backend.descend_alone(  # type: ignore[attr-defined]
            block, zeros, (zeros, 0.0), orders.Ht, orders.HHt, p.l1_W, p.l2_W, orders.order, max_iter, tol,
            out, stats, np.zeros(0),
        )  # fmt: skip

    def closing(self, small: Small) -> Orders:
        """Return the instructions of the last pass."""
        return Orders(small.Ht, small.HHt, self._order(small.Ht.shape[1]))

    def resting(self, small: Small) -> MaskedSmall:
        """Return what a pass begins with that starts from the accepted pair."""
        assert isinstance(small, MaskedSmall)
        level = replace(small.level, due=False)
        return replace(small, next_Ht=small.Ht, next_HHt=small.HHt, step_Ht=small.Ht, begin=0.0, level=level)

    def close(
        self, backend: Backend, block: Block, rows: RowState, orders: Orders, after: RowState, sums: Sums
    ) -> None:
        """Solve for each row of a block from what it is on its observed entries, and add up the losses."""
        p, W = self.penalties, rows.arrays["W"]
        losses, stats = np.zeros(len(W)), np.zeros(backend.STATS)
        backend.descend_alone(  # type: ignore[attr-defined]
            block, W, (W, 0.0), orders.Ht, orders.HHt, p.l1_W, p.l2_W, orders.order, LAST, RESTED,
            after.arrays["W"], stats, losses,
        )  # fmt: skip
        sums["D"] += losses.sum()


class FilledDescent(_Descent):
    """Coordinate descent on X with its missing entries filled in, see the module and `_Descent`."""

    def start(self, data: Rows, Ht: Array) -> MaskedSmall:
        """Return the small factor with which a fit of `data` starts, and set `sums`."""
        small = super().start(data, Ht)
        self.sums |= {"squares": (1,)}
        return small

    def visit(
        self, backend: Backend, block: Block, rows: RowState, orders: Orders, after: RowState, sums: Sums
    ) -> None:
        """Sweep over the rows of a block, and add the sums of the block as the new rows fill it."""
        assert isinstance(orders, MaskedOrders)
        p, W, effort = self.penalties, after.arrays["W"], orders.effort
        delta = effort.settled if effort.sweeps > 1 else 0.0
        backend.descend_filled(  # type: ignore[attr-defined]
            block, rows.arrays["W"], (rows.arrays["before"], orders.begin), orders.Ht, orders.HHt, p.l1_W, p.l2_W,
            orders.order, effort.sweeps, delta, W, sums["XtW"], sums["WtW"], sums["stats"], sums["squares"],
            sums["measured"] if orders.measure else np.zeros(0),
        )  # fmt: skip

    def shapes(self, small: Small) -> Shapes:
        """Return names and shapes of the sums of the pass that begins with `small`."""
        assert isinstance(small, MaskedSmall)
        return self.sums | ({"measured": (1,)} if small.level.due else {})

    def update_columns(self, small: Small, sums: Sums, data: Rows) -> tuple[Report, Small]:
        """Sweep over the columns of H, and report the pass; a pass that raised the loss is rejected."""
        assert isinstance(small, MaskedSmall)
        backend, p = data.backend, self.penalties
        Ht, HHt, XtW, WtW = small.next_Ht, small.next_HHt, sums["XtW"], sums["WtW"]
        of_W, squares = backend.read(sums["stats"], sums["squares"])
        fit = trace_loss(self.squares_X + squares[0], backend.inner(XtW, Ht), backend.inner(WtW, HHt))
        penalty = self._penalty(backend, (of_W[backend.TOTAL], float(np.trace(WtW))), Ht, HHt)
        report = Report(loss=fit + penalty, violation=of_W[backend.VIOLATION], kkt=of_W[backend.KKT])
        level, by_trace = small.level, report.loss
        if level.due:
            report.loss = backend.read(sums["measured"])[0][0] + penalty
        wrong = 0.0 if level.exact else 2 * level.error
        new = self._judged(small, report, report.loss if level.exact else by_trace, wrong)
        if new is None and not level.due:
            report.loss, report.correction = min(report.loss, small.loss), None  # the error of the trace form
        level = level.after(report.loss, by_trace - report.loss, report.accepted)
        before = small.step_Ht
        if new is None:
            first = small.passes == 0
            begin = small.momentum.weight if self.accelerated and not first else 0.0
            new = replace(
                small, Ht=Ht, HHt=HHt, XtW=XtW.copy(), WtW=WtW.copy(), loss=report.loss, begin=begin, rejected=0,
                momentum=small.momentum if first else small.momentum.grown(), passes=small.passes + 1,
            )  # fmt: skip
        (m, k), effort = Ht.shape, self._effort(small.passes)[1]
        order, step = self._order(k), np.empty_like(Ht)
        delta = effort.settled if effort.sweeps > 1 else 0.0

        def sweep(lo: int, hi: int, stats: Array, FtF: Array) -> None:
            backend.sweep(
                new.Ht[lo:hi], new.WtW, new.XtW[lo:hi], p.l1_H, p.l2_H, order, step[lo:hi], FtF, stats,
                effort.sweeps, delta,
            )  # fmt: skip

        stats_H, _ = data.map_rows(sweep, m, 2.0 * effort.sweeps * m * k * k, self.sums_H)
        report.violation += stats_H[backend.VIOLATION]
        report.kkt = kkt_frobenius(report.kkt + stats_H[backend.KKT], self.squares_X)
        self._ahead(backend, new, step, before)
        turning = small.loss - report.loss < DOUBTFUL * level.error  # soon a pass is rejected, or this one is
        level.due = self.rounding > LEVEL * max(new.loss, 0.0) and (
            level.since + 1 >= level.interval or level.measured == np.inf or turning
        )
        new.level = level
        return report, new


def _gather_columns(
    backend: Backend, block: Block, after: RowState, orders: MaskedOrders, lo: int, hi: int, sums: Sums
) -> None:
    """Solve for rows lo … hi of Ht from a block of Xᵀ, with the new W."""
    W, p, m = after.arrays["W"], orders.penalties, hi - lo  # type: ignore[attr-defined]
    stats, losses, new = np.zeros(backend.STATS), np.zeros(m), np.empty((m, orders.width), W.dtype)
    Ht = orders.Ht[lo:hi]
    backend.descend_alone(  # type: ignore[attr-defined]
        block, Ht, (Ht, 0.0), W, np.zeros((orders.width,) * 2), p.l1_H, p.l2_H, orders.order,
        orders.sweeps_H, SETTLED, new, stats, losses,  # type: ignore[attr-defined]
    )  # fmt: skip
    sums["Ht"][lo:hi] = new
    sums["of_columns"][lo:hi, 0] = losses
    sums["of_columns"][lo, 1:] = stats[[backend.VIOLATION, backend.KKT]]


@dataclass(slots=True, kw_only=True)
class ObservedOrders(MaskedOrders):
    """Orders of a pass that solves for the columns of H, too."""

    penalties: Penalties
    sweeps_H: int


class ObservedDescent(_Descent):
    """Coordinate descent on each row and each column alone, see the module and `_Descent`; for CSR matrices."""

    gather = Gather(_gather_columns, ("Ht", "of_columns"))

    def start(self, data: Rows, Ht: Array) -> MaskedSmall:
        """Return the small factor with which a fit of `data` starts, and set `sums`."""
        small = super().start(data, Ht)
        self.sums = {"Ht": Ht.shape, "of_columns": (Ht.shape[0], 3), "stats": (data.backend.STATS,), "squares": (1,)}
        return small

    def fix(self, small: Small) -> ObservedOrders:
        """Return the instructions of the next pass."""
        assert isinstance(small, MaskedSmall)
        sweeps = ALONE if self.accelerated else 1
        return ObservedOrders(
            small.next_Ht, small.next_HHt, self._order(small.Ht.shape[1]), begin=small.begin, effort=Effort(sweeps),
            penalties=self.penalties, sweeps_H=sweeps,
        )  # fmt: skip

    def visit(
        self, backend: Backend, block: Block, rows: RowState, orders: Orders, after: RowState, sums: Sums
    ) -> None:
        """Solve for the rows of a block."""
        assert isinstance(orders, MaskedOrders)
        p, W = self.penalties, after.arrays["W"]
        backend.descend_alone(  # type: ignore[attr-defined]
            block, rows.arrays["W"], (rows.arrays["before"], orders.begin), orders.Ht, orders.HHt, p.l1_W, p.l2_W,
            orders.order, orders.effort.sweeps, SETTLED, W, sums["stats"], np.zeros(0),
        )  # fmt: skip
        sums["squares"] += backend.inner(W, W)

    def _columns(self, small: MaskedSmall, sums: Sums, data: Rows) -> tuple[Array, Array, float]:
        """Return the new Ht, [the loss, the violation and the KKT term of H], and by how much the loss may be wrong."""
        return sums["Ht"].astype(small.Ht.dtype), sums["of_columns"].sum(axis=0), 0.0

    def update_columns(self, small: Small, sums: Sums, data: Rows) -> tuple[Report, Small]:
        """Take up the columns that the pass has solved for, and report it; one that raised the loss is rejected."""
        assert isinstance(small, MaskedSmall)
        backend = data.backend
        new_Ht, of_columns, error = self._columns(small, sums, data)
        of_W, squares, (fit, violation_H, kkt_H) = backend.read(sums["stats"], sums["squares"], of_columns)
        new_HHt = backend.gram(new_Ht)
        penalty = self._penalty(backend, (of_W[backend.TOTAL], squares[0]), new_Ht, new_HHt)
        report = Report(
            loss=fit + penalty,
            violation=of_W[backend.VIOLATION] + violation_H,
            kkt=kkt_frobenius(of_W[backend.KKT] + kkt_H, self.squares_X),
        )
        new = self._judged(small, report, report.loss, error)
        if new is not None:
            self._ahead(backend, new, small.Ht, small.Ht)
            return report, new
        first = small.passes == 0
        new = replace(
            small, Ht=new_Ht, HHt=new_HHt, loss=report.loss, rejected=0, passes=small.passes + 1,
            begin=small.momentum.weight if self.accelerated and not first else 0.0,
            momentum=small.momentum if first else small.momentum.grown(),
        )  # fmt: skip
        self._ahead(backend, new, new_Ht, small.Ht)
        return report, new


class SummedDescent(ObservedDescent):
    """`ObservedDescent` for CSR matrices of which no machine has whole columns: these are solved for from sums.

    For column j of H these are the Gram matrix Σ w_i w_iᵀ of the rows that it is observed in, and Σ x_ij w_i: in all m
    (k² + 3k) / 2 numbers, in float64.
    """

    gather = Gather(None, ())

    def start(self, data: Rows, Ht: Array) -> MaskedSmall:
        """Return the small factor with which a fit of `data` starts, and set `sums`."""
        small, (m, k) = super().start(data, Ht), Ht.shape
        self.sums = {"XtW": (m, k), "grams": (m, k * (k + 1) // 2), "stats": (data.backend.STATS,), "squares": (1,)}
        return small

    def fix(self, small: Small) -> ObservedOrders:
        """Return the instructions of the next pass."""
        orders = super().fix(small)
        self._order_of_pass = orders.order
        return orders

    def visit(
        self, backend: Backend, block: Block, rows: RowState, orders: Orders, after: RowState, sums: Sums
    ) -> None:
        """Solve for the rows of a block, and add up what the columns of H are solved for from."""
        super().visit(backend, block, rows, orders, after, sums)
        backend.add_alone(block, after.arrays["W"], sums["XtW"], sums["grams"])  # type: ignore[attr-defined]

    def _columns(self, small: MaskedSmall, sums: Sums, data: Rows) -> tuple[Array, Array, float]:
        """Solve for the columns of H from the sums of a pass, see `ObservedDescent`."""
        backend, p, Ht = data.backend, self.penalties, small.next_Ht
        (m, k), new = Ht.shape, np.empty_like(Ht)

        def solve(lo: int, hi: int, stats: Array, loss: Array) -> None:
            backend.descend_summed(  # type: ignore[attr-defined]
                sums["XtW"][lo:hi], sums["grams"][lo:hi], Ht[lo:hi], p.l1_H, p.l2_H, self._order_of_pass,
                ALONE if self.accelerated else 1, SETTLED, new[lo:hi], stats, loss,
            )  # fmt: skip

        stats, loss = data.map_rows(solve, m, 20.0 * m * k * k, ((backend.STATS,), (1,)))
        fit = max(0.5 * self.squares_X + loss[0], 0.0)
        # This form cancels where the fit is good: its rounding errors are of the size of Σx².
        return new, np.array([fit, stats[backend.VIOLATION], stats[backend.KKT]]), EXACT * self.squares_X


class MaskedMultiplicative(MultiplicativeUpdate):
    """Multiplicative updates with numerators and denominators over observed entries, for every β."""

    gather = Gather(None, ())

    def __init__(self, penalties: Penalties = UNPENALISED, beta: float = 2.0):
        super().__init__(penalties, beta)
        self.gather = Gather(None, ())
        self.measures_start = False  # the first pass measures the start

    def start(self, data: Rows, Ht: Array) -> Small:
        """Return the small factor with which a fit of `data` starts, and set `sums`."""
        (m, k), none = Ht.shape, np.zeros((0, 0))
        self.sums = {"N": (m, k), "D": (m, k), "stats": (data.backend.STATS + 2 * k,), "loss": (2,)}
        self.squares_X = data.summary().squares
        return Small(Ht, none)

    def fix(self, small: Small) -> Orders:
        """Return the instructions of the next pass."""
        return Orders(small.Ht, small.HHt, measure=small.passes % 10 == 0)

    def _update(self, backend: Backend, block: Block, W: Array, orders: Orders, out: Array, sums: Sums) -> None:
        p = self.penalties
        loss = backend.multiply_beta(
            block, W, orders.Ht, self.beta, self.gamma, p.l1_W, p.l2_W, self._floor, True, orders.measure,
            out, sums["N"], sums["D"], sums["stats"],
        )  # fmt: skip
        if orders.measure:
            self._add_loss(backend, block, sums, loss, W)

    def _updated(self, small: Small, sums: Sums, data: Rows) -> tuple[Small, list[Array]]:
        return self._update_beta(small, sums, data)

    def _told(self, numbers: Numbers, small: Small, data: Rows) -> Report:
        return self._told_beta(numbers, small, data)

    def denominator(self, D: Array) -> Array:
        """Return the denominators as they are: each column of X has its own."""
        return D

    def code(
        self, backend: Backend, block: Block, orders: Orders, tol: float, max_iter: int, by_step: bool,
        out: Array, stats: Array,
    ) -> None:  # fmt: skip
        """Solve for each row on its observed entries, until its error √(2 D_β) falls by less than tol in 10 updates."""
        p = self.penalties
        backend.code_alone(  # type: ignore[attr-defined]
            block, orders.Ht, self.beta, self.gamma, p.l1_W, p.l2_W, self._floor, tol, max_iter, out, stats
        )
