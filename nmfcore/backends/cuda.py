"""CuPy: which devices there are, what lies on them, and how arrays of other libraries come and go.

No other file imports CuPy, and this one does so only when a device is used.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from types import ModuleType

    from .._typing import DType, Matrix

Array = Any  # cupy.ndarray

INSTALL = "pip install 'nmfcore[gpu]'"


class DeviceError(RuntimeError):
    """No GPU works where one is required."""


class DeviceMemoryError(DeviceError, MemoryError):
    """The memory of a GPU is too small for what is to be computed."""


_imported = False  # whether the import of CuPy has come to its end


def cupy() -> ModuleType:
    """Return the module cupy."""
    global _imported
    if _imported and (found := sys.modules.get("cupy")) is not None:  # importlib takes 1 µs, some thirty times a pass
        return found
    module = importlib.import_module("cupy")  # this waits where another thread imports it
    _imported = True
    return module


def current() -> int:
    """Return the number of the current device."""
    number: int = cupy().cuda.runtime.getDevice()
    return number


def empty_pinned(shape: tuple[int, ...], dtype: DType) -> np.ndarray:
    """Return an uninitialised host array in pinned memory: copies from it run while the device computes."""
    return importlib.import_module("cupyx").empty_pinned(shape, dtype)


@contextlib.contextmanager
def context(device: int) -> Iterator[None]:
    """Make arrays on this device; where its memory is too small, say so in one sentence."""
    with cupy().cuda.Device(device):
        try:
            yield
        except Exception as error:
            if not out_of_memory(error) or isinstance(error, DeviceError):
                raise
            msg = (
                f"the memory of cuda:{device} is too small ({_said(error)}): take fewer components, give X as an array "
                "or memmap of the host, which is streamed, free what else holds memory of the card, or use "
                "device='cpu'."
            )
            raise DeviceMemoryError(msg) from error


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory of a device, or pinned memory, could not be had."""
    return type(error).__name__ == "OutOfMemoryError" or "cudaErrorMemoryAllocation" in str(error)


def free_memory() -> None:
    """Give memory back that CuPy keeps for later."""
    cupy().get_default_memory_pool().free_all_blocks()


# ---- which devices there are -----------------------------------------------------------------------------------------


def probe(device: int = 0) -> str | None:
    """Return None if this GPU works, else one sentence that says what is missing and how to get it."""
    return _probed(device)


@functools.cache
def _probed(device: int) -> str | None:
    if importlib.util.find_spec("cupy") is None:
        return f"CuPy is not installed: {INSTALL} (CUDA 12: 'nmfcore[gpu-cuda12]')."
    try:
        xp = cupy()
    except Exception as error:
        return f"CuPy is installed but does not import ({_said(error)}): {INSTALL} anew."
    try:
        count = xp.cuda.runtime.getDeviceCount()
    except Exception as error:
        if "NoDevice" not in str(error):  # a driver without a device raises this one
            said = " ".join(str(error).split())
            return f"CuPy {xp.__version__} finds no usable NVIDIA driver ({said}): install the driver for this card."
        count = 0
    if count <= device:
        seen = "no CUDA device is" if count == 0 else f"of CUDA devices only 0 to {count - 1} are"
        return f"{seen} visible to this process, cuda:{device} is not: look at CUDA_VISIBLE_DEVICES and nvidia-smi."
    try:  # a device may be listed and still not work, or its libraries may be missing
        with xp.cuda.Device(device):
            ones = xp.ones((2, 2), np.float32)
            works = float((ones @ ones).sum()) == 8
    except Exception as error:
        return f"the CUDA libraries do not work ({_said(error)}): {INSTALL} brings them."
    return None if works else f"cuda:{device} computes wrong results: look at nvidia-smi and the driver."


def _said(error: Exception) -> str:
    """Return the message of an exception on one line; of CuPy's page on a failed import, the original error only."""
    text = " ".join(re.sub("={4,}", " ", str(error)).split())
    _, _, original = text.rpartition("Original error: ")
    return original if original != text else f"{type(error).__name__}: {text}"


def describe(device: int = 0) -> str:
    """Return the device's name, memory and CUDA version, or a sentence on what is missing."""
    reason = probe(device)
    if reason is not None:
        return f"none: {reason}"
    xp = cupy()
    card, version = xp.cuda.runtime.getDeviceProperties(device), xp.cuda.runtime.runtimeGetVersion()
    name = card["name"].decode() if isinstance(card["name"], bytes) else card["name"]
    memory = card["totalGlobalMem"] / 1e9
    return f"{name}, {memory:.0f} GB, CUDA {version // 1000}.{version % 1000 // 10}, CuPy {xp.__version__}"


# ---- where arrays lie ------------------------------------------------------------------------------------------------


def kind_of(X: Matrix) -> str | None:
    """Return the library whose array on a device X is. No library is imported for this.

    Returns
    -------
    kind : str or None
        "cupy", "cupyx" or "torch". For another library, the module that makes its arrays from DLPack ("jax.numpy"), or
        "cuda" where there is none. None for data in host memory.
    """
    if isinstance(X, np.ndarray):
        return None
    for cls in type(X).__mro__:  # the class may be derived from a tensor's
        library = cls.__module__.partition(".")[0]
        if library in ("cupy", "cupyx"):
            return library
        if library == "torch":
            return "torch" if getattr(X, "is_cuda", False) else None
    there = hasattr(X, "__dlpack_device__") and int(X.__dlpack_device__()[0]) in (2, 13)  # kDLCUDA, kDLCUDAManaged
    if there and hasattr(X, "__array_namespace__") and hasattr(X.__array_namespace__(), "from_dlpack"):
        return str(X.__array_namespace__().__name__)
    return "cuda" if there or hasattr(X, "__cuda_array_interface__") else None


