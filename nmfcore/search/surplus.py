"""Which surplus pictures can be moved away safely, and where to."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._text import printable
from ..images import InputError, picture_row
from ..images.whole import pixels_digest
from .manifest import digest_of
from .moving import Move
from .originals import PictureFiles

if TYPE_CHECKING:
    from .collection import Collection
    from .duplicates import DuplicateGroup

__all__ = ["planned_moves"]


def planned_moves(
    groups: Iterable[DuplicateGroup], engine: Collection, files: PictureFiles, home: Path, folder: Path
) -> tuple[list[Move], list[str]]:
    """Say which files of surplus pictures can be moved, and where to.

    A file stays if it or the one to keep is not what it was, if a link leads to it, or if it holds other pictures, too.

    Parameters
    ----------
    groups : iterable of DuplicateGroup
        All but the first row of each are surplus.
    engine : Collection
        The pictures as they were read.
    files : PictureFiles
        Their files.
    home : Path
        The folder of these.
    folder : Path
        Where they are to go.

    Returns
    -------
    moves : list of Move
    left : list of str
        A sentence for each surplus picture that stays.

    Raises
    ------
    InputError
        When `folder` lies in `home`.
    """
    real, target = Path(os.path.realpath(home)), Path(os.path.realpath(folder))
    if target == real or real in target.parents:
        raise InputError(f"'{folder}' lies in '{home}', where the pictures are: choose a folder outside of it")
    moves, left, taken, held = [], [], set[Path](), files.held_by_links()
    for group in groups:
        for row, name in zip(group.surplus.tolist(), group.names[1:], strict=True):
            path = files.path(row)
            why = _why_it_stays(group, row, path, engine, files, held)
            if path is None or why:
                left.append(f"'{printable(name)}' {why}")
            else:
                moves.append(Move(path, _free(target / files.names[row], taken), files.path(group.keep)))
    return moves, left


def _why_it_stays(
    group: DuplicateGroup, row: int, path: Path | None, engine: Collection, files: PictureFiles, held: set[Path]
) -> str:
    """Say why a surplus picture is not moved; the empty string if it is."""
    if path is None:
        return "stays, as its file holds other pages" if files.is_page(row) else "has no file"
    keep = files.path(group.keep)
    if keep is None and not files.is_page(group.keep):
        return "stays, as the file of the picture to keep is missing"
    if path.is_symlink():
        return "stays, as it is a link"
    if Path(os.path.realpath(path)) in held:
        return "stays, as a link leads to it"
    if not _still_alike(group, row, path, keep, engine):
        return "stays, as it or the picture to keep has changed since they were read"
    return ""


def _still_alike(group: DuplicateGroup, row: int, path: Path, keep: Path | None, engine: Collection) -> bool:
    if keep is None:  # a page of a file, which was compared when the groups were made
        return _unchanged(row, path, engine)
    try:
        if group.kind == "file":
            return digest_of(path) == digest_of(keep)
    except OSError:
        return False
    if group.kind == "pixels":
        seen = pixels_digest(path)
        return seen is not None and seen == pixels_digest(keep)
    return _unchanged(row, path, engine) and _unchanged(group.keep, keep, engine)


def _unchanged(row: int, path: Path, engine: Collection) -> bool:
    """Whether a file still gives the pixels that its row has."""
    model = engine.model
    if model.shape is None:
        return False
    try:
        now = picture_row(path, model.shape, decoding=model.decoding or {})
    except InputError:
        return False
    return bool(np.array_equal(now, engine.originals([row])[0]))


def _free(target: Path, taken: set[Path]) -> Path:
    """Return a name that no file has, and none of `taken`; that name is taken then, too."""
    number, free = 1, target
    while free in taken or os.path.lexists(free):
        number += 1
        free = target.with_name(f"{target.stem}-{number}{target.suffix}")
    taken.add(free)
    return free
