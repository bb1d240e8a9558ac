"""Seconds per iteration on the cat pictures: fewer rows, many columns."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.evaluate import check_iterates
from benchmarks.harness import Context, Row, compare, per_iteration

ABOUT = 'One iteration of `solver="cd"` on 64×64 cat faces, k=50, measured as above.'


def run(context: Context) -> Iterator[list[Row]]:
    for dtype in context.cases(("uint8", "float32", "float64"), smoke=1):
        yield compare(
            context,
            context.task(context.problem("cats", dtype), 50, max_iter=8),
            per_iteration(2),
            check_iterates,
            case="cd iteration",
            unit="s/it.",
            roofline=True,
        )
