"""scikit-learn's private names of ``sklearn.decomposition._nmf``, for those who import them.

Same names, arguments and messages; what they compute is nmfcore's.
"""

from __future__ import annotations

import sys
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.validation import check_non_negative

from .objective import beta_of as _beta_loss_to_float
from .objective import divergence
from .rows.memory import as_rows
from .starts.nndsvd import CUT_OFF, initialize

Array = NDArray[Any]


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


def trace_dot(X: Array, Y: Array) -> Any:
    """Return trace(X·Yᵀ), without forming the product."""
    return np.dot(X.ravel(), Y.ravel())


def _beta_divergence(X: Any, W: Any, H: Any, beta: Any, square_root: bool = False) -> Any:
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


def _special_sparse_dot(W: Array, H: Array, X: Any) -> Any:
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
    X: Any,
    n_components: int,
    init: str | None = None,
    eps: float = CUT_OFF,
    random_state: Any = None,
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
