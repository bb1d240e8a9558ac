"""Small pictures for pages and notebooks: rows of pixels as PNG files, alone or many on one sheet.

Figures (`plots`) are for paper and notebooks; a page lays its pictures out itself, so that they fit a telephone.
Everything here is bytes: nothing is written, and no picture travels larger than it is shown.
"""

from __future__ import annotations

import base64
import html
import io
import math
from typing import TYPE_CHECKING

import numpy as np

from .._typing import Array

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike
    from PIL.Image import Image as Picture

__all__ = ["brightness", "data_uri", "gallery", "part_png", "picture_png", "sheet_png", "thumbnail_shape"]

_LOOKED_AT = 1000  # rows that decide on the common grey scale


def brightness(X: Array) -> float:
    """Return what to draw as white: the largest value in rows spread evenly over X.

    Parameters
    ----------
    X : array-like of shape (n, m)
        Pictures, a row each.

    Returns
    -------
    float
        At least a tiny positive number.
    """
    rows = np.unique(np.linspace(0, len(X) - 1, min(len(X), _LOOKED_AT)).round().astype(np.int64))
    largest = max((float(np.max(X[row])) for row in rows), default=1.0)
    return largest if largest > 0 else 1.0


def thumbnail_shape(shape: tuple[int, ...], longest: int) -> tuple[int, int]:
    """Return (height, width) of a picture that is made smaller where a side is longer than `longest`.

    Parameters
    ----------
    shape : tuple of (height, width) or (height, width, 3)
        The picture.
    longest : int
        Most pixels of a side.

    Returns
    -------
    tuple of (int, int)
    """
    scale = min(1.0, longest / max(shape[:2]))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def picture_png(
    pixels: ArrayLike, shape: tuple[int, ...], top: float, longest: int | None = None, *, mask: Array | None = None
) -> bytes:
    """Encode one picture.

    Parameters
    ----------
    pixels : array-like of shape (n_features,), any real type
        The picture; 0 becomes black and `top` white, what lies beyond is cut off.
    shape : tuple of (height, width) or (height, width, 3)
        What it folds to.
    top : float
        What to draw as white.
    longest : int or None
        Make it smaller where a side has more pixels.
    mask : ndarray of shape (n_features,), bool, or None
        True where the picture is transparent. None, the default, means nowhere.

    Returns
    -------
    bytes
        A PNG file.
    """
    levels = _grey_levels(np.asarray(pixels), top).reshape(shape)
    if mask is not None and mask.any():
        height, width = shape[:2]
        opaque = ~mask.reshape(height, width, -1).any(axis=2, keepdims=True)
        levels = np.concatenate([levels.reshape(height, width, -1), 255 * opaque.astype(np.uint8)], axis=2)
    return _encoded(_small(levels, longest))


def part_png(component: ArrayLike, shape: tuple[int, ...], longest: int | None = None) -> bytes:
    """Encode one component on its own scale, as `plots.components_grid` draws it.

    Parameters
    ----------
    component : array-like of shape (n_features,), any real type
        The component. Its scale says nothing, and the brightest half percent of its pixels is cut off.
    shape : tuple of (height, width) or (height, width, 3)
        What it folds to.
    longest : int or None
        Make it smaller where a side has more pixels.

    Returns
    -------
    bytes
        A PNG file.
    """
    component = np.asarray(component, dtype=np.float64)
    top = float(np.quantile(component, 0.995)) or float(component.max()) or 1.0
    return picture_png(component, shape, top, longest)


def sheet_png(rows: ArrayLike, shape: tuple[int, ...], top: float, columns: int, longest: int) -> bytes:
    """Encode many pictures on one sheet, row by row from the upper left, without gaps.

    Parameters
    ----------
    rows : array-like of shape (n, n_features), any real type
        The pictures.
    shape : tuple of (height, width) or (height, width, 3)
        What they fold to.
    top : float
        What to draw as white.
    columns : int
        Pictures side by side. The sheet is as wide even if there are fewer.
    longest : int
        Each is made smaller where a side has more pixels.

    Returns
    -------
    bytes
        A PNG file.
    """
    rows = np.asarray(rows)
    height, width = thumbnail_shape(shape, longest)
    lines = math.ceil(len(rows) / columns)
    canvas = np.zeros((lines * height, columns * width, *shape[2:]), np.uint8)
    levels = _grey_levels(rows, top).reshape(len(rows), *shape)
    for number, picture in enumerate(levels):
        line, column = divmod(number, columns)
        small = np.asarray(_small(picture, longest))
        canvas[line * height : (line + 1) * height, column * width : (column + 1) * width] = small
    return _encoded(_image(canvas), fast=True)


def data_uri(png: bytes) -> str:
    """Return a PNG file as an address that holds the file itself.

    Parameters
    ----------
    png : bytes
        The file.

    Returns
    -------
    str

    Examples
    --------
    >>> from nmfcore.images.thumbnails import data_uri
    >>> data_uri(b"abc")
    'data:image/png;base64,YWJj'
    """
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def gallery(heading: str, pngs: Sequence[bytes], titles: Sequence[str], more: int = 0, side: int = 72) -> str:
    """Return HTML that shows small pictures side by side with a title under each, for a notebook.

    Parameters
    ----------
    heading : str
        What stands above the pictures. It is escaped, as the titles are.
    pngs : sequence of bytes
        PNG files.
    titles : sequence of str
        A title for each.
    more : int
        Number of pictures that are left out. Defaults to 0.
    side : int
        Largest width and height of a picture on the page, in pixels. Defaults to 72.

    Returns
    -------
    str

    Examples
    --------
    >>> from nmfcore.images.thumbnails import gallery
    >>> gallery("a < b", [b"abc"], ["one"])[:41]
    '<div><div>a &lt; b</div><div style="displ'
    """
    figure = (
        '<figure style="margin:0;width:{side}px"><img src="{uri}" alt="" style="width:{side}px;max-height:{side}px;'
        'object-fit:contain;image-rendering:pixelated"><figcaption style="font-size:75%;overflow:hidden;'
        'text-overflow:ellipsis;white-space:nowrap" title="{title}">{title}</figcaption></figure>'
    )
    figures = [
        figure.format(side=side, uri=data_uri(png), title=html.escape(title))
        for png, title in zip(pngs, titles, strict=True)
    ]
    rest = f"<div>and {more:,} more</div>" if more else ""
    row = '<div style="display:flex;flex-wrap:wrap;gap:6px;margin-top:4px">' + "".join(figures) + "</div>"
    return f"<div><div>{html.escape(heading)}</div>{row}{rest}</div>"


def _grey_levels(pixels: Array, top: float) -> Array:
    if pixels.dtype == np.uint8 and top == 255:
        return pixels
    return (np.clip(pixels.astype(np.float32) / top, 0, 1) * 255 + 0.5).astype(np.uint8)


def _image(levels: Array) -> Picture:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("pages with pictures need Pillow: pip install 'nmfcore[app]'") from error
    return Image.fromarray(np.ascontiguousarray(levels))


def _small(levels: Array, longest: int | None) -> Picture:
    image = _image(levels)
    if longest is None or max(levels.shape[:2]) <= longest:
        return image
    height, width = thumbnail_shape(levels.shape, longest)
    return image.resize((width, height), reducing_gap=2.0)


def _encoded(image: Picture, fast: bool = False) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1 if fast else 6)
    return file.getvalue()
