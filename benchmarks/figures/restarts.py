"""Restarts: `NMF(n_init=8)`, whose runs share every pass over X, beside one fit, eight fits, and scikit-learn's."""

from __future__ import annotations

import gc
import time
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.contenders import REFERENCE, Contender, Task
from benchmarks.harness import Context, Row, describe_case, summary

ABOUT = (
    "`NMF(k, n_init=8)` in units of one fit: the time of all runs over the mean time of the same eight fits alone, "
    "turn by turn, with the seeds and the start that the runs have. The kept run must be the best of the lone ones, to "
    "the bit, or it is `WRONG`. scikit-learn has no `n_init` for NMF: its row is one fit times eight, from the same "
    "kind of start with as many iterations at `tol=0`. *own stop rules* are `tol=1e-4` and `max_iter=200`, where runs "
    "that are over drop out; the other cases make all their iterations."
)
RUNS = 8
# solver, init, tol, max_iter
CASES = (("hals", "random", 0.0, 60), ("cd", "random", 0.0, 60), ("hals", "auto", 1e-4, 200))
TARGET = {"value": 4.0}


def run(context: Context) -> Iterator[list[Row]]:
    problem = context.problem("mnist")
    for solver, init, tol, max_iter in context.cases(CASES):
        task = Task(
            problem, 5 if context.smoke else 15, solver=solver, call="fit", init=init, tol=tol,
            max_iter=5 if context.smoke else max_iter,
        )  # fmt: skip
        case = f"{RUNS} runs, {'all iterations' if tol == 0 else 'own stop rules'}"
        rows = [_ours(context, task, case)]
        if solver == "cd":
            rows.append(_theirs(context, task, case))
        yield rows


def _ours(context: Context, task: Task, case: str) -> Row:
    row = describe_case(task, case, "× one fit", "nmfcore")
    contender = context.contenders.get("nmfcore")
    reason = "left out by --contenders" if contender is None else contender.unavailable() or contender.skip(task)
    if reason:
        return {**row, "status": "skipped", "why": reason}
    try:
        return {**row, **_measured(context, contender, task)}
    except Exception as error:
        traceback.print_exc()
        return {**row, "status": "FAILED", "why": f"{type(error).__name__}: {error}"}


def _measured(context: Context, contender: Contender, task: Task) -> Row:
    from nmfcore.estimators._restarts import seeds

    chosen = seeds(task.seed, RUNS)
    _fit(contender, task, max_iter=1), _fit(contender, task, max_iter=1, n_init=2)  # compiled, pages touched
    together: list[float] = []
    alone: list[float] = []  # seconds of the lone fits together
    for _ in range(min(context.repeats, 3)):
        seconds, model = _fit(contender, task, n_init=RUNS)
        together.append(seconds)
        fits = [_fit(contender, task, random_state=seed) for seed in chosen]
        alone.append(sum(seconds for seconds, _ in fits))
    best = fits[int(np.argmin(model.init_losses_))][1]
    row: Row = {
        "seconds": together,
        "seconds_alone": alone,
        "n_iter": [int(fit.n_iter_) for _, fit in fits],
        "init_losses": model.init_losses_.tolist(),
        "stability": model.component_stability_.tolist(),
        **summary([RUNS * a / b for a, b in zip(together, alone, strict=True)]),
    }
    if not np.array_equal(model.components_, best.components_):
        return {**row, "status": "WRONG", "why": "the kept run is not the lone fit with its seed"}
    if best.reconstruction_err_ > min(fit.reconstruction_err_ for _, fit in fits):
        return {**row, "status": "WRONG", "why": "the kept run is not the best"}
    row["note"] = f"{np.median(together):.3g} s; {RUNS} fits alone {np.median(alone):.3g} s"
    row["status"] = "ok"
    if context.real_size:
        row["target"] = TARGET
    return row


def _theirs(context: Context, task: Task, case: str) -> Row:
    row = describe_case(task, case, "s", f"{REFERENCE}, one fit × {RUNS}")
    contender = context.contenders.get(REFERENCE)
    reason = "left out by --contenders" if contender is None else contender.unavailable()
    if reason:
        return {**row, "status": "skipped", "why": reason}
    try:
        seconds, model = _fit(contender, task)
    except Exception as error:
        traceback.print_exc()
        return {**row, "status": "FAILED", "why": f"{type(error).__name__}: {error}"}
    return {**row, "status": "ok", "n_iter": [int(model.n_iter_)], **summary([RUNS * seconds])}


def _fit(contender: Contender, task: Task, **changes: Any) -> tuple[float, Any]:
    """Return the seconds of a fit, and the model."""
    model = contender.estimator(task).set_params(**changes)
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # max_iter is reached on purpose
        begun = time.perf_counter()
        model.fit(task.problem.X)
        return time.perf_counter() - begun, model
