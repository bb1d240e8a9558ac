"""What every solver must do: one suite over the registry, and over the losses of mu."""

import tempfile
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning

import nmfcore.rows.memory
from nmfcore import NMF, MiniBatchNMF, non_negative_factorization
from nmfcore.rows.memory import as_rows
from nmfcore.solvers import SOLVERS

BETAS = (2, 1, 0.5, 1.5, 0, -0.5, 2.5, 3)
CASES = [(name, beta) for name in sorted(SOLVERS) for beta in (BETAS if name == "mu" else BETAS[:1])]
AHEAD = "mu, extrapolated"
CASES += [("hals", 1), *((AHEAD, beta) for beta in (2, 1, 1.5))]
every_case = pytest.mark.parametrize("solver, beta", CASES)
every_solver = pytest.mark.parametrize("solver, beta", [case for case in CASES if case[1] in (2, 1)])


def planted(beta=2, n=120, m=40, k=4, seed=0):
    """X = WH with k parts that each own a pixel and a pure sample: the answer is unique."""
    rng = np.random.RandomState(seed)
    H = rng.gamma(0.5, 1.0, (k, m)) * (rng.rand(k, m) < 0.4)
    W = rng.gamma(1.0, 1.0, (n, k)) * (rng.rand(n, k) < 0.5)
    for t in range(k):
        H[:, t], H[t, t] = 0, 1
        W[t], W[t, t] = 0, 1
    return W @ H + (1e-3 if beta <= 0 else 0), W, H


def mixed(n=90, m=30, k=4, seed=0, floor=0.0):
    """Dense positive data of about rank k."""
    rng = np.random.RandomState(seed)
    return rng.gamma(0.5, 1.0, (n, k)) @ rng.gamma(0.5, 1.0, (k, m)) + floor


def start(X, k, dtype="float64", seed=0):
    rng = np.random.RandomState(seed)
    scale = np.sqrt(reference.dense(X).mean() / k) if X.shape[0] < 1000 else 1.0
    W, H = (np.abs(scale * rng.standard_normal(s)) + 1e-3 for s in ((X.shape[0], k), (k, X.shape[1])))
    return {"W": W.astype(dtype), "H": H.astype(dtype)}


def model(solver, beta, k, max_iter, **parameters):
    parameters = {"init": "random", "random_state": 0, "tol": 0, **parameters}
    if solver == AHEAD:
        solver, parameters = "mu", parameters | {"extrapolate": True}
    return NMF(k, solver=solver, beta_loss=beta, max_iter=max_iter, **parameters)


def bits(*arrays):
    return [np.ascontiguousarray(array).tobytes() for array in arrays]


# --- factors and loss ---------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("form", ["float64", "float32", "csr"])
def test_factors_are_nonnegative_and_finite(solver, beta, form):
    X = mixed(floor=0.01) if beta <= 0 else mixed() * (np.random.RandomState(1).rand(90, 30) > 0.4)
    X = sp.csr_matrix(X) if form == "csr" else X.astype(form)
    estimator = model(solver, beta, 4, 30)
    W = estimator.fit_transform(X)
    for factor in (W, estimator.components_, estimator.transform(X)):
        assert np.isfinite(factor).all()
        assert (factor >= 0).all()
        assert factor.any()


