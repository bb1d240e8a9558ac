"""The CUDA backend: the operations of `Backend` on arrays that lie on a device.

A block holds arrays instead of addresses. Everything is queued on the current stream, in order; only `read`, what
`send` returns, `to_numpy` and `worst_rows` wait for the device.

Kernels are compiled family by family, for the types and the width that a fit needs, and CuPy keeps them on disk. How a
launch is cut (`plan_…`) depends on shapes only, not on the device, so the sums of kernels have the same bits on every
card of one architecture. Sums that CuPy makes do not: it cuts `inner`, and `sum` of an array, by the number of the
card's multiprocessors. Under penalties the loss that hals and mu decide by contains such sums. On cards of two kinds a
pass may therefore be accepted, or a fit may stop, at another iteration where two losses are equal to rounding.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import cuda
from .cuda_graphs import empty, ended, not_repeatable, repeatable, scratch, zeros
from .operations import (
    CROSS,
    KKT,
    SQUARE,
    STATS,
    STORED_TYPES,
    SWEEPS,
    TOTAL,
    UNSETTLED,
    VIOLATION,
    Ahead,
    Beginning,
    Pace,
    Weighed,
    largest,
    merge_worst,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from .._typing import DType, Matrix, Numbers

__all__ = [
    "CROSS", "KKT", "QUEUES", "SQUARE", "STATS", "SWEEPS", "TOTAL", "UNSETTLED", "VIOLATION", "Beginning", "Block",
    "Pace", "Weighed", "add_gram", "add_products", "asarray", "changes", "code", "column_sums", "cut", "descend",
    "divergence", "empty", "gram", "inner", "kept", "kl_numerators", "multiply", "multiply_beta", "multiply_given",
    "nearest", "numbers", "opening", "products", "read", "scale", "send", "sparse_beta", "squares", "step_ahead",
    "stored_as_is", "sweep", "to_numpy", "weighted", "worst_rows", "xp",
]  # fmt: skip

Array = Any  # cupy.ndarray

QUEUES = True  # operations are queued, and reading a number waits for all of them
THREADS = 128
ROWS, COLUMNS, DEPTH = 64, 64, 32  # of the tiles of a product; see the kernels
HEIGHT, WIDTH = 32, 32  # of the tiles of WH
BLOCKS = 528  # least blocks of a launch: four for each multiprocessor of an H100 or H200
RESIDENT = {32: 528, 64: 396}  # blocks at once of the tensor kernels, by their width: see BLOCKS_AT_ONCE there
FORMED = 32  # components up to which the multiplicative step forms F·G by itself
SLOTS = 8  # of `collect`: what one launch brings to the host
TENSOR_FROM = 25  # components from which on arithmetic, not memory, limits the speed of products
PARTS_BYTES = 64 << 20  # most memory for partial sums
CHUNK = 256  # rows of a block of `multiply`
CODERS = 2048  # blocks of `code_rows`
SHARED = 48 << 10  # shared memory of a block by default
SHARED_MOST = 98 << 10  # shared memory that a block may have on every processor from sm_80 on
GRID_X, GRID_YZ = 2**31 - 1, 65535
OPTIONS = ("-std=c++17",)  # of NVRTC
MOST_PARTS = 1 << 30  # that one launch adds up: they are counted by an int

xp: ModuleType  # cupy, imported when the first array is made


def __getattr__(name: str) -> ModuleType:
    if name == "xp":
        return cuda.cupy()
    raise AttributeError(name)


# ---- arrays ----------------------------------------------------------------------------------------------------------


def asarray(F: Array) -> Array:
    """Return F on the current device, C-contiguous."""
    return cuda.cupy().ascontiguousarray(cuda.on_current_device(F))


def to_numpy(A: Array) -> np.ndarray:
    """Return A in host memory; this waits for what is queued on the device."""
    return A if isinstance(A, np.ndarray) else cuda.cupy().asnumpy(A)


class Inner(NamedTuple):
    """⟨A − ½·half, B⟩ of small arrays of float64, which `read` forms where it reads it."""

    A: Array
    B: Array
    half: Array | None = None


def read(*arrays: Array | Inner | np.generic | float) -> Numbers:
    """Return the numbers of arrays as Python lists (of 0-d arrays: numbers), all in one transfer."""
    row = _row(arrays)
    return _told(arrays, [] if row is None else cuda.cupy().asnumpy(row).tolist())


def send(*arrays: Array | Inner | np.generic | float) -> Callable[[], Numbers]:
    """Return a function that returns what `read` does, and waits only for what was queued before this call."""
    return _Sent(arrays)


class _Room:
    """Pinned memory of the host that a row is copied to, and the event that says when it has arrived."""

    def __init__(self, size: int):
        self.host = cuda.empty_pinned((max(64, size),), np.float64)
        self.arrived = cuda.cupy().cuda.Event(disable_timing=True)
        self.awaited = True


@functools.cache
def _free_rooms(device: int) -> list[_Room]:
    return []


class _Sent:
    """Numbers on their way to the host. A room is free again when its numbers were read or dropped."""

    def __init__(self, arrays: tuple[Any, ...]):
        self.arrays = arrays
        self.rooms = _free_rooms(cuda.current())
        self.room: _Room | None = None
        self.row = _row(arrays)
        ended()
        if self.row is None:
            return
        size = int(self.row.size)
        try:
            room = self.rooms.pop()
        except IndexError:
            room = _Room(size)
        if not room.awaited:  # numbers that were dropped may still be on their way
            room.arrived.synchronize()
        if room.host.size < size:
            room = _Room(size)
        self.room, room.awaited = room, False
        self.row.get(out=room.host[:size], blocking=False)
        room.arrived.record()

    def __call__(self) -> Numbers:
        """Wait for the numbers, once, and return them."""
        room, self.room = self.room, None
        numbers: list[float] = []
        if room is not None and self.row is not None:
            room.arrived.synchronize()
            room.awaited = True
            numbers = room.host[: self.row.size].tolist()
            self.rooms.append(room)
        return _told(self.arrays, numbers)

    def __del__(self) -> None:
        if self.room is not None:
            self.rooms.append(self.room)


@repeatable
def _row(arrays: tuple[Any, ...]) -> Array | None:
    """Queue a row of the numbers of all arrays that lie on the device; None if there are no such."""
    slots: list[Any] = []
    sizes: list[int] = []
    for a in arrays:
        if type(a) is Inner:
            slots += a.A, a.half, a.B, _i64(a.A.size), _ONE
            sizes.append(1)
        elif not isinstance(a, _HOST):
            dimensions = a.ndim
            if a.dtype != _FLOAT64:
                a = a.astype(np.float64)
            if dimensions > 1:
                a = cuda.cupy().ascontiguousarray(a).reshape(-1)
            size = a.size
            slots += a, None, None, _i64(size), _i64(a.strides[0] >> 3) if dimensions and size > 1 else _ONE
            sizes.append(size)
    if not sizes:
        return None
    row = empty(sum(sizes))
    _collect(slots, sizes, row)
    return row


def _told(arrays: tuple[Any, ...], numbers: list[float]) -> Numbers:
    """Return the numbers of a row as `read` returns them; those of the host stay what they are."""
    out: Numbers = []
    at = 0
    for a in arrays:
        if type(a) is Inner:
            out.append(numbers[at])
            at += 1
        elif isinstance(a, _HOST):
            out.append(a.item() if isinstance(a, np.generic) else a)
        elif shape := a.shape:
            size = a.size
            part = numbers[at : at + size]
            out.append(part if len(shape) == 1 else np.reshape(part, shape).tolist())
            at += size
        else:
            out.append(numbers[at])
            at += 1
    return out


def _collect(slots: list[Any], sizes: list[int], row: Array) -> None:
    """Queue what fills a row with numbers: of each array, five arguments of the kernel, and how many they make."""
    plan = _plan_collect(cuda.current())
    if len(sizes) <= SLOTS:
        _run(plan, (len(sizes),), (*slots, *_EMPTY * (SLOTS - len(sizes)), row))
        return
    at = 0
    for first in range(0, len(sizes), SLOTS):
        part, here = sizes[first : first + SLOTS], slots[5 * first : 5 * (first + SLOTS)]
        _run(plan, (len(part),), (*here, *_EMPTY * (SLOTS - len(part)), row[at : at + sum(part)]))
        at += sum(part)


@functools.cache
def _plan_collect(device: int) -> Any:
    return _kernel("ROWS", "collect", _FLOAT32, _FLOAT32)


def inner(A: Array, B: Array) -> Array:
    """Return ⟨A, B⟩ in float64 (0-d)."""
    return (A.astype(np.float64) * B).sum()


@repeatable
def changes(WtD: Array, G: Array) -> tuple[Inner, Inner]:
    """Return ⟨WᵀD − ½DᵀD, G⟩ and ⟨DᵀD, G⟩ for WtD = [WᵀD; DᵀD]."""
    k = len(G)
    DtD = WtD[k:]
    return Inner(WtD[:k], G, DtD), Inner(DtD, G)


def kept(sums: Array) -> Array:
    """Return sums of a pass that the next pass leaves as they are: each pass on a device has memory of its own."""
    return sums


def stored_as_is(dtype: np.dtype) -> bool:
    """Return whether the kernels read numbers of this type where they lie."""
    return dtype in STORED_TYPES and STORED_TYPES[dtype].in_cuda is not None


class Block(NamedTuple):
    """Rows of X on the device: a dense array whose rows may lie apart, or the three arrays of CSR."""

    X: Array  # r × m, columns side by side; CSR: the stored numbers of the whole matrix
    rows: int
    columns: int
    indptr: Array = None  # CSR: bounds of these rows in X and in indices, int32
    indices: Array = None  # CSR, int32


def cut(X: Matrix, rows: tuple[int, int], height: int = 0) -> Block:
    """Return the block of rows lo … hi of X (cupy.ndarray or cupyx CSR matrix)."""
    lo, hi = rows
    if hasattr(X, "indptr"):
        return Block(X.data, hi - lo, X.shape[1], X.indptr[lo : hi + 1], X.indices)
    return Block(X[lo:hi], hi - lo, X.shape[1])


# ---- kernels ---------------------------------------------------------------------------------------------------------


@functools.cache
def _source(name: str = "cuda_kernels.cu") -> str:
    text = (resources.files(__package__) / name).read_text(encoding="utf-8")
    # CuPy writes the source to a file in the locale's encoding; only comments have characters beyond ASCII.
    return "".join(sign if sign.isascii() else "_" for sign in text)


def with_macros(source: str, macros: tuple[tuple[str, str], ...]) -> str:
    """Return a CUDA source with macros defined in front of it.

    They are not options of the compiler: for each new set of options CuPy has NVRTC compile an empty program first,
    15 to 20 ms each time, and these are the same for all modules.
    """
    return "".join(f"#define {name} {value}\n" for name, value in macros) + "#line 1\n" + source


@functools.cache
def _module(family: str, macros: tuple[tuple[str, str], ...], device: int) -> Any:
    source = _source("cuda_tensor.cu") if family == "TENSOR" else _source()
    return cuda.cupy().RawModule(code=with_macros(source, ((f"FAMILY_{family}", "1"), *macros)), options=OPTIONS)


@functools.cache
def _has_tf32(device: int) -> bool:
    return int(cuda.cupy().cuda.Device(device).compute_capability) >= 80


def _tensor(k: int, stored: np.dtype, compute: np.dtype) -> bool:
    """Return whether products of dense X with a factor of k columns are computed by cuda_tensor.cu."""
    return k >= TENSOR_FROM and compute == np.float32 and stored.itemsize < 8 and _has_tf32(cuda.current())


@functools.cache
def _function(
    family: str, name: str, stored: np.dtype, compute: np.dtype, sizes: tuple[tuple[str, int], ...], device: int
) -> Any:
    """Return a compiled kernel, the same object each time: CuPy makes a new one whenever it is asked."""
    macros = [("XT", _ctype(stored)), ("FT", _ctype(compute)), *((key, str(value)) for key, value in sizes)]
    if stored.name == "float16":
        macros.append(("X_HALF", "1"))
    return _module(family, tuple(macros), device).get_function(name)


def _kernel(family: str, name: str, stored: np.dtype, compute: np.dtype, **sizes: int) -> Any:
    """Return a compiled kernel for X stored in one type and computed with in another."""
    return _function(family, name, stored, compute, tuple(sizes.items()), cuda.current())


def _ctype(dtype: np.dtype) -> str:
    name = STORED_TYPES[dtype].in_cuda
    assert name is not None  # X of another type is converted before it reaches a kernel
    return name


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: Array | np.generic | None, shared: int = 0) -> None:
    """Queue a kernel of THREADS threads a block; arguments are arrays, None, or numpy scalars of the exact types."""
    if 0 not in grid:
        _run(_allowed(kernel, grid, shared), grid, arguments, shared)


def _allowed(kernel: Any, grid: tuple[int, ...], shared: int = 0) -> Any:
    """Return a kernel that may be launched so; raise if a grid of this size is none."""
    if grid[0] > GRID_X or (len(grid) > 1 and max(grid[1:]) > GRID_YZ):
        msg = f"a launch of {grid} blocks is more than a grid may have; give X in smaller blocks."
        raise ValueError(msg)
    if shared > SHARED:
        kernel.max_dynamic_shared_size_bytes = shared
    return kernel


def _run(kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], shared: int = 0) -> None:
    """Queue a kernel that `_allowed` has returned."""
    kernel(grid, _THREADS, arguments, shared_mem=shared)


# numpy takes 0.7 µs to make a number, a fortieth of which it takes to find one.
@functools.lru_cache(maxsize=1024)
def _i32(value: int) -> np.int32:
    return np.int32(value)


@functools.lru_cache(maxsize=1024)
def _i64(value: int) -> np.int64:
    return np.int64(value)


@functools.lru_cache(maxsize=256)
def _real(dtype: np.dtype, value: float) -> Any:
    """Return a constant of a fit in the type that the kernels compute in."""
    return dtype.type(value)


_FLOAT32, _FLOAT64, _NONE, _ONE = np.dtype(np.float32), np.dtype(np.float64), np.int64(0), np.int64(1)
_NOTHING = np.float64(0.0)
_HOST = (np.generic, float)  # numbers that lie on the host
_THREADS = (THREADS, 1, 1)
_NO_PACE = (np.float64(0.0),) * len(Pace._fields)
_EMPTY = (None, None, None, _NONE, _ONE)  # a slot of `collect` that is not used


@functools.lru_cache(maxsize=256)
def tile_width(k: int) -> int:
    """Return the columns of a product's tile (KT): the least of 8, 16, 32, 64 that holds k, or 64 for wider factors."""
    return next((width for width in (8, 16, 32) if k <= width), 64)


