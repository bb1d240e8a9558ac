"""What the commands share: errors as one sentence, notes on stderr, files to write, tables to print."""

import errno
import logging
import os
import re
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .._files import expanded
from .._text import printable
from .console import interrupts_answered

if TYPE_CHECKING:
    from typing import BinaryIO

    from rich.console import Console

    from .._typing import Settings
    from ..images import Pictures
    from ..search.engine import SearchEngine

INCOMPLETE, BAD_INPUT, INTERRUPTED = 1, 2, 130
TRACEBACK = "NMFCORE_TRACEBACK"  # environment variable: show where an unexpected error came from


class Stop(Exception):
    """Ends a command: the sentence to print on stderr, and the exit code."""

    def __init__(self, message: str, code: int = BAD_INPUT) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def errors_as_sentences(interrupted: str = "interrupted; nothing was written") -> Iterator[threading.Event]:
    """Turn whatever ends a command into one sentence on stderr and an exit code.

    Yields
    ------
    answered : threading.Event
        See `interrupts_answered`; set here when KeyboardInterrupt is caught.
    """
    import typer

    with interrupts_answered() as answered:
        try:
            yield answered
        except (KeyboardInterrupt, Exception) as error:
            answered.set()
            if isinstance(error, typer.Exit):
                raise
            message, code = _sentence(error, interrupted)
            if os.environ.get(TRACEBACK):
                traceback.print_exception(error)
            traceback.clear_frames(error.__traceback__)  # arrays of a fit that failed
        else:
            return
    typer.echo(f"nmfcore: {one_line(message)}", err=True)
    raise typer.Exit(code) from None


def _sentence(error: BaseException, interrupted: str) -> tuple[str, int]:
    """Return what to print about an error, and the exit code."""
    if isinstance(error, Stop):
        return str(error), error.code
    if isinstance(error, KeyboardInterrupt):
        return interrupted, INTERRUPTED
    if isinstance(error, MemoryError):
        return "not enough memory for this model and its pictures", BAD_INPUT
    if isinstance(error, OSError):
        about = f"'{error.filename}': " if error.filename else ""
        return f"{about}{error.strerror or str(error) or type(error).__name__}", BAD_INPUT
    described = f"{type(error).__name__}: {error}".rstrip(": ")
    return (
        f"an error that nmfcore does not expect ({described}): please report it; with the environment variable "
        f"{TRACEBACK}=1 the command shows where it was raised",
        INCOMPLETE,
    )


def one_line(text: str) -> str:
    """Return a message without line breaks and control characters."""
    return printable(re.sub(r"\s*\n\s*", " ", str(text).strip()))


@contextmanager
def refusals() -> Iterator[None]:
    """Raise what the library refuses, in a sentence of its own, as `Stop`."""
    try:
        yield
    except (ValueError, FileNotFoundError, ImportError) as error:  # InputError and ModelFileError are ValueErrors
        raise Stop(str(error)) from error
    except PermissionError as error:
        raise Stop(f"'{error.filename}' cannot be read: {error.strerror or error}") from error


def open_model(folder: str, space: str | None = None) -> "SearchEngine":
    """Load what ``nmfcore fit`` wrote, or say in one sentence why that cannot be done."""
    from ..search.engine import SearchEngine
    from ..search.folders import MODEL
    from ..search.spaces import SPACES

    if space is not None and space not in SPACES:
        raise Stop(f"--space {space!r} is unknown: expected {', '.join(SPACES[:-1])} or {SPACES[-1]}")
    path = Path(os.path.expanduser(folder))
    if not os.path.lexists(path):
        raise Stop(f"there is no model '{folder}': give the folder that nmfcore fit wrote")
    if path.is_dir() and not (path / MODEL).exists():
        raise Stop(f"there is no model file '{path / MODEL}': {_model_advice(path)}")
    if not path.is_dir() and path.suffix.lower() != Path(MODEL).suffix:
        raise Stop(f"'{folder}' is no model: give the folder that nmfcore fit wrote, or the {MODEL} in it")
    with refusals():
        return SearchEngine.load(path, space=space)


