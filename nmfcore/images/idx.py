"""IDX files, MNIST's format.

Two zero bytes, a type, the number of dimensions, one big-endian uint32 per dimension, then the numbers.
"""

from __future__ import annotations

import gzip
import math
import os
from pathlib import Path

import numpy as np

from .._files import DEFLATE, FileFault, check_memory, faults
from ._shared import filled, folded, is_gzip, open_binary, sentences
from .pictures import InputError, Pictures

__all__ = ["read_idx"]

IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | os.PathLike[str]) -> Pictures:
    """Read an IDX file of pictures, MNIST's format; an unpacked one is memory-mapped.

    Parameters
    ----------
    path : path-like
        The pictures, packed with gzip or not. A file beside it that is named as MNIST names its
        labels (``train-images-idx3-ubyte.gz`` → ``train-labels-idx1-ubyte.gz``) is read too.

    Returns
    -------
    Pictures
        ``matrix`` has shape (n_pictures, height·width) in the file's type.

    Raises
    ------
    InputError
        When the file is damaged or does not hold pictures, or the labels beside it do not match it.

    Examples
    --------
    >>> import tempfile, pathlib, struct
    >>> from nmfcore.images import read_idx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder) / "two-images-idx3-ubyte"
    ...     _ = file.write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 2, 1, 3) + bytes(range(6)))
    ...     read_idx(file).matrix.tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    path = Path(path)
    with sentences(path):
        return _read_idx(path)


def _read_idx(path: Path) -> Pictures:
    pixels = _idx_array(path)
    if pixels.ndim == 1:
        raise InputError(f"'{path}' holds one number per sample (labels?), not pictures: give the file with the images")
    shape = folded(pixels.shape, path)
    matrix = filled(pixels.reshape(len(pixels), math.prod(pixels.shape[1:])), path)
    labels = None
    beside = _labels_beside(path)
    if beside is not None:
        labels = _idx_array(beside)
        if labels.shape != (len(matrix),):
            raise InputError(
                f"'{beside}' holds {len(labels)} labels but '{path.name}' {len(matrix)} pictures: "
                "they do not belong together, so move or rename one of them"
            )
    return Pictures(matrix, shape, None, labels, str(path))


def _idx_header(path: Path) -> tuple[np.dtype, tuple[int, ...]] | None:
    """Type and shape, or None when this is no IDX file."""
    try:
        with faults(), open_binary(path) as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in IDX_TYPES or not 1 <= magic[3] <= 4:
                return None
            sizes = file.read(4 * magic[3])
            if len(sizes) < 4 * magic[3]:
                return None
    except FileFault:  # of another kind, or damaged so early that its kind cannot be told
        return None
    return np.dtype(IDX_TYPES[magic[2]]), tuple(int(size) for size in np.frombuffer(sizes, ">u4"))


def _idx_array(path: Path) -> np.ndarray:
    header = _idx_header(path)
    if header is None:
        raise InputError(f"'{path}' is not an IDX file, or its header is damaged: fetch it again")
    dtype, shape = header
    offset, count = 4 + 4 * len(shape), math.prod(shape)
    promised = count * dtype.itemsize
    stored = path.stat().st_size
    damaged = InputError(
        f"'{path}' is damaged: its header promises {promised:,} bytes of numbers, {shape}, and "
        "the file does not hold just that: fetch it again"
    )
    if not is_gzip(path):
        if stored - offset != promised:
            raise damaged
        if dtype.itemsize == 1 and count:
            return np.memmap(path, dtype.newbyteorder("="), "r", offset, shape)
        return np.fromfile(path, dtype, count, offset=offset).astype(dtype.newbyteorder("=")).reshape(shape)
    if promised > DEFLATE * stored:  # more than deflate can pack
        raise damaged
    check_memory(promised)
    numbers = np.empty(count, dtype)  # memory that was checked above
    view = memoryview(numbers.view(np.uint8))  # type: ignore[arg-type]
    try:
        with faults(), gzip.open(path, "rb") as file:
            file.read(offset)
            filled = 0
            while filled < promised and (got := file.readinto(view[filled : filled + (1 << 20)])):
                filled += got
            whole = filled == promised and not file.read(1)
    except FileFault as fault:
        raise damaged from fault
    if not whole:
        raise damaged
    return numbers.astype(dtype.newbyteorder("="), copy=False).reshape(shape)


def _labels_beside(path: Path) -> Path | None:
    if "images" not in path.name:
        return None
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    plain = name.removesuffix(".gz")
    for candidate in (name, plain, plain + ".gz"):
        if (beside := path.with_name(candidate)).is_file():
            return beside
    return None
