"""Rows of an array that some library stores in chunks: HDF5, Zarr."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import numpy as np

from ..._files import reason
from ..._typing import Array
from ..memory import BLOCK_BYTES
from .sources import Read, ReadError, Source

if TYPE_CHECKING:
    from typing import Protocol

    class StoredArray(Protocol):
        """What a dataset of h5py and an array of zarr have in common."""

        @property
        def shape(self) -> tuple[int, ...] | None:
            """The sides of the array."""

        @property
        def ndim(self) -> int:
            """How many sides it has."""

        @property
        def dtype(self) -> np.dtype:
            """The type of its numbers."""

        def __getitem__(self, rows: slice, /) -> Array:
            """Read some rows."""


_SLAB_BYTES = 8 * BLOCK_BYTES  # chunks of more rows than that are not kept decompressed
_SPAN = 64 << 10  # bytes of an array without chunks that take about as long to read as a call of the library


class Stored(Source):
    """An array whose slices are read from a store: an h5py dataset, a Zarr array.

    Parameters
    ----------
    array : array-like
        With shape, dtype, and ``array[lo:hi]``. Chunks are decompressed once a pass, whatever their number of rows.
    hold : callable or None
        hold() gives a context in which the array can be read; None: at any time.
    fold : bool
        Whether an array of more dimensions is taken as one row for each sample.
    what : str
        What messages call it. "", the default: by its type.
    """

    def __init__(
        self,
        array: StoredArray,
        hold: Callable[[], AbstractContextManager[StoredArray]] | None = None,
        fold: bool = False,
        what: str = "",
    ):
        what = what or f"this {type(array).__name__} of {type(array).__module__.partition('.')[0]}"
        if array.shape is None:  # HDF5 has datasets without a shape
            msg = f"{what} is empty, it holds no numbers: name another."
            raise ValueError(msg)
        super().__init__(array.shape, array.dtype, what, fold)
        self._hold = hold or (lambda: nullcontext(array))
        chunks = getattr(array, "chunks", None)
        self._slab = int(chunks[0]) if chunks else 0  # rows of a chunk; 0: any rows can be had alone
        if self._slab * self.shape[1] * self.given.itemsize > _SLAB_BYTES:
            warnings.warn(
                f"{self.what} is stored in chunks of {self._slab:,} rows, which are decompressed anew for every block "
                "of rows: it is read much faster if you store it in chunks of fewer rows and all columns.",
                UserWarning,
                stacklevel=2,
            )
            self._slab = 0
        elif chunks:
            self.together = max(1, self._slab)
        else:
            self.together = max(1, _SPAN // max(1, self.shape[1] * self.dtype.itemsize))

    @contextmanager
    def opened(self, streams: int = 1) -> Iterator[Read]:
        """Hold the array open; a chunk of which some rows are still to be read is kept decompressed for its stream."""
        begun: OrderedDict[int, Array] = OrderedDict()  # by the next row of the stream

        with self._hold() as array:

            def rows_of(lo: int, hi: int) -> Array:
                try:
                    return np.asarray(array[lo:hi]).reshape(-1, self.shape[1])
                except MemoryError:
                    raise
                except Exception as error:  # of the library, its codecs, or the disk
                    msg = f"rows {lo:,} to {hi:,} of {self.what} cannot be read ({reason(error)})"
                    raise ReadError(msg) from error

            def read(lo: int, hi: int, out: Array) -> None:
                if not self._slab:
                    out[:] = rows_of(lo, hi)
                    return
                row, slab = lo, begun.pop(lo, None)
                while row < hi:
                    begin = row // self._slab * self._slab
                    last = min(hi, begin + self._slab)
                    if slab is None:
                        slab = rows_of(begin, min(begin + self._slab, self.shape[0]))
                    out[row - lo : last - lo] = slab[row - begin : last - begin]
                    if last % self._slab:
                        begun[last] = slab
                    row, slab = last, None
                while len(begun) > streams:
                    begun.popitem(last=False)

            yield read
