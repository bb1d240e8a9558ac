"""`NMF(n_init=R)` and `consensus`: each run is a fit of its own, X is read once for all, and what runs agree on."""

import contextlib
import copy
import itertools
import pickle
import warnings

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

import nmfcore
import nmfcore.rows.memory
from nmfcore import NMF, RowBlocks, consensus, non_negative_factorization
from nmfcore.estimators import _restarts
from nmfcore.estimators.consensus import clustered
from nmfcore.loop import solve
from nmfcore.models import estimator_from, model_of
from nmfcore.solvers import EXTRAPOLATED, SOLVERS

RUNS = 4
FITS = [
    *({"solver": solver} for solver in SOLVERS),
    *({"solver": solver, "extrapolate": True} for solver in EXTRAPOLATED),
    {"solver": "mu", "beta_loss": "kullback-leibler"},
    {"solver": "mu", "beta_loss": 1.5, "extrapolate": True},
    {"solver": "mu", "beta_loss": 0.5},
    {"solver": "cd", "alpha_W": 1e-3, "l1_ratio": 0.5, "shuffle": True},
    {"solver": "hals", "alpha_W": 1e-3, "alpha_H": 2e-3, "l1_ratio": 0.5},
    {"solver": "hals", "init": "random", "shuffle": True},
    {"solver": "hals", "beta_loss": 1},  # reads X by columns, too, and so no file
    {"solver": "cd", "init": "nndsvdar"},
]
IDS = [", ".join(f"{name}={value}" for name, value in fit.items()) for fit in FITS]


def matrix(n=300, m=40, k=4, seed=0):
    rng = np.random.default_rng(seed)
    W, H = rng.random((n, k)) ** 3, rng.random((k, m)) ** 3
    return W @ H + 0.05 * rng.random((n, m))


X = matrix()


@pytest.fixture
def many_blocks(monkeypatch):
    monkeypatch.setattr(nmfcore.rows.memory, "LANE_WORK", 1e5)
    monkeypatch.setattr(nmfcore.rows.memory, "BLOCK_BYTES", 20_000)


def model(n_init=RUNS, **settings):
    return NMF(**{"n_components": 4, "max_iter": 30, "tol": 1e-3, "random_state": 3, "n_init": n_init} | settings)


def quietly(fit, *arguments, **keywords):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit(*arguments, **keywords)


def lone_fits(X, estimator):
    """Return the fits that the runs of an estimator must be."""
    alone = []
    for seed in _restarts.seeds(estimator.random_state, estimator.n_init):
        init = estimator.init or "random"
        alone.append(clone(estimator).set_params(n_init=1, random_state=seed, init=init))
        alone[-1].W = quietly(alone[-1].fit_transform, X)
    return alone


def objective(estimator, X):
    """Return the loss of a lone fit with its penalties, from the factors."""
    W, H = (np.asarray(F, np.float64) for F in (estimator.W, estimator.components_))
    alpha_W = estimator.alpha_W
    alpha_H = alpha_W if estimator.alpha_H == "same" else estimator.alpha_H
    rho, (n, m) = estimator.l1_ratio, X.shape
    penalty = sum(
        alpha * size * (rho * F.sum() + 0.5 * (1 - rho) * (F * F).sum())
        for alpha, size, F in ((alpha_W, m, W), (alpha_H, n, H))
    )
    return 0.5 * estimator.reconstruction_err_**2 + penalty


def assert_same_fit(found, W, expected):
    np.testing.assert_array_equal(found.components_, expected.components_)
    np.testing.assert_array_equal(W, expected.W)
    assert found.n_iter_ == expected.n_iter_ and found.stop_reason_ == expected.stop_reason_
    assert found.reconstruction_err_ == expected.reconstruction_err_
    assert found.kkt_residual_ == expected.kkt_residual_
    for name in ("loss", "violation"):
        np.testing.assert_array_equal(found.history_[name], expected.history_[name])


# --- each run is a fit of its own -----------------------------------------------------------------------------------


def sources(X, tmp_path):
    """Return X as it may be given, by name."""
    path = tmp_path / "X.npy"
    np.save(path, X)
    return {
        "array": X,
        "float32": X.astype(np.float32),
        "CSR": sparse.csr_array(X * (np.quantile(X, 0.8) < X)),
        "memory map": np.load(path, mmap_mode="r"),
        "file": path,
    }


