"""Online coordinate descent: H from sums over the batches seen, and nothing else of them is kept.

A batch X_b has its rows W_b coded (H fixed), the past fades, and H is solved for given the sums:

    W_b = argmin_{W ≥ 0} ½‖X_b − WH‖² + penalties,    A ← ρ·A + W_bᵀW_b,    B ← ρ·B + X_bᵀW_b,
    H = argmin_{H ≥ 0} ½⟨A, HHᵀ⟩ − ⟨B, Hᵀ⟩ + penalties,    both by sweeps of coordinate descent

J. Mairal, F. Bach, J. Ponce, G. Sapiro, "Online learning for matrix factorization and sparse coding", JMLR 11, 2010.
What is kept are k(m + k) numbers and a few, however many rows went by.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from ..loop.solve import factorize
from ..objective import Penalties, inner, trace_loss
from ..scale import COMFORT, times
from ..solvers.accelerated_hals import ROUNDING, AcceleratedHALS, balance
from ..solvers.coordinate_descent import CoordinateDescent, natural_order
from ..starts.nndsvd import initialize, spectral_start
from ..starts.samples import PASSES, TOL
from . import multiplicative as minibatch
from .multiplicative import Step

if TYPE_CHECKING:
    from ..rows.memory import Rows
    from ..rows.state import RowState
    from ..solvers._common import Orders

Array = NDArray[Any]

# Measured on MNIST k = 15, cats k = 50, CBCL k = 49 and BBC k = 20, after one pass over batches of 1,024 rows (BBC:
# 256): error / that of many passes of NMF's hals.
# A second look at the batch, with the H that the first one made: 1.0061 → 1.0059, 1.0095 → 1.0080, 1.110 → 1.092,
# 1.037 → 1.026, for 1.3 of the time; a third brings half as much again. H extrapolated from batch to batch is no help:
# weights from 0.8 on make the errors of CBCL and cats grow from pass to pass.
LOOKS = 2
CODING = (30, 0.01)  # sweeps, and the share of its first step below which a row is left alone, of rows from nothing
WARM = (8, 0.1)  # … of rows that begin where they were
SWEEPS_H = (5, 0.1)  # 10 or 30 change little
# The rows seen first were coded with an H that knew little: row number s of t counts (s/t)^EARLY, Mairal's β_t. MNIST
# after one pass from a short first fit: 0: 1.0116, 1: 1.0102, 2: 1.0096, 3: 1.0093. A longer one counts more, see
# `first_start`: then 1 and 2 differ by less than 0.0001. Mean of ten cases of other sets, as their rows come, sorted,
# and shuffled: 0: 1.116, 1.098, 1.033; 1: 1.121, 1.106, 1.034; 2: 1.129, 1.116, 1.037; patches of a photograph as they
# come: 1.147, 1.129, 1.122.
EARLY = 1.0
# The same where H begins with a fit of rows from all over X: these rows count in full. One pass over shuffled batches,
# ten cases of CBCL, ORL, digits, patches of a photograph, spectra, MNIST and BBC, mean and worst error / that of NMF's
# hals: 0: 1.004, 1.011; 0.5: 1.005, 1.014; 1: 1.006, 1.020; 2: 1.010, 1.035.
KNOWN = 0.0
FAINT = 1e-12  # a component with at most this share of what is remembered is not remembered at all,
PATIENCE = 5  # and is dead once so many rows per component have gone by without it
# Powers of two between the norms of a component and of a row, at most. Single rows with no memory make the norms of
# components drift until float32 is left.
FAR = 16


class Sums(NamedTuple):
    """All that is remembered of the batches."""

    XtW: Array  # B, m × k, float64
    WtW: Array  # A, k × k, float64
    sum_W: Array  # column sums of W, k
    rows: float  # weight of the rows in them
    seen: float  # rows that went by
    power: int = 0  # of 4: the sums are those of 4^power·X

    @classmethod
    def of(cls, Ht: Array) -> Sums:
        """Return the memory of no batch."""
        m, k = Ht.shape
        return cls(np.zeros((m, k)), np.zeros((k, k)), np.zeros(k), 0.0, 0.0)

    def and_then(self, weight: float, XtW: Array, WtW: Array, sum_W: Array, rows: int) -> Sums:
        """Return these sums, faded, and a batch's."""
        return Sums(
            weight * self.XtW + XtW, weight * self.WtW + WtW, weight * self.sum_W + sum_W,
            weight * self.rows + rows, self.seen + rows, self.power,
        )  # fmt: skip

    def in_unit(self, power: int) -> Sums:
        """Return these sums as those of 4^power·X."""
        by = power - self.power
        return self._replace(
            XtW=times(self.XtW, 3 * by), WtW=times(self.WtW, 2 * by), sum_W=times(self.sum_W, by), power=power
        )

    def seen_in(self, data: Rows) -> bool:
        """Whether a batch is not too large to be read as those before it were."""
        return data.opening().total == 0 or 2 * (data.opening().level + self.power) <= COMFORT[data.dtype.itemsize]

    def without(self, components: Array) -> Sums:
        """Return the sums as if these components had never been used."""
        kept = np.ones(len(self.sum_W))
        kept[components] = 0
        return self._replace(XtW=self.XtW * kept, WtW=self.WtW * np.outer(kept, kept), sum_W=self.sum_W * kept)

    def worth_having(self, HHt: Array) -> Sums:
        """Return the sums without components that stand for next to nothing of what is remembered.

        They have faded, or were used by rounding errors only; H, a quotient, would be made of these.
        """
        share = np.diagonal(self.WtW) * np.diagonal(HHt)
        faint = (share <= FAINT * share.sum()) & (np.diagonal(self.WtW) > 0)
        return self.without(faint) if faint.any() else self


