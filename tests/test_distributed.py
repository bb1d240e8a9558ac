"""Fits of Dask arrays on a real cluster: worker processes that talk TCP, and that die."""

import contextlib
import gc
import itertools
import os
import signal
import threading
import time
import warnings

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip("distributed", reason="the extra 'dask' is not installed")

import dask
import dask.array as da
import distributed as dd
from sklearn.exceptions import ConvergenceWarning

from nmfcore import NMF, MiniBatchNMF, consensus, non_negative_factorization
from nmfcore.analysis import explained_share
from nmfcore.rows.cluster import as_dask_rows, tasks, using
from nmfcore.rows.cluster import workers as cluster
from nmfcore.rows.memory import as_rows
from nmfcore.starts.nndsvd import initialize

pytestmark = [
    # distributed's own: sockets and event loops that its shutdown leaves to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:Sending large graph:UserWarning"),
]

K, ROWS, COLUMNS = 4, 600, 30
HEIGHTS = (90, 120, 60, 100, 130, 40, 60)


def made(rng, rows=ROWS, dtype=np.float32):
    """X of rank 6 and noise."""
    X = rng.gamma(0.5, size=(rows, 6)) @ rng.gamma(0.5, size=(6, COLUMNS)) + 0.1 * rng.random((rows, COLUMNS))
    return X.astype(dtype)


X = made(np.random.default_rng(0))
CASES = {
    "cd": {"solver": "cd"},
    "hals": {"solver": "hals"},
    "mu": {"solver": "mu"},
    "kl": {"solver": "mu", "beta_loss": 1, "extrapolate": True, "init": "random"},
    "penalised": {"solver": "hals", "alpha_W": 1e-3, "l1_ratio": 0.5, "init": "nndsvdar"},
}


def model(case="hals", **more):
    return NMF(K, **{"random_state": 0, "max_iter": 12, "tol": 0, **CASES[case], **more})


def in_chunks(X=X, heights=HEIGHTS):
    return da.from_array(X, chunks=(heights, X.shape[1]))


def fitted(estimator, X):
    """W and what a fit learned, to be compared bit for bit."""
    W = np.asarray(estimator.fit_transform(X))
    return W, estimator.components_, estimator.history_["loss"]


