"""Row-aligned buffers that lie in files."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..._typing import Array

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


class Folder:
    """Makes arrays in files without a name, which the system can write to the disk where memory runs short.

    Parameters
    ----------
    path : path-like
        A folder on the disk that has room for them.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Return zeros in a new file, which is deleted with the array."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if not size:
            return np.zeros(shape, dtype)
        with tempfile.TemporaryFile(dir=self.path, prefix=".nmfcore-") as file:
            if hasattr(os, "posix_fallocate"):  # so that a full disk is an error here, not a signal during a pass
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                except OSError as error:  # a file system that cannot reserve space
                    if error.errno in (errno.ENOSPC, errno.EDQUOT):
                        raise
            return np.memmap(file, dtype, "w+", shape=shape).view(np.ndarray)

    def kept(self, A: Array) -> Array:
        """Return A if it lies in such a file already, else a copy that does."""
        base: object = A
        while isinstance(base, np.ndarray):
            if isinstance(base, np.memmap) and A.flags.writeable:  # a read-only one belongs to the caller
                return A
            base = base.base
        out = self.zeros(A.shape, A.dtype)
        out[:] = A
        return out

    def empty_like(self, A: Array) -> Array:
        """Return an array of A's shape and type in a new file."""
        return self.zeros(A.shape, A.dtype)
