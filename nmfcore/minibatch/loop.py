"""Fits by steps over batches: the batches take turns, over and over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from .._typing import Array
from ..loop.session import History, Limits, Process, Progress, Session, Stopped, arrays, without_passes
from ..loop.stopping import BATCH_RULES, BatchReport, StopRule, Termination

if TYPE_CHECKING:
    from ..rows.base import Rows
    from ..solvers import Fixed

M = TypeVar("M")  # what a learner remembers of the batches


class Step(NamedTuple, Generic[M]):
    """What one batch leads to."""

    W: Array  # rows × k
    Ht: Array  # m × k
    memory: M
    cost: float  # per row, of the new W and the H before


class Learner(Protocol[M]):
    """Learns H from one batch after another. None of its functions writes into its arguments.

    Attributes
    ----------
    rule : str
        Name of the stop rule in `nmfcore.loop.stopping.BATCH_RULES`.
    fixed : Fixed or None
        Which columns of Ht no step changes. Stop rules leave them out.
    """

    rule: ClassVar[str]
    fixed: Fixed | None

    def begin(self, Ht: Array) -> M:
        """Return the memory before the first batch."""

    def step(self, data: Rows, W: Array | None, Ht: Array, memory: M) -> Step[M]:
        """Learn from one batch, from its rows of W; None solves for them anew."""

    def rearranged(self, memory: M, order: Array, scales: Array) -> M:
        """Return the memory of components in another order, of which W is multiplied by scales and H divided."""


class Run(NamedTuple):
    """The result of a fit by batches."""

    W: Array
    Ht: Array
    memory: Any  # the learner's
    n_steps: int
    termination: Termination
    history: dict[str, Array]  # loss (cost per row), violation (NaN), seconds, accepted: one entry per step
    interruption: Stopped | None  # the exception that ended the fit


class _Iterate(NamedTuple, Generic[M]):
    """What the steps so far have led to; it is replaced as a whole, so that no interruption finds half of a step."""

    Ht: Array
    memory: M
    steps: int = 0
    history: History = None
    rows: slice | Array = slice(0)  # which rows of W the last step has made,
    W: Array | None = None  # and these rows: an interruption may come before they are in W


class _Steps(Process[BatchReport, Step[M]]):
    """Steps over batches: each makes the rows of W that belong to a batch, and a new H."""

    def __init__(
        self, slices: Sequence[slice | Array], batches: Sequence[Rows], learner: Learner[M], W: Array, Ht: Array,
        max_iter: int, restarts: bool, overwrite_W: bool,
    ):  # fmt: skip
        self.slices, self.batches, self.learner, self.restarts = slices, batches, learner, restarts
        self.most = max_iter * len(batches)
        self.W = W if overwrite_W else W.copy()
        self.at = _Iterate(Ht, learner.begin(Ht))

    def begin(self, rule: StopRule[BatchReport], made: None) -> tuple[int, float]:  # type: ignore[override]
        """Return zero steps and seconds so far: the first step needs no preparation."""
        return 0, 0.0

    def advance(self, made: None) -> tuple[BatchReport, Step[M]]:  # type: ignore[override]
        """Learn from the next batch; nothing is committed."""
        at, turn = self.at, self.at.steps % len(self.batches)
        W = None if self.restarts else self.W[self.slices[turn]]
        step = self.learner.step(self.batches[turn], W, at.Ht, at.memory)
        fixed = self.learner.fixed
        new, old = (step.Ht, at.Ht) if fixed is None else fixed.columns(step.Ht, at.Ht)
        return BatchReport(loss=step.cost, rows=step.W.shape[0], Ht=new, Ht_before=old), step

    def commit(self, report: BatchReport, following: Step[M], seconds: float) -> None:
        """Take up the factors that a step leads to."""
        at, rows = self.at, self.slices[self.at.steps % len(self.batches)]
        history = (report.loss, report.violation, seconds, report.accepted, at.history)
        W = None if self.restarts else following.W
        self.at = _Iterate(following.Ht, following.memory, at.steps + 1, history, rows, W)
        self.write()

    def write(self) -> None:
        """Write the rows of the last step into W, if they are not there yet."""
        if self.at.W is not None:
            self.W[self.at.rows] = self.at.W

    def progress(self, report: BatchReport) -> Progress:
        """Return what a callback receives."""
        at = self.at
        assert at.history is not None
        seconds = at.history[2]
        return Progress(at.steps, report.loss, report.kkt, report.violation, seconds, (self.W, at.Ht))


def run(
    slices: Sequence[slice | Array],
    batches: Sequence[Rows],
    learner: Learner[M],
    W: Array,
    Ht: Array,
    limits: Limits,
    *,
    restarts: bool,
    overwrite_W: bool = False,
    max_no_improvement: int | None = None,
    verbose: int = 0,
    callback: Callable[[Progress], object] | None = None,
) -> Run:
    """Go through the batches in turn, over and over, until a rule or a limit ends the fit.

    Parameters
    ----------
    slices : sequence of slice or ndarray of int
        The rows of each batch.
    batches : sequence of Rows
        The batches.
    learner : Learner
        Makes the steps.
    W : ndarray of shape (n, k)
        The start. Not written unless `overwrite_W` is true.
    Ht : ndarray of shape (m, k)
        Hᵀ at the start. Never written.
    limits : Limits
        Tolerance of the stop rule, maximum number of passes over all batches, and maximum time.
    restarts : bool
        Whether each step solves for the rows of its batch anew. The W that is returned is that of the start then.
    overwrite_W : bool
        Whether the rows are written into the W that is given. Defaults to False, which copies it.
    max_no_improvement : int or None
        Number of steps without an improvement of the cost that end the fit. Defaults to None, which waits for ever.
    verbose : int
        Whether to print progress, in scikit-learn's lines. Defaults to 0, which prints nothing.
    callback : callable or None
        Called with a `Progress` after each step; the fit ends if it returns True.

    Returns
    -------
    run : Run
        An exception is not raised but returned as `interruption`, with the factors of the last whole step.
    """
    session = Session(limits, callback)
    steps = _Steps(slices, batches, learner, W, Ht, limits.max_iter, restarts, overwrite_W)
    rule = BATCH_RULES[learner.rule](
        limits.tol, verbose, n_rows=W.shape[0], n_batches=len(batches), n_steps=steps.most,
        max_no_improvement=max_no_improvement,
    )  # fmt: skip
    without_passes(session.run(steps, rule))
    steps.write()
    at = steps.at
    termination = session.end(rule, at.steps)
    return Run(steps.W, at.Ht, at.memory, at.steps, termination, arrays(at.history), session.interruption)
