"""The pictures of a fit, which a second process draws: it imports matplotlib while this one imports the rest and fits.

Importing matplotlib and drawing take as long as the rest of a short command. The second process is begun with the
command, and waits to be told what to draw. Where it fails, ends early or takes too long, and where there is no second
processor, this process draws, as it does what raises an error. Importing this does not import matplotlib.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from .._second import begun, possible

__all__ = ["Drawing", "Pencil", "beside", "pencil"]

LONGEST = 60.0  # seconds of waiting after which this process draws by itself
_STEP = 0.005  # seconds between two looks
_CODE = "from nmfcore.cli import drawing; drawing.serve()"
# A process that has loaded one of these draws by itself.
_LOADED = ("matplotlib", "nmfcore.plots")


class Drawing(NamedTuple):
    """A function of `nmfcore.plots`, and what it is called with."""

    function: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    def png(self) -> bytes:
        """Return the picture, as the bytes of a PNG file."""
        from .. import plots

        axes = getattr(plots, self.function)(*self.arguments, **self.options)
        file = io.BytesIO()
        axes.figure.savefig(file, format="png", bbox_inches="tight", pad_inches=0.1)
        return file.getvalue()


class Pencil:
    """What draws: a second process where one has been begun and does well, else this one."""

    def __init__(self, process: subprocess.Popen[bytes] | None = None):
        self._process = process
        self._asked: threading.Thread | None = None
        self._made: dict[str, bytes] = {}

    def hand_over(self, drawings: Mapping[str, Drawing]) -> None:
        """Tell the second process what to draw, if there is one; it begins at once.

        Parameters
        ----------
        drawings : dict of str to Drawing
            The pictures, by the names of their files.
        """
        if self._process is None:
            return
        try:
            told = pickle.dumps({name: tuple(drawing) for name, drawing in drawings.items()})
        except Exception:  # labels of any kind: these pictures are drawn here
            self.end()
            return
        self._asked = threading.Thread(target=self._listen, args=(self._process, told), daemon=True)
        self._asked.start()

    def _listen(self, process: subprocess.Popen[bytes], told: bytes) -> None:
        with contextlib.suppress(Exception):
            answer, _ = process.communicate(told)
            self._made = pickle.loads(answer)

    def png(self, name: str, drawing: Callable[[], Drawing]) -> bytes:
        """Return a picture as the bytes of a PNG file.

        Parameters
        ----------
        name : str
            The name by which it was handed over, if it was.
        drawing : callable
            Returns what it is drawn from, where this process draws it.

        Returns
        -------
        picture : bytes
            The file.
        """
        if self._asked is not None:
            begun = time.monotonic()
            while self._asked.is_alive() and time.monotonic() - begun < LONGEST:
                self._asked.join(_STEP)  # a wait that Ctrl-C ends on every system
            if self._asked.is_alive():
                self.end()
        made = self._made.get(name)
        return drawing().png() if made is None else made

    def end(self) -> None:
        """End the second process, if there is one."""
        process, self._process, self._asked = self._process, None, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError, ValueError):
                    pipe.close()


_pencil = Pencil()


@contextmanager
def beside(wanted: bool) -> Iterator[None]:
    """Have a second process ready to draw while this lasts, where there is a processor for it.

    Parameters
    ----------
    wanted : bool
        Whether there will be pictures; False: this does nothing.
    """
    global _pencil
    former, _pencil = _pencil, Pencil(_begun() if wanted else None)
    atexit.register(_pencil.end)
    try:
        yield
    finally:
        _pencil.end()
        atexit.unregister(_pencil.end)
        _pencil = former


def pencil() -> Pencil:
    """Return what draws the pictures of the command that is running."""
    return _pencil


def _begun() -> subprocess.Popen[bytes] | None:
    if not possible() or any(name in sys.modules for name in _LOADED):
        return None
    with contextlib.suppress(OSError, ValueError):
        return begun(_CODE, talks=True)
    return None


def serve() -> None:
    """Draw what the process that has begun this one tells on standard input; write the pictures to standard output.

    A picture that cannot be drawn is left out: the other process draws it and raises the error.
    """
    import signal

    from .console import quiet_libraries
    from .starting import imports_put_off

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that fits, which then draws what it has
    answer, sys.stdout = sys.stdout.buffer, sys.stderr  # whatever a library prints is no picture
    with quiet_libraries(), imports_put_off():
        Drawing("convergence", ({"loss": [2.0, 1.0], "seconds": [0.0, 1.0]},), {}).png()  # imports, fonts
        told = sys.stdin.buffer.read()
        if not told:
            return
        made = {}
        for name, drawing in pickle.loads(told).items():
            with contextlib.suppress(Exception):
                made[name] = Drawing(*drawing).png()
        answer.write(pickle.dumps(made))
        answer.flush()
