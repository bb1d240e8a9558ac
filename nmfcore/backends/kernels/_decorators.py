"""How the functions of this folder are compiled: the options, and the decorators that apply them.

A function that Python calls is a `kernel`; all others are compiled into the kernels that call them.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from ._caching import CACHE, KernelCompiler, PartCompiler

# No nnan, no ninf: a NaN or an infinity must stay one. The only place that names fast-math flags.
FASTMATH = frozenset({"nsz", "arcp", "contract", "afn", "reassoc"})
COMMON = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
# Literal arguments of these functions are wrapped (np.intp(1)): Numba would compile a copy for each value.
INNER = COMMON | {"fastmath": set(FASTMATH), "no_cpython_wrapper": True, "pipeline_class": PartCompiler}
INLINED = INNER | {"forceinline": True}
# For arithmetic on bits, where (x + c) − c is not x: LLVM may fuse, but not reorder.
EXACT = INLINED | {"fastmath": {"contract"}}
ENTRY = COMMON | {"fastmath": set(FASTMATH), "cache": CACHE, "pipeline_class": KernelCompiler}


def _digest() -> str:
    """Return a digest of the source files of which kernels consist."""
    here = Path(__file__).parent
    files = [*sorted(here.glob("*.py")), *here.parent.glob("operations.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


DIGEST = _digest()


def inner(function: Callable[..., object]) -> Any:
    """Compile a function for the kernels that call it."""
    return numba.njit(function, **INNER)


def inlined(function: Callable[..., object]) -> Any:
    """Compile a function into each of its callers."""
    return numba.njit(function, **INLINED)


def exact(function: Callable[..., object]) -> Any:
    """Compile a function into each of its callers, with its arithmetic in the order in which it is written."""
    return numba.njit(function, **EXACT)


def kernel(function: Callable[..., object]) -> Any:
    """Compile a function that Python calls, and keep its machine code between processes.

    Numba keeps code until the file of the function changes, but kernels contain functions of other files. The name
    under which the code is kept therefore ends in a digest of all of these files.
    """
    function.__qualname__ += f"_{DIGEST}"
    return numba.njit(function, **ENTRY)
