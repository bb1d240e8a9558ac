"""Cosine search: batches and single queries, against the bare product, faiss, scikit-learn and a notebook's loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np

from benchmarks.contenders import Task
from benchmarks.harness import Context, Row, describe_case, summary

ABOUT = (
    "The nine most similar rows of a database to each query, exactly: seconds per query, 4,000 queries at a time and "
    "one alone (median of nine, one after another). *bare product*: the float32 product of the queries and unit rows, "
    "which leaves the search still to do. *faiss*: IndexFlatIP of unit rows. *scikit-learn*: "
    "NearestNeighbors(metric='cosine'). *loop*: a cosine per row in Python and a sort, as notebooks have it. Codes are "
    "of a fit (20 passes of hals); where a database has more rows than its pictures, they are mixtures of two codes. "
    "Rows found are compared with faiss' and scikit-learn's by their float64 scores before a time is told."
)
TOP, BATCH = 9, 4000
CALLS, ALONE = 2, 10  # in a turn, of batches and of single queries; the first of them does not count: threads of the
# contender before still spin in wait for work then, and cost the next one up to a half of its cores
Answer = Callable[[np.ndarray], np.ndarray]


def run(context: Context) -> Iterator[list[Row]]:
    for name, k, rows in context.cases((("cats", 50, 15747), ("mnist", 15, 70000)), smoke=1):
        problem = context.problem(name, "uint8")
        rows = rows if context.real_size else problem.X.shape[0]
        codes = _codes(problem.X, min(k, 8) if context.smoke else k, rows)
        task = context.task(problem, codes.shape[1], max_iter=1)
        yield list(_batches(context, task, codes))
        yield list(_single(context, task, codes))


def _codes(X: np.ndarray, k: int, rows: int) -> np.ndarray:
    from nmfcore import NMF

    W = NMF(k, solver="hals", max_iter=20, tol=0, random_state=0).fit_transform(X)
    rng = np.random.RandomState(0)
    while len(W) < rows:
        a, b = rng.randint(0, len(W), (2, min(len(W), rows - len(W))))
        W = np.vstack([W, rng.rand(len(a), 1).astype(W.dtype) * W[a] + W[b]])
    return np.ascontiguousarray(W[:rows], np.float32)


def _unit(A: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(A, axis=1, keepdims=True)
    return np.divide(A, norms, out=np.zeros_like(A), where=norms > 0)


def _answers(codes: np.ndarray, threads: int) -> dict[str, Answer | str]:
    """Return what finds the best rows, or why it cannot, prepared for one database."""
    from nmfcore.search.index import CosineIndex

    units, index = _unit(codes), CosineIndex(codes, n_jobs=threads)

    def bare(queries: np.ndarray) -> np.ndarray:
        return (queries @ units.T)[:, :0]

    from sklearn.neighbors import NearestNeighbors

    neighbours = NearestNeighbors(n_neighbors=TOP, metric="cosine", algorithm="brute", n_jobs=threads).fit(codes)
    answers: dict[str, Answer | str] = {
        "bare product": bare,
        "scikit-learn": lambda queries: neighbours.kneighbors(queries, return_distance=False),
        "nmfcore": lambda queries: index.search(queries, TOP)[1],
    }
    try:
        import faiss
    except ImportError:
        answers["faiss"] = "faiss-cpu is not installed"
    else:
        faiss.omp_set_num_threads(threads)
        flat = faiss.IndexFlatIP(codes.shape[1])
        flat.add(units)
        answers["faiss"] = lambda queries: flat.search(_unit(queries), TOP)[1]
    return answers


def _loop(codes: np.ndarray) -> Answer:
    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        norms = np.linalg.norm(a) * np.linalg.norm(b)
        return float(np.dot(a, b) / norms) if norms else 0.0

    def answer(queries: np.ndarray) -> np.ndarray:
        found = []
        for query in queries:
            scores = [(i, cosine(query, code)) for i, code in enumerate(codes)]
            found.append([i for i, _ in sorted(scores, key=lambda pair: -pair[1])[:TOP]])
        return np.array(found)

    return answer


def _wrong(queries: np.ndarray, codes: np.ndarray, rows: np.ndarray, exact: np.ndarray, slack: float) -> str:
    """Say why rows are not the best ones: their float64 scores, place by place, against those of `exact`."""
    if rows.shape[1] == 0:
        return ""
    Q, X = _unit(queries.astype(np.float64)), _unit(codes.astype(np.float64))
    found, best = (np.einsum("qm,qkm->qk", Q, X[numbers]) for numbers in (rows, exact))
    short = float((np.sort(best, axis=1) - np.sort(found, axis=1)).max())
    return "" if short <= slack else f"scores fall short of the best by {short:.2g}"


def _measure(
    context: Context, task: Task, case: str, codes: np.ndarray, answers: dict[str, Answer | str], batch: int
) -> Iterator[Row]:
    queries = codes[np.random.RandomState(1).choice(len(codes), min(batch, len(codes)), replace=False)]
    rows = {name: describe_case(task, case, "s", name) for name in answers}
    exact = answers["nmfcore"](queries)  # type: ignore[operator]
    able: dict[str, Answer] = {}
    for name, answer in answers.items():
        if isinstance(answer, str):
            rows[name].update(status="skipped", why=answer)
            continue
        start = time.perf_counter()
        found = answer(queries)
        rows[name]["warm_up"] = {"cold_s": time.perf_counter() - start, "warm_s": time.perf_counter() - start}
        # either way: ours may be no worse than theirs, theirs may err by float32's rounding
        why = _wrong(queries, codes, found, exact, 1e-5) or (
            _wrong(queries, codes, exact, found, 1e-12) if found.size else ""
        )
        rows[name]["check"] = {"ok": not why, "why": why}
        if why:
            rows[name].update(status="WRONG", why=why)
        else:
            able[name] = answer
    values: dict[str, list[float]] = {name: [] for name in able}
    rng = np.random.RandomState(0)
    for _ in range(context.repeats):
        for name in rng.permutation(list(able)):
            answer, times = able[name], []
            for _ in range(2 if name == "loop" else CALLS if batch > 1 else ALONE):
                start = time.perf_counter()
                answer(queries)
                times.append(time.perf_counter() - start)
            values[name].append(median(times[1:]) / len(queries))
    for name in able:
        rows[name].update(status="ok", **summary(values[name]), limits=dict(context.limits.values))
        if "scikit-learn" in able and name != "scikit-learn":
            ratios = [a / b for a, b in zip(values["scikit-learn"], values[name], strict=True)]
            rows[name]["ratio"] = {
                "of": "scikit-learn",
                "median": median(ratios),
                "min": min(ratios),
                "max": max(ratios),
            }
    yield from rows.values()
    for other, most in (("bare product", 1.4), ("faiss", 1.0)):
        if other in able and "nmfcore" in able and batch > 1:
            row = describe_case(task, f"{case}, over {other}", "×", "nmfcore")
            ratios = [a / b for a, b in zip(values["nmfcore"], values[other], strict=True)]
            row.update(
                status="ok", check={"ok": True, "why": ""}, **summary(ratios), limits=dict(context.limits.values)
            )
            if context.real_size:
                row["target"] = {"value": most}
            yield row


def _batches(context: Context, task: Task, codes: np.ndarray) -> Iterator[Row]:
    answers = _answers(codes, context.threads)
    yield from _measure(context, task, f"{len(codes):,} codes, 4,000 queries, top {TOP}", codes, answers, BATCH)


def _single(context: Context, task: Task, codes: np.ndarray) -> Iterator[Row]:
    answers: dict[str, Any] = {**_answers(codes, context.threads), "loop": _loop(codes)}
    for row in _measure(context, task, f"{len(codes):,} codes, one query, top {TOP}", codes, answers, 1):
        if context.real_size and row["contender"] == "nmfcore" and row["unit"] == "s":
            row["target"] = {"value": 1e-3}
        yield row
