"""Pictures as callers give them: a folder, a file, a matrix; like those of a model, or those of a model once more."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._typing import Array
from ..images import InputError, Pictures, picture_and_mask, read_source
from ..models import Model
from .folders import MASK, PICTURES
from .manifest import Manifest

if TYPE_CHECKING:
    from typing import BinaryIO, Literal, TypeAlias

    from numpy.typing import ArrayLike
    from PIL.Image import Image

    Given: TypeAlias = str | os.PathLike[str] | Pictures | ArrayLike  # pictures, or where they are
    # One picture: its row number, its name, its file, or itself.
    Query: TypeAlias = int | str | os.PathLike[str] | BinaryIO | Image | ArrayLike

__all__ = ["pictures_like", "pictures_of", "read_again"]

Progress = Callable[[int, int], None]


def pictures_of(
    source: Given | None,
    size: tuple[int, int] | None,
    rgb: bool,
    skip_broken: bool,
    progress: Progress | bool | None,
    decoding: Mapping[str, object] | None = None,
    how: Mapping[str, Any] | None = None,
) -> Pictures:
    """Return pictures as they are given, or read them from where they are.

    Parameters
    ----------
    source : path-like, Pictures, array-like or None
        As for `SearchEngine.fit`; None and "digits" are scikit-learn's digits.
    size : tuple of (height, width) or None
        Size that a folder's pictures are resized to; for a matrix, how a row folds to a picture.
    rgb : bool
        Keep the colours of a folder's pictures.
    skip_broken : bool
        Leave out pictures that cannot be decoded.
    progress : callable(done, total), bool or None
        Called while pictures are read.
    decoding : mapping or None
        ``decoding`` of a model, to decode a folder's pictures like those. Defaults to None.
    how : mapping or None
        What else `nmfcore.images.read_source` takes. Defaults to None.

    Returns
    -------
    Pictures

    Raises
    ------
    InputError
        When the source cannot be read, or rows do not fold to pictures of the size.
    """
    if isinstance(source, Pictures):
        return source
    if isinstance(source, str | os.PathLike) or source is None:
        read = None if source == "digits" and not Path("digits").exists() else source
        mode: Literal["L", "RGB"] = "RGB" if rgb else "L"
        return read_source(read, size, skip_broken, progress, mode=mode, decoding=decoding, **(how or {}))
    array = np.asanyarray(source)
    mask: Array | None = None
    if isinstance(array, np.ma.MaskedArray):
        mask = np.asarray(array.mask) if np.ma.is_masked(array) else None
        array = np.asanyarray(array.data)
    shape: tuple[int, ...] | None = size
    if array.ndim in (3, 4):
        shape = array.shape[1:]
        array = array.reshape(len(array), -1)
    if array.ndim != 2:
        raise InputError(f"pictures of shape {array.shape}: expected n × features, n × height × width, or × 3 colours")
    if shape is not None and math.prod(shape) != array.shape[1]:
        raise InputError(f"size {size} makes {math.prod(shape)} pixels, a row of the matrix has {array.shape[1]}")
    return Pictures(array, shape, mask=None if mask is None else mask.reshape(array.shape))


def pictures_like(model: Model, source: Given, skip_broken: bool, progress: Progress | None) -> Pictures:
    """Read pictures as those of a model are: their size, and colours or none.

    Parameters
    ----------
    model : Model
        What was made of the others.
    source : path-like, Pictures or array-like
        As for `SearchEngine.fit`; a single picture file as well.
    skip_broken : bool
        Leave out pictures that cannot be decoded.
    progress : callable(done, total) or None
        Called while pictures are read.

    Returns
    -------
    Pictures

    Raises
    ------
    InputError
        When the source cannot be read, or holds rows of another width.
    """
    shape, m = model.shape, model.components.shape[1]
    size = None if shape is None else (shape[0], shape[1])
    if shape is not None and isinstance(source, str | os.PathLike):
        path = Path(os.path.expanduser(source))
        if path.is_file() and _is_picture_file(path):
            row, mask = picture_and_mask(path, shape, decoding=model.decoding or {})
            hidden = None if mask is None else mask[None]
            return Pictures(row[None], shape, (path.name,), None, str(path), mask=hidden)
    folder = isinstance(source, str | os.PathLike) and Path(os.path.expanduser(source)).is_dir()
    rgb = shape is not None and len(shape) == 3
    decoding = (model.decoding or {}) if folder else None
    pictures = pictures_of(source, size if folder else None, rgb, skip_broken, progress, decoding)
    if pictures.matrix.shape[1] != m:
        given, width = pictures.source or "the matrix", pictures.matrix.shape[1]
        raise InputError(
            f"the rows of '{given}' have {width} features, those of the model {m}: give pictures of the same size"
        )
    return pictures


def read_again(model: Model, folder: Path | None, lacking: str = PICTURES) -> Pictures:
    """Read the originals of a model again from where they came from.

    Parameters
    ----------
    model : Model
        What was made of them.
    folder : Path or None
        Where it was loaded from, for messages.
    lacking : str
        Name of the file that is not there: that of the originals, the default, or of their masks.

    Returns
    -------
    Pictures
        A row for each row of the model.

    Raises
    ------
    InputError
        When they are not there any more, or are others.
    """
    lacks = f"the {'masks' if lacking == MASK else 'originals'} are needed, and " + (
        "the engine has none" if folder is None else f"'{folder}' has no {lacking}"
    )
    again = "fit once more, with --pictures on the command line"
    if not model.source:
        raise InputError(f"{lacks}: {again}")
    size = None if model.shape is None else (model.shape[0], model.shape[1])
    rgb = model.shape is not None and len(model.shape) == 3
    try:
        known = Manifest.of(model)  # of a model without a list of files: names below subfolders tell
        if model.files is not None and known.root:
            how: dict[str, object] = {"recursive": known.recursive, "exclude": known.exclude}
            source = known.root
        else:
            how, source = {"recursive": known.recursive}, model.source
        pictures = pictures_of(source, size, rgb, True, None, model.decoding, how)
    except (InputError, OSError) as error:
        raise InputError(f"{lacks}, nor can they be read from '{model.source}' any more: {again}") from error
    matrix = pictures.matrix
    if model.names is not None and pictures.names is not None and pictures.names != model.names:
        numbers = {name: row for row, name in enumerate(pictures.names)}
        rows = [numbers.get(name, -1) for name in model.names]
        whole = min(rows, default=-1) >= 0 and model.files is not None
        matrix = matrix[rows] if whole else matrix[:0]
        mask = pictures.mask[rows] if whole and pictures.mask is not None else None
        pictures = dataclasses.replace(pictures, matrix=matrix, mask=mask, names=model.names, labels=None)
    if matrix.shape != (len(model.W), model.components.shape[1]) or (pictures.names is None) != (model.names is None):
        raise InputError(f"{lacks}, and '{model.source}' no longer holds what the model was made of: {again}")
    return pictures


def _is_picture_file(path: Path) -> bool:
    from ..images import PICTURE_SUFFIXES

    return path.suffix.lower() in PICTURE_SUFFIXES
