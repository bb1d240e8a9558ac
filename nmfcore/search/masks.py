"""Which pixels of an engine's pictures are masked: a bit for each, in memory or in a file beside the pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .._files import FileFault, map_npy, replacing
from ..models import ModelFileError

__all__ = ["PictureMasks"]

Bits = NDArray[np.uint8]
Flags = NDArray[np.bool_]

T = TypeVar("T", np.bool_, np.uint8)

_AT_ONCE = 1 << 24  # entries of a mask that are unpacked at a time


class PictureMasks:
    """The masks of pictures, a row each; it hands out rows as ``masks[rows]``.

    Parameters
    ----------
    bits : ndarray of shape (n, ⌈n_features / 8⌉), uint8
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

    def __init__(self, bits: Bits, n_features: int):
        self.bits, self.shape, self.dtype = bits, (len(bits), n_features), np.dtype(bool)

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
    def read(cls, path: Path, n: int, n_features: int) -> PictureMasks:
        """Memory-map a file that `write_mask` wrote.

        Parameters
        ----------
        path : Path
        n, n_features : int
            Shape of the mask.

        Returns
        -------
        PictureMasks

        Raises
        ------
        ModelFileError
            When the file is damaged, or holds the masks of other pictures.
        """
        try:
            bits = map_npy(path)
        except (FileFault, OSError) as error:
            raise ModelFileError(f"'{path}' is damaged and cannot be read: fit once more") from error
        if bits.dtype != np.uint8 or bits.ndim != 2 or len(bits) < n or bits.shape[1] != -(-n_features // 8):
            raise ModelFileError(
                f"'{path}' {bits.shape} does not belong to the model beside it, which was made of {n:,} rows of "
                f"{n_features} features: fit once more"
            )
        return cls(bits[:n], n_features)

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Flags:
        """Return the masks of some rows, of shape (n_rows, n_features)."""
        return np.unpackbits(np.asarray(self.bits[rows]), axis=1, count=self.shape[1]).view(np.bool_)

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
        return PictureMasks(np.concatenate([self.bits, masks.bits]), self.shape[1])

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
        return PictureMasks(np.asarray(self.bits[rows]), self.shape[1])

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
    n, m = mask.shape
    header = {"descr": "|u1", "fortran_order": False, "shape": (n, -(-m // 8))}
    with replacing(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        if isinstance(mask, PictureMasks):
            for bits in _parts(mask.bits):
                file.write(np.ascontiguousarray(bits).data)
        else:
            for part in _parts(mask):
                file.write(np.packbits(part, axis=1).data)


def _parts(rows: NDArray[T]) -> Iterator[NDArray[T]]:
    height = max(1, _AT_ONCE // max(1, rows.shape[1]))
    return (rows[start : start + height] for start in range(0, len(rows), height))
