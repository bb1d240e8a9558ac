"""X on a device, or streamed to it, as blocks of rows for the CUDA backend.

A resident X is one block, and everything is queued on the current stream without waiting for it. An X larger than the
card stays in host memory (or a file) and passes through two device buffers, a block at a time: while the device works
on one, the next is on its way. X is read once a pass either way, because the visits are the same.
"""

from __future__ import annotations

import contextlib
import functools
import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from .._typing import DType, Matrix
from ..backends import cuda, cuda_graphs, cuda_ops
from .base import Function, Gather, Rows
from .state import RowState
from .summary import digest_of
from .sums import NEUTRAL, Named, Shapes
from .threads import effective_threads, run_all

Array = Any  # cupy.ndarray

BLOCK_BYTES = 128 << 20  # of a streamed block: long enough for full speed, short enough for two of them anywhere
COPY_BYTES = 4 << 20  # that a thread copies at a time
UPLOAD_BYTES = 32 << 20  # of each of the two pinned buffers that an upload goes through
ROOM = 0.8  # share of the card's free memory that X and what a fit keeps beside it may take
BESIDE = 8  # arrays of n × k that a fit of hals keeps at most: W in four turns, X·Ht, its step, a start …


class CSR(NamedTuple):
    """A CSR matrix on the device; int32 bounds and columns."""

    data: Array
    indices: Array
    indptr: Array
    shape: tuple[int, int]

    @property
    def nnz(self) -> int:
        """How many numbers are stored."""
        return int(self.data.size)

    @property
    def dtype(self) -> np.dtype:
        """Type of the stored numbers."""
        return self.data.dtype


