"""The loop that all fits share: a pass is committed as a whole, wherever an interruption comes."""

import pickle
import sys
import warnings
from bisect import bisect_left
from pathlib import Path

import numpy as np
import pytest

import nmfcore.loop
import nmfcore.minibatch
import nmfcore.solvers
from nmfcore.loop.session import Limits, Session, arrays, columns, complete, corrected_by, history_of
from nmfcore.loop.solve import factorize, make_together
from nmfcore.loop.stopping import RULES, StopReason, Termination, corrected
from nmfcore.minibatch import loop as minibatch
from nmfcore.minibatch.batches import cut
from nmfcore.minibatch.descent import DescentLearner
from nmfcore.minibatch.multiplicative import MultiplicativeLearner
from nmfcore.objective import UNPENALISED, divergence
from nmfcore.rows.base import Pass
from nmfcore.rows.memory import as_rows
from nmfcore.solvers import EXTRAPOLATED, SOLVERS, Solver, accelerated_hals, make_solver, multiplicative
from nmfcore.solvers._common import Correction, Incoming, Report
from nmfcore.solvers.accelerated_hals import Effort

FOLDERS = [str(Path(room.__file__).parent) for room in (nmfcore.loop, nmfcore.minibatch, nmfcore.solvers)]
LOOP = Session._repeat.__code__
CASES = {
    "cd": ("cd", {}),
    "hals": ("hals", {}),
    "mu": ("mu", {}),
    "mu, 1": ("mu", {"beta": 1.0}),
    "mu, extrapolated": ("mu", {"extrapolate": True}),
    "mu, 1, extrapolated": ("mu", {"beta": 1.0, "extrapolate": True}),
}
PASSES, STEPS = 4, 3

rng = np.random.default_rng(0)
X = rng.random((12, 3)) @ rng.random((3, 7)) + 0.1
W, Ht = rng.random((12, 3)) + 0.1, rng.random((7, 3)) + 0.1


def by_passes(case, passes=PASSES, callback=None):
    name, settings = CASES[case]
    solver = make_solver(name, UNPENALISED, **settings)
    return factorize(as_rows(X, np.float64), solver, W, Ht, Limits(1e-12, passes), callback=callback)


LEARNERS = {
    "mu": lambda: MultiplicativeLearner(lambda rows: make_solver("mu", UNPENALISED), 0.7, tol=0, restart_iter=3),
    "hals": lambda: DescentLearner(lambda rows: UNPENALISED, 0.7, 12),
}


def by_batches(name, steps=STEPS, callback=None):
    slices, batches = cut(X, 4, np.float64)
    assert len(batches) == 3

    def watch(progress):
        if callback is not None:
            callback(progress)
        return progress.iteration == steps

    return minibatch.run(slices, batches, LEARNERS[name](), W, Ht, Limits(0, 2), restarts=False, callback=watch)


def interrupted_at(number, fit):
    """Raise KeyboardInterrupt at the nth line that a fit executes in the loop; return the result, None at its end.

    Lines count from the first of `Session._repeat` until it has returned, in all files of loop, batches and solvers:
    those between its passes over X, in which it is not running, as well.
    """
    count, inside = 0, []

    def trace(frame, event, argument):
        nonlocal count
        code = frame.f_code
        if code is LOOP and event == "call" and not inside:
            inside.append(True)
        if not code.co_filename.startswith(tuple(FOLDERS)) or not (inside or code is make_together.__code__):
            return None
        if code is LOOP and event == "return" and not isinstance(argument, Pass):  # else it has yielded, not returned
            inside.clear()
        if event == "line" and inside:
            count += 1
            if count == number:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        result = fit()
    finally:
        sys.settrace(before)
    return result if count == number else None


@pytest.mark.parametrize("case", CASES)
def test_a_pass_is_committed_as_a_whole_wherever_ctrl_c_comes(case):
    exact = {}
    by_passes(case, callback=lambda p: exact.update({p.iteration: p.factors()}))
    assert list(exact) == list(range(1, PASSES + 1))
    exact[0] = W, Ht.T
    whole, seen, number = by_passes(case), set(), 0
    while (found := interrupted_at(number := number + 1, lambda: by_passes(case))) is not None:
        assert found.termination.reason is StopReason.INTERRUPTED
        with pytest.raises(KeyboardInterrupt):
            found.interruption.again()
        passes = found.n_iter
        seen.add(passes)
        assert {len(column) for column in found.history.values()} == {passes}
        np.testing.assert_array_equal(found.W, exact[passes][0])
        np.testing.assert_array_equal(found.Ht.T, exact[passes][1])
        assert found.divergence == divergence(
            as_rows(X, np.float64), found.W, found.Ht, CASES[case][1].get("beta", 2.0)
        )
        for name in ("loss", "violation", "accepted"):
            np.testing.assert_array_equal(found.history[name], whole.history[name][:passes])
        if passes and np.isfinite(found.history["loss"][-1]):
            assert found.history["loss"][-1] == pytest.approx(found.divergence, rel=1e-9)
    assert seen == set(range(PASSES + 1)) and number > 50 * PASSES


