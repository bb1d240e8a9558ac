"""One picture as a row like those of a model."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from .._files import expanded
from ._decoding import Broken, Decoding, Mode, OddShape, decode_picture, pillow, row_of
from .pictures import InputError, Shape

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from ._decoding import File

__all__ = ["picture_and_mask", "picture_row"]


def picture_row(
    picture: str | os.PathLike[str] | bytes | bytearray | memoryview | File | np.ndarray,
    shape: Shape,
    *,
    decoding: Mapping[str, object] | None = None,
) -> np.ndarray:
    """Make one picture a row like those of a model, to be coded and searched by.

    It is turned upright, converted to grey or colour, and resized, as `load_images` does with the
    pictures of a folder. The picture may come from anyone: only the usual formats are opened, and
    one that would unfold to too many pixels is refused before it is decoded.

    Parameters
    ----------
    picture : path-like, bytes, binary file, PIL.Image.Image or ndarray
        A picture file, by its name, its content, or opened; a picture of Pillow's; or an array of
        whole numbers from 0 to 255 (or of bool), of shape (height, width), (height, width, 3), or
        that of a row.
    shape : tuple of (height, width) or (height, width, 3)
        The picture shape of the model.
    decoding : mapping or None
        ``decoding`` of the model, so that the picture is treated like those that it was made of: one
        of other proportions is refused, distorted, cropped or letterboxed as they were. None distorts
        it. (`picture_and_mask` says which pixels are masked; here they are 0.)

    Returns
    -------
    ndarray of shape (height·width,) or (height·width·3,), uint8

    Raises
    ------
    InputError
        When the picture cannot be read, has too many pixels or other proportions, or the array
        holds no picture.
    ImportError
        When Pillow is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.images import picture_row
    >>> picture_row(np.full((60, 80), 7, np.uint8), (2, 3)).tolist()
    [7, 7, 7, 7, 7, 7]
    >>> picture_row(b"no picture", (2, 3))
    Traceback (most recent call last):
    nmfcore.images.InputError: what was given is not a picture that can be read
    """
    return picture_and_mask(picture, shape, decoding=decoding)[0]


def picture_and_mask(
    picture: str | os.PathLike[str] | bytes | bytearray | memoryview | File | np.ndarray,
    shape: Shape,
    *,
    decoding: Mapping[str, object] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Make one picture a row like those of a model, as `picture_row` does, with the mask that belongs to it.

    Parameters
    ----------
    picture : path-like, bytes, binary file, PIL.Image.Image or ndarray
        As for `picture_row`.
    shape : tuple of (height, width) or (height, width, 3)
        The picture shape of the model.
    decoding : mapping or None
        ``decoding`` of the model: if its pictures were letterboxed, so is this one; if transparent pixels were masked,
        so are those of this one. None distorts the picture, and masks nothing.

    Returns
    -------
    row : ndarray of shape (height·width,) or (height·width·3,), uint8
        0 where it is masked.
    mask : ndarray of that shape, bool, or None
        True where a pixel is masked, for ``transform(row[None], mask=mask[None])``; None where none is.

    Raises
    ------
    InputError
        As `picture_row`, and when every pixel is masked.
    ImportError
        When Pillow is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.images import picture_and_mask
    >>> row, mask = picture_and_mask(np.full((2, 6), 7, np.uint8), (3, 3), decoding={"proportions": "letterboxed"})
    >>> row.tolist(), mask.astype(int).tolist()
    ([0, 0, 0, 7, 7, 7, 0, 0, 0], [1, 1, 1, 0, 0, 0, 1, 1, 1])
    """
    shape = tuple(shape)
    if len(shape) not in (2, 3) or min(shape) < 1 or shape[2:] not in ((), (3,)):
        raise InputError(f"a picture's shape must be (height, width) or (height, width, 3), got {shape}")
    mode: Mode = "RGB" if len(shape) == 3 else "L"
    name = "what was given"
    try:
        if isinstance(picture, np.ndarray):
            if picture.shape == (math.prod(shape),):
                picture = picture.reshape(shape)
            picture = _from_array(picture)
        elif isinstance(picture, bytes | bytearray | memoryview):
            picture = io.BytesIO(picture)
        elif isinstance(picture, str | os.PathLike):
            picture = expanded(picture)
            name = f"'{picture}'"
        how = Decoding.of({"proportions": "stretched"} if decoding is None else decoding, mode)
        pixels, mask = decode_picture(picture, (shape[0], shape[1]), how)
        if mask is not None and mask.all():
            raise Broken("is transparent everywhere, and transparent pixels are masked: give one that shows something")
        return pixels.reshape(-1), None if mask is None else row_of(mask, shape)
    except OddShape as error:
        raise InputError(f"{name} {error}: crop the picture, or fit with --letterbox, --crop or --size") from error
    except Broken as error:
        raise InputError(f"{name} {error}") from error


def _from_array(array: np.ndarray) -> Picture:
    """Return an array of pixels as a picture of Pillow's."""
    Image = pillow()
    if array.dtype == bool:
        array = np.uint8(255) * array
    if not ((array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)) and array.size):
        raise Broken(f"has shape {array.shape}: expected height × width, height × width × 3, or a row of the model's")
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255:
        raise Broken(f"holds {array.dtype} values: expected whole numbers from 0 to 255, like numpy.uint8")
    return Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8))
