"""Folds of rows and of columns: random ones, of groups that stay together, of the tiles of pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from .._typing import Array

__all__ = ["Split", "cut_into", "split", "tile_labels"]

Tiles: TypeAlias = Sequence[int] | Sequence[Sequence[int]]  # see `tile_labels`

TILES_A_SIDE = 8  # where only the shape of a picture is given


class Split(NamedTuple):
    """The folds of one repeat: increasing numbers of the rows, and of the columns, of each."""

    rows: list[Array]
    columns: list[Array]

    @property
    def cells(self) -> list[tuple[int, int]]:
        """The pairs (row fold, column fold), each of which is one block that is left out."""
        return [(i, j) for i in range(len(self.rows)) for j in range(len(self.columns))]

    @property
    def largest_k(self) -> int:
        """The largest number of components that every block that is fitted allows."""
        n, m = (sum(map(len, folds)) for folds in self)
        return min(n - max(map(len, self.rows)), m - max(map(len, self.columns)))


def cut_into(parts: int, count: int, labels: Array | None, rng: np.random.Generator) -> list[Array]:
    """Return the members 0 … count − 1 in random folds of about the same size, in increasing order.

    Parameters
    ----------
    parts : int
        Number of folds.
    count : int
        Number of members.
    labels : ndarray of shape (count,) of int, or None
        Members with the same label get into the same fold. None: each member is on its own.
    rng : numpy.random.Generator

    Returns
    -------
    folds : list of ndarray of int

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.ranks.splits import cut_into
    >>> folds = cut_into(2, 6, np.array([0, 0, 1, 1, 2, 2]), np.random.default_rng(0))
    >>> [sorted(set(fold // 2)) == sorted(fold[::2] // 2) for fold in folds]
    [True, True]
    """
    if labels is None:
        return [np.sort(fold) for fold in np.array_split(rng.permutation(count), parts)]
    sizes = np.bincount(labels).tolist()
    filled, fold_of = [0] * parts, np.empty(len(sizes), np.intp)
    for label in rng.permutation(len(sizes)).tolist():  # each goes where the fewest members are
        fold = filled.index(min(filled))
        fold_of[label] = fold
        filled[fold] += sizes[label]
    folds = fold_of[labels]
    return [np.flatnonzero(folds == fold) for fold in range(parts)]


def split(
    shape: tuple[int, int], folds: tuple[int, int], groups: Array | None, tiles: Array | None,
    seed: np.random.SeedSequence,
) -> Split:  # fmt: skip
    """Return the folds of one repeat.

    Parameters
    ----------
    shape : tuple of (int, int)
        Rows and columns.
    folds : tuple of (int, int)
        Numbers of folds of the rows and of the columns.
    groups, tiles : ndarray of int, or None
        Labels of the rows and of the columns, see `cut_into`.
    seed : numpy.random.SeedSequence

    Returns
    -------
    split : Split
    """
    rng = np.random.default_rng(seed)
    return Split(*(cut_into(*each, rng) for each in zip(folds, shape, (groups, tiles), strict=True)))


def tile_labels(tiles: Tiles, columns: int) -> tuple[Array, tuple[int, int]]:
    """Return the number of the tile that each column of a matrix of pictures lies in, and the size of a tile.

    Parameters
    ----------
    tiles : tuple
        (height, width) or (height, width, channels) of the pictures, whose sides are then cut into eight, or
        ((height, width[, channels]), (tile height, tile width)).
    columns : int
        Number of columns: height · width · channels.

    Returns
    -------
    labels : ndarray of shape (columns,) of int
    size : tuple of (int, int)
        Height and width of a tile; those at the lower and the right edge may be smaller.

    Raises
    ------
    ValueError
        If `tiles` is neither, or the shape is not that of a picture of so many columns.

    Examples
    --------
    >>> from nmfcore.ranks.splits import tile_labels
    >>> labels, size = tile_labels(((4, 6), (2, 3)), 24)
    >>> labels.reshape(4, 6)
    array([[0, 0, 0, 1, 1, 1],
           [0, 0, 0, 1, 1, 1],
           [2, 2, 2, 3, 3, 3],
           [2, 2, 2, 3, 3, 3]])
    >>> tile_labels((28, 28), 784)[1]
    (4, 4)
    """
    shape, size = _sides(tiles)
    if math.prod(shape) != columns:
        raise ValueError(
            f"tiles = {tiles!r}: pictures of {'×'.join(map(str, shape))} have {math.prod(shape):,} numbers, but X has "
            f"{columns:,} columns. Give the height and width (and 3 for colours) of the pictures that its rows fold to."
        )
    high, wide = size
    y, x = np.arange(shape[0]) // high, np.arange(shape[1]) // wide
    labels = y[:, None] * (int(x[-1]) + 1) + x
    return np.repeat(labels.ravel(), shape[2] if len(shape) == 3 else 1), size


def _sides(tiles: Any) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Return the shape of the pictures and the size of a tile."""
    try:
        pair = len(tiles) == 2 and not any(isinstance(each, int | np.integer) for each in tiles)
        shape, size = tiles if pair else (tiles, None)
        shape = tuple(_whole(side) for side in shape)
        size = None if size is None else tuple(_whole(side) for side in size)
        understood = len(shape) in (2, 3) and (size is None or len(size) == 2)
    except (TypeError, ValueError):
        understood = False
    if not understood:
        raise ValueError(
            f"tiles = {tiles!r} is no shape of pictures: give (height, width), (height, width, channels), or "
            "((height, width), (tile height, tile width)), in pixels."
        )
    if size is None:
        size = tuple(min(side, max(2, math.ceil(side / TILES_A_SIDE))) for side in shape[:2])
    return shape, (size[0], size[1])


def _whole(side: object) -> int:
    if not isinstance(side, int | np.integer) or side < 1:
        raise ValueError(side)
    return int(side)


def group_labels(groups: ArrayLike | Sequence[object], rows: int) -> Array:
    """Return the groups of the rows as numbers from 0 on.

    Parameters
    ----------
    groups : array-like of shape (rows,)
        Anything that can be sorted: numbers, or texts.
    rows : int

    Returns
    -------
    labels : ndarray of shape (rows,) of int

    Raises
    ------
    ValueError
        If there is not one group for each row.
    """
    given = np.asarray(groups)
    if given.shape != (rows,):
        raise ValueError(f"groups has shape {given.shape}, but X has {rows:,} rows: give one group for each row.")
    return np.unique(given, return_inverse=True)[1]
