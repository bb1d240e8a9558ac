"""The CPU backend: the operations of `Backend` on one block of rows of X in host memory.

All operations release the GIL for their whole length, and none starts a thread or calls BLAS. Numba is imported with
the first kernel.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from .._typing import Array
from .kernels.arguments import ACCUMULATE, KEEP, NUMERATOR, OPENING, PRODUCT, RENEW, RESIDUAL, Block
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

    from .._typing import Matrix, Numbers

__all__ = [
    "CROSS", "KKT", "QUEUES", "SQUARE", "STATS", "SWEEPS", "TOTAL", "UNSETTLED", "VIOLATION", "Beginning", "Block",
    "Pace", "Weighed", "add_gram", "add_products", "asarray", "changes", "code", "column_sums", "cut", "descend",
    "descend_kl", "divergence", "empty", "gram", "inner", "kept", "kernels", "kl_numerators", "multiply",
    "multiply_beta", "multiply_given", "nearest", "numbers", "opening", "products", "read", "scale", "scan", "send",
    "squares", "step_ahead", "stored_as_is", "sweep", "tile_height", "to_numpy", "topk_kernels", "weighted",
    "worst_rows", "xp",
]  # fmt: skip

xp = np
empty = np.empty
QUEUES = False  # an operation is over when its function returns


@functools.cache
def kernels() -> ModuleType:
    """Return the compiled kernels; the first call imports Numba."""
    from .kernels import passes

    return passes


@functools.cache
def topk_kernels() -> ModuleType:
    """Return the compiled kernels of the cosine search; the first call imports Numba."""
    from .kernels import topk

    return topk


_DTYPES = {stored.code: dtype for dtype, stored in reversed(STORED_TYPES.items())}  # bool is read as uint8


@functools.cache
def _code(dtype: np.dtype) -> int:
    """Return the kernels' code of a type; numpy needs a few microseconds to compare types."""
    return STORED_TYPES[dtype].code


def asarray(F: Array) -> Array:
    """Return F, C-contiguous and writable, as a copy where it is not: for read-only arrays Numba compiles anew."""
    return np.require(F, requirements=("C", "W"))


def to_numpy(A: Array) -> Array:
    """Return A, which is in host memory."""
    return A


def read(*arrays: Array | np.generic | float) -> Numbers:
    """Return the numbers of arrays as Python lists (of 0-d arrays: numbers)."""
    return [array if type(array) is float else array.tolist() for array in arrays]  # type: ignore[union-attr]


def send(*arrays: Array | np.generic | float) -> Callable[[], Numbers]:
    """Return a function that returns the numbers that arrays hold now, as `read` does."""
    numbers = read(*arrays)
    return lambda: numbers


def inner(A: Array, B: Array) -> np.float64:
    """Return ⟨A, B⟩ in float64, 0-d. BLAS is not used: the bits would depend on the number of its threads."""
    return np.einsum("ij,ij->", A, B, dtype=np.float64)


def changes(WtD: Array, G: Array) -> tuple[np.float64, np.float64]:
    """Return ⟨WᵀD − ½DᵀD, G⟩ and ⟨DᵀD, G⟩ for WtD = [WᵀD; DᵀD]."""
    k = len(G)
    DtD = WtD[k:]
    return inner(WtD[:k] - 0.5 * DtD, G), inner(DtD, G)


def weighted(block: object, F: Array, by_column: bool = False) -> Array:
    """Return the rows F of a block, or F with a row for each of its columns, as they count in sums: as they are."""
    return F


def column_sums(F: Array) -> Array:
    """Return Σ_i F[i, :] in float64."""
    return F.sum(axis=0, dtype=np.float64)


def kept(sums: Array) -> Array:
    """Return a copy of sums of a pass, whose memory the next pass uses."""
    return sums.copy()


def stored_as_is(dtype: np.dtype) -> bool:
    """Return whether the kernels read numbers of this type where they lie."""
    return dtype in STORED_TYPES


