"""What is given to `select_rank`: the estimator, X as rows, and what each repeat leaves out of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse
from sklearn.base import clone

from .. import _compat
from .._typing import Array, Matrix
from ..backends import cuda
from ..estimators import NMF
from ..estimators._halves import check_solver, opened_whole
from ..rows import Rows
from ..rows.masks import Hashed, Mask
from .bicross import Block
from .scattered import Scattered, check_share
from .splits import split

__all__ = ["TOL", "Given", "blocks", "estimator_of", "opened_for", "scattered"]

# Parameters of an estimator that are about one fit, with the value that they must have and what to do instead.
_OF_ONE_FIT = {
    "callback": "give select_rank a callback of its own",
    "checkpoint": "leave it out",
    "max_time": "give select_rank a max_time of its own",
    "feature_weight": "leave it out, as every column of a block counts as much",
}
# Of fits of the default estimator. MNIST, k of 20, 40, 60: 50 passes on the average instead of 56 with 1e-4, and test
# losses of 0.4407, 0.3904, 0.3623 instead of 0.4407, 0.3905, 0.3623.
TOL = 3e-4


def estimator_of(estimator: object) -> NMF:
    """Return a copy of the caller's estimator, whose parameters have been checked.

    Parameters
    ----------
    estimator : NMF or None
        None is ``NMF(solver="hals", tol=TOL)``.

    Returns
    -------
    model : NMF

    Raises
    ------
    ValueError
        If it is no `NMF`, or has parameters that are for one fit.
    """
    if estimator is None:
        return NMF(solver="hals", tol=TOL)
    if not isinstance(estimator, NMF):
        raise ValueError(
            f"estimator must be an NMF, with the parameters that the fits are to have, not {type(estimator).__name__}: "
            "whatever it is, the k that an NMF finds can be tried with it."
        )
    model: NMF = clone(estimator)
    _compat.check_parameters(model)
    for name, instead in _OF_ONE_FIT.items():
        if getattr(model, name) is not None:
            raise ValueError(f"the estimator has {name} = {getattr(model, name)!r}, which is for one fit: {instead}.")
    if model.init == "custom":
        raise ValueError("the estimator has init='custom', but blocks of X have no start of their own: give another.")
    check_solver(model)
    return model


def opened_for(X: Matrix, model: NMF, n_jobs: int | None) -> Rows:
    """Return X as rows, checked as the estimator checks it.

    Parameters
    ----------
    X : {array-like, sparse matrix, store}
    model : NMF
        It gets `n_jobs`.
    n_jobs : int or None
        None leaves that of the model.

    Returns
    -------
    data : Rows
    """
    cuda.resolve(model.device, None)  # raises if it names what does not work
    model.n_jobs = model.n_jobs if n_jobs is None else n_jobs
    opening: NMF = clone(model)
    opening.device, opening.n_components = (None if cuda.kind_of(X) is not None else "cpu"), 1
    return opened_whole(X, opening)


def _check_folds(shape: tuple[int, int], folds: tuple[int, int], groups: Array | None, tiles: Array | None) -> None:
    """Raise ValueError if there is not a row, group, column or tile for each fold."""
    names = (("rows", "groups"), ("columns", "tiles"))
    for count, parts, labels, (single, joint) in zip(shape, folds, (groups, tiles), names, strict=True):
        what, number = (single, count) if labels is None else (joint, int(labels.max()) + 1)
        if number < parts:
            raise ValueError(f"folds = {folds!r}: {parts} folds of {single} need {parts} {what}, but X has {number:,}.")


class Given(NamedTuple):
    """X, and what of it is used."""

    data: Rows
    rows_used: Array | None
    shape: tuple[int, int]  # of what is used
    of_rows: Array | None  # labels of rows that stay together
    of_columns: Array | None


def blocks(
    given: Given, wanted: Sequence[int] | None, folds: tuple[int, int], seeds: list[np.random.SeedSequence], model: NMF
) -> tuple[list[Block], int]:
    """Return the blocks that bicross-validation leaves out, and the largest k that they allow.

    Parameters
    ----------
    given : Given
    wanted : list of int or None
        The k to try, increasing.
    folds : tuple of (int, int)
        Numbers of folds of rows and of columns.
    seeds : list of SeedSequence
        One for each repeat.
    model : NMF
        Its `device` is set if X is on one.

    Returns
    -------
    cells : list of Block
        All folds of all repeats.
    most : int

    Raises
    ------
    ValueError
        If X has missing entries, or too few rows or columns.
    """
    data, rows_used, shape, of_rows, of_columns = given
    if data.masked:
        raise ValueError(
            "X has missing entries, which blocks of rows and columns cannot be predicted around: use method='holdout'."
        )
    _check_folds(shape, folds, of_rows, of_columns)
    splits = [split(shape, folds, of_rows, of_columns, each) for each in seeds]
    most = min(each.largest_k for each in splits)
    if wanted is not None and wanted[-1] > most:
        raise ValueError(
            f"k = {wanted[-1]} is larger than a block: with folds = {tuple(folds)!r} the largest k possible is {most}. "
            "Give smaller numbers, more folds, or more rows."
        )
    if data.backend.xp is not np:  # blocks are cut on the host, and computed on where X is
        model.device = f"cuda:{getattr(data, 'number', 0)}"
    X, _ = _in_memory(data, rows_used)
    return [Block(X, r, f, each) for r, each in enumerate(splits) for f in range(len(each.cells))], most


def scattered(
    given: Given, wanted: Sequence[int] | None, share: float, seeds: list[np.random.SeedSequence], model: NMF
) -> tuple[list[Scattered], int]:
    """Return the single entries that the repeats leave out, and the largest k.

    Parameters
    ----------
    given : Given
    wanted : list of int or None
        The k to try, increasing.
    share : float
        Of the entries, to be left out.
    seeds : list of SeedSequence
        One for each repeat.
    model : NMF

    Returns
    -------
    cells : list of Scattered
        One for each repeat.
    most : int

    Raises
    ------
    ValueError
        If k is larger than X allows, or if so small a share may leave nothing out.
    """
    data, rows_used, shape, of_rows, of_columns = given
    most, labels = min(shape), (of_rows, of_columns)
    if wanted is not None and wanted[-1] > most:
        raise ValueError(
            f"k = {wanted[-1]} is larger than X: with {shape[0]:,} rows and {shape[1]:,} columns the largest k possible"
            f" is {most}. Give smaller numbers, or more rows."
        )
    kinds = [count if label is None else int(label.max()) + 1 for count, label in zip(shape, labels, strict=True)]
    single = of_rows is None and of_columns is None
    check_share(share, math.prod(kinds), "entries" if single else "tiles of groups of rows")
    check_share(share, data.entries, "observed entries")
    rows, columns = (np.arange(count) if label is None else label for count, label in zip(shape, labels, strict=True))
    if rows_used is None and data.local and data.backend.xp is np:
        X, known = data.X, getattr(data, "mask", None)  # where it lies
    else:
        X, known = _in_memory(data, rows_used)
    cells = []
    for repeat, seed in enumerate(seeds):
        hashed = Hashed(int(seed.generate_state(1, np.uint64)[0]), share, rows, columns)
        cells.append(Scattered(X, known, repeat, hashed))
    return cells, most


def _in_memory(data: Rows, rows_used: Array | None) -> tuple[Matrix, Mask | None]:
    """Return the rows that are used as an array or a CSR matrix on the host, and their mask.

    Of an X in memory all rows are no copy.
    """
    here = data.local and data.in_memory and data.backend.xp is np
    if rows_used is None and here and not _is_mapped(data.X):
        return data.X, getattr(data, "mask", None)
    rows = data.take(np.arange(data.shape[0]) if rows_used is None else rows_used, None)
    taken: Matrix = rows.X
    if isinstance(taken, tuple):  # CSR on a device
        numbers, indices, indptr, shape = (cuda.to_host(part) if hasattr(part, "dtype") else part for part in taken)
        return sparse.csr_matrix((numbers, indices, indptr), shape=shape), None
    return taken if sparse.issparse(taken) else np.asarray(cuda.to_host(taken)), getattr(rows, "mask", None)


def _is_mapped(X: Matrix) -> bool:
    """Return whether an array is a view of a memory map."""
    while X is not None and not isinstance(X, np.memmap):
        X = getattr(X, "base", None)
    return X is not None
