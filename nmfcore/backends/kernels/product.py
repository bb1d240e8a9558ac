"""Products of tiles and of CSR rows with a factor, and the pass over X that leaves F as it is."""

import numpy as np

from ._decorators import inlined, inner, kernel, once
from ._pairs import max, min
from ._simd import (
    GRAIN,
    LONG_VECTORS,
    STRIP,
    gather1,
    gather2,
    gather4,
    micro1,
    micro1_rest,
    micro2,
    micro3,
    micro_half,
    out_of_line,
    scatter1,
    scatter2,
    scatter4,
    transpose,
    view,
)
from .arguments import ACCUMULATE, OPENING, PRODUCT, RESIDUAL, TALL, Block, in_strips
from .buffers import ALIGN, aligned, clear, copy_rows, lanes_of, leading, pad_rows, pad_transposed, round_up, zeros
from .reading import (
    STORED,
    bounds,
    load_tile,
    longest_row,
    opening_row,
    size_of,
    sparse_opening,
    weighed_opening_row,
    weighed_sparse_opening,
    widen_stored,
)

STRIP1, STRIP2, STRIP3 = STRIP[1], STRIP[2], STRIP[3]
DEPTH = 128  # terms per partial product: a strip of b of this depth stays in the first-level cache
LONG = 1024  # float64 columns up to which rows are read in one go: the memory's prefetchers see longer runs
STRIP_BYTES = 3072  # of a row of a strip; whole multiples of DEPTH numbers, so that sums are rounded as without strips
SUMS = 1536  # columns of X whose products with F are formed before they are added to the float64 sums
DEPTH_ROWS = 64  # terms per partial product of Xᵀ·F, which lie a page apart: the first-level TLB has 64 entries or more


@once
def depth_of(m, size):
    """Return the terms per partial product of X·Ht: for long rows a strip of Ht then stays in the first-level cache.

    They decide how sums are rounded, and so depend on m and the type only, not on whether the tile was copied.
    """
    return m if size == 8 and m <= LONG else np.intp(DEPTH)


read_in_strips = once(in_strips)


