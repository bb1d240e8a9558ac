"""The drop-in contract: what a user of scikit-learn's NMF may rely on, and what we put right.

Where scikit-learn is the measure, the installed one is asked in the same test, so that one text
serves every supported version.
"""

import copy
import inspect
import io
import pickle
import re
import time
import tracemalloc
import warnings
from contextlib import redirect_stdout

import numpy as np
import pandas as pd
import pytest
import reference
import scipy.sparse as sp
import sklearn
import sklearn.decomposition as theirs
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils import get_tags
from sklearn.utils.fixes import parse_version

import nmfcore as ours
from nmfcore.estimators import _base
from nmfcore.solvers import EXTRAPOLATED, SOLVERS

SKLEARN = parse_version(sklearn.__version__)
THEIRS = ("cd", "mu")  # solvers that scikit-learn has too
CLASSES = ("NMF", "MiniBatchNMF")


def data(n=40, m=12, seed=0, dtype="float64"):
    rng = np.random.RandomState(seed)
    X = rng.gamma(0.7, 1.0, (n, 4)) @ rng.gamma(0.7, 1.0, (4, m)) + 0.05 * rng.rand(n, m)
    return X.astype(dtype)


def factors(n=40, m=12, k=3, seed=1, dtype="float64"):
    rng = np.random.RandomState(seed)
    return {
        "W": (rng.rand(n, k) + 0.1).astype(dtype),
        "H": (rng.rand(k, m) + 0.1).astype(dtype),
    }


def quiet(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return function(*args, **kwargs)


def model(package=ours, cls="NMF", k=3, **parameters):
    """An estimator that fits in no time and without a warning."""
    if cls == "NMF":
        parameters = {"tol": 0, "max_iter": 15, **parameters}
    else:
        parameters = {"tol": 0, "max_iter": 5, "batch_size": 10, **parameters}
    return getattr(package, cls)(k, random_state=0, **parameters)


def outcome(function, *args, **kwargs):
    """(type's name, text) of what a call raises."""
    try:
        quiet(function, *args, **kwargs)
    except Exception as error:
        return type(error).__name__, str(error)
    return None


# --- signatures ---------------------------------------------------------------------------------

# Keyword-only, and their defaults change nothing.  NOW must be there; LATER come with the features.
NOW = {"device": None, "dtype": None, "n_jobs": None, "max_time": None, "callback": None}
ARRANGED = {"sort_components": False, "normalize": None, "fixed_components": None}
LATER = {
    "NMF": {
        "extrapolate": False, "memory": None, "checkpoint": None, "checkpoint_every": 600, "n_init": 1,
        "missing_values": None, "feature_weight": None, **ARRANGED,
    },
    "MiniBatchNMF": {"solver": "mu", "memory": None, "checkpoint": None, "checkpoint_every": 600, **ARRANGED},
}  # fmt: skip


@pytest.mark.parametrize("name", [*CLASSES, "non_negative_factorization"])
def test_signature_starts_with_scikit_learns(name):
    expected = list(inspect.signature(getattr(theirs, name)).parameters.values())
    found = list(inspect.signature(getattr(ours, name)).parameters.values())
    described = [(p.name, p.kind, p.default) for p in found]
    assert described[: len(expected)] == [(p.name, p.kind, p.default) for p in expected]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in found[len(expected) :])


@pytest.mark.parametrize("name", CLASSES)
def test_parameters_beyond_scikit_learn(name):
    cls = getattr(ours, name)
    parameters = cls().get_params()
    beyond = {k: v for k, v in parameters.items() if k not in getattr(theirs, name)().get_params()}
    assert NOW.items() <= beyond.items() <= {**NOW, **LATER[name]}.items()
    assert set(parameters) <= set(cls._parameter_constraints)
    signature = inspect.signature(cls).parameters
    assert {k: signature[k].default for k in beyond} == beyond
    assert cls(**beyond).get_params() == parameters


def test_function_takes_the_same_keywords():
    signature = inspect.signature(ours.non_negative_factorization).parameters
    of_class = inspect.signature(ours.NMF).parameters
    assert set(of_class) | {"X", "W", "H", "update_H", "mask", "sample_weight"} == set(signature)
    assert {k: signature[k].default for k in NOW} == NOW


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize(
    "method",
    [
        "fit",
        "fit_transform",
        "transform",
        "inverse_transform",
        "get_feature_names_out",
        "set_output",
    ],
)
def test_method_signature(name, method):
    expected = inspect.signature(getattr(getattr(theirs, name), method))
    found = inspect.signature(getattr(getattr(ours, name), method))
    beyond = found.parameters.keys() - expected.parameters.keys()
    writes = method in ("transform", "fit_transform")
    masks = method == "transform" or (name == "NMF" and method in ("fit", "fit_transform"))
    weights = {"sample_weight"} if name == "NMF" and method in ("fit", "fit_transform") else set()
    assert beyond == ({"out"} if writes else set()) | ({"mask"} if masks else set()) | weights
    by_place = weights if method == "fit" else set()  # after y, as everywhere in scikit-learn
    assert all(found.parameters[each].kind is inspect.Parameter.KEYWORD_ONLY for each in beyond - by_place)
    assert [(p.name, p.kind, p.default) for p in found.parameters.values() if p.name not in beyond] == [
        (p.name, p.kind, p.default) for p in expected.parameters.values()
    ]


def test_partial_fit_signature():
    assert not hasattr(ours.NMF, "partial_fit")
    expected = inspect.signature(theirs.MiniBatchNMF.partial_fit)
    found = inspect.signature(ours.MiniBatchNMF.partial_fit)
    assert list(found.parameters) == list(expected.parameters)


@pytest.mark.parametrize("name", CLASSES)
def test_init_and_set_params_compute_nothing(name):
    estimator = getattr(ours, name)(n_components=-3, tol="nonsense")
    assert set(vars(estimator)) == set(estimator.get_params())
    assert estimator.set_params(max_iter=-1).max_iter == -1
    with pytest.raises(ValueError, match="parameter of"):
        estimator.fit(data())


# --- messages -----------------------------------------------------------------------------------

BAD_PARAMETERS = [
    {"n_components": 0},
    {"n_components": 2.0},
    {"n_components": "many"},
    {"init": "x"},
    {"tol": -1},
    {"tol": None},
    {"max_iter": 0},
    {"max_iter": 1.5},
    {"alpha_W": -1},
    {"alpha_H": "x"},
    {"alpha_H": -1},
    {"l1_ratio": 2},
    {"beta_loss": "x"},
    {"verbose": -1},
    {"random_state": "x"},
]
ONLY_NMF = [{"solver": "x"}, {"shuffle": "x"}]
ONLY_MINIBATCH = [
    {"batch_size": 0},
    {"max_no_improvement": 0},
    {"forget_factor": 1.5},
    {"fresh_restarts": "x"},
    {"fresh_restarts_max_iter": 0},
    {"transform_max_iter": 0},
]


def words(text):
    """The words of a message in any order: sets of strings print in the order of their hashes."""
    return set(re.findall(r"[^\s,{}]+", text))


@pytest.mark.parametrize(
    "name, parameters",
    [("NMF", p) for p in BAD_PARAMETERS + ONLY_NMF] + [("MiniBatchNMF", p) for p in BAD_PARAMETERS + ONLY_MINIBATCH],
    ids=str,
)
def test_bad_parameter(name, parameters):
    X = data()
    expected = outcome(getattr(theirs, name)(**parameters).fit, X)
    found = outcome(getattr(ours, name)(**parameters).fit, X)
    assert expected is not None
    assert found is not None
    assert found[0] == expected[0] == "InvalidParameterError"
    more = words(found[1]) - words(expected[1])
    assert not words(expected[1]) - words(found[1])
    assert more <= {"'auto'", "'hals'"}
    if not more:
        assert len(found[1]) == len(expected[1])


