"""Final errors from shared random starts, relative to scikit-learn's: which minimum is reached."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks import evaluate, reference
from benchmarks.contenders import REFERENCE, Contender, Task
from benchmarks.harness import Context, Row, describe_case, summary, whole

ABOUT = (
    "Final relative error ‖X − WH‖/‖X‖ over scikit-learn's (`cd`), both `tol=0, max_iter=1000` in "
    "float64 from the same random starts; scikit-learn's are kept in `reference.json`, and a start "
    "is compared only where its hash and that of X agree. *median* and *worst* are over the starts. "
    "No time is taken. `--quick`: two starts of each, without the full data sets. Solver `cd` does "
    "scikit-learn's iterates, so one start is enough to check the comparison itself. The notebooks' "
    "calls, ended by their own stop rules, are compared with scikit-learn's kept errors as well."
)
FULL_ONLY = True
# solver → how many of the starts
SOLVERS = {"hals": None, "cd": 1}
TARGET = {"value": 1.0005, "max": 1.005}


def run(context: Context) -> Iterator[list[Row]]:
    if context.smoke:
        cases = (reference.Starts("random-pictures", 5, 200, 2, max_iter=20),)
    else:
        cases = reference.STARTS + (() if context.quick else reference.FULL_STARTS)
    known = {} if context.smoke else reference.read()
    for case in cases:
        yield list(_rows(context, case, known))
    if not context.smoke:
        for call in reference.CALLS:
            yield [_call(context, call, init, known) for init in dict.fromkeys((call.init, "auto"))]


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
