"""X on disk and larger than the process may hold: one pass over it per iteration, as fast as disk or processor allow.

::

    python benchmarks/disk.py                    # 2,000,000 × 4,096 uint8: 8.2 GB in the folder of --folder
    python benchmarks/disk.py --rows 500000      # a part, which the record then says
    python benchmarks/disk.py --smoke            # tiny, in seconds: for CI

A matrix is generated into a ``.npy`` file, and fitted in a process that may hold 2 GB of anonymous memory
(RLIMIT_DATA); then the same from a stream of row blocks, with fewer rows. Iterations take turns with what they are
compared with: the rate at which a part of the file can be read in order (through the kernel's cache or past it, the
faster of both), and iterations over 100,000 rows in memory with the same solver and schedule. The file's pages are
dropped from the kernel's cache before each of them, outside of its time, and the file is read as `disk.NpyFile` reads
one that memory cannot hold.

What is told: bytes of X that the data object read in an iteration, bytes that the kernel read from the disk meanwhile
(/proc/self/io), the largest memory of the process, and an iteration's time over its floor: the longer of (bytes / rate
of reading) and (rows × time per row in memory), as measured before and after it. The target is 1.15 for their median.
A stream's function is the caller's: the time it takes by itself is a disk's time, and the processor's time that it
takes is no longer there for the fit.

The first rows' factors are compared with a fit from memory, bit for bit, before any time is told.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] == str(ROOT / "benchmarks"):
    sys.path[0] = str(ROOT)  # `benchmarks` is importable, and its modules shadow no others

from benchmarks import harness, machine, records  # noqa: E402

Row = dict[str, Any]
OUT = ROOT / "benchmarks" / "results" / "disk.jsonl"
K, TARGET = 32, 1.15

# A process of its own: (path, path of the rows in memory, rows, passes, limit in bytes, k, kind of source) → JSON.
FIT = """
import json, mmap, os, resource, sys, threading, time
import numpy as np
from nmfcore import NMF
from nmfcore.rows import disk

path, small = sys.argv[1:3]
rows, passes, limit, k = map(int, sys.argv[3:7])
kind = sys.argv[7]


def kernel():
    with open("/proc/self/io") as io:
        return dict((name, int(value)) for name, value in (line.split(": ") for line in io))


