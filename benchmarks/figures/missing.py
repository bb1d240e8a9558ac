"""Missing entries: what a pass costs with a mask, and how near the filled-in entries are to those left out."""

from __future__ import annotations

import gc
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.contenders import Task
from benchmarks.harness import Context, Row, describe_case, summary

ABOUT = (
    "*pass*: seconds of a pass over X with a share of its entries missing at random, over that of a pass over all of X "
    'by the same solver ("none"); the masks are boolean arrays. *held-out error*: 20 % of the entries are hidden; '
    "‖X − X̂‖/‖X‖ over these, for X̂ from `NMF(mask=…)`.impute, the means of the columns, 20 rounds of filling in around "
    "scikit-learn's `NMF` (the mean first, each round begins at the factors of the round before), and iterated "
    "truncated SVD (PCA imputation, 50 rounds); all of them of the same k."
)
SHARES = (0.05, 0.2, 0.5)
TARGET = 1.3  # of a pass at 5 %
HELD_OUT = 0.2
# name, rows, k
CASES = (("cbcl", None, 49), ("mnist", 10_000, 15))
ROUNDS = 20


def run(context: Context) -> Iterator[list[Row]]:
    contender = context.contenders.get("nmfcore")
    for name, rows, k in context.cases(CASES, 1):
        problem = context.problem(name)
        X = problem.X[:rows]
        k = min(k, *X.shape) if not context.smoke else 4
        task = Task(problem, k, solver="hals", call="fit", init="nndsvd", tol=0)
        row = describe_case(task, "", "", "nmfcore")
        if contender is None or contender.unavailable():
            yield [{**row, "status": "skipped", "why": "left out" if contender is None else contender.unavailable()}]
            continue
        for solver in ("cd", "hals"):
            yield _passes(context, {**row, "solver": solver}, X.astype(np.float32), k, solver)
        yield _held_out(context, row, np.asarray(X, np.float64), k)


def _mask(shape: tuple[int, int], share: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


def _seconds(make: Callable[[int], Any], short: int, long: int) -> float:
    """Return seconds per pass: the difference of a long and a short fit."""
    times = []
    for passes in (short, long):
        gc.collect()
        begin = time.perf_counter()
        make(passes)
        times.append(time.perf_counter() - begin)
    return (times[1] - times[0]) / (long - short)


def _passes(context: Context, row: Row, X: np.ndarray, k: int, solver: str) -> list[Row]:
    from nmfcore import NMF

    short, long = (2, 6) if context.smoke else (22, 62)  # "hals" makes more sweeps from pass 20 on
    masks = [None, *(_mask(X.shape, share) for share in SHARES)]

    def fit(mask: np.ndarray | None) -> Callable[[int], Any]:
        settings = {"solver": solver, "init": "random", "random_state": 0, "tol": 0, "n_jobs": context.threads}
        return lambda passes: NMF(k, max_iter=passes, **settings).fit(X, **({} if mask is None else {"mask": mask}))

    rows = []
    values: list[list[float]] = [[] for _ in masks]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for mask in masks:  # compile
                fit(mask)(1)
            for _ in range(min(context.repeats, 3)):
                for mask, measured in zip(masks, values, strict=True):
                    measured.append(_seconds(fit(mask), short, long))
    except Exception as error:
        traceback.print_exc()
        return [{**row, "case": "pass", "status": "FAILED", "why": f"{type(error).__name__}: {error}"}]
    for share, measured in zip((0.0, *SHARES), values, strict=True):
        ratios = [one / none for one, none in zip(measured, values[0], strict=True)]
        each = {**row, "case": f"pass, {100 * share:g} % missing, over none", "unit": "×", "status": "ok"}
        each.update(check={"ok": True, "why": ""}, **summary(ratios))
        each["note"] = f"{1e3 * float(np.median(measured)):.2f} ms"
        if share == SHARES[0] and context.real_size:
            each["target"] = {"value": TARGET}
        rows.append(each)
    return rows


def _held_out(context: Context, row: Row, X: np.ndarray, k: int) -> list[Row]:
    hidden = _mask(X.shape, HELD_OUT, seed=1)
    rows = []
    for name, guess in GUESSES.items():
        each = {**row, "case": "held-out error, 20 % missing", "unit": "", "contender": name}
        gc.collect()
        begin = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                filled = guess(np.where(hidden, np.nan, X), hidden, k, 3 if context.smoke else ROUNDS)
            error = float(np.linalg.norm((filled - X)[hidden]) / np.linalg.norm(X[hidden]))
            each.update(status="ok", check={"ok": True, "why": ""}, **summary([error]))
            each["note"] = f"{time.perf_counter() - begin:.1f} s"
        except Exception as error:
            traceback.print_exc()
            each.update(status="FAILED", why=f"{type(error).__name__}: {error}")
        rows.append(each)
    return rows


def _nmfcore(X: np.ndarray, hidden: np.ndarray, k: int, rounds: int) -> np.ndarray:
    from nmfcore import NMF

    model = NMF(k, solver="hals", random_state=0, max_iter=10 * rounds, missing_values=np.nan)
    return model.fit(X).impute(X)


def _means(X: np.ndarray, hidden: np.ndarray, k: int, rounds: int) -> np.ndarray:
    counts = np.maximum(np.sum(~hidden, axis=0), 1)
    return np.where(hidden, np.nansum(X, axis=0) / counts, X)


def _naive(X: np.ndarray, hidden: np.ndarray, k: int, rounds: int) -> np.ndarray:
    from sklearn.decomposition import NMF

    filled, W, H = _means(X, hidden, k, rounds), None, None
    for number in range(rounds):
        model = NMF(k, init="custom" if number else "nndsvda", random_state=0, max_iter=200)
        W = model.fit_transform(filled, W=W, H=H)
        H = model.components_
        filled = np.where(hidden, W @ H, X)
    return filled


def _pca(X: np.ndarray, hidden: np.ndarray, k: int, rounds: int) -> np.ndarray:
    from sklearn.utils.extmath import randomized_svd

    filled = _means(X, hidden, k, rounds)
    for _ in range(50):
        mean = filled.mean(axis=0)
        U, S, Vt = randomized_svd(filled - mean, k, random_state=0, n_iter=2)
        filled = np.where(hidden, (U * S) @ Vt + mean, X)
    return filled


GUESSES = {
    "nmfcore hals": _nmfcore,
    "column means": _means,
    "naive EM over scikit-learn's NMF": _naive,
    "PCA imputation": _pca,
}
