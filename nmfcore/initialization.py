"""Where a fit begins: random factors, or NNDSVD with its three ways to fill zeros.

C. Boutsidis, E. Gallopoulos, "SVD based initialization: A head start for nonnegative matrix factorization", Pattern
Recognition 41(4), 2008. The SVD is the randomised one of N. Halko, P.-G. Martinsson, J. Tropp, SIAM Review 53(2), 2011,
with scikit-learn's constants and random numbers, over passes of row blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from sklearn.utils import check_random_state

if TYPE_CHECKING:
    from .data import Rows

Array = NDArray[Any]

OVERSAMPLES = 10
CUT_OFF = 1e-6  # smaller entries of an NNDSVD start are zero
_ROUNDS = 4  # of orthogonalisation at most: each gains half the digits of the compute type
_WELL = 1e-2  # ratio of eigenvalues from which one more round changes nothing


def initialize(
    data: Rows, n_components: int, init: str | None = None, random_state: Any = None, unit: float = 1.0
) -> tuple[Array, Array]:
    """Nonnegative factors to begin with.

    Parameters
    ----------
    data : Rows
        X of shape (n, m).
    n_components : int
        k.
    init : {'random', 'nndsvd', 'nndsvda', 'nndsvdar'} or None
        None is 'nndsvda' where k ≤ min(n, m), else 'random'. Zeros of the NNDSVD stay (nndsvd), become the mean of X
        (nndsvda), or small random numbers below 1/100 of it (nndsvdar).
    random_state : int, RandomState or None
        Draws the random factors, the start of the randomised SVD, and the fill of nndsvdar. NNDSVD depends on it,
        unlike what its name suggests.
    unit : float
        What counts as 1 in the factors, for the cut-off and the mean of X that are absolute numbers there.

    Returns
    -------
    W : ndarray of shape (n, k)
    Ht : ndarray of shape (m, k)
        Hᵀ; both C-contiguous, in the compute type.

    Raises
    ------
    ValueError
        If an NNDSVD is asked for with k > min(n, m).
    """
    n, m = data.shape
    if init is None:
        init = "nndsvda" if n_components <= min(n, m) else "random"
    if init != "random" and n_components > min(n, m):
        msg = f"init = '{init}' can only be used when n_components <= min(n_samples, n_features)"
        raise ValueError(msg)
    if hasattr(data, "initialize") and (init == "random" or n >= m):  # n-sized factors are on other machines
        return data.initialize(n_components, init, random_state, unit)
    mean = data.opening().mean
    if init == "random":
        return _random(data, n_components, mean, random_state)
    U, S, Vt = randomized_svd(data, n_components, random_state)
    W, H = nndsvd(U, S, Vt, CUT_OFF * unit)
    mean /= unit
    if init == "nndsvda":
        W[W == 0] = mean
        H[H == 0] = mean
    elif init == "nndsvdar":
        rng = check_random_state(random_state)
        for F in (W, H):
            zeros = F == 0
            F[zeros] = abs(mean * rng.standard_normal(size=int(zeros.sum())) / 100)
    return np.ascontiguousarray(W), np.ascontiguousarray(H.T)


def _random(data: Rows, k: int, mean: float, random_state: Any) -> tuple[Array, Array]:
    n, m = data.shape
    rng = check_random_state(random_state)
    scale = np.sqrt(mean / k)

    def draw(rows: int, columns: int) -> Array:
        drawn = scale * rng.standard_normal(size=(rows, columns)).astype(data.dtype, copy=False)
        drawn = drawn.astype(data.dtype, copy=False)
        return np.abs(drawn, out=drawn)

    H = draw(k, m)  # before W
    step = max(1, (1 << 17) // k)  # W bit by bit: the numbers come in float64
    W = np.empty((n, k), data.dtype) if data.folder is None else data.new_rows(k)
    for lo in range(0, n, step):
        W[lo : lo + step] = draw(min(step, n - lo), k)
    return W, np.ascontiguousarray(H.T)


def nndsvd(U: Array, S: Array, Vt: Array, cut_off: float = CUT_OFF) -> tuple[Array, Array]:
    """Take the nonnegative parts of singular triplets: of each pair, the signs whose parts weigh more.

    Parameters
    ----------
    U : ndarray of shape (n, k)
    S : ndarray of shape (k,)
    Vt : ndarray of shape (k, m)
    cut_off : float

    Returns
    -------
    W : ndarray of shape (n, k)
    H : ndarray of shape (k, m)
        Entries below the cut-off are zero.
    """
    W, H = np.zeros_like(U), np.zeros_like(Vt)
    # The leading triplet of a nonnegative matrix has one sign.
    W[:, 0] = np.sqrt(S[0]) * np.abs(U[:, 0])
    H[0] = np.sqrt(S[0]) * np.abs(Vt[0])
    for j in range(1, S.size):
        u, v = U[:, j], Vt[j]
        parts = []
        for sign in (1, -1):
            up, vp = np.maximum(sign * u, 0), np.maximum(sign * v, 0)
            nu, nv = np.sqrt(np.dot(up, up)), np.sqrt(np.dot(vp, vp))
            parts.append((nu * nv, up, nu, vp, nv))
        weight, up, nu, vp, nv = parts[0] if parts[0][0] > parts[1][0] else parts[1]
        if weight == 0:  # a singular value of zero with one-signed vectors: nothing to begin with
            continue
        factor = np.sqrt(S[j] * weight)
        W[:, j] = factor * (up / nu)
        H[j] = factor * (vp / nv)
    W[np.less(W, cut_off)] = 0
    H[np.less(H, cut_off)] = 0
    return W, H


def spectral_start(data: Rows, k: int, random_state: Any = None) -> tuple[Array, Array]:
    """NNDSVD for those who do not need scikit-learn's very numbers, from the cheaper of two decompositions.

    The Gram matrix XᵀX takes nm² multiplications in one pass, and another pass for U; a subspace iteration of two
    steps, of which a start for a fit notices nothing, takes five passes of nm(k + 10).

    Parameters
    ----------
    data : Rows
        X of shape (n, m).
    k : int
        At most min(n, m).
    random_state : int, RandomState or None
        Draws the start of the randomised SVD.

    Returns
    -------
    W : ndarray of shape (n, k)
    Ht : ndarray of shape (m, k)
        Both C-contiguous, in the compute type, with zeros.
    """
    n, m = data.shape
    if not data.sparse and m < 5 * (k + OVERSAMPLES) and m <= n:
        U, S, Vt = gram_svd(data, k)
    else:
        U, S, Vt = subspace_svd(data, k, random_state)
    W, H = nndsvd(U, S, Vt, CUT_OFF * 2.0 ** data.opening().level)  # in no unit
    return np.ascontiguousarray(W), np.ascontiguousarray(H.T)


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


def subspace_svd(data: Rows, k: int, random_state: Any) -> tuple[Array, Array, Array]:
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
    """Leading k singular triplets of X within the span of Q (m × w, orthonormal columns): one pass."""
    host = data.backend.to_numpy
    U, T = _orthonormal(data, data.products(Q))  # X·Q = U·T
    A, S, Bt = linalg.svd(T, check_finite=False)
    U = host(_times(data, U, A[:, :k]))
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
    """Y·E by the backend's own product, in the compute type."""
    return data.beside(Y).products(np.ascontiguousarray(E, data.dtype))


