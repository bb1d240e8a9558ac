"""Which of some vectors to begin new components with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def spread_out(vectors: Array, count: int, gram: Callable[[Array], Array]) -> Array:
    """Choose vectors that differ from one another: each the one farthest from the span of those before it.

    This is the successive projection algorithm (U. M. C. Araújo et al., "The successive projections algorithm for
    variable selection in spectroscopic multicomponent analysis", Chemometrics 57(2), 2001) on a Gram matrix.

    Parameters
    ----------
    vectors : ndarray of shape (c, m), float64
    count : int
        How many to choose at most.
    gram : callable
        gram(F) → FᵀF.

    Returns
    -------
    chosen : ndarray of shape (count or fewer, m)
        Fewer where the rest lies in the span of those chosen, to a thousandth of the longest.
    """
    if not len(vectors):
        return vectors
    G = gram(np.ascontiguousarray(vectors.T))  # pivoted Cholesky of it
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
