"""Everything that a card can tell in under nine minutes, in one command; nothing in it gates anything.

::

    python benchmarks/device.py --out OUT            # all phases, each in a process of its own, under its time limit
    python benchmarks/device.py p3 p4 --out OUT      # some of them
    python benchmarks/device.py --smoke --out OUT    # all of them on the tests' stand-in, without a card
    python benchmarks/device.py --show OUT           # what a folder holds, as text

========  ==============================================================================================
p0        the card, its driver, the libraries
p1        every kernel compiled, by many processes: seconds, registers, spills
p2        every operation against its float64 answer and the emulator's bits, a process for each family
p3        times of kernels by events, with and without a graph, beside their floors; cuBLAS beside them
p4        costs of the host: launches, array operations, reads, a graph's replay, copies, streamed passes
p5        passes of hals, cd and mu, whole calls, a fresh process; errors beside those of the CPU
p6        the GPU's tests
p7        compute-sanitizer on the operations, and ncu on the products
========  ==============================================================================================

Each row is appended to ``OUT/rows.jsonl`` and on the disk before the next is made. A case that fails is a row, and so
is a phase that runs out of its time; the phases after it run all the same. The files of `benchmarks/goldens` travel
with the tree, so that no CPU kernel is compiled for a comparison.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.card import GOLDENS, Case, Recorder, Row, rows_of, said, stand_in  # noqa: E402

SECONDS = {"p0": 20, "p1": 45, "p2": 70, "p3": 90, "p4": 45, "p5": 75, "p6": 120, "p7": 75}
SMOKE = 300  # seconds of a phase of the smoke run, beside which other tests may run
WHOLE = 510  # seconds of all phases: what is left of it is the last ones' limit
DEADLINE = "NMFCORE_DEVICE_DEADLINE"  # when the process that reads it is stopped, in seconds since 1970
SIZE = 9_000  # characters of the summary that are printed at the end


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; the exit status is 0 whatever was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("phases", nargs="*", help=f"some of {', '.join(SECONDS)}; all of them if left out")
    parser.add_argument("--out", type=Path, help="the folder for rows.jsonl, log and what tools write")
    parser.add_argument("--smoke", action="store_true", help="the tests' stand-in instead of a card, at small sizes")
    parser.add_argument("--show", type=Path, metavar="OUT", help="print what a folder holds")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # one phase, in this process
    parser.add_argument("--family", help=argparse.SUPPRESS)
    parser.add_argument("--few", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--after", type=int, default=0, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.show:
        print(summary(chosen.show))
        return 0
    unknown = [phase for phase in chosen.phases if phase not in SECONDS]
    if unknown or not chosen.out:
        parser.error(f"there is no phase {unknown[0]!r}, only {', '.join(SECONDS)}" if unknown else "--out is missing")
    if chosen.here:
        return _phase(chosen)
    return _all(chosen)


# ---- all phases ------------------------------------------------------------------------------------------------------


def _all(chosen: argparse.Namespace) -> int:
    out, begun = chosen.out.resolve(), time.monotonic()
    recorder = Recorder(out, "all")
    (out / "log").touch()
    environment = dict(os.environ)
    if "CUPY_CACHE_DIR" not in environment:
        environment["CUPY_CACHE_DIR"] = tempfile.mkdtemp(prefix="nmfcore-cupy-")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    environment["PYTHONUNBUFFERED"] = "1"
    recorder.row("begin", date=time.strftime("%Y-%m-%d %H:%M:%S"), commit=_commit(), smoke=chosen.smoke)
    for phase in chosen.phases or SECONDS:
        left = WHOLE - (time.monotonic() - begun)
        if left < 5 and not chosen.smoke:
            recorder.row(phase, "skipped", why=f"{WHOLE} seconds are over")
            continue
        command = [sys.executable, str(Path(__file__).resolve()), phase, "--here", "--out", str(out)]
        started = time.monotonic()
        limit = SMOKE if chosen.smoke else min(SECONDS[phase], left)
        code = limited(command + ["--smoke"] * chosen.smoke, limit, out / "log", environment)
        status = "ok" if code == 0 else "out of time" if code is None else "failed"
        more = {} if code == 0 else {"why": _tail(out / "log")}
        recorder.row(phase, status, rc=code, took_s=round(time.monotonic() - started, 2), **more)
    recorder.row("end", took_s=round(time.monotonic() - begun, 2))
    told = summary(out)
    print(told if len(told) <= SIZE else f"{told[:SIZE]} …\nall of it: {out / 'rows.jsonl'}")
    return 0


def limited(
    command: list[str], seconds: float, log: Path | None = None, environment: dict[str, str] | None = None
) -> int | None:
    """Run a command and all that it starts for so many seconds at most → its exit status; None: it ran out of time.

    Out of time it is interrupted first, so that pytest writes its report, and killed some seconds later. What such a
    command runs in the same way ends before it does.
    """
    environment = dict(os.environ if environment is None else environment)
    seconds = max(0.0, min(seconds, float(environment.get(DEADLINE, "inf")) - time.time() - 12))
    environment[DEADLINE] = str(time.time() + seconds)
    with open(log or os.devnull, "ab") as told:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=told, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            for number, patience in ((signal.SIGINT, 6.0), (signal.SIGTERM, 2.0)):
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, number)
                    process.wait(patience)
                    break
            return None
        finally:  # what is left of the group, if only grandchildren
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def _tail(log: Path, size: int = 400) -> str:
    return log.read_bytes()[-size:].decode("utf-8", "replace").strip()


# ---- one phase -------------------------------------------------------------------------------------------------------


def _phase(chosen: argparse.Namespace) -> int:
    (phase,) = chosen.phases
    recorder = Recorder(chosen.out, phase)
    if chosen.smoke:
        stand_in()
    try:
        cases = PHASES[phase](chosen)
    except Exception as error:
        recorder.row(phase, "failed", why=said(error))
        raise
    recorder.run(cases, chosen.after)
    return 0


def _card(chosen: argparse.Namespace) -> list[Case]:
    """p0: what there is."""
    return [
        Case("probe", _probe), Case("libraries", _libraries), Case("tools", _tools), Case("NVRTC", _nvrtc),
        Case("nvidia-smi", lambda: _smi(chosen.out)), Case("show_config", _config),
    ]  # fmt: skip


def _probe() -> Iterator[Row]:
    from nmfcore.backends import cuda

    started = time.perf_counter()
    yield {"answer": cuda.probe(), "took_s": time.perf_counter() - started, "described": cuda.describe()}
    xp = cuda.cupy()
    free, total = xp.cuda.runtime.memGetInfo()
    facts = xp.cuda.runtime.getDeviceProperties(0)
    wanted = ("multiProcessorCount", "l2CacheSize", "clockRate", "memoryClockRate", "memoryBusWidth", "major", "minor",
              "sharedMemPerBlockOptin", "sharedMemPerMultiprocessor", "regsPerMultiprocessor",
              "ECCEnabled")  # fmt: skip
    yield {
        "case": "device", "free": free, "total": total, **{name: facts[name] for name in wanted if name in facts},
    }  # fmt: skip


def _libraries() -> Iterator[Row]:
    from importlib.metadata import PackageNotFoundError, version

    from nmfcore.backends import cuda

    found = {"python": platform.python_version(), "cores": os.cpu_count()}
    for name in ("nmfcore", "numpy", "scipy", "scikit-learn", "numba", "cupy-cuda13x", "cupy-cuda12x", "torch",
                 "nvidia-cuda-nvrtc", "nvidia-cublas", "pytest", "pytest-xdist", "ml_dtypes"):  # fmt: skip
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    yield found
    runtime = cuda.cupy().cuda.runtime
    yield {"case": "CUDA", "runtime": runtime.runtimeGetVersion(), "driver": runtime.driverGetVersion()}


def _nvrtc() -> Row:
    return {"version": list(importlib.import_module("cupy_backends.cuda.libs.nvrtc").getVersion())}


def _config() -> Row:
    from nmfcore.backends import cuda

    with contextlib.redirect_stdout(io.StringIO()) as text:
        cuda.cupy().show_config()
    return {"text": text.getvalue()}


def _smi(out: Path) -> Row:
    done = subprocess.run(["nvidia-smi", "-q"], capture_output=True, text=True, timeout=15, check=False)
    (out / "nvidia-smi.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    return {"rc": done.returncode, "lines": done.stdout.count("\n")}


def _tools() -> Row:
    return {name: shutil.which(name) for name in ("nvcc", "ncu", "compute-sanitizer", "nsys", "g++", "cuobjdump")}


def _compiling(chosen: argparse.Namespace) -> list[Case]:
    """p1: modules dealt out to processes, those that take longest first."""
    if chosen.family is not None:
        number, count = map(int, chosen.family.split("/"))
        return [Case(_name(each), lambda each=each: _compiled(each)) for each in _modules()[number::count]]
    count = 2 if chosen.smoke else max(2, min(14, (os.cpu_count() or 2) - 2))
    return [Case("all modules", lambda: _side_by_side(chosen, [f"{i}/{count}" for i in range(count)], count))]


def _modules() -> list[dict[str, Any]]:
    modules = json.loads((GOLDENS / "modules.json").read_text(encoding="utf-8"))
    slow = ("FAMILY_BETA", "FAMILY_SWEEP", "FAMILY_NEAREST", "FAMILY_CODE", "FAMILY_TENSOR")
    return sorted(modules, key=lambda each: each["macros"][0][0] not in slow)


def _name(module: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in module["macros"])


def _compiled(module: dict[str, Any]) -> Row:
    from benchmarks.card import operations
    from nmfcore.backends import cuda, cuda_ops

    code = cuda_ops.with_macros(operations.source_texts()[module["source"]], module["macros"])
    made = cuda.cupy().RawModule(code=code, options=cuda_ops.OPTIONS)
    started = time.perf_counter()
    made.compile()
    seconds, kernels = time.perf_counter() - started, {}
    for name in module["kernels"]:
        facts = getattr(made.get_function(name), "attributes", {})
        kept = ("num_regs", "local_size_bytes", "shared_size_bytes", "max_threads_per_block", "binary_version")
        kernels[name] = {key: facts[key] for key in kept if key in facts}
    return {"took_s": seconds, "kernels": kernels}


def _operations(chosen: argparse.Namespace) -> list[Case]:
    """p2: the operations of a family, or all families side by side."""
    from benchmarks.card import operations

    if chosen.family is not None or chosen.few:
        return list(operations.cases(chosen.family, chosen.few or chosen.smoke))
    families = operations.families()
    return [Case("all families", lambda: _side_by_side(chosen, families, 2 if chosen.smoke else 6))]


def _side_by_side(chosen: argparse.Namespace, names: list[str], at_once: int) -> Iterator[Row]:
    """Run this phase for each of several names in a process of its own; one that dies takes no other with it."""
    (phase,) = chosen.phases
    limit = (SMOKE if chosen.smoke else SECONDS[phase]) - 10

    def one(name: str) -> Row:
        command = [sys.executable, str(Path(__file__).resolve()), phase, "--here", "--out", str(chosen.out)]
        started = time.monotonic()
        code = limited([*command, "--family", name, *["--smoke"] * chosen.smoke], limit, chosen.out / "log")
        status = "ok" if code == 0 else "out of time" if code is None else "failed"
        more = {} if code == 0 else {"why": _tail(chosen.out / "log")}
        return {"case": f"process of {name}", "status": status, "took_s": time.monotonic() - started} | more

    with ThreadPoolExecutor(at_once) as pool:
        yield from pool.map(one, names)


def _kernels(chosen: argparse.Namespace) -> list[Case]:
    from benchmarks.card.kernels import Kernels

    made = Kernels(chosen.smoke)
    return made.few() if chosen.few else made.cases()


def _host(chosen: argparse.Namespace) -> list[Case]:
    from benchmarks.card.host import Host

    return Host(chosen.smoke).cases()


def _fits(chosen: argparse.Namespace) -> list[Case]:
    from benchmarks.card.fits import Fits

    return Fits(chosen.smoke).cases()


# ---- tests and tools -------------------------------------------------------------------------------------------------


def _tests(chosen: argparse.Namespace) -> list[Case]:
    """p6: the tests that want a card; in the smoke run some that want none."""
    names = ("gpu", "cuda_fit", "cuda_graphs", "cuda_kernels", "similarity")
    files = [f"tests/test_{name}.py" for name in names]
    wanted = ["-m", "gpu", *(file for file in files if (ROOT / file).exists())]
    if chosen.smoke:
        wanted = ["tests/test_cuda_plans.py", "-k", "chunks"]
    found = chosen.out.resolve() / "gpu.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider", f"--junitxml={found}"]
    if not chosen.smoke and importlib.util.find_spec("xdist"):
        command += ["-n", "12"]

    def run() -> Iterator[Row]:
        code = limited(command + wanted, (SMOKE if chosen.smoke else SECONDS["p6"]) - 10, chosen.out / "log")
        yield tested(found, code)

    return [Case("pytest", run)]


def tested(report: Path, code: int | None) -> Row:
    """Return a row of a JUnit report. A run in which no test was executed has failed, whatever it exits with."""
    if not report.exists():
        return {"status": "failed" if code is not None else "out of time", "rc": code, "why": "pytest wrote no report"}
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    executed = len(cases) - len(skipped)
    row: Row = {"rc": code, "executed": executed, "failed": len(bad), "skipped": len(skipped)}
    if not executed:
        reasons = sorted({str(case.find("skipped").get("message"))[:200] for case in skipped})  # type: ignore[union-attr]
        return {"status": "failed", "why": f"no test was executed: {reasons[:3]}"} | row
    if bad:
        names = [f"{case.get('name')}: {_message(case)}" for case in bad[:20]]
        return {"status": "failed", "why": f"{len(bad)} tests failed", "tests": names} | row
    if code is None:
        return {"status": "out of time", "why": "pytest was interrupted"} | row
    return row if code == 0 else {"status": "failed", "why": f"pytest ended with {code}"} | row


def _message(case: ElementTree.Element) -> str:
    found = case.find("failure") if case.find("failure") is not None else case.find("error")
    return " ".join((found.get("message") or "").split())[:160] if found is not None else ""


def _sanitizer(chosen: argparse.Namespace) -> list[Case]:
    """p7: the few operations under compute-sanitizer, the products under ncu."""
    out = chosen.out.resolve()
    few = [sys.executable, str(Path(__file__).resolve()), "p2", "--here", "--few", "--out", str(out / "tools")]
    few += ["--smoke"] * chosen.smoke

    def check(tool: str) -> Callable[[], Row]:
        def run() -> Row:
            if shutil.which("compute-sanitizer") is None:
                return {"status": "skipped", "why": "compute-sanitizer is not installed"}
            told = out / f"{tool}.txt"
            code = limited(["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *few], 24, told)
            text = told.read_text(encoding="utf-8", errors="replace")
            found = [line for line in text.splitlines() if line.startswith("=========")]
            status = "out of time" if code is None else "ok" if code == 0 else "failed"
            return {"status": status, "rc": code, "said": found[:12], "last": found[-1:]}

        return run

    def profile() -> Row:
        if shutil.which("ncu") is None:
            return {"status": "skipped", "why": "ncu is not installed"}
        told = out / "ncu.csv"
        metrics = ("gpu__time_duration.sum,dram__throughput.avg.pct_of_peak_sustained_elapsed,"
                   "sm__throughput.avg.pct_of_peak_sustained_elapsed,sm__warps_active.avg.pct_of_peak_sustained_active,"
                   "smsp__issue_active.avg.pct_of_peak_sustained_active,launch__registers_per_thread")  # fmt: skip
        code = limited(
            ["ncu", "--clock-control", "none", "-k", "regex:products|sweep|beta", "-c", "12", "--csv", "--metrics",
             metrics, sys.executable, str(Path(__file__).resolve()), "p3", "--here", "--few", "--out",
             str(out / "tools")], 24, told
        )  # fmt: skip
        return {"status": "ok" if code == 0 else "failed", "rc": code, "why": None if code == 0 else _tail(told)}

    return [Case("memcheck", check("memcheck")), Case("ncu", profile), Case("racecheck", check("racecheck"))]


PHASES: dict[str, Callable[[argparse.Namespace], list[Case]]] = {
    "p0": _card, "p1": _compiling, "p2": _operations, "p3": _kernels, "p4": _host, "p5": _fits, "p6": _tests,
    "p7": _sanitizer,
}  # fmt: skip


# ---- what was found --------------------------------------------------------------------------------------------------


def summary(out: Path) -> str:
    """Return the rows of a folder as text: outcomes of phases, what failed, then the figures."""
    rows = list(rows_of(out))
    lines = []
    for row in rows:
        if row["phase"] == "all" and row["case"] in SECONDS:
            lines.append(f"{row['case']}: {row['status']}, {row.get('took_s', 0):.1f} s {_why(row)}".rstrip())
    for row in rows:
        if row["phase"] != "all" and (row["status"] not in ("ok", "skipped") or row.get("wrong")):
            lines.append(f"{row['phase']} {row['case']}: {'WRONG' if row.get('wrong') else row['status']} {_why(row)}")
    compiled = [row for row in rows if row["phase"] == "p1" and "kernels" in row]
    if compiled:
        spills = [f"{row['case']} {name}" for row in compiled for name, facts in row["kernels"].items()
                  if facts.get("local_size_bytes")]  # fmt: skip
        slowest = max(compiled, key=lambda row: row["took_s"])
        lines.append(f"p1: {len(compiled)} modules, the slowest {slowest['case']} {slowest['took_s']:.2f} s; "
                     f"local memory: {', '.join(spills) or 'none'}")  # fmt: skip
    operations = [row for row in rows if row["phase"] == "p2" and "error_eps" in row]
    for family in dict.fromkeys(row["family"] for row in operations):
        those = [row for row in operations if row["family"] == family]
        worst = max(those, key=lambda row: row["error_eps"] if row["error_eps"] is not None else float("inf"))
        lines.append(
            f"p2 {family}: {len(those)} operations, {sum(row['wrong'] for row in those)} wrong, "
            f"{sum(row.get('bits_as_emulator', False) for row in those)} with the emulator's bits, "
            f"worst {worst['error_eps']} ε ({worst['case']}; the emulator {worst['emulator_error_eps']} ε)"
        )
    for row in rows:
        if row["phase"] in ("p3", "p4", "p5", "p6", "p7") and row["status"] == "ok":
            lines.append(_line(row))
    return "\n".join(lines)


def _line(row: Row) -> str:
    """Return a row of figures on one line: what it is of, microseconds, the share of the floor, what is left."""
    facts = {key: value for key, value in row.items() if key not in ("phase", "case", "status", "at_s")}
    of = [str(facts.pop(key)) for key in ("problem", "solver", "stored", "kind", "where") if key in facts]
    of += [f"k={facts.pop('k')}"] if "k" in facts else []
    if "plain_us" in facts:  # of p3: what the host and the device take
        share, host = facts.get("share_of_floor"), facts.get("host_us")
        graph = "no graph" if facts.get("graph_us") is None else f"graph {_short(facts['graph_us'])}"
        told = f"{graph}, plain {_short(facts['plain_us'])}, host {_short(host)} µs"
        told += f", {share:.0%} of the floor" if share else ""
        return f"{row['phase']} {' '.join([row['case'], *of])}: {told}"
    return f"{row['phase']} {' '.join([row['case'], *of])}: " + " ".join(f"{k}={_short(v)}" for k, v in facts.items())


def _why(row: Row) -> str:
    return str(row.get("why") or "")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
