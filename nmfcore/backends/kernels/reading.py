"""Reading X in whatever type it is stored: numbers of dense rows and of CSR rows, widened to the compute type.

Inner loops run over slices that begin at zero: Numba checks an index that could be negative, and LLVM cannot vectorise
a loop with that check.
"""

import numpy as np

from ._decorators import once
from ._pairs import max
from ._simd import (
    clear_vector,
    double_of_bits,
    float_of_bits,
    out_of_line,
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
    widen_line,
)
from .buffers import ALIGN, clear, lanes_of, round_up

STORED = 2048  # numbers of short CSR rows that are widened in one go


@once
def half(address):
    """Widen a float16 by its bits: LLVM calls a library function where the processor has no conversion."""
    bits = np.uint32(read_u16(address, 0))
    magnitude = np.uint32(bits & np.uint32(0x7FFF))
    value = float_of_bits(np.uint32(magnitude << np.uint32(13))) * np.float32(2.0**112)
    if magnitude >= np.uint32(0x7C00):  # infinity, NaN
        value = float_of_bits(np.uint32(magnitude << np.uint32(13)) | np.uint32(0x7F800000))
    return -value if bits & np.uint32(0x8000) else value


@once
def number(address, code):
    """Return one number of X, of the storage type with this code (without a power), in float64."""
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


@once
def size_of(code):
    """Return the bytes of a number of this storage type."""
    code = code & 255
    if code <= 1:
        return 1
    if code <= 3 or code == 8:
        return 2
    return 4 if code <= 5 or code == 9 else 8


@once
def widen_rows(address, code, row_stride, stride, rows, n, out, ld, step):
    """Widen rows × n numbers of X, row_stride and stride bytes apart, into out[i·ld + j·step]."""
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


@once
def widen_scaled(address, stored, power, row_stride, stride, rows, n, out, ld, step, vectors):
    """Widen numbers of 4^power·X, as `widen_rows` does. They are rounded after the multiplication."""
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


@once
def widen(address, code, n, out):
    """Widen n numbers of X that lie side by side into `out`."""
    size = size_of(code)
    widen_rows(address, code, np.intp(0), size, np.intp(1), n, out, np.intp(0), np.intp(1))


@once
def at(address, wide, i):
    """Read number i of an index array of 32 or (wide) 64 bits."""
    if wide:
        return read_i64(address, i)
    return np.int64(read_i32(address, i))


@once
def bounds(indptr, wide, i):
    """Return the number of the first stored number of CSR row i, and how many the row has."""
    begin = at(indptr, wide, i)
    return begin, at(indptr, wide, i + 1) - begin


@once
def longest_row(x):
    """Return the largest number of stored numbers that a row of this CSR block has."""
    out_of_line()
    longest = 0
    for i in range(x.rows):
        longest = max(longest, bounds(x.indptr, x.wide, i)[1])
    return longest


@once
def widen_sparse_row(x, i, run):
    """Widen the stored numbers of CSR row i into `run`. Returns the number of the first of them, and how many."""
    begin, length = bounds(x.indptr, x.wide, i)
    widen(x.address + begin * size_of(x.code), x.code, length, run)
    return begin, length


@once
def widen_stored(x, lo, rows, i, run):
    """Widen CSR rows lo + i … of a tile into `run`: as many as it has room for, one at least.

    Returns the number of the first stored number, and the i of the first row that was not widened.
    """
    out_of_line()
    begin, last = at(x.indptr, x.wide, lo + i), i + 1
    end = at(x.indptr, x.wide, lo + last)
    while last < rows and at(x.indptr, x.wide, lo + last + 1) - begin <= run.size:
        last += 1
        end = at(x.indptr, x.wide, lo + last)
    widen(x.address + begin * size_of(x.code), x.code, end - begin, run)
    return begin, last


@once
def load_tile(x, sparse, lo, rows, padded, tile, ld, run):
    """Widen rows lo … lo+rows of X into `tile`, with zeros to whole register tiles of rows and columns.

    sparse: None, or whether X is CSR; for None no code for CSR is compiled.
    """
    out_of_line()
    m = x.columns
    if sparse is not None:  # noqa: SIM102 (this test stands alone, see `frobenius_pass`)
        if sparse:
            clear(tile, np.intp(0), padded * ld)
            for i in range(rows):
                begin, length = widen_sparse_row(x, lo + i, run)
                for p in range(length):  # += : a matrix with duplicate entries means their sum
                    tile[i * ld + at(x.indices, x.wide, begin + p)] += run[p]
            return
    start = x.address + lo * x.row_stride
    beyond = round_up(m, ALIGN) - m  # numbers that register tiles read past the end of a row
    for i in range(rows if beyond else 0):  # cleared first, because the vectors reach into the next row
        for j in range(0, beyond, lanes_of(tile)):
            clear_vector(tile, i * ld + m + j)
    if x.column_stride == size_of(x.code) or rows == 1:
        widen_rows(start, x.code, x.row_stride, x.column_stride, rows, m, tile, ld, np.intp(1))
    else:  # by columns: reads in sequence where X is Fortran-ordered, writes stay in the first-level cache
        widen_rows(start, x.code, x.column_stride, x.row_stride, m, rows, tile, np.intp(1), ld)
    clear(tile, rows * ld, padded * ld)


@once
def opening_row(x, first, length, out):
    """Update out = [minimum, count of non-finite values, Σx, Σx²] with `length` numbers."""
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


@once
def sparse_opening(x, lo, rows, run, out):
    """Update out = [minimum, count of non-finite values, Σx, Σx²] with the stored numbers of CSR rows."""
    out_of_line()
    for i in range(rows):
        _, length = widen_sparse_row(x, lo + i, run)
        opening_row(run, np.intp(0), length, out)


@once
def weighed_opening_row(x, first, length, u, weights, out):
    """Add u Σ_j v_j x_j and u Σ_j v_j x_j² of one row to out[2:], v being the weights of the columns."""
    out_of_line()
    row = x[first : first + length]
    total, squares = 0.0, 0.0
    for j in range(length):
        x_j = np.float64(row[j])
        total += weights[j] * x_j
        squares += weights[j] * x_j * x_j
    out[2] += u * total
    out[3] += u * squares


@once
def weighed_sparse_opening(x, lo, rows, run, weights, out):
    """Add Σ u_i v_j x_ij and Σ u_i v_j x_ij² over the stored numbers of CSR rows to out[2:]."""
    out_of_line()
    for i in range(rows):
        begin, length = widen_sparse_row(x, lo + i, run)
        total, squares = 0.0, 0.0
        for p in range(length):
            x_p, v = np.float64(run[p]), weights[1][at(x.indices, x.wide, begin + p)]
            total += v * x_p
            squares += v * x_p * x_p
        out[2] += weights[0][lo + i] * total
        out[3] += weights[0][lo + i] * squares
