"""A .cu text compiled for the host by g++, with the face of ``cupy.RawModule``.

CuPy checks no argument of a raw kernel. Here every one is compared with the kernel's signature, and every launch with
the limits of a real device.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SCALARS = {
    "int": (ctypes.c_int, np.int32),
    "long long": (ctypes.c_longlong, np.int64),
    "float": (ctypes.c_float, np.float32),
    "double": (ctypes.c_double, np.float64),
}
POINTERS = {
    "unsigned char": ("uint8",),
    "unsigned short": ("uint16", "float16"),
    "int": ("int32",),
    "long long": ("int64",),
    "float": ("float32",),
    "double": ("float64",),
}
SHARED_DEFAULT, SHARED_MOST = 48 << 10, 227 << 10

_seed = 0


class EmulationError(RuntimeError):
    """A kernel did what a real device would not forgive."""


def unavailable():
    """Return why nothing can be emulated here, or None."""
    return None if shutil.which("g++") else "emulating CUDA kernels needs g++"


@contextlib.contextmanager
def scheduled(seed):
    """Run kernels in another order of threads: see emulator.h."""
    global _seed
    before, _seed = _seed, seed
    try:
        yield
    finally:
        _seed = before


def cache_folder():
    """Return where compiled modules are kept between runs."""
    named = os.environ.get("NMFCORE_EMULATOR_CACHE")
    return Path(named) if named else Path(tempfile.gettempdir()) / f"nmfcore-emulator-{os.getuid()}"


def _compile(code, defines, flags):
    """Compile one module → path of the library, and {kernel: [(base type, is a pointer)]}."""
    options = ["-std=c++17", "-DNMFCORE_EMULATOR", f"-I{HERE}", *defines]
    plain = code.replace('#include "emulator.h"', "")  # signatures need none of it
    preprocessed = subprocess.run(
        ["g++", "-x", "c++", "-E", "-P", *options, "-D__global__=", "-D__launch_bounds__(...)=", "-"],
        input=plain, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    typedefs = dict(re.findall(r"typedef\s+(long long)\s+(\w+)\s*;", preprocessed))
    aliases = {name: base for base, name in typedefs.items()}
    signatures = {}
    for name, arguments in re.findall(r'extern "C"\s+void\s+(\w+)\s*\(([^)]*)\)\s*\{', preprocessed):
        signatures[name] = []
        for argument in arguments.split(","):
            base, star = re.match(r"\s*(?:const\s+)?([\w ]+?)\s*(\*?)\s*\w+\s*$", argument).groups()
            signatures[name].append((aliases.get(base, base), bool(star)))
    lines = [code, "#define WRAPPED(call) try { call; return nullptr; } catch (const std::exception& e) { \\",
             "  static std::string told; told = e.what(); return told.c_str(); }"]  # fmt: skip
    for name, arguments in signatures.items():
        declared = ", ".join(f"{base}{'*' if star else ''} a{i}" for i, (base, star) in enumerate(arguments))
        given = ", ".join(f"a{i}" for i in range(len(arguments)))
        lines.append(
            f'extern "C" const char* run_{name}(const unsigned* grid, const unsigned* block, size_t shared, '
            f"unsigned seed, {declared}) "
            f"{{ WRAPPED(emulator::launch(grid, block, shared, seed, [=] {{ {name}({given}); }})) }}"
        )
    text = "\n".join(lines) + "\n"
    command = ["g++", *options, *flags, "-fPIC", "-shared", "-Wno-unknown-pragmas", "-fno-strict-aliasing"]
    header = (HERE / "emulator.h").read_text(encoding="utf-8")
    key = hashlib.sha256("\0".join([text, header, *command]).encode()).hexdigest()[:24]
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"{key}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source, made = Path(scratch) / "module.cpp", Path(scratch) / "module.so"
            source.write_text(text, encoding="utf-8")
            done = subprocess.run([*command, "-o", str(made), str(source)], capture_output=True, text=True)
            if done.returncode:
                raise EmulationError(f"the module does not compile for the host:\n{done.stderr[-4000:]}")
            made.replace(library)  # whole or not at all, also for a test beside this one
    return library, signatures


class EmulatedModule:
    """Kernels of a .cu text.

    Parameters
    ----------
    code : str
        CUDA C++ that includes "emulator.h" where NMFCORE_EMULATOR is defined.
    options : tuple of str
        As for NVRTC; definitions count, the rest is left out.
    flags : tuple of str
        For g++: ``("-fsanitize=address",)`` in a process started with libasan preloaded.
    """

    def __init__(self, code, options=(), flags=("-O1",)):
        defines = [option for option in options if option.startswith("-D")]
        library, self.signatures = _compile(code, defines, list(flags))
        self._library = ctypes.CDLL(str(library))

    def get_function(self, name):
        """Return a kernel by its name."""
        if name not in self.signatures:
            raise EmulationError(f"no kernel named {name!r}; there are {', '.join(self.signatures)}")
        return Kernel(name, self.signatures[name], getattr(self._library, f"run_{name}"))


class Kernel:
    """One kernel: called with grid, block and arguments."""

    def __init__(self, name, signature, run):
        self.name, self.signature, self._run = name, signature, run
        self.max_dynamic_shared_size_bytes = SHARED_DEFAULT
        kinds = [ctypes.c_void_p if star else SCALARS[base][0] for base, star in signature]
        run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint, *kinds]
        run.restype = ctypes.c_char_p

    def __call__(self, grid, block, args, *, shared_mem=0, stream=None):
        grid, block = (tuple(int(size) for size in sizes) + (1,) * (3 - len(sizes)) for sizes in (grid, block))
        self._check_launch(grid, block, shared_mem)
        if len(args) != len(self.signature):
            raise EmulationError(f"{self.name} takes {len(self.signature)} arguments, not {len(args)}")
        passed = [self._argument(i, each) for i, each in enumerate(args)]
        sizes = [(ctypes.c_uint * 3)(*each) for each in (grid, block)]
        told = self._run(*sizes, shared_mem, _seed, *passed)
        if told is not None:
            raise EmulationError(f"{self.name}: {told.decode()}")

    def _check_launch(self, grid, block, shared):
        threads = int(np.prod(block))
        if not 1 <= threads <= 1024 or block[2] > 64:
            raise EmulationError(f"{self.name}: a block of {block} threads")
        if not (1 <= grid[0] < 2**31 and all(1 <= size <= 65535 for size in grid[1:])):
            raise EmulationError(f"{self.name}: a grid of {grid} blocks")
        if shared > min(self.max_dynamic_shared_size_bytes, SHARED_MOST):
            raise EmulationError(f"{self.name}: {shared} bytes of shared memory were not asked for")

    def _argument(self, number, value):
        base, star = self.signature[number]
        where = f"{self.name}, argument {number}"
        if not star:
            wanted = SCALARS[base][1]
            if type(value) is not wanted:
                raise EmulationError(f"{where}: {wanted.__name__} for {base!r}, not {type(value).__name__}")
            return value.item()
        if value is None:
            return None
        if not hasattr(value, "data") or not hasattr(value.data, "ptr"):
            raise EmulationError(f"{where}: an array on the device, not {type(value).__name__}")
        if value.dtype.name not in POINTERS[base]:
            raise EmulationError(f"{where}: an array of {base!r}, not of {value.dtype}")
        return value.data.ptr


@functools.cache
def compiled(code, options):
    """Return a module made before, if there is one: the tests ask for the same ones again and again."""
    return EmulatedModule(code, options)
