"""Which files of a folder are pictures, what their classes are, and what is passed over."""

from __future__ import annotations

import fnmatch
import itertools
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .._files import shortened
from ._decoding import HEIF_SUFFIXES, picture_suffixes
from .pictures import InputError

logger = logging.getLogger("nmfcore")

# Pictures that a folder may hold and that are not read.
UNREADABLE = frozenset(
    {".arw", ".cr2", ".cr3", ".dcm", ".dds", ".dng", ".eps", ".exr", ".fits", ".hdr", ".ico", *HEIF_SUFFIXES}
    | {".icns", ".jxl", ".jxr", ".nef", ".nii", ".orf", ".pcx", ".pdf", ".pfm", ".psd", ".raf", ".raw", ".rw2", ".sgi"}
    | {".svg", ".xbm", ".xcf", ".xpm"}
)
TABLES = frozenset({".gz", ".csv", ".tsv", ".npy", ".npz", ".h5", ".h5ad", ".hdf5"})
_NAMED = 3  # folders or kinds that a message lists
_MODEL = "model.npz"  # a folder with this file holds what nmfcore fit wrote, with these drawings beside it
_DRAWN = frozenset({"components.png", "reconstructions.png", "convergence.png"})
_SERVICE = frozenset({"@eaDir"})  # folders of previews, as Synology's systems make them


class Listing(NamedTuple):
    """The pictures of a folder.

    Attributes
    ----------
    files : list of Path
        The files, in natural order.
    names : list of str
        Their paths below the folder, parts separated by "/".
    unread : tuple of str
        Folders below it that cannot be read, "cats/" for one, so that it is not known what they hold.
    """

    files: list[Path]
    names: list[str]
    unread: tuple[str, ...] = ()

    def labels(self) -> list[str] | None:
        """Return the first folder of each path, "" for pictures beside the folders; None if there are no folders."""
        labels = [name.partition("/")[0] if "/" in name else "" for name in self.names]
        return labels if any(labels) else None


def listing(root: Path, recursive: bool, exclude: str | Sequence[str] = ()) -> Listing:
    """List the pictures of a folder, and say what of it is not read.

    Hidden files and folders, folders called "@eaDir", links to folders, and the drawings that ``nmfcore fit`` puts
    beside a model are left out.

    Parameters
    ----------
    root : Path
        The folder.
    recursive : bool
        Whether the folders in it are read, too.
    exclude : str or sequence of str
        Patterns of what is left out, as `load_images` describes them. Defaults to none.

    Returns
    -------
    Listing

    Raises
    ------
    InputError
        When there is no such folder, or no picture in it.
    """
    try:
        if not root.is_dir():
            raise InputError(f"there is no folder '{root}': check the path")
    except ValueError as error:  # a NUL in the path
        raise InputError(f"there is no folder '{shortened(root)}': check the path") from error
    found: list[tuple[str, Path]] = []
    others: Counter[str] = Counter()
    folders: list[str] = []
    walk = _Walk(root, recursive, excluding(exclude))
    for folder, name, is_folder in walk.entries():
        if is_folder:
            folders.append(name)
        elif _is_picture(name):
            found.append((f"{folder}{name}", root / f"{folder}{name}"))
        else:
            others[Path(name).suffix.lower() or "no suffix"] += 1
    found.sort(key=lambda pair: [natural(part) for part in pair[0].split("/")])
    below = {} if recursive else _pictures_below(root, folders)
    if not found:
        raise InputError(_empty_folder(root, below, walk.excluded))
    _say_what_is_passed_over(root, others, below, len(found))
    walk.say()
    if recursive:
        stray = [name for name, _ in found if "/" not in name]
        if stray and len(stray) < len(found):
            warnings.warn(
                f"{_count(len(stray), 'picture')} of '{root}' ('{shortened(stray[0])}'"
                f"{', …' if len(stray) > 1 else ''}) lie{'s' * (len(stray) == 1)} beside the folders of the classes, "
                f"and {'is' if len(stray) == 1 else 'are'} read with an empty label",
                UserWarning,
                stacklevel=4,
            )
    return Listing([entry for _, entry in found], [name for name, _ in found], tuple(walk.unread))


