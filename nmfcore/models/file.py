"""Model files: one ``.npz`` file, no pickle, never half-written.

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
leaves either the old file or the new one. Files of earlier versions are read, and what they lack has its default.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from .._files import Archive, FileFault, faults, replacing, shortened
from ..backends import cuda
from .model import BY_COMPONENT, OF_RUNS, PROPORTIONS, Model, ModelFileError

__all__ = ["load", "save", "versions"]

FORMAT = "nmfcore-model"
VERSION = 2
_SINCE_PLACES = 2  # earlier readers would show the wrong originals of a model with places
_HISTORY, _STATE, _RANK, _RUNS, _FILES = "history_", "state_", "rank_", "runs_", "files_"
# Parameters that may be lists, and of what.
_LISTED: dict[str, tuple[type, ...]] = {"fixed_components": (int,), "feature_weight": (int, float)}


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
        name: np.asarray(value, np.float64) for name in BY_COMPONENT if (value := getattr(model, name)) is not None
    }
    if model.rank_selection is not None:
        curve = dict(model.rank_selection)
        meta["rank_best"] = int(curve.pop("best"))
        if "method" in curve:
            meta["rank_method"] = str(curve.pop("method"))
        arrays |= {_RANK + name: np.asarray(values, np.float64) for name, values in curve.items()}
    for name in OF_RUNS:
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
        **{name: archive.array(name) for name in BY_COMPONENT if name in names},
        **{name: archive.array(_RUNS + name) for name in OF_RUNS if _RUNS + name in names},
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
    >>> from nmfcore.models.file import versions
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
    for name in OF_RUNS:
        values = getattr(model, name)
        if values is not None and (values.dtype != np.float64 or values.ndim != 1):
            raise ValueError(f"{name} holds {shortened(values.dtype, 30)} of shape {values.shape}")
    for name, value in model.parameters.items():
        rows = value if name in _LISTED and isinstance(value, list) else None
        listed = rows is not None and all(isinstance(each, _LISTED[name]) for each in rows)
        if not (value is None or isinstance(value, bool | int | float | str) or listed):
            raise ValueError(f"the parameter {shortened(name, 30)!r} is a {type(value).__name__}")
    for name in BY_COMPONENT:
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
