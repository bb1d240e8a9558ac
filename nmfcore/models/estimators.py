"""A fitted estimator becomes a model, and a model an estimator."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .._files import reason, shortened
from .model import BY_COMPONENT, OF_RUNS, Model, ModelFileError

if TYPE_CHECKING:
    from ..estimators import NMF, MiniBatchNMF

__all__ = ["PicturesLike", "estimator_from", "model_of"]

_ENDLESS = 10**8  # iterations from which a `transform` without a stop rule does not end in any useful time
# Attributes that `partial_fit` needs beside its memory.
_OF_STREAM = ("_n_components", "_beta_loss", "_batch_size", "_rho", "_period")


class PicturesLike(Protocol):
    """What `model_of` takes from pictures: see `nmfcore.images.Pictures`."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of a picture, or None."""

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the rows, or None."""

    @property
    def labels(self) -> np.ndarray | None:
        """Labels of the rows, or None."""

    @property
    def source(self) -> str:
        """Where the pictures were read from."""


def model_of(
    estimator: NMF | MiniBatchNMF, W: np.ndarray, pictures: PicturesLike | None = None, **changes: Any
) -> Model:
    """Gather a fitted estimator and what it was fitted on into a `Model`, to be saved.

    Parameters
    ----------
    estimator : NMF or MiniBatchNMF
        Fitted estimator.
    W : ndarray of shape (n_samples, k), float32 or float64
        The transformed data, as ``fit_transform`` returned it.
    pictures : Pictures or None
        Gives the model its picture shape, names, labels and source, how they were decoded, and how
        many pixels are masked.
    **changes
        Fields of `Model` to set otherwise.

    Returns
    -------
    Model

    Raises
    ------
    AttributeError
        When the estimator is not fitted. (One that has only learned by ``partial_fit`` is: its
        iterations and its error are not known then.)
    TypeError
        When a keyword is not a field of `Model`.

    Examples
    --------
    >>> from nmfcore import NMF
    >>> from nmfcore.images import read_source
    >>> from nmfcore.models import model_of
    >>> digits = read_source()
    >>> estimator = NMF(4, init="nndsvd", max_iter=20, tol=0)
    >>> model = model_of(estimator, estimator.fit_transform(digits.matrix), digits)
    >>> model.components.shape, model.shape
    ((4, 64), (8, 8))
    """
    names = getattr(estimator, "feature_names_in_", None)
    ours = _class_of(estimator)
    taken = set(inspect.signature(ours.__init__).parameters)  # type: ignore[misc]
    known: dict[str, Any] = {
        "W": W,
        "components": estimator.components_,
        "parameters": {
            name: value
            for name, value in estimator.get_params(deep=False).items()
            if name in taken - {"callback", "device"}  # a model is computed with wherever its data is
        },
        "estimator": ours.__name__,
        "history": dict(getattr(estimator, "history_", {})),
        "n_iter": int(getattr(estimator, "n_iter_", 0)),
        "reconstruction_err": float(getattr(estimator, "reconstruction_err_", math.nan)),
        "kkt_residual": float(getattr(estimator, "kkt_residual_", math.nan)),
        "converged": bool(getattr(estimator, "converged_", False)),
        "stop_reason": str(getattr(estimator, "stop_reason_", "")),
        "feature_names": None if names is None else tuple(str(name) for name in names),
        "n_steps": int(getattr(estimator, "n_steps_", 0)),
        "state": _state_of(estimator),
        **{name: getattr(estimator, f"{name}_", None) for name in OF_RUNS},
    }
    known |= {name: getattr(estimator, attribute, None) for name, attribute in BY_COMPONENT.items()}
    rank = getattr(estimator, "rank_selection_", None)
    if rank is not None:
        curve = {name: np.asarray(getattr(rank, name), np.float64) for name in ("k", "test")}
        spread = getattr(rank, "spread", None)  # None after a single repeat
        curve["spread"] = np.full(len(curve["k"]), math.nan) if spread is None else np.asarray(spread, np.float64)
        how = getattr(rank, "method", None)  # unknown to pickles of earlier versions
        known["rank_selection"] = curve | {"best": int(rank.best)} | ({} if how is None else {"method": str(how)})
    if pictures is not None:
        known |= {field: getattr(pictures, field) for field in ("shape", "names", "labels", "source")}
        known["decoding"] = getattr(pictures, "decoding", None)
        mask = getattr(pictures, "mask", None)
        known["masked"] = 0 if mask is None else int(np.count_nonzero(mask))
    return Model(**(known | changes))


def _class_of(estimator: NMF | MiniBatchNMF) -> type:
    """Return `NMF` or `MiniBatchNMF` for an estimator that is one, or one derived from it."""
    from .. import estimators

    return next(
        (ours for ours in (estimators.NMF, estimators.MiniBatchNMF) if isinstance(estimator, ours)), type(estimator)
    )


def _state_of(estimator: NMF | MiniBatchNMF) -> dict[str, object] | None:
    """Return what a `MiniBatchNMF` goes on from, as plain arrays and numbers."""
    memory = getattr(estimator, "_memory", None)
    if memory is None:
        return None
    from ..minibatch.remembered import plain

    return plain(memory) | {name: getattr(estimator, name) for name in _OF_STREAM}


def estimator_from(model: Model) -> NMF | MiniBatchNMF:
    """Rebuild the estimator a model was made with, ready to ``transform`` new rows.

    Parameters
    ----------
    model : Model
        As ``nmfcore.load`` returns it.

    Returns
    -------
    NMF or MiniBatchNMF
        With the model's parameters, ``components_``, ``n_components_``, ``n_features_in_``,
        ``feature_names_in_``, ``n_iter_``, ``reconstruction_err_``, ``converged_``,
        ``stop_reason_``, ``kkt_residual_`` and ``history_``; of a fit of several runs with
        ``init_losses_`` and ``component_stability_``; with ``n_steps_`` and what ``partial_fit`` goes
        on from where it was a `MiniBatchNMF`.

    Raises
    ------
    ModelFileError
        When the model names an estimator or a parameter that this nmfcore does not have, or a
        parameter has a value that it does not allow.

    Examples
    --------
    >>> from nmfcore import NMF
    >>> from nmfcore.images import read_source
    >>> from nmfcore.models import estimator_from, model_of
    >>> X = read_source().matrix
    >>> fitted = NMF(4, init="nndsvd", max_iter=20, tol=0)
    >>> model = model_of(fitted, fitted.fit_transform(X))
    >>> bool((estimator_from(model).transform(X) == fitted.transform(X)).all())
    True
    """
    from .. import _compat, estimators
    from ..minibatch.remembered import restored

    if model.estimator not in ("NMF", "MiniBatchNMF"):
        made = shortened(model.estimator)
        raise ModelFileError(f"the model was made by {made!r}: this version reads models of NMF and MiniBatchNMF")
    parameters = dict(model.parameters)
    written = shortened(model.versions.get("nmfcore", "unknown"), 30)
    try:
        if isinstance(parameters.get("dtype"), str):
            parameters["dtype"] = np.dtype(parameters["dtype"]).type  # type: ignore[call-overload]
        estimator = getattr(estimators, model.estimator)(**parameters)
        _compat.check_parameters(estimator)
        if not estimator.tol and estimator.max_iter > _ENDLESS:
            raise ValueError(f"max_iter = {estimator.max_iter:,} with tol = 0 means a transform without end")
        state = dict(model.state or {})
        private = {name: state.pop(name) for name in _OF_STREAM if name in state}
        if state:
            k, m = model.components.shape
            estimator._memory = restored(state, m, k)
            if set(private) != set(_OF_STREAM) or not all(map(_is_plain_number, private.values())):
                raise ValueError("what partial_fit goes on from is not whole")
            for name, value in private.items():
                setattr(estimator, name, value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ModelFileError(
            f"the model was written by nmfcore {written} and does not fit this one: {reason(error)}"
        ) from error
    estimator.components_ = model.components
    estimator.n_components_, estimator.n_features_in_ = model.components.shape
    if model.feature_names is not None:
        estimator.feature_names_in_ = np.array(model.feature_names, dtype=object)
    for name, attribute in BY_COMPONENT.items():
        if getattr(model, name) is not None:
            setattr(estimator, attribute, getattr(model, name))
    if model.n_steps:
        estimator.n_steps_ = model.n_steps
    if model.n_iter or not model.n_steps:  # `partial_fit` sets none of these
        estimator.n_iter_ = model.n_iter
        estimator.reconstruction_err_ = np.float64(model.reconstruction_err)
        estimator.converged_ = model.converged
        estimator.stop_reason_ = model.stop_reason
        estimator.kkt_residual_ = model.kkt_residual
        estimator.history_ = dict(model.history)
    for name in OF_RUNS:
        if getattr(model, name) is not None:
            setattr(estimator, f"{name}_", getattr(model, name))
    return estimator


def _is_plain_number(value: object) -> bool:
    return value == "auto" or (isinstance(value, int | float) and math.isfinite(value))
