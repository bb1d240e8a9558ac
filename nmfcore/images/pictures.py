"""What every reader returns, `Pictures`, and the error that says why one cannot: `InputError`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .._text import row_name

__all__ = ["InputError", "Pictures"]

SHOWN = 20  # pictures that a notebook shows
Shape = tuple[int, ...]  # (height, width), or (height, width, 3) in colour


class InputError(ValueError):
    """Data that cannot be read; the message says what was given, what is allowed and what to do.

    Examples
    --------
    >>> from nmfcore.images import InputError
    >>> issubclass(InputError, ValueError)
    True
    """

    __module__ = "nmfcore.images"  # the name that is imported


def selection(recursive: bool, exclude: str | Sequence[str]) -> dict[str, object]:
    """Return which files of a folder are taken, as plain data.

    Parameters
    ----------
    recursive : bool
        Whether those in subfolders are, too.
    exclude : str or sequence of str
        Patterns of what is left out.

    Returns
    -------
    dict
        ``selection`` of `Pictures`.
    """
    return {"recursive": recursive, "exclude": [exclude] if isinstance(exclude, str) else list(exclude)}


@dataclass(frozen=True, eq=False)
class Pictures:
    """A matrix with one picture per row, and what is known about them.

    Attributes
    ----------
    matrix : ndarray or memmap of shape (n_samples, n_features)
        In the type it was stored in; pictures are uint8.
    shape : tuple of (int, int) or (int, int, 3), or None
        Height and width a row folds back to, and 3 if it is in colour.
    names : tuple of str or None
        File names of pictures from a folder, in the order of the rows: "cats/1.png" below it,
        "stack.tif#3" for the third page of a file.
    labels : ndarray of shape (n_samples,) or None
        Labels that came with the pictures, integers or strings; `read_csv` says how rows without
        one are marked among others.
    source : str
        Where they came from.
    skipped : tuple of str
        One sentence per picture that was left out.
    decoding : dict or None
        How picture files became rows, so that others can be decoded alike: "proportions" ("kept",
        "stretched", "cropped" or "letterboxed"), "background" ("#rrggbb"), "levels", the number of grey
        levels that became 256, and "mask_transparent" where transparent pixels were masked. None where
        no picture file was decoded.
    selection : dict or None
        Which files of a folder were taken, so that it can be looked through alike: "recursive" and
        "exclude", as `load_images` has them. None where it was no folder.
    mask : ndarray or memmap of shape (n_samples, n_features), bool, or None
        True where a pixel is no part of its picture: on the bars of a letterbox, or transparent.
        ``NMF().fit(matrix, mask=mask)`` leaves these pixels out. In colour, all three numbers of a
        pixel are masked. None where nothing is.

    Examples
    --------
    >>> from nmfcore.images import read_source
    >>> digits = read_source()
    >>> digits.matrix.shape, digits.matrix.dtype.name, digits.shape, digits.title(3)
    ((1797, 64), 'uint8', (8, 8), 'row 3 (3)')
    """

    matrix: np.ndarray
    shape: Shape | None = None
    names: tuple[str, ...] | None = None
    labels: np.ndarray | None = None
    source: str = ""
    skipped: tuple[str, ...] = ()
    decoding: dict[str, object] | None = None
    selection: dict[str, object] | None = None
    mask: np.ndarray | None = None

    __module__ = "nmfcore.images"  # the name that is imported

    def __repr__(self) -> str:
        n, m = self.matrix.shape
        folded = "" if self.shape is None else f" ({'×'.join(map(str, self.shape))})"
        known = [what for what in ("names", "labels", "mask") if getattr(self, what) is not None]
        known = [", ".join(known[:-1]), known[-1]] if len(known) > 1 else known
        also = f", with {' and '.join(known)}" if known else ""
        return f"Pictures of '{self.source}': {n:,} rows × {m:,} features{folded}, {self.matrix.dtype}{also}"

    def _repr_html_(self) -> str | None:
        if self.shape is None:  # a notebook then shows the text
            return None
        try:
            from .thumbnails import brightness, gallery, picture_png

            rows, top = range(min(len(self.matrix), SHOWN)), brightness(self.matrix)
            pngs = [picture_png(self.matrix[row], self.shape, top, longest=144) for row in rows]
        except ImportError:  # Pillow is missing
            return None
        return gallery(repr(self), pngs, [self.title(row) for row in rows], len(self.matrix) - len(rows))

    def title(self, row: int) -> str:
        """Return what the picture in `row` is called: its number, its name, and its label in brackets.

        Parameters
        ----------
        row : int
            Number of the row.

        Returns
        -------
        str
        """
        name = None if self.names is None else self.names[row]
        return row_name(row, name, None if self.labels is None else self.labels[row])
