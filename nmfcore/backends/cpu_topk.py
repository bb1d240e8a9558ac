"""CPU kernels of the exact cosine search: squares of rows, and the choice among approximate scores.

Scores come from the products of the waist in the compute type. Here those that might belong to the best k are found by
comparing whole vectors, computed again in float64 from the stored numbers, and kept in a heap per query. Which rows
win, and in which order, therefore depends on the float64 scores alone.
"""

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ._simd import _broadcast, _data, _element, _load, out_of_line
from .cpu_kernels import ENTRY, INNER, at, bounds, lanes_of, number, size_of, widen_rows

SCANNED = 64  # rows of a tile of `scan_pass`
SLACK = 1e-9  # more than rounding in float64 moves a cosine


@intrinsic
def above(typingctx, c, first, scale, limits, start):
    """Bit l of the result: c[first + l]·scale > limits[start + l], for a whole vector."""
    signature = types.int64(c, types.intp, c.dtype, limits, types.intp)

    def codegen(context, builder, sig, args):
        c, first, scale, limits, start = args
        scalar, lanes = _element(sig.args[0])
        vector, size = ir.VectorType(scalar, lanes), sig.args[0].dtype.bitwidth // 8
        value = _load(builder, _data(context, builder, sig.args[0], c), first, vector, size)
        limit = _load(builder, _data(context, builder, sig.args[3], limits), start, vector, size)
        higher = builder.fcmp_ordered(">", builder.fmul(value, _broadcast(builder, scale, vector)), limit)
        return builder.zext(builder.bitcast(higher, ir.IntType(lanes)), ir.IntType(64))

    return signature, codegen


@numba.njit(**INNER)
def load_row(address, code, row_stride, column_stride, indptr, indices, wide, i, m, row):
    """Row i of X in float64; of CSR the stored numbers only. Returns how many."""
    out_of_line()
    if indptr:
        begin, length = bounds(indptr, wide, i)
        for p in range(length):
            row[p] = number(address + (begin + p) * size_of(code), code)
        return length
    start, zero, one = address + i * row_stride, np.intp(0), np.intp(1)
    widen_rows(start, code, zero, column_stride, one, m, row, zero, one)
    return m


@numba.njit(**INNER)
def dot(a, b, n):
    """Sum over a·b, always by this one piece of code: the same rows give the same bits."""
    out_of_line()
    x, y, total = a[:n], b[:n], 0.0
    for j in range(x.size):
        total += x[j] * y[j]
    return total


@numba.njit(**INNER)
def sparse_dot(values, query, indices, wide, begin, n):
    """Do the same for the stored numbers of a CSR row."""
    out_of_line()
    total = 0.0
    for p in range(n):
        total += values[p] * query[at(indices, wide, begin + p)]
    return total


@numba.njit(**ENTRY)
def squares_pass(address, code, row_stride, column_stride, indptr, indices, wide, n, m, height, out):
    """out[i] = Σ x_ij² of every row."""
    row = np.empty(max(m, 1))
    for i in range(n):
        length = load_row(address, code, row_stride, column_stride, indptr, indices, wide, i, m, row)
        out[i] = dot(row, row, length)


@numba.njit(**INNER)
def sinks(score, i, other, j):
    """Whether (score, row i) comes after (other, row j): by score, and by number among equals."""
    return score < other or (score == other and i > j)


