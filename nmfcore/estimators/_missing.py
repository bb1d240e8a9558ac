"""What estimators do for an X with missing entries, beside handing its mask to `nmfcore.rows.open`."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from sklearn.utils.validation import check_is_fitted

from .. import rows
from .._typing import Array, Matrix, Seed
from ..rows import Rows
from ..rows.masks import whole_mask
from ..starts.nndsvd import initialize, spectral_start

if TYPE_CHECKING:
    from types import ModuleType

    from .._typing import Block
    from ..rows.state import RowState
    from ..rows.sums import Named
    from .nmf import NMF


SUMS_BYTES = 1 << 30  # of the Gram matrices of all columns that a task on a cluster may add up


def missing_value(given: float | None) -> float | None:
    """Return the parameter `missing_values` as None, NaN or 0; raise ValueError if it is none of them."""
    if given is None or given == 0:
        return None if given is None else 0
    if math.isnan(given):
        return math.nan
    raise ValueError(
        f"missing_values = {given!r}: give None, numpy.nan or 0. For another number that stands for what is missing, "
        "give mask=(X == number)."
    )


def check_masked(estimator: NMF, data: Rows) -> None:
    """Raise ValueError for parameters that an X with missing entries does not take.

    Parameters
    ----------
    estimator : NMF
    data : Rows
    """
    refused = {"fixed_components": estimator.fixed_components is not None}
    if data.masked:  # and not only whole columns are missing
        refused |= {
            "extrapolate": estimator.extrapolate,
            "n_init": estimator.n_init > 1,
            "sort_components": estimator.sort_components,
        }
    for name, given in refused.items():
        if given:
            raise ValueError(
                f"{name}={getattr(estimator, name)!r} is for an X without missing entries: leave it out where some are "
                "missing."
            )
    if data.masked == "summed" and estimator.solver != "mu":
        _check_sums(estimator, data.shape[1])


def _check_sums(estimator: NMF, m: int) -> None:
    """Raise ValueError where the Gram matrices of all m columns are too large to be added up by every task."""
    k = estimator.n_components
    if k == "auto" and estimator.init == "custom":  # that of the factors of the call
        return
    k = m if k is None or isinstance(k, str) else k
    size = 4 * m * k * (k + 1)
    if size > SUMS_BYTES:
        raise ValueError(
            "on a cluster, a sparse X of which the stored numbers are observed takes sums of m·k² / 2 numbers in each "
            f"task, {size / 1e9:.1f} GB for {m} columns and {k} components: give fewer components, use solver='mu', or "
            "load X with X.compute()."
        )


def warn_of_unobserved(data: Rows, rows_only: bool = False) -> None:
    """Warn if nothing is observed of some rows or columns of X.

    Parameters
    ----------
    data : Rows
    rows_only : bool, default=False
        Whether H is given, so that columns do not matter.
    """
    empty_rows = empty_columns = 0
    if data.chosen is not None:
        empty_columns = int(np.sum(~data.chosen))
    if data.masked:
        data.summary()
        empty_rows, empty_columns = data.empty_rows, empty_columns + int(data.empty_columns.sum())
    found = []
    if empty_rows:
        found.append(f"{empty_rows} of {data.shape[0]} rows, whose codes are zero")
    if empty_columns and not rows_only:
        found.append(f"{empty_columns} of {data.given_shape[1]} columns, which are zero in components_")
    if found:
        warnings.warn(f"Nothing of X is observed in {', and in '.join(found)}.", UserWarning, stacklevel=4)


def without_unobserved(data: Rows, Ht: Array) -> Array:
    """Return the Hᵀ of a start with zeros for columns of which nothing is observed; a given one is not written."""
    data.summary()
    if data.empty_columns.any():
        Ht = Ht.copy()
        Ht[data.empty_columns] = 0
    return Ht


def masked_start(data: Rows, k: int, random_state: Seed) -> tuple[Array, Array]:
    """Return the start "auto" of an X with missing entries: an NNDSVD of X with the means of its columns filled in."""
    if k > min(data.shape):
        return initialize(data, k, "random", random_state)
    return spectral_start(data, k, random_state)


def impute(model: NMF, X: Matrix, mask: Matrix | None) -> Array:
    """Return X with W·H where it is missing, see `NMF.impute`."""
    lazy = rows.is_lazy(X)
    if sparse.issparse(X._meta if lazy else X):
        raise ValueError("impute takes a dense X: what it fills in would make a sparse one dense. Give X.toarray().")
    if lazy:
        check_is_fitted(model)
        return model._lazily(X, "impute", model.n_features_in_, mask)
    with np.errstate(under="ignore"), model._open_fitted(X, whole_mask(mask, X)) as data:
        warn_of_unobserved(data, rows_only=True)
        if not data.masked:
            return np.array(data.X[:], data.dtype)  # nothing is missing
        coded, Ht = model._code(data, model.components_)
        m = data.shape[1]
        H = np.ascontiguousarray(Ht.T)
        after, _ = data.each_block(
            _impute_block, {"W": coded.W}, H, width=Ht.shape[1], sums={"none": (1,)}, out={"X": m}, verify=True
        )
        return after["X"]


def _impute_block(backend: ModuleType, block: Block, rows: RowState, H: Array, after: RowState, sums: Named) -> None:
    backend.impute(block, rows["W"], H, after["X"])
