"""Missing entries: masks in every form, against oracles, and what must not depend on how or where they are written."""

import inspect
import pickle
import warnings

import numpy as np
import pytest
import reference
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from scipy import optimize, sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

import nmfcore
from nmfcore import NMF, MiniBatchNMF, RowBlocks, non_negative_factorization
from nmfcore.backends import masked as backend
from nmfcore.models import estimator_from, load, model_of, save
from nmfcore.rows.masked import MaskedRows
from nmfcore.rows.masks import Given
from nmfcore.rows.memory import as_rows
from nmfcore.solvers.masked import FilledDescent, ObservedDescent

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

NAN = float("nan")


def planted(rng, n=60, m=40, k=4, share=0.3, noise=0.02):
    """Return a nearly low-rank X, and a mask that hides a share of it but no whole row or column."""
    X = rng.random((n, k)) @ rng.random((k, m)) + noise * rng.random((n, m))
    hidden = rng.random((n, m)) < share
    hidden[np.arange(n), np.arange(n) % m] = False
    hidden[np.arange(m) % n, np.arange(m)] = False
    return X, hidden


def start(rng, n, m, k):
    return rng.random((n, k)) + 0.1, rng.random((k, m)) + 0.1


def fitted(X, mask=None, **settings):
    model = NMF(**{"n_components": 4, "random_state": 0} | settings)
    return model.fit_transform(X, mask=mask), model


def same(first, second):
    """Whether two (W, model) pairs have the same bits."""
    assert_array_equal(first[0], second[0])
    assert_array_equal(first[1].components_, second[1].components_)
    assert_array_equal(first[1].history_["loss"], second[1].history_["loss"])
    assert first[1].reconstruction_err_ == second[1].reconstruction_err_
    assert first[1].kkt_residual_ == second[1].kkt_residual_


def masked_block(X, hidden, dtype, columns=()):
    rows = MaskedRows(as_rows(X, dtype), Given(hidden))
    rows.summary()
    return backend.MaskedBlock(rows.inner.plan(4).lanes[0][0][2], rows.mask, 0, rows.means, rows.lists), rows


# ---- kernels and their twins ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("k", [1, 3, 9, 19, 37])
@pytest.mark.parametrize("share", [0.0, 0.08, 0.2, 0.9])
@pytest.mark.parametrize("listed", [False, True])
def test_filled_descent_is_its_twin(rng, dtype, k, share, listed):
    X, hidden = planted(rng, 23, 17, share=share)
    hidden[5] = True
    W, H = start(rng, 23, 17, k)
    W, H, before = W.astype(dtype), H.astype(dtype), (0.9 * W).astype(dtype)
    Ht, l1, l2, weight = np.ascontiguousarray(H.T), 0.05, 0.03, 0.4
    block, _ = masked_block(X.astype(dtype), hidden, dtype)
    block = block._replace(lists={} if listed else None)
    out, XtF, FtF = np.empty_like(W), np.zeros((17, k)), np.zeros((k, k))
    stats, squares, measured = np.zeros(backend.STATS), np.zeros(1), np.zeros(1)
    backend.descend_filled(
        block, W, (before, weight), Ht, backend.gram(Ht), l1, l2, np.arange(k), 1, 0.0, out, XtF, FtF, stats, squares,
        measured,
    )  # fmt: skip
    Y = np.maximum(0, W + weight * (W.astype(float) - before))
    expected, _ = reference.filled_iteration(X, Y, H, hidden, (l1, 0, l2, 0))
    close = {"rtol": 1e-9} if dtype == np.float64 else {"rtol": 2e-3, "atol": 2e-4}
    assert_allclose(out, expected, **close)
    full = reference.filled(X, out, H, hidden)
    close = {"rtol": 1e-9} if dtype == np.float64 else {"rtol": 1e-4}
    assert_allclose(XtF, full.T @ out.astype(float), **close)
    assert_allclose(FtF, out.T.astype(float) @ out, **close)
    assert_allclose(squares[0], np.sum(full[hidden] ** 2), **close)
    assert_allclose(stats[backend.TOTAL], out.sum(dtype=float), **close)
    loss = reference.observed_loss(X.astype(dtype), out.astype(float), H.astype(float), hidden)
    assert_allclose(measured[0], loss, rtol=1e-9 if dtype == np.float64 else 1e-5)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("k", [1, 4, 17])
@pytest.mark.parametrize("share", [0.1, 0.8])
def test_rows_alone_are_their_twin(rng, dtype, k, share):
    X, hidden = planted(rng, 21, 19, share=share)
    hidden[3] = True
    W, H = start(rng, 21, 19, k)
    W, Ht = W.astype(dtype), np.ascontiguousarray(H.T.astype(dtype))
    block, _ = masked_block(X.astype(dtype), hidden, dtype)
    out, stats, losses = np.empty_like(W), np.zeros(backend.STATS), np.zeros(21)
    backend.descend_alone(
        block, W, (W, 0.0), Ht, backend.gram(Ht), 0.05, 0.03, np.arange(k), 3, 0.0, out, stats, losses
    )
    expected = reference.observed_rows(X, W, Ht, hidden, 0.05, 0.03, sweeps=3)
    close = {"rtol": 1e-9, "atol": 1e-12} if dtype == np.float64 else {"rtol": 2e-3, "atol": 1e-3}
    assert_allclose(out, expected, **close)
    each = [reference.observed_loss(X[i : i + 1], out[i : i + 1], Ht.T, hidden[i : i + 1]) for i in range(21)]
    assert_allclose(losses, each, rtol=1e-9 if dtype == np.float64 else 1e-5, atol=1e-12)
    # and of a CSR matrix of which the stored numbers are observed
    stored = sparse.csr_matrix(np.where(hidden, 0, X).astype(dtype))
    rows = MaskedRows(as_rows(stored, dtype), None)
    block = backend.MaskedBlock(rows.inner.plan(k).lanes[0][0][2], None, 0, None)
    again = np.empty_like(W)
    backend.descend_alone(
        block, W, (W, 0.0), Ht, backend.gram(Ht), 0.05, 0.03, np.arange(k), 3, 0.0, again, stats, losses
    )
    assert_allclose(again, expected, **close)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("k", [1, 4, 17])
