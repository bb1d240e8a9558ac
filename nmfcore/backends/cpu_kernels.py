"""The CPU kernels: serial, without the GIL, on one run of rows of X, writing into given outputs.

All of them walk X in *tiles*: a few rows, widened once from whatever type X is stored in into a buffer that stays in
the second-level cache, and used there by every product that needs them. A tile is whole multiples of the register tiles
and zero-padded, so that the bits of a row do not depend on which rows lie beside it.

X is described by ``(address, code, row_stride, column_stride, indptr, indices, wide)``: the address and type code of
its numbers, their strides in bytes, and for CSR the addresses of the usual two arrays (0 for dense X) and whether they
have 64 bits. Addresses instead of arrays keep one compiled kernel for all of these; the caller holds the references.
A code is the storage type, and 256 p where X is to be read as 4^p·X: an exact power, so that X of any unit can be read.

Shapes: X n × m, F (rows of W, or of Ht) n × k, Ht m × k. ``padded(k)`` is k rounded up to whole vectors; flat buffers
named ``…p`` have rows of that length with zeros beyond k.
"""

import numba
import numpy as np

from . import _simd
from ._caching import CACHE, KernelCompiler
from ._simd import (
    bits_of_double,
    clear_vector,
    double_of_bits,
    float_of_bits,
    gather1,
    gather2,
    gather4,
    line4,
    micro1,
    micro1_rest,
    micro2,
    micro3,
    out_of_line,
    pad_row,
    power_half,
    power_three,
    power_three_halves,
    power_zero,
    ratio_half,
    ratio_one,
    ratio_three,
    ratio_three_halves,
    ratio_zero,
    read_f32,
    read_f64,
    read_i8,
    read_i16,
    read_i32,
    read_i64,
    read_u8,
    read_u16,
    read_u32,
    read_u64,
    scatter1,
    scatter2,
    scatter4,
    spill_row,
    transpose,
    unpad_row,
    view,
    widen_line,
)

# No nnan, no ninf: a NaN or an infinity must stay one. The only place that names fast-math flags.
FASTMATH = frozenset({"nsz", "arcp", "contract", "afn", "reassoc"})
# Literal arguments of the inner functions are wrapped (np.intp(1)): Numba would compile a copy for each value.
INNER = {
    "nogil": True, "fastmath": set(FASTMATH), "error_model": "numpy",
    "no_cpython_wrapper": True, "no_cfunc_wrapper": True,
}  # fmt: skip
# What Python calls; the rest is compiled into these and need not be kept on its own.
ENTRY = {
    "nogil": True, "fastmath": set(FASTMATH), "error_model": "numpy", "cache": CACHE, "pipeline_class": KernelCompiler,
}  # fmt: skip
INLINE = INNER | {"forceinline": True}
# For arithmetic on bits, where (x + c) − c is not x: LLVM may only fuse, not reorder.
EXACT = INNER | {"fastmath": {"contract"}, "forceinline": True}

VECTOR_BYTES = _simd.VECTOR_BYTES
STRIP1, STRIP2, STRIP3 = _simd.STRIP[1], _simd.STRIP[2], _simd.STRIP[3]
GRAIN = _simd.GRAIN  # what rows of a product are rounded up to
ALIGN = 16  # every register tile's height divides it: tiles and columns are padded to multiples
DEPTH = 128  # terms per partial product: a strip of b of this depth stays in the first-level cache
BLOCK = 384  # columns of WH that stay in the second-level cache with its powers: whole register tiles and DEPTHs
LONG = 1024  # float64 columns up to which rows are read in one go: the memory's prefetchers see longer runs
DEPTH_ROWS = 64  # the same for Xᵀ·F, whose terms lie a page apart each: the first-level TLB has 64 entries or more

STORED = 2048  # numbers of short CSR rows that are widened in one go

# rules of `product_pass`
OPENING, PRODUCT, ACCUMULATE, RESIDUAL = 0, 1, 2, 3
# what `beta_pass` does to F
KEEP, RENEW, NUMERATOR = 0, 1, 2
# entries of `stats`
VIOLATION, KKT, SWEEPS, UNSETTLED, TOTAL, CROSS, SQUARE, STATS = 0, 1, 2, 3, 4, 5, 6, 7

EPSILON = np.finfo(np.float32).eps  # scikit-learn's floor for WH and for denominators

# ---- buffers -----------------------------------------------------------------------------------------------------


@numba.njit(**INNER)
def aligned(size, like):
    """Uninitialised flat buffer of like's type that begins on a cache line (a split load costs a second access)."""
    out_of_line()
    spare = 64 // like.itemsize
    buffer = np.empty(size + 2 * spare, like.dtype)
    first = (64 - buffer.ctypes.data % 64) % 64 // like.itemsize
    return buffer[first : first + size + spare]


@numba.njit(**INNER)
def clear(buffer, first, last):
    """buffer[first:last] = 0 (Numba's own assignment to a slice takes longer to compile than all this file's loops)."""
    out_of_line()
    for i in range(first, last):
        buffer[i] = 0


@numba.njit(**INNER)
def zeros(size, like):
    """Flat buffer of zeros that begins on a cache line."""
    buffer = aligned(size, like)
    clear(buffer, np.intp(0), size)
    return buffer


@numba.njit(**INNER)
def round_up(n, step):
    """Return the least multiple of step that is at least n."""
    return (n + step - 1) // step * step


@numba.njit(**INNER)
def lanes_of(like):
    """Return how many numbers of this type a vector holds."""
    return VECTOR_BYTES // like.itemsize


@numba.njit(**INNER)
def leading(m):
    """Row length of a tile of m columns: an odd number of 16-element lines, so that rows do not share cache sets."""
    ld = round_up(m, ALIGN)
    return ld + ALIGN if ld // ALIGN % 2 == 0 else ld


@numba.njit(**INNER)
def depth_of(m, size):
    """Terms per partial product of X·Ht: of long rows a strip of Ht stays in the first-level cache.

    A function of (m, type) only, whether the tile was copied or not: it decides how sums are rounded.
    """
    return m if size == 8 and m <= LONG else np.intp(DEPTH)


@numba.njit(**INNER)
def pad_rows(F, lo, rows, out, ld):
    """Rows lo … lo+rows of F, with zeros up to row length ld."""
    out_of_line()
    for i in range(rows):
        pad_row(F, lo + i, out, i * ld, ld)


@numba.njit(**INNER)
def copy_rows(Fp, ld, rows, out, first):
    """Undo `pad_rows`: rows of length ld, zero beyond out's columns, to rows first … of out. Returns their sum."""
    out_of_line()
    k = out.shape[1]
    # Masked stores are slow (20 cycles on Zen 4): rows that others follow are stored with their padding, which the next
    # row overwrites.
    followed = max(rows * k - ld + k, 0) // max(k, 1)
    for i in range(followed):
        spill_row(Fp, i * ld, out, first + i)
    for i in range(followed, rows):
        unpad_row(Fp, i * ld, out, first + i)
    total, padded = 0.0, Fp[: rows * ld]
    for i in range(padded.size):
        total += np.float64(padded[i])
    return total


@numba.njit(**INNER)
def pad_transposed(F, out, ld):
    """Fᵀ as a flat k × ld buffer, with zeros beyond F's rows."""
    out_of_line()
    n, k = F.shape
    for t in range(k):
        to = out[t * ld : t * ld + ld]
        for i in range(n):
            to[i] = F[i, t]
        for i in range(n, ld):
            to[i] = 0


# ---- reading X ---------------------------------------------------------------------------------------------------


# Inner loops below run over slices from zero: Numba checks an index that could be negative, and LLVM then cannot
# vectorise the loop.


@numba.njit(**INNER)
def half(address):
    """Widen a float16 by its bits (LLVM calls a library function where the processor has no conversion)."""
    bits = np.uint32(read_u16(address, 0))
    magnitude = np.uint32(bits & np.uint32(0x7FFF))
    value = float_of_bits(np.uint32(magnitude << np.uint32(13))) * np.float32(2.0**112)
    if magnitude >= np.uint32(0x7C00):  # infinity, NaN
        value = float_of_bits(np.uint32(magnitude << np.uint32(13)) | np.uint32(0x7F800000))
    return -value if bits & np.uint32(0x8000) else value


