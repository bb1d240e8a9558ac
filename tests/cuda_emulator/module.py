"""CUDA kernels on the host: a .cu text compiled by g++ against `emulator.h`, with the face of `cupy.RawModule`.

CuPy checks no argument of a raw kernel: a Python float where the kernel has a float, an int64 array where it has ints,
and it reads garbage. Here every argument is compared with the kernel's parameter, and every launch with the limits of a
device.

To look for accesses out of bounds, compile with `ASAN_FLAGS` in a process that is started with `asan_environment()`:
the sanitizer has to be there before Python allocates anything. For a whole run of tests (NMFCORE_EMULATOR_FLAGS)::

    python tests/cuda_emulator/module.py python -m pytest -s tests/test_cuda_kernels.py
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).parent
THREADS_MOST, GRID_MOST, BLOCK_MOST = 1024, (2**31 - 1, 65535, 65535), (1024, 1024, 64)
SHARED_DEFAULT, SHARED_MOST = 48 << 10, 227 << 10  # bytes of a block; the latter is what sm_90 grants
ASAN_FLAGS = ("-O1", "-g", "-fsanitize=address")

# The defines of a .cu text must not change what the machine itself is compiled to, so they are the module's alone.
_COMMON = ("-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-gnu-unique", "-U_FORTIFY_SOURCE", f"-I{HERE}")
# No contraction: the bits are then the same on every host. Kernels cast pointers as nvcc allows. Stacks are probed page
# by page, so that none grows past the page that guards the next.
_KERNELS = (
    "-ffp-contract=off", "-fno-strict-aliasing", "-fstack-clash-protection", "-fno-exceptions", "-fno-rtti", "-w",
)  # fmt: skip

_SCALARS = {
    "int32": ctypes.c_int32, "uint32": ctypes.c_uint32, "int64": ctypes.c_int64, "uint64": ctypes.c_uint64,
    "float32": ctypes.c_float, "float64": ctypes.c_double, "uint8": ctypes.c_uint8, "uint16": ctypes.c_uint16,
}  # fmt: skip
# A half is passed by its bits; a bool is a byte.
_ALSO = {"uint16": "float16", "uint8": "bool"}

schedule = 0
"""Seed of the order of threads in the launches to come; see emulator.cpp. `scheduled` sets it for a while."""


class Launch(NamedTuple):
    """One launch of a kernel."""

    name: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_mem: int


LAUNCHES: list[Launch] = []
"""What has been launched within the last `recording`."""

capturing: Callable[[Any], list[Callable[[Any], None]] | None] | None = None
"""Return where a stream (None: the current one) writes launches down instead of running them; None: it does not."""

_recording = 0
_one_at_a_time = threading.Lock()  # there is one machine, and ctypes lets other threads run meanwhile


class EmulationError(RuntimeError):
    """A kernel, or its launch, does what a device does not allow; or a text does not compile."""


@functools.cache
def unavailable() -> str | None:
    """Return why nothing can be emulated here, in a sentence; None if it can."""
    if not sys.platform.startswith("linux"):
        return "the CUDA emulator is written for Linux"
    if shutil.which("g++") is None:
        return "the CUDA emulator needs g++ (Debian, Ubuntu: apt install g++)"
    return None


@contextlib.contextmanager
def scheduled(seed: int) -> Iterator[None]:
    """Run the threads of kernels in another order: 0, 1, 2, 3 are worth trying, their results must not differ."""
    global schedule
    before, schedule = schedule, seed
    try:
        yield
    finally:
        schedule = before


@contextlib.contextmanager
def recording() -> Iterator[list[Launch]]:
    """Write launches down in `LAUNCHES`, which is emptied first, and yield it."""
    global _recording
    LAUNCHES.clear()
    _recording += 1
    try:
        yield LAUNCHES
    finally:
        _recording -= 1


# ---- compiling -------------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Return the folder of compiled modules: NMFCORE_EMULATOR_CACHE, or one of this user's among temporary files."""
    named = os.environ.get("NMFCORE_EMULATOR_CACHE")
    folder = Path(named) if named else Path(tempfile.gettempdir()) / f"nmfcore-emulator-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():  # what lies there is loaded into this process
        msg = f"{folder} belongs to another user: set NMFCORE_EMULATOR_CACHE to a folder of your own"
        raise EmulationError(msg)
    return folder


