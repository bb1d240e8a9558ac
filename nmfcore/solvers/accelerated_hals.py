"""Accelerated, extrapolated HALS: the coordinate descent of "cd" with far fewer passes over X.

Several sweeps share one product (N. Gillis, F. Glineur, "Accelerated multiplicative updates and hierarchical ALS
algorithms for nonnegative matrix factorization", Neural Computation 24(4), 2012), and both factors are extrapolated
with restarts (A. M. S. Ang, N. Gillis, "Accelerating nonnegative matrix factorization algorithms using extrapolation",
Neural Computation 31(2), 2019). A pass over X, from the accepted W with its predecessor V and the extrapolated Ĥ:

    Y = max(0, W + β(W − V)),    W⁺ = sweeps(Y; X·Ĥᵀ, ĤĤᵀ),    XᵀW⁺, W⁺ᵀW⁺, W⁺ᵀD, DᵀD,    D = W⁺ − W

The sums that H needs of Z = W⁺ + β(W⁺ − W) are a combination of these sums and of those of the pass before, so Z is
never formed. As the sums of the accepted W are known, too, H takes a plain step from the accepted pair when a pass is
rejected, without another pass over X, and the next pass can only descend from there.

The loss of the feasible pair (W⁺, Ĥ) is free, and its change is exact where the change is small: from (W, H),

    f(W, Ĥ) − f(W, H)  = ⟨½(Ĥ + H)·WᵀW − WᵀX, Ĥ − H⟩
    f(W⁺, Ĥ) − f(W, Ĥ) = ⟨½(W⁺ + W)·ĤĤᵀ − X·Ĥᵀ, D⟩ = ⟨W⁺ᵀD − ½DᵀD, ĤĤᵀ⟩ − ⟨X·Ĥᵀ, D⟩

have rounding errors in proportion to the steps. Those of the trace form ½(‖X‖² − 2⟨XᵀW, H⟩ + ⟨WᵀW, HHᵀ⟩) are in
proportion to ‖X‖²; in float32 they hide the progress of a pass once the fit is good. So the trace form is used for the
loss of the first pass only.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, fields, replace
from operator import attrgetter, mul
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .._typing import Array
from ..objective import UNPENALISED, Penalties, kkt_frobenius, trace_loss
from ._candidates import spread_out
from ._common import Correction, Foreseen, Incoming, Orders, Report, Small, Sums
from .coordinate_descent import CoordinateDescent

if TYPE_CHECKING:
    from .._typing import Block, Numbers
    from ..backends.operations import Backend, Number, Pace
    from ..rows.base import Rows
    from ..rows.state import RowState
    from ._common import Shapes

# Ang and Gillis' constants for HALS.
FIRST, GROW, CAP_GROW, SHRINK = 0.5, 1.01, 1.005, 1.5


class Effort(NamedTuple):
    """How well a pass solves for one factor given the other."""

    sweeps: int
    settled: float = 0.1  # a row is left alone once its step is below this share of its first one
    conjugate: int = 0  # steps of conjugate gradients after every fourth sweep, for rows that still move


# Stages are (number of the first pass, effort for W, effort for H); None stands for the effort that `thorough` returns.
Stages = tuple[tuple[int, Effort | None, Effort | None], ...]
# Few sweeps early lead to better local minima: median final errors of 6 to 10 random starts on MNIST[:10000] with
# k = 15 were 0.9995 of those of "cd" with 1 sweep of W and 3 of H, 1.0001 with 2 and 2, 1.0012 with 6 and 6. Later both
# factors have to be solved for well: after 100 passes errors are 0.4 to 5 % lower than with 4 and 8 sweeps to the end.
STAGES: Stages = ((0, Effort(1), Effort(3)), (20, None, None))
# For a fit of a sample: its H is only as good as the sample is representative, and less effort finds the same minimum.
SAMPLE: Stages = ((0, Effort(1), Effort(3)), (20, Effort(4), Effort(8)))
# For a start with a good H: the first pass finds the W that belongs to it.
TRUSTED: Stages = ((0, Effort(30, 0.01), Effort(8)), (1, Effort(4), Effort(8)), (20, None, None))
# A fit that has not ended by then is a slow one. Where X is small enough to stay in the processor's cache, an iteration
# makes several passes from here on, with few sweeps each. With k = 30 … 200 components for 129 … 520 rows or columns,
# fits of 200 passes ended 1 to 7 % above those of 3,000, whatever was done within a pass: more sweeps, conjugate
# gradients, Anderson acceleration of H, joint Gauss–Newton steps of both factors. With 8 passes in an iteration they
# end 0.3 to 2 % above in the median, with 32 at most 0.6 % (float32 leaves saddles, too), in up to 2.3 times the time.
SLOW = 100  # number of passes
SETTLE = Effort(8, 0.01)
SEVERAL = 32  # most passes in an iteration
CACHED = 1 << 22  # most numbers of X
LONG = 10e9  # most multiplications in an iteration of several passes, about
# Error of the trace form as a share of ½‖X‖², by the bytes of the compute type.
ROUNDING = {4: 1e-7, 8: 1e-14}
LEVEL = 1e-5  # the loss is measured directly where the error of the trace form is a larger share of it
RARELY = 40  # most passes between two measurements
TRUE = 0.05  # share of the measured fall of the loss by which the fall that the steps add up to may differ
NOISE = 4  # error of a change of the loss, as a share of ε·‖X‖·(length of the step in the reconstruction)
FEW = 1e8  # multiplications that take no time worth saving
TOLD = 5  # arrays of numbers that tell of the step that was foreseen
SLACK = 5e-7  # share of the loss by which rounding may raise it in a pass, at most


@dataclass(slots=True)
class Momentum:
    """How far both factors are extrapolated."""

    weight: float = FIRST
    cap: float = 1.0
    accepted: float = FIRST  # the weight of the last accepted pass

    def grown(self) -> Momentum:
        """Return the momentum after an accepted pass."""
        return Momentum(min(self.cap, GROW * self.weight), min(1.0, CAP_GROW * self.cap), self.weight)

    def shrunk(self) -> Momentum:
        """Return the momentum after a rejected pass."""
        return Momentum(self.weight / SHRINK, self.accepted, self.accepted)


@dataclass(slots=True)
class Level:
    """How high the loss is. Passes add up its changes; now and then, if rounding demands it, one measures it directly.

    X·Hᵀ is known to ε·‖X‖·‖H‖. Where HHᵀ is ill-conditioned, W follows this error far in every pass, and the steps
    count that as a fall of the loss.
    """

    lowest: float = np.inf  # of the accepted pairs
    measured: float = np.inf  # the loss that was last measured directly
    since: int = 0  # number of accepted passes since then
    iterations: int = 0  # number of iterations that these passes belong to
    interval: int = 1  # number of accepted passes from one measurement to the next
    due: bool = False  # the next pass measures

    def after(self, report: Report, continues: bool = False) -> Level:
        """Return the level after a pass. Measurements become rarer as long as the steps agree with them.

        Parameters
        ----------
        report : Report
        continues : bool
            Whether the pass belongs to the iteration of the pass before it. Defaults to False.
        """
        offset, interval = report.offset, self.interval
        if self.due and self.measured < np.inf:
            true = abs(offset) <= TRUE * abs(self.measured - report.loss)
            interval = min(2 * interval, RARELY) if true else 1
        if not report.accepted:
            return Level(self.lowest + offset, self.measured, self.since, self.iterations, interval)
        if self.due:
            return Level(report.loss, report.loss, 0, 0, interval)
        return self.stepped(min(self.lowest, report.loss), continues)

    def stepped(self, lowest: float, continues: bool) -> Level:
        """Return the level after an accepted pass that has measured nothing, with the lowest loss so far."""
        return Level(lowest, self.measured, self.since + 1, self.iterations + (not continues), self.interval)


@dataclass(slots=True, kw_only=True)
class Accelerated(Small):
    """The accepted Ht (that of `Small`), and everything that the next pass depends on.

    Components may be rescaled between passes. `H`, `XtW` and `WtW` are in the new scale, into which the orders of the
    next pass bring W; `Ht` and `HHt` are in the scale of the accepted W as it is stored.
    """

    next_Ht: Array  # Ĥ, extrapolated
    next_HHt: Array
    H: Array  # the accepted Ht, in the new scale
    step_Ht: Array  # result of the last step of H, before the extrapolation
    XtW: Array  # sums of the accepted W
    WtW: Array
    sum_W: Array  # column sums, under penalties only
    scale: Array  # 2k: of W, of its predecessor
    momentum: Momentum
    loss: float = np.inf  # of the accepted pair, in the new scale
    penalty: float = 0.0  # its part of the loss
    ahead: tuple[Number, ...] = ()  # terms of the change of the loss from the accepted Ht to Ĥ, see `_ahead`
    level: Level
    rejected: int = 0  # number of passes rejected in a row
    begin: float = 0.0  # β of Y; 0 after a rejected pass
    pace: Array | None = None  # where a device keeps `begin` and the momentum, if a step ahead has led to this state
    revive: int = 0  # number of dead components: the next pass finds as many rows to revive them with
    revived: bool = False  # the next pass tries revived components
    barren: bool = False  # under penalties such a try has raised the loss: zero is the answer

    def copied(self) -> Accelerated:
        """Return another state with the same values, in a third of the time that `dataclasses.replace` takes."""
        new = object.__new__(Accelerated)
        for name, value in zip(_NAMES, _VALUES(self), strict=True):
            setattr(new, name, value)
        return new


_NAMES = tuple(field.name for field in fields(Accelerated))
_VALUES = attrgetter(*_NAMES)


@functools.cache
def _unscaled(k: int, dtype: np.dtype) -> Array:
    """Return the scales of components that keep theirs, of W and of its predecessor: the same array at each call."""
    return np.ones(2 * k, dtype)


@dataclass(slots=True, kw_only=True)
class AcceleratedOrders(Orders):
    """Orders of a pass with momentum."""

    scale: Array
    begin: float | Array
    effort: Effort
    revive: bool


class AcceleratedHALS(CoordinateDescent):
    """Several sweeps over the rows of W and the columns of H per pass over X, both extrapolated.

    Parameters
    ----------
    penalties : Penalties
        Scaled with the shape of X. There are none by default.
    shuffle : numpy.random.RandomState or None
        Draws a new order of the components for every step of either factor. None keeps their natural order.
    trusted : bool
        Whether the fit starts with a good H, which is True after fits of samples. Then the first pass finds the W that
        belongs to it, and no sweeps are saved for the sake of a better local minimum.
    sample : bool
        Whether X is a sample of rows whose H only starts another fit. Then fewer sweeps are made.
    """

    rule = "fall"

    def __init__(
        self,
        penalties: Penalties = UNPENALISED,
        shuffle: np.random.RandomState | None = None,
        trusted: bool = False,
        sample: bool = False,
    ):
        super().__init__(penalties, shuffle)
        self.trusted, self.sample = trusted, sample

    def rows(self, W: Array) -> dict[str, Array]:
        """Return W and the W of the pass before, which the first pass does not read."""
        return {"W": W, "before": np.empty_like(W)}

    def start(self, data: Rows, Ht: Array) -> Accelerated:
        """Return the small factor with which a fit of `data` starts, and set `sums`."""
        super().start(data, Ht)
        k = Ht.shape[1]
        self.sums |= {"WtD": (2 * k, k)}
        if self.penalised:
            self.sums |= {"sum_W": (k,)}
        self.rounding = ROUNDING[data.dtype.itemsize] * 0.5 * self.squares_X
        eps = float(np.finfo(data.dtype).eps)
        self.negligible = (2 * eps) ** 2 * self.squares_X  # ‖wh‖² of a component that consists of rounding errors
        self.exact = 0.5 * (4 * eps) ** 2 * self.squares_X  # a loss that consists of rounding errors
        self.noise = NOISE * eps * math.sqrt(self.squares_X)
        # How many sweeps over W, and over H, take about twice as long as the products of a pass, or a few milliseconds.
        n, m = data.shape
        self.room = tuple(
            max(0.0 if data.sparse else 4 * others / k, FEW / (rows * k * k)) for rows, others in ((n, m), (m, n))
        )
        stages, self.alternations = TRUSTED if self.trusted else SAMPLE if self.sample else STAGES, 1
        if not self.sample and n * m <= CACHED:
            work = (2.0 * n * m + SETTLE.sweeps * (n + m) * Ht.shape[1]) * Ht.shape[1]
            self.alternations = int(min(max(LONG / work, 1), SEVERAL))
            if self.alternations > 1:
                stages = (*stages, (SLOW, SETTLE, SETTLE))
        self.stages = [
            (since, for_W or thorough(self.room[0]), for_H or thorough(self.room[1]))
            for since, for_W, for_H in reversed(stages)
        ]
        HHt = self.gram(data.backend, Ht)
        unset = np.zeros(0)
        return Accelerated(
            Ht=Ht, HHt=HHt, next_Ht=Ht, next_HHt=HHt, H=Ht, step_Ht=Ht, XtW=unset, WtW=unset, sum_W=unset,
            scale=_unscaled(k, Ht.dtype), momentum=Momentum(), level=Level(),
        )  # fmt: skip

    def fix(self, small: Small) -> Orders:
        """Return the instructions of the next pass."""
        assert isinstance(small, Accelerated)
        order = self._order(small.Ht.shape[1])
        return AcceleratedOrders(
            small.next_Ht, small.next_HHt, order, scale=small.scale, revive=small.revive > 0,
            begin=small.begin if small.pace is None else small.pace, effort=self._effort(small.passes)[0],
            measure=small.level.due,
        )  # fmt: skip

    def continues(self, small: Small) -> bool:
        """Whether a pass belongs to the iteration of the pass before it: of a slow fit of a small X, most do."""
        return small.passes > SLOW and (small.passes - SLOW) % self.alternations != 0

    def _effort(self, passes: int) -> tuple[Effort, Effort]:
        """Return the effort for W and for H of the pass after so many."""
        for since, for_W, for_H in self.stages:
            if passes >= since:
                return for_W, for_H
        raise ValueError(passes)

    def visit(
        self, backend: Backend, block: Block, rows: RowState, orders: Orders, after: RowState, sums: Sums
    ) -> None:
        """Sweep over the rows of a block from their extrapolation, and add their sums."""
        assert isinstance(orders, AcceleratedOrders)
        p, W = self.penalties, after.arrays["W"]
        effort = orders.effort
        begin = backend.Beginning(rows.arrays["before"], orders.scale, orders.begin, sums["WtD"], effort.conjugate)
        backend.descend(
            block, rows.arrays["W"], orders.Ht, orders.HHt, p.l1_W, p.l2_W, orders.order, effort.sweeps, 0.0,  # type: ignore[arg-type]
            W, sums["XtW"], sums["WtW"], sums["stats"], effort.settled, begin,
        )  # fmt: skip
        if self.penalised:
            sums["sum_W"] += backend.column_sums(backend.weighted(block, W))
        if orders.revive:
            backend.worst_rows(block, W, orders.Ht, sums["worst"])
        if orders.measure:
            sums["measured"] += backend.divergence(block, W, orders.Ht, 2.0)

    def update_columns(self, small: Small, sums: Sums, data: Rows) -> tuple[Report, Accelerated]:
        """Step over the columns of H, and report the pass; a pass that raised the loss is rejected."""
        assert isinstance(small, Accelerated)
        foreseen = self.foresee(small, sums, data)
        return self._settled(small, sums, data, foreseen)

    def repeats(self, small: Small) -> bool:
        """Return whether a pass is like those to come: with many sweeps, and nothing measured or revived."""
        assert isinstance(small, Accelerated)
        return small.passes >= STAGES[-1][0] and not small.revive and not small.level.due and super().repeats(small)

    def settle(self, small: Small, sums: Sums, data: Rows, foreseen: Foreseen) -> tuple[Report, Accelerated]:
        """Report a pass; it has gone as foreseen if it is accepted and has left no component dead."""
        assert isinstance(small, Accelerated)
        return self._settled(small, sums, data, foreseen)

    def _settled(
        self, small: Accelerated, sums: Sums, data: Rows, foreseen: Foreseen | None
    ) -> tuple[Report, Accelerated]:
        backend, level = data.backend, small.level
        if foreseen is None:
            read, told = backend.read(*self._wanted(small, sums, backend), *small.ahead), []
        else:
            read = foreseen.numbers()
            read, told = read[:-TOLD], read[-TOLD:]
        report, of_penalty, slack = self._report(small, read, backend)
        exact = level.due and level.since == 0  # this loss and the one before it were measured
        by_steps = report.loss - report.offset if level.due and not exact else report.loss
        if small.passes == 0 or by_steps <= level.lowest + slack or report.loss <= self.exact:
            if foreseen is not None and self._as_foreseen(small, foreseen, report, told, data):
                assert isinstance(foreseen.following, Accelerated)
                return report, foreseen.following
            new, XtZ, ZtZ = self._accept(small, sums, report, of_penalty, backend)
            new.rejected = 0
        else:
            report.accepted = False
            new = replace(
                small, momentum=small.momentum.shrunk(), begin=0.0, pace=None, revive=0, barren=small.revived,
                loss=small.loss + report.offset, rejected=small.rejected + 1,
            )  # fmt: skip
            # H's plain step from the accepted pair, without momentum, needs no pass over X, and can only descend.
            XtZ, ZtZ = small.XtW, small.WtW
            # If a pass without momentum raises the loss, twice, then by rounding.
            report.exhausted = new.rejected > 2 and not small.revived and not self.penalised
        new.passes = small.passes + 1
        new.level = level.after(report, self.continues(small))
        found = self._found(small, sums, report.accepted, new, backend)
        if small.passes == 0 or not report.accepted:
            XtZ, ZtZ = self._balance(new, backend)
        elif found is not None:  # revived components are tried without momentum, so that nothing else raises the loss
            new.begin, XtZ, ZtZ = 0.0, new.XtW, new.WtW
        step, stats_H, _ = self._sweep_columns(data, new.H, XtZ, ZtZ, *self._effort(small.passes)[1])
        new.next_Ht = step
        if new.begin > 0:
            weight = step.dtype.type(new.momentum.weight)
            new.next_Ht = np.maximum(step + weight * (step - small.step_Ht), 0)
            if self.fixed is not None:
                self.fixed.restored(new.next_Ht, step)  # a zero stays one of the same sign
        new.step_Ht = step
        squares_H = np.einsum("jt,jt->t", self.weighted(new.next_Ht), new.next_Ht, dtype=np.float64)
        shares = np.diagonal(new.WtW) * squares_H
        of_H, dead = backend.read(stats_H, shares <= self.negligible)
        report.kkt = kkt_frobenius(report.kkt + of_H[backend.KKT], self.squares_X)
        report.violation += of_H[backend.VIOLATION]
        numbers = np.flatnonzero(dead if self.fixed is None else np.where(self.fixed.mask, 0, dead))
        if numbers.size:
            self._remove(new, numbers, backend)
        new.revived = found is not None and numbers.size > 0
        if found is not None and new.revived:
            numbers = self._revive(new, numbers, found, backend)
        new.revive = 0 if new.barren or (report.accepted and small.revive and found is None) else len(numbers)
        report.unfinished = new.revived or new.revive > 0
        new.next_HHt = self.gram(backend, new.next_Ht)
        new.ahead = self._ahead(new, backend)
        self._order_sums(new, data)
        return report, new

    def _order_sums(self, new: Accelerated, data: Rows) -> None:
        """Say whether the next pass measures the loss, and name the sums that it makes."""
        new.level.due = self._due(new.level, new.loss)
        self.sums = self.shapes(new)

    def _due(self, level: Level, loss: float) -> bool:
        """Whether rounding demands that the next pass measures the loss."""
        return self.rounding > LEVEL * loss and (level.since >= level.interval or level.measured == np.inf)

    def shapes(self, small: Small) -> Shapes:
        """Return names and shapes of the sums of the pass that begins with `small`."""
        assert isinstance(small, Accelerated)
        if not (small.revive or small.level.due or "worst" in self.sums or "measured" in self.sums):
            return self.sums
        sums = {name: shape for name, shape in self.sums.items() if name not in ("worst", "measured")}
        if small.revive:
            sums["worst"] = (small.revive, 1 + small.Ht.shape[0])
        if small.level.due:
            sums["measured"] = (1,)
        return sums

    def foresee(self, small: Small, sums: Sums, data: Rows) -> Foreseen | None:
        """Queue the step of H that follows if the pass is accepted and leaves no component dead.

        None for passes that more than a step may follow: the first, those under penalties or with fixed components, and
        those that find rows for dead components.
        """
        p, backend = self.penalties, data.backend
        if (
            not backend.QUEUES
            or self.penalised
            or self.shuffle is not None
            or self.fixed is not None
            or small.passes == 0
        ):
            return None
        assert isinstance(small, Accelerated)
        if small.revive:
            return None
        new, k, effort = self._accepted(small, sums, backend), small.next_Ht.shape[1], self._effort(small.passes)[1]
        momentum = new.momentum
        pace: Pace | Array = (
            backend.Pace(momentum.weight, new.begin, momentum.cap, GROW, CAP_GROW) if small.pace is None else small.pace
        )
        made = backend.step_ahead(
            new.H, small.step_Ht, pace, backend.Weighed(new.XtW, new.WtW, sums["WtD"]),
            backend.Weighed(small.XtW, small.WtW), p.l1_H, p.l2_H, self._order(k), *effort,
        )  # fmt: skip
        new.step_Ht, new.next_Ht, new.next_HHt, new.ahead, new.pace = made.step, made.Ht, made.HHt, (), made.pace
        new.passes, new.rejected, new.revived, new.penalty = small.passes + 1, 0, False, 0.0
        level = small.level
        if level.due:
            new.level = Level(level.lowest, 0.0, 0, 0, level.interval)  # it will have been measured
        else:
            new.level = level.stepped(level.lowest, self.continues(small))
        new.level.due = self._due(new.level, small.loss)
        numbers = backend.send(
            *self._wanted(small, sums, backend), *small.ahead, *made.change, made.stats, *made.squares
        )
        return Foreseen(new, numbers)

    def _as_foreseen(self, small: Accelerated, foreseen: Foreseen, report: Report, told: Numbers, data: Rows) -> bool:
        """Complete the state that was foreseen after an accepted pass; return False where a component has died."""
        *change, of_H, squares_W, squares_H = told
        new, backend = foreseen.following, data.backend
        assert isinstance(new, Accelerated)
        if any(map(self.negligible.__ge__, map(mul, squares_W, squares_H))):
            return False
        report.kkt = kkt_frobenius(report.kkt + of_H[backend.KKT], self.squares_X)
        report.violation += of_H[backend.VIOLATION]
        new.loss, new.ahead, expected = report.loss, tuple(change), new.level.due
        new.level = small.level.after(report, self.continues(small))
        self._order_sums(new, data)
        foreseen.holds = new.level.due == expected
        return True

    def _wanted(self, small: Accelerated, sums: Sums, backend: Backend) -> list[Number]:
        """Return the numbers that the loss of a pass is made of, beside those of `small.ahead`."""
        Ht, HHt, WtW = self.weighted(small.next_Ht), small.next_HHt, sums["WtW"]
        k = WtW.shape[0]
        wanted = [sums["stats"], *backend.changes(sums["WtD"], HHt)]
        if small.passes == 0:
            wanted += [backend.inner(sums["XtW"], Ht), backend.inner(WtW, HHt)]
        if self.penalised:
            half = sums["WtD"][:k] - 0.5 * sums["WtD"][k:]
            wanted += [np.trace(half), Ht.sum(dtype=np.float64), np.trace(WtW), np.trace(HHt)]
        if small.level.due:
            wanted.append(sums["measured"])
        return wanted

    def _report(self, small: Accelerated, numbers: Numbers, backend: Backend) -> tuple[Report, float, float]:
        """Report the loss at (W⁺, Ĥ), and W's part of violation and KKT residual.

        Parameters
        ----------
        small : Accelerated
            What the pass began with.
        numbers : list
            Those of `_wanted`, and of `small.ahead` unless they are known.
        backend : Backend

        Returns
        -------
        report : Report
            Without H's part of violation and KKT residual.
        of_penalty : float
            The penalties' part of the loss.
        slack : float
            The amount by which rounding may raise the loss.
        """
        p, first, penalised = self.penalties, small.passes == 0, self.penalised
        stats, square, step, *others = numbers
        count = 2 * first + 4 * penalised + small.level.due
        terms, others = others[count:] or list(small.ahead), others[:count]
        ahead = self._change_ahead(*reversed(terms)) if terms else 0.0
        change, of_penalty = square - stats[backend.CROSS], 0.0
        report = Report(kkt=stats[backend.KKT], violation=stats[backend.VIOLATION])
        measured = others.pop()[0] if small.level.due else None
        if penalised:
            trace, *values = others[-4:]
            change += p.l2_W * trace
            of_penalty = p.value(stats[backend.TOTAL], *values)
        if first:
            report.loss = trace_loss(self.squares_X, *others[:2]) + of_penalty
            report.incoming = Incoming(report.loss - change)
            return report, of_penalty, 0.0
        report.loss = small.loss + ahead + change
        if measured is not None:
            offset, report.loss = measured + of_penalty - report.loss, measured + of_penalty
            report.correction = Correction(offset, small.level.iterations if small.level.measured < np.inf else -1)
        slack = self.noise * (math.sqrt(max(0.0, step)) + math.sqrt(2 * abs(ahead)))
        return report, of_penalty, min(slack, SLACK * abs(small.level.lowest))

    def _accepted(self, small: Accelerated, sums: Sums, backend: Backend) -> Accelerated:
        """Return the small state with the pair of an accepted pass, whose loss is still to be entered."""
        new = small.copied()
        new.Ht = new.H = small.next_Ht
        new.HHt, new.revive, new.pace = small.next_HHt, 0, None
        new.XtW, new.WtW = backend.kept(sums["XtW"]), backend.kept(sums["WtW"])
        k = len(small.scale) // 2
        unscaled = _unscaled(k, small.scale.dtype)
        if small.scale is not unscaled:
            scale = np.concatenate([unscaled[:k], small.scale[:k]])
            new.scale = unscaled if (scale == 1).all() else scale
        if small.passes:  # the step from the start is no direction to extrapolate in
            new.begin, new.momentum = small.momentum.weight, small.momentum.grown()
        return new

    def _accept(
        self, small: Accelerated, sums: Sums, report: Report, of_penalty: float, backend: Backend
    ) -> tuple[Accelerated, Array, Array]:
        """Return the new small state, and the sums of Z = W⁺ + β(W⁺ − W)."""
        new = self._accepted(small, sums, backend)
        new.loss, new.penalty = report.loss, of_penalty
        XtW, WtW, beta, k = new.XtW, new.WtW, new.begin, new.WtW.shape[0]
        if self.penalised:
            new.sum_W = sums["sum_W"].copy()
        if small.passes == 0:
            return new, XtW, WtW
        XtZ = (1 + beta) * XtW
        XtZ -= beta * small.XtW
        ZtZ = (1 + beta) * WtW - beta * small.WtW + beta * (1 + beta) * sums["WtD"][k:]
        return new, XtZ, ZtZ

    def _ahead(self, new: Accelerated, backend: Backend) -> tuple[Number, ...]:
        """Return the terms of the change of the loss from the accepted H to the Ĥ of the next pass, W as accepted.

        They are read with the sums of the next pass, so that a device is waited for once per pass only.
        """
        step = self.weighted(new.next_Ht - new.H)
        half = backend.gram(new.next_Ht + new.H, step)
        numbers = (backend.inner(half, new.WtW), backend.inner(new.XtW, step))
        return (np.trace(half), step.sum(dtype=np.float64), *numbers[::-1]) if self.penalised else numbers[::-1]

    def _change_ahead(self, square: float, cross: float, sum_H: float = 0.0, trace: float = 0.0) -> float:
        """Return the change of the loss whose terms `_ahead` has returned, given in reverse order."""
        return 0.5 * square - cross + self.penalties.l1_H * sum_H + 0.5 * self.penalties.l2_H * trace

    def _balance(self, new: Accelerated, backend: Backend) -> tuple[Array, Array]:
        """Rescale the components of the accepted pair, W by d and H by 1/d; return the sums of W in the new scale."""
        p, k, host = self.penalties, new.WtW.shape[0], backend.to_numpy
        squares_W = host(np.diagonal(new.WtW))
        weighted_H = self.weighted(new.H)
        squares_H = host(np.einsum("jt,jt->t", weighted_H, new.H, dtype=np.float64))
        if self.penalised:
            new.sum_W, sum_H = host(new.sum_W), host(weighted_H.sum(axis=0, dtype=np.float64))
            d = balance(p.l1_W * new.sum_W, p.l2_W * squares_W, p.l1_H * sum_H, p.l2_H * squares_H)
            d = self._free_scales(d)
            before = p.value(*(float(part.sum()) for part in (new.sum_W, sum_H, squares_W, squares_H)))
            new.sum_W = new.sum_W * d
            scaled = (new.sum_W, sum_H / d, squares_W * d**2, squares_H / d**2)
            fall = p.value(*(float(part.sum()) for part in scaled)) - before
            new.loss, new.penalty = new.loss + fall, new.penalty + fall
            new.level.lowest = min(new.level.lowest, new.loss)
        else:
            alive = (squares_W > 0) & (squares_H > 0)
            ratio = np.divide(squares_H, squares_W, out=np.ones(k), where=alive)
            d = self._free_scales(np.exp2(np.round(np.log2(ratio) / 4)))  # a power of two rounds nothing
        new.scale = (new.scale * np.tile(d, 2)).astype(new.scale.dtype)
        d = backend.asarray(d)
        new.H = (new.H / d).astype(new.H.dtype)
        new.XtW, new.WtW = new.XtW * d, new.WtW * np.outer(d, d)
        return new.XtW, new.WtW

    def _free_scales(self, d: Array) -> Array:
        """Return scales that leave fixed components as they are."""
        return d if self.fixed is None else np.where(self.fixed.mask, 1.0, d)

    def _found(
        self, small: Accelerated, sums: Sums, accepted: bool, new: Accelerated, backend: Backend
    ) -> Array | None:
        """Return vectors to revive dead components with: residuals of badly fitted rows, unlike one another."""
        if not small.revive or not accepted or new.barren:
            return None
        worst = backend.to_numpy(sums["worst"])
        chosen = spread_out(
            worst[2 * worst[:, 0] > self.negligible, 1:],
            small.revive,
            lambda F: backend.to_numpy(self.gram(backend, backend.asarray(F))),
        )
        return chosen if len(chosen) else None  # none: X is met exactly

    def _remove(self, new: Accelerated, dead: Array, backend: Backend) -> None:
        """Set components to zero whose part in WH is rounding, or one factor grows without bound as the other fades."""
        k = new.WtW.shape[0]
        if self.penalised:
            sum_W, H = backend.to_numpy(new.sum_W), backend.to_numpy(new.H[:, dead]).astype(np.float64)
            weighted_H = self.weighted(H)
            squares_W = backend.to_numpy(np.diagonal(new.WtW))
            fall = self.penalties.value(
                float(sum_W[dead].sum()),
                float(weighted_H.sum()),
                float(squares_W[dead].sum()),
                float((weighted_H * H).sum()),
            )
            new.loss, new.penalty = new.loss - fall, new.penalty - fall
            new.level.lowest = min(new.level.lowest, new.loss)
            new.sum_W = np.where(np.isin(np.arange(k), dead), 0.0, sum_W)
        new.next_Ht, new.step_Ht, new.H = new.next_Ht.copy(), new.step_Ht.copy(), new.H.copy()
        new.next_Ht[:, dead] = new.step_Ht[:, dead] = new.H[:, dead] = 0
        new.scale = new.scale.copy()  # it may be the array of all states
        new.scale[dead] = new.scale[k + dead] = 0
        new.XtW[:, dead] = new.WtW[dead] = new.WtW[:, dead] = 0

    def _revive(self, new: Accelerated, dead: Array, found: Array, backend: Backend) -> Array:
        """Set dead components to the vectors found; return the numbers of the components for which there was none.

        W·H does not change, as these components' columns of W are zero.
        """
        p = self.penalties
        revived = dead[: len(found)]
        h = found[: len(revived)].T
        # scaled as if each of them were used by one row only
        ones, weighted_h = np.ones(len(revived)), self.weighted(h)
        squares = np.einsum("jt,jt->t", weighted_h, h)
        if self.penalised:
            d = balance(p.l1_W * ones, p.l2_W * ones, p.l1_H * weighted_h.sum(axis=0), p.l2_H * squares)
        else:
            d = np.exp2(np.round(np.log2(squares) / 4))
        new.next_Ht[:, revived] = new.step_Ht[:, revived] = backend.asarray((h / d).astype(new.H.dtype))
        return dead[len(revived) :]


def thorough(room: float) -> Effort:
    """Return the effort that solves well for a factor in at most about `room` sweeps.

    Rows are swept in groups of 64 until all of them have settled, so most groups take the maximum number of sweeps.
    """
    if room >= 150:
        return Effort(16, 0.01, 20)
    if room >= 28:
        return Effort(8, 0.01, 20)
    return Effort(round(min(max(room, 8), 16)), 0.01)


def balance(linear_W: Array, square_W: Array, linear_H: Array, square_H: Array) -> Array:
    """Return scales d > 0 that minimise linear_W·d + ½·square_W·d² + linear_H/d + ½·square_H/d² for each component.

    The sum is convex in log d, and minimised by Newton steps. Where only one factor is penalised there is no best
    scale, and d is 1.
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
