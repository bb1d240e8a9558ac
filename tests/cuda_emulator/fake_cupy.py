"""Stands for CuPy 14 where there is no GPU: `install` puts it where ``import cupy`` looks, until the test ends.

Arrays are numpy's in host memory, kernels are run by the emulator. What CuPy does not do, these do not do either:

- they do not become numpy arrays by themselves, and do not mix with them (`HostArrayError`);
- numpy's functions work on them only where CuPy has one of this name;
- reductions and integer indices leave 0-d arrays on the device; what is fetched from there is counted (`reads`,
  `counting`) and may be forbidden (`reads_allowed`), so that a loop that waits for the device is found;
- fresh memory holds 0xff, which is NaN for floating-point numbers; a device's memory is limited;
- an array is used on its own device only, and streams are ordered by events: a use that nothing orders after the write
  it needs is a `StreamOrderError`, whichever came first this time;
- so is a write to pinned memory before the host has waited for the copy that was sent from it.

- memory that is given back goes to the next array of that size on the same stream, the last one first, as CuPy's pool
  does it: its address is the same;
- a graph holds addresses and no arrays. If an address was given back when the graph is launched, or belongs to another
  array by now, that is a `GivenBackError`.

Stricter than CuPy: a `take` or an index out of bounds raises (CuPy wraps it around), an event must have been recorded
before a stream waits for it, a device does not reach into another's memory. A graph holds raw kernels and memsets only,
other operations on arrays raise while it is captured. Not modelled: random numbers, DLPack, stray pointers elsewhere
than in graphs.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.machinery
import pkgutil
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import numpy as np
from scipy import sparse

from . import module

__all__ = [
    "CUDARuntimeError", "Device", "DeviceReadError", "Event", "GivenBackError", "Graph", "HostArrayError",
    "OutOfMemoryError",
    "RawKernel", "RawModule", "Stream", "StreamOrderError", "Transfers", "counting", "csc_matrix", "csr_matrix",
    "install", "ndarray", "reads", "reads_allowed", "uploads", "waits",
]  # fmt: skip

VERSION = "14.2.0"
MEMORY = 16 << 30  # bytes of a device
UNIT = 512  # bytes that an allocation is a multiple of


class DeviceReadError(AssertionError):
    """The host fetches something from the device where it must not wait for it."""


class HostArrayError(TypeError, ValueError):
    """A numpy array among arrays on the device. CuPy raises the one or the other, depending on the place."""


class StreamOrderError(AssertionError):
    """Two streams use the same memory, and no event or synchronization says in which order."""


class GivenBackError(AssertionError):
    """A graph uses memory after it was given back."""


class CUDARuntimeError(RuntimeError):
    """What the CUDA runtime complains about."""


class OutOfMemoryError(MemoryError):
    """The device has not so much memory left."""


# ---- what crosses between host and device ----------------------------------------------------------------------------


class Transfers:
    """How often something went one way.

    Attributes
    ----------
    count : int
        Times.
    bytes : int
        Of what.
    places : list of str
        The lines of code that asked for it.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.count, self.bytes, self.places = 0, 0, []

    def _add(self, size: int) -> None:
        self.count += 1
        self.bytes += size
        self.places.append(_place())


class Counted(Transfers):
    """The reads within `counting`; beside them uploads, waits, and operations on arrays that CuPy has kernels for."""

    def __init__(self) -> None:
        super().__init__()
        self.uploads, self.waits, self.operations = Transfers(), Transfers(), Transfers()


reads = Transfers()
"""Everything that was fetched from the device: `get`, `item`, ``float()``, ``if x:``, a mask used as an index …"""
uploads = Transfers()
"""Everything that was brought to the device."""
waits = Transfers()
"""Every `synchronize`."""

_counters: list[Counted] = []
_allowances: list[tuple[int | None, Transfers]] = []


def _place() -> str:
    frame: Any = sys._getframe(1)
    while frame and (frame.f_code.co_filename == __file__ or "/numpy/" in frame.f_code.co_filename):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "?"


@contextlib.contextmanager
def counting() -> Iterator[Counted]:
    """Count the reads (``count``, ``bytes``, ``places``) within; `Counted` says what else is counted."""
    counter = Counted()
    _counters.append(counter)
    try:
        yield counter
    finally:
        _counters.remove(counter)


@contextlib.contextmanager
def reads_allowed(most: int | None = None) -> Iterator[Transfers]:
    """Let no more than `most` reads happen within (None: as many as there are), else raise `DeviceReadError`.

    Within another such region it is the inner one that counts: ``with reads_allowed(0)`` around a whole fit forbids
    reads, except where a function that may read is wrapped into ``with reads_allowed(1)``.
    """
    used = Transfers()
    _allowances.append((most, used))
    try:
        yield used
    finally:
        _allowances.pop()


def _read(size: int) -> None:
    reads._add(size)
    for counter in _counters:
        counter._add(size)
    if _allowances:
        most, used = _allowances[-1]
        used._add(size)
        if most is not None and used.count > most:
            msg = f"read number {used.count} of the device where {most} are allowed, at {used.places[-1]}"
            raise DeviceReadError(msg)


def _uploaded(size: int) -> None:
    uploads._add(size)
    for counter in _counters:
        counter.uploads._add(size)


def _operated(size: int) -> None:
    for counter in _counters:
        counter.operations._add(size)


def _waited() -> None:
    waits._add(0)
    for counter in _counters:
        counter.waits._add(0)


# ---- devices and streams ---------------------------------------------------------------------------------------------
# Who may rely on what: every stream, and the host, has a clock that says up to which of its operations each stream is
# known to have come. Operations take over the host's clock, events carry that of their stream to others.


