"""Passes that a device repeats: with graphs the results have the bits that they have without."""

import contextlib

import numpy as np
import pytest
from conftest import emulated
from cuda_emulator import fake_cupy

from benchmarks.card.fits import turns_of_fits
from nmfcore.backends import cuda_graphs, cuda_ops
from nmfcore.loop import solve
from nmfcore.loop.session import Limits
from nmfcore.loop.solve import Fit, factorize, make_together
from nmfcore.objective import UNPENALISED, Penalties
from nmfcore.rows import state
from nmfcore.rows.device import DeviceRows, as_device_rows
from nmfcore.solvers import accelerated_hals, make_solver
from nmfcore.solvers.coordinate_descent import CoordinateDescent

PASSES = {"hals": 40, "cd": 14, "mu": 14}


@pytest.fixture(autouse=True)
def nothing_between_what_is_put_off(monkeypatch):
    """Fail if CuPy is asked for an operation on arrays while operations of a pass before it are put off."""
    plain = fake_cupy._operated

    def operated(size):
        turn = cuda_graphs._current.turn
        assert turn is None or not turn._open or turn._at <= 0, "an array operation among operations that are put off"
        plain(size)

    monkeypatch.setattr(fake_cupy, "_operated", operated)


def given(cupy, solver, dtype=np.float64, passes=None, seed=0, penalties=UNPENALISED, k=3):
    """Return what `factorize` takes: X on the device, a solver, a start."""
    rng = np.random.default_rng(seed)
    X = rng.random((60, k)) @ rng.random((k, 20)) + rng.random((60, 20))
    W, Ht = rng.random((60, k)).astype(dtype), rng.random((20, k)).astype(dtype)
    settings = {"beta": 2} if solver == "mu" else {}
    data = as_device_rows(cupy.asarray(X.astype(dtype)), dtype)
    return data, make_solver(solver, penalties, **settings), W, Ht, Limits(0, passes or PASSES[solver])


def outcome(solution):
    if solution.interruption is not None:
        raise solution.interruption.exception
    return [cuda_ops.to_numpy(A) for A in solution[:2]] + [solution.history[name] for name in ("loss", "accepted")]


def fitted(*arguments, measure=False, **settings):
    return outcome(factorize(*given(*arguments, **settings), measure=measure))


