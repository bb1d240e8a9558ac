"""NMF of c·X is c times NMF of X, and a fit of which nothing is left says so."""

import contextlib
import io
import re
import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from nmfcore import NMF, MiniBatchNMF, non_negative_factorization
from nmfcore.backends import cpu
from nmfcore.rows.memory import as_rows
from nmfcore.scale import comfortable

K = 3
RNG = np.random.default_rng(0)
BASE = RNG.random((90, K)) @ RNG.random((K, 20)) + 0.05 * RNG.random((90, 20))
# 4^p: across the whole range of either type
POWERS = {np.float64: (-495, -255, -60, -9, 9, 60, 255, 490), np.float32: (-60, -50, -20, -9, 9, 20, 50, 60)}
INITS = ("auto", "nndsvd", "nndsvda", "nndsvdar", "random")
EACH = [(dtype, p) for dtype, powers in POWERS.items() for p in powers]


def hals(**parameters):
    return NMF(K, **{"solver": "hals", "random_state": 0, "max_iter": 30, "tol": 0, **parameters})


def times(A, power):
    return np.ldexp(A, power)


def fitted(model, X, **start):
    """W, and the model."""
    return model.fit_transform(X, **start), model


def same_but_for_scale(one, other, p):
    """Compare (W, model) of X and of 4^p·X, bit for bit."""
    (W, a), (V, b) = one, other
    np.testing.assert_array_equal(V, times(W, p))
    np.testing.assert_array_equal(b.components_, times(a.components_, p))
    assert b.reconstruction_err_ == times(a.reconstruction_err_, 2 * p) > 0
    assert (b.n_iter_, b.converged_, b.kkt_residual_) == (a.n_iter_, a.converged_, a.kkt_residual_)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(b.history_["loss"], times(a.history_["loss"], 4 * p))
        np.testing.assert_array_equal(b.history_["violation"], times(a.history_["violation"], 3 * p))


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("dtype", POWERS)
def test_powers_of_four_change_no_digit(dtype, init):
    X = BASE.astype(dtype)
    one = fitted(hals(init=init), X)
    for p in POWERS[dtype]:
        same_but_for_scale(one, fitted(hals(init=init), times(X, 2 * p)), p)


@pytest.mark.parametrize("kind", ["csr", "memmap", "file", "by columns", "samples"])
@pytest.mark.parametrize(("dtype", "p"), [(np.float64, -400), (np.float32, 50), (np.float32, -45)])
def test_whatever_x_lies_in(kind, dtype, p, tmp_path):
    X = (BASE * (np.median(BASE) < BASE)).astype(dtype)
    if kind == "samples":
        X = np.tile(X, (140, 1))[:12_000] + RNG.random((12_000, 20)).astype(dtype)

    def held(X):
        if kind == "csr":
            return sparse.csr_matrix(X)
        if kind == "by columns":
            return np.asfortranarray(X)
        if kind == "samples":
            return X
        path = tmp_path / "X.npy"
        path.unlink(missing_ok=True)
        np.save(path, X)
        return str(path) if kind == "file" else np.load(path, mmap_mode="r")

    passes = 3 if kind == "samples" else 30
    one = fitted(hals(max_iter=passes), held(X))
    scaled = times(X, 2 * p)
    other = fitted(hals(max_iter=passes, n_jobs=2), held(scaled))
    same_but_for_scale(one, other, p)
    if kind in ("memmap", "file", "by columns"):
        np.testing.assert_array_equal(other[0], fitted(hals(max_iter=passes, n_jobs=1), scaled)[0])


@pytest.mark.parametrize("solver", ["hals", "cd"])
@pytest.mark.parametrize(("dtype", "p"), EACH)
def test_custom_starts_and_penalties(dtype, p, solver):
    X, start = BASE.astype(dtype), {"W": RNG.random((90, K)).astype(dtype), "H": RNG.random((K, 20)).astype(dtype)}
    scaled = {name: times(F, p) for name, F in start.items()}
    model = {"init": "custom", "solver": solver}
    same_but_for_scale(fitted(hals(**model), X, **start), fitted(hals(**model), times(X, 2 * p), **scaled), p)
    for l1_ratio, by in ((0, 2), (1, 3)):
        if abs(by * p) < 1000:
            one, other = (
                hals(**model, alpha_W=1e-3 * 2.0**power, l1_ratio=l1_ratio) for power in (0, by * p)
            )  # fmt: skip
            same_but_for_scale(fitted(one, X, **start), fitted(other, times(X, 2 * p), **scaled), p)


