"""Coordinate descent for the Kullback-Leibler divergence: rows of F, one coordinate at a time.

With s = f·Hᵀ, the divergence of a row as a function of one coordinate f + d has the slope A − N(d), where

    N(d) = Σ_j x_j h_j / (s_j + d·h_j),    N = N(0),    H = −N'(0) = Σ_j x_j h_j² / s_j²,    A = Σ_j h_j.

C.-J. Hsieh, I. Dhillon, "Fast coordinate descent methods with variable selection for non-negative matrix
factorization", KDD 2011, take Newton's step (N − A)/H. The step here is the root of A = N / (1 + d·H/N), which by
Jensen's inequality lies between Newton's and the minimum for N > A, and overshoots it less for N < A; it is
exact where all h_j / s_j are equal. Where it overshoots, the change of the divergence is at most

    (N − A)·|d| + d²·H·B(ρ|d|),    B(τ) = (−log(1 − τ) − τ) / τ²,    ρ = max h_j / s_j over x_j > 0,

as (−log(1 − u) − u) / u² increases with u. A step for which this is positive is replaced by λ/(1 + λρ), λ = (A − N)/H,
at which it is negative: no step raises the divergence. ρ ≤ 1/f saves looking for it, mostly.
"""

import numpy as np

from ..operations import CROSS, KKT, SQUARE, STATS, SWEEPS, TOTAL, UNSETTLED, VIOLATION
from ._decorators import inner, kernel
from ._simd import out_of_line
from .arguments import Block
from .buffers import ALIGN, aligned, clear, leading, pad_transposed, round_up
from .multiplicative import EPSILON
from .powers import logarithm
from .reading import at, load_tile, longest_row, widen_sparse_row

PART = 2048  # numbers that are added up in the compute type before their sum goes to float64
# Share of positive numbers of a dense row up to which the others are left out: in a sweep a number takes 0.5 ns per
# component, and leaving out those beside it 1 ns.
ONCE, OFTEN = 0.4, 0.75  # for one sweep, for more


@inner
def pick(Ht, j, Q, ld, p):
    """Copy row j of Ht to column p of the panel Q."""
    h = Ht[j]
    for t in range(h.size):
        Q[t * ld + p] = h[t]


@inner
def gather_dense(X, first, m, Ht, x, Q, ld):
    """Copy the positive numbers of a dense row to x, and the rows of Ht that belong to them to Q as columns."""
    out_of_line()
    length = 0
    for j in range(m):
        value = X[first + j]
        if value > 0:
            x[length] = value
            pick(Ht, j, Q, ld, length)
            length += 1
    return length


@inner
def gather_sparse(block, begin, stored, run, Ht, x, Q, ld):
    """Copy the positive numbers of a CSR row to x, and the rows of Ht that belong to them to Q as columns."""
    out_of_line()
    length, floor = 0, run.dtype.type(EPSILON)
    for p in range(stored):
        if run[p] > floor:
            x[length] = run[p]
            pick(Ht, at(block.indices, block.wide, begin + p), Q, ld, length)
            length += 1
    return length


@inner
def count_positive(X, first, m):
    """Set the numbers of a row up to scikit-learn's floor to 0, as the loss counts them; return how many are above."""
    out_of_line()
    x, floor, zero, found = X[first : first + m], X.dtype.type(EPSILON), X.dtype.type(0), 0
    for j in range(m):
        above = x[j] > floor
        x[j] = x[j] if above else zero
        found += above
    return found


@inner
def move(s, v, Q, first, length, d):
    """Add d times a row of the panel to s, and keep v = 1 / s."""
    out_of_line()
    one, floor, by = s.dtype.type(1), s.dtype.type(EPSILON), s.dtype.type(d)
    s_row, v_row, q = s[:length], v[:length], Q[first : first + length]
    for j in range(length):
        z = s_row[j] + by * q[j]
        s_row[j] = z
        v_row[j] = one / (z if z > floor else floor)