def same(one, other):
    # mu measures some losses only
    return all(np.array_equal(a, b, equal_nan=np.ndim(a) == 1) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """Kernels compiled once and shared; no dashboard, and no waiting for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for case in CASES:  # the cache is warm before the workers look into it: none of them compiles
            model(case, max_iter=12).fit(X).transform(X)
        with other_cluster():
            incomplete("cd", 0, max_iter=1).fit(csr(thin()))
    settings = {"distributed.comm.timeouts.connect": "5s", "distributed.scheduler.allowed-failures": 10}
    with dask.config.set(settings):
        yield


@pytest.fixture(scope="module")
def workers(quiet, tmp_path_factory):
    """Give a cluster of three worker processes; nannies replace those that are killed."""
    folder = str(tmp_path_factory.mktemp("dask"))
    made = dd.LocalCluster(
        n_workers=3, threads_per_worker=1, processes=True, dashboard_address=":0", memory_limit=0,
        local_directory=folder, silence_logs=50,
    )  # fmt: skip
    yield made
    with contextlib.suppress(KeyError):  # distributed of 2024 looks for a killed worker that it has forgotten
        made.close()


@pytest.fixture
def client(workers):
    """Give a client; nothing of a test may stay on the cluster."""
    with dd.Client(workers) as client:
        complete(client, workers)
        yield client


def complete(client, workers):
    """Wait for three workers. A nanny that closes, where it should start its killed worker again, is replaced."""
    for _ in range(6):
        with contextlib.suppress(TimeoutError):
            client.wait_for_workers(3, timeout=30)
            return
        workers.scale(0)
        workers.scale(3)
    client.wait_for_workers(3, timeout=30)


@contextlib.contextmanager
def other_cluster(threads=2):
    """One worker in this process."""
    with (
        dd.LocalCluster(
            n_workers=1, threads_per_worker=threads, processes=False, dashboard_address=":0", silence_logs=50
        ) as made,
        dd.Client(made) as client,
    ):
        yield client


def pids(client):
    return client.run(os.getpid)


def kill(client, number=0):
    """SIGKILL a worker process; return its address."""
    address, pid = sorted(pids(client).items())[number]
    os.kill(pid, signal.SIGKILL)
    return address


def left_on(workers):
    """Keys that are still on the scheduler once it had time to hear that nobody wants them."""
    end = time.monotonic() + 10
    while workers.scheduler.tasks and time.monotonic() < end:
        gc.collect()
        time.sleep(0.05)
    return list(workers.scheduler.tasks)


# ---- the same answer -------------------------------------------------------------------------------------------------


def test_many_runs_agree_on_what_they_agree_on_in_memory():
    """Runs agree to rounding; k-means and the refit must not make more of it, even where clusters are not clear."""
    estimator = NMF(K, init="random", max_iter=5, tol=0, dtype=np.float64)
    here = consensus(X, K, 4, estimator=estimator, random_state=0)
    with other_cluster():
        there = consensus(in_chunks(heights=(300, 300)), K, 4, estimator=estimator, random_state=0)
        W = np.asarray(there.W)
    np.testing.assert_array_equal(there.members, here.members)
    np.testing.assert_allclose(there.components_, here.components_, rtol=1e-6, atol=1e-9 * here.components_.max())
    np.testing.assert_allclose(W, here.W, rtol=1e-6, atol=1e-9 * here.W.max())
    assert (there.stability, there.error) == pytest.approx((here.stability, here.error), rel=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_the_answer_is_that_of_memory(client, case):
    W, H, losses = fitted(model(case), in_chunks())
    in_memory = fitted(model(case), X)
    assert W.dtype == np.float32
    np.testing.assert_allclose(losses, in_memory[2], rtol=1e-3)
    np.testing.assert_allclose(W @ H, in_memory[0] @ in_memory[1], atol=2e-2 * X.max())


def test_bits_do_not_depend_on_the_cluster(client):
    spread = fitted(model(), in_chunks())
    for threads in (1, 4):  # one group of eight blocks, of four, and a task for each block
        with other_cluster(threads) as alone, using(alone):
            assert same(spread, fitted(model(), in_chunks()))


def test_w_is_a_dask_array_in_the_chunks_of_x(client, workers):
    W = model().fit_transform(in_chunks())
    assert isinstance(W, da.Array) and W.chunks == (HEIGHTS, (K,))
    assert W[5:7].compute().shape == (2, K)
    wanted = [key for key, task in workers.scheduler.tasks.items() if task.who_wants]
    assert sum(str(key).startswith("nmfcore-W") for key in wanted) == len(HEIGHTS)
    del W
    assert left_on(workers) == []


def test_what_the_user_has_on_the_cluster_stays(client):
    persisted = client.persist(in_chunks())
    model().fit(persisted)
    futures = dd.futures_of(persisted)
    assert len(futures) == len(HEIGHTS) and all(future.status == "finished" for future in futures)
    assert np.array_equal(persisted.compute(), X)


def test_random_starts_are_those_of_memory(client):
    one, other = np.random.RandomState(3), np.random.RandomState(3)
    data, rows = as_dask_rows(in_chunks(), np.float32), as_rows(X, np.float32)
    for init in ("random", "nndsvd", "nndsvda", "nndsvdar"):
        W, Ht = initialize(data, K, init, one)
        expected = initialize(rows, K, init, other)
        np.testing.assert_allclose(data.backend.to_numpy(W), expected[0], rtol=2e-3, atol=2e-4)
        np.testing.assert_allclose(Ht, expected[1], rtol=2e-3, atol=2e-4)
        assert one.random_sample() == other.random_sample()
    data.cluster.close()


@pytest.mark.parametrize("init", ["auto", "nndsvda", "random"])
def test_an_x_of_another_unit(client, init):
    """NMF of 4^p·X is 4^p times NMF of X."""
    one, other = ([*fitted(model(init=init), in_chunks(np.ldexp(X, 2 * p)))] for p in (0, -55))
    for F, G in zip(one[:2], other[:2], strict=True):
        assert np.array_equal(np.ldexp(F, -55), G)
    assert np.array_equal(np.ldexp(one[2], -220), other[2])


def test_sparse_blocks_columns_in_chunks_and_small_types(client):
    counts = np.random.default_rng(1).poisson(0.3, (ROWS, COLUMNS)).astype(np.uint8)
    chunks = da.from_array(counts, chunks=(HEIGHTS, 11))
    W, H, _ = fitted(model("cd"), chunks)
    expected = fitted(model("cd"), counts)
    np.testing.assert_allclose(W @ H, expected[0] @ expected[1], atol=1e-3)
    rows = da.from_array(counts.astype(np.float32), chunks=(HEIGHTS, COLUMNS)).map_blocks(sp.csr_matrix)
    W, H, _ = fitted(model("cd"), rows)
    np.testing.assert_allclose(W @ H, expected[0] @ expected[1], atol=1e-3)


def test_custom_start_fixed_h_and_the_function(client):
    rng = np.random.default_rng(2)
    W, H = rng.random((ROWS, K), np.float32), rng.random((K, COLUMNS), np.float32)
    kept = W.copy()
    ours = np.asarray(model("cd", init="custom").fit_transform(in_chunks(), W=W, H=H))
    np.testing.assert_allclose(ours, model("cd", init="custom").fit_transform(X, W=W, H=H), rtol=1e-3, atol=1e-3)
    assert np.array_equal(W, kept)
    given = np.asarray(model("cd", init="custom").fit_transform(in_chunks(), H=H))
    np.testing.assert_allclose(given, model("cd", init="custom").fit_transform(X, H=H), rtol=1e-3, atol=1e-3)
    with pytest.raises(NotImplementedError, match="give H as well"):
        model("cd", init="custom").fit(in_chunks(), W=W)
    codes, _, _ = non_negative_factorization(in_chunks(), H=H, update_H=False, n_components=K, tol=1e-3, max_iter=500)
    expected, _, _ = non_negative_factorization(X, H=H, update_H=False, n_components=K, tol=1e-3, max_iter=500)
    assert np.array_equal(np.asarray(codes), expected)


@pytest.mark.parametrize("case", CASES)
def test_order_scale_and_fixed_components(client, case):
    rng = np.random.default_rng(2)
    W, H = rng.random((ROWS, K), np.float32), rng.random((K, COLUMNS), np.float32)
    norm = None if case == "penalised" else "l2"
    settings = {"init": "custom", "sort_components": True, "normalize": norm, "fixed_components": [1]}
    spread, local = model(case, **settings), model(case, **settings)
    codes = spread.fit_transform(in_chunks(), W=W, H=H)
    assert isinstance(codes, da.Array)
    assert np.array_equal(spread.components_[1], H[1])
    if norm:
        norms = np.linalg.norm(spread.components_, axis=1)
        np.testing.assert_allclose(np.delete(norms, 1), 1, rtol=1e-5)
    expected = local.fit_transform(X, W=W, H=H)
    np.testing.assert_allclose(
        np.asarray(codes) @ spread.components_, expected @ local.components_, atol=2e-2 * X.max()
    )
    shares = explained_share(X, np.asarray(codes), spread.components_)
    assert (np.diff(np.delete(shares, 1)) <= 1e-6).all()
    fixed = model(case, init="custom", fixed_components=range(K))
    codes = np.asarray(fixed.fit_transform(in_chunks(), H=H))
    assert np.array_equal(codes, np.asarray(fixed.transform(in_chunks())))
    assert np.array_equal(codes, fixed.transform(X))


def test_an_interrupted_fit_on_the_cluster_is_arranged(client):
    def stop(progress):
        if progress.iteration == 3:
            raise KeyboardInterrupt

    estimator = model("cd", sort_components=True, normalize="max", callback=stop)
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(in_chunks())
    assert (estimator.components_.max(axis=1) == 1).all()
    assert estimator.scales_.shape == (K,)


def test_transform_is_lazy_and_that_of_memory(client):
    learned = model().fit(in_chunks())
    W = learned.transform(in_chunks())
    assert isinstance(W, da.Array) and W.chunks == (HEIGHTS, (K,)) and W.dtype == np.float32
    assert np.array_equal(W.compute(), learned.transform(X))
    assert np.isclose(learned.score(in_chunks()), learned.score(X), rtol=1e-5)
    broken = da.concatenate([in_chunks(), -in_chunks()])
    with pytest.raises(ValueError, match="Negative values"):
        learned.transform(broken).compute()


def test_all_zeros_and_stop_rules(client):
    zeros = da.zeros((40, 6), chunks=(10, 6), dtype=np.float32)
    W = model().fit_transform(zeros)
    assert W.shape == (40, K) and not W.compute().any()
    stopped = model(tol=1e-3, max_iter=500).fit(in_chunks())
    expected = model(tol=1e-3, max_iter=500).fit(X)
    assert stopped.converged_ and stopped.stop_reason_ == expected.stop_reason_
    assert stopped.n_iter_ == expected.n_iter_


def test_tall_x_begins_from_samples(client):
    tall = made(np.random.default_rng(4), 13_000)
    one = model(max_iter=3).fit(da.from_array(tall, chunks=(2500, COLUMNS)))
    other = model(max_iter=3).fit(tall)
    np.testing.assert_allclose(one.reconstruction_err_, other.reconstruction_err_, rtol=1e-3)


def shaped(rows, columns, share=1.0):
    rng = np.random.default_rng(5)
    X = rng.gamma(0.5, size=(rows, 6)) @ rng.gamma(0.5, size=(6, columns)) + 0.1 * rng.random((rows, columns))
    return X * (rng.random(X.shape) < share)


@pytest.mark.parametrize("k", [K, 20, 100])
@pytest.mark.parametrize("form", ["few columns", "many columns", "sparse", "very sparse", "wide", "sparse and wide"])
def test_hals_begins_where_it_does_in_memory(client, form, k):
    """XᵀX for few columns, subspaces for the others; blocks of fewer rows than components; k = m."""
    columns = {"few columns": 30, "wide": 700, "sparse and wide": 700}.get(form, 100)
    X = shaped(400, columns, {"sparse": 0.3, "very sparse": 0.02, "sparse and wide": 0.1}.get(form, 1.0))
    k = min(k, columns)
    chunks = da.from_array(X, chunks=((90, 5, 205, 100), columns))
    if "sparse" in form:
        X, chunks = sp.csr_matrix(X), chunks.map_blocks(sp.csr_matrix)
    there, here = (NMF(k, solver="hals", random_state=0, max_iter=3, tol=0) for _ in range(2))
    W, expected = np.asarray(there.fit_transform(chunks)), here.fit_transform(X)
    np.testing.assert_allclose(W, expected, rtol=1e-6, atol=1e-7 * expected.max())
    largest = here.components_.max()
    np.testing.assert_allclose(there.components_, here.components_, rtol=1e-6, atol=1e-7 * largest)
    np.testing.assert_allclose(there.history_["loss"], here.history_["loss"], rtol=1e-7, atol=1e-9 * np.sum(X.data))


@pytest.mark.parametrize("init", ["nndsvd", "nndsvda"])
def test_wide_x_begins_where_it_does_in_memory(client, init):
    X = shaped(60, 200)
    there, here = (NMF(K, init=init, random_state=0, max_iter=3, tol=0) for _ in range(2))
    W = np.asarray(there.fit_transform(da.from_array(X, chunks=((25, 35), 200))))
    np.testing.assert_allclose(W, here.fit_transform(X), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(there.components_, here.components_, rtol=1e-6, atol=1e-8)


def test_entries_stored_twice_add_up_in_blocks(client):
    X = sp.csr_matrix(shaped(400, 40, 0.2))
    halves = sp.csr_matrix((np.repeat(X.data / 2, 2), np.repeat(X.indices, 2), 2 * X.indptr), shape=X.shape)
    block = dask.delayed(lambda lo: halves[lo : lo + 100])
    chunks = [da.from_delayed(block(lo), (100, 40), X.dtype, meta=X[:0]) for lo in range(0, 400, 100)]
    there, here = (model("kl", max_iter=3) for _ in range(2))
    W = np.asarray(there.fit_transform(da.concatenate(chunks)))
    np.testing.assert_allclose(W, here.fit_transform(X), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(there.reconstruction_err_, here.reconstruction_err_, rtol=1e-9)


def test_without_a_cluster_dask_computes_and_memory_fits():
    W = model().fit_transform(in_chunks())
    assert isinstance(W, da.Array) and W.chunks == (HEIGHTS, (K,))
    assert np.array_equal(W.compute(), model().fit_transform(X))
    huge = da.zeros((10**9, 10**6), chunks=(1000, 10**6))
    with pytest.raises(MemoryError, match=r"distributed\.Client"):
        model().fit(huge)
    online = MiniBatchNMF(K, max_iter=2, tol=0, random_state=0)
    assert np.array_equal(online.fit(in_chunks()).components_, online.fit(X).components_)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("estimator", [NMF, MiniBatchNMF])
@pytest.mark.parametrize("unknown", [False, True])
def test_rows_of_results_of_a_dask_array_are_a_dask_array(estimator, unknown):
    chunks = in_chunks()
    if unknown:  # Dask does not know how many rows a mask leaves
        chunks = chunks[chunks.sum(axis=1) >= 0]
    estimated = estimator(K, max_iter=2, tol=0, random_state=0)
    expected = estimator(K, max_iter=2, tol=0, random_state=0).fit_transform(X)
    W = estimated.fit_transform(chunks)
    assert isinstance(W, da.Array) and np.array_equal(W.compute(), expected)
    codes = estimated.transform(chunks)
    assert isinstance(codes, da.Array) and np.array_equal(codes.compute(), estimated.transform(X))
    assert isinstance(estimated.inverse_transform(codes), da.Array)
    assert estimated.score(chunks) == estimated.score(X)
    framed = estimated.set_output(transform="pandas").transform(chunks)
    assert type(framed).__name__ == "DataFrame" and np.array_equal(framed.to_numpy(), estimated.transform(X))


def test_the_command_line_computes_on_a_cluster(client, tmp_path):
    pytest.importorskip("typer", reason="the extra 'app' is not installed")
    from nmfcore import cli, load

    np.save(tmp_path / "X.npy", X)
    common = ["fit", str(tmp_path / "X.npy"), "-k", str(K), "--tol", "1e-3", "--size", "5x6"]
    on_cluster = ["--scheduler", client.scheduler.address, "--checkpoint", str(tmp_path / "fit.ckpt")]
    assert cli.main([*common, "--out", str(tmp_path / "there"), *on_cluster]) == 0
    assert not (tmp_path / "fit.ckpt").exists()  # the fit has come to its end
    assert cli.main([*common, "--out", str(tmp_path / "here")]) == 0
    there, here = (load(tmp_path / name / "model.npz") for name in ("there", "here"))
    assert there.W.shape == (ROWS, K) and np.isclose(there.relative_error, here.relative_error, rtol=1e-3)
    assert cli.main([*common, "--out", str(tmp_path / "no"), "--scheduler", "nonsense://here"]) == 2


# ---- missing entries ---------------------------------------------------------------------------------------------

CUT = (70, 20, 80, 30)
SEEN = made(np.random.default_rng(6), sum(CUT), np.float64) + 0.01
GONE = np.random.default_rng(7).random(SEEN.shape) < 0.3
FEW = GONE & (np.random.default_rng(8).random(SEEN.shape) < 0.2)  # so few that they are listed
COLUMN = np.arange(COLUMNS) % 7 == 3
NAN = float("nan")


def cut(X, heights=CUT):
    return da.from_array(X, chunks=(heights, X.shape[1]))


def csr(X):
    return cut(X).map_blocks(sp.csr_matrix)


def thin(X=SEEN):
    return np.where(X < 0.5, 0, X)


# Each way to say what is missing of a Dask array: X, mask, missing_values; and the same of an X in memory.
WAYS = {
    "bool": lambda: ((cut(SEEN), GONE, None), (SEEN, GONE, None)),
    "sparse mask": lambda: ((cut(SEEN), sp.coo_array(GONE), None), (SEEN, GONE, None)),
    "few, in a far unit": lambda: ((cut(2.0**200 * SEEN), FEW, None), (2.0**200 * SEEN, FEW, None)),
    "Dask": lambda: ((cut(SEEN), da.from_array(GONE, chunks=(64, 11)), None), (SEEN, GONE, None)),
    "Dask, sparse": lambda: ((cut(SEEN), csr(GONE), None), (SEEN, GONE, None)),
    "NaN": lambda: ((cut(np.where(GONE, NAN, SEEN)), None, NAN), (SEEN, GONE, None)),
    "zeros": lambda: ((cut(np.where(GONE, 0, SEEN)), None, 0), (SEEN, GONE, None)),
    "masked array": lambda: ((da.ma.masked_array(cut(SEEN), cut(GONE)), None, None), (SEEN, GONE, None)),
    "columns": lambda: ((cut(SEEN), COLUMN, None), (SEEN, COLUMN, None)),
    "columns of Dask": lambda: ((cut(SEEN), da.from_array(COLUMN), None), (SEEN, COLUMN, None)),
    "columns and entries": lambda: ((da.ma.masked_array(cut(SEEN), cut(GONE)), COLUMN, None),
                                    (SEEN, GONE | COLUMN, None)),
    "sparse X": lambda: ((csr(thin()), GONE, None), (sp.csr_matrix(thin()), GONE, None)),
    "sparse X, Dask": lambda: ((csr(thin()), cut(GONE), None), (sp.csr_matrix(thin()), GONE, None)),
    "sparse X, NaN": lambda: ((csr(np.where(GONE, NAN, thin())), None, NAN), (sp.csr_matrix(thin()), GONE, None)),
    "sparse X, columns": lambda: ((csr(thin()), COLUMN, None), (sp.csr_matrix(thin()), COLUMN, None)),
    "stored": lambda: ((csr(np.where(GONE, 0, SEEN)), None, 0), (sp.csr_matrix(np.where(GONE, 0, SEEN)), None, 0)),
    "stored and mask": lambda: ((csr(thin()), GONE, 0), (sp.csr_matrix(np.where(GONE, 0, thin())), None, 0)),
}  # fmt: skip
SOLVERS = {"cd": {}, "hals": {}, "mu": {"beta_loss": 1.5}}


def incomplete(solver, missing, **more):
    settings = {"random_state": 0, "max_iter": 4, "tol": 0, "init": "random", "solver": solver, **SOLVERS[solver]}
    return NMF(K, missing_values=missing, **settings | more)


@pytest.fixture
def where(request):
    return request.getfixturevalue("client") if request.param else None


somewhere = pytest.mark.parametrize("where", [False, True], ids=["here", "there"], indirect=True)


@somewhere
@pytest.mark.filterwarnings("ignore:Nothing of X is observed")
@pytest.mark.parametrize("way", WAYS)
def test_masks_of_dask_arrays_are_those_of_memory(where, way):
    (X, mask, missing), (whole, hidden, marked) = WAYS[way]()
    solvers = (
        SOLVERS
        if way in ("bool", "stored")
        else ["hals"]
        if "unit" in way
        else ["cd", "hals", "mu"][len(way) % 3 :][:1]
    )
    for solver in solvers:
        there, here = incomplete(solver, missing), incomplete(solver, marked)
        W, expected = there.fit_transform(X, mask=mask), here.fit_transform(whole, mask=hidden)
        close = {"rtol": 1e-10, "atol": 1e-10 * expected.max()}
        assert isinstance(W, da.Array) and len(W.chunks[0]) == len(CUT)
        np.testing.assert_allclose(np.asarray(W), expected, **close)
        np.testing.assert_allclose(there.components_, here.components_, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(there.history_["loss"], here.history_["loss"], rtol=1e-10)
        assert there.reconstruction_err_ == pytest.approx(here.reconstruction_err_, rel=1e-10)
        codes = there.transform(X, mask=mask)
        assert isinstance(codes, da.Array) and codes.chunks[0] == CUT
        np.testing.assert_allclose(np.asarray(codes), here.transform(whole, mask=hidden), **close)
        assert there.score(X, mask=mask) == pytest.approx(here.score(whole, mask=hidden), rel=1e-10)
        if not sp.issparse(whole):
            filled = there.impute(X, mask)
            assert isinstance(filled, da.Array) and filled.shape == SEEN.shape
            np.testing.assert_allclose(np.asarray(filled), here.impute(whole, hidden), **close)


@pytest.mark.parametrize("init", ["nndsvdar", "auto"])
@pytest.mark.parametrize("way", ["bool", "stored"])
def test_starts_on_a_cluster_know_the_mask(client, way, init):
    (X, mask, missing), (whole, hidden, marked) = WAYS[way]()
    there, here = (incomplete("hals", value, init=init, max_iter=2) for value in (missing, marked))
    W, H, _ = non_negative_factorization(X, mask=mask, **{k: v for k, v in there.get_params().items() if v is not None})
    expected = here.fit_transform(whole, mask=hidden)
    np.testing.assert_allclose(np.asarray(W), expected, rtol=1e-8, atol=1e-8 * expected.max())
    np.testing.assert_allclose(H, here.components_, rtol=1e-8, atol=1e-8)


@pytest.mark.filterwarnings("ignore:Nothing of X is observed")
@pytest.mark.parametrize("way", ["Dask", "stored and mask"])
def test_bits_know_neither_the_workers_nor_what_is_hidden(client, workers, way):
    """Nor the worker that dies, with its masks."""
    (X, mask, missing), _ = WAYS[way]()
    expected = fitted_with(incomplete("hals", missing), X, mask)
    spoil = (lambda X: np.where(GONE, -3.0, X)) if missing is None else (lambda X: np.where(GONE & (X > 0), NAN, X))
    spoiled = cut(spoil(SEEN)) if missing is None else csr(spoil(thin()))
    assert same(fitted_with(incomplete("hals", missing), spoiled, mask), expected)
    dying = incomplete("hals", missing, callback=at(2, lambda: kill(client)))
    with using(client, copy_every=3):
        assert same(fitted_with(dying, X, mask), expected)
    del X, mask, spoiled
    assert left_on(workers) == []
    (X, mask, missing), _ = WAYS[way]()
    with other_cluster(4) as alone, using(alone):
        assert same(fitted_with(incomplete("hals", missing), X, mask), expected)


def fitted_with(estimator, X, mask):
    W = np.asarray(estimator.fit_transform(X, mask=mask))
    return W, estimator.components_, estimator.history_["loss"]


def test_a_mask_is_sent_block_by_block(client, monkeypatch):
    sent, send = [], cluster.Cluster.send

    def watched(self, value, home=None):
        if isinstance(value, list):
            sent.append((home, [mask.nbytes for mask in value]))
        return send(self, value, home)

    monkeypatch.setattr(cluster.Cluster, "send", watched)
    incomplete("cd", None, max_iter=1).fit(cut(SEEN), mask=GONE)
    assert [size for _, sizes in sent for size in sizes] == [height * COLUMNS for height in CUT]
    assert all(home is not None for home, _ in sent)


@somewhere
@pytest.mark.parametrize("stored", [False, True])
def test_rows_and_columns_of_blocks_without_anything(where, stored):
    hidden = GONE.copy()
    hidden[70:90], hidden[3], hidden[:, 7] = True, True, True  # a whole block, too
    X = csr(np.where(hidden, 0, SEEN)) if stored else cut(SEEN)
    mask, estimator = None if stored else hidden, incomplete("cd", 0 if stored else None)
    with pytest.warns(UserWarning, match="21 of 200 rows, whose codes are zero, and in 1 of 30 columns"):
        W = np.asarray(estimator.fit_transform(X, mask=mask))
    empty = np.flatnonzero(hidden.all(axis=1))
    assert np.flatnonzero(~W.any(axis=1)).tolist() == empty.tolist()
    assert np.flatnonzero(~estimator.components_.any(axis=0)).tolist() == [7]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # each block warns of its own
        codes = np.asarray(estimator.transform(X, mask=mask))
    assert np.flatnonzero(~codes.any(axis=1)).tolist() == empty.tolist()


@somewhere
def test_a_mask_that_hides_nothing_of_a_dask_array_has_the_bits_of_none(where):
    expected, none = fitted(incomplete("cd", None, max_iter=2), cut(SEEN)), np.zeros_like(GONE)
    for mask, missing in ((none, None), (cut(none), None), (None, NAN), (none[0], None)):
        assert same(fitted_with(incomplete("cd", missing, max_iter=2), cut(SEEN), mask), expected)


@pytest.mark.parametrize("way", ["bool", "stored"])
def test_a_checkpoint_knows_the_mask_of_a_dask_array(client, tmp_path, way):
    (X, mask, missing), _ = WAYS[way]()
    expected = fitted_with(incomplete("hals", missing), X, mask)
    path = tmp_path / "fit.ckpt"
    stop = {"callback": at(3, lambda: (_ for _ in ()).throw(KeyboardInterrupt)), "checkpoint": path}
    with pytest.raises(KeyboardInterrupt):
        incomplete("hals", missing, **stop).fit(X, mask=mask)
    if mask is not None:
        other, spoiled = mask.copy(), np.where(GONE, NAN, SEEN)
        other[0, :2] = other[0, 1::-1] if other[0, 0] != other[0, 1] else ~other[0, :2]
        with pytest.raises(ValueError, match=r"checkpoint .* is of another fit"):
            incomplete("hals", missing, checkpoint=path).fit(X, mask=other)
        X = cut(spoiled)
    assert same(fitted_with(incomplete("hals", missing, checkpoint=path), X, mask), expected)


def unknown(A, rows=None):
    """A without some rows, of which Dask does not know how many are left."""
    A = cut(A)
    return A[da.from_array(np.ones(len(SEEN), bool) if rows is None else rows, chunks=(CUT,))]


REFUSED = {
    "shape": (lambda: (cut(SEEN), cut(GONE)[:50]), r"mask has shape \(50, 30\): for X of shape \(200, 30\)"),
    "type": (lambda: (cut(SEEN), cut(SEEN)), "mask holds float64: give booleans"),
    "numbers": (lambda: (cut(SEEN), SEEN), "mask holds float64: give booleans"),
    "heights": (lambda: (cut(SEEN), unknown(GONE)), r"call mask\.compute_chunk_sizes\(\) first"),
    "heights of X": (lambda: (unknown(SEEN), GONE), r"call X\.compute_chunk_sizes\(\) first"),
    "columns": (lambda: (cut(SEEN), np.ones(COLUMNS, bool)), "hides every column"),
    "a file": (lambda: (cut(SEEN), "mask.npy"), "but X is a Dask array: give a mask in memory, or a Dask array"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_masks_of_dask_arrays_that_cannot_be_used(client, workers, fault, tmp_path, monkeypatch):
    np.save(tmp_path / "mask.npy", GONE)
    monkeypatch.chdir(tmp_path)
    make, said = REFUSED[fault]
    learned = incomplete("cd", None, max_iter=1).fit(SEEN)
    X, mask = make()
    for call in (incomplete("cd", None).fit, learned.transform, learned.impute, learned.score):
        with pytest.raises(ValueError, match=said):
            call(X, mask=mask)
    assert left_on(workers) == []


def test_what_masks_of_dask_arrays_do_not_go_with(client, workers, monkeypatch):
    with pytest.raises(ValueError, match="nothing of X is observed"):
        incomplete("cd", None).fit(cut(SEEN), mask=np.ones_like(GONE))
    with pytest.raises(ValueError, match="contains infinity"):
        incomplete("cd", NAN).fit(cut(np.where(GONE, np.inf, SEEN)))
    with pytest.raises(ValueError, match="for which sample_weight cannot be used"):
        incomplete("cd", None).fit(cut(SEEN), mask=GONE, sample_weight=np.ones(len(SEEN)))
    with pytest.raises(ValueError, match="MiniBatchNMF takes no mask"):
        MiniBatchNMF(K).fit(cut(SEEN), mask=GONE)
    with pytest.raises(ValueError, match="impute takes a dense X"):
        incomplete("cd", None).fit(SEEN).impute(csr(SEEN))
    undeclared = cut(SEEN).map_blocks(lambda block: np.ma.masked_less(block, 0.1), dtype=SEEN.dtype, meta=SEEN[:0])
    with pytest.raises(ValueError, match="of the Dask array X is a masked array, and not declared as one"):
        incomplete("cd", None).fit(undeclared)
    odd = cut(GONE).map_blocks(lambda block: block[1:], dtype=bool, chunks=cut(GONE).chunks)
    with pytest.raises(ValueError, match=r"of the Dask array mask 0 .* dense array of shape .*, bool, but it is"):
        incomplete("cd", None).fit(cut(SEEN), mask=odd)
    monkeypatch.setattr("nmfcore.estimators._missing.SUMS_BYTES", 1000)
    with pytest.raises(ValueError, match=r"numbers in each task, 0\.0 GB for 30 columns and 4 "):
        incomplete("cd", 0).fit(csr(thin()))
    incomplete("mu", 0, max_iter=1).fit(csr(thin()))
    assert left_on(workers) == []


def test_codes_of_blocks_of_unknown_height(client):
    learned = incomplete("cd", NAN, max_iter=3).fit(SEEN)
    X = np.where(GONE, NAN, SEEN)
    kept = np.arange(len(X)) % 3 > 0
    assert np.array_equal(learned.transform(unknown(X, kept)).compute(), learned.transform(X[kept]))


def test_undeclared_masked_arrays_are_told_without_a_cluster():
    undeclared = cut(SEEN).map_blocks(lambda block: np.ma.masked_less(block, 0.1), dtype=SEEN.dtype, meta=SEEN[:0])
    with pytest.raises(ValueError, match="Blocks of the Dask array X are masked arrays, and not declared as such"):
        incomplete("cd", None).fit(undeclared)


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_no_more_than_two_states_stay_on_the_workers(client, workers, monkeypatch):
    """Not even where every wait times out, and the garbage collector does not come."""
    monkeypatch.setattr(cluster, "POLL", 1e-3)
    states = []

    def look(progress):
        states.append(sum("each_block" in str(key) for key in workers.scheduler.tasks))

    gc.collect()
    gc.disable()
    try:
        with using(client, copy_every=100):
            model("cd", max_iter=10, callback=look).fit(in_chunks())
    finally:
        gc.enable()
    groups = states[0]
    assert 0 < max(states) <= 3 * groups, states  # the state, the next one, and one that is on its way out


def test_memory_of_states_that_are_gone_is_used_again():
    buffers, like = tasks.Buffers(), np.zeros((30, 4), np.float32)
    first, second = buffers.empty_like(like), buffers.empty_like(like)
    assert first.shape == like.shape and first.dtype == like.dtype and first.flags.writeable
    assert not np.shares_memory(first, second)
    place, part = first.ctypes.data, first[3:5]
    part[:] = 7
    del first
    assert buffers.idle == 0  # a part of it is still looked at
    third = buffers.empty_like(like)
    assert third.ctypes.data != place and (part == 7).all()
    del part
    assert buffers.idle == like.nbytes
    assert buffers.empty_like(like[:7]).nbytes == 7 * 16  # of another size: not that one
    assert buffers.empty_like(like.astype(np.int32)).ctypes.data == place
    del second, third
    assert buffers.idle <= buffers.leased == 0 and buffers.free == []


# ---- blocks on a GPU -------------------------------------------------------------------------------------------------


def on_cards(cupy, X=X, height=150):
    """X as a Dask array whose blocks are CuPy's."""
    blocks = [dask.delayed(cupy.asarray)(X[lo : lo + height]) for lo in range(0, len(X), height)]
    meta = cupy.empty((0, 0), X.dtype)
    return da.concatenate([da.from_delayed(block, (height, X.shape[1]), X.dtype, meta=meta) for block in blocks])


@pytest.mark.parametrize("case", CASES)
def test_blocks_on_a_gpu_are_computed_there(cupy, tmp_path, case):
    """On a worker in this process: a stand-in for CuPy is no other's."""
    path = tmp_path / "fit.ckpt"

    def stop(progress):
        if progress.iteration >= 5:
            raise KeyboardInterrupt

    with other_cluster():
        cards, there, here = on_cards(cupy), model(case), model(case)
        W = there.fit_transform(cards)
        assert all(type(W.blocks[i].compute()) is cupy.ndarray for i in range(4))
        assert type(there.components_) is np.ndarray  # the small factor lives here
        codes = there.transform(cards)
        assert type(codes.blocks[1].compute()) is cupy.ndarray
        expected = here.fit_transform(in_chunks(heights=(150,) * 4))
        scale = expected.compute().max()
        np.testing.assert_allclose(cupy.asnumpy(W.compute()), expected.compute(), rtol=1e-2, atol=1e-3 * scale)
        np.testing.assert_allclose(there.reconstruction_err_, here.reconstruction_err_, rtol=1e-4)
        with pytest.raises(KeyboardInterrupt):
            model(case, callback=stop, checkpoint=path).fit(cards)
        on = model(case, checkpoint=path).fit(cards)  # rows of the file are sent to where the blocks are
        np.testing.assert_allclose(on.components_, there.components_, rtol=1e-4, atol=1e-6)


# ---- what goes wrong in X --------------------------------------------------------------------------------------------


def spoiled(value):
    bad = X.copy()
    bad[300, 7] = value
    return in_chunks(bad)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (lambda: spoiled(np.nan), ValueError, "contains NaN"),
        (lambda: spoiled(np.inf), ValueError, "infinity"),
        (lambda: spoiled(-1), ValueError, "Negative values"),
        (lambda: in_chunks()[in_chunks()[:, 0] > 0.1], ValueError, r"compute_chunk_sizes\(\)"),
        (lambda: in_chunks()[:, 0], ValueError, "two, a sample a row"),
        (lambda: in_chunks().map_blocks(lambda block: 1 / 0, dtype=np.float32, meta=X[:0]), ZeroDivisionError, "zero"),
    ],
)
def test_bad_x_is_told_in_one_sentence(client, workers, given, error, said):
    with pytest.raises(error, match=said):
        model().fit(given())
    with pytest.raises(ValueError, match="copy_every = 0"), using(copy_every=0):
        pass
    assert left_on(workers) == []


