"""How a figure is measured: interleaved repeats, the answer checked before a time is told.

A figure yields *rows*: one dict for each (case, contender), which :mod:`benchmarks.records` prints
and keeps. Everything that decides whether a number can be trusted lives in this file.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import scipy.sparse as sp

from benchmarks import machine, problems
from benchmarks.contenders import REFERENCE, Contender, Result, Task, shared_start

Row = dict[str, Any]
Sample = Callable[[Contender, Task], tuple[float, Result]]
Check = Callable[[Task, Result, Result], dict[str, Any]]

SMOKE_STAND_INS = {"mnist": "random-pictures", "cats": "random-pictures", "bbc": "random-text"}


@dataclass
class Context:
    """What a figure needs to know of the run it is part of."""

    folder: Path | None
    contenders: dict[str, Contender]
    limits: machine.Limits
    repeats: int = 5
    threads: int = 2
    smoke: bool = False
    full: bool = False
    scale: float = 1.0
    quick: bool = False
    only: str = ""
    out: Path | None = None

    def __post_init__(self) -> None:
        for contender in self.contenders.values():
            contender.threads = self.threads

    @property
    def drop_ins(self) -> dict[str, Contender]:
        """The contenders that do scikit-learn's very work: the same iterates, the same calls."""
        return {name: each for name, each in self.contenders.items() if each.drop_in}

    @property
    def real_size(self) -> bool:
        """Whether the figures' targets apply."""
        return not self.smoke and self.scale >= 1

    def problem(self, name: str, dtype: Any = None) -> problems.Problem:
        """Load a problem, smaller when the run asks for it; the name then says so."""
        if self.smoke:
            name = SMOKE_STAND_INS.get(name, name)
        rows = None
        if self.scale < 1:
            whole = problems.load(name, self.folder).X.shape[0]
            rows = max(16, int(whole * self.scale))
        return problems.load(name, self.folder, dtype, rows)

    def cases(self, every: Sequence[Any], smoke: int = 2) -> Sequence[Any]:
        """Return the cases of a figure to run: all of them, the first few in a smoke run."""
        return every[:smoke] if self.smoke else every

    def task(self, problem: problems.Problem, k: int, **settings: Any) -> Task:
        """Return a task; with init "custom" it carries the shared start."""
        if settings.get("init", "custom") == "custom":
            settings["W0"], settings["H0"] = shared_start(problem, k)
        return Task(problem, k, **settings)


# ---- samples: one value from one contender ------------------------------------------------------


def whole(contender: Contender, task: Task) -> tuple[float, Result]:
    """Time one call, in seconds."""
    prepared = contender.prepare(task)
    gc.collect()
    start = time.perf_counter()
    result = contender.run(task, prepared)
    return time.perf_counter() - start, result


def averaged(calls: int) -> Sample:
    """Time `calls` calls in a row and return seconds per call, for calls shorter than noise."""

    def sample(contender: Contender, task: Task) -> tuple[float, Result]:
        prepared = [contender.prepare(task) for _ in range(calls)]
        gc.collect()
        start = time.perf_counter()
        for each in prepared:
            result = contender.run(task, each)
        return (time.perf_counter() - start) / calls, result

    return sample


def per_iteration(first: int) -> Sample:
    """Time an iteration: (time of max_iter) − (time of `first`), divided by the difference.

    Validation, conversion of X and the start cost the same in both and drop out. A value can come
    out negative on a noisy machine; it is kept in the record, but no ratio is formed with it.
    """

    def sample(contender: Contender, task: Task) -> tuple[float, Result]:
        short, _ = whole(contender, replace(task, max_iter=first))
        long, result = whole(contender, task)
        return (long - short) / (task.max_iter - first), result

    return sample


# ---- the comparison -----------------------------------------------------------------------------


