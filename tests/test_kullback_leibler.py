"""solver="hals" with beta_loss="kullback-leibler": what it computes, how far it gets, and what it refuses."""

import numpy as np
import pytest
import reference as ref
import scipy.sparse as sp

from nmfcore import NMF, non_negative_factorization
from nmfcore.cli.fit import _with_defaults
from nmfcore.objective import UNPENALISED
from nmfcore.solvers import handles, make_solver, reads_columns
from nmfcore.solvers.kullback_leibler import KullbackLeiblerDescent

KL = "kullback-leibler"
FORMS = {"dense": np.asarray, "fortran": np.asfortranarray, "csr": sp.csr_matrix, "csc": sp.csc_matrix}


def counts(n=40, m=17, k=3, seed=0):
    """Counts of k parts, some rows and columns of which are zero."""
    rng = np.random.default_rng(seed)
    X = rng.poisson(3 * rng.gamma(0.5, 1.0, (n, k)) @ rng.gamma(0.5, 1.0, (k, m))).astype(float)
    X[3], X[:, 5] = 0, 0
    return X


def started(X, k=3, seed=1):
    rng = np.random.default_rng(seed)
    return {"W": rng.random((X.shape[0], k)) + 0.1, "H": rng.random((k, X.shape[1])) + 0.1}


def model(k=3, **parameters):
    return NMF(k, solver="hals", beta_loss=KL, **{"init": "random", "random_state": 0, "tol": 0, **parameters})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("penalty", [{}, {"alpha_W": 0.01, "alpha_H": 0.02, "l1_ratio": 0.3}], ids=["none", "both"])
def test_two_passes_are_those_of_the_plain_descent(form, penalty):
    X = counts()
    start, scaled = started(X), ref.penalties(*X.shape, **penalty)
    W, H, losses = ref.kl_descent(X, start["W"], start["H"], 2, scaled)
    fitted = model(init="custom", max_iter=2, **penalty)  # the third begins ahead
    found = fitted.fit_transform(FORMS[form](X), **start)
    np.testing.assert_allclose(found, W, rtol=0, atol=1e-10 * W.max())
    np.testing.assert_allclose(fitted.components_, H, rtol=0, atol=1e-10 * H.max())
    np.testing.assert_allclose(fitted.history_["loss"], losses, rtol=1e-10)
    assert fitted.reconstruction_err_ == pytest.approx(np.sqrt(2 * ref.beta_divergence(X, W, H, 1)), rel=1e-10)


def test_violation_and_kkt_residual_are_those_that_the_sweeps_met():
    X, penalty = counts(), {"alpha_W": 0.01, "l1_ratio": 0.5}
    l1_W, l1_H, l2_W, l2_H = ref.penalties(*X.shape, **penalty)
    start = started(X)
    W, violation_W, of_W = ref.kl_sweeps(X, start["W"], start["H"].T, l1_W, l2_W)
    _, violation_H, of_H = ref.kl_sweeps(X.T, start["H"].T, W, l1_H, l2_H)
    fitted = model(init="custom", max_iter=1, **penalty).fit(X, **start)
    assert fitted.history_["violation"][0] == pytest.approx(violation_W + violation_H, rel=1e-10)
    assert fitted.kkt_residual_ == pytest.approx((of_W[0] + of_H[0]) / (of_W[1] + of_H[1]), rel=1e-10)


@pytest.mark.parametrize("form", ["dense", "csr"])
def test_the_end_is_a_stationary_point(form):
    X, penalty = counts(), {"alpha_W": 0.003, "l1_ratio": 0.5}
    fitted = model(max_iter=400, **penalty)
    W = fitted.fit_transform(FORMS[form](X))
    assert ref.kkt_residual(X, W, fitted.components_, 1, ref.penalties(*X.shape, **penalty)) < 1e-8
    assert not W[3].any()
    assert not fitted.components_[:, 5].any()
    # Given the same H, rows have one minimum, from wherever they begin.
    np.testing.assert_allclose(fitted.set_params(tol=1e-9).transform(FORMS[form](X)), W, atol=1e-5 * W.max())


def test_60_passes_get_further_than_500_of_mu(digits):
    X, k = digits[:300], 8
    start = started(X, k)
    mu = NMF(k, solver="mu", beta_loss=KL, init="custom", tol=0, max_iter=500).fit(X, **start)
    hals = model(k, init="custom", max_iter=60).fit(X, **start)
    assert hals.reconstruction_err_ < mu.reconstruction_err_


