"""Times of kernels on the device, each beside the memory's floor and the arithmetic's."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import Case, Clock, Row

SHAPES = {"mnist": (70_000, 784), "cats": (15_747, 4_096)}
SMALL = {"mnist": (40, 33), "cats": (24, 49)}  # of the smoke run
WIDTHS = (8, 15, 16, 24, 32, 64)
FP32, TF32, BF16 = 67e12, 494e12, 989e12  # flops a second of an H200, by its datasheet


class Kernels:
    """X and factors on the card, and what to time with them."""

    def __init__(self, smoke: bool):
        from nmfcore.backends import cuda, cuda_ops

        self.xp, self.ops, self.smoke = cuda.cupy(), cuda_ops, smoke
        self.clock, self.shapes = Clock(smoke), SMALL if smoke else SHAPES
        self.widths = (15, 32) if smoke else WIDTHS
        self.bandwidth = 4.3e12  # until it has been measured
        self._made: dict[Any, Any] = {}

    # ---- data --------------------------------------------------------------------------------------------------------

    def X(self, problem: str, stored: str) -> Any:
        """Return a matrix of the shape of a problem on the card: any numbers, a share of them zero."""
        if (problem, stored) not in self._made:
            random, shape = np.random.RandomState(0), self.shapes[problem]
            host = random.randint(0, 256, shape).astype(np.uint8)
            if problem == "mnist":
                host[host < 204] = 0
            self._made[problem, stored] = self.xp.asarray(host.astype(stored))
        return self._made[problem, stored]

    def F(self, n: int, k: int, dtype: Any = np.float32) -> Any:
        """Return a factor of n × k, a third of it zero."""
        key = (n, k, np.dtype(dtype).name)
        if key not in self._made:
            F = np.random.RandomState(1).random_sample((n, k)) * (np.random.RandomState(2).random_sample((n, k)) < 0.7)
            self._made[key] = self.xp.asarray(F.astype(dtype))
        return self._made[key]

    def block(self, problem: str, stored: str) -> Any:
        """Return all rows of a matrix as the backend's block."""
        X = self.X(problem, stored)
        return self.ops.cut(X, (0, X.shape[0]))

    def copies(self, problem: str, stored: str) -> list[Any]:
        """Return blocks of as many copies of a matrix as do not fit into the card's cache together."""
        X = self.X(problem, stored)
        count = 2 if self.smoke else min(8, max(1, -(-300_000_000 // X.nbytes)))
        return [self.ops.cut(each, (0, X.shape[0])) for each in [X, *(X.copy() for _ in range(count - 1))]]

    def timed(
        self, case: str, *work: Callable[[], Any], bytes: float, flops: float, rate: float = FP32, **more: Any
    ) -> Row:
        """Time some work beside its floor: bytes from and to memory, or flops at a rate."""
        row = self.clock(*work)
        floor = 1e6 * max(bytes / self.bandwidth, flops / rate)
        best = row["graph_us"] or row["plain_us"]
        return {
            "case": case, **row, "us": best, "floor_us": floor, "share_of_floor": floor / best if best else None,
            "gb_s": bytes / best * 1e-3 if best else None, "tflop_s": flops / best * 1e-6 if best else None, **more,
        }  # fmt: skip

    # ---- cases -------------------------------------------------------------------------------------------------------

    def cases(self) -> list[Case]:
        """Return what to time, the most wanted first."""
        made = [Case("memory", self.memory)]
        for k in self.widths[1:2] if not self.smoke else self.widths:
            made += self._products(k)
        made += [Case("steps k=15", lambda: self.steps(15)), Case("beta k=15", lambda: self.beta(15))]
        wide = (
            [] if self.smoke else [Case("steps k=64", lambda: self.steps(64)), Case("beta k=64", lambda: self.beta(64))]
        )
        for k in self.widths if not self.smoke else ():
            made += self._products(k) if k != self.widths[1] else []
        made += [
            *(Case(f"cuBLAS {kind}", lambda kind=kind: self.cublas(kind)) for kind in ("float32", "TF32", "bfloat16")),
            Case("products out of the cache", self.cold),
            *wide,
            Case("opening", self.opening), Case("search", self.search),
        ]  # fmt: skip
        return made

    def few(self) -> list[Case]:
        """Return the cases for a profiler, which runs each kernel several times."""
        return [Case("products", lambda: self.products("mnist", "uint8", 15)),
                Case("products", lambda: self.products("mnist", "uint8", 32)),
                Case("beta", lambda: self.beta(15))]  # fmt: skip

    def memory(self) -> Iterator[Row]:
        """Copy, and read without writing: the rates that the floors take."""
        xp, size = self.xp, 1 << 14 if self.smoke else 1 << 28  # 1 GiB of float32
        a, b = xp.zeros(size, np.float32), xp.empty(size, np.float32)
        row = self.clock(lambda: xp.add(a, np.float32(1), out=b))
        best = row["graph_us"] or row["plain_us"]
        self.bandwidth = max(2 * a.nbytes / best * 1e6, 1.0)
        yield {"case": "copy", **row, "gb_s": self.bandwidth * 1e-9}
        yield self.timed("sum of 1 GiB by CuPy", lambda: a.sum(), bytes=a.nbytes, flops=0)
        yield self.timed("fill of 1 KiB", lambda: a[:256].fill(0), bytes=1024, flops=0)
        for stored in ("uint8", "float32"):
            X = self.X("mnist", stored)
            yield self.timed(f"max of X {stored} by CuPy", lambda X=X: X.max(), bytes=X.nbytes, flops=0)

    def _products(self, k: int) -> list[Case]:
        return [
            Case(f"products {problem} {stored} k={k}", lambda p=problem, s=stored: self.products(p, s, k))
            for problem in self.shapes for stored in ("uint8", "float32")
        ]  # fmt: skip

    def products(self, problem: str, stored: str, k: int, blocks: list[Any] | None = None) -> Iterator[Row]:
        """X·Ht and XᵀF of all rows."""
        xp, ops, (n, m) = self.xp, self.ops, self.shapes[problem]
        blocks = blocks or [self.block(problem, stored)]
        Ht, F, out, XtF = self.F(m, k), self.F(n, k), xp.empty((n, k), np.float32), xp.zeros((m, k))
        size, flops = blocks[0].X.nbytes, 2.0 * n * m * k
        rate = FP32 if k < 25 else TF32 / 3 if stored == "float32" else TF32 / 2
        facts = {"problem": problem, "stored": stored, "k": k, "copies": len(blocks)}
        yield self.timed(
            "products", *(lambda b=b: ops.products(b, Ht, out) for b in blocks),
            bytes=size + 4 * k * (n + m), flops=flops, rate=rate, **facts,
        )  # fmt: skip
        yield self.timed(
            "add_products", *(lambda b=b: ops.add_products(b, F, XtF) for b in blocks),
            bytes=size + 4 * k * n + 8 * k * m, flops=flops, rate=rate, **facts,
        )  # fmt: skip

    def cold(self) -> Iterator[Row]:
        """Let several copies of X take turns, so that none is in the cache: as in a fit of a larger X."""
        for stored in ("uint8", "float32"):
            yield from self.products("mnist", stored, 15, self.copies("mnist", stored))

    def steps(self, k: int) -> Iterator[Row]:
        """Run all that a pass of hals and cd does beside the products."""
        xp, ops = self.xp, self.ops
        n, m = self.shapes["mnist"]
        F, Ht, C = self.F(n, k), self.F(m, k), self.F(n, k).copy()
        C64, G, order = self.F(m, k, np.float64), ops.gram(Ht), np.arange(k)
        G, out, outH = G + xp.asarray(np.eye(k)), xp.empty_like(F), xp.empty_like(Ht)
        FtF, stats, facts = xp.zeros((k, k)), xp.zeros(ops.STATS + 2 * k), {"k": k}
        rows = 4 * k * n
        for sweeps in (1, 4):
            yield self.timed(
                f"sweep of W, {sweeps}", lambda s=sweeps: ops._sweep(
                    "sweep", F, C, G, (0.0, 0.0), order, s, 0.0, 0.0, out), bytes=3 * rows,
                flops=2.0 * sweeps * n * k * k, **facts,
            )  # fmt: skip
        yield self.timed(
            "sweep of H, 8", lambda: ops._sweep(
                "sweep_given", Ht, C64, G, (0.0, 0.0), order, 8, 0.0, 0.0, outH),
            bytes=16 * k * m, flops=16.0 * m * k * k, **facts,
        )  # fmt: skip
        yield self.timed("gram of W", lambda: ops.gram(F), bytes=rows, flops=2.0 * n * k * k, **facts)
        yield self.timed("gram of H", lambda: ops.gram(Ht), bytes=4 * k * m, flops=2.0 * m * k * k, **facts)
        parts, XtF = xp.zeros((41, m, k)), xp.zeros((m, k))
        yield self.timed(
            "finish, 41 parts", lambda: ops._finish(ops._Parts(parts, m * k, 41), XtF), bytes=parts.nbytes, flops=0,
            **facts,
        )  # fmt: skip
        weighed = ops.Weighed(C64, G, xp.zeros((2 * k, k)))
        yield self.timed(
            "step ahead, 8 sweeps", lambda: ops.step_ahead(
                Ht, Ht, ops.Pace(0.5, 0.5), weighed, weighed, 0.0, 0.0, order, 8, 0.0, 0),
            bytes=60 * k * m, flops=24.0 * m * k * k, **facts,
        )  # fmt: skip
        yield self.timed("column sums", lambda: ops.column_sums(F), bytes=rows, flops=0, **facts)
        yield self.timed(
            "column sums by CuPy", lambda: F.sum(axis=0, dtype=np.float64), bytes=rows, flops=0, **facts
        )  # fmt: skip
        yield self.timed("inner of H", lambda: ops.inner(C64, Ht), bytes=12 * k * m, flops=0, **facts)
        before, scale = self.F(n, k).copy(), np.ones(2 * k, np.float32)
        begin, none = ops.Beginning(before, scale, 0.5, xp.zeros((2 * k, k))), xp.zeros((m, k))
        for name, extra in (("descend, a pass over W", None), ("descend with momentum", begin)):
            yield self.timed(
                name, lambda extra=extra: ops.descend(
                    self.block("mnist", "uint8"), F, Ht, G, 0.0, 0.0, order, 4, 0.0, out, none, FtF, stats, 0.0, extra),
                bytes=2 * self.X("mnist", "uint8").nbytes + 6 * rows, flops=4.0 * n * m * k, **facts,
            )  # fmt: skip

    def beta(self, k: int) -> Iterator[Row]:
        """Run the pass of mu for Kullback–Leibler: rows, columns, and both."""
        xp, ops = self.xp, self.ops
        n, m = self.shapes["mnist"]
        F, Ht, N, D = self.F(n, k), self.F(m, k), xp.zeros((m, k)), xp.zeros((1, k))
        out, stats, nothing = xp.empty_like(F), xp.zeros(ops.STATS + 2 * k), xp.zeros((0, k))
        for stored in ("uint8", "float32"):
            block = self.block("mnist", stored)
            for name, update, columns in (("rows", True, nothing), ("columns", False, N), ("whole pass", True, N)):
                reads = 2 if name == "whole pass" else 1
                yield self.timed(
                    f"KL {name}", lambda u=update, c=columns, b=block: ops.multiply_beta(
                        b, F, Ht, 1, 1.0, 0.0, 0.0, 0.0, u, False, out, c, D, stats),
                    bytes=reads * block.X.nbytes, flops=4.0 * reads * n * m * k, stored=stored, k=k,
                )  # fmt: skip

    def cublas(self, kind: str) -> Iterator[Row]:
        """Let cuBLAS do the two products: in float32, TF32 or bfloat16."""
        linalg = None if kind == "float32" else importlib.import_module("cupy._core._routines_linalg")
        before = linalg.get_compute_type(np.float32) if linalg else None
        for k in (15, 32, 64) if not self.smoke else (15,):
            for problem, (n, m) in self.shapes.items():
                X, F = self.X(problem, "float32"), self.F(n, k)
                H = self.xp.ascontiguousarray(self.F(m, k).T)
                if kind == "bfloat16":
                    half = importlib.import_module("ml_dtypes").bfloat16
                    X, F, H = (each.astype(half) for each in (X, F, H))
                try:
                    if kind == "TF32" and linalg:
                        linalg.set_compute_type(np.float32, linalg.COMPUTE_TYPE_TF32)
                    rate = {"float32": FP32, "TF32": TF32, "bfloat16": BF16}[kind]
                    yield from self._cublas(problem, k, kind, X, F, H, rate)
                finally:
                    if linalg:
                        linalg.set_compute_type(np.float32, before)

    def _cublas(self, problem: str, k: int, kind: str, X: Any, F: Any, H: Any, rate: float) -> Iterator[Row]:
        n, m = X.shape
        facts = {"problem": problem, "k": k, "kind": kind}
        size, flops = X.nbytes, 2.0 * n * m * k
        yield self.timed("cuBLAS X·Hᵀ", lambda: X @ H.T, bytes=size, flops=flops, rate=rate, **facts)
        yield self.timed("cuBLAS Wᵀ·X", lambda: F.T @ X, bytes=size, flops=flops, rate=rate, **facts)

    def opening(self) -> Iterator[Row]:
        """Run the pass that comes first."""
        for problem in list(self.shapes)[: 1 if self.smoke else 2]:
            for stored in ("uint8", "float32"):
                block = self.block(problem, stored)
                yield self.timed(
                    "opening", lambda b=block: self.ops.opening(b, np.dtype(np.float32)), bytes=block.X.nbytes,
                    flops=0, problem=problem, stored=stored,
                )  # fmt: skip

    def search(self) -> Iterator[Row]:
        """Top 10 of all codes for all of them, and of wide rows for a thousand."""
        from nmfcore.search.cosine import cosine_topk

        n, m = self.shapes["mnist"]
        for k in (15, 64) if not self.smoke else (15,):
            codes = self.F(n, k)
            first, later = self.clock.whole(lambda c=codes: cosine_topk(c, c, 5))
            yield {"case": "top 5 of all for all", "k": k, "us": 1e6 * later, "first_us": 1e6 * first,
                   "floor_us": 2e6 * n * n * k / FP32}  # fmt: skip
        wide = self.X("mnist", "float32")
        queries = wide[: 1024 if not self.smoke else 9].astype(np.float64)
        first, later = self.clock.whole(lambda: cosine_topk(queries, wide, 5))
        yield {"case": "top 5 of wide rows", "queries": len(queries), "us": 1e6 * later, "first_us": 1e6 * first,
               "floor_us": 2e6 * n * m * len(queries) / FP32}  # fmt: skip
