"""Which pixels of an engine's pictures are masked: a bit for each, in memory or in a file beside the pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._files import FileFault, map_npy, replacing
from ..models import ModelFileError
from .folders import append_rows
from .stack import Stack

if TYPE_CHECKING:
    from .._typing import Array

__all__ = ["PictureMasks", "append_masks", "write_mask"]

Bits = NDArray[np.uint8]
Flags = NDArray[np.bool_]

_AT_ONCE = 1 << 24  # entries of a mask that are unpacked at a time


class PictureMasks:
    """The masks of pictures, a row each; it hands out rows as ``masks[rows]``.

    Parameters
    ----------
    bits : ndarray of shape (n, ⌈n_features / 8⌉), uint8, or Stack of such
        As `numpy.packbits` packs the rows of a mask; a memory map as well.
    n_features : int
        Length of a row of the mask.

    Attributes
    ----------
    shape : tuple of (int, int)
        (n, n_features).
    dtype : numpy.dtype
        bool.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.search.masks import PictureMasks
    >>> masks = PictureMasks.of(np.eye(3, 10, dtype=bool))
    >>> masks.shape, masks[1:][:, 1].tolist(), masks.counts().tolist()
    ((3, 10), [True, False], [1, 1, 1])
    """

    def __init__(self, bits: Bits | Stack, n_features: int):
        self.bits = bits if isinstance(bits, Stack) else Stack(bits)
        self.shape, self.dtype = (len(bits), n_features), np.dtype(bool)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["bits"], state["shape"][1])  # type: ignore[misc]  # earlier versions kept an array

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> PictureMasks:
        """Pack a mask.

        Parameters
        ----------
        mask : ndarray of shape (n, n_features), bool

        Returns
        -------
        PictureMasks
        """
        packed = [np.packbits(part, axis=1) for part in _parts(mask)]
        return cls(np.concatenate(packed) if packed else np.zeros((0, -(-mask.shape[1] // 8)), np.uint8), mask.shape[1])

    @classmethod
    def read(cls, path: Path, n: int, n_features: int, places: NDArray[np.int64] | None = None) -> PictureMasks:
        """Memory-map a file that `write_mask` wrote.

        Parameters
        ----------
        path : Path
        n, n_features : int
            Shape of the mask.
        places : ndarray of shape (n,), int64, or None
            Where in the file the mask of each row is. None, the default: the first n, in their order.

        Returns
        -------
        PictureMasks

        Raises
        ------
        ModelFileError
            When the file is damaged, or holds the masks of other pictures.
        """
        bits = _bits_in(path)
        least = n if places is None else int(places.max(initial=-1)) + 1
        if bits.dtype != np.uint8 or bits.ndim != 2 or len(bits) < least or bits.shape[1] != -(-n_features // 8):
            raise ModelFileError(
                f"'{path}' {bits.shape} does not belong to the model beside it, which was made of {n:,} rows of "
                f"{n_features} features: fit once more"
            )
        return cls(Stack(bits[:n] if places is None else bits, places=places), n_features)

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Flags:
        """Return the masks of some rows, of shape (n_rows, n_features)."""
        bits = self.bits[rows] if isinstance(rows, slice) else self.bits.take(np.asarray(rows, np.int64))
        return np.unpackbits(np.asarray(bits), axis=1, count=self.shape[1]).view(np.bool_)

    def counts(self) -> NDArray[np.int64]:
        """Count the masked entries of every row.

        Returns
        -------
        ndarray of shape (n,), int64
        """
        counts = [np.bitwise_count(part).sum(axis=1, dtype=np.int64) for part in _parts(self.bits)]
        return np.concatenate(counts) if counts else np.zeros(0, np.int64)

    def below(self, masks: PictureMasks) -> PictureMasks:
        """Return these masks with others below them.

        Parameters
        ----------
        masks : PictureMasks
            Of rows of the same length.

        Returns
        -------
        PictureMasks
        """
        return PictureMasks(self.bits.below(masks.bits[:]), self.shape[1])

    def chosen(self, rows: NDArray[np.int64]) -> PictureMasks:
        """Return the masks of some rows.

        Parameters
        ----------
        rows : ndarray of int of shape (n,)
            Their numbers.

        Returns
        -------
        PictureMasks
        """
        return PictureMasks(self.bits.chosen(rows), self.shape[1])

    @classmethod
    def of_none(cls, n: int, n_features: int) -> PictureMasks:
        """Return masks that hide nothing.

        Parameters
        ----------
        n, n_features : int

        Returns
        -------
        PictureMasks
        """
        return cls(np.zeros((n, -(-n_features // 8)), np.uint8), n_features)


def write_mask(mask: NDArray[np.bool_] | PictureMasks, path: str | os.PathLike[str]) -> None:
    """Write a mask as a ``.npy`` file of bits, whole or not at all, a few rows at a time.

    Parameters
    ----------
    mask : ndarray of shape (n, n_features), bool, or PictureMasks
    path : path-like
        The file; an older one is replaced.
    """
    if isinstance(mask, PictureMasks):
        _write_bits(mask.bits, path)
        return
    n, m = mask.shape
    header = {"descr": "|u1", "fortran_order": False, "shape": (n, -(-m // 8))}
    with replacing(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in _parts(mask):
            file.write(np.packbits(part, axis=1).data)


def append_masks(
    masks: PictureMasks, places: NDArray[np.int64], known: int, total: int, path: Path, *, anew: bool = False
) -> None:
    """Bring a file of masks to the rows of the originals beside it, to which some were appended.

    Rows that the file has stay what they are. So a model that is still the former one finds its masks there.

    Parameters
    ----------
    masks : PictureMasks
        Those of all pictures.
    places : ndarray of shape (n,), int64
        Where in the file of originals each picture is.
    known, total : int
        How many originals were there before, and are there now; the masks of those that came are written.
    path : Path
        The file of masks.
    anew : bool
        Nothing was masked before, so that a file that may be there does not matter. Defaults to False.

    Raises
    ------
    ModelFileError
        When the file that is there is damaged.
    OSError
        When writing fails.
    """
    width = masks.bits.shape[1]
    new = np.flatnonzero(places >= known)
    added = np.zeros((total - known, width), np.uint8)
    added[places[new] - known] = masks.bits.take(new)
    before = np.zeros((0, width), np.uint8) if anew else _bits_in(path)
    if not anew and len(before) == known:
        append_rows(path, [added])
        return
    # An update that was killed has added originals without their masks: no model has these rows.
    lacking = np.zeros((max(0, known - len(before)), width), np.uint8)
    _write_bits(Stack(before[:known], lacking, added), path)


def _bits_in(path: Path) -> Bits:
    try:
        return map_npy(path)
    except (FileFault, OSError) as error:
        raise ModelFileError(f"'{path}' is damaged and cannot be read: fit once more") from error


def _write_bits(bits: Stack, path: str | os.PathLike[str]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": bits.shape}
    with replacing(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in _parts(bits):
            file.write(np.ascontiguousarray(part).data)


def _parts(rows: Array | Stack) -> Iterator[Array]:
    height = max(1, _AT_ONCE // max(1, rows.shape[1]))
    return (rows[start : start + height] for start in range(0, len(rows), height))
