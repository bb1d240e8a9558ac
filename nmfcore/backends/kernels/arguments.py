"""Arguments of kernels that travel as one; importing this does not import Numba.

A kernel takes a plain tuple for each of them and names its parts itself: Numba finds the type of a plain tuple at no
cost, that of a NamedTuple costs each call 0.6 µs.
"""

from typing import NamedTuple


class Block(NamedTuple):
    """Rows of X: where their numbers lie, of what type they are, and how far they are apart (bytes).

    Addresses instead of arrays keep one compiled kernel for every X, and a read-only array is as good as another. The
    caller keeps the arrays alive.
    """

    address: int  # of the first row; CSR: of the stored numbers of the whole matrix
    code: int  # the type of the numbers (see `number`), plus 256·p where X is read as 4^p·X
    row_stride: int
    column_stride: int
    indptr: int  # CSR: address of the bounds of these rows; dense: 0
    indices: int  # CSR: address of the column numbers of the whole matrix
    wide: int  # CSR: whether bounds and column numbers have 64 bits
    rows: int
    columns: int
    height: int  # rows per tile


# what `product_pass` does
OPENING, PRODUCT, ACCUMULATE, RESIDUAL = 0, 1, 2, 3
# what `beta_pass` does to F
KEEP, RENEW, NUMERATOR = 0, 1, 2

TALL = 256  # rows of a tile that is read in strips


def in_strips(columns, width):
    """Return whether tiles are read in strips of columns, for factors of `width` columns.

    The float64 sums of XᵀF then outgrow the second-level cache, and are read and written beyond it for each tile. A
    strip of a tall tile is read once for X·Ht and again for Xᵀ·F, so that this is done for 256 rows at a time, and all
    that belongs to a strip stays in cache. With smaller sums, reading X twice takes longer.
    """
    return columns > 1024 and 8 * columns * width > 3 << 19
