"""Accelerated HALS against its twin, its stop rule, its repairs, and the start that samples give."""

from dataclasses import replace

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning

import nmfcore.starts.samples as warm
from nmfcore import NMF
from nmfcore.backends import cpu
from nmfcore.loop.session import Limits
from nmfcore.loop.solve import factorize
from nmfcore.objective import Penalties, trace_loss
from nmfcore.rows.memory import as_rows
from nmfcore.solvers import accelerated_hals as accelerated
from nmfcore.solvers._candidates import spread_out
from nmfcore.solvers.accelerated_hals import AcceleratedHALS, Effort
from nmfcore.starts import nndsvd as initialization

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def problem(seed=0, n=60, m=25, k=4, noise=0.3):
    rng = np.random.RandomState(seed)
    X = rng.gamma(0.5, 1.0, (n, k)) @ rng.gamma(0.5, 1.0, (k, m)) + noise * rng.rand(n, m)
    W, H = rng.rand(n, k), rng.rand(k, m)
    return X, W, H


def fit(X, W, H, **parameters):
    model = NMF(H.shape[0], solver="hals", init="custom", **{"tol": 0, "max_iter": 50, **parameters})
    return model, model.fit_transform(X, W=W, H=H)


# --- the iteration ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["dense", "csr", "sparse enough to gather"])
@pytest.mark.parametrize("penalty", [(0, 0, 0, 0), (0.5, 0, 0.1, 0)], ids=["none", "W"])
def test_passes_equal_those_of_the_reference(monkeypatch, form, penalty):
    X, W, H = problem(seed=4, m=25 if form != "sparse enough to gather" else 150)
    if form != "dense":
        X = X * (np.random.RandomState(1).rand(*X.shape) < (0.5 if form == "csr" else 0.06))
    matrix = X if form == "dense" else sp.csr_matrix(X)
    data = as_rows(matrix, np.float64)
    assert data.plan(4).gathers == (form == "sparse enough to gather")
    stages = ((0, Effort(1), Effort(3)), (20, Effort(8, 0.01, 20), Effort(6, 0.05, 4)))
    monkeypatch.setattr(accelerated, "STAGES", stages)
    expected = list(reference.hals(X, W, H, 45, stages, penalty))
    found = []
    l1_W, l1_H, l2_W, l2_H = penalty
    solver = AcceleratedHALS(Penalties(l1_W, l1_H, l2_W, l2_H))
    solution = factorize(
        data, solver, W, np.ascontiguousarray(H.T), Limits(0, 45),
        callback=lambda report: found.append((report.iteration, *report.factors(), report.loss)),
    )  # fmt: skip
    assert solution.n_iter == 45
    for number, W_found, H_found, loss in found:
        W_twin, H_twin, loss_twin, accepted = expected[number - 1]
        assert accepted
        # Whether a row has settled, or a conjugate step has met a bound, rounding decides where it is close.
        close = 1e-6 if number <= accelerated.STAGES[-1][0] else 1e-3
        np.testing.assert_allclose(W_found, W_twin, rtol=close, atol=close / 10 * W_twin.max())
        np.testing.assert_allclose(H_found, H_twin, rtol=close, atol=close / 10 * H_twin.max())
        assert loss == pytest.approx(loss_twin, rel=close / 1000)
    # In the last passes a loss may be as high as the one before to all its digits: once, rounding may decide.
    assert abs(len(found) - sum(step[3] for step in expected)) <= 1
    assert sum(step[0] <= 30 for step in found) == sum(step[3] for step in expected[:30])


def test_a_pass_that_raises_the_loss_is_rejected_and_the_next_descends(monkeypatch):
    monkeypatch.setattr(accelerated, "GROW", 3.0)  # reckless: momentum overshoots
    X, W, H = problem(noise=1.0)
    seen = []
    original = AcceleratedHALS.update_columns

    def spy(self, small, sums, data):
        report, new = original(self, small, sums, data)
        seen.append((report.accepted, report.loss, new.loss))
        return report, new

    monkeypatch.setattr(AcceleratedHALS, "update_columns", spy)
    model, W = fit(X, W, H, max_iter=60)
    rejected = [i for i, (accepted, _, _) in enumerate(seen) if not accepted]
    assert len(rejected) >= 3
    assert model.n_iter_ == 60
    np.testing.assert_array_equal(np.flatnonzero(~model.history_["accepted"]), rejected)
    np.testing.assert_array_equal(model.history_["loss"], [loss for _, loss, _ in seen])
    losses = reference.accepted_losses(model)
    assert (np.diff(losses) <= 0).all()
    for i in rejected:
        before = np.flatnonzero(model.history_["accepted"][:i])[-1]
        assert model.history_["loss"][i] > model.history_["loss"][before]
    for i in rejected[:-1]:
        assert seen[i + 1][0], "after a rejected pass comes a plain step"
        assert seen[i + 1][1] < seen[i][2]
    # what is returned is the accepted pair, whatever the last pass was
    residual = 0.5 * np.sum((X - W @ model.components_) ** 2)
    assert residual == pytest.approx(losses[-1], rel=1e-10)