@inner
def moments(x, v, Q, first, length):
    """Return N = Σ x_j h_j / s_j and H = Σ x_j h_j² / s_j²."""
    out_of_line()
    zero, N, H = x.dtype.type(0), 0.0, 0.0
    for a in range(0, length, PART):
        size = min(PART, length - a)
        x_part, v_part, q = x[a : a + size], v[a : a + size], Q[first + a : first + a + size]
        n_part, h_part = zero, zero
        for j in range(size):
            ratio = q[j] * v_part[j]
            weighed = x_part[j] * ratio
            n_part += weighed
            h_part += weighed * ratio
        N += n_part
        H += h_part
    return N, H


@inner
def largest_ratio(x, v, Q, first, length):
    """Return the largest h_j / s_j over x_j > 0."""
    out_of_line()
    largest = x.dtype.type(0)
    for j in range(length):
        ratio = Q[first + j] * v[j]
        if x[j] > 0 and ratio > largest:
            largest = ratio
    return np.float64(largest)


@inner
def lowers(slope, step, H, l2, tau):
    """Return whether a step back by `step` lowers the objective in any case; tau = ρ·step."""
    if tau >= 1:
        return False
    if tau <= 0.5 and slope >= step * (H * 0.773 + 0.5 * l2):  # B(τ) is less: most steps need no logarithm
        return True
    if tau < 1e-3:
        bound = 0.5 + tau / 3 + 0.26 * tau * tau
    else:
        bound = (-np.log(1 - tau) - tau) / (tau * tau)
    return slope >= step * (H * bound + 0.5 * l2)


@inner
def coordinate_step(f, N, H, linear, l2, x, v, Q, first, length):
    """Return the step of a coordinate; linear = A + l1 + l2·f, so that linear − N is the gradient."""
    slope = linear - N
    if slope >= 0 and f == 0:
        return 0.0
    if N <= 0 or H <= 0:
        return -f if linear > 0 else 0.0
    ratio = H / N
    b = linear * ratio + l2
    d = -2 * slope / (b + np.sqrt(max(b * b - 4 * l2 * ratio * slope, 0.0)))
    if d >= 0:
        return d
    step = min(-d, f)
    if lowers(slope, step, H, l2, step / f):
        return -step
    rho = largest_ratio(x, v, Q, first, length)
    if lowers(slope, step, H, l2, step * rho):
        return -step
    newton = slope / (H + l2)
    return -min(newton / (1 + newton * rho), f)


@inner
def terms(x, s, length):
    """Return Σ x_j log(x_j / s_j) − x_j + s_j with scikit-learn's floors, and Σ s_j."""
    out_of_line()
    total, sums, floor = 0.0, 0.0, np.float64(EPSILON)
    x_row, s_row = x[:length], s[:length]
    for j in range(length):
        x_j, s_j = np.float64(x_row[j]), np.float64(s_row[j])
        log = logarithm(max(x_j, floor) / max(s_j, floor))
        total += s_j + (x_j * log - x_j if x_j > floor else 0.0)
        sums += s_j
    return total, sums


