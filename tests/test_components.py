"""The order and the scale that a fit leaves components in, and components that it keeps as they are."""

import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import emulated
from sklearn.base import clone
from test_solvers import AHEAD, CASES, bits, mixed, model, start

from nmfcore import NMF, MiniBatchNMF, non_negative_factorization
from nmfcore.analysis import explained_share
from nmfcore.estimators._arrangement import norms
from nmfcore.models import estimator_from, load, model_of, save

every_case = pytest.mark.parametrize("solver, beta", CASES)
KEPT = [1, 3]


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Maximum number of iterations|Stopped after")
        yield


def data(beta=2, form="float64", **shape):
    X = mixed(floor=0.01, **shape)
    if beta > 0:
        X *= np.random.RandomState(1).rand(*X.shape) > 0.4
    return sp.csr_matrix(X) if form == "csr" else X.astype(form)


def given(X, k=5, seed=0):
    """A custom start, whose H has zeros and numbers of many sizes."""
    begin = start(X, k, "float32" if X.dtype == np.float32 else "float64", seed)
    begin["H"][1, ::3] = 0
    begin["H"][3] *= 1000
    return begin


def fixed_model(solver, beta, max_iter, fixed, **more):
    return model(solver, beta, 5, max_iter, init="custom", fixed_components=fixed, **more)


# --- fixed components ---------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("form", ["float64", "float32", "csr"])
def test_fixed_rows_keep_their_bits_and_the_loss_falls(solver, beta, form):
    X = data(beta, form)
    begin = given(X)
    fitted = fixed_model(solver, beta, 30, KEPT)
    W = fitted.fit_transform(X, **begin)
    H = fitted.components_
    assert bits(H[KEPT]) == bits(begin["H"][KEPT])
    free = [0, 2, 4]
    assert (H[free] != begin["H"][free]).any(axis=1).all()
    loss = fitted.history_["loss"][fitted.history_["accepted"]]
    loss = loss[~np.isnan(loss)]
    assert (np.diff(loss) <= (1e-4 if form == "float32" else 1e-9) * loss[0]).all()
    assert loss[-1] < loss[0]
    assert np.isfinite(W).all()
    assert (W >= 0).all()


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_fixed_rows_keep_their_bits_in_any_unit_of_x(scale):
    X = data() * scale
    begin = {name: F * np.sqrt(scale) for name, F in given(X / scale).items()}
    begin["H"][1, 1] = 5e-324
    fitted = fixed_model("hals", 2, 20, KEPT).fit(X, **begin)
    assert bits(fitted.components_[KEPT]) == bits(begin["H"][KEPT])


def naive(X, W, H, beta, free, n_iter, descent):
    """Plain updates of all of W and of the free rows of H."""
    Ht = H.T.copy()

    def sweep(F, C, G, which):
        for t in which:
            F[:, t] = np.maximum(0, F[:, t] - (F @ G[:, t] - C[:, t]) / G[t, t])

    def multiply(X, F, Ht, which):
        gamma = 1 / (2 - beta) if beta < 1 else 1 / (beta - 1) if beta > 2 else 1
        R = np.maximum(F @ Ht.T, 1e-300)
        new = F * ((X * R ** (beta - 2)) @ Ht / (R ** (beta - 1) @ Ht)) ** gamma
        F[:, which] = new[:, which]

    W = W.copy()
    every = range(W.shape[1])
    for _ in range(n_iter):
        if descent:
            sweep(W, X @ Ht, Ht.T @ Ht, every)
            sweep(Ht, X.T @ W, W.T @ W, free)
        else:
            multiply(X, W, Ht, list(every))
            multiply(X.T, Ht, W, free)
    return W, Ht.T


@pytest.mark.parametrize("solver, beta", [("cd", 2), *[case for case in CASES if case[0] == "mu"]])
def test_iterates_are_those_of_plain_updates(solver, beta):
    X = mixed(floor=0.1)
    begin = start(X, 5)
    fitted = fixed_model(solver, beta, 6, KEPT)
    W = fitted.fit_transform(X, **begin)
    V, H = naive(X, begin["W"], begin["H"], beta, [0, 2, 4], 6, solver == "cd")
    np.testing.assert_allclose(fitted.components_, H, rtol=1e-6, atol=1e-9 * H.max())
    np.testing.assert_allclose(W, V, rtol=1e-6, atol=1e-9 * V.max())