def test_one_custom_factor():
    H = RNG.random((K, 20))
    one = fitted(hals(init="custom"), BASE, H=H)
    same_but_for_scale(one, fitted(hals(init="custom"), times(BASE, -800), H=times(H, -400)), -400)


@pytest.mark.parametrize("solver", ["hals", "cd", "mu"])
@pytest.mark.parametrize(("dtype", "p"), EACH)
def test_transform_and_score(dtype, p, solver):
    X = BASE.astype(dtype)
    model = hals(init="random", solver=solver).fit(X)
    model.set_params(tol=1e-4, max_iter=1000)
    W, score = model.transform(X), model.score(X)
    model.components_ = times(model.components_, p)
    scaled = times(X, 2 * p)
    np.testing.assert_array_equal(model.transform(scaled), times(W, p))
    with np.errstate(all="ignore"):
        assert model.score(scaled) == times(score, 4 * p)
    np.testing.assert_array_equal(model.transform(scaled[3:4]), times(W[3:4], p))  # alone
    V = non_negative_factorization(
        scaled, n_components=K, H=model.components_, update_H=False, solver=solver, tol=1e-4, max_iter=1000
    )[0]
    np.testing.assert_array_equal(V, times(W, p))


@pytest.mark.parametrize("init", [None, "nndsvda", "random"])
@pytest.mark.parametrize("dtype", POWERS)
def test_mini_batches(dtype, init):
    def learned(X):
        model = MiniBatchNMF(K, solver="hals", init=init, random_state=0, batch_size=30, max_iter=5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return fitted(model, X)

    X = BASE.astype(dtype)
    one = learned(X)
    for p in POWERS[dtype]:
        scaled = times(X, 2 * p)
        other = learned(scaled)
        same_but_for_scale(one, other, p)
        np.testing.assert_array_equal(other[1].transform(scaled), times(one[1].transform(X), p))


@pytest.mark.parametrize("dtype", POWERS)
def test_streams(dtype):
    def learned(X):
        model = MiniBatchNMF(K, solver="hals", random_state=0)
        for batch in np.array_split(X, 3):
            model.partial_fit(batch)
        return model.components_

    X = BASE.astype(dtype)
    H = learned(X)
    for p in POWERS[dtype]:
        np.testing.assert_array_equal(learned(times(X, 2 * p)), times(H, p))


def test_a_stream_that_begins_small():
    tiny, zeros = times(BASE, -900), np.zeros_like(BASE)
    model = MiniBatchNMF(K, solver="hals", random_state=0)
    for X in (zeros, tiny, zeros, BASE, BASE, tiny, zeros, times(BASE, 900), times(BASE, 900)):
        model.partial_fit(X)
    assert np.isfinite(model.components_).all()
    X = times(BASE, 900)
    R = times(X, -900) - times(model.transform(X), -450) @ times(model.components_, -450)
    assert np.linalg.norm(R) < 0.05 * np.linalg.norm(BASE)


@pytest.mark.parametrize("make", [hals, lambda: MiniBatchNMF(K, solver="hals", random_state=0, batch_size=30)])
@pytest.mark.parametrize("dtype", POWERS)
def test_powers_of_ten(dtype, make):
    def error(c):
        X = (c * BASE).astype(dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            W, model = fitted(make(), X)
        found = model.reconstruction_err_ / c
        unit = np.sqrt(np.float64(c))
        assert found == pytest.approx(np.linalg.norm(X / c - (W / unit) @ (model.components_ / unit)), rel=1e-3)
        return found

    far = 36 if dtype is np.float32 else 300
    one = error(1.0)
    for c in (10.0**-far, 10.0 ** -(far // 2 + 4), 1e-16, 1e-9, 1e9, 1e18, 10.0 ** (far // 2 + 4), 10.0**far):
        assert error(c) == pytest.approx(one, rel=2e-3), c


@pytest.mark.parametrize("c", [1e9, 4e18])
@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
@pytest.mark.parametrize("compute", [None, np.float32])
def test_counts(dtype, c, compute):
    counts = (c * BASE / BASE.max()).astype(dtype)
    one = fitted(hals(dtype=compute), counts.astype(np.float64))
    for X in (counts, np.asfortranarray(counts)):
        W, model = fitted(hals(dtype=compute), X)
        np.testing.assert_allclose(W, one[0], rtol=1e-3, atol=1e-3 * one[0].max())
        assert model.reconstruction_err_ == pytest.approx(one[1].reconstruction_err_, rel=1e-4)
    assert hals(dtype=compute).fit(sparse.csr_matrix(counts)).reconstruction_err_ == pytest.approx(
        one[1].reconstruction_err_, rel=1e-3
    )


def test_float64_that_float32_cannot_hold():
    X = 1e-60 * BASE  # all zeros in float32; W and H are not
    W, model = fitted(hals(dtype=np.float32), X)
    one = fitted(hals(dtype=np.float32), BASE)[1]
    assert W.dtype == np.float32
    assert model.reconstruction_err_ == pytest.approx(1e-60 * one.reconstruction_err_, rel=1e-2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("c", [1e-200, 1.0, 1e200])
def test_what_is_not_finite_is_still_refused(bad, c):
    X = c * BASE
    X[3, 4] = bad
    with pytest.raises(ValueError, match="NaN" if np.isnan(bad) else "infinity"):
        hals().fit(X)


def test_what_is_seen_on_the_way(tmp_path):
    p, seen = -300, []

    def look(progress):
        W, H = progress.factors()
        seen.append((progress.loss, progress.violation, np.abs(times(W, -p) @ times(H, -p) - BASE).max()))

    X, text = times(BASE, 2 * p), io.StringIO()
    with contextlib.redirect_stdout(text):
        model = hals(callback=look, verbose=1, max_iter=5, checkpoint=str(tmp_path / "fit")).fit(times(BASE, -60))
    assert len(seen) == 5
    assert f"pass 5: loss {model.history_['loss'][-1]:.9g}," in text.getvalue()
    assert [loss for loss, _, _ in seen] == list(model.history_["loss"])
    seen.clear()
    model = hals(callback=look, max_iter=5).fit(X)
    assert [violation for _, violation, _ in seen] == list(model.history_["violation"])
    assert all(far < 0.5 for _, _, far in seen)


def test_a_fit_that_goes_on(tmp_path):
    X, path = times(BASE, -900), str(tmp_path / "fit")

    def stop(progress):
        if progress.iteration == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hals(checkpoint=path, callback=stop).fit(X)
    W, model = fitted(hals(checkpoint=path), X)
    V, whole = fitted(hals(), X)
    np.testing.assert_array_equal(W, V)
    np.testing.assert_array_equal(model.history_["loss"], whole.history_["loss"])


STORED = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64"]


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("compute", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F", "steps", "csr"])
def test_kernels_read_a_multiple(stored, compute, order):
    X = RNG.integers(0, 100, (37, 50)).astype(stored)
    Ht = RNG.random((50, 4)).astype(compute)
    laid = {
        "C": X, "F": np.asfortranarray(X), "steps": np.repeat(X, 2, axis=1)[:, ::2],
        "csr": sparse.csr_matrix(X) if stored != "float16" else sparse.csr_matrix(X.astype(np.float32)),
    }[order]  # fmt: skip
    data = as_rows(laid, compute)
    for p in (-50, -3, 3, 30):
        view = data.scaled(p)
        assert view.summary().total == times(data.summary().total, 2 * p)
        np.testing.assert_array_equal(view.products(Ht), times(data.products(Ht), 2 * p))
        F = np.ones((37, 2), compute)
        np.testing.assert_array_equal(view.transposed_products(F), times(data.transposed_products(F), 2 * p))
        if order != "csr" and abs(p) < 20:  # its square is within float32
            np.testing.assert_array_equal(view.gram(), times(data.gram(), 4 * p))


def test_a_float64_is_multiplied_before_it_is_narrowed():
    X = np.array([[1e-60, 2e-60, 3e-60]])
    out = np.empty((1, 3), np.float32)
    cpu.products(cpu.cut(X, (0, 1), 64, 100), np.eye(3, dtype=np.float32), out)
    np.testing.assert_array_equal(out, (X * 4.0**100).astype(np.float32))


def test_ordinary_data_are_read_as_they_are():
    for c in (1e-3, 1.0, 255.0, 65535.0):
        for dtype in (np.float32, np.float64):
            data = as_rows((c * BASE).astype(dtype), dtype)
            assert comfortable(data) is data
    zeros = as_rows(np.zeros((3, 4)), np.float32)
    assert comfortable(zeros) is zeros


# --- nothing is left -----------------------------------------------------------------------------

TFIDF = sparse.random(300, 600, density=0.03, format="csr", random_state=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda **p: NMF(5, init="nndsvda", random_state=0, **p),
        lambda **p: NMF(5, init="nndsvda", solver="mu", random_state=0, **p),
        lambda **p: NMF(5, solver="hals", random_state=0, **p),
        lambda **p: MiniBatchNMF(5, solver="hals", random_state=0, **p),
        lambda **p: MiniBatchNMF(5, random_state=0, **p),
    ],
)
def test_penalties_that_leave_nothing(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        make(alpha_W=1e-6).fit(TFIDF)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        make(alpha_W=0.3, l1_ratio=0.5).fit(TFIDF)
    (text,) = [str(each.message) for each in said if "Nothing of X is left" in str(each.message)]
    assert "alpha_W = 0.3 is multiplied by n_features = 600" in text
    assert "n_samples = 300" in text


@contextlib.contextmanager
def all_said(kind, match):
    """Like `pytest.warns`, whatever else is said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield
    assert any(issubclass(each.category, kind) and re.search(match, str(each.message)) for each in said)


def test_penalties_that_leave_nothing_of_a_call():
    with all_said(ConvergenceWarning, match="penalties removed every component"):
        non_negative_factorization(TFIDF, n_components=5, init="random", random_state=0, alpha_W=1.0, l1_ratio=1.0)


def test_starts_that_leave_nothing():
    with all_said(ConvergenceWarning, "start's cut-off at 1e-06"):
        model = NMF(K, init="nndsvd", random_state=0).fit(1e-18 * BASE)
    assert not model.components_.any()  # as scikit-learn has it
    with all_said(UserWarning, "Nothing is left of the NNDSVD"):
        NMF(K, random_state=0, max_iter=300).fit(1e-18 * BASE)
    with all_said(UserWarning, "mostly below 1.2e-07"):
        NMF(K, solver="mu", beta_loss=1, init="random", random_state=0, max_iter=10, tol=0).fit(1e-12 * BASE)


@pytest.mark.parametrize("beta", [1, 2])
@pytest.mark.parametrize("make", [NMF, MiniBatchNMF])
def test_starts_out_of_proportion(make, beta):
    model = make(K, solver="mu", beta_loss=beta, random_state=0, max_iter=2, tol=0)
    with all_said(UserWarning, "start is out of proportion"):
        model.fit(1e9 * BASE)
    model.fit(60_000 * BASE)  # 16 bits are nothing out of the ordinary
    model.set_params(init="random").fit(1e9 * BASE)


def test_honest_fits_of_little_are_no_reason_to_warn():
    NMF(1, init="random", random_state=0, solver="hals", max_iter=3, tol=0).fit(sparse.identity(3000, format="csr"))


def test_itakura_saito_leaves_small_values_out():
    for make in (NMF, MiniBatchNMF):
        model = make(K, solver="mu", beta_loss="itakura-saito", init="random", random_state=0, max_iter=2, tol=0)
        with pytest.warns(UserWarning, match=r"values below 1\.2e-07 \(the smallest is 1e-08\)"):
            X = BASE.copy()
            X[0, 0] = 1e-8
            model.fit(X)
        model.fit(BASE)  # says nothing but what it always said


# --- a caller whose numpy raises ------------------------------------------------------------------

SOLVERS = [
    (NMF, {"solver": "cd"}),
    (NMF, {"solver": "hals"}),
    (NMF, {"solver": "hals", "alpha_W": 1e-4, "l1_ratio": 0.5}),
    (NMF, {"solver": "hals", "beta_loss": 1}),
    (NMF, {"solver": "mu"}),
    (NMF, {"solver": "mu", "beta_loss": 1}),
    (NMF, {"solver": "mu", "beta_loss": 0.5}),
    (NMF, {"solver": "mu", "beta_loss": 1, "extrapolate": True}),
    (MiniBatchNMF, {"solver": "mu"}),
    (MiniBatchNMF, {"solver": "mu", "beta_loss": 1}),
    (MiniBatchNMF, {"solver": "hals"}),
    (MiniBatchNMF, {"solver": "hals", "alpha_W": 1e-4}),
]


@pytest.mark.parametrize("init", ["nndsvd", "nndsvda", "nndsvdar", "random", None])
@pytest.mark.parametrize(("kind", "parameters"), SOLVERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rank_deficient_x_and_a_numpy_that_raises(kind, parameters, init, dtype):
    """Two of five components are for nothing, a row and a column are zero, and the caller's numpy raises."""
    X = (np.outer(np.arange(40.0), np.arange(12.0)) + np.outer(np.ones(40), np.arange(12.0) % 3)).astype(dtype)
    X[:, 5] = 0
    X[7] = 0

    def result():
        model = kind(5, init=init, random_state=0, max_iter=20, **parameters)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            W = model.fit_transform(X)
            return W, model.components_, model.transform(X), model.reconstruction_err_

    expected = result()
    with np.errstate(all="raise"):
        found = result()
        assert np.geterr()["under"] == "raise"
    for a, b in zip(expected, found, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)
