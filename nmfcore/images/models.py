"""From a fitted estimator and its pictures to a `Model`, and back to an estimator."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..persistence import Model, ModelFileError
from .pictures import Pictures

__all__ = ["estimator_from", "model_of"]


def model_of(estimator: Any, W: np.ndarray, pictures: Pictures | None = None, **changes: Any) -> Model:
    """Gather a fitted estimator and what it was fitted on into a `Model`, to be saved.

    Parameters
    ----------
    estimator : NMF or MiniBatchNMF
        Fitted estimator.
    W : ndarray of shape (n_samples, k), float32 or float64
        The transformed data, as ``fit_transform`` returned it.
    pictures : Pictures or None
        Gives the model its picture shape, names, labels and source.
    **changes
        Fields of `Model` to set otherwise.

    Returns
    -------
    Model

    Raises
    ------
    AttributeError
        When the estimator is not fitted.
    TypeError
        When a keyword is not a field of `Model`.

    Examples
    --------
    >>> from nmfcore import NMF
    >>> from nmfcore.images import model_of, read_source
    >>> digits = read_source()
    >>> estimator = NMF(4, init="nndsvd", max_iter=20, tol=0)
    >>> model = model_of(estimator, estimator.fit_transform(digits.matrix), digits)
    >>> model.components.shape, model.shape
    ((4, 64), (8, 8))
    """
    known: dict[str, Any] = {
        "W": W,
        "components": estimator.components_,
        "parameters": {
            name: value
            for name, value in estimator.get_params(deep=False).items()
            if name not in ("callback", "device")  # who reads the model computes where their X is
        },
        "estimator": type(estimator).__name__,
        "history": dict(getattr(estimator, "history_", {})),
        "n_iter": int(estimator.n_iter_),
        "reconstruction_err": float(estimator.reconstruction_err_),
        "kkt_residual": float(getattr(estimator, "kkt_residual_", math.nan)),
        "converged": bool(getattr(estimator, "converged_", False)),
        "stop_reason": str(getattr(estimator, "stop_reason_", "")),
    }
    if pictures is not None:
        known |= {field: getattr(pictures, field) for field in ("shape", "names", "labels", "source")}
    return Model(**(known | changes))


def estimator_from(model: Model) -> Any:
    """Rebuild the estimator a model was made with, ready to ``transform`` new rows.

    Parameters
    ----------
    model : Model
        As ``nmfcore.load`` returns it.

    Returns
    -------
    NMF or MiniBatchNMF
        With the model's parameters, ``components_``, ``n_components_``, ``n_features_in_``,
        ``n_iter_``, ``reconstruction_err_``, ``converged_``, ``stop_reason_``, ``kkt_residual_``
        and ``history_``.

    Raises
    ------
    ModelFileError
        When the model names an estimator or a parameter that this nmfcore does not have.

    Examples
    --------
    >>> from nmfcore import NMF
    >>> from nmfcore.images import estimator_from, model_of, read_source
    >>> X = read_source().matrix
    >>> fitted = NMF(4, init="nndsvd", max_iter=20, tol=0)
    >>> model = model_of(fitted, fitted.fit_transform(X))
    >>> bool((estimator_from(model).transform(X) == fitted.transform(X)).all())
    True
    """
    from .. import estimators

    if model.estimator not in ("NMF", "MiniBatchNMF"):
        raise ModelFileError(f"the model was made by {model.estimator!r}: this nmfcore knows NMF and MiniBatchNMF")
    parameters = dict(model.parameters)
    if isinstance(parameters.get("dtype"), str):
        parameters["dtype"] = np.dtype(parameters["dtype"]).type
    try:
        estimator = getattr(estimators, model.estimator)(**parameters)
    except TypeError as error:
        written = model.versions.get("nmfcore", "unknown")
        raise ModelFileError(
            f"the model was written by nmfcore {written} and does not fit this one: {error}"
        ) from error
    estimator.components_ = model.components
    estimator.n_components_, estimator.n_features_in_ = model.components.shape
    estimator.n_iter_ = model.n_iter
    estimator.reconstruction_err_ = np.float64(model.reconstruction_err)
    estimator.converged_ = model.converged
    estimator.stop_reason_ = model.stop_reason
    estimator.kkt_residual_ = model.kkt_residual
    estimator.history_ = dict(model.history)
    return estimator
