"""What the commands share: ends in one sentence, notes on stderr, targets, tables."""

import errno
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..images import Pictures
    from ..search.engine import SearchEngine

BAD_INPUT, INTERRUPTED = 2, 130


class Stop(Exception):
    """Ends the command: what to say on stderr, and the exit code."""

    def __init__(self, message: str, code: int = BAD_INPUT) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def one_sentence(interrupted: str = "interrupted; nothing was written") -> Iterator[None]:
    """Turn what stops a command into one line on stderr and an exit code."""
    import typer

    try:
        yield
    except Stop as stop:
        typer.echo(f"nmfcore: {stop}", err=True)
        raise typer.Exit(stop.code) from None
    except MemoryError:
        typer.echo("nmfcore: not enough memory for this model and its pictures", err=True)
        raise typer.Exit(BAD_INPUT) from None
    except KeyboardInterrupt:
        typer.echo(f"nmfcore: {interrupted}", err=True)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def refusals() -> Iterator[None]:
    """Pass on as `Stop` what the library refuses in a sentence of its own."""
    from ..images import InputError
    from ..models import ModelFileError

    try:
        yield
    except (InputError, ModelFileError, FileNotFoundError, ImportError) as error:
        raise Stop(str(error)) from error
    except PermissionError as error:
        raise Stop(f"'{error.filename}' cannot be read: {error.strerror or error}") from error


def open_model(folder: str, space: str | None = None) -> "SearchEngine":
    """Load what ``nmfcore fit`` wrote, or say in one sentence why that cannot be done."""
    from ..search.engine import SPACES, SearchEngine

    if space is not None and space not in SPACES:
        raise Stop(f"--space {space!r} is unknown: expected {' or '.join(SPACES)}")
    path = Path(folder).expanduser()
    if not path.exists():
        raise Stop(f"there is no model '{folder}': give the folder that nmfcore fit wrote")
    with refusals():
        return SearchEngine.load(path, space=space)


def read_pictures(
    source: str | None,
    size: tuple[int, int] | None,
    skip_broken: bool,
    notes: Any,
    rgb: bool = False,
    how: dict[str, Any] | None = None,
) -> "Pictures":
    """Read a source under a progress bar, and say what was left out."""
    from ..images import InputError, read_source

    try:
        with heard(notes), reading_bar(notes) as progress:
            pictures = read_source(source, size, skip_broken, progress, mode="RGB" if rgb else "L", **(how or {}))
    except (InputError, ValueError) as error:
        raise Stop(" ".join(str(error).split())) from error
    except OSError as error:
        raise Stop(f"'{source}' cannot be read: {error.strerror or error}") from error
    say_skipped(pictures, notes)
    return pictures


@contextmanager
def reading_bar(notes: Any) -> Iterator[Callable[[int, int], None]]:
    """Give a progress callback whose bar appears with its first report."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with ExitStack() as shown:
        bar = Progress(*columns, console=notes, transient=True)
        task = bar.add_task("reading pictures")

        def progress(done: int, total: int) -> None:
            if not notes.is_terminal:
                return
            if not bar.live.is_started:  # sources that are read at once show no bar
                shown.enter_context(bar)
            bar.update(task, completed=done, total=total)

        yield progress


def say_skipped(pictures: "Pictures", notes: Any) -> None:
    """Name the first of the pictures that were left out."""
    if pictures.skipped:
        more = ", …" if len(pictures.skipped) > 1 else ""
        note(notes, f"skipped {count(len(pictures.skipped), 'picture')}: {pictures.skipped[0]}{more}")


@contextmanager
def heard(notes: Any) -> Iterator[None]:
    """Show warnings and the library's log as one short line each."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note(notes, record.getMessage())

    logger, handler = logging.getLogger("nmfcore"), Handler(logging.INFO)
    level = logger.level
    logger.addHandler(handler)
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    said = [item for item in caught if issubclass(item.category, UserWarning | RuntimeWarning)]
    for text in dict.fromkeys(" ".join(str(item.message).split()) for item in said):
        note(notes, f"warning: {text}")


def note(notes: Any, text: str) -> None:
    """Print one line on stderr above the progress bar, as it is: no markup, no wrapping."""
    notes.print(text, markup=False, highlight=False, soft_wrap=True)


def new_file(given: Path | None, default: Path, force: bool) -> Path:
    """Return the file to write; refuse early what writing would refuse, and what belongs to the caller.

    The default lies where nmfcore writes anyway, so that one is replaced without asking.
    """
    target = default if given is None else given.expanduser()
    if target.is_dir():
        raise Stop(f"'{target}' is a folder: give --out the name of a file")
    if given is not None and os.path.lexists(target) and not force:
        raise Stop(f"the file '{target}' exists: choose another --out, or --force replaces it")
    parent = Path(os.path.realpath(target)).parent
    if not parent.is_dir():
        raise Stop(f"there is no folder '{parent}' to write to: create it, or choose another --out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise Stop(f"the folder '{parent}' cannot be written to: choose another --out")
    return target


def about_writing(error: OSError, target: Path) -> str:
    """Say why results could not be written."""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return (
            f"the disk is full, so the results could not be written to '{target}' and nothing was "
            "kept: free some space, or choose another --out"
        )
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
        return f"the folder '{target}' appeared meanwhile: choose another --out"
    reason = error.strerror or str(error)
    return f"the results could not be written to '{target}' ({reason}): choose another --out"


def print_pairs(lines: list[tuple[str, str]]) -> None:
    """Print names and values, one pair a line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 3))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in lines:
        table.add_row(name, Text(value))
    console = Console()
    if not console.is_terminal:  # a pipe or a file: do not break lines at 80 columns
        console = Console(width=max(80, 24 + max(len(value) for _, value in lines)))
    console.print(table)


def count(number: int, what: str) -> str:
    """Return '1 picture' or '2 pictures'."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def size_option(text: str | None) -> tuple[int, int] | None:
    """Read --size: HEIGHTxWIDTH, or one number for both."""
    if text is None:
        return None
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) not in (1, 2) or not all(side.isdecimal() and int(side) for side in sides):
        raise Stop(f"--size {text!r} is no size: give height and width in pixels, like 64x48")
    return int(sides[0]), int(sides[-1])
