"""What the readers of files share: packed files, faults in sentences, and what shape a row of numbers folds to."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from .._files import FileFault, check_regular
from .pictures import InputError, Shape


@contextmanager
def sentences(path: Path) -> Iterator[None]:
    """Name the file in what is wrong with it."""
    try:
        yield
    except FileFault as fault:
        raise InputError(f"'{path}' {fault}") from fault


def is_gzip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def open_binary(path: Path) -> BinaryIO:
    check_regular(path)
    return cast(BinaryIO, gzip.open(path, "rb")) if is_gzip(path) else open(path, "rb")


def filled(matrix: np.ndarray, path: Path) -> np.ndarray:
    if 0 in matrix.shape:
        raise InputError(f"'{path}' is empty: it holds {matrix.shape[0]} samples of {matrix.shape[1]} features")
    return matrix


def folded(shape: tuple[int, ...], path: Path) -> Shape | None:
    """Return the picture shape of an array of samples."""
    if len(shape) == 2:
        return square(shape[1])
    if len(shape) == 3 or (len(shape) == 4 and shape[3] == 1):
        return shape[1:3]
    if len(shape) == 4 and shape[3] == 3:
        return shape[1:]
    raise InputError(
        f"'{path}' holds an array of shape {shape}: expected samples × features, pictures × rows × columns, "
        "or pictures × rows × columns × 3"
    )


def square(features: int) -> tuple[int, int] | None:
    side = math.isqrt(features)
    return (side, side) if side * side == features and side > 1 else None


def size_text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
