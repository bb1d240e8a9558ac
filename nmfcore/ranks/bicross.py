r"""One block is fitted, and the factors predict the block diagonal to it, which nothing has seen.

Rows I and columns J are left out:

.. math:: X = \begin{pmatrix} A & B \\ C & D \end{pmatrix}, \quad A = X_{I J}, \; B = X_{I \bar J}, \;
          C = X_{\bar I J}, \; D = X_{\bar I \bar J}.

D ≈ W_D H_D is fitted; W_A codes B with H_D fixed, H_A codes C with W_D fixed, and A − W_A H_A is the error.

A. B. Owen, P. O. Perry, "Bi-cross-validation of the SVD and the nonnegative matrix factorization", Annals of Applied
Statistics 3(2), 2009.
"""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

import numpy as np

from .. import scale
from .._typing import Array, Matrix
from ..estimators._halves import coded_columns, coded_rows, opened
from ..objective import divergence
from .fits import Ends, Found, Task, fit, whole
from .splits import Split

__all__ = ["Block", "Blocks", "cut", "predict"]


class Blocks(NamedTuple):
    """The four parts of X of one fold, each of the type that X is stored in."""

    A: Matrix  # left out: rows I, columns J
    B: Matrix  # rows I, the other columns
    C: Matrix  # the other rows, columns J
    D: Matrix  # fitted: the other rows, the other columns


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


def predict(blocks: Blocks, k: int, seed: int, task: Task, stop: Ends, max_time: float | None) -> Found | None:
    """Fit D with k components, code B and C, and measure A.

    Parameters
    ----------
    blocks : Blocks
    k : int
    seed : int
        ``random_state`` of the fit.
    task : Task
    stop : callable
    max_time : float or None
        Seconds of the fit at most.

    Returns
    -------
    found : Found or None
        None if the fit was ended by `stop` or by `max_time`.
    """
    begun, beta = time.perf_counter(), task.beta
    fitted = fit(blocks.D, k, seed, task, stop, max_time)
    if fitted is None:
        return None
    model, W = fitted.model, fitted.W
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
    unsettled = of_rows.unsettled + of_columns.unsettled if model.tol > 0 else 0
    seconds = time.perf_counter() - begun
    return Found(fitted.loss, train_whole, test, test_whole, model.n_iter_, model.converged_, unsettled, seconds)


class Block:
    """One fold of one repeat: its blocks are cut when the first fit wants them, and dropped after the last one."""

    def __init__(self, X: Matrix, repeat: int, fold: int, split: Split):
        self.X, self.repeat, self.fold, self.split = X, repeat, fold, split
        self.lock = threading.Lock()
        self.blocks: Blocks | None = None
        self.left = 0

    def _cut(self) -> Blocks:
        with self.lock:
            if self.blocks is None:
                self.blocks = cut(self.X, self.split, self.split.cells[self.fold])
            return self.blocks

    def predict(self, k: int, seed: int, task: Task, stop: Ends, max_time: float | None) -> Found | None:
        """Fit with k components, and measure the block that is left out, see `predict`."""
        return predict(self._cut(), k, seed, task, stop, max_time)

    def done(self) -> None:
        """Take note that a fit is over: `left` of them are still to come."""
        with self.lock:
            self.left -= 1
            if not self.left:
                self.blocks = None