@every_case
def test_the_free_part_becomes_stationary(solver, beta):
    X = data(beta)
    begin = start(X, 5)
    first = fixed_model(solver, beta, 1, KEPT).fit(X, **begin).kkt_residual_
    last = fixed_model(solver, beta, 400, KEPT).fit(X, **begin).kkt_residual_
    assert last <= 1e-2 * first


@pytest.mark.parametrize("solver", ["cd", "hals"])
def test_the_residual_is_that_of_all_of_w_and_of_the_free_rows_of_h(solver):
    X = data()
    begin = given(X)
    fitted = fixed_model(solver, 2, 3000, KEPT, tol=1e-12)
    W = fitted.fit_transform(X, **begin)
    H = fitted.components_
    gradient_W, gradient_H = (W @ H - X) @ H.T, W.T @ (W @ H - X)
    of_H = np.where(H > 0, np.abs(gradient_H), np.maximum(0, -gradient_H)) / (W.T @ X).max()
    of_W = np.where(W > 0, np.abs(gradient_W), np.maximum(0, -gradient_W)) / (X @ H.T).max(axis=0)
    assert of_W.max() < 1e-5
    assert of_H[[0, 2, 4]].max() < 1e-5
    assert of_H[KEPT].max() > 1e-3  # and these are not stationary
    assert fitted.kkt_residual_ < 1e-5


@every_case
@pytest.mark.parametrize("form", ["float64", "float32", "csr"])
def test_with_all_rows_fixed_a_fit_is_transform(solver, beta, form):
    X = data(beta, form)
    begin = given(X)
    fitted = fixed_model(solver, beta, 3000, np.ones(5, bool), tol=1e-4)
    W = fitted.fit_transform(X, H=begin["H"])
    assert bits(fitted.components_) == bits(begin["H"])
    assert bits(W) == bits(fitted.transform(X))
    assert "fixed" in fitted.stop_reason_
    assert fitted.converged_
    dense = X.toarray() if sp.issparse(X) else X
    if beta == 2:
        assert fitted.reconstruction_err_ == pytest.approx(np.linalg.norm(dense - W @ fitted.components_), rel=1e-4)
    alone, H, n_iter = non_negative_factorization(
        X, H=begin["H"], update_H=False, solver=fitted.solver, beta_loss=beta, tol=1e-4, max_iter=3000
    )
    assert bits(alone, H) == bits(W, fitted.components_)
    assert n_iter == fitted.n_iter_


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
@pytest.mark.parametrize("fixed", [[], np.zeros(5, bool)], ids=["no numbers", "no truth"])
def test_to_fix_nothing_changes_no_bit(solver, fixed):
    X = data()
    begin = given(X)
    fitted = [fixed_model(solver, 2, 25, which) for which in (None, fixed)]
    results = [each.fit_transform(X, **begin) for each in fitted]
    assert bits(results[0], fitted[0].components_) == bits(results[1], fitted[1].components_)


@every_case
@pytest.mark.parametrize("penalty", [{"alpha_W": 1e-3, "l1_ratio": 0.5}, {"alpha_W": 0.0, "alpha_H": 1e-3}])
def test_fixed_rows_under_penalties(solver, beta, penalty):
    X = data(beta)
    begin = given(X)
    fitted = fixed_model(solver, beta, 40, [True, False, False, True, False], **penalty).fit(X, **begin)
    assert bits(fitted.components_[[0, 3]]) == bits(begin["H"][[0, 3]])
    loss = fitted.history_["loss"][fitted.history_["accepted"]]
    loss = loss[~np.isnan(loss)]
    assert (np.diff(loss) <= 1e-8 * abs(loss[0])).all()


