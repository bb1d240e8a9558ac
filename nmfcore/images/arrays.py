"""Files of numpy's: a matrix as it is, memory-mapped where that can be."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ._shared import filled, folded
from .pictures import InputError, Pictures

__all__ = ["read_npy"]


def read_npy(path: str | os.PathLike[str]) -> Pictures:
    """Read a ``.npy`` file, memory-mapped, or the one matrix of a ``.npz`` file.

    Parameters
    ----------
    path : path-like
        ``.npy``: an array of shape (n, n_features), (n, height, width) or (n, height, width, 3).
        ``.npz``: such an array alone, or named ``X`` or ``arr_0``; one-dimensional ``y`` or
        ``labels`` of the same length beside it are kept as labels.

    Returns
    -------
    Pictures
        ``matrix`` has shape (n, n_features) in the file's type; a square number of features folds
        to a square picture.

    Raises
    ------
    InputError
        When the file is damaged, or holds no matrix of real numbers.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> from nmfcore.images import read_npy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(pathlib.Path(folder) / "x.npy", np.zeros((5, 4, 3), np.uint8))
    ...     pictures = read_npy(pathlib.Path(folder) / "x.npy")
    >>> pictures.matrix.shape, pictures.shape
    ((5, 12), (4, 3))
    """
    path = Path(path)
    labels = None
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded as archive:
                array, labels = _from_archive(path, archive)
        else:
            array = loaded
    except InputError:
        raise
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, KeyError) as error:
        if isinstance(error, PermissionError):
            raise
        raise InputError(
            f"'{path}' is damaged, or holds Python objects: expected a numpy file with one array of numbers"
        ) from error
    if array.dtype.kind not in "biuf":
        raise InputError(f"'{path}' holds {array.dtype} values: expected real numbers")
    shape = folded(array.shape, path)
    array = array.reshape(len(array), math.prod(array.shape[1:]))
    return Pictures(filled(array, path), shape, None, labels, str(path))


def _from_archive(path: Path, archive: Any) -> tuple[np.ndarray, np.ndarray | None]:
    names = list(archive.files)
    name = next((name for name in ("X", "arr_0") if name in names), names[0] if len(names) == 1 else None)
    if name is None:
        held = ", ".join(f"'{other}'" for other in names[:6]) or "nothing"
        raise InputError(f"'{path}' holds {held}: expected a single array, or one named X")
    array = archive[name]
    for other in ("y", "labels"):
        if other in names and archive[other].shape == array.shape[:1]:
            return array, archive[other]
    return array, None
