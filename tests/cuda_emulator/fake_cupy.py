"""Stands for ``cupy`` where there is no GPU: arrays in host memory that behave as CuPy's do where it matters.

They do not become numpy arrays by themselves, do not mix with them, reductions stay on the "device", fresh memory holds
NaN, and whatever would make the host wait for the device is counted. Kernels are run by the emulator.
"""

import contextlib
import sys
import types

import numpy as np
from scipy import sparse

from . import module

# What CuPy 14 answers of numpy's own functions, as far as our code asks.
DISPATCHED = {
    "empty_like", "zeros_like", "ones_like", "trace", "diagonal", "where", "concatenate", "outer", "einsum", "sum",
    "any", "all", "argmax",
}  # fmt: skip


class Reads:
    """How often the host has waited for the device."""

    def __init__(self):
        self.count = 0


_counters = []


@contextlib.contextmanager
def counting():
    """Count the reads within."""
    counter = Reads()
    _counters.append(counter)
    try:
        yield counter
    finally:
        _counters.remove(counter)


def _read():
    for counter in _counters:
        counter.count += 1


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array on the device."""

    def __init__(self, host):
        self._host = host

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    strides = property(lambda self: self._host.strides)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    flags = property(lambda self: self._host.flags)
    T = property(lambda self: ndarray(self._host.T))
    data = property(lambda self: types.SimpleNamespace(ptr=self._host.ctypes.data))
    device = property(lambda self: Device(0))

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        if method != "__call__" or "where" in kwargs:
            return NotImplemented
        if out is not None:
            kwargs["out"] = tuple(_bare(each) for each in out)
        result = getattr(ufunc, method)(*(_bare(each) for each in inputs), **kwargs)
        return out[0] if out is not None else _wrap(result)

    def __array_function__(self, function, types_, args, kwargs):
        if function.__name__ not in DISPATCHED:
            raise TypeError(f"CuPy does not answer numpy.{function.__name__}")
        return _wrap(function(*_bare(args), **_bare(kwargs)))

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key):
        return _wrap(self._host[_bare(key)])

    def __setitem__(self, key, value):
        self._host[_bare(key)] = _bare(value)

    def __float__(self):
        _read()
        return float(self._host)

    def __int__(self):
        _read()
        return int(self._host)

    __index__ = __int__

    def __bool__(self):
        _read()
        return bool(self._host)

    def item(self):
        _read()
        return self._host.item()

    def tolist(self):
        _read()
        return self._host.tolist()

    def get(self, stream=None):
        _read()
        return self._host.copy()

    def set(self, host, stream=None):
        if host.shape != self.shape or host.dtype != self.dtype:
            raise ValueError("set: another shape or type")
        self._host[...] = host

    def fill(self, value):
        self._host.fill(_bare(value))

    def view(self, dtype):
        return ndarray(self._host.view(dtype))


def _method(name):
    def call(self, *args, **kwargs):
        return _wrap(getattr(self._host, name)(*_bare(args), **_bare(kwargs)))

    return call


for _name in ("astype", "copy", "sum", "any", "all", "max", "min", "argmax", "reshape", "ravel"):
    setattr(ndarray, _name, _method(_name))


def _bare(value):
    """What numpy is to compute with; a host array is not mixed in."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError(f"Unsupported type {type(value)}: a numpy array among arrays of the device")
    if isinstance(value, (list, tuple)):
        return type(value)(_bare(each) for each in value)
    if isinstance(value, dict):
        return {name: _bare(each) for name, each in value.items()}
    return value


def _wrap(value):
    if isinstance(value, (np.ndarray, np.generic)):
        return ndarray(np.asarray(value))
    return value


def _poisoned(shape, dtype=float):
    host = np.empty(shape, dtype)
    host.fill(np.nan if host.dtype.kind == "f" else 0xA5 if host.dtype.kind in "iu" else 1)
    return ndarray(host)


def _array(value, dtype=None):
    if isinstance(value, ndarray):
        return value if dtype is None or value.dtype == dtype else value.astype(dtype)
    return ndarray(np.array(value, dtype=dtype))


class Device:
    """The one device there is."""

    def __init__(self, number=0):
        self.id = 0 if number is None else number
        if self.id != 0:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    def __enter__(self):
        return self

    def __exit__(self, *stop):
        return None

    def use(self):
        return self

    mem_info = (1 << 34, 1 << 34)
    compute_capability = "90"


class CUDARuntimeError(RuntimeError):
    """What the CUDA runtime complains of."""


class _Stream:
    def __init__(self, non_blocking=False):
        self.events = []

    def __enter__(self):
        return self

    def __exit__(self, *stop):
        return None

    def synchronize(self):
        _read()

    def wait_event(self, event):
        assert event.recorded, "a stream waits for an event that nothing has recorded"

    def record(self, event=None):
        event = event or _Event()
        event.record(self)
        return event


