"""Products of tiles and of CSR rows with a factor, and the pass over X that leaves F as it is."""

import numpy as np

from ._decorators import inlined, inner, kernel
from ._simd import (
    GRAIN,
    STRIP,
    gather1,
    gather2,
    gather4,
    micro1,
    micro1_rest,
    micro2,
    micro3,
    out_of_line,
    scatter1,
    scatter2,
    scatter4,
    view,
)
from .arguments import ACCUMULATE, OPENING, PRODUCT, RESIDUAL, Block
from .buffers import ALIGN, aligned, clear, copy_rows, lanes_of, leading, pad_rows, pad_transposed, round_up, zeros
from .reading import STORED, bounds, load_tile, longest_row, opening_row, sparse_opening, widen_stored

STRIP1, STRIP2, STRIP3 = STRIP[1], STRIP[2], STRIP[3]
DEPTH = 128  # terms per partial product: a strip of b of this depth stays in the first-level cache
LONG = 1024  # float64 columns up to which rows are read in one go: the memory's prefetchers see longer runs
DEPTH_ROWS = 64  # terms per partial product of Xᵀ·F, which lie a page apart: the first-level TLB has 64 entries or more


@inner
def depth_of(m, size):
    """Terms per partial product of X·Ht: of long rows a strip of Ht stays in the first-level cache.

    A function of (m, type) only, whether the tile was copied or not: it decides how sums are rounded.
    """
    return m if size == 8 and m <= LONG else np.intp(DEPTH)


@inner
def rows_of_tile(i0, n, height, hold):
    """Return how many rows the tile that begins at row i0 has.

    With hold ≥ 0 (see `held_back`) the last tile is cut in two: whole register tiles, which may be multiplied where
    they lie, and the few rows that are left, which are copied.
    """
    rows = min(height, n - i0)
    if hold >= 0:
        whole = (n - i0 - hold) // GRAIN * GRAIN
        if 0 < whole < rows:
            rows = whole
    return rows


@inner
def held_back(code, size, m, dense):
    """Return how many rows must follow those that are multiplied where they lie; −1 where X is always copied.

    float64 X is as large as its tile: rows that are not too long are not copied. Register tiles read beyond the end of
    a row, up to a multiple of GRAIN: into the rows that follow. Measured on 70,000 × 784, two threads: 59 → 50 ms at
    k = 15, 120 → 105 at 45; for float32, whose copy is cheaper, nothing. Asking for the next tile ahead of time:
    nothing either. A function of shape and types only, as it decides how sums are rounded.
    """
    if dense and size == 8 and code & 255 == 10 and 0 < m <= LONG:
        return (round_up(m, GRAIN) - 1) // m
    return -1


@inner
def lies_well(x):
    """Whether register tiles can read float64 rows where they lie."""
    apart = x.row_stride
    return x.column_stride == 8 and apart >= 8 * x.columns and apart % 8 == 0 and x.address % 8 == 0


@inner
def product(x, rs, ts, b, ldb, c, ldc, rows, terms, columns, depth):
    """c[r, :columns] = Σ_t x[r·rs + t·ts] · b[t, :columns]; rows in multiples of GRAIN, columns in whole vectors."""
    out_of_line()
    lanes = lanes_of(x)
    for first in range(0, max(terms, 1), depth):
        length = min(depth, terms - first)
        adding = 1 if first else 0
        left, j = columns // lanes, 0
        while left:
            at_b = first * ldb + j
            if left == 1:
                whole = rows // STRIP1 * STRIP1
                for r in range(whole, rows, GRAIN):  # none where STRIP1 is no more than this
                    micro1_rest(x, r * rs + first * ts, rs, ts, b, at_b, ldb, c, r * ldc + j, ldc, length, adding)
                for r in range(0, whole, STRIP1):
                    micro1(x, r * rs + first * ts, rs, ts, b, at_b, ldb, c, r * ldc + j, ldc, length, adding)
                left -= 1
                j += lanes
            elif left == 2 or left == 4:
                for r in range(0, rows, STRIP2):
                    micro2(x, r * rs + first * ts, rs, ts, b, at_b, ldb, c, r * ldc + j, ldc, length, adding)
                left -= 2
                j += 2 * lanes
            else:
                for r in range(0, rows, STRIP3):
                    micro3(x, r * rs + first * ts, rs, ts, b, at_b, ldb, c, r * ldc + j, ldc, length, adding)
                left -= 3
                j += 3 * lanes


@inner
def add_rows(c, ldc, out):
    """out (float64, compact) += c (padded)."""
    out_of_line()
    rows, k = out.shape
    for j in range(rows):
        to, of = out[j], c[j * ldc : j * ldc + k]
        for t in range(k):
            to[t] += of[t]


@inner
def accumulate_products(tile, ld, m, Fp, kp, rows, c, XtF):
    """XtF += tileᵀ·F; the tile's own product in the compute type, the sum in float64."""
    out_of_line()
    product(tile, np.intp(1), ld, Fp, kp, c, kp, round_up(m, GRAIN), rows, kp, np.intp(DEPTH_ROWS))
    add_rows(c, kp, XtF)


