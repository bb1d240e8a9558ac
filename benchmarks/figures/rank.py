"""Which k: planted numbers found out of ten, and the time of a whole curve on MNIST."""

from __future__ import annotations

import gc
import time
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.contenders import REFERENCE, Task
from benchmarks.harness import Context, Row, describe_case, pairwise, summary
from benchmarks.problems import Problem

ABOUT = (
    "`select_rank` with its own settings. *Planted*: out of ten seeds, how often it does not find exactly the number "
    "of components that X was made of (0 is best); X = WH with exponential factors, dense or 70 % zeros, with Poisson "
    "noise of a tenth of the power (SNR 10), k ± 4 tried. *Curve*: MNIST, 12 numbers of components from 5 to 60, 3 "
    "repeats of 2×2 folds, columns by tiles of 4×4 pixels; beside it the same loop over scikit-learn's NMF (`cd`, "
    "`nndsvd`, up to 1,000 iterations, float64), extrapolated from one fold of k = 10 and one of k = 40, linear in k. "
    "*Forecast*: `nmfcore.estimate` before the fit, over what the fit then took."
)
FULL_ONLY = True
SEEDS = 10
PLANTED = ((5, 600, 300), (12, 600, 300), (30, 1_500, 600))
CURVE = tuple(range(5, 61, 5))
TIMED = (10, 40)  # of scikit-learn
FORECASTS = (("mnist", 15), ("cats", 50), ("bbc", 20), ("cbcl", 49))


def run(context: Context) -> Iterator[list[Row]]:
    for k, n, m in PLANTED[:1] if context.smoke else PLANTED:
        for share in (1.0, 0.3):
            yield [_noted(context, _planted, k, n, m, share)]
    yield _curve(context)
    for name, k in FORECASTS[:1] if context.smoke else FORECASTS:
        yield [_noted(context, _forecast, name, k)]


def planted(k: int, n: int, m: int, share: float, seed: int) -> np.ndarray:
    """Return an X of k components with a signal-to-noise ratio of 10; factors have so large a share of numbers."""
    rng = np.random.default_rng(seed)
    W, H = rng.exponential(size=(n, k)), rng.exponential(size=(k, m))
    if share < 1:
        W *= rng.random((n, k)) < share
        H *= rng.random((k, m)) < share
    X = W @ H
    scale = 10 * X.mean() / np.mean(X**2)
    return rng.poisson(scale * X) / scale


def _noted(context: Context, make: Any, *arguments: Any) -> Row:
    """Return a row, or what went wrong with it."""
    try:
        return make(context, *arguments)
    except Exception as error:
        traceback.print_exc()
        task = Task(Problem(f"{make.__name__[1:]} {arguments}", np.zeros((1, 1)), True), 1)
        return {**describe_case(task, make.__name__[1:], "", "nmfcore"), "status": "FAILED", "why": repr(error)}


def _planted(context: Context, k: int, n: int, m: int, share: float) -> Row:
    from nmfcore import select_rank

    seeds, found = range(2 if context.smoke else SEEDS), []
    for seed in seeds:
        X = planted(k, n, m, share, seed)
        found.append(select_rank(X, range(max(1, k - 4), k + 5), random_state=seed).best)
    kind = "dense" if share == 1 else f"{1 - share:.0%} zeros"
    row = describe_case(Task(Problem(f"random-planted, {kind}", X, True), k), "planted, seeds missed", "", "nmfcore")
    missed = float(sum(each != k for each in found))
    row.update(status="ok", found=found, check={"ok": True, "why": ""}, **summary([missed]))
    row["note"] = f"{len(found) - int(missed)} of {len(found)} found: {found}"
    if context.real_size:
        row["target"] = {"value": 1.0}
    return row


