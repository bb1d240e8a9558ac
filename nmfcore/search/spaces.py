"""Spaces: what codes stand for when their similarity is measured."""

from __future__ import annotations

import numpy as np

from .._typing import Array
from ..models import Model
from .cosine import reconstruction_space
from .index import CosineIndex

__all__ = ["SPACES", "Space", "checked"]

SPACES = ("codes", "reconstruction", "centred")
# Non-negative codes lie within a quarter of the sphere. Whatever lies at its edge is the least similar to nearly every
# other code: of 100 queries among 6,000 cats, 77 found one of two pictures first. Codes minus their mean avoid this.
OPPOSITE = "centred"


def checked(space: str) -> str:
    """Return the name of a space, or raise ValueError.

    Parameters
    ----------
    space : str
        One of `SPACES`.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If there is no such space.
    """
    if space not in SPACES:
        names = f"{', '.join(map(repr, SPACES[:-1]))} or {SPACES[-1]!r}"
        raise ValueError(f"space={space!r} is unknown: expected {names}")
    return space


class Space:
    """The codes of a model as points whose cosines are their similarities.

    Parameters
    ----------
    name : {"codes", "reconstruction", "centred"}
        "codes": the codes themselves. "reconstruction": points with the inner products of the rows of WH. "centred":
        the codes minus their mean.
    model : Model
        With codes W (n × k) and components H (k × m).

    Attributes
    ----------
    root : ndarray of shape (k, k) or None
        R with R·Rᵀ = H·Hᵀ, for "reconstruction".
    index : CosineIndex
        The points of all codes of the model.
    """

    def __init__(self, name: str, model: Model):
        self.root: Array | None = None
        self._mean: Array | None = None
        if name == "reconstruction":
            self.root = reconstruction_space(np.eye(len(model.components)), model.components)
        elif name == "centred":
            self._mean = np.mean(model.W, axis=0, dtype=np.float64)
        self.index = CosineIndex(self.placed(model.W))

    def placed(self, codes: Array) -> Array:
        """Return codes as points.

        Parameters
        ----------
        codes : ndarray of shape (n, k), float32 or float64

        Returns
        -------
        ndarray of shape (n, k), of the codes' type
        """
        if self._mean is not None:
            return codes - self._mean.astype(codes.dtype)
        return codes if self.root is None else codes @ self.root.astype(codes.dtype, copy=False)

    def point(self, row: int | None, code: Array) -> Array:
        """Return one code as a point.

        Parameters
        ----------
        row : int or None
            Its row in the index, if it is there; the very numbers of the index are returned then, since the product
            of one row rounds otherwise.
        code : ndarray of shape (k,)

        Returns
        -------
        ndarray of shape (1, k)
        """
        return self.placed(code[None]) if row is None else np.asarray(self.index[[row]])
