"""CPU kernels of the exact cosine search: squares of rows, and the choice among approximate scores.

Scores come from products in the compute type, strip by strip. Those that might belong to the best k are found by
comparing whole vectors, computed again in float64 from the stored numbers, and kept in a heap per query. Which rows
win, and in which order, therefore depends on the float64 scores alone.
"""

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ._decorators import inner, kernel
from ._simd import GRAIN, _broadcast, _data, _element, _load, out_of_line
from .arguments import Block
from .buffers import ALIGN, aligned, lanes_of, leading, pad_rows, round_up
from .product import depth_of, product, sparse_rows_times
from .reading import at, bounds, load_tile, longest_row, number, size_of, widen_rows

SCANNED = 64  # rows of a tile of `scan_pass`
SLACK = 1e-9  # more than rounding in float64 moves a cosine


@intrinsic
def above(typingctx, c, first, scale, limits, start):
    """Return an integer whose bit l is set where c[first + l]·scale > limits[start + l], for a whole vector."""
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


@inner
def load_row(x, i, row):
    """Copy row i of X to `row` in float64, for CSR its stored numbers only. Returns how many numbers these are."""
    out_of_line()
    if x.indptr:
        begin, length = bounds(x.indptr, x.wide, i)
        for p in range(length):
            row[p] = number(x.address + (begin + p) * size_of(x.code), x.code)
        return length
    start, zero, one = x.address + i * x.row_stride, np.intp(0), np.intp(1)
    widen_rows(start, x.code, zero, x.column_stride, one, x.columns, row, zero, one)
    return x.columns


@inner
def dot(a, b, n):
    """Return Σ a_j·b_j. Every score is computed here, so that the same rows give the same bits."""
    out_of_line()
    x, y, total = a[:n], b[:n], 0.0
    for j in range(x.size):
        total += x[j] * y[j]
    return total


@inner
def sparse_dot(values, query, indices, wide, begin, n):
    """Return the product of a query and a CSR row, whose stored numbers are `values`."""
    out_of_line()
    total = 0.0
    for p in range(n):
        total += values[p] * query[at(indices, wide, begin + p)]
    return total


@kernel
def squares_pass(block, out):
    """Write Σ x_ij² of every row to out."""
    x = Block(*block)
    row = np.empty(max(x.columns, 1))
    for i in range(x.rows):
        length = load_row(x, i, row)
        out[i] = dot(row, row, length)


@inner
def sinks(score, i, other, j):
    """Return whether (score, row i) ranks below (other, row j): by score, and by row number among equal scores."""
    return score < other or (score == other and i > j)


@inner
def keep(scores, rows, count, score, i):
    """Put (score, i) into a heap with the lowest entry at the root, which a full heap drops. Returns the new count."""
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


@inner
def score_of(x, i, row, length, square, query, query_square):
    """Return the cosine of a query and row i, as `load_row` copied it; 0 if either is all zeros."""
    both = square * query_square
    if not both > 0:
        return 0.0
    if x.indptr:
        product = sparse_dot(row, query, x.indices, x.wide, bounds(x.indptr, x.wide, i)[0], length)
    else:
        product = dot(row, query, length)
    return min(max(product / np.sqrt(both), -1.0), 1.0)


@inner
def wanted(excluded, j, i):
    """Return whether row i is not excluded for query j."""
    free = True
    for e in range(excluded.shape[1]):
        free &= excluded[j, e] != i
    return free


@inner
def product_of(tile, begin, query, n):
    """Return Σ tile[begin + j]·query[j]: an approximate score, from which follows whether `score_of` is needed."""
    x, y, total = tile[begin : begin + n], query[:n], 0.0
    for j in range(x.size):
        total += x[j] * y[j]
    return total


@inner
def limit_of(last, query_square, most, margin):
    """Return what the approximate score of a further row must exceed, where `last` is the lowest of k in the heap.

    Further rows have higher numbers and lose against equal scores. So none can enter any more once `last` is the
    highest possible score, `most` (0 for a query of zeros). Otherwise the scores of all rows that are orthogonal to a
    query would be computed again.
    """
    return np.inf if last >= (most if query_square > 0 else 0.0) else last - margin


