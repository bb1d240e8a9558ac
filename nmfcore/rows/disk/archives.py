"""The matrix that is meant by an archive of numpy's, and the sparse ones that scipy writes into such archives."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from scipy import sparse

from ..._files import FileFault, faults, shortened

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from ..._files import Archive

logger = logging.getLogger("nmfcore")

# Names that matrices and labels have in archives, most usual first; of Keras, PyTorch, MedMNIST and scikit-learn.
MATRICES = ("X", "x", "data", "images", "X_train", "x_train", "train_images", "train_x", "arr_0")
LABELS = ("y", "Y", "labels", "label", "target", "targets", "y_train", "train_labels", "train_y")
_SPARSE = {"format", "shape", "data"}  # what scipy.sparse.save_npz writes in any case
_PARTS = {"coo": ("data", "row", "col"), "bsr": ("data", "indices", "indptr"), "dia": ("data", "offsets")}
_LISTED = 6  # names that a message lists


def chosen_name(archive: Archive, path: Path, dimensions: tuple[int, ...]) -> str:
    """Return the name of the array that is meant: the only one, one with a usual name, the only matrix.

    Parameters
    ----------
    archive : Archive
    path : Path
        Its file, for messages.
    dimensions : tuple of int
        The numbers of dimensions that a matrix may have.

    Returns
    -------
    str

    Raises
    ------
    FileFault
        If none or several may be meant.
    """
    names = archive.names
    matrices = [name for name in names if _is_matrix(archive, name, dimensions)]
    found = next((name for name in MATRICES if name in matrices), "")
    if not found and len(names) == 1:
        found = names[0]  # refused for what it is
    if not found and len(matrices) == 1:
        found = matrices[0]
    if not found and names and not matrices:
        sides = " or ".join(map(str, dimensions))
        msg = (
            f"holds {listed(names)}: expected a single array, or one named X, with {sides} dimensions, which none of "
            "them has"
        )
        raise FileFault(msg)
    if not found:
        example = f", or name one, as in '{path}::{shortened(matrices[0])}'" if names else ""
        msg = f"holds {listed(names)}: expected a single array, or one named X{example}"
        raise FileFault(msg)
    others = [name for name in matrices if name != found and name not in labels_of(found)]
    if others:
        logger.info("read '%s' of '%s', which also holds %s", found, path, listed(others))
    return found


def _is_matrix(archive: Archive, name: str, dimensions: tuple[int, ...]) -> bool:
    try:
        header = archive.header(name)
    except FileFault:
        return False
    return len(header.shape) in dimensions and header.dtype.kind in "biuf"


def labels_of(name: str) -> tuple[str, ...]:
    """Return the names that the labels of a matrix may have: those with the same "train", "test" or "val" in them.

    Parameters
    ----------
    name : str
        Name of the matrix.

    Returns
    -------
    tuple of str
    """
    part = next((part for part in ("train", "test", "val", "valid") if part in name.lower().split("_")), None)
    if part is None:
        return tuple(label for label in LABELS if "train" not in label)
    return (f"y_{part}", f"Y_{part}", f"{part}_labels", f"{part}_label", f"{part}_y", f"labels_{part}")


def holds_sparse(archive: Archive) -> bool:
    """Whether an archive is one that ``scipy.sparse.save_npz`` wrote.

    Parameters
    ----------
    archive : Archive

    Returns
    -------
    bool
    """
    return set(archive.names) >= _SPARSE


def archived_sparse(archive: Archive) -> sparse.csr_matrix | sparse.csc_matrix:
    """Read the matrix that ``scipy.sparse.save_npz`` wrote, in any format; COO, BSR and DIA become CSR.

    Parameters
    ----------
    archive : Archive
        See `holds_sparse`.

    Returns
    -------
    X : csr_matrix or csc_matrix

    Raises
    ------
    FileFault
        If it is of another format, or its arrays do not make a matrix.
    """
    with faults("holds a sparse matrix that is damaged"):
        shape = tuple(int(side) for side in archive.array("shape"))
        kind = archive.array("format").item()
        kind = kind.decode() if isinstance(kind, bytes) else kind
        if kind not in ("csr", "csc", *_PARTS) or len(shape) != 2:
            msg = f"holds a sparse array of shape {shape} in the format {shortened(kind)!r}: save a matrix as CSR"
            raise FileFault(msg)
        if kind in _PARTS:
            parts = [archive.array(name) for name in _PARTS[kind]]
            return _with_sums(kind, parts, shape)
        data, indices, indptr = (archive.array(each) for each in ("data", "indices", "indptr"))
        X = (sparse.csr_matrix if kind == "csr" else sparse.csc_matrix)((data, indices, indptr), shape)
        X.check_format(full_check=True)  # kernels trust the places that it names
    return X


def _with_sums(kind: str, parts: list[np.ndarray], shape: tuple[int, ...]) -> sparse.csr_matrix:
    """Return a matrix in COO, BSR or DIA as CSR; entries that are stored several times are added."""
    data, *places = parts
    if kind == "coo":
        return sparse.coo_matrix((data, tuple(places)), shape).tocsr()
    if kind == "dia":
        return sparse.dia_matrix((data, places[0]), shape).tocsr()
    blocks = sparse.bsr_matrix((data, *places), shape)
    blocks.check_format(full_check=True)
    return blocks.tocsr()


def listed(names: tuple[str, ...] | list[str]) -> str:
    """Return names as a message lists them.

    Parameters
    ----------
    names : sequence of str

    Returns
    -------
    str
    """
    text = ", ".join(f"'{shortened(name)}'" for name in names[:_LISTED])
    return f"{text}, …" if len(names) > _LISTED else text or "nothing"