@numba.njit(**INNER)
def number(address, code):
    """One number of X, of any storage type (a code without a power)."""
    if code == 0:
        return np.float64(read_u8(address, 0))
    if code == 1:
        return np.float64(read_i8(address, 0))
    if code == 2:
        return np.float64(read_u16(address, 0))
    if code == 3:
        return np.float64(read_i16(address, 0))
    if code == 4:
        return np.float64(read_u32(address, 0))
    if code == 5:
        return np.float64(read_i32(address, 0))
    if code == 6:
        return np.float64(read_u64(address, 0))
    if code == 7:
        return np.float64(read_i64(address, 0))
    if code == 8:
        return np.float64(half(address))
    if code == 9:
        return np.float64(read_f32(address, 0))
    return read_f64(address, 0)


@numba.njit(**INNER)
def widen_rows(address, code, row_stride, stride, rows, n, out, ld, step):
    """rows × n numbers of X, row_stride and stride bytes apart, into out[i·ld + j·step] in the compute type."""
    out_of_line()
    vectors = step == 1 and stride == size_of(code)
    stored, power = code & 255, code >> 8
    if power != 0:
        widen_scaled(address, stored, power, row_stride, stride, rows, n, out, ld, step, vectors)
        return
    for i in range(rows):
        start = address + i * row_stride
        first = widen_line(start, stored, out, i * ld, n) if vectors else 0
        for j in range(first, n):
            out[i * ld + j * step] = number(start + j * stride, stored)


@numba.njit(**INNER)
def widen_scaled(address, stored, power, row_stride, stride, rows, n, out, ld, step, vectors):
    """`widen_rows` of 4^power·X: multiplied before it is narrowed, and by a number of the compute type where it can."""
    out_of_line()
    factor = double_of_bits(np.int64(1023 + 2 * power) << 52)
    vectors = vectors and abs(power) <= 60 and not (stored == 10 and out.itemsize == 4)
    by = out.dtype.type(factor) if vectors else out.dtype.type(1)
    for i in range(rows):
        start = address + i * row_stride
        first = widen_line(start, stored, out, i * ld, n) if vectors else 0
        line = out[i * ld : i * ld + first]
        for j in range(line.size):
            line[j] *= by
        for j in range(first, n):
            out[i * ld + j * step] = number(start + j * stride, stored) * factor


@numba.njit(**INNER)
def widen(address, code, n, out):
    """n numbers of X, side by side, into out: the stored numbers of a CSR row."""
    size = size_of(code)
    widen_rows(address, code, np.intp(0), size, np.intp(1), n, out, np.intp(0), np.intp(1))


@numba.njit(**INNER)
def at(address, wide, i):
    """Read number i of an index array of 32 or (wide) 64 bits."""
    if wide:
        return read_i64(address, i)
    return np.int64(read_i32(address, i))


@numba.njit(**INNER)
def bounds(indptr, wide, i):
    """Find the first stored number of CSR row i, and how many there are."""
    begin = at(indptr, wide, i)
    return begin, at(indptr, wide, i + 1) - begin


@numba.njit(**INNER)
def size_of(code):
    """Return the bytes of a number of this storage type."""
    code = code & 255
    if code <= 1:
        return 1
    if code <= 3 or code == 8:
        return 2
    return 4 if code <= 5 or code == 9 else 8


@numba.njit(**INNER)
def load_tile(address, code, row_stride, column_stride, indptr, indices, wide, lo, rows, padded, m, tile, ld, run):
    """Rows lo … lo+rows of X into `tile`, with zeros to whole register tiles of rows and columns."""
    out_of_line()
    if indptr:
        clear(tile, np.intp(0), padded * ld)
        size = size_of(code)
        for i in range(rows):
            begin, length = bounds(indptr, wide, lo + i)
            widen(address + begin * size, code, length, run)
            for p in range(length):  # += : a matrix with duplicate entries means their sum
                tile[i * ld + at(indices, wide, begin + p)] += run[p]
        return
    beyond = round_up(m, ALIGN) - m  # what register tiles read of a row beyond its end
    for i in range(rows if beyond else 0):  # first, because the vectors reach into the next row
        for j in range(0, beyond, lanes_of(tile)):
            clear_vector(tile, i * ld + m + j)
    if column_stride == size_of(code) or rows == 1:
        widen_rows(address + lo * row_stride, code, row_stride, column_stride, rows, m, tile, ld, np.intp(1))
    else:  # by columns: reads in sequence where X is Fortran-ordered, writes stay in the first-level cache
        widen_rows(address + lo * row_stride, code, column_stride, row_stride, m, rows, tile, np.intp(1), ld)
    clear(tile, rows * ld, padded * ld)


@numba.njit(**INNER)
def longest_row(indptr, wide, lo, hi):
    """Return the most stored numbers of a CSR row."""
    out_of_line()
    longest = 0
    for i in range(lo, hi):
        longest = max(longest, bounds(indptr, wide, i)[1])
    return longest


# ---- the product -------------------------------------------------------------------------------------------------


@numba.njit(**INNER)
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
                    micro1_rest(x, r * rs + first * ts, rs, ts, b, at_b, ldb,
                                c, r * ldc + j, ldc, length, adding)  # fmt: skip
                for r in range(0, whole, STRIP1):
                    micro1(x, r * rs + first * ts, rs, ts, b, at_b, ldb,
                           c, r * ldc + j, ldc, length, adding)  # fmt: skip
                left -= 1
                j += lanes
            elif left == 2 or left == 4:
                for r in range(0, rows, STRIP2):
                    micro2(x, r * rs + first * ts, rs, ts, b, at_b, ldb,
                           c, r * ldc + j, ldc, length, adding)  # fmt: skip
                left -= 2
                j += 2 * lanes
            else:
                for r in range(0, rows, STRIP3):
                    micro3(x, r * rs + first * ts, rs, ts, b, at_b, ldb,
                           c, r * ldc + j, ldc, length, adding)  # fmt: skip
                left -= 3
                j += 3 * lanes


@numba.njit(**INNER)
def add_rows(c, ldc, out):
    """out (float64, compact) += c (padded)."""
    out_of_line()
    rows, k = out.shape
    for j in range(rows):
        to, of = out[j], c[j * ldc : j * ldc + k]
        for t in range(k):
            to[t] += of[t]


@numba.njit(**INNER)
def accumulate_products(tile, ld, m, Fp, kp, rows, c, XtF):
    """XtF += tileᵀ·F; the tile's own product in the compute type, the sum in float64."""
    out_of_line()
    product(tile, np.intp(1), ld, Fp, kp, c, kp, round_up(m, GRAIN), rows, kp, np.intp(DEPTH_ROWS))
    add_rows(c, kp, XtF)


@numba.njit(**INNER)
def sum_products(tile, ld, m, Fp, kp, rows, c, sums):
    """`accumulate_products` into a flat padded float64 buffer, which `add_rows` adds to XtF once per call."""
    out_of_line()
    columns = round_up(m, ALIGN)
    product(tile, np.intp(1), ld, Fp, kp, c, kp, columns, rows, kp, np.intp(DEPTH_ROWS))
    for i in range(columns * kp):
        sums[i] += c[i]


@numba.njit(**INNER)
def accumulate_gram(Fp, kp, rows, c, FtF):
    """FtF += FᵀF."""
    out_of_line()
    product(Fp, np.intp(1), kp, Fp, kp, c, kp, round_up(FtF.shape[0], GRAIN), rows, kp, np.intp(DEPTH))
    add_rows(c, kp, FtF)


# ---- coordinate descent ------------------------------------------------------------------------------------------


