"""X on a cluster with the face of `data.Rows`, and row-aligned arrays whose blocks are on the workers."""

from __future__ import annotations

import copy
import functools
import itertools
import zlib
from collections.abc import Iterator
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse
from sklearn.utils import check_random_state

from ..backends import cpu
from ..loop import solve
from ..rows.memory import Rows, as_rows
from ..rows.opening import Opening
from ..rows.threads import effective_threads
from ..starts.nndsvd import CUT_OFF
from ..starts.svd import OVERSAMPLES
from . import tasks
from .cluster import Cluster, Held, Node, Values

Array = NDArray[Any]


class Spread:
    """A row-aligned array whose blocks are on the workers; never written, so that a copy is the array itself.

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

    def __init__(self, cluster: Cluster, values: Any, name: str | None, width: int, dtype: Any):
        self.cluster, self.values, self.name = cluster, values, name
        self.shape = (sum(map(sum, cluster.heights)), width)
        self.dtype = np.dtype(dtype)

    def copy(self) -> Spread:
        """Return the array itself: nobody writes it."""
        return self

    def astype(self, dtype: Any, copy: bool = True) -> Spread:
        """Return it in another type."""
        if self.dtype == dtype:
            return self
        return self.map(tasks.as_type, np.dtype(dtype), width=self.shape[1], dtype=dtype)

    def times(self, power: int) -> Spread:
        """Return 2^power times it."""
        return self.map(tasks.times_power, power, width=self.shape[1], dtype=self.dtype)

    def sum(self, dtype: Any = None) -> float:
        """Return Σ in float64; NaN once the cluster is gone."""
        return float(self.sums(tasks.sum_of)["sum"][0]) if self.cluster.failure is None else np.nan

    def map(self, function: Any, *arguments: Any, width: int, dtype: Any, others: tuple[Spread, ...] = ()) -> Spread:
        """Apply function(height, extra, block, *others, *arguments) → ({"F": …}, None) to every block."""
        return _step(self.cluster, function, arguments, (self, *others)).named("F", width, dtype)

    def sums(self, function: Any, *arguments: Any, others: tuple[Spread, ...] = ()) -> dict[str, Array]:
        """Apply function(height, extra, block, *others, *arguments) → (None, sums) and add up."""
        return _step(self.cluster, function, arguments, (self, *others)).sums()

    def gather(self) -> list[Any]:
        """Bring the blocks here."""
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
    """What np.empty_like of a `Spread` is, until it becomes a buffer of a state."""

    def __init__(self, like: Spread):
        self.like = like


class _Step(NamedTuple):
    """A step under way."""

    cluster: Cluster
    values: Values

    def named(self, name: str | None, width: int, dtype: Any) -> Spread:
        return Spread(self.cluster, self.values, name, width, dtype)

    def sums(self) -> dict[str, Array]:
        return self.cluster.total(self.values)


def _step(
    cluster: Cluster, function: Any, arguments: tuple[Any, ...], parents: tuple[Any, ...], rows_of: Any = None,
    extras: list[Any] | None = None, passes: int = 0,
) -> _Step:  # fmt: skip
    order = tasks.Order(function, arguments, tuple(parent.name for parent in parents), rows_of)
    node = Node(order, tuple(parent.values.node for parent in parents), extras, passes)
    return _Step(cluster, cluster.safely(lambda: cluster.make(node, [parent.values for parent in parents])))


def _zeros_like(cluster: Cluster, width: int, dtype: Any) -> Spread:
    return _step(cluster, tasks.zeros, (width, np.dtype(dtype)), ()).named("F", width, dtype)


class SpreadState:
    """Row-aligned buffers of a solver on the workers; what `data.RowState` is in memory.

    Parameters
    ----------
    whole : Spread
        Holds all buffers of a block at once.
    names : tuple of str
        Their names.
    """

    def __init__(self, whole: Spread, names: tuple[str, ...]):
        self.whole, self.names = whole, names

    def part(self) -> None:
        """Do nothing: this state has no twin."""

    @property
    def arrays(self) -> dict[str, Spread]:
        """The buffers by their names."""
        return {name: self[name] for name in self.names}

    def __getitem__(self, name: str) -> Spread:
        whole = self.whole
        return Spread(whole.cluster, whole.values, name, whole.shape[1], whole.dtype)


class _Backend:
    """The CPU's operations for what is here, and those on row-aligned arrays for what is not."""

    def __getattr__(self, name: str) -> Any:
        return getattr(cpu, name)

    def asarray(self, F: Any) -> Any:
        return F if isinstance(F, Spread | np.memmap) else cpu.asarray(F)  # rows of a file are sent on

    def to_numpy(self, A: Any) -> Any:
        return np.concatenate(A.gather()) if isinstance(A, Spread) else A

    def gram(self, F: Any, B: Array | None = None) -> Any:
        return F.sums(tasks.gram_of)["sum"] if isinstance(F, Spread) else cpu.gram(F, B)


