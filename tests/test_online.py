"""MiniBatchNMF with solver="hals": a stream, its bounded memory, and what a pass through batches is worth."""

import inspect
import pickle
import warnings
import weakref

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from scipy.io import loadmat
from scipy.optimize import linear_sum_assignment, nnls
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from nmfcore import NMF, MiniBatchNMF
from nmfcore.loop.stopping import BATCH_RULES, BatchReport, StopReason
from nmfcore.minibatch import batches as cutting
from nmfcore.minibatch import descent
from nmfcore.minibatch.multiplicative import Memory
from nmfcore.objective import Penalties
from nmfcore.rows.memory import as_rows

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def planted(seed=0, n=600, m=40, k=5, noise=0.0):
    """X = WH with sparse factors, which are unique up to order and scale."""
    rng = np.random.RandomState(seed)
    W = rng.gamma(1.0, 1.0, (n, k)) * (rng.rand(n, k) < 0.5)
    H = rng.gamma(1.0, 1.0, (k, m)) * (rng.rand(k, m) < 0.4)
    return W @ H + noise * rng.rand(n, m), H


def model(k=5, **parameters):
    return MiniBatchNMF(k, **{"solver": "hals", "batch_size": 50, "random_state": 0, **parameters})


def stream(estimator, X, rows=50, **parameters):
    for first in range(0, X.shape[0], rows):
        estimator.partial_fit(X[first : first + rows], **parameters)
    return estimator


def error(estimator, X):
    """‖X − WH‖ / ‖X‖ with the rows coded anew."""
    X = X.toarray() if sp.issparse(X) else np.asarray(X, np.float64)
    return np.linalg.norm(X - estimator.transform(X) @ estimator.components_) / np.linalg.norm(X)


def likeness(found, true):
    """Cosines of the best one-to-one match."""
    found, true = (H / np.maximum(np.linalg.norm(H, axis=1, keepdims=True), 1e-30) for H in (found, true))
    cosines = found @ true.T
    return cosines[linear_sum_assignment(-cosines)]


# --- a step against an oracle -------------------------------------------------------------------


@pytest.mark.parametrize("form", ["dense", "csr", "sparse enough to gather"])
@pytest.mark.parametrize("penalty", [(0, 0, 0, 0), (0.02, 0.001, 0.03, 0.01)], ids=["none", "both"])
def test_steps_are_those_of_nnls_on_sums_by_their_definition(form, penalty, monkeypatch):
    """Batches coded by NNLS, sums by their definition, H by NNLS for these sums."""
    for name, value in {"VISITS": 1, "CODING": (3000, 0.0), "SWEEPS_H": (3000, 0.0)}.items():
        monkeypatch.setattr(descent, name, value)
    X, _ = planted(3, n=90, k=3, m=20 if form != "sparse enough to gather" else 150, noise=0.2)
    if form != "dense":
        X = X * (np.random.RandomState(1).rand(*X.shape) < (0.6 if form == "csr" else 0.06))
    matrix = X if form == "dense" else sp.csr_matrix(X)
    m, k = X.shape[1], 3
    H = np.random.RandomState(2).rand(k, m) + 0.1
    l1_W, l1_H, l2_W, l2_H = penalty
    learner = descent.DescentLearner(lambda rows: Penalties(l1_W, rows * l1_H, l2_W, rows * l2_H), 0.5, 60)
    Ht, memory = np.ascontiguousarray(H.T), learner.begin(H.T)
    A, B, weight_of_rows, seen = np.zeros((k, k)), np.zeros((k, m)), 0.0, 0

    def solve(G, C, l1, l2):
        """Argmin ½hᵀGh − cᵀh + l1 Σh + ½l2 h² for every column c of C."""
        L = np.linalg.cholesky(G + l2 * np.eye(k))
        return np.stack([nnls(L.T, np.linalg.solve(L, c))[0] for c in (C - l1).T], axis=1)

    for first, rows in ((0, 40), (40, 20), (60, 30)):
        block = X[first : first + rows]
        data = as_rows(matrix[first : first + rows], np.float64)
        assert data.plan(k).gathers == (form == "sparse enough to gather")
        given = Ht.copy(), [part.copy() for part in memory[:3]]
        made = learner.step(data, None, Ht, memory)
        assert np.array_equal(Ht, given[0])
        assert all(np.array_equal(*pair) for pair in zip(memory[:3], given[1], strict=True))
        W = solve(H @ H.T, H @ block.T, l1_W, l2_W).T
        whole = reference.objective(block, W, H, 2, l1_W, rows * l1_H, l2_W, rows * l2_H)
        assert made.cost == pytest.approx(whole / rows, rel=1e-9)
        fade = 0.5 ** (rows / 60) * (seen / (seen + rows)) ** descent.EARLY
        A, B = fade * A + W.T @ W, fade * B + W.T @ block
        weight_of_rows, seen = fade * weight_of_rows + rows, seen + rows
        H = solve(A, B, weight_of_rows * l1_H, weight_of_rows * l2_H)
        # under penalties components are put into the scale that costs least; none is dead
        d = np.linalg.norm(H, axis=1) / np.linalg.norm(made.Ht, axis=0)
        assert any(penalty) or np.allclose(d, 1)
        H, A, B = H / d[:, None], A * np.outer(d, d), B * d[:, None]
        np.testing.assert_allclose(made.W, W * d, atol=1e-6)
        np.testing.assert_allclose(made.Ht.T, H, atol=1e-6)
        np.testing.assert_allclose(made.memory.WtW, A, atol=1e-6)
        np.testing.assert_allclose(made.memory.XtW, B.T, atol=1e-5)
        assert made.memory.rows == pytest.approx(weight_of_rows)
        if any(penalty):  # no other scale of a component costs less: the derivative is zero
            of_W = l1_W * made.memory.sum_W + l2_W * np.diagonal(made.memory.WtW)
            of_H = weight_of_rows * (l1_H * made.Ht.sum(axis=0) + l2_H * (made.Ht**2).sum(axis=0))
            np.testing.assert_allclose(of_W, of_H, rtol=1e-6)
        Ht, memory = made.Ht, made.memory
        H = np.ascontiguousarray(Ht.T)