class _World:
    """The devices of one `install`."""

    def __init__(self, devices: int, memory: int):
        self.devices, self.memory = devices, memory
        self.used = [0] * devices
        self.free: dict[tuple[int, int, int], list[tuple[np.ndarray, dict[int, int]]]] = {}  # the pool, see `_taken`
        self.there: weakref.WeakValueDictionary[int, _Memory] = weakref.WeakValueDictionary()  # by its first address
        self.device = 0  # the current one
        self.host: dict[int, int] = {}
        self.streams = 0
        self.all_streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self.pinned: dict[int, tuple[Any, dict[int, int]]] = {}  # by owner: who reads it, up to when
        self.deliveries: list[tuple[int, int, np.ndarray, np.ndarray]] = []
        self.sending: list[tuple[int, int, np.ndarray, bytes]] = []  # out of pinned memory, and what was sent
        self.null: list[Stream] = []
        self.current: list[Stream] = []
        for device in range(devices):
            self.null.append(Stream._made(self, device, null=True))
            self.current.append(self.null[device])

    def host_waits(self, clock: dict[int, int]) -> None:
        """The host knows now what a stream or an event knows; what it had asked for without waiting is there."""
        _join(self.host, clock)
        for delivery in list(self.deliveries):
            stream, time, out, value = delivery
            if self.host.get(stream, 0) >= time:
                out[...] = value
                self.deliveries.remove(delivery)
        arrived = [sent for sent in self.sending if self.host.get(sent[0], 0) >= sent[1]]
        self.sending = [sent for sent in self.sending if self.host.get(sent[0], 0) < sent[1]]
        for stream, _, pinned, content in arrived:
            if pinned.tobytes() != content:
                raise StreamOrderError(f"pinned memory was written while stream {stream} might still be reading it")


def _join(clock: dict[int, int], other: dict[int, int]) -> None:
    for stream, time in other.items():
        if clock.get(stream, 0) < time:
            clock[stream] = time


class Stream:
    """A stream: here, what orders operations."""

    null: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False):
        if null:
            raise NotImplementedError("use Stream.null or get_current_stream()")
        self._begin(_world, _world.device, False, non_blocking)

    @classmethod
    def _made(cls, world: _World, device: int, null: bool) -> Stream:
        stream = cls.__new__(cls)
        stream._begin(world, device, null, False)
        return stream

    def _begin(self, world: _World, device: int, null: bool, non_blocking: bool) -> None:
        self.device_id, self.is_non_blocking, self._null, self._world = device, non_blocking, null, world
        self._number, self._time = world.streams, 0
        self._clock: dict[int, int] = {}
        self._before: list[Stream] = []
        self._captured: list[Callable[[Any], None]] | None = None
        world.streams += 1
        world.all_streams.add(self)

    @property
    def ptr(self) -> int:
        """Address: 0 for the null stream."""
        return 0 if self._null else 0x1000 + self._number

    done = True

    def __enter__(self) -> Stream:
        self._before.append(self._world.current[self.device_id])
        return self.use()

    def __exit__(self, *stopped: object) -> None:
        self._world.current[self.device_id] = self._before.pop()

    def use(self) -> Stream:
        """Make it the current one of its device."""
        self._world.current[self.device_id] = self
        return self

    def _next(self) -> int:
        """Queue an operation → its time."""
        _join(self._clock, self._world.host)
        if not self.is_non_blocking:  # the null stream and the blocking ones of its device wait for each other
            for other in self._world.all_streams:
                if other.device_id == self.device_id and not other.is_non_blocking and (self._null or other._null):
                    _join(self._clock, other._clock)
        self._time += 1
        self._clock[self._number] = self._time
        return self._time

    def record(self, event: Event | None = None) -> Event:
        """Record an event, a new one if none is given."""
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Let what is queued from now on wait for an event."""
        if event._clock is None:
            raise StreamOrderError("a stream waits for an event that nothing has recorded: it would not wait at all")
        self._next()
        _join(self._clock, event._clock)

    def begin_capture(self, mode: int | None = None) -> None:
        """Write kernels down from now on, instead of running them."""
        if self._null:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: the null stream cannot be captured")
        self._captured = []

    def end_capture(self) -> Graph:
        """Return the kernels since `begin_capture`."""
        nodes, self._captured = self._captured, None
        if nodes is None:
            raise CUDARuntimeError("cudaErrorIllegalState: no capture has begun")
        return Graph(nodes)

    def is_capturing(self) -> bool:
        """Whether kernels are being written down."""
        return self._captured is not None

    def synchronize(self) -> None:
        """Let the host wait for everything queued here."""
        if self._captured is not None:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: a stream that is captured is waited for")
        _waited()
        self._next()
        self._world.host_waits(self._clock)


class Graph:
    """Kernels and memsets with addresses, to be launched together."""

    def __init__(self, nodes: list[Callable[[Any], None]]):
        self._nodes = nodes

    def upload(self, stream: Stream | None = None) -> None:
        """Bring it to the device."""

    def launch(self, stream: Stream | None = None) -> None:
        """Run all in their order."""
        graph_launches.append(sum(not isinstance(node, _Memset) for node in self._nodes))
        for node in self._nodes:
            node(stream)


graph_launches: list[int] = []
"""How many kernels each graph had that was launched since `install`."""


class _Address:
    """What a captured launch knows of an array."""

    def __init__(self, array: ndarray):
        self.dtype, self.size, self.nbytes, self.data = array.dtype, array.size, array.nbytes, array.data
        self._place, self._number, self._world = array._memory.place, array._memory.number, array._memory.world

    __cuda_array_interface__ = property(lambda self: None)  # it is passed to kernels as an array is

    def address(self) -> _Address:
        """Return it."""
        return self

    def _used_by_kernel(self, writes: bool, stream: Stream | None) -> None:
        if not self.size:
            return
        there = self._world.there.get(self._place)
        if there is None:
            raise GivenBackError(f"a graph {'writes' if writes else 'reads'} memory that was given back")
        if there.number != self._number:
            raise GivenBackError(
                f"a graph {'writes' if writes else 'reads'} memory that was given back and belongs to another array"
            )
        there.use(writes, stream)


class _Memset:
    """A node of a graph that clears an array."""

    def __init__(self, array: ndarray):
        self._at = array.address()

    def __call__(self, stream: Stream | None) -> None:
        """Clear it."""
        self._at._used_by_kernel(True, stream)
        ctypes.memset(self._at.data.ptr, 0, self._at.nbytes)


def _captured_by(stream: Stream | None) -> list[Callable[[Any], None]] | None:
    return (_current_stream() if stream is None else stream)._captured


module.capturing = _captured_by


class Event:
    """An event: a point in a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False):
        self._clock: dict[int, int] | None = None
        self._seconds = 0.0

    done = True

    def record(self, stream: Stream | None = None) -> None:
        """Record the point that a stream (the current one) has come to."""
        stream = _current_stream() if stream is None else stream
        stream._next()
        self._clock, self._seconds = dict(stream._clock), perf_counter()

    def synchronize(self) -> None:
        """Let the host wait for it."""
        _waited()
        _world.host_waits(self._clock or {})