def _model_advice(folder: Path) -> str:
    """Say what to give instead of a folder without a model."""
    from ..images import PICTURE_SUFFIXES
    from ..search.folders import MODEL

    beside = folder.resolve().with_name(f"nmfcore-{folder.resolve().name}")
    if (beside / MODEL).exists():
        return f"did you mean '{os.path.relpath(beside)}'?"
    try:
        pictures = any(Path(name).suffix.lower() in PICTURE_SUFFIXES for name in os.listdir(folder))
    except OSError:
        pictures = False
    if pictures:
        return f"it is a folder of pictures; 'nmfcore fit {folder}' learns from them and writes a model"
    return "give the folder that nmfcore fit wrote"


def read_pictures(
    source: str | None,
    size: tuple[int, int] | None,
    skip_broken: bool,
    notes: "Console",
    rgb: bool = False,
    how: "Settings | None" = None,
) -> "Pictures":
    """Read a source under a progress bar, and say what was left out."""
    from ..images import InputError, read_source

    try:
        with warnings_as_notes(notes), reading_bar(notes) as progress:
            pictures = read_source(source, size, skip_broken, progress, mode="RGB" if rgb else "L", **(how or {}))
    except (InputError, ValueError) as error:
        raise Stop(" ".join(str(error).split())) from error
    except OSError as error:
        raise Stop(f"'{source}' cannot be read: {error.strerror or error}") from error
    say_skipped(pictures, notes)
    return pictures


@contextmanager
def reading_bar(notes: "Console") -> Iterator[Callable[[int, int], None]]:
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


def say_skipped(pictures: "Pictures", notes: "Console") -> None:
    """Name the first of the pictures that were left out."""
    if pictures.skipped:
        more = ", …" if len(pictures.skipped) > 1 else ""
        note(notes, f"skipped {count(len(pictures.skipped), 'picture')}: {pictures.skipped[0]}{more}")


@contextmanager
def warnings_as_notes(notes: "Console") -> Iterator[None]:
    """Show warnings and the log of nmfcore as one short line each."""

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


def note(notes: "Console", text: str) -> None:
    """Print one line on stderr, above a progress bar where there is one, without markup and wrapping."""
    notes.print(one_line(text), markup=False, highlight=False, soft_wrap=True)


def new_file(given: Path | None, default: Path, force: bool) -> Path:
    """Return the file to write; refuse early what writing would refuse, and what belongs to the caller.

    The default lies where nmfcore writes anyway, so that one is replaced without asking.
    """
    target = default if given is None else expanded(given)
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


@contextmanager
def written(target: Path, force: bool, option: str = "--out") -> "Iterator[BinaryIO]":
    """Give a binary file that takes the target's place when it is complete.

    The target is looked at once more before that: a file that came there meanwhile is not replaced without `force`.
    `option` is the one that named the target, for messages.
    """
    from .._files import replacing

    try:
        with replacing(target) as file:
            yield file
            if not force and os.path.lexists(target):
                advice = f"choose another {option}" + ", or --force replaces it" * (option == "--out")
                raise Stop(f"the file '{target}' appeared meanwhile: {advice}")
    except OSError as error:
        raise Stop(about_writing(error, target, option=option)) from error


def about_writing(error: Exception, target: Path, kept: str = "nothing was kept", option: str = "--out") -> str:
    """Say why results could not be written, and what is left of them."""
    if not isinstance(error, OSError):
        return f"the results could not be written to '{target}' (not enough memory), and {kept}"
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return (
            f"the disk is full, so the results could not be written to '{target}' and {kept}: "
            f"free some space, or choose another {option}"
        )
    reason = error.strerror or str(error)
    return f"the results could not be written to '{target}' ({reason}) and {kept}: choose another {option}"


def print_pairs(lines: list[tuple[str, str]]) -> None:
    """Print names and values, one pair a line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 3))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    lines = [(name, one_line(value)) for name, value in lines]
    for name, value in lines:
        table.add_row(name, Text(value))
    console = Console()
    if not console.is_terminal:  # a pipe or a file: do not break lines at 80 columns
        console = Console(width=max(80, 24 + 2 * max(len(value) for _, value in lines)))
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
