"""Passes over an X with missing entries.

A mask is given as (address, row_stride) of bytes, one for each entry, of which those that are not zero hide the entry;
or as (0, 0), which stands for an X of which only the stored numbers are observed. What is read of X under a mask is
replaced before it meets any other number.
"""

import numpy as np

from ..operations import KKT, SWEEPS, TOTAL, UNSETTLED, VIOLATION
from ._decorators import inner, kernel
from ._simd import GRAIN, dots, out_of_line, read_i64, read_u8
from .arguments import KEEP, Block
from .beta import form_ratios, row_divergence
from .buffers import ALIGN, aligned, clear, copy_rows, lanes_of, leading, pad_rows, pad_transposed, round_up
from .descent import sweep_rows
from .multiplicative import EPSILON, multiply_rows
from .powers import raise_to
from .product import (
    DEPTH,
    accumulate_gram,
    accumulate_products,
    add_rows,
    nothing_coming,
    product,
    sparse_rows_times,
    sparse_scatter,
    sparse_sum,
    sum_products,
)
from .reading import STORED, at, load_tile, longest_row, widen_sparse_row

CANCELLED = 1e-13  # share of a diagonal entry of HHᵀ below which what a row has left of it is rounding


@inner
def hidden_of(address, m, found, first):
    """Write the numbers of the hidden columns of a row of a mask to found[first:], and return how many there are."""
    out_of_line()
    count, words = first, m // 8
    for word in range(words):
        if read_i64(address, word) != 0:
            for j in range(8 * word, 8 * word + 8):
                found[count] = j
                count += read_u8(address, j) != 0
    for j in range(8 * words, m):
        found[count] = j
        count += read_u8(address, j) != 0
    return count - first


@inner
def hidden_of_tile(mask, lo, rows, m, found, starts, counts, lanes):
    """Find the hidden columns of rows lo … lo + rows: counts[i] of them from found[starts[i]] on.

    After them the last one is repeated, up to whole vectors.
    """
    out_of_line()
    address, apart = mask
    first = np.intp(0)
    for i in range(rows):
        starts[i] = first
        count = hidden_of(address + (lo + i) * apart, m, found, first)
        counts[i] = count
        padded = round_up(count, lanes)
        for p in range(count, padded):
            found[first + p] = found[first + count - 1]
        first += padded


@inner
def put(tile, ld, rows, found, starts, counts, value):
    """Write one number over the hidden entries of a tile."""
    out_of_line()
    for i in range(rows):
        for p in range(starts[i], starts[i] + counts[i]):
            tile[i * ld + found[p]] = value


@inner
def fill(tile, ld, rows, lo, found, starts, counts, Fp, kp, Htp, squares):
    """Write (F·H)_ij over the hidden entries of rows lo … of a block, which lie in a tile.

    Returns their Σ x² if `squares`, float64 and one for each lane, is not None, else 0. It is made from vectors in
    registers: 1.1 ns of 5.4 ns that a hidden entry took in a pass, k = 15, float32.
    """
    out_of_line()
    lanes = lanes_of(Fp)
    vectors, total = kp // lanes, 0.0
    if squares is None:
        for i in range(rows):
            first, count = starts[lo + i], counts[lo + i]
            for p in range(first, first + count, lanes):
                dots(Fp, i * kp, Htp, kp, found, p, vectors, tile, i * ld, None)
    else:
        clear(squares, np.intp(0), lanes)
        for i in range(rows):
            first, count = starts[lo + i], counts[lo + i]
            for p in range(first, first + count, lanes):
                dots(Fp, i * kp, Htp, kp, found, p, vectors, tile, i * ld, squares)
            repeated = round_up(count, lanes) - count  # the last group repeats its last column
            if repeated:
                x = np.float64(tile[i * ld + found[first + count - 1]])
                total -= repeated * x * x
        for e in range(lanes):
            total += squares[e]
    return total


@inner
def blend(tile, ld, rows, m, mask, lo, S):
    """Write the entries of S over those that are hidden in a tile, rows lo … of a block. Returns their Σ x²."""
    out_of_line()
    address, apart = mask
    total = 0.0
    for i in range(rows):
        x, s, start = tile[i * ld : i * ld + m], S[i * ld : i * ld + m], address + (lo + i) * apart
        for j in range(m):
            hides = read_u8(start, j) != 0
            x[j] = s[j] if hides else x[j]
            square = np.float64(s[j]) if hides else 0.0
            total += square * square
    return total