def asan_environment() -> dict[str, str] | None:
    """Return what a process needs in its environment to load modules compiled with `ASAN_FLAGS`.

    Returns
    -------
    variables : dict or None
        LD_PRELOAD, ASAN_OPTIONS and NMFCORE_EMULATOR_FLAGS; None where g++ has no libasan.
    """
    found = []
    for name in ("libasan.so", "libstdc++.so"):  # the latter, or the sanitizer misses how C++ libraries throw
        told = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
        found.append(Path(told.strip()).resolve())
    if not all(path.is_file() for path in found):
        return None
    return {
        "LD_PRELOAD": ":".join(map(str, found)),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",  # Python leaks by design
        "NMFCORE_EMULATOR_FLAGS": " ".join(ASAN_FLAGS),
    }


@functools.cache
def _compiler() -> str:
    return subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout + platform.machine()


@functools.cache
def _own_texts() -> str:
    return "\0".join((HERE / name).read_text(encoding="utf-8") for name in ("emulator.h", "emulator.cpp", "module.py"))


def _build(text: Any, command: Sequence[str], key: Sequence[str]) -> Path:
    """Compile a text (or what a function returns for one), unless that has been done before → the library."""
    name = hashlib.sha256("\0".join([*key, *command, _own_texts(), _compiler()]).encode()).hexdigest()[:32]
    library = cache_folder() / f"{name}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
            source, made = Path(scratch) / "module.cpp", Path(scratch) / "module.so"
            source.write_text(text() if callable(text) else text, encoding="utf-8")
            done = subprocess.run([*command, "-o", str(made), str(source)], capture_output=True, text=True)
            if done.returncode:
                errors = [line for line in done.stderr.splitlines() if "error" in line]
                told = "\n".join(errors[:8]).replace(str(source), "line")
                raise EmulationError(f"the text does not compile for the host:\n{told or done.stderr[-2000:]}")
            made.replace(library)  # whole or not at all: a test beside this one may want the same
    return library


@functools.cache
def _machine(flags: tuple[str, ...]) -> ctypes.CDLL:
    """Return the library of fibers and barriers, compiled with the sanitizers of a module that runs on it."""
    text = (HERE / "emulator.cpp").read_text(encoding="utf-8")
    sanitizers = [flag for flag in flags if flag.startswith(("-fsanitize", "-fno-sanitize"))]
    library = ctypes.CDLL(str(_build(text, ["g++", *_COMMON, "-O2", *sanitizers], ())))
    library.emulator_machine.restype = ctypes.c_void_p
    library.emulator_launch.restype = ctypes.c_char_p
    return library


def _exporting(code: str, defines: Sequence[str]) -> str:
    """Return the text with what makes its kernels callable from here appended."""
    seen = subprocess.run(
        ["g++", "-x", "c++", "-E", "-P", *_COMMON, "-DNMFCORE_EMULATOR", "-DEMULATOR_LISTING", *defines,
         "-D__launch_bounds__(...)=@bounds(__VA_ARGS__)@", "-"],
        input=code, capture_output=True, text=True, cwd=HERE,  # where a text without a name finds its header
    )  # fmt: skip
    if seen.returncode:
        raise EmulationError(f"the text does not pass the preprocessor:\n{seen.stderr[-2000:]}")
    kernels = {}
    for external, bounds, name in re.findall(
        r'(extern\s*"C"\s*)?__global__\s+void\s+(?:@bounds\((.*?)\)@\s*)?(\w+)\s*\(', seen.stdout, re.DOTALL
    ):
        if not external:
            raise EmulationError(f'the kernel {name} is not extern "C": CuPy would not find it by this name')
        kernels[name] = f"emulator::first_of({bounds})"
    exports = [f"EMULATOR_EXPORT({name}, ({bounds}))" for name, bounds in kernels.items()]
    # The header comes first where the text itself does not include it, and counts lines as the text does.
    return "\n".join(
        ['#include "emulator.h"', '#line 1 "kernels.cu"', code, *exports, f'EMULATOR_MODULE("{" ".join(kernels)}")', ""]
    )