BAD_PARAMETERS_OF_OURS = [
    {"n_jobs": "x"},
    {"n_jobs": 1.5},
    {"n_jobs": 0},
    {"max_time": -1},
    {"max_time": "x"},
    {"callback": 3},
    {"device": 3},
    {"dtype": "int32"},
    {"extrapolate": "x"},
    {"checkpoint_every": -1},
    {"checkpoint": 3},
]


@pytest.mark.parametrize(
    "parameters", [p for p in BAD_PARAMETERS_OF_OURS if set(p) <= set(ours.NMF().get_params())], ids=str
)
def test_bad_parameter_of_ours(parameters):
    (name,) = parameters
    with pytest.raises(ValueError, match=f"'{name}' parameter of NMF must be"):
        ours.NMF(2, **parameters).fit(data())


def test_devices():
    X = data()
    plain = model().fit(X)
    for device in ("cpu", "auto"):
        assert bits(model(device=device).fit(X).components_) == bits(plain.components_)
    with pytest.raises(ValueError, match="device"):
        model(device="tpu").fit(X)


def test_parameter_error_text():
    message = (
        "The 'n_components' parameter of NMF must be an int in the range [1, inf), None or a str "
        "among {'auto'}. Got 0 instead."
    )
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$") as raised:
        ours.NMF(0).fit(data())
    assert isinstance(raised.value, TypeError)


def bad(X, what):
    X = X.copy()
    if what == "nan":
        X[3, 2] = np.nan
    elif what == "inf":
        X[3, 2] = np.inf
    elif what == "complex":
        X = X * 1j
    elif what == "1-D":
        X = X[0]
    elif what == "empty":
        X = X[:0]
    elif what == "no features":
        X = X[:, :0]
    elif what == "negative":
        X = -X
    elif what == "strings":
        X = X.astype(str).astype(object)
        X[0, 0] = "a"
    elif what == "features":
        X = X[:, :4]
    elif what == "csr nan":
        X[3, 2] = np.nan
        X = sp.csr_matrix(X)
    elif what == "csr negative":
        X = sp.csr_matrix(-X)
    return X


WRONG_X = ["nan", "inf", "complex", "1-D", "empty", "no features", "strings", "csr nan"]


@pytest.mark.parametrize("what", [*WRONG_X, "negative", "csr negative"])
@pytest.mark.parametrize("name", CLASSES)
def test_bad_X_at_fit(name, what):
    X = bad(data(), what)
    expected = outcome(model(theirs, name).fit, X)
    found = outcome(model(ours, name).fit, X)
    assert expected is not None
    assert found == expected


@pytest.mark.parametrize("what", [*WRONG_X, "features"])
@pytest.mark.parametrize("name", CLASSES)
def test_bad_X_at_transform(name, what):
    X = data()
    expected = outcome(model(theirs, name).fit(X.copy()).transform, bad(X, what))
    found = outcome(model(ours, name).fit(X).transform, bad(X, what))
    assert expected is not None
    assert found == expected


@pytest.mark.parametrize("what", ["nan", "inf", "1-D", "empty"])
def test_bad_X_at_the_function(what):
    X = bad(data(), what)
    expected = outcome(theirs.non_negative_factorization, X)
    assert expected is not None
    assert outcome(ours.non_negative_factorization, X) == expected


@pytest.mark.parametrize("name", CLASSES)
def test_bad_call(name):
    X = data()
    for call in (
        lambda package: model(package, name).fit(X, foo=1),
        lambda package: model(package, name).fit_transform(X, foo=1),
        lambda package: model(package, name).transform(X),
        lambda package: model(package, name).inverse_transform(X),
        lambda package: model(package, name, init="nndsvd", k=13).fit(X),
        lambda package: model(package, name, beta_loss=0, **MU[name]).fit(X * (X > 1)),
    ):
        expected = outcome(call, theirs)
        assert expected is not None
        assert outcome(call, ours) == expected


MU = {"NMF": {"solver": "mu"}, "MiniBatchNMF": {}}


@pytest.mark.parametrize("beta", [0, -1.0])
def test_zeros_are_refused_where_the_loss_has_no_place_for_them(beta):
    X = data()
    with_zeros = X * (X > 1)
    message = "^When beta_loss <= 0 and X contains zeros, the solver may diverge"
    estimator = quiet(model(solver="mu", beta_loss=beta).fit, X)
    for matrix in (with_zeros, sp.csr_matrix(with_zeros)):
        with pytest.raises(ValueError, match=message):
            estimator.transform(matrix)
        with pytest.raises(ValueError, match=message):
            model(solver="mu", beta_loss=beta).fit(matrix)
        with pytest.raises(ValueError, match=message):
            ours.non_negative_factorization(
                matrix, H=factors()["H"], n_components=3, update_H=False, solver="mu", beta_loss=beta
            )


def test_not_fitted():
    with pytest.raises(NotFittedError, match="This NMF instance is not fitted yet"):
        ours.NMF().transform(data())


def test_cd_refuses_other_losses():
    message = "Invalid beta_loss parameter: solver 'cd' does not handle beta_loss = 1.0"
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        ours.NMF(2, beta_loss=1.0).fit(data())
    with pytest.raises(ValueError, match="solver 'cd' does not handle beta_loss = 'kull"):
        ours.NMF(2, beta_loss="kullback-leibler").fit(data())
    quiet(ours.NMF(2, beta_loss=2.0, max_iter=1).fit, data())


WRONG_FACTORS = {
    "H rows": lambda f: {**f, "H": f["H"][:2]},
    "H columns": lambda f: {**f, "H": f["H"][:, :5]},
    "W rows": lambda f: {**f, "W": f["W"][:5]},
    "W columns": lambda f: {**f, "W": f["W"][:, :2]},
    "H zero": lambda f: {**f, "H": 0 * f["H"]},
    "W zero": lambda f: {**f, "W": 0 * f["W"]},
    "H negative": lambda f: {**f, "H": -f["H"]},
    "W negative": lambda f: {**f, "W": -f["W"]},
    "H float32": lambda f: {**f, "H": f["H"].astype("float32")},
    "W float32": lambda f: {**f, "W": f["W"].astype("float32")},
}


def assert_same_error(found, expected):
    """Compare (type, text); an error for types goes on with the type of X, and with the cast to write."""
    if "same dtype" in expected[1]:
        text, *casts = found[1].split(" X.dtype = float64: give ")
        assert len(casts) == 1 and casts[0].endswith(".astype('float64').")
        found = (found[0], text)
    assert found == expected


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("wrong", list(WRONG_FACTORS))
def test_bad_factors(name, wrong):
    X, given = data(), WRONG_FACTORS[wrong](factors())
    expected = outcome(model(theirs, name, init="custom").fit, X, **copy.deepcopy(given))
    assert expected is not None
    assert_same_error(outcome(model(ours, name, init="custom").fit, X, **given), expected)


@pytest.mark.parametrize("wrong", ["H rows", "H columns", "H zero", "H negative", "H float32"])
def test_bad_H_at_the_function(wrong):
    X, H = data(), WRONG_FACTORS[wrong](factors())["H"]
    parameters = {"H": H, "n_components": 3, "update_H": False}
    expected = outcome(theirs.non_negative_factorization, X, **parameters)
    assert expected is not None
    assert_same_error(outcome(ours.non_negative_factorization, X, **parameters), expected)


# --- warnings -----------------------------------------------------------------------------------


