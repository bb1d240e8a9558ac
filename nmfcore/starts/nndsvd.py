"""Where a fit begins: random factors, or NNDSVD with its three ways to fill zeros.

C. Boutsidis, E. Gallopoulos, "SVD based initialization: A head start for nonnegative matrix factorization", Pattern
Recognition 41(4), 2008. The SVD is the randomised one of N. Halko, P.-G. Martinsson, J. Tropp, SIAM Review 53(2), 2011,
with scikit-learn's constants and random numbers, over passes of row blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils import check_random_state

from .._typing import Array, Seed
from .svd import OVERSAMPLES, gram_svd, randomized_svd, subspace_svd

if TYPE_CHECKING:
    from ..rows.base import Rows

CUT_OFF = 1e-6  # smaller entries of an NNDSVD start are zero


def initialize(
    data: Rows, n_components: int, init: str | None = None, random_state: Seed = None, unit: float = 1.0
) -> tuple[Array, Array]:
    """Return nonnegative factors for the start of a fit.

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
        If `init` is an NNDSVD and k > min(n, m).
    """
    n, m = data.shape
    if init is None:
        init = "nndsvda" if n_components <= min(n, m) else "random"
    if init != "random" and n_components > min(n, m):
        msg = f"init = '{init}' can only be used when n_components <= min(n_samples, n_features)"
        raise ValueError(msg)
    mean = data.summary().mean
    if init == "random":
        rng, scale = check_random_state(random_state), np.sqrt(mean / n_components)
        H = _half_normal(rng, n_components, m, scale, data.dtype)  # before W
        W = data.drawn(_half_normal, rng, n_components, scale, data.dtype, width=n_components)
        return W, np.ascontiguousarray(H.T)
    U, S, Vt = randomized_svd(data.rooted, n_components, random_state)
    mean /= unit
    W, H = nndsvd(data, U, S, Vt, CUT_OFF * unit, fill=mean if init == "nndsvda" else 0.0)
    if init == "nndsvdar":
        rng = check_random_state(random_state)
        W = data.drawn(_filled, rng, mean, width=n_components, given=W)
        H = _filled(rng, H, mean)
    return W, np.ascontiguousarray(H.T)


def _half_normal(rng: np.random.RandomState, rows: int, columns: int, scale: float, dtype: np.dtype) -> Array:
    """Draw |scale · N(0, 1)| of shape (rows, columns)."""
    drawn = scale * rng.standard_normal(size=(rows, columns)).astype(dtype, copy=False)
    drawn = drawn.astype(dtype, copy=False)
    return np.abs(drawn, out=drawn)


def _filled(rng: np.random.RandomState, F: Array, mean: float) -> Array:
    """Return F with small random numbers, below 1/100 of the mean for the most part, in place of its zeros."""
    F = np.array(F)
    zeros = F == 0
    F[zeros] = abs(mean * rng.standard_normal(size=int(zeros.sum())) / 100)
    return F


def nndsvd(
    data: Rows, U: Array, S: Array, Vt: Array, cut_off: float = CUT_OFF, fill: float = 0.0
) -> tuple[Array, Array]:
    """Return W and H from the nonnegative parts of singular triplets.

    Of each pair of vectors the positive or the negative parts are taken, whichever have the larger product of norms.
    Where rows and columns have weights, the triplets are those of diag(√u)·X·diag(√v), and W and H are the NNDSVD of an
    X in which row i is repeated u_i times, and column j v_j times.

    Parameters
    ----------
    data : Rows
        X, to which the rows of U belong.
    U : ndarray of shape (n, k)
    S : ndarray of shape (k,)
    Vt : ndarray of shape (k, m)
    cut_off : float, default=1e-6
        Smaller entries of W and H become zero.
    fill : float, default=0.0
        What zeros are replaced by.

    Returns
    -------
    W : ndarray of shape (n, k)
    H : ndarray of shape (k, m)
    """
    dtype = S.dtype.type
    squares = data.summed(_squares_of_parts, U)  # of the positive and of the negative parts of each column
    U, of_H = data.unrooted(U, S, Vt)
    signs, norms, factors = np.ones_like(S), np.ones_like(S), np.zeros_like(S)
    H = np.zeros_like(Vt)
    # The leading triplet of a nonnegative matrix has one sign.
    factors[0] = np.sqrt(S[0])
    H[0] = np.sqrt(S[0]) * np.abs(of_H[0])
    for j in range(1, S.size):
        parts = []
        for sign, square in zip((1, -1), squares[:, j], strict=True):
            vp = np.maximum(sign * Vt[j], 0)
            nu, nv = np.sqrt(dtype(square)), np.sqrt(np.dot(vp, vp))
            parts.append((nu * nv, sign, nu, nv))
        weight, sign, nu, nv = parts[0] if parts[0][0] > parts[1][0] else parts[1]
        if weight == 0:  # a singular value of zero with one-signed vectors: nothing to begin with
            continue
        signs[j], norms[j], factors[j] = sign, nu, np.sqrt(S[j] * weight)
        H[j] = factors[j] * (np.maximum(sign * of_H[j], 0) / nv)
    W = data.mapped(_signed_parts, U, signs, norms, factors, cut_off, fill, width=S.size)
    H[np.less(H, cut_off)] = 0
    if fill:
        H[H == 0] = fill
    return W, H


def _squares_of_parts(U: Array) -> Array:
    """Return Σ of squares of the positive and of the negative numbers of each column, of shape (2, k)."""
    sums = np.zeros((2, U.shape[1]))
    for j in range(U.shape[1]):
        for row, sign in enumerate((1, -1)):
            part = np.maximum(sign * U[:, j], 0)
            sums[row, j] = np.dot(part, part)
    return sums


def _signed_parts(U: Array, signs: Array, norms: Array, factors: Array, cut_off: float, fill: float) -> Array:
    """Return W of an NNDSVD: of each column of U the part of one sign, divided by its norm and multiplied."""
    W = np.zeros_like(U)
    W[:, 0] = factors[0] * np.abs(U[:, 0])
    for j in range(1, U.shape[1]):
        W[:, j] = factors[j] * (np.maximum(signs[j] * U[:, j], 0) / norms[j])
    W[np.less(W, cut_off)] = 0
    if fill:
        W[W == 0] = fill
    return W


def spectral_start(data: Rows, k: int, random_state: Seed = None) -> tuple[Array, Array]:
    """Return an NNDSVD from the cheaper of two decompositions, whose numbers are not those of scikit-learn.

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
        U, S, Vt = gram_svd(data.rooted, k)
    else:
        U, S, Vt = subspace_svd(data.rooted, k, random_state)
    W, H = nndsvd(data, U, S, Vt, CUT_OFF * 2.0 ** data.summary().level)  # free of the unit of X
    return W, np.ascontiguousarray(H.T)