def test_stops_by_its_rule():
    fitted = model(tol=1e-4, max_iter=500).fit(counts())
    assert fitted.converged_
    assert fitted.stop_reason_.startswith(("the relative error fell by less than", "the KKT residual fell to"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("factor", [4.0**-15, 4.0**15])  # the sizes of a start depend on the nearest power of 4
def test_the_unit_of_x_does_not_matter(dtype, factor):
    X, penalty = counts().astype(dtype), {"alpha_W": 0.01, "l1_ratio": 1.0}
    fits = [model(max_iter=30, init=init) for init in ("random", None)]
    for fit in fits:
        W, H, loss = fit.fit_transform(X), fit.components_, fit.history_["loss"]
        V = fit.fit_transform((factor * X.astype(float)).astype(dtype))
        scale = np.sqrt(factor)
        tolerance = {"rtol": 0, "atol": 1e-3 if dtype == "float32" else 1e-6}
        np.testing.assert_allclose(V / scale / W.max(), W / W.max(), **tolerance)
        np.testing.assert_allclose(fit.components_ / scale / H.max(), H / H.max(), **tolerance)
        np.testing.assert_allclose(fit.history_["loss"] / factor, loss, rtol=1e-4 if dtype == "float32" else 1e-7)
        assert fit.reconstruction_err_ == pytest.approx(np.sqrt(2 * factor * loss[-1]), rel=1e-4)
    # An L1 penalty of X is one of √factor times the weight of factor·X.
    plain = model(max_iter=30, **penalty).fit(X)
    larger = model(max_iter=30, **penalty | {"alpha_W": penalty["alpha_W"] * scale}).fit(
        (factor * X.astype(float)).astype(dtype)
    )
    np.testing.assert_allclose(larger.history_["loss"] / factor, plain.history_["loss"], rtol=1e-4)
    found = [each.score(x) for each, x in ((plain, X), (larger, (factor * X.astype(float)).astype(dtype)))]
    assert found[1] / factor == pytest.approx(found[0], rel=1e-3)


def test_fixed_components_are_kept():
    X = counts()
    start, fixed = started(X), [True, False, True]
    fitted = model(init="custom", max_iter=50, fixed_components=fixed).fit(X, **start)
    np.testing.assert_array_equal(fitted.components_[fixed], start["H"][fixed])
    losses = ref.accepted_losses(fitted)
    assert (np.diff(losses) <= 1e-10 * losses[0]).all()
    assert fitted.kkt_residual_ < 1e-3


def test_transform_reads_a_file(tmp_path):
    X = counts()
    fitted = model(max_iter=500, tol=1e-4).fit(X)
    np.save(tmp_path / "X.npy", X)
    np.testing.assert_array_equal(fitted.transform(tmp_path / "X.npy"), fitted.transform(X))
    W, _, _ = non_negative_factorization(
        tmp_path / "X.npy", H=fitted.components_, update_H=False, solver="hals", beta_loss=KL, tol=1e-4
    )
    np.testing.assert_array_equal(W, fitted.transform(X))


def weighed(call):
    return lambda X, path: call(X, np.arange(len(X)) + 1.0)


REFUSED = {
    "X is on disk": lambda X, path: model().fit(path),
    "X is on disk, functional": lambda X, path: non_negative_factorization(path, solver="hals", beta_loss=KL),
    "rows or columns of X have weights": weighed(lambda X, u: model().fit(X, sample_weight=u)),
    "rows or columns of X have weights, columns": lambda X, path: model(feature_weight=np.arange(17.0)).fit(X),
    "rows or columns of X have weights, score": weighed(lambda X, u: model(max_iter=2).fit(X).score(X, None, u)),
    "entries of X are missing": lambda X, path: model().fit(X, mask=X == 1),
    "entries of X are missing, as zeros": lambda X, path: model(missing_values=0).fit(sp.csr_matrix(X)),
    "entries of X are missing, transform": lambda X, path: model(max_iter=2).fit(X).transform(X, mask=X == 1),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_cannot_be_read_by_columns_is_refused(case, tmp_path):
    X, path = counts(), tmp_path / "X.npy"
    np.save(path, X)
    message = f"beta_loss='kullback-leibler' takes an array or a sparse matrix .* but {case.partition(',')[0]}: "
    with pytest.raises(ValueError, match=message):
        REFUSED[case](X, path)


@pytest.mark.parametrize("beta", [0, 0.5, 1.5, 3, "itakura-saito"])
def test_other_losses_are_refused(beta):
    with pytest.raises(ValueError, match=f"solver 'hals' does not handle beta_loss = {beta!r}"):
        NMF(3, solver="hals", beta_loss=beta).fit(counts() + 1)


def test_the_start_auto_is_that_of_the_frobenius_norm():
    with pytest.raises(ValueError, match=r"init='auto' is for solver='hals' and the Frobenius norm; .*, 'random'"):
        model(init="auto").fit(counts())


def test_the_registry_makes_it():
    for beta in (1, 1.0):
        assert type(make_solver("hals", UNPENALISED, beta)) is KullbackLeiblerDescent
        assert handles("hals", beta)
        assert reads_columns("hals", beta)
    assert not reads_columns("hals", 2)
    assert not handles("cd", 1)


@pytest.mark.parametrize(("n_init", "init"), [(1, "nndsvda"), (3, "random")])
def test_the_command_line_chooses_a_start_that_it_takes(n_init, init):
    settings = {"solver": "hals", "init": None, "beta_loss": KL, "extrapolate": False, "n_init": n_init}
    assert _with_defaults(settings)["init"] == init
