"""`non_negative_factorization`: the function behind `NMF`."""

from __future__ import annotations

import time
import warnings
from os import PathLike

import numpy as np

from .. import _compat
from ..loop.checkpoint import held
from . import _restarts
from .nmf import NMF
from .progress_bar import shown

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
    sort_components=False,
    normalize=None,
    fixed_components=None,
    n_init=1,
    missing_values=None,
    mask=None,
    feature_weight=None,
    sample_weight=None,
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
        Start of W, for ``init="custom"``. Not written.
    H : array-like of shape (n_components, n_features), default=None
        Start of H, for ``init="custom"``; with ``update_H=False`` the H that is kept. Not written.
    n_components : int, "auto" or None, default="auto"
        Number of components, see `NMF`.
    init : {"random", "nndsvd", "nndsvda", "nndsvdar", "custom", "auto"} or None, default=None
        Start of the fit, see `NMF`.
    update_H : bool, default=True
        Whether H is learned. If False, W is solved for with the given H, every row by itself, as
        `NMF.transform` does.
    solver : {"cd", "hals", "mu"}, default="cd"
        Algorithm, see `NMF`.
    beta_loss : float or {"frobenius", "kullback-leibler", "itakura-saito"}, default="frobenius"
        The loss, see `NMF`.
    tol : float, default=1e-4
        Tolerance of the stop rule, see `NMF`.
    max_iter : int, default=200
        Largest number of iterations.
    alpha_W : float, default=0.0
        Weight of the penalties on W. It is multiplied by the number of features.
    alpha_H : float or "same", default="same"
        Weight of the penalties on H. It is multiplied by the number of samples. "same" means `alpha_W`.
    l1_ratio : float, default=0.0
        Share of the L1 norm in the penalties, between 0 and 1. The rest is the squared L2 norm.
    random_state : int, RandomState or None, default=None
        Seed, or generator, of everything that is drawn, see `NMF`.
    verbose : int, default=0
        Whether to print the progress of the fit, in the format of scikit-learn.
    shuffle : bool, default=False
        Whether "cd" and "hals" go through the components in a random order, see `NMF`.
    extrapolate : bool, default=False
        Whether "mu" takes its steps from points ahead of W and H, see `NMF`.
    device : {None, "cpu", "cuda", "cuda:1", …, "auto"}, default=None
        Where to compute, see `NMF`.
    dtype : {None, numpy.float32, numpy.float64}, default=None
        Type of the computations and of the factors, see `NMF`.
    n_jobs : int or None, default=None
        Number of threads, see `NMF`.
    max_time : float or None, default=None
        Seconds from the call after which no further iteration begins, see `NMF`. It is refused with
        ``update_H=False``.
    callback : callable or None, default=None
        Called after each iteration, see `NMF`. It is refused with ``update_H=False``.
    memory : int, str or None, default=None
        How much of an X on disk may be in memory at a time, see `NMF`.
    checkpoint : path-like or None, default=None
        File that stores the state of the fit, see `NMF`. It is refused with ``update_H=False``.
    checkpoint_every : float, default=600
        Seconds between two writings of `checkpoint`.
    sort_components : bool, default=False
        Whether the components are sorted by how much of X they explain, see `NMF`. It is refused with
        ``update_H=False``, as are the two that follow.
    normalize : {"l1", "l2", "max"} or None, default=None
        Which norm of each row of H is 1 after the fit, see `NMF`.
    fixed_components : array-like of bool of shape (n_components,) or of int, default=None
        Which rows of the given H are kept, see `NMF`.
    n_init : int, default=1
        Number of runs from different starts, of which the best is returned, see `NMF`. More than one is
        refused with ``update_H=False``.
    missing_values : {None, numpy.nan, 0}, default=None
        The number of X that stands for a missing entry, see `NMF`.
    mask : array-like, sparse matrix or store of bool, default=None
        True where an entry of X, or a column, is left out, see `NMF.fit_transform`.
    feature_weight : array-like of shape (n_features,), default=None
        How much each column of X counts, see `NMF`.
    sample_weight : array-like of shape (n_samples,), number or None, default=None
        How much each row of X counts, see `NMF.fit_transform`. It is refused with ``update_H=False``, where
        it would change nothing.

    Returns
    -------
    W : ndarray of shape (n_samples, n_components), float32 or float64
    H : ndarray of shape (n_components, n_features), float32 or float64
    n_iter : int
        Number of iterations; with ``update_H=False`` that of the row which took most.

    Raises
    ------
    ValueError
        If a parameter is invalid, or if X, W or H has a wrong shape, or negative or missing values.
    TypeError
        If W or H is float32 and X is computed on in float64.

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
        sort_components=sort_components,
        normalize=normalize,
        fixed_components=fixed_components,
        n_init=n_init,
        missing_values=missing_values,
        feature_weight=feature_weight,
    )
    begun = time.perf_counter()
    _compat.check_parameters(estimator)
    if not update_H:
        given = {"checkpoint": checkpoint, "callback": callback, "max_time": max_time, "sample_weight": sample_weight}
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"{name} has no meaning with update_H=False, where every row is solved for alone: leave it out."
                )
        settings = {"sort_components": sort_components, "normalize": normalize, "fixed_components": fixed_components}
        for name, value in settings.items():
            if value is not None and value is not False:
                raise ValueError(f"{name} has no meaning with update_H=False, where H is kept as it is: leave it out.")
        if n_init > 1:
            raise ValueError(f"n_init = {n_init} has no meaning with update_H=False, which starts from no factors.")
    _restarts.check(estimator)
    checks = estimator._fit_checks(named=False)
    if not update_H:
        checks.read_by_columns = None
    with (
        held(checkpoint),
        np.errstate(under="ignore"),
        estimator._open(X, checks, mask=mask, sample_weight=sample_weight) as data,
    ):
        if not update_H:
            if W is not None:
                warnings.warn(
                    "When update_H=False, the provided initial W is not used.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            coded, Ht = estimator._code(data, H, given=True)
            return data.rows_to_caller(coded.W), data.to_caller(data.spread(Ht)).T, coded.n_iter
        tasks = _compat.FitTasks(estimator, X, max_iter * n_init)
        with shown(callback, max_iter):
            solution, view, kept = estimator._factorize(data, W, H, tasks, begun)
        if solution.interruption is not None:
            solution.interruption.again()
        estimator._warn(solution, view)
        estimator._over(solution, kept)
        return data.rows_to_caller(solution.W), data.to_caller(data.spread(solution.Ht)).T, solution.n_iter
