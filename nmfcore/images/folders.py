"""Folders of pictures, decoded by several threads into one matrix."""

from __future__ import annotations

import itertools
import math
import os
import re
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ._decoding import Broken, Mode, check_mode, decode_picture, is_picture, pillow
from ._progress import Progress, showing
from ._shared import size_text
from ._to_file import check_new, decode_to_file
from .pictures import InputError, Pictures, Shape

__all__ = ["load_images"]

_PER_TASK = 32  # pictures decoded per task of the thread pool


def load_images(
    folder: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    mode: Mode = "L",
    skip_broken: bool = False,
    progress: Progress | bool | None = True,
    *,
    out: str | os.PathLike[str] | None = None,
) -> Pictures:
    """Decode a folder of pictures into one uint8 matrix, grey or in colour.

    Files are taken in natural order (``2.jpg`` before ``10.jpg``), turned upright as their EXIF
    data says, and converted to 8 bits. Files without a picture's suffix, hidden files and
    subfolders are passed over.

    Parameters
    ----------
    folder : path-like
        Folder with picture files.
    size : tuple of (height, width) or None
        Size of every picture, whatever its proportions. None takes the first picture's size;
        pictures of another size but the same proportions (within 2 %) are resized to it, others
        are errors: resizing would distort them.
    mode : {"L", "RGB"}
        Grey, or red, green and blue.
    skip_broken : bool
        Leave out pictures that cannot be decoded, or would be distorted, and name them in
        ``skipped``.
    progress : callable(done, total), bool or None
        A callable is called in the calling thread with the number of pictures done. True shows a
        bar on a terminal and in a notebook, if rich is installed.
    out : path-like or None
        A ``.npy`` file to hold the matrix instead of memory; it must not exist yet. It is written
        beside and renamed when it is complete, and ``matrix`` is then a read-only memory map of it.

    Returns
    -------
    Pictures
        ``matrix`` has shape (n_pictures, height·width), and ``shape`` is (height, width); in colour
        (n_pictures, height·width·3) and (height, width, 3). uint8.

    Raises
    ------
    InputError
        When the folder is missing or holds no picture, a picture is broken or of other
        proportions, or `out` exists or there is no room for it.
    ValueError
        When the mode is neither of the two.
    ImportError
        When Pillow is missing.
    OSError
        When `out` cannot be written; nothing is left of it then.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from PIL import Image
    >>> from nmfcore.images import load_images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for number in (10, 2):
    ...         Image.new("L", (6, 4), number).save(pathlib.Path(folder) / f"{number}.png")
    ...     pictures = load_images(folder)
    ...     colour = load_images(folder, mode="RGB")
    >>> pictures.names, pictures.shape, pictures.matrix[:, 0].tolist()
    (('2.png', '10.png'), (4, 6), [2, 10])
    >>> colour.shape, colour.matrix.shape
    ((4, 6, 3), (2, 72))
    """
    check_mode(mode)
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise InputError(f"there is no folder '{root}': check the path")
    files = sorted((file for file in root.iterdir() if is_picture(file)), key=lambda file: _natural(file.name))
    if not files:
        raise InputError(_empty_folder(root))
    if size is not None and min(size) < 1:
        raise InputError(f"size must be at least 1x1 pixels, got {size_text(size)}")
    target = None if out is None else Path(out).expanduser()
    if target is not None:
        check_new(target)

    with warnings.catch_warnings(), showing(progress) as show:
        warnings.filterwarnings("ignore", module=r"PIL\b")  # remarks on metadata; what matters becomes an error below
        warnings.simplefilter("error", pillow().DecompressionBombWarning)
        return _decode_all(root, files, size, mode, skip_broken, show, target)


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sort key: runs of digits count as numbers; the name itself breaks ties."""
    parts = re.split(r"([0-9]+)", name.casefold())  # text and digits alternate, so like is compared with like
    return [int(part) if odd else part for part, odd in zip(parts, itertools.cycle((False, True)), strict=False)], name


def _empty_folder(root: Path) -> str:
    message = f"the folder '{root}' holds no pictures (jpg, png, tif, pgm, bmp, gif, webp)"
    entries = sorted((entry for entry in root.iterdir() if not entry.name.startswith(".")), key=lambda e: e.name)
    for entry in entries:
        if entry.is_dir() and any(is_picture(file) for file in entry.iterdir()):
            return f"{message}; its subfolder does: give '{entry}'"
        if entry.suffix.lower() in {".gz", ".csv", ".npy", ".npz"}:
            return f"{message}; to read a file in it, give the file itself, like '{entry}'"
    return f"{message}: give a folder that does"


def _advice(reason: str) -> str:
    if "proportions" in reason:
        return "give --size HEIGHTxWIDTH to resize all to one size, or --skip-broken to leave it out"
    return "repair or remove it, or give --skip-broken to leave it out"


def _decode_all(
    root: Path,
    files: Sequence[Path],
    size: tuple[int, int] | None,
    mode: Mode,
    skip_broken: bool,
    progress: Progress | None,
    out: Path | None,
) -> Pictures:
    any_shape = size is not None
    skipped: list[str] = []

    def refuse(file: Path, reason: str) -> None:
        if not skip_broken:
            raise InputError(f"'{file}' {reason}: {_advice(reason)}")
        skipped.append(f"'{file.name}' {reason}")

    while size is None and files:
        try:
            height, width = decode_picture(files[0], None, mode, True).shape[:2]
            size = (height, width)
        except Broken as error:
            refuse(files[0], str(error))
            files = files[1:]
    total = len(files) + len(skipped)
    kept: list[int] = []

    def decode(matrix: np.ndarray) -> None:
        """Fill the rows of the matrix, and note which are good."""

        def task(start: int) -> list[str | None]:
            stop = min(start + _PER_TASK, len(files))
            return [_decode_row(files[i], matrix[i], size, mode, any_shape) for i in range(start, stop)]

        starts = range(0, len(files), _PER_TASK)
        pool = ThreadPoolExecutor(_cpus(), thread_name_prefix="nmfcore-pictures")
        try:
            for start, reasons in zip(starts, pool.map(task, starts), strict=True):
                for index, reason in enumerate(reasons, start):
                    if reason is None:
                        kept.append(index)
                    else:
                        refuse(files[index], reason)
                if progress is not None:
                    progress(len(kept) + len(skipped), total)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        if not kept:
            raise InputError(nothing())

    def nothing() -> str:
        return f"none of the {total} pictures in '{root}' can be read; the first: {skipped[0]}"

    if size is None:
        raise InputError(nothing())
    shape: Shape = size if mode == "L" else (*size, 3)
    if out is None:
        matrix = _allocate(root, len(files), shape)
        decode(matrix)
        if len(kept) < len(matrix):
            matrix = matrix[kept]
    else:
        matrix = decode_to_file(out, decode, kept, len(files), shape)
    return Pictures(matrix, shape, tuple(files[index].name for index in kept), None, str(root), tuple(skipped))


def _decode_row(file: Path, row: np.ndarray, size: tuple[int, int] | None, mode: Mode, any_shape: bool) -> str | None:
    try:
        row[:] = decode_picture(file, size, mode, any_shape).reshape(-1)
    except Broken as error:
        return str(error)
    return None


def _allocate(root: Path, rows: int, shape: Shape) -> np.ndarray:
    features = math.prod(shape)
    needed = rows * features
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        memory = sys.maxsize
    if needed > memory:
        raise InputError(
            f"{rows} pictures of {size_text((shape[0], shape[1]))} from '{root}' need {needed / 1e9:.1f} GB, this "
            f"machine has {memory / 1e9:.1f} GB: give a smaller --size HEIGHTxWIDTH, or a file to hold them (out=)"
        )
    return np.empty((rows, features), np.uint8)


def _cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
