"""Where default calls of hals end on what users have: beside a long float64 run, and what they say of themselves.

The cheap part of ``benchmarks/run.py --figures quality``, with its problems and its evaluator: one seed, small sets
that are generated or come with scikit-learn.
"""

import sys
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from nmfcore import NMF
from nmfcore.solvers import accelerated_hals

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks/ is no part of the package

from benchmarks import evaluate, problems

# name: (X, k, passes of the long run)
PROBLEMS = {
    "china patches": (lambda: problems.china(None), 60, 1000),
    "spectra, 2 % noise": (lambda: problems.spectra(1000, 150, 0.02), 10, 3000),
    "spectra, 0.5 % noise": (lambda: problems.spectra(1000, 150, 0.005), 10, 3000),
    "counts": (lambda: problems.topics(500, 2000, 0.06), 10, 1000),
    "digits": (lambda: problems.digits(None), 16, 1000),
}
every_problem = pytest.mark.parametrize("name", PROBLEMS)
every_init = pytest.mark.parametrize("init", ["auto", "nndsvd"])
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


@cache
def stored(name):
    return PROBLEMS[name][0]()


@cache
def long_run(name):
    """Return the relative error of one float64 run at tol 0, which has nothing to do with the stop rule."""
    _, k, passes = PROBLEMS[name]
    model = NMF(k, solver="hals", init="auto", tol=0, max_iter=passes, dtype=np.float64, random_state=0)
    with mock.patch.object(accelerated_hals, "SEVERAL", 1):  # an iteration is a pass
        return evaluate.loss(stored(name), model.fit_transform(stored(name)), model.components_)


@cache
def default_call(name, init, dtype):
    """Return the fitted model, W, the relative error, and why the stop reason is not true."""
    X, k = stored(name), PROBLEMS[name][1]
    asked = np.dtype(dtype)
    if X.dtype.kind == "f":  # else X stays as it is stored, and only the fit is told
        X, asked = X.astype(dtype), None
    watch = evaluate.Watch()
    model = NMF(k, solver="hals", init=init, dtype=asked, random_state=0, callback=watch)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Maximum number of iterations")
        W = model.fit_transform(X)
    assert W.dtype == dtype
    return model, W, evaluate.loss(stored(name), W, model.components_), evaluate.untrue(model, X, W, watch)


@every_problem
@every_init
@every_dtype
def test_default_call_ends_where_a_long_run_does(name, init, dtype):
    assert default_call(name, init, dtype)[2] / long_run(name) <= 1.005


@every_problem
@every_init
def test_float32_ends_where_float64_does(name, init):
    assert default_call(name, init, "float32")[2] / default_call(name, init, "float64")[2] <= 1.001


@every_problem
@every_init
@every_dtype
def test_no_component_is_dead(name, init, dtype):
    model, W, _, _ = default_call(name, init, dtype)
    assert evaluate.dead_components(W, model.components_) == 0


@every_problem
@every_init
@every_dtype
def test_stop_reason_is_true(name, init, dtype):
    assert default_call(name, init, dtype)[3] is None


@every_problem
@every_init
@every_dtype
def test_loss_never_rises_and_is_that_of_the_factors(name, init, dtype):
    model, _, error, _ = default_call(name, init, dtype)
    losses = evaluate.accepted_losses(model)
    assert evaluate.largest_rise(losses) <= 1e-6
    X = stored(name)
    squares = float(X.multiply(X).sum()) if hasattr(X, "multiply") else float(np.sum(X.astype(np.float64) ** 2))
    assert np.sqrt(2 * losses[-1] / squares) == pytest.approx(error, rel=1e-3)


# --- the evaluator notices ----------------------------------------------------------------------


def test_evaluator_counts_dead_components_and_rises():
    W, H = np.ones((4, 3)), np.ones((3, 5))
    assert evaluate.dead_components(W, H) == 0
    W[:, 0], H[2] = 0, 0
    assert evaluate.dead_components(W, H) == 2
    assert evaluate.largest_rise(np.array([4.0, 2.0, 2.0, 1.0])) == 0
    assert evaluate.largest_rise(np.array([4.0, 2.0, 2.5, 1.0, 1.1])) == 0.25
    assert evaluate.largest_rise(np.array([1.0, 0.0, 1e-9])) == np.inf


FELL = "the relative error fell by less than tol = 0.0001 in 10 iterations"


def said(reason, falls=0.0, measured=0.0, **facts):
    """Return what `untrue` says of a fit whose recorded and measured relative errors fell like this each pass."""
    X = np.ones((6, 4))
    errors = 0.1 * (1 - falls / 10) ** np.arange(12)
    model = SimpleNamespace(
        stop_reason_=reason, tol=1e-4, max_iter=200, n_iter_=12, kkt_residual_=1.0, components_=np.ones((1, 4)),
        history_={"loss": 0.5 * X.size * errors**2, "accepted": np.ones(12, bool)},
    )  # fmt: skip
    vars(model).update(facts)
    watch = evaluate.Watch()
    for error in 0.1 * (1 - measured / 10) ** np.arange(12):
        watch(SimpleNamespace(factors=lambda error=error: (np.full((6, 1), 1 - error), np.ones((1, 4)))))
    return evaluate.untrue(model, X, watch.pairs[-1][0], watch)


@pytest.mark.parametrize(
    "facts",
    [
        {"reason": FELL, "falls": 5e-5, "measured": 5e-5},
        {"reason": "the KKT residual fell to 9e-06, at most tol / 10 = 1e-05", "kkt_residual_": 9e-6},
        {"reason": "max_iter = 200 was reached", "n_iter_": 200},
    ],
)
def test_evaluator_believes_what_is_true(facts):
    assert said(**facts) is None


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"reason": FELL, "falls": 2e-4, "measured": 5e-5}, "by history_ it fell by 0.0002"),
        ({"reason": FELL, "falls": 5e-5, "measured": 2e-4}, "measured directly it fell by 0.0002"),
        ({"reason": FELL, "falls": 5e-5, "measured": -2e-4}, "measured directly it rose by 0.0002"),
        (
            {"reason": FELL, "history_": {"loss": np.ones(12), "accepted": np.arange(12) < 9}},
            "after 9 accepted iterations",
        ),
        ({"reason": "the KKT residual fell to 9e-06, at most tol / 10 = 1e-05", "kkt_residual_": 9e-4}, "0.0009"),
        ({"reason": "max_iter = 200 was reached", "n_iter_": 150}, "150 iterations"),
        ({"reason": "enough was done"}, "not a sentence that can be checked"),
    ],
)
def test_evaluator_names_what_is_untrue(facts, why):
    assert why in said(**facts)
