"""When a fit ends, and why: the stop rules of all fits, and the reasons for an end."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from enum import Enum
from math import isnan
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np

from .._typing import Array
from ..objective import inner
from ..scale import times
from ..solvers._common import Report

# ---- reasons -------------------------------------------------------------------------------------------------------


class StopReason(Enum):
    """Why a fit ended. The value is the sentence that says so, with its numbers left open."""

    STATIONARY_START = "the start is a stationary point (no violation)"
    VIOLATION = "the violation fell to {ratio:.2g} of the first, at most tol = {tol:g}"
    ERROR = "the error fell by less than tol = {tol:g} of its first value in 10 iterations"
    RELATIVE_ERROR = "the relative error fell by less than tol = {tol:g} in {passes} iterations"
    KKT_RESIDUAL = "the KKT residual fell to {kkt:.2g}, at most tol / 10 = {tenth:g}"
    ROUNDING = "no step lowers the loss any more: what is left is rounding in the compute type"
    CHANGE_OF_H = "H changed by {change:.2g} of itself in a step, at most tol = {tol:g}"
    SMOOTHED_COST = "the smoothed cost did not improve for {steps} steps"
    ERROR_OF_PASS = "the error fell by less than tol = {tol:g} of itself in a pass"
    MEAN_COST = "the mean cost did not improve for {steps} steps"
    EXACT = "nothing of X is left"
    ZEROS = "X is all zeros, and so are W and H"
    FIXED = "all components are fixed, and every row of W was solved for alone"
    MAX_ITER = "max_iter = {max_iter} was reached"
    MAX_ITER_REVIVING = "max_iter = {max_iter} was reached, while components that had become zero were being revived"
    MAX_TIME = "max_time = {max_time:g} s was over"
    CALLBACK = "the callback returned True"
    INTERRUPTED = "interrupted"
    EXCEPTION = "an exception: {exception!r}"

    def given(self, **numbers: object) -> Termination:
        """Return the end of a fit for this reason, with the numbers of its sentence."""
        return Termination(self, self.value.format(**numbers))


# What ends a fit without a stop rule being met.
_UNFINISHED = frozenset(
    {
        StopReason.MAX_ITER,
        StopReason.MAX_ITER_REVIVING,
        StopReason.MAX_TIME,
        StopReason.CALLBACK,
        StopReason.INTERRUPTED,
        StopReason.EXCEPTION,
    }
)


class Termination(NamedTuple):
    """How a fit ended."""

    reason: StopReason
    sentence: str

    @property
    def converged(self) -> bool:
        """Whether a stop rule was met."""
        return self.reason not in _UNFINISHED

    @property
    def out_of_iterations(self) -> bool:
        """Whether `max_iter` ended the fit."""
        return self.reason in (StopReason.MAX_ITER, StopReason.MAX_ITER_REVIVING)

    @property
    def out_of_time(self) -> bool:
        """Whether `max_time` ended the fit."""
        return self.reason is StopReason.MAX_TIME

    @classmethod
    def by(cls, exception: BaseException) -> Termination:
        """Return the end of a fit by an exception."""
        if isinstance(exception, KeyboardInterrupt):
            return StopReason.INTERRUPTED.given()
        return StopReason.EXCEPTION.given(exception=exception)


def say_run(number: int, n_init: int, loss: float, n_iter: int, termination: Termination) -> None:
    """Print how one of several runs of a fit ended."""
    print(f"run {number + 1} of {n_init}: loss {loss:.9g} after {n_iter} iterations: {termination.sentence}")


# ---- rules ---------------------------------------------------------------------------------------------------------

R = TypeVar("R", bound=Report)


class StopRule(Generic[R]):
    """A stop rule: `before`, `after` and `end` return how the fit is to end, or None if it is to go on.

    Parameters
    ----------
    tol : float
        Tolerance. What it is compared with is described by each rule; 0 switches most rules off.
    verbose : int
        Whether to print progress, in scikit-learn's lines where scikit-learn has the rule.
    power : int
        Losses are 2^power times those of X, in the unit of which they are printed. Defaults to 0.
    """

    remembered: ClassVar[tuple[str, ...]] = ()  # attributes that change from pass to pass

    def __init__(self, tol: float, verbose: int, power: int = 0):
        self.tol, self.verbose, self.power = tol, verbose, power

    def begin(self, first_error: float | None) -> None:
        """Begin with a fit, whose error √(2 D_β) at the start is given if the solver has measured it."""

    def before(self, report: R, done: int) -> Termination | None:
        """Judge a pass before it is accepted; `done` counts the passes before it."""
        return None

    def after(self, report: R, done: int) -> Termination | None:
        """Judge an accepted pass; `done` counts the passes with it."""
        return None

    def end(self, done: int, error: float) -> Termination | None:
        """Judge the last pass, of which the error √(2 D_β) is known now (NaN: not measured)."""
        return None

    def memory(self) -> dict[str, object]:
        """Return what the rule remembers of the passes so far, for a checkpoint."""
        return {name: getattr(self, name) for name in self.remembered}

    def restore(self, memory: dict[str, object]) -> None:
        """Go on from what `memory` returned."""
        for name in self.remembered:
            setattr(self, name, memory[name])


class ViolationRule(StopRule[Report]):
    """scikit-learn's rule of coordinate descent: stop when the violation is at most tol × that of the first pass."""

    remembered = ("first",)

    def __init__(self, tol: float, verbose: int, power: int = 0):
        super().__init__(tol, verbose, power)
        self.first: float | None = None

    def after(self, report: Report, done: int) -> Termination | None:
        """Compare the violation with that of the first pass."""
        if self.first is None:
            self.first = report.violation
        if self.first == 0:
            return StopReason.STATIONARY_START.given()
        ratio = report.violation / self.first
        if self.verbose:
            print("violation:", ratio)
        if ratio <= self.tol:
            if self.verbose:
                print("Converged at iteration", done + 1)
            return StopReason.VIOLATION.given(ratio=ratio, tol=self.tol)
        return None


