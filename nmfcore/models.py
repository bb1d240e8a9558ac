"""Models on disk: one ``.npz`` file, no pickle, never half-written.

A model file is a plain numpy archive that any version of numpy opens::

    meta             0-d unicode array: a JSON object with everything that is not an array
    W                n_samples × k
    components       k × n_features
    labels           n_samples, integers or unicode (absent when there are none)
    history_<name>   one float64 array per recorded quantity; of "accepted", ones and zeros
    rank_<name>      the curve of a rank selection: k, test, spread (absent where k was chosen otherwise)
    scales, component_stability   k numbers each (absent where the estimator has none)
    runs_<name>      init_losses of a fit of several runs (absent for a single one)
    state_<name>     what a `MiniBatchNMF` remembers of its batches (absent for `NMF`)
    files_<name>     sizes, dates and digests of the picture files, and the file of each row (absent for other data)
    places           n_samples, int64: rows of pictures.npy and mask.npy (absent where they are the row's own number)

A file is written beside its target, synced, and renamed over it: a crash, a full disk or a kill
leaves either the old file or the new one. `model_of` makes a `Model` from a fitted estimator, and `estimator_from`
makes an estimator from a `Model`. Files of earlier versions are read, and what they lack has its default.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import platform
import re
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ._files import Archive, FileFault, faults, reason, replacing, shortened
from .backends import cuda

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .estimators import NMF, MiniBatchNMF

__all__ = ["Model", "ModelFileError", "estimator_from", "load", "model_of", "save"]

FORMAT = "nmfcore-model"
VERSION = 2
_SINCE_PLACES = 2  # earlier readers would show the wrong originals of a model with places
# What may have been done with pictures of other proportions.
PROPORTIONS = ("kept", "stretched", "cropped", "letterboxed")
_HISTORY, _STATE, _RANK, _RUNS, _FILES = "history_", "state_", "rank_", "runs_", "files_"
_ENDLESS = 10**8  # iterations from which a `transform` without a stop rule does not end in any useful time
_OF_RUNS = ("init_losses",)
# Parameters that may be lists, and of what.
_LISTED: dict[str, tuple[type, ...]] = {"fixed_components": (int,), "feature_weight": (int, float)}
# Attributes that `partial_fit` needs beside its memory.
_OF_STREAM = ("_n_components", "_beta_loss", "_batch_size", "_rho", "_period")
# Attributes of an estimator that are a number for each component, by their names in a model.
_BY_COMPONENT = {"scales": "scales_", "component_stability": "component_stability_"}


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
            from .loop.session import complete

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
            self, W=W, components=components, **{name: values[order] for name, values in _by_component(self).items()}
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


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model to one ``.npz`` file, without pickle, whole or not at all.

    Parameters
    ----------
    model : Model
        What to write.
    path : path-like
        The file; its folder must exist. An existing file is replaced once the new one is complete.

    Raises
    ------
    FileNotFoundError
        When the folder does not exist.
    OSError
        When writing fails, for instance on a full disk; an existing file is then left as it was.
    ValueError
        When W and components, or names or labels and W, do not fit together.
    TypeError
        When `model` is no `Model`, or a parameter cannot be stored as plain data.

    Examples
    --------
    >>> import numpy as np, tempfile, pathlib
    >>> from nmfcore.models import Model, load, save
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name) / "model.npz"
    >>> save(Model(W=np.ones((3, 1)), components=np.ones((1, 4)), names=("a", "b", "c")), path)
    >>> load(path).names
    ('a', 'b', 'c')
    >>> folder.cleanup()
    """
    given: object = model
    if not isinstance(given, Model):
        raise TypeError(
            f"save writes a Model, not {shortened(type(given).__name__)}: nmfcore.models.model_of(estimator, W) makes "
            "one of a fitted estimator and its codes, W = estimator.transform(X)"
        )
    # What was learned on a device is kept as numpy's arrays: a file needs no GPU.
    model = replace(model, W=cuda.to_host(model.W), components=cuda.to_host(model.components))
    _check_sizes(model)
    meta = {
        "format": FORMAT,
        "version": 1 if model.places is None else _SINCE_PLACES,
        "estimator": model.estimator,
        "parameters": {name: _plain(name, value) for name, value in model.parameters.items()},
        "shape": None if model.shape is None else [int(side) for side in model.shape],
        "names": None if model.names is None else list(model.names),
        "source": model.source,
        "n_iter": int(model.n_iter),
        "reconstruction_err": float(model.reconstruction_err),
        "relative_error": float(model.relative_error),
        "kkt_residual": float(model.kkt_residual),
        "converged": bool(model.converged),
        "stop_reason": model.stop_reason,
        "versions": {**versions(), **model.versions},
        "decoding": model.decoding,
        "feature_names": None if model.feature_names is None else [str(name) for name in model.feature_names],
        "n_steps": int(model.n_steps),
        "masked": int(model.masked),
        "state": None,
    }
    arrays: dict[str, np.ndarray] = {
        "W": np.asarray(model.W),
        "components": np.asarray(model.components),
    }
    if model.labels is not None:
        arrays["labels"] = _labels(model.labels)
    for name, values in model.history.items():
        arrays[_HISTORY + name] = np.asarray(values, dtype=np.float64)
    arrays |= {
        name: np.asarray(value, np.float64) for name in _BY_COMPONENT if (value := getattr(model, name)) is not None
    }
    if model.rank_selection is not None:
        curve = dict(model.rank_selection)
        meta["rank_best"] = int(curve.pop("best"))
        if "method" in curve:
            meta["rank_method"] = str(curve.pop("method"))
        arrays |= {_RANK + name: np.asarray(values, np.float64) for name, values in curve.items()}
    for name in _OF_RUNS:
        if getattr(model, name) is not None:
            arrays[_RUNS + name] = np.asarray(getattr(model, name), dtype=np.float64)
    if model.state is not None:
        inner = {name: value for name, value in model.state.items() if isinstance(value, np.ndarray)}
        meta["state"] = {name: _plain(name, value) for name, value in model.state.items() if name not in inner}
        arrays |= {_STATE + name: value for name, value in inner.items()}
    if model.files is not None:
        inner = {name: value for name, value in model.files.items() if isinstance(value, np.ndarray)}
        meta["files"] = {name: value for name, value in model.files.items() if name not in inner}
        arrays |= {_FILES + name: value for name, value in inner.items()}
    if model.places is not None:
        arrays["places"] = np.asarray(model.places, np.int64)
    arrays["meta"] = np.array(json.dumps(meta))  # ASCII only, so file names that are no valid Unicode survive
    with replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _labels(given: object) -> np.ndarray:
    """Return labels as a file keeps them: numbers as they are, all else as text."""
    labels = np.asarray(given)
    if labels.ndim != 1:
        raise ValueError(f"labels must be one number or text for each row of W, got an array of shape {labels.shape}")
    if labels.dtype.kind not in "biufU":
        texts = [each.decode(errors="replace") if isinstance(each, bytes) else str(each) for each in labels]
        return np.array(texts, dtype=str)
    return labels


