"""Single kernels on one block of rows in one thread: ``pytest benchmarks/test_kernels.py``.

Each kernel's answer is compared with numpy in float64 before it is timed. ``--benchmark-verbose``
or ``--benchmark-json`` shows beside each time the rate it means and its share of the square gemm
rate of one thread, measured in the same session. Shapes are those of MNIST and of the cats.
"""

from __future__ import annotations

import functools
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import problems
from benchmarks.evaluate import _divergence
from benchmarks.machine import Limits

pytest.importorskip("pytest_benchmark")
cpu = pytest.importorskip("nmfcore.backends.cpu")

STORED = ["uint8", "float32", "float64"]
SHAPES = [(784, 15), (784, 16), (784, 45), (4096, 50)]  # columns, components
BYTES = 8 << 20  # of X as uint8: out of the second-level cache, as in a fit
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}


class Case:
    """One block of X, factors, and what numpy says of them (float64)."""

    def __init__(self, columns: int, k: int, stored: str) -> None:
        rows = BYTES // columns
        rng = np.random.default_rng(0)
        self.dtype = np.dtype("float32" if stored == "uint8" else stored)
        self.X = problems.pictures(rows, columns, zeros=0.5).astype(stored)
        self.F = rng.random((rows, k)).astype(self.dtype)
        self.Ht = rng.random((columns, k)).astype(self.dtype)
        self.block = cpu.cut(self.X, (0, rows), cpu.tile_height(columns, k, self.dtype))
        self.X64, self.F64 = self.X.astype(np.float64), self.F.astype(np.float64)
        self.Ht64 = self.Ht.astype(np.float64)

    def agree(self, found: np.ndarray, expected: np.ndarray) -> None:
        """Fail unless the kernel's answer is numpy's, to rounding in the compute type."""
        apart = np.abs(found - expected).max() / np.abs(expected).max()
        assert apart <= TOLERANCE[self.dtype.name], f"off by {apart:.1e} of the largest entry"


@functools.lru_cache(maxsize=1)  # a case of the cats in float64 is 200 MB with its references
def case(columns: int, k: int, stored: str) -> Case:
    return Case(columns, k, stored)


@functools.cache
def gemm_rate(kind: str) -> float:
    """Return the square gemm rate of one thread, in GFLOP/s."""
    return statistics.median(Limits(1).gemm(kind, 1, 5))


def measure(benchmark, kind: str, flops: float, work, *arguments) -> None:
    """Time the kernel; note rate and share (the first, compiling call is over by now)."""
    benchmark.pedantic(work, arguments, rounds=7, iterations=1, warmup_rounds=1)
    if benchmark.stats is None:  # --benchmark-disable
        return
    rate = flops / benchmark.stats.stats.median / 1e9
    benchmark.extra_info["gflops"] = round(rate, 1)
    benchmark.extra_info["share_of_gemm"] = round(rate / gemm_rate(kind), 2)


shapes = pytest.mark.parametrize(("columns", "k"), SHAPES)
storage = pytest.mark.parametrize("stored", STORED)


@storage
@shapes
def test_products(benchmark, columns, k, stored):
    """X·Ht, 2nmk flops."""
    c = case(columns, k, stored)
    out = np.empty_like(c.F)
    cpu.products(c.block, c.Ht, out)
    c.agree(out, c.X64 @ c.Ht64)
    flops = 2.0 * c.X.size * k
    measure(benchmark, c.dtype.name, flops, cpu.products, c.block, c.Ht, out)


@storage
@shapes
def test_add_products(benchmark, columns, k, stored):
    """Xᵀ·F, 2nmk flops."""
    c = case(columns, k, stored)
    XtF = np.zeros(c.Ht.shape)
    cpu.add_products(c.block, c.F, XtF)
    c.agree(XtF, c.X64.T @ c.F64)
    flops = 2.0 * c.X.size * k
    measure(benchmark, c.dtype.name, flops, cpu.add_products, c.block, c.F, XtF)


