"""What runs on the workers: pure functions of blocks. Dask is not known here.

A group is a pair: values (one entry for each of its blocks) and the sum of the blocks' sums. What an order does to a
block is a function(height, extra, *blocks of the parents, *arguments) → (values, sums), either of which may be None.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from ..._typing import Array, DType, Matrix
from ...backends import backend_of, cpu, cuda
from ..base import Rows
from ..device import as_device_rows
from ..masked import MaskedRows, masked_rows
from ..masks import Given, Mask, Scattered, united
from ..memory import as_rows
from ..state import RowState
from ..sums import combined

# Row-aligned arrays that an order makes of a block, and its sums.
Made = tuple[dict[str, Array] | None, dict[str, Array] | None]

LANE_WORK = 8e9  # flops of a block that make a lane: blocks are shared out already


class _Lease:
    """Memory that returns to its `Buffers` when the last array over it is deleted."""

    def __init__(self, memory: Array, buffers: Buffers):
        self.memory, self.buffers = memory, buffers
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self.buffers.take_back(self.memory)


class Buffers:
    """Memory of deleted states, which is used for new ones; never more than the existing states occupy.

    A nanny has malloc give back to the system whatever is freed (MALLOC_TRIM_THRESHOLD_), and the pages of every new W
    would be paid for once more: a tenth of a pass.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()  # the garbage collector may come to `take_back` anywhere
        self.leased, self.idle = 0, 0  # bytes
        self.free: list[Array] = []

    def empty_like(self, A: Array) -> Array:
        """Return an array of A's shape and type with arbitrary contents."""
        with self.lock:
            fit = next((i for i, memory in enumerate(self.free) if memory.nbytes == A.nbytes), None)
            memory = np.empty(A.nbytes, np.uint8) if fit is None else self.free.pop(fit)
            self.idle -= 0 if fit is None else memory.nbytes
            self.leased += memory.nbytes
        return np.asarray(_Lease(memory, self)).view(A.dtype).reshape(A.shape)

    def take_back(self, memory: Array) -> None:
        """Keep memory for later, and release what exceeds the limit."""
        with self.lock:
            self.leased -= memory.nbytes
            self.free.append(memory)
            self.idle += memory.nbytes
            while self.idle > self.leased:
                self.idle -= self.free.pop(0).nbytes


_buffers = Buffers()


class Order(NamedTuple):
    """What a step does to every block: function(height, extra, *blocks, *arguments) → (values, sums)."""

    function: Callable[..., tuple[Any, dict[str, Array] | None]]
    arguments: tuple[Any, ...]
    names: tuple[str | None, ...]  # what to take of each parent's values; None: all of it
    rows_of: tuple[Any, ...] | None = None  # the first block is X: compute type, threads and power of its `Rows`


class Block:
    """A block of X, and what visiting it has prepared, for one visit at a time; only X and its mask travel.

    Parameters
    ----------
    X : ndarray, CSR matrix or array on a GPU
    mask : Mask or None
        Which entries of the block are missing. Defaults to None.
    value : float or None
        The number of X that stands for a missing entry, see `nmfcore.rows.masked.masked_rows`. Defaults to None.
    means : ndarray of shape (m,) or None
        Of an X with missing entries, what is filled in for products. Defaults to None.
    listed : bool
        Whether few entries of X are missing. Defaults to False.
    """

    def __init__(
        self, X: Matrix, mask: Mask | None = None, value: float | None = None, means: Array | None = None,
        listed: bool = False,
    ):  # fmt: skip
        self.X, self.mask, self.value, self.means, self.listed = X, mask, value, means, listed
        self.lock = threading.Lock()
        self._rows: dict[str, Any] = {}  # by compute type and power
        self._opened: dict[str, Any] = {}  # by compute type: what those of every power have in common

    # Fewer lanes than in memory, and one visit each: blocks are shared out already, and memory that a visit frees goes
    # back to the system here (see `Buffers`), which cost a worker 15 % of a pass with the usual number of visits.

    def rows(self, dtype: DType, n_jobs: int, power: int = 0) -> Any:
        """Return it as `Rows`, or `DeviceRows` for a block on a GPU; made once."""
        if (name := f"{dtype} {power}") not in self._rows:
            if str(dtype) not in self._opened:
                self._opened[str(dtype)] = self._open(dtype, n_jobs)
            rows = self._opened[str(dtype)]
            masked = isinstance(rows, MaskedRows)
            self._rows[name] = rows.within(self.means, self.listed, power) if masked else rows.scaled(power)
        return self._rows[name]

    def _open(self, dtype: DType, n_jobs: int) -> Rows:
        if cuda.kind_of(self.X) is not None:
            return as_device_rows(self.X, np.dtype(dtype))
        return masked_rows(as_rows(self.X, dtype, n_jobs, LANE_WORK), self.mask, self.value)

    def informed(self, means: Array, listed: bool) -> Block:
        """Return the same block, which knows more of the X that it belongs to: see `Block`."""
        new = Block(self.X, self.mask, self.value, means, listed)
        new.lock, new._opened = self.lock, self._opened  # what is prepared is visited once at a time
        return new

    def __reduce__(self) -> tuple[Any, ...]:
        return Block, (self.X, self.mask, self.value, self.means, self.listed)

    def __sizeof__(self) -> int:
        X = self.X
        parts = (X.data, X.indices, X.indptr) if hasattr(X, "indptr") else (X,)
        return sum(int(part.nbytes) for part in parts) + (0 if self.mask is None else self.mask.nbytes)


