"""What runs on the workers: pure functions of blocks. Dask is not known here.

A group is a pair: values (one entry for each of its blocks) and the sum of the blocks' sums. What an order does to a
block is a function(height, extra, *blocks of the parents, *arguments) → (values, sums), either of which may be None.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..backends import backend_of, cpu, cuda
from ..backends.operations import merge_worst
from ..loop import solve
from ..objective import divergence
from ..rows.device import as_device_rows
from ..rows.memory import as_rows
from ..rows.state import RowState
from ..scale import times

Array = NDArray[Any]


LANE_WORK = 8e9  # flops of a block that make a lane: blocks are shared out already


class _Lease:
    """Memory that goes back when nobody looks at it any more."""

    def __init__(self, memory: Array, buffers: Buffers):
        self.memory, self.buffers = memory, buffers
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self.buffers.take_back(self.memory)


class Buffers:
    """Memory of states that are gone, for the next ones: never more than those there are take.

    A nanny has malloc give back to the system whatever is freed (MALLOC_TRIM_THRESHOLD_), and the pages of every new W
    would be paid for once more: a tenth of a pass.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()  # the garbage collector may come to `take_back` anywhere
        self.leased, self.idle = 0, 0  # bytes
        self.free: list[Array] = []

    def empty_like(self, A: Array) -> Array:
        """Return an array of A's shape and type whose numbers are anything."""
        with self.lock:
            fit = next((i for i, memory in enumerate(self.free) if memory.nbytes == A.nbytes), None)
            memory = np.empty(A.nbytes, np.uint8) if fit is None else self.free.pop(fit)
            self.idle -= 0 if fit is None else memory.nbytes
            self.leased += memory.nbytes
        return np.asarray(_Lease(memory, self)).view(A.dtype).reshape(A.shape)

    def take_back(self, memory: Array) -> None:
        """Keep memory for later, or let go of some."""
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
    """A block of X, and what visiting it has prepared, for one visit at a time; only X itself travels."""

    def __init__(self, X: Any):
        self.X = X
        self.lock = threading.Lock()
        self._rows: dict[str, Any] = {}

    # Fewer lanes than in memory, and one visit each: blocks are shared out already, and memory that a visit frees goes
    # back to the system here (see `Buffers`), which cost a worker 15 % of a pass with the usual number of visits.

    def rows(self, dtype: Any, n_jobs: int, power: int = 0) -> Any:
        """Return it as `Rows`, or `DeviceRows` for a block on a GPU; made once."""
        if (name := f"{dtype} {power}") not in self._rows:
            if power:
                self._rows[name] = self.rows(dtype, n_jobs).scaled(power)
            elif cuda.kind_of(self.X) is None:
                self._rows[name] = as_rows(self.X, dtype, n_jobs, LANE_WORK)
            else:
                self._rows[name] = as_device_rows(self.X, np.dtype(dtype))
        return self._rows[name]

    def __reduce__(self) -> tuple[Any, ...]:
        return Block, (self.X,)

    def __sizeof__(self) -> int:
        X = self.X
        parts = (X.data, X.indices, X.indptr) if hasattr(X, "indptr") else (X,)
        return sum(int(part.nbytes) for part in parts)


