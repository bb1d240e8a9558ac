"""Row blocks of X: where they live, how they are cut, and who visits them.

``reduce`` hands every block of rows to a *visit*, a pure function (block, its rows of the state, orders) → (next rows,
sums), and adds the sums up. It is all a solver ever sees of X. How X is cut is a function of its shape, of the number
of components and of the types only, and sums are added in a fixed order: results have the same bits for any number of
threads. Threads belong here and nowhere else.
"""

from __future__ import annotations

import copy
import functools
import itertools
import weakref
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..backends import cpu
from .opening import Opening, digest_of
from .state import RowState
from .sums import _Scratch
from .threads import effective_threads, run_all

Array = NDArray[Any]
LANES = 64  # at most so many accumulators
LANE_WORK = 2e8  # flops that make a lane worth an accumulator and a visit (a few milliseconds)
# A sparse X of fewer rows per column is kept transposed too, once the sums over its rows outgrow the first-level cache.
# Measured, one thread, ms per iteration of "cd" with Xᵀ | with sums scattered: 5,000 × 5,000 (1 %, float64, k = 10)
# 1.9 | 2.9, (6 %, k = 30) 18 | 36; 36,771 × 10,212 (0.3 %) k = 10 14 | 16, k = 30 37 | 37, float32 13 | 18 and 27 | 28;
# 20,000 × 2,000 (6 %, k = 10) 19 | 18, float32 (1 %) k = 10 3.6 | 2.9, k = 30 6.9 | 8.4; 50,000 × 500 (6 %, float32,
# k = 30) 28 | 17.
GATHER_ROWS, GATHER_BYTES = 4, 32 << 10
ROW_WORK = 1e4  # what a row costs, however few its numbers: in flops of dense X, like all of this
COLUMN_WORK = 8  # stored numbers per column that make a lane of a sparse X, which pads Ht; twice that if it has sums
BLOCK_WORK = 2e9  # flops per visit: what Ctrl-C may have to wait for
_NO_FACTOR = 8  # columns: the cut of a pass that only looks
BLOCK_BYTES = 16 << 20  # of dense X per visit: of an X on disk a few blocks are in memory, whatever the width


class _Plan(NamedTuple):
    lanes: list[list[tuple[int, int, Any]]]  # per lane its blocks, in order: first row, last row, block
    gathers: bool  # sums over rows come from the transposed matrix


Visit = Callable[..., None]


def _nobody() -> None:
    return None


