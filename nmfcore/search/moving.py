"""Files moved so that it can be undone: what will be moved is written down before the first file is.

No file is deleted or replaced. A file on the same disk gets its new name before it loses the old one; to another disk
it is copied, the copy is compared, and only then the old name goes. So every file exists at every moment under one of
its two names at least, and the list, which is complete before anything moves, says which names these are.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .._files import sync_folder
from .._text import printable
from ..images import InputError
from .manifest import digest_of

__all__ = ["Move", "move_files", "undo_moves"]

UNDO = "nmfcore-undo.json"
_FORMAT, _VERSION = "nmfcore-moves", 1


@dataclass(frozen=True)
class Move:
    """A file that is moved.

    Attributes
    ----------
    source : Path
        Where it lies.
    target : Path
        Where it goes.
    kept : Path or None
        The file of the same picture that stays; None where that is a page of a file.

    Examples
    --------
    >>> from pathlib import Path
    >>> from nmfcore.search.moving import Move
    >>> Move(Path("a.jpg"), Path("surplus/a.jpg"), Path("b.jpg")).target.name
    'a.jpg'
    """

    source: Path
    target: Path
    kept: Path | None


def move_files(moves: Sequence[Move], folder: Path) -> Path:
    """Move files, after writing down what will be moved.

    Parameters
    ----------
    moves : sequence of Move
        Their targets lie below `folder`, and none of them exists.
    folder : Path
        Where the list is written to; made if it does not exist.

    Returns
    -------
    Path
        The list, for `undo_moves`.

    Raises
    ------
    OSError
        When a file cannot be moved; FileExistsError when its target has come into being meanwhile. The files before it
        are moved, and are in the list, which a note of the exception names.
    """
    folder = Path(os.path.abspath(folder))
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "format": _FORMAT,
        "version": _VERSION,
        "moves": [
            {
                "from": os.path.abspath(move.source),
                "to": os.path.abspath(move.target),
                "kept": None if move.kept is None else os.path.abspath(move.kept),
            }
            for move in moves
        ],
    }
    undo = _written(folder, json.dumps(record, indent=1).encode("ascii") + b"\n")
    try:
        for move in moves:
            move.target.parent.mkdir(parents=True, exist_ok=True)
            _move(Path(os.path.abspath(move.source)), Path(os.path.abspath(move.target)))
    except BaseException as error:
        error.add_note(f"'{undo}' lists the files that were moved: nmfcore duplicates --undo moves them back")
        raise
    return undo


def _written(folder: Path, content: bytes) -> Path:
    """Write the list under a name that no file has, and see it onto the disk."""
    number = 1
    while True:
        path = folder / (UNDO if number == 1 else f"{Path(UNDO).stem}-{number}.json")
        try:
            with open(path, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            number += 1
            continue
        sync_folder(folder)
        return path


def undo_moves(file: str | os.PathLike[str]) -> tuple[int, list[str]]:
    """Move files back to where they were.

    Parameters
    ----------
    file : path-like
        The list that `Duplicates.move_to`, or ``nmfcore duplicates --move-to``, wrote. It stays.

    Returns
    -------
    back : int
        How many files were moved back. One that lies where it was, and not where it was to go, does not count.
    left : list of str
        A sentence for each that could not be moved back.

    Raises
    ------
    FileNotFoundError
        When there is no such list.
    InputError
        When the file is no such list, or was written by a newer nmfcore.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from nmfcore.search.moving import Move, move_files, undo_moves
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     home = pathlib.Path(folder)
    ...     _ = (home / "a.jpg").write_bytes(b"picture")
    ...     undo = move_files([Move(home / "a.jpg", home / "out" / "a.jpg", None)], home / "out")
    ...     moved = (home / "a.jpg").exists()
    ...     moved, undo_moves(undo), (home / "a.jpg").read_bytes()
    (False, (1, []), b'picture')
    """
    back, left = 0, []
    for source, target in reversed(_read(Path(os.path.expanduser(file)))):
        was, now = os.path.lexists(source), os.path.lexists(target)
        if was and now and _same(source, target):  # an interrupted move has left both names of one file
            os.unlink(target)
            back += 1
        elif was and now:
            left.append(f"'{printable(str(target))}' stays, as there is a file '{printable(str(source))}' again")
        elif now:
            try:
                source.parent.mkdir(parents=True, exist_ok=True)
                _move(target, source)
                back += 1
            except OSError as error:
                left.append(f"'{printable(str(target))}' could not be moved back: {error.strerror or error}")
        elif not was:
            left.append(f"'{printable(str(target))}' is not there any more, nor is '{printable(str(source))}'")
    return back, left


def _same(source: Path, target: Path) -> bool:
    """Whether two names are those of one file; links are not followed."""
    a, b = os.lstat(source), os.lstat(target)
    return (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)


def _read(path: Path) -> list[tuple[Path, Path]]:
    if not path.is_file():
        msg = f"there is no file '{path}': give the one that --move-to wrote"
        raise FileNotFoundError(msg)
    try:
        record = json.loads(path.read_bytes())
        if record["format"] != _FORMAT:
            raise ValueError(record["format"])
        newer = record["version"] > _VERSION
        moves = [] if newer else [(Path(str(move["from"])), Path(str(move["to"]))) for move in record["moves"]]
        if any(not each.is_absolute() for pair in moves for each in pair):
            raise ValueError("a relative path")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{path}' is no list of moved files: give the one that --move-to wrote") from error
    if newer:
        raise InputError(f"'{path}' was written by a newer nmfcore: upgrade with pip install --upgrade nmfcore")
    return moves


def _move(source: Path, target: Path) -> None:
    """Rename a file, never over another one, and never so that it is nowhere for a moment."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno == errno.ENOENT and not os.path.lexists(source):
            raise
        _copy(source, target)  # another disk, or one without hard links
    os.unlink(source)
    sync_folder(target.parent)


def _copy(source: Path, target: Path) -> None:
    """Copy a file with its times under a name that no file has, and compare the copy."""
    beside = target.with_name(f".nmfcore-{secrets.token_hex(8)}.part")
    try:
        shutil.copy2(source, beside)
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        if digest_of(beside) != digest_of(source):
            msg = "the copy differs from the file"
            raise OSError(errno.EIO, msg, os.fspath(source))
        try:
            os.link(beside, target)
        except FileExistsError:
            raise
        except OSError:  # a disk without hard links: nothing else makes a file of a name that is surely new
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(target)) from None
            os.rename(beside, target)
    finally:
        beside.unlink(missing_ok=True)
