"""Seconds per iteration of the multiplicative update, for several beta, dense and sparse."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import problems
from benchmarks.evaluate import check_iterates
from benchmarks.harness import Context, Row, compare, per_iteration

ABOUT = (
    'One iteration of `solver="mu"`, measured as above. Beta ≤ 0 forbids zeros, so X + 1 there. '
    "The floor counts the matrix products only (8nmk flops for beta = 1, 12nmk otherwise; nnz for "
    "nm where X is sparse), powers and logarithms as free."
)
DENSE = (1.0, 0.0, 0.5, 1.5, 3.0, 0.7)  # the last needs a general power
SPARSE = (1.0, 0.5, 0.7)
RATIO = 5.0


def run(context: Context) -> Iterator[list[Row]]:
    dtypes = context.cases(("float64", "float32"), smoke=1)
    cases = [("mnist", 15, beta, dtype) for beta in context.cases(DENSE, smoke=3) for dtype in dtypes]
    cases += [("bbc", 20, beta, "float64") for beta in SPARSE]
    for name, k, beta, dtype in cases:
        problem = context.problem(name, dtype)
        if beta <= 0:
            problem = problems.shifted(problem, 1.0)
        yield compare(
            context,
            # Six iterations more than one: with three, the page faults of scikit-learn's temporaries, which differ from
            # call to call, made its iteration anything between nothing and four times its time.
            context.task(problem, k, solver="mu", beta=beta, max_iter=7),
            per_iteration(1),
            check_iterates,
            case=f"mu iteration, beta={beta:g}",
            unit="s/it.",
            repeats=min(context.repeats, 3),
            target={"ratio": RATIO},
            roofline=True,
        )
