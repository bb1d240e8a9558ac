"""Final errors on what users have and from shared random starts: which minimum is reached, and how honestly."""

from __future__ import annotations

import gc
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from benchmarks import evaluate, problems, reference
from benchmarks.contenders import REFERENCE, Contender, Result, Task
from benchmarks.harness import Context, Row, describe_case, summary, whole

ABOUT = (
    "Final relative errors ‖X − WH‖/‖X‖, measured in float64. *default call*: nmfcore's `hals` with its own `tol` and "
    "`max_iter` from five seeds (`--quick`: one), over the error of one float64 run of up to 3,000 passes at `tol=0`; "
    "both it and the end of scikit-learn's `cd` from nndsvd, which the same limits hold for, are kept in `ends.json`. "
    "*no flaw*: no component is dead, every `stop_reason_` is true, no accepted loss in `history_` rises by more "
    "than 1e-6 of itself, float32 ends within 1.001 × of float64. uint8 stays uint8 and is computed in float32 or "
    "float64. "
    "*final error* (`--full` measures it): `hals` and `cd` over scikit-learn's (`cd`), all `tol=0, max_iter=1000` in "
    "float64 from the same random starts; scikit-learn's are kept in `reference.json`, and a start "
    "is compared only where its hash and that of X agree. *median* and *worst* are over the starts. "
    "Solver `cd` does scikit-learn's iterates, so one start is enough to check the comparison itself. The notebooks' "
    "calls, ended by their own stop rules, are compared with scikit-learn's kept errors as well."
)
FULL_ONLY = True
# solver → how many of the starts
SOLVERS = {"hals": None, "cd": 1}
TARGET = {"value": 1.0005, "max": 1.005}


SEEDS = 5
INITS = ("auto", "nndsvd")
DTYPES = ("float64", "float32")  # float32 is compared with float64
ENDS_TARGET = {"value": 1.001, "max": 1.005, "flaws": 0}
MOST_RISE = 1e-6  # of a loss in history_, in units of itself


def run(context: Context) -> Iterator[list[Row]]:
    if context.smoke:
        ends: tuple[reference.Ends, ...] = (
            reference.Ends("random-pictures", 4, 200, max_iter=100),
            reference.Ends("random-text", 4, max_iter=100),
        )
        starts: tuple[reference.Starts, ...] = (reference.Starts("random-pictures", 5, 200, 2, max_iter=20),)
    else:
        ends, starts = reference.ENDS, ()
        if context.full:
            starts = reference.STARTS + (() if context.quick else reference.FULL_STARTS)
    kept = {} if context.smoke else reference.read(reference.ENDS_PATH)
    for case in ends:
        if context.only in case.name:
            yield from _ends(context, case, kept)
    known = {} if context.smoke else reference.read()
    for shared in starts:
        if context.only in f"starts: {shared.name}":
            yield list(_rows(context, shared, known))
    if not context.smoke:
        for call in reference.CALLS:
            if context.only in f"call: {call.name}":
                yield [_call(context, call, init, known) for init in dict.fromkeys((call.init, "auto"))]


def _ends(context: Context, case: reference.Ends, kept: dict[str, Any]) -> Iterator[list[Row]]:
    """Yield the rows of a problem that users have, one by one: default calls beside the kept ends."""
    stored = case.load(context.folder)
    contender = context.contenders.get("nmfcore")
    reason = "left out by --contenders" if contender is None else contender.unavailable()
    ends = {}
    for of, end in reference.ENDS_OF.items():
        found = end(case, stored.X) if context.smoke else kept.get(reference.key(case, of=of))
        if found is None:
            reason = reason or f"its {of} is not in ends.json; run.py --reference computes it"
        elif not context.smoke and found["X_sha256"] != reference.digest(stored.X):
            reason = reason or "X is not the X of ends.json" + (", but generated" if stored.stands_in else "")
        else:
            ends[of] = found["error"]
    for init in INITS:
        finer: list[float] = []  # errors in float64
        for dtype in DTYPES:
            problem, asked = stored, np.dtype(dtype)
            if stored.X.dtype.kind == "f":  # else X stays as it is stored, and only the fit is told
                problem, asked = problems.load(case.problem, context.folder, dtype, case.rows), None
            task = Task(problem, case.k, solver="hals", call="fit", init=init, tol=1e-4)
            row = describe_case(task, "default call", "×", f"nmfcore hals, init={init}, {dtype}")
            if reason:
                yield [{**row, "status": "skipped", "why": reason}]
                continue
            try:
                _default_calls(context, contender, task, asked, row, stored.X, ends, finer)
            except Exception as error:
                traceback.print_exc()
                row.update(status="FAILED", why=f"{type(error).__name__}: {error}")
            finer = row.get("errors", [])
            yield [row]


