"""Missing entries and weights: what a pass costs with them, and how near filled-in entries are to those left out."""

from __future__ import annotations

import gc
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import sparse

from benchmarks.contenders import Task
from benchmarks.harness import Context, Row, describe_case, summary
from benchmarks.problems import Problem

ABOUT = (
    "*pass*: processor seconds of a pass over X with a share of its entries missing at random, over that of a pass "
    'over all of X by the same solver ("none"), of all threads together, which other work on the machine disturbs '
    "least; the masks are boolean arrays. *held-out error*: 20 % of the entries are hidden; ‖X − X̂‖/‖X‖ over these, "
    "for X̂ from `NMF(mask=…)`.impute, the means of the columns, 20 rounds of filling in around scikit-learn's `NMF` "
    "(the mean first, each round begins at the factors of the round before), and iterated truncated SVD (PCA "
    "imputation, 50 rounds); all of them of the same k. *ratings*: counts of which one in 22 is stored and the others "
    "are missing, about as many of a row or column as in MovieLens 1M, made of ten parts with Poisson noise; a tenth "
    "of the stored ones is hidden; `NMF(missing_values=0)` on the CSR matrix, against the means of the columns and "
    "alternating ridge regressions without signs (ALS-WR, 20 rounds, in numpy, one after the other). *weighted*: the "
    "same of a pass with `sample_weight` and `feature_weight`, over that of a pass without."
)
SHARES = (0.05, 0.2, 0.5)
TARGET = 1.3  # of a pass at 5 %
WEIGHTED = 1.2  # the same of a pass with weights
HELD_OUT = 0.2
# name, rows, k
CASES = (("cbcl", None, 49), ("mnist", 10_000, 15))
ROUNDS = 20
RATINGS = (6_040, 3_706, 1_000_209, 10)  # users, films and ratings of MovieLens 1M, and parts
RIDGE = 0.05  # times the number of ratings of a row or column, in both


def run(context: Context) -> Iterator[list[Row]]:
    contender = context.contenders.get("nmfcore")
    for name, rows, k in context.cases(CASES, 1):
        if context.only not in name:
            continue
        problem = context.problem(name)
        if rows is not None and rows < problem.X.shape[0]:
            problem = replace(problem, name=f"{problem.name}[:{rows}]", X=problem.X[:rows])
        X, k = problem.X, min(k, *problem.X.shape) if not context.smoke else 4
        task = Task(problem, k, solver="hals", call="fit", init="nndsvd", tol=0)
        row = describe_case(task, "", "", "nmfcore")
        if contender is None or contender.unavailable():
            yield [{**row, "status": "skipped", "why": "left out" if contender is None else contender.unavailable()}]
            continue
        for solver in ("cd", "hals"):
            yield _passes(context, {**row, "solver": solver}, X.astype(np.float32), k, solver)
            if name == "mnist":
                for stored in ("uint8", "float32", "csr"):
                    yield _weighted(context, {**row, "solver": solver}, X, k, solver, stored)
        yield _held_out(context, row, np.asarray(X, np.float64), k)
    if contender is not None and not contender.unavailable() and context.only in "ratings":
        yield _ratings(context)