@storage
@shapes
def test_descend(benchmark, columns, k, stored):
    """The fused pass of coordinate descent: both products, one sweep, Gram; 4nmk + 4nk² flops."""
    c = case(columns, k, stored)
    HHt = c.Ht64.T @ c.Ht64
    arguments = [c.block, c.F, c.Ht, HHt.astype(c.dtype), 0.0, 0.0, np.arange(k), 1, 0.0]
    arguments += [np.empty_like(c.F), np.zeros(c.Ht.shape), np.zeros((k, k)), np.zeros(cpu.STATS)]
    cpu.descend(*arguments)
    out, XtF, FtF = arguments[9:12]
    c.agree(out, _sweep(c.F64, HHt, c.X64 @ c.Ht64))
    c.agree(XtF, c.X64.T @ out.astype(np.float64))
    c.agree(FtF, out.T.astype(np.float64) @ out)
    flops = 4.0 * c.X.size * k + 4.0 * len(c.X) * k * k
    measure(benchmark, c.dtype.name, flops, cpu.descend, *arguments)


@pytest.mark.parametrize("k", [15, 45])
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_sweep(benchmark, k, kind):
    """One sweep on given products and the Gram, 4nk² flops; in W's shape, though fits use it on Ht."""
    c = case(784, k, kind)
    HHt, XHt = c.Ht64.T @ c.Ht64, c.X64 @ c.Ht64  # sums come in float64, whatever the factors are
    out, FtF, stats = np.empty_like(c.F), np.zeros((k, k)), np.zeros(cpu.STATS)
    arguments = [c.F, HHt, XHt, 0.0, 0.0, np.arange(k), out, FtF, stats]
    cpu.sweep(*arguments)
    c.agree(out, _sweep(c.F64, HHt, XHt))
    c.agree(FtF, out.T.astype(np.float64) @ out)
    # the sweep itself and the Gram of what it made
    measure(benchmark, kind, 4.0 * len(c.F) * k * k, cpu.sweep, *arguments)


def _sweep(F: np.ndarray, G: np.ndarray, C: np.ndarray) -> np.ndarray:
    """Return F after one sweep of coordinate descent, component after component."""
    F = F.copy()
    for t in range(F.shape[1]):
        F[:, t] = np.maximum(0.0, F[:, t] - (F @ G[:, t] - C[:, t]) / G[t, t])
    return F


@pytest.mark.parametrize("beta", [1.0, 0.0, 0.5, 1.5, 3.0])
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_multiply_beta(benchmark, kind, beta):
    """The fused pass of the multiplicative update; products only: 8nmk flops, 12nmk if beta ≠ 1."""
    c, k = case(784, 15, kind), 15
    X, block = c.X, c.block
    if beta <= 0:
        X = X + c.dtype.type(1)
        block = cpu.cut(X, (0, len(X)), block.height)
    gamma = 1 / (2 - beta) if beta < 1 else 1 / (beta - 1) if beta > 2 else 1.0
    out, N, D = np.empty_like(c.F), np.zeros(c.Ht.shape), np.zeros(c.Ht.shape)
    arguments = [block, c.F, c.Ht, beta, gamma, 0.0, 0.0, 0.0, True, False]
    # stats: the common entries, then two sums for each component
    arguments += [out, N, D, np.zeros(cpu.STATS + 2 * k)]
    cpu.multiply_beta(*arguments)
    WH = c.F64 @ c.Ht64.T
    above, below = X * WH ** (beta - 2) @ c.Ht64, WH ** (beta - 1) @ c.Ht64
    expected = c.F64 * (above / below) ** gamma
    apart = np.abs(out - expected).max() / expected.max()
    assert apart <= (1e-4 if kind == "float32" else 1e-11), f"off by {apart:.1e}"
    flops = (8.0 if beta == 1 else 12.0) * X.size * k
    measure(benchmark, kind, flops, cpu.multiply_beta, *arguments)


@pytest.mark.parametrize("beta", [2.0, 1.0, 0.5])
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_divergence(benchmark, kind, beta):
    """The loss of a block, 2nmk flops."""
    c = case(784, 15, kind)
    found = cpu.divergence(c.block, c.F, c.Ht, beta)
    expected = _divergence(c.X64.copy(), c.F64 @ c.Ht64.T, beta)
    assert found == pytest.approx(expected, rel=1e-5 if kind == "float32" else 1e-11)
    flops = 2.0 * c.X.size * 15
    measure(benchmark, kind, flops, cpu.divergence, c.block, c.F, c.Ht, beta)