class Rows:
    """X in host memory or a memory map, dense or CSR, as blocks of rows.

    Parameters
    ----------
    X : ndarray of shape (n, m), any real numeric dtype and strides, or CSR matrix or array
        Read where it lies; numbers are widened to the compute type per tile, in cache, never as a whole.
    dtype : numpy.float32 or numpy.float64
        Compute type.
    n_jobs : int or None
        Threads, see `effective_threads`.
    lane_work : float or None
        Flops that make a lane, which is visited in one go; None is the usual number, and visits of the usual size.
    """

    power = 0  # X is read as 4^power·X
    in_memory = True  # a row may be had at any time, at no price
    folder: Any = None  # makes row-aligned buffers that are no anonymous memory, see `disk.Folder`

    def __init__(self, X: Any, dtype: Any, n_jobs: int | None = None, lane_work: float | None = None):
        # A CSR matrix of our own, with the same arrays: plans hold their addresses, and the caller's may get new ones.
        self.X = copy.copy(X) if sparse.issparse(X) else X
        self._lane_work = lane_work
        self.dtype = np.dtype(dtype)
        self.n_jobs = n_jobs
        self.shape: tuple[int, int] = X.shape
        self.sparse = sparse.issparse(X)
        self.backend = cpu
        self._plans: dict[int, _Plan] = {}
        self._scratch = _Scratch()
        self._opening: Opening | None = None
        self._transposed: Rows | None = None
        self._transpose_of: Callable[[], Rows | None] = _nobody
        self._digests: dict[int, int] = {}  # of the blocks, by their first rows
        self._view: Rows | None = None  # these rows in a unit in which they are best read

    @functools.cached_property
    def threads(self) -> int:
        """How many threads visits may use."""
        return effective_threads(self.n_jobs)

    @property
    def entries(self) -> int:
        """How many numbers of X are stored: of sparse X the entries."""
        return int(self.X.nnz) if self.sparse else self.shape[0] * self.shape[1]

    def take(self, rows: Array, n_jobs: int | None) -> Rows:
        """Return a copy of some rows (increasing numbers), in the type X is stored in."""
        return Rows(self.X[rows], self.dtype, n_jobs).scaled(self.power)

    def scaled(self, power: int, dtype: Any = None) -> Any:
        """Return the same X read as 4^power·X, and in another compute type: these rows, or others with the same X.

        Never visited at the same time as these. An exact power of two, taken into each number where it is read.
        """
        if power == self.power and dtype is None:
            return self
        view = copy.copy(self)
        view.power = power
        view.dtype = self.dtype if dtype is None else np.dtype(dtype)
        view._plans, view._opening, view._transposed, view._view = {}, None, None, None
        view._transpose_of = _nobody
        return view

    def beside(self, F: Array) -> Rows:
        """Return a small or row-aligned dense matrix in memory as rows, for products with it."""
        return Rows(F, self.dtype, self.n_jobs)

    def new_rows(self, width: int) -> Array:
        """Return zeros of shape (n, width) in the compute type, where row-aligned buffers are kept."""
        if self.folder is not None:
            return self.folder.zeros((self.shape[0], width), self.dtype)
        return np.zeros((self.shape[0], width), self.dtype)

    def copied(self, W: Array) -> Array:
        """Return a copy of W, where row-aligned buffers are kept."""
        new = self.new_rows(W.shape[1])
        new[:] = W
        return new

    def state(self, **arrays: Array) -> RowState:
        """Return row-aligned buffers as `reduce` takes them."""
        if self.folder is None:
            return RowState(**arrays)
        state = RowState(**{name: self.folder.kept(array) for name, array in arrays.items()})
        state.empty_like = self.folder.empty_like
        return state

    def in_turn_with(self, other: Rows) -> Rows:
        """Return these rows, made to share the accumulators of others, which are never visited at the same time."""
        self._scratch = other._scratch
        return self

    def give_back(self, A: Array) -> Array:
        """Return an array as the caller is to have it."""
        return A

    def check_loss(self, beta: float) -> None:
        """Raise if the backend has no kernels for this X and β: the CPU has them all."""

    @property
    def T(self) -> Rows:
        """Xᵀ as rows; a sparse X is kept transposed as CSR too, a dense one is read by columns."""
        original = self._transpose_of()
        if original is not None:
            return original
        if self._transposed is None:
            Xt = self.X.T.tocsr() if self.sparse else self.X.T
            self._transposed = Rows(Xt, self.dtype, self.n_jobs).scaled(self.power)
            self._transposed._transpose_of = weakref.ref(self)  # two that hold each other would stay in memory
        return self._transposed

    def plan(self, width: int) -> _Plan:
        """How X is cut for factors of `width` columns: a function of shape, width, types and stored numbers only."""
        plan = self._plans.get(width)
        if plan is None:
            n, m = self.shape
            stored = self.X.nnz if self.sparse else n * m
            outweighed = self.sparse and m * width > stored
            few_rows = n < GATHER_ROWS * m and 8 * m * width > GATHER_BYTES
            # Of a batch (lane_work) Xᵀ may be used once only, and costs several visits.
            gathers = outweighed or (self.sparse and few_rows and self._lane_work is None)
            height = self.backend.tile_height(m, width, self.dtype)
            tiles = max(1, -(-n // height))
            work = 4.0 * stored * width + 4.0 * n * width**2
            if self.sparse:  # in time: a number is found twice, 4 ns and 0.4 ns per component, and a row takes 0.1 µs
                work = (400.0 + 40.0 * width) * stored + (ROW_WORK + 16.0 * width**2) * n
            lanes = min(LANES, tiles, int(work / (self._lane_work or LANE_WORK)) + 1)
            if self.sparse:
                lanes = min(lanes, 1 + stored // ((1 if gathers else 2) * COLUMN_WORK * max(m, 1)))
            if not outweighed:  # also of a plan that gathers: not every solver does
                held = stored * self.X.dtype.itemsize
                lanes = min(lanes, max(1, int(max(64e6, held / 4) / (8 * m * width))))
            bounds = [tiles * i // lanes * height for i in range(lanes)] + [n]
            step = tiles * BLOCK_WORK / max(work, 1.0)
            if self._lane_work is not None:
                step = tiles
            elif not self.sparse:
                step = min(step, BLOCK_BYTES / max(1, m * self.X.dtype.itemsize * height))
            step = max(1, int(step)) * height
            cuts = [
                [(a, min(a + step, hi), self._cut(a, min(a + step, hi), height)) for a in range(lo, hi, step)]
                for lo, hi in itertools.pairwise(bounds)
            ]
            plan = self._plans[width] = _Plan(cuts, gathers)
        return plan

    def _cut(self, lo: int, hi: int, height: int) -> Any:
        """Rows lo … hi as a plan has them: the block."""
        return self.backend.cut(self.X, (lo, hi), height, self.power)

    def held(self, lo: int, hi: int) -> Any:
        """Rows lo … hi of X as an array or a CSR matrix, while they are visited."""
        return self.X[lo:hi]

    def visit_all(self, visit: Callable[[int, int, int, Any], None], width: int) -> None:
        """visit(lane, first row, last row, block) for every block, lanes side by side, a lane's blocks in order."""
        lanes = self.plan(width).lanes

        def task(number: int) -> None:
            for lo, hi, block in lanes[number]:
                visit(number, lo, hi, block)

        run_all(task, len(lanes), self.threads if len(lanes) > 1 else 1)

    def visit_last(self, visit: Callable[[int, int, int, Any], None], width: int) -> None:
        """Do what `visit_all` does, and raise if X is no more what it was in the `opening`: see `disk.StoredRows`."""
        self.visit_all(visit, width)

    def map_rows(self, visit: Callable[..., None], rows: int, work: float, shapes: tuple[tuple[int, ...], ...]) -> Any:
        """visit(lo, hi, *sums) over tiles of a small factor's rows, in the same pool → the sums added up.

        The small factor is cut by its own size only, so its bits do not depend on the number of threads.
        """
        if self.sparse:
            work += rows * ROW_WORK / 2
        parts = 1 if rows < 256 else min(LANES, int(work / LANE_WORK * 8) + 1, rows // 256 + 1)
        if parts == 1:
            whole = [np.zeros(shape) for shape in shapes]
            visit(0, rows, *whole)
            return whole
        bounds = [rows * i // parts for i in range(parts + 1)]
        sums = [[np.zeros(shape) for shape in shapes] for _ in range(parts)]
        run_all(lambda i: visit(bounds[i], bounds[i + 1], *sums[i]), parts, self.threads)
        for part in sums[1:]:
            for total, more in zip(sums[0], part, strict=True):
                total += more
        return sums[0]

    def reduce(
        self,
        visit: Visit,
        state: RowState,
        orders: Any,
        sums: dict[str, tuple[int, ...]],
        gather: Visit | None = None,
        gathered: tuple[str, ...] = (),
    ) -> tuple[RowState, dict[str, Array]]:
        """One pass: visit(backend, block, rows, orders, after, sums) for every block.

        Parameters
        ----------
        visit : callable
            Pure: reads the block and its rows of the state, writes its rows of the twin, adds to sums.
        state : RowState
            The accepted rows. Never written.
        orders : object
            k-sized instructions, `orders.width` the number of columns of the factors.
        sums : dict of str to shape
            Named float64 sums. "worst" is not added up: the tables of all lanes (see `worst_rows` of a backend) are
            returned as one, the largest first.
        gather : callable or None
            gather(backend, block of Xᵀ, after, orders, lo, hi, sums): rows lo … hi of the sums over rows, from the
            transposed matrix. Used where an accumulator per lane would outweigh a sparse X.
        gathered : tuple of str
            Names of the sums that `gather` makes, of m rows each; visits get them without rows then.

        Returns
        -------
        after : RowState
            The state's twin. The caller commits it, or goes on with the old state.
        sums : dict of str to ndarray of float64
            Valid until the next pass.
        """
        plan, after = self.plan(orders.width), state.twin
        if not plan.gathers:
            gather = None
        small = self.in_memory and len(plan.lanes) == 1 and len(plan.lanes[0]) == 1
        if small and gather is None:  # no pool, no slices
            total = self._scratch.cleared(sums, 1)[0]
            visit(self.backend, plan.lanes[0][0][2], state, orders, after, total)
            return after, total
        large = {name: (0, *sums[name][1:]) for name in gathered if gather}
        scratch = self._scratch
        scratch.clear(sums | large, [len(lane) for lane in plan.lanes])

        def on_block(lane: int, lo: int, hi: int, block: Any) -> None:
            visit(self.backend, block, state.rows(lo, hi), orders, after.rows(lo, hi), scratch[lane])
            scratch.ended(lane)

        self.visit_all(on_block, orders.width)
        total = scratch.total()
        if gather:
            gather_rows = gather
            total = total | {name: np.zeros(sums[name]) for name in large}

            def on_columns(lane: int, lo: int, hi: int, block: Any) -> None:
                gather_rows(self.backend, block, after, orders, lo, hi, total)

            self.T.visit_all(on_columns, orders.width)
        return after, total

    def _look(self, lo: int, hi: int, block: Any) -> Array:
        """[min, non-finite values, Σx, Σx²] of a block."""
        return self.backend.opening(block, self.dtype)

    def opening(self) -> Opening:
        """Minimum, finiteness, Σx and Σx² in one pass (cached). A sparse X's minimum counts its zeros."""
        if self._opening is None:
            n, m = self.shape
            parts = np.zeros((len(self.plan(_NO_FACTOR).lanes), 4))
            parts[:, 0] = np.inf

            def look(lane: int, lo: int, hi: int, block: Any) -> None:
                seen = self._look(lo, hi, block)
                parts[lane, 0] = min(parts[lane, 0], seen[0])
                parts[lane, 1:] += seen[1:]

            self.visit_all(look, _NO_FACTOR)
            least = float(parts[:, 0].min())
            if self.sparse and self.X.nnz < n * m:
                least = min(least, 0.0)
            bad, total, squares = (float(part) for part in parts[:, 1:].sum(axis=0))
            self._opening = Opening(least, not bad, total, squares, total / (n * m))
        return self._opening

    def digest(self) -> str:
        """Return a digest of all stored numbers at their places: CRC-32 of the blocks of rows of the opening pass.

        It is the same for X in memory, in a memory map and on disk. X on disk is read once more, unless the digests
        were made in the opening pass (`disk.StoredRows.digested`).
        """
        if not self._digests:

            def look(lane: int, lo: int, hi: int, block: Any) -> None:
                self._digests[lo] = digest_of(self.held(lo, hi))

            self.visit_all(look, _NO_FACTOR)
        return f"{zlib.crc32(repr(sorted(self._digests.items())).encode()):08x}"

    def products(self, Ht: Array) -> Array:
        """X·Ht of shape (n, k), in the compute type; Ht C-contiguous of shape (m, k)."""
        out, Ht = np.empty((self.shape[0], Ht.shape[1]), self.dtype), self.backend.asarray(Ht)
        self.visit_all(lambda lane, lo, hi, block: self.backend.products(block, Ht, out[lo:hi]), Ht.shape[1])
        return out

    def transposed_products(self, F: Array) -> Array:
        """Xᵀ·F of shape (m, k), float64; F C-contiguous of shape (n, k)."""
        m, k = self.shape[1], F.shape[1]
        plan, F = self.plan(k), self.backend.asarray(F)
        if plan.gathers:
            return self.T.products(F).astype(np.float64)
        scratch = type(self._scratch)()
        scratch.clear({"sum": (m, k)}, [len(lane) for lane in plan.lanes])

        def add(lane: int, lo: int, hi: int, block: Any) -> None:
            self.backend.add_products(block, F[lo:hi], scratch[lane]["sum"])
            scratch.ended(lane)

        self.visit_all(add, k)
        return scratch.total()["sum"]

    def gram(self) -> Array:
        """XᵀX of shape (m, m), float64, of dense X; exact for integers of 8 bits."""
        m, few = self.shape[1], 256
        plan = self.plan(m)
        scratch = type(self._scratch)()
        scratch.clear({"sum": (m, m)}, [len(lane) for lane in plan.lanes])

        def add(lane: int, lo: int, hi: int, block: Any) -> None:
            X = self.held(lo, hi)
            for first in range(0, hi - lo, few):
                last = min(first + few, hi - lo)
                part = X[first:last]
                if self.power:
                    part = np.asarray(part, np.float64) * 4.0**self.power
                rows = self.backend.asarray(np.asarray(part, self.dtype))
                cut = self.backend.cut(X, (first, last), block.height, self.power)
                self.backend.add_products(cut, rows, scratch[lane]["sum"])
            scratch.ended(lane)

        self.visit_all(add, m)
        return scratch.total()["sum"]


def summed(X: Any, dtype: Any) -> Any:
    """CSR with one number for each entry: those that are stored several times are added up.

    Parameters
    ----------
    X : CSR matrix or array
        Never written.
    dtype : numpy.float32 or numpy.float64
        What is added up is, at least, of this type: small integers would overflow.

    Returns
    -------
    X : CSR matrix or array
        X itself where each row's columns increase, else a copy whose do.
    """
    if copy.copy(X).has_canonical_format:  # scipy notes the answer on the object that was asked: not on the caller's
        return X
    data = X.data.astype(np.promote_types(X.dtype, dtype))
    X = type(X)((data, X.indices.copy(), X.indptr.copy()), shape=X.shape)
    X.sum_duplicates()
    return X


def as_rows(X: Any, dtype: Any, n_jobs: int | None = None, lane_work: float | None = None) -> Rows:
    """X as row blocks.

    Parameters
    ----------
    X : ndarray, memmap, CSR or CSC matrix or array, of shape (n, m), any real numeric dtype
        Validated; never copied, but for CSC (converted to CSR once), CSR with entries stored more than once or out of
        order (see `summed`), and byte orders or types that no processor reads.
    dtype : numpy.float32 or numpy.float64
        Compute type.
    n_jobs : int or None
        Threads.
    lane_work : float or None
        See `Rows`.

    Returns
    -------
    rows : Rows
    """
    if sparse.issparse(X):
        if X.format != "csr":
            X = X.tocsr()
        X = summed(X, dtype)
        if not cpu.stored_as_is(X.data.dtype):
            X = X.astype(dtype)
        if X.indptr.dtype != X.indices.dtype:
            X = X.copy()
            X.indptr = X.indptr.astype(np.int64)
            X.indices = X.indices.astype(np.int64)
    else:
        X = np.asarray(X)
        if not cpu.stored_as_is(X.dtype):
            X = X.astype(dtype)
    return Rows(X, dtype, n_jobs, lane_work)
