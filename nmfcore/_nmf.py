"""scikit-learn's private names of ``sklearn.decomposition._nmf``, for those who import them.

Same names, arguments and messages; what they compute is nmfcore's.
"""

from __future__ import annotations

import sys
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_non_negative

from ._typing import Array, Matrix, Seed
from .estimators._base import BaseNMF as _BaseNMF
from .estimators._validation import check_factor as _check_init
from .loop.session import Limits
from .loop.solve import code, factorize
from .objective import EPSILON, Penalties, divergence
from .objective import beta_of as _beta_loss_to_float
from .rows.memory import as_rows
from .solvers import make_solver
from .starts.nndsvd import CUT_OFF, initialize

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .solvers.multiplicative import MultiplicativeUpdate

__all__ = [
    "EPSILON",
    "_BaseNMF",
    "_beta_divergence",
    "_beta_loss_to_float",
    "_check_init",
    "_fit_coordinate_descent",
    "_initialize_nmf",
    "_multiplicative_update_h",
    "_multiplicative_update_w",
    "_special_sparse_dot",
    "_update_coordinate_descent",
    "norm",
    "trace_dot",
]

_INITS = (None, "random", "nndsvd", "nndsvda", "nndsvdar")


def __getattr__(name: str) -> Any:
    """Give the public names too, from the package that has them."""
    if name in ("NMF", "MiniBatchNMF", "non_negative_factorization"):
        return getattr(sys.modules[__package__], name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def norm(x: Array) -> float:
    """Return the Euclidean norm of all entries of x."""
    x = np.ravel(x)
    return sqrt(np.dot(x, x))


def trace_dot(X: Array, Y: Array) -> np.floating:
    """Return trace(X·Yᵀ), without forming the product."""
    return np.dot(X.ravel(), Y.ravel())


def _beta_divergence(X: Matrix, W: ArrayLike, H: ArrayLike, beta: str | float, square_root: bool = False) -> np.float64:
    """Return D_β(X | WH) or, with `square_root`, √(2 D_β); X, W, H may be scalars."""
    if not sparse.issparse(X):
        X = np.atleast_2d(X)
    W, H = np.atleast_2d(W), np.atleast_2d(H)
    single = all(A.dtype == np.float32 for A in (X, W, H))
    dtype = np.float32 if single else np.float64
    data = as_rows(X, dtype)
    W, Ht = np.ascontiguousarray(W, dtype), np.ascontiguousarray(H.T, dtype)
    result = np.float64(divergence(data, W, Ht, float(_beta_loss_to_float(beta))))
    return np.sqrt(2 * max(result, np.float64(0))) if square_root else result


def _special_sparse_dot(W: Array, H: Array, X: Matrix) -> Array | sparse.csr_array | sparse.csr_matrix:
    """Return W·H; for sparse X only where X is not zero, as CSR."""
    if not sparse.issparse(X):
        return np.dot(W, H)
    rows, columns = X.nonzero()
    values = np.empty(rows.size)
    step = max(1, (1 << 20) // W.shape[1])
    for lo in range(0, rows.size, step):
        part = slice(lo, lo + step)
        values[part] = np.einsum("ik,ik->i", W[rows[part]], H.T[columns[part]])
    kind = sparse.csr_matrix if sparse.isspmatrix(X) else sparse.csr_array
    return kind((values, (rows, columns)), shape=X.shape)


def _initialize_nmf(
    X: Matrix,
    n_components: int,
    init: str | None = None,
    eps: float = CUT_OFF,
    random_state: Seed = None,
) -> tuple[Array, Array]:
    """Return W and H to begin with; see `nmfcore.starts.nndsvd.initialize`."""
    if init not in _INITS:
        raise ValueError(f"Invalid init parameter: got {init!r} instead of one of {_INITS!r}")
    if eps != CUT_OFF:
        raise ValueError(f"eps = {eps!r}: nmfcore cuts off at {CUT_OFF} only.")
    check_non_negative(X, "NMF initialization")
    dtype = np.float32 if X.dtype == np.float32 else np.float64
    W, Ht = initialize(as_rows(X, dtype), n_components, init, random_state)
    return W, np.ascontiguousarray(Ht.T)


# ---- one update, and the fit that is made of them; W and H are written where scikit-learn writes them


def _update_coordinate_descent(
    X: Matrix, W: Array, Ht: Array, l1_reg: float, l2_reg: float, shuffle: bool, random_state: Seed
) -> float:
    """Sweep over the columns of W once, in place, and return Σ |projected gradient|; X may be transposed."""
    data = as_rows(X, W.dtype)
    solver = make_solver("cd", Penalties(l1_reg, 0.0, l2_reg, 0.0), shuffle=random_state if shuffle else None)
    small = solver.start(data, np.ascontiguousarray(Ht))
    state = data.state(**solver.rows(np.ascontiguousarray(W)))
    after, sums = data.reduce(solver.visit, state, solver.fix(small), solver.sums, *solver.gather)
    W[...] = after["W"]
    return float(sums["stats"][data.backend.VIOLATION])


def _fit_coordinate_descent(
    X: Matrix,
    W: Array,
    H: Array,
    tol: float = 1e-4,
    max_iter: int = 200,
    l1_reg_W: float = 0,
    l1_reg_H: float = 0,
    l2_reg_W: float = 0,
    l2_reg_H: float = 0,
    update_H: bool = True,
    verbose: int = 0,
    shuffle: bool = False,
    random_state: Seed = None,
) -> tuple[Array, Array, int]:
    """Return W, H and the number of iterations of coordinate descent from a start, which is not written."""
    rng = check_random_state(random_state) if shuffle else None
    penalties = Penalties(l1_reg_W, l1_reg_H, l2_reg_W, l2_reg_H)
    solver, data = make_solver("cd", penalties, shuffle=rng), as_rows(X, W.dtype)
    W, Ht = np.ascontiguousarray(W), np.ascontiguousarray(H.T)
    if not update_H:
        coded = code(data, solver, Ht, tol=tol, max_iter=max_iter)
        return coded.W, Ht.T, coded.n_iter
    found = factorize(data, solver, W, Ht, Limits(tol, max_iter), verbose=verbose, measure=False)
    if found.interruption is not None:
        found.interruption.again()
    return found.W, found.Ht.T, found.n_iter


def _mu(beta_loss: str | float, gamma: float, penalties: Penalties) -> MultiplicativeUpdate:
    solver: Any = make_solver("mu", penalties, _beta_loss_to_float(beta_loss))
    solver.gamma = gamma
    return solver


def _multiplicative_update_w(
    X: Matrix,
    W: Array,
    H: Array,
    beta_loss: str | float,
    l1_reg_W: float,
    l2_reg_W: float,
    gamma: float,
    H_sum: Array | None = None,
    HHt: Array | None = None,
    XHt: Array | None = None,
    update_H: bool = True,
) -> tuple[Array, Array | None, Array | None, Array | None]:
    """Update W once, in place, and return it with ΣH, HHᵀ and X·Hᵀ where scikit-learn makes them."""
    data, Ht = as_rows(X, W.dtype), np.ascontiguousarray(H.T, W.dtype)
    solver = _mu(beta_loss, gamma, Penalties(l1_reg_W, 0.0, l2_reg_W, 0.0))
    W[...] = solver.update_rows(data, np.ascontiguousarray(W), Ht)
    if solver.beta == 2:
        HHt = H @ H.T if HHt is None else HHt
        XHt = data.products(Ht) if XHt is None and not update_H else XHt
    elif solver.beta == 1 and H_sum is None:
        H_sum = H.sum(axis=1)
    return W, H_sum, HHt, XHt


def _multiplicative_update_h(
    X: Matrix,
    W: Array,
    H: Array,
    beta_loss: str | float,
    l1_reg_H: float,
    l2_reg_H: float,
    gamma: float,
    A: Array | None = None,
    B: Array | None = None,
    rho: Any = None,
) -> Array:
    """Update H once, in place, and return it; with the sums A and B of mini-batches, return A / B of the new sums."""
    data, Ht = as_rows(X, H.dtype), np.ascontiguousarray(H.T)
    solver = _mu(beta_loss, gamma, Penalties())
    numerator, denominator = (F.T for F in solver.column_terms(data, np.ascontiguousarray(W, H.dtype), Ht))
    denominator = denominator + l1_reg_H + l2_reg_H * H
    denominator[denominator == 0] = EPSILON
    if A is None or B is None:
        H *= ((numerator / denominator) ** gamma).astype(H.dtype, copy=False)
        return H
    A *= rho
    B *= rho
    A += numerator * H ** (1 / gamma)
    B += denominator
    return (A / B) ** gamma
