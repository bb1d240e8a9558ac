"""A second process of Python, for work that this one would otherwise wait for."""

from __future__ import annotations

import os
import subprocess
import sys

__all__ = ["begun", "possible"]


def possible() -> bool:
    """Return whether there is a second processor, and ``sys.executable`` is a Python that can be started."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return processors > 1 and bool(sys.executable) and not getattr(sys, "frozen", False)


def begun(code: str, talks: bool = False) -> subprocess.Popen[bytes]:
    """Begin a process that runs some code and imports modules from where this one does.

    It makes no looks for garbage, which take a twelfth of the time of a short task.

    Parameters
    ----------
    code : str
        What it runs.
    talks : bool
        Whether its standard input and output are pipes to this process. False, the default: it has neither.

    Returns
    -------
    process : subprocess.Popen
        What was begun.

    Raises
    ------
    OSError, ValueError
        When it cannot be begun.

    Examples
    --------
    >>> from nmfcore._second import begun
    >>> begun("print(6 * 7)", talks=True).communicate()[0].strip()
    b'42'
    """
    # -P: nothing is imported from the folder in which the command runs unless this process does so, too.
    command = [sys.executable, "-P", "-c", f"import gc, sys; gc.disable(); sys.path[:] = {sys.path!r}; {code}"]
    quiet, pipe = subprocess.DEVNULL, subprocess.PIPE if talks else subprocess.DEVNULL
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=quiet)