def names_in(root: Path, recursive: bool, exclude: str | Sequence[str]) -> list[str]:
    """Return the names that `listing` gives, in any order and without a word; none where there is no such folder.

    Parameters
    ----------
    root : Path
        The folder.
    recursive : bool
        Whether the folders in it are read, too.
    exclude : str or sequence of str
        Patterns of what is left out.

    Returns
    -------
    list of str
    """
    try:
        entries = list(_Walk(root, recursive, excluding(exclude)).entries())
    except (OSError, ValueError):  # which is said by whoever reads the pictures
        return []
    return [f"{folder}{name}" for folder, name, is_folder in entries if not is_folder and _is_picture(name)]


def excluding(exclude: str | Sequence[str]) -> Callable[[str, str], bool]:
    """Return a function of a folder ("" or "cats/") and a name in it that says whether a pattern leaves it out.

    Parameters
    ----------
    exclude : str or sequence of str
        Patterns, as `load_images` describes them.

    Returns
    -------
    callable(folder, name)

    Raises
    ------
    ValueError
        When these are no texts.
    """
    given = [exclude] if isinstance(exclude, str) else list(exclude)
    if not all(isinstance(pattern, str) and pattern for pattern in given):
        raise ValueError(f"exclude must be a pattern, like '*.gif', or several of them, got {shortened(exclude)!r}")
    whole = [fnmatch.translate(pattern.strip("/")) for pattern in given if "/" in pattern.strip("/")]
    single = [fnmatch.translate(pattern.strip("/")) for pattern in given if "/" not in pattern.strip("/")]
    of_path, of_name = (re.compile("|".join(f"(?:{each})" for each in group) or "(?!)") for group in (whole, single))
    return lambda folder, name: bool(of_name.match(name) or of_path.match(f"{folder}{name}"))


def natural(name: str) -> tuple[list[str | int], str]:
    """Return a key to sort by: runs of digits count as numbers, and the name itself breaks ties."""
    parts = re.split(r"([0-9]+)", name.casefold())  # text and digits alternate, so like is compared with like
    return [int(part) if odd else part for part, odd in zip(parts, itertools.cycle((False, True)), strict=False)], name


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in picture_suffixes()


class _Walk:
    """What a folder holds, but for what is hidden, excluded, a folder of previews, or drawn by nmfcore fit."""

    def __init__(self, root: Path, recursive: bool, excludes: Callable[[str, str], bool]):
        self.root, self.recursive, self.excludes = root, recursive, excludes
        self.unread: list[str] = []
        self.excluded = self.links = self.drawn = 0

    def entries(self) -> Iterator[tuple[str, str, bool]]:
        """Yield the folder ("" or "cats/"), the name, and whether it is a folder."""
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            try:
                with os.scandir(self.root / folder) as scan:
                    entries = [entry for entry in scan if not entry.name.startswith(".")]
            except OSError:
                if not folder:
                    raise
                self.unread.append(folder)
                continue
            ours = any(entry.name == _MODEL for entry in entries)
            for entry in entries:
                if self.excludes(folder, entry.name):
                    self.excluded += 1
                elif ours and entry.name in _DRAWN:
                    self.drawn += 1
                elif not _is_folder(entry):
                    yield folder, entry.name, False
                elif entry.name in _SERVICE:
                    continue
                elif entry.is_symlink():  # it may lead in a circle, or far away
                    self.links += 1
                elif self.recursive:
                    waiting.append(f"{folder}{entry.name}/")
                else:
                    yield folder, entry.name, True

    def say(self) -> None:
        """Say what is passed over although a picture may be in it."""
        if self.unread:
            one = len(self.unread) == 1
            warnings.warn(
                f"{_count(len(self.unread), 'folder')} below '{self.root}' ('{shortened(self.unread[0])}'"
                f"{'' if one else ', …'}) cannot be read and {'is' if one else 'are'} passed over: give yourself the "
                "right to read what is in there",
                UserWarning,
                stacklevel=5,
            )
        if self.recursive and self.links:
            logger.info("%s to folders in '%s' are not followed", _count(self.links, "link"), self.root)
        if self.drawn:
            logger.info("%s of nmfcore fit in '%s' are no pictures to learn", _count(self.drawn, "drawing"), self.root)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _pictures_below(root: Path, folders: Sequence[str]) -> dict[str, int]:
    """Return the folders in a folder that hold pictures, and how many they hold."""
    below = {}
    for name in sorted(folders, key=natural):
        try:
            entries = _Walk(root / name, False, excluding(())).entries()
            count = sum(_is_picture(each) for _, each, is_folder in entries if not is_folder)
        except OSError:  # a folder that may not be entered
            continue
        if count:
            below[name] = count
    return below