class _Coding(CoordinateDescent):
    """Sweeps over the rows of a batch, and their sums."""

    def __init__(self, penalties: Penalties, sweeps: int, settled: float):
        super().__init__(penalties)
        self.sweeps, self.settled = sweeps, settled

    def visit(
        self, backend: Any, block: Any, rows: RowState, orders: Orders, after: RowState, sums: dict[str, Array]
    ) -> None:
        p, W = self.penalties, after.arrays["W"]
        backend.descend(
            block, rows.arrays["W"], orders.Ht, orders.HHt, p.l1_W, p.l2_W, orders.order, self.sweeps, 0.0,
            W, sums["XtW"], sums["WtW"], sums["stats"], self.settled,
        )  # fmt: skip
        if self.penalised:
            sums["sum_W"] += W.sum(axis=0, dtype=np.float64)

    def pass_over(self, data: Rows, state: RowState, Ht: Array) -> tuple[RowState, dict[str, Array], Array]:
        """Return the coded rows, their sums, and the Gram of H."""
        small = self.start(data, data.backend.asarray(Ht))
        if self.penalised:
            self.sums |= {"sum_W": (Ht.shape[1],)}
        after, sums = data.reduce(self.visit, state, self.fix(small), self.sums, self.gather, self.gathered)
        return after, sums, small.HHt


