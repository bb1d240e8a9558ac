"""Single entries are left out of a fit, and measured with its factors.

Entry (i, j) is left out where a hash of the seed, i and j is small, so that no mask is kept, and every block knows its
own.

The idea is H. Wold's, "Cross-validatory estimation of the number of components in factor and principal components
models", Technometrics 20(4), 1978; with masks: Z. DeBruine, K. Melcher, T. Triche, "Fast and robust non-negative matrix
factorization for single-cell experiments", bioRxiv 2021.
"""

from __future__ import annotations

import threading
import time
from typing import NamedTuple, cast

import numpy as np

from .. import scale
from .._typing import Matrix
from ..estimators import NMF
from ..estimators._halves import check_loss, opened
from ..estimators._missing import check_masked
from ..objective import divergence
from ..rows import Rows
from ..rows.masked import MaskedRows
from ..rows.masks import Complement, Hashed, Mask, united
from .fits import Ends, Found, Task, fit, whole

__all__ = ["Scattered", "check_share"]

LEAST = 10  # entries, or groups of rows times tiles of columns, that are left out, on the average


def check_share(share: float, parts: int, what: str) -> None:
    """Raise ValueError if so small a share of what is left out at once may be nothing.

    Parameters
    ----------
    share : float
    parts : int
    what : str
        The name of the parts.
    """
    if share * parts < LEAST:
        raise ValueError(
            f"holdout = {share:g} leaves out about {share * parts:.3g} of {parts:,} {what}, of which there must be "
            f"{LEAST}: give a larger share, or method='bicross'."
        )


class _Parts(NamedTuple):
    """X of one repeat: what is fitted and what is left out."""

    fitted: MaskedRows
    fitted_whole: float
    left_out: MaskedRows
    left_out_whole: float


class Scattered:
    """The entries that are left out of one repeat.

    Parameters
    ----------
    X : ndarray, CSR matrix or source
    known : Mask or None
        Which entries of X are missing, beside those that the estimator's `missing_values` marks.
    repeat : int
    hashed : Hashed
        The entries that are left out.
    """

    fold = 0

    def __init__(self, X: Matrix, known: Mask | None, repeat: int, hashed: Hashed):
        self.X, self.known, self.repeat, self.hashed = X, known, repeat, hashed
        self.lock = threading.Lock()
        self.parts: _Parts | None = None
        self.left = 0

    def check(self, task: Task) -> None:
        """Raise ValueError if the estimator does not fit X with entries left out, or if none is."""
        fitted = self._open(task).fitted
        check_masked(task.estimator, fitted)
        check_loss(task.estimator, fitted)

    def _opened(self, model: NMF, mask: Mask) -> MaskedRows:
        """Return what of X a mask shows, as rows."""
        data: Rows = opened(self.X, model, united(self.known, mask))
        return cast(MaskedRows, data)

    def _open(self, task: Task) -> _Parts:
        with self.lock:
            if self.parts is None:
                fitted, left_out = (
                    self._opened(task.estimator, mask) for mask in (self.hashed, Complement(self.hashed))
                )
                wholes = (whole(each.scaled(task.power), task.beta, task.mean) for each in (fitted, left_out))
                self.parts = _Parts(fitted, next(wholes), left_out, next(wholes))
            return self.parts

    def predict(self, k: int, seed: int, task: Task, stop: Ends, max_time: float | None) -> Found | None:
        """Fit with k components, and measure what is left out.

        Parameters
        ----------
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
        begun = time.perf_counter()
        parts = self._open(task)
        fitted = fit(parts.fitted.beside(task.n_jobs), k, seed, task, stop, max_time)
        if fitted is None:
            return None
        model = fitted.model
        with np.errstate(under="ignore"):
            view = parts.left_out.beside(task.n_jobs).scaled(task.power)
            W = scale.times(np.ascontiguousarray(fitted.W, view.dtype), task.power)
            Ht = scale.times(np.ascontiguousarray(model.components_.T, view.dtype), task.power)
            test = divergence(view, W, Ht, task.beta)
        seconds = time.perf_counter() - begun
        return Found(
            fitted.loss, parts.fitted_whole, test, parts.left_out_whole, model.n_iter_, model.converged_, 0, seconds
        )

    def done(self) -> None:
        """Take note that a fit is over: `left` of them are still to come."""
        with self.lock:
            self.left -= 1
            if not self.left:
                self.parts = None
