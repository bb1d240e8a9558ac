"""Every operation of the CUDA backend on small inputs: is it right, and how far is it from the emulator's bits?

Inputs come from `numpy.random.RandomState`, whose numbers are the same everywhere. `benchmarks/goldens` holds what the
emulator made of them, the float64 answers of the naive twins where these are slow, and digests of everything.
"""

from __future__ import annotations

import importlib
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from . import GOLDENS, ROOT, Case, Row

Arrays = dict[str, np.ndarray]

STORED = ("uint8", "uint16", "float16", "float32", "float64")
COMPUTE = ("float32", "float64")
WIDTHS = (1, 7, 15, 16, 17, 25, 31, 32, 33, 64, 65, 100, 130)
FEW_WIDTHS = (7, 33)
# where X begins in its memory, in numbers, and how many lie between its rows
LAYOUTS = {"aligned": (0, 0), "odd address": (1, 0), "odd rows": (0, 3)}
KEPT_WIDTHS = (15, 33)  # of products: the emulator's numbers are kept, not their digest alone


class Operation(NamedTuple):
    """One operation with one set of inputs."""

    name: str
    family: str
    compute: str
    inputs: Callable[[np.random.RandomState], Arrays]
    run: Callable[[Any, Any, dict[str, Any]], dict[str, Any]]  # (cuda_ops, cupy, inputs on the device) → results there
    answer: Callable[[Arrays], dict[str, Any]]  # naive twin: name → float64, or (float64, what errors are relative to)
    slow: bool = True  # the answer is kept
    kept: bool = True  # the emulator's numbers are kept
    few: bool = False  # one of the few for compute-sanitizer, and for the smoke run

    def made(self) -> Arrays:
        """Return the inputs, on the host."""
        return self.inputs(np.random.RandomState(zlib.crc32(self.name.encode())))


def numbers(random: np.random.RandomState, stored: str, *shape: int) -> np.ndarray:
    """Nonnegative numbers that use all bits of a type."""
    if stored.startswith("uint"):
        return random.randint(0, np.iinfo(stored).max + 1, shape).astype(stored)
    return (random.random_sample(shape) ** 2 * (random.random_sample(shape) < 0.8)).astype(stored)


def _reference() -> Any:
    if str(ROOT / "tests") not in sys.path:
        sys.path.insert(0, str(ROOT / "tests"))
    return importlib.import_module("reference")


# ---- the operations --------------------------------------------------------------------------------------------------


def _products(stored: str, compute: str, k: int, layout: str, n: int = 67, m: int = 71) -> Operation:
    start, gap = LAYOUTS[layout]

    def inputs(random: np.random.RandomState) -> Arrays:
        memory = numbers(random, stored, start + n * (m + gap))
        factors = {"F": random.random_sample((n, k)), "Ht": random.random_sample((m, k))}
        return {"memory": memory} | {name: F.astype(compute) for name, F in factors.items()}

    def cut(memory: Any) -> Any:
        return memory[start:].reshape(n, m + gap)[:, :m]

    def run(ops: Any, xp: Any, on: dict[str, Any]) -> dict[str, Any]:
        block = ops.cut(cut(on["memory"]), (0, n))
        out, XtF = xp.empty((n, k), on["F"].dtype), xp.zeros((m, k))
        ops.products(block, on["Ht"], out)
        ops.add_products(block, on["F"], XtF)
        return {"XHt": out, "XtF": XtF}

    def answer(given: Arrays) -> dict[str, Any]:
        X = cut(given["memory"]).astype(np.float64)
        F, Ht = (given[name].astype(np.float64) for name in ("F", "Ht"))
        return {"XHt": (X @ Ht, X @ Ht), "XtF": (X.T @ F, X.T @ F)}  # all numbers are nonnegative

    tall = " tall" if n > 67 else ""
    return Operation(
        f"products {stored} {compute} k={k} {layout}{tall}", "tensor" if _tensor(stored, compute, k) else "products",
        compute, inputs, run, answer, slow=False, kept=layout == "aligned" and k in KEPT_WIDTHS and not tall,
        few=k in FEW_WIDTHS and stored in ("uint8", "float32") and layout != "odd rows" and not tall
        and compute == "float32",
    )  # fmt: skip