@numba.njit(**INNER)
def conjugate_steps(W, C, Gp, k, kp, width, l1, keep, scratch, iterations, square):
    """Conjugate gradients on the free entries (w > 0) of rows that still move, in place.

    Where G is ill-conditioned, sweeps take hundreds of steps to what these find in about k. Preconditioned by the
    diagonal; a step ends at the bound that it meets first, and the direction is begun anew. A row rests once the square
    of its residual is at most `square` × the first. Component-major, as `sweep_rows` turns them.
    """
    out_of_line()
    size = kp * width
    R, P, Q, rest = scratch[:size], scratch[size : 2 * size], scratch[2 * size : 3 * size], scratch[3 * size :]
    rho, first, length = rest[:width], rest[width : 2 * width], rest[2 * width : 3 * width]
    bound, renewed = rest[3 * width : 4 * width], rest[4 * width : 5 * width]
    zero, one, far = W.dtype.type(0), W.dtype.type(1), W.dtype.type(np.inf)
    near = W.dtype.type(1e-6)  # of a number: what is left of it where a step ends at a bound
    for b in range(width):
        rho[b] = zero
    for t in range(k):
        at, hess = t * width, Gp[t * kp + t]
        inverse = one / hess if hess != 0 else zero
        line4(Gp, t * kp, kp, 1, W, 0, width, Q, at, width, k, 0)
        w, c, r, p, q = W[at:], C[at:], R[at:], P[at:], Q[at:]
        for b in range(width):
            r[b] = (c[b] - l1 - q[b]) * keep[b] if w[b] > zero else zero
            p[b] = r[b] * inverse
            rho[b] += r[b] * p[b]
    for b in range(width):
        first[b] = rho[b]
    for _ in range(iterations):
        for b in range(width):
            length[b] = zero
            bound[b] = far
            renewed[b] = zero
        for t in range(k):
            at = t * width
            line4(Gp, t * kp, kp, 1, P, 0, width, Q, at, width, k, 0)
            w, p, q = W[at:], P[at:], Q[at:]
            for b in range(width):
                length[b] += p[b] * q[b]
                bound[b] = min(bound[b], -w[b] / p[b] if p[b] < zero else far)
        for b in range(width):
            step = rho[b] / length[b] if length[b] > zero else zero
            length[b] = min(step, bound[b])
            bound[b] = one if step < bound[b] else zero  # whether the whole step is taken
        for t in range(k):
            at, hess = t * width, Gp[t * kp + t]
            inverse = one / hess if hess != 0 else zero
            w, r, p, q = W[at:], R[at:], P[at:], Q[at:]
            for b in range(width):
                new = w[b] + length[b] * p[b]
                w[b] = new if new > near * w[b] else zero
                r[b] = r[b] - length[b] * q[b] if w[b] > zero else zero
                renewed[b] += r[b] * r[b] * inverse
        going = 0
        for b in range(width):
            bound[b] = bound[b] * renewed[b] / rho[b] if rho[b] > zero else zero
            rho[b] = renewed[b]
            going += rho[b] > square * first[b]
        if going == 0:
            break
        for t in range(k):
            at, hess = t * width, Gp[t * kp + t]
            inverse = one / hess if hess != 0 else zero
            w, r, p = W[at:], R[at:], P[at:]
            for b in range(width):
                p[b] = r[b] * inverse + bound[b] * p[b] if w[b] > zero and rho[b] > square * first[b] else zero


@numba.njit(**INNER)
def sweep_rows(Fp, Cp, kp, rows, Gp, k, l1, order, sweeps, tol, delta, conjugate, scratch, stats):
    """Coordinate descent on the rows of F, in place: up to `sweeps` sweeps, each row until it has settled.

    min over f ≥ 0 of ½ fᵀGf − (c − l1)ᵀf for each row f, G with the L2 penalty on its diagonal. A row is settled, and
    frozen from then on, once its violation Σ_t |projected gradient| is at most tol × that of its first sweep; with
    `delta` > 0 once the square of its step is below delta² × that of its first. After every fourth sweep come as many
    as `conjugate` steps of `conjugate_steps` for the rows that still move.
    Rows are turned component-major, four vectors of them at a time: then every step is a broadcast and a
    multiply-add, and no step needs a sum across a vector.
    """
    out_of_line()
    lanes = lanes_of(Fp)
    width = 4 * lanes
    W, C = scratch[: kp * width], scratch[kp * width : 2 * kp * width]
    g = scratch[2 * kp * width : (2 * kp + 1) * width]
    moved = scratch[(2 * kp + 1) * width : (2 * kp + 2) * width]
    limit = scratch[(2 * kp + 2) * width : (2 * kp + 3) * width]
    keep = scratch[(2 * kp + 3) * width : (2 * kp + 4) * width]  # 1 where a row still moves, else 0
    first, now = np.empty(width), np.empty(width)
    violation = 0.0
    kkt = 0.0
    most = 0
    unsettled = 0
    zero, one = Fp.dtype.type(0), Fp.dtype.type(1)
    square = Fp.dtype.type(delta * delta)
    for i0 in range(0, rows, width):
        live = min(width, rows - i0)
        for b in range(0, width, lanes):
            for t in range(0, kp, lanes):
                transpose(Fp, (i0 + b) * kp + t, kp, W, t * width + b, width)
                transpose(Cp, (i0 + b) * kp + t, kp, C, t * width + b, width)
        for b in range(width):
            keep[b] = one if b < live else zero
        for s in range(sweeps):
            for b in range(width):
                now[b] = 0.0
                moved[b] = zero
            for position in range(k):
                t = order[position]
                line4(Gp, t * kp, kp, 1, W, 0, width, g, 0, width, k, 0)
                hess = Gp[t * kp + t]
                inverse = 1 / hess if hess != 0 else zero
                at = t * width
                w_t, c_t = W[at : at + width], C[at : at + width]
                if s == 0:
                    weighed = np.float64(0.0)
                    for b in range(width):
                        w = w_t[b]
                        gradient = g[b] - c_t[b] + l1
                        projected = min(gradient, zero) if w == 0 else gradient
                        now[b] += abs(np.float64(projected))
                        new = max(w - gradient * inverse, zero)
                        step = np.float64(new - w)
                        weighed += step * step
                        w_t[b] = new if hess != 0 else w
                        moved[b] += (new - w) * (new - w) if hess != 0 else zero
                    if hess != 0:
                        kkt += weighed * hess
                elif delta > 0:
                    if hess != 0:
                        for b in range(width):
                            w = w_t[b]
                            new = max(w - (g[b] - c_t[b] + l1) * inverse, zero)
                            new = new if keep[b] > zero else w
                            moved[b] += (new - w) * (new - w)
                            w_t[b] = new
                else:
                    for b in range(width):
                        w = w_t[b]
                        gradient = g[b] - c_t[b] + l1
                        projected = min(gradient, zero) if w == 0 else gradient
                        now[b] += abs(np.float64(projected))
                        new = max(w - gradient * inverse, zero)
                        w_t[b] = new if hess != 0 and keep[b] > zero else w
            going = 0
            if s == 0:
                for b in range(live):
                    violation += now[b]
                    first[b] = now[b]
                    limit[b] = moved[b] * square
            if delta > 0:
                for b in range(live):
                    keep[b] = keep[b] if moved[b] > limit[b] else zero
            else:
                for b in range(live):
                    keep[b] = zero if now[b] <= tol * first[b] else keep[b]
            for b in range(live):
                going += keep[b] > zero
            most = max(most, s + 1)
            if going == 0:
                break
            if conjugate is not None:  # noqa: SIM102 (Numba drops the rest only if this test stands alone)
                if conjugate > 0 and s % 4 == 3 and s < sweeps - 1:
                    room = scratch[(2 * kp + 4) * width :]
                    conjugate_steps(W, C, Gp, k, kp, width, l1, keep, room, conjugate, square)
            if s == sweeps - 1:
                unsettled += going
        for b in range(0, width, lanes):
            for t in range(0, kp, lanes):
                transpose(W, t * width + b, width, Fp, (i0 + b) * kp + t, kp)
    stats[VIOLATION] += violation
    stats[KKT] += kkt
    stats[SWEEPS] = max(stats[SWEEPS], most)
    stats[UNSETTLED] += unsettled


@numba.njit(**INNER)
def extrapolate(Fp, before, lo, rows, scale, momentum, Bp, kp):
    """F ← max(0, B + momentum·(B − before·scale)) in place, B = F·scale kept beside."""
    out_of_line()
    k, beta, zero = scale.size // 2, Fp.dtype.type(momentum), Fp.dtype.type(0)
    for i in range(rows):
        f, b, old = Fp[i * kp : i * kp + kp], Bp[i * kp : i * kp + kp], before[lo + i]
        for t in range(kp):
            b[t] = zero
        if momentum == 0:  # the buffer of what was before may never have been written
            for t in range(k):
                b[t] = f[t] * scale[t]
                f[t] = b[t]
        else:
            for t in range(k):
                b[t] = f[t] * scale[t]
                f[t] = max(b[t] + beta * (b[t] - old[t] * scale[k + t]), zero)