def load(path: str | os.PathLike[str]) -> Model:
    """Read a model written by `save`; nothing in the file is executed.

    Parameters
    ----------
    path : path-like
        The model file, or the folder ``nmfcore fit`` wrote it to.

    Returns
    -------
    Model

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ModelFileError
        When the file is not an nmfcore model, is damaged, or was written by a newer format.

    Examples
    --------
    >>> from nmfcore.models import load
    >>> load("no-such-model.npz")
    Traceback (most recent call last):
    FileNotFoundError: there is no model file 'no-such-model.npz'
    """
    file = Path(path)
    if file.is_dir():
        file = file / "model.npz"
    if not file.exists():
        raise FileNotFoundError(f"there is no model file '{file}'")
    try:
        with Archive(file) as archive:
            meta = _read_meta(archive)
            with faults("is damaged and cannot be read as an nmfcore model"):
                model = _from_meta(meta, archive)
                _check_sizes(model)
                _check_contents(model)
            return model
    except FileFault as fault:
        said = str(fault)
        if said.startswith("is damaged: it is no .npz archive"):
            said = "is not an nmfcore model, or it is damaged: it is no .npz archive"
        raise ModelFileError(f"'{file}' {said}") from fault


def _from_meta(meta: dict[str, Any], archive: Archive) -> Model:
    names = archive.names
    history = {name[len(_HISTORY) :]: archive.array(name) for name in names if name.startswith(_HISTORY)}
    if "accepted" in history:
        history["accepted"] = _flags(history["accepted"])
    state = meta.get("state")
    if state is not None:
        state = dict(state) | {name[len(_STATE) :]: archive.array(name) for name in names if name.startswith(_STATE)}
    files = meta.get("files")
    if files is not None:
        files = dict(files) | {name[len(_FILES) :]: archive.array(name) for name in names if name.startswith(_FILES)}
    for name in ("W", "components"):
        if name not in names:
            raise ValueError(f"it holds no '{name}'")
    rank: dict[str, Any] | None = None
    if "rank_best" in meta:
        rank = {name[len(_RANK) :]: archive.array(name) for name in names if name.startswith(_RANK)}
        rank["best"] = _whole(meta["rank_best"])
        if "rank_method" in meta:
            rank["method"] = str(meta["rank_method"])
    nan = math.nan
    return Model(
        W=archive.array("W"),
        components=archive.array("components"),
        parameters=dict(meta.get("parameters", {})),
        estimator=str(meta.get("estimator", "NMF")),
        history=history,
        shape=_listed(meta, "shape"),
        names=_listed(meta, "names"),
        labels=archive.array("labels") if "labels" in names else None,
        source=str(meta.get("source", "")),
        n_iter=_whole(meta.get("n_iter", 0)),
        reconstruction_err=float(meta.get("reconstruction_err", nan)),
        relative_error=float(meta.get("relative_error", nan)),
        kkt_residual=float(meta.get("kkt_residual", nan)),
        converged=bool(meta.get("converged", False)),
        stop_reason=str(meta.get("stop_reason", "")),
        versions={str(name): str(version) for name, version in dict(meta.get("versions", {})).items()},
        decoding=meta.get("decoding"),
        feature_names=_listed(meta, "feature_names"),
        n_steps=_whole(meta.get("n_steps", 0)),
        masked=_whole(meta.get("masked", 0)),
        state=state,
        rank_selection=rank,
        files=files,
        places=archive.array("places") if "places" in names else None,
        **{name: archive.array(name) for name in _BY_COMPONENT if name in names},
        **{name: archive.array(_RUNS + name) for name in _OF_RUNS if _RUNS + name in names},
    )


