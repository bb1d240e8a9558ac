"""Pictures from any kind of source: the reader that fits it is found and called."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from .. import _compat
from .._files import FileFault, check_regular, shortened
from ._decoding import Broken, Fit, Mode, look, picture_suffixes
from ._progress import Progress
from ._shared import sentences, size_text
from .arrays import named, read_npy
from .folders import check_fit, load_images
from .idx import _idx_header, read_idx
from .pictures import InputError, Pictures
from .tables import read_csv

__all__ = ["read_source"]

TABLE_SUFFIXES = frozenset({".csv", ".tsv"})


def read_source(
    source: str | os.PathLike[str] | None = None,
    size: tuple[int, int] | None = None,
    skip_broken: bool = False,
    progress: Progress | bool | None = None,
    *,
    mode: Mode = "L",
    crop: bool = False,
    background: str | Sequence[int] = "white",
    recursive: bool = False,
    labels: Literal["folder"] | None = "folder",
    exclude: str | Sequence[str] = (),
    decoding: Mapping[str, object] | None = None,
    fit: Fit = "stretch",
    mask_transparent: bool = False,
) -> Pictures:
    """Read pictures from a folder or a file, whatever its kind.

    Parameters
    ----------
    source : path-like or None
        None for scikit-learn's bundled digits, a folder of pictures, a TIFF, GIF, WebP or PNG file
        with several pages, an IDX file (``.gz`` or not), a ``.csv``, ``.tsv`` or ``.txt`` table
        (``.gz`` or not), a ``.npy`` or a ``.npz`` file ("FILE::NAME" for one array of several).
    size : tuple of (height, width) or None
        Pictures in a folder are resized to it. For a matrix it states how a row folds to a picture,
        in colour if a row has three numbers to the pixel.
    skip_broken : bool
        Leave out pictures of a folder that cannot be read, instead of raising.
    progress : callable(done, total), bool or None
        As in `load_images`.
    mode : {"L", "RGB"}
        How pictures in a folder are decoded: grey, or in colour. A matrix is taken as it is.
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
    decoding : mapping or None
        As for `load_images`.
    fit : {"stretch", "letterbox"}
        As for `load_images`. "letterbox" is refused for a matrix, whose rows are pictures of one size.
    mask_transparent : bool
        As for `load_images`; refused for a matrix.

    Returns
    -------
    Pictures

    Raises
    ------
    InputError
        When there is no such source, or it cannot be read.
    ImportError
        When pictures are to be decoded and Pillow is missing.

    Examples
    --------
    >>> from nmfcore.images import read_source
    >>> read_source().labels[:4].tolist()
    [0, 1, 2, 3]
    >>> read_source("no/such/file.csv")
    Traceback (most recent call last):
    nmfcore.images.InputError: there is no file or folder 'no/such/file.csv': check the path
    """
    check_fit(fit, crop)
    if source is None:
        check_of_folder("digits", fit, mask_transparent)
        return _with_size(_read_digits(), size)
    path, name = named(source)
    try:
        if path.is_dir() or _is_stack(path):
            return load_images(
                path, size, mode, skip_broken, progress,
                crop=crop, background=background, recursive=recursive, labels=labels, exclude=exclude,
                decoding=decoding, fit=fit, mask_transparent=mask_transparent,
            )  # fmt: skip
        if not path.exists():
            raise InputError(f"there is no file or folder '{path}': check the path")
        check_of_folder(str(path), fit, mask_transparent)
        with sentences(path):
            check_regular(path)
        if name and path.suffix.lower() != ".npz":
            raise InputError(f"'{path}' is read as a whole, so '::{shortened(name)}' means nothing: leave it out")
        return _with_size(_reader(path)(Path(f"{path}::{name}") if name else path), size)
    except (PermissionError, IsADirectoryError) as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror or error}") from error


def check_of_folder(source: str, fit: Fit, mask_transparent: bool) -> None:
    """Raise InputError if something is asked for that only pictures of a folder can have.

    Parameters
    ----------
    source : str
        The matrix.
    fit : {"stretch", "letterbox"}
    mask_transparent : bool
    """
    for given, what in ((fit == "letterbox", "letterbox"), (mask_transparent, "mask-transparent")):
        if given:
            raise InputError(
                f"--{what} is for pictures of a folder, and '{shortened(source)}' is a matrix: leave it out, and give "
                "NMF.fit a mask for a matrix"
            )


def _is_stack(path: Path) -> bool:
    """Whether a file holds several pictures."""
    if path.suffix.lower() not in picture_suffixes() or not path.is_file():
        return False
    try:
        return len(look(path).pages) > 1
    except (Broken, FileFault, ImportError):
        return False


def _reader(path: Path) -> Callable[[Path], Pictures]:
    suffix = path.suffix.lower()
    inner = Path(path.stem).suffix.lower() if suffix == ".gz" else suffix
    if inner in TABLE_SUFFIXES:
        return read_csv
    if inner in (".npy", ".npz") and inner == suffix:
        return read_npy
    if suffix in picture_suffixes():
        raise InputError(f"'{path}' is a single picture: give the folder that holds all of them")
    if _idx_header(path) is not None:
        return read_idx
    if suffix == ".txt":
        return read_csv
    raise InputError(
        f"'{path}' is of no known kind: expected a folder of pictures, an IDX file (.gz or not), .csv, .npy or .npz"
    )


def _with_size(pictures: Pictures, size: tuple[int, int] | None) -> Pictures:
    """State the picture shape of a matrix; pixels are left alone."""
    if size is None or size == (pictures.shape or ())[:2]:
        return pictures
    features = pictures.matrix.shape[1]
    if 3 * size[0] * size[1] == features:
        return dataclasses.replace(pictures, shape=(*size, 3))
    if size[0] * size[1] != features:
        raise InputError(
            f"--size {size_text(size)} makes {size[0] * size[1]} pixels but a row of "
            f"'{pictures.source}' has {features}: "
            "only pictures in a folder can be resized"
        )
    return dataclasses.replace(pictures, shape=size)


def _read_digits() -> Pictures:
    data, labels = _compat.digits()
    return Pictures(data.astype(np.uint8), (8, 8), None, labels, "digits")
