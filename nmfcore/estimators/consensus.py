"""Components that many runs of a fit agree on, as consensus NMF finds them (cNMF).

D. Kotliar, A. Veres, M. A. Nagy, S. Tabrizi, E. Hodis, D. A. Melton, P. C. Sabeti, "Identifying gene expression
programs of cell-type identity and cellular activity with single-cell RNA-Seq", eLife 8:e43803, 2019.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from .. import _compat, scale
from ..loop.solve import code
from ..objective import Penalties, beta_of, divergence
from ._restarts import Restarted, seeds
from .nmf import NMF

if TYPE_CHECKING:
    from .._typing import Array, Matrix, Seed
    from ..rows import Rows

__all__ = ["Consensus", "consensus"]

WORKING_MEMORY = 64  # megabytes of distances at a time: those of all pairs of spectra are never in memory together


@dataclass(frozen=True, eq=False, repr=False)
class Consensus:
    """What many runs of a fit agree on, X ≈ W · components_.

    Attributes
    ----------
    components_ : ndarray of shape (k, n_features), float32 or float64
        H, the component with the largest share of W first.
    W : ndarray of shape (n_samples, k), float32 or float64
        The codes. They belong to the medians of the clusters, whose numbers add up to 1.
    stability : float
        Mean silhouette of the clusters, between −1 and 1: 1 if all runs find the same components. 0 where there are as
        many clusters as spectra, NaN for a single cluster.
    error : float
        √(2 D_β(X | W · components_)), as ``reconstruction_err_``.
    members : ndarray of shape (n_init, k), int
        For each run and each of its components the number of the consensus component that it belongs to, −1 if it is
        an outlier, or the run was not begun.
    outliers : ndarray of shape (n_init, k), bool
        Which components of which runs are outliers.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore import consensus
    >>> X = np.random.default_rng(0).random((40, 12))
    >>> found = consensus(X, 2, n_init=5, random_state=0)
    >>> found.components_.shape, found.members.shape
    ((2, 12), (5, 2))
    """

    components_: Array
    W: Array
    stability: float
    error: float
    members: Array
    outliers: Array

    def __repr__(self) -> str:
        runs, k = self.members.shape
        return (
            f"Consensus of {k} components from {runs} runs (stability {self.stability:.3g}, "
            f"{int(self.outliers.sum())} of {runs * k} spectra outliers, error {self.error:.4g})"
        )


class Clusters(NamedTuple):
    """Clusters of the spectra of many runs.

    Attributes
    ----------
    medians : ndarray of shape (k, m), float64
        Each with the sum 1.
    labels : ndarray of shape (n_spectra,), int
        The cluster of each spectrum, −1: an outlier.
    silhouette : float
        The mean one.
    """

    medians: Array
    labels: Array
    silhouette: float


class _Runs(NMF):
    """An NMF that keeps the components of all its runs."""

    _Ht: dict[int, Array]

    def _runs_ended(self, runs: Restarted) -> None:
        self._Ht = runs.Ht


def consensus(
    X: Matrix,
    k: int,
    n_init: int = 20,
    *,
    estimator: NMF | None = None,
    threshold: float = 0.5,
    neighbors: float = 0.3,
    random_state: Seed = None,
    n_jobs: int | None = None,
) -> Consensus:
    r"""Find the components that many runs from random starts agree on.

    All components of all runs, scaled to ‖h‖₂ = 1, are the *spectra*. A spectrum is an outlier if its mean distance to
    the ``int(neighbors · n_init)`` nearest ones is not below `threshold`. The others are divided into k clusters by
    k-means, and the median of each cluster, divided by its sum, is a row of C. Then

    .. math::

        W = \arg\min_{W \ge 0} D_\beta(X | W C), \qquad H = \arg\min_{H \ge 0} D_\beta(X | W H),

    with the penalties of the estimator, which is consensus NMF [1]_.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        Non-negative numbers, as `NMF.fit_transform` takes them, also on disk. It is read once in every iteration for
        all runs.
    k : int
        Number of components.
    n_init : int, default=20
        Number of runs.
    estimator : NMF or None, default=None
        Its parameters are used, but for ``n_components``, ``n_init`` and those given here. None means ``NMF()``.
    threshold : float, default=0.5
        Mean distance to the nearest spectra from which on a spectrum is an outlier; two spectra that have nothing in
        common are √2 apart. ``numpy.inf`` keeps all but components that are zero.
    neighbors : float, default=0.3
        Number of these nearest spectra, as a share of the number of runs.
    random_state : int, RandomState or None, default=None
        Seed, or generator, of the runs, which are those of ``NMF(n_init=n_init)``, and of k-means. None means the
        ``random_state`` of the estimator. The order of the runs, and rounding, as between an X in memory and one on
        Dask, do not change what k-means draws.
    n_jobs : int or None, default=None
        Number of threads; None means the ``n_jobs`` of the estimator. Results have the same bits for any number.

    Returns
    -------
    consensus : Consensus

    Raises
    ------
    ValueError
        If there are too few runs for a neighbour, if fewer than k spectra are left, or if a parameter is invalid; for
        X on disk or on Dask if the loss is not "frobenius".

    See Also
    --------
    NMF : ``NMF(n_init=…)`` keeps the best run, and says how stable its components are.

    References
    ----------
    .. [1] D. Kotliar et al., "Identifying gene expression programs of cell-type identity and cellular activity with
       single-cell RNA-Seq", eLife 8:e43803, 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore import consensus
    >>> rng = np.random.default_rng(0)
    >>> X = rng.random((60, 3)) @ np.repeat(np.eye(3), 4, axis=1)
    >>> consensus(X, 3, n_init=10, random_state=0).stability > 0.95
    True
    """
    model = _model(k, n_init, estimator, random_state, n_jobs)
    _compat.check_parameters(model)
    nearest = int(neighbors * n_init)
    if nearest < 1 or n_init < 2:
        raise ValueError(
            f"n_init = {n_init} with neighbors = {neighbors:g}: a component is compared with int(neighbors · n_init) = "
            f"{max(nearest, 0)} others. Make more runs: {_fewest(neighbors)} or more."
        )
    if not threshold > 0:
        raise ValueError(f"threshold = {threshold:g}: give a distance above 0, at most √2, or numpy.inf for no limit.")
    seed = seeds(model.random_state, n_init + 1)[-1]  # beside those of the runs
    model.fit(X)
    if not hasattr(model, "_Ht"):
        raise ValueError("X is all zeros: its components are zero, and there is nothing to agree on.")
    runs = sorted(model._Ht)
    with model._open(X, model._checks("consensus", reset=False)) as data:
        H = np.concatenate([data.backend.to_numpy(model._Ht[run]).T for run in runs])
        clusters = clustered(H, k, int(neighbors * len(runs)), threshold, seed)
        W, Ht, error = _refitted(model, data, clusters.medians)
        with np.errstate(under="ignore"):
            order = np.argsort(-data.backend.to_numpy(W.sum(axis=0, dtype=np.float64)), kind="stable")
        labels = np.full((n_init, k), -1)
        numbers = np.append(np.argsort(order), -1)  # of the clusters in that order; −1 stays
        labels[runs] = numbers[clusters.labels].reshape(len(runs), k)
        outliers = np.zeros((n_init, k), bool)
        outliers[runs] = (labels == -1)[runs]
        W, Ht = _ordered(data, W, order), np.ascontiguousarray(data.backend.to_numpy(Ht)[:, order])
        components = data.to_caller(data.backend.asarray(Ht)).T
        return Consensus(components, data.rows_to_caller(W), clusters.silhouette, error, labels, outliers)


def _model(k: int, n_init: int, estimator: NMF | None, random_state: Seed, n_jobs: int | None) -> _Runs:
    """Return what makes the runs: an NMF with the estimator's parameters."""
    if estimator is None:
        estimator = NMF()
    elif not isinstance(estimator, NMF):
        raise TypeError(f"estimator is a {type(estimator).__name__}: give an NMF, whose parameters are used, or None.")
    if estimator.feature_weight is not None:
        raise ValueError("consensus takes no feature_weight: leave it out, every column of X counts as much.")
    changes: dict[str, Any] = {"n_components": k, "n_init": n_init}
    changes |= {} if random_state is None else {"random_state": random_state}
    changes |= {} if n_jobs is None else {"n_jobs": n_jobs}
    return _Runs(**{**clone(estimator).get_params(deep=False), **changes})