@inner
def distance(tile, S, ld, rows, m):
    """Return Σ (x − s)² over two tiles, in float64."""
    out_of_line()
    total = 0.0
    for i in range(rows):
        x, s = tile[i * ld : i * ld + m], S[i * ld : i * ld + m]
        for j in range(m):
            r = np.float64(x[j]) - np.float64(s[j])
            total += r * r
    return total


@kernel
def hash_pass(of_rows, of_columns, last, out):
    """Write whether f(of_rows[i] + of_columns[j]) is at most `last` to out[i, j], with f that of SplitMix64."""
    first, second = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
    for i in range(of_rows.size):
        row, to = of_rows[i], out[i]
        for j in range(of_columns.size):
            z = row + of_columns[j]
            z = (z ^ (z >> np.uint64(30))) * first
            z = (z ^ (z >> np.uint64(27))) * second
            to[j] = (z ^ (z >> np.uint64(31))) <= last


@kernel
def list_pass(mask, m, found, starts, counts, like):
    """List the hidden columns of every row, as `hidden_of_tile` does, padded for vectors of like's type."""
    hidden_of_tile(mask, np.intp(0), starts.size, m, found, starts, counts, lanes_of(like))


@kernel
def filled_pass(block, mask, lists, F, begin, Ht, G, penalty, descent, out, XtF, FtF, stats, squares, measured):
    """Work through n rows of X once, with its missing entries filled: descent on F, then the sums over rows.

    For each tile: missing entries become (B·H)_ij, B = max(0, F + weight·(F − before)) with begin = (before, weight);
    C = X·Ht; the new F are those of `sweep_rows` from B on (C, G); missing entries become (F·H)_ij of the new F; then
    XtF += Xᵀ·F, FtF += FᵀF, and squares[0] += Σ x² of what was filled in. A row that is hidden as a whole becomes zero.
    measured[0] += ½ Σ (x − f·h)² of the new F over the observed entries, if `measured` has a number.

    lists = (found, starts, counts) of `list_pass`: only the hidden entries of F·H are formed. With none of these, all
    of F·H is formed by tiles, and blended in.
    """
    x = Block(*block)
    n, m, k, lanes = x.rows, x.columns, F.shape[1], lanes_of(F)
    l1, l2 = F.dtype.type(penalty[0]), F.dtype.type(penalty[1])
    before, weight = begin
    zero, w = F.dtype.type(0), F.dtype.type(weight)
    kp, ld = round_up(k, lanes), leading(m)
    step = max(4 * lanes, ALIGN)
    height = round_up(min(x.height, n), step)
    tile, Fp, Cp = aligned(height * ld, F), aligned(height * kp, F), aligned(height * kp, F)
    Gp, Htp = aligned(round_up(k, ALIGN) * round_up(kp, ALIGN), F), aligned(round_up(m, ALIGN) * kp, F)
    c, scratch = aligned((round_up(max(m, k), ALIGN) + 2 * ALIGN) * kp, F), aligned((2 * kp + 4) * step, F)
    run = aligned(max(STORED, longest_row(x)) if x.indptr else 0, F)
    found, starts, counts = lists
    listed, of_lanes = counts.size > 0, np.empty(lanes)
    whole_WH = not listed or measured.size > 0
    mp, (address, apart) = round_up(m, ALIGN), mask
    Hp, S = aligned(round_up(k, ALIGN) * mp if whole_WH else 0, F), aligned(height * ld if whole_WH else 0, F)
    pad_rows(Ht, np.intp(0), m, Htp, kp)
    pad_rows(G, np.intp(0), k, Gp, kp)
    if whole_WH:
        pad_transposed(Ht, Hp, mp)
    for t in range(k):
        Gp[t * kp + t] += l2
    for i0 in range(0, n, height):
        rows = min(height, n - i0)
        padded, whole = round_up(rows, step), round_up(rows, GRAIN)
        load_tile(x, x.indptr, i0, rows, whole, tile, ld, run)
        pad_rows(F, i0, rows, Fp, kp)
        clear(Fp, rows * kp, padded * kp)
        for i in range(rows):
            f, old, gone = Fp[i * kp : i * kp + kp], before[i0 + i], np.intp(0)
            if listed:
                gone = counts[i0 + i]
            else:
                for j in range(m):
                    gone += read_u8(address + (i0 + i) * apart, j) != 0
            if gone == m:
                for t in range(kp):
                    f[t] = zero
            elif weight > 0:  # else `before` may never have been written
                for t in range(k):
                    f[t] = max(f[t] + w * (f[t] - old[t]), zero)
        if listed:
            fill(tile, ld, rows, i0, found, starts, counts, Fp, kp, Htp, None)
        else:
            product(Fp, kp, np.intp(1), Hp, mp, S, ld, whole, k, mp, np.intp(DEPTH))
            blend(tile, ld, rows, m, mask, i0, S)
        product(tile, ld, np.intp(1), Htp, kp, Cp, kp, whole, m, kp, np.intp(DEPTH))
        clear(Cp, whole * kp, padded * kp)
        sweep_rows(Fp, Cp, kp, rows, Gp, k, l1, descent, None, scratch, stats, None)
        if listed:
            squares[0] += fill(tile, ld, rows, i0, found, starts, counts, Fp, kp, Htp, of_lanes)
        else:
            product(Fp, kp, np.intp(1), Hp, mp, S, ld, whole, k, mp, np.intp(DEPTH))
            squares[0] += blend(tile, ld, rows, m, mask, i0, S)
        if measured.size:
            if listed:
                product(Fp, kp, np.intp(1), Hp, mp, S, ld, whole, k, mp, np.intp(DEPTH))
            measured[0] += distance(tile, S, ld, rows, m) / 2  # what was filled in is met, to rounding
        stats[TOTAL] += copy_rows(Fp, kp, rows, out, i0)
        accumulate_products(tile, ld, m, Fp, kp, rows, c, XtF, nothing_coming(x))
        accumulate_gram(Fp, kp, rows, c, FtF)


