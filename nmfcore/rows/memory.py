"""X in the memory of this process, or in a memory map, as blocks of rows.

X is cut into lanes, which threads visit side by side, and lanes into blocks, which are visited in order.
"""

from __future__ import annotations

import copy
import functools
import itertools
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from scipy import sparse

from .._typing import Array, Block, DType, Matrix
from ..backends import cpu
from ..backends.kernels.arguments import TALL, in_strips
from .base import LOOK_WIDTH, Function, Gather, Made, Pass, Rows
from .state import RowState
from .summary import Summary, digest_of
from .sums import FewSums, LaneSums, Named, Shapes
from .threads import effective_threads, run_all

LANES = 64  # largest number of accumulators
LANE_WORK = 2e8  # flops that make a lane worth an accumulator and a visit (a few milliseconds)
# A sparse X of fewer rows than this many times its columns is kept transposed too, if H has more bytes than
# GATHER_BYTES, so that sums over rows outgrow the first-level cache. Measured for "cd" on one thread, k = 10: 5,000 ×
# 5,000 with 1 % stored takes 1.9 ms an iteration with Xᵀ and 2.9 ms with sums scattered; 20,000 × 2,000 with 6 % stored
# takes 19 and 18 ms.
GATHER_ROWS, GATHER_BYTES = 4, 32 << 10
ROW_WORK = 1e4  # cost of a row of a sparse X in addition to that of its numbers, in flops of a dense X
ALONE = 10.0  # the `intensity` of a sweep over the Kullback-Leibler divergence, which divides where "cd" multiplies
COLUMN_WORK = 8  # stored numbers per column that make a lane of a sparse X, which pads Ht; twice that if it has sums
BLOCK_WORK = 2e9  # flops per visit, which Ctrl-C may have to wait for
BLOCK_BYTES = 16 << 20  # of dense X per visit: of an X on disk a few blocks are in memory, whatever the width


class _Plan(NamedTuple):
    lanes: list[list[tuple[int, int, Block]]]  # per lane its blocks, in order: first row, last row, block
    gathers: bool  # whether sums over rows are made from the transposed matrix


Visit = Callable[[int, int, int, Block], None]  # visit(lane, first row, last row, block)


class _Work:
    """A pass under way: the arrays that it reads and writes, and its sums.

    Parameters
    ----------
    data : MemoryRows
    wanted : Pass
    accumulator : LaneSums
    gathers : bool
        Whether the sums that `wanted` can gather are made from the transposed matrix.
    """

    def __init__(self, data: MemoryRows, wanted: Pass, accumulator: LaneSums, gathers: bool):
        self.wanted, self.accumulator = wanted, accumulator
        self.before, self.after = data.before_and_after(wanted.rows, wanted.out)
        self.gather: Any = wanted.gather if gathers else None
        self.large = {name: (0, *wanted.sums[name][1:]) for name in wanted.gathered if self.gather}
        self.shapes = wanted.sums | self.large if self.large else wanted.sums
        self.total: Named = {}


def _none() -> None:
    return None


