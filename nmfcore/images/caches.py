"""Folders of pictures, decoded once into a file beside them."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .._files import FileFault, expanded, map_npy, replacing, sync_folder
from ._decoding import Decoding, Fit, Mode, check_mode, colour
from ._listing import listing
from ._progress import Progress
from ._to_file import mask_beside
from .folders import check_fit, load_images
from .pictures import InputError, Pictures, selection

__all__ = ["cached_images"]

_CACHE, _EARLIER = "nmfcore-pictures-3", ("nmfcore-pictures-1", "nmfcore-pictures-2")


def cached_images(
    folder: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    mode: Mode = "L",
    skip_broken: bool = False,
    progress: Progress | bool | None = True,
    *,
    crop: bool = False,
    background: str | Sequence[int] = "white",
    recursive: bool = False,
    labels: Literal["folder"] | None = "folder",
    exclude: str | Sequence[str] = (),
    fit: Fit = "stretch",
    mask_transparent: bool = False,
) -> Pictures:
    """Decode a folder of pictures once, into a file beside it, and map that file from then on.

    For a folder ``cats``, the matrix lies in ``cats.nmfcore.npy`` and what is known about it in
    ``cats.nmfcore.json``, the size and date of the matrix included; where pixels are masked, the mask
    lies in ``cats.nmfcore.mask.npy``. All are made anew when one of them is missing, damaged or of
    another time, when the names, sizes or dates of the picture files have changed, and when pictures
    are asked for that were decoded in another way.

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
    crop : bool
        As for `load_images`.
    background : str or tuple of three int
        As for `load_images`.
    recursive : bool
        As for `load_images`.
    labels : {"folder", None}
        As for `load_images`.
    exclude : str or sequence of str
        As for `load_images`.
    fit : {"stretch", "letterbox"}
        As for `load_images`.
    mask_transparent : bool
        As for `load_images`.

    Returns
    -------
    Pictures
        ``matrix`` is a read-only memory map of shape (n_pictures, features), uint8. So is ``mask``, in
        bool, or it is None.

    Raises
    ------
    InputError
        As `load_images`, or when a file has the name of the cache and is none.
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
    check_fit(fit, crop)
    root = Path(os.path.realpath(expanded(folder)))
    found = listing(root, recursive, exclude)
    matrix, about = (root.with_name(f"{root.name}.nmfcore{suffix}") for suffix in (".npy", ".json"))
    mask = mask_beside(matrix)
    asked = {
        "format": _CACHE,
        "size": None if size is None else list(size),
        "mode": mode,
        "skip_broken": skip_broken,
        "crop": crop,
        "background": list(colour(background)),
        "recursive": recursive,
        "by_folder": labels == "folder",
        "fit": fit,
        "mask_transparent": bool(mask_transparent),
        "files": [[name, _size_and_date(file)] for name, file in zip(found.names, found.files, strict=True)],
    }
    if mask.exists() and not _is_of(mask, bool):
        raise InputError(f"'{mask}' is in the way, and no mask of pictures: move it")
    cache = _cache(about, matrix)
    pictures = None if cache is None else _pictures(cache, asked, matrix, str(folder), recursive, exclude)
    if pictures is not None:
        return pictures
    if cache is not None:  # the description is removed first, so that it never describes another matrix
        about.unlink(missing_ok=True)
        matrix.unlink(missing_ok=True)
    mask.unlink(missing_ok=True)
    new = root.with_name(f".{root.name}.nmfcore-{secrets.token_hex(6)}.npy")
    try:
        made = load_images(
            folder, size, mode, skip_broken, progress,
            out=new, crop=crop, background=background, recursive=recursive, labels=labels,
            exclude=exclude, fit=fit, mask_transparent=mask_transparent,
        )  # fmt: skip
        cache = {
            **asked,
            "shape": made.shape,
            "names": made.names,
            "labels": None if made.labels is None else made.labels.tolist(),
            "skipped": made.skipped,
            "decoding": made.decoding,
        }
        masked = made.mask is not None
        del made  # Windows renames no file that is mapped
        stamps = {"matrix": _size_and_date(new), "mask": _size_and_date(mask_beside(new)) if masked else None}
        with replacing(about) as file:  # it describes no matrix until the new one has the right name
            file.write(json.dumps({**cache, **stamps}).encode())
        if masked:
            mask_beside(new).replace(mask)
        new.replace(matrix)
        sync_folder(matrix.parent)
    finally:
        new.unlink(missing_ok=True)
        mask_beside(new).unlink(missing_ok=True)
    pictures = _pictures(json.loads(about.read_bytes()), asked, matrix, str(folder), recursive, exclude)
    if pictures is None:
        raise InputError(f"'{matrix}' was changed by another program while it was written: run this once more")
    return pictures


def _size_and_date(file: Path) -> list[int] | None:
    """Return size and date of a file, which stay when it is renamed; None where a link leads nowhere."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _cache(about: Path, matrix: Path) -> dict[str, Any] | None:
    """Return what a cache says of itself, which is nothing for a matrix alone; None where there is no cache."""
    if not about.exists():
        if not matrix.exists():
            return None
        if _is_of(matrix, np.uint8):
            return {}
        raise InputError(f"'{matrix}' is in the way, and no cache of pictures: move it")
    try:
        cache = json.loads(about.read_bytes())
        if cache["format"] in (_CACHE, *_EARLIER):
            return cache
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    if matrix.exists() and _is_of(matrix, np.uint8) and _was_ours(about):
        return {}
    raise InputError(f"'{about}' is in the way, and no cache of pictures: move it")


def _was_ours(about: Path) -> bool:
    """Whether a damaged description was one of a cache."""
    try:
        with open(about, "rb") as file:
            return b"nmfcore-pictures-" in file.read(1 << 20)
    except OSError:
        return False


def _pictures(
    cache: dict[str, Any], asked: dict[str, Any], matrix: Path, source: str, recursive: bool,
    exclude: str | Sequence[str],
) -> Pictures | None:  # fmt: skip
    """Return the pictures of a cache; None if it holds others than those asked for, or is damaged."""
    if {name: cache.get(name) for name in asked} != asked or cache.get("matrix") != _size_and_date(matrix):
        return None
    beside = mask_beside(matrix)
    if "mask" not in cache or cache["mask"] != _size_and_date(beside):
        return None
    try:
        rows, masks = map_npy(matrix), None if cache["mask"] is None else map_npy(beside)
        shape, names, skipped = (tuple(cache[name]) for name in ("shape", "names", "skipped"))
        labels = None if cache["labels"] is None else np.array(cache["labels"], dtype=str)
        decoding = Decoding.of(cache["decoding"], asked["mode"]).plain()
        whole = (
            rows.dtype == np.uint8
            and rows.shape == (len(names), math.prod(shape))
            and len(shape) == (3 if asked["mode"] == "RGB" else 2)
            and all(isinstance(side, int) and side > 0 for side in shape)
            and all(isinstance(text, str) for text in (*names, *skipped))
            and (labels is None or labels.shape == (len(names),))
            and (masks is None or (masks.dtype == bool and masks.shape == rows.shape))
        )
    except (FileFault, OSError, ValueError, KeyError, TypeError):
        return None
    how = selection(recursive, exclude)
    return Pictures(rows, shape, names, labels, source, skipped, decoding, how, masks) if whole else None


def _is_of(matrix: Path, dtype: type) -> bool:
    """Whether a file has the type and the number of dimensions of a cache's matrix, or of its mask."""
    try:
        array = map_npy(matrix)
    except (OSError, ValueError):
        return False
    return bool(array.dtype == dtype and array.ndim == 2)
