"""``nmfcore search`` and ``nmfcore transform``: neighbours of a picture, and codes of other pictures."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from .._text import printable
from .common import (
    Stop,
    count,
    new_file,
    note,
    open_model,
    print_pairs,
    reading_bar,
    refusals,
    say_skipped,
    warnings_as_notes,
    written,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..search.engine import Found, SearchEngine

_DRAWN = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp")
_PARTS = 3  # parts named per neighbour


def search(folder: str, query: str, n: int, dissimilar: bool, space: str | None, out: Path | None, force: bool) -> None:
    """Run the command."""
    from rich.console import Console

    target = None
    if out is not None:
        if out.suffix.lower() not in _DRAWN:
            raise Stop(f"'{out}' names no kind of picture: end --out in {', '.join(_DRAWN)}")
        target = new_file(out, out, force)
    engine = open_model(folder, space)
    with refusals(), warnings_as_notes(Console(stderr=True)):
        found = engine.search(_query(engine, query), n, not dissimilar, space=space)
    _print_found(engine, found)
    if target is not None:
        _draw(engine, found, target, force)
        print_pairs([("written to", str(target))])


def _query(engine: "SearchEngine", text: str) -> int | str:
    """Take a name before a row number, and both before a file."""
    if text in (engine.model.names or ()) or not text.isdecimal():
        return text
    return int(text)


def _draw(engine: "SearchEngine", found: "Found", target: Path, force: bool) -> None:
    with refusals():
        figure: Figure = engine.draw(found)
    kind = target.suffix.lower().removeprefix(".")
    try:
        with written(target, force) as file:
            figure.savefig(file, format=kind, bbox_inches="tight", pad_inches=0.1)
    except ImportError as error:
        raise Stop(f"'{target}' could not be drawn ({error}): end --out in .png") from error


def _print_found(engine: "SearchEngine", found: "Found") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    labels = engine.model.labels
    named = engine.model.names is not None
    kind = "similar" if found.similar else "dissimilar"
    title = Text(printable(f"most {kind} to {found.title}"), style="italic")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("row", justify="right")
    if named:
        table.add_column("name", overflow="fold")
    if labels is not None:
        table.add_column("label", overflow="fold")
    table.add_column("score", justify="right")
    table.add_column("parts in common", overflow="fold")
    for index, name, why in zip(found.indices, found.names, engine.reasons(found, _PARTS), strict=True):
        parts = ", ".join(f"{part} ({share:.0%})" for part, share in zip(why.components, why.shares, strict=True))
        cells = [str(index)] + [name] * named + ([] if labels is None else [str(labels[index])])
        table.add_row(*(Text(printable(cell)) for cell in (*cells, f"{why.score:.3f}", parts or "none")))
    console = Console()
    if not console.is_terminal:  # a pipe or a file: do not break lines at 80 columns
        console = Console(width=200)
    console.print(table)


def transform(folder: str, source: str, out: Path | None, skip_broken: bool, force: bool) -> None:
    """Run the command."""
    import numpy as np
    from rich.console import Console

    notes = Console(stderr=True)
    target = new_file(Path("codes.npy") if out is None else out, Path("codes.npy"), force)
    engine = open_model(folder)
    with warnings_as_notes(notes):
        with refusals(), reading_bar(notes) as progress:
            pictures = engine.read(source, skip_broken=skip_broken, progress=progress)
        try:
            codes = engine.transform(pictures)
        except ValueError as error:
            raise Stop(f"'{source}' cannot be transformed: {error}") from error
    say_skipped(pictures, notes)
    if target.suffix.lower() != ".npy":
        note(notes, f"'{target}' is a numpy file: read it with numpy.load")
    with written(target, force) as file:
        np.save(file, codes, allow_pickle=False)
    print_pairs(
        [
            ("codes", f"{count(len(codes), 'row')} × {codes.shape[1]} parts, {codes.dtype}"),
            ("written to", os.fspath(target)),
        ]
    )
