"""Row-aligned buffers that lie in files."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .sources import Array


class Folder:
    """Makes arrays that lie in files without a name, so that the kernel may write them out instead of running short.

    Parameters
    ----------
    path : path-like
        A folder on the disk that has room for them.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return zeros in a new file, which goes when the array goes."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if not size:
            return np.zeros(shape, dtype)
        with tempfile.TemporaryFile(dir=self.path, prefix=".nmfcore-") as file:
            if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a signal in the middle of a pass
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                except OSError as error:  # some file systems cannot
                    if error.errno in (errno.ENOSPC, errno.EDQUOT):
                        raise
            return np.memmap(file, dtype, "w+", shape=shape).view(np.ndarray)

    def kept(self, A: Array) -> Array:
        """Return A if it lies in such a file already, else a copy that does."""
        base: Any = A
        while isinstance(base, np.ndarray):
            if isinstance(base, np.memmap) and A.flags.writeable:  # one that is not is another's
                return A
            base = base.base
        out = self.zeros(A.shape, A.dtype)
        out[:] = A
        return out

    def empty_like(self, A: Array) -> Array:
        """Return an array of A's shape and type in a new file."""
        return self.zeros(A.shape, A.dtype)