@numba.njit(**INNER)
def subtract_from(Fp, Bp, Cp, l1, size):
    """B ← D = F − B in place. Returns ⟨C − l1, D⟩ in float64, as if padding were zero in C: there D is."""
    out_of_line()
    f, b, c, cross = Fp[:size], Bp[:size], Cp[:size], 0.0
    for i in range(size):
        d = f[i] - b[i]
        b[i] = d
        cross += (np.float64(c[i]) - np.float64(l1)) * np.float64(d)
    return cross


# ---- Frobenius: one pass over X ----------------------------------------------------------------------------------


@numba.njit(**INNER)
def multiply_rows(Fp, Np, Dp, kp, first, rows, k, l1, l2, gamma, floor, hess, stats):
    """F ← F ⊙ (N / (D + l1 + l2·F))^γ in place, and the parts of the KKT residual (∇ = denominator − numerator).

    With `hess` (β = 2: the diagonal of the Gram): stats[KKT] += Σ hess_t s², s = f − max(0, f − ∇/hess_t).
    Without: stats[VIOLATION] += Σ|f·∇|, stats[KKT] += Σ f·N, and by column, from stats[STATS] on, Σ f and
    Σ max(0, −∇) over f = 0.
    """
    out_of_line()
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


# The next two are inlined, and take offsets instead of slices: of a short row a call costs more than its products.


@numba.njit(**INLINE)
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


@numba.njit(**INLINE)
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


@numba.njit(**INNER)
def sparse_sum(x, indices, wide, begin, length, Htp, kp, out):
    """out = Σ_p x_p · Ht[column_p, :] over the stored numbers of one row."""
    out_of_line()
    gather_row(x, np.intp(0), indices, wide, begin, length, Htp, kp, out, np.intp(0))


@numba.njit(**INNER)
def sparse_scatter(x, indices, wide, begin, length, f, kp, k, sums):
    """sums[column_p, :k] += x_p · f over the stored numbers of one row."""
    out_of_line()
    scatter_row(x, np.intp(0), indices, wide, begin, length, f, np.intp(0), kp, k, sums)


@numba.njit(**INNER)
def widen_stored(address, code, indptr, wide, lo, rows, i, run):
    """Widen CSR rows lo + i … of a tile, as many as there is room for, one at least → the first number, the next i."""
    out_of_line()
    begin, last = at(indptr, wide, lo + i), i + 1
    end = at(indptr, wide, lo + last)
    while last < rows and at(indptr, wide, lo + last + 1) - begin <= run.size:
        last += 1
        end = at(indptr, wide, lo + last)
    widen(address + begin * size_of(code), code, end - begin, run)
    return begin, last


@numba.njit(**INNER)
def sparse_rows_times(address, code, indptr, indices, wide, lo, rows, Htp, kp, C, run, exact):
    """C[i, :] = Σ_p x_p · Ht[column_p, :] over the stored numbers of row lo + i.

    Into `exact` instead, if it has rows: its row lo + i is of float64, the sum of runs of DEPTH terms in the compute
    type.
    """
    out_of_line()
    last, first, k, whole = np.intp(0), np.intp(0), exact.shape[1], exact.shape[0] == 0
    for i in range(rows):
        if i == last:
            first, last = widen_stored(address, code, indptr, wide, lo, rows, i, run)
        begin, length = bounds(indptr, wide, lo + i)
        at_c = i * kp if whole else 0
        p = np.intp(0)
        while True:
            terms = length if whole else min(np.intp(DEPTH), length - p)
            gather_row(run, begin - first + p, indices, wide, begin + p, terms, Htp, kp, C, at_c)
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


@numba.njit(**INNER)
def sparse_add_products(address, code, indptr, indices, wide, lo, rows, Fp, kp, k, sums, run):
    """sums[column_p, :k] += x_p · F[i, :]; float64 throughout, rows of sums of length kp."""
    out_of_line()
    last, first = np.intp(0), np.intp(0)
    for i in range(rows):
        if i == last:
            first, last = widen_stored(address, code, indptr, wide, lo, rows, i, run)
        begin, length = bounds(indptr, wide, lo + i)
        scatter_row(run, begin - first, indices, wide, begin, length, Fp, i * kp, kp, k, sums)


@numba.njit(**INNER)
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


@numba.njit(**INNER)
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


@numba.njit(**INNER)
def lies_well(address, row_stride, column_stride, m):
    """Whether register tiles can read float64 rows where they lie."""
    return column_stride == 8 and row_stride >= 8 * m and row_stride % 8 == 0 and address % 8 == 0


@numba.njit(**INNER)
def sparse_opening(address, code, indptr, indices, wide, lo, rows, run, out):
    """`opening_row` for the stored numbers of CSR rows."""
    out_of_line()
    for i in range(rows):
        begin, length = bounds(indptr, wide, lo + i)
        widen(address + begin * size_of(code), code, length, run)
        opening_row(run, np.intp(0), length, out)


@numba.njit(**INNER)
def opening_row(x, first, length, out):
    """Add some numbers to [min, number of non-finite values, Σx, Σx²]."""
    out_of_line()
    row = x[first : first + length]
    least, bad, total, squares = out[0], 0.0, 0.0, 0.0
    for j in range(length):
        x_j = np.float64(row[j])
        least = x_j if x_j < least else least
        bad += x_j - x_j != 0.0
        total += x_j
        squares += x_j * x_j
    out[0] = least
    out[1] += bad
    out[2] += total
    out[3] += squares


@numba.njit(**INNER)
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


@numba.njit(**ENTRY)
def product_pass(address, code, row_stride, column_stride, indptr, indices, wide, n, m, height,
                 F, Ht, rule, out, XtF, FtF, stats):  # fmt: skip
    """n rows of X, once, F left as it is.

    OPENING: stats = [min, number of non-finite values, Σx, Σx²] over the stored numbers (CSR: without the zeros).
    PRODUCT: out = X·Ht; of CSR X into XtF instead, if it has rows. ACCUMULATE: XtF += Xᵀ·F and FtF += FᵀF, of which
    those of no rows are left out (the Gram of F alone: an X of no columns). RESIDUAL (dense X): stats[0] +=
    Σ (x − f·Ht)², and half of it by row into out, if it has rows. One kernel for all of these, because every further
    one costs each cold start the better part of a second;
    without the sweep, which mu does not need.
    """
    k = F.shape[1]
    sparse, size, kp = indptr != 0, F.itemsize, round_up(F.shape[1], lanes_of(F))
    ld, mp = leading(m), round_up(m, ALIGN)
    height = round_up(min(height, n), ALIGN)
    hold = held_back(code, size, m, not sparse and rule != OPENING)
    well = hold >= 0 and code == 10 and lies_well(address, row_stride, column_stride, m)
    of_tile, of_F, of_H = 0 if sparse else height * ld, height * kp, round_up(m, ALIGN) * round_up(kp, ALIGN)
    of_c = height * mp if rule == RESIDUAL else max(round_up(max(m, k), ALIGN), height) * kp
    memory = aligned(of_tile + of_F + of_H + of_c + 4 * ALIGN, F)
    copied, Fp = memory[: of_tile + ALIGN], memory[of_tile + ALIGN :]
    Hp = Fp[of_F:]
    c = Hp[of_H:]
    run = aligned(max(STORED, longest_row(indptr, wide, np.intp(0), n)) if sparse else 0, F)
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
                sparse_rows_times(address, code, indptr, indices, wide, i0, rows, Hp, kp, c, run, XtF)
            elif rule == OPENING:
                sparse_opening(address, code, indptr, indices, wide, i0, rows, run, stats)
        elif well and rows % GRAIN == 0 and n - i0 - rows >= hold:
            tile, at_x = view(address + i0 * row_stride, copied), row_stride // size
        else:
            load_tile(address, code, row_stride, column_stride, indptr, indices, wide,
                      i0, rows, round_up(rows, GRAIN), m, tile, ld, run)  # fmt: skip
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
                    sparse_add_products(address, code, indptr, indices, wide, i0, rows, Fp, kp, k, sums, run)
                else:
                    accumulate_products(tile, at_x, m, Fp, kp, rows, c, XtF)
            if FtF.shape[0]:
                accumulate_gram(Fp, kp, rows, c, FtF)
        i0 += rows
    if sparse and rule == ACCUMULATE and XtF.shape[0]:
        add_rows(sums, kp, XtF)