ODD = {
    "a row more": (lambda block: np.vstack([block, block[:1]]), r"of shape \(121, 30\)"),
    "a row less": (lambda block: block[1:], r"of shape \(119, 30\)"),
    "all rows twice": (lambda block: np.vstack([block, block]), r"of shape \(240, 30\)"),
    "a column more": (lambda block: np.hstack([block, block[:, :1]]), r"of shape \(120, 31\)"),
    "a column less": (lambda block: block[:, 1:], r"of shape \(120, 29\)"),
    "turned": (lambda block: block.T, r"of shape \(30, 120\)"),
    "one dimension": (lambda block: block[:, 0], r"of shape \(120,\)"),
    "three dimensions": (lambda block: block[:, :, None], r"of shape \(120, 30, 1\)"),
    "another type": (lambda block: block.astype(np.float64), r"of shape \(120, 30\), float64"),
    "sparse": (sp.csr_matrix, r"a sparse matrix of shape \(120, 30\)"),
    "no array": (lambda block: block.tolist(), r"of shape \(\), list"),
}


@pytest.mark.parametrize("case", ["cd", "hals", "mu", "kl"])
@pytest.mark.parametrize("odd", ODD)
def test_a_block_that_is_not_what_it_is_declared_to_be(client, case, odd):
    """Kernels read memory by the declared shape: each of these read, and wrote, beyond their blocks."""
    change, is_ = ODD[odd]
    lows = np.cumsum([0, *HEIGHTS])
    blocks = [dask.delayed(change if number == 1 else np.array)(X[lo:hi])
              for number, (lo, hi) in enumerate(itertools.pairwise(lows))]  # fmt: skip
    parts = [da.from_delayed(block, (height, COLUMNS), X.dtype) for block, height in zip(blocks, HEIGHTS, strict=True)]
    said = rf"Block 1 .*\(rows 90 … 209\) is declared as a dense array of shape \(120, 30\), float32, but it is .*{is_}"
    with pytest.raises(ValueError, match=said):
        model(case).fit(da.concatenate(parts))
    sparse = [dask.delayed(np.array if number == 1 else sp.csr_matrix)(X[lo:hi])
              for number, (lo, hi) in enumerate(itertools.pairwise(lows))]  # fmt: skip
    parts = [da.from_delayed(block, (height, COLUMNS), X.dtype, meta=sp.csr_matrix(X[:0]))
             for block, height in zip(sparse, HEIGHTS, strict=True)]  # fmt: skip
    if odd == "sparse":
        with pytest.raises(ValueError, match=r"Block 1 .* a sparse matrix .*, but it is a dense array"):
            model(case).fit(da.concatenate(parts))