def caught(function, *args, **kwargs):
    """What a call warns: [(category, text)]."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        function(*args, **kwargs)
    return [(one.category.__name__, str(one.message)) for one in seen]


@pytest.mark.parametrize(
    "call",
    [
        lambda package: package.NMF(3, max_iter=2, random_state=0).fit(data()),
        lambda package: package.NMF(3, max_iter=2, solver="mu", random_state=0).fit(data()),
        lambda package: model(package, "MiniBatchNMF", tol=1e-9).fit(data()),
        lambda package: model(package, solver="mu", init="nndsvd").fit(data()),
        lambda package: model(package).fit(data(), W=factors()["W"], H=factors()["H"]),
        lambda package: package.non_negative_factorization(data(), H=factors()["H"], tol=0, max_iter=3, n_components=3),
        lambda package: package.non_negative_factorization(data(), **factors(), update_H=False, tol=0, n_components=3),
        lambda package: package.NMF(),
        lambda package: model(package, k=None).fit(data()),
        lambda package: package.MiniBatchNMF(tol=0, max_iter=2).fit(data()),
    ],
    ids=lambda call: str(call.__code__.co_firstlineno),
)
def test_warnings_are_scikit_learns(call):
    assert caught(call, ours) == caught(call, theirs)


def test_maximum_of_iterations():
    message = "Maximum number of iterations 2 reached. Increase it to improve convergence."
    with pytest.warns(ConvergenceWarning, match="^" + re.escape(message) + "$"):
        estimator = ours.NMF(3, max_iter=2, random_state=0).fit(data())
    assert estimator.converged_ is False
    estimator = quiet(ours.NMF(3, max_iter=500, random_state=0, tol=1e-2).fit, data())
    assert estimator.converged_ is True
    assert estimator.n_iter_ < 500
    last = ours.NMF(3, max_iter=estimator.n_iter_, random_state=0, tol=1e-2)
    # As scikit-learn, even if it converged exactly on that iteration.
    with pytest.warns(ConvergenceWarning, match="Maximum number of iterations"):
        last.fit(data())
    assert last.converged_ is True


def pixels():
    """Whole-number grey values on which nndsvda's first violation is huge."""
    rng = np.random.RandomState(0)
    X = rng.gamma(0.3, 1, (300, 8)) @ rng.gamma(0.3, 1, (8, 100))
    return np.floor(np.clip(60 * X, 0, 255))


def test_early_stop_is_reported():
    X = pixels()
    estimator = ours.NMF(8, tol=1e-3, random_state=0, max_iter=500)
    with pytest.warns(ConvergenceWarning) as seen:
        estimator.fit(X)
    assert len(seen) == 1
    text = str(seen[0].message)
    assert "Decrease tol" in text
    assert 'solver="hals"' in text
    before = theirs.NMF(8, tol=0, random_state=0, max_iter=estimator.n_iter_ - 1).fit(X)
    after = theirs.NMF(8, tol=0, random_state=0, max_iter=estimator.n_iter_).fit(X)
    fall = 100 * (1 - (after.reconstruction_err_ / before.reconstruction_err_) ** 2)
    stated = [float(number) for number in re.findall(r"(\d+(?:\.\d+)?)\s*%", text)]
    assert any(abs(number - fall) < 0.05 * fall for number in stated), (text, fall)


@pytest.mark.parametrize(
    "parameters",
    [
        {"tol": 1e-2},  # the user asked for little
        {"tol": 1e-6, "max_iter": 5000},  # the loss had settled
        {"tol": 1e-3, "solver": "mu"},  # another rule
    ],
    ids=str,
)
def test_no_warning_without_an_early_stop(parameters):
    estimator = ours.NMF(8, random_state=0, **{"max_iter": 500, **parameters})
    estimator.fit(pixels())
    assert estimator.converged_ is True


def test_no_warning_when_the_fit_is_exact():
    """Near an exact fit the loss may halve in every iteration and nothing is wrong."""
    X = np.c_[5.0 - np.arange(1, 6), 5.0 + np.arange(1, 6)]
    estimator = ours.NMF(2, init="nndsvd", random_state=0, max_iter=1000).fit(X)
    loss = estimator.history_["loss"]
    assert loss[-1] < 0.9 * loss[-2]
    assert estimator.converged_ is True


# --- attributes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", THEIRS)
def test_attributes(solver):
    X = data()
    mine = model(solver=solver).fit(X)
    other = model(theirs, solver=solver).fit(X.copy())
    fitted = {name for name in vars(other) if name.endswith("_") and not name.startswith("_")}
    beyond = {"converged_", "history_", "kkt_residual_", "stop_reason_"}
    assert fitted <= {name for name in vars(mine) if name.endswith("_")}
    assert beyond <= {name for name in vars(mine) if name.endswith("_")}
    for name in ("n_components_", "n_iter_", "reconstruction_err_", "n_features_in_"):
        assert type(getattr(mine, name)) is type(getattr(other, name)), name
    assert (mine.n_components_, mine.n_features_in_, mine.n_iter_) == (3, 12, 15)
    assert mine._n_components == other._n_components
    assert mine._beta_loss == other._beta_loss
    assert mine.components_.shape == (3, 12)
    if solver == "cd":  # the contract names the order after cd only
        assert mine.components_.flags.f_contiguous == other.components_.flags.f_contiguous
    assert isinstance(mine.stop_reason_, str)
    assert mine.stop_reason_.strip()
    assert isinstance(mine.kkt_residual_, float)


def test_attributes_of_minibatch():
    X = data()
    mine, other = model(cls="MiniBatchNMF").fit(X), model(theirs, "MiniBatchNMF").fit(X.copy())
    for name in ("n_components_", "n_iter_", "reconstruction_err_", "n_features_in_", "n_steps_"):
        assert type(getattr(mine, name)) is type(getattr(other, name)), name
        assert getattr(mine, name) == pytest.approx(getattr(other, name))
    only = ours.MiniBatchNMF(3, random_state=0).partial_fit(X)
    assert only.n_steps_ == 1
    assert not hasattr(only, "n_iter_")
    assert not hasattr(only, "reconstruction_err_")


@pytest.mark.parametrize("beta", [2, 1, 0, 0.5, 1.5, 3])
def test_reconstruction_error_is_without_penalties(beta):
    X = data()
    estimator = model(solver="mu", beta_loss=beta, alpha_W=1e-2, l1_ratio=0.5)
    W = estimator.fit_transform(X)
    divergence = reference.beta_divergence(X, W, estimator.components_, beta)
    assert estimator.reconstruction_err_ == pytest.approx(np.sqrt(2 * divergence), rel=1e-9)


PENALTY = {"alpha_W": 1e-3, "alpha_H": 2e-3, "l1_ratio": 0.3}


@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("penalty", [{}, PENALTY], ids=["none", "both"])
@pytest.mark.parametrize("solver", THEIRS)
def test_history(solver, penalty, form):
    X = data()
    count = 6
    begin = factors()
    estimator = model(solver=solver, init="custom", max_iter=count, **penalty)
    estimator.fit(X if form == "dense" else sp.csr_matrix(X), **begin)
    history = estimator.history_
    assert set(history) == {"loss", "violation", "seconds", "accepted"}
    for name, values in history.items():
        assert isinstance(values, np.ndarray)
        assert values.dtype == (np.bool_ if name == "accepted" else np.float64)
        assert values.shape == (count,)
    assert history["accepted"].all()
    assert (np.diff(history["seconds"]) >= 0).all()
    assert history["seconds"][0] >= 0
    W, H = begin["W"], begin["H"]
    scaled = reference.penalties(*X.shape, **penalty)
    for i in range(count):
        if solver == "cd":
            W, H, violation, _ = reference.cd_iteration(X, W, H, scaled)
            assert history["violation"][i] == pytest.approx(violation, rel=1e-8)
        else:
            W, H = reference.mu_iteration(X, W, H, 2, scaled)
            assert np.isnan(history["violation"][i])
        l1_W, l1_H, l2_W, l2_H = scaled
        loss = reference.objective(X, W, H, 2, l1_W, l1_H, l2_W, l2_H)
        assert history["loss"][i] == pytest.approx(loss, rel=1e-8)


