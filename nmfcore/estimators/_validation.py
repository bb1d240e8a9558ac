"""What estimators check of X, W and H, in the words of scikit-learn, and where W is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from os import PathLike
from os.path import realpath
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.validation import check_non_negative, validate_data

from .. import _compat
from .._files import expanded, replacing
from .._typing import Array, Factor, Matrix
from ..rows import Rows
from ..rows.disk import Folder
from ..rows.front import READ_AS_THEY_ARE


class Output:
    """Where W is to go: into memory (None), a ``.npy`` file, or an array of the caller's."""

    def __init__(self, out: str | PathLike[str] | Array | None):
        self.out, self.path, self.folder = out, None, None
        if isinstance(out, str | PathLike):
            self.path = expanded(out)
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

    def check(self, data: Rows, k: int | str | None) -> None:
        """Raise ValueError if W of X does not fit; have row-aligned arrays lie in the folder of a file."""
        n = data.shape[0]
        if self.out is not None and data.backend.xp is not np:
            raise ValueError("out is for X on the CPU: leave it out, W is on the device.")
        if isinstance(self.out, np.ndarray) and self.out.shape != (n, self.out.shape[-1] if k == "auto" else k):
            raise ValueError(f"out has shape {self.out.shape}, but W has {n} rows and {k} columns.")
        if isinstance(self.out, np.ndarray) and not np.can_cast(data.dtype, self.out.dtype, "same_kind"):
            raise ValueError(f"out holds {self.out.dtype}, which cannot hold W: give an array of {data.dtype}.")
        if self.folder is not None:
            data.folder = Folder(self.folder)

    @contextmanager
    def held_by(self, W: Callable[[], Matrix]) -> Iterator[None]:
        """Fill the caller's array, if it is one, with what W returns when the block raises; no file is made then."""
        try:
            yield
        except BaseException:
            if isinstance(self.out, np.ndarray):
                self.out[:] = W()
            raise

    def filled(self, W: Matrix) -> Matrix:
        """Write W where it belongs, and return it."""
        if self.path is not None:
            with replacing(self.path) as file:
                np.lib.format.write_array(file, W, allow_pickle=False)
            return np.load(self.path, mmap_mode="r+")
        if self.out is not None:
            self.out[:] = W  # type: ignore[index]  # no path
            return self.out
        return W


def check_factor(A: Factor, shape: tuple[int | str, int | str], whom: str) -> Array:
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


def not_of_dask(**given: object) -> None:
    """Raise ValueError if one of these arguments is given: they are for an X that is no Dask array."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{name} is for X in memory or on disk, but X is a Dask array: leave it out. Its rows of W stay on the "
                "workers, which keep copies of them."
            )


def check_columns(solver: str, beta_loss: str | float, why_not: str) -> None:
    """Raise ValueError if an X of which the columns are solved for alone cannot be read by columns.

    Parameters
    ----------
    solver, beta_loss
        Parameters of the estimator, of which the solver reads X by columns, too.
    why_not : str
        See `nmfcore.rows.base.Rows.by_rows_only`; empty if it can be read.
    """
    if why_not:
        raise ValueError(
            f"solver={solver!r} with beta_loss={beta_loss!r} takes an array or a sparse matrix in the memory of the "
            f"CPU, without weights and without missing entries, but {why_not}: give such an X, or use solver='mu'."
        )


class Checks:
    """What `nmfcore.rows.open` checks of an X for an estimator.

    Parameters
    ----------
    estimator : estimator or None
        Gets ``n_features_in_`` and ``feature_names_in_``, or is compared with what it has; named in errors. None: X is
        checked alone.
    whom : str
        What the error for negative values says that X was passed to.
    reset : bool
        Whether the estimator gets its attributes anew.
    spreads, devices, partial : bool
        See `nmfcore.rows.Checks`.
    """

    masks = True
    read_by_columns: tuple[str, str | float] | None = None  # solver and loss of a fit that reads X by columns, too

    def __init__(
        self, estimator: Any, whom: str, reset: bool, spreads: bool = True, devices: bool = True, partial: bool = False
    ):  # fmt: skip
        self.estimator, self.whom, self.reset = estimator, whom, reset
        self.spreads, self.devices, self.partial = spreads, devices, partial
        self.who = "NMF" if estimator is None else type(estimator).__name__

    def array(self, X: Matrix) -> Matrix:
        """Return X as scikit-learn checks it, in its own type; finiteness is left to the pass over its numbers."""
        if self.estimator is None:
            check = partial(check_array, X)
        else:
            check = partial(validate_data, self.estimator, X, reset=self.reset)
        check = partial(check, accept_sparse=("csr", "csc"), dtype=READ_AS_THEY_ARE)
        try:
            X = check(ensure_all_finite=False)
        except ValueError:
            check()  # with finiteness in its place: the first error of scikit-learn is ours
            raise
        return X if X.dtype in READ_AS_THEY_ARE else X.astype(np.float64)  # mixed data frames come out as objects

    def place(self, device: bool) -> None:
        """Raise if X cannot be computed on where it is: NMF computes anywhere."""

    def by_columns(self, why_not: str) -> None:
        """Raise if X has to be read by columns, too, and cannot be."""
        if self.read_by_columns is not None:
            check_columns(*self.read_by_columns, why_not)

    def not_finite(self, nan: bool, dtype: np.dtype) -> None:
        """Raise scikit-learn's error for an X with NaN or infinity, which it words for an array that has some.

        With ``sklearn.config_context(assume_finite=True)`` nothing is raised, and results are not finite either.
        """
        if _compat.assumes_finite():
            return
        name = None if self.estimator is None else type(self.estimator).__name__
        found = np.array([np.nan if nan else np.inf], dtype)
        assert_all_finite(found, estimator_name=name, input_name="X" if name else "")
        raise AssertionError("scikit-learn accepts an array that is not finite")

    def negative(self) -> NoReturn:
        """Raise scikit-learn's error for an X with negative values."""
        check_non_negative(np.array([[-1.0]]), self.whom)
        raise AssertionError("scikit-learn accepts an array with negative values")