def test_blocks_of_another_shape_without_a_cluster():
    twice = in_chunks().map_blocks(lambda block: np.vstack([block, block]), dtype=X.dtype, chunks=in_chunks().chunks)
    with pytest.raises(ValueError, match=r"have shape \(1200, 30\) together, but it is declared as \(600, 30\)"):
        model("cd").fit(twice)


class OnlyHere:
    """What the workers cannot make sense of."""

    def __init__(self, there):
        self.there = there

    def __reduce__(self):
        return getattr, (tasks, "this_is_not_in_the_workers_nmfcore") if self.there else (threading.Lock(),)


@pytest.mark.parametrize("there", [False, True])
def test_orders_that_the_workers_cannot_take_are_told_in_one_sentence(client, workers, monkeypatch, there):
    send = cluster.Cluster.send

    def worse(self, value, home=None):
        if isinstance(value, tasks.Order) and value.function is tasks.each_block:
            value = value._replace(arguments=(*value.arguments, OnlyHere(there)))
        return send(self, value, home)

    monkeypatch.setattr(cluster.Cluster, "send", worse)
    with pytest.raises(RuntimeError, match=r"cannot take what a pass sends them \(.*\): they need the nmfcore"):
        model().fit(in_chunks())
    monkeypatch.undo()
    assert left_on(workers) == []
    assert model().fit(in_chunks()).n_iter_ > 0  # the cluster is as good as before


