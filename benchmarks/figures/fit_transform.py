"""fit, then transform of the same X, timed as one, as the notebooks do."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.evaluate import check_quality
from benchmarks.harness import Context, Row, compare, whole

ABOUT = (
    "`NMF(k, tol=1e-4, max_iter=20).fit_transform(X)` and `transform(X)` of the same X, timed as "
    "one whole: validation, start, final error included. The answer passes when neither the fit's "
    "loss nor that of the codes exceeds 1.001 × scikit-learn's."
)


def run(context: Context) -> Iterator[list[Row]]:
    for init in context.cases(("custom", "nndsvd"), smoke=1):
        for dtype in ("uint8", "float64"):
            yield compare(
                context,
                context.task(
                    context.problem("mnist", dtype),
                    15,
                    call="fit+transform",
                    init=init,
                    tol=1e-4,
                    max_iter=20,
                ),
                whole,
                check_quality,
                case=f"fit + transform, init={init}",
                repeats=min(context.repeats, 3),
            )
