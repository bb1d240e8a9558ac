"""`non_negative_factorization`: the function behind `NMF`."""

from __future__ import annotations

import time
import warnings
from os import PathLike

import numpy as np

from .. import _compat
from ..loop.checkpoint import held
from .nmf import NMF

__all__ = ["non_negative_factorization"]


@_compat.validate_params(
    {
        "X": ["array-like", "sparse matrix", str, PathLike],
        "W": ["array-like", None],
        "H": ["array-like", None],
        "update_H": ["boolean"],
    },
    prefer_skip_nested_validation=False,
)
def non_negative_factorization(
    X,
    W=None,
    H=None,
    n_components="auto",
    *,
    init=None,
    update_H=True,
    solver="cd",
    beta_loss="frobenius",
    tol=1e-4,
    max_iter=200,
    alpha_W=0.0,
    alpha_H="same",
    l1_ratio=0.0,
    random_state=None,
    verbose=0,
    shuffle=False,
    extrapolate=False,
    device=None,
    dtype=None,
    n_jobs=None,
    max_time=None,
    callback=None,
    memory=None,
    checkpoint=None,
    checkpoint_every=600,
):
    r"""Factorise X ≈ WH with W, H ≥ 0, or solve for W alone; the function behind `NMF`.

    Minimises

    .. math::

        D_\beta(X | WH) + \alpha_W m \big(\rho \|W\|_1 + \tfrac{1 - \rho}{2} \|W\|_F^2\big)
                        + \alpha_H n \big(\rho \|H\|_1 + \tfrac{1 - \rho}{2} \|H\|_F^2\big).

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        Non-negative numbers of any real type; or a matrix on disk, see `NMF.fit_transform`.
    W : array-like of shape (n_samples, n_components), default=None
        Where to begin, for ``init="custom"``. Never written.
    H : array-like of shape (n_components, n_features), default=None
        Where to begin, for ``init="custom"``; the fixed H for ``update_H=False``. Never written.
    n_components : int, "auto" or None, default="auto"
        k, see `NMF`.
    init : {"random", "nndsvd", "nndsvda", "nndsvdar", "custom", "auto"} or None, default=None
        Where to begin, see `NMF`.
    update_H : bool, default=True
        False solves for W with H fixed, every row alone, as `NMF.transform`.
    solver : {"cd", "hals", "mu"}, default="cd"
        See `NMF`.
    beta_loss : float or {"frobenius", "kullback-leibler", "itakura-saito"}, default="frobenius"
        β, see `NMF`.
    tol : float, default=1e-4
        Of the stop rule, see `NMF`.
    max_iter : int, default=200
        Most iterations.
    alpha_W : float, default=0.0
        Weight of W's penalties, multiplied by n_features.
    alpha_H : float or "same", default="same"
        Weight of H's penalties, multiplied by n_samples.
    l1_ratio : float, default=0.0
        Share of the L1 penalty, 0 to 1; the rest is L2.
    random_state : int, RandomState or None, default=None
        See `NMF`.
    verbose : int, default=0
        Whether to print progress, in scikit-learn's lines.
    shuffle : bool, default=False
        See `NMF`.
    extrapolate : bool, default=False
        See `NMF`.
    device : {None, "auto", "cpu"}, default=None
        See `NMF`.
    dtype : {None, numpy.float32, numpy.float64}, default=None
        Compute type, see `NMF`.
    n_jobs : int or None, default=None
        Threads, see `NMF`.
    max_time : float or None, default=None
        Seconds after which no further iteration begins, see `NMF`; not for ``update_H=False``.
    callback : callable or None, default=None
        See `NMF`; not for ``update_H=False``.
    memory : int, str or None, default=None
        See `NMF`.
    checkpoint : path-like or None, default=None
        See `NMF`; not for ``update_H=False``.
    checkpoint_every : float, default=600
        See `NMF`.

    Returns
    -------
    W : ndarray of shape (n_samples, n_components), float32 or float64
    H : ndarray of shape (n_components, n_features), float32 or float64
    n_iter : int
        Iterations; for ``update_H=False`` those of the row that took most.

    Raises
    ------
    ValueError
        For parameters, X, W or H that make no sense: wrong shapes, negative or missing values.
    TypeError
        For W or H of another type than X.

    References
    ----------
    .. [1] C. Févotte, J. Idier, "Algorithms for nonnegative matrix factorization with the
       β-divergence", Neural Computation 23(9), 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore import non_negative_factorization
    >>> X = np.outer([1, 2, 3, 4], [1, 0, 2])
    >>> W, H, n_iter = non_negative_factorization(X, n_components=1)
    >>> bool(np.allclose(W @ H, X))
    True
    """
    estimator = NMF(
        n_components=n_components,
        init=init,
        solver=solver,
        beta_loss=beta_loss,
        tol=tol,
        max_iter=max_iter,
        random_state=random_state,
        alpha_W=alpha_W,
        alpha_H=alpha_H,
        l1_ratio=l1_ratio,
        verbose=verbose,
        shuffle=shuffle,
        extrapolate=extrapolate,
        device=device,
        dtype=dtype,
        n_jobs=n_jobs,
        max_time=max_time,
        callback=callback,
        memory=memory,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
    )
    begun = time.perf_counter()
    _compat.check_parameters(estimator)
    if not update_H:
        for name, value in (("checkpoint", checkpoint), ("callback", callback), ("max_time", max_time)):
            if value is not None:
                raise ValueError(
                    f"{name} has no meaning with update_H=False, where every row is solved for alone: leave it out."
                )
    checks = estimator._checks("NMF initialization", reset=True, named=False)
    with held(checkpoint), np.errstate(under="ignore"), estimator._open(X, checks) as data:
        if not update_H:
            if W is not None:
                warnings.warn(
                    "When update_H=False, the provided initial W is not used.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            coded, Ht = estimator._code(data, H, given=True)
            return data.rows_to_caller(coded.W), data.to_caller(Ht).T, coded.n_iter
        tasks = _compat.FitTasks(estimator, X, max_iter)
        solution, view, kept = estimator._factorize(data, W, H, tasks, begun)
        if solution.interruption is not None:
            solution.interruption.again()
        estimator._warn(solution, view)
        estimator._over(solution, kept)
        return data.rows_to_caller(solution.W), data.to_caller(solution.Ht).T, solution.n_iter