def test_orders_that_never_arrive_end_a_fit(client, workers, monkeypatch):
    """Workers that are there, and whose connections fail for ever."""

    def closed(*_, **__):
        raise OSError("the connection was closed")

    monkeypatch.setattr(cluster, "FETCH", 1.0)
    monkeypatch.setattr(client, "scatter", closed)
    with pytest.raises(RuntimeError, match=r"cannot take .* \(the connection was closed\)"):
        model().fit(in_chunks())
    monkeypatch.undo()
    assert left_on(workers) == []


# ---- what goes wrong on the cluster ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(workers):
    with dd.Client(workers) as client:
        complete(client, workers)
        return fitted(model(), in_chunks())


def at(passes, act):
    """Return a callback that acts once, after so many passes."""
    done = []

    def callback(progress):
        if progress.iteration >= passes and not done:
            done.append(act())

    return callback


@pytest.mark.parametrize("passes", [1, 5, 8])  # before the first copies, with them, and with others since
def test_a_killed_worker_changes_nothing(client, undisturbed, passes):
    homes = []

    def act():
        homes.append(kill(client, passes % 3))

    with using(client, copy_every=3):
        assert same(fitted(model(callback=at(passes, act)), in_chunks()), undisturbed)
    assert homes and homes[0] not in pids(client)


