"""What a user waits for before the first iteration: import, compilation, a whole short process, the command."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.contenders import REFERENCE, Contender
from benchmarks.harness import Context, Row, child, describe_case, pairwise, summary

ABOUT = (
    "Fresh processes, taking turns. Import: seconds of the import statement. Warm process: wall "
    "time of a whole process that imports, fits the digits with k=10 and exits, kernels in the "
    "on-disk cache. Cold: the first fit of a process with an empty kernel cache. Command: the wall time of "
    "`nmfcore fit` without arguments, with an empty kernel cache and with the one that it has filled. "
    "Ratios below 1 mean slower than scikit-learn."
)
IMPORT = """
import time
start = time.perf_counter()
{statement}
print(time.perf_counter() - start)
"""
FIT = """
import json, time
from {module} import NMF
from sklearn.datasets import load_digits
X = load_digits().data
start = time.perf_counter()
model = NMF(10, random_state=0{settings}).fit(X)
seconds = time.perf_counter() - start
print(json.dumps({{"fit_s": seconds, "error": float(model.reconstruction_err_)}}))
"""
COMMAND = """
import json, sys, tempfile, time
from pathlib import Path
from nmfcore.cli import main
with tempfile.TemporaryDirectory() as folder:
    code = main(["fit", "--out", str(Path(folder) / "digits")])
print(json.dumps({{"code": code}}))
"""
IMPORT_RATIO = 1 / 1.2  # nmfcore may take 1.2 × the time
PROCESS_RATIO = 1 / 1.5
COLD_SECONDS = 10.0
COMMAND_SECONDS = {"cold": 4.0, "warm": 1.5}
ERROR_MAY_DIFFER = 1e-6


def run(context: Context) -> Iterator[list[Row]]:
    # both statements: a package that imports lazily pays at the first name
    for statement in context.cases(("from {module} import NMF", "import {module}"), smoke=1):
        code = IMPORT.replace("{statement}", statement)
        yield _turns(context, statement.format(module="…"), code, {}, IMPORT_RATIO)
    with tempfile.TemporaryDirectory(prefix="nmfcore-bench-cache-") as caches:
        yield from _cold(context, Path(caches))
        # the cache that the first cold fit has filled
        warm = {"NUMBA_CACHE_DIR": str(Path(caches) / "cd-0")}
        yield _turns(context, "warm process, digits", FIT, warm, PROCESS_RATIO)
        if not context.smoke:
            yield _command(context, Path(caches))


def _turns(context: Context, case: str, code: str, environment: dict[str, str], ratio: float) -> list[Row]:
    """Let the contenders take turns with the code in fresh processes, after one unmeasured run."""
    whole_process = code is FIT
    rows, able = _rows(context, case)
    values: dict[str, list[float]] = {name: [] for name in able}
    told: dict[str, list] = {name: [] for name in able}
    # turn 0 fills the kernel cache, the .pyc files and the page cache
    turns = range(1, 2) if context.smoke else range(max(9, context.repeats) + 1)
    for turn in turns:
        for name, contender in able.items():
            text = code.format(module=contender.module, settings="")
            wall, said = child(text, threads=context.threads, environment=environment)
            if turn:
                values[name].append(wall if whole_process else said)
                told[name].append(said)
    for name, measured in values.items():
        row = rows[name]
        row.update(status="ok", **summary(measured))
        if name == REFERENCE:
            continue
        if whole_process and REFERENCE in told:
            _judge(row, told[name][0]["error"], told[REFERENCE][0]["error"])
        if context.real_size:
            row["target"] = {"ratio": ratio}
        if REFERENCE in values:
            row["ratio"] = pairwise(values[REFERENCE], measured)
    return list(rows.values())


def _cold(context: Context, caches: Path) -> Iterator[list[Row]]:
    """Time the first fit of a process whose kernel cache is empty, and of the next process."""
    fits = (
        ("cd", "", {}),
        ("mu", ", solver='mu', beta_loss=1, max_iter=20", {"beta": 1.0, "max_iter": 20}),
    )
    for solver, text, settings in context.cases(fits, smoke=1):
        case = f"cold first fit, {solver}"
        rows, able = _rows(context, case, solver=solver, **settings)
        for name, contender in able.items():
            code = FIT.format(module=contender.module, settings=text)
            first, again = [], []
            for number in range(1 if context.smoke else 2):
                empty = {"NUMBA_CACHE_DIR": str(caches / f"{solver}-{number}")}
                # the reference fills the folder with nothing, so both may use the same
                first.append(child(code, threads=context.threads, environment=empty)[1])
                if not context.smoke:
                    again.append(child(code, threads=context.threads, environment=empty)[1])
            row = rows[name]
            row.update(status="ok", **summary([told["fit_s"] for told in first]))
            if again:
                row["warm_up"] = {"cold_s": first[-1]["fit_s"], "warm_s": again[-1]["fit_s"]}
            row["error"] = first[-1]["error"]
            if name == REFERENCE:
                continue
            if context.real_size:
                row["target"] = {"value": COLD_SECONDS}
            if REFERENCE in able:
                _judge(row, row["error"], rows[REFERENCE]["error"])
        yield list(rows.values())


def _command(context: Context, caches: Path) -> list[Row]:
    """Time the README's command in fresh processes, which use as many processors as there are."""
    made: list[Row] = []
    cold, warm = [], []
    for number in range(3):
        kept = {"NUMBA_CACHE_DIR": str(caches / f"command-{number}")}
        cold.append(child(COMMAND.format(), threads=context.threads, environment=kept)[0])
        warm += [child(COMMAND.format(), threads=context.threads, environment=kept)[0] for _ in range(3)]
    for name, values in (("cold", cold), ("warm", warm)):
        rows, _ = _rows(context, f"nmfcore fit, {name}")
        rows["nmfcore"].update(status="ok", **summary(values), target={"value": COMMAND_SECONDS[name]})
        made.append(rows["nmfcore"])
    return made


def _rows(context: Context, case: str, **settings: Any) -> tuple[dict[str, Row], dict[str, Contender]]:
    rows, able = {}, {}
    settings = {"call": "fit", "init": None, "tol": 1e-4, **settings}
    task = context.task(context.problem("digits"), 10, **settings)
    for name, contender in context.drop_ins.items():
        rows[name] = describe_case(task, case, "s", name)
        reason = contender.unavailable()
        if reason:
            rows[name].update(status="skipped", why=reason)
        else:
            able[name] = contender
    return rows, able


def _judge(row: Row, error: float, expected: float) -> None:
    """Take the time back when the fit ended elsewhere than scikit-learn's."""
    ratio = error / expected
    row["check"] = {"ok": ratio <= 1 + ERROR_MAY_DIFFER, "loss_ratio": ratio}
    if not row["check"]["ok"]:
        for key in ("values", "median", "min", "max", "spread", "warm_up"):
            row.pop(key, None)
        row.update(status="WRONG", why=f"the error is {ratio:.7f} × scikit-learn's")
