"""Models on disk: one ``.npz`` file, no pickle, never half-written.

A model file is a plain numpy archive that any version of numpy opens::

    meta             0-d unicode array: a JSON object with everything that is not an array
    W                n_samples × k
    components       k × n_features
    labels           n_samples, integers or unicode (absent when there are none)
    history_<name>   one float64 array per recorded quantity

A file is written beside its target, synced, and renamed over it: a crash, a full disk or a kill
leaves either the old file or the new one. `model_of` makes a `Model` from a fitted estimator, and `estimator_from`
makes an estimator from a `Model`.
"""

from __future__ import annotations

import json
import math
import os
import platform
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ._files import replacing
from .backends import cuda

__all__ = ["Model", "ModelFileError", "estimator_from", "load", "model_of", "save"]

FORMAT = "nmfcore-model"
VERSION = 1
_PREFIX = "history_"


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
    history : dict of str to ndarray of shape (n_recorded,), float64
        Loss, violation and seconds per iteration.
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
    parameters: dict[str, Any] = field(default_factory=dict)
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

    def __repr__(self) -> str:
        n, m = len(self.W), self.components.shape[-1]
        return f"Model of {n:,} rows × {m:,} features by {len(self.components)} components, made by {self.estimator}"

    def reconstruct(self, rows: Any = slice(None)) -> np.ndarray:
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
        When a parameter cannot be stored as plain data.

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
    # What was learned on a device is kept as numpy's arrays: a file needs no GPU.
    model = replace(model, W=cuda.to_host(model.W), components=cuda.to_host(model.components))
    _check_sizes(model)
    meta = {
        "format": FORMAT,
        "version": VERSION,
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
    }
    arrays: dict[str, np.ndarray] = {
        "meta": np.array(json.dumps(meta)),  # ASCII only, so file names that are no valid Unicode survive
        "W": np.asarray(model.W),
        "components": np.asarray(model.components),
    }
    if model.labels is not None:
        labels = np.asarray(model.labels)
        arrays["labels"] = labels.astype(str) if labels.dtype == object else labels
    for name, values in model.history.items():
        arrays[_PREFIX + name] = np.asarray(values, dtype=np.float64)
    with replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


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
    if not zipfile.is_zipfile(file):
        raise ModelFileError(f"'{file}' is not an nmfcore model, or it is damaged: it is no .npz archive")
    try:
        with np.load(file, allow_pickle=False) as archive:
            meta = _read_meta(archive, file)
            history = {name[len(_PREFIX) :]: archive[name] for name in archive.files if name.startswith(_PREFIX)}
            model = Model(
                W=archive["W"],
                components=archive["components"],
                parameters=dict(meta["parameters"]),
                estimator=str(meta["estimator"]),
                history=history,
                shape=None if meta["shape"] is None else tuple(int(side) for side in meta["shape"]),
                names=None if meta["names"] is None else tuple(meta["names"]),
                labels=archive["labels"] if "labels" in archive.files else None,
                source=str(meta["source"]),
                n_iter=int(meta["n_iter"]),
                reconstruction_err=float(meta["reconstruction_err"]),
                relative_error=float(meta["relative_error"]),
                kkt_residual=float(meta["kkt_residual"]),
                converged=bool(meta["converged"]),
                stop_reason=str(meta["stop_reason"]),
                versions=dict(meta["versions"]),
            )
            _check_sizes(model)
            return model
    except ModelFileError:
        raise
    except (zipfile.BadZipFile, EOFError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelFileError(f"'{file}' is damaged and cannot be read as an nmfcore model ({error})") from error


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


def _read_meta(archive: Mapping[str, np.ndarray], file: Path) -> dict[str, Any]:
    if "meta" not in archive:
        raise ModelFileError(f"'{file}' is not an nmfcore model: it is a numpy archive of something else")
    try:
        meta = json.loads(str(archive["meta"][()]))
    except (json.JSONDecodeError, RecursionError):
        meta = None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise ModelFileError(f"'{file}' is not an nmfcore model: it is a numpy archive of something else")
    if int(meta["version"]) > VERSION:
        raise ModelFileError(
            f"'{file}' was written in model format {meta['version']}, this nmfcore reads up to "
            f"{VERSION}: "
            "upgrade with pip install --upgrade nmfcore"
        )
    return meta


def _check_sizes(model: Model) -> None:
    W, components = np.asarray(model.W), np.asarray(model.components)
    if W.ndim != 2 or components.ndim != 2 or W.shape[1] != components.shape[0]:
        raise ValueError(f"W {W.shape} and components {components.shape} do not multiply: expected n×k and k×m")
    if model.shape is not None and len(model.shape) != 2 and model.shape[2:] != (3,):
        raise ValueError(f"the picture shape must be (height, width) or (height, width, 3), got {model.shape}")
    if model.shape is not None and math.prod(model.shape) != components.shape[1]:
        raise ValueError(f"the picture shape {model.shape} does not fit components with {components.shape[1]} features")
    for what, values in (("names", model.names), ("labels", model.labels)):
        if values is not None and len(values) != W.shape[0]:
            raise ValueError(f"expected one of the {what} per row of W ({W.shape[0]}), but got {len(values)}")


def _plain(name: str, value: Any) -> Any:
    """Return a constructor parameter as JSON can hold it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return np.dtype(value).name
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
    def shape(self) -> Any:
        """Shape of a picture, or None."""

    @property
    def names(self) -> Any:
        """Names of the rows, or None."""

    @property
    def labels(self) -> Any:
        """Labels of the rows, or None."""

    @property
    def source(self) -> str:
        """Where the pictures were read from."""


def model_of(estimator: Any, W: np.ndarray, pictures: PicturesLike | None = None, **changes: Any) -> Model:
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
    >>> from nmfcore.images import read_source
    >>> from nmfcore.models import model_of
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
    >>> from nmfcore.images import read_source
    >>> from nmfcore.models import estimator_from, model_of
    >>> X = read_source().matrix
    >>> fitted = NMF(4, init="nndsvd", max_iter=20, tol=0)
    >>> model = model_of(fitted, fitted.fit_transform(X))
    >>> bool((estimator_from(model).transform(X) == fitted.transform(X)).all())
    True
    """
    from . import estimators

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