def _tensor(stored: str, compute: str, k: int) -> bool:
    return k >= 25 and compute == "float32" and stored != "float64"


def _factor(random: np.random.RandomState, compute: str, n: int, k: int) -> np.ndarray:
    return (random.random_sample((n, k)) * (random.random_sample((n, k)) < 0.7)).astype(compute)


def _sweep(compute: str, k: int, n: int = 41, m: int = 45) -> Operation:
    def inputs(random: np.random.RandomState) -> Arrays:
        X = numbers(random, compute, n, m)
        return {"X": X, "F": _factor(random, compute, n, k), "Ht": _factor(random, compute, m, k)}

    def run(ops: Any, xp: Any, on: dict[str, Any]) -> dict[str, Any]:
        X, F, Ht = on["X"], on["F"], on["Ht"]
        out, XtF, FtF, stats = xp.empty_like(F), xp.zeros((m, k)), xp.zeros((k, k)), xp.zeros(ops.STATS)
        ops.descend(ops.cut(X, (0, n)), F, Ht, ops.gram(Ht), 0.03, 0.02, np.arange(k), 1, 0.0, out, XtF, FtF, stats)
        return {"out": out, "XtF": XtF, "FtF": FtF}

    def answer(given: Arrays) -> dict[str, Any]:
        ref = _reference()
        X, F, Ht = (given[name].astype(np.float64) for name in ("X", "F", "Ht"))
        out = ref.sweep(F, Ht.T @ Ht, X @ Ht, 0.03, 0.02, np.arange(k))[0]
        return {"out": out, "XtF": X.T @ out, "FtF": out.T @ out}

    return Operation(f"descend {compute} k={k}", "sweep", compute, inputs, run, answer, few=k == 7)


def _small_factor(compute: str, k: int, name: str, m: int = 45) -> Operation:
    def inputs(random: np.random.RandomState) -> Arrays:
        basis = random.random_sample((k + 9, k))
        return {"F": _factor(random, compute, m, k), "G": basis.T @ basis, "C": random.random_sample((m, k)) * k}

    def run(ops: Any, xp: Any, on: dict[str, Any]) -> dict[str, Any]:
        out, FtF, stats = xp.empty_like(on["F"]), xp.zeros((k, k)), xp.zeros(ops.STATS + 2 * k)
        if name == "sweep":
            ops.sweep(on["F"], on["G"], on["C"], 0.1, 0.2, np.arange(k), out, FtF, stats)
        else:
            ops.scale(on["F"], on["G"], on["C"], 0.1, 0.2, out, FtF, stats)
        return {"out": out, "FtF": FtF}

    def answer(given: Arrays) -> dict[str, Any]:
        F, G, C = (given[each].astype(np.float64) for each in ("F", "G", "C"))
        out = _reference().sweep(F, G, C, 0.1, 0.2)[0] if name == "sweep" else F * C / (F @ G + 0.1 + 0.2 * F)
        return {"out": out, "FtF": out.T @ out}

    return Operation(f"{name} {compute} k={k}", "small factor", compute, inputs, run, answer, few=k == 7)


def _beta(compute: str, beta: float, k: int, n: int = 35, m: int = 37) -> Operation:
    def inputs(random: np.random.RandomState) -> Arrays:
        X = numbers(random, compute, n, m) + np.asarray(0.1, compute)
        F, Ht = (random.random_sample(shape).astype(compute) + np.asarray(0.1, compute) for shape in ((n, k), (m, k)))
        return {"X": X, "F": F, "Ht": Ht}

    def run(ops: Any, xp: Any, on: dict[str, Any]) -> dict[str, Any]:
        X, F, Ht = on["X"], on["F"], on["Ht"]
        out, stats = xp.empty_like(F), xp.zeros(ops.STATS + 2 * k)
        N, D = xp.zeros((m, k)), xp.zeros((1 if beta == 1 else m, k))
        gamma = 1 / (2 - beta) if beta < 1 else 1 / (beta - 1) if beta > 2 else 1.0
        loss = ops.multiply_beta(
            ops.cut(X, (0, n)), F, Ht, beta, gamma, 0.1, 0.2, 0.0, True, True, out, N, D, stats
        )  # fmt: skip
        return {"out": out, "N": N, "D": D, "loss": loss}

    def answer(given: Arrays) -> dict[str, Any]:
        ref = _reference()
        X, F, Ht = (given[name].astype(np.float64) for name in ("X", "F", "Ht"))
        out = ref.mu_rows(X, F, Ht, beta, 0.1, 0.2)
        N, D = ref.mu_terms(X.T, Ht, out, beta)
        D = D[:1] if beta == 1 else D
        return {"out": out, "N": N, "D": D, "loss": np.asarray(ref.beta_divergence(X, F, Ht.T, beta))}

    return Operation(f"multiply β={beta:g} {compute} k={k}", "beta", compute, inputs, run, answer, few=k == 7)