def _listed(meta: dict[str, Any], name: str) -> tuple[Any, ...] | None:
    values = meta.get(name)
    if values is not None and not isinstance(values, list):
        raise ValueError(f"its {name} are a {type(values).__name__}")
    return None if values is None else tuple(values)


def _flags(values: np.ndarray) -> np.ndarray:
    if values.dtype != np.float64 or not np.isin(values, (0, 1)).all():
        raise ValueError("the history holds other numbers than 0 and 1 for what was accepted")
    return values.astype(np.bool_)


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise ValueError(f"{shortened(value, 30)!r} is no whole number from 0 on")
    return value


def versions() -> dict[str, str]:
    """Return the versions of nmfcore, numpy and Python at work.

    Returns
    -------
    dict of str to str

    Examples
    --------
    >>> from nmfcore.models import versions
    >>> sorted(versions())
    ['nmfcore', 'numpy', 'python']
    """
    try:
        own = metadata.version("nmfcore")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        own = "unknown"
    return {"nmfcore": own, "numpy": np.__version__, "python": platform.python_version()}


def _read_meta(archive: Archive) -> dict[str, Any]:
    other = "is not an nmfcore model: it is a numpy archive of something else"
    if "meta" not in archive.names:
        raise FileFault(other)
    try:
        meta = json.loads(str(archive.array("meta")[()]))
    except (FileFault, ValueError, RecursionError) as error:
        if isinstance(error, FileFault) and "Python objects" not in str(error):
            raise
        meta = None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise FileFault(other)
    version = meta.get("version")
    if not isinstance(version, int):
        raise FileFault(f"is damaged: its model format is {shortened(version, 30)!r}")
    if version > VERSION:
        raise FileFault(
            f"was written in model format {shortened(version, 30)}, this nmfcore reads up to {VERSION}: upgrade with "
            "pip install --upgrade nmfcore"
        )
    return meta