@numba.njit(**INNER)
def keep(scores, rows, count, score, i):
    """Put (score, i) into a heap whose root is the last of its entries; of a full one the root goes. Returns count."""
    out_of_line()
    k = scores.size
    if count < k:  # climb from the end
        at_ = count
        while at_ and sinks(score, i, scores[(at_ - 1) // 2], rows[(at_ - 1) // 2]):
            scores[at_], rows[at_] = scores[(at_ - 1) // 2], rows[(at_ - 1) // 2]
            at_ = (at_ - 1) // 2
        scores[at_], rows[at_] = score, i
        return count + 1
    if not sinks(scores[0], rows[0], score, i):
        return count
    at_ = 0
    while True:  # sink from the root
        child = 2 * at_ + 1
        if child >= k:
            break
        if child + 1 < k and sinks(scores[child + 1], rows[child + 1], scores[child], rows[child]):
            child += 1
        if not sinks(scores[child], rows[child], score, i):
            break
        scores[at_], rows[at_] = scores[child], rows[child]
        at_ = child
    scores[at_], rows[at_] = score, i
    return count


@numba.njit(**INNER)
def score_of(row, length, square, query, query_square, indptr, indices, wide, i):
    """Cosine of row i, as `load_row` gave it, and a query; 0 if either is all zeros."""
    both = square * query_square
    if not both > 0:
        return 0.0
    if indptr:
        product = sparse_dot(row, query, indices, wide, bounds(indptr, wide, i)[0], length)
    else:
        product = dot(row, query, length)
    return min(max(product / np.sqrt(both), -1.0), 1.0)


@numba.njit(**INNER)
def wanted(excluded, j, i):
    """Whether query j may find row i."""
    free = True
    for e in range(excluded.shape[1]):
        free &= excluded[j, e] != i
    return free


@numba.njit(**INNER)
def product_of(tile, begin, query, n):
    """Sum of tile[begin + j]·query[j], near enough to tell which rows are worth `score_of`."""
    x, y, total = tile[begin : begin + n], query[:n], 0.0
    for j in range(x.size):
        total += x[j] * y[j]
    return total


@numba.njit(**ENTRY)
def scan_pass(address, code, row_stride, column_stride, indptr, indices, wide, n, m, height,
              first, squares, queries, query_squares, sign, floor, allowed, excluded, counts, best, found):  # fmt: skip
    """Do what `select_pass` does, for a few queries, without products before."""
    p, k = best.shape
    tile, row, query = np.empty(SCANNED * m + 1), np.empty(max(m, 1)), np.empty((p, m))
    for j in range(p):
        scale = sign / np.sqrt(query_squares[j]) if query_squares[j] > 0 else 0.0
        for t in range(m):
            query[j, t] = queries[j, t] * scale
    limits = np.full(p, floor - SLACK)
    for i0 in range(0, n, SCANNED):
        rows = min(SCANNED, n - i0)
        if not indptr:
            widen_rows(address + i0 * row_stride, code, row_stride, column_stride, rows, m, tile, m, np.intp(1))
        for r in range(rows):
            i = i0 + r
            length = -1
            for j in range(p):
                if not indptr and product_of(tile, r * m, query[j], m) < limits[j] * np.sqrt(squares[i]):
                    continue
                if (allowed.size and not allowed[first + i]) or not wanted(excluded, j, first + i):
                    continue
                if length < 0:
                    length = load_row(address, code, row_stride, column_stride, indptr, indices, wide, i, m, row)
                score = sign * score_of(row, length, squares[i], queries[j], query_squares[j], indptr, indices, wide, i)
                if score < floor:
                    continue
                counts[j] = keep(best[j], found[j], counts[j], score, first + i)
                if counts[j] == k:
                    limits[j] = max(limits[j], best[j, 0] - SLACK)


@numba.njit(**ENTRY)
def select_pass(address, code, row_stride, column_stride, indptr, indices, wide, n, m, height,
                first, scores, squares, queries, query_squares, sign, floor, margin, allowed, excluded,
                limits, counts, best, found):  # fmt: skip
    """Let n rows of the database, the first of number `first`, compete for the best k of every query of a panel.

    scores (n × P, P in whole vectors): row·query / |query| in the compute type; |error| of a cosine ≤ margin.
    queries (p × m) and the two squares: float64. sign = −1 looks for the least; floor: sign·cosine must reach it.
    allowed: a byte per row of the database, or none; excluded (p × e): numbers of rows a query does not want.
    limits (P): what a score must exceed to be worth a second look; of padding +inf. counts, best and found (p × k):
    the heaps, of sign·cosine.
    """
    p, k = best.shape
    width = scores.shape[1]
    flat = scores.reshape(scores.size)
    lanes = lanes_of(flat)
    one = flat.dtype.type(1)
    row = np.empty(max(m, 1))
    for i in range(n):
        if allowed.size and not allowed[first + i]:
            continue
        square = squares[i]
        scale = one / flat.dtype.type(np.sqrt(square)) if square > 0 else flat.dtype.type(0)
        length = -1
        for j0 in range(0, width, lanes):
            if above(flat, i * width + j0, scale, limits, j0) == 0:
                continue
            for j in range(j0, min(j0 + lanes, p)):
                if not flat[i * width + j] * scale > limits[j]:
                    continue
                if not wanted(excluded, j, first + i):
                    continue
                if length < 0:
                    length = load_row(address, code, row_stride, column_stride, indptr, indices, wide, i, m, row)
                score = sign * score_of(row, length, square, queries[j], query_squares[j], indptr, indices, wide, i)
                if score < floor:
                    continue
                counts[j] = keep(best[j], found[j], counts[j], score, first + i)
                if counts[j] == k:
                    limits[j] = max(limits[j], flat.dtype.type(best[j, 0] - margin))
