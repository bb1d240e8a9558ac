"""``nmfcore search --copy-to``: copies of the pictures found, in a folder of their own."""

import os
import re
import shutil
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from .common import INTERRUPTED, Stop, count, one_line, refusals, written

if TYPE_CHECKING:
    from ..search.engine import Found, SearchEngine

_OPTION = "--copy-to"
_ADVICE = "run the command in the folder that nmfcore fit was run in, or leave out --copy-to"
_LONGEST = 120  # bytes of a picture's name that a copy keeps; file systems allow 255 for all of it
# What a file system, a shell or a terminal would read as more than a letter of a name.
_UNSAFE = re.compile('[\x00-\x1f\x7f-\x9f/\\\\:*?"<>|\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')


def check_folder(folder: Path) -> Path:
    """Refuse a folder that cannot take copies, before anything is searched."""
    folder = folder.expanduser()
    if os.path.lexists(folder) and not folder.is_dir():
        raise Stop(f"'{folder}' is no folder: give {_OPTION} the name of one, or of one to make")
    above = folder if folder.is_dir() else Path(os.path.realpath(folder)).parent
    if not above.is_dir():
        raise Stop(f"there is no folder '{above}' to make '{folder.name}' in: create it, or choose another {_OPTION}")
    if not os.access(above, os.W_OK | os.X_OK):
        raise Stop(f"the folder '{above}' cannot be written to: choose another {_OPTION}")
    return folder


def copy_found(engine: "SearchEngine", found: "Found", folder: Path) -> str:
    """Copy the pictures found, best first, and say how many and where to.

    Pictures that came from files are copied as these files are. Rows of a table or an array are written as PNG. Before
    the first copy is made, all that would fail or would replace a file is refused.
    """
    if not len(found):
        return "nothing was found, so nothing was copied"
    sources: list[Path | None] = [None] * len(found)
    if engine.model.decoding is not None:
        sources = _files(engine, found)
        _check_apart(engine, folder)
    if engine.shape is None:
        raise Stop(f"the rows of this model are no pictures: leave out {_OPTION}, or take --csv")
    digits = max(2, len(str(found.offset + len(found))))
    targets = []
    for place, (row, source) in enumerate(zip(found.indices.tolist(), sources, strict=True), found.offset + 1):
        name = f"row-{row}.png" if source is None else safe_name(source.name)
        targets.append(folder / f"{place:0{digits}d}-{name}")
        if os.path.lexists(targets[-1]):
            raise Stop(f"the file '{targets[-1]}' exists and nothing was copied: choose another {_OPTION}")
    pngs = _drawn(engine, found) if sources[0] is None else []
    folder.mkdir(exist_ok=True)
    done = 0
    try:
        for target, source in zip(targets, sources, strict=True):
            with written(target, False, _OPTION) as file:
                if source is None:
                    file.write(pngs[done])
                else:
                    with open(source, "rb") as original:
                        shutil.copyfileobj(original, file)
            done += 1
    except KeyboardInterrupt:
        raise Stop(f"interrupted; {done} of {count(len(targets), 'picture')} are in '{folder}'", INTERRUPTED) from None
    except Stop as stop:
        raise Stop(f"{stop}; {done} of {count(len(targets), 'picture')} are in '{folder}'", stop.code) from stop
    return f"{folder} ({count(done, 'picture')})"


def _drawn(engine: "SearchEngine", found: "Found") -> list[bytes]:
    """Return rows of the engine as PNG files, on the grey scale that all of them share."""
    from ..images.thumbnails import brightness, picture_png

    assert engine.shape is not None
    with refusals():
        top = brightness(engine.matrix())
        return [picture_png(pixels, engine.shape, top) for pixels in engine.originals(found.indices)]


def _files(engine: "SearchEngine", found: "Found") -> list[Path | None]:
    """Return the files of the pictures found; a page of a file stands for all of it."""
    source = Path(engine.model.source)
    if not source.exists():
        raise Stop(f"the pictures are no longer at '{source}', and nothing was copied: {_ADVICE}")
    home = source if source.is_dir() else source.parent
    files: list[Path | None] = []
    for name in found.names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise Stop(f"the picture '{one_line(name)}' is not named like one of '{source}', so it was not copied")
        file = home / path
        if not file.is_file():
            file = home / name.rsplit("#", 1)[0]
        if not (file.is_file() and os.access(file, os.R_OK)):
            raise Stop(f"the picture '{home / path}' is not there or cannot be read, and nothing was copied: {_ADVICE}")
        files.append(file)
    return files


def _check_apart(engine: "SearchEngine", folder: Path) -> None:
    """Refuse to put copies among the pictures, where the next fit would find them."""
    source, target = (Path(os.path.realpath(path)) for path in (engine.model.source, folder))
    below = any("/" in name for name in engine.model.names or ())  # subfolders are read, too
    if target == source or (below and source in target.parents):
        raise Stop(f"'{folder}' holds the pictures themselves, and nothing was copied: choose another {_OPTION}")


def safe_name(name: str) -> str:
    """Return a file name without letters that mean more than themselves, of limited length, with its suffix."""
    stem, suffix = os.path.splitext(_UNSAFE.sub("_", name).rstrip(". "))
    room = max(0, _LONGEST - len(suffix.encode()))
    kept = stem.encode()[:room].decode("utf-8", "ignore")
    return (kept + suffix if room else (stem + suffix).encode()[:_LONGEST].decode("utf-8", "ignore")) or "picture"
