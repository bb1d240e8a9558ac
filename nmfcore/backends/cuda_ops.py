"""The CUDA backend: the operations of `Backend` on arrays that lie on a device.

A block holds arrays instead of addresses. Everything is queued on the current stream, in order; only `read`, `to_numpy`
and `worst_rows` wait for the device.

Kernels are compiled family by family, for the types and the width that a fit needs, and CuPy keeps them on disk. How a
launch is cut (`plan_…`) depends on shapes only, not on the device, so the sums of kernels have the same bits on every
card of one architecture. Sums that CuPy makes do not: it cuts `inner`, and `sum` of an array, by the number of the
card's multiprocessors. The loss that hals and mu decide by contains such sums. On cards of two kinds a pass may
therefore be accepted, or a fit may stop, at another iteration where two losses are equal to rounding.
"""

from __future__ import annotations

import functools
import math
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import cuda
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
    Beginning,
    largest,
    merge_worst,
)

if TYPE_CHECKING:
    from types import ModuleType

    from .._typing import DType, Matrix

__all__ = [
    "CROSS", "KKT", "SQUARE", "STATS", "SWEEPS", "TOTAL", "UNSETTLED", "VIOLATION", "Beginning", "Block",
    "add_gram", "add_products", "asarray", "code", "cut", "descend", "divergence", "gram", "inner", "kl_numerators",
    "multiply", "multiply_beta", "multiply_given", "nearest", "numbers", "opening", "products", "read", "scale",
    "sparse_beta", "squares", "stored_as_is", "sweep", "to_numpy", "worst_rows", "xp",
]  # fmt: skip

Array = Any  # cupy.ndarray

THREADS = 128
ROWS, COLUMNS, DEPTH = 64, 64, 32  # of the tiles of a product; see the kernels
HEIGHT, WIDTH = 32, 32  # of the tiles of WH
BLOCKS = 528  # least blocks of a launch: four for each multiprocessor of an H100 or H200
RESIDENT = {32: 528, 64: 396}  # blocks at once of the tensor kernels, by their width: see BLOCKS_AT_ONCE there
TENSOR_FROM = 25  # components from which on arithmetic, not memory, limits the speed of products
PARTS_BYTES = 64 << 20  # most memory for partial sums
CHUNK = 256  # rows of a block of `multiply`
CODERS = 2048  # blocks of `code_rows`
SHARED = 48 << 10  # shared memory of a block by default
SHARED_MOST = 98 << 10  # shared memory that a block may have on every processor from sm_80 on
GRID_X, GRID_YZ = 2**31 - 1, 65535

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


def read(*arrays: Array | np.generic) -> list[Any]:
    """Return the numbers of arrays as Python lists (of 0-d arrays: numbers), all in one transfer."""
    xp = cuda.cupy()
    flat = xp.concatenate([xp.asarray(a).astype(np.float64).reshape(-1) for a in arrays]) if arrays else None
    numbers = [] if flat is None else xp.asnumpy(flat).tolist()
    out, at = [], 0
    for a in arrays:
        size = math.prod(a.shape)
        out.append(numbers[at] if a.ndim == 0 else np.reshape(numbers[at : at + size], a.shape).tolist())
        at += size
    return out


def inner(A: Array, B: Array) -> Array:
    """Return ⟨A, B⟩ in float64 (0-d)."""
    return (A.astype(np.float64) * B).sum()


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


@functools.cache
def _module(families: tuple[str, ...], defines: tuple[str, ...], device: int) -> Any:
    options = ("-std=c++17", *(f"-DFAMILY_{family}" for family in families), *defines)
    source = _source("cuda_tensor.cu") if families == ("TENSOR",) else _source()
    return cuda.cupy().RawModule(code=source, options=options)


@functools.cache
def _has_tf32(device: int) -> bool:
    return int(cuda.cupy().cuda.Device(device).compute_capability) >= 80