@pytest.mark.parametrize("beta", [1, 0.5])
def test_history_of_other_losses(beta):
    X = data()
    estimator = quiet(ours.NMF(3, solver="mu", beta_loss=beta, max_iter=25, tol=1e-12, random_state=0).fit, X)
    checked = np.isfinite(estimator.history_["loss"])
    assert checked[[9, 19]].all()
    assert checked[:24].sum() == 2  # the last entry may carry the final loss
    at_ten = model(solver="mu", beta_loss=beta, max_iter=10).fit(X)
    loss = at_ten.reconstruction_err_**2 / 2
    assert estimator.history_["loss"][9] == pytest.approx(loss, rel=1e-9)


# Of every solver of the registry, and of what makes it reject iterations.
FITS = {
    **{solver: {"solver": solver} for solver in SOLVERS},
    **{f"{solver}, extrapolated": {"solver": solver, "extrapolate": True} for solver in EXTRAPOLATED},
    "mu, 1": {"solver": "mu", "beta_loss": 1},
    "mu, 1, extrapolated": {"solver": "mu", "beta_loss": 1, "extrapolate": True},
    "hals, penalised": {"solver": "hals", "alpha_W": 1e-3, "l1_ratio": 0.5},
    "hals in float32": {"solver": "hals", "dtype": np.float32},
}
ENDINGS = {
    "max_iter": {"max_iter": 300, "tol": 0},
    "stop rule": {"max_iter": 1000, "tol": 1e-3},
    "callback": {"callback": lambda progress: progress.iteration >= 37},
    "max_time": {"max_time": 1e-9},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", FITS)
def test_history_has_an_entry_for_every_iteration(name, ending, digits):
    settings = {"n_components": 10, "random_state": 0, "tol": 0, "max_iter": 300, **FITS[name], **ENDINGS[ending]}
    begun = time.perf_counter()
    estimator = ours.NMF(**settings).fit(digits)
    took = time.perf_counter() - begun
    history = estimator.history_
    assert {key: values.shape for key, values in history.items()} == dict.fromkeys(
        ("loss", "violation", "seconds", "accepted"), (estimator.n_iter_,)
    )
    assert (estimator.n_iter_ == 300) == (ending == "max_iter")
    assert history["accepted"].dtype == bool and history["accepted"][0]
    assert history["seconds"][0] >= 0 and history["seconds"][-1] <= took
    assert (np.diff(history["seconds"]) >= 0).all()
    told = reference.accepted_losses(estimator)
    told = told[np.isfinite(told)]
    rounding = 1e-12 if digits.dtype == np.float64 and "float32" not in name else 2e-6
    assert (np.diff(told) <= rounding * 0.5 * np.sum(digits.astype(float) ** 2)).all()
    if estimator.n_iter_ % 10 == 0 and len(told):
        told = estimator.history_["loss"][history["accepted"]][-1]
        if not settings.get("alpha_W"):
            assert told == pytest.approx(estimator.reconstruction_err_**2 / 2, rel=1e-4)


def test_what_was_rejected_is_in_the_history(digits):
    """A plain call on the digits, in which hals rejects iterations."""
    seen = []
    estimator = ours.NMF(16, solver="hals", init="nndsvd", tol=0, max_iter=300, callback=seen.append).fit(digits)
    accepted, loss = estimator.history_["accepted"], estimator.history_["loss"]
    assert 3 <= (~accepted).sum() <= 60
    assert [report.iteration for report in seen] == (np.flatnonzero(accepted) + 1).tolist()
    assert [report.seconds for report in seen] == estimator.history_["seconds"][accepted].tolist()
    for i in np.flatnonzero(~accepted):
        assert loss[i] > loss[:i][accepted[:i]][-1]


@pytest.mark.parametrize(
    "made",
    [lambda: ours.NMF(3, init="random", max_iter=5, tol=0), lambda: ours.MiniBatchNMF(3, batch_size=10, max_iter=2)],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_seconds_count_from_the_call(made, monkeypatch):
    initialize = _base.initialize

    def slow(*args):
        time.sleep(0.2)
        return initialize(*args)

    monkeypatch.setattr(_base, "initialize", slow)
    for X in (data(), np.zeros((40, 12))):
        reports = []
        estimator = made().set_params(callback=reports.append)
        begun = time.perf_counter()
        estimator.fit(X)
        took = time.perf_counter() - begun
        seconds = estimator.history_["seconds"]
        assert (0.2 if X.any() else 0) < seconds[0] and seconds[-1] <= took and (np.diff(seconds) >= 0).all()
        assert [report.seconds for report in reports] == (seconds.tolist() if X.any() else [])
        steps = estimator.n_iter_ if isinstance(estimator, ours.NMF) else estimator.n_steps_
        assert {len(values) for values in estimator.history_.values()} == {steps}
        assert estimator.history_["accepted"].dtype == bool and estimator.history_["accepted"].all()


@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("penalty", [{}, PENALTY], ids=["none", "both"])
@pytest.mark.parametrize("solver, beta", [("cd", 2), ("mu", 2), ("mu", 1), ("mu", 0.5), ("mu", 0), ("mu", 3)])
def test_kkt_residual(solver, beta, penalty, form):
    """It comes free from the last pass: each factor's share at the point its update starts from."""
    X = data()
    matrix = X if form == "dense" else sp.csr_matrix(X)
    begin = factors()
    begin["H"][:, 3] = 0
    if solver == "mu":
        begin["W"][:, 2] = 0
    scaled = reference.penalties(*X.shape, **penalty)
    estimator = model(solver=solver, beta_loss=beta, init="custom", max_iter=4, **penalty)
    last = estimator.fit_transform(matrix, **begin)
    W, H = begin["W"], begin["H"]
    for _ in range(4):
        if solver == "cd":
            W, H, _, expected = reference.cd_iteration(X, W, H, scaled)
        else:
            expected = reference.mu_iteration_kkt(X, W, H, beta, scaled)
            W, H = reference.mu_iteration(X, W, H, beta, scaled)
    assert estimator.kkt_residual_ == pytest.approx(expected, rel=1e-6)
    # and it is of the size of the residual at the very end
    at_end = reference.kkt_residual(X, last, estimator.components_, beta, scaled)
    assert 0.2 < at_end / expected < 5


def test_kkt_residual_ignores_scale():
    X = data()
    begin = factors()
    plain = model(init="custom").fit(X, **begin)
    other = model(init="custom").fit(1000 * X, W=100 * begin["W"], H=10 * begin["H"])
    assert other.kkt_residual_ == pytest.approx(plain.kkt_residual_, rel=1e-8)


@pytest.mark.parametrize("beta", [2, 1, 0.5])
def test_score(beta):
    X = data()
    estimator = model(solver="mu", beta_loss=beta, max_iter=40).fit(X)
    W = estimator.transform(X[:9])
    divergence = reference.beta_divergence(X[:9], W, estimator.components_, beta)
    assert estimator.score(X[:9]) == pytest.approx(-divergence / 9, rel=1e-9)
    assert estimator.score(X[:9], None) == estimator.score(X[:9])


def test_inverse_transform():
    estimator = model()
    W = estimator.fit_transform(data())
    found = estimator.inverse_transform(W)
    np.testing.assert_allclose(found, W @ estimator.components_, rtol=1e-12)
    from_sparse = estimator.inverse_transform(sp.csr_matrix(W))
    assert type(from_sparse) is np.ndarray
    np.testing.assert_allclose(from_sparse, found, rtol=1e-12)


def test_n_components():
    X = data()
    begin = factors(k=2)
    assert model(k=None).fit(X).components_.shape == (12, 12)
    assert model(k="auto").fit(X).components_.shape == (12, 12)
    auto = model(k="auto", init="custom").fit(X, **begin)
    assert auto.components_.shape == (2, 12)
    assert auto.n_components_ == auto._n_components == 2
    W, _, _ = ours.non_negative_factorization(X, H=begin["H"], n_components="auto", update_H=False, tol=0)
    assert W.shape == (40, 2)


# --- types --------------------------------------------------------------------------------------

SMALL = ("uint8", "int8", "uint16", "int16", "bool", "float16")
WIDE = ("int32", "uint32", "int64", "uint64", "longdouble", "object")


def typed(dtype):
    return np.minimum(np.round(4 * data()), 100).astype(dtype)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("dtype", [*SMALL, *WIDE, "float32", "float64"])
def test_types(name, dtype):
    expected = "float32" if dtype in (*SMALL, "float32") else "float64"
    X = typed(dtype)
    estimator = model(cls=name, init="random")
    W = estimator.fit_transform(X)
    assert W.dtype == estimator.components_.dtype == expected
    assert estimator.transform(X).dtype == expected
    assert isinstance(estimator.reconstruction_err_, np.float64)
    # The values are those of the same numbers in the compute type.
    twin = model(cls=name, init="random").fit(X.astype(expected))
    close = 1e-4 if expected == "float32" else 1e-10
    np.testing.assert_allclose(estimator.components_, twin.components_, rtol=close, atol=close * twin.components_.max())


@pytest.mark.parametrize("dtype", ["uint8", "bool", "float16", "int64", "float32"])
def test_dtype_float64_restores_scikit_learns_types(dtype):
    X = typed(dtype)
    estimator = model(init="random", dtype=np.float64)
    W = estimator.fit_transform(X)
    assert W.dtype == estimator.components_.dtype == "float64"
    other = model(theirs, init="random").fit(X.astype("float64"))
    np.testing.assert_allclose(estimator.components_, other.components_, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("given", ["float32", "float64"])
def test_small_types_accept_factors_of_either_float_type(given):
    X = typed("uint8")
    begin = factors(dtype=given)
    estimator = model(init="custom").fit(X, **begin)
    assert estimator.components_.dtype == "float32"
    same = model(init="custom").fit(X.astype("float32"), **factors(dtype="float32"))
    np.testing.assert_allclose(estimator.components_, same.components_, rtol=1e-4)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("kind", ["csr_matrix", "csc_matrix", "coo_matrix", "csr_array", "csc_array"])
def test_sparse_kinds(name, kind):
    X = data() * (data(seed=5) > 1)
    matrix = getattr(sp, kind)(X)
    dense = model(cls=name, init="random").fit(X)
    sparse = model(cls=name, init="random").fit(matrix)
    np.testing.assert_allclose(sparse.components_, dense.components_, rtol=1e-8, atol=1e-12)
    assert type(sparse.transform(matrix)) is np.ndarray


def test_outputs_are_arrays_and_lists_are_accepted():
    X = data()
    W = model().fit_transform(X.tolist())
    assert type(W) is np.ndarray
    np.testing.assert_array_equal(W, model().fit_transform(X))


# --- scikit-learn's machinery -------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_tags(name):
    mine, other = getattr(ours, name)(), getattr(theirs, name)()
    tags, expected = get_tags(mine), get_tags(other)
    if parse_version("1.6.1") > SKLEARN:  # it forgot to say that its NMF takes sparse X
        assert not expected.input_tags.sparse
        expected.input_tags.sparse = True
    assert tags == expected
    assert tags.input_tags.positive_only
    assert tags.transformer_tags.preserves_dtype == ["float64", "float32"]


@pytest.mark.parametrize("name", CLASSES)
def test_feature_names(name):
    frame = pd.DataFrame(data()[:, :4], columns=list("abcd"))
    estimator = model(cls=name, init="random").fit(frame)
    assert list(estimator.feature_names_in_) == list("abcd")
    assert list(estimator.get_feature_names_out()) == [f"{name.lower()}{i}" for i in range(3)]
    assert outcome(estimator.transform, frame[list("abdc")]) == outcome(
        model(theirs, name, init="random").fit(frame).transform, frame[list("abdc")]
    )
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        estimator.transform(frame.to_numpy())
    assert not hasattr(model(cls=name).fit(data()), "feature_names_in_")


@pytest.mark.parametrize("name", CLASSES)
def test_set_output(name):
    frame = pd.DataFrame(data(), index=[f"row {i}" for i in range(40)])
    frame.columns = [f"c{i}" for i in range(12)]
    estimator = model(cls=name).set_output(transform="pandas")
    for W in (estimator.fit_transform(frame), estimator.transform(frame)):
        assert isinstance(W, pd.DataFrame)
        assert list(W.columns) == [f"{name.lower()}{i}" for i in range(3)]
        assert list(W.index) == list(frame.index)
    plain = estimator.set_output(transform="default").transform(frame)
    assert type(plain) is np.ndarray


@pytest.mark.parametrize("name", CLASSES)
def test_metadata_routing(name):
    if parse_version("1.7") > SKLEARN:  # scikit-learn's own routing raises: nothing to compare
        with pytest.raises(ValueError, match="Xt"):
            getattr(theirs, name)().get_metadata_routing()
        assert hasattr(getattr(ours, name)(), "set_partial_fit_request") == (name == "MiniBatchNMF")
        getattr(ours, name)().get_metadata_routing()
        return
    mine, other = getattr(ours, name)(), getattr(theirs, name)()
    for method in ("fit", "transform", "inverse_transform", "partial_fit", "score"):
        setter = f"set_{method}_request"
        more = method == "score" or (name == "NMF" and method in ("fit", "transform"))
        assert hasattr(mine, setter) == (more or hasattr(other, setter)), setter
    if name == "NMF":  # takes masks and weights, and nothing else beyond scikit-learn
        weights = {"mask": None, "sample_weight": None}
        for method, taken in (("fit", weights), ("transform", {"mask": None}), ("score", weights)):
            assert getattr(mine.get_metadata_routing(), method).requests == taken
        return
    assert mine.get_metadata_routing().score.requests == {"sample_weight": None}

    def those_of_scikit_learn(estimator):
        routing = estimator.get_metadata_routing()
        return [str(getattr(routing, method)) for method in ("fit", "transform", "inverse_transform", "partial_fit")]

    assert those_of_scikit_learn(mine) == those_of_scikit_learn(other)
    with sklearn.config_context(enable_metadata_routing=True):
        assert those_of_scikit_learn(mine) == those_of_scikit_learn(other)
        mine.set_partial_fit_request(W=True, H=False)
        other.set_partial_fit_request(W=True, H=False)
        assert those_of_scikit_learn(mine) == those_of_scikit_learn(other)


@pytest.mark.parametrize("name", CLASSES)
def test_pickling(name):
    X = data()
    estimator = model(cls=name, n_jobs=2).fit(X)
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.transform(X), estimator.transform(X))
    assert again.get_params() == estimator.get_params()
    if name == "NMF":
        assert again.stop_reason_ == estimator.stop_reason_
    unfitted = pickle.loads(pickle.dumps(getattr(ours, name)(4)))
    assert unfitted.n_components == 4
    assert copy.deepcopy(estimator).n_iter_ == estimator.n_iter_


class Counter:
    """A callback that is an object, counts its calls and may stop the fit."""

    def __init__(self, stop_at=None, error=None):
        self.reports = []
        self.stop_at, self.error = stop_at, error

    def __call__(self, report):
        self.reports.append(report)
        if len(self.reports) == self.stop_at:
            if self.error is not None:
                raise self.error
            return True
        return None


@pytest.mark.parametrize("name", CLASSES)
def test_callback_is_kept_by_clone_and_dropped_by_pickle(name):
    callback = Counter()
    estimator = getattr(ours, name)(3, callback=callback)
    assert clone(estimator).callback is callback
    assert estimator.get_params()["callback"] is callback
    with pytest.warns(UserWarning, match="callback"):
        stored = pickle.dumps(estimator)
    assert estimator.callback is callback
    assert pickle.loads(stored).callback is None
    pickle.dumps(getattr(ours, name)(3))  # nothing to warn of


@pytest.mark.parametrize("name", CLASSES)
def test_clone_and_repr(name):
    changed = {"n_jobs": 2, "max_time": 5.0, "dtype": np.float64}
    estimator = clone(getattr(ours, name)(7, **changed))
    assert {k: estimator.get_params()[k] for k in changed} == changed
    assert repr(estimator).startswith(f"{name}(")
    assert "n_components=7" in repr(estimator)
    assert name in estimator._repr_html_()


# scikit-learn 1.5's search makes an integer array of uninitialised memory
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
def test_fits_in_a_pipeline_and_a_search():
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler

    X = data()
    pipeline = make_pipeline(MaxAbsScaler(), model())
    assert pipeline.fit_transform(X).shape == (40, 3)
    search = GridSearchCV(model(), {"n_components": [1, 3]}, cv=2).fit(X)
    assert search.best_params_ == {"n_components": 3}


# --- verbose ------------------------------------------------------------------------------------


def printed(package, name, X, **parameters):
    """Lines of a verbose fit, seconds struck out, and the numbers in them."""
    out = io.StringIO()
    with redirect_stdout(out):
        quiet(getattr(package, name)(3, random_state=0, verbose=1, **parameters).fit, X)
    text = re.sub(r"after \d+\.\d{3} seconds", "after S seconds", out.getvalue())
    number = r"-?\d+\.\d+(?:e[-+]\d+)?|-?\d+e[-+]\d+"
    return re.sub(number, "#", text), [float(one) for one in re.findall(number, text)]


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("NMF", {"tol": 1e-2}),
        ("NMF", {"tol": 0, "max_iter": 4}),
        ("NMF", {"solver": "mu", "tol": 1e-2}),
        ("NMF", {"solver": "mu", "tol": 1e-9, "max_iter": 25}),
        ("NMF", {"solver": "mu", "tol": 0, "max_iter": 7, "beta_loss": 1}),
        ("NMF", {"solver": "mu", "tol": 1e-3, "beta_loss": 1}),
        ("MiniBatchNMF", {"batch_size": 10, "max_iter": 3}),
        ("MiniBatchNMF", {"batch_size": 10, "max_iter": 3, "alpha_W": 1e-2}),
        ("MiniBatchNMF", {"batch_size": 10, "max_iter": 3, "alpha_W": 1e-2, "l1_ratio": 0.5}),
        ("MiniBatchNMF", {"batch_size": 10, "tol": 5e-2}),
        ("MiniBatchNMF", {"batch_size": 10, "tol": 0, "max_no_improvement": 1}),
    ],
    ids=str,
)
def test_verbose_lines(name, parameters):
    found, numbers = printed(ours, name, data(), **parameters)
    expected, their_numbers = printed(theirs, name, data(), **parameters)
    assert expected.strip()
    assert found == expected
    np.testing.assert_allclose(numbers, their_numbers, rtol=1e-5)


