"""What the machine is and what it can do: names, versions, gemm rates and memory bandwidth."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

ROOT = Path(__file__).resolve().parents[1]


def describe(packages: list[str]) -> dict[str, Any]:
    """Return machine, versions, commit and date, as written into every record."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_gb": _memory_gb(),
            "system": f"{platform.system()} {platform.machine()}",
            "blas": sorted(
                {
                    f"{lib.get('internal_api')} {lib.get('version')} {lib.get('architecture', '')}"
                    for lib in threadpool_info()
                    if lib.get("user_api") == "blas"
                }
            ),
        },
        "versions": {"python": platform.python_version(), **_versions(packages)},
        "commit": _commit(),
    }


def _versions(packages: list[str]) -> dict[str, str]:
    found = {}
    for name in dict.fromkeys(["numpy", "scipy", "numba", *packages]):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            module = sys.modules.get(name)
            found[name] = getattr(module, "__version__", "not installed")
    return found


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _commit() -> str:
    """Return the commit measured, with "+" when the package differs from it."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--", "nmfcore") else "")
    except (OSError, subprocess.CalledProcessError):
        return "none"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


class Limits:
    """The machine's limits, measured in this run.

    Rates are medians, because the figures they are compared with are; the best is kept beside.
    A noisy machine changes while a run lasts, so :meth:`refresh` measures again before a row.

    Parameters
    ----------
    threads : int
        The threads a contender may use.
    small : bool
        Measure for a smoke run: tiny matrices, numbers without meaning.
    """

    def __init__(self, threads: int, small: bool = False) -> None:
        self.threads = threads
        self.size = 512 if small else 2048
        # twice the array must exceed any last-level cache for the rate to be the memory's
        self.bytes = (16 << 20) if small else (1 << 30)
        self.repeats = 3 if small else 5
        self.values: dict[str, Any] = {"threads": threads, "gemm_size": self.size}

    def measure(self) -> dict[str, Any]:
        """Measure everything once: gemm with one and all threads, read and copy bandwidth."""
        for kind in ("float32", "float64"):
            for threads in dict.fromkeys((1, self.threads)):
                self._gemm(kind, threads)
        self._bandwidth()
        return self.values

    def refresh(self, kind: str) -> dict[str, Any]:
        """Measure again what a floor in compute type `kind` is made of; return a copy."""
        self._gemm(kind, self.threads)
        self._bandwidth(copy=False)
        return dict(self.values)

    def gflops(self, kind: str) -> float:
        return self.values[f"{_GEMM[kind]}_{self.threads}t_gflops"]

    def _note(self, name: str, amount: float, seconds: list[float]) -> None:
        self.values[name] = round(amount / median(seconds) / 1e9, 2)
        self.values[f"{name}_best"] = round(amount / min(seconds) / 1e9, 2)

    def _gemm(self, kind: str, threads: int) -> None:
        rng = np.random.default_rng(0)
        a = rng.random((self.size, self.size)).astype(kind)
        b, out = a.copy(), np.empty_like(a)
        with threadpool_limits(threads, user_api="blas"):
            np.matmul(a, b, out=out)
            seconds = [_clock(np.matmul, a, b, out) for _ in range(self.repeats)]
        self._note(f"{_GEMM[kind]}_{threads}t_gflops", 2.0 * self.size**3, seconds)

    def _bandwidth(self, copy: bool = True) -> None:
        source = np.ones(self.bytes // 8)
        parts = np.array_split(source, self.threads)
        with (
            threadpool_limits(1, user_api="blas"),  # a thread each; BLAS must not add its own
            ThreadPoolExecutor(self.threads) as pool,
        ):
            # x·x streams x once: the second operand comes from the cache line just read
            seconds = [_clock(lambda: list(pool.map(np.dot, parts, parts))) for _ in range(self.repeats)]
            self._note("read_gb_s", source.nbytes, seconds)
            if copy:
                half = source.size // 2
                pairs = [(source[half + i : half + j], source[i:j]) for i, j in _cuts(half, self.threads)]
                seconds = [
                    _clock(lambda: list(pool.map(lambda pair: np.copyto(*pair), pairs))) for _ in range(self.repeats)
                ]
                self._note("copy_gb_s", 2.0 * 8 * half, seconds)  # read and written


_GEMM = {"float32": "sgemm", "float64": "dgemm"}


def _cuts(length: int, parts: int) -> list[tuple[int, int]]:
    edges = [length * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(edges))


def _clock(work: Any, *arguments: Any) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start
