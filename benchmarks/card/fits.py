"""Whole fits: iterations, calls, and the errors that the CPU has after the same start."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import problems

from . import GOLDENS, ROOT, Case, Row

SHAPES = {"mnist": (70_000, 784, 0.8), "cats": (15_747, 4_096, 0.0)}
SMALL = {"mnist": (70, 33, 0.8), "cats": (40, 49, 0.0)}
SOLVERS = {"hals": {}, "cd": {}, "mu": {"beta_loss": "kullback-leibler"}}
FEW, MANY = 100, 600  # passes: their difference leaves uploads, start and the final error out
CALL = {"solver": "hals", "init": "auto", "tol": 1e-4, "max_iter": 1000, "random_state": 0}


def data(problem: str, smoke: bool) -> np.ndarray:
    """Return generated pictures, uint8; kept among temporary files for the processes to come."""
    n, m, zeros = (SMALL if smoke else SHAPES)[problem]
    kept = Path(tempfile.gettempdir()) / f"nmfcore-card-{problem}-{n}x{m}.npy"
    if not kept.exists():
        beside = kept.with_suffix(f".{time.time_ns()}.npy")
        np.save(beside, problems.pictures(n, m, zeros))
        beside.replace(kept)
    return np.load(kept)


def start(X: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return factors to begin with, the same everywhere; X may live on the device."""
    random, scale = np.random.RandomState(k), np.sqrt(float(X.mean(dtype=np.float64)) / k)
    n, m = X.shape
    W = np.tile(random.random_sample((1000, k)), (-(-n // 1000), 1))[:n]
    return (scale * W).astype(np.float32), (scale * random.random_sample((k, m))).astype(np.float32)


def model(k: int, solver: str, passes: int, **more: Any) -> Any:
    """Return the estimator that makes so many passes from a given start."""
    from nmfcore import NMF

    return NMF(k, **({"solver": solver, "init": "custom", "tol": 0, "max_iter": passes} | SOLVERS[solver] | more))


def references(smoke: bool = False) -> dict[str, Any]:
    """Return the CPU's errors: what the device's fits are compared with."""
    found: dict[str, Any] = {}
    for problem, solver, k in wanted(smoke):
        X = data(problem, smoke)
        W, H = start(X, k)
        fitted = model(k, solver, 5 if smoke else FEW, device="cpu").fit(X, W=W, H=H)
        found[f"{problem} {solver} k={k}"] = {"error": float(fitted.reconstruction_err_), "data": zlib.crc32(X)}
        print(f"{problem} {solver} k={k}: {fitted.reconstruction_err_:.8g}", flush=True)
    from nmfcore import NMF

    for problem in SHAPES:
        X = data(problem, smoke)
        fitted = NMF(15, device="cpu", **CALL).fit(X)
        found[f"{problem} call"] = {
            "error": float(fitted.reconstruction_err_), "n_iter": int(fitted.n_iter_), "data": zlib.crc32(X),
        }  # fmt: skip
        print(f"{problem} call: {fitted.reconstruction_err_:.8g} after {fitted.n_iter_}", flush=True)
    return found


def wanted(smoke: bool) -> list[tuple[str, str, int]]:
    """Return problem, solver and k of the fits whose passes are timed, the most wanted first."""
    if smoke:
        return [("mnist", solver, 5) for solver in SOLVERS]
    return [
        *(("mnist", solver, 15) for solver in SOLVERS), ("cats", "hals", 15), ("mnist", "hals", 64),
        ("cats", "hals", 64),
        ("mnist", "cd", 64), ("mnist", "mu", 64),
    ]  # fmt: skip


def checked(name: str, X: np.ndarray, error: float, allowed: float, known: dict[str, Any] | None = None) -> Row:
    """Return an error beside the CPU's of the same fit, if that is known and X is the same."""
    path = GOLDENS / "fits.json"
    if known is None:
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    row: Row = {"error": error}
    if name in known:
        row["data_as_golden"] = zlib.crc32(np.ascontiguousarray(X)) == known[name]["data"]
        row["error_ratio"] = error / known[name]["error"]
        row["wrong"] = row["data_as_golden"] and not row["error_ratio"] <= allowed
    return row


@contextlib.contextmanager
def turns_of_fits(graphs: bool) -> Iterator[list[Any]]:
    """Let passes that repeat themselves be launched as graphs, or not; yield what says how often they were."""
    from nmfcore.backends.cuda_graphs import Turns
    from nmfcore.rows.device import DeviceRows

    made: list[Any] = []

    def turns(rows: Any) -> Turns:
        made.append(Turns(graphs))
        return made[-1]

    with mock.patch.object(DeviceRows, "turns", turns):
        yield made


class Fits:
    """Fits on the device."""

    def __init__(self, smoke: bool):
        from nmfcore.backends import cuda

        self.xp, self.smoke = cuda.cupy(), smoke
        self.known: dict[str, Any] | None = {} if smoke else None  # errors are known of the real sizes only

    def cases(self) -> list[Case]:
        """Return what to time, the most wanted first."""
        made = [Case("call mnist", lambda: self.call("mnist"))]
        for problem, solver, k in wanted(self.smoke):
            for stored in ("uint8", "float32"):
                made.append(
                    Case(f"passes {problem} {solver} {stored} k={k}",
                         lambda p=problem, v=solver, s=stored, k=k: self.passes(p, v, s, k))
                )  # fmt: skip
        made += [] if self.smoke else [Case("call cats", lambda: self.call("cats"))]
        made += [Case("processes", self.processes)]
        return made

    def passes(self, problem: str, solver: str, stored: str, k: int) -> Iterator[Row]:
        """(Time of many passes − time of a few) / difference, from one start; with graphs and without."""
        host = data(problem, self.smoke)
        W, H = start(host, k)
        X = self.xp.asarray(host.astype(stored))
        few, many = (3, 12 if solver == "cd" else 5) if self.smoke else (FEW, MANY)
        floor, errors = 2 * X.nbytes / 4.3e12, {}
        for graphs in (True, False):
            seconds, fitted = {}, {}
            with turns_of_fits(graphs) as turns:
                for count in (few, many, few) if graphs else (many, few):  # the first one loads modules
                    self.xp.cuda.runtime.deviceSynchronize()
                    begun = time.perf_counter()
                    fitted[count] = model(k, solver, count).fit(X, W=W, H=H)
                    self.xp.cuda.runtime.deviceSynchronize()
                    seconds[count] = time.perf_counter() - begun
            each = (seconds[many] - seconds[few]) / (many - few)
            errors[graphs] = float(fitted[many].reconstruction_err_)
            row = {"case": "pass", "problem": problem, "solver": solver, "stored": stored, "k": k, "graphs": graphs,
                   "us": 1e6 * each, "floor_us": 1e6 * floor, "share_of_floor": floor / each if each > 0 else None,
                   "few_s": seconds[few], "many_s": seconds[many], "replayed": sum(each.replayed for each in turns),
                   "as_with_graphs": errors[graphs] == errors[True]}  # fmt: skip
            error = float(fitted[few].reconstruction_err_)
            yield row | checked(f"{problem} {solver} k={k}", host, error, 1.002, self.known)

    def call(self, problem: str) -> Iterator[Row]:
        """Fit as a user does, X on the host and on the card."""
        from nmfcore import NMF

        host = data(problem, self.smoke)
        k, settings = 5 if self.smoke else 15, CALL | ({"max_iter": 5, "tol": 0} if self.smoke else {})
        for where, X, device in (("card", self.xp.asarray(host), None), ("host", host, "cuda")):
            seconds, fitted = [], None
            for _ in range(2 if self.smoke else 4):
                self.xp.cuda.runtime.deviceSynchronize()
                begun = time.perf_counter()
                fitted = NMF(k, device=device, **settings).fit(X)
                self.xp.cuda.runtime.deviceSynchronize()
                seconds.append(time.perf_counter() - begun)
            row = {"case": "whole call", "problem": problem, "where": where, "k": k, "us": 1e6 * sorted(seconds[1:])[0],
                   "first_us": 1e6 * seconds[0], "n_iter": int(fitted.n_iter_)}  # fmt: skip
            yield row | checked(f"{problem} call", host, float(fitted.reconstruction_err_), 1.005, self.known)

    def processes(self) -> Iterator[Row]:
        """Time a first fit in a fresh process, what was compiled before read from the disk."""
        code = (
            "import time; a = time.perf_counter()\n"
            "import numpy as np\n"
            "from nmfcore import NMF\n"
            "b = time.perf_counter()\n"
            "X = np.random.RandomState(0).randint(0, 256, (2000, 300)).astype(np.uint8)\n"
            "fits = []\n"
            "for _ in range(2):\n"
            "    c = time.perf_counter()\n"
            "    NMF(15, solver='hals', device='cuda', max_iter=20, tol=0, random_state=0).fit(X)\n"
            "    fits.append(time.perf_counter() - c)\n"
            "print(b - a, *fits)\n"
        )
        if self.smoke:
            yield {"case": "fresh process", "status": "skipped", "why": "the stand-in lives in this process alone"}
            return
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True,
                              timeout=60, check=False)  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stderr[-300:])
        imports, first, later = map(float, done.stdout.split())
        yield {"case": "fresh process", "import_s": imports, "first_fit_s": first, "later_fit_s": later}