def grown(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


asked = dict(solver="hals", init="random", random_state=0, tol=0, max_iter=passes)
NMF(k, **{**asked, "max_iter": 2}).fit(np.load(path, mmap_mode="r")[:2000])  # the kernels are there
if limit:
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
resident = np.load(small, mmap_mode="r")
resident.max()  # its pages are in memory, and no anonymous ones
if kind == "blocks":
    start, m = np.load(path, mmap_mode="r").offset, resident.shape[1]

    def blocks():
        with open(path, "rb") as file:
            file.seek(start)
            for lo in range(0, rows, 3000):
                yield np.fromfile(file, np.uint8, min(3000, rows - lo) * m).reshape(-1, m)

    X = disk.RowBlocks(blocks, (rows, m), np.uint8)
else:
    X = disk.NpyFile(path, direct=True)  # as it is where memory cannot hold the file
seen = []


def forget():
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def in_memory():
    # seconds per row and iteration
    times = []
    NMF(k, callback=lambda _: times.append(time.perf_counter()), **{**asked, "max_iter": 4}).fit(resident)
    return float(np.median(np.diff(times))) / len(resident)


pages = mmap.mmap(-1, 4 << 20)  # begins with a page


def reading(flags):
    # bytes per second
    forget()
    size, done = os.path.getsize(path), 0
    file = os.open(path, os.O_RDONLY | flags)
    try:
        begun = time.perf_counter()
        while done < size // 4:
            done += os.preadv(file, [pages], size // 3 // 4096 * 4096 + done)
        return done / (time.perf_counter() - begun)
    finally:
        os.close(file)


def alone():
    # seconds per row, and seconds of a processor, that the function of the stream takes by itself
    if kind != "blocks":
        return 0.0, 0.0
    forget()
    begun, used = time.perf_counter(), time.process_time()
    for block in blocks():
        pass
    return (time.perf_counter() - begun) / rows, (time.process_time() - used) / rows


def look(progress):
    over = time.perf_counter()
    before = X.bytes_read, kernel()["read_bytes"]
    compared = in_memory(), max(reading(0), reading(os.O_DIRECT)), *alone()
    forget()
    after = kernel()["read_bytes"]
    seen.append((over, *before, grown("VmData"), progress.iteration, after, *compared, time.perf_counter()))


def per_pass(end, begin):  # a pass that was rejected is not told of, but it is one
    return [(b[end] - a[begin]) / (b[4] - a[4]) for a, b in zip(seen, seen[1:])]


begun = time.perf_counter()
model = NMF(k, callback=look, **asked).fit(X)
print(json.dumps({
    "seconds": per_pass(0, -1),
    "bytes": per_pass(1, 1),
    "kernel_bytes": per_pass(2, 5),
    "row_seconds": [each[6] for each in seen],
    "read_rates": [each[7] for each in seen],
    "stream_row_seconds": [each[8] for each in seen],
    "stream_row_cpu": [each[9] for each in seen],
    "data": max(each[3] for each in seen),
    "resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "whole": time.perf_counter() - begun,
    "loss": model.history_["loss"].tolist(),
    "error": float(model.reconstruction_err_),
}))
"""


def generate(path: Path, n: int, m: int) -> None:
    """Write n × m uint8 of rank K and noise, a block of rows at a time."""
    rng = np.random.default_rng(0)
    H = rng.random((K, m), np.float32) ** 4
    X = np.lib.format.open_memmap(path, "w+", np.uint8, (n, m))
    step = 20_000
    for lo in range(0, n, step):
        W = rng.random((min(step, n - lo), K), np.float32) ** 4
        WH = W @ H
        WH *= 60
        WH += rng.random(m, np.float32) * 10
        X[lo : lo + step] = np.clip(WH, 0, 255, out=WH)
    X.flush()


def measured(path: Path, small: Path, rows: int, passes: int, limit: int, kind: str, threads: int) -> Row:
    """Fit in a fresh process."""
    with open(path, "rb") as file:  # what is dirty cannot be dropped
        os.fsync(file.fileno())
    arguments = [str(path), str(small), *map(str, (rows, passes, limit, K)), kind]
    _, told = harness.child(FIT, *arguments, threads=threads)
    return told


def same_bits(path: Path, rows: int) -> bool:
    """Whether the first rows have the same factors from a file as from memory."""
    from nmfcore import NMF

    X = np.array(np.load(path, mmap_mode="r")[:rows])
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        np.save(Path(folder) / "part.npy", X)
        factors = []
        for each in (X, Path(folder) / "part.npy"):
            model = NMF(K, solver="hals", init="random", random_state=0, max_iter=3, tol=0)
            factors.append((model.fit_transform(each), model.components_))
    return all(np.array_equal(a, b) for a, b in zip(*factors, strict=True))


def main() -> int:
    """Parse, generate, check, measure, write."""
    import warnings

    warnings.simplefilter("ignore")  # max_iter is reached on purpose
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--limit", type=int, default=2_000_000_000, help="RLIMIT_DATA of the process, bytes")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the file is made")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--smoke", action="store_true")
    chosen = parser.parse_args()
    n, m, small = chosen.rows, chosen.columns, 100_000
    if chosen.smoke:
        n, m, small = 20_000, 256, 5_000
    if not hasattr(os, "posix_fadvise") or not sys.platform.startswith("linux"):
        print("skipped: dropping pages and RLIMIT_DATA as they are meant here are Linux's")
        return 0
    size = n * m
    free = shutil.disk_usage(chosen.folder).free
    if free < 1.3 * size:
        print(f"{chosen.folder} has {free / 1e9:.1f} GB free, {1.3 * size / 1e9:.1f} are needed: --rows or --folder")
        return 1
    with tempfile.TemporaryDirectory(dir=chosen.folder, prefix="nmfcore-disk-") as folder:
        path = Path(folder) / "X.npy"
        begun = time.perf_counter()
        generate(path, n, m)
        print(f"{n:,} × {m:,} uint8, {size / 1e9:.2f} GB, made in {time.perf_counter() - begun:.0f} s", flush=True)
        same = same_bits(path, min(n, small, 30_000))
        rows = list(figures(path, n, m, min(small, n), chosen, same))
    description = machine.describe(["nmfcore", "scikit-learn"])
    rows = [{**row, **description} for row in rows]
    for row in rows:
        print(line(row), flush=True)
    if not chosen.smoke:
        records.append(chosen.out, rows)
        print(f"records: {chosen.out}")
    return int(any(row["status"] != "ok" for row in rows))


def figures(path: Path, n: int, m: int, small: int, chosen: argparse.Namespace, same: bool) -> Any:
    """Yield one row for the file and one for the stream."""
    part = path.with_name("part.npy")
    np.save(part, np.load(path, mmap_mode="r")[:small])
    limit = 0 if chosen.smoke else chosen.limit
    for kind, rows in (("npy", n), ("blocks", min(n, 4 * small))):
        told = measured(path, part, rows, chosen.passes + 1, limit, kind, chosen.threads)
        size = rows * m
        by_disk = [
            max(size / rate, seconds * rows)
            for rate, seconds in zip(told["read_rates"], told["stream_row_seconds"], strict=True)
        ]
        by_processor = [  # what the stream's own function needs, the same processors have to give
            (seconds + cpu / chosen.threads) * rows
            for seconds, cpu in zip(told["row_seconds"], told["stream_row_cpu"], strict=True)
        ]
        floors = [max(pair) for pair in zip(by_disk, by_processor, strict=True)]
        floors = [(before + after) / 2 for before, after in itertools.pairwise(floors)]
        ratios = [seconds / floor for seconds, floor in zip(told["seconds"], floors, strict=True)]
        once = all(count == size for count in told["bytes"])
        within = told["data"] <= chosen.limit
        yield {
            "figure": "disk",
            "case": f"hals from {'a .npy file' if kind == 'npy' else 'a stream of row blocks'}",
            "problem": {"name": "generated", "shape": [rows, m], "dtype": "uint8", "bytes": size},
            "contender": "nmfcore",
            "k": K,
            "unit": "s",
            "status": "ok" if same and once and within else "WRONG",
            "why": "" if same and once and within else f"same bits {same}, read once {once}, within limit {within}",
            "values": told["seconds"],
            "median": median(told["seconds"]),
            "min": min(told["seconds"]),
            "max": max(told["seconds"]),
            "bytes_per_pass": told["bytes"],
            "kernel_bytes_per_pass": told["kernel_bytes"],
            "limit": chosen.limit,
            "data": told["data"],
            "resident": told["resident"],
            "whole_fit": told["whole"],
            "read_gb_s": [rate / 1e9 for rate in told["read_rates"]],
            "stream_row_us": [1e6 * seconds for seconds in told["stream_row_seconds"]],
            "stream_row_cpu_us": [1e6 * seconds for seconds in told["stream_row_cpu"]],
            "in_memory_row_us": [1e6 * seconds for seconds in told["row_seconds"]],
            "bound": "disk" if median(by_disk) > median(by_processor) else "processor",
            "floor": median(floors),
            "ratios": ratios,
            "over_floor": median(ratios),
            "target": {"over_floor": TARGET},
        }


def line(row: Row) -> str:
    """Return a row as one line to read."""
    n, m = row["problem"]["shape"]
    kernel = [count / row["problem"]["bytes"] for count in row["kernel_bytes_per_pass"]]
    return (
        f"{row['case']}, {n:,} × {m:,}: {row['status']} {row['why']} {row['median']:.2f} s a pass "
        f"({row['min']:.2f}–{row['max']:.2f}), {row['over_floor']:.3f} ({min(row['ratios']):.2f}–"
        f"{max(row['ratios']):.2f}) × the floor of {row['floor']:.2f} s, which is the {row['bound']}'s "
        f"(target {row['target']['over_floor']}); read from the disk a pass: "
        f"{min(kernel):.2f}–{max(kernel):.2f} of X; memory of its own {row['data'] / 1e9:.2f} GB of "
        f"{row['limit'] / 1e9:.1f}, resident {row['resident'] / 1e9:.2f} GB; disk "
        f"{min(row['read_gb_s']):.2f}–{max(row['read_gb_s']):.2f} GB/s, in memory "
        f"{min(row['in_memory_row_us']):.2f}–{max(row['in_memory_row_us']):.2f} µs a row"
    )


if __name__ == "__main__":
    sys.exit(main())
