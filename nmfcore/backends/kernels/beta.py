"""β-divergences: the ratios of X and WH, the losses of rows, and the fused pass over X."""

import numpy as np

from ..operations import STATS, TOTAL
from ._decorators import inner, kernel
from ._ratios import (
    formed_one,
    formed_three,
    power_any,
    power_half,
    power_three,
    power_three_halves,
    power_zero,
    ratio_any,
    ratio_half,
    ratio_one,
    ratio_three,
    ratio_three_halves,
    ratio_zero,
)
from ._simd import out_of_line
from .arguments import NUMERATOR, RENEW, Block
from .buffers import ALIGN, aligned, clear, copy_rows, lanes_of, leading, pad_rows, pad_transposed, round_up
from .multiplicative import EPSILON, add_weighed, multiply_rows
from .powers import exponential, logarithm, power, raise_to
from .product import (
    DEPTH,
    STRIP3,
    add_rows,
    gram,
    product,
    sparse_scatter,
    sparse_sum,
    sum_products,
    weigh_rows,
    weighed_gram,
)
from .reading import at, load_tile, longest_row, widen_sparse_row

BLOCK = 384  # columns of WH that stay in the second-level cache with its powers: whole register tiles and DEPTHs


@inner
def form_ratios(S, X, Q, first, m, beta):
    """Turn S = WH of one row into X ⊙ WH^(β−2), and Q into WH^(β−1) (β ≠ 1), with scikit-learn's floors under WH."""
    out_of_line()
    floor = S.dtype.type(EPSILON)
    s, x = S[first : first + m], X[first : first + m]
    if beta == 1:
        for j in range(m):
            s[j] = x[j] / max(s[j], floor)
        return
    q, zero, one = Q[first : first + m], S.dtype.type(0), S.dtype.type(1)
    low = zero  # a float and no min(): both would keep LLVM from vectorising
    for j in range(m):
        low += one if s[j] < floor else zero
    bare = beta > 1 and beta < 2 and low > 0  # no floor under this denominator: WH^(β−1) is not WH·s
    if bare:
        for j in range(m):
            q[j] = s[j]
    if beta < 2 and low > 0:
        for j in range(m):
            s[j] = max(s[j], floor)
    if not bare:
        for j in range(m):
            q[j] = s[j]
    raise_to(s, beta - 2)
    if bare:
        raise_to(q, beta - 1)
        for j in range(m):
            s[j] *= x[j]
    else:
        for j in range(m):
            q[j] *= s[j]
            s[j] *= x[j]


@inner
def form_tile(S, Q, first, ld, X, first_x, ld_x, rows, vectors, beta, stored):
    """Turn S = WH of a strip into X ⊙ WH^(β−2), and Q into WH^(β−1); with `stored` (CSR), S into WH^(β−1).

    β = 1, 0, ½, 1½ and 3 have steps of their own, which need no general power.
    """
    floor = S.dtype.type(EPSILON)
    if stored:
        if beta == 0:
            power_zero(S, Q, first, ld, X, first_x, ld_x, rows, vectors, floor, beta)
        elif beta == 0.5:
            power_half(S, Q, first, ld, X, first_x, ld_x, rows, vectors, floor, beta)
        elif beta == 1.5:
            power_three_halves(S, Q, first, ld, X, first_x, ld_x, rows, vectors, floor, beta)
        elif beta == 3:
            power_three(S, Q, first, ld, X, first_x, ld_x, rows, vectors, floor, beta)
        else:
            power_any(S, Q, first, ld, X, first_x, ld_x, rows, vectors, floor, beta)
    elif beta == 1:
        ratio_one(S, Q, first, ld, X, first_x, ld_x, rows, vectors, floor, beta)
    elif beta == 0:
        ratio_zero(S, Q, first, ld, X, first_x, ld_x, rows, vectors, floor, beta)
    elif beta == 0.5:
        ratio_half(S, Q, first, ld, X, first_x, ld_x, rows, vectors, floor, beta)
    elif beta == 1.5:
        ratio_three_halves(S, Q, first, ld, X, first_x, ld_x, rows, vectors, floor, beta)
    elif beta == 3:
        ratio_three(S, Q, first, ld, X, first_x, ld_x, rows, vectors, floor, beta)
    else:
        ratio_any(S, Q, first, ld, X, first_x, ld_x, rows, vectors, floor, beta)


