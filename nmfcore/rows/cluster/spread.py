"""X on a cluster as blocks of rows, and row-aligned arrays whose blocks are on the workers."""

from __future__ import annotations

import copy
import functools
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType, TracebackType
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from ..._typing import Array, DType
from ...backends import cpu
from ..base import Function, Gather, Rows
from ..memory import MemoryRows, as_rows
from ..sums import Named, Shapes
from ..threads import effective_threads
from . import tasks
from .workers import Cluster, Held, Node, Values


class Spread:
    """A row-aligned array whose blocks are on the workers. It is never written, so a copy is the array itself.

    Parameters
    ----------
    cluster : Cluster
    values : object
        The futures that hold it.
    name : str or None
        Under what name they hold it; None: an X.
    width : int
        Columns.
    dtype : numpy.dtype
    """

    ndim = 2

    def __init__(self, cluster: Cluster, values: Any, name: str | None, width: int, dtype: DType):
        self.cluster, self.values, self.name = cluster, values, name
        self.shape = (sum(map(sum, cluster.heights)), width)
        self.dtype = np.dtype(dtype)

    def copy(self) -> Spread:
        """Return the array itself, which is never written."""
        return self

    def astype(self, dtype: DType, copy: bool = True) -> Spread:
        """Return it in another type."""
        if self.dtype == dtype:
            return self
        return self.map(tasks.as_type, np.dtype(dtype), width=self.shape[1], dtype=dtype)

    def __mul__(self, factor: Any) -> Spread:
        """Return it multiplied by a number."""
        return self.map(tasks.multiplied, factor, width=self.shape[1], dtype=self.dtype)

    def sum(self, axis: int | None = None, dtype: DType = None) -> Any:
        """Return Σ, or Σ of each column (axis 0), in float64; NaN if the cluster has failed."""
        total = self.sums(tasks.sum_of, axis)["sum"] if self.cluster.failure is None else np.full(1, np.nan)
        return float(total[0]) if axis is None else total

    def map(self, function: Any, *arguments: Any, width: int, dtype: DType, others: tuple[Spread, ...] = ()) -> Spread:
        """Apply function(height, extra, block, *others, *arguments) → ({"F": …}, None) to every block."""
        return step(self.cluster, function, arguments, (self, *others)).named("F", width, dtype)

    def sums(self, function: Any, *arguments: Any, others: tuple[Spread, ...] = ()) -> dict[str, Array]:
        """Apply function(height, extra, block, *others, *arguments) → (None, sums) and add up."""
        return step(self.cluster, function, arguments, (self, *others)).sums()

    def gather(self) -> list[Any]:
        """Return the blocks, brought to this machine."""
        cluster = self.cluster

        def fetch() -> list[Any]:
            cluster.all_finished([held.future for held in self.values.held])
            picks = [
                cluster.submit("pick", tasks.fetched, held.future, number, self.name, home=held.home)
                for held, heights in zip(self.values.held, cluster.heights, strict=True)
                for number in range(len(heights))
            ]
            return [cluster.fetch(pick) for pick in picks]

        return cluster.safely(fetch)

    @property
    def lost(self) -> bool:
        """Whether it can be had no more."""
        return self.cluster.failure is not None or self.cluster.closed

    def parts(self) -> Iterator[Any]:
        """Bring the blocks here, one after the other."""
        cluster = self.cluster

        def fetch(group: int, number: int) -> Any:
            held = self.values.held[group]
            return cluster.fetch(cluster.submit("pick", tasks.fetched, held.future, number, self.name, home=held.home))

        for group, heights in enumerate(cluster.heights):
            for number in range(len(heights)):
                yield cluster.safely(functools.partial(fetch, group, number))

    def to_dask(self) -> Any:
        """Return a Dask array in the row chunks of X; its blocks belong to the caller from here on."""
        import dask.array as da

        cluster = self.cluster
        if cluster.closed:
            msg = "The fit is over, and its rows of W are no more on the workers: call factors() within the callback."
            raise RuntimeError(msg)

        def pick() -> list[Any]:
            picks = [
                (cluster.submit("W", tasks.picked, held.future, number, self.name, home=held.home), height)
                for held, heights in zip(self.values.held, cluster.heights, strict=True)
                for number, height in enumerate(heights)
            ]
            for future, _ in picks:
                cluster.finished(future)
            return picks

        picks, width = cluster.safely(pick), self.shape[1]
        blocks = [da.from_delayed(future, (height, width), self.dtype) for future, height in picks]
        for future, _ in picks:
            cluster.hand_out(future)
        return da.concatenate(blocks)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function is np.empty_like:
            return _Unfilled(self)
        if function is np.zeros_like:
            return _zeros_like(self.cluster, self.shape[1], self.dtype)
        if function is np.einsum and args[0] == "ij,ij->" and all(isinstance(A, Spread) for A in args[1:]):
            return (
                self.sums(tasks.inner_product, others=(args[2],))["sum"][0] if self.cluster.failure is None else np.nan
            )
        return NotImplemented