def test_a_fixed_row_that_no_sample_uses_is_neither_removed_nor_revived():
    X = data()
    X[:, :4] = 0
    begin = given(X)
    begin["H"][1] = 0
    begin["H"][1, :4] = 1  # where X is zero throughout
    begin["H"][0] = begin["W"][:, 0] = 0  # a free one that is dead
    fitted = fixed_model("hals", 2, 60, [1])
    W = fitted.fit_transform(X, **begin)
    assert bits(fitted.components_[1]) == bits(begin["H"][1])
    assert not W[:, 1].any()
    assert fitted.components_[0].any()  # which is revived


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
def test_zeros_leave_fixed_rows_as_they_are(solver):
    begin = given(data())
    fitted = fixed_model(solver, 2, 10, KEPT)
    W = fitted.fit_transform(np.zeros((90, 30)), **begin)
    assert bits(fitted.components_[KEPT]) == bits(begin["H"][KEPT])
    assert not fitted.components_[[0, 2, 4]].any()
    assert not W.any()


@pytest.mark.parametrize("solver, beta", [("cd", 2), ("hals", 2), ("mu", 2), ("mu", 1), (AHEAD, 1)])
def test_fixed_rows_on_disk_and_for_any_number_of_threads(solver, beta, tmp_path):
    X = data(beta, n=600, m=300)
    begin = given(X)
    np.save(tmp_path / "X.npy", X)
    settings = {"sort_components": True, "normalize": "l2"}
    wanted = fixed_model(solver, beta, 12, KEPT, **settings)
    W = wanted.fit_transform(X, **begin)
    for source, more, out in (
        (X, {"n_jobs": 2}, None),
        (np.load(tmp_path / "X.npy", mmap_mode="r"), {}, None),
        (str(tmp_path / "X.npy"), {"memory": 200_000}, tmp_path / "W.npy"),
    ):
        other = fixed_model(solver, beta, 12, KEPT, **settings, **more)
        V = other.fit_transform(source, **begin, **({} if out is None else {"out": out}))
        assert bits(V, other.components_, other.scales_) == bits(W, wanted.components_, wanted.scales_)
    assert bits(np.load(tmp_path / "W.npy")) == bits(W)
    assert bits(wanted.components_[KEPT]) == bits(begin["H"][KEPT])
    assert (wanted.scales_[KEPT] == 1).all()


@pytest.mark.parametrize("solver, beta", [("cd", 2), ("hals", 2), ("mu", 2), ("mu", 1), (AHEAD, 2), (AHEAD, 1)])
def test_a_fit_from_a_checkpoint_ends_with_the_same_bits(solver, beta, tmp_path):
    X = data(beta)
    begin = given(X)
    settings = {"sort_components": True, "normalize": "l1"}
    whole = fixed_model(solver, beta, 24, KEPT, **settings)
    W = whole.fit_transform(X, **begin)

    def stop(progress):
        if progress.iteration == 9:
            raise KeyboardInterrupt

    halves = fixed_model(solver, beta, 24, KEPT, checkpoint=tmp_path / "fit", callback=stop, **settings)
    with pytest.raises(KeyboardInterrupt):
        halves.fit(X, **begin)
    assert bits(halves.components_[KEPT]) == bits(begin["H"][KEPT])
    norms = halves.components_[[0, 2, 4]].sum(axis=1)
    np.testing.assert_allclose(norms, 1)
    halves.callback = None
    other = fixed_model(solver, beta, 24, [0, 1], checkpoint=tmp_path / "fit")
    with pytest.raises(ValueError, match="fixed_components"):
        other.fit(X, **begin)
    V = halves.fit_transform(X, **begin)
    assert bits(V, halves.components_) == bits(W, whole.components_)


@pytest.mark.parametrize(
    "fixed, more, message",
    [
        ([0, 5], {}, "the number 5, but H has 5 rows"),
        ([-1], {}, "the number -1, but H has 5 rows"),
        ([True, False], {}, "2 truth values, but H has 5 rows"),
        ([[0, 1]], {}, r"an array of shape \(1, 2\)"),
        ([0.5], {}, "type float64"),
        (["a"], {}, "type <U1"),
        ([0], {"init": "random"}, "set init='custom' and pass H"),
        ([0], {"H": None}, "set init='custom' and pass H"),
    ],
)
@pytest.mark.parametrize("kind", [NMF, MiniBatchNMF])
def test_what_names_no_rows_is_refused(kind, fixed, more, message):
    X = data()
    begin = given(X) | {name: more[name] for name in more if name == "H"}
    estimator = kind(5, init=more.get("init", "custom"), fixed_components=fixed)
    with pytest.raises(ValueError, match=message):
        estimator.fit(X, **begin)