class Learner:
    """Steps of online coordinate descent.

    Parameters
    ----------
    penalties_for : callable
        The penalties of that many rows (of a weight, in the sums).
    forget_factor : float
        What remains of the past after `period` rows.
    period : int
        Rows.
    early : float or None
        How much less the rows seen first count; None: `EARLY`.
    power : int
        Of 4: batches are those of 4^power·X.
    """

    def __init__(
        self,
        penalties_for: Callable[[float], Penalties],
        forget_factor: float,
        period: int,
        early: float | None = None,
        power: int = 0,
    ):
        self.penalties_for = penalties_for
        self.forget_factor, self.period, self.power = forget_factor, period, power
        self.early = EARLY if early is None else early

    def begin(self, Ht: Array) -> Sums:
        """Return the memory of no batch."""
        return Sums.of(Ht)._replace(power=self.power)

    def step(self, data: Rows, W: Array | None, Ht: Array, memory: Sums) -> Step:
        """Learn from one batch.

        Parameters
        ----------
        data : Rows
            The batch, n × m.
        W : ndarray of shape (n, k) or None
            Where its rows begin; None, or nothing but zeros: from nothing.
        Ht : ndarray of shape (m, k)
            Hᵀ.
        memory : Sums
            Of the batches before.

        Returns
        -------
        step : Step
            Its cost is of the H that did not know the batch yet.
        """
        rows, k = data.shape[0], Ht.shape[1]
        begun = W is not None and W.any()
        state = data.state(W=np.zeros((rows, k), Ht.dtype) if W is None else W.copy())  # written by the second look
        weight = self.forget_factor ** (rows / self.period) * (memory.seen / (memory.seen + rows)) ** self.early
        p = self.penalties_for(rows)
        cost, learned = math.nan, memory
        for look in range(LOOKS):
            state, sums, HHt = _Coding(p, *(WARM if begun or look else CODING)).pass_over(data, state, Ht)
            if look == 0:
                cost = trace_loss(data.opening().squares, inner(sums["XtW"], Ht), inner(sums["WtW"], HHt))
                if any(p):
                    squares = float(np.trace(sums["WtW"])), float(np.trace(HHt))
                    cost += p.value(float(sums["sum_W"].sum()), float(Ht.sum(dtype=np.float64)), *squares)
            sum_W = sums["sum_W"] if any(p) else np.zeros(k)
            learned = memory.and_then(weight, sums["XtW"], sums["WtW"], sum_W, rows).worth_having(HHt)
            Ht, HHt = self._solve(data, Ht, learned)
        W, Ht, learned = self._rescale(data, state["W"], Ht, HHt, learned)
        Ht, learned = self._revive(data, W, Ht, learned)
        return Step(W, Ht, learned, cost / rows)

    def _solve(self, data: Rows, Ht: Array, sums: Sums) -> tuple[Array, Array]:
        """Sweep over the columns of H for given sums → new Ht, and its Gram."""
        backend, (m, k), p = data.backend, Ht.shape, self.penalties_for(sums.rows)
        new, order = np.empty_like(Ht), natural_order(k)

        def sweep(lo: int, hi: int, stats: Array, HHt: Array) -> None:
            backend.sweep(
                Ht[lo:hi], sums.WtW, sums.XtW[lo:hi], p.l1_H, p.l2_H, order, new[lo:hi], HHt, stats, *SWEEPS_H
            )

        _, HHt = data.map_rows(sweep, m, 2.0 * SWEEPS_H[0] * m * k * k, ((backend.STATS,), (k, k)))
        return new, HHt

    def _rescale(self, data: Rows, W: Array, Ht: Array, HHt: Array, sums: Sums) -> tuple[Array, Array, Sums]:
        """Put components into the scale that costs least, or keep what costs nothing within bounds."""
        p, squares_W, squares_H = self.penalties_for(sums.rows), np.diagonal(sums.WtW), np.diagonal(HHt)
        if any(p):  # alternating steps find that scale too, but take hundreds of batches for it
            sum_H = Ht.sum(axis=0, dtype=np.float64)
            d = balance(p.l1_W * sums.sum_W, p.l2_W * squares_W, p.l1_H * sum_H, p.l2_H * squares_H)
        else:
            row = data.opening().squares / data.shape[0]
            ratio = np.divide(squares_H, row, out=np.ones_like(squares_H), where=(squares_H > 0) & (row > 0))
            power = np.round(np.log2(ratio) / 2)
            d = np.exp2(np.where(np.abs(power) > FAR, power, 0))  # a power of two rounds nothing
        if (d == 1).all():
            return W, Ht, sums
        sums = sums._replace(XtW=sums.XtW * d, WtW=sums.WtW * np.outer(d, d), sum_W=sums.sum_W * d)
        return (W * d).astype(W.dtype), (Ht / d).astype(Ht.dtype), sums

    def _revive(self, data: Rows, W: Array, Ht: Array, sums: Sums) -> tuple[Array, Sums]:
        """Give a component that stands for nothing the residual of the batch's worst row: the lowest one, a batch."""
        k = Ht.shape[1]
        unused = np.diagonal(sums.WtW) == 0
        dead = np.flatnonzero(~Ht.any(axis=0) | (unused & (sums.rows >= PATIENCE * k)))
        if not dead.size:
            return Ht, sums
        found = [data.backend.xp.zeros((1, 1 + data.shape[1])) for _ in data.plan(k).lanes]
        W, t = W.copy(), dead[0]
        W[:, t] = 0

        def look(lane: int, lo: int, hi: int, block: Any) -> None:
            data.backend.worst_rows(block, W[lo:hi], Ht, found[lane])

        data.visit_all(look, k)
        worst = max((data.backend.to_numpy(table)[0] for table in found), key=lambda row: row[0])  # the first of equals
        loss, h = worst[0], worst[1:, None]
        p = self.penalties_for(sums.rows)
        d = balance(*np.array([[p.l1_W], [p.l2_W], [p.l1_H * h.sum()], [p.l2_H * inner(h, h)]]))
        h = h / d
        price = p.value(float(d[0]), float(h.sum()), float(d[0] ** 2), inner(h, h))
        gain = 0.5 * inner(h, h) * float(d[0] ** 2)
        rounding = ROUNDING[W.dtype.itemsize] * 0.5 * data.opening().squares / data.shape[0]
        if not (loss > rounding and gain > price):  # met exactly, or not worth a penalty: zero is the answer
            return Ht, sums
        Ht = Ht.copy()
        Ht[:, t] = h[:, 0]
        return Ht, sums.without(dead[:1])


