"""The GPU's figures for a user, in one command; `device.py` is the script for a card that is there for minutes only.

::

    python benchmarks/gpu.py                       # generated data of the real sizes
    python benchmarks/gpu.py --data pictures.npz   # arrays "mnist" and "cats", uint8, one picture a row

First iterations against the floors of the card, whole calls, and the peers that are installed; then the parity suite
(``pytest -m gpu``) and compute-sanitizer, where the host has it. Each row is appended to
benchmarks/results/gpu.jsonl, with versions and date, before the next is measured; what fails is a row, too.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import device, problems, records  # noqa: E402
from benchmarks.card import fits, said  # noqa: E402

Row = dict[str, Any]
OUT = ROOT / "benchmarks" / "results" / "gpu.jsonl"
# Bytes and flops a second that the floors of GPU.md take for an H200; of another card as measured here.
FP32, BF16_SPLIT, TF32_SPLIT = 67e12, 989e12 / 3, 494e12 / 3


def main() -> int:
    """Parse, check, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help='.npz with the arrays "mnist" and "cats"; without it they are made')
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--no-tests", action="store_true", help="only the figures")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rows, for a try")
    chosen = parser.parse_args()

    from nmfcore.backends import cuda

    reason = cuda.probe()
    if reason:
        print(f"no figure without a GPU: {reason}")
        return 1
    bench = Bench(chosen.data, chosen.scale)
    print(", ".join(f"{name} {value}" for name, value in bench.machine.items()))
    wrong = False
    for row in bench.rows(tests=not chosen.no_tests):
        records.append(chosen.out, [{**row, "date": time.strftime("%Y-%m-%d"), "machine": bench.machine}])
        print(_line(row), flush=True)
        wrong |= bool(row.get("wrong") or row.get("failed"))
    print(f"records: {chosen.out}")
    return int(wrong)


