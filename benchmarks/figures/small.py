"""Small data in a warm process: nothing but overhead, and scikit-learn has little of it."""

from __future__ import annotations

import gc
import importlib
import time
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks.contenders import Contender, Result, Task
from benchmarks.evaluate import check_iterates, check_quality
from benchmarks.harness import Context, Row, averaged, compare, per_iteration

ABOUT = (
    "Whole fits of small data in a warm process: a tenth faster than scikit-learn. Each value is the "
    "mean of a few calls in a row; the losses must agree to 1e-6. Search: GridSearchCV over the number of "
    "components of NMF before a logistic regression, with 3 folds of the digits; the mean scores must agree to 0.01."
)
SCORES_MAY_DIFFER = 0.01


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
    if not context.smoke:
        yield compare(
            context,
            context.task(context.problem("digits"), 16, call="fit", init=None, tol=1e-4),
            searched,
            check_scores,
            case="GridSearchCV, k in (8, 16)",
            repeats=max(5, context.repeats),
            target={"ratio": 2.0},
            warm_up=searched,
        )


def searched(contender: Contender, task: Task) -> tuple[float, Result]:
    """Time a search for the number of components, of 6 fits and a last one; its mean scores stand for W."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import Pipeline

    X, y = load_digits(return_X_y=True)
    model = importlib.import_module(contender.module).NMF(max_iter=task.max_iter, tol=task.tol, random_state=task.seed)
    steps = Pipeline([("parts", model), ("classes", LogisticRegression())])
    search = GridSearchCV(steps, {"parts__n_components": [8, task.k]}, cv=3, n_jobs=1)
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # neither library ends all of these fits within max_iter
        start = time.perf_counter()
        search.fit(X, y)
        seconds = time.perf_counter() - start
    best = search.best_estimator_["parts"]
    return seconds, Result(search.cv_results_["mean_test_score"], best.components_, best.n_iter_)


def check_scores(task: Task, result: Result, reference: Result) -> dict[str, Any]:
    """Require the mean scores of the reference, to `SCORES_MAY_DIFFER`."""
    apart = float(np.abs(result.W - reference.W).max())
    why = "" if apart <= SCORES_MAY_DIFFER else f"mean scores differ by {apart:.3f} from the reference's"
    return {"ok": not why, "why": why, "scores_differ_by": apart, "n_iter": int(result.n_iter)}
