"""What can go wrong at the edges of a fit: nothing is lost, nothing is done in vain, nothing is kept for ever."""

import errno
import gc
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import weakref

import numpy as np
import pytest
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from nmfcore import NMF, MiniBatchNMF, RowBlocks, non_negative_factorization
from nmfcore.estimators import minibatch_nmf, nmf
from nmfcore.images import InputError, cached_images
from nmfcore.loop import session, solve
from nmfcore.loop.stopping import RULES
from nmfcore.rows import disk, sums, threads
from nmfcore.rows import memory as data
from nmfcore.search import SearchEngine
from nmfcore.solvers import SOLVERS
from nmfcore.starts import samples as warm_start

X = np.random.default_rng(7).random((90, 24)) + 0.5


def model(**settings):
    return NMF(**{"n_components": 4, "init": "random", "random_state": 0, "max_iter": 12, "tol": 0, **settings})


class Stop(Exception):
    pass


def stopping(at, error=Stop):
    def callback(progress):
        if progress.iteration >= at:
            raise error

    return callback


def interrupt(*_, **__):
    raise KeyboardInterrupt


# --- nothing is removed before the result is safe -------------------------------------------------------------------


@pytest.fixture
def begun(tmp_path):
    """The checkpoint of a fit that was interrupted."""
    path = tmp_path / "fit.npz"
    with pytest.raises(Stop):
        model(checkpoint=path, callback=stopping(5)).fit(X)
    assert path.exists()
    return path


def test_out_that_fails_at_the_end_leaves_the_checkpoint(begun, tmp_path, monkeypatch):
    expected = model().fit_transform(X)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "write_array", full)
        with pytest.raises(OSError, match="No space left"):
            model(checkpoint=begun, checkpoint_every=1000).fit_transform(X, out=tmp_path / "w.npy")
    assert begun.exists()
    W = model(checkpoint=begun).fit_transform(X, out=tmp_path / "w.npy")
    np.testing.assert_array_equal(W, expected)
    assert not begun.exists()


def test_a_warning_that_is_an_error_leaves_the_checkpoint(tmp_path):
    path = tmp_path / "fit.npz"
    with pytest.raises(Stop):
        model(tol=1e-12, checkpoint=path, callback=stopping(5)).fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        for function in (
            lambda: model(tol=1e-12, checkpoint=path).fit(X),
            lambda: non_negative_factorization(X, **{**model(tol=1e-12, checkpoint=path).get_params()}),
        ):
            with pytest.raises(ConvergenceWarning, match="Maximum number"):
                function()
            assert path.exists()