@inner
def add_outers(A, kd, k, Hd, numbers, first, last, sign):
    """Add sign·Σ h_j h_jᵀ over j in numbers[first:last] to A, k rows of length kd; rows of Hd have that length, too.

    Four at a time: each of them on its own loads and stores all of A.
    """
    out_of_line()
    whole = first + (last - first) // 4 * 4
    for p in range(first, whole, 4):
        g = Hd[numbers[p] * kd : numbers[p] * kd + kd]
        h = Hd[numbers[p + 1] * kd : numbers[p + 1] * kd + kd]
        i = Hd[numbers[p + 2] * kd : numbers[p + 2] * kd + kd]
        j = Hd[numbers[p + 3] * kd : numbers[p + 3] * kd + kd]
        for t in range(k):
            row, of_g, of_h, of_i, of_j = A[t * kd : t * kd + kd], sign * g[t], sign * h[t], sign * i[t], sign * j[t]
            for u in range(kd):
                row[u] += of_g * g[u] + of_h * h[u] + of_i * i[u] + of_j * j[u]
    for p in range(whole, last):
        h = Hd[numbers[p] * kd : numbers[p] * kd + kd]
        for t in range(k):
            row, of_h = A[t * kd : t * kd + kd], sign * h[t]
            for u in range(kd):
                row[u] += of_h * h[u]


@inner
def sweep_alone(f, c, A, kd, k, l1, descent, g, results):
    """Coordinate descent on one row, ½ fᵀAf − (c − l1)ᵀf over f ≥ 0, in place and in float64.

    descent = (order, sweeps, tol): the row rests once its violation is at most tol × that of its first sweep. A
    component of which A knows nothing keeps its number. Writes [violation and Σ A_tt Δ² of the first sweep, sweeps,
    whether the row still moved] to `results`.
    """
    out_of_line()
    order, sweeps, tol = descent
    for t in range(kd):
        g[t] = l1 - c[t] if t < k else 0.0
    for t in range(k):
        if f[t] != 0:
            row, f_t = A[t * kd : t * kd + kd], f[t]
            for u in range(kd):
                g[u] += f_t * row[u]
    first, weighed = 0.0, 0.0
    results[3] = 1.0
    for s in range(sweeps):
        now = 0.0
        for position in range(k):
            t = order[position]
            gradient, hess = g[t], A[t * kd + t]
            now += abs(min(gradient, 0.0) if f[t] == 0 else gradient)
            if hess > 0:
                new = max(f[t] - gradient / hess, 0.0)
                step = new - f[t]
                if step != 0:
                    f[t] = new
                    row = A[t * kd : t * kd + kd]
                    for u in range(kd):
                        g[u] += step * row[u]
                    if s == 0:
                        weighed += hess * step * step
        if s == 0:
            first = now
        results[2] = s + 1
        if now <= tol * first:
            results[3] = 0.0
            break
    results[0], results[1] = first, weighed