class MemoryRows(Rows):
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
        Flops of a lane, which is then a single block. None means `LANE_WORK`, and blocks of `BLOCK_WORK`.
    """

    shares = True
    intensity = 1.0  # how much longer a pass takes than one of "cd", which decides into how many parts X is cut

    def __init__(self, X: Matrix, dtype: DType, n_jobs: int | None = None, lane_work: float | None = None):
        # A CSR matrix of our own, with the same arrays: plans hold their addresses, and the caller's may get new ones.
        self.X = copy.copy(X) if sparse.issparse(X) else X
        self.lane_work = lane_work
        self.dtype = np.dtype(dtype)
        self.n_jobs = n_jobs
        self.shape: tuple[int, int] = X.shape
        self.sparse = sparse.issparse(X)
        self.given_dtype = X.dtype
        self.backend = cpu
        self._plans: dict[int, _Plan] = {}
        self._sums = LaneSums()
        self._sums_side_by_side: list[FewSums] = []  # of passes that share their visits
        self._summary: Summary | None = None
        self._transposed: MemoryRows | None = None
        self._transpose_of: Callable[[], MemoryRows | None] = _none
        self._digests: dict[int, int] = {}  # of the blocks, by their first rows
        self._view: Rows | None = None  # these rows in a unit in which they are best read

    @functools.cached_property
    def threads(self) -> int:  # type: ignore[override]
        """Number of threads that visit blocks."""
        return effective_threads(self.n_jobs)

    @property
    def entries(self) -> int:
        """Number of stored numbers of X: n·m, of a sparse X fewer."""
        return int(self.X.nnz) if self.sparse else self.shape[0] * self.shape[1]

    def take(self, rows: Array, n_jobs: int | None) -> MemoryRows:
        """Return a copy of some rows (increasing numbers), in the type X is stored in."""
        return MemoryRows(self.X[rows], self.dtype, n_jobs).scaled(self.power)

    def scaled(self, power: int, dtype: DType = None) -> Self:
        """Return the same X read as 4^power·X, see `Rows.scaled`: these rows, or others with the same X."""
        if power == self.power and dtype is None:
            return self
        view = copy.copy(self)
        view.power = power
        view.dtype = self.dtype if dtype is None else np.dtype(dtype)
        view._plans, view._summary, view._transposed, view._view = {}, None, None, None
        view._transpose_of = _none
        return view

    def by_columns(self) -> Self:
        """Return the same X for passes that read it by rows and by columns, and solve for each row and column alone."""
        view = copy.copy(self)
        view.gathers, view.intensity = True, ALONE
        view._plans, view._transposed, view._view = {}, None, None
        view._transpose_of = _none
        return view

    def beside(self, n_jobs: int | None) -> MemoryRows:
        """Return rows of the same X for a fit that runs beside others, which shares no memory with theirs."""
        return self._unvisited(MemoryRows(self.X, self.dtype, n_jobs, self.lane_work))

    def _unvisited(self, new: MemoryRows) -> MemoryRows:
        new.gathers, new.power, new.given_dtype, new._summary = (
            self.gathers, self.power, self.given_dtype, self._summary
        )  # fmt: skip
        new.intensity = self.intensity
        return new

    def rows_like(self, F: Array) -> MemoryRows:
        """Return a row-aligned or small dense matrix as rows, for products with it."""
        return MemoryRows(F, self.dtype, self.n_jobs)

    def new_rows(self, width: int) -> Array:
        """Return zeros of shape (n, width) in the compute type, in memory or in the folder."""
        if self.folder is not None:
            return self.folder.zeros((self.shape[0], width), self.dtype)
        return np.zeros((self.shape[0], width), self.dtype)

    def copied(self, W: Array) -> Array:
        """Return a copy of W, in memory or in the folder."""
        new = self.new_rows(W.shape[1])
        new[:] = W
        return new

    def state(self, **arrays: Array) -> RowState:
        """Return row-aligned arrays as a state that passes go through."""
        if self.folder is None:
            return RowState(**arrays)
        state = RowState(**{name: self.folder.kept(array) for name, array in arrays.items()})
        state.empty_like = self.folder.empty_like
        return state

    def sharing_sums(self, other: MemoryRows) -> MemoryRows:
        """Return these rows, after making them use the accumulators of others that are never visited meanwhile."""
        self._sums = other._sums
        return self

    def to_caller(self, A: Array) -> Matrix:
        """Return an array of results as it is."""
        return A

    @property
    def T(self) -> MemoryRows:
        """Xᵀ as rows: of a sparse X a CSR matrix of its own, which is kept; a dense X is read by columns."""
        original = self._transpose_of()
        if original is not None:
            return original
        if self._transposed is None:
            Xt = self.X.T.tocsr() if self.sparse else self.X.T
            self._transposed = MemoryRows(Xt, self.dtype, self.n_jobs).scaled(self.power)
            self._transposed.intensity = self.intensity
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
            gathers = self.gathers or outweighed or (self.sparse and few_rows and self.lane_work is None)
            height = cpu.tile_height(m, width, self.dtype)
            tiles = max(1, -(-n // height))
            work = 4.0 * stored * width + 4.0 * n * width**2
            if self.sparse:  # in time: a number is found twice, 4 ns and 0.4 ns per component, and a row takes 0.1 µs
                work = (400.0 + 40.0 * width) * stored + (ROW_WORK + 16.0 * width**2) * n
            work *= self.intensity
            wide = not self.sparse and in_strips(m, width)
            lanes = min(LANES, tiles, int(work / (self.lane_work or LANE_WORK)) + 1)
            if self.sparse:
                lanes = min(lanes, 1 + stored // ((1 if gathers else 2) * COLUMN_WORK * max(m, 1)))
            if not outweighed:  # also of a plan that gathers: not every solver does
                held = stored * self.X.dtype.itemsize
                least = 2 if 8 * m * width <= 64e6 else 1  # one alone would keep one core only busy
                lanes = min(lanes, max(least, int(max(64e6, held / 4) / (8 * m * width))))
                if wide:  # clearing and adding up a lane's sums takes as long as adding the products of three tiles
                    lanes = min(lanes, max(least, 2 * -(-n // (4 * TALL))))
            bounds = [tiles * i // lanes * height for i in range(lanes)] + [n]
            step = tiles * BLOCK_WORK / max(work, 1.0)
            if self.lane_work is not None:
                step = tiles
            elif not self.sparse:
                step = min(step, BLOCK_BYTES / max(1, m * self.X.dtype.itemsize * height))
            step = max(1, int(step)) * height
            if wide and step > TALL:  # whole tiles
                step = step // TALL * TALL
            cuts = [
                [(a, min(a + step, hi), self._cut(a, min(a + step, hi), height)) for a in range(lo, hi, step)]
                for lo, hi in itertools.pairwise(bounds)
            ]
            plan = self._plans[width] = _Plan(cuts, gathers)
        return plan

    def _cut(self, lo: int, hi: int, height: int) -> Block:
        """Rows lo … hi as a plan has them: the block."""
        return cpu.cut(self.X, (lo, hi), height, self.power)

    def held(self, lo: int, hi: int) -> Matrix:
        """Rows lo … hi of X as an array or a CSR matrix, while they are visited."""
        return self.X[lo:hi]

    def visit_all(self, visit: Visit, width: int) -> None:
        """visit(lane, first row, last row, block) for every block, lanes side by side, a lane's blocks in order."""
        lanes = self.plan(width).lanes

        def task(number: int) -> None:
            for lo, hi, block in lanes[number]:
                visit(number, lo, hi, block)

        run_all(task, len(lanes), self.threads if len(lanes) > 1 else 1)

    def visit_verified(self, visit: Visit, width: int) -> None:
        """Call `visit` as `visit_all` does, and raise if an X outside of memory has changed since the opening pass."""
        self.visit_all(visit, width)

    def map_rows(
        self, visit: Callable[..., None], rows: int, work: float, shapes: tuple[tuple[int, ...], ...]
    ) -> list[Array]:
        """Apply visit(lo, hi, *sums) to tiles of a small factor's rows, see `Rows.map_rows`.

        The factor is cut by its own size only, so its bits do not depend on the number of threads.
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

    def each_block(
        self,
        function: Function,
        rows: RowState | Mapping[str, Array],
        arguments: object,
        *,
        width: int,
        sums: Shapes,
        out: Mapping[str, int] | None = None,
        gather: Gather | None = None,
        gathered: tuple[str, ...] = (),
        verify: bool = False,
    ) -> tuple[RowState, Named]:
        """Apply a function to every block of rows, see `Rows.each_block`."""
        return self._made(Pass(function, rows, arguments, width, sums, out, gather, gathered, verify))

    def _made(self, wanted: Pass) -> Made:
        function, rows, arguments, width, sums, out, gather, _, _ = wanted
        plan = self._plans.get(width) or self.plan(width)
        accumulator = self._sums if out is None else type(self._sums)()
        if self._is_small(plan) and not (gather and plan.gathers):  # no pool, no slices
            before, after = self.before_and_after(rows, out)
            total = accumulator.cleared(sums, 1)[0]
            function(self.backend, plan.lanes[0][0][2], before, arguments, after, total)
            return after, total
        (made,) = self._visited([wanted], [accumulator])
        return made

    def before_and_after(
        self, rows: RowState | Mapping[str, Array], out: Mapping[str, int] | None
    ) -> tuple[RowState, RowState]:
        """Return the row-aligned arrays that a pass reads, and those that it writes; see `Rows.each_block`."""
        if not isinstance(rows, RowState):
            rows = RowState(**{name: self.backend.asarray(F) for name, F in rows.items()})
        if out is None:
            return rows, rows.twin
        return rows, RowState(**{name: self.new_rows(k) for name, k in out.items()}) if out else rows

    def _is_small(self, plan: _Plan) -> bool:
        return len(plan.lanes) == 1 and len(plan.lanes[0]) == 1 and self.in_memory

    def passes(self, wanted: Sequence[Pass]) -> Iterator[Made]:
        """Make several passes over X, which share each visit of a block, see `Rows.passes`."""
        if len(wanted) < 2 or self._is_small(self.plan(wanted[0].width)):  # a single block stays in the cache
            return super().passes(wanted)
        while len(self._sums_side_by_side) < len(wanted):  # those of all lanes of all passes might outweigh X
            self._sums_side_by_side.append(FewSums())
        kept = zip(wanted, self._sums_side_by_side, strict=False)
        return iter(self._visited(wanted, [FewSums() if each.out is not None else sums for each, sums in kept]))

    def _visited(self, wanted: Sequence[Pass], accumulators: Sequence[LaneSums]) -> list[Made]:
        """Make passes of one width together, with an accumulator for each."""
        width, backend = wanted[0].width, self.backend
        assert all(each.width == width for each in wanted)
        plan = self.plan(width)
        works = [_Work(self, each, sums, plan.gathers) for each, sums in zip(wanted, accumulators, strict=True)]
        blocks = [len(lane) for lane in plan.lanes]
        for work in works:
            work.accumulator.clear(work.shapes, blocks)

        def on_block(lane: int, lo: int, hi: int, block: object) -> None:
            for work in works:
                function, _, arguments, *_ = work.wanted
                function(
                    backend, block, work.before.rows(lo, hi), arguments, work.after.rows(lo, hi), work.accumulator[lane]
                )
                work.accumulator.ended(lane)

        (self.visit_verified if any(each.verify for each in wanted) else self.visit_all)(on_block, width)
        for work in works:
            work.total = work.accumulator.total() | {name: np.zeros(work.wanted.sums[name]) for name in work.large}
        gathering = [work for work in works if work.gather]
        if gathering:

            def on_columns(lane: int, lo: int, hi: int, block: object) -> None:
                for work in gathering:
                    work.gather(backend, block, work.after, work.wanted.arguments, lo, hi, work.total)

            self.T.visit_all(on_columns, width)
        return [(work.after, work.total) for work in works]

    def digest(self) -> str:
        """Return a digest of all stored numbers at their places: CRC-32 of the blocks of rows of the opening pass.

        It is the same for X in memory, in a memory map and on disk. X on disk is read once more, unless the digests
        were made in the opening pass (`StoredRows.digested`).
        """
        if not self._digests:

            def look(lane: int, lo: int, hi: int, block: object) -> None:
                self._digests[lo] = digest_of(self.held(lo, hi))

            self.visit_all(look, LOOK_WIDTH)
        return f"{zlib.crc32(repr(sorted(self._digests.items())).encode()):08x}"


def without_duplicates(X: Matrix, dtype: DType) -> Matrix:
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
        X itself if the columns of every row increase, else a copy in which they do.
    """
    if copy.copy(X).has_canonical_format:  # a copy, on which scipy stores the answer
        return X
    data = X.data.astype(np.promote_types(X.dtype, np.dtype(dtype)))
    X = type(X)((data, X.indices.copy(), X.indptr.copy()), shape=X.shape)
    X.sum_duplicates()
    return X


def as_rows(X: Matrix, dtype: DType, n_jobs: int | None = None, lane_work: float | None = None) -> MemoryRows:
    """X as row blocks.

    Parameters
    ----------
    X : ndarray, memmap, CSR or CSC matrix or array, of shape (n, m), any real numeric dtype
        Validated; never copied, but for CSC (converted to CSR once), CSR with entries stored more than once or out of
        order (see `without_duplicates`), and byte orders or types that no processor reads.
    dtype : numpy.float32 or numpy.float64
        Compute type.
    n_jobs : int or None
        Threads.
    lane_work : float or None
        See `MemoryRows`.

    Returns
    -------
    rows : MemoryRows
    """
    if sparse.issparse(X):
        if X.format != "csr":
            X = X.tocsr()
        X = without_duplicates(X, dtype)
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
    return MemoryRows(X, dtype, n_jobs, lane_work)
