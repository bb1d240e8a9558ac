"""Which components a fit keeps as they are, and the order and the scale that it leaves the others in."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._typing import Array, Factor
from ..backends import cuda
from ..solvers import Fixed

NORMS = ("l1", "l2", "max")


class Arrangement(NamedTuple):
    """An order of the components, and a scale for each of them."""

    order: Array  # numbers of the components, in their new order
    scales: Array  # float64, in the new order: columns of W are multiplied by it, rows of H divided

    def of_H(self, Ht: Array) -> Array:
        """Return Ht with its columns in order, and divided by their scales."""
        scales = self.scales if isinstance(Ht, np.ndarray) else cuda.cupy().asarray(self.scales)
        return (Ht[:, self.order] / scales).astype(Ht.dtype, order="C")


def arrangement(Ht: Array, shares: Array | None, norm: str | None, fixed: Fixed | None) -> Arrangement:
    """Return the order of falling shares, and the norms of the components; fixed ones keep their places and scales.

    Parameters
    ----------
    Ht : ndarray of shape (m, k)
    shares : ndarray of shape (k,) or None
        What components are sorted by. None keeps their order.
    norm : {"l1", "l2", "max"} or None
        Of each component. None leaves their scales as they are.
    fixed : Fixed or None

    Returns
    -------
    arrangement : Arrangement
    """
    k = Ht.shape[1]
    order, free = np.arange(k), np.arange(k) if fixed is None else fixed.free
    if shares is not None:
        order[free] = free[np.argsort(-shares[free], kind="stable")]
    scales = np.ones(k) if norm is None else norms(cuda.to_host(Ht), norm)
    if fixed is not None:
        scales[fixed.kept] = 1
    return Arrangement(order, scales[order])


def norms(Ht: Array, norm: str) -> Array:
    """Return a norm of each column, in float64; 1 for a column of zeros, and for one that is not finite."""
    top = Ht.max(axis=0).astype(np.float64)
    top[~((top > 0) & np.isfinite(top))] = 1
    if norm == "max":
        return top
    unit = Ht / top  # so that no square is too small or too large for its type
    found = top * (unit.sum(axis=0) if norm == "l1" else np.sqrt(np.einsum("jt,jt->t", unit, unit)))
    return np.where((found > 0) & np.isfinite(found), found, 1.0)


def check(estimator: Any) -> None:
    """Raise ValueError for what a fit cannot do to its components, before it begins."""
    alpha_H = estimator.alpha_W if isinstance(estimator.alpha_H, str) else estimator.alpha_H
    if estimator.normalize is not None and (estimator.alpha_W or alpha_H):
        raise ValueError(
            f"normalize={estimator.normalize!r} changes how much the penalties of W and H cost, so that the result is "
            f"no minimum of what was minimised (alpha_W={estimator.alpha_W}, alpha_H={estimator.alpha_H!r}): set "
            "normalize=None, or both alphas to 0."
        )


def fixed_rows(given: ArrayLike | None, init: str | None, H: Factor) -> Fixed | None:
    """Return which rows of H a fit keeps; None if it keeps none.

    Parameters
    ----------
    given : array-like or None
        The parameter `fixed_components`.
    init : str or None
        The start of the fit: "custom" if H is given.
    H : array-like of shape (k, m) or None

    Returns
    -------
    fixed : Fixed or None

    Raises
    ------
    ValueError
        If `given` names no rows of H, or there is no H.
    """
    if given is None:
        return None
    if H is None or init != "custom":
        raise ValueError(
            "fixed_components says which rows of H are kept, and this fit is given none: set init='custom' and pass H, "
            "or set fixed_components=None."
        )
    k = np.shape(H)[0] if np.ndim(H) else 0
    named = np.asarray(given)
    what = None
    if named.ndim != 1 or (named.dtype.kind not in "biu" and named.size):
        what = f"an array of shape {named.shape} and type {named.dtype}"
    elif named.dtype == bool:
        if len(named) != k:
            what = f"{len(named)} truth values"
    elif named.size and not (named.min() >= 0 and named.max() < k):
        what = f"the number {int(named.min() if named.min() < 0 else named.max())}"
    if what is not None:
        raise ValueError(
            f"fixed_components holds {what}, but H has {k} rows: give {k} truth values, or numbers of rows from "
            f"0 to {k - 1}."
        )
    mask = np.zeros(k, bool)
    mask[named if named.dtype == bool else named.astype(np.intp)] = True
    return Fixed(mask) if mask.any() else None
