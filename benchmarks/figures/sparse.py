"""Seconds per iteration on sparse X, on one thread and on all: shapes, shares of stored numbers, types, solvers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from benchmarks.contenders import REFERENCE, Contender, Result, Task, shared_start
from benchmarks.evaluate import check_factors, check_iterates
from benchmarks.harness import Context, Row, compare, per_iteration, whole
from benchmarks.problems import Problem

ABOUT = (
    "One iteration on generated CSR matrices (positions drawn evenly), from a shared start: (time of "
    "`max_iter` − time of 2) / difference, so that Xᵀ, which is made once a fit, drops out. "
    "Both run on one thread, then on all of them; scikit-learn's row is its coordinate descent, also "
    'beside "hals", whose passes do more.'
)
# rows, columns, shares of stored numbers
SHAPES = (
    (2_700, 13_714, (0.001, 0.01, 0.06, 0.1)),
    (36_771, 10_212, (0.003,)),
    (500, 20_000, (0.001, 0.01, 0.06, 0.1)),
    (5_000, 5_000, (0.001, 0.01, 0.06)),
    (20_000, 2_000, (0.001, 0.01, 0.06)),
    (50_000, 500, (0.001, 0.01, 0.06, 0.1)),
)
SMALL = ((60, 200, (0.06,)), (300, 40, (0.01,)))
FULL_ONLY = True
ONE, ALL = 1.0, 1.5  # at least so many times scikit-learn's speed, on one thread and on all


def drawn(n: int, m: int, share: float, dtype: str) -> Problem:
    """Return n × m numbers in (0, 1], of which about that share is stored."""
    rng = np.random.default_rng(0)
    X = sp.random(n, m, share, format="csr", random_state=rng)
    X.data = (1 - X.data).astype(dtype)
    X.sort_indices()
    return Problem(f"random-{n}x{m}-{share:.1%}", sp.csr_matrix(X), True)


def run(context: Context) -> Iterator[list[Row]]:
    cases = [(n, m, share) for n, m, shares in (SMALL if context.smoke else SHAPES) for share in shares]
    for n, m, share in cases:
        for dtype in ("float64",) if context.smoke else ("float64", "float32"):
            problem = drawn(n, m, share, dtype)
            for k in (5,) if context.smoke else (10, 30):
                W0, H0 = shared_start(problem, k)
                task = Task(problem, k, W0=W0, H0=H0)
                yield from _of_case(context, task)


class _Limited(Contender):
    """A contender on the run's threads, scikit-learn always with its own solver "cd"."""

    drop_in = True

    def __init__(self, inner: Contender):
        self.inner, self.name, self.package = inner, inner.name, inner.package

    def _own(self, task: Task) -> Task:
        return replace(task, solver="cd") if self.name == REFERENCE else task

    def unavailable(self) -> str | None:
        return self.inner.unavailable()

    def skip(self, task: Task) -> str | None:
        return self.inner.skip(self._own(task))

    def prepare(self, task: Task) -> Any:
        return self.inner.prepare(task)

    def run(self, task: Task, prepared: Any) -> Result:
        with threadpool_limits(self.threads):
            return self.inner.run(self._own(task), prepared)


def _of_case(context: Context, task: Task) -> Iterator[list[Row]]:
    """Yield the rows of one matrix and k, by solver and number of threads."""
    last = 4 if context.smoke else 2 + _iterations(context, task)
    contenders = {name: _Limited(each) for name, each in context.drop_ins.items()}
    for solver in ("cd", "hals"):
        for threads in sorted({1, context.threads}):
            yield compare(
                replace(context, contenders=contenders, threads=threads),
                replace(task, solver=solver, max_iter=last),
                per_iteration(2),
                check_iterates if solver == "cd" else _checked_elsewhere,
                case=f"{solver} iteration, {threads} thread{'s' if threads > 1 else ''}",
                unit="s/it.",
                repeats=min(context.repeats, 3),
                target={"ratio": ONE if threads == 1 else ALL} if solver == "cd" else None,
            )


def _iterations(context: Context, task: Task) -> int:
    """Return how many of scikit-learn's iterations make a difference that can be told from noise."""
    reference = context.contenders.get(REFERENCE)
    if reference is None:
        return 10
    seconds, _ = whole(reference, replace(task, max_iter=3))
    return int(np.clip(0.9 / seconds, 4, 40))


def _checked_elsewhere(task: Task, result: Result, reference: Result) -> dict[str, Any]:
    """Accept finite factors: what another algorithm reaches is the figure of quality's business."""
    why = check_factors(task, result)
    return {"ok": why is None, "why": why or ""}
