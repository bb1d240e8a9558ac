"""Threads, processes, and what a fit leaves behind: BLAS limits, the pool after a fork, Ctrl-C."""

import _thread
import multiprocessing
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time

import joblib
import numpy as np
import pytest
from scipy import sparse
from threadpoolctl import threadpool_info, threadpool_limits

from nmfcore import NMF, MiniBatchNMF
from nmfcore.backends.kernels.arguments import in_strips
from nmfcore.rows.memory import as_rows

# Large enough for several lanes, see test_data_is_cut_into_lanes.
ROWS, FEATURES, K = 12000, 200, 32


def large(seed=0, rows=ROWS):
    return np.random.RandomState(seed).rand(rows, FEATURES)


def model(solver="cd", max_iter=5, **parameters):
    parameters = {"init": "random", "random_state": 0, "tol": 0, **parameters}
    return NMF(K, solver=solver, max_iter=max_iter, **parameters)


def fit_bits(seed=0, solver="cd", n_jobs=None):
    """Bits of a fit; at module level for worker processes."""
    estimator = model(solver, n_jobs=n_jobs)
    W = estimator.fit_transform(large(seed))
    return W.tobytes(), np.ascontiguousarray(estimator.components_).tobytes()


def pools():
    """Every thread pool and its size."""
    return sorted((one["filepath"], one["num_threads"]) for one in threadpool_info())


