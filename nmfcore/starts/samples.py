"""``init="auto"``: a start that fits of a few samples of the rows have found, for tall X.

What H is follows from a few thousand rows almost as well as from all of them, at a fraction of the price: its sampling
error falls with the root of their number. What remains is which local minimum a sample leads to, so several samples are
fitted and the best, by its loss on all rows, is where the fit of all rows begins.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils import check_random_state

from .._typing import Array, Seed
from ..loop.session import Limits
from ..loop.solve import Fit, Solution, factorize, make_together
from ..rows.threads import run_all
from .nndsvd import initialize, spectral_start

if TYPE_CHECKING:
    from ..rows.base import Rows
    from ..solvers import Solver

# Number of samples: more samples find a better minimum than larger ones do. On MNIST with k = 15 the worst of 12 seeds
# ends at 1.0011 times scikit-learn's error from 3 samples of 10,000 rows, and at 1.0005 from 6 of 5,000. Ending some
# samples early does not help: their order after 32 passes hardly predicts the final one (rank correlation 0.5).
# Cheaper starts were rejected: with k = 15, six samples of 3,500 rows at a tolerance of 1e-3, judged on 10,000 common
# rows, take a fifth off the whole call, but the worst of 12 seeds then ends 6e-4 above the median of today's and not
# 3e-4; with k = 45 the fit of all rows makes as many more passes as the start makes fewer.
SAMPLES = 6
# Largest number of passes over a sample. With 60, most samples of MNIST with k = 45 ended before they had converged.
PASSES = 100
TOL = 3e-4  # tolerance of a sample's fit, which need not be more exact than the sample is representative


def sample_rows(n: int, m: int, k: int) -> int:
    """Return how many rows a sample has; 0 where all rows are too few for samples to pay."""
    # On 10,000 rows of MNIST five seeds end at 1.0000 to 1.0018 times the error of a long fit from samples of 2,000
    # rows, and at 1.0006 to 1.0051 from NNDSVD, in two thirds of the time.
    rows = max(2000, 50 * k, min(5000, n // 6))
    return rows if n >= 4 * rows and k <= m else 0


def warm_start(
    data: Rows, k: int, solver_for: Callable[..., Solver], random_state: Seed = None, *,
    max_time: float | None = None, begun: float | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """Nonnegative factors to begin with, from fits of row samples where X is tall, else from NNDSVD.

    Parameters
    ----------
    data : Rows
        X of shape (n, m).
    k : int
        Components.
    solver_for : callable
        solver_for(rows, trusted=False, sample=False) makes the solver for so many rows: penalties are scaled with them.
    random_state : int, RandomState or None
        Draws the samples, and the random start where k > min(n, m).
    max_time : float or None
        Seconds after which no further pass over a sample, and no further sample, begins.
    begun : float or None
        The ``time.perf_counter()`` that `max_time` is counted from; None is now.

    Returns
    -------
    W : ndarray of shape (n, k)
    Ht : ndarray of shape (m, k)
        Both C-contiguous, in the compute type.
    """
    begun = time.perf_counter() if begun is None else begun
    n, m = data.shape
    rng = check_random_state(random_state)
    if k > min(n, m):
        return initialize(data, k, "random", rng)
    rows = sample_rows(n, m, k)
    if not rows:
        return spectral_start(data, k, rng)
    counting: int | Array = n
    if data.row_weights is not None:
        counting = np.flatnonzero(data.row_weights)
        rows = min(rows, len(counting))
    chosen = [np.sort(rng.choice(counting, rows, replace=False)) for _ in range(SAMPLES)]
    seeds = rng.randint(np.iinfo(np.int32).max, size=SAMPLES)
    found: list[Array | None] = [None] * SAMPLES
    source = data
    if not data.in_memory:  # all samples' rows from one pass
        union = np.unique(np.concatenate(chosen))
        source, chosen = data.take(union, None), [np.searchsorted(union, rows) for rows in chosen]

    def over() -> bool:
        return max_time is not None and time.perf_counter() - begun >= max_time

    def fit(numbers: range) -> None:  # each on one thread, side by side: samples are too small to share out well
        fits: list[Fit] = []
        with contextlib.ExitStack() as end:
            for number in numbers:
                if number and over():  # the first one is fitted in any case, if only for a pass
                    break
                sample = source.take(chosen[number], n_jobs=1)
                sample.set_apart()
                end.callback(sample.rejoin)
                with sample.apart():
                    W, Ht = spectral_start(sample, k, seeds[number])
                    limits = Limits(TOL, PASSES, max_time, begun)
                    solver = solver_for(rows, sample=True)
                    fits.append(Fit(sample, solver, W, Ht, limits, measure=False, alone=True, in_turn=len(numbers) > 1))
                del sample, W
            found[numbers.start : numbers.start + len(fits)] = _together(fits)

    turns = source.at_once(rows, k, SAMPLES)  # on a device, one thread makes a pass of each in turn
    groups = [range(first, min(first + turns, SAMPLES)) for first in range(0, SAMPLES, turns)]
    run_all(lambda group: fit(groups[group]), len(groups), data.threads)
    best = None
    for Ht in found:
        if Ht is None or (best is not None and over()):
            continue
        W = data.new_rows(k)
        whole = _checked(
            factorize(data, solver_for(n, trusted=True), W, Ht, Limits(0, 1), measure=False, overwrite_W=True)
        )
        if best is None or whole.history["loss"][-1] < best.history["loss"][-1]:
            best = whole
    assert best is not None
    return best.W, best.Ht


def _together(fits: list[Fit]) -> list[Array]:
    """Run fits of samples to their ends; return the Ht of each."""
    stopped = make_together(None, fits)
    found = [_checked(fit.solution) for fit in fits if fit.solution is not None]
    if stopped is not None:
        stopped.again()
    return [solution.Ht for solution in found]


def _checked(solution: Solution) -> Solution:
    """Return a fit of a sample; if it was interrupted, raise the exception, as its factors are of no use."""
    if solution.interruption is not None:
        solution.interruption.again()
    return solution
