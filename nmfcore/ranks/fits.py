"""One fit of a selection of k: how it is made, and what it has led to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .. import scale
from .._typing import Array, Matrix
from ..estimators import NMF
from ..estimators._halves import of_block
from ..objective import beta_of, divergence
from ..rows import Rows

__all__ = ["Ends", "Fitted", "Found", "Task", "fit", "whole"]

Ends = Callable[[object], bool]  # called after each pass of a fit; True ends it


class Found(NamedTuple):
    """What one fit has led to. Losses are D_β in a unit that all fits of a selection share."""

    train: float  # D_β of the entries that were fitted
    train_whole: float  # what it is relative to, see `whole`
    test: float  # D_β of the entries that were left out
    test_whole: float
    n_iter: int
    finished: bool  # whether the stop rule of the fit was met
    unsettled: int  # rows and columns whose codes were still moving at max_iter
    seconds: float


class Task(NamedTuple):
    """How fits are made.

    Parameters
    ----------
    estimator : NMF
        Its parameters are used; it is not changed.
    power : int
        Losses are those of 4^power·X.
    mean : float
        Mean of X.
    n_jobs : int
        Threads of a fit.
    """

    estimator: NMF
    power: int
    mean: float
    n_jobs: int

    @property
    def beta(self) -> float:
        """β of the loss."""
        return beta_of(self.estimator.beta_loss)


class Fitted(NamedTuple):
    """A fitted model, its codes, and its loss in the unit of all fits."""

    model: NMF
    W: Array
    loss: float


def fit(X: Matrix | Rows, k: int, seed: int, task: Task, stop: Ends, max_time: float | None) -> Fitted | None:
    """Fit X with k components.

    Parameters
    ----------
    X : ndarray, CSR matrix, or Rows that are open
    k : int
    seed : int
        ``random_state`` of the fit.
    task : Task
    stop : callable
    max_time : float or None
        Seconds of the fit at most.

    Returns
    -------
    fitted : Fitted or None
        None if the fit was ended by `stop` or by `max_time`.
    """
    begun = time.perf_counter()
    # Of the hundred fits `select_rank` says how many did not end by their rule.
    model = of_block(task.estimator, k, seed, task.n_jobs, stop, max_time)
    W = model.fit_transform(X)
    late = max_time is not None and time.perf_counter() - begun >= max_time
    if not model.converged_ and (late or stop(None)):
        return None
    return Fitted(model, W, float(scale.times(np.float64(model.reconstruction_err_), 2 * task.power)) ** 2 / 2)


def whole(data: Rows, beta: float, mean: float) -> float:
    """Return the loss that others are relative to: ½‖X‖² for β = 2, else D_β of X from its mean.

    Parameters
    ----------
    data : Rows
    beta : float
    mean : float
        Of the whole X, and so the same for all its parts.

    Returns
    -------
    loss : float
    """
    if beta == 2:
        return data.summary().squares / 2
    n, m = data.shape
    W, Ht = np.full((n, 1), mean, data.dtype), np.ones((m, 1), data.dtype)
    return divergence(data, W, Ht, beta)