class _Event:
    def __init__(self):
        self.recorded = False

    def record(self, stream=None):
        self.recorded = True

    def synchronize(self):
        _read()


_PLAIN = {"float16", "float32", "float64", "int32", "int64", "uint8", "uint16", "uint32", "bool_", "pi", "inf", "nan"}
_CALLS = {
    "maximum", "minimum", "where", "sqrt", "abs", "sum", "any", "all", "argmax", "isfinite", "trace", "diagonal",
    "outer", "dot", "matmul", "stack", "concatenate", "divide", "exp", "log", "multiply", "add", "subtract", "clip",
}  # fmt: skip
_MADE = {"zeros", "ones", "full", "arange", "eye"}


def _on_device(function):
    """Return numpy's function for arrays of the device."""
    return lambda *args, **kwargs: _wrap(function(*_bare(args), **_bare(kwargs)))


def _module():
    made = types.ModuleType("cupy")
    made.__version__ = "14.2.0"
    made.ndarray = ndarray
    for name in _PLAIN:
        setattr(made, name, getattr(np, name))
    for name in _CALLS | _MADE:
        setattr(made, name, _on_device(getattr(np, name)))
    made.empty = _poisoned
    made.empty_like = lambda a, dtype=None: _poisoned(a.shape, dtype or a.dtype)
    made.zeros_like = lambda a, dtype=None: ndarray(np.zeros(a.shape, dtype or a.dtype))
    made.ones_like = lambda a, dtype=None: ndarray(np.ones(a.shape, dtype or a.dtype))
    made.asarray = made.array = _array
    made.ascontiguousarray = lambda a, dtype=None: ndarray(np.ascontiguousarray(_array(a, dtype)._host))
    made.asnumpy = lambda a: a.get() if isinstance(a, ndarray) else np.asarray(a)
    made.is_available = lambda: True
    made.RawModule = lambda code, options=(), backend="nvrtc": module.compiled(code, tuple(options))
    pool = types.SimpleNamespace(free_bytes=lambda: 0, used_bytes=lambda: 0, free_all_blocks=lambda: None)
    made.get_default_memory_pool = lambda: pool
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: 1,
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 13000,
        memGetInfo=lambda: (1 << 34, 1 << 34),
        deviceSynchronize=_read,
        getDeviceProperties=lambda number: {
            "name": b"Emulated GPU",
            "totalGlobalMem": 1 << 34,
            "multiProcessorCount": 1,
        },
        CUDARuntimeError=CUDARuntimeError,
    )
    current = _Stream()
    made.cuda = types.SimpleNamespace(
        Device=Device, Stream=_Stream, Event=_Event, runtime=runtime, get_current_stream=lambda: current
    )
    return made


class _CSR:
    """cupyx's csr_matrix, as far as our code looks into it."""

    def __init__(self, host):
        self._csr = sparse.csr_matrix(host)

    shape = property(lambda self: self._csr.shape)
    dtype = property(lambda self: self._csr.dtype)
    nnz = property(lambda self: self._csr.nnz)
    data = property(lambda self: ndarray(self._csr.data))
    indices = property(lambda self: ndarray(self._csr.indices))
    indptr = property(lambda self: ndarray(self._csr.indptr))
    T = property(lambda self: _CSR(self._csr.T))
    has_canonical_format = property(lambda self: self._csr.has_canonical_format)

    def tocsr(self):
        return self

    def copy(self):
        return _CSR(self._csr.copy())

    def astype(self, dtype):
        return _CSR(self._csr.astype(dtype))

    def sum_duplicates(self):
        self._csr.sum_duplicates()


def install(monkeypatch):
    """Put the stand-in where ``import cupy`` finds it, until the test ends; return it."""
    from nmfcore.backends import cuda, cuda_ops

    fake, extra, matrices = _module(), types.ModuleType("cupyx"), types.ModuleType("cupyx.scipy.sparse")
    extra.empty_pinned = lambda shape, dtype: np.empty(shape, dtype)
    matrices.csr_matrix = _CSR
    matrices.issparse = lambda X: isinstance(X, _CSR)
    scipy_ = types.ModuleType("cupyx.scipy")
    scipy_.sparse, extra.scipy = matrices, scipy_
    fake.__spec__ = types.SimpleNamespace(name="cupy", loader=None, origin="emulated")
    _CSR.__module__ = "cupyx.scipy.sparse"
    ndarray.__module__ = "cupy"
    for name, each in (("cupy", fake), ("cupyx", extra), ("cupyx.scipy", scipy_), ("cupyx.scipy.sparse", matrices)):
        monkeypatch.setitem(sys.modules, name, each)
    for cached in (cuda._probed, cuda_ops._module, cuda_ops._natural_order):
        cached.cache_clear()
    return fake
