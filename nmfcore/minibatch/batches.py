"""X cut into batches of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from sklearn.utils import check_random_state

from .._typing import Array
from ..rows.memory import MemoryRows, as_rows

if TYPE_CHECKING:
    from .._typing import DType, Matrix, Seed
    from ..rows.base import Rows

# Flops that make a lane of a batch, fewer than usual: a batch is all the work of a step, and is shared among threads
# even if it is small. An epoch over batches of 1,024 × 784 with k = 15 takes 0.84 of the time on two threads.
LANE_WORK = 2.5e7
# A dense X of more than `LARGE` bytes may be a memory map that is read from disk. Its shuffled batches are made of runs
# of `RUN` bytes, or of an eighth of their rows if that is less; those of a smaller X are made of single rows.
LARGE = 2**30
RUN = 2**16


def cut(
    X: Matrix, size: int, dtype: DType, n_jobs: int | None = None, power: int = 0
) -> tuple[list[slice], list[Rows]]:
    """Cut X into contiguous batches of `size` rows; none of its numbers is copied.

    Parameters
    ----------
    X : ndarray, CSR or CSC matrix of shape (n, m)
        Validated; CSC is converted to CSR once.
    size : int
        Rows per batch; the last one may have fewer.
    dtype : numpy.float32 or numpy.float64
        Compute type.
    n_jobs : int or None
        Number of threads. None is the usual number, see `nmfcore.rows.threads.effective_threads`.
    power : int
        The batches are those of 4^power·X. Defaults to 0.

    Returns
    -------
    slices : list of slice
        The rows of each batch.
    batches : list of Rows
        The batches. They share accumulators, so that only one of them may be visited at a time.
    """
    n = X.shape[0]
    slices = [slice(lo, min(lo + size, n)) for lo in range(0, n, size)]
    if not sparse.issparse(X):
        batches = [as_rows(X[rows], dtype, n_jobs, LANE_WORK).scaled(power) for rows in slices]
        return slices, [batch.sharing_sums(batches[0]) for batch in batches]
    X = X.tocsr()
    batches = []
    for rows in slices:
        first, last = X.indptr[rows.start], X.indptr[rows.stop]
        parts = (X.data[first:last], X.indices[first:last], X.indptr[rows.start : rows.stop + 1])
        shape = (rows.stop - rows.start, X.shape[1])
        batch = type(X)((parts[0], parts[1], parts[2] - first), shape=shape, copy=False)
        batches.append(as_rows(batch, dtype, n_jobs, LANE_WORK).scaled(power))
    return slices, [batch.sharing_sums(batches[0]) for batch in batches]


class Gathered(Sequence["Rows"]):
    """Batches of rows from all over X. A batch is copied from X each time it is taken, and is not kept."""

    def __init__(self, X: Matrix, parts: Sequence[Array], dtype: DType, n_jobs: int | None, power: int = 0):
        self.X, self.parts, self.dtype, self.n_jobs, self.power = X, parts, dtype, n_jobs, power
        self.first: MemoryRows | None = None

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> Rows:  # type: ignore[override]
        batch = as_rows(self.X[self.parts[number]], self.dtype, self.n_jobs, LANE_WORK).scaled(self.power)
        if self.first is None:  # of no rows: it only holds the accumulators
            self.first = as_rows(self.X[:0], self.dtype, self.n_jobs, LANE_WORK)
        return batch.sharing_sums(self.first)


def cut_shuffled(
    X: Matrix, size: int, dtype: DType, n_jobs: int | None = None, random_state: Seed = None, power: int = 0
) -> tuple[list[Array], Gathered]:
    """Cut X into batches of at most `size` rows, each of which has rows from all over X.

    Of as many neighbouring rows as there are batches, each batch gets one at random. So batches are alike whatever the
    order of the rows, more so than batches of rows that are drawn without regard to their place.

    Parameters
    ----------
    X : ndarray, CSR or CSC matrix of shape (n, m)
        Validated; CSC is converted to CSR once.
    size : int
        Maximum number of rows per batch; batches differ by at most one row.
    dtype : numpy.float32 or numpy.float64
        Compute type.
    n_jobs : int or None
        Number of threads. None is the usual number, see `nmfcore.rows.threads.effective_threads`.
    random_state : int, RandomState or None
        Draws the batches.
    power : int
        The batches are those of 4^power·X. Defaults to 0.

    Returns
    -------
    parts : list of ndarray of int
        The rows of each batch, increasing.
    batches : Gathered
        The batches. They share accumulators, so that only one of them may be visited at a time.
    """
    if sparse.issparse(X):
        X = X.tocsr()
    n, count = X.shape[0], -(-X.shape[0] // size)
    run = 1
    if not sparse.issparse(X) and X.nbytes > LARGE:
        run = max(1, min(RUN * n // X.nbytes, size // 8))
    runs = -(-n // run)
    batch_of = check_random_state(random_state).random_sample((-(-runs // count), count)).argsort(axis=1).ravel()
    order = np.argsort(np.repeat(batch_of[:runs], run)[:n], kind="stable")
    parts = [np.sort(part) for part in np.array_split(order, count)]
    return parts, Gathered(X, parts, dtype, n_jobs, power)
