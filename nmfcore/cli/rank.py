"""``nmfcore rank``: how many parts; and ``nmfcore fit -k auto``, which asks the same before it fits."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import (
    INTERRUPTED,
    Stop,
    count,
    new_file,
    note,
    print_pairs,
    read_pictures,
    refusals,
    warnings_as_notes,
    written,
)
from .stores import read_store

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

    from .._typing import Settings
    from ..images import Pictures
    from ..ranks import RankSelection
    from ..ranks.run import RankProgress

Wanted = int | list[int] | str

_DRAWN = (".png", ".pdf", ".svg")
_VALUES = 12  # of a range without a step
_PASSES = 200  # of a fit that only serves to find k, at most
_OF_FIT = ("solver", "init", "beta_loss", "extrapolate", "max_iter", "tol", "device", "n_jobs")


def parse_k(text: str, several: bool = False) -> Wanted:
    """Read -k: a number, "auto", or for `several` a range FIRST:LAST[:STEP] or a list like 5,10,15.

    Parameters
    ----------
    text : str
    several : bool

    Returns
    -------
    k : int, list of int, or "auto"

    Raises
    ------
    ValueError
        For anything else; the message says what is allowed.

    Examples
    --------
    >>> from nmfcore.cli.rank import parse_k
    >>> parse_k("4:20:4", several=True), parse_k("5,10", several=True), parse_k("auto"), parse_k("7")
    ([4, 8, 12, 16, 20], [5, 10], 'auto', 7)
    >>> parse_k("4:64", several=True)
    [4, 9, 15, 20, 26, 31, 37, 42, 48, 53, 59, 64]
    """
    allowed = "a number of at least 1, or auto"
    if several:
        allowed = "auto, a range like 4:64 or 4:64:4, or a list like 5,10,15"
    text = text.strip().lower()
    if text == "auto":
        return "auto"
    try:
        if several and ":" in text:
            return _range([int(part) for part in text.split(":")])
        numbers = [int(part) for part in text.split(",")]
        if min(numbers) < 1 or (len(numbers) > 1 and not several):
            raise ValueError
    except ValueError:
        raise ValueError(f"{text!r} is no number of parts: give {allowed}") from None
    return numbers if several else numbers[0]


def _range(ends: list[int]) -> list[int]:
    """Return a range with both its ends; without a step, twelve numbers of it that are evenly spread."""
    first, last, *step = ends
    if first < 1 or last < first or len(step) > 1 or (step and step[0] < 1):
        raise ValueError(ends)
    if step:
        return list(range(first, last + 1, step[0]))
    steps = min(_VALUES - 1, last - first)
    return [first + round((last - first) * i / max(1, steps)) for i in range(steps + 1)]


def rank(
    source: str | None,
    k: Wanted,
    settings: "Settings",
    how: "Settings",
    size: tuple[int, int] | None,
    skip_broken: bool,
    rgb: bool,
    outs: list[Path],
    force: bool,
    reading: "Settings",
) -> int:
    """Run the command; return its exit code."""
    from rich.console import Console

    from ..rows.disk import ReadError
    from .fit import _about_memory, _check_device, _check_source, _with_defaults, check_masking

    notes = Console(stderr=True)
    targets = [_target(out, force) for out in outs]
    check_masking(reading, settings)
    _check_source(source)
    _check_device(settings["device"])
    try:
        pictures = read_store(source, size, settings["memory"], skip_broken, notes, rgb, reading)
        pictures = pictures or read_pictures(source, size, skip_broken, notes, rgb, reading)
        found = select(pictures, k, _with_defaults(settings), notes, **how)
    except MemoryError as error:
        raise Stop(_about_memory(source)) from error
    except ReadError as error:
        raise Stop(str(error)) from error
    _print(found)
    for target in targets:
        _write(found, target, force)
    if targets:
        print_pairs([("written to", str(target)) for target in targets])
    if notes.is_terminal:
        note(notes, f"next: nmfcore fit {source or ''} -k {found.best}".replace("  ", " "))
    return INTERRUPTED if found.stop_reason.startswith("interrupted") else 0


def select(pictures: "Pictures", k: Wanted, settings: "Settings", notes: "Console", **how: Any) -> "RankSelection":
    """Find k for pictures, under a bar; columns of pictures are cut by tiles.

    Where pixels are masked, single tiles are left out unless another method is given, as blocks cannot be predicted.
    """
    import numpy as np

    from ..estimators import NMF
    from ..ranks import select_rank
    from ..ranks.splits import tile_labels

    tiles = how.pop("tiles", None)
    if pictures.shape is not None:
        tiles = pictures.shape if tiles is None else (pictures.shape, tiles)
        with refusals():
            _, (high, wide) = tile_labels(tiles, pictures.matrix.shape[1])
        note(notes, f"pixels are left out by tiles of {high}×{wide}, as neighbouring pixels share their noise")
    elif tiles is not None:
        raise Stop("--tiles is for pictures, and the rows have no height and width: give --size HxW, or leave it out")
    X, mask = pictures.matrix, pictures.mask
    if how.get("method") is None:
        how["method"] = "bicross" if mask is None else "holdout"
    if mask is not None:
        X = np.ma.MaskedArray(X, mask, copy=False)
    estimator = NMF(memory=settings["memory"], **{name: settings[name] for name in _OF_FIT})
    with warnings_as_notes(notes), ranking_bar(notes) as show:
        try:
            return select_rank(
                X, k, estimator=estimator, tiles=tiles, random_state=settings["random_state"],
                callback=show, **how,
            )  # fmt: skip
        except (ValueError, TypeError, RuntimeError) as error:
            from .fit import _why_refused

            raise Stop(_why_refused(error, pictures)) from error


def chosen(pictures: "Pictures", settings: "Settings", notes: "Console", max_time: float | None) -> "RankSelection":
    """Return how the k of ``nmfcore fit -k auto`` was found, and say it."""
    from ..ranks.given import TOL

    rough = {"tol": max(TOL, settings["tol"]), "max_iter": min(_PASSES, settings["max_iter"])}  # k needs no more
    found = select(pictures, "auto", settings | rough, notes, max_time=max_time)
    if found.stop_reason.startswith("interrupted"):
        raise KeyboardInterrupt
    tried = ", ".join(map(str, found.k))
    at = found.k.tolist().index(found.best)
    note(notes, f"k = {found.best}: test loss {found.test[at]:.4g}; tried {tried} ({found.stop_reason})")
    return found


@contextmanager
def ranking_bar(notes: "Console") -> "Iterator[Callable[[RankProgress], None]]":
    """Show how many fits have been made, and how long the rest will take."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TextColumn("{task.fields[left]}"), TimeElapsedColumn()),
    )
    with Progress(*columns, console=notes, transient=not notes.is_terminal) as bar:
        task = bar.add_task("how many parts", total=None, left="")

        def show(progress: "RankProgress") -> None:
            left = f"k = {progress.k}, {duration(progress.seconds_left)} left"
            bar.update(task, completed=progress.done, total=progress.total, left=left)

        yield show