class Bench:
    """Data on the card, and what to measure with it."""

    def __init__(self, data: Path | None, scale: float):
        from nmfcore.backends import cuda

        self.cupy = cuda.cupy()
        given = np.load(data) if data else {}
        self.X = {
            name: given[name] if name in given else problems.pictures(int(n * scale), m, zeros)
            for name, n, m, zeros in (("mnist", 70000, 784, 0.8), ("cats", 15747, 4096, 0.0))
        }
        self.generated = {name: name not in given for name in self.X}
        self.scale = scale
        self.machine = self._describe()

    def _describe(self) -> Row:
        import nmfcore

        xp = self.cupy
        card = xp.cuda.runtime.getDeviceProperties(xp.cuda.Device().id)
        name = card["name"].decode() if isinstance(card["name"], bytes) else card["name"]
        block = xp.zeros(1 << 28 if self.scale == 1 else 1 << 20, xp.float32)  # 1 GiB, read and written
        seconds = self.clock(lambda: xp.add(block, 1, out=block), 5)
        self.bandwidth = 2 * block.nbytes / seconds
        return {
            "card": name, "copy_gb_s": round(self.bandwidth / 1e9), "cupy": xp.__version__,
            "cuda": xp.cuda.runtime.runtimeGetVersion(), "driver": xp.cuda.runtime.driverGetVersion(),
            "nmfcore": nmfcore.__version__, "numpy": np.__version__, "python": platform.python_version(),
        }  # fmt: skip

    def clock(self, work: Callable[[], Any], repeats: int = 3) -> float:
        """Return the median seconds of a call, the device waited for; the first call is not counted."""
        work()
        values = []
        for _ in range(repeats):
            self.cupy.cuda.runtime.deviceSynchronize()
            start = time.perf_counter()
            work()
            self.cupy.cuda.runtime.deviceSynchronize()
            values.append(time.perf_counter() - start)
        return median(values)

    def rows(self, tests: bool = True) -> Iterator[Row]:
        """Measure everything, the most wanted first; a part that raises is a row, and the next one begins."""
        parts = [self.iterations, self.whole_calls, self.divergence, self.search, self.large, self.peers]
        for part in parts + [self.parity, self.sanitizer] * tests:
            try:
                yield from part()
            except Exception as error:
                yield {"case": part.__name__, "failed": said(error)}

    def _model(self, k: int, **settings: Any) -> Any:
        from nmfcore import NMF

        return NMF(k, **({"solver": "hals", "init": "random", "tol": 0, "random_state": 0} | settings))

    def per_iteration(
        self, X: Any, k: int, first: int = 100, last: int = 600, **settings: Any
    ) -> tuple[float, Any]:  # fmt: skip
        """(Time of many iterations − time of a few) / difference, from one start: upload and final error drop out.

        Returns the seconds, and the model after the few.
        """
        W, H = fits.start(X, k)
        found: dict[int, Any] = {}

        def fit(passes: int) -> None:
            found[passes] = self._model(k, init="custom", max_iter=passes, **settings).fit(X, W=W, H=H)

        short, long = (self.clock(lambda passes=passes: fit(passes)) for passes in (first, last))
        return (long - short) / (last - first), found[first]

    def iterations(self) -> Iterator[Row]:
        """One pass of hals, X on the card, beside the longer of two reads of X and the products' flops."""
        for name, host in self.X.items():
            for stored in ("float32", "uint8"):
                X = self.cupy.asarray(host.astype(stored))
                n, m = X.shape
                for k in (15, 64):
                    rate = BF16_SPLIT if stored == "uint8" else FP32 if k == 15 else TF32_SPLIT
                    floor = max(2 * X.nbytes / self.bandwidth, 4 * n * m * k / rate)
                    seconds, model = self.per_iteration(X, k)
                    checked = fits.checked(f"{name} hals k={k}", host, float(model.reconstruction_err_), 1.002)
                    yield self._row(
                        name, X, k, "hals iteration", seconds, floor=floor, target="≤ 1.5 × the floor", **checked
                    )  # fmt: skip

    def whole_calls(self) -> Iterator[Row]:
        """MNIST k = 15 as a user calls it, and the CPU's whole call on this machine for the ratio and the check."""
        host = self.X["mnist"]
        settings = {"init": "auto", "tol": 1e-4, "max_iter": 1000}
        self._model(15, device="cpu", **settings | {"max_iter": 2}).fit(host)  # its kernels are compiled, once
        start = time.perf_counter()
        on_cpu = self._model(15, device="cpu", **settings).fit(host)
        of_cpu = time.perf_counter() - start
        for what, X, where, target in (
            ("whole call from host uint8", host, "cuda", 0.060),
            ("whole call, X on the card", self.cupy.asarray(host), None, 0.015),
        ):
            found: list[Any] = []

            def fit(X: Any = X, where: Any = where, found: list[Any] = found) -> None:
                found[:] = [self._model(15, device=where, **settings).fit(X)]

            seconds = self.clock(fit)
            worse = found[0].reconstruction_err_ / on_cpu.reconstruction_err_
            yield self._row(
                "mnist", host, 15, what, seconds, target=f"≤ {target * 1e3:g} ms", ratio_to_cpu=of_cpu / seconds,
                error_ratio=float(worse), wrong=bool(worse > 1.002),
            )  # fmt: skip

    def divergence(self) -> Iterator[Row]:
        """One iteration of mu, Kullback–Leibler: 8nmk flops or two reads of X."""
        X = self.cupy.asarray(self.X["mnist"].astype(np.float32))
        n, m = X.shape
        floor = max(2 * X.nbytes / self.bandwidth, 8 * n * m * 15 / FP32)
        seconds, model = self.per_iteration(X, 15, solver="mu", beta_loss="kullback-leibler")
        checked = fits.checked("mnist mu k=15", self.X["mnist"], float(model.reconstruction_err_), 1.002)
        yield self._row(
            "mnist", X, 15, "mu iteration, KL", seconds, floor=floor, target="≤ 1.5 × the floor", **checked
        )  # fmt: skip

    def search(self) -> Iterator[Row]:
        """Find the top 10 of 70,000 codes at k = 15 for all of them."""
        from nmfcore.search.cosine import cosine_topk

        codes = self._model(15, max_iter=20).fit_transform(self.cupy.asarray(self.X["mnist"]))
        seconds = self.clock(lambda: cosine_topk(codes, codes, 10))
        few = np.random.RandomState(0).choice(len(codes), 200, replace=False)
        scores, _ = cosine_topk(codes[few], codes, 10)
        expected, _ = cosine_topk(self.cupy.asnumpy(codes[few]), self.cupy.asnumpy(codes), 10)
        off = float(np.abs(self.cupy.asnumpy(scores) - expected).max())
        yield self._row("mnist codes", codes, 15, "top 10 of all for all", seconds, target="≤ 5 ms", wrong=off > 1e-14)

    def large(self) -> Iterator[Row]:
        """Run a hundred iterations at 1e6 × 4096 float32, k = 64, where they fit."""
        n, m = int(1e6 * self.scale), 4096
        free = self.cupy.cuda.runtime.memGetInfo()[0]
        if n * m * 4 * 1.3 > free:
            yield {
                "case": "1e6 × 4096, 100 iterations",
                "skipped": f"needs {n * m * 4 * 1.3 / 1e9:.0f} GB, {free / 1e9:.0f} free",
            }
            return
        X = self.cupy.random.default_rng(0).random((n, m), dtype=self.cupy.float32)
        seconds, _ = self.per_iteration(X, 64, 5, 25)  # the start, whose random numbers the host makes, drops out
        yield self._row("generated", X, 64, "100 iterations of hals", 100 * seconds, target="≤ 2 s")

    def peers(self) -> Iterator[Row]:
        """Time of the torch packages to the error that nmfcore has after 30 passes, where they are installed."""
        host = self.X["mnist"].astype(np.float32)
        X = self.cupy.asarray(host)
        model = self._model(15, max_iter=30)
        ours = self.clock(lambda: model.fit(X))
        target = model.reconstruction_err_ / float(np.linalg.norm(host))
        yield self._row("mnist", X, 15, "30 passes, to compare with", ours, relative_error=target)
        for name, run in (("plain CuPy HALS", _plain_cupy), ("torchnmf", _torchnmf), ("nmf-torch", _nmf_torch)):
            try:
                seconds, error = run(host, 15, target)
            except Exception as problem:
                yield {"case": f"{name} to the same error", "skipped": f"{type(problem).__name__}: {problem}"}
                continue
            yield self._row(
                "mnist", X, 15, f"{name} to the same error", seconds, relative_error=error,
                reached=bool(error <= 1.001 * target), times_slower=seconds / ours, target="≥ 10 × slower",
            )  # fmt: skip

    def parity(self) -> Iterator[Row]:
        """Run the tests that want a card, for ten minutes at most; no executed test is a failure."""
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "gpu.xml"
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-W",
                "default",
                "-m",
                "gpu",
                f"--junitxml={report}",
                "tests",
            ]
            row = device.tested(report, device.limited(command, 600))
        failed = {} if row.get("status", "ok") == "ok" else {"failed": row.get("why")}
        yield {"case": "pytest -m gpu", **row, **failed}

    def sanitizer(self) -> Iterator[Row]:
        """Run the few operations of `device.py` under compute-sanitizer's memcheck and racecheck."""
        if shutil.which("compute-sanitizer") is None:
            yield {"case": "compute-sanitizer", "skipped": "it is not installed (it comes with the CUDA toolkit)"}
            return
        for tool in ("memcheck", "racecheck"):
            with tempfile.TemporaryDirectory() as folder:
                log = Path(folder) / "log"
                command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable]
                command += [str(ROOT / "benchmarks" / "device.py"), "p2", "--here", "--few", "--out", folder]
                code = device.limited(command, 180, log)
                text = log.read_text(encoding="utf-8", errors="replace")
            if code == 0:
                yield {"case": f"compute-sanitizer, {tool}", "clean": True}
            elif "not supported" in text or "Unable to" in text:
                yield {"case": f"compute-sanitizer, {tool}", "skipped": "this host does not support it"}
            else:
                yield {"case": f"compute-sanitizer, {tool}", "failed": text[-500:]}

    def _row(self, name: str, X: Any, k: int, case: str, seconds: float, **more: Any) -> Row:
        row = {
            "case": case, "problem": name, "shape": list(X.shape), "dtype": str(X.dtype), "k": k, "seconds": seconds,
            "generated": self.generated.get(name, True), "scale": self.scale, **more,
        }  # fmt: skip
        if "floor" in more:
            row["times_floor"] = seconds / more["floor"]
        return row


