"""How pictures are coded by parts that were learned: each by what of it is not masked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._typing import Array
from ..images import InputError
from .blocks import AT_ONCE

if TYPE_CHECKING:
    from ..estimators import NMF, MiniBatchNMF

__all__ = ["check_takes_masks", "coded"]


def coded(estimator: NMF | MiniBatchNMF, matrix: Array, mask: Array | None = None) -> Array:
    """Code rows of pixels.

    Parameters
    ----------
    estimator : NMF or MiniBatchNMF
        A fitted one.
    matrix : ndarray of shape (n, m)
        The rows.
    mask : ndarray of shape (n, m), bool, or None
        True where a pixel is left out. None, the default, leaves nothing out.

    Returns
    -------
    ndarray of shape (n, k)
        The code of a row does not depend on the other rows.

    Raises
    ------
    InputError
        When there is a mask, and the estimator takes none.
    """
    if mask is None:
        return np.asarray(estimator.transform(matrix))
    check_takes_masks(estimator)
    # Rows without and with masked pixels are solved in different ways, which differ in the last bit: whichever a row
    # needs decides, and not its company.
    codes: Array | None = None
    height = max(1, AT_ONCE // max(1, matrix.shape[1] * matrix.dtype.itemsize))
    for start in range(0, len(matrix), height):
        rows, hidden = matrix[start : start + height], mask[start : start + height]
        some = hidden.any(axis=1)
        for chosen, hides in ((~some, None), (some, hidden[some])):
            if not chosen.any():
                continue
            those = np.asarray(estimator.transform(rows[chosen], mask=hides))
            if codes is None:
                codes = np.empty((len(matrix), those.shape[1]), those.dtype)
            codes[start : start + height][chosen] = those
    return np.asarray(estimator.transform(matrix)) if codes is None else codes


def check_takes_masks(estimator: NMF | MiniBatchNMF) -> None:
    """Raise InputError if an estimator cannot code pictures of which pixels are masked.

    Parameters
    ----------
    estimator : NMF or MiniBatchNMF
        A fitted one.

    Raises
    ------
    InputError
        When it takes no masks.
    """
    if not getattr(estimator, "_takes_masks", False):
        made = type(estimator).__name__
        raise InputError(
            f"pixels of the picture are masked, and the model was made by {made}, which takes no masks: fit NMF, "
            "or pictures without masked pixels"
        )
