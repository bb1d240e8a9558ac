"""What the machine is and what it can do: names, versions, gemm rates and memory bandwidth."""

from __future__ import annotations

import contextlib
import datetime
import functools
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
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
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

    Rates are medians, because the figures they are compared with are. A shared machine changes by
    the second, so a row with a floor also takes a :meth:`sample` at each turn of the contenders.

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
        # larger than any last-level cache, or the rate would not be the memory's
        self.bytes = (16 << 20) if small else (1 << 30)
        self.repeats = 3 if small else 5
        self.values: dict[str, Any] = {"threads": threads, "gemm_size": self.size}

    def measure(self) -> dict[str, Any]:
        """Measure everything: gemm with one and all threads, read and copy bandwidth."""
        for kind, name in GEMM.items():
            for threads in dict.fromkeys((1, self.threads)):
                rates = self.gemm(kind, threads, self.repeats)
                self.values[f"{name}_{threads}t_gflops"] = median(rates)
                self.values[f"{name}_{threads}t_gflops_best"] = max(rates)
        for what, rates in (("read", self.read(self.repeats)), ("copy", self.copy(self.repeats))):
            self.values[f"{what}_gb_s"] = median(rates)
            self.values[f"{what}_gb_s_best"] = max(rates)
        return self.values

    def sample(self, kind: str) -> dict[str, float]:
        """Return the rates that make a floor in compute type `kind`, as they are at this moment."""
        return {
            f"{GEMM[kind]}_{self.threads}t_gflops": median(self.gemm(kind, self.threads, 3)),
            "read_gb_s": median(self.read(3)),
        }

    def gemm(self, kind: str, threads: int, repeats: int) -> list[float]:
        """Return rates of square matrix products, in GFLOP/s."""
        a, b, out = self._matrices(kind)
        with threadpool_limits(threads, user_api="blas"):
            np.matmul(a, b, out=out)  # wakes the threads
            return [2e-9 * self.size**3 / _clock(np.matmul, a, b, out) for _ in range(repeats)]

    def read(self, repeats: int) -> list[float]:
        """Return rates of reading a large array, in GB/s."""
        parts = np.array_split(self._memory, self.threads)
        with (
            threadpool_limits(1, user_api="blas"),  # a thread each; BLAS must not add its own
            ThreadPoolExecutor(self.threads) as pool,
        ):
            # x·x streams x once: the second operand comes from the cache line just read
            seconds = [_clock(lambda: list(pool.map(np.dot, parts, parts))) for _ in range(repeats)]
        return [1e-9 * self._memory.nbytes / each for each in seconds]

    def copy(self, repeats: int) -> list[float]:
        """Return rates of copying half of a large array to the other, read and written, in GB/s."""
        low, high = np.array_split(self._memory, 2)
        low, high = np.array_split(low, self.threads), np.array_split(high, self.threads)
        with ThreadPoolExecutor(self.threads) as pool:
            seconds = [_clock(lambda: list(pool.map(np.copyto, high, low))) for _ in range(repeats)]
        return [1e-9 * self._memory.nbytes / each for each in seconds]

    @functools.cached_property
    def _memory(self) -> np.ndarray:
        return np.ones(self.bytes // 8)

    @functools.cache  # noqa: B019 - one object a run
    def _matrices(self, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        a = rng.random((self.size, self.size)).astype(kind)
        return a, a.copy(), np.empty_like(a)


GEMM = {"float32": "sgemm", "float64": "dgemm"}


def _clock(work: Any, *arguments: Any) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start