def first_start(data: Rows, k: int, penalties: Penalties, random_state: Any = None) -> Array:
    """Ht to begin with: that of a fit of some rows.

    MNIST, k = 15, 7 orders of the rows: after one pass in batches of 1,024 rows the median error is 1.0105 of that of
    many passes over all rows if the fit of the first batch takes 5 passes, 1.0059 with 20, and 1.0031 with 60.

    Parameters
    ----------
    data : Rows
        The first batch, or a sample of the rows.
    k : int
        Components.
    penalties : Penalties
        Of so many rows.
    random_state : int, RandomState or None
        Draws the start of the randomised SVD; H itself where k > min(n, m).

    Returns
    -------
    Ht : ndarray of shape (m, k)
        C-contiguous, in the compute type.
    """
    rng = check_random_state(random_state)
    if k > min(data.shape):
        return initialize(data, k, "random", rng)[1]
    W, Ht = spectral_start(data, k, rng)
    found = factorize(data, AcceleratedHALS(penalties), W, Ht, tol=TOL, max_iter=PASSES, measure=False)
    if found.interruption is not None:
        found.interruption.again()
    return found.Ht


class Patience(minibatch.Patience):
    """Two rules on the mean cost over the last pass: it hardly fell in a pass, or did not improve for long.

    Over a whole pass, so that batches which differ are no matter: it changes by what the newest batch costs less than
    a pass ago.

    Parameters
    ----------
    n : int
        Rows of X.
    count : int
        Batches.
    tol : float
        Of the relative fall of √cost from pass to pass; 0 switches that rule off.
    most : int or None
        Steps to wait for a smaller mean cost.
    n_steps : int
        Most steps.
    verbose : int
        Prints lines as scikit-learn's.
    """

    def __init__(self, n: int, count: int, tol: float, most: int | None, n_steps: int, verbose: int):
        super().__init__(n, tol, most, n_steps, verbose)
        self.costs, self.before = np.zeros(count), math.nan

    def look(self, number: int, made: Step, before: Array) -> str | None:
        """Return the reason to stop after step `number` (from 1), if there is one."""
        count = len(self.costs)
        self.costs[(number - 1) % count] = made.cost * made.W.shape[0]
        line = f"Minibatch step {number}/{self.n_steps}: mean batch cost: {made.cost}"
        if number < count:
            self._say(line)
            return None
        mean = float(self.costs.sum()) / self.n
        self._say(f"{line}, cost of a pass: {mean}")
        if number % count == 0:
            last, self.before = self.before, mean
            if mean == 0:
                return "nothing of X is left"
            if self.tol > 0 and 1 - math.sqrt(mean / last) < self.tol:  # no number: not after the first pass
                self._say(f"Converged (small fall of the cost) at step {number}/{self.n_steps}")
                return f"the error fell by less than tol = {self.tol:g} of itself in a pass"
        if mean < self.least:
            self.least, self.waited = mean, 0
        else:
            self.waited += 1
        if self.most is not None and self.waited >= self.most:
            self._say(f"Converged (lack of improvement in objective function) at step {number}/{self.n_steps}")
            return f"the mean cost did not improve for {self.waited} steps"
        return None