def duration(seconds: float) -> str:
    """Return a time in a unit that suits it."""
    if seconds != seconds:
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _target(out: Path, force: bool) -> Path:
    if out.suffix.lower() not in (*_DRAWN, ".csv"):
        raise Stop(f"'{out}' is neither a picture nor a table: end --out in {', '.join(_DRAWN)} or .csv")
    return new_file(out, out, force)


def _write(found: "RankSelection", target: Path, force: bool) -> None:
    """Write the table of all fits, or draw the curve."""
    with written(target, force) as file:
        if target.suffix.lower() == ".csv":
            file.write((found.table.to_csv() or "").encode())
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            figure: Figure = found.plot().figure  # type: ignore[assignment]
            kind = target.suffix.lower().removeprefix(".")
            figure.savefig(file, format=kind, bbox_inches="tight", pad_inches=0.1)


def _print(found: "RankSelection") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("k", "train", "test", "±"):
        table.add_column(name, justify="right")
    table.add_column("")
    for k, train, test, spread in zip(found.k, found.train, found.test, found.spread, strict=True):
        bar = "" if spread != spread else f"{spread:.5f}"
        mark = "chosen" if k == found.best else ""
        table.add_row(str(k), f"{train:.5f}", f"{test:.5f}", bar, mark, style="bold" if mark else None)
    Console().print(table)
    rule = {"1se": "the smallest within one standard error of the least", "min": "the least test loss"}[found.rule]
    print_pairs(
        [
            ("k", f"{found.best} ({rule})"),
            ("rows", f"{found.n_rows:,}, {count(found.repeats, 'repeat')}"),
            ("stopped", found.stop_reason),
        ]
    )


def pair_option(text: str | None, name: str) -> tuple[int, int] | None:
    """Read an option of the form AxB.

    Parameters
    ----------
    text : str or None
    name : str
        Of the option, for the error.

    Returns
    -------
    pair : tuple of (int, int) or None
    """
    if text is None:
        return None
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise Stop(f"{name} {text!r} is no pair of numbers: give two like 2x2")
    return int(sides[0]), int(sides[1])


__all__ = ["chosen", "duration", "pair_option", "parse_k", "rank", "ranking_bar", "select"]