@pytest.mark.parametrize("max_iter", range(1, 12))
def test_history_ends_with_the_loss_of_what_is_returned(max_iter, monkeypatch):
    monkeypatch.setattr(accelerated, "GROW", 3.0)
    X, W, H = problem(noise=1.0)
    for alpha in (0.0, 1e-3):
        model, found = fit(X, W, 100 * H, max_iter=max_iter, alpha_W=alpha, l1_ratio=0.5)
        penalties = reference.penalties(*X.shape, alpha, "same", 0.5)
        loss = reference.objective(X, found, model.components_, 2, *penalties)
        assert reference.accepted_losses(model)[-1] == pytest.approx(loss, rel=1e-9)


@pytest.mark.parametrize("shuffle", [False, True])
def test_hals_ends_no_higher_than_cd_in_fewer_passes(shuffle, digits):
    losses = {}
    for solver, passes in (("cd", 300), ("hals", 60)):
        fits = [
            NMF(8, solver=solver, init="random", random_state=seed, tol=0, max_iter=passes, shuffle=shuffle).fit(digits)
            for seed in range(6)
        ]
        losses[solver] = np.median([model.reconstruction_err_ for model in fits])
    assert losses["hals"] <= 1.002 * losses["cd"]


def test_scaling_the_start_changes_nothing(digits):
    X = digits[:300]
    rng = np.random.RandomState(0)
    W, H = rng.rand(300, 6), rng.rand(6, 64)
    d = 2.0 ** np.array([10, -8, 0, 5, -3, 9])
    one, _ = fit(X, W, H)
    other, _ = fit(X, W * d, H / d[:, None])
    scaled, _ = fit(1024 * X, 32 * W, 32 * H)
    np.testing.assert_allclose(other.history_["loss"], one.history_["loss"], rtol=1e-12)
    np.testing.assert_allclose(scaled.history_["loss"], 1024**2 * one.history_["loss"], rtol=1e-12)
    assert scaled.kkt_residual_ == pytest.approx(one.kkt_residual_)


# --- penalties ----------------------------------------------------------------------------------


def test_balance_minimises_the_penalties():
    rng = np.random.RandomState(0)
    a, b, c, d = rng.rand(4, 50) * 10.0 ** rng.randint(-3, 4, (4, 50))
    a[:10], c[:10] = 0, 0  # L2 alone
    b[10:20], d[10:20] = 0, 0  # L1 alone
    c[20:25], d[20:25] = 0, 0  # one side only: no scale is best

    def value(scale):
        return a * scale + 0.5 * b * scale**2 + c / scale + 0.5 * d / scale**2

    best = accelerated.balance(a, b, c, d)
    assert (best[20:25] == 1).all()
    for factor in (0.99, 1.01):
        assert (value(best) <= value(best * factor))[np.r_[:20, 25:50]].all()
    np.testing.assert_allclose(best[:10], (d[:10] / b[:10]) ** 0.25)
    np.testing.assert_allclose(best[10:20], np.sqrt(c[10:20] / a[10:20]))


