"""Time to a low Kullback-Leibler loss from shared starts: scikit-learn's updates, ours, and coordinate descent."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks import evaluate
from benchmarks.contenders import REFERENCE, Contender, Result, Task
from benchmarks.figures.curves import crossing
from benchmarks.harness import Context, Row, describe_case, summary

ABOUT = (
    "CPU seconds to a Kullback-Leibler loss D from shared random starts, `tol=0`. Each point of a curve is a call of "
    "its own with 16, 32, 64, … iterations, and the seconds to a goal are interpolated between two points; D is "
    "judged in float64 with the clock stopped. Goals: D of scikit-learn's `mu` as its own rule ends it (`tol=1e-4`, at "
    "most 1,000 iterations), and 1.01 and 1.001 × the least D that any of these found from that start, since starts "
    "lead to different minima. Ratios are over the seconds of scikit-learn's own call. `mu+` is `mu` with "
    '`extrapolate=True`, `hals` is `solver="hals", beta_loss="kullback-leibler"`.'
)
FULL_ONLY = True
# problem, k, starts, iterations of the last call of the updates and of coordinate descent
PROBLEMS = (("digits", 16, 3, 1024, 256), ("cbcl", 49, 1, 1024, 256), ("bbc", 20, 1, 512, 128))
SMOKE = (("random-pictures", 3, 1, 32, 32), ("random-text", 3, 1, 32, 32))
OWN_TOL, OWN_MOST = 1e-4, 1000


def run(context: Context) -> Iterator[list[Row]]:
    for name, k, starts, most_mu, most_hals in SMOKE if context.smoke else PROBLEMS:
        problem = context.problem(name, None)
        for seed in range(1 if context.quick else starts):
            task = context.task(problem, k, call="fit", solver="mu", beta=1.0, init="random")
            task = replace(task, init="custom", seed=seed, **_start(problem.X, k, seed))
            own = _own_end(context.contenders[REFERENCE], task)
            curves = [(f"{REFERENCE} mu", _reference(context.contenders[REFERENCE], task, own, most_mu), "")]
            for contender in context.contenders.values():
                for solver in ("mu", "mu+", "hals"):
                    each = replace(task, solver=solver)
                    known = contender.name != REFERENCE and contender.drop_in and contender.unavailable() is None
                    if known and contender.skip(each) is None:
                        curves.append(_curve(contender, each, most_hals if solver == "hals" else most_mu))
            yield _judged(curves, task, own, context)


def _start(X: Any, k: int, seed: int) -> dict[str, np.ndarray]:
    """Return a random start as scikit-learn draws it, positive."""
    rng, scale = np.random.RandomState(seed), np.sqrt(X.mean() / k)
    H, W = (np.abs(scale * rng.standard_normal(shape)) + 1e-6 for shape in ((k, X.shape[1]), (X.shape[0], k)))
    return {"W0": W, "H0": H}


def _timed(contender: Contender, task: Task) -> tuple[float, Result]:
    """Time one call in CPU seconds, which other programs on the machine hardly change."""
    prepared = contender.prepare(task)
    gc.collect()
    begun = time.process_time()
    result = contender.run(task, prepared)
    return time.process_time() - begun, result


def _own_end(contender: Contender, task: Task) -> tuple[float, float, int]:
    """Return seconds, loss and iterations of a call that its own rule ends."""
    seconds, result = _timed(contender, replace(task, tol=OWN_TOL, max_iter=OWN_MOST))
    return seconds, evaluate.loss(task.problem.X, result.W, result.H, 1.0) ** 2 / 2, result.n_iter


def _reference(
    contender: Contender, task: Task, own: tuple[float, float, int], most: int
) -> list[tuple[int, float, float]]:
    """Return the points of scikit-learn: its own end, and `most` iterations if these are more."""
    points = [(0, 0.0, evaluate.loss(task.problem.X, task.W0, task.H0, 1.0) ** 2 / 2), (own[2], own[0], own[1])]
    if own[2] < 0.9 * most:
        seconds, result = _timed(contender, replace(task, max_iter=most))
        points.append((most, seconds, evaluate.loss(task.problem.X, result.W, result.H, 1.0) ** 2 / 2))
    print(f"{task.problem.name}, {contender.name} {task.solver}: {points[1:]}", file=sys.stderr)
    return points


def _curve(contender: Contender, task: Task, most: int) -> tuple[str, list[tuple[int, float, float]], str]:
    """Return the label of a contender, its points (iterations, seconds, loss), and what is wrong with its factors."""
    _timed(contender, replace(task, max_iter=2))  # compiles
    points = [(0, 0.0, evaluate.loss(task.problem.X, task.W0, task.H0, 1.0) ** 2 / 2)]
    iterations, wrong = 16, ""
    while iterations <= most and not wrong:
        seconds, result = _timed(contender, replace(task, max_iter=iterations))
        wrong = evaluate.check_factors(task, result) or ""
        points.append((iterations, seconds, evaluate.loss(task.problem.X, result.W, result.H, 1.0) ** 2 / 2))
        iterations *= 2
    label = f"{contender.name} {task.solver}"
    print(f"{task.problem.name}, {label}: D = {points[-1][2]:.6g} after {points[-1][:2]}", file=sys.stderr)
    return label, points, wrong


def _judged(curves: list[Any], task: Task, own: tuple[float, float, int], context: Context) -> list[Row]:
    """Return a row for each goal and contender."""
    least = min(point[2] for _, points, _ in curves for point in points)
    goals = {
        "to scikit-learn's own end": own[1],
        "to 1.01 × the least": 1.01 * least,
        "to 1.001 × the least": 1.001 * least,
    }
    rows = []
    for goal, loss in goals.items():
        for label, points, wrong in curves:
            row = describe_case(task, f"KL, start {task.seed}, seconds {goal}", "s", label)
            row |= {"goal": loss, "least": least, "points": [list(point) for point in points]}
            row |= {
                "own_end": {"seconds": own[0], "loss": own[1], "n_iter": own[2]},
                "limits": dict(context.limits.values),
            }
            row["check"] = {"ok": not wrong, "why": wrong, "n_iter": points[-1][0]}
            seconds = None if wrong else crossing(row["points"], loss)
            if wrong:
                row.update(status="WRONG", why=wrong)
            elif seconds is None:
                last = points[-1]
                row.update(
                    status="not reached",
                    why=f"{last[2] / least:.4f} × the least after {last[0]} iterations, {last[1]:.3g} s",
                )
            else:
                row.update(status="ok", **summary([seconds]))
                row["ratio"] = {
                    "of": f"{REFERENCE} mu, own end",
                    **dict.fromkeys(("median", "min", "max"), own[0] / seconds),
                }
            rows.append(row)
    return rows
