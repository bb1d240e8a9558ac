"""`NMF(n_init=R)`: runs of one fit from R random starts, of which the best is kept, and how alike they are."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from sklearn.utils import check_random_state

from .. import scale
from .._typing import Array, Factor, Seed
from ..loop.session import Limits, Progress, Stopped
from ..loop.solve import Fit, Solution, make_together
from ..loop.stopping import say_run
from ..starts.samples import sample_rows

if TYPE_CHECKING:
    from ..backends.operations import Backend
    from ..rows import Rows
    from .nmf import NMF

# What draws nothing, or nothing that matters. The SVD of an NNDSVD starts with random numbers and converges: on MNIST
# and CBCL with k = 15 the cosines between the components of the starts of two seeds were 1 − 2e-7 or more, but for
# the last component.
_ALIKE = {
    "custom": "begins with the W and H of the call",
    "nndsvd": "begins with the leading singular vectors of X",
    "nndsvda": "begins with the leading singular vectors of X",
}


# Bytes that the rows of W of all runs may have at least. Side by side they save time where X is read from a disk, and
# hardly any in memory: on MNIST with k = 15 a visit of 20,000 rows takes 13.8 ms ("cd"; "hals" 14, from pass 20 on 60),
# of which about 2.7 are the reading of X. One product for 8 runs, with the bits of eight, would take 5.9 ms per run
# instead of 8.2. On an EPYC with AVX2, where 50 of the 51 ms of a visit are products, it would take 26.6 ms instead of
# 21.4 for X·H, and 27.9 instead of 28.4 for Xᵀ·W.
ROOM = 1 << 30


class Restarted(NamedTuple):
    """What the runs of a fit have led to."""

    best: Solution  # of the run with the lowest loss, in the unit in which X was read
    losses: Array  # by run, in that unit; NaN: the run has not begun
    Ht: dict[int, Array]  # m × k, by number of the run
    number: int  # of the best run

    def stability(self, backend: Backend) -> Array:
        """Return for each component of the best run how well the other runs have found it, see `matched_cosines`."""
        of_best = self.Ht[self.number]
        others = [matched_cosines(of_best, Ht, backend) for number, Ht in self.Ht.items() if number != self.number]
        # sorted, so that the bits do not depend on the order of the runs
        return np.sort(others, axis=0).mean(axis=0) if others else np.full(of_best.shape[1], np.nan)


def check(estimator: NMF) -> None:
    """Raise ValueError if several runs would be one and the same, or cannot be kept."""
    n_init, init = estimator.n_init, estimator.init
    if n_init == 1:
        return
    if init in _ALIKE:
        raise ValueError(
            f"n_init = {n_init} with init='{init}': every run {_ALIKE[init]}, so that all of them would be alike. "
            "Use n_init=1, or a start that is drawn: init=None, 'random' or 'nndsvdar'."
        )
    if estimator.checkpoint is not None:
        raise ValueError(
            f"checkpoint='{estimator.checkpoint}' with n_init = {n_init}: a checkpoint holds a single run. Use "
            "n_init=1, or leave checkpoint out."
        )


def seeds(random_state: Seed, n_init: int) -> list[int]:
    """Return the `random_state` of each run; that of a run does not depend on the number of runs.

    Parameters
    ----------
    random_state : int, RandomState or None
        An int is the entropy of a ``numpy.random.SeedSequence``; from a generator, which None is numpy's global one of,
        128 bits are drawn. Its ``spawn`` makes the seeds.
    n_init : int
        Number of runs.

    Returns
    -------
    seeds : list of int
        Of 32 bits.
    """
    if random_state is None or isinstance(random_state, np.random.RandomState):
        words = check_random_state(random_state).randint(1 << 32, size=4, dtype=np.uint32)
        entropy: int | list[int] = words.tolist()
    else:
        entropy = int(random_state)
    return [int(child.generate_state(1)[0]) for child in np.random.SeedSequence(entropy).spawn(n_init)]


def restarted(
    estimator: NMF,
    data: Rows,
    W: Factor,
    H: Factor,
    watch: Callable[[Progress], object] | None,
    begun: float,
) -> Restarted:
    """Make the runs of a fit; those of an X whose passes can be shared side by side, those of any other in turn.

    Parameters
    ----------
    estimator : NMF
        With `n_init` > 1; checked.
    data : Rows
        X as it is read.
    W, H : ndarray or None
        What the caller gave, which is not used.
    watch : callable or None
        Called after each iteration of each run.
    begun : float
        The ``time.perf_counter()`` that `max_time` is counted from.

    Returns
    -------
    restarted : Restarted
        An exception that ended the runs is the `interruption` of the best.
    """
    n_init, max_time = estimator.n_init, estimator.max_time
    limits = Limits(estimator.tol, estimator.max_iter, max_time, begun)
    losses, found = np.full(n_init, np.nan), {}
    best: tuple[int, Solution] | None = None
    interruption: Stopped | None = None

    def begin(number: int, seed: int) -> Fit:
        run = copy.copy(estimator)
        run.random_state, run.init, run.n_init = seed, _drawn(estimator, data), 1
        given = (None, None) if number else (W, H)  # whose being of no use is warned of once
        start = run._start(data, given[0], given[1], begun)
        estimator._n_components = run._n_components
        solver = run._solver_of(data, start[1].shape[1])
        of_run = None if watch is None else _numbered(watch, number)
        return Fit(data, solver, *start, limits, callback=of_run, overwrite_W=True)

    def take(number: int, fit: Fit) -> None:
        """Keep what a run has led to; of W only the best one, as the others may be large."""
        nonlocal best, interruption
        solution = fit.solution
        if solution is None:  # it has been taken
            return
        losses[number], found[number] = solution.loss, solution.Ht
        if estimator.verbose:
            say_run(
                number,
                n_init,
                scale.times(solution.loss, -scale.of_loss(data.power, estimator._beta_loss)),
                solution.n_iter,
                solution.termination,
            )
        if interruption is None:
            interruption = solution.interruption
        elif solution.interruption not in (None, interruption):
            solution.interruption.exception = None  # it is raised once
        if best is None or (_rank(solution.loss), number) < (_rank(best[1].loss), best[0]):
            best = number, solution
        fit.solution = None

    def take_one(fits: list[tuple[int, Fit]], i: int) -> None:
        take(*fits[i])

    turns = list(enumerate(seeds(estimator.random_state, n_init)))
    at_once = _at_once(data, estimator._n_components, n_init)
    for first in range(0, n_init, at_once):
        fits: list[tuple[int, Fit]] = []
        try:
            for number, seed in turns[first : first + at_once]:
                if number and max_time is not None and time.perf_counter() - begun >= max_time:
                    break
                fits.append((number, begin(number, seed)))
            stopped = make_together(data, [fit for _, fit in fits], partial(take_one, fits))
            for each in fits:  # an exception may have come before
                take(*each)
            interruption = interruption or stopped
        except BaseException as exception:
            if best is None:
                raise
            interruption = interruption or Stopped(exception)
        if interruption is not None:
            break
    assert best is not None
    return Restarted(best[1]._replace(interruption=interruption), losses, found, best[0])


def _at_once(data: Rows, k: int | str, n_init: int) -> int:
    """Return how many runs go side by side: all, unless X is in memory and their rows of W would outweigh it."""
    if not data.shares:
        return 1
    if not data.in_memory:
        return n_init
    n, m = data.shape
    of_a_run = 3 * n * (m if isinstance(k, str) else k) * data.dtype.itemsize  # W, its twin, the W of the pass before
    return max(1, min(n_init, max(ROOM, data.entries * data.given_dtype.itemsize) // of_a_run))


def _drawn(estimator: NMF, data: Rows) -> str | None:
    """Return the start of every run: of None and "auto" samples of rows where X is tall, else random factors.

    What these stand for in a single run where no samples are drawn is an NNDSVD, which would be that of every run.
    """
    if estimator.init not in (None, "auto"):
        return estimator.init
    n, m = data.shape
    k = m if estimator._n_components == "auto" else estimator._n_components
    return estimator.init if estimator._auto and sample_rows(n, m, k) else "random"


def _numbered(watch: Callable[[Progress], object], number: int) -> Callable[[Progress], object]:
    """Return a callback that enters the number of the run in what it receives."""

    def of_run(progress: Progress) -> object:
        progress.run = number
        return watch(progress)

    return of_run


def _rank(loss: float) -> float:
    return np.inf if np.isnan(loss) else loss


def matched_cosines(Ht: Array, other: Array, backend: Backend) -> Array:
    """Return the cosine of each component to the one of another run that it is matched with.

    The components of both are matched one to one so that the cosines add up to the most.

    Parameters
    ----------
    Ht, other : ndarray of shape (m, k)
        C-contiguous, of one type.
    backend : Backend
        Where they are.

    Returns
    -------
    cosines : ndarray of shape (k,), float64
        0 of a component that is zero.
    """
    from scipy.optimize import linear_sum_assignment  # which takes a tenth of a second to import

    products, *squares = (backend.to_numpy(backend.gram(*pair)) for pair in ((Ht, other), (Ht,), (other,)))
    with np.errstate(under="ignore"):
        norms = np.outer(*(np.sqrt(np.diagonal(square)) for square in squares))
        cosines = np.divide(products, norms, out=np.zeros_like(norms), where=norms > 0)
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    result = np.zeros(Ht.shape[1])
    result[rows] = np.minimum(cosines[rows, columns], 1.0)
    return result