def test_what_has_no_meaning_with_all_rows_fixed_is_refused(tmp_path):
    X = data()
    H = given(X)["H"]
    for name, value in (("checkpoint", tmp_path / "fit"), ("callback", print), ("max_time", 3)):
        with pytest.raises(ValueError, match=f"{name} has no meaning"):
            fixed_model("hals", 2, 10, range(5), **{name: value}).fit(X, H=H)
    with pytest.raises(ValueError, match="nothing is left to learn"):
        MiniBatchNMF(5, init="custom", fixed_components=range(5)).fit(X, H=H)
    with pytest.warns(RuntimeWarning, match="the W of the call is not used"):
        fixed_model("cd", 2, 10, range(5)).fit(X, **given(X))
    for name, value in (("sort_components", True), ("normalize", "l1"), ("fixed_components", [0])):
        with pytest.raises(ValueError, match=f"{name} has no meaning with update_H=False"):
            non_negative_factorization(X, H=H, update_H=False, **{name: value})


@pytest.mark.parametrize("solver, beta", [("mu", 2), ("mu", 1), ("mu", 0.5), ("hals", 2)])
@pytest.mark.parametrize("form", ["float64", "float32", "csr"])
def test_batches_leave_fixed_rows_as_they_are(solver, beta, form):
    X = data(1, form) if form == "csr" else data(0, form)
    begin = given(X)
    fitted = MiniBatchNMF(
        5, init="custom", solver=solver, beta_loss=beta, batch_size=30, fixed_components=KEPT, max_iter=40
    )
    stream = clone(fitted)
    given_to = {"H": begin["H"]} if solver == "hals" else begin
    fitted.fit(X, **given_to)
    assert bits(fitted.components_[KEPT]) == bits(begin["H"][KEPT])
    first = np.inf
    for number in range(12):
        rows = slice(30 * (number % 3), 30 * (number % 3 + 1))
        stream.partial_fit(X[rows], H=begin["H"])
        assert bits(stream.components_[KEPT]) == bits(begin["H"][KEPT])
        first = min(first, -stream.score(X)) if number == 0 else first
    assert -stream.score(X) < first
    again = pickle.loads(pickle.dumps(stream)).partial_fit(X[:30])
    assert bits(again.components_[KEPT]) == bits(begin["H"][KEPT])


# --- order and scale ----------------------------------------------------------------------------

NORMS = {
    "l1": lambda H: H.sum(axis=1),
    "l2": lambda H: np.linalg.norm(H, axis=1),
    "max": lambda H: H.max(axis=1),
}


@every_case
@pytest.mark.parametrize("norm", [None, *NORMS])
@pytest.mark.parametrize("form", ["float64", "float32", "csr"])
def test_order_and_scale_change_nothing_else(solver, beta, norm, form):
    X = data(beta, form)
    exact = 1e-5 if form == "float32" else 1e-12
    plain, arranged = (
        model(solver, beta, 5, 25, **more) for more in ({}, {"sort_components": True, "normalize": norm})
    )
    W, V = plain.fit_transform(X), arranged.fit_transform(X)
    H, K = plain.components_, arranged.components_
    np.testing.assert_allclose(V @ K, W @ H, rtol=10 * exact, atol=exact * (W @ H).max())
    assert V.dtype == W.dtype
    assert K.dtype == H.dtype
    assert arranged.reconstruction_err_ == plain.reconstruction_err_
    assert arranged.n_iter_ == plain.n_iter_
    shares = explained_share(X, V, K)
    assert (np.diff(shares) <= exact).all()
    order = np.argsort(-explained_share(X, W, H), kind="stable")
    if norm is None:
        assert bits(K, V) == bits(H[order], W[:, order])
        assert not hasattr(arranged, "scales_")
        return
    found = NORMS[norm](K.astype(np.float64))
    np.testing.assert_allclose(found, 1, rtol=exact)
    if norm == "max":
        assert (found == 1).all()
    np.testing.assert_allclose(arranged.scales_, NORMS[norm](H[order].astype(np.float64)), rtol=exact)
    np.testing.assert_allclose(V, W[:, order] * arranged.scales_, rtol=exact)
    # What transform finds belongs to these components. For other losses a row has several local minima.
    assert arranged.score(X) == pytest.approx(plain.score(X), rel=0.05, abs=1e-4)
    if 1 <= beta <= 2:
        near = (0.02 if solver in ("mu", AHEAD) else 1e-2) * X.max()
        np.testing.assert_allclose(arranged.transform(X) @ K, plain.transform(X) @ H, atol=near)


