"""Contenders: one file each, holding one class derived from :class:`Contender`.

Files of this package are found by themselves; a library that is not installed makes its contender
unavailable, with the reason, and breaks nothing.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.problems import Problem


@dataclass(frozen=True)
class Task:
    """What is asked of a contender.

    Attributes
    ----------
    problem : Problem
        The data.
    k : int
        Number of components.
    solver : str
        "cd", "mu", "hals" or "minibatch" (the estimator MiniBatchNMF); a contender skips what it
        does not know.
    beta : float
        The beta-divergence: 2 Frobenius, 1 Kullback-Leibler, 0 Itakura-Saito.
    call : str
        "factorise": factors only, by the shortest call; "fit": the estimator's fit;
        "fit+transform": fit, then transform of the same X, as the notebooks do.
    init : str or None
        "custom" starts from W0 and H0, anything else is the contender's own; None its default.
    W0, H0 : ndarray, shape (n_samples, k) and (k, n_features), or None
        The shared start, read-only float64.
    tol, max_iter, seed :
        As in scikit-learn; tol=0 runs max_iter iterations.
    """

    problem: Problem
    k: int
    solver: str = "cd"
    beta: float = 2.0
    call: str = "factorise"
    init: str | None = "custom"
    W0: np.ndarray | None = field(default=None, repr=False)
    H0: np.ndarray | None = field(default=None, repr=False)
    tol: float = 0.0
    max_iter: int = 200
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """What came back: factors, iterations done, and codes of a second pass where one was asked."""

    W: np.ndarray = field(repr=False)
    H: np.ndarray = field(repr=False)
    n_iter: int
    codes: np.ndarray | None = field(default=None, repr=False)


class Contender:
    """One library's way to do a :class:`Task`.

    Attributes
    ----------
    name : str
        Shown in tables and records.
    module : str
        What is imported in a fresh process to use it.
    package : str
        Distribution whose version is recorded.
    entry : str
        A name of `module` to ask for: a package that imports lazily fails only then.
    solvers : tuple of str
        What the figures that compare algorithms may ask of it, as in `Task.solver`.
    drop_in : bool
        Whether it keeps scikit-learn's API and iterates: only these take part in the figures that
        compare the same work.
    threads : int
        How many it may use, set by the run; for libraries that threadpoolctl does not reach.
    """

    name: str
    module: str
    package: str
    entry: str
    solvers: tuple[str, ...] = ()
    drop_in: bool = False
    threads: int = 2

    def unavailable(self) -> str | None:
        """Return why this contender cannot run at all, or None."""
        try:
            getattr(importlib.import_module(self.module), self.entry)
        except Exception as error:  # any failure at import is a reason, not a crash of the suite
            return f"cannot import {self.module}: {type(error).__name__}: {error}"
        return None

    def skip(self, task: Task) -> str | None:
        """Return why this contender cannot do the task, or None."""
        if task.solver not in self.solvers:
            return f"{self.name} has no solver {task.solver!r}"
        return None

    def prepare(self, task: Task) -> Any:
        """Do what must not be timed, such as copies of a start that the library overwrites."""
        return None

    def run(self, task: Task, prepared: Any) -> Result:
        """Do the task. This is what the clock measures."""
        raise NotImplementedError


def shared_start(problem: Problem, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return a read-only random start, scaled to the data, the same for every contender.

    Returns
    -------
    W0, H0 : ndarray of float64, shape (n_samples, k) and (k, n_features)
    """
    n, m = problem.X.shape
    rng = np.random.RandomState(seed)
    scale = np.sqrt(float(problem.X.sum(dtype=np.float64)) / (n * m) / k)
    H0 = scale * np.abs(rng.standard_normal((k, m)))
    W0 = scale * np.abs(rng.standard_normal((n, k)))
    for factor in (W0, H0):
        # float32 values in float64 arrays: every contender starts from the very same numbers
        factor[:] = factor.astype(np.float32)
        factor.flags.writeable = False
    return W0, H0


def discover() -> dict[str, Contender]:
    """Return every contender of this package by name, scikit-learn (the reference) first."""
    found = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for kind in vars(module).values():
            if (
                isinstance(kind, type)
                and issubclass(kind, Contender)
                and kind.__module__ == module.__name__
                and hasattr(kind, "name")
            ):
                found[kind.name] = kind()
    return dict(sorted(found.items(), key=lambda item: (item[0] != REFERENCE, item[0])))


REFERENCE = "scikit-learn"
