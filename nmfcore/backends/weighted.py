"""The CPU backend for an X whose rows and columns have weights: a block carries them.

The operations have the names and the arguments of those of `Backend`. With weights u of the rows and v of the columns,
a sum over the rows of X counts row i u_i times, and a sum over its columns counts column j v_j times:

    products X·diag(v)·Ht,    XtF += Xᵀ·diag(u)·F,    FtF += Fᵀ·diag(u)·F,    losses Σ u_i v_j d_β(x_ij, (F·Htᵀ)_ij).

The new rows of F do not depend on u. A Gram matrix of Ht is given by the solver, which weighs the columns of X in it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._typing import Array
from . import cpu
from .cpu import (
    QUEUES,
    Block,
    asarray,
    changes,
    column_sums,
    empty,
    gram,
    inner,
    kept,
    multiply_given,
    read,
    scale,
    send,
    stored_as_is,
    sweep,
    to_numpy,
    xp,
)
from .operations import CROSS, KKT, SQUARE, STATS, SWEEPS, TOTAL, UNSETTLED, VIOLATION, Beginning, Pace, Weighed

__all__ = [
    "CROSS", "KKT", "QUEUES", "SQUARE", "STATS", "SWEEPS", "TOTAL", "UNSETTLED", "VIOLATION", "Beginning", "Pace",
    "Weighed", "WeightedBlock", "add_gram", "add_products", "asarray", "changes", "code", "column_sums", "descend",
    "divergence", "empty", "gram", "inner", "kept", "kl_numerators", "multiply", "multiply_beta", "multiply_given",
    "opening", "products", "read", "scale", "send", "stored_as_is", "sweep", "to_numpy", "weighted", "worst_rows",
    "xp",
]  # fmt: skip


class WeightedBlock(NamedTuple):
    """Rows of X with the weights of these rows, and of the columns."""

    block: Block
    rows: Array  # u, float64
    columns: Array  # v, float64


def times(F: Array, weights: Array) -> Array:
    """Return each row of F times its weight, in the type of F."""
    return F * weights.astype(F.dtype)[:, None]


def weighted(given: WeightedBlock, F: Array, by_column: bool = False) -> Array:
    """Return the rows F of a block, or F with a row for each of its columns, as they count in sums."""
    return times(F, given.columns if by_column else given.rows)


def opening(given: WeightedBlock, dtype: np.dtype) -> Array:
    """Return [infinity, 0, Σ u_i v_j x_ij, Σ u_i v_j x_ij²] of the stored numbers, in float64."""
    return cpu.opening(given.block, dtype, (given.rows, given.columns))


def products(given: WeightedBlock, Ht: Array, out: Array) -> None:
    """Write X·diag(v)·Ht to out (r × k)."""
    cpu.products(given.block, times(Ht, given.columns), out)


def add_products(given: WeightedBlock, F: Array, XtF: Array) -> None:
    """Add Xᵀ·diag(u)·F to XtF (m × k, float64)."""
    cpu.add_products(given.block, times(F, given.rows), XtF)


def add_gram(given: WeightedBlock, dtype: np.dtype, XtX: Array) -> None:
    """Add Xᵀ·diag(u)·X to XtX (m × m, float64)."""
    cpu.add_gram(given.block, dtype, XtX, given.rows)


def descend(
    given: WeightedBlock,
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
    """Write F after up to `sweeps` sweeps of coordinate descent on (X·diag(v)·Ht, G) to out, and add up the sums."""
    cpu.descend(
        given.block, F, times(Ht, given.columns), G, l1, l2, order, sweeps, tol, out, XtF, FtF, stats, delta, begin,
        given.rows,
    )  # fmt: skip


def multiply(
    given: WeightedBlock, F: Array, Ht: Array, G: Array, l1: float, l2: float, out: Array, XtF: Array, FtF: Array,
    stats: Array,
) -> None:  # fmt: skip
    """Write F ⊙ X·diag(v)·Ht / (F·G + l1 + l2·F) to out, and add up the sums."""
    cpu.multiply(given.block, F, times(Ht, given.columns), G, l1, l2, out, XtF, FtF, stats, given.rows)


def multiply_beta(
    given: WeightedBlock,
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
    """Update F multiplicatively for β ≠ 2, add up the sums of the update of Ht, and return the loss."""
    return cpu.multiply_beta(
        given.block, F, Ht, beta, gamma, l1, l2, floor, update, measure, out, N, D, stats, (given.rows, given.columns)
    )


def kl_numerators(given: WeightedBlock, F: Array, Ht: Array, out: Array) -> None:
    """Write (X ⊘ F·Htᵀ)·diag(v)·Ht over the stored numbers of CSR rows to out."""
    cpu.kl_numerators(given.block, F, Ht, out, given.columns)


def code(
    given: WeightedBlock,
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
    """Write the multiplicative code of each row to out, with H fixed."""
    cpu.code(given.block, Ht, beta, gamma, l1, l2, floor, tol, max_iter, by_step, out, stats, given.columns)


def divergence(given: WeightedBlock, F: Array, Ht: Array, beta: float) -> float:
    """Return Σ u_i v_j d_β(x_ij, (F·Htᵀ)_ij) over the block, in float64."""
    return cpu.divergence(given.block, F, Ht, beta, (given.rows, given.columns))


def worst_rows(given: WeightedBlock, F: Array, Ht: Array, worst: Array) -> None:
    """Enter the rows of a block with the largest losses into the table `worst`, of those that count.

    How much a row counts is of no account, so that the worst row is that of an X with repeated rows.
    """
    cpu.worst_rows(given.block, F, Ht, worst, ((given.rows > 0).astype(np.float64), given.columns))