@every_case
@pytest.mark.parametrize("penalty", [{}, {"alpha_W": 1e-3, "l1_ratio": 0.5}], ids=["none", "both"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("form", ["dense", "csr"])
def test_loss_never_rises(solver, beta, penalty, dtype, form):
    X = mixed(floor=0.01).astype(dtype)
    matrix = sp.csr_matrix(X) if form == "csr" else X
    # The rule of mu with β ≠ 2 is where the loss is computed, so let it have one.
    known = beta == 2 or solver == "hals"
    estimator = model(solver, beta, 4, 100, tol=0 if known else 1e-14, **penalty)
    with nullcontext() if known else pytest.warns():
        estimator.fit(matrix)
    loss = reference.accepted_losses(estimator)
    loss = loss[np.isfinite(loss)]
    assert estimator.n_iter_ == 100
    # hals rejects a pass now and then.
    assert len(loss) >= (90 if solver == "hals" else 100 if known else 10)
    assert loss[-1] < 0.9 * loss[0]
    # Rounding of the sums the loss is made of, not of the loss itself.
    size = 0.5 * np.sum(X.astype("float64") ** 2) if beta == 2 else np.abs(loss[0])
    slack = (1e-12 if dtype == "float64" else 2e-6) * size
    assert (np.diff(loss) <= slack).all()


# Multiplicative updates crawl for these losses; scikit-learn's iterates are no better.
SLOW = {("mu", 2): 0.15, ("mu", 1): 0.02, ("mu", 1.5): 0.02}


@every_case
@pytest.mark.parametrize("problem", ["planted", "digits"])
def test_kkt_residual_falls(solver, beta, problem, digits):
    if problem == "planted":
        X, k = mixed(floor=0.01 if beta <= 0 else 0.0), 4
    else:
        X, k = digits[:150] + (1.0 if beta <= 0 else 0.0), 6
    first = model(solver, beta, k, 1).fit(X)
    last = model(solver, beta, k, 200).fit(X)
    ratio = last.kkt_residual_ / first.kkt_residual_
    assert ratio <= SLOW.get((solver, beta), 1e-2)


# --- planted answers ----------------------------------------------------------------------------


@pytest.mark.parametrize("solver, beta", [case for case in CASES if case[1] not in (-0.5, 3)])
def test_planted_parts_are_found(solver, beta):
    X, _, H = planted(beta)
    fits = [model(solver, beta, 4, 1000, random_state=seed).fit(X) for seed in range(4)]
    best = min(fits, key=lambda fit: fit.reconstruction_err_)
    assert reference.matched(best.components_, H) >= 0.99


@every_solver
def test_swimmer_parts_are_found(solver, beta, data_folder):
    from scipy.io import loadmat

    X = np.ascontiguousarray(loadmat(data_folder / "faces" / "swimmer.mat")["X"].T)
    torso = X.all(axis=0)
    patterns = np.unique(X.T, axis=0)
    limbs = np.array([(pattern == X.T).all(axis=1) for pattern in patterns if 0 < pattern.sum() < 256])
    assert limbs.shape == (16, 220)
    fits = [model(solver, beta, 17, 400, random_state=seed).fit(X) for seed in range(4)]
    best = min(fits, key=lambda fit: fit.reconstruction_err_)
    parts = np.where(torso, 0, best.components_)  # the torso may be shared out among the limbs
    assert reference.matched(parts, limbs.astype(float)) >= 0.99


CBCL_SEEDS = range(5)


@pytest.fixture(scope="module")
def faces(data_folder):
    """CBCL, the right way round, as Hoyer prepared it (ALGORITHMS.md §5.1)."""
    from scipy.io import loadmat

    V = 1 - loadmat(data_folder / "faces" / "cbcl.mat")["X"].T
    V = V - V.mean()
    V = V / np.sqrt(np.mean(V**2))
    V = np.maximum(np.clip(0.25 * (V + 0.25), 0, 1), 1e-4)
    # The figures of the preprocessing that the published numbers belong to.
    assert V.shape == (2429, 361)
    assert V.mean() == pytest.approx(0.13681, abs=1e-5)
    assert V.std() == pytest.approx(0.17357, abs=3e-5)
    assert np.mean(V == 1e-4) == pytest.approx(0.4440, abs=1e-4)
    assert V.max() == pytest.approx(0.61767, abs=1e-5)
    return np.ascontiguousarray(V, dtype=np.float32)


@pytest.mark.parametrize("seed", CBCL_SEEDS)
@pytest.mark.parametrize("solver", [name for name in sorted(SOLVERS) if name != "mu"])
def test_cbcl_reaches_the_published_error(solver, seed, faces):
    """Hsieh & Dhillon (KDD 2011), table 2: squared relative error 0.0410 at k = 49."""
    square = np.sum(faces.astype("float64") ** 2)
    rng = np.random.RandomState(seed)
    begin = {"W": rng.rand(2429, 49).astype("float32"), "H": rng.rand(49, 361).astype("float32")}
    estimator = model(
        solver,
        2,
        49,
        100,
        init="custom",
        callback=lambda report: bool(2 * report.loss <= 0.0409 * square),
    )
    W = estimator.fit_transform(faces, **begin).astype("float64")
    assert estimator.n_iter_ <= 100
    residual = faces - W @ estimator.components_.astype("float64")
    assert np.sum(residual**2) / square <= 0.0410


def test_cbcl_reaches_the_lowest_published_errors_with_hals(faces):
    """The last two lines of that table, within 100 passes: 0.0376 from every start, 0.0373 from the best."""
    square, errors = np.sum(faces.astype("float64") ** 2), []
    for seed in CBCL_SEEDS:
        rng = np.random.RandomState(seed)
        begin = {"W": rng.rand(2429, 49).astype("float32"), "H": rng.rand(49, 361).astype("float32")}
        estimator = model("hals", 2, 49, 100, init="custom")
        W = estimator.fit_transform(faces, **begin).astype("float64")
        assert estimator.n_iter_ <= 100
        residual = faces - W @ estimator.components_.astype("float64")
        errors.append(np.sum(residual**2) / square)
    assert max(errors) <= 0.0376
    assert min(errors) <= 0.0373


# --- extrapolation ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", CBCL_SEEDS)
def test_cbcl_kl_reaches_the_published_error_by_extrapolation(seed, faces):
    """Hsieh & Dhillon (KDD 2011), table 3: KL error 0.1202 at k = 49, where plain mu needs over 120 iterations."""
    X = faces.astype("float64")
    scale = np.sum(X * np.log(X / X.mean(axis=0)))  # a row of theirs is a pixel
    assert scale == pytest.approx(81479.36, abs=0.01)
    estimator = model(AHEAD, 1, 49, 120, random_state=seed)
    W = estimator.fit_transform(faces).astype("float64")
    assert estimator.n_iter_ <= 120
    WH = W @ estimator.components_.astype("float64")
    assert np.sum(X * np.log(X / WH) - X + WH) / scale <= 0.1202


@pytest.mark.parametrize("beta", [1, 1.5, 2])
def test_extrapolation_equals_its_reference(beta):
    X = mixed(n=25, m=12)
    begin = start(X, 3)
    estimator = model(AHEAD, beta, 3, 13, init="custom")
    W = estimator.fit_transform(X, **begin)
    expected_W, expected_H = reference.mu_extrapolated(X, begin["W"], begin["H"], beta, 13)
    np.testing.assert_allclose(W, expected_W, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(estimator.components_, expected_H, rtol=1e-9, atol=1e-12)
    loss = estimator.history_["loss"]
    if beta != 2:
        W, H = reference.mu_extrapolated(X, begin["W"], begin["H"], beta, 10)
        assert loss[9] == pytest.approx(reference.objective(X, W, H, beta), rel=1e-9)
        assert np.isfinite(loss).nonzero()[0].tolist() == [9]


@pytest.mark.parametrize("beta", [1, 1.5, 2])
def test_extrapolation_needs_fewer_iterations(beta, digits):
    goal = model("mu", beta, 10, 400).fit(digits).reconstruction_err_
    estimator = model(AHEAD, beta, 10, 200).fit(digits)
    assert estimator.reconstruction_err_ <= goal


@pytest.mark.parametrize("beta", [1, 1.5, 2])
@pytest.mark.parametrize("max_iter", [11, 20, 57])
@pytest.mark.parametrize("penalty", [{}, {"alpha_W": 1e-3, "l1_ratio": 0.5}], ids=["none", "both"])
def test_an_extrapolated_step_that_raises_the_loss_is_undone(beta, max_iter, penalty, monkeypatch):
    """Extrapolated so far that the loss rises: the fit goes back to the best pair, and on from it."""
    from nmfcore.solvers import multiplicative

    moderate = multiplicative.extrapolated
    monkeypatch.setattr(multiplicative, "extrapolated", lambda F, before, theta: moderate(F, before, 60 * theta))
    X = mixed()
    begin = start(X, 4)
    estimator = model(AHEAD, beta, 4, max_iter, init="custom", **penalty)
    W = estimator.fit_transform(X, **begin)
    monkeypatch.undo()
    assert estimator.n_iter_ == max_iter
    loss, every, accepted = reference.accepted_losses(estimator), *map(estimator.history_.get, ("loss", "accepted"))
    assert len(loss) < max_iter or max_iter < 40
    scaled = reference.penalties(*X.shape, **penalty)
    at_start = reference.objective(X, begin["W"], begin["H"], beta, *scaled)
    for rejected in np.flatnonzero(~accepted):  # what is told of it says why
        known = every[:rejected][accepted[:rejected] & np.isfinite(every[:rejected])]
        assert every[rejected] > known.min(initial=at_start)
    loss = [at_start, *loss[np.isfinite(loss)]]
    assert (np.diff(loss) <= 1e-12 * at_start).all()
    reached = reference.objective(X, W, estimator.components_, beta, *scaled)
    assert reached <= min(loss) * (1 + 1e-12)
    if max_iter > 40:
        plain = model("mu", beta, 4, 10, init="custom", **penalty)
        W = plain.fit_transform(X, **begin)
        assert reached < reference.objective(X, W, plain.components_, beta, *scaled)
    for factor, unchanged in zip(begin.values(), start(X, 4).values(), strict=True):
        np.testing.assert_array_equal(factor, unchanged)


@pytest.mark.parametrize("parameters", [
    {"solver": "cd"}, {"solver": "mu", "beta_loss": 0.5}, {"solver": "mu", "beta_loss": 2.5},
    {"solver": "mu", "beta_loss": "itakura-saito"},
])  # fmt: skip
def test_extrapolation_is_refused_where_it_is_not_defined(parameters):
    X = mixed(floor=0.01)
    message = "extrapolate=True with .*only solver='mu' with 1 <= beta_loss <= 2.*Set extrapolate=False"
    with pytest.raises(ValueError, match=message):
        NMF(3, extrapolate=True, **parameters).fit(X)
    with pytest.raises(ValueError, match=message):
        non_negative_factorization(X, n_components=3, extrapolate=True, **parameters)


def test_extrapolation_is_a_parameter():
    assert NMF().get_params()["extrapolate"] is False
    with pytest.raises(ValueError, match="The 'extrapolate' parameter of NMF must be"):
        NMF(3, solver="mu", extrapolate="x").fit(mixed())


def test_extrapolation_is_the_functions_keyword_too():
    X = mixed()
    estimator = model(AHEAD, 1, 3, 15)
    W = estimator.fit_transform(X)
    theirs = non_negative_factorization(
        X, n_components=3, init="random", random_state=0, tol=0, solver="mu", beta_loss=1, max_iter=15, extrapolate=True
    )
    assert bits(W, estimator.components_) == bits(*theirs[:2])


# --- types, plans, layouts ----------------------------------------------------------------------


@every_case
def test_float32_follows_float64(solver, beta):
    X = mixed(floor=0.01)
    begin = start(X, 4)
    wide = model(solver, beta, 4, 20, init="custom")
    W64 = wide.fit_transform(X.astype("float32").astype("float64"), **begin)
    narrow = model(solver, beta, 4, 20, init="custom")
    W32 = narrow.fit_transform(X.astype("float32"), **start(X, 4, "float32"))
    assert W32.dtype == narrow.components_.dtype == "float32"
    for found, expected in ((W32, W64), (narrow.components_, wide.components_)):
        assert np.abs(found - expected).max() <= 2e-4 * expected.max()
        assert (found != expected).any()


@every_case
def test_dense_and_sparse_agree(solver, beta):
    X = mixed(floor=0.01)
    if beta > 0:
        X *= np.random.RandomState(1).rand(*X.shape) > 0.7
        X[3], X[:, 5] = 0, 0
    begin = start(X, 4)
    results = []
    for matrix in (X, sp.csr_matrix(X), sp.csc_matrix(X), sp.csr_array(X)):
        estimator = model(solver, beta, 4, 20, init="custom")
        results.append((estimator.fit_transform(matrix, **begin), estimator.components_))
        codes = estimator.transform(matrix)
        results[-1] += (codes,)
    for one in results[1:]:
        for found, expected in zip(one, results[0], strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9 * expected.max())


@every_solver
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_memory_map_is_array_to_the_bit(solver, beta, dtype, tmp_path, many_lanes):
    X = (20 * mixed(n=700, m=50)).astype(dtype)
    X.tofile(tmp_path / "X")
    mapped = np.memmap(tmp_path / "X", dtype=dtype, mode="r", shape=X.shape)
    results = []
    for matrix in (X, mapped):
        estimator = model(solver, beta, 5, 12)
        W = estimator.fit_transform(matrix)
        results.append(bits(W, estimator.components_, estimator.transform(matrix)))
        results[-1].append(estimator.reconstruction_err_)
    assert results[0] == results[1]


def lanes(X, k):
    """Into how many lanes the engine cuts X."""
    return len(as_rows(X, "float64").plan(k).lanes)


@pytest.fixture
def many_lanes(monkeypatch):
    """Cut small data into as many lanes, and each of them into as many visits, as large data."""
    monkeypatch.setattr(nmfcore.rows.memory, "LANE_WORK", 1e5)
    monkeypatch.setattr(nmfcore.rows.memory, "BLOCK_WORK", 1e5)


def bits_for_any_number_of_jobs(X, k, solver, beta, max_iter=4):
    results = []
    for n_jobs in (1, 2, 3):
        estimator = model(solver, beta, k, max_iter, n_jobs=n_jobs)
        W = estimator.fit_transform(X)
        results.append(bits(W, estimator.components_, estimator.history_["loss"]))
        results[-1] += bits(estimator.transform(X))
        results[-1] += [estimator.reconstruction_err_, estimator.kkt_residual_]
    return results


@every_case
@pytest.mark.parametrize("form", ["uint8", "float32", "float64", "csr"])
def test_any_number_of_jobs_gives_the_same_bits(solver, beta, form, many_lanes):
    X = np.random.RandomState(0).randint(1, 200, (5000, 60))
    if form == "csr":
        X = sp.csr_matrix(np.where((X > 150) | (beta <= 0), X, 0).astype("float64"))
    else:
        X = X.astype(form)
    assert lanes(X, 6) > 10
    results = bits_for_any_number_of_jobs(X, 6, solver, beta)
    assert results[0] == results[1] == results[2]


@every_solver
@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_any_number_of_jobs_gives_the_same_bits_on_large_data(solver, beta, dtype):
    """Several lanes as they are cut by default."""
    X = np.random.RandomState(0).randint(1, 200, (20000, 200)).astype(dtype)
    assert lanes(X, 40) >= 4
    results = bits_for_any_number_of_jobs(X, 40, solver, beta, max_iter=2)
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("form", ["dense", "csr", "wide"])
def test_nndsvd_gives_the_same_bits_for_any_number_of_jobs(form, many_lanes):
    X = np.random.RandomState(0).rand(5000, 60)
    X = {"dense": lambda: X, "csr": lambda: sp.csr_matrix(X * (X > 0.7)), "wide": lambda: X.T}[form]()
    fits = [NMF(6, init="nndsvd", tol=0, max_iter=1, random_state=0, n_jobs=j) for j in (1, 2, 3)]
    found = [bits(fit.fit_transform(X), fit.components_) for fit in fits]
    assert found[0] == found[1] == found[2]


@every_case
def test_plans_agree_to_rounding(solver, beta, monkeypatch):
    """One lane or many: the same iterates."""
    X = mixed(n=1500, m=30, floor=0.01)
    results = []
    for work in (1e12, 1e4):
        monkeypatch.setattr(nmfcore.rows.memory, "LANE_WORK", work)
        results.append((lanes(X, 4), model(solver, beta, 4, 10).fit(X)))
    (one, whole), (many, parts) = results
    assert one == 1
    assert many > 4
    np.testing.assert_allclose(parts.components_, whole.components_, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("solver, beta", [("cd", 2), ("mu", 2), ("mu", 1), ("mu", 0.5)])
def test_many_lanes_follow_scikit_learns_iterates(solver, beta, many_lanes):
    from sklearn.decomposition import non_negative_factorization

    X = np.random.RandomState(0).rand(6007, 33)
    assert lanes(X, 4) > 10
    begin = start(X, 4)
    estimator = model(solver, beta, 4, 3, init="custom")
    W = estimator.fit_transform(X, **begin)
    W_theirs, H_theirs, _ = non_negative_factorization(
        X,
        W=begin["W"].copy(),
        H=begin["H"].copy(),
        n_components=4,
        init="custom",
        solver=solver,
        beta_loss=beta,
        max_iter=3,
        tol=0,
    )
    np.testing.assert_allclose(W, W_theirs, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(estimator.components_, H_theirs, rtol=1e-9, atol=1e-10)


# --- hypothesis-made shapes ---------------------------------------------------------------------

LAYOUTS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "every other row": lambda X: np.repeat(X, 2, axis=0)[::2],
    "every other column": lambda X: np.repeat(X, 2, axis=1)[:, ::2],
    "backwards": lambda X: np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1],
    "inside a larger array": lambda X: np.pad(X, 3)[3:-3, 3:-3],
}


@st.composite
def matrices(draw, dtypes, positive=False):
    """(X, k): small, awkward and nonnegative, with at least one positive entry."""
    n, m = draw(st.integers(1, 40)), draw(st.integers(1, 12))
    k = draw(st.integers(1, 6))
    seed = draw(st.integers(0, 2**16))
    dtype = draw(st.sampled_from(dtypes))
    rng = np.random.RandomState(seed)
    X = rng.randint(1, 30, (n, m)).astype("float64")
    if not positive:
        X *= rng.rand(n, m) < draw(st.sampled_from([0.2, 0.7, 1.0]))
        if draw(st.booleans()):
            X[rng.randint(n)] = 0
        if draw(st.booleans()):
            X[:, rng.randint(m)] = 0
        X[rng.randint(n), rng.randint(m)] = 7
    return X.astype(dtype), k


FLOATS, OTHERS = ("float64", "float32"), ("uint8", "int64", "float16", "bool")
some = settings(max_examples=25, suppress_health_check=list(HealthCheck), derandomize=True)


def fit(solver, beta, X, k, dtype, max_iter=3):
    begin = start(np.asarray(X, dtype="float64"), k, dtype, seed=3)
    estimator = model(solver, beta, k, max_iter, init="custom")
    W = estimator.fit_transform(X, **begin)
    return W, estimator


def compute_type(dtype):
    return "float64" if dtype in ("float64", "int64") else "float32"


@every_case
@some
@given(st.data())
def test_awkward_shapes_equal_the_references(solver, beta, data):
    X, k = data.draw(matrices(FLOATS[:1], positive=beta <= 0))
    W, estimator = fit(solver, beta, X, k, "float64", max_iter=2)
    assert W.shape == (X.shape[0], k)
    assert estimator.components_.shape == (k, X.shape[1])
    if solver not in ("cd", "mu", AHEAD):
        return
    begin = start(X, k, seed=3)
    twins = after_two(solver, beta, X, begin["W"], begin["H"])
    # Where X is met exactly nothing but rounding moves the factors, scikit-learn's too: 1e-17 of a component is enough
    # to send its other factor anywhere.
    assume(np.linalg.norm(X - twins[0] @ twins[1]) > 1e-9 * np.linalg.norm(X))
    for found, expected in zip((W, estimator.components_), twins, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9 * (1 + expected.max()))


def after_two(solver, beta, X, W, H):
    """W and H of the solver's twin after two iterations."""
    if solver == AHEAD:
        return reference.mu_extrapolated(X, W, H, beta, 2)
    for _ in range(2):
        if solver == "cd":
            W, H, _, _ = reference.cd_iteration(X, W, H)
        else:
            W, H = reference.mu_iteration(X, W, H, beta)
    return W, H


@every_case
@some
@given(st.data())
def test_layouts_give_the_same_bits(solver, beta, data):
    X, k = data.draw(matrices((*FLOATS, *OTHERS), positive=beta <= 0))
    layout = data.draw(st.sampled_from(sorted(LAYOUTS)))
    dtype = compute_type(X.dtype.name)
    W, estimator = fit(solver, beta, X, k, dtype)
    other = LAYOUTS[layout](X)
    np.testing.assert_array_equal(other, X)
    other.setflags(write=False)
    other_W, other_estimator = fit(solver, beta, other, k, dtype)
    assert bits(other_W, other_estimator.components_) == bits(W, estimator.components_)
    assert bits(other_estimator.transform(other)) == bits(estimator.transform(X))


def duplicated(X, rng):
    """CSR in which numbers are stored as two or three that add up exactly, out of order."""
    coo = sp.coo_matrix(X)
    halves = rng.rand(coo.nnz) < 0.5
    rows, columns = (np.concatenate([a, a[halves], a[halves]]) for a in (coo.row, coo.col))
    data = np.concatenate([np.where(halves, coo.data / 4, coo.data), coo.data[halves] / 4, coo.data[halves] / 2])
    order = np.lexsort((rng.rand(rows.size), rows))
    indptr = np.searchsorted(rows[order], np.arange(X.shape[0] + 1))
    made = sp.csr_matrix((data[order], columns[order], indptr), shape=X.shape)
    np.testing.assert_array_equal(made.toarray(), X)
    return made


def wide_indices(X):
    X = sp.csr_matrix(X)
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X


def backwards(X):
    """CSR without duplicates, each row's columns from right to left."""
    X = sp.csr_matrix(X[:, ::-1])
    return sp.csr_matrix((X.data, X.shape[1] - 1 - X.indices, X.indptr), shape=X.shape)


def mapped(X):
    with tempfile.TemporaryFile() as file:
        file.write(np.ascontiguousarray(X).tobytes())
        return np.memmap(file, dtype=X.dtype, mode="r", shape=X.shape)


STORAGES = {
    **LAYOUTS,
    "memory map": mapped,
    "CSR": sp.csr_matrix,
    "CSR array": sp.csr_array,
    "CSR, 64-bit indices": wide_indices,
    "CSR, unsorted": backwards,
    "CSR, duplicates": lambda X: duplicated(X, np.random.RandomState(0)),
    "CSC": sp.csc_matrix,
    "CSC, duplicates": lambda X: duplicated(X.T, np.random.RandomState(0)).T,
    "zeros stored": lambda X: sp.csr_matrix(np.where(X, X, 1)).multiply(np.where(X, 1, 0)).tocsr(),
}


@st.composite
def problems(draw, positive=False):
    """(X, k): sides that meet (k = m, k = n, n = m, 2k = m, m = 1 …), few numbers stored (m·k > nnz) or all of them."""
    n, m = draw(st.integers(1, 40)), draw(st.integers(1, 24))
    k = draw(st.sampled_from([1, 2, 5, m, n, max(1, m // 2), m + 1]))
    rng = np.random.RandomState(draw(st.integers(0, 2**16)))
    X = rng.randint(1, 30, (n, m)).astype("float64") + rng.rand(n, m).astype("float16")
    if not positive:
        X *= rng.rand(n, m) < draw(st.sampled_from([0.05, 0.2, 0.7, 1.0]))
        if draw(st.booleans()):
            X[rng.randint(n)] = 0
        if draw(st.booleans()):
            X[:, rng.randint(m)] = 0
        X[rng.randint(n), rng.randint(m)] = 7
    return X, k


def same_as_dense(fit_one, X, storage):
    """Compare factors, and losses, of a fit of X stored like that with those of the dense float64 array."""
    stored = STORAGES[storage](X)
    parts = [stored] if not sp.issparse(stored) else [stored.data, stored.indices, stored.indptr]
    before = [np.array(part) for part in parts]
    (found, losses), (expected, known) = fit_one(stored), fit_one(X)
    square = np.sum(X**2)
    # An exact fit moves on rounding errors only.
    assume(np.sum((X - expected[0] @ expected[1]) ** 2) > 1e-8 * square)
    close, near = 1e-6, 1e-12 * square
    if found[1].shape[0] > np.linalg.matrix_rank(X):
        # With more components than X has rank, rounding decides how they share what is there, and from there on
        # everything (scikit-learn's H of a 2×24 X with k = 24 differs by 63 between dense and sparse after 3 passes):
        # only how good the fits are is compared.
        found, expected, close, near = (), (), 0.1, 1e-2 * square
        losses, known = losses[:1] + losses[2:], known[:1] + known[2:]  # the score is of a new W for that H
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7 * other.max())
    np.testing.assert_allclose(losses, known, rtol=close, atol=near)
    for part, unchanged in zip(parts, before, strict=True):
        np.testing.assert_array_equal(part, unchanged)


@every_case
@settings(some, max_examples=75)
@given(st.data(), st.sampled_from(list(STORAGES)))
def test_storage_changes_no_number(solver, beta, data, storage):
    X, k = data.draw(problems(positive=beta <= 0))

    def fit_one(stored):
        begin = start(X, k, seed=3)
        estimator = model(solver, beta, k, 3, init="custom")
        W = estimator.fit_transform(stored, **begin)
        losses = [estimator.reconstruction_err_**2, estimator.score(stored), *estimator.history_["loss"]]
        return (W, estimator.components_, estimator.transform(stored)), losses

    same_as_dense(fit_one, X, storage)


@pytest.mark.parametrize("solver, beta, fresh", [
    ("mu", 2, False), ("mu", 2, True), ("mu", 1, False), ("mu", 1, True), ("mu", 0.5, False), ("hals", 2, False),
])  # fmt: skip
@settings(some, max_examples=50)
@given(st.data(), st.sampled_from(list(STORAGES)))
def test_storage_changes_no_number_of_mini_batches(solver, beta, fresh, data, storage):
    X, k = data.draw(problems())
    size = data.draw(st.integers(1, X.shape[0]))

    def fit_one(stored):
        begin = start(X, k, seed=3)
        estimator = MiniBatchNMF(
            k, batch_size=size, solver=solver, beta_loss=beta, fresh_restarts=fresh, max_iter=2, tol=0,
            max_no_improvement=None, init="custom",
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            if solver == "hals":  # whose rows begin from nothing
                del begin["W"]
            W = estimator.fit_transform(stored, **begin)
            learned = estimator.components_
            estimator.partial_fit(stored)
        return (W, learned, estimator.components_), [np.sum((X - W @ learned) ** 2)]

    same_as_dense(fit_one, X, storage)


@every_case
@some
@given(st.data())
def test_small_types_give_the_results_of_their_values(solver, beta, data):
    X, k = data.draw(matrices(OTHERS, positive=beta <= 0))
    dtype = compute_type(X.dtype.name)
    W, estimator = fit(solver, beta, X, k, dtype)
    assert W.dtype == dtype
    wide_W, wide = fit(solver, beta, X.astype(dtype), k, dtype)
    close = 1e-9 if dtype == "float64" else 1e-3
    for found, expected in ((W, wide_W), (estimator.components_, wide.components_)):
        np.testing.assert_allclose(found, expected, rtol=close, atol=close * (1 + expected.max()))


@pytest.mark.parametrize("init", [None, "random", "nndsvd", "nndsvda", "nndsvdar"])
@every_solver
@some
@given(st.data())
def test_awkward_shapes_with_every_init(solver, beta, init, data):
    X, k = data.draw(matrices((*FLOATS, *OTHERS)))
    if init not in (None, "random"):
        k = min(k, *X.shape)
    estimator = model(solver, beta, k, 3, init=init)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"The multiplicative update \('mu'\)", UserWarning)
        W = estimator.fit_transform(X)
    assert np.isfinite(W).all()
    assert np.isfinite(estimator.components_).all()
    assert (W >= 0).all()
    assert np.isfinite(estimator.reconstruction_err_)
    empty = ~X.astype("float64").any(axis=1)
    assert not estimator.transform(X)[empty].any()