@pytest.mark.parametrize("name", CLASSES)
def test_silent_otherwise(name, capfd):
    quiet(model(cls=name, tol=1e-2).fit, data())
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


# --- what scikit-learn does wrong ---------------------------------------------------------------

NEGATIVE = "Negative values in data passed to"


@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("name", CLASSES)
def test_defects_a_and_b_negative_X_is_refused_everywhere(name, form):
    X, begin = data(), factors()
    wrong = -X if form == "dense" else sp.csr_matrix(-X)
    calls = [
        lambda: model(cls=name).fit(wrong),
        lambda: model(cls=name, init="custom").fit(wrong, **begin),
        lambda: model(cls=name).fit(X).transform(wrong),
    ]
    if name == "NMF":
        nnf = ours.non_negative_factorization
        calls += [
            lambda: nnf(wrong),
            lambda: nnf(wrong, **begin, n_components=3, init="custom"),
            lambda: nnf(wrong, H=begin["H"], n_components=3, update_H=False),
            lambda: model(solver="mu", beta_loss=1).fit(wrong),
        ]
    else:
        calls += [
            lambda: model(cls=name).partial_fit(wrong),
            lambda: model(cls=name).partial_fit(X).partial_fit(wrong),
        ]
    for call in calls:
        with pytest.raises(ValueError, match=NEGATIVE):
            call()


