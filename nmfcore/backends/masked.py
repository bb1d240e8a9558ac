"""The CPU backend for an X with missing entries: a block carries its mask.

The operations have the names and the arguments of those of `Backend`, and take sums over observed entries only. Of this
backend alone are `descend_filled`, `descend_alone`, `code_alone`, `look`, `hidden`, `hashed`, `matrix`, `impute`.
Products with X, of which a start is made, take the mean of what is observed in a column for what is missing in it. A
mask is looked up for a few rows at a time; no array of the size of X is made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from scipy import sparse

from .._typing import Array
from . import cpu
from .cpu import (
    QUEUES,
    Block,
    addressed,
    asarray,
    column_sums,
    empty,
    gram,
    inner,
    multiply_given,
    read,
    scale,
    stored_as_is,
    sweep,
    to_numpy,
    weighted,
    xp,
)
from .kernels.arguments import KEEP, RENEW
from .operations import CROSS, KKT, SQUARE, STATS, SWEEPS, TOTAL, UNSETTLED, VIOLATION

if TYPE_CHECKING:
    from .._typing import Matrix

__all__ = [
    "CROSS", "KKT", "QUEUES", "SQUARE", "STATS", "SWEEPS", "TOTAL", "UNSETTLED", "VIOLATION", "MaskedBlock",
    "add_alone", "add_gram", "add_products", "asarray", "code_alone", "column_sums", "descend_alone",
    "descend_filled", "descend_summed", "divergence", "empty", "gram", "hashed", "hidden", "impute", "inner",
    "look", "matrix", "multiply_beta", "multiply_given", "products", "read", "scale", "stored_as_is", "sweep",
    "to_numpy", "weighted", "xp",
]  # fmt: skip

PART_BYTES = 4 << 20  # of the mask of a few rows


class Hides(Protocol):
    """What says which entries of X are missing."""

    def hidden(self, lo: int, hi: int, numbers: Callable[[], Array]) -> Array:
        """Return the mask of rows lo … hi, bool and C-contiguous; `numbers` returns these rows of X."""


class MaskedBlock(NamedTuple):
    """Rows of X with their mask."""

    block: Block
    mask: Hides | None  # None: of a CSR matrix the stored numbers are observed, and no others
    first: int  # number of the first row
    means: Array | None = None  # of what is observed in each column, float64; None before they are known
    # Where few entries are missing: their columns, by the rows of a part. None: all of WH is formed to fill them in.
    lists: dict[tuple[int, int], tuple[Array, Array, Array]] | None = None


@functools.cache
def kernels() -> ModuleType:
    """Return the compiled kernels; the first call imports Numba."""
    from .kernels import masked

    return masked


def matrix(x: Block) -> Matrix:
    """Return the rows of a block where they lie, read-only: an array, or a CSR matrix."""
    if not x.indptr:
        return cpu.numbers(x)
    index = np.dtype(np.int64 if x.wide else np.int32)
    bounds = addressed(x.indptr, index, (x.rows + 1,), None)
    first, last = int(bounds[0]), int(bounds[-1])
    indices = addressed(x.indices + first * index.itemsize, index, (last - first,), None)
    return sparse.csr_matrix((cpu.numbers(x), indices, bounds - first), shape=(x.rows, x.columns), copy=False)


def _parts(
    given: MaskedBlock, bytes_at_once: int = PART_BYTES, known: Container[tuple[int, int]] = ()
) -> Iterator[tuple[Block, Array | None, int, int]]:
    """Yield the parts of a block: some rows, their mask, and where they are in the block; parts are whole tiles.

    The masks of parts whose rows are `known` are not looked up.
    """
    x, mask = given.block, given.mask
    if mask is None:
        yield x, None, 0, x.rows
        return
    step = max(1, bytes_at_once // max(1, x.columns) // x.height) * x.height
    for a in range(0, x.rows, step):
        b = min(a + step, x.rows)
        if x.indptr:
            part = x._replace(indptr=x.indptr + a * (8 if x.wide else 4), rows=b - a)
        else:
            part = x._replace(address=x.address + a * x.row_stride, rows=b - a)
        lo, hi = given.first + a, given.first + b
        yield part, None if (lo, hi) in known else mask.hidden(lo, hi, functools.partial(matrix, part)), a, b


def _address(hidden: Array | None) -> tuple[int, int]:
    return (0, 0) if hidden is None else (hidden.ctypes.data, hidden.strides[0])


def hidden(given: MaskedBlock) -> Iterator[tuple[Array, Array]]:
    """Yield the numbers and the mask of a few rows of a block after others; what is hidden is read as 0."""
    for part, mask, _, _ in _parts(given, PART_BYTES // 8):
        X = matrix(part)
        if mask is None:
            yield X.data, np.zeros(0, bool)
        else:
            X = np.array(X.toarray() if part.indptr else X, order="C")
            X[mask] = 0
            yield X, mask


def hashed(of_rows: Array, of_columns: Array, share: float) -> Array:
    """Return which entries a hash hides, see `nmfcore.rows.masks.Hashed`.

    Parameters
    ----------
    of_rows, of_columns : ndarray of uint64, shape (r,) and (m,)
        An entry is hidden where f of the sum of its row's and its column's number is below share · 2^64.
    share : float

    Returns
    -------
    hidden : ndarray of bool, shape (r, m)
    """
    out = np.empty((len(of_rows), len(of_columns)), bool)
    last = min(int(share * 2.0**64), 2**64) - 1  # the largest number that is hidden
    if last < 0:
        out[:] = False
    else:
        kernels().hash_pass(of_rows, of_columns, np.uint64(last), out)
    return out


def look(given: MaskedBlock, dtype: np.dtype, columns: Array) -> Array:
    """Return [minimum, NaN, infinite, Σx, Σx², observed entries, rows without any] of what is observed.

    Parameters
    ----------
    given : MaskedBlock
    dtype : numpy.dtype
        Compute type, in which a number may be infinite.
    columns : ndarray of shape (m, 2), float64
        Gets Σx and the number of observed entries of each column added.

    Returns
    -------
    seen : ndarray of shape (7,), float64
        Of a block in which nothing is observed the minimum is infinite.
    """
    seen = np.zeros(7)
    seen[0] = np.inf
    factor = 4.0 ** (given.block.code >> 8)
    for part, mask, _, _ in _parts(given, PART_BYTES // 8):
        X = matrix(part)
        if mask is None:
            numbers = X.data
            each = np.bincount(X.indices, minlength=part.columns)
            empty = int(np.sum(np.diff(X.indptr) == 0))
        else:
            X = np.array(X.toarray() if part.indptr else X, order="C")
            X[mask] = 0
            numbers, shown = X, ~mask
            each, empty = shown.sum(axis=0), int(np.sum(~shown.any(axis=1)))
        with np.errstate(over="ignore", invalid="ignore"):
            numbers = (np.asarray(numbers, np.float64) * factor).astype(dtype).astype(np.float64)
            totals = np.bincount(X.indices, numbers, minlength=part.columns) if mask is None else numbers.sum(axis=0)
            nan = np.isnan(numbers)
            observed = numbers if mask is None else numbers[shown]
            if observed.size:
                seen[0] = min(seen[0], np.fmin.reduce(observed, axis=None))
            seen[1] += nan.sum()
            seen[2] += np.isinf(numbers).sum()
            seen[3] += totals.sum()
            seen[4] += np.einsum("i,i->", numbers.ravel(), numbers.ravel())
        seen[5] += each.sum()
        seen[6] += empty
        columns[:, 0] += totals
        columns[:, 1] += each
    return seen


# ---- products with X, for starts --------------------------------------------------------------------------------


def _centred(given: MaskedBlock, dtype: np.dtype) -> tuple[Matrix, Block]:
    """Return the stored numbers of CSR rows less the means of their columns, in the compute type, and their block."""
    x = given.block
    X, means = matrix(x), given.means
    assert means is not None
    data = np.asarray(X.data, np.float64) * 4.0 ** (x.code >> 8) - means[X.indices]
    centred = sparse.csr_matrix((data.astype(dtype), X.indices, X.indptr), shape=X.shape, copy=False)
    return centred, cpu.cut(centred, (0, x.rows), x.height)


def _with_means(given: MaskedBlock, dtype: np.dtype) -> Iterator[tuple[Array, Block, int, int]]:
    """Yield a few rows after others, with the means of the columns where entries are missing."""
    assert given.means is not None
    for part, mask, a, b in _parts(given, PART_BYTES // 8):
        assert mask is not None
        X = matrix(part)
        X = np.asarray(X.toarray() if part.indptr else X, np.float64) * 4.0 ** (part.code >> 8)
        filled = np.where(mask, given.means, X).astype(dtype)
        yield filled, cpu.cut(filled, (0, b - a), part.height), a, b


def products(given: MaskedBlock, Ht: Array, out: Array) -> None:
    """Write X·Ht to out, with the means of the columns for what is missing."""
    if given.mask is None:
        _, block = _centred(given, Ht.dtype)
        cpu.products(block, Ht, out)
        assert given.means is not None
        out += np.einsum("j,jt->t", given.means, Ht).astype(Ht.dtype)
        return
    for _, block, a, b in _with_means(given, Ht.dtype):
        cpu.products(block, Ht, out[a:b])


def add_products(given: MaskedBlock, F: Array, XtF: Array) -> None:
    """Add Xᵀ·F to XtF, with the means of the columns for what is missing."""
    if given.mask is None:
        _, block = _centred(given, F.dtype)
        cpu.add_products(block, F, XtF)
        assert given.means is not None
        XtF += given.means[:, None] * F.sum(axis=0, dtype=np.float64)
        return
    for _, block, a, b in _with_means(given, F.dtype):
        cpu.add_products(block, F[a:b], XtF)


def add_gram(given: MaskedBlock, dtype: np.dtype, XtX: Array) -> None:
    """Add XᵀX to XtX, with the means of the columns for what is missing."""
    for _, block, _, _ in _with_means(given, dtype):
        cpu.add_gram(block, dtype, XtX)


# ---- the squared Frobenius norm -----------------------------------------------------------------------------------


def _listed(given: MaskedBlock, mask: Array | None, a: int, b: int, dtype: np.dtype) -> tuple[Array, Array, Array]:
    """Return the hidden columns of rows a … b of a block as the kernels take them, kept if the block keeps them."""
    if given.lists is None:
        return np.zeros(0, np.int32), np.zeros(0, np.intp), np.zeros(0, np.intp)
    key = given.first + a, given.first + b
    if key not in given.lists:
        assert mask is not None
        starts, counts = np.empty(b - a, np.intp), np.empty(b - a, np.intp)
        found = np.empty(int(np.count_nonzero(mask)) + 16 * (b - a) + mask.shape[1], np.int32)
        kernels().list_pass(_address(mask), mask.shape[1], found, starts, counts, np.zeros(0, dtype))
        given.lists[key] = found[: int(starts[-1] + counts[-1]) + 16].copy(), starts, counts
    return given.lists[key]


def descend_filled(
    given: MaskedBlock,
    F: Array,
    begin: tuple[Array, float],
    Ht: Array,
    G: Array,
    l1: float,
    l2: float,
    order: Array,
    sweeps: int,
    delta: float,
    out: Array,
    XtF: Array,
    FtF: Array,
    stats: Array,
    squares: Array,
    measured: Array,
) -> None:
    """Write F after sweeps on X with its missing entries filled in to out, and add up the sums of a newly filled X.

    Missing entries are (B·H)_ij for the sweeps, which begin at B = max(0, F + weight·(F − before)), begin = (before,
    weight), and (out·H)_ij for XtF += Xᵀ·out. squares[0] += the squares of the latter. FtF += outᵀ·out. measured[0] +=
    ½ Σ (x − out·h)² over the observed entries, if it has a number.
    """
    before, weight = begin
    descent = (order, sweeps, 0.0, delta)
    for part, mask, a, b in _parts(given, known=given.lists or ()):
        kernels().filled_pass(
            tuple(part), _address(mask), _listed(given, mask, a, b, F.dtype), F[a:b], (before[a:b], float(weight)),
            Ht, G, (float(l1), float(l2)), descent, out[a:b], XtF, FtF, stats, squares, measured,
        )  # fmt: skip


def descend_alone(
    given: MaskedBlock,
    F: Array,
    begin: tuple[Array, float],
    Ht: Array,
    G: Array,
    l1: float,
    l2: float,
    order: Array,
    sweeps: int,
    tol: float,
    out: Array,
    stats: Array,
    losses: Array,
) -> None:
    """Write F after up to `sweeps` sweeps of each row on its own observed entries to out.

    A row rests once its violation is at most tol × that of its first sweep; `begin` is that of `descend_filled`.
    losses, if it has rows, gets ½ Σ (x − f·h)² of each.
    """
    before, weight = begin
    for part, mask, a, b in _parts(given):
        kernels().observed_pass(
            tuple(part), _address(mask), F[a:b], (before[a:b], float(weight)), Ht, G, (float(l1), float(l2)),
            (order, sweeps, float(tol)), out[a:b], stats, losses[a:b],
        )  # fmt: skip


def add_alone(given: MaskedBlock, F: Array, XtF: Array, grams: Array) -> None:
    """Add up what the columns of a CSR block are solved for from, each on the rows that have a number of it.

    Parameters
    ----------
    given : MaskedBlock
        Without a mask: the stored numbers are observed, and no others.
    F : ndarray of shape (r, k)
    XtF : ndarray of shape (m, k), float64
        Gets Σ_i x_ij f_i added to row j.
    grams : ndarray of shape (m, k (k + 1) / 2), float64
        Gets the lower triangle of Σ_i f_i f_iᵀ, row by row, added to row j.
    """
    kernels().alone_sums_pass(tuple(given.block), F, XtF, grams)


def descend_summed(
    XtF: Array,
    grams: Array,
    B: Array,
    l1: float,
    l2: float,
    order: Array,
    sweeps: int,
    tol: float,
    out: Array,
    stats: Array,
    loss: Array,
) -> None:
    """Write B after up to `sweeps` sweeps of each row on sums of its own, see `add_alone`, to out.

    A row rests once its violation is at most tol × that of its first sweep. loss[0] += ½ bᵀGb − cᵀb of the new rows b.
    """
    kernels().alone_pass(XtF, grams, B, (float(l1), float(l2)), (order, sweeps, float(tol)), out, stats, loss)


# ---- every β --------------------------------------------------------------------------------------------------------


def divergence(given: MaskedBlock, F: Array, Ht: Array, beta: float) -> float:
    """Return Σ D_β(x | f·Htᵀ) over the observed entries of a block, in float64."""
    nothing, stats = np.zeros((0, F.shape[1])), np.zeros(STATS + 2 * F.shape[1])
    return _beta_pass(given, F, Ht, (beta, 1.0, 0.0), (0.0, 0.0), KEEP, True, F[:0], nothing, nothing, stats)


def multiply_beta(
    given: MaskedBlock,
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
    """Update F multiplicatively, add up the sums of the update of Ht, and return the loss; for every β.

    N and D have m rows each, for β = 1 and β = 2 too: what is observed differs from row to row.
    """
    rule, renew = (beta, gamma, floor), RENEW if update else KEEP
    return _beta_pass(given, F, Ht, rule, (l1, l2), renew, measure, out, N, D, stats)


def _beta_pass(
    given: MaskedBlock, F: Array, Ht: Array, rule: tuple[float, ...], penalty: tuple[float, float], update: int,
    measure: bool, out: Array, N: Array, D: Array, stats: Array,
) -> float:  # fmt: skip
    c, loss = F.dtype.type, 0.0
    for part, mask, a, b in _parts(given):
        losses = np.zeros(b - a if measure else 0)
        block = (*part[:-1], 128 if mask is None else _beta_height(part.columns, F.dtype, part.height))
        kernels().masked_beta_pass(
            block, _address(mask), F[a:b], Ht, tuple(map(float, rule)), (c(penalty[0]), c(penalty[1])), update,
            int(measure), out[a:b] if update else out, N, D, stats, losses,
        )  # fmt: skip
        loss += float(losses.sum())
    return loss


def _beta_height(columns: int, dtype: np.dtype, height: int) -> int:
    """Return the number of rows per tile where X, WH and its powers lie side by side: a divisor of that of a part."""
    fitting = (1200 << 10) // (3 * max(columns, 1) * dtype.itemsize)
    while height > 16 and height > fitting and height % 2 == 0:
        height //= 2
    return height


def code_alone(
    given: MaskedBlock,
    Ht: Array,
    beta: float,
    gamma: float,
    l1: float,
    l2: float,
    floor: float,
    tol: float,
    max_iter: int,
    out: Array,
    stats: Array,
) -> None:
    """Write the multiplicative code of each row on its observed entries to out, with H fixed."""
    c = Ht.dtype.type
    for part, mask, a, b in _parts(given):
        block = (*part[:-1], 128 if mask is None else _beta_height(part.columns, Ht.dtype, part.height))
        kernels().masked_code_pass(
            block, _address(mask), Ht, (float(beta), float(gamma), float(floor)), (c(l1), c(l2)),
            (float(tol), max_iter), out[a:b], stats,
        )  # fmt: skip


def impute(given: MaskedBlock, F: Array, H: Array, out: Array) -> None:
    """Write X with F·H (H of shape k × m) where it is missing to out.

    Parameters
    ----------
    given : MaskedBlock
    F : ndarray of shape (r, k)
    H : ndarray of shape (k, m)
    out : ndarray of shape (r, m)
    """
    for part, mask, a, b in _parts(given):
        assert mask is not None
        codes = np.ascontiguousarray(F[a:b])
        cpu.products(cpu.cut(codes, (0, b - a), part.height), H, out[a:b])
        X = matrix(part)
        np.copyto(out[a:b], X.toarray() if part.indptr else X, where=~mask, casting="unsafe")