def _rows_alone(compute: str, beta: float, k: int = 5, n: int = 9, m: int = 29) -> Operation:
    def inputs(random: np.random.RandomState) -> Arrays:
        return {"X": numbers(random, compute, n, m), "Ht": random.random_sample((m, k)).astype(compute)}

    def run(ops: Any, xp: Any, on: dict[str, Any]) -> dict[str, Any]:
        out, stats = xp.empty((n, k), on["Ht"].dtype), xp.zeros(ops.STATS + 2 * k)
        ops.code(ops.cut(on["X"], (0, n)), on["Ht"], beta, 1.0, 0.1, 0.2, 0.0, 0.0, 20, False, out, stats)
        return {"out": out}

    def answer(given: Arrays) -> dict[str, Any]:
        ref = _reference()
        X, Ht = (given[name].astype(np.float64) for name in ("X", "Ht"))
        return {"out": _coded(ref, X, Ht, beta)}

    return Operation(f"code β={beta:g} {compute}", "code", compute, inputs, run, answer, few=beta == 1)


def _coded(ref: Any, X: np.ndarray, Ht: np.ndarray, beta: float) -> np.ndarray:
    """Twenty multiplicative updates of the rows of W, from where `code` begins: √(mean of the row / k)."""
    from nmfcore.backends import cpu

    out, stats = np.empty((len(X), Ht.shape[1])), np.zeros(cpu.STATS + 2 * Ht.shape[1])
    cpu.code(cpu.cut(X, (0, len(X)), 64), Ht, beta, 1.0, 0.1, 0.2, 0.0, 0.0, 20, False, out, stats)
    return out


def _opening(stored: str, n: int = 150, m: int = 61) -> Operation:
    def inputs(random: np.random.RandomState) -> Arrays:
        return {"X": numbers(random, stored, n, m)}

    def run(ops: Any, xp: Any, on: dict[str, Any]) -> dict[str, Any]:
        squares = xp.empty(n)
        ops.squares(ops.cut(on["X"], (0, n)), squares)
        return {"seen": ops.opening(ops.cut(on["X"], (0, n)), np.dtype(np.float64)), "squares": squares}

    def answer(given: Arrays) -> dict[str, Any]:
        X = given["X"].astype(np.float64)
        return {"seen": np.array([X.min(), 0, X.sum(), (X * X).sum()]), "squares": (X * X).sum(axis=1)}

    return Operation(f"opening {stored}", "opening", "float64", inputs, run, answer, few=stored == "uint8")


def _nearest(compute: str, m: int, q: int = 21, n: int = 300, k: int = 5) -> Operation:
    def inputs(random: np.random.RandomState) -> Arrays:
        return {"X": _factor(random, compute, n, m), "queries": random.random_sample((q, m))}

    def run(ops: Any, xp: Any, on: dict[str, Any]) -> dict[str, Any]:
        block, of_rows, of_queries = ops.cut(on["X"], (0, n)), xp.empty(n), xp.empty(q)
        ops.squares(block, of_rows)
        ops.squares(ops.cut(on["queries"], (0, q)), of_queries)
        scores, rows = ops.nearest(
            block, of_rows, on["queries"], of_queries, k, 1.0, -np.inf, 1e-4, None, xp.zeros((q, 0), np.int64),
            np.dtype(compute),
        )  # fmt: skip
        return {"scores": scores, "rows": rows}

    def answer(given: Arrays) -> dict[str, Any]:
        scores, rows = _reference().cosine_topk(given["queries"], given["X"].astype(np.float64), k)
        return {"scores": np.asarray(scores), "rows": np.asarray(rows, np.float64)}

    return Operation(f"nearest {compute} m={m}", "nearest", "float64", inputs, run, answer, few=m == 15)