@pytest.mark.parametrize("settings", FITS, ids=IDS)
@pytest.mark.parametrize("kind", ["array", "float32", "CSR", "memory map", "file"])
def test_each_run_is_a_fit_of_its_own_to_the_bit(settings, kind, tmp_path, many_blocks):
    source = sources(X, tmp_path)[kind]
    if kind == "file" and settings == {"solver": "hals", "beta_loss": 1}:
        with pytest.raises(ValueError, match="X is on disk"):
            model(**settings).fit(source)
        return
    estimator = model(**settings)
    W = quietly(estimator.fit_transform, source)
    alone = lone_fits(source, estimator)
    losses = [objective(each, X) for each in alone]
    np.testing.assert_allclose(estimator.init_losses_, losses, rtol=2e-5 if kind == "float32" else 1e-9)
    assert_same_fit(estimator, W, alone[int(np.argmin(estimator.init_losses_))])


@pytest.mark.parametrize("settings", FITS, ids=IDS)
def test_every_run_and_not_only_the_best(settings, monkeypatch, many_blocks):
    """Whichever run counts as the best: its factors are those of the lone fit."""
    estimator = model(**settings)
    alone = lone_fits(X, estimator)
    for number, expected in enumerate(alone):
        turns = itertools.count()

        def finish(*arguments, made=solve._solved, turns=turns, wished=number):  # begun in the order of the runs
            turn = next(turns)
            solution = yield from made(*arguments)
            return solution._replace(loss=float(turn != wished))

        with monkeypatch.context() as patch:
            patch.setattr(solve, "_solved", finish)
            W = quietly(estimator.fit_transform, X)
        assert_same_fit(estimator, W, expected)


def test_small_X_in_one_block_and_the_samples_of_auto():
    for X, settings in ((matrix(30, 8), {"solver": "mu"}), (matrix(13_000, 12), {"solver": "hals"})):
        estimator = model(3, **settings)
        W = quietly(estimator.fit_transform, X)
        init = None if settings["solver"] == "hals" else "random"  # 13,000 rows are enough for samples
        seeds = _restarts.seeds(3, 3)
        expected = model(1, init=init, random_state=seeds[int(np.argmin(estimator.init_losses_))], **settings)
        expected.W = quietly(expected.fit_transform, X)
        assert_same_fit(estimator, W, expected)


@pytest.mark.parametrize("at_once", [1, 3])
def test_runs_in_turn_are_those_side_by_side(at_once, monkeypatch):
    together = model(5)
    W = quietly(together.fit_transform, X)
    monkeypatch.setattr(_restarts, "ROOM", 0)
    monkeypatch.setattr(_restarts, "_at_once", lambda *_: at_once)
    in_turn = model(5)
    np.testing.assert_array_equal(quietly(in_turn.fit_transform, X), W)
    np.testing.assert_array_equal(in_turn.init_losses_, together.init_losses_)
    np.testing.assert_array_equal(in_turn.component_stability_, together.component_stability_)

    def watch(progress):
        if progress.run == 3 and progress.iteration == 2:
            raise KeyboardInterrupt

    in_turn = model(5, callback=watch)
    with pytest.raises(KeyboardInterrupt):
        in_turn.fit(X)
    assert np.isfinite(in_turn.init_losses_).tolist() == [True] * 4 + [at_once == 3]


def test_rows_of_W_do_not_outweigh_X_in_memory(monkeypatch):
    from nmfcore.rows.memory import as_rows

    data = as_rows(X, np.float64)  # 300 × 40; W of a run has 3 × 300 × 4 numbers
    assert _restarts._at_once(data, 4, 8) == 8
    monkeypatch.setattr(_restarts, "ROOM", 0)
    assert _restarts._at_once(data, 4, 8) == 3 and _restarts._at_once(data, "auto", 8) == 1


def test_a_run_does_not_depend_on_the_number_of_runs():
    few, many = (quietly(model(n_init).fit, X) for n_init in (2, 6))
    np.testing.assert_array_equal(few.init_losses_, many.init_losses_[:2])
    assert len(set(many.init_losses_)) == 6
    assert _restarts.seeds(7, 3) == _restarts.seeds(np.int64(7), 9)[:3]


