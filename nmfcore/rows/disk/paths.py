"""The source that a path, or an array of h5py or zarr, names."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..._files import Archive, FileFault, check_regular, faults, reason, shortened
from .archives import archived_sparse, chosen_name, holds_sparse, listed
from .files import NpyFile
from .groups import frame_block, is_group, is_sparse, no_matrix, sparse_matrix
from .sources import ReadError
from .stores import Stored

if TYPE_CHECKING:
    from types import ModuleType

    from scipy import sparse

    from ..._typing import Array, Matrix
    from .groups import Group
    from .stores import StoredArray

HDF5 = (".h5", ".hdf5", ".hdf", ".he5", ".h5ad")
ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")
_DEEPEST = 8  # groups in groups that are looked through


def source_of(X: Matrix, fold: bool = False) -> Matrix:
    """Return the source that X is or names; X itself if it is neither.

    Parameters
    ----------
    X : any
        A source, an h5py dataset, a Zarr array, a group of either that holds one matrix, or a path: to a ``.npy`` or
        ``.npz`` file, to a Zarr array, or to an HDF5 file, with ``::name`` behind it if it holds more than one matrix.
    fold : bool
        Whether an array of more dimensions that a path names is taken as one row for each sample.

    Returns
    -------
    source : Source or object
        A memory map for a ``.npy`` file in Fortran order, whose rows do not lie together; an array for a ``.npz``
        file; a CSR or CSC matrix for a group that holds one, as AnnData and Cell Ranger write them.

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
    library = type(X).__module__.partition(".")[0]
    if library in ("h5py", "zarr") and hasattr(X, "shape") and hasattr(X, "dtype"):
        return Stored(X)
    if library in ("h5py", "zarr") and is_group(X):
        try:
            return _of_group(X)
        except FileFault as fault:
            msg = f"this {type(X).__name__} of {library} {fault}"
            raise ValueError(msg) from fault
    return X


def _of_group(group: Group) -> Matrix:
    """Return the only matrix that a group of the caller's holds."""
    if is_sparse(group):
        return sparse_matrix(group)
    found = [frame_block(group)] if frame_block(group) else _matrices(group, fold=False)
    if len(found) != 1 and "X" not in found:
        names = ", ".join(f"'{shortened(name)}'" for name in found[:5]) or "none"
        msg = f"must hold one matrix, or the one meant must be given, as in group['name']. It holds: {names}"
        raise FileFault(msg)
    node = group["X" if "X" in found else found[0]]
    return sparse_matrix(node) if is_sparse(node) else Stored(node)


def _from_path(given: str | os.PathLike[str], fold: bool) -> Matrix:
    path, name = _split(os.fspath(given))
    if not path.exists():
        msg = f"there is no file or folder '{path}': check the path"
        raise FileNotFoundError(msg)
    suffix = path.suffix.lower()
    try:
        check_regular(path)
        if path.is_dir() and (suffix == ".zarr" or any((path / each).exists() for each in ZARR_FILES)):
            return _called(_from_zarr(path, name, fold), given)
        if suffix in HDF5:
            return _called(_from_hdf5(path, name, fold), given)
        if suffix == ".npz":
            return _from_npz(path, name)
    except FileFault as fault:
        msg = f"'{path}' {fault}"
        raise ValueError(msg) from fault
    if suffix == ".npy":
        source = NpyFile(path, fold)
        if source.columns_first and source.sample:
            msg = f"{source.what} is in Fortran order, its rows do not lie together: store it in C order."
            raise ValueError(msg)
        return np.load(path, mmap_mode="r") if source.columns_first else source
    msg = (
        f"'{path}' is of no known kind: X may be a .npy or .npz file, an HDF5 file (.h5, .hdf5, .h5ad) or a Zarr array "
        "(.zarr); nmfcore.images.cached_images decodes a folder of pictures, read_source reads tables and other files."
    )
    raise ValueError(msg)


def _split(text: str) -> tuple[Path, str]:
    """Split "FILE::NAME"; a file that is called like this is taken whole."""
    file, _, name = text.partition("::")
    if os.path.exists(text):
        file, name = text, ""
    return Path(os.path.expanduser(file)), name  # unlike Path.expanduser it leaves homes of unknown users alone


def _called(source: Matrix, given: str | os.PathLike[str]) -> Matrix:
    """Give a source the name that messages call it by."""
    if isinstance(source, Stored):
        source.what = f"'{os.fspath(given)}'"
    return source


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        msg = f"{name} is missing: pip install 'nmfcore[disk]'"
        raise ImportError(msg) from error