@once
def strip_of(m, k, size):
    """Return the columns of a tile, or of a strip of it: then about as many in each, and whole multiples of DEPTH."""
    if not read_in_strips(m, k):
        return m
    most = np.intp(STRIP_BYTES // size)
    strips = (m + most - 1) // most
    return round_up((m + strips - 1) // strips, np.intp(DEPTH))


@once
def ending_in_half(k, lanes):
    """Return k rounded up to whole vectors or, if these are long, half ones: the columns of a product with F."""
    return round_up(k, lanes // 2 if LONG_VECTORS else lanes)


@once
def columns_of(x, first, columns):
    """Return some columns of a dense block."""
    address = x.address + first * x.column_stride
    return Block(address, x.code, x.row_stride, x.column_stride, x.indptr, x.indices, x.wide, x.rows, columns, x.height)


@once
def rows_of_tile(i0, n, height, hold):
    """Return how many rows the tile that begins at row i0 has.

    With hold ≥ 0 (see `held_back`) the last tile is cut in two: whole register tiles, which may be multiplied in place,
    and the few rows that are left, which are copied.
    """
    rows = min(height, n - i0)
    if hold >= 0:
        whole = (n - i0 - hold) // GRAIN * GRAIN
        if 0 < whole < rows:
            rows = whole
    return rows


@once
def held_back(code, size, m, dense):
    """Return how many rows must follow those that are multiplied in place; −1 where X is always copied.

    Rows of float64 X are not copied into a tile unless they are long: on 70,000 × 784 an iteration takes 15 % less time
    (for float32 it makes no difference). Register tiles read past the end of a row, up to a multiple of GRAIN, into the
    rows that follow. The result decides how sums are rounded, and so depends on shape and types only.
    """
    if dense and size == 8 and code & 255 == 10 and 0 < m <= LONG:
        return (round_up(m, GRAIN) - 1) // m
    return -1


@once
def lies_well(x):
    """Return whether register tiles can read the float64 rows of a block in place."""
    apart = x.row_stride
    return x.column_stride == 8 and apart >= 8 * x.columns and apart % 8 == 0 and x.address % 8 == 0


@once
def product(x, rs, ts, b, ldb, c, ldc, rows, terms, columns, depth):
    """Write c[r, :columns] = Σ_t x[r·rs + t·ts] · b[t, :columns]; rows: multiples of GRAIN, columns: whole vectors."""
    nothing = np.intp(x.ctypes.data), np.intp(0), np.intp(0), np.intp(0)
    add_terms(x, rs, ts, b, ldb, c, ldc, rows, terms, columns, depth, np.intp(0), nothing)


@once
def add_terms(x, rs, ts, b, ldb, c, ldc, rows, terms, columns, depth, begun, coming):
    """Write Σ_t x[r·rs + t·ts] · b[t, :columns] to c[r, :columns], or add it to what c holds if begun > 0.

    A number of columns that ends in half a vector is for rows of c that have the other half, which becomes zeros.

    Meanwhile, `coming` = (address, bytes, of_row, apart) is fetched: so many bytes from an address on or, where
    of_row > 0, the first of_row bytes of each row there. Returns the address up to which that was done.
    """
    out_of_line()
    ahead, left, of_row, apart = coming
    lanes, shift, last = lanes_of(x), np.intp(0), ahead + left
    if of_row and not LONG_VECTORS:
        apart = np.intp(0)
    elif of_row:
        while 64 << shift < of_row:
            shift += 1
    elif left:
        tiles = rows // (STRIP1 if columns == lanes else STRIP2) * ((columns // lanes + 2) // 3)
        apart = (left + tiles * terms - 1) // max(tiles * terms, 1)
    for first in range(0, max(terms, 1), depth):
        length = min(depth, terms - first)
        adding = 1 if first + begun else 0
        left, j, further = columns // lanes, 0, max(length >> shift, 1) * apart
        while left:
            at_b = first * ldb + j
            if left == 1:
                whole = rows // STRIP1 * STRIP1
                for r in range(whole, rows, GRAIN):  # none where STRIP1 is no more than this
                    at_x, at_c = r * rs + first * ts, r * ldc + j
                    micro1_rest(x, at_x, rs, ts, b, at_b, ldb, c, at_c, ldc, length, adding, ahead, shift, apart)
                    ahead = min(ahead + further, last)
                for r in range(0, whole, STRIP1):
                    at_x, at_c = r * rs + first * ts, r * ldc + j
                    micro1(x, at_x, rs, ts, b, at_b, ldb, c, at_c, ldc, length, adding, ahead, shift, apart)
                    ahead = min(ahead + further, last)
                left -= 1
                j += lanes
            elif left == 2 or left == 4:
                for r in range(0, rows, STRIP2):
                    at_x, at_c = r * rs + first * ts, r * ldc + j
                    micro2(x, at_x, rs, ts, b, at_b, ldb, c, at_c, ldc, length, adding, ahead, shift, apart)
                    ahead = min(ahead + further, last)
                left -= 2
                j += 2 * lanes
            else:
                for r in range(0, rows, STRIP3):
                    at_x, at_c = r * rs + first * ts, r * ldc + j
                    micro3(x, at_x, rs, ts, b, at_b, ldb, c, at_c, ldc, length, adding, ahead, shift, apart)
                    ahead = min(ahead + further, last)
                left -= 3
                j += 3 * lanes
        if columns % lanes:
            for r in range(0, rows, GRAIN):
                at_x, at_c = r * rs + first * ts, r * ldc + j
                micro_half(x, at_x, rs, ts, b, first * ldb + j, ldb, c, at_c, ldc, length, adding, ahead, shift, apart)
                ahead = min(ahead + further, last)
    return ahead


@once
def nothing_coming(x):
    """Return what `add_terms` fetches where nothing is needed next."""
    return x.address, np.intp(0), np.intp(0), np.intp(0)


@once
def strip_coming(x, first, rows, j0, strip):
    """Return where the strip that begins at column j0 lies, for `add_terms`, or the first one if there is none there.

    It is that of rows `first` … Nothing is to be fetched where numbers of a row do not lie side by side.
    """
    size, j0 = size_of(x.code), j0 if j0 < x.columns else np.intp(0)
    if first >= x.rows or x.column_stride != size or x.row_stride <= 0:
        return nothing_coming(x)
    rows, columns = min(rows, x.rows - first), min(strip, x.columns - j0)
    if strip >= x.columns:
        return coming_of(x, first, 2 * rows, strip)
    return x.address + first * x.row_stride + j0 * size, rows * x.row_stride, columns * size, x.row_stride


@once
def coming_of(x, first, rows, m):
    """Return the address of row `first` of X, and how many bytes each of two products fetches from there.

    None are fetched if there are no such rows (`rows` = 0), or if they do not lie side by side. With k = 15 an
    iteration takes 0.87 of the time for float32 and int64, 0.9 for uint8.
    """
    of_row = m * size_of(x.code)
    if rows == 0 or x.column_stride != size_of(x.code) or not of_row <= x.row_stride <= of_row * 5 // 4:
        return nothing_coming(x)
    return x.address + first * x.row_stride, x.row_stride * rows // 2, np.intp(0), np.intp(0)


@once
def add_rows(c, ldc, out):
    """Add the padded rows of c to out (float64, not padded)."""
    out_of_line()
    rows, k = out.shape
    for j in range(rows):
        to, of = out[j], c[j * ldc : j * ldc + k]
        for t in range(k):
            to[t] += of[t]


@once
def accumulate_products(tile, ld, m, Fp, kp, rows, c, XtF, coming):
    """Add tileᵀ·F to XtF: the product of the tile is of the compute type, the sum of float64; see `add_terms`."""
    out_of_line()
    ahead, left, of_row, apart = coming
    lanes, last = lanes_of(tile), ahead + left
    across = round_up(XtF.shape[1], GRAIN)
    for j0 in range(0, m, SUMS):
        columns = min(np.intp(SUMS), m - j0)
        depth = np.intp(DEPTH_ROWS)
        part = last - ahead if of_row else left * columns // m
        coming = ahead, part, of_row, apart
        if across < kp:
            whole, ldc = round_up(columns, lanes), leading(columns)
            ahead = add_terms(
                Fp, np.intp(1), kp, tile[j0:], ld, c, ldc, across, rows, whole, np.intp(DEPTH), np.intp(0), coming
            )
            add_columns(c, ldc, XtF[j0 : j0 + columns], c[kp * ldc :], kp)
        else:
            whole = round_up(columns, GRAIN)
            ahead = add_terms(tile[j0:], np.intp(1), ld, Fp, kp, c, kp, whole, rows, kp, depth, np.intp(0), coming)
            add_rows(c, kp, XtF[j0 : j0 + columns])


@once
def add_columns(c, ldc, out, room, kp):
    """Add the first columns of c, as many as out has rows, to the rows of out (float64)."""
    out_of_line()
    lanes = lanes_of(c)
    for j in range(0, out.shape[0], lanes):
        for t in range(0, kp, lanes):
            transpose(c, t * ldc + j, ldc, room, t, kp)
        add_rows(room, kp, out[j : j + lanes])


@once
def sum_products(tile, ld, m, Fp, kp, rows, c, sums):
    """Add tileᵀ·F to a flat padded buffer of float64, which the kernel adds to its output at the end."""
    out_of_line()
    columns = round_up(m, ALIGN)
    product(tile, np.intp(1), ld, Fp, kp, c, kp, columns, rows, kp, np.intp(DEPTH_ROWS))
    for i in range(columns * kp):
        sums[i] += c[i]


@once
def accumulate_gram(Fp, kp, rows, c, FtF):
    """Add FᵀF to FtF."""
    out_of_line()
    product(Fp, np.intp(1), kp, Fp, kp, c, kp, round_up(FtF.shape[0], GRAIN), rows, kp, np.intp(DEPTH))
    add_rows(c, kp, FtF)


@once
def gram(Ht, out):
    """Write HtᵀHt to out, in float64."""
    m, k = Ht.shape
    kp = round_up(k, lanes_of(Ht))
    height = 256
    Fp, c = aligned(height * kp, Ht), aligned(round_up(k, ALIGN) * kp, Ht)
    out[:] = 0
    for i0 in range(0, m, height):
        rows = min(height, m - i0)
        pad_rows(Ht, i0, rows, Fp, kp)
        accumulate_gram(Fp, kp, rows, c, out)


@inner
def weigh_rows(Fp, kp, rows, weights, first, Up):
    """Write u_i·f_i to row i of Up, for weights u_i from number `first` on. Returns the sum of its numbers."""
    out_of_line()
    total = 0.0
    for i in range(rows):
        u, f, to = Fp.dtype.type(weights[first + i]), Fp[i * kp : i * kp + kp], Up[i * kp : i * kp + kp]
        for t in range(kp):
            to[t] = u * f[t]
            total += np.float64(to[t])
    return total


@once
def accumulate_weighed(Fp, Up, kp, rows, c, FtF):
    """Add FᵀUF to FtF, from F and UF."""
    out_of_line()
    product(Fp, np.intp(1), kp, Up, kp, c, kp, round_up(FtF.shape[0], GRAIN), rows, kp, np.intp(DEPTH))
    add_rows(c, kp, FtF)


@once
def weighed_gram(F, Up, kp, out):
    """Write FᵀUF to out, in float64, from F and the padded rows of UF."""
    out_of_line()
    n, k = F.shape
    height = 256
    Fp, c = aligned(height * kp, F), aligned(round_up(k, ALIGN) * kp, F)
    out[:] = 0
    for i0 in range(0, n, height):
        rows = min(height, n - i0)
        pad_rows(F, i0, rows, Fp, kp)
        accumulate_weighed(Fp, Up[i0 * kp :], kp, rows, c, out)


# The next two are inlined, and take offsets instead of slices: for a short row a call costs more than the products.


@inlined
def gather_row(x, x0, indices, wide, begin, length, Htp, kp, out, first):
    """Write out[first : first + kp] = Σ_p x[x0 + p] · Ht[column_p, :]; column_p is column number begin + p of X."""
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
    """Add x[x0 + p] · Fp[first : first + k] to sums[column_p, :k], for each p (float64, rows of length kp)."""
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


@once
def sparse_sum(x, indices, wide, begin, length, Htp, kp, out):
    """Write Σ_p x_p · Ht[column_p, :] over the stored numbers of one row to out."""
    out_of_line()
    gather_row(x, np.intp(0), indices, wide, begin, length, Htp, kp, out, np.intp(0))


@once
def sparse_scatter(x, indices, wide, begin, length, f, kp, k, sums):
    """Add x_p · f to sums[column_p, :k], for the stored numbers x_p of one row."""
    out_of_line()
    scatter_row(x, np.intp(0), indices, wide, begin, length, f, np.intp(0), kp, k, sums)


@once
def sparse_rows_times(x, lo, rows, Htp, kp, C, run, exact):
    """Write Σ_p x_p · Ht[column_p, :] over the stored numbers of row lo + i to row i of C.

    If `exact` has rows, the sums go to its row lo + i instead: in float64, from partial sums of DEPTH terms in the
    compute type.
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


@once
def sparse_add_products(x, lo, rows, Fp, kp, k, sums, run):
    """Add x_p · F[i, :] to sums[column_p, :k], for the stored numbers x_p of each row lo + i; float64 throughout."""
    out_of_line()
    last, first = np.intp(0), np.intp(0)
    for i in range(rows):
        if i == last:
            first, last = widen_stored(x, lo, rows, i, run)
        begin, length = bounds(x.indptr, x.wide, lo + i)
        scatter_row(run, begin - first, x.indices, x.wide, begin, length, Fp, i * kp, kp, k, sums)


@once
def residual(tile, ld, m, Fp, kp, k, rows, Hp, mp, S, out, first, weights):
    """Return Σ (x − f·Ht)² over a tile; half of it goes to out[first:] by row, if out has rows. WH is formed in S.

    weights: None, or (u, v), by which the squares of rows and of columns are multiplied; u begins at row `first`.
    """
    out_of_line()
    product(Fp, kp, np.intp(1), Hp, mp, S, mp, round_up(rows, GRAIN), k, mp, np.intp(DEPTH))
    total = 0.0
    for i in range(rows):
        x, s, of_row = tile[i * ld : i * ld + m], S[i * mp : i * mp + m], 0.0
        for j in range(m):
            r = np.float64(x[j]) - np.float64(s[j])
            term = r * r
            if weights is not None:
                term *= weights[1][j]
            of_row += term
        if weights is not None:
            of_row *= weights[0][first + i]
        total += of_row
        if out.shape[0]:
            out[first + i, 0] = of_row / 2
    return total


@kernel
def product_pass(block, sparse, F, Ht, rule, out, XtF, FtF, stats, weights):
    """Work through n rows of X once and leave F as it is; the rule says what is computed.

    OPENING: stats = [minimum, count of non-finite values, Σx, Σx²] of the stored numbers.
    PRODUCT: out = X·Ht; for CSR X, XtF = X·Ht instead, if it has rows.
    ACCUMULATE: XtF += Xᵀ·F and FtF += FᵀF; those of no rows are left out.
    RESIDUAL (dense X): stats[0] += Σ (x − f·Ht)², and half of it goes to out by row, if it has rows.

    sparse: None if X is dense, 1 if it is CSR: a kernel for one has no code for the other.

    weights: None, or (u, v), by which rows and columns count in Σx, Σx² and Σ (x − f·Ht)². F is weighed already.

    All rules are one kernel because each further kernel adds the better part of a second to the first fit after an
    installation.
    """
    x = Block(*block)
    n, m, k = x.rows, x.columns, F.shape[1]
    size, kp, kh = F.itemsize, round_up(k, lanes_of(F)), ending_in_half(k, lanes_of(F))
    mp, strip, height = round_up(m, ALIGN), m, x.height
    if sparse is None and rule in (PRODUCT, ACCUMULATE):
        strip = strip_of(m, k, size)
        height = height if strip == m else np.intp(TALL)
    ld, height = leading(strip), round_up(min(height, n), ALIGN)
    hold = held_back(x.code, size, m, sparse is None and rule != OPENING)
    well = hold >= 0 and x.code == 10 and lies_well(x)
    of_tile, of_F, of_H = height * ld if sparse is None else 0, height * kp, round_up(m, ALIGN) * round_up(kp, ALIGN)
    of_c = height * mp if rule == RESIDUAL else max(round_up(max(strip, k), ALIGN) + 2 * ALIGN, height) * kp
    memory = aligned(of_tile + of_F + of_H + of_c + 4 * ALIGN, F)
    copied, Fp = memory[: of_tile + ALIGN], memory[of_tile + ALIGN :]
    Hp = Fp[of_F:]
    c = Hp[of_H:]
    longest, of_sums = np.intp(0), np.intp(0)
    if sparse is not None:
        longest, of_sums = max(STORED, longest_row(x)), m * kp if rule == ACCUMULATE and XtF.shape[0] else np.intp(0)
    run, sums = aligned(longest, F), zeros(of_sums, stats)
    if rule == RESIDUAL:
        pad_transposed(Ht, Hp, mp)
    elif rule == PRODUCT:
        pad_rows(Ht, np.intp(0), m, Hp, kp)
    elif rule == OPENING:
        stats[0] = np.inf
        for i in range(1, 4):
            stats[i] = 0
    i0 = np.intp(0)  # for a literal Numba would compile a copy of every inner function
    while i0 < n:
        rows = rows_of_tile(i0, n, height, hold)
        whole = round_up(rows, GRAIN)
        if rule in (ACCUMULATE, RESIDUAL):
            pad_rows(F, i0, rows, Fp, kp)
        if sparse is not None:
            if rule == PRODUCT:
                sparse_rows_times(x, i0, rows, Hp, kp, c, run, XtF)
            elif rule == OPENING:
                if weights is None:
                    sparse_opening(x, i0, rows, run, stats)
                else:
                    weighed_sparse_opening(x, i0, rows, run, weights, stats)
            elif XtF.shape[0]:
                sparse_add_products(x, i0, rows, Fp, kp, k, sums, run)
        else:
            j0, depth = np.intp(0), depth_of(m, size) if strip == m else np.intp(DEPTH)
            while j0 == 0 or j0 < m:
                columns, tile, at_x = min(strip, m - j0), copied, ld
                if well and strip == m and rows == whole and n - i0 - rows >= hold:
                    tile, at_x = view(x.address + i0 * x.row_stride, copied), x.row_stride // size
                else:
                    load_tile(columns_of(x, j0, columns), None, i0, rows, whole, tile, ld, run)
                coming = strip_coming(x, i0 if j0 + strip < m else i0 + rows, height, j0 + strip, strip)
                if rule == PRODUCT:
                    add_terms(tile, at_x, np.intp(1), Hp[j0 * kp :], kp, c, kp, whole, columns, kh, depth, j0, coming)
                elif rule == ACCUMULATE:
                    if XtF.shape[0]:
                        accumulate_products(tile, at_x, columns, Fp, kp, rows, c, XtF[j0 : j0 + columns], coming)
                elif rule == RESIDUAL:
                    clear(Fp, rows * kp, whole * kp)
                    stats[0] += residual(tile, at_x, m, Fp, kp, k, rows, Hp, mp, c, out, i0, weights)
                else:
                    for i in range(rows):
                        if weights is None:
                            opening_row(tile, i * ld, m, stats)
                        else:
                            weighed_opening_row(tile, i * ld, m, weights[0][i0 + i], weights[1], stats)
                j0 += max(strip, 1)
        if rule == PRODUCT:
            if out.shape[0]:
                copy_rows(c, kp, rows, out, i0)
        elif rule == ACCUMULATE and FtF.shape[0]:
            accumulate_gram(Fp, kp, rows, c, FtF)
        i0 += rows
    if sparse is not None:  # noqa: SIM102
        if rule == ACCUMULATE and XtF.shape[0]:
            add_rows(sums, kp, XtF)