def compare(
    context: Context,
    task: Task,
    sample: Sample,
    check: Check,
    *,
    case: str,
    unit: str = "s",
    repeats: int | None = None,
    target: dict[str, float] | None = None,
    roofline: bool = False,
    warm_up: Sample = whole,
) -> list[Row]:
    """Measure one case with every contender that can run it.

    The first call of each contender warms it up (kernels compiled, pages touched) and is reported
    beside. Then the contenders take turns, A B A B; the ratio is formed turn by turn, so that a
    slow minute of the machine falls on both. A contender whose first answer is wrong gets no time.

    Parameters
    ----------
    context : Context
    task : Task
    sample : callable
        Returns a value and the factors it came with.
    check : callable
        ``check(task, result, reference)`` → dict with ``ok`` and ``why``.
    case : str
        Distinguishes the rows of a figure, such as "whole fit".
    unit : str
        Unit of the values.
    repeats : int, optional
        Turns; the run's own by default.
    target : dict, optional
        ``{"ratio": at least}`` or ``{"value": at most}``.
    roofline : bool
        Add the share of the machine's floor; `sample` must then return seconds per iteration.
    warm_up : callable
        The sample that warms up, with ``max_iter=1``.

    Returns
    -------
    rows : list of dict
        One for each drop-in contender, also for those skipped or wrong.
    """
    rows: dict[str, Row] = {}
    for name, contender in context.drop_ins.items():
        row = describe_case(task, case, unit, name)
        reason = contender.unavailable() or contender.skip(task)
        if reason:
            row.update(status="skipped", why=reason)
        rows[name] = row
    able = {name: context.contenders[name] for name, row in rows.items() if "status" not in row}

    brief = replace(task, max_iter=1)
    kinds: dict[str, str] = {}
    for name in list(able):
        with _failure_noted(name, rows, able):
            cold, result = warm_up(able[name], brief)
            warm, _ = warm_up(able[name], brief)
            rows[name]["warm_up"] = {"cold_s": cold, "warm_s": warm}
            kinds[name] = str(result.W.dtype)

    values: dict[str, list[float]] = {name: [] for name in able}
    rates: dict[str, list[dict[str, float]]] = {kind: [] for kind in sorted(set(kinds.values()))}
    for turn in range(repeats or context.repeats):
        answers = {}
        for kind in rates if roofline else ():  # the machine itself takes its turn
            rates[kind].append(context.limits.sample(kind))
        for name in list(able):
            with _failure_noted(name, rows, able):
                value, answers[name] = sample(able[name], task)
                values[name].append(value)
        if turn == 0:
            for name in _wrong(task, rows, answers, check):
                del able[name]

    reference = values[REFERENCE] if REFERENCE in able else None
    for name in able:
        row, measured = rows[name], values[name]
        row.update(status="ok", **summary(measured))
        if reference and name != REFERENCE:
            row["ratio"] = pairwise(reference, measured)
        if target and name != REFERENCE and context.real_size:
            row["target"] = target
        if roofline:
            row["floor"] = floor(task, kinds[name], rates[kinds[name]], measured, context.threads)
        row["limits"] = dict(context.limits.values)
    return list(rows.values())


@contextlib.contextmanager
def _failure_noted(name: str, rows: dict[str, Row], able: dict[str, Contender]) -> Iterator[None]:
    """Note an exception in the contender's row and drop it: the others keep their figure."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        rows[name].update(status="FAILED", why=f"{type(error).__name__}: {error}")
        del able[name]


def _wrong(task: Task, rows: dict[str, Row], answers: dict[str, Result], check: Check) -> list[str]:
    """Check every answer against the reference's; return the names to leave out."""
    wrong = []
    reference = answers.get(REFERENCE)
    for name, answer in answers.items():
        if name == REFERENCE:
            rows[name]["check"] = {"ok": True, "why": "", "n_iter": int(answer.n_iter)}
            continue
        if reference is None:
            rows[name]["check"] = {"ok": True, "why": "no reference was run; nothing compared"}
            continue
        found = rows[name]["check"] = check(task, answer, reference)
        if not found["ok"]:
            rows[name].update(status="WRONG", why=found["why"])
            wrong.append(name)
    return wrong


def describe_case(task: Task, case: str, unit: str, contender: str) -> Row:
    """Return the part of a row that says what was asked."""
    return {
        "case": case,
        "problem": task.problem.describe(),
        "k": task.k,
        "solver": task.solver,
        "beta": task.beta,
        "call": task.call,
        "init": task.init,
        "tol": task.tol,
        "max_iter": task.max_iter,
        "contender": contender,
        "unit": unit,
    }


