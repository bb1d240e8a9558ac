"""How the functions of this folder are compiled: the options, and the decorators that apply them.

A function that Python calls is a `kernel`; all others are compiled into the kernels that call them.
"""

from collections.abc import Callable
from typing import Any

import numba

from ._caching import CACHE, KernelCache, KernelCompiler, OnceCompiler, PartCompiler
from ._digest import DIGEST

# No nnan, no ninf: a NaN or an infinity must stay one. The only place that names fast-math flags.
FASTMATH = frozenset({"nsz", "arcp", "contract", "afn", "reassoc"})
COMMON = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
# Literal arguments of these functions are wrapped (np.intp(1)): Numba would compile a copy for each value.
INNER = COMMON | {"fastmath": set(FASTMATH), "no_cpython_wrapper": True, "pipeline_class": PartCompiler}
ONCE = INNER | {"pipeline_class": OnceCompiler}
INLINED = INNER | {"forceinline": True}
# For arithmetic on bits, where (x + c) − c is not x: LLVM may fuse, but not reorder.
EXACT = INLINED | {"fastmath": {"contract"}}
ENTRY = COMMON | {"fastmath": set(FASTMATH), "cache": CACHE, "pipeline_class": KernelCompiler}


def inner(function: Callable[..., object]) -> Any:
    """Compile a function for the kernels that call it; LLVM optimises it before, and again as a part of these."""
    return numba.njit(function, **INNER)


def once(function: Callable[..., object]) -> Any:
    """Compile a function for the kernels that call it, in which alone LLVM optimises it.

    That takes less time to compile. It is for functions whose results have the same bits either way: some loops over
    vectors (sweeps, multiplicative steps, sums) have other multiply-adds fused when they are optimised once more.
    """
    return numba.njit(function, **ONCE)


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
    made = numba.njit(function, **ENTRY)
    if CACHE and KernelCache is not None:
        made._cache = KernelCache(function)
    return made
