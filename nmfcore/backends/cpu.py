"""The CPU backend: the operations a solver may ask for, on one block of rows of X.

These are the only operations that differ between backends; everything else is array code written once against ``xp``.
Each takes a `Block` (rows of X where they lie, in their storage type), the rows of F that belong to it, and writes into
given outputs. Sums are added to. All release the GIL for their whole length, and none starts a thread or calls BLAS.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

xp = np
Array = NDArray[Any]


@functools.cache
def kernels() -> ModuleType:
    """Return the compiled kernels; Numba is imported here, when the first of them is needed."""
    from . import cpu_kernels

    return cpu_kernels


class Block(NamedTuple):
    """Rows of X: where their numbers lie, of what type, how far apart (bytes).

    Addresses, so that a kernel is compiled once whatever X is, and a read-only array is as good as another.
    """

    address: int
    code: int
    row_stride: int
    column_stride: int
    indptr: int  # CSR: address of the row bounds; dense: 0
    indices: int  # CSR: address of the columns
    wide: int  # CSR: whether these two have 64 bits
    rows: int
    columns: int
    height: int  # rows per tile


_FUSED = (1, 0, 0.5, 1.5, 3)  # the β whose ratios `beta_pass` forms tile by tile behind the product
_NO_X = (0, 10, 0, 8, 0, 0, 0)
_STORED = {
    name: code
    for code, names in enumerate(
        (("uint8", "bool"), ("int8",), ("uint16",), ("int16",), ("uint32",), ("int32",),
         ("uint64",), ("int64",), ("float16",), ("float32",), ("float64",))
    )
    for name in names
}  # fmt: skip
_DTYPES = [np.dtype(name) for name in ("uint8", *list(_STORED)[2:])]  # by code; bool is read as uint8


@functools.cache
def _code(dtype: np.dtype) -> int:
    """Return the kernels' code of a type; numpy takes a few microseconds to name it."""
    return _STORED[dtype.name]


def asarray(F: Array) -> Array:
    """Return F as the kernels take it: C-contiguous, and a copy if it is read-only (Numba compiles anew for those)."""
    return np.require(F, requirements=("C", "W"))


def to_numpy(A: Array) -> Array:
    """Return A on the host: there it is."""
    return A


def read(*arrays: Array) -> list[Any]:
    """Numbers of arrays as Python lists (0-d: numbers); on a device all of them in one transfer."""
    return [array.tolist() for array in arrays]


def inner(A: Array, B: Array) -> Any:
    """Return ⟨A, B⟩ in float64, 0-d. Not through BLAS: its threads would make the bits depend on their number."""
    return np.einsum("ij,ij->", A, B, dtype=np.float64)


def stored_as_is(dtype: np.dtype) -> bool:
    """Whether the kernels read numbers of this type where they lie."""
    return dtype.isnative and dtype.name in _STORED