class Sums:
    """Sums of blocks, added up in a tree over the numbers of the blocks, of which branches may be sums already."""

    def __init__(self) -> None:
        self.stack: list[tuple[int, int, dict[str, Array]]] = []  # first number, how many (2^i), their sum

    def add(self, first: int, count: int, sums: dict[str, Array]) -> None:
        """Add the sum of blocks first … first + count − 1, in the order of their numbers."""
        while self.stack and self.stack[-1][1] == count and self.stack[-1][0] == first - count:
            if (first // count) % 2 == 0:  # neighbours, but not siblings
                break
            first, _, before = self.stack.pop()
            sums, count = combined(before, sums), 2 * count
        self.stack.append((first, count, sums))

    def total(self) -> dict[str, Array] | None:
        """Return the sum of all; the last ones may be fewer than a whole branch."""
        if not self.stack:
            return None
        *rest, (_, _, sums) = self.stack
        for _, _, before in reversed(rest):
            sums = combined(before, sums)
        return sums


class Declared(NamedTuple):
    """Shape and type that a Dask array declares for a block; kernels read memory by them."""

    number: int  # among the row chunks of X
    first: int  # row
    shape: tuple[int, int]
    dtype: np.dtype
    sparse: bool
    what: str = "X"  # or a mask

    def check(self, X: Matrix) -> None:
        """Raise if a block is something else."""
        found = (tuple(getattr(X, "shape", ())), getattr(X, "dtype", type(X).__name__), hasattr(X, "tocsr"))
        if isinstance(X, np.ma.MaskedArray):  # of which the mask would not be seen
            raise ValueError(
                f"Block {self.number} of the Dask array {self.what} is a masked array, and not declared as one: tell "
                "what makes the array (from_delayed, map_blocks) meta=numpy.ma.empty((0, 0))."
            )
        if found == (self.shape, self.dtype, self.sparse):
            return
        said, is_ = (
            f"a {'sparse matrix' if sparse else 'dense array'} of shape {shape}, {dtype}"
            for shape, dtype, sparse in (self[2:5], found)
        )
        msg = (
            f"Block {self.number} of the Dask array {self.what} (rows {self.first:,} … "
            f"{self.first + self.shape[0] - 1:,}) is declared as {said}, but it is {is_}: tell "
            "what makes the array (from_delayed, map_blocks) the shape, chunks, dtype and meta that its blocks have."
        )
        raise ValueError(msg)


def hold(
    declared: Sequence[Sequence[Declared]], masks: Sequence[Mask] | None, value: float | None, *chunks: Any
) -> tuple[list[Block], None]:
    """Wrap chunks of X as a group, once each is seen to be what it is declared to be.

    Parameters
    ----------
    declared : sequence of sequences of Declared
        For each block, X and the masks that are Dask arrays.
    masks : sequence of Mask, or None
        For each block, a mask that has been sent to it.
    value : float or None
        The number of X that stands for a missing entry.
    *chunks : array or CSR matrix
        What `declared` declares, in its order.

    Returns
    -------
    group : tuple of (list of Block, None)
    """
    rest, blocks = iter(chunks), []
    for number, of_block in enumerate(declared):
        X, *lazy = (next(rest) for _ in of_block)
        for each, chunk in zip(of_block, (X, *lazy), strict=True):
            each.check(chunk)
        sent = None if masks is None else masks[number]
        mask = united(sent, *(Scattered(each.tocsr()) if hasattr(each, "tocsr") else Given(each) for each in lazy))
        if (mask is not None or value is not None) and cuda.kind_of(X) is not None:
            msg = "a mask or missing_values is for the CPU only, and blocks of the Dask array X are on a GPU."
            raise ValueError(msg)
        blocks.append(Block(X, mask, value))
    return blocks, None


def visit_group(
    order: Order, heights: Sequence[int], extras: Sequence[Any] | None, *parents: Any
) -> tuple[list[Any], Any]:
    """One group's share of a step → (the values of its blocks, the sum of their sums)."""
    made, sums = [], Sums()
    for number, height in enumerate(heights):
        blocks = [
            parent[0][number] if name is None else parent[0][number][name]
            for parent, name in zip(parents, order.names, strict=True)
        ]
        with _opened(order, blocks) as opened:
            values, part = order.function(height, None if extras is None else extras[number], *opened, *order.arguments)
        made.append(values)
        if part is not None:
            sums.add(number, 1, part)
    return made, sums.total()


@contextlib.contextmanager
def _opened(order: Order, blocks: list[Any]) -> Iterator[list[Any]]:
    """Give the blocks, the first of them as `Rows`, alone with it and on its device."""
    if order.rows_of is None:
        yield blocks
        return
    X = blocks[0] if isinstance(blocks[0], Block) else Block(blocks[0])
    place = contextlib.nullcontext() if cuda.kind_of(X.X) is None else cuda.context(cuda.device_of(X.X))
    with X.lock, place:
        yield [X.rows(*order.rows_of), *blocks[1:]]


def without_sums(pair: Any) -> tuple[list[Any], None]:
    """Return values without their sums: what a copy is."""
    return pair[0], None


def second(pair: Any) -> Any:
    """Return the second element of a pair, to be fetched without the values."""
    return pair[1]


def picked(pair: Any, number: int, name: str) -> Any:
    """Return one block of a group's values."""
    return pair[0][number][name]


def fetched(pair: Any, number: int, name: str) -> Any:
    """Return one block on the host, to be sent to a machine that may have no GPU."""
    return cuda.to_host(picked(pair, number, name))


def sum_of_groups(first: int, *pairs: Any) -> Any:
    """Add up the sums of groups that live here, the first of which has this number."""
    sums = Sums()
    for number, pair in enumerate(pairs, first):
        sums.add(number, 1, pair[1])
    return sums.total()


def sum_of_sums(places: Sequence[tuple[int, int]], *parts: Any) -> Any:
    """Add up sums over branches of the tree: (first group, how many) each."""
    sums = Sums()
    for (first, count), part in zip(places, parts, strict=True):
        sums.add(first, count, part)
    return sums.total()


def arrived(backend: Any, value: Any) -> Any:
    """Return arguments as functions of a pass take them: arrays that have travelled are read-only.

    Parameters
    ----------
    backend : Backend
        Factors, the arrays of two dimensions, go where X is; what is smaller stays on the host.
    value : object
        An array, or a tuple or dataclass that holds some; anything else is returned as it is.

    Returns
    -------
    value : object
    """
    if isinstance(value, np.ndarray):
        return (backend if value.ndim == 2 else cpu).asarray(value)
    if isinstance(value, tuple):
        made = [arrived(backend, each) for each in value]
        return value._make(made) if hasattr(value, "_make") else tuple(made)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **{name: arrived(backend, each) for name, each in fields.items()})
    return value


