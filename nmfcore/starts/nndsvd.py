"""Where a fit begins: random factors, or NNDSVD with its three ways to fill zeros.

C. Boutsidis, E. Gallopoulos, "SVD based initialization: A head start for nonnegative matrix factorization", Pattern
Recognition 41(4), 2008. The SVD is the randomised one of N. Halko, P.-G. Martinsson, J. Tropp, SIAM Review 53(2), 2011,
with scikit-learn's constants and random numbers, over passes of row blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from .svd import OVERSAMPLES, gram_svd, randomized_svd, subspace_svd

if TYPE_CHECKING:
    from ..rows.memory import Rows

Array = NDArray[Any]

CUT_OFF = 1e-6  # smaller entries of an NNDSVD start are zero


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
