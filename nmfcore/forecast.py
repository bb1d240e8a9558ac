"""What a fit will take: memory from the plan by which X is cut, and time from a few passes over a small part of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike
from scipy import sparse

from . import rows
from ._typing import Array, DType, Matrix
from .estimators import NMF
from .estimators._validation import check_columns
from .loop.session import Limits
from .loop.solve import factorize
from .objective import beta_of
from .rows.disk import MEMORY, StoredRows, parse_bytes
from .rows.front import READ_AS_THEY_ARE, stand_in
from .rows.memory import MemoryRows, as_rows
from .rows.threads import effective_threads
from .solvers import Solver, make_solver, reads_columns
from .starts.samples import SAMPLES, sample_rows
from .starts.svd import OVERSAMPLES

__all__ = ["Estimate", "estimate"]

PASSES = 26  # that are timed
THOROUGH, WHOLE = 20, 40  # "hals" solves more exactly from this pass on; passes of a fit that the time is a mean of
_FLOPS = 3e9  # of a timed pass, at most: about 50 ms
_LEAST_ROWS = 512
_POPULAR = 10  # columns of a sparse X hold numbers in proportion to 1 / (this + their rank), as words do


class Estimate(NamedTuple):
    """What a fit will take on this machine.

    Attributes
    ----------
    bytes : int
        Memory at the peak: X as it is stored, factors, sums and the start. What Python and its libraries take (about
        200 MB) comes in addition.
    seconds : float
        Time of a pass over X: the mean over the first 40 of a fit. The later ones of "hals" take longer than its first
        20.
    """

    bytes: int
    seconds: float


def estimate(
    shape: tuple[int, int],
    k: int,
    dtype: DTypeLike = np.float64,
    *,
    solver: str = "cd",
    beta_loss: str | float = "frobenius",
    init: str | None = None,
    compute: DType = None,
    stored: int | None = None,
    on_disk: bool = False,
    memory: int | str | None = None,
    n_jobs: int | None = None,
) -> Estimate:
    """Return how much memory and how much time per pass a fit will take on this machine.

    Memory follows from the plan by which X is cut into blocks. A few passes over random numbers of as many columns are
    timed, which takes a second or two.

    Parameters
    ----------
    shape : tuple of (int, int)
        Rows and columns of X.
    k : int
        Number of components.
    dtype : dtype, default=numpy.float64
        Type of the stored numbers of X.
    solver, beta_loss, init
        Parameters of `NMF`.
    compute : {None, numpy.float32, numpy.float64}, default=None
        ``dtype`` of `NMF`: the type of the computations. None is what the type of X leads to.
    stored : int or None, default=None
        Number of stored numbers of a sparse X. None means that X is dense.
    on_disk : bool, default=False
        Whether X stays on the disk, as a memory map or a store.
    memory : int, str or None, default=None
        Parameter of `NMF`, for an X on disk.
    n_jobs : int or None, default=None
        Number of threads, as that of `NMF`.

    Returns
    -------
    estimate : Estimate
        ``bytes`` at the peak, X included unless it is on disk, and ``seconds`` per pass.

    Raises
    ------
    ValueError
        If a parameter is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore import estimate
    >>> found = estimate((70_000, 784), 15, np.uint8, solver="hals")
    >>> 55e6 < found.bytes < 150e6  # 55 MB of them are X
    True
    >>> found.seconds > 0
    True
    """
    n, m = (int(side) for side in shape)
    given = np.dtype(dtype)
    given = given if given in READ_AS_THEY_ARE else np.dtype(np.float64)
    model = NMF(k, solver=solver, beta_loss=beta_loss, init=init, dtype=compute, n_jobs=n_jobs)
    model._check_solver(warn=False)
    if on_disk and reads_columns(solver, beta_of(beta_loss)):
        check_columns(solver, beta_loss, StoredRows.by_rows_only)
    if min(n, m, k) < 1 or (stored is not None and not 0 <= stored <= n * m):
        raise ValueError(f"shape = {shape}, k = {k} and stored = {stored} are those of no factorisation.")
    auto = model._auto and sample_rows(n, m, k) > 0
    options: dict[str, Any] = {"trusted": True} if auto else {}
    used = make_solver(solver, model._penalties((n, m)), beta_of(beta_loss), **options)
    work_type = rows.compute_type(given, compute)
    threads = effective_threads(n_jobs)
    seconds = _seconds((n, m), k, given, work_type, stored, used, n_jobs)
    return Estimate(_bytes((n, m), k, given, work_type, stored, model, used, auto, threads, on_disk, memory), seconds)


# ---- memory --------------------------------------------------------------------------------------


def _bytes(
    shape: tuple[int, int], k: int, given: np.dtype, work_type: np.dtype, stored: int | None, model: NMF,
    solver: Solver, auto: bool, threads: int, on_disk: bool, memory: int | str | None,
) -> int:  # fmt: skip
    (n, m), item = shape, work_type.itemsize
    wide = 8 if (stored or 0) >= 1 << 31 else 4
    X = n * m * given.itemsize if stored is None else stored * (given.itemsize + wide) + n * wide
    held = min(parse_bytes(memory or MEMORY), X) if on_disk else X
    lanes, transposed = _plan(shape, k, given, work_type, stored)
    if on_disk:
        lanes = min(lanes, 2 * threads + 7)  # see `FewSums`
    of_H = k * m * 8
    sums = 0 if transposed else lanes * (of_H + 3 * k * k * 8)
    if transposed or (solver.by_columns and stored is not None):
        held += X if not on_disk else 0
    # The small factor and its sums, in the scale before and after a step.
    small = m * k * ((5 * 8 + 7 * item) if model.solver == "hals" else (8 + 3 * item))
    if solver.by_columns:  # sums by column, Ht of two passes, and tiles with two panels of a factor for each thread
        tile = max(8 * max(n, m) * item, 800 << 10) if stored is None else 0
        sums = of_H + m * (2 * k + 8) * 8 + threads * (tile + 2 * k * max(n, m) * item)
        small = 5 * m * k * item
    names = len(solver.rows(np.zeros((0, k), work_type)))
    others = len({*solver.rows(np.zeros((0, k), work_type))} - {"before"})
    of_W = n * k * item
    fit = (names + others) * of_W + sums + small
    start = of_W
    if auto:  # samples side by side; then a pass from each of their H, beside the best and the last W
        rows_each = sample_rows(n, m, k)
        one = rows_each * (m * given.itemsize if stored is None else int(X / n)) + 3 * rows_each * k * item
        start = max(min(threads, SAMPLES) * one, (names + others + 2) * of_W + sums + small)
    elif model.init != "random":
        width = k + OVERSAMPLES
        start = (4 * n + 3 * m) * width * item
    return int(held + max(fit, start))


def _plan(shape: tuple[int, int], k: int, given: np.dtype, work_type: np.dtype, stored: int | None) -> tuple[int, bool]:
    """Return the number of lanes, and whether the transposed X is kept."""
    sizes: Any = SimpleNamespace(shape=shape, dtype=given, nnz=stored)
    planned = _Sizes(stand_in(sizes), work_type)
    if stored is not None:
        planned.X, planned.sparse = sizes, True
    plan = planned.plan(k)
    return len(plan.lanes), plan.gathers


class _Sizes(MemoryRows):
    """Rows of an X that is not there, to be planned only."""

    def _cut(self, lo: int, hi: int, height: int) -> None:
        return None


# ---- time ----------------------------------------------------------------------------------------


def _seconds(
    shape: tuple[int, int], k: int, given: np.dtype, work_type: np.dtype, stored: int | None, solver: Solver,
    n_jobs: int | None,
) -> float:  # fmt: skip
    (n, m), beta = shape, solver.beta
    each = (m if stored is None or beta not in (1, 2) else 40 * max(1, stored // n)) * 4.0 * k + 4.0 * k * k
    each *= 1 if beta == 2 else 3
    height = int(min(n, max(_LEAST_ROWS, _FLOPS / each)))
    for some in (min(height, 128), height):  # the first one compiles, or loads, the kernels
        X = _like((some, m), k, given, None if stored is None else max(1, stored * some // n))
        data = as_rows(X, work_type, n_jobs)
        if solver.by_columns:
            data = data.by_columns()
        rng = np.random.RandomState(0)
        W, Ht = (rng.random_sample((side, k)).astype(work_type) for side in (some, m))
        solution = factorize(data, solver, W, Ht, Limits(0.0, PASSES), measure=False)
        if solution.interruption is not None:
            solution.interruption.again()
        seconds = solution.history["seconds"]
    return _mean_of_a_pass(np.diff(seconds)) * n / height


def _mean_of_a_pass(seconds: Array) -> float:
    """Return the mean over the passes of a fit, of which fewer were timed; the first one, with the start, is not."""
    early, late = seconds[: THOROUGH - 1], seconds[THOROUGH - 1 :]
    if not len(late):
        return float(early.mean())
    share = (THOROUGH - 1) / (WHOLE - 1)
    return float(share * early.mean() + (1 - share) * late.mean())


def _like(shape: tuple[int, int], k: int, given: np.dtype, stored: int | None) -> Matrix:
    """Return random numbers in which there are k parts: a row is a mixture of a few of them."""
    (n, m), rng = shape, np.random.default_rng(0)
    if stored is not None:
        popularity = 1.0 / np.arange(_POPULAR, m + _POPULAR)
        columns = rng.choice(m, stored, p=popularity / popularity.sum())
        X = sparse.csr_matrix((np.ones(stored), (rng.integers(0, n, stored), columns)), shape=shape)
        X.sum_duplicates()
        return X.astype(given)
    W = (rng.random((n, k), np.float32) ** 4).astype(np.float32)
    H = (rng.random((k, m), np.float32) ** 4).astype(np.float32)
    X = W @ H
    X += 0.1 * X.mean() * rng.random(shape, np.float32)
    if given.kind in "iu":
        X *= min(255, np.iinfo(given).max) / X.max()
    return X.astype(given)