def _on_tensor_cores(X: Array, F: Array) -> bool:
    """Return whether products of dense X with a factor of F's width are computed by cuda_tensor.cu."""
    return (
        F.shape[1] >= TENSOR_FROM
        and F.dtype == np.float32
        and X.dtype.itemsize < 8
        and _has_tf32(cuda.cupy().cuda.Device().id)
    )


def _kernel(family: str, name: str, stored: np.dtype, compute: np.dtype, **sizes: int) -> Any:
    """Return a compiled kernel for X stored in one type and computed with in another."""
    defines = [
        f"-DXT={_ctype(stored)}",
        f"-DFT={_ctype(compute)}",
        *(f"-D{key}={value}" for key, value in sizes.items()),
    ]
    if stored.name == "float16":
        defines.append("-DX_HALF")
    return _module((family,), tuple(defines), cuda.cupy().cuda.Device().id).get_function(name)


def _ctype(dtype: np.dtype) -> str:
    name = STORED_TYPES[dtype].in_cuda
    assert name is not None  # X of another type is converted before it reaches a kernel
    return name


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: Array | np.generic | None, shared: int = 0) -> None:
    """Queue a kernel of THREADS threads a block; arguments are arrays, None, or numpy scalars of the exact types."""
    if min(grid) < 1:
        return
    if grid[0] > GRID_X or any(size > GRID_YZ for size in grid[1:]):
        msg = f"a launch of {grid} blocks is more than a grid may have; give X in smaller blocks."
        raise ValueError(msg)
    if shared > SHARED:
        kernel.max_dynamic_shared_size_bytes = shared
    kernel(grid, (THREADS, 1, 1), arguments, shared_mem=shared)


def _i32(value: int) -> np.int32:
    return np.int32(value)


def _i64(value: int) -> np.int64:
    return np.int64(value)


def tile_width(k: int) -> int:
    """Return the columns of a product's tile (KT): the least of 8, 16, 32, 64 that holds k, or 64 for wider factors."""
    return next((width for width in (8, 16, 32) if k <= width), 64)


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


def plan_across(k: int) -> int:
    """Return the threads side by side in a row of `multiply`: a power of two."""
    across = 1
    while across < min(k, THREADS):
        across *= 2
    return across


# ---- products --------------------------------------------------------------------------------------------------------