@inner
def sum_products(tile, ld, m, Fp, kp, rows, c, sums):
    """`accumulate_products` into a flat padded float64 buffer, which `add_rows` adds to XtF once per call."""
    out_of_line()
    columns = round_up(m, ALIGN)
    product(tile, np.intp(1), ld, Fp, kp, c, kp, columns, rows, kp, np.intp(DEPTH_ROWS))
    for i in range(columns * kp):
        sums[i] += c[i]


@inner
def accumulate_gram(Fp, kp, rows, c, FtF):
    """FtF += FᵀF."""
    out_of_line()
    product(Fp, np.intp(1), kp, Fp, kp, c, kp, round_up(FtF.shape[0], GRAIN), rows, kp, np.intp(DEPTH))
    add_rows(c, kp, FtF)


@inner
def gram(Ht, out):
    """out = HtᵀHt in float64."""
    m, k = Ht.shape
    kp = round_up(k, lanes_of(Ht))
    height = 256
    Fp, c = aligned(height * kp, Ht), aligned(round_up(k, ALIGN) * kp, Ht)
    out[:] = 0
    for i0 in range(0, m, height):
        rows = min(height, m - i0)
        pad_rows(Ht, i0, rows, Fp, kp)
        accumulate_gram(Fp, kp, rows, c, out)


@inlined
def gather_row(x, x0, indices, wide, begin, length, Htp, kp, out, first):
    """out[first : first + kp] = Σ_p x[x0 + p] · Ht[column_p, :], column_p from number `begin` on."""
    lanes = lanes_of(out)
    left, t = kp // lanes, 0
    while left:
        if left >= 4:
            gather4(x, x0, indices, wide, begin, length, Htp, t, kp, out, first + t)
        elif left >= 2:
            gather2(x, x0, indices, wide, begin, length, Htp, t, kp, out, first + t)
        else:
            gather1(x, x0, indices, wide, begin, length, Htp, t, kp, out, first + t)
        done = 4 if left >= 4 else min(left, 2)
        left -= done
        t += done * lanes


@inlined
def scatter_row(x, x0, indices, wide, begin, length, Fp, first, kp, k, sums):
    """sums[column_p, :k] += x[x0 + p] · Fp[first : first + k]; float64, rows of sums of length kp."""
    lanes = lanes_of(sums)
    left, t = round_up(k, lanes) // lanes, 0
    while left:
        if left >= 4:
            scatter4(x, x0, indices, wide, begin, length, Fp, first + t, sums, t, kp)
        elif left >= 2:
            scatter2(x, x0, indices, wide, begin, length, Fp, first + t, sums, t, kp)
        else:
            scatter1(x, x0, indices, wide, begin, length, Fp, first + t, sums, t, kp)
        done = 4 if left >= 4 else min(left, 2)
        left -= done
        t += done * lanes


@inner
def sparse_sum(x, indices, wide, begin, length, Htp, kp, out):
    """out = Σ_p x_p · Ht[column_p, :] over the stored numbers of one row."""
    out_of_line()
    gather_row(x, np.intp(0), indices, wide, begin, length, Htp, kp, out, np.intp(0))


@inner
def sparse_scatter(x, indices, wide, begin, length, f, kp, k, sums):
    """sums[column_p, :k] += x_p · f over the stored numbers of one row."""
    out_of_line()
    scatter_row(x, np.intp(0), indices, wide, begin, length, f, np.intp(0), kp, k, sums)


@inner
def sparse_rows_times(x, lo, rows, Htp, kp, C, run, exact):
    """C[i, :] = Σ_p x_p · Ht[column_p, :] over the stored numbers of row lo + i.

    Into `exact` instead, if it has rows: its row lo + i is of float64, the sum of runs of DEPTH terms in the compute
    type.
    """
    out_of_line()
    last, first, k, whole = np.intp(0), np.intp(0), exact.shape[1], exact.shape[0] == 0
    for i in range(rows):
        if i == last:
            first, last = widen_stored(x, lo, rows, i, run)
        begin, length = bounds(x.indptr, x.wide, lo + i)
        at_c = i * kp if whole else 0
        p = np.intp(0)
        while True:
            terms = length if whole else min(np.intp(DEPTH), length - p)
            gather_row(run, begin - first + p, x.indices, x.wide, begin + p, terms, Htp, kp, C, at_c)
            if whole:
                break
            to, part = exact[lo + i], C[:k]
            if p == 0:
                for t in range(k):
                    to[t] = part[t]
            else:
                for t in range(k):
                    to[t] += part[t]
            p += terms
            if p >= length:
                break


@inner
def sparse_add_products(x, lo, rows, Fp, kp, k, sums, run):
    """sums[column_p, :k] += x_p · F[i, :]; float64 throughout, rows of sums of length kp."""
    out_of_line()
    last, first = np.intp(0), np.intp(0)
    for i in range(rows):
        if i == last:
            first, last = widen_stored(x, lo, rows, i, run)
        begin, length = bounds(x.indptr, x.wide, lo + i)
        scatter_row(run, begin - first, x.indices, x.wide, begin, length, Fp, i * kp, kp, k, sums)


