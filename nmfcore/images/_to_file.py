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


def mask_beside(target: Path) -> Path:
    """Return the file that holds the mask of the pictures in `target`."""
    return target.with_name(f"{target.stem}.mask.npy")


def decode_to_file(
    out: Path,
    decode: Callable[[np.ndarray, np.ndarray | None], bool],
    kept: list[int],
    rows: int,
    shape: Shape,
    masks: bool,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Let `decode` fill a memory-mapped .npy file, and move the rows that are `kept` together.

    With `masks`, it fills a file with their mask, too, which is left only if `decode` says that pixels are masked.
    """
    features = math.prod(shape)
    needed, free = rows * features * (1 + masks), shutil.disk_usage(out.parent).free
    if needed > free:
        raise InputError(
            f"'{out}' would take {needed / 1e9:.1f} GB, its disk has {free / 1e9:.1f} GB free: "
            "give a smaller size, or another out"
        )
    beside, some = mask_beside(out), False

    def decode_both(matrix: np.ndarray) -> None:
        def decode_with(mask: np.ndarray | None) -> None:
            nonlocal some
            some = decode(matrix, mask)

        if not masks:
            decode_with(None)
            return
        _fill(beside, decode_with, kept, rows, features, np.dtype(bool))
        if not some:
            beside.unlink()

    try:
        _fill(out, decode_both, kept, rows, features, np.dtype(np.uint8))
    except BaseException:
        if some:  # the mask was complete before the pictures were
            beside.unlink(missing_ok=True)
        raise
    return _mapped(out), _mapped(beside) if some else None


def _fill(
    out: Path, fill: Callable[[np.ndarray], None], kept: list[int], rows: int, features: int, dtype: np.dtype
) -> None:
    """Let `fill` fill a new memory-mapped .npy file of zeros, and move the rows that are `kept` together."""
    with replacing(out) as file:
        header = _npy_header(rows, features, dtype)
        file.write(header)
        file.truncate(len(header) + rows * features)
        file.flush()
        _reserve(file, len(header) + rows * features)
        matrix = np.memmap(file.name, dtype, "r+", len(header), (rows, features))
        fill(matrix)
        if len(kept) < rows:
            for place, row in enumerate(kept):
                if place < row:
                    matrix[place] = matrix[row]
        matrix.flush()
        del matrix
        if len(kept) < rows:
            header = _npy_header(len(kept), features, dtype)
            file.seek(0)
            file.write(header)
            file.truncate(len(header) + len(kept) * features)
        check_new(out)  # the file may have appeared while pictures were decoded


def _mapped(out: Path) -> np.ndarray:
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


def _npy_header(rows: int, features: int, dtype: np.dtype) -> bytes:
    """Return the header of a .npy file; numpy pads it, so that its length is the same for any shape."""
    head = io.BytesIO()
    header = {"descr": dtype.str, "fortran_order": False, "shape": (rows, features)}
    np.lib.format.write_array_header_1_0(head, header)
    return head.getvalue()
