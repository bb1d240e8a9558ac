"""The kernels against the machine: products, sweeps, threads, many rows, and narrower vectors."""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np

from benchmarks import machine, problems
from benchmarks.harness import Context, Row, child, describe_case, summary

ABOUT = (
    "*products*: X·Ht and Xᵀ·F, X read from memory for each, over 4nmk flops (of the true k) at the square gemm rate "
    "that is measured at each turn. *W sweep*: what a cd iteration spends beyond its products and Grams, as a share of "
    "it. *cd iteration* and *its two products*: both over the same 4nmk flops, for generated X of 25 million numbers. "
    "*sweep*: the time of 10⁹ flops (2nk² each sweep) in sweeps over W as hals makes them. "
    "*rows*: time per row of an iteration at 1,000,000 × 784 over that at 100,000. *threads*: the speed-up of two "
    "threads over one that square gemm shows, over the iteration's. *AVX2*: an iteration with Numba limited to that "
    "instruction set (NUMBA_CPU_NAME), over one without the limit; both in fresh processes."
)
NAME = "nmfcore"
COLUMNS, NUMBERS = (784, 4_096, 12_288, 65_536), 25_165_824  # of X in the rows about shapes

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
    yield list(_shapes(context))
    yield list(_rate_of_sweeps(context))
    yield [_threads(context)]
    yield [_rows(context)]
    yield [_narrow(context)]


def _row(
    context: Context, problem: Any, k: int, case: str, unit: str, values: list[float], most: float | None, **task: Any
) -> Row:
    row = describe_case(context.task(problem, k, max_iter=1, **task), case, unit, NAME)
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


def _generated(context: Context, n: int, m: int, dtype: str) -> problems.Problem:
    n, m = (64, min(m, 2048)) if context.smoke else (max(16, int(n * min(context.scale, 1))), m)
    X = np.random.default_rng(0).integers(0, 256, (n, m), np.uint8).astype(dtype, copy=False)
    return problems.Problem("random", X, True)


def _shapes(context: Context) -> Iterator[Row]:
    """An iteration and its two products for narrow and wide X, as multiples of their flops at the rate of gemm."""
    from nmfcore.loop.session import Limits
    from nmfcore.loop.solve import factorize
    from nmfcore.rows.memory import as_rows
    from nmfcore.solvers import SOLVERS

    for m, dtype in itertools.product(
        context.cases(COLUMNS[::-1], smoke=1), context.cases(("uint8", "float32"), smoke=1)
    ):
        problem = _generated(context, NUMBERS // m, m, dtype)
        n, m = problem.X.shape
        for k in context.cases((100, 50, 15), smoke=1):
            data, rng = as_rows(problem.X, np.float32, context.threads), np.random.RandomState(0)
            W, Ht = rng.rand(n, k).astype("f4"), rng.rand(m, k).astype("f4")

            def passes(count: int, data: Any = data, W: Any = W, Ht: Any = Ht) -> float:
                return _clock(lambda: factorize(data, SOLVERS["cd"](), W, Ht, Limits(0, count), measure=False))

            def products(data: Any = data, W: Any = W, Ht: Any = Ht) -> float:
                return _clock(lambda: (data.products(Ht), data.transposed_products(W)))

            passes(1), products()
            values: dict[str, list[float]] = {"cd iteration": [], "cd, its two products": []}
            for _ in range(context.repeats):
                floor = 4e-9 * n * m * k / median(context.limits.gemm("float32", context.threads, 1))
                values["cd iteration"].append((passes(4) - passes(1)) / 3 / floor)
                values["cd, its two products"].append(products() / floor)
            for case, found in values.items():
                yield _row(context, problem, k, case, "× floor", found, 1 / 0.7, init="random")


def _rate_of_sweeps(context: Context) -> Iterator[Row]:
    """Sweeps over the rows of W as "hals" makes them: the time of nine less that of one."""
    from nmfcore.backends import cpu
    from nmfcore.rows.memory import as_rows

    k = 50
    problem = _generated(context, 32_000, 784, "uint8")
    n = problem.X.shape[0]
    rng = np.random.RandomState(0)
    W, Ht, out = rng.rand(n, k).astype("f4"), rng.rand(784, k).astype("f4"), np.empty((n, k), "f4")
    G, order, none = cpu.gram(Ht), np.arange(k), np.zeros((0, 0))
    C, data = 1.01 * (W @ G), as_rows(W, np.float32, context.threads)

    def sweep(sweeps: int) -> float:
        def part(lo: int, hi: int, stats: Any) -> None:
            step = (W[lo:hi], G, C[lo:hi], 0.0, 0.0, order, out[lo:hi], none, stats)
            cpu.sweep(*step, sweeps, 1e-30)  # so little that no row rests

        return _clock(lambda: data.map_rows(part, n, 2.0 * sweeps * n * k * k, ((cpu.STATS,),)))

    sweep(1)
    values = [(sweep(9) - sweep(1)) / (8 * 2e-9 * n * k * k) for _ in range(context.repeats)]
    yield _row(context, problem, k, "sweep, seconds per 10⁹ flops", "s", values, 1 / 30, init="random")


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