def plainly(*arguments, **settings):
    """Return the outcome of a fit whose passes are queued one by one, in memory of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeviceRows, "turns", lambda self: lambda state: contextlib.nullcontext())
        return fitted(*arguments, **settings)


def replayed(turns):
    return sum(each.replayed for each in turns)


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", PASSES)
def test_graphs_change_no_bit(cupy, solver, dtype):
    """The last pass is one that was replayed, and there is a loss to be measured after it."""
    with turns_of_fits(graphs=True) as turns:
        found = fitted(cupy, solver, dtype, measure=True)
    assert replayed(turns) >= 7
    same(plainly(cupy, solver, dtype, measure=True), found)


@emulated
def test_wide_factors(cupy):
    """Sweeps whose Gram matrix lies in global memory; and a step of mu for which CuPy converts one: no graphs."""
    for solver, k, graphs in (("cd", 160, True), ("mu", 40, False)):
        before = len(fake_cupy.graph_launches)
        same(plainly(cupy, solver, passes=11, k=k), fitted(cupy, solver, passes=11, k=k))
        assert (len(fake_cupy.graph_launches) > before) == graphs


def reckless(monkeypatch):
    """Let momentum overshoot now and then, with passes in between that are like one another."""
    monkeypatch.setattr(accelerated_hals, "GROW", 1.05)
    monkeypatch.setattr(accelerated_hals, "SHRINK", 1.2)


def test_a_rejected_pass_in_the_middle_of_replays(cupy, monkeypatch):
    reckless(monkeypatch)
    passes, commit = [], solve._Passes.commit

    def committed(self, report, *others):
        passes.append((report.accepted, replayed(turns)))
        commit(self, report, *others)

    monkeypatch.setattr(solve._Passes, "commit", committed)
    with turns_of_fits(graphs=True) as turns:
        found = fitted(cupy, "hals", passes=80)
    rejected = [at for at, (accepted, before) in enumerate(passes) if not accepted and before]
    assert rejected and passes[rejected[0]][1] < passes[-1][1] - 5, passes
    same(plainly(cupy, "hals", passes=80), found)


@emulated
@pytest.mark.parametrize("solver", ["hals", "mu"])
def test_what_is_interrupted_in_a_replay(cupy, monkeypatch, solver):
    """Half of a graph has run: the accepted pair is what it was."""
    launch, seen = fake_cupy.Graph.launch, []

    def interrupted(self, stream=None):
        seen.append(0)
        if len(seen) == 4:
            fake_cupy.Graph(self._nodes[: len(self._nodes) // 2]).launch(stream)
            raise KeyboardInterrupt
        launch(self, stream)

    with monkeypatch.context() as patch:
        patch.setattr(fake_cupy.Graph, "launch", interrupted)
        solution = factorize(*given(cupy, solver))
    assert isinstance(solution.interruption.exception, KeyboardInterrupt)
    same(outcome(solution._replace(interruption=None)), fitted(cupy, solver, passes=solution.n_iter))
    assert cuda_graphs._current.turn is None


@emulated
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_ends_a_capture(cupy, monkeypatch, error):
    """Of an exception of the driver nothing is seen: there are no graphs in this fit. Ctrl-C is one as everywhere."""
    tried, added = [], cuda_ops._finish

    def failing(*parts):
        if fake_cupy._captured_by(None) is not None:
            tried.append(0)
            raise error
        added(*parts)

    with monkeypatch.context() as patch:
        patch.setattr(cuda_ops, "_finish", failing)
        solution = factorize(*given(cupy, "cd"), measure=False)
    assert len(tried) == 1 and not fake_cupy.graph_launches
    if error is RuntimeError:
        same(outcome(solution), fitted(cupy, "cd"))
    else:
        assert isinstance(solution.interruption.exception, KeyboardInterrupt)
        same(outcome(solution._replace(interruption=None)), fitted(cupy, "cd", passes=solution.n_iter))


@emulated
def test_memory_that_is_asked_for_in_a_capture_ends_it(cupy, monkeypatch):
    monkeypatch.setattr(cuda_ops, "scratch", lambda shape, dtype=float: cupy.empty(shape, dtype))
    found = fitted(cupy, "cd")
    assert not fake_cupy.graph_launches
    same(plainly(cupy, "cd"), found)


@emulated
def test_two_fits_on_two_streams(cupy):
    """They make a pass each in turn, as fits of samples do; each with graphs of its own."""
    expected, fits, data = [plainly(cupy, "hals", seed=seed) for seed in (1, 2)], [], []
    for seed in (1, 2):
        rows, *others = given(cupy, "hals", seed=seed)
        rows.set_apart()
        with rows.apart():
            fits.append(Fit(rows, *others, measure=False, alone=True, in_turn=True))
        data.append(rows)
    make_together(None, fits)
    assert len(fake_cupy.graph_launches) >= 20
    for rows, fit, wanted in zip(data, fits, expected, strict=True):
        rows.rejoin()
        same(outcome(fit.solution), wanted)


@emulated
def test_memory_of_a_fit_is_free_when_it_is_over(cupy):
    fitted(cupy, "hals")
    before = fake_cupy._world.used[0]
    for _ in range(2):
        fitted(cupy, "hals")
        assert fake_cupy._world.used[0] == before


@emulated
def test_an_x_that_is_streamed_after_all_is_let_go(cupy):
    """The graphs of a fit refer to X: they go, too, when the memory of the device runs out."""
    data, *others = given(cupy, "cd")
    host = cuda_ops.to_numpy(data.X)
    data, place = DeviceRows(cupy.asarray(host), np.float64, host=host), []
    addresses = fake_cupy._world.there

    def full(progress):
        if progress.iteration == 12:
            place.append(data.X._memory.place)
            data._stream_from_host()

    solution = factorize(data, *others, callback=full, measure=False)
    assert fake_cupy.graph_launches and place[0] not in addresses
    same(outcome(solution), plainly(cupy, "cd"))


# ---- faults that are planted -----------------------------------------------------------------------------------------


@emulated
def test_memory_that_a_graph_does_not_keep_is_noticed(cupy, monkeypatch):
    captured = cuda_graphs.Turn._captured

    def careless(self):
        graph = captured(self)
        self.shared.scratch._arrays.clear()
        return graph

    monkeypatch.setattr(cuda_graphs.Turn, "_captured", careless)
    with pytest.raises(fake_cupy.GivenBackError):
        fitted(cupy, "cd")


@emulated
def test_three_turns_are_not_enough(cupy, monkeypatch):
    """After a rejected pass the accepted Ht is needed, which the pass queued ahead would have written over."""
    reckless(monkeypatch)
    found = fitted(cupy, "hals", passes=60)
    monkeypatch.setattr(state.RowState, "turns", property(lambda self: 3, lambda self, turns: None), raising=True)
    with pytest.raises(AssertionError, match="not equal"):
        same(fitted(cupy, "hals", passes=60), found)


@emulated
def test_arguments_that_are_not_compared_are_noticed(cupy, monkeypatch):
    reckless(monkeypatch)
    found = fitted(cupy, "hals", passes=60)
    monkeypatch.setattr(cuda_graphs, "_same", lambda arguments, others: True)
    with pytest.raises(AssertionError):
        same(fitted(cupy, "hals", passes=60), found)


@emulated
def test_a_pass_that_is_said_to_repeat_and_does_not(cupy, monkeypatch):
    """Under penalties a pass adds up diagonals by operations of CuPy."""
    monkeypatch.setattr(CoordinateDescent, "repeats", lambda self, small: True)
    with pytest.raises(AssertionError, match="put off"):
        fitted(cupy, "cd", penalties=Penalties(0.1, 0.1, 0.1, 0.1))