def _elapsed(start: Event, end: Event) -> float:
    """Return the milliseconds from one event to another: here, those of the host."""
    if start._clock is None or end._clock is None:
        raise CUDARuntimeError("cudaErrorInvalidResourceHandle: an event was not recorded")
    return (end._seconds - start._seconds) * 1e3


def _current_stream(device_id: int = -1) -> Stream:
    return _world.current[_world.device if device_id < 0 else device_id]


class Device:
    """A device, by number; as a context it is the current one."""

    compute_capability = "90"

    def __init__(self, device: int | Device | None = None):
        self.id = _world.device if device is None else int(device)
        self._before: list[int] = []

    def __int__(self) -> int:
        return self.id

    __index__ = __int__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def __enter__(self) -> Device:
        before = _world.device
        self.use()
        self._before.append(before)
        return self

    def __exit__(self, *stopped: object) -> None:
        _world.device = self._before.pop()

    def use(self) -> Device:
        """Make it the current one."""
        if not 0 <= self.id < _world.devices:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        _world.device = self.id
        return self

    def synchronize(self) -> None:
        """Let the host wait for everything on it."""
        _waited()
        for stream in list(_world.all_streams):
            if stream.device_id == self.id:
                stream._next()
                _world.host_waits(stream._clock)

    @property
    def mem_info(self) -> tuple[int, int]:
        """Free bytes, all bytes."""
        return _world.memory - _world.used[self.id], _world.memory

    attributes = {"MultiProcessorCount": 4, "MaxSharedMemoryPerBlockOptin": module.SHARED_MOST}