def test_a_worker_killed_in_the_start_changes_nothing(client, monkeypatch):
    expected = fitted(model("penalised"), in_chunks())
    counted, really = itertools.count(), cluster.Cluster.make

    def make(self, node, parents):
        if next(counted) in (4, 9):  # within the power steps of the SVD
            kill(client, 1)
        return really(self, node, parents)

    monkeypatch.setattr(cluster.Cluster, "make", make)
    assert same(fitted(model("penalised"), in_chunks()), expected)


def test_a_fit_whose_copies_are_all_gone_says_so(client, workers):
    def act():
        time.sleep(1)  # copies have arrived
        for pid in pids(client).values():
            os.kill(pid, signal.SIGKILL)

    # of W; or of X, where a scheduler that loses all workers at once has forgotten how to load it
    said = r"(after pass \d+ is gone|cannot load them again), and there is no checkpoint"
    with using(client, copy_every=2), pytest.raises(RuntimeError, match=said):
        model(callback=at(6, act)).fit(in_chunks())
    assert left_on(workers) == []


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_is_gone_on_from(client, workers, tmp_path, case):
    class Stop(Exception):
        pass

    def stop():
        raise Stop

    path = tmp_path / "fit.ckpt"
    expected = fitted(model(case), in_chunks())
    for passes in (3, 7):
        with pytest.raises(Stop):
            model(case, callback=at(passes, stop), checkpoint=path).fit(in_chunks())
        assert path.exists()
    with pytest.raises(ValueError, match="row chunks"):
        model(case, checkpoint=path).fit(in_chunks(heights=(300, 300)))
    with pytest.raises(ValueError, match="blocks of X"):
        model(case, checkpoint=path).fit(X)
    assert same(fitted(model(case, checkpoint=path), in_chunks()), expected)
    assert not path.exists()
    assert left_on(workers) == []


