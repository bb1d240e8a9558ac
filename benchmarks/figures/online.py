"""A stream: one pass of `MiniBatchNMF.partial_fit` over batches of 1,024 rows, its time and its error."""

from __future__ import annotations

import gc
import time
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import evaluate
from benchmarks.contenders import REFERENCE, Contender, Result, Task
from benchmarks.harness import Context, Row, compare, describe_case, summary

ABOUT = (
    'One pass of `MiniBatchNMF(solver="hals").partial_fit` over a generator of 1,024-row batches of raw uint8 pixels, '
    "and the `transform` of all rows after it, beside scikit-learn's `MiniBatchNMF` on the same generator, and beside "
    "its whole `fit_transform` with its own settings and stop rules; an error above scikit-learn's is `WRONG`. "
    "*Error*: after the pass, over that of "
    '`NMF(solver="hals")` on all rows at once, for the order the rows come in and for shuffled ones; no time is taken.'
)
FULL_ONLY = True
ROWS = 1024
ORDERS = 6
# name, k; those after the first for sanity, without targets
CASES = (("mnist", 15), ("cats", 50), ("cbcl", 49), ("bbc", 20))


def run(context: Context) -> Iterator[list[Row]]:
    problem = context.problem("mnist")
    task = Task(problem, 5 if context.smoke else 15, solver="minibatch", call="fit", init=None, tol=1e-4)
    repeats = min(context.repeats, 2)  # scikit-learn takes minutes
    yield compare(
        context, task, _stream, evaluate.check_quality, case='one pass in batches, then transform; nmfcore: "hals"',
        repeats=repeats, target={"ratio": 5}, warm_up=_begin,
    )  # fmt: skip
    yield compare(
        context, task, _whole_or_stream, evaluate.check_quality,
        case='whole fit_transform; nmfcore: one pass in batches, then transform, "hals"',
        repeats=repeats, target={"ratio": 5}, warm_up=_begin,
    )  # fmt: skip
    for name, k in context.cases(CASES, 1):
        yield [_error(context, name, k)]


def _model(contender: Contender, task: Task) -> Any:
    return contender.estimator(task, **({} if contender.name == REFERENCE else {"solver": "hals"}))


def _learn(model: Any, X: Any) -> float:
    """Learn from X in batches and return the seconds that took."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
        start = time.perf_counter()
        for top in range(0, X.shape[0], ROWS):
            model.partial_fit(X[top : top + ROWS])
        return time.perf_counter() - start


def _stream(contender: Contender, task: Task) -> tuple[float, Result]:
    model, X = _model(contender, task), task.problem.X
    seconds = _learn(model, X)
    start = time.perf_counter()
    W = model.transform(X)
    return seconds + time.perf_counter() - start, Result(W, model.components_, 1)


def _begin(contender: Contender, task: Task) -> tuple[float, Result]:
    """Compile and load what the pass needs."""
    model, X = _model(contender, task), task.problem.X[: 2 * ROWS]
    return _learn(model, X), Result(model.transform(X), model.components_, 1)


def _whole_or_stream(contender: Contender, task: Task) -> tuple[float, Result]:
    if contender.name != REFERENCE:
        return _stream(contender, task)
    model, X = _model(contender, task), task.problem.X
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
        start = time.perf_counter()
        W = model.fit_transform(X)
        return time.perf_counter() - start, Result(W, model.components_, model.n_iter_)


def _error(context: Context, name: str, k: int) -> Row:
    """Return the row of errors after one pass, the given order first."""
    problem = context.problem(name)
    X, k = problem.X, min(k, *problem.X.shape)
    task = Task(problem, k, solver="minibatch", call="fit", init=None, tol=1e-4)
    row = describe_case(task, "error after one pass, over that of all rows at once", "×", "nmfcore hals")
    contender = context.contenders.get("nmfcore")
    if contender is None or contender.unavailable():
        return {**row, "status": "skipped", "why": "left out" if contender is None else contender.unavailable()}
    try:
        full = contender.estimator(Task(problem, k, solver="hals", call="fit", init=None, tol=1e-5, max_iter=1000))
        best = evaluate.loss(X, full.fit_transform(X), full.components_)
        orders = [np.arange(X.shape[0])]
        orders += [np.random.RandomState(seed).permutation(X.shape[0]) for seed in range(ORDERS)]
        errors = []
        for order in orders:
            model = _model(contender, task)
            _learn(model, X[order])
            errors.append(evaluate.loss(X, model.transform(X), model.components_))
    except Exception as error:
        traceback.print_exc()
        return {**row, "status": "FAILED", "why": f"{type(error).__name__}: {error}"}
    ratios = [error / best for error in errors]
    row.update(status="ok", errors=errors, check={"ok": True, "why": ""}, **summary(ratios))
    row["note"] = (
        f"all rows: {best:.6f}; as they come {ratios[0]:.4f} ×, worst {max(ratios):.4f} ×, {len(ratios)} orders"
    )
    if name == "mnist" and context.real_size:
        row["target"] = {"value": 1.01, "max": 1.01}
    return row
