r"""What is minimised: D_β(X | WH) + penalties, and how far from a stationary point a pair is.

.. math:: D_\beta(X | WH) + l_{1W} \sum W + l_{1H} \sum H + ½ l_{2W} \|W\|² + ½ l_{2H} \|H\|²

β = 2 is half the squared Frobenius norm, β = 1 the generalised Kullback-Leibler, β = 0 the Itakura-Saito divergence.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ._typing import Array

if TYPE_CHECKING:
    from ._typing import Block
    from .backends.operations import Backend
    from .rows.base import Made, Pass, Rows
    from .rows.state import RowState
    from .rows.sums import Named


class Penalties(NamedTuple):
    """L1 and L2 penalties, scaled already (scikit-learn's alpha × the other dimension)."""

    l1_W: float = 0.0
    l1_H: float = 0.0
    l2_W: float = 0.0
    l2_H: float = 0.0

    def value(self, sum_W: float, sum_H: float, squares_W: float, squares_H: float) -> float:
        """l1·Σ + ½·l2·Σ² of both factors."""
        linear = self.l1_W * sum_W + self.l1_H * sum_H
        return linear + 0.5 * (self.l2_W * squares_W + self.l2_H * squares_H)


UNPENALISED = Penalties()
EPSILON = float(np.finfo(np.float32).eps)  # what X and WH count as at least where β < 2, as in scikit-learn
LOSSES = {"frobenius": 2, "kullback-leibler": 1, "itakura-saito": 0}


def beta_of(beta_loss: str | float) -> float:
    """Return β of a loss that is given by name or as a number."""
    return LOSSES[beta_loss] if isinstance(beta_loss, str) else beta_loss


def penalty(penalties: Penalties, W: Array, Ht: Array, data: Rows) -> float:
    """Return the penalties of a pair W (n × k), Ht (m × k): of rows and of columns of X as often as they count."""
    if not any(penalties):
        return 0.0
    (sum_W, squares_W), (sum_H, squares_H) = _totals(W, data.row_weights), _totals(Ht, data.column_weights)
    return float(penalties.value(sum_W, sum_H, squares_W, squares_H))


def _totals(F: Array, weights: Array | None) -> tuple[float, float]:
    """Return ΣF and ΣF²; the rows of F weighted if they have weights."""
    if weights is None:
        return F.sum(dtype=float), inner(F, F)
    of_rows = F.sum(axis=1, dtype=np.float64), np.einsum("it,it->i", F, F, dtype=np.float64)
    total, squares = (float(np.einsum("i,i->", weights, each)) for each in of_rows)
    return total, squares


def inner(A: Array, B: Array) -> float:
    """Return ⟨A, B⟩ in float64. Not through BLAS: its threads would make the bits depend on their number."""
    return float(np.einsum("ij,ij->", A, B, dtype=np.float64))


def trace_loss(squares_X: float, cross: float, square: float) -> float:
    """½‖X − WH‖² from the sums of a pass: ½(‖X‖² − 2·cross + square), cross = ⟨XᵀW, Ht⟩, square = ⟨WᵀW, HHᵀ⟩.

    Free, but it cancels near an exact fit, where `divergence` is exact.
    """
    loss = 0.5 * (squares_X - 2 * cross + square)
    return 0.0 if loss < 0 else loss  # a NaN stays one


def divergence(data: Rows, W: Array, Ht: Array, beta: float) -> float:
    """D_β(X | WH), block by block, summed in float64; no n × m temporary.

    Parameters
    ----------
    data : Rows
        X of shape (n, m).
    W : ndarray of shape (n, k)
        C-contiguous, in the compute type.
    Ht : ndarray of shape (m, k)
        Hᵀ, C-contiguous, in the compute type.
    beta : float

    Returns
    -------
    D : float
        Terms of X where X > 1.2e-7, WH at least 1.2e-7 there, as in scikit-learn. CSR with β = 2 uses the trace form
        per row, which cancels near an exact fit.
    """
    (made,) = data.passes([measuring(data, W, Ht, beta)])
    return measured(data, made)


def measuring(data: Rows, W: Array, Ht: Array, beta: float) -> Pass:
    """Return the pass over X that measures what `divergence` returns; `measured` reads it from what the pass made."""
    return data.pass_over(
        _measure, {"W": W}, (data.backend.asarray(Ht), beta), width=Ht.shape[1], sums={"D": (1,)}, out={}, verify=True
    )


def measured(data: Rows, made: Made) -> float:
    """Return D_β(X | WH) from what the pass of `measuring` has made."""
    return float(data.read_sums(made[1]["D"])[0][0])


def explained_shares(cross: Array, WtW: Array, HHt: Array, squares_X: float) -> Array:
    """(2⟨X, w_t h_t⟩ − ⟨w_t h_t, WH⟩) / ‖X‖² of each component: together 1 − ‖X − WH‖² / ‖X‖².

    Parameters
    ----------
    cross : ndarray of shape (k,), float64
        ⟨X, w_t h_t⟩.
    WtW, HHt : ndarray of shape (k, k), float64
    squares_X : float
        ‖X‖².

    Returns
    -------
    shares : ndarray of shape (k,), float64
        Zeros where X is zero throughout.
    """
    if not squares_X > 0:
        return np.zeros(len(cross))
    return (2 * cross - (WtW * HHt).sum(axis=1)) / squares_X


def shares_of(data: Rows, W: Array, Ht: Array, read: bool = True) -> Array:
    """Return the shares of ‖X‖² that components explain, see `explained_shares`; one pass over X.

    Parameters
    ----------
    data : Rows
        X of shape (n, m).
    W : ndarray of shape (n, k)
    Ht : ndarray of shape (m, k)
        Both C-contiguous, in the compute type, for X as it is read.
    read : bool
        False makes no pass over X, and takes ⟨w_t h_t, WH⟩ for ⟨X, w_t h_t⟩, which it is at a stationary point without
        penalties. Defaults to True.

    Returns
    -------
    shares : ndarray of shape (k,), float64
    """
    backend, Ht = data.backend, data.backend.asarray(Ht)
    WtW, HHt = (backend.to_numpy(gram) for gram in (data.gram_of_rows(W), data.gram_of_columns(Ht)))
    if read:
        XtW, Ht = data.transposed_products(W), data.weighted_columns(Ht)
        cross = backend.to_numpy(np.einsum("jt,jt->t", XtW, Ht, dtype=np.float64))
    else:
        cross = (WtW * HHt).sum(axis=1)
    return explained_shares(cross, WtW, HHt, data.summary().squares)


def _measure(
    backend: Backend, block: Block, rows: RowState, arguments: tuple[Array, float], after: RowState, sums: Named
) -> None:
    Ht, beta = arguments
    sums["D"] += backend.divergence(block, rows["W"], Ht, beta)


def kkt_frobenius(weighed_steps: float, squares_X: float) -> float:
    """(Σ G_tt s²)^½ / ‖X‖_F: the coordinate Newton step that is still possible, measured in the reconstruction."""
    return math.sqrt(weighed_steps / squares_X) if squares_X else 0.0


def pull_of_zeros(column_sums: Array, pulls: Array, rows: float) -> float:
    """Σ_t f̄_t Σ_{F_it = 0} max(0, −∇_it): what entries at zero would gain, on the scale of their column's mean."""
    return float(np.add.reduce(np.multiply(column_sums, pulls))) / (rows or 1)