def test_columns_from_sums_are_their_twin(rng, dtype, k):
    X, hidden = planted(rng, 21, 19, share=0.6)
    hidden[3], hidden[:, 7] = True, True
    W, H = start(rng, 21, 19, k)
    W, Ht = W.astype(dtype), np.ascontiguousarray(H.T.astype(dtype))
    Ht[7] = 0  # as where nothing is observed
    rows = MaskedRows(as_rows(sparse.csr_matrix(np.where(hidden, 0, X).astype(dtype)), dtype), None)
    block = backend.MaskedBlock(rows.inner.plan(k).lanes[0][0][2], None, 0, None)
    XtW, grams = np.zeros((19, k)), np.zeros((19, k * (k + 1) // 2))
    backend.add_alone(block, W, XtW, grams)
    products, triangles = reference.alone_sums(X.astype(dtype), W, hidden)
    assert_allclose(XtW, products, rtol=1e-12)
    assert_allclose(grams, triangles, rtol=1e-12)
    new, stats, loss = np.empty_like(Ht), np.zeros(backend.STATS), np.zeros(1)
    backend.descend_summed(XtW, grams, Ht, 0.05, 0.03, np.arange(k), 3, 0.0, new, stats, loss)
    expected = reference.observed_rows(X.T.astype(dtype), Ht, W, hidden.T, 0.05, 0.03, sweeps=3)
    assert_allclose(new, expected, rtol=1e-9 if dtype == np.float64 else 1e-4, atol=1e-7)
    squares = np.sum(X.astype(dtype)[~hidden].astype(float) ** 2)
    found = reference.observed_loss(X.astype(dtype), W.astype(float), new.T.astype(float), hidden)
    assert_allclose(loss[0] + squares / 2, found, rtol=1e-9 if dtype == np.float64 else 1e-6)


BETAS = [2, 1, 0, 0.5, 1.5, 3, -0.5, 1.3, 2.5]


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("beta", BETAS)
def test_multiplicative_update_is_its_twin(rng, beta, stored):
    X, hidden = planted(rng, 22, 18)
    X += 0.1
    W, H = start(rng, 22, 18, 4)
    settings = {"solver": "mu", "beta_loss": beta, "init": "custom", "max_iter": 1, "tol": 0}
    data = sparse.csr_matrix(np.where(hidden, 0, X)) if stored else X
    missing, mask = (0, None) if stored else (None, hidden)
    new_W, new_H, _ = non_negative_factorization(data, W, H, 4, mask=mask, missing_values=missing, **settings)
    expected = reference.masked_multiplication(X, W, H, hidden, beta)
    assert_allclose(new_W, expected[0], rtol=1e-9)
    assert_allclose(new_H, expected[1], rtol=1e-9)


@pytest.mark.parametrize("beta", BETAS)
def test_error_is_over_observed_entries(rng, beta):
    X, hidden = planted(rng, 20, 16)
    X += 0.1
    W, model = fitted(X, hidden, solver="mu", beta_loss=beta, max_iter=10, tol=0)
    loss = reference.observed_loss(X, W, model.components_, hidden, beta)
    assert_allclose(model.reconstruction_err_, np.sqrt(2 * loss), rtol=1e-7)
    assert_allclose(model.history_["loss"][-1], loss, rtol=1e-7)
    codes = model.transform(X, mask=hidden)
    scored = reference.observed_loss(X, codes, model.components_, hidden, beta)
    assert_allclose(model.score(X, mask=hidden), -scored / len(X), rtol=1e-7)


# ---- outside oracles -----------------------------------------------------------------------------------------


def solved_by_nnls(X, H, hidden):
    """Exact rows of W by scipy, each on its observed entries."""
    return np.array([optimize.nnls(H[:, ~gone].T, x[~gone])[0] for x, gone in zip(X, hidden, strict=True)])


@pytest.mark.parametrize("solver", ["cd", "hals"])
@pytest.mark.parametrize("stored", [False, True])
def test_fit_ends_where_alternating_nnls_stays(rng, solver, stored):
    X, hidden = planted(rng, 14, 10, k=2, share=0.3, noise=0.3)
    data = sparse.csr_matrix(np.where(hidden, 0, X)) if stored else X
    model = NMF(
        2, solver=solver, init="random", random_state=0, tol=0, max_iter=4000 if solver == "cd" else 1500,
        missing_values=0 if stored else None,
    )  # fmt: skip
    W = model.fit_transform(data, mask=None if stored else hidden)
    loss = reference.observed_loss(X, W, model.components_, hidden)
    H = model.components_
    for _ in range(30):  # an oracle that alternates exactly finds hardly anything better from here
        exact = solved_by_nnls(X, H, hidden)
        H = solved_by_nnls(X.T, exact.T, hidden.T).T
    assert_allclose(loss, reference.observed_loss(X, exact, H, hidden), rtol=1e-6)
    assert_allclose(exact @ H, W @ model.components_, rtol=1e-3, atol=1e-3)
    assert_allclose(model.history_["loss"][-1], loss, rtol=1e-9)


@pytest.mark.parametrize("solver", ["cd", "hals"])
@pytest.mark.parametrize("share", [0.1, 0.85])
def test_transform_is_scipys_nnls_on_what_is_observed(rng, solver, share):
    X, hidden = planted(rng, 40, 30, share=share)
    hidden[7] = True
    _, model = fitted(X, solver=solver)
    model.set_params(tol=1e-12, max_iter=20_000)
    with pytest.warns(UserWarning, match="observed in 1 of 40 rows"):
        codes = model.transform(X, mask=hidden)
    for x, gone, w in zip(X, hidden, codes, strict=True):
        if gone.all():
            assert not w.any()
            continue
        H = model.components_[:, ~gone]
        exact, distance = optimize.nnls(H.T, x[~gone])
        assert_allclose(np.linalg.norm(x[~gone] - w @ H), distance, atol=1e-6)  # of few entries many codes are as good
        if share < 0.5:
            assert_allclose(w, exact, atol=1e-6)


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
@pytest.mark.parametrize("share", [0.05, 0.5])
def test_gradient_of_the_observed_objective_vanishes(rng, solver, share):
    X, hidden = planted(rng, 40, 30, share=share)
    settings = {"alpha_W": 1e-4, "l1_ratio": 0.5} if solver != "mu" else {}
    W, model = fitted(X, hidden, solver=solver, init="random", tol=0, max_iter=2000, **settings)
    H = model.components_
    R = np.where(hidden, 0, W @ H - X)
    l1_W, l1_H, l2_W, l2_H = reference.penalties(40, 30, **{"alpha_W": 0, "l1_ratio": 0} | settings)
    size = np.linalg.norm(X)
    for F, gradient in ((W, R @ H.T + l1_W + l2_W * W), (H, W.T @ R + l1_H + l2_H * H)):
        projected = np.where(F > 1e-9, gradient, np.minimum(gradient, 0))
        assert np.abs(projected).max() < (1e-5 if solver == "hals" else 2e-3) * size
    assert model.kkt_residual_ < (1e-5 if solver == "hals" else 1e-2)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
@pytest.mark.parametrize("stored", [False, True])
def test_loss_never_rises(rng, solver, stored, dtype):
    X, hidden = planted(rng, 80, 50, share=0.5)
    data, mask, missing = X.astype(dtype), hidden, None
    if stored:
        data, mask, missing = sparse.csr_matrix(np.where(hidden, 0, data)), None, 0
    _, model = fitted(data, mask, solver=solver, init="random", tol=0, max_iter=300, missing_values=missing)
    losses = model.history_["loss"][model.history_["accepted"]]
    losses = losses[~np.isnan(losses)]
    assert len(losses) > 10
    slack = 0 if solver != "mu" else 1e-12 if dtype == np.float64 else 2e-7
    assert np.all(np.diff(losses) <= slack * np.sum(X[~hidden] ** 2))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(("seed", "share"), [(1, 0.3), (2, 0.05), (3, 0.3), (4, 0.3), (5, 0.05), (6, 0.3), (7, 0.3)])
def test_float32_ends_where_float64_does(seed, share):
    X, hidden = planted(np.random.default_rng(seed), 400, 120, k=8, share=share)
    errors = []
    for dtype in (np.float64, np.float32):
        _, model = fitted(X.astype(dtype), hidden, n_components=8, solver="hals", init="random", max_iter=1000)
        assert model.converged_
        errors.append(model.reconstruction_err_)
    assert errors[1] == pytest.approx(errors[0], rel=1e-4)


def test_passes_measure_their_loss_only_as_often_as_rounding_demands(rng, monkeypatch):
    X, hidden = planted(rng, 400, 120, k=8, share=0.05, noise=0.1)
    measured = []

    def visit(self, backend, block, rows, orders, *others):
        measured.append(orders.measure)
        return original(self, backend, block, rows, orders, *others)

    original = FilledDescent.visit
    monkeypatch.setattr(FilledDescent, "visit", visit)
    for dtype in (np.float64, np.float32):
        measured.clear()
        W, model = fitted(X.astype(dtype), hidden, n_components=8, solver="cd", init="random", tol=0, max_iter=100)
        assert any(measured) == (dtype == np.float32)
        assert sum(measured) < len(measured) / 4
        loss = reference.observed_loss(X, W.astype(float), model.components_.astype(float), hidden)
        assert_allclose(model.history_["loss"][-1], loss, rtol=1e-6)


@pytest.mark.parametrize(("solver", "passes"), [("cd", 400), ("hals", 30)])
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_rows_of_w_are_the_best_for_the_components(solver, passes, stored, seed, monkeypatch):
    X, hidden = planted(np.random.default_rng(seed), 60, 40, share=0.6, noise=0.3)
    data, mask = (sparse.csr_matrix(np.where(hidden, 0, X)), None) if stored else (X, hidden)
    settings = {"solver": solver, "init": "random", "max_iter": passes, "missing_values": 0 if stored else None}

    def excess():
        W, model = fitted(data, mask, **settings)
        best = solved_by_nnls(X, model.components_, hidden)
        loss, least = (reference.observed_loss(X, F, model.components_, hidden) for F in (W, best))
        assert_allclose(model.history_["loss"][-1], loss, rtol=1e-9)
        return loss / least - 1

    found = excess()
    assert found < 1e-4
    monkeypatch.setattr(FilledDescent, "closing", lambda self, small: None)
    monkeypatch.setattr(ObservedDescent, "closing", lambda self, small: None)
    assert found < excess() / 30  # without the last pass


@pytest.mark.parametrize("stored", [False, True])
def test_kkt_residual_is_that_of_the_pair_that_is_returned(rng, stored, monkeypatch):
    X, hidden = planted(rng, 60, 40, share=0.6, noise=0.3)
    data, mask = (sparse.csr_matrix(np.where(hidden, 0, X)), None) if stored else (X, hidden)
    settings = {"n_components": 4, "tol": 0, "missing_values": 0 if stored else None}
    W, model = fitted(data, mask, init="random", max_iter=10, **settings)
    for descent in (FilledDescent, ObservedDescent):
        monkeypatch.setattr(descent, "closing", lambda self, small: None)
    before = NMF(random_state=0, init="random", max_iter=10, **settings).fit(data, mask=mask)
    again = NMF(init="custom", max_iter=1, **settings).fit(data, mask=mask, W=W, H=model.components_)
    assert_allclose(model.kkt_residual_, again.kkt_residual_, rtol=1e-9)
    assert abs(before.kkt_residual_ / again.kkt_residual_ - 1) > 0.01  # that of W before its last pass


def test_planted_entries_are_found(rng):
    X, hidden = planted(rng, 200, 60, k=5, share=0.5, noise=0)
    _, model = fitted(X, hidden, n_components=5, solver="hals", tol=1e-7, max_iter=2000)
    guess = model.impute(X, hidden)
    assert_array_equal(guess[~hidden], X[~hidden])
    means = np.broadcast_to(np.sum(np.where(hidden, 0, X), axis=0) / np.sum(~hidden, axis=0), X.shape)
    assert np.linalg.norm((guess - X)[hidden]) < 0.02 * np.linalg.norm((means - X)[hidden])


# ---- forms of a mask, and where it lies ----------------------------------------------------------------------


FORMS = {
    "bool": lambda X, hidden: (X, hidden, None),
    "Fortran": lambda X, hidden: (X, np.asfortranarray(hidden), None),
    "list": lambda X, hidden: (X.tolist(), hidden.tolist(), None),
    "sparse": lambda X, hidden: (X, sparse.csr_matrix(hidden), None),
    "coo": lambda X, hidden: (X, sparse.coo_array(hidden), None),
    "masked array": lambda X, hidden: (np.ma.MaskedArray(X, hidden), None, None),
    "NaN": lambda X, hidden: (np.where(hidden, NAN, X), None, NAN),
    "NaN and mask": lambda X, hidden: (np.where(hidden & (X > 1), NAN, X), hidden & (X <= 1), NAN),
    "masked array and mask": lambda X, hidden: (np.ma.MaskedArray(X, hidden & (X > 1)), hidden & (X <= 1), None),
    "zeros": lambda X, hidden: (np.where(hidden, 0, X), None, 0),
}


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_mask_agree(rng, form, solver):
    X, hidden = planted(rng)
    X, settings = X + 0.01, {"solver": solver, "max_iter": 30}
    expected = fitted(X, hidden, **settings)
    data, mask, missing = FORMS[form](X, hidden)
    found = fitted(data, mask, missing_values=missing, **settings)
    same(found, expected)
    assert_array_equal(found[1].transform(data, mask=mask), expected[1].transform(X, mask=hidden))
    assert found[1].score(data, mask=mask) == expected[1].score(X, mask=hidden)
    assert_array_equal(found[1].impute(np.ma.asarray(data), mask), expected[1].impute(X, hidden))


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
@pytest.mark.parametrize("garbage", [NAN, np.inf, -np.inf, -3.0, 1e300, 0.0])
def test_what_lies_under_a_mask_does_not_matter(rng, solver, garbage):
    X, hidden = planted(rng)
    expected = fitted(X, hidden, solver=solver, max_iter=30)
    spoiled = np.where(hidden, garbage, X)
    found = fitted(spoiled, hidden, solver=solver, max_iter=30)
    same(found, expected)
    assert_array_equal(found[1].transform(spoiled, mask=hidden), expected[1].transform(X, mask=hidden))
    assert found[1].score(spoiled, mask=hidden) == expected[1].score(X, mask=hidden)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32, np.float16, bool])
