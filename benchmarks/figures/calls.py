"""Whole calls as users make them, on the array they have, each ended by its own stop rule."""

from __future__ import annotations

import gc
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp

from benchmarks import evaluate
from benchmarks.contenders import REFERENCE, Contender, Result, Task
from benchmarks.harness import Context, Row, compare, describe_case, per_iteration, summary, whole

ABOUT = (
    'scikit-learn\'s call beside `solver="hals"` with the same init and with its own, on raw uint8 '
    "pixels (bbc: float64 CSR), whole: validation, conversion, start, final error. Each is ended by "
    "its own stop rule and judged by one evaluator. scikit-learn runs once, nmfcore several times. "
    "*To 1.001 ×*: nmfcore's clock, start included, when its loss first reaches 1.001 × "
    "scikit-learn's final error, against scikit-learn's whole call and against scikit-learn's own "
    "clock at the same target (iterations in chunks continued from the last factors, the clock "
    "stopped while evaluating, finiteness of X checked in the first only; between two chunks by "
    "interpolation). A target with `loss` asks for the final error as well."
)
FULL_ONLY = True
SOLVER = "hals"
WRONG_ABOVE = 1.05  # a final error this many times scikit-learn's is no answer to the same question
HISTORY_MAY_DIFFER = 1e-4  # from the evaluator, relatively: times to a target are read off it


@dataclass(frozen=True)
class Call:
    """scikit-learn's call, and what is asked of nmfcore's with each init."""

    problem: str
    k: int
    init: str | None
    max_iter: int
    own_max_iter: int | None = None  # nmfcore's, where scikit-learn's is a truncation
    inits: tuple[str | None, ...] = ("nndsvd", "auto")
    factor: float = 1.001  # the target is this many times scikit-learn's final error; 0: none
    whole: dict[str | None, dict[str, float]] = field(default_factory=dict)  # targets by init
    single: dict[str | None, dict[str, float]] = field(default_factory=dict)  # … given float32
    reached: dict[str | None, dict[str, float]] = field(default_factory=dict)  # … to the target
    clock: float | None = 10.0  # against scikit-learn's own clock at the target; None: not run

    @property
    def text(self) -> str:
        own = f"; nmfcore's {self.own_max_iter}" if self.own_max_iter else ""
        return f"init={self.init}, max_iter={self.max_iter}{own}"


CALLS = (
    Call(
        "bbc",
        20,
        "nndsvd",
        200,
        whole={init: {"ratio": 10, "loss_ratio": 1.001} for init in ("nndsvd", "auto")},
    ),
    # scikit-learn's default start makes its stop rule fire after two iterations
    Call("cats", 50, None, 200, inits=(None,), whole={None: {"loss_ratio": 0.7}}, factor=0.0),
    Call(
        "cats",
        50,
        "nndsvd",
        20,
        own_max_iter=1000,
        factor=1.0,
        whole={"auto": {"ratio": 1.0, "loss_ratio": 0.99}},
        reached={"nndsvd": {"ratio": 6}, "auto": {"ratio": 10}},
        clock=None,  # its clock at that target is the whole call
    ),
    Call(
        "mnist",
        15,
        "nndsvd",
        1000,
        whole={"nndsvd": {"ratio": 25, "loss_ratio": 1.001}, "auto": {"ratio": 80, "loss_ratio": 1.001}},
        single={"nndsvd": {"ratio": 12, "loss_ratio": 1.001}, "auto": {"ratio": 35, "loss_ratio": 1.001}},
        reached={"auto": {"ratio": 120}},
    ),
    Call(
        "mnist",
        45,
        "nndsvd",
        2000,
        whole={"nndsvd": {"ratio": 30, "loss_ratio": 1.001}, "auto": {"ratio": 80, "loss_ratio": 0.998}},
        reached={"auto": {"ratio": 120}},
    ),
)
SMOKE = (
    Call("mnist", 5, "nndsvd", 20, single={"nndsvd": {"ratio": 1}}),
    Call("bbc", 5, "nndsvd", 20),
)