class EmulatedModule:
    """The kernels of a CUDA C++ text.

    Parameters
    ----------
    code : str
        The text; it includes "emulator.h" where NMFCORE_EMULATOR is defined.
    options : tuple of str
        As for NVRTC. Definitions (``-D``) and those taken back (``-U``) count, everything else is NVRTC's alone.
    flags : tuple of str, optional
        For g++; NMFCORE_EMULATOR_FLAGS of the environment, or ``-O1``. See `asan_environment`.

    Raises
    ------
    EmulationError
        If it does not compile.

    Examples
    --------
    >>> module = EmulatedModule(code, ("-DFT=float",))  # doctest: +SKIP
    >>> module.get_function("scale")((4,), (128,), (array, np.float32(2)))  # doctest: +SKIP
    """

    def __init__(self, code: str, options: tuple[str, ...] = (), flags: tuple[str, ...] | None = None):
        if isinstance(options, str) or not all(isinstance(option, str) for option in options):
            raise TypeError(f"options must be a tuple of strings, not {options!r}")
        if flags is None:
            flags = tuple(os.environ.get("NMFCORE_EMULATOR_FLAGS", "-O1").split())
        defines = [option for option in options if option.startswith(("-D", "-U"))]
        command = ["g++", *_COMMON, *_KERNELS, *flags, "-DNMFCORE_EMULATOR", *defines]
        library = _build(lambda: _exporting(code, defines), command, (code,))
        self._machine = _machine(flags)
        self._library = ctypes.CDLL(str(library))
        self._library.emulator_attach.restype = ctypes.c_void_p
        self._library.emulator_kernels.restype = ctypes.c_char_p
        # its own thread's: static shared memory is found by it
        self._attach = functools.partial(
            self._library.emulator_attach, ctypes.c_void_p(self._machine.emulator_machine())
        )
        self._attach()
        self.kernels = tuple(self._library.emulator_kernels().decode().split())
        self._functions: dict[str, Kernel] = {}

    def get_function(self, name: str) -> Kernel:
        """Return the kernel of this name; the same one each time, as its settings are the device's to keep."""
        if name not in self._functions:
            self._functions[name] = self.new_kernel(name)
        return self._functions[name]

    def new_kernel(self, name: str) -> Kernel:
        """Return the kernel of this name with no settings yet, as if the module had just been loaded."""
        if name not in self.kernels:
            raise EmulationError(f"there is no kernel {name!r}, only {', '.join(self.kernels) or 'none at all'}")
        return Kernel(self, name)