def _say_what_is_passed_over(root: Path, others: Counter[str], below: dict[str, int], found: int) -> None:
    lost = {suffix: count for suffix, count in others.items() if suffix in UNREADABLE}
    if below:
        warnings.warn(
            f"{_count(sum(below.values()), 'picture')} in {_count(len(below), 'subfolder')} of '{root}' "
            f"({_listed(below)}) {'is' if sum(below.values()) == 1 else 'are'} passed over, and "
            f"{_count(found, 'picture')} beside them {'is' if found == 1 else 'are'} read: give --recursive "
            "(recursive=True) to read all of them, with the names of the subfolders as labels",
            UserWarning,
            stacklevel=5,
        )
    if lost:
        warnings.warn(
            f"{_count(sum(lost.values()), 'picture')} of '{root}' in formats that are not read "
            f"{'is' if sum(lost.values()) == 1 else 'are'} passed over ({_counted(lost)}): {_how_to_read(lost)}",
            UserWarning,
            stacklevel=5,
        )
    rest = {suffix: count for suffix, count in others.items() if suffix not in UNREADABLE}
    if rest:
        logger.info("passed over in '%s', as no pictures: %s", root, _counted(rest))


def _how_to_read(lost: Collection[str]) -> str:
    """Say what to do about pictures of formats that are not read."""
    heif = [suffix for suffix in lost if suffix in HEIF_SUFFIXES]
    if not heif:
        return "save them as PNG, TIFF or JPEG"
    if len(heif) == len(lost):
        return "pip install 'nmfcore[heic]' reads them"
    return "pip install 'nmfcore[heic]' reads HEIC and AVIF, and the others can be saved as PNG, TIFF or JPEG"


def _empty_folder(root: Path, below: dict[str, int], excluded: int = 0) -> str:
    message = f"the folder '{root}' holds no pictures (jpg, png, tif, pgm, bmp, gif, webp)"
    if excluded:
        message += f", but for what exclude leaves out ({excluded:,})"
    if len(below) == 1:
        (name,) = below
        return f"{message}; its subfolder does: give '{root / name}'"
    if below:
        return (
            f"{message}; {len(below)} subfolders of it do ({_listed(below)}): give --recursive (recursive=True) to "
            "read them with their names as labels, or one of them"
        )
    entries = sorted((entry for entry in root.iterdir() if not entry.name.startswith(".")), key=lambda e: e.name)
    for entry in entries:
        if entry.suffix.lower() in TABLES and entry.is_file():
            return f"{message}; to read a file in it, give the file itself, like '{entry}'"
    kinds = Counter(entry.suffix.lower() for entry in entries if entry.suffix.lower() in UNREADABLE)
    if kinds:
        return f"{message}, but {_counted(kinds)}, which are not read: {_how_to_read(kinds)}"
    if any(entry.is_dir() for entry in entries):
        return f"{message}: give a folder that does, or --recursive (recursive=True) to look in its subfolders"
    return f"{message}: give a folder that does"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _listed(names: dict[str, int]) -> str:
    listed = ", ".join(f"'{shortened(name)}'" for name in list(names)[:_NAMED])
    return f"{listed}, …" if len(names) > _NAMED else listed


def _counted(kinds: dict[str, int]) -> str:
    most = Counter(kinds).most_common()
    shown = ", ".join(f"{count:,} {shortened(suffix, 20)}" for suffix, count in most[: 2 * _NAMED])
    rest = sum(count for _, count in most[2 * _NAMED :])
    return f"{shown} and {rest:,} others" if rest else shown
