"""The loop that all fits share, whole passes and mini-batches alike: callbacks, time, checkpoints and interruptions."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from math import isnan
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn, TypeVar

import numpy as np

from .._typing import Array
from ..scale import of_loss, times
from ..solvers._common import Correction, Report
from .checkpoint import Checkpoint
from .stopping import R, StopReason, StopRule, Termination, corrected

if TYPE_CHECKING:
    from ..rows.base import Made, Pass


class Limits(NamedTuple):
    """What ends a fit at the latest.

    Parameters
    ----------
    tol : float
        Tolerance of the stop rule.
    max_iter : int
        Maximum number of passes over X.
    max_time : float or None
        Seconds after which no further pass or step begins. None is without limit.
    begun : float or None
        The ``time.perf_counter()`` at the call, from which `max_time` and the seconds of the history are counted. None
        counts from the first line of the loop.
    """

    tol: float
    max_iter: int
    max_time: float | None = None
    begun: float | None = None


class Stopped:
    """An exception that ended a fit, kept until the results are safe, and raised once.

    An exception's traceback holds the frames that it has passed. A frame that in turn kept the exception would make a
    cycle, and X and W would stay in memory until the garbage collector runs: so only this object holds it.
    """

    def __init__(self, exception: BaseException):
        self.exception: BaseException | None = exception

    def again(self) -> NoReturn:
        """Raise the exception, and drop the reference to it."""
        exception, self.exception = self.exception, None
        try:
            assert exception is not None, "it was raised before"
            raise exception
        finally:
            del exception


class Progress:
    """What a callback receives after each accepted pass, or step over a batch.

    Attributes
    ----------
    iteration : int
        Passes over X so far, rejected ones included; of mini-batches, steps.
    loss : float
        Penalised objective; for mu with β ≠ 2 as last measured (every 10 passes). Of mini-batches, the cost per row.
    kkt : float
        KKT residual.
    violation : float
        Σ |projected gradient|, NaN for solvers without one.
    seconds : float
        Seconds since the call of `fit`, in which the start is included; of a fit that goes on from a checkpoint, with
        the seconds before it.
    run : int
        Number of the run of a fit with several, from 0 on.
    """

    __slots__ = ("_factors", "_power", "_to_caller", "iteration", "kkt", "loss", "run", "seconds", "violation")

    def __init__(
        self,
        iteration: int,
        loss: float,
        kkt: float,
        violation: float,
        seconds: float,
        factors: tuple[Array, Array],
        to_caller: Callable[[Array], Array] = lambda A: A,
    ):
        self.iteration = iteration
        self.loss = loss
        self.kkt = kkt
        self.violation = violation
        self.seconds = seconds
        self.run = 0
        self._factors = factors
        self._to_caller = to_caller
        self._power = 0

    def factors(self) -> tuple[Array, Array]:
        """Return copies of W (n × k) and H (k × m) as they are now."""
        W, Ht = self._factors
        W, Ht = times(W.copy(), -self._power), times(Ht.T.copy(), -self._power)
        return self._to_caller(W), self._to_caller(Ht)

    def rescale(self, power: int, beta: float = 2.0) -> None:
        """Bring the numbers of a fit of 4^power·X into the unit of X."""
        loss = of_loss(power, beta)
        self.loss, self.violation = times(self.loss, -loss), times(self.violation, power - loss)
        self._power += power


# The history of a fit: loss, violation and seconds of the last pass, whether it was accepted, and the history before
# it; None is the history before the first pass. None of it is ever changed, so that it is committed together with the
# factors by one assignment, and an interruption finds all of a pass or nothing of it.
History = tuple[float, float, float, bool, Any] | None
NAMES = {"loss": np.float64, "violation": np.float64, "seconds": np.float64, "accepted": np.bool_}  # of the columns


def columns(history: History) -> tuple[list[float], list[float], list[float], list[bool]]:
    """Return losses, violations, seconds and whether they were accepted, from the first pass to the last."""
    entries = []
    while history is not None:
        entries.append(history)
        history = history[4]
    entries.reverse()
    losses, violations, seconds = ([each[i] for each in entries] for i in range(3))
    return losses, violations, seconds, [each[3] for each in entries]


def history_of(losses: list[float], violations: list[float], seconds: list[float], accepted: list[bool]) -> History:
    """Return the history with these columns."""
    history: History = None
    for entry in zip(losses, violations, seconds, accepted, strict=True):
        history = (*entry, history)
    return history


def accepted_losses(history: History) -> list[float]:
    """Return the losses of the accepted passes."""
    losses, _, _, accepted = columns(history)
    return [loss for loss, kept in zip(losses, accepted, strict=True) if kept]


def with_last_loss(history: History, loss: float) -> History:
    """Return a history with this loss of the last accepted pass."""
    rejected = []
    while history is not None and not history[3]:
        rejected.append(history)
        history = history[4]
    if history is not None:
        history = (loss, *history[1:])
    for entry in reversed(rejected):
        history = (*entry[:4], history)
    return history


def corrected_by(report: Report, history: History) -> History:
    """Return a history as a pass has measured its losses.

    The loss of a rejected pass moves with that of the accepted pass before it, from which its steps were counted: it
    stays as far above it as the pass has found it.
    """
    if report.incoming is not None and not isnan(report.incoming.loss):
        history = with_last_loss(history, report.incoming.loss)
    if report.offset:
        losses, violations, seconds, accepted = columns(history)
        following, moved = iter(corrected(accepted_losses(history), report)), 0.0
        for i, kept in enumerate(accepted):
            if kept:
                before, losses[i] = losses[i], next(following)
                moved = losses[i] - before
            else:
                losses[i] += moved
        history = history_of(losses, violations, seconds, accepted)
    return history


def continued(history: History, loss: float, violation: float, seconds: float, accepted: bool) -> History:
    """Return a history whose last iteration has made another pass; a rejected one changes nothing but its seconds."""
    assert history is not None
    if history[3] and not accepted:
        loss, violation, accepted = history[0], history[1], True
    return (loss, violation, seconds, accepted, history[4])


def with_final_loss(history: History, loss: float) -> History:
    """Return a history with this loss of the last accepted pass, and no lower one of a pass before it."""
    lifted = corrected_by(Report(loss=loss, correction=Correction(loss, 0)), history)
    return with_last_loss(lifted, loss)


def arrays(history: History) -> dict[str, Array]:
    """Return the columns by their names in `history_`."""
    return {name: np.array(column, NAMES[name]) for name, column in zip(NAMES, columns(history), strict=True)}


def complete(history: Mapping[str, Array]) -> dict[str, Array]:
    """Return a `history_` that has "accepted". Earlier versions recorded accepted passes only, without saying so."""
    history = dict(history)
    if "loss" in history and "accepted" not in history:
        history["accepted"] = np.ones(np.shape(history["loss"]), np.bool_)
    return history


F = TypeVar("F")  # what an advance leads to


class Process(ABC, Generic[R, F]):
    """What a session repeats: passes over X, or steps over batches.

    A process does not read X by itself. It names the pass that it needs next, and is handed what that pass has made, so
    that the passes of several fits can be made together. A process over batches needs none.

    Attributes
    ----------
    most : int
        Maximum number of passes or steps.
    in_turn : bool
        Whether other processes are to go on before each advance, be it that it needs no pass: it is under way already.
    continues : bool
        Whether the next pass belongs to the iteration of the pass before it.
    """

    most: int
    in_turn = False
    continues = False

    def to_begin(self, rule: StopRule[R]) -> Pass | None:
        """Return the pass over X that `begin` needs, if any."""
        return None

    @abstractmethod
    def begin(self, rule: StopRule[R], made: Made | None) -> tuple[int, float]:
        """Prepare the first pass, or go on from a checkpoint; return passes and seconds so far."""

    def to_advance(self) -> Pass | None:
        """Return the pass over X that `advance` needs, if any."""
        return None

    @abstractmethod
    def advance(self, made: Made | None) -> tuple[R, F]:
        """Return the report of a pass, or step, and where it leads to; nothing is committed."""

    @abstractmethod
    def commit(self, report: R, following: F, seconds: float) -> None:
        """Go on from where a pass leads to, by one assignment."""

    @abstractmethod
    def progress(self, report: R) -> Progress:
        """Return what a callback receives after the pass that was committed last."""

    def mark(self, checkpoint: Checkpoint, rule: StopRule[R]) -> None:
        """Note in a checkpoint where the process is."""
        raise NotImplementedError


T = TypeVar("T")
# Yields the passes over X that it needs, and is sent what they have made; None where others are to go on.
Passes = Generator["Pass | None", "Made | None", T]


def without_passes(work: Passes[T]) -> T:
    """Return what a generator returns that needs no pass over X."""
    try:
        next(work)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("a pass over X is needed")


class Session:
    """One run of a process from its first pass to its end.

    Parameters
    ----------
    limits : Limits
        What ends it at the latest.
    callback : callable or None
        Called with a `Progress` after each iteration with an accepted pass; the fit ends if it returns True.
    checkpoint : Checkpoint or None
        Where the fit is kept now and then. Defaults to nowhere.

    Attributes
    ----------
    termination : Termination or None
        How the run ended; None if it was by the maximum number of passes.
    interruption : Stopped or None
        The exception that ended it. It is not raised here, so that no factors are lost.
    """

    def __init__(
        self, limits: Limits, callback: Callable[[Progress], object] | None = None, checkpoint: Checkpoint | None = None
    ):
        self.limits, self.callback, self.checkpoint = limits, callback, checkpoint
        self.begun = time.perf_counter() if limits.begun is None else limits.begun
        self.termination: Termination | None = None
        self.interruption: Stopped | None = None

    def run(self, process: Process[R, F], rule: StopRule[R]) -> Passes[None]:
        """Repeat a process until a rule, a limit, the callback or an exception ends it.

        Parameters
        ----------
        process : Process
        rule : StopRule

        Yields
        ------
        wanted : Pass
            The pass over X that the process needs next. What it has made is to be sent, and an exception that came in
            its way is to be thrown in, which ends the run.
        """
        try:
            self.termination = yield from self._repeat(process, rule)
        except GeneratorExit:  # the run was given up; its end is not reported
            raise
        except BaseException as exception:
            self.interrupt(exception)
        if self.interruption is not None:
            self.save()

    def _repeat(self, process: Process[R, F], rule: StopRule[R]) -> Passes[Termination | None]:
        checkpoint, max_time = self.checkpoint, self.limits.max_time
        wanted = process.to_begin(rule)
        done, seconds = process.begin(rule, None if wanted is None else (yield wanted))
        begun, accepted = self.begun - seconds, None
        while done < process.most or process.continues:
            wanted = process.to_advance()
            made = None if wanted is None and not process.in_turn else (yield wanted)
            report, following = process.advance(made)
            termination = rule.before(report, done)
            if termination is not None:
                return termination
            if not process.continues:
                done, accepted = done + 1, None  # X is read, whether or not the pass is accepted
            if report.accepted:
                accepted = report
            process.commit(report, following, time.perf_counter() - begun)
            whole = not process.continues
            if accepted is not None and whole:
                termination = rule.after(accepted, done)
                if self.callback is not None and self.callback(process.progress(accepted)) is True:
                    termination = termination or StopReason.CALLBACK.given()
                if termination is not None:
                    return termination
            left = done < process.most or not whole
            late = max_time is not None and time.perf_counter() - self.begun >= max_time and left
            if checkpoint is not None:
                process.mark(checkpoint, rule)
                if late or checkpoint.due():
                    checkpoint.save()
            if late:
                return StopReason.MAX_TIME.given(max_time=max_time)
        return None

    def interrupt(self, exception: BaseException) -> None:
        """End the fit by an exception, unless one has ended it before."""
        if self.interruption is None:
            self.interruption = Stopped(exception)
            self.termination = self.termination or Termination.by(exception)

    def save(self) -> None:
        """Write the checkpoint, if there is one. An exception, such as a warning raised as an error, ends the fit."""
        try:
            if self.checkpoint is not None:
                self.checkpoint.save()
        except BaseException as exception:
            if self.interruption is None:
                self.interruption = Stopped(exception)

    def end(self, rule: StopRule[R], done: int, error: float = np.nan, unfinished: bool = False) -> Termination:
        """Return how the fit ended, now that it is over.

        Parameters
        ----------
        rule : StopRule
            The rule of the run.
        done : int
            Number of passes or steps.
        error : float
            √(2 D_β) of the final pair. Defaults to NaN, which stands for an error that was not measured.
        unfinished : bool
            Whether components were being revived. Defaults to False.

        Returns
        -------
        termination : Termination
        """
        if self.termination is None:
            reason = StopReason.MAX_ITER_REVIVING if unfinished else StopReason.MAX_ITER
            self.termination = rule.end(done, error) or reason.given(max_iter=self.limits.max_iter)
            if not self.termination.converged and self.limits.tol > 0:
                self.save()  # a fit with a larger max_iter goes on from it
        elif self.termination.converged:
            rule.end(done, np.nan)
        return self.termination
