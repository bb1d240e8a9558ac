"""Checkpoints: a fit that was stopped, however rudely, ends with the bits of one that was not."""

import errno
import json
import os
import subprocess
import sys
import textwrap
import time
import warnings

import numpy as np
import pytest
from conftest import emulated
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from nmfcore import NMF, RowBlocks
from nmfcore.loop.checkpoint import Checkpoint
from nmfcore.solvers import SOLVERS

PASSES = 30


def matrix(dtype="float64"):
    rng = np.random.default_rng(7)
    X = rng.random((90, 5)) @ rng.random((5, 24)) + 0.1 * rng.random((90, 24))
    return np.ascontiguousarray((40 * X).astype(dtype))


# What a solver remembers differs with these: momentum, best pairs, the order of components, penalties, dead components.
CASES = {
    **{solver: {"solver": solver} for solver in SOLVERS},
    "cd, shuffled": {"solver": "cd", "shuffle": True},
    "hals, shuffled and penalised": {"solver": "hals", "shuffle": True, "alpha_W": 0.01, "l1_ratio": 0.5},
    "hals, dead components": {"solver": "hals", "alpha_W": 0.4, "l1_ratio": 1.0, "n_components": 9},
    "hals, own start": {"solver": "hals", "init": None},
    "cd, to its end": {"solver": "cd", "tol": 0.03, "max_iter": 500},
    "hals, to its end": {"solver": "hals", "tol": 3e-4, "max_iter": 500},
    "mu, to its end": {"solver": "mu", "tol": 3e-3, "max_iter": 500},
    "mu, Kullback-Leibler": {"solver": "mu", "beta_loss": 1},
    "hals, Kullback-Leibler": {"solver": "hals", "beta_loss": 1, "shuffle": True, "alpha_W": 0.01},
    "mu, 0.5": {"solver": "mu", "beta_loss": 0.5},
    "mu, extrapolated": {"solver": "mu", "extrapolate": True},
    "mu, 1.5, extrapolated": {"solver": "mu", "beta_loss": 1.5, "extrapolate": True, "alpha_H": 0.01},
}
FLOAT32 = [{"solver": "hals"}, {"solver": "mu", "beta_loss": 1, "extrapolate": True}]  # scalars' types round there


def model(**settings):
    asked = {"n_components": 5, "init": "random", "random_state": 3, "max_iter": PASSES, "tol": 1e-9}
    return NMF(**{**asked, **settings})