def _fewest(neighbors: float) -> int:
    """Return the number of runs from which on there is a neighbour."""
    runs = 2
    while int(neighbors * runs) < 1 and runs < 1 << 20:
        runs += 1
    return runs


def clustered(H: Array, k: int, nearest: int, threshold: float, seed: int) -> Clusters:
    """Cluster the components of many runs; their order is of no account.

    Parameters
    ----------
    H : ndarray of shape (n_spectra, m)
        A component in each row.
    k : int
        Number of clusters.
    nearest : int
        Number of nearest spectra that a spectrum is compared with.
    threshold : float
        Mean distance to them from which on it is an outlier. A component that is zero is one in any case.
    seed : int
        Of k-means.

    Returns
    -------
    clusters : Clusters

    Raises
    ------
    ValueError
        If too few spectra are left for k clusters.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_limits

    H = np.asarray(H, np.float64)
    largest = H.max(axis=1, keepdims=True)  # so that no square is too small or too large
    alive = np.flatnonzero(largest[:, 0])
    H = H[alive] / largest[alive]
    H /= np.linalg.norm(H, axis=1, keepdims=True)
    order = _settled_order(H)
    H, alive = H[order], alive[order]
    labels = np.full(len(largest), -1)
    # Not more threads: they would add in another order.
    with threadpool_limits(1), config_context(working_memory=WORKING_MEMORY), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of clusters that coincide, which are refused below
        near = np.zeros(len(H), bool)
        if len(H) > nearest:
            distances, _ = NearestNeighbors(n_neighbors=nearest, algorithm="brute").fit(H).kneighbors()
            near = distances.mean(axis=1) < threshold
        H, alive = H[near], alive[near]
        if len(H) >= k:
            found = KMeans(k, n_init=10, random_state=seed).fit(H).labels_
        if len(H) < k or len(np.unique(found)) < k:
            raise ValueError(
                f"{len(largest)} spectra leave {len(H)} that are less than threshold = {threshold:g} away from their "
                f"{nearest} nearest on the average, too few different ones for k = {k} clusters. Increase threshold or "
                "n_init, or decrease k."
            )
        silhouette = 0.0 if k == len(H) else float("nan") if k == 1 else float(silhouette_score(H, found))
    medians = np.array([np.median(H[found == cluster], axis=0) for cluster in range(k)])
    order = _settled_order(medians)  # not that of k-means: the refit goes through the components in turn
    medians, labels[alive] = medians[order], np.argsort(order)[found]
    total = medians.sum(axis=1, keepdims=True)
    return Clusters(np.divide(medians, total, out=np.zeros_like(medians), where=total > 0), labels, silhouette)


def _settled_order(H: Array) -> Array:
    """Return an order of the rows of H that depends neither on the one they are in nor on rounding.

    k-means draws rows by their numbers, and where clusters are not clear, another drawing may lead to other clusters.
    Rows are therefore sorted by their products with a fixed random vector, which differ by far more than rounding
    unless rows are alike, and then either may be drawn.
    """
    along = np.random.RandomState(0).standard_normal(H.shape[1])
    return np.argsort((H * along).sum(axis=1), kind="stable")


def _refitted(model: NMF, data: Rows, C: Array) -> tuple[Array, Array, float]:
    """Return W for given components C, Ht for that W, and √(2 D_β) of the two; W in the unit of X."""
    beta = beta_of(model.beta_loss)
    view = model._seen(data, beta)
    p = scale.squeezed(model._penalties(data.shape), view.power, 0, view.dtype, beta)
    Ct = np.ascontiguousarray(C.T, data.dtype)
    W = code(view, model._solver(p, beta), Ct, tol=model.tol, max_iter=model.max_iter).W
    if beta == 2:
        Ht = _columns(view, W, p, model.tol, model.max_iter)
    else:
        swapped = Penalties(p.l1_H, p.l1_W, p.l2_H, p.l2_W)
        Ht = code(view.T, model._solver(swapped, beta), W, tol=model.tol, max_iter=model.max_iter).W
    error = np.sqrt(2 * max(0.0, divergence(view, W, Ht, beta)))
    return scale.times(W, -2 * view.power), Ht, float(scale.times(error, -(scale.of_loss(view.power, beta) // 2)))


def _columns(data: Rows, W: Array, p: Penalties, tol: float, max_iter: int) -> Array:
    """Return Ht for a given W, from XᵀW and WᵀW alone, so that X is read once: coordinate descent from zero."""
    backend, (m, k) = data.backend, (data.shape[1], W.shape[1])
    XtW, WtW = data.transposed_products(W), backend.gram(W)
    Ht = backend.asarray(np.zeros((m, k), data.dtype))
    order, first = np.arange(k, dtype=np.intp), 0.0

    def sweep(lo: int, hi: int, stats: Array, HHt: Array) -> None:
        backend.sweep(Ht[lo:hi], WtW, XtW[lo:hi], p.l1_H, p.l2_H, order, new[lo:hi], HHt, stats)

    for _ in range(max_iter):
        new = backend.xp.empty((m, k), Ht.dtype)
        stats, _ = data.map_rows(sweep, m, 2.0 * m * k * k, ((backend.STATS,), (k, k)))
        violation = backend.read(stats)[0][backend.VIOLATION]
        Ht, first = new, first or violation
        if violation <= tol * first:
            break
    return Ht


def _ordered(data: Rows, W: Array, order: Array) -> Array:
    """Return the columns of W in another order, where W is."""
    P = np.eye(len(order), dtype=data.dtype)[order].T
    return data.rows_like(W).products(np.ascontiguousarray(P)) if not data.local else W[:, order]