@numba.njit(**ENTRY)
def frobenius_pass(address, code, row_stride, column_stride, indptr, indices, wide, n, m, height,
                   F, moving, Ht, G, l1, l2, order, sweeps, tol, delta, out, XtF, FtF, stats):  # fmt: skip
    """n rows of X, once: C = X·Ht, new rows of F from (C, G), then XtF += Xᵀ·F and FtF += FᵀF.

    With an order of the components `sweep_rows`; with None F ⊙ C / (F·G), and then `moving` is not None: so that
    Numba compiles neither into the kernel of the other. XtF and FtF of no rows are left out (transform). For Ht of no
    rows C is given, in XtF: the step of the small factor, with stats[CROSS] += ⟨C, F⟩, stats[SQUARE] += ⟨G, FᵀF⟩.

    With moving = (before, scale, momentum, FtD, conjugate), scale k numbers for F and k for `before`, the sweeps start
    from max(0, B + momentum·(B − before·scale)), B = F·scale, instead of from F. With the step D = F − B of the new F
    from B, FtD (2k × k, or none) += [FᵀD; DᵀD] and stats[CROSS] += ⟨C − l1, D⟩: by how much the loss falls from B to F
    follows from these without cancellation. None (or a scale of no numbers, which spares a kernel of its own) leaves
    all this out; of `conjugate`, see `sweep_rows`.
    """
    k, size, lanes, l1, l2 = F.shape[1], F.itemsize, lanes_of(F), F.dtype.type(l1), F.dtype.type(l2)
    sparse, given = indptr != 0, Ht.shape[0] == 0
    kp, ld = round_up(k, lanes), leading(m)
    step = max(4 * lanes, ALIGN)  # rows of a sweep
    height = round_up(min(height, n), step)
    hold = held_back(code, size, m, not sparse and not given)
    well = hold >= 0 and code == 10 and lies_well(address, row_stride, column_stride, m)
    # One piece of memory: asking for each buffer on its own took a tenth of the time of small data.
    of_tile, of_F, of_G = 0 if sparse else height * ld, height * kp, round_up(k, ALIGN) * round_up(kp, ALIGN)
    of_H, of_c = round_up(m, ALIGN) * kp, round_up(max(m, k), ALIGN) * kp
    of_D = 0 if order is not None and moving is None else of_F
    of_sweep = (2 * kp + 4) * step if moving is None else (5 * kp + 9) * step
    memory = aligned(of_tile + 2 * of_F + of_D + of_G + of_H + of_c + of_sweep + 4 * ALIGN, F)
    copied, Fp = memory[: of_tile + ALIGN], memory[of_tile + ALIGN :]
    Cp = Fp[of_F:]
    Gp = Cp[of_F:]
    Htp = Gp[of_G:]
    c = Htp[of_H:]
    scratch = c[of_c:]
    Dp = Bp = scratch[of_sweep:]
    run = aligned(max(STORED, longest_row(indptr, wide, np.intp(0), n)) if sparse else 0, F)
    sums, nothing = zeros(m * kp if sparse and XtF.shape[0] else 0, stats), np.zeros((0, 0))
    if not given:
        pad_rows(Ht, np.intp(0), m, Htp, kp)
    pad_rows(G, np.intp(0), k, Gp, kp)
    hess = np.empty(k)
    for t in range(k):
        hess[t] = G[t, t] + l2
        if order is not None:
            Gp[t * kp + t] += l2
    i0 = np.intp(0)  # a literal would have Numba compile a copy of every inner function for it
    while i0 < n:
        rows = rows_of_tile(i0, n, height, hold)
        padded, whole = round_up(rows, step), round_up(rows, GRAIN)
        tile, at_x = copied, ld
        if given:
            pad_rows(XtF, i0, rows, Cp, kp)
            whole = rows
        elif sparse:
            sparse_rows_times(address, code, indptr, indices, wide, i0, rows, Htp, kp, Cp, run, nothing)
            whole = rows
        else:
            if well and rows == whole and n - i0 - rows >= hold:
                tile, at_x = view(address + i0 * row_stride, copied), row_stride // size
            else:
                load_tile(address, code, row_stride, column_stride, indptr, indices, wide,
                          i0, rows, whole, m, tile, ld, run)  # fmt: skip
            product(tile, at_x, np.intp(1), Htp, kp, Cp, kp, whole, m, kp, depth_of(m, size))
        pad_rows(F, i0, rows, Fp, kp)
        clear(Cp, whole * kp, padded * kp)
        clear(Fp, rows * kp, padded * kp)
        if moving is not None:
            before, scale, momentum, FtD, _ = moving
            if scale.size:
                extrapolate(Fp, before, i0, rows, scale, momentum, Bp, kp)
                clear(Bp, rows * kp, padded * kp)
        if order is None:
            if moving is not None:  # Numba drops what is behind a test of None only where the argument is None
                product(Fp, kp, np.intp(1), Gp, kp, Dp, kp, padded, k, kp, np.intp(DEPTH))
                multiply_rows(
                    Fp, Cp, Dp, kp, np.intp(0), rows, k, l1, l2, np.float64(1.0), np.float64(0.0), hess, stats
                )
        else:
            conjugate = None if moving is None else moving[4]
            sweep_rows(Fp, Cp, kp, rows, Gp, k, l1, order, sweeps, tol, delta, conjugate, scratch, stats)
        stats[TOTAL] += copy_rows(Fp, kp, rows, out, i0)
        if given:
            cross = 0.0
            for i in range(rows):
                c_i, f_i = XtF[i0 + i], Fp[i * kp : i * kp + kp]
                for t in range(k):
                    cross += c_i[t] * f_i[t]
            stats[CROSS] += cross
        elif XtF.shape[0]:
            if sparse:
                sparse_add_products(address, code, indptr, indices, wide, i0, rows, Fp, kp, k, sums, run)
            else:
                accumulate_products(tile, at_x, m, Fp, kp, rows, c, XtF)
        if FtF.shape[0]:
            accumulate_gram(Fp, kp, rows, c, FtF)
        if moving is not None:
            FtD = moving[3]
            if FtD.shape[0]:
                stats[CROSS] += subtract_from(Fp, Bp, Cp, l1, rows * kp)
                product(Fp, np.intp(1), kp, Bp, kp, c, kp, round_up(k, GRAIN), rows, kp, np.intp(DEPTH))
                add_rows(c, kp, FtD[:k])
                product(Bp, np.intp(1), kp, Bp, kp, c, kp, round_up(k, GRAIN), rows, kp, np.intp(DEPTH))
                add_rows(c, kp, FtD[k:])
        i0 += rows
    if sparse and XtF.shape[0]:
        add_rows(sums, kp, XtF)
    if given and FtF.shape[0]:
        for t in range(k):
            for u in range(k):
                stats[SQUARE] += G[t, u] * FtF[t, u]


# ---- powers and logarithms that vectorise ------------------------------------------------------------------------
# Calls of pow, log and exp in a loop keep LLVM from vectorising it; these are straight-line arithmetic.

LN2 = 0.6931471805599453
MAGIC = 6755399441055744.0  # 1.5 · 2^52: adding it rounds a small double to an integer in its low bits


@numba.njit(**EXACT)
def logarithm(x):
    """Natural logarithm of a positive normal double, to about 2 ulp: 2·artanh((m − 1)/(m + 1)) + e·ln 2."""
    bits = bits_of_double(x)
    # the exponent, counted so that the mantissa m lies in [√½, √2)
    exponent = (bits - np.int64(0x3FE6A09E667F3BCD)) >> 52
    m = double_of_bits(bits - (exponent << 52))
    e = double_of_bits(exponent + np.int64(0x4338000000000000)) - MAGIC
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    series = 1 / 21.0
    series = series * z + 1 / 19.0
    series = series * z + 1 / 17.0
    series = series * z + 1 / 15.0
    series = series * z + 1 / 13.0
    series = series * z + 1 / 11.0
    series = series * z + 1 / 9.0
    series = series * z + 1 / 7.0
    series = series * z + 1 / 5.0
    series = series * z + 1 / 3.0
    return e * LN2 + (2.0 * s + 2.0 * s * z * series)