@pytest.mark.parametrize("ends", ["in the middle", "at max_iter", "after an exception"])
def test_a_checkpoint_that_cannot_be_written_loses_no_factors(ends, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    settings = {"checkpoint_every": 0} if ends == "in the middle" else {}
    if ends == "after an exception":
        settings = {"callback": stopping(4)}
    estimator = model(tol=1e-12, checkpoint=tmp_path / "c", **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Stop if "callback" in settings else UserWarning):
            estimator.fit(X)
    passes = {"in the middle": 1, "at max_iter": 12, "after an exception": 4}[ends]
    assert estimator.n_iter_ == passes == len(estimator.history_["loss"])
    np.testing.assert_array_equal(estimator.components_, model(max_iter=passes).fit(X).components_)


@pytest.mark.parametrize("solver", SOLVERS)
def test_ctrl_c_in_the_last_measuring_pass_keeps_the_factors(solver, tmp_path, monkeypatch):
    path, whole = tmp_path / "fit.npz", model(solver=solver).fit(X)
    with monkeypatch.context() as patch:
        patch.setattr(solve, "measured", interrupt)
        estimator = model(solver=solver, checkpoint=path)
        with pytest.raises(KeyboardInterrupt):
            estimator.fit(X)
    assert estimator.stop_reason_ == "interrupted" and estimator.n_iter_ == 12 and path.exists()
    np.testing.assert_array_equal(estimator.components_, whole.components_)
    assert estimator.reconstruction_err_ == pytest.approx(whole.reconstruction_err_, rel=1e-5)
    np.testing.assert_array_equal(model(solver=solver, checkpoint=path).fit(X).components_, whole.components_)


@pytest.mark.parametrize("solver", ["mu", "hals"])
@pytest.mark.parametrize("where", ["divergence", "factorize", "_code"])
def test_ctrl_c_in_the_last_passes_of_batches_keeps_the_components(solver, where, monkeypatch):
    settings = {"solver": solver, "random_state": 0, "batch_size": 30, "max_iter": 2, "tol": 0, "fresh_restarts": True}
    expected = MiniBatchNMF(3, **settings).fit(X).components_
    estimator = MiniBatchNMF(3, **settings)
    monkeypatch.setattr(MiniBatchNMF if where == "_code" else minibatch_nmf, where, interrupt)
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(X)
    np.testing.assert_array_equal(estimator.components_, expected)
    assert len(estimator.history_["loss"]) == estimator.n_steps_ == 6


def test_ctrl_c_inside_the_last_pass_over_all_rows_is_not_swallowed(monkeypatch):
    for rule in RULES.values():  # of the pass over all rows; batches have others
        monkeypatch.setattr(rule, "before", interrupt)
    estimator = MiniBatchNMF(3, solver="mu", random_state=0, max_iter=1)
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(X)
    assert estimator.components_.shape == (3, 24)


# --- a pass is committed at once ------------------------------------------------------------------------------------


class Interrupting:
    """A list's elements come from a report that is interrupted when its `name` is read for the nth time."""

    def __init__(self, report, name):
        vars(self).update(report=report, name=name)

    def __getattr__(self, name):
        if name == self.name:
            raise KeyboardInterrupt
        return getattr(self.report, name)

    def __setattr__(self, name, value):
        setattr(self.report, name, value)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["loss", "violation", "kkt", "unfinished", "accepted", "error", "clock"])
def test_history_and_factors_are_of_one_pass_after_ctrl_c_anywhere(solver, name, monkeypatch):
    passes = 5
    changed, made = SOLVERS[solver].update_columns, []

    def update_columns(self, *arguments):
        report, small = changed(self, *arguments)
        made.append(small)
        if len(made) == passes:
            report = Interrupting(report, name)
            if name == "clock":
                monkeypatch.setattr(session.time, "perf_counter", interrupt)
        return report, small

    monkeypatch.setattr(SOLVERS[solver], "update_columns", update_columns)
    estimator = model(solver=solver, max_iter=50)
    try:
        estimator.fit(X)
    except KeyboardInterrupt:
        monkeypatch.undo()
        lengths = {len(values) for values in estimator.history_.values()}
        assert len(lengths) == 1, estimator.history_
        (length,) = lengths
        assert estimator.n_iter_ == length in (passes - 1, passes)
        if estimator.history_["accepted"].all():
            exact = model(solver=solver, max_iter=length).fit(X)
            np.testing.assert_array_equal(estimator.components_, exact.components_)
            np.testing.assert_array_equal(estimator.history_["loss"], exact.history_["loss"])
    else:
        monkeypatch.undo()
        assert solver != "cd" or name == "error"  # not everybody reads everything


# --- max_time -------------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes when somebody looks."""

    def __init__(self, step):
        self.now, self.step = 0.0, step

    def __call__(self):
        self.now += self.step
        return self.now


def test_max_time_covers_the_start_and_is_quoted_as_given(monkeypatch):
    started = nmf.NMF._start

    def slow(self, *arguments):
        clock.now += 100
        return started(self, *arguments)

    clock = Clock(0.001)
    monkeypatch.setattr(time, "perf_counter", clock)
    monkeypatch.setattr(nmf.NMF, "_start", slow)
    with pytest.warns(ConvergenceWarning, match=r"because max_time = 5 s was over\. Increase"):
        estimator = model(max_time=5, max_iter=1000).fit(X)
    assert (estimator.stop_reason_, estimator.n_iter_) == ("max_time = 5 s was over", 1)
    with pytest.warns(ConvergenceWarning, match="max_time = 150 s"):
        assert model(max_time=150, max_iter=10**7).fit(X).n_iter_ > 1


