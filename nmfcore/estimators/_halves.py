"""One factor of a block is solved for with the other fixed, as a fitted estimator would; for fits of many blocks.

`nmfcore.ranks` cuts X into blocks, fits one, and codes others. What it needs of an `NMF` beyond its public methods is
here: rows that are not checked again, codes of columns, and a fit that warns of nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np

from .. import rows
from .._typing import Array, MaskLike, Matrix, Seed
from ..loop.solve import Coded
from ..objective import beta_of
from ..rows import Rows
from .nmf import NMF

__all__ = [
    "check_loss",
    "check_solver",
    "check_zeros",
    "coded_columns",
    "coded_rows",
    "of_block",
    "opened",
    "opened_whole",
]


class _Quiet(NMF):
    """An NMF that leaves it to others to warn of how a fit ended."""

    def _warn(self, *about: object) -> None:
        return None


def of_block(
    estimator: NMF, k: int, seed: Seed, n_jobs: int, stop: Callable[[object], object], max_time: float | None
) -> NMF:
    """Return an estimator with the parameters of another, for the fit of one block; its fit warns of nothing.

    Parameters
    ----------
    estimator : NMF
        It is not changed.
    k : int
        Number of components.
    seed : int
        Its ``random_state``.
    n_jobs : int
        Number of threads.
    stop : callable
        Called after each pass of the fit; True ends it.
    max_time : float or None
        Seconds of the fit at most.

    Returns
    -------
    model : NMF
    """
    changes: dict[str, object] = {
        "n_components": k, "random_state": seed, "n_jobs": n_jobs, "callback": stop, "max_time": max_time,
    }  # fmt: skip
    return _Quiet(**{**estimator.get_params(deep=False), **changes})


def opened(X: Matrix, model: NMF, mask: MaskLike = None) -> Rows:
    """Return a part of X as the rows that a model computes on; X as a whole has been checked.

    Parameters
    ----------
    X : {array-like, sparse matrix, store}
    model : NMF
    mask : array-like, sparse matrix, store or None
        True where an entry is left out. None, the default: nowhere.

    Returns
    -------
    data : Rows
    """
    return rows.open(
        X, checks=model._checks("NMF initialization", reset=False, named=False), dtype=model.dtype,
        device=model.device, n_jobs=model.n_jobs, memory=model.memory, components=model.n_components, mask=mask,
        missing_values=model._missing,
    )  # fmt: skip


def check_solver(model: NMF) -> None:
    """Raise ValueError if the parameters of a model do not go together.

    Parameters
    ----------
    model : NMF
    """
    model._check_solver(warn=False)


def check_loss(model: NMF, data: Rows) -> None:
    """Raise ValueError if the loss and the solver of a model do not take an X.

    Parameters
    ----------
    model : NMF
    data : Rows
        X, or the entries of it that are observed.
    """
    model._check_loss(data, beta_of(model.beta_loss))


def check_zeros(model: NMF, data: Rows) -> None:
    """Raise ValueError as `check_loss` does, and warn of values that the loss of a model leaves out.

    Parameters
    ----------
    model : NMF
    data : Rows
        X.
    """
    model._check_zeros(data, beta_of(model.beta_loss))


def opened_whole(X: Matrix, model: NMF) -> Rows:
    """Return X as the rows that a model computes on, checked as its fit checks it.

    Parameters
    ----------
    X : {array-like, sparse matrix, store}
    model : NMF
        It learns names and number of the features.

    Returns
    -------
    data : Rows
    """
    return model._open(X, model._checks("NMF initialization", reset=True))


def coded_rows(model: NMF, data: Rows, Ht: Array) -> Coded:
    """Return the W that belongs to H, by the loss, the penalties and the stop rule of a model.

    Parameters
    ----------
    model : NMF
    data : Rows
        X of shape (n, m).
    Ht : ndarray of shape (m, k)

    Returns
    -------
    coded : Coded
    """
    beta = beta_of(model.beta_loss)
    return model._coded(data, np.ascontiguousarray(Ht, data.dtype), beta, model.tol, max_iter=model.max_iter)


def coded_columns(model: NMF, data: Rows, W: Array) -> Coded:
    """Return the Ht that belongs to W, as `coded_rows` does of Xᵀ: rows and columns, and both penalties, change places.

    Parameters
    ----------
    model : NMF
    data : Rows
        X of shape (n, m).
    W : ndarray of shape (n, k)

    Returns
    -------
    coded : Coded
        Ht is its `W`.
    """
    transposed = copy.copy(model)
    transposed.alpha_W = model.alpha_W if isinstance(model.alpha_H, str) else model.alpha_H
    return coded_rows(transposed, data.T, W)