def summary(values: list[float]) -> Row:
    """Return median, extremes and relative spread of the repeats, and the repeats."""
    middle = median(values)
    return {
        "values": values,
        "median": middle,
        "min": min(values),
        "max": max(values),
        "spread": (max(values) - min(values)) / middle if middle > 0 else float("nan"),
    }


def pairwise(reference: list[float], values: list[float]) -> Row:
    """Return reference/value of each turn: how many times faster, median and extremes."""
    ratios = [a / b for a, b in zip(reference, values, strict=True) if min(a, b) > 0]
    ratios = ratios or [float("nan")]  # differences that all drown in noise tell nothing
    return {"of": REFERENCE, "median": median(ratios), "min": min(ratios), "max": max(ratios)}


def floor(task: Task, kind: str, rates: list[dict[str, float]], values: list[float], threads: int) -> Row:
    """Return the least time an iteration can take on this machine, and the share reached.

    The longer of the products' flops at the square gemm rate of the compute type and the bytes of
    X at the read bandwidth. Frobenius: X·Ht and Xᵀ·W, 4nmk, and two sweeps or Gram products, 4nk².
    Other beta: WH formed twice and a numerator for each factor, 8nmk; where the denominators are
    products too (beta ≠ 1), 12nmk; powers and logarithms count as free. Sparse X has nnz for nm,
    but for WH and the denominators of beta ∉ {1, 2}, which are dense.

    Parameters
    ----------
    task : Task
    kind : str
        Compute type, "float32" or "float64".
    rates : list of dict
        The machine's rates at each turn.
    values : list of float
        Seconds per iteration at each turn.
    threads : int
    """
    X, k = task.problem.X, task.k
    n, m = X.shape
    stored = X.nnz if sp.issparse(X) else n * m
    if task.beta == 2:
        flops = 4 * stored * k + 4 * n * k * k
    elif task.beta == 1:
        flops = 8 * stored * k
    else:
        flops = 4 * stored * k + 8 * n * m * k
    moved = X.nbytes if not sp.issparse(X) else X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
    gemm = f"{machine.GEMM[kind]}_{threads}t_gflops"
    at_rate = [flops / (rate[gemm] * 1e9) for rate in rates]
    at_bandwidth = [moved / (rate["read_gb_s"] * 1e9) for rate in rates]
    least = [max(pair) for pair in zip(at_rate, at_bandwidth, strict=True)]
    return {
        "compute": kind,
        "flops": flops,
        "bytes": int(moved),
        "bound": "flops" if median(at_rate) >= median(at_bandwidth) else "bytes",
        "rates": {name: [rate[name] for rate in rates] for name in rates[0]},
        "seconds": median(least),
        "share": median([a / b for a, b in zip(least, values, strict=True) if b > 0] or [float("nan")]),
    }


# ---- fresh processes ----------------------------------------------------------------------------


def child(
    code: str, *arguments: str, threads: int, environment: dict[str, str] | None = None
) -> tuple[float, dict[str, Any]]:
    """Run Python code in a fresh process; return its wall time and the JSON of its last line.

    The process finds the nmfcore this one would import and uses `threads` BLAS threads. It is
    started by a tiny relay, because ru_maxrss of a process begins at the size of its parent.
    """
    settings = dict(os.environ, **(environment or {}))
    settings.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is not compiled in each process
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        settings[name] = str(threads)
    found = importlib.util.find_spec("nmfcore")
    if found and found.origin:
        home = str(Path(found.origin).resolve().parents[1])
        settings["PYTHONPATH"] = os.pathsep.join(filter(None, [home, settings.get("PYTHONPATH", "")]))
    # the relay times its child, so that its own start is not counted
    relay = (
        "import subprocess,sys,time; t=time.perf_counter(); p=subprocess.run(sys.argv[1:]); "
        "print(time.perf_counter()-t); sys.exit(p.returncode)"
    )
    command = [sys.executable, "-S", "-c", relay]
    command += [sys.executable, "-W", "ignore", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=settings)
    if done.returncode:
        raise RuntimeError(f"a fresh process failed:\n{done.stderr.strip()[-2000:]}")
    *_, told, seconds = done.stdout.strip().splitlines()
    return float(seconds), json.loads(told)
