"""Final errors, computed once: what a solver's quality is measured against.

scikit-learn's do not depend on the machine's speed, so they are kept in ``results/reference.json``
and computed again only where something they depend on changed. ``results/ends.json`` keeps two ends
of each problem that users have: that of one long run, and that of scikit-learn's call. ``python
benchmarks/run.py --reference --data …`` computes what is missing. The files are written after every
single run, so that it can be stopped at any time and goes on where it left off.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import scipy.sparse as sp

from benchmarks import evaluate, machine, problems

PATH = Path(__file__).resolve().parent / "results" / "reference.json"
ENDS_PATH = PATH.with_name("ends.json")
ABOUT = {
    PATH.name: "Final relative errors |X - WH| / |X| of scikit-learn, made by benchmarks/reference.py; "
    "seconds are wall time beside other work and say nothing about speed",
    ENDS_PATH.name: "Final relative errors |X - WH| / |X| of one long run of nmfcore's hals in float64, and of "
    "scikit-learn's cd from nndsvd with its default settings, made by benchmarks/reference.py; a long run ends "
    "after max_iter passes or max_time seconds, and n_iter says how far it came",
}


@dataclass(frozen=True)
class Starts:
    """A case with shared random starts: scikit-learn's ``cd``, tol=0, `max_iter`, float64."""

    problem: str
    k: int
    rows: int | None
    seeds: int
    max_iter: int = 1000

    @property
    def name(self) -> str:
        return f"{self.problem}{f'[:{self.rows}]' if self.rows else ''} k={self.k}"


@dataclass(frozen=True)
class Call:
    """A whole call as a notebook makes it, on the array as it is stored, `random_state` 0."""

    problem: str
    k: int
    init: str | None = None
    max_iter: int = 200
    tol: float = 1e-4

    @property
    def name(self) -> str:
        init = f"init={self.init}" if self.init else "default init"
        return f"{self.problem} k={self.k} {init} tol={self.tol:g} max_iter={self.max_iter}"


@dataclass(frozen=True)
class Ends:
    """A problem that users have: where a long run ends, and where scikit-learn's default call does.

    The long run: hals, float64, tol=0, `max_iter` passes or `max_time` seconds, ``init="auto"``, seed 0.
    """

    problem: str
    k: int
    rows: int | None = None
    max_iter: int = 3000
    max_time: float = 2000.0

    @property
    def name(self) -> str:
        return f"ends: {self.problem}{f'[:{self.rows}]' if self.rows else ''} k={self.k}"

    def load(self, folder: Path | None) -> problems.Problem:
        """Return the problem as it is stored."""
        return problems.load(self.problem, folder, rows=self.rows)


# Cheap ones first: what is stopped early has something of each.
STARTS = (
    Starts("cbcl-hoyer", 49, None, 10),
    Starts("bbc", 20, None, 10),
    Starts("mnist", 15, 10_000, 10),
    Starts("cats", 50, 1_500, 10),
)
FULL_STARTS = (Starts("mnist", 15, None, 3), Starts("cats", 50, None, 3))
CALLS = (
    Call("cats", 50),
    Call("cats", 50, "nndsvd", 20),
    Call("bbc", 20, "nndsvd"),
    Call("mnist", 15, "nndsvd", 1000),
    Call("mnist", 45, "nndsvd", 2000),
)
# By data set, cheap ones first.
ENDS = (
    Ends("piano", 30),
    Ends("random-spectra-0.02", 10),
    Ends("random-spectra-0.005", 10),
    Ends("random-spectra-tall", 10),
    Ends("china", 60),
    Ends("china", 200),
    Ends("cbcl", 49),
    Ends("cbcl", 150),
    Ends("bbc", 20),
    Ends("random-topics", 10),
    Ends("random-topics", 30),
    Ends("orl", 49),
    Ends("orl", 100),
    Ends("orl", 200),
    Ends("mnist", 15, 10_000),
    Ends("mnist", 45, 10_000),
    Ends("mnist", 100, 10_000),
    Ends("cats", 50, 4_000),
    Ends("cats", 150, 4_000, max_iter=1000),  # 3,000 passes take an hour on a busy machine of two cores
)