@numba.njit(**EXACT)
def exponential(y):
    """e^y; below −708 it is zero, above 709 infinity."""
    y = min(max(y, -745.0), 710.0)
    shifted = y * (1.0 / LN2) + MAGIC
    n = shifted - MAGIC
    f = (y - n * 0.6931471803691238) - n * 1.9082149292705877e-10  # ln 2 in two parts
    series = 1 / 6227020800.0
    series = series * f + 1 / 479001600.0
    series = series * f + 1 / 39916800.0
    series = series * f + 1 / 3628800.0
    series = series * f + 1 / 362880.0
    series = series * f + 1 / 40320.0
    series = series * f + 1 / 5040.0
    series = series * f + 1 / 720.0
    series = series * f + 1 / 120.0
    series = series * f + 1 / 24.0
    series = series * f + 1 / 6.0
    series = series * f + 0.5
    series = series * f + 1.0
    series = series * f + 1.0
    exponent = bits_of_double(shifted) - np.int64(0x4338000000000000)
    # in two factors, so that neither leaves the range of exponents
    low = exponent >> 1
    return series * double_of_bits((low + 1023) << 52) * double_of_bits((exponent - low + 1023) << 52)


@numba.njit(**EXACT)
def power(x, p):
    """x^p for x ≥ 0; 0^p is 0 for p > 0 and infinity for p < 0. Subnormal x counts as zero."""
    value = exponential(p * logarithm(max(x, 2.2250738585072014e-308)))
    if x < 2.2250738585072014e-308:
        value = 0.0 if p > 0 else np.inf
    return value


@numba.njit(**EXACT)
def inverse_root(x):
    """Return 1/√x to about 1 ulp: four Newton steps from a guess by bits, faster than the root and the division."""
    y = double_of_bits(np.int64(0x5FE6EB50C7B537A9) - (bits_of_double(x) >> 1))
    half_x = 0.5 * x
    y = y * (1.5 - half_x * y * y)
    y = y * (1.5 - half_x * y * y)
    y = y * (1.5 - half_x * y * y)
    return y * (1.5 - half_x * y * y)


@numba.njit(**INNER)
def raise_to(s, p):
    """s ← s^p. Powers of halves by √ and products (no more roundings than the exact chain has)."""
    out_of_line()
    n, one = s.size, s.dtype.type(1)
    twice = int(2 * p)
    if twice == 2 * p and abs(twice) <= 8:
        whole, odd = abs(twice) // 2, abs(twice) % 2
        if odd and s.itemsize == 8:
            for j in range(n):
                x = s[j]
                root = inverse_root(np.float64(x))
                step = root * root if twice < 0 else np.float64(x)
                root = root if twice < 0 else x * root
                s[j] = root if whole == 0 else root * step if whole == 1 else root * step * (
                    step if whole == 2 else step * step
                )  # fmt: skip
            return
        if odd:
            for j in range(n):
                root = np.sqrt(s[j])
                s[j] = root if whole == 0 else root * s[j] if whole == 1 else root * s[j] * (
                    s[j] if whole == 2 else s[j] * s[j]
                )  # fmt: skip
        else:
            for j in range(n):
                square = s[j] * s[j]
                s[j] = (
                    one if whole == 0 else s[j] if whole == 1 else square if whole == 2
                    else square * s[j] if whole == 3 else square * square
                )  # fmt: skip
        if twice < 0:
            for j in range(n):
                s[j] = one / s[j]
        return
    for j in range(n):
        s[j] = power(np.float64(s[j]), p)


# ---- β-divergence ------------------------------------------------------------------------------------------------


@numba.njit(**INNER)
def form_ratios(S, X, Q, first, m, beta):
    """One row: S = WH becomes X ⊙ WH^(β−2), Q becomes WH^(β−1) (β ≠ 1), with scikit-learn's floors under WH."""
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


@numba.njit(**INNER)
def form_tile(S, Q, first, ld, X, first_x, ld_x, rows, vectors, beta, stored):
    """`form_ratios` for a strip and one of the five β that `fused_terms` knows; stored: S becomes WH^(β−1)."""
    floor = S.dtype.type(EPSILON)
    if stored:
        if beta == 0:
            power_zero(S, Q, first, ld, X, first_x, ld_x, rows, vectors, floor)
        elif beta == 0.5:
            power_half(S, Q, first, ld, X, first_x, ld_x, rows, vectors, floor)
        elif beta == 1.5:
            power_three_halves(S, Q, first, ld, X, first_x, ld_x, rows, vectors, floor)
        else:
            power_three(S, Q, first, ld, X, first_x, ld_x, rows, vectors, floor)
    elif beta == 1:
        ratio_one(S, Q, first, ld, X, first_x, ld_x, rows, vectors, floor)
    elif beta == 0:
        ratio_zero(S, Q, first, ld, X, first_x, ld_x, rows, vectors, floor)
    elif beta == 0.5:
        ratio_half(S, Q, first, ld, X, first_x, ld_x, rows, vectors, floor)
    elif beta == 1.5:
        ratio_three_halves(S, Q, first, ld, X, first_x, ld_x, rows, vectors, floor)
    else:
        ratio_three(S, Q, first, ld, X, first_x, ld_x, rows, vectors, floor)


@numba.njit(**INNER)
def add_product(S, ld, H, kp, rows, terms, T, N, begin):
    """N (+)= S·H; of the first block of terms `begin` is set."""
    out_of_line()
    product(S, ld, np.intp(1), H, kp, T, kp, rows, terms, kp, np.intp(DEPTH))
    for i in range(rows * kp):
        N[i] = T[i] if begin else N[i] + T[i]