def test_what_is_lost_is_in_the_checkpoint(client, workers, tmp_path, undisturbed):
    def act():
        time.sleep(1)
        for pid in pids(client).values():
            os.kill(pid, signal.SIGKILL)

    path = tmp_path / "fit.ckpt"
    said = r"(after pass \d+ is gone|cannot load them again), and the last checkpoint, '.*fit.ckpt', is of pass [56]: "
    with using(client, copy_every=2), pytest.raises(RuntimeError, match=said):
        model(callback=at(6, act), checkpoint=path, checkpoint_every=0).fit(in_chunks())
    complete(client, workers)
    # a worker that dies while rows of the file are on their way to it has them sent once more
    again = model(checkpoint=path, callback=at(6, lambda: kill(client)))
    assert same(fitted(again, in_chunks()), undisturbed)
    assert list(tmp_path.iterdir()) == [] and left_on(workers) == []


def test_a_lost_w_is_an_error_and_no_wait(client, workers):
    W = model().fit_transform(in_chunks())
    complete(client, workers)
    for pid in pids(client).values():
        os.kill(pid, signal.SIGKILL)
    time.sleep(1)
    with pytest.raises(Exception, match=r"(?i)cancel|lost"):
        W.compute()


def test_a_worker_that_joins_changes_nothing(client, workers, undisturbed):
    assert same(fitted(model(callback=at(3, lambda: workers.scale(4))), in_chunks()), undisturbed)
    workers.scale(3)


