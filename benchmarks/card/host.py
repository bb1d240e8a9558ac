"""What the host pays: launches, array operations, reads, graphs, copies, streamed passes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import Case, Clock, Row
from .idle import python_of_passes


class Host:
    """Small arrays, on which no call takes the device any time."""

    def __init__(self, smoke: bool):
        from nmfcore.backends import cuda, cuda_ops

        self.xp, self.ops, self.cuda, self.smoke, self.clock = cuda.cupy(), cuda_ops, cuda, smoke, Clock(smoke)
        self.k = 15
        self.small = self.xp.zeros((64, self.k), np.float32)

    def cases(self) -> list[Case]:
        """Return what to time, the most wanted first."""
        return [Case("launches", self.launches), Case("array operations", self.operations), Case("graph", self.graph),
                Case("copies", self.copies), Case("streamed pass", self.streamed), Case("overlap", self.overlap),
                Case("Python of a pass", python_of_passes)]  # fmt: skip

    def _of(self, case: str, work: Any, repeats: int = 200) -> Row:
        return {"case": case, "host_us": self.clock.host(work, repeats)}

    def _kept(self, parts: Any) -> tuple[Any, tuple[Any, ...]]:
        """Return a small kernel and its arguments: sums of 64 rows, written to `parts`."""
        kernel = self.ops._kernel("ROWS", "column_sums", np.dtype(np.float32), np.dtype(np.float32))
        return kernel, (self.small, np.int64(64), np.int32(self.k), np.int32(256), np.int32(16), parts)

    def launches(self) -> Iterator[Row]:
        """Take a launch apart: the kernel looked up, CuPy's get_function, the launch itself."""
        ops, xp, k = self.ops, self.xp, self.k
        parts, out = xp.zeros((1, k)), xp.zeros((64, k))
        kernel, arguments = self._kept(parts)
        module = ops._module("ROWS", (("XT", "float"), ("FT", "float")), xp.cuda.Device().id)
        f32 = np.dtype(np.float32)
        yield self._of("_kernel: the kept kernel looked up", lambda: ops._kernel("ROWS", "column_sums", f32, f32))
        yield self._of("get_function", lambda: module.get_function("column_sums"))
        yield self._of("launch of a kept kernel", lambda: kernel((1,), (128, 1, 1), arguments))
        yield self._of("_launch of a kept kernel", lambda: ops._launch(kernel, (1,), *arguments))
        yield self._of("_finish: all of it", lambda: ops._finish(ops._Parts(parts, k, 1), out[0]))
        block, Ht, G, order = ops.cut(self.small, (0, 64)), xp.zeros((k, k), np.float32), xp.zeros((k, k)), np.arange(k)
        F = self.small
        yield self._of("products", lambda: ops.products(block, Ht, out=xp.empty_like(F)))
        yield self._of("add_products", lambda: ops.add_products(block, F, G))
        yield self._of("gram", lambda: ops.gram(F))
        yield self._of(
            "sweep", lambda: ops._sweep("sweep", F, F, G, (0.0, 0.0), order, 1, 0.0, 0.0, xp.empty_like(F))
        )  # fmt: skip

    def operations(self) -> Iterator[Row]:
        """Time CuPy's own operations on arrays of no size to speak of."""
        xp, ops, k = self.xp, self.ops, self.k
        a, b, host = xp.zeros((k, k)), xp.zeros((k, k)), np.zeros(2 * k, np.float32)
        for name, work in {
            "empty": lambda: xp.empty((k, k)), "zeros": lambda: xp.zeros((k, k)), "fill": lambda: a.fill(0.0),
            "a + b": lambda: a + b, "a += b": lambda: a.__iadd__(b), "(a * b).sum()": lambda: (a * b).sum(),
            "inner": lambda: ops.inner(a, b), "sum(axis=0)": lambda: a.sum(axis=0),
            "astype": lambda: a.astype(np.float32),
            "a[3] += 1": lambda: a.__setitem__(3, a[3] + 1), "diagonal": lambda: xp.ascontiguousarray(xp.diagonal(a)),
            "asarray of 30 numbers": lambda: xp.asarray(host), "Device().id": lambda: xp.cuda.Device().id,
            "get_current_stream": lambda: xp.cuda.get_current_stream(),
        }.items():  # fmt: skip
            yield self._of(name, work)
        for name, work in {
            "read of 3 arrays": lambda: ops.read(a, b, a[0]), "asnumpy": lambda: xp.asnumpy(a),
            "synchronize": lambda: xp.cuda.get_current_stream().synchronize(),
        }.items():  # fmt: skip
            yield self._of(name, work, 50)
        pinned = self.cuda.empty_pinned((k, k), np.float64)
        yield self._of("get into pinned memory, synchronized", lambda: a.get(out=pinned), 50)

    def graph(self) -> Iterator[Row]:
        """Replay a graph of eight small kernels beside eight launches."""
        xp, out = self.xp, self.xp.zeros((1, self.k))
        kernel, arguments = self._kept(out)
        stream = xp.cuda.Stream(non_blocking=True)
        xp.cuda.runtime.deviceSynchronize()  # the arrays were made on another stream

        def eight() -> None:
            for _ in range(8):
                kernel((1,), (128, 1, 1), arguments)

        with stream:
            eight()
            stream.synchronize()
            stream.begin_capture()
            eight()
            captured = stream.end_capture()
            for name, work in (("8 launches", eight), ("replay of a graph of 8", lambda: captured.launch(stream))):
                row = self._of(name, work, 100)
                begin, end, repeats = xp.cuda.Event(), xp.cuda.Event(), 2 if self.smoke else 100
                begin.record(stream)
                for _ in range(repeats):
                    work()
                end.record(stream)
                end.synchronize()
                yield row | {"us": 1e3 * xp.cuda.get_elapsed_time(begin, end) / repeats}
            yield {"case": "captured and replayed", "sum": float(out.sum()), "right": float(out.sum()) == 0.0}

    def copies(self) -> Iterator[Row]:
        """Copy from the host: pinned, pageable, by the backend's upload; and pinned memory itself."""
        from nmfcore.rows import device as rows

        xp, n = self.xp, 1 << 12 if self.smoke else 1 << 28
        host = np.zeros(n, np.uint8)
        start = time.perf_counter()
        pinned = self.cuda.empty_pinned((n,), np.uint8)
        yield {"case": "empty_pinned, first", "us": 1e6 * (time.perf_counter() - start), "bytes": n}
        pinned[:] = 0
        out = xp.empty(n, np.uint8)
        matrix = host.reshape(-1, 1 << 8)
        for name, work in {
            "np.copyto pinned from pageable": lambda: np.copyto(pinned, host),
            "set from pinned": lambda: out.set(pinned),
            "set from pageable": lambda: out.set(host), "asarray": lambda: xp.asarray(host),
            "_upload uint8": lambda: rows._upload(matrix, np.dtype(np.uint8)),
            "_upload uint8 as float32": lambda: rows._upload(matrix[: len(matrix) // 4], np.dtype(np.float32)),
            "asnumpy": lambda: xp.asnumpy(out),
        }.items():  # fmt: skip
            first, later = self.clock.whole(work)
            size = n // 4 if "as float32" in name else n
            yield {"case": name, "bytes": size, "us": 1e6 * later, "first_us": 1e6 * first, "gb_s": size / later * 1e-9}

    def streamed(self) -> Iterator[Row]:
        """Time a pass over an X that stays on the host: Xᵀ(XQ), and whether it is right."""
        from nmfcore.rows import device as rows

        n, m = (300, 40) if self.smoke else (1 << 20, 1024)
        if self.smoke:  # two buffers of a real block's size would be filled for nothing
            rows.BLOCK_BYTES = 1
        for stored in ("uint8", "float32"):
            X = np.random.RandomState(0).randint(0, 256, (n // 8, m)).astype(np.uint8)
            X = np.concatenate([X] * 8).astype(stored, copy=False) if n > 300 else X.astype(stored)
            data = rows.DeviceRows(X, np.float32)
            Q = np.random.RandomState(1).random_sample((m, 8)).astype(np.float32)
            first, later = self.clock.whole(lambda d=data, q=Q: d.products(q), 2)
            yield {"case": "streamed products", "stored": stored, "us": 1e6 * later, "first_us": 1e6 * first,
                   "gb_s": X.nbytes / later * 1e-9, "blocks": -(-len(X) // data.rows_per_block)}  # fmt: skip

    def overlap(self) -> Iterator[Row]:
        """Stream Xᵀ(XQ) twice, the device kept busy before: does each copy await the one before it?"""
        from nmfcore.rows import device as rows

        xp, (n, m), size = self.xp, (300, 40) if self.smoke else (60_000, 512), 32 if self.smoke else 8192
        kept, rows.BLOCK_BYTES = rows.BLOCK_BYTES, 1 if self.smoke else 1 << 20
        try:
            X = np.random.RandomState(0).randint(0, 256, (n, m)).astype(np.uint8)
            data = rows.DeviceRows(X, np.float32)
            blocks = -(-n // data.rows_per_block)
            Q = np.random.RandomState(1).random_sample((m, 8)).astype(np.float32)
            busy = xp.zeros((size, size), np.float32)
            xp.asnumpy((busy @ busy)[:1])
            start = time.perf_counter()
            for _ in range(1 if self.smoke else 20):
                busy = busy @ busy  # tens of milliseconds each: the copies queue up behind them
            found = data.transposed_products(data.products(Q))
            queued = time.perf_counter() - start
            found = self.ops.to_numpy(found)
        finally:
            rows.BLOCK_BYTES = kept
        D = X.astype(np.float64)
        expected = D.T @ (D @ Q)
        off = float(np.abs(found - expected).max() / np.abs(expected).max())
        yield {"case": "Xᵀ(XQ) streamed behind other work", "error": off, "wrong": not off < 1e-5, "queued_s": queued,
               "blocks": blocks}  # fmt: skip