def _plain_cupy(X: np.ndarray, k: int, target: float) -> tuple[float, float]:
    """HALS as one writes it in CuPy: two products by cuBLAS, then a launch or more per component."""
    import cupy

    V, rng = cupy.asarray(X), cupy.random.default_rng(0)
    scale, norm = float(cupy.sqrt(V.mean() / k)), float(cupy.linalg.norm(V))
    W, H = (scale * rng.random(shape, dtype=cupy.float32) for shape in ((X.shape[0], k), (k, X.shape[1])))
    error, spent = np.inf, 0.0
    while error > 1.001 * target and spent < 30:
        cupy.cuda.runtime.deviceSynchronize()
        start = time.perf_counter()
        for _ in range(10):
            G, C = H @ H.T, V @ H.T
            for t in range(k):
                W[:, t] = cupy.maximum(W[:, t] + (C[:, t] - W @ G[:, t]) / (G[t, t] + 1e-9), 0)
            G, C = W.T @ W, W.T @ V
            for t in range(k):
                H[t] = cupy.maximum(H[t] + (C[t] - G[t] @ H) / (G[t, t] + 1e-9), 0)
        cupy.cuda.runtime.deviceSynchronize()
        spent += time.perf_counter() - start
        error = float(cupy.linalg.norm(V - W @ H)) / norm
    return spent, error


