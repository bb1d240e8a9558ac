"""The kernels against the machine: products, sweeps, threads, many rows, and narrower vectors."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.harness import Context, Row, child, describe_case, summary

ABOUT = (
    "*products*: X·Ht and Xᵀ·F, X read from memory for each, over 4nmk flops (of the true k) at the square gemm rate "
    "that is measured at each turn. *W sweep*: what a cd iteration spends beyond its products and Grams, as a share of "
    "it. *rows*: time per row of an iteration at 1,000,000 × 784 over that at 100,000. *threads*: the speed-up of two "
    "threads over one that square gemm shows, over the iteration's. *AVX2*: an iteration with Numba limited to that "
    "instruction set (NUMBA_CPU_NAME), over one without the limit; both in fresh processes."
)
NAME = "nmfcore"

AVX2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+sse4.2,+sse2"}
CHILD = """
import json, sys, time
import numpy as np
from nmfcore.rows.memory import as_rows
from nmfcore.loop.session import Limits
from nmfcore.loop.solve import factorize
from nmfcore.solvers import SOLVERS
n, m, k, threads, repeats = map(int, sys.argv[1:6])
rng = np.random.RandomState(0)
X = rng.randint(0, 256, (n, m)).astype(np.uint8)
W, Ht = rng.rand(n, k).astype(np.float32), rng.rand(m, k).astype(np.float32)
data = as_rows(X, np.float32, threads)
def run(passes):
    start = time.perf_counter()
    factorize(data, SOLVERS["cd"](), W, Ht, Limits(0, passes), measure=False)
    return time.perf_counter() - start
run(1)
print(json.dumps([(run(9) - run(1)) / 8 for _ in range(repeats)]))
"""


def run(context: Context) -> Iterator[list[Row]]:
    yield list(_products(context))
    yield list(_sweeps(context))
    yield [_threads(context)]
    yield [_rows(context)]
    yield [_narrow(context)]


def _row(context: Context, problem: Any, k: int, case: str, unit: str, values: list[float], most: float | None) -> Row:
    row = describe_case(context.task(problem, k, max_iter=1), case, unit, NAME)
    row.update(status="ok", check={"ok": True, "why": ""}, **summary(values))
    row["limits"] = dict(context.limits.values)
    if most is not None and context.real_size:
        row["target"] = {"value": most}
    return row


def _products(context: Context) -> Iterator[Row]:
    from nmfcore.rows.memory import as_rows

    for dtype in ("float32", "uint8", "float64"):
        problem = context.problem("mnist", dtype)
        compute = np.float64 if dtype == "float64" else np.float32
        n, m = problem.X.shape
        for k in context.cases((15, 16, 32, 45), smoke=1):
            data = as_rows(problem.X, compute, context.threads)
            rng = np.random.RandomState(0)
            W, Ht = rng.rand(n, k).astype(compute), rng.rand(m, k).astype(compute)
            values = []
            for _ in range(context.repeats + 1):
                rate = context.limits.sample(np.dtype(compute).name)
                gemm = rate[f"{machine.GEMM[np.dtype(compute).name]}_{context.threads}t_gflops"] * 1e9
                seconds = _clock(lambda: (data.products(Ht), data.transposed_products(W)))  # noqa: B023
                values.append(seconds / (4.0 * n * m * k / gemm))
            yield _row(context, problem, k, "products", "× floor", values[1:], 1 / (0.7 if k >= 32 else 0.6))


def _sweeps(context: Context) -> Iterator[Row]:
    """W's sweep: the pass with one sweep, less the pass without any."""
    from nmfcore.backends import cpu
    from nmfcore.rows.memory import as_rows

    problem = context.problem("mnist", "uint8")
    n, m = problem.X.shape
    for k in context.cases((15, 45), smoke=1):
        data = as_rows(problem.X, np.float32, context.threads)
        rng = np.random.RandomState(0)
        W, Ht, out = rng.rand(n, k).astype("f4"), rng.rand(m, k).astype("f4"), np.empty((n, k), "f4")
        G, order = cpu.gram(Ht), np.arange(k)

        def sweep(sweeps: int, data: Any = data, k: int = k, W: Any = W, Ht: Any = Ht, out: Any = out, G: Any = G,
                  order: Any = order) -> float:  # fmt: skip
            lanes = len(data.plan(k).lanes)
            sums = [(np.zeros((m, k)), np.zeros((k, k)), np.zeros(cpu.STATS)) for _ in range(lanes)]

            def visit(lane: int, lo: int, hi: int, block: Any) -> None:
                cpu.descend(block, W[lo:hi], Ht, G, 0.0, 0.0, order, sweeps, 0.0, out[lo:hi], *sums[lane])

            return _clock(lambda: data.visit_all(visit, k))

        sweep(1)
        pairs = [(sweep(1), sweep(0)) for _ in range(context.repeats)]
        values = [max(with_one - without, 0.0) / with_one for with_one, without in pairs]
        yield _row(context, problem, k, "W sweep, share of the pass", "", values, max(0.1, k / m))


def _child(context: Context, n: int, m: int, k: int, threads: int, **environment: str) -> list[float]:
    arguments = [str(value) for value in (n, m, k, threads, 1 if context.smoke else 5)]
    return child(CHILD, *arguments, threads=threads, environment=environment)[1]


def _threads(context: Context) -> Row:
    problem = context.problem("mnist", "uint8")
    n, m = problem.X.shape
    gemm = [
        median(context.limits.gemm("float32", context.threads, 3)) / median(context.limits.gemm("float32", 1, 3))
        for _ in range(3)
    ]
    values = []
    for _ in range(1 if context.smoke else 3):
        one, all_ = (median(_child(context, n, m, 15, threads)) for threads in (1, context.threads))
        values.append(median(gemm) / (one / all_))
    return _row(context, problem, 15, f"speed-up of {context.threads} threads: gemm's / ours", "×", values, 1 / 0.95)


def _rows(context: Context) -> Row:
    problem = context.problem("mnist", "uint8")
    few, many = (1000, 4000) if context.smoke else (100_000, 1_000_000)
    values = []
    for _ in range(1 if context.smoke else 3):
        at = {n: median(_child(context, n, 784, 15, context.threads)) / n for n in (few, many)}
        values.append(at[many] / at[few])
    return _row(context, problem, 15, f"time per row at {many:,} rows / at {few:,} (generated)", "×", values, 1.15)


def _narrow(context: Context) -> Row:
    problem = context.problem("mnist", "uint8")
    n, m = problem.X.shape
    values = []
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(1 if context.smoke else 2):
            wide = median(_child(context, n, m, 15, context.threads))
            narrow = median(
                _child(context, n, m, 15, context.threads, NUMBA_CACHE_DIR=os.path.join(cache, "2"), **AVX2)
            )
            values.append(narrow / wide)
    return _row(context, problem, 15, "iteration with AVX2 only / with what there is", "×", values, None)


def _clock(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
