"""Where compiled kernels are kept between processes, decided before the first kernel is defined.

Numba keeps them beside the source file, or in the user's cache folder when that is read-only. Where neither can be
written (a system service without a home), a private folder below the temporary one serves; without even that, kernels
are compiled anew in each process.

`_decorators` compiles with what is decided here: `KernelCompiler`, `PartCompiler`, `OnceCompiler`, `KernelCache` and
`CACHE`.
"""

import contextlib
import logging
import os
import stat
import tempfile
from typing import Any

import llvmlite
import numba
from numba import config

logger = logging.getLogger("nmfcore")


def _writable(folder: str) -> bool:
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _private_folder() -> str | None:
    """Return a folder below the temporary one that only this user can write: compiled code is run unseen."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    folder = os.path.join(tempfile.gettempdir(), f"nmfcore-kernels-{user}")
    with contextlib.suppress(OSError):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        found = os.lstat(folder)
        private = not hasattr(os, "getuid") or (
            stat.S_ISDIR(found.st_mode)
            and found.st_uid == os.getuid()
            and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        )
        if private and _writable(folder):
            return folder
    return None


def _numba_keeps() -> bool:
    """Return whether one of the places where Numba keeps compiled functions can be written."""
    if config.CACHE_DIR:
        return _writable(config.CACHE_DIR)
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__pycache__")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return _writable(here) or _writable(os.path.join(home, "numba"))


CACHE = _numba_keeps()  # whether Numba's own cache serves

KernelCompiler: Any
PartCompiler: Any
OnceCompiler: Any
KernelCache: Any
try:
    from ._pipeline import KernelCache, KernelCompiler, OnceCompiler, PartCompiler
except (ImportError, AttributeError) as error:
    KernelCache = KernelCompiler = PartCompiler = OnceCompiler = None  # Numba's own
    logger.warning(
        "nmfcore leaves its kernels to the stock compiler of Numba %s (with llvmlite %s), in which it misses a name "
        "(%s): results are right to rounding, but a kernel that was compiled in this process may differ in the last "
        "bits from one loaded from the cache.",
        numba.__version__,
        llvmlite.__version__,
        error,
    )
else:
    if not CACHE and not config.CACHE_DIR:
        KernelCompiler.folder = _private_folder()
    KernelCompiler.kept = CACHE or KernelCompiler.folder is not None