@inner
def squared_error(x, f, h):
    """Return (x − f·h)², in float64."""
    r = np.float64(x)
    for t in range(h.size):
        r -= f[t] * h[t]
    return r * r


@inner
def loss_of_stored(run, indices, wide, first, length, f, Hd, kd):
    """Return Σ (x − f·h)² over the stored numbers of a row."""
    out_of_line()
    total = 0.0
    for p in range(length):
        j = at(indices, wide, first + p) * kd
        total += squared_error(run[p], f, Hd[j : j + kd])
    return total


@inner
def loss_of_shown(x, found, p, last, f, Hd, kd):
    """Return Σ (x − f·h)² over a row without its hidden columns, found[p:last]."""
    out_of_line()
    total = 0.0
    for j in range(x.size):
        if p < last and found[p] == j:
            p += 1
        else:
            total += squared_error(x[j], f, Hd[j * kd : j * kd + kd])
    return total


@kernel
def observed_pass(block, mask, F, begin, Ht, G, penalty, descent, out, stats, losses):
    """Solve for each row on its own observed entries, with their exact Gram matrix, and write the rows to out.

    A row begins at max(0, F + weight·(F − before)), begin = (before, weight). Its Gram matrix is G = HᵀH less the
    hidden columns, or the sum over the observed ones, whichever are fewer. losses of n numbers get ½ Σ (x − f·h)² over
    the observed entries, from the residuals. descent = (order, sweeps, tol). A row of which nothing is observed becomes
    zero.
    """
    x = Block(*block)
    n, m, k, lanes = x.rows, x.columns, Ht.shape[1], lanes_of(Ht)
    l1, l2 = np.float64(penalty[0]), np.float64(penalty[1])
    before, weight = begin
    stored = mask[0] == 0
    kp, ld, kd = round_up(k, lanes), leading(m), round_up(k, 64 // 8)
    height = round_up(min(x.height, n), ALIGN)
    tile, Htp, Cp = aligned(0 if stored else height * ld, Ht), aligned(m * kp, Ht), aligned(height * kp, Ht)
    run = aligned(max(STORED, longest_row(x)) if x.indptr else 0, Ht)
    found = np.empty(1 if stored else height * round_up(m, lanes) + 1, np.int32)
    starts, counts = np.empty(height, np.intp), np.empty(height, np.intp)
    shown = np.empty(max(m, longest_row(x) if x.indptr else 0), np.int32)  # columns that are observed
    Hd, whole, A = aligned(m * kd, stats), aligned(k * kd, stats), aligned(k * kd, stats)
    f, c, g = aligned(kd, stats), aligned(kd, stats), aligned(kd, stats)
    results, nothing = np.zeros(4), np.zeros((0, 0))
    pad_rows(Ht, np.intp(0), m, Htp, kp)
    pad_rows(Ht, np.intp(0), m, Hd, kd)
    pad_rows(G, np.intp(0), k, whole, kd)
    for i0 in range(0, n, height):
        rows = min(height, n - i0)
        if stored:
            sparse_rows_times(x, i0, rows, Htp, kp, Cp, run, nothing)
        else:
            padded = round_up(rows, GRAIN)
            load_tile(x, x.indptr, i0, rows, padded, tile, ld, run)
            hidden_of_tile(mask, i0, rows, m, found, starts, counts, lanes)
            put(tile, ld, rows, found, starts, counts, tile.dtype.type(0))
            product(tile, ld, np.intp(1), Htp, kp, Cp, kp, padded, m, kp, np.intp(DEPTH))
        for i in range(rows):
            first, left = np.intp(0), m
            if stored:
                first, left = widen_sparse_row(x, i0 + i, run)
                for p in range(left):
                    shown[p] = at(x.indices, x.wide, first + p)
            else:
                left = m - counts[i]
            if not stored and counts[i] <= left:
                for p in range(k * kd):
                    A[p] = whole[p]
                add_outers(A, kd, k, Hd, found, starts[i], starts[i] + counts[i], -1.0)
                for t in range(k):
                    if A[t * kd + t] <= CANCELLED * whole[t * kd + t]:
                        A[t * kd + t] = 0.0
            else:
                if not stored:
                    p, at_shown = starts[i], np.intp(0)
                    for j in range(m):
                        if p < starts[i] + counts[i] and found[p] == j:
                            p += 1
                        else:
                            shown[at_shown] = j
                            at_shown += 1
                clear(A, np.intp(0), k * kd)
                add_outers(A, kd, k, Hd, shown, np.intp(0), left, 1.0)
            for t in range(kd):
                f[t], c[t] = 0.0, 0.0
            for t in range(k):
                if left > 0:
                    f[t] = F[i0 + i, t]
                    if weight > 0:
                        f[t] = max(f[t] + weight * (f[t] - before[i0 + i, t]), 0.0)
                c[t] = Cp[i * kp + t]
                if A[t * kd + t] > 0:
                    A[t * kd + t] += l2
            if left > 0:
                sweep_alone(f, c, A, kd, k, l1, descent, g, results)
                stats[VIOLATION] += results[0]
                stats[KKT] += results[1]
                stats[SWEEPS] = max(stats[SWEEPS], results[2])
                stats[UNSETTLED] += results[3]
            for t in range(k):
                out[i0 + i, t] = f[t]
                stats[TOTAL] += out[i0 + i, t]
            if losses.size:
                for t in range(k):
                    f[t] = out[i0 + i, t]  # as it is kept
                if stored:
                    losses[i0 + i] = loss_of_stored(run, x.indices, x.wide, first, left, f, Hd, kd) / 2
                else:
                    last = starts[i] + counts[i]
                    losses[i0 + i] = loss_of_shown(tile[i * ld : i * ld + m], found, starts[i], last, f, Hd, kd) / 2


@kernel
def alone_sums_pass(block, F, XtF, grams):
    """Add x_ij f_i to XtF[j], and the lower triangle of f_i f_iᵀ to grams[j], for every stored number of CSR rows.

    The triangles lie row by row. All of it is in float64.
    """
    x = Block(*block)
    k, size = F.shape[1], grams.shape[1]
    run = aligned(max(STORED, longest_row(x)), F)
    f, outer = aligned(k, XtF), aligned(size, XtF)
    for i in range(x.rows):
        first, length = widen_sparse_row(x, i, run)
        place = 0
        for t in range(k):
            f[t] = F[i, t]
            for u in range(t + 1):
                outer[place] = f[t] * f[u]
                place += 1
        for p in range(length):
            j, number = at(x.indices, x.wide, first + p), np.float64(run[p])
            products, gram = XtF[j], grams[j]
            for t in range(k):
                products[t] += number * f[t]
            for e in range(size):
                gram[e] += outer[e]


@kernel
def alone_pass(XtF, grams, B, penalty, descent, out, stats, loss):
    """Sweep over each row b of B with a Gram matrix G and products c of its own, and write it to out.

    The rows are solved for as in `observed_pass`; G is a lower triangle of `alone_sums_pass`. loss[0] gets ½ bᵀGb − cᵀb
    of the new rows added.
    """
    m, k = B.shape
    kd = round_up(k, 64 // 8)
    l1, l2 = np.float64(penalty[0]), np.float64(penalty[1])
    A = aligned(k * kd, stats)
    f, c, g = aligned(kd, stats), aligned(kd, stats), aligned(kd, stats)
    results = np.zeros(4)
    clear(A, np.intp(0), k * kd)
    clear(f, np.intp(0), kd)
    clear(c, np.intp(0), kd)
    for j in range(m):
        place = 0
        for t in range(k):
            f[t], c[t] = B[j, t], XtF[j, t]
            for u in range(t + 1):
                A[t * kd + u] = A[u * kd + t] = grams[j, place]
                place += 1
            if A[t * kd + t] > 0:
                A[t * kd + t] += l2
        sweep_alone(f, c, A, kd, k, l1, descent, g, results)
        stats[VIOLATION] += results[0]
        stats[KKT] += results[1]
        place = 0
        for t in range(k):
            out[j, t] = f[t]
            f[t] = out[j, t]  # as it is kept
        for t in range(k):
            half = -c[t]
            for u in range(t):
                half += grams[j, place] * f[u]
                place += 1
            loss[0] += f[t] * (half + 0.5 * grams[j, place] * f[t])
            place += 1


@inner
def masked_ratios(S, X, Q, rows, ld, m, beta, found, starts, counts):
    """Turn S = WH of a tile into X ⊙ WH^(β−2), and Q into WH^(β−1); hidden entries of both become 0."""
    out_of_line()
    one, zero = S.dtype.type(1), S.dtype.type(0)
    for i in range(rows):
        if beta == 2:
            s, q, x_i = S[i * ld : i * ld + m], Q[i * ld : i * ld + m], X[i * ld : i * ld + m]
            for j in range(m):
                q[j] = s[j]
                s[j] = x_i[j]
        else:
            form_ratios(S, X, Q, i * ld, m, beta)
            if beta == 1:
                q = Q[i * ld : i * ld + m]
                for j in range(m):
                    q[j] = one
        for p in range(starts[i], starts[i] + counts[i]):
            S[i * ld + found[p]] = zero
            Q[i * ld + found[p]] = zero


@inner
def stored_ratios(run, values, indices, wide, begin, length, f, Htp, kp, beta):
    """Turn the stored numbers x_p of a row into x_p·(f·h_p)^(β−2), and values into (f·h_p)^(β−1)."""
    out_of_line()
    floor, zero, one = f.dtype.type(EPSILON), f.dtype.type(0), f.dtype.type(1)
    for p in range(length):
        j = at(indices, wide, begin + p) * kp
        h, s = Htp[j : j + kp], zero
        for t in range(kp):
            s += f[t] * h[t]
        values[p] = s
    if beta == 2:
        return
    if beta == 1:
        for p in range(length):
            run[p] /= max(values[p], floor)
            values[p] = one
        return
    for p in range(length):  # in the order of the dense rows: numerator with a floor for β < 2, denominator for β < 1
        s = values[p]
        weight = values[p : p + 1]
        weight[0] = max(s, floor) if beta < 2 else s
        raise_to(weight, beta - 2)
        run[p] *= weight[0]
        weight[0] = max(s, floor) if beta < 1 else s
        raise_to(weight, beta - 1)


@inner
def observed_divergence(S, X, first, m, beta, found, start, count, s_row, x_row):
    """Return D_β over the observed entries of a row of a tile; s_row and x_row have room for a row."""
    out_of_line()
    p, left, end = start, np.intp(0), start + count
    for j in range(m):
        if p < end and found[p] == j:
            p += 1
        else:
            s_row[left] = S[first + j]
            x_row[left] = X[first + j]
            left += 1
    return row_divergence(s_row, x_row, np.intp(0), np.intp(0), left, beta, None)


@inner
def stored_divergence(run, values, indices, wide, begin, length, f, Htp, kp, beta):
    """Return D_β over the stored numbers of a row."""
    out_of_line()
    for p in range(length):
        j = at(indices, wide, begin + p) * kp
        h, s = Htp[j : j + kp], f.dtype.type(0)
        for t in range(kp):
            s += f[t] * h[t]
        values[p] = s
    return row_divergence(values, run, np.intp(0), np.intp(0), length, beta, None)


@kernel
def masked_beta_pass(block, mask, F, Ht, rule, penalty, update, measure, out, N, D, stats, losses):
    """Work through n rows of X once: the multiplicative update of F, then the sums of the update of Ht; every β.

    All sums are over observed entries: N += (X ⊙ WH^(β−2))ᵀ·F and D += (WH^(β−1))ᵀ·F, both with m rows, unless N has
    none. The other arguments are those of `beta_pass`; update is KEEP or RENEW.
    """
    x = Block(*block)
    n, m, k, lanes = x.rows, x.columns, Ht.shape[1], lanes_of(F)
    beta, gamma, floor = rule
    stored, summing = mask[0] == 0, N.shape[0] > 0
    kp, ld, mp = round_up(k, lanes), leading(m), round_up(m, ALIGN)
    height = round_up(min(x.height, n), ALIGN)
    longest = longest_row(x) if x.indptr else 0
    run, values = aligned(max(STORED, longest), F), aligned(max(longest, m, 1), F)
    kept = aligned(max(longest, m, 1), F)
    size = 0 if stored else height * ld
    X, S, Q = aligned(size, F), aligned(size, F), aligned(size, F)
    Htp, Hp = aligned(m * kp, F), aligned(0 if stored else round_up(k, ALIGN) * mp, F)
    Fp, Np, Dp = aligned(height * kp, F), aligned(height * kp, F), aligned(height * kp, F)
    c = aligned(0 if stored else mp * kp, F)
    Ns, Ds = np.zeros(mp * kp if summing else 0), np.zeros(mp * kp if summing else 0)
    found = np.empty(1 if stored else height * round_up(m, lanes) + 1, np.int32)
    starts, counts, none = np.empty(height, np.intp), np.empty(height, np.intp), np.zeros(0)
    pad_rows(Ht, np.intp(0), m, Htp, kp)
    if not stored:
        pad_transposed(Ht, Hp, mp)
    for i0 in range(0, n, height):
        rows = min(height, n - i0)
        padded = round_up(rows, ALIGN)
        pad_rows(F, i0, rows, Fp, kp)
        clear(Fp, rows * kp, padded * kp)
        if stored:
            for i in range(rows):
                begin, length = widen_sparse_row(x, i0 + i, run)
                f = Fp[i * kp : i * kp + kp]
                if measure:
                    losses[i0 + i] = stored_divergence(run, values, x.indices, x.wide, begin, length, f, Htp, kp, beta)
                if update != KEEP:
                    stored_ratios(run, values, x.indices, x.wide, begin, length, f, Htp, kp, beta)
                    sparse_sum(run, x.indices, x.wide, begin, length, Htp, kp, Np[i * kp : i * kp + kp])
                    sparse_sum(values, x.indices, x.wide, begin, length, Htp, kp, Dp[i * kp : i * kp + kp])
                    multiply_rows(Fp, Np, Dp, kp, i, np.intp(1), k, penalty, gamma, floor, none, stats)
                if summing:
                    widen_sparse_row(x, i0 + i, run)
                    stored_ratios(run, values, x.indices, x.wide, begin, length, f, Htp, kp, beta)
                    sparse_scatter(run, x.indices, x.wide, begin, length, f, kp, k, Ns)
                    sparse_scatter(values, x.indices, x.wide, begin, length, f, kp, k, Ds)
        else:
            load_tile(x, x.indptr, i0, rows, padded, X, ld, run)
            hidden_of_tile(mask, i0, rows, m, found, starts, counts, lanes)
            put(X, ld, rows, found, starts, counts, X.dtype.type(1))
            clear(S, rows * ld, padded * ld)
            clear(Q, np.intp(0), padded * ld)
            if measure or update != KEEP:
                product(Fp, kp, np.intp(1), Hp, mp, S, ld, padded, k, mp, np.intp(DEPTH))
            if measure:
                for i in range(rows):
                    losses[i0 + i] = observed_divergence(
                        S, X, i * ld, m, beta, found, starts[i], counts[i], values, kept
                    )
            if update != KEEP:
                masked_ratios(S, X, Q, rows, ld, m, beta, found, starts, counts)
                product(S, ld, np.intp(1), Htp, kp, Np, kp, padded, m, kp, np.intp(DEPTH))
                product(Q, ld, np.intp(1), Htp, kp, Dp, kp, padded, m, kp, np.intp(DEPTH))
                multiply_rows(Fp, Np, Dp, kp, np.intp(0), rows, k, penalty, gamma, floor, none, stats)
            if summing:
                product(Fp, kp, np.intp(1), Hp, mp, S, ld, padded, k, mp, np.intp(DEPTH))
                masked_ratios(S, X, Q, rows, ld, m, beta, found, starts, counts)
                sum_products(S, ld, m, Fp, kp, rows, c, Ns)
                sum_products(Q, ld, m, Fp, kp, rows, c, Ds)
        if update != KEEP:
            stats[TOTAL] += copy_rows(Fp, kp, rows, out, i0)
    if summing:
        add_rows(Ns, kp, N)
        add_rows(Ds, kp, D)


@kernel
def masked_code_pass(block, mask, Ht, rule, penalty, stop, out, stats):
    """Write F after multiplicative updates of each row alone on its observed entries, until it has settled, to out.

    The arguments are those of `code_pass`, without `by_step`. A row starts at √(mean of what is observed / k).
    """
    x = Block(*block)
    n, m, k, lanes = x.rows, x.columns, Ht.shape[1], lanes_of(Ht)
    beta, gamma, floor = rule
    tol, max_iter = stop
    stored = mask[0] == 0
    kp, ld, mp = round_up(k, lanes), leading(m), round_up(m, ALIGN)
    height = round_up(min(x.height, n), ALIGN)
    longest = longest_row(x) if x.indptr else 0
    run, values = aligned(max(STORED, longest), Ht), aligned(max(longest, m, 1), Ht)
    kept = aligned(max(longest, m, 1), Ht)
    size = 0 if stored else height * ld
    X, S, Q = aligned(size, Ht), aligned(size, Ht), aligned(size, Ht)
    Htp, Hp = aligned(m * kp, Ht), aligned(0 if stored else round_up(k, ALIGN) * mp, Ht)
    Fp, Np, Dp = aligned(height * kp, Ht), aligned(height * kp, Ht), aligned(height * kp, Ht)
    found = np.empty(1 if stored else height * round_up(m, lanes) + 1, np.int32)
    starts, counts, none = np.empty(height, np.intp), np.empty(height, np.intp), np.zeros(0)
    ignored, errors, before = np.zeros(stats.size), np.zeros(height), np.zeros(height)
    active = np.empty(height, np.bool_)
    pad_rows(Ht, np.intp(0), m, Htp, kp)
    if not stored:
        pad_transposed(Ht, Hp, mp)
    for i0 in range(0, n, height):
        rows = min(height, n - i0)
        padded = round_up(rows, ALIGN)
        if not stored:
            load_tile(x, x.indptr, i0, rows, padded, X, ld, run)
            hidden_of_tile(mask, i0, rows, m, found, starts, counts, lanes)
            put(X, ld, rows, found, starts, counts, X.dtype.type(0))
        for i in range(rows):
            total, left = 0.0, m
            if stored:
                _, left = widen_sparse_row(x, i0 + i, run)
                for p in range(left):
                    total += run[p]
            else:
                left = m - counts[i]
                for j in range(m):
                    total += X[i * ld + j]
            active[i] = left > 0
            for t in range(kp):
                Fp[i * kp + t] = np.sqrt(total / left / k) if t < k and left > 0 else 0.0
        clear(Fp, rows * kp, padded * kp)
        iteration, going = 0, 0
        for i in range(rows):
            going += active[i]
        while going and iteration <= max_iter:
            check = iteration % 10 == 0 and (tol > 0 or iteration == 0)
            if not stored:
                clear(S, rows * ld, padded * ld)
                product(Fp, kp, np.intp(1), Hp, mp, S, ld, padded, k, mp, np.intp(DEPTH))
            if check:
                for i in range(rows):
                    if not active[i]:
                        continue
                    if stored:
                        begin, length = widen_sparse_row(x, i0 + i, run)
                        f = Fp[i * kp : i * kp + kp]
                        loss = stored_divergence(run, values, x.indices, x.wide, begin, length, f, Htp, kp, beta)
                    else:
                        loss = observed_divergence(S, X, i * ld, m, beta, found, starts[i], counts[i], values, kept)
                    error = np.sqrt(max(2 * loss, 0.0))
                    if iteration == 0:
                        errors[i] = error
                        active[i] = error > 0
                    elif (before[i] - error) / errors[i] < tol:
                        active[i] = False
                    before[i] = error
                    going -= not active[i]
            if going == 0 or iteration == max_iter:
                break
            iteration += 1
            if not stored:
                clear(Q, np.intp(0), padded * ld)
                masked_ratios(S, X, Q, rows, ld, m, beta, found, starts, counts)
                product(S, ld, np.intp(1), Htp, kp, Np, kp, padded, m, kp, np.intp(DEPTH))
                product(Q, ld, np.intp(1), Htp, kp, Dp, kp, padded, m, kp, np.intp(DEPTH))
            for i in range(rows):
                if active[i]:
                    if stored:
                        begin, length = widen_sparse_row(x, i0 + i, run)
                        f = Fp[i * kp : i * kp + kp]
                        stored_ratios(run, values, x.indices, x.wide, begin, length, f, Htp, kp, beta)
                        sparse_sum(run, x.indices, x.wide, begin, length, Htp, kp, Np[i * kp : i * kp + kp])
                        sparse_sum(values, x.indices, x.wide, begin, length, Htp, kp, Dp[i * kp : i * kp + kp])
                    multiply_rows(Fp, Np, Dp, kp, i, np.intp(1), k, penalty, gamma, floor, none, ignored)
        copy_rows(Fp, kp, rows, out, i0)
        stats[SWEEPS] = max(stats[SWEEPS], iteration)
        stats[UNSETTLED] += going
