"""What rows outside of memory are read from, and streams of row blocks."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from ..._typing import Array
from ...backends.operations import STORED_TYPES
from ..memory import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, DTypeLike


class ReadError(OSError):
    """Rows of X could not be read; the message names X.

    Examples
    --------
    >>> from nmfcore.rows.disk import ReadError
    >>> issubclass(ReadError, OSError)
    True
    """


Read = Callable[[int, int, Array], None]  # read(lo, hi, out): rows lo … hi into out

SLACK = 4096  # bytes that a buffer has more than its rows, so that a source may choose their place in it


class Source:
    """A dense matrix outside of memory, with its shape, its type, and a method that reads rows.

    Attributes
    ----------
    shape : tuple of (int, int)
        Rows and columns.
    given : dtype
        The type of the stored numbers.
    dtype : dtype
        The type of the numbers in a buffer: `given`, or float64 where X in memory would become float64, too.
    bytes_read : int
        Bytes of X read so far, in the type of the store.
    sequential : bool
        Whether rows can be read only in order.
    row_by_row : bool
        Whether single rows cost little more than their bytes.
    together : int
        So many rows, from a multiple of this number on, cost hardly more than one of them: those of a chunk.
    sample : tuple of int or None
        The shape that a row has in the store, if it is folded.
    numbers : ndarray or None
        The numbers that the columns have for the caller, if they are some columns of another source.
    """

    sequential = False
    row_by_row = False
    numbers: Array | None = None

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike, what: str, fold: bool = False):
        self.what = what
        shape = tuple(int(side) for side in shape)
        self.sample = shape[1:] if fold and len(shape) > 2 else None
        self.shape: tuple[int, int] = _checked_shape((shape[0], math.prod(shape[1:])) if self.sample else shape, what)
        self.given = _checked_type(dtype, what)
        self.dtype = self.given if self.given in STORED_TYPES else np.dtype(np.float64)
        self.together = self._height
        self.bytes_read = 0
        self._counting = threading.Lock()

    @property
    def _height(self) -> int:
        """Rows of a block that is read at a time."""
        return max(1, BLOCK_BYTES // max(1, self.shape[1] * self.dtype.itemsize))

    def opened(self, streams: int = 1) -> AbstractContextManager[Read]:
        """Open the matrix and give read(lo, hi, out), which puts rows lo … hi into out, for one thread at a time.

        Parameters
        ----------
        streams : int
            In how many places at once rows will be read in order.
        """
        raise NotImplementedError

    def read(self, read: Read, lo: int, hi: int, out: Array) -> None:
        """Read rows by the function that `opened` gave, and count their bytes."""
        read(lo, hi, out)
        with self._counting:
            self.bytes_read += (hi - lo) * self.shape[1] * self.given.itemsize

    def read_all(self, read: Read, lo: int, hi: int, out: Array) -> None:
        """Read any number of rows, a block at a time."""
        for first in range(lo, hi, self._height):
            last = min(first + self._height, hi)
            self.read(read, first, last, out[first - lo : last - lo])

    def place(self, lo: int, hi: int, buffer: Array) -> Array:
        """Return the part of a buffer that rows lo … hi are read to; the buffer has SLACK bytes more than they need."""
        m = self.shape[1]
        return buffer[: (hi - lo) * m * self.dtype.itemsize].view(self.dtype).reshape(hi - lo, m)

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix in its own type."""
        return math.prod(self.shape) * self.given.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | Sequence[int] | Array) -> Array:
        """Return a copy of one row, or of some (a slice, or a list of numbers) in the order that is given."""
        numbers = np.arange(self.shape[0])[rows]
        wanted, at = np.unique(numbers, return_inverse=True)
        return self.take(wanted)[at.reshape(numbers.shape)]

    def take(self, rows: Array) -> Array:
        """Return a copy of the rows with these increasing numbers."""
        out = np.empty((len(rows), self.shape[1]), self.dtype)
        with self.opened() as read:
            if self.row_by_row:
                runs = [*np.flatnonzero(np.diff(rows, prepend=-2) != 1).tolist(), len(rows)]
                for first, last in itertools.pairwise(runs):  # runs of neighbouring rows
                    self.read(read, int(rows[first]), int(rows[last - 1]) + 1, out[first:last])
                return out
            buffer = np.empty((min(self._height, self.shape[0]), self.shape[1]), self.dtype)
            for begin, end in self._spans(rows):
                for lo in range(begin, end, self._height):
                    hi = min(lo + self._height, end)
                    first, last = np.searchsorted(rows, (lo, hi))
                    self.read(read, lo, hi, buffer[: hi - lo])
                    out[first:last] = buffer[rows[first:last] - lo]
        return out

    def _spans(self, rows: Array) -> list[tuple[int, int]]:
        """Return the first and last row of the parts of X that are read for the sake of some rows."""
        n = self.shape[0]
        if self.sequential or not len(rows):
            return [(0, n)] if self.sequential else []
        units = rows // self.together
        begins = np.flatnonzero(np.diff(units, prepend=units[0] - 2) > 1)
        ends = [*(begins[1:] - 1).tolist(), len(rows) - 1]
        return [
            (int(units[first]) * self.together, min((int(units[last]) + 1) * self.together, n))
            for first, last in zip(begins.tolist(), ends, strict=True)
        ]


