"""The notebooks' whole calls, ended by their own stop rule. Slow: minutes a run."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.evaluate import check_quality
from benchmarks.harness import Context, Row, compare, whole

ABOUT = (
    "The notebooks' calls on raw uint8 pixels as they stand, ended by their own stop rule, fit and "
    "transform of the same X timed as one."
)
FULL_ONLY = True


def run(context: Context) -> Iterator[list[Row]]:
    calls = (
        ("mnist", 15, "nndsvd", 1000),
        ("mnist", 45, "nndsvd", 2000),
        ("cats", 50, "nndsvd", 20),
    )
    for name, k, init, max_iter in context.cases(calls, smoke=1):
        yield compare(
            context,
            context.task(
                context.problem(name),
                k,
                call="fit+transform",
                init=init,
                tol=1e-4,
                max_iter=20 if context.smoke else max_iter,
            ),
            whole,
            check_quality,
            case=f"whole call, init={init}, max_iter={max_iter}",
            repeats=min(context.repeats, 1),
        )