def _sparse(compute: str, k: int, n: int = 61, m: int = 53) -> Operation:
    def inputs(random: np.random.RandomState) -> Arrays:
        X = numbers(random, compute, n, m) * (random.random_sample((n, m)) < 0.3)
        counts = (X != 0).sum(axis=1)
        F, Ht = (random.random_sample(shape).astype(compute) + np.asarray(0.1, compute) for shape in ((n, k), (m, k)))
        return {
            "data": X[X != 0].astype(compute), "indices": np.nonzero(X)[1].astype(np.int32),
            "indptr": np.concatenate([[0], np.cumsum(counts)]).astype(np.int32), "F": F, "Ht": Ht,
        }  # fmt: skip

    def run(ops: Any, xp: Any, on: dict[str, Any]) -> dict[str, Any]:
        block = ops.Block(on["data"], n, m, on["indptr"], on["indices"])
        out, numerators = xp.empty((n, k), on["F"].dtype), xp.empty((n, k), on["F"].dtype)
        ops.products(block, on["Ht"], out)
        ops.kl_numerators(block, on["F"], on["Ht"], numerators)
        return {"XHt": out, "ratios": numerators}

    def answer(given: Arrays) -> dict[str, Any]:
        X = np.zeros((n, m))
        X[np.repeat(np.arange(n), np.diff(given["indptr"])), given["indices"]] = given["data"]
        F, Ht = (given[name].astype(np.float64) for name in ("F", "Ht"))
        return {"XHt": X @ Ht, "ratios": (X / (F @ Ht.T)) @ Ht}

    return Operation(f"sparse {compute} k={k}", "sparse", compute, inputs, run, answer, slow=False, few=k == 7)


def operations() -> list[Operation]:
    """Return all of them, by family."""
    made = [
        _products(stored, compute, k, layout)
        for stored in STORED for compute in COMPUTE for k in WIDTHS for layout in LAYOUTS
    ]  # fmt: skip
    made += [
        _products(stored, compute, k, "aligned", n=601)
        for stored in STORED for compute in COMPUTE for k in KEPT_WIDTHS
    ]  # fmt: skip
    for compute in COMPUTE:
        made += [_sweep(compute, k) for k in WIDTHS]
        made += [_small_factor(compute, k, name) for name in ("sweep", "scale") for k in (7, 15, 33, 64)]
        made += [_beta(compute, beta, k) for beta in (0.5, 1, 1.5, 3) for k in (7, 15, 33)]
        made += [_rows_alone(compute, beta) for beta in (1, 1.5, 2)]
        made += [_nearest(compute, m) for m in (7, 15, 33, 70)]
        made += [_sparse(compute, k) for k in (7, 15, 70)]
    made += [_opening(stored) for stored in STORED]
    return made


def families() -> list[str]:
    """Return the names of the families, in order."""
    return list(dict.fromkeys(operation.family for operation in operations()))


# ---- comparing -------------------------------------------------------------------------------------------------------


def digest(arrays: Arrays) -> int:
    """Return a CRC-32 of arrays, by name."""
    crc = 0
    for name in sorted(arrays):
        crc = zlib.crc32(np.ascontiguousarray(arrays[name]), crc)
    return crc


def computed(operation: Operation, given: Arrays) -> Arrays:
    """Run an operation where `cuda.cupy()` computes → its results on the host."""
    from nmfcore.backends import cuda, cuda_ops

    xp = cuda.cupy()
    found = operation.run(cuda_ops, xp, {name: xp.asarray(array) for name, array in given.items()})
    return {name: np.atleast_1d(cuda_ops.to_numpy(array)) for name, array in found.items()}