@pytest.mark.parametrize("n_jobs", [2, 3])
@pytest.mark.parametrize("solver", SOLVERS)
def test_threads_change_no_bit(n_jobs, solver, many_blocks):
    one, more = (model(solver=solver, n_jobs=jobs) for jobs in (1, n_jobs))
    np.testing.assert_array_equal(*(quietly(each.fit_transform, X) for each in (one, more)))
    np.testing.assert_array_equal(one.init_losses_, more.init_losses_)
    np.testing.assert_array_equal(one.component_stability_, more.component_stability_)


def test_generators_and_the_global_one_are_drawn_from():
    fits = [quietly(model(random_state=np.random.RandomState(5)).fit, X) for _ in range(2)]
    np.testing.assert_array_equal(fits[0].init_losses_, fits[1].init_losses_)
    generator = check_random_state(None)
    state = generator.get_state()
    try:
        generator.seed(1)
        first = quietly(model(random_state=None).fit, X)
        second = quietly(model(random_state=None).fit, X)
        generator.seed(1)
        again = quietly(model(random_state=None).fit, X)
    finally:
        generator.set_state(state)
    np.testing.assert_array_equal(first.init_losses_, again.init_losses_)
    assert not np.array_equal(first.init_losses_, second.init_losses_)


def test_one_run_is_todays_fit_and_has_none_of_the_new_attributes():
    estimator = model(1)
    quietly(model().fit, X)
    W = quietly(estimator.fit_transform, X)
    W_function, H_function, _ = quietly(
        non_negative_factorization, X, n_components=4, max_iter=30, tol=1e-3, random_state=3, init=None
    )
    np.testing.assert_array_equal(W, W_function)
    np.testing.assert_array_equal(estimator.components_, H_function)
    assert not hasattr(estimator, "init_losses_") and not hasattr(estimator, "component_stability_")
    again = quietly(model().fit, X)
    quietly(again.set_params(n_init=1).fit, X)
    assert not hasattr(again, "init_losses_") and not hasattr(again, "component_stability_")


def test_the_function_makes_runs_too():
    estimator = model()
    W = quietly(estimator.fit_transform, X)
    W_function, H, n_iter = quietly(non_negative_factorization, X, **estimator.get_params())
    np.testing.assert_array_equal(W, W_function)
    np.testing.assert_array_equal(H, estimator.components_)
    assert n_iter == estimator.n_iter_
    with pytest.raises(ValueError, match="n_init = 4 has no meaning with update_H=False"):
        non_negative_factorization(X, H=H, update_H=False, n_init=4)
    with pytest.raises(ValueError, match="n_init = 4 with init='custom'"):
        non_negative_factorization(X, W=W, H=H, init="custom", n_init=4)


def test_ties_go_to_the_earliest_run(monkeypatch):
    made = solve._solved

    def level(*arguments):
        solution = yield from made(*arguments)
        return solution._replace(loss=1.0)

    monkeypatch.setattr(solve, "_solved", level)
    estimator = model()
    W = quietly(estimator.fit_transform, X)
    monkeypatch.undo()
    assert_same_fit(estimator, W, lone_fits(X, estimator)[0])


def test_X_of_zeros():
    estimator = model(init="random").fit(np.zeros((20, 6)))
    assert estimator.init_losses_.tolist() == [0.0] * RUNS and estimator.component_stability_.tolist() == [0.0] * 4


@pytest.mark.parametrize("solver", ["cd", "hals"])
@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_X_in_any_unit(solver, unit):
    plain, scaled = (model(solver=solver, init="random", tol=0, max_iter=8) for _ in range(2))
    quietly(plain.fit, X), quietly(scaled.fit, X * unit)
    if solver == "hals":
        np.testing.assert_allclose(scaled.init_losses_ / unit / unit, plain.init_losses_, rtol=1e-6)
    else:
        np.testing.assert_allclose(scaled.init_losses_.min(), 0.5 * scaled.reconstruction_err_**2, rtol=1e-9)


# --- X is read once for all -----------------------------------------------------------------------------------------


def reads(settings, n_init):
    """Return how often X is read by a fit, and the estimator."""
    passes = []

    def blocks():
        passes.append(1)
        return iter([X[:100], X[100:]])

    estimator = model(n_init, **{"init": "random"} | settings)
    quietly(estimator.fit, RowBlocks(blocks, X.shape, X.dtype))
    return len(passes), estimator


