"""Fits by passes over all of X.

Nothing here depends on devices, threads or files, or on how factors change. The solver says what is to be done with the
rows of X, `data` does it and returns sums over the rows, and the solver makes the new small factor from these.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from .._typing import Array
from ..objective import measured, measuring, penalty
from ..rows.base import Pass
from ..scale import of_loss
from ..solvers._common import Report, Small, Solver
from .checkpoint import Checkpoint, Kept
from .session import (
    History,
    Limits,
    Passes,
    Process,
    Progress,
    Session,
    Stopped,
    accepted_losses,
    arrays,
    columns,
    continued,
    corrected_by,
    history_of,
    with_final_loss,
    with_last_loss,
)
from .stopping import RULES, StopRule, Termination

if TYPE_CHECKING:
    from .._typing import Block
    from ..backends.operations import Backend
    from ..rows.base import Made, Rows
    from ..rows.state import RowState
    from ..rows.sums import Named
    from ..solvers._common import Foreseen, Orders

T = TypeVar("T")


class Solution(NamedTuple):
    """The result of a fit."""

    W: Array  # n × k
    Ht: Array  # m × k
    n_iter: int  # iterations: passes over X, unless the solver makes several of them in one
    termination: Termination
    history: dict[str, Array]  # loss, violation, seconds, accepted: one entry per iteration
    divergence: float  # D_β(X | WH) of the final pair without penalties, measured directly, of X as it was read
    kkt: float
    interruption: Stopped | None  # the exception that ended the fit
    still_falling: float  # relative fall of the loss in the last pass
    loss: float = 0.0  # the objective of the final pair: `divergence` with penalties


class Coded(NamedTuple):
    """Rows of W that were solved for with H fixed."""

    W: Array
    n_iter: int  # most sweeps or updates of a row
    unsettled: int  # rows that were still moving at max_iter


class Iterate(NamedTuple):
    """What the passes so far have led to. It is replaced as a whole, so that no interruption finds half of a pass."""

    state: RowState
    small: Small | None  # None before the solver has started
    passes: int = 0
    history: History = None
    kkt: float = np.nan
    loss: float = np.nan  # as last measured
    unfinished: bool = False  # components are being revived

    def corrected(self, report: Report) -> Iterate:
        """Return this iterate with its losses as a pass has measured them."""
        loss = self.loss
        if report.incoming is not None and not isnan(report.incoming.loss):
            loss = report.incoming.loss
        return self._replace(loss=loss, history=corrected_by(report, self.history))


class Queued(NamedTuple):
    """A pass that has been made, or is under way."""

    after: RowState
    sums: Named
    foreseen: Foreseen | None  # None: what follows is not queued


class _Passes(Process[Report, "tuple[RowState, Small]"]):
    """Passes over X: each makes new rows of W from X and H, and a new H from sums over the rows."""

    def __init__(
        self,
        data: Rows,
        solver: Solver,
        W: Array,
        Ht: Array,
        most: int,
        checkpoint: Checkpoint | None,
        overwrite_W: bool,
        alone: bool,
    ):
        self.data, self.solver, self.most, self._checkpoint = data, solver, most, checkpoint
        self._kept: Kept | None = None if checkpoint is None else checkpoint.found()
        backend = data.backend
        if self._kept is None:
            W, Ht = backend.asarray(W), backend.asarray(Ht)
            state = data.state(**solver.rows(W if overwrite_W else data.copied(W)))
        else:
            state = data.state(**{name: backend.asarray(A) for name, A in self._kept.rows.items()})
            Ht = backend.asarray(self._kept.Ht)
        self._start = Ht
        self._queued: Queued | None = None
        # A checkpoint keeps rows that a pass ahead would write, and other fits use the sums that it would keep.
        self._ahead = alone and data.runs_ahead and checkpoint is None
        if self._ahead:
            state.turns = 4  # the accepted Ht was made with the state before the accepted one
        self._turns = data.turns()
        self.at = Iterate(state, None)

    def to_begin(self, rule: StopRule[Report]) -> Pass | None:
        """Return the pass that measures the start, where the rule refers to its error."""
        if self._kept is not None or not self.solver.measures_start or not rule.tol:
            return None
        return measuring(self.data, self.at.state["W"], self._start, self.solver.beta)

    def begin(self, rule: StopRule[Report], made: Made | None) -> tuple[int, float]:
        """Start the solver, or go on from the checkpoint; return passes and seconds so far."""
        data, solver, state = self.data, self.solver, self.at.state
        small = solver.start(data, self._start)
        if self._kept is None:
            rule.begin(None if made is None else float(np.sqrt(2 * measured(data, made))))
            self.at = self.at._replace(small=small)
            return 0, 0.0
        small, of_solver, of_rule, of_loop = self._kept.restored(small, data.backend)
        solver.restore(of_solver)
        rule.restore(of_rule)
        passes, kkt, loss, losses, violations, seconds, accepted = of_loop
        self.at = Iterate(state, small, passes, history_of(losses, violations, seconds, accepted), kkt, loss)
        self._kept, self.continues = None, solver.continues(small)
        if self._checkpoint is not None:
            self._checkpoint.release()
        return passes, seconds[-1] if seconds else 0.0

    @property
    def pair(self) -> tuple[Array, Array]:
        """W and Ht of the last accepted pass."""
        return self.at.state["W"], self._start if self.at.small is None else self.at.small.Ht

    def to_advance(self) -> Pass | None:
        """Return the next pass over X, from the accepted rows to their twin; None if it is under way already."""
        assert self.at.small is not None
        return None if self._queued is not None else self._pass(self.at.state, self.at.small)

    def _pass(self, state: RowState, small: Small) -> Pass:
        solver = self.solver
        orders, (gather, gathered) = solver.fix(small), solver.gather
        return Pass(solver.visit, state, orders, orders.width, solver.shapes(small), None, gather, gathered)

    def advance(self, made: Made | None) -> tuple[Report, tuple[RowState, Small]]:
        """Make a new H from the sums of a pass: nothing is committed but what it has measured of the pair before it."""
        solver, at = self.solver, self.at
        assert at.small is not None
        queued, self._queued = self._queued, None
        if queued is None:
            assert made is not None
            after, sums = made
            foreseen = solver.foresee(at.small, sums, self.data)
        else:
            after, sums, foreseen = queued
        if foreseen is None:
            report, small = solver.update_columns(at.small, sums, self.data)
        else:  # the next pass is under way when this one is reported; it is dropped unless all is as foreseen
            ahead = self._ahead and (at.passes + 1 < self.most or solver.continues(foreseen.following))
            further = self._queue(after, foreseen.following) if ahead else None
            report, small = solver.settle(at.small, sums, self.data, foreseen)
            self._queued = further if foreseen.holds else None
        if report.incoming is not None or report.correction is not None:
            self.at = at.corrected(report)
        return report, (after, small)

    def _queue(self, state: RowState, small: Small) -> Queued:
        """Begin a pass: nothing is read, where the backend queues operations and the solver foresees what follows."""
        solver, data = self.solver, self.data
        with self._turns(state.twin) if solver.repeats(small) else contextlib.nullcontext():
            (made,) = data.passes([self._pass(state, small)])
            return Queued(*made, solver.foresee(small, made[1], data))

    def commit(self, report: Report, following: tuple[RowState, Small], seconds: float) -> None:
        """Count a pass, and take up the pair that it leads to if it is accepted."""
        at, (state, small), accepted = self.at, following, report.accepted
        entry, passes = (report.loss, report.violation, seconds, accepted), at.passes
        if self.continues:
            history = continued(at.history, *entry)
        else:
            history, passes = (*entry, at.history), passes + 1
        if accepted:
            loss = at.loss if isnan(report.loss) else report.loss
            self.at = Iterate(state, small, passes, history, report.kkt, loss, report.unfinished)
        else:
            self.at = at._replace(small=small, passes=passes, history=history, unfinished=report.unfinished)
        self.continues = self.solver.continues(small)

    def progress(self, report: Report) -> Progress:
        """Return what a callback receives."""
        at = self.at
        assert at.history is not None
        seconds = at.history[2]
        return Progress(at.passes, at.loss, report.kkt, report.violation, seconds, self.pair, self.data.to_caller)

    def mark(self, checkpoint: Checkpoint, rule: StopRule[Report]) -> None:
        """Note the iterate in a checkpoint, with what solver and rule remember."""
        at = self.at

        def of_loop() -> list[Any]:
            return [at.passes, at.kkt, at.loss, *columns(at.history)]

        checkpoint.mark(at.passes, at.state.arrays, at.small, self.solver.memory(), rule.memory(), of_loop)

    def final(self, session: Session) -> Passes[tuple[Array, Array, float]]:
        """Return W, Ht and D_β of the last pair, or of an earlier one that is better."""
        self._queued = None
        at, solver, data = self.at, self.solver, self.data
        orders = None if at.small is None or session.interruption is not None else solver.closing(at.small)
        if orders is not None:
            last = data.pass_over(solver.close, at.state, orders, width=orders.width, sums={"D": (1,)}, verify=True)
            made = yield from self._made(last, session, lambda made: (made[0], measured(data, made)))
            if made is not None:
                state, distance = made
                loss = distance + penalty(solver.penalties, state["W"], self.pair[1], data)
                self.at = at._replace(state=state, loss=loss, history=with_final_loss(at.history, loss))
                yield from self._remeasured(session)
                return *self.pair, distance
        W, Ht = self.pair
        distance = yield from self._divergence(at.loss, W, Ht, session)
        earlier = None if at.small is None else solver.best(at.state, at.small)
        if earlier is not None and distance + penalty(solver.penalties, W, Ht, data) > earlier[0]:
            loss, W, Ht = earlier
            distance = yield from self._divergence(loss, W, Ht, session)
        return W, Ht, distance

    def _remeasured(self, session: Session) -> Passes[None]:
        """Measure the KKT residual of a pair whose W a last pass has made, by a pass of which nothing else is kept."""
        at, solver = self.at, self.solver
        assert at.small is not None
        small = solver.resting(at.small)
        last = self._pass(at.state, small)
        if self._checkpoint is not None:  # it has yet to write the W of the pass before, over which the twin lies
            last = last._replace(out={"W": last.width})
        report = yield from self._made(last, session, lambda made: solver.update_columns(small, made[1], self.data)[0])
        if report is not None:
            self.at = self.at._replace(kkt=report.kkt)

    def _divergence(self, loss: float, W: Array, Ht: Array, session: Session) -> Passes[float]:
        data, solver = self.data, self.solver
        # After an interruption there is no further pass over a disk, and what could not be read is not read again.
        if session.interruption is None or data.in_memory:
            last = measuring(data, W, Ht, solver.beta)
            distance = yield from self._made(last, session, lambda made: measured(data, made))
            if distance is not None:
                return distance
        return loss - penalty(solver.penalties, W, Ht, data)

    def _made(self, last: Pass, session: Session, read: Callable[[Made], T]) -> Passes[T | None]:
        """Return what is read from a pass after the fit; None if it failed: the factors are kept."""
        try:
            made = yield last
            assert made is not None
            return read(made)
        except GeneratorExit:
            raise
        except BaseException as exception:
            by_user = session.interruption is None and isinstance(exception, KeyboardInterrupt)
            session.interrupt(exception)
            if by_user:
                session.save()
        return None


def factorize(
    data: Rows,
    solver: Solver,
    W: Array,
    Ht: Array,
    limits: Limits,
    *,
    callback: Callable[[Progress], object] | None = None,
    verbose: int = 0,
    measure: bool = True,
    checkpoint: Checkpoint | None = None,
    overwrite_W: bool = False,
) -> Solution:
    """Minimise the solver's objective from (W, H).

    Parameters
    ----------
    data : Rows
        X of shape (n, m).
    solver : Solver
        Made from `nmfcore.solvers.SOLVERS`.
    W : ndarray of shape (n, k)
    Ht : ndarray of shape (m, k)
        The start, C-contiguous in the compute type. Ht is never written, W only if `overwrite_W` is True.
    limits : Limits
        Tolerance of the stop rule, maximum number of passes, and maximum time.
    callback : callable or None
        Called with a `Progress` after each accepted pass; the fit ends if it returns True.
    verbose : int
        Whether to print progress, in scikit-learn's lines. Defaults to 0, which prints nothing.
    measure : bool
        Whether to measure the final divergence directly, which takes a pass over X; otherwise it is NaN. Defaults to
        True.
    checkpoint : Checkpoint or None
        Where the fit is kept now and then. If it holds an earlier fit, that fit goes on, and W and Ht are ignored.
    overwrite_W : bool
        Whether W may be overwritten, which saves a copy. Defaults to False.

    Returns
    -------
    solution : Solution
        An exception of the callback, or KeyboardInterrupt, is not raised but returned as `interruption`, with the last
        accepted factors: only the pass that was under way is lost.
    """
    fit = Fit(
        data, solver, W, Ht, limits, callback=callback, verbose=verbose, measure=measure, checkpoint=checkpoint,
        overwrite_W=overwrite_W, alone=True,
    )  # fmt: skip
    del W  # the memory of the start is free when the fit no longer uses it
    stopped = make_together(data, [fit])
    assert fit.solution is not None
    return fit.solution._replace(interruption=fit.solution.interruption or stopped)


class Fit:
    """A fit under way, which names the pass over X that it needs next.

    Parameters
    ----------
    data, solver, W, Ht, limits, callback, verbose, measure, checkpoint, overwrite_W
        See `factorize`.
    alone : bool
        Whether no other fit of `data` is under way, so that a device may begin the next pass before this one is
        reported. Defaults to False.
    in_turn : bool
        Whether fits of other X are to go on before each pass is reported. Defaults to False.

    Attributes
    ----------
    wanted : Pass or None
        The pass over X that it needs next; None before its first step, where it is under way, and after the last one.
    solution : Solution or None
        What it has led to, once it is over.
    session : Session
        Has the exception that ended it, if one did.
    data : Rows
        X.
    """

    def __init__(
        self,
        data: Rows,
        solver: Solver,
        W: Array,
        Ht: Array,
        limits: Limits,
        *,
        callback: Callable[[Progress], object] | None = None,
        verbose: int = 0,
        measure: bool = True,
        checkpoint: Checkpoint | None = None,
        overwrite_W: bool = False,
        alone: bool = False,
        in_turn: bool = False,
    ):
        self.session, self.data = Session(limits, callback, checkpoint), data
        passes = _Passes(data, solver, W, Ht, limits.max_iter, checkpoint, overwrite_W, alone)
        passes.in_turn = in_turn
        rule = RULES[solver.rule](limits.tol, verbose, of_loss(data.power, solver.beta))
        self._work = _solved(self.session, passes, rule, measure)
        self.wanted: Pass | None = None
        self.solution: Solution | None = None

    @property
    def lost(self) -> bool:
        """Whether it has failed without a solution."""
        return inspect.getgeneratorstate(self._work) == inspect.GEN_CLOSED and self.solution is None

    def resume(self, made: Made | None) -> None:
        """Go on, with what the wanted pass has made, until the next one is needed."""
        try:
            self.wanted = self._work.send(made)  # type: ignore[arg-type]
        except StopIteration as end:
            self.wanted, self.solution = None, end.value

    def interrupt(self, exception: BaseException) -> None:
        """End by an exception, with the pair of the last accepted pass; one more pass may be needed to measure it."""
        if inspect.getgeneratorstate(self._work) == inspect.GEN_CREATED:  # nothing can be thrown into it
            self.resume(None)
        try:
            if self.solution is None:
                self.wanted = self._work.throw(exception)
        except StopIteration as end:
            self.wanted, self.solution = None, end.value


def make_together(
    data: Rows | None, fits: Sequence[Fit], finished: Callable[[int], object] | None = None
) -> Stopped | None:
    """Run fits to their ends, side by side: of the same X, each pass over it is one of all fits that are not over.

    Each of them ends with what it ends with alone, to the bit. An exception, be it of a pass, of the user, or of one
    fit, ends all of them, and each returns it as `interruption`.

    Parameters
    ----------
    data : Rows or None
        X of shape (n, m). None: each fit has an X of its own, and they make one pass each in turn, so that a device has
        the passes of the others to work on while the host waits for the numbers of one.
    fits : sequence of Fit
        Of `data`, all with as many components.
    finished : callable or None
        Called with the number of each fit that is over. Defaults to None.

    Returns
    -------
    stopped : Stopped or None
        An exception that came when all fits were over.
    """
    left = dict(enumerate(fits))
    failure: BaseException | None = None
    source: Fit | None = None  # the fit that the failure came from, which has ended already
    while left:
        try:
            while left:  # nothing of a turn is outside of the `try`: Ctrl-C may come at any line
                if failure is None:
                    made = None if data is None else data.passes(_wanted(left.values()))
                    for fit in left.values():
                        before = fit.session.interruption
                        with fit.data.apart():
                            fit.resume(_made_for(fit, made))
                        after = fit.session.interruption
                        if after is not None and after is not before:
                            failure, source = after.exception, fit
                            break
                else:
                    for fit in left.values():
                        if fit is not source:
                            with fit.data.apart():
                                fit.interrupt(failure)
                    failure = source = None
                for number, fit in tuple(left.items()):
                    if fit.solution is not None:
                        del left[number]
                        if finished is not None:
                            finished(number)
        except BaseException as exception:
            if any(fit.lost for fit in left.values()):
                raise
            failure, source = exception, None
    stopped = None if failure is None or source is not None else Stopped(failure)  # a fit's own is its interruption
    failure = None  # a frame that an exception's traceback leads to must not hold the exception, see `Stopped`
    return stopped


def _made_for(fit: Fit, made: Iterator[Made] | None) -> Made | None:
    """Return what the pass that a fit wants has made, the next of `made`, or without that, of its own X; None: none."""
    if fit.wanted is None:
        return None
    return next(fit.data.passes([fit.wanted]) if made is None else made)


def _wanted(fits: Iterable[Fit]) -> list[Pass]:
    # A function of its own: Python 3.13 lets a Ctrl-C in the middle of an inlined comprehension pass by the `try`.
    return [fit.wanted for fit in fits if fit.wanted is not None]


def _solved(session: Session, passes: _Passes, rule: StopRule[Report], measure: bool) -> Passes[Solution]:
    """Yield the passes over X that a fit needs, and return what it leads to."""
    solver, data = passes.solver, passes.data
    yield from session.run(passes, rule)
    losses = accepted_losses(passes.at.history)  # without what a last pass for W does
    W, Ht, distance = (yield from passes.final(session)) if measure else (*passes.pair, np.nan)
    at = passes.at
    loss = distance + penalty(solver.penalties, W, Ht, data) if measure else np.nan
    error = np.sqrt(2 * max(0.0, distance)) if measure else np.nan
    termination = session.end(rule, at.passes, error, at.unfinished)
    history = at.history
    if losses and isnan(losses[-1]) and at.passes % 10 == 0:  # no further pass will measure it
        losses[-1] = loss
        history = with_last_loss(history, loss)
    falling = 0.0
    if len(losses) > 1 and losses[-2] > 0:
        falling = max(0.0, (losses[-2] - losses[-1]) / losses[-2])
    at.state.separate()
    return Solution(
        W, Ht, at.passes, termination, arrays(history), distance, float(at.kkt), session.interruption, float(falling),
        float(loss),
    )  # fmt: skip


def code(data: Rows, solver: Solver, Ht: Array, *, tol: float, max_iter: int, by_step: bool = False) -> Coded:
    """Solve for W with H fixed, each row alone: it does not depend on the other rows of X. X is read once.

    Parameters
    ----------
    data : Rows
        X of shape (n, m).
    solver : Solver
        Made from `nmfcore.solvers.SOLVERS`.
    Ht : ndarray of shape (m, k)
        Hᵀ, C-contiguous, in the compute type.
    tol : float
        Tolerance of the solver's stop rule, which is applied to each row.
    max_iter : int
        Maximum number of sweeps or updates of a row.
    by_step : bool
        Whether a row f stops by the rule of MiniBatchNMF instead, ‖Δf‖ ≤ tol·‖f‖. Defaults to False.

    Returns
    -------
    coded : Coded
    """
    orders = solver.fix(solver.start(data, data.backend.asarray(Ht)))
    arguments = (solver, orders, tol, max_iter, by_step)
    after, sums = data.each_block(
        _code_block, {}, arguments, width=Ht.shape[1], sums={"most": (1,), "unsettled": (1,)},
        out={"W": Ht.shape[1]}, verify=True,
    )  # fmt: skip
    (most,), (unsettled,) = data.read_sums(sums["most"], sums["unsettled"])
    return Coded(after["W"], max(1, int(most)), int(unsettled))


def _code_block(
    backend: Backend, block: Block, rows: RowState, arguments: tuple[Solver, Orders, float, int, bool],
    after: RowState, sums: Named,
) -> None:  # fmt: skip
    solver, orders, tol, max_iter, by_step = arguments
    stats = backend.xp.zeros(backend.STATS + 2 * orders.width)
    solver.code(backend, block, orders, tol, max_iter, by_step, after["W"], stats)
    sweeps = stats[backend.SWEEPS : backend.SWEEPS + 1]
    sums["most"][:] = backend.xp.maximum(sums["most"], sweeps)
    sums["unsettled"] += stats[backend.UNSETTLED]