@kernel
def newton_pass(block, F, begin, Ht, totals, penalty, descent, out, stats, losses):
    """Write F after sweeps of coordinate descent on the Kullback-Leibler divergence to out.

    begin = (before, weight): the sweeps begin at max(0, F + weight·(F − before)); an F of no rows stands for rows that
    begin with equal numbers, and the sum of X. totals: column sums of Ht, float64. penalty = (l1, l2), descent =
    (order, sweeps, tol): coordinates that `order` does not name stay as they are, and a row rests once its violation is
    at most tol × that of its first sweep. losses: Σ_j d(x_ij | s_ij) of the new rows, in float64.

    stats, of the first sweep: VIOLATION += Σ|projected gradient|, CROSS += Σ|f·∇|, KKT += Σ f·N, and by column, from
    STATS on, Σ f and Σ max(0, −∇) over f = 0. TOTAL and SQUARE: sums of the new rows and of their squares.
    """
    given = Block(*block)
    n, m, k = given.rows, given.columns, Ht.shape[1]
    before, weight = begin
    l1, l2 = penalty
    order, sweeps, tol = descent
    few = m * (ONCE if sweeps == 1 else OFTEN)
    sparse, fresh = given.indptr != 0, F.shape[0] == 0
    longest = longest_row(given) if sparse else m
    ld, mp, height = leading(m), round_up(m, ALIGN), min(given.height, max(n, 1))
    lq = leading(max(longest, 1))
    X, run = aligned(0 if sparse else height * ld, Ht), aligned(max(1, longest) if sparse else 0, Ht)
    x, s, v = aligned(lq, Ht), aligned(max(lq, mp), Ht), aligned(max(lq, mp), Ht)
    Q, Hp, made = aligned(k * lq, Ht), aligned(0 if sparse else k * mp, Ht), False
    f, mass = np.empty(k), 0.0
    for t in range(k):
        mass += totals[t]
    for i0 in range(0, n, height):
        rows = min(height, n - i0)
        if not sparse:
            load_tile(given, None, i0, rows, rows, X, ld, run)
        for i in range(i0, i0 + rows):
            row, panel, step = x, Q, lq
            picked = True
            if sparse:
                first, stored = widen_sparse_row(given, i, run)
                length = gather_sparse(given, first, stored, run, Ht, x, Q, lq)
            else:
                start = (i - i0) * ld
                picked = count_positive(X, start, m) <= few
                if picked:
                    length = gather_dense(X, start, m, Ht, x, Q, lq)
                else:
                    length = m
                    if not made:
                        pad_transposed(Ht, Hp, mp)
                        made = True
                    row, panel, step = X[start : start + mp], Hp, mp
            whole = round_up(length, ALIGN)
            if picked:
                clear(x, length, whole)
                for t in range(k):
                    clear(Q, t * lq + length, t * lq + whole)
            if fresh:
                total = 0.0
                for j in range(length):
                    total += row[j]
                for t in range(k):
                    f[t] = total / mass if mass > 0 else 0.0
            else:
                for t in range(k):
                    ahead = F[i, t]
                    if weight != 0:
                        ahead = max(ahead + weight * (np.float64(ahead) - before[i, t]), 0.0)
                    f[t] = np.float64(Ht.dtype.type(ahead))
            clear(s, np.intp(0), whole)
            for t in range(k):
                if f[t] != 0:
                    move(s, v, panel, t * step, whole, f[t])
            if whole:
                move(s, v, panel, np.intp(0), whole, 0.0)  # v, where all of f is 0
            least, done, settled = 0.0, 0, False
            while done < sweeps and not settled:
                violation = 0.0
                for c in range(order.size):
                    t = order[c]
                    N, H = moments(row, v, panel, t * step, whole)
                    linear = totals[t] + l1 + l2 * f[t]
                    slope = linear - N
                    pull = -min(slope, 0.0) if f[t] == 0 else abs(slope)
                    violation += pull
                    if done == 0:
                        stats[CROSS] += abs(f[t] * slope)
                        stats[KKT] += f[t] * N
                        stats[STATS + t] += f[t]
                        if f[t] == 0:
                            stats[STATS + k + t] += pull
                    d = coordinate_step(f[t], N, H, linear, l2, row, v, panel, t * step, whole)
                    if d != 0:
                        new = np.float64(Ht.dtype.type(max(f[t] + d, 0.0)))  # as it is stored
                        move(s, v, panel, t * step, whole, new - f[t])
                        f[t] = new
                if done == 0:
                    stats[VIOLATION] += violation
                    least = tol * violation
                done += 1
                settled = violation <= least
            stats[SWEEPS] = max(stats[SWEEPS], done)
            stats[UNSETTLED] += not settled
            inside = 0.0
            for t in range(k):
                out[i, t] = f[t]
                stats[TOTAL] += f[t]
                stats[SQUARE] += f[t] * f[t]
                inside += f[t] * totals[t]
            if losses.size:
                loss, sums = terms(row, s, length)
                losses[i] = loss + (inside - sums if picked else 0.0)