@functools.lru_cache(maxsize=256)
def plan_chunks(n: int, m: int, k: int, columns: int = COLUMNS, resident: int = 0) -> tuple[int, int]:
    """Return the rows per chunk of a sum over rows and the number of chunks: enough to fill a device, in PARTS_BYTES.

    `resident` is the number of blocks that run at the same time; with it, as many chunks as leave the least of the
    last round idle.
    """
    tiles = -(-max(m, 1) // columns) * -(-k // tile_width(k))
    most = min(-(-(resident or BLOCKS) // tiles) * (2 if resident else 1),
               PARTS_BYTES // (8 * max(m, 1) * k), -(-n // 256), GRID_YZ)  # fmt: skip
    count = max(1, most)
    if resident:
        count = min(range(1, count + 1), key=lambda c: (-(-tiles * c // resident) / c, c))
    chunk = -(-n // count)
    chunk = -(-chunk // DEPTH) * DEPTH
    return max(chunk, DEPTH), max(1, -(-n // max(chunk, DEPTH)))


@functools.lru_cache(maxsize=256)
def plan_sweep(k: int, itemsize: int) -> tuple[int, int, bool, int]:
    """Return the coordinates per lane and lanes per row of a sweep, whether G is in shared memory, and its bytes.

    With up to 16 components a row belongs to one thread; beyond that, several lanes share it, so that it stays in
    registers. A lane's coordinates are unrolled in two nested loops: 32 of them take 5 s to compile, 8 take 0.8 s.
    """
    if k <= 16:
        lanes, each = 1, 8 if k <= 8 else 16
    else:
        lanes = next((lanes for lanes in (4, 8, 16) if k <= 8 * lanes), 32)
        each = next((each for each in (8, 16, 32) if k <= each * lanes), 0)
        if not each:
            msg = f"n_components = {k} is more than the GPU's sweep holds in registers (1,024): use device='cpu'."
            raise ValueError(msg)
    width = each * lanes
    small = 2 * width * itemsize + 4 * width
    whole = small + width * width * itemsize
    shared = whole <= SHARED_MOST
    return each, lanes, shared, whole if shared else small


@functools.lru_cache(maxsize=256)
def plan_across(k: int) -> int:
    """Return the threads side by side in a row of `multiply`: a power of two."""
    across = 1
    while across < min(k, THREADS):
        across *= 2
    return across


# ---- products --------------------------------------------------------------------------------------------------------


class _Parts(NamedTuple):
    """Partial sums in the memory of the device: `pieces` times `length` numbers."""

    numbers: Array
    length: int
    pieces: int


_NO_PARTS = _Parts(None, 0, 0)


class _Plan(NamedTuple):
    """How a kernel is launched for given shapes and types, which need not be worked out anew in each pass."""

    kernel: Any
    grid: tuple[int, ...]
    numbers: tuple[Any, ...]  # arguments that are neither arrays nor change from pass to pass
    shared: int = 0


def _finish(
    of_X: _Parts | None = None, XtF: Array | None = None, of_grams: _Parts | None = None, FtF: Array | None = None,
    FtD: Array | None = None, of_stats: _Parts | None = None, stats: Array | None = None, columns: Array | None = None,
) -> None:  # fmt: skip
    """Add the partial sums of a pass to XtF, FtF (k × k), FtD (2k × k), stats and columns, each in a fixed order.

    Of `of_stats` the numbers that `stats` has no room for are those of `columns`.
    """
    from_X, length, pieces = of_X or _NO_PARTS
    from_grams, grams, few = of_grams or _NO_PARTS
    from_stats, statistics, blocks = of_stats or _NO_PARTS
    wide = statistics if columns is None else statistics - columns.size
    plan = _plan_finish(
        length, pieces, grams, few, (FtF is not None) + 2 * (FtD is not None), statistics, wide, blocks, cuda.current()
    )
    counted, of_length, of_pieces, small, of_few, of_statistics, of_wide, of_blocks = plan.numbers
    _run(
        plan.kernel, plan.grid,
        (counted, from_X, of_length, of_pieces, XtF, from_grams, small, of_few, FtF, FtD, from_stats, of_statistics,
         of_wide, of_blocks, stats, columns),
    )  # fmt: skip


@functools.lru_cache(maxsize=256)
def _plan_finish(
    length: int, pieces: int, grams: int, few: int, squares: int, statistics: int, wide: int, blocks: int, device: int
) -> _Plan:
    small, kernel = grams // squares if squares else 0, _kernel("ROWS", "finish", _FLOAT32, _FLOAT32)
    count = -(-(length + grams) // THREADS)
    grid = (count + statistics,)
    return _Plan(
        _allowed(kernel, grid), grid,
        (_i32(count), _i64(length), _i32(pieces), _i64(small), _i32(few), _i32(statistics), _i32(wide), _i32(blocks)),
    )  # fmt: skip


def _leading(X: Array) -> int:
    """Return how many numbers lie from one row of X to the next."""
    return X.strides[0] // X.itemsize if X.shape[0] > 1 else X.shape[1]


def opening(block: Block, dtype: np.dtype) -> Array:
    """Return [minimum, count of non-finite values, Σx, Σx²] of the stored numbers, in float64."""
    xp, X = cuda.cupy(), block.X
    rows, columns, ld = block.rows, block.columns, 0
    if block.indptr is not None:  # a sparse X is one block: its stored numbers, as rows of 4,096
        out = xp.array([np.inf, 0.0, 0.0, 0.0])
        whole = X.size // 4096 * 4096
        for part, shape in ((X[:whole], (whole // 4096, 4096)), (X[whole:], (1, X.size - whole))):
            if part.size:
                seen = opening(Block(part.reshape(shape), *shape), dtype)
                out = xp.concatenate([xp.minimum(out[:1], seen[:1]), out[1:] + seen[1:]])
        return out
    ld = _leading(X)
    chunk = max(1, -(-rows // (8 * BLOCKS)))
    count = -(-rows // chunk)
    parts = xp.empty((count, 4))
    compute = np.dtype(np.float64 if X.dtype.itemsize == 8 else np.float32)
    kernel = _kernel("OPENING", "opening", X.dtype, compute)
    _launch(kernel, (count,), X, _i64(ld), _i64(rows), _i64(columns), _i64(chunk), parts)
    seen = xp.empty(4)
    _launch(_kernel("ROWS", "opened", _FLOAT32, _FLOAT32), (1,), parts, _i64(count), seen)
    return seen


def products(block: Block, Ht: Array, out: Array) -> None:
    """Write X·Ht to out (r × k), which is of Ht's type or float64."""
    if out.dtype != Ht.dtype:
        part = cuda.cupy().empty(out.shape, Ht.dtype)
        products(block, Ht, part)
        out[...] = part
        return
    n, m, k, X = block.rows, block.columns, Ht.shape[1], block.X
    if block.indptr is not None:
        wide = min(8, -(-k // 32))
        wide = next(w for w in (1, 2, 4, 8) if wide <= w)
        kernel = _kernel("SPARSE", "sparse_products", X.dtype, Ht.dtype, KC=wide)
        grid = (-(-n // (THREADS // 32)), -(-k // (32 * wide)))
        _launch(kernel, grid, X, block.indptr, block.indices, Ht, _i64(n), _i32(k), out)
        return
    if not (n and k):
        return
    plan = _plan_products(n, m, k, _leading(X), X.dtype, Ht.dtype, cuda.current())
    _run(plan.kernel, plan.grid, (X, plan.numbers[0], Ht, *plan.numbers[1], out))


@functools.lru_cache(maxsize=256)
def _plan_products(n: int, m: int, k: int, ld: int, stored: np.dtype, compute: np.dtype, device: int) -> _Plan:
    width = tile_width(k)
    family, name = ("TENSOR", "products_tensor") if _tensor(k, stored, compute) else ("PRODUCTS", "products")
    grid = (-(-n // ROWS), -(-k // width))
    kernel = _allowed(_kernel(family, name, stored, compute, KT=width), grid)
    return _Plan(kernel, grid, (_i64(ld), (_i64(n), _i64(m), _i32(k))))


class _SumPlan(NamedTuple):
    """How a sum over rows is launched: the arguments of a kernel that depend on shapes and types only."""

    kernel: Any
    grid: tuple[int, int, int]
    chunks: int
    tiles: np.int32
    shape: tuple[Any, ...]  # n, m, k, chunk
    pairs: np.int32


@functools.lru_cache(maxsize=256)
def _plan_sums(
    n: int, m: int, k: int, pairs: int, stored: np.dtype, compute: np.dtype, tensor: bool, device: int
) -> _SumPlan:
    width, tiles, high = tile_width(k), -(-m // COLUMNS), -(-k // COLUMNS) * pairs
    family, name, resident = (
        "PRODUCTS",
        "add_products",
        BLOCKS if width <= 16 and compute.itemsize == 4 else BLOCKS // 2,
    )
    if tensor:
        family, name, resident = "TENSOR", "add_products_tensor", RESIDENT[width]
    chunk, count = plan_chunks(n, m + high * COLUMNS, k, resident=resident)
    grid = (tiles + high, -(-k // width), count)
    kernel = _function(family, name, stored, compute, (("KT", width),), device)
    return _SumPlan(
        _allowed(kernel, grid), grid, count, _i32(tiles),
        (_i64(n), _i64(m), _i32(k), _i64(chunk)), _i32(pairs),
    )  # fmt: skip


def _sum_over_rows(
    block: Block | None, F: Array, pairs: tuple[tuple[Array, Array], ...] = ()
) -> tuple[_Parts | None, _Parts | None]:
    """Queue Xᵀ·F of a dense block, and the products LᵀR of pairs of factors (n × k) → their parts.

    Products of factors are never made on tensor cores: losses depend on them. They are made beside those of X, in the
    same launch, unless these are.
    """
    device, (n, k), compute, of_X, of_grams = cuda.current(), F.shape, F.dtype, None, None
    m = 0 if block is None else block.columns
    if not (n and k and (m or pairs)):
        return None, None
    X, ld = F, k
    if m:
        assert block is not None
        X = block.X
        ld, stored = _leading(X), X.dtype
        if k >= TENSOR_FROM and _tensor(k, stored, compute):
            plan = _plan_sums(n, m, k, 0, stored, compute, True, device)
            of_X = _Parts(scratch((plan.chunks, m, k)), m * k, plan.chunks)
            _run(plan.kernel, plan.grid, (X, _i64(ld), F, *plan.shape, of_X.numbers))
            return of_X, _sum_over_rows(None, F, pairs)[1]
        if k > 32 and pairs and compute.itemsize == 8 and stored != compute:  # the kernel has no registers for both
            return _sum_over_rows(block, F)[0], _sum_over_rows(None, F, pairs)[1]
    plan = _plan_sums(n, m, k, len(pairs), X.dtype, compute, False, device)
    if m:
        of_X = _Parts(scratch((plan.chunks, m, k)), m * k, plan.chunks)
    if pairs:
        of_grams = _Parts(scratch((plan.chunks, len(pairs), k, k)), len(pairs) * k * k, plan.chunks)
    factors = [F for pair in pairs for F in pair]
    factors += [None] * (6 - len(factors))
    _run(
        plan.kernel, plan.grid,
        (plan.tiles, X, _i64(ld), F, *plan.shape, None if of_X is None else of_X.numbers, plan.pairs, *factors,
         None if of_grams is None else of_grams.numbers),
    )  # fmt: skip
    return of_X, of_grams


def add_products(block: Block, F: Array, XtF: Array) -> None:
    """Add Xᵀ·F to XtF (m × k, float64), for dense X; of sparse X the transpose is kept."""
    of_X, _ = _sum_over_rows(block, F)
    if of_X:
        _finish(of_X, XtF)


def _as_block(F: Array) -> Block:
    return Block(F, *F.shape)


def gram(F: Array, B: Array | None = None) -> Array:
    """Return FᵀF, or FᵀB for a B of the same shape and type (k × k), in float64; blockwise products in F's type."""
    FtF = zeros((F.shape[1], F.shape[1]))
    _, of_grams = _sum_over_rows(None, F, ((F, F if B is None else B),))
    if of_grams:
        _finish(None, None, of_grams, FtF)
    return FtF


def _step_done(
    block: Block | None, F: Array, D: Array | None, XtF: Array | None, FtF: Array | None, FtD: Array | None,
    of_stats: _Parts | None, stats: Array, columns: Array | None = None,
) -> None:  # fmt: skip
    """Add what new rows F, with their step D, contribute to the sums of a pass; of no rows, or None: left out."""
    dense = block is not None and block.indptr is None and XtF is not None and XtF.shape[0]
    FtF = FtF if FtF is not None and FtF.shape[0] else None
    pairs: tuple[tuple[Array, Array], ...] = ((F, F),) if FtF is not None else ()
    if D is not None and FtD is not None:
        pairs = (*pairs, (F, D), (D, D))
    of_X, of_grams = _sum_over_rows(block if dense else None, F, pairs)
    if of_X or of_grams or of_stats:
        _finish(of_X, XtF, of_grams, FtF, FtD, of_stats, stats, columns)


# ---- coordinate descent ----------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def _natural_order(k: int, device: int) -> Array:
    made = cuda.cupy().arange(k, dtype=np.int32)
    cuda.cupy().cuda.get_current_stream().synchronize()  # other streams use it too, and wait for nothing
    return made


@functools.lru_cache(maxsize=64)
def _ones(size: int, dtype: np.dtype) -> bytes:
    return np.ones(size, dtype).tobytes()


def _order(order: Array) -> Array:
    """Return the order of components on the device; the natural one is kept there."""
    places = _natural(order.tobytes(), order.dtype, cuda.current())
    return cuda.cupy().asarray(np.asarray(order, dtype=np.int32)) if places is None else places


@functools.lru_cache(maxsize=64)
def _natural(order: bytes, dtype: np.dtype, device: int) -> Array | None:
    """Return the natural order on the device if these are the bytes of it, else None."""
    k = len(order) // dtype.itemsize
    return _natural_order(k, device) if order == np.arange(k, dtype=dtype).tobytes() else None


def _sweep(
    name: str,
    F: Array,
    C: Array,
    G: Array,
    penalty: tuple[float, float],
    order: Array,
    sweeps: int,
    tol: float,
    delta: float,
    out: Array,
    begin: tuple[Array | None, Array | None, float, Array | None] = (None, None, 0.0, None),
    beyond: Array | None = None,
    A: Array | None = None,
) -> _Parts | None:
    """Queue sweeps over rows of F → the parts of their stats. begin: before, scale, momentum, pace; see the kernel."""
    (n, k), dtype = F.shape, F.dtype
    if not n:
        return None
    plan = _plan_of_sweep(name, n, k, dtype, *penalty, sweeps, tol, delta, cuda.current())
    kernel, grid, numbers, blocks, width, held = plan
    places, arranged = _order(order), None
    parts = scratch((blocks, STATS))
    if width:
        arranged = _arranged(G, places, width, numbers[3], dtype)
    before, scale, momentum, pace = begin
    _run(
        kernel, grid,
        (F, before, scale, dtype.type(momentum) if momentum else _real(dtype, 0.0), pace, C, G, places, *numbers, out,
         beyond, A, parts, arranged),
        held,
    )  # fmt: skip
    return _Parts(parts, STATS, blocks)


class _SweepPlan(NamedTuple):
    """How sweeps are launched; `width`: of the Gram matrix in global memory, 0 where it is in shared memory."""

    kernel: Any
    grid: tuple[int, ...]
    numbers: tuple[Any, ...]  # n, k, l1, l2, sweeps, tol, delta
    blocks: int
    width: int
    shared: int


@functools.lru_cache(maxsize=256)
def _plan_of_sweep(
    name: str, n: int, k: int, dtype: np.dtype, l1: float, l2: float, sweeps: int, tol: float, delta: float, device: int
) -> _SweepPlan:
    each, lanes, shared, held = plan_sweep(k, dtype.itemsize)
    blocks = -(-n * lanes // THREADS)
    kernel = _kernel("SWEEP", name, dtype, dtype, KL=each, L=lanes, SHARED_G=int(shared))
    numbers = (
        _i64(n), _i32(k), _real(dtype, l1), _real(dtype, l2), _i32(sweeps), _real(_FLOAT64, tol), _real(dtype, delta),
    )  # fmt: skip
    return _SweepPlan(
        _allowed(kernel, (blocks,), held), (blocks,), numbers, blocks, 0 if shared else each * lanes, held
    )


def _arranged(G: Array, places: Array, width: int, l2: Any, dtype: np.dtype) -> Array:
    """Queue G in the order of a sweep, for widths that it does not fit into shared memory for."""
    each, lanes, _, _ = plan_sweep(len(places), dtype.itemsize)
    arranged = scratch((width, width), dtype)
    arrange = _kernel("SWEEP", "arrange", dtype, dtype, KL=each, L=lanes, SHARED_G=0)
    _launch(arrange, (-(-width * width // THREADS),), G, places, _i32(len(places)), l2, arranged)
    return arranged


def _scale_of(begin: Beginning) -> Array | None:
    """Return the scales of a beginning on the device; None where all of them are 1, as in most passes."""
    scale = begin.scale
    if isinstance(scale, np.ndarray) and scale.tobytes() == _ones(scale.size, scale.dtype):
        return None
    return asarray(scale)


@repeatable
def descend(
    block: Block,
    F: Array,
    Ht: Array,
    G: Array,
    l1: float,
    l2: float,
    order: Array,
    sweeps: int,
    tol: float,
    out: Array,
    XtF: Array,
    FtF: Array,
    stats: Array,
    delta: float = 0.0,
    begin: Beginning | None = None,
) -> None:
    """Write F after up to `sweeps` sweeps of coordinate descent on (X·Ht, G) to out, and add up the sums.

    XtF += Xᵀ·out (dense X only) and FtF += outᵀ·out; those of no rows are left out. A row rests once its violation is
    at most tol × that of its first sweep; with `delta` > 0, once its step is below delta × its first one. `begin` moves
    the point at which the sweeps begin; its `conjugate` has no effect: there are no kernels of conjugate gradients.
    """
    C = scratch((block.rows, Ht.shape[1]), Ht.dtype)
    products(block, Ht, C)
    if begin is None or not len(begin.scale):
        of_stats = _sweep("sweep", F, C, G, (l1, l2), order, sweeps, tol, delta, out)
        _step_done(block, out, None, XtF, FtF, None, of_stats, stats)
        return
    D, weight = scratch(F.shape, F.dtype), begin.weight
    momentum = (weight, None) if isinstance(weight, (int, float)) else (0.0, weight)
    of_stats = _sweep(
        "sweep", F, C, G, (l1, l2), order, sweeps, tol, delta, out,
        (begin.before, _scale_of(begin), *momentum), D,
    )  # fmt: skip
    _step_done(block, out, D, XtF, FtF, begin.FtD if begin.FtD.shape[0] else None, of_stats, stats)


@repeatable
def sweep(
    F: Array,
    G: Array,
    C: Array,
    l1: float,
    l2: float,
    order: Array,
    out: Array,
    FtF: Array,
    stats: Array,
    sweeps: int = 1,
    delta: float = 0.0,
    conjugate: int = 0,
) -> None:
    """Write F after sweeps of coordinate descent on given (C, G) to out: the step of the small factor.

    C (r × k) is float64. FtF (k × k, zeros) becomes outᵀ·out, stats[CROSS] += ⟨C, out⟩ and stats[SQUARE] += ⟨G, FtF⟩,
    which are what the loss needs. `conjugate` has no effect: there are no kernels of conjugate gradients.
    """
    of_stats = _sweep("sweep_given", F, C, G, (l1, l2), order, sweeps, 0.0, delta, out)
    _step_done(None, out, None, None, FtF, None, of_stats, stats)
    if FtF.shape[0]:
        _square(G, FtF, stats)


def _square(G: Array, FtF: Array, stats: Array) -> None:
    """Write ⟨G, FtF⟩ to stats[SQUARE]."""
    _collect([G, None, FtF, _i64(G.size), _ONE], [1], stats[SQUARE : SQUARE + 1])


@repeatable
def step_ahead(
    Ht: Array, before: Array, pace: Pace | Array, sums: Weighed, earlier: Weighed, l1: float, l2: float,
    order: Array, sweeps: int, delta: float, conjugate: int,
) -> Ahead:  # fmt: skip
    """Step over the small factor from Ht as sums of rows weigh it, and extrapolate the result; see `Backend`."""
    (m, k), small = Ht.shape, Ht.shape[1] ** 2
    XtZ, ZtZ, plan = scratch((m, k)), scratch((k, k)), _plan_mixed(m * k, small, cuda.current())
    assert sums.WtD is not None
    given, now = (None, map(np.float64, pace)) if type(pace) is Pace else (pace, _NO_PACE)
    reached = empty(len(Pace._fields))
    _run(
        plan.kernel, plan.grid,
        (sums.XtW, earlier.XtW, plan.numbers[0], sums.WtW, earlier.WtW, sums.WtD[k:], plan.numbers[1], given, *now,
         reached, XtZ, ZtZ),
    )  # fmt: skip
    step, made, sums_H = empty((m, k), Ht.dtype), empty((3, m, k), Ht.dtype), zeros(2 * small + STATS)
    HHt, stats, next_Ht = sums_H[: 2 * small].reshape(2, k, k), sums_H[2 * small :], made[0]
    of_stats = _sweep(
        "sweep_given",
        Ht,
        XtZ,
        ZtZ,
        (l1, l2),
        order,
        sweeps,
        0.0,
        delta,
        step,
        (before, None, 0.0, reached),
        made,
        sums.XtW,
    )
    _, of_grams = _sum_over_rows(None, Ht, ((next_Ht, next_Ht), (made[1], made[2])))
    _finish(None, None, of_grams, HHt, None, of_stats, stats)
    of_P = HHt[0]
    return Ahead(
        step, next_Ht, of_P, stats, (stats[SQUARE, ...], Inner(HHt[1], sums.WtW)),
        (sums.WtW.diagonal(), of_P.diagonal()), reached,
    )  # fmt: skip


@functools.lru_cache(maxsize=64)
def _plan_mixed(length: int, small: int, device: int) -> _Plan:
    grid = (-(-(length + small) // THREADS),)
    kernel = _kernel("ROWS", "mixed", _FLOAT32, _FLOAT32)
    return _Plan(_allowed(kernel, grid), grid, (_i64(length), _i32(small)))


# ---- multiplicative updates ------------------------------------------------------------------------------------------


def _multiply(
    name: str, F: Array, N: Array, D: Array | None, G: Array | None, l1: float, l2: float, gamma: float, floor: float,
    out: Array,
) -> _Parts | None:  # fmt: skip
    """Queue a multiplicative step of F → the parts of its stats; D of no rows is F·G, see the kernel."""
    (n, k), dtype = F.shape, F.dtype
    if n == 0:
        return None
    plan = _plan_multiply(name, n, k, dtype, G is None, l1, l2, gamma, floor, cuda.current())
    parts = scratch(plan.shape)
    _run(
        plan.kernel,
        plan.grid,
        (F, N, D, _i64(0 if D is None else D.shape[0]), G, *plan.numbers, out, parts),
        plan.shared,
    )
    return _Parts(parts, plan.shape[1], plan.shape[0])


class _MultiplyPlan(NamedTuple):
    """How a multiplicative step is launched."""

    kernel: Any
    grid: tuple[int, ...]
    numbers: tuple[Any, ...]
    shape: tuple[int, int]  # of the parts of the stats
    shared: int


@functools.lru_cache(maxsize=256)
def _plan_multiply(
    name: str, n: int, k: int, dtype: np.dtype, given: bool, l1: float, l2: float, gamma: float, floor: float,
    device: int,
) -> _MultiplyPlan:  # fmt: skip
    grid, shared = (-(-n // CHUNK),), 8 * THREADS
    kernel = _allowed(_kernel("ROWS", name, dtype, dtype), grid, shared)
    numbers = (
        _i64(n), _i32(k), _real(dtype, l1), _real(dtype, l2), _real(_FLOAT64, gamma), _real(dtype, floor), _i32(CHUNK),
        _i32(plan_across(k)),
    )  # fmt: skip
    return _MultiplyPlan(kernel, grid, numbers, (grid[0], STATS + (3 * k if given else 0)), shared)


def _times_gram(F: Array, G: Array) -> Array:
    not_repeatable()  # CuPy converts G
    out = cuda.cupy().empty(F.shape, F.dtype)
    products(_as_block(F), G.astype(F.dtype), out)
    return out


@repeatable
def multiply(
    block: Block, F: Array, Ht: Array, G: Array, l1: float, l2: float, out: Array, XtF: Array, FtF: Array, stats: Array
) -> None:
    """Write F ⊙ X·Ht / (F·G + l1 + l2·F), the multiplicative update for β = 2, to out, and add up the sums.

    XtF += Xᵀ·out (dense X only) and FtF += outᵀ·out; those of no rows are left out.
    """
    C = scratch((block.rows, Ht.shape[1]), Ht.dtype)
    products(block, Ht, C)
    D = _times_gram(F, G) if F.shape[1] > FORMED else None
    of_stats = _multiply("multiply", F, C, D, G, l1, l2, 1.0, 0.0, out)
    _step_done(block, out, None, XtF, FtF, None, of_stats, stats)


@repeatable
def scale(F: Array, G: Array, C: Array, l1: float, l2: float, out: Array, FtF: Array, stats: Array) -> None:
    """Write F ⊙ C / (F·G + l1 + l2·F) to out: the multiplicative step of the small factor; sums as in `sweep`."""
    D = _times_gram(F, G).astype(np.float64) if F.shape[1] > FORMED else None
    of_stats = _multiply("multiply_given", F, C, D, G, l1, l2, 1.0, 0.0, out)
    _step_done(None, out, None, None, FtF, None, of_stats, stats)
    if FtF.shape[0]:
        _square(G, FtF, stats)


def multiply_given(
    F: Array, N: Array, D: Array, l1: float, l2: float, gamma: float, floor: float, out: Array, stats: Array
) -> None:
    """Write F ⊙ (N / (D + l1 + l2·F))^γ for given N and D (float64; D of one row serves all) to out."""
    xp, k = cuda.cupy(), F.shape[1]
    of_stats = _multiply(
        "multiply_given",
        F,
        N if N.flags.c_contiguous else xp.ascontiguousarray(N),
        D if D.flags.c_contiguous else xp.ascontiguousarray(D),
        None,
        l1,
        l2,
        gamma,
        floor,
        out,
    )
    if of_stats:
        _finish(of_stats=of_stats, stats=stats, columns=xp.empty(k))


def weighted(block: Block, F: Array, by_column: bool = False) -> Array:
    """Return the rows F of a block, or F with a row for each of its columns, as they count in sums: as they are."""
    return F


def column_sums(F: Array) -> Array:
    """Return Σ_i F[i, :], k numbers, in float64. CuPy's sum over rows keeps two blocks of threads busy."""
    xp, (n, k) = cuda.cupy(), F.shape
    sums = xp.zeros(k)
    blocks = -(-n // CHUNK)
    if blocks:
        parts = xp.empty((blocks, k))
        kernel = _kernel("ROWS", "column_sums", F.dtype, F.dtype)
        _launch(kernel, (blocks,), F, _i64(n), _i32(k), _i32(CHUNK), _i32(plan_across(k)), parts)
        _finish(of_X=_Parts(parts, k, blocks), XtF=sums)
    return sums


def multiply_beta(
    block: Block,
    F: Array,
    Ht: Array,
    beta: float,
    gamma: float,
    l1: float,
    l2: float,
    floor: float,
    update: bool,
    measure: bool,
    out: Array,
    N: Array,
    D: Array,
    stats: Array,
) -> Array:
    """Update F multiplicatively for β ≠ 2, add up the sums of the update of Ht, and return the loss (0-d).

    out = F ⊙ (N_F / (D_F + l1 + l2·F))^γ, entries below `floor` set to 0; without `update` F stays as it is. Then, for
    dense X, N += (X ⊙ WH^(β−2))ᵀ·F and D += (WH^(β−1))ᵀ·F with the new F (β = 1: D[0] += its column sums); N of no
    rows is left out. The loss is Σ D_β at the given F where `measure` is set, else 0.
    """
    xp, n, m, k = cuda.cupy(), block.rows, block.columns, Ht.shape[1]
    if block.indptr is not None and beta != 1:
        raise sparse_beta(beta)
    losses, of_stats, sums_F = xp.empty(n) if measure else None, None, None
    if update or measure:
        num = xp.empty((n, k), F.dtype) if update else None
        if block.indptr is not None:
            _sparse_ratios(block, F, Ht, update, num, losses)
            den = column_sums(Ht).astype(F.dtype).reshape(1, k) if update else None
        else:
            den = xp.empty((1 if beta == 1 else n, k), F.dtype) if update else None
            _beta_rows(block, F, Ht, beta, update, num, den, losses)
        if update:
            of_stats = _multiply("multiply", F, num, den, None, l1, l2, gamma, floor, out)
            F = out
    if not (N.shape[0] and block.indptr is None):
        if of_stats:
            _finish(of_stats=of_stats, stats=stats, columns=xp.empty(k))
    else:
        X = block.X
        plan = _plan_beta_columns(n, m, k, beta, _leading(X), X.dtype, F.dtype, cuda.current())
        count = plan.grid[2]
        parts, below = xp.empty((count, m, k)), xp.empty((count, m, k)) if beta != 1 else None
        _run(plan.kernel, plan.grid, (X, plan.numbers[0], F, Ht, *plan.numbers[1], parts, below))
        if beta == 1:
            sums_F = D[0] if of_stats else None
            if not of_stats:
                D[0] += column_sums(F)
        _finish(
            _Parts(parts, m * k, count), N, _Parts(below, m * k, count) if below is not None else None,
            None if below is None else D, None, of_stats, stats, xp.empty(k) if of_stats and sums_F is None else sums_F,
        )  # fmt: skip
    return _total(losses) if losses is not None else _NOTHING


def sparse_beta(beta: float) -> Exception:
    """Return the error for a sparse X and a β that the kernels do not have."""
    return NotImplementedError(
        f"beta_loss = {beta:g} with a sparse X is not there on the GPU; beta_loss 'frobenius' and 'kullback-leibler' "
        "are: take one of these, device='cpu', or a dense X."
    )


def _beta_rows(
    block: Block,
    F: Array,
    Ht: Array,
    beta: float,
    update: bool,
    num: Array | None,
    den: Array | None,
    losses: Array | None,
) -> None:
    n, m, k, X = block.rows, block.columns, Ht.shape[1], block.X
    if n:
        plan = _plan_beta_rows(n, m, k, beta, update, _leading(X), X.dtype, F.dtype, cuda.current())
        _run(plan.kernel, plan.grid, (X, plan.numbers[0], F, Ht, *plan.numbers[1], num, den, losses))


@functools.lru_cache(maxsize=64)
def _plan_beta_rows(
    n: int, m: int, k: int, beta: float, update: bool, ld: int, stored: np.dtype, compute: np.dtype, device: int
) -> _Plan:
    width = min(tile_width(k), 256 // compute.itemsize)
    grid = (-(-n // HEIGHT), -(-k // width) if update else 1)
    kernel = _allowed(_kernel("BETA", "beta_rows", stored, compute, KT=width), grid)
    return _Plan(kernel, grid, (_i64(ld), (_i64(n), _i64(m), _i32(k), _real(_FLOAT64, beta), _i32(int(update)))))


@functools.lru_cache(maxsize=64)
def _plan_beta_columns(
    n: int, m: int, k: int, beta: float, ld: int, stored: np.dtype, compute: np.dtype, device: int
) -> _Plan:
    width = min(tile_width(k), 256 // compute.itemsize)
    chunk, count = plan_chunks(n, m, k, WIDTH, BLOCKS // 2)  # two of these blocks have room on a processor
    grid = (-(-m // WIDTH), -(-k // width), count)
    kernel = _allowed(_kernel("BETA", "beta_columns", stored, compute, KT=width), grid)
    return _Plan(kernel, grid, (_i64(ld), (_i64(n), _i64(m), _i32(k), _real(_FLOAT64, beta), _i64(chunk))))


def _sparse_ratios(block: Block, F: Array, Ht: Array, update: bool, out: Array | None, losses: Array | None) -> None:
    n, k = block.rows, Ht.shape[1]
    wide = next((w for w in (1, 2, 4, 8, 16, 32) if k <= 32 * w), 0)
    if not wide:
        msg = f"n_components = {k} is more than the GPU's sparse kernels hold in registers (1024): use device='cpu'."
        raise ValueError(msg)
    sum_H = column_sums(Ht)
    kernel = _kernel("SPARSE", "sparse_ratios", block.X.dtype, F.dtype, KC=wide)
    _launch(
        kernel, (-(-n // (THREADS // 32)),), block.X, block.indptr, block.indices, F, Ht, sum_H, _i64(n),
        _i32(k), _i32(int(update)), out, losses,
    )  # fmt: skip


def kl_numerators(block: Block, F: Array, Ht: Array, out: Array) -> None:
    """Write (X ⊘ F·Htᵀ)·Ht over the stored numbers of CSR rows to out: with Xᵀ, the sums of the KL update of H."""
    _sparse_ratios(block, F, Ht, True, out, None)


# ---- losses, and rows alone ------------------------------------------------------------------------------------------


def _row_losses(block: Block, F: Array, Ht: Array, beta: float) -> Array:
    """Return D_β of each row in float64. CSR: for β = 1 and 2 only, and for 2 in the trace form."""
    xp, n = cuda.cupy(), block.rows
    losses = xp.zeros(n)
    if block.indptr is None and beta == 2:
        X, k = block.X, Ht.shape[1]
        kernel = _kernel("SQUARES", "squared_errors", X.dtype, F.dtype)
        _launch(kernel, (-(-n // HEIGHT),), X, _i64(_leading(X)), F, Ht, _i64(n), _i64(block.columns), _i32(k), losses)
    elif block.indptr is None:
        _beta_rows(block, F, Ht, beta, False, None, None, losses)
    elif beta == 1:
        _sparse_ratios(block, F, Ht, False, None, losses)
    elif beta == 2:
        C = xp.empty((n, Ht.shape[1]), Ht.dtype)
        products(block, Ht, C)
        kernel = _kernel("SPARSE", "sparse_squares", block.X.dtype, F.dtype)
        _launch(kernel, (-(-n // (THREADS // 32)),), block.X, block.indptr, _i64(n), losses)
        of_rows = (F.astype(np.float64) * (_times_gram(F, gram(Ht)).astype(np.float64) - 2.0 * C)).sum(axis=1)
        losses = 0.5 * (losses + of_rows)
    else:
        raise sparse_beta(beta)
    return losses


def divergence(block: Block, F: Array, Ht: Array, beta: float) -> Array:
    """Return Σ D_β(x | f·Htᵀ) over the block, in float64 (0-d)."""
    return _total(_row_losses(block, F, Ht, beta))


def _total(losses: Array) -> Array:
    """Return the sum of losses of rows (0-d). CuPy's takes 2 s to compile, and depends on the card."""
    total = cuda.cupy().zeros(1)
    for lo in range(0, losses.size, MOST_PARTS):
        part = losses[lo : lo + MOST_PARTS]
        _finish(of_stats=_Parts(part, 1, part.size), stats=total)
    return total[0, ...]


def worst_rows(block: Block, F: Array, Ht: Array, worst: Array) -> None:
    """Enter the rows of a block with the largest losses ½‖x − f·Htᵀ‖² into the table `worst`; waits for the device.

    worst (q × (1 + m), float64) has a line for each of the worst rows so far: its loss, then max(0, x − f·Htᵀ). The
    largest comes first, the lower row of equals before the other; a line with loss 0 is free.
    """
    xp = cuda.cupy()
    losses, places = to_numpy(_row_losses(block, F, Ht, 2.0)), to_numpy(worst)
    chosen = largest(losses, places)
    found = np.zeros((len(chosen), 1 + block.columns))
    one = xp.ones((1, 1), F.dtype)
    for to, i in zip(found, chosen.tolist(), strict=True):
        row = xp.zeros((block.columns, 1))
        x = row[:, 0]
        if block.indptr is None:
            add_products(Block(block.X[i : i + 1], 1, block.columns), one, row)
        else:
            first, last = (int(bound) for bound in to_numpy(block.indptr[i : i + 2]))
            x[block.indices[first:last]] = block.X[first:last].astype(np.float64)
        residual = x - (Ht.astype(np.float64) * F[i].astype(np.float64)).sum(axis=1)
        to[0], to[1:] = losses[i], to_numpy(xp.maximum(residual, 0.0))
    worst[:] = xp.asarray(merge_worst(places, found))


def code(
    block: Block,
    Ht: Array,
    beta: float,
    gamma: float,
    l1: float,
    l2: float,
    floor: float,
    tol: float,
    max_iter: int,
    by_step: bool,
    out: Array,
    stats: Array,
) -> None:
    """Write the multiplicative code of each row to out, with H fixed, each row until it has settled.

    A row has settled when √(2·D_β), measured every ten iterations, falls by less than tol × its first value. The rule
    of `by_step` is not there.
    """
    if by_step:
        raise NotImplementedError("rows of a mini-batch are not solved for on the GPU: use device='cpu'.")
    if block.indptr is not None and beta not in (1, 2):
        raise sparse_beta(beta)
    xp, n, m, k, c = cuda.cupy(), block.rows, block.columns, Ht.shape[1], Ht.dtype.type
    if n == 0:
        return
    C = xp.empty((n, k) if beta == 2 else (0, k), Ht.dtype)
    if beta == 2:
        products(block, Ht, C)
    G, sum_H = gram(Ht) if beta == 2 else None, column_sums(Ht)
    length = 1 if beta == 2 else m
    blocks = min(n, CODERS, max(1, (1 << 30) // (2 * length * Ht.itemsize)))
    scratch, parts = xp.empty((blocks, 2, length), Ht.dtype), xp.empty((blocks, STATS))
    X, ld = block.X, 0 if block.indptr is not None else _leading(block.X)
    kernel = _kernel("CODE", "code_rows", X.dtype, Ht.dtype)
    _launch(
        kernel, (blocks,), X, _i64(ld), block.indptr, block.indices, Ht, C if beta == 2 else None, G, sum_H,
        _i64(n), _i64(m), _i32(k), np.float64(beta), np.float64(gamma), c(l1), c(l2), c(floor), np.float64(tol),
        _i32(max_iter), _i32(plan_across(k)), _i64(length), scratch, out, parts,
        shared=8 * THREADS + 3 * k * Ht.itemsize,
    )  # fmt: skip
    _finish(of_stats=_Parts(parts, STATS, blocks), stats=stats)


# ---- cosine search ---------------------------------------------------------------------------------------------------


def squares(block: Block, out: Array) -> None:
    """Write ‖x_i‖² of each row to out, in float64."""
    if block.indptr is not None:
        kernel = _kernel("SPARSE", "sparse_squares", block.X.dtype, np.dtype(np.float64), KC=1)
        _launch(kernel, (-(-block.rows // (THREADS // 32)),), block.X, block.indptr, _i64(block.rows), out)
        return
    step = max(1, PARTS_BYTES // (8 * max(block.columns, 1)))
    for lo in range(0, block.rows, step):
        part = block.X[lo : lo + step].astype(np.float64)
        out[lo : lo + step] = (part * part).sum(axis=1)


def plan_runs(q: int, n: int, k: int, width: int) -> tuple[int, int]:
    """Return the rows per run of the database and the number of runs: enough to fill a device, each with its heaps."""
    blocks = -(-q // (THREADS * (2 if width <= 16 else 1)))
    runs = max(1, min(-(-2 * BLOCKS // blocks), -(-n // 1024), PARTS_BYTES // (16 * max(q * k, 1)), GRID_YZ))
    chunk = max(1, -(-n // runs))
    return chunk, max(1, -(-n // chunk))


def nearest(
    block: Block, of_rows: Array, queries: Array, of_queries: Array, k: int, sign: float, floor: float, margin: float,
    allowed: Array | None, excluded: Array, dtype: DType,
) -> tuple[Array, Array]:  # fmt: skip
    """Return the best k rows of a block by sign·cosine: scores q × k in float64 and row numbers, as `cosine_topk`.

    of_rows, of_queries: squares of the norms; queries q × m in float64; excluded q × e; dtype: of approximate scores.
    """
    xp, (q, m), n = cuda.cupy(), queries.shape, block.rows
    dtype, e = np.dtype(dtype), _i32(excluded.shape[1])
    limits = (np.float64(sign), np.float64(floor), np.float64(margin))
    fused = block.indptr is None and m <= 64
    width = tile_width(m)
    chunk, runs = plan_runs(q, n, k, width) if fused else (n, 1)
    best, found = xp.empty((runs, q, k)), xp.empty((runs, q, k), np.int64)
    counts = xp.zeros((runs, q), np.int32)
    if fused:
        kernel = _kernel("NEAREST", "nearest", block.X.dtype, dtype, KT=width)
        grid = (-(-q // (THREADS * (2 if width <= 16 else 1))), runs)
        _launch(kernel, grid, block.X, _i64(_leading(block.X)), of_rows, _i64(n), _i64(m), _i64(chunk), queries,
                of_queries, _i32(q), _i32(k), *limits, allowed, excluded, e, best, found, counts)  # fmt: skip
    else:
        _select(block, of_rows, queries, of_queries, limits, allowed, excluded, dtype, best[0], found[0], counts[0])
    scores, rows = xp.empty((q, k)), xp.empty((q, k), np.int64)
    kernel = _kernel("MERGE", "merge_best", np.dtype(np.float32), np.dtype(np.float32))
    _launch(kernel, (-(-q // THREADS),), best, found, counts, _i32(q), _i32(k), _i32(runs), limits[0], scores, rows)
    return scores, rows


def _select(
    block: Block, of_rows: Array, queries: Array, of_queries: Array,
    limits: tuple[np.float64, np.float64, np.float64], allowed: Array | None, excluded: Array,
    dtype: np.dtype, best: Array, found: Array, counts: Array,
) -> None:  # fmt: skip
    """Find the best rows of a block whose rows are wide or sparse, for `nearest`, into heaps.

    Approximate scores are products of the block with panels of unit queries; those that may be among the best are
    computed again in float64. limits: sign, floor and margin; best and found (q × k), counts (q): the heaps.
    """
    xp, (q, m), n, k = cuda.cupy(), queries.shape, block.rows, best.shape[1]
    sparse, panel = block.indptr is not None, min(q, 1024)
    step = max(1, PARTS_BYTES // (dtype.itemsize * max(panel, 1)))
    norms = xp.sqrt(of_queries)
    scales = limits[0] / xp.where(norms > 0, norms, np.inf)
    for j0 in range(0, q, panel):
        j1 = min(j0 + panel, q)
        own = queries[j0:j1]
        Qt = xp.ascontiguousarray((own * scales[j0:j1, None]).astype(dtype).T)
        for lo in range(0, n, step):
            hi = min(lo + step, n)
            if sparse:
                part = block._replace(rows=hi - lo, indptr=block.indptr[lo : hi + 1])
            else:
                part = block._replace(rows=hi - lo, X=block.X[lo:hi])
            approximate = xp.empty((hi - lo, j1 - j0), dtype)
            products(part, Qt, approximate)
            ld, kernel = 0 if sparse else _leading(part.X), _kernel("SELECT", "select_rows", block.X.dtype, dtype)
            _launch(kernel, (-(-(j1 - j0) // THREADS),), part.X, _i64(ld), part.indptr, part.indices, approximate,
                    of_rows[lo:hi], _i64(hi - lo), _i64(m), _i64(lo), own, of_queries[j0:j1], _i32(j1 - j0),
                    _i32(j1 - j0), _i32(k), *limits, allowed, excluded[j0:j1], _i32(excluded.shape[1]),
                    best[j0:j1], found[j0:j1], counts[j0:j1])  # fmt: skip


def numbers(block: Block) -> Array:
    """Return the stored numbers of a block: r × m, of CSR rows one after another."""
    if block.indptr is None:
        return block.X
    first, last = (int(block.indptr[at]) for at in (0, -1))
    return block.X[first:last]


def add_gram(block: Block, dtype: np.dtype, XtX: Array) -> None:
    """Add XᵀX of a dense block, which is converted to the compute type as a whole, to XtX (m × m, float64)."""
    add_products(block, block.X.astype(dtype), XtX)