def _torchnmf(X: np.ndarray, k: int, target: float) -> tuple[float, float]:
    import torch
    from torchnmf.nmf import NMF

    V = torch.from_numpy(X).cuda()
    rng, scale = np.random.RandomState(0), float(np.sqrt(X.mean() / k))
    W = torch.from_numpy((scale * rng.rand(X.shape[1], k)).astype(np.float32))
    H = torch.from_numpy((scale * rng.rand(X.shape[0], k)).astype(np.float32))
    model, norm, error = NMF(W=W, H=H).cuda(), float(np.linalg.norm(X)), np.inf
    torch.cuda.synchronize()
    spent = 0.0
    while error > 1.001 * target and spent < 30:
        start = time.perf_counter()
        model.fit(V, beta=2, tol=0, max_iter=50)
        torch.cuda.synchronize()
        spent += time.perf_counter() - start
        error = float(torch.linalg.norm(V - model.H.detach() @ model.W.detach().T)) / norm
    return spent, error


def _nmf_torch(X: np.ndarray, k: int, target: float) -> tuple[float, float]:
    import torch
    from nmf import run_nmf

    run_nmf(X[:1000], k, use_gpu=True, batch_max_iter=2)
    start = time.perf_counter()
    H, W, _ = run_nmf(X, k, init="random", algo="halsvar", tol=1e-5, use_gpu=True, batch_max_iter=500)
    torch.cuda.synchronize()
    spent = time.perf_counter() - start
    return spent, float(np.linalg.norm(X - np.asarray(H) @ np.asarray(W)) / np.linalg.norm(X))


def _line(row: Row) -> str:
    if "failed" in row and "seconds" not in row:
        return f"{row['case']}: FAILED ({row['failed']})"
    if "skipped" in row and "seconds" not in row:
        return f"{row['case']}: skipped ({row['skipped']})"
    if "seconds" not in row:
        return f"{row['case']}: {', '.join(f'{key} {value}' for key, value in row.items() if key != 'case')}"
    parts = [f"{row['problem']} {'×'.join(map(str, row['shape']))} {row['dtype']} k={row['k']} · {row['case']}"]
    parts.append(f"{row['seconds'] * 1e3:.3g} ms")
    for key, words in (("times_floor", "× the floor"), ("ratio_to_cpu", "× faster than the CPU here"),
                       ("error_ratio", "× the CPU's error"), ("times_slower", "× slower than nmfcore")):  # fmt: skip
        if key in row:
            parts.append(f"{row[key]:.4g} {words}")
    if row.get("target"):
        parts.append(f"to reach: {row['target']}")
    if row.get("wrong"):
        parts.append("WRONG")
    return " · ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
