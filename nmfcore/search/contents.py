"""What an engine holds: a model, its originals and their masks; with pictures added, and without some."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .._typing import Array
from ..images import InputError, Pictures
from ..models import Model
from .manifest import Manifest
from .masks import PictureMasks
from .stack import Stack

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["Contents", "added", "removed"]


@dataclass(frozen=True, eq=False)
class Contents:
    """A model with its originals and their masks.

    Attributes
    ----------
    model : Model
        What was learned, with a row of codes for each picture.
    rows : Stack or None
        The originals; None where they are not kept.
    masks : PictureMasks or None
        Which pixels are masked. None if none is, or if the model was saved without the masks that it was fitted with.
    """

    model: Model
    rows: Stack | None = None
    masks: PictureMasks | None = None


def added(contents: Contents, pictures: Pictures, codes: Array) -> Contents:
    """Return contents with pictures at their end.

    Parameters
    ----------
    contents : Contents
        With originals.
    pictures : Pictures
        What is added.
    codes : ndarray of shape (n_added, k)
        Their codes.

    Returns
    -------
    Contents
    """
    model, rows, masks = contents.model, contents.rows, contents.masks
    assert rows is not None
    stack, old = rows.below(pictures.matrix), len(model.W)
    masked = 0 if pictures.mask is None else int(np.count_nonzero(pictures.mask))
    if masks is not None or masked:
        masks = PictureMasks.of_none(old, stack.shape[1]) if masks is None else masks
        new = PictureMasks.of_none(len(codes), stack.shape[1])
        masks = masks.below(new if pictures.mask is None else PictureMasks.of(pictures.mask))
    names = None
    if model.names is not None or pictures.names is not None:
        before = model.names or tuple(f"row {row}" for row in range(old))
        after = pictures.names or tuple(f"row {row}" for row in range(old, old + len(codes)))
        names = before + after
    labels = _joined(model.labels, pictures.labels, old, len(codes))
    W = np.concatenate([model.W, codes.astype(model.W.dtype, copy=False)])
    grown = dataclasses.replace(model, W=W, names=names, labels=labels, masked=model.masked + masked)
    return Contents(grown, stack, masks)


def removed(contents: Contents, pictures: int | str | Sequence[int | str], numbers: Mapping[str, int]) -> Contents:
    """Return contents without some pictures.

    Parameters
    ----------
    contents : Contents
        What there is.
    pictures : int, str, or sequence of these
        Row numbers, or names.
    numbers : mapping of str to int
        The row of each name.

    Returns
    -------
    Contents

    Raises
    ------
    InputError
        When there is no such row or name, or no picture would be left.
    """
    several = isinstance(pictures, Sequence | np.ndarray) and not isinstance(pictures, str)
    given = list(cast("Sequence[int | str]", pictures)) if several else [cast("int | str", pictures)]
    model, gone, n = contents.model, set(), len(contents.model.W)
    for each in given:
        row = numbers.get(each, -1) if isinstance(each, str) else each
        if isinstance(row, bool) or not isinstance(row, int | np.integer) or not 0 <= row < n:
            raise InputError(f"there is no picture {each!r}: give names, or row numbers from 0 to {n - 1:,}")
        gone.add(int(row))
    rows = np.setdiff1d(np.arange(n), np.array(sorted(gone), np.int64))
    if not len(rows):
        raise InputError("no picture would be left: a SearchEngine holds one at least")
    changed: dict[str, Any] = {
        "W": model.W[rows],
        "names": None if model.names is None else tuple(model.names[row] for row in rows.tolist()),
        "labels": None if model.labels is None else model.labels[rows],
        "files": None if model.files is None else Manifest.of(model).chosen(rows.tolist()).plain(),
    }
    masks = contents.masks
    if masks is not None:
        masks = masks.chosen(rows)
        changed["masked"] = int(masks.counts().sum())
    stack = None if contents.rows is None else contents.rows.chosen(rows)
    return Contents(dataclasses.replace(model, **changed), stack, masks)


def _joined(old: ArrayLike | None, new: ArrayLike | None, n_old: int, n_new: int) -> Array | None:
    """Labels of both; what has none is labelled with the empty string."""
    if old is None and new is None:
        return None
    if old is not None and new is not None:
        old, new = np.asarray(old), np.asarray(new)
        return np.concatenate([old, new] if old.dtype.kind == new.dtype.kind else [old.astype(str), new.astype(str)])
    first = np.zeros(n_old, "U1") if old is None else np.asarray(old).astype(str)
    second = np.zeros(n_new, "U1") if new is None else np.asarray(new).astype(str)
    return np.concatenate([first, second])