@kernel
def scan_pass(block, first, squares, contest):
    """Enter n rows of the database, the first of number `first`, among the best k of each of a few queries.

    contest = (queries, query_squares, sign, most, floor, allowed, excluded, counts, best, found), as in
    `nearest_pass`. Approximate scores are computed row by row, instead of as products of tiles.
    """
    x = Block(*block)
    queries, query_squares, sign, most, floor, allowed, excluded, counts, best, found = contest
    n, m, (p, k) = x.rows, x.columns, best.shape
    ld = round_up(m, ALIGN)  # whole vectors: the terms left over would cost more than the zeros
    tile, row, query = np.zeros(SCANNED * ld), np.empty(max(m, 1)), np.zeros((p, ld))
    for j in range(p):
        scale = sign / np.sqrt(query_squares[j]) if query_squares[j] > 0 else 0.0
        for t in range(m):
            query[j, t] = queries[j, t] * scale
    limits = np.full(p, floor - SLACK)
    for i0 in range(0, n, SCANNED):
        rows = min(SCANNED, n - i0)
        if not x.indptr:
            start = x.address + i0 * x.row_stride
            widen_rows(start, x.code, x.row_stride, x.column_stride, rows, m, tile, ld, np.intp(1))
        for r in range(rows):
            i = i0 + r
            length = -1
            for j in range(p):
                if squares[i] > 0:
                    if not x.indptr and product_of(tile, r * ld, query[j], ld) < limits[j] * np.sqrt(squares[i]):
                        continue
                elif limits[j] > 0:
                    continue
                if (allowed.size and not allowed[first + i]) or not wanted(excluded, j, first + i):
                    continue
                if length < 0:
                    length = load_row(x, i, row)
                score = sign * score_of(x, i, row, length, squares[i], queries[j], query_squares[j])
                if score < floor:
                    continue
                counts[j] = keep(best[j], found[j], counts[j], score, first + i)
                if counts[j] == k:
                    limits[j] = max(limits[j], limit_of(best[j, 0], query_squares[j], most, SLACK))


@kernel
def nearest_pass(block, first, Qt, squares, contest):
    """Enter n rows of the database, the first of number `first`, among the best k of each query of a panel.

    Qt (m × P, P in whole vectors) is sign·query / |query| in the compute type. Its products with `height` rows at a
    time stay in the first-level cache until they are compared. contest is a tuple of:

    queries (p × m), query_squares (p) : the queries and the squares of their norms, float64
    sign : 1 for the largest cosines, −1 for the smallest
    most, floor : upper bound of sign·cosine; the least sign·cosine that is entered
    margin : bound of the error of an approximate cosine
    allowed, excluded (p × e) : a byte per row of the database, or none; numbers of rows that a query must not find
    limits (P) : what the approximate score must exceed for the exact one to be computed; +inf for padding
    counts (p), best, found (p × k) : the heaps of sign·cosine and row numbers

    squares holds the squares of the norms of the rows.
    """
    x = Block(*block)
    queries, query_squares, sign, most, floor, margin, allowed, excluded, limits, counts, best, found = contest
    n, m, (p, k) = x.rows, x.columns, best.shape
    width, sparse, size, ld = Qt.shape[1], x.indptr != 0, Qt.itemsize, leading(m)
    lanes = lanes_of(Qt)
    height = round_up(x.height, ALIGN)
    of_tile, of_Q = 0 if sparse else height * ld, round_up(m, ALIGN) * width
    memory = aligned(of_tile + of_Q + height * width + 3 * ALIGN, Qt)
    tile, Qp = memory[: of_tile + ALIGN], memory[of_tile + ALIGN :]
    scores = Qp[of_Q:]
    pad_rows(Qt, np.intp(0), m, Qp, width)
    run = aligned(max(1, longest_row(x)) if sparse else 0, Qt)
    row, one, none = np.empty(max(m, 1)), limits.dtype.type(1), np.zeros((0, 0))
    for i0 in range(0, n, height):
        rows = min(height, n - i0)
        if sparse:
            sparse_rows_times(x, i0, rows, Qp, width, scores, run, none)
        else:
            load_tile(x, x.indptr, i0, rows, round_up(rows, GRAIN), tile, ld, run)
            product(tile, ld, np.intp(1), Qp, width, scores, width, round_up(rows, GRAIN), m, width, depth_of(m, size))
        for r in range(rows):
            i = i0 + r
            if allowed.size and not allowed[first + i]:
                continue
            square = squares[i]
            scale = one / limits.dtype.type(np.sqrt(square)) if square > 0 else limits.dtype.type(0)
            length = -1
            for j0 in range(0, width, lanes):
                if above(scores, r * width + j0, scale, limits, j0) == 0:
                    continue
                for j in range(j0, min(j0 + lanes, p)):
                    if not scores[r * width + j] * scale > limits[j]:
                        continue
                    if not wanted(excluded, j, first + i):
                        continue
                    if length < 0:
                        length = load_row(x, i, row)
                    score = sign * score_of(x, i, row, length, square, queries[j], query_squares[j])
                    if score < floor:
                        continue
                    counts[j] = keep(best[j], found[j], counts[j], score, first + i)
                    if counts[j] == k:
                        limit = limit_of(best[j, 0], query_squares[j], most, margin)
                        limits[j] = max(limits[j], limits.dtype.type(limit))
