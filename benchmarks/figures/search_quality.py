"""Whether a search finds different pictures for different queries, and pictures of the query's class."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.contenders import Task
from benchmarks.harness import Context, Row, describe_case, summary

ABOUT = (
    "*first answers*: how many different pictures come first, of 100 queries. *hubness*: the largest number of times "
    "that a picture is among the ten answers to a query, over what chance gives. *same class*: share of the ten most "
    "similar that have the label of the query. Codes of a fit with hals; the spaces are those of `SearchEngine`."
)
TOP = 10
QUERIES = 2000


def run(context: Context) -> Iterator[list[Row]]:
    from nmfcore import NMF
    from nmfcore.models import model_of
    from nmfcore.search.spaces import SPACES, Space

    for name, k, rows in context.cases((("cats", 50, 6000), ("mnist", 15, 10000)), smoke=1):
        problem = context.problem(name, "uint8")
        X = problem.X[:rows]
        labels = None if problem.generated else _labels(context, name)
        k = min(k, 8) if context.smoke else k
        estimator = NMF(k, solver="hals", max_iter=20 if context.smoke else 200, random_state=0)
        W = estimator.fit_transform(X)
        model = model_of(estimator, W)
        queries = np.unique(np.linspace(0, len(W) - 1, min(QUERIES, len(W))).astype(int))
        found_rows = []
        for space in SPACES:
            index = Space(space, model).index
            points = index[queries]
            for similar in (True, False):
                find = index.search if similar else index.search_dissimilar
                _, found = find(points, TOP, exclude=queries)
                found_rows += _rows(
                    context, Task(problem, k), len(X), f"nmfcore, {space}", similar, found, queries, labels
                )
        yield found_rows


def _labels(context: Context, name: str) -> np.ndarray | None:
    """Return the classes of the pictures, where the set has them."""
    if name != "mnist" or context.folder is None:
        return None
    from nmfcore.images import read_source

    return read_source(context.folder / "mnist" / "train-images-idx3-ubyte.gz").labels


def _rows(
    context: Context, task: Task, n: int, name: str, similar: bool, found: np.ndarray, queries: np.ndarray,
    labels: np.ndarray | None,
) -> Iterator[Row]:  # fmt: skip
    kind = "similar" if similar else "dissimilar"
    spread = np.linspace(0, len(queries) - 1, 100).astype(int)
    often = np.bincount(found.ravel(), minlength=n).max()
    figures = [
        (f"most {kind}: first answers of 100", "", float(len(np.unique(found[spread, 0])))),
        (f"most {kind}: hubness", "×", float(often / (found.size / n))),
    ]
    if similar and labels is not None:
        figures.append((f"most {kind}: same class", "", float((labels[found] == labels[queries][:, None]).mean())))
    for case, unit, value in figures:
        row = describe_case(task, case, unit, name)
        row.update(status="ok", **summary([value]))
        yield row