def _check_contents(model: Model) -> None:
    """Raise ValueError where a model holds what no fit makes."""
    for name, factor in (("W", model.W), ("components", model.components)):
        if factor.dtype not in (np.float32, np.float64):
            raise ValueError(f"{name} holds {shortened(factor.dtype, 30)} instead of float32 or float64")
        if factor.size and not (np.isfinite(factor).all() and factor.min() >= 0):
            raise ValueError(f"{name} holds negative numbers, or some that are not finite")
    if 0 in model.components.shape:
        raise ValueError(f"components are empty: {model.components.shape}")
    if model.shape is not None and any(type(side) is not int or side < 1 for side in model.shape):
        raise ValueError(f"the picture shape is {shortened(model.shape)}")
    for what, texts in (("names", model.names), ("feature names", model.feature_names)):
        if texts is not None and not all(isinstance(text, str) for text in texts):
            raise ValueError(f"the {what} are not all texts")
    if model.labels is not None and (model.labels.ndim != 1 or model.labels.dtype.kind not in "biufU"):
        raise ValueError(f"the labels are {shortened(model.labels.dtype, 30)} of shape {model.labels.shape}")
    lengths = {values.shape for values in model.history.values()}
    if len(lengths) > 1 or any(len(shape) != 1 for shape in lengths):
        raise ValueError(f"the parts of the history have the shapes {shortened(sorted(lengths))}")
    if any(values.dtype != np.float64 for name, values in model.history.items() if name != "accepted"):
        raise ValueError("the history holds other numbers than float64")
    for name in _OF_RUNS:
        values = getattr(model, name)
        if values is not None and (values.dtype != np.float64 or values.ndim != 1):
            raise ValueError(f"{name} holds {shortened(values.dtype, 30)} of shape {values.shape}")
    for name, value in model.parameters.items():
        rows = value if name in _LISTED and isinstance(value, list) else None
        listed = rows is not None and all(isinstance(each, _LISTED[name]) for each in rows)
        if not (value is None or isinstance(value, bool | int | float | str) or listed):
            raise ValueError(f"the parameter {shortened(name, 30)!r} is a {type(value).__name__}")
    for name in _BY_COMPONENT:
        values = getattr(model, name)
        if values is not None and (values.shape != (len(model.components),) or values.dtype != np.float64):
            raise ValueError(f"the {name} are {shortened(values.dtype, 30)} of shape {values.shape}")
    if model.rank_selection is not None:
        curve = [model.rank_selection.get(name, np.zeros((0, 0))) for name in ("k", "test", "spread")]
        if any(A.ndim != 1 or A.shape != curve[0].shape or A.dtype != np.float64 for A in curve):
            raise ValueError("the curve of its rank selection is not whole")
    places = model.places
    if places is not None and (places.dtype != np.int64 or places.ndim != 1 or places.min(initial=0) < 0):
        raise ValueError(f"the places of the originals are {shortened(places.dtype, 30)} of shape {places.shape}")
    if model.masked > model.W.shape[0] * model.components.shape[1]:
        raise ValueError(f"more entries are masked than there are: {model.masked}")
    if model.decoding is not None:
        how = dict(model.decoding)
        if (
            how.get("proportions") not in PROPORTIONS
            or type(how.get("mask_transparent", False)) is not bool
            or not re.fullmatch("#[0-9a-f]{6}", str(how.get("background")))
            or not 1 << 8 <= _whole(how.get("levels")) <= 1 << 32
        ):
            raise ValueError(f"its pictures were decoded in an unknown way: {shortened(how)}")