def test_the_sums_are_those_of_the_last_visit_of_a_batch():
    X, H = planted(noise=0.3)
    learner = descent.DescentLearner(lambda rows: Penalties(), 0.7, 100)
    Ht = np.ascontiguousarray(H.T) + 0.1
    first = learner.step(as_rows(X[:100], np.float64), None, Ht, learner.begin(Ht))
    given = 0.5 * first.W
    W = given.copy()
    second = learner.step(as_rows(X[100:200], np.float64), W, first.Ht, first.memory)
    assert np.array_equal(W, given)
    fade = 0.7 * 0.5**descent.EARLY
    np.testing.assert_allclose(second.memory.WtW, fade * first.memory.WtW + second.W.T @ second.W)
    np.testing.assert_allclose(second.memory.XtW, fade * first.memory.XtW + X[100:200].T @ second.W)


# --- a stream -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [np.float64, np.float32, sp.csr_matrix], ids=["float64", "float32", "csr"])
def test_a_stream_finds_planted_factors(form):
    X, H = planted(n=3000)
    estimator = stream(model(), form(X))
    assert (likeness(estimator.components_, H) > 0.999).all()
    assert (estimator.components_ >= 0).all()
    assert (estimator.transform(form(X)) >= 0).all()
    assert error(estimator, X) < 0.01
    assert estimator.n_steps_ == 60
    assert estimator.components_.dtype == (np.float32 if form is np.float32 else np.float64)


def test_pictures_of_8_bits():
    X, H = planted(n=2000)
    X = np.uint8(np.round(255 * X / X.max()))
    estimator = stream(model(), X)
    assert estimator.components_.dtype == np.float32
    assert (likeness(estimator.components_, H) > 0.99).all()


@pytest.mark.parametrize("rows", [1, 7, 3000])
def test_batches_of_any_size(rows):
    X, _ = planted(n=2000)
    assert error(stream(model(), X, rows), X) < 0.05


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_single_rows_stay_finite(factor):
    X = planted(n=1500, noise=0.5)[0].astype(np.float32)
    estimator = stream(model(forget_factor=factor), X, rows=1)
    norms = np.linalg.norm(estimator.components_, axis=1)
    assert np.isfinite(norms).all()
    assert norms.max() < 1e7


def test_forgetting_follows_a_change():
    (first, before), (second, _) = planted(1, n=2000), planted(2, n=600)
    errors = {}
    for factor in (0.3, 1.0):
        estimator = stream(model(forget_factor=factor), first)
        assert (likeness(estimator.components_, before) > 0.99).all()
        stream(estimator, second)
        errors[factor] = error(estimator, second)
    assert errors[0.3] < 0.02
    assert errors[1.0] > 2 * errors[0.3]


