"""The pictures of a grey model in their own colours, read from the files that it was made of."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from ..._files import expanded
from ...images import InputError, picture_row

if TYPE_CHECKING:
    from ..._typing import Array
    from ...search.engine import SearchEngine

__all__ = ["Colours"]

LOOKED_AT = 8  # files that tell whether there are colours
SMALL = 1 << 16  # bytes of a file that is decoded fast enough for a wall of them
GREY = np.array([0.299, 0.587, 0.114])  # the weights with which pictures become grey
FAR = 12.0  # grey levels, on the average, between a row and a file that is not what it was
COLOURED = 4.0  # grey levels, on the average, between the colours of a file that is not grey
DECODERS = 2  # files that are decoded at a time


class Colours:
    """Rows of a grey model, in colour.

    Parameters
    ----------
    engine : SearchEngine
        The model and its originals.

    Attributes
    ----------
    shape : tuple of (int, int, 3)
        What a row in colour folds to.
    there : bool
        Whether the model is grey, and the pictures that it was made of are still there and have colours.
    small : bool
        Whether their files are small, so that a wall of them can be drawn as it is scrolled.
    """

    def __init__(self, engine: SearchEngine):
        self.engine, self.folder = engine, expanded(engine.model.source or ".")
        self.shape = (*(engine.shape or (1, 1))[:2], 3)
        self.there = self.small = False
        self._turns = threading.Semaphore(DECODERS)
        names = engine.model.names
        if not names or not engine.model.source or len(engine.shape or (1, 1, 3)) == 3 or not self.folder.is_dir():
            return
        rows = np.unique(np.linspace(0, len(names) - 1, min(len(names), LOOKED_AT)).round().astype(int))
        found = [(row, picture) for row in rows.tolist() if (picture := self._decoded(row)) is not None]
        self.there = any(np.ptp(picture.reshape(-1, 3), axis=1).mean() > COLOURED for _, picture in found)
        self.small = self.there and max(self._path(row).stat().st_size for row, _ in found) <= SMALL

    def rows(self, rows: Sequence[int]) -> Array:
        """Return pictures in colour; where a file is gone or another one, its grey row.

        Parameters
        ----------
        rows : sequence of int
            Their numbers.

        Returns
        -------
        ndarray of shape (n, height·width·3), uint8
        """
        originals = self.engine.originals(np.asarray(rows))
        shown = np.empty((len(rows), int(np.prod(self.shape))), np.uint8)
        for place, (row, original) in enumerate(zip(rows, originals, strict=True)):
            picture = self._decoded(row)
            grey = np.clip(original.astype(np.float64), 0, 255)
            if picture is None or np.abs(picture.reshape(-1, 3) @ GREY - grey).mean() > FAR:
                picture = np.repeat(grey.round().astype(np.uint8), 3)
            shown[place] = picture
        return shown

    def _path(self, row: int) -> Path:
        names = self.engine.model.names
        assert names is not None
        return self.folder / names[row]

    def _decoded(self, row: int) -> Array | None:
        names = self.engine.model.names
        assert names is not None
        name = PurePosixPath(names[row])
        if name.is_absolute() or ".." in name.parts:  # a name that no folder of pictures gives: who wrote this model?
            return None
        try:
            if not self._path(row).is_file():
                return None
            with self._turns:
                return picture_row(self._path(row), self.shape, decoding=self.engine.model.decoding or {})
        except (InputError, OSError, ValueError):
            return None
