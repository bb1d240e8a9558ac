"""From what a caller gives, a path or an array of h5py or zarr, to the source that it names."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .files import NpyFile
from .stores import Stored


def source_of(X: Any, fold: bool = False) -> Any:
    """Return the source that X is or names; X itself if it is neither.

    Parameters
    ----------
    X : any
        A source, an h5py dataset, a Zarr array, or a path: to a ``.npy`` file, to a Zarr array, or to an HDF5 file,
        with ``::name`` behind it if it holds more than one matrix.
    fold : bool
        Whether an array of more dimensions that a path names is taken as one row for each sample.

    Returns
    -------
    source : Source or object
        A memory map for a ``.npy`` file in Fortran order, whose rows do not lie together.

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path.
    ImportError
        If the library that reads it is missing.
    ValueError
        If it is of no known kind, or holds no matrix of real numbers.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> from nmfcore.rows.disk import source_of
    >>> folder = tempfile.TemporaryDirectory()
    >>> np.save(pathlib.Path(folder.name) / "x.npy", np.zeros((5, 3), np.uint8))
    >>> source_of(pathlib.Path(folder.name) / "x.npy").shape
    (5, 3)
    >>> folder.cleanup()
    """
    if isinstance(X, str | os.PathLike):
        return _from_path(X, fold)
    if type(X).__module__.partition(".")[0] in ("h5py", "zarr") and hasattr(X, "shape") and hasattr(X, "dtype"):
        return Stored(X)
    return X


def _from_path(given: str | os.PathLike[str], fold: bool) -> Any:
    text, _, name = os.fspath(given).partition("::")
    path = Path(text).expanduser()
    if not path.exists():
        msg = f"there is no file or folder '{path}': check the path"
        raise FileNotFoundError(msg)
    suffix = path.suffix.lower()
    if path.is_dir() and (suffix == ".zarr" or any((path / each).exists() for each in ("zarr.json", ".zarray"))):
        return _named(_from_zarr(path, name, fold), given)
    if suffix in (".h5", ".hdf5", ".hdf", ".he5"):
        return _named(_from_hdf5(path, name, fold), given)
    if suffix == ".npy":
        source = NpyFile(path, fold)
        if source.columns_first and source.sample:
            msg = f"{source.what} is in Fortran order, its rows do not lie together: store it in C order."
            raise ValueError(msg)
        return np.load(path, mmap_mode="r") if source.columns_first else source
    msg = (
        f"'{path}' is of no known kind: X may be a .npy file, an HDF5 file (.h5, .hdf5) or a Zarr array (.zarr); "
        "nmfcore.images.cached_images decodes a folder of pictures, read_source reads .npz and other files."
    )
    raise ValueError(msg)


def _named(source: Stored, given: str | os.PathLike[str]) -> Stored:
    source.what = f"'{os.fspath(given)}'"
    return source


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        msg = f"{name} is missing: pip install 'nmfcore[disk]'"
        raise ImportError(msg) from error


def _from_hdf5(path: Path, name: str, fold: bool) -> Stored:
    h5py = _library("h5py")
    with h5py.File(path, "r") as file:
        if not name:
            found: list[str] = []
            file.visititems(lambda key, each: found.append(key) if _fits(each, fold) else None)
            name = _only(found, path)
        elif name not in file:
            msg = f"'{path}' holds nothing named '{name}'"
            raise ValueError(msg)

    @contextmanager
    def hold() -> Iterator[Any]:
        with h5py.File(path, "r") as file:
            yield file[name]

    with hold() as array:
        return Stored(array, hold, fold)


def _fits(array: Any, fold: bool) -> bool:
    dimensions = getattr(array, "ndim", 0)
    return dimensions == 2 or (fold and dimensions > 2)


def _from_zarr(path: Path, name: str, fold: bool) -> Stored:
    zarr = _library("zarr")
    array = zarr.open(str(path), mode="r")
    if name:
        array = array[name]
    elif not hasattr(array, "dtype"):  # a group
        array = array[_only(sorted(key for key, each in array.arrays() if _fits(each, fold)), path)]
    return Stored(array, None, fold)


def _only(found: list[str], path: Path) -> str:
    if len(found) == 1:
        return found[0]
    names = ", ".join(f"'{name}'" for name in found[:5]) or "none"
    msg = f"'{path}' must hold one matrix, or the one meant must be named, as in '{path}::{(found or ['name'])[0]}'"
    raise ValueError(f"{msg}. It holds: {names}")
