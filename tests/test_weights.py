"""Weights of rows and columns: kernels against their naive twins, fits against fits of repeated rows and columns."""

import inspect
import pickle
import warnings

import numpy as np
import pytest
import reference as ref
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.utils import estimator_checks

from nmfcore import NMF, MiniBatchNMF, consensus, non_negative_factorization, select_rank
from nmfcore.backends import cpu, weighted
from nmfcore.backends.weighted import WeightedBlock
from nmfcore.models import estimator_from, load, model_of, save

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

BETAS = [2, 1, 0, 0.5, 1.5, 3, 1.3, -1]
LAYOUTS = ["C", "csr"]


def problem(rng, n=75, m=29, k=5, layout="C", dtype=np.float64, positive=False):
    """Return X, F, Ht, and weights of the rows and of the columns, some of which are 0."""
    X = rng.random((n, m)) * (1 if positive else rng.random((n, m)) < 0.4)
    X = (X + positive).astype(dtype)
    u, v = rng.random(n) * (rng.random(n) < 0.8), rng.random(m) * (rng.random(m) < 0.8)
    X = sparse.csr_matrix(X) if layout == "csr" else X
    return X, rng.random((n, k)).astype(dtype), rng.random((m, k)).astype(dtype), u, v


def close(found, expected, dtype=np.float64, scale=None):
    scale = np.abs(expected).max() if scale is None else scale
    assert_allclose(found, expected, rtol=0, atol=(3e-5 if dtype == np.float32 else 1e-12) * scale)


# ---- kernels and their naive twins ------------------------------------------------------------------------