def _from_npz(path: Path, name: str) -> Array | sparse.csr_matrix | sparse.csc_matrix:
    """Read one array of an archive into memory, or the sparse matrix that scipy wrote."""
    with Archive(path) as archive:
        if not name and holds_sparse(archive):
            return archived_sparse(archive)
        name = name or chosen_name(archive, path, (2,))
        if name not in archive.names:
            msg = f"holds nothing named '{shortened(name)}': it holds {listed(archive.names)}"
            raise FileFault(msg)
        return archive.array(name)


def _from_hdf5(path: Path, name: str, fold: bool) -> Stored | sparse.csr_matrix | sparse.csc_matrix:
    h5py = _library("h5py")
    with faults("cannot be read as HDF5"), h5py.File(path, "r") as file:
        if name:
            node = file.get(name)  # None: nothing, or a link that leads nowhere
            if node is None:
                msg = f"holds nothing named '{shortened(name)}', or a link that leads nowhere"
                raise FileFault(msg)
        else:
            name = _chosen(_matrices(file, fold) or _lone_group(file), path)
            node = file[name]
        name, X = _in_group(node, name)
        if X is not None:
            return X

    @contextmanager
    def hold() -> Iterator[StoredArray]:
        with ExitStack() as opened:
            try:
                array = opened.enter_context(h5py.File(path, "r"))[name]
            except (OSError, KeyError) as error:  # it has gone, or is another file now
                msg = f"'{path}' cannot be opened any more ({reason(error)})"
                raise ReadError(msg) from error
            yield array

    with ExitStack() as opened:
        with faults("cannot be read as HDF5"):
            array = opened.enter_context(hold())
        return Stored(array, hold, fold, f"'{path}::{name}'")


def _from_zarr(path: Path, name: str, fold: bool) -> Stored | sparse.csr_matrix | sparse.csc_matrix:
    zarr = _library("zarr")
    with faults("cannot be read as Zarr"):
        try:
            node = zarr.open(str(path), mode="r")
        except FileNotFoundError as error:  # the folder is there
            msg = "holds no Zarr array and no group of them"
            raise FileFault(msg) from error
        if name:
            if not is_group(node) or name not in node:
                msg = f"holds nothing named '{shortened(name)}'"
                raise FileFault(msg)
            node = node[name]
        elif is_group(node) and not is_sparse(node):
            name = _chosen(_matrices(node, fold), path)
            node = node[name]
        if is_group(node):
            inner, X = _in_group(node, name)
            if X is not None:
                return X
            node = node[inner.rpartition("/")[2]]
    return Stored(node, None, fold, f"'{path}{'::' * bool(name)}{name}'")


def _in_group(node: Group | StoredArray, name: str) -> tuple[str, sparse.csr_matrix | sparse.csc_matrix | None]:
    """Return the name of the array that is meant, or the sparse matrix that a group holds."""
    if is_sparse(node):
        return name, sparse_matrix(node)
    if not is_group(node):
        if not hasattr(node, "shape"):
            msg = f"holds '{shortened(name)}', which is a type and no matrix"
            raise FileFault(msg)
        return name, None
    block = frame_block(node)
    if not block:
        raise no_matrix(node, name, _matrices(node, fold=True))
    return f"{name}/{block}", None


def _matrices(group: Group, fold: bool, above: str = "", depth: int = 0) -> list[str]:
    """Return the names of all matrices below a group, sparse ones included."""
    found: list[str] = []
    for key in sorted(group):  # a folder of Zarr lists its arrays in no order
        name = f"{above}{key}"
        node = group.get(key)  # None: a link that leads nowhere
        if node is None:
            continue
        if is_sparse(node) or (not is_group(node) and _fits(node, fold)):
            found.append(name)
        elif is_group(node) and depth < _DEEPEST:
            found += _matrices(node, fold, f"{name}/", depth + 1)
    return found


def _lone_group(file: Group) -> list[str]:
    """Return the name of the only group of a file without matrices, of which is said why it is none."""
    names = [str(key) for key in file]
    return names if len(names) == 1 and is_group(file.get(names[0])) else []


def _fits(array: object, fold: bool) -> bool:
    dimensions = len(getattr(array, "shape", None) or ())
    return dimensions == 2 or (fold and dimensions > 2)


def _chosen(found: list[str], path: Path) -> str:
    """Return the matrix that is meant: the only one, or the one that AnnData calls X."""
    return "X" if "X" in found else _only(found, path)


def _only(found: list[str], path: Path) -> str:
    if len(found) == 1:
        return found[0]
    names = ", ".join(f"'{shortened(name)}'" for name in found[:5]) or "none"
    first = shortened((found or ["name"])[0])
    msg = f"must hold one matrix, or the one meant must be named, as in '{path}::{first}'. It holds: {names}"
    raise FileFault(msg)
