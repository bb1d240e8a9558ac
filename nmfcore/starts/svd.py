"""Leading singular triplets of X, from passes over its blocks of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg
from sklearn.utils import check_random_state

if TYPE_CHECKING:
    from ..rows.base import Rows
from .._typing import Array, Seed

OVERSAMPLES = 10
_ROUNDS = 4  # of orthogonalisation at most: each gains half the digits of the compute type
_WELL = 1e-2  # ratio of eigenvalues from which one more round changes nothing


def gram_svd(data: Rows, k: int) -> tuple[Array, Array, Array]:
    """Find the leading k singular triplets of a tall X through XᵀX: two passes.

    Parameters
    ----------
    data : Rows
        X of shape (n, m), dense.
    k : int

    Returns
    -------
    U : ndarray of shape (n, k)
    S : ndarray of shape (k,)
    Vt : ndarray of shape (k, m)
        In the compute type. Where XᵀX cannot tell small singular values apart, its eigenvectors are an orthonormal
        basis of what is left, and `_ritz` finds the triplets within it.
    """
    m = data.shape[1]
    V = linalg.eigh(data.backend.to_numpy(data.gram()), subset_by_index=(m - k, m - 1), check_finite=False)[1]
    return _ritz(data, data.backend.asarray(np.ascontiguousarray(V[:, ::-1], data.dtype)), k)


def subspace_svd(data: Rows, k: int, random_state: Seed) -> tuple[Array, Array, Array]:
    """Find the leading k singular triplets well enough for a start: (XᵀX)² on a Gaussian block, then Rayleigh–Ritz.

    Orthonormal through Gram matrices, so that LAPACK sees nothing larger than (k + 10)²: where samples are prepared
    side by side, the threads that OpenBLAS wakes for more, and that spin for a while afterwards, took a third of the
    time of the samples' whole fits.

    Parameters
    ----------
    data : Rows
        X of shape (n, m).
    k : int
    random_state : int, RandomState or None

    Returns
    -------
    U : ndarray of shape (n, k)
    S : ndarray of shape (k,)
    Vt : ndarray of shape (k, m)
        In the compute type, with orthonormal columns and rows down to the rounding of that type.
    """
    n, m = data.shape
    width = min(k + OVERSAMPLES, n, m)
    Q = check_random_state(random_state).normal(size=(m, width)).astype(data.dtype)
    for _ in range(2):
        Q = _orthonormal(data, data.transposed_products(data.products(Q)))[0]
    return _ritz(data, Q, k)


def _ritz(data: Rows, Q: Array, k: int) -> tuple[Array, Array, Array]:
    """Return the leading k singular triplets of X within the span of Q (m × w, orthonormal columns): one pass."""
    host = data.backend.to_numpy
    U, T = _orthonormal(data, data.products(Q))  # X·Q = U·T
    A, S, Bt = linalg.svd(T, check_finite=False)
    U = _times(data, U, A[:, :k])
    U = host(U) if data.local else U
    return U, S[:k].astype(data.dtype), np.ascontiguousarray(host(_times(data, Q, Bt[:k].T)).T)


def _orthonormal(data: Rows, Y: Array) -> tuple[Array, Array]:
    """Y = Q·T with orthonormal columns of Q, for a narrow Y (r × w), through Gram matrices; T (w × w) in float64.

    The eigenvectors of one Gram matrix are exact to ε only relative to its largest eigenvalue, which is the square of
    what Y holds. Each round therefore divides the columns by their norms, and leaves eigenvalues below a floor where
    they are instead of dropping them: the next round, whose columns are all of one size, sees what they were
    (A. Stathopoulos, K. Wu, "A block orthogonalization procedure with constant synchronization requirements", SIAM J.
    Sci. Comput. 23(6), 2002). Directions that are zero to rounding become rounding noise of norm one, or stay zero.
    """
    backend, width = data.backend, Y.shape[1]
    floor = width * np.finfo(data.dtype).eps
    Y, T = backend.asarray(Y.astype(data.dtype, copy=False)), np.eye(width)
    for _ in range(_ROUNDS):
        G = backend.to_numpy(backend.gram(Y))
        norms = np.sqrt(np.diagonal(G))
        inverse = np.divide(1, norms, out=np.zeros(width), where=norms > 0)
        values, E = linalg.eigh(G * np.outer(inverse, inverse), check_finite=False)
        values, E = values[::-1], E[:, ::-1]
        roots = np.sqrt(np.maximum(values, floor))
        T = (roots[:, None] * E.T * norms) @ T
        Y = _times(data, Y, inverse[:, None] * E / roots)
        if values[-1] > _WELL * values[0]:
            break
    return Y, T


def _times(data: Rows, Y: Array, E: Array) -> Array:
    """Return Y·E by the backend's own product, in the compute type."""
    return data.rows_like(Y).products(np.ascontiguousarray(E, data.dtype))


def randomized_svd(data: Rows, k: int, random_state: Seed) -> tuple[Array, Array, Array]:
    """Find the leading k singular triplets of X by subspace iteration from a Gaussian start.

    Parameters
    ----------
    data : Rows
        X of shape (n, m).
    k : int
    random_state : int, RandomState or None

    Returns
    -------
    U : ndarray of shape (n, k)
    S : ndarray of shape (k,)
    Vt : ndarray of shape (k, m)
        In the compute type.
    """
    rng = check_random_state(random_state)
    n, m = data.shape
    powers = 7 if k < 0.1 * min(n, m) else 4  # of two passes over X each
    flip = n < m  # the shorter side carries the subspace
    whole = data.local or flip  # whether the longer factor is an array of this process, too
    host = data.backend.to_numpy

    def products(F: Array) -> Array:
        XF = data.products(F)
        return host(XF) if whole else XF

    def transposed(F: Array) -> Array:
        return host(data.transposed_products(F).astype(data.dtype, copy=False))

    times, back = (transposed, products) if flip else (products, transposed)
    width = k + OVERSAMPLES
    Q = rng.normal(size=(n if flip else m, width)).astype(data.dtype, copy=False)

    def basis(A: Array) -> Array:
        """Return columns that span the same space: an LU factor does at half the price of QR's."""
        return np.ascontiguousarray(linalg.lu(A, permute_l=True, check_finite=False)[0], data.dtype)

    for _ in range(powers):
        Y = times(Q)
        Q = basis(back(basis(Y) if whole else _orthonormal(data, Y)[0]))
    Y = times(Q)
    Q = linalg.qr(Y, mode="economic", check_finite=False)[0] if whole else _orthonormal(data, Y)[0]
    B = back(np.ascontiguousarray(Q) if whole else Q).T
    small, S, Vt = linalg.svd(B, full_matrices=False, check_finite=False, lapack_driver="gesdd")
    U = (Q @ small)[:, :k] if whole else _times(data, Q, small[:, :k])
    S, Vt = S[:k].astype(data.dtype, copy=False), Vt[:k]
    if flip:
        U, Vt = Vt.T, U.T
    return (np.ascontiguousarray(U, data.dtype) if whole else U), S, np.ascontiguousarray(Vt, data.dtype)
