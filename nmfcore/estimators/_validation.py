"""What X may be, how scikit-learn checks it, and where W is to go."""

from __future__ import annotations

import os
from functools import partial
from os import PathLike
from os.path import realpath
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.validation import check_non_negative, validate_data

from .. import distributed
from .._files import replacing
from ..backends import cuda
from ..rows import disk
from ..rows.memory import Rows

Array = NDArray[Any]

_SMALL = ("uint8", "int8", "uint16", "int16", "bool", "float16")
_WIDE = ("int32", "uint32", "int64", "uint64")
# Read where they lie; anything else becomes float64, as in scikit-learn.
READ_AS_THEY_ARE = [np.dtype(name) for name in ("float64", "float32", *_SMALL, *_WIDE)]


class Output:
    """Where W is to go: into memory (None), a ``.npy`` file, or an array of the caller's."""

    def __init__(self, out: Any):
        self.out, self.path, self.folder = out, None, None
        if isinstance(out, str | PathLike):
            self.path = Path(out).expanduser()
            if self.path.suffix != ".npy":
                raise ValueError(f"out = '{self.path}' must be the path of a .npy file, or an array to fill.")
            self.folder = Path(realpath(self.path)).parent
            if self.path.exists():
                raise FileExistsError(f"out = '{self.path}' exists: give another path, or an array to fill.")
            if not self.folder.is_dir():
                raise FileNotFoundError(f"out = '{self.path}' cannot be written: there is no folder '{self.folder}'.")
            if not os.access(self.folder, os.W_OK | os.X_OK):
                raise PermissionError(f"out = '{self.path}' cannot be written: '{self.folder}' does not allow it.")
        elif out is not None and not isinstance(out, np.ndarray):
            raise ValueError(f"out must be a path or an array that can be written, not {type(out).__name__}.")
        elif out is not None and not out.flags.writeable:
            raise ValueError(
                "out must be a path or an array that can be written, and this one is read-only: open a file with "
                "mode='r+'."
            )
        elif isinstance(out, np.memmap) and out.filename is not None:
            self.folder = Path(out.filename).parent

    def check(self, data: Rows, k: Any) -> None:
        """Refuse an array of another shape before anything is computed; say where buffers are to lie."""
        n = data.shape[0]
        if self.out is not None and data.backend.xp is not np:
            raise ValueError("out is for X on the CPU: leave it out, W is on the device.")
        if isinstance(self.out, np.ndarray) and self.out.shape != (n, self.out.shape[-1] if k == "auto" else k):
            raise ValueError(f"out has shape {self.out.shape}, but W has {n} rows and {k} columns.")
        if isinstance(self.out, np.ndarray) and not np.can_cast(data.dtype, self.out.dtype, "same_kind"):
            raise ValueError(f"out holds {self.out.dtype}, which cannot hold W: give an array of {data.dtype}.")
        if self.folder is not None:
            data.folder = disk.Folder(self.folder)

    def filled(self, W: Any) -> Any:
        """Return W where it is to be."""
        if self.path is not None:
            with replacing(self.path) as file:
                np.lib.format.write_array(file, W, allow_pickle=False)
            return np.load(self.path, mmap_mode="r+")
        if self.out is not None:
            self.out[:] = W
            return self.out
        return W


def check_factor(A: Any, shape: tuple[Any, Any], whom: str) -> Array:
    """Return a factor that the caller gave, checked as scikit-learn checks it; "auto" in `shape` allows any size."""
    A = check_array(A)
    for axis, which in enumerate(("first", "second")):
        if shape[axis] != "auto" and A.shape[axis] != shape[axis]:
            raise ValueError(
                f"Array with wrong {which} dimension passed to {whom}. Expected {shape[axis]}, but got {A.shape[axis]}."
            )
    check_non_negative(A, whom)
    if np.max(A) == 0:
        raise ValueError(f"Array passed to {whom} is full of zeros.")
    return A


def not_of_dask(**given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{name} is for X in memory or on disk, but X is a Dask array: leave it out. Its rows of W stay on the "
                "workers, which keep copies of them."
            )


def stand_in(X: Any) -> Any:
    """Return an array of the shape and type of X that takes no memory, for scikit-learn to check."""
    return np.broadcast_to(np.zeros((), X.dtype), X.shape)


def validated_on_cluster(X: Any, estimator: Any = None, reset: bool = True) -> Any:
    """Return a Dask array in a type that the workers read."""
    distributed.check(X)
    validated(stand_in(X), estimator, reset)
    return X if X.dtype in READ_AS_THEY_ARE else X.astype(np.float64)


def validated_on_device(X: Any, estimator: Any = None, reset: bool = True) -> Any:
    """Return an X on a device as CuPy's; scikit-learn checks a stand-in of its shape and type that takes no memory."""
    X = cuda.adopt(X)
    if X.dtype.kind == "c":
        raise ValueError(f"Complex data not supported\n{X.dtype}\n")
    if X.dtype not in READ_AS_THEY_ARE:
        raise ValueError(f"X on a device has dtype {X.dtype}: give bool, integers, or floats of 16, 32 or 64 bits.")
    validated(stand_in(X) if len(X.shape) == 2 else cuda.to_host(X), estimator, reset)  # else it will be quoted
    return X


def validated(X: Any, estimator: Any = None, reset: bool = True) -> Any:
    """Return X as scikit-learn checks it, in its own type; finiteness is left to the opening."""
    if estimator is None:
        check = partial(check_array, X)
    else:
        check = partial(validate_data, estimator, X, reset=reset)
    check = partial(check, accept_sparse=("csr", "csc"), dtype=READ_AS_THEY_ARE)
    try:
        X = check(ensure_all_finite=False)
    except ValueError:
        check()  # with finiteness in its place: scikit-learn's first complaint is ours
        raise
    # Mixed frames may come out as objects.
    return X if X.dtype in READ_AS_THEY_ARE else X.astype(np.float64)


def raise_not_finite(X: Any, dtype: np.dtype, estimator: Any) -> NoReturn:
    """Raise scikit-learn's error for an X with NaN or infinity in it."""
    values = X.data if sparse.issparse(X) else X
    if values.dtype == np.float16:  # scikit-learn would have widened it
        values = values[~np.isfinite(values)].astype(np.float64)
    name = None if estimator is None else type(estimator).__name__
    assert_all_finite(values, estimator_name=name, input_name="X" if name else "")
    raise ValueError(f"Input X contains infinity or a value too large for {dtype!r}.")