@pytest.mark.parametrize("settings", FITS[:6], ids=IDS[:6])
def test_all_runs_read_X_on_disk_together(settings, many_blocks):
    """The opening pass, the iterations of the longest run, and the measurement of the last pair; mu's of the first."""
    settings = {**settings, "max_iter": 20, "tol": 1e-12}
    alone, _ = reads(settings, 1)
    together, estimator = reads(settings, 5)
    starts = estimator.solver == "mu" and estimator.beta_loss == "frobenius"
    assert together == alone == 22 + starts


def test_reads_are_those_of_the_longest_run(many_blocks):
    together, estimator = reads({"tol": 1e-2, "max_iter": 300}, 5)
    passes = [each.n_iter_ for each in lone_fits(X, estimator)]
    assert len(set(passes)) > 1 and together == max(passes) + 2


def test_runs_that_are_over_drop_out(many_blocks):
    visits, visit = [], SOLVERS["cd"].visit

    class Watched(SOLVERS["cd"]):
        def visit(self, backend, block, *arguments):
            visits.append(block.rows)
            return visit(self, backend, block, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SOLVERS, "cd", Watched)
        estimator = quietly(model(tol=1e-2, max_iter=300).fit, X)
    passes = [each.n_iter_ for each in lone_fits(X, estimator)]
    assert len(set(passes)) > 1 and sum(visits) == sum(passes) * len(X)


# --- what ends the runs ---------------------------------------------------------------------------------------------


def test_a_callback_is_told_the_run_and_ends_it_alone():
    seen = {run: 0 for run in range(RUNS)}

    def watch(progress):
        seen[progress.run] += 1
        assert progress.iteration == seen[progress.run] and progress.factors()[1].shape == (4, 40)
        return progress.run == 2 and progress.iteration == 3

    estimator = quietly(model(tol=0, max_iter=10, callback=watch).fit, X)
    assert seen == {0: 10, 1: 10, 2: 3, 3: 10}
    assert np.isfinite(estimator.init_losses_).all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_exception_of_one_run_ends_all_and_keeps_the_best_so_far(solver, error):
    def watch(progress):
        if progress.run == 1 and progress.iteration == 6:
            raise error

    estimator = model(tol=0, solver=solver, init="random", callback=watch)
    with pytest.raises(error):
        estimator.fit(X)
    # run 0 was one pass ahead; hals may have rejected some
    assert estimator.n_iter_ in (5, 6) or solver == "hals"
    assert estimator.init_losses_.shape == (RUNS,) and np.isfinite(estimator.init_losses_).all()
    reasons = {KeyboardInterrupt: "interrupted", ZeroDivisionError: "an exception: ZeroDivisionError()"}
    assert estimator.stop_reason_ == reasons[error]
    assert 0.5 * estimator.reconstruction_err_**2 == pytest.approx(estimator.init_losses_.min())
    if solver != "hals":
        best, passes = int(np.argmin(estimator.init_losses_)), estimator.n_iter_
        seed = _restarts.seeds(3, RUNS)[best]
        alone = quietly(model(1, tol=0, solver=solver, init="random", random_state=seed, max_iter=passes).fit, X)
        np.testing.assert_array_equal(estimator.components_, alone.components_)


@pytest.mark.parametrize("when", [1, 8])
def test_a_failing_read_ends_all_runs(when, many_blocks):
    passes = itertools.count()

    def blocks():
        yield X[:200]
        if next(passes) == when:  # that of the opening is the one of number 0
            raise OSError("gone")
        yield X[200:]

    estimator = model(tol=0, init="random")
    with pytest.raises(OSError, match="gone"):
        estimator.fit(RowBlocks(blocks, X.shape, X.dtype))
    assert estimator.n_iter_ == when - 1 and estimator.stop_reason_.startswith("an exception")


def test_interrupted_runs_hold_nothing_once_the_exception_is_gone():
    import gc
    import weakref

    class Held(np.ndarray):
        pass

    given = X.view(Held).copy()
    alive = weakref.ref(given)

    def watch(progress):
        if progress.iteration == 3:
            raise ZeroDivisionError

    gc.collect()
    gc.disable()
    try:
        estimator = model(tol=0, init="random", callback=watch)
        with contextlib.suppress(ZeroDivisionError):
            estimator.fit(given)
        del given
        assert alive() is None
    finally:
        gc.enable()


