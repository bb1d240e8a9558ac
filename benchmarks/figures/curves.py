"""Loss over time from one shared start: every contender, every algorithm, a few problems."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from math import log
from pathlib import Path

import numpy as np

from benchmarks import evaluate, plots
from benchmarks.contenders import REFERENCE, Contender, Task
from benchmarks.harness import Context, Row, describe_case, summary, whole

ABOUT = (
    "All algorithms for the Frobenius norm from one shared, read-only start, `tol=0`. Each point of "
    "a curve is a whole call of its own with so many iterations (1, 2, 3, 4, 6, 8, 12, …), "
    "validation and conversion of X included, compilation not (*first call / warm*); the factors it "
    "returned are checked and judged in float64 with the clock stopped. The table tells the seconds "
    "to within 1 % of the least loss anyone found, between two points by interpolation."
)
FULL_ONLY = True
PLOTS = ("curves.png", "summary.png")
# problem, k, storage type, seconds that the last call of a contender may take
PROBLEMS = (
    ("digits", 10, None, 2.0),
    ("cbcl", 49, None, 4.0),
    ("bbc", 20, None, 4.0),
    ("cats", 50, "float32", 8.0),
    ("mnist", 15, "float32", 10.0),
)
SMOKE = (("random-pictures", 5, "float32", 0.05), ("random-text", 5, None, 0.05))
MOST = 3072  # iterations
STALLED = 1e-6  # a rung that lowers the loss by less, relatively, is the last
TOLERANCE = 1e-2


def run(context: Context) -> Iterator[list[Row]]:
    for contender in context.contenders.values():
        contender.unavailable()  # imports it
    gc.collect()
    gc.freeze()  # torch alone brings objects that every later collection would take 0.2 s to visit
    for name, k, dtype, seconds in SMOKE if context.smoke else PROBLEMS:
        task = context.task(context.problem(name, dtype), k, call="fit")
        limit = seconds / 10 if context.quick else seconds
        rows = []
        for contender in context.contenders.values():
            for solver in contender.solvers:
                rows.append(_curve(contender, replace(task, solver=solver), limit, context))
                print(_progress(rows[-1]), file=sys.stderr)
        _judge(rows)
        yield rows


def draw(rows: list[Row], folder: Path) -> list[Path]:
    """Draw the plots of these rows into `folder`; return the paths."""
    over_time, summary_of_all = PLOTS
    return [plots.curves(rows, folder / over_time), plots.profile(rows, folder / summary_of_all)]


def rungs() -> Iterator[int]:
    """Yield 1, 2, 3, 4, 6, 8, 12, …: steps of about √2, so that all calls cost 3.4 × the last."""
    step = 1
    yield 1
    while True:
        yield 2 * step
        yield 3 * step
        step *= 2


def _curve(contender: Contender, task: Task, limit: float, context: Context) -> Row:
    label = f"{contender.name} {task.solver}"
    row = describe_case(task, f"seconds to within {TOLERANCE:.0%}", "s", label)
    reason = contender.unavailable() or contender.skip(task)
    if reason:
        return {**row, "status": "skipped", "why": reason}
    try:
        brief = replace(task, max_iter=1)
        cold, warm = (whole(contender, brief)[0] for _ in range(2))
        row["warm_up"] = {"cold_s": cold, "warm_s": warm}
        points = [(0, 0.0, evaluate.loss(task.problem.X, task.W0, task.H0))]
        for max_iter in rungs():
            seconds, result = whole(contender, replace(task, max_iter=max_iter))
            wrong = evaluate.check_factors(task, result)
            if wrong:
                return {**row, "status": "WRONG", "why": f"after {max_iter} iterations {wrong}"}
            if seconds < 0.1:  # short calls: the least of three tells more of the machine
                seconds = min(seconds, *(whole(contender, replace(task, max_iter=max_iter))[0] for _ in range(2)))
            points.append((max_iter, seconds, evaluate.loss(task.problem.X, result.W, result.H)))
            fall = points[-2][2] - points[-1][2]
            if seconds > limit or 2 * max_iter > MOST or abs(fall) < STALLED * points[-1][2]:
                break
    except Exception as error:
        traceback.print_exc()
        return {**row, "status": "FAILED", "why": f"{type(error).__name__}: {error}"}
    row["points"] = [list(point) for point in points]
    row["precision"] = str(result.W.dtype)
    row["limits"] = dict(context.limits.values)
    return row


def _progress(row: Row) -> str:
    if "points" not in row:
        return f"{row['contender']}: {row['status']}, {row['why']}"
    done, seconds, error = row["points"][-1]
    return f"{row['problem']['name']}, {row['contender']}: {error:.6f} after {done} iterations, {seconds:.3g} s"


def _judge(rows: list[Row]) -> None:
    """Fill in the seconds to the tolerance, and scikit-learn cd's over them."""
    curves = [row for row in rows if "points" in row]
    if not curves:
        return
    least = min(point[2] for row in curves for point in row["points"])
    base = None
    for row in curves:  # the reference's cd comes first
        row["least"] = least
        last = row["points"][-1]
        row["check"] = {"ok": True, "why": "", "n_iter": last[0]}
        row["note"] = f"ended at {last[2] / least:.5f} × the least"
        when = crossing(row["points"], (1 + TOLERANCE) * least)
        if row["contender"] == f"{REFERENCE} cd":
            base = when
        if when is None:
            row.update(status="not reached", why=f"{row.pop('note')} after {last[1]:.3g} s")
            continue
        row.update(status="ok", **summary([when]))
        if base is not None and row["contender"] != f"{REFERENCE} cd":
            row["ratio"] = {"of": f"{REFERENCE} cd", **dict.fromkeys(("median", "min", "max"), base / when)}


def undisturbed(points: list[list[float]]) -> list[list[float]]:
    """Return the points with each time no longer than that of any call with more iterations.

    Each point is a call of its own, and a shared machine disturbs some; what more iterations took
    is a bound that needs no statistics. The records keep the times as measured.
    """
    seconds = np.minimum.accumulate([point[1] for point in points][::-1])[::-1]
    return [[done, float(time), error] for (done, _, error), time in zip(points, seconds, strict=True)]


def crossing(points: list[list[float]], goal: float) -> float | None:
    """Return the seconds at which a curve first comes down to `goal`, or None.

    Between two points the logarithm of the time is interpolated over that of the loss; a call of
    one iteration that is there already counts in full.
    """
    points = undisturbed(points)
    for (_, early, high), (_, late, low) in pairwise(points):
        if low <= goal:
            if early <= 0 or late <= early or high <= goal:
                return float(late)
            share = log(high / goal) / log(high / low)
            return float(np.exp(log(early) + share * log(late / early)))
    return None