def _check_sizes(model: Model) -> None:
    W, components = np.asarray(model.W), np.asarray(model.components)
    if W.ndim != 2 or components.ndim != 2 or W.shape[1] != components.shape[0]:
        raise ValueError(f"W {W.shape} and components {components.shape} do not multiply: expected n×k and k×m")
    if model.shape is not None and len(model.shape) != 2 and model.shape[2:] != (3,):
        raise ValueError(f"the picture shape must be (height, width) or (height, width, 3), got {model.shape}")
    if model.feature_names is not None and len(model.feature_names) != components.shape[1]:
        raise ValueError(f"expected {components.shape[1]} feature names, but got {len(model.feature_names)}")
    if model.shape is not None and math.prod(model.shape) != components.shape[1]:
        raise ValueError(f"the picture shape {model.shape} does not fit components with {components.shape[1]} features")
    if model.component_stability is not None and len(model.component_stability) != len(components):
        raise ValueError(f"expected {len(components)} stabilities, but got {len(model.component_stability)}")
    for what, values in (("names", model.names), ("labels", model.labels), ("places", model.places)):
        if values is not None and len(values) != W.shape[0]:
            raise ValueError(f"expected one of the {what} per row of W ({W.shape[0]}), but got {len(values)}")


def _plain(name: str, value: object) -> bool | int | float | str | list[int] | list[float] | None:
    """Return a constructor parameter as JSON can hold it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return np.dtype(value).name
    if name in _LISTED:
        return np.asarray(value).tolist()  # type: ignore[no-any-return]
    if callable(value) or isinstance(value, np.random.RandomState | np.random.Generator):
        return None
    raise TypeError(
        f"parameter {name!r} cannot be stored in a model file: a {type(value).__name__}, "
        "expected a number, "
        "a string, None, or a numpy dtype"
    )


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
        **{name: getattr(estimator, f"{name}_", None) for name in _OF_RUNS},
    }
    known |= {name: getattr(estimator, attribute, None) for name, attribute in _BY_COMPONENT.items()}
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


def _by_component(model: Model) -> dict[str, np.ndarray]:
    """Return what a model knows of each component, by name."""
    return {name: np.asarray(values) for name in _BY_COMPONENT if (values := getattr(model, name)) is not None}


def _class_of(estimator: NMF | MiniBatchNMF) -> type:
    """Return `NMF` or `MiniBatchNMF` for an estimator that is one, or one derived from it."""
    from . import estimators

    return next(
        (ours for ours in (estimators.NMF, estimators.MiniBatchNMF) if isinstance(estimator, ours)), type(estimator)
    )


def _state_of(estimator: NMF | MiniBatchNMF) -> dict[str, object] | None:
    """Return what a `MiniBatchNMF` goes on from, as plain arrays and numbers."""
    memory = getattr(estimator, "_memory", None)
    if memory is None:
        return None
    from .minibatch.remembered import plain

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
    from . import _compat, estimators
    from .minibatch.remembered import restored

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
    for name, attribute in _BY_COMPONENT.items():
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
    for name in _OF_RUNS:
        if getattr(model, name) is not None:
            setattr(estimator, f"{name}_", getattr(model, name))
    return estimator


def _is_plain_number(value: object) -> bool:
    return value == "auto" or (isinstance(value, int | float) and math.isfinite(value))
