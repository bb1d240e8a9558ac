"""Which files of a folder are pictures, what their classes are, and what is passed over."""

from __future__ import annotations

import itertools
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .._files import shortened
from ._decoding import PICTURE_SUFFIXES
from .pictures import InputError

logger = logging.getLogger("nmfcore")

# Pictures that a folder may hold and that are not read.
UNREADABLE = frozenset(
    {".arw", ".avif", ".cr2", ".cr3", ".dcm", ".dds", ".dng", ".eps", ".exr", ".fits", ".hdr", ".heic", ".heif", ".ico"}
    | {".icns", ".jxl", ".jxr", ".nef", ".nii", ".orf", ".pcx", ".pdf", ".pfm", ".psd", ".raf", ".raw", ".rw2", ".sgi"}
    | {".svg", ".xbm", ".xcf", ".xpm"}
)
TABLES = frozenset({".gz", ".csv", ".tsv", ".npy", ".npz", ".h5", ".h5ad", ".hdf5"})
_NAMED = 3  # folders or kinds that a message lists


class Listing(NamedTuple):
    """The pictures of a folder.

    Attributes
    ----------
    files : list of Path
        The files, in natural order.
    names : list of str
        Their paths below the folder, parts separated by "/".
    """

    files: list[Path]
    names: list[str]

    def labels(self) -> list[str] | None:
        """Return the first folder of each path, "" for pictures beside the folders; None if there are no folders."""
        labels = [name.partition("/")[0] if "/" in name else "" for name in self.names]
        return labels if any(labels) else None


def listing(root: Path, recursive: bool) -> Listing:
    """List the pictures of a folder, and say what of it is not read.

    Parameters
    ----------
    root : Path
        The folder.
    recursive : bool
        Whether the folders in it are read, too.

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
    for folder, name, is_folder in _entries(root, recursive):
        if is_folder:
            folders.append(name)
        elif _is_picture(name):
            found.append((f"{folder}{name}", root / f"{folder}{name}"))
        else:
            others[Path(name).suffix.lower() or "no suffix"] += 1
    found.sort(key=lambda pair: [natural(part) for part in pair[0].split("/")])
    below = {} if recursive else _pictures_below(root, folders)
    if not found:
        raise InputError(_empty_folder(root, below))
    _say_what_is_passed_over(root, others, below, len(found))
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
    return Listing([entry for _, entry in found], [name for name, _ in found])


def natural(name: str) -> tuple[list[str | int], str]:
    """Return a key to sort by: runs of digits count as numbers, and the name itself breaks ties."""
    parts = re.split(r"([0-9]+)", name.casefold())  # text and digits alternate, so like is compared with like
    return [int(part) if odd else part for part, odd in zip(parts, itertools.cycle((False, True)), strict=False)], name


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES


def _entries(root: Path, recursive: bool) -> Iterator[tuple[str, str, bool]]:
    """Yield the folder ("" or "cats/"), the name, and whether it is a folder, of all that is not hidden."""
    if not recursive:
        with os.scandir(root) as entries:
            yield from (("", entry.name, _is_folder(entry)) for entry in entries if not entry.name.startswith("."))
        return
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real in seen:  # links may go in circles
            continue
        seen.add(real)
        below = Path(folder).relative_to(root).as_posix()
        yield from (("" if below == "." else f"{below}/", name, False) for name in files if not name.startswith("."))


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
            count = sum(_is_picture(each) for _, each, is_folder in _entries(root / name, False) if not is_folder)
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
            f"{'is' if sum(lost.values()) == 1 else 'are'} passed over ({_counted(lost)}): save them as PNG, TIFF or "
            "JPEG",
            UserWarning,
            stacklevel=5,
        )
    rest = {suffix: count for suffix, count in others.items() if suffix not in UNREADABLE}
    if rest:
        logger.info("passed over in '%s', as no pictures: %s", root, _counted(rest))


def _empty_folder(root: Path, below: dict[str, int]) -> str:
    message = f"the folder '{root}' holds no pictures (jpg, png, tif, pgm, bmp, gif, webp)"
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
        return f"{message}, but {_counted(kinds)}, which are not read: save them as PNG, TIFF or JPEG"
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
