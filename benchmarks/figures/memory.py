"""Peak memory of a process that fits a uint8 memory map of MNIST."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import problems
from benchmarks.contenders import REFERENCE
from benchmarks.harness import Context, Row, child, describe_case, pairwise, summary

ABOUT = (
    "Peak resident memory of a fresh process that maps MNIST (.npy, uint8) and fits it with k=15, "
    '`init="nndsvd"`, imports and interpreter included. The note splits it: anonymous memory at '
    "its peak, and pages of files (the map of X, shared libraries)."
)
LIMIT_MB = 350.0
ERROR_MAY_DIFFER = 1e-4  # the loss is judged in the compute type's precision, float32 for nmfcore

CODE = """
import json, resource, sys, threading
import numpy as np

def status():
    with open("/proc/self/status") as lines:
        return {k: int(v.split()[0]) / 1024 for k, v in (x.split(":", 1) for x in lines)
                if k in ("VmHWM", "RssAnon", "RssFile")}

peak = {}
def watch():
    while not done.wait(0.002):
        for name, value in status().items():
            peak[name] = max(value, peak.get(name, 0.0))

path, module, max_iter = sys.argv[1], sys.argv[2], int(sys.argv[3])
NMF = __import__(module, fromlist=["NMF"]).NMF
X = np.load(path, mmap_mode="r")
done = threading.Event()
try:
    status()
    watcher = threading.Thread(target=watch, daemon=True); watcher.start()
except OSError:
    watcher = None
model = NMF(15, init="nndsvd", max_iter=max_iter, random_state=0).fit(X)
done.set()
if watcher:
    watcher.join()
    peak["VmHWM"] = status().get("VmHWM", 0.0)
scale = 1048576 if sys.platform == "darwin" else 1024
peak["ru_maxrss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
peak["error"] = float(model.reconstruction_err_)
peak["n_iter"] = int(model.n_iter_)
print(json.dumps(peak))
"""


def run(context: Context) -> Iterator[list[Row]]:
    problem = context.problem("mnist", "uint8")
    path = problems.as_npy(problem)
    # memory does not grow with iterations
    max_iter = 5
    task = context.task(problem, 15, call="fit", init="nndsvd", tol=1e-4, max_iter=max_iter)
    rows, peaks = {}, {}
    for name, contender in context.drop_ins.items():
        rows[name] = describe_case(task, "peak memory of a fit", "MB", name)
        reason = contender.unavailable() or contender.skip(task)
        if reason:
            rows[name].update(status="skipped", why=reason)
            continue
        peaks[name] = [
            child(CODE, str(path), contender.module, str(max_iter), threads=context.threads)[1]
            for _ in range(1 if context.smoke else min(3, context.repeats))
        ]
    expected = peaks[REFERENCE][0]["error"] if REFERENCE in peaks else None
    for name, found in peaks.items():
        row, last = rows[name], found[-1]
        values = [peak.get("VmHWM") or peak["ru_maxrss"] for peak in found]
        apart = abs(last["error"] - expected) / expected if expected else 0.0
        row["check"] = {"ok": apart <= ERROR_MAY_DIFFER, "loss_difference": apart}
        if not row["check"]["ok"]:
            row.update(status="WRONG", why=f"the error differs by {apart:.1e} from scikit-learn's")
            continue
        row.update(status="ok", peaks=found, **summary(values))
        row["note"] = (
            f"anonymous {last.get('RssAnon', float('nan')):.0f} MB, files "
            f"{last.get('RssFile', float('nan')):.0f} MB, ru_maxrss {last['ru_maxrss']:.0f} MB"
        )
        if name != REFERENCE:
            if context.real_size:
                row["target"] = {"value": LIMIT_MB}
            if REFERENCE in peaks:
                reference = [p.get("VmHWM") or p["ru_maxrss"] for p in peaks[REFERENCE]]
                row["ratio"] = pairwise(reference, values)
    yield list(rows.values())