def device_of(X: Matrix) -> int:
    """Return the number of the device on which the array X lies."""
    if kind_of(X) == "torch":
        return int(X.device.index or 0)
    if kind_of(X) == "cupyx":
        return int(X.data.device.id)
    if hasattr(X, "__dlpack_device__"):
        return int(X.__dlpack_device__()[1])
    if hasattr(X, "device") and hasattr(X.device, "id"):
        return int(X.device.id)
    return 0 if probe(0) else int(cupy().asarray(X).device.id)  # X itself does not name its device


def resolve(device: str | None, X: Matrix, fitted: bool = False) -> int | None:
    """Decide where to compute.

    Parameters
    ----------
    device : None or str
        None is where X lies, "cpu" the CPU, "cuda" CuPy's current device, "cuda:1" the device of that number, and
        "auto" CuPy's current device if it works, else the CPU.
    X : array
        The data as they were given.
    fitted : bool, default=False
        Whether the model has been fitted, maybe elsewhere: then "cuda" means the CPU for an X on the host where no GPU
        works.

    Returns
    -------
    number : int or None
        The number of the device; None is the CPU.

    Raises
    ------
    ValueError
        If `device` is none of these, or X lies elsewhere.
    DeviceError
        If a GPU is required and does not work. The CPU never takes its place silently.
    """
    kind = kind_of(X)
    if device is None and kind is None:
        return None
    found = re.fullmatch(r"cpu|auto|cuda(?::(\d+))?", device) if isinstance(device, str) else None
    if device is not None and found is None:
        msg = f"device = {device!r} is not known: it is None (follow X), 'cpu', 'cuda', 'cuda:1' … or 'auto'."
        raise ValueError(msg)
    if kind is not None:
        home = device_of(X)
        if device == "cpu":
            msg = f"X is on cuda:{home} and device='cpu': move it there (cupy.asnumpy, .cpu()), or leave device out."
            raise ValueError(msg)
        if found is not None and found[1] is not None and int(found[1]) != home:
            msg = f"X is on cuda:{home} and device={device!r}: move X there, or leave device out."
            raise ValueError(msg)
        _require(home, f"X is on cuda:{home}, which")
        return home
    if device == "cpu":
        return None
    if device == "auto":
        return _current() if probe(_current()) is None else None
    assert found is not None
    number = _current() if found[1] is None else int(found[1])
    if fitted and probe(number) is not None:
        return None
    _require(number, f"device='cuda:{number}'")
    return number


def _current() -> int:
    """Return the number of CuPy's current device; 0 where CuPy is not in use or fails."""
    try:
        return int(sys.modules["cupy"].cuda.Device().id)
    except Exception:  # `probe` finds out what is wrong
        return 0


def _require(device: int, what: str) -> None:
    reason = probe(device)
    if reason is not None:
        msg = f"{what} cannot be used: {reason}"
        raise DeviceError(msg)


# ---- arrays of other libraries ---------------------------------------------------------------------------------------


def adopt(X: Matrix) -> Matrix:
    """Return an array on a device as a cupy.ndarray or a cupyx sparse matrix, without a copy; host data as they are."""
    kind = kind_of(X)
    if kind in (None, "cupy", "cupyx"):
        return X
    if kind == "torch":
        if "strided" not in str(X.layout):
            msg = f"X is a torch tensor of layout {X.layout}: give a dense one, or a cupyx.scipy.sparse.csr_matrix."
            raise TypeError(msg)
        return cupy().from_dlpack(X.detach())
    return cupy().from_dlpack(X) if hasattr(X, "__dlpack__") else cupy().asarray(X)


def on_current_device(A: Matrix) -> Matrix:
    """Return an array of CuPy's, or one on the host, on the current device.

    What lives on another device comes over the host: the two need not reach each other's memory, and the streams of the
    one do not wait for those of the other. Sparse matrices of the host stay there.
    """
    if kind_of(A) is not None and device_of(A) != int(cupy().cuda.Device().id):
        host = to_host(A)
        return type(A)(host) if hasattr(A, "tocsr") else cupy().asarray(host)
    return A if hasattr(A, "tocsr") else cupy().asarray(A)


def times(W: Matrix, H: Matrix) -> Matrix:
    """Return W·H where W lies. H, the components of a model, may lie elsewhere."""
    kind, there = kind_of(W), kind_of(H)
    if kind is None:
        return W @ (H if there is None else to_host(H))
    with context(device_of(W)):
        product = adopt(W) @ on_current_device(adopt(H))
        return give_back(product, kind)


def give_back(A: Array, kind: str | None) -> Matrix:
    """Return an array on a device as one of the given kind (see `kind_of`): numpy for None, CuPy for "cuda"."""
    if kind is None:
        if isinstance(A, np.ndarray):
            return A
        with cupy().cuda.Device(device_of(A)):  # a copy is queued on a stream of the array's own device
            return A.get() if hasattr(A, "tocsr") else cupy().asnumpy(A)
    A = cupy().asarray(A)
    return A if kind in ("cupy", "cupyx", "cuda") else importlib.import_module(kind).from_dlpack(A)


def to_host(A: Matrix) -> Matrix:
    """Return A as a NumPy array if it lies on a device; anything else is returned as it is."""
    return A if kind_of(A) is None else give_back(adopt(A), None)
