"""Rows of W alone, H fixed: `transform` with multiplicative updates."""

import numpy as np

from ..operations import STATS, SWEEPS, UNSETTLED
from ._decorators import kernel
from .arguments import Block
from .beta import (
    column_sums,
    form_ratios,
    padded_sums,
    row_divergence,
    sparse_row_divergence,
    sparse_weights,
    weigh_columns,
)
from .buffers import ALIGN, aligned, clear, copy_rows, lanes_of, leading, pad_rows, pad_transposed, round_up
from .multiplicative import multiply_rows
from .product import DEPTH, gram, product, sparse_rows_times, sparse_sum, weighed_gram
from .reading import at, load_tile, longest_row, widen_sparse_row


@kernel
def code_pass(block, Ht, rule, penalty, stop, out, stats, weights):
    """Write F after multiplicative updates of each row alone, with H fixed, until the row has settled, to out.

    rule = (β, γ, floor), penalty = (l1, l2), stop = (tol, max_iter, by_step). A row starts at √(mean of the row / k).
    With by_step = 0 its e = √(2 D_β) is computed every 10 iterations, and the row has settled when e has fallen by less
    than tol × its first value; with by_step = 1, when ‖Δf‖ ≤ tol·‖f‖.

    weights: None, or by what the terms of each column are multiplied, in the mean of a row, too.
    """
    x = Block(*block)
    n, m, k = x.rows, x.columns, Ht.shape[1]
    beta, gamma, floor = rule
    tol, max_iter, by_step = stop
    sparse = x.indptr != 0 and (beta == 1 or beta == 2)
    kp = round_up(k, lanes_of(Ht))
    step = max(4 * lanes_of(Ht), ALIGN)
    ld, mp = leading(m), round_up(m, ALIGN)
    height = round_up(min(x.height, n), step)
    longest = longest_row(x) if x.indptr else 0
    run, values = aligned(max(1, longest), Ht), aligned(max(1, longest), Ht)
    size = 0 if sparse else height * ld
    X, S, Q = aligned(size, Ht), aligned(size, Ht), aligned(0 if beta == 1 else size, Ht)
    Htp, Hp = aligned(m * kp, Ht), aligned(0 if sparse else round_up(k, ALIGN) * mp, Ht)
    Fp, Np, Dp = aligned(height * kp, Ht), aligned(height * kp, Ht), aligned(height * kp, Ht)
    old, Gp = aligned(height * kp, Ht), aligned(round_up(k, ALIGN) * kp, Ht)
    Hsum, G, none = column_sums(Ht), np.zeros((k, k)), np.zeros(0)
    ignored = np.zeros(STATS + 2 * k)
    start, before, squares = np.zeros(height), np.zeros(height), np.zeros(height)
    active = np.empty(height, np.bool_)
    pad_rows(Ht, np.intp(0), m, Htp, kp)
    if not sparse:
        pad_transposed(Ht, Hp, mp)
    if weights is None:
        Hvp, mass = Htp, np.float64(m)
        if beta == 2:
            gram(Ht, G)
    else:
        Hvp, mass = weigh_columns(Htp, kp, m, weights), weights.sum()
        Hsum = padded_sums(Hvp, kp, m, k)
        if beta == 2:
            weighed_gram(Ht, Hvp, kp, G)
    if beta == 2:
        pad_rows(G, np.intp(0), k, Gp, kp)
    for i0 in range(0, n, height):
        rows = min(height, n - i0)
        padded = round_up(rows, step)
        if not sparse:
            load_tile(x, x.indptr, i0, rows, padded, X, ld, run)
        for i in range(rows):
            total, squared = 0.0, 0.0
            if sparse:
                begin, length = widen_sparse_row(x, i0 + i, run)
                for p in range(length):
                    if weights is None:
                        total += run[p]
                    else:
                        total += run[p] * weights[at(x.indices, x.wide, begin + p)]
            else:
                for j in range(m):
                    if weights is None:
                        total += X[i * ld + j]
                        squared += np.float64(X[i * ld + j]) * np.float64(X[i * ld + j])
                    else:
                        total += X[i * ld + j] * weights[j]
                        squared += np.float64(X[i * ld + j]) * np.float64(X[i * ld + j]) * weights[j]
            squares[i] = squared
            active[i] = True
            for t in range(k):
                Fp[i * kp + t] = np.sqrt(total / mass / k)
            for t in range(k, kp):
                Fp[i * kp + t] = 0
        clear(Fp, rows * kp, padded * kp)
        if beta == 2 and sparse:
            sparse_rows_times(x, i0, rows, Hvp, kp, Np, run, np.zeros((0, 0)))
        elif beta == 2:
            product(X, ld, np.intp(1), Hvp, kp, Np, kp, padded, m, kp, np.intp(DEPTH))
        iteration, going = 0, rows
        while going and iteration <= max_iter:
            check = by_step == 0 and iteration % 10 == 0 and (tol > 0 or iteration == 0)
            if not sparse and (beta != 2):
                product(Fp, kp, np.intp(1), Hp, mp, S, ld, padded, k, mp, np.intp(DEPTH))
            if check:  # of the rows after `iteration` updates
                for i in range(rows):
                    if not active[i]:
                        continue
                    if sparse:
                        begin, length = widen_sparse_row(x, i0 + i, run)
                        f = Fp[i * kp : i * kp + kp]
                        loss = sparse_row_divergence(
                            run, x.indices, x.wide, begin, length, f, Htp, kp, Hsum, G, k, beta, weights
                        )
                    elif beta == 2:
                        loss = squares[i]
                        for t in range(k):
                            s = 0.0
                            for u in range(k):
                                s += G[t, u] * Fp[i * kp + u]
                            loss += Fp[i * kp + t] * (s - 2.0 * Np[i * kp + t])
                        loss /= 2
                    else:
                        loss = row_divergence(S, X, i * ld, i * ld, m, beta, weights)
                    error = np.sqrt(max(2 * loss, 0.0))
                    if iteration == 0:
                        start[i] = error
                        active[i] = error > 0
                    elif (before[i] - error) / start[i] < tol:
                        active[i] = False
                    before[i] = error
                    going -= not active[i]
            if going == 0 or iteration == max_iter:
                break
            iteration += 1
            for i in range(rows * kp):
                old[i] = Fp[i]
            if beta == 2:
                product(Fp, kp, np.intp(1), Gp, kp, Dp, kp, padded, k, kp, np.intp(DEPTH))
            elif sparse:
                for i in range(rows):
                    if active[i]:
                        begin, length = widen_sparse_row(x, i0 + i, run)
                        f = Fp[i * kp : i * kp + kp]
                        sparse_weights(run, x.indices, x.wide, begin, length, f, Htp, kp, values, beta)
                        sparse_sum(run, x.indices, x.wide, begin, length, Hvp, kp, Np[i * kp : i * kp + kp])
            else:
                for i in range(rows):
                    form_ratios(S, X, Q, i * ld, m, beta)
                product(S, ld, np.intp(1), Hvp, kp, Np, kp, padded, m, kp, np.intp(DEPTH))
                if beta != 1:
                    clear(Q, rows * ld, padded * ld)
                    product(Q, ld, np.intp(1), Hvp, kp, Dp, kp, padded, m, kp, np.intp(DEPTH))
            if beta == 1:
                for i in range(rows):
                    for t in range(k):
                        Dp[i * kp + t] = Hsum[t]
            for i in range(rows):
                if active[i]:
                    multiply_rows(Fp, Np, Dp, kp, i, np.intp(1), k, penalty, gamma, floor, none, ignored)
                else:
                    for t in range(k):
                        Fp[i * kp + t] = old[i * kp + t]
            if by_step and tol > 0:
                for i in range(rows):
                    if active[i]:
                        change, length = 0.0, 0.0
                        for t in range(k):
                            f = np.float64(Fp[i * kp + t])
                            change += (f - old[i * kp + t]) * (f - old[i * kp + t])
                            length += f * f
                        if np.sqrt(change) <= tol * np.sqrt(length):
                            active[i] = False
                            going -= 1
        copy_rows(Fp, kp, rows, out, i0)
        stats[SWEEPS] = max(stats[SWEEPS], iteration)
        stats[UNSETTLED] += going