def fitted(X, **settings):
    estimator = model(**settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # max_iter is reached on purpose
        W = estimator.fit_transform(X)
    return estimator, W


def told(estimator, W):
    """Everything that a fit ends with, but the time it took."""
    history = {name: values for name, values in estimator.history_.items() if name != "seconds"}
    assert len(estimator.history_["seconds"]) == len(history["loss"])
    assert (np.diff(estimator.history_["seconds"]) >= 0).all()
    return {
        "W": W, "H": estimator.components_, **history, "n_iter": estimator.n_iter_, "kkt": estimator.kkt_residual_,
        "error": estimator.reconstruction_err_, "reason": estimator.stop_reason_, "ended": estimator.converged_,
    }  # fmt: skip


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert np.asarray(value).dtype == np.asarray(second[name]).dtype or name == "reason", name
        np.testing.assert_array_equal(value, second[name], err_msg=name)


class Stop(Exception):
    pass


def stopping(at):
    def callback(progress):
        if progress.iteration >= at:
            raise Stop

    return callback


@pytest.mark.parametrize("case", CASES)
def test_a_fit_stopped_and_continued_has_the_bits_of_one_that_was_not(case, tmp_path):
    X, path = matrix(), tmp_path / "fit.npz"
    expected = told(*fitted(X, **CASES[case]))
    assert expected["ended"] == ("end" in case)
    for at in (2, 9, 10, 11, 21, 22):
        if at >= expected["n_iter"] - 1:
            break
        with pytest.raises(Stop):
            fitted(X, checkpoint=path, callback=stopping(at), **CASES[case])
        assert path.exists()
    estimator, W = fitted(X, checkpoint=path, **CASES[case])
    assert_same(told(estimator, W), expected)
    # A fit that has met its rule needs it no more; one that max_iter ended can go on from it.
    assert list(tmp_path.iterdir()) == ([] if expected["ended"] else [path])


@pytest.mark.parametrize("settings", FLOAT32, ids=str)
@given(stops=st.lists(st.integers(2, PASSES), max_size=4))
@settings(max_examples=10)
def test_float32_fits_may_be_stopped_after_any_pass(settings, stops, tmp_path_factory):
    X, path = matrix("float32"), tmp_path_factory.mktemp("checkpoint") / "fit.npz"
    expected = told(*fitted(X, **settings))
    for at in stops:
        with pytest.raises(Stop):
            fitted(X, checkpoint=path, callback=stopping(at), **settings)
    assert_same(told(*fitted(X, checkpoint=path, **settings)), expected)


def test_a_fit_of_an_array_may_go_on_with_a_stream_of_the_same_rows(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 255, (20000, 300), dtype=np.uint8)
    stream = RowBlocks(lambda: np.array_split(X, 7), X.shape, X.dtype)
    settings = {"solver": "hals", "n_components": 16, "max_iter": 6}
    expected = told(*fitted(X, **settings))
    for source, n_jobs in ((X, 2), (stream, 1)):  # one begins, another goes on
        with pytest.raises(Stop):
            fitted(source, checkpoint=tmp_path / "c", n_jobs=n_jobs, callback=stopping(2 + n_jobs), **settings)
    assert_same(told(*fitted(stream, checkpoint=tmp_path / "c", **settings)), expected)


KILLED = """
    import json, os, pathlib, random, signal, sys, time, warnings
    import numpy as np
    sys.path.insert(0, sys.argv[3])
    from test_checkpoint import CASES, fitted, matrix, told

    folder, settings = pathlib.Path(sys.argv[1]), CASES[sys.argv[2]]
    settings = {**settings, "n_jobs": 1, "max_iter": 400, "tol": 0}
    X, path, chance = matrix(), folder / "fit.npz", random.Random(5)

    def done():
        with np.load(path) as archive:
            return json.loads(str(archive["meta"]))["loop"]["list"][0]

    expected = told(*fitted(X, **settings))  # and the kernels are compiled
    reached = []
    while len(reached) < 10:
        child = os.fork()
        if child == 0:
            fitted(X, checkpoint=path, checkpoint_every=0, callback=lambda _: time.sleep(0.004), **settings)
            os._exit(0)
        before = done() if path.exists() else 0
        while len(reached) % 3 and not (path.exists() and done() > before):  # two of three lives get somewhere
            time.sleep(0.001)
        time.sleep(chance.uniform(0.0, 0.03))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, "it ended before it was killed"
        reached.append(done() if path.exists() else 0)
    found = told(*fitted(X, checkpoint=path, **settings))
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert list(folder.iterdir()) == []
    print(json.dumps(reached))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_fit_killed_ten_times_has_the_bits_of_one_that_was_not(solver, tmp_path):
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        textwrap.dedent(KILLED),
        tmp_path,
        solver,
        os.path.dirname(__file__),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    reached = json.loads(done.stdout)
    assert reached == sorted(reached)  # no life loses what another had kept
    assert len(set(reached)) > 5, reached  # and they did get on


def test_ctrl_c_and_max_time_write_the_checkpoint(tmp_path):
    X, path = matrix(), tmp_path / "fit.npz"
    expected = told(*fitted(X, solver="hals"))

    def interrupt(progress):
        if progress.iteration == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(X, solver="hals", checkpoint=path, callback=interrupt)
    with pytest.warns(UserWarning, match="max_time"):
        model(solver="hals", checkpoint=path, max_time=1e-9).fit(X)  # one pass more
    with np.load(path) as archive:
        assert json.loads(str(archive["meta"]))["loop"]["list"][0] == 4
    assert_same(told(*fitted(X, solver="hals", checkpoint=path)), expected)


@pytest.fixture
def kept(tmp_path):
    path = tmp_path / "fit.npz"
    with pytest.raises(Stop):
        fitted(matrix(), solver="hals", checkpoint=path, callback=stopping(5))
    return path


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"solver": "cd"}, "solver = 'hals', this one 'cd'"),
        ({"n_components": 4}, "n_components = 5, this one 4"),
        ({"random_state": 4}, "random_state = 3, this one 4"),
        ({"alpha_W": 0.5}, "alpha_W = 0.0, this one 0.5"),
        ({"dtype": np.float32}, "dtype = "),
    ],
)
def test_another_fit_is_refused(kept, changed, said):
    before = kept.read_bytes()
    with pytest.raises(ValueError, match="is of another fit") as error:
        fitted(matrix(), **{"solver": "hals", "checkpoint": kept, **changed})
    assert said in str(error.value) and "delete it" in str(error.value)
    assert kept.read_bytes() == before


def test_another_matrix_is_refused(kept):
    X = matrix()
    X[3, 4] += 1
    with pytest.raises(ValueError, match="sums of X"):
        fitted(X, solver="hals", checkpoint=kept)
    with pytest.raises(ValueError, match="shape of X"):
        fitted(matrix()[:80], solver="hals", checkpoint=kept)
    with pytest.raises(ValueError, match="type of X"):
        fitted(matrix("float32"), solver="hals", checkpoint=kept, dtype=np.float64)


def test_settings_that_change_no_bit_may_differ(kept):
    expected = told(*fitted(matrix(), solver="hals"))
    found = fitted(matrix(), solver="hals", checkpoint=str(kept), n_jobs=2, max_time=100, memory="1MB")
    assert_same(told(*found), expected)


def test_another_start_is_refused(tmp_path):
    X, path, rng = matrix(), tmp_path / "fit.npz", np.random.default_rng(0)
    W, H = rng.random((90, 5)), rng.random((5, 24))
    with pytest.raises(Stop):
        model(init="custom", checkpoint=path, callback=stopping(4)).fit(X, W=W, H=H)
    with pytest.raises(ValueError, match="the start H"):
        model(init="custom", checkpoint=path).fit(X, W=W, H=H + 1)
    path.unlink()


def test_a_file_that_is_no_checkpoint_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(ValueError, match="no checkpoint that this nmfcore can read"):
        fitted(matrix(), checkpoint=path)
    assert path.read_text() == "mine"
    np.savez(tmp_path / "other.npz", W=np.ones(3))
    with pytest.raises(ValueError, match="no checkpoint"):
        fitted(matrix(), checkpoint=tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError, match="create it first"):
        fitted(matrix(), checkpoint=tmp_path / "no" / "where")


def test_a_full_disk_does_not_end_the_fit(tmp_path, monkeypatch):
    expected = told(*fitted(matrix(), solver="cd"))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    estimator = model(solver="cd", checkpoint=tmp_path / "c", checkpoint_every=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        W = estimator.fit_transform(matrix())
    said = [str(each.message) for each in caught if "checkpoint" in str(each.message)]
    assert said and all("could not be written (No space left on device); the fit goes on" in text for text in said)
    assert_same(told(estimator, W), expected)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_version_is_refused_in_a_sentence(kept):
    with np.load(kept) as archive:
        arrays = {name: archive[name] for name in archive.files}
    meta = json.loads(str(arrays["meta"]))
    for version in (meta["version"] - 1, meta["version"] + 1):
        arrays["meta"] = np.array(json.dumps({**meta, "version": version}))
        with open(kept, "wb") as file:
            np.savez(file, **arrays)
        before = kept.read_bytes()
        with pytest.raises(
            ValueError, match=f"was written by another version of nmfcore .in format {version}"
        ) as error:
            fitted(matrix(), solver="hals", checkpoint=kept)
        assert "delete it" in str(error.value) and kept.read_bytes() == before


def test_seconds_of_a_fit_that_goes_on_add_up(kept, monkeypatch):
    with np.load(kept) as archive:
        (loop,) = json.loads(str(archive["meta"]))["loop"].values()
    passes, before = loop[0], loop[5]["list"]
    found = Checkpoint.found

    def slow(self):
        time.sleep(0.1)
        return found(self)

    monkeypatch.setattr(Checkpoint, "found", slow)
    begun = time.perf_counter()
    estimator, _ = fitted(matrix(), solver="hals", checkpoint=kept)
    took = time.perf_counter() - begun
    seconds = estimator.history_["seconds"]
    assert len(before) == passes < len(seconds) == estimator.n_iter_
    assert seconds[:passes].tolist() == before
    assert before[-1] + 0.1 <= seconds[passes] and seconds[-1] <= before[-1] + took
    assert (np.diff(seconds) >= 0).all()


def test_it_is_written_every_checkpoint_every_seconds(tmp_path):
    path, seen = tmp_path / "c", []

    def look(progress):
        seen.append(path.exists() and path.stat().st_mtime_ns)

    fitted(matrix(), checkpoint=path, checkpoint_every=1000, callback=look)
    assert seen == [False] * PASSES
    path.unlink()  # written at max_iter
    seen.clear()
    fitted(matrix(), checkpoint=path, checkpoint_every=0, callback=look)
    assert seen[0] is False and len(set(seen)) == PASSES


def test_parameters_are_cloned_and_validated(tmp_path):
    asked = {"memory": "1GB", "checkpoint": tmp_path / "c", "checkpoint_every": 5}
    assert asked.items() <= clone(NMF(3, **asked)).get_params().items()
    for wrong in ({"checkpoint": 3}, {"checkpoint_every": -1}, {"memory": 0}):
        with pytest.raises(ValueError, match=f"The '{next(iter(wrong))}' parameter of NMF"):
            NMF(3, **wrong).fit(matrix())


@emulated
@pytest.mark.parametrize(
    "settings", [{"solver": "hals"}, {"solver": "mu", "beta_loss": 1, "extrapolate": True}], ids=str
)
def test_a_fit_on_a_device_goes_on_from_its_checkpoint(settings, cupy, tmp_path):
    X, settings = matrix("float32"), {**settings, "device": "cuda", "max_iter": 12}
    expected = told(*fitted(X, **settings))
    for at in (3, 8):
        with pytest.raises(Stop):
            fitted(X, checkpoint=tmp_path / "c", callback=stopping(at), **settings)
    with pytest.raises(ValueError, match="it has device = "):
        fitted(X, checkpoint=tmp_path / "c", **{**settings, "device": "cpu"})
    assert_same(told(*fitted(X, checkpoint=tmp_path / "c", **settings)), expected)


def test_zeros_leave_no_checkpoint(tmp_path):
    fitted(np.zeros((10, 8)), checkpoint=tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_a_pass_does_not_put_the_history_together(tmp_path, monkeypatch):
    """A checkpoint holds all of it, so that this is done when it is written, and not in each pass."""
    from nmfcore.loop import solve

    made, columns = [], solve.columns
    monkeypatch.setattr(solve, "columns", lambda history: made.append(1) or columns(history))
    expected = told(*fitted(matrix(), solver="hals"))
    kept = tmp_path / "fit.npz"
    for passes in (PASSES // 2, PASSES):
        estimator, W = fitted(matrix(), solver="hals", checkpoint=kept, max_iter=passes)
    assert len(made) == 2  # once for each fit, at its end
    found = told(estimator, W)
    for name, value in expected.items():
        np.testing.assert_equal(found[name], value, err_msg=name)
