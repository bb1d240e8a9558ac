"""Pictures decoded into a new .npy file instead of memory."""

from __future__ import annotations

import errno
import io
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from .._files import replacing
from .pictures import InputError, Shape


def check_new(target: Path) -> None:
    if target.suffix.lower() != ".npy":
        raise InputError(f"out must name a .npy file, got '{target}'")
    if os.path.lexists(target):
        raise InputError(f"'{target}' exists: choose another name, or remove it first")
    if not target.parent.is_dir():
        raise InputError(f"there is no folder '{target.parent}' to write to: create it first")


def decode_to_file(
    out: Path, decode: Callable[[np.ndarray], None], kept: list[int], rows: int, shape: Shape
) -> np.ndarray:
    """Let `decode` fill a memory-mapped .npy file, and move the rows that are `kept` together."""
    features = math.prod(shape)
    free = shutil.disk_usage(out.parent).free
    if rows * features > free:
        raise InputError(
            f"'{out}' would take {rows * features / 1e9:.1f} GB, its disk has {free / 1e9:.1f} GB free: "
            "give a smaller size, or another out"
        )
    with replacing(out) as file:
        header = _npy_header(rows, features)
        file.write(header)
        file.truncate(len(header) + rows * features)
        file.flush()
        _reserve(file, len(header) + rows * features)
        matrix = np.memmap(file.name, np.uint8, "r+", len(header), (rows, features))
        decode(matrix)
        if len(kept) < rows:
            for place, row in enumerate(kept):
                if place < row:
                    matrix[place] = matrix[row]
        matrix.flush()
        del matrix
        if len(kept) < rows:
            header = _npy_header(len(kept), features)
            file.seek(0)
            file.write(header)
            file.truncate(len(header) + len(kept) * features)
        check_new(out)  # the file may have appeared while pictures were decoded
    return cast(np.ndarray, np.load(out, mmap_mode="r", allow_pickle=False))


def _reserve(file: BinaryIO, size: int) -> None:
    """Reserve the space at once: writing to a memory map on a full disk ends the process instead of raising."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that cannot reserve
            raise


def _npy_header(rows: int, features: int) -> bytes:
    """Return the header of a .npy file of uint8; numpy pads it, so that its length is the same for any shape."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (rows, features)})
    return head.getvalue()
