"""Files of numpy's: a matrix as it is, memory-mapped where that can be."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

import numpy as np
from scipy import sparse

from .._files import Archive, FileFault, check_memory, check_regular, map_npy, shortened
from ._shared import filled, folded, sentences
from .pictures import InputError, Pictures

__all__ = ["read_npy"]

logger = logging.getLogger("nmfcore")

# Names that matrices and labels have in archives, most usual first; of Keras, PyTorch, MedMNIST and scikit-learn.
MATRICES = ("X", "x", "data", "images", "X_train", "x_train", "train_images", "train_x", "arr_0")
LABELS = ("y", "Y", "labels", "label", "target", "targets", "y_train", "train_labels", "train_y")
_LISTED = 6  # names that a message lists


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
    if {"data", "indices", "indptr", "shape", "format"} <= set(names) and not name:
        return _from_sparse(path, archive), None
    if not name:
        name = _chosen(path, archive)
    elif name not in names:
        raise InputError(f"'{path}' holds nothing named '{shortened(name)}': it holds {_listed(names)}")
    array = archive.array(name)
    for other in _labels_of(name):
        if other in names and archive.header(other).shape == array.shape[:1]:
            labels = archive.array(other)
            if labels.dtype.kind in "biufU":
                return array, labels
    return array, None


def _chosen(path: Path, archive: Archive) -> str:
    """Return the name of the array that is meant: the only one, one with a usual name, the only matrix."""
    names = archive.names
    found = next((name for name in MATRICES if name in names), names[0] if len(names) == 1 else "")
    if not found:
        matrices = [name for name in names if _is_matrix(archive, name)]
        found = matrices[0] if len(matrices) == 1 else ""
    if not found:
        example = f", or name one, as in '{path}::{shortened(names[0])}'" if names else ""
        raise InputError(f"'{path}' holds {_listed(names)}: expected a single array, or one named X{example}")
    others = [name for name in names if name != found and name not in _labels_of(found) and _is_matrix(archive, name)]
    if others:
        logger.info("read '%s' of '%s', which also holds %s", found, path, _listed(others))
    return found


def _is_matrix(archive: Archive, name: str) -> bool:
    try:
        header = archive.header(name)
    except FileFault:
        return False
    return len(header.shape) in (2, 3, 4) and header.dtype.kind in "biuf"


def _labels_of(name: str) -> tuple[str, ...]:
    """Return the names that the labels of a matrix may have: those with the same "train", "test" or "val" in them."""
    part = next((part for part in ("train", "test", "val", "valid") if part in name.lower().split("_")), None)
    if part is None:
        return tuple(label for label in LABELS if "train" not in label)
    return (f"y_{part}", f"Y_{part}", f"{part}_labels", f"{part}_label", f"{part}_y", f"labels_{part}")


def _from_sparse(path: Path, archive: Archive) -> np.ndarray:
    """Read a matrix that scipy.sparse.save_npz wrote, as a dense one."""
    try:
        parts = tuple(archive.array(each) for each in ("data", "indices", "indptr"))
        shape = tuple(int(side) for side in archive.array("shape"))
        kind = archive.array("format").item()
        kind = kind.decode() if isinstance(kind, bytes) else kind
        if kind not in ("csr", "csc") or len(shape) != 2:
            raise InputError(f"'{path}' holds a sparse matrix in the format {shortened(kind)!r}: save it as CSR")
        X = (sparse.csr_matrix if kind == "csr" else sparse.csc_matrix)(parts, shape)
        X.check_format(full_check=True)
    except InputError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"'{path}' holds a sparse matrix that is damaged ({error})") from error
    check_memory(math.prod(shape) * X.dtype.itemsize)
    return X.toarray()


def _listed(names: tuple[str, ...] | list[str]) -> str:
    listed = ", ".join(f"'{shortened(name)}'" for name in names[:_LISTED])
    return f"{listed}, …" if len(names) > _LISTED else listed or "nothing"