def blocks(X, u, v):
    n = X.shape[0]
    for lo, hi in ((0, n // 3), (n // 3, n)):
        yield lo, hi, WeightedBlock(cpu.cut(X, (lo, hi), 64), u[lo:hi], v)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_products_and_opening(rng, layout, dtype):
    X, F, Ht, u, v = problem(rng, layout=layout, dtype=dtype)
    out, XtF, seen = np.empty_like(F), np.zeros(Ht.shape), np.zeros(4)
    for lo, hi, block in blocks(X, u, v):
        weighted.products(block, Ht, out[lo:hi])
        weighted.add_products(block, F[lo:hi], XtF)
        seen += weighted.opening(block, np.dtype(dtype))
    close(out, ref.products(X, v[:, None] * Ht), dtype)
    close(XtF, ref.products(ref.dense(X).T, u[:, None] * F), dtype)
    assert_allclose(seen[2:], ref.weighted_opening(X, u, v), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_pass_of_coordinate_descent(rng, layout, dtype):
    X, F, Ht, u, v = problem(rng, layout=layout, dtype=dtype)
    F[rng.random(F.shape) < 0.3] = 0
    k = F.shape[1]
    G = ref.weighted_gram(Ht, v)
    expected, violation, newton = ref.weighted_sweep(F, G, ref.products(X, v[:, None] * Ht), u, 0.3, 0.2)
    out, XtF, FtF, stats = np.empty_like(F), np.zeros(Ht.shape), np.zeros((k, k)), np.zeros(cpu.STATS)
    for lo, hi, block in blocks(X, u, v):
        weighted.descend(block, F[lo:hi], Ht, G, 0.3, 0.2, np.arange(k), 1, 0.0, out[lo:hi], XtF, FtF, stats)
    close(out, expected, dtype, 30 * max(1.0, expected.max()))
    close(XtF, ref.products(ref.dense(X).T, u[:, None] * out), dtype)
    close(FtF, ref.weighted_gram(out, u), dtype)
    rel = 2e-3 if dtype == np.float32 else 1e-10
    assert_allclose([stats[cpu.VIOLATION], stats[cpu.KKT]], [violation, newton], rtol=rel)
    assert_allclose(stats[cpu.TOTAL], (u[:, None] * out).sum(), rtol=1e-6 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_pass_that_begins_ahead(rng, layout):
    X, F, Ht, u, v = problem(rng, layout=layout)
    k, before, scale, weight = F.shape[1], rng.random(F.shape), rng.random(2 * F.shape[1]) + 0.5, 0.4
    G, C = ref.weighted_gram(Ht, v), ref.products(X, v[:, None] * Ht)
    B = F * scale[:k]
    expected, _, _ = ref.weighted_sweep(np.maximum(B + weight * (B - before * scale[k:]), 0), G, C, u)
    out, XtF, FtF, FtD = np.empty_like(F), np.zeros(Ht.shape), np.zeros((k, k)), np.zeros((2 * k, k))
    stats = np.zeros(cpu.STATS)
    for lo, hi, block in blocks(X, u, v):
        begin = cpu.Beginning(before[lo:hi], scale, weight, FtD)
        given = F[lo:hi], Ht, G, 0.0, 0.0, np.arange(k), 1, 0.0, out[lo:hi]
        weighted.descend(block, *given, XtF, FtF, stats, 0.1, begin)
    D = out - B
    close(out, expected)
    close(FtD, np.vstack([(out * u[:, None]).T @ D, (D * u[:, None]).T @ D]))
    assert_allclose(stats[cpu.CROSS], (u[:, None] * C * D).sum(), rtol=1e-10)


@pytest.mark.parametrize("name", ["sweep", "scale"])
def test_the_step_of_the_small_factor(rng, name):
    _, _, Ht, _, v = problem(rng)
    (m, k), G = Ht.shape, ref.gram(rng.random((40, Ht.shape[1])))
    C, out, HtH, stats = rng.random((m, k)) * 5, np.empty_like(Ht), np.zeros((k, k)), np.zeros(cpu.STATS)
    if name == "sweep":
        cpu.sweep(Ht, G, C, 0.1, 0.2, np.arange(k), out, HtH, stats, weights=v)
        expected, violation, newton = ref.weighted_sweep(Ht, G, C, v, 0.1, 0.2)
        assert_allclose([stats[cpu.VIOLATION], stats[cpu.KKT]], [violation, newton], rtol=1e-10)
    else:
        cpu.scale(Ht, G, C, 0.1, 0.2, out, HtH, stats, weights=v)
        expected = Ht * C / (Ht @ G + 0.1 + 0.2 * Ht)
    close(out, expected, scale=10)
    close(HtH, ref.weighted_gram(out, v))
    assert_allclose(stats[cpu.CROSS], (v[:, None] * C * out).sum(), rtol=1e-12)
    assert_allclose(stats[cpu.SQUARE], (G * HtH).sum(), rtol=1e-12)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses(rng, layout, beta):
    X, F, Ht, u, v = problem(rng, n=40, layout=layout, positive=beta <= 0)
    found = sum(weighted.divergence(block, F[lo:hi], Ht, beta) for lo, hi, block in blocks(X, u, v))
    assert_allclose(found, ref.weighted_divergence(X, F, Ht.T, beta, u, v), rtol=1e-10)


@pytest.mark.parametrize("beta", [each for each in BETAS if each != 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_multiplicative_pass(rng, layout, beta):
    X, F, Ht, u, v = problem(rng, n=40, layout=layout, positive=beta <= 0)
    F[0, 0], k, gamma = 0, F.shape[1], ref.gamma(beta)
    expected, N, D = ref.weighted_multiply(X, F, Ht, beta, u, v, 0.1, 0.2)
    out, of_N, of_D = np.empty_like(F), np.zeros(Ht.shape), np.zeros((1, k) if beta == 1 else Ht.shape)
    stats = np.zeros(cpu.STATS + 2 * k)
    loss = 0.0
    for lo, hi, block in blocks(X, u, v):
        loss += weighted.multiply_beta(
            block, F[lo:hi], Ht, beta, gamma, 0.1, 0.2, 0.0, True, True, out[lo:hi], of_N, of_D, stats
        )
    close(out, expected, scale=10 * max(1, expected.max()))
    close(of_N, N, scale=10 * N.max())
    close(of_D, D[:1] if beta == 1 else D, scale=10 * D.max())
    assert_allclose(loss, ref.weighted_divergence(X, F, Ht.T, beta, u, v), rtol=1e-10)
    assert_allclose(stats[cpu.STATS : cpu.STATS + k], (u[:, None] * F).sum(axis=0), rtol=1e-12)
    assert_allclose(stats[cpu.TOTAL], (u[:, None] * out).sum(), rtol=1e-12)


def test_worst_rows_are_those_that_count(rng):
    X, F, Ht, u, v = problem(rng)
    losses = np.where(u > 0, (v * (X - F @ Ht.T) ** 2).sum(axis=1) / 2, 0)
    order = np.argsort(-losses)[:4]
    for stored in (X, sparse.csr_matrix(X)):
        worst = np.zeros((4, 1 + len(v)))
        for lo, hi, block in blocks(stored, u, v):
            weighted.worst_rows(block, F[lo:hi], Ht, worst)
        assert_allclose(worst[:, 0], losses[order], rtol=1e-10)
        assert_allclose(worst[:, 1:], np.maximum(X[order] - F[order] @ Ht.T, 0), atol=1e-10)


# ---- weights and repetitions ------------------------------------------------------------------------------

PENALTIES = {"alpha_W": 0.002, "alpha_H": 0.001, "l1_ratio": 0.4}
FITS = [
    *[{"solver": solver, **more} for solver in ("cd", "hals", "mu") for more in ({}, PENALTIES)],
    *[{"solver": "mu", "beta_loss": beta, **more} for beta in BETAS[1:] for more in ({}, PENALTIES)],
    {"solver": "mu", "extrapolate": True},
    {"solver": "mu", "extrapolate": True, "beta_loss": 1.5, **PENALTIES},
]


def repeated(rng, n=90, m=31, k=4, positive=False, wide=False):
    """Return X, a start, whole weights, and which rows and columns an X of repetitions has."""
    n, m = (31, 400) if wide else (n, m)  # wide: sums of a sparse X are made from the transposed matrix
    X = rng.random((n, m)) * (rng.random((n, m)) < (0.3 if wide else 0.5)) + (0.01 if positive else 0)
    u, v = rng.integers(0, 4, n), rng.integers(1, 4, m)
    start = rng.random((n, k)) + 0.1, rng.random((k, m)) + 0.1
    return X, start, u, v, np.repeat(np.arange(n), u), np.repeat(np.arange(m), v)


def fitted(X, W, H, sample_weight=None, **settings):
    settings = {"tol": 0, "max_iter": 15, "init": "custom", "n_components": len(H)} | settings
    model = NMF(**settings)
    return model.fit_transform(X, W=np.array(W), H=np.array(H), sample_weight=sample_weight), model


@pytest.mark.parametrize("settings", FITS, ids=lambda each: "-".join(map(str, each.values())))
@pytest.mark.parametrize("kind", ["dense", "csr", "wide csr"])
def test_whole_weights_are_repetitions(rng, settings, kind):
    positive = settings.get("beta_loss", 2) <= 0
    X, (W, H), u, v, rows, columns = repeated(rng, positive=positive, wide="wide" in kind)
    made = sparse.csc_matrix if "csr" in kind else np.asarray
    found, model = fitted(made(X), W, H, u, feature_weight=v, **settings)
    many = X[rows][:, columns]
    expected, other = fitted(made(many), W[rows], H[:, columns], **settings)
    assert_allclose(found[rows], expected, rtol=1e-10, atol=1e-10 * expected.max())
    assert_allclose(model.components_[:, columns], other.components_, rtol=1e-10, atol=1e-10 * found.max())
    for name in ("reconstruction_err_", "kkt_residual_"):
        assert_allclose(getattr(model, name), getattr(other, name), rtol=1e-9)
    for name in ("loss", "violation"):
        assert_allclose(model.history_[name], other.history_[name], rtol=1e-9)
    assert_array_equal(model.history_["accepted"], other.history_["accepted"])
    codes, expected = (
        each.set_params(tol=1e-3, max_iter=1000).transform(made(data))
        for each, data in ((model, X), (other, X[:, columns]))
    )
    assert_allclose(codes, expected, rtol=1e-9, atol=1e-10)
    assert_allclose(model.score(made(X), sample_weight=u), other.score(made(many)), rtol=1e-9)


@pytest.mark.parametrize("init", ["nndsvd", None, "auto"])
@pytest.mark.parametrize("kind", ["dense", "csr", "uint8"])
def test_a_start_is_that_of_repetitions(rng, init, kind):
    X, _, u, v, rows, columns = repeated(rng)
    X, k = np.floor(200 * X), 4
    if kind == "csr":  # what a randomised SVD begins with is as long as X is wide
        v, columns = np.ones(31), np.arange(31)
    else:  # of so low a rank it is exact, whatever it begins with
        X = np.floor(9 * rng.random((90, 7))) @ np.floor(4 * rng.random((7, 31)))
    made = sparse.csr_matrix if kind == "csr" else np.uint8 if kind == "uint8" else np.asarray
    solver = "hals" if init == "auto" else "cd"
    settings = {"solver": solver, "init": init, "max_iter": 8, "tol": 0, "random_state": 0, "dtype": np.float64}
    model, other = (NMF(k, feature_weight=weights, **settings) for weights in (v, None))
    found = model.fit_transform(made(X), sample_weight=u)
    expected = other.fit_transform(made(X[rows][:, columns]))
    assert_allclose(found[rows], expected, rtol=1e-6, atol=1e-7 * expected.max())
    assert_allclose(model.components_[:, columns], other.components_, rtol=1e-6, atol=1e-7 * other.components_.max())


def test_a_start_gives_rows_and_columns_that_do_not_count_what_fits_them(rng):
    X = rng.random((40, 3)) @ rng.random((3, 20))
    u, v = np.ones(40), np.ones(20)
    u[7] = v[5] = 0
    for init in ("nndsvd", "auto"):
        solver = "hals" if init == "auto" else "cd"
        model = NMF(3, solver=solver, init=init, random_state=0, max_iter=1, feature_weight=v, tol=0)
        W = model.fit_transform(X, sample_weight=u)
        assert np.isfinite(W).all()
        assert np.isfinite(model.components_).all()
        assert W[7].any()
        assert model.components_[:, 5].any()


@pytest.mark.parametrize("settings", [{"solver": "cd"}, {"solver": "hals"}, {"solver": "mu", "beta_loss": 1}])
def test_the_objective_is_that_of_the_documentation(rng, settings):
    X, (W, H), _, _, _, _ = repeated(rng)
    u, v = rng.random(len(X)), rng.random(X.shape[1])
    found, model = fitted(X, W, H, u, feature_weight=v, max_iter=20, **PENALTIES, **settings)
    beta = settings.get("beta_loss", 2)
    loss = ref.weighted_objective(X, found, model.components_, beta, u, v, **PENALTIES)
    divergence = ref.weighted_divergence(X, found, model.components_, beta, u, v)
    assert_allclose(model.history_["loss"][-1], loss, rtol=1e-9)
    assert_allclose(model.reconstruction_err_, np.sqrt(2 * divergence), rtol=1e-9)
    assert model.history_["loss"][-1] < model.history_["loss"][0 if beta == 2 else 9]


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
def test_a_row_that_does_not_count_is_coded_and_changes_nothing(rng, solver):
    X, (W, H), _, _, _, _ = repeated(rng)
    u = np.ones(len(X))
    u[[3, 50]] = 0
    found, model = fitted(X, W, H, u, solver=solver)
    left, other = fitted(X[u > 0], W[u > 0], H, solver=solver)
    assert_allclose(model.components_, other.components_, rtol=1e-10, atol=1e-12)
    assert_allclose(found[u > 0], left, rtol=1e-10, atol=1e-12)
    assert np.linalg.norm(X[3] - found[3] @ model.components_) < 0.9 * np.linalg.norm(X[3])


@pytest.mark.parametrize("settings", FITS[::2], ids=lambda each: "-".join(map(str, each.values())))
@pytest.mark.parametrize("ones", [{"sample_weight": 1.0}, {"feature_weight": np.ones(31)}])
def test_weights_of_one_have_the_bits_of_none(rng, settings, ones):
    X, (W, H), _, _, _, _ = repeated(rng, positive=settings.get("beta_loss", 2) <= 0)
    (found, model), (expected, other) = fitted(X, W, H, **ones, **settings), fitted(X, W, H, **settings)
    assert_array_equal(found, expected)
    assert_array_equal(model.components_, other.components_)
    assert_array_equal(model.history_["loss"], other.history_["loss"])


# Of hals one pass: the scales that it gives to components are rounded to powers of two, and with them its sweeps end.
@pytest.mark.parametrize("settings", [
    {"solver": "cd"}, {"solver": "hals", "max_iter": 1}, {"solver": "mu", "beta_loss": 0.5},
])  # fmt: skip
def test_only_ratios_of_weights_matter_to_the_factors(rng, settings):
    X, (W, H), _, _, _, _ = repeated(rng)
    u, v = rng.random(len(X)), rng.random(X.shape[1])
    found, model = fitted(X, W, H, u, feature_weight=v, **settings, **PENALTIES)
    again, other = fitted(X, W, H, 8 * u, feature_weight=v / 2, **settings, **PENALTIES)
    if settings["solver"] == "hals":  # whose components may have other scales
        found, again = found @ model.components_, again @ other.components_
    assert_allclose(again, found, rtol=1e-9, atol=1e-12)
    assert_allclose(other.history_["loss"], 4 * model.history_["loss"], rtol=1e-9)


@pytest.mark.parametrize("stored", ["uint8", "float16", "int32", "float32", "F", "strided"])
def test_x_of_every_type(rng, stored):
    X, (W, H), u, v, rows, columns = repeated(rng)
    X = np.floor(100 * X)
    given = {"F": np.asfortranarray(X), "strided": np.repeat(X, 2, axis=1)[:, ::2]}
    data = given[stored] if stored in given else X.astype(stored)
    for solver in ("cd", "mu"):
        settings = {"solver": solver, "dtype": np.float64}
        found, model = fitted(data, W, H, u, feature_weight=v, **settings)
        expected, other = fitted(X[rows][:, columns], W[rows], H[:, columns], **settings)
        assert_allclose(found[rows], expected, rtol=1e-9, atol=1e-9)
        assert_allclose(model.components_[:, columns], other.components_, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
@pytest.mark.parametrize("kind", ["memory map", "path", "h5py", "zarr"])
def test_disk_and_memory_maps_have_the_bits_of_memory(rng, solver, kind, tmp_path):
    X, (W, H), _, _, _, _ = repeated(rng, n=700)
    u, v = rng.random(len(X)), rng.random(X.shape[1])
    settings = {"solver": solver, "feature_weight": v}
    expected, other = fitted(X, W, H, u, **settings)
    np.save(tmp_path / "x.npy", X)
    data = tmp_path / "x.npy"
    if kind == "memory map":
        data = np.load(data, mmap_mode="r")
    elif kind != "path":
        library = pytest.importorskip(kind)
        data = library.File(tmp_path / "x.h5", "w").create_dataset("x", data=X) if kind == "h5py" else None
        if kind == "zarr":
            data = library.open(str(tmp_path / "x.zarr"), mode="w", shape=X.shape, chunks=(100, 31), dtype="f8")
            data[:] = X
    for n_jobs in (1, 2):
        found, model = fitted(data, W, H, u, n_jobs=n_jobs, **settings)
        assert_array_equal(found, expected)
        assert_array_equal(model.components_, other.components_)
    assert model.reconstruction_err_ == other.reconstruction_err_
    assert model.score(data, sample_weight=u) == other.score(X, sample_weight=u)


# ---- with other parameters --------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
@pytest.mark.parametrize("more", [{}, {"beta_loss": 1}])
def test_fixed_components_stay(rng, solver, more):
    if more and solver != "mu":
        pytest.skip("Frobenius only")
    X, (W, H), u, v, rows, columns = repeated(rng)
    settings = {"solver": solver, "fixed_components": [1, 2], **more, **PENALTIES}
    found, model = fitted(X, W, H, u, feature_weight=v, **settings)
    expected, other = fitted(X[rows][:, columns], W[rows], H[:, columns], **settings)
    assert_array_equal(model.components_[[1, 2]], H[[1, 2]])
    assert_allclose(found[rows], expected, rtol=1e-9, atol=1e-10)
    assert_allclose(model.components_[:, columns], other.components_, rtol=1e-9, atol=1e-10)
    assert_allclose(model.history_["loss"], other.history_["loss"], rtol=1e-9)
    assert_allclose(model.kkt_residual_, other.kkt_residual_, rtol=1e-8)
    all_fixed = NMF(4, init="custom", feature_weight=v, **settings | {"fixed_components": range(4)})
    all_fixed.fit(X, H=H, sample_weight=u)
    assert_allclose(all_fixed.history_["loss"][-1], ref.weighted_objective(
        X, all_fixed.transform(X), H, more.get("beta_loss", 2), u, v, **PENALTIES), rtol=1e-6)  # fmt: skip


def test_order_and_scale(rng):
    X, (W, H), u, v, rows, columns = repeated(rng)
    W, H = W[:, ::-1] * [1, 2, 3, 4], H * [[4], [1], [3], [2]]
    settings = {"sort_components": True, "normalize": "max", "max_iter": 20}
    found, model = fitted(X, W, H, u, feature_weight=v, **settings)
    expected, other = fitted(X[rows][:, columns], W[rows], H[:, columns], **settings)
    assert_allclose(found[rows], expected, rtol=1e-9, atol=1e-10)
    assert_allclose(model.components_[:, columns], other.components_, rtol=1e-9, atol=1e-10)
    assert_allclose(model.components_.max(axis=1), 1)


def test_several_starts_and_samples(rng):
    X = rng.random((13000, 6)) @ np.diag(np.arange(1, 7))
    u = (np.arange(13000) % 2 == 0).astype(float)
    model = NMF(2, solver="hals", n_init=2, random_state=0, max_iter=20, tol=0, feature_weight=np.arange(1, 7))
    W = model.fit_transform(X, sample_weight=u)
    losses = model.init_losses_
    best = ref.weighted_divergence(X[::100], W[::100], model.components_, 2, u[::100], np.arange(1, 7))
    assert_allclose(losses.min(), model.history_["loss"][-1], rtol=1e-9)
    assert losses.shape == (2,)
    assert 25 < losses.min() / best < 100  # 6,500 rows count, of which 130 were measured
    assert model.component_stability_.shape == (2,)


def test_columns_that_are_masked(rng):
    X, (W, H), u, _, _, _ = repeated(rng)
    v, gone = rng.random(31), np.arange(31) % 5 == 0
    model = NMF(4, init="custom", max_iter=10, tol=0, feature_weight=v)
    with pytest.warns(UserWarning, match="columns"):
        found = model.fit_transform(X, W=W.copy(), H=H, sample_weight=u, mask=gone)
    left = fitted(X[:, ~gone], W, H[:, ~gone], u, feature_weight=v[~gone], max_iter=10)
    assert_array_equal(found, left[0])
    assert_array_equal(model.components_[:, ~gone], left[1].components_)


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
def test_checkpoints_know_the_weights(rng, solver, tmp_path):
    X, (W, H), _, _, _, _ = repeated(rng)
    u, v = rng.random(len(X)), rng.random(31)
    settings = {"solver": solver, "feature_weight": v, "tol": 1e-14}
    expected, other = fitted(X, W, H, u, max_iter=30, **settings)
    path = tmp_path / "fit.npz"
    fitted(X, W, H, u, max_iter=12, checkpoint=path, **settings)
    for change in ({"feature_weight": v[::-1]}, {"sample_weight": u[::-1]}):
        with pytest.raises(ValueError, match=r"checkpoint .* is of another fit"):
            fitted(X, W, H, **{"sample_weight": u, "max_iter": 30, "checkpoint": path, **settings, **change})
    found, model = fitted(X, W, H, u, max_iter=30, checkpoint=path, **settings)
    assert_array_equal(found, expected)
    assert_array_equal(model.components_, other.components_)


def test_limits_and_callbacks_see_the_weighted_loss(rng):
    X, (W, H), u, v, _, _ = repeated(rng)
    seen = []
    _, model = fitted(X, W, H, u, feature_weight=v, callback=lambda progress: seen.append(progress.loss))
    assert_array_equal(seen, model.history_["loss"])
    _, short = fitted(X, W, H, u, feature_weight=v, max_time=1e-9, tol=1e-4)
    assert short.n_iter_ == 1


def test_the_function(rng):
    X, (W, H), u, v, _, _ = repeated(rng)
    found = non_negative_factorization(X, W, H, 4, init="custom", max_iter=8, tol=0, feature_weight=v, sample_weight=u)
    expected, model = fitted(X, W, H, u, feature_weight=v, max_iter=8)
    assert_array_equal(found[0], expected)
    assert_array_equal(found[1], model.components_)
    codes = non_negative_factorization(X, H=found[1], n_components=4, update_H=False, feature_weight=v)[0]
    assert_array_equal(codes, model.set_params(tol=1e-4, max_iter=200).transform(X))
    with pytest.raises(ValueError, match="sample_weight has no meaning with update_H=False"):
        non_negative_factorization(X, H=H, n_components=4, update_H=False, sample_weight=u)


# ---- what is refused --------------------------------------------------------------------------------------

BAD = {
    "negative": ([-0.5], "holds negative values, the least of which is -0.5"),
    "nan": ([np.nan], "holds NaN or infinity"),
    "infinite": ([np.inf], "holds NaN or infinity"),
    "zero": ([0], "is zero throughout"),
    "small": ([1e-12], "has a mean of 1e-12"),
    "length": (None, r"has shape \(3,\), but X has"),
    "two dimensions": ([[1.0]], r"has shape \(.*\), but X has"),
}


@pytest.mark.parametrize("fault", BAD)
@pytest.mark.parametrize("name", ["sample_weight", "feature_weight"])
def test_weights_that_cannot_be_used_are_refused(rng, name, fault):
    X, (W, H), _, _, _, _ = repeated(rng)
    value, message = BAD[fault]
    length = X.shape[0 if name == "sample_weight" else 1]
    given = np.ones(3) if value is None else np.array(value * length if np.ndim(value) == 1 else [value[0] * length])
    if fault in ("negative", "nan", "infinite"):
        given[1:] = 1
    with pytest.raises(ValueError, match=f"{name} {message}"):
        fitted(X, W, H, **{name: given})
    model = fitted(X, W, H)[1]
    with pytest.raises(ValueError, match=f"{name} {message}"):
        if name == "sample_weight":
            model.score(X, sample_weight=given)
        else:
            model.set_params(feature_weight=given).transform(X)


def test_what_weights_do_not_go_with(rng):
    X, (W, H), u, v, _, _ = repeated(rng)
    mask = np.zeros(X.shape, bool)
    mask[3, 4] = True
    with pytest.raises(ValueError, match="sample_weight cannot be used where single entries of X are missing"):
        NMF(2).fit(X, sample_weight=u, mask=mask)
    with pytest.raises(ValueError, match=r"for the CPU only: .*sample_weight and feature_weight"):
        fitted(X, W, H, u, feature_weight=v, device="cuda")
    with pytest.raises(ValueError, match="MiniBatchNMF takes no sample_weight"):
        MiniBatchNMF(2).fit(X, sample_weight=u)
    with pytest.raises(ValueError, match="the estimator has feature_weight"):
        select_rank(X, [2], estimator=NMF(feature_weight=v))
    with pytest.raises(ValueError, match="consensus takes no feature_weight"):
        consensus(X, 2, estimator=NMF(feature_weight=v))
    da = pytest.importorskip("dask.array")
    with pytest.raises(ValueError, match="X is a Dask array, for which sample_weight cannot be used"):
        NMF(2).fit(da.from_array(X), sample_weight=u)


def test_a_mini_batch_model_is_scored_with_weights(rng):
    X, _, u, _, rows, _ = repeated(rng)
    model = MiniBatchNMF(3, random_state=0, max_iter=5).fit(X)
    assert_allclose(model.score(X, sample_weight=u), model.score(X[rows]), rtol=1e-9)


# ---- scikit-learn, models ---------------------------------------------------------------------------------


class FixedStart(NMF):
    """An NMF of three components whose fits begin with the same H, whatever X is; W is solved for."""

    def __init__(self, solver="cd"):
        super().__init__(3, init="custom", solver=solver, max_iter=2000, tol=1e-5)

    def fit(self, X, y=None, sample_weight=None):
        H = np.random.RandomState(0).random_sample((3, X.shape[1])) + 0.1
        return super().fit(X, sample_weight=sample_weight, H=H)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("solver", ["cd", "mu", "hals"])
def test_equivalence_checks_of_scikit_learn(kind, solver):
    name = f"check_sample_weight_equivalence_on_{kind}_data"
    check = getattr(estimator_checks, name, None)
    if check is None:
        pytest.skip("this scikit-learn has no such check")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check("FixedStart", FixedStart(solver))


def test_weights_are_routed(rng):
    from sklearn.pipeline import make_pipeline

    X, _, u, _, _, _ = repeated(rng)
    with sklearn.config_context(enable_metadata_routing=True):
        model = NMF(4, random_state=0, max_iter=20).set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipeline = make_pipeline(model).fit(X, sample_weight=u)
            alone = NMF(4, random_state=0, max_iter=20).fit(X, sample_weight=u)
        assert_array_equal(pipeline[0].components_, alone.components_)
        assert pipeline.score(X, sample_weight=u) == alone.score(X, sample_weight=u)


def test_clone_pickle_and_model_file(rng, tmp_path):
    X, (W, H), _, v, _, _ = repeated(rng)
    found, model = fitted(X, W, H, feature_weight=v)
    save(model_of(model, found), tmp_path / "model.npz")
    codes = model.transform(X)
    for copy in (pickle.loads(pickle.dumps(model)), estimator_from(load(tmp_path / "model.npz"))):
        assert_array_equal(copy.feature_weight, v)
        assert_array_equal(copy.transform(X), codes)
    assert clone(model).feature_weight is not None


def test_nothing_of_the_callers_is_written_or_kept(rng):
    X, (W, H), u, v, _, _ = repeated(rng)
    u, v = u.astype(float), v.astype(float)
    given = u.copy(), v.copy()
    for array in (X, u, v):
        array.setflags(write=False)
    _, model = fitted(X, W, H, u, feature_weight=v)
    assert_array_equal(u, given[0])
    assert model.feature_weight is v
    assert_array_equal(v, given[1])


def test_signatures():
    assert list(inspect.signature(NMF.fit).parameters)[1:4] == ["X", "y", "sample_weight"]
    assert inspect.signature(NMF.score).parameters["sample_weight"].default is None
    assert inspect.signature(NMF).parameters["feature_weight"].default is None
