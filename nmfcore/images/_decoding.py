"""One picture decoded with Pillow: which files and formats count, upright, in 8 bits, of one size."""

from __future__ import annotations

import functools
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from ._shared import size_text

PICTURE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".jp2", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga"}
    | {".tif", ".tiff", ".webp"}
)
# Pillow may open no other kind, whatever a file is called: some decoders of it start programs (EPS).
PICTURE_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")

# Widths and heights are whole pixels, so two scans of one format differ by rounding: a 133×100
# picture next to a 64×48 one is the same shape. Beyond 2 % a resize would visibly distort.
ASPECT_TOLERANCE = 0.02
ORIENTATION = 0x0112  # EXIF tag

Mode = Literal["L", "RGB"]


class Broken(Exception):
    """Why one picture cannot be used."""


def pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading pictures needs Pillow: pip install 'nmfcore[app]'") from error
    return Image


def is_picture(file: Path) -> bool:
    return file.suffix.lower() in PICTURE_SUFFIXES and not file.name.startswith(".") and not file.is_dir()


def check_mode(mode: str) -> None:
    if mode not in ("L", "RGB"):
        raise ValueError(f'mode must be "L" (grey) or "RGB", got {mode!r}')


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of the formats that this Pillow was built with."""
    Image = pillow()
    Image.init()
    return tuple(name for name in PICTURE_FORMATS if name in Image.OPEN)


def decode_picture(picture: Any, size: tuple[int, int] | None, mode: Mode, any_shape: bool) -> np.ndarray:
    """Decode one picture (a file or Pillow's) to 8 bits of `size`; `any_shape` allows to distort it."""
    from PIL import Image, ImageOps

    try:
        with ExitStack() as opened:
            if not isinstance(picture, Image.Image):
                picture = opened.enter_context(_open_picture(picture))
                if size is not None:
                    if not any_shape:
                        _check_aspect(picture, size)
                    picture.draft(None, (2 * max(size),) * 2)  # a far too large JPEG is decoded at a fraction
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith("I"):  # 16 bits: Pillow's own conversion clips at 255
                wide = np.clip(np.asarray(upright, dtype=np.int64), 0, 65535)
                upright = Image.fromarray((wide >> 8).astype(np.uint8))
            elif upright.mode == "F":
                raise Broken("holds floating-point pixels; save it with 8 or 16 bits")
            upright = upright.convert(mode)
            if size is not None and upright.size != (size[1], size[0]):
                upright = upright.resize((size[1], size[0]), Image.Resampling.LANCZOS, reducing_gap=3.0)
            return np.asarray(upright)
    except Broken:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Broken("has too many pixels to be decoded safely") from error
    except MemoryError:
        raise
    except FileNotFoundError as error:
        raise Broken("does not exist: check the path") from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        raise Broken(f"is broken ({error or type(error).__name__})") from error


def _open_picture(file: Path | BinaryIO) -> Any:
    Image = pillow()
    try:
        picture = Image.open(file, formats=_formats())
    except Image.UnidentifiedImageError as error:
        raise Broken("is not a picture that can be read") from error
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and picture.width * picture.height > limit:
        picture.close()
        raise Broken(f"has more than {limit:,} pixels, too many to be decoded safely")
    return picture


def _check_aspect(picture: Any, size: tuple[int, int]) -> None:
    width, height = picture.size
    if picture.getexif().get(ORIENTATION, 1) >= 5:  # lies on its side
        width, height = height, width
    ratio = (width * size[0]) / (height * size[1])
    if not 1 / (1 + ASPECT_TOLERANCE) <= ratio <= 1 + ASPECT_TOLERANCE:
        raise Broken(f"has other proportions ({height}x{width}) than the first picture ({size_text(size)})")
