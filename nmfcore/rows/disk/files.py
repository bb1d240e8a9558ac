"""Rows of a .npy file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..._files import FileFault, check_regular, npy_header
from ..._typing import Array
from .direct import aligned, open_bytes, outgrows_cache
from .sources import SLACK, Read, Source


class NpyFile(Source):
    """The array of a ``.npy`` file, C-contiguous; rows are read by the file's own calls, not through a mapping.

    Parameters
    ----------
    path : path-like
        The file. It is opened for each pass and closed after it.
    fold : bool
        Whether an array of more dimensions is taken as one row for each sample.
    direct : bool or None
        Whether blocks go from the disk into our buffers past the kernel's cache, where the system offers it. None: if
        the array is larger than half of the memory of this machine, or of its container.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no ``.npy`` file of real numbers in rows and columns.
    """

    row_by_row = True

    def __init__(self, path: str | os.PathLike[str], fold: bool = False, direct: bool | None = None):
        self.path = Path(path)
        try:
            check_regular(self.path)
            with open(self.path, "rb") as file:
                header = npy_header(file, os.fstat(file.fileno()).st_size)
        except FileFault as fault:
            msg = f"'{self.path}' {fault}"
            raise ValueError(msg) from fault
        self.columns_first, self._offset = header.fortran, header.offset
        super().__init__(header.shape, header.dtype, f"'{self.path}'", fold)
        self._width = self.shape[1] * self.given.itemsize
        self.direct = outgrows_cache(self.nbytes) if direct is None else direct

    def place(self, lo: int, hi: int, buffer: Array) -> Array:
        """Where the disk can put rows lo … hi by itself."""
        start, size = self._offset + lo * self._width, (hi - lo) * self.shape[1] * self.dtype.itemsize
        if not self.direct or self.given != self.dtype or start % self.dtype.itemsize:
            return super().place(lo, hi, buffer)
        return aligned(buffer, size, start).view(self.dtype).reshape(hi - lo, self.shape[1])

    @contextmanager
    def opened(self, streams: int = 1) -> Iterator[Read]:
        """Open the file."""
        with open_bytes(self.path, self.direct) as fill:

            def read(lo: int, hi: int, out: Array) -> None:
                start = self._offset + lo * self._width
                if self.given == self.dtype:
                    fill(start, out.reshape(-1).view(np.uint8))
                else:
                    size = out.size * self.given.itemsize
                    raw = aligned(np.empty(size + SLACK, np.uint8), size, start)
                    fill(start, raw)
                    out[:] = raw.view(self.given).reshape(out.shape)

            yield read
