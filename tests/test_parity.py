"""nmfcore's iterates and results beside scikit-learn's own, computed in the same process.

float64 is compared at tolerances relative to the largest entry.  float32 is compared with
scikit-learn's float64 result, and may be off by a small multiple of what scikit-learn's own
float32 result is off.
"""

import warnings

import numpy as np
import pytest
import reference
import scipy.sparse as sp
import sklearn.decomposition as theirs
from sklearn.datasets import load_digits
from sklearn.decomposition import _nmf as their_nmf
from sklearn.exceptions import ConvergenceWarning

import nmfcore as ours
from nmfcore import _nmf as our_nmf

BETAS = (-1.2, 0, 0.2, 0.5, 1, 1.5, 2, 2.5, 3)
INITS = ("random", "nndsvd", "nndsvda", "nndsvdar", "custom")
PENALTIES = {
    "none": {},
    "l1": {"alpha_W": 2e-3, "l1_ratio": 1.0},
    "l2": {"alpha_W": 2e-3, "l1_ratio": 0.0},
    "both": {"alpha_W": 2e-3, "l1_ratio": 0.5},
    "W": {"alpha_W": 2e-3, "alpha_H": 0.0, "l1_ratio": 0.3},
    "H": {"alpha_W": 0.0, "alpha_H": 2e-3, "l1_ratio": 0.3},
}
ITERATIONS = (1, 5, 50)
K = 5
# Largest difference over the largest entry, float64, after so many iterations.
CLOSE = {1: 1e-11, 5: 1e-10, 50: 1e-7}
# float32: at least this is allowed, and at most FACTOR × scikit-learn's own distance.
FLOOR = {1: 1e-5, 5: 3e-5, 50: 2e-4}
FACTOR = 10