STORED = {
    "float64": lambda X, folder: X.astype(np.float64),
    "float32": lambda X, folder: X.astype(np.float32),
    "uint8": lambda X, folder: X.astype(np.uint8),
    "csr": lambda X, folder: sp.csr_matrix(X.astype(np.float32)),
    "csc": lambda X, folder: sp.csc_matrix(X),
    "memory map": lambda X, folder: np.load(folder / "X.npy", mmap_mode="r"),
    "path": lambda X, folder: folder / "X.npy",
}  # Dask arrays: tests/test_distributed.py


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", ["cd", "hals", "mu", "batches of hals", "batches of mu"])
def test_fixed_sorted_and_normalised_wherever_x_lies(kind, stored, tmp_path):
    X = np.floor(9 * data()).clip(0, 255)
    np.save(tmp_path / "X.npy", X.astype(np.uint8))
    given_X, solver = STORED[stored](X, tmp_path), kind.split()[-1]
    batches = kind.startswith("batches")
    settings = {"init": "custom", "solver": solver, "fixed_components": KEPT, "tol": 0, "max_iter": 15}
    if stored not in ("float32", "csr"):
        settings["dtype"] = np.float64
    if batches:
        settings |= {"batch_size": 40, "random_state": 0}
    dtype = np.float32 if stored in ("float32", "csr") else np.float64
    begin = {name: F.astype(dtype) for name, F in given(X).items()}
    begin = {"H": begin["H"]} if kind == "batches of hals" else begin
    make = MiniBatchNMF if batches else NMF
    plain, arranged = make(5, **settings), make(5, sort_components=True, normalize="l1", **settings)
    W, V = (np.asarray(each.fit_transform(given_X, **begin), np.float64) for each in (plain, arranged))
    H, K = (each.components_.astype(np.float64) for each in (plain, arranged))
    exact = 1e-4 if dtype == np.float32 else 1e-9
    assert bits(arranged.components_[KEPT]) == bits(begin["H"][KEPT])
    np.testing.assert_allclose(V @ K, W @ H, rtol=exact, atol=exact * (W @ H).max())
    free = [0, 2, 4]
    np.testing.assert_allclose(K[free].sum(axis=1), 1, rtol=exact)
    assert (arranged.scales_[KEPT] == 1).all()
    np.testing.assert_allclose(np.sort(arranged.scales_[free]), np.sort(H[free].sum(axis=1)), rtol=exact)
    assert (np.diff(explained_share(X, V, K)[free]) <= (1e-2 if batches else exact)).all()
    if not batches:
        codes = arranged.set_params(tol=1e-6, max_iter=2000).transform(given_X)
        assert np.linalg.norm(X - codes @ K) <= (1 + 1e-3) * np.linalg.norm(X - V @ K)


def test_norms_of_zeros_and_of_the_smallest_and_largest_numbers():
    H = np.array([[3e-200, 4e-200], [3e200, 4e200], [0, 0], [np.inf, 1]])
    for norm, of_34 in (("l1", 7), ("l2", 5), ("max", 4)):
        np.testing.assert_allclose(norms(H.T, norm), [of_34 * 1e-200, of_34 * 1e200, 1, 1])
    assert norms(np.array([[3e-30], [4e-30]], np.float32), "l2") == pytest.approx(5e-30)


def test_zeros_are_arranged_without_a_fault():
    for estimator in (NMF(3), NMF(3, solver="hals"), MiniBatchNMF(3), MiniBatchNMF(3, solver="hals")):
        estimator.set_params(sort_components=True, normalize="l1")
        W = estimator.fit_transform(np.zeros((20, 6)))
        assert np.isfinite(W).all()
        assert np.isfinite(estimator.components_).all()
        assert estimator.scales_.shape == (3,)