def test_memory_is_bounded():
    X, _ = planted(n=500)
    estimator = model()
    sizes, last = [], None
    for number in range(1, 1001):
        first = number % 10 * 50
        batch = X[first : first + 50].copy()
        estimator.partial_fit(batch)
        last = weakref.ref(batch)
        del batch
        assert last() is None, "a batch is held"
        if number in (10, 1000):
            state = vars(estimator)
            arrays = [a for v in state.values() for a in (v if isinstance(v, tuple) else [v]) if hasattr(a, "nbytes")]
            sizes.append((sorted(state), sum(a.nbytes for a in arrays)))
    assert sizes[0] == sizes[1]
    m, k = X.shape[1], 5
    assert sizes[0][1] <= 8 * (2 * m * k + k * k + k + 10)  # sums, and components_ beside them


@pytest.mark.parametrize("m", [40, 900], ids=["a lane", "lanes"])
@pytest.mark.parametrize("form", [np.float64, np.float32, sp.csr_matrix], ids=["float64", "float32", "csr"])
@pytest.mark.parametrize("penalty", [{}, {"alpha_W": 1e-3, "l1_ratio": 0.5}], ids=["none", "both"])
def test_one_pass_of_fit_is_partial_fit_in_a_loop(form, penalty, m):
    """The same bits, where nothing is forgotten (one counts passes, the other batches) from the same H."""
    rows = 50 if m == 40 else 1600
    X = form(planted(n=2 * rows + 7, m=m, noise=0.1)[0])
    assert (len(as_rows(X[:rows], X.dtype, lane_work=cutting.LANE_WORK).plan(5).lanes) > 1) == (m == 900)
    H = np.random.RandomState(0).rand(5, m).astype(X.dtype)
    shared = {"init": "custom", "forget_factor": 1.0, "batch_size": rows, **penalty}
    whole = model(max_iter=1, **shared).fit(X, H=H)
    parts = stream(model(**shared), X, rows, H=H)
    assert whole.n_steps_ == parts.n_steps_ == 3
    assert whole.components_.tobytes() == parts.components_.tobytes()
    assert whole.transform(X).tobytes() == parts.transform(X).tobytes()


def test_a_pickled_stream_goes_on_with_the_same_bits():
    X, _ = planted(noise=0.1)
    one = stream(model(), X[:300])
    other = pickle.loads(pickle.dumps(one))
    assert stream(one, X[300:]).components_.tobytes() == stream(other, X[300:]).components_.tobytes()
    assert not hasattr(clone(one), "components_")
    assert clone(one).solver == "hals"


def test_a_stream_goes_on_in_its_type_and_in_the_other_solver():
    X, _ = planted(noise=0.1)
    estimator = model().partial_fit(np.uint8(20 * X[:100]))
    estimator.partial_fit(20 * X[100:200])
    assert estimator.components_.dtype == np.float32
    for solver in ("mu", "hals"):
        before = error(estimator, X)
        estimator.set_params(solver=solver).partial_fit(20 * X[200:400])
        assert error(estimator, X) < 1.2 * before
    assert estimator.n_steps_ == 4


def test_partial_fit_goes_on_after_fit_and_from_given_components():
    X, H = planted()
    estimator = model().fit(X[:400])
    steps = estimator.n_steps_
    assert stream(estimator, X[400:]).n_steps_ == steps + 4
    assert error(estimator, X) < 0.02
    given = model()
    given.components_ = H.copy()
    given.n_features_in_ = 40
    assert error(given.partial_fit(X[:50]), X) < 1e-3, "what a small batch does not speak of stays"


def test_a_stream_may_begin_with_zeros():
    X, _ = planted()
    estimator = model().partial_fit(np.zeros((50, 40)))
    assert not estimator.components_.any()
    assert error(stream(estimator, X), X) < 0.02
    stream(estimator, np.zeros((500, 40)))
    assert error(estimator, X) < 0.02


# --- components that stand for nothing ------------------------------------------------------------


def test_a_dead_component_is_revived():
    X, H = planted(n=1500)
    start = np.random.RandomState(0).rand(5, 40)
    start[[1, 3]] = 0
    runs = [stream(model(init="custom"), X, H=start) for _ in range(2)]
    assert (np.linalg.norm(runs[0].components_, axis=1) > 0).all()
    assert (likeness(runs[0].components_, H) > 0.98).all()
    assert runs[0].components_.tobytes() == runs[1].components_.tobytes()


