"""Rows of originals where they lie: in blocks of several arrays, in any order, and none of them copied."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..images import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .._typing import Array

__all__ = ["Stack"]


class Stack:
    """Blocks of rows, one below the other and none of them copied.

    Parameters
    ----------
    *blocks : array-like of shape (n_i, m)
        The blocks.
    places : ndarray of shape (n,), int64, or None
        Which row of the blocks each row of the stack is; None: all of them, in their order.
    """

    def __init__(self, *blocks: ArrayLike, places: NDArray[np.int64] | None = None):
        self.blocks = [np.asanyarray(block) for block in blocks]
        self.starts = np.cumsum([0, *(len(block) for block in self.blocks)])
        self.places = places

    def __len__(self) -> int:
        return int(self.starts[-1]) if self.places is None else len(self.places)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows, and of features."""
        return (len(self), *self.blocks[0].shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """The type that all blocks can be given in."""
        return np.result_type(*self.blocks)

    def take(self, rows: NDArray[np.int64]) -> Array:
        """Return some rows.

        Parameters
        ----------
        rows : ndarray of int of shape (n,)
            Their numbers.

        Returns
        -------
        ndarray of shape (n, m)

        Raises
        ------
        InputError
            When there is no such row.
        """
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise InputError(f"there is no row {rows[(rows < 0) | (rows >= len(self))][0]}")
        if self.places is not None:
            rows = self.places[rows]
        if len(self.blocks) == 1:
            return np.asarray(self.blocks[0][rows])
        out = np.empty((len(rows), *self.blocks[0].shape[1:]), self.dtype)
        which = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(which):
            out[which == number] = self.blocks[number][rows[which == number] - self.starts[number]]
        return out

    def below(self, *blocks: ArrayLike) -> Stack:
        """Return a stack with more rows at its end.

        Parameters
        ----------
        *blocks : array-like of shape (n_i, m)
            The rows.

        Returns
        -------
        Stack
        """
        stack = Stack(*self.blocks, *blocks)
        if self.places is not None:
            stack.places = np.concatenate([self.places, np.arange(self.starts[-1], stack.starts[-1])])
        return stack

    def chosen(self, rows: NDArray[np.int64]) -> Stack:
        """Return a stack of some of the rows, in the order that is given.

        Parameters
        ----------
        rows : ndarray of int of shape (n,)
            Their numbers.

        Returns
        -------
        Stack
        """
        if self.places is None and np.array_equal(rows, np.arange(len(self))):
            return self
        return Stack(*self.blocks, places=rows if self.places is None else self.places[rows])

    def __getitem__(self, rows: slice) -> Array:
        if len(self.blocks) == 1 and self.places is None:
            return self.blocks[0][rows]
        return self.take(np.arange(len(self))[rows])