class Sums:
    """Sums of blocks added up in a tree over their numbers, whatever parts of it come from elsewhere."""

    def __init__(self) -> None:
        self.stack: list[tuple[int, int, dict[str, Array]]] = []  # first number, how many (2^i), their sum

    def add(self, first: int, count: int, sums: dict[str, Array]) -> None:
        """Add the sum of blocks first … first + count − 1, in the order of their numbers."""
        while self.stack and self.stack[-1][1] == count and self.stack[-1][0] == first - count:
            if (first // count) % 2 == 0:  # neighbours, but not siblings
                break
            first, _, before = self.stack.pop()
            sums, count = _added(before, sums), 2 * count
        self.stack.append((first, count, sums))

    def total(self) -> dict[str, Array] | None:
        """Return the sum of all; the last ones may be fewer than a whole branch."""
        if not self.stack:
            return None
        *rest, (_, _, sums) = self.stack
        for _, _, before in reversed(rest):
            sums = _added(before, sums)
        return sums


_HOW: dict[str, Callable[[Array, Array], Array]] = {
    "worst": merge_worst, "most": np.maximum, "least": np.minimum,
}  # fmt: skip


def _added(a: dict[str, Array], b: dict[str, Array]) -> dict[str, Array]:
    return {name: _HOW.get(name, np.add)(a[name], b[name]) for name in a}


class Declared(NamedTuple):
    """What a Dask array says that a block is. Kernels read memory by it."""

    number: int  # among the row chunks of X
    first: int  # row
    shape: tuple[int, int]
    dtype: np.dtype
    sparse: bool

    def check(self, X: Any) -> None:
        """Raise if a block is something else."""
        found = (tuple(getattr(X, "shape", ())), getattr(X, "dtype", type(X).__name__), hasattr(X, "tocsr"))
        if found == (self.shape, self.dtype, self.sparse):
            return
        said, is_ = (
            f"a {'sparse matrix' if sparse else 'dense array'} of shape {shape}, {dtype}"
            for shape, dtype, sparse in (self[2:], found)
        )
        msg = (
            f"Block {self.number} of the Dask array X (rows {self.first:,} … {self.first + self.shape[0] - 1:,}) is "
            f"declared as {said}, but it is {is_}: tell what makes the array (from_delayed, map_blocks) the "
            "shape, chunks, dtype and meta that its blocks have."
        )
        raise ValueError(msg)


def hold(declared: Sequence[Declared], *chunks: Any) -> tuple[list[Block], None]:
    """Wrap chunks of X as a group, once each is seen to be what it is declared to be."""
    for each, X in zip(declared, chunks, strict=True):
        each.check(X)
    return [Block(X) for X in chunks], None


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
    """Return what stands beside the values, to be fetched without them."""
    return pair[1]


def picked(pair: Any, number: int, name: str) -> Any:
    """Return one block of a group's values."""
    return pair[0][number][name]


def fetched(pair: Any, number: int, name: str) -> Any:
    """Return one block to be sent to where there may be no GPU."""
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


def _writable(backend: Any, orders: Any) -> Any:
    """Orders as the kernels take them: what has travelled is read-only, and factors go where X is."""
    changed = {}
    for field in dataclasses.fields(orders):
        value = getattr(orders, field.name)
        if isinstance(value, np.ndarray):
            place = backend if value.ndim == 2 else cpu
            changed[field.name] = place.asarray(value)
    return dataclasses.replace(orders, **changed)


# The functions of orders: height of the block, its own extra, blocks of the parents, arguments.


def zeros(height: int, extra: Any, width: int, dtype: Any) -> Any:
    """Make zeros."""
    return {"F": np.zeros((height, width), dtype)}, None


def new_state(height: int, extra: Any, rows: Any, *parts: Any) -> Any:
    """Put buffers together to a state; `empty` names those that nobody reads before they are written."""
    *given, names, empty = parts
    arrays = {name: rows.backend.asarray(F) for name, F in zip(names, given, strict=True)}
    return arrays | {name: rows.backend.xp.empty_like(arrays[like]) for name, like in empty}, None


def one_pass(
    height: int, extra: Any, rows: Any, before: Any, visit: Any, orders: Any, sums: Any, gather: Any, gathered: Any
) -> Any:
    """Visit a block, see `Rows.reduce`: its state is read, and the next one is new."""
    state = RowState(**{name: rows.backend.asarray(F) for name, F in before.items()})
    if rows.backend.xp is np:
        state.empty_like = _buffers.empty_like
    after, total = rows.reduce(visit, state, _writable(rows.backend, orders), sums, gather, gathered)
    state.part()
    return dict(after.arrays), {name: np.array(rows.backend.to_numpy(part)) for name, part in total.items()}


def look(height: int, extra: Any, rows: Any) -> Any:
    """Look through a block, see `Rows.opening`."""
    seen = rows.opening()
    rest = [not seen.finite, seen.total, seen.squares]
    return None, {"least": np.array([seen.minimum]), "rest": np.array(rest, float)}


def has_nan(height: int, extra: Any, rows: Any) -> Any:
    """Tell NaN from infinity."""
    values = rows.backend.to_numpy(rows.X.data if rows.sparse else rows.X)
    return None, {"nan": np.array([np.isnan(values).any()], float)}


def products(height: int, extra: Any, rows: Any, Ht: Array) -> Any:
    """Make X·Ht."""
    return {"F": rows.products(rows.backend.asarray(Ht))}, None


def transposed_products(height: int, extra: Any, rows: Any, F: Any) -> Any:
    """Sum Xᵀ·F."""
    return None, {"sum": rows.backend.to_numpy(rows.transposed_products(rows.backend.asarray(F)))}


def gram_of_X(height: int, extra: Any, rows: Any) -> Any:
    """Sum XᵀX."""
    return None, {"sum": rows.backend.to_numpy(rows.gram())}


def gram_of(height: int, extra: Any, F: Any) -> Any:
    """Sum FᵀF."""
    backend = backend_of(F)
    return None, {"sum": backend.to_numpy(backend.gram(backend.asarray(F)))}


def divergence_of(height: int, extra: Any, rows: Any, W: Any, Ht: Array, beta: float) -> Any:
    """Sum D_β(X | WH)."""
    return None, {"sum": np.array([divergence(rows, W, rows.backend.asarray(Ht), beta)])}


def codes(height: int, extra: Any, rows: Any, solver: Any, Ht: Array, tol: float, max_iter: int, by_step: bool) -> Any:
    """Solve for rows alone, see `solve.code`."""
    # `start` writes on the solver, which the tasks of a worker share
    coded = solve.code(rows, copy.copy(solver), Ht, tol=tol, max_iter=max_iter, by_step=by_step)
    return {"F": coded.W}, {"most": np.array([coded.n_iter]), "unsettled": np.array([coded.unsettled])}


def inner_product(height: int, extra: Any, A: Any, B: Any) -> Any:
    """Sum A ⊙ B."""
    return None, {"sum": np.array([float(backend_of(A).inner(A, B))])}


def sum_of(height: int, extra: Any, A: Any) -> Any:
    """Sum A."""
    return None, {"sum": np.array([float(A.sum(dtype=np.float64))])}


def as_type(height: int, extra: Any, A: Any, dtype: Any) -> Any:
    """Convert to another type."""
    return {"F": A.astype(dtype)}, None


def times_power(height: int, extra: Any, A: Any, power: int) -> Any:
    """Multiply by a power of two."""
    return {"F": times(A, power)}, None


def taken(height: int, rows_wanted: Array, rows: Any) -> Any:
    """Copy some rows to the host."""
    part: Any = rows.take(rows_wanted, None).X
    if isinstance(part, tuple):  # CSR on a device
        data, indices, indptr, shape = part
        part = sparse.csr_matrix([rows.backend.to_numpy(a) for a in (data, indices, indptr)], shape=shape)
    return {"F": part if sparse.issparse(part) else rows.backend.to_numpy(part)}, None


def times_small(height: int, extra: Any, Y: Any, E: Array) -> Any:
    """Make Y·E by the kernels, which wake no threads of BLAS."""
    backend = backend_of(Y)
    rows = Block(Y).rows(Y.dtype, 1)
    return {"F": rows.products(backend.asarray(E.astype(Y.dtype)))}, None


def squares_of_parts(height: int, extra: Any, U: Any) -> Any:
    """Add up squares of the positive and of the negative parts of columns."""
    host = backend_of(U).to_numpy(U).astype(np.float64)
    return None, {"sum": np.array([np.square(np.maximum(sign * host, 0)).sum(axis=0) for sign in (1, -1)])}


def signed_parts(height: int, extra: Any, U: Any, signs: Array, scales: Array, fill: float, cut_off: float) -> Any:
    """Make W of an NNDSVD: of each column of U the part of one sign, scaled."""
    xp = backend_of(U).xp
    W = xp.maximum(U * xp.asarray(signs.astype(U.dtype)), 0) * xp.asarray(scales.astype(U.dtype))
    W[:, 0] = xp.abs(U[:, 0]) * scales.astype(U.dtype)[0]
    W[xp.less(W, cut_off)] = 0
    if fill:
        W[W == 0] = fill
    return {"F": W}, None


def drawn_again(height: int, rng: Any, *rest: Any) -> Any:
    """Draw a block once more, with the generator as the block before it left it."""
    *blocks, function, arguments = rest
    return {"F": function(copy.deepcopy(rng), height, *blocks, *arguments)}, None


def normal(rng: Any, height: int, k: int, scale: Any, dtype: Any) -> Array:
    """Draw a random W."""
    W = scale * rng.standard_normal(size=(height, k)).astype(dtype, copy=False)
    return np.abs(W.astype(dtype, copy=False))


def fill_zeros(rng: Any, height: int, W: Any, mean: float) -> Array:
    """Fill the zeros of W for nndsvdar."""
    W = np.array(backend_of(W).to_numpy(W))
    zeros = W == 0
    W[zeros] = abs(mean * rng.standard_normal(size=int(zeros.sum())) / 100)
    return W


def draw(function: Any, arguments: Any, heights: Sequence[int], rng: Any, *parents: Any) -> Any:
    """Draw a group's blocks → (its values, the generator before each block and after the last)."""
    made, states, rng = [], [], copy.deepcopy(rng)
    for number, height in enumerate(heights):
        states.append(copy.deepcopy(rng))
        blocks = [parent[0][number]["F"] for parent in parents]
        made.append({"F": function(rng, height, *blocks, *arguments)})
    return made, [*states, rng]