def test_a_component_that_no_row_uses_any_more_is_revived():
    X, H = planted(n=1500)
    start = np.vstack([H[:4], 1e3 * np.eye(40)[:1] + 1e3])  # no row has such a thing in it
    estimator = stream(model(init="custom"), X, H=start)
    assert (likeness(estimator.components_, H) > 0.99).all()


def test_a_component_that_few_rows_do_not_use_is_kept():
    H = np.kron(np.eye(3), np.ones((1, 8)))
    X = np.random.RandomState(0).rand(4, 24) * (H[0] + H[1])  # not met: there is something to revive a component with
    estimator = model(3, init="custom").partial_fit(X, H=H)
    assert error(estimator, X) > 0.1
    np.testing.assert_array_equal(estimator.components_[2], H[2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_component_whose_sums_have_faded_is_kept_if_no_residual_replaces_it(dtype):
    """Its sums fall below the least number of the type."""
    rng = np.random.RandomState(0)
    H = np.kron(np.eye(3), rng.rand(1, 8) + 0.1)
    W = rng.rand(50, 3)
    W[:, 0] = 0
    estimator = model(3, forget_factor=0.01, init="custom")
    stream(estimator, (rng.rand(200, 3) @ H).astype(dtype), H=H.astype(dtype))
    assert (likeness(estimator.components_, H) > 0.9999).all()
    stream(estimator, np.tile(W @ H, (200, 1)).astype(dtype))
    assert (likeness(estimator.components_, H) > 0.9999).all()


def test_a_dead_component_stays_zero_where_no_residual_is_left():
    X, H = planted(k=2)
    start = np.vstack([H, np.zeros(40)])
    estimator = stream(model(3, init="custom"), X, H=start)
    assert np.isfinite(estimator.components_).all()
    assert error(estimator, X) < 1e-6
    heavy = stream(model(alpha_W=10.0, l1_ratio=1.0), X)
    assert np.isfinite(heavy.components_).all()
    assert not heavy.transform(X).any()


# --- fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [np.array, sp.csr_matrix], ids=["dense", "csr"])
def test_one_batch_of_all_rows_has_the_error_of_hals(form, digits):
    X = form(digits)
    full = NMF(8, solver="hals", tol=0, max_iter=300).fit(X)
    estimator = model(8, batch_size=2000, tol=0, max_no_improvement=None, max_iter=100).fit(X)
    assert estimator.reconstruction_err_ == pytest.approx(full.reconstruction_err_, rel=3e-3)
    assert estimator.kkt_residual_ < 1e-3


def test_further_passes_do_not_raise_the_error(digits):
    fits = [model(10, batch_size=200, tol=0, max_no_improvement=None, max_iter=p).fit(digits) for p in (1, 2, 4, 8, 30)]
    errors = [fit.reconstruction_err_ for fit in fits]
    assert (np.diff(errors) < 1e-3 * errors[0]).all(), errors
    full = NMF(10, solver="hals", tol=1e-6, max_iter=300).fit(digits).reconstruction_err_
    assert errors[0] < 1.02 * full
    assert errors[-1] < 1.01 * full


@pytest.mark.parametrize("k", [10, 16])
@pytest.mark.parametrize("form", [np.array, sp.csr_matrix], ids=["dense", "csr"])
def test_rows_sorted_by_class_raise_the_error_of_a_fit_by_less_than_a_percent(form, k, digits):
    """One pass over the digits, all zeros first and all nines last."""
    X = form(digits[np.argsort(load_digits().target, kind="stable")])
    full = NMF(k, solver="hals", tol=1e-6, max_iter=500).fit(X).reconstruction_err_
    assert model(k, batch_size=200, max_iter=1).fit(X).reconstruction_err_ < 1.01 * full


def test_one_pass_over_few_rows_per_component(data_folder):
    """CBCL in batches of five rows per component: 1.04 where the rows seen first count for next to nothing."""
    faces = np.float32(1 - loadmat(data_folder / "faces" / "cbcl.mat")["X"].T)
    full = NMF(49, solver="hals", tol=1e-5, max_iter=1000, random_state=0).fit(faces).reconstruction_err_
    fits = [model(49, batch_size=256, max_iter=1, random_state=seed).fit(faces) for seed in range(3)]
    assert np.median([fit.reconstruction_err_ for fit in fits]) < 1.02 * full


@pytest.mark.parametrize(
    ("form", "run"),
    [(np.array, 1), (sp.csr_matrix, 1), (sp.csc_matrix, 1), (np.array, 5)],
    ids=["dense", "csr", "csc", "runs"],
)
def test_shuffled_batches_have_every_row_once_and_rows_from_all_over_X(form, run, monkeypatch):
    """Every row once, each batch from all over X, the same for the same seed."""
    if run > 1:
        monkeypatch.setattr(cutting, "LARGE", 0)
        monkeypatch.setattr(cutting, "RUN", 5 * 8 * 3)
    n, size = 1003, 60
    dense = np.arange(3.0 * n).reshape(n, 3)
    parts, batches = cutting.cut_shuffled(form(dense), size, np.float64, None, 0)
    assert len(parts) == len(batches) == 17
    assert sorted(np.concatenate(parts)) == list(range(n))
    for rows, batch in zip(parts, batches, strict=True):
        found = batch.X.toarray() if batch.sparse else batch.X
        assert n // 17 <= len(rows) <= size
        np.testing.assert_array_equal(found, dense[rows])
        gaps = np.diff(rows)
        assert gaps.min() >= 1
        assert gaps.max() < 3 * 17 * run, "nowhere are many neighbours left out"
        assert (np.mean(gaps == 1) > 0.6) == (run > 1)
    again, _ = cutting.cut_shuffled(form(dense), size, np.float64, None, 0)
    other, _ = cutting.cut_shuffled(form(dense), size, np.float64, None, 1)
    assert all(map(np.array_equal, parts, again))
    assert not all(map(np.array_equal, parts, other))


def test_a_fit_gathers_a_batch_at_a_time(digits, monkeypatch):
    """Of what is gathered, no more than the batch at work and the next one exist, however many passes."""
    alive, most = weakref.WeakSet(), []
    whole = cutting.Gathered.__getitem__

    def gather(self, number):
        batch = whole(self, number)
        alive.add(batch)
        most.append(len(alive))
        return batch

    monkeypatch.setattr(cutting.Gathered, "__getitem__", gather)
    model(5, batch_size=200, max_iter=3, tol=0, max_no_improvement=None).fit(digits)
    assert len(most) == 27
    assert max(most) <= 2


@pytest.mark.parametrize("large", [False, True])
def test_a_memory_map_gives_the_same_bits(large, digits, tmp_path, monkeypatch):
    if large:
        monkeypatch.setattr(cutting, "LARGE", 1000)
        monkeypatch.setattr(cutting, "RUN", 4096)
    np.save(tmp_path / "X.npy", digits)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    fits = [model(5, batch_size=200, max_iter=2).fit(X) for X in (digits, mapped)]
    assert fits[0].components_.tobytes() == fits[1].components_.tobytes()


def test_mu_and_a_given_start_keep_the_order_of_the_rows(digits, monkeypatch):
    def refuse(*args):
        raise AssertionError("shuffled")

    monkeypatch.setattr(cutting, "cut_shuffled", refuse)
    H = np.random.RandomState(0).rand(4, 64)
    model(4, init="custom", batch_size=300, max_iter=1).fit(digits, H=H)
    model(4, solver="mu", batch_size=300, max_iter=1).fit(digits)
    with pytest.raises(AssertionError, match="shuffled"):
        model(4, batch_size=300, max_iter=1).fit(digits)


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("init", [None, "random", "nndsvd", "nndsvda", "nndsvdar"])
def test_every_init_leads_to_nearly_the_error_of_hals(init, restarts, digits):
    estimator = model(6, init=init, fresh_restarts=restarts, max_iter=10)
    W = estimator.fit_transform(digits)
    full = NMF(6, solver="hals", tol=1e-5).fit(digits).reconstruction_err_
    assert estimator.reconstruction_err_ < 1.03 * full
    assert estimator.reconstruction_err_ == pytest.approx(np.linalg.norm(digits - W @ estimator.components_))
    assert W.tobytes() == estimator.transform(digits).tobytes()


def test_max_iter_does_not_limit_the_sweeps_of_a_row(digits):
    """max_iter counts passes; it is not the number of sweeps that a row may take."""
    once = model(6, max_iter=1).fit(digits)
    W, H = once.transform(digits[:20]), once.components_
    best = np.array([nnls(H.T, row)[0] for row in digits[:20]])
    assert np.linalg.norm(digits[:20] - W @ H) <= 1.001 * np.linalg.norm(digits[:20] - best @ H)
    short = clone(once).set_params(transform_max_iter=1).fit(digits)
    assert short.components_.tobytes() == once.components_.tobytes()
    assert not np.array_equal(short.transform(digits[:20]), W)


@pytest.mark.parametrize("rows", [50, 150])
def test_penalties_weigh_the_same_whatever_the_batch(rows):
    X, _ = planted(noise=0.3)
    penalty = {"alpha_W": 2e-3, "alpha_H": 1e-3, "l1_ratio": 0.4}
    lengths = reference.penalties(*X.shape, 2e-3, 1e-3, 0.4)
    full = NMF(5, solver="hals", tol=1e-6, max_iter=500, **penalty)
    W = full.fit_transform(X)
    expected = reference.objective(X, W, full.components_, 2, *lengths)
    estimator = model(batch_size=rows, max_iter=50, tol=0, max_no_improvement=None, **penalty)
    W = estimator.fit_transform(X)
    assert reference.objective(X, W, estimator.components_, 2, *lengths) < 1.01 * expected
    assert estimator.history_["loss"][-1] == pytest.approx(expected / len(X), rel=0.2)


@pytest.mark.parametrize("form", [np.float32, np.uint8, sp.csr_matrix], ids=["float32", "uint8", "csr"])
def test_same_bits_for_any_number_of_threads(form):
    X = 30 * planted(n=6000, m=900, k=8, noise=0.2)[0]
    X[X < 40], X[X > 255] = 0, 255
    X = form(X)
    assert len(as_rows(X[:3000], np.float32, lane_work=cutting.LANE_WORK).plan(8).lanes) >= 3
    bits = set()
    for n_jobs in (1, 2, 3):
        estimator = model(8, batch_size=3000, n_jobs=n_jobs, max_iter=2)
        W = estimator.fit_transform(X)
        streamed = stream(model(8, batch_size=3000, n_jobs=n_jobs), X, rows=3000)
        bits.add(W.tobytes() + estimator.components_.tobytes() + streamed.components_.tobytes())
    assert len(bits) == 1


def test_X_H_and_earlier_components_are_not_written(digits):
    X = digits.copy()
    X.setflags(write=False)
    H = np.random.RandomState(0).rand(6, 64)
    before = H.copy()
    model(6, init="custom", max_iter=3).fit(X, H=H)
    estimator = model(6).partial_fit(X)
    held = estimator.components_
    copy = held.copy()
    estimator.partial_fit(X[:100])
    assert np.array_equal(H, before)
    assert np.array_equal(held, copy)


# --- when it ends -------------------------------------------------------------------------------------


def ended(costs, count=4, tol=0.0, max_no_improvement=None, name="mean cost"):
    """Return the number of the step after which a rule ends a fit with such costs, and how."""
    rule = BATCH_RULES[name](
        tol, 0, n_rows=10 * count, n_batches=count, n_steps=len(costs), max_no_improvement=max_no_improvement
    )
    for number, cost in enumerate(costs, 1):
        H = np.ones((3, 2))
        report = BatchReport(loss=cost, rows=10, Ht=H, Ht_before=0.5 * H)
        termination = rule.after(report, number)
        if termination is not None:
            assert termination.converged
            return number, termination.reason, termination.sentence
    return None


def test_the_rules_of_the_mean_cost():
    unlike = [1.0, 9.0, 4.0, 16.0]  # batches that differ, every pass the same
    assert ended(unlike * 5, tol=1e-3)[:2] == (8, StopReason.ERROR_OF_PASS)
    assert "tol = 0.001" in ended(unlike * 5, tol=1e-3)[2]
    assert ended(unlike * 5) is None
    falling = [cost * 0.99**turn for turn in range(10) for cost in unlike]
    assert ended(falling, tol=1e-3) is None
    assert ended(falling, max_no_improvement=1) is None, "a batch may cost more than the one before"
    assert ended(falling, tol=1e-2)[0] == 8  # √0.99 is a fall of half a percent
    waiting = ended(falling[:12] + unlike * 3, max_no_improvement=3)
    assert waiting == (15, StopReason.MEAN_COST, "the mean cost did not improve for 3 steps")
    assert ended([1.0, 1.0, 1.0, 1.0, *[0.0] * 8]) == (8, StopReason.EXACT, "nothing of X is left")


def test_the_rules_of_the_smoothed_cost():
    name = "smoothed cost"
    assert ended([4.0, 4.0, 3.0], tol=0.5, name=name)[:2] == (2, StopReason.CHANGE_OF_H), "the first step is not judged"
    assert ended([4.0, 4.0, 3.0], tol=0.4, name=name) is None
    waiting = ended([1.0, 4.0, 3.0, 3.0, 5.0, 5.0], max_no_improvement=2, name=name)
    assert waiting == (6, StopReason.SMOOTHED_COST, "the smoothed cost did not improve for 2 steps")


def test_a_fit_ends_by_its_rules(digits, capsys):
    ends = {}
    for name, parameters in {
        "tol": {"max_no_improvement": None},
        "no improvement": {"tol": 0, "max_no_improvement": 2},
        "max_iter": {"tol": 0, "max_no_improvement": None, "max_iter": 2},
        "callback": {"callback": lambda report: report.iteration == 3},
        "max_time": {"tol": 0, "max_no_improvement": None, "max_time": 1e-9},
    }.items():
        estimator = model(5, batch_size=300, **parameters).fit(digits)
        ends[name] = (estimator.converged_, estimator.stop_reason_, estimator.n_steps_)
        assert {len(part) for part in estimator.history_.values()} == {estimator.n_steps_}
        assert estimator.n_iter_ == -(-estimator.n_steps_ // 6)
    assert ends["tol"][:1] == (True,)
    assert "of itself in a pass" in ends["tol"][1]
    assert ends["no improvement"][:2] == (True, "the mean cost did not improve for 2 steps")
    assert ends["max_iter"] == (False, "max_iter = 2 was reached", 12)
    assert ends["callback"] == (False, "the callback returned True", 3)
    assert ends["max_time"] == (False, "max_time = 1e-09 s was over", 1)
    assert capsys.readouterr().out == ""
    model(5, batch_size=300, max_iter=2, verbose=1).fit(digits)
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("Minibatch step ")]) == 12


def test_it_warns_only_if_it_did_not_converge(digits):
    with pytest.warns(ConvergenceWarning, match="Maximum number of iterations 2 reached"):
        model(5, max_iter=2, max_no_improvement=None).fit(digits)
    passes = model(5, max_iter=500).fit(digits).n_iter_
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model(5, max_iter=passes).fit(digits).n_iter_ == passes


def test_an_interruption_keeps_the_last_whole_step(digits):
    class Stop(Exception):
        pass

    def callback(report):
        if report.iteration == 4:
            raise Stop

    estimator = model(5, batch_size=300, callback=callback)
    with pytest.raises(Stop):
        estimator.fit(digits)
    assert (estimator.n_steps_, estimator.converged_) == (4, False)
    assert error(estimator, digits) < 0.5


# --- errors, and the default -----------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["kullback-leibler", "itakura-saito", 1, 1.5])
@pytest.mark.parametrize("call", ["fit", "partial_fit"])
def test_other_losses_are_refused(loss, call):
    estimator = model(beta_loss=loss)
    with pytest.raises(ValueError, match=r"'hals' does not handle beta_loss = .*'frobenius' \(or 2\).*solver='mu'"):
        getattr(estimator, call)(planted()[0] + 1)
    assert not hasattr(estimator, "n_features_in_")
    model(beta_loss=2, max_iter=1).fit(planted()[0])


def test_other_solvers_are_refused():
    with pytest.raises(ValueError, match="'solver' parameter of MiniBatchNMF must be a str among"):
        model(solver="cd").fit(planted()[0])


def test_zeros_have_zero_factors_from_which_a_stream_goes_on():
    estimator = model().fit(np.zeros((30, 40)))
    assert not estimator.components_.any()
    assert estimator.reconstruction_err_ == 0
    assert estimator.partial_fit(planted()[0]).components_.any()


def test_mu_is_the_default(digits):
    assert inspect.signature(MiniBatchNMF).parameters["solver"].default == "mu"
    default = MiniBatchNMF(4, random_state=0, batch_size=300, max_iter=3).fit(digits)
    named = model(4, solver="mu", batch_size=300, max_iter=3).fit(digits)
    assert default.components_.tobytes() == named.components_.tobytes()
    assert isinstance(default._memory, Memory)