def test_scales_go_when_a_later_fit_has_none():
    X = data()
    estimator = NMF(3, normalize="l1").fit(X)
    assert estimator.scales_.shape == (3,)
    assert not hasattr(estimator.set_params(normalize=None).fit(X), "scales_")


@pytest.mark.parametrize("kind", [NMF, MiniBatchNMF])
@pytest.mark.parametrize("penalty", [{"alpha_W": 0.1}, {"alpha_H": 0.1}])
def test_scales_are_refused_with_penalties_and_the_order_is_not(kind, penalty):
    X = data()
    with pytest.raises(ValueError, match="normalize='l2' changes how much the penalties"):
        kind(3, normalize="l2", **penalty).fit(X)
    sort = kind(3, sort_components=True, random_state=0, **{name: value / 1e3 for name, value in penalty.items()})
    W = sort.fit_transform(X)
    assert (np.diff(explained_share(X, W, sort.components_)) <= 1e-12).all()


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
def test_out_models_copies_and_the_function_hold_the_same(solver, tmp_path):
    X = data().astype(np.float32)
    settings = {"solver": solver, "random_state": 0, "sort_components": True, "normalize": "max", "max_iter": 30}
    estimator = NMF(4, **settings)
    W = estimator.fit_transform(X)
    K = estimator.components_
    np.testing.assert_array_equal(NMF(4, **settings).fit_transform(X, out=tmp_path / "W.npy"), W)
    filled = np.lib.format.open_memmap(tmp_path / "V.npy", "w+", W.dtype, W.shape)
    NMF(4, **settings).fit_transform(X, out=filled)
    np.testing.assert_array_equal(np.load(tmp_path / "V.npy"), W)
    V, H, _ = non_negative_factorization(X, n_components=4, **settings)
    assert bits(V, H) == bits(W, K)
    save(model_of(estimator, W), tmp_path / "model.npz")
    loaded = estimator_from(load(tmp_path / "model.npz"))
    for other in (loaded, pickle.loads(pickle.dumps(estimator))):
        assert bits(other.transform(X), other.scales_) == bits(estimator.transform(X), estimator.scales_)
        assert other.get_params() == estimator.get_params()
    assert bits(clone(estimator).fit_transform(X)) == bits(W)
    few = NMF(4, **settings | {"max_iter": 5})
    made = [few.fit_transform(form) @ few.components_ for form in (X, sp.csr_matrix(X))]
    np.testing.assert_allclose(made[1], made[0], atol=0.02 * X.max())  # "hals" makes fewer sweeps of sparse X


def test_a_model_keeps_the_fixed_components_of_a_stream(tmp_path):
    X = data()
    begin = given(X)
    stream = MiniBatchNMF(5, init="custom", fixed_components=np.array(KEPT)).partial_fit(X, **begin)
    save(model_of(stream, stream.transform(X)), tmp_path / "model.npz")
    again = estimator_from(load(tmp_path / "model.npz"))
    again.partial_fit(X)
    assert bits(again.components_[KEPT]) == bits(begin["H"][KEPT])


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
def test_an_interrupted_fit_is_arranged_too(solver, on_disk, tmp_path):
    X = data()
    np.save(tmp_path / "X.npy", X)

    def stop(progress):
        if progress.iteration == 12:
            raise KeyboardInterrupt

    estimator = NMF(5, solver=solver, tol=0, random_state=0, callback=stop, sort_components=True, normalize="l2")
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(str(tmp_path / "X.npy") if on_disk else X)
    np.testing.assert_allclose(np.linalg.norm(estimator.components_, axis=1), 1)
    assert estimator.n_iter_ == 12
    plain = NMF(5, solver=solver, tol=0, random_state=0, max_iter=12)
    W = plain.fit_transform(X)
    H = plain.components_
    shares = ((W.T @ W) * (H @ H.T)).sum(axis=1) if on_disk else explained_share(X, W, H)
    order = np.argsort(-shares, kind="stable")
    np.testing.assert_allclose(estimator.scales_, np.linalg.norm(H[order], axis=1), rtol=1e-10)


