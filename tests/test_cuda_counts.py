"""What a pass on a card costs the host: launches, array operations, reads, uploads, counted on the stand-in.

The bounds are what a pass takes at present. Each of these costs 5 to 30 µs of the host, while a whole pass over MNIST
in uint8 could take the card 26 µs: whoever takes some away lowers the bound with it.
"""

import sys
from typing import NamedTuple

import numpy as np
import pytest
from conftest import emulated
from cuda_emulator import fake_cupy, module

from benchmarks.card import idle, operations
from nmfcore import NMF
from nmfcore.loop import solve
from nmfcore.rows.base import Rows
from nmfcore.rows.device import DeviceRows
from nmfcore.starts import samples


class Counts(NamedTuple):
    """Of a pass, or of a fit."""

    launches: float
    operations: float
    reads: float  # how often the host waits for numbers
    uploads: float


MOST = {  # of a pass once the start is over: solver, loss, X stored as, whether it may be launched as a graph
    ("hals", 2, "uint8", True): Counts(1, 0, 1, 0),
    ("hals", 2, "uint8", False): Counts(9, 2, 1, 0),
    ("cd", 2, "float32", True): Counts(1, 0, 1, 0),
    ("cd", 2, "float32", False): Counts(9, 2, 1, 0),
    ("mu", 2, "float32", True): Counts(1, 0, 1, 0),
    ("mu", 2, "float32", False): Counts(9, 2, 1, 0),
    ("mu", 1, "float32", True): Counts(7.125, 3.375, 1, 0),  # every eighth, on average, measures the loss: a launch
}
FIT = Counts(310, 140, 58, 11)  # a whole fit with init="auto"; a tenth more than it takes, as passes may be more


def counted(model, X):
    del fake_cupy.graph_launches[:]
    with fake_cupy.counting() as seen, module.recording() as launches:
        model.fit(X)
    graphs = fake_cupy.graph_launches  # the host launches each at once
    return Counts(
        len(launches) - sum(graphs) + len(graphs),
        seen.operations.count,
        seen.count + seen.waits.count,
        seen.uploads.count,
    )


@emulated
@pytest.mark.parametrize(("solver", "beta", "stored", "graphs"), MOST)
def test_a_pass(rng, cupy, monkeypatch, solver, beta, stored, graphs):
    if not graphs:
        monkeypatch.setattr(DeviceRows, "turns", Rows.turns)
    X = cupy.asarray((rng.integers(1, 200, (120, 40))).astype(stored))
    found = []
    for passes in (32, 32, 48):  # the first one asks once whether the device works
        model = NMF(15, solver=solver, beta_loss=beta, init="random", tol=0, max_iter=passes, random_state=0)
        found.append(counted(model, X))
    each = Counts(*((after - before) / 16 for before, after in zip(found[1], found[2], strict=True)))
    assert all(count <= most for count, most in zip(each, MOST[solver, beta, stored, graphs], strict=True)), each


BEYOND = 400  # launches of a fit that starts from samples, beyond those of its passes and theirs


@emulated
def test_a_fit_from_samples(rng, cupy, monkeypatch):
    X, passes, made = cupy.asarray(rng.integers(0, 200, (300, 40)).astype(np.uint8)), [], solve._Passes._pass
    monkeypatch.setattr(samples, "sample_rows", lambda n, m, k: 60)
    monkeypatch.setattr(solve._Passes, "_pass", lambda *given: passes.append(0) or made(*given))
    found = counted(NMF(5, solver="hals", init="auto", random_state=0), X)
    assert len(passes) > 100
    assert found.launches <= MOST["hals", 2, "uint8", False].launches * len(passes) + BEYOND, (found, len(passes))


@emulated
def test_a_whole_fit(rng, cupy, monkeypatch):
    """A start from samples, whose passes are as dear as those over all of X."""
    X, made, plain = cupy.asarray(rng.integers(0, 200, (300, 40)).astype(np.uint8)), [], cupy.RawModule
    monkeypatch.setattr(cupy, "RawModule", lambda code, options: made.append(code) or plain(code=code, options=options))
    NMF(3, max_iter=1, tol=0).fit(X)
    found = counted(NMF(5, solver="hals", init="auto", random_state=0), X)
    assert all(count <= most for count, most in zip(found, FIT, strict=True)), found
    # Compiled once per machine: BETA alone takes as long as half of the others.
    families = {operations.taken_apart(code)[1][0][0].removeprefix("FAMILY_") for code in made}
    assert families == {"OPENING", "ROWS", "PRODUCTS", "TENSOR", "SWEEP", "SQUARES"} and len(made) <= 8, len(made)


# Functions called in a pass, Python's own included: launched as a graph, and not.
CALLS = {"hals": (225, 360), "cd": (150, 240), "mu": (160, 240), "mu KL": (195, 195)}


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("name", idle.SOLVERS)
def test_python_of_a_pass(monkeypatch, name, graphs):
    """What a launch needs is looked up and not made again: a pass calls few functions, where launches do nothing."""
    calls = 0

    def seen(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    def profiled():
        sys.setprofile(seen)
        return calls

    if not graphs:
        monkeypatch.setattr(DeviceRows, "turns", Rows.turns)
    before = sys.getprofile()
    try:
        with idle.nothing_done():
            idle.run(*idle.SOLVERS[name], 1)  # what is imported and planned once
            few, more = idle.run(*idle.SOLVERS[name], 20, profiled)
    finally:
        sys.setprofile(before)
    each = (more - few) / 20
    most = CALLS[name][0 if graphs else 1]
    assert 0.5 * most < each <= most, each
