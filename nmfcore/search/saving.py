"""An engine in its folder: how it is opened, written as a whole, and brought up to date by what is new."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from .._files import replacing
from .._typing import Array
from ..models import Model, ModelFileError, load, save
from .blocks import write_rows
from .contents import Contents
from .folders import MASK, MODEL, PICTURES, SETTINGS, append_rows, held, replaced_folder
from .masks import PictureMasks, append_masks, write_mask
from .spaces import SPACES
from .stack import Stack

__all__ = ["Saved", "appended", "lives_in", "opened", "saved_space", "written"]


@dataclass(frozen=True)
class Saved:
    """Number, size and time of the files of an engine when they were read, by which a change is noticed.

    Attributes
    ----------
    model : tuple of three int, or None
        Of model.npz: number of the file, size, and time of the last change.
    folder : tuple of two int, or None
        Device and number of the folder.
    pictures : bool
        Whether there are originals.
    masks : bool
        Whether there is a file of masks, which may be that of an earlier model.
    mask : {"none", "kept", "lost"}
        Where the model's masks are: no pixel is masked, they are in that file, or there is no such file.
    """

    model: tuple[int, int, int] | None
    folder: tuple[int, int] | None
    pictures: bool
    masks: bool = field(default=False, compare=False)
    mask: Literal["none", "kept", "lost"] = field(default="lost", compare=False)  # as of pickles of earlier versions

    @classmethod
    def of(cls, home: Path) -> Saved:
        """Return the state of a folder as it is now.

        Parameters
        ----------
        home : Path
            The folder.

        Returns
        -------
        Saved
        """
        try:
            seen, folder = os.stat(home / MODEL), os.stat(home)
        except OSError:
            return cls(None, None, False)
        model = (seen.st_ino, seen.st_size, seen.st_mtime_ns)
        pictures, masks = ((home / name).exists() for name in (PICTURES, MASK))
        return cls(model, (folder.st_dev, folder.st_ino), pictures, masks)

    def knowing(self, model: Model) -> Saved:
        """Return the same with what the model says: whether pixels are masked.

        Parameters
        ----------
        model : Model
            The one that is there.

        Returns
        -------
        Saved
        """
        return dataclasses.replace(self, mask="none" if not model.masked else "kept" if self.masks else "lost")

    def at(self, home: Path) -> bool:
        """Say whether a path leads to the folder whose state this is.

        Parameters
        ----------
        home : Path
            The path.

        Returns
        -------
        bool
        """
        return self.folder is not None and Saved.of(home).folder == self.folder


def opened(path: Path) -> tuple[Contents, Path, Saved]:
    """Open what `written` or ``nmfcore fit`` wrote; originals and masks stay on the disk, memory-mapped.

    Parameters
    ----------
    path : Path
        The folder, or a model file in it.

    Returns
    -------
    contents : Contents
        What is there.
    home : Path
        The folder.
    saved : Saved
        Its state.

    Raises
    ------
    FileNotFoundError
        When there is no model.
    ModelFileError
        When the files are damaged, or do not belong together.
    """
    home = path if path.is_dir() else path.parent
    saved = Saved.of(home)
    model = load(path)
    stack = Stack(_mapped(home / PICTURES, model), places=model.places) if saved.pictures else None
    masks = _mapped_masks(home, model) if saved.masks else None
    return Contents(model, stack, masks), home, saved.knowing(model)


def written(home: Path, contents: Contents, space: str) -> None:
    """Write an engine as a whole; it takes the place of what its folder holds.

    Parameters
    ----------
    home : Path
        The folder; made if it does not exist.
    contents : Contents
        Originals and masks are written if it has them.
    space : str
        Where similarity is measured.

    Raises
    ------
    OSError
        When writing fails.
    """
    with replaced_folder(home) as folder:
        if contents.rows is not None:
            write_rows([contents.rows], folder / PICTURES)
        if contents.masks is not None:
            write_mask(contents.masks, folder / MASK)
        _save_space(folder / SETTINGS, space)
        save(contents.model, folder / MODEL)


def lives_in(home: Path, saved: Saved, contents: Contents, pictures: bool) -> bool:
    """Say whether all that an engine has is in a folder but for what is new, which can then be appended.

    Parameters
    ----------
    home : Path
        The folder.
    saved : Saved
        State of the folder that the engine was loaded from.
    contents : Contents
        What the engine has now.
    pictures : bool
        Whether originals are to be there.

    Returns
    -------
    bool
    """
    if saved.pictures != pictures or not saved.at(home):
        return False
    if not pictures:
        return not saved.masks  # which a fit may leave that was killed before it wrote its pictures
    if saved.mask == "lost" and contents.masks is not None:  # masks that were found again are written as a whole
        return False
    stack = contents.rows
    return stack is not None and stack.dtype == stack.blocks[0].dtype


def appended(home: Path, saved: Saved, contents: Contents, space: str) -> tuple[Contents, Saved]:
    """Write what is new to the folder that an engine lives in.

    Parameters
    ----------
    home : Path
        The folder.
    saved : Saved
        Its state when it was read.
    contents : Contents
        What the engine has now.
    space : str
        Where similarity is measured.

    Returns
    -------
    contents : Contents
        The same, with originals and masks mapped from the files.
    saved : Saved
        The state of the folder now.

    Raises
    ------
    ModelFileError
        When another process has changed the folder.
    OSError
        When writing fails.
    """
    with held(home):
        if Saved.of(home) != saved:
            raise ModelFileError(f"'{home}' was changed by another process since it was read: load it again")
        model, stack, masks = contents.model, contents.rows, contents.masks
        if saved.pictures and stack is not None:
            known, new = len(stack.blocks[0]), stack.blocks[1:]
            before = append_rows(home / PICTURES, new)
            places = np.arange(len(stack)) if stack.places is None else stack.places
            # An update that was killed leaves rows in the file that belong to no model.
            places = np.where(places < known, places, places + (before - known))
            if masks is not None and model.masked:
                total = before + sum(map(len, new))
                append_masks(masks, places, before, total, home / MASK, anew=saved.mask == "none")
            model = dataclasses.replace(model, places=None if _is_range(places) else places)
        if saved_space(home) != space:
            _save_space(home / SETTINGS, space)
        save(model, home / MODEL)
        now = Saved.of(home).knowing(model)
    if now.pictures:
        stack, masks = Stack(_mapped(home / PICTURES, model), places=model.places), _mapped_masks(home, model)
    return Contents(contents.model, stack, masks), now


def saved_space(folder: Path) -> str:
    """Return the space that an engine was saved with.

    Parameters
    ----------
    folder : Path
        Its folder.

    Returns
    -------
    str

    Raises
    ------
    ModelFileError
        When the file that names it is damaged, or names none that this version has.
    """
    path = folder / SETTINGS
    if not path.exists():
        return SPACES[0]
    try:
        space = json.loads(path.read_text(encoding="utf-8"))["space"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"'{path}' is damaged: remove it, or give the space") from error
    if space not in SPACES:
        raise ModelFileError(f"'{path}' names the space {space!r}: this version has {', '.join(SPACES)}")
    return str(space)


def _save_space(path: Path, space: str) -> None:
    with replacing(path) as file:
        file.write(json.dumps({"space": space}).encode() + b"\n")


def _mapped_masks(home: Path, model: Model) -> PictureMasks | None:
    """Memory-map the masks beside a model; None where it has none, or its file of masks is lost."""
    if not model.masked or not (home / MASK).exists():
        return None
    return PictureMasks.read(home / MASK, len(model.W), model.components.shape[1], model.places)


def _mapped(path: Path, model: Model) -> Array:
    """Memory-map the originals beside a model."""
    n, m = len(model.W), model.components.shape[1]
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        shape = rows.shape
    except (ValueError, EOFError, OSError, AttributeError) as error:
        raise ModelFileError(f"'{path}' is damaged and cannot be read: fit once more") from error
    if len(shape) != 2 or shape[1] != m or (model.places is None and shape[0] < n) or rows.dtype.kind not in "biuf":
        raise ModelFileError(
            f"'{path}' {shape} does not belong to the model beside it, which was made of {n:,} rows of {m} features: "
            "remove it, or fit once more"
        )
    if model.places is None:
        return rows[:n]
    if model.places.max(initial=-1) >= len(rows):
        raise ModelFileError(f"'{path}' lacks originals of the model beside it: fit once more")
    return rows


def _is_range(places: Array) -> bool:
    return bool(np.array_equal(places, np.arange(len(places))))
