"""Passes that are queued before the numbers of the one before them are read: the results have the same bits."""

import contextlib

import numpy as np
import pytest
from conftest import emulated

from nmfcore import NMF
from nmfcore.backends import cpu, cuda_ops
from nmfcore.rows import device as device_rows
from nmfcore.rows.memory import MemoryRows
from nmfcore.rows.sums import LaneSums
from nmfcore.solvers import accelerated_hals as accelerated

SETTINGS = {
    "hals": {"solver": "hals", "init": "random"},
    "hals, from a good start": {"solver": "hals", "init": "auto"},
    "hals, penalised": {"solver": "hals", "init": "random", "alpha_W": 0.01},
    "hals, shuffled": {"solver": "hals", "init": "random", "shuffle": True},
    "cd": {"solver": "cd", "init": "random"},
    "cd, penalised": {"solver": "cd", "init": "random", "alpha_W": 0.01, "l1_ratio": 0.5},
    "mu": {"solver": "mu", "init": "random"},
    "mu, 1": {"solver": "mu", "beta_loss": 1, "init": "random"},
    "mu, extrapolated": {"solver": "mu", "beta_loss": 1, "init": "random", "extrapolate": True},
}


@contextlib.contextmanager
def ahead():
    """Let the CPU queue passes as a device does, with sums of their own for each."""
    cleared = LaneSums.cleared

    def anew(self, shapes, count):
        self.lanes = []
        return cleared(self, shapes, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "QUEUES", True)
        patch.setattr(MemoryRows, "runs_ahead", True)
        patch.setattr(LaneSums, "cleared", anew)
        yield


def outcome(X, k=6, **settings):
    model = NMF(k, random_state=0, **settings)
    W = model.fit_transform(X)
    return model, [W, model.components_, model.history_["loss"], model.history_["violation"]]


def same(found, expected):
    assert found[0].n_iter_ == expected[0].n_iter_
    assert found[0].stop_reason_ == expected[0].stop_reason_
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.filterwarnings("ignore:Maximum number")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("limits", [{"max_iter": 1}, {"max_iter": 2}, {"max_iter": 37, "tol": 0}, {"tol": 1e-3}])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_fit_is_the_same(rng, name, limits, dtype):
    X = (rng.random((90, 6)) @ rng.random((6, 40)) + 0.3 * rng.random((90, 40))).astype(dtype)
    expected = outcome(X, **SETTINGS[name], **limits)
    with ahead():
        same(outcome(X, **SETTINGS[name], **limits), expected)


@pytest.mark.filterwarnings("ignore:Maximum number")
def test_rejected_passes_are_made_again(rng, monkeypatch):
    monkeypatch.setattr(accelerated, "GROW", 3.0)  # reckless: momentum overshoots
    X = rng.random((90, 40))
    expected = outcome(X, solver="hals", init="random", max_iter=60, tol=0)
    assert expected[0].history_["accepted"].sum() < 55
    with ahead():
        same(outcome(X, solver="hals", init="random", max_iter=60, tol=0), expected)


@pytest.mark.filterwarnings("ignore:Maximum number")
def test_dead_components_are_revived(rng):
    X = rng.random((60, 30))
    X[:, 20:] = 0
    for k in (8, 25):
        expected = outcome(X, k, solver="hals", init="random", max_iter=60, tol=0)
        with ahead():
            same(outcome(X, k, solver="hals", init="random", max_iter=60, tol=0), expected)


@pytest.mark.filterwarnings("ignore:Maximum number")
def test_a_measured_loss_is_measured_in_the_same_pass(rng):
    W, H = rng.random((90, 4)), rng.random((4, 40))
    X = (W @ H).astype(np.float32)  # an exact fit: float32 cannot tell the level of the loss
    expected = outcome(X, 4, solver="hals", init="random", max_iter=150, tol=0)
    with ahead():
        same(outcome(X, 4, solver="hals", init="random", max_iter=150, tol=0), expected)


@pytest.mark.filterwarnings("ignore:Maximum number")
@pytest.mark.parametrize("limits", [{"max_iter": 9, "tol": 0}, {"max_iter": 60, "tol": 1e-5}])
def test_an_iteration_of_several_passes_is_the_same(rng, monkeypatch, limits):
    monkeypatch.setattr(accelerated, "SLOW", 5)
    monkeypatch.setattr(accelerated, "SEVERAL", 3)
    X = rng.random((90, 40)).astype(np.float32)
    expected = outcome(X, solver="hals", init="random", **limits)
    with ahead():
        same(outcome(X, solver="hals", init="random", **limits), expected)


@emulated
@pytest.mark.filterwarnings("ignore:Maximum number")
@pytest.mark.parametrize("name", ["hals", "cd", "mu", "mu, 1"])
def test_a_fit_on_a_device_is_the_same(rng, cupy, monkeypatch, name):
    X = cupy.asarray((rng.random((90, 6)) @ rng.random((6, 40)) + 0.3 * rng.random((90, 40))).astype(np.float32))
    found = outcome(X, **SETTINGS[name], max_iter=30, tol=1e-3)
    monkeypatch.setattr(device_rows.DeviceRows, "runs_ahead", False)
    expected = outcome(X, **SETTINGS[name], max_iter=30, tol=1e-3)
    same(
        (found[0], [cuda_ops.to_numpy(A) for A in found[1]]), (expected[0], [cuda_ops.to_numpy(A) for A in expected[1]])
    )


@emulated
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["hals", "cd", "mu"])
def test_what_is_interrupted_keeps_the_last_accepted_pass(rng, cupy, monkeypatch, name):
    """The pass that is under way at Ctrl-C, and the one queued behind it, write nothing that the iterate is made of."""
    X = cupy.asarray(rng.random((90, 40)).astype(np.float32))
    expected = outcome(X, **SETTINGS[name], max_iter=7, tol=0)
    numbers, calls = cuda_ops._Sent.__call__, []

    def interrupted(self):
        calls.append(0)
        if len(calls) == (7 if name == "hals" else 8):  # the first pass of hals is not foreseen
            raise KeyboardInterrupt
        return numbers(self)

    monkeypatch.setattr(cuda_ops._Sent, "__call__", interrupted)
    model = NMF(6, random_state=0, max_iter=50, tol=0, **SETTINGS[name])
    with pytest.raises(KeyboardInterrupt):
        model.fit(X)
    assert model.n_iter_ == 7
    np.testing.assert_array_equal(cuda_ops.to_numpy(model.components_), cuda_ops.to_numpy(expected[0].components_))


@emulated
def test_numbers_that_nobody_wants(cupy):
    """A room of pinned memory is used again only when its last copy has arrived."""
    A = cupy.asarray(np.arange(5.0))
    kept = cuda_ops.send(A)
    for _ in range(5):
        cuda_ops.send(2 * A)
    later = cuda_ops.send(3 * A, np.float64(7), cuda_ops.Inner(A, A))
    assert kept() == [[0, 1, 2, 3, 4]]
    assert later() == [[0, 3, 6, 9, 12], 7.0, 30.0]
    assert len(cuda_ops._free_rooms(0)) == 2