def test_one_negative_value_in_the_last_row_is_found():
    X = data(n=3000)
    X[-1, -1] = -1e-6
    with pytest.raises(ValueError, match=NEGATIVE):
        model().fit(X)
    X[-1, -1] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        model().fit(X)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("fitted, given", [("float64", "float32"), ("float32", "float64")])
def test_defect_c_transform_takes_the_other_float_type(name, fitted, given):
    X = data()
    estimator = model(cls=name).fit(X.astype(fitted))
    before = estimator.components_
    W = estimator.transform(X.astype(given))
    assert W.dtype == given
    assert estimator.components_ is before
    assert estimator.components_.dtype == fitted
    same = estimator.transform(X.astype(fitted))
    np.testing.assert_allclose(W, same, rtol=1e-3, atol=1e-4 * same.max())


@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("name, solver, beta", [
    ("NMF", "cd", 2), ("NMF", "mu", 2), ("NMF", "mu", 1), ("MiniBatchNMF", None, 2),
])  # fmt: skip
def test_defect_d_zero_X(name, solver, beta, form):
    X = np.zeros((20, 6))
    parameters = {"solver": solver} if solver else {}
    estimator = getattr(ours, name)(3, beta_loss=beta, random_state=0, **parameters)
    W = estimator.fit_transform(X if form == "dense" else sp.csr_matrix(X))
    assert W.shape == (20, 3)
    assert not W.any()
    assert estimator.components_.shape == (3, 6)
    assert not estimator.components_.any()
    assert estimator.reconstruction_err_ == 0
    assert estimator.n_iter_ == 1
    assert np.isfinite(W).all()


@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("name, solver", [("NMF", "cd"), ("NMF", "mu"), ("MiniBatchNMF", None)])
def test_defect_e_arrays_of_the_caller_are_never_written(name, solver, form, layout):
    X = np.array(data(), order=layout)
    matrix = X if form == "dense" else sp.csc_matrix(X)
    begin = {key: np.array(value, order=layout) for key, value in factors().items()}
    held = [X, *begin.values()] + ([matrix.data, matrix.indices] if form == "csr" else [])
    before = [one.copy() for one in held]
    parameters = {"solver": solver} if solver else {}
    estimator = model(cls=name, init="custom", **parameters)
    W = estimator.fit_transform(matrix, **begin)
    codes, H = W.copy(), estimator.components_.copy()
    estimator.transform(matrix)
    estimator.inverse_transform(W)
    if name == "MiniBatchNMF":
        model(cls=name, init="custom").partial_fit(matrix, **begin).partial_fit(matrix)
    else:
        nnf = ours.non_negative_factorization
        nnf(matrix, **begin, n_components=3, init="custom", tol=0, max_iter=3, solver=solver)
        nnf(matrix, H=begin["H"], n_components=3, update_H=False, tol=0, solver=solver)
    for one, copied in zip(held, before, strict=True):
        np.testing.assert_array_equal(one, copied)
    np.testing.assert_array_equal(W, codes)
    if name == "NMF":
        np.testing.assert_array_equal(estimator.components_, H)
    # Results do not share memory with what was given.
    assert not any(np.shares_memory(W, one) for one in begin.values())
    assert not any(np.shares_memory(estimator.components_, one) for one in begin.values())


