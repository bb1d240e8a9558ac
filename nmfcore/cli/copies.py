"""``nmfcore search --copy-to``: copies of the pictures found, in a folder of their own."""

import os
import re
import shutil
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from .._files import expanded
from .common import INTERRUPTED, Stop, about_writing, count, one_line, refusals, written

if TYPE_CHECKING:
    from ..search.engine import Found, SearchEngine

_OPTION = "--copy-to"
_ADVICE = "run the command in the folder that nmfcore fit was run in, or leave out --copy-to"
_LONGEST = 120  # bytes of a picture's name that a copy keeps; file systems allow 255 for all of it
# What a file system, a shell or a terminal would read as more than a letter of a name.
_UNSAFE = re.compile('[\x00-\x1f\x7f-\x9f/\\\\:*?"<>|\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')


def check_folder(folder: Path) -> Path:
    """Refuse a folder that cannot take copies, before anything is searched."""
    folder = expanded(folder)
    if os.path.lexists(folder) and not folder.is_dir():
        raise Stop(f"'{folder}' is no folder: give {_OPTION} the name of one, or of one to make")
    above = folder if folder.is_dir() else Path(os.path.realpath(folder)).parent
    if not above.is_dir():
        raise Stop(f"there is no folder '{above}' to make '{folder.name}' in: create it, or choose another {_OPTION}")
    if not os.access(above, os.W_OK | os.X_OK):
        raise Stop(f"the folder '{above}' cannot be written to: choose another {_OPTION}")
    return folder


def planned_copies(engine: "SearchEngine", found: "Found", folder: Path) -> list[tuple[Path, Path | bytes]]:
    """Return the files to write, best first, and what each is a copy of: a file, or the bytes of a PNG file.

    Pictures that came from files are copied as these files are, rows of a table or an array are drawn. What would fail,
    or would replace a file, is refused here, before anything is written.
    """
    if engine.shape is None:
        raise Stop(f"the rows of this model are no pictures: leave out {_OPTION}, or take --csv")
    if engine.model.decoding is None:
        names = [f"row-{row}.png" for row in found.indices.tolist()]
        sources: list[Path] | list[bytes] = _drawn(engine, found)
    else:
        _check_apart(engine, folder)
        sources = _files(engine, found)
        names = [safe_name(source.name) for source in sources]
    digits = max(2, len(str(found.offset + len(found))))
    targets = [folder / f"{place:0{digits}d}-{name}" for place, name in enumerate(names, found.offset + 1)]
    for target in targets:
        if os.path.lexists(target):
            raise Stop(f"the file '{target}' exists, and nothing was copied: choose another {_OPTION}")
    return list(zip(targets, sources, strict=True))


def write_copies(plan: list[tuple[Path, Path | bytes]], folder: Path) -> str:
    """Write what was planned, and say how many and where to."""
    done = 0
    try:
        folder.mkdir(exist_ok=True)
        for target, source in plan:
            with written(target, False, _OPTION) as file:
                if isinstance(source, bytes):
                    file.write(source)
                else:
                    with open(source, "rb") as original:
                        shutil.copyfileobj(original, file)
            done += 1
    except KeyboardInterrupt:
        raise Stop(f"interrupted; {done} of {count(len(plan), 'picture')} are in '{folder}'", INTERRUPTED) from None
    except OSError as error:
        raise Stop(about_writing(error, folder, option=_OPTION)) from error
    except Stop as stop:
        raise Stop(f"{stop}; {done} of {count(len(plan), 'picture')} are in '{folder}'", stop.code) from stop
    return f"{folder} ({count(done, 'picture')})"


def _drawn(engine: "SearchEngine", found: "Found") -> list[bytes]:
    """Return rows of the engine as PNG files, on the grey scale that all of them share."""
    from ..images.thumbnails import brightness, picture_png

    assert engine.shape is not None
    with refusals():
        top = brightness(engine.matrix())
        return [picture_png(pixels, engine.shape, top) for pixels in engine.originals(found.indices)]


def _files(engine: "SearchEngine", found: "Found") -> list[Path]:
    """Return the files of the pictures found; a page of a file stands for all of it."""
    source = Path(engine.model.source)
    if not source.exists():
        raise Stop(f"the pictures are no longer at '{source}', and nothing was copied: {_ADVICE}")
    home = source if source.is_dir() else source.parent
    files: list[Path] = []
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