def _default_calls(
    context: Context,
    contender: Contender,
    task: Task,
    dtype: np.dtype | None,
    row: Row,
    X: Any,
    ends: dict[str, float],
    finer: list[float],
) -> None:
    """Fill the row with the ratios of final errors, seed by seed, and with what else is wrong."""
    facts: dict[str, list[Any]] = {
        name: [] for name in ("errors", "n_iter", "seconds", "reasons", "limited", "untrue", "dead", "rises")
    }
    for seed in range(1 if context.smoke or context.quick else SEEDS):
        watch = evaluate.Watch()
        model = contender.estimator(replace(task, seed=seed), dtype=dtype, callback=watch)
        gc.collect()
        begun = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some end by max_iter; that is counted
            W = model.fit_transform(task.problem.X)
        facts["seconds"].append(time.perf_counter() - begun - watch.seconds)
        H = model.components_
        why = evaluate.check_factors(task, Result(W, H, model.n_iter_))
        if why:
            row.update(status="WRONG", why=f"seed {seed}: {why}")
            return
        facts["errors"].append(evaluate.loss(X, W, H))
        facts["n_iter"].append(int(model.n_iter_))
        facts["reasons"].append(model.stop_reason_)
        facts["limited"].append(not model.converged_ and model.n_iter_ == model.max_iter)
        facts["untrue"].append(evaluate.untrue(model, task.problem.X, W, watch))
        facts["dead"].append(evaluate.dead_components(W, H))
        facts["rises"].append(evaluate.largest_rise(evaluate.accepted_losses(model)))
    ratios = [error / ends["long run"] for error in facts["errors"]]
    row.update(status="ok", **facts, **summary(ratios), ends=ends)
    row.update(_judged(row, finer))
    if context.real_size:
        row["target"] = ENDS_TARGET


def _judged(row: Row, finer: list[float]) -> Row:
    """Return the row's note, and its flaws: all that the ratios to the long run do not tell."""
    fits, flaws = len(row["errors"]), []
    beside = [error / row["ends"]["scikit-learn"] for error in row["errors"]]
    if median(beside) > ENDS_TARGET["value"] or max(beside) > ENDS_TARGET["max"]:
        flaws.append(f"FLAW: too far above scikit-learn, worst {max(beside):.6f} ×")
    if any(row["dead"]):
        flaws.append(f"FLAW: {max(row['dead'])} dead components in {np.count_nonzero(row['dead'])} of {fits} fits")
    lies = [why for why in row["untrue"] if why]
    if lies:
        flaws.append(f"FLAW: stop_reason_ untrue in {len(lies)} of {fits} fits: {lies[0]}")
    if not max(row["rises"]) <= MOST_RISE:
        flaws.append(f"FLAW: the loss rises by {max(row['rises']):.1e} of itself")
    note = [
        f"worst {row['max']:.6f} ×",
        f"of scikit-learn's {median(beside):.6f} ×, worst {max(beside):.6f} ×",
        f"{median(row['n_iter']):g} it. in {median(row['seconds']):.3g} s",
    ]
    facts: Row = {"of_scikit_learn": beside, "flaws": flaws}
    limited = sum(row["limited"])
    if limited:
        note.append(f"{limited} of {fits} ended by max_iter")
    if finer:
        facts["of_float64"] = [a / b for a, b in zip(row["errors"], finer, strict=True)]
        note.append(f"of float64's {median(facts['of_float64']):.6f} ×")
        if not median(facts["of_float64"]) <= 1.001:
            flaws.append("FLAW: float32 ends too far above float64")
    return {**facts, "note": ", ".join(note)}