def _mask(shape: tuple[int, int], share: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


def _seconds(make: Callable[[int], Any], short: int, long: int) -> float:
    """Return processor seconds per pass: the difference of a long and a short fit."""
    times = []
    for passes in (short, long):
        gc.collect()
        begin = time.process_time()
        make(passes)
        times.append(time.process_time() - begin)
    return (times[1] - times[0]) / (long - short)


def _passes(context: Context, row: Row, X: np.ndarray, k: int, solver: str) -> list[Row]:
    masks = [None, *(_mask(X.shape, share) for share in SHARES)]
    ways = [({}, {} if mask is None else {"mask": mask}) for mask in masks]
    cases = [f"{solver}: pass, {100 * share:g} % missing, over none" for share in (0.0, *SHARES)]
    return _ratios(context, row, X, k, solver, ways, cases, {cases[1]: TARGET})


def _weighted(context: Context, row: Row, X: np.ndarray, k: int, solver: str, stored: str) -> list[Row]:
    rng = np.random.default_rng(0)
    u, v = (rng.random(size) + 0.5 for size in X.shape)
    given = sparse.csr_matrix(X.astype(np.float32)) if stored == "csr" else X.astype(stored)
    case = f"{solver}: pass, weighted, {stored}, over none"
    ways = [({}, {}), ({"feature_weight": v}, {"sample_weight": u})]
    return _ratios(context, row, given, k, solver, ways, ["", case], {case: WEIGHTED})[1:]


def _ratios(
    context: Context, row: Row, X: Any, k: int, solver: str, ways: list[tuple[dict[str, Any], dict[str, Any]]],
    cases: list[str], targets: dict[str, float],
) -> list[Row]:  # fmt: skip
    """Return rows with the time of a pass in each way, (parameters, arguments of `fit`), over that in the first."""
    from nmfcore import NMF

    short, long = (2, 6) if context.smoke else (22, 62)  # "hals" makes more sweeps from pass 20 on

    def fit(parameters: dict[str, Any], arguments: dict[str, Any]) -> Callable[[int], Any]:
        settings = {"solver": solver, "init": "random", "random_state": 0, "tol": 0, "n_jobs": context.threads}
        settings |= {"dtype": np.float32, **parameters}
        return lambda passes: NMF(k, max_iter=passes, **settings).fit(X, **arguments)

    rows = []
    values: list[list[float]] = [[] for _ in ways]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for way in ways:  # compile
                fit(*way)(1)
            for _ in range(min(context.repeats, 3)):
                for way, measured in zip(ways, values, strict=True):
                    measured.append(_seconds(fit(*way), short, long))
    except Exception as error:
        traceback.print_exc()
        failed = {"status": "FAILED", "why": f"{type(error).__name__}: {error}"}
        return [{**row, "case": case, **failed} for case in cases]
    for case, measured in zip(cases, values, strict=True):
        ratios = [one / none for one, none in zip(measured, values[0], strict=True)]
        each = {**row, "case": case, "unit": "×", "status": "ok"}
        each.update(check={"ok": True, "why": ""}, **summary(ratios))
        each["note"] = f"{1e3 * float(np.median(measured)):.2f} ms"
        if case in targets and context.real_size:
            each["target"] = {"value": targets[case]}
        rows.append(each)
    return rows


def _held_out(context: Context, row: Row, X: np.ndarray, k: int) -> list[Row]:
    hidden = _mask(X.shape, HELD_OUT, seed=1)
    rounds = 3 if context.smoke else ROUNDS

    def error_of(guess: Guess) -> float:
        filled = guess(np.where(hidden, np.nan, X), hidden, k, rounds)
        return float(np.linalg.norm((filled - X)[hidden]) / np.linalg.norm(X[hidden]))

    return _compared({**row, "case": "held-out error, 20 % missing"}, GUESSES, error_of)


def _compared(row: Row, contenders: dict[str, Any], error_of: Callable[[Any], float]) -> list[Row]:
    """Return a row for each contender with its error, and in the note its processor seconds."""
    rows = []
    for name, contender in contenders.items():
        each = {**row, "unit": "", "contender": name}
        gc.collect()
        begin = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                error = error_of(contender)
            each.update(status="ok", check={"ok": True, "why": ""}, **summary([error]))
            each["note"] = f"{time.process_time() - begin:.1f} s of processors"
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


# ---- ratings: most entries are missing


def ratings(n: int, m: int, count: int, k: int, seed: int = 0) -> sparse.csr_matrix:
    """Return about so many counts at places of which popular columns and eager rows have more; all are above 0."""
    rng = np.random.default_rng(seed)
    eager, popular = rng.lognormal(0, 1, n), (np.arange(m) + 20.0) ** -0.8
    drawn = rng.poisson(count * eager / eager.sum())
    drawn = np.minimum(np.maximum(drawn, 20), m // 2)
    places = [rng.choice(m, size, replace=False, p=popular / popular.sum()) for size in drawn]
    i, j = np.repeat(np.arange(n), drawn), np.concatenate(places)
    W, H = rng.exponential(size=(n, k)), rng.exponential(size=(k, m))
    means = 3 / k * np.einsum("pt,tp->p", W[i], H[:, j])
    return sparse.csr_matrix((np.maximum(rng.poisson(means), 1).astype(np.float64), (i, j)), shape=(n, m))


def _ratings(context: Context) -> list[Row]:
    n, m, count, k = (200, 100, 6_000, 3) if context.smoke else RATINGS
    X = ratings(n, m, count, k).tocoo()
    hidden = np.random.default_rng(1).random(X.nnz) < 0.1
    shown = sparse.csr_matrix((X.data[~hidden], (X.row[~hidden], X.col[~hidden])), shape=X.shape)
    truth, i, j = X.data[hidden], X.row[hidden], X.col[hidden]
    problem = Problem("random-ratings", shown, True)
    row = describe_case(Task(problem, k, solver="hals", call="fit", init=None), "ratings, 10 % hidden", "", "nmfcore")

    def error_of(factors: Factors) -> float:
        W, H = factors(shown, k)
        return float(np.linalg.norm(np.einsum("pt,tp->p", W[i], H[:, j]) - truth) / np.linalg.norm(truth))

    return _compared(row, FACTORS, error_of)


def _observed(X: sparse.csr_matrix, k: int) -> tuple[np.ndarray, np.ndarray]:
    from nmfcore import NMF

    n, m = X.shape
    of_W, of_H = RIDGE * X.nnz / n / m, RIDGE * X.nnz / m / n  # those that the fit multiplies by m and by n
    model = NMF(
        k, solver="hals", missing_values=0, alpha_W=of_W, alpha_H=of_H, l1_ratio=0, random_state=0, max_iter=200
    )
    return model.fit_transform(X), model.components_


def _column_means(X: sparse.csr_matrix, k: int) -> tuple[np.ndarray, np.ndarray]:
    counts = np.maximum(np.diff(X.tocsc().indptr), 1)
    return np.ones((X.shape[0], 1)), (np.asarray(X.sum(axis=0)).ravel() / counts)[None]


def _ridges(X: sparse.csr_matrix, k: int) -> tuple[np.ndarray, np.ndarray]:
    Xt = X.T.tocsr()
    rng = np.random.default_rng(0)
    Ht = np.sqrt(X.data.mean() / k) * rng.exponential(size=(X.shape[1], k))
    W = np.zeros((X.shape[0], k))
    for _ in range(20):
        for A, F, out in ((X, Ht, W), (Xt, W, Ht)):
            for r in range(A.shape[0]):
                at = slice(A.indptr[r], A.indptr[r + 1])
                f = F[A.indices[at]]
                out[r] = np.linalg.solve(f.T @ f + RIDGE * max(len(f), 1) * np.eye(k), f.T @ A.data[at])
    return W, Ht.T


Guess = Callable[[np.ndarray, np.ndarray, int, int], np.ndarray]
Factors = Callable[[sparse.csr_matrix, int], tuple[np.ndarray, np.ndarray]]
FACTORS: dict[str, Factors] = {"nmfcore hals": _observed, "column means": _column_means, "ALS-WR": _ridges}
