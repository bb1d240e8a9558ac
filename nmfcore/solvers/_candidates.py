"""The choice of vectors that new components begin with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .._typing import Array


def spread_out(vectors: Array, count: int, gram: Callable[[Array], Array]) -> Array:
    """Choose vectors that differ from one another: each of them is the farthest from the span of those chosen before.

    This is the successive projection algorithm (U. M. C. Araújo et al., "The successive projections algorithm for
    variable selection in spectroscopic multicomponent analysis", Chemometrics 57(2), 2001) on a Gram matrix.

    Parameters
    ----------
    vectors : ndarray of shape (c, m), float64
        The vectors to choose from.
    count : int
        Number of vectors to choose.
    gram : callable
        ``gram(F)`` returns FᵀF.

    Returns
    -------
    chosen : ndarray of shape (count or fewer, m)
        Fewer vectors than asked for if all others lie within a thousandth of the longest vector of their span.
    """
    if not len(vectors):
        return vectors
    G = gram(np.ascontiguousarray(vectors.T))  # of which a pivoted Cholesky factorisation follows
    chosen: list[int] = []
    left, factors = np.diagonal(G).copy(), np.zeros((0, len(G)))
    least = 1e-6 * left.max()
    while len(chosen) < count:
        i = int(left.argmax())
        if not left[i] > least:
            break
        factor = (G[i] - factors[:, i] @ factors) / np.sqrt(left[i])
        factors = np.vstack([factors, factor])
        left = left - factor**2
        left[i] = 0
        chosen.append(i)
    return vectors[chosen]