class Kernel:
    """A kernel: called with grid, block and arguments.

    Attributes
    ----------
    name : str
        Its name.
    signature : tuple of str
        numpy's names of the parameters' types, as in ``("const float32*", "int64")``.
    max_threads : int
        What its ``__launch_bounds__`` says, else 1024.
    """

    def __init__(self, module: EmulatedModule, name: str):
        library = module._library
        self.name, self._module = name, module
        self._call = getattr(library, f"emulator_call_{name}")
        type_of = getattr(library, f"emulator_type_{name}")
        type_of.restype = ctypes.c_char_p
        names: list[str] = []
        while (text := type_of(len(names))) is not None:
            names.append(text.decode())
        self.signature = tuple(names)
        self.max_threads = getattr(library, f"emulator_bounds_{name}")() or THREADS_MOST
        self._allowed = SHARED_DEFAULT
        self._parameters = [
            (kind.removeprefix("const ").rstrip("*"), kind.endswith("*"), kind.startswith("const "))
            for kind in self.signature
        ]

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        """Most dynamic shared memory of a block, in bytes; more than 48 KB has to be asked for, by setting it."""
        return self._allowed

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        if not 0 <= size <= SHARED_MOST:
            raise EmulationError(f"{self.name}: {size} bytes of shared memory, a device has {SHARED_MOST}")
        self._allowed = size

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], *, shared_mem: int = 0,
        stream: Any = None,
    ) -> None:  # fmt: skip
        """Run it, from the first block to the last.

        Parameters
        ----------
        grid, block : tuples of one to three ints
            How many blocks, and how many threads in each.
        args : sequence
            Arrays on the (fake) device of the very types, None for a null pointer, numpy scalars of the very types.
        shared_mem : int
            Dynamic shared memory of a block, in bytes.
        stream : cupy.cuda.Stream, optional
            Where it is queued; the current one.

        Raises
        ------
        EmulationError
            If an argument or the launch is not what the kernel or a device takes, or the kernel fails.
        """
        launch = Launch(self.name, _three(self.name, grid), _three(self.name, block), int(shared_mem))
        self._check(launch)
        into = None if capturing is None else capturing(stream)
        if into is not None:  # a graph holds addresses, and keeps nothing alive
            held = [value.address() if hasattr(value, "address") else value for value in args]
            into.append(lambda stream: self(grid, block, held, shared_mem=shared_mem, stream=stream))
            return
        arguments = self._arguments(args, stream)
        if _recording:
            LAUNCHES.append(launch)
        pointers = (ctypes.c_void_p * (len(arguments) + 1))(*map(ctypes.addressof, arguments), None)
        sizes = [(ctypes.c_uint * 3)(*each) for each in (launch.grid, launch.block)]
        with _one_at_a_time:
            told = self._module._machine.emulator_launch(
                self._call, pointers, *sizes, ctypes.c_size_t(launch.shared_mem), ctypes.c_uint(schedule),
                ctypes.c_void_p(self._module._attach()),
            )  # fmt: skip
        if told is not None:
            raise EmulationError(f"{self.name}: {told.decode()} (seed {schedule})")

    def _check(self, launch: Launch) -> None:
        threads = launch.block[0] * launch.block[1] * launch.block[2]
        if not all(1 <= size <= most for size, most in zip(launch.grid, GRID_MOST, strict=True)):
            raise EmulationError(f"{self.name}: a grid of {launch.grid} blocks; a device takes 1 … {GRID_MOST}")
        if threads > THREADS_MOST or not all(1 <= s <= m for s, m in zip(launch.block, BLOCK_MOST, strict=True)):
            raise EmulationError(f"{self.name}: a block of {launch.block} threads; a device takes {THREADS_MOST}")
        if threads > self.max_threads:
            raise EmulationError(f"{self.name}: {threads} threads, its __launch_bounds__ are {self.max_threads}")
        if not 0 <= launch.shared_mem <= SHARED_MOST:
            raise EmulationError(f"{self.name}: {launch.shared_mem} bytes of shared memory, a device has {SHARED_MOST}")
        if launch.shared_mem > self._allowed:
            asked = f"max_dynamic_shared_size_bytes is {self._allowed}"
            raise EmulationError(f"{self.name}: {launch.shared_mem} bytes of shared memory, {asked}")

    def _arguments(self, args: Sequence[Any], stream: Any) -> list[Any]:
        if len(args) != len(self.signature):
            raise EmulationError(f"{self.name} takes {len(self.signature)} arguments, {len(args)} are given")
        passed: list[Any] = []
        for number, (value, (kind, pointer, constant)) in enumerate(zip(args, self._parameters, strict=True)):
            where = f"{self.name}, argument {number} ({self.signature[number]})"
            if not pointer:
                if not isinstance(value, np.generic) or value.dtype != kind:
                    raise EmulationError(f"{where}: a numpy.{kind} is expected, {_described(value)} is given")
                passed.append(_SCALARS[kind](value.item()))
            elif value is None:
                passed.append(ctypes.c_void_p(None))
            elif not hasattr(value, "__cuda_array_interface__"):
                raise EmulationError(f"{where}: an array on the device is expected, {_described(value)} is given")
            elif value.dtype not in (kind, _ALSO.get(kind, kind)):
                raise EmulationError(f"{where}: an array of {kind} is expected, {_described(value)} is given")
            else:
                if hasattr(value, "_used_by_kernel"):
                    value._used_by_kernel(not constant, stream)
                passed.append(ctypes.c_void_p(value.data.ptr))
        return passed


def _three(name: str, sizes: tuple[int, ...]) -> tuple[int, int, int]:
    if not isinstance(sizes, tuple) or not 1 <= len(sizes) <= 3:
        raise EmulationError(f"{name}: grid and block are tuples of one to three numbers, not {sizes!r}")
    x, y, z = (*(int(size) for size in sizes), 1, 1)[:3]
    return x, y, z


def _described(value: Any) -> str:
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return f"{kind} of {value.dtype}" if hasattr(value, "dtype") and not isinstance(value, np.generic) else kind


@functools.cache
def compiled(code: str, options: tuple[str, ...] = ()) -> EmulatedModule:
    """Return an `EmulatedModule`, the same one for the same text and options: tests ask for few, and often."""
    return EmulatedModule(code, options)


if __name__ == "__main__":  # run a command with the sanitizer
    variables = asan_environment()
    if variables is None:
        sys.exit("g++ has no libasan")
    os.execvpe(sys.argv[1], sys.argv[1:], os.environ | variables)