@inner
def form_strip(Fp, kp, k, Hp, first, mp, S, Q, at, ld, X, ld_x, rows, beta):
    """Write what `form_tile` makes of WH to a strip of three vectors' width, for β = 1 or 3 and k of STRIP3 to DEPTH.

    Each register tile turns the one above it while it is multiplied; `form_tile` is left with the last one.
    """
    out_of_line()
    floor, above, last = S.dtype.type(EPSILON), np.intp(0), rows - STRIP3
    for r in range(0, rows, STRIP3):
        s0, x0 = at + r * ld, first + r * ld_x
        if beta == 1:
            formed_one(Fp, r * kp, kp, Hp, first, mp, k, S, Q, s0, ld, X, x0, ld_x, above, floor, beta)
        else:
            formed_three(Fp, r * kp, kp, Hp, first, mp, k, S, Q, s0, ld, X, x0, ld_x, above, floor, beta)
        above = np.intp(1)
    at_s, at_x = at + last * ld, first + last * ld_x
    form_tile(S, Q, at_s, ld, X, at_x, ld_x, np.intp(STRIP3), np.intp(3), beta, False)


@inner
def add_product(S, ld, H, kp, rows, terms, T, N, begin):
    """Add S·H to N; with `begin`, for the first block of terms, write it."""
    out_of_line()
    product(S, ld, np.intp(1), H, kp, T, kp, rows, terms, kp, np.intp(DEPTH))
    for i in range(rows * kp):
        N[i] = T[i] if begin else N[i] + T[i]


