"""Small data in a warm process: nothing but overhead, and scikit-learn has little of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.evaluate import check_iterates, check_quality
from benchmarks.harness import Context, Row, averaged, compare, per_iteration

ABOUT = (
    "Whole fits of small data in a warm process: a tenth faster than scikit-learn. Each value is the "
    "mean of a few calls in a row; the losses must agree to 1e-6."
)


def run(context: Context) -> Iterator[list[Row]]:
    repeats = 2 if context.smoke else max(20, context.repeats)
    fits = (
        # the constructor's defaults: init=None (nndsvda), tol=1e-4, max_iter=200
        ("digits", 10, 1, {"init": None, "tol": 1e-4}),
        ("random-100x50", 5, 10, {"init": None, "tol": 1e-4}),
        ("random-100x50", 5, 10, {"init": "custom", "tol": 1e-4}),
        ("random-20x10", 3, 10, {"init": None, "tol": 1e-4}),
    )
    for name, k, calls, settings in context.cases(fits):
        yield compare(
            context,
            context.task(context.problem(name), k, call="fit", **settings),
            averaged(calls),
            partial(check_quality, limit=1e-6),
            case=f"whole fit, init={settings['init']}",
            repeats=repeats,
            target={"ratio": 1.1},
        )
    for name, k in context.cases((("random-100x50", 5), ("digits", 10)), smoke=1):
        yield compare(
            context,
            context.task(context.problem(name), k, max_iter=220),
            per_iteration(20),
            check_iterates,
            case="cd iteration",
            unit="s/it.",
            repeats=repeats,
            target={"ratio": 1.0},
        )