class DaskRows:
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

    def __init__(self, X: Spread, dtype: Any, n_jobs: int | None = None, sparse: bool = False):
        self.X, self.dtype, self.n_jobs, self.sparse = X, np.dtype(dtype), n_jobs, sparse
        self.shape: tuple[int, int] = X.shape
        self.cluster = X.cluster
        self.backend: Any = _Backend()
        self.threads = effective_threads(n_jobs)
        self._seen: Opening | None = None
        self._view: DaskRows | None = None  # see `data.Rows`

    power = 0
    map_rows = Rows.map_rows

    def beside(self, F: Any) -> Any:
        """Return a row-aligned matrix on the workers, or a small one here, as rows, for products with it."""
        return (DaskRows if isinstance(F, Spread) else Rows)(F, self.dtype, self.n_jobs)

    def _step(self, function: Any, *arguments: Any, others: tuple[Spread, ...] = (), **options: Any) -> _Step:
        rows_of = (self.dtype, self.cluster.n_jobs, self.power)
        return _step(self.cluster, function, arguments, (self.X, *others), rows_of, **options)

    def _spread(self, F: Any) -> Spread:
        """F of n rows, which may be here: then its blocks are sent to the workers."""
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

    def scaled(self, power: int, dtype: Any = None) -> DaskRows:
        """Return the same X read as 4^power·X; see `data.Rows.scaled`."""
        if power == self.power and dtype is None:
            return self
        view = copy.copy(self)
        view.power, view.dtype = power, self.dtype if dtype is None else np.dtype(dtype)
        view._seen = view._view = None
        return view

    in_memory = False  # see `data.Rows`
    folder = None

    @property
    def cut(self) -> str:
        """What the bits of a fit depend on, beside X: its row chunks."""
        heights = [height for group in self.cluster.heights for height in group]
        return f"{len(heights)} row chunks ({zlib.crc32(repr(heights).encode()):08x})"

    def new_rows(self, width: int) -> Spread:
        """Return n × width zeros on the workers, in the compute type."""
        return _zeros_like(self.cluster, width, self.dtype)

    def copied(self, W: Any) -> Any:
        """Return W itself: what is on the workers is never written."""
        return W

    def state(self, **arrays: Any) -> SpreadState:
        """Return row-aligned buffers as `reduce` takes them."""
        given = {name: self._spread(A) for name, A in arrays.items() if not isinstance(A, _Unfilled)}
        names = tuple(given)
        empty = tuple((name, names[0]) for name, A in arrays.items() if isinstance(A, _Unfilled))
        width = given[names[0]].shape[1]
        whole = self._step(tasks.new_state, names, empty, others=tuple(given.values())).named(None, width, self.dtype)
        return SpreadState(whole, tuple(arrays))

    def give_back(self, A: Any) -> Any:
        """Return an array as the caller is to have it: of n rows as a Dask array."""
        return A.to_dask() if isinstance(A, Spread) else A

    def check_loss(self, beta: float) -> None:
        """Raise nothing: the CPU has all kernels, and a GPU's will say what they lack."""

    @property
    def T(self) -> Any:
        """Raise: the columns of X are on all workers."""
        raise NotImplementedError(
            "init='custom' with W but without H needs X by columns, which a Dask array of row chunks does not have: "
            "give H as well."
        )

    @property
    def entries(self) -> int:
        """How many numbers of X are stored; 0 for sparse X, whose entries are not counted."""
        return 0 if self.sparse else self.shape[0] * self.shape[1]

    def take(self, rows: Array, n_jobs: int | None) -> Rows:
        """Return a copy of some rows (increasing numbers), here."""
        extras: list[list[Array]] = []
        lo = 0
        for heights in self.cluster.heights:
            extras.append([])
            for height in heights:
                first, last = np.searchsorted(rows, (lo, lo + height))
                extras[-1].append(rows[first:last] - lo)
                lo += height
        parts = self.scaled(0)._step(tasks.taken, extras=extras).named("F", self.shape[1], self.dtype).gather()
        parts = [part for part in parts if part.shape[0]]
        whole = sparse.vstack(parts, format="csr") if sparse.issparse(parts[0]) else np.concatenate(parts)
        return as_rows(whole, self.dtype, n_jobs).scaled(self.power)

    def reduce(
        self, visit: Any, state: Any, orders: Any, sums: dict[str, tuple[int, ...]], gather: Any = None,
        gathered: tuple[str, ...] = (),
    ) -> tuple[SpreadState, dict[str, Array]]:  # fmt: skip
        """One pass; see `data.Rows.reduce`. The new rows stay on the workers, the sums come here."""
        before = state.whole
        self.cluster.protect(before.values)
        passes = before.values.node.passes + 1
        step = self._step(tasks.one_pass, visit, orders, sums, gather, gathered, others=(before,), passes=passes)
        return SpreadState(step.named(None, before.shape[1], self.dtype), state.names), step.sums()

    def opening(self) -> Opening:
        """Minimum, finiteness, Σx and Σx² in one pass (cached)."""
        if self._seen is None:
            sums = self._step(tasks.look).sums()
            bad, total, squares = sums["rest"].tolist()
            self._seen = Opening(
                float(sums["least"][0]), not bad, total, squares, total / (self.shape[0] * self.shape[1])
            )
        return self._seen

    def digest(self) -> str:
        """Return nothing: X is known by its sums and its chunks."""
        return ""

    def not_finite(self) -> Array:
        """Return an array with what X holds that is not finite, for the error that says so."""
        return np.array([np.nan if self._step(tasks.has_nan).sums()["nan"][0] else np.inf])

    def products(self, Ht: Array) -> Spread:
        """X·Ht of shape (n, k), in the compute type, on the workers."""
        return self._step(tasks.products, np.asarray(Ht)).named("F", Ht.shape[1], self.dtype)

    def transposed_products(self, F: Any) -> Array:
        """Xᵀ·F of shape (m, k), float64."""
        return self._step(tasks.transposed_products, others=(self._spread(F),)).sums()["sum"]

    def gram(self) -> Array:
        """XᵀX of shape (m, m), float64, of dense X."""
        return self._step(tasks.gram_of_X).sums()["sum"]

    def divergence(self, W: Any, Ht: Array, beta: float) -> float:
        """D_β(X | WH), see `objective.divergence`; NaN once the cluster is gone."""
        if self.cluster.failure is not None:
            return np.nan
        return float(self._step(tasks.divergence_of, Ht, beta, others=(self._spread(W),)).sums()["sum"][0])

    def code(self, solver: Any, Ht: Array, *, tol: float, max_iter: int, by_step: bool) -> solve.Coded:
        """Rows of W for a fixed H, each solved for alone, see `solve.code`."""
        step = self._step(tasks.codes, solver, Ht, tol, max_iter, by_step)
        sums = step.sums()
        W = step.named("F", Ht.shape[1], self.dtype)
        return solve.Coded(W, int(sums["most"][0]), int(sums["unsettled"][0]))  # type: ignore[arg-type]

    # ---- starts

    def initialize(self, k: int, init: str, random_state: Any, unit: float = 1.0) -> tuple[Spread, Array]:
        """Make factors to begin with as `initialization.initialize` does, W on the workers; n ≥ m for NNDSVD."""
        mean, rng = self.opening().mean, check_random_state(random_state)
        if init == "random":
            scale = np.sqrt(mean / k)
            H = scale * rng.standard_normal(size=(k, self.shape[1])).astype(self.dtype, copy=False)
            drawn = self.cluster.draw(tasks.normal, (k, scale, self.dtype), rng)
            W = Spread(self.cluster, drawn, "F", k, self.dtype)
            return W, np.ascontiguousarray(np.abs(H.astype(self.dtype, copy=False)).T)
        U, S, Vt = self._svd(k, rng)
        cut_off, mean = CUT_OFF * unit, mean / unit
        signs, scales, H = _nndsvd_parts(np.sqrt(U.sums(tasks.squares_of_parts)["sum"]), S, Vt, cut_off)
        fill = mean if init == "nndsvda" else 0.0
        W = U.map(tasks.signed_parts, signs, scales, fill, cut_off, width=k, dtype=self.dtype)
        if init == "nndsvda":
            H[H == 0] = mean
        elif init == "nndsvdar":
            rng = check_random_state(random_state)
            W = Spread(self.cluster, self.cluster.draw(tasks.fill_zeros, (mean,), rng, W.values), "F", k, self.dtype)
            zeros = H == 0
            H[zeros] = abs(mean * rng.standard_normal(size=int(zeros.sum())) / 100)
        return W, np.ascontiguousarray(H.T)

    def _svd(self, k: int, rng: Any) -> tuple[Spread, Array, Array]:
        """Find triplets in the subspaces of `initialization.randomized_svd`, tall ones made orthonormal by Grams."""
        (n, m), width = self.shape, k + OVERSAMPLES
        Q = rng.normal(size=(m, width)).astype(self.dtype, copy=False)
        for _ in range(7 if k < 0.1 * min(n, m) else 4):
            back = self.transposed_products(self._orthonormal(self.products(Q)))
            aligned = np.require(back, requirements="A")  # what the network has brought need not be
            Q = linalg.lu(aligned, permute_l=True, check_finite=False)[0]
            Q = np.ascontiguousarray(Q, self.dtype)
        Y = self._orthonormal(self._orthonormal(self.products(Q)))
        B = self.transposed_products(Y).T
        small, S, Vt = linalg.svd(B, full_matrices=False, check_finite=False, lapack_driver="gesdd")
        U = Y.map(tasks.times_small, np.ascontiguousarray(small[:, :k]), width=k, dtype=self.dtype)
        return U, S[:k].astype(self.dtype), np.ascontiguousarray(Vt[:k], self.dtype)

    def _orthonormal(self, Y: Spread) -> Spread:
        """Columns that span what those of Y span; zero where the Gram matrix cannot tell a direction from nothing."""
        values, E = linalg.eigh(self.backend.gram(Y))
        sigma = np.sqrt(np.maximum(values, 0))
        tiny = sigma <= sigma[-1] * sqrt(np.finfo(self.dtype).eps)
        T = np.where(tiny, 0.0, E / np.where(tiny, 1.0, sigma))
        return Y.map(tasks.times_small, np.ascontiguousarray(T), width=T.shape[1], dtype=self.dtype)


def _nndsvd_parts(norms_U: Array, S: Array, Vt: Array, cut_off: float) -> tuple[Array, Array, Array]:
    """H of an NNDSVD, and by which sign and scale columns of U become W; see `initialization.nndsvd`."""
    signs, scales, H = np.ones_like(S), np.zeros_like(S), np.zeros_like(Vt)
    scales[0] = np.sqrt(S[0])
    H[0] = np.sqrt(S[0]) * np.abs(Vt[0])
    for j in range(1, S.size):
        parts = []
        for nu, sign in zip(norms_U[:, j], (1, -1), strict=True):
            vp = np.maximum(sign * Vt[j], 0)
            nv = np.sqrt(np.dot(vp, vp))
            parts.append((nu * nv, sign, nu, vp, nv))
        weight, sign, nu, vp, nv = parts[0] if parts[0][0] > parts[1][0] else parts[1]
        if weight == 0:
            continue
        factor = np.sqrt(S[j] * weight)
        signs[j], scales[j] = sign, factor / nu
        H[j] = factor * (vp / nv)
    H[np.less(H, cut_off)] = 0
    return signs, scales, H
