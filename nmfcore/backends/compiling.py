"""A kernel that a second process compiles, while this one imports modules, reads pictures and compiles others.

Numba compiles one function at a time in a process, and half of that time is Python's. So the first fit of a machine
uses a second processor by a second process, which leaves the kernel in the cache. Only the command line begins one, as
only there ``sys.executable`` is known to be Python. Where it fails, ends early or takes too long, this process compiles
the kernel, as it does without a second one. Importing this does not import Numba.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from .._second import begun, possible

LONGEST = 60.0  # seconds of waiting after which this process compiles the kernel itself
_STEP = 0.01  # seconds between two looks
_CODE = "from nmfcore.backends import compiling; compiling.descent({dtype!r})"

_running: dict[str, subprocess.Popen[bytes]] = {}  # by name of the kernel


def begin(dtype: str) -> bool:
    """Have a second process compile the kernel of a fit with solver "hals", unless it has been compiled before.

    Parameters
    ----------
    dtype : str
        Compute type, "float32" or "float64".

    Returns
    -------
    begun : bool
        False where there is but one processor, or the kernel lies in the cache.
    """
    kernel = "frobenius_pass"
    if not possible() or _running or _lies_in_cache(kernel):
        return False
    with contextlib.suppress(OSError, ValueError):
        _running[kernel] = begun(_CODE.format(dtype=dtype))
        atexit.register(end)
    return bool(_running)


def _lies_in_cache(kernel: str) -> bool:
    """Return whether the cache holds the kernel, for whatever types."""
    from .kernels._digest import DIGEST

    own, home = os.environ.get("NUMBA_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    kept = Path(tempfile.gettempdir()) / f"nmfcore-kernels-{user}"
    here = Path(__file__).parent / "kernels" / "__pycache__"
    places = [Path(own)] if own else [here, Path(home) / "numba", kept]
    name = f"*{kernel}_{DIGEST}-*.py{sys.version_info.major}{sys.version_info.minor}*.nbi"
    return any(any(place.glob(pattern)) for place in places for pattern in (name, f"*/{name}"))


def awaited(qualname: str) -> bool:
    """Wait for a second process that compiles this kernel; return whether there was one and it has ended well.

    Parameters
    ----------
    qualname : str
        Name under which the kernel is kept.

    Returns
    -------
    made : bool
        Whether it is worth looking into the cache again.
    """
    kernel = next((name for name in _running if qualname.startswith(name)), None)
    if kernel is None:
        return False
    process, begun = _running[kernel], time.monotonic()
    try:
        while process.poll() is None and time.monotonic() - begun < LONGEST:
            time.sleep(_STEP)
        return process.poll() == 0
    finally:
        end()


def end() -> None:
    """End the second process, if there is one."""
    while _running:
        _, process = _running.popitem()
        with contextlib.suppress(OSError):
            process.kill()
        process.wait()


def descent(dtype: str) -> None:
    """Compile the kernel of a fit with solver "hals", of X and factors of one number each, or load it from the cache.

    Parameters
    ----------
    dtype : str
        Compute type, "float32" or "float64".
    """
    from . import cpu

    one = np.ones((1, 1), dtype)
    begin = cpu.Beginning(one, np.ones(2, dtype), 0.0, np.zeros((2, 1)), 0)
    sums = np.zeros((1, 1)), np.zeros((1, 1)), np.zeros(cpu.STATS)
    block = cpu.cut(one, (0, 1), 64)
    cpu.descend(block, one, one, np.ones((1, 1)), 0.0, 0.0, np.arange(1), 1, 0.0, one.copy(), *sums, 0.1, begin)