@pytest.mark.parametrize("name, solver", [("NMF", "cd"), ("NMF", "mu"), ("MiniBatchNMF", None)])
def test_read_only_arrays_are_accepted(name, solver):
    X, begin = data(), factors()
    for one in (X, *begin.values()):
        one.setflags(write=False)
    parameters = {"solver": solver} if solver else {}
    estimator = model(cls=name, init="custom", **parameters).fit(X, **begin)
    estimator.components_.setflags(write=False)
    assert estimator.transform(X).shape == (40, 3)


@pytest.mark.parametrize("name, solver", [("NMF", "cd"), ("NMF", "mu"), ("MiniBatchNMF", None)])
@pytest.mark.parametrize("given", ["W", "H"])
def test_defect_f_custom_init_with_one_factor(name, solver, given):
    X = data()
    begin = factors()
    parameters = {"solver": solver} if solver else {}
    estimator = model(cls=name, init="custom", **parameters)
    W = estimator.fit_transform(X, **{given: begin[given]})
    assert W.shape == (40, 3)
    # The other factor was solved for: one iteration leaves less error than a start of ones would.
    quick = model(cls=name, init="custom", **{**parameters, "max_iter": 1})
    quick.fit(X, **{given: begin[given]})
    assert quick.reconstruction_err_ < 0.9 * np.linalg.norm(X - X.mean())


def test_defect_f_factors_as_lists():
    X, begin = data(), factors()
    as_lists = {key: value.tolist() for key, value in begin.items()}
    found = model(init="custom").fit(X, **as_lists)
    np.testing.assert_array_equal(found.components_, model(init="custom").fit(X, **begin).components_)


def bits(array):
    return np.ascontiguousarray(array).tobytes()


@pytest.mark.parametrize("form", ["float64", "float32", "uint8", "csr"])
@pytest.mark.parametrize(
    "name, solver, beta",
    [
        ("NMF", "cd", 2),
        ("NMF", "mu", 2),
        ("NMF", "mu", 1),
        ("NMF", "mu", 0.5),
        ("NMF", "mu", 2.5),
        ("MiniBatchNMF", None, 2),
        ("MiniBatchNMF", None, 1),
    ],
)
def test_defect_g_rows_are_coded_alone(name, solver, beta, form):
    rng = np.random.RandomState(3)
    X = np.floor(20 * data(n=301, m=23))
    X = {"uint8": lambda: np.minimum(X, 255).astype("uint8"), "csr": lambda: sp.csr_matrix(X)}.get(
        form, lambda: X.astype(form)
    )()
    parameters = {"solver": solver} if solver else {}
    estimator = model(cls=name, beta_loss=beta, init="random", max_iter=30, **parameters)
    estimator.fit(X[:100]).set_params(tol=1e-4, max_iter=100)
    together = quiet(estimator.transform, X)
    order = rng.permutation(301)
    permuted = quiet(estimator.transform, X[order])
    assert bits(permuted) == bits(together[order])
    for i in [*range(0, 301, 23), 300]:
        alone = quiet(estimator.transform, X[[i]])
        assert bits(alone[0]) == bits(together[i]), i
    some = order[:57]
    assert bits(quiet(estimator.transform, X[some])) == bits(together[some])


def test_transform_warns_of_rows_that_hit_the_maximum():
    X = data()
    estimator = model(max_iter=200).fit(X)
    estimator.set_params(tol=1e-10, max_iter=2)
    with pytest.warns(ConvergenceWarning) as seen:
        estimator.transform(X)
    text = str(seen[0].message)
    assert len(seen) == 1
    assert "Maximum number of iterations 2 reached. Increase it to improve convergence." in text
    assert re.search(r"\b40 of 40 rows", text), text
    estimator.set_params(tol=1e-4, max_iter=2000)
    estimator.transform(X)  # and silence when no row did


def peak(function):
    """Most bytes that Python and numpy held at once during a call, beyond what they held before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        function()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "solver, beta, dtype, init, share",
    [
        ("cd", 2, "float64", "nndsvd", 0.6),
        ("cd", 2, "float32", "random", 0.6),
        ("mu", 1, "float64", "random", 0.6),
        ("mu", 0.5, "float32", "random", 0.6),
        ("cd", 2, "uint8", "random", 2.0),
        ("cd", 2, "int64", "random", 0.6),
        ("cd", 2, "float16", "random", 1.0),
        ("mu", 1, "uint8", "random", 2.0),
    ],
)
def test_defect_h_no_temporary_as_large_as_X(solver, beta, dtype, init, share):
    rng = np.random.RandomState(0)
    X = rng.randint(1, 50, (20000, 250)).astype(dtype)
    estimator = model(k=5, solver=solver, beta_loss=beta, init=init, max_iter=2)
    estimator.fit(X[:500])  # whatever is set up once
    assert peak(lambda: estimator.fit(X)) < share * X.nbytes
    assert peak(lambda: estimator.set_params(max_iter=2).transform(X)) < share * X.nbytes


def test_F_ordered_X_is_not_copied_whole():
    X = np.asfortranarray(np.random.RandomState(0).rand(20000, 250))
    estimator = model(k=5, init="random", max_iter=2)
    estimator.fit(X[:500])
    assert peak(lambda: estimator.fit(X)) < 0.6 * X.nbytes


def test_a_frame_of_integers_is_not_widened_whole():
    """What pandas.read_csv gives: int64, in columns."""
    frame = pd.DataFrame(np.random.RandomState(0).randint(0, 256, (250, 20000)).T)
    assert (frame.dtypes == np.int64).all()
    estimator = model(k=5, init="random", max_iter=2)
    estimator.fit(frame[:500])
    assert peak(lambda: estimator.fit(frame)) < 0.6 * 8 * frame.size


@pytest.mark.parametrize("beta", [0.5, 1.5])
def test_defect_j_sparse_float32_with_any_beta(beta):
    X = (data() * (data(seed=5) > 1)).astype("float32")
    dense = model(solver="mu", beta_loss=beta).fit(X)
    sparse = model(solver="mu", beta_loss=beta).fit(sp.csr_matrix(X))
    assert sparse.components_.dtype == "float32"
    np.testing.assert_allclose(sparse.components_, dense.components_, rtol=1e-3, atol=1e-4 * dense.components_.max())


# --- components_ assigned to an unfitted estimator ----------------------------------------------


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("k", ["auto", 3])
def test_components_assigned_to_an_unfitted_estimator(k, solver):
    X, H = data(), factors()["H"]
    estimator = ours.NMF(k, solver=solver, tol=0, max_iter=5)
    estimator.components_ = H
    W = estimator.transform(X)
    expected, _, _ = ours.non_negative_factorization(
        X, H=H, n_components=3, update_H=False, solver=solver, tol=0, max_iter=5
    )
    np.testing.assert_array_equal(W, expected)
    np.testing.assert_allclose(estimator.inverse_transform(W), W @ H, rtol=1e-12)


def test_components_assigned_that_do_not_match():
    message = "Array with wrong first dimension passed to NMF (input H). Expected 10, but got 3."
    estimator = ours.NMF(10)
    estimator.components_ = factors()["H"]
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        estimator.transform(data())


@pytest.mark.parametrize("name", CLASSES)
def test_transform_leaves_the_estimator_alone(name):
    estimator = model(cls=name).fit(data())
    before = dict(vars(estimator))
    estimator.transform(data())
    estimator.score(data())
    assert vars(estimator).keys() == before.keys()
    assert all(vars(estimator)[key] is value for key, value in before.items())


# --- max_time, callback, interruption -----------------------------------------------------------


@pytest.mark.parametrize("solver, beta", [("cd", 2), ("mu", 2), ("mu", 1)])
def test_max_time(solver, beta):
    estimator = ours.NMF(3, solver=solver, beta_loss=beta, tol=0, max_iter=10**7, max_time=0.2, random_state=0)
    X = data()
    model(solver=solver, beta_loss=beta).fit(X)  # compiled before the clock runs
    with pytest.warns(ConvergenceWarning, match="max_time"):
        W = estimator.fit_transform(X)
    assert estimator.converged_ is False
    assert 0 < estimator.n_iter_ < 10**7
    assert estimator.history_["seconds"][-1] < 10
    assert "max_time" in estimator.stop_reason_ or "time" in estimator.stop_reason_
    divergence = reference.beta_divergence(X, W, estimator.components_, beta)
    assert estimator.reconstruction_err_ == pytest.approx(np.sqrt(2 * divergence), rel=1e-6)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_callback_reports(solver):
    X = data()
    callback = Counter()
    estimator = model(solver=solver, max_iter=6, callback=callback)
    estimator.fit(X)
    reports = callback.reports
    passes = [report.iteration for report in reports]
    if solver == "hals":  # a rejected pass counts, and is not reported
        assert len(passes) >= 4
        assert set(passes) <= {1, 2, 3, 4, 5, 6}
        assert passes == sorted(set(passes))
    else:
        assert passes == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal([r.loss for r in reports], reference.accepted_losses(estimator))
    assert all(np.diff([report.seconds for report in reports]) >= 0)
    assert all(report.kkt >= 0 for report in reports)
    without = model(solver=solver, max_iter=6).fit(X)
    assert bits(without.components_) == bits(estimator.components_)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_callback_factors(solver):
    X = data()
    seen = []
    estimator = model(solver=solver, max_iter=4, callback=lambda report: seen.append(report.factors()))
    W = estimator.fit_transform(X)
    shorter = model(solver=solver, max_iter=2)
    W2 = shorter.fit_transform(X)
    assert len(seen) == 4
    for (found_W, found_H), (expected_W, expected_H) in (
        (seen[1], (W2, shorter.components_)),
        (seen[3], (W, estimator.components_)),
    ):
        np.testing.assert_allclose(found_W, expected_W, rtol=1e-12)
        np.testing.assert_allclose(found_H, expected_H, rtol=1e-12)
    # They are copies.
    W_before = W.copy()
    seen[3][0][:] = -1
    np.testing.assert_array_equal(W, W_before)


def test_callback_stops_on_true_of_numpy_as_well():
    """``lambda report: report.loss < array.sum()`` gives numpy's True."""
    estimator = model(callback=lambda report: np.bool_(report.iteration == 2)).fit(data())
    assert estimator.n_iter_ == 2


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_callback_stops(solver):
    X = data()
    callback = Counter(stop_at=3)
    estimator = ours.NMF(3, solver=solver, random_state=0, callback=callback)
    W = quiet(estimator.fit_transform, X)
    assert len(callback.reports) == 3
    assert estimator.n_iter_ == 3
    assert estimator.converged_ is False
    assert "callback" in estimator.stop_reason_
    same = model(solver=solver, max_iter=3)
    assert bits(same.fit_transform(X)) == bits(W)
    assert bits(same.components_) == bits(estimator.components_)


