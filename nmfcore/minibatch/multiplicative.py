"""Mini-batches: H from weighted sums over the batches seen, W batch by batch.

After a batch X_b has given its rows W_b (H fixed),

    A ← ρ·A + H^(1/γ) ⊙ N,    B ← ρ·B + D,    H ← (A / B)^γ

with numerator N and denominator D of the multiplicative update of H on that batch, penalties in D.
A. Lefèvre, F. Bach, C. Févotte, "Online algorithms for nonnegative matrix factorization with the
Itakura-Saito divergence", WASPAA 2011. Steps, costs and stop rules are scikit-learn's.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils import check_random_state

from ..loop.solve import Progress, Stopped
from ..objective import divergence, inner
from ..rows.memory import as_rows
from ..solvers._common import Report

if TYPE_CHECKING:
    from ..rows.memory import Rows

Array = NDArray[Any]

# A batch is one step's work: it is shared among threads where an ordinary pass so small would not be. Measured with
# 1,024 × 784, k = 15, two threads: an epoch takes 0.84 of the time.
LANE_WORK = 2.5e7
EPSILON = float(np.finfo(np.float32).eps)  # stands for a denominator of zero
TINY = float(np.finfo(np.float64).eps)  # smaller entries become zero where β asks for it
# Bytes of dense X up to which shuffled batches are gathered row by row. A larger X may be a memory map that is read
# from disk: there a batch is made of runs of so many bytes, or of an eighth of its rows.
LARGE = 2**30
RUN = 2**16


class Memory(NamedTuple):
    """The sums that H is the quotient of, m × k, float64."""

    numerator: Array
    denominator: Array

    @classmethod
    def of(cls, Ht: Array) -> Memory:
        """Return the memory of no batch: H over 1."""
        return cls(Ht.astype(np.float64), np.ones(Ht.shape))


class Step(NamedTuple):
    """What one batch leads to; nothing given is written."""

    W: Array  # rows × k
    Ht: Array  # m × k
    memory: Any  # the learner's: `Memory` here
    cost: float  # per row, of the pair (new W, H before)


class Run(NamedTuple):
    """What a pass through the batches ends with."""

    W: Array
    Ht: Array
    memory: Any
    n_steps: int
    converged: bool
    reason: str
    history: dict[str, Array]  # loss (cost per row), violation (NaN), seconds: one entry per step
    interruption: Stopped | None


def cut(X: Any, size: int, dtype: Any, n_jobs: int | None = None, power: int = 0) -> tuple[list[slice], list[Rows]]:
    """Cut X into contiguous batches of `size` rows; none of its numbers is copied.

    Parameters
    ----------
    X : ndarray, CSR or CSC matrix of shape (n, m)
        Validated; CSC is converted to CSR once.
    size : int
        Rows per batch; the last one may have fewer.
    dtype : numpy.float32 or numpy.float64
        Compute type.
    n_jobs : int or None
        Threads.
    power : int
        Of 4: batches of 4^power·X.

    Returns
    -------
    slices : list of slice
    batches : list of Rows
        To be visited in turn: they share accumulators, which would outweigh many a batch.
    """
    n = X.shape[0]
    slices = [slice(lo, min(lo + size, n)) for lo in range(0, n, size)]
    if not sparse.issparse(X):
        batches = [as_rows(X[rows], dtype, n_jobs, LANE_WORK).scaled(power) for rows in slices]
        return slices, [batch.sharing_sums(batches[0]) for batch in batches]
    X = X.tocsr()
    batches = []
    for rows in slices:
        first, last = X.indptr[rows.start], X.indptr[rows.stop]
        parts = (X.data[first:last], X.indices[first:last], X.indptr[rows.start : rows.stop + 1])
        shape = (rows.stop - rows.start, X.shape[1])
        batch = type(X)((parts[0], parts[1], parts[2] - first), shape=shape, copy=False)
        batches.append(as_rows(batch, dtype, n_jobs, LANE_WORK).scaled(power))
    return slices, [batch.sharing_sums(batches[0]) for batch in batches]


class Gathered(Sequence["Rows"]):
    """Batches of rows from all over X. A batch is copied when it is asked for, and is not kept."""

    def __init__(self, X: Any, parts: Sequence[Array], dtype: Any, n_jobs: int | None, power: int = 0):
        self.X, self.parts, self.dtype, self.n_jobs, self.power = X, parts, dtype, n_jobs, power
        self.first: Rows | None = None

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: Any) -> Any:
        batch = as_rows(self.X[self.parts[number]], self.dtype, self.n_jobs, LANE_WORK).scaled(self.power)
        if self.first is None:  # of no rows: it only holds the accumulators
            self.first = as_rows(self.X[:0], self.dtype, self.n_jobs, LANE_WORK)
        return batch.sharing_sums(self.first)


def cut_shuffled(
    X: Any, size: int, dtype: Any, n_jobs: int | None = None, random_state: Any = None, power: int = 0
) -> tuple[list[Array], Gathered]:
    """Cut X into batches of at most `size` rows, each of which has rows from all over X.

    Of as many neighbouring rows as there are batches, every batch gets one, by lot: in whatever order the rows come,
    all batches are alike, more so than batches of rows drawn without regard to their place.

    Parameters
    ----------
    X : ndarray, CSR or CSC matrix of shape (n, m)
        Validated; CSC is converted to CSR once.
    size : int
        Most rows per batch; batches differ by at most one row.
    dtype : numpy.float32 or numpy.float64
        Compute type.
    n_jobs : int or None
        Threads.
    random_state : int, RandomState or None
        Draws the batches.
    power : int
        Of 4: batches of 4^power·X.

    Returns
    -------
    parts : list of ndarray of int
        The rows of each batch, increasing.
    batches : Gathered
        To be visited in turn.
    """
    if sparse.issparse(X):
        X = X.tocsr()
    n, count = X.shape[0], -(-X.shape[0] // size)
    run = 1
    if not sparse.issparse(X) and X.nbytes > LARGE:
        run = max(1, min(RUN * n // X.nbytes, size // 8))
    runs = -(-n // run)
    batch_of = check_random_state(random_state).random_sample((-(-runs // count), count)).argsort(axis=1).ravel()
    order = np.argsort(np.repeat(batch_of[:runs], run)[:n], kind="stable")
    parts = [np.sort(part) for part in np.array_split(order, count)]
    return parts, Gathered(X, parts, dtype, n_jobs, power)


def solve_rows(data: Rows, mu: Any, Ht: Array, tol: float, max_iter: int) -> Array:
    """Solve for W from a constant, H fixed, until ‖ΔW‖ ≤ tol·‖W‖ over the batch as a whole.

    Parameters
    ----------
    data : Rows
        The batch, n × m.
    mu : solver
        Of multiplicative updates.
    Ht : ndarray of shape (m, k)
        Hᵀ.
    tol : float
        0 for exactly `max_iter` updates.
    max_iter : int
        Most updates.

    Returns
    -------
    W : ndarray of shape (n, k)
    """
    k = Ht.shape[1]
    W = np.full((data.shape[0], k), math.sqrt(data.opening().mean / k), dtype=data.dtype)
    for _ in range(max_iter):
        before, W = W, mu.update_rows(data, W, Ht)
        change = W - before
        if tol > 0 and math.sqrt(inner(change, change)) <= tol * math.sqrt(inner(W, W)):
            break
    return W


def step(
    data: Rows,
    mu: Any,
    W: Array | None,
    Ht: Array,
    memory: Memory,
    rho: float,
    *,
    tol: float,
    restart_iter: int,
) -> Step:
    """Learn from one batch.

    Parameters
    ----------
    data : Rows
        The batch, n × m.
    mu : solver
        Of multiplicative updates, its penalties scaled for this batch.
    W : ndarray of shape (n, k) or None
        Rows to update once; None solves for them afresh.
    Ht : ndarray of shape (m, k)
        Hᵀ.
    memory : Memory
        Of the batches before.
    rho : float
        The weight that the past keeps.
    tol : float
        Of solving afresh.
    restart_iter : int
        Most updates of solving afresh.

    Returns
    -------
    step : Step
    """
    if W is None:
        W = solve_rows(data, mu, Ht, tol, restart_iter)
        if mu.floor_W:
            W[W < TINY] = 0
        cost = divergence(data, W, Ht, mu.beta)
        N, D = mu.column_terms(data, W, Ht)
    else:
        W, cost, N, D = mu.learn(data, W, Ht)
    p = mu.penalties
    if any(p):
        cost += p.l1_W * float(W.sum(dtype=np.float64)) + p.l1_H * float(Ht.sum(dtype=np.float64))
        cost += p.l2_W * inner(W, W) + p.l2_H * inner(Ht, Ht)  # without ½, as scikit-learn has it

    if p.l1_H > 0:
        D = D + p.l1_H
    if p.l2_H > 0:
        D = D + p.l2_H * Ht
    if not D.all():
        D = np.where(D == 0, EPSILON, D)
    H = Ht.astype(np.float64)
    if mu.gamma != 1:
        H **= 1 / mu.gamma
    memory = Memory(rho * memory.numerator + N * H, rho * memory.denominator + D)
    H = memory.numerator / memory.denominator
    if mu.gamma != 1:
        H **= mu.gamma
    if mu.floor_H:
        H[H < TINY] = 0
    H = H.astype(Ht.dtype, copy=False)
    return Step(W, H, memory, cost / data.shape[0])


class Learner:
    """Steps of multiplicative updates, with what they need beside the batch.

    Parameters
    ----------
    solver_for : callable
        Makes the multiplicative solver for a batch of that many rows (penalties depend on it).
    rho : float
        The weight that the past keeps from batch to batch.
    tol : float
        Of solving for rows afresh.
    restart_iter : int
        Most updates of solving afresh.
    """

    begin = staticmethod(Memory.of)

    def __init__(self, solver_for: Callable[[int], Any], rho: float, *, tol: float, restart_iter: int):
        self.solver_for = functools.cache(solver_for)
        self.rho, self.tol, self.restart_iter = rho, tol, restart_iter

    def step(self, data: Rows, W: Array | None, Ht: Array, memory: Memory) -> Step:
        """Learn from one batch, see `step`."""
        solver = self.solver_for(data.shape[0])
        return step(data, solver, W, Ht, memory, self.rho, tol=self.tol, restart_iter=self.restart_iter)


class Patience:
    """scikit-learn's two rules: H hardly changed, or the smoothed cost did not improve for long.

    Parameters
    ----------
    n : int
        Rows of X.
    tol : float
        Of the change of H; 0 switches that rule off.
    most : int or None
        Steps to wait for a smaller smoothed cost.
    n_steps : int
        Most steps.
    verbose : int
        Prints scikit-learn's lines.
    """

    def __init__(self, n: int, tol: float, most: int | None, n_steps: int, verbose: int):
        self.n, self.tol, self.most, self.n_steps, self.verbose = n, tol, most, n_steps, verbose
        self.smoothed: float | None = None
        self.least = math.inf
        self.waited = 0

    def look(self, number: int, made: Step, before: Array) -> str | None:
        """Return the reason to stop after step `number` (from 1), if there is one."""
        cost, at = made.cost, f"step {number}/{self.n_steps}"
        if number == 1:  # H was not yet learned when the first cost was measured
            self._say(f"Minibatch {at}: mean batch cost: {cost}")
            return None
        weight = min(made.W.shape[0] / (self.n + 1), 1)
        if self.smoothed is None:
            self.smoothed = cost
        else:
            self.smoothed = self.smoothed * (1 - weight) + cost * weight
        self._say(f"Minibatch {at}: mean batch cost: {cost}, ewa cost: {self.smoothed}")

        change, size = made.Ht - before, math.sqrt(inner(made.Ht, made.Ht))
        moved = math.sqrt(inner(change, change)) / size if size else 0.0
        if self.tol > 0 and moved <= self.tol:
            self._say(f"Converged (small H change) at {at}")
            return f"H changed by {moved:.2g} of itself in a step, at most tol = {self.tol:g}"

        if self.smoothed < self.least:
            self.waited, self.least = 0, self.smoothed
        else:
            self.waited += 1
        if self.most is not None and self.waited >= self.most:
            self._say(f"Converged (lack of improvement in objective function) at {at}")
            return f"the smoothed cost did not improve for {self.waited} steps"
        return None

    def _say(self, line: str) -> None:
        if self.verbose:
            print(line)


def run(
    slices: Sequence[Any],
    batches: Sequence[Rows],
    learner: Any,
    patience: Any,
    W: Array,
    Ht: Array,
    *,
    max_iter: int,
    restarts: bool,
    max_time: float | None = None,
    begun: float | None = None,
    callback: Callable[[Progress], Any] | None = None,
) -> Run:
    """Go through the batches in turn, over and over, until a rule stops it.

    Parameters
    ----------
    slices : sequence of slice or ndarray of int
        The rows of each batch.
    batches : sequence of Rows
        The batches.
    learner : object
        ``begin(Ht)`` makes its memory of no batch, ``step(data, W, Ht, memory)`` is a `Step`: `Learner`, or that of
        `nmfcore.minibatch.descent`.
    patience : object
        ``look(number, step, Ht before)`` gives the reason to stop after that step, if there is one.
    W : ndarray of shape (n, k)
        The start; never written.
    Ht : ndarray of shape (m, k)
        Hᵀ, the start; never written.
    max_iter : int
        Most passes over X.
    restarts : bool
        Solve for each batch's rows afresh; W then stays as it was given.
    max_time : float or None
        Seconds after which no further step begins.
    begun : float or None
        The ``time.perf_counter()`` that `max_time` is counted from; None is now.
    callback : callable or None
        Called with a `Progress` after each step; True ends the fit.

    Returns
    -------
    run : Run
        An interruption is handed over, not raised, with the factors of the last whole step.
    """
    clock = time.perf_counter()
    begun = clock if begun is None else begun
    n_steps = max_iter * len(batches)
    W, memory = W.copy(), learner.begin(Ht)
    costs: list[float] = []
    seconds: list[float] = []
    done, reason, converged = 0, "", False
    interruption: Stopped | None = None
    try:
        for number in range(n_steps):
            rows, data = slices[number % len(batches)], batches[number % len(batches)]
            made = learner.step(data, None if restarts else W[rows], Ht, memory)
            before, Ht, memory = Ht, made.Ht, made.memory
            if not restarts:
                W[rows] = made.W
            costs.append(made.cost)
            seconds.append(time.perf_counter() - clock)
            done += 1
            reason = patience.look(done, made, before) or ""
            if callback is not None:
                progress = Progress(done, Report(loss=made.cost), seconds[-1], (W, Ht))
                if callback(progress) is True and not reason:
                    reason = "the callback asked for it"
                    break
            if reason:
                converged = True
                break
            over = max_time is not None and time.perf_counter() - begun >= max_time
            if over and done < n_steps:
                reason = f"max_time = {max_time:g} s was over"
                break
    except BaseException as stop:
        interruption = Stopped(stop)
        reason = "interrupted" if isinstance(stop, KeyboardInterrupt) else f"an exception: {stop!r}"
    history = {
        "loss": np.array(costs[:done]),
        "violation": np.full(done, np.nan),
        "seconds": np.array(seconds[:done]),
    }
    reason = reason or f"max_iter = {max_iter} was reached"
    return Run(W, Ht, memory, done, converged, reason, history, interruption)