@pytest.mark.parametrize("case", ["hals", "mu, extrapolated"])
def test_a_rejected_pass_is_counted_as_a_whole_wherever_ctrl_c_comes(case, monkeypatch):
    # Momentum that overshoots, and steps from somewhere else.
    monkeypatch.setattr(accelerated_hals, "GROW", 9.0)
    monkeypatch.setattr(accelerated_hals, "STAGES", ((0, Effort(1), Effort(1)),))
    monkeypatch.setattr(multiplicative, "extrapolated", lambda F, before, theta: F if theta == 0 else F[::-1].copy())
    passes = 6 if case == "hals" else 9
    exact = {0: (W, Ht.T)}
    whole = by_passes(case, passes, lambda progress: exact.update({progress.iteration: progress.factors()}))
    accepted = whole.history["accepted"]
    assert list(exact) == [0, *(np.flatnonzero(accepted) + 1)] and 2 <= accepted.sum() < passes == whole.n_iter
    before = int(np.argmin(accepted))  # of the first rejected pass; earlier interruptions are those of the test above

    def done_at(number):
        found = interrupted_at(number, lambda: by_passes(case, passes))
        return passes if found is None else found.n_iter

    seen, number = set(), bisect_left(range(10**5), before, key=done_at)
    while (found := interrupted_at(number := number + 1, lambda: by_passes(case, passes))) is not None:
        with pytest.raises(KeyboardInterrupt):
            found.interruption.again()
        done = found.n_iter
        seen.add(done)
        assert {name: column.shape for name, column in found.history.items()} == dict.fromkeys(whole.history, (done,))
        for name in ("loss", "violation", "accepted"):
            np.testing.assert_array_equal(found.history[name], whole.history[name][:done])
        last = max((i + 1 for i in np.flatnonzero(accepted[:done])), default=0)
        np.testing.assert_array_equal(found.W, exact[last][0])
        np.testing.assert_array_equal(found.Ht.T, exact[last][1])
    assert seen == set(range(before, passes + 1))


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_step_over_a_batch_is_committed_as_a_whole_wherever_ctrl_c_comes(learner):
    exact = {}
    by_batches(learner, callback=lambda p: exact.update({p.iteration: p.factors()}))
    exact[0] = W, Ht.T
    whole, seen, number = by_batches(learner), set(), 0
    assert whole.n_steps == STEPS == len(exact) - 1
    while (found := interrupted_at(number := number + 1, lambda: by_batches(learner))) is not None:
        assert found.termination.reason is StopReason.INTERRUPTED
        with pytest.raises(KeyboardInterrupt):
            found.interruption.again()
        seen.add(found.n_steps)
        assert {len(column) for column in found.history.values()} == {found.n_steps}
        np.testing.assert_array_equal(found.W, exact[found.n_steps][0])
        np.testing.assert_array_equal(found.Ht.T, exact[found.n_steps][1])
        np.testing.assert_array_equal(found.history["loss"], whole.history["loss"][: found.n_steps])
    assert seen == set(range(STEPS + 1)) and number > 20 * STEPS


# --- history --------------------------------------------------------------------------------------------------------


def test_a_history_is_not_changed_by_what_follows_it():
    history = history_of([4.0, np.nan], [1.0, 2.0], [0.1, 0.2], [True, True])
    longer, other = (3.0, 1.0, 0.3, True, history), (2.0, 1.0, 0.3, True, history)
    measured = corrected_by(Report(incoming=Incoming(3.5)), history)
    lower = corrected_by(Report(correction=Correction(1.0, -1), accepted=False), longer)
    assert columns(measured)[0] == [4.0, 3.5]
    assert columns(lower)[0][-1] == 4.0 and columns(lower)[1:] == columns(longer)[1:]
    np.testing.assert_array_equal(columns(history)[0], [4.0, np.nan])
    np.testing.assert_array_equal(columns(longer)[0], [4.0, np.nan, 3.0])
    np.testing.assert_array_equal(columns(other)[0], [4.0, np.nan, 2.0])
    empty = {name: (len(column), column.dtype) for name, column in arrays(None).items()}
    number = (0, np.float64)
    assert empty == {"loss": number, "violation": number, "seconds": number, "accepted": (0, np.bool_)}


