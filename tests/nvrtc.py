"""NVRTC without a driver: the compiler of PyPI's wheel, called by ctypes, and what its log tells of each kernel.

The wheel is nvidia-cuda-nvrtc (`nvidia/cu13`); that of CUDA 12 (nvidia-cuda-nvrtc-cu12) is found as well. A library
of the system is not looked for: CuPy finds that in its own way, and its version would be anybody's guess.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
import time
from pathlib import Path
from typing import NamedTuple

FLUSHED = "-ftz=true"  # CuPy adds it to whatever it compiles


class CompileError(Exception):
    """What NVRTC says about a source that it does not compile."""


class Kernel(NamedTuple):
    """Resources of one kernel, or of a function that kernels call (registers and shared bytes 0)."""

    registers: int
    spill: int  # bytes, stores and loads
    shared: int  # bytes, static
    stack: int  # bytes of local memory per thread: spills, and arrays that registers cannot be


class Compiled(NamedTuple):
    """A module: its code, the compiler's words, and the processor time that it took (the same on a busy machine)."""

    cubin: bytes
    log: str
    seconds: float
    kernels: dict[str, Kernel]
    functions: dict[str, Kernel]


def libraries() -> list[Path]:
    """Return the NVRTC libraries of the installed wheels, the newest first."""
    spec = importlib.util.find_spec("nvidia")
    found = {
        (int(number[1]), path)
        for folder in (spec.submodule_search_locations or [] if spec else [])
        for path in Path(folder).glob("*/lib/libnvrtc.so.*")
        if (number := re.fullmatch(r"libnvrtc\.so\.(\d+)", path.name))
    }
    return [path for _, path in sorted(found, reverse=True)]


def available() -> str | None:
    """Return None where NVRTC can be used, else what is missing, in a sentence."""
    if not libraries():
        return "NVRTC is not installed: pip install nvidia-cuda-nvrtc"
    try:
        _library()
    except OSError as error:
        return f"NVRTC does not load: {error}"
    return None


@functools.cache
def _library() -> ctypes.CDLL:
    path = libraries()[0]
    for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins))  # NVRTC looks for them by name, older ones not beside themselves
    library = ctypes.CDLL(str(path))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    size = ctypes.POINTER(ctypes.c_size_t)
    for name, arguments in {
        "nvrtcVersion": [ctypes.POINTER(number), ctypes.POINTER(number)],
        "nvrtcCreateProgram": [ctypes.POINTER(pointer), text, text, number, pointer, pointer],
        "nvrtcDestroyProgram": [ctypes.POINTER(pointer)],
        "nvrtcCompileProgram": [pointer, number, ctypes.POINTER(text)],
        "nvrtcGetProgramLogSize": [pointer, size],
        "nvrtcGetProgramLog": [pointer, text],
        "nvrtcGetCUBINSize": [pointer, size],
        "nvrtcGetCUBIN": [pointer, text],
    }.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, number
    library.nvrtcGetErrorString.argtypes, library.nvrtcGetErrorString.restype = [number], text
    return library


def version() -> tuple[int, int]:
    """Return the version of NVRTC."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(_library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return major.value, minor.value


def _check(status: int) -> None:
    if status:
        raise CompileError(_library().nvrtcGetErrorString(status).decode())


def _fetch(program: ctypes.c_void_p, what: str) -> bytes:
    """Return the log or the cubin of a program."""
    length = ctypes.c_size_t()
    _check(getattr(_library(), f"nvrtcGet{what}Size")(program, ctypes.byref(length)))
    room = ctypes.create_string_buffer(length.value)
    _check(getattr(_library(), f"nvrtcGet{what}")(program, room))
    return room.raw


def compile(source: str, options: tuple[str, ...] = (), arch: str = "sm_90") -> Compiled:
    """Compile CUDA C++ to the machine code of one architecture, with the options that CuPy adds.

    Raises
    ------
    CompileError
        With NVRTC's log, if the source does not compile.
    """
    library, program = _library(), ctypes.c_void_p()
    words = [word.encode() for word in (*options, f"-arch={arch}", FLUSHED, "--ptxas-options=-v")]
    _check(library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None))
    try:
        started = time.thread_time()
        status = library.nvrtcCompileProgram(program, len(words), (ctypes.c_char_p * len(words))(*words))
        seconds = time.thread_time() - started
        log = _fetch(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
        if status:
            raise CompileError(log or library.nvrtcGetErrorString(status).decode())
        return Compiled(_fetch(program, "CUBIN"), log, seconds, *resources(log))
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


# ptxas -v: "Compiling entry function 'a' for 'sm_90'", "Function properties for a", the next line the stack and the
# spills, then "Used 40 registers, used 1 barriers, 8448 bytes smem". Functions that are called have properties only.
_LINE = re.compile(
    r"Compiling entry function '(?P<entry>\w+)'"
    r"|Function properties for (?P<function>\S+)\n"
    r"\D*(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
    r"|Used (?P<registers>\d+) registers(?P<rest>.*)"
)


def resources(log: str) -> tuple[dict[str, Kernel], dict[str, Kernel]]:
    """Read the resources of the kernels, and of the functions they call, from the log of `ptxas -v`.

    Raises
    ------
    ValueError
        If the log does not tell all of a kernel: a spill overlooked would pass for none.
    """
    kernels: dict[str, Kernel] = {}
    functions: dict[str, Kernel] = {}
    entry, told = "", []
    for line in _LINE.finditer(log):
        if line["entry"]:
            entry = line["entry"]
        elif line["function"]:
            of = kernels if line["function"] == entry else functions
            of[line["function"]] = Kernel(0, int(line["stores"]) + int(line["loads"]), 0, int(line["stack"]))
        else:
            shared = re.search(r"(\d+) bytes smem", line["rest"])
            told.append((entry, int(line["registers"]), int(shared[1]) if shared else 0))
    for name, registers, static in told:
        if name in kernels:
            kernels[name] = kernels[name]._replace(registers=registers, shared=static)
    entries = re.findall(r"Compiling entry function '(\w+)'", log)
    if not entries or sorted(entries) != sorted(kernels) or not all(kernel.registers for kernel in kernels.values()):
        msg = f"ptxas words its log in another way, or compiled no kernel:\n{log}"
        raise ValueError(msg)
    return kernels, functions
