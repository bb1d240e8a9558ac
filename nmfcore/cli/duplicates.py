"""``nmfcore duplicates``: pictures that are there more than once, moved away and back if so wanted."""

import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .._text import printable, row_name
from .common import (
    INCOMPLETE,
    INTERRUPTED,
    Stop,
    count,
    note,
    open_model,
    print_pairs,
    read_pictures,
    refusals,
    warnings_as_notes,
)

if TYPE_CHECKING:
    from rich.console import Console

    from .._typing import Settings
    from ..search.duplicates import Duplicates
    from ..search.engine import SearchEngine

SIDE, PARTS, PASSES = 64, 32, 50  # a folder of pictures is compared at this size, by so many parts, learned roughly
# Where pictures are few, so are the pairs, and pixels can tell them apart alone. Parts that are nearly as many as the
# pictures would tell a picture from its own copy.
PICTURES_PER_PART = 16
_SHOWN = 100  # groups that the table lists
_SAID = 5  # sentences about pictures that stay


def duplicates(
    source: str,
    settings: "Settings",
    exact: bool,
    reading: "Settings",
    size: tuple[int, int] | None,
    rgb: bool,
    form: str | None,
    move_to: Path | None,
    yes: bool,
) -> int:
    """Run the command; `form` is "json", "csv", or None for a table. Return the exit code."""
    from rich.console import Console

    from ..search.folders import MODEL

    notes = Console(stderr=True)
    path = Path(os.path.expanduser(source))
    if not os.path.lexists(path):
        raise Stop(f"there is neither a folder nor a model '{source}': check the path")
    if not path.is_dir() or (path / MODEL).exists():
        if size is not None or rgb or reading.get("recursive"):
            raise Stop(f"'{source}' is a model, whose pictures have been read: leave --size, --rgb, --recursive out")
        engine, shown = open_model(source), warnings_as_notes
    else:
        engine, shown = _learned(source, exact, reading, size, rgb, notes), _rough
    kinds = ("file", "pixels") if exact else ("file", "pixels", "near")
    with refusals(), shown(notes), notes.status("comparing"):
        found = engine.duplicates(kinds=kinds, **settings)
    moved: dict[str, object] = {}
    code = 0
    if form != "json":
        _print_csv(found) if form == "csv" else _print_table(found)
    if move_to is not None:
        moved, code = _move(found, move_to, yes, notes)
    if form == "json":
        _print_json(found, engine, moved)
    return code