def quiet(function, *args, **kwargs):
    """Call without the warnings both sides are expected to give; others stay errors.

    scikit-learn may also warn of an invalid value in numpy's dot: OpenBLAS sets the flag, now and then and
    depending on what lies in memory, for finite float32 columns.
    """
    with warnings.catch_warnings():
        if type(getattr(function, "__self__", None)).__module__.startswith("sklearn."):
            warnings.filterwarnings("ignore", "invalid value encountered in dot", RuntimeWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", r"The multiplicative update \('mu'\)", UserWarning)
        return function(*args, **kwargs)


def dense_data(positive):
    """150×33, several tiles high and ragged; a fifth zeros unless `positive`."""
    rng = np.random.RandomState(0)
    X = rng.gamma(0.7, 1.0, (150, 6)) @ rng.gamma(0.7, 1.0, (6, 33))
    X += 0.1 * rng.rand(*X.shape) + 1e-2
    return X if positive else X * (rng.rand(*X.shape) > 0.2)


def sparse_data(positive):
    """90×45 CSR with an empty row and an empty column; all entries stored if `positive`."""
    rng = np.random.RandomState(1)
    X = rng.gamma(0.7, 1.0, (90, 4)) @ rng.gamma(0.7, 1.0, (4, 45)) + 0.05
    if positive:
        return sp.csr_matrix(X)
    X *= rng.rand(*X.shape) < 0.3
    X[7], X[:, 11] = 0, 0
    return sp.csr_matrix(X)


def data(form, beta, dtype):
    X = dense_data(beta <= 0) if form == "dense" else sparse_data(beta <= 0)
    return X.astype(dtype)


def start(X, dtype, zeros=True):
    """A custom start, with some exact zeros in it unless β ≤ 0 forbids them."""
    rng = np.random.RandomState(2)
    W, H = rng.gamma(1.0, 1.0, (X.shape[0], K)), rng.gamma(1.0, 1.0, (K, X.shape[1]))
    if zeros:
        W *= rng.rand(*W.shape) > 0.1
        H *= rng.rand(*H.shape) > 0.1
    return {"W": W.astype(dtype), "H": H.astype(dtype)}


def factorize(package, X, init, **parameters):
    """(W, H, n_iter) of one package, never touching what the caller holds."""
    zeros = parameters.get("beta_loss", 2) > 0
    begin = start(X, X.dtype, zeros) if init == "custom" else {}
    return quiet(
        package.non_negative_factorization,
        X.copy(),
        n_components=K,
        init=init,
        random_state=0,
        **begin,
        **parameters,
    )


def distance(found, expected):
    """Largest difference over the largest expected entry."""
    assert np.isfinite(found).all()
    return np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max()


def covering():
    """Every (solver, beta, form, dtype), with inits and penalties rotating through."""
    settings = [("cd", 2)] + [("mu", beta) for beta in BETAS]
    turn = 0
    for form in ("dense", "csr"):
        for dtype in ("float64", "float32"):
            for solver, beta in settings:
                for _ in range(3 if solver == "cd" else 1):
                    init = INITS[turn % len(INITS)]
                    penalty = list(PENALTIES)[turn % len(PENALTIES)]
                    yield solver, beta, form, dtype, init, penalty
                    turn += 1
    for solver, beta in (("cd", 2), ("mu", 1), ("mu", 2)):
        for i, init in enumerate(INITS):
            yield solver, beta, "dense", "float64", init, "none"
            yield solver, beta, "csr", "float64", init, list(PENALTIES)[i + 1]


CASES = sorted(set(covering()), key=str)


def test_cases_cover_every_pair():
    """The covering leaves no (setting, penalty) or (setting, init) kind out for cd and mu."""
    for solver in ("cd", "mu"):
        mine = [case for case in CASES if case[0] == solver]
        assert {case[4] for case in mine} == set(INITS)
        assert {case[5] for case in mine} == set(PENALTIES)
        for position, values in ((2, ("dense", "csr")), (3, ("float32", "float64"))):
            assert {case[position] for case in mine} == set(values)


@pytest.mark.parametrize("solver, beta, form, dtype, init, penalty", CASES)
def test_iterates(solver, beta, form, dtype, init, penalty):
    X = data(form, beta, dtype)
    exact = data(form, beta, "float32").astype("float64") if dtype == "float32" else X
    for count in ITERATIONS:
        parameters = {"solver": solver, "beta_loss": beta, "max_iter": count, "tol": 0}
        parameters.update(PENALTIES[penalty])
        W, H, n_iter = factorize(ours, X, init, **parameters)
        W_theirs, H_theirs, n_theirs = factorize(theirs, X, init, **parameters)
        assert W.dtype == H.dtype == dtype
        assert n_iter == n_theirs == count
        if dtype == "float64":
            allowed = {"W": CLOSE[count], "H": CLOSE[count]}
            expected = {"W": W_theirs, "H": H_theirs}
        else:
            W_exact, H_exact, _ = factorize(theirs, exact, init, **parameters)
            expected = {"W": W_exact, "H": H_exact}
            allowed = {
                "W": max(FLOOR[count], FACTOR * distance(W_theirs, W_exact)),
                "H": max(FLOOR[count], FACTOR * distance(H_theirs, H_exact)),
            }
        assert distance(W, expected["W"]) <= allowed["W"], count
        assert distance(H, expected["H"]) <= allowed["H"], count


@pytest.mark.parametrize("penalty", ["none", "both", "H"])
@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("solver, beta", [("cd", 2)] + [("mu", beta) for beta in BETAS])
def test_stops_at_the_same_iteration(solver, beta, form, penalty):
    X = data(form, beta, "float64")
    for tol in (1e-2, 3e-4):
        parameters = {"solver": solver, "beta_loss": beta, "max_iter": 80, "tol": tol}
        parameters.update(PENALTIES[penalty])
        W, H, n_iter = factorize(ours, X, "random", **parameters)
        W_theirs, H_theirs, n_theirs = factorize(theirs, X, "random", **parameters)
        assert n_iter == n_theirs
        assert distance(W, W_theirs) <= 1e-7
        assert distance(H, H_theirs) <= 1e-7


@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("penalty", ["none", "both"])
def test_shuffle(form, penalty):
    X = data(form, 2, "float64")
    for count in ITERATIONS:
        parameters = {"max_iter": count, "tol": 0, "shuffle": True, **PENALTIES[penalty]}
        W, H, _ = factorize(ours, X, "random", **parameters)
        W_theirs, H_theirs, _ = factorize(theirs, X, "random", **parameters)
        assert distance(W, W_theirs) <= CLOSE[count]
        assert distance(H, H_theirs) <= CLOSE[count]
    straight, _, _ = factorize(ours, X, "random", max_iter=1, tol=0)
    shuffled, _, _ = factorize(ours, X, "random", max_iter=1, tol=0, shuffle=True)
    assert distance(shuffled, straight) > 1e-3


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("form", ["dense", "csr", "wide", "square"])
@pytest.mark.parametrize("init", [None, "random", "nndsvd", "nndsvda", "nndsvdar"])
def test_initialization(init, form, seed):
    if form in ("wide", "square"):
        X = dense_data(False)[:: 10 if form == "wide" else 5][:, :30]
    else:
        X = data(form, 2, "float64")
    for k in (1, 3, min(X.shape)):
        for dtype, close in (("float64", 1e-10), ("float32", 2e-3)):
            W, H = our_nmf._initialize_nmf(X.astype(dtype), k, init=init, random_state=seed)
            W_theirs, H_theirs = their_nmf._initialize_nmf(X.astype(dtype), k, init=init, random_state=seed)
            assert W.dtype == H.dtype == dtype
            if dtype == "float32" and k == min(X.shape):
                continue  # the last singular vectors are noise there
            assert distance(W, W_theirs) <= close
            assert distance(H, H_theirs) <= close


def test_nndsvd_twin():
    """The initialisation beside the naive twin fed with the exact SVD's triplets."""
    X = dense_data(False)[:40]
    U, S, V = np.linalg.svd(X, full_matrices=False)
    W, H = reference.nndsvd(U[:, :K], S[:K], V[:K], fill=X.mean())
    found_W, found_H = our_nmf._initialize_nmf(X, K, init="nndsvda", random_state=0)
    assert distance(found_W, W) <= 1e-3
    assert distance(found_H, H) <= 1e-3


# --- the naive twins ----------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", list(PENALTIES))
@pytest.mark.parametrize("solver, beta", [("cd", 2)] + [("mu", beta) for beta in BETAS])
def test_iterates_of_the_twins(solver, beta, penalty):
    X = data("dense", beta, "float64")[:17, :11]
    begin = start(X, "float64", beta > 0)
    W, H = begin["W"], begin["H"]
    scaled = reference.penalties(*X.shape, **PENALTIES[penalty])
    for _ in range(2):
        if solver == "cd":
            W, H, _, _ = reference.cd_iteration(X, W, H, scaled)
        else:
            W, H = reference.mu_iteration(X, W, H, beta, scaled)
    parameters = {"solver": solver, "beta_loss": beta, "max_iter": 2, "tol": 0}
    parameters.update(PENALTIES[penalty])
    for matrix in (X, sp.csr_matrix(X)):
        found_W, found_H, _ = factorize(ours, matrix, "custom", **parameters)
        assert distance(found_W, W) <= 1e-11
        assert distance(found_H, H) <= 1e-11


@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("beta", BETAS)
def test_divergence(beta, form):
    X = data(form, beta, "float64")[:30]
    begin = start(X, "float64", beta > 0)
    W, H = begin["W"], begin["H"]
    expected = reference.beta_divergence(X, W, H, beta)
    assert our_nmf._beta_divergence(X, W, H, beta) == pytest.approx(expected, rel=1e-10)
    root = our_nmf._beta_divergence(X, W, H, beta, square_root=True)
    assert root == pytest.approx(np.sqrt(2 * expected), rel=1e-10)
    assert their_nmf._beta_divergence(X, W, H, beta) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("beta", BETAS)
def test_tiny_entries_become_zero_where_scikit_learns_do(beta, form):
    X = data(form, 0, "float64")
    begin = start(X, "float64", zeros=False)
    begin["W"][::3] *= 1e-17
    begin["H"][:, ::2] *= 1e-18
    parameters = {"solver": "mu", "beta_loss": beta, "max_iter": 1, "tol": 0, "init": "custom"}
    results = [
        package.non_negative_factorization(X, W=begin["W"].copy(), H=begin["H"].copy(), n_components=K, **parameters)
        for package in (ours, theirs)
    ]
    for found, expected in zip(results[0][:2], results[1][:2], strict=True):
        np.testing.assert_array_equal(found == 0, expected == 0)
        np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("cls", ["NMF", "MiniBatchNMF"])
def test_a_generator_is_drawn_from_as_by_scikit_learn(cls):
    """One RandomState for the start, the fill of zeros and the order of components."""
    X = dense_data(False)
    parameters = {"init": "nndsvdar", "tol": 0, "max_iter": 3}
    parameters.update({"shuffle": True} if cls == "NMF" else {"batch_size": 40})
    fits, left = [], []
    for package in (ours, theirs):
        rng = np.random.RandomState(5)
        fits.append(getattr(package, cls)(K, random_state=rng, **parameters).fit(X.copy()))
        left.append(rng.randint(10**9))
    assert distance(fits[0].components_, fits[1].components_) <= 1e-10
    assert left[0] == left[1]


# --- transform ----------------------------------------------------------------------------------


def fitted(package, cls, form, beta, **parameters):
    """An estimator fitted and then given the same components in either package."""
    X = data(form, beta, "float64")
    estimator = getattr(package, cls)(n_components=K, beta_loss=beta, random_state=0, **parameters)
    quiet(estimator.set_params(max_iter=1).fit, X.copy())
    if "max_iter" in parameters:
        estimator.set_params(max_iter=parameters["max_iter"])
    if cls == "MiniBatchNMF":
        # scikit-learn reads this parameter at fit, and only there.
        estimator._transform_max_iter = parameters["max_iter"]
        estimator.set_params(transform_max_iter=parameters["max_iter"])
    estimator.components_ = start(X, "float64")["H"] + 0.01
    return estimator, X


@pytest.mark.parametrize("penalty", ["none", "both"])
@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("tol", [0, 1e-4])
@pytest.mark.parametrize(
    "cls, solver, beta",
    [("NMF", "cd", 2)]
    + [("NMF", "mu", beta) for beta in BETAS]
    + [("MiniBatchNMF", None, beta) for beta in (0, 0.5, 1, 2)],
)
def test_transform_is_scikit_learns_of_each_row_alone(cls, solver, beta, tol, form, penalty, monkeypatch):
    # scikit-learn adds the L1 penalty to the column sums it keeps, once more every iteration:
    # with β = 1 and H fixed the penalty grows without end.  Compare with what it means to do.
    original = their_nmf._multiplicative_update_w
    monkeypatch.setattr(
        their_nmf,
        "_multiplicative_update_w",
        lambda *args, H_sum=None, **kwargs: original(*args, H_sum=None, **kwargs),
    )
    parameters = {"tol": tol, "max_iter": 50 if tol else 12, **PENALTIES[penalty]}
    if solver:
        parameters["solver"] = solver
    estimator, X = fitted(ours, cls, form, beta, **parameters)
    their_estimator, _ = fitted(theirs, cls, form, beta, **parameters)
    if cls == "MiniBatchNMF":  # whose rule is over a batch: a row alone settles as well with half of tol
        their_estimator.set_params(tol=tol / 2)
    rows = [i for i in range(0, 12) if reference.dense(X[[i]]).any()]
    found = quiet(estimator.transform, X[rows])
    expected = [quiet(their_estimator.transform, X[[i]]) for i in rows]
    assert distance(found, np.vstack(expected)) <= 1e-9


def test_penalised_kl_codes_count_the_penalty_once():
    estimator, X = fitted(ours, "NMF", "dense", 1, solver="mu", tol=0, max_iter=6, alpha_W=1e-2, l1_ratio=1.0)
    H, l1_W = estimator.components_, 1e-2 * X.shape[1]
    for x in X[:3]:
        w = np.full((1, K), np.sqrt(x.mean() / K))
        for _ in range(6):
            w = reference.mu_rows(x[None], w, H.T, 1, l1_W)
        assert distance(estimator.transform(x[None]), w) <= 1e-11


@pytest.mark.parametrize("form", ["dense", "csr"])
def test_transform_agrees_with_scikit_learn_when_solved(form):
    estimator, X = fitted(ours, "NMF", form, 2, tol=1e-12, max_iter=5000)
    their_estimator, _ = fitted(theirs, "NMF", form, 2, tol=1e-12, max_iter=5000)
    assert distance(estimator.transform(X), their_estimator.transform(X)) <= 1e-8


# --- MiniBatchNMF -------------------------------------------------------------------------------

MINIBATCH = {
    "plain": {},
    "kl": {"beta_loss": "kullback-leibler"},
    "is": {"beta_loss": "itakura-saito"},
    "half": {"beta_loss": 0.5},
    "three": {"beta_loss": 3},
    "negative": {"beta_loss": -0.7},
    "fresh": {"fresh_restarts": True, "fresh_restarts_max_iter": 7},
    "fresh-kl": {"fresh_restarts": True, "beta_loss": 1, "transform_max_iter": 9},
    "forgets-all": {"forget_factor": 0.0},
    "forgets-nothing": {"forget_factor": 1.0},
    "l1": {"alpha_W": 2e-3, "l1_ratio": 1.0},
    "l2": {"alpha_W": 2e-3},
    "both-kl": {"alpha_W": 2e-3, "alpha_H": 1e-3, "l1_ratio": 0.4, "beta_loss": 1},
    "one-batch": {"batch_size": 1000},
    "no-patience": {"max_no_improvement": 2},
    "nndsvdar": {"init": "nndsvdar"},
    "random": {"init": "random"},
    "custom": {"init": "custom"},
    "stops": {"tol": 3e-2},
}


def minibatch(package, **parameters):
    defaults = {"batch_size": 16, "max_iter": 6, "random_state": 0, "tol": 1e-4}
    return package.MiniBatchNMF(n_components=K, **{**defaults, **parameters})


@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("case", list(MINIBATCH))
def test_minibatch_fit(case, form):
    parameters = MINIBATCH[case]
    beta = our_nmf._beta_loss_to_float(parameters.get("beta_loss", 2))
    X = data(form, beta, "float64")[:70]
    begin = start(X, "float64") if case == "custom" else {}
    mine, other = minibatch(ours, **parameters), minibatch(theirs, **parameters)
    copies = {name: value.copy() for name, value in begin.items()}
    W = quiet(mine.fit_transform, X, **begin)
    W_theirs = quiet(other.fit_transform, X.copy(), **copies)
    assert mine.n_steps_ == other.n_steps_
    assert mine.n_iter_ == other.n_iter_
    assert distance(mine.components_, other.components_) <= 1e-8
    # With fresh restarts W comes from a last coding pass, whose stop is decided per row.
    fresh = parameters.get("fresh_restarts", False)
    assert distance(W, W_theirs) <= (2e-2 if fresh else 1e-8)
    error = other.reconstruction_err_
    assert mine.reconstruction_err_ == pytest.approx(error, rel=1e-3 if fresh else 1e-8)


@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("case", ["plain", "kl", "half", "fresh", "both-kl"])
def test_minibatch_fit_float32(case, form):
    parameters = {**MINIBATCH[case], "tol": 0, "max_no_improvement": None, "max_iter": 3}
    beta = our_nmf._beta_loss_to_float(parameters.get("beta_loss", 2))
    X = data(form, beta, "float32")[:70]
    mine = quiet(minibatch(ours, **parameters).fit, X)
    other = quiet(minibatch(theirs, **parameters).fit, X.copy())
    exact = quiet(minibatch(theirs, **parameters).fit, X.astype("float64"))
    assert mine.components_.dtype == "float32"
    assert mine.n_steps_ == other.n_steps_
    allowed = max(1e-4, FACTOR * distance(other.components_, exact.components_))
    assert distance(mine.components_, exact.components_) <= allowed


@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("case", ["plain", "kl", "is", "half", "three", "both-kl", "custom"])
def test_minibatch_partial_fit(case, form):
    parameters = MINIBATCH[case]
    beta = our_nmf._beta_loss_to_float(parameters.get("beta_loss", 2))
    X = data(form, beta, "float64")[:80]
    if form == "csr" and beta > 0:
        X = X[[i for i in range(80) if i != 7]]
    mine, other = minibatch(ours, **parameters), minibatch(theirs, **parameters)
    for i, rows in enumerate((slice(0, 20), slice(20, 50), slice(50, 57), slice(0, 20))):
        begin = start(X[rows], "float64") if case == "custom" else {}
        copies = {name: value.copy() for name, value in begin.items()}
        mine.partial_fit(X[rows], **begin)
        other.partial_fit(X[rows].copy(), **copies)
        assert mine.n_steps_ == other.n_steps_ == i + 1
        assert distance(mine.components_, other.components_) <= 1e-8


@pytest.mark.parametrize("package", [ours, theirs], ids=["ours", "theirs"])
def test_minibatch_partial_fit_is_fit(package):
    """What scikit-learn's test_minibatch_nmf_partial_fit means, without sharing H's memory.

    That test cuts other batches than `fit` does, and passes there because both models write to
    the H of the caller and then hold the same array.
    """
    X = dense_data(False)[:100]
    begin = start(X, "float64")
    common = {"init": "custom", "tol": 0, "fresh_restarts": True}
    whole = minibatch(package, max_iter=2, batch_size=10, max_no_improvement=None, **common)
    quiet(whole.fit, X, W=begin["W"].copy(), H=begin["H"].copy())
    # partial_fit takes its batch for the whole: the same weight of the past per batch.
    parts = minibatch(package, batch_size=10, forget_factor=0.7 ** (10 / 100), **common)
    for _ in range(2):
        for lo in range(0, 100, 10):
            rows = slice(lo, lo + 10)
            parts.partial_fit(X[rows], W=begin["W"][rows].copy(), H=begin["H"].copy())
    assert whole.n_steps_ == parts.n_steps_ == 20
    assert distance(parts.components_, whole.components_) <= 1e-12


@pytest.mark.parametrize("beta", [1, 2, 0.5])
def test_minibatch_with_a_dead_component(beta):
    """A component without any weight: its denominators are 1 (β = 1) or a small floor."""
    X = dense_data(False)[:70]
    begin = start(X, "float64", zeros=False)
    begin["W"][:, 2] = 0
    fits = []
    for package in (ours, theirs):
        estimator = minibatch(package, init="custom", beta_loss=beta, tol=0, max_iter=2)
        fits.append(estimator.fit(X, W=begin["W"].copy(), H=begin["H"].copy()))
    assert distance(fits[0].components_, fits[1].components_) <= 1e-9
    np.testing.assert_allclose(fits[0].components_[2], fits[1].components_[2], rtol=1e-9)


def test_minibatch_fit_then_partial_fit():
    X = dense_data(False)
    mine = quiet(minibatch(ours).fit, X[:100])
    other = quiet(minibatch(theirs).fit, X[:100].copy())
    for _ in range(2):
        mine.partial_fit(X[100:])
        other.partial_fit(X[100:].copy())
    assert mine.n_steps_ == other.n_steps_
    assert distance(mine.components_, other.components_) <= 1e-8


# --- the end of a fit on real data --------------------------------------------------------------


def at_the_end(X, k, solver, beta, init, **parameters):
    """Reconstruction errors and n_iter_ of both packages."""
    estimators = []
    for package in (ours, theirs):
        estimator = package.NMF(k, init=init, solver=solver, beta_loss=beta, random_state=0, **parameters)
        estimators.append(quiet(estimator.fit, X))
    return estimators


def same_end(X, k, solver, beta, init, **parameters):
    X32 = X.astype("float32")
    mine, other = at_the_end(X, k, solver, beta, init, **parameters)
    assert mine.n_iter_ == other.n_iter_
    assert mine.reconstruction_err_ == pytest.approx(other.reconstruction_err_, rel=1e-6)
    # float32 may stop elsewhere: the same number of iterations of each.
    parameters.update(tol=0, max_iter=min(int(other.n_iter_), 40))
    mine, other = at_the_end(X32, k, solver, beta, init, **parameters)
    assert mine.reconstruction_err_ == pytest.approx(other.reconstruction_err_, rel=1e-3)


@pytest.mark.parametrize("init", ["random", "nndsvd", "nndsvda", "nndsvdar"])
@pytest.mark.parametrize("solver, beta", [("cd", 2), ("mu", 2), ("mu", 1), ("mu", 0.5)])
def test_error_on_digits(solver, beta, init):
    X = load_digits().data[:: 2 if beta == 2 else 5]
    same_end(X, 10, solver, beta, init, max_iter=40)


@pytest.mark.parametrize("beta", [0, 1.5])
def test_error_on_positive_digits(beta):
    same_end(load_digits().data[::5] + 1.0, 8, "mu", beta, "nndsvda", max_iter=40)


@pytest.fixture(scope="module")
def cbcl(data_folder):
    """2,429 faces of 19×19, grey the right way round."""
    from scipy.io import loadmat

    return np.ascontiguousarray(1 - loadmat(data_folder / "faces" / "cbcl.mat")["X"].T)


@pytest.fixture(scope="module")
def bbc(data_folder):
    """2,225 documents × 9,635 terms, counts."""
    from scipy.io import mmread

    with warnings.catch_warnings():  # scipy >= 1.18 announces that a sparse array will come
        warnings.simplefilter("ignore", DeprecationWarning)
        return sp.csr_matrix(mmread(data_folder / "text" / "bbc.mtx").T).astype("float64")


@pytest.mark.parametrize(
    "solver, beta, init",
    [
        ("cd", 2, "random"),
        ("cd", 2, "nndsvda"),
        ("mu", 2, "random"),
        ("mu", 2, "nndsvd"),
        ("mu", 1, "nndsvdar"),
        ("mu", 0.5, "random"),
    ],
)
def test_error_on_cbcl(cbcl, solver, beta, init):
    X = cbcl if solver == "cd" else cbcl[::10]
    same_end(X, 12, solver, beta, init, max_iter=30)


@pytest.mark.parametrize(
    "solver, beta, init",
    [
        ("cd", 2, "random"),
        ("cd", 2, "nndsvd"),
        ("cd", 2, "nndsvdar"),
        ("mu", 2, "nndsvda"),
        ("mu", 1, "random"),
        ("mu", 0.5, "random"),
    ],
)
def test_error_on_bbc(bbc, solver, beta, init):
    X = bbc if beta == 2 else bbc[::6]
    same_end(X, 5, solver, beta, init, max_iter={2: 40, 1: 20, 0.5: 3}[beta])
