"""The multiplicative step, from given numerators and denominators."""

import numpy as np

from ..operations import KKT, STATS, VIOLATION
from ._decorators import inner, kernel, once
from ._simd import out_of_line
from .buffers import aligned, copy_rows, lanes_of, pad_rows, round_up
from .powers import power

EPSILON = np.finfo(np.float32).eps  # scikit-learn's floor for WH and for denominators


@inner
def multiply_rows(Fp, Np, Dp, kp, first, rows, k, penalty, gamma, floor, hess, stats):
    """F ← F ⊙ (N / (D + l1 + l2·F))^γ in place, with the parts of the KKT residual (∇ = denominator − numerator).

    With `hess` (β = 2: the diagonal of the Gram): stats[KKT] += Σ hess_t s², s = f − max(0, f − ∇/hess_t).
    Without: stats[VIOLATION] += Σ|f·∇|, stats[KKT] += Σ f·N, and by column, from stats[STATS] on, Σ f and
    Σ max(0, −∇) over f = 0.
    """
    out_of_line()
    l1, l2 = penalty
    newton = hess.size > 0
    residual, scale = 0.0, 0.0
    for i in range(first, first + rows):
        for t in range(k):
            f = Fp[i * kp + t]
            numerator = Np[i * kp + t]
            denominator = Dp[i * kp + t] + l1 + l2 * f
            gradient = np.float64(denominator) - np.float64(numerator)
            if newton:
                if hess[t] > 0:
                    step = max(np.float64(f) - gradient / hess[t], 0.0) - f
                    scale += hess[t] * step * step
            else:
                residual += abs(f * gradient)
                scale += np.float64(f) * numerator
                stats[STATS + t] += f
                if f == 0:
                    stats[STATS + k + t] += max(0.0, -gradient)
            if denominator == 0:
                denominator = EPSILON
            ratio = numerator / denominator
            if gamma == 0.5:
                ratio = np.sqrt(ratio)
            elif gamma != 1:
                ratio = Fp.dtype.type(power(np.float64(ratio), gamma))
            new = f * ratio
            Fp[i * kp + t] = 0 if new < floor else new
    stats[VIOLATION] += residual
    stats[KKT] += scale


@once
def add_weighed(of_row, weight, stats):
    """Add the numbers that `multiply_rows` has left for a row to stats, weight times, and set them to 0."""
    out_of_line()
    for s in (VIOLATION, KKT):
        stats[s] += weight * of_row[s]
        of_row[s] = 0
    for s in range(STATS, of_row.size):
        stats[s] += weight * of_row[s]
        of_row[s] = 0


@kernel
def multiply_pass(F, N, D, penalty, gamma, floor, out, stats, weights):
    """Write F ⊙ (N / (D + l1 + l2·F))^γ to out, for given N and D in float64; D of one row serves all rows of F.

    weights: None, or how often each row counts in stats.
    """
    n, k = F.shape
    kp = round_up(k, lanes_of(F))
    Fp, Np, Dp, none = aligned(kp, F), aligned(kp, F), aligned(kp, F), np.zeros(0)
    of_row = stats if weights is None else np.zeros(STATS + 2 * k)
    for i in range(n):
        pad_rows(F, i, np.intp(1), Fp, kp)
        pad_rows(N, i, np.intp(1), Np, kp)
        pad_rows(D, i if D.shape[0] > 1 else np.intp(0), np.intp(1), Dp, kp)
        multiply_rows(Fp, Np, Dp, kp, np.intp(0), np.intp(1), k, penalty, gamma, floor, none, of_row)
        if weights is not None:
            add_weighed(of_row, weights[i], stats)
        copy_rows(Fp, kp, np.intp(1), out, i)