def test_a_slow_worker_changes_nothing(client, undisturbed):
    def act():
        _, pid = sorted(pids(client).items())[0]
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(1.5, os.kill, (pid, signal.SIGCONT)).start()

    assert same(fitted(model(callback=at(4, act)), in_chunks()), undisturbed)


def test_an_interrupted_fit_keeps_its_factors_and_leaves_nothing(client, workers):
    seen = []

    def interrupt(progress):
        seen.append(progress.factors()[1])
        if progress.iteration == 4:
            raise KeyboardInterrupt

    estimator = model(callback=interrupt)
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(in_chunks())
    assert estimator.n_iter_ == 4 and np.array_equal(estimator.components_, seen[-1])
    assert left_on(workers) == []


def test_ctrl_c_while_waiting_for_the_workers(client, workers):
    pid = sorted(pids(client).items())[0][1]

    def act():
        os.kill(pid, signal.SIGSTOP)  # the next pass does not end
        threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()
        threading.Timer(1.2, os.kill, (pid, signal.SIGCONT)).start()

    estimator = model(callback=at(3, act))
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(in_chunks())
    assert estimator.n_iter_ == 3 and estimator.components_.shape == (K, COLUMNS)
    assert left_on(workers) == []


def test_factors_are_to_be_had_while_the_fit_runs(client):
    kept = []
    model(max_iter=3, callback=kept.append).fit(in_chunks())
    with pytest.raises(RuntimeError, match="within the callback"):
        kept[0].factors()


def test_a_scheduler_that_is_gone_is_told_in_one_sentence(quiet):
    with other_cluster() as alone:
        gone = model(callback=at(3, lambda: alone.cluster.close()))
        with pytest.raises(RuntimeError, match=r"scheduler at .* does not answer"):
            gone.fit(in_chunks())
    assert gone.n_iter_ == 3 and gone.components_.shape == (K, COLUMNS)


# ---- what travels ----------------------------------------------------------------------------------------------------


def test_messages_depend_on_blocks_and_the_past_is_forgotten(client, workers, monkeypatch):
    submitted, known = [], []
    really = cluster.Cluster.submit
    monkeypatch.setattr(
        cluster.Cluster, "submit", lambda self, what, *a, **o: submitted.append(what) or really(self, what, *a, **o)
    )

    def passes(rows, heights):
        def look(progress):
            known.append(len(workers.scheduler.tasks))

        submitted.clear()
        known.clear()
        with using(client, copy_every=4):
            model("cd", init="random", max_iter=40, callback=look).fit(
                in_chunks(made(np.random.default_rng(5), rows), heights)
            )
        return len(submitted)

    assert passes(600, (200,) * 3) == passes(2400, (800,) * 3) < passes(600, (100,) * 6)
    assert max(known[-12:]) <= max(known[12:24]) + 3  # copies come and go


def test_tasks_are_pure(rng):
    rows = as_rows(X, np.float32)
    solver = model()._solver(model()._penalties(X.shape), 2)
    W, Ht = rng.random((ROWS, K)).astype(np.float32), rng.random((COLUMNS, K)).astype(np.float32)
    orders = solver.fix(solver.start(rows, Ht))
    state = {"W": W, "before": W + 1}
    keywords = {"width": K, "sums": solver.sums, "out": None, "gather": None, "gathered": ()}
    order = tasks.Order(tasks.each_block, (None, solver.visit, orders, keywords), (None, None), (np.float32, 1))
    group = ([tasks.Block(X)], None), ([state], None)
    kept = {name: a.copy() for name, a in state.items()}
    (one, sums), (other, again) = (tasks.visit_group(order, (ROWS,), None, *group) for _ in range(2))
    assert all(np.array_equal(state[name], kept[name]) for name in kept)
    assert all(np.array_equal(one[0][name], other[0][name]) for name in one[0])
    assert all(np.array_equal(sums[name], again[name]) for name in sums)


@pytest.mark.parametrize("blocks", [1, 2, 5, 7, 16, 23])
def test_the_tree_knows_nothing_of_workers(rng, blocks):
    parts = [{"sum": rng.random(3) * 10.0 ** rng.integers(-8, 8, 3)} for _ in range(blocks)]
    size = 1 << (blocks - 1).bit_length()
    expected = tasks.sum_of_groups(0, *((None, part) for part in parts))["sum"]
    for _ in range(20):
        homes = list(rng.integers(0, 3, blocks))
        places = cluster._branches(homes, 0, size)
        at_home = [tasks.sum_of_groups(a, *((None, part) for part in parts[a : a + n])) for a, n in places]
        assert np.array_equal(tasks.sum_of_sums(places, *at_home)["sum"], expected)