def tile_height(columns: int, width: int, dtype: np.dtype) -> int:
    """Rows per tile, from (m, k, type) only.

    A tile of X shares the second-level cache with Ht and the sums. Taller tiles spare the float64 sums, shorter ones
    the cache; the steps of 64 are the rows of a sweep.
    """
    row = max(columns, 1) * dtype.itemsize
    return int(np.clip((400 << 10) // row // 64 * 64, 64, 256))


def _beta_height(columns: int, dtype: np.dtype) -> int:
    """Rows per tile where X, WH and its powers lie side by side."""
    return int(np.clip((1200 << 10) // (3 * max(columns, 1) * dtype.itemsize) // 16 * 16, 16, 128))


def _fused_height(columns: int, dtype: np.dtype) -> int:
    """Rows per tile where WH lies there in blocks of columns, and X whole: taller tiles spare the float64 sums."""
    return int(np.clip((600 << 10) // (max(columns, 1) * dtype.itemsize) // 16 * 16, 64, 128))


def cut(X: Any, rows: tuple[int, int], height: int, power: int = 0) -> Block:
    """Return the block of rows lo … hi of 4^power·X (ndarray of any strides, or CSR). The caller keeps X alive."""
    lo, hi = rows
    scaled = power << 8
    if hasattr(X, "indptr"):
        data, indptr, indices = X.data, X.indptr, X.indices
        first, wide = indptr.ctypes.data + lo * indptr.itemsize, int(indptr.itemsize == 8)
        x = (data.ctypes.data, _code(data.dtype) + scaled, 0, 0, first, indices.ctypes.data, wide)
    else:
        row, column = X.strides
        x = (X.ctypes.data + lo * row, _code(X.dtype) + scaled, row, column, 0, 0, 0)
    return Block(*x, hi - lo, X.shape[1], height)


@functools.cache
def _constants(dtype: np.dtype) -> tuple[Array, Array, Array]:
    """Return what stands for an argument left out: a factor of no rows, sums of no rows, stats nobody reads."""
    return np.zeros((0, 0), dtype), np.zeros((0, 0)), np.zeros(STATS)


class Beginning(NamedTuple):
    """Where the sweeps of a pass begin: max(0, B + weight·(B − before·scale)), B = F·scale.

    The step D = out − B is measured: stats[CROSS] += ⟨X·Ht − l1, D⟩.
    """

    before: Array  # r × k: the rows before F
    scale: Array  # k for F and k for `before`, compute type; of no entries: the sweeps begin at F
    weight: float
    FtD: Array  # 2k × k: += outᵀ·D above, += Dᵀ·D below
    conjugate: int = 0  # conjugate gradient steps at most, after every fourth sweep, for rows that still move


@functools.cache
def _at_F(dtype: np.dtype, conjugate: int = 0) -> Beginning:
    """Begin at F itself: stands for None where the kernel that takes a beginning is the one compiled anyway."""
    return Beginning(np.zeros((0, 0), dtype), np.zeros(0, dtype), 0.0, np.zeros((0, 0)), conjugate)


_OPENING, _PRODUCT, _ACCUMULATE, _RESIDUAL = 0, 1, 2, 3  # rules of `product_pass`
VIOLATION, KKT, SWEEPS, UNSETTLED, TOTAL, CROSS, SQUARE, STATS = 0, 1, 2, 3, 4, 5, 6, 7


def _look(
    block: tuple[Any, ...], F: Array, Ht: Array, rule: int, out: Array, XtF: Array, FtF: Array, stats: Array
) -> None:
    kernels().product_pass(*block, F, Ht, rule, out, XtF, FtF, stats)


def opening(block: Block, dtype: np.dtype) -> Array:
    """[min, non-finite values, Σx, Σx²] of the stored numbers, float64."""
    none, empty, _ = _constants(dtype)
    out = np.empty(4)
    _look(block, none, none, _OPENING, none, empty, empty, out)
    return out


def products(block: Block, Ht: Array, out: Array) -> None:
    """out (r × k) = X·Ht. Of CSR rows out may be float64 whatever the compute type: long sums are float64 then."""
    _, empty, stats = _constants(Ht.dtype)
    if out.dtype == Ht.dtype:
        _look(block, out, Ht, _PRODUCT, out, empty, empty, stats)
    else:
        _look(block, Ht, Ht, _PRODUCT, Ht[:0], out, empty, stats)


def add_products(block: Block, F: Array, XtF: Array) -> None:
    """XtF (m × k, float64) += Xᵀ·F."""
    none, empty, stats = _constants(F.dtype)
    _look(block, F, none, _ACCUMULATE, none, XtF, empty, stats)


def gram(F: Array, B: Array | None = None) -> Array:
    """FᵀF, or FᵀB for a B of the same shape and type (k × k), in float64; blockwise products in F's type."""
    none, empty, stats = _constants(F.dtype)
    FtF = np.zeros((F.shape[1], F.shape[1]))
    if B is not None:
        add_products(cut(F, (0, len(F)), 256), B, FtF)
        return FtF
    no_columns = Block(*_NO_X, F.shape[0], 0, 256)
    _look(no_columns, F, none, _ACCUMULATE, none, empty, FtF, stats)
    return FtF


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
    """One fused pass of coordinate descent: out = sweeps of F on (X·Ht, G); XtF += Xᵀ·out; FtF += outᵀ·out.

    `tol` freezes a row once its violation is at most tol × that of its first sweep; `delta` > 0 once its step is below
    delta × its first one. `begin` moves the start of the sweeps. XtF, FtF of no rows are left out.
    stats: see the kernel module (violation and Σ G_tt·Δ² of the first sweep, sweeps, rows not settled, sum of out).
    """
    if begin is None and delta:
        begin = _at_F(F.dtype)
    kernels().frobenius_pass(
        *block, F, begin, Ht, G, float(l1), float(l2), order, sweeps, tol, delta,
        out, XtF, FtF, stats,
    )  # fmt: skip


def multiply(
    block: Block, F: Array, Ht: Array, G: Array, l1: float, l2: float, out: Array, XtF: Array, FtF: Array, stats: Array
) -> None:
    """Do the same for the multiplicative update of the Frobenius loss: out = F ⊙ X·Ht / (F·G + l1 + l2·F)."""
    kernels().frobenius_pass(
        *block, F, _at_F(F.dtype), Ht, G, float(l1), float(l2), None, 0, 0.0, 0.0, out, XtF, FtF, stats
    )


def sweep(
    F: Array, G: Array, C: Array, l1: float, l2: float, order: Array, out: Array, FtF: Array, stats: Array,
    sweeps: int = 1, delta: float = 0.0, conjugate: int = 0,
) -> None:  # fmt: skip
    """Sweeps of coordinate descent on rows of F for given C (r × k, float64): the step of the small factor.

    FtF (k × k, zeros) = outᵀ·out, stats[CROSS] += ⟨C, out⟩, stats[SQUARE] += ⟨G, FtF⟩: what the loss needs.
    """
    none = _constants(F.dtype)[0]
    kernels().frobenius_pass(
        *_NO_X, len(F), 0, 256, F, _at_F(F.dtype, conjugate) if delta else None, none,
        G, float(l1), float(l2), order, sweeps, 0.0, delta,
        out, C, FtF, stats,
    )  # fmt: skip


def scale(F: Array, G: Array, C: Array, l1: float, l2: float, out: Array, FtF: Array, stats: Array) -> None:
    """Do the same for the multiplicative step: out = F ⊙ C / (F·G + l1 + l2·F)."""
    none = _constants(F.dtype)[0]
    kernels().frobenius_pass(
        *_NO_X, len(F), 0, 256, F, _at_F(F.dtype), none, G, float(l1), float(l2), None, 0, 0.0, 0.0,
        out, C, FtF, stats,
    )  # fmt: skip


def divergence(block: Block, F: Array, Ht: Array, beta: float) -> float:
    """Σ D_β(x | f·Htᵀ) over the block, in float64. CSR with β = 1 or 2 visits the stored numbers only."""
    if beta == 2 and not block.indptr:
        empty, stats = _constants(F.dtype)[1], np.zeros(STATS)
        _look(block, F, Ht, _RESIDUAL, F[:0], empty, empty, stats)
        return float(stats[0]) / 2
    if beta == 2:
        losses = np.empty(block.rows)
        kernels().sparse_residual_pass(*block, F, Ht, losses)
        return float(losses.sum())
    # what mu has compiled anyway, asked for nothing else
    nothing, stats = np.zeros((0, F.shape[1])), np.zeros(STATS + 2 * F.shape[1])
    return multiply_beta(block, F, Ht, beta, 1.0, 0.0, 0.0, 0.0, False, True, F[:0], nothing, nothing, stats)


def worst_rows(block: Block, F: Array, Ht: Array, worst: Array) -> None:
    """Let the rows of a block compete for a place among the worst: those with the largest ½‖x − f·Htᵀ‖².

    worst (q × (1 + m), float64): of each of them this loss and max(0, x − f·Htᵀ), the largest first and the lowest row
    of equals; a loss of 0 is a free place.
    """
    losses = np.empty((block.rows, 1), F.dtype)
    if block.indptr:
        of_rows = np.empty(block.rows)
        kernels().sparse_residual_pass(*block, F, Ht, of_rows)
        losses[:, 0] = of_rows
    else:
        empty = _constants(F.dtype)[1]
        _look(block, F, Ht, _RESIDUAL, losses, empty, empty, np.zeros(STATS))
    chosen = largest(losses[:, 0], worst)
    found = np.zeros((len(chosen), 1 + block.columns))
    for to, i in zip(found, chosen, strict=True):
        if block.indptr:
            alone = block._replace(indptr=block.indptr + i * (8 if block.wide else 4), rows=1)
        else:
            alone = block._replace(address=block.address + i * block.row_stride, rows=1)
        to[0] = losses[i, 0]
        add_products(alone, np.ones((1, 1), F.dtype), to[1:, None])
        to[1:] = np.maximum(to[1:] - np.einsum("jt,t->j", Ht, F[i], dtype=np.float64), 0.0)
    worst[:] = merge_worst(worst, found)


def largest(losses: Array, worst: Array) -> Array:
    """Return the rows whose losses may be among the worst, the largest first: no more than there are places."""
    rows = np.flatnonzero(losses > worst[-1, 0])
    return rows[np.argsort(-losses[rows], kind="stable")][: len(worst)]


def merge_worst(a: Array, b: Array, places: int | None = None) -> Array:
    """Return the worst of two tables of `worst_rows`, as many as a has; of equals those of a come first."""
    both = np.concatenate([a, b])
    return both[np.argsort(-both[:, 0], kind="stable")][: len(a) if places is None else places]


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
) -> float:
    """One fused pass of the multiplicative update for β ≠ 2.

    out = F ⊙ (N_F / (D_F + l1 + l2·F))^γ (update = False: F stays), then N += (X ⊙ WH^(β−2))ᵀ·F and
    D += (WH^(β−1))ᵀ·F with the new F (β = 1: D[0] += its column sums); N of no rows is left out.
    Returns Σ D_β at the incoming pair where `measure` is set. WH is formed in tiles, twice, never stored.
    """
    *x, rows, columns, _ = block
    c = F.dtype.type
    losses = np.zeros(rows if measure else 0)
    height = _beta_height(columns, F.dtype)
    if beta in _FUSED:
        height = 128 if block.indptr else _fused_height(columns, F.dtype)
    kernels().beta_pass(
        *x, 0, rows, columns, height,
        F, Ht, float(beta), float(gamma), c(l1), c(l2), float(floor), int(update), int(measure),
        out, N, D, stats, losses,
    )  # fmt: skip
    return float(losses.sum())


def multiply_given(
    F: Array, N: Array, D: Array, l1: float, l2: float, gamma: float, floor: float, out: Array, stats: Array
) -> None:
    """out = F ⊙ (N / (D + l1 + l2·F))^γ for given terms, float64: the multiplicative step of the small factor."""
    c = F.dtype.type
    kernels().multiply_pass(F, N, D, c(l1), c(l2), float(gamma), float(floor), out, stats)


def kl_numerators(block: Block, F: Array, Ht: Array, out: Array) -> None:
    """out = (X ⊘ F·Htᵀ)·Ht over the stored numbers of CSR rows: with Xᵀ, the sums of the KL update of H."""
    *x, rows, columns, height = block
    zero, nothing = F.dtype.type(0), np.zeros((0, F.shape[1]))
    kernels().beta_pass(
        *x, 0, rows, columns, height,
        F, Ht, 1.0, 1.0, zero, zero, 0.0, 2, 0, out, nothing, nothing, np.zeros(STATS), np.zeros(0),
    )  # fmt: skip


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
    """Multiplicative coding of each row alone, H fixed, until the row has settled; see the kernel for the two rules."""
    *x, rows, columns, _ = block
    c = Ht.dtype.type
    kernels().code_pass(
        *x, 0, rows, columns, _beta_height(columns, Ht.dtype),
        Ht, float(beta), float(gamma), c(l1), c(l2), float(floor), float(tol), max_iter, int(by_step),
        out, stats,
    )  # fmt: skip


@functools.cache
def topk_kernels() -> ModuleType:
    """Return the compiled kernels of the search, for those who search."""
    from . import cpu_topk

    return cpu_topk


def squares(block: Block, out: Array) -> None:
    """out[i] = ‖x_i‖² in float64."""
    topk_kernels().squares_pass(*block, out)


def nearest(block: Block, first: int, Qt: Array, squares: Array, *contest: Any) -> None:
    """Let the rows of a block compete for the best k of each query of a panel; see the kernel for the contest."""
    topk_kernels().nearest_pass(*block, first, Qt, squares, *contest)


def scan(block: Block, first: int, squares: Array, *contest: Any) -> None:
    """Do it for a few queries, row by row."""
    topk_kernels().scan_pass(*block, first, squares, *contest)


def numbers(block: Block) -> Array:
    """Return the stored numbers of a block where they lie, read-only: r × m, of CSR rows one after another."""
    dtype = _DTYPES[block.code & 255]
    if block.indptr:
        bounds = _at(block.indptr, np.dtype(np.int64 if block.wide else np.int32), (block.rows + 1,), None)
        first, last = int(bounds[0]), int(bounds[-1])
        return _at(block.address + first * dtype.itemsize, dtype, (last - first,), None)
    return _at(block.address, dtype, (block.rows, block.columns), (block.row_stride, block.column_stride))


def _at(address: int, dtype: np.dtype, shape: tuple[int, ...], strides: tuple[int, ...] | None) -> Array:
    """Return a read-only array over memory that the caller keeps alive."""
    if not all(shape):
        return np.zeros(shape, dtype)
    interface = {"version": 3, "data": (address, True), "typestr": dtype.str, "shape": shape, "strides": strides}
    return np.asarray(type("Memory", (), {"__array_interface__": interface})())


def add_gram(block: Block, dtype: np.dtype, XtX: Array) -> None:
    """XtX (m × m, float64) += XᵀX of a dense block, from a few rows at a time in the compute type."""
    X, power, few = numbers(block), block.code >> 8, 256
    for first in range(0, block.rows, few):
        part = X[first : first + few]
        if power:
            part = np.asarray(part, np.float64) * 4.0**power
        address = block.address + first * block.row_stride
        add_products(block._replace(address=address, rows=len(part)), asarray(np.asarray(part, dtype)), XtX)
