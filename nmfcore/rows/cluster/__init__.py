"""X as a Dask array on a cluster, as blocks of rows that stay on the workers.

A step sends an order (a function and k-sized arguments) to the workers. A task for each group of blocks applies it to
the group's X and state and makes new values, which stay where they are, and sums, which travel and are added up in a
tree over the numbers of the blocks. Every block is read as rows in memory are, and the tree does not depend on the
workers, so the bits of a result depend on how X is cut into row chunks and on nothing else: not on how many workers
there are, how many threads they have, which of them die, or what is finished first. A fit in memory cuts X elsewhere
and agrees to rounding.

Without an active ``distributed.Client`` there is no cluster: an array that fits into memory is computed with Dask's
threads and factorised as any array in memory is.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import sys
import time
import warnings
from collections.abc import Iterator
from math import inf, isfinite
from typing import NamedTuple

import numpy as np

from ..._files import machine_memory
from ..._typing import Array, DType, MaskLike, Matrix
from . import tasks
from .hidden import Hidden, cut, hidden_in, is_dask, is_sparse, mask_in_blocks, unmasked
from .masked import MaskedDaskRows
from .spread import DaskRows, Spread
from .workers import POLL, Client, Cluster, Future, Held

__all__ = [
    "MaskedDaskRows", "as_dask_rows", "client_of", "hidden_in", "is_dask", "load", "load_with", "mask_in_blocks",
    "on_cluster", "unmasked", "using",
]  # fmt: skip

COPY_EVERY = 25  # passes between copies of the workers' state, each of which costs about one pass where cores are few
# Groups of blocks, a task each: at most two per thread of the cluster, and where it is large (a scheduler needs about a
# millisecond for each of them) at most two per worker, whose threads then share a block.
TASKS_PER_THREAD, TASKS_PER_WORKER, FEW = 2, 2, 64
BLOCKS_SENT, BYTES_SENT = 64, 64 << 20  # of an array that comes from here: how many blocks, and how large
CONNECT = 15  # seconds to wait for a scheduler
ROOM = 0.5  # share of this machine's memory that a Dask array may fill where there is no cluster


class _Settings(NamedTuple):
    client: Client = None
    copy_every: int = COPY_EVERY


_settings: contextvars.ContextVar[_Settings | None] = contextvars.ContextVar("nmfcore_dask", default=None)


@contextlib.contextmanager
def using(client: Client = None, *, copy_every: int = COPY_EVERY) -> Iterator[None]:
    """Have fits of Dask arrays in this block use a client, and copy the workers' state more or less often.

    Parameters
    ----------
    client : distributed.Client or None
        The cluster to compute on; None is the client that Dask has as its current one.
    copy_every : int, default=25
        Passes between copies of W and of the solver's state to a second worker. After a loss at most so many passes
        are made again, for the blocks that were lost.

    Yields
    ------
    None

    Raises
    ------
    ValueError
        If `copy_every` is less than 1.

    Examples
    --------
    >>> import dask.array as da
    >>> from distributed import Client
    >>> from nmfcore import NMF
    >>> from nmfcore.rows.cluster import using
    >>> X = da.random.default_rng(0).random((200, 8), chunks=(50, 8))
    >>> with Client(processes=False, n_workers=1, dashboard_address=":0") as client:
    ...     with using(client, copy_every=5):
    ...         W = NMF(3, random_state=0, max_iter=20, tol=0).fit_transform(X)
    ...     W.shape, W.chunks[0]
    ((200, 3), (50, 50, 50, 50))
    """
    if copy_every < 1:
        msg = f"copy_every = {copy_every} has no meaning: give a number of passes, 1 or more."
        raise ValueError(msg)
    token = _settings.set(_Settings(client, copy_every))
    try:
        with contextlib.nullcontext() if client is None else client.as_current():
            yield
    finally:
        _settings.reset(token)


@contextlib.contextmanager
def on_cluster(X: Array, address: str) -> Iterator[Matrix]:
    """Have fits in this block computed on the cluster of a scheduler.

    Parameters
    ----------
    X : ndarray of shape (n, m)
        Sent to the workers in blocks whose number depends on its shape only.
    address : str
        Address of the scheduler, which it prints when it starts, for example "tcp://host:8786".

    Yields
    ------
    X : dask.array.Array of shape (n, m)

    Raises
    ------
    ConnectionError
        If no scheduler answers there.
    """
    import dask.array as da
    import distributed

    try:
        client = distributed.Client(address, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        msg = f"No Dask scheduler answers at {address!r}: start one with `dask scheduler`, and give what it says."
        raise ConnectionError(msg) from error
    n, m = X.shape
    rows = max(256, min(-(-n // BLOCKS_SENT), BYTES_SENT // max(1, m * X.dtype.itemsize)))
    with client, using(client), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sending large graph", UserWarning)  # it is the data, and it is sent once
        yield client.persist(da.from_array(X, chunks=(rows, m)))


def client_of() -> Client:
    """Return the client to compute on: that of `using`, or Dask's current one; None if there is none.

    Returns
    -------
    client : distributed.Client or None
    """
    settings = _settings.get()
    chosen = None if settings is None else settings.client
    if chosen is None and "distributed" in sys.modules:
        import distributed

        with contextlib.suppress(ValueError):
            chosen = distributed.default_client()
    return chosen


def load(X: Matrix) -> Matrix:
    """Compute a Dask array with Dask's own scheduler, where there is no cluster.

    Parameters
    ----------
    X : dask.array.Array of shape (n, m)

    Returns
    -------
    X : ndarray or CSR matrix of shape (n, m)

    Raises
    ------
    MemoryError
        If it would take more than half of this machine's memory.
    ValueError
        If the computed array has another shape than X declares.
    """
    return load_with(X, [])[0]


def load_with(X: Matrix, masks: list[MaskLike]) -> tuple[Matrix, list[MaskLike]]:
    """Compute a Dask array and its masks, see `load`.

    Parameters
    ----------
    X : dask.array.Array of shape (n, m)
    masks : list of masks
        Those that are Dask arrays are computed together with X.

    Returns
    -------
    X : ndarray or CSR matrix of shape (n, m)
    masks : list of masks
    """
    lazy = [mask for mask in masks if is_dask(mask)]
    held, memory = sum(each.nbytes for each in (X, *lazy)), machine_memory() or inf
    if isfinite(held) and held > memory * ROOM:
        msg = (
            f"X has {held / 1e9:.1f} GB, more than half of this machine's {memory / 1e9:.1f} GB, and there is no "
            "cluster to hold it: start one, client = distributed.Client(…), and call again."
        )
        raise MemoryError(msg)
    import dask.base

    whole, *found = dask.base.compute(X, *lazy)
    if isinstance(whole, np.ma.MaskedArray):  # of which the mask would not be seen
        msg = (
            "Blocks of the Dask array X are masked arrays, and not declared as such: tell what makes the array "
            "(from_delayed, map_blocks) meta=numpy.ma.empty((0, 0))."
        )
        raise ValueError(msg)
    if whole.shape != X.shape and isfinite(X.size):
        msg = f"The blocks of the Dask array X have shape {whole.shape} together, but it is declared as {X.shape}."
        raise ValueError(msg)
    loaded = iter(found)
    return whole, [next(loaded) if is_dask(mask) else mask for mask in masks]


def as_given(W: Array, X: Matrix) -> Matrix:
    """Return an array of n rows as a Dask array in the row chunks of X.

    Parameters
    ----------
    W : ndarray of shape (n, k)
    X : dask.array.Array of shape (n, m)

    Returns
    -------
    W : dask.array.Array of shape (n, k)
    """
    import dask.array as da

    rows = X.chunks[0] if all(isfinite(height) for height in X.chunks[0]) else (W.shape[0],)
    return da.from_array(W, chunks=(rows, (W.shape[1],)))


def check(X: Matrix) -> None:
    """Raise if a Dask array cannot be read as blocks of rows.

    Parameters
    ----------
    X : dask.array.Array
    """
    if X.ndim != 2:
        msg = f"X has {X.ndim} dimensions: give a Dask array of two, a sample a row."
        raise ValueError(msg)
    if not all(isfinite(height) for height in X.chunks[0]):
        msg = "X has row chunks of unknown height: call X.compute_chunk_sizes() first."
        raise ValueError(msg)


def as_dask_rows(X: Matrix, dtype: DType, n_jobs: int | None = None, hidden: Hidden = Hidden()) -> DaskRows:  # noqa: B008
    """X as blocks of rows on the current cluster: its row chunks, loaded once.

    Parameters
    ----------
    X : dask.array.Array of shape (n, m)
        Row chunks of numpy arrays, CSR matrices or CuPy arrays; columns cut into several chunks are put together.
    dtype : numpy.float32 or numpy.float64
        Compute type.
    n_jobs : int or None
        Threads of a task; None shares out those of the workers where there are fewer blocks.
    hidden : Hidden
        What is missing of X. By default nothing is.

    Returns
    -------
    rows : DaskRows
        `MaskedDaskRows` if something may be missing.

    Raises
    ------
    ValueError
        If the heights of chunks are unknown; as soon as the blocks are computed on, if one of them has another shape or
        type than the array declares.
    RuntimeError
        If there is no client, or its cluster stays empty.
    """
    check(X)
    settings, client = _settings.get() or _Settings(), client_of()
    if client is None:
        msg = "There is no Dask cluster: start one with client = distributed.Client(…)."
        raise RuntimeError(msg)
    if X.numblocks[1] > 1:
        X = X.rechunk({1: -1})
    cluster = Cluster(client, [], 1, settings.copy_every)
    try:
        return _loaded(cluster, X, np.dtype(dtype), n_jobs, hidden)
    except BaseException:
        cluster.close()
        raise


def _loaded(cluster: Cluster, X: Matrix, dtype: np.dtype, n_jobs: int | None, hidden: Hidden) -> DaskRows:
    client, held_sparse = cluster.client, is_sparse(X)
    arrays = {"X": X} | {f"mask {number}": lazy for number, lazy in enumerate(hidden.lazy)}
    chunks = _persisted(client, list(arrays.values()))
    cluster.chunks = [chunk for of_array in chunks for chunk in of_array]
    firsts = itertools.accumulate(X.chunks[0], initial=0)
    blocks = [
        [
            (tasks.Declared(number, first, (height, X.shape[1]), A.dtype, is_sparse(A), name), chunk)
            for (name, A), chunk in zip(arrays.items(), of_block, strict=True)
        ]
        for number, (first, height, of_block) in enumerate(
            zip(firsts, X.chunks[0], zip(*chunks, strict=True), strict=False)
        )
        if height
    ]
    while not (there := cluster.workers()):
        cluster.look()
        time.sleep(POLL)
    threads = sum(there.values())
    size = 1  # a power of two: a group's sum is a branch of the tree over blocks
    most = min(TASKS_PER_THREAD * threads, max(TASKS_PER_WORKER * len(there), FEW))
    while -(-len(blocks) // size) > most:
        size *= 2
    groups = [blocks[at : at + size] for at in range(0, len(blocks), size)]
    cluster.heights = [tuple(of_X.shape[0] for (of_X, _), *_ in group) for group in groups]
    cluster.n_jobs = n_jobs if n_jobs is not None and n_jobs > 0 else max(1, threads // len(groups))
    cluster.safely(lambda: cluster.all_finished(cluster.chunks))
    cluster.homes = _homes([[chunk for (_, chunk), *_ in group] for group in groups], client, cluster.workers())

    def make(group: int) -> Held:
        home = cluster.homes[group]
        declared = [[each for each, _ in block] for block in groups[group]]
        chunks = [chunk for block in groups[group] for _, chunk in block]
        if any(chunk.status == "cancelled" for chunk in chunks):
            raise cluster.fail(
                RuntimeError(
                    f"Rows {cluster.rows_of(group)} of X are lost: a worker is gone, Dask cannot load them again, and "
                    f"{cluster.way_back()}"
                )
            )
        masks = cut(hidden, [of_X.first for of_X, *_ in declared], [of_X.shape[0] for of_X, *_ in declared])
        sent = None if masks is None else cluster.send(masks, home)
        return Held(cluster.submit("X", tasks.hold, declared, sent, hidden.value, *chunks, home=home), home)

    whole = Spread(cluster, cluster.source(make), None, X.shape[1], X.dtype)
    if hidden:
        return MaskedDaskRows(whole, dtype, n_jobs, held_sparse, held_sparse and hidden.value == 0)
    return DaskRows(whole, dtype, n_jobs, held_sparse)


def _persisted(client: Client, arrays: list[Matrix]) -> list[list[Future]]:
    """Load the row chunks of Dask arrays where Dask puts them → the futures of each array, in order."""
    import distributed

    held = client.persist(arrays)
    by_key = {str(future.key): future for each in held for future in distributed.futures_of(each)}
    return [[by_key[str(key)] for [key] in each.__dask_keys__()] for each in held]


def _homes(groups: list[list[Future]], client: Client, there: dict[str, int]) -> list[str]:
    """Where each group is to live: with its chunks, unless its worker has more than its share already."""
    has = {str(key): list(who) for key, who in client.who_has([c for group in groups for c in group]).items()}
    share = {worker: -(-len(groups) * threads // sum(there.values())) for worker, threads in there.items()}
    homes = []
    for group in groups:
        owners = [who for chunk in group for who in has.get(str(chunk.key), []) if share.get(who, 0) > 0]
        most = max(owners, key=owners.count) if owners else max(share, key=lambda who: (share[who], who))
        share[most] -= 1
        homes.append(most)
    return homes