def _streams_when_full(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of `DeviceRows` that is called again with a streamed X where the device's memory runs out."""

    @functools.wraps(method)
    def call(self: DeviceRows, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            if not cuda.out_of_memory(error) or not self._stream_from_host():
                raise
        # The exception held the frames that refer to X on the device; only now can its memory be freed.
        cuda.free_memory()
        return method(self, *args, **kwargs)

    return call


class DeviceRows(Rows):
    """X as blocks of rows for the CUDA backend.

    Parameters
    ----------
    X : cupy.ndarray of shape (n, m), CSR, or numpy.ndarray to be streamed
        On the device in a type that the kernels read (`cuda_ops.stored_as_is`).
    dtype : numpy.float32 or numpy.float64
        Compute type.
    n_jobs : None
        Has no meaning here.
    transposed : CSR, optional
        Xᵀ of a sparse X.
    kind : str or None
        Whose array X was, see `cuda.kind_of`: results are given back as the same.
    host : numpy.ndarray, optional
        The array that X on the device is a copy of. It is streamed instead where the device's memory runs out.
    """

    threads = 1
    n_jobs = None
    number = 0  # of the device
    by_rows_only = "X is on a GPU"

    def __init__(
        self,
        X: Matrix,
        dtype: DType,
        n_jobs: int | None = None,
        transposed: CSR | None = None,
        kind: str | None = None,
        host: np.ndarray | None = None,
    ):
        self.X = X
        self._host = host
        self.dtype = np.dtype(dtype)
        self.shape: tuple[int, int] = tuple(X.shape)
        self.sparse = isinstance(X, CSR)
        self.streamed = isinstance(X, np.ndarray)
        self.stored = _stored_type(X.dtype, dtype)
        self.given_dtype = np.dtype(X.dtype)
        self.backend = cuda_ops
        self.kind = kind
        self._xt = transposed
        self._buffers: _Buffers | None = None
        self._stream: Any = None  # cupy.cuda.Stream; None: the current one
        self._turns: weakref.WeakSet[cuda_graphs.Turns] = weakref.WeakSet()  # of fits that are under way

    def _stream_from_host(self) -> bool:
        """Stream X from the host from now on; return False where it is streamed already, or was given on the device."""
        if self.streamed or self._host is None:
            return False
        self.X, self.streamed = self._host, True
        for name in ("T", "_whole"):  # they hold X on the device
            vars(self).pop(name, None)
        for turns in self._turns:
            turns.forget()
        return True

    @_streams_when_full
    def scaled(self, power: int, dtype: DType = None) -> DeviceRows:
        """Return the same X as 4^power·X; see `Rows.scaled`.

        A resident X is there twice then, a streamed one is multiplied where it passes through.
        """
        if power == self.power and dtype is None:
            return self
        dtype, by = self.dtype if dtype is None else np.dtype(dtype), power - self.power
        if self.streamed or not by:
            view = DeviceRows(self.X, dtype, None, self._xt, self.kind)
            view.stored = dtype if power else view.stored
        elif self.sparse:
            assert self._xt is not None
            X, Xt = (A._replace(data=_multiplied(A.data, by, dtype)) for A in (self.X, self._xt))
            view = DeviceRows(X, dtype, None, Xt, self.kind)
        else:
            view = DeviceRows(_multiplied(self.X, by, dtype), dtype, kind=self.kind, host=self._host)
        view.power, view.given_dtype, view.number = power, self.given_dtype, self.number
        return view

    def __enter__(self) -> DeviceRows:
        self._place = cuda.context(self.number)
        self._place.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._place.__exit__(kind, error, traceback)

    # ---- beside other rows -----------------------------------------------------------------------------------------

    def at_once(self, rows: int, width: int, most: int) -> int:
        """Return how many fits of samples of so many rows have room in `ROOM` of the free memory, one at least."""
        each = _beside((rows, self.shape[1]), self.dtype, width)
        each += rows * self.shape[1] * self.stored.itemsize * (1 if not self.sparse else 2)
        return max(1, min(most, int(ROOM * _free()) // max(1, each)))

    def apart(self) -> contextlib.AbstractContextManager[object]:
        """Return the stream of these rows, if they have one, as a context."""
        return contextlib.nullcontext() if self._stream is None else self._stream

    def set_apart(self) -> None:
        """Give these rows a stream, which first waits for what is queued on the current one."""
        ready = cuda.cupy().cuda.get_current_stream().record()
        self._stream = cuda.cupy().cuda.Stream(non_blocking=True)
        self._stream.wait_event(ready)

    def rejoin(self) -> None:
        """Wait for the stream of these rows: memory that it used, and results, may be used on any other then."""
        if self._stream is not None:
            self._stream.synchronize()
            self._stream = None

    def turns(self) -> Callable[[object], contextlib.AbstractContextManager[object]]:
        """Return the turns of a fit, see `Rows.turns`; a sparse X's passes are queued one by one."""
        if self.sparse or self.streamed:
            return super().turns()
        turns = cuda_graphs.Turns()
        self._turns.add(turns)
        return turns

    # ---- blocks ----------------------------------------------------------------------------------------------------

    @property
    def runs_ahead(self) -> bool:  # type: ignore[override]
        """Whether a pass may be queued early: not one that the host copies X for."""
        return not self.streamed

    @property
    def rows_per_block(self) -> int:
        """Rows of a streamed block: a function of X's width and type only, as it decides how sums are rounded."""
        n, m = self.shape
        if not self.streamed:
            return max(n, 1)
        return max(64, BLOCK_BYTES // max(1, m * self.stored.itemsize) // 64 * 64)

    @functools.cached_property
    def _whole(self) -> cuda_ops.Block:
        """A resident X as one block."""
        return cuda_ops.cut(self.X, (0, self.shape[0]))

    def blocks(self) -> Iterator[tuple[int, int, cuda_ops.Block]]:
        """Yield (first row, last row, block), in order; the next block but one is written over a streamed one."""
        n = self.shape[0]
        if not self.streamed:
            yield 0, n, self._whole
            return
        if self._buffers is None:
            self._buffers = _Buffers(self.rows_per_block, self.shape[1], self.stored, self.power)
        yield from self._buffers.stream(self.X)

    @property
    def entries(self) -> int:
        """Number of stored numbers of X: n·m, of a sparse X fewer."""
        return int(self.X.nnz) if self.sparse else self.shape[0] * self.shape[1]

    @_streams_when_full
    def take(self, rows: Array, n_jobs: int | None = None) -> DeviceRows:
        """Return a copy of some rows (increasing numbers), on the device."""
        if self.sparse:
            xp = cuda.cupy()
            bounds = self.backend.to_numpy(self.X.indptr)
            lengths = bounds[rows + 1] - bounds[rows]
            indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            at = xp.asarray(np.repeat(bounds[rows] - indptr[:-1], lengths) + np.arange(indptr[-1]))
            shape = (len(rows), self.shape[1])
            data, indices = self.X.data[at], self.X.indices[at]
            flipped = sparse.csr_matrix(
                (self.backend.to_numpy(data), self.backend.to_numpy(indices), indptr), shape=shape
            ).T.tocsr()
            part = DeviceRows(CSR(data, indices, xp.asarray(indptr), shape), self.dtype, None, _upload_csr(flipped))
        elif self.streamed:
            stored = _stored_type(self.X.dtype, self.dtype)
            return DeviceRows(_upload(self.X[rows], stored), self.dtype).scaled(self.power)
        else:
            part = DeviceRows(self.X[cuda.cupy().asarray(rows)], self.dtype)
        part.power = self.power
        return part

    def rows_like(self, F: Array) -> DeviceRows:
        """Return a dense matrix on the device as rows, for products with it."""
        return DeviceRows(F, self.dtype)

    @_streams_when_full
    def new_rows(self, width: int) -> Array:
        """Return zeros of shape (n, width) in the compute type, on the device."""
        return cuda.cupy().zeros((self.shape[0], width), self.dtype)

    @_streams_when_full
    def state(self, **arrays: Array) -> RowState:
        """Return row-aligned arrays on the device as a state that passes go through."""
        return RowState(**{name: cuda_ops.asarray(array) for name, array in arrays.items()})

    @_streams_when_full
    def copied(self, W: Array) -> Array:
        """Return a copy of W on the device."""
        return W.copy()

    def to_caller(self, A: Array) -> Matrix:
        """Return an array of results as the kind that X was: numpy for an X on the host, else on the device."""
        return cuda.give_back(A, self.kind)

    def check_loss(self, beta: float) -> None:
        """Raise if the backend has no kernels for this X and β."""
        if self.sparse and beta not in (1, 2):
            raise cuda_ops.sparse_beta(beta)

    @functools.cached_property
    def T(self) -> DeviceRows:
        """Xᵀ of a sparse X as rows; a dense one on the device as a copy."""
        if self.sparse:
            assert self._xt is not None
            flipped = DeviceRows(self._xt, self.dtype, None, self.X)
        elif self.streamed:
            return DeviceRows(np.ascontiguousarray(self.X.T), self.dtype).scaled(self.power)
        else:
            flipped = DeviceRows(cuda_ops.asarray(self.X.T), self.dtype)
        flipped.power = self.power
        return flipped

    # ---- passes ----------------------------------------------------------------------------------------------------

    @_streams_when_full
    def map_rows(
        self, visit: Callable[..., None], rows: int, work: float, shapes: tuple[tuple[int, ...], ...]
    ) -> list[Array]:
        """Apply visit(0, rows, *sums) to all rows of a small factor at once, and return the sums."""
        whole = list(_zeros(tuple(enumerate(shapes))).values())
        visit(0, rows, *whole)
        return whole

    @_streams_when_full
    def each_block(
        self,
        function: Function,
        rows: RowState | Mapping[str, Array],
        arguments: object,
        *,
        width: int,
        sums: Shapes,
        out: Mapping[str, int] | None = None,
        gather: Gather | None = None,
        gathered: tuple[str, ...] = (),
        verify: bool = False,
    ) -> tuple[RowState, Named]:
        """Apply a function to every block of rows, see `Rows.each_block`. Arrays and sums stay on the device."""
        before = rows if isinstance(rows, RowState) else self.state(**rows)
        if not self.sparse:
            gather = None
        large = {name: (0, *sums[name][1:]) for name in gathered} if gather else {}
        if out is None:
            after = before.twin
        else:
            after = self.state(**{name: self.new_rows(k) for name, k in out.items()}) if out else before
        total = _cleared(sums | large if large else sums)
        if not self.streamed:
            function(self.backend, self._whole, before, arguments, after, total)
        else:
            for lo, hi, block in self.blocks():
                if hi - lo == self.shape[0]:
                    function(self.backend, block, before, arguments, after, total)
                else:
                    function(self.backend, block, before.rows(lo, hi), arguments, after.rows(lo, hi), total)
        if gather:
            total = total | {name: cuda.cupy().zeros(sums[name]) for name in large}
            for lo, hi, block in self.T.blocks():
                gather(self.backend, block, after, arguments, lo, hi, total)
        return after, total

    def digest(self) -> str:
        """Return a digest of all stored numbers at their places; a resident X is copied to the host in parts."""
        n, m = self.shape
        if self.sparse:
            data, indices, indptr = (self.backend.to_numpy(A) for A in (self.X.data, self.X.indices, self.X.indptr))
            return f"{digest_of(sparse.csr_matrix((data, indices, indptr), shape=self.shape)):08x}"
        rows = max(1, BLOCK_BYTES // max(1, m * self.X.dtype.itemsize))
        parts = [self.X[first : first + rows] for first in range(0, n, rows)]
        return "".join(f"{digest_of(part if self.streamed else self.backend.to_numpy(part)):08x}" for part in parts)


Place = tuple[Any, int, int, tuple[int, ...] | None]  # name, first and last number, and shape unless it has one axis


@functools.lru_cache(maxsize=64)
def _places(shapes: tuple[tuple[Any, tuple[int, ...]], ...]) -> tuple[int, list[Place]]:
    """Return how many numbers named arrays have together, and where each of them lies."""
    at, places = 0, []
    for name, shape in shapes:
        end = at + math.prod(shape)
        places.append((name, at, end, None if len(shape) == 1 else shape))
        at = end
    return at, places


@cuda_graphs.repeatable
def _zeros(shapes: tuple[tuple[Any, tuple[int, ...]], ...]) -> dict[Any, Array]:
    """Return arrays of float64 zeros, all of them in one piece of memory that takes one call to clear."""
    size, places = _places(shapes)
    whole, made = cuda_graphs.zeros(size), {}
    for name, first, last, shape in places:
        part = whole[first:last]
        made[name] = part if shape is None else part.reshape(shape)
    return made


@cuda_graphs.repeatable
def _cleared(shapes: Shapes) -> dict[str, Array]:
    """Return named sums of no parts, in memory of their own: the sums of a pass stay when the next one is made."""
    filled = [name for name in NEUTRAL if name in shapes and NEUTRAL[name]]
    if not filled:
        return _zeros(tuple(shapes.items())) if shapes else {}
    plain = tuple((name, shape) for name, shape in shapes.items() if name not in filled)
    others = {name: cuda.cupy().full(shapes[name], NEUTRAL[name]) for name in filled}
    return (_zeros(plain) | others) if plain else others


class _Buffers:
    """Two pinned host buffers and two on the device, which blocks of rows take turns in.

    A copy from a pinned buffer may still be on its way when a pass is over, or when an exception has ended it, as it
    waits for the work queued before it. The buffer is therefore written only after its last copy has been awaited,
    whichever pass sent it, and not given back to CuPy's pool before then.
    """

    def __init__(self, rows: int, columns: int, dtype: DType, power: int = 0):
        xp = cuda.cupy()
        self.rows, self.power = rows, power
        self.pinned = [cuda.empty_pinned((rows, columns), dtype) for _ in range(2)]
        self.device = [xp.empty((rows, columns), dtype) for _ in range(2)]
        self.copies = xp.cuda.Stream(non_blocking=True)
        self.arrived = [xp.cuda.Event() for _ in range(2)]
        self.used = [xp.cuda.Event() for _ in range(2)]
        self.threads = effective_threads(None)
        self.sent = [False, False]  # whether a copy from the pinned buffer was queued, ever
        weakref.finalize(self, self.copies.synchronize).atexit = False

    def stream(self, X: np.ndarray) -> Iterator[tuple[int, int, cuda_ops.Block]]:
        """Blocks of X in order: the next one is copied while the device works on what was queued for the last."""
        n, work = X.shape[0], cuda.cupy().cuda.get_current_stream()
        for slot in range(2):  # nothing of an earlier pass may still be at work in them
            self.used[slot].record(work)
        for number, lo in enumerate(range(0, n, self.rows)):
            slot, hi = number % 2, min(lo + self.rows, n)
            if self.sent[slot]:
                self.arrived[slot].synchronize()  # the pinned buffer is free again
            part = np.asarray(X[lo:hi], np.float64) * 4.0**self.power if self.power else X[lo:hi]
            # and widened, where the kernels do not read X's type
            _copy(part, self.pinned[slot][: hi - lo], self.threads)
            self.copies.wait_event(self.used[slot])
            try:
                self.device[slot][: hi - lo].set(self.pinned[slot][: hi - lo], stream=self.copies)
                self.arrived[slot].record(self.copies)
                self.sent[slot] = True
            except BaseException:  # a copy may have been queued without the event that says when it has arrived
                self.copies.synchronize()
                raise
            work.wait_event(self.arrived[slot])
            yield lo, hi, cuda_ops.Block(self.device[slot][: hi - lo], hi - lo, X.shape[1])
            self.used[slot].record(work)


def as_device_rows(X: Matrix, dtype: DType, components: object = 0) -> DeviceRows:
    """X as row blocks for the current device.

    Parameters
    ----------
    X : ndarray or memmap of shape (n, m), CSR or CSC matrix or array, cupy.ndarray, cupyx CSR or CSC matrix
        Validated. Numbers in types that the kernels read stay what they are (uint8, uint16, float16, float32,
        float64); others become the compute type, block by block.
    dtype : numpy.float32 or numpy.float64
        Compute type.
    components : int, optional
        Columns of the factors that are kept beside X; what is no number ("auto", None) counts as the columns of X.

    Returns
    -------
    rows : DeviceRows
        Resident where X and the factors fit into `ROOM` of the free memory, else streamed from where it lies.

    Raises
    ------
    ValueError
        If a sparse X is too large for the device, or has 2³¹ stored numbers or more.
    """
    xp, kind = cuda.cupy(), cuda.kind_of(X)
    X = cuda.adopt(X)
    if hasattr(X, "tocsr"):
        return _sparse_rows(X, dtype, kind)
    if isinstance(X, np.ndarray):
        stored = _stored_type(X.dtype, dtype)
        if X.shape[0] * X.shape[1] * stored.itemsize + _beside(X.shape, dtype, components) > ROOM * _free():
            return DeviceRows(X, dtype)
        try:
            return DeviceRows(_upload(X, stored), dtype, host=X)
        except Exception as error:
            if not cuda.out_of_memory(error):
                raise
        cuda.free_memory()
        return DeviceRows(X, dtype)
    if X.dtype == np.bool_:
        X = X.view(np.uint8)
    if not cuda_ops.stored_as_is(X.dtype):
        X = X.astype(dtype)
    if X.strides[1] != X.itemsize or X.strides[0] % X.itemsize or X.strides[0] < 0:
        X = xp.ascontiguousarray(X)
    return DeviceRows(X, dtype, kind=kind)


def _free() -> int:
    """Return the bytes that are free on the current device, those that CuPy keeps for later included."""
    xp = cuda.cupy()
    return int(xp.cuda.runtime.memGetInfo()[0] + xp.get_default_memory_pool().free_bytes())


def _beside(shape: tuple[int, ...], dtype: DType, components: object) -> int:
    """Return how many bytes a fit needs beside X: arrays of n × k, and the partial sums of two products of m × k."""
    n, m = shape
    k = int(components) if isinstance(components, int | np.integer) else m
    if k < 1:
        return 0
    return BESIDE * n * k * np.dtype(dtype).itemsize + 2 * 8 * m * k * cuda_ops.plan_chunks(n, m, k)[1]


def _multiplied(X: Array, power: int, dtype: np.dtype) -> Array:
    """4^power·X in the compute type, some rows at a time, as they pass through float64."""
    out = cuda.cupy().empty(X.shape, dtype)
    step = max(1, (BLOCK_BYTES // 8) // max(1, X[:1].size))
    for lo in range(0, X.shape[0], step):
        out[lo : lo + step] = (X[lo : lo + step].astype(np.float64) * 4.0**power).astype(dtype)
    return out


def _stored_type(given: np.dtype, compute: DType) -> np.dtype:
    if given == np.bool_:
        return np.dtype(np.uint8)
    return given if cuda_ops.stored_as_is(given) else np.dtype(compute)


def _copy(rows: np.ndarray, to: np.ndarray, threads: int) -> None:
    """Copy rows in host memory, by several threads where they are many: one of them does not keep the bus busy."""
    step = max(1, COPY_BYTES // max(1, to[:1].nbytes))

    def copy(i: int) -> None:
        np.copyto(to[i * step : (i + 1) * step], rows[i * step : (i + 1) * step])

    run_all(copy, -(-len(to) // step), threads)


def _upload(X: np.ndarray, stored: np.dtype) -> Array:
    """X on the device, in the type it is to be stored in; never a second copy of all of it on the host."""
    xp, (n, m) = cuda.cupy(), X.shape
    out, stream = xp.empty((n, m), stored), xp.cuda.get_current_stream()
    if out.nbytes <= COPY_BYTES:
        out.set(np.ascontiguousarray(X, stored), stream=stream)
        return out
    rows = max(1, UPLOAD_BYTES // (m * stored.itemsize))
    pinned = [cuda.empty_pinned((rows, m), stored) for _ in range(2)]
    arrived, threads = [xp.cuda.Event() for _ in range(2)], effective_threads(None)
    try:
        for number, lo in enumerate(range(0, n, rows)):
            slot, hi = number % 2, min(lo + rows, n)
            if number >= 2:
                arrived[slot].synchronize()  # the pinned buffer is free again
            part = pinned[slot][: hi - lo]
            _copy(X[lo:hi], part, threads)
            out[lo:hi].set(part, stream=stream)
            arrived[slot].record(stream)
    finally:
        stream.synchronize()  # the pinned memory goes back to CuPy's pool
    return out


def _upload_csr(X: Matrix) -> CSR:
    xp = cuda.cupy()
    return CSR(xp.asarray(X.data), xp.asarray(X.indices.astype(np.int32, copy=False)),
               xp.asarray(X.indptr.astype(np.int32, copy=False)), tuple(X.shape))  # fmt: skip


def _sparse_rows(X: Matrix, dtype: DType, kind: str | None) -> DeviceRows:
    X = X.tocsr()
    if X.nnz >= 2**31:
        msg = f"X has {X.nnz:,} stored numbers; the GPU path takes fewer than 2³¹: use device='cpu' or parts of X."
        raise ValueError(msg)
    if not X.has_canonical_format:  # its numbers are read one by one
        X = X.copy().astype(np.promote_types(X.dtype, np.dtype(dtype)))
        X.sum_duplicates()
    if not cuda_ops.stored_as_is(X.dtype) or X.dtype == np.float16:
        X = X.astype(dtype)
    Xt = X.T.tocsr()
    Xt.sum_duplicates()  # sorted columns: the order of the sums
    return DeviceRows(_upload_csr(X), dtype, None, _upload_csr(Xt), kind)