def error(found: np.ndarray, answer: Any, compute: str) -> float:
    """Return the largest error in units of the compute type's ε, relative to what comes with the answer.

    Relative to the largest number of the answer where nothing comes with it; infinite where a result is no number.
    """
    answer, scale = answer if isinstance(answer, tuple) else (answer, None)
    answer = np.atleast_1d(answer)
    scale = np.abs(answer).max(initial=0.0) if scale is None else scale
    off = np.abs(found.astype(np.float64) - answer)
    worst = float(np.max(off / np.maximum(np.abs(scale), 1e-300), initial=0.0, where=off > 0)) if answer.size else 0.0
    return worst / float(np.finfo(compute).eps) if np.isfinite(found.astype(np.float64)).all() else float("inf")


class Goldens:
    """What the emulator and the naive twins made of the inputs; of nothing if it was never made."""

    def __init__(self) -> None:
        facts, kept = GOLDENS / "operations.json", GOLDENS / "operations.npz"
        self.facts: dict[str, Any] = json.loads(facts.read_text(encoding="utf-8")) if facts.exists() else {}
        self.arrays: Arrays = dict(np.load(kept)) if kept.exists() else {}
        self.current = self.facts.get("sources") == sources()

    def of(self, operation: Operation) -> dict[str, Any]:
        """Return what is known of an operation: digests of its inputs and results, the emulator's error."""
        return self.facts.get("operations", {}).get(operation.name, {})

    def answer(self, operation: Operation, given: Arrays) -> dict[str, Any]:
        """Return the float64 answers: kept, or made here."""
        prefix = f"{operation.name}/answer/"
        kept = {key.removeprefix(prefix): value for key, value in self.arrays.items() if key.startswith(prefix)}
        return kept if operation.slow and kept else operation.answer(given)


def sources() -> int:
    """Return a CRC-32 of the CUDA sources: whether goldens were made of these."""
    crc = 0
    for _, text in sorted(source_texts().items()):
        crc = zlib.crc32(text.encode(), crc)
    return crc


def source_texts() -> dict[str, str]:
    """Return the CUDA sources by name, as CuPy gets them: in ASCII."""
    found = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "nmfcore" / "backends").rglob("*.cu")}
    return {name: "".join(sign if sign.isascii() else "_" for sign in text) for name, text in found.items()}


def taken_apart(code: str) -> tuple[str, list[tuple[str, str]]]:
    """Return which CUDA source a module is made of, and the macros in front of it."""
    macros, _, text = code.partition("#line 1\n")
    name = next(name for name, source in source_texts().items() if source == text)
    return name, [(name, value) for _, name, value in (line.split(" ", 2) for line in macros.splitlines())]


def compared(operation: Operation, goldens: Goldens) -> Row:
    """Run an operation and compare it with its answer, and with the emulator."""
    given, known = operation.made(), goldens.of(operation)
    found = computed(operation, given)
    answers = goldens.answer(operation, given)
    errors = {name: error(found[name], answers[name], operation.compute) for name in found}
    row: Row = {
        "family": operation.family, "error_eps": max(errors.values()), "errors_eps": errors,
        "emulator_error_eps": known.get("error_eps"),
    }  # fmt: skip
    if known:
        row["inputs_as_golden"] = digest(given) == known["inputs"]
        row["bits_as_emulator"] = digest(found) == known["bits"]
    off = {}
    for name in found:
        bits = goldens.arrays.get(f"{operation.name}/bits/{name}")
        if bits is not None and known and row["inputs_as_golden"]:
            off[name] = error(found[name], bits.astype(np.float64), operation.compute)
    if off:
        row["off_emulator_eps"] = max(off.values())
    # twice the emulator's error and some: other roundings of the same sums
    row["wrong"] = not row["error_eps"] <= 4 * (known.get("error_eps") or 0.0) + 24
    row["goldens_current"] = goldens.current
    return row


def cases(family: str | None = None, few: bool = False) -> Iterator[Case]:
    """Yield a case for each operation of a family, or of all."""
    goldens = Goldens()
    for operation in operations():
        if family in (None, operation.family) and (operation.few or not few):
            yield Case(operation.name, lambda operation=operation: compared(operation, goldens))