def _curve(context: Context) -> list[Row]:
    from nmfcore import select_rank

    problem = context.problem("mnist")
    side = int(problem.X.shape[1] ** 0.5)
    ks = CURVE[:3] if context.smoke else CURVE
    task = Task(problem, max(ks), call="select_rank", init=None)
    row = describe_case(task, f"curve of {len(ks)} k, 3 repeats", "s", "nmfcore")
    values = []
    select_rank(problem.X[:2000], [5, 10], repeats=1, rule="min", random_state=0)  # kernels are compiled
    for _ in range(1 if context.smoke else min(2, context.repeats)):
        gc.collect()
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = select_rank(problem.X, ks, tiles=(side, side), random_state=0, n_jobs=context.threads)
        values.append(time.perf_counter() - start)
    row.update(status="ok", check={"ok": True, "why": ""}, **summary(values))
    row["curve"] = {name: getattr(found, name).tolist() for name in ("k", "train", "test", "spread")}
    row["note"] = (
        f"{found!r}; {found.n_rows:,} rows, {len(found.table)} fits, {found.table['n_iter'].mean():.0f} passes each"
    )
    if context.real_size:
        row["target"] = {"value": 120.0}
    other = describe_case(task, f"curve of {len(ks)} k, 3 repeats", "s", REFERENCE)
    contender = context.contenders.get(REFERENCE)
    if contender is None or contender.unavailable():
        return [row, {**other, "status": "skipped", "why": "left out"}]
    timed = ks[:2] if context.smoke else TIMED
    seconds = [_one_fold(problem.X, k, found.n_rows) for k in timed]
    slope = (seconds[1] - seconds[0]) / (timed[1] - timed[0])
    whole = sum(4 * 3 * max(seconds[0] + slope * (k - timed[0]), 0.0) for k in ks)
    other.update(status="ok", check={"ok": True, "why": ""}, **summary([whole]))
    other["note"] = f"extrapolated from {seconds[0]:.1f} s of k = {timed[0]} and {seconds[1]:.1f} s of k = {timed[1]}"
    row["ratio"] = pairwise([whole] * len(values), values)
    return [row, other]


def _one_fold(X: np.ndarray, k: int, rows: int) -> float:
    """Return scikit-learn's seconds for one fold: D fitted, B and C coded, A measured."""
    from sklearn.decomposition import NMF

    rng = np.random.RandomState(0)
    order, columns = rng.permutation(X.shape[0])[:rows], rng.permutation(X.shape[1])
    I, J = np.array_split(order, 2), np.array_split(columns, 2)  # noqa: E741
    A, B, C, D = (X[np.ix_(i, j)] for i in I for j in J)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = NMF(k, init="nndsvd", max_iter=1000, random_state=0)
        W = model.fit_transform(D)
        W_A = model.transform(B)
        swapped = NMF(k, init="random", max_iter=1).fit(C.T[:k])
        swapped.max_iter = 1000
        swapped.components_ = np.ascontiguousarray(W.T)
        swapped.n_features_in_ = C.shape[0]
        H_A = swapped.transform(C.T).T
        np.sum((A - W_A @ H_A) ** 2) / np.sum(np.square(A, dtype=np.float64))
    return time.perf_counter() - start


def _forecast(context: Context, name: str, k: int) -> Row:
    """Return the estimated over the measured time of a pass; the note tells of memory."""
    import tracemalloc

    from nmfcore import NMF, estimate

    problem = context.problem(name)
    X = problem.X
    task = Task(problem, k, solver="hals", call="fit", init=None)
    row = describe_case(task, "forecast of a pass, over its time", "×", "nmfcore")
    stored = int(X.nnz) if problem.sparse else None
    told = estimate(X.shape, k, X.dtype, solver="hals", stored=stored, n_jobs=context.threads)
    model = NMF(k, solver="hals", random_state=0, n_jobs=context.threads, max_iter=40, tol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X[:])
        seconds = model.history_["seconds"]
        again = X[:]  # of a sparse X a copy, which is not of the fit
        tracemalloc.start()
        try:
            model.set_params(max_iter=5).fit(again)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    measured = float(seconds[-1] - seconds[0]) / (len(seconds) - 1)
    held = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes if problem.sparse else X.nbytes
    memory = told.bytes / (peak + held)
    apart = max(memory, 1 / memory)
    row.update(status="ok", memory=memory, **summary([told.seconds / measured]))
    row["check"] = {"ok": True, "why": ""}
    row["note"] = (
        f"told {1e3 * told.seconds:.1f} ms and {told.bytes / 1e6:.0f} MB, found {1e3 * measured:.1f} ms and "
        f"{(peak + held) / 1e6:.0f} MB (memory {apart:.2f} × apart)"
    )
    return row