def test_numbers_of_every_type_take_a_mask(rng, dtype):
    X, hidden = planted(rng)
    X = (20 * X).astype(dtype)
    spoiled = np.where(hidden, np.array(1, dtype), X)
    first, second = fitted(X, hidden, max_iter=20), fitted(spoiled, hidden, max_iter=20)
    same(first, second)
    wide = fitted(X.astype(first[0].dtype), hidden, max_iter=20)
    assert_allclose(first[0], wide[0], rtol=1e-4, atol=1e-4)
    filled = first[1].impute(X, hidden)
    assert filled.dtype == first[0].dtype
    assert_array_equal(filled[~hidden], X[~hidden].astype(filled.dtype))
    assert_allclose(filled, np.where(hidden, first[1].transform(X, mask=hidden) @ first[1].components_, X), rtol=1e-5)


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
def test_sparse_x_with_a_mask_is_the_dense_x_with_it(rng, solver):
    X, hidden = planted(rng)
    X[X < 0.8] = 0
    expected = fitted(X, hidden, solver=solver, max_iter=30, init="random")
    for data in (sparse.csr_matrix(X), sparse.csc_matrix(X)):
        found = fitted(data, sparse.csr_matrix(hidden), solver=solver, max_iter=30, init="random")
        assert_allclose(found[0], expected[0], rtol=1e-6, atol=1e-9)
    with_nan = sparse.csr_matrix(X + 1)
    with_nan.data[::7] = NAN
    dense = with_nan.toarray()
    found = fitted(with_nan, solver=solver, max_iter=30, init="random", missing_values=NAN)
    expected = fitted(dense, solver=solver, max_iter=30, init="random", missing_values=NAN)
    assert_allclose(found[0], expected[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
def test_zeros_of_a_sparse_x_are_missing(rng, solver):
    X, hidden = planted(rng, share=0.5)
    X = X + 0.01
    stored = sparse.csr_matrix(np.where(hidden, 0, X))
    settings = {"solver": solver, "missing_values": 0, "tol": 0, "init": "random"}
    W, found = fitted(stored, max_iter=100, **settings)
    again = NMF(4, **settings | {"init": "custom"}, max_iter=20)
    again.fit(stored.toarray(), W=W, H=found.components_)  # of the dense one, which descends the same objective
    assert again.reconstruction_err_ <= found.reconstruction_err_ * (1 + 1e-12)
    assert_allclose(again.reconstruction_err_, found.reconstruction_err_, rtol=0.2)
    explicit = stored.copy()
    explicit.data[::5] = 0  # a stored zero is a zero
    without = explicit.copy()
    without.eliminate_zeros()
    same(fitted(explicit, max_iter=20, **settings), fitted(without, max_iter=20, **settings))
    more = rng.random(X.shape) < 0.1
    hides = stored.toarray()
    hides[more] = 0
    same(fitted(stored, more, max_iter=20, **settings), fitted(sparse.csr_matrix(hides), max_iter=20, **settings))
    with pytest.raises(ValueError, match="impute takes a dense X"):
        found.impute(stored)


def test_x_of_stored_numbers_begins_with_column_means(rng):
    X, hidden = planted(rng)
    rows = MaskedRows(as_rows(sparse.csr_matrix(np.where(hidden, 0, X)), np.float64), None)
    dense = MaskedRows(as_rows(X, np.float64), Given(hidden))
    means = np.sum(np.where(hidden, 0, X), axis=0) / np.sum(~hidden, axis=0)
    filled = np.where(hidden, means, X)
    F, G = rng.random((40, 3)), rng.random((60, 3))
    for each in (rows, dense):
        each.summary()
        assert_allclose(each.means, means)
        assert_allclose(each.products(F), filled @ F)
        assert_allclose(each.transposed_products(G), filled.T @ G)
    assert_allclose(dense.gram(), filled.T @ filled)


def test_mask_beside_x_on_disk(rng, tmp_path):
    X, hidden = planted(rng, 500, 40)
    expected = fitted(X, hidden, solver="hals", max_iter=20)
    np.save(tmp_path / "x.npy", np.where(hidden, NAN, X))
    np.save(tmp_path / "mask.npy", hidden)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r"), np.load(tmp_path / "mask.npy", mmap_mode="r")
    same(fitted(*mapped, solver="hals", max_iter=20), expected)
    same(fitted(tmp_path / "x.npy", tmp_path / "mask.npy", solver="hals", max_iter=20), expected)
    same(fitted(tmp_path / "x.npy", solver="hals", max_iter=20, missing_values=NAN), expected)
    zarr, h5py = pytest.importorskip("zarr"), pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"], file["mask"] = X, hidden
        same(fitted(file["x"], file["mask"], solver="hals", max_iter=20), expected)
    x, mask = (zarr.array(part, store=str(tmp_path / f"{i}.zarr")) for i, part in enumerate((X, hidden)))
    same(fitted(x, mask, solver="hals", max_iter=20), expected)
    stream = RowBlocks(lambda: (X[a : a + 77] for a in range(0, 500, 77)), X.shape, X.dtype)
    same(fitted(stream, hidden, solver="hals", max_iter=20), expected)
    with pytest.raises(ValueError, match="mask is a stream"):
        fitted(X, RowBlocks(lambda: [hidden], X.shape, bool))


def test_contents_that_change_during_a_fit_are_noticed(rng, tmp_path):
    X, hidden = planted(rng, 500, 40)
    np.save(tmp_path / "x.npy", X)

    def spoil(progress):
        if progress.iteration == 3:
            np.save(tmp_path / "x.npy", 2 * X)

    with pytest.raises(RuntimeError, match="or of the mask, changed during the fit"):
        fitted(tmp_path / "x.npy", hidden, max_iter=5, tol=0, callback=spoil)


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
@pytest.mark.parametrize("stored", [False, True])
def test_threads_do_not_change_a_bit(rng, solver, stored):
    X, hidden = planted(rng, 3000, 200, share=0.6)
    data, mask = (sparse.csr_matrix(np.where(hidden, 0, X)), None) if stored else (X, hidden)
    missing, results = 0 if stored else None, []
    for n_jobs in (1, 2, 3):
        results.append(fitted(data, mask, solver=solver, max_iter=12, missing_values=missing, n_jobs=n_jobs))
    same(results[1], results[0])
    same(results[2], results[0])
    codes = [result[1].transform(data, mask=mask) for result in results]
    assert_array_equal(codes[1], codes[0])
    assert_array_equal(codes[2], codes[0])


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_row_has_the_same_code_in_any_company(rng, solver, dtype):
    X, hidden = planted(rng, 300, 50, share=0.4)
    X = X.astype(dtype)
    hidden[:, 3] = True
    hidden[5, 3] = False  # hidden in any company that row 5 does not belong to
    _, model = fitted(X, solver=solver, max_iter=30)
    together = model.transform(X, mask=hidden)
    for rows in ([0], [5, 17], list(range(290, 300)), list(range(100, 0, -1))):
        assert_array_equal(model.transform(X[rows], mask=hidden[rows]), together[rows])


# ---- columns -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
@pytest.mark.parametrize("kind", ["dense", "sparse", "path"])
def test_a_mask_of_columns_deletes_them(rng, solver, kind, tmp_path):
    X, _ = planted(rng, 400, 30)
    gone = rng.random(30) < 0.3
    left = np.ascontiguousarray(X[:, ~gone])
    data = {"dense": X, "sparse": sparse.csr_matrix(X), "path": tmp_path / "x.npy"}[kind]
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "left.npy", left)
    alone = {"dense": left, "sparse": sparse.csr_matrix(left), "path": tmp_path / "left.npy"}[kind]
    W, expected = fitted(alone, solver=solver, max_iter=20)
    with pytest.warns(UserWarning, match=rf"observed in {gone.sum()} of 30 columns") as caught:
        found, model = fitted(data, gone, solver=solver, max_iter=20)
    assert len([each for each in caught if "observed" in str(each.message)]) == 1
    assert_array_equal(found, W)
    assert_array_equal(model.components_[:, ~gone], expected.components_)
    assert not model.components_[:, gone].any()
    assert model.n_features_in_ == 30
    assert model.reconstruction_err_ == expected.reconstruction_err_
    assert_array_equal(model.transform(data, mask=gone), expected.transform(alone))
    assert model.score(data, mask=gone) == expected.score(alone)


@pytest.mark.parametrize("solver", ["cd", "hals"])
def test_hidden_columns_of_a_mask_of_entries_are_deleted(rng, solver):
    X, hidden = planted(rng, 50, 30)
    gone = np.zeros(30, bool)
    gone[[2, 11]] = True
    W, H = start(rng, 50, 30, 4)
    settings = {"solver": solver, "init": "custom", "max_iter": 50, "tol": 0, "n_components": 4}
    with pytest.warns(UserWarning, match="in 2 of 30 columns"):
        model = NMF(**settings)
        found = model.fit_transform(X, W=W, H=H, mask=hidden | gone)
    other = NMF(**settings)
    left = other.fit_transform(X[:, ~gone], W=W, H=H[:, ~gone], mask=hidden[:, ~gone])
    assert not model.components_[:, gone].any()
    assert_allclose(found, left, rtol=1e-8)
    assert_allclose(model.components_[:, ~gone], other.components_, rtol=1e-8)


def test_columns_of_a_large_x_are_not_copied(rng, monkeypatch):
    from nmfcore.rows import front

    X, _ = planted(rng, 3000, 30)
    gone = rng.random(30) < 0.3
    expected = fitted(np.ascontiguousarray(X[:, ~gone]), solver="cd", max_iter=10)
    monkeypatch.setattr(front, "BLOCK_BYTES", 1000)
    with pytest.warns(UserWarning, match="columns"):
        found = fitted(X, gone, solver="cd", max_iter=10)
    assert_array_equal(found[0], expected[0])
    X[17, np.flatnonzero(~gone)[4]] = NAN
    with pytest.raises(ValueError, match=f"row 17, column {np.flatnonzero(~gone)[4]}"):
        fitted(X, gone)


def test_custom_factors_with_columns_left_out(rng):
    X, _ = planted(rng, 50, 30)
    gone = np.arange(30) % 3 == 0
    W, H = start(rng, 50, 30, 4)
    with pytest.warns(UserWarning, match="columns"):
        new = non_negative_factorization(X, W, H, 4, init="custom", mask=gone, max_iter=5, tol=0)
    left = non_negative_factorization(X[:, ~gone], W, H[:, ~gone], 4, init="custom", max_iter=5, tol=0)
    assert_array_equal(new[0], left[0])
    assert_array_equal(new[1][:, ~gone], left[1])
    alone = non_negative_factorization(X, H=H, n_components=4, update_H=False, mask=gone)[0]
    assert_array_equal(alone, non_negative_factorization(X[:, ~gone], H=H[:, ~gone], n_components=4, update_H=False)[0])


def test_imputing_whole_columns(rng):
    X, _ = planted(rng, 50, 30, noise=0)
    _, model = fitted(X, solver="hals", tol=1e-9, max_iter=2000)
    gone = np.arange(30) % 5 == 0
    filled = model.set_params(tol=1e-9, max_iter=5000).impute(X, gone)
    assert_array_equal(filled[:, ~gone], X[:, ~gone])
    assert_allclose(filled, X, rtol=0.02, atol=0.02)


# ---- edges -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("init", ["random", "nndsvda", "custom"])
def test_rows_and_columns_without_anything_become_zero(rng, solver, stored, init):
    X, hidden = planted(rng)
    hidden[[4, 9]], hidden[:, 7] = True, True
    data, mask, missing = (sparse.csr_matrix(np.where(hidden, 0, X)), None, 0) if stored else (X, hidden, None)
    model = NMF(4, solver=solver, init=init, random_state=0, max_iter=15, missing_values=missing)
    W, H = start(rng, 60, 40, 4)
    given = {"W": W.copy(), "H": H.copy()} if init == "custom" else {}
    with pytest.warns(UserWarning, match="2 of 60 rows, whose codes are zero, and in 1 of 40 columns") as caught:
        codes = model.fit_transform(data, mask=mask, **given)
    assert len([each for each in caught if "observed" in str(each.message)]) == 1
    assert np.flatnonzero(~codes.any(axis=1)).tolist() == [4, 9]
    assert np.flatnonzero(~model.components_.any(axis=0)).tolist() == [7]
    if given:
        assert_array_equal(given["H"], H)
        assert_array_equal(given["W"], W)


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
def test_a_mask_that_hides_nothing_has_the_bits_of_none(rng, solver):
    X, hidden = planted(rng)
    expected = fitted(X, solver=solver, max_iter=20)
    for data, mask, missing in (
        (X, np.zeros_like(hidden), None), (X, sparse.csr_matrix(hidden.shape, dtype=bool), None), (X, None, NAN),
        (X, None, 0), (np.ma.MaskedArray(X), None, None), (X, np.zeros(40, bool), None),
    ):  # fmt: skip
        same(fitted(data, mask, solver=solver, max_iter=20, missing_values=missing), expected)
    assert_array_equal(expected[1].impute(X), X)


def test_penalties_are_those_of_an_x_without_a_mask(rng):
    X, hidden = planted(rng)
    W, H = start(rng, 60, 40, 4)
    settings = {"alpha_W": 0.01, "alpha_H": 0.02, "l1_ratio": 0.3, "init": "custom", "tol": 0, "max_iter": 40}
    for solver in ("cd", "hals", "mu"):
        model = NMF(4, solver=solver, **settings)
        found = model.fit_transform(X, W=W, H=H, mask=hidden)
        l1_W, l1_H, l2_W, l2_H = reference.penalties(60, 40, 0.01, 0.02, 0.3)
        loss = reference.observed_loss(X, found, model.components_, hidden)
        loss += l1_W * found.sum() + l1_H * model.components_.sum()
        loss += 0.5 * l2_W * np.sum(found**2) + 0.5 * l2_H * np.sum(model.components_**2)
        assert_allclose(model.history_["loss"][-1], loss, rtol=1e-8)


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
def test_the_unit_of_x_does_not_matter(rng, solver):
    X, hidden = planted(rng)
    expected = fitted(X, hidden, solver=solver, init="random", max_iter=20, tol=0)
    found = fitted(X * 4.0**120, hidden, solver=solver, init="random", max_iter=20, tol=0)
    assert_allclose(found[0] / 2.0**120, expected[0], rtol=1e-6, atol=1e-9)
    assert_allclose(found[1].reconstruction_err_ / 4.0**120, expected[1].reconstruction_err_, rtol=1e-6)


def test_small_and_thin_shapes(rng):
    for n, m, k in ((1, 7, 1), (7, 1, 1), (3, 2, 5), (2, 300, 2)):
        X, hidden = rng.random((n, m)), np.zeros((n, m), bool)
        hidden[0, -1] = n > 1 or m > 1
        for solver in ("cd", "hals", "mu"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                W, model = fitted(X, hidden, n_components=k, solver=solver, max_iter=20)
            assert W.shape == (n, k) and np.isfinite(W).all() and np.isfinite(model.components_).all()


BAD = {
    "shape": (lambda X: np.zeros((3, 3), bool), r"mask has shape \(3, 3\): for X of shape \(60, 40\)"),
    "rows": (lambda X: np.zeros(60, bool), r"mask has shape \(60,\)"),
    "type": (lambda X: np.zeros(X.shape), "mask holds float64: give booleans"),
    "integers": (lambda X: sparse.csr_matrix(np.ones(X.shape, int)), "mask holds int64: give booleans"),
    "columns": (lambda X: np.ones(40, bool), "hides every column"),
    "everything": (lambda X: np.ones(X.shape, bool), "nothing of X is observed"),
}


@pytest.mark.parametrize("fault", BAD)
def test_masks_that_cannot_be_used_are_refused(rng, fault):
    X, _ = planted(rng)
    make, message = BAD[fault]
    _, model = fitted(X)
    for call in (fitted, lambda X, mask: model.transform(X, mask=mask), lambda X, mask: model.score(X, mask=mask)):
        with pytest.raises(ValueError, match=message):
            call(X, make(X))


def test_refusals(rng, tmp_path):
    X, hidden = planted(rng)
    with pytest.raises(ValueError, match="contains NaN"):
        fitted(np.where(hidden, NAN, X))
    with pytest.raises(ValueError, match="contains infinity"):
        fitted(np.where(hidden, np.inf, X), missing_values=NAN)
    with pytest.raises(ValueError, match="Negative values in data passed to NMF initialization"):
        fitted(-X, hidden)
    with pytest.raises(ValueError, match="missing_values = -1: give None"):
        fitted(X, missing_values=-1)
    with pytest.raises(ValueError, match="extrapolate=True is for an X without missing"):
        fitted(X, hidden, solver="mu", extrapolate=True)
    with pytest.raises(ValueError, match="for the CPU only"):
        fitted(X, hidden, device="cuda")
    for given in ({"X": X, "mask": hidden}, {"X": np.ma.MaskedArray(X, hidden)}):
        with pytest.raises(ValueError, match="MiniBatchNMF takes no mask"):
            MiniBatchNMF(3).fit(**given)
    with pytest.raises(ValueError, match="MiniBatchNMF takes no mask"):
        MiniBatchNMF(3).partial_fit(np.ma.MaskedArray(X, hidden))
    with pytest.raises(ValueError, match="MiniBatchNMF takes no mask"):
        MiniBatchNMF(3, max_iter=2).fit(X).transform(X, mask=hidden)
    with pytest.raises(ValueError, match="missing_values"):
        NMF(3, missing_values="x").fit(X)


def test_zeros_that_are_missing_suit_itakura_saito(rng):
    X, hidden = planted(rng)
    with_zeros = np.where(hidden, 0, X + 0.1)
    with pytest.raises(ValueError, match="beta_loss <= 0 and X contains zeros"):
        fitted(with_zeros, solver="mu", beta_loss=0)
    W, model = fitted(with_zeros, solver="mu", beta_loss=0, missing_values=0, max_iter=50)
    assert np.isfinite(W).all() and model.history_["loss"][-1 - 9 :].size


# ---- scikit-learn, models, checkpoints -----------------------------------------------------------------------


def test_tag_says_that_nan_is_allowed():
    def allows(**settings):
        return NMF(**settings).__sklearn_tags__().input_tags.allow_nan

    assert not allows() and not allows(missing_values=0) and allows(missing_values=np.nan)


def test_estimator_checks_with_nan_as_missing():
    from sklearn.utils.estimator_checks import check_estimator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fixed = "holds from a fixed start, see tests/test_weights.py"
        names = (f"check_sample_weight_equivalence_on_{kind}_data" for kind in ("dense", "sparse"))
        model = NMF(2, max_iter=500, missing_values=np.nan, random_state=0)
        check_estimator(model, expected_failed_checks=dict.fromkeys(names, fixed))


def test_clone_pickle_and_model_file(rng, tmp_path):
    X, hidden = planted(rng)
    data = np.where(hidden, NAN, X)
    W, model = fitted(data, missing_values=np.nan, max_iter=20)
    codes = model.transform(data)
    copies = [pickle.loads(pickle.dumps(model)), clone(model).fit(data)]
    save(model_of(model, W), tmp_path / "model.npz")
    copies.append(estimator_from(load(tmp_path / "model.npz")))
    for copy in copies:
        assert np.isnan(copy.missing_values)
        assert_array_equal(copy.transform(data), codes)


def test_mask_is_routed(rng):
    from sklearn.pipeline import make_pipeline

    X, hidden = planted(rng)
    with sklearn.config_context(enable_metadata_routing=True):
        model = NMF(4, random_state=0, max_iter=20).set_fit_request(mask=True).set_transform_request(mask=True)
        pipeline = make_pipeline(model).fit(X, mask=hidden)
        found = pipeline.transform(X, mask=hidden)
    _, alone = fitted(X, hidden, max_iter=20)
    assert_array_equal(found, alone.transform(X, mask=hidden))


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
@pytest.mark.parametrize("stored", [False, True])
def test_checkpoints_go_on_with_the_same_bits_and_know_the_mask(rng, solver, stored, tmp_path):
    X, hidden = planted(rng)
    data, mask, missing = (sparse.csr_matrix(np.where(hidden, 0, X)), None, 0) if stored else (X, hidden, None)
    settings = {"solver": solver, "tol": 1e-14, "missing_values": missing}
    expected = fitted(data, mask, max_iter=30, **settings)
    path = tmp_path / "fit.npz"
    fitted(data, mask, max_iter=12, checkpoint=path, **settings)
    if not stored:
        other = hidden.copy()
        other[0, 1] = not other[0, 1]
        with pytest.raises(ValueError, match=r"checkpoint .* is of another fit"):
            fitted(X, other, max_iter=30, checkpoint=path, **settings)
        data = np.where(hidden, NAN, X)  # what lies under the mask is nobody's business
    found = fitted(data, mask, max_iter=30, checkpoint=path, **settings)
    same(found, expected)


def test_a_copy_of_a_mask_of_columns_is_a_mask_of_entries_for_impute(rng):
    X, hidden = planted(rng)
    _, model = fitted(X, hidden, max_iter=20)
    gone = np.arange(40) % 4 == 0
    assert_array_equal(model.impute(X, gone), model.impute(X, np.tile(gone, (60, 1))))


def test_nothing_of_the_callers_is_written(rng):
    X, hidden = planted(rng)
    for array in (X, hidden):
        array.setflags(write=False)
    _, model = fitted(X, hidden, max_iter=10)
    model.impute(X, hidden)
    assert_array_equal(hidden, hidden.copy())


def test_public_signatures():
    for function in (NMF.fit, NMF.fit_transform, NMF.transform, NMF.score, non_negative_factorization):
        mask = inspect.signature(function).parameters["mask"]
        assert mask.default is None and mask.kind is mask.KEYWORD_ONLY
    assert inspect.signature(NMF).parameters["missing_values"].default is None
    assert nmfcore.NMF is NMF and ConvergenceWarning


def test_inpainting_shows_what_was_masked(rng):
    pytest.importorskip("matplotlib")
    from matplotlib.colors import to_rgb

    from nmfcore.plots import inpainting

    X = rng.random((5, 12)) + 1
    hidden = np.zeros((5, 12), bool)
    hidden[:, 3] = True
    filled = np.where(hidden, 0.8 * X, X)
    axes = inpainting(X, hidden, filled, (3, 4), columns=3)
    assert [text.get_text() for text in axes.texts if "%" in text.get_text()] == ["20 %"] * 5
    blue = np.rint(255 * np.array(to_rgb("#0072B2")))
    image = np.asarray(axes.images[0].get_array())
    assert np.all(image[..., :3] == blue, axis=-1).any()
    unknown = inpainting(np.where(hidden, np.nan, X), hidden[0], filled, (3, 4))
    assert not [text for text in unknown.texts if "%" in text.get_text()]
    with pytest.raises(ValueError, match="mask holds float64"):
        inpainting(X, hidden.astype(float), filled, (3, 4))


# --- parameters that masks do not go with -------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{"n_init": 2}, {"sort_components": True}, {"fixed_components": [0], "init": "custom"}]
)
def test_parameters_that_masks_do_not_go_with_are_refused(settings):
    X = np.random.default_rng(0).random((20, 6))
    mask = np.zeros(X.shape, bool)
    mask[3, 2] = True
    begin = {"H": np.ones((2, 6))} if "init" in settings else {}
    with pytest.raises(ValueError, match=f"{next(iter(settings))}=.* is for an X without missing entries"):
        NMF(2, **settings).fit(X, mask=mask, **begin)


def test_normalised_components_of_masked_data():
    X = np.random.default_rng(0).random((40, 6))
    mask = np.random.default_rng(1).random(X.shape) < 0.2
    plain, unit = (NMF(2, random_state=0, normalize=norm, max_iter=30, tol=0) for norm in (None, "l1"))
    W, V = plain.fit_transform(X, mask=mask), unit.fit_transform(X, mask=mask)
    np.testing.assert_allclose(unit.components_.sum(axis=1), 1)
    np.testing.assert_allclose(V @ unit.components_, W @ plain.components_)