class _Memory:
    """One allocation: what views share. `owner` is the numpy array that holds it.

    Parameters
    ----------
    nbytes : int
        How much there is to be.
    owner : numpy.ndarray, optional
        Memory that is not the pool's.
    """

    made = 0  # how many there have been: a number for each

    def __init__(self, nbytes: int, owner: np.ndarray | None = None):
        self.world, self.device = _world, _world.device
        self.size = -(-nbytes // UNIT) * UNIT
        left = _world.memory - _world.used[self.device]
        if self.size > left:
            msg = f"Out of memory allocating {self.size:,} bytes (allocated so far: {_world.memory - left:,} bytes)."
            self.size = 0
            raise OutOfMemoryError(msg)
        self.world.used[self.device] += self.size
        stream = _current_stream()
        # By the exact size, not by units: the sanitizer is to see what lies behind an array.
        self.pool = (self.device, stream._number, nbytes) if owner is None and nbytes else None
        self.read: dict[int, int] = {}
        if self.pool is not None and (pool := _world.free.get(self.pool)):
            owner, self.read = pool.pop()
        self.owner = np.empty(nbytes, np.uint8) if owner is None else owner
        self.place = int(self.owner.__array_interface__["data"][0])
        self.number = _Memory.made = _Memory.made + 1
        if self.size:
            self.world.there[self.place] = self
        self.written = (stream._number, stream._time if stream._captured is not None else stream._next())
        for number, when in self.read.items():  # the pool orders nothing but what is queued on one stream
            if stream._clock.get(number, 0) < when:
                raise StreamOrderError(
                    f"stream {stream._number} takes memory that was given back while stream {number} may still use it"
                )

    def __del__(self) -> None:
        self.world.used[self.device] -= self.size
        if self.size and self.pool is not None:
            uses = dict([self.written])
            _join(uses, self.read)
            self.world.free.setdefault(self.pool, []).append((self.owner, uses))

    def use(self, writes: bool, stream: Stream | None = None) -> tuple[Stream, int]:
        """A stream (the current one) uses it: is it there, and in order? → the stream, the time."""
        stream = _current_stream() if stream is None else stream
        if stream._captured is not None:
            raise CUDARuntimeError(f"an operation on an array, at {_place()}, while {stream._number} is captured")
        if stream.device_id != self.device:
            raise ValueError(
                f"The device where the array resides ({self.device}) is different from the current device "
                f"({stream.device_id}). Peer access is unavailable between these devices."
            )
        time = stream._next()
        before = [(*self.written, "writes")]
        if writes:
            before += [(*item, "reads") for item in self.read.items()]
        for number, when, what in before:
            if stream._clock.get(number, 0) < when:
                raise StreamOrderError(
                    f"stream {stream._number} {'writes' if writes else 'reads'} what stream {number} {what}, and does "
                    f"not wait for it (0 is the null stream), at {_place()}"
                )
        if writes:
            self.written, self.read = (stream._number, time), {}
        else:
            self.read[stream._number] = time
        return stream, time


_allocators: list[Callable[[int], Any]] = []


@contextlib.contextmanager
def _using_allocator(allocator: Callable[[int], Any]) -> Iterator[None]:
    """Ask for memory by this; here it may only refuse."""
    _allocators.append(allocator)
    try:
        yield
    finally:
        _allocators.pop()


def _taken(shape: tuple[int, ...], dtype: np.dtype, order: str) -> tuple[np.ndarray, _Memory]:
    """Return memory of the pool, as numpy's array: that which was given back last on this stream, of the same size."""
    nbytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    if _allocators:
        _allocators[-1](nbytes)
    memory = _Memory(nbytes)
    return np.ndarray(shape, dtype, memory.owner if nbytes else np.empty(0, np.uint8), order=order), memory


def _owner(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


# ---- arrays ----------------------------------------------------------------------------------------------------------

_SCALARS = (bool, int, float, complex, np.generic)


class Flags:
    """Layout of an array."""

    def __init__(self, flags: Any):
        self.c_contiguous, self.f_contiguous, self.owndata = flags.c_contiguous, flags.f_contiguous, flags.owndata
        self.fnc, self.forc = flags.fnc, flags.forc

    def __getitem__(self, name: str) -> bool:
        return {"C_CONTIGUOUS": self.c_contiguous, "F_CONTIGUOUS": self.f_contiguous, "OWNDATA": self.owndata}[name]


class _Pointer:
    """``ndarray.data``: where it is."""

    def __init__(self, ptr: int, device: int):
        self.ptr, self.device_id = ptr, device

    def __int__(self) -> int:
        return self.ptr

    @property
    def device(self) -> Device:
        return Device(self.device_id)


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array on the device.

    Parameters
    ----------
    shape : tuple of int, int or numpy.ndarray
        Its shape; or, which CuPy does not have, an array in host memory that it is to be, without a copy.
    dtype, order
        As numpy's.
    """

    _host: np.ndarray
    _memory: _Memory

    def __init__(self, shape: Any, dtype: Any = float, memptr: None = None, strides: None = None, order: str = "C"):
        if memptr is not None or strides is not None:
            raise NotImplementedError("the stand-in makes no array from a pointer")
        if isinstance(shape, np.ndarray):
            self._host, self._memory = shape, _Memory(shape.nbytes, _owner(shape))
            return
        like = np.broadcast_to(np.empty((), dtype), shape)
        self._host, self._memory = _taken(like.shape, like.dtype, order)
        _filled(self._host)

    @classmethod
    def _made(cls, host: np.ndarray, memory: _Memory | None = None) -> ndarray:
        """Return an array: a view of the memory of others, or a copy of what numpy has made in memory of the pool."""
        self = cls.__new__(cls)
        if memory is None:
            order = "F" if host.flags.f_contiguous and not host.flags.c_contiguous else "C"
            self._host, self._memory = _taken(host.shape, host.dtype, order)
            self._host[...] = host
        else:
            self._host, self._memory = host, memory
        return self

    def address(self) -> _Address:
        """Return what a graph keeps of it."""
        return _Address(self)

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    strides = property(lambda self: self._host.strides)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    flags = property(lambda self: Flags(self._host.flags))
    T = property(lambda self: ndarray._made(self._host.T, self._memory))
    device = property(lambda self: Device(self._memory.device))

    @property
    def data(self) -> _Pointer:
        """Its first number's place; as in CuPy 0 for nothing at all."""
        there = self._memory.owner.nbytes > 0
        return _Pointer(self._host.__array_interface__["data"][0] if there else 0, self._memory.device)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.data.ptr, False),
            "version": 3,
            "strides": None if self._host.flags.c_contiguous else self.strides,
            "stream": _current_stream().ptr or 1,  # 1: the null stream
        }

    def __dlpack__(self, **kwargs: Any) -> Any:
        raise BufferError("the stand-in for CuPy hands out no DLPack capsules")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self._memory.device

    # numpy's protocols

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        function = getattr(_modules["cupy"], ufunc.__name__, None)
        if function is None or method not in ("__call__", "outer") or "where" in kwargs:
            return NotImplemented
        if len(kwargs.get("out", (None,))) != 1:
            raise ValueError("The 'out' parameter must have exactly one array value")
        if ufunc.__name__ in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"):
            inputs = tuple(x.item() if isinstance(x, np.ndarray) and x.ndim == 0 else x for x in inputs)
        if not all(isinstance(x, (*_SCALARS, ndarray, np.ndarray)) for x in (*inputs, *kwargs.get("out", ()))):
            return NotImplemented
        return _apply(getattr(ufunc, method), inputs, kwargs)

    def __array_function__(self, function: Any, types_: Any, args: Any, kwargs: Any) -> Any:
        try:
            where = functools.reduce(getattr, function.__module__.split(".")[1:], _modules["cupy"])
            own = getattr(where, function.__name__)
        except AttributeError:
            return NotImplemented
        if own is function or not all(issubclass(each, (ndarray, np.ndarray)) for each in types_):
            return NotImplemented
        return own(*args, **kwargs)

    # parts

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of unsized object")
        return len(self._host)

    def __iter__(self) -> Iterator[ndarray]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> ndarray:
        used: list[ndarray] = []
        plain, masks = _index(key, used)
        if masks:
            _read(8)  # how many there are
        if all(each is not Ellipsis for each in plain):
            plain = (*plain, Ellipsis)  # so that one number is a view, not a scalar
        for each in used:
            each._memory.use(False)
        part = self._host[plain]
        shared = _owner(part) is self._memory.owner
        if not shared:
            _operated(part.nbytes)
            self._memory.use(False)
        return ndarray._made(part, self._memory if shared else None)

    def __setitem__(self, key: Any, value: Any) -> None:
        used: list[ndarray] = []
        plain, _ = _index(key, used)
        places = [each for each in plain if isinstance(each, np.ndarray) and each.dtype != bool]
        value = _bare(value, used)
        several = isinstance(value, np.ndarray) and value.size > 1 and len(places) == 1
        if several and len(np.unique(places[0])) < places[0].size:
            raise ValueError("an index names the same place twice: which value stays is undefined in CuPy")
        for each in used:
            each._memory.use(False)
        self._memory.use(True)
        _operated(self.nbytes)
        with np.errstate(all="ignore"):
            self._host[plain] = value

    # to the host

    def get(
        self, stream: Stream | None = None, order: str = "C", out: np.ndarray | None = None, blocking: bool = True
    ) -> np.ndarray:
        """Return a copy in host memory; with ``blocking=False`` its numbers come with the next synchronization."""
        if out is not None:
            if not isinstance(out, np.ndarray) or out.dtype != self.dtype:
                raise TypeError(f"{getattr(out, 'dtype', type(out))} array cannot be obtained from {self.dtype} array")
            if out.shape != self.shape:
                raise ValueError(f"Shape mismatch. Expected shape: {self.shape}, actual shape: {out.shape}")
        value = self._host.copy(order)
        out = np.empty_like(value) if out is None else out
        stream, time = self._memory.use(False, stream)
        if blocking:
            _read(self.nbytes)
            stream._world.host_waits(stream._clock)
            out[...] = value
        else:
            _filled(out)
            stream._world.deliveries.append((stream._number, time, out, value))
        return out

    def set(self, arr: np.ndarray, stream: Stream | None = None) -> None:
        """Copy an array of the same shape and type from host memory: from pinned memory without waiting for it."""
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if self.dtype != arr.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if self.shape != arr.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not (self._host.flags.c_contiguous or self._host.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        stream, time = self._memory.use(True, stream)
        _uploaded(self.nbytes)
        owner, reading = stream._world.pinned.get(id(_owner(arr)), (None, {}))
        if owner is not None and owner() is _owner(arr):
            late = [number for number, when in reading.items() if stream._world.host.get(number, 0) < when]
            if late:
                raise StreamOrderError(
                    f"pinned memory is sent again while stream {late[0]} may still be reading it: the host has not "
                    "waited for the copy before"
                )
            reading[stream._number] = time
            stream._world.sending.append((stream._number, time, arr, arr.tobytes()))
        self._host[...] = arr

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __complex__(self) -> complex:
        return complex(self.get())

    def __bool__(self) -> bool:
        return bool(self.get())

    def __index__(self) -> int:
        return self.get().__index__()

    def __round__(self, digits: int | None = None) -> Any:
        return round(self.get().item(), digits)

    def item(self) -> Any:
        """Return the only number as Python's."""
        return self.get().item()

    def tolist(self) -> Any:
        """Return nested lists of Python's numbers."""
        return self.get().tolist()

    def tobytes(self, order: str = "C") -> bytes:
        """Return the bytes."""
        return self.get().tobytes(order)

    def __str__(self) -> str:
        return str(self.get())

    def __format__(self, spec: str) -> str:
        return format(self.get(), spec)

    def __repr__(self) -> str:  # a test that fails prints this: no read
        return f"<cupy.ndarray stand-in, {'x'.join(map(str, self.shape)) or '0-d'} {self.dtype}>"

    def __deepcopy__(self, memo: Any) -> ndarray:
        return self.copy()

    def __reduce__(self) -> Any:
        return _array, (self.get(),)

    # on the device

    def fill(self, value: Any) -> None:
        """Write one number everywhere: by a memset where all its bytes are the same, as a graph may hold it."""
        if (into := _captured_by(None)) is not None and self._host.flags.c_contiguous and value == 0:
            into.append(_Memset(self))
            return
        self[...] = value.reshape(()) if isinstance(value, ndarray) else value

    def view(self, dtype: Any = None) -> ndarray:
        """Return the same memory as another type."""
        return ndarray._made(self._host.view(self.dtype if dtype is None else dtype), self._memory)

    def _used_by_kernel(self, writes: bool, stream: Stream | None) -> None:
        if self.size:
            self._memory.use(writes, stream)


def _method(name: str) -> Callable[..., Any]:
    def call(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        return _apply(getattr(np.ndarray, name), (self, *args), kwargs)

    call.__name__ = name
    return call


for _name in (
    "all", "any", "argmax", "argmin", "argpartition", "argsort", "astype", "clip", "conj", "copy", "cumprod", "cumsum",
    "diagonal", "dot", "flatten", "max", "mean", "min", "partition", "prod", "ravel", "repeat", "reshape", "round",
    "sort", "squeeze", "std", "sum", "swapaxes", "take", "trace", "transpose", "var",
):  # fmt: skip
    setattr(ndarray, _name, _method(_name))
ndarray.__module__ = "cupy"


def _filled(host: np.ndarray) -> np.ndarray:
    """What fresh memory holds: NaN, −1, 255."""
    flat = host.reshape(-1) if host.flags.c_contiguous else host.T.reshape(-1)
    flat.view(np.uint8)[...] = 0xFF
    return host


def _bare(value: Any, used: list[ndarray]) -> Any:
    """What numpy is to compute with; arrays of the device among it go to `used`."""
    if isinstance(value, ndarray):
        used.append(value)
        return value._host
    if isinstance(value, np.ndarray):
        raise HostArrayError(f"Unsupported type {type(value)}: a numpy array among arrays on the device")
    if isinstance(value, (list, tuple)):
        return type(value)([_bare(each, used) for each in value])
    return value


def _index(key: Any, used: list[ndarray]) -> tuple[tuple[Any, ...], bool]:
    """An index for numpy, and whether it holds a mask. As CuPy does, bring index arrays of the host to the device."""
    parts: list[Any] = []
    masks = False
    for each in key if isinstance(key, tuple) else (key,):
        if isinstance(each, (list, np.ndarray)):
            each = _array(each, np.intp if not len(each) else None)
        if isinstance(each, ndarray):
            masks |= each.dtype == bool
            used.append(each)
            each = each._host
        parts.append(each)
    return tuple(parts), masks


def _apply(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function of numpy for arrays on the device."""
    used: list[ndarray] = []
    plain = [_bare(each, used) for each in args]
    named = {name: _bare(each, used) for name, each in kwargs.items()}
    if _captured_by(None) is None:  # views may be made while a graph is captured
        for each in used:
            each._memory.use(False)
    out = kwargs.get("out")
    for each in out if isinstance(out, tuple) else (out,):
        if isinstance(each, ndarray):
            each._memory.use(True)
            _operated(each.nbytes)
    with np.errstate(all="ignore"):  # a device does not complain
        result = function(*plain, **named)
    if result is None and used:  # sort, partition, copyto: in place
        used[0]._memory.use(True)
    return _wrap(result, used)


def _wrap(result: Any, used: list[ndarray]) -> Any:
    if isinstance(result, (np.generic, bool)):
        for each in used:
            each._memory.use(False)
        _operated(8)
        return ndarray._made(np.array(result))
    if isinstance(result, np.ndarray):
        for each in used:
            if result is each._host:  # an `out`, or nothing to do
                each._memory.use(True)
                return each
        owner = _owner(result)
        memory = next((each._memory for each in used if each._memory.owner is owner), None)
        if memory is None:  # not a view of what is there
            for each in used:
                each._memory.use(False)
            _operated(result.nbytes)
        return ndarray._made(result, memory)
    if isinstance(result, list):
        return [_wrap(each, used) for each in result]
    return tuple(_wrap(each, used) for each in result) if isinstance(result, tuple) else result


def _array(
    obj: Any, dtype: Any = None, copy: bool | None = True, order: str = "K", subok: bool = False, ndmin: int = 0, *,
    blocking: bool = False,
) -> ndarray:  # fmt: skip
    if isinstance(obj, ndarray):
        if copy or (dtype is not None and obj.dtype != dtype):
            return _apply(np.array, (obj,), {"dtype": dtype, "order": order, "ndmin": ndmin})
        return _apply(np.asarray, (obj,), {"dtype": dtype, "order": order})
    if hasattr(obj, "__cuda_array_interface__"):  # of another library: its memory, as it is
        return _array(_adopted(obj), dtype, copy, order, subok, ndmin)
    used: list[ndarray] = []
    if isinstance(obj, (list, tuple)):
        obj = _bare_or_host(obj, used)
    if not used:
        _uploaded(np.asarray(obj).nbytes)
    for each in used:
        each._memory.use(False)
    made = np.array(obj, dtype=dtype, order=order, ndmin=ndmin)
    if made.dtype.kind not in "?biufc" and made.dtype != bool:
        raise ValueError(f"Unsupported dtype {made.dtype}")
    if not made.dtype.isnative:
        made = made.astype(made.dtype.newbyteorder("="))
    return ndarray._made(made)


def _bare_or_host(value: Any, used: list[ndarray]) -> Any:
    if isinstance(value, (list, tuple)):
        return [_bare_or_host(each, used) for each in value]
    return value if isinstance(value, np.ndarray) else _bare(value, used)


def _asarray(a: Any, dtype: Any = None, order: str | None = None, *, blocking: bool = False) -> ndarray:
    return _array(a, dtype, copy=None, order=order or "K")


def _ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    return _apply(np.ascontiguousarray, (_asarray(a, dtype),), {})


def _asnumpy(
    a: Any, stream: Stream | None = None, order: str = "C", out: np.ndarray | None = None, *, blocking: bool = True
) -> np.ndarray:
    if isinstance(a, ndarray):
        return a.get(stream, order, out, blocking)
    if hasattr(a, "__cuda_array_interface__"):
        return _adopted(a).get(stream, order, out, blocking)
    found = np.asarray(a, order=order)
    if out is None:
        return found
    out[...] = found
    return out


def _adopted(obj: Any) -> ndarray:
    """An array around memory of another library that says where it lies: in the emulated device, hence in the host."""
    told = obj.__cuda_array_interface__
    shape, dtype, strides = tuple(told["shape"]), np.dtype(told["typestr"]), told.get("strides")
    if told.get("mask") is not None:
        raise ValueError("CuPy currently does not support masked arrays.")
    if 0 in shape:
        return ndarray._made(np.empty(shape, dtype))
    steps = strides or [dtype.itemsize * int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
    span = dtype.itemsize + sum((size - 1) * step for size, step in zip(shape, steps, strict=True))
    buffer = (ctypes.c_char * span).from_address(told["data"][0])
    made = ndarray(np.ndarray(shape, dtype, buffer, strides=strides))
    made._keeps = obj  # type: ignore[attr-defined]
    return made


def _empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype, order=order)


def _zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    made = _empty(shape, dtype, order)
    made.fill(0)
    return made


def _empty_like(prototype: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    made = _apply(np.empty_like, (prototype,), {"dtype": dtype, "order": order, "shape": shape})
    _filled(made._host)
    return made


def _where(condition: Any, x: Any = None, y: Any = None) -> Any:
    if (x is None) != (y is None):
        raise ValueError("Must provide both 'x' and 'y' or neither.")
    return _nonzero(condition) if x is None else _apply(np.where, (condition, x, y), {})


def _nonzero(a: Any) -> Any:
    _read(8)  # how many there are
    return _apply(np.nonzero, (a,), {})


def _counting_first(function: Callable[..., Any]) -> Callable[..., Any]:
    """Functions that need a number from the device to know how large their result is."""

    def call(*args: Any, **kwargs: Any) -> Any:
        _read(8)
        return _apply(function, args, kwargs)

    return call


def _as_given(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return _apply(function, args, kwargs)

    call.__name__ = function.__name__
    return call


# ---- kernels ---------------------------------------------------------------------------------------------------------


class RawModule:
    """Kernels of a text; compiled when the first one is asked for. Only ``code`` is here, not ``path``."""

    def __init__(
        self, code: str | None = None, *, path: str | None = None, options: tuple[str, ...] = (),
        backend: str = "nvrtc", **others: Any,
    ):  # fmt: skip
        if (code is None) == (path is None):
            raise TypeError("Exactly one of `code` and `path` keyword arguments must be given.")
        if code is None or backend != "nvrtc" or any(others.values()):
            raise NotImplementedError("the stand-in compiles plain CUDA C++ only")
        self.code, self.options, self.backend = code, options, backend
        self._kernels: dict[str, module.Kernel] = {}

    def compile(self, log_stream: Any = None) -> None:
        """Compile it now."""
        module.compiled(self.code, self.options)

    def get_function(self, name: str) -> module.Kernel:
        """Return a kernel; how much shared memory it may have is this module's to remember."""
        if name not in self._kernels:
            self._kernels[name] = module.compiled(self.code, self.options).new_kernel(name)
        return self._kernels[name]


def RawKernel(code: str, name: str, options: tuple[str, ...] = (), **others: Any) -> module.Kernel:
    """Return one kernel of a text."""
    return RawModule(code=code, options=options, **others).get_function(name)


# ---- sparse matrices -------------------------------------------------------------------------------------------------


class spmatrix:
    """CSR or CSC on the device: three arrays."""

    format = ""
    ndim = 2
    data: ndarray
    indices: ndarray
    indptr: ndarray
    shape: tuple[int, int]

    def __init__(self, arg1: Any, shape: tuple[int, int] | None = None, dtype: Any = None, copy: bool = False):
        self._canonical: bool | None = None
        if isinstance(arg1, spmatrix):
            given = arg1.asformat(self.format)
            parts = [given.data, given.indices, given.indptr]
            shape, self._canonical = shape or arg1.shape, given._canonical
        elif sparse.issparse(arg1):
            host = arg1.asformat(self.format)
            parts = [_array(each) for each in (host.data, host.indices, host.indptr)]
            shape = shape or arg1.shape
        elif isinstance(arg1, tuple) and len(arg1) == 3:
            if not all(isinstance(each, ndarray) and each.ndim == 1 for each in arg1):
                raise ValueError("data, indices, and indptr must be 1-D cupy arrays")
            parts = list(arg1)
            if len(parts[0]) != len(parts[1]):
                raise ValueError("indices and data should have the same size")
            first, last = parts[2][:: max(1, len(parts[2]) - 1)].get()[[0, -1]]  # CuPy looks at both ends, too
            if first or last > len(parts[0]):
                raise ValueError(f"index pointers from {first} to {last}, there are {len(parts[0])} numbers")
            parts[:2] = parts[0][:last], parts[1][:last]
            if shape is None:
                raise NotImplementedError("the stand-in wants to be told the shape")
        else:
            raise NotImplementedError("the stand-in takes scipy's matrices, its own, and (data, indices, indptr)")
        if parts[0].dtype.char not in "?fdFD":
            raise ValueError("Only bool, float32, float64, complex64 and complex128 are supported")
        index = np.result_type(parts[1].dtype, parts[2].dtype)
        self.data = _array(parts[0], dtype, copy=copy or None)
        self.indices, self.indptr = (_array(each, index, copy=copy or None) for each in parts[1:])
        self.shape = (int(shape[0]), int(shape[1]))

    @classmethod
    def _of(cls, parts: list[ndarray], shape: tuple[int, int], canonical: bool | None) -> Any:
        made = cls.__new__(cls)
        made.data, made.indices, made.indptr = parts
        made.shape, made._canonical = shape, canonical
        return made

    nnz = property(lambda self: int(self.data.size))
    size = nnz
    dtype = property(lambda self: self.data.dtype)
    device = property(lambda self: self.data.device)
    T = property(lambda self: self.transpose())

    def _on_host(self) -> Any:
        kind = sparse.csr_matrix if self.format == "csr" else sparse.csc_matrix
        return kind((self.data._host, self.indices._host, self.indptr._host), shape=self.shape)

    def get(self, stream: Stream | None = None) -> Any:
        """Return scipy's matrix."""
        parts = tuple(each.get(stream) for each in (self.data, self.indices, self.indptr))
        return (sparse.csr_matrix if self.format == "csr" else sparse.csc_matrix)(parts, shape=self.shape)

    def transpose(self, axes: None = None, copy: bool = False) -> Any:
        """Return the transpose: CSC of CSR, of the same arrays."""
        other = csc_matrix if self.format == "csr" else csr_matrix
        parts = [each.copy() if copy else each for each in (self.data, self.indices, self.indptr)]
        return other._of(parts, self.shape[::-1], self._canonical)

    def asformat(self, format: str | None, copy: bool = False) -> Any:
        """Return it as CSR or CSC, made on the device."""
        if format in (None, self.format):
            return self.copy() if copy else self
        host = self._on_host().asformat(format)
        parts = [ndarray._made(np.array(each)) for each in (host.data, host.indices, host.indptr)]
        for each in (self.data, self.indices, self.indptr):
            each._memory.use(False)
        return {"csr": csr_matrix, "csc": csc_matrix}[format]._of(parts, self.shape, None)

    def tocsr(self, copy: bool = False) -> Any:
        """Return it as CSR."""
        return self.asformat("csr", copy)

    def tocsc(self, copy: bool = False) -> Any:
        """Return it as CSC."""
        return self.asformat("csc", copy)

    def copy(self) -> Any:
        """Return a copy."""
        parts = [each.copy() for each in (self.data, self.indices, self.indptr)]
        return self._of(parts, self.shape, self._canonical)

    def astype(self, dtype: Any) -> Any:
        """Return it with numbers of another type."""
        return type(self)((self.data.astype(dtype), self.indices, self.indptr), self.shape)

    @property
    def has_canonical_format(self) -> bool:
        """Whether rows (columns) are sorted, without duplicates; the first time the device is asked."""
        if self._canonical is None:
            _read(1)
            self._canonical = bool(self._on_host().has_canonical_format)
        return self._canonical

    @has_canonical_format.setter
    def has_canonical_format(self, value: bool) -> None:
        self._canonical = bool(value)

    def sum_duplicates(self) -> None:
        """Sort, and add up what is there twice."""
        if self.has_canonical_format:
            return
        host = self._on_host().copy()
        host.sum_duplicates()
        _read(8)
        self.data, self.indices, self.indptr = (
            ndarray._made(np.array(each)) for each in (host.data, host.indices, host.indptr)
        )
        self._canonical = True

    def toarray(self, order: str | None = None, out: None = None) -> ndarray:
        """Return it as a dense array on the device."""
        return ndarray._made(self._on_host().toarray())

    def __len__(self) -> int:
        raise TypeError("sparse matrix length is ambiguous; use getnnz() or shape[0] or shape[1]")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __matmul__(self, other: ndarray) -> ndarray:
        self.sum_duplicates()  # as CuPy does before each product
        return ndarray._made(np.asarray(self._on_host() @ other._host))


class csr_matrix(spmatrix):
    """Compressed rows."""

    format = "csr"


class csc_matrix(spmatrix):
    """Compressed columns."""

    format = "csc"


for _class in (spmatrix, csr_matrix, csc_matrix):
    _class.__module__ = "cupyx.scipy.sparse"


# ---- modules ---------------------------------------------------------------------------------------------------------

# numpy's functions that CuPy has under the same name and with the same meaning. (It lacks, among others, block,
# einsum_path, geomspace, insert, nanquantile, polydiv, spacing, vecdot.)
_FUNCTIONS = [
    "abs", "absolute", "add", "all", "allclose", "amax", "amin", "any", "append", "argmax", "argmin",
    "argpartition", "argsort", "around", "array_equal", "atleast_1d", "atleast_2d", "average", "broadcast_arrays",
    "broadcast_to", "cbrt", "ceil", "clip", "column_stack", "concatenate", "conj", "copysign", "copyto",
    "count_nonzero", "cov", "cumprod", "cumsum", "diag", "diagonal", "diff", "divide", "divmod", "dot", "einsum",
    "equal", "exp", "exp2", "expand_dims", "expm1", "fabs", "flip", "float_power", "floor", "floor_divide", "fmax",
    "fmin", "fmod", "greater", "greater_equal", "hstack", "hypot", "inner", "invert", "isclose", "isfinite",
    "isinf", "isnan", "isneginf", "isposinf", "kron", "less", "less_equal", "linspace", "log", "log10", "log1p",
    "log2", "logaddexp", "logical_and", "logical_not", "logical_or", "logical_xor", "logspace", "matmul", "max",
    "maximum", "mean", "median", "meshgrid", "min", "minimum", "mod", "moveaxis", "multiply", "nan_to_num",
    "nanmax", "nanmean", "nanmin", "nansum", "negative", "not_equal", "ones_like", "outer", "partition", "pad",
    "percentile", "power", "prod", "ptp", "quantile", "ravel", "reciprocal", "remainder", "repeat", "reshape",
    "rint", "roll", "rollaxis", "round", "searchsorted", "sign", "signbit", "sort", "split", "sqrt", "square",
    "squeeze", "stack", "std", "subtract", "sum", "swapaxes", "take", "take_along_axis", "tensordot", "tile",
    "trace", "transpose", "tri", "tril", "triu", "true_divide", "trunc", "var", "vdot", "vstack", "zeros_like",
    "full_like", "result_type", "can_cast", "promote_types", "shape", "ndim", "size", "isscalar", "ones",
    "full", "arange", "eye", "identity", "bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift",
]  # fmt: skip
_READING = [
    "argwhere", "bincount", "extract", "flatnonzero", "histogram", "unique",
]  # fmt: skip
_PLAIN = [
    "bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "intp", "float16", "float32",
    "float64", "complex64", "complex128", "dtype", "finfo", "iinfo", "generic", "number", "integer", "floating",
    "pi", "e", "inf", "nan", "newaxis",
]  # fmt: skip
_LINALG = [
    "norm", "qr", "svd", "solve", "inv", "pinv", "eigh", "eigvalsh", "cholesky", "lstsq",
]  # fmt: skip


def _made_modules() -> dict[str, types.ModuleType]:
    names = ("cupy", "cupy.linalg", "cupy.cuda", "cupy.cuda.runtime", "cupyx", "cupyx.scipy", "cupyx.scipy.sparse")
    made = {name: types.ModuleType(name, "Stands for CuPy's.") for name in names}
    for name, each in made.items():  # find_spec looks here
        each.__spec__ = importlib.machinery.ModuleSpec(name, None, origin=__file__)
        each.__path__ = []  # a package: cupyx.scipy.sparse is imported by steps
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(made[parent], child, each)
    xp = made["cupy"]
    for name in _PLAIN:
        setattr(xp, name, getattr(np, name))
    for name in _FUNCTIONS:
        setattr(xp, name, _as_given(getattr(np, name)))
    for name in _READING:
        setattr(xp, name, _counting_first(getattr(np, name)))
    for name in _LINALG:
        setattr(made["cupy.linalg"], name, _as_given(getattr(np.linalg, name)))
    pool = types.SimpleNamespace(
        used_bytes=lambda: _world.used[_world.device], total_bytes=lambda: _world.used[_world.device],
        free_bytes=lambda: 0, free_all_blocks=lambda stream=None: _world.free.clear(),
        n_free_blocks=lambda: sum(map(len, _world.free.values())),
        get_limit=lambda: 0,
    )  # fmt: skip
    for name, value in {
        "__version__": VERSION, "ndarray": ndarray, "array": _array, "asarray": _asarray, "asanyarray": _asarray,
        "ascontiguousarray": _ascontiguousarray, "asnumpy": _asnumpy, "empty": _empty, "empty_like": _empty_like,
        "zeros": _zeros,
        "where": _where, "nonzero": _nonzero, "copy": lambda a, order="K": _array(a, order=order),
        "asfortranarray": lambda a, dtype=None: _apply(np.asfortranarray, (_asarray(a, dtype),), {}),
        "get_array_module": lambda *args: xp if any(isinstance(a, (ndarray, spmatrix)) for a in args) else np,
        "RawModule": RawModule, "RawKernel": RawKernel, "is_available": lambda: _world.devices > 0,
        "get_default_memory_pool": lambda: pool, "get_default_pinned_memory_pool": lambda: pool,
    }.items():  # fmt: skip
        setattr(xp, name, value)
    for name, value in {
        "Device": Device, "Stream": Stream, "Event": Event, "Graph": Graph, "get_elapsed_time": _elapsed,
        "get_current_stream": _current_stream, "using_allocator": _using_allocator,
        "is_available": lambda: _world.devices > 0, "alloc_pinned_memory": lambda size: _pinned(size, np.uint8).data,
        "memory": types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        "device": types.SimpleNamespace(get_device_id=lambda: _world.device, Device=Device),
    }.items():  # fmt: skip
        setattr(made["cupy.cuda"], name, value)
    for name, value in {
        "CUDARuntimeError": CUDARuntimeError, "getDeviceCount": _device_count, "driverGetVersion": lambda: 13000,
        "runtimeGetVersion": lambda: 13000, "memGetInfo": lambda: Device().mem_info, "getDevice": lambda: _world.device,
        "setDevice": lambda number: Device(number).use() and None, "deviceSynchronize": lambda: Device().synchronize(),
        "getDeviceProperties": lambda number: {
            "name": b"Emulated GPU", "totalGlobalMem": _world.memory, "multiProcessorCount": 4, "major": 9, "minor": 0,
            "sharedMemPerBlock": module.SHARED_DEFAULT, "sharedMemPerBlockOptin": module.SHARED_MOST,
        },
    }.items():  # fmt: skip
        setattr(made["cupy.cuda.runtime"], name, value)
    made["cupyx"].empty_pinned = _pinned  # type: ignore[attr-defined]
    made["cupyx"].geterr = lambda: {"linalg": None, "fallback_mode": None}  # type: ignore[attr-defined]
    for name, value in {
        "csr_matrix": csr_matrix, "csc_matrix": csc_matrix, "spmatrix": spmatrix,
        "issparse": lambda x: isinstance(x, spmatrix), "isspmatrix": lambda x: isinstance(x, spmatrix),
        "isspmatrix_csr": lambda x: isinstance(x, csr_matrix), "isspmatrix_csc": lambda x: isinstance(x, csc_matrix),
    }.items():  # fmt: skip
        setattr(made["cupyx.scipy.sparse"], name, value)
    return made


def _device_count() -> int:
    if not _world.devices:
        raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
    return _world.devices


def _pinned(shape: Any, dtype: Any = float, order: str = "C") -> np.ndarray:
    """Host memory that a device copies from and to by itself."""
    made = _filled(np.empty(shape, dtype, order))
    _world.pinned[id(made)] = weakref.ref(made), {}
    return made


_world = _World(1, MEMORY)
_modules = _made_modules()
Stream.null = _world.null[0]


def install(monkeypatch: Any, devices: int = 1, memory: int = MEMORY) -> Any:
    """Put the stand-in where ``import cupy`` and ``import cupyx`` look, until the test ends.

    Parameters
    ----------
    monkeypatch : pytest.MonkeyPatch
        The test's.
    devices : int
        How many devices there are. 0: ``getDeviceCount()`` raises, as without one.
    memory : int
        Bytes of each.

    Returns
    -------
    cupy : module
        What ``import cupy`` gives from now on. What the backend has cached of another device is forgotten for the time.
    """
    global _world
    this = sys.modules[__name__]
    monkeypatch.setattr(this, "_world", _World(devices, memory))
    if devices:
        monkeypatch.setattr(Stream, "null", _world.null[0])
    for name, each in _modules.items():
        monkeypatch.setitem(sys.modules, name, each)
    for counter in (reads, uploads, waits, graph_launches):
        counter.clear()
    backends = importlib.import_module("nmfcore.backends")
    for found in pkgutil.iter_modules(backends.__path__, "nmfcore.backends."):
        if found.name.rpartition(".")[2].startswith("cuda"):
            backend = importlib.import_module(found.name)
            for name, function in list(vars(backend).items()):
                if hasattr(function, "cache_clear") and function.__module__ == backend.__name__:
                    monkeypatch.setattr(backend, name, functools.cache(function.__wrapped__))
    return _modules["cupy"]