def randomized_svd(data: Rows, k: int, random_state: Any) -> tuple[Array, Array, Array]:
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
    host = data.backend.to_numpy

    def products(F: Array) -> Array:
        return host(data.products(F))

    def transposed(F: Array) -> Array:
        return host(data.transposed_products(F).astype(data.dtype, copy=False))

    times, back = (transposed, products) if flip else (products, transposed)
    width = k + OVERSAMPLES
    Q = rng.normal(size=(n if flip else m, width)).astype(data.dtype, copy=False)

    def lower(A: Array) -> Array:  # an LU factor spans the same space as QR's at half the price
        return np.ascontiguousarray(linalg.lu(A, permute_l=True, check_finite=False)[0], data.dtype)

    for _ in range(powers):
        Q = lower(times(Q))
        Q = lower(back(Q))
    Q, _ = linalg.qr(times(Q), mode="economic", check_finite=False)
    B = back(np.ascontiguousarray(Q)).T
    small, S, Vt = linalg.svd(B, full_matrices=False, check_finite=False, lapack_driver="gesdd")
    U = Q @ small
    U, S, Vt = U[:, :k], S[:k], Vt[:k]
    if flip:
        U, Vt = Vt.T, U.T
    return (
        np.ascontiguousarray(U, data.dtype),
        S.astype(data.dtype, copy=False),
        np.ascontiguousarray(Vt, data.dtype),
    )
