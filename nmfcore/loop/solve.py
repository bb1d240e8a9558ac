"""The outer loop: the only one there is.

It knows neither devices, nor threads, nor files, nor how factors change: it asks the solver what to do with the rows,
has the data do it, hands the sums back to the solver, and decides whether that was enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import isnan
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..objective import divergence, penalty
from ..scale import times

if TYPE_CHECKING:
    from ..rows.memory import Rows
    from ..solvers._common import Report

Array = NDArray[Any]


class Stopped:
    """An exception that ended a fit, kept until the results are safe; raised once.

    Whoever raises an exception stands in its traceback. A frame there that kept the exception, too, would make a cycle,
    and X and W would stay in memory until the garbage collector runs: so nobody but this object holds it.
    """

    def __init__(self, exception: BaseException):
        self.exception: BaseException | None = exception

    def again(self) -> NoReturn:
        """Raise the exception, and forget it."""
        exception, self.exception = self.exception, None
        try:
            assert exception is not None, "it was raised before"
            raise exception
        finally:
            del exception


class _Committed(NamedTuple):
    """What the passes so far have led to. It changes by one assignment, so that no interruption finds half a pass."""

    state: Any
    small: Any
    done: int  # passes over X
    accepted: int  # entries of the history
    kkt: float
    known: float  # loss, as last measured
    unfinished: bool


class Solution(NamedTuple):
    """What a fit ends with."""

    W: Array  # n × k
    Ht: Array  # m × k
    n_iter: int  # passes over X
    converged: bool
    reason: str  # why it ended, one sentence
    history: dict[str, Array]  # loss, violation, seconds: one entry per accepted pass
    divergence: float  # D_β(X | WH) of the final pair without penalties, measured directly, of X as it was read
    kkt: float
    interruption: Stopped | None
    still_falling: float  # relative fall of the loss in the last pass

    @property
    def interrupted(self) -> bool:
        """Whether an exception ended it."""
        return self.interruption is not None


class Progress:
    """What a callback sees after each accepted pass.

    Attributes
    ----------
    iteration : int
        Passes over X so far.
    loss : float
        Penalised objective; for mu with β ≠ 2 as last measured (every 10 passes).
    kkt : float
        KKT residual.
    violation : float
        Σ |projected gradient|, NaN for solvers without one.
    seconds : float
        Since the loop began.
    """

    __slots__ = ("_factors", "_give_back", "_power", "iteration", "kkt", "loss", "seconds", "violation")

    def __init__(
        self, iteration: int, report: Report, seconds: float, factors: tuple[Array, Array],
        give_back: Callable[[Array], Array] = lambda A: A,
    ):  # fmt: skip
        self.iteration = iteration
        self.loss = report.loss
        self.kkt = report.kkt
        self.violation = report.violation
        self.seconds = seconds
        self._factors = factors
        self._give_back = give_back
        self._power = 0

    def factors(self) -> tuple[Array, Array]:
        """Copy W (n × k) and H (k × m) as they are now."""
        W, Ht = self._factors
        W, Ht = times(W.copy(), -self._power), times(Ht.T.copy(), -self._power)
        return self._give_back(W), self._give_back(Ht)

    def rescale(self, power: int) -> None:
        """Bring it from a fit of 4^power·X into the unit of X."""
        self.loss, self.violation = times(self.loss, -4 * power), times(self.violation, -3 * power)
        self._power += power


class Coded(NamedTuple):
    """Rows solved for alone."""

    W: Array
    n_iter: int
    unsettled: int  # rows that were still moving at max_iter


# ---- stop rules: scikit-learn's ------------------------------------------------------------------------------------


class _Rule:
    """Asked before a pass is accepted (of the pair it came from), after, and at the end; a sentence means stop."""

    def __init__(self, tol: float, verbose: int, first_error: float | None):
        self.tol, self.verbose = tol, verbose
        self.first = first_error
        self.power = 0  # of the X that is read, for what is printed

    def memory(self) -> dict[str, Any]:
        """Return what it remembers of the passes so far."""
        return {name: value for name, value in vars(self).items() if name not in ("tol", "verbose", "started", "power")}

    def restore(self, memory: dict[str, Any]) -> None:
        vars(self).update(memory)

    def before(self, report: Report, done: int) -> str | None:
        return None

    def after(self, report: Report, done: int) -> str | None:
        return None

    def end(self, done: int, error: float) -> str | None:
        return None


class _ViolationRule(_Rule):
    """Stop when the violation is at most tol × that of the first pass."""

    def after(self, report: Report, done: int) -> str | None:
        if self.first is None:
            self.first = report.violation
        if self.first == 0:
            return "the start is a stationary point (no violation)"
        ratio = report.violation / self.first
        if self.verbose:
            print("violation:", ratio)
        if ratio <= self.tol:
            if self.verbose:
                print("Converged at iteration", done + 1)
            return f"the violation fell to {ratio:.2g} of the first, at most tol = {self.tol:g}"
        return None


class _ErrorRule(_Rule):
    """Every 10 passes: stop when e = √(2 D_β) fell by less than tol × the first e since the last look."""

    def __init__(self, tol: float, verbose: int, first_error: float | None):
        super().__init__(tol, verbose, first_error)
        self.last = first_error
        self.started, self.looked = time.time(), 0

    def look(self, error: float, done: int) -> str | None:
        if self.first is None or self.last is None:
            self.first = self.last = error
            return None
        if self.tol == 0 or done % 10:
            return None
        self.looked = done
        if self.verbose:
            of_X = times(error, -2 * self.power)
            print(f"Epoch {done:02d} reached after {time.time() - self.started:.3f} seconds, error: {of_X:f}")
        fall = self.last - error
        self.last = error
        if self.first and fall / self.first < self.tol:
            return f"the error fell by less than tol = {self.tol:g} of its first value in 10 iterations"
        return None

    def before(self, report: Report, done: int) -> str | None:
        return None if report.error_before is None else self.look(report.error_before, done)

    def after(self, report: Report, done: int) -> str | None:
        return None if report.error is None or done % 10 else self.look(report.error, done)

    def end(self, done: int, error: float) -> str | None:
        reason = None
        if not isnan(error) and self.tol > 0 and done % 10 == 0 and self.looked != done:
            reason = self.look(error, done)
        if self.verbose and self.looked != done:
            print(f"Epoch {done:02d} reached after {time.time() - self.started:.3f} seconds.")
        return reason


class _FallRule(_Rule):
    """Stop when a window of accepted passes brought too little, or when hardly a step is left.

    Both are free of the scale of X and of the start: the relative error fell by less than tol (relatively) over the
    last `WINDOW` accepted passes, or the KKT residual is at most tol / 10.
    """

    WINDOW = 10

    def __init__(self, tol: float, verbose: int, first_error: float | None):
        super().__init__(tol, verbose, first_error)
        self.losses: list[float] = []

    def before(self, report: Report, done: int) -> str | None:
        if not self.losses and not isnan(report.start_loss):
            self.losses.append(report.start_loss)
        if report.offset:
            self.losses = corrected(self.losses, report)
        if report.exhausted and self.tol > 0:
            return "no step lowers the loss any more: what is left is rounding in the compute type"
        return None

    def after(self, report: Report, done: int) -> str | None:
        self.losses.append(min(report.loss, self.losses[-1]) if self.losses else report.loss)  # the best so far
        if self.verbose:
            print(f"pass {done}: loss {times(report.loss, -4 * self.power):.9g}, KKT residual {report.kkt:.3g}")
        if report.unfinished:
            return None
        if report.kkt <= self.tol / 10:
            return f"the KKT residual fell to {report.kkt:.2g}, at most tol / 10 = {self.tol / 10:g}"
        if self.tol > 0 and len(self.losses) > self.WINDOW:
            then, now = self.losses[-1 - self.WINDOW], self.losses[-1]
            if then > 0 and 1 - (max(now, 0.0) / then) ** 0.5 < self.tol:
                return f"the relative error fell by less than tol = {self.tol:g} in {self.WINDOW} passes"
        return None


def corrected(losses: list[float], report: Report) -> list[float]:
    """Return the losses so far as a direct measurement of the last one corrects them; they never rise."""
    since, made = report.offset_since, []
    least = report.loss if report.accepted else -np.inf
    for back, loss in enumerate(reversed(losses)):
        share = 1.0 if since < 0 else max(0.0, (since - back) / (since + 1))
        least = max(least, loss + share * report.offset)
        made.append(least)
    return made[::-1]


_RULES: dict[str, type[_Rule]] = {"violation": _ViolationRule, "error every 10": _ErrorRule, "fall": _FallRule}


# ---- the loop ------------------------------------------------------------------------------------------------------


def factorize(
    data: Rows,
    solver: Any,
    W: Array,
    Ht: Array,
    *,
    tol: float,
    max_iter: int,
    max_time: float | None = None,
    begun: float | None = None,
    callback: Callable[[Progress], Any] | None = None,
    verbose: int = 0,
    measure: bool = True,
    checkpoint: Any = None,
    ours: bool = False,
) -> Solution:
    """Minimise the solver's objective from (W, H).

    Parameters
    ----------
    data : Rows
        X of shape (n, m).
    solver : object
        One of `nmfcore.solvers.SOLVERS`, made.
    W : ndarray of shape (n, k)
    Ht : ndarray of shape (m, k)
        The start, C-contiguous in the compute type. Never written, but for W if it is `ours`.
    tol : float
        Of the solver's stop rule.
    max_iter : int
        Most passes over X.
    max_time : float or None
        Seconds after which no further pass begins.
    begun : float or None
        The ``time.perf_counter()`` that `max_time` is counted from; None is now.
    callback : callable or None
        Called with a `Progress` after each accepted pass; True ends the fit.
    verbose : int
        Prints scikit-learn's lines.
    measure : bool
        Whether to measure the final divergence directly, which takes a pass; else it is NaN.
    checkpoint : `nmfcore.loop.checkpoint.Checkpoint` or None
        Where the fit is kept now and then, and found again: W and Ht are not looked at then.
    ours : bool
        Whether nobody else needs the W of the start: n × k numbers less.

    Returns
    -------
    solution : Solution
        An exception of the callback, or KeyboardInterrupt, is not raised but handed over as `interruption`, with the
        last accepted factors: at most the pass under way is lost.
    """
    clock = time.perf_counter()
    begun = clock if begun is None else begun
    losses: list[float] = []
    violations: list[float] = []
    seconds: list[float] = []
    kept = None if checkpoint is None else checkpoint.found()
    if kept is None:
        W, Ht = data.backend.asarray(W), data.backend.asarray(Ht)
        if not ours:
            W = data.copied(W)
        state = data.state(**solver.rows(W))
    else:
        state = data.state(**{name: data.backend.asarray(A) for name, A in kept.rows.items()})
        Ht = data.backend.asarray(kept.Ht)
    del W
    at = _Committed(state, None, 0, 0, np.nan, np.nan, False)
    known, converged = np.nan, False
    reason: str | None = None
    interruption: Stopped | None = None
    try:
        small = solver.start(data, Ht)
        if kept is None:
            rule = _RULES[solver.rule](tol, verbose, solver.first_error(data, state["W"], Ht) if tol else None)
        else:
            rule = _RULES[solver.rule](tol, verbose, None)
            small, of_solver, of_rule, of_loop = kept.restored(small, data.backend)
            solver.restore(of_solver)
            rule.restore(of_rule)
            done, kkt, known, losses, violations, seconds = of_loop
            at = _Committed(state, small, done, len(losses), kkt, known, False)
            clock -= seconds[-1] if seconds else 0.0
            checkpoint.release()
        kept, at = None, at._replace(small=small)
        del small
        rule.power = data.power
        while at.done < max_iter:
            state, done = at.state, at.done
            orders = solver.fix(at.small)
            after, sums = data.reduce(solver.visit, state, orders, solver.sums, solver.gather, solver.gathered)
            report, new = solver.update_columns(at.small, sums, data)
            if not isnan(report.loss_before):  # measured by this pass, of the pair before it
                known = report.loss_before
                losses[-1:] = [known] if losses else []
            if report.offset:
                losses = corrected(losses, report)
            reason = rule.before(report, done)
            if reason:
                converged = True
                break
            done += 1  # X was read, whether or not the pass is accepted
            if report.accepted:
                losses.append(report.loss)
                known = known if isnan(report.loss) else report.loss
                violations.append(report.violation)
                seconds.append(time.perf_counter() - clock)
                at = _Committed(after, new, done, len(losses), report.kkt, known, report.unfinished)
                reason = rule.after(report, done)
                if callback is not None:
                    report.loss = known
                    progress = Progress(done, report, seconds[-1], (after["W"], new.Ht), data.to_caller)
                    if callback(progress) is True and not reason:
                        reason = "the callback asked for it"
                        break
                if reason:
                    converged = True
                    break
            else:
                at = at._replace(small=new, done=done, known=known, unfinished=report.unfinished)
            over = max_time is not None and time.perf_counter() - begun >= max_time and done < max_iter
            if checkpoint is not None:
                of_loop = [done, at.kkt, known, losses, violations, seconds]
                checkpoint.mark(at.state.arrays, at.small, solver.memory(), rule.memory(), of_loop)
                if over or checkpoint.due():
                    checkpoint.save()
            if over:
                reason = f"max_time = {max_time:g} s was over"
                break
    except BaseException as stop:
        interruption = Stopped(stop)
        reason = _said(stop)
    state, small, done, accepted, kkt, known, unfinished = at
    for each in (losses, violations, seconds):  # those of a pass that was interrupted before it was committed
        del each[accepted:]

    def keep() -> None:
        """Write the checkpoint; what stops that, such as a warning raised as an error, ends the fit."""
        nonlocal interruption
        try:
            if checkpoint is not None:
                checkpoint.save()
        except BaseException as stop:
            interruption = interruption or Stopped(stop)

    if interruption is not None:
        keep()
    Ht = Ht if small is None else small.Ht
    W = state["W"]
    earlier = None if small is None else solver.best(state, small)

    def measured(known: float, W: Array, Ht: Array) -> float:
        """Return the divergence of a pair: of the loss as it is known, where no pass over X is to follow."""
        nonlocal interruption, reason
        if not measure:
            return np.nan
        # After Ctrl-C no pass over a disk follows, and what cannot be read is not read once more.
        if interruption is None or data.in_memory:
            try:
                return divergence(data, W, Ht, solver.beta)
            except BaseException as stop:  # of what only measures the factors: they are kept
                if interruption is None:
                    interruption = Stopped(stop)
                    reason = reason or _said(stop)
                    if isinstance(stop, KeyboardInterrupt):
                        keep()
        return known - penalty(solver.penalties, W, Ht)

    final = measured(known, W, Ht)
    if earlier is not None and final + penalty(solver.penalties, W, Ht) > earlier[0]:
        known, W, Ht = earlier
        final = measured(known, W, Ht)
    if not reason:
        late = rule.end(done, np.sqrt(2 * max(0.0, final)) if measure else np.nan)
        converged = late is not None
        reason = late or f"max_iter = {max_iter} was reached"
        if unfinished and not late:
            reason += ", while components that had become zero were being revived"
        if not converged and tol > 0:
            keep()  # a larger max_iter goes on from it
    elif converged:
        rule.end(done, np.nan)
    if losses and isnan(losses[-1]) and done % 10 == 0:  # no further pass will measure it
        losses[-1] = final + penalty(solver.penalties, W, Ht)
    falling = 0.0
    if len(losses) > 1 and losses[-2] > 0:
        falling = max(0.0, (losses[-2] - losses[-1]) / losses[-2])
    history = {"loss": np.array(losses), "violation": np.array(violations), "seconds": np.array(seconds)}
    state.part()
    return Solution(W, Ht, done, converged, reason, history, final, float(kkt), interruption, float(falling))


def _said(stop: BaseException) -> str:
    """Return the reason for an end by an exception."""
    return "interrupted" if isinstance(stop, KeyboardInterrupt) else f"an exception: {stop!r}"


def code(data: Rows, solver: Any, Ht: Array, *, tol: float, max_iter: int, by_step: bool = False) -> Coded:
    """Rows of W for a fixed H, each solved for alone: a row's code does not depend on the rows beside it.

    Parameters
    ----------
    data : Rows
        X of shape (n, m).
    solver : object
        Made from `nmfcore.solvers.SOLVERS`.
    Ht : ndarray of shape (m, k)
        C-contiguous, in the compute type.
    tol : float
        Each row stops by the solver's rule on its own figures.
    max_iter : int
        Most sweeps or updates of a row.
    by_step : bool
        The rule of MiniBatchNMF: ‖Δf‖ ≤ tol·‖f‖.

    Returns
    -------
    coded : Coded
        All sweeps of a block happen in one visit: X is read once.
    """
    orders = solver.fix(solver.start(data, data.backend.asarray(Ht)))
    arguments = (solver, orders, tol, max_iter, by_step)
    after, sums = data.each_block(
        _code_block, {}, arguments, width=Ht.shape[1], sums={"most": (1,), "unsettled": (1,)},
        out={"W": Ht.shape[1]}, verify=True,
    )  # fmt: skip
    (most,), (unsettled,) = data.read_sums(sums["most"], sums["unsettled"])
    return Coded(after["W"], max(1, int(most)), int(unsettled))


def _code_block(backend: Any, block: Any, rows: Any, arguments: tuple[Any, ...], after: Any, sums: Any) -> None:
    solver, orders, tol, max_iter, by_step = arguments
    stats = backend.xp.zeros(backend.STATS + 2 * orders.width)
    solver.code(backend, block, orders, tol, max_iter, by_step, after["W"], stats)
    sweeps = stats[backend.SWEEPS : backend.SWEEPS + 1]
    sums["most"][:] = backend.xp.maximum(sums["most"], sweeps)
    sums["unsettled"] += stats[backend.UNSETTLED]
