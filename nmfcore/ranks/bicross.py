r"""One block is fitted, and the factors predict the block diagonal to it, which nothing has seen.

Rows I and columns J are left out:

.. math:: X = \begin{pmatrix} A & B \\ C & D \end{pmatrix}, \quad A = X_{I J}, \; B = X_{I \bar J}, \;
          C = X_{\bar I J}, \; D = X_{\bar I \bar J}.

D ≈ W_D H_D is fitted; W_A codes B with H_D fixed, H_A codes C with W_D fixed, and A − W_A H_A is the error.

A. B. Owen, P. O. Perry, "Bi-cross-validation of the SVD and the nonnegative matrix factorization", Annals of Applied
Statistics 3(2), 2009.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import scale
from .._typing import Array, Matrix
from ..estimators import NMF
from ..estimators._halves import coded_columns, coded_rows, of_block, opened
from ..objective import beta_of, divergence
from ..rows import Rows
from .splits import Split

__all__ = ["Blocks", "Found", "Task", "cut", "predict"]


class Blocks(NamedTuple):
    """The four parts of X of one fold, each of the type that X is stored in."""

    A: Matrix  # left out: rows I, columns J
    B: Matrix  # rows I, the other columns
    C: Matrix  # the other rows, columns J
    D: Matrix  # fitted: the other rows, the other columns


class Found(NamedTuple):
    """What one fit has led to. Losses are D_β in a unit that all fits of a selection share."""

    train: float  # D_β(D | W_D H_D)
    train_whole: float  # what it is relative to, see `whole`
    test: float  # D_β(A | W_A H_A)
    test_whole: float
    n_iter: int
    finished: bool  # whether the stop rule of the fit was met
    unsettled: int  # rows and columns whose codes were still moving at max_iter
    seconds: float


class Task(NamedTuple):
    """How blocks are fitted.

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


def cut(X: Matrix, split: Split, cell: tuple[int, int]) -> Blocks:
    """Return copies of the four parts of X of one fold.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n, m)
    split : Split
    cell : tuple of (int, int)
        The row fold and the column fold that are left out.

    Returns
    -------
    blocks : Blocks
    """
    (I, others), (J, rest) = (  # noqa: E741
        (folds[out], np.sort(np.concatenate([fold for number, fold in enumerate(folds) if number != out])))
        for folds, out in zip(split, cell, strict=True)
    )

    def part(numbers: Array, columns: Array) -> Matrix:
        return X[np.ix_(numbers, columns)] if isinstance(X, np.ndarray) else X[numbers][:, columns]

    return Blocks(part(I, J), part(I, rest), part(others, J), part(others, rest))


def predict(
    blocks: Blocks, k: int, seed: Any, task: Task, stop: Callable[[object], bool], max_time: float | None
) -> Found | None:
    """Fit D with k components, code B and C, and measure A.

    Parameters
    ----------
    blocks : Blocks
    k : int
    seed : int
        ``random_state`` of the fit.
    task : Task
    stop : callable
        Called after each pass of the fit; True ends it.
    max_time : float or None
        Seconds of the fit at most.

    Returns
    -------
    found : Found or None
        None if the fit was ended by `stop` or by `max_time`.
    """
    begun = time.perf_counter()
    # Of the hundred fits `select_rank` says how many did not end by their rule.
    model = of_block(task.estimator, k, seed, task.n_jobs, stop, max_time)
    beta = beta_of(model.beta_loss)
    W = model.fit_transform(blocks.D)
    late = max_time is not None and time.perf_counter() - begun >= max_time
    if not model.converged_ and (late or stop(None)):
        return None
    with np.errstate(under="ignore"):
        with opened(blocks.B, model) as data:
            of_rows = coded_rows(model, data, model.components_.T)
        with opened(blocks.C, model) as data:
            of_columns = coded_columns(model, data, W)
        with opened(blocks.D, model) as data:
            train_whole = whole(data.scaled(task.power), beta, task.mean)
        with opened(blocks.A, model) as data:
            view = data.scaled(task.power)
            W_A, Ht_A = (scale.times(coded.W, task.power) for coded in (of_rows, of_columns))
            test, test_whole = divergence(view, W_A, Ht_A, beta), whole(view, beta, task.mean)
    train = float(scale.times(np.float64(model.reconstruction_err_), 2 * task.power)) ** 2 / 2
    unsettled = of_rows.unsettled + of_columns.unsettled if model.tol > 0 else 0
    seconds = time.perf_counter() - begun
    return Found(train, train_whole, test, test_whole, model.n_iter_, model.converged_, unsettled, seconds)


def whole(data: Rows, beta: float, mean: float) -> float:
    """Return the loss that others are relative to: ½‖X‖² for β = 2, else D_β of X from its mean.

    Parameters
    ----------
    data : Rows
    beta : float
    mean : float
        Of the whole X, and so the same for all blocks.

    Returns
    -------
    loss : float
    """
    if beta == 2:
        return data.summary().squares / 2
    n, m = data.shape
    W, Ht = np.full((n, 1), mean, data.dtype), np.ones((m, 1), data.dtype)
    return divergence(data, W, Ht, beta)