class _Unfilled:
    """The result of np.empty_like of a `Spread`, until it becomes an array of a state."""

    def __init__(self, like: Spread):
        self.like = like


class Step(NamedTuple):
    """A step under way."""

    cluster: Cluster
    values: Values

    def named(self, name: str | None, width: int, dtype: DType) -> Spread:
        """Return what it makes under a name, or all of it (None), as a row-aligned array."""
        return Spread(self.cluster, self.values, name, width, dtype)

    def sums(self) -> dict[str, Array]:
        """Return its sums."""
        return self.cluster.total(self.values)


def step(
    cluster: Cluster, function: Any, arguments: tuple[Any, ...], parents: tuple[Any, ...], rows_of: Any = None,
    extras: list[Any] | None = None, passes: int = 0,
) -> Step:  # fmt: skip
    """Apply a function of `tasks` to every block of the parents, on the workers, see `tasks.Order`."""
    order = tasks.Order(function, arguments, tuple(parent.name for parent in parents), rows_of)
    node = Node(order, tuple(parent.values.node for parent in parents), extras, passes)
    return Step(cluster, cluster.safely(lambda: cluster.make(node, [parent.values for parent in parents])))


def _zeros_like(cluster: Cluster, width: int, dtype: DType) -> Spread:
    return step(cluster, tasks.zeros, (width, np.dtype(dtype)), ()).named("F", width, dtype)


class SpreadState:
    """Row-aligned buffers of a solver on the workers; what `RowState` is in memory.

    Parameters
    ----------
    whole : Spread
        Holds all buffers of a block at once.
    names : tuple of str
        Their names.
    """

    def __init__(self, whole: Spread, names: tuple[str, ...]):
        self.whole, self.names = whole, names

    def separate(self) -> None:
        """Do nothing, as this state has no twin."""

    @property
    def arrays(self) -> dict[str, Spread]:
        """The buffers by their names."""
        return {name: self[name] for name in self.names}

    def __getitem__(self, name: str) -> Spread:
        whole = self.whole
        return Spread(whole.cluster, whole.values, name, whole.shape[1], whole.dtype)


class Backend:
    """The operations of the CPU, and those of them that also take row-aligned arrays on the workers.

    Parameters
    ----------
    operations : module
        `nmfcore.backends.cpu`, or one for blocks that carry more.
    """

    def __init__(self, operations: ModuleType = cpu):
        self._operations = operations

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operations, name)

    def asarray(self, F: Any) -> Any:
        """Return F where it is; an array that is here as passes take it."""
        return F if isinstance(F, Spread | np.memmap) else cpu.asarray(F)  # rows of a file are sent on

    def to_numpy(self, A: Any) -> Any:
        """Return an array, brought here."""
        return np.concatenate(A.gather()) if isinstance(A, Spread) else A

    def gram(self, F: Any, B: Array | None = None) -> Any:
        """Return FᵀF, or FᵀB of an F that is here."""
        return F.sums(tasks.gram_of)["sum"] if isinstance(F, Spread) else cpu.gram(F, B)