def test_warm_start_ends_at_max_time(monkeypatch):
    tall = np.random.default_rng(0).random((13000, 8))
    passes = []
    # what every fit of a sample, and every look at all rows, ends with
    monkeypatch.setattr(
        warm_start, "_checked", lambda solution, real=warm_start._checked: passes.append(solution) or real(solution)
    )
    settings = {"solver": "hals", "init": None, "n_jobs": 1, "n_components": 3}
    model(**settings).fit(tall)
    samples, whole = passes[: warm_start.SAMPLES], passes[warm_start.SAMPLES :]
    assert len(whole) == warm_start.SAMPLES and all(each.n_iter > 1 for each in samples)
    passes.clear()
    with pytest.warns(ConvergenceWarning, match="max_time = 1e-09 s"):
        estimator = model(**settings, max_time=1e-9).fit(tall)
    assert [each.n_iter for each in passes] == [1, 1]  # one sample, one look at all rows
    assert estimator.n_iter_ == 1


def test_max_time_of_batches_covers_the_start(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", Clock(1.0))
    with pytest.warns(ConvergenceWarning, match="max_time"):
        estimator = MiniBatchNMF(3, random_state=0, batch_size=10, max_iter=50, tol=0, max_time=1.5).fit(X)
    assert (estimator.n_steps_, estimator.stop_reason_) == (1, "max_time = 1.5 s was over")


# --- what the output cannot hold is refused before work -------------------------------------------------------------


def no_work(monkeypatch):
    def work(*_, **__):
        raise AssertionError("there was work")

    monkeypatch.setattr(nmf, "factorize", work)
    monkeypatch.setattr(nmf.NMF, "_start", work)


def test_an_output_that_cannot_be_written_is_refused_before_work(tmp_path, monkeypatch):
    no_work(monkeypatch)
    np.save(tmp_path / "w.npy", np.zeros((90, 4)))
    fixed = np.zeros((90, 4))
    fixed.setflags(write=False)
    for out in (np.load(tmp_path / "w.npy", mmap_mode="r"), fixed):
        with pytest.raises(ValueError, match="read-only"):
            model().fit_transform(X, out=out)
    with pytest.raises(ValueError, match="out holds int64, which cannot hold W: give an array of float64"):
        model().fit_transform(X, out=np.zeros((90, 4), int))
    with pytest.raises(ValueError, match="must be a path or an array"):
        model().fit_transform(X, out=[1])


def test_a_folder_that_cannot_be_written_is_refused_before_work(tmp_path, monkeypatch):
    no_work(monkeypatch)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(PermissionError, match="does not allow it"):
        model().fit_transform(X, out=tmp_path / "w.npy")


# --- threads --------------------------------------------------------------------------------------------------------


def test_concurrent_first_fits_share_one_thread_pool(monkeypatch):
    made = []

    class Slow(threads.ThreadPoolExecutor):
        def __init__(self, *arguments, **settings):
            made.append(self)
            time.sleep(0.05)
            super().__init__(*arguments, **settings)

    monkeypatch.setattr(threads, "ThreadPoolExecutor", Slow)
    monkeypatch.setattr(threads, "_pool", None)
    fits = [threading.Thread(target=threads.run_all, args=(lambda _: None, 2, 2)) for _ in range(8)]
    for thread in fits:
        thread.start()
    for thread in fits:
        thread.join()
    assert len(made) == 1
    made[0].shutdown()


@pytest.mark.parametrize("disk", [False, True])
def test_where_no_thread_can_be_started_the_calling_thread_does_the_work(disk, monkeypatch):
    wide = np.random.default_rng(0).random((20000, 300))
    source = RowBlocks(lambda: np.array_split(wide, 7), wide.shape, wide.dtype) if disk else wide
    settings = {"n_components": 16, "max_iter": 3, "n_jobs": 2}
    expected = model(**settings).fit(source).components_

    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_pool", None)
    monkeypatch.setattr(threading.Thread, "start", start)
    np.testing.assert_array_equal(model(**settings).fit(source).components_, expected)


def test_a_queued_helper_does_nothing_after_its_call_has_ended(monkeypatch):
    late, seen = [], []

    class Pool:
        def submit(self, task):
            late.append(task)
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_shared_pool", Pool)
    threads.run_all(seen.append, 5, 3)
    assert seen == [0, 1, 2, 3, 4]
    late[0]()
    assert seen == [0, 1, 2, 3, 4]


def test_ctrl_c_between_submitting_and_working_awaits_the_helpers(monkeypatch):
    at_work, go_on, running = threading.Event(), threading.Event(), []

    class Pool:
        def submit(self, task):
            threading.Thread(target=task).start()
            assert at_work.wait(10)
            threading.Timer(0.2, go_on.set).start()
            raise KeyboardInterrupt

    def task(number):
        running.append(number)
        at_work.set()
        assert go_on.wait(10)
        running.remove(number)

    monkeypatch.setattr(threads, "_shared_pool", Pool)
    with pytest.raises(KeyboardInterrupt):
        threads.run_all(task, 5, 2)
    assert running == []


LATE = """
    import threading, time
    import numpy as np
    import nmfcore
    from nmfcore import NMF
    X = np.random.default_rng(0).random((20000, 200))
    stream = nmfcore.RowBlocks(lambda: np.array_split(X, 7), X.shape, X.dtype)

    def fit():
        threading.main_thread().join()
        time.sleep(0.2)
        for source in (X, stream):
            print(NMF(16, init="random", random_state=0, n_jobs=N_JOBS, max_iter=3, tol=0).fit(source).n_iter_)

    threading.Thread(target=fit).start()
"""


@pytest.mark.parametrize("n_jobs", ["2", "None"])
def test_a_fit_goes_on_when_the_main_thread_has_ended(n_jobs):
    code = textwrap.dedent(LATE).replace("N_JOBS", n_jobs)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["3", "3"], done.stderr


# --- addresses ------------------------------------------------------------------------------------------------------


def test_plans_keep_alive_what_their_addresses_point_to():
    dense = np.random.default_rng(0).random((300, 40)) * (np.random.default_rng(1).random((300, 40)) < 0.3)
    matrix = sparse.csr_matrix(dense)
    matrix.data[: int(0.7 * matrix.nnz)] = 0.0  # more than half: scipy copies, and frees what was there
    rows = data.as_rows(matrix, np.float64)
    rows.plan(4)
    before = [weakref.ref(part) for part in (matrix.data, matrix.indices, matrix.indptr)]
    matrix.eliminate_zeros()
    matrix.data = matrix.data.copy()
    matrix.indptr = matrix.indptr.copy()
    gc.collect()
    assert all(part() is not None for part in before)
    (block,) = [block for lane in rows.plan(4).lanes for _, _, block in lane]
    assert block[0] == rows.X.data.ctypes.data


@pytest.mark.parametrize("solver", SOLVERS)
def test_changing_the_callers_sparse_matrix_during_a_fit_changes_nothing(solver):
    matrix = sparse.random(2000, 60, 0.3, "csr", random_state=0)
    matrix.data[: int(0.7 * matrix.nnz)] = 0.0
    expected = model(solver=solver).fit(matrix).components_
    found = model(solver=solver, callback=lambda p: p.iteration == 2 and matrix.eliminate_zeros() and False)
    np.testing.assert_allclose(found.fit(matrix).components_, expected, rtol=1e-6, atol=1e-9)


# --- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_fit_that_ran_out_of_iterations_goes_on_with_more(solver, tmp_path):
    path, settings = tmp_path / "fit.npz", {"solver": solver, "tol": 1e-12}
    with pytest.warns(ConvergenceWarning):
        expected = model(**settings, max_iter=30).fit(X)
    for passes in (5, 5, 11, 30):
        with pytest.warns(ConvergenceWarning, match="Maximum number"):
            found = model(**settings, checkpoint=path, max_iter=passes).fit(X)
        assert found.n_iter_ == passes and path.exists()
    np.testing.assert_array_equal(found.components_, expected.components_)
    np.testing.assert_array_equal(found.history_["loss"], expected.history_["loss"])
    with pytest.raises(ValueError, match="is of iteration 30, but max_iter = 29: give a larger max_iter"):
        model(**settings, checkpoint=path, max_iter=29).fit(X)


def test_max_iter_identifies_a_checkpoint_whose_start_depends_on_it(tmp_path):
    W = np.random.default_rng(0).random((90, 4))
    path = tmp_path / "fit.npz"
    with pytest.raises(Stop):
        model(init="custom", checkpoint=path, callback=stopping(3)).fit(X, W=W)
    with pytest.raises(ValueError, match="max_iter = 12, this one 13"):
        model(init="custom", checkpoint=path, max_iter=13).fit(X, W=W)


WHOLE = np.random.default_rng(3).integers(0, 255, (24, 24), dtype=np.uint8)


@pytest.mark.parametrize(
    "other",
    [WHOLE[::-1], WHOLE[:, ::-1], WHOLE.T, np.roll(WHOLE, 1, axis=0), WHOLE[:, [1, 0, *range(2, 24)]]],
    ids=["rows", "columns", "transposed", "rolled", "two columns"],
)
@pytest.mark.parametrize("kind", ["dense", "sparse", "disk"])
def test_a_checkpoint_knows_its_X_by_content(kind, other, tmp_path):
    path, reads = tmp_path / "fit.npz", []

    def given(A):
        A = np.ascontiguousarray(A)
        if kind == "sparse":
            return sparse.csr_matrix(A)
        return A if kind == "dense" else RowBlocks(lambda: reads.append(1) or [A], A.shape, A.dtype)

    with pytest.raises(Stop):
        model(checkpoint=path, callback=stopping(5)).fit(given(WHOLE))
    assert len(reads) in (0, 1 + 5)  # the opening pass, and those of the fit: X on disk is not read once more
    with pytest.raises(ValueError, match="contents of X"):
        model(checkpoint=path).fit(given(other))
    model(checkpoint=path).fit(given(WHOLE))


def test_the_digest_is_that_of_any_layout(tmp_path):
    A = np.random.default_rng(0).random((20000, 30))
    np.save(tmp_path / "x.npy", A)
    stream = RowBlocks(lambda: np.array_split(A, 7), A.shape, A.dtype)
    path = tmp_path / "fit.npz"
    with pytest.raises(Stop):
        model(checkpoint=path, callback=stopping(3)).fit(A)
    for same in (np.asfortranarray(A), np.load(tmp_path / "x.npy", mmap_mode="r"), tmp_path / "x.npy", stream):
        with pytest.raises(Stop):
            model(checkpoint=path, callback=stopping(4), n_jobs=2).fit(same)


def test_a_second_fit_on_one_checkpoint_is_refused(tmp_path):
    path, said = tmp_path / "fit.npz", []

    def second(progress):
        if progress.iteration == 3:
            assert path.exists()
            with pytest.raises(
                RuntimeError, match=f"in use by another fit .process {os.getpid()} on .*of its own"
            ) as e:
                model(checkpoint=path).fit(X)
            said.append(str(e.value))

    model(checkpoint=path, checkpoint_every=0, callback=second).fit(X)
    assert len(said) == 1 and list(tmp_path.iterdir()) == []


OTHER = """
    import os, signal, sys, time
    import numpy as np
    from nmfcore import NMF
    X = np.random.default_rng(7).random((90, 24)) + 0.5
    def callback(progress):
        if progress.iteration == 3:
            print("ready", flush=True)
            time.sleep(60)
    NMF(4, init="random", random_state=0, max_iter=12, tol=0, checkpoint=sys.argv[1], checkpoint_every=0,
        callback=callback).fit(X)
"""


@pytest.mark.skipif(os.name != "posix", reason="kills")
def test_the_lock_of_a_process_that_is_dead_is_taken_over(tmp_path):
    path = tmp_path / "fit.npz"
    command = [sys.executable, "-c", textwrap.dedent(OTHER), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "ready\n"
        before = path.read_bytes()
        with pytest.raises(RuntimeError, match=f"process {other.pid} on "):
            model(checkpoint=path).fit(X)
        assert path.read_bytes() == before
        other.kill()
    left = tmp_path / ".fit.npz.0123456789abcdef.part"  # half-written when it was killed
    left.write_bytes(b"half")
    (tmp_path / ".fit.npz.b.0123456789abcdef.part").write_bytes(b"of another checkpoint")
    seen = []
    W = model(checkpoint=path, callback=lambda p: seen.append(p.iteration)).fit_transform(X)
    assert seen[0] == 3  # its last checkpoint is of pass 2
    np.testing.assert_array_equal(W, model().fit_transform(X))
    assert [file.name for file in tmp_path.iterdir()] == [".fit.npz.b.0123456789abcdef.part"]


def test_a_file_system_without_locks_is_used_without(tmp_path, monkeypatch):
    from nmfcore.loop import checkpoint

    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(checkpoint, "_lock", none)
    model(checkpoint=tmp_path / "c", checkpoint_every=0).fit(X)
    assert list(tmp_path.iterdir()) == []


def test_memory_of_a_restored_checkpoint_is_released(begun, tmp_path, monkeypatch):
    from nmfcore.loop.checkpoint import Checkpoint

    held, alive = [], []
    found = Checkpoint.found

    def remembered(self):
        kept = found(self)
        held.extend(weakref.ref(A) for A in kept.rows.values())
        return kept

    def callback(progress):
        alive.append(sum(each() is not None for each in held))

    monkeypatch.setattr(Checkpoint, "found", remembered)
    W = np.lib.format.open_memmap(tmp_path / "w.npy", "w+", np.float64, (90, 4))
    expected = model().fit_transform(X)
    found_W = model(checkpoint=begun, callback=callback).fit_transform(X, out=W)
    np.testing.assert_array_equal(found_W, expected)
    assert held and alive[-1] == 0


# --- nothing stays --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["callback", "Ctrl-C", "sparse", "threads", "stream", "batches", "function", "whole"])
def test_an_interruption_leaves_no_cycle_that_holds_X(kind, monkeypatch):
    matrix = np.random.default_rng(0).random((20000, 60))
    settings = {"n_components": 8, "callback": stopping(3)}
    if kind == "Ctrl-C":
        settings["callback"] = stopping(3, KeyboardInterrupt)
    if kind == "sparse":
        matrix = sparse.random(9000, 5000, 0.01, "csr", random_state=0)
    if kind == "whole":
        del settings["callback"]
    fit = lambda given: model(**settings, n_jobs=2).fit(given)  # noqa: E731
    if kind == "function":
        fit = lambda given: non_negative_factorization(given, **model(**settings).get_params())  # noqa: E731
    if kind == "batches":
        fit = lambda given: MiniBatchNMF(4, random_state=0, callback=stopping(3)).fit(given)  # noqa: E731
    if kind == "threads":

        def visit(self, *arguments):
            raise Stop

        monkeypatch.setattr(SOLVERS["cd"], "visit", visit)
    gone = weakref.ref(matrix.data if kind == "sparse" else matrix)
    source = matrix
    if kind == "stream":
        source = RowBlocks(lambda held=matrix: [held], matrix.shape, matrix.dtype)
    fit(model(max_iter=1).fit(X[:20]) and source) if kind == "whole" else None
    gc.collect()
    gc.disable()
    try:
        if kind == "whole":
            fit(source)
        else:
            with pytest.raises(KeyboardInterrupt if kind == "Ctrl-C" else Stop) as error:
                fit(source)
            del error
        del matrix, source
        assert gone() is None
    finally:
        gc.enable()


# --- what means nothing is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name, value", [("checkpoint", "c"), ("callback", print), ("max_time", 3.0)])
def test_parameters_without_effect_when_H_is_fixed_are_refused(name, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    H = np.random.default_rng(0).random((4, 24))
    with pytest.raises(ValueError, match=f"{name} has no meaning with update_H=False.*leave it out"):
        non_negative_factorization(X, H=H, n_components=4, update_H=False, **{name: value})
    assert list(tmp_path.iterdir()) == []


def test_the_function_refuses_a_checkpoint_whose_folder_is_missing(tmp_path, monkeypatch):
    no_work(monkeypatch)
    with pytest.raises(FileNotFoundError, match="create it first"):
        non_negative_factorization(X, n_components=4, checkpoint=tmp_path / "no" / "c")
    assert json.dumps([str(each) for each in tmp_path.iterdir()]) == "[]"


def test_a_W_that_would_be_ignored_is_refused():
    rng = np.random.default_rng(0)
    W, H = rng.random((90, 3)), rng.random((3, 24))
    with pytest.raises(ValueError, match=r"W has no meaning beside H with solver='hals'.*leave W out"):
        MiniBatchNMF(3, solver="hals", init="custom").fit(X, W=W, H=H)
    MiniBatchNMF(3, solver="hals", init="custom", max_iter=1, tol=0, max_no_improvement=None).fit(X, W=W)


# --- files that belong together are replaced as one -----------------------------------------------------------------


def dies_at_rename(number, function):
    """Let a child of ours die at its nth rename, without cleaning up; return whether it came to that."""

    def dying(real):
        def rename(*arguments, **settings):
            count[0] += 1
            if count[0] == number:
                os._exit(9)
            return real(*arguments, **settings)

        return rename

    count = [0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other threads exist; the child needs none of them
        child = os.fork()
    if child == 0:
        try:
            os.replace, os.rename = dying(os.replace), dying(os.rename)
            function()
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_an_engine_is_replaced_as_one(tmp_path):
    first, second = (SearchEngine(3).fit(np.random.default_rng(seed).random((40, 12))) for seed in (0, 1))
    seen = set()
    for number in range(1, 20):
        home = tmp_path / f"engine{number}"
        first.save(home)
        (home / "notes.txt").write_text("mine")
        died = dies_at_rename(number, lambda home=home: second.save(home, overwrite=True))
        if not home.exists():  # between two renames: the old one is beside it, whole
            (beside,) = tmp_path.glob(".*.former")
            beside.rename(home)
        found = SearchEngine.load(home)
        owner = second if np.array_equal(found.model.W, second.model.W) else first
        seen.add(owner is second)
        np.testing.assert_array_equal(found.model.W, owner.model.W)
        np.testing.assert_array_equal(found.matrix(), owner.matrix())
        if not died:
            break
        for left in tmp_path.glob(".nmfcore-*"):
            shutil.rmtree(left)
    assert not died and seen == {False, True}
    assert (home / "notes.txt").read_text() == "mine"


def test_other_files_of_an_engines_folder_stay(tmp_path, monkeypatch):
    home = tmp_path / "engine"
    home.mkdir()
    (home / "notes.txt").write_text("mine")
    engine = SearchEngine(3).fit(X)
    engine.save(home)
    engine.save(home, overwrite=True, pictures=False)
    assert sorted(file.name for file in home.iterdir()) == ["model.npz", "notes.txt", "search.json"]
    monkeypatch.chdir(home)
    engine.save(".", overwrite=True)
    assert sorted(os.listdir()) == ["model.npz", "notes.txt", "pictures.npy", "search.json"]
    assert os.listdir(tmp_path) == ["engine"]


@pytest.fixture
def cats(tmp_path):
    from PIL import Image

    folder = tmp_path / "cats"
    folder.mkdir()
    for number in range(3):
        Image.new("L", (6, 4), number).save(folder / f"{number}.png")
    return folder


def test_a_cache_of_which_a_part_is_gone_is_made_anew(cats):
    matrix, about = (cats.with_name(f"cats.nmfcore{suffix}") for suffix in (".npy", ".json"))
    expected = np.repeat(np.arange(3, dtype=np.uint8)[:, None], 24, axis=1)

    def check():
        np.testing.assert_array_equal(cached_images(cats).matrix, expected)
        assert {file.name for file in cats.parent.iterdir()} == {"cats", matrix.name, about.name}

    check()
    about.unlink()
    check()
    matrix.unlink()
    check()
    for other in (expected[:2], expected.astype(np.uint16), expected + 1):  # not the one that is described
        np.save(matrix, other)
        check()
    matrix.write_bytes(b"cut")
    check()
    about.unlink()
    np.save(matrix, np.zeros(3))
    with pytest.raises(InputError, match="is in the way, and no cache of pictures: move it"):
        cached_images(cats)
    np.testing.assert_array_equal(np.load(matrix), np.zeros(3))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_crash_leaves_a_cache_that_is_made_anew(cats):
    for number in range(1, 20):
        assert cached_images(cats).matrix.shape == (3, 24)
        if not dies_at_rename(number, lambda: cached_images(cats, mode="RGB")):
            break
    assert number > 3
    assert cached_images(cats, mode="RGB").matrix.shape == (3, 72)


# --- accumulators ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", range(1, 20))
def test_lanes_are_added_up_as_they_end_with_the_bits_of_all_at_once(lanes):
    rng = np.random.default_rng(lanes)
    whole = rng.standard_normal((lanes, 37)) * 10.0 ** rng.integers(-8, 8, (lanes, 1))
    expected = sums._add_pairwise(whole.copy())
    for order in (np.arange(lanes), rng.permutation(lanes)):
        few = sums.FewSums()
        few.clear({"a": (5, 7), "worst": (2, 1)}, [2] * lanes)
        for lane in order:
            for part in range(2):
                few[lane]["a"][...] = whole[lane, :35].reshape(5, 7) if part else 0
                few[lane]["worst"][...] = whole[lane, 35:].reshape(2, 1)
                few.ended(lane)
        np.testing.assert_array_equal(few.total()["a"].ravel(), expected[:35])
        np.testing.assert_array_equal(few.total()["worst"].ravel(), -np.sort(-whole[:, 35:].ravel()))
        assert few.made <= (2 + int(np.log2(lanes)) if (order == np.arange(lanes)).all() else lanes)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_few_accumulators_of_an_X_on_disk_are_there_at_a_time(n_jobs, tmp_path):
    A = np.random.default_rng(0).integers(0, 255, (60000, 400), dtype=np.uint8)
    np.save(tmp_path / "x.npy", A)
    few = disk.StoredRows(disk.source_of(tmp_path / "x.npy"), np.float32, n_jobs)
    all_, F = data.MemoryRows(A, np.float32, n_jobs), np.random.default_rng(1).random((60000, 64), np.float32)
    lanes = len(all_.plan(64).lanes)
    assert lanes > 16
    shapes = {"XtW": (400, 64)}

    def visit(backend, block, rows, orders, after, sums):
        backend.add_products(block, rows["W"], sums["XtW"])

    class Orders:
        width = 64

    found, expected = (rows.reduce(visit, rows.state(W=F), Orders, shapes)[1]["XtW"] for rows in (few, all_))
    np.testing.assert_array_equal(found, expected)
    assert few._sums.made <= 2 * n_jobs + 7 < lanes
    np.testing.assert_array_equal(few.transposed_products(F), all_.transposed_products(F))
    np.testing.assert_array_equal(few.gram(), all_.gram())
