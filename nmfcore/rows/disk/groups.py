"""Matrices that a group of HDF5 or Zarr holds in several arrays: sparse ones, and pandas' frames."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from ..._files import FileFault, check_memory, faults, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any, Protocol, TypeGuard

    from .stores import StoredArray

    class Group(Protocol):
        """What the groups of h5py and zarr have in common."""

        @property
        def attrs(self) -> Mapping[str, Any]:
            """What is said of the group: numbers, texts, arrays."""

        def __contains__(self, name: object, /) -> bool:
            """Whether something in the group has this name."""

        def __iter__(self) -> Iterator[str]:
            """Yield the names of what is in the group."""

        def __getitem__(self, name: str, /) -> Any:
            """Return a group or an array."""

        def get(self, name: str, /) -> Any:
            """Return a group or an array; None where a link leads nowhere."""


_LISTED = 6  # names that a message lists
_PARTS = ("data", "indices", "indptr")


def is_group(node: object) -> TypeGuard[Group]:
    """Whether something of h5py or zarr is a group.

    Parameters
    ----------
    node : object
        A group or an array.

    Returns
    -------
    bool
    """
    return not hasattr(node, "dtype") and hasattr(node, "keys")


def is_sparse(group: Group | StoredArray) -> TypeGuard[Group]:
    """Whether a group holds the three arrays of a sparse matrix, as AnnData and Cell Ranger write them.

    Parameters
    ----------
    group : Group
        Of h5py or zarr.

    Returns
    -------
    bool
    """
    return is_group(group) and all(part in group for part in _PARTS)


def sparse_matrix(group: Group) -> sparse.csr_matrix | sparse.csc_matrix:
    """Read a sparse matrix whose three arrays lie in a group.

    The layout is that of AnnData (attributes "shape" and "encoding-type"), of its earlier versions ("h5sparse_shape"
    and "h5sparse_format"), or of Cell Ranger, whose columns are the cells: they become the rows.

    Parameters
    ----------
    group : Group
        Of h5py or zarr.

    Returns
    -------
    X : csr_matrix or csc_matrix

    Raises
    ------
    FileFault
        When the arrays do not make a matrix, or need more memory than there is.
    """
    parts = [group[part] for part in _PARTS]
    with faults("holds a sparse matrix that is damaged"):
        if any(part.ndim != 1 for part in parts) or parts[0].dtype.kind not in "buif":
            raise ValueError("its arrays are not those of a matrix of real numbers")
        check_memory(sum(math.prod(part.shape or ()) * part.dtype.itemsize for part in parts))
        shape, kind = _shape_and_kind(group, parts)
        data, indices, indptr = (np.asarray(part[:]) for part in parts)
        X = (sparse.csr_matrix if kind == "csr" else sparse.csc_matrix)((data, indices, indptr), shape)
        X.check_format(full_check=True)  # kernels trust the places that it names
    return X


def _shape_and_kind(group: Group, parts: list[StoredArray]) -> tuple[tuple[int, int], str]:
    attributes = dict(group.attrs)
    shape = attributes.get("shape", attributes.get("h5sparse_shape"))
    kind = attributes.get("encoding-type", attributes.get("h5sparse_format", ""))
    kind = str(kind.decode() if isinstance(kind, bytes) else kind)[:3]
    ranger = shape is None and "shape" in group
    if ranger:
        shape = group["shape"][:]
    if shape is None:
        raise ValueError("it does not say its shape")
    rows, columns = (int(side) for side in np.asarray(shape).ravel())
    starts = math.prod(parts[2].shape or ()) - 1
    if ranger and kind not in ("csr", "csc"):  # columns of genes × cells are the rows of cells × genes
        rows, columns, kind = columns, rows, "csr"
    if kind not in ("csr", "csc"):
        kind = "csr" if starts == rows else "csc"
        if rows == columns:
            warnings.warn(
                f"a sparse matrix of {rows:,} rows and as many columns does not say which of them it stores: its rows "
                "are taken. If it is transposed, give its attribute 'encoding-type' the value 'csc_matrix'",
                UserWarning,
                stacklevel=6,
            )
    if starts != (rows if kind == "csr" else columns):
        raise ValueError(f"shape {(rows, columns)} does not fit {starts + 1:,} row starts")
    return (rows, columns), kind


def frame_block(group: Group) -> str:
    """Return the name of the one array in which pandas keeps the numbers of a frame, "" where there is none.

    Parameters
    ----------
    group : Group
        Of h5py, as ``DataFrame.to_hdf`` writes it.

    Returns
    -------
    str
    """
    if not is_group(group):
        return ""
    blocks = [name for name in group if str(name).startswith("block") and str(name).endswith("_values")]
    return str(blocks[0]) if len(blocks) == 1 and getattr(group[blocks[0]], "ndim", 0) == 2 else ""


def no_matrix(group: Group, name: str, matrices: Sequence[str]) -> FileFault:
    """Return why a group cannot be read as a matrix.

    Parameters
    ----------
    group : Group
        Of h5py or zarr.
    name : str
        Its name in the file.
    matrices : sequence of str
        Names of the matrices in it.

    Returns
    -------
    FileFault
    """
    keys = [str(key) for key in group]
    held = ", ".join(f"'{shortened(key)}'" for key in keys[:_LISTED]) or "nothing"
    more = ", …" if len(keys) > _LISTED else ""
    if "table" in keys:
        advice = "pandas wrote it as a table: write it with to_hdf(..., format='fixed'), or as .npy"
    elif "axis0" in keys:
        advice = "pandas wrote a frame with columns of several types: give all of them one type of numbers"
    else:
        advice = (
            f"name one of them, as in '::{shortened(name)}/{shortened(matrices[0])}'" if matrices else "name another"
        )
    return FileFault(f"holds a group named '{shortened(name)}', and no matrix: it holds {held}{more}; {advice}")