@pytest.mark.parametrize("rejected", [1, 3000])
def test_what_was_rejected_keeps_its_distance_from_what_was_accepted(rejected):
    kept = [True] + [False] * rejected + [True] + [False] * rejected
    losses = [8.0] + [9.0] * rejected + [4.0] + [4.5] * rejected
    history = history_of(losses, losses, list(range(len(kept))), kept)
    measured, *others = columns(corrected_by(Report(incoming=Incoming(5.0)), history))
    assert measured == [8.0] + [9.0] * rejected + [5.0] + [4.5] * rejected
    assert others == list(columns(history)[1:])
    # Accepted losses are those of a history without rejected passes, and the others move with them.
    for correction in (Correction(1.0, -1), Correction(0.5, 1), Correction(0.5, 5), Correction(-2.0, 1)):
        for accepted in (True, False):
            report = Report(loss=6.0, correction=correction, accepted=accepted)
            alone = columns(corrected_by(report, history_of([8.0, 4.0], [0.0] * 2, [0.0] * 2, [True] * 2)))[0]
            moved = columns(corrected_by(report, history))[0]
            assert [moved[0], moved[rejected + 1]] == alone
            assert moved[1 : rejected + 1] == [alone[0] + 1.0] * rejected
            assert moved[rejected + 2 :] == [alone[1] + 0.5] * rejected


def test_a_history_of_an_earlier_version_has_accepted_all():
    loss = np.array([3.0, 2.0])
    assert complete({"loss": loss})["accepted"].tolist() == [True, True]
    assert complete({}) == {}
    kept = np.array([True, False])
    assert complete({"loss": loss, "accepted": kept})["accepted"] is kept


def test_a_history_of_a_million_passes_is_freed():
    history = None
    for _ in range(10**6):
        history = (1.0, 2.0, 3.0, True, history)
    assert len(columns(history)[0]) == 10**6
    del history  # by the interpreter, whose stack is not that deep


# --- reasons --------------------------------------------------------------------------------------------------------


def test_an_end_has_a_reason_and_its_sentence():
    end = StopReason.MAX_TIME.given(max_time=0.5)
    assert end == (StopReason.MAX_TIME, "max_time = 0.5 s was over") and end.out_of_time and not end.converged
    assert StopReason.VIOLATION.given(ratio=1e-5, tol=1e-4).converged
    for reason in (StopReason.MAX_ITER, StopReason.MAX_ITER_REVIVING):
        end = reason.given(max_iter=3)
        assert end.out_of_iterations and not end.converged and end.sentence.startswith("max_iter = 3 was reached")
    assert Termination.by(KeyboardInterrupt()).reason is StopReason.INTERRUPTED
    assert Termination.by(OSError("{disk}")).sentence == "an exception: OSError('{disk}')"
    assert len({reason.value for reason in StopReason}) == len(StopReason.__members__), "an alias has no sentence"
    assert pickle.loads(pickle.dumps(end)) == end


# --- registry -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_the_registry_makes_solvers_with_the_members_of_the_base_class(case):
    name, settings = CASES[case]
    solver = make_solver(name, UNPENALISED, **settings)
    assert type(solver) is (EXTRAPOLATED if "extrapolate" in settings else SOLVERS)[name]
    assert isinstance(solver, Solver) and solver.rule in RULES
    solver.start(as_rows(X, np.float64), Ht)
    for member in Solver.__annotations__:
        assert hasattr(solver, member), member
    assert set(solver.gather.names) <= set(solver.sums)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(by_passes(case).divergence)


def test_a_variant_that_does_not_exist_is_refused():
    with pytest.raises(KeyError):
        make_solver("cd", UNPENALISED, extrapolate=True)


@pytest.mark.parametrize("since", [1, 2, 5])
@pytest.mark.parametrize("offset", [0.3, -0.3])
def test_a_measured_pass_corrects_the_losses_between_two_measurements(since, offset):
    """In a straight line from the pass that was measured before: to this pass, or to the last accepted one."""
    losses = [20.0 - number for number in range(8)]
    line = np.zeros(8)
    line[8 - since :] = np.arange(1, since + 1)
    for accepted, length in ((True, since + 1), (False, since)):
        report = Report(loss=12 + offset, accepted=accepted, correction=Correction(offset, since))
        np.testing.assert_allclose(corrected(losses, report), losses + offset * line / length)


def test_a_pair_that_was_measured_is_not_corrected_by_a_rejected_pass():
    losses = [5.0, 4.0, 3.0]
    assert corrected(losses, Report(loss=4.0, accepted=False, correction=Correction(0.5, 0))) == losses
    assert corrected(losses, Report(loss=4.0, accepted=False, correction=Correction(0.5, -1))) == [5.5, 4.5, 3.5]