@inner
def residual(tile, ld, m, Fp, kp, k, rows, Hp, mp, S, out, first):
    """Σ (x − f·Ht)² over a tile, WH formed in S (row length mp); half of it by row into out[first:], if it has rows."""
    out_of_line()
    product(Fp, kp, np.intp(1), Hp, mp, S, mp, round_up(rows, GRAIN), k, mp, np.intp(DEPTH))
    total = 0.0
    for i in range(rows):
        x, s, of_row = tile[i * ld : i * ld + m], S[i * mp : i * mp + m], 0.0
        for j in range(m):
            r = np.float64(x[j]) - np.float64(s[j])
            of_row += r * r
        total += of_row
        if out.shape[0]:
            out[first + i, 0] = of_row / 2
    return total


@kernel
def product_pass(block, F, Ht, rule, out, XtF, FtF, stats):
    """n rows of X, once, F left as it is.

    OPENING: stats = [min, number of non-finite values, Σx, Σx²] over the stored numbers (CSR: without the zeros).
    PRODUCT: out = X·Ht; of CSR X into XtF instead, if it has rows. ACCUMULATE: XtF += Xᵀ·F and FtF += FᵀF, of which
    those of no rows are left out (the Gram of F alone: an X of no columns). RESIDUAL (dense X): stats[0] +=
    Σ (x − f·Ht)², and half of it by row into out, if it has rows. One kernel for all of these, because every further
    one costs each cold start the better part of a second;
    without the sweep, which mu does not need.
    """
    x = Block(*block)
    n, m, k = x.rows, x.columns, F.shape[1]
    sparse, size, kp = x.indptr != 0, F.itemsize, round_up(k, lanes_of(F))
    ld, mp = leading(m), round_up(m, ALIGN)
    height = round_up(min(x.height, n), ALIGN)
    hold = held_back(x.code, size, m, not sparse and rule != OPENING)
    well = hold >= 0 and x.code == 10 and lies_well(x)
    of_tile, of_F, of_H = 0 if sparse else height * ld, height * kp, round_up(m, ALIGN) * round_up(kp, ALIGN)
    of_c = height * mp if rule == RESIDUAL else max(round_up(max(m, k), ALIGN), height) * kp
    memory = aligned(of_tile + of_F + of_H + of_c + 4 * ALIGN, F)
    copied, Fp = memory[: of_tile + ALIGN], memory[of_tile + ALIGN :]
    Hp = Fp[of_F:]
    c = Hp[of_H:]
    run = aligned(max(STORED, longest_row(x)) if sparse else 0, F)
    sums = zeros(m * kp if sparse and rule == ACCUMULATE and XtF.shape[0] else 0, stats)
    if rule == RESIDUAL:
        pad_transposed(Ht, Hp, mp)
    elif rule == PRODUCT:
        pad_rows(Ht, np.intp(0), m, Hp, kp)
    elif rule == OPENING:
        stats[0] = np.inf
        for i in range(1, 4):
            stats[i] = 0
    i0 = np.intp(0)  # a literal would have Numba compile a copy of every inner function for it
    while i0 < n:
        rows = rows_of_tile(i0, n, height, hold)
        tile, at_x = copied, ld
        if sparse:
            if rule == PRODUCT:
                sparse_rows_times(x, i0, rows, Hp, kp, c, run, XtF)
            elif rule == OPENING:
                sparse_opening(x, i0, rows, run, stats)
        elif well and rows % GRAIN == 0 and n - i0 - rows >= hold:
            tile, at_x = view(x.address + i0 * x.row_stride, copied), x.row_stride // size
        else:
            load_tile(x, i0, rows, round_up(rows, GRAIN), tile, ld, run)
        if rule == OPENING:
            for i in range(0 if sparse else rows):
                opening_row(tile, i * ld, m, stats)
        elif rule == PRODUCT:
            if not sparse:
                product(tile, at_x, np.intp(1), Hp, kp, c, kp, round_up(rows, GRAIN), m, kp, depth_of(m, size))
            if out.shape[0]:
                copy_rows(c, kp, rows, out, i0)
        else:
            pad_rows(F, i0, rows, Fp, kp)
            if rule == RESIDUAL:
                clear(Fp, rows * kp, round_up(rows, GRAIN) * kp)
                stats[0] += residual(tile, at_x, m, Fp, kp, k, rows, Hp, mp, c, out, i0)
            elif XtF.shape[0]:
                if sparse:
                    sparse_add_products(x, i0, rows, Fp, kp, k, sums, run)
                else:
                    accumulate_products(tile, at_x, m, Fp, kp, rows, c, XtF)
            if FtF.shape[0]:
                accumulate_gram(Fp, kp, rows, c, FtF)
        i0 += rows
    if sparse and rule == ACCUMULATE and XtF.shape[0]:
        add_rows(sums, kp, XtF)
