"""A fitted factorisation as plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["BY_COMPONENT", "OF_RUNS", "PROPORTIONS", "Model", "ModelFileError", "by_component", "may_be_masked"]

# What may have been done with pictures of other proportions.
PROPORTIONS = ("kept", "stretched", "cropped", "letterboxed")
OF_RUNS = ("init_losses",)
# Attributes of an estimator that are a number for each component, by their names in a model.
BY_COMPONENT = {"scales": "scales_", "component_stability": "component_stability_"}


def may_be_masked(decoding: Mapping[str, object] | None) -> bool:
    """Whether pixels of pictures are masked that are decoded like those of a model.

    Parameters
    ----------
    decoding : mapping or None
        ``decoding`` of a `Model`.

    Returns
    -------
    bool
    """
    how = decoding or {}
    return how.get("proportions") == "letterboxed" or bool(how.get("mask_transparent"))


class ModelFileError(ValueError):
    """A file that is not an nmfcore model, is damaged, or is newer than this nmfcore.

    Examples
    --------
    >>> from nmfcore.models import ModelFileError
    >>> issubclass(ModelFileError, ValueError)
    True
    """

    __module__ = "nmfcore.models"  # the name that is imported, which pickles hold


@dataclass(frozen=True, eq=False)
class Model:
    """A fitted factorisation X ≈ W · components as plain data.

    Attributes
    ----------
    W : ndarray of shape (n_samples, k), float32 or float64
        One row of weights per sample. `save` takes it, and components, from a device as well.
    components : ndarray of shape (k, n_features), float32 or float64
        The learned parts.
    parameters : dict of str to plain values
        The estimator's constructor parameters. What has a meaning only inside the fitting process
        (a callback, a ``RandomState`` object) is stored as None.
    estimator : str
        Class name of the estimator.
    history : dict of str to ndarray of shape (n_recorded,)
        "loss", "violation" and "seconds" of each iteration, float64, and "accepted", bool: ``history_``
        of the estimator. A history with losses, but without "accepted", as versions of nmfcore made
        it that recorded accepted iterations only, gets an "accepted" that is all True.
    shape : tuple of (int, int) or (int, int, 3), or None
        Height and width of the picture a row of X stands for, and 3 if it is in colour.
    names : tuple of str or None
        One name per sample.
    labels : ndarray of shape (n_samples,) or None
        One label per sample, integers or strings.
    source : str
        Where X was read from.
    n_iter : int
        Iterations run.
    reconstruction_err : float
        √(2·D(X | W · components)), scikit-learn's ``reconstruction_err_``.
    relative_error : float
        ‖X − W · components‖_F / ‖X‖_F; NaN when another divergence was minimised.
    kkt_residual : float
        Distance from optimality, 0 at a stationary point.
    converged : bool
        Whether the stop rule was met.
    stop_reason : str
        Why the fit stopped, in words.
    versions : dict of str to str
        Versions of nmfcore, numpy and Python that wrote the model.
    decoding : dict or None
        How picture files became rows, see `nmfcore.images.Pictures`; None where there were none.
    feature_names : tuple of str or None
        ``feature_names_in_`` of the estimator.
    n_steps : int
        Batches that a `MiniBatchNMF` learned from.
    state : dict or None
        What a `MiniBatchNMF` remembers of its batches, for ``partial_fit`` to go on from.
    scales : ndarray of shape (k,) or None
        ``scales_`` of the estimator: the norms that its components had.
    init_losses : ndarray of shape (n_init,), float64, or None
        ``init_losses_`` of the estimator; None where it has made a single run.
    component_stability : ndarray of shape (k,), float64, or None
        ``component_stability_`` of the estimator; None where it has made a single run.
    rank_selection : dict or None
        How k was chosen: "k" (n_k,), "test" and "spread" (n_k,), "best", the k that was chosen, and "method", what was
        left out ("bicross" or "holdout"; absent where an earlier version has chosen).
    files : dict or None
        Which picture files the rows were made of, see `nmfcore.search.manifest`; None where they were made of other
        data, or by an nmfcore that did not keep it.
    places : ndarray of shape (n_samples,), int64, or None
        In which row of the ``pictures.npy`` beside the model the original of each row lies, and of ``mask.npy`` its
        mask; None: in its own.
    masked : int
        How many entries of X the fit left out, in pictures on the bars of a letterbox and where they
        are transparent: True entries of ``mask`` of `nmfcore.images.Pictures`. 0 by default.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.models import Model
    >>> model = Model(W=np.ones((3, 1)), components=np.ones((1, 4)))
    >>> model.reconstruct([0]).shape
    (1, 4)
    """

    __module__ = "nmfcore.models"  # the name that is imported, which pickles hold

    W: np.ndarray
    components: np.ndarray
    parameters: dict[str, object] = field(default_factory=dict)
    estimator: str = "NMF"
    history: dict[str, np.ndarray] = field(default_factory=dict)
    shape: tuple[int, ...] | None = None
    names: tuple[str, ...] | None = None
    labels: np.ndarray | None = None
    source: str = ""
    n_iter: int = 0
    reconstruction_err: float = float("nan")
    relative_error: float = float("nan")
    kkt_residual: float = float("nan")
    converged: bool = False
    stop_reason: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    decoding: dict[str, object] | None = None
    feature_names: tuple[str, ...] | None = None
    n_steps: int = 0
    state: dict[str, object] | None = None
    scales: np.ndarray | None = None
    init_losses: np.ndarray | None = None
    component_stability: np.ndarray | None = None
    rank_selection: dict[str, Any] | None = None
    files: dict[str, object] | None = None
    places: np.ndarray | None = None
    masked: int = 0

    def __post_init__(self) -> None:
        if "loss" in self.history and "accepted" not in self.history:
            from ..loop.session import complete

            object.__setattr__(self, "history", complete(self.history))

    def __repr__(self) -> str:
        k, m = self.components.shape
        error = "" if math.isnan(self.relative_error) else f", relative error {self.relative_error:.4g}"
        return f"Model of {len(self.W):,} rows × {m:,} features by {k} parts ({self.estimator}{error})"

    def in_order(self, order: Sequence[int] | np.ndarray) -> Model:
        """Return the model with its components in another order.

        Parameters
        ----------
        order : array-like of int, shape (k,)
            The numbers of the components in their new order.

        Returns
        -------
        Model

        Raises
        ------
        ValueError
            When these are not all components, or the model remembers batches, whose sums have an order of their own.
        """
        k = len(self.components)
        order = np.asarray(order, dtype=np.intp)
        if order.shape != (k,) or (np.sort(order) != np.arange(k)).any():
            raise ValueError(f"the order of {k} components must have each of their numbers once, got {order.tolist()}")
        if self.state is not None:
            raise ValueError("a model that partial_fit goes on from keeps its order: fit it with sort_components=True")
        W, components = np.ascontiguousarray(self.W[:, order]), np.ascontiguousarray(self.components[order])
        return replace(
            self, W=W, components=components, **{name: values[order] for name, values in by_component(self).items()}
        )

    def reconstruct(self, rows: slice | Sequence[int] | np.ndarray = slice(None)) -> np.ndarray:
        """Return W[rows] · components.

        Parameters
        ----------
        rows : slice or array-like of int, shape (n_rows,)
            Samples to reconstruct; all of them by default.

        Returns
        -------
        ndarray of shape (n_rows, n_features), float32 or float64
        """
        return self.W[rows] @ self.components


def by_component(model: Model) -> dict[str, np.ndarray]:
    """Return what a model knows of each component, by name.

    Parameters
    ----------
    model : Model

    Returns
    -------
    dict of str to ndarray of shape (k,)
    """
    return {name: np.asarray(values) for name in BY_COMPONENT if (values := getattr(model, name)) is not None}
