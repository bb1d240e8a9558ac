"""Seconds per iteration of coordinate descent on MNIST, same iterates, by storage type of X."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks import plots
from benchmarks.evaluate import check_iterates
from benchmarks.harness import Context, Row, compare, per_iteration

ABOUT = (
    'One iteration of `solver="cd"` from a shared start, `tol=0`: (time of `max_iter` − time of '
    "2) / difference. Both are given the same array. The floor is max(4nmk + 4nk² flops at the "
    "square gemm rate, bytes of X at the read bandwidth), the rates measured at each turn."
)
PLOTS = ("roofline.png",)
# storage type → times faster than scikit-learn given the same array
TARGETS = {"float64": 3.5, "float32": 2.0, "uint8": 5.0, "int64": 5.0}


def run(context: Context) -> Iterator[list[Row]]:
    for k, last in context.cases(((15, 12), (45, 10)), smoke=1):
        for dtype, ratio in TARGETS.items():
            yield compare(
                context,
                context.task(context.problem("mnist", dtype), k, max_iter=last),
                per_iteration(2),
                check_iterates,
                case="cd iteration",
                unit="s/it.",
                target={"ratio": ratio},
                roofline=True,
            )


def draw(rows: list[Row], folder: Path) -> list[Path]:
    """Draw the iterations under the machine's limits."""
    return [plots.roofline(rows, folder / PLOTS[0])]
