"""Make the files that travel with `benchmarks/device.py`, on a machine without a card.

::

    python benchmarks/goldens/make.py               # operations.json, operations.npz, modules.json: two minutes
    python benchmarks/goldens/make.py --fits        # fits.json: errors of fits on the CPU, some more minutes

Needed again when a CUDA source or an operation changes: the rows of a run say whether the files belong to the sources.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.card import GOLDENS, Case, fits, kernels, operations, stand_in  # noqa: E402


def main() -> int:
    """Make what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fits", action="store_true", help="the errors of fits on the CPU instead")
    chosen = parser.parse_args()
    started = time.perf_counter()
    if chosen.fits:
        _write("fits.json", fits.references())
    else:
        stand_in()
        modules = _recorded()
        facts, arrays = of_operations()
        _use_all_modules()
        _write("operations.json", facts)
        np.savez_compressed(GOLDENS / "operations.npz", **arrays)
        _write("modules.json", sorted(modules.values(), key=lambda each: json.dumps(each)))
    print(f"{time.perf_counter() - started:.0f} s")
    return 0


def of_operations() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Run every operation on the emulator → what is known of each, and the arrays that are kept."""
    facts, arrays = {}, {}
    for operation in operations.operations():
        given = operation.made()
        found, answers = operations.computed(operation, given), operation.answer(given)
        off = max(operations.error(found[name], answers[name], operation.compute) for name in found)
        if not off < 1e4:
            raise SystemExit(f"{operation.name}: the emulator is off by {off:.3g} ε, which is no golden answer")
        facts[operation.name] = {
            "inputs": operations.digest(given), "bits": operations.digest(found), "error_eps": round(off, 3),
        }  # fmt: skip
        for name in found:
            if operation.slow:
                arrays[f"{operation.name}/answer/{name}"] = np.atleast_1d(answers[name])
            if operation.kept:
                arrays[f"{operation.name}/bits/{name}"] = found[name]
        print(f"{operation.name}: {off:.3g} ε", flush=True)
    return {"sources": operations.sources(), "operations": facts}, arrays


def _use_all_modules() -> None:
    """Run, at small sizes, what the figures run: the modules that they need are written down."""
    figures = kernels.Kernels(smoke=True)
    figures.widths = kernels.WIDTHS
    wanted = [case for k in kernels.WIDTHS for case in figures._products(k)]
    wanted += [Case(f"{part.__name__} {k}", lambda part=part, k=k: part(k))
               for part in (figures.steps, figures.beta) for k in (15, 64)]  # fmt: skip
    wanted += [Case("opening", figures.opening), Case("search", figures.search)]
    small = fits.Fits(smoke=True)
    wanted += [
        Case(f"{solver} {stored} {k}", lambda v=solver, s=stored, k=k: small.passes("mnist", v, s, k))
        for solver in fits.SOLVERS for stored in ("uint8", "float32") for k in (15, 64)
    ]  # fmt: skip
    wanted.append(Case("call", lambda: small.call("mnist")))
    for case in wanted:
        list(case.run())
        print(case.name, flush=True)


def _recorded() -> dict[str, dict[str, Any]]:
    """Let every module that is compiled from now on be written down: source, options, kernels."""
    from nmfcore.backends import cuda

    xp, found = cuda.cupy(), {}
    plain = xp.RawModule

    class Recorded:
        def __init__(self, code: str, options: tuple[str, ...]):
            self._module = plain(code=code, options=options)
            name, macros = operations.taken_apart(code)
            self._facts = found.setdefault(code, {"source": name, "macros": macros, "kernels": []})

        def get_function(self, name: str) -> Any:
            if name not in self._facts["kernels"]:
                self._facts["kernels"].append(name)
            return self._module.get_function(name)

    xp.RawModule = Recorded
    return found


def _write(name: str, facts: Any) -> None:
    lines = json.dumps(facts, ensure_ascii=False, indent=0)
    (GOLDENS / name).write_text(lines + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
