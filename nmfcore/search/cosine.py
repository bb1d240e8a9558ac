"""Exact cosine search: the rows of a database most like, or least like, each of some queries.

cos(q, x) = ⟨q, x⟩ / (‖q‖·‖x‖); a row of zeros is like nothing: its cosine is 0 with every row.

Panels of queries meet strips of the database; of each strip's approximate scores, while they lie in the nearest caches,
only those that might belong to the best k are looked at again, in float64. No queries × database matrix exists, and the
answer, its order included, is that of float64 scores whatever the panels, the threads and the compute type were. The
layout is that of faiss: J. Johnson, M. Douze, H. Jégou, "Billion-scale similarity search with GPUs", IEEE Trans. Big
Data, 2021.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from .._typing import Array, Matrix
from ..backends import cpu, cuda, cuda_ops
from ..rows.device import as_device_rows
from ..rows.memory import MemoryRows
from ..rows.threads import run_all
from .points import Points, safe_type

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["cosine_topk", "reconstruction_space", "searched"]

PANEL = 480  # most queries that meet the database at once: whole register tiles of the product on every processor
PANEL_BYTES = 2 << 20  # most memory of their factor, which the products read again for every strip of the database
STRIP = 32  # rows of the database whose scores lie in the nearest caches at a time
BLOCK = 1 << 24  # scores between two looks for Ctrl-C
FEW = 4  # queries up to which scores come row by row: a panel would be mostly padding
RUNS = 8  # of the database to share out where queries are few
RUN_WORK = 2e6  # flops that make a run of the database a task of its own (some tenths of a millisecond)
SAMPLE = 512  # first rows of a run, whose scores tell what a row must have to be worth a second look
GROUPS = 64  # of them, of which the best scores count


def cosine_topk(
    queries: Matrix,
    database: Matrix,
    k: int,
    *,
    largest: bool = True,
    threshold: float | None = None,
    allow: ArrayLike | None = None,
    exclude: ArrayLike | None = None,
    n_jobs: int | None = None,
) -> tuple[Array, Array]:
    """Find the k rows of a database with the largest (or smallest) cosine to each query.

    Parameters
    ----------
    queries : array-like, memmap, CSR or CSC matrix, or cupy.ndarray, of shape (q, m), any real type
        What to look for.
    database : array-like, memmap, CSR or CSC matrix, or cupy.ndarray, of shape (n, m), any real type
        Where to look. Dense and sparse, and types, may differ between the two; neither is copied whole.
    k : int
        How many rows to find per query.
    largest : bool
        True finds the most similar rows, False the most dissimilar ones.
    threshold : float or None
        Only rows with a cosine of at least (``largest=False``: at most) this are found.
    allow : array-like of bool of shape (n,), or of int, or None
        The only rows of the database that may be found, by any query: a mask, or row numbers.
    exclude : array-like of int of shape (q,) or (q, e), or None
        Row numbers that a query must not find, itself for instance; −1 stands for none.
    n_jobs : int or None
        Threads, as for `nmfcore.NMF`.

    Returns
    -------
    scores : ndarray of shape (q, k), float64
        Cosines, computed in float64 and clipped to [−1, 1]; the best first, equal ones by row number. A row of zeros
        scores 0. NaN where fewer than k rows were to be found.
    indices : ndarray of shape (q, k), int64
        Row numbers of the database; −1 where there is none. Both are cupy arrays if the database is one.

    Raises
    ------
    ValueError
        If shapes do not fit, k < 1, a row number is out of range, or a number is NaN or infinite.
    TypeError
        If the numbers are not real.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.search.cosine import cosine_topk
    >>> database = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
    >>> scores, indices = cosine_topk([[3.0, 0.0]], database, 2)
    >>> indices.tolist(), scores.round(3).tolist()
    ([[0, 1]], [[1.0, 0.707]])
    >>> cosine_topk(database, database, 1, exclude=np.arange(4))[1].ravel().tolist()
    [1, 0, 1, 0]
    """
    if cuda.kind_of(database) or cuda.kind_of(queries):
        return _on_device(queries, database, k, largest, threshold, allow, exclude)
    found = Points(database, n_jobs, "database")
    return searched(Points(queries, n_jobs, "queries"), found, k, largest, threshold, allow, exclude)


def reconstruction_space(W: ArrayLike, H: ArrayLike) -> Array:
    """Codes whose cosines are those of the reconstructed rows.

    F = W·R with R·Rᵀ = H·Hᵀ, so ⟨F_i, F_j⟩ = ⟨(WH)_i, (WH)_j⟩: indifferent to the scale and the order of components,
    which plain codes are not.

    Parameters
    ----------
    W : array-like of shape (n, k), float32 or float64
        Codes.
    H : array-like of shape (k, m)
        Components.

    Returns
    -------
    F : ndarray of shape (n, k), of W's type

    Raises
    ------
    ValueError
        If W and H do not multiply.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.search.cosine import reconstruction_space
    >>> W, H = np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([[1.0, 0.0, 1.0], [2.0, 1.0, 0.0]])
    >>> F = reconstruction_space(W, H)
    >>> bool(np.allclose(F @ F.T, (W @ H) @ (W @ H).T))
    True
    """
    W, H = np.asarray(W), np.asarray(H)
    if W.ndim != 2 or H.ndim != 2 or W.shape[1] != H.shape[0]:
        msg = f"W {W.shape} and H {H.shape} do not multiply: expected n×k and k×m."
        raise ValueError(msg)
    H = H.astype(np.float64)
    values, vectors = np.linalg.eigh(H @ H.T)  # a Cholesky factor asks for independent components; this does not
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    kind = W.dtype if W.dtype in (np.float32, np.float64) else np.dtype(np.float64)
    return np.asarray(W @ root.astype(kind), kind)


def searched(
    queries: Points,
    database: Points,
    k: int,
    largest: bool,
    threshold: float | None,
    allow: ArrayLike | None,
    exclude: ArrayLike | None,
) -> tuple[Array, Array]:
    """Find the k rows of a database with the largest (or smallest) cosine to each query, see `cosine_topk`.

    Parameters
    ----------
    queries, database : Points
    k : int
    largest : bool
    threshold : float or None
    allow, exclude : array-like or None

    Returns
    -------
    scores : ndarray of shape (q, k), float64
    indices : ndarray of shape (q, k), int64
    """
    q, n = queries.shape[0], database.shape[0]
    _check_request(queries.shape, database.shape, k, threshold)
    allowed, excluded = _allowed(allow, n), _excluded(exclude, q, n)
    sign = 1.0 if largest else -1.0
    floor = -np.inf if threshold is None else sign * float(threshold)
    scores, indices = np.full((q, k), np.nan), np.full((q, k), -1, np.int64)
    if not q or not n:
        return scores, indices
    best, found = (_few if q <= FEW else _panels)(queries, database, k, sign, floor, allowed, excluded)
    merged, rows = best.transpose(1, 0, 2).reshape(q, -1), found.transpose(1, 0, 2).reshape(q, -1)
    order = np.lexsort((np.where(rows < 0, n, rows), -merged), axis=1)[:, :k]
    merged, rows = np.take_along_axis(merged, order, 1), np.take_along_axis(rows, order, 1)
    indices[:] = rows
    scores[:] = np.where(rows < 0, np.nan, sign * merged + 0.0)
    return scores, indices


def _few(
    queries: Points, database: Points, k: int, sign: float, floor: float, allowed: Array, excluded: Array
) -> tuple[Array, Array]:
    """Heaps of sign·cosine and row numbers, runs × q × k, of runs of the database."""
    (q, m), n, data = queries.shape, database.shape[0], database.data
    most = _most(queries, database, sign)
    runs = max(1, min(RUNS, int(8.0 * n * m * q / RUN_WORK)))
    bounds = [n * i // runs for i in range(runs + 1)]
    best, found = np.full((runs, q, k), -np.inf), np.full((runs, q, k), -1, np.int64)
    exact = queries.dense(0, q)

    def task(run: int) -> None:
        block = cpu.cut(data.X, (bounds[run], bounds[run + 1]), 64)
        cpu.scan(
            block, bounds[run], database.squares[bounds[run] : bounds[run + 1]], exact, queries.squares, sign, most,
            floor, allowed, excluded, np.zeros(q, np.int64), best[run], found[run],
        )  # fmt: skip

    run_all(task, runs, min(data.threads, runs))
    return best, found


def _most(queries: Points, database: Points, sign: float) -> float:
    """Return what no sign·cosine exceeds: nothing is less similar than orthogonal where all numbers are nonnegative."""
    return 0.0 if sign < 0 and queries.nonnegative and database.nonnegative else 1.0


def _panels(
    queries: Points, database: Points, k: int, sign: float, floor: float, allowed: Array, excluded: Array
) -> tuple[Array, Array]:
    """Do the same for many queries: panels of them meet the database, strip by strip."""
    (q, m), n, threads = queries.shape, database.shape[0], database.data.threads
    most = _most(queries, database, sign)
    dtype = max(queries.dtype, database.dtype)
    widest = max(16, min(PANEL, PANEL_BYTES // (dtype.itemsize * max(m, 1)) // 48 * 48))
    panels = -(-q // widest)
    if panels > 1:  # as many for every thread: what is found does not depend on the cut
        panels = -(-panels // threads) * threads
    panel = -(-q // panels // 16) * 16
    panels = -(-q // panel)
    # a run of the database begins without limits, so its rows cost more: only as many as keep every thread busy
    runs = max(1, min(-(-threads // panels), int(2.0 * n * m * panel / RUN_WORK)))
    bounds = [n * i // runs for i in range(runs + 1)]
    step = max(STRIP, BLOCK // panel // STRIP * STRIP)
    best, found = np.full((runs, q, k), -np.inf), np.full((runs, q, k), -1, np.int64)
    data = MemoryRows(database.X, dtype)
    longest = int(np.diff(database.X.indptr).max()) if sparse.issparse(database.X) else 0
    margin = _margin(m, dtype, longest)
    needed = k + excluded.shape[1]  # so many groups' best rows hold k that a query may find

    def task(number: int) -> None:
        run, lo = number // panels, number % panels * panel
        hi = min(lo + panel, q)
        exact, squares = queries.dense(lo, hi), queries.squares[lo:hi]
        norms = np.sqrt(squares)
        Qt = np.zeros((m, panel), dtype)
        np.divide(sign * exact.T, norms, out=Qt[:, : hi - lo], where=norms > 0, casting="unsafe")
        limits = np.full(panel, np.inf, dtype)
        limits[: hi - lo] = floor - margin
        begin, end = bounds[run : run + 2]
        sample = slice(begin, min(begin + SAMPLE, end))
        if not allowed.size and needed <= GROUPS // 2 and sample.stop - begin >= 4 * GROUPS:
            scores = np.empty((sample.stop - begin, panel), dtype)
            cpu.products(cpu.cut(data.X, (begin, sample.stop), STRIP), Qt, scores)
            _raise_limits(limits[: hi - lo], scores, database.squares[sample], needed, margin)
        contest = (exact, squares, sign, most, floor, margin, allowed, excluded[lo:hi],
                   limits, np.zeros(hi - lo, np.int64), best[run, lo:hi], found[run, lo:hi])  # fmt: skip
        for first in range(begin, end, step):
            last = min(first + step, end)
            block = cpu.cut(data.X, (first, last), STRIP)
            cpu.nearest(block, first, Qt, database.squares[first:last], *contest)

    run_all(task, runs * panels, min(threads, runs * panels))
    return best, found


def _raise_limits(limits: Array, scores: Array, squares: Array, needed: int, margin: float) -> None:
    """Begin with what `needed` rows of a sample have at least, not with nothing: most rows need no second look."""
    rows = len(scores) // GROUPS * GROUPS
    norms = np.sqrt(squares[:rows, None]).astype(scores.dtype)
    cosines = np.divide(scores[:rows], norms, out=np.zeros_like(scores[:rows]), where=norms > 0)
    best = cosines.reshape(GROUPS, -1, scores.shape[1]).max(axis=1)
    least = np.partition(best, GROUPS - needed, axis=0)[GROUPS - needed, : len(limits)]
    np.maximum(limits, least - np.asarray(2 * margin, scores.dtype), out=limits)


def _on_device(
    queries: Matrix,
    database: Matrix,
    k: int,
    largest: bool,
    threshold: float | None,
    allow: ArrayLike | None,
    exclude: ArrayLike | None,
) -> tuple[Array, Array]:
    """Do the same where the database lives; queries are taken there."""
    kind = cuda.kind_of(database)
    if kind is None:  # the database is the larger part: what is small travels
        return cosine_topk(cuda.to_host(queries), database, k, largest=largest, threshold=threshold,
                           allow=cuda.to_host(allow), exclude=cuda.to_host(exclude))  # fmt: skip
    cuda.resolve(None, database)
    with cuda.context(cuda.device_of(database)):
        xp, found = cuda.cupy(), as_device_rows(database, np.float64)
        backend = cuda_ops
        (q, m), n = queries.shape if hasattr(queries, "shape") else np.shape(queries), found.shape[0]
        _check_request((q, m), found.shape, k, threshold)
        host_allow, host_exclude = _allowed(cuda.to_host(allow), n), _excluded(cuda.to_host(exclude), q, n)
        sign = 1.0 if largest else -1.0
        floor = -np.inf if threshold is None else sign * float(threshold)
        scores, rows = xp.full((q, k), np.nan), xp.full((q, k), -1, np.int64)
        if q and n:
            block = backend.cut(found.X, (0, n))
            of_rows = xp.empty(n)
            backend.squares(block, of_rows)
            looked_for = cuda.on_current_device(cuda.adopt(queries))
            if hasattr(looked_for, "toarray"):
                looked_for = looked_for.toarray()
            looked_for = backend.asarray(looked_for).astype(np.float64)
            of_queries = xp.empty(q)
            backend.squares(backend.cut(looked_for, (0, q)), of_queries)
            dtype = safe_type(cuda.to_host(of_rows), cuda.to_host(of_queries))
            for squares, what in ((of_rows, "database"), (of_queries, "queries")):
                if not bool(xp.isfinite(squares).all()):
                    msg = f"{what} must be finite, but a row holds NaN, infinity, or numbers whose squares overflow."
                    raise ValueError(msg)
            scores, rows = backend.nearest(
                block, of_rows, looked_for, of_queries, k, sign, floor, _margin(m, dtype),
                backend.asarray(host_allow) if host_allow.size else None, backend.asarray(host_exclude), dtype,
            )  # fmt: skip
        return cuda.give_back(scores, kind), cuda.give_back(rows, kind)


def _margin(m: int, dtype: np.dtype, longest: int = 0) -> float:
    """Bound on the error of a score in the compute type.

    Roundings of both numbers, of both norms and of the products, in chains of at most 128 terms (1,024 in float64)
    that are added up one after another, or of the longest row of CSR; Σ|q_j|·|x_j| ≤ 1 for rows of norm 1.
    """
    chain = max(longest, min(m, 1024 if dtype == np.float64 else 128))
    return (chain + -(-m // max(chain, 1)) + 10) * float(np.finfo(dtype).eps)


def _check_request(queries: tuple[int, int], database: tuple[int, int], k: int, threshold: float | None) -> None:
    if queries[1] != database[1]:
        msg = f"queries have {queries[1]} columns, the database {database[1]}: both must be codes of the same model."
        raise ValueError(msg)
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        msg = f"k = {k!r} rows cannot be found: give a whole number of at least 1."
        raise ValueError(msg)
    if threshold is not None and not -np.inf < threshold < np.inf:
        msg = f"threshold = {threshold!r} is no cosine: give a number, -1 to 1, or None."
        raise ValueError(msg)


def _allowed(allow: ArrayLike | None, n: int) -> Array:
    """Return a byte per row of the database; of no length: all rows."""
    if allow is None:
        return np.zeros(0, np.uint8)
    allow = np.asarray(allow)
    if allow.dtype == np.bool_:
        if allow.shape != (n,):
            msg = f"allow is a mask of shape {allow.shape}, the database has {n} rows: give a bool for each."
            raise ValueError(msg)
        return allow.astype(np.uint8)
    allow = _numbers(allow, n, "allow")
    mask = np.zeros(n, np.uint8)
    mask[allow[allow >= 0]] = 1
    return mask


def _excluded(exclude: ArrayLike | None, q: int, n: int) -> Array:
    if exclude is None:
        return np.zeros((q, 0), np.int64)
    exclude = _numbers(np.asarray(exclude), n, "exclude")
    if exclude.ndim not in (1, 2) or len(exclude) != q:
        msg = f"exclude has shape {exclude.shape}: give a row number, or a row of them, for each of the {q} queries."
        raise ValueError(msg)
    return np.ascontiguousarray(exclude.reshape(q, -1))


def _numbers(given: Array, n: int, what: str) -> Array:
    if given.size and given.dtype.kind not in "iu":
        msg = f"{what} must hold row numbers, but its type is {given.dtype}."
        raise ValueError(msg)
    given = given.astype(np.int64)
    if given.size and (given.min() < -1 or given.max() >= n):
        wrong = given[(given < -1) | (given >= n)].ravel()[0]
        msg = f"{what} names row {wrong}, the database has rows 0 to {n - 1}."
        raise ValueError(msg)
    return given