def _learned(
    source: str, exact: bool, reading: "Settings", size: tuple[int, int] | None, rgb: bool, notes: "Console"
) -> "SearchEngine":
    """Learn parts of a folder of pictures to compare them by."""
    from ..search.engine import SearchEngine

    pictures = read_pictures(source, size or (SIDE, SIDE), True, notes, rgb, reading)
    n, m = pictures.matrix.shape
    # Equal pictures are found without parts, and one part is learned at once.
    parts = 1 if exact else max(1, min(PARTS, n // PICTURES_PER_PART, m))
    engine = SearchEngine(parts, max_iter=1 if exact else PASSES, tol=0 if exact else 1e-3)
    with refusals(), _rough(notes):
        return engine.fit(pictures)


@contextmanager
def _rough(notes: "Console") -> Iterator[None]:
    """Show warnings as notes, but for those that a fit has not converged: these parts may be rough."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings_as_notes(notes):
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        yield


def _print_table(found: "Duplicates") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ..search.duplicates import KIND_NAMES

    console = Console()
    if not console.is_terminal:  # a pipe or a file: do not break lines at 80 columns
        console = Console(width=200)
    heading = repr(found).splitlines()[0].rstrip(":")
    console.print(Text(heading, style="italic"))
    if not found.groups:
        return
    table = Table(box=None, pad_edge=False)
    for name, justify in (("kind", "left"), ("score", "right"), ("distance", "right"), ("", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("picture", overflow="fold")
    for group in found.groups[:_SHOWN]:
        for place, (row, name) in enumerate(zip(group.rows.tolist(), group.names, strict=True)):
            title = name if name == f"row {row}" else row_name(row, name)
            mirrored = "mirrored" if group.mirrored[place] else ""
            cells = [KIND_NAMES[group.kind], f"{group.score:.3f}", "", "keep"] if place == 0 else ["", "", "", mirrored]
            if place and group.kind == "near":
                cells[1:3] = f"{group.scores[place]:.3f}", f"{group.distances[place]:.3f}"
            table.add_row(*(Text(printable(cell)) for cell in (*cells, title)))
    console.print(table)
    if len(found) > _SHOWN:
        console.print(f"and {len(found) - _SHOWN:,} more groups: --csv and --json list all of them", highlight=False)


def _print_csv(found: "Duplicates") -> None:
    text = found.to_csv()
    assert text is not None
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _print_json(found: "Duplicates", engine: "SearchEngine", moved: dict[str, object]) -> None:
    """Print the groups for another program to read: names as they are."""
    names = engine.model.names
    groups = []
    for group in found:
        pictures = []
        for place, row in enumerate(group.rows.tolist()):
            path = found.path(row)
            picture: dict[str, object] = {"row": row, "keep": place == 0}
            if names is not None:
                picture["name"] = names[row]
            if path is not None:
                picture["path"] = os.fspath(path)
            picture |= {"score": float(group.scores[place]), "distance": float(group.distances[place])}
            if found.mirrored:
                picture["mirrored"] = bool(group.mirrored[place])
            pictures.append(picture)
        groups.append({"kind": group.kind, "score": group.score, "pictures": pictures})
    record = {"near": found.near, "distance": found.distance, "linkage": found.linkage, "mirrored": found.mirrored}
    sys.stdout.write(json.dumps({**record, "groups": groups, "notes": list(found.notes), **moved}) + "\n")


def _move(found: "Duplicates", folder: Path, yes: bool, notes: "Console") -> tuple[dict[str, object], int]:
    """Move surplus pictures, or say what would be moved. Return what to print of it, and the exit code."""
    if not yes:
        with refusals():
            moves, left = found.moves(folder)
        _say_left(left, notes)
        note(notes, f"{count(len(moves), 'file')} would be moved to '{folder}'; nothing was moved: --yes moves them")
        return {"moved": 0}, 0
    try:
        with refusals():
            undo, left = found.move_to(folder)
    except Stop:
        raise
    except (OSError, KeyboardInterrupt) as error:
        said = "; ".join(getattr(error, "__notes__", [])) or "nothing was moved"
        if isinstance(error, KeyboardInterrupt):
            raise Stop(f"interrupted; {said}", INTERRUPTED) from error
        raise Stop(f"'{error.filename}' cannot be moved ({error.strerror or error}); {said}", INCOMPLETE) from error
    _say_left(left, notes)
    number = len(found.surplus) - len(left)
    if undo is None:
        note(notes, "nothing was moved")
    else:
        note(notes, f"{count(number, 'file')} moved to '{folder}'; nmfcore duplicates --undo '{undo}' moves them back")
    return {"moved": number, "undo": None if undo is None else os.fspath(undo)}, INCOMPLETE if left else 0


def _say_left(left: list[str], notes: "Console") -> None:
    for text in left[:_SAID]:
        note(notes, text)
    if len(left) > _SAID:
        note(notes, f"and {len(left) - _SAID:,} more stay")


def undo(file: Path) -> int:
    """Move files back that the command has moved. Return the exit code."""
    from rich.console import Console

    from ..search.moving import undo_moves

    with refusals():
        back, left = undo_moves(file)
    _say_left(left, Console(stderr=True))
    print_pairs([("moved back", count(back, "file"))])
    return INCOMPLETE if left else 0