# The functions of orders: height of the block, its own extra, blocks of the parents, arguments.


def zeros(height: int, extra: object, width: int, dtype: DType) -> Made:
    """Make zeros."""
    return {"F": np.zeros((height, width), dtype)}, None


def new_state(height: int, extra: object, rows: Rows, *parts: Any) -> Made:
    """Put arrays together to a state; those that `empty` names are written before they are read."""
    *given, names, empty = parts
    arrays = {name: rows.backend.asarray(F) for name, F in zip(names, given, strict=True)}
    return arrays | {name: rows.backend.xp.empty_like(arrays[like]) for name, like in empty}, None


def each_block(height: int, extra: object, rows: Rows, *given: Any) -> Made:
    """Apply the function of a pass to the blocks of one chunk, see `Rows.each_block`; what it makes is new.

    Parameters
    ----------
    height : int
    extra : None
    rows : Rows
        The chunk.
    *given : object
        Row-aligned arrays; their names, None for a state; function, arguments, and the keywords of `Rows.each_block`.

    Returns
    -------
    arrays : dict of str to array, or None
    sums : dict of str to ndarray, or None
    """
    *blocks, names, function, arguments, keywords = given
    backend = rows.backend
    arrays = blocks[0] if names is None else dict(zip(names, blocks, strict=True))
    state = RowState(**{name: backend.asarray(F) for name, F in arrays.items()})
    if backend.xp is np:
        state.empty_like = _buffers.empty_like
    after, sums = rows.each_block(function, state, arrived(backend, arguments), **keywords)
    state.separate()
    written = dict(after.arrays) if keywords["out"] is None or keywords["out"] else None
    return written, {name: np.array(backend.to_numpy(part)) for name, part in sums.items()} or None


