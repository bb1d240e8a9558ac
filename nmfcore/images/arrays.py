"""Files of numpy's: a matrix as it is, memory-mapped where that can be."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path

import numpy as np

from .._files import Archive, FileFault, check_memory, check_regular, map_npy, shortened
from ..rows.disk.archives import archived_sparse, chosen_name, holds_sparse, labels_of, listed
from ._shared import filled, folded, sentences
from .pictures import InputError, Pictures

__all__ = ["read_npy"]


def read_npy(path: str | os.PathLike[str]) -> Pictures:
    """Read a ``.npy`` file, memory-mapped, or a matrix of a ``.npz`` file.

    Parameters
    ----------
    path : path-like
        ``.npy``: an array of shape (n, n_features), (n, height, width) or (n, height, width, 3).
        ``.npz``: such an array alone, the one that the path names ("digits.npz::x_test"), or one
        with a usual name: X, data, images, x_train, train_images, arr_0. One-dimensional labels of
        the same length that are called accordingly (y, labels, target, y_train, y_test, …) are kept.
        A matrix that ``scipy.sparse.save_npz`` wrote becomes dense if there is memory for it.

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
    file, name = named(path)
    labels = None
    with sentences(file):
        check_regular(file)
        with open(file, "rb") as opened:
            magic = opened.read(6)
        if magic[:2] == b"PK" or (file.suffix.lower() == ".npz" and magic != b"\x93NUMPY"):
            with Archive(file) as archive:
                array, labels = _from_archive(file, name, archive)
        elif name:
            raise InputError(f"'{file}' holds one array, which has no name: give '{file}'")
        else:
            array = map_npy(file)
    if array.dtype.kind not in "biuf":
        raise InputError(f"'{file}' holds {shortened(array.dtype)} values: expected real numbers")
    shape = folded(array.shape, file)
    array = array.reshape(len(array), math.prod(array.shape[1:]))
    return Pictures(filled(array, file), shape, None, labels, os.fspath(path))


def named(source: str | os.PathLike[str]) -> tuple[Path, str]:
    """Split "FILE::NAME" into the file and the name.

    Parameters
    ----------
    source : path-like
        A path, with or without a name behind it. A file that is called like this is taken whole.

    Returns
    -------
    file : Path
        The file, its "~" expanded.
    name : str
        The name; "" where there is none.
    """
    text = os.fspath(source)
    file, _, name = text.partition("::")
    if not name or Path(text).exists():
        file, name = text, ""
    return Path(os.path.expanduser(file)), name  # unlike Path.expanduser it leaves homes of unknown users alone


def _from_archive(path: Path, name: str, archive: Archive) -> tuple[np.ndarray, np.ndarray | None]:
    names = archive.names
    if not name and holds_sparse(archive):
        X = archived_sparse(archive)
        check_memory(math.prod(X.shape) * X.dtype.itemsize)
        return X.toarray(), None
    if not name:
        name = chosen_name(archive, path, (2, 3, 4))
    elif name not in names:
        raise InputError(f"'{path}' holds nothing named '{shortened(name)}': it holds {listed(names)}")
    array = archive.array(name)
    reasons = []
    for other in (each for each in labels_of(name) if each in names):
        try:
            header = archive.header(other)
            if header.shape in (array.shape[:1], (*array.shape[:1], 1)) and header.dtype.kind in "biufU":
                return array, archive.array(other).reshape(-1)  # MedMNIST has a column of them
            reasons.append(f"'{shortened(other)}' has shape {header.shape} and type {shortened(header.dtype)}")
        except FileFault as fault:
            reasons.append(f"'{shortened(other)}' {fault}")
    if reasons:
        warnings.warn(
            f"no labels are read from '{path}', as they are one number or text for each of the {len(array):,} rows, "
            f"and {reasons[0]}",
            UserWarning,
            stacklevel=3,
        )
    return array, None