def tile_height(columns: int, width: int, dtype: np.dtype) -> int:
    """Return the number of rows per tile, from (m, k, type) only.

    A tile of X shares the second-level cache with Ht and the sums. Taller tiles spare the float64 sums, shorter ones
    the cache; the steps of 64 are the rows of a sweep.
    """
    row = max(columns, 1) * dtype.itemsize
    return min(max((400 << 10) // row // 64 * 64, 64), 256)


def _beta_height(columns: int, dtype: np.dtype) -> int:
    """Return the number of rows per tile where X, WH and its powers lie side by side."""
    return min(max((1200 << 10) // (3 * max(columns, 1) * dtype.itemsize) // 16 * 16, 16), 128)


def _fused_height(columns: int, dtype: np.dtype) -> int:
    """Return the number of rows per tile where WH is formed in blocks of columns: taller tiles spare float64 sums."""
    return min(max((600 << 10) // (max(columns, 1) * dtype.itemsize) // 16 * 16, 64), 128)


def cut(X: Matrix, rows: tuple[int, int], height: int, power: int = 0) -> Block:
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
    """Return what stands for arguments left out: a factor of no rows, sums of no rows, and stats that are not read."""
    return np.zeros((0, 0), dtype), np.zeros((0, 0)), np.zeros(STATS)


@functools.cache
def _at_F(dtype: np.dtype, conjugate: int = 0) -> tuple[Array | float, ...]:
    """Return the fields of the `Beginning` at F itself, where a kernel with one is compiled in any case."""
    return tuple(Beginning(np.zeros((0, 0), dtype), np.zeros(0, dtype), 0.0, np.zeros((0, 0)), conjugate))


# Weights of the rows of F, u; of the rows and the columns of a block, (u, v); in float64. None: all are 1.
RowWeights: TypeAlias = Array | None
Weights: TypeAlias = tuple[Array, Array] | None


def _run(
    block: Block, F: Array, Ht: Array, rule: int, out: Array, XtF: Array, FtF: Array, stats: Array,
    weights: Weights = None,
) -> None:  # fmt: skip
    kernels().product_pass(tuple(block), 1 if block.indptr else None, F, Ht, rule, out, XtF, FtF, stats, weights)


def _without_columns(rows: int) -> tuple[int, ...]:
    """Return the fields of a `Block` of an X of no columns, for steps on F alone."""
    return (0, 10, 0, 8, 0, 0, 0, rows, 0, 256)


def opening(block: Block, dtype: np.dtype, weights: Weights = None) -> Array:
    """Return [minimum, count of non-finite values, Σx, Σx²] of the stored numbers, in float64; weighed sums alone."""
    none, empty, _ = _constants(dtype)
    out = np.empty(4)
    _run(block, none, none, OPENING, none, empty, empty, out, weights)
    return out


def products(block: Block, Ht: Array, out: Array) -> None:
    """Write X·Ht to out (r × k).

    For CSR rows out may be float64 where Ht is float32: of long rows the sums are then float64, too.
    """
    _, empty, stats = _constants(Ht.dtype)
    if out.dtype == Ht.dtype:
        _run(block, out, Ht, PRODUCT, out, empty, empty, stats)
    else:
        _run(block, Ht, Ht, PRODUCT, Ht[:0], out, empty, stats)


def add_products(block: Block, F: Array, XtF: Array) -> None:
    """Add Xᵀ·F to XtF (m × k, float64)."""
    none, empty, stats = _constants(F.dtype)
    _run(block, F, none, ACCUMULATE, none, XtF, empty, stats)


def gram(F: Array, B: Array | None = None) -> Array:
    """Return FᵀF, or FᵀB for a B of the same shape and type (k × k), in float64; blockwise products in F's type."""
    none, empty, stats = _constants(F.dtype)
    FtF = np.zeros((F.shape[1], F.shape[1]))
    if B is not None:
        add_products(cut(F, (0, len(F)), 256), B, FtF)
        return FtF
    kernels().product_pass(_without_columns(F.shape[0]), None, F, none, ACCUMULATE, none, empty, FtF, stats, None)
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
    weights: RowWeights = None,
) -> None:
    """Write F after up to `sweeps` sweeps of coordinate descent on (X·Ht, G) to out, and add up the sums.

    XtF += Xᵀ·out and FtF += outᵀ·out; those of no rows are left out. A row rests once its violation is at most tol ×
    that of its first sweep; with `delta` > 0, once its step is below delta × its first one. `begin` moves the point at
    which the sweeps begin. Entries of stats: see `operations`. With `weights`, row i counts weights[i] times in all
    sums; here and below.
    """
    beginning = tuple(begin) if begin is not None else _at_F(F.dtype) if delta else None
    penalty, descent = (float(l1), float(l2)), (order, sweeps, tol, delta)
    sparse = 1 if block.indptr else None
    kernels().frobenius_pass(
        tuple(block), sparse, F, beginning, Ht, G, penalty, descent, None, out, XtF, FtF, stats, weights
    )


def multiply(
    block: Block, F: Array, Ht: Array, G: Array, l1: float, l2: float, out: Array, XtF: Array, FtF: Array, stats: Array,
    weights: RowWeights = None,
) -> None:  # fmt: skip
    """Write F ⊙ X·Ht / (F·G + l1 + l2·F), the multiplicative update for β = 2, to out, and add up the sums.

    XtF += Xᵀ·out and FtF += outᵀ·out; those of no rows are left out.
    """
    penalty = (float(l1), float(l2))
    sparse = 1 if block.indptr else None
    kernels().frobenius_pass(tuple(block), sparse, F, None, Ht, G, penalty, None, 1, out, XtF, FtF, stats, weights)


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
    weights: RowWeights = None,
) -> None:
    """Write F after sweeps of coordinate descent on given (C, G) to out: the step of the small factor.

    C (r × k) is float64. FtF (k × k, zeros) becomes outᵀ·out, stats[CROSS] += ⟨C, out⟩ and stats[SQUARE] += ⟨G, FtF⟩,
    which are what the loss needs.
    """
    beginning = _at_F(F.dtype, conjugate) if delta else None
    penalty, descent = (float(l1), float(l2)), (order, sweeps, 0.0, delta)
    none = _constants(F.dtype)[0]
    block = _without_columns(len(F))
    kernels().frobenius_pass(block, None, F, beginning, none, G, penalty, descent, None, out, C, FtF, stats, weights)


def step_ahead(
    Ht: Array, before: Array, pace: Pace | Array, sums: Weighed, earlier: Weighed, l1: float, l2: float,
    order: Array, sweeps: int, delta: float, conjugate: int,
) -> Ahead:  # fmt: skip
    """Step over the small factor from Ht as sums of rows weigh it, and extrapolate the result; see `Backend`."""
    assert isinstance(pace, Pace)
    assert sums.WtD is not None
    beta, DtD = pace.beta, sums.WtD[len(sums.WtW) :]
    XtZ = (1 + beta) * sums.XtW
    XtZ -= beta * earlier.XtW
    ZtZ = (1 + beta) * sums.WtW - beta * earlier.WtW + beta * (1 + beta) * DtD
    step, stats, FtF = np.empty(Ht.shape, Ht.dtype), np.zeros(STATS), np.zeros(ZtZ.shape)
    sweep(Ht, ZtZ, XtZ, l1, l2, order, step, FtF, stats, sweeps, delta, conjugate)
    made = np.maximum(step + Ht.dtype.type(pace.weight) * (step - before), 0)
    change, HHt = made - Ht, gram(made)
    return Ahead(
        step, made, HHt, stats, (inner(sums.XtW, change), inner(gram(made + Ht, change), sums.WtW)),
        (sums.WtW.diagonal(), HHt.diagonal()),
    )  # fmt: skip


def scale(
    F: Array, G: Array, C: Array, l1: float, l2: float, out: Array, FtF: Array, stats: Array,
    weights: RowWeights = None,
) -> None:  # fmt: skip
    """Write F ⊙ C / (F·G + l1 + l2·F) to out: the multiplicative step of the small factor; sums as in `sweep`."""
    block, none = _without_columns(len(F)), _constants(F.dtype)[0]
    penalty = (float(l1), float(l2))
    kernels().frobenius_pass(block, None, F, None, none, G, penalty, None, 1, out, C, FtF, stats, weights)


def divergence(block: Block, F: Array, Ht: Array, beta: float, weights: Weights = None) -> float:
    """Return Σ D_β(x | f·Htᵀ) over the block, in float64. CSR with β = 1 or 2 visits the stored numbers only."""
    if beta == 2 and not block.indptr:
        empty, stats = _constants(F.dtype)[1], np.zeros(STATS)
        _run(block, F, Ht, RESIDUAL, F[:0], empty, empty, stats, weights)
        return float(stats[0]) / 2
    if beta == 2:
        return float(_sparse_losses(block, F, Ht, weights).sum())
    # the kernel of the updates, which fits with these β compile in any case
    nothing, stats = np.zeros((0, F.shape[1])), np.zeros(STATS + 2 * F.shape[1])
    return multiply_beta(block, F, Ht, beta, 1.0, 0.0, 0.0, 0.0, False, True, F[:0], nothing, nothing, stats, weights)


def _sparse_losses(block: Block, F: Array, Ht: Array, weights: Weights) -> Array:
    """Return ½‖x − f·Htᵀ‖² of each CSR row."""
    losses = np.empty(block.rows)
    kernels().sparse_residual_pass(tuple(block), F, Ht, losses, None if weights is None else weights[1])
    return losses if weights is None else losses * weights[0]


def worst_rows(block: Block, F: Array, Ht: Array, worst: Array, weights: Weights = None) -> None:
    """Enter the rows of a block with the largest losses ½‖x − f·Htᵀ‖² into the table `worst`.

    worst (q × (1 + m), float64) has a line for each of the worst rows so far: its loss, then max(0, x − f·Htᵀ). The
    largest comes first, the lower row of equals before the other; a line with loss 0 is free.
    """
    losses = np.empty((block.rows, 1), F.dtype)
    if block.indptr:
        losses[:, 0] = _sparse_losses(block, F, Ht, weights)
    else:
        empty = _constants(F.dtype)[1]
        _run(block, F, Ht, RESIDUAL, losses, empty, empty, np.zeros(STATS), weights)
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
    weights: Weights = None,
) -> float:
    """Update F multiplicatively for β ≠ 2, add up the sums of the update of Ht, and return the loss.

    out = F ⊙ (N_F / (D_F + l1 + l2·F))^γ, entries below `floor` set to 0; without `update` F stays as it is. Then
    N += (X ⊙ WH^(β−2))ᵀ·F and D += (WH^(β−1))ᵀ·F with the new F (β = 1: D[0] += its column sums); N of no rows is
    left out. The loss is Σ D_β at the given F where `measure` is set, else 0. WH is formed in tiles, twice.
    """
    c = F.dtype.type
    losses = np.zeros(block.rows if measure else 0)
    height = 128 if block.indptr else _fused_height(block.columns, F.dtype)
    rule, penalty = (float(beta), float(gamma), float(floor)), (c(l1), c(l2))
    kernels().beta_pass(
        (*block[:-1], height), F, Ht, rule, penalty, RENEW if update else KEEP, int(measure), out, N, D, stats, losses,
        weights,
    )  # fmt: skip
    if weights is not None and measure:
        losses *= weights[0]
    return float(losses.sum())


def multiply_given(
    F: Array, N: Array, D: Array, l1: float, l2: float, gamma: float, floor: float, out: Array, stats: Array,
    weights: RowWeights = None,
) -> None:  # fmt: skip
    """Write F ⊙ (N / (D + l1 + l2·F))^γ for given N and D (float64; D of one row serves all) to out."""
    c = F.dtype.type
    kernels().multiply_pass(F, N, D, (c(l1), c(l2)), float(gamma), float(floor), out, stats, weights)


def descend_kl(
    block: Block,
    F: Array,
    begin: tuple[Array, float],
    Ht: Array,
    totals: Array,
    l1: float,
    l2: float,
    order: Array,
    sweeps: int,
    tol: float,
    out: Array,
    stats: Array,
    losses: Array,
) -> None:
    """Write F after up to `sweeps` sweeps of coordinate descent on the Kullback-Leibler divergence to out.

    The sweeps begin at max(0, F + weight·(F − before)), begin = (before, weight); an F of no rows stands for rows that
    begin with equal numbers. `totals` are the column sums of Ht. Coordinates that `order` does not name stay as they
    are. A row rests once its violation is at most tol × that of its first sweep. losses, if it has rows, gets the
    divergence of each. Entries of stats: see the kernel `newton_pass`.
    """
    before, weight = begin
    height = int(np.clip((800 << 10) // (max(block.columns, 1) * Ht.dtype.itemsize), 8, 64))
    kernels().newton_pass(
        (*block[:-1], height), F, (before, float(weight)), Ht, totals, (float(l1), float(l2)),
        (order, sweeps, float(tol)), out, stats, losses,
    )  # fmt: skip


def kl_numerators(block: Block, F: Array, Ht: Array, out: Array, weights: RowWeights = None) -> None:
    """Write (X ⊘ F·Htᵀ)·Ht over the stored numbers of CSR rows to out: with Xᵀ, the sums of the KL update of H.

    With `weights` of the rows of Ht, the last factor of the product is weighed.
    """
    rule, penalty = (1.0, 1.0, 0.0), (F.dtype.type(0), F.dtype.type(0))
    nothing, stats, losses = np.zeros((0, F.shape[1])), np.zeros(STATS), np.zeros(0)
    both = None if weights is None else (losses, weights)
    kernels().beta_pass(tuple(block), F, Ht, rule, penalty, NUMERATOR, 0, out, nothing, nothing, stats, losses, both)


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
    weights: RowWeights = None,
) -> None:
    """Write the multiplicative code of each row to out, with H fixed, each row until it has settled.

    A row has settled when √(2·D_β), measured every ten iterations, falls by less than tol × its first value; with
    `by_step`, when ‖Δf‖ ≤ tol·‖f‖. The weights are those of the rows of Ht.
    """
    c = Ht.dtype.type
    height = _beta_height(block.columns, Ht.dtype)
    rule, stop = (float(beta), float(gamma), float(floor)), (float(tol), max_iter, int(by_step))
    kernels().code_pass((*block[:-1], height), Ht, rule, (c(l1), c(l2)), stop, out, stats, weights)


# ---- cosine search ---------------------------------------------------------------------------------------------------


def squares(block: Block, out: Array) -> None:
    """Write ‖x_i‖² of each row to out, in float64."""
    topk_kernels().squares_pass(tuple(block), out)


def nearest(block: Block, first: int, Qt: Array, squares: Array, *contest: Array | float) -> None:
    """Enter the rows of a block, the first of number `first`, among the best k of each query of a panel.

    See the kernel `nearest_pass` for the queries, the limits and the heaps of which `contest` consists.
    """
    topk_kernels().nearest_pass(tuple(block), first, Qt, squares, contest)


def scan(block: Block, first: int, squares: Array, *contest: Array | float) -> None:
    """Enter the rows of a block among the best k of each of a few queries, row by row; see `scan_pass`."""
    topk_kernels().scan_pass(tuple(block), first, squares, contest)


def numbers(block: Block) -> Array:
    """Return the stored numbers of a block where they lie, read-only: r × m, of CSR rows one after another."""
    dtype = _DTYPES[block.code & 255]
    if block.indptr:
        bounds = addressed(block.indptr, np.dtype(np.int64 if block.wide else np.int32), (block.rows + 1,), None)
        first, last = int(bounds[0]), int(bounds[-1])
        return addressed(block.address + first * dtype.itemsize, dtype, (last - first,), None)
    return addressed(block.address, dtype, (block.rows, block.columns), (block.row_stride, block.column_stride))


def addressed(address: int, dtype: np.dtype, shape: tuple[int, ...], strides: tuple[int, ...] | None) -> Array:
    """Return a read-only array over memory that the caller keeps alive."""
    if not all(shape):
        return np.zeros(shape, dtype)
    interface = {"version": 3, "data": (address, True), "typestr": dtype.str, "shape": shape, "strides": strides}
    return np.asarray(type("Memory", (), {"__array_interface__": interface})())


def add_gram(block: Block, dtype: np.dtype, XtX: Array, weights: RowWeights = None) -> None:
    """Add XᵀX of a dense block to XtX (m × m, float64), from a few rows at a time in the compute type.

    With weights of its rows, Xᵀ·diag(weights)·X.
    """
    X, power, few = numbers(block), block.code >> 8, 256
    for first in range(0, block.rows, few):
        part = X[first : first + few]
        if power:
            part = np.asarray(part, np.float64) * 4.0**power
        address = block.address + first * block.row_stride
        F = asarray(np.asarray(part, dtype))
        if weights is not None:
            F = F * weights[first : first + few].astype(dtype)[:, None]
        add_products(block._replace(address=address, rows=len(part)), F, XtX)