def informed(height: int, extra: object, block: Block, means: Array, listed: bool) -> tuple[Block, None]:
    """Tell a block of X with missing entries what its opening pass has found, see `Block`."""
    return block.informed(means, listed), None


def shown(height: int, extra: object, block: Block) -> tuple[Block, None]:
    """Drop a mask that hides nothing."""
    return Block(block.X), None


def digest_of(height: int, first: int, rows: Rows) -> Made:
    """Sum digests of blocks and of where they are, exactly: each has 32 bits."""
    return None, {"digest": np.array([float(zlib.crc32(f"{first} {rows.digest()}".encode()))])}


def taken_with_mask(height: int, rows_wanted: Array, rows: MaskedRows) -> tuple[dict[str, Any], None]:
    """Copy some rows and their mask."""
    part: Any = rows.take(rows_wanted, None)
    return {"F": (part.X, part.mask)}, None


def stored(height: int, extra: object, rows: Rows) -> Made:
    """Count stored numbers."""
    return None, {"entries": np.array([float(rows.entries)])}


def mapped(height: int, extra: object, F: Array, function: Any, arguments: Any) -> Made:
    """Apply a function to rows of a row-aligned array, on the host."""
    return {"F": function(cuda.to_host(F), *arguments)}, None


def summed(height: int, extra: object, F: Array, function: Any, arguments: Any) -> Made:
    """Sum a function of rows of a row-aligned array, on the host."""
    return None, {"sum": function(cuda.to_host(F), *arguments)}


def gram_of(height: int, extra: object, F: Array) -> Made:
    """Sum FᵀF."""
    backend = backend_of(F)
    return None, {"sum": backend.to_numpy(backend.gram(backend.asarray(F)))}


def inner_product(height: int, extra: object, A: Array, B: Array) -> Made:
    """Sum A ⊙ B."""
    return None, {"sum": np.array([float(backend_of(A).inner(A, B))])}


def sum_of(height: int, extra: object, A: Array, axis: int | None) -> Made:
    """Sum A, or its columns."""
    return None, {"sum": np.atleast_1d(cuda.to_host(A.sum(axis=axis, dtype=np.float64)))}


def as_type(height: int, extra: object, A: Array, dtype: DType) -> Made:
    """Convert to another type."""
    return {"F": A.astype(dtype)}, None


def multiplied(height: int, extra: object, A: Array, factor: Any) -> Made:
    """Multiply by a number."""
    return {"F": A * factor}, None


def rearranged(height: int, extra: object, A: Array, order: Array, scales: Array) -> Made:
    """Put columns in another order, and multiply each by a number."""
    return {"F": (A[:, order] * backend_of(A).asarray(scales)).astype(A.dtype, order="C")}, None


def taken(height: int, rows_wanted: Array, rows: Rows) -> Made:
    """Copy some rows to the host."""
    part: Any = rows.take(rows_wanted, None).X
    if isinstance(part, tuple):  # CSR on a device
        data, indices, indptr, shape = part
        part = sparse.csr_matrix([rows.backend.to_numpy(a) for a in (data, indices, indptr)], shape=shape)
    return {"F": part if sparse.issparse(part) else rows.backend.to_numpy(part)}, None


def drawn_again(height: int, rng: Any, *rest: Any) -> Made:
    """Draw a block once more, with the generator as the block before it left it."""
    *blocks, function, arguments = rest
    rows = cuda.to_host(blocks[0]) if blocks else height
    return {"F": function(copy.deepcopy(rng), rows, *arguments)}, None


def draw(function: Any, arguments: Any, heights: Sequence[int], rng: Any, *parents: Any) -> Any:
    """Draw a group's blocks → (its values, the generator before each block and after the last)."""
    made, states, rng = [], [], copy.deepcopy(rng)
    for number, height in enumerate(heights):
        states.append(copy.deepcopy(rng))
        rows = cuda.to_host(parents[0][0][number]["F"]) if parents else height
        made.append({"F": function(rng, rows, *arguments)})
    return made, [*states, rng]