def test_an_exception_while_components_are_arranged_keeps_the_fit(monkeypatch):
    X = data()
    plain = NMF(4, random_state=0).fit(X)

    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("nmfcore.estimators._base.shares_of", fail)
    estimator = NMF(4, random_state=0, sort_components=True, normalize="l1")
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(X)
    assert bits(estimator.components_) == bits(plain.components_)
    assert not hasattr(estimator, "scales_")


@pytest.mark.parametrize("solver, beta", [("mu", 2), ("mu", 1), ("mu", 0.5), ("mu", 3), ("hals", 2)])
def test_batches_are_arranged_with_what_is_remembered_of_them(solver, beta):
    X = data(0)
    settings = {"solver": solver, "beta_loss": beta, "batch_size": 30, "max_iter": 5, "random_state": 0, "tol": 0}
    plain = MiniBatchNMF(4, **settings)
    arranged = MiniBatchNMF(4, sort_components=True, normalize="l2", **settings)
    W, V = plain.fit_transform(X), arranged.fit_transform(X)
    H, K = plain.components_, arranged.components_
    np.testing.assert_allclose(V @ K, W @ H, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(K, axis=1), 1)
    assert (np.diff(explained_share(X, V, K)) <= 1e-12).all()
    order = np.argsort(-explained_share(X, W, H), kind="stable")
    if solver == "hals":
        sums, scales = arranged._memory, arranged.scales_
        np.testing.assert_allclose(sums.XtW, plain._memory.XtW[:, order] * scales, rtol=1e-10)
        np.testing.assert_allclose(sums.WtW, plain._memory.WtW[order][:, order] * np.outer(scales, scales), rtol=1e-10)
        np.testing.assert_allclose(sums.sum_W, plain._memory.sum_W[order] * scales, rtol=1e-10)
    with pytest.raises(ValueError, match="a stream of batches has no end: set sort_components=False"):
        arranged.partial_fit(X[:30])
    with pytest.raises(ValueError, match="a stream of batches has no end: set normalize=None"):
        arranged.set_params(sort_components=False).partial_fit(X[:30])
    for each in (plain, arranged.set_params(normalize=None)):  # where rows settle depends a little on the scale
        each.partial_fit(X[:60])
    rows = [F / np.linalg.norm(F, axis=1, keepdims=True) for F in (plain.components_[order], arranged.components_)]
    np.testing.assert_allclose(rows[1], rows[0], atol=2e-2 if solver == "mu" else 2e-3)
    if solver == "hals":
        return
    A, B = plain._memory, arranged._memory
    gamma = 1 / (2 - beta) if beta < 1 else 1 / (beta - 1) if beta > 2 else 1
    np.testing.assert_allclose((B.numerator / B.denominator) ** gamma, arranged.components_.T, rtol=1e-10)
    np.testing.assert_allclose((A.numerator / A.denominator) ** gamma, plain.components_.T, rtol=1e-10)


# --- on a device --------------------------------------------------------------------------------


@emulated
@pytest.mark.parametrize(
    "solver, beta", [("cd", 2), ("hals", 2), ("mu", 2), ("mu", 1), ("mu", 0.5), (AHEAD, 2), (AHEAD, 1)]
)
def test_on_a_device(cupy, solver, beta):
    X = data(beta).astype(np.float64)
    begin = given(X)
    found = []
    for device in ("cpu", "cuda"):
        fitted = fixed_model(solver, beta, 10, KEPT, device=device, sort_components=True, normalize="l2")
        found.append((fitted.fit_transform(X, **begin), fitted.components_, fitted.scales_, fitted.kkt_residual_))
    assert bits(found[1][1][KEPT]) == bits(begin["H"][KEPT])
    for on_cpu, on_device in zip(*found, strict=True):
        np.testing.assert_allclose(on_device, on_cpu, rtol=1e-5, atol=1e-7)
    everything = fixed_model(solver, beta, 200, range(5), device="cuda", tol=1e-4)
    W = everything.fit_transform(X, H=begin["H"])
    assert bits(W) == bits(everything.transform(X))