def _checked_shape(shape: tuple[int, ...], what: str) -> tuple[int, int]:
    if len(shape) != 2:
        msg = f"{what} has shape {shape}: expected two dimensions, samples and features. Reshape your data."
        raise ValueError(msg)
    return shape[0], shape[1]


def _checked_type(dtype: DTypeLike, what: str) -> np.dtype:
    dtype = np.dtype(dtype)
    if dtype.names:
        msg = f"{what} holds records of {len(dtype.names):,} fields: expected real numbers (bool, integers or floats)."
        raise ValueError(msg)
    if dtype.kind == "c":
        msg = f"Complex data not supported\n{what} holds {dtype}\n"
        raise ValueError(msg)
    if dtype.kind not in "buif":
        msg = f"{what} holds {dtype}: expected real numbers (bool, integers or floats)."
        raise ValueError(msg)
    return dtype


class RowBlocks(Source):
    """A matrix that comes as a stream of row blocks, anew for every pass.

    Parameters
    ----------
    blocks : callable
        ``blocks()`` returns an iterable of 2-D arrays of `dtype` with m columns and any number of rows, in order; n
        rows together, and the same ones each time. It is called once for every pass over X, and runs in a thread that
        reads ahead. An iterator with a ``close`` method (any generator) is closed when its pass ends.
    shape : tuple of (int, int)
        n and m.
    dtype : dtype
        Type of the numbers: bool, integers or floats.

    Raises
    ------
    TypeError
        If `blocks` is not callable.
    ValueError
        If `shape` or `dtype` are not those of a matrix of real numbers; during a pass, if blocks have another width or
        type, or do not have n rows together.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore import NMF, RowBlocks
    >>> X = np.random.default_rng(0).random((1000, 8))
    >>> def batches():
    ...     for first in range(0, 1000, 300):
    ...         yield X[first : first + 300]
    >>> stream = RowBlocks(batches, X.shape, X.dtype)
    >>> model = NMF(3, init="random", random_state=0, max_iter=5, tol=0).fit(stream)
    >>> same = NMF(3, init="random", random_state=0, max_iter=5, tol=0).fit(X)
    >>> bool(np.array_equal(model.components_, same.components_))
    True
    """

    __module__ = "nmfcore"  # the name that is imported
    sequential = True

    def __init__(self, blocks: Callable[[], Iterable[ArrayLike]], shape: tuple[int, int], dtype: DTypeLike):
        given: object = blocks
        if not callable(given):
            msg = (
                f"RowBlocks takes a function that returns an iterable of row blocks, not a {type(given).__name__}: "
                "every pass over X calls it anew. For a list of blocks: lambda: blocks."
            )
            raise TypeError(msg)
        super().__init__(shape, dtype, "RowBlocks")
        self.blocks = blocks

    @contextmanager
    def opened(self, streams: int = 1) -> Iterator[Read]:
        """Begin a pass over the stream."""
        stream = iter(self.blocks())
        block, begin, end = np.empty((0, self.shape[1]), self.given), 0, 0  # rows begin … end of X

        def advance() -> bool:
            nonlocal block, begin, end
            for each in stream:
                block = self._checked(each, end)
                begin, end = end, end + len(block)
                if begin < end:
                    return True
            return False

        def read(lo: int, hi: int, out: Array) -> None:
            while lo < hi:
                if lo >= end and not advance():
                    self._refuse(f"gave {end:,} rows in this pass")
                last = min(hi, end)
                out[: last - lo] = block[lo - begin : last - begin]
                out, lo = out[last - lo :], last
            if hi == self.shape[0] and (end > hi or advance()):
                self._refuse(f"gave more than {hi:,} rows in this pass")

        try:
            yield read
        finally:
            close = getattr(stream, "close", None)
            if close is not None:
                close()

    def _checked(self, block: ArrayLike, first: int) -> Array:
        block = np.asarray(block)
        if block.ndim != 2 or block.shape[1] != self.shape[1]:
            self._refuse(f"gave a block of shape {block.shape} at row {first:,}")
        if block.dtype != self.given:
            self._refuse(f"gave a block of {block.dtype} at row {first:,}")
        return block

    def _refuse(self, found: str) -> NoReturn:
        n, m = self.shape
        msg = (
            f"the function of RowBlocks {found}; it was said to give {n:,} rows of {m:,} numbers, {self.given}: "
            "every call must give the same rows."
        )
        raise ValueError(msg)
