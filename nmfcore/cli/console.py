"""What reaches the terminal: text that any console can print, no warnings of libraries, and an answer to Ctrl-C."""

import codecs
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from io import TextIOWrapper

__all__ = ["any_text_printable", "interrupts_answered", "interrupts_held", "quiet_libraries"]

_ERRORS = "nmfcore.console"
_PLAIN = {"×": "x", "–": "-", "—": "-", "−": "-", "…": "...", "‖": "||", "≈": "~", "·": "-", "’": "'"}
_PATIENCE = 0.7  # seconds after which an interrupt that has not been answered gets a line


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that the console's encoding lacks."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(letter) or ascii(letter)[1:-1] for letter in text), error.end


class _Lenient:
    """A stream for notes: what it cannot take, on a full disk for one, is left out, and the command goes on."""

    def __init__(self, stream: "TextIOWrapper"):
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text."""
        with self._going_on():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: "Iterable[str]") -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is held."""
        with self._going_on():
            self._stream.flush()

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):  # what is held would fail once more, when Python ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextmanager
def any_text_printable() -> Iterator[None]:
    """Let stdout and stderr replace what their encoding lacks, where Python would raise."""
    codecs.register_error(_ERRORS, _plain)
    former = []
    with contextlib.ExitStack() as opened:
        for name in ("stdout", "stderr"):
            stream: TextIOWrapper | None = getattr(sys, name)
            if stream is None:  # the program was started without it
                opened.callback(setattr, sys, name, None)
                setattr(sys, name, opened.enter_context(open(os.devnull, "w", encoding="utf-8")))
            elif name == "stderr":
                opened.callback(setattr, sys, name, stream)
                setattr(sys, name, _Lenient(stream))
            if stream is not None and hasattr(stream, "reconfigure"):
                former.append((stream, stream.errors))
                stream.reconfigure(errors=_ERRORS)
        try:
            yield
        finally:
            for stream, errors in former:
                with contextlib.suppress(ValueError, OSError):  # closed, or on a full disk
                    stream.reconfigure(errors=errors)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep warnings and log lines of libraries from stderr, and never raise a warning as an error.

    What a command shows of them, it records itself: see `common.warnings_as_notes`.
    """
    root, silent, hook = logging.getLogger(), logging.NullHandler(), sys.unraisablehook
    root.addHandler(silent)  # without a handler, logging prints to stderr
    sys.unraisablehook = lambda unraisable: None  # it prints tracebacks of what fails in a destructor
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.unraisablehook = hook
        root.removeHandler(silent)


@contextmanager
def interrupts_answered() -> Iterator[threading.Event]:
    """Print a line when Ctrl-C is pressed and Python cannot act on it within a second.

    Python raises KeyboardInterrupt between two of its own steps. A library that computes or waits outside Python may
    take longer; a thread says then that the key has been seen.

    Yields
    ------
    answered : threading.Event
        To be set where KeyboardInterrupt has been caught.
    """
    answered = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield answered
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)

    def watch() -> None:
        while received := receiver.recv(64):
            if signal.SIGINT in received and not answered.wait(_PATIENCE):
                sys.stderr.write("nmfcore: interrupted; waiting for the step that is running to end\n")

    watcher = threading.Thread(target=watch, name="nmfcore-interrupts", daemon=True)
    former = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    watcher.start()
    try:
        yield answered
    finally:
        answered.set()
        signal.set_wakeup_fd(former)
        sender.close()
        watcher.join(1)
        receiver.close()


@contextmanager
def interrupts_held() -> Iterator[threading.Event]:
    """Let a short step that must not be interrupted end first.

    Yields
    ------
    pressed : threading.Event
        Set when Ctrl-C was pressed meanwhile.
    """
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    former = signal.signal(signal.SIGINT, lambda number, frame: pressed.set())
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, former)