@numba.njit(**INNER)
def fused_terms(Fp, kp, k, Hp, mp, Htp, m, S, Q, X, ld_x, rows, padded, beta, stored, T, Np, Dp, c, Ns, Ds, summing):
    """Numerators (dense X only) and denominators for a tile: of F into Np, Dp, or (summing) of Ht, added to Ns, Ds.

    In blocks of columns, so that WH and its powers stay in the second-level cache whatever m is; within a block each
    strip of three vectors' width is turned into X ⊙ WH^(β−2) and WH^(β−1) while it is in the first-level cache.
    """
    out_of_line()
    one, ld, strip = np.intp(1), leading(np.intp(BLOCK)), 3 * lanes_of(S)
    for j0 in range(0, m, BLOCK):
        columns = min(np.intp(BLOCK), m - j0)
        whole = round_up(columns, ALIGN)
        for j in range(0, whole, strip):
            width = min(strip, whole - j)
            product(Fp, kp, one, Hp[j0 + j :], mp, S[j:], ld, padded, k, width, np.intp(DEPTH))
            form_tile(S, Q, j, ld, X, j0 + j, ld_x, padded, width // lanes_of(S), beta, stored)
        if summing:
            if not stored:
                sum_products(S, ld, columns, Fp, kp, rows, c, Ns[j0 * kp :])
            if beta != 1:
                sum_products(S if stored else Q, ld, columns, Fp, kp, rows, c, Ds[j0 * kp :])
        else:
            if not stored:
                add_product(S, ld, Htp[j0 * kp :], kp, padded, columns, T, Np, j0 == 0)
            if beta != 1:
                add_product(S if stored else Q, ld, Htp[j0 * kp :], kp, padded, columns, T, Dp, j0 == 0)


@numba.njit(**INNER)
def sparse_weights(x, indices, wide, begin, length, f, Htp, kp, values, beta):
    """x_p becomes x_p·(f·h_p)^(β−2) over the stored numbers of a row, with scikit-learn's floor."""
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


@numba.njit(**INNER)
def row_divergence(S, X, s0, x0, m, beta):
    """D_β(x | s) of one row in float64, with scikit-learn's floors: terms of x only where x > ε, s at least ε there."""
    out_of_line()
    total, floor = 0.0, np.float64(EPSILON)
    s_row, x_row = S[s0 : s0 + m], X[x0 : x0 + m]
    if beta == 2:
        for j in range(m):
            r = np.float64(x_row[j]) - np.float64(s_row[j])
            total += r * r
        return total / 2
    if beta == 1 or beta == 0:
        for j in range(m):
            x, s = np.float64(x_row[j]), np.float64(s_row[j])
            ratio = max(x, floor) / max(s, floor)
            log = logarithm(ratio)
            if beta == 1:
                total += s + (x * log - x if x > floor else 0.0)
            else:
                total += (ratio - log if x > floor else 0.0) - 1.0
        return total
    for j in range(m):
        x, s = np.float64(x_row[j]), np.float64(s_row[j])
        floored, safe = max(s, floor), max(x, floor)
        log_x, log_s = logarithm(safe), logarithm(floored)
        below = exponential((beta - 1) * log_s)
        data = exponential(beta * log_x) - beta * safe * below
        whole = below * floored if beta < 0 or s >= floor else power(s, beta)
        total += (data if x > floor else 0.0) + (beta - 1) * whole
    return total / (beta * (beta - 1))


@numba.njit(**INNER)
def form_powers(S, first, m, beta):
    """One row: S = WH becomes WH^(β−1), with scikit-learn's floor."""
    out_of_line()
    floor, s = S.dtype.type(EPSILON), S[first : first + m]
    if beta < 1:
        for j in range(m):
            s[j] = max(s[j], floor)
    raise_to(s, beta - 1)


@numba.njit(**INNER)
def sparse_row_divergence(x, indices, wide, begin, length, f, Htp, kp, Hsum, G, k, beta):
    """D_β of a CSR row, β = 1 or 2: what the zeros add comes from sums of H."""
    out_of_line()
    total = 0.0
    for p in range(length):
        value = np.float64(x[p])
        if beta == 2:
            j, s = at(indices, wide, begin + p) * kp, 0.0
            for t in range(k):
                s += np.float64(f[t]) * np.float64(Htp[j + t])
            total += value * value - 2 * value * s
        elif value > EPSILON:
            j, s = at(indices, wide, begin + p) * kp, 0.0
            for t in range(k):
                s += np.float64(f[t]) * np.float64(Htp[j + t])
            total += value * logarithm(value / max(s, EPSILON)) - value
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


@numba.njit(**INNER)
def column_sums(Ht):
    """Return Σ_j Ht[j, :] in float64."""
    out_of_line()
    m, k = Ht.shape
    total = np.zeros(k)
    for j in range(m):
        for t in range(k):
            total[t] += Ht[j, t]
    return total


@numba.njit(**INNER)
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


@numba.njit(**ENTRY)
def beta_pass(address, code, row_stride, column_stride, indptr, indices, wide, lo, hi, m, height,
              F, Ht, beta, gamma, l1, l2, floor, update, measure, out, N, D, stats, losses):  # fmt: skip
    """Rows lo … hi of X, once: the multiplicative update of F, then the sums of the update of Ht.

    N += (X ⊙ WH^(β−2))ᵀ·F and D += (WH^(β−1))ᵀ·F (β = 1: D[0] += column sums of F) with the new F; empty N: left out.
    update: KEEP leaves F as it is, RENEW updates it, NUMERATOR (CSR, β = 1) only writes N_F to out.
    measure = 1 writes D_β of each row, at the incoming pair, to `losses`.
    """
    k = Ht.shape[1]
    sparse = indptr != 0 and beta == 1
    kp = round_up(k, lanes_of(F))
    ld, mp = leading(m), round_up(m, ALIGN)
    height = round_up(min(height, hi - lo), ALIGN)
    run = aligned(max(1, longest_row(indptr, wide, lo, hi)) if indptr else 0, F)
    stored = indptr != 0  # CSR with a general β: every WH is needed, but of X the stored numbers only
    fused = not sparse and (beta == 1 or beta == 0 or beta == 0.5 or beta == 1.5 or beta == 3)
    size, block = 0 if sparse else height * ld, height * leading(np.intp(BLOCK)) if fused else 0
    X, S, Q = (
        aligned(0 if stored and not measure else size, F),
        aligned(max(block, 0 if fused and not measure else size), F),
        aligned(0 if beta == 1 or stored else block if fused else size, F),
    )
    values, T = aligned(run.size if stored else 0, F), aligned(height * kp if fused else 0, F)
    Htp, Hp = aligned(m * kp, F), aligned(0 if sparse else round_up(k, ALIGN) * mp, F)
    Fp, Np, Dp = aligned(height * kp, F), aligned(height * kp, F), aligned(height * kp, F)
    c = aligned(0 if sparse else mp * kp, F)
    summed = N.shape[0] > 0
    Ns, Ds = np.zeros(mp * kp if summed else 0), np.zeros(mp * kp if summed and beta != 1 else 0)
    Hsum, none, no_gram = column_sums(Ht), np.zeros(0), np.zeros((0, 0))
    pad_rows(Ht, np.intp(0), m, Htp, kp)
    if not sparse:
        pad_transposed(Ht, Hp, mp)
    if beta == 1:
        for i in range(height):
            for t in range(k):
                Dp[i * kp + t] = Hsum[t]
    for i0 in range(lo, hi, height):
        rows = min(height, hi - i0)
        padded = round_up(rows, ALIGN)
        pad_rows(F, i0, rows, Fp, kp)
        clear(Fp, rows * kp, padded * kp)
        if sparse:
            numbers = size_of(code)
            for i in range(rows):
                begin, length = bounds(indptr, wide, i0 + i)
                widen(address + begin * numbers, code, length, run)
                f = Fp[i * kp : i * kp + kp]
                if measure:
                    losses[i0 + i] = sparse_row_divergence(
                        run, indices, wide, begin, length, f, Htp, kp, Hsum, no_gram, k, beta
                    )
                if update:
                    sparse_weights(run, indices, wide, begin, length, f, Htp, kp, values, beta)
                    sparse_sum(run, indices, wide, begin, length, Htp, kp, Np[i * kp : i * kp + kp])
                    if update == NUMERATOR:
                        for t in range(k):
                            out[i0 + i, t] = Np[i * kp + t]
                        continue
                    multiply_rows(Fp, Np, Dp, kp, i, np.intp(1), k, l1, l2, gamma, floor, none, stats)
                if N.shape[0]:
                    widen(address + begin * numbers, code, length, run)
                    sparse_weights(run, indices, wide, begin, length, f, Htp, kp, values, beta)
                    sparse_scatter(run, indices, wide, begin, length, f, kp, k, Ns)
        else:
            if not stored or measure:
                load_tile(address, code, row_stride, column_stride, indptr, indices, wide,
                          i0, rows, padded, m, X, ld, run)  # fmt: skip
            if measure or (update and not fused):
                product(Fp, kp, np.intp(1), Hp, mp, S, ld, padded, k, mp, np.intp(DEPTH))
            if measure:
                for i in range(rows):
                    losses[i0 + i] = row_divergence(S, X, i * ld, i * ld, m, beta)
            if update:
                if fused:
                    fused_terms(Fp, kp, k, Hp, mp, Htp, m, S, Q, X, ld, rows, padded, beta, stored, T, Np, Dp,
                                c, Ns, Ds, np.intp(0))  # fmt: skip
                elif stored:
                    for i in range(rows):
                        form_powers(S, i * ld, m, beta)
                    clear(S, rows * ld, padded * ld)
                    product(S, ld, np.intp(1), Htp, kp, Dp, kp, padded, m, kp, np.intp(DEPTH))
                else:
                    for i in range(rows):
                        form_ratios(S, X, Q, i * ld, m, beta)
                    product(S, ld, np.intp(1), Htp, kp, Np, kp, padded, m, kp, np.intp(DEPTH))
                    clear(Q, rows * ld, padded * ld)
                    product(Q, ld, np.intp(1), Htp, kp, Dp, kp, padded, m, kp, np.intp(DEPTH))
                if stored:
                    for i in range(rows):
                        begin, length = bounds(indptr, wide, i0 + i)
                        widen(address + begin * size_of(code), code, length, run)
                        f = Fp[i * kp : i * kp + kp]
                        sparse_weights(run, indices, wide, begin, length, f, Htp, kp, values, beta)
                        sparse_sum(run, indices, wide, begin, length, Htp, kp, Np[i * kp : i * kp + kp])
                multiply_rows(Fp, Np, Dp, kp, np.intp(0), rows, k, l1, l2, gamma, floor, none, stats)
            if N.shape[0]:
                if fused:
                    fused_terms(Fp, kp, k, Hp, mp, Htp, m, S, Q, X, ld, rows, padded, beta, stored, T, Np, Dp,
                                c, Ns, Ds, np.intp(1))  # fmt: skip
                else:
                    product(Fp, kp, np.intp(1), Hp, mp, S, ld, padded, k, mp, np.intp(DEPTH))
                if stored:
                    for i in range(rows):
                        begin, length = bounds(indptr, wide, i0 + i)
                        widen(address + begin * size_of(code), code, length, run)
                        f = Fp[i * kp : i * kp + kp]
                        sparse_weights(run, indices, wide, begin, length, f, Htp, kp, values, beta)
                        sparse_scatter(run, indices, wide, begin, length, f, kp, k, Ns)
                    if not fused:
                        for i in range(rows):
                            form_powers(S, i * ld, m, beta)
                        sum_products(S, ld, m, Fp, kp, rows, c, Ds)
                elif not fused:
                    for i in range(rows):
                        form_ratios(S, X, Q, i * ld, m, beta)
                    sum_products(S, ld, m, Fp, kp, rows, c, Ns)
                    sum_products(Q, ld, m, Fp, kp, rows, c, Ds)
        if N.shape[0] and beta == 1:
            for i in range(rows):
                for t in range(k):
                    D[0, t] += Fp[i * kp + t]
        if update == RENEW:
            stats[TOTAL] += copy_rows(Fp, kp, rows, out, i0)
    if Ns.size:
        add_rows(Ns, kp, N)
    if Ds.size:
        add_rows(Ds, kp, D)


@numba.njit(**ENTRY)
def multiply_pass(F, N, D, l1, l2, gamma, floor, out, stats):
    """`multiply_rows` for given terms (float64, D of one row: the same for all): the step of the small factor."""
    n, k = F.shape
    kp = round_up(k, lanes_of(F))
    Fp, Np, Dp, none = aligned(kp, F), aligned(kp, F), aligned(kp, F), np.zeros(0)
    for i in range(n):
        pad_rows(F, i, np.intp(1), Fp, kp)
        pad_rows(N, i, np.intp(1), Np, kp)
        pad_rows(D, i if D.shape[0] > 1 else np.intp(0), np.intp(1), Dp, kp)
        multiply_rows(Fp, Np, Dp, kp, np.intp(0), np.intp(1), k, l1, l2, gamma, floor, none, stats)
        copy_rows(Fp, kp, np.intp(1), out, i)


@numba.njit(**ENTRY)
def sparse_residual_pass(address, code, row_stride, column_stride, indptr, indices, wide, n, m, height,
                         F, Ht, losses):  # fmt: skip
    """½ Σ (x_i − f_i·H)² of CSR rows, into losses: the trace form, from the stored numbers. Other β: `beta_pass`."""
    k = Ht.shape[1]
    kp = round_up(k, lanes_of(F))
    run = aligned(max(1, longest_row(indptr, wide, np.intp(0), n)), F)
    Htp, f = aligned(m * kp, F), aligned(kp, F)
    none, G = np.zeros(0), np.zeros((k, k))
    pad_rows(Ht, np.intp(0), m, Htp, kp)
    gram(Ht, G)
    for i in range(n):
        begin, length = bounds(indptr, wide, i)
        widen(address + begin * size_of(code), code, length, run)
        pad_rows(F, i, np.intp(1), f, kp)
        losses[i] = sparse_row_divergence(run, indices, wide, begin, length, f, Htp, kp, none, G, k, np.float64(2.0))


@numba.njit(**ENTRY)
def code_pass(address, code, row_stride, column_stride, indptr, indices, wide, lo, hi, m, height,
              Ht, beta, gamma, l1, l2, floor, tol, max_iter, by_step, out, stats):  # fmt: skip
    """Multiplicative updates of each row of F alone, H fixed, until the row has settled (transform).

    A row starts at √(mean of the row / k). by_step = 0: every 10 iterations the row's e = √(2 D_β) is compared, and the
    row is done when e fell by less than tol × its first value; by_step = 1: done when ‖Δf‖ ≤ tol·‖f‖.
    """
    k = Ht.shape[1]
    sparse = indptr != 0 and (beta == 1 or beta == 2)
    kp = round_up(k, lanes_of(Ht))
    step = max(4 * lanes_of(Ht), ALIGN)
    ld, mp = leading(m), round_up(m, ALIGN)
    height = round_up(min(height, hi - lo), step)
    longest = longest_row(indptr, wide, lo, hi) if indptr else 0
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
    if beta == 2:
        gram(Ht, G)
        pad_rows(G, np.intp(0), k, Gp, kp)
    for i0 in range(lo, hi, height):
        rows = min(height, hi - i0)
        padded = round_up(rows, step)
        if not sparse:
            load_tile(address, code, row_stride, column_stride, indptr, indices, wide,
                      i0, rows, padded, m, X, ld, run)  # fmt: skip
        for i in range(rows):
            total, squared = 0.0, 0.0
            if sparse:
                numbers = size_of(code)
                begin, length = bounds(indptr, wide, i0 + i)
                widen(address + begin * numbers, code, length, run)
                for p in range(length):
                    total += run[p]
            else:
                for j in range(m):
                    total += X[i * ld + j]
                    squared += np.float64(X[i * ld + j]) * np.float64(X[i * ld + j])
            squares[i] = squared
            active[i] = True
            for t in range(k):
                Fp[i * kp + t] = np.sqrt(total / m / k)
            for t in range(k, kp):
                Fp[i * kp + t] = 0
        clear(Fp, rows * kp, padded * kp)
        if beta == 2 and sparse:
            sparse_rows_times(address, code, indptr, indices, wide, i0, rows, Htp, kp, Np, run, np.zeros((0, 0)))
        elif beta == 2:
            product(X, ld, np.intp(1), Htp, kp, Np, kp, padded, m, kp, np.intp(DEPTH))
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
                        numbers = size_of(code)
                        begin, length = bounds(indptr, wide, i0 + i)
                        widen(address + begin * numbers, code, length, run)
                        f = Fp[i * kp : i * kp + kp]
                        loss = sparse_row_divergence(run, indices, wide, begin, length, f, Htp, kp, Hsum, G, k, beta)
                    elif beta == 2:
                        loss = squares[i]
                        for t in range(k):
                            s = 0.0
                            for u in range(k):
                                s += G[t, u] * Fp[i * kp + u]
                            loss += Fp[i * kp + t] * (s - 2.0 * Np[i * kp + t])
                        loss /= 2
                    else:
                        loss = row_divergence(S, X, i * ld, i * ld, m, beta)
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
                numbers = size_of(code)
                for i in range(rows):
                    if active[i]:
                        begin, length = bounds(indptr, wide, i0 + i)
                        widen(address + begin * numbers, code, length, run)
                        f = Fp[i * kp : i * kp + kp]
                        n = Np[i * kp : i * kp + kp]
                        sparse_weights(run, indices, wide, begin, length, f, Htp, kp, values, beta)
                        sparse_sum(run, indices, wide, begin, length, Htp, kp, n)
            else:
                for i in range(rows):
                    form_ratios(S, X, Q, i * ld, m, beta)
                product(S, ld, np.intp(1), Htp, kp, Np, kp, padded, m, kp, np.intp(DEPTH))
                if beta != 1:
                    clear(Q, rows * ld, padded * ld)
                    product(Q, ld, np.intp(1), Htp, kp, Dp, kp, padded, m, kp, np.intp(DEPTH))
            if beta == 1:
                for i in range(rows):
                    for t in range(k):
                        Dp[i * kp + t] = Hsum[t]
            for i in range(rows):
                if active[i]:
                    multiply_rows(Fp, Np, Dp, kp, i, np.intp(1), k, l1, l2, gamma, floor, none, ignored)
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