class ErrorRule(StopRule[Report]):
    """scikit-learn's rule of multiplicative updates.

    Every 10 passes: stop when e = √(2 D_β) has fallen by less than tol × the first e since the comparison before.
    """

    remembered = ("first", "last", "compared")

    def __init__(self, tol: float, verbose: int, power: int = 0):
        super().__init__(tol, verbose, power)
        self.first: float | None = None
        self.last: float | None = None
        self.compared = 0  # passes at the last comparison
        self.started = time.time()

    def begin(self, first_error: float | None) -> None:
        """Begin with the error of the start, if it is known already."""
        self.first = self.last = first_error
        self.started = time.time()

    def before(self, report: Report, done: int) -> Termination | None:
        """Compare the error of the pair that the pass began with, if the pass has measured it."""
        if report.incoming is None or report.incoming.error is None:
            return None
        return self._compare(report.incoming.error, done)

    def after(self, report: Report, done: int) -> Termination | None:
        """Compare the error of the new pair, if it is known."""
        return None if report.error is None or done % 10 else self._compare(report.error, done)

    def end(self, done: int, error: float) -> Termination | None:
        """Compare the error of the last pair, if no pass has measured it."""
        termination = None
        if not isnan(error) and self.tol > 0 and done % 10 == 0 and self.compared != done:
            termination = self._compare(error, done)
        if self.verbose and self.compared != done:
            print(f"Epoch {done:02d} reached after {time.time() - self.started:.3f} seconds.")
        return termination

    def _compare(self, error: float, done: int) -> Termination | None:
        if self.first is None or self.last is None:
            self.first = self.last = error
            return None
        if self.tol == 0 or done % 10:
            return None
        self.compared = done
        if self.verbose:
            of_X = times(error, -(self.power // 2))
            print(f"Epoch {done:02d} reached after {time.time() - self.started:.3f} seconds, error: {of_X:f}")
        fall = self.last - error
        self.last = error
        if self.first and fall / self.first < self.tol:
            return StopReason.ERROR.given(tol=self.tol)
        return None


class FallRule(StopRule[Report]):
    """Stop when a number of accepted iterations brought too little, or when hardly a step is left.

    The relative error fell by less than tol (relatively) over the last `WINDOW` accepted iterations; or the KKT
    residual is at most tol / 10, and the error falls at less than that rate over `FEW` iterations; or the residual is
    at most tol / 100. None of this depends on the scale of X or on the start. The residual is relative to ‖X‖: where
    the fit is good, small steps still lower the error.
    """

    WINDOW = 10
    FEW = 5  # in float32, the fall of a single iteration is too rough
    remembered = ("losses",)

    def __init__(self, tol: float, verbose: int, power: int = 0):
        super().__init__(tol, verbose, power)
        self.losses: list[float] = []  # the lowest so far, after each accepted iteration

    def before(self, report: Report, done: int) -> Termination | None:
        """Take up what the pass has measured, and stop if no step lowers the loss any more."""
        if not self.losses and report.incoming is not None and not isnan(report.incoming.loss):
            self.losses.append(report.incoming.loss)
        if report.offset:
            self.losses = corrected(self.losses, report)
        if report.exhausted and self.tol > 0:
            return StopReason.ROUNDING.given()
        return None

    def after(self, report: Report, done: int) -> Termination | None:
        """Compare the error with that of some accepted iterations ago, and the KKT residual with tol / 10."""
        self.losses.append(min(report.loss, self.losses[-1]) if self.losses else report.loss)
        if self.verbose:
            print(f"pass {done}: loss {times(report.loss, -self.power):.9g}, KKT residual {report.kkt:.3g}")
        if report.unfinished:
            return None
        slow = self._fell(self.FEW) < self.tol * self.FEW / self.WINDOW
        if report.kkt <= self.tol / 10 and (slow or report.kkt <= self.tol / 100):
            return StopReason.KKT_RESIDUAL.given(kkt=report.kkt, tenth=self.tol / 10)
        if self.tol > 0 and len(self.losses) > self.WINDOW and self._fell(self.WINDOW) < self.tol:
            return StopReason.RELATIVE_ERROR.given(tol=self.tol, passes=self.WINDOW)
        return None

    def _fell(self, iterations: int) -> float:
        """Return the relative fall of the error in the last accepted iterations; 0 if there were not so many."""
        if len(self.losses) <= iterations:
            return 0.0
        then, now = self.losses[-1 - iterations], self.losses[-1]
        return 1 - (max(now, 0.0) / then) ** 0.5 if then > 0 else math.inf


def corrected(losses: list[float], report: Report) -> list[float]:
    """Return losses as the measurement in a report corrects them. Corrected losses never rise from pass to pass.

    An error grows from nothing, at the pair that was measured before, to the whole offset: at the pair of this pass if
    it is accepted, which comes after these losses, otherwise at the last of them.
    """
    if report.correction is None:
        return losses
    (offset, since), result = report.correction, []
    least = report.loss if report.accepted else -np.inf
    grown = since + 1 if report.accepted else max(since, 1)
    for back, loss in enumerate(reversed(losses)):
        share = 1.0 if since < 0 else max(0.0, (since - back) / grown)
        least = max(least, loss + share * offset)
        result.append(least)
    return result[::-1]


RULES: dict[str, type[StopRule[Report]]] = {"violation": ViolationRule, "error every 10": ErrorRule, "fall": FallRule}


# ---- rules of mini-batches -----------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class BatchReport(Report):
    """Report of a step over a batch; its `loss` is the cost per row."""

    rows: int  # of the batch
    Ht: Array  # after the step
    Ht_before: Array


class BatchRule(StopRule[BatchReport]):
    """Stop when costs did not improve for a number of steps; what is compared is described by each rule.

    Parameters
    ----------
    tol, verbose
        See `StopRule`.
    n_rows : int
        Rows of X.
    n_batches : int
        Batches of X.
    n_steps : int
        Maximum number of steps.
    max_no_improvement : int or None
        Number of steps to wait for an improvement; None waits for ever.
    """

    def __init__(
        self, tol: float, verbose: int, *, n_rows: int, n_batches: int, n_steps: int, max_no_improvement: int | None
    ):
        super().__init__(tol, verbose)
        self.n_rows, self.n_batches, self.n_steps = n_rows, n_batches, n_steps
        self.max_no_improvement = max_no_improvement
        self.least = math.inf
        self.waited = 0  # steps since the cost was the least

    def _no_improvement(self, cost: float, done: int) -> bool:
        if cost < self.least:
            self.least, self.waited = cost, 0
        else:
            self.waited += 1
        if self.max_no_improvement is None or self.waited < self.max_no_improvement:
            return False
        self._print(f"Converged (lack of improvement in objective function) at step {done}/{self.n_steps}")
        return True

    def _print(self, line: str) -> None:
        if self.verbose:
            print(line)


class SmoothedCostRule(BatchRule):
    """scikit-learn's two rules: H hardly changed in a step, or the smoothed cost did not improve for long.

    `tol` is compared with ‖ΔH‖ / ‖H‖.
    """

    smoothed: float | None = None

    def after(self, report: BatchReport, done: int) -> Termination | None:
        """Compare H with that before the step, and the smoothed cost with the least one so far."""
        cost, at = report.loss, f"step {done}/{self.n_steps}"
        if done == 1:  # H was not yet learned when the first cost was measured
            self._print(f"Minibatch {at}: mean batch cost: {cost}")
            return None
        weight = min(report.rows / (self.n_rows + 1), 1)
        self.smoothed = cost if self.smoothed is None else self.smoothed * (1 - weight) + cost * weight
        self._print(f"Minibatch {at}: mean batch cost: {cost}, ewa cost: {self.smoothed}")

        change, size = report.Ht - report.Ht_before, math.sqrt(inner(report.Ht, report.Ht))
        moved = math.sqrt(inner(change, change)) / size if size else 0.0
        if self.tol > 0 and moved <= self.tol:
            self._print(f"Converged (small H change) at {at}")
            return StopReason.CHANGE_OF_H.given(change=moved, tol=self.tol)
        if self._no_improvement(self.smoothed, done):
            return StopReason.SMOOTHED_COST.given(steps=self.waited)
        return None


class MeanCostRule(BatchRule):
    """Two rules on the mean cost over the last pass: it hardly fell in a pass, or did not improve for long.

    As it is a mean over a whole pass, differences between batches do not matter: from one step to the next it changes
    by what the newest batch costs less than a pass ago. `tol` is compared with the relative fall of √cost from pass to
    pass.
    """

    def __init__(self, tol: float, verbose: int, **batches: Any):
        super().__init__(tol, verbose, **batches)
        self.costs = np.zeros(self.n_batches)
        self.last = math.nan  # mean cost of the last whole pass

    def after(self, report: BatchReport, done: int) -> Termination | None:
        """Compare the mean cost with that of the pass before, and with the least one so far."""
        self.costs[(done - 1) % self.n_batches] = report.loss * report.rows
        line = f"Minibatch step {done}/{self.n_steps}: mean batch cost: {report.loss}"
        if done < self.n_batches:
            self._print(line)
            return None
        mean = float(self.costs.sum()) / self.n_rows
        self._print(f"{line}, cost of a pass: {mean}")
        if done % self.n_batches == 0:
            last, self.last = self.last, mean
            if mean == 0:
                return StopReason.EXACT.given()
            if self.tol > 0 and 1 - math.sqrt(mean / last) < self.tol:  # False after the first pass: last is NaN
                self._print(f"Converged (small fall of the cost) at step {done}/{self.n_steps}")
                return StopReason.ERROR_OF_PASS.given(tol=self.tol)
        if self._no_improvement(mean, done):
            return StopReason.MEAN_COST.given(steps=self.waited)
        return None


BATCH_RULES: dict[str, type[BatchRule]] = {"smoothed cost": SmoothedCostRule, "mean cost": MeanCostRule}
