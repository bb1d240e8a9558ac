"""What a cluster costs and what it would bring: the parts measured here, the rest a model that says what it assumes.

::

    python benchmarks/scaling.py            # 1,000,000×784 uint8, k=32, 16 blocks, two worker processes: some minutes
    python benchmarks/scaling.py --smoke    # tiny, for CI

Fits in memory and on a local cluster take turns in one run, and their answers are compared before a time is printed.
Rows go to benchmarks/results/scaling.jsonl.
"""

from __future__ import annotations

import argparse
import math
import pickle
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import machine, records  # noqa: E402

Row = dict[str, Any]
OUT = ROOT / "benchmarks" / "results" / "scaling.jsonl"
TARGET = 0.15  # overhead of an iteration
CLUSTER = {"nodes": 32, "cores": 32, "network_gb_s": 1.25, "latency_s": 1e-3}
H200 = {"cards": 8, "flops": 30e12, "memory_gb_s": 4800.0, "network_gb_s": 1.25, "latency_s": 1e-3}
LARGE = {"n": 10**9, "m": 784, "k": 64}


def main() -> int:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny, for CI; writes no record but where --out says")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    small = chosen.smoke
    n, k, blocks, passes, repeats = (4000, 8, 4, 4, 2) if small else (1_000_000, 32, 16, 12, 3)

    from dask.distributed import Client, LocalCluster

    about = machine.describe(["nmfcore", "dask", "distributed"])
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit=0) as cluster,
        Client(cluster) as client,
    ):
        X = generated(Path(folder) / "X.npy", n, 784)
        overhead, fit = iterations(client, X, k, blocks, passes, repeats)
        rows += [overhead, block(X[: n // blocks], k), block(X[: max(n // blocks // 2, 100)], LARGE["k"])]
        rows += [traffic(784, k), traffic(LARGE["m"], LARGE["k"]), scheduler(client, 200 if small else 2000), fit]
    rows += models(rows)
    for row in rows:
        print(said(row), flush=True)
    if not small or chosen.out != OUT:
        records.append(chosen.out, [{**row, **about} for row in rows])
        print(f"records: {chosen.out}")
    return int(any(row.get("wrong") for row in rows))


def generated(path: Path, n: int, m: int) -> Any:
    """Return uint8 pictures of 20 parts, in a file."""
    rng = np.random.default_rng(0)
    parts = rng.gamma(0.3, 40.0, size=(20, m)).astype(np.float32)
    X = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n, m))
    for lo in range(0, n, 10_000):
        W = rng.gamma(0.3, 1.0, size=(min(10_000, n - lo), 20)).astype(np.float32)
        X[lo : lo + len(W)] = np.minimum(W @ parts + 5 * rng.random((len(W), m), np.float32), 255)
    X.flush()
    return np.load(path, mmap_mode="r")


def iterations(client: Any, X: Any, k: int, blocks: int, passes: int, repeats: int) -> tuple[Row, Row]:
    """Seconds per iteration in memory and on the cluster, by turns; copies to a second worker are among them."""
    import dask.array as da

    from nmfcore import NMF

    rng = np.random.default_rng(1)
    n, m = X.shape
    W, H = rng.random((n, k), np.float32), 50 * rng.random((k, m), np.float32)
    here = np.array(X)
    step = -(-n // blocks)
    bounds = [(lo, min(lo + step, n)) for lo in range(0, n, step)]
    held = client.map(_rows, *zip(*bounds, strict=True), path=X.filename)
    there = da.concatenate(
        [da.from_delayed(f, (hi - lo, m), X.dtype) for f, (lo, hi) in zip(held, bounds, strict=True)]
    )

    def run(data: Any) -> tuple[float, float]:
        # A LocalCluster leaves OMP_NUM_THREADS=1 behind in this process: a fit here must be told of all its threads.
        threads = sum(client.nthreads().values()) if data is here else None
        estimator = NMF(k, init="custom", max_iter=passes, tol=0, n_jobs=threads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            estimator.fit(data, W=W, H=H)
        seconds = estimator.history_["seconds"]
        return float(seconds[-1] - seconds[0]) / (passes - 1), estimator.reconstruction_err_

    run(here)
    run(there)  # kernels are loaded, X is there
    times: dict[str, list[float]] = {"memory": [], "dask": []}
    errors = {}
    for _ in range(repeats):
        for name, data in (("memory", here), ("dask", there)):
            seconds, errors[name] = run(data)
            times[name].append(seconds)
    ratios = [there / here for here, there in zip(times["memory"], times["dask"], strict=True)]
    difference = float(abs(errors["dask"] / errors["memory"] - 1))
    row = {
        "what": "overhead", "shape": [n, m], "k": k, "blocks": blocks, "passes": passes,
        "memory_s": times["memory"], "dask_s": times["dask"], "overhead": median(ratios) - 1,
        "target": TARGET, "met": median(ratios) - 1 <= TARGET,
        "error_difference": difference, "wrong": difference > 1e-3,
    }  # fmt: skip
    tiny = da.from_array(np.asarray(X[: 100 * blocks]), chunks=(100, m))
    estimator = NMF(k, init="random", random_state=0, max_iter=passes, tol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(tiny)
    gaps = np.diff(estimator.history_["seconds"])
    return row, {"what": "latency", "blocks": blocks, "seconds": float(np.median(gaps))}


def _rows(lo: int, hi: int, path: str) -> Any:
    return np.array(np.load(path, mmap_mode="r")[lo:hi])


def block(X: Any, k: int) -> Row:
    """Seconds of a visit to one block by one thread, as a worker makes it."""
    from nmfcore.rows.cluster import tasks

    rng = np.random.default_rng(2)
    n, m = X.shape
    W, Ht = rng.random((n, k), np.float32), rng.random((m, k), np.float32)
    held = tasks.Block(np.array(X))
    order = _order(held, Ht)

    def visit() -> None:
        tasks.visit_group(order, (n,), None, ([held], None), ([{"W": W}], None))

    visit()
    seconds = median(clocked(visit) for _ in range(3))
    return {"what": "block", "rows": n, "m": m, "k": k, "seconds": seconds, "per_row": seconds / n}


def _order(held: Any, Ht: Any) -> Any:
    """Return what a pass of "cd" has done to a block."""
    from nmfcore.rows.cluster import tasks
    from nmfcore.solvers import SOLVERS

    solver, kind = SOLVERS["cd"](), np.dtype(np.float32)
    orders = solver.fix(solver.start(held.rows(kind, 1), Ht))
    keywords = {"width": Ht.shape[1], "sums": solver.sums, "out": None, "gather": None, "gathered": ()}
    return tasks.Order(tasks.each_block, (None, solver.visit, orders, keywords), (None, None), (kind, 1))


def traffic(m: int, k: int) -> Row:
    """Bytes of orders and of sums, which know nothing of n."""
    from nmfcore.rows.cluster import tasks

    sizes = []
    for n in (200, 400):
        held = tasks.Block(np.ones((n, m), np.uint8))
        order = _order(held, np.ones((m, k), np.float32))
        _, sums = tasks.visit_group(order, (n,), None, ([held], None), ([{"W": np.ones((n, k), np.float32)}], None))
        sizes.append((len(pickle.dumps(order)), len(pickle.dumps(sums))))
    assert sizes[0] == sizes[1], "traffic depends on rows"
    return {"what": "traffic", "m": m, "k": k, "orders_bytes": sizes[0][0], "sums_bytes": sizes[0][1]}


def scheduler(client: Any, count: int) -> Row:
    """Seconds per task that does nothing: client, scheduler and workers together, on this machine's cores."""

    def run() -> float:
        return clocked(lambda: client.gather(client.map(_nothing, range(count), pure=False)))

    run()
    return {"what": "task", "count": count, "seconds": median(run() / count for _ in range(3))}


def _nothing(number: int) -> int:
    return number


def clocked(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def models(rows: list[Row]) -> list[Row]:
    """Seconds per iteration of 1e9×784, k=64 (cd), on machines that nobody has had at hand."""
    n, m, k = LARGE["n"], LARGE["m"], LARGE["k"]
    per_row = next(row["per_row"] for row in rows if row["what"] == "block" and row["k"] == k)
    sums = next(row["sums_bytes"] for row in rows if row["what"] == "traffic" and row["k"] == k)
    task = next(row["seconds"] for row in rows if row["what"] == "task")
    made = []
    passes_over_x = 2 * n * m / (1e9 * H200["memory_gb_s"])
    on_cards = max((4.0 * n * m * k + 4.0 * n * k * k) / H200["flops"], passes_over_x) / H200["cards"]
    for name, workers, groups, compute, assumed in (
        (
            "32 nodes", CLUSTER["nodes"], 2 * CLUSTER["nodes"],
            n * per_row / (CLUSTER["nodes"] * CLUSTER["cores"]),
            f"{CLUSTER['nodes']} nodes of {CLUSTER['cores']} cores, each as fast as one here while all are busy; "
            f"{CLUSTER['network_gb_s']} GB/s and {1e3 * CLUSTER['latency_s']:g} ms between them",
        ),
        (
            "8 H200", H200["cards"], H200["cards"], on_cards,
            f"{H200['flops'] / 1e12:g} TFLOP/s sustained a card, X resident as uint8, the network as before",
        ),
    ):  # fmt: skip
        # a group: a visit and its part of a sum; levels of the tree between workers: latency and a transfer each
        level = CLUSTER["latency_s"] + 8 * sums / (1e9 * CLUSTER["network_gb_s"])
        tree = math.ceil(math.log(max(workers, 2), 8)) * level
        scheduling = task * (groups + workers + workers / 8 + 1)
        made.append(
            {
                "what": "model", "on": name, "n": n, "m": m, "k": k, "compute_s": compute, "tree_s": tree,
                "scheduler_s": scheduling, "seconds": compute + tree + scheduling,
                "measured": "sums' bytes, seconds per task" + ("" if "H200" in name else ", seconds per row"),
                "assumed": assumed,
            }
        )  # fmt: skip
    return made


def said(row: Row) -> str:
    """Return a row as one line."""
    what = row["what"]
    if what == "overhead":
        n, m = row["shape"]
        both = f"{median(row['memory_s']):.3f} s in memory, {median(row['dask_s']):.3f} s by Dask"
        verdict = "not judged" if n < 10**6 else "met" if row["met"] else "MISSED"
        verdict += f"); same error to {row['error_difference']:.0e}"
        return (
            f"iteration of {n:,}×{m} uint8, k={row['k']}, {row['blocks']} blocks: {both}, overhead "
            f"{row['overhead']:.1%} (target ≤ {row['target']:.0%} {verdict}" + (" WRONG" if row["wrong"] else "")
        )
    if what == "latency":
        return f"iteration of next to no rows in {row['blocks']} blocks: {1e3 * row['seconds']:.1f} ms"
    if what == "block":
        return f"a block of {row['rows']:,}×{row['m']}, k={row['k']}, one thread: {1e6 * row['per_row']:.2f} µs a row"
    if what == "traffic":
        return (
            f"m={row['m']}, k={row['k']}: orders {row['orders_bytes'] / 1e3:.0f} kB, "
            f"sums {row['sums_bytes'] / 1e3:.0f} kB a reduction, whatever n is"
        )
    if what == "task":
        return f"a task that does nothing: {1e3 * row['seconds']:.2f} ms"
    parts = f"{row['compute_s']:.2f} s compute + {row['tree_s']:.3f} s tree + {row['scheduler_s']:.2f} s scheduler"
    return (
        f"model, {row['n']:.0e}×{row['m']}, k={row['k']} on {row['on']}: {row['seconds']:.2f} s an iteration = {parts};"
        f" measured here: {row['measured']}; assumed: {row['assumed']}"
    )


if __name__ == "__main__":
    sys.exit(main())
