"""A picture file at its own size: whether two files show the same pixels, and which one has more of them."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ._decoding import Broken, _check_pixels, _orientation, _seek, _turned, _with_picture

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["pixels_digest", "pixels_of"]

# Modes that Pillow turns into red, green, blue and opacity of 8 bits each without loss.
_EIGHT_BITS = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})


def pixels_of(file: Path) -> int:
    """Return how many pixels the first picture of a file has, from its header.

    Parameters
    ----------
    file : Path
        The file.

    Returns
    -------
    int
        Width times height; 0 for a file that cannot be read.

    Examples
    --------
    >>> import pathlib
    >>> from nmfcore.images.whole import pixels_of
    >>> pixels_of(pathlib.Path("no-such.png"))
    0
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _with_picture(file, lambda picture: picture.width * picture.height)
    except Broken:
        return 0


def pixels_digest(file: Path, page: int = 0) -> bytes | None:
    """Return a digest of the pixels of a picture file at its own size.

    Two pictures have the same digest if they have the same height and width, upright, and the same colours and
    opacities, however the files are packed: a PNG and a BMP file of one picture have.

    Parameters
    ----------
    file : Path
        The file.
    page : int
        Which of its pages, from 0.

    Returns
    -------
    bytes or None
        The BLAKE2 digest of 16 bytes; None for a file that cannot be read.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> from nmfcore.images.whole import pixels_digest
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     a, b = pathlib.Path(folder) / "a.png", pathlib.Path(folder) / "b.bmp"
    ...     for path in (a, b):
    ...         Image.linear_gradient("L").save(path)
    ...     pixels_digest(a) == pixels_digest(b)
    True
    """

    def digest(picture: Picture) -> bytes:
        _seek(picture, page)
        _check_pixels(picture)
        picture.load()
        shown = _turned(picture, _orientation(picture))
        if shown.mode in _EIGHT_BITS:
            shown = shown.convert("RGBA")
        kind = f"{shown.mode} {shown.width} {shown.height}\n"
        return hashlib.blake2b(kind.encode() + shown.tobytes(), digest_size=16).digest()

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _with_picture(file, digest)
    except Broken:
        return None