def test_no_run_begins_after_max_time(monkeypatch):
    started, begun = NMF._start, []

    def slow(self, *arguments):
        begun.append(self.random_state)
        if len(begun) == 2:
            monkeypatch.setattr(_restarts.time, "perf_counter", lambda made=_restarts.time.perf_counter: made() + 1e6)
        return started(self, *arguments)

    monkeypatch.setattr(NMF, "_start", slow)
    with pytest.warns(ConvergenceWarning, match="max_time"):
        estimator = model(tol=0, max_time=1000).fit(X)
    assert np.isfinite(estimator.init_losses_).tolist() == [True, True, False, False]
    assert estimator.n_iter_ == 1 and np.isfinite(estimator.component_stability_).all()


def test_verbose_has_a_line_for_each_run(capsys):
    quietly(model(verbose=1).fit, X)
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line[:10] for line in lines) == [f"run {i} of 4" for i in (1, 2, 3, 4)]


# --- errors ---------------------------------------------------------------------------------------------------------


class Untouchable:
    """What is refused without a look at X."""

    def __getattr__(self, name):
        raise AssertionError(f"X.{name} was looked at")


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"init": "custom"}, "n_init = 4 with init='custom'.*would be alike.*n_init=1"),
        ({"init": "nndsvd"}, "n_init = 4 with init='nndsvd'.*'random' or 'nndsvdar'"),
        ({"init": "nndsvda"}, "n_init = 4 with init='nndsvda'"),
        ({"checkpoint": "fit.npz"}, "checkpoint='fit.npz' with n_init = 4: a checkpoint holds a single run"),
        ({"n_init": 0}, "n_init"),
        ({"n_init": 1.5}, "n_init"),
    ],
)
def test_what_cannot_be_restarted_is_refused_before_any_work(settings, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        model(**settings).fit(Untouchable())
    assert list(tmp_path.iterdir()) == []


def test_starts_of_nndsvd_are_alike_whatever_the_seed():
    """The reason why they are refused."""
    from nmfcore.rows.memory import as_rows
    from nmfcore.starts.nndsvd import initialize

    data = as_rows(X, np.float64)
    first, second = (initialize(data, 4, "nndsvd", seed)[1] for seed in (0, 1))
    assert _restarts.matched_cosines(first, second, data.backend).min() > 1 - 1e-6


# --- stability ------------------------------------------------------------------------------------------------------


def test_matched_cosines_are_scipys():
    rng = np.random.default_rng(0)
    H, other = rng.random((2, 30, 5))
    other[:, 2] = 0
    from nmfcore.backends import cpu

    sizes = np.linalg.norm(other, axis=0)
    cosines = H.T @ other / np.outer(np.linalg.norm(H, axis=0), np.where(sizes > 0, sizes, 1))
    rows, columns = linear_sum_assignment(-cosines)
    found = _restarts.matched_cosines(H, other, cpu)
    np.testing.assert_allclose(found, cosines[rows, columns], rtol=1e-12)
    assert found[list(columns).index(2)] == 0
    same = _restarts.matched_cosines(H, H[:, ::-1].copy(), cpu)
    np.testing.assert_allclose(same, 1)
    assert same.max() <= 1


def planted(seed=0, n=600, m=60, k=4):
    """Return X of k separate components, with noise of mean zero that a component more can only chase."""
    rng = np.random.default_rng(seed)
    H = np.kron(np.eye(k), np.ones((1, m // k))) * rng.uniform(0.5, 1.5, (k, m))
    W = rng.gamma(0.5, size=(n, k))
    return W @ H * (1 + 0.2 * rng.uniform(-1, 1, (n, m))), H


@pytest.mark.parametrize("solver", ["cd", "hals"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_false_component_is_unstable_and_true_ones_are_stable(solver, seed):
    X, H = planted(seed)
    estimator = NMF(5, solver=solver, init="random", n_init=10, random_state=0, max_iter=1000, tol=1e-5)
    quietly(estimator.fit, X)
    unit = estimator.components_ / np.linalg.norm(estimator.components_, axis=1, keepdims=True)
    stability = estimator.component_stability_
    false = int(np.argmin(stability))
    assert stability[false] < 0.6 and np.delete(stability, false).min() > 0.95
    likeness = np.delete(unit, false, axis=0) @ (H / np.linalg.norm(H, axis=1, keepdims=True)).T
    assert likeness[linear_sum_assignment(likeness, maximize=True)].min() > 0.95  # the stable ones are the true ones


def test_stability_does_not_depend_on_the_order_of_the_runs():
    runs = np.random.default_rng(0).random((6, 30, 5))
    from nmfcore.backends import cpu

    orders = [range(6), [0, 5, 4, 3, 2, 1], [3, 1, 0, 2, 5, 4]]
    found = [
        _restarts.Restarted(None, None, {number: runs[of] for number, of in enumerate(order)}, list(order).index(0))
        for order in orders
    ]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].stability(cpu), other.stability(cpu))


# --- models ---------------------------------------------------------------------------------------------------------


def test_models_clones_copies_and_pickles_keep_the_runs(tmp_path):
    estimator = model()
    W = quietly(estimator.fit_transform, X)
    nmfcore.save(model_of(estimator, W), tmp_path / "m.npz")
    loaded = nmfcore.load(tmp_path / "m.npz")
    for other in (estimator_from(loaded), copy.deepcopy(estimator), pickle.loads(pickle.dumps(estimator))):
        assert other.n_init == RUNS
        np.testing.assert_array_equal(other.init_losses_, estimator.init_losses_)
        np.testing.assert_array_equal(other.component_stability_, estimator.component_stability_)
        np.testing.assert_array_equal(quietly(other.transform, X[:5]), quietly(estimator.transform, X[:5]))
    assert clone(estimator).n_init == RUNS and not hasattr(clone(estimator), "init_losses_")
    single = model(1)
    nmfcore.save(model_of(single, quietly(single.fit_transform, X)), tmp_path / "m.npz")
    loaded = nmfcore.load(tmp_path / "m.npz")
    assert loaded.init_losses is None and not hasattr(estimator_from(loaded), "init_losses_")


def test_an_older_pickle_has_one_run():
    state = quietly(model(1).fit, X).__getstate__()
    del state["n_init"]
    old = NMF.__new__(NMF)
    old.__setstate__(state)
    assert old.n_init == 1


# --- consensus ------------------------------------------------------------------------------------------------------


def cnmf(H, k, nearest, threshold, labels):
    """Return medians and outliers as cNMF's script finds them, from the distances of all pairs."""
    spectra = H / np.linalg.norm(H, axis=1, keepdims=True)
    distances = np.linalg.norm(spectra[:, None] - spectra[None], axis=2)
    density = np.sort(distances, axis=1)[:, : nearest + 1].sum(axis=1) / nearest
    kept = density < threshold
    medians = np.array([np.median(spectra[labels == cluster], axis=0) for cluster in range(k)])
    return medians / medians.sum(axis=1, keepdims=True), ~kept


def spectra_of(X, k, n_init):
    from nmfcore.estimators.consensus import _model

    runs = _model(k, n_init, NMF(max_iter=300), 0, None)
    quietly(runs.fit, X)
    return np.concatenate([runs._Ht[run].T for run in sorted(runs._Ht)])


def test_clusters_are_those_of_cnmf():
    X, _ = planted()
    H = spectra_of(X, 5, 10)
    found = clustered(H, 4, 3, 0.4, 0)
    medians, outliers = cnmf(H, 4, 3, 0.4, found.labels)
    assert 0 < outliers.sum() < 25
    np.testing.assert_array_equal(found.labels == -1, outliers)
    np.testing.assert_allclose(found.medians, medians, rtol=1e-12)
    from sklearn.metrics import silhouette_score

    spectra = H / np.linalg.norm(H, axis=1, keepdims=True)
    expected = silhouette_score(spectra[~outliers], found.labels[~outliers])
    assert found.silhouette == pytest.approx(expected, rel=1e-9)


def test_order_of_spectra_changes_nothing():
    X, _ = planted()
    H = spectra_of(X, 5, 10)
    found = clustered(H, 4, 3, 0.4, 0)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(H))
        other = clustered(H[order], 4, 3, 0.4, 0)
        np.testing.assert_array_equal(other.medians, found.medians)
        np.testing.assert_array_equal(other.labels, found.labels[order])
        assert other.silhouette == found.silhouette


def test_rounding_of_the_spectra_changes_no_cluster():
    for seed in range(10):  # of spectra that are no clusters, so that k-means ends where its draws lead it
        rng = np.random.default_rng(seed)
        H = rng.random((40, 12)) ** 4
        found = clustered(H, 5, 3, np.inf, seed)
        order = rng.permutation(len(H))
        other = clustered((H * (1 + 1e-13 * rng.standard_normal(H.shape)))[order], 5, 3, np.inf, seed)
        np.testing.assert_array_equal(other.labels, found.labels[order])
        np.testing.assert_allclose(other.medians, found.medians, rtol=1e-10)
        assert other.silhouette == pytest.approx(found.silhouette, rel=1e-10)


def test_as_many_clusters_as_spectra_and_a_single_one():
    H = np.random.default_rng(0).random((6, 10))
    assert clustered(H, 6, 1, np.inf, 0).silhouette == 0
    assert np.isnan(clustered(H, 1, 1, np.inf, 0).silhouette)


def test_zero_and_tiny_components():
    H = np.random.default_rng(0).random((7, 10))
    H[3] = 0
    H[4] *= 1e-300
    found = clustered(H, 2, 2, np.inf, 0)
    assert (found.labels == -1).tolist() == [False] * 3 + [True] + [False] * 3
    assert np.isfinite(found.medians).all()


@pytest.mark.parametrize("settings", [{}, {"solver": "hals"}, {"solver": "mu", "beta_loss": "kullback-leibler"}])
def test_consensus_finds_the_planted_components(settings):
    X, H = planted()
    found = quietly(consensus, X, 4, n_init=10, estimator=NMF(max_iter=400, tol=1e-6, **settings), random_state=0)
    unit = (F / np.linalg.norm(F, axis=1, keepdims=True) for F in (found.components_, H))
    cosines = np.matmul(*(F if number == 0 else F.T for number, F in enumerate(unit)))
    assert sorted(cosines.argmax(axis=1)) == [0, 1, 2, 3] and cosines.max(axis=1).min() > 0.95
    assert found.stability > 0.9 and found.members.shape == (10, 4) and not found.outliers.any()
    assert all(sorted(members) == [0, 1, 2, 3] for members in found.members)
    assert (np.diff(found.W.sum(axis=0)) <= 0).all()
    if not settings:
        error = np.linalg.norm(X - found.W @ found.components_)
        assert found.error == pytest.approx(error, rel=1e-9)
        best = quietly(NMF(4, init="random", n_init=10, random_state=0, max_iter=400, tol=1e-6).fit, X)
        assert error < 1.02 * best.reconstruction_err_
        # H is the least-squares answer for W
        from scipy.optimize import nnls

        expected = np.array([nnls(found.W, column)[0] for column in X.T]).T
        np.testing.assert_allclose(found.components_, expected, rtol=1e-3, atol=1e-3)


def test_consensus_has_the_same_bits_for_any_number_of_threads_and_from_disk(tmp_path, many_blocks):
    X, _ = planted()
    path = tmp_path / "X.npy"
    np.save(path, X)
    first, *others = (
        quietly(consensus, of, 4, 8, estimator=NMF(max_iter=50), random_state=1, n_jobs=jobs)
        for of, jobs in ((X, 1), (X, 3), (path, 2), (X, None))
    )
    for other in others:
        for name in ("components_", "W", "members", "outliers"):
            np.testing.assert_array_equal(getattr(first, name), getattr(other, name))
        assert first.stability == other.stability and first.error == other.error


def test_consensus_repr_is_short():
    X, _ = planted()
    found = quietly(consensus, X, 4, 8, random_state=1)
    assert repr(found).startswith("Consensus of 4 components from 8 runs (stability ") and len(repr(found)) < 120


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"n_init": 3}, "n_init = 3 with neighbors = 0.3.*4 or more"),
        ({"n_init": 1}, "n_init = 1"),
        ({"threshold": 0.0}, "threshold = 0"),
        ({"k": 0}, "n_components"),
        ({"estimator": NMF(init="custom")}, "init='custom'"),
    ],
)
def test_consensus_refuses_before_any_work(settings, said):
    settings = {"k": 3, **settings}
    with pytest.raises(ValueError, match=said):
        consensus(Untouchable(), **settings)
    with pytest.raises(TypeError, match="give an NMF"):
        consensus(Untouchable(), 3, estimator=3)


def test_consensus_without_agreement_says_so():
    noise = np.random.default_rng(0).random((50, 200))
    with pytest.raises(ValueError, match=r"spectra leave .* Increase threshold"):
        quietly(consensus, noise, 10, 10, threshold=1e-3, random_state=0)
    with pytest.raises(ValueError, match="all zeros"):
        consensus(np.zeros((20, 6)), 2, 5, random_state=0)