@pytest.mark.parametrize("l1_ratio", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("alpha_H", ["same", 0.0, 1e-4])
def test_penalised_loss_ends_no_higher_than_that_of_coordinate_descent(l1_ratio, alpha_H, digits):
    X = digits[:400]
    options = {"alpha_W": 1e-3, "alpha_H": alpha_H, "l1_ratio": l1_ratio, "init": "nndsvda", "tol": 0}
    fast = NMF(6, solver="hals", max_iter=60, **options).fit(X)
    slow = NMF(6, solver="cd", max_iter=60, **options).fit(X)
    assert reference.accepted_losses(fast)[-1] <= reference.accepted_losses(slow)[-1] * 1.001
    assert (np.diff(reference.accepted_losses(fast)) <= 1e-9 * fast.history_["loss"][0]).all()


# --- dead components ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["dense", "uint8", "csr"])
@pytest.mark.parametrize("dead", [(1,), (0, 3)])
@pytest.mark.parametrize("factor", ["W", "H", "both"])
def test_dead_components_are_revived(form, dead, factor):
    X, W, H = problem(noise=0)
    X = np.round(20 * X).clip(0, 255)
    if factor in ("W", "both"):
        W[:, dead] = 0
    if factor in ("H", "both"):
        H[list(dead)] = 0
    matrix = {"dense": lambda: X, "uint8": lambda: X.astype("uint8"), "csr": lambda: sp.csr_matrix(X)}[form]()
    start = {"W": W.astype("float32"), "H": H.astype("float32")} if form == "uint8" else {"W": W, "H": H}
    model, W = fit(matrix, **start, max_iter=80)
    assert (model.components_.sum(axis=1) > 0).all()
    assert (W.sum(axis=0) > 0).all()
    assert (np.diff(reference.accepted_losses(model)) <= 1e-6 * np.sum(X**2)).all()
    full = NMF(4, solver="hals", init="nndsvd", tol=0, max_iter=80).fit(X)
    assert model.reconstruction_err_ <= 1.5 * full.reconstruction_err_ + 1e-3 * np.linalg.norm(X)


def test_equally_bad_rows_are_chosen_by_row_number_in_any_cut(monkeypatch):
    import nmfcore.rows.memory

    X, W, H = problem(n=400)
    X[[37, 290, 399]] = 50.0 * np.arange(25)
    H[2] = 0
    fits = []
    for work in (1e12, 1e3):
        monkeypatch.setattr(nmfcore.rows.memory, "LANE_WORK", work)
        fits.append(fit(X, W, H, max_iter=6)[0].components_)
    np.testing.assert_allclose(*fits, rtol=1e-8, atol=1e-10)


def test_an_exact_fit_of_lower_rank_revives_nothing():
    X = np.outer(np.arange(1.0, 9), np.arange(1.0, 6))
    rng = np.random.RandomState(0)
    W, H = np.abs(rng.randn(8, 3)), np.abs(rng.randn(3, 5))
    H[1:], W[:, 1:] = 0, 0
    model, W = fit(X, W, H)
    assert np.isfinite(W).all()
    assert model.reconstruction_err_ <= 1e-6 * np.linalg.norm(X)


@pytest.mark.parametrize("layout", ["C", "F", "csr"])
@pytest.mark.parametrize("stored", ["uint8", "float64"])
def test_worst_rows(layout, stored):
    rng = np.random.RandomState(0)
    X = rng.randint(0, 20, (70, 30)).astype(stored)
    X[40] = X[12]
    F, Ht = rng.rand(70, 3), rng.rand(30, 3)
    F[40] = F[12]
    matrix = {"C": X, "F": np.asfortranarray(X), "csr": sp.csr_matrix(X)}[layout]
    residual = X - F @ Ht.T
    losses = 0.5 * np.sum(residual**2, axis=1)
    worst = np.zeros((12, 31))
    for lo, hi in ((10, 30), (30, 31), (31, 70)):
        cpu.worst_rows(cpu.cut(matrix, (lo, hi), 64), F[lo:hi], Ht, worst)
    order = 10 + np.argsort(-losses[10:], kind="stable")[:12]
    np.testing.assert_allclose(worst[:, 0], losses[order])
    np.testing.assert_allclose(worst[:, 1:], np.maximum(0, residual[order]), atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_many_dead_components_are_revived_at_once(dtype, digits):
    X = digits[:600].astype(dtype)
    rng = np.random.RandomState(0)
    W, H = rng.rand(600, 40).astype(dtype), rng.rand(40, 64).astype(dtype)
    H[3:] = 0
    model, W = fit(X, W, H, max_iter=5)
    assert ((W.max(axis=0) > 0) & (model.components_.max(axis=1) > 0)).all(), "two passes are enough for all of them"
    assert (np.diff(reference.accepted_losses(model)) < 0).all()


def test_no_rule_stops_while_components_are_being_revived(digits):
    X = digits[:300]
    model = NMF(6, solver="hals", init="nndsvd", tol=1e-4, max_iter=500)
    W = model.fit_transform(X)
    W, H = np.hstack([W, np.zeros((300, 4))]), np.vstack([model.components_, np.zeros((4, 64))])
    again, W = fit(X, W, H, tol=0.9, max_iter=100)  # this tolerance would stop any fit at once
    assert (W.max(axis=0) > 0).all()
    assert again.reconstruction_err_ < 0.95 * model.reconstruction_err_


def test_rows_chosen_for_revival_differ_from_one_another():
    rng = np.random.RandomState(0)
    basis = np.eye(6)[:4]
    vectors = np.vstack([5 * basis[[0]], 4.9 * basis[[0]], basis[1:] * 3, rng.rand(5, 4) @ basis])
    chosen = spread_out(vectors, 4, cpu.gram)
    np.testing.assert_array_equal(np.sort(chosen.argmax(axis=1)), np.arange(4))
    assert len(spread_out(vectors, 6, cpu.gram)) == 4, "no more than they span"
    assert len(spread_out(np.zeros((3, 6)), 2, cpu.gram)) == 0


# --- what float32 decides on --------------------------------------------------------------------


def spectra(noise, n=800, seed=0):
    rng = np.random.default_rng(seed)
    grid = np.linspace(0, 1, 120)
    H = np.exp(-0.5 * ((grid - np.linspace(0, 1, 8)[:, None]) / 0.15) ** 2)
    X = rng.dirichlet(np.ones(8), n) @ H
    return np.maximum(X + noise * np.sqrt((X**2).mean()) * rng.standard_normal(X.shape), 0)


def true_loss(X, W, H):
    return 0.5 * np.sum((X - W.astype(np.float64) @ H.astype(np.float64)) ** 2)


@pytest.mark.parametrize("noise", [0.02, 0.004])
@pytest.mark.parametrize("tol", [1e-4, 1e-5])
def test_float32_history_is_true_where_the_fit_is_good(noise, tol):
    X = spectra(noise)
    pairs = []
    fits = {}
    for dtype in ("float32", "float64"):
        x = X.astype(dtype)
        model = NMF(
            8, solver="hals", tol=tol, random_state=0, max_iter=400,
            callback=lambda report: pairs.append((report.iteration, *report.factors())),
        )  # fmt: skip
        pairs.clear()
        model.fit(x)
        losses = np.array([true_loss(x.astype(np.float64), W, H) for _, W, H in pairs])
        told = reference.accepted_losses(model)
        np.testing.assert_allclose(told[-1], losses[-1], rtol=2e-4)
        assert (np.diff(told) <= 1e-6 * told[:-1]).all()
        if "fell by less than tol" in model.stop_reason_:
            assert 1 - np.sqrt(losses[-1] / losses[-11]) < 1.5 * tol
        fits[dtype] = np.sqrt(losses[-1])
    assert fits["float32"] <= 1.002 * fits["float64"]


def test_change_of_the_loss_is_exact_where_the_trace_form_cancels():
    X = spectra(0.004).astype(np.float32)
    pairs = []
    model = NMF(8, solver="hals", tol=0, random_state=0, max_iter=60,
                callback=lambda report: pairs.append((report.loss, *report.factors()))).fit(X)  # fmt: skip
    x = X.astype(np.float64)
    truth = np.array([true_loss(x, W, H) for _, W, H in pairs])
    told = np.array([loss for loss, _, _ in pairs])
    # A callback sees what the steps say, up to some passes before the next measurement; the history is corrected by it.
    np.testing.assert_allclose(told[30:], truth[30:], rtol=1e-3)
    np.testing.assert_allclose(reference.accepted_losses(model)[30:], truth[30:], rtol=4e-4)
    trace = 1e-7 * np.sum(x * x) / truth[-1]
    assert trace > 4e-3, "the trace form would not do: its error is a share of ‖X‖²"
    assert reference.accepted_losses(model)[-1] == pytest.approx(truth[-1], rel=4e-4)


# --- how well a pass solves ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("penalty", [(0, 0), (0.05, 0.01)])
def test_conjugate_steps_converge_where_sweeps_are_slow(dtype, penalty):
    from scipy.optimize import nnls

    X, (l1, l2), k = spectra(0.01, n=150), penalty, 8
    grid = np.linspace(0, 1, 120)
    Ht = np.ascontiguousarray(np.exp(-0.5 * ((grid - np.linspace(0, 1, k)[:, None]) / 0.15) ** 2).T)
    G = Ht.T @ Ht + l2 * np.eye(k)
    L = np.linalg.cholesky(G)
    best = np.array([nnls(L.T, np.linalg.solve(L, x @ Ht - l1))[0] for x in X])

    def excess(conjugate, sweeps):
        x, h, F = X.astype(dtype), Ht.astype(dtype), np.full((150, k), 0.1, dtype)
        out, none, stats = np.empty_like(F), np.zeros((0, k)), np.zeros(cpu.STATS)
        begin = cpu.Beginning(F, np.ones(2 * k, dtype), 0.0, none, conjugate)
        cpu.descend(
            cpu.cut(x, (0, 150), 64), F, h, cpu.gram(h), l1, l2, np.arange(k), sweeps, 0.0,
            out, none, none, stats, 1e-3, begin,
        )  # fmt: skip
        assert (out >= 0).all()
        f = out.astype(np.float64)
        value = [0.5 * np.sum((A @ G) * A) - np.sum(A * (X @ Ht - l1)) for A in (f, best)]
        return (value[0] - value[1]) / true_loss(X, best, Ht.T)

    assert excess(20, 16) < 0.02 < excess(0, 32)


def test_conjugate_steps_equal_those_of_the_reference():
    rng = np.random.RandomState(0)
    X, F, Ht = rng.rand(40, 30), rng.rand(40, 7), rng.rand(30, 7)
    F[rng.rand(40, 7) < 0.2] = 0
    G = Ht.T @ Ht
    for conjugate in (1, 3, 12):
        expected = reference.settle(F, G, X @ Ht, 0.1, 0.2, 6, 1e-3, conjugate)
        out, none, stats = np.empty_like(F), np.zeros((0, 7)), np.zeros(cpu.STATS)
        begin = cpu.Beginning(F, np.ones(14), 0.0, none, conjugate)
        cpu.descend(
            cpu.cut(X, (0, 40), 64), F, Ht, G, 0.1, 0.2, np.arange(7), 6, 0.0, out, none, none, stats, 1e-3, begin
        )
        np.testing.assert_allclose(out, expected, rtol=1e-8, atol=1e-10)
    plain = reference.settle(F, G, X @ Ht, 0.1, 0.2, 6, 1e-3)
    assert np.abs(plain - expected).max() > 1e-4, "the steps did something"


# --- the start ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(300, 90), (60, 400)])
@pytest.mark.parametrize("smallest", [1e-1, 1e-3, 1e-5])
def test_the_spectral_start_keeps_small_singular_values(dtype, shape, smallest):
    rng = np.random.default_rng(0)
    k, (n, m) = 30, shape
    U, V = np.linalg.qr(rng.standard_normal((n, k)))[0], np.linalg.qr(rng.standard_normal((m, k)))[0]
    X = np.ascontiguousarray((U * np.geomspace(1, smallest, k)) @ V.T, dtype)
    data = as_rows(X, dtype)
    ways = [initialization.subspace_svd(data, k, 0)] + ([initialization.gram_svd(data, k)] if n >= m else [])
    for U, S, Vt in ways:
        assert np.abs(U.T.astype(float) @ U - np.eye(k)).max() < 1e-4
        assert np.abs(Vt.astype(float) @ Vt.T - np.eye(k)).max() < 1e-4
        assert (S > 0).all()
        W, H = initialization.nndsvd(data, U, S, Vt)
        assert (W.max(axis=0) > 0).all()
        assert (H.max(axis=1) > 0).all()
        if smallest >= 1e-3:
            error = np.linalg.norm(X - (U.astype(float) * S) @ Vt.astype(float))
            assert error < 1e-3 * np.linalg.norm(X)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_small_kkt_residual_ends_no_fit_whose_error_still_falls(dtype):
    """It is relative to ‖X‖, and of such an error small steps are a large share."""
    residuals = []
    model = NMF(8, solver="hals", random_state=0, callback=lambda report: residuals.append(report.kkt))
    model.fit(spectra(0.004).astype(dtype))
    small = np.flatnonzero(np.array(residuals) <= 1e-5)
    errors = np.sqrt(reference.accepted_losses(model))
    fell = 1 - errors[5:] / errors[:-5]
    assert len(small) > 5 and (fell[small[:-1] - 5] >= 5e-5).all(), "it went on while the error fell"
    assert model.converged_ and model.stop_reason_.startswith("the KKT residual") == (small[-1] == len(residuals) - 1)


# --- iterations of several passes ----------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch):
    """Have iterations make three passes from the fifth on."""
    monkeypatch.setattr(accelerated, "SLOW", 4)
    monkeypatch.setattr(accelerated, "SEVERAL", 3)


def passes_alone(X, W, H, number, **parameters):
    """Return what the same passes lead to where each is an iteration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AcceleratedHALS, "continues", lambda self, small: False)
        return fit(X, W, H, max_iter=number, **parameters)


@pytest.mark.parametrize("penalty", [0, 0.01])
def test_an_iteration_of_a_slow_fit_makes_several_passes(slow, penalty):
    X, W, H = problem(noise=1.0)
    seen = []
    found, W_found = fit(X, W, H, max_iter=9, alpha_W=penalty, callback=seen.append)
    expected, W_expected = passes_alone(X, W, H, 4 + 3 * 5, alpha_W=penalty)
    np.testing.assert_array_equal(W_found, W_expected)
    np.testing.assert_array_equal(found.components_, expected.components_)
    assert found.n_iter_ == 9 == len(seen) and [each.iteration for each in seen] == list(range(1, 10))
    ends = [*range(4), *range(6, 19, 3)]  # the last pass of each iteration
    for name in ("loss", "violation", "accepted"):
        np.testing.assert_array_equal(found.history_[name], expected.history_[name][ends])
    np.testing.assert_array_equal([each.loss for each in seen], found.history_["loss"])


def test_a_large_x_and_a_sample_make_one_pass_in_an_iteration(monkeypatch):
    X, _, H = problem()
    for solver, cached, alternations in (
        (AcceleratedHALS(), X.size, accelerated.SEVERAL),
        (AcceleratedHALS(), X.size - 1, 1),
        (AcceleratedHALS(sample=True), X.size, 1),
    ):
        monkeypatch.setattr(accelerated, "CACHED", cached)
        small = solver.start(as_rows(X, np.float64), np.ascontiguousarray(H.T))
        assert solver.alternations == alternations
        slow = 2 * accelerated.SEVERAL
        counts = [not solver.continues(replace(small, passes=n)) for n in range(accelerated.SLOW + slow)]
        assert sum(counts) == accelerated.SLOW + slow // alternations
        assert all(counts[: accelerated.SLOW + 1])


def test_an_iteration_with_an_accepted_pass_is_accepted(slow, monkeypatch):
    monkeypatch.setattr(accelerated, "GROW", 3.0)  # reckless: momentum overshoots
    X, W, H = problem(noise=1.0)
    alone, _ = passes_alone(X, W, H, 4 + 3 * 30)
    accepted = alone.history_["accepted"][4:].reshape(30, 3)
    assert not accepted.all(axis=0).any(), "a pass at each place of an iteration is rejected"
    seen = []
    found, _ = fit(X, W, H, max_iter=34, callback=lambda each: seen.append((each.iteration, each.loss)))
    np.testing.assert_array_equal(found.history_["accepted"][4:], accepted.any(axis=1))
    lowest = [row[kept][-1] for row, kept in zip(alone.history_["loss"][4:].reshape(30, 3), accepted, strict=True)]
    np.testing.assert_array_equal(found.history_["loss"][4:], lowest)
    assert seen == [(n + 1, loss) for n, loss in enumerate(found.history_["loss"]) if found.history_["accepted"][n]]


def test_a_slow_fit_is_stopped_within_an_iteration_and_goes_on(slow, monkeypatch, tmp_path):
    X, W, H = problem(noise=1.0)
    expected, W_expected = fit(X, W, H, max_iter=12)
    path, original = tmp_path / "fit.npz", AcceleratedHALS.update_columns
    for at in (6, 8, 10, 13):  # passes after which the next is interrupted
        made = []

        def interrupted(self, small, sums, data, at=at, made=made):
            if small.passes == at and not made:
                made.append(at)
                raise KeyboardInterrupt
            return original(self, small, sums, data)

        monkeypatch.setattr(AcceleratedHALS, "update_columns", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(X, W, H, max_iter=12, checkpoint=path)
    found, W_found = fit(X, W, H, max_iter=12, checkpoint=path)
    np.testing.assert_array_equal(W_found, W_expected)
    assert found.n_iter_ == 12
    for name in ("loss", "violation", "accepted"):
        np.testing.assert_array_equal(found.history_[name], expected.history_[name])


def test_a_slow_fit_in_float32_ends_where_one_in_float64_does(slow):
    """Losses are measured now and then, in the middle of iterations, too; none that is accepted rises."""
    X, W, H = problem(noise=0.01)
    ends = []
    for dtype in (np.float32, np.float64):
        model, _ = fit(X.astype(dtype), W.astype(dtype), H.astype(dtype), max_iter=60)
        losses = reference.accepted_losses(model)
        assert (np.diff(losses) <= 1e-6 * losses[1:]).all()
        assert losses[-1] == pytest.approx(0.5 * model.reconstruction_err_**2, rel=1e-4)
        ends.append(model.reconstruction_err_)
    assert ends[0] == pytest.approx(ends[1], rel=1e-3)


# --- the stop rule ------------------------------------------------------------------------------


def test_stops_by_the_window_and_says_so(digits):
    model = NMF(10, solver="hals", init="nndsvd", tol=1e-3, max_iter=500).fit(digits)
    assert model.converged_
    assert "relative error fell by less than tol = 0.001 in 10 iterations" in model.stop_reason_
    errors = np.sqrt(reference.accepted_losses(model))
    assert 1 - errors[-1] / errors[-11] < 1e-3
    assert (1 - errors[10:-1] / errors[:-11] >= 1e-3).all(), "no sooner"


def test_stops_by_the_kkt_residual_and_says_so():
    X, W, H = problem(noise=0)
    model, _ = fit(X, W, H, tol=1e-2, max_iter=500)
    assert model.converged_
    assert "KKT residual" in model.stop_reason_
    assert model.kkt_residual_ <= 1e-3


@pytest.mark.parametrize("tol", [1e-3, 1e-4])
@pytest.mark.parametrize("k", [3, 10])
def test_fit_from_its_own_result_ends_at_once_without_raising_the_loss(tol, k, digits):
    model = NMF(k, solver="hals", init="nndsvd", tol=tol, max_iter=2000)
    W = model.fit_transform(digits)
    assert model.converged_
    again = NMF(k, solver="hals", init="custom", tol=tol, max_iter=2000)
    again.fit(digits, W=W, H=model.components_)
    assert again.converged_
    losses = reference.accepted_losses(again)
    assert len(losses) <= (1 if "KKT" in model.stop_reason_ else 10)
    assert losses[-1] <= reference.accepted_losses(model)[-1] * (1 + 1e-12)


def test_the_window_begins_with_the_start_penalties_included(digits):
    options = {"alpha_W": 1e-4, "l1_ratio": 0.5, "tol": 1e-3, "max_iter": 2000}
    model = NMF(6, solver="hals", init="nndsvd", **options)
    W = model.fit_transform(digits)
    again = NMF(6, solver="hals", init="custom", **options).fit(digits, W=W, H=model.components_)
    assert len(reference.accepted_losses(again)) <= 10


def test_fit_from_a_stationary_point_ends_after_one_pass():
    for seed in range(8):
        X, W, H = problem(seed, noise=0.02)
        model, W = fit(X, W, H, tol=5e-3, max_iter=2000)
        if "KKT" in model.stop_reason_:
            again, _ = fit(X, W, model.components_, tol=5e-3, max_iter=2000)
            assert again.n_iter_ == 1
            break
    else:
        pytest.fail("no start ended by its KKT residual")


def test_stop_rule_does_not_depend_on_the_scale_of_X(digits):
    fits = [NMF(6, solver="hals", init="nndsvd", tol=1e-3).fit(scale * digits) for scale in (1, 2.0**-20, 2.0**20)]
    assert len({model.n_iter_ for model in fits}) == 1


def test_no_warning_where_the_rule_fired_in_the_last_pass(digits, recwarn):
    model = NMF(5, solver="hals", init="nndsvd", tol=1e-3, max_iter=500).fit(digits)
    recwarn.clear()
    exact = NMF(5, solver="hals", init="nndsvd", tol=1e-3, max_iter=model.n_iter_).fit(digits)
    assert exact.converged_
    assert not recwarn
    with pytest.warns(ConvergenceWarning, match="Maximum number of iterations"):
        NMF(5, solver="hals", init="nndsvd", tol=1e-3, max_iter=model.n_iter_ - 1).fit(digits)


def test_nan_loss_is_never_the_best():
    assert np.isnan(trace_loss(1.0, np.nan, 1.0))
    X, W, H = problem()
    original = AcceleratedHALS._report
    passes = []

    def broken(self, small, sums, data):
        report, *rest = original(self, small, sums, data)
        passes.append(report)
        if len(passes) == 5:
            report.loss = np.nan
        return report, *rest

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AcceleratedHALS, "_report", broken)
        model, _ = fit(X, W, H, max_iter=8)
    assert not passes[4].accepted
    assert np.flatnonzero(np.isnan(model.history_["loss"])).tolist() == [4], "the rejected pass has what it measured"
    assert np.isfinite(reference.accepted_losses(model)).all()


def test_tol_zero_makes_all_passes():
    X, W, H = problem(noise=0)
    assert fit(X, W, H, max_iter=300)[0].n_iter_ == 300


def test_verbose_prints_every_accepted_pass(digits, capsys):
    model = NMF(5, solver="hals", init="nndsvd", tol=0, max_iter=5, verbose=1).fit(digits)
    assert capsys.readouterr().out.count("KKT residual") == model.history_["accepted"].sum()


# --- init="auto" --------------------------------------------------------------------------------


def tall(n=13000, m=30, k=4, seed=0):
    rng = np.random.RandomState(seed)
    X = rng.gamma(0.5, 1.0, (n, k)) @ rng.gamma(0.5, 1.0, (k, m)) + 0.1 * rng.rand(n, m)
    return np.round(20 * X).clip(0, 255).astype("uint8")


def test_only_hals_takes_auto(digits):
    with pytest.raises(ValueError, match="init='auto' is for solver='hals'; solver='cd' takes"):
        NMF(3, init="auto").fit(digits)
    auto = NMF(3, solver="hals", init="auto", random_state=0, tol=0, max_iter=4).fit(digits)
    none = NMF(3, solver="hals", random_state=0, tol=0, max_iter=4).fit(digits)
    np.testing.assert_array_equal(auto.components_, none.components_)


def test_samples_of_tall_data_lead_to_few_passes():
    X = tall()
    assert warm.sample_rows(*X.shape, 4) > 0
    auto = NMF(4, solver="hals", random_state=0, max_iter=500).fit(X)
    named = NMF(4, solver="hals", init="nndsvd", random_state=0, max_iter=500).fit(X)
    assert auto.converged_
    assert auto.n_iter_ < named.n_iter_
    assert auto.reconstruction_err_ <= 1.001 * named.reconstruction_err_


@pytest.mark.parametrize("form", ["array", "csr", "memory map"])
def test_auto_depends_on_the_random_state_only(form, tmp_path):
    X = tall()
    if form == "csr":
        X = sp.csr_matrix(X.astype("float64"))
    elif form == "memory map":
        np.save(tmp_path / "X.npy", X)
        X = np.load(tmp_path / "X.npy", mmap_mode="r")
    fits = [
        NMF(4, solver="hals", random_state=seed, tol=0, max_iter=3, n_jobs=jobs).fit(X)
        for seed, jobs in ((0, 1), (0, 2), (0, 3), (1, 2))
    ]
    for other in fits[1:3]:
        np.testing.assert_array_equal(other.components_, fits[0].components_)
    assert (fits[3].components_ != fits[0].components_).any()


@pytest.mark.parametrize("penalty", [{}, {"alpha_W": 1e-4, "l1_ratio": 0.5}])
def test_auto_minimises_the_penalised_loss(penalty):
    X = tall()
    auto = NMF(4, solver="hals", random_state=0, max_iter=300, tol=1e-6, **penalty).fit(X)
    named = NMF(4, solver="cd", init="nndsvd", random_state=0, max_iter=300, tol=0, **penalty).fit(X)
    assert reference.accepted_losses(auto)[-1] <= 1.002 * reference.accepted_losses(named)[-1]


def test_more_components_than_features_start_at_random():
    X = tall(m=5)
    model = NMF(8, solver="hals", random_state=0, tol=0, max_iter=5).fit(X)
    assert model.components_.shape == (8, 5)


def test_max_time_counts_the_samples_too():
    X = tall()
    with pytest.warns(ConvergenceWarning, match="max_time"):
        model = NMF(4, solver="hals", random_state=0, tol=0, max_iter=10**6, max_time=0.3).fit(X)
    assert not model.converged_
    assert model.n_iter_ >= 1


def test_ctrl_c_in_a_sample_is_raised(monkeypatch):
    def interrupted(*arguments, **settings):
        return factorize(
            *arguments, **{**settings, "callback": lambda report: (_ for _ in ()).throw(KeyboardInterrupt)}
        )

    monkeypatch.setattr(warm, "factorize", interrupted)
    with pytest.raises(KeyboardInterrupt):
        NMF(4, solver="hals", random_state=0).fit(tall())


# --- the start by singular vectors --------------------------------------------------------------


@pytest.mark.parametrize("stored", ["uint8", "float32", "float64", "int64"])
@pytest.mark.parametrize("layout", ["C", "F", "strided"])
def test_the_gram_of_x(stored, layout, monkeypatch):
    import nmfcore.rows.memory

    monkeypatch.setattr(nmfcore.rows.memory, "LANE_WORK", 1e6)
    X = np.random.RandomState(0).randint(0, 256, (1500, 37)).astype(stored)
    X = {"C": X, "F": np.asfortranarray(X), "strided": np.repeat(X, 2, axis=1)[:, ::2]}[layout]
    data = as_rows(X, np.float32 if stored in ("uint8", "float32") else np.float64)
    assert len(data.plan(37).lanes) > 1
    wide = X.astype("int64")
    np.testing.assert_array_equal(data.gram(), wide.T @ wide)  # to the bit


@pytest.mark.parametrize("shape", [(400, 30), (30, 400), (200, 60)])
def test_singular_triplets_equal_numpys(shape):
    rng = np.random.RandomState(0)
    X = rng.rand(shape[0], 8) @ np.diag(2.0 ** -np.arange(8)) @ rng.rand(8, shape[1])
    data = as_rows(X, np.float64)
    U, S, Vt = np.linalg.svd(X, full_matrices=False)
    ways = [initialization.subspace_svd(data, 5, 0)]
    if shape[0] > shape[1]:
        ways.append(initialization.gram_svd(data, 5))
    for found_U, found_S, found_Vt in ways:
        np.testing.assert_allclose(found_S, S[:5], rtol=1e-5)
        np.testing.assert_allclose(np.abs(np.sum(found_U * U[:, :5], axis=0)), 1, atol=1e-5)
        np.testing.assert_allclose(np.abs(np.sum(found_Vt * Vt[:5], axis=1)), 1, atol=1e-5)
    W, Ht = initialization.spectral_start(data, 5, 0)
    expected_W, expected_H = reference.nndsvd(U[:, :5], S[:5], Vt[:5])
    np.testing.assert_allclose(W @ Ht.T, expected_W @ expected_H, atol=1e-3 * X.max())


def test_gram_svd_finds_no_more_than_the_rank():
    X = np.outer(np.arange(1.0, 41), np.arange(1.0, 6))
    U, S, Vt = initialization.gram_svd(as_rows(X, np.float64), 3)
    assert S[0] == pytest.approx(np.linalg.norm(X))
    assert (S[1:] < 1e-7 * S[0]).all()
    assert np.isfinite(U).all()
    np.testing.assert_allclose((U * S) @ Vt, X, atol=1e-6 * S[0])