@dataclass
class Run:
    """One call, timed: the fit, the transform after it, and when the target was reached."""

    seconds: float
    transform: float
    result: Result
    history: tuple[np.ndarray, np.ndarray] | None = None  # seconds since the call, loss


def run(context: Context) -> Iterator[list[Row]]:
    for call in SMOKE if context.smoke else CALLS:
        yield from _call(context, call)
    yield _transform(context)
    yield _epochs(context)


# ---- whole calls ---------------------------------------------------------------------------------


def _call(context: Context, call: Call) -> Iterator[list[Row]]:
    problem = context.problem(call.problem)
    task = Task(problem, call.k, call="fit+transform", init=call.init, tol=1e-4, max_iter=call.max_iter)
    theirs = context.contenders.get(REFERENCE)
    tasks = {REFERENCE: task}
    for init in call.inits:
        own = replace(task, solver=SOLVER, init=init, max_iter=call.own_max_iter or call.max_iter)
        tasks[f"nmfcore {SOLVER}, init={init or 'default'}"] = own
    if theirs is None:
        return
    runs: dict[str, list[Run]] = {}
    notes: dict[str, Row] = {}  # what every row of a contender says
    for label, asked in tasks.items():
        contender = theirs if label == REFERENCE else context.contenders.get("nmfcore")
        reason = "left out by --contenders" if contender is None else contender.unavailable() or contender.skip(asked)
        if reason:
            notes[label] = {"status": "skipped", "why": reason}
            continue
        notes[label], runs[label] = _repeat(context, contender, asked, label, runs.get(REFERENCE))
    if not runs.get(REFERENCE):
        yield [_row(task, call, "whole call", label, notes) for label in tasks]
        return

    reference = runs[REFERENCE][0]
    rows = partial(_rows, context, call, tasks, runs, notes)
    yield rows(f"whole call, {call.text}", {k: [r.seconds for r in v] for k, v in runs.items()}, call.whole)
    both = {k: [r.seconds + r.transform for r in v] for k, v in runs.items()}
    yield rows(f"fit, then transform, {call.text}", both, call.whole)

    if call.factor:
        goal = call.factor * notes[REFERENCE]["error"]
        reached = {k: [_when(r, goal, problem.X) for r in v] for k, v in runs.items() if k != REFERENCE}
        what = f"to {call.factor:g} × scikit-learn's final error"
        if any(reached.values()):
            yield rows(f"{what}, against its whole call", {REFERENCE: [reference.seconds], **reached}, call.reached)
        if call.clock and any(reached.values()):
            clock = scikit_learn_clock(task, goal)
            targets = {init: {"ratio": call.clock} for init in call.inits}
            case = f"{what}, against its clock there"
            yield rows(case, {REFERENCE: [clock], **reached}, {} if clock is None else targets)
    if call.single:
        # the same calls of nmfcore's, scikit-learn given the pixels as float32
        given = replace(task, problem=context.problem(call.problem, np.float32))
        notes[REFERENCE], runs[REFERENCE] = _repeat(context, theirs, given, REFERENCE, None)
        for label in tasks:
            if label != REFERENCE and runs.get(label):
                notes[label]["loss_ratio"] = notes[label]["error"] / notes[REFERENCE]["error"]
        seconds = {k: [r.seconds for r in v] for k, v in runs.items()}
        yield rows(f"whole call, {call.text}, scikit-learn given float32", seconds, call.single)