def random_start(X: Any, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Return the start that scikit-learn's ``init="random"`` draws for `seed` from float64 data.

    With :class:`numpy.random.RandomState` (seed), first H0 (k×m), then W0 (n×k), each
    :math:`\sqrt{\mathrm{mean}(X) / k}\,|z|`, z standard normal.

    Parameters
    ----------
    X : ndarray or sparse matrix, shape (n_samples, n_features)
    k : int
    seed : int

    Returns
    -------
    W0, H0 : ndarray of float64, shape (n_samples, k) and (k, n_features), read-only
    """
    rng = np.random.RandomState(seed)
    n, m = X.shape
    scale = np.sqrt(X.mean() / k)
    H0 = np.abs(scale * rng.standard_normal((k, m)))
    W0 = np.abs(scale * rng.standard_normal((n, k)))
    for factor in (W0, H0):
        factor.flags.writeable = False
    return W0, H0


def digest(*arrays: Any) -> str:
    """Return the SHA-256 of the arrays' bytes in C order; of CSR its data, indices and indptr."""
    state = hashlib.sha256()
    for array in arrays:
        if sp.issparse(array):
            # scipy picks the width of the indices; the matrix is the same
            parts = [array.data, array.indices.astype(np.int64), array.indptr.astype(np.int64)]
        else:
            parts = [array]
        for part in parts:
            for top in range(0, len(part), 4096):
                state.update(np.ascontiguousarray(part[top : top + 4096]).data)
    return state.hexdigest()


def read(path: Path = PATH) -> dict[str, Any]:
    """Return the runs that are kept, by key; none when there is no file."""
    return json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else {}


def key(case: Starts | Call | Ends, seed: int = 0, of: str = "long run") -> str:
    """Return the name under which a run is kept; of an `Ends` the long run's or scikit-learn's."""
    if isinstance(case, Ends):
        return f"{case.name}, {of}"
    return f"{case.name} seed={seed}" if isinstance(case, Starts) else case.name


def prepare(case: Starts, folder: Path | None) -> problems.Problem:
    """Return the case's problem in float64."""
    return problems.load(case.problem, folder, np.float64, case.rows)


def compute(folder: Path | None, results: Path = PATH.parent, only: str | None = None) -> int:
    """Compute what is missing or was computed from other bytes; return how many runs were.

    Parameters
    ----------
    folder : Path or None
        The data folder. Cases whose files are missing are left out: errors on generated data that
        stand in for others are nothing to keep.
    results : Path
        The folder of ``reference.json`` and ``ends.json``.
    only : str, optional
        Cases whose name contains this.
    """
    done = 0
    for file, runs in ((ENDS_PATH.name, _ends(folder, only or "")), (PATH.name, _order(folder, only or ""))):
        path = results / file
        for name, make in runs:
            record = make(read(path).get(name))
            if record is None:
                continue
            ours = record["solver"] == "hals"
            facts = machine.describe([*(["nmfcore"] if ours else []), "scikit-learn", "threadpoolctl"])
            if not ours:
                facts.pop("commit")  # nmfcore has no part in it
            _write(path, {**read(path), name: {**record, **facts}})
            done += 1
            print(f"{name}: error {record['error']:.8f}, {record['n_iter']} iterations, {record['seconds']:.0f} s")
    return done


def _write(path: Path, runs: dict[str, Any]) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    beside.write_text(json.dumps({"about": ABOUT[path.name], "runs": runs}, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def _ends(folder: Path | None, only: str) -> Iterator[tuple[str, Any]]:
    """Yield the key of each end and what computes it."""
    for case in ENDS:
        for of, end in ENDS_OF.items():
            if only in (name := key(case, of=of)):
                yield name, lambda kept, c=case, e=end: _end(c, e, folder, kept)


def _end(case: Ends, end: Any, folder: Path | None, kept: dict | None) -> dict[str, Any] | None:
    problem = case.load(folder)
    if problem.stands_in:
        print(f"{case.name}: left out, its files are missing")
        return None
    X_hash = digest(problem.X)
    if kept and kept["X_sha256"] == X_hash:
        return None
    described = {"problem": case.problem, "rows": case.rows, "k": case.k, "X_sha256": X_hash}
    return {**described, **end(case, problem.X)}


def long_run(case: Ends, X: Any) -> dict[str, Any]:
    """Return the end of a long run of hals, and its settings; each of its iterations is one pass, also of a small X."""
    from nmfcore import NMF
    from nmfcore.solvers import accelerated_hals

    settings = {"solver": "hals", "init": "auto", "tol": 0, "max_iter": case.max_iter, "random_state": 0}
    model = NMF(case.k, max_time=case.max_time, dtype=np.float64, **settings)
    with mock.patch.object(accelerated_hals, "SEVERAL", 1):
        W, H, n_iter, clocks = _timed(lambda: (model.fit_transform(X), model.components_, model.n_iter_))
    settings.update(max_time=case.max_time, dtype="float64", stop_reason=model.stop_reason_)
    return {**settings, "error": evaluate.loss(X, W, H), "n_iter": n_iter, **clocks}


def scikit_learn_end(case: Ends, X: Any) -> dict[str, Any]:
    """Return the end of scikit-learn's cd from nndsvd with its default settings, and these."""
    from sklearn.decomposition import NMF

    model = NMF(case.k, init="nndsvd", random_state=0)
    W, H, n_iter, clocks = _timed(lambda: (model.fit_transform(X), model.components_, model.n_iter_))
    settings = {name: model.get_params()[name] for name in ("solver", "init", "tol", "max_iter", "random_state")}
    return {**settings, "dtype": str(W.dtype), "error": evaluate.loss(X, W, H), "n_iter": n_iter, **clocks}


ENDS_OF = {"long run": long_run, "scikit-learn": scikit_learn_end}


def _order(folder: Path | None, only: str) -> Iterator[tuple[str, Any]]:
    """Yield the key of each run and what computes it: cheap starts, calls, the full data."""

    def starts(cases: tuple[Starts, ...]) -> Iterator[tuple[str, Any]]:
        for seed in range(max(case.seeds for case in cases)):
            for case in cases:
                if seed < case.seeds and only in case.name:
                    yield key(case, seed), lambda kept, c=case, s=seed: _from_start(c, s, folder, kept)

    yield from starts(STARTS)
    for call in CALLS:
        if only in call.name:
            yield key(call), lambda kept, c=call: _call(c, folder, kept)
    yield from starts(FULL_STARTS)


def _from_start(case: Starts, seed: int, folder: Path | None, kept: dict | None) -> dict[str, Any] | None:
    from sklearn.decomposition import non_negative_factorization

    problem = prepare(case, folder)
    if problem.generated:
        print(f"{key(case, seed)}: left out, its files are missing")
        return None
    X = problem.X
    W0, H0 = random_start(X, case.k, seed)
    hashes = {"X_sha256": digest(X), "start_sha256": digest(W0, H0)}
    if kept and all(kept[name] == value for name, value in hashes.items()):
        return None
    W, H, n_iter, clocks = _timed(
        lambda: non_negative_factorization(
            X,
            W=W0.copy(),
            H=H0.copy(),
            n_components=case.k,
            init="custom",
            solver="cd",
            tol=0,
            max_iter=case.max_iter,
        )
    )
    described = {"problem": case.problem, "rows": case.rows, "k": case.k, "seed": seed}
    settings = {"init": "custom", "solver": "cd", "tol": 0, "max_iter": case.max_iter, "dtype": "float64"}
    return {**described, **settings, **hashes, "error": evaluate.loss(X, W, H), "n_iter": n_iter, **clocks}


def _call(call: Call, folder: Path | None, kept: dict | None) -> dict[str, Any] | None:
    from sklearn.decomposition import NMF

    problem = problems.load(call.problem, folder)
    if problem.generated:
        print(f"{call.name}: left out, its files are missing")
        return None
    X = problem.X
    hashes = {"X_sha256": digest(X)}
    if kept and kept["X_sha256"] == hashes["X_sha256"]:
        return None

    def run() -> tuple[np.ndarray, np.ndarray, int]:
        model = NMF(call.k, init=call.init, tol=call.tol, max_iter=call.max_iter, random_state=0)
        W = model.fit_transform(X)
        return W, model.components_, model.n_iter_

    W, H, n_iter, clocks = _timed(run)
    described = {"problem": call.problem, "k": call.k, "init": call.init, "tol": call.tol}
    settings = {"solver": "cd", "max_iter": call.max_iter, "random_state": 0, "dtype": str(X.dtype)}
    return {**described, **settings, **hashes, "error": evaluate.loss(X, W, H), "n_iter": n_iter, **clocks}


def _timed(work: Any) -> tuple[np.ndarray, np.ndarray, int, dict[str, float]]:
    wall, processor = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # max_iter is reached on purpose
        W, H, n_iter = work()
    clocks = {
        "seconds": round(time.perf_counter() - wall, 2),
        "processor_seconds": round(time.process_time() - processor, 2),
    }
    return W, H, int(n_iter), clocks
