"""Mini-batches by multiplicative updates: H from weighted sums over the batches, W batch by batch.

After a batch X_b has given its rows W_b (H fixed),

    A ← ρ·A + H^(1/γ) ⊙ N,    B ← ρ·B + D,    H ← (A / B)^γ

with numerator N and denominator D of the multiplicative update of H on that batch, penalties in D.
A. Lefèvre, F. Bach, C. Févotte, "Online algorithms for nonnegative matrix factorization with the
Itakura-Saito divergence", WASPAA 2011. Steps, costs and stop rules are scikit-learn's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from .._typing import Array
from ..objective import divergence, inner
from ..solvers._common import Solver
from ..solvers.multiplicative import TINY, MultiplicativeUpdate
from .loop import Step

if TYPE_CHECKING:
    from ..rows.base import Rows
    from ..solvers import Fixed

EPSILON = float(np.finfo(np.float32).eps)  # takes the place of a denominator of zero


class Memory(NamedTuple):
    """The sums whose quotient is H, m × k, float64."""

    numerator: Array
    denominator: Array

    @classmethod
    def of(cls, Ht: Array) -> Memory:
        """Return the memory before the first batch: H over 1."""
        return cls(Ht.astype(np.float64), np.ones(Ht.shape))


def solve_rows(data: Rows, solver: MultiplicativeUpdate, Ht: Array, tol: float, max_iter: int) -> Array:
    """Solve for W from a constant, H fixed, until ‖ΔW‖ ≤ tol·‖W‖ for the batch as a whole.

    Parameters
    ----------
    data : Rows
        The batch, n × m.
    solver : MultiplicativeUpdate
        Its penalties are scaled for this batch.
    Ht : ndarray of shape (m, k)
        Hᵀ.
    tol : float
        Tolerance. 0 makes exactly `max_iter` updates.
    max_iter : int
        Maximum number of updates.

    Returns
    -------
    W : ndarray of shape (n, k)
    """
    k = Ht.shape[1]
    W = np.full((data.shape[0], k), math.sqrt(data.summary().mean / k), dtype=data.dtype)
    for _ in range(max_iter):
        before, W = W, solver.update_rows(data, W, Ht)
        change = W - before
        if tol > 0 and math.sqrt(inner(change, change)) <= tol * math.sqrt(inner(W, W)):
            break
    return W


class MultiplicativeLearner:
    """Steps of multiplicative updates.

    Parameters
    ----------
    solver_for : callable
        Makes the multiplicative solver for a batch of the given number of rows, on which penalties depend.
    rho : float
        Factor by which the past counts less after each batch.
    tol : float
        Tolerance of the rows that are solved for anew, see `solve_rows`.
    restart_iter : int
        Maximum number of updates of these rows.
    fixed : Fixed or None
        Which columns of Ht no step changes. None is none of them.
    """

    rule: ClassVar[str] = "smoothed cost"

    def __init__(
        self, solver_for: Callable[[int], Solver], rho: float, *, tol: float, restart_iter: int,
        fixed: Fixed | None = None,
    ):  # fmt: skip
        self.solver_for = functools.cache(solver_for)
        self.rho, self.tol, self.restart_iter, self.fixed = rho, tol, restart_iter, fixed

    def begin(self, Ht: Array) -> Memory:
        """Return the memory before the first batch."""
        return Memory.of(Ht)

    def rearranged(self, memory: Memory, order: Array, scales: Array) -> Memory:
        """Return the sums of components in another order, of which W is multiplied by scales and H divided."""
        by = scales ** (1 - 1 / self._gamma)
        return Memory(memory.numerator[:, order] * by, memory.denominator[:, order] * scales)

    @property
    def _gamma(self) -> float:
        solver = self.solver_for(1)
        assert isinstance(solver, MultiplicativeUpdate)
        return solver.gamma

    def step(self, data: Rows, W: Array | None, Ht: Array, memory: Memory) -> Step[Memory]:
        """Learn from one batch.

        Parameters
        ----------
        data : Rows
            The batch, n × m.
        W : ndarray of shape (n, k) or None
            The rows, which are updated once. None solves for them anew.
        Ht : ndarray of shape (m, k)
            Hᵀ.
        memory : Memory
            The sums over the batches before.

        Returns
        -------
        step : Step
        """
        mu = self.solver_for(data.shape[0])
        assert isinstance(mu, MultiplicativeUpdate)
        if W is None:
            W = solve_rows(data, mu, Ht, self.tol, self.restart_iter)
            if mu.floor_W:
                W[W < TINY] = 0
            cost = divergence(data, W, Ht, mu.beta)
            N, D = mu.column_terms(data, W, Ht)
        else:
            W, cost, N, D = mu.learn(data, W, Ht)
        p = mu.penalties
        if any(p):
            cost += p.l1_W * float(W.sum(dtype=np.float64)) + p.l1_H * float(Ht.sum(dtype=np.float64))
            cost += p.l2_W * inner(W, W) + p.l2_H * inner(Ht, Ht)  # without ½, as in scikit-learn
        Ht, memory = self._updated(mu, Ht, N, D, memory)
        return Step(W, Ht, memory, cost / data.shape[0])

    def _updated(self, mu: MultiplicativeUpdate, Ht: Array, N: Array, D: Array, memory: Memory) -> tuple[Array, Memory]:
        """Return the new Ht and the new sums."""
        p = mu.penalties
        if p.l1_H > 0:
            D = D + p.l1_H
        if p.l2_H > 0:
            D = D + p.l2_H * Ht
        if not D.all():
            D = np.where(D == 0, EPSILON, D)
        H = Ht.astype(np.float64)
        if mu.gamma != 1:
            H **= 1 / mu.gamma
        memory = Memory(self.rho * memory.numerator + N * H, self.rho * memory.denominator + D)
        if self.fixed is not None:  # the quotient that they are, should they be fixed no longer
            kept = self.fixed.kept
            memory.numerator[:, kept] = H[:, kept] * memory.denominator[:, kept]
        H = memory.numerator / memory.denominator
        if mu.gamma != 1:
            H **= mu.gamma
        if mu.floor_H:
            H[H < TINY] = 0
        new = H.astype(Ht.dtype, copy=False)
        return new if self.fixed is None else self.fixed.restored(new, Ht), memory