def _call(context: Context, call: reference.Call, init: str | None, known: dict[str, Any]) -> Row:
    """Return the row for a notebook's call with hals and the same init, or with its own."""
    problem = context.problem(call.problem)
    task = Task(problem, call.k, solver="hals", call="fit", init=init, tol=call.tol, max_iter=call.max_iter)
    row = describe_case(task, f"final error of the call {call.name}", "×", f"nmfcore hals, init={init or 'default'}")
    contender = context.contenders.get("nmfcore")
    reason = "left out by --contenders" if contender is None else contender.unavailable() or contender.skip(task)
    kept = known.get(reference.key(call))
    if kept is None:
        reason = reason or "not in reference.json; run.py --reference computes it"
    elif not reason and kept["X_sha256"] != reference.digest(problem.X):
        reason = "X is not the X of reference.json" + (", but generated" if problem.generated else "")
    if reason:
        return {**row, "status": "skipped", "why": reason}
    try:
        _, result = whole(contender, task)
    except Exception as error:
        traceback.print_exc()
        return {**row, "status": "FAILED", "why": f"{type(error).__name__}: {error}"}
    wrong = evaluate.check_factors(task, result)
    if wrong:
        return {**row, "status": "WRONG", "why": wrong}
    error = evaluate.loss(problem.X, result.W, result.H)
    row.update(status="ok", errors=[error], check={"ok": True, "why": "", "n_iter": int(result.n_iter)})
    row.update(summary([error / kept["error"]]))
    row["note"] = f"scikit-learn {kept['n_iter']} it."
    if context.real_size:
        row["target"] = {"value": 1.001}
    return row


def _rows(context: Context, case: reference.Starts, known: dict[str, Any]) -> Iterator[Row]:
    problem = reference.prepare(case, context.folder)
    first = reference.random_start(problem.X, case.k, 0)
    task = Task(problem, case.k, W0=first[0], H0=first[1], call="fit", max_iter=case.max_iter)
    X_hash = reference.digest(problem.X)
    for name, contender in context.drop_ins.items():
        for solver, most in SOLVERS.items():
            if name == REFERENCE:
                continue
            asked = replace(task, solver=solver)
            row = describe_case(asked, "final error", "×", f"{name} {solver}")
            reason = contender.unavailable() or contender.skip(asked)
            if reason:
                row.update(status="skipped", why=reason)
            else:
                starts = min(case.seeds, most or case.seeds, 2 if context.quick else case.seeds)
                _compare(context, contender, asked, row, case, starts, known, X_hash)
            yield row


def _compare(
    context: Context,
    contender: Contender,
    task: Task,
    row: Row,
    case: reference.Starts,
    starts: int,
    known: dict[str, Any],
    X_hash: str,
) -> None:
    """Fill the row with the ratios of final errors, start by start."""
    errors, ratios, missing = [], [], []
    for seed in range(starts):
        W0, H0 = reference.random_start(task.problem.X, case.k, seed)
        asked = replace(task, W0=W0, H0=H0)
        expected, why = _expected(context, asked, case, seed, known, X_hash)
        if expected is None:
            missing.append(why)
            continue
        try:
            _, result = whole(contender, asked)
        except Exception as error:
            traceback.print_exc()
            row.update(status="FAILED", why=f"seed {seed}: {type(error).__name__}: {error}")
            return
        why = evaluate.check_factors(asked, result)
        if why:
            row.update(status="WRONG", why=f"seed {seed}: {why}")
            return
        errors.append(evaluate.loss(task.problem.X, result.W, result.H))
        ratios.append(errors[-1] / expected)
    if not ratios:
        row.update(status="skipped", why=missing[0])
        return
    row.update(status="ok", errors=errors, **summary(ratios))
    row["note"] = f"worst {max(ratios):.6f} ×, best {min(ratios):.6f} ×, {len(ratios)} starts"
    if missing:
        row["note"] += f" ({len(missing)} left out: {missing[0]})"
    if task.solver == "cd" and not np.allclose(ratios, 1.0, atol=1e-6):
        row.update(status="WRONG", why=f"cd must end where scikit-learn does, not at {max(ratios):.8f} ×")
    elif context.real_size:
        row["target"] = TARGET


def _expected(
    context: Context, task: Task, case: reference.Starts, seed: int, known: dict[str, Any], X_hash: str
) -> tuple[float | None, str]:
    """Return scikit-learn's final error from this start, or why there is none to compare with."""
    if context.smoke:  # nothing kept is this small
        result = whole(context.contenders[REFERENCE], replace(task, solver="cd"))[1]
        return evaluate.loss(task.problem.X, result.W, result.H), ""
    kept = known.get(reference.key(case, seed))
    if kept is None:
        return None, "not in reference.json; run.py --reference computes it"
    if kept["X_sha256"] != X_hash:
        return None, "X is not the X of reference.json" + (", but generated" if task.problem.generated else "")
    if kept["start_sha256"] != reference.digest(task.W0, task.H0):
        return None, "the start is not the start of reference.json"
    return kept["error"], ""