class DaskRows(Rows):
    """X on the workers of a cluster, as blocks of rows.

    Parameters
    ----------
    X : Spread
        X itself, or any row-aligned array.
    dtype : numpy.float32 or numpy.float64
        Compute type.
    n_jobs : int or None
        Threads of what is computed here: the small factor.
    sparse : bool
        Whether blocks are CSR matrices.
    """

    in_memory = False
    local = False
    by_rows_only = "X is a Dask array on a cluster"

    def __init__(self, X: Spread, dtype: DType, n_jobs: int | None = None, sparse: bool = False):
        self.X, self.dtype, self.n_jobs, self.sparse = X, np.dtype(dtype), n_jobs, sparse
        self.shape: tuple[int, int] = X.shape
        self.cluster = X.cluster
        self.backend: Any = Backend()
        self.threads = effective_threads(n_jobs)
        self.given_dtype = X.dtype

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release what the call has put on the cluster; results that were handed out stay."""
        self.cluster.close()

    def keep_in(self, checkpoint: Any) -> None:
        """Record where a fit is kept, for errors that say from where it can be continued."""
        self.cluster.checkpoint = checkpoint

    map_rows = MemoryRows.map_rows

    def rows_like(self, F: Any) -> Any:
        """Return a row-aligned matrix on the workers, or a small one here, as rows, for products with it."""
        return (DaskRows if isinstance(F, Spread) else MemoryRows)(F, self.dtype, self.n_jobs)

    def _step(self, function: Any, *arguments: Any, others: tuple[Spread, ...] = (), **options: Any) -> Step:
        rows_of = (self.dtype, self.cluster.n_jobs, self.power)
        return step(self.cluster, function, arguments, (self.X, *others), rows_of, **options)

    def _spread(self, F: Any) -> Spread:
        """Return a row-aligned F on the workers; the blocks of one that is here are sent to them."""
        if isinstance(F, Spread):
            return F
        cluster = self.cluster
        bounds = list(itertools.accumulate((sum(heights) for heights in cluster.heights), initial=0))

        def make(group: int) -> Held:
            blocks, lo = [], bounds[group]
            for height in cluster.heights[group]:
                blocks.append({"F": np.asarray(F[lo : lo + height])})
                lo += height
            return Held(cluster.send((blocks, None), cluster.homes[group]), cluster.homes[group])

        return Spread(cluster, cluster.safely(lambda: cluster.source(make)), "F", F.shape[1], F.dtype)

    def scaled(self, power: int, dtype: DType = None) -> DaskRows:
        """Return the same X read as 4^power·X; see `Rows.scaled`."""
        if power == self.power and dtype is None:
            return self
        view = copy.copy(self)
        view.power, view.dtype = power, self.dtype if dtype is None else np.dtype(dtype)
        view._summary = view._view = None
        return view

    @property
    def cut(self) -> str:  # type: ignore[override]
        """What the bits of a fit depend on beside X: its row chunks."""
        heights = [height for group in self.cluster.heights for height in group]
        return f"{len(heights)} row chunks ({zlib.crc32(repr(heights).encode()):08x})"

    def new_rows(self, width: int) -> Any:
        """Return n × width zeros on the workers, in the compute type."""
        return _zeros_like(self.cluster, width, self.dtype)

    def copied(self, W: Any) -> Any:
        """Return W itself: what is on the workers is never written."""
        return W

    def state(self, **arrays: Any) -> Any:
        """Return row-aligned arrays as a state that passes go through."""
        given = {name: self._spread(A) for name, A in arrays.items() if not isinstance(A, _Unfilled)}
        names = tuple(given)
        empty = tuple((name, names[0]) for name, A in arrays.items() if isinstance(A, _Unfilled))
        width = given[names[0]].shape[1]
        whole = self._step(tasks.new_state, names, empty, others=tuple(given.values())).named(None, width, self.dtype)
        return SpreadState(whole, tuple(arrays))

    def to_caller(self, A: Any) -> Any:
        """Return an array of n rows as a Dask array, any other as it is."""
        return A.to_dask() if isinstance(A, Spread) else A

    @property
    def T(self) -> Any:
        """Raise: the columns of X are on all workers."""
        raise NotImplementedError(
            "init='custom' with W but without H needs X by columns, which a Dask array of row chunks does not have: "
            "give H as well."
        )

    @functools.cached_property
    def entries(self) -> int:  # type: ignore[override]
        """Number of stored numbers of X: n·m, of a sparse X fewer."""
        if not self.sparse:
            return self.shape[0] * self.shape[1]
        return int(self.scaled(0)._step(tasks.stored).sums()["entries"][0])

    def take(self, rows: Array, n_jobs: int | None) -> Rows:
        """Return a copy of some rows (increasing numbers), here."""
        parts = [part for part in self._taken(tasks.taken, rows) if part.shape[0]]
        whole = sparse.vstack(parts, format="csr") if sparse.issparse(parts[0]) else np.concatenate(parts)
        return as_rows(whole, self.dtype, n_jobs).scaled(self.power)

    def _taken(self, function: Callable[..., object], rows: Array) -> list[Any]:
        """Return what a function of `tasks` takes of some rows, from each block."""
        extras: list[list[Array]] = []
        lo = 0
        for heights in self.cluster.heights:
            extras.append([])
            for height in heights:
                first, last = np.searchsorted(rows, (lo, lo + height))
                extras[-1].append(rows[first:last] - lo)
                lo += height
        return self.scaled(0)._step(function, extras=extras).named("F", self.shape[1], self.dtype).gather()

    def firsts(self) -> list[int]:
        """Return the number of the first row of each block."""
        heights = itertools.chain.from_iterable(self.cluster.heights)
        return list(itertools.accumulate(heights, initial=0))[:-1]

    def each_block(
        self,
        function: Function,
        rows: Any,
        arguments: Any,
        *,
        width: int,
        sums: Shapes,
        out: Mapping[str, int] | None = None,
        gather: Gather | None = None,
        gathered: tuple[str, ...] = (),
        verify: bool = False,
    ) -> tuple[Any, Named]:
        """Apply a function to every block of rows, see `Rows.each_block`.

        The rows that are written stay on the workers, the sums come here.
        """
        keywords = {"width": width, "sums": sums, "out": out, "gather": gather, "gathered": gathered}
        names: tuple[str, ...] | None = None
        others: tuple[Spread, ...] = ()
        if isinstance(rows, SpreadState):
            others = (rows.whole,)
        else:
            names, others = tuple(rows), tuple(self._spread(F) for F in rows.values())
        passes = 0
        if out is None:
            self.cluster.protect(others[0].values)
            passes = others[0].values.node.passes + 1
        step = self._step(tasks.each_block, names, function, arguments, keywords, others=others, passes=passes)
        after = rows
        if out is None:
            after = SpreadState(step.named(None, others[0].shape[1], self.dtype), rows.names)
        elif out:
            after = SpreadState(step.named(None, max(out.values()), self.dtype), tuple(out))
        return after, step.sums() if sums else {}

    def mapped(self, function: Callable[..., Array], F: Any, *arguments: Any, width: int) -> Any:
        """Return function(rows of F, *arguments), which has `width` columns, on the workers."""
        if not isinstance(F, Spread):  # made here, where X has few rows
            return function(F, *arguments)
        return F.map(tasks.mapped, function, arguments, width=width, dtype=self.dtype)

    def rearranged(self, W: Any, order: Array, scales: Array) -> Any:
        """Return W[:, order]·scales on the workers."""
        return self._spread(W).map(tasks.rearranged, order, scales, width=W.shape[1], dtype=W.dtype)

    def summed(self, function: Callable[..., Array], F: Any, *arguments: Any) -> Array:
        """Return the sum of function(rows of F, *arguments) over the blocks."""
        return F.sums(tasks.summed, function, arguments)["sum"] if isinstance(F, Spread) else function(F, *arguments)

    def drawn(
        self, function: Callable[..., Array], rng: np.random.RandomState, *arguments: Any, width: int,
        given: Any = None,
    ) -> Any:  # fmt: skip
        """Return rows drawn on the workers, block after block, from one generator; see `Rows.drawn`."""
        if isinstance(given, np.ndarray):
            return function(rng, given, *arguments)
        values = self.cluster.draw(function, arguments, rng, None if given is None else given.values)
        return Spread(self.cluster, values, "F", width, self.dtype)

    def digest(self) -> str:
        """Return "": X is identified by its sums and its chunks."""
        return ""
