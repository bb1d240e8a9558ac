"""X cut into batches of rows, wherever it lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from sklearn.utils import check_random_state

from .._typing import Array
from ..rows.disk import MEMORY, Source, parse_bytes
from ..rows.memory import MemoryRows, as_rows

if TYPE_CHECKING:
    from .._typing import DType, Matrix, Seed
    from ..rows.base import Rows
    from ..rows.disk import Read

# Flops that make a lane of a batch, fewer than usual: a batch is all the work of a step, and is shared among threads
# even if it is small. An epoch over batches of 1,024 × 784 with k = 15 takes 0.84 of the time on two threads.
LANE_WORK = 2.5e7
# A dense X of more than `LARGE` bytes may be a memory map that is read from disk. Its shuffled batches are made of runs
# of `RUN` bytes, or of an eighth of their rows if that is less; those of a smaller X are made of single rows.
LARGE = 2**30
RUN = 2**16


class Batches(Sequence["Rows"]):
    """Batches of rows, which are taken in turn, over and over. Only one of them may be visited at a time."""

    def close(self) -> None:
        """Free what is held of X; batches can be taken again after it."""


class Kept(Batches):
    """Batches that lie in memory."""

    def __init__(self, batches: list[MemoryRows]):
        self._batches = [batch.sharing_sums(batches[0]) for batch in batches]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> Rows:  # type: ignore[override]
        return self._batches[number]


def cut(X: Matrix, size: int, dtype: DType, n_jobs: int | None = None, power: int = 0) -> tuple[list[slice], Batches]:
    """Cut X into contiguous batches of `size` rows; no number of an X in memory is copied.

    Parameters
    ----------
    X : ndarray, CSR or CSC matrix, or Source, of shape (n, m)
        Validated; CSC is converted to CSR once. Batches of a Source are read when they are taken, see `InTurn`.
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
    batches : Batches
        They share accumulators, so that only one of them may be visited at a time.
    """
    n = X.shape[0]
    slices = [slice(lo, min(lo + size, n)) for lo in range(0, n, size)]
    if isinstance(X, Source):
        return slices, InTurn(X, slices, dtype, n_jobs, power)
    if not sparse.issparse(X):
        batches = [as_rows(X[rows], dtype, n_jobs, LANE_WORK).scaled(power) for rows in slices]
        return slices, Kept(batches)
    X = X.tocsr()
    batches = []
    for rows in slices:
        first, last = X.indptr[rows.start], X.indptr[rows.stop]
        parts = (X.data[first:last], X.indices[first:last], X.indptr[rows.start : rows.stop + 1])
        shape = (rows.stop - rows.start, X.shape[1])
        batch = type(X)((parts[0], parts[1], parts[2] - first), shape=shape, copy=False)
        batches.append(as_rows(batch, dtype, n_jobs, LANE_WORK).scaled(power))
    return slices, Kept(batches)


class Gathered(Batches):
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


class _OfStore(Batches):
    """Batches of an X outside of memory. A batch is read each time it is taken, and is not kept."""

    def __init__(self, X: Source, parts: Sequence[slice | Array], dtype: DType, n_jobs: int | None, power: int):
        self.X, self.parts, self.dtype, self.n_jobs, self.power = X, parts, dtype, n_jobs, power
        self._accumulators = self._rows(np.empty((0, X.shape[1]), X.dtype))

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> Rows:  # type: ignore[override]
        return self._rows(self._read(number)).scaled(self.power).sharing_sums(self._accumulators)

    def _rows(self, X: Array) -> MemoryRows:
        return as_rows(X, self.dtype, self.n_jobs, LANE_WORK)

    def _read(self, number: int) -> Array:
        """Return a copy of the rows of a batch."""
        raise NotImplementedError


class InTurn(_OfStore):
    """Contiguous batches of an X outside of memory, one of which is in memory at a time.

    X is held open from the first batch to the last, so that a stream goes on, and that a chunk that two batches share
    is decompressed once.
    """

    parts: Sequence[slice]

    def __init__(self, X: Source, parts: Sequence[slice], dtype: DType, n_jobs: int | None, power: int):
        super().__init__(X, parts, dtype, n_jobs, power)
        self._held = ExitStack()
        self._next = 0
        self._reader: Read | None = None

    def _read(self, number: int) -> Array:
        rows = self.parts[number]
        if number != self._next:
            return self.X.take(np.arange(rows.start, rows.stop))
        if self._reader is None:
            self._reader = self._held.enter_context(self.X.opened())
        out = np.empty((rows.stop - rows.start, self.X.shape[1]), self.X.dtype)
        self.X.read_all(self._reader, rows.start, rows.stop, out)
        self._next = number + 1
        if self._next == len(self.parts):
            self.close()
        return out

    def close(self) -> None:
        """Close X."""
        self._next, self._reader = 0, None
        self._held.close()


class GatheredFromStore(_OfStore):
    """Batches of rows from all over an X outside of memory.

    Where single rows are dear, because the store keeps them in chunks or they come in a stream, as many batches are
    gathered from one pass over these chunks as the budget allows.
    """

    parts: Sequence[Array]

    def __init__(self, X: Source, parts: Sequence[Array], dtype: DType, n_jobs: int | None, power: int, memory: int):
        super().__init__(X, parts, dtype, n_jobs, power)
        size = max(1, max(map(len, parts)) * X.shape[1] * X.dtype.itemsize)
        self._at_once = 1 if X.row_by_row else max(1, memory // size - 1)  # one is copied for its step
        self._group = range(0)
        self._rows_held = self._held = np.empty(0)

    def _read(self, number: int) -> Array:
        rows = self.parts[number]
        if self._at_once == 1:
            return self.X.take(rows)
        if number not in self._group:
            self.close()  # before others take its place
            group = range(number, min(number + self._at_once, len(self.parts)))
            self._rows_held = np.sort(np.concatenate([self.parts[each] for each in group]))
            self._held = self.X.take(self._rows_held)
            self._group = group
        return self._held[np.searchsorted(self._rows_held, rows)]

    def close(self) -> None:
        """Free the batches that were gathered together."""
        self._group, self._rows_held, self._held = range(0), np.empty(0), np.empty(0)


def cut_shuffled(
    X: Matrix,
    size: int,
    dtype: DType,
    n_jobs: int | None = None,
    random_state: Seed = None,
    power: int = 0,
    memory: int | str | None = None,
) -> tuple[list[Array], Batches]:
    """Cut X into batches of at most `size` rows, each of which has rows from all over X.

    Of as many neighbouring rows as there are batches, each batch gets one at random. So batches are alike whatever the
    order of the rows, more so than batches of rows that are drawn without regard to their place.

    Parameters
    ----------
    X : ndarray, CSR or CSC matrix, or Source, of shape (n, m)
        Validated; CSC is converted to CSR once. Batches of a Source are read, see `GatheredFromStore`.
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
    memory : int, str or None
        Bytes of a Source that may be in memory at a time, see `parse_bytes`; None is `MEMORY`. One batch always may.

    Returns
    -------
    parts : list of ndarray of int
        The rows of each batch, increasing.
    batches : Batches
        They share accumulators, so that only one of them may be visited at a time.
    """
    if sparse.issparse(X):
        X = X.tocsr()
    n, count = X.shape[0], -(-X.shape[0] // size)
    run, nbytes = 1, math.prod(X.shape) * X.dtype.itemsize  # of a Source in the type that it has in memory
    if not sparse.issparse(X) and nbytes > LARGE:
        run = max(1, min(RUN * n // nbytes, size // 8))
    runs = -(-n // run)
    batch_of = check_random_state(random_state).random_sample((-(-runs // count), count)).argsort(axis=1).ravel()
    order = np.argsort(np.repeat(batch_of[:runs], run)[:n], kind="stable")
    parts = [np.sort(part) for part in np.array_split(order, count)]
    if isinstance(X, Source):
        return parts, GatheredFromStore(X, parts, dtype, n_jobs, power, parse_bytes(memory or MEMORY))
    return parts, Gathered(X, parts, dtype, n_jobs, power)