class Stop(Exception):
    pass


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("error", [Stop("enough"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_exception_in_a_callback(solver, error):
    X = data()
    estimator = ours.NMF(3, solver=solver, random_state=0, callback=Counter(stop_at=3, error=error))
    with pytest.raises(type(error)) as raised:
        estimator.fit(X)
    assert raised.value is error
    assert estimator.converged_ is False
    assert estimator.n_iter_ == 3
    same = model(solver=solver, max_iter=3).fit(X)
    assert bits(same.components_) == bits(estimator.components_)
    assert estimator.reconstruction_err_ == pytest.approx(same.reconstruction_err_, rel=1e-12)
    assert quiet(estimator.transform, X).shape == (40, 3)
    assert len(estimator.history_["loss"]) == 3
    # The estimator can be fitted again.
    estimator.set_params(callback=None, tol=0, max_iter=3).fit(X)
    assert bits(same.components_) == bits(estimator.components_)


def test_callback_of_minibatch():
    X = data()
    callback = Counter(stop_at=2)
    estimator = model(cls="MiniBatchNMF", callback=callback)
    quiet(estimator.fit, X)
    assert len(callback.reports) == 2
    failing = model(cls="MiniBatchNMF", callback=Counter(stop_at=2, error=Stop()))
    with pytest.raises(Stop):
        failing.fit(X)
    assert failing.converged_ is False
    assert failing.components_.shape == (3, 12)


# --- scikit-learn's callback protocol, 1.9 and later --------------------------------------------

with_protocol = pytest.mark.skipif(parse_version("1.9") > SKLEARN, reason="scikit-learn < 1.9 has no callback protocol")


class Recorder:
    """A callback of scikit-learn's protocol."""

    def __init__(self, stop_at=None, error_at=None):
        self.events, self.fitted = [], []
        self.stop_at, self.error_at = stop_at, error_at

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X=None):
        self.events.append("begin fit" if context.parent is None else "begin")

    def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
        if context.parent is None:
            self.events.append("end fit")
            return None
        self.events.append("end")
        self.fitted.append(fitted_estimator)
        if len(self.fitted) == self.error_at:
            raise Stop("enough")
        return len(self.fitted) == self.stop_at


@with_protocol
@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_protocol_events(solver):
    X = data()
    recorder = Recorder()
    estimator = model(solver=solver, max_iter=4).set_callbacks(recorder)
    W = estimator.fit_transform(X)
    expected = ["setup", "begin fit", *["begin", "end"] * 4, "end fit", "teardown"]
    assert recorder.events == expected
    assert clone(estimator)._skl_callbacks == [recorder]
    plain = model(solver=solver, max_iter=4)
    assert bits(plain.fit_transform(X)) == bits(W)
    second = recorder.fitted[1]
    np.testing.assert_allclose(second.components_, model(solver=solver, max_iter=2).fit(X).components_, rtol=1e-12)
    assert second.transform(X).shape == (40, 3)


@with_protocol
def test_protocol_stops_and_fails():
    X = data()
    estimator = ours.NMF(3, random_state=0).set_callbacks(Recorder(stop_at=2))
    quiet(estimator.fit, X)
    assert estimator.n_iter_ == 2
    assert estimator.converged_ is False
    recorder = Recorder(error_at=2)
    estimator = ours.NMF(3, random_state=0).set_callbacks(recorder)
    with pytest.raises(Stop):
        estimator.fit(X)
    assert recorder.events[-1] == "teardown"
    assert estimator.n_iter_ == 2
    assert estimator.converged_ is False


@with_protocol
def test_progress_bar(capsys):
    pytest.importorskip("rich")
    from sklearn.callback import ProgressBar

    estimator = model(max_iter=4).set_callbacks(ProgressBar())
    estimator.fit(data())
    assert "NMF" in capsys.readouterr().out
    assert estimator.n_iter_ == 4


@with_protocol
def test_protocol_of_minibatch():
    recorder = Recorder()
    estimator = model(cls="MiniBatchNMF", max_iter=2).set_callbacks(recorder)
    estimator.fit(data())
    assert recorder.events[:2] == ["setup", "begin fit"]
    assert recorder.events[-2:] == ["end fit", "teardown"]
    assert recorder.events.count("end") in (estimator.n_iter_, estimator.n_steps_)