@inner
def fused_terms(buffers, k, kp, m, mp, ld_x, rows, padded, beta, stored, summing):
    """Write the numerators (dense X only) and denominators of F for a tile to Np and Dp.

    With `summing`, those of Ht are added to Ns and Ds instead, from the rows Up of F as they count. Htp are the columns
    as they count, Hp is Hᵀ itself. WH is formed in blocks of columns, so that it stays in the second-level cache with
    its powers whatever m is. Within a block, each strip of three vectors' width is turned into X ⊙ WH^(β−2) and
    WH^(β−1) while it is in the first-level cache.

    At k = 15 a pass takes 1.2 to 1.3 times as long as its products would at the rate of a square gemm for β = 1 and 3,
    1.35 for β = 0, 1.4 to 1.7 for β = ½ and 1½, and 2.3 to 2.5 for a general power, the rest of which is the power
    itself. To turn a register tile while the next is multiplied took 0.86 to 0.95 of the time for β = 1 and 3; for ½
    and 1½, of which the multipliers make the roots, it made no difference.
    """
    out_of_line()
    Fp, Up, Hp, Htp, X, S, Q, T, Np, Dp, c, Ns, Ds = buffers
    one, ld, strip = np.intp(1), leading(np.intp(BLOCK)), 3 * lanes_of(S)
    beside = not stored and (beta == 1 or beta == 3) and k >= STRIP3 and k <= DEPTH
    for j0 in range(0, m, BLOCK):
        columns = min(np.intp(BLOCK), m - j0)
        whole = round_up(columns, ALIGN)
        for j in range(0, whole, strip):
            width = min(strip, whole - j)
            if beside and width == strip:
                form_strip(Fp, kp, k, Hp, j0 + j, mp, S, Q, j, ld, X, ld_x, padded, beta)
                continue
            product(Fp, kp, one, Hp[j0 + j :], mp, S[j:], ld, padded, k, width, np.intp(DEPTH))
            form_tile(S, Q, j, ld, X, j0 + j, ld_x, padded, width // lanes_of(S), beta, stored)
        if summing:
            if not stored:
                sum_products(S, ld, columns, Up, kp, rows, c, Ns[j0 * kp :])
            if beta != 1:
                sum_products(S if stored else Q, ld, columns, Up, kp, rows, c, Ds[j0 * kp :])
        else:
            if not stored:
                add_product(S, ld, Htp[j0 * kp :], kp, padded, columns, T, Np, j0 == 0)
            if beta != 1:
                add_product(S if stored else Q, ld, Htp[j0 * kp :], kp, padded, columns, T, Dp, j0 == 0)


@inner
def sparse_weights(x, indices, wide, begin, length, f, Htp, kp, values, beta):
    """Turn the stored numbers x_p of a row into x_p·(f·h_p)^(β−2), with scikit-learn's floor."""
    out_of_line()
    zero = f.dtype.type(0)
    for p in range(length):
        j = at(indices, wide, begin + p) * kp
        h, s = Htp[j : j + kp], zero
        for t in range(kp):
            s += f[t] * h[t]
        values[p] = max(s, EPSILON) if beta < 2 else s
    raise_to(values[:length], beta - 2)
    for p in range(length):
        x[p] *= values[p]


@inner
def row_divergence(S, X, s0, x0, m, beta, weights):
    """Return D_β(x | s) of one row in float64, with scikit-learn's floors: x ≤ ε counts as 0, and s is at least ε.

    weights: None, or by what the term of each column is multiplied.
    """
    out_of_line()
    total, floor = 0.0, np.float64(EPSILON)
    s_row, x_row = S[s0 : s0 + m], X[x0 : x0 + m]
    if beta == 2:
        for j in range(m):
            r = np.float64(x_row[j]) - np.float64(s_row[j])
            term = r * r
            if weights is not None:
                term *= weights[j]
            total += term
        return total / 2
    if beta == 1 or beta == 0:
        for j in range(m):
            x, s = np.float64(x_row[j]), np.float64(s_row[j])
            ratio = max(x, floor) / max(s, floor)
            log = logarithm(ratio)
            if beta == 1:
                term = s + (x * log - x if x > floor else 0.0)
            else:
                term = (ratio - log if x > floor else 0.0) - 1.0
            if weights is not None:
                term *= weights[j]
            total += term
        return total
    for j in range(m):
        x, s = np.float64(x_row[j]), np.float64(s_row[j])
        floored, safe = max(s, floor), max(x, floor)
        log_x, log_s = logarithm(safe), logarithm(floored)
        below = exponential((beta - 1) * log_s)
        data = exponential(beta * log_x) - beta * safe * below
        whole = below * floored if beta < 0 or s >= floor else power(s, beta)
        term = (data if x > floor else 0.0) + (beta - 1) * whole
        if weights is not None:
            term *= weights[j]
        total += term
    return total / (beta * (beta - 1))


@inner
def sparse_row_divergence(x, indices, wide, begin, length, f, Htp, kp, Hsum, G, k, beta, weights):
    """Return D_β of a CSR row for β = 1 or 2; the share of the zeros comes from sums of H.

    weights: None, or by what the term of each column is multiplied; Hsum and G are weighed then.
    """
    out_of_line()
    total = 0.0
    for p in range(length):
        value = np.float64(x[p])
        if beta == 2:
            j, s = at(indices, wide, begin + p) * kp, 0.0
            for t in range(k):
                s += np.float64(f[t]) * np.float64(Htp[j + t])
            term = value * value - 2 * value * s
            if weights is not None:
                term *= weights[at(indices, wide, begin + p)]
            total += term
        elif value > EPSILON:
            j, s = at(indices, wide, begin + p) * kp, 0.0
            for t in range(k):
                s += np.float64(f[t]) * np.float64(Htp[j + t])
            term = value * logarithm(value / max(s, EPSILON)) - value
            if weights is not None:
                term *= weights[at(indices, wide, begin + p)]
            total += term
    if beta == 2:
        for t in range(k):
            s = 0.0
            for u in range(k):
                s += G[t, u] * f[u]
            total += f[t] * s
        return total / 2
    for t in range(k):
        total += np.float64(f[t]) * Hsum[t]
    return total


@inner
def column_sums(Ht):
    """Return Σ_j Ht[j, :] in float64."""
    out_of_line()
    m, k = Ht.shape
    total = np.zeros(k)
    for j in range(m):
        for t in range(k):
            total[t] += Ht[j, t]
    return total


@inner
def weigh_columns(Htp, kp, m, weights):
    """Return a copy of the padded rows of Ht, each times its weight."""
    out_of_line()
    weighed = aligned(m * kp, Htp)
    for j in range(m):
        v, h, to = Htp.dtype.type(weights[j]), Htp[j * kp : j * kp + kp], weighed[j * kp : j * kp + kp]
        for t in range(kp):
            to[t] = v * h[t]
    return weighed


@inner
def padded_sums(Htp, kp, m, k):
    """Return Σ_j Ht[j, :] of padded rows, in float64."""
    out_of_line()
    total = np.zeros(k)
    for j in range(m):
        h = Htp[j * kp : j * kp + kp]
        for t in range(k):
            total[t] += h[t]
    return total


@kernel
def beta_pass(block, F, Ht, rule, penalty, update, measure, out, N, D, stats, losses, weights):
    """Work through n rows of X once: the multiplicative update of F, then the sums of the update of Ht.

    rule = (β, γ, floor), penalty = (l1, l2). update: KEEP leaves F as it is, RENEW writes the new F to out, NUMERATOR
    (CSR, β = 1) writes N_F to out and does nothing else. Then N += (X ⊙ WH^(β−2))ᵀ·F and D += (WH^(β−1))ᵀ·F with the
    new F (β = 1: D[0] += column sums of F), unless N has no rows. measure = 1 writes D_β of each row, at the given
    pair, to `losses`.

    weights: None, or (u, v), by which rows and columns count: numerators and denominators of F are those of X ⊙ v, N
    and D are sums of u_i f_i, stats counts each row u_i times, and `losses` holds Σ_j v_j d_β of each row.
    """
    x = Block(*block)
    n, m, k = x.rows, x.columns, Ht.shape[1]
    beta, gamma, floor = rule
    sparse = x.indptr != 0 and beta == 1
    kp = round_up(k, lanes_of(F))
    ld, mp = leading(m), round_up(m, ALIGN)
    height = round_up(min(x.height, n), ALIGN)
    run = aligned(max(1, longest_row(x)) if x.indptr else 0, F)
    stored = x.indptr != 0  # CSR with a general β: every WH is needed, but of X the stored numbers only
    size, block = (np.intp(0), np.intp(0)) if sparse else (height * ld, height * leading(np.intp(BLOCK)))
    X, S, Q = (
        aligned(0 if stored and not measure else size, F),
        aligned(max(block, size if measure else 0), F),
        aligned(0 if beta == 1 or stored else block, F),
    )
    values, T = aligned(run.size if stored else 0, F), aligned(0 if sparse else height * kp, F)
    Htp, Hp = aligned(m * kp, F), aligned(0 if sparse else round_up(k, ALIGN) * mp, F)
    Fp, Np, Dp = aligned(height * kp, F), aligned(height * kp, F), aligned(height * kp, F)
    c = aligned(0 if sparse else mp * kp, F)
    summed = N.shape[0] > 0
    Ns, Ds = np.zeros(mp * kp if summed else 0), np.zeros(mp * kp if summed and beta != 1 else 0)
    Hsum, none, no_gram = column_sums(Ht), np.zeros(0), np.zeros((0, 0))
    pad_rows(Ht, np.intp(0), m, Htp, kp)
    if not sparse:
        pad_transposed(Ht, Hp, mp)
    if weights is None:
        Hvp, Up, of_row, columns = Htp, Fp, stats, None
    else:
        Hvp, Up, columns = weigh_columns(Htp, kp, m, weights[1]), aligned(height * kp, F), weights[1]
        Hsum, of_row = padded_sums(Hvp, kp, m, k), np.zeros(STATS + 2 * k)
    if beta == 1:
        for i in range(height):
            for t in range(k):
                Dp[i * kp + t] = Hsum[t]
    buffers = (Fp, Up, Hp, Hvp, X, S, Q, T, Np, Dp, c, Ns, Ds)
    for i0 in range(0, n, height):
        rows = min(height, n - i0)
        padded = round_up(rows, ALIGN)
        pad_rows(F, i0, rows, Fp, kp)
        clear(Fp, rows * kp, padded * kp)
        if sparse:
            for i in range(rows):
                begin, length = widen_sparse_row(x, i0 + i, run)
                f = Fp[i * kp : i * kp + kp]
                if measure:
                    losses[i0 + i] = sparse_row_divergence(
                        run, x.indices, x.wide, begin, length, f, Htp, kp, Hsum, no_gram, k, beta, columns
                    )
                if update:
                    sparse_weights(run, x.indices, x.wide, begin, length, f, Htp, kp, values, beta)
                    sparse_sum(run, x.indices, x.wide, begin, length, Hvp, kp, Np[i * kp : i * kp + kp])
                    if update == NUMERATOR:
                        for t in range(k):
                            out[i0 + i, t] = Np[i * kp + t]
                        continue
                    multiply_rows(Fp, Np, Dp, kp, i, np.intp(1), k, penalty, gamma, floor, none, of_row)
                    if weights is not None:
                        add_weighed(of_row, weights[0][i0 + i], stats)
                if weights is not None:
                    weigh_rows(f, kp, np.intp(1), weights[0], i0 + i, Up[i * kp : i * kp + kp])
                if N.shape[0]:
                    widen_sparse_row(x, i0 + i, run)
                    sparse_weights(run, x.indices, x.wide, begin, length, f, Htp, kp, values, beta)
                    sparse_scatter(run, x.indices, x.wide, begin, length, Up[i * kp : i * kp + kp], kp, k, Ns)
        else:
            if not stored or measure:
                load_tile(x, x.indptr, i0, rows, padded, X, ld, run)
            if measure:
                product(Fp, kp, np.intp(1), Hp, mp, S, ld, padded, k, mp, np.intp(DEPTH))
                for i in range(rows):
                    losses[i0 + i] = row_divergence(S, X, i * ld, i * ld, m, beta, columns)
            if update:
                fused_terms(buffers, k, kp, m, mp, ld, rows, padded, beta, stored, np.intp(0))
                if stored:
                    for i in range(rows):
                        begin, length = widen_sparse_row(x, i0 + i, run)
                        f = Fp[i * kp : i * kp + kp]
                        sparse_weights(run, x.indices, x.wide, begin, length, f, Htp, kp, values, beta)
                        sparse_sum(run, x.indices, x.wide, begin, length, Hvp, kp, Np[i * kp : i * kp + kp])
                if weights is None:
                    multiply_rows(Fp, Np, Dp, kp, np.intp(0), rows, k, penalty, gamma, floor, none, stats)
                else:
                    for i in range(rows):
                        multiply_rows(Fp, Np, Dp, kp, i, np.intp(1), k, penalty, gamma, floor, none, of_row)
                        add_weighed(of_row, weights[0][i0 + i], stats)
            if weights is not None:
                weigh_rows(Fp, kp, rows, weights[0], i0, Up)
            if N.shape[0]:
                fused_terms(buffers, k, kp, m, mp, ld, rows, padded, beta, stored, np.intp(1))
                if stored:
                    for i in range(rows):
                        begin, length = widen_sparse_row(x, i0 + i, run)
                        f = Fp[i * kp : i * kp + kp]
                        sparse_weights(run, x.indices, x.wide, begin, length, f, Htp, kp, values, beta)
                        sparse_scatter(run, x.indices, x.wide, begin, length, Up[i * kp : i * kp + kp], kp, k, Ns)
        if N.shape[0] and beta == 1:
            for i in range(rows):
                for t in range(k):
                    D[0, t] += Up[i * kp + t]
        if update == RENEW:
            total = copy_rows(Fp, kp, rows, out, i0)
            if weights is not None:
                total = weigh_rows(Fp, kp, rows, weights[0], i0, Up)
            stats[TOTAL] += total
    if Ns.size:
        add_rows(Ns, kp, N)
    if Ds.size:
        add_rows(Ds, kp, D)


@kernel
def sparse_residual_pass(block, F, Ht, losses, weights):
    """Write ½ Σ (x_i − f_i·H)² of CSR rows to losses: in the trace form, from the stored numbers.

    weights: None, or by what the square of each column is multiplied.
    """
    x = Block(*block)
    m, k = x.columns, Ht.shape[1]
    kp = round_up(k, lanes_of(F))
    run = aligned(max(1, longest_row(x)), F)
    Htp, f = aligned(m * kp, F), aligned(kp, F)
    none, G = np.zeros(0), np.zeros((k, k))
    pad_rows(Ht, np.intp(0), m, Htp, kp)
    if weights is None:
        gram(Ht, G)
    else:
        weighed_gram(Ht, weigh_columns(Htp, kp, m, weights), kp, G)
    for i in range(x.rows):
        begin, length = widen_sparse_row(x, i, run)
        pad_rows(F, i, np.intp(1), f, kp)
        losses[i] = sparse_row_divergence(
            run, x.indices, x.wide, begin, length, f, Htp, kp, none, G, k, np.float64(2.0), weights
        )