def blas():
    """The sizes of the BLAS pools only."""
    return sorted(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")


class Stop(Exception):
    pass


def test_data_is_cut_into_lanes():
    """Or nothing below would run in a pool."""
    assert len(as_rows(large(), "float64").plan(K).lanes) >= 2


# --- concurrent fits ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
def test_wide_data_read_in_strips_give_the_same_bits_on_any_number_of_threads(solver, dtype, tmp_path):
    """Or from a memory map; k ends in half a vector where vectors are long."""
    n, m, k = 1100, 1701, 116
    X = np.random.RandomState(0).randint(0, 256, (n, m)).astype(np.uint8)
    assert in_strips(m, k) and len(as_rows(X, dtype).plan(k).lanes) >= 2
    np.save(tmp_path / "X.npy", X)
    parameters = {"init": "random", "random_state": 0, "tol": 0, "max_iter": 3, "solver": solver, "dtype": dtype}
    found = []
    for n_jobs, data in ((1, X), (2, X), (3, X), (2, np.load(tmp_path / "X.npy", mmap_mode="r"))):
        estimator = NMF(k, n_jobs=n_jobs, **parameters)
        found.append((estimator.fit_transform(data), estimator.components_))
    for W, H in found[1:]:
        assert np.array_equal(W, found[0][0])
        assert np.array_equal(H, found[0][1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver, beta", [("cd", 2), ("hals", 2), ("mu", 1)])
@pytest.mark.parametrize("n, m, gathers", [(3000, 3000, True), (20000, 400, False)])
def test_sparse_data_give_the_same_bits_on_any_number_of_threads(n, m, gathers, solver, beta, dtype):
    X = sparse.csr_matrix(sparse.random(n, m, 0.05, format="csr", random_state=0).astype(dtype))
    plan = as_rows(X, dtype).plan(10)
    assert len(plan.lanes) >= 2
    assert plan.gathers == gathers
    parameters = {"init": "random", "random_state": 0, "tol": 0, "max_iter": 3, "solver": solver, "beta_loss": beta}
    found = []
    for n_jobs in (1, 2, 3):
        estimator = NMF(10, n_jobs=n_jobs, **parameters)
        found.append((estimator.fit_transform(X), estimator.components_))
    for W, H in found[1:]:
        assert np.array_equal(W, found[0][0])
        assert np.array_equal(H, found[0][1])


@pytest.mark.parametrize("solvers", [("cd", "cd"), ("cd", "mu")])
def test_concurrent_fits_give_the_bits_of_sequential_ones(solvers):
    expected = [fit_bits(seed, solver) for seed, solver in enumerate(solvers)]
    found, errors = {}, []
    barrier = threading.Barrier(2)

    def work(seed, solver):
        try:
            barrier.wait(timeout=30)
            found[seed] = fit_bits(seed, solver)
        except BaseException as error:
            errors.append(error)

    before = pools()
    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(solvers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive()
    assert not errors
    assert [found[0], found[1]] == expected
    assert pools() == before


def test_a_third_threads_blas_keeps_its_threads():
    """While two fits run, a bystander's BLAS is as wide as before."""
    with threadpool_limits(2, user_api="blas"):
        before = blas()
        X = large()
        stop = threading.Event()
        iterations = [0, 0]
        errors = []

        def work(i):
            def callback(report):
                iterations[i] += 1
                return stop.is_set()

            try:
                model(("cd", "mu")[i], max_iter=10**6, callback=callback).fit(X)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        seen = []
        deadline = time.monotonic() + 60
        while (min(iterations) < 8 or len(seen) < 20) and time.monotonic() < deadline:
            seen.append(blas())
            np.ones((64, 64)) @ np.ones((64, 64))
            time.sleep(0.005)
        stop.set()
        for thread in threads:
            thread.join(timeout=60)
            assert not thread.is_alive()
        assert not errors
        assert min(iterations) >= 8
        assert all(one == before for one in seen), seen
        assert blas() == before


# --- what a fit leaves behind -------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [None, 1, 2])
@pytest.mark.parametrize("init", ["random", "nndsvd"])
def test_pools_are_as_before_after_a_fit(init, n_jobs):
    X = large()
    before = pools()
    estimator = model(init=init, n_jobs=n_jobs, max_iter=2).fit(X)
    assert pools() == before
    estimator.transform(X)
    assert pools() == before
    MiniBatchNMF(K, random_state=0, max_iter=1, tol=0, n_jobs=n_jobs).fit(X[:3000])
    assert pools() == before


@pytest.mark.parametrize("error", [Stop(), KeyboardInterrupt(), SystemExit(3)])
def test_pools_are_as_before_after_an_exception(error):
    def callback(report):
        if report.iteration == 2:
            raise error

    X = large()
    before = pools()
    with pytest.raises(type(error)):
        model(n_jobs=2, callback=callback).fit(X)
    assert pools() == before
    assert fit_bits(n_jobs=2) == fit_bits(n_jobs=1)


def test_pools_are_as_before_after_bad_input():
    X = large()
    X[-1, -1] = np.nan
    before = pools()
    with pytest.raises(ValueError, match="NaN"):
        model(n_jobs=2).fit(X)
    assert pools() == before


def test_limits_of_the_caller_survive():
    with threadpool_limits(1):
        before = pools()
        model(max_iter=2).fit(large())
        assert pools() == before


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_ctrl_c(n_jobs):
    """An interrupt from outside, somewhere in a pass: the last accepted factors stay."""
    X = large()
    sent = threading.Event()

    def callback(report):
        if report.iteration == 3 and not sent.is_set():
            sent.set()
            threading.Timer(0.02, _thread.interrupt_main).start()

    before = pools()
    estimator = model(max_iter=10**6, max_time=60, n_jobs=n_jobs, callback=callback)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(X)
    assert time.monotonic() - started < 30
    assert pools() == before
    assert estimator.converged_ is False
    assert estimator.n_iter_ >= 3
    assert len(estimator.history_["loss"]) == estimator.n_iter_
    same = model(max_iter=estimator.n_iter_, n_jobs=1).fit(X)
    np.testing.assert_array_equal(same.components_, estimator.components_)


# --- forks and workers --------------------------------------------------------------------------


def in_forked_child(function, timeout=60):
    """What `function` returns in a child made by os.fork."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            with os.fdopen(writer, "wb") as pipe:
                pickle.dump(function(), pipe)
            os._exit(0)
        except BaseException:
            os._exit(1)
    os.close(writer)
    chunks = []
    deadline = time.monotonic() + timeout
    try:
        while True:
            ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                os.kill(child, signal.SIGKILL)
                pytest.fail(f"the forked child did not finish in {timeout} s")
            chunk = os.read(reader, 1 << 20)
            if not chunk:
                break
            chunks.append(chunk)
    finally:
        os.close(reader)
        _, status = os.waitpid(child, 0)
    assert status == 0
    return pickle.loads(b"".join(chunks))


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@needs_fork
def test_fit_in_a_forked_child():
    """The parent's pool was in use before; its threads do not exist in the child."""
    expected = fit_bits(n_jobs=2)
    assert in_forked_child(lambda: fit_bits(n_jobs=2)) == expected
    assert in_forked_child(lambda: fit_bits()) == expected
    # The child has threads of its own again, not a pool that looks alive.
    assert in_forked_child(lambda: (fit_bits(n_jobs=2), threading.active_count())[1]) > 1
    # and the parent's pool still works
    assert fit_bits(n_jobs=2) == expected


@needs_fork
def test_fork_while_a_fit_is_running():
    """A child forked from a callback, in the middle of the parent's fit, fits as well."""
    expected = fit_bits(n_jobs=2)
    found = []

    def callback(report):
        if report.iteration == 2:
            found.append(in_forked_child(lambda: fit_bits(n_jobs=2)))

    estimator = model(n_jobs=2, callback=callback)
    W = estimator.fit_transform(large())
    assert found == [expected]
    assert W.tobytes() == expected[0]


@needs_fork
def test_fits_in_multiprocessing_fork():
    expected = fit_bits(n_jobs=2)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.starmap_async(fit_bits, [(0, "cd", 2), (0, "cd", None)]).get(timeout=90)
    assert found == [expected, expected]


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_fits_inside_joblib_workers(backend):
    expected = [fit_bits(seed) for seed in range(2)]
    before = pools()
    with joblib.parallel_config(backend, n_jobs=2):
        found = joblib.Parallel(timeout=120)(
            joblib.delayed(fit_bits)(seed, "cd", n_jobs) for seed in range(2) for n_jobs in (None, 2)
        )
    assert found == [expected[0], expected[0], expected[1], expected[1]]
    assert pools() == before


# --- how many threads a fit takes ---------------------------------------------------------------

# A fit that says how busy it kept the processor: the ratio of processor to wall-clock seconds
# cannot exceed the number of threads at work, however loaded the machine is.
PROBE = """
import contextlib, os, time
import joblib, threadpoolctl
import numpy as np
from nmfcore import NMF

def thread_seconds():
    found = {}
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
        except FileNotFoundError:
            continue
        found[task] = int(fields[11]) + int(fields[12])
    return found

def probe(n_jobs=None):
    X = np.random.RandomState(0).rand(30000, 200)
    marks = []
    def callback(report):
        marks.append((time.perf_counter(), time.process_time(), thread_seconds()))
        return len(marks) > 3 and marks[-1][0] - marks[0][0] > 0.4
    NMF(32, init="random", tol=0, max_iter=10**6, random_state=0, n_jobs=n_jobs,
        callback=callback).fit(X)
    (wall, cpu, before), (wall_end, cpu_end, after) = marks[0], marks[-1]
    ticks = [after[task] - before.get(task, 0) for task in after]
    busy = sum(one > 0.15 * sum(ticks) for one in ticks)
    return (cpu_end - cpu) / (wall_end - wall), busy
"""


def probe(*calls, **environment):
    """[(processor seconds per second, busy threads)] of fits in a process of its own."""
    clean = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    clean.update(environment)
    # joblib counts the processors at hand; say two, whatever this machine has.
    clean["LOKY_MAX_CPU_COUNT"] = "2"
    shown = "".join(f"\nwith {context}:\n    print('probe', *probe({n}))" for context, n in calls)
    done = subprocess.run(
        [sys.executable, "-c", PROBE + shown],
        env=clean,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("probe")]
    assert len(lines) == len(calls)
    return [(float(ratio), int(busy)) for _, ratio, busy in lines]


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc/self/task")
two_cores = pytest.mark.skipif(joblib.cpu_count() < 2, reason="needs two processors")
PLAIN = "contextlib.nullcontext()"
JOBLIB = "joblib.parallel_config(n_jobs=1)"
LIMITS = "threadpoolctl.threadpool_limits(1)"


@needs_proc
@two_cores
def test_several_threads_are_at_work():
    """By default, where asked for, and where the estimator's n_jobs outranks the surroundings."""
    calls = [(PLAIN, ""), (PLAIN, "2"), (PLAIN, "-1"), (LIMITS, "2"), (JOBLIB, "2")]
    assert [busy for _, busy in probe(*calls)] == [2] * len(calls)


@needs_proc
def test_one_thread_where_one_was_asked_for():
    found = probe((PLAIN, "1"), (LIMITS, ""), (JOBLIB, ""))
    assert all(ratio <= 1.25 and busy == 1 for ratio, busy in found), found


@needs_proc
@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "NUMBA_NUM_THREADS"])
def test_one_thread_where_the_environment_asks_for_one(name):
    ((ratio, busy),) = probe((PLAIN, ""), **{name: "1"})
    assert ratio <= 1.25
    assert busy == 1