def _repeat(
    context: Context, contender: Contender, task: Task, label: str, reference: list[Run] | None
) -> tuple[Row, list[Run]]:
    """Warm up, then run: once for scikit-learn, which takes minutes, several times else."""
    facts: Row = {}
    try:
        if label != REFERENCE:
            brief = replace(task, max_iter=1)
            cold, warm = (_timed(contender, brief).seconds for _ in range(2))
            facts["warm_up"] = {"cold_s": cold, "warm_s": warm}
        repeats = 1 if label == REFERENCE else 2 if context.smoke else max(3, context.repeats)
        # a start from a sample depends on the seed: each run draws its own, the worst error counts
        drawn = label != REFERENCE and task.init in ("auto", None)
        runs = [_timed(contender, replace(task, seed=turn if drawn else 0)) for turn in range(repeats)]
    except Exception as error:
        traceback.print_exc()
        return {"status": "FAILED", "why": f"{type(error).__name__}: {error}"}, []
    X, results = task.problem.X, [each.result for each in (runs if drawn else runs[-1:])]
    wrong = next(filter(None, (evaluate.check_factors(task, each) for each in results)), None)
    if wrong:
        return {"status": "WRONG", "why": wrong}, []
    errors = [evaluate.loss(X, each.W, each.H) for each in results]
    codes = [evaluate.loss(X, each.codes, each.H) for each in results]
    facts.update(n_iter=int(results[-1].n_iter), error=max(errors), errors=errors, error_of_codes=max(codes))
    if runs[-1].history is not None:
        told = np.sqrt(2.0 * runs[-1].history[1][-1] / _squares(X))
        if not abs(told - errors[-1]) <= HISTORY_MAY_DIFFER * errors[-1]:
            why = f"its history ends at an error of {told:.6f}, the evaluator finds {errors[-1]:.6f}"
            return {"status": "WRONG", "why": why}, []
    if reference:
        theirs = reference[0].result
        facts["loss_ratio"] = facts["error"] / evaluate.loss(X, theirs.W, theirs.H)
        facts["loss_of_codes_ratio"] = facts["error_of_codes"] / evaluate.loss(X, theirs.codes, theirs.H)
        worst = max(facts["loss_ratio"], facts["loss_of_codes_ratio"])
        if worst > WRONG_ABOVE:
            return {"status": "WRONG", "why": f"its error is {worst:.3f} × scikit-learn's"}, []
    return facts, runs


def _timed(contender: Contender, task: Task) -> Run:
    """Make the call and time fit and transform apart."""
    X = task.problem.X
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
        start = time.perf_counter()
        model = contender.estimator(task)
        W = model.fit_transform(X)
        middle = time.perf_counter()
        codes = model.transform(X)
        end = time.perf_counter()
    history = None
    if contender.name != REFERENCE:
        kept = model.history_["accepted"]
        history = (model.history_["seconds"][kept], model.history_["loss"][kept])
    result = Result(W, model.components_, model.n_iter_, codes)
    return Run(middle - start, end - middle, result, history)


def _when(run: Run, goal: float, X: Any) -> float | None:
    """Return the seconds after which the relative error was at most `goal`, or None."""
    if run.history is None:
        return None
    below = np.flatnonzero(np.sqrt(2.0 * run.history[1] / _squares(X)) <= goal)
    return float(run.history[0][below[0]]) if below.size else None


def _squares(X: Any) -> float:
    """Return the sum of X's squares in float64."""
    values, rows = X.data if sp.issparse(X) else X, 4096
    parts = (values[top : top + rows].astype(np.float64) for top in range(0, len(values), rows))
    return sum(float(np.vdot(part, part)) for part in parts)


