"""Folders of pictures, decoded once into a file beside them."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any, cast

import numpy as np

from .._files import replacing, sync_folder
from ._decoding import Mode, check_mode, is_picture
from ._progress import Progress
from .folders import load_images
from .pictures import InputError, Pictures, Shape

__all__ = ["cached_images"]

_CACHE = "nmfcore-pictures-1"


def cached_images(
    folder: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    mode: Mode = "L",
    skip_broken: bool = False,
    progress: Progress | bool | None = True,
) -> Pictures:
    """Decode a folder of pictures once, into a file beside it, and map that file from then on.

    For a folder ``cats``, the matrix lies in ``cats.nmfcore.npy`` and what is known about it in
    ``cats.nmfcore.json``, the size and date of the matrix included: one without the other, or of
    another time, is not used. Both are made anew then, and when the names, sizes or dates of the
    picture files have changed, or others are asked for.

    Parameters
    ----------
    folder : path-like
        Folder with picture files; the one that holds it must be writable.
    size : tuple of (height, width) or None
        As for `load_images`.
    mode : {"L", "RGB"}
        Grey, or red, green and blue.
    skip_broken : bool
        As for `load_images`.
    progress : callable(done, total), bool or None
        As for `load_images`; not used if the pictures are decoded already.

    Returns
    -------
    Pictures
        ``matrix`` is a read-only memory map of shape (n_pictures, features), uint8.

    Raises
    ------
    InputError
        As `load_images`, or if a file is in the way that is no such cache.
    ImportError
        When pictures are to be decoded and Pillow is missing.
    OSError
        When the files cannot be written.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from PIL import Image
    >>> from nmfcore.images import cached_images
    >>> place = tempfile.TemporaryDirectory()
    >>> folder = pathlib.Path(place.name) / "cats"
    >>> folder.mkdir()
    >>> Image.new("L", (6, 4), 7).save(folder / "1.png")
    >>> pictures = cached_images(folder)
    >>> pictures.matrix.shape, sorted(file.name for file in pathlib.Path(place.name).iterdir())
    ((1, 24), ['cats', 'cats.nmfcore.json', 'cats.nmfcore.npy'])
    >>> del pictures
    >>> place.cleanup()
    """
    check_mode(mode)
    root = Path(os.path.realpath(Path(folder).expanduser()))
    if not root.is_dir():
        raise InputError(f"there is no folder '{folder}': check the path")
    matrix, about = (root.with_name(f"{root.name}.nmfcore{suffix}") for suffix in (".npy", ".json"))
    stats = [(file.name, file.stat()) for file in sorted(root.iterdir()) if is_picture(file)]
    asked = {
        "format": _CACHE,
        "size": None if size is None else list(size),
        "mode": mode,
        "skip_broken": skip_broken,
        "files": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats],
    }
    kept = _cache(about, matrix)
    if kept is None or kept.get("matrix") != _stamp(matrix) or {name: kept.get(name) for name in asked} != asked:
        if kept is not None:  # of other pictures: what describes a matrix never outlives it
            about.unlink(missing_ok=True)
            matrix.unlink(missing_ok=True)
        new = root.with_name(f".{root.name}.nmfcore-{secrets.token_hex(6)}.npy")
        try:
            found = load_images(folder, size, mode, skip_broken, progress, out=new)
            kept = {**asked, "shape": found.shape, "names": found.names, "skipped": found.skipped}
            del found  # Windows renames no file that is mapped
            with replacing(about) as file:  # until the matrix is there, it describes none
                file.write(json.dumps({**kept, "matrix": _stamp(new)}).encode())
            new.replace(matrix)
            sync_folder(matrix.parent)
        finally:
            new.unlink(missing_ok=True)
    shape, names, skipped = (tuple(kept[name]) for name in ("shape", "names", "skipped"))
    return Pictures(np.load(matrix, mmap_mode="r"), cast(Shape, shape), names, None, str(folder), skipped)


def _stamp(matrix: Path) -> list[int] | None:
    """Return size and date of a matrix, which stay when it is renamed; None if there is none."""
    if not matrix.exists():
        return None
    stat = matrix.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _cache(about: Path, matrix: Path) -> dict[str, Any] | None:
    """Return what a cache says of itself, nothing of a matrix that is left alone; None if there is none."""
    if not about.exists():
        if not matrix.exists():
            return None
        if _is_of_pixels(matrix):
            return {}
        raise InputError(f"'{matrix}' is in the way, and no cache of pictures: move it")
    try:
        kept = json.loads(about.read_bytes())
        if kept["format"] == _CACHE:
            return kept
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(f"'{about}' is in the way, and no cache of pictures: move it")


def _is_of_pixels(matrix: Path) -> bool:
    """Whether a file has the type and the number of dimensions of a cache's matrix."""
    try:
        array = np.load(matrix, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError, AttributeError):
        return False
    return bool(array.dtype == np.uint8 and array.ndim == 2)