def _add_parts(parts: Array, out: Array, length: int, count: int) -> None:
    """Add `count` parts of `length` numbers to out, in their order."""
    kernel = _kernel("ROWS", "add_parts", np.dtype(np.float32), np.dtype(np.float32))
    _launch(kernel, (-(-length // THREADS),), parts, _i64(length), _i32(count), out)


def _add_stats(parts: Array, stats: Array, length: int, count: int) -> None:
    kernel = _kernel("ROWS", "add_stats", np.dtype(np.float32), np.dtype(np.float32))
    _launch(kernel, (length,), parts, _i32(length), _i32(count), stats)


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
    kernel = _kernel("ROWS", "opening", X.dtype, compute)
    _launch(kernel, (count,), X, _i64(ld), _i64(rows), _i64(columns), _i64(chunk), parts)
    return xp.concatenate([parts[:, 0].min().reshape(1), parts[:, 1:].sum(axis=0)])


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
    width = tile_width(k)
    family, name = ("TENSOR", "products_tensor") if _on_tensor_cores(X, Ht) else ("PRODUCTS", "products")
    kernel = _kernel(family, name, X.dtype, Ht.dtype, KT=width)
    grid = (-(-n // ROWS), -(-k // width))
    _launch(kernel, grid, X, _i64(_leading(X)), Ht, _i64(n), _i64(m), _i32(k), out)


def add_products(block: Block, F: Array, XtF: Array, exact: bool = False) -> None:
    """Add Xᵀ·F to XtF (m × k, float64), for dense X; of sparse X the transpose is kept. `exact` avoids tensor cores."""
    n, m, k, X = block.rows, block.columns, F.shape[1], block.X
    if n == 0 or m == 0:
        return
    width, family, name, resident = tile_width(k), "PRODUCTS", "add_products", 0
    if not exact and _on_tensor_cores(X, F):
        family, name, resident = "TENSOR", "add_products_tensor", RESIDENT[width]
    chunk, count = plan_chunks(n, m, k, resident=resident)
    parts = cuda.cupy().empty((count, m, k))
    kernel = _kernel(family, name, X.dtype, F.dtype, KT=width)
    grid = (-(-m // COLUMNS), -(-k // width), count)
    _launch(kernel, grid, X, _i64(_leading(X)), F, _i64(n), _i64(m), _i32(k), _i64(chunk), parts)
    _add_parts(parts, XtF, m * k, count)


def _as_block(F: Array) -> Block:
    return Block(F, *F.shape)


def _add_gram(F: Array, B: Array, FtB: Array) -> None:
    """Add Fᵀ·B to FtB (k × k, float64), not on tensor cores: losses depend on it."""
    add_products(_as_block(F), B, FtB, exact=True)


def gram(F: Array, B: Array | None = None) -> Array:
    """Return FᵀF, or FᵀB for a B of the same shape and type (k × k), in float64; blockwise products in F's type."""
    FtF = cuda.cupy().zeros((F.shape[1], F.shape[1]))
    _add_gram(F, F if B is None else B, FtF)
    return FtF


# ---- coordinate descent ----------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def _natural_order(k: int, device: int) -> Array:
    made = cuda.cupy().arange(k, dtype=np.int32)
    cuda.cupy().cuda.get_current_stream().synchronize()  # other streams use it too, and wait for nothing
    return made


def _order(order: Array) -> Array:
    """Return the order of components on the device; the natural one is kept there."""
    k = len(order)
    if k < 2 or (order[0] == 0 and order[-1] == k - 1 and bool(np.all(order[1:] > order[:-1]))):
        return _natural_order(k, cuda.cupy().cuda.Device().id)
    return cuda.cupy().asarray(np.asarray(order, dtype=np.int32))


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
    stats: Array,
) -> None:
    n, k, c = F.shape[0], F.shape[1], F.dtype.type
    l1, l2 = penalty
    each, lanes, shared, held = plan_sweep(k, F.itemsize)
    kernel = _kernel("SWEEP", name, F.dtype, F.dtype, KL=each, L=lanes, SHARED_G=int(shared))
    blocks = -(-n * lanes // THREADS)
    parts, places, arranged = cuda.cupy().empty((blocks, STATS)), _order(order), None
    if not shared:
        width = each * lanes
        arranged = cuda.cupy().empty((width, width), F.dtype)
        arrange = _kernel("SWEEP", "arrange", F.dtype, F.dtype, KL=each, L=lanes, SHARED_G=0)
        _launch(arrange, (-(-width * width // THREADS),), G, places, _i32(k), c(l2), arranged)
    _launch(
        kernel, (blocks,), F, C, G, places, _i64(n), _i32(k), c(l1), c(l2), _i32(sweeps), np.float64(tol),
        c(delta), out, parts, arranged, shared=held,
    )  # fmt: skip
    if blocks:
        _add_stats(parts, stats, STATS, blocks)


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
    xp = cuda.cupy()
    C = xp.empty((block.rows, Ht.shape[1]), Ht.dtype)
    products(block, Ht, C)
    start, B = F, None
    if begin is not None and len(begin.scale):
        k = F.shape[1]
        start, B = xp.empty_like(F), xp.empty_like(F)
        kernel = _kernel("ROWS", "extrapolate", F.dtype, F.dtype)
        _launch(
            kernel, (-(-F.size // THREADS),), F, begin.before, asarray(begin.scale), F.dtype.type(begin.weight),
            _i64(F.shape[0]), _i32(k), B, start,
        )  # fmt: skip
    _sweep("sweep", start, C, G, (l1, l2), order, sweeps, tol, delta, out, stats)
    if XtF.shape[0] and block.indptr is None:
        add_products(block, out, XtF)
    if FtF.shape[0]:
        _add_gram(out, out, FtF)
    if B is not None and begin is not None and begin.FtD.shape[0]:
        k, D = F.shape[1], out - B
        stats[CROSS] += inner(C, D) - l1 * D.sum(dtype=np.float64)
        _add_gram(out, D, begin.FtD[:k])
        _add_gram(D, D, begin.FtD[k:])


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
    _sweep("sweep_given", F, C, G, (l1, l2), order, sweeps, 0.0, delta, out, stats)
    _add_gram(out, out, FtF)
    stats[SQUARE] += inner(G, FtF)


# ---- multiplicative updates ------------------------------------------------------------------------------------------


def _multiply(
    name: str, F: Array, N: Array, D: Array, hess: Array | None, l1: float, l2: float, gamma: float, floor: float,
    out: Array, stats: Array,
) -> None:  # fmt: skip
    n, k, c = F.shape[0], F.shape[1], F.dtype.type
    if n == 0:
        return
    blocks = -(-n // CHUNK)
    parts = cuda.cupy().empty((blocks, STATS + 2 * k))
    kernel = _kernel("ROWS", name, F.dtype, F.dtype)
    _launch(
        kernel, (blocks,), F, N, D, _i64(D.shape[0]), hess, _i64(n), _i32(k), c(l1), c(l2), np.float64(gamma), c(floor),
        _i32(CHUNK), _i32(plan_across(k)), out, parts, shared=8 * THREADS,
    )  # fmt: skip
    _add_stats(parts, stats, STATS + 2 * k, blocks)


def _diagonal(G: Array, l2: float) -> Array:
    return cuda.cupy().ascontiguousarray(cuda.cupy().diagonal(G)) + l2


def _times_gram(F: Array, G: Array) -> Array:
    out = cuda.cupy().empty_like(F)
    products(_as_block(F), G.astype(F.dtype), out)
    return out


def multiply(
    block: Block, F: Array, Ht: Array, G: Array, l1: float, l2: float, out: Array, XtF: Array, FtF: Array, stats: Array
) -> None:
    """Write F ⊙ X·Ht / (F·G + l1 + l2·F), the multiplicative update for β = 2, to out, and add up the sums.

    XtF += Xᵀ·out (dense X only) and FtF += outᵀ·out; those of no rows are left out.
    """
    C = cuda.cupy().empty((block.rows, Ht.shape[1]), Ht.dtype)
    products(block, Ht, C)
    _multiply("multiply", F, C, _times_gram(F, G), _diagonal(G, l2), l1, l2, 1.0, 0.0, out, stats)
    if XtF.shape[0] and block.indptr is None:
        add_products(block, out, XtF)
    if FtF.shape[0]:
        _add_gram(out, out, FtF)


def scale(F: Array, G: Array, C: Array, l1: float, l2: float, out: Array, FtF: Array, stats: Array) -> None:
    """Write F ⊙ C / (F·G + l1 + l2·F) to out: the multiplicative step of the small factor; sums as in `sweep`."""
    D = _times_gram(F, G).astype(np.float64)
    _multiply("multiply_given", F, C, D, _diagonal(G, l2), l1, l2, 1.0, 0.0, out, stats)
    _add_gram(out, out, FtF)
    stats[CROSS] += inner(C, out)
    stats[SQUARE] += inner(G, FtF)


def multiply_given(
    F: Array, N: Array, D: Array, l1: float, l2: float, gamma: float, floor: float, out: Array, stats: Array
) -> None:
    """Write F ⊙ (N / (D + l1 + l2·F))^γ for given N and D (float64; D of one row serves all) to out."""
    xp = cuda.cupy()
    _multiply(
        "multiply_given", F, xp.ascontiguousarray(N), xp.ascontiguousarray(D), None, l1, l2, gamma, floor, out, stats
    )


def _column_sums(F: Array) -> Array:
    """Return Σ_i F[i, :], k numbers, float64."""
    return F.sum(axis=0, dtype=np.float64)


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
    losses = xp.zeros(n if measure else 0)
    if block.indptr is not None and beta != 1:
        raise sparse_beta(beta)
    if update or measure:
        num = xp.empty((n, k), F.dtype) if update else None
        if block.indptr is not None:
            _sparse_ratios(block, F, Ht, update, num, losses if measure else None)
            den = _column_sums(Ht).astype(F.dtype).reshape(1, k)
        else:
            den = xp.empty((n, k), F.dtype) if update and beta != 1 else None
            _beta_rows(block, F, Ht, beta, update, num, den, losses if measure else None)
            if update and beta == 1:
                den = _column_sums(Ht).astype(F.dtype).reshape(1, k)
        if update:
            _multiply("multiply", F, num, den, None, l1, l2, gamma, floor, out, stats)
            F = out
    if N.shape[0] and block.indptr is None:
        width = min(tile_width(k), 256 // F.itemsize)
        chunk, count = plan_chunks(n, m, k, WIDTH)
        parts, below = xp.empty((count, m, k)), xp.empty((count, m, k)) if beta != 1 else None
        kernel = _kernel("BETA", "beta_columns", block.X.dtype, F.dtype, KT=width)
        grid = (-(-m // WIDTH), -(-k // width), count)
        _launch(
            kernel, grid, block.X, _i64(_leading(block.X)), F, Ht, _i64(n), _i64(m), _i32(k), np.float64(beta),
            _i64(chunk), parts, below,
        )  # fmt: skip
        _add_parts(parts, N, m * k, count)
        if below is not None:
            _add_parts(below, D, m * k, count)
        else:
            D[0] += _column_sums(F)
    return losses.sum()


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
    n, m, k = block.rows, block.columns, Ht.shape[1]
    width = min(tile_width(k), 256 // F.itemsize)
    kernel = _kernel("BETA", "beta_rows", block.X.dtype, F.dtype, KT=width)
    grid = (-(-n // HEIGHT), -(-k // width) if update else 1)
    _launch(
        kernel, grid, block.X, _i64(_leading(block.X)), F, Ht, _i64(n), _i64(m), _i32(k), np.float64(beta),
        _i32(int(update)), num, den, losses,
    )  # fmt: skip


def _sparse_ratios(block: Block, F: Array, Ht: Array, update: bool, out: Array | None, losses: Array | None) -> None:
    n, k = block.rows, Ht.shape[1]
    wide = next((w for w in (1, 2, 4, 8, 16, 32) if k <= 32 * w), 0)
    if not wide:
        msg = f"n_components = {k} is more than the GPU's sparse kernels hold in registers (1024): use device='cpu'."
        raise ValueError(msg)
    kernel = _kernel("SPARSE", "sparse_ratios", block.X.dtype, F.dtype, KC=wide)
    _launch(
        kernel, (-(-n // (THREADS // 32)),), block.X, block.indptr, block.indices, F, Ht, _column_sums(Ht), _i64(n),
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
    if block.indptr is None:
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
    return _row_losses(block, F, Ht, beta).sum()


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
    G = gram(Ht) if beta == 2 else None
    length = 1 if beta == 2 else m
    blocks = min(n, CODERS, max(1, (1 << 30) // (2 * length * Ht.itemsize)))
    scratch, parts = xp.empty((blocks, 2, length), Ht.dtype), xp.empty((blocks, STATS))
    X, ld = block.X, 0 if block.indptr is not None else _leading(block.X)
    kernel = _kernel("CODE", "code_rows", X.dtype, Ht.dtype)
    _launch(
        kernel, (blocks,), X, _i64(ld), block.indptr, block.indices, Ht, C if beta == 2 else None, G, _column_sums(Ht),
        _i64(n), _i64(m), _i32(k), np.float64(beta), np.float64(gamma), c(l1), c(l2), c(floor), np.float64(tol),
        _i32(max_iter), _i32(plan_across(k)), _i64(length), scratch, out, parts,
        shared=8 * THREADS + 3 * k * Ht.itemsize,
    )  # fmt: skip
    _add_stats(parts, stats, STATS, blocks)


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