def scikit_learn_clock(task: Task, goal: float) -> float | None:
    """Return scikit-learn's seconds to a relative error of at most `goal`, or None.

    It has no way to look at the loss on its way, but its cd has no state besides the factors: one
    iteration from its own start, then chunks continued from the last factors, the loss evaluated
    between them with the clock stopped. X comes as floating point into the chunks after the first
    and is not checked for finiteness again, so that what a single call does once is counted once.
    """
    from sklearn import config_context
    from sklearn.decomposition import non_negative_factorization

    X = task.problem.X
    settings = {"n_components": task.k, "solver": "cd", "tol": 0, "random_state": task.seed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        W, H, done = non_negative_factorization(X, init=task.init, max_iter=1, **settings)
        seconds = time.perf_counter() - start
        X = X if np.issubdtype(X.dtype, np.floating) else X.astype(np.float64)
        error = evaluate.loss(X, W, H)
        if error <= goal:
            return seconds
        while done < task.max_iter:
            steps = min(max(1, done // 16), task.max_iter - done)
            start = time.perf_counter()
            with config_context(assume_finite=True):
                W, H, _ = non_negative_factorization(X, W=W, H=H, init="custom", max_iter=steps, **settings)
            spent = time.perf_counter() - start
            before, error = error, evaluate.loss(X, W, H)
            if error <= goal:
                return seconds + spent * (before - goal) / (before - error)
            done, seconds = done + steps, seconds + spent
    return None


def _rows(
    context: Context,
    call: Call,
    tasks: dict[str, Task],
    runs: dict[str, list[Run]],
    notes: dict[str, Row],
    case: str,
    seconds: dict[str, list[float | None]],
    targets: dict[str | None, dict[str, float]],
) -> list[Row]:
    """Return one row for each contender, with ratios to the reference's single value."""
    rows = []
    base = seconds[REFERENCE][0]
    for label, task in tasks.items():
        row = _row(task, call, case, label, notes)
        rows.append(row)
        if "status" in row:
            continue
        values = seconds.get(label) or [None]
        if any(value is None for value in values):
            row.update(status="not reached", why=f"ended at {notes[label]['error']:.6f}")
            continue
        row.update(status="ok", **summary(values))
        row["limits"] = dict(context.limits.values)
        if label == REFERENCE:
            continue
        if base is not None:
            ratios = [base / value for value in values]
            # of the median of the seconds, since the reference ran once
            row["ratio"] = {"of": REFERENCE, "median": base / row["median"], "min": min(ratios), "max": max(ratios)}
        if targets.get(task.init) and context.real_size:
            row["target"] = targets[task.init]
    return rows


def _row(task: Task, call: Call, case: str, label: str, notes: dict[str, Row]) -> Row:
    row = describe_case(task, case, "s", label)
    facts = notes[label]
    if "status" in facts:
        return {**row, **facts}
    check = {"ok": True, "why": "", **{k: v for k, v in facts.items() if k != "warm_up"}}
    if "fit, then transform" not in case:
        check.pop("loss_of_codes_ratio", None)
    row["check"] = check
    several = len(facts["errors"])
    row["note"] = f"error {facts['error']:.6f}" + (f", the worst of {several} seeds" if several > 1 else "")
    if "warm_up" in facts:
        row["warm_up"] = facts["warm_up"]
    return row


# ---- new rows, and mini-batches ------------------------------------------------------------------


def _transform(context: Context) -> list[Row]:
    """Return rows for the transform of all of MNIST with components fitted on a seventh of it."""
    problem = context.problem("mnist")
    part = replace(problem, X=problem.X[: max(64, len(problem.X) // 7)])
    theirs = context.contenders.get(REFERENCE)
    if theirs is None:
        return []
    H = whole(theirs, Task(part, 15, call="fit", init="nndsvd", max_iter=50))[1].H

    def sample(contender: Contender, task: Task) -> tuple[float, Result]:
        model = contender.estimator(task)
        model.components_ = H.copy()  # both code with the very same components
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
            start = time.perf_counter()
            W = model.transform(task.problem.X)
            seconds = time.perf_counter() - start
        return seconds, Result(W, H, 0)

    return compare(
        context,
        Task(problem, 15, call="fit", init="nndsvd", tol=1e-4),
        sample,
        evaluate.check_quality,
        case=f"transform of {len(problem.X):,} new rows",
        repeats=min(context.repeats, 3),
        target={"ratio": 10},
        warm_up=sample,
    )


def _epochs(context: Context) -> list[Row]:
    """Return rows for an epoch of MiniBatchNMF with its default settings."""
    return compare(
        context,
        context.task(context.problem("mnist"), 15, solver="minibatch", call="fit", max_iter=21),
        per_iteration(1),
        evaluate.check_quality,
        case="epoch of MiniBatchNMF",
        unit="s/epoch",
        repeats=min(context.repeats, 3),
        target={"ratio": 5},
    )
